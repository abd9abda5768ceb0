"""One request on its way through the client: a picture, or a few that go together."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from splitdeploy.edge_runtime.answers import Answer, AnsweredBy, RequestTimes
from splitdeploy.edge_runtime.opened import OpenedBundle
from splitdeploy.edge_runtime.preprocess import Picture
from splitdeploy.edge_runtime.session import Array
from splitdeploy.edge_runtime.sources import open_picture
from splitdeploy.edge_runtime.wire import payload_bytes
from splitdeploy.profiles.errors import CloudError, SplitdeployError

Item = Picture | Path | str | Array | Mapping[str, Array]
"""A picture, the file of one, or what the head takes: an array for each input, a batch of one."""


@dataclass
class Job:
    """What became of a request so far. One stage after the other has it, never two at once.

    Attributes:
        opened: The bundle that it runs on.
        first: The index of its first picture.
        items: The pictures.
        started_s: When it was taken up, on ``time.perf_counter``.
        deadline_s: When its time is over, on the same clock.
        feeds: What the head takes, for the pictures in ``kept``.
        kept: The places in ``items`` of the pictures that are to be sent.
        answers: By place.
        left: The places of pictures that nobody waits for any more.
        payload: What the head gave for the pictures in ``kept``, to be sent.
        held: What it gave besides, for the last part.
        preprocess_s: As in `RequestTimes`.
        head_s: As in `RequestTimes`.
        failure: What broke, beyond this request.
        done: Set once every picture has its answer, or there is a failure.
    """

    opened: OpenedBundle
    first: int
    items: Sequence[Item]
    started_s: float
    deadline_s: float
    feeds: dict[str, Array] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    payload: dict[str, Array] = field(default_factory=dict)
    held: dict[str, Array] = field(default_factory=dict)
    preprocess_s: float = 0.0
    head_s: float = 0.0
    failure: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def payload_bytes(self) -> int:
        """Of all its pictures."""
        return payload_bytes(self.payload)

    @property
    def allowed_s(self) -> float:
        """All the time that it has."""
        return self.deadline_s - self.started_s

    def remaining_s(self) -> float:
        """Until its deadline."""
        return self.deadline_s - time.perf_counter()

    def prepare(self) -> None:
        """From pictures to what the head takes, with fresh noise; what is no picture is refused."""
        begun_s = time.perf_counter()
        taken = []
        for place, item in enumerate(self.items):
            try:
                opened = open_picture(Path(item)) if isinstance(item, Path | str) else item
                taken.append(self.opened.feed(opened))
            except SplitdeployError as error:
                self._refuse([place], "input", str(error), 0)
            else:
                self.kept.append(place)
        if taken:
            self.feeds = self.opened.joined(taken)
        self.preprocess_s = time.perf_counter() - begun_s

    def run_head(self) -> None:
        """Run the head; a picture of which it makes NaN or infinity is refused."""
        if not self.kept:
            return
        begun_s = time.perf_counter()
        try:
            given = self.opened.run_head(self.feeds)
        except SplitdeployError as error:
            self._refuse(self.kept, "input", str(error), 0)
            self.kept = []
            return
        finally:
            self.feeds = {}
            self.head_s = time.perf_counter() - begun_s
        payload, held, broken = given.payload, given.held, given.broken
        if broken.any():
            names = ", ".join([*payload, *held])
            line = f"expected finite numbers from the head, got NaN or infinity among {names}"
            self._refuse([self.kept[row] for row in np.flatnonzero(broken)], "input", line, 0)
            self.kept = [self.kept[row] for row in np.flatnonzero(~broken)]
            payload = {name: array[~broken] for name, array in payload.items()}
            held = {name: array[~broken] for name, array in held.items()}
        if self.kept:
            self.payload, self.held = payload, held

    def refuse(self, error: CloudError, wire_s: float = 0.0, attempts: int = 0) -> None:
        """Answer what is to be sent with a refusal.

        Args:
            error: Why.
            wire_s: As in `RequestTimes`.
            attempts: How often it was sent.
        """
        self._refuse(self.kept, error.kind, str(error), attempts, wire_s)

    def give_up(self) -> None:
        """Refuse whatever has no answer yet: nobody waits for it any more."""
        self.left = [place for place in range(len(self.items)) if place not in self.answers]
        line = "the request was given up: the client or its stream is closed"
        self._refuse(self.left, "unavailable", line, 0)

    def answer(
        self,
        outputs: Mapping[str, Array],
        answered_by: AnsweredBy,
        cloud_error: CloudError | None,
        times: RequestTimes,
        attempts: int,
    ) -> None:
        """Answer what was sent.

        Args:
            outputs: The results of all of it.
            answered_by: By whom.
            cloud_error: Why the cloud did not.
            times: Where the time went.
            attempts: How often it was sent.
        """
        count, weight = len(self.kept), self.payload_bytes // len(self.kept)
        error, kind = (None, None) if cloud_error is None else (str(cloud_error), cloud_error.kind)
        for row, place in enumerate(self.kept):
            one = {k: v[row : row + 1] for k, v in outputs.items()} if count > 1 else dict(outputs)
            self.answers[place] = Answer(
                self.first + place, one, answered_by, error, kind, weight, times, attempts
            )

    def times(
        self,
        wire_s: float = 0.0,
        tail_s: float | None = None,
        queue_s: float | None = None,
        last_s: float | None = None,
    ) -> RequestTimes:
        """Where the time went until now."""
        total_s = time.perf_counter() - self.started_s
        return RequestTimes(
            self.preprocess_s, self.head_s, wire_s, tail_s, queue_s, total_s, last_s
        )

    def in_order(self) -> list[Answer]:
        """All answers, in the order of the pictures."""
        return [self.answers[place] for place in range(len(self.items))]

    def _refuse(
        self, places: Sequence[int], kind: str, error: str, attempts: int, wire_s: float = 0.0
    ) -> None:
        weight = self.payload_bytes // len(self.kept) if self.payload else 0
        times = self.times(wire_s)
        for place in places:
            self.answers[place] = Answer(
                self.first + place, None, "refused", error, kind, weight, times, attempts
            )
