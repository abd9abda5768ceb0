"""What is shipped: the rooms, their data, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"partitioner", "edge_runtime", "cloud_runtime", "attacks", "profiles"}
METADATA = ("pyproject.toml", "README.md", "LICENSE")
SUFFIXES = {".py", ".typed", ".json", ".csv", ".html", ".css", ".js", ".j2", ".svg"}


def sources() -> dict[str, Path]:
    """Every file of the package, by its name in a wheel."""
    package = ROOT / "src" / "splitdeploy"
    folders = {"cli": package / "cli", **{room: ROOT / room for room in ROOMS}}
    found = {f"splitdeploy/{path.name}": path for path in package.iterdir() if path.is_file()}
    for name, folder in folders.items():
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found[f"splitdeploy/{name}/{path.relative_to(folder).as_posix()}"] = path
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built from a copy so that nothing is left here."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in [*sources().values(), *(ROOT / name for name in METADATA)]:
        kept = copy / path.relative_to(ROOT)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(path.read_bytes())
    for room in ROOMS:
        (copy / "src/splitdeploy" / room).symlink_to(f"../../{room}")
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == set(sources())


def test_the_wheel_holds_the_rooms(wheel: zipfile.ZipFile) -> None:
    inside = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[1] for name in inside if name.count("/") > 1} == {*ROOMS, "cli"}
    assert "splitdeploy/profiles/data/report.schema.json" in wheel.namelist()
    assert "splitdeploy/py.typed" in wheel.namelist()


def test_everything_shipped_is_of_a_known_kind(wheel: zipfile.ZipFile) -> None:
    shipped = {Path(name).suffix for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped <= SUFFIXES


def test_the_licence_and_the_command_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    (licence,) = (name for name in wheel.namelist() if name.endswith("LICENSE"))
    assert "Apache License" in wheel.read(licence).decode()
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "splitdeploy = splitdeploy.__main__:main" in wheel.read(entry).decode()


def test_the_base_install_asks_for_nothing_heavy(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    required = [
        line.removeprefix("Requires-Dist: ")
        for line in wheel.read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    names = {line.split(">")[0].split("[")[0].split("<")[0].strip() for line in required}
    assert names == {"numpy", "click", "rich", "tritonclient", "pillow"}


def test_the_sdist_builds_the_same(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    shipped = {name.removeprefix("src/") for name in files}
    assert set(sources()) <= shipped
    assert set(METADATA) <= files


def test_the_unpacked_wheel_imports(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import splitdeploy\n"
        "from splitdeploy.edge_runtime import session\n"
        "from splitdeploy.profiles import store\n"
        "assert session.__file__.startswith(sys.argv[1]), session.__file__\n"
        "print(splitdeploy.TensorSpec.__module__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "splitdeploy.profiles.cut"
