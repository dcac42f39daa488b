# SPDX-License-Identifier: GPL-2.0-or-later
"""The register declarations as a document: ``python -m vcapdev.bt878.register_table > docs/registers.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from vcapdev.bt878.registers import REGISTERS
from vcapdev.fields import SOURCES, Field, Register

_KINDS = {
    "rw": "read and write",
    "ro": "read-only",
    "live": "read-only, follows something that moves",
    "w1c": "latched, a 1 written clears",
    "wc": "latched, any write clears",
    "wo": "write-only, reads 0",
    "inert": "stored, steers analog electronics that the model does not have",
    "unmodelled": "stored, the model does not act on it: a change is reported once",
}

_INTRODUCTION = """\
# Registers of the Bt878, function 0, BAR0

Made from the declarations in `vcapdev/bt878/` by `python -m vcapdev.bt878.register_table`; a test compares.
A bit that is not listed is reserved: it reads 0, and writing a 1 to it is reported once by name. So is any
access to an offset that is not listed. Decoder registers (below 0x100) are eight bits wide, one to a dword.
`E_` is the copy for even (bottom) fields, `O_` the one for odd (top) fields.
"""


def table() -> str:
    """The whole document, Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    yield "Access of a field:\n"
    yield from (f"- **{kind}**: {text}" for kind, text in _KINDS.items())
    yield "\nHow sure a declaration is:\n"
    yield from (f"- **{tag}**: {text}" for tag, text in SOURCES.items())
    yield "\n## Overview\n"
    yield "| offset | name | access | reset | sure | reset sure | what |"
    yield "|---|---|---|---|---|---|---|"
    for register in sorted(REGISTERS, key=_first):
        yield _overview(register)
    yield "\n## Fields\n"
    yield "| register | bits | field | access | sure | what |"
    yield "|---|---|---|---|---|---|"
    for register in sorted(REGISTERS, key=_first):
        yield from (_field(register, field) for field in register.FIELDS)


def _first(register: type[Register]) -> int:
    return min(register.places().values())


def _overview(register: type[Register]) -> str:
    places = register.places()
    last = register.OFFSET + 4 * (register.REPEAT - 1)
    offsets = ", ".join(f"{offset:03x}" for offset in places.values())
    if register.REPEAT > 1:
        offsets += f" to {last:03x}"
    access = " ".join(kind for kind, mask in register.MASKS.items() if mask)
    reset = f"{register.RESET:#0{register.WIDTH // 4 + 2}x}"
    cells = (
        offsets,
        ", ".join(places),
        access,
        reset,
        register.SURE,
        register.RESET_SURE,
        _summary(register),
    )
    return f"| {' | '.join(cells)} |"


def _summary(register: type[Register]) -> str:
    return " ".join((register.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")


def _field(register: type[Register], field: Field) -> str:
    values = ", ".join(f"{number} {name}" for number, name in field.values.items())
    what = "; ".join(part for part in (field.doc, values) if part)
    sure = field.sure or register.SURE
    return f"| {register.NAME} | {field.bits} | {field.name} | {field.kind} | {sure} | {what} |"


if __name__ == "__main__":
    sys.stdout.write(table())
