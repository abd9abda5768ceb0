"""Reproduce the published tables: paper against ours, with intervals and trivial baselines.

    python benchmarks/reproduce.py he2019|unsplit|pfo --data DIR --out DIR [--quick] [--only REGEX]
    python benchmarks/reproduce.py write --out DIR

DIR is as `victims.py` says. Nets are trained first, half an hour for CIFAR-10 on one core. Rows go
into the file of results as they come, and an interrupted run goes on where it was. ``--quick``
takes fewer pictures and steps, some minutes in all, into a file of its own. ``write`` puts tables
and pictures of the full runs into docs/reproduction.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import reproduce_he2019
import reproduce_pfo
import reproduce_unsplit
import torch
from reproduction import Bench, run_settings
from reproduction_page import write_page

PAPERS = {"he2019": reproduce_he2019, "unsplit": reproduce_unsplit, "pfo": reproduce_pfo}

FULL, QUICK = (100, 300.0), (12, 10.0)
"""Pictures, and about the seconds of an attack."""


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paper", choices=[*PAPERS, "write"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", metavar="REGEX", help="of rows, by their names")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.paper == "write":
        write_page(given.out, Path("docs"), PAPERS)
        return
    if given.data is None:
        parser.error("expected --data DIR: the folder of data sets and weights")
    images, seconds = QUICK if given.quick else FULL
    given.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(given.data, given.out, images, seconds, given.quick)
    results = given.out / f"{given.paper}{'-quick' if given.quick else ''}.json"
    run_settings(PAPERS[given.paper].settings(), bench, results, given.only)


if __name__ == "__main__":
    main()
