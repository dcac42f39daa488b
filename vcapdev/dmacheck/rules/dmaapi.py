# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules on the driver's use of the DMA API: judged where an IOMMU stands between device and RAM."""

from __future__ import annotations

from vcapdev.dmacheck.rules.base import ALWAYS, BY_ORDER, Rule

_ORDER = (
    "Maps, unmaps and register writes come over one socket, in the order in which the driver made them, each "
    "answered before the driver goes on; and one thread handles them and the device's transfers."
)


class UseAfterUnmap(Rule):
    id, name = "D1", "use-after-unmap"
    sentence = "the device went to memory that the driver had mapped for it and has unmapped since"
    severity, certainty = "corruption", BY_ORDER
    facts = "the order of DMA maps, unmaps, register writes and transfers"
    why = (
        _ORDER
        + " A stop that the driver wrote before its dma_unmap was handled before it. The IOMMU refuses "
        "the transfer; on a machine without one it would have gone to whatever the page is by now."
    )
    looks = "vcapdev: use-after-unmap (D1): DMA write to user pages (streaming)"
    near = (
        "a transfer while the unmap is still on its way: the mapping lives until its end is handled",
        "the same bus address given to the next mapping: a live mapping is never in question here",
    )


class NeverMapped(Rule):
    id, name = "D2", "never-mapped"
    sentence = "the device went to a bus address that the driver has not mapped for it"
    severity, certainty = "corruption", BY_ORDER
    facts = "all DMA maps since the guest's IOMMU was switched on, as far back as the history goes"
    why = (
        _ORDER
        + " An address that no map has covered was never the device's: a physical address given to it, "
        "a wrong offset, or a transfer beyond the end of what was mapped."
    )
    looks = "vcapdev: never-mapped (D2): DMA write to an address that was never mapped"
    near = ("a mapping that was torn down very long ago, which the bounded history has forgotten",)


class NotForWriting(Rule):
    id, name = "D3", "mapped-for-reading"
    sentence = "the device wrote to memory that the driver had mapped for reading only"
    severity, certainty = "corruption", BY_ORDER
    facts = "the access rights of the live DMA map"
    why = "dma_map with DMA_TO_DEVICE gives the device the right to read; the IOMMU refuses its writes."
    looks = "vcapdev: mapped-for-reading (D3): DMA write to coherent memory"
    near = ("coherent memory and mappings in both directions: they may be written",)


class MappingLeft(Rule):
    id, name = "D4", "mapping-left"
    sentence = "the driver gave pages back that are still mapped for the device"
    severity, certainty = "leak", ALWAYS
    facts = "the live DMA maps of what was pinned when it was mapped, and the pins of those pages now"
    why = (
        "A dma_unmap is handled before it returns, so what is unpinned after it is no longer mapped by then. "
        "A page without a pin behind a live mapping was let go of first, or is never unmapped: the card may "
        "still write to whatever it becomes."
    )
    looks = "vcapdev: mapping-left (D4): user pages (streaming) without a pin"
    near = (
        "a buffer that is queued, or idle between two frames: mapped and pinned",
        "coherent memory and kernel buffers: never pinned, and mapped for as long as they are held",
    )


USE_AFTER_UNMAP, NEVER_MAPPED, NOT_FOR_WRITING = UseAfterUnmap(), NeverMapped(), NotForWriting()
MAPPING_LEFT = MappingLeft()
DMAAPI_RULES: tuple[Rule, ...] = (USE_AFTER_UNMAP, NEVER_MAPPED, NOT_FOR_WRITING, MAPPING_LEFT)
