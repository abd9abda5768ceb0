"""From the head's output to an answer: the cloud's, the device's own, or a clear refusal."""

from __future__ import annotations

import itertools
import random
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from splitdeploy.edge_runtime.answers import Counter
from splitdeploy.edge_runtime.bandwidth import Uplink, UplinkMeter
from splitdeploy.edge_runtime.breaker import Breaker, Permit
from splitdeploy.edge_runtime.job import Job
from splitdeploy.edge_runtime.link import Link, PendingReply, Reply
from splitdeploy.edge_runtime.opened import OpenedBundle
from splitdeploy.edge_runtime.wire import write_request
from splitdeploy.profiles.errors import CloudError, SessionError, WireError

_SAFE_TO_REPEAT = frozenset({"unavailable", "overloaded"})
"""Inference changes nothing in the cloud; but what is refused or too late stays so."""

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_TAIL_SLACK = 1.5
_MARGIN = 0.1
"""Of a deadline: threads do not wake at once. A local answer is given up to so much too late."""

_MOST_RESERVED = 0.5
"""Of a deadline, for the local tail: the cloud is asked with the rest."""

_PINGS = 5
_PINGS_S = 0.25


class Giving:
    """Tells requests that nobody waits for them any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[PendingReply] = set()
        self.up = threading.Event()

    def give_up(self) -> None:
        """Give up what is under way, and what comes later."""
        self.up.set()
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    @contextmanager
    def watching(self, call: PendingReply) -> Iterator[None]:
        """Have a call given up with the rest.

        Args:
            call: Under way.

        Yields:
            Nothing.
        """
        with self._lock:
            self._calls.add(call)
        try:
            if self.up.is_set():
                call.cancel()
            yield
        finally:
            with self._lock:
                self._calls.discard(call)


@dataclass
class _Asked:
    """What came of asking the cloud."""

    reply: Reply | None = None
    error: CloudError | None = None
    attempts: int = 0


def _last_failed(error: SessionError) -> CloudError:
    return CloudError("refused", f"the last part failed on what came back: {error}")


class Delivery:
    """Sends requests over one link, and sees that each ends: once, and within its deadline.

    Threads may share it.

    Args:
        link: To the cloud; None answers everything on the device.
        breaker: Says when to leave the cloud alone.
        meter: Learns the uplink's bandwidth from what is sent.
        counter: Counts.
        retries: How often a request is sent again where that is safe.
        cloud_tail_s: What the tail takes in the cloud, for servers that do not tell it themselves.
    """

    def __init__(
        self,
        link: Link | None,
        breaker: Breaker,
        meter: UplinkMeter,
        counter: Counter,
        *,
        retries: int,
        cloud_tail_s: float | None,
    ) -> None:
        self._link = link
        self._breaker = breaker
        self._meter = meter
        self._counter = counter
        self._retries = retries
        self._cloud_tail_s = cloud_tail_s
        self._lock = threading.Lock()
        self._under_way = 0
        self._known: set[OpenedBundle] = set()
        # Of one run of one client, so that no answer to another can be taken for one to this.
        self._name, self._numbers = secrets.token_hex(4), itertools.count()
        self._random = random.Random()

    @property
    def in_trouble(self) -> bool:
        """Whether the device is left to itself."""
        return self._link is None or self._breaker.state != "closed"

    def uplink(self) -> Uplink | None:
        """What is known of the uplink by now."""
        with self._lock:
            return self._meter.uplink(time.perf_counter())

    def greet(self, opened: OpenedBundle, deadline_s: float) -> None:
        """Make sure that the server serves this bundle's tail, and measure the way there.

        Args:
            opened: The bundle.
            deadline_s: The longest to wait.

        Raises:
            CloudError: It does not, or cannot be reached.
        """
        if self._link is None:
            return
        ends_s = time.perf_counter() + deadline_s
        try:
            ready = self._link.ready(deadline_s)
        except CloudError as error:
            raise CloudError(
                error.kind,
                f"expected a server of the Open Inference Protocol at {self._link.address}, none "
                f"answered within {deadline_s:.3g} s: start splitdeploy serve there, see whether "
                f"both sides use TLS, or name another ({error})",
            ) from error
        if not ready:
            raise CloudError(
                "unavailable", f"{self._link.address} is not ready: wait until its models are"
            )
        self._check(opened, ends_s - time.perf_counter())

    def deliver(self, job: Job, giving: Giving) -> None:
        """Answer every picture of a job, and count it.

        Args:
            job: After its head.
            giving: Tells when nobody waits for it any more.
        """
        try:
            if job.kept:
                with self._lock:
                    self._under_way += 1
                try:
                    self._deliver(job, giving)
                finally:
                    with self._lock:
                        self._under_way -= 1
        except BaseException as error:
            job.failure = error
        self.end(job)

    def abandon(self, job: Job) -> None:
        """End a job that nobody waits for any more."""
        job.give_up()
        self.end(job)

    def end(self, job: Job) -> None:
        """Count a job that has all its answers, or never will."""
        late = job.remaining_s() < 0
        lost = len(job.items) - len(job.answers) + len(job.left)
        for place, answer in job.answers.items():
            if place not in job.left:
                self._counter.ended(answer.answered_by, late=late)
        if lost:
            self._counter.add(abandoned=lost)
        job.done.set()

    def _deliver(self, job: Job, giving: Giving) -> None:
        begun_s = time.perf_counter()
        local = job.opened.has_tail
        last_s = job.opened.last_s * len(job.kept)
        rest_s = job.opened.tail_s * len(job.kept) + last_s
        reserved_s = self._reserved_s(job, rest_s) if local else self._behind_cloud_s(job, last_s)
        asked = self._ask_cloud(job, giving, reserved_s)
        spent_s = time.perf_counter() - begun_s if asked.attempts else 0.0
        if asked.reply is not None:
            compute_s, queue_s = asked.reply.compute_s, asked.reply.queue_s
            wire_s = max(0.0, spent_s - (compute_s or 0.0) - (queue_s or 0.0))
            try:
                results, took_s = job.opened.run_last(asked.reply.outputs, job.held)
            except SessionError as failed:
                job.refuse(_last_failed(failed), spent_s, asked.attempts)
                return
            times = job.times(wire_s, compute_s, queue_s, took_s)
            job.answer(results, "cloud", None, times, asked.attempts)
            return
        if giving.up.is_set():
            job.give_up()
            return
        error = self._answer_locally(job, asked, spent_s, rest_s) if local else asked.error
        if error is not None:
            job.refuse(error, spent_s, asked.attempts)

    def _behind_cloud_s(self, job: Job, last_s: float) -> float:
        """What the last part needs of the deadline once the cloud has answered."""
        needed_s = _TAIL_SLACK * last_s * self._under_way
        return min(needed_s, _MOST_RESERVED * job.allowed_s)

    def _reserved_s(self, job: Job, rest_s: float) -> float:
        """What the device needs of the deadline to answer, behind all that may need it then."""
        needed_s = _TAIL_SLACK * rest_s * self._under_way + _MARGIN * job.allowed_s
        return min(needed_s, _MOST_RESERVED * job.allowed_s)

    def _answer_locally(
        self, job: Job, asked: _Asked, spent_s: float, rest_s: float
    ) -> CloudError | None:
        """Answer from the device's own tail; the error where that does not come to be."""
        why = f" ({asked.error})" if asked.error else ""

        def too_late() -> CloudError:
            return CloudError(
                "deadline",
                f"the local tail needs {1e3 * rest_s:.3g} ms, {1e3 * job.remaining_s():.3g} ms of "
                f"the deadline were left{why}: allow more time, or fewer requests at once",
            )

        def in_time() -> bool:
            return job.remaining_s() + _MARGIN * job.allowed_s >= rest_s

        try:
            outputs = job.opened.run_tail(job.payload, in_time)
        except SessionError as error:
            return CloudError("refused", f"the local tail failed: {error}{why}")
        if outputs is None:
            return too_late()
        given, tail_s = outputs
        try:
            results, last_s = job.opened.run_last(given, job.held)
        except SessionError as failed:
            return _last_failed(failed)
        times = job.times(spent_s, tail_s, last_s=last_s)
        job.answer(results, "local", asked.error, times, asked.attempts)
        return None

    def _ask_cloud(self, job: Job, giving: Giving, reserved_s: float) -> _Asked:
        asked = _Asked()
        if self._link is None:
            return asked
        try:
            message = write_request(
                job.opened.bundle.served_name,
                job.payload,
                request_id=f"{self._name}-{next(self._numbers)}",
            )
        except WireError as error:
            asked.error = CloudError("refused", str(error))
            return asked
        ends_s = job.deadline_s - reserved_s
        while not giving.up.is_set():
            now_s = time.perf_counter()
            if now_s >= ends_s:
                asked.error = asked.error or CloudError(
                    "deadline", "the deadline was over before the request could be sent"
                )
                break
            with self._lock:
                permit = self._breaker.ask(now_s)
                wait_s = self._breaker.wait_s(now_s)
            if permit is None:
                asked.error = asked.error or CloudError(
                    "open",
                    f"{self._link.address} did not answer several times in a row: it is asked "
                    f"again in {wait_s:.2g} s",
                )
                break
            if asked.attempts:
                self._counter.add(retried=1)
            asked.attempts += 1
            try:
                asked.reply = self._try(self._link, job, message, permit, giving, ends_s)
                asked.error = None
                break
            except CloudError as error:
                asked.error = error
            if asked.error.kind not in _SAFE_TO_REPEAT or asked.attempts > self._retries:
                break
            pause_s = min(_FIRST_PAUSE_S * 2.0 ** (asked.attempts - 1), _LONGEST_PAUSE_S)
            pause_s *= self._random.uniform(0.5, 1.5)
            if time.perf_counter() + pause_s >= ends_s:
                break
            giving.up.wait(pause_s)
        return asked

    def _try(
        self, link: Link, job: Job, message: object, permit: Permit, giving: Giving, ends_s: float
    ) -> Reply:
        """Send it once. Whatever comes of it, the breaker learns of it."""
        weight, told = job.payload_bytes, False
        sent_s = time.perf_counter()
        try:
            if job.opened not in self._known:
                self._check(job.opened, ends_s - sent_s)
                sent_s = time.perf_counter()
            outputs = job.opened.outputs_of(len(job.kept))
            call = link.infer_async(message, outputs, ends_s - sent_s)
            self._counter.add(bytes_sent=weight)
            with giving.watching(call):
                reply = call.result()
            answered_s = time.perf_counter()
            with self._lock:
                told = True
                self._breaker.answered(permit)
                self._meter.answered(weight, sent_s, answered_s, self._server_s(reply))
            return reply
        except CloudError as error:
            now_s = time.perf_counter()
            with self._lock:
                told = True
                if giving.up.is_set():
                    self._breaker.abandoned(permit, now_s)
                elif error.kind == "refused":
                    self._breaker.answered(permit)
                else:
                    self._breaker.failed(permit, now_s)
                    if error.kind == "deadline":
                        self._meter.given_up(weight, sent_s, now_s)
            raise
        finally:
            if not told:
                with self._lock:
                    self._breaker.abandoned(permit, time.perf_counter())

    def _server_s(self, reply: Reply) -> float | None:
        if reply.compute_s is None:
            return self._cloud_tail_s
        return reply.compute_s + (reply.queue_s or 0.0)

    def _check(self, opened: OpenedBundle, deadline_s: float) -> None:
        if self._link is None:
            return
        ends_s = time.perf_counter() + deadline_s
        bundle = opened.bundle
        self._link.check_model(
            bundle.served_name,
            bundle.tail_inputs,
            bundle.tail_outputs,
            bundle.tail_digest,
            deadline_s,
        )
        self._known.add(opened)
        begun_s = time.perf_counter()
        for _ in range(_PINGS):
            now_s = time.perf_counter()
            if now_s - begun_s > min(_PINGS_S, (ends_s - begun_s) / 2):
                break
            took_s = self._link.round_trip_s(ends_s - now_s)
            with self._lock:
                self._meter.small(took_s)
