"""The tables and pictures of docs/reproduction.md, from the files of results.

The page's text is written by hand. Between ``<!-- name -->`` and ``<!-- /name -->`` stands what
this module writes: one table for each paper that has results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from reproduction import read_rows, table, with_interval

from splitdeploy.profiles.store import write_atomically

PICTURES = "figures/reproduction"


def write_page(out: Path, docs: Path, papers: Mapping[str, ModuleType]) -> None:
    """Put what was measured into the page.

    Args:
        out: Where the files of results and the sheets of pictures are.
        docs: The folder of the page.
        papers: By name, the modules that list settings.
    """
    page = docs / "reproduction.md"
    text = page.read_text()
    for name, module in papers.items():
        rows = read_rows(out / f"{name}.json")
        if rows:
            text = _replaced(text, name, paper_section(module, rows))
            copy_sheets(module, rows, out, docs / PICTURES)
    write_atomically(page, text)


def paper_section(module: ModuleType, rows: Mapping[str, Any]) -> str:
    """The tables of one paper, each with its heading, and the pictures that it shows.

    Args:
        module: It lists ``settings()``, the names of labels in ``COLUMNS``, the figures to print in
            ``FIGURES``, and the rows whose pictures are shown in ``SHOWN``.
        rows: What was measured, by key.

    Returns:
        Markdown.
    """
    parts = []
    settings = [s for s in module.settings() if s.key in rows]
    for heading in dict.fromkeys(s.table for s in settings):
        mine = [s for s in settings if s.table == heading]
        lines = [[*s.labels, *_cells(rows[s.key], module.FIGURES)] for s in mine]
        columns = [*module.COLUMNS, *_columns(module.FIGURES)]
        parts.append(f"**{heading}**\n\n{table(columns, lines)}")
    for key in module.SHOWN:
        if key in rows:
            sheet = rows[key]["sheet"]
            parts.append(
                f"{key}: originals above, reconstructions below\n\n![{key}]({PICTURES}/{sheet})"
            )
    return "\n\n".join(parts)


def copy_sheets(module: ModuleType, rows: Mapping[str, Any], out: Path, folder: Path) -> None:
    """Put the pictures that a paper's section shows beside the page."""
    folder.mkdir(parents=True, exist_ok=True)
    for key in module.SHOWN:
        if key in rows:
            sheet = rows[key]["sheet"]
            write_atomically(folder / sheet, (out / sheet).read_bytes())


def _columns(figures: Sequence[str]) -> list[str]:
    names = {"psnr_db": "PSNR", "ssim": "SSIM", "mse": "MSE", "accuracy": "accuracy"}
    found = ["attack"]
    for figure in figures:
        found += [f"published {names[figure]}", f"our {names[figure]}"]
        if figure != "accuracy":
            found.append("best trivial")
    return [*found, "reached", "images", "s"]


def _cells(row: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    published = row["published"]
    cells = [row["attack"]]
    met = []
    for figure in figures:
        digits = {"psnr_db": 2, "accuracy": 1}.get(figure, 3)
        theirs = published.get(figure)
        cells.append("–" if theirs is None else f"{theirs:.{digits}f}")
        if row.get(figure) is None:
            cells += ["–"] * (1 if figure == "accuracy" else 2)
            continue
        cells.append(with_interval(row, figure, digits))
        if figure != "accuracy":
            cells.append(f"{row['baseline'][figure]:.{digits}f}")
        if theirs is not None:
            met.append(row[figure] <= theirs if figure == "mse" else row[figure] >= theirs)
    reached = "–" if not met else "yes" if all(met) else "in part" if any(met) else "no"
    return [*cells, reached, str(row["images"]), f"{row['seconds']:.0f}"]


def _replaced(text: str, name: str, section: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"expected a place <!-- {name} --> … <!-- /{name} --> in the page")
    return pattern.sub(lambda found: f"{found.group(1)}{section}\n{found.group(2)}", text)
