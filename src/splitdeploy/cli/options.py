"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from splitdeploy.profiles.errors import UsageError

if TYPE_CHECKING:
    from splitdeploy.partitioner.lent import Lent
    from splitdeploy.partitioner.progress import Reporter

_Function = TypeVar("_Function", bound=Callable[..., Any])


def all_of(*options: Callable[[_Function], _Function]) -> Callable[[_Function], _Function]:
    """Several options as one decorator.

    Args:
        *options: In the order in which the help tells them.

    Returns:
        The decorator.
    """

    def decorate(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def typed(context: click.Context, name: str) -> bool:
    """Whether the user gave an option on the command line.

    Args:
        context: Of the command.
        name: The option's parameter.

    Returns:
        Whether he did, be it with its default.
    """
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def run_place(name: str) -> Path:
    """Where a run goes that was given no ``--out``.

    Args:
        name: What it is of; signs that a file system may not take become dashes.

    Returns:
        A folder below ``runs``, named after it and the time.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return Path("runs") / f"{plain}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


model_options = all_of(
    click.option("--weights", metavar="auto|none|FILE", default="auto", show_default=True,
                 help="Pretrained where they can be had, random, or a state dict."),
    click.option("--input-shape", metavar="CxHxW", help="Of one input; default: the model's own."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of all randomness."),
)  # fmt: skip

image_options = all_of(
    click.option("--images", metavar="DIR|photos", default="photos", show_default=True,
                 help="Pictures to verify on and to attack."),
    click.option("--image-count", type=click.IntRange(1), default=4, show_default=True,
                 help="How many of them."),
)  # fmt: skip

return_option = click.option(
    "--return-at", metavar="CUT",
    help="A second cut: the layers behind it run at the edge, so that the cloud has no result.",
)  # fmt: skip

head_options = all_of(
    click.option("--head-precision", multiple=True, metavar="NAME",
                 help="Also a head that computes in fp16 or int8, for engines; may be repeated."),
    click.option("--few-images", is_flag=True,
                 help="Calibrate an int8 head even on fewer than 32 pictures."),
)  # fmt: skip

labels_option = click.option(
    "--labels", metavar="FILE.csv", type=click.Path(path_type=Path),
    help="Columns file,label: classes of the pictures in --images.",
)  # fmt: skip

arsenal_options = all_of(
    click.option("--aux-images", metavar="DIR", type=click.Path(path_type=Path),
                 help="Pictures of the attacker's own; a sub-folder a class gives them labels."),
    click.option("--aux-labels", metavar="FILE.csv", type=click.Path(path_type=Path),
                 help="Columns file,label: classes of the pictures in --aux-images."),
    click.option("--aux-kin", metavar="KIND", default="unknown", show_default=True,
                 help="How they relate to the victim's: same-set, same-distribution, other."),
    click.option("--prior", metavar="FILE|module:factory",
                 help="The attacker's generator of pictures."),
)  # fmt: skip

remote_options = all_of(
    click.option("--remote-python", metavar="PATH", default="python3", show_default=True,
                 help="The Python on the device that has splitdeploy."),
    click.option("--remote-dir", metavar="DIR", default="~/.local/share/splitdeploy",
                 show_default=True, help="Where files go on the device."),
    click.option("--ssh-config", metavar="FILE", type=click.Path(path_type=Path),
                 help="In place of ~/.ssh/config."),
)  # fmt: skip

format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv", "md"]), default="table",
    show_default=True, help="What goes to standard output.",
)  # fmt: skip

verbosity_options = all_of(
    click.option("-v", "--verbose", count=True, help="Show tracebacks."),
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
)


def add_heads(bundle: Path, given: Mapping[str, Any], reporter: Reporter) -> list[str]:
    """Put the heads into a bundle that ``head_options`` ask for.

    Args:
        bundle: Its folder.
        given: With ``head_precision``, ``few_images``, ``images`` and ``seed``.
        reporter: Told as it goes.

    Returns:
        A line for each.
    """
    if not given["head_precision"]:
        return []
    from splitdeploy.partitioner.head_variants import add_head_variants

    made = add_head_variants(
        bundle,
        given["head_precision"],
        images=given_images(given["images"]),
        seed=given["seed"],
        few_images=given["few_images"],
        reporter=reporter,
    )
    return [variant.told() for variant in made]


def given_images(images: str) -> Path | None:
    """The folder of pictures, or None for scikit-image's photographs.

    Args:
        images: A folder, or ``photos``.

    Returns:
        The folder.
    """
    return None if images == "photos" else Path(images)


def given_arsenal(given: Mapping[str, Any]) -> Lent:
    """What ``arsenal_options`` lend the attacker.

    Args:
        given: With ``aux_images``, ``aux_labels``, ``aux_kin`` and ``prior``.

    Returns:
        Where it comes from.
    """
    from splitdeploy.partitioner.lent import Lent

    return Lent(given["aux_images"], given["aux_labels"], given["aux_kin"], given["prior"])


def check_labels(given: Mapping[str, Any]) -> None:
    """Refuse labels of pictures that were not given.

    Args:
        given: With ``labels`` and ``images``.

    Raises:
        UsageError: There is no folder of pictures.
    """
    if given["labels"] is not None and given["images"] == "photos":
        raise UsageError(
            f"expected --images DIR with the pictures that {given['labels']} labels, got none: "
            "scikit-image's photographs have no labels"
        )


def given_device(device: str) -> str:
    """The device behind a name: ``jetson`` is this machine where it is one.

    Args:
        device: As the user typed it.

    Returns:
        A profile's name, ``local`` or ``ssh://user@host``.
    """
    if device != "jetson":
        return device
    return "local" if is_jetson() else "jetson-orin-nano"


def is_jetson() -> bool:
    """Whether this machine is a Jetson, by its device tree."""
    from splitdeploy.edge_runtime.board import find_board

    return find_board() is not None
