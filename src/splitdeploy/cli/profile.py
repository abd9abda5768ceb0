"""``splitdeploy profile``: the main job."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.question import given_question, question_options
from splitdeploy.partitioner.garbage import seldom_collected
from splitdeploy.profiles.cut import PRECISIONS
from splitdeploy.profiles.device import find_device
from splitdeploy.profiles.errors import UnknownNameError
from splitdeploy.profiles.network import find_network
from splitdeploy.profiles.units import parse_time_s

NOT_OF_A_RUN = ("out", "resume", "jobs", "format", "form", "verbose", "quiet", "help")
"""Options that say how and where it is done, and not what."""


@click.command("profile")
@click.argument("model")
@click.option(
    "--device",
    default="jetson",
    show_default=True,
    metavar="NAME|local|ssh://USER@HOST",
    help="What runs the head (see: splitdeploy devices); over ssh it is measured there.",
)
@click.option(
    "--cloud", default="t4", show_default=True, metavar="NAME|local", help="What runs the tail."
)
@click.option(
    "--precision",
    metavar="NAME",
    help=f"{', '.join(PRECISIONS)}; default fp16 on a Jetson, fp32 on local.",
)
@click.option("--power-mode", metavar="NAME", help="Of the device; default: its own default.")
@click.option(
    "--cuts",
    default="block",
    show_default=True,
    metavar="block|layer|all|NAME,…",
    help="Which cuts to sweep; with ,optimal behind it also the best of all downsets.",
)
@shared.return_option
@click.option(
    "--budget",
    default="60s",
    show_default=True,
    metavar="TIME",
    help="For the whole sweep: 30s, 10m, 2h.",
)
@click.option("--no-privacy", is_flag=True, help="Latency, bytes and energy alone.")
@click.option(
    "--noise",
    default="snr:40",
    show_default=True,
    metavar="RULE",
    help="On the smashed data, for leakage: snr:DB, a precision, or sigma:VALUE.",
)
@click.option(
    "--queries",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How often each picture is sent, with fresh noise.",
)
@click.option(
    "--fps",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="A stream: what each cut needs of the uplink.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Inputs a request: latency is the request's, energy and throughput an input's.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run folder; default runs/<model>-<device>-<time>.",
)
@click.option("--resume", is_flag=True, help="Go on where an interrupted sweep stopped.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that the cuts are dealt to; both sides have to be simulated.",
)
@shared.model_options
@shared.image_options
@shared.labels_option
@shared.arsenal_options
@shared.remote_options
@question_options
@shared.format_option
@shared.verbosity_options
def command(**given: Any) -> None:
    """Profile every cut of MODEL and recommend one.

    MODEL is a torchvision name, package.module:factory, a .pt2 exported program or an .onnx file.

    \b
    Example:
      splitdeploy profile resnet18 --device jetson --network lte --max-latency 80ms
      splitdeploy profile resnet18 --device jetson --return-at avgpool
      splitdeploy profile resnet18 --device jetson --batch 8 --objective throughput
    """
    started = time.perf_counter() - _since_start_s()
    with seldom_collected():
        settings, out = read_settings(given)
        from splitdeploy.partitioner.profile import profile
        from splitdeploy.partitioner.profile_jobs import profile_in_shards
        from splitdeploy.partitioner.profile_shard import IN_SHARDS, profile_shard
        from splitdeploy.partitioner.progress import bars
        from splitdeploy.partitioner.render_table import render
        from splitdeploy.partitioner.shard import Shard

    context, words = click.get_current_context(), ["splitdeploy", *sys.argv[1:]]
    shard = context.find_object(Shard)
    try:
        with bars(quiet=given["quiet"]) as reporter:
            if shard is not None and not shard.closes:
                profile_shard(settings, out, shard, reporter=reporter, started=started)
                return
            if given["jobs"] > 1:
                report = profile_in_shards(
                    settings, _typed(context), out, given["jobs"], command=words, reporter=reporter
                )
            else:
                report = profile(
                    settings, out, command=words, reporter=reporter, started=started,
                    part=1.0 if shard is None else 1 - IN_SHARDS,
                )  # fmt: skip
    except KeyboardInterrupt:
        click.echo(f"what is finished lies in {out}: add --resume to go on", err=True)
        raise
    click.echo(render(report, given["form"]), nl=False)
    click.echo(f"report: {out / 'report.html'}", err=True)


def _typed(context: click.Context) -> list[str]:
    """The options that the user typed, and the model, for a process that does a part of it."""
    words = []
    for parameter in context.command.params:
        name = str(parameter.name)
        if (
            shared.typed(context, name)
            and isinstance(parameter, click.Option)
            and name not in NOT_OF_A_RUN
        ):
            flag = max(parameter.opts, key=len)
            words += [flag] if parameter.is_flag else [flag, str(context.params[name])]
    return [*words, "--", context.params["model"]]


def read_settings(given: dict[str, Any]) -> tuple[Any, Path]:
    """The options of a run, checked as far as that goes without loading anything heavy.

    Args:
        given: The values of this command's options.

    Returns:
        `ProfileOptions`, and the run folder.
    """
    device = shared.given_device(given["device"])
    shared.check_labels(given)
    precision = given["precision"] or _default_precision(device)
    remote = device.startswith("ssh://")
    if remote:
        from splitdeploy.partitioner.remote.address import parse_address

        parse_address(device)
    for name in (given["cloud"],) if remote else (device, given["cloud"]):
        if name != "local":
            find_device(name)
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    budget_s = parse_time_s(given["budget"])
    question = given_question(given)
    out = given["out"] or shared.run_place(f"{Path(given['model']).stem}-{device}")

    from splitdeploy.partitioner.models import parse_shape
    from splitdeploy.partitioner.options import ProfileOptions
    from splitdeploy.partitioner.remote.options import RemoteOptions

    settings = ProfileOptions(
        model=given["model"],
        device=device,
        cloud=given["cloud"],
        precision=precision,
        power_mode=given["power_mode"],
        network=question.network_or(find_network("wifi")),
        cuts=given["cuts"],
        weights=given["weights"],
        input_shape=parse_shape(given["input_shape"]) if given["input_shape"] else None,
        images=shared.given_images(given["images"]),
        labels=given["labels"],
        image_count=given["image_count"],
        budget_s=budget_s,
        privacy=not given["no_privacy"],
        noise=given["noise"],
        queries=given["queries"],
        fps=given["fps"],
        batch=given["batch"],
        constraints=question.constraints,
        objective=question.objective,
        trace=question.trace,
        switch_cost_s=question.switch_cost_s,
        return_at=given["return_at"],
        lent=shared.given_arsenal(given),
        remote=RemoteOptions(given["remote_python"], given["remote_dir"], given["ssh_config"]),
        seed=given["seed"],
        resume=given["resume"],
    )
    return settings, out


def _default_precision(device: str) -> str:
    """fp16 on a Jetson; on a user's own device that of the run that it was fitted to."""
    if device.endswith(".json"):
        return find_device(device).fitted_precision or "fp32"
    return "fp16" if device.startswith("jetson") else "fp32"


def _since_start_s() -> float:
    """Seconds since the interpreter began: the budget is what the user waits."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up_s = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    import os

    return max(0.0, min(60.0, up_s - ticks / os.sysconf("SC_CLK_TCK")))
