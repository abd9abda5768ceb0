"""``splitdeploy defend`` end to end: the bundle that it writes, what it prints, what it refuses."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import splitdeploy
from PIL import Image
from torch import Tensor, nn

from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.guard_noise import draw, noise_inputs
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner import bundle as writing
from splitdeploy.partitioner import defend as defending

SIZE = 8


class Tiny(nn.Module):
    """A linear head of full rank, two classes behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        self.tail = nn.Sequential(nn.Flatten(), nn.Linear(4 * SIZE * SIZE, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.head(x))


def tiny() -> tuple[nn.Module, Tensor]:
    return Tiny(), torch.zeros(1, 3, SIZE, SIZE)


MODEL = "test_defend_command:tiny"
FAST = ("--attack-budget", "2s", "--image-count", 8, "--attack-count", 2, "-q")


def export(folder: Path, precision: str = "fp32") -> Path:
    outcome = splitdeploy(
        "export", MODEL, "--cut", "head", "--out", folder, "--precision", precision, "-q"
    )
    assert outcome.code == 0, outcome.err
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def run_head(folder: Path, pixels: np.ndarray, noise: dict[str, np.ndarray]) -> np.ndarray:
    with OnnxRuntimeSession(folder / "head.onnx") as session:
        name = next(s.name for s in session.inputs if not s.name.startswith("noise."))
        return next(iter(session.run({name: pixels, **noise}).values()))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export for all tests that do not change it."""
    return export(tmp_path_factory.mktemp("shared") / "bundle")


@pytest.fixture
def bundle(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared, tmp_path / "bundle"))


def test_a_bundle_is_defended_in_place_and_again(bundle: Path) -> None:
    plain = manifest(bundle)
    assert plain["guard_noise"] is None
    assert plain["source"]["model"] == MODEL and plain["source"]["seed"] == 0
    pixels = np.random.default_rng(0).standard_normal((5, 3, SIZE, SIZE)).astype(np.float32)
    clean, tail = run_head(bundle, pixels, {}), (bundle / "tail.onnx").read_bytes()
    outcome = splitdeploy("defend", bundle, "--target", "gain:0.5", *FAST)
    assert outcome.code == 0, outcome.err
    for word in (
        "undefended",
        "bayesian",
        "nothing sent",
        "agreement",
        "noise-aware",
        "any attack",
    ):
        assert word in outcome.out
    first = manifest(bundle)["guard_noise"]
    assert first["target"] == "gain:0.5" and first["inputs"][0]["distribution"] == "gaussian"
    assert first["agreement"]["after"]["ci95"][0] < 1 and first["leakage"]["mse_lower_bound"] > 0
    assert {a["name"] for a in first["attacks"]} == {"least-squares", "rmle", "noise-aware"}
    assert read_bundle(bundle).manifest["verification"] == plain["verification"]
    assert (bundle / "tail.onnx").read_bytes() == tail
    inputs = noise_inputs(manifest(bundle))
    silent = {i.name: np.zeros((5, *i.shape), np.float32) for i in inputs}
    assert np.array_equal(run_head(bundle, pixels, silent), clean)
    noisy = run_head(bundle, pixels, draw(inputs, 5)) - clean
    (sigma,) = first["sigma"].values()
    # 1,280 draws: a standard deviation within 5/√(2·1280) of it.
    assert noisy.std() == pytest.approx(sigma, rel=0.1)
    # The target is what was calibrated to; other pictures judge, so that it is met about.
    assert first["leakage"]["gain"]["value"] == pytest.approx(0.5, abs=0.1)
    again = splitdeploy("defend", bundle, "--target", "gain:0.2", *FAST)
    assert again.code == 0, again.err
    (weaker,), (stronger,) = (
        first["sigma"].values(),
        manifest(bundle)["guard_noise"]["sigma"].values(),
    )
    assert stronger > weaker
    assert [i.name for i in noise_inputs(manifest(bundle))] == [i.name for i in inputs]


@pytest.mark.parametrize(
    ("precision", "form", "strength"),
    [("int8", "laplace", 1.0), ("fp16", "dropout", 0.4), ("int8", "gaussian", 0.5)],
)
def test_every_precision_carries_noise(
    precision: str, form: str, strength: float, tmp_path: Path
) -> None:
    folder, out = export(tmp_path / "b", precision), tmp_path / "defended"
    before = (folder / "manifest.json").read_bytes()
    outcome = splitdeploy(
        "defend", folder, "--form", form, "--strength", strength, "--out", out, *FAST
    )
    assert outcome.code == 0, outcome.err
    assert (folder / "manifest.json").read_bytes() == before
    guard = manifest(out)["guard_noise"]
    assert guard["inputs"][0]["distribution"] == form and guard["verified"]["ok"]
    assert (guard["leakage"] is None) == (form == "dropout")
    assert guard["inputs"][0].get("drop_rate") == (strength if form == "dropout" else None)


def test_retrained_halves_are_deployed(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "nopeek"
    outcome = splitdeploy(
        "defend", bundle, "--form", "nopeek", "--strength", 5, "--out", out, *FAST
    )
    assert outcome.code == 0, outcome.err
    guard = manifest(out)["guard_noise"]
    assert guard["retrained"] and guard["inputs"] == []
    assert manifest(out)["tensors"] == manifest(bundle)["tensors"]
    pixels = np.zeros((1, 3, SIZE, SIZE), np.float32)
    assert not np.allclose(run_head(out, pixels, {}), run_head(bundle, pixels, {}), atol=1e-6)
    once_more = splitdeploy("defend", out, "--target", "gain:0.5", *FAST)
    assert once_more.code == 1 and "retrained by the defence 'nopeek'" in once_more.err


def test_the_published_form_gives_figures_alone(bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    outcome = splitdeploy(
        "defend", bundle, "--target", "fsinfo:-1", "--form", "published", "--format", "json", *FAST
    )
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["bundle"] is None and report["rows"][1]["leakage"] is None
    assert "no bundle was written" in outcome.err
    assert (bundle / "manifest.json").read_bytes() == before


def test_a_comparison_by_labels_with_queries_and_a_trained_attack(
    bundle: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    for label in "01":
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for nth in range(40):
            noise = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "pictures" / label / f"{nth}.png")
    outcome = splitdeploy(
        "defend", bundle, "--target", "gain:0.5", "--compare", "--images", tmp_path / "pictures",
        "--aux-images", tmp_path / "pictures", "--queries", 3, "--attack-budget", "4s",
        "--image-count", 40, "--attack-count", 2, "--format", "csv", "-q",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    names = list(dict.fromkeys(row["defence"] for row in rows))
    assert names[:2] == ["undefended", "bayesian"]
    assert {"shaped", "published", "laplace", "dropout", "pruning", "nopeek", "shredder"} <= {
        *names, *(line.split()[0] for line in outcome.err.splitlines() if "left out" in line)
    }  # fmt: skip
    assert {row["measure"] for row in rows} == {"accuracy"}
    assert {row["attack"] for row in rows} >= {"rmle", "noise-aware", "inverse-network"}
    guard = manifest(bundle)["guard_noise"]
    assert guard["queries"] == 3 and "3 queries" in guard["leakage"]["noise"]
    # Rounding is the same each time: without a defence there is nothing to average.
    assert "queries" not in guard["leakage_before"]["noise"]


def test_an_interrupt_leaves_the_old_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in bundle.iterdir() if p.is_file()}

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for module, name in ((defending, "judge_defence"), (writing, "write_model")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupted)
            assert splitdeploy("defend", bundle, "--target", "gain:0.5", *FAST).code == 130
    assert {p.name: p.read_bytes() for p in bundle.iterdir() if p.is_file()} == before
    assert [p.name for p in bundle.parent.iterdir()] == [bundle.name]
    read_bundle(bundle)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "expected --target for the form bayesian, got none"),
        (("--target", "loud:3"), 2, "expected a target fsinfo:NATS"),
        (("--form", "shy", "--target", "gain:1"), 2, "unknown form of defence 'shy'"),
        (
            ("--form", "laplace", "--target", "gain:1"),
            2,
            "expected --strength for the form laplace",
        ),
        (("--target", "gain:1", "--strength", 2), 2, "got a --strength besides"),
        (("--target", "gain:1", "--labels", "x.csv"), 2, "expected --images with --labels"),
        (("--target", "gain:1", "--attacks", "magic"), 2, "unknown attack 'magic'"),
        (("--target", "gain:1", "--attack-budget", "0s"), 2, "0s"),
        (("--target", "mse:99"), 1, "the nearest is mse:"),
        (("--target", "gain:99"), 1, "no guard is needed"),
    ],
)
def test_refusals(shared: Path, arguments: tuple[object, ...], code: int, message: str) -> None:
    outcome = splitdeploy("defend", shared, *arguments, "-q")
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err and len(outcome.err.strip().splitlines()) == 1


def test_a_bundle_of_another_model_is_told(bundle: Path, tmp_path: Path) -> None:
    def changed(**source: object) -> str:
        document = manifest(bundle)
        document["source"] = document["source"] | source if source else None
        (bundle / "manifest.json").write_text(json.dumps(document))
        outcome = splitdeploy("defend", bundle, "--target", "gain:0.5", *FAST)
        assert outcome.code == 1
        return outcome.err

    assert "expected the weights that" in changed(seed=1)
    assert "expected the weights that" in changed(seed=0, weights_sha256="0")
    assert "does not say what its model was loaded from" in changed()
    (bundle / "head.onnx").write_bytes(b"")
    assert "head.onnx was changed" in splitdeploy("defend", bundle, "--target", "gain:1").err
    assert "there is no manifest.json" in splitdeploy("defend", tmp_path, "--target", "gain:1").err
