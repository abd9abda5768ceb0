"""The Open Inference Protocol's calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer

from splitdeploy.cloud_runtime.describe import model_config, model_metadata
from splitdeploy.cloud_runtime.door import Door
from splitdeploy.cloud_runtime.gate import Gate
from splitdeploy.cloud_runtime.inference import (
    Inference,
    NotAnsweredError,
    find_tail,
    overloaded,
    refuse,
)
from splitdeploy.cloud_runtime.records import Outcome, Record
from splitdeploy.cloud_runtime.served import VERSION, ServedTail

_SERVICE = "inference.GRPCInferenceService"
_TOLD = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig",
    "RepositoryIndex",
)  # fmt: skip
_DRAINING = "the server is draining: ask another, or again once it is back"


class Servicer(GRPCInferenceServiceServicer):  # type: ignore[misc]  # its package has no types
    """Tells of the server and its tails; what it does not define is answered UNIMPLEMENTED.

    Args:
        tails: By name.
        max_batch: Pictures in a request.
        ready: Whether requests are taken.
    """

    def __init__(
        self, tails: Mapping[str, ServedTail], max_batch: int, ready: Callable[[], bool]
    ) -> None:
        self._tails = tails
        self._max_batch = max_batch
        self._ready = ready

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Whether the process answers."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Whether requests are taken: not while it drains."""
        return pb.ServerReadyResponse(ready=self._ready())

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Whether requests for a model are taken."""
        known = request.name in self._tails and request.version in {"", VERSION}
        return pb.ModelReadyResponse(ready=known and self._ready())

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """What this server is."""
        return pb.ServerMetadataResponse(
            name="splitdeploy",
            version=metadata.version("splitdeploy"),
            extensions=["model_configuration", "model_repository(index)"],
        )

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """A model's tensors."""
        return model_metadata(self._find(request, context))

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """A model's configuration."""
        return model_config(self._find(request, context), self._max_batch)

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Every model."""
        message = pb.RepositoryIndexResponse()
        for name in self._tails:
            message.models.add(name=name, version=VERSION, state="READY")
        return message

    def _find(self, request: Any, context: grpc.ServicerContext) -> ServedTail:
        try:
            return find_tail(self._tails, request.name, request.version)
        except NotAnsweredError as error:
            refuse(context, error.outcome, str(error))


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc]  # its package has no types
    """Finds the handler of a call, and turns a request away before its body is read.

    To gRPC a request is a stream of one message: then the call's end, deadline and room are known
    before its body has come, and the body is parsed on the request's own thread.

    Args:
        servicer: Answers all but requests.
        inference: Answers requests.
        door: Lets them in.
        gate: Where they will compute.
        ended: Told of those that are turned away.
    """

    def __init__(
        self,
        servicer: Servicer,
        inference: Inference,
        door: Door,
        gate: Gate,
        ended: Callable[[Record], None],
    ) -> None:
        self._door = door
        self._gate = gate
        self._ended = ended
        self._told = {
            f"/{_SERVICE}/{name}": grpc.unary_unary_rpc_method_handler(
                getattr(servicer, name),
                getattr(pb, f"{name}Request").FromString,
                getattr(pb, f"{name}Response").SerializeToString,
            )
            for name in _TOLD
        }
        self._infer = grpc.stream_unary_rpc_method_handler(inference)
        self._full = self._turned_away(Outcome.OVERLOADED, overloaded(gate))
        self._draining = self._turned_away(Outcome.DRAINING, _DRAINING)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call; None where there is none, which gRPC answers UNIMPLEMENTED."""
        if handler_call_details.method != f"/{_SERVICE}/ModelInfer":
            return self._told.get(handler_call_details.method)
        if self._gate.full:
            return self._full if self._door.is_open else self._draining
        outcome = self._door.enter(time.monotonic())
        if outcome is Outcome.OK:
            return self._infer
        return self._draining if outcome is Outcome.DRAINING else self._full

    def _turned_away(self, outcome: Outcome, message: str) -> Any:
        def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            self._ended(Record(context.peer(), outcome, reason=message))
            refuse(context, outcome, message)

        return grpc.stream_unary_rpc_method_handler(answer)
