"""A systemd service that runs the current bundle: its unit, its start, whether it stays up."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitdeploy.profiles.errors import OutputError, UsageError, WireError
from splitdeploy.profiles.store import write_atomically

SCOPES = ("user", "system")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MARK = "# Written by splitdeploy for "
_POLL_S = 0.25


@dataclass(frozen=True)
class Service:
    """A service.

    Attributes:
        scope: ``user`` or ``system``.
        name: Without ``.service``.
        words: The command, its program in full.
        folder: The installation that it runs.
        user: Whom a system service runs as; empty for root.
    """

    scope: str
    name: str
    words: tuple[str, ...]
    folder: Path
    user: str = ""

    def __post_init__(self) -> None:
        if self.scope not in SCOPES or not _NAME.fullmatch(self.name):
            raise UsageError(
                f"expected a service of scope {' or '.join(SCOPES)} with a plain name, got "
                f"{self.scope!r} and {self.name!r}"
            )
        if not self.words or not self.words[0].startswith("/"):
            raise UsageError(f"expected a command with its program in full, got {self.words}")
        if self.user and not _NAME.fullmatch(self.user):
            raise UsageError(f"expected the name of a user, got {self.user!r}")

    @classmethod
    def read(cls, document: Any, folder: Path) -> Service | None:
        """From JSON.

        Args:
            document: As `to_json` gives it, or None.
            folder: The installation that it runs.

        Returns:
            The service, None for None.

        Raises:
            WireError: It is none.
        """
        if document is None:
            return None
        try:
            words = tuple(str(word) for word in document["words"])
            return cls(str(document["scope"]), str(document["name"]), words, folder,
                       str(document.get("user", "")))  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise WireError(f"expected a service, got {document!r}") from error

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        return {
            "scope": self.scope, "name": self.name, "words": list(self.words), "user": self.user,
        }  # fmt: skip

    @property
    def unit(self) -> str:
        """The name of its unit."""
        return f"{self.name}.service"

    def text(self) -> str:
        """Its unit file."""
        user = f"User={self.user}\n" if self.scope == "system" and self.user else ""
        wanted_by = "default.target" if self.scope == "user" else "multi-user.target"
        network = "Wants=network-online.target\nAfter=network-online.target\n"
        return (
            f"{_MARK}{_specifiers(str(self.folder))}\n"
            "[Unit]\n"
            "Description=splitdeploy: the edge half of a split network\n"
            f"{network if self.scope == 'system' else ''}"
            "\n[Service]\n"
            f"ExecStart={' '.join(quoted(word) for word in self.words)}\n"
            f"WorkingDirectory={_path(self.folder)}\n"
            f"{user}"
            "Restart=on-failure\nRestartSec=2\nNoNewPrivileges=yes\n"
            f"\n[Install]\nWantedBy={wanted_by}\n"
        )


def quoted(word: str) -> str:
    """A word of a command as systemd reads it back.

    Args:
        word: Any text on one line.

    Returns:
        In quotes; what systemd would replace is doubled.

    Raises:
        UsageError: It holds a control character.
    """
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in word):
        raise UsageError(f"expected an argument without control characters, got {word!r}")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_specifiers(escaped).replace("$", "$$")}"'


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _path(folder: Path) -> str:
    """A path as a setting: systemd takes no quotes there."""
    text = str(folder)
    if not text.isprintable():
        raise UsageError(f"expected a folder of printable letters, got {text!r}")
    return _specifiers(text)


class ServiceManager:
    """Speaks to systemd through ``systemctl``.

    Args:
        clock: Tells seconds.
        sleep: Waits.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep

    def start(self, service: Service, health_s: float) -> str:
        """Write the unit, start it anew, and see that it stays up.

        Args:
            service: Which.
            health_s: How long it must run without an end.

        Returns:
            Its state.

        Raises:
            OutputError: systemd refuses it, or it does not stay up.
        """
        self._write(service)
        self._systemctl(service, "daemon-reload")
        self._systemctl(service, "enable", service.unit)
        self._systemctl(service, "restart", service.unit)
        deadline = self._clock() + health_s
        first = self._properties(service)
        while True:
            now = self._properties(service)
            if now[0] != "active" or now[1] != first[1]:
                raise OutputError(
                    f"expected {service.unit} to run for {health_s:g} s, it is {now[0]}"
                    + ("" if now[1] == first[1] else " and was started again")
                    + f": look with  {self._journal(service)}"
                )
            if self._clock() >= deadline:
                return now[0]
            self._sleep(_POLL_S)

    def state(self, service: Service) -> str:
        """What systemd says of it: ``active``, ``failed``, ``inactive``.

        Args:
            service: Which.

        Returns:
            One word; ``unknown`` where systemd does not answer.
        """
        try:
            return self._properties(service)[0]
        except OutputError:
            return "unknown"

    def remove(self, service: Service) -> None:
        """Stop it and take its unit away; what is not there, or another's, is left so.

        Args:
            service: Which.
        """
        if not self._is_ours(service):
            return
        with contextlib.suppress(OutputError):
            self._systemctl(service, "disable", "--now", service.unit)
        self._unlink(service)
        with contextlib.suppress(OutputError):
            self._systemctl(service, "daemon-reload")

    def _properties(self, service: Service) -> tuple[str, str]:
        """Its state, and the process that it is."""
        told = self._systemctl(service, "show", "--property=ActiveState,MainPID", service.unit)
        values = dict(line.partition("=")[::2] for line in told.splitlines())
        return values.get("ActiveState", "unknown"), values.get("MainPID", "0")

    def _write(self, service: Service) -> None:
        place, text = unit_path(service), service.text()
        if place.exists() and not self._is_ours(service):
            raise OutputError(
                f"{place} is not the unit of {service.folder}: name another with --service"
            )
        if service.scope == "user" or os.geteuid() == 0:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, text)
            return
        aside = service.folder / f".{service.unit}"
        write_atomically(aside, text)
        self._run(["sudo", "-n", "install", "-m", "644", str(aside), str(place)])
        aside.unlink()

    def _is_ours(self, service: Service) -> bool:
        """Whether its unit is there and was written for its folder."""
        try:
            found = unit_path(service).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return found.partition("\n")[0] == service.text().partition("\n")[0]

    def _unlink(self, service: Service) -> None:
        place = unit_path(service)
        if service.scope == "user" or os.geteuid() == 0:
            place.unlink(missing_ok=True)
        elif place.exists():
            self._run(["sudo", "-n", "rm", "-f", str(place)])

    def _systemctl(self, service: Service, *words: str) -> str:
        if service.scope == "user":
            return self._run(["systemctl", "--user", *words])
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        return self._run([*root, "systemctl", *words])

    def _run(self, command: Sequence[str]) -> str:
        # Over ssh the user's manager is there, the variable that leads to it often is not.
        runtime = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=90, check=False,
                stdin=subprocess.DEVNULL, env={**runtime, **os.environ},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OutputError(f"cannot run {command[0]}: {error}") from error
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split())[:300]
            raise OutputError(f"{' '.join(command)} failed: {said or 'it said nothing'}")
        return done.stdout

    def _journal(self, service: Service) -> str:
        user = "--user " if service.scope == "user" else ""
        return f"journalctl {user}-u {service.unit}"


def lingers(user: str, root: Path = Path("/")) -> bool:
    """Whether a user's services run while the user is not logged in.

    Args:
        user: The name.
        root: Of the file system.

    Returns:
        Whether systemd was told so.
    """
    return (root / "var/lib/systemd/linger" / user).exists()


def unit_path(service: Service) -> Path:
    """Where its unit file lies.

    Args:
        service: Which.

    Returns:
        A path of systemd's.
    """
    if service.scope == "system":
        return Path("/etc/systemd/system", service.unit)
    config = os.environ.get("XDG_CONFIG_HOME")
    base = Path(config) if config else Path.home() / ".config"
    return base / "systemd" / "user" / service.unit
