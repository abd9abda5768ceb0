"""Several cuts of one model, loaded at once: pictures go through whichever is fastest just now.

A switch loses nothing. What is under way through the old cut is answered by it, in order, before
the first answer through the new one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.answers import Answer, ClientStats
from splitdeploy.edge_runtime.bandwidth import Uplink
from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.edge_runtime.client import SplitClient
from splitdeploy.edge_runtime.cut_chooser import CutChooser, CutCost
from splitdeploy.edge_runtime.job import Item
from splitdeploy.edge_runtime.session import Session
from splitdeploy.profiles.closing import Closing
from splitdeploy.profiles.errors import UsageError

_SMOOTHING = 0.2
"""Of a cut's times: the share that the newest has."""


class AdaptiveClient(Closing):
    """A `SplitClient` for each of several bundles of one model, and the choice among them.

    Args:
        bundles: Of one model with the same weights; the first is begun with.
        address: ``host:port`` of the server, which serves all their tails.
        heads: A session of each bundle's head, in place of ONNX Runtime's; they stay their owner's.
        margin: See `CutChooser`.
        probe_s: After so long without news of the uplink, one picture goes through the cut with
            the next larger payload: small payloads may never tell that the link has become fast.
        clock: Seconds that never go back.
        **settings: As `SplitClient` takes them.

    Raises:
        UsageError: The bundles are of different models or weights, or two have the same cut.
        CloudError: As `SplitClient`.
    """  # noqa: DOC502

    def __init__(
        self,
        bundles: Sequence[Bundle | Path | str],
        address: str,
        *,
        heads: Sequence[Session] | None = None,
        margin: float = 0.25,
        probe_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        opened = [b if isinstance(b, Bundle) else read_bundle(Path(b), "edge") for b in bundles]
        _check_alike(opened)
        costs = [CutCost(b.cut.name, b.cut.payload_bytes, 0.0, 0.0) for b in opened]
        self._chooser = CutChooser(costs, margin=margin)
        self._probe_s, self._clock = probe_s, clock
        self._heard_s = clock()
        self._lock = threading.Lock()  # a stream's source is read by a thread of its own
        self.clients: list[SplitClient] = []
        try:
            for place, bundle in enumerate(opened):
                head = None if heads is None else heads[place]
                client = SplitClient(bundle, address, head=head, **settings)
                self.clients.append(client)
                self._chooser.measured(place, head_s=client.head_s, tail_s=0.0)
        except BaseException:
            self.close()
            raise

    @property
    def bundle(self) -> Bundle:
        """That of the first cut; the results are the same for all."""
        return self.clients[0].bundle

    @property
    def uplink(self) -> Uplink | None:
        """What the traffic of any cut told last; None before it tells anything."""
        return _latest(self._known())

    @property
    def cut(self) -> str:
        """The cut that the next picture goes through."""
        return self._chooser.cuts[self._chooser.current].name

    @property
    def switches(self) -> int:
        """How often the cut was changed."""
        return self._chooser.switches

    @property
    def stats(self) -> ClientStats:
        """What all cuts counted so far."""
        every = [client.stats for client in self.clients]
        return ClientStats(**{
            f.name: sum(getattr(one, f.name) for one in every) for f in fields(ClientStats)
        })

    def infer(self, item: Item, *, deadline_s: float | None = None) -> Answer:
        """As `SplitClient.infer`, through the cut that is fastest just now."""
        place = self._place()
        answer = self.clients[place].infer(item, deadline_s=deadline_s)
        self._learn(place, answer)
        return answer

    def stream(self, items: Iterable[Item], *, deadline_s: float | None = None) -> Iterator[Answer]:
        """As `SplitClient.stream`; the cut may change between any two pictures.

        Args:
            items: As there.
            deadline_s: As there.

        Yields:
            An answer a picture, in their order.
        """
        source = _Source(items)
        index = 0
        while not source.ended:
            place = self._place()
            run = source.while_(partial(self._still, place))
            for answer in self.clients[place].stream(run, deadline_s=deadline_s):
                self._learn(place, answer)
                yield replace(answer, index=index)
                index += 1

    def close(self) -> None:
        """Close all clients."""
        for client in self.clients:
            client.close()

    def _place(self) -> int:
        """The cut for the next picture; a probe that is due is taken with it."""
        with self._lock:
            place = self._best_place()
            if place != self._chooser.current:
                self._heard_s = self._clock()
            return place

    def _still(self, place: int) -> bool:
        """Whether the next picture goes through this cut too; a probe that is due stays so."""
        with self._lock:
            return self._best_place() == place

    def _best_place(self) -> int:
        """The fastest cut just now, or the next heavier one where a probe is due."""
        current = self._chooser.current
        known = self._known()
        # Of one link, whichever cut's traffic told of it last.
        told = _latest(known)
        if told is not None and told.bps is not None and told.age_s <= self._probe_s:
            return self._chooser.choose(told.bps)
        fresh = [one for one in known if one.age_s <= self._probe_s]
        if fresh:
            least_bps = max(one.at_least_bps for one in fresh)
            if self._chooser.choose(least_bps, at_least=True) != current:
                return self._chooser.current
        due = self._clock() - self._heard_s >= self._probe_s
        return self._next_heavier(current) if due else current

    def _known(self) -> list[Uplink]:
        return [found for found in (client.uplink for client in self.clients) if found]

    def _next_heavier(self, current: int) -> int:
        payload = self._chooser.cuts[current].payload_bytes
        heavier = [
            (cut.payload_bytes, place)
            for place, cut in enumerate(self._chooser.cuts)
            if cut.payload_bytes > payload
        ]
        return min(heavier)[1] if heavier else current

    def _learn(self, place: int, answer: Answer) -> None:
        if answer.answered_by != "cloud":
            return
        with self._lock:
            self._take(place, answer)

    def _take(self, place: int, answer: Answer) -> None:
        cut, times = self._chooser.cuts[place], answer.times
        tail_s = cut.tail_s if times.tail_s is None else times.tail_s + (times.queue_s or 0.0)
        self._chooser.measured(
            place,
            head_s=cut.head_s + _SMOOTHING * (times.head_s - cut.head_s),
            tail_s=cut.tail_s + _SMOOTHING * (tail_s - cut.tail_s),
        )


def _latest(known: Sequence[Uplink]) -> Uplink | None:
    """The newest estimate; without any, the newest of what the link has at least."""
    return min(known, key=lambda one: (one.bps is None, one.age_s), default=None)


class _Source:
    """An iterable that is read in runs, each for as long as something holds."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._iterator = iter(items)
        self.ended = False

    def while_(self, holds: Callable[[], bool]) -> Iterator[Item]:
        """At least one item, and more as long as something holds after each."""
        more = True
        while more:
            try:
                item = next(self._iterator)
            except StopIteration:
                self.ended = True
                return
            except BaseException:
                self.ended = True
                raise
            yield item
            more = holds()


def _check_alike(bundles: Sequence[Bundle]) -> None:
    def told(bundle: Bundle) -> tuple[Any, ...]:
        source = bundle.manifest.get("source") or {}
        return (bundle.manifest["model"], source.get("weights_sha256"), bundle.head_inputs)

    for bundle in bundles[1:]:
        if told(bundle) != told(bundles[0]):
            raise UsageError(
                f"expected bundles of one model with the same weights, {bundle.folder} is another "
                f"than {bundles[0].folder}: export both of the same model"
            )
