# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the guest's bounce buffers lie (kernel/dma/swiotlb.c): reserved pages that a device may write."""

from __future__ import annotations

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, GuestReadError


def bounce_pfns(kernel: Kernel) -> range:
    """Page frames of the default bounce pool; empty when the guest has none.

    ``io_tlb_default_mem`` holds start and end since 5.13 (a pointer until 5.15), in its ``defpool`` since
    6.6; before, ``io_tlb_start`` and ``io_tlb_end`` are variables.
    """
    start, end = kernel.symbol_u64("io_tlb_start"), kernel.symbol_u64("io_tlb_end")
    if start is None or end is None:
        start, end = _from_struct(kernel)
    first, last = start >> PAGE_SHIFT, end >> PAGE_SHIFT
    return range(first, last) if 0 < first < last <= kernel.vmemmap.pages else range(0)


def _from_struct(kernel: Kernel) -> tuple[int, int]:
    address = kernel.symbols.address("io_tlb_default_mem")
    if address is None:
        return 0, 0
    for type_name, outer in (("io_tlb_pool", kernel.btf.offset("io_tlb_mem", "defpool")), ("io_tlb_mem", 0)):
        start, end = kernel.btf.offset(type_name, "start"), kernel.btf.offset(type_name, "end")
        if outer is None or start is None or end is None:
            continue
        try:
            return kernel.table.u64(address + outer + start), kernel.table.u64(address + outer + end)
        except GuestReadError:
            break
    return 0, 0
