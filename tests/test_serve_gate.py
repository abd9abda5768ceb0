"""Who may compute and who may come in, without a server."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from splitdeploy.cloud_runtime.door import Door
from splitdeploy.cloud_runtime.gate import Admission, Gate, Ticket
from splitdeploy.cloud_runtime.records import Outcome, cleaned

COMPUTING, WAITING = 2, 3


class GateMachine(RuleBasedStateMachine):
    """The gate beside a model of it: a count and a queue."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(COMPUTING, WAITING)
        self.computing = 0
        self.queue: deque[Ticket] = deque()

    @rule(target=tickets)
    def enter(self) -> Ticket:
        assert self.gate.full == (self.computing == COMPUTING and len(self.queue) == WAITING)
        ticket = self.gate.enter()
        if self.computing < COMPUTING:
            self.computing += 1
            assert ticket.admission is Admission.COMPUTE
        elif len(self.queue) < WAITING:
            self.queue.append(ticket)
            assert ticket.admission is None and not ticket.called.is_set()
        else:
            assert ticket.admission is Admission.REFUSED
        return ticket

    @rule(ticket=tickets)
    def give_up(self, ticket: Ticket) -> None:
        before = ticket.admission
        self.gate.give_up(ticket)
        if ticket in self.queue:
            self.queue.remove(ticket)
            assert ticket.admission is Admission.LEFT and ticket.called.is_set()
        else:
            assert ticket.admission is before

    @precondition(lambda self: self.computing > 0)
    @rule()
    def leave(self) -> None:
        self.gate.leave()
        if self.queue:
            first = self.queue.popleft()
            assert first.admission is Admission.COMPUTE and first.called.is_set()
        else:
            self.computing -= 1

    @invariant()
    def agree(self) -> None:
        assert self.gate.computing == self.computing <= COMPUTING
        assert self.gate.waiting == len(self.queue) <= WAITING
        assert not self.queue or self.computing == COMPUTING


TestGate = GateMachine.TestCase
TestGate.settings = settings(max_examples=60, stateful_step_count=40)


class Fake:
    """A call that remembers whether it was cut off."""

    def __init__(self) -> None:
        self.cut_off = False

    def cancel(self) -> None:
        self.cut_off = True


def test_the_door_counts_and_closes() -> None:
    door = Door(2, 30.0)
    assert [door.enter(0.0) for _ in range(3)] == [Outcome.OK, Outcome.OK, Outcome.OVERLOADED]
    assert door.within == 2 and not door.wait_empty(0.0)
    door.leave()
    door.close()
    assert door.enter(0.0) is Outcome.DRAINING and not door.is_open
    door.leave()
    assert door.wait_empty(0.0)


def test_the_slowest_body_makes_room_once_it_had_its_time() -> None:
    door, calls = Door(2, 30.0), [Fake(), Fake()]
    for number, call in enumerate(calls):
        assert door.enter(float(number)) is Outcome.OK
        door.arriving(call, float(number))
    assert door.enter(30.0) is Outcome.OVERLOADED and not calls[0].cut_off
    assert door.enter(30.5) is Outcome.OVERLOADED and calls[0].cut_off and not calls[1].cut_off
    door.arrived(calls[0])
    door.leave()
    assert door.enter(31.0) is Outcome.OK
    door.arrived(calls[1])
    assert door.enter(99.0) is Outcome.OVERLOADED and not calls[1].cut_off


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("id-1", "id-1"),
        ("a\nb\x1b[31m\u2028\x00", "a?b?[31m??"),
        ("x" * 20, "x" * 10 + "..."),
        ("Ωé", "??"),
    ],
)
def test_what_a_client_wrote_is_made_fit_for_a_log(text: str, shown: str) -> None:
    assert cleaned(text, 10) == shown
