"""A server of the protocol that does what a test tells it, request by request."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from split_bundles import CLASSES, SERVED, SIZE, WEIGHT
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from splitdeploy.edge_runtime.wire import read_request, write_response
from splitdeploy.profiles.cut import TensorSpec

Act = Callable[[Any, grpc.ServicerContext], Any]
"""What to do with a request; None where the next act should have it."""


def answer(request: Any, context: grpc.ServicerContext) -> Any:
    """As a server should."""
    z = read_request(request, [TensorSpec("z", (-1, 3, SIZE, SIZE))])["z"]
    y = (z.reshape(len(z), -1) @ WEIGHT).astype(np.float32)
    return write_response(request.model_name, {"y": y}, request_id=request.id)


def abort(code: grpc.StatusCode, details: str = "as told") -> Act:
    """End it with a status."""

    def act(request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(code, details)

    return act


def late(seconds: float) -> Act:
    """Answer after a while, or when the client has left."""

    def act(request: Any, context: grpc.ServicerContext) -> Any:
        left = threading.Event()
        context.add_callback(left.set)
        left.wait(seconds)
        return answer(request, context)

    return act


@dataclass
class OddServer(GRPCInferenceServiceServicer):  # type: ignore[misc]  # its package has no types
    """Keeps what it was sent; does as its acts say, then answers as it should.

    Attributes:
        acts: For the first requests, one each.
        always: For all others.
        inputs: That its metadata tells of.
        received: Every request.
    """

    acts: list[Act] = field(default_factory=list)
    always: Act = answer
    shape: tuple[int, ...] = (-1, 3, SIZE, SIZE)
    received: list[Any] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)
    address: str = ""

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=True)

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if request.name != SERVED:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"unknown model: '{request.name}'")
        message = pb.ModelMetadataResponse(name=SERVED)
        message.inputs.add(name="z", datatype="FP32", shape=self.shape)
        message.outputs.add(name="y", datatype="FP32", shape=[-1, CLASSES])
        return message

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        with self.lock:
            self.received.append(request)
            act = self.acts.pop(0) if self.acts else self.always
        return act(request, context)


@contextlib.contextmanager
def odd_server(*acts: Act, port: int = 0, **settings: Any) -> Iterator[OddServer]:
    """Such a server over a real socket."""
    server = grpc.server(
        ThreadPoolExecutor(16),
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)],
    )
    odd = OddServer(list(acts), **settings)
    add_GRPCInferenceServiceServicer_to_server(odd, server)
    odd.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield odd
    finally:
        server.stop(None).wait()
