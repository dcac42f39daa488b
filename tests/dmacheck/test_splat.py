# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the splat: a golden text, one screen at most, a first line that tells findings apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakecard import FakeCard
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SyntheticGuest

from vcapdev.dma import Origin
from vcapdev.dmacheck.rules import ALL_RULES, KERNEL, NOT_DIRTIED, PAGE_RULES, USER
from vcapdev.dmacheck.verdict import Evidence, Sight, Target, Verdict, key_of
from vcapdev.dmacheck.witness import holders
from vcapdev.guestmm.pageview import PageView

ANON = PageView(
    pfn=0xFB1E,
    physical=0xFB1E000,
    struct_page=0xFFFFEA00003EC780,
    kind="anonymous page",
    flags=("uptodate", "dirty", "lru", "swapbacked", "anon_exclusive"),
    refcount=1025,
    mapcount=0,
    pins=1,
    mapping=0xFFFF888006116619,
    index=0x7F1A865A6,
    compound=False,
    page_type="",
)
UNPINNED = replace(ANON, refcount=1, pins=0)
TWICE = replace(ANON, refcount=2050, pins=2)
FILE = replace(ANON, kind="file page", refcount=1026)
HUGE = replace(ANON, compound=True, refcount=65, pins=64)
SLAB = replace(UNPINNED, page_type="slab", refcount=1)
CACHED = replace(ANON, refcount=2, pins=0, mapcount=-1, flags=("uptodate", "lru", "swapcache"))
PROCESS, AREA = "pid 111 (vcap-capture) at 0x7f1a865a6000", "anonymous 0x7f1a858fe000-0x7f1a8667e000"
CROSSES_PAGES = next(rule for rule in ALL_RULES if rule.id == "V8")
NOT_PINNED = next(rule for rule in PAGE_RULES if rule.id == "V3")


def verdict(**changes: object) -> Verdict:
    evidence = Evidence(
        before=UNPINNED,
        after=UNPINNED,
        now=CACHED,
        history=[Sight("field 301 after", "pinned-anon, refcount 1025, pins 1"),
                 Sight("field 302 before", "unpinned, refcount 1, pins 0")],
        owner_then=[f"{PROCESS}: PTE maps this page (dirty, writable); {AREA}"],
        owner_now=[f"{PROCESS}: PTE swap or migration entry, type 0, offset 0x9c4; {AREA}"],
        buffer=["videobuf userptr buffer 0 at 0xffff88800fb0dc00: state active, user "
                "address 0x7f1a865a6000, 884736 bytes, 216 pages, pages pinned; this is its page 1; "
                "opened by pid 111 (vcap-capture)"],
        held_by=[holders(CACHED, 1)],
        stopped=True,
    )  # fmt: skip
    made = Verdict(
        NOT_PINNED,
        "DMA write to an anonymous page, program for user pages",
        0xFB1E,
        0xFB1E000,
        Origin("WRITE SOL EOL 1536 bytes to 0x0fb1e000", 0xFBF8008, 152, "odd", 0, 0),
        Target(1, 0xFBF8008, 0, 216, 0, 0x5FF),
        evidence,
        216,
        432,
    )
    for name, value in changes.items():
        setattr(evidence, name, value)
    return made


GOLDEN = """\
vcapdev: not-pinned (V3): DMA write to an anonymous page, program for user pages
what        the device wrote to a page that nobody has pinned: it can be ...
certainty   certain when seen both before and after the bytes moved; explain ...
written by  WRITE SOL EOL 1536 bytes to 0x0fb1e000 (instruction at 0xfbf8008);
            frame 152, odd field, line 0, from byte 0 of the line
where       page 1 of 216, bytes 0x0 to 0x5ff of what program 1 (at 0xfbf8008)
            writes
page        pfn 0xfb1e, bus address 0xfb1e000, struct page 0xffffea00003ec780
  before    anonymous page; refcount 1, pins 0, mapcount 0; mapping
            0xffff888006116619 index 0x7f1a865a6; uptodate dirty lru swapbacked
            anon_exclusive
  after     the same
  now       anonymous page; refcount 2, pins 0, not mapped; mapping
            0xffff888006116619 index 0x7f1a865a6; uptodate lru swapcache
history     field 302 before: unpinned, refcount 1, pins 0
buffer      videobuf userptr buffer 0 at 0xffff88800fb0dc00: state active, user
            address 0x7f1a865a6000, 884736 bytes, 216 pages, pages pinned; t ...
held by     refcount 2: no pin where 1 buffer claims one, 0 mappings, the swap
            cache, 1 other reference
owner then  pid 111 (vcap-capture) at 0x7f1a865a6000: PTE maps this page (dirty,
            writable); anonymous 0x7f1a858fe000-0x7f1a8667e000
owner now   pid 111 (vcap-capture) at 0x7f1a865a6000: PTE swap or migration
            entry, type 0, offset 0x9c4; anonymous 0x7f1a858fe000-0x7f1a8667e000
how many    216 pages at this moment, 432 so far
"""


def test_the_golden_splat() -> None:
    assert verdict().splat() == GOLDEN


def test_what_page_owner_knows_is_told_where_there_is_room() -> None:
    lines = verdict(
        now=UNPINNED,
        buffer=[],
        history=[],
        owner_now=[],
        allocated=["order 0, gfp 0x1100cca by pid 111 (vcap-capture) at 12.000000 s", "alloc+0x1 < fault"],
        freed=["by pid 112", "free_pages+0x1 < exit_mmap+0x2"],
        notes=["a note of the rule"],
    ).splat()  # fmt: skip
    assert "allocated   order 0, gfp 0x1100cca by pid 111 (vcap-capture) at 12.000000 s ..." in lines
    assert "freed       by pid 112" in lines
    assert "note        a note of the rule" in lines
    assert "owner now   nobody that could be found" in lines


def test_a_finding_without_a_page_is_short() -> None:
    evidence = Evidence(notes=["7 pins are held by nobody that is known"], stopped=True)
    text = Verdict(NOT_DIRTIED, "pages", -1, -1, None, None, evidence, 7, 7).splat()
    assert [line.split("  ")[0] for line in text.splitlines() if not line.startswith(" ")] == [
        f"vcapdev: not-dirtied ({NOT_DIRTIED.id}): pages", "what", "certainty", "note", "how many",
    ]  # fmt: skip


LINES = st.lists(st.text(max_size=400), max_size=6)


@given(LINES, LINES, LINES, LINES, LINES, LINES)
def test_any_finding_fits_on_a_screen(
    notes: list[str], buffer: list[str], owners: list[str], stack: list[str], held: list[str],
    history: list[str],
) -> None:  # fmt: skip
    made = verdict(
        notes=notes,
        buffer=buffer,
        owner_then=owners,
        owner_now=owners[1:],
        allocated=stack,
        freed=stack,
        held_by=held,
        history=[Sight("field 1 before", text) for text in history],
    )
    made.rule = NOT_DIRTIED
    lines = made.splat().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[0] == made.key
    assert lines[-1].startswith("how many")
    assert all(line.isprintable() for line in lines[1:])


def test_first_lines_tell_all_findings_of_page_rules_apart() -> None:
    """Each fits on the line without being cut, and none is another's."""
    from vcapdev.dmacheck.court import _article

    kinds = (
        "memory without a struct page",
        "unreadable compound page",
        "zero page",
        "slab page",
        "page table",
    )
    kinds += ("free page", "typed kernel page", "reserved page", "KSM page", "anonymous huge page")
    kinds += ("anonymous page", "movable kernel page", "shmem page", "file page", "page of a truncated file")
    kinds += ("kernel page without owner marks",)
    keys = []
    for rule in PAGE_RULES:
        for kind in kinds:
            for promise in (USER, KERNEL):
                subject = f"DMA write to {_article(kind)}, program for {promise}"
                keys.append(key_of(rule, subject))
                assert keys[-1].endswith(promise), keys[-1]
    assert len(set(keys)) == len(keys)
    assert max(map(len, keys)) <= 80


def test_a_first_line_that_has_to_be_cut_is_still_its_own() -> None:
    start = "DMA write to something that takes a whole line to be told of, or even "
    keys = {key_of(NOT_PINNED, f"{start}{more}") for more in ("more than that", "much more than that")}
    assert len(keys) == 2
    assert all(len(key) == 80 for key in keys)
    wrong = key_of(CROSSES_PAGES, "DMA write beyond a page, into the wrong one (anonymous page)")
    assert wrong == "vcapdev: crosses-pages (V8): DMA write beyond its page (anonymous page)"


@pytest.mark.parametrize(
    ("page", "claims", "text"),
    [
        (ANON, 1, "refcount 1025: 1 pin of 1 buffer, 1 mapping"),
        (ANON, 0, "refcount 1025: 1 pin, not a buffer's, 1 mapping"),
        (ANON, 2, "refcount 1025: 1 pin where 2 buffers claim one each, 1 mapping"),
        (TWICE, 1, "refcount 2050: 2 pins, 1 of them not a buffer's, 1 mapping, 1 other reference"),
        (UNPINNED, 0, "refcount 1: no pin, 1 mapping"),
        (FILE, 1, "refcount 1026: 1 pin of 1 buffer, 1 mapping, the page cache"),
        (replace(UNPINNED, refcount=0), 0, "refcount 0: no pin, 1 mapping, 1 missing"),
        (HUGE, 64, "64 pins of 64 buffers, of a compound page with refcount 65"),
        (SLAB, 0, "it is a typed page of the kernel (slab), refcount 1"),
    ],
)
def test_who_holds_a_page(page: PageView, claims: int, text: str) -> None:
    assert holders(page, claims) == text


def test_without_the_frameworks_books_no_pin_is_called_a_strangers() -> None:
    assert holders(ANON, 0, blind=True) == "refcount 1025: 1 pin, 1 mapping"


def test_a_verdict_of_the_checker_has_all_of_it() -> None:
    guest = SyntheticGuest()
    card = FakeCard(guest)
    guest.anon(2000, pins=0)
    card.write(card.program(2000))
    labels = [line[:12].strip() for line in card.found[0].splat().splitlines()[1:]]
    named = [label for label in labels if label]
    assert named[:5] == ["what", "certainty", "written by", "where", "page"]
    assert [label for label in named if label in ("buffer", "held by", "owner then", "owner now")]
    assert named[-1] == "how many"
    evidence = card.found[0].to_json()["evidence"]
    assert evidence["held_by"]
    assert evidence["page_owner"] == {"allocated": [], "freed": []}
    guest.close()
