# SPDX-License-Identifier: GPL-2.0-or-later
"""The vCPUs' registers, from the text of QEMU's monitor command ``info registers -a``."""

from __future__ import annotations

import re

_CPU = re.compile(r"^CPU#\d+", re.MULTILINE)
_REGISTER = re.compile(r"\b(R[A-Z0-9]{1,2}|RFL|RIP|CR[0234]) ?= ?([0-9a-f]{8,16})\b")
_SEGMENT = re.compile(r"^(ES|CS|SS|DS|FS|GS) ?= ?([0-9a-f]{4}) ([0-9a-f]{16})", re.MULTILINE)
_MAX_CPUS = 256


def parse_registers(text: str) -> list[dict[str, int]]:
    """Registers of each vCPU, names in lower case: ``rip``, ``rfl``, ``cs``, ``gs_base``, ``cr3`` ..."""
    starts = [found.start() for found in _CPU.finditer(text)][:_MAX_CPUS]
    ends: list[int | None] = [*starts[1:], None]
    return [_of_one(text[start:end]) for start, end in zip(starts, ends, strict=False)]


def _of_one(text: str) -> dict[str, int]:
    values = {name.lower(): int(number, 16) for name, number in _REGISTER.findall(text)}
    for name, selector, base in _SEGMENT.findall(text):
        values[name.lower()] = int(selector, 16)
        values[f"{name.lower()}_base"] = int(base, 16)
    return values
