"""Versions of a bundle on a device, side by side, one of them current.

    FOLDER/versions/<version>/   bundle/, what its self-test compares with, version.json
    FOLDER/current               a link to the version that runs
    FOLDER/previous              a link to the one before, for a rollback
    FOLDER/incoming/<version>/   one that is being copied; nothing runs from here

A version appears by a rename once it is whole; a link is made anew beside the old one and renamed
over it. Whatever is interrupted, ``current`` leads to a whole version.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.service import Service, ServiceManager
from splitdeploy.profiles.errors import OutputError, SplitdeployError, UsageError
from splitdeploy.profiles.store import write_atomically

CURRENT = "current"
PREVIOUS = "previous"
VERSIONS = "versions"
INCOMING = "incoming"
_RECORD = "version.json"
_VERSION = re.compile(r"[0-9a-f]{12}")


def check_version(version: str) -> str:
    """A version's name: twelve hexadecimal digits.

    Args:
        version: What came.

    Returns:
        The same.

    Raises:
        UsageError: It is none.
    """
    if not _VERSION.fullmatch(version):
        raise UsageError(f"expected a version as twelve hexadecimal digits, got {version!r}")
    return version


class Installation:
    """The versions in one folder.

    Args:
        folder: Which.
        manager: What starts and stops services.
    """

    def __init__(self, folder: Path, manager: ServiceManager | None = None) -> None:
        self.folder = folder
        self._manager = manager or ServiceManager()

    def linked(self, link: str) -> str | None:
        """The version that a link leads to.

        Args:
            link: ``current`` or ``previous``.

        Returns:
            The version; None where there is no link, or what it led to is gone.
        """
        try:
            version = (self.folder / link).readlink().name
        except OSError:
            return None
        whole = _VERSION.fullmatch(version) and (self._version(version) / _RECORD).is_file()
        return version if whole else None

    def record(self, version: str) -> dict[str, Any]:
        """What was written down of a version.

        Args:
            version: Which.

        Returns:
            The record; empty where it cannot be read.
        """
        try:
            found = json.loads((self._version(version) / _RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def activate(
        self, version: str, record: Mapping[str, Any], service: Service | None, health_s: float
    ) -> dict[str, Any]:
        """Let a version that came and was tried run; the one that ran stays where this fails.

        Args:
            version: Which.
            record: What is to be known of it.
            service: What runs it; None for the service that ran the version before, where there
                was one.
            health_s: How long the service must run to count as healthy.

        Returns:
            What is current and previous then, and the state of the service.

        Raises:
            OutputError: There is no such version, or its service does not stay up.
        """  # noqa: DOC502
        before = self.linked(CURRENT)
        if service is None and before is not None:
            service = self._service(before)
        arrived, place = self.folder / INCOMING / version, self._version(version)
        if arrived.is_dir():
            self._settle(arrived, place)
        if not place.is_dir():
            raise OutputError(f"expected version {version} in {self.folder}, it never came whole")
        replaced = self.record(version)
        written = {
            **record,
            "version": version,
            "installed_s": time.time(),
            "service": None if service is None else service.to_json(),
        }
        write_atomically(place / _RECORD, json.dumps(written))
        state = self._switch(version, health_s, replaced)
        self._prune()
        return self._told(state)

    def rollback(self, health_s: float) -> dict[str, Any]:
        """Let the version before run again; what ran becomes the previous one.

        Args:
            health_s: As for `activate`.

        Returns:
            As `activate`.

        Raises:
            OutputError: There is no version before.
        """
        before = self.linked(PREVIOUS)
        if before is None or before == self.linked(CURRENT):
            raise OutputError(f"{self.folder} holds no version before the current one: deploy one")
        return self._told(self._switch(before, health_s))

    def status(self) -> dict[str, Any]:
        """What lies there and what runs."""
        current, previous = self.linked(CURRENT), self.linked(PREVIOUS)
        service = None if current is None else self._service(current)
        return {
            **self._told(None if service is None else self._manager.state(service)),
            "current_record": {} if current is None else self.record(current),
            "previous_record": {} if previous is None else self.record(previous),
            "unfinished": sorted(p.name for p in (self.folder / INCOMING).glob("*") if p.is_dir()),
        }

    def _switch(
        self, version: str, health_s: float, replaced: Mapping[str, Any] | None = None
    ) -> str | None:
        """Point ``current`` to a version and start its service; undo both where that fails."""
        # A version that is current already may get another service: ``replaced`` is what was on
        # record of it.
        before, earlier = self.linked(CURRENT), self.linked(PREVIOUS)
        if before is not None and before != version:
            self._link(PREVIOUS, before)
        self._link(CURRENT, version)
        service = self._service(version)
        if service is None:
            return None
        try:
            return self._manager.start(service, health_s)
        except SplitdeployError as error:
            if replaced:
                write_atomically(self._version(version) / _RECORD, json.dumps(replaced))
            left = self._restore(before, earlier, service)
            raise OutputError(f"{error}; {left}") from error

    def _restore(self, before: str | None, earlier: str | None, service: Service) -> str:
        """Undo a switch whose service does not stay up; what runs then, in words."""
        for link, version in ((CURRENT, before), (PREVIOUS, earlier)):
            if version is None:
                (self.folder / link).unlink(missing_ok=True)
            else:
                self._link(link, version)
        old = None if before is None else self._service(before)
        if old is None or old.name != service.name or old.scope != service.scope:
            self._manager.remove(service)
        if before is None:
            return "nothing is current"
        try:
            if old is not None:
                self._manager.start(old, 0.0)
        except OutputError as error:
            return f"version {before} is current again, but does not start either: {error}"
        return f"version {before} is current again"

    def _settle(self, arrived: Path, place: Path) -> None:
        """Move a version to its place; one of the same name was damaged, or it had not come."""
        place.parent.mkdir(exist_ok=True)
        if place.is_dir():
            aside = place.with_name(f".{place.name}.old")
            shutil.rmtree(aside, ignore_errors=True)
            place.replace(aside)
            arrived.replace(place)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            arrived.replace(place)

    def _link(self, link: str, version: str) -> None:
        fresh = self.folder / f".{link}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path(VERSIONS, version))
        fresh.replace(self.folder / link)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _service(self, version: str) -> Service | None:
        return Service.read(self.record(version).get("service"), self.folder)

    def _prune(self) -> None:
        """Take away what is neither current nor previous, and copies that nobody will finish."""
        kept = {self.linked(CURRENT), self.linked(PREVIOUS)}
        for path in (self.folder / VERSIONS).iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.folder / INCOMING, ignore_errors=True)

    def _told(self, state: str | None) -> dict[str, Any]:
        return {
            "current": self.linked(CURRENT),
            "previous": self.linked(PREVIOUS),
            "service": state,
        }

    def _version(self, version: str) -> Path:
        return self.folder / VERSIONS / version
