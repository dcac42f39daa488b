# SPDX-License-Identifier: GPL-2.0-or-later
"""Gathers what is known of a page for a verdict, while the vCPUs stand: what it is, was, and whose.

Whatever a hostile guest leads this into, a verdict stands: what cannot be found out is a note in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vcapdev.dmacheck.history import History
from vcapdev.dmacheck.look import Look
from vcapdev.dmacheck.verdict import Evidence, Sight
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.media import Media
from vcapdev.guestmm.mediabuffer import MediaBuffer
from vcapdev.guestmm.pageowner import describe_page_owner
from vcapdev.guestmm.pages import PageFacts, PageSet
from vcapdev.guestmm.pageview import PageView, view_page

_MAX_BUFFERS = 4  # that are named; more are counted
_MAX_STACK = 2  # lines of each stack


@dataclass(frozen=True)
class Testimony:
    """What is known beforehand: the looks around a write, and the page's identity at first sight."""

    before: Look | None = None
    after: Look | None = None
    then: tuple[int, int] | None = None


def gather(
    kernel: Kernel,
    facts: PageFacts,
    row: int,
    history: History,
    stopped: bool,
    known: Testimony | None = None,
) -> Evidence:
    """Everything about the page in row ``row`` of ``facts``; without ``known`` those are its last look."""
    pfn = int(facts.pfn[row])
    evidence = Evidence(stopped=stopped)
    if known is None:
        evidence.after = view_page(kernel, facts, row)
    else:
        evidence.before = None if known.before is None else view_page(kernel, known.before.facts, row)
        evidence.after = None if known.after is None else view_page(kernel, known.after.facts, row)
    evidence.history = [Sight(when, state) for when, state in history.of(kernel, pfn)]
    now = PageSet(kernel, facts.pfn[row : row + 1])
    now.read()
    view = evidence.now = view_page(kernel, now.facts(), 0)
    then = known.then if known is not None else (view.mapping, view.index) if view.owned else None
    _try(evidence, "the owner", lambda: _find_owners(kernel, evidence, view, then))
    _try(evidence, "the buffer", lambda: _find_holders(kernel, evidence, view))
    _try(evidence, "page_owner", lambda: _find_stacks(kernel, evidence, pfn))
    return evidence


def _try(evidence: Evidence, what: str, step: Callable[[], None]) -> None:
    try:
        step()
    except Exception as error:  # whatever the guest's data lead to, the verdict itself stands
        evidence.notes.append(f"{what} could not be followed: {error}"[:200])


def _find_owners(kernel: Kernel, evidence: Evidence, view: PageView, then: tuple[int, int] | None) -> None:
    """Ask drgn who owns the page, now and by its identity at first sight."""
    from vcapdev.guestmm.owners import describe_owners  # drgn is loaded for this only

    if view.owned:
        evidence.owner_now = describe_owners(kernel, view.mapping, view.index, view.pfn, evidence.notes)
    if view.owned and then == (view.mapping, view.index):
        evidence.owner_then = evidence.owner_now
    elif then is not None:
        evidence.owner_then = describe_owners(kernel, *then, view.pfn, evidence.notes)


def _find_holders(kernel: Kernel, evidence: Evidence, view: PageView) -> None:
    """The buffers that list the page, and what its reference count is made of."""
    media = Media.of(kernel)
    claims = [buffer for buffer in media.buffers() if (buffer.pfns == view.pfn).any()]
    evidence.buffer = [_buffer_line(media, buffer, view.pfn) for buffer in claims[:_MAX_BUFFERS]]
    if len(claims) > _MAX_BUFFERS:
        evidence.buffer.append(f"and {len(claims) - _MAX_BUFFERS} more")
    if not claims and media.why_not:
        evidence.buffer = [f"not looked for: {media.why_not}"[:200]]
    evidence.held_by = [holders(view, sum(buffer.pinned for buffer in claims), bool(media.why_not))]


def _buffer_line(media: Media, buffer: MediaBuffer, pfn: int) -> str:
    page = int(np.flatnonzero(buffer.pfns == pfn)[0])
    opener = media.opener(buffer)
    return f"{buffer.text()}; this is its page {page + 1}" + (f"; opened by {opener}" if opener else "")


def holders(view: PageView, claims: int, blind: bool = False) -> str:
    """Who holds the page, from its counts: ``claims`` pins are those of buffers that were found.

    :param blind: buffers could not be looked for.
    """
    if view.page_type:
        return f"it is a typed page of the kernel ({view.page_type}), refcount {view.refcount}"
    pins = _pins(view.pins, claims, blind)
    if view.compound:
        return f"{pins}, of a compound page with refcount {view.refcount}"
    maps = view.mapcount + 1
    caches = int("swapcache" in view.flags or view.kind in ("file page", "shmem page"))
    rest = view.refcount - 1024 * view.pins - maps - caches
    parts = [f"{pins}", f"{maps} mapping{'s' * (maps != 1)}"]
    parts += [f"the {'swap' if 'swapcache' in view.flags else 'page'} cache"] * caches
    if rest:
        parts.append(f"{rest} other reference{'s' * (rest != 1)}" if rest > 0 else f"{-rest} missing")
    return f"refcount {view.refcount}: " + ", ".join(parts)


def _pins(pins: int, claims: int, blind: bool) -> str:
    text = "no pin" if not pins else f"{pins} pin{'s' * (pins != 1)}"
    if blind:
        return text
    if pins > claims:
        return f"{text}, {pins - claims} of them not a buffer's" if claims else f"{text}, not a buffer's"
    if pins < claims:
        return f"{text} where {claims} buffer{'s claim one each' if claims > 1 else ' claims one'}"
    return f"{text} of {claims} buffer{'s' * (claims != 1)}" if claims else text


def _find_stacks(kernel: Kernel, evidence: Evidence, pfn: int) -> None:
    allocated, freed = describe_page_owner(kernel, pfn)
    evidence.allocated, evidence.freed = allocated[:_MAX_STACK], freed[:_MAX_STACK]
