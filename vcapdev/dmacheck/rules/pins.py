# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules on what becomes of pins. They are judged at a release, or when there should have been one."""

from __future__ import annotations

from vcapdev.dmacheck.rules.base import AT_RELEASE, AT_REST, LASTING, Rule


class NotDirtied(Rule):
    id, name = "V10", "not-dirtied"
    sentence = "a page was released without being marked dirty although the device had written to it"
    severity, certainty = "data loss", AT_RELEASE
    facts = (
        "PG_dirty clear at the last look while pinned and at the first look after; nothing cleaned it between"
    )
    why = (
        "Whoever releases a page that a device wrote to has to say so (unpin_user_pages_dirty_lock), or "
        "the kernel may drop it as a clean copy of what is on disk. Only pages are judged that were clean "
        "while pinned, were still their owner's after the release, and that nothing can have cleaned "
        "since."
    )
    looks = (
        "file page; refcount 2, pins 0, mapcount 0; lru uptodate (no dirty), 1025 and clean one look before"
    )
    unjudged = (
        "one of several pins: a huge page that two buffers share, or a page that somebody else has pinned as"
        " well, is judged when its last pin goes, and is good when it is dirty by then, whoever did that. Nor"
        " is a page that was dirty already while pinned, as nearly all anonymous ones are"
    )
    near = (
        "a page released dirty, then written out or freed before it was looked at: counted, no verdict",
        "a page in the swap cache, under writeback or given up with MADV_FREE: reclaim may have cleaned it",
        "a page on no LRU list: it may be a new one at the same address, of memory that was given back",
        "a page that the device never wrote to, or that was dirty already while pinned (L18)",
    )


class PinLeak(Rule):
    id, name = "V11", "pin-leak"
    sentence = "pages are still pinned although capture has ended"
    severity, certainty = "leak", AT_REST
    facts = "the pins of all pages that were DMA targets; nr_foll_pin_acquired and nr_foll_pin_released"
    why = (
        "The last close releases every buffer. Both accounts are read, the pages' own and the kernel's "
        "counters with every CPU's share, after time enough for releases that are put off."
    )
    looks = "anonymous page; refcount 1024, pins 1, not mapped"
    near = (
        "a buffer that was given back to the program but is still in the queue (L16): the device is not "
        "closed yet",
        "the pages of a program that ended, for a moment until its files are closed (L4)",
    )


class PinnedAfterClose(Rule):
    id, name = "P1", "pinned-after-close"
    sentence = "pages are still pinned long after the media framework has let go of their buffer"
    severity, certainty = "leak", LASTING
    facts = "the pins of pages that were a buffer's, the buffers of all queues, what io_uring has registered"
    why = (
        "The page was a buffer's, and its pin was never dropped. No queue of any media framework lists it any"
        " more, nor io_uring, for half a minute in which the guest ran: whoever pinned it for the buffer has "
        "forgotten it. It needs no word from the capture program, nor an end of DMA."
    )
    looks = "anonymous page; refcount 1024, pins 1, not mapped; no buffer lists it"
    near = (
        "a stream that stands still with its buffers in the queue (L16): a buffer lists the page",
        "a process that is slow to exit: less than half a minute",
        "memory that the user has registered with io_uring as well: listed there",
    )


NOT_DIRTIED, PIN_LEAK, PINNED_AFTER_CLOSE = NotDirtied(), PinLeak(), PinnedAfterClose()
PIN_RULES: tuple[Rule, ...] = (NOT_DIRTIED, PIN_LEAK, PINNED_AFTER_CLOSE)
