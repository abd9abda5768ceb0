"""A device behind ssh that has splitdeploy: what it has, and what its agent does when asked."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from splitdeploy import __version__
from splitdeploy.edge_runtime.agent_protocol import PROTOCOL, read_line
from splitdeploy.edge_runtime.received import Sent
from splitdeploy.partitioner.remote.address import Address
from splitdeploy.partitioner.remote.ssh import Connection
from splitdeploy.profiles.errors import RemoteError, UsageError

_AGENT = "splitdeploy.edge_runtime.agent"
_PYTHON = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_./+-]*")
_OLDEST = (3, 10)
_INSTALL = "{python} -m pip install 'splitdeploy[cpu]'"


@dataclass(frozen=True)
class Facts:
    """What a device has.

    Attributes:
        python: Its version.
        executable: Its Python, in full.
        machine: ``aarch64``.
        board: As the device tree has it; empty on a computer without one.
        home: The user's folder there.
        user: Who we are there.
        root: Whether that is root.
        systemctl: Whether it has systemd.
        packages: Versions by package; None where it is not there.
        skew_s: How far its clock is ahead of ours, in seconds; good to half of ``round_trip_s``.
        round_trip_s: How long it took to ask.
    """

    python: str
    executable: str
    machine: str
    board: str
    home: str
    user: str
    root: bool
    systemctl: bool
    packages: Mapping[str, str | None]
    skew_s: float
    round_trip_s: float

    def has(self, package: str) -> bool:
        """Whether a package is there and starts."""
        version = self.packages.get(package)
        return version is not None and not version.startswith("does not start")


class Board:
    """The agent of a device. ``check`` comes first.

    Args:
        connection: Open.
        python: The Python on the device that has splitdeploy.

    Raises:
        UsageError: That is no program's name.
    """

    def __init__(self, connection: Connection, python: str = "python3") -> None:
        if not _PYTHON.fullmatch(python):
            raise UsageError(
                f"expected the path of a Python on the device, such as /opt/venv/bin/python, got "
                f"{python!r}"
            )
        self.connection = connection
        self._python = python

    @property
    def address(self) -> Address:
        """Where it is."""
        return self.connection.address

    def check(self) -> Facts:
        """See what the device has, and refuse it where it lacks something.

        Returns:
            What it has.

        Raises:
            RemoteError: Its Python is too old, or splitdeploy or ONNX Runtime are not there.
        """
        program = resources.files("splitdeploy.edge_runtime").joinpath("probe.py").read_bytes()
        before_s, started = time.time(), time.monotonic()
        raw = self.connection.run([self._python, "-"], stdin=program, doing="looking at the device")
        took_s = time.monotonic() - started
        document = next(
            (found for line in raw.decode("utf-8", "replace").splitlines()
             if (found := read_line(line)) and found["event"] == "facts"), None,
        )  # fmt: skip
        if document is None:
            raise RemoteError(
                "failed", f"{self._python} on {self.address} ran but told nothing: is it a Python?"
            )
        try:
            # The device looks at its clock at its very end, right before it answers.
            skew_s = float(document["time_s"]) - (before_s + took_s)
            facts = Facts(
                python=str(document["python"]),
                executable=str(document["executable"]),
                machine=str(document["machine"]),
                board=str(document["board"]),
                home=str(document["home"]),
                user=str(document["user"]),
                root=bool(document["root"]),
                systemctl=bool(document["systemctl"]),
                packages={
                    str(name): None if version is None else str(version)
                    for name, version in document["packages"].items()
                },
                skew_s=skew_s,
                round_trip_s=took_s,
            )
            protocol = int(document["protocol"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RemoteError(
                "failed", f"{self.address} answers what cannot be read ({type(error).__name__})"
            ) from error
        self._refuse(facts, protocol)
        return facts

    def _refuse(self, facts: Facts, protocol: int) -> None:
        install = _INSTALL.format(python=self._python)
        digits = re.findall(r"\d+", facts.python)[:2]
        if tuple(int(digit) for digit in digits) < _OLDEST:
            raise RemoteError(
                "missing",
                f"expected Python 3.10 or newer on {self.address}, {self._python} is "
                f"{facts.python}: name a newer one with --remote-python (boards on JetPack 4 or 5 "
                "need a container)",
            )
        version = facts.packages.get("splitdeploy")
        if not facts.has("splitdeploy"):
            raise RemoteError(
                "missing",
                f"splitdeploy is not there for {self._python} on {self.address}"
                + (f" ({version})" if version else "")
                + f": type there  {install}  or name its Python with --remote-python",
            )
        if protocol != PROTOCOL:
            raise RemoteError(
                "missing",
                f"expected a splitdeploy on {self.address} that speaks as {__version__} does, got "
                f"{version}: type there  {install} --upgrade",
            )
        if not (facts.has("onnxruntime") or facts.has("tensorrt")):
            complaint = facts.packages.get("onnxruntime")
            raise RemoteError(
                "missing",
                f"nothing on {self.address} runs a head: neither onnxruntime nor tensorrt is there"
                + (f" (onnxruntime {complaint})" if complaint else "")
                + f": type there  {install}",
            )

    def ask(
        self, verb: str, *words: str, request: Any = None, doing: str, timeout_s: float = 300.0
    ) -> dict[str, Any]:
        """Have the agent do something, and wait for its answer.

        Args:
            verb: What.
            words: Its arguments.
            request: What it reads, as JSON.
            doing: What it is for, in words.
            timeout_s: How long it may take.

        Returns:
            Its last event.
        """
        command = self.agent(verb, *words)
        raw = self.connection.run(
            command, stdin=json.dumps(request).encode(), doing=doing, timeout_s=timeout_s
        )
        lines = raw.decode("utf-8", "replace").splitlines()
        events = [event for line in lines if (event := read_line(line))]
        return self._last(events[-1] if events else None, doing)

    def follow(
        self, verb: str, *words: str, request: Any = None, doing: str
    ) -> Iterator[dict[str, Any]]:
        """Have the agent do something long, and hear of it as it goes.

        Args:
            verb: What.
            words: Its arguments.
            request: What it reads, as JSON.
            doing: What it is for, in words.

        Yields:
            Its events, the last one too.
        """
        event = None
        stdin = json.dumps(request).encode()
        for line in self.connection.lines(self.agent(verb, *words), stdin=stdin, doing=doing):
            event = read_line(line)
            if event is None:
                continue
            if event["event"] not in {"done", "error"}:
                yield event
                continue
            yield self._last(event, doing)
            return
        self._last(None, doing)

    def agent(self, verb: str, *words: str) -> list[str]:
        """The command that starts the agent there."""
        return [self._python, "-m", _AGENT, verb, *words]

    def _last(self, event: dict[str, Any] | None, doing: str) -> dict[str, Any]:
        if event is None or event["event"] not in {"done", "error"}:
            raise RemoteError(
                "cut", f"{self.address} broke off while {doing}: run again; what is finished stays"
            )
        if event["event"] == "error":
            message = " ".join(str(event.get("message", "it did not say why")).split())[:500]
            raise RemoteError(
                str(event.get("kind", "failed")), f"{doing} on {self.address}: {message}"
            )
        return event

    def inventory(self, folder: str, wanted: Sequence[Sent]) -> tuple[list[int], int]:
        """How many bytes of each file are there, and how much room.

        Args:
            folder: Of the device.
            wanted: The files.

        Returns:
            Bytes, in the same order; and what is free.

        Raises:
            RemoteError: It answers something else.
        """
        answer = self.ask("inventory", folder, request=_listed(wanted), doing="looking for copies")
        have = answer.get("have")
        if not isinstance(have, list) or len(have) != len(wanted):
            raise RemoteError("failed", f"{self.address} answers {have!r}, expected sizes of files")
        sizes = [
            max(0, min(int(size), file.size_bytes)) for size, file in zip(have, wanted, strict=True)
        ]
        return sizes, int(answer.get("free_bytes", 0))

    def accept(self, folder: str, wanted: Sequence[Sent]) -> list[str]:
        """Have the files that came whole take their names; those that did not are named.

        Args:
            folder: Of the device.
            wanted: The files.

        Returns:
            The names of damaged files.
        """
        answer = self.ask("accept", folder, request=_listed(wanted), doing="checking the copies")
        return [file.name for file in wanted if file.name in answer.get("damaged", [])]


def _listed(files: Sequence[Sent]) -> list[dict[str, Any]]:
    return [{"name": f.name, "sha256": f.sha256, "bytes": f.size_bytes} for f in files]
