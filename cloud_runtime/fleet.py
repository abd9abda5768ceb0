"""What a fleet of Tritons on Kubernetes is to be: the settings that its manifests are made from."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from splitdeploy.cloud_runtime.triton_flags import closed_flags
from splitdeploy.cloud_runtime.triton_install import IMAGE
from splitdeploy.profiles.errors import MissingExtraError, UsageError

ScaleMetric = Literal["concurrency", "rps", "cpu", "memory"]
"""What the number of servers follows: requests at once or a second, or percent of a resource."""

SCALE_METRICS: tuple[ScaleMetric, ...] = ("concurrency", "rps", "cpu", "memory")
DRAIN_S = 30
"""How long a server answers what it has before it ends."""

_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_URI = re.compile(r"([a-z][a-z0-9+.-]*)://(\S+)")


@dataclass(frozen=True)
class Fleet:
    """A fleet that serves one repository.

    Attributes:
        name: Of what is made in the cluster: lower-case letters, digits and ``-``.
        storage_uri: Where the repository was uploaded to.
        namespace: Of the cluster; None leaves it to ``kubectl``.
        min_replicas: The fewest servers.
        max_replicas: The most servers.
        scale_metric: What their number follows; None where it is fixed.
        scale_target: What each of them may have of it.
        cpu: Cores of each, as Kubernetes writes quantities.
        memory: Of each, likewise.
        gpus: Of each.
        image: Triton's container.
        service_account: Whose credentials open the storage; None for the default one.
        tls_secret: A secret with ``tls.crt`` and ``tls.key``; None serves without TLS.
        mutual_tls: Whether clients must show a certificate of the secret's ``ca.crt``.
        shared_memory: Whether the backend needs it, as Triton's Python backend does.
        closed_with: The secret that nobody is told, which closes what clients must not do.
    """

    name: str
    storage_uri: str
    namespace: str | None = None
    min_replicas: int = 1
    max_replicas: int = 1
    scale_metric: ScaleMetric | None = None
    scale_target: int | None = None
    cpu: str = "2"
    memory: str = "4Gi"
    gpus: int = 0
    image: str = IMAGE
    service_account: str | None = None
    tls_secret: str | None = None
    mutual_tls: bool = False
    shared_memory: bool = False
    closed_with: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @property
    def scheme(self) -> str:
        """Of the storage: ``s3``."""
        return self.storage_uri.partition("://")[0]

    def check(self) -> None:
        """Refuse what no cluster would take.

        Raises:
            UsageError: A name, quantity, number or URI is none, or they do not go together.
        """
        named = [("name", self.name), ("namespace", self.namespace)]
        named += [("service account", self.service_account), ("secret", self.tls_secret)]
        for what, name in named:
            if name is not None and not _LABEL.fullmatch(name):
                raise UsageError(
                    f"expected a {what} of at most 50 lower-case letters, digits and '-', "
                    f"got {name[:80]!r}"
                )
        for what, quantity in (("cpu", self.cpu), ("memory", self.memory)):
            if not _QUANTITY.fullmatch(quantity):
                raise UsageError(f"expected {what} as in 500m, 2 or 4Gi, got {quantity!r}")
        if not _URI.fullmatch(self.storage_uri):
            raise UsageError(
                f"expected a storage URI as in s3://bucket/models or pvc://claim/models, "
                f"got {self.storage_uri!r}"
            )
        if self.gpus < 0:
            raise UsageError(f"expected 0 or more GPUs, got {self.gpus}")
        if self.mutual_tls and self.tls_secret is None:
            raise UsageError("mutual TLS needs the server's certificate: give --tls-secret too")
        self._check_scale()

    def _check_scale(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise UsageError(
                f"expected 1 replica or more and no fewer at most than at least, "
                f"got {self.min_replicas} to {self.max_replicas}"
            )
        scales = self.max_replicas > self.min_replicas
        if scales and (self.scale_metric is None or self.scale_target is None):
            raise UsageError(
                f"{self.min_replicas} to {self.max_replicas} replicas need to know when: give "
                f"--scale-metric ({', '.join(SCALE_METRICS)}) and --scale-target"
            )
        if not scales and (self.scale_metric is not None or self.scale_target is not None):
            raise UsageError(
                f"{self.min_replicas} replicas never change: give a larger --max-replicas too"
            )
        if self.scale_target is not None and self.scale_target < 1:
            raise UsageError(f"expected a scale target of at least 1, got {self.scale_target}")

    def metadata(self, **annotations: str) -> dict[str, Any]:
        """The ``metadata`` of one of its objects."""
        found: dict[str, Any] = {"name": self.name}
        if self.namespace is not None:
            found["namespace"] = self.namespace
        found["labels"] = self.labels
        return found | ({"annotations": annotations} if annotations else {})

    @property
    def labels(self) -> dict[str, str]:
        """What its objects and pods are found by."""
        return {"app.kubernetes.io/name": self.name, "app.kubernetes.io/part-of": "splitdeploy"}

    @property
    def resources(self) -> dict[str, Any]:
        """What each server asks for, and gets no more of."""
        found: dict[str, Any] = {"cpu": self.cpu, "memory": self.memory}
        if self.gpus:
            found["nvidia.com/gpu"] = str(self.gpus)
        return {"requests": found, "limits": dict(found)}

    @property
    def closed(self) -> list[str]:
        """Flags of Triton that close what no client of a tail needs."""
        return closed_flags(self.closed_with, DRAIN_S)


HARDENED: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""The security context of every container."""


def to_yaml(objects: Sequence[Mapping[str, Any]]) -> str:
    """Manifests as ``kubectl apply`` reads them.

    Args:
        objects: Of Kubernetes.

    Returns:
        A YAML document each.

    Raises:
        MissingExtraError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(
            "writing manifests needs PyYAML, which is not installed: "
            "type  pip install 'splitdeploy[workstation]'"
        ) from error

    class Plain(yaml.SafeDumper):
        """Without anchors: the same labels twice are written twice."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    found: str = yaml.dump_all(list(objects), Dumper=Plain, sort_keys=False, explicit_start=True)
    return found
