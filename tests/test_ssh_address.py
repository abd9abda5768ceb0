"""Addresses of devices, and what ssh complains of."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.partitioner.remote.address import Address, parse_address
from splitdeploy.partitioner.remote.ssh import Connection
from splitdeploy.partitioner.remote.ssh_errors import explain
from splitdeploy.profiles.errors import UsageError

ADDRESS = Address("board", "nvidia", 2222)
_LETTERS = "abcxyzABC0189_"

USERS = st.none() | st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
HOSTS = st.one_of(
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,20}[A-Za-z0-9])?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
PORTS = st.none() | st.integers(1, 65535)


@given(st.builds(Address, HOSTS, USERS, PORTS))
def test_an_address_reads_back(address: Address) -> None:
    assert parse_address(str(address)) == address


@given(st.text(max_size=40))
def test_nothing_that_is_read_can_be_an_option(text: str) -> None:
    try:
        found = parse_address(f"ssh://{text}")
    except UsageError as error:
        assert "\n" not in str(error)
        return
    words = [found.host, found.user or "x"]
    assert not any(word.startswith("-") for word in words)
    assert not any(letter.isspace() or letter in "'\"$`;|&<>\\" for w in words for letter in w)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("board", "does not begin with ssh://"),
        ("http://board", "does not begin with ssh://"),
        ("ssh://", "'' is no host's name"),
        ("ssh://me@", "'' is no host's name"),
        ("ssh://@board", "'' is no user's name"),
        ("ssh://-oProxyCommand=sh", "is no host's name"),
        ("ssh://-l@board", "'-l' is no user's name"),
        ("ssh://me@-oProxyCommand=sh", "is no host's name"),
        ("ssh://me:secret@board", "holds a password"),
        ("ssh://board:0", "'0' is no port"),
        ("ssh://board:65536", "'65536' is no port"),
        ("ssh://board:²²", "is no port"),
        ("ssh://board:", "'' is no port"),
        ("ssh://board/path", "'board/path' is no host's name"),
        ("ssh://a b", "'a b' is no host's name"),
        ("ssh://[::1", "stands in brackets"),
        ("ssh://[board]", "'board' is no IPv6 address"),
        ("ssh://[fe80::1%eth0;x]", "'eth0;x' is no network interface"),
    ],
)
def test_a_refusal_says_why(text: str, why: str) -> None:
    with pytest.raises(UsageError, match="expected a device as ssh://user@host") as caught:
        parse_address(text)
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1))
def test_words_come_out_of_the_remote_shell_as_they_went_in(words: list[str]) -> None:
    command = Connection(ADDRESS)._command(words)
    assert command[-3:-1] == ["--", "board"]
    assert shlex.split(command[-1]) == words
    assert command[command.index("-l") + 1] == "nvidia"
    assert command[command.index("-p") + 1] == "2222"


CHANGED = "@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed."


@pytest.mark.parametrize(
    ("code", "stderr", "kind", "says"),
    [
        (255, CHANGED, "host-key", r"has changed.*ssh-keygen -R '\[board\]:2222'"),
        (255, "No ED25519 host key is known.\nHost key verification failed.", "host-key",
         "is not known: connect once by hand"),
        (255, "nvidia@board: Permission denied (publickey).", "denied", "ssh-copy-id"),
        (255, "ssh: Could not resolve hostname board: x", "unreachable", "is it on"),
        (255, "ssh: connect to host board port 2222: Connection refused", "unreachable", "refused"),
        (255, "Timeout, server board not responding.", "cut", "broke while copying"),
        (255, "", "cut", "it said nothing"),
        (-9, "", "cut", "broke while copying"),
        (255, "Bad configuration option: x", "failed", "ssh to .* failed while copying: Bad"),
        (1, "cat: write error: No space left on device", "space", "no space left .* stays"),
        (127, "sh: 1: python3: not found", "missing", "--remote-python"),
        (2, "a\n\nTraceback: b", "failed", "exit code 2: Traceback: b"),
    ],
)  # fmt: skip
def test_a_complaint_becomes_a_line(code: int, stderr: str, kind: str, says: str) -> None:
    error = explain(ADDRESS, code, stderr, "copying")
    assert error.kind == kind
    assert "\n" not in str(error)
    with pytest.raises(type(error), match=says):
        raise error
