# SPDX-License-Identifier: GPL-2.0-or-later
"""Which part of the last frame went to a page in which state: for the picture of page states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vcapdev.bt878.frame import SentField, SentFrame

_PAGE = 4096

Json = dict[str, Any]


def describe_frame(frame: SentFrame, states: Mapping[int, str]) -> Json:
    """Plain values: the fields, and for each run of bytes in plane 0 the state of the page it went to.

    :param states: page frame number to state, as ``Checker.page_states`` gives them.
    """
    fields = [field for field in frame.fields if not field.vbi]
    return {
        "number": frame.number,
        "fields": [
            {"field": field.field, "format": field.format, "width": field.width, "lines": field.lines}
            for field in fields
        ],
        "pieces": [piece for field in fields for piece in _pieces(field, states)],
    }


def _pieces(field: SentField, states: Mapping[int, str]) -> Iterator[tuple[int, int, int, int, str]]:
    """(field, line, first byte of the line, bytes, state); a piece ends where its page ends."""
    for row in (field.plane == 0).nonzero()[0].tolist():
        address, left = int(field.addr[row]), int(field.length[row])
        line, offset = int(field.line[row]), int(field.offset[row])
        while left:
            part = min(left, _PAGE - address % _PAGE)
            yield field.field, line, offset, part, states.get(address // _PAGE, "not judged")
            address, offset, left = address + part, offset + part, left - part
