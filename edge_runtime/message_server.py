"""``python -m splitdeploy.edge_runtime.message_server``: takes requests, computes nothing, answers.

For `splitdeploy.edge_runtime.message_cost`. It listens on the loopback alone, prints its port, and
ends with its standard input. Every answer tells how much processor time the process has had so far.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from splitdeploy.edge_runtime.link import DEFAULT_MESSAGE_BYTES
from splitdeploy.edge_runtime.session import FREE
from splitdeploy.edge_runtime.wire import read_request, write_response
from splitdeploy.profiles.cut import TensorSpec

SENT = TensorSpec("z", (FREE, FREE))
"""What a request holds."""

ANSWERED = TensorSpec("y", (1, 1000))
"""What an answer holds: the scores of a thousand classes."""

PROCESSOR = TensorSpec("processor_s", (1, 1), "float64")
"""And beside them the processor time so far, in seconds."""


class _Taker(GRPCInferenceServiceServicer):  # type: ignore[misc]  # its package has no types
    def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=True)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        read_request(request, [SENT])
        result = {
            ANSWERED.name: np.zeros(ANSWERED.shape, np.float32),
            PROCESSOR.name: np.full(PROCESSOR.shape, time.process_time()),
        }
        return write_response(request.model_name, result, request_id=request.id)


def main() -> None:
    """Serve until standard input ends."""
    size = ("grpc.max_receive_message_length", DEFAULT_MESSAGE_BYTES)
    server = grpc.server(ThreadPoolExecutor(1), options=[size, ("grpc.so_reuseport", 0)])
    add_GRPCInferenceServiceServicer_to_server(_Taker(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.buffer.read()
    server.stop(None).wait(1.0)


if __name__ == "__main__":
    main()
