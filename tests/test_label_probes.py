"""Attacks on labels from features: exact where classes are apart, chance where nothing is told."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from splitdeploy.attacks.label_probes.base import Guess, LabelAttack
from splitdeploy.attacks.label_probes.clusters import Clusters, NamedClusters
from splitdeploy.attacks.label_probes.few_shot import few_shot
from splitdeploy.attacks.label_probes.held_out import held_out, own_pictures, some_of_each
from splitdeploy.attacks.label_probes.judging import (
    LabelRecord,
    Truth,
    judge_labels,
    share_of_result,
)
from splitdeploy.attacks.label_probes.last_layers import LastLayers
from splitdeploy.attacks.label_probes.linear import LinearProbe, LinearProbeByAnswers
from splitdeploy.attacks.label_probes.nearest_mean import NearestMean
from splitdeploy.attacks.label_probes.registry import (
    ORDER,
    find_label_attack,
    label_attacks_table,
)
from splitdeploy.attacks.label_probes.softmax import fit_softmax
from splitdeploy.attacks.label_probes.target import LabelTarget
from splitdeploy.attacks.label_probes.views import MOST_NUMBERS, views_of
from splitdeploy.attacks.split_learning.label_accuracy import label_accuracy
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError, UnknownNameError

CLASSES = 4
LEARNING = [kind for kind in ORDER if kind.learns]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(
    *, apart: float, pictures: int = 300, own: int = 200, width: int = 12, seed: int = 0
) -> tuple[LabelTarget, Truth]:
    """Features around a mean a class, ``apart`` standard deviations from each other."""
    generator = rng(seed)
    means = apart * functional.one_hot(torch.arange(CLASSES), width).double()

    def some(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % CLASSES
        return means[labels] + torch.randn(count, width, generator=generator), labels

    features, labels = some(pictures)
    his, his_labels = some(own)
    target = LabelTarget(
        {"coarse": features}, CLASSES, own={"coarse": his}, own_labels=his_labels,
        own_answers=his_labels, finished=labels,
    )  # fmt: skip
    return target, Truth(labels, CLASSES, labels)


def record(kind: type[LabelAttack], target: LabelTarget, truth: Truth) -> LabelRecord:
    attack = kind.preset()
    return judge_labels(attack, attack(target), truth)


@pytest.mark.parametrize("kind", ORDER, ids=lambda kind: kind.name)
def test_classes_that_lie_apart_are_recovered_to_the_last(kind: type[LabelAttack]) -> None:
    found = record(kind, *scene(apart=20.0))
    assert found.labels is not None
    assert found.labels.accuracy == found.answers.accuracy == found.share_of_result == 1.0
    assert found.verdict == "tells what the result itself would tell"
    assert found.oracle == (kind is Clusters)
    assert found.labels.named_by == ("best match" if kind is Clusters else "attack")
    assert found.own_pictures == (200 if kind.learns else 0)
    assert found.threat_model == str(kind.threat)


@pytest.mark.parametrize("kind", [*LEARNING, Clusters], ids=lambda kind: kind.name)
def test_features_that_tell_nothing_give_chance(kind: type[LabelAttack]) -> None:
    found = record(kind, *scene(apart=0.0, pictures=2000))
    assert found.labels is not None
    low, high = found.labels.ci95
    assert low <= found.labels.chance <= high and not found.labels.beats_chance
    assert found.share_of_result == 0.0
    assert found.verdict.startswith("tells nothing, no better than the 2")


def test_between_the_two_the_probe_is_as_good_as_the_best_rule() -> None:
    # Of normal classes of one covariance and equal shares, the nearest true mean is the best rule.
    target, truth = scene(apart=2.5, pictures=4000, own=4000)
    means = 2.5 * functional.one_hot(torch.arange(CLASSES), 12).double()
    best = torch.cdist(target.features["coarse"], means).argmin(1)
    ceiling = label_accuracy(best, truth.answers, CLASSES)
    assert 0.8 < ceiling.accuracy < 0.95
    for kind in LEARNING:
        assert ceiling.ci95[0] <= record(kind, target, truth).answers.accuracy <= ceiling.ci95[1]


def test_the_nearest_mean_in_closed_form() -> None:
    target, _ = scene(apart=1.0)
    assert target.own is not None and target.own_labels is not None
    his, labels = target.own["coarse"].numpy(), target.own_labels.numpy()
    expected = []
    for point in target.features["coarse"].numpy():
        distances = [
            np.square(point - his[labels == k].mean(0)).sum() for k in range(CLASSES)
        ]  # fmt: skip
        expected.append(int(np.argmin(distances)))
    assert NearestMean()(target).classes.tolist() == expected


def test_two_points_have_a_softmax_in_closed_form() -> None:
    # At ±1 with weights ±a: the slope −2/(1 + e^(2a)) of the loss and 2·λ·a of λ/2·2a² cancel.
    penalties = (1.0, 0.1, 0.01)
    found = fit_softmax(torch.tensor([[3.0], [5.0]]), torch.tensor([2, 7]), penalties)
    for probe, penalty in zip(found, penalties, strict=True):
        a = brentq(lambda a, p=penalty: 2 / (1 + np.exp(2 * a)) - 2 * p * a, 0.0, 50.0)
        np.testing.assert_allclose(probe.weights, [[-a, a]], atol=1e-4)
        np.testing.assert_allclose(probe.bias, [0.0, 0.0], atol=1e-4)
        assert probe.predict(torch.tensor([[2.0], [4.5]])).tolist() == [2, 7]
        loss = np.log1p(np.exp(-2 * a))
        assert probe.loss(torch.tensor([[3.0], [5.0]]), torch.tensor([2, 7])) == pytest.approx(
            loss, rel=1e-3
        )


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), width=st.integers(1, 9), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_a_fit_is_where_the_objective_has_no_slope(seed: int, width: int, scale: float) -> None:
    # The problem is convex: without a slope, by another library's gradient, it is the minimum.
    points = scale * (5 + torch.randn(40, width, generator=rng(seed), dtype=torch.float64))
    labels = torch.randint(3, (40,), generator=rng(seed + 1))
    for probe in fit_softmax(points, labels, (1e-1, 1e-3)):
        weights = torch.tensor(probe.weights, requires_grad=True)
        bias = torch.tensor(probe.bias, requires_grad=True)
        centred = points - points.mean(0)
        norm = centred.square().sum(1).mean().sqrt()
        places = torch.searchsorted(torch.from_numpy(probe.classes), labels)
        loss = functional.cross_entropy(centred / norm @ weights + bias, places)
        (loss + probe.penalty / 2 * weights.square().sum()).backward()
        assert weights.grad is not None and bias.grad is not None
        assert float(weights.grad.abs().max()) < 2e-6 and float(bias.grad.abs().max()) < 2e-6


def test_view_and_penalty_are_chosen_by_the_attackers_own_pictures_alone() -> None:
    target, truth = scene(apart=3.0)
    noise = torch.randn(500, 12, generator=rng(9), dtype=torch.float64)
    assert target.own is not None
    # "coarse" is noise for him, though of the victim's pictures it would tell all.
    telling = 50.0 * functional.one_hot(truth.answers, 12).double()
    both = replace(
        target,
        features={"coarse": telling, "fine": target.features["coarse"]},
        own={"coarse": noise[:200], "fine": target.own["coarse"]},
    )
    for kind in LEARNING:
        guess = kind.preset()(both)
        alone = kind.preset()(target)
        assert guess.view == "fine" and guess.penalty == alone.penalty
        assert torch.equal(guess.classes, alone.classes)


def test_a_penalty_matters_where_pictures_are_few() -> None:
    target, truth = scene(apart=2.0, own=24, width=200, pictures=1000)
    weak = judge_labels(LinearProbe(), LinearProbe((1e-6,))(target), truth)
    chosen = record(LinearProbe, target, truth)
    assert chosen.penalty is not None and chosen.penalty > 1e-6
    assert chosen.answers.accuracy >= weak.answers.accuracy


def test_one_picture_a_class_is_enough_to_name_it_and_says_that_nothing_was_chosen() -> None:
    target, truth = scene(apart=30.0)
    one = target.with_own(torch.arange(CLASSES))
    guess = LinearProbe()(one)
    assert torch.equal(guess.classes, truth.answers) and guess.own_pictures == CLASSES
    assert guess.notes == ("no class with two pictures: the penalty is not chosen by any",)


def test_classes_that_the_attacker_has_no_picture_of_are_never_named() -> None:
    target, truth = scene(apart=20.0)
    assert target.own_labels is not None
    rows = torch.nonzero(target.own_labels % 2 == 1).flatten()
    for kind in (LinearProbe, NearestMean, LinearProbeByAnswers):
        said = kind.preset()(target.with_own(rows))
        assert said.notes == ("his pictures are of 2 of 4 classes: the others he cannot name",)
        guess = said.classes
        assert set(guess.tolist()) <= {1, 3}
        assert torch.equal(guess[truth.answers % 2 == 1], truth.answers[truth.answers % 2 == 1])


def test_groups_are_named_by_the_best_of_all_assignments() -> None:
    target, truth = scene(apart=2.5, pictures=200)
    found = record(Clusters, target, truth)
    groups = Clusters()(target).classes.numpy()
    labels = truth.answers.numpy()
    best = max(
        float(np.mean(np.array(names)[groups] == labels)) for names in permutations(range(CLASSES))
    )
    assert found.answers.accuracy == pytest.approx(best)
    counts = np.zeros((CLASSES, CLASSES))
    np.add.at(counts, (groups, labels), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    assert found.answers.accuracy == pytest.approx(counts[rows, columns].sum() / 200)
    assert found.oracle and found.answers.named_by == "best match"


def test_a_labelled_picture_of_each_class_names_the_groups() -> None:
    # In 60 directions a single point is far from its mean, and 200 of a class are enough to see it.
    target, truth = scene(apart=5.0, width=60, pictures=800)
    one = target.with_own(torch.arange(CLASSES))
    assert record(NamedClusters, one, truth).answers.accuracy > 0.99
    assert record(LinearProbe, one, truth).answers.accuracy < 0.9
    # Of the same groups no names are better than the oracle's.
    hard, truth = scene(apart=2.0)
    with_own = torch.cat([hard.features["coarse"], hard.own["coarse"]])  # type: ignore[index]
    oracle = Clusters()(replace(hard, features={"coarse": with_own})).classes[:300]
    named = record(NamedClusters, hard, truth)
    best = judge_labels(Clusters(), Guess(oracle, up_to_names=True), truth)
    assert named.answers.accuracy <= best.answers.accuracy and not named.oracle


def test_without_labels_the_answers_are_judged_by() -> None:
    target, truth = scene(apart=20.0)
    found = record(LinearProbe, target, replace(truth, labels=None))
    assert found.labels is None and found.told is found.answers
    assert found.share_of_result == 1.0 and replace(truth, labels=None).model is None


def test_labels_are_measured_by_what_the_model_itself_gets_right() -> None:
    target, truth = scene(apart=20.0)
    wrong = torch.where(torch.arange(300) < 100, (truth.answers + 1) % CLASSES, truth.answers)
    model = replace(truth, answers=wrong)
    assert model.model is not None and model.model.accuracy == pytest.approx(2 / 3)
    found = record(LastLayers, replace(target, finished=wrong), model)
    assert found.labels is not None and found.labels.accuracy == pytest.approx(2 / 3)
    assert found.answers.accuracy == 1.0 and found.share_of_result == 1.0
    half = label_accuracy(torch.where(torch.arange(300) < 150, truth.answers, 0), truth.answers, 4)
    expected = (half.accuracy - 0.25) / (0.75 - 0.25)
    assert share_of_result(half, 0.75) == pytest.approx(expected)
    assert share_of_result(half, 0.2) == 1.0
    part = judge_labels(LastLayers(), LastLayers()(target), truth).verdict
    assert part == "tells what the result itself would tell"


@pytest.mark.parametrize(("right", "words"), [(150, "a part of it, "), (220, "most of it, ")])
def test_the_verdict_tells_how_much(right: int, words: str) -> None:
    target, truth = scene(apart=20.0)
    off = (truth.answers + 1) % CLASSES
    said = torch.where(torch.arange(300) < right, truth.answers, off)
    found = record(LastLayers, replace(target, finished=said), truth)
    share = (right / 300 - 0.25) / 0.75
    assert found.share_of_result == pytest.approx(share)
    assert f"{words}{share:.0%} of the way" in found.verdict


def test_fewer_pictures_are_drawn_of_each_class() -> None:
    target, truth = scene(apart=20.0, own=CLASSES * 12)
    for kind in LEARNING:
        found = few_shot(kind.preset(), target, truth.answers, draws=2)
        assert [one.per_class for one in found] == [1, 2, 5, 10]
        assert [one.pictures for one in found] == [4, 8, 20, 40]
        assert all(len(one.accuracies) == 2 and one.mean == 1.0 for one in found)
    hard, truth = scene(apart=2.0, own=CLASSES * 100, pictures=1000)
    curve = few_shot(LinearProbe.preset(), hard, truth.answers, counts=(1, 10, 100))
    assert curve[0].mean < curve[1].mean < curve[2].mean
    assert curve == few_shot(LinearProbe.preset(), hard, truth.answers, counts=(1, 10, 100))
    assert curve[0].mean == pytest.approx(sum(curve[0].accuracies) / 3)


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    seed=st.integers(0, 99),
)
def test_what_is_put_aside_is_never_fitted_on(labels: list[int], seed: int) -> None:
    held = torch.tensor(labels)
    fitted, aside = held_out(held, rng(seed))
    assert sorted([*fitted.tolist(), *aside.tolist()]) == list(range(len(labels)))
    assert set(held[fitted].tolist()) == set(labels)
    for label in set(labels):
        count = labels.count(label)
        kept = int((held[aside] == label).sum())
        assert kept == (max(1, count // 4) if count > 1 else 0)
    least = min(labels.count(label) for label in set(labels))
    drawn = some_of_each(held, least, rng(seed))
    assert len(set(drawn.tolist())) == len(drawn)
    assert all(int((held[drawn] == label).sum()) == least for label in set(labels))


WHOLE, _TRUTH = scene(apart=1.0, pictures=20, own=20)

NEEDS = {
    LastLayers: {"finished"},
    LinearProbe: {"own", "own_labels"},
    NearestMean: {"own", "own_labels"},
    NamedClusters: {"own", "own_labels"},
    LinearProbeByAnswers: {"own", "own_answers"},
    Clusters: set(),
}


@pytest.mark.parametrize("kind", ORDER, ids=lambda kind: kind.name)
def test_an_attack_is_granted_what_it_declares_and_nothing_else(kind: type[LabelAttack]) -> None:
    granted = WHOLE.granted(kind.threat)
    optional = ("own", "own_labels", "own_answers", "finished")
    assert {name for name in optional if getattr(granted, name) is not None} == NEEDS[kind]
    # What it is not granted it does not miss.
    assert kind.preset()(granted).classes.shape == (20,)


LACKS = [
    (LinearProbe, ("own", "own_labels", "own_answers"), "linear-probe needs pictures of the att"),
    (NearestMean, ("own_labels",), "nearest-mean needs labels of the attacker's own pictures .one"),
    (LinearProbeByAnswers, ("own_answers",), "answers needs the system's answers to the attacker"),
    (LastLayers, ("finished",), "last-layers needs the last layers, and there is none"),
]


@pytest.mark.parametrize(("kind", "without", "words"), LACKS, ids=[row[0].name for row in LACKS])
def test_what_is_missing_is_told(
    kind: type[LabelAttack], without: tuple[str, ...], words: str
) -> None:
    poorer: Any = dict.fromkeys(without)
    with pytest.raises(AttackError, match=words):
        kind.preset()(replace(WHOLE, **poorer))


def test_what_the_edge_holds_back_is_named() -> None:
    held = replace(WHOLE, finished=None, withheld=("x", "relu"))
    with pytest.raises(AttackError, match=r"what the edge holds back \(x, relu\), which the last"):
        LastLayers()(held)


def test_refusals() -> None:
    same = {"coarse": torch.zeros(20, 12)}
    with pytest.raises(AttackError, match=r"expected features \[n, k\] of the victim's pictures"):
        LabelTarget({}, CLASSES)
    with pytest.raises(AttackError, match=r"as many in each view, got \{'a': \[2, 1\], 'b': \[3"):
        LabelTarget({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)}, CLASSES)
    with pytest.raises(AttackError, match="finite features of the attacker's pictures, got NaN"):
        LabelTarget(same, CLASSES, own={"coarse": torch.full((2, 12), torch.nan)})
    with pytest.raises(AttackError, match=r"in the views of the victim's, .*12.*, got .*'fine'"):
        LabelTarget(same, CLASSES, own={"fine": torch.zeros(2, 12)})
    with pytest.raises(AttackError, match=r"a class for each of the attacker's 2 pictures, got"):
        LabelTarget(same, CLASSES, own={"coarse": torch.zeros(2, 12)}, own_labels=torch.zeros(3))
    with pytest.raises(AttackError, match="expected labels from 0 to 3, got 0 to 4"):
        LabelTarget(
            same, CLASSES, own={"coarse": torch.zeros(2, 12)}, own_labels=torch.tensor([0, 4])
        )
    assert WHOLE.own_labels is not None
    alike = WHOLE.with_own(torch.nonzero(WHOLE.own_labels == 1).flatten())
    with pytest.raises(AttackError, match="of two classes or more, got 5 of class 1: there is no"):
        LinearProbe()(alike)
    with pytest.raises(AttackError, match="pictures of the attacker's own with classes, got none"):
        own_pictures(replace(WHOLE, own=None, own_labels=None, own_answers=None))
    with pytest.raises(AttackError, match="expected what the last layers answer, got nothing"):
        LastLayers()._run(replace(WHOLE, finished=None))
    with pytest.raises(AttackError, match=r"falling penalties above zero, got \[0.1, 1.0\]"):
        LinearProbe((0.1, 1.0))
    with pytest.raises(AttackError, match=r"falling penalties above zero, got \[0.0\]"):
        LinearProbe((0.0,))
    few = replace(WHOLE, features={"coarse": torch.zeros(3, 12)}, own=None, own_labels=None,
                  own_answers=None, finished=None)  # fmt: skip
    with pytest.raises(AttackError, match="at least 4 samples to tell 4 classes apart, got 3"):
        Clusters()(few)


def test_the_registry_lists_from_who_knows_most_to_who_knows_least() -> None:
    rows = label_attacks_table()
    assert [row["name"] for row in rows][0] == "last-layers"
    assert all(find_label_attack(row["name"]).name == row["name"] for row in rows)
    assert all(all(row.values()) for row in rows)
    with pytest.raises(UnknownNameError, match=r"unknown attack on labels 'rmle': .*--return-at"):
        find_label_attack("rmle")


def test_threat_models_of_labels_in_words() -> None:
    assert str(LastLayers.threat) == (
        "white-box: head's weights known; tail known; last layers known; passive; no data"
    )
    assert str(LinearProbeByAnswers.threat) == (
        "black-box: head unknown; queries; tail known; a device's answers; passive; pictures of "
        "his own"
    )
    # No threat model of before grants what is new.
    assert {field.name for field in fields(ThreatModel)} >= {"last_part", "answers"}
    assert not ThreatModel(weights=True).last_part and not ThreatModel(weights=True).answers


def test_views_are_means_of_maps() -> None:
    maps = torch.randn(3, 64, 8, 8, generator=rng())
    views = views_of([maps])
    np.testing.assert_allclose(views["coarse"], maps.numpy().mean((2, 3)), atol=1e-6)
    # 64 channels in at most 1,024 numbers: means over two by two.
    cells = maps.numpy().reshape(3, 64, 4, 2, 4, 2).mean((3, 5)).reshape(3, -1)
    np.testing.assert_allclose(views["fine"], cells, atol=1e-6)
    small = torch.randn(3, 4, 5, 5, generator=rng())
    assert torch.equal(views_of([small])["fine"], small.flatten(1))
    wide = torch.randn(2, 2048, 7, 7, generator=rng())
    assert torch.allclose(views_of([wide])["fine"], wide.mean((2, 3)), atol=1e-6)


def test_views_of_tokens_vectors_and_several_tensors() -> None:
    tokens = torch.randn(2, 5, 6, generator=rng())
    views = views_of([tokens])
    assert torch.equal(views["fine"], tokens[:, 0])
    assert torch.allclose(views["coarse"], tokens.mean(1))
    vector = torch.randn(2, 4096, generator=rng())
    assert list(views_of([vector])) == ["coarse"] and torch.equal(
        views_of([vector])["coarse"], vector
    )
    maps = torch.randn(2, 16, 64, 64, generator=rng())
    both = views_of([maps, vector])
    assert both["coarse"].shape == (2, 16 + 4096)
    assert both["fine"].shape[1] - 4096 <= MOST_NUMBERS // 2
    swapped = maps.permute(0, 2, 3, 1)[:, :7, :7]
    last = views_of([swapped])["coarse"]
    assert torch.allclose(last, swapped.mean((1, 2)), atol=1e-6)
    assert views_of([torch.ones(2, 3, 4, 5, 6)])["fine"].tolist() == [[1.0] * 3] * 2
