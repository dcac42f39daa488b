# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares ``lspci -vv`` of the card with golden files, for tests on the host and in the guest.

In a guest test: ``assert mask(output_of("lspci -vv -d 109e:")) == golden("pv143")``.
``mask`` takes away what firmware and kernel choose: slot, addresses, interrupt number, the list of modules
(which needs depmod's index), and lspci's remarks about itself. Names come from the guest's pci.ids.
"""

from __future__ import annotations

import re
from pathlib import Path

DIRECTORY = Path(__file__).parent / "pci" / "golden"

_MASKS = [
    (r"^([0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] ", "SLOT "),
    (r"\bIRQ \d+$", "IRQ N"),
    (r"\bMemory at [0-9a-f]+ ", "Memory at ADDRESS "),
]
_PLUGGED = (
    r"(?<= Stepping[+-] )SERR[+-]",
    "SERR+",
)  # firmware switches it on, not for a card that comes later
_DROPPED = re.compile(r"^(lspci: |pcilib: |\s+(Kernel modules|IOMMU group|NUMA node|Physical Slot): )")


def mask(text: str, *, plugged: bool = True) -> str:
    """The output of lspci without what differs from machine to machine.

    :param plugged: the card came after the firmware had looked for cards.
    """
    kept = [line.rstrip() for line in text.splitlines() if line.strip() and not _DROPPED.match(line)]
    masked = "\n".join(kept) + "\n"
    for pattern, replacement in [*_MASKS, *([_PLUGGED] if plugged else [])]:
        masked = re.sub(pattern, replacement, masked, flags=re.MULTILINE)
    return masked


def golden(board: str) -> str:
    """What a guest shows of a board, with bttv bound to it."""
    return (DIRECTORY / f"{board}.lspci-vv.txt").read_text()
