"""``splitdeploy run``: pictures through a head here and a tail in the cloud."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.units import parse_time_s

if TYPE_CHECKING:
    from splitdeploy.edge_runtime.adaptive import AdaptiveClient
    from splitdeploy.edge_runtime.bundle import Bundle
    from splitdeploy.edge_runtime.client import SplitClient
    from splitdeploy.edge_runtime.job import Item
    from splitdeploy.edge_runtime.session import Session
    from splitdeploy.edge_runtime.tls import ClientTls

_FILE = click.Path(path_type=Path)


@click.command("run")
@click.argument("bundle", type=_FILE)
@click.argument("images", nargs=-1, type=_FILE)
@click.option("--cloud", metavar="HOST:PORT", help="Where the tail is served.")
@click.option(
    "--also",
    metavar="BUNDLE",
    multiple=True,
    type=_FILE,
    help="Another cut of the same model, to switch to as the bandwidth changes; may be repeated.",
)
@click.option("--local", is_flag=True, help="Run head and tail here, without a cloud.")
@click.option(
    "--fallback",
    type=click.Choice(["refuse", "local"]),
    default="refuse",
    show_default=True,
    help="What to do with a picture that the cloud does not answer.",
)
@click.option(
    "--deadline",
    metavar="TIME",
    default="5s",
    show_default=True,
    help="For each picture, until its answer.",
)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Requests that may be under way to the cloud at once.",
)
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="How often a request is sent again where that is safe.",
)
@click.option("--video", metavar="FILE", type=_FILE, help="The frames of a video file.")
@click.option("--camera", metavar="N", type=click.IntRange(0), help="A camera; 0 is the first.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="At most so many pictures.")
@click.option("--tls", is_flag=True, help="Encrypt, and trust the authorities that gRPC brings.")
@click.option("--tls-ca", metavar="FILE", type=_FILE, help="Encrypt, and trust these, in PEM.")
@click.option("--tls-cert", metavar="FILE", type=_FILE, help="This client's certificate, in PEM.")
@click.option("--tls-key", metavar="FILE", type=_FILE, help="Its private key, in PEM.")
@click.option(
    "--provider",
    multiple=True,
    metavar="NAME",
    help="ONNX Runtime's, in order of preference; may be repeated. "
    " [default: CPUExecutionProvider]",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "tensorrt", "onnxruntime"]),
    default="auto",
    show_default=True,
    help="What runs the head; auto takes an engine (splitdeploy build) where there is one.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="Of one operator.  [default: ONNX Runtime's]"
)
@click.option("--labels", metavar="FILE", type=_FILE, help="Names of the classes, one a line.")
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="So many classes a picture; json and csv tell them all, tables the first.",
)
@shared.format_option
@shared.verbosity_options
def command(bundle: Path, images: tuple[Path, ...], **given: Any) -> int:
    """Run pictures through BUNDLE: the head on this machine, the tail in the cloud.

    IMAGES are files and folders of them. Results are printed as they come; json is an object a
    line.

    \b
    Example:
      splitdeploy run bundle --cloud 192.0.2.7:8001 --fallback local photos/
      splitdeploy run bundle --cloud 192.0.2.7:8001 --camera 0 --format json
      splitdeploy run early --also late --cloud 192.0.2.7:8001 --video drive.mp4

    Exits with 1 if any picture was refused.
    """
    deadline_s = parse_time_s(given["deadline"])
    _check_choices(images, given)
    # gRPC writes lines of its own, for each connection that breaks; read when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from splitdeploy.edge_runtime.adaptive import AdaptiveClient
    from splitdeploy.edge_runtime.bundle import read_bundle
    from splitdeploy.edge_runtime.client import SplitClient
    from splitdeploy.edge_runtime.onnxruntime_session import CPU

    names, items, total = _source(images, given)
    bundles = [read_bundle(place, "edge") for place in (bundle, *given["also"])]
    settings: dict[str, Any] = {
        "fallback": "local" if given["local"] else given["fallback"],
        "deadline_s": deadline_s,
        "retries": given["retries"],
        "window": given["window"],
        "tls": _tls(given),
        "providers": given["provider"] or (CPU,),
        "threads": given["threads"],
    }
    with ExitStack() as stack:
        heads = [stack.enter_context(_head(one, given)) for one in bundles]
        client: SplitClient | AdaptiveClient
        if given["also"]:
            client = AdaptiveClient(bundles, given["cloud"], heads=heads, **settings)
        else:
            cloud = None if given["local"] else given["cloud"]
            client = SplitClient(bundles[0], cloud, head=heads[0], **settings)
        stack.callback(client.close)
        return _run(client, names, items, total, given)


def _head(bundle: Bundle, given: Mapping[str, Any]) -> Session:
    """The head in what runs it, which is told where it is not what it might be."""
    from splitdeploy.edge_runtime.open_head import open_head

    backend = "onnxruntime" if given["provider"] else given["backend"]
    session = open_head(
        bundle, backend, providers=given["provider"] or None, threads=given["threads"]
    )
    if given["verbose"]:
        note = f" ({session.note})" if session.note else ""
        click.echo(f"head of {bundle.cut.name} in {session.name}{note}", err=True)
    return session


def _check_choices(images: tuple[Path, ...], given: Mapping[str, Any]) -> None:
    if bool(given["cloud"]) == given["local"]:
        raise UsageError(
            "expected --cloud HOST:PORT, or --local to run both halves here, got "
            f"{'both' if given['local'] else 'neither'}"
        )
    if given["also"] and given["local"]:
        raise UsageError("--also is for a link whose bandwidth changes: leave it out with --local")
    sources = [bool(images), given["video"] is not None, given["camera"] is not None]
    if sum(sources) != 1:
        raise UsageError(
            "expected pictures from one source: IMAGES, --video FILE or --camera N, got "
            f"{'several' if any(sources) else 'none'}"
        )


def _tls(given: Mapping[str, Any]) -> ClientTls | None:
    files = given["tls_ca"], given["tls_cert"], given["tls_key"]
    if not given["tls"] and files == (None, None, None):
        return None
    from splitdeploy.edge_runtime.tls import ClientTls

    return ClientTls(*files)


def _source(
    images: tuple[Path, ...], given: Mapping[str, Any]
) -> tuple[Iterator[str], Iterator[Item], int | None]:
    """Names, pictures, and how many there are where that is known."""
    from splitdeploy.edge_runtime.sources import picture_files, video_frames

    limit = given["limit"]
    if images:
        files = picture_files(images)[:limit]
        return (str(file) for file in files), iter(files), len(files)
    source = given["camera"] if given["video"] is None else given["video"]
    names = (f"frame {number}" for number in itertools.count())
    return names, video_frames(source, limit=limit), limit


def _run(
    client: SplitClient | AdaptiveClient,
    names: Iterator[str],
    items: Iterator[Item],
    total: int | None,
    given: Mapping[str, Any],
) -> int:
    from splitdeploy.cli.run_output import Results, Summary, read_labels
    from splitdeploy.partitioner.progress import bars

    labels = None if given["labels"] is None else read_labels(given["labels"], client.bundle)
    results = Results(given["form"], labels, given["top"])
    summary = Summary()
    # On one terminal, the results themselves are the progress.
    quiet = given["quiet"] or sys.stdout.isatty()
    begun_s = time.perf_counter()
    try:
        with bars(quiet=quiet or total is None) as reporter:
            reporter.stage("pictures", float(total or 1))
            for answer, name in zip(client.stream(items), names, strict=False):
                results.show(name, answer)
                summary.add(answer)
                reporter.advance()
                if answer.answered_by == "refused":
                    click.echo(f"{name}: refused: {answer.error}", err=True)
    finally:
        if not given["quiet"]:
            for line in summary.lines(client.stats, client.uplink, time.perf_counter() - begun_s):
                click.echo(line, err=True)
    return 1 if client.stats.refused else 0
