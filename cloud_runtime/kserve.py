"""Manifests for KServe: one ``InferenceService`` whose runtime is Triton."""

from __future__ import annotations

from typing import Any

from splitdeploy.cloud_runtime.fleet import DRAIN_S, HARDENED, Fleet
from splitdeploy.profiles.errors import UsageError

API_VERSION = "serving.kserve.io/v1beta1"
RUNTIME = "kserve-tritonserver"
"""The runtime that KServe's installation brings; it listens at 9000 (gRPC) and 8080 (HTTP)."""

_GRPC_PORT = 9000
_ITS_OWN = {"concurrency", "rps"}


def kserve_manifests(fleet: Fleet) -> list[dict[str, Any]]:
    """An ``InferenceService`` that serves the repository over gRPC.

    What the number of servers follows decides how KServe runs them: requests are counted by
    Knative (``Serverless``), CPU and memory by Kubernetes itself (``RawDeployment``). TLS is not
    Triton's here: it ends at the cluster's gateway.

    Args:
        fleet: What it is to be.

    Returns:
        The objects.

    Raises:
        UsageError: A setting is none that KServe would take.
    """
    fleet.check()
    if fleet.tls_secret is not None:
        raise UsageError(
            "under KServe TLS ends at the cluster's gateway: set it up there, or give "
            "--for kubernetes with --tls-secret"
        )
    predictor: dict[str, Any] = {
        "minReplicas": fleet.min_replicas,
        "maxReplicas": fleet.max_replicas,
    }
    if fleet.scale_metric is not None:
        predictor |= {"scaleMetric": fleet.scale_metric, "scaleTarget": fleet.scale_target}
    if fleet.service_account is not None:
        predictor["serviceAccountName"] = fleet.service_account
    predictor["terminationGracePeriodSeconds"] = 2 * DRAIN_S
    predictor["model"] = _model(fleet)
    mode = "Serverless" if fleet.scale_metric in _ITS_OWN else "RawDeployment"
    annotations = {"serving.kserve.io/deploymentMode": mode}
    if mode == "RawDeployment" and fleet.scale_metric is not None:
        annotations["serving.kserve.io/autoscalerClass"] = "hpa"
    return [
        {
            "apiVersion": API_VERSION,
            "kind": "InferenceService",
            "metadata": fleet.metadata(**annotations),
            "spec": {"predictor": predictor},
        }
    ]


def _model(fleet: Fleet) -> dict[str, Any]:
    return {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "grpc-v2",
        "runtime": RUNTIME,
        "storageUri": fleet.storage_uri,
        "image": fleet.image,
        "args": fleet.closed,
        # The name is how a port tells Knative and gateways that it speaks HTTP/2 without TLS.
        "ports": [{"name": "h2c", "containerPort": _GRPC_PORT, "protocol": "TCP"}],
        "readinessProbe": {"grpc": {"port": _GRPC_PORT}, "periodSeconds": 5, "failureThreshold": 3},
        "resources": fleet.resources,
        "securityContext": dict(HARDENED),
    }
