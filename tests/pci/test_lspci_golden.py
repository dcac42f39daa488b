# SPDX-License-Identifier: GPL-2.0-or-later
"""The golden lspci texts: masked completely, and telling the same as the golden bytes.

Protects the guest's lspci test from comparing addresses, and the two kinds of golden file from disagreeing.
"""

from __future__ import annotations

import re

import pytest
from lspci_golden import DIRECTORY, golden, mask

BOARDS = ["pv143", "vc100"]

RAW = """\
0000:00:1f.2 Multimedia video controller: Brooktree Corporation Bt878 Video Capture (rev 11)
	Physical Slot: 3
	Interrupt: pin A routed to IRQ 21
	Region 0: Memory at febff000 (32-bit, prefetchable) [size=4K]
	Kernel driver in use: bttv
	Kernel modules: bttv
lspci: Unable to load libkmod resources: error -2

"""


def test_mask() -> None:
    assert mask(RAW) == (
        "SLOT Multimedia video controller: Brooktree Corporation Bt878 Video Capture (rev 11)\n"
        "\tInterrupt: pin A routed to IRQ N\n"
        "\tRegion 0: Memory at ADDRESS (32-bit, prefetchable) [size=4K]\n"
        "\tKernel driver in use: bttv\n"
    )


@pytest.mark.parametrize("board", BOARDS)
def test_golden_files_are_masked(board: str) -> None:
    assert mask(golden(board)) == golden(board)
    assert golden(board).startswith("SLOT ")


def flags(text: str, name: str) -> set[str]:
    """The flags of a line that are set: ``Mem+`` but not ``I/O-``."""
    line = re.search(rf"^\t{name}: (.*)$", text, re.MULTILINE)
    assert line
    return set(re.findall(r"(\S+)\+", line[1]))


@pytest.mark.parametrize("board", BOARDS)
def test_text_and_bytes_agree(board: str) -> None:
    text = golden(board)
    lines = (DIRECTORY / f"{board}.hex").read_text().splitlines()[1:]
    data = bytes.fromhex("".join(line.partition(": ")[2] for line in lines))
    status = int.from_bytes(data[6:8], "little")
    assert int(text.partition("(rev ")[2][:2], 16) == data[8]
    assert flags(text, "Control") == {"Mem", "BusMaster", "SERR"}
    assert int.from_bytes(data[4:6], "little") == 0x0106
    assert flags(text, "Status") == {"FastB2B"} | ({"Cap"} if status & 0x10 else set())
    assert f"Latency: {data[0x0D]} ({data[0x3E] * 250}ns min, {data[0x3F] * 250}ns max)" in text
    capabilities, at = [], data[0x34]
    while at:
        capabilities.append(f"[{at:x}]")
        at = data[at + 1]
    assert re.findall(r"Capabilities: (\[\w+\])", text) == capabilities
