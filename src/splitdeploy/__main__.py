"""The command line's front door: runs a command, and turns every failure into one line.

Exit codes: 0 done; 1 failed; 2 usage; 3 no cut satisfies the constraints; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from splitdeploy.profiles.errors import SplitdeployError

INTERRUPTED = 130
"""What a shell gives a program that ended by Ctrl-C: 128 and the number of the signal."""

_WORKSTATION = frozenset({
    "torch", "torchvision", "onnx", "onnxscript", "safetensors", "scipy", "skimage", "PIL",
    "joblib", "jinja2", "matplotlib", "jsonschema",
})  # fmt: skip
"""Modules that the extra ``workstation`` brings and an edge device lacks."""


def main(arguments: Sequence[str] | None = None, told: object = None) -> int:
    """Run a command.

    Args:
        arguments: What follows the program's name; None takes it from the process.
        told: What a program that calls this tells the command beside them, as click's object.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _group().main(given, prog_name="splitdeploy", standalone_mode=False, obj=told)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return _leave_pipe()
    except click.ClickException as error:
        return _usage(error)
    except Exception as error:
        if _verbose(given):
            traceback.print_exc()
        _say(f"error: {_explain(error)}")
        return error.exit_code if isinstance(error, SplitdeployError) else 1
    return code if isinstance(code, int) else 0


def _group() -> click.Command:
    """The commands, imported late so that whatever fails there is one line too."""
    from splitdeploy.cli.main import cli

    return cli


def _explain(error: Exception) -> str:
    if isinstance(error, SplitdeployError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module in _WORKSTATION:
            return (
                f"this command needs the workstation part, {module} is not installed: "
                "type  pip install 'splitdeploy[workstation]'"
            )
    if isinstance(error, OSError) and error.strerror:
        place = f" {error.filename}" if error.filename else ""
        return (
            f"cannot read or write{place}: {error.strerror}: "
            "free space there, change its permissions or name another place"
        )
    return f"unexpected {type(error).__name__}: {error} (run again with -v to see where)"


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    _say(f"error: {error.format_message()}{hint}")
    return error.exit_code


def _leave_pipe() -> int:
    """Whoever read us has left: say nothing, also when the interpreter flushes at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return 1  # standard output is no file, so nothing will be flushed into it
    return 1


def _verbose(arguments: Sequence[str]) -> bool:
    """Whether ``-v`` was asked for; click has not parsed the line where the failure is early."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(option == "--verbose" or option in {"-v", "-vv", "-vvv"} for option in options)


def _say(message: str) -> None:
    """One line on standard error, whatever is in the message."""
    print(" ".join(message.split()), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
