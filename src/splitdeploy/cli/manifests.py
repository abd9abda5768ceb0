"""``splitdeploy manifests``: what a Kubernetes cluster needs to serve tails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from splitdeploy.profiles.errors import UnknownNameError, UsageError

_CLUSTERS = ("kserve", "kubernetes")
_BACKENDS = ("onnxruntime", "python", "tensorrt")
_METRICS = ("concurrency", "rps", "cpu", "memory")


@click.command("manifests")
@click.argument(
    "bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path)
)
@click.option(
    "--storage",
    required=True,
    metavar="URI",
    help="Where you upload the repository to: s3://…, gs://…, pvc://CLAIM/PATH.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A new folder, for models/ and manifests.yaml.",
)
@click.option(
    "--for",
    "cluster",
    default="kserve",
    show_default=True,
    metavar="KIND",
    help=f"{', '.join(_CLUSTERS)} (a Deployment, without KServe).",
)
@click.option("--name", metavar="NAME", help="In the cluster; default: the first served name.")
@click.option("--namespace", metavar="NAME", help="Of the cluster.")
@click.option("--min-replicas", type=int, default=1, show_default=True, help="The fewest servers.")
@click.option("--max-replicas", type=int, help="The most servers; default: the fewest.")
@click.option(
    "--scale-metric", metavar="NAME", help=f"What their number follows: {', '.join(_METRICS)}."
)
@click.option("--scale-target", type=int, metavar="N", help="What each of them may have of it.")
@click.option("--cpu", default="2", show_default=True, help="Cores of each server.")
@click.option("--memory", default="4Gi", show_default=True, help="Of each server.")
@click.option("--gpus", type=int, default=0, show_default=True, help="Of each server.")
@click.option("--image", metavar="IMAGE", help="Triton's container.")
@click.option("--service-account", metavar="NAME", help="Whose credentials open the storage.")
@click.option(
    "--tls-secret", metavar="NAME", help="Holds tls.crt and tls.key; with --for kubernetes."
)
@click.option("--mutual-tls", is_flag=True, help="Ask clients for a certificate of its ca.crt.")
@click.option(
    "--backend",
    default="onnxruntime",
    show_default=True,
    metavar="NAME",
    help=f"Of Triton: {', '.join(_BACKENDS)}.",
)
@click.option(
    "--max-batch",
    type=int,
    default=32,
    show_default=True,
    help="The largest batch that requests are put together to.",
)
@click.option(
    "--preferred-batches", metavar="N,…", default="", help="Sizes that a batch is held back for."
)
@click.option(
    "--queue-delay",
    metavar="TIME",
    default="0ms",
    show_default=True,
    help="How long a request may wait for company.",
)
@click.option("--instances", type=int, default=1, show_default=True,
              help="Copies of each tail on each server.")  # fmt: skip
def command(bundles: tuple[Path, ...], out: Path, cluster: str, **given: Any) -> None:
    """Write a Triton repository of the tails, and the manifests that serve it on Kubernetes.

    \b
    Example:
      splitdeploy manifests bundle --storage s3://tails/models --out fleet --gpus 1
      aws s3 cp --recursive fleet/models s3://tails/models
      kubectl apply -f fleet/manifests.yaml
    """
    for kind, name, known in (
        ("cluster", cluster, _CLUSTERS),
        ("backend", given["backend"], _BACKENDS),
        ("metric", given["scale_metric"], _METRICS),
    ):
        if name is not None and name not in known:
            raise UnknownNameError(kind, name, known)
    from splitdeploy.cloud_runtime.fleet import to_yaml
    from splitdeploy.cloud_runtime.kserve import kserve_manifests
    from splitdeploy.cloud_runtime.kubernetes import kubernetes_manifests
    from splitdeploy.cloud_runtime.triton_repository import trtexec_command, write_repository
    from splitdeploy.edge_runtime.bundle import read_bundle
    from splitdeploy.profiles.store import write_atomically
    from splitdeploy.profiles.units import parse_time_s

    read = [read_bundle(folder, "cloud") for folder in bundles]
    fleet = _fleet(read[0].served_name, given)
    objects = (kserve_manifests if cluster == "kserve" else kubernetes_manifests)(fleet)
    text = to_yaml(objects)
    models = out / "models"
    write_repository(
        models,
        read,
        backend=given["backend"],
        max_batch=given["max_batch"],
        instances=given["instances"],
        preferred_batches=_sizes(given["preferred_batches"]),
        queue_delay_us=round(parse_time_s(given["queue_delay"], zero=True) * 1e6),
    )
    write_atomically(out / "manifests.yaml", text)
    click.echo(out / "manifests.yaml")
    if given["backend"] == "tensorrt":
        click.echo("make the engines on a machine with the servers' GPU first:", err=True)
        for bundle in read:
            line = trtexec_command(bundle, models / bundle.served_name, given["max_batch"])
            click.echo("  " + " ".join(line), err=True)
    click.echo(
        f"upload {models} to {fleet.storage_uri}, then type  kubectl apply -f "
        f"{out / 'manifests.yaml'}",
        err=True,
    )


def _fleet(served: str, given: dict[str, Any]) -> Any:
    from splitdeploy.cloud_runtime.fleet import Fleet
    from splitdeploy.cloud_runtime.triton_install import IMAGE

    least = given["min_replicas"]
    return Fleet(
        name=given["name"] or _label(served),
        storage_uri=given["storage"],
        namespace=given["namespace"],
        min_replicas=least,
        max_replicas=given["max_replicas"] if given["max_replicas"] is not None else least,
        scale_metric=given["scale_metric"],
        scale_target=given["scale_target"],
        cpu=given["cpu"],
        memory=given["memory"],
        gpus=given["gpus"],
        image=given["image"] or IMAGE,
        service_account=given["service_account"],
        tls_secret=given["tls_secret"],
        mutual_tls=given["mutual_tls"],
        shared_memory=given["backend"] == "python",
    )


def _label(served: str) -> str:
    """A name for Kubernetes out of a served name."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in served.lower())
    return plain.strip("-")[:50].rstrip("-")


def _sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"expected --preferred-batches as in 4,8, got {text!r}") from error
