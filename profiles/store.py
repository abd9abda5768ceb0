"""Reads and writes a run's ``report.json`` and ``cuts.csv``.

JSON knows no infinity: a figure that can be infinite (the PSNR of a perfect reconstruction, the
error of an output that is not finite) is ``null`` in the file where it is.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from splitdeploy.profiles.errors import OutputError, ReportError
from splitdeploy.profiles.report import UNCOMPUTED, CutReport, LeakageRecord, SweepReport
from splitdeploy.profiles.report_checks import check_sense
from splitdeploy.profiles.report_reader import report_from_json, row_from_json
from splitdeploy.profiles.report_writer import report_to_json, row_to_json
from splitdeploy.profiles.throughput import throughput_per_s

__all__ = [
    "check_schema", "cuts_csv", "dump_json", "read_report", "report_from_json", "report_schema",
    "report_to_json", "row_from_json", "row_to_json", "write_atomically", "write_cuts_csv",
    "write_report",
]  # fmt: skip

REPORT_FILE = "report.json"


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every ``report.json`` follows."""
    text = resources.files("splitdeploy.profiles").joinpath("data/report.schema.json").read_text()
    schema: dict[str, Any] = json.loads(text)
    return schema


def check_schema(document: object) -> None:
    """Check a document against the shipped schema, where ``jsonschema`` is installed.

    On an edge device it is not; ``report_from_json`` checks there what it needs.

    Args:
        document: What ``json.loads`` gave.

    Raises:
        ReportError: The document does not follow the schema.
    """
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
    except ImportError:
        return
    error = best_match(Draft202012Validator(report_schema()).iter_errors(document))
    if error is not None:
        message = " ".join(error.message.split())
        shown = message if len(message) <= 200 else message[:197] + "..."
        raise ReportError(f"report at {error.json_path}: {shown}")


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Write a file so that it is there whole or not at all.

    The content goes to a file beside it, reaches the disk, and then takes the name.

    Args:
        path: Where to write; the folder must exist.
        content: Text is written as UTF-8.

    Raises:
        OutputError: The place cannot be written, or is full.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    beside: str | None = None
    try:
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for their owner alone; a report is for whoever may read the folder.
        umask = os.umask(0)
        os.umask(umask)
        Path(beside).chmod(0o666 & ~umask)
        Path(beside).replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; give another place with --out"
        ) from error
    finally:
        if beside is not None:
            with suppress(OSError):
                Path(beside).unlink(missing_ok=True)


def write_report(report: SweepReport, path: Path | str) -> None:
    """Write ``report.json``.

    Args:
        report: What to write.
        path: The file, or the run folder that it goes into.

    Raises:
        OutputError: The place cannot be written.
        ReportError: The report holds a figure that is not finite where it must be.
    """
    path = Path(path)
    write_atomically(path / REPORT_FILE if path.is_dir() else path, dump_json(report))


def dump_json(report: SweepReport) -> str:
    """The text of ``report.json``.

    Args:
        report: What to write.

    Returns:
        JSON, indented, with a newline at the end.

    Raises:
        ReportError: The report holds a figure that is not finite where it must be.
    """
    try:
        text = json.dumps(report_to_json(report), indent=2, allow_nan=False, ensure_ascii=False)
    except (ValueError, TypeError) as error:
        raise ReportError(f"the report cannot be written as JSON: {error}") from error
    return text + "\n"


def read_report(run: Path | str) -> SweepReport:
    """Read a report and check it.

    Args:
        run: A run folder, or its ``report.json``.

    Returns:
        The report.

    Raises:
        ReportError: There is none, it is no JSON, or it does not follow the schema.
    """
    path = Path(run)
    path = path / REPORT_FILE if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(
            f"expected a run folder with a {REPORT_FILE}, or that file, got {run}; "
            "write one with: splitdeploy profile MODEL --out DIR"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"cannot read {path}: {error}") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is no JSON document: {error}") from error
    report = report_from_json(document)
    check_schema(document)
    check_sense(document)
    return report


CSV_FIGURES = (
    "bayesian_fsinfo", "information_prior", "information_covariance", "dfil", "fil_max",
    "rank_share", "distance_correlation", "class_radius", "mse_determinant", "mse_trace",
    "mse_mean_determinant", "mse_van_trees", "mse_covariance",
)  # fmt: skip
"""Of the family, beside those that have columns of their own."""

CSV_COLUMNS = (
    "name", "index", "payload_bytes", "uplink_bps_needed", "edge_macs", "cloud_macs",
    "verified", "max_rel_error", "edge_s", "uplink_s", "cloud_s", "downlink_s", "total_s",
    "total_p95_s", "throughput_per_s", "latency_source", "compute_j", "radio_j", "total_j",
    "energy_source", "edge_memory_bytes", "fsinfo", "fsinfo_standard_error", "gain",
    "gain_standard_error", "exact_fsinfo", "attack", "attack_ssim", "attack_psnr_db",
    "attack_converged", "baseline_ssim", "feasible", "pareto", "recommended", "violations", "error",
    *(f"{figure}{part}" for figure in CSV_FIGURES for part in ("", "_standard_error")),
    "precision", "run", "codec_same_class", "codec_max_rel_error", "codec_images", "batch",
)  # fmt: skip


def cuts_csv(report: SweepReport) -> str:
    """The cuts as a table: a header, then one line a cut, in the order of execution.

    Args:
        report: What to write.

    Returns:
        CSV; an empty field stands for a figure that is not there.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    picked = report.recommendation.cut if report.recommendation else None
    for row in report.cuts:
        line = _csv_row(row)
        batch = line["batch"] = report.batch_of(row)
        line["throughput_per_s"] = throughput_per_s(row.latency_s, report.network, batch)
        line |= {"pareto": row.name in report.pareto, "recommended": row.name == picked}
        line["precision"] = row.precision or report.edge.precision
        writer.writerow({key: _csv_value(value) for key, value in line.items()})
    return out.getvalue()


def write_cuts_csv(report: SweepReport, path: Path | str) -> None:
    """Write ``cuts.csv``.

    Args:
        report: What to write.
        path: The file.

    Raises:
        OutputError: The place cannot be written.
    """
    write_atomically(path, cuts_csv(report))


def _csv_value(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def _csv_row(row: CutReport) -> dict[str, object]:
    line: dict[str, object] = {
        "name": row.name,
        "index": row.cut.index,
        "payload_bytes": row.cut.payload_bytes,
        "uplink_bps_needed": row.uplink_bps_needed,
        "edge_macs": row.cut.head_macs,
        "cloud_macs": row.cut.tail_macs,
        "edge_memory_bytes": row.edge_memory_bytes,
        "feasible": row.feasible,
        "violations": "; ".join(row.violations),
        "error": row.error,
        "run": row.run,
    }
    if row.verified:
        line |= {"verified": row.verified.ok, "max_rel_error": row.verified.max_rel_error}
    if row.latency_s:
        latency = row.latency_s
        line |= {
            "edge_s": latency.edge.median,
            "uplink_s": latency.uplink.median,
            "cloud_s": latency.cloud.median,
            "downlink_s": latency.downlink.median,
            "total_s": latency.total.median,
            "total_p95_s": latency.total.p95,
            "latency_source": latency.total.source,
        }
    if row.energy_j:
        line |= {
            "compute_j": row.energy_j.compute,
            "radio_j": row.energy_j.radio,
            "total_j": row.energy_j.total,
            "energy_source": row.energy_j.source,
        }
    if row.leakage:
        line |= {
            "fsinfo": row.leakage.fsinfo.value,
            "fsinfo_standard_error": row.leakage.fsinfo.standard_error,
            "gain": row.leakage.gain.value,
            "gain_standard_error": row.leakage.gain.standard_error,
            "exact_fsinfo": _exact_fsinfo(row.leakage),
        }
        for figure in row.leakage.figures:
            if figure.name in CSV_FIGURES:
                line[figure.name] = figure.value
                line[f"{figure.name}_standard_error"] = figure.standard_error
    if row.codec_loss:
        line |= {
            "codec_same_class": row.codec_loss.same_class,
            "codec_max_rel_error": row.codec_loss.max_rel_error,
            "codec_images": row.codec_loss.images,
        }
    attack = row.strongest_attack
    if attack:
        line |= {
            "attack": attack.name,
            "attack_ssim": attack.ssim,
            "attack_psnr_db": attack.psnr_db,
            "attack_converged": attack.converged,
        }
    if row.baseline:
        line["baseline_ssim"] = row.baseline.ssim
    return line


def _exact_fsinfo(record: LeakageRecord) -> float | str | None:
    """The cell; empty where it may be finite but was not computed."""
    if record.exact_fsinfo is not None:
        return record.exact_fsinfo.value
    uncomputed = any(note.startswith(UNCOMPUTED) for note in record.notes)
    return None if uncomputed else "-inf"
