"""Power modes by name, restored whatever happens; clocks and temperatures. A real program stands in
for nvpmodel; what it prints is written after documentation, not recorded on a board."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from board_trees import ORIN_NANO, plant, write
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.edge_runtime.clocks import locked, read_clocks
from splitdeploy.edge_runtime.device_state import read_state
from splitdeploy.edge_runtime.power_mode import (
    CurrentMode,
    Nvpmodel,
    find_mode,
    parse_modes,
    parse_query,
    power_mode,
)
from splitdeploy.edge_runtime.thermal import read_temperatures_c
from splitdeploy.profiles.errors import SensorError, UnknownNameError

PROGRAM = """
import pathlib, sys, time
state = pathlib.Path({state!r})
modes = {{0: "15W", 1: "7W", 2: "MAXN_SUPER", 3: "25W"}}
now = int(state.read_text())
if sys.argv[1:] == ["-q"]:
    print("NV Power Mode: " + modes[now])
    print(now)
elif sys.argv[1:] == ["-p", "--verbose"]:
    for number, name in modes.items():
        print(f"NVPM VERB: POWER_MODEL: ID={{number}} NAME={{name}}", file=sys.stderr)
elif sys.argv[1] == "-m":
    wanted = int(sys.argv[2])
    if modes[wanted] == "7W":
        print("NVPM WARN: Reboot required for changing to this power mode: 1")
        print("NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:")
        if sys.stdin.readline().strip().lower() == "yes":
            state.write_text("99")
    elif modes[wanted] == "25W":
        print("NVPM ERROR: Error opening file: Permission denied")
    else:
        time.sleep({slow})
        state.write_text(str(wanted))
"""


def board(folder: Path, *, slow: float = 0.0) -> tuple[Nvpmodel, Path]:
    """A board in mode 15W, and the file that holds its mode."""
    state = folder / "mode"
    state.write_text("0")
    program = folder / "nvpmodel.py"
    program.write_text(PROGRAM.format(state=str(state), slow=slow))
    return Nvpmodel([sys.executable, "-IS", str(program)], setter=()), state


def test_the_mode_is_set_by_name_and_restored(tmp_path: Path) -> None:
    nvpmodel, state = board(tmp_path)
    assert nvpmodel.available() == {"15W": 0, "7W": 1, "MAXN_SUPER": 2, "25W": 3}
    with power_mode("maxn_super", nvpmodel) as name:
        assert name == "MAXN_SUPER"
        assert state.read_text() == "2"
    assert state.read_text() == "0"


def test_the_mode_is_restored_after_an_error(tmp_path: Path) -> None:
    nvpmodel, state = board(tmp_path)
    with pytest.raises(ZeroDivisionError), power_mode("MAXN_SUPER", nvpmodel):
        raise ZeroDivisionError
    assert state.read_text() == "0"


def test_nothing_wanted_touches_nothing() -> None:
    with power_mode(None, Nvpmodel(["/nowhere/nvpmodel"])) as name:
        assert name is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_mode_is_restored_when_the_process_is_ended(
    number: signal.Signals, tmp_path: Path
) -> None:
    _, state = board(tmp_path, slow=0.3)
    program = (
        "import sys, time\n"
        "from splitdeploy.edge_runtime.power_mode import Nvpmodel, power_mode\n"
        f"with power_mode('MAXN_SUPER', Nvpmodel([sys.executable, "
        f"{str(tmp_path / 'nvpmodel.py')!r}], setter=())):\n"
        "    print('set', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"set\n"
    assert state.read_text() == "2"
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(timeout=30) != 0
    process.stdout.close()
    assert state.read_text() == "0"


def test_a_mode_that_needs_a_reboot_is_refused_and_the_board_stays(tmp_path: Path) -> None:
    nvpmodel, state = board(tmp_path)
    message = r"7W needs a reboot, which is not done here; the board stays in 15W: set it with"
    with pytest.raises(SensorError, match=message):
        nvpmodel.set("7W")
    assert state.read_text() == "0"


def test_a_board_that_does_not_take_the_mode_is_told_with_what_it_said(tmp_path: Path) -> None:
    nvpmodel, _ = board(tmp_path)
    message = r"expected the board in power mode 25W, it stays in 15W \(NVPM ERROR: .*run as root"
    with pytest.raises(SensorError, match=message):
        nvpmodel.set("25W")


def test_a_name_that_the_board_lacks_offers_those_it_has(tmp_path: Path) -> None:
    nvpmodel, _ = board(tmp_path)
    with pytest.raises(UnknownNameError, match="power mode of this board '2': .*25W"):
        nvpmodel.set("2")


def test_without_nvpmodel_the_error_says_so() -> None:
    with pytest.raises(SensorError, match="nvpmodel cannot be run .*on a Jetson alone"):
        Nvpmodel(["/nowhere/nvpmodel"]).current()


def test_one_that_hangs_is_given_up(tmp_path: Path) -> None:
    nvpmodel = Nvpmodel([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.3)
    with pytest.raises(SensorError, match="within 0.3 s, none came"):
        nvpmodel.current()


def test_one_that_says_something_else_is_told(tmp_path: Path) -> None:
    nvpmodel = Nvpmodel([sys.executable, "-c", "print('segmentation fault')"])
    with pytest.raises(SensorError, match="expected a power mode .* got 'segmentation fault'"):
        nvpmodel.current()
    with pytest.raises(SensorError, match="expected power modes .* got 'segmentation fault'"):
        nvpmodel.available()


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", CurrentMode("MAXN", 0)),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2\n", CurrentMode("MODE_15W_6CORE", 2)),
        ("NVPM VERB: Current mode: NV Power Mode: 15W\n2\nNVPM VERB: x", CurrentMode("15W", 2)),
        ("NV Power Mode: 30W", CurrentMode("30W", None)),
        ("nvpmodel: command not found", None),
    ],
)
def test_what_it_prints_of_the_mode_is_read(text: str, mode: CurrentMode | None) -> None:
    assert parse_query(text) == mode


def test_names_are_found_in_any_case_and_without_their_prefix() -> None:
    names = ["MAXN", "MODE_15W", "MODE_30W_ALL"]
    assert find_mode("15w", names) == "MODE_15W"
    assert find_mode("mode_30w_all", names) == "MODE_30W_ALL"
    with pytest.raises(UnknownNameError, match="'30W'"):
        find_mode("30W", names)


@given(st.text(max_size=300))
def test_any_text_at_all_is_read_without_an_error(text: str) -> None:
    parse_query(text)
    parse_modes(text)


@given(st.dictionaries(st.from_regex(r"[A-Z0-9_]{1,12}", fullmatch=True), st.integers(0, 99)))
def test_modes_come_back_as_they_were_listed(modes: dict[str, int]) -> None:
    lines = [f"NVPM VERB: POWER_MODEL: ID={number} NAME={name}" for name, number in modes.items()]
    assert parse_modes("\n".join(lines)) == modes


def plant_clocks(root: Path, *, lowest_khz: int) -> Path:
    policy = root / "sys/devices/system/cpu/cpufreq/policy0"
    for name, value in (("cur", 1_510_400), ("min", lowest_khz), ("max", 1_510_400)):
        write(policy / f"scaling_{name}_freq", value)
    gpu = root / "sys/class/devfreq/17000000.gpu"
    for name, value in (("cur", 625_000_000), ("min", 625_000_000), ("max", 625_000_000)):
        write(gpu / f"{name}_freq", value)
    emc = root / "sys/kernel/debug/bpmp/debug/clk/emc"
    write(emc / "rate", 2_133_000_000)
    return root


def test_clocks_are_read_in_megahertz_and_locked_ones_are_told(tmp_path: Path) -> None:
    clocks = read_clocks(plant_clocks(tmp_path / "a", lowest_khz=1_510_400))
    assert {clock.name: clock.now_mhz for clock in clocks} == pytest.approx({
        "cpu0": 1510.4,
        "gpu": 625.0,
        "emc": 2133.0,
    })
    assert locked(clocks) == "locked"
    assert locked(read_clocks(plant_clocks(tmp_path / "b", lowest_khz=115_200))) == "free"
    assert locked(()) == "unknown"


def test_temperatures_are_read_and_sensors_that_are_off_left_out(tmp_path: Path) -> None:
    zones = (("cpu-thermal", 48_500), ("gpu-thermal", -256_000), ("Tboard_tegra", 37_000))
    for number, (name, value) in enumerate(zones):
        write(tmp_path / f"sys/class/thermal/thermal_zone{number}/type", name)
        write(tmp_path / f"sys/class/thermal/thermal_zone{number}/temp", value)
    write(tmp_path / "sys/class/thermal/thermal_zone9/type", "cv0-thermal")
    assert read_temperatures_c(tmp_path) == {"cpu": 48.5, "Tboard_tegra": 37.0}


def test_the_state_of_a_board_is_one_record(tmp_path: Path) -> None:
    nvpmodel, _ = board(tmp_path)
    root = plant_clocks(plant(tmp_path / "root", ORIN_NANO), lowest_khz=115_200)
    write(root / "sys/class/thermal/thermal_zone0/type", "tj-thermal")
    write(root / "sys/class/thermal/thermal_zone0/temp", 51_000)
    state = read_state(root, nvpmodel)
    assert state.board is not None
    assert (state.board.profile, state.power_mode, state.locked, state.hottest_c) == (
        "jetson-orin-nano", "15W", "free", 51.0,
    )  # fmt: skip
    assert state.to_json()["clocks"][0]["name"] == "cpu0"
    assert read_state(tmp_path / "nothing").hottest_c is None


def test_only_root_sets_a_mode_without_sudo() -> None:
    assert Nvpmodel()._setter == (() if os.geteuid() == 0 else ("sudo", "-n"))


def test_profile_sets_the_mode_of_the_board_that_it_runs_on_and_restores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from command_line import MODEL, SMALL, splitdeploy

    from splitdeploy.edge_runtime import device_state
    from splitdeploy.edge_runtime.board import find_board
    from splitdeploy.partitioner import checks
    from splitdeploy.profiles.store import read_report

    _, state = board(tmp_path)
    script = tmp_path / "bin/nvpmodel"
    write(script, f'#!/bin/sh\nexec {sys.executable} -IS {tmp_path / "nvpmodel.py"} "$@"')
    script.chmod(0o755)
    write(tmp_path / "bin/sudo", '#!/bin/sh\nshift\nexec "$@"')
    (tmp_path / "bin/sudo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    root = plant(tmp_path / "root", ORIN_NANO)
    for module in (device_state, checks):
        monkeypatch.setattr(module, "find_board", lambda *_: find_board(root))
    done = splitdeploy(
        "profile", MODEL, *SMALL, "--device", "local", "--power-mode", "maxn_super",
        "--no-privacy", "--cuts", "pool", "--out", tmp_path / "run", "-q",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = read_report(tmp_path / "run")
    assert report.edge.power_mode == "MAXN_SUPER"
    assert report.environment["edge"]["board"]["profile"] == "jetson-orin-nano"
    assert state.read_text() == "0"
