"""Where a Triton is on this machine, and what it needs to start."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from splitdeploy.cloud_runtime.triton_config import BackendName
from splitdeploy.profiles.errors import ServeError

VARIABLE = "SPLITDEPLOY_TRITON"
IMAGE = "nvcr.io/nvidia/tritonserver:24.10-py3"
"""NVIDIA's container with the Triton (2.51) that the tests run against."""

_USUAL = Path("/opt/tritonserver")
_BESIDE = Path(__file__).resolve().parent.parent / ".venv-triton"
_IN_PACKAGE = "lib/python*/site-packages/pytriton/tritonserver"


@dataclass(frozen=True)
class TritonInstall:
    """A Triton that can be started.

    Attributes:
        server: The ``tritonserver`` program.
        backends: The folder of its backends.
        environment: Variables that it needs beside this process's own.
    """

    server: Path
    backends: Path
    environment: Mapping[str, str]

    @property
    def backend(self) -> BackendName:
        """The backend that runs tails here: Triton's own onnxruntime where it has it.

        Raises:
            ServeError: It has neither that nor the Python backend.
        """
        if (self.backends / "onnxruntime" / "libtriton_onnxruntime.so").is_file():
            return "onnxruntime"
        if (self.backends / "python" / "libtriton_python.so").is_file():
            return "python"
        there = sorted(entry.name for entry in self.backends.iterdir() if entry.is_dir())
        raise ServeError(
            f"expected a Triton with the onnxruntime or the python backend, {self.backends} has "
            f"{', '.join(there) or 'none'}: use {IMAGE}, or type  make triton"
        )


def find_triton() -> TritonInstall | None:
    """Look for a Triton on this machine.

    Looked at in this order: the environment variable ``SPLITDEPLOY_TRITON`` (Triton's folder, or an
    environment that holds NVIDIA's ``nvidia-pytriton``), the PATH, ``/opt/tritonserver``, and the
    ``.venv-triton`` that ``make triton`` leaves beside the project.

    Returns:
        It; None where there is none.

    Raises:
        ServeError: The variable names a place without a Triton, or ``.venv-triton`` is not whole.
    """  # noqa: DOC502
    given = os.environ.get(VARIABLE)
    if given:
        found = _in_folder(Path(given)) or _in_environment(Path(given))
        if found is None:
            raise ServeError(
                f"expected Triton's folder or an environment with nvidia-pytriton at "
                f"{VARIABLE}={given}, there is none: correct it, or unset it"
            )
        return found
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        found = _in_folder(Path(on_path).resolve().parent.parent)
        if found is not None:
            return found
    return _in_folder(_USUAL) or _in_environment(_BESIDE)


def _in_folder(root: Path) -> TritonInstall | None:
    server, backends = root / "bin" / "tritonserver", root / "backends"
    if not server.is_file() or not backends.is_dir():
        return None
    return TritonInstall(server, backends, {})


def _in_environment(environment: Path) -> TritonInstall | None:
    """NVIDIA's package in a Python environment: the Python backend has to find that Python."""
    environment = environment.absolute()
    roots = sorted(environment.glob(_IN_PACKAGE))
    python = environment / "bin" / "python"
    found = _in_folder(roots[0]) if roots and python.is_file() else None
    if found is None:
        return None
    if not (found.backends / "python" / "triton_python_backend_stub").is_file():
        raise ServeError(
            f"expected triton_python_backend_stub in {found.backends / 'python'}, it is not there: "
            "type  make triton"
        )
    asked = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    try:
        answer = subprocess.run(
            [str(python), "-c", asked], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ServeError(
            f"the Python of {environment} does not run ({type(error).__name__}): remove that "
            "folder and type  make triton"
        ) from error
    libraries = [answer.stdout.strip(), os.environ.get("LD_LIBRARY_PATH", "")]
    return TritonInstall(
        found.server,
        found.backends,
        {
            "VIRTUAL_ENV": str(environment),
            "PATH": os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", "")]),
            "LD_LIBRARY_PATH": os.pathsep.join(part for part in libraries if part),
        },
    )
