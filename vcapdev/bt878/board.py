# SPDX-License-Identifier: GPL-2.0-or-later
"""Boards: what a maker soldered around the chip, read from YAML files.

``boards/*.yaml`` come with vcapdev; ``--board`` takes one of their names or the path of another file::

    title: ProVideo PV143              # for people
    subsystem: aa00:1430               # PCI subsystem vendor:device, by which drivers know the board
    revision: 0x11                     # 0x11: with vital product data and power management; 0x02: without
    crystal_mhz: 28.636363
    second_crystal_mhz: 35.46895       # only where XTSEL=XT1 has a crystal of its own
    inputs:                            # in the order in which the driver counts them
      - {name: Composite 1, muxsel: 2}
      - {name: S-Video, muxsel: 1, svideo: true}
    gpio_levels: 0x000000              # of pins that the chip does not drive
    i2c:
      - {device: 24c02, address: 0x50, hauppauge: {model: 64900}}
      - {device: 24c02, address: 0x51, hex: "00 01 02", writable: true}
    vpd: {PN: PV143}                   # read-only items of the vital product data

Only ``title``, ``subsystem`` and ``inputs`` must be there.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vcapdev.bt878.eeprom import SIZE as EEPROM_SIZE
from vcapdev.bt878.eeprom import Eeprom24c02, hauppauge
from vcapdev.errors import UsageError

_BOARDS = Path(__file__).resolve().parent / "boards"
DEFAULT = "pv143"
NTSC_CRYSTAL_HZ = 28_636_363.0


@dataclass(frozen=True)
class Input:
    """A connector for video."""

    name: str
    muxsel: int  # IFORM.MUXSEL that selects it
    svideo: bool = False


@dataclass(frozen=True)
class Eeprom:
    """A 24C02 on the I2C bus."""

    address: int
    contents: bytes
    writable: bool = False


@dataclass(frozen=True)
class Board:
    """A board, checked."""

    name: str
    title: str
    subsystem_vendor: int
    subsystem_device: int
    inputs: tuple[Input, ...]
    revision: int = 0x11
    crystal_hz: float = NTSC_CRYSTAL_HZ
    second_crystal_hz: float | None = None
    gpio_levels: int = 0
    i2c: tuple[Eeprom, ...] = ()
    vpd: Mapping[str, str] = field(default_factory=dict, hash=False)

    def i2c_devices(self) -> list[Eeprom24c02]:
        """The devices on the I2C bus, new ones at each call."""
        return [Eeprom24c02(item.address, item.contents, writable=item.writable) for item in self.i2c]


def board_names() -> list[str]:
    """Names of the boards that come with vcapdev, sorted."""
    return sorted(path.stem for path in _BOARDS.glob("*.yaml"))


def load_board(name_or_path: str | Path = DEFAULT) -> Board:
    """A board by its name, or from a file (what has a slash or ends in ``.yaml``).

    :raise UsageError: no such board, or what is wrong in the file and at which key.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        return _parse(Path(text))
    known = board_names()
    if text.lower() not in known:
        raise UsageError(
            f"no board is called {text!r}{_suggest(text.lower(), known)}; there are {', '.join(known)}"
        )
    return _parse(_BOARDS / f"{text.lower()}.yaml")


def _parse(path: Path) -> Board:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"board file {path} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"board file {path} is not YAML: {' '.join(str(error).split())}") from error
    return board_from(document, path)


def board_from(document: Any, path: Path) -> Board:
    """A board from a document that was read from ``path``.

    :raise UsageError: what is wrong in it and at which key.
    """
    return _Reader(path).board(document)


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


class _Reader:
    """Checks one document; every complaint names the file and the key."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fail(self, key: str, what: str) -> UsageError:
        return UsageError(
            f"board file {self._path}: {key}: {what}" if key else f"board file {self._path}: {what}"
        )

    def mapping(self, key: str, value: Any, needed: Iterable[str], optional: Iterable[str]) -> dict[str, Any]:
        """A mapping with known keys only."""
        needed, known = list(needed), [*needed, *optional]
        if not isinstance(value, dict):
            raise self.fail(key, f"wants a mapping with the keys {', '.join(known)}")
        for name in value:
            if name not in known:
                raise self.fail(
                    _join(key, str(name)), f"no such key{_suggest(str(name), known)}; {_or(known)}"
                )
        for name in needed:
            if name not in value:
                raise self.fail(_join(key, name), "is missing")
        return value

    def number(self, key: str, value: Any, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``."""
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(key, f"wants a number from {low:#x} to {high:#x}, not {value!r}")
        return value

    def text(self, key: str, value: Any) -> str:
        """Printable ASCII of at most 64 characters (it goes into vital product data)."""
        if not isinstance(value, str) or not re.fullmatch(r"[ -~]{1,64}", value):
            raise self.fail(key, f"wants up to 64 characters of ASCII text, not {value!r}")
        return value

    def switch(self, key: str, value: Any) -> bool:
        """True or false."""
        if not isinstance(value, bool):
            raise self.fail(key, f"wants true or false, not {value!r}")
        return value

    def items(self, key: str, value: Any) -> list[tuple[str, Any]]:
        """The items of a list, each with its key for complaints."""
        if not isinstance(value, list):
            raise self.fail(key, "wants a list")
        return [(f"{key}[{index}]", item) for index, item in enumerate(value)]

    def board(self, document: Any) -> Board:
        """The whole file."""
        optional = ("revision", "crystal_mhz", "second_crystal_mhz", "gpio_levels", "i2c", "vpd")
        top = self.mapping("", document, ("title", "subsystem", "inputs"), optional)
        vendor, device = self._subsystem(top["subsystem"])
        second = top.get("second_crystal_mhz")
        return Board(
            name=self._path.stem,
            title=self.text("title", top["title"]),
            subsystem_vendor=vendor,
            subsystem_device=device,
            inputs=self._inputs(top["inputs"]),
            revision=self._revision(top.get("revision", 0x11)),
            crystal_hz=self._hertz("crystal_mhz", top.get("crystal_mhz", NTSC_CRYSTAL_HZ / 1e6)),
            second_crystal_hz=None if second is None else self._hertz("second_crystal_mhz", second),
            gpio_levels=self.number("gpio_levels", top.get("gpio_levels", 0), 0, 0xFF_FFFF),
            i2c=self._i2c(top.get("i2c", [])),
            vpd=self._vpd(top.get("vpd", {})),
        )

    def _subsystem(self, value: Any) -> tuple[int, int]:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}", value):
            raise self.fail("subsystem", f'wants "vendor:device" in hex, such as "aa00:1430", not {value!r}')
        vendor, device = value.split(":")
        return int(vendor, 16), int(device, 16)

    def _revision(self, value: Any) -> int:
        if value not in (0x02, 0x11):
            raise self.fail("revision", f"wants 0x02 (Bt878) or 0x11 (Bt878A), not {value!r}")
        return int(value)

    def _hertz(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 100:
            raise self.fail(key, f"wants MHz from 1 to 100, not {value!r}")
        return float(value) * 1e6

    def _inputs(self, value: Any) -> tuple[Input, ...]:
        inputs = []
        for key, item in self.items("inputs", value):
            one = self.mapping(key, item, ("name", "muxsel"), ("svideo",))
            inputs.append(
                Input(
                    self.text(f"{key}.name", one["name"]),
                    self.number(f"{key}.muxsel", one["muxsel"], 0, 3),
                    self.switch(f"{key}.svideo", one.get("svideo", False)),
                )
            )
        if not inputs:
            raise self.fail("inputs", "wants at least one input")
        return tuple(inputs)

    def _i2c(self, value: Any) -> tuple[Eeprom, ...]:
        devices: list[Eeprom] = []
        for key, item in self.items("i2c", value):
            one = self.mapping(key, item, ("device", "address"), ("hauppauge", "hex", "writable"))
            if one["device"] != "24c02":
                raise self.fail(f"{key}.device", f"no model of {one['device']!r}; there is 24c02")
            address = self.number(f"{key}.address", one["address"], 0x08, 0x77)
            if any(address == device.address for device in devices):
                raise self.fail(f"{key}.address", f"{address:#x} is taken by another device")
            writable = self.switch(f"{key}.writable", one.get("writable", False))
            devices.append(Eeprom(address, self._contents(key, one), writable))
        return tuple(devices)

    def _contents(self, key: str, one: Mapping[str, Any]) -> bytes:
        if "hauppauge" in one and "hex" in one:
            raise self.fail(key, "wants hauppauge or hex, not both")
        if "hauppauge" in one:
            return self._hauppauge(f"{key}.hauppauge", one["hauppauge"])
        try:
            contents = bytes.fromhex(one.get("hex", ""))
        except (TypeError, ValueError):
            raise self.fail(f"{key}.hex", "wants pairs of hexadecimal digits in quotes") from None
        if len(contents) > EEPROM_SIZE:
            raise self.fail(f"{key}.hex", f"a 24c02 has {EEPROM_SIZE} bytes, not {len(contents)}")
        return contents

    def _hauppauge(self, key: str, value: Any) -> bytes:
        names = list(inspect.signature(hauppauge).parameters)
        one = dict(self.mapping(key, value, ("model",), [name for name in names if name != "model"]))
        limits = {"model": 0xFFFF, "serial": 0xFF_FFFF, "tuner": 0xFF, "formats": 0xFF}
        for name, high in limits.items():
            if name in one:
                self.number(f"{key}.{name}", one[name], 0, high)
        if "revision" in one:
            self.text(f"{key}.revision", one["revision"])
        return hauppauge(**one)

    def _vpd(self, value: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            raise self.fail("vpd", "wants a mapping of two-letter keywords to text")
        for keyword in value:
            if not re.fullmatch(r"[A-Z][A-Z0-9]", str(keyword)) or keyword == "RV":
                raise self.fail(f"vpd.{keyword}", "wants a keyword of two capitals, such as PN or SN")
        return {keyword: self.text(f"vpd.{keyword}", text) for keyword, text in value.items()}


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _or(known: Iterable[str]) -> str:
    return f"there are {', '.join(known)}"
