"""The defences that the guard is compared with: each does what it declares, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from textures import accuracy, fingerprint, textures, trained_victim
from torch import Tensor, nn

from splitdeploy.attacks.defences import registry
from splitdeploy.attacks.defences.added_noise import GaussianNoise, LaplaceNoise
from splitdeploy.attacks.defences.base import Defence, Defended, Victim
from splitdeploy.attacks.defences.halves import answers, minibatches, root_mean_squares
from splitdeploy.attacks.defences.masks import ChannelPruning, Dropout, channel_importance
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import DefenceError, UnknownNameError


class TwoTensors(nn.Module):
    """A boundary of a feature map and a vector of quite another size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), 100.0 * x.mean(dim=(2, 3))


class TwoTensorTail(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 3)

    def forward(self, z: Tensor, means: Tensor) -> Tensor:
        return self.linear(torch.cat([z.square().mean(dim=(2, 3)), means / 100.0], dim=1))


def two_tensors(scale: float = 1.0) -> Victim:
    torch.manual_seed(3)
    head, tail = TwoTensors(), TwoTensorTail()
    head.conv.weight.data *= scale
    head.conv.bias.data *= scale
    pixels = PixelHead(head, [0.5] * 3, [0.25] * 3)
    images = textures(40, seed=9)[0]
    return Victim(pixels.eval().requires_grad_(False), tail.eval().requires_grad_(False), images)


def noise_of(defended: Defended, images: Tensor, seed: int = 0) -> tuple[Tensor, ...]:
    sent = defended.send(images, torch.Generator().manual_seed(seed))
    return tuple(a - b for a, b in zip(sent, defended.head(images), strict=True))


# The variance of ε² is 2 for a normal, 20 for a Laplace variable of scale 1 (E ε⁴ = 24).
@pytest.mark.parametrize(
    ("defence", "power", "spread"),
    [(GaussianNoise(0.3), 1.0, 2.0), (LaplaceNoise(0.3), 2.0, 20.0)],
    ids=["gaussian", "laplace"],
)
def test_noise_has_the_declared_power(defence: Defence, power: float, spread: float) -> None:
    victim = two_tensors()
    tensors = [t.double().numpy() for t in victim.head(victim.images)]
    for noise, tensor in zip(noise_of(defence.fit(victim), victim.images), tensors, strict=True):
        squares = (noise.double().numpy() / (0.3 * np.sqrt(np.mean(tensor**2)))) ** 2
        # Five standard errors: one false alarm in two million.
        assert abs(squares.mean() - power) < 5 * math.sqrt(spread / squares.size)


@pytest.mark.parametrize(
    ("defence", "law"),
    [(GaussianNoise(1.0), stats.norm), (LaplaceNoise(1.0), stats.laplace)],
    ids=["gaussian", "laplace"],
)
def test_noise_follows_the_declared_law(defence: Defence, law: stats.rv_continuous) -> None:
    victim = two_tensors()
    noise = noise_of(defence.fit(victim), victim.images)[0]
    relative = noise.flatten().numpy() / root_mean_squares(victim)[0]
    assert stats.kstest(relative, law.cdf).pvalue > 1e-4


def test_noise_scales_with_the_features() -> None:
    small, large = (GaussianNoise(0.2).fit(two_tensors(scale)) for scale in (1.0, 50.0))
    assert float(large.perturbations[0].scale) == pytest.approx(
        50 * float(small.perturbations[0].scale), rel=1e-5
    )
    assert torch.equal(large.perturbations[1].scale, small.perturbations[1].scale)


def test_dropout_is_unbiased_and_drops_its_share() -> None:
    victim = two_tensors()
    defended = Dropout(0.3).fit(victim)
    tensors = victim.head(victim.images[:1])
    many = tuple(tensor.repeat(3000, *[1] * (tensor.ndim - 1)) for tensor in tensors)
    sent = defended.perturb(many, torch.Generator().manual_seed(0))
    for draws, z in zip(sent, tensors, strict=True):
        kept = draws != 0
        assert torch.allclose(draws[kept], (z / 0.7).expand_as(draws)[kept], rtol=1e-5)
        error = math.sqrt(0.3 * 0.7 / draws.numel())
        assert abs(float((~kept).float().mean()) - 0.3) < 5 * error
        # The mean of the mask over draws has standard error √(rate/((1 − rate)·draws)); the
        # largest of a thousand elements stays below six of them.
        worst = ((draws.mean(dim=0) - z[0]) / z[0]).abs().max()
        assert float(worst) < 6 * math.sqrt(0.3 / 0.7 / 3000)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_pruning_leaves_the_declared_share_of_channels(share: float) -> None:
    victim = trained_victim()
    defended = ChannelPruning(share).fit(victim)
    sent = defended.send(victim.images[:20], torch.Generator())[0]
    plain = victim.head(victim.images[:20])[0]
    gone = (sent == 0).all(dim=3).all(dim=2).all(dim=0)
    assert int(gone.sum()) == round(share * 12)
    assert torch.equal(sent[:, ~gone], plain[:, ~gone])
    assert f"{round(share * 12)} of 12 channels" in defended.text


def test_pruning_keeps_one_channel() -> None:
    gates = ChannelPruning(0.99).fit(two_tensors()).perturbations
    assert [int(p.gate.sum()) for p in gates] == [1, 1]


def test_pruning_the_least_important_costs_less_than_the_most() -> None:
    victim = trained_victim()
    images, classes = textures(400, seed=5)
    least, most = (
        accuracy(ChannelPruning(0.5, most_important=worst).fit(victim), images, classes, draws=1)
        for worst in (False, True)
    )
    # 400 pictures: one point is 2.5 standard errors at most; the gap is tens of points.
    assert least > most + 0.15


def test_importance_is_the_slope_of_the_answer_in_the_channels_gate() -> None:
    victim = two_tensors()
    importance = channel_importance(victim)
    head, tail = victim.head.double(), victim.tail.double()
    images = victim.images.double()
    tensors = head(images)
    wanted = tail(*tensors).argmax(dim=1)
    step = 1e-5

    def chances(place: int, channel: int, gate: float) -> Tensor:
        changed = [tensor.clone() for tensor in tensors]
        changed[place][:, channel] *= gate
        return tail(*changed).log_softmax(1)[torch.arange(len(images)), wanted]

    for place, found in enumerate(importance):
        for channel in range(found.numel()):
            slope = (chances(place, channel, 1 + step) - chances(place, channel, 1 - step)) / step
            oracle = float(slope.abs().mean()) / 2
            assert float(found.flatten()[channel]) == pytest.approx(oracle, rel=1e-3, abs=1e-5)


def test_channels_of_tokens_are_their_features() -> None:
    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)  # [n, 256 tokens, 3 features]

    tail = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).eval()
    victim = Victim(PixelHead(Tokens(), [0.0], [1.0]).eval(), tail, textures(10, seed=1)[0])
    assert channel_importance(victim)[0].shape == (1, 1, 3)


def test_answers_are_labels_or_the_models_own() -> None:
    victim = two_tensors()
    own = victim.tail(*victim.head(victim.images)).argmax(dim=1)
    assert torch.equal(answers(victim), own)
    labels = (own + 1) % 3
    assert torch.equal(answers(Victim(victim.head, victim.tail, victim.images, labels)), labels)


def test_minibatches_show_every_picture_once_an_epoch() -> None:
    turns = list(minibatches(20, 5, 3, torch.Generator().manual_seed(0)))
    for epoch in range(3):
        seen = torch.cat([chosen for chosen, _ in turns[4 * epoch : 4 * epoch + 4]])
        assert sorted(seen.tolist()) == list(range(20))
    shares = [share for _, share in turns]
    assert shares == pytest.approx([(n + 1) / 12 for n in range(12)])


PLAIN: list[Callable[[], Defence]] = [
    lambda: GaussianNoise(0.5),
    lambda: LaplaceNoise(0.5),
    lambda: Dropout(0.3),
    lambda: ChannelPruning(0.4),
]


@pytest.mark.parametrize("make", PLAIN, ids=lambda make: make().name)
def test_plain_defences_leave_the_victim_and_repeat(make: Callable[[], Defence]) -> None:
    victim = trained_victim()
    before = fingerprint(victim.head, victim.tail)
    first, second = make().fit(victim, seed=4), make().fit(victim, seed=4)
    assert fingerprint(victim.head, victim.tail) == before
    assert first.head is victim.head
    assert first.tail is victim.tail
    for one, other in zip(first.perturbations, second.perturbations, strict=True):
        assert torch.equal(one.gate, other.gate)
        assert torch.equal(one.scale, other.scale)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise(0.0), r"standard deviation relative .* on \(0, inf\), got 0"),
        (lambda: GaussianNoise(math.inf), r"on \(0, inf\), got inf"),
        (lambda: LaplaceNoise(-1.0), r"scale relative .* on \(0, inf\), got -1"),
        (lambda: LaplaceNoise(math.nan), r"on \(0, inf\), got nan"),
        (lambda: Dropout(1.0), r"a drop rate on \[0, 1\), got 1"),
        (lambda: ChannelPruning(-0.1), r"a share of the channels on \[0, 1\), got -0.1"),
    ],
)
def test_strengths_out_of_range_are_refused(make: Callable[[], Defence], message: str) -> None:
    with pytest.raises(DefenceError, match=message):
        make()


def test_victims_that_cannot_be_defended_are_refused() -> None:
    good = two_tensors()
    none, few = good.images[:0], torch.zeros(3, dtype=torch.int64)
    with pytest.raises(DefenceError, match=r"expected pictures \[n, c, h, w\] .* got \[0, 3"):
        GaussianNoise(1.0).fit(Victim(good.head, good.tail, none))
    with pytest.raises(DefenceError, match=r"a label for each of 40 pictures, got \[3\]"):
        Dropout(0.1).fit(Victim(good.head, good.tail, good.images, few))
    labels = torch.full((40,), 3)
    with pytest.raises(DefenceError, match=r"labels from 0 to 2, got 3 to 3"):
        ChannelPruning(0.5).fit(Victim(good.head, good.tail, good.images, labels))
    training = two_tensors()
    training.tail.train()
    with pytest.raises(DefenceError, match=r"tail in eval mode, .* call tail.eval\(\)"):
        GaussianNoise(1.0).fit(training)


def test_heads_without_usable_smashed_data_are_refused() -> None:
    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.round().long()

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 0.0

    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0.0

    good = two_tensors()
    for head, message in (
        (Whole(), r"floating-point numbers, got torch.int64 in boundary tensor 0"),
        (Broken(), r"NaN or infinity in boundary tensor 0"),
        (Silent(), r"zeros throughout boundary tensor 0"),
    ):
        victim = Victim(PixelHead(head, [0.0], [1.0]).eval(), good.tail, good.images)
        with pytest.raises(DefenceError, match=message):
            GaussianNoise(1.0).fit(victim)


def test_a_tail_that_is_no_classifier_is_refused() -> None:
    victim = trained_victim()
    maps = Victim(victim.head, nn.Identity().eval(), victim.images)
    with pytest.raises(DefenceError, match=r"a tail that gives \[n, classes\], got \[250, 12"):
        ChannelPruning(0.5).fit(maps)


def test_registry_names_every_defence_once() -> None:
    table = registry.defences_table()
    names = [row["name"] for row in table]
    assert names == sorted(set(names))
    assert {"gaussian", "laplace", "dropout", "pruning", "nopeek", "shredder"} <= set(names)
    assert all(row["strength"] and row["paper"] for row in table)
    assert registry.find_defence("laplace") is LaplaceNoise


def test_registry_refuses_unknown_and_doubled_names() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown defence 'gausian': did you mean gaussian"):
        registry.find_defence("gausian")

    class Other(GaussianNoise):
        pass

    with pytest.raises(ValueError, match=r"'gaussian' is registered twice"):
        registry.register(Other)
    assert registry.register(GaussianNoise) is GaussianNoise
