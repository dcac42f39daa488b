# SPDX-License-Identifier: GPL-2.0-or-later
"""What a buffer holds once the card has filled it."""

from __future__ import annotations

import numpy as np
from support.rootcomplex import POISON

from vcapdev.bt878.expected import Expected
from vcapdev.bt878.pattern import stamp, tags


def sent(expected: Expected, frame: int, both: bool = True) -> np.ndarray:
    """The image as it must be in memory: stamped, with tags; what no row covers is left as it was."""
    base = np.frombuffer(expected.base, np.uint8)
    image = np.full(len(base), POISON, np.uint8)
    lines = max(row.line for row in expected.rows) + 1
    tag_of = [tags(frame, field, 0, lines) for field in (0, 1)]
    for row in expected.rows:
        mask = np.frombuffer(stamp(frame, row.field).to_bytes(4, "little"), np.uint8)
        line = base[row.offset : row.offset + row.length] ^ np.resize(mask, row.length)
        if row.plane == 0:
            tag = tag_of[row.field][row.line].tobytes()[: row.length]
            line[: len(tag)] = np.frombuffer(tag, np.uint8)
        image[row.offset : row.offset + row.length] = line
    return image
