# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration space of a PCI function: 256 bytes, header type 0 (PCI Local Bus Specification 2.2, part 6).

::

        31            16 15             0
    00 +----------------+----------------+
       | device id      | vendor id      |
    04 | status         | command        |     RMA, RTA ...: a 1 clears
    08 | class code          | revision  |
    0c | BIST | header  | latency | line  |
    10 | BAR0 (memory, prefetchable)     |
    2c | subsystem      | subs. vendor   |
    34 |                       | cap ptr  |
    3c | Max_Lat Min_Gnt| pin     | line  |
    40 +---------------------------------+     device's own, capabilities

Every byte has a write mask and a write-one-to-clear mask, so an access is a few operations on bytes. What
happens beyond (power state, vital product data) is an effect, tied to the byte whose write triggers it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Protocol

from construct import Bytes, Const, Int8ul, Int16ul, Int24ul, Int32ul, Padding, Struct

from vcapdev.dma import Abort

SIZE = 256


class Command(IntFlag):
    """The command register's bits that matter here; the others read 0."""

    MEMORY = 1 << 1
    MASTER = 1 << 2
    PARITY = 1 << 6
    SERR = 1 << 8
    INTX_DISABLE = 1 << 10  # came with PCI 2.3; harmless to who does not know it


_STATUS_INTX = 1 << 3  # a plain number for what happens twice an interrupt


class Status(IntFlag):
    """The status register's bits."""

    INTX = _STATUS_INTX  # PCI 2.3: the function wants an interrupt, whatever INTX_DISABLE says
    CAPABILITIES = 1 << 4
    FAST_BACK = 1 << 7
    MASTER_PARITY = 1 << 8
    DEVSEL_MEDIUM = 1 << 9
    SIGNALLED_TARGET_ABORT = 1 << 11
    RECEIVED_TARGET_ABORT = 1 << 12
    RECEIVED_MASTER_ABORT = 1 << 13
    SIGNALLED_SERR = 1 << 14
    DETECTED_PARITY = 1 << 15


_LATCHED = (
    Status.MASTER_PARITY
    | Status.SIGNALLED_TARGET_ABORT
    | Status.RECEIVED_TARGET_ABORT
    | Status.RECEIVED_MASTER_ABORT
    | Status.SIGNALLED_SERR
    | Status.DETECTED_PARITY
)

_HEADER = Struct(
    "vendor" / Int16ul,
    "device" / Int16ul,
    "command" / Int16ul,
    "status" / Int16ul,
    "revision" / Int8ul,
    "class_code" / Int24ul,
    "cache_line_size" / Const(0, Int8ul),
    "latency_timer" / Const(0, Int8ul),
    "header_type" / Const(0, Int8ul),
    "bist" / Const(0, Int8ul),
    "bar0" / Int32ul,
    "bars" / Padding(20),
    "cardbus" / Padding(4),
    "subsystem_vendor" / Int16ul,
    "subsystem_device" / Int16ul,
    "rom" / Padding(4),
    "capabilities" / Int8ul,
    "reserved" / Padding(7),
    "interrupt_line" / Const(0, Int8ul),
    "interrupt_pin" / Int8ul,
    "min_gnt" / Int8ul,
    "max_lat" / Int8ul,
    "rest" / Bytes(SIZE - 0x40),
)


class Capability(Protocol):
    """A capability: its bytes, what may be written, and what happens then."""

    @property
    def offset(self) -> int:
        """Where it lies in configuration space."""

    def install(self, config: ConfigSpace, following: int) -> None:
        """Put bytes, masks and effects in place; ``following`` is the next capability's offset, or 0."""

    def reset(self) -> None:
        """Forget what was written (the bytes are reset by the configuration space)."""


@dataclass(frozen=True)
class Identity:
    """What a function says it is.

    ``scratch`` maps offsets above 0x3f to write masks of device-specific bytes that only store.
    """

    vendor: int
    device: int
    revision: int
    class_code: int
    subsystem_vendor: int
    subsystem_device: int
    bar0_size: int  # bytes, a power of two from 16 on; prefetchable 32-bit memory
    min_gnt: int  # units of 250 ns
    max_lat: int
    interrupt_pin: int = 1
    capabilities: Sequence[Capability] = ()
    scratch: dict[int, int] = field(default_factory=dict)


class ConfigSpace:
    """Configuration space of one function; the gate for its memory decoder and its bus master."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._mask = bytearray(SIZE)
        self._clear = bytearray(SIZE)
        self._effects: dict[int, Callable[[], None]] = {}
        self._watchers: list[Callable[[], None]] = []
        self.powered = True
        """False in D3hot: no register answers, no DMA, no interrupt."""
        self.memory_enabled = False
        """Whether the function answers memory accesses. Plain attributes: they are asked at every access."""
        self.bus_master = False
        """Whether the function may start transfers: every fetch and every write asks this."""
        self.intx_enabled = True
        """Whether the function may assert its interrupt line."""
        self._power_on = bytearray(self._build())
        self.data = bytearray(self._power_on)
        self._open_writes()
        self._install()

    def _build(self) -> bytes:
        identity = self.identity
        fixed = Status.FAST_BACK | Status.DEVSEL_MEDIUM
        values = {
            "vendor": identity.vendor,
            "device": identity.device,
            "command": 0,
            "status": fixed | (Status.CAPABILITIES if identity.capabilities else 0),
            "revision": identity.revision,
            "class_code": identity.class_code,
            "bar0": 0x8,
            "subsystem_vendor": identity.subsystem_vendor,
            "subsystem_device": identity.subsystem_device,
            "capabilities": identity.capabilities[0].offset if identity.capabilities else 0,
            "interrupt_pin": identity.interrupt_pin,
            "min_gnt": identity.min_gnt,
            "max_lat": identity.max_lat,
            "rest": bytes(SIZE - 0x40),
        }
        return bytes(_HEADER.build(values))

    def _open_writes(self) -> None:
        command = Command.MEMORY | Command.MASTER | Command.PARITY | Command.SERR | Command.INTX_DISABLE
        self.allow(0x04, int(command).to_bytes(2, "little"))
        self._clear[0x06:0x08] = int(_LATCHED).to_bytes(2, "little")
        self.allow(0x0D, b"\xff")
        self.allow(0x10, (-self.identity.bar0_size & 0xFFFF_FFF0).to_bytes(4, "little"))
        self.allow(0x3C, b"\xff")
        for offset, mask in self.identity.scratch.items():
            self.allow(offset, bytes([mask]))
        self.on_write(0x04, self._changed)
        self.on_write(0x05, self._changed)

    def _install(self) -> None:
        offsets = [capability.offset for capability in self.identity.capabilities]
        for capability, following in zip(self.identity.capabilities, [*offsets, 0][1:], strict=True):
            capability.install(self, following)

    # For capabilities.

    def put(self, offset: int, data: bytes) -> None:
        """Set bytes, and what they are after a reset."""
        self._power_on[offset : offset + len(data)] = data
        self.data[offset : offset + len(data)] = data

    def allow(self, offset: int, mask: bytes) -> None:
        """Open bits for writing."""
        self._mask[offset : offset + len(mask)] = mask

    def on_write(self, offset: int, effect: Callable[[], None]) -> None:
        """Call ``effect`` after each write that touches the byte at ``offset`` (once a write)."""
        self._effects[offset] = effect

    def word(self, offset: int) -> int:
        """The 16 bits at ``offset``."""
        return self.data[offset] | self.data[offset + 1] << 8

    # The bus side.

    def read(self, offset: int, count: int) -> bytes:
        """Bytes as a configuration read gives them; the caller checks the range."""
        return bytes(self.data[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        """A configuration write; the caller checks the range."""
        for at, new in enumerate(data, offset):
            mask, old = self._mask[at], self.data[at]
            self.data[at] = ((old & ~mask) | (new & mask)) & ~(new & self._clear[at])
        touched = range(offset, offset + len(data))
        for effect in dict.fromkeys(self._effects[at] for at in touched if at in self._effects):
            effect()

    def reset(self) -> None:
        """Everything as after power-on, D0; watchers are told."""
        self.data[:] = self._power_on
        self.powered = True
        for capability in self.identity.capabilities:
            capability.reset()
        self._changed()

    # The function's side.

    def subscribe(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` whenever the command register or the power state may have changed."""
        self._watchers.append(watcher)

    def set_power(self, powered: bool) -> None:
        """Enter D0 or leave it (the power management capability's business)."""
        if powered != self.powered:
            self.powered = powered
            self._changed()

    def set_intx_status(self, level: bool) -> None:
        """Show the interrupt that the function wants, asserted or not."""
        if level:
            self.data[0x06] |= _STATUS_INTX
        else:
            self.data[0x06] &= ~_STATUS_INTX

    def report_abort(self, why: Abort) -> None:
        """Record how a transfer that the function started was refused.

        Nobody at the address is a master abort, a read-only target a target abort; with bus mastering off
        there was no transfer.
        """
        bits = {Abort.UNMAPPED: Status.RECEIVED_MASTER_ABORT, Abort.READ_ONLY: Status.RECEIVED_TARGET_ABORT}
        self.data[0x07] |= bits.get(why, Status(0)) >> 8

    def _changed(self) -> None:
        command = self.word(0x04)
        self.memory_enabled = self.powered and command & Command.MEMORY != 0
        self.bus_master = self.powered and command & Command.MASTER != 0
        self.intx_enabled = self.powered and command & Command.INTX_DISABLE == 0
        for watcher in self._watchers:
            watcher()
