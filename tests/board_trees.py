"""File trees and tegrastats lines of boards, written after documentation, not recorded on hardware.

The layouts are those of the kernels' documents and of NVIDIA's developer guides: addresses, rails
and units of each board. The numbers are invented, round enough to be added by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Rail = tuple[str, int, int]
"""Its name, millivolts and milliamperes."""


@dataclass(frozen=True)
class BoardTree:
    """A board as its files show it.

    Attributes:
        profile: Name of its device profile.
        model: Of its device tree.
        layout: ``hwmon`` or ``iio``.
        chips: The rails of each INA3221, by its address on the bus.
        total_w: What the board draws, added by hand.
        total_rails: What that is made of.
        line: Of tegrastats.
        line_total_w: What that line says that the board draws.
    """

    profile: str
    model: str
    layout: str
    chips: Mapping[str, Sequence[Rail]]
    total_w: float
    total_rails: tuple[str, ...]
    line: str
    line_total_w: float


NANO = BoardTree(
    profile="jetson-nano",
    model="NVIDIA Jetson Nano Developer Kit",
    layout="iio",
    chips={
        "6-0040": [("POM_5V_IN", 5000, 400), ("POM_5V_GPU", 5000, 40), ("POM_5V_CPU", 5000, 80)]
    },
    total_w=2.0,
    total_rails=("POM_5V_IN",),
    line=(
        "RAM 1234/3956MB (lfb 12x4MB) SWAP 0/1978MB (cached 0MB) IRAM 0/252kB(lfb 252kB) "
        "CPU [8%@1479,5%@1479,1%@1479,0%@1479] EMC_FREQ 2%@1600 GR3D_FREQ 37%@921 APE 25 "
        "PLL@30C CPU@32.5C PMIC@100C GPU@31C AO@38.5C thermal@31.75C "
        "POM_5V_IN 933/951 POM_5V_GPU 40/42 POM_5V_CPU 160/165"
    ),
    line_total_w=0.933,
)
TX2 = BoardTree(
    profile="jetson-tx2",
    model="quill",
    layout="iio",
    chips={
        "0-0040": [
            ("VDD_SYS_GPU", 19000, 20), ("VDD_SYS_SOC", 19000, 30), ("VDD_4V0_WIFI", 4000, 5),
        ],
        "0-0041": [("VDD_IN", 19000, 200), ("VDD_SYS_CPU", 19000, 40), ("VDD_SYS_DDR", 4000, 100)],
        "0-0042": [
            ("VDD_MUX", 19000, 300), ("VDD_5V0_IO_SYS", 5000, 100), ("VDD_3V3_SYS", 3300, 50),
        ],
    },
    total_w=3.8,
    total_rails=("VDD_IN",),
    line=(
        "RAM 1200/7851MB (lfb 800x4MB) CPU [7%@2035,off,off,6%@2034,7%@2026,6%@2034] "
        "EMC_FREQ 0%@1600 GR3D_FREQ 0%@114 APE 150 MTS fg 0% bg 1% PLL@39C MCPU@39C PMIC@50C "
        "Tboard@35C GPU@37C BCPU@39C thermal@38.5C Tdiode@37C VDD_SYS_GPU 77/77 "
        "VDD_SYS_SOC 539/539 VDD_4V0_WIFI 0/0 VDD_IN 2930/3405 VDD_SYS_CPU 539/937 "
        "VDD_SYS_DDR 727/758"
    ),
    line_total_w=2.93,
)  # fmt: skip
XAVIER_NX = BoardTree(
    profile="jetson-xavier-nx",
    model="NVIDIA Jetson Xavier NX Developer Kit",
    layout="hwmon",
    chips={
        "7-0040": [("VDD_IN", 5000, 800), ("VDD_CPU_GPU_CV", 5000, 300), ("VDD_SOC", 5000, 200)]
    },
    total_w=4.0,
    total_rails=("VDD_IN",),
    line=(
        "RAM 2000/6853MB (lfb 900x4MB) SWAP 0/3426MB (cached 0MB) CPU [3%@1190,2%@1190,off,off] "
        "EMC_FREQ 0%@1600 GR3D_FREQ 0%@114 VIC_FREQ 0%@115 APE 150 AUX@31C CPU@32C thermal@31.6C "
        "AO@31C GPU@30.5C PMIC@50C VDD_IN 4050mW/4012mW VDD_CPU_GPU_CV 800mW/790mW "
        "VDD_SOC 1010mW/1002mW"
    ),
    line_total_w=4.05,
)
AGX_XAVIER = BoardTree(
    profile="jetson-agx-xavier",
    model="Jetson-AGX",
    layout="iio",
    chips={
        "1-0040": [("GPU", 19000, 100), ("CPU", 19000, 50), ("SOC", 19000, 100)],
        "1-0041": [("CV", 19000, 10), ("VDDRQ", 19000, 20), ("SYS5V", 5000, 400)],
    },
    total_w=1.9 + 0.95 + 1.9 + 0.19 + 0.38 + 2.0,
    total_rails=("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
    line=(
        "RAM 3000/31928MB (lfb 6000x4MB) SWAP 0/15964MB (cached 0MB) CPU [1%@1190,0%@1190] "
        "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[1377] AO@35.5C GPU@35.5C Tdiode@37C PMIC@100C AUX@35C "
        "CPU@36.5C thermal@35.85C Tboard@36C GPU 0/0 CPU 464/464 SOC 927/927 CV 0/0 VDDRQ 154/154 "
        "SYS5V 1482/1482"
    ),
    line_total_w=0.464 + 0.927 + 0.154 + 1.482,
)
ORIN_NANO = BoardTree(
    profile="jetson-orin-nano",
    model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    layout="hwmon",
    chips={
        "1-0040": [("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 340), ("VDD_SOC", 5000, 300)]
    },
    total_w=6.0,
    total_rails=("VDD_IN",),
    line=(
        "11-21-2026 10:00:00 RAM 2980/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) "
        "CPU [11%@1510,4%@1510,0%@729,0%@729,off,off] GR3D_FREQ 0% cpu@48.5C soc2@47.1C "
        "soc0@48C gpu@49.5C tj@49.5C soc1@48.2C VDD_IN 5971mW/5971mW "
        "VDD_CPU_GPU_CV 1669mW/1669mW VDD_SOC 1500mW/1500mW"
    ),
    line_total_w=5.971,
)
AGX_ORIN = BoardTree(
    profile="jetson-agx-orin",
    model="NVIDIA Jetson AGX Orin Developer Kit",
    layout="hwmon",
    chips={
        "1-0040": [
            ("VDD_GPU_SOC", 20000, 150), ("VDD_CPU_CV", 20000, 50), ("VIN_SYS_5V0", 5000, 800),
        ],
        "1-0041": [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 100), ("NC", 0, 0)],
    },
    total_w=3.0 + 1.0 + 4.0,
    total_rails=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    line=(
        "RAM 5137/62841MB (lfb 2x4MB) SWAP 0/31420MB (cached 0MB) CPU [0%@1190,off] "
        "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[407,407] NVDEC off CV0@-256C CPU@48.8C Tboard@37C "
        "SOC2@45.2C Tdiode@38.7C SOC0@46C CV1@-256C GPU@-256C tj@48.8C SOC1@45.7C CV2@-256C "
        "VDD_GPU_SOC 2390mW/2390mW VDD_CPU_CV 398mW/398mW VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW "
        "VDDQ_VDD2_1V8AO 501mW/501mW NC 0mW/0mW"
    ),
    line_total_w=2.39 + 0.398 + 4.032,
)  # fmt: skip
BOARDS = (NANO, TX2, XAVIER_NX, AGX_XAVIER, ORIN_NANO, AGX_ORIN)


def write(path: Path, text: object) -> None:
    """A file with a line feed at its end, as the kernel's have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def plant(root: Path, board: BoardTree) -> Path:
    """Write a board's tree: device tree, release, and monitors under every name that sysfs has."""
    write(root / "proc/device-tree/model", board.model + "\0")
    sys = root / "sys"
    for number, (address, rails) in enumerate(board.chips.items()):
        chip = sys / "devices/platform/bus@0/c240000.i2c/i2c-1" / address
        driver = "ina3221x" if board.layout == "iio" else "ina3221"
        write(chip / "name", driver)
        if board.layout == "iio":
            folder = chip / f"iio:device{number}"
            _plant_iio(folder, rails)
            _link(sys / f"bus/iio/devices/iio:device{number}", folder)
            _link(chip / "iio_device", folder)
        else:
            folder = chip / f"hwmon/hwmon{number + 2}"
            _plant_hwmon(folder, rails)
            _link(sys / f"class/hwmon/hwmon{number + 2}", folder)
        _link(sys / "bus/i2c/devices" / address, chip)
        _link(sys / f"bus/i2c/drivers/{driver}" / address, chip)
    return root


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _plant_iio(folder: Path, rails: Sequence[Rail]) -> None:
    for number, (name, millivolts, milliamperes) in enumerate(rails):
        write(folder / f"rail_name_{number}", name)
        write(folder / f"in_voltage{number}_input", millivolts)
        write(folder / f"in_current{number}_input", milliamperes)
        write(folder / f"in_power{number}_input", millivolts * milliamperes // 1000)


def _plant_hwmon(folder: Path, rails: Sequence[Rail]) -> None:
    write(folder / "name", "ina3221")
    write(folder / "update_interval", 10)
    for number, (name, millivolts, milliamperes) in enumerate(rails, 1):
        write(folder / f"in{number}_label", name)
        write(folder / f"in{number}_enable", 1)
        write(folder / f"in{number}_input", millivolts)
        write(folder / f"curr{number}_input", milliamperes)
        write(folder / f"in{number + 3}_input", milliamperes * 5)
    write(folder / "in7_label", "sum of shunt voltages")
    write(folder / "in7_input", 1)
    write(folder / "curr4_input", sum(rail[2] for rail in rails))
