"""The client: pictures in, answers out; the head here, the tail in the cloud.

With a second cut the tail's answer goes through the last part here, so that the cloud never has the
result.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from splitdeploy.edge_runtime.answers import Answer, ClientStats, Counter
from splitdeploy.edge_runtime.bandwidth import Uplink, UplinkMeter
from splitdeploy.edge_runtime.breaker import Breaker, BreakerSettings
from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.edge_runtime.client_checks import Fallback, check_client, check_deadline
from splitdeploy.edge_runtime.delivery import Delivery, Giving
from splitdeploy.edge_runtime.from_async import FromAsync
from splitdeploy.edge_runtime.job import Item, Job
from splitdeploy.edge_runtime.link import Link, LinkSettings
from splitdeploy.edge_runtime.onnxruntime_session import CPU
from splitdeploy.edge_runtime.opened import OpenedBundle
from splitdeploy.edge_runtime.pipeline import Pipeline
from splitdeploy.edge_runtime.session import Session
from splitdeploy.edge_runtime.tls import ClientTls
from splitdeploy.profiles.closing import Closing
from splitdeploy.profiles.errors import CloudError, SessionError, UsageError

_CLOSED = "expected an open client, it is closed: make another"
_LONGEST_GREETING_S = 2.0


class SplitClient(Closing):
    """Runs pictures through a head here and a tail in the cloud.

    Every picture gets exactly one `Answer`, within the deadline: the cloud's; with
    ``fallback="local"``, where the cloud gives none in time, that of the bundle's own tail on this
    device; or else a refusal that says why. Nothing is raised for a picture: `Answer.answered_by`
    tells, and `Answer.raise_if_refused` turns a refusal into an exception.

    A request is sent again at most ``retries`` times, and only where the server was not there or
    had no room; the payload is then the same to the byte, since fresh guard noise on the same
    picture would let the cloud average the noise out. After several failures in a row the cloud is
    left alone for a moment (a circuit breaker), then asked with one request.

    With ``fallback="local"`` the tail is run a few times at the start, and a request to the cloud
    ends so early that the tail, and a tenth of the deadline to spare, still fit behind it; but the
    cloud gets at least half of the deadline. If the tail takes longer than what is left when its
    turn comes, by more than that tenth, the picture is refused; an answer that comes late all the
    same, since the machine is busy or the tail slower than before, is counted in
    `ClientStats.late`.

    Threads may share a client. As a context manager, ``async`` too, it closes itself.

    Args:
        bundle: What to run, or its folder.
        address: ``host:port`` of the server; None answers everything here, which needs
            ``fallback="local"``.
        fallback: What to do where the cloud does not answer: ``refuse``, or answer here: ``local``.
        deadline_s: For each request, from taking the picture to its answer.
        retries: How often a request is sent again where that is safe.
        window: How many requests of a stream may be under way to the cloud at once.
        tls: How to secure the link; None sends everything in the clear.
        providers: ONNX Runtime's, for the head and the local tail.
        threads: How many an operator may use; None leaves it to ONNX Runtime.
        head: A session to run the head in, in place of ONNX Runtime's; it stays its owner's.
        max_batch: The most pictures that go together in one request of `infer_batch`.
        cloud_tail_s: What the tail takes in the cloud, for servers that do not tell it (Triton):
            without it, there is no estimate of the uplink there.
        link: How the connection behaves.
        breaker: When the cloud is left alone, and for how long.

    Raises:
        UsageError: A setting cannot be meant, or the local tail alone takes longer than a deadline.
        CloudError: The server does not serve this bundle's tail; or, with ``fallback="refuse"``,
            it cannot be reached within the deadline (at most 2 s).
        ReportError: The bundle is damaged, or lacks the tail for ``fallback="local"``.
        SessionError: The head or the tail cannot be opened.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        address: str | None,
        *,
        fallback: Fallback = "refuse",
        deadline_s: float = 5.0,
        retries: int = 1,
        window: int = 4,
        tls: ClientTls | None = None,
        providers: Sequence[str] = (CPU,),
        threads: int | None = None,
        head: Session | None = None,
        max_batch: int = 32,
        cloud_tail_s: float | None = None,
        link: LinkSettings | None = None,
        breaker: BreakerSettings | None = None,
    ) -> None:
        check_client(fallback, address, deadline_s, retries, window, max_batch)
        self._deadline_s, self._window, self._max_batch = deadline_s, window, max_batch
        self._counter, self._closed = Counter(), False
        self._lock = threading.Lock()
        self._pipelines: set[Pipeline] = set()
        self._givings: set[Giving] = set()
        self._executor: ThreadPoolExecutor | None = None
        settings = link or LinkSettings()
        self._most_bytes = settings.max_payload_bytes
        self._link = None if address is None else Link(address, tls=tls, settings=settings)
        self._opened: OpenedBundle | None = None
        try:
            self._opened = OpenedBundle(
                bundle, tail=fallback == "local", providers=providers, threads=threads, head=head
            )
            alone_s = self._opened.tail_s + self._opened.last_s
            if alone_s > deadline_s:
                raise UsageError(
                    f"expected a deadline above the {alone_s:.3g} s that the tail "
                    f"takes on this device, got {deadline_s:.3g} s: allow more time, or refuse "
                    "what the cloud does not answer"
                )
            self._delivery = Delivery(
                self._link, Breaker(breaker), UplinkMeter(), self._counter,
                retries=retries, cloud_tail_s=cloud_tail_s,
            )  # fmt: skip
            self._greet(self._opened, fallback)
        except BaseException:
            self.close()
            raise

    @property
    def bundle(self) -> Bundle:
        """What it runs."""
        return self._ready().bundle

    @property
    def head_s(self) -> float:
        """What the head took for one picture at the start; 0 where it could not be tried."""
        return self._ready().head_s

    @property
    def stats(self) -> ClientStats:
        """What it counted so far."""
        return self._counter.stats

    @property
    def uplink(self) -> Uplink | None:
        """What its own traffic tells of the uplink; None before it tells anything."""
        return self._delivery.uplink()

    @property
    def uplink_bps(self) -> float | None:
        """The uplink's bandwidth; None where the traffic does not tell it."""
        found = self.uplink
        return None if found is None else found.bps

    def infer(self, item: Item, *, deadline_s: float | None = None) -> Answer:
        """Answer one picture.

        Args:
            item: A picture, the file of one, or an array for each of the head's inputs.
            deadline_s: In place of the client's.

        Returns:
            The answer, or a refusal: see `Answer.raise_if_refused`.

        Raises:
            SessionError: The client is closed.
        """  # noqa: DOC502
        return self._infer([item], deadline_s, Giving())[0]

    def infer_batch(
        self, items: Sequence[Item], *, deadline_s: float | None = None
    ) -> list[Answer]:
        """Answer several pictures, as many of them together as halves and limits allow.

        Args:
            items: Each as in `infer`.
            deadline_s: For each request, in place of the client's.

        Returns:
            An answer for each, in their order.

        Raises:
            SessionError: The client is closed.
        """  # noqa: DOC502
        size = self._batch_size()
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        if len(chunks) == 1:
            return self._infer(chunks[0], deadline_s, Giving())
        return list(self._run(chunks, deadline_s, self._pipeline()))

    def stream(
        self, items: Iterable[Item], *, deadline_s: float | None = None
    ) -> Generator[Answer, None, None]:
        """Answer pictures as they come; stages overlap, answers are in order, memory is bounded.

        The source is read in a thread, a few pictures ahead, and no further than answers are taken.
        Leaving the stream gives up what is under way.

        Args:
            items: Each as in `infer`.
            deadline_s: For each request, in place of the client's.

        Returns:
            An answer for each. What ``items`` raises is raised after the answers to what it gave.

        Raises:
            SessionError: The client is closed.
        """  # noqa: DOC502
        return self._run(([item] for item in items), deadline_s, self._pipeline())

    async def ainfer(self, item: Item, *, deadline_s: float | None = None) -> Answer:
        """As `infer`; cancelling it gives the request up.

        Args:
            item: As in `infer`.
            deadline_s: As in `infer`.

        Returns:
            The answer.

        Raises:
            SessionError: The client is closed.
            CancelledError: It was cancelled.
        """  # noqa: DOC502
        giving = Giving()
        loop = asyncio.get_running_loop()
        answered = loop.run_in_executor(self._pool(), self._infer, [item], deadline_s, giving)
        try:
            return (await asyncio.shield(answered))[0]
        except asyncio.CancelledError:
            giving.give_up()
            raise

    async def astream(
        self, items: Iterable[Item] | AsyncIterable[Item], *, deadline_s: float | None = None
    ) -> AsyncGenerator[Answer, None]:
        """As `stream`; the event loop is never blocked.

        Args:
            items: As in `stream`, or asynchronous.
            deadline_s: As in `stream`.

        Yields:
            An answer for each.

        Raises:
            SessionError: The client is closed.
        """  # noqa: DOC502
        loop = asyncio.get_running_loop()
        pipeline = self._pipeline()
        source = FromAsync(items, loop) if isinstance(items, AsyncIterable) else items
        answers = self._run(([item] for item in source), deadline_s, pipeline)
        # One thread: no two may run a generator.
        with ThreadPoolExecutor(1, "splitdeploy-astream") as executor:
            try:
                while True:
                    answer = await loop.run_in_executor(executor, next, answers, None)
                    if answer is None:
                        return
                    yield answer
            finally:
                pipeline.stop()
                if isinstance(source, FromAsync):
                    source.close()
                await asyncio.shield(loop.run_in_executor(executor, answers.close))

    def close(self) -> None:
        """Give up what is under way, and close link and sessions. Closing twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            pipelines, givings = list(self._pipelines), list(self._givings)
        for pipeline in pipelines:
            pipeline.stop(SessionError(_CLOSED))
        for giving in givings:
            giving.give_up()
        if self._executor is not None:
            self._executor.shutdown()
        if self._link is not None:
            self._link.close()
        if self._opened is not None:
            self._opened.close()

    async def __aenter__(self) -> SplitClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    def _ready(self) -> OpenedBundle:
        if self._closed or self._opened is None:
            raise SessionError(_CLOSED)
        return self._opened

    def _greet(self, opened: OpenedBundle, fallback: Fallback) -> None:
        """Tell a wrong server at once; one that is not there, where nothing works without it."""
        try:
            self._delivery.greet(opened, min(self._deadline_s, _LONGEST_GREETING_S))
        except CloudError as error:
            if error.kind == "refused" or fallback == "refuse":
                raise

    def _job(self, first: int, items: Sequence[Item], deadline_s: float | None) -> Job:
        opened, now_s = self._ready(), time.perf_counter()
        self._counter.add(sent=len(items))
        return Job(opened, first, items, now_s, now_s + (deadline_s or self._deadline_s))

    def _infer(
        self, items: Sequence[Item], deadline_s: float | None, giving: Giving
    ) -> list[Answer]:
        check_deadline(deadline_s)
        job = self._job(0, items, deadline_s)
        with self._lock:
            self._givings.add(giving)
        try:
            job.prepare()
            job.run_head()
            self._delivery.deliver(job, giving)
        finally:
            with self._lock:
                self._givings.discard(giving)
            if not job.done.is_set():
                self._delivery.abandon(job)
        if job.failure is not None:
            raise job.failure
        return job.in_order()

    def _pipeline(self) -> Pipeline:
        self._ready()
        return Pipeline(self._delivery, self._window)

    def _run(
        self, chunks: Iterable[Sequence[Item]], deadline_s: float | None, pipeline: Pipeline
    ) -> Generator[Answer, None, None]:
        check_deadline(deadline_s)
        return self._started(chunks, deadline_s, pipeline)

    def _started(
        self, chunks: Iterable[Sequence[Item]], deadline_s: float | None, pipeline: Pipeline
    ) -> Generator[Answer, None, None]:
        given = 0

        def make(items: Sequence[Item]) -> Job:
            nonlocal given
            job = self._job(given, items, deadline_s)
            given += len(items)
            return job

        self._ready()
        with self._lock:
            self._pipelines.add(pipeline)
        try:
            yield from pipeline.run(chunks, make)
        finally:
            with self._lock:
                self._pipelines.discard(pipeline)

    def _batch_size(self) -> int:
        opened = self._ready()
        if not opened.batches:
            return 1
        fit = self._most_bytes // max(1, opened.bundle.cut.payload_bytes)
        return max(1, min(self._max_batch, fit))

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            self._ready()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._window, "splitdeploy-ainfer")
            return self._executor
