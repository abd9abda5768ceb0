"""Every failure of a command is one line and an exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from splitdeploy import __main__ as front
from splitdeploy.profiles.errors import InfeasibleError, SplitdeployError, UsageError, WeightsError


def fail_with(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a body as the command ``work`` of a group that stands in for the real one."""

    def run_it(body: Callable[[], object], *arguments: str) -> tuple[int, str, str]:
        @click.group()
        def cli() -> None:
            """Stand in."""

        @cli.command("work")
        @click.option("-v", "--verbose", count=True)
        @click.option("--number", type=int)
        @click.argument("names", nargs=-1)
        def work(verbose: int, number: int, names: tuple[str, ...]) -> object:
            return body()

        monkeypatch.setattr(front, "_group", lambda: cli)
        code = front.main(["work", *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run_it


def test_success_is_zero_and_says_nothing(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run(lambda: None) == (0, "", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SplitdeployError("expected a, got b"), 1),
        (WeightsError("expected a,\n got b"), 1),
        (UsageError("expected a, got b"), 2),
        (InfeasibleError("expected a, got b"), 3),
    ],
)
def test_an_error_of_ours_is_one_line(
    run: Callable[..., tuple[int, str, str]], error: Exception, code: int
) -> None:
    assert run(fail_with(error)) == (code, "", "error: expected a, got b\n")


@pytest.mark.parametrize("flag", ["-v", "-vv", "--verbose"])
def test_verbose_shows_where(run: Callable[..., tuple[int, str, str]], flag: str) -> None:
    code, _, err = run(fail_with(SplitdeployError("no such thing")), flag)
    assert code == 1
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("\nerror: no such thing\n")


def test_a_name_that_looks_like_a_flag_is_no_flag(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    assert run(fail_with(SplitdeployError("no")), "--", "-v")[2] == "error: no\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "No space left on device"), (errno.EACCES, "Permission denied")],
)
def test_a_place_that_cannot_be_written_is_one_line(
    run: Callable[..., tuple[int, str, str]], number: int, words: str
) -> None:
    code, _, err = run(fail_with(OSError(number, os.strerror(number), "runs/x")))
    assert code == 1
    assert err == (
        f"error: cannot read or write runs/x: {words}: "
        "free space there, change its permissions or name another place\n"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_is_130(
    run: Callable[..., tuple[int, str, str]], error: BaseException
) -> None:
    code, _, err = run(fail_with(error))
    assert (code, err.strip()) == (130, "interrupted")


def test_a_missing_part_is_told_with_the_line_to_type(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    missing = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    code, _, err = run(fail_with(missing))
    assert code == 1
    assert err == (
        "error: this command needs the workstation part, torch is not installed: "
        "type pip install 'splitdeploy[workstation]'\n"
    )


def test_a_mistake_of_ours_says_how_to_see_more(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    code, _, err = run(fail_with(ZeroDivisionError("division by zero")))
    assert code == 1
    assert err == (
        "error: unexpected ZeroDivisionError: division by zero (run again with -v to see where)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--number", "many"], "'many' is not a valid integer"),
        (["--nmber", "1"], "No such option"),
    ],
)
def test_wrong_usage_is_one_line_and_two(
    run: Callable[..., tuple[int, str, str]], arguments: list[str], words: str
) -> None:
    code, _, err = run(lambda: None, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert words in err
    assert err.endswith("(see splitdeploy work --help)\n")
    assert err.count("\n") == 1


def test_an_exit_code_of_a_command_is_kept(run: Callable[..., tuple[int, str, str]]) -> None:
    def leave() -> None:
        click.get_current_context().exit(3)

    assert run(leave)[0] == 3


def test_a_reader_that_leaves_is_no_noise() -> None:
    program = (
        "import click\n"
        "from splitdeploy import __main__ as front\n"
        "@click.command()\n"
        "def cli():\n"
        "    for _ in range(20000):\n"
        "        print('a line that fills the pipe')\n"
        "front._group = lambda: cli\n"
        "raise SystemExit(front.main([]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        noise = process.stderr.read()
        process.wait(timeout=30)
    assert noise == b""
