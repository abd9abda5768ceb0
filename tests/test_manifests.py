"""Manifests are what Kubernetes' own schemas take, and a real Triton takes their flags."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import kubernetes_validate
import pytest
import tail_bundles
import triton_process
import tritonclient.grpc as grpcclient
import yaml
from command_line import splitdeploy
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from splitdeploy.cloud_runtime.fleet import Fleet, to_yaml
from splitdeploy.cloud_runtime.kserve import kserve_manifests
from splitdeploy.cloud_runtime.kubernetes import kubernetes_manifests
from splitdeploy.cloud_runtime.triton_install import find_triton
from splitdeploy.cloud_runtime.triton_repository import write_repository
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.profiles.errors import UsageError

FLEET = Fleet("tails", "s3://bucket/models")
SCALED = replace(FLEET, max_replicas=4, scale_metric="cpu", scale_target=70)
VERSIONS = ("1.31", "1.37")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "two"
    return tail_bundles.make_bundle(folder, tail_bundles.two_input_tail(), "Net_two_tail")


def parsed(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(to_yaml(objects)))


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_combination(version: str) -> None:
    storages = ("s3://bucket/models", "pvc://claim/deep/er", "pvc://claim")
    for storage, tls, account, scaled in itertools.product(
        storages, (None, "certificates"), (None, "reader"), (False, True)
    ):
        fleet = replace(
            SCALED if scaled else FLEET, storage_uri=storage, tls_secret=tls, namespace="ml",
            mutual_tls=tls is not None, service_account=account, shared_memory=scaled,
            gpus=0 if scaled else 2,
        )  # fmt: skip
        objects = parsed(kubernetes_manifests(fleet))
        kinds = [entry["kind"] for entry in objects]
        assert kinds == ["Deployment", "Service", *(["HorizontalPodAutoscaler"] if scaled else [])]
        for entry in objects:
            kubernetes_validate.validate(entry, version, strict=True)


def test_the_schema_would_tell() -> None:
    deployment = kubernetes_manifests(FLEET)[0]
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


@pytest.mark.parametrize("metric", [None, "concurrency", "cpu"])
def test_an_inference_service_holds_a_container_that_kubernetes_takes(metric: Any) -> None:
    scale = {"max_replicas": 8, "scale_metric": metric, "scale_target": 16} if metric else {}
    (service,) = parsed(kserve_manifests(replace(FLEET, gpus=1, **scale)))
    predictor = service["spec"]["predictor"]
    model = predictor["model"]
    assert model["storageUri"] == "s3://bucket/models" and model["protocolVersion"] == "grpc-v2"
    assert predictor["maxReplicas"] == (8 if metric else 1)
    assert predictor.get("scaleMetric") == metric
    mode = service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
    assert mode == ("Serverless" if metric == "concurrency" else "RawDeployment")
    own = {"modelFormat", "protocolVersion", "runtime", "storageUri"}
    container = {key: value for key, value in model.items() if key not in own}
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"],
        "spec": {"containers": [{"name": "kserve-container", **container}]},
    }  # fmt: skip
    for version in VERSIONS:
        kubernetes_validate.validate(pod, version, strict=True)


def test_the_autoscaler_alone_sets_the_number() -> None:
    deployment, _, scaler = kubernetes_manifests(SCALED)
    assert "replicas" not in deployment["spec"]
    assert kubernetes_manifests(replace(FLEET, min_replicas=3, max_replicas=3))[0]["spec"][
        "replicas"
    ] == 3  # fmt: skip
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (1, 4)


def test_every_fleet_is_closed_with_a_secret_of_its_own() -> None:
    first, second = Fleet("a", "s3://b/c"), Fleet("a", "s3://b/c")
    assert first.closed_with != second.closed_with and len(first.closed_with) == 32
    assert first.closed_with not in repr(first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Tails"}, "expected a name of at most 50 lower-case letters"),
        ({"name": "x" * 51}, "expected a name of at most 50"),
        ({"namespace": "a/b"}, "expected a namespace of at most 50"),
        ({"cpu": "two"}, "expected cpu as in 500m, 2 or 4Gi, got 'two'"),
        ({"memory": "4 GB"}, "expected memory as in"),
        ({"storage_uri": "/models"}, "expected a storage URI as in s3://bucket/models"),
        ({"gpus": -1}, "expected 0 or more GPUs, got -1"),
        ({"mutual_tls": True}, "mutual TLS needs the server's certificate"),
        ({"min_replicas": 0}, "expected 1 replica or more"),
        ({"min_replicas": 3}, "no fewer at most than at least, got 3 to 1"),
        ({"max_replicas": 3}, "1 to 3 replicas need to know when: give --scale-metric"),
        ({"scale_metric": "cpu", "scale_target": 5}, "1 replicas never change"),
        ({"max_replicas": 2, "scale_metric": "cpu", "scale_target": 0}, "scale target of at least"),
    ],
)
def test_settings_that_no_cluster_takes(change: dict[str, Any], message: str) -> None:
    for make in (kserve_manifests, kubernetes_manifests):
        with pytest.raises(UsageError, match=message):
            make(replace(FLEET, **change))


def test_what_one_kind_of_cluster_alone_takes() -> None:
    with pytest.raises(UsageError, match="under KServe TLS ends at the cluster's gateway"):
        kserve_manifests(replace(FLEET, tls_secret="tls"))
    with pytest.raises(UsageError, match="plain Kubernetes scales by cpu or memory, got rps"):
        kubernetes_manifests(replace(SCALED, scale_metric="rps"))
    with pytest.raises(UsageError, match="the load of the cores says nothing of a GPU's"):
        kubernetes_manifests(replace(SCALED, gpus=1))
    with pytest.raises(UsageError, match="expected storage that Triton reads .as, gs, s3. or pvc"):
        kubernetes_manifests(replace(FLEET, storage_uri="https://host/models"))


def test_the_command_writes_repository_and_manifests(bundle: Path, tmp_path: Path) -> None:
    outcome = splitdeploy(
        "manifests", bundle, "--storage", "pvc://claim/m", "--out", tmp_path / "fleet",
        "--for", "kubernetes", "--max-batch", 8, "--preferred-batches", "4,8",
        "--queue-delay", "2ms", "--instances", 2,
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (0, f"{tmp_path}/fleet/manifests.yaml\n"), outcome.err
    assert "upload" in outcome.err and "kubectl apply -f" in outcome.err
    objects = list(yaml.safe_load_all((tmp_path / "fleet" / "manifests.yaml").read_text()))
    assert objects[0]["metadata"]["name"] == "net-two-tail"
    text = (tmp_path / "fleet" / "models" / "Net_two_tail" / "config.pbtxt").read_text()
    config = text_format.Parse(text, ModelConfig())
    assert config.max_batch_size == 8 and config.instance_group[0].count == 2
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000


def test_the_command_says_how_engines_are_made(bundle: Path, tmp_path: Path) -> None:
    outcome = splitdeploy(
        "manifests", bundle, "--storage", "s3://b/m", "--out", tmp_path / "f",
        "--backend", "tensorrt", "--gpus", 1,
    )  # fmt: skip
    assert outcome.code == 0 and "trtexec --onnx=" in outcome.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--for", "openshift"), "unknown cluster 'openshift': available: kserve, kubernetes"),
        (("--backend", "onnx"), "unknown backend 'onnx': did you mean onnxruntime"),
        (("--scale-metric", "gpu"), "unknown metric 'gpu': "),
        (("--preferred-batches", "4;8"), "expected --preferred-batches as in 4,8, got '4;8'"),
        (("--storage", "models"), "expected a storage URI"),
    ],
)
def test_the_command_refuses_what_cannot_be_meant(
    bundle: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    outcome = splitdeploy(
        "manifests", bundle, "--storage", "s3://b/m", "--out", tmp_path / "f", *flags
    )
    assert outcome.code == 2 and message in outcome.err
    assert not (tmp_path / "f").exists()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.skipif(not triton_process.HAVE_TRITON, reason=triton_process.MISSING)
def test_a_real_triton_takes_the_flags_and_answers_the_probes(bundle: Path, tmp_path: Path) -> None:
    """The container's own command, with its ports and its volume on this machine."""
    install = find_triton()
    assert install is not None
    write_repository(tmp_path / "m", [read_bundle(bundle)], backend=install.backend)
    pod = kubernetes_manifests(replace(FLEET, storage_uri="pvc://claim"))[0]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    ports = {entry["name"]: free_port() for entry in container["ports"]}
    command = [str(install.server), f"--backend-directory={install.backends}"]
    for flag in container["args"]:
        name, _, value = flag.partition("=")
        what = name.removeprefix("--").removesuffix("-port")
        local = {"--model-repository": str(tmp_path / "m")}.get(name, ports.get(what, value))
        command.append(f"{name}={local}" if value else name)
    command += [f"--{kind}-address=127.0.0.1" for kind in ("grpc", "http", "metrics")]
    process = subprocess.Popen(
        command, env={**os.environ, **install.environment, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        probe = container["readinessProbe"]["httpGet"]
        url = f"http://127.0.0.1:{ports[probe['port']]}{probe['path']}"
        assert answers(url, process)
        with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            health = channel.unary_unary("/grpc.health.v1.Health/Check")  # KServe's probe
            assert health(b"", timeout=10) == b"\x08\x01"  # status: SERVING
        with grpcclient.InferenceServerClient(f"127.0.0.1:{ports['grpc']}") as client:
            assert client.is_model_ready("Net_two_tail")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{ports['http']}/v2/models/Net_two_tail")
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except OSError:
            time.sleep(0.1)
    return False
