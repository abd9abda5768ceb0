from __future__ import annotations

import math
from dataclasses import replace

import pytest
from factories import make_report, only, with_row
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from splitdeploy.partitioner.pareto import pareto_front
from splitdeploy.partitioner.rebase import with_network
from splitdeploy.partitioner.recommend import judge, recommend
from splitdeploy.partitioner.scoring import balanced_score, leakage_indices, table_of
from splitdeploy.partitioner.stability import stable_interval
from splitdeploy.profiles.errors import InfeasibleError, UnknownNameError, UsageError
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.power import radio_energy_j
from splitdeploy.profiles.report import (
    Constraints,
    Energy,
    Objective,
    Recommendation,
    SweepReport,
    Verification,
)

FREE = Constraints()
FAST = NetworkProfile("custom", 900e6, 900e6, 0.0004, "wired")


def decide(report: SweepReport, limits: Constraints = FREE, **objective: object) -> Recommendation:
    decided = recommend(report, constraints=limits, objective=Objective(**objective))  # type: ignore[arg-type]
    assert decided.recommendation is not None
    return decided.recommendation


# --- reports with random figures ------------------------------------------------------------

milliseconds = st.floats(min_value=0.01, max_value=500)
figures = st.tuples(
    milliseconds,                                    # edge
    milliseconds,                                    # cloud
    st.floats(min_value=0, max_value=6),             # gain
    st.floats(min_value=0, max_value=1),             # SSIM
    st.booleans(),                                   # converged
    st.integers(min_value=1, max_value=256),         # channels of the boundary
)  # fmt: skip


coarse = st.tuples(
    *[st.sampled_from([1.0, 2.0, 4.0])] * 2, st.sampled_from([0.0, 1.0, 2.0]),
    st.sampled_from([0.2, 0.6]), st.booleans(), st.sampled_from([1, 16]),
)  # fmt: skip
"""Figures of which many coincide."""


@st.composite
def random_reports(
    draw: st.DrawFn, figures: st.SearchStrategy[tuple[float, ...]] = figures
) -> SweepReport:
    middle = draw(st.lists(figures, min_size=1, max_size=5))
    first, last = draw(figures), draw(figures)
    names = ["cloud-only", *(f"block{i}" for i in range(len(middle))), "edge-only"]
    rows = [
        (name, (1, f[5], 28, 28), i / (len(names) - 1), *f[:5])
        for i, (name, f) in enumerate(zip(names, [first, *middle, last], strict=True))
    ]
    network = draw(st.sampled_from([*NETWORKS.values(), FAST]))
    return make_report(network, rows=tuple(rows))


limits = st.builds(
    Constraints,
    max_latency_s=st.none() | st.floats(min_value=0.01, max_value=2),
    max_energy_j=st.none() | st.floats(min_value=0.01, max_value=5),
    max_edge_memory_bytes=st.none() | st.integers(min_value=5_000_000, max_value=30_000_000),
    max_ssim=st.none() | st.floats(min_value=0.1, max_value=1),
    max_fsinfo=st.none() | st.floats(min_value=-2, max_value=4),
)
weight = st.floats(min_value=0.1, max_value=10)
objectives = st.builds(
    Objective, st.sampled_from(["latency", "energy", "leakage", "balanced"]), weight, weight, weight
)
any_objective = st.just(Objective("throughput")) | objectives


def value_of(report: SweepReport, name: str, objective: Objective) -> float:
    """What the objective minimises, written down a second time from the documented formulas."""
    row = report.find(name)
    gains = {c.name: c.leakage.gain.value for c in report.cuts}

    def index(cut_name: str) -> float:
        if cut_name == "cloud-only":
            return 1.0
        cut = report.find(cut_name)
        share = gains[cut_name] / max(gains.values()) if max(gains.values()) else 0.0
        beyond = (cut.attacks[0].ssim - cut.baseline.ssim) / (1 - cut.baseline.ssim)
        return max(share, min(1.0, max(0.0, beyond)))

    latency, energy = row.latency_s.total.median, row.energy_j.total
    if objective.name == "throughput":
        trips = {"uplink": report.network.rtt_s / 2, "downlink": report.network.rtt_s / 2}
        stages = ("edge", "uplink", "cloud", "downlink")
        return max(getattr(row.latency_s, s).median - trips.get(s, 0.0) for s in stages)
    if objective.name != "balanced":
        return {"latency": latency, "energy": energy, "leakage": index(name)}[objective.name]
    product = 1.0
    weights = (objective.weight_latency, objective.weight_energy, objective.weight_leakage)
    between = [c for c in report.cuts if c.name not in {"cloud-only", "edge-only"}]
    for value, values, w in (
        (latency, [c.latency_s.total.median for c in between], weights[0]),
        (energy, [c.energy_j.total for c in between], weights[1]),
    ):
        product *= max(0.1, value / min(values)) ** w
    product *= max(0.01, 1 - index(name)) ** -weights[2]
    return math.log(product) / sum(weights)


def satisfies(report: SweepReport, name: str, c: Constraints) -> bool:
    row = report.find(name)
    ssim = 1.0 if name == "cloud-only" else row.attacks[0].ssim
    return (
        row.latency_s.total.median <= (math.inf if c.max_latency_s is None else c.max_latency_s)
        and row.energy_j.total <= (math.inf if c.max_energy_j is None else c.max_energy_j)
        and row.edge_memory_bytes <= (c.max_edge_memory_bytes or math.inf)
        and ssim <= (math.inf if c.max_ssim is None else c.max_ssim)
        and row.leakage.fsinfo.value <= (math.inf if c.max_fsinfo is None else c.max_fsinfo)
    )


@given(random_reports(), limits, objectives)
@settings(max_examples=60)
def test_the_pick_is_feasible_and_the_best_by_brute_force(
    report: SweepReport, c: Constraints, objective: Objective
) -> None:
    feasible = [row.name for row in report.cuts if satisfies(report, row.name, c)]
    if not feasible:
        with pytest.raises(InfeasibleError, match="no cut satisfies the constraints"):
            recommend(report, constraints=c, objective=objective)
        return
    decided = recommend(report, constraints=c, objective=objective)
    assert [row.name for row in decided.cuts if row.feasible] == feasible
    pick = decided.recommendation.cut
    assert pick in feasible
    best = min(value_of(report, name, objective) for name in feasible)
    assert value_of(report, pick, objective) == pytest.approx(best, rel=1e-9, abs=1e-9)


@given(random_reports(), objectives, st.sampled_from([2.0**k for k in (-8, -1, 3, 10)]))
@settings(max_examples=30)
def test_a_slower_clock_changes_nothing(
    report: SweepReport, objective: Objective, factor: float
) -> None:
    # A power of two scales floating point exactly, so that ties stay ties. The decision is asked
    # for without its interval, which depends on the network's own time scale.
    def slower(row):
        parts = {
            k: replace(m, median=m.median * factor, p95=m.p95 * factor)
            for k, m in vars(row.latency_s).items()
        }
        return replace(row, latency_s=replace(row.latency_s, **parts))

    scaled = replace(report, cuts=tuple(slower(row) for row in report.cuts))
    assert decide(scaled, **vars(objective)).cut == decide(report, **vars(objective)).cut


@given(random_reports() | random_reports(coarse), any_objective)
@settings(max_examples=80)
def test_the_pareto_set_by_brute_force(report: SweepReport, objective: Objective) -> None:
    kinds = ["latency", "energy", "leakage"]
    if objective.name == "throughput":
        kinds.append("throughput")
    points = {
        row.name: [value_of(report, row.name, Objective(kind)) for kind in kinds]
        for row in report.cuts
    }
    beaten = set()
    for name, mine in points.items():
        for other in points.values():
            if other != mine and all(b <= a for a, b in zip(mine, other, strict=True)):
                beaten.add(name)
    found = judge(report, constraints=FREE, objective=objective).pareto
    assert found == tuple(name for name in points if name not in beaten)
    for place in range(len(kinds)):  # whatever is traded, a best row of it is there
        least = min(point[place] for point in points.values())
        assert least in {points[name][place] for name in found}


def test_a_row_is_on_the_pareto_set_for_its_throughput_alone() -> None:
    """Half the payload, thrice the computing: beaten in all but the pace of a slow link."""
    link = NetworkProfile("test", 1e6, 1e9, 0.0, "wifi")
    report = make_report(link, rows=(
        ("cloud-only", (1, 3, 64, 64), 0.0, 0.0, 1.0, 4.0, 1.0, True),
        ("early", (1, 64, 8, 8), 0.2, 20.0, 1.0, 1.0, 0.4, True),
        ("late", (1, 32, 8, 8), 0.5, 60.0, 1.0, 2.0, 0.5, True),
        ("edge-only", (1, 10), 1.0, 90.0, 0.0, 0.5, 0.2, True),
    ))  # fmt: skip
    slow = with_row(report, "late", energy_j=Energy(9.0, 9.0, 18.0, "simulated"))
    sets = {
        name: judge(slow, constraints=FREE, objective=Objective(name)).pareto
        for name in ("balanced", "latency", "throughput")
    }
    assert sets["throughput"] == (*sets["latency"][:-1], "late", sets["latency"][-1])
    assert sets["balanced"] == sets["latency"]
    assert decide(slow, name="throughput").cut in sets["throughput"]


@given(random_reports() | random_reports(coarse), any_objective, limits)
@settings(max_examples=60)
def test_the_pick_is_on_the_pareto_set(
    report: SweepReport, objective: Objective, c: Constraints
) -> None:
    judged = judge(report, constraints=c, objective=objective)
    assume(any(row.feasible for row in judged.cuts))
    pick = recommend(report, constraints=c, objective=objective).recommendation.cut
    feasible = {row.name for row in judged.cuts if row.feasible}
    points = {row.name: row.trade_offs(objective) for row in table_of(report).rows}
    assert pick in pareto_front({k: v for k, v in points.items() if k in feasible})
    # Limits on what are the axes themselves cannot take away what dominates the pick.
    if c.max_edge_memory_bytes is None and c.max_ssim is None and c.max_fsinfo is None:
        assert pick in judged.pareto


@given(random_reports(), objectives, limits, limits)
@settings(max_examples=40)
def test_a_tighter_limit_never_improves_the_objective(
    report: SweepReport, objective: Objective, one: Constraints, other: Constraints
) -> None:
    def tighter(a: float | None, b: float | None) -> float | None:
        return min((v for v in (a, b) if v is not None), default=None)

    tight = Constraints(**{k: tighter(v, getattr(other, k)) for k, v in vars(one).items()})
    assume(any(satisfies(report, row.name, tight) for row in report.cuts))
    loose_pick, tight_pick = (decide(report, c, **vars(objective)).cut for c in (one, tight))
    loose_value = value_of(report, loose_pick, objective)
    assert value_of(report, tight_pick, objective) >= loose_value - 1e-9


@given(random_reports(), objectives)
@settings(max_examples=25)
def test_the_pick_changes_where_the_interval_ends(
    report: SweepReport, objective: Objective
) -> None:
    recommendation = decide(report, **vars(objective))
    low, high = recommendation.stable_while["uplink_bps"]

    def pick_at(uplink_bps: float) -> str:
        there = with_network(report, replace(report.network, uplink_bps=uplink_bps))
        return decide(there, **vars(objective)).cut

    here = report.network.uplink_bps
    assert low <= here and (high is None or here <= high)
    assert pick_at(math.sqrt(here * (low or 1e3))) == recommendation.cut
    assert pick_at(math.sqrt(here * (high or 1e11))) == recommendation.cut
    if low:
        assert pick_at(low) == recommendation.cut != pick_at(low * (1 - 1e-6))
    if high is not None:
        assert pick_at(high) == recommendation.cut != pick_at(high * (1 + 1e-6))


# --- particular cases -----------------------------------------------------------------------


def test_each_objective_on_a_fast_network() -> None:
    report = only(make_report(FAST), "maxpool", "layer2.0", "layer4.0", "avgpool")
    assert decide(report, name="latency").cut == "avgpool"
    assert decide(report, name="energy").cut == "maxpool"
    assert decide(report, name="leakage").cut == "avgpool"


def test_weights_move_the_balance() -> None:
    report = only(make_report(FAST), "maxpool", "layer2.0", "layer4.0")
    energy = decide(report, weight_latency=0.0, weight_energy=1.0, weight_leakage=0.0)
    leakage = decide(report, weight_latency=0.0, weight_energy=0.0, weight_leakage=1.0)
    assert (energy.cut, leakage.cut) == ("maxpool", "layer4.0")


def test_a_weak_attack_makes_no_cut_look_safe() -> None:
    report = make_report()
    before = leakage_indices(report)["layer2.0"]
    weak = replace(report.find("layer2.0").attacks[0], ssim=0.0, converged=False)
    assert leakage_indices(with_row(report, "layer2.0", attacks=(weak,)))["layer2.0"] <= before
    gain_share = 1.61 / 4.61
    weakened = leakage_indices(with_row(report, "layer2.0", attacks=(weak,)))["layer2.0"]
    assert weakened == pytest.approx(gain_share)
    strong = replace(weak, ssim=1.0)
    assert leakage_indices(with_row(report, "layer2.0", attacks=(strong,)))["layer2.0"] == 1.0
    # Without Fisher information nothing but an attack that converged says that a cut is safe.
    bare = with_row(report, "layer2.0", attacks=(weak,), leakage=None)
    assert leakage_indices(bare)["layer2.0"] == 1.0
    told = with_row(report, "layer2.0", attacks=(replace(weak, converged=True),), leakage=None)
    assert leakage_indices(told)["layer2.0"] == 0.0


def test_the_ends_leak_by_definition() -> None:
    report = make_report()
    for end in ("cloud-only", "edge-only"):
        report = with_row(report, end, attacks=(), leakage=None, baseline=None)
    indices = leakage_indices(report)
    assert (indices["cloud-only"], indices["edge-only"]) == (1.0, 0.0)
    with pytest.raises(InfeasibleError, match="SSIM 1 exceeds --max-ssim 0.5"):
        decide(only(report, "cloud-only"), Constraints(max_ssim=0.5))
    assert decide(only(report, "edge-only", "layer2.0"), Constraints(max_ssim=0.5)).cut == (
        "edge-only"
    )


def without_privacy(report: SweepReport) -> SweepReport:
    rows = tuple(replace(row, leakage=None, attacks=(), baseline=None) for row in report.cuts)
    return replace(report, cuts=rows)


def test_without_leakage_figures_the_term_is_dropped_and_told() -> None:
    recommendation = decide(without_privacy(make_report(FAST)))
    assert any("leakage has no part in this pick" in w for w in recommendation.warnings)
    assert "latency and energy weighed 1 : 1" in recommendation.why[0]
    with pytest.raises(UsageError, match="objective leakage needs leakage figures"):
        decide(without_privacy(make_report()), name="leakage")
    with pytest.raises(UsageError, match="expected a positive weight for a figure that"):
        decide(without_privacy(make_report()), weight_latency=0.0, weight_energy=0.0)


def test_a_failed_or_wrong_cut_is_never_picked() -> None:
    report = only(make_report(), "avgpool", "layer4.1", "edge-only")
    report = with_row(report, "edge-only", error="the session could not be opened")
    report = with_row(report, "avgpool", verified=Verification(False, 3.0, 0.4, 4))
    decided = recommend(report, constraints=FREE, objective=Objective())
    assert decided.recommendation.cut == "layer4.1"
    assert decided.pareto == ("layer4.1",)
    assert decided.find("edge-only").violations == ("failed: the session could not be opened",)
    assert "relative error 0.4" in decided.find("avgpool").violations[0]
    assert any("Left out, because they failed: avgpool and edge-only" in w
               for w in decided.recommendation.warnings)  # fmt: skip
    with pytest.raises(InfeasibleError, match="all 1 failed; the first: the session could"):
        decide(only(report, "edge-only"))


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (Constraints(max_latency_s=0.002), r"--max-latency binds: the nearest cut is edge-only, "
         r"whose total latency 3.85 ms exceeds --max-latency 2 ms by 1.85 ms \(92 %\)"),
        (Constraints(max_ssim=0.1), r"edge-only, whose SSIM 0.164 exceeds --max-ssim 0.1 by 0.064"),
        (Constraints(max_fsinfo=-3.0), r"FSInfo -1.89 nats exceeds .* by 1.11 nats"),
        (Constraints(max_edge_memory_bytes=1_000_000), r"cloud-only, whose edge memory 6.42 MB"),
        # The binding constraint is the one that the nearest cut misses most.
        (Constraints(max_energy_j=0.029, max_latency_s=0.001), r"--max-latency binds"),
    ],
)  # fmt: skip
def test_what_binds_is_told_with_the_miss(limit: Constraints, message: str) -> None:
    with pytest.raises(InfeasibleError, match=message):
        decide(make_report(), limit)


def test_a_figure_that_a_limit_asks_for_must_be_there() -> None:
    report = only(without_privacy(make_report()), "layer1.0", "layer2.0")
    with pytest.raises(InfeasibleError, match="has no SSIM figure, which --max-ssim asks for"):
        decide(report, Constraints(max_ssim=0.9))
    mixed = with_row(make_report(), "edge-only", energy_j=None)
    judged = judge(mixed, constraints=FREE, objective=Objective("energy"))
    assert judged.find("edge-only").violations == (
        "has no energy figure, which the objective asks for",
    )


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (Constraints(max_latency_s=0.0), "expected a number above zero for --max-latency, got 0"),
        (Constraints(max_ssim=math.nan), "expected a number for --max-ssim, got nan"),
    ],
)
def test_limits_that_cannot_be_meant(limit: Constraints, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        decide(make_report(), limit)


def test_objectives_that_cannot_be_meant() -> None:
    with pytest.raises(UnknownNameError, match="unknown objective 'latncy': did you mean latency"):
        decide(make_report(), name="latncy")
    with pytest.raises(UsageError, match="expected weights of zero or more"):
        decide(make_report(), weight_energy=-1.0)


def test_an_end_that_costs_no_energy_does_not_win_without_bound() -> None:
    report = make_report(FAST)
    free = with_row(report, "cloud-only", energy_j=Energy(0.0, 0.0, 0.0, "simulated"))
    table = table_of(free)
    scores = {row.name: balanced_score(row, table, Objective()) for row in table.rows}
    assert all(math.isfinite(score) for score in scores.values())
    # Free energy counts as a tenth of the best cut's: the input given away outweighs it.
    assert decide(free).cut != "cloud-only"


def test_everything_free_of_energy_is_no_error() -> None:
    report = make_report(FAST)
    none = Energy(0.0, 0.0, 0.0, "simulated")
    rows = tuple(replace(row, energy_j=none) for row in report.cuts)
    assert decide(replace(report, cuts=rows)).cut == "edge-only"


def test_another_network_is_seen_without_measuring() -> None:
    for here, there in (("wifi", "3g"), ("3g", "ethernet")):
        moved = with_network(make_report(NETWORKS[here]), NETWORKS[there])
        direct = make_report(NETWORKS[there])
        for one, other in zip(moved.cuts, direct.cuts, strict=True):
            for stage in ("edge", "uplink", "cloud", "downlink", "total"):
                a, b = getattr(one.latency_s, stage), getattr(other.latency_s, stage)
                assert a.median == pytest.approx(b.median)
                assert a.p95 == pytest.approx(b.p95)
            assert one.energy_j.total == pytest.approx(other.energy_j.total)
    assert with_network(direct, direct.network) is direct


def test_the_radio_follows_the_network_and_edge_only_sends_nothing() -> None:
    moved = with_network(make_report(), NETWORKS["lte"])
    row = moved.find("layer2.0")
    assert row.energy_j.radio == radio_energy_j(NETWORKS["lte"], row.cut.payload_bytes, 4000)
    end = moved.find("edge-only")
    assert (end.latency_s.uplink.median, end.energy_j.radio) == (0.0, 0.0)


def test_the_reasons_name_both_ends_the_limit_and_the_runner_up() -> None:
    limit = Constraints(max_edge_memory_bytes=28_000_000)
    recommendation = decide(make_report(FAST), limit)
    why = " ".join(recommendation.why)
    for part in ("Against cloud-only", "Against edge-only", "The runner-up is", "exceeds --max"):
        assert part in why
    assert recommendation.runner_up in why
    warnings = " ".join(recommendation.warnings)
    assert "had not converged" in warnings
    assert "jetson-orin-nano are simulated, not measured" in warnings


def test_warnings_of_untrained_weights_and_of_an_attack_that_shows_nothing() -> None:
    report = make_report()
    report = replace(report, model=replace(report.model, weights="random, seed 0"))
    attack = replace(report.find("edge-only").attacks[0], ssim=0.1)
    warnings = " ".join(decide(with_row(report, "edge-only", attacks=(attack,))).warnings)
    assert "The weights are not trained" in warnings
    assert "does not beat the trivial" in warnings


def test_cloud_only_is_told_for_what_it_is() -> None:
    assert any("the input itself" in w for w in decide(make_report(FAST), name="energy").warnings)


def test_points_that_coincide_are_both_on_the_front() -> None:
    assert pareto_front({"a": (1, 1), "b": (1, 1), "c": (2, 1), "d": (0, 3)}) == ("a", "b", "d")


@pytest.mark.parametrize("edges", [(2e4, 7e7), (0.0, math.inf), (1e5, 1e6)])
def test_the_interval_is_found_to_nine_digits(edges: tuple[float, float]) -> None:
    low, high = edges
    found = stable_interval(lambda b: "in" if low <= b <= high else "out", 3e5, "in")
    assert found[0] == pytest.approx(low, rel=1e-8)
    assert found[1] == (None if math.isinf(high) else pytest.approx(high, rel=1e-8))
