"""What leakage cannot be measured of: one line that says what came, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import MODEL, splitdeploy
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor, nn

from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.leakage.noise import FixedNoise, noise_named
from splitdeploy.attacks.leakage.prior import default_prior
from splitdeploy.profiles.errors import LeakageError, UsageError

SMALL = ("--input-shape", "3x16x16", "--weights", "none", "-q")
PIXELS = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Step(nn.Module):
    """A convolution, and something after it."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.step = nn.Conv2d(3, 4, 3), step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.conv(x))


HEADS: dict[str, tuple[nn.Module, str]] = {
    "argmax": (
        Step(lambda z: z.argmax(1, keepdim=True).float()).eval(),
        "expected a differentiable head, got one whose output does not depend on the pixels by "
        "differentiable operations.*measure their float head with the quantiser as noise",
    ),
    "integers": (
        Step(lambda z: (z * 127).to(torch.int8).float()).eval(),
        "expected a differentiable head, got one whose output does not depend",
    ),
    "rounding": (
        Step(lambda z: torch.round(z * 127) / 127).eval(),
        "expected a differentiable head, got one whose output changes with the picture though its "
        r"derivative is zero.*take the step as noise \(int8, sigma:VALUE\)",
    ),
    "dropout in training": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)).train(),
        r"expected a head in eval mode, got Dropout '.*1' in training mode: call eval\(\)",
    ),
    "dropout as a function": (
        Step(lambda z: nn.functional.dropout(z, 0.5, training=True)).eval(),
        r"expected a deterministic head, got two passes that differ: call eval\(\)",
    ),
    "another size": (
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval(),
        r"expected images of the size that the head was cut at, got \(3, 8, 8\): .*768.*resize",
    ),
    "other channels": (
        nn.Conv2d(1, 4, 3).eval(),
        r"expected images of the size that the head was cut at, got \(3, 8, 8\): .*1 channel",
    ),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", ["exact", "bayesian", "paper"])
def test_heads_without_a_figure(name: str, kind: str) -> None:
    head, message = HEADS[name]
    with pytest.raises(LeakageError, match=message) as refused:
        fsinfo(head, PIXELS, noise_sigma=0.1, kind=kind)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_a_head_that_is_constant_leaks_nothing_and_is_no_error() -> None:
    head = Step(lambda z: z * 0.0 + 1.0).eval()
    found = fsinfo(head, PIXELS, noise_sigma=0.1, kind="bayesian")
    prior = default_prior((3, 8, 8))
    own = -prior.log_det() / (2 * 192) - 0.5 * float(np.log(2 * np.pi * np.e))
    assert found.value == pytest.approx(own)


def test_images_of_another_size_than_the_priors() -> None:
    message = r"expected pictures of the prior's shape \(3, 9, 9\), got \(3, 8, 8\)"
    with pytest.raises(LeakageError, match=message):
        fsinfo(
            nn.Conv2d(3, 4, 3).eval(), PIXELS, noise_sigma=0.1, kind="bayesian",
            prior=default_prior((3, 9, 9)),
        )  # fmt: skip


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_that_is_none(sigma: float) -> None:
    message = "expected a positive noise sigma, got .*: without noise the information is infinite"
    with pytest.raises(LeakageError, match=message):
        FixedNoise(sigma)
    with pytest.raises(LeakageError, match=message):
        fsinfo(nn.Conv2d(3, 4, 3).eval(), PIXELS, noise_sigma=sigma)
    with pytest.raises(UsageError, match=f"noise 'sigma:{sigma}': expected a positive"):
        noise_named(f"sigma:{sigma}")


def onnx_file(path: Path) -> Path:
    shape = [1, 3, 16, 16]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def refused(arguments: tuple[object, ...], code: int, words: str) -> None:
    outcome = splitdeploy(*arguments)
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    errors = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and words in errors[0], outcome.err
    assert "Traceback" not in outcome.err


AT = ("leakage", MODEL, *SMALL, "--cut", "act")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--sigma", "0"), 2, "expected a positive number for --sigma, got 0: without noise"),
        (("--sigma", "-1"), 2, "expected a positive number for --sigma, got -1"),
        (("--sigma", "nan"), 2, "expected a positive number for --sigma, got nan"),
        (("--noise", "sigma:0"), 2, "noise 'sigma:0': expected a positive noise sigma, got 0"),
        (("--noise", "snr:inf"), 2, "noise 'snr:inf': expected a finite signal-to-noise ratio"),
        (("--labels", "l.csv"), 2, "expected --images DIR with the pictures that l.csv labels"),
        (("--target", "much"), 2, "expected a target fsinfo:NATS (any sign), gain:NATS"),
        (("--target", "gain:-1"), 2, "expected a positive number in the target gain:"),
        (("--target", "fsinfo:-9"), 1, "expected a target that noise can reach, got fsinfo:-9"),
        (("--target", "mse:0.9"), 1, "before anything is sent; the nearest is mse:"),
    ],
)
def test_options_of_leakage(arguments: tuple[str, ...], code: int, words: str) -> None:
    refused((*AT, *arguments), code, words)


def test_profile_refuses_the_same_before_it_loads_anything(tmp_path: Path) -> None:
    given = ("profile", MODEL, *SMALL, "--out", tmp_path / "run")
    refused((*given, "--noise", "sigma:-1"), 2, "noise 'sigma:-1': expected a positive")
    refused((*given, "--labels", "l.csv"), 2, "expected --images DIR with the pictures that l.csv")
    assert splitdeploy(*given, "--queries", 0).code == 2
    assert not (tmp_path / "run").exists()


def test_files_that_leakage_cannot_use(tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "small.onnx")
    words = "an .onnx file has no gradients; give the torchvision name"
    refused(("leakage", file, "-q", "--cut", "edge-only"), 1, words)
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(tmp_path / "dot.png")
    words = f"for an input of 16x16 pixels, got {tmp_path / 'dot.png'} of 1x1"
    refused((*AT, "--images", tmp_path), 1, words)
