# SPDX-License-Identifier: GPL-2.0-or-later
"""A synthetic guest in which a process maps a page that a finding is about."""

from __future__ import annotations

import json
import struct
from typing import Any

from fakecard import FakeCard
from synthetic import DIRECT_MAP, SyntheticGuest

from vcapdev.evidence.image import ImageMap

AT = 0x700000  # where the kernel objects lie
USER = 0x7F1234000000
INDEX = 0x103
PFN = 2000


class Scene:
    """pid 42 "capture" maps page PFN at USER + 0x3000; a card has written to it while it was not pinned."""

    def __init__(self, style: str = "6.1") -> None:
        self.guest = SyntheticGuest(style)
        self.mapping = self._process()
        self.guest.anon(PFN, pins=0, mapping=self.mapping, index=INDEX)
        self.guest.poke(PFN << 12, b"video")
        card = FakeCard(self.guest)
        card.write(card.program(PFN))
        self.memory = ImageMap(self.guest.memory.segments, [])  # type: ignore[arg-type]
        self.verdict: dict[str, Any] = json.loads(json.dumps(card.found[0].to_json()))

    def _process(self) -> int:
        top = self.guest._table()
        self.guest.map(USER + 0x3000, PFN << 12, top=top)
        task = self._put(0x000, 42)
        self.guest.poke(AT + 8, b"capture\0")
        mm = self._put(0x100, DIRECT_MAP + top, task)
        chain = DIRECT_MAP + AT + 0x400
        vma = self._put(0x200, USER, USER + 0x10000, mm, 0x100, 0)
        self._put(0x300, 0, 0, chain + 32)  # rb_root of the anon_vma
        self._put(0x400, vma, 0, 0, 0, 0, 0, 0)
        return (DIRECT_MAP + AT + 0x300) | 1

    def _put(self, offset: int, *words: int) -> int:
        data = struct.pack(f"<{len(words)}Q", *(word & 0xFFFFFFFFFFFFFFFF for word in words))
        self.guest.poke(AT + offset, data)
        return DIRECT_MAP + AT + offset
