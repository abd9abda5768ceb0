"""Split training against the joint training that it must equal, and what a server gets to see."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.checkpoint import Checkpoint
from splitdeploy.attacks.split_learning.messages import (
    FeatureGradient,
    Features,
    Labels,
    Message,
    Rows,
    ServerObserver,
    SmashedData,
    SmashedGradient,
)
from splitdeploy.attacks.split_learning.parties import Client, HonestServer
from splitdeploy.attacks.split_learning.parts import Optimise, Part
from splitdeploy.attacks.split_learning.protocol import SplitTraining, batch_rows
from splitdeploy.attacks.split_learning.setups import label_sharing, labels_at_client, u_shaped
from splitdeploy.attacks.steps import Run
from splitdeploy.profiles.errors import AttackError

OPTIMISERS: dict[str, Optimise] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=3e-3),
}
CLASSES, PICTURES, BATCH, STEPS = 5, 22, 6, 9


@pytest.fixture
def layers() -> tuple[nn.Module, nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return (
            nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 16), nn.ReLU()),
            nn.Linear(16, CLASSES),
        )


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(PICTURES, 1, 6, 6, generator=generator)
    return images, torch.randint(CLASSES, (PICTURES,), generator=generator)


Make = Callable[..., SplitTraining]


def _setup_a(layers: tuple[nn.Module, ...], *rest: object, **options: object) -> SplitTraining:
    first, middle, last = layers
    return label_sharing(first, nn.Sequential(middle, last), *rest, **options)  # type: ignore[arg-type]


def _setup_b(layers: tuple[nn.Module, ...], *rest: object, **options: object) -> SplitTraining:
    first, middle, last = layers
    return labels_at_client(nn.Sequential(first, middle), last, *rest, **options)  # type: ignore[arg-type]


def _setup_c(layers: tuple[nn.Module, ...], *rest: object, **options: object) -> SplitTraining:
    return u_shaped(*layers, *rest, **options)  # type: ignore[arg-type]


SETUPS: dict[str, Make] = {"a": _setup_a, "b": _setup_b, "c": _setup_c}


def _turns(clients: int, seed: int) -> Iterator[Tensor]:
    """The pictures of each step, told independently of the protocol: dealt out in turn."""
    for step in range(STEPS):
        client, visit = step % clients, step // clients
        held = torch.tensor([i for i in range(PICTURES) if i % clients == client])
        yield held[batch_rows(len(held), BATCH, visit, (seed, client))]


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("optimise", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("make", SETUPS.values(), ids=SETUPS)
def test_split_training_equals_joint_training(
    make: Make,
    optimise: Optimise,
    clients: int,
    layers: tuple[nn.Module, ...],
    data: tuple[Tensor, Tensor],
) -> None:
    joint = nn.Sequential(*copy.deepcopy(layers))
    optimiser = optimise(list(joint.parameters()))
    losses = []
    for rows in _turns(clients, seed=5):
        optimiser.zero_grad()
        loss = functional.cross_entropy(joint(data[0][rows]), data[1][rows])
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    training = make(layers, *data, optimise, clients=clients, batch=BATCH, seed=5)
    run = training.train(STEPS)

    # The same operations in the same order: equal to rounding, which differs by thread count.
    assert run.losses == pytest.approx(losses, rel=1e-5)
    found = training.joint().state_dict()
    for ours, theirs in zip(found.values(), joint.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("a", [SmashedData, Labels, SmashedGradient]),
        ("b", [Rows, Features, FeatureGradient]),
        ("c", [SmashedData, Features, FeatureGradient, SmashedGradient]),
    ],
)
def test_a_server_sees_the_messages_of_its_setup_and_no_others(
    name: str,
    kinds: list[type[Message]],
    layers: tuple[nn.Module, ...],
    data: tuple[Tensor, Tensor],
) -> None:
    seen = ServerObserver()
    training = SETUPS[name](layers, *data, OPTIMISERS["sgd"], clients=2, batch=4, observe=seen)
    training.train(3)
    assert [type(m) for m in seen.messages] == 3 * kinds
    assert [m.client for m in seen.of(kinds[0])] == [0, 1, 0]
    assert all(not m.values.requires_grad for m in seen.messages)


def test_the_boundary_gradients_are_those_of_single_samples(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    seen = ServerObserver()
    _setup_c(layers, *data, OPTIMISERS["sgd"], batch=8, observe=seen).train(1)
    features, gradients = seen.last_layers()
    labels = data[1][batch_rows(PICTURES, 8, 0, (0, 0))]
    last = layers[2]
    assert isinstance(last, nn.Linear)
    # The closed form at depth one: Wᵀ(p − y).
    probabilities = last(features).softmax(1)
    expected = (probabilities - functional.one_hot(labels, CLASSES)) @ last.weight
    torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-7)


def test_an_observer_that_saw_nothing_has_nothing() -> None:
    features, gradients = ServerObserver().last_layers()
    assert not len(features)
    assert not len(gradients)


def test_an_epoch_leaves_no_sample_out() -> None:
    for epoch in range(3):
        rows = torch.cat([batch_rows(10, 4, 3 * epoch + i, (7, 1)) for i in range(3)])
        assert sorted(rows.tolist()) == list(range(10))
    assert batch_rows(10, 4, 0, (7, 1)).tolist() != batch_rows(10, 4, 3, (7, 1)).tolist()


def test_an_interrupted_training_goes_on_where_it_was(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    def fresh() -> SplitTraining:
        return _setup_c(layers, *data, OPTIMISERS["adam"], clients=2, batch=BATCH)

    checkpoint = Checkpoint(tmp_path / "split.npz", "a test")
    fresh().train(4, checkpoint=checkpoint)
    resumed = fresh()
    resumed.train(STEPS, checkpoint=checkpoint)
    whole = fresh()
    whole.train(STEPS)
    assert resumed.steps == whole.steps == STEPS
    pairs = zip(resumed.joint().parameters(), whole.joint().parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_a_divergence_is_told_and_the_last_finite_state_kept(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    def explosive(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e30)  # type: ignore[arg-type]

    training = _setup_a(layers, *data, explosive, batch=BATCH)
    run = training.train(20)
    assert any("diverged" in note for note in run.notes)
    assert all(bool(torch.isfinite(p).all()) for p in training.joint().parameters())


def test_more_clients_than_pictures_are_refused(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(AttackError, match="expected 1 to 22 clients for 22 pictures, got 23"):
        _setup_a(layers, *data, OPTIMISERS["sgd"], clients=23)


@pytest.mark.parametrize("wrong", [-1, CLASSES])
@pytest.mark.parametrize("make", SETUPS.values(), ids=SETUPS)
def test_labels_out_of_range_are_refused(
    make: Make, wrong: int, layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    labels = torch.full_like(data[1], wrong)
    with pytest.raises(AttackError, match=f"labels from 0 to 4, got {wrong}"):
        make(layers, data[0], labels, OPTIMISERS["sgd"]).train(1)


def test_a_server_that_does_not_take_the_smashed_data_says_so(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    wrong = (layers[0], nn.Sequential(nn.Flatten(), nn.Linear(7, 16)), layers[2])
    with pytest.raises(AttackError, match=r"layers of the server do not take \[6, 4, 6, 6\]"):
        _setup_c(wrong, *data, OPTIMISERS["sgd"], batch=BATCH).train(1)


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), x


def test_a_cut_of_two_tensors_is_refused(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(AttackError, match="expected one tensor from the layers of client 0, got 2"):
        _setup_c((_Two(), *layers[1:]), *data, OPTIMISERS["sgd"]).train(1)


def test_layers_without_parameters_are_refused(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(AttackError, match="layers of client 0 with parameters to train"):
        label_sharing(nn.ReLU(), layers[1], *data, OPTIMISERS["sgd"])


def test_a_label_is_needed_for_each_picture(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(AttackError, match="a label for each of 22 pictures, got"):
        _setup_a(layers, data[0], data[1][:5], OPTIMISERS["sgd"])


def test_logits_are_needed_for_the_loss(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(AttackError, match=r"logits \[b, classes\] and a label for each"):
        label_sharing(layers[0], nn.Conv2d(4, 2, 1), *data, OPTIMISERS["sgd"]).train(1)


def test_a_gradient_of_another_shape_is_refused(layers: tuple[nn.Module, ...]) -> None:
    part = Part(copy.deepcopy(layers[2]), OPTIMISERS["sgd"], "client 0")
    with pytest.raises(AttackError, match="a pass forward of client 0 before"):
        part.backward(torch.zeros(2, CLASSES))
    part(torch.zeros(2, 16))
    with pytest.raises(AttackError, match=r"shape \[2, 5\] for what client 0 sent, got \[3, 5\]"):
        part.backward(torch.zeros(3, CLASSES))


def test_a_party_is_asked_only_for_what_it_holds(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    part = Part(copy.deepcopy(layers[2]), OPTIMISERS["sgd"], "client 0")
    with pytest.raises(AttackError, match="first layers, the last or both"):
        Client(0, data[1])
    with pytest.raises(AttackError, match="pictures and first layers, or with neither"):
        Client(0, data[1], images=data[0], last=part)
    with pytest.raises(AttackError, match="as many labels as pictures"):
        Client(0, data[1][:3], images=data[0], first=part)
    rows = torch.arange(2)
    with pytest.raises(AttackError, match="client 0 to hold the first layers"):
        Client(0, data[1], last=part).send(rows)
    with pytest.raises(AttackError, match="client 0 to hold the first layers"):
        Client(0, data[1], last=part).receive(SmashedGradient(0, rows))
    with pytest.raises(AttackError, match="client 0 to hold the last layers"):
        Client(0, data[1], images=data[0], first=part).finish(Features(0, data[0]), rows)
    with pytest.raises(AttackError, match="a server that holds the pictures"):
        HonestServer(part).serve(Rows(0, rows))


def test_a_training_needs_clients_and_samples(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(AttackError, match="one client and one sample a batch, got 1 and 0"):
        _setup_c(layers, *data, OPTIMISERS["sgd"], batch=0)


def test_a_deadline_ends_a_training_early(
    layers: tuple[nn.Module, ...], data: tuple[Tensor, Tensor]
) -> None:
    training = _setup_c(layers, *data, OPTIMISERS["sgd"], batch=2)
    run = training.train(10_000, Run(0, 0.05, None))
    assert 1 <= training.steps < 10_000
    assert any("for lack of time" in note for note in run.notes)
