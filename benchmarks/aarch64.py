"""Whether the edge part runs on aarch64, and answers as on this machine, without a board.

An emulated processor (qemu's user mode) runs Debian's Python for arm64, the aarch64 wheels of the
edge part's dependencies, and this project's edge runtime on a bundle's head. It shows that the edge
installs and runs on the architecture; it says nothing of its speed.

    python benchmarks/aarch64.py --work build/aarch64

It needs Debian with apt, dpkg-deb and the package qemu-user-static (apt-get install
qemu-user-static), and about 400 MB in --work, where a second run finds what the first one made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from splitdeploy.attacks.images import load_photographs
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.api import split
from splitdeploy.partitioner.models import load_model

ROOT = Path(__file__).resolve().parent.parent
QEMU = "qemu-aarch64-static"
PYTHON = "python3.11"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_24_aarch64",
             "manylinux_2_17_aarch64", "manylinux2014_aarch64")  # fmt: skip
WHEELS = ("numpy", "onnxruntime==1.22.1", "pillow", "click", "rich", "tritonclient[grpc]")
"""What an edge device has; later onnxruntimes crash at import in qemu 7.2."""

TOLERANCE = 1e-4
"""Of the largest value: another processor's float32 sums are taken in another order."""

EDGE_SCRIPT = """
import json, platform, sys, time
from pathlib import Path
import numpy as np
started = time.perf_counter()
import splitdeploy.edge_runtime
imported_s = time.perf_counter() - started
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession, onnxruntime
from splitdeploy.edge_runtime.wire import write_request, read_request
bundle = read_bundle(Path(sys.argv[1]), "edge")
with OnnxRuntimeSession(bundle.head) as head:
    sent = head.run({head.inputs[0].name: np.load(sys.argv[2])})
back = read_request(write_request("m", sent), bundle.tail_inputs)
np.savez(sys.argv[3], **back)
print(json.dumps({"machine": platform.machine(), "python": platform.python_version(),
    "numpy": np.__version__, "onnxruntime": onnxruntime().__version__}))
"""


def main() -> int:
    """Exit code 0 where the answers are the same within the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/aarch64"))
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--cut", default="layer2.1")
    parser.add_argument("--images", type=int, default=2)
    arguments = parser.parse_args()
    for tool in (QEMU, "apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            print(f"expected {tool} on the PATH: apt-get install qemu-user-static, on Debian",
                  file=sys.stderr)  # fmt: skip
            return 1
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    root, site = debian(work), wheels(work)
    worst = 0.0
    for precision in ("fp32", "fp16", "int8"):
        worst = max(worst, compared(arguments, precision, work, root, site))
    print(
        f"largest difference of an answer over the largest: {worst:.1e} (tolerance {TOLERANCE:.0e})"
    )
    return 0 if worst <= TOLERANCE else 1


def debian(work: Path) -> Path:
    """Debian's Python for arm64, unpacked and not installed."""
    root = work / "root"
    if (root / "usr/bin" / PYTHON).exists():
        return root
    state = work / "apt"
    for folder in (state / "lists/partial", state / "cache/archives/partial", root):
        folder.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    config = work / "apt.conf"
    config.write_text(
        f'APT::Architecture "arm64";\nAPT::Architectures {{ "arm64"; }};\n'
        f'Dir::State "{state}";\nDir::State::status "{state}/status";\n'
        f'Dir::Cache "{state}/cache";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(config)}
    install = ["install", "--download-only", "--no-install-recommends", "-y"]
    for command in (["update"], [*install, PYTHON, "libstdc++6", "libgomp1"]):
        subprocess.run(["apt-get", "-qq", *command], env=environment, check=True)
    for package in sorted((state / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
    return root


def wheels(work: Path) -> Path:
    """The aarch64 wheels of what an edge device has, unpacked, and this project beside them."""
    site = work / "site"
    if not (site / "onnxruntime").is_dir():
        platforms = [part for name in PLATFORMS for part in ("--platform", name)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--target", str(site), "--python-version", "3.11", "--only-binary=:all:",
             *platforms, *WHEELS],
            check=True,
        )  # fmt: skip
    package = site / "splitdeploy"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "src/splitdeploy", package, symlinks=False)
    return site


def compared(
    arguments: argparse.Namespace, precision: str, work: Path, root: Path, site: Path
) -> float:
    """The largest difference of the answers to what the head sends on both, over the largest."""
    folder = work / f"bundle-{precision}"
    model = load_model(arguments.model, weights="none")
    split(model, arguments.cut, folder, precision=precision)
    bundle = read_bundle(folder)
    _, channels, height, width = model.input.shape
    found = load_photographs("photos", shape=(channels, height, width), count=arguments.images)
    inputs = model.input.normalise(found.pixels)
    np.save(work / "inputs.npy", inputs)
    with OnnxRuntimeSession(bundle.head) as head:
        here = head.run({head.inputs[0].name: inputs})
    told = subprocess.run(
        [QEMU, "-L", str(root), str(root / "usr/bin" / PYTHON), "-c", EDGE_SCRIPT,
         str(folder), str(work / "inputs.npy"), str(work / "sent.npz")],
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    there = dict(np.load(work / "sent.npz"))
    with OnnxRuntimeSession(bundle.tail) as tail:
        answers = [next(iter(tail.run(sent).values())) for sent in (here, there)]
    answered = relative(*answers)
    for name, value in here.items():
        print(f"{precision}: {told_of(value, there[name])}; the tail's answer differs by "
              f"{answered:.1e}  {json.loads(told.stdout)}")  # fmt: skip
    return answered


def told_of(one: np.ndarray, other: np.ndarray) -> str:
    """How far two payloads are apart: a value between two steps may fall to either."""
    if one.dtype == np.float32:
        return f"sent tensor differs by {relative(one, other):.1e}"
    width = np.spacing(np.abs(one)) if one.dtype == np.float16 else np.ones(one.shape)
    steps = np.abs(one.astype(np.float64) - other.astype(np.float64)) / width.astype(np.float64)
    share = float((steps > 0).mean())
    return f"{share:.1e} of the sent values differ, by {steps.max():.0f} step(s) at most"


def relative(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference over the largest value."""
    left, right = one.astype(np.float64), other.astype(np.float64)
    return float(np.abs(left - right).max() / np.abs(left).max())


if __name__ == "__main__":
    sys.exit(main())
