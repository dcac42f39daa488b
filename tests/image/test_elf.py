# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the adding of a section to a module: the guest's kernel reads the result."""

from __future__ import annotations

import pytest
from crafted_elf import module, program, relocatable
from hypothesis import given
from hypothesis import strategies as st

from vcapdev.image.elf import Elf, ElfError, with_section


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_the_new_section_is_there_and_the_others_are_as_before(old: bytes, new: bytes) -> None:
    image = with_section(relocatable({".old": old, ".other": b"other"}), ".new", new)
    assert [Elf(image).section(name) for name in (".old", ".other", ".new")] == [old, b"other", new]
    again = with_section(image, ".newer", b"newer")
    assert [Elf(again).section(name) for name in (".old", ".new", ".newer")] == [old, new, b"newer"]


def test_what_cannot_take_a_section_is_refused() -> None:
    with pytest.raises(ElfError, match=r"has a section \.modinfo already"):
        with_section(module("x"), ".modinfo", b"")
    with pytest.raises(ElfError, match="no section headers"):
        with_section(program(), ".new", b"")
    with pytest.raises(ElfError):
        with_section(b"no ELF file", ".new", b"")
    with pytest.raises(ElfError):
        with_section(module("x")[:-1], ".new", b"")
