# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's statistics counters, exactly: the folded total and every CPU's share that is not folded yet.

``nr_foll_pin_acquired`` and ``_released`` (mm/gup.c) are node statistics (mm/vmstat.c); /proc/vmstat leaves
the per-CPU shares out, so it is off by up to a threshold a CPU. Read here they are exact while the vCPUs
stand.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vcapdev.guestmm.btf import BtfError, Kind
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import GuestReadError

_MAX_CPUS = 512
_MAX_NODES = 64
_MAX_THRESHOLD = 125


@dataclass(frozen=True, slots=True)
class PinCounters:
    """Pins taken and given back since the guest booted, in pages."""

    acquired: int
    released: int

    @property
    def outstanding(self) -> int:
        """Pins that somebody holds."""
        return self.acquired - self.released


def read_pin_counters(kernel: Kernel) -> PinCounters | None:
    """The pin counters, None where the kernel does not have them or they cannot be read."""
    try:
        items = kernel.btf.find("node_stat_item", Kind.ENUM, Kind.ENUM64)
        values = kernel.btf.enumerators(items.id) if items is not None else {}
        acquired, released = values.get("NR_FOLL_PIN_ACQUIRED"), values.get("NR_FOLL_PIN_RELEASED")
        if acquired is None or released is None:
            return None
        return PinCounters(node_stat(kernel, acquired), node_stat(kernel, released))
    except (GuestReadError, BtfError):
        return None


def read_pages_written(kernel: Kernel) -> int | None:
    """How many pages of files have been written back since boot (NR_WRITTEN); None when unknown.

    A CPU may fold its share into the total while it is read, and so hide it: the greater of two reads counts.
    """
    try:
        items = kernel.btf.find("node_stat_item", Kind.ENUM, Kind.ENUM64)
        item = kernel.btf.enumerators(items.id).get("NR_WRITTEN") if items is not None else None
        return None if item is None else max(node_stat(kernel, item), node_stat(kernel, item))
    except (GuestReadError, BtfError):
        return None


def node_stat(kernel: Kernel, item: int) -> int:
    """One item of ``enum node_stat_item``, summed over nodes and CPUs.

    :raise GuestReadError: when a table of the guest leads nowhere.
    """
    table, total = kernel.table, kernel.symbols.address("vm_node_stat")
    shares = kernel.btf.offset("pglist_data", "per_cpu_nodestats")
    diff = kernel.btf.offset("per_cpu_nodestat", "vm_node_stat_diff")
    if total is None or shares is None or diff is None:
        raise GuestReadError("the kernel has no vm_node_stat")
    value = _signed(table.u64(total + 8 * item), 64)
    for node in nodes_of(kernel):
        share = table.u64(node + shares)
        for offset in _cpu_offsets(kernel):
            address = (share + offset + diff + item) & 0xFFFFFFFFFFFFFFFF
            value += struct.unpack("<b", table.read(address, 1))[0]
    return value


def read_ticks(kernel: Kernel) -> int | None:
    """The kernel's own clock (``jiffies``, 100 to 1000 a second); None where it cannot be read."""
    place = kernel.symbols.address("jiffies")
    try:
        return None if place is None else kernel.table.u64(place)
    except GuestReadError:
        return None


def counter_slack(kernel: Kernel) -> int:
    """How far the difference of two node counters in /proc/vmstat may be off: the shares that are left out.

    Each CPU folds its share of an item once it exceeds ``stat_threshold``, at most 125 (mm/vmstat.c).
    """
    try:
        return 2 * _MAX_THRESHOLD * len(nodes_of(kernel)) * len(_cpu_offsets(kernel))
    except GuestReadError:
        return 0


def nodes_of(kernel: Kernel) -> list[int]:
    """Virtual addresses of the ``pglist_data`` of all nodes."""
    array = kernel.symbols.address("node_data")
    if array is None:
        single = kernel.symbols.address("contig_page_data")
        return [] if single is None else [single]
    count = min(kernel.note.length("node_data") or 1, _MAX_NODES)
    words = struct.unpack(f"<{count}Q", kernel.table.read(array, 8 * count))
    return [word for word in words if word]


def _cpu_offsets(kernel: Kernel) -> list[int]:
    """What to add to a per-CPU pointer, for each possible CPU."""
    array, count_at = kernel.symbols.address("__per_cpu_offset"), kernel.symbols.address("nr_cpu_ids")
    if array is None:
        raise GuestReadError("the kernel has no __per_cpu_offset")
    count = kernel.table.u32(count_at) if count_at is not None else 1
    if not 0 < count <= _MAX_CPUS:
        raise GuestReadError(f"the kernel claims {count} CPUs")
    return list(struct.unpack(f"<{count}Q", kernel.table.read(array, 8 * count)))


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
