"""Trains a generator of pictures from a folder, within a budget, and goes on where it stopped."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.generators.adversarial import train_adversarial
from splitdeploy.attacks.generators.autoencoding import LEAST_PICTURES, train_autoencoding
from splitdeploy.attacks.generators.file import load_generator, save_generator
from splitdeploy.attacks.generators.small import Architecture, SmallGenerator
from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.pictures import save_sheet
from splitdeploy.attacks.steps import Run
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.run_folder import check_writable
from splitdeploy.profiles.errors import AttackError, OutputError, UsageError
from splitdeploy.profiles.store import write_atomically

METHODS = ("autoencoding", "adversarial")

_MOST_BYTES = 1 << 29
"""Of decoded pictures at once: 43,690 of 32 pixels, 896 of 224."""

_TRIAL_STEPS = 6
_SHEET = 8


@dataclass(frozen=True)
class PriorOptions:
    """What to train, and on what.

    Attributes:
        images: A folder of pictures.
        shape: ``(c, h, w)``.
        method: One of `METHODS`.
        steps: Of the optimiser; None where ``budget_s`` says when to stop.
        budget_s: Seconds for the training itself; None where ``steps`` says.
        latent_size: Elements of the latent vector.
        width: Channels at the picture's own resolution.
        mirror: Whether pictures are mirrored at random.
        start: A generator's file to begin with, for ``adversarial``.
        seed: Of everything random.
        resume: Whether to go on with an interrupted training.
    """

    images: Path
    shape: tuple[int, int, int]
    method: str = "autoencoding"
    steps: int | None = None
    budget_s: float | None = None
    latent_size: int = 256
    width: int = 32
    mirror: bool = True
    start: Path | None = None
    seed: int = 0
    resume: bool = False


def train_prior(options: PriorOptions, out: Path, reporter: Reporter) -> SmallGenerator:
    """Train, and write the generator and a sheet of its pictures beside it.

    The state of the training lies in ``OUT.training`` until it is done.

    Args:
        options: What to train.
        out: The generator's file; the sheet gets its name with ``.png``.
        reporter: Told the progress.

    Returns:
        The generator.

    Raises:
        OutputError: The place cannot be written.
        UsageError: There is an interrupted training and it is not to be resumed, or there is
            none and it is.
        ImagesError: The folder holds no pictures, or too small ones.
        AttackError: It holds too few, or the interrupted training was of something else.
    """  # noqa: DOC502
    folder = _check(options, out)
    start = _start(options)
    reporter.stage("reading pictures", 1)
    images = _pictures(options, reporter)
    reporter.advance()
    job = folder / "job.json"
    steps = _steps_before(job) if options.resume and options.steps is None else options.steps
    if steps is None:
        reporter.stage("timing a step", 1)
        steps = _affordable(options, images, start)
        reporter.advance()
        reporter.note(f"{steps} steps fit into the budget")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(job, json.dumps({"steps": steps, "settings": _told(options)}, indent=2) + "\n")
    reporter.stage(f"training, {steps} steps", 1.0)
    run = Run(options.seed, None, _told_to(reporter), folder)
    generator = _train(options, images, start, steps, run)
    for note in run.notes:
        reporter.note(note)
    save_generator(generator, out)
    save_prior_sheet(generator, out.with_suffix(".png"), options.seed)
    shutil.rmtree(folder)
    return generator


def origin_of(generator: Generator) -> str:
    """Where a generator comes from, in a phrase.

    Args:
        generator: From a file, or a user's own.

    Returns:
        Its origin, as far as it is known.
    """
    if not isinstance(generator, SmallGenerator):
        return "a user's own: nothing is known of its training"
    return "untrained" if generator.origin is None else str(generator.origin)


def save_prior_sheet(generator: Generator, path: Path, seed: int) -> None:
    """A sheet of pictures that a generator gives for random latents.

    Args:
        generator: In eval mode.
        path: Of the PNG.
        seed: Of the latents.
    """
    latents = generator.draw(3 * _SHEET, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        rows = generator(latents).split(_SHEET)
    save_sheet(path, [("pictures of random latents", rows[0]), *(("", row) for row in rows[1:])])


def _check(options: PriorOptions, out: Path) -> Path:
    """Refuse what can be refused before any picture is read; where the state is kept."""
    Architecture(options.shape, options.latent_size, options.width)
    if out.is_dir():
        raise OutputError(f"expected a file's name for the generator, got the folder {out}")
    check_writable(out.parent)
    folder = out.with_name(out.name + ".training")
    unfinished = (folder / "job.json").is_file()
    if unfinished and not options.resume:
        raise UsageError(
            f"an interrupted training lies in {folder}: add --resume to go on, or delete it"
        )
    if options.resume and not unfinished:
        raise UsageError(f"expected an interrupted training in {folder}, got none: drop --resume")
    return folder


def _start(options: PriorOptions) -> SmallGenerator | None:
    if options.start is None:
        return None
    if options.method != "adversarial":
        raise UsageError("expected --method adversarial with --start, got autoencoding")
    found = load_generator(options.start)
    if not isinstance(found, SmallGenerator):
        raise AttackError(f"expected a generator that was trained here, got {options.start}")
    return found


def _pictures(options: PriorOptions, reporter: Reporter) -> Auxiliary:
    channels, height, width = options.shape
    most = max(LEAST_PICTURES, _MOST_BYTES // (4 * channels * height * width))
    found = load_photographs(options.images, shape=options.shape, count=most, seed=options.seed)
    if len(found) == most:
        reporter.note(f"the first {most} pictures were taken, for memory's sake")
    # They come from files of 8 bits, so nothing is lost.
    levels = (torch.from_numpy(found.pixels) * 255).round().to(torch.uint8)
    return Auxiliary(levels)


def _train(
    options: PriorOptions, images: Auxiliary, start: SmallGenerator | None, steps: int, run: Run,
    *, passes: int = 100,
) -> SmallGenerator:  # fmt: skip
    if options.method == "adversarial":
        return train_adversarial(
            images, steps=steps, run=run, latent_size=options.latent_size, width=options.width,
            mirror=options.mirror, start=start, passes=passes,
        )  # fmt: skip
    return train_autoencoding(
        images, steps=steps, run=run, latent_size=options.latent_size, width=options.width,
        mirror=options.mirror, passes=passes,
    )  # fmt: skip


def _affordable(options: PriorOptions, images: Auxiliary, start: SmallGenerator | None) -> int:
    """How many steps fit into the budget, by the time that a few take."""
    if options.budget_s is None:
        raise UsageError("expected --steps or --budget, got neither")
    ends: list[float] = []
    run = Run(options.seed, None, lambda _share: ends.append(time.perf_counter()))
    few = Auxiliary(images.images[: 2 * LEAST_PICTURES])
    _train(options, few, start, _TRIAL_STEPS, run, passes=1)
    pairs = zip(ends[:-1], ends[1:], strict=True)
    step_s = statistics.median(later - earlier for earlier, later in pairs)
    return max(1, int(options.budget_s / step_s))


def _steps_before(job: Path) -> int:
    try:
        return int(json.loads(job.read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise AttackError(
            f"expected the settings of an interrupted training in {job}, which cannot be read "
            f"({error}): delete {job.parent}"
        ) from error


def _told(options: PriorOptions) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(options).items() if name != "resume"}


def _told_to(reporter: Reporter) -> Callable[[float], None]:
    told = 0.0

    def progress(share: float) -> None:
        nonlocal told
        reporter.advance(share - told)
        told = share

    return progress
