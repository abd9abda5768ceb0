"""``python -m splitdeploy.edge_runtime.agent``: what a workstation asks of a device over ssh.

A request comes as JSON on standard input, answers go as lines of JSON to standard output, the last
one ``done`` or ``error``. Whatever a library prints goes to standard error.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from splitdeploy.edge_runtime.agent_protocol import line_of
from splitdeploy.edge_runtime.received import Sent, accept, all_there, forget_others, inventory
from splitdeploy.profiles.errors import SplitdeployError, WireError

_LONGEST_REQUEST = 1 << 24


def _inventory(given: argparse.Namespace, _: _Answers) -> dict[str, Any]:
    have = inventory(given.folder, _files(_request()))
    return {"have": have, "free_bytes": shutil.disk_usage(given.folder).free}


def _accept(given: argparse.Namespace, _: _Answers) -> dict[str, Any]:
    wanted = _files(_request())
    damaged = accept(given.folder, wanted)
    return {"damaged": damaged}


def _tidy(given: argparse.Namespace, _: _Answers) -> dict[str, Any]:
    forget_others(given.folder, _files(_request()))
    return {}


def _measure(given: argparse.Namespace, answers: _Answers) -> dict[str, Any]:
    from splitdeploy.edge_runtime.measure_job import measure_heads

    return {"measured": measure_heads(given.folder, answers.tell, fresh=given.fresh)}


def _forget_job(given: argparse.Namespace, _: _Answers) -> dict[str, Any]:
    """Take a finished job away; nothing else."""
    from splitdeploy.edge_runtime.locked import locked
    from splitdeploy.edge_runtime.measure_job import read_job

    with locked(given.folder):
        read_job(given.folder)
        shutil.rmtree(given.folder)
    return {}


def _all_there(given: argparse.Namespace, _: _Answers) -> dict[str, Any]:
    return {"there": all_there(given.folder, _files(_request()))}


def _hold(given: argparse.Namespace, answers: _Answers) -> dict[str, Any]:
    """Keep others from deploying into the folder, until our input ends."""
    from splitdeploy.edge_runtime.locked import locked

    with locked(given.folder):
        answers.tell("held", {})
        sys.stdin.buffer.read()
    return {}


def _self_test(given: argparse.Namespace, _: _Answers) -> dict[str, Any]:
    from splitdeploy.edge_runtime.recorded_outputs import run_self_test

    return run_self_test(given.folder)


def _activate(given: argparse.Namespace, _: _Answers) -> dict[str, Any]:
    from splitdeploy.edge_runtime.installation import Installation, check_version
    from splitdeploy.edge_runtime.service import Service, lingers

    request = _document(_request())
    service = request.get("service")
    if service is not None:
        bundle = given.folder / "current" / "bundle"
        start = [sys.executable, "-m", "splitdeploy", "run", str(bundle)]
        words = [*start, *(str(word) for word in service["arguments"])]
        service = Service.read({**service, "words": words}, given.folder)
    version, record = check_version(str(request["version"])), _document(request["record"])
    health_s = float(request["health_s"])
    answer = Installation(given.folder).activate(version, record, service, health_s)
    user = getpass.getuser()
    if service is not None and service.scope == "user" and not lingers(user):
        answer["notes"] = [
            f"the service ends when {user} logs out there: type  sudo loginctl enable-linger {user}"
        ]
    return answer


def _rollback(given: argparse.Namespace, _: _Answers) -> dict[str, Any]:
    from splitdeploy.edge_runtime.installation import Installation

    return Installation(given.folder).rollback(float(_document(_request())["health_s"]))


def _status(given: argparse.Namespace, _: _Answers) -> dict[str, Any]:
    from splitdeploy.edge_runtime.installation import Installation

    return Installation(given.folder).status()


def _reaches(_: argparse.Namespace, __: _Answers) -> dict[str, Any]:
    """Whether this device can open a connection to a server."""
    import socket

    request = _document(_request())
    try:
        with socket.create_connection((str(request["host"]), int(request["port"])), 5.0):
            return {"reached": True, "why": ""}
    except OSError as error:
        return {"reached": False, "why": str(error)}


_VERBS: dict[str, Callable[[argparse.Namespace, _Answers], dict[str, Any]]] = {
    "inventory": _inventory,
    "accept": _accept,
    "tidy": _tidy,
    "measure": _measure,
    "forget-job": _forget_job,
    "all-there": _all_there,
    "hold": _hold,
    "self-test": _self_test,
    "activate": _activate,
    "rollback": _rollback,
    "status": _status,
    "reaches": _reaches,
}


class _Answers:
    """Lines to whoever asked, on what was standard output before libraries could print to it."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def tell(self, event: str, fields: Mapping[str, Any]) -> None:
        """Send an event; a reader that has gone raises ``BrokenPipeError``."""
        self._file.write(line_of(event, fields) + "\n")
        self._file.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked.

    Args:
        arguments: What follows the program's name; None takes it from the process.

    Returns:
        The exit code: 0 where an answer was given, be it an error.
    """
    given = _parser().parse_args(arguments)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as file:
        os.dup2(2, 1)
        answers = _Answers(file)
        try:
            answers.tell("done", _VERBS[given.verb](given, answers))
        except BrokenPipeError:
            return 1  # the link is cut: what is finished is kept
        except (SplitdeployError, OSError) as error:
            return _tell_error(answers, error)
        except (KeyError, TypeError, ValueError) as error:
            return _tell_error(answers, WireError(f"a request lacks something: {error!r}"))
    return 0


def _tell_error(answers: _Answers, error: Exception) -> int:
    kind, message = "failed", str(error)
    if isinstance(error, OSError):
        import errno

        kind = "space" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else "failed"
        message = f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}"
    try:
        answers.tell("error", {"kind": kind, "message": message})
    except BrokenPipeError:
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agent", description=__doc__)
    parser.add_argument("verb", choices=sorted(_VERBS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fresh", action="store_true", help="measure: forget earlier results")
    return parser


def _request() -> Any:
    text = sys.stdin.buffer.read(_LONGEST_REQUEST)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"expected a request as JSON ({type(error).__name__})") from error


def _document(request: Any) -> dict[str, Any]:
    if not isinstance(request, dict):
        raise WireError(f"expected an object, got {type(request).__name__}")
    return request


def _files(request: Any) -> list[Sent]:
    if not isinstance(request, list):
        raise WireError(f"expected a list of files, got {type(request).__name__}")
    return [Sent.read(entry) for entry in request]


if __name__ == "__main__":
    sys.exit(main())
