# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test asks of its guest and its card: the keys of ``@vcapdev.guest(...)``, checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from vcapdev.errors import UsageError
from vcapdev.run.options import NORMS, RunOptions
from vcapdev.serve.options import CLOCKS

SWAPS = ("none", "zram", "disk")
_MEMORY = re.compile(r"(\d{1,6})\s*([MG])?(?:i?B)?\Z", re.IGNORECASE)
_LEAST, _MOST = 128, 16384  # MiB of RAM
_CPUS = 16

T = TypeVar("T")


class GuestOptions(TypedDict, total=False):
    """The keys of ``@vcapdev.guest(...)``, and of :func:`config_from`; :class:`GuestConfig` explains them."""

    kernel: str
    memory: int | str
    swap: str
    cpus: int
    iommu: bool
    append: str
    qemu_opts: Sequence[str]
    board: str
    revision: int
    norm: str
    cold: bool
    clock: str
    mutant: str
    modules: Sequence[str | Path]
    parameters: Mapping[str, str]
    allow: Sequence[str]
    fresh: bool


@dataclass(frozen=True)
class GuestConfig:
    """What one test needs.

    The first group decides which machine is booted: tests that agree in it share a guest, one after another.
    The second is set anew for each test.

    :ivar kernel: name of an image recipe, or the path of one (``vcapdev list recipes``).
    :ivar memory: MiB of RAM.
    :ivar swap: "none", "zram" (as much as there is RAM) or "disk" (512 MiB).
    :ivar cpus: number of vCPUs.
    :ivar iommu: whether a vIOMMU stands between card and RAM.
    :ivar append: more kernel parameters.
    :ivar qemu_opts: more words for QEMU's command line.
    :ivar board: the board that the card is, None for the default (``vcapdev list boards``).
    :ivar revision: PCI revision of the chip, 0x11 or 0x02; None for the board's.
    :ivar cold: whether it is booted, and not restored from a snapshot.

    :ivar norm: what the camera sends at the test's begin: "PAL", "NTSC" or "SECAM".
    :ivar clock: mode of the card's clock at the test's begin: "paced", "real", "fast" or "step".
    :ivar mutant: name of an altered driver that takes the stock one's place (``vcapdev list mutants``).
    :ivar modules: files of modules that take the places of those with the same names, or are loaded too;
        a directory stands for all modules below it.
    :ivar parameters: module: its parameters, as ``{"bttv": "debug=1"}``; the driver is loaded anew with them.
    :ivar allow: complaints of the guest's kernel, and findings, that do not fail the test: kinds ("warning",
        "lockdep"), names of rules ("not-pinned"), or globs over the first line of a complaint
        ("*bttv_irq*").
    :ivar fresh: whether the test wants a guest in which no other test has been.
    """

    kernel: str = "bookworm-6.1"
    memory: int = 256
    swap: str = "none"
    cpus: int = 1
    iommu: bool = False
    append: str = ""
    qemu_opts: tuple[str, ...] = ()
    board: str | None = None
    revision: int | None = None
    cold: bool = False

    norm: str = "PAL"
    clock: str = "paced"
    mutant: str | None = None
    modules: tuple[Path, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)
    allow: tuple[str, ...] = ()
    fresh: bool = False

    @property
    def machine(self) -> GuestConfig:
        """The same with the default in all that is set anew for each test: equal for tests that can share."""
        default = GuestConfig()
        return replace(self, **{name: getattr(default, name) for name in PER_TEST})

    @property
    def variant(self) -> str | None:
        """A name for the driver that is wanted: None for the stock one."""
        return self.mutant or (":".join(map(str, self.modules)) or None)

    def run_options(self) -> RunOptions:
        """How the guest is prepared and started."""
        return RunOptions(
            kernel=self.kernel,
            memory=self.memory,
            swap=self.swap,
            pressure="none",
            cpus=self.cpus,
            iommu=self.iommu,
            append=self.append,
            qemu_opts=self.qemu_opts,
            board=self.board,
            revision=self.revision,
            norm=self.norm,
            clock=self.clock,
            cold=self.cold,
        )


#: Fields of a configuration that do not decide which machine is booted.
PER_TEST = ("norm", "clock", "mutant", "modules", "parameters", "allow", "fresh")


def config_from(options: Mapping[str, Any], where: str = "@vcapdev.guest") -> GuestConfig:
    """A configuration from keys and values that somebody wrote.

    :param where: what the complaint begins with.
    :raise UsageError: an unknown key, a wrong type or value: one line, with what would be right.
    """
    known = [item.name for item in fields(GuestConfig)]
    checked: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise UsageError(f"{where}: there is no key {key!r}{did_you_mean(key, known)}")
        try:
            checked[key] = _CHECKS[key](value)
        except ValueError as error:
            raise UsageError(f"{where}: {key}={value!r}: {error}") from None
    config = GuestConfig(**checked)
    if config.mutant and config.modules:
        raise UsageError(f"{where}: mutant and modules both replace the driver; give one of them")
    return config


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'this'?``, or all that is known."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def _memory(value: Any) -> int:
    if isinstance(value, str) and (found := _MEMORY.match(value.strip())):
        mib = int(found[1]) * (1024 if (found[2] or "M").upper() == "G" else 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        mib = value
    else:
        raise ValueError("give MiB, or text such as '256M' or '1G'")
    if not _LEAST <= mib <= _MOST:
        raise ValueError(f"give {_LEAST}M to {_MOST // 1024}G")
    return mib


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("give text")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("give True or False")
    return value


def _number(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"give a number from {low} to {high}")
        return value

    return check


def _one_of(*known: str, fold: Callable[[str], str] = str.lower) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or fold(value) not in known:
            raise ValueError(f"give one of {', '.join(known)}")
        return fold(value)

    return check


def _words(value: Any) -> tuple[str, ...]:
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(i, str) for i in value)
    ):
        raise ValueError("give a list of texts")
    return tuple(value)


def _files(value: Any) -> tuple[Path, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError("give a list of files")
    paths = tuple(Path(_text(item) if not isinstance(item, Path) else item) for item in value)
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} is no file and no directory")
    return tuple(path.absolute() for path in paths)


def _parameters(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(each, str) for pair in value.items() for each in pair
    ):
        raise ValueError("give a mapping of modules to their parameters, as {'bttv': 'debug=1'}")
    return dict(value)


def _revision(value: Any) -> int | None:
    if value not in (None, 0x11, 0x02):
        raise ValueError("the chip was made as 0x11 and 0x02")
    return None if value is None else int(value)


def _allowed(value: Any) -> tuple[str, ...]:
    from vcapdev.testing.complaints import check_pattern

    return tuple(check_pattern(word) for word in _words(value))


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "kernel": _text,
    "memory": _memory,
    "swap": _one_of(*SWAPS),
    "cpus": _number(1, _CPUS),
    "iommu": _flag,
    "append": _text,
    "qemu_opts": _words,
    "board": _optional_text,
    "revision": _revision,
    "norm": _one_of(*NORMS, fold=str.upper),
    "cold": _flag,
    "clock": _one_of(*CLOCKS),
    "mutant": _optional_text,
    "modules": _files,
    "parameters": _parameters,
    "allow": _allowed,
    "fresh": _flag,
}
