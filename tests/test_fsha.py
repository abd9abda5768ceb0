"""Feature-space hijacking opens what an honest training keeps closed, and takes no bad input."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import Reconstruction
from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.quality import judge
from splitdeploy.attacks.registry import attacks_table
from splitdeploy.attacks.split_learning.fsha import Fsha
from splitdeploy.attacks.split_learning.fsha_networks import decoder, discriminator, pilot
from splitdeploy.attacks.split_learning.fsha_server import HijackingServer
from splitdeploy.attacks.split_learning.messages import Labels, SmashedData, SmashedGradient
from splitdeploy.attacks.split_learning.parties import HonestServer
from splitdeploy.attacks.split_learning.parts import Part
from splitdeploy.attacks.split_learning.registry import split_attacks_table
from splitdeploy.attacks.split_learning.setups import label_sharing
from splitdeploy.attacks.training import Learner
from splitdeploy.profiles.errors import AttackError, UnknownNameError

SIZE, STEPS = 12, 160


def _shapes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Discs, squares and crosses of any place, size and grey: ``[n, 1, 12, 12]``, and which."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    down, right = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    y, x = (down - uniform(3.5, 7.5)).abs(), (right - uniform(3.5, 7.5)).abs()
    radius = uniform(2.0, 3.5)
    square = torch.sigmoid(3 * (radius - torch.maximum(y, x)))
    disc = torch.sigmoid(3 * (radius - (y**2 + x**2).sqrt()))
    cross = square * torch.sigmoid(3 * (1 - torch.minimum(y, x)))
    kind = torch.randint(3, (count,), generator=generator)
    chosen = torch.stack([disc, square, cross])[kind, torch.arange(count)]
    ground = uniform(0.0, 0.3)
    return (ground + (uniform(0.6, 1.0) - ground) * chosen).unsqueeze(1), kind


PRIVATE, KINDS = _shapes(96, seed=1)
PUBLIC = Auxiliary(_shapes(1000, seed=2)[0], "same distribution")


def _head() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)
        )


def _attack(steps: int = STEPS, **changes: float) -> Fsha:
    return Fsha(steps=steps, batch=16, critic_width=16, **changes)  # type: ignore[arg-type]


@functools.cache
def _hijacked() -> Reconstruction:
    return _attack()(_head(), PRIVATE, PUBLIC)


def test_it_recovers_more_than_comes_for_nothing() -> None:
    found, baseline = judge(_hijacked().pixels, PRIVATE), best_baseline(PRIVATE)
    assert found.psnr_db > baseline.psnr_db + 1.5
    assert found.ssim_ci95[0] > baseline.ssim
    assert found.mse < baseline.mse
    assert _hijacked().steps == len(_hijacked().losses) == STEPS
    assert not _hijacked().notes


def test_the_same_networks_untrained_recover_nothing() -> None:
    found, baseline = (
        judge(_attack(1)(_head(), PRIVATE, PUBLIC).pixels, PRIVATE),
        best_baseline(PRIVATE),
    )
    assert found.psnr_db < baseline.psnr_db
    assert found.ssim < baseline.ssim


class _Listening:
    """Trains the attacker's networks on the same messages, and answers as an honest server does."""

    def __init__(self, server: HijackingServer, honest: HonestServer) -> None:
        self.server, self.honest, self.loss = server, honest, math.nan

    def answer(self, smashed: SmashedData, labels: Labels) -> SmashedGradient:
        self.server.answer(smashed, labels)
        answer = self.honest.answer(smashed, labels)
        self.loss = self.honest.loss
        return answer

    def learners(self) -> Sequence[Learner]:
        return [*self.server.learners(), *self.honest.learners()]


def test_a_passive_observer_does_not_get_there_with_the_same_networks() -> None:
    generator = torch.Generator().manual_seed(0)
    server = HijackingServer(_attack(), (4, 6, 6), (1, SIZE, SIZE), PUBLIC, generator)

    def optimise(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=1e-3)

    tail = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 3))
    listening = _Listening(server, HonestServer(Part(tail, optimise, "the server")))
    training = label_sharing(_head(), listening, PRIVATE, KINDS, optimise, batch=16)
    training.train(STEPS)
    with torch.no_grad():
        pixels = server.decode(training.joint()(PRIVATE))
    # The autoencoder itself is as good as in the attack; the client was never led to it.
    assert server.loss < 2 * _hijacked().losses[-1]
    found, baseline = judge(pixels, PRIVATE), best_baseline(PRIVATE)
    assert found.psnr_db < baseline.psnr_db
    assert found.psnr_db < judge(_hijacked().pixels, PRIVATE).psnr_db - 3


def test_the_clients_gradient_lowers_the_critic_and_ignores_labels() -> None:
    def answered(labels: Tensor) -> tuple[HijackingServer, Tensor]:
        generator = torch.Generator().manual_seed(0)
        server = HijackingServer(_attack(), (4, 6, 6), (1, SIZE, SIZE), PUBLIC, generator)
        (expected,) = torch.autograd.grad(server.critic(smashed).mean(), smashed)
        gradient = server.answer(SmashedData(0, smashed), Labels(0, labels)).values
        torch.testing.assert_close(gradient, expected)
        return server, gradient

    smashed = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    smashed.requires_grad_()
    first, second = answered(torch.zeros(5)), answered(torch.ones(5))
    assert torch.equal(first[1], second[1])
    assert first[0].loss == second[0].loss


@pytest.mark.parametrize("norm", ["sample", "channel"])
def test_the_penalty_of_a_linear_critic_is_the_closed_form(norm: str) -> None:
    attack = Fsha(penalty=7.0, penalty_norm=norm)  # type: ignore[arg-type]
    server = HijackingServer(attack, (3, 4, 4), (1, 8, 8), PUBLIC, torch.Generator())
    critic = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    server.critic = critic
    slope = critic[1].weight.detach().view(3, 16)
    norms = slope.norm(dim=1) if norm == "channel" else slope.norm().view(1)
    private, points = torch.randn(6, 3, 4, 4), torch.randn(6, 3, 4, 4)
    loss = server._critic_loss(private, points)  # noqa: SLF001 - the formula under test
    distance = critic(points).mean() - critic(private).mean()
    expected = distance + 7.0 * (norms - 1).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_an_interrupted_attack_goes_on_where_it_was(tmp_path: Path) -> None:
    def interrupted(share: float) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _attack(8)(_head(), PRIVATE, PUBLIC, clients=2, folder=tmp_path, progress=interrupted)
    resumed = _attack(8)(_head(), PRIVATE, PUBLIC, clients=2, folder=tmp_path)
    whole = _attack(8)(_head(), PRIVATE, PUBLIC, clients=2)
    assert len(resumed.losses) < len(whole.losses) == 8
    assert torch.equal(resumed.pixels, whole.pixels)
    with pytest.raises(AttackError, match="expected a checkpoint of fsha"):
        _attack(9)(_head(), PRIVATE, PUBLIC, clients=2, folder=tmp_path)


def test_a_divergence_is_told_and_the_last_finite_state_kept() -> None:
    found = _attack(20, client_rate=1e30)(_head(), PRIVATE, PUBLIC)
    assert any("diverged" in note for note in found.notes)
    assert bool(torch.isfinite(found.pixels).all())
    assert not found.converged


def test_a_deadline_ends_it_with_what_it_has() -> None:
    found = _attack(100_000)(_head(), PRIVATE, PUBLIC, deadline_s=0.05)
    assert 1 <= found.steps < 100_000
    assert found.pixels.shape == PRIVATE.shape
    assert not found.converged


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((4, 6, 6), (1, 12, 12)),
        ((5, 12, 12), (3, 12, 12)),
        ((3, 5, 7), (3, 28, 28)),
        ((8, 24, 24), (1, 28, 28)),
        ((10,), (1, 8, 8)),
        ((7, 12), (3, 16, 16)),
    ],
)
def test_the_networks_fit_every_shape(
    shape: tuple[int, ...], image_shape: tuple[int, int, int], linear: bool
) -> None:
    pixels = torch.rand(2, *image_shape)
    points = pilot(shape, image_shape, width=4, linear=linear)(pixels)
    assert points.shape == (2, *shape)
    found = decoder(shape, image_shape, width=4, linear=linear)(points)
    assert found.shape == pixels.shape
    assert bool(((found >= 0) & (found <= 1)).all())
    assert discriminator(shape, width=4, blocks=2)(points).shape == (2, 1)


def test_the_published_settings_are_the_codes() -> None:
    attack = Fsha.preset("published", seed=3)
    assert (attack.batch, attack.client_rate, attack.rate) == (64, 1e-5, 1e-5)
    assert (attack.critic_rate, attack.penalty, attack.penalty_norm) == (1e-4, 500.0, "channel")
    assert attack.linear
    assert attack.seed == 3
    assert repr(attack).startswith("fsha(published, steps=10000, batch=64, client_rate=1e-05")
    assert Fsha.preset().preset_name == "quick"


def test_the_table_has_the_keys_of_the_other_attacks() -> None:
    rows = split_attacks_table()
    assert [row["name"] for row in rows] == ["fsha", "label-inference"]
    assert all(row.keys() == attacks_table()[0].keys() for row in rows)
    assert rows[0]["threat_model"] == "black-box: head unknown; active; pictures of his own"
    assert rows[1]["threat_model"] == "grey-box: head's architecture known; passive; no data"


def test_bad_input_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown preset of fsha 'fast'"):
        Fsha.preset("fast")
    with pytest.raises(AttackError, match="at least one step, picture a batch and channel"):
        Fsha(batch=0)
    with pytest.raises(AttackError, match="positive learning rates and a penalty of 0 or more"):
        Fsha(rate=0.0)
    with pytest.raises(AttackError, match="penalty_norm 'sample' or 'channel', got 'row'"):
        Fsha(penalty_norm="row")  # type: ignore[arg-type]
    attack = _attack(1)
    with pytest.raises(AttackError, match="a deadline above 0 s, got 0"):
        attack(_head(), PRIVATE, PUBLIC, deadline_s=0)
    with pytest.raises(AttackError, match=r"of shape \[1, 12, 12\], got \[3, 12, 12\]"):
        attack(_head(), PRIVATE, Auxiliary(torch.rand(4, 3, SIZE, SIZE)))
    with pytest.raises(AttackError, match="expected 1 to 96 clients for 96 pictures, got 97"):
        attack(_head(), PRIVATE, PUBLIC, clients=97)
    with pytest.raises(AttackError, match="one to three dimensions behind the batch"):
        attack(nn.Sequential(_head(), nn.Unflatten(1, (2, 2))), PRIVATE, PUBLIC)
    with pytest.raises(AttackError, match=r"no larger than the pictures \[1, 12, 12\]"):
        attack(nn.Conv2d(1, 2, 3, padding=4), PRIVATE, PUBLIC)
    with pytest.raises(AttackError, match="expected pictures"):
        attack(_head(), PRIVATE[0], PUBLIC)
