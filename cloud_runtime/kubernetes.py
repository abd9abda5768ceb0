"""Manifests for a Kubernetes without KServe: a Deployment, a Service, and what scales them."""

from __future__ import annotations

from typing import Any

from splitdeploy.cloud_runtime.fleet import DRAIN_S, HARDENED, Fleet
from splitdeploy.cloud_runtime.triton_flags import tls_flags
from splitdeploy.profiles.errors import UsageError

_GRPC_PORT, _HTTP_PORT, _METRICS_PORT = 8001, 8000, 8002
_CERTIFICATES = "/certificates"
_READ_BY_TRITON = {"s3", "gs", "as"}
_LOADING_PROBES, _PROBE_S = 90, 10
"""A quarter of an hour for the tails to load and warm up."""


def kubernetes_manifests(fleet: Fleet) -> list[dict[str, Any]]:
    """A Deployment, a Service and, where its size may change, a HorizontalPodAutoscaler.

    Args:
        fleet: What it is to be. Triton itself reads ``s3://``, ``gs://`` and ``as://``;
            ``pvc://claim/path`` is mounted.

    Returns:
        The objects.

    Raises:
        UsageError: A setting is none that plain Kubernetes can follow.
    """
    fleet.check()
    objects = [_deployment(fleet), _service(fleet)]
    if fleet.scale_metric is None:
        return objects
    if fleet.scale_metric not in {"cpu", "memory"}:
        raise UsageError(
            f"plain Kubernetes scales by cpu or memory, got {fleet.scale_metric}: choose one of "
            "them, or --for kserve"
        )
    if fleet.gpus and fleet.scale_metric == "cpu":
        raise UsageError(
            "the load of the cores says nothing of a GPU's: give a fixed number of replicas, or "
            "--for kserve with --scale-metric concurrency"
        )
    return [*objects, _autoscaler(fleet)]


def _deployment(fleet: Fleet) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "selector": {"matchLabels": fleet.labels},
        "template": {
            "metadata": {
                "labels": fleet.labels,
                "annotations": {
                    "prometheus.io/scrape": "true",
                    "prometheus.io/port": str(_METRICS_PORT),
                },
            },
            "spec": _pod(fleet),
        },
    }
    if fleet.scale_metric is None:  # otherwise the autoscaler alone sets it
        spec = {"replicas": fleet.min_replicas, **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": fleet.metadata(),
        "spec": spec,
    }


def _pod(fleet: Fleet) -> dict[str, Any]:
    repository, volumes, mounts = _storage(fleet)
    arguments = [
        f"--model-repository={repository}",
        f"--grpc-port={_GRPC_PORT}",
        f"--http-port={_HTTP_PORT}",
        f"--metrics-port={_METRICS_PORT}",
        *fleet.closed,
    ]
    if fleet.tls_secret is not None:
        client_ca = f"{_CERTIFICATES}/ca.crt" if fleet.mutual_tls else None
        arguments += tls_flags(f"{_CERTIFICATES}/tls.crt", f"{_CERTIFICATES}/tls.key", client_ca)
        volumes.append({"name": "certificates", "secret": {"secretName": fleet.tls_secret}})
        mounts.append({"name": "certificates", "mountPath": _CERTIFICATES, "readOnly": True})
    if fleet.shared_memory:
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    container: dict[str, Any] = {
        "name": "triton",
        "image": fleet.image,
        "command": ["tritonserver"],
        "args": arguments,
        "ports": [
            {"name": "grpc", "containerPort": _GRPC_PORT},
            {"name": "http", "containerPort": _HTTP_PORT},
            {"name": "metrics", "containerPort": _METRICS_PORT},
        ],
        "startupProbe": _probe("ready", _LOADING_PROBES),
        "readinessProbe": _probe("ready", 2),
        "livenessProbe": _probe("live", 3),
        "resources": fleet.resources,
        "securityContext": dict(HARDENED),
    }
    pod: dict[str, Any] = {
        "terminationGracePeriodSeconds": 2 * DRAIN_S,
        "automountServiceAccountToken": fleet.service_account is not None,
        "containers": [container],
    }
    if fleet.service_account is not None:
        pod["serviceAccountName"] = fleet.service_account
    if mounts:
        container["volumeMounts"] = mounts
        pod["volumes"] = volumes
    return pod


def _storage(fleet: Fleet) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """Where Triton finds the repository, with the volume and the mount that it takes."""
    if fleet.scheme in _READ_BY_TRITON:
        return fleet.storage_uri, [], []
    if fleet.scheme != "pvc":
        raise UsageError(
            f"expected storage that Triton reads ({', '.join(sorted(_READ_BY_TRITON))}) or "
            f"pvc://claim/path, got {fleet.storage_uri}: use one of them, or --for kserve"
        )
    claim, _, path = fleet.storage_uri.removeprefix("pvc://").partition("/")
    mount = {"name": "models", "mountPath": "/models", "readOnly": True}
    if path:
        mount["subPath"] = path
    volume = {
        "name": "models",
        "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
    }
    return "/models", [volume], [mount]


def _probe(state: str, failures: int) -> dict[str, Any]:
    """Over HTTP, which serves nothing but health here: Kubernetes' gRPC probe speaks no TLS."""
    return {
        "httpGet": {"path": f"/v2/health/{state}", "port": "http"},
        "periodSeconds": _PROBE_S,
        "failureThreshold": failures,
    }


def _service(fleet: Fleet) -> dict[str, Any]:
    protocol = {} if fleet.tls_secret is not None else {"appProtocol": "kubernetes.io/h2c"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": fleet.metadata(),
        "spec": {
            "selector": fleet.labels,
            "ports": [{"name": "grpc", "port": _GRPC_PORT, "targetPort": "grpc", **protocol}],
        },
    }


def _autoscaler(fleet: Fleet) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": fleet.metadata(),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": fleet.name},
            "minReplicas": fleet.min_replicas,
            "maxReplicas": fleet.max_replicas,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": fleet.scale_metric,
                        "target": {"type": "Utilization", "averageUtilization": fleet.scale_target},
                    },
                }
            ],
        },
    }
