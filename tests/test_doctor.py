"""The doctor tells the truth of machines: this one, boards as trees, servers that are not there."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt_fakes
from board_trees import AGX_ORIN, ORIN_NANO, BoardTree, plant, write
from command_line import splitdeploy
from onnx.reference import ReferenceEvaluator
from split_bundles import make_bundle

from splitdeploy.cloud_runtime.server import TailServer
from splitdeploy.edge_runtime import tiny_head
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.doctor import Check, Machine, diagnose
from splitdeploy.edge_runtime.doctor_cloud import check_cloud
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.power.find import find_power_reader
from splitdeploy.edge_runtime.power.reader import NotMeasured, PowerReader
from splitdeploy.edge_runtime.power_mode import Nvpmodel
from splitdeploy.edge_runtime.selftest import selftest


def load(**modules: Any) -> Any:
    """Imports of a machine that has these packages and no others."""

    def one(name: str) -> Any:
        if name not in modules:
            raise ImportError(f"No module named {name!r}")
        if isinstance(modules[name], Exception):
            raise modules[name]
        return modules[name]

    return one


def power(root: Path) -> PowerReader | NotMeasured:
    return find_power_reader(root, tegrastats=["/nowhere/tegrastats"], load=load())


def jetson(root: Path, board: BoardTree, **given: Any) -> Machine:
    plant(root, board)
    release = "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64"
    write(root / "etc/nv_tegra_release", release)
    write(root / "etc/group", "root:x:0:\nvideo:x:44:\nrender:x:104:\njtop:x:999:")
    program = "import sys; print('NV Power Mode: 15W\\n0\\nPOWER_MODEL: ID=0 NAME=15W')"
    nvpmodel = Nvpmodel([sys.executable, "-ISc", program])
    machine = Machine(root, load(), lambda name: None, lambda: ["video", "render"], nvpmodel, power)
    return replace(machine, **given)


def lines(machine: Machine) -> dict[str, Check]:
    return {check.name: check for check in diagnose(machine)}


def test_a_board_is_told_with_its_release_and_profile(tmp_path: Path) -> None:
    found = lines(jetson(tmp_path, ORIN_NANO))
    assert found["board"].status == "ok"
    assert "Jetson Linux 36.4.3 (JetPack 6.1 or 6.2); profile jetson-orin-nano" in (
        found["board"].found
    )
    assert found["power"].found == "INA3221, VDD_IN (module): 6.00 W now"
    assert found["power mode"].found == "15W; available: 15W"
    assert "python3-libnvinfer" in found["tensorrt"].mend
    assert "--system-site-packages" in found["tensorrt"].mend
    assert "nvcc" in found["cuda bindings"].mend


def test_what_a_board_lacks_has_its_mend(tmp_path: Path) -> None:
    machine = jetson(tmp_path, AGX_ORIN)
    gpu = tmp_path / "sys/class/devfreq/17000000.gpu"
    for name, value in (("cur", 306), ("min", 306), ("max", 1300)):
        write(gpu / f"{name}_freq", value * 1_000_000)
    write(tmp_path / "sys/class/thermal/thermal_zone0/type", "tj-thermal")
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", 91_000)
    write(next(tmp_path.glob("sys/devices/**/hwmon3")) / "in2_enable", 0)
    found = lines(machine)
    assert (found["clocks"].status, found["clocks"].found) == ("warn", "gpu 306 MHz; free")
    assert "sudo jetson_clocks" in found["clocks"].mend
    assert (found["temperature"].status, found["temperature"].mend[:11]) == ("warn", "let it cool")
    assert (found["groups"].status, found["groups"].mend) == (
        "warn", "sudo usermod -aG jtop $USER, then log in again",
    )  # fmt: skip
    assert found["power"].status == "warn"
    assert found["power"].found.endswith("8.00 W now; without VDDQ_VDD2_1V8AO")


def test_packages_that_break_when_they_are_imported_are_told(tmp_path: Path) -> None:
    broken = load(tensorrt=OSError("libnvinfer.so.10: cannot open"), pycuda=ImportError("no nvcc"))
    found = lines(jetson(tmp_path, ORIN_NANO, load=broken))
    assert "libnvinfer.so.10: cannot open" in found["tensorrt"].found
    assert "no nvcc" in found["cuda bindings"].found
    assert found["onnxruntime"].status == "missing"


def test_packages_that_are_there_are_told_with_their_versions(tmp_path: Path) -> None:
    runtime = SimpleNamespace(
        __version__="1.22.1", get_available_providers=lambda: ["TensorrtExecutionProvider"]
    )
    modules = load(
        tensorrt=SimpleNamespace(__version__="10.3.0"),
        pycuda=SimpleNamespace(VERSION_TEXT="2024.1"),
        onnxruntime=runtime,
    )
    found = lines(jetson(tmp_path, ORIN_NANO, load=modules))
    assert found["tensorrt"] == Check("tensorrt", "ok", "TensorRT 10.3.0")
    assert found["cuda bindings"].found == "pycuda 2024.1"
    assert found["onnxruntime"].found == "ONNX Runtime 1.22.1: TensorrtExecutionProvider"


def test_a_board_without_a_profile_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "proc/device-tree/model", "NVIDIA Jetson Something New\0")
    machine = Machine(tmp_path, load(), lambda name: None, list, Nvpmodel(["/nowhere"]), power)
    found = lines(machine)
    assert found["board"].status == "warn"
    assert "no profile" in found["board"].mend
    assert "cannot be run" in found["power mode"].found


def test_a_workstation_is_no_failure_and_the_doctor_says_what_it_is() -> None:
    outcome = splitdeploy("doctor")
    assert outcome.code == 0
    assert "no Jetson" in outcome.out
    assert "tensorrt" in outcome.out
    assert "FAILED" not in outcome.out


@pytest.mark.parametrize("form", ["json", "csv", "md"])
def test_the_doctor_speaks_in_every_form(form: str) -> None:
    outcome = splitdeploy("doctor", "--format", form)
    assert outcome.code == 0
    if form == "json":
        checks = json.loads(outcome.out)["checks"]
        assert {check["status"] for check in checks} <= {"ok", "warn", "missing"}
    else:
        assert "onnxruntime" in outcome.out


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_is_not_there_is_a_failure_with_its_mend() -> None:
    outcome = splitdeploy("doctor", "--cloud", f"127.0.0.1:{free_port()}")
    assert outcome.code == 1
    assert "FAILED   cloud: " in outcome.out
    assert "splitdeploy serve BUNDLE" in outcome.out


def test_a_server_that_is_ready_is_told_with_its_distance(tmp_path: Path) -> None:
    bundle = read_bundle(make_bundle(tmp_path / "bundle"), "cloud")
    with TailServer([bundle], host="127.0.0.1", port=0) as server:
        address = f"127.0.0.1:{server.port}"
        check = check_cloud(address)
        assert check.status == "ok", check
        assert f"{address} is ready" in check.found
        assert "in the clear" in check.found


def test_flags_that_need_another_say_which() -> None:
    outcome = splitdeploy("doctor", "--tls-ca", "ca.pem")
    assert (outcome.code, outcome.out) == (2, "")
    assert "expected --cloud HOST:PORT with --tls-ca" in outcome.err
    outcome = splitdeploy("doctor", "--bundle", "bundle")
    assert (outcome.code, outcome.out) == (2, "")
    assert "expected --selftest with --bundle" in outcome.err


def test_the_tiny_head_is_a_good_onnx_model_and_numpy_knows_its_answer() -> None:
    model = onnx.load_from_string(tiny_head.tiny_head())
    onnx.checker.check_model(model, full_check=True)
    pixels = tiny_head.picture()
    (answer,) = ReferenceEvaluator(model).run(None, {tiny_head.INPUT: pixels})
    np.testing.assert_allclose(tiny_head.expected(pixels), answer, rtol=1e-5, atol=1e-6)
    assert 0.1 < float((answer > 0).mean()) < 0.95, "neither dead nor linear"


def quick(**given: Any) -> dict[str, Any]:
    machine = given.pop("machine", Machine(load=load(), open_power=lambda root: NotMeasured("no")))
    return selftest([], machine=machine, window_s=0.3, idle_s=0.3, **given)


def test_the_selftest_runs_in_onnx_runtime_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensorrt_fakes.uninstall(monkeypatch, "tensorrt")
    found = quick()
    runtime, tensorrt = found["results"]
    assert (found["ok"], runtime["ok"], tensorrt["opened"]) == (True, True, False)
    assert runtime["max_rel_error"] < 1e-5
    assert runtime["latency_s"]["median"] > 0
    assert runtime["energy"] == {"not_measured": "no"}
    assert "tensorrt cannot be imported" in tensorrt["error"]
    json.dumps(found)


@pytest.mark.parametrize("version", tensorrt_fakes.VERSIONS)
def test_the_selftest_builds_and_runs_an_engine_against_each_versions_names(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt_fakes.install(monkeypatch, version)
    found = quick()
    assert found["ok"], found["results"]
    assert [result["ok"] for result in found["results"]] == [True, True]


def test_the_selftest_measures_energy_where_there_are_rails(tmp_path: Path) -> None:
    machine = jetson(tmp_path, ORIN_NANO)
    write(next(tmp_path.glob("sys/devices/**/hwmon2")) / "update_interval", 1)
    backends = {"onnxruntime": OnnxRuntimeSession}
    found = selftest([], machine=machine, backends=backends, window_s=1.2, idle_s=1.2)
    # The tree's power never moves, so there is nothing above the idle draw: that is told.
    assert "is not above that while idle" in found["results"][0]["energy"]["not_measured"]
    assert found["state_before"]["board"]["profile"] == "jetson-orin-nano"


def test_a_wrong_answer_fails_the_selftest() -> None:
    class Wrong(OnnxRuntimeSession):
        def run(self, feeds: Any) -> dict[str, Any]:
            return {name: array + 0.1 for name, array in super().run(feeds).items()}

    found = quick(backends={"wrong": Wrong})
    assert not found["ok"]
    assert found["results"][0]["max_rel_error"] > 0.01


def test_the_head_of_a_bundle_is_run_and_no_right_answer_is_claimed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", noise=True)
    found = quick(bundle=bundle, backends={"onnxruntime": OnnxRuntimeSession})
    assert found["results"][0]["checked"].startswith(("finite alone", "the answer is not finite"))
    assert found["results"][0]["opened"]


def test_the_file_tells_nothing_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitdeploy.edge_runtime import selftest as module

    def short(*args: Any, **given: Any) -> dict[str, Any]:
        return selftest(*args, **given, window_s=0.2, idle_s=0.2)

    tensorrt_fakes.uninstall(monkeypatch, "tensorrt")
    monkeypatch.setattr(module, "selftest", short)
    out = tmp_path / "found.json"
    outcome = splitdeploy("doctor", "--selftest", "--out", out)
    assert outcome.code == 0, outcome.out
    assert f"written: {out}" in outcome.err
    assert "selftest onnxruntime: against NumPy" in outcome.out
    text = out.read_text()
    assert json.loads(text)["ok"]
    for private in (str(Path.cwd()), sys.executable, str(tmp_path)):
        assert private not in text
