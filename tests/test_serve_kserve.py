"""Another public client of the protocol, KServe's own SDK, against the embedded server.

The SDK brings many packages, so it lives in an environment of its own and runs as a process:

    python3 -m venv kserve-env && kserve-env/bin/pip install kserve
    KSERVE_PYTHON=kserve-env/bin/python python -m pytest tests/test_serve_kserve.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from certificates import Authority
from serve_cases import MOODY, bundle, check_serves, expected, picture, running

from splitdeploy.cloud_runtime.tls import ServerTls

PYTHON = os.environ.get("KSERVE_PYTHON", sys.executable)
PROGRAM = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

told = json.load(sys.stdin)

async def main():
    client = InferenceGRPCClient(told["url"], timeout=30, **told["tls"])
    live, ready = await client.is_server_live(), await client.is_server_ready()
    model = await client.is_model_ready(told["model"])
    answers = []
    for raw in (True, False):
        inputs = []
        for name, values in told["inputs"].items():
            array = np.array(values, np.float32)
            entry = InferInput(name, list(array.shape), "FP32")
            if raw:
                entry.set_data_from_numpy(array, binary_data=True)
            else:
                entry = InferInput(name, list(array.shape), "FP32", array.ravel().tolist())
            inputs.append(entry)
        request = InferRequest(told["model"], inputs, request_id="kserve-1")
        answer = await client.infer(request)
        output = answer.outputs[0]
        answers.append({
            "id": answer.id, "name": output.name, "values": output.as_numpy().tolist(),
            "parameters": sorted(answer.parameters),
        })
    try:
        await client.infer(InferRequest("none", inputs))
        refusal = ""
    except Exception as error:
        refusal = str(error)
    await client.close()
    print(json.dumps([live, ready, model, answers, refusal]))

asyncio.run(main())
"""


def kserve_is_there() -> bool:
    try:
        done = subprocess.run(
            [PYTHON, "-c", "import kserve"], capture_output=True, timeout=120, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.parametrize("secure", [False, True], ids=["plaintext", "mutual-tls"])
def test_kserves_client_is_answered(tmp_path: Path, secure: bool) -> None:
    if not kserve_is_there():
        pytest.skip(
            "needs KServe's SDK: python3 -m venv kserve-env && kserve-env/bin/pip install kserve, "
            "then set KSERVE_PYTHON=kserve-env/bin/python"
        )
    authority, sent = Authority(tmp_path / "tls"), picture(3, seed=5)
    server, client, root = authority.server(), authority.client(), authority.pair.cert
    given = {
        "use_ssl": True, "root_certificates": str(root), "private_key": str(client.key),
        "certificate_chain": str(client.cert),
    }  # fmt: skip
    with running(
        bundle(tmp_path / "b"),
        tls=ServerTls(server.cert, server.key, root) if secure else None,
        trust=root if secure else None,
        mine=client if secure else None,
    ) as found:
        told = {
            "url": f"127.0.0.1:{found.server.port}", "model": MOODY,
            "tls": given if secure else {},
            "inputs": {name: value.tolist() for name, value in sent.items()},
        }  # fmt: skip
        done = subprocess.run(
            [PYTHON, "-c", PROGRAM], input=json.dumps(told), capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        live, ready, model, answers, refusal = json.loads(done.stdout.splitlines()[-1])
        assert live and ready and model
        for answer in answers:
            assert answer["id"] == "kserve-1" and answer["name"] == "y"
            assert {"compute_us", "queue_us"} <= set(answer["parameters"])
            np.testing.assert_allclose(answer["values"], expected(sent), rtol=1e-5, atol=1e-5)
        assert "no model 'none' here" in refusal
        check_serves(found.client)
