# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects reading what lies behind media buffers: scatterlists, modules' BTF, the bounce pool."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from frameworks import DESCRIPTORS, FILE, USER, MediaGuest, at, guest_page
from synthetic import PAGE, BtfBuilder, SyntheticGuest

from vcapdev.guestmm.btf import BtfError, Kind
from vcapdev.guestmm.kernel import attach
from vcapdev.guestmm.leaves import Leaves
from vcapdev.guestmm.media import Media, buffers
from vcapdev.guestmm.memory import GuestMemory, GuestReadError
from vcapdev.guestmm.modulebtf import SplitBtf
from vcapdev.guestmm.scatter import ScatterLists
from vcapdev.guestmm.structs import StructError, Structs
from vcapdev.guestmm.words import Reader, Words


def kernel_of(guest):
    return attach(GuestMemory(guest.memory))


def entries(*pieces: tuple[int, int, int]) -> list[int]:
    """Scatterlist entries of (pfn, offset, length); the device finds each 16 MiB further on."""
    words = []
    for pfn, offset, length in pieces:
        words += [guest_page(pfn), offset | length << 32, (pfn * PAGE + offset) + (16 << 20), 0]
    return words


@pytest.fixture
def media():
    guest = MediaGuest()
    yield guest
    guest.close()


def test_a_scatterlist_in_two_parts(media):
    second = media.new(*entries((900, 0, 100)))
    first = media.new(*entries((700, 0x200, PAGE - 0x200), (701, 0, 2 * PAGE)), at(second) | 1, 0, 0, 0)
    found = ScatterLists(kernel_of(media)).read(at(first), 3)
    memory = [(700 * PAGE + 0x200, PAGE - 0x200), (701 * PAGE, 2 * PAGE), (900 * PAGE, 100)]
    assert found.memory.tolist() == [list(piece) for piece in memory]
    assert found.bus[:, 0].tolist() == [start + (16 << 20) for start, _ in memory]


@pytest.mark.parametrize("terabytes", [12, 38, 60])
def test_a_scatterlist_in_vmalloc_memory(media, terabytes):
    """KASLR moves the direct map, as large as RAM and some, and vmalloc memory, which follows."""
    place = media.new(*entries((700, 0x200, PAGE - 0x200), (701, 0, PAGE)))
    area = at(0) + (terabytes << 40)
    media.map(area, place & ~(PAGE - 1))
    kernel = kernel_of(media)
    found = ScatterLists(kernel).read(area + place % PAGE, 2)
    assert found.memory.tolist() == [[700 * PAGE + 0x200, PAGE - 0x200], [701 * PAGE, PAGE]]
    reader = Reader.of(kernel)
    assert reader.physical(area + place % PAGE) == place
    assert reader.physicals([at(place), area + place % PAGE]).tolist() == [place, place]


def test_a_scatterlist_that_leads_back_to_itself_ends(media):
    place = media.new(*[0] * 8)
    media.put(place, *entries((700, 0, PAGE)), at(place) | 1, 0, 0, 0)
    assert len(ScatterLists(kernel_of(media)).read(at(place), 1 << 30).memory) <= 1 << 14


def test_entries_that_are_no_pages(media):
    place = media.new(0x1234, 0, 0, 0, 0xFFFFEA0000000003, 0, 0, 0)
    assert (ScatterLists(kernel_of(media)).read(at(place), 2).memory[:, 0] == -1).all()


def test_a_module_brings_types_on_top_of_the_kernels():
    guest = SyntheticGuest()
    base = kernel_of(guest).btf
    own = BtfBuilder()
    inner = len(base)  # the number of the module's first type
    own.compound("vb2_thing", 16, [("first", base.find("page", Kind.STRUCT).id, 0)])
    own.compound("vb2_outer", 32, [("head", base.find("atomic_t").id, 0), ("thing", inner, 8)])
    types, strings = own.types, own.strings
    shifted = [shift_strings(entry, base.string_size) for entry in types]
    body = b"".join(shifted)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings))
    split = SplitBtf(base, head + body + bytes(strings))
    assert len(split) == inner + 2
    assert split.own("vb2_outer")
    assert not split.own("page")
    assert split.offset("vb2_outer", "thing") == 8
    assert split.offset("vb2_outer", "thing.first._refcount") == 8 + 52
    assert split.offset("page", "_refcount") == 52
    assert split.sizeof(split.find("vb2_outer").id) == 32
    with pytest.raises(BtfError):
        split.type(len(split))
    guest.close()


def shift_strings(entry: bytes, by: int) -> bytes:
    """Names of a struct and of its members count from the end of the kernel's strings."""
    words = list(struct.unpack(f"<{len(entry) // 4}I", entry))
    for place in (0, *range(3, len(words), 3)):
        words[place] += by
    return struct.pack(f"<{len(words)}I", *words)


def test_what_nobody_declares_is_named(media):
    structs = Structs.of(kernel_of(media))
    with pytest.raises(StructError, match="no struct nothing with here"):
        structs.offsets("nothing", "here")
    with pytest.raises(StructError, match="no struct nothing"):
        structs.size("nothing")


def test_words_outside_guest_memory_are_refused(media):
    kernel = kernel_of(media)
    assert Words(kernel, [0x1000, 0x100000]).read().shape == (2,)
    for address in (0xB0000, 1 << 40, 0x1001):
        with pytest.raises(GuestReadError):
            Words(kernel, [0x1000, address])


def test_pages_by_their_struct_pages(media):
    import numpy as np

    reader = Reader.of(kernel_of(media))
    words = np.array([guest_page(5), guest_page(5) + 8, 0, 0xFFFF888000000000], dtype=np.uint64)
    assert reader.pfns(words).tolist() == [5, -1, -1, -1]


def test_a_buffer_behind_the_bounce_pool(media):
    """What the device writes to lies elsewhere; the scatterlist's bus addresses lead to the buffer."""
    pool = 24 << 20
    media.variable("io_tlb_start", struct.pack("<Q", pool))
    media.variable("io_tlb_end", struct.pack("<Q", pool + (1 << 20)))
    media.write_note()
    buffer = media.buffer((700, 701))
    for i, pfn in enumerate((700, 701)):
        media.put(buffer.sg + 32 * i, guest_page(pfn), PAGE << 32, pool + i * PAGE, 0)
    import numpy as np

    written = np.array([pool // PAGE, pool // PAGE + 1], dtype=np.int64)
    (found,) = Media.of(kernel_of(media)).behind(written, (int(written[0]), int(written[1])))
    assert found.bounced
    assert found.pfns.tolist() == [700, 701]
    assert found.ranges().tolist() == [[pool, PAGE], [pool + PAGE, PAGE]]


def test_a_driver_that_keeps_only_the_scatterlist(media):
    buffer = media.buffer((700, 701))
    for i, pfn in enumerate((700, 701)):
        media.put(buffer.sg + 32 * i, guest_page(pfn), PAGE << 32, 0, 0)
    media.put(buffer.memory_at + 8 + 16, 0)
    (found,) = buffers(kernel_of(media))
    assert found.pfns.tolist() == [700, 701]
    assert found.pinned


def test_no_device_is_open(media):
    media.put(DESCRIPTORS, 0, 0, 0, 0)
    media.buffer((700,))
    assert buffers(kernel_of(media)) == []


@pytest.mark.parametrize("word", [0, 1, 0xFFFFFFFFFFFFFFFF, 0xFFFF888700000000])
def test_a_file_that_leads_nowhere(media, word):
    media.buffer((700,))
    for offset in (16, 24):
        media.put(FILE + offset, word)
        assert buffers(kernel_of(media)) == []


def test_who_has_a_claim_to_pages(media, monkeypatch):
    """A buffer in whatever state lists its pages; it holds pins of them only in some; io_uring does both."""
    media.buffer((700, 701), state="needs-init")
    found = Media.of(kernel_of(media))
    assert [len(pfns) for pfns in found.listed()] == [2]

    class Rings:
        def pages(self, ring: int) -> list[np.ndarray]:
            return [np.array([900, 901]), np.array([700])]

    monkeypatch.setattr(found, "_rings", Rings())
    monkeypatch.setattr(found.files, "find", lambda: [])
    monkeypatch.setattr(found.files, "rings", [0x1000, 0x1000])  # two processes have it open
    assert sorted(np.concatenate(found.listed()).tolist()) == [700, 700, 701, 900, 901]
    assert set(found.pins()) == {(0x1000, -1), (0x1000, -2)}


def test_a_swap_entry_is_one_only_where_the_kernel_has_such_a_swap_file(media):
    """Type 1, offset 0x1234: the type in the five highest bits, the offset inverted from bit 9 on."""
    files = media.variable("nr_swapfiles", struct.pack("<I", 2))
    media.write_note()
    media.own(0, 700)
    media.entry(0, 1 << 59 | (~0x1234 & (1 << 50) - 1) << 9)
    kernel = kernel_of(media)
    leaves = Leaves(kernel, media.user_top, np.array([USER]))
    assert leaves.swapped().tolist() == [1 << 58 | 0x1234]
    media.poke(files, struct.pack("<I", 1))
    assert leaves.swapped().tolist() == [-2]
