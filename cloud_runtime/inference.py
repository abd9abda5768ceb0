"""From the bytes of a request to those of its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from splitdeploy.cloud_runtime.door import Door
from splitdeploy.cloud_runtime.gate import Admission, Gate
from splitdeploy.cloud_runtime.records import Outcome, Record, cleaned
from splitdeploy.cloud_runtime.served import VERSION, ServedTail
from splitdeploy.edge_runtime.session import FREE, Array
from splitdeploy.edge_runtime.wire import read_request, write_response
from splitdeploy.profiles.errors import SessionError, WireError

_CODES = {
    Outcome.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Outcome.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Outcome.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Outcome.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Outcome.GONE: grpc.StatusCode.CANCELLED,
    Outcome.FAILED: grpc.StatusCode.INTERNAL,
}
_LONGEST_NAME = 80
_ELSEWHERE = ("shared_memory_region", "classification")
"""Parameters of a tensor that ask for an extension of the protocol which is not offered here."""


class NotAnsweredError(Exception):
    """A request that gets no answer.

    Args:
        outcome: How it ends.
        message: One line for the client.
        logged: The same for a log, which may hold no value of a tensor.
    """

    def __init__(self, outcome: Outcome, message: str, logged: str | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.logged = message if logged is None else logged


class Inference:
    """Answers requests for some tails.

    Args:
        tails: By the name that requests call them.
        gate: Admits to computing.
        door: Where requests came in.
        max_batch: Pictures in a request.
        ended: Told of every request once it has ended.
    """

    def __init__(
        self,
        tails: Mapping[str, ServedTail],
        gate: Gate,
        door: Door,
        max_batch: int,
        ended: Callable[[Record], None],
    ) -> None:
        self._tails = tails
        self._gate = gate
        self._door = door
        self._max_batch = max_batch
        self._ended = ended

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Answer a request that was let in at the door.

        Args:
            messages: What the client sends: one serialised ``ModelInferRequest``.
            context: gRPC's.

        Returns:
            A serialised ``ModelInferResponse``.
        """
        record = Record(context.peer())
        try:
            return self._answer(messages, context, record)
        except NotAnsweredError as error:
            record.outcome, record.reason = error.outcome, error.logged
            message = str(error)
        except Exception as error:  # whatever fails for one request must not end the server
            record.outcome = Outcome.FAILED
            record.reason = message = f"the server failed: unexpected {type(error).__name__}"
        finally:
            self._ended(record)
            self._door.leave()
        return refuse(context, record.outcome, message)

    def _answer(
        self, messages: Iterator[bytes], context: grpc.ServicerContext, record: Record
    ) -> bytes:
        data = self._receive(messages, context)
        record.bytes_in = len(data)
        try:
            request = pb.ModelInferRequest.FromString(data)
        except DecodeError as error:
            raise NotAnsweredError(
                Outcome.INVALID, "expected a ModelInferRequest, the message is none"
            ) from error
        record.request_id = request.id
        tail = find_tail(self._tails, request.model_name, request.model_version)
        record.model = tail.name
        feeds = self._read(request, tail)
        record.batch = batch_of(feeds)
        wanted = _wanted(request, tail)
        answer = self._compute(tail, feeds, context, record)
        message = _message(tail, {name: answer[name] for name in wanted}, record)
        sent: bytes = message.SerializeToString()
        record.bytes_out = len(sent)
        if not context.is_active():
            raise NotAnsweredError(Outcome.GONE, "the client left before the answer was ready")
        return sent

    def _receive(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._door.arriving(context, time.monotonic())
        try:
            data = next(messages, None)
        except grpc.RpcError as error:
            raise NotAnsweredError(Outcome.GONE, "the request did not arrive whole") from error
        finally:
            self._door.arrived(context)
        if data is None:
            if not context.is_active():
                raise NotAnsweredError(Outcome.GONE, "the request did not arrive whole")
            raise NotAnsweredError(Outcome.INVALID, "expected a request, got none")
        return data

    def _read(self, request: Any, tail: ServedTail) -> dict[str, Array]:
        for entry in request.inputs:
            for extension in _ELSEWHERE:
                if extension in entry.parameters:
                    raise NotAnsweredError(
                        Outcome.INVALID, f"{extension} is not offered here: send the values"
                    )
        try:
            feeds = read_request(request, tail.inputs)
        except WireError as error:
            raise NotAnsweredError(Outcome.INVALID, str(error)) from error
        for spec in tail.inputs:
            if spec.shape[:1] == (FREE,) and len(feeds[spec.name]) > self._max_batch:
                raise NotAnsweredError(
                    Outcome.INVALID,
                    f"expected a batch of at most {self._max_batch}, got "
                    f"{len(feeds[spec.name])}: send fewer at once",
                )
        return feeds

    def _compute(
        self,
        tail: ServedTail,
        feeds: dict[str, Array],
        context: grpc.ServicerContext,
        record: Record,
    ) -> dict[str, Array]:
        asked_s = time.perf_counter()
        self._wait(context)
        started_s = time.perf_counter()
        record.queue_s = started_s - asked_s
        try:
            if not context.is_active():
                raise NotAnsweredError(Outcome.GONE, "the client left while its request waited")
            answer = tail.session.run(feeds)
        except SessionError as error:
            # What ONNX Runtime says of the status may quote a value.
            logged = str(error).partition(" Status Message")[0]
            raise NotAnsweredError(Outcome.FAILED, str(error), logged) from error
        finally:
            self._gate.leave()
        record.compute_s = time.perf_counter() - started_s
        for name, array in answer.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise NotAnsweredError(
                    Outcome.FAILED, f"the tail gave NaN or infinity in output {name!r}"
                )
        return answer

    def _wait(self, context: grpc.ServicerContext) -> None:
        """Returns with a place to compute in."""
        ticket = self._gate.enter()
        if ticket.admission is None:
            if not context.add_callback(lambda: self._gate.give_up(ticket)):
                self._gate.give_up(ticket)
            ticket.called.wait()
        if ticket.admission is Admission.REFUSED:
            raise NotAnsweredError(Outcome.OVERLOADED, overloaded(self._gate))
        if ticket.admission is Admission.LEFT:
            raise NotAnsweredError(Outcome.GONE, "the client left while its request waited")


def refuse(context: grpc.ServicerContext, outcome: Outcome, message: str) -> NoReturn:
    """End a call with an error.

    Args:
        context: gRPC's.
        outcome: How it ends; it decides the status.
        message: For the client.

    Raises:
        AssertionError: Never: gRPC ends the call with an exception of its own.
    """
    context.abort(_CODES[outcome], " ".join(message.split()))
    raise AssertionError("gRPC's abort raises")


def overloaded(gate: Gate) -> str:
    """What a client is told where there is no room.

    Args:
        gate: The one that is full.

    Returns:
        One line.
    """
    return (
        f"the server is full: {gate.max_computing} compute and {gate.max_waiting} wait: "
        "try again later or elsewhere"
    )


def find_tail(tails: Mapping[str, ServedTail], name: str, version: str) -> ServedTail:
    """The tail that a client means.

    Args:
        tails: By name.
        name: As the client gave it.
        version: As the client gave it; empty for any.

    Returns:
        The tail.

    Raises:
        NotAnsweredError: There is none of that name and version.
    """
    if name not in tails:
        raise NotAnsweredError(
            Outcome.NOT_FOUND,
            f"no model {cleaned(name, _LONGEST_NAME)!r} here: serving {', '.join(tails)}",
        )
    if version not in {"", VERSION}:
        raise NotAnsweredError(
            Outcome.NOT_FOUND,
            f"no version {cleaned(version, _LONGEST_NAME)!r} of {name} here: serving {VERSION}",
        )
    return tails[name]


def batch_of(feeds: Mapping[str, Array]) -> int:
    """How many pictures there are in a request, by its first tensor.

    Args:
        feeds: The tensors.

    Returns:
        At least 1.
    """
    for array in feeds.values():
        return len(array) if array.ndim else 1
    return 1


def _wanted(request: Any, tail: ServedTail) -> list[str]:
    """The outputs that a request names; all where it names none."""
    known = [spec.name for spec in tail.outputs]
    wanted: list[str] = []
    for entry in request.outputs:
        if entry.name not in known:
            raise NotAnsweredError(
                Outcome.INVALID,
                f"unknown output {cleaned(entry.name, _LONGEST_NAME)!r}: expected "
                f"{', '.join(known)}",
            )
        for extension in _ELSEWHERE:
            if extension in entry.parameters:
                raise NotAnsweredError(
                    Outcome.INVALID, f"{extension} is not offered here: take the values"
                )
        if entry.name not in wanted:
            wanted.append(entry.name)
    return wanted or known


def _message(tail: ServedTail, answer: Mapping[str, Array], record: Record) -> Any:
    """With where its time went, so that a client can tell the wire from the tail."""
    message = write_response(tail.name, answer, request_id=record.request_id, version=VERSION)
    message.parameters["queue_us"].int64_param = round(record.queue_s * 1e6)
    message.parameters["compute_us"].int64_param = round((record.compute_s or 0.0) * 1e6)
    return message
