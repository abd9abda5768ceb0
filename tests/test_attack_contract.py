"""What an attack is granted, what a target lacks, and the loop of everything that trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.checkpoint import Checkpoint, digest
from splitdeploy.attacks.fresh import fresh_head
from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import AttackTarget, TargetView
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.attacks.training import Learner, constant, halved, one_cycle, train
from splitdeploy.profiles.errors import AttackError

SHAPE = (1, 8, 8)
NOTHING = ThreatModel(weights=False, architecture=False)


class ToPixels(nn.Module):
    """The only stage of a generator."""

    def forward(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.sigmoid(state[0]).view(-1, *SHAPE),)


def whole_target() -> AttackTarget:
    torch.manual_seed(0)
    head = PixelHead(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), (0.5,), (0.5,)).eval()
    with torch.no_grad():
        observation = head(torch.rand(2, *SHAPE))
    return AttackTarget(
        observation,
        head,
        SHAPE,
        noise_sigma=(torch.tensor(0.1),),
        tail=nn.Flatten(),
        auxiliary=Auxiliary(torch.rand(5, *SHAPE), "same set", torch.arange(5)),
        generator=Generator([ToPixels()], 64, SHAPE),
        labels=torch.tensor([1, 2]),
    )


GRANTS: list[tuple[str, dict[str, bool], Callable[[TargetView], object]]] = [
    ("the head's weights", {"weights": True}, lambda view: view.pixel_head),
    ("the head's architecture", {"architecture": True}, lambda view: view.fresh_head(0)),
    ("queries", {"queries": True}, lambda view: view.query(torch.rand(1, *SHAPE), 0)),
    ("the tail", {"tail": True}, lambda view: view.tail),
    ("pictures of its own", {"auxiliary_data": True}, lambda view: view.auxiliary),
    ("a generator of pictures", {"generator": True}, lambda view: view.generator),
    ("the true labels", {"labels": True}, lambda view: view.labels),
]


@pytest.mark.parametrize(("what", "grant", "take"), GRANTS, ids=[g[0] for g in GRANTS])
def test_nothing_is_had_that_was_not_declared(
    what: str, grant: dict[str, bool], take: Callable[[TargetView], object]
) -> None:
    target = whole_target()
    with pytest.raises(AttackError, match=f"asked for {what}, but its threat model is 'black-box"):
        take(target.granted(NOTHING))
    assert take(target.granted(replace(NOTHING, **grant))) is not None
    others = {name: True for _, other, _ in GRANTS for name in other if other != grant}
    if "weights" not in grant:
        # The weights hold the architecture and answer queries.
        others.pop("weights")
    with pytest.raises(AttackError, match=f"asked for {what}"):
        take(target.granted(replace(NOTHING, **others)))


def test_labels_of_pictures_and_noise_are_grants_of_their_own() -> None:
    target = whole_target()
    assert target.granted(replace(NOTHING, auxiliary_data=True)).auxiliary.labels is None
    both = replace(NOTHING, auxiliary_data=True, auxiliary_labels=True)
    assert target.granted(both).auxiliary.labels is not None
    assert target.granted(replace(NOTHING, weights=True)).noise_sigma is not None
    assert target.granted(replace(NOTHING, queries=True)).noise_sigma is None


class Wanting(Attack):
    """Needs everything."""

    name, cost, paper = "wanting", "", ""
    threat = ThreatModel(
        weights=True, auxiliary_data=True, auxiliary_labels=True, labels=True, queries=True,
        tail=True, generator=True,
    )  # fmt: skip
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"only": {}}

    def _run(self, target: TargetView, run: Run) -> Tensor:
        return torch.zeros(target.images, *target.image_shape)


LACKS = [
    ("pixel_head", "the head in torch .give the model"),
    ("auxiliary", "pictures of the attacker's own .give a folder with --aux-images"),
    ("generator", "a generator of pictures .splitdeploy prior train, then --prior FILE"),
    ("tail", "the tail in torch"),
    ("labels", "the true labels of the pictures"),
]


@pytest.mark.parametrize(("field", "words"), LACKS, ids=[field for field, _ in LACKS])
def test_a_target_without_what_an_attack_needs_is_refused(field: str, words: str) -> None:
    assert Wanting().applies(whole_target())
    without: dict[str, Any] = {field: None}
    poorer = replace(whole_target(), **without)
    assert not Wanting().applies(poorer)
    with pytest.raises(AttackError, match=f"wanting needs .*{words}"):
        Wanting()(poorer)


def test_pictures_without_labels_do_not_do_for_a_shadow() -> None:
    target = whole_target()
    assert target.auxiliary is not None
    poorer = replace(target, auxiliary=replace(target.auxiliary, labels=None))
    with pytest.raises(AttackError, match="labels of the attacker's own pictures .one sub-folder"):
        Wanting()(poorer)


def test_a_query_goes_to_what_is_deployed() -> None:
    """Where something answers, it answers, and not the head in torch."""
    target = whole_target()
    seen = []

    def deployed(pixels: Tensor, seed: int) -> tuple[Tensor, ...]:
        seen.append((len(pixels), seed))
        return (torch.zeros(len(pixels), 3),)

    view = replace(target, query=deployed).granted(replace(NOTHING, queries=True))
    assert view.query(torch.rand(4, *SHAPE), 7)[0].shape == (4, 3)
    assert seen == [(4, 7)]
    own = target.granted(replace(NOTHING, queries=True)).query(torch.rand(4, *SHAPE), 7)
    assert own[0].shape == (4, 4, 6, 6)
    assert not own[0].requires_grad


def test_what_does_not_fit_the_head_is_refused() -> None:
    target = whole_target()
    with pytest.raises(AttackError, match=r"pictures of the attacker's own of shape \[1, 8, 8\]"):
        replace(target, auxiliary=Auxiliary(torch.rand(5, 1, 9, 8)))
    with pytest.raises(AttackError, match=r"a generator of pictures of shape \[1, 8, 8\]"):
        replace(target, generator=Generator([ToPixels()], 64, (1, 9, 8)))
    with pytest.raises(AttackError, match="at least one stage and one latent element, got 0"):
        Generator([], 64, SHAPE)


def test_pictures_of_the_attacker() -> None:
    bytes_ = Auxiliary(torch.full((2, *SHAPE), 255, dtype=torch.uint8))
    assert float(bytes_.pixels().min()) == 1.0
    assert str(bytes_) == "2 pictures, unknown"
    floats = Auxiliary(torch.rand(3, *SHAPE), "same distribution", torch.arange(3))
    assert str(floats) == "3 labelled pictures, same distribution"
    floats.pixels(slice(0, 1)).zero_()
    assert float(floats.images.min(dim=0).values.max()) > 0, "a copy was given"
    with pytest.raises(AttackError, match="with at least one, got"):
        Auxiliary(torch.rand(0, *SHAPE))
    with pytest.raises(AttackError, match="as uint8 or floating point, got torch.int64"):
        Auxiliary(torch.ones(1, *SHAPE, dtype=torch.int64))
    with pytest.raises(AttackError, match="expected 2 labels of the attacker's pictures"):
        Auxiliary(torch.rand(2, *SHAPE), "unknown", torch.arange(3))


def test_a_fresh_head_keeps_the_layers_and_forgets_the_weights() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    layers[1].running_mean.fill_(3.0)  # type: ignore[operator, union-attr]
    head = PixelHead(layers, (0.5,), (0.5,)).eval().requires_grad_(False)
    fresh, again, other = fresh_head(head, 1), fresh_head(head, 1), fresh_head(head, 2)
    pixels = torch.rand(2, *SHAPE)
    assert torch.equal(fresh(pixels)[0], again(pixels)[0])
    assert not torch.allclose(fresh(pixels)[0], other(pixels)[0])
    assert fresh(pixels)[0].shape == head(pixels)[0].shape
    assert all(p.requires_grad for p in fresh.parameters())
    assert torch.equal(fresh.mean, head.mean)
    for old, new in zip(head.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert old.data_ptr() != new.data_ptr()
    assert float(fresh.head[1].running_mean.abs().max()) == 0.0  # type: ignore[index]


def test_a_fresh_head_of_bare_tensors() -> None:
    """As a head is that was cut out of a traced program: parameters are buffers with names."""

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("p_conv_weight", torch.full((64, 1, 3, 3), 7.0))
            self.register_buffer("p_conv_bias", torch.full((64,), 7.0))
            self.register_buffer("norm__weight", torch.full((64, 64, 1, 1), 7.0))
            self.register_buffer("p_token", torch.full((1, 64, 1, 1), 7.0))
            self.register_buffer("c_constant", torch.full((1,), 7.0))

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.conv2d(x, self.p_conv_weight, self.p_conv_bias)  # type: ignore[arg-type]
            return nn.functional.conv2d(x, self.norm__weight) + self.p_token  # type: ignore[arg-type, no-any-return, operator]

    fresh = fresh_head(PixelHead(Bare(), (0.5,), (0.5,)).eval(), 0)
    named = dict(fresh.head.named_parameters())
    assert sorted(named) == ["norm__weight", "p_conv_bias", "p_conv_weight", "p_token"]
    # He et al. 2015: the variance is 2 over what goes into an output; 576 draws, so within 15 %.
    assert float(named["p_conv_weight"].detach().std()) == pytest.approx(math.sqrt(2 / 9), rel=0.15)
    assert float(named["p_conv_bias"].detach().abs().max()) == 0.0
    assert float(fresh.head.get_buffer("c_constant")) == 7.0


def line_fit(steps: int, run: Run, checkpoint: Checkpoint | None = None) -> nn.Linear:
    """A line through noisy points, by Adam: enough state for a resumed run to go wrong."""
    torch.manual_seed(0)
    module = nn.Linear(1, 1)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.5)

    def step(generator: torch.Generator) -> float:
        x = torch.randn(8, 1, generator=generator)
        loss = (module(x) - 3 * x - 1).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    train([Learner("line", module, optimiser, one_cycle)], step, steps, run, checkpoint)
    return module


def test_a_resumed_training_is_the_same_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = line_fit(60, Run(0, None, None))
    assert float(whole.weight.detach()) == pytest.approx(3.0, abs=0.2)

    class Interrupted(Run):
        def learned(self, loss: float, share: float) -> bool:
            if len(self.losses) == 25:
                raise KeyboardInterrupt
            return super().learned(loss, share)

    def kept() -> Checkpoint:
        return Checkpoint(tmp_path / "state" / "line.npz", "a line")

    with pytest.raises(KeyboardInterrupt):
        line_fit(60, Interrupted(0, None, None), kept())
    rest = Run(0, None, None)
    resumed = line_fit(60, rest, kept())
    assert 0 < len(rest.losses) < 60
    for mine, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, other)
    again = Run(0, None, None)
    line_fit(60, again, kept())
    assert not again.losses, "what is done is not done again"


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "line.npz"
    Checkpoint(path, "a line").save({"step": torch.tensor(1)})
    with pytest.raises(AttackError, match="expected a checkpoint of a circle, got .* of a line"):
        Checkpoint(path, "a circle").load()
    with pytest.raises(AttackError, match="does not fit what is trained"):
        line_fit(5, Run(0, None, None), Checkpoint(path, "a line"))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(AttackError, match="expected a checkpoint of a training, got"):
        Checkpoint(path, "a line").load()
    assert digest([torch.zeros(2)]) != digest([torch.zeros(1, 2)])


def test_a_diverging_training_goes_back_and_says_so() -> None:
    torch.manual_seed(0)
    module = nn.Linear(1, 1)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    run = Run(0, None, None)

    def step(generator: torch.Generator) -> float:
        if len(run.losses) == 70:
            with torch.no_grad():
                module.weight.fill_(math.nan)
            return math.nan
        return 1.0

    train([Learner("line", module, optimiser)], step, 100, run)
    assert bool(torch.isfinite(module.weight).all())
    assert run.notes == ["training diverged at step 71 of 100: went back before it"]


def test_a_deadline_ends_a_training_and_says_so() -> None:
    run = Run(0, 1e-9, None)
    line_fit(50, run)
    assert len(run.losses) == 1
    assert run.notes == ["training ended at step 1 of 50 for lack of time"]
    assert run.stopped_early


def test_schedules() -> None:
    assert constant(0.3) == 1.0
    assert one_cycle(0.0) == pytest.approx(1 / 25)
    assert one_cycle(0.3) == pytest.approx(1.0)
    assert one_cycle(1.0) == pytest.approx(1e-5)
    assert [halved(4)(share) for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)] == [
        1.0, 0.5, 0.25, 0.125, 0.0625, 0.0625,
    ]  # fmt: skip


def test_parts_of_a_run_share_progress_and_record() -> None:
    told: list[float] = []
    run = Run(0, None, told.append)
    first = run.part(0.5)
    assert first.learned(2.0, 0.5)
    assert not first.learned(1.0, 1.0)
    second = run.part(1.0)
    pixels = torch.zeros(1, *SHAPE)
    assert second.step(0.5, pixels, 0.5)
    assert not second.step(math.nan, pixels, 0.6)
    assert told == [0.25, 0.5, 0.75]
    assert run.losses[:3] == [2.0, 1.0, 0.5]
    assert second.losses[0] == 0.5
    assert run.diverged
    assert run.last_finite is not None
    assert run.notes == ["diverged at step 2: the last finite state is kept"]
    late = Run(0, 100.0, None)
    assert late.part(0.25).remaining_s == pytest.approx(25.0, abs=1.0)
    assert late.part(1.0).remaining_s == pytest.approx(100.0, abs=1.0)
