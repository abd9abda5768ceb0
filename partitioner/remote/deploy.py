"""A bundle put on one device: checked, copied, tried there, and only then made current."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from splitdeploy.edge_runtime.agent_protocol import read_line
from splitdeploy.partitioner.remote.board import Board, Facts
from splitdeploy.partitioner.remote.options import RemoteOptions
from splitdeploy.partitioner.remote.package import Package
from splitdeploy.partitioner.remote.reach import folder_on, reach
from splitdeploy.partitioner.remote.transfer import send
from splitdeploy.profiles.errors import RemoteError, SplitdeployError

SKEW_TOLD_S = 1.0
SKEW_REFUSED_S = 300.0
"""A clock that is so far off refuses certificates, or takes expired ones for good."""

_BUILD_S = 3600.0
_SELF_TEST_S = 600.0


@dataclass(frozen=True)
class DeployOptions:
    """What is to be done on every device.

    Attributes:
        remote: How devices are reached, and where files go.
        unit: ``user`` or ``system``: make a service that runs the bundle; None for none.
        service: The service's name.
        arguments: Of ``splitdeploy run``, behind the bundle.
        cloud: Where the tail is served, as ``host:port``; None where nothing is to be reached.
        health_s: How long the service must run to count as healthy.
    """

    remote: RemoteOptions = RemoteOptions()
    unit: str | None = None
    service: str = "splitdeploy"
    arguments: tuple[str, ...] = ()
    cloud: str | None = None
    health_s: float = 10.0


@dataclass
class DeviceOutcome:
    """What became of one device.

    Attributes:
        address: Of the device.
        done: ``deployed``, ``rolled back``, ``looked``; ``failed`` where it was not.
        current: The version that is current now; None where that is not known or there is none.
        previous: The one before.
        service: The state of its service; None where there is none.
        ran_in: What ran the self-test; empty where there was none.
        record: What is known of the current version.
        notes: What a reader must know besides.
        error: Why it failed; None where it did not.
        seconds: How long it took.
        sent_bytes: What was copied.
    """

    address: str
    done: str = "failed"
    current: str | None = None
    previous: str | None = None
    service: str | None = None
    ran_in: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0
    sent_bytes: int = 0

    def take(self, answer: dict[str, Any]) -> None:
        """What the device told of its versions."""
        self.current, self.previous = _word(answer, "current"), _word(answer, "previous")
        self.service = _word(answer, "service")


Step = Callable[[Board, Facts, str, DeviceOutcome], None]


def on_device(address: str, options: DeployOptions, step: Step) -> DeviceOutcome:
    """Reach a device and do something there; what goes wrong is told in the outcome.

    Args:
        address: Of the device.
        options: How it is reached.
        step: What to do.

    Returns:
        What became of it.
    """
    outcome, started = DeviceOutcome(address), time.monotonic()
    try:
        with reach(address, options.remote) as (board, facts):
            step(board, facts, folder_on(facts, options.remote), outcome)
    except SplitdeployError as error:
        outcome.error, outcome.done = str(error), "failed"
    outcome.seconds = time.monotonic() - started
    return outcome


def deploy_step(
    package: Package,
    options: DeployOptions,
    advance: Callable[[float], None],
    note: Callable[[str], None],
) -> Step:
    """Put a version on a device.

    Args:
        package: The version.
        options: What runs it there.
        advance: Told of bytes that are there.
        note: Told of what takes long.

    Returns:
        The step.
    """

    def step(board: Board, facts: Facts, folder: str, outcome: DeviceOutcome) -> None:
        check_clock(facts, outcome)
        _check_service(facts, options)
        with _alone(board, folder):
            outcome.take(_status(board, folder))
            place = _copied(board, folder, package, outcome, advance)
            _built(board, facts, place, package, outcome, note)
            _tried(board, facts, place, outcome)
            if options.cloud is not None:
                _look_for_cloud(board, folder, options.cloud, outcome)
            request = {
                "version": package.version,
                "record": {**package.record, "ran_in": outcome.ran_in},
                "service": _service(facts, options),
                "health_s": options.health_s,
            }
            answer = board.ask(
                "activate", folder, request=request, doing="making it current",
                timeout_s=120.0 + options.health_s,
            )  # fmt: skip
        outcome.take(answer)
        outcome.notes += [str(text)[:300] for text in answer.get("notes") or ()]
        outcome.record, outcome.done = dict(package.record), "deployed"

    return step


def rollback_step(options: DeployOptions) -> Step:
    """Let the version before run again.

    Args:
        options: How long its service must run.

    Returns:
        The step.
    """

    def step(board: Board, facts: Facts, folder: str, outcome: DeviceOutcome) -> None:
        del facts
        with _alone(board, folder):
            outcome.take(_status(board, folder))
            answer = board.ask(
                "rollback", folder, request={"health_s": options.health_s}, doing="rolling back",
                timeout_s=120.0 + options.health_s,
            )  # fmt: skip
        outcome.take(answer)
        outcome.record = dict(_status(board, folder).get("current_record") or {})
        outcome.done = "rolled back"

    return step


def status_step(board: Board, facts: Facts, folder: str, outcome: DeviceOutcome) -> None:
    """See what lies on a device and what runs.

    Args:
        board: The device.
        facts: What it has.
        folder: Where versions lie there.
        outcome: Filled in.
    """
    answer = _status(board, folder)
    outcome.take(answer)
    outcome.record = dict(answer.get("current_record") or {})
    outcome.ran_in = str(outcome.record.get("ran_in") or "")
    if answer.get("unfinished"):
        outcome.notes.append("a copy is unfinished there: deploy again to go on with it")
    if abs(facts.skew_s) > SKEW_TOLD_S + facts.round_trip_s:
        outcome.notes.append(f"its clock is {facts.skew_s:+.0f} s off this machine's")
    outcome.done = "looked"


def check_clock(facts: Facts, outcome: DeviceOutcome) -> None:
    """Tell of a clock that is off by more than a second; refuse one that is off by minutes.

    Args:
        facts: Of the device.
        outcome: Whose notes say so.

    Raises:
        RemoteError: It is more than five minutes off.
    """
    off_s = abs(facts.skew_s) - facts.round_trip_s
    if off_s > SKEW_REFUSED_S:
        raise RemoteError(
            "failed",
            f"the clock of {outcome.address} is {facts.skew_s:+.0f} s off this machine's, at most "
            f"{SKEW_REFUSED_S:.0f} s will do, as certificates are checked against it: type there  "
            "sudo timedatectl set-ntp true",
        )
    if off_s > SKEW_TOLD_S:
        outcome.notes.append(f"its clock is {facts.skew_s:+.0f} s off this machine's")


def _copied(
    board: Board, folder: str, package: Package, outcome: DeviceOutcome,
    advance: Callable[[float], None],
) -> str:  # fmt: skip
    """Where the version lies on the device; nothing is sent where it is installed and whole."""
    installed = f"{folder}/versions/{package.version}"
    listed = [{"name": f.name, "sha256": f.sha256, "bytes": f.size_bytes} for f in package.sent]
    answer = board.ask("all-there", installed, request=listed, doing="looking for the version")
    if answer.get("there") is True:
        advance(package.size_bytes)
        outcome.notes.append("this version was there: nothing was copied")
        return installed
    arriving = f"{folder}/incoming/{package.version}"
    outcome.sent_bytes = send(board, package.files, arriving, sent=package.sent, advance=advance)
    board.ask("tidy", arriving, request=listed, doing="tidying up")
    return arriving


def _built(
    board: Board, facts: Facts, place: str, package: Package, outcome: DeviceOutcome,
    note: Callable[[str], None],
) -> None:  # fmt: skip
    if not facts.has("tensorrt"):
        outcome.notes.append("no TensorRT there: the head runs in ONNX Runtime, no engine is built")
        return
    if not facts.has("pycuda"):
        outcome.notes.append("TensorRT without pycuda there: no engine is built; install pycuda")
        return
    note(f"{board.address}: building the engine there, which takes minutes the first time")
    precision = str(package.record["engine_precision"])
    command = ["-m", "splitdeploy", "build", f"{place}/bundle", "--precision", precision, "-q"]
    words = [facts.executable, *command]
    board.connection.run(words, doing="building the engine", timeout_s=_BUILD_S)


def _tried(board: Board, facts: Facts, place: str, outcome: DeviceOutcome) -> None:
    answer = board.ask("self-test", place, doing="the self-test", timeout_s=_SELF_TEST_S)
    outcome.ran_in = str(answer.get("ran_in", ""))[:120]
    if answer.get("note") and facts.has("tensorrt"):
        outcome.notes.append(str(answer["note"])[:300])


def _look_for_cloud(board: Board, folder: str, cloud: str, outcome: DeviceOutcome) -> None:
    host, _, port = cloud.rpartition(":")
    request = {"host": host.strip("[]"), "port": int(port)}
    answer = board.ask("reaches", folder, request=request, doing="looking for the cloud")
    if answer.get("reached") is not True:
        outcome.notes.append(f"it does not reach {cloud} ({str(answer.get('why'))[:120]})")


def _check_service(facts: Facts, options: DeployOptions) -> None:
    if options.unit is not None and not facts.systemctl:
        raise RemoteError(
            "missing",
            "a service needs systemd, and there is no systemctl on the device: leave --unit out "
            "and start  splitdeploy run  there by other means",
        )


def _service(facts: Facts, options: DeployOptions) -> dict[str, Any] | None:
    if options.unit is None:
        return None
    user = facts.user if options.unit == "system" and not facts.root else ""
    arguments: Sequence[str] = options.arguments
    if options.cloud is not None:
        arguments = ["--cloud", options.cloud, *arguments]
    return {
        "scope": options.unit, "name": options.service, "arguments": list(arguments), "user": user,
    }  # fmt: skip


def _status(board: Board, folder: str) -> dict[str, Any]:
    return board.ask("status", folder, doing="looking at its versions")


def _word(answer: dict[str, Any], key: str) -> str | None:
    found = answer.get(key)
    return None if found is None else str(found)[:40]


@contextmanager
def _alone(board: Board, folder: str) -> Iterator[None]:
    """As long as this lasts nobody else deploys into the folder."""
    with board.connection.hold(board.agent("hold", folder), doing="taking its lock") as line:
        event = read_line(line) or {}
        if event.get("event") != "held":
            why = str(event.get("message", "its lock could not be taken"))[:300]
            raise RemoteError("failed", f"{board.address}: {why}")
        yield
