"""Reads the temperatures and the power of this device, where the kernel tells them under /sys/class."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

SYSTEM = Path("/sys/class")
MAX_SENSORS = 64  # of each kind; reading one over I2C takes up to some milliseconds
INA3221 = ("1", "2", "3")  # channels of a Jetson's power monitor; its in4 to in7 are voltages over shunts
UNCONNECTED = "NC"  # is what a Jetson calls a channel that measures nothing
MILLI, MICRO = 1e-3, 1e-6


class Sensors:
    """This class finds the sensors once; reading one that is asleep or gone leaves it out.

    ``system`` is the folder that has ``thermal/`` and ``hwmon/``.
    """

    def __init__(self, system: Path = SYSTEM) -> None:
        zones = sorted(system.glob("thermal/thermal_zone*"), key=_number)[:MAX_SENSORS]
        self._zones = _named((_text(zone / "type") or zone.name, (zone / "temp",)) for zone in zones)
        chips = sorted(system.glob("hwmon/hwmon*"), key=_number)[:MAX_SENSORS]
        found = [rail for chip in chips for rail in _rails(chip)]
        self._rails = _named(found[:MAX_SENSORS])

    def temperatures(self) -> dict[str, float]:
        """Return degrees Celsius by the name of the thermal zone."""
        return {name: value * MILLI for name, files in self._zones.items() if (value := _product(files)) is not None}

    def power(self) -> dict[str, float]:
        """Return watts by the name of the supply rail; some rails feed others, so they do not add up."""
        return {name: value * MICRO for name, files in self._rails.items() if (value := _product(files)) is not None}


def _rails(chip: Path) -> Iterable[tuple[str, tuple[Path, ...]]]:
    """Yield name and files of each rail of a chip: one of microwatts, or one of millivolts and one of milliamperes."""
    name = _text(chip / "name") or chip.name
    for file in sorted(chip.glob("power*_input"), key=_number):
        yield _text(file.with_name(file.name.replace("_input", "_label"))) or name, (file,)
    for channel in INA3221 if name == "ina3221" else ():
        voltage, current = chip / f"in{channel}_input", chip / f"curr{channel}_input"
        label = _text(chip / f"in{channel}_label") or f"{name}-{channel}"
        if voltage.is_file() and current.is_file() and label != UNCONNECTED:
            yield label, (voltage, current)


def _named(found: Iterable[tuple[str, tuple[Path, ...]]]) -> dict[str, tuple[Path, ...]]:
    """Return the files by name; of equal names the later ones get ``-2`` and so on."""
    named: dict[str, tuple[Path, ...]] = {}
    for name, files in found:
        unique, number = name, 2
        while unique in named:
            unique, number = f"{name}-{number}", number + 1
        named[unique] = files
    return named


def _product(files: tuple[Path, ...]) -> float | None:
    """Return the product of the numbers in the files; None where one can't be read."""
    product = 1.0
    for file in files:
        text = _text(file)
        if not re.fullmatch(r"-?[0-9]{1,12}", text):
            return None
        product *= int(text)
    return product


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):  # a zone whose part of the chip is off says EAGAIN
        return ""


def _number(path: Path) -> int:
    return int("".join(re.findall(r"[0-9]+", path.name)[:1]) or 0)
