"""The address of a device: ``ssh://user@host:port``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import NoReturn

from splitdeploy.profiles.errors import UsageError

SCHEME = "ssh://"

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,32}")


@dataclass(frozen=True)
class Address:
    """Where a device is.

    Attributes:
        host: A name that ssh knows (an alias of its configuration too), or an IP address.
        user: None where ssh's configuration tells.
        port: None where ssh's configuration tells.
    """

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}{user}{host}" + (f":{self.port}" if self.port else "")


def parse_address(text: str) -> Address:
    """Read an address; nothing in it can be taken for an option of ssh.

    Args:
        text: Such as ``ssh://nvidia@board``, ``ssh://board:2222`` or ``ssh://me@[fe80::1%eth0]``.

    Returns:
        The address.

    Raises:
        UsageError: It is none, or holds a password or a path.
    """
    if not text.startswith(SCHEME):
        _refuse(text, "it does not begin with ssh://")
    user, at, rest = text.removeprefix(SCHEME).rpartition("@")
    rest = rest.removesuffix("/")
    if ":" in user:
        _refuse(f"{SCHEME}…@{rest}", "it holds a password: ssh takes keys or an agent")
    if at and not _USER.fullmatch(user):
        _refuse(text, f"{user!r} is no user's name")
    host, port = _host_and_port(text, rest)
    return Address(host, user or None, port)


def _host_and_port(text: str, rest: str) -> tuple[str, int | None]:
    if rest.startswith("["):
        host, bracket, port = rest[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            _refuse(text, "an IPv6 address stands in brackets, [::1], the port behind them")
        return _ipv6(text, host), _port(text, port[1:]) if port else None
    host, colon, port = rest.partition(":")
    if not _HOST.fullmatch(host):
        _refuse(text, f"{host!r} is no host's name")
    return host, _port(text, port) if colon else None


def _ipv6(text: str, host: str) -> str:
    address, percent, zone = host.partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        _refuse(text, f"{host!r} is no IPv6 address")
    if percent and not _ZONE.fullmatch(zone):
        _refuse(text, f"{zone!r} is no network interface")
    return host


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        _refuse(text, f"{port!r} is no port from 1 to 65535")
    return int(port)


def _refuse(text: str, why: str) -> NoReturn:
    raise UsageError(
        f"expected a device as ssh://user@host or ssh://user@host:port, got {text!r}: {why}"
    ) from None
