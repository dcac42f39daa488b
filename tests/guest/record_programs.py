# SPDX-License-Identifier: GPL-2.0-or-later
"""Records what stock drivers have the card do, for tests/bt878/test_recorded_programs.py.

::

    tools/python -m pytest tests/guest/record_programs.py

has the bttv of two kernels (on videobuf, on videobuf2) capture in steps, and writes the RISC programs and the
registers as they then are to ``tests/bt878/recorded/``. To be repeated for a new kernel. No test of ours.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vcapdev
from vcapdev.testing import Card, Guest

DIRECTORY = Path(__file__).parents[1] / "bt878" / "recorded"
KERNELS = ("bookworm-6.1", "trixie-6.12")
PICTURES = (
    {"size": "320x96", "format": "YUYV", "offset": 0x10},
    {"size": "336x64", "format": "YU12"},
    {"size": "96x64", "format": "BGR3", "field": "bottom"},
)
LONG = 1000  # frames: more than are stepped through


def hooked(card: Card) -> list[list[int]]:
    """The program when a buffer's is in the loop: between two buffers there may be none."""
    for _ in range(20):
        program = [[each.address, *each.words] for each in card.program()]
        if len(program) > 32:
            return program
        card.step()
    raise AssertionError("no buffer is hooked")


def record(guest: Guest, card: Card, kernel: str) -> None:
    for picture in PICTURES:
        capture = guest.start_capture(LONG, **picture)  # type: ignore[arg-type]
        capture.wait_frames(1)
        with card.stepped():
            card.step(8)
            program = hooked(card)
            registers = {name: int(value) for name, value in card.registers.all().items()}
        capture.stop()
        about = {"kernel": kernel, "release": guest.release, **picture}
        name = f"{kernel}-{picture['format']}.json"
        text = json.dumps({**about, "registers": registers, "program": program}, separators=(",", ":"))
        (DIRECTORY / name).write_text(text.replace("],[", "],\n[") + "\n")


@pytest.mark.guest
@vcapdev.guest(kernel=KERNELS[0])
def test_videobuf(guest: Guest, card: Card) -> None:
    record(guest, card, KERNELS[0])


@pytest.mark.guest
@vcapdev.guest(kernel=KERNELS[1])
def test_videobuf2(guest: Guest, card: Card) -> None:
    record(guest, card, KERNELS[1])
