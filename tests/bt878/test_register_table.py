# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/registers.md says what the declarations say.

Protects readers of the document: it is made from the declarations, and has to be made again when they change.
"""

from __future__ import annotations

from pathlib import Path

from vcapdev.bt878.register_table import table
from vcapdev.bt878.registers import REGISTERS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "registers.md"


def test_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == table(), "run: python -m vcapdev.bt878.register_table > docs/registers.md"


def test_every_register_and_field_is_in_it() -> None:
    text = table()
    for register in REGISTERS:
        for name, offset in register.places().items():
            assert name in text
            assert f"{offset:03x}" in text
        for field in register.FIELDS:
            assert f"| {register.NAME} | {field.bits} | {field.name} | {field.kind} |" in text
