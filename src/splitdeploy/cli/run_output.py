"""What ``splitdeploy run`` prints: a line a picture, and a summary at the end."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from splitdeploy.edge_runtime.answers import Answer, ClientStats
from splitdeploy.edge_runtime.bandwidth import Uplink
from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.units import format_rate, format_size, format_time

_REMEMBERED = 10_000
"""So many pictures, the newest, are what medians are taken of; a camera never ends."""

_STAGES = ("preprocess_s", "head_s", "wire_s", "tail_s", "last_s", "total_s")

_TABLE = ("picture", "answered by", "class", "score", "head", "wire", "tail", "total")
_WIDTHS = (28, 11, 24, 8, 9, 9, 9, 9)


@dataclass(frozen=True)
class Ranked:
    """A class and how the model scores it.

    Attributes:
        number: Of the class, from 0.
        label: Its name; empty where there are none.
        score: As the model gives it.
    """

    number: int
    label: str
    score: float


def read_labels(path: Path, bundle: Bundle) -> list[str]:
    """The names of the classes.

    Args:
        path: A text file, one a line.
        bundle: Whose results tell how many there are.

    Returns:
        Them.

    Raises:
        UsageError: The file cannot be read, or has another number of names.
    """
    try:
        labels = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"expected the names of classes in {path}, one a line: {error}") from error
    sizes = [spec.shape[1] for spec in bundle.results if len(spec.shape) == 2]
    if sizes and len(labels) != sizes[0]:
        raise UsageError(
            f"expected a name for each of {sizes[0]} classes in {path}, got {len(labels)} lines"
        )
    return labels


def ranked(answer: Answer, labels: Sequence[str] | None, top: int) -> list[Ranked]:
    """The classes with the highest scores, where the model gives scores of classes.

    Args:
        answer: To a picture.
        labels: Names of the classes.
        top: How many.

    Returns:
        The best first; of a result ``[1, classes]``, the first such.
    """
    for scores in (answer.outputs or {}).values():
        if scores.ndim == 2 and len(scores) == 1:
            row = scores[0]
            best = np.argsort(-row.astype(np.float64), kind="stable")[:top]
            return [
                Ranked(int(n), labels[n] if labels and n < len(labels) else "", float(row[n]))
                for n in best
            ]
    return []


class Results:
    """Prints a line a picture on standard output.

    Args:
        form: ``table``, ``json``, ``csv`` or ``md``.
        labels: Names of the classes.
        top: How many of them.
    """

    def __init__(self, form: str, labels: Sequence[str] | None, top: int) -> None:
        self._labels, self._top = labels, top
        self._line: Callable[[str, Answer, list[Ranked]], str] = {
            "table": _table_line, "json": _json_line, "csv": _csv_line, "md": _md_line,
        }[form]  # fmt: skip
        self._header = {
            "table": _columns(_TABLE),
            "json": None,
            "csv": _csv(_CSV),
            "md": f"| {' | '.join(_TABLE)} |\n|{'---|' * len(_TABLE)}",
        }[form]

    def show(self, name: str, answer: Answer) -> None:
        """Print one.

        Args:
            name: Of the picture.
            answer: To it.
        """
        if self._header is not None:
            click.echo(self._header)
            self._header = None
        click.echo(self._line(name, answer, ranked(answer, self._labels, self._top)))


class Summary:
    """Collects where the time went."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {s: deque(maxlen=_REMEMBERED) for s in _STAGES}

    def add(self, answer: Answer) -> None:
        """Count an answer's times; a refusal's tell nothing of a stage."""
        if answer.answered_by == "refused":
            return
        for stage, times in self._times.items():
            took_s = getattr(answer.times, stage)
            if took_s is not None and (stage != "wire_s" or answer.answered_by == "cloud"):
                times.append(took_s)

    def lines(self, stats: ClientStats, uplink: Uplink | None, elapsed_s: float) -> list[str]:
        """For people.

        Args:
            stats: What the client counted.
            uplink: What it knows of the uplink.
            elapsed_s: From the first picture to the last answer.

        Returns:
            A few lines.
        """
        counts = {
            "answered by the cloud": stats.answered_by_cloud,
            "answered locally": stats.answered_locally,
            "refused": stats.refused,
            "given up": stats.abandoned,
            "sent again": stats.retried,
            "late": stats.late,
        }
        told = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        answered = stats.answered_by_cloud + stats.answered_locally
        rate = f" in {format_time(elapsed_s)} ({answered / elapsed_s:.3g}/s)" if answered else ""
        lines = [f"{stats.sent} pictures: {told or 'none answered'}{rate}"]
        for stage, times in self._times.items():
            if times:
                middle, high = statistics.median(times), float(np.percentile(times, 95))
                lines.append(
                    f"{stage.removesuffix('_s'):<11}median {format_time(middle)}, "
                    f"p95 {format_time(high)}"
                )
        if stats.bytes_sent:
            lines.append(f"{'sent':<11}{format_size(stats.bytes_sent)}; {_uplink(uplink)}")
        return lines


def _uplink(uplink: Uplink | None) -> str:
    if uplink is None:
        return "the uplink's bandwidth is not told by this traffic"
    if uplink.bps is None:
        return f"the uplink has at least {format_rate(uplink.at_least_bps)}, more is not to be told"
    return f"the uplink has about {format_rate(uplink.bps)}"


def _cells(name: str, answer: Answer, best: list[Ranked]) -> list[str]:
    times = answer.times
    first = best[0] if best else None
    return [
        name,
        answer.answered_by,
        "-" if first is None else first.label or str(first.number),
        "-" if first is None else f"{first.score:.4g}",
        format_time(times.head_s),
        format_time(times.wire_s) if answer.attempts else "-",
        "-" if times.tail_s is None else format_time(times.tail_s),
        format_time(times.total_s),
    ]


def _columns(cells: Sequence[str]) -> str:
    """In columns; names keep their ends, which tell them apart."""
    name = cells[0] if len(cells[0]) <= _WIDTHS[0] else "…" + cells[0][1 - _WIDTHS[0] :]
    texts = [name.ljust(_WIDTHS[0]), cells[1].ljust(_WIDTHS[1])]
    texts += [cells[2][: _WIDTHS[2]].ljust(_WIDTHS[2])]
    texts += [cell.rjust(width) for cell, width in zip(cells[3:], _WIDTHS[3:], strict=True)]
    return "  ".join(texts)


def _table_line(name: str, answer: Answer, best: list[Ranked]) -> str:
    return _columns(_cells(name, answer, best))


def _md_line(name: str, answer: Answer, best: list[Ranked]) -> str:
    return f"| {' | '.join(c.replace('|', '/') for c in _cells(name, answer, best))} |"


def _json_line(name: str, answer: Answer, best: list[Ranked]) -> str:
    document: dict[str, Any] = {
        "index": answer.index,
        "picture": name,
        "answered_by": answer.answered_by,
        "kind": answer.kind,
        "error": answer.error,
        "attempts": answer.attempts,
        "payload_bytes": answer.payload_bytes,
        "times": asdict(answer.times),
        "top": [{"class": one.number, "label": one.label, "score": one.score} for one in best],
        "outputs": {
            output: {"shape": list(array.shape), "dtype": array.dtype.name}
            for output, array in (answer.outputs or {}).items()
        },
    }
    return json.dumps(document)


_CSV = (
    "index", "picture", "answered_by", "kind", "error", "attempts", "payload_bytes",
    "preprocess_s", "head_s", "wire_s", "tail_s", "queue_s", "total_s", "classes", "labels",
    "scores", "last_s",
)  # fmt: skip


def _csv_line(name: str, answer: Answer, best: list[Ranked]) -> str:
    times = asdict(answer.times)
    return _csv([
        answer.index, name, answer.answered_by, answer.kind or "", answer.error or "",
        answer.attempts, answer.payload_bytes,
        *("" if times[stage] is None else f"{times[stage]:.6f}" for stage in _CSV[7:13]),
        *(";".join(str(getattr(one, of)) for one in best) for of in ("number", "label", "score")),
        "" if answer.times.last_s is None else f"{answer.times.last_s:.6f}",
    ])  # fmt: skip


def _csv(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
