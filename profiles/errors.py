"""Every error that splitdeploy raises on purpose, and the exit code that the command line gives it.

    SplitdeployError            1
    ├── UsageError              2   a name, number or combination that cannot be meant
    │   └── UnknownNameError        a name that is not among those available
    ├── ModelError              1   the model cannot be loaded, traced or exported
    ├── WeightsError            1   a weights file is damaged or of another model
    ├── ImagesError             1   no images, or a file that is none
    ├── CutError                1   the cut cannot be made in this graph
    ├── VerificationError       1   a tail on its head's output differs from the whole model
    ├── SessionError            1   an exported graph cannot be opened or run
    ├── EngineError             1   a TensorRT engine cannot be built, or is not this machine's
    ├── AttackError             1   an attack cannot run on this target
    ├── LeakageError            1   a leakage figure cannot be computed for this head
    ├── DefenceError            1   a defence cannot be set up on this head, or not so strongly
    ├── MissingExtraError       1   a package of an optional extra is not installed
    ├── WireError               1   a message between edge and cloud does not hold what it should
    ├── ServeError              1   a server cannot be started
    ├── CloudError              1   the cloud did not answer a request
    ├── SensorError             1   a sensor or setting of the device cannot be read or set
    ├── RemoteError             1   a device behind ssh cannot be reached, or a step failed there
    ├── OutputError             1   the output place cannot be written
    ├── ReportError             1   a report or bundle does not follow its schema
    └── InfeasibleError         3   no cut satisfies the constraints

A message is one line: what was expected, what came, what is available, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SplitdeployError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line exits with."""

    exit_code = 1


class UsageError(SplitdeployError):
    """A name, number or combination of options that cannot be meant."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not among those available; the message offers the nearest ones.

    Args:
        kind: What was asked for, in words: ``"device"``.
        name: What came.
        available: The names that would do.
        hint: What else to do, appended as it is.
    """

    def __init__(self, kind: str, name: str, available: Iterable[str], hint: str = "") -> None:
        names = sorted(available)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        listed = ", ".join(near or names[:40])
        offer = f"did you mean {listed}?" if near else f"available: {listed}"
        super().__init__(f"unknown {kind} {name!r}: {offer}" + (f" {hint}" if hint else ""))


class ModelError(SplitdeployError):
    """The model cannot be loaded, traced or exported."""


class WeightsError(SplitdeployError):
    """A weights file is damaged, unreadable or belongs to another model."""


class ImagesError(SplitdeployError):
    """No images where some are needed, or a file that is not an image."""


class CutError(SplitdeployError):
    """The cut cannot be made in this graph."""


class VerificationError(SplitdeployError):
    """A tail on its head's output differs from the whole model."""


class SessionError(SplitdeployError):
    """An exported graph cannot be opened or run."""


class EngineError(SplitdeployError):
    """A TensorRT engine cannot be built, or was built for something else."""


class AttackError(SplitdeployError):
    """An attack cannot run on this target."""


class LeakageError(SplitdeployError):
    """A leakage figure cannot be computed for this head."""


class DefenceError(SplitdeployError):
    """A defence cannot be set up on this head, or not as strongly as asked."""


class MissingExtraError(SplitdeployError):
    """A package of an optional extra is not installed."""


class WireError(SplitdeployError):
    """A message between edge and cloud does not hold what it should."""


class ServeError(SplitdeployError):
    """A server cannot be started: its port, its certificates, or what it is to serve."""


class CloudError(SplitdeployError):
    """The cloud did not answer a request.

    Args:
        kind: ``unavailable`` (nobody there, or the link broke), ``deadline`` (too late),
            ``overloaded`` (it refused for lack of room), ``refused`` (it does not take this
            request, and would not take it again) or ``open`` (not asked: it failed too often just
            now).
        message: One line.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class RemoteError(SplitdeployError):
    """A device behind ssh cannot be reached, or a step failed there.

    Args:
        kind: ``unreachable``, ``denied`` (no key was accepted), ``host-key`` (unknown or changed),
            ``cut`` (the link broke), ``space`` (its disk is full), ``missing`` (a program or a
            package is not there) or ``failed`` (anything else).
        message: One line.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class SensorError(SplitdeployError):
    """A sensor of the device cannot be read, or its power mode cannot be read or set."""


class OutputError(SplitdeployError):
    """The output place cannot be written."""


class ReportError(SplitdeployError):
    """A report or bundle does not follow its schema."""


class InfeasibleError(SplitdeployError):
    """No cut satisfies the constraints."""

    exit_code = 3
