"""What ssh and the programs behind it complain of, as one line that says what to do."""

from __future__ import annotations

from splitdeploy.partitioner.remote.address import Address
from splitdeploy.profiles.errors import RemoteError

SSH_FAILED = 255
"""What ssh itself exits with; any other code comes from the program on the device."""

_NOT_FOUND = 127
_LONGEST = 300

_UNREACHABLE = (
    "Could not resolve hostname", "Connection refused", "No route to host",
    "Network is unreachable", "Operation timed out", "Connection timed out", "Host is down",
)  # fmt: skip
_CUT = (
    "Connection closed", "Connection reset", "Broken pipe", "not responding",
    "closed by remote host", "client_loop", "Control socket connect", "mux_client",
)  # fmt: skip
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")


def explain(address: Address, code: int, stderr: str, doing: str) -> RemoteError:
    """The error behind a failed ssh command.

    Args:
        address: Of the device.
        code: What ssh exited with; negative for a signal.
        stderr: What it said.
        doing: What was being done, in words: ``copying the heads``.

    Returns:
        The error, to be raised.
    """
    if code in {SSH_FAILED, -1} or code < 0:
        return _of_ssh(address, stderr, doing)
    if any(sign in stderr for sign in _FULL):
        return RemoteError(
            "space",
            f"{doing} on {address}: no space left ({_last(stderr)}): free some, or choose another "
            "place there, and run again: what is copied stays",
        )
    if code == _NOT_FOUND:
        return RemoteError(
            "missing",
            f"{doing} on {address}: a program is missing there ({_last(stderr)}): install it, or "
            "name the right Python with --remote-python",
        )
    return RemoteError(
        "failed", f"{doing} on {address} failed with exit code {code}: {_last(stderr)}"
    )


def _of_ssh(address: Address, stderr: str, doing: str) -> RemoteError:
    by_hand = f"ssh {_words(address)}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in stderr:
        return RemoteError(
            "host-key",
            f"the host key of {address} has changed: somebody may be in between, or the device was "
            f"set up anew; if you know that it was, type  ssh-keygen -R {_known_as(address)}  and "
            f"connect once by hand ({by_hand})",
        )
    if "Host key verification failed" in stderr:
        return RemoteError(
            "host-key",
            f"the host key of {address} is not known: connect once by hand ({by_hand}) and compare "
            "its fingerprint",
        )
    if "Permission denied" in stderr or "Too many authentication failures" in stderr:
        return RemoteError(
            "denied",
            f"{address} accepted none of your keys ({_last(stderr)}): type  ssh-copy-id "
            f"{_words(address)}  or name the key in ~/.ssh/config; passwords are not asked for",
        )
    if any(sign in stderr for sign in _UNREACHABLE):
        return RemoteError(
            "unreachable",
            f"cannot reach {address} ({_last(stderr)}): is it on, in this network, and does "
            f"{by_hand}  work?",
        )
    if any(sign in stderr for sign in _CUT) or not stderr.strip():
        return RemoteError(
            "cut",
            f"the connection to {address} broke while {doing} ({_last(stderr)}): run again (a "
            "profile with --resume): what is finished stays",
        )
    return RemoteError("failed", f"ssh to {address} failed while {doing}: {_last(stderr)}")


def _words(address: Address) -> str:
    """What to type behind ``ssh``."""
    user = f"{address.user}@" if address.user else ""
    return (f"-p {address.port} " if address.port else "") + user + address.host


def _known_as(address: Address) -> str:
    """The name of a host in ``known_hosts``."""
    return f"'[{address.host}]:{address.port}'" if address.port not in {None, 22} else address.host


def _last(stderr: str) -> str:
    """The last line that says something."""
    lines = [" ".join(line.split()) for line in stderr.splitlines() if line.strip()]
    return lines[-1][:_LONGEST] if lines else "it said nothing"
