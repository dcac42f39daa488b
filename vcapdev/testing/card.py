# SPDX-License-Identifier: GPL-2.0-or-later
"""The card as a test sees it: its clock, registers, program, DMA, findings and interrupts.

Everything goes over the control channel of the device process (docs/control.md); nothing here touches guest
memory or takes a way that a driver could not have taken, but for what the names say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

from vcapdev.bt878.listing import Instruction
from vcapdev.bt878.registers import REGISTERS
from vcapdev.errors import GuestError, UsageError
from vcapdev.fields import Register
from vcapdev.run.pair import PATIENCE
from vcapdev.serve.options import CLOCKS
from vcapdev.testing.config import did_you_mean
from vcapdev.testing.dma import Dma
from vcapdev.testing.faults import ArmedFault
from vcapdev.vm.agent import GuestTimeoutError

Json = dict[str, Any]

_STEPPED = 30.0  # seconds for a step that waits for the guest's handler
_CAUSES = "INT_STAT"
_DECLARED: Mapping[str, type[Register]] = {
    name: register for register in REGISTERS for name in register.places()
}


class Device(Protocol):
    """What is needed of ``vcapdev.run.device.DeviceProcess``."""

    def call(self, command: str, *, timeout: float = 10, **arguments: Any) -> Json: ...


class RegisterValue(int):
    """A register's value, with its name; it prints itself decoded, and gives its fields by name::

    card.registers["INT_STAT"].field("RISCI")  # 0 or 1
    """

    name: str

    def __new__(cls, name: str, value: int) -> RegisterValue:
        self = super().__new__(cls, value)
        self.name = name
        return self

    def field(self, name: str) -> int:
        """One field. :raise UsageError: the register has no such one."""
        known = {field.name: field for field in _DECLARED[self.name].FIELDS}
        if name not in known:
            raise UsageError(
                f"the register {self.name} has no field {name!r}{did_you_mean(name, list(known))}"
            )
        return known[name].get(int(self))

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"{self.name} {int(self):#x} {_DECLARED[self.name].decode(int(self))}".rstrip()


class Registers:
    """The chip's registers by name, as a read would give them, without its side effects::

    assert card.registers["INT_MASK"].field("RISCI")
    card.registers["INT_MASK"] = 0  # as the driver would write it
    """

    def __init__(self, card: Card) -> None:
        self._card = card

    def __getitem__(self, name: str) -> RegisterValue:
        """:raise UsageError: no such register."""
        self._check(name)
        return RegisterValue(name, int(self._card.call("register-read", name=name)["value"]))

    def __setitem__(self, name: str, value: int) -> None:
        self._check(name)
        self._card.call("register-write", name=name, value=int(value))

    def __iter__(self) -> Iterator[str]:
        return iter(_DECLARED)

    def all(self) -> dict[str, RegisterValue]:
        """Every one, in the order of offsets."""
        values = self._card.call("registers")["registers"]
        return {name: RegisterValue(name, int(value)) for name, value in values.items()}

    @staticmethod
    def _check(name: str) -> None:
        if name not in _DECLARED:
            raise UsageError(f"the card has no register {name!r}{did_you_mean(str(name), list(_DECLARED))}")


class Interrupts:
    """The interrupt line: what drives it, and how often it rose."""

    def __init__(self, card: Card) -> None:
        self._card = card

    @property
    def count(self) -> int:
        """Rising edges of the line since power-on."""
        return int(self._card.stats()["interrupts"])

    @property
    def given_up(self) -> int:
        """Times that the card went on without the guest's handler having finished within 500 ms."""
        return int(self._card.stats()["handshake_timeouts"])

    @property
    def latched(self) -> frozenset[str]:
        """Causes that are latched in INT_STAT, masked or not: names of its fields."""
        return self._names(self._card.registers[_CAUSES])

    @property
    def pending(self) -> frozenset[str]:
        """Causes that assert the line now: latched, and not masked."""
        registers = self._card.registers
        return self._names(registers[_CAUSES] & registers["INT_MASK"])

    @staticmethod
    def _names(value: int) -> frozenset[str]:
        fields = _DECLARED[_CAUSES].FIELDS
        return frozenset(field.name for field in fields if field.kind == "w1c" and field.get(value))


class Card:
    """One card. A guest has it as ``guest.card``; the fixture ``card`` is the same.

    :param device: its process.
    :param turn: lets the guest speak once, for as long as nothing else is to be done.
    :param busy: whether a program of the test's is running in the guest.
    """

    def __init__(
        self, device: Callable[[], Device], turn: Callable[[], None], busy: Callable[[], bool] = lambda: False
    ) -> None:
        self._device, self._turn, self._busy = device, turn, busy
        #: The fault that the test has armed.
        self.armed: ArmedFault | None = None
        #: Whether the card is in its slot, and its device process alive.
        self.there = True
        self.registers = Registers(self)
        self.interrupts = Interrupts(self)
        self.dma = Dma(self)

    def call(self, command: str, *, timeout: float = 10, **arguments: Any) -> Json:
        """One command of the control channel (docs/control.md).

        :raise GuestError: the device refused it, or has gone.
        """
        return self._device().call(command, timeout=timeout, **arguments)

    def stats(self) -> Json:
        """The card's counters since power-on (docs/control.md, ``stats``)."""
        return self.call("stats")

    # -- the clock

    @property
    def clock(self) -> str:
        """Mode of the clock: "paced", "real", "fast" or "step"; assigning sets it."""
        return str(self.call("clock")["mode"])

    @clock.setter
    def clock(self, mode: str) -> None:
        if mode not in CLOCKS:
            raise UsageError(f"the clock has no mode {mode!r}{did_you_mean(str(mode), CLOCKS)}")
        self.call("clock", mode=mode)

    @property
    def fields(self) -> int:
        """Fields that have ended since power-on."""
        return int(self.stats()["fields"])

    @property
    def frames(self) -> int:
        """Frames since power-on of which anything was moved to memory, complete."""
        return int(self.stats()["frames"])

    def step(self, fields: int = 1, *, timeout: float = _STEPPED) -> None:
        """Let ``fields`` fields pass, and the guest handle their interrupts; the clock is in mode "step".

        :raise UsageError: the clock is in another mode.
        :raise GuestTimeoutError: the guest held them up for longer than ``timeout`` seconds.
        """
        if self.clock != "step":
            raise UsageError(
                "step(): the clock runs by itself; set card.clock = 'step', or use card.stepped()"
            )
        status = self.call("step", fields=fields)
        end = time.monotonic() + timeout
        while status["steps"] or status["awaiting_handler"]:
            self._turn()
            if time.monotonic() > end:
                raise GuestTimeoutError(
                    f"{fields - int(status['steps'])} of {fields} fields passed within {timeout:g} s: the"
                    " guest's interrupt handler does not end"
                )
            status = self.call("clock")

    @contextmanager
    def stepped(self) -> Iterator[None]:
        """Within the block fields pass only by :meth:`step`; then the clock goes on as before."""
        before = self.clock
        self.clock = "step"
        try:
            yield
        finally:
            with suppress(GuestError):
                self.clock = before

    # -- what the camera sends, and what goes wrong

    def signal(self, *, norm: str | None = None, connected: bool | None = None) -> Json:
        """What the camera sends ("PAL", "NTSC" or "SECAM"), and if its cable is in; sets what is given."""
        given: Json = {"norm": norm, "connected": connected}
        return self.call("signal", **{key: value for key, value in given.items() if value is not None})

    def fault(self, name: str, at: int = 1, lasts: int | None = None) -> ArmedFault:
        """A block in which the card commits a fault, at its ``at``-th point from the block's begin::

            with card.fault("interrupt-lost", at=3) as fault:
                guest.capture(frames=10)
            assert fault.fired

        :param lasts: fields (milliseconds for "interrupt-late", runs of the handler for "interrupt-stuck").
        :raise UsageError: there is no such fault.
        """
        return ArmedFault(self, name, at, lasts)

    # -- what it did

    def program(self) -> list[Instruction]:
        """The RISC program in memory from its start on, JUMPs followed: address, dwords and text of each."""
        found = self.call("program")["instructions"]
        return [Instruction(each["address"], each["words"], each["text"]) for each in found]

    def access_log(self, last: int = 100) -> list[str]:
        """The guest's last register accesses, decoded, oldest first."""
        return list(self.call("access-log", last=last)["lines"])

    def settle(self, until: Callable[[], bool] | None = None) -> bool:
        """Wait until every pin is given back, or ``until()``; then what is left pinned is a finding.

        While a program of the test's is running nothing is judged: its pins are its own.

        :return: whether all was back.
        """
        busy = self._busy()
        end = time.monotonic() + PATIENCE
        while (until is not None or not busy) and time.monotonic() < end:
            status = self.call("settle", final=False)
            if (status.get("settled") and until is None) or status.get("why_not") or (until and until()):
                break
            if status.get("settled") and not busy:
                break
            self._turn()
        return not busy and bool(self.call("settle", final=True).get("settled"))

    def expect_violation(self, *rules: str, also: Sequence[str] = ()) -> AbstractContextManager[None]:
        """A block in which each of ``rules`` must be violated, see :meth:`Dma.expect_violation`::

        with card.expect_violation("not-pinned"):
            guest.capture(frames=20)
        """
        return self.dma.expect_violation(*rules, also=also)
