"""Power of boards: watts right, none twice, missing rails told. Trees written after documents."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from board_trees import AGX_ORIN, BOARDS, NANO, ORIN_NANO, TX2, BoardTree, plant, write
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.edge_runtime.board import find_board, jetpack_of
from splitdeploy.edge_runtime.power import ina238, ina3221
from splitdeploy.edge_runtime.power.find import find_power_reader
from splitdeploy.edge_runtime.power.jtop_reader import open_jtop, parse_power
from splitdeploy.edge_runtime.power.nvml import open_nvml
from splitdeploy.edge_runtime.power.rail_map import RAIL_MAPS, Total, total_for
from splitdeploy.edge_runtime.power.rapl import RaplReader, find_domains, open_rapl
from splitdeploy.edge_runtime.power.reader import NotMeasured, PowerReader
from splitdeploy.edge_runtime.power.tegrastats import open_tegrastats, parse_line
from splitdeploy.profiles.device import DEVICES
from splitdeploy.profiles.errors import SensorError

every_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.profile)


def no_module(name: str) -> Any:
    raise ImportError(name)


def found(root: Path) -> PowerReader:
    reader = find_power_reader(root, tegrastats=["/nowhere/tegrastats"], load=no_module)
    assert isinstance(reader, PowerReader), reader
    return reader


def refused(root: Path) -> str:
    reader = find_power_reader(root, tegrastats=["/nowhere/tegrastats"], load=no_module)
    assert isinstance(reader, NotMeasured)
    return reader.reason


@every_board
def test_a_board_is_known_by_its_device_tree(board: BoardTree, tmp_path: Path) -> None:
    known = find_board(plant(tmp_path, board))
    assert known is not None
    assert known.profile == board.profile
    assert known.profile in DEVICES


@every_board
def test_the_total_is_what_the_rails_add_up_to_by_hand(board: BoardTree, tmp_path: Path) -> None:
    reader = found(plant(tmp_path, board))
    sample = reader.sample()
    assert reader.total_rails == board.total_rails
    assert sample.total_w == pytest.approx(board.total_w, abs=1e-9)
    assert sample.missing == ()
    expected = {
        name: millivolts * milliamperes * 1e-6
        for rails in board.chips.values()
        for name, millivolts, milliamperes in rails
        if name != "NC"
    }
    assert {rail.name: rail.power_w for rail in reader.rails()} == pytest.approx(expected)


@every_board
def test_no_rail_is_read_twice_though_sysfs_shows_it_under_many_names(
    board: BoardTree, tmp_path: Path
) -> None:
    names = [channel.name for channel in ina3221.find_channels(plant(tmp_path, board))]
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(
        rail[0] for rails in board.chips.values() for rail in rails if rail[0] != "NC"
    )


@every_board
def test_a_missing_rail_of_the_total_is_told_by_name(board: BoardTree, tmp_path: Path) -> None:
    lost = board.total_rails[-1]
    chips = {
        address: [rail if rail[0] != lost else ("NC", 0, 0) for rail in rails]
        for address, rails in board.chips.items()
    }
    root = plant(tmp_path, BoardTree(**{**vars(board), "chips": chips}))
    assert f"needs {lost}, which is missing" in refused(root)


@every_board
def test_tegrastats_says_the_same_rails(board: BoardTree) -> None:
    line = parse_line(board.line)
    total = total_for(board.profile, line.power_w)
    assert isinstance(total, Total)
    assert total.rails == board.total_rails
    assert sum(line.power_w[name] for name in total.rails) == pytest.approx(board.line_total_w)
    assert not {"RAM", "SWAP", "IRAM", "NC"} & line.power_w.keys()
    assert all(0 < value < 120 for value in line.temperature_c.values())


def test_tegrastats_tells_clocks_in_each_of_its_forms() -> None:
    assert parse_line(NANO.line).clock_mhz == {"EMC": 1600, "GR3D": 921}
    assert parse_line(AGX_ORIN.line).clock_mhz == {"EMC": 2133, "GR3D": 407}
    assert parse_line(ORIN_NANO.line).clock_mhz == {}
    assert "CV0" not in parse_line(AGX_ORIN.line).temperature_c


@given(st.text(max_size=200))
def test_any_line_at_all_is_read_without_an_error(text: str) -> None:
    for name, power_w in parse_line(text).power_w.items():
        assert name
        assert abs(power_w) <= 1e4


@given(
    st.dictionaries(st.sampled_from(["VDD_IN", "VDD_SOC", "GPU"]), st.integers(0, 99999)),
    st.booleans(),
)
def test_rails_come_back_as_they_were_written(rails: dict[str, int], unit: bool) -> None:
    mw = "mW" if unit else ""
    line = "RAM 1/2MB " + " ".join(f"{n} {v}{mw}/{v}{mw}" for n, v in rails.items())
    assert parse_line(line).power_w == pytest.approx({n: v * 1e-3 for n, v in rails.items()})


def test_a_rail_that_stops_answering_makes_the_total_unknown(tmp_path: Path) -> None:
    reader = found(plant(tmp_path, AGX_ORIN))
    hwmon = next(tmp_path.glob("sys/devices/**/hwmon2"))
    write(hwmon / "in2_input", "nonsense")
    sample = reader.sample()
    assert sample.total_w is None
    assert sample.missing == ("VDD_CPU_CV",)
    for number in range(1, 4):
        write(hwmon / f"in{number}_input", "")
    write(next(tmp_path.glob("sys/devices/**/hwmon3")) / "in2_input", "")
    with pytest.raises(SensorError, match="expected readings of VDD_GPU_SOC.*none of the files"):
        reader.sample()


def test_a_channel_that_is_switched_off_is_no_rail(tmp_path: Path) -> None:
    plant(tmp_path, ORIN_NANO)
    write(next(tmp_path.glob("sys/devices/**/hwmon2")) / "in3_enable", 0)
    assert "VDD_SOC" not in [rail.name for rail in found(tmp_path).rails()]
    assert RAIL_MAPS["jetson-orin-nano"].absent(["VDD_IN", "VDD_CPU_GPU_CV"]) == ("VDD_SOC",)


def test_the_interval_of_the_monitor_is_told(tmp_path: Path) -> None:
    assert found(plant(tmp_path / "a", ORIN_NANO)).interval_s == pytest.approx(0.01)
    assert found(plant(tmp_path / "b", NANO)).interval_s is None


def test_thor_takes_its_input_and_else_its_three_rails(tmp_path: Path) -> None:
    rails = [("VDD_GPU", 20000, 100), ("VDD_CPU_SOC_MSS", 20000, 300), ("VIN_SYS_5V0", 5000, 1200)]
    thor = BoardTree(
        "jetson-agx-thor", "NVIDIA Jetson AGX Thor Developer Kit", "hwmon", {"2-0040": rails},
        0.0, (), "", 0.0,
    )  # fmt: skip
    plant(tmp_path, thor)
    reader = found(tmp_path)
    assert (reader.sample().total_w, reader.covers) == (pytest.approx(2 + 6 + 6), "module")
    hwmon = tmp_path / "sys/class/hwmon/hwmon9"
    for name, value in (
        ("name", "ina238"), ("in0_input", 3), ("in1_input", 20000), ("curr1_input", 1150),
        ("power1_input", 23_000_000),
    ):  # fmt: skip
        write(hwmon / name, value)
    assert [c.name for c in ina238.find_channels(tmp_path)] == ["VIN"]
    reader = found(tmp_path)
    assert reader.total_rails == ("VIN",)
    assert reader.covers == "board with its carrier"
    assert reader.sample().total_w == pytest.approx(23.0)
    assert reader.name == "INA3221 and INA238"


def test_of_an_unknown_board_one_input_rail_is_taken_and_no_sum_is_guessed() -> None:
    total = total_for(None, ["VDD_IN", "VDD_SOC"])
    assert isinstance(total, Total)
    assert total.rails == ("VDD_IN",)
    guess = total_for(None, ["GPU", "CPU"])
    assert isinstance(guess, NotMeasured)
    assert "which of them add up is not known" in guess.reason


def test_every_rail_map_has_its_provenance_and_counts_no_rail_twice() -> None:
    assert set(RAIL_MAPS) >= {name for name in DEVICES if name.startswith("jetson")}
    for board in RAIL_MAPS.values():
        assert "Written after documentation" in board.provenance
        for _, rails in board.ways:
            names = [name for slot in rails for name in slot]
            assert len(names) == len(set(names))


def test_a_machine_without_a_sensor_says_what_was_tried(tmp_path: Path) -> None:
    reason = refused(tmp_path)
    for word in ("INA3221", "/nowhere/tegrastats cannot be run", "pynvml", "RAPL"):
        assert word in reason
    assert str(NotMeasured(reason)).startswith("not measured: ")
    board = refused(plant(tmp_path, BoardTree(**{**vars(NANO), "chips": {}})))
    assert "jetson-stats" in board
    assert "NVML" not in board


def fake_tegrastats(folder: Path, line: str, *, lines: int = 10_000) -> list[str]:
    """A real program that prints a line every interval, as tegrastats does."""
    script = folder / "tegrastats.py"
    script.write_text(
        "import sys, time\n"
        f"for _ in range({lines}):\n"
        f"    print({line!r}, flush=True)\n"
        "    time.sleep(int(sys.argv[sys.argv.index('--interval') + 1]) / 1e3)\n"
    )
    return [sys.executable, str(script)]


def test_tegrastats_runs_beside_the_work_and_ends_with_the_reader(tmp_path: Path) -> None:
    reader = open_tegrastats(fake_tegrastats(tmp_path, TX2.line), "jetson-tx2", interval_s=0.02)
    assert isinstance(reader, PowerReader), reader
    with reader:
        first = reader.sample()
        assert first.total_w == pytest.approx(2.93)
        deadline = time.perf_counter() + 10
        while reader.sample().at_s == first.at_s and time.perf_counter() < deadline:
            time.sleep(0.01)
        assert reader.sample().at_s > first.at_s
    assert reader._process.poll() is not None


def test_tegrastats_that_dies_is_an_error_and_no_old_value(tmp_path: Path) -> None:
    command = fake_tegrastats(tmp_path, TX2.line, lines=1)
    reader = open_tegrastats(command, "jetson-tx2", interval_s=0.01)
    assert isinstance(reader, PowerReader), reader
    now = time.perf_counter()
    reader._clock = lambda: now + 60
    with reader, pytest.raises(SensorError, match="expected a line every 0.01 s, the last came"):
        reader.sample()


@pytest.mark.parametrize(
    ("line", "why"),
    [("needs root", "expected rails with their milliwatts, got 'needs root'"),
     ("VDD_SOC 1mW/1mW", "needs VDD_IN, which is missing")],
)  # fmt: skip
def test_tegrastats_without_the_rails_is_not_measured(line: str, why: str, tmp_path: Path) -> None:
    reader = open_tegrastats(fake_tegrastats(tmp_path, line), "jetson-orin-nano")
    assert isinstance(reader, NotMeasured)
    assert why in reader.reason


class FakeNvml:
    """The few calls of pynvml that are made, with the errors that they may raise."""

    class NVMLError(Exception):
        pass

    def __init__(self, milliwatts: int | None) -> None:
        self.milliwatts = milliwatts
        self.shut = False

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"Orin (nvgpu)"

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        if self.milliwatts is None:
            raise self.NVMLError("Not Supported")
        return self.milliwatts

    def nvmlShutdown(self) -> None:
        self.shut = True


def test_nvml_tells_a_cards_power_and_what_it_leaves_out() -> None:
    nvml = FakeNvml(71_500)
    reader = open_nvml(lambda name: nvml)
    assert isinstance(reader, PowerReader)
    assert reader.sample().total_w == pytest.approx(71.5)
    assert "GPU board alone" in reader.describe()
    nvml.milliwatts = None
    with pytest.raises(SensorError, match="NVML: the card's power cannot be read: Not Supported"):
        reader.sample()
    reader.close()
    assert nvml.shut


def test_nvml_of_a_jetson_is_not_measured_and_never_zero() -> None:
    nvml = FakeNvml(None)
    reader = open_nvml(lambda name: nvml)
    assert isinstance(reader, NotMeasured)
    assert "tells no power (Not Supported)" in reader.reason
    assert nvml.shut


def plant_rapl(root: Path, domains: dict[str, tuple[str, int]]) -> Path:
    for folder, (name, microjoules) in domains.items():
        at = root / "sys/class/powercap" / folder
        write(at / "name", name)
        write(at / "energy_uj", microjoules)
        write(at / "max_energy_range_uj", 1_000_000)
    return root


def test_rapl_adds_memory_and_no_part_of_a_package(tmp_path: Path) -> None:
    plant_rapl(tmp_path, {
        "intel-rapl:0": ("package-0", 0), "intel-rapl:0:0": ("core", 0),
        "intel-rapl:0:1": ("dram", 0), "intel-rapl:1": ("package-1", 0),
    })  # fmt: skip
    names = ["package-0", "package-0/dram", "package-1"]
    assert [domain.name for domain in find_domains(tmp_path)] == names
    plant_rapl(tmp_path, {"intel-rapl:2": ("psys", 0)})
    assert [domain.name for domain in find_domains(tmp_path)] == ["psys"]


def test_rapl_is_power_between_two_counts_also_where_they_wrap(tmp_path: Path) -> None:
    plant_rapl(tmp_path, {"intel-rapl:0": ("package-0", 900_000)})
    now = [10.0]
    reader = RaplReader(find_domains(tmp_path), clock=lambda: now[0])
    now[0] = 10.5
    write(tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", 100_000)
    sample = reader.sample()
    assert sample.total_w == pytest.approx(0.2 / 0.5)
    assert sample.at_s == 10.25


def test_rapl_for_root_alone_says_so(tmp_path: Path) -> None:
    plant_rapl(tmp_path, {"intel-rapl:0": ("package-0", 0)})
    write(tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", "")
    reader = open_rapl(tmp_path)
    assert isinstance(reader, NotMeasured)
    assert "for root alone" in reader.reason


class FakeJtop:
    """What is asked of jtop."""

    def __init__(self, power: Any, *, interval: float) -> None:
        self.power = power
        self.closed = False

    def start(self) -> None: ...

    def ok(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def test_jtop_is_read_rail_by_rail_and_its_own_total_is_not_used() -> None:
    rail = {"volt": 5000, "curr": 1000, "power": 5000, "avg": 4800}
    power = {"rail": {"VDD_IN": rail, "VDD_SOC": {**rail, "power": 1200}}, "tot": {"power": 6200}}
    module = SimpleNamespace(jtop=lambda interval: FakeJtop(power, interval=interval))
    reader = open_jtop(lambda name: module, "jetson-orin-nano")
    assert isinstance(reader, PowerReader)
    assert reader.sample().total_w == pytest.approx(5.0)


def test_jtop_of_another_form_is_told() -> None:
    with pytest.raises(SensorError, match="jtop: expected rails with their power, got another"):
        parse_power({"VDD_IN": 5000})
    module = SimpleNamespace(jtop=lambda interval: FakeJtop({}, interval=interval))
    reader = open_jtop(lambda name: module, "jetson-orin-nano")
    assert isinstance(reader, NotMeasured)
    assert "in group jtop" in reader.reason


def test_the_release_tells_the_jetpack(tmp_path: Path) -> None:
    plant(tmp_path, ORIN_NANO)
    write(
        tmp_path / "etc/nv_tegra_release",
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
    )
    board = find_board(tmp_path)
    assert board is not None
    assert (board.l4t, board.jetpack) == ("36.4.3", "6.1 or 6.2")
    assert [jetpack_of(v) for v in ("32.7.4", "35.4.1", None)] == ["4.6.1 or later", "5.1", None]


def test_readers_import_nothing_of_others() -> None:
    program = (
        "import sys, json\n"
        "import splitdeploy.edge_runtime.power.find\n"
        "print(json.dumps([m for m in ('pynvml', 'jtop', 'numpy') if m in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
