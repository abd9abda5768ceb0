"""NoPeek and Shredder: what they learn does what their papers say, and the victim stays whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_models import SmallResNet
from textures import accuracy, fingerprint, textures, trained_victim
from torch import Tensor, nn

from splitdeploy.attacks.defences.added_noise import LaplaceNoise
from splitdeploy.attacks.defences.base import Defence, Victim, standard_laplace
from splitdeploy.attacks.defences.nopeek import NoPeek, sample_distance_correlation, trainable
from splitdeploy.attacks.defences.shredder import Shredder, fit_laplace
from splitdeploy.attacks.leakage.distance_correlation import distance_correlation
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.partitioner.head_module import torch_head
from splitdeploy.partitioner.trace import trace_module
from splitdeploy.profiles.errors import DefenceError


def dcor_by_loops(x: NDArray[np.float64], z: NDArray[np.float64]) -> float:
    """Székely, Rizzo and Bakirov 2007, eqs. 2.8 to 2.10, word by word."""

    def centred(v: NDArray[np.float64]) -> NDArray[np.float64]:
        n = len(v)
        a = np.array([[np.linalg.norm(v[i] - v[j]) for j in range(n)] for i in range(n)])
        return np.array([
            [a[i, j] - a[i].mean() - a[:, j].mean() + a.mean() for j in range(n)] for i in range(n)
        ])

    a, b = centred(x), centred(z)
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


@pytest.mark.parametrize("seed", range(5))
def test_sample_distance_correlation_is_that_of_its_paper(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 2, 3, generator=generator, dtype=torch.float64)
    z = x.flatten(1)[:, :4].sin() + seed * torch.randn(
        12, 4, generator=generator, dtype=torch.float64
    )
    oracle = dcor_by_loops(x.flatten(1).numpy(), z.numpy())
    assert float(sample_distance_correlation(x, z)) == pytest.approx(oracle, rel=1e-9)
    assert float(sample_distance_correlation(x, 3.0 * x)) == pytest.approx(1.0, rel=1e-9)
    assert float(sample_distance_correlation(x, torch.ones_like(z))) < 1e-6


def test_its_gradient_is_right_and_finite_where_pictures_repeat() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    z = torch.randn(7, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: sample_distance_correlation(x, z), (z,))
    twice = torch.cat([z.detach()[:4], z.detach()[:4]]).float().requires_grad_()
    value = sample_distance_correlation(torch.cat([x[:4], x[:4]]).float(), twice)
    (gradient,) = torch.autograd.grad(value, twice)
    assert bool(torch.isfinite(gradient).all())


def test_nopeek_lowers_the_distance_correlation_at_similar_accuracy() -> None:
    victim = trained_victim()
    images, classes = textures(300, seed=5)
    control, trained = (
        NoPeek(weight, epochs=12, batch=64, learning_rate=5e-3).fit(victim)
        for weight in (0.0, 20.0)
    )
    before, after = (
        distance_correlation(images[:120], d.head(images[:120])[0]) for d in (control, trained)
    )
    assert before.value - after.value > 3 * after.standard_error  # errors of the same pictures
    assert accuracy(trained, images, classes, 1) > accuracy(control, images, classes, 1) - 0.03


def test_nopeek_trains_traced_halves_whose_weights_are_buffers() -> None:
    torch.manual_seed(0)
    trace = trace_module(SmallResNet().eval(), (torch.zeros(1, 3, 16, 16),))
    relu = next(node.outputs[0] for node in trace.graph.nodes if node.name.startswith("relu"))
    head = PixelHead(torch_head(trace.program, [relu]), [0.5] * 3, [0.25] * 3).eval()
    tail = nn.Sequential(nn.Flatten(), nn.LazyLinear(4)).eval()
    images, classes = textures(16, seed=1)
    tail(head(images)[0])
    tail.requires_grad_(False)
    before = fingerprint(head, tail)
    defended = NoPeek(1.0, epochs=2, batch=8).fit(Victim(head, tail, images, classes))
    assert fingerprint(head, tail) == before
    changed = [
        not torch.equal(a, b)
        for a, b in zip(trainable(head.head), trainable(defended.head.head), strict=True)
    ]
    assert all(changed)
    assert torch.equal(defended.head.mean, head.mean)


def test_what_trains_leaves_running_statistics_out() -> None:
    parts = nn.Module()
    parts.register_buffer("weight", torch.ones(2))
    parts.register_buffer("b_norm_running_mean", torch.ones(2))
    parts.register_buffer("b_norm_running_var", torch.ones(2))
    parts.register_buffer("b_norm_num_batches_tracked", torch.tensor(3))
    assert [t is parts.weight for t in trainable(parts)] == [True]
    assert len(trainable(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))) == 4


def test_learned_noise_costs_less_than_plain_noise_of_the_same_power() -> None:
    victim = trained_victim()
    images, classes = textures(400, seed=5)
    plain = LaplaceNoise(2.0).fit(victim)
    learned = Shredder(2.0, steps=120, collection=16, batch=64).fit(victim)
    scale = learned.perturbations[0].scale
    assert scale.shape == (1, 12, 16, 16)
    assert float(scale.square().mean().sqrt()) == pytest.approx(
        float(plain.perturbations[0].scale), rel=1e-5
    )
    # 400 pictures, five draws: a standard error of at most 2 points for the difference.
    gained = accuracy(learned, images, classes) - accuracy(plain, images, classes)
    assert gained > 0.05
    assert learned.head is victim.head
    assert learned.tail is victim.tail


def test_laplace_is_recovered_from_a_collection() -> None:
    generator = torch.Generator().manual_seed(0)
    location = torch.tensor([[-3.0, 0.0, 5.0]])
    scale = torch.tensor([[0.5, 1.0, 2.0]])
    draws = location + scale * standard_laplace(torch.empty(20_000, 3), generator)
    fitted = fit_laplace(draws, rms_scale=float(scale.square().mean().sqrt()))
    # The median errs by b/√m, the mean absolute deviation by b/√m: 0.7 % of the scale.
    assert torch.allclose(fitted.shift, location, atol=5 * 2.0 / math.sqrt(20_000))
    assert torch.allclose(fitted.scale, scale, rtol=5 / math.sqrt(20_000))
    for few in (4, 5):
        assert np.allclose(fit_laplace(draws[:few], 1.0).shift, np.median(draws[:few], axis=0))
    with pytest.raises(DefenceError, match="noise tensors that differ, got equal ones"):
        fit_laplace(torch.ones(5, 3), 1.0)


def test_shredder_learns_for_boundaries_of_several_tensors_without_labels() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x[:, :, ::4, ::4], 10.0 * x.mean(dim=(2, 3))

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.linear(a.mean(dim=(2, 3)) + b)

    torch.manual_seed(0)
    victim = Victim(PixelHead(Two(), [0.5], [0.25]).eval(), Sum().eval(), textures(20, 1)[0])
    fitted = Shredder(0.5, steps=5, collection=4, batch=8).fit(victim)
    assert [tuple(p.scale.shape) for p in fitted.perturbations] == [(1, 3, 4, 4), (1, 3)]


TRAINED: list[Callable[[], Defence]] = [
    lambda: NoPeek(1.0, epochs=1, batch=200),
    lambda: Shredder(0.5, steps=6, collection=8, batch=32),
]


@pytest.mark.parametrize("make", TRAINED, ids=lambda make: make().name)
def test_training_leaves_the_victim_and_repeats_by_seed(make: Callable[[], Defence]) -> None:
    victim = trained_victim()
    before = fingerprint(victim.head, victim.tail)
    one, again, other = (make().fit(victim, seed=seed) for seed in (4, 4, 5))
    assert fingerprint(victim.head, victim.tail) == before
    images = victim.images[:3]
    sent = [d.send(images, torch.Generator().manual_seed(0))[0] for d in (one, again, other)]
    assert torch.equal(sent[0], sent[1])
    assert not torch.equal(sent[0], sent[2])
    assert not sent[0].requires_grad


@pytest.mark.parametrize("make", TRAINED, ids=lambda make: make().name)
def test_training_tells_its_progress_and_stops_when_asked(make: Callable[[], Defence]) -> None:
    victim = trained_victim()
    before = fingerprint(victim.head, victim.tail)
    shares: list[float] = []
    defence = make()
    defence.progress = shares.append
    defence.fit(victim)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)

    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    defence.progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        defence.fit(victim)
    assert fingerprint(victim.head, victim.tail) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoPeek(-1.0), r"weight of the distance correlation on \[0, inf\), got -1"),
        (lambda: NoPeek(1.0, epochs=0), r"number of epochs on \[1, inf\), got 0"),
        (lambda: NoPeek(1.0, batch=4), r"minibatch on \[8, inf\), got 4"),
        (lambda: NoPeek(1.0, learning_rate=0.0), r"learning rate on \(0, 1\), got 0"),
        (lambda: Shredder(0.0), r"root mean square on \(0, inf\), got 0"),
        (lambda: Shredder(1.0, steps=0), r"number of steps on \[1, inf\), got 0"),
        (lambda: Shredder(1.0, collection=3), r"collection of noise tensors on \[4, inf\), got 3"),
        (lambda: Shredder(1.0, batch=8), r"minibatch on \[16, inf\), got 8"),
        (lambda: Shredder(1.0, reward=0.0), r"reward of large noise on \(0, inf\), got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(make: Callable[[], Defence], message: str) -> None:
    with pytest.raises(DefenceError, match=message):
        make()


def test_victims_that_cannot_be_trained_are_refused() -> None:
    good = trained_victim()
    few = Victim(good.head, good.tail, good.images[:5])
    with pytest.raises(DefenceError, match="at least 8 pictures to train on, got 5"):
        NoPeek(1.0).fit(few)
    with pytest.raises(
        DefenceError, match="at least 16 pictures, one for each noise tensor, got 5"
    ):
        Shredder(1.0).fit(few)
    bare = Victim(
        PixelHead(nn.Identity(), [0.5] * 3, [0.25] * 3).eval(),
        nn.Sequential(nn.Flatten(), nn.Linear(768, 4)).eval(),
        good.images[:10],
    )
    with pytest.raises(DefenceError, match="a head with weights to retrain"):
        NoPeek(1.0).fit(bare)


def test_a_training_that_diverges_says_so() -> None:
    class Overflowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(768, 4)

        def forward(self, z: Tensor) -> Tensor:
            # Finite without a gradient, as on setting up; infinite in training.
            scores = self.linear(z.flatten(1))
            return scores * math.inf if torch.is_grad_enabled() else scores

    head = PixelHead(nn.Conv2d(3, 3, 1), [0.5] * 3, [0.25] * 3).eval()
    victim = Victim(head, Overflowing().eval(), textures(16, 1)[0])
    with pytest.raises(
        DefenceError, match=r"diverged at 50% .* lower the learning rate \(0.0003\)"
    ):
        NoPeek(1.0, epochs=1, batch=8).fit(victim)
