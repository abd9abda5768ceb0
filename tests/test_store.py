from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from factories import make_report, only, with_row
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from splitdeploy.partitioner.recommend import recommend
from splitdeploy.profiles import report as r
from splitdeploy.profiles.cut import CutPoint, TensorSpec
from splitdeploy.profiles.errors import OutputError, ReportError
from splitdeploy.profiles.figure import Figure
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.store import (
    CSV_COLUMNS,
    check_schema,
    cuts_csv,
    dump_json,
    read_report,
    report_from_json,
    report_schema,
    report_to_json,
    row_from_json,
    row_to_json,
    write_atomically,
    write_cuts_csv,
    write_report,
)

text = st.text(max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
some = st.floats(min_value=0, max_value=1e12)
count = st.integers(min_value=0, max_value=2**53)
source = st.sampled_from(["measured", "simulated", "predicted", "published"])
psnr = finite | st.just(math.inf)


def maybe(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | strategy


def texts(strategy: st.SearchStrategy = text) -> st.SearchStrategy:
    return st.lists(strategy, max_size=3).map(tuple)


estimate = st.builds(r.Estimate, finite, some)
figure = st.builds(
    Figure, text, text, finite | st.sampled_from([math.inf, -math.inf]), maybe(some), text, text,
    text, count,
)  # fmt: skip
measurement = st.builds(
    Measurement, finite, finite, some, count,
    st.sampled_from(["stable", "unstable", "too few samples", "not repeated"]), source,
)  # fmt: skip
tensor = st.builds(
    TensorSpec, text, st.lists(st.integers(0, 512), max_size=4).map(tuple),
    st.sampled_from(["float32", "float16", "int8", "bool"]),
)  # fmt: skip
cut_point = st.builds(
    CutPoint, text, count, texts(tensor), count, count, count, count, count, count
)
interval = st.tuples(finite, finite)
attack = st.builds(
    r.AttackRecord, text, text, text, psnr, finite, some, interval, count, some,
    st.booleans(), st.booleans(), count, maybe(text), maybe(interval), maybe(interval),
    maybe(finite), maybe(finite), maybe(interval), maybe(finite), maybe(finite), maybe(text),
    texts(),
)  # fmt: skip
error = some | st.just(math.inf)
row = st.builds(
    r.CutReport,
    cut_point,
    maybe(some),
    maybe(st.builds(r.Verification, st.booleans(), error, error, count)),
    maybe(st.builds(r.StageLatency, *[measurement] * 5)),
    maybe(st.builds(r.Energy, some, some, some, source)),
    maybe(count),
    maybe(
        st.builds(
            r.LeakageRecord, estimate, estimate, maybe(estimate), count, count, estimate, finite,
            some, text, text, count, maybe(some), count, texts(), maybe(estimate), texts(figure),
        )
    ),
    texts(attack),
    maybe(st.builds(r.Baseline, psnr, finite, some)),
    st.booleans(),
    texts(),
    maybe(text),
    texts(),
)  # fmt: skip
place = st.builds(r.PlaceInfo, text, text, maybe(text), source, text)
rate = st.floats(min_value=1, max_value=1e12)
json_value = st.recursive(
    st.none() | st.booleans() | finite | text, lambda v: st.lists(v, max_size=2), max_leaves=4
)
reports = st.builds(
    r.SweepReport,
    text,
    texts(),
    st.dictionaries(text, json_value, max_size=3),
    count,
    st.builds(r.ModelInfo, text, text, text, st.tuples(count, count), text, count, count),
    place,
    place,
    st.builds(NetworkProfile, text, rate, rate, some, text.filter(bool), text),
    texts(row),
    st.builds(
        r.Constraints, maybe(finite), maybe(finite), maybe(count), maybe(finite), maybe(finite)
    ),
    st.builds(
        r.Objective, st.sampled_from(["latency", "energy", "leakage", "balanced"]), some, some, some
    ),
    texts(),
    maybe(
        st.builds(
            r.Recommendation, text, texts(), texts(), maybe(text),
            st.dictionaries(text, st.tuples(finite, maybe(finite)), max_size=2),
            text.filter(bool),
        )
    ),
    texts(),
    maybe(count),
)  # fmt: skip


def decided() -> r.SweepReport:
    return recommend(make_report(), constraints=r.Constraints(), objective=r.Objective())


@given(reports)
@settings(max_examples=60)
def test_a_report_survives_the_file(report: r.SweepReport) -> None:
    document = json.loads(dump_json(report))
    assert report_from_json(document) == report
    Draft202012Validator(report_schema()).validate(document)


@given(row)
@settings(max_examples=20)
def test_a_row_survives_on_its_own(one: r.CutReport) -> None:
    assert row_from_json(json.loads(json.dumps(row_to_json(one), allow_nan=False))) == one


def test_the_schema_is_a_schema_and_holds_for_a_whole_report() -> None:
    Draft202012Validator.check_schema(report_schema())
    check_schema(json.loads(dump_json(decided())))


def test_the_keys_are_the_contract() -> None:
    document = report_to_json(decided())
    assert {
        "schema_version", "created", "command", "environment", "seed", "model", "edge", "cloud",
        "network", "cuts", "pareto", "recommendation", "constraints", "objective", "warnings",
    } <= set(document)  # fmt: skip
    assert set(document["model"]) == {
        "name", "weights", "weights_sha256", "input", "parameters", "macs"
    }  # fmt: skip
    cut = document["cuts"][6]
    assert {
        "name", "index", "tensors", "payload_bytes", "uplink_bps_needed", "edge_macs",
        "cloud_macs", "verified", "latency_s", "energy_j", "edge_memory_bytes", "leakage",
        "attacks", "baseline", "strongest_attack", "attack_notes", "feasible", "violations",
        "error",
    } <= set(cut)  # fmt: skip
    assert cut["tensors"] == [
        {"name": "layer3.0.out", "shape": [1, 256, 14, 14], "dtype": "float16", "bytes": 100352}
    ]
    assert cut["strongest_attack"] == "rmle"
    assert cut["leakage"]["exact_fsinfo"] is None
    assert set(cut["latency_s"]) == {"edge", "uplink", "cloud", "downlink", "total"}
    # A perfect reconstruction has an infinite PSNR, which JSON does not know.
    assert document["cuts"][0]["attacks"][0]["psnr_db"] is None
    assert set(document["recommendation"]) == {
        "cut", "objective", "why", "warnings", "runner_up", "stable_while", "probability_best",
        "expected_regret", "p95_regret", "regret_unit", "least_regret", "draws", "candidates",
        "settle", "uncertain_parts",
    }  # fmt: skip


def test_what_is_not_finite_never_reaches_the_file(tmp_path: Path) -> None:
    energy = r.Energy(math.nan, 0.0, 1.0, "simulated")
    with pytest.raises(ReportError, match="cannot be written as JSON"):
        write_report(with_row(make_report(), "layer1.0", energy_j=energy), tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_and_its_file_are_read_alike(tmp_path: Path) -> None:
    report = decided()
    write_report(report, tmp_path)
    assert read_report(tmp_path) == read_report(tmp_path / "report.json") == report


def test_keys_of_a_later_minor_version_are_passed_over() -> None:
    document = report_to_json(make_report())
    document["later"] = document["cuts"][0]["later"] = 1
    assert report_from_json(document) == make_report()


def test_another_schema_version_is_refused() -> None:
    for version, told in ((2, "2, which is newer"), (0, "0, which is older"), ("1", "'1'")):
        document = report_to_json(make_report()) | {"schema_version": version}
        with pytest.raises(ReportError, match=rf"expected 1, the version .* got {told}; read it"):
            report_from_json(document)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("cuts"), r"at \$: expected the key 'cuts', which is missing"),
        (lambda d: d.update(seed="x"), r"\$\.seed: expected an integer of zero or more, got 'x'"),
        (lambda d: d.update(cuts={}), r"\$\.cuts: expected an array, got \{\}"),
        (lambda d: d.update(model=[]), r"\$\.model: expected an object, got \[\]"),
        (lambda d: d["cuts"][3]["latency_s"]["edge"].update(median="fast"),
         r"\$\.cuts\[3\]\.latency_s\.edge\.median: expected a number, got 'fast'"),
        (lambda d: d["cuts"][0].update(feasible=1), r"cuts\[0\]\.feasible: expected true or false"),
        (lambda d: d["edge"].update(source="felt"), r"\$\.edge\.source: expected one of measured"),
        (lambda d: d["edge"].update(device=3), r"\$\.edge\.device: expected a string, got 3"),
        (lambda d: d["network"].update(rtt_s=math.nan), r"rtt_s: expected a finite number"),
        (lambda d: d["network"].update(rtt_s=10**400), r"expected a number that a float can hold"),
        (lambda d: d["cuts"][1]["tensors"][0].update(dtype="int3"), r"dtype: unknown dtype 'int3'"),
        (lambda d: d["cuts"][1]["attacks"][0].update(ssim_ci95=[1]),
         r"ssim_ci95: expected two numbers, got 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_path(damage: object, message: str) -> None:
    document = report_to_json(make_report())
    damage(document)  # type: ignore[operator]
    with pytest.raises(ReportError, match=message):
        report_from_json(document)


def test_the_schema_is_checked_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = report_to_json(make_report())
    document["objective"]["weight_energy"] = -1.0
    (tmp_path / "report.json").write_text(json.dumps(document))
    with pytest.raises(ReportError, match=r"\$\.objective\.weight_energy: -1\.0 is less than"):
        read_report(tmp_path)
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert read_report(tmp_path).objective.weight_energy == -1.0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d["network"].update(uplink_bps=0), r"\$\.network\.uplink_bps: expected a rate"),
        (lambda d: d["network"].update(rtt_s=-1.0), r"\$\.network\.rtt_s: expected a time of zero"),
        (lambda d: d["recommendation"].update(cut="conv9"),
         r"\$\.recommendation\.cut: expected the name of a cut, got 'conv9'; cuts: avgpool"),
        (lambda d: d["recommendation"].update(runner_up="x"), r"runner_up: expected the name of"),
        (lambda d: d["recommendation"]["candidates"][1].update(cut="x"),
         r"\$\.recommendation\.candidates\[1\]\.cut: expected the name of a cut"),
        (lambda d: d["recommendation"].pop("settle"),
         r"\$\.recommendation: expected the key 'settle', which is missing"),
        (lambda d: d["recommendation"]["candidates"][0].update(probability_best="high"),
         r"candidates\[0\]\.probability_best: expected a number, got 'high'"),
        (lambda d: d["recommendation"].update(trace={"samples": 3}),
         r"\$\.recommendation\.trace: expected the key 'duration_s'"),
        (lambda d: d["pareto"].append("x"), r"\$\.pareto\[\d+\]: expected the name of a cut"),
        (lambda d: d["cuts"][2].update(name="maxpool"),
         r"\$\.cuts\[2\]\.name: expected each cut once, got 'maxpool' again"),
        (lambda d: d["cuts"][2]["latency_s"]["cloud"].update(median=-1e-3),
         r"\$\.cuts\[2\]\.latency_s\.cloud\.median: expected a time of zero or more, got -0.001"),
        (lambda d: d["cuts"][2]["energy_j"].update(radio=-1),
         r"\$\.cuts\[2\]\.energy_j\.radio: expected an energy of zero or more"),
        (lambda d: d["cuts"][2]["attacks"][0].update(ssim_ci95=[0.9, 0.2]),
         r"attacks\[0\]\.ssim_ci95: expected a lower end before the upper one"),
    ],
)  # fmt: skip
def test_a_report_that_contradicts_itself_is_told_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object, message: str
) -> None:
    document = report_to_json(decided())
    damage(document)  # type: ignore[operator]
    (tmp_path / "report.json").write_text(json.dumps(document))
    # On an edge device there is no jsonschema, and it must be told all the same.
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ReportError, match=message):
        read_report(tmp_path)


def test_no_report_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="expected a run folder with a report.json"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"schema_version": 1')
    with pytest.raises(ReportError, match="is no JSON document"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ReportError, match="cannot read"):
        read_report(tmp_path)


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    write_atomically(path, "before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
        write_atomically(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"give another place with --out"):
        write_atomically(tmp_path / "missing" / "x", b"")


def test_a_written_file_is_as_readable_as_others(tmp_path: Path) -> None:
    write_atomically(tmp_path / "one", "")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_csv_has_a_line_a_cut(tmp_path: Path) -> None:
    report = decided()
    write_cuts_csv(report, tmp_path / "cuts.csv")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "cuts.csv").read_text())))
    assert tuple(lines[0]) == CSV_COLUMNS
    assert [line["name"] for line in lines] == [row.name for row in report.cuts]
    assert [line["name"] for line in lines if line["recommended"] == "yes"] == ["edge-only"]
    assert float(lines[4]["uplink_s"]) == report.cuts[4].latency_s.uplink.median
    assert lines[4]["exact_fsinfo"] == "-inf"


def test_the_csv_leaves_what_is_missing_empty() -> None:
    bare = r.CutReport(only(make_report(), "layer1.0").cuts[0].cut, error="it failed")
    lines = list(csv.DictReader(io.StringIO(cuts_csv(replace(make_report(), cuts=(bare,))))))
    assert lines[0]["total_s"] == lines[0]["fsinfo"] == lines[0]["attack"] == ""
    assert lines[0]["error"] == "it failed"
