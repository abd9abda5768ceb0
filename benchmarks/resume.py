"""A sweep killed at random moments and resumed: is the report equal, was anything done twice?

    python benchmarks/resume.py --moments 20 --out resume.json

Every run is a real process that gets SIGKILL at a moment drawn evenly from its length. They are
forked from one that has loaded torch, so that all of that length is work. The net is the tests'
small one, whose attacks end by themselves: where a budget cuts attacks short, no two runs agree.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from command_line import MODEL, SMALL  # noqa: E402
from forked_runs import ForkedRuns  # noqa: E402

from splitdeploy.partitioner.comparable import comparable  # noqa: E402
from splitdeploy.partitioner.state import DONE, STATE_FOLDER  # noqa: E402

SWEEP = ("profile", MODEL, *SMALL, "--budget", "10m", "-q", "--out")


def main() -> None:
    """Print a line a moment, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("resume.json"))
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder, ForkedRuns() as runs:
        whole = Path(folder) / "whole"
        seconds = runs.run([*SWEEP, whole])["seconds"]
        for nth in range(arguments.moments):
            row = _killed(runs, whole, Path(folder) / str(nth), draw.uniform(0, seconds))
            print(json.dumps(row), flush=True)
            rows.append(row)
    document = {"uninterrupted_s": seconds, "moments": rows}
    arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    equal, twice = sum(row["equal"] for row in rows), sum(row["twice"] for row in rows)
    print(f"{equal} of {len(rows)} reports equal, {twice} pieces of work done twice")


def _killed(runs: ForkedRuns, whole: Path, out: Path, after_s: float) -> dict[str, Any]:
    killed = runs.run([*SWEEP, out], kill_after_s=after_s)
    kept = sum(_finished(out).values())
    resumed = runs.run([*SWEEP, out, "--resume"])
    done = _finished(out)
    return {
        "after_s": round(after_s, 2),
        "killed": killed["code"] == -9,
        "finished_before": kept,
        "finished_in_all": sum(done.values()),
        "resumed_s": round(resumed["seconds"], 2),
        "equal": resumed["code"] == 0 and _report(out) == _report(whole),
        "twice": sum(count - 1 for count in done.values()),
    }


def _report(out: Path) -> dict[str, Any]:
    return comparable(json.loads((out / "report.json").read_text()))


def _finished(out: Path) -> Counter[tuple[str, str | None]]:
    path = out / STATE_FOLDER / DONE
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter((line["work"], line["cut"]) for line in map(json.loads, lines))


if __name__ == "__main__":
    main()
