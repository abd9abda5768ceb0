"""Labels from gradients: exact where they can be, groups where names cannot be known."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.split_learning.directions import grouped, unit
from splitdeploy.attacks.split_learning.label_accuracy import (
    grouping_accuracy,
    label_accuracy,
    named,
)
from splitdeploy.attacks.split_learning.label_clone import MatchedClone, RandomClone
from splitdeploy.attacks.split_learning.label_inference import (
    LABEL_INFERENCES,
    feature_groups,
    label_inference,
)
from splitdeploy.attacks.split_learning.messages import ServerObserver
from splitdeploy.attacks.split_learning.observables import (
    Observable,
    Observed,
    last_weight,
    observe_gradients,
)
from splitdeploy.attacks.split_learning.protocol import batch_rows
from splitdeploy.attacks.split_learning.setups import labels_at_client
from splitdeploy.profiles.errors import AttackError, UnknownNameError

CLASSES, WIDTH, COUNT = 6, 24, 150


@functools.cache
def _scene(depth: int, epochs: int) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Server layers, client layers, inputs and labels, of a joint model trained a little."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(CLASSES, 16, generator=generator)
    labels = torch.randint(CLASSES, (4 * COUNT,), generator=generator)
    inputs = 0.8 * centres[labels] + torch.randn(len(labels), 16, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        first = nn.Sequential(nn.Linear(16, WIDTH), nn.ReLU())
        deeper = (nn.Linear(WIDTH, 20), nn.ReLU(), nn.Linear(20, CLASSES))
        last = nn.Linear(WIDTH, CLASSES) if depth == 1 else nn.Sequential(*deeper)
    whole = nn.Sequential(first, last)
    optimiser = torch.optim.Adam(whole.parameters(), lr=1e-2)
    for epoch in range(epochs):
        order = torch.randperm(3 * COUNT, generator=generator.manual_seed(epoch)) + COUNT
        for rows in order.split(32):
            optimiser.zero_grad()
            functional.cross_entropy(whole(inputs[rows]), labels[rows]).backward()
            optimiser.step()
    return first, last, inputs[:COUNT], labels[:COUNT]


def _seen(depth: int, epochs: int, of: Observable) -> tuple[nn.Module, Observed, Tensor]:
    first, last, inputs, labels = _scene(depth, epochs)
    return last, observe_gradients(last, first(inputs).detach(), labels, of), labels


def test_the_weight_gradient_is_the_closed_form() -> None:
    last, seen, labels = _seen(1, 1, "weight")
    wrong = last(seen.features).softmax(1) - functional.one_hot(labels, CLASSES)
    expected = torch.einsum("nc,nk->nck", wrong, seen.features)
    torch.testing.assert_close(seen.gradients, expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("of", ["weight", "boundary"])
def test_gradients_are_those_of_batches_of_one(of: Observable) -> None:
    last, seen, labels = _seen(2, 1, of)
    client = copy.deepcopy(last)
    for row in (0, 70, 149):
        entered = seen.features[row : row + 1].clone().requires_grad_()
        client.zero_grad()
        functional.cross_entropy(client(entered), labels[row : row + 1]).backward()
        weight = client.get_parameter(last_weight(client)).grad
        found = weight if of == "weight" else entered.grad
        assert found is not None
        torch.testing.assert_close(
            seen.gradients[row], found.view_as(seen.gradients[row]), rtol=1e-4, atol=1e-7
        )


@pytest.mark.parametrize("epochs", [0, 1, 8])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_sign_rule_is_exact_at_any_depth_and_any_time(depth: int, epochs: int) -> None:
    last, seen, labels = _seen(depth, epochs, "weight")
    found = label_inference("sign")(last, seen)
    assert torch.equal(found.labels, labels)
    assert found.certain is not None
    assert bool(found.certain.all())
    assert label_accuracy(found.labels, labels, CLASSES).accuracy == 1.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 9), scale=st.sampled_from([0.1, 1, 8]))
def test_the_sign_rule_is_right_whenever_it_is_certain(
    seed: int, classes: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (12,), generator=generator)
    features = torch.randn(12, 5, generator=generator)
    logits = scale * torch.randn(12, classes, generator=generator)
    wrong = logits.softmax(1) - functional.one_hot(labels, classes)
    seen = Observed(features, torch.einsum("nc,nk->nck", wrong, features), "weight")
    for layers in (nn.Linear(5, classes), nn.Sequential(nn.Linear(5, 5), nn.Linear(5, classes))):
        found = label_inference("sign")(layers, seen)
        assert found.certain is not None
        if isinstance(layers, nn.Linear):
            saturated = (wrong == 0).any(1)
            assert bool((found.certain | saturated).all())
        assert torch.equal(found.labels[found.certain], labels[found.certain])


def test_two_classes_behind_a_relu_are_told_apart() -> None:
    """Their rows mirror each other; that activations are not negative orients them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (40,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        client = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    seen = observe_gradients(client, torch.randn(40, 8, generator=generator), labels, "weight")
    found = label_inference("sign")(client, seen)
    assert torch.equal(found.labels, labels)
    assert found.certain is not None
    assert not bool(found.certain.any())


def test_a_vanished_gradient_is_not_certain() -> None:
    seen = Observed(torch.rand(2, 5), torch.zeros(2, 3, 5), "weight")
    for layers in (nn.Linear(5, 3), nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3))):
        found = label_inference("sign")(layers, seen)
        assert found.certain is not None
        assert not bool(found.certain.any())


@pytest.mark.parametrize("preset", ["published", "clone"])
def test_unsplits_clone_is_exact_on_an_untrained_last_layer(preset: str) -> None:
    last, seen, labels = _seen(1, 0, "weight")
    few = Observed(seen.features[:60], seen.gradients[:60], "weight")
    record = label_accuracy(label_inference(preset)(last, few).labels, labels[:60], CLASSES)
    assert record.accuracy == 1.0
    assert record.beats_chance


def test_a_random_clone_learns_nothing_from_boundary_gradients() -> None:
    last, seen, labels = _seen(1, 0, "boundary")
    right = [
        label_accuracy(RandomClone(s, update_every=0)(last, seen).labels, labels, CLASSES).accuracy
        for s in range(20)
    ]
    # Whichever classes the clone's weights happen to point at: right once in CLASSES on average,
    # within four standard errors of twenty clones.
    mean, spread = torch.tensor(right).mean(), torch.tensor(right).std()
    assert abs(float(mean) - 1 / CLASSES) < 4 * float(spread) / 20**0.5


@pytest.mark.parametrize(("depth", "epochs"), [(1, 0), (1, 8), (2, 0), (2, 1)])
def test_boundary_gradients_tell_who_shares_a_label(depth: int, epochs: int) -> None:
    last, seen, labels = _seen(depth, epochs, "boundary")
    found = label_inference("matched")(last, seen)
    assert found.up_to_names
    assert any("1 − cosine" in note for note in found.notes)
    record = grouping_accuracy(found.labels, labels, CLASSES)
    features = grouping_accuracy(feature_groups(seen.features, CLASSES), labels, CLASSES)
    assert record.accuracy > 0.97
    assert record.beats_chance
    assert record.ci95[0] > features.accuracy


def test_renaming_the_classes_leaves_no_trace_in_boundary_gradients() -> None:
    """Why no attack can name the groups: two clients that no server can tell apart."""
    last, seen, labels = _seen(1, 1, "boundary")
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(0))
    renamed = nn.Linear(WIDTH, CLASSES)
    assert isinstance(last, nn.Linear)
    renamed.load_state_dict({"weight": last.weight[order], "bias": last.bias[order]})
    other = observe_gradients(renamed, seen.features, order.argsort()[labels], "boundary")
    torch.testing.assert_close(other.gradients, seen.gradients, rtol=1e-4, atol=1e-6)


def test_a_few_known_labels_name_the_groups() -> None:
    last, seen, labels = _seen(1, 1, "boundary")
    groups = label_inference("matched")(last, seen).labels
    rows = torch.stack([(labels == c).nonzero()[0, 0] for c in range(CLASSES)])
    found = named(groups, rows, labels[rows], CLASSES)
    others = torch.ones(COUNT, dtype=torch.bool)
    others[rows] = False
    assert label_accuracy(found[others], labels[others], CLASSES).accuracy > 0.97


def test_a_server_groups_labels_from_the_messages_of_the_protocol() -> None:
    first, last, inputs, labels = _scene(1, 0)
    observer = ServerObserver()
    training = labels_at_client(
        first, last, inputs, labels, lambda p: torch.optim.SGD(p, lr=1e-3), batch=32,
        observe=observer,
    )  # fmt: skip
    training.train(5)
    seen = Observed(*observer.last_layers(), "boundary")
    order = torch.cat([batch_rows(COUNT, 32, visit, (0, 0)) for visit in range(5)])
    found = label_inference("matched")(last, seen)
    assert grouping_accuracy(found.labels, labels[order], CLASSES).accuracy > 0.97


def test_the_interval_is_scipys_and_chance_the_most_frequent_class() -> None:
    truth = torch.tensor([0] * 7 + [1] * 3)
    record = label_accuracy(torch.zeros(10, dtype=torch.int64), truth, 2)
    interval = stats.binomtest(7, 10).proportion_ci(0.95, "wilson")
    assert record.accuracy == record.chance == 0.7
    assert record.ci95 == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert not record.beats_chance
    assert str(record) == "70.0 % of 10 labels (39.7 to 89.2), chance 70.0 %"


def test_groups_that_know_nothing_do_not_beat_their_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(CLASSES, (60,), generator=generator)
    groups = torch.randint(CLASSES, (60,), generator=generator)
    record = grouping_accuracy(groups, truth, CLASSES)
    # The best of 720 namings finds more than one in six by itself.
    assert record.accuracy > 1 / CLASSES
    assert not record.beats_chance
    assert record.named_by == "best match"
    assert str(record).endswith("classes named by best match")


def test_the_best_match_of_renamed_classes_is_complete() -> None:
    truth = torch.arange(CLASSES).repeat(5)
    assert grouping_accuracy((truth + 2) % CLASSES, truth, CLASSES).accuracy == 1.0


def test_directions_are_grouped_whatever_their_length() -> None:
    generator = torch.Generator().manual_seed(1)
    axes = torch.eye(4).repeat(10, 1) + 0.05 * torch.randn(40, 4, generator=generator)
    lengths = torch.logspace(-12, 3, 40).unsqueeze(1)
    groups = grouped(unit(axes * lengths), 4, generator)
    assert grouping_accuracy(groups, torch.arange(4).repeat(10), 4).accuracy == 1.0


def test_it_computes_where_the_observation_lies() -> None:
    last, seen, labels = _seen(2, 0, "weight")
    boundary = _seen(2, 0, "boundary")[1]
    attacks = [("sign", seen), ("clone", seen), ("clone", boundary)]
    expected = [label_inference(name)(last, what).labels for name, what in attacks]
    with torch.device("meta"):
        found = [label_inference(name)(last, what).labels for name, what in attacks]
        assert str(feature_groups(seen.features, CLASSES).device) == "cpu"
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert torch.equal(expected[0], labels)


def test_bad_settings_and_observations_are_refused() -> None:
    last, weight, labels = _seen(1, 0, "weight")
    boundary = _seen(1, 0, "boundary")[1]
    with pytest.raises(UnknownNameError, match="unknown preset of label-inference 'signs'"):
        label_inference("signs")
    with pytest.raises(AttackError, match="reads the gradient of the last weight"):
        LABEL_INFERENCES["sign"](last, boundary)
    with pytest.raises(AttackError, match="explains boundary gradients"):
        LABEL_INFERENCES["matched"](last, weight)
    with pytest.raises(AttackError, match="update_every of 0 or more"):
        RandomClone(update_every=-1)
    with pytest.raises(AttackError, match="at least one step and one restart"):
        MatchedClone(steps=0)
    with pytest.raises(AttackError, match="'weight' or the 'boundary', got 'bias'"):
        Observed(weight.features, weight.gradients, "bias")  # type: ignore[arg-type]
    with pytest.raises(AttackError, match="a sample with a gradient of its boundary|at least one"):
        Observed(weight.features, weight.gradients, "boundary")
    with pytest.raises(AttackError, match="got NaN or infinity: the training that was observed"):
        Observed(boundary.features, boundary.gradients / 0, "boundary")
    with pytest.raises(AttackError, match="labels from 0 to 5, got 6 to 6"):
        observe_gradients(last, boundary.features, torch.full_like(labels, 6), "boundary")
    with pytest.raises(AttackError, match=r"do not take features \[2, 7\]"):
        observe_gradients(last, torch.zeros(2, 7), labels[:2], "boundary")
    with pytest.raises(AttackError, match=r"logits \[n, classes\], got \[2, 24, 1\]"):
        observe_gradients(nn.Unflatten(1, (24, 1)), torch.zeros(2, 24), labels[:2], "boundary")
    with pytest.raises(AttackError, match="with a linear layer, whose weight gradient"):
        observe_gradients(nn.ReLU(), boundary.features, labels, "weight")
    with pytest.raises(AttackError, match="a client of this architecture"):
        LABEL_INFERENCES["clone"](nn.Sequential(nn.Linear(WIDTH, 9), nn.Linear(9, 6)), weight)
    with pytest.raises(AttackError, match="at least 6 samples to tell 6 classes apart, got 2"):
        feature_groups(boundary.features[:2], CLASSES)
    with pytest.raises(AttackError, match="as many inferred labels as true ones"):
        label_accuracy(labels[:3], labels, CLASSES)
    with pytest.raises(AttackError, match="a label for each known sample"):
        named(labels, labels[:2], labels[:3], CLASSES)
