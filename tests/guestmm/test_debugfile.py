# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects reading a kernel without BTF or kallsyms through its vmlinux, and refusing another kernel's."""

import subprocess
from pathlib import Path

import pytest
from legacy import tell
from synthetic import KASLR, SyntheticGuest, note_bytes

from vcapdev.errors import UsageError
from vcapdev.guestmm.btf import Btf, Kind
from vcapdev.guestmm.debugfile import DebugFile
from vcapdev.guestmm.kernel import AttachError, attach
from vcapdev.guestmm.memory import GuestMemory

SOURCE = """
typedef struct { int counter; } atomic_t;
struct list_head { struct list_head *next, *prev; };
struct unknown;
enum pageflags { %s };
enum migratetype { MIGRATE_UNMOVABLE, MIGRATE_NONE = -1 };
struct page {
    unsigned long flags;
    union { struct list_head lru; struct { unsigned long compound_head; }; struct unknown *other; };
    void *mapping;
    unsigned long index, private;
    union { atomic_t _mapcount; unsigned int page_type; };
    atomic_t _refcount;
    const unsigned long memcg_data;
};
struct folio { struct page page; unsigned long _flags_1, w1, w2; int w3; atomic_t _pincount; _Bool b; };
struct zone { unsigned long zone_start_pfn; int low : 3, high : 5; unsigned long spans[4]; };
struct page a_page; struct folio a_folio; struct zone a_zone; enum migratetype a_type; enum pageflags flags;
"""


@pytest.fixture
def bare():
    """A guest with neither BTF nor kallsyms."""
    guest = SyntheticGuest("6.1")
    at = guest.symbols["__start_BTF"] - guest.image_virtual + (16 << 20)
    guest.poke(at, bytes(24))
    guest.symbols = {n: a for n, a in guest.symbols.items() if "BTF" not in n and "kallsyms" not in n}
    tell(guest)
    yield guest
    guest.close()


def build(directory: Path, guest: SyntheticGuest, *, debug: bool = True, moved: int = 0) -> Path:
    """A vmlinux of the guest's kernel; its symbols as linked, without KASLR."""
    names = sorted((number, f"PG_{name}") for name, number in guest.numbers.items())
    flags = [f"{name} = {number}" for number, name in names]
    text = SOURCE % ", ".join([*flags, f"__NR_PAGEFLAGS = {names[-1][0] + 1}"])
    source, output = directory / "vmlinux.c", directory / "vmlinux"
    source.write_text(text)
    symbols = [f"-Wl,--defsym={n}={a - KASLR + moved:#x}" for n, a in guest.symbols.items()]
    argv = ["gcc", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-Wl,--build-id=none", "-Wl,-e,a_page"]
    argv += ["-Wl,-Ttext-segment=0xffffffff81000000", "-mcmodel=kernel", *(["-g"] if debug else [])]
    subprocess.run([*argv, *symbols, "-o", str(output), str(source)], check=True, capture_output=True)
    return output


def test_types_and_symbols_come_from_the_file(bare, tmp_path):
    file = DebugFile.load(build(tmp_path, bare))
    kernel = attach(GuestMemory(bare.memory), debug_file=file)
    assert kernel.zero_pfn == bare.zero_pfn
    assert kernel.symbols.address("jiffies") == bare.symbols["jiffies"]
    assert (kernel.layout.refcount, kernel.layout.mapping, kernel.layout.head) == (52, 24, 8)
    assert (kernel.layout.pins.row, kernel.layout.pins.offset) == (1, 28)
    assert kernel.flags.bit("dirty") == 1 << bare.numbers["dirty"]


def test_without_the_file_the_options_that_are_needed_are_named(bare):
    with pytest.raises(AttachError, match="CONFIG_KALLSYMS=y"):
        attach(GuestMemory(bare.memory))


def test_without_btf_the_option_that_is_needed_is_named(guest):
    at = guest.symbols.pop("__start_BTF") - guest.image_virtual + (16 << 20)
    guest.poke(at, bytes(24))
    tables = guest._kallsyms()
    text = "".join(f"{k}={v}\n" for k, v in (guest.values | tables).items())
    guest.poke(
        guest.note_at, note_bytes(text.encode() + f"SYMBOL(_stext)={guest.image_virtual:x}\n".encode())
    )
    with pytest.raises(AttachError, match=r"INFO_BTF=y, or --vmlinux FILE of .*_DWARF_") as caught:
        attach(GuestMemory(guest.memory))
    assert "\n" not in str(caught.value)


def test_the_file_of_another_build_is_refused(bare, tmp_path):
    file = DebugFile.load(build(tmp_path, bare, moved=0x1000))
    with pytest.raises(AttachError, match="of another build: it has init_uts_ns elsewhere"):
        attach(GuestMemory(bare.memory), debug_file=file)


def test_all_kinds_of_types_are_written(bare, tmp_path):
    btf = Btf(DebugFile.load(build(tmp_path, bare)).btf)
    members = {m.name: m for m in btf.all_members(btf.find("zone", Kind.STRUCT).id)}
    assert (members["high"].bit_offset, members["high"].bit_size) == (67, 5)
    assert members["spans"].bit_offset == 128
    assert btf.sizeof(members["spans"].type_id) == 32
    assert btf.enumerators(btf.find("migratetype").id) == {"MIGRATE_UNMOVABLE": 0, "MIGRATE_NONE": -1}
    assert btf.offset("page", "lru.prev") == 16
    assert btf.offset("page", "_mapcount.counter") == 48
    assert btf.sizeof(btf.find("folio", Kind.STRUCT).id) == 104
    assert btf.find("unknown") is None


def test_a_file_without_debug_information_is_refused(bare, tmp_path):
    with pytest.raises(UsageError, match=r"DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y .*CONFIG_DEBUG_INFO=y"):
        DebugFile.load(build(tmp_path, bare, debug=False))


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(60), b"no ELF at all"])
def test_what_is_no_vmlinux_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match="--vmlinux") as caught:
        DebugFile.load(tmp_path / "file")
    assert "\n" not in str(caught.value)
