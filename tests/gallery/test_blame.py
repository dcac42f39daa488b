# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the proof that a verdict blames the right instruction and page: wrong blame must not pass."""

from __future__ import annotations

from typing import Any

import pytest

from vcapdev.gallery.blame import describe, of_rule, wrong

Json = dict[str, Any]


def verdict(instruction: str | None, page: int = 0, pages: int = 216, **more: Any) -> Json:
    where = None if instruction is None else {"instruction": instruction, "address": 0x1000}
    target = None if page < 0 else {"page": page, "pages": pages}
    key = "vcapdev: not-pinned (V3): DMA write to an anonymous page"
    lines = [f"videobuf userptr buffer 0: state active; this is its page {page + 1}"]
    told = {"instruction": where, "buffer": target, "pages": 1, "evidence": {"buffer": lines}}
    return {"rule": "not-pinned", "id": "V3", "key": key, **told, **more}


WRITE = verdict("WRITE SOL 1008 bytes to 0x0a3c1010")
LAST = verdict("WRITE123 SOL EOL 768 bytes", page=215)
RELEASE = verdict("a program of 432 pieces, 4096 bytes of it to this page", page=3)
LEAK = verdict(None, page=-1, pages=0, evidence={"buffer": []}) | {"pages": 12}
NOTED = verdict("WRITE", evidence={"buffer": [], "notes": ["vb2 userptr buffer 1: state released"]})


@pytest.mark.parametrize(
    ("given", "blame"),
    [
        (WRITE, {"instruction": "WRITE", "page": "first", "says": "anonymous"}),
        (LAST, {"instruction": "WRITE123", "page": "last"}),
        (LAST, {"page": 216}),
        (LAST, {"page": "any", "buffer": "state active"}),
        (LAST, {"instruction": ["WRITE", "WRITE123"]}),
        (NOTED, {"buffer": "state released"}),
        (LEAK, {"unblamed": "for people only"}),
        (RELEASE, {"instruction": "program", "page": 4}),
        (LEAK, {"instruction": "none", "pages": 12}),
        (LEAK, {}),
    ],
)
def test_right_blame_passes(given: Json, blame: Json) -> None:
    assert wrong([given], blame) == ""


@pytest.mark.parametrize(
    ("given", "blame", "why"),
    [
        (WRITE, {"instruction": "WRITE123"}, "instruction WRITE is blamed, not WRITE123"),
        (LAST, {"instruction": "WRITE"}, "instruction WRITE123 is blamed, not WRITE"),
        (WRITE, {"page": "last"}, "page 1 of 216 is blamed, not the last one"),
        (LEAK, {"page": "first"}, "no page of a buffer"),
        (LEAK, {"page": "any"}, "no page of a buffer"),
        (LAST, {"instruction": ["WRITE", "fetch"]}, "instruction WRITE123 is blamed, not WRITE or fetch"),
        (WRITE, {"buffer": "state done"}, "no buffer is named with 'state done': videobuf userptr buffer 0"),
        (LEAK, {"buffer": "state done"}, "no buffer is named with 'state done': none at all"),
        (LEAK, {"instruction": "WRITE"}, "instruction none"),
        (LEAK, {"pages": 1}, "12 pages are blamed"),
        (WRITE, {"says": "slab"}, "without 'slab'"),
        (WRITE, {"colour": "red"}, "no key 'colour'"),
    ],
)
def test_wrong_blame_is_told(given: Json, blame: Json, why: str) -> None:
    assert why in wrong([given], blame)


def test_one_right_verdict_among_others_is_enough_and_none_is_not() -> None:
    assert wrong([WRITE, LAST], {"page": "last"}) == ""
    assert wrong([], {}) == "there is no verdict"


def test_verdicts_are_chosen_by_the_name_of_their_rule_or_of_two() -> None:
    other = WRITE | {"rule": "free-page", "id": "V1"}
    assert of_rule([other, WRITE], "not-pinned") == [WRITE]
    assert of_rule([other, WRITE], "not-pinned or free-page") == [other, WRITE]
    assert of_rule([other, WRITE], "recycled") == []


def test_the_description_names_what_is_known() -> None:
    assert describe(LAST) == "WRITE123, page 216 of 216"
    assert describe(RELEASE) == "program, page 4 of 216"
    assert describe(LEAK) == "12 pages"
    assert describe(LEAK | {"pages": 0}) == "nothing in particular"
