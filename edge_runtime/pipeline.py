"""Pictures through three stages that overlap, answers in the order of the pictures.

    source ─> prepare ─> head ─> send and receive (so many at once) ─> in order ─> consumer

A picture is taken from its source only when there is room for its answer, so a consumer that takes
its time holds up the source and nothing else: whatever is under way never waits for the consumer,
and memory is bounded. Nothing polls but the consumer, for the sake of Ctrl-C.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

from splitdeploy.edge_runtime.answers import Answer
from splitdeploy.edge_runtime.delivery import Delivery, Giving
from splitdeploy.edge_runtime.job import Job

_Item = TypeVar("_Item")

_AHEAD = 2
"""Beside those that are sent: one picture that is prepared, one in the head."""

_IN_TROUBLE = 2
"""Where the device is alone, more under way would only wait for each other."""

_JOIN_S = 2.0

_HEED_S = 0.25
"""Python acts on a signal once its main thread is back from what it waits for, and a signal that
another thread takes, or that comes just before the wait, does not end it: so waits of a consumer
are short."""


class _Room:
    """Room for so many pictures; how many may change at any time."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._taken = 0
        self._closed = False
        self._changed = threading.Condition()

    def enter(self) -> bool:
        """Wait for room and take it; False once it is closed."""
        with self._changed:
            while not self._closed and self._taken >= self._limit():
                self._changed.wait()
            self._taken += 1
            return not self._closed

    def leave(self) -> None:
        with self._changed:
            self._taken -= 1
            self._changed.notify_all()

    def look(self) -> None:
        """How many there is room for may have changed."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Pipeline:
    """One stream. Its threads end with it, however it ends.

    Args:
        delivery: Answers what comes from the head.
        window: How many requests may be under way to the cloud at once.
    """

    def __init__(self, delivery: Delivery, window: int) -> None:
        self._delivery = delivery
        self._window = window
        self._room = _Room(self._limit)
        self._giving = Giving()
        self._to_head: SimpleQueue[Job | None] = SimpleQueue()
        self._to_send: SimpleQueue[Job | None] = SimpleQueue()
        self._in_order: SimpleQueue[Job | BaseException | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(
        self, items: Iterable[_Item], make: Callable[[_Item], Job]
    ) -> Generator[Answer, None, None]:
        """Answers, in the order of the pictures.

        Args:
            items: What jobs are made of; taken one at a time, in a thread of the pipeline.
            make: A job of one of them.

        Yields:
            An answer a picture.

        Raises:
            BaseException: What ``items`` raised, after the answers to what it gave before; or what
                broke in a stage.
        """
        try:
            self._start("source", self._read, items, make)
            self._start("head", self._run_head)
            for number in range(self._window):
                self._start(f"send-{number}", self._send)
            while True:
                job = self._next()
                if job is None:
                    return
                if isinstance(job, BaseException):
                    raise job
                while not job.done.wait(_HEED_S):
                    pass
                if job.failure is not None:
                    raise job.failure
                self._room.leave()
                yield from job.in_order()
        finally:
            self.stop()
            self._join()

    def stop(self, error: BaseException | None = None) -> None:
        """Give up what is under way, and let the threads end.

        Args:
            error: What the consumer is told after the answers that there are; None ends its stream.
        """
        self._giving.give_up()
        self._room.close()
        self._to_head.put(None)
        self._in_order.put(error)

    def _next(self) -> Job | BaseException | None:
        while True:
            with contextlib.suppress(Empty):
                return self._in_order.get(timeout=_HEED_S)

    def _limit(self) -> int:
        return _IN_TROUBLE if self._delivery.in_trouble else self._window + _AHEAD

    def _start(self, name: str, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(
            target=target, args=arguments, name=f"splitdeploy-{name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _join(self) -> None:
        """Wait for the threads; a source that blocks for ever keeps its own."""
        for thread in self._threads:
            # An interrupt may have come before it was started.
            with contextlib.suppress(RuntimeError):
                thread.join(_JOIN_S)
        for queue in (self._to_head, self._to_send):
            for job in _drained(queue):
                self._delivery.abandon(job)

    def _read(self, items: Iterable[_Item], make: Callable[[_Item], Job]) -> None:
        end: BaseException | None = None
        try:
            iterator = iter(items)
            while self._room.enter():
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                if self._giving.up.is_set():
                    break
                job = make(item)
                self._in_order.put(job)
                self._stage(job, Job.prepare)
                self._to_head.put(job)
        except BaseException as error:
            end = error
        self._in_order.put(end)
        self._to_head.put(None)

    def _run_head(self) -> None:
        while (job := self._to_head.get()) is not None:
            self._stage(job, Job.run_head)
            self._to_send.put(job)
        for _ in range(self._window):
            self._to_send.put(None)

    def _send(self) -> None:
        while (job := self._to_send.get()) is not None:
            if job.failure is not None:
                self._delivery.abandon(job)
            else:
                self._delivery.deliver(job, self._giving)
            self._room.look()

    def _stage(self, job: Job, stage: Callable[[Job], None]) -> None:
        if self._giving.up.is_set() or job.failure is not None:
            return
        try:
            stage(job)
        except BaseException as error:
            job.failure = error


def _drained(queue: SimpleQueue[Job | None]) -> Iterator[Job]:
    while True:
        try:
            job = queue.get_nowait()
        except Empty:
            return
        if job is not None:
            yield job
