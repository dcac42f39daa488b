# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that this process has met before, so that a guest which goes on from a snapshot is known at once.

Such a guest's kernel is at the same place as when its snapshot was taken, and so is all that an attachment
finds out of it: symbols, types, layouts. Only the tables that lead to the struct pages are followed again.
Whoever says that the guest is a restored one says, too, that this kernel runs: memory alone could not tell it
from one that another has followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vcapdev.guestmm.kernel import AttachError, Kernel, attach, max_pfn, table_of
from vcapdev.guestmm.memory import GuestMemory, GuestReadError
from vcapdev.guestmm.vmcoreinfo import Vmcoreinfo, VmcoreinfoError, note_at
from vcapdev.guestmm.vmemmap import Vmemmap

_MOST = 8  # of some 20 MB each


@dataclass(frozen=True)
class _Met:
    """What was found out of a kernel, without its memory."""

    note: Vmcoreinfo
    top: int  # physical address of its page table
    over: Callable[[GuestMemory, Vmcoreinfo], Kernel]


_met: list[_Met] = []


def meet(memory: GuestMemory) -> bool:
    """Find out all about the kernel of a guest that stands still; False when there is none to be understood.

    ``memory`` is not used any more afterwards.
    """
    try:
        kernel = attach(memory)
    except AttachError:
        return False
    _met[:] = [*(met for met in _met if met.note != kernel.note), _remember(kernel)][-_MOST:]
    return True


def _remember(kernel: Kernel) -> _Met:
    symbols, btf, layout, flags = kernel.symbols, kernel.btf, kernel.layout, kernel.flags
    types, zero_pfn, base = kernel.types, kernel.zero_pfn, kernel.vmemmap.base

    def over(memory: GuestMemory, note: Vmcoreinfo) -> Kernel:
        table = table_of(memory, note)
        vmemmap = Vmemmap(memory, table, base, layout.size, max_pfn(symbols, table))
        return Kernel(memory, note, table, symbols, btf, layout, flags, types, vmemmap, zero_pfn)

    return _Met(kernel.note, kernel.table.top, over)


def recognise(memory: GuestMemory) -> Kernel | None:
    """The kernel of a restored guest, if it is one that was met."""
    for met in reversed(_met):
        try:
            note = note_at(memory, met.note.address)
            if note is not None and note.text == met.note.text:
                kernel = met.over(memory, note)
                if kernel.table.top == met.top:
                    return kernel
        except (GuestReadError, VmcoreinfoError):
            continue
    return None
