"""``splitdeploy prior``: trains an attacker's generator of pictures, and shows one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.units import parse_time_s

_METHODS = ("autoencoding", "adversarial")
_BUDGET = "30m"


@click.group("prior")
def command() -> None:
    """Generators of pictures, which attacks search for the one that was sent.

    \b
    Example:
      splitdeploy prior train --images pictures/ --out prior.npz --budget 1h
      splitdeploy attack resnet18 --cut layer3.1 --attack pfo --prior prior.npz
    """


@command.command("train")
@click.option(
    "--images",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Pictures like the victim's, but none of those to be attacked.",
)
@click.option(
    "--out",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="The generator, such as prior.npz; a sheet of its pictures beside it.",
)
@click.option("--size", metavar="HxW", help="Of its pictures, in colour; default 32x32.")
@click.option("--input-shape", metavar="CxHxW", help="Likewise, with channels: 1x28x28.")
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default="autoencoding",
    show_default=True,
    help="autoencoding: nearer to unseen pictures, sooner; adversarial: likelier ones.",
)
@click.option("--steps", type=click.IntRange(1), help="Of the training, instead of a budget.")
@click.option("--budget", metavar="TIME", help=f"For the training; default {_BUDGET}.")
@click.option(
    "--latent-size",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Numbers that describe a picture; more come nearer to unseen ones.",
)
@click.option(
    "--width",
    type=click.IntRange(4),
    default=32,
    show_default=True,
    help="Channels at the full resolution; time and memory grow with it.",
)
@click.option(
    "--mirror/--no-mirror",
    default=True,
    show_default=True,
    help="Also learn from mirrored pictures; not for digits and letters.",
)
@click.option(
    "--start",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A generator to begin with, for --method adversarial.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all randomness.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted training.")
@shared.verbosity_options
def train(images: Path, out: Path, **given: Any) -> None:
    """Train a generator on a folder of pictures.

    What comes out says how near it comes to pictures that were held out. The budget is for the
    training alone; measuring that takes another minute.

    \b
    Example:
      splitdeploy prior train --images pictures/ --out prior.npz --size 64x64 --budget 2h
    """  # fmt: skip
    steps, budget_s = _effort(given)
    from splitdeploy.partitioner.prior_training import PriorOptions, train_prior
    from splitdeploy.partitioner.progress import bars

    options = PriorOptions(
        images=images,
        shape=_shape(given["size"], given["input_shape"]),
        method=given["method"],
        steps=steps,
        budget_s=budget_s,
        latent_size=given["latent_size"],
        width=given["width"],
        mirror=given["mirror"],
        start=given["start"],
        seed=given["seed"],
        resume=given["resume"],
    )
    try:
        with bars(quiet=given["quiet"]) as reporter:
            generator = train_prior(options, out, reporter)
    except KeyboardInterrupt:
        click.echo(f"what is learned lies in {out}.training: add --resume to go on", err=True)
        raise
    click.echo(str(generator.origin))
    click.echo(f"generator: {out}, pictures: {out.with_suffix('.png')}", err=True)


@command.command("show")
@click.argument("file", metavar="FILE|module:factory")
@click.option(
    "--out",
    metavar="FILE.png",
    type=click.Path(path_type=Path),
    help="Also write a sheet of its pictures.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of these pictures.")
@shared.verbosity_options
def show(file: str, out: Path | None, seed: int, **_given: Any) -> None:
    """What a generator was trained on, how, and how near it comes to unseen pictures.

    \b
    Example:
      splitdeploy prior show prior.npz --out samples.png
    """  # fmt: skip
    from splitdeploy.attacks.generators.file import load_generator
    from splitdeploy.partitioner.prior_training import origin_of, save_prior_sheet

    generator = load_generator(file)
    channels, height, width = generator.image_shape
    parameters = sum(p.numel() for p in generator.parameters())
    click.echo(f"pictures of {channels}x{height}x{width} from {generator.latent_size} numbers")
    click.echo(f"{len(generator.stages)} stages, {parameters} parameters")
    click.echo(origin_of(generator))
    if out is not None:
        save_prior_sheet(generator, out, seed)
        click.echo(f"pictures: {out}", err=True)


def _effort(given: dict[str, Any]) -> tuple[int | None, float | None]:
    """Steps, or seconds; neither where an interrupted training knows them."""
    steps, budget = given["steps"], given["budget"]
    if steps is not None and budget is not None:
        raise UsageError("expected --steps or --budget, got both")
    if steps is not None or (budget is None and given["resume"]):
        return steps, None
    return None, parse_time_s(budget or _BUDGET)


def _shape(size: str | None, input_shape: str | None) -> tuple[int, int, int]:
    if size is not None and input_shape is not None:
        raise UsageError("expected --size or --input-shape, got both")
    from splitdeploy.partitioner.models import parse_shape

    found = parse_shape(input_shape) if input_shape else (3, *parse_shape(size or "32x32"))
    if len(found) != 3:
        raise UsageError(f"expected --size HxW or --input-shape CxHxW, got {size or input_shape}")
    return found[0], found[1], found[2]
