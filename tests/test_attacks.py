"""Every attack on every kind of head: what each must recover, and what none can."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.base import Attack, run_attack
from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.lbfgs import BatchedLbfgs
from splitdeploy.attacks.least_squares import LeastSquares, is_affine
from splitdeploy.attacks.objective import FeatureDistance, mean_square_variation, total_variation
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.registry import attacks_table, find_attack, register
from splitdeploy.attacks.rmle import Rmle, RmlePublished
from splitdeploy.attacks.spectral import SpectralImage
from splitdeploy.attacks.steps import Plateau, Run
from splitdeploy.attacks.target import AttackTarget, TargetView
from splitdeploy.attacks.threat import WHITE_BOX, ThreatModel
from splitdeploy.profiles.errors import AttackError, UnknownNameError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE = (3, 32, 32)


def photographs(count: int = 3) -> Tensor:
    return torch.from_numpy(load_photographs("photos", shape=SHAPE, count=count).pixels)


class Pair(nn.Module):
    """A boundary of two tensors of very different scale, as a skip connection makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(3, 16, 3, padding=1)
        self.far = nn.Conv2d(16, 32, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        near = self.near(x).relu()
        return 1000.0 * near, self.far(near).relu()


class Constant(nn.Module):
    """Sends the same whatever comes in, and yet depends on it as far as autograd knows."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * x[:, :, :4, :4] + 1.0


def linear_head() -> nn.Module:
    """He et al.'s CIFAR-10 conv11, at its default initialisation."""
    return nn.Conv2d(3, 64, 3, padding=1)


def relu_head() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())


HEADS = {"linear": linear_head, "relu": relu_head, "pair": Pair, "constant": Constant}

# attack × head: the least PSNR that it must reach, None where it must not beat the baseline.
CASES: list[tuple[Attack, str, float | None]] = [
    (LeastSquares(), "linear", 80.0),
    (Rmle(passes=100), "linear", 30.0),
    (Rmle(passes=100), "relu", 25.0),
    (Rmle(passes=60), "pair", 20.0),
    # Its eps of 1e-3 is far above gradients of a mean over 65,536 features: slow, as published.
    (RmlePublished("code", steps=300), "linear", 15.0),
    (RmlePublished("paper", steps=120, tv_weight=1e-3), "relu", 15.0),
    (LeastSquares(), "constant", None),
    (Rmle(passes=30), "constant", None),
    (RmlePublished("code", steps=5), "constant", None),
]


def make_target(kind: str, pixels: Tensor) -> AttackTarget:
    torch.manual_seed(0)
    head = PixelHead(HEADS[kind](), MEAN, STD).eval()
    with torch.no_grad():
        return AttackTarget(head(pixels), head, SHAPE)


@pytest.mark.parametrize(
    ("attack", "kind", "least_psnr_db"), CASES, ids=[f"{a!r}-{k}" for a, k, _ in CASES]
)
def test_attack_on_head(attack: Attack, kind: str, least_psnr_db: float | None) -> None:
    pixels = photographs()
    record, found = run_attack(attack, make_target(kind, pixels), pixels)
    assert found.pixels.shape == pixels.shape
    assert 0.0 <= float(found.pixels.min()) <= float(found.pixels.max()) <= 1.0
    assert (record.name, record.images, record.oracle) == (attack.name, 3, False)
    baseline = best_baseline(pixels)
    if least_psnr_db is None:
        # The observation says nothing, so neither does what comes back; the code's start is the
        # data's mean colour, a flat picture like the baseline's, hence the slack.
        assert record.ssim <= baseline.ssim + 0.02
        assert record.psnr_db <= baseline.psnr_db + 0.5
    else:
        assert record.psnr_db >= least_psnr_db > baseline.psnr_db
        assert record.ssim > baseline.ssim


def test_least_squares_says_where_it_applies() -> None:
    pixels = photographs(1)
    attack = LeastSquares()
    assert attack.applies(make_target("linear", pixels))
    for kind in ("relu", "pair"):
        assert not attack.applies(make_target(kind, pixels))
        with pytest.raises(AttackError, match="needs an affine head, and this one is not"):
            attack(make_target(kind, pixels))
    assert not attack.applies(AttackTarget((torch.zeros(1, 4),), None, SHAPE))


def test_least_squares_finds_the_solution_nearest_to_grey() -> None:
    """Against the dense pseudo-inverse, on a head that loses half of the picture."""
    torch.manual_seed(0)
    shape = (1, 6, 6)
    head = PixelHead(nn.Sequential(nn.Flatten(), nn.Linear(36, 18)), (0.5,), (0.25,)).eval()
    pixels = torch.rand(2, *shape)
    with torch.no_grad():
        target = AttackTarget(head(pixels), head, shape)
    found = LeastSquares()(target)
    matrix = head.head[1].weight.detach().double() / 0.25
    with torch.no_grad():
        grey = head.features(torch.full((2, *shape), 0.5)).double()
    step = (target.observation[0].double() - grey) @ torch.linalg.pinv(matrix).T
    expected = (0.5 + step.view(2, *shape)).clamp(0, 1)
    assert found.converged
    assert torch.allclose(found.pixels.double(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "affine"),
    [
        (nn.Conv2d(3, 4, 3, stride=2), True),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2)), True),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(-30, 30)), False),
        (nn.MaxPool2d(2), False),
        (nn.LeakyReLU(0.9), False),
        (nn.Sigmoid(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_affine_heads_are_told_by_probing(layer: nn.Module, affine: bool) -> None:
    assert is_affine(PixelHead(layer, MEAN, STD).eval(), (3, 12, 12)) is affine


def test_the_threat_model_rules_what_an_attack_may_use() -> None:
    class Thief(RmlePublished):
        name = "thief"
        threat = ThreatModel(weights=False)

    with pytest.raises(AttackError, match="asked for the head's weights, but its threat model is"):
        Thief("code", steps=1)(make_target("relu", photographs(1)))
    with pytest.raises(AttackError, match="needs the head in torch .give the model"):
        Rmle()(AttackTarget((torch.zeros(1, 4),), None, SHAPE))


def test_an_attack_never_has_the_originals() -> None:
    """What it is handed holds none of them, and judging by others changes nothing it does."""
    seen: list[TargetView] = []

    class Spy(Attack):
        name, threat, cost, paper = "spy", WHITE_BOX, "", ""
        presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"only": {}}

        def _run(self, target: TargetView, run: Run) -> Tensor:
            seen.append(target)
            return torch.zeros(target.images, *target.image_shape)

    pixels = photographs(2)
    run_attack(Spy(), make_target("relu", pixels), pixels)
    tensors = [t for t in vars(seen[0]).values() if isinstance(t, Tensor)]
    assert not tensors
    assert all(t.shape != pixels.shape for t in seen[0].observation)
    target = make_target("relu", pixels)
    _, mine = run_attack(Rmle(passes=5), target, pixels)
    _, others = run_attack(Rmle(passes=5), target, 1 - pixels)
    assert torch.equal(mine.pixels, others.pixels)


def test_parameters_keep_their_gradients_as_they_were() -> None:
    target = make_target("relu", photographs(1))
    assert target.pixel_head is not None
    Rmle(passes=3)(target)
    assert all(p.requires_grad and p.grad is None for p in target.pixel_head.parameters())


class Diverging(Attack):
    """Pictures of 0.25, then a loss of the given kind."""

    name, threat, cost, paper = "diverging", WHITE_BOX, "", ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"only": {}}

    def __init__(self, finite_steps: int) -> None:
        self.finite_steps = finite_steps

    def _run(self, target: TargetView, run: Run) -> Tensor:
        pixels = torch.full((target.images, *target.image_shape), 0.25)
        for step in range(10):
            value = math.nan if step == self.finite_steps else 1.0
            if not run.step(value, pixels + step / 100, step / 10):
                break
        run.converged = True
        return pixels * math.nan


@pytest.mark.parametrize(("finite_steps", "expected"), [(3, 0.27), (0, 0.5)])
def test_a_diverging_run_keeps_the_last_finite_state(finite_steps: int, expected: float) -> None:
    found = Diverging(finite_steps)(make_target("relu", photographs(1)))
    assert torch.allclose(found.pixels, torch.full_like(found.pixels, expected))
    assert not found.converged
    assert found.steps == finite_steps + 1


@pytest.mark.parametrize("attack", [Rmle(), RmlePublished("code"), LeastSquares()], ids=repr)
def test_a_deadline_ends_the_run(attack: Attack) -> None:
    found = attack(make_target("linear", photographs(1)), deadline_s=1e-9)
    assert found.steps == 1
    assert not found.converged
    with pytest.raises(AttackError, match="expected a deadline above 0 s, got 0"):
        attack(make_target("linear", photographs(1)), deadline_s=0.0)


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    Rmle(passes=6)(make_target("relu", photographs(1)), progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_plateau_is_told_by_the_effort_not_by_the_steps() -> None:
    plateau = Plateau(window=0.2, tolerance=0.01, min_steps=10)
    falling = [1.0 / (k + 1) for k in range(100)]
    assert not plateau.reached(falling)
    assert plateau.reached(falling[:50] + [falling[49]] * 50)
    assert plateau.reached([1.0] * 50 + [math.e] * 50)
    assert not plateau.reached([1.0] * 9)
    assert not plateau.reached([1.0] * 50 + [math.nan])
    # A step size that decays to nothing makes the loss stand still without anything being reached.
    sizes = [0.5 ** (k / 5) for k in range(100)]
    done, losses = 0.0, []
    for size in sizes:
        done += size
        losses.append(1.0 - 0.05 * done)
    assert plateau.reached(losses)
    assert not plateau.reached(losses, sizes)
    with pytest.raises(ValueError, match="expected 2 efforts, got 1"):
        plateau.reached([1.0, 1.0], [1.0])


def test_a_target_must_be_whole() -> None:
    with pytest.raises(AttackError, match="one or more tensors with one batch size"):
        AttackTarget((torch.zeros(2, 3), torch.zeros(1, 3)), None, SHAPE)
    with pytest.raises(AttackError, match="expected finite smashed data"):
        AttackTarget((torch.tensor([[math.inf]]),), None, SHAPE)
    target = make_target("relu", photographs(2))
    with pytest.raises(AttackError, match="expected originals of shape"):
        run_attack(Rmle(), target, photographs(1))
    other = AttackTarget((torch.zeros(2, 5),), target.pixel_head, SHAPE)
    with pytest.raises(AttackError, match="of different cuts"):
        Rmle()(other)
    assert target.pixel_head is not None
    target.pixel_head.train()
    with pytest.raises(AttackError, match="got one in training mode"):
        Rmle()(target)


def test_settings_that_cannot_be_meant() -> None:
    with pytest.raises(AttackError, match="at least 2 passes"):
        Rmle(passes=1)
    with pytest.raises(AttackError, match="weights of zero or more"):
        Rmle(tv_weight=-1)
    with pytest.raises(AttackError, match="variant 'paper' or 'code'"):
        RmlePublished("other")
    with pytest.raises(AttackError, match="at least 1 iteration"):
        LeastSquares(iterations=0)


def test_threat_models_in_words() -> None:
    assert str(WHITE_BOX) == "white-box: head's weights known; passive; no data"
    worse = ThreatModel(weights=False, architecture=False, auxiliary_data=True, queries=True)
    assert str(worse) == "black-box: head unknown; queries; passive; pictures of his own"
    assert "active; labels" in str(ThreatModel(weights=False, labels=True, active=True))


def test_the_registry() -> None:
    assert find_attack("rmle") is Rmle
    names = [row["name"] for row in attacks_table()]
    assert names == sorted(names)
    assert {"least-squares", "rmle", "rmle-he2019"} <= set(names)
    for row in attacks_table():
        attack = find_attack(row["name"])
        assert all(row.values())
        for preset in attack.presets:
            assert repr(attack.preset(preset)).startswith(f"{row['name']}({preset}")
    with pytest.raises(UnknownNameError, match="unknown attack 'rmel': did you mean rmle"):
        find_attack("rmel")
    with pytest.raises(UnknownNameError, match="unknown preset of rmle 'slow'"):
        Rmle.preset("slow")

    class Impostor(Rmle):
        """Another attack under a name that is taken."""

    with pytest.raises(ValueError, match="registered twice"):
        register(Impostor)


def test_the_spectral_coordinates_are_a_change_of_basis() -> None:
    image = SpectralImage(SHAPE)
    pixels = photographs(2)
    assert torch.allclose(image.pixels(image.white(pixels)), pixels, atol=1e-5)
    assert torch.equal(image.pixels(image.origin(2)), torch.full_like(pixels, 0.5))
    # White noise in these coordinates has the prior's variance in pixels: Σ variances / pixels.
    draw = torch.Generator().manual_seed(0)
    sample = image.pixels(torch.randn(2000, *SHAPE, generator=draw)) - 0.5
    expected = float(image.deviation.square().sum()) / image.deviation.numel()
    assert float(sample.square().mean()) == pytest.approx(expected, rel=0.1)


def test_lbfgs_solves_independent_problems_of_different_scale() -> None:
    """Quadratics with known minima, one of them a million times as steep, and a NaN region."""
    minima = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    curvature = torch.tensor([[1.0, 10.0, 100.0], [1e6, 2e6, 3e6]], dtype=torch.float64)
    calls = []

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(x)
        loss = 0.5 * (curvature * (x - minima) ** 2).sum(1)
        return torch.where(x.abs().max(1).values < 50, loss, torch.nan), curvature * (x - minima)

    start = torch.zeros(2, 3, dtype=torch.float64)
    search = BatchedLbfgs(evaluate, start, history=5, first_step=100.0)
    losses = [search.loss]
    for _ in range(60):
        search.advance()
        losses.append(search.loss)
    assert torch.allclose(search.point, minima, atol=1e-5)
    assert bool((torch.stack(losses).diff(dim=0) <= 0).all())
    assert len(calls) == 61


def test_objectives_in_closed_form() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 3, 4)
    assert float(total_variation(ramp, 1.0)) == pytest.approx(9.0, rel=1e-4)
    assert float(total_variation(2 * ramp, 2.0)) == pytest.approx(36.0)
    assert float(mean_square_variation(2 * ramp)) == pytest.approx(4.0)
    pixels = photographs(2)
    target = make_target("pair", pixels)
    view = target.granted(WHITE_BOX)
    grey = torch.full_like(pixels, 0.5)
    assert target.pixel_head is not None
    with torch.no_grad():
        near, far = (a - b for a, b in zip(target.pixel_head(grey), view.observation, strict=True))
        summed = FeatureDistance.summed(view)(grey)
        relative = FeatureDistance.relative(view)(grey)
        averaged = FeatureDistance.averaged(view)(grey)
    squares = [t.square().flatten(1).sum(1) for t in (near, far)]
    energies = [t.square().flatten(1).sum(1) for t in view.observation]
    assert torch.allclose(summed, squares[0] + squares[1], rtol=1e-4)
    assert torch.allclose(relative, (squares[0] / energies[0] + squares[1] / energies[1]) / 2)
    assert torch.allclose(averaged, summed / (near[0].numel() + far[0].numel()), rtol=1e-4)
