"""The record beside an engine is checked before TensorRT sees a byte of the plan."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycuda_fakes import Machine
from tensorrt_cases import head_graph, make_bundle
from tensorrt_fakes import VERSIONS, install

from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.edge_runtime.engine_builder import EngineSettings
from splitdeploy.edge_runtime.engine_cache import Engine, build_engine, find_engine
from splitdeploy.edge_runtime.engine_machine import EngineMachine, jetpack, this_machine
from splitdeploy.edge_runtime.engine_sidecar import Sidecar, read_sidecar
from splitdeploy.edge_runtime.open_head import open_head
from splitdeploy.edge_runtime.tensorrt_api import load_tensorrt
from splitdeploy.profiles.errors import EngineError, ReportError, SessionError

TEGRA = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: x\n"
DPKG = (
    "Package: bash\nStatus: install ok installed\nVersion: 5.1\n\n"
    "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n"
)


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch, request.param)


@pytest.fixture
def built(machine: Machine, tmp_path: Path) -> tuple[Bundle, Engine]:
    write(tmp_path, "etc/nv_tegra_release", TEGRA)
    bundle = make_bundle(tmp_path / "b", variants={"fp16": head_graph()})
    return bundle, build_engine(bundle, EngineSettings(), root=tmp_path).engine


def test_a_record_tells_everything(built: tuple[Bundle, Engine]) -> None:
    bundle, engine = built
    record = engine.sidecar
    assert (record.gpu, record.compute_capability, record.cuda) == ("Orin", "8.7", "12.6.0")
    assert record.jetpack == "L4T 36.4.3" and record.tensorrt in VERSIONS
    assert (record.precision, record.max_batch, record.graph) == ("fp32", 1, "head.onnx")
    assert record.onnx_sha256 == bundle.manifest["files"]["head.onnx"]["sha256"]
    assert record.build_s > 0 and record.timing_cache_sha256 and not record.version_compatible
    assert read_sidecar(engine.path.with_name("head.engine.json"), bundle.folder) == record


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("tensorrt", "8.5.2", r"built with TensorRT 8\.5\.2, this machine has \d+\.\d"),
        ("cuda", "11.4.0", r"built with CUDA 11\.4\.0, this machine has 12\.6\.0"),
        ("jetpack", "5.1.2", r"built with JetPack 5\.1\.2, this machine has L4T 36\.4\.3"),
        ("gpu", "Xavier", r"built with a GPU named Xavier, this machine has Orin"),
        ("compute_capability", "7.2", r"built with compute capability 7\.2, this machine has 8\.7"),
        ("precision", "int8", r"the engine has precision int8, wanted is fp32"),
        ("max_batch", 8, r"the engine has a largest batch of 8, wanted is 1"),
        ("onnx_sha256", "0" * 64, r"from head\.onnx with SHA-256 000000000000…, the bundle's is "),
        ("graph", "head.bf16.onnx", r"built from head\.bf16\.onnx .* the bundle's is missing"),
        ("engine_sha256", "0" * 64, r"its record tells SHA-256 000000000000…, the file has "),
        ("version_compatible", True, r"holds code of its own .* that code would be run"),
    ],
)
def test_a_stale_engine(
    machine: Machine,
    built: tuple[Bundle, Engine],
    tmp_path: Path,
    field: str,
    value: object,
    expected: str,
) -> None:
    bundle, engine = built
    changed = replace(engine.sidecar, **{field: value})  # type: ignore[arg-type]
    engine.path.with_name("head.engine.json").write_text(changed.dump())
    with pytest.raises(EngineError, match=expected) as caught:
        find_engine(bundle, precision="fp32", max_batch=1, root=tmp_path)
    assert f"build it again with  splitdeploy build {bundle.folder} --precision fp32" in str(
        caught.value
    )
    with open_head(bundle, root=tmp_path) as session:
        # Whoever takes any precision and batch is content with those that the record tells.
        stale = field not in {"precision", "max_batch"}
        assert session.name.startswith("onnxruntime" if stale else "tensorrt")
    assert (machine.called("deserialised") == []) == stale
    again = build_engine(bundle, EngineSettings(), root=tmp_path)
    assert again.built and any("it is built anew" in note for note in again.notes)
    assert find_engine(bundle, root=tmp_path) == again.engine


def test_every_field_of_a_machine_is_compared() -> None:
    names = {field.name for field in fields(EngineMachine)}
    assert names <= {field.name for field in fields(Sidecar)}
    assert names == {"tensorrt", "cuda", "jetpack", "gpu", "compute_capability"}


def test_a_plan_that_was_changed(
    machine: Machine, built: tuple[Bundle, Engine], tmp_path: Path
) -> None:
    bundle, engine = built
    engine.path.write_bytes(engine.plan[:-1] + b"x")
    with pytest.raises(EngineError, match="the engine was changed: its record tells SHA-256"):
        find_engine(bundle, root=tmp_path)
    with pytest.raises(EngineError, match="the engine was changed"):
        open_head(bundle, "tensorrt", root=tmp_path)
    assert machine.called("deserialised") == []


def test_a_record_that_cannot_be_read(built: tuple[Bundle, Engine], tmp_path: Path) -> None:
    bundle, engine = built
    path, held = engine.path.with_name("head.engine.json"), asdict(engine.sidecar)
    for text, expected in (
        ("{", "is damaged .JSONDecodeError"),
        ("[" * 100_000, "is damaged"),
        ("[]", "expected schema_version 1, got None"),
        (json.dumps({**held, "schema_version": 2}), "expected schema_version 1, got 2"),
        (json.dumps({"schema_version": 1}), "'build_s' is missing or unknown"),
        (json.dumps({**held, "schema_version": 1, "more": 1}), "'more' is missing or unknown"),
        (json.dumps({**held, "schema_version": 1, "max_batch": "1"}), "expected int, got '1'"),
        (json.dumps({**held, "schema_version": 1, "max_batch": True}), "expected int, got True"),
    ):
        path.write_text(text)
        with pytest.raises(EngineError, match=expected):
            find_engine(bundle, root=tmp_path)
    path.unlink()
    with pytest.raises(EngineError, match=r"expected a record beside the engine at .*, none"):
        find_engine(bundle, root=tmp_path)
    assert build_engine(bundle, EngineSettings(), root=tmp_path).built


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.dictionaries(st.text(max_size=8), inner, max_size=4),
    )
)
def test_anything_as_a_record(tmp_path: Path, data: object) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(data))
    with pytest.raises(EngineError):
        read_sidecar(path, tmp_path)


def test_another_machines_engine_is_told_of(
    built: tuple[Bundle, Engine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle, engine = built
    install(monkeypatch, engine.sidecar.tensorrt, Machine(gpu="NVIDIA T4", capability=(7, 5)))
    with pytest.raises(EngineError, match=r"for nvidia-t4-trt.*there are engines for orin-trt"):
        find_engine(bundle, root=tmp_path)


def test_an_engine_outside_the_bundle(built: tuple[Bundle, Engine], tmp_path: Path) -> None:
    bundle, engine = built
    outside = tmp_path / "outside.engine"
    engine.path.rename(outside)
    engine.path.symlink_to(outside)
    with pytest.raises(EngineError, match="leads out of the bundle: do not use this bundle"):
        find_engine(bundle, root=tmp_path)


def test_the_bundle_stays_readable(built: tuple[Bundle, Engine]) -> None:
    bundle, _ = built
    assert read_bundle(bundle.folder).head_variants == {"fp16": bundle.folder / "head.fp16.onnx"}
    (bundle.folder / "head.fp16.onnx").unlink()
    assert read_bundle(bundle.folder, "edge").head_variants == {}
    (bundle.folder / "else").write_text("x")
    with pytest.raises(ReportError, match="holds 'else', which its manifest does not tell of"):
        read_bundle(bundle.folder, "edge")


def test_variants_are_among_the_files(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    for variants in ({"fp16": {"file": "../x.onnx"}}, {"bf16": {"file": "head.onnx"}}):
        manifest = {**bundle.manifest, "head_variants": variants}
        (bundle.folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ReportError, match="expected head variants of .* among its files"):
            read_bundle(bundle.folder)


def test_jetpack_is_read_where_it_stands(tmp_path: Path) -> None:
    assert jetpack(tmp_path) is None
    write(tmp_path, "etc/nv_tegra_release", "something else")
    assert jetpack(tmp_path) is None
    write(tmp_path, "etc/nv_tegra_release", TEGRA)
    assert jetpack(tmp_path) == "L4T 36.4.3"
    write(tmp_path, "var/lib/dpkg/status", DPKG)
    assert jetpack(tmp_path) == "6.2+b77"
    write(tmp_path, "var/lib/dpkg/status", DPKG.replace("install ok installed", "deinstall ok"))
    assert jetpack(tmp_path) == "L4T 36.4.3"


def test_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "10.3.0")
    import pycuda.driver as cuda

    def no_device(number: int) -> None:
        raise cuda.RuntimeError("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(cuda, "Device", no_device)
    with pytest.raises(SessionError, match=r"expected a GPU for CUDA, found none \(cuInit failed"):
        build_engine(make_bundle(tmp_path / "b"), EngineSettings())


def test_a_folder_name_for_any_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "8.6.1", Machine(gpu="Tesla T4 / (odd)", capability=(7, 5)))
    import pycuda.driver as cuda

    cuda.init()
    assert this_machine(load_tensorrt(), cuda, tmp_path).slug == "tesla-t4-odd-trt8.6.1"
