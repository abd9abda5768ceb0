"""Shadow models: what a tail, labels and what is seen of the traffic give away about a head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import Attack, run_attack
from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.maps import as_map, from_map
from splitdeploy.attacks.own_head import OwnHead
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.query_shadow import QueryShadow
from splitdeploy.attacks.shadow import Shadow, ShadowOtherNet
from splitdeploy.attacks.statistics import Statistics
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.attacks.textures import dead_leaves
from splitdeploy.profiles.errors import AttackError

SHAPE = (3, 16, 16)


def pictures(count: int, seed: int) -> Tensor:
    return dead_leaves(count, SHAPE, torch.Generator().manual_seed(seed))


def labelled(pixels: Tensor) -> Tensor:
    """Four classes: bright or dark, warm or cold."""
    bright = pixels.mean((1, 2, 3)) > 0.5
    warm = pixels[:, 0].mean((1, 2)) > pixels[:, 2].mean((1, 2))
    return 2 * bright.long() + warm.long()


def head_and_tail() -> tuple[PixelHead, nn.Module]:
    torch.manual_seed(3)
    head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    tail = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(32, 4))
    return PixelHead(head, (0.5,) * 3, (0.25,) * 3).eval(), tail.eval()


def target(own: int = 64) -> tuple[AttackTarget, Tensor]:
    """A head under attack, with a tail fitted to it, and the pictures that were sent."""
    head, tail = head_and_tail()
    training = pictures(256, 5)
    classes = labelled(training)
    optimiser = torch.optim.Adam(tail.parameters(), lr=0.05)
    with torch.no_grad():
        features = head(training)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(tail(*features), classes).backward()
        optimiser.step()
    originals, mine = pictures(12, 1), pictures(own, 2)
    with torch.no_grad():
        observation = head(originals)
    auxiliary = Auxiliary(mine, "same distribution", labelled(mine))
    return AttackTarget(observation, head, SHAPE, tail=tail, auxiliary=auxiliary), originals


def test_a_query_shadow_is_as_good_as_the_weights() -> None:
    attacked, originals = target()
    record, found = run_attack(QueryShadow(steps=150, batch=16, passes=100), attacked, originals)
    assert record.psnr_db > best_baseline(originals).psnr_db + 6
    assert not found.notes


@pytest.mark.parametrize(
    "attack",
    [cls(steps=120, batch=32, learning_rate=1e-2, passes=60) for cls in (Shadow, ShadowOtherNet)],
    ids=repr,
)
def test_without_queries_more_than_a_guess_comes_back(attack: Attack) -> None:
    attacked, originals = target()
    record, _ = run_attack(attack, attacked, originals)
    assert record.ssim > best_baseline(originals).ssim + 0.1


@pytest.mark.parametrize("attack", [Shadow("he2019"), ShadowOtherNet("he2019")], ids=repr)
def test_the_published_settings_run(attack: Attack) -> None:
    attacked, originals = target(own=32)
    record, found = run_attack(attack, attacked, originals, deadline_s=1.0)
    assert found.steps >= 2
    assert record.name == attack.name


def test_statistics_that_agree_are_at_no_distance() -> None:
    head, _ = head_and_tail()
    other = PixelHead(nn.Conv2d(3, 8, 3, padding=1), (0.5,) * 3, (0.25,) * 3).eval()
    with torch.no_grad():
        seen, same, unlike = head(pictures(64, 1)), head(pictures(64, 2)), other(pictures(64, 2))
    statistics = Statistics(seen)
    assert float(statistics.distance(seen)) == pytest.approx(0.0, abs=1e-8)
    close, far = float(statistics.distance(same)), float(statistics.distance(unlike))
    assert close < 0.1 * far
    vectors = Statistics((seen[0].flatten(1)[:, :20],))
    assert float(vectors.distance((same[0].flatten(1)[:, :20],))) < 1.0


def test_the_shadow_learns_what_the_observation_looks_like() -> None:
    attacked, _ = target()
    assert attacked.auxiliary is not None
    mine = attacked.auxiliary.pixels()
    statistics = Statistics(attacked.observation)
    told = []
    for weight in (0.0, 3.0):
        attack = Shadow(steps=100, batch=32, learning_rate=1e-2, statistics_weight=weight)
        shadow = attack.shadow(attacked.granted(attack.threat), Run(0, None, None))
        with torch.no_grad():
            told.append(float(statistics.distance(shadow(mine))))
    assert told[1] < 0.3 * told[0]


def test_what_a_shadow_needs_is_told() -> None:
    attacked, _ = target(own=8)
    assert attacked.auxiliary is not None
    with pytest.raises(AttackError, match=r"shadow needs labels of the attacker's own pictures"):
        Shadow()(replace(attacked, auxiliary=replace(attacked.auxiliary, labels=None)))
    with pytest.raises(AttackError, match="shadow needs pictures of the attacker's own"):
        Shadow()(replace(attacked, auxiliary=None))
    with pytest.raises(AttackError, match="query-shadow needs pictures of the attacker's own"):
        QueryShadow()(replace(attacked, auxiliary=None))
    with pytest.raises(AttackError, match="shadow-other-net needs the tail in torch"):
        ShadowOtherNet()(replace(attacked, tail=None))
    wrong = replace(attacked.auxiliary, labels=torch.full((8,), 9))
    with pytest.raises(AttackError, match="expected labels below 4, .* got 9"):
        Shadow()(replace(attacked, auxiliary=wrong))


def test_the_victims_weights_leave_no_trace() -> None:
    """Two victims that send the same by other weights are attacked in the same way."""
    attacked, _ = target(own=16)
    torch.manual_seed(9)
    other = PixelHead(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), (0.5,) * 3,
                      (0.25,) * 3).eval()  # fmt: skip
    attack = Shadow(steps=4, batch=8, passes=4)
    assert torch.equal(attack(attacked).pixels, attack(replace(attacked, pixel_head=other)).pixels)
    blind = ShadowOtherNet(steps=4, batch=8, passes=4)
    assert blind.applies(replace(attacked, pixel_head=None))
    assert blind(replace(attacked, pixel_head=None)).steps > 4


def test_a_resumed_shadow_is_one_without_interruption(tmp_path: Path) -> None:
    attacked, _ = target(own=16)
    attack = Shadow(steps=6, batch=8, passes=4)
    whole = attack(attacked)
    tail, calls = attacked.tail, 0
    assert tail is not None

    class Failing(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > 4:
                raise KeyboardInterrupt
            assert tail is not None
            logits: Tensor = tail(*tensors)
            return logits

        def __deepcopy__(self, memo: object) -> Failing:
            return self

    with pytest.raises(KeyboardInterrupt):
        attack(replace(attacked, tail=Failing()), folder=tmp_path)
    resumed = attack(attacked, folder=tmp_path)
    assert resumed.steps == whole.steps - 3
    assert torch.equal(resumed.pixels, whole.pixels)


def test_a_training_that_diverges_is_told() -> None:
    attacked, originals = target(own=8)
    calls = 0

    def failing(pixels: Tensor, seed: int) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        assert attacked.pixel_head is not None
        sent = attacked.pixel_head(pixels)
        return tuple(t * torch.nan for t in sent) if calls == 6 else sent

    attack = QueryShadow(steps=20, batch=4, passes=5)
    found = attack(replace(attacked, query=failing))
    assert any("training diverged at step 6 of 20" in note for note in found.notes)
    assert bool(torch.isfinite(found.pixels).all())
    assert found.pixels.shape == originals.shape


@pytest.mark.parametrize(
    "shape", [(64, 16, 16), (8, 12, 12), (16, 8, 8), (16, 4, 4), (16, 16, 9), (17, 6), (16, 6),
              (20,), (2, 3, 2, 5)]
)  # fmt: skip
def test_heads_of_ones_own_match_what_is_seen(shape: tuple[int, ...]) -> None:
    seen = (torch.rand(2, *shape), torch.randn(2, 5))
    head = OwnHead(seen, SHAPE)
    first, second = head(torch.randn(3, *SHAPE))
    assert first.shape == (3, *shape) and second.shape == (3, 5)
    assert float(first.min()) >= 0.0 > float(second.min())
    assert torch.allclose(from_map(as_map(seen[0]), shape), seen[0])


def test_settings_that_cannot_be_meant() -> None:
    with pytest.raises(AttackError, match="variant 'ours' or 'he2019', at least 1 step"):
        Shadow("theirs")
    with pytest.raises(AttackError, match="statistics_weight of zero or more, got -1"):
        Shadow(statistics_weight=-1)
    with pytest.raises(AttackError, match="variant 'ours' or 'he2019', at least 1 step"):
        QueryShadow(steps=0)
