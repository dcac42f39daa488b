# SPDX-License-Identifier: GPL-2.0-or-later
"""Where structs of modules keep their members: from BTF, else from the declarations in their headers.

Altered modules that were built without the kernel's vmlinux have no BTF, nor has any module before 5.11
(commit 36e68442d1af). What is declared here has had the same members in all releases that have it; the sizes
of what is embedded come from the running kernel's BTF all the same, and whoever uses such a struct checks
what it finds there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vcapdev.guestmm.btf import Btf, BtfError, Kind
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.modulebtf import module_types

Offsets = Mapping[str, int]

_MODULES = (  # whose types are asked for, in this order
    *("videodev", "videobuf_core", "videobuf_dma_sg"),
    *("videobuf2_common", "videobuf2_v4l2", "videobuf2_memops", "videobuf2_dma_sg", "videobuf2_dma_contig"),
    *("videobuf2_vmalloc", "v4l2_mem2mem", "bttv"),
)
_KERNELS = frozenset(  # structs that modules bring only where they know but their names
    ("task_struct", "mm_struct", "file", "module", "rb_node", "anon_vma", "vm_area_struct", "address_space")
)
_SCALARS = {"u32": 4, "u64": 8, "ptr": 8}
VIDEO_MAX_FRAME = 32  # include/uapi/linux/videodev2.h

# include/media/videobuf-core.h and videobuf-dma-sg.h, the same from 5.10 until their end in 6.6.
# drivers/media/common/videobuf2/videobuf2-dma-sg.c, the same from 5.10 on.
_DECLARED: dict[str, str] = {
    "videobuf_queue": "struct mutex vb_lock; ptr ext_lock; ptr irqlock; ptr dev; struct wait_queue_head wait;"
    " u32 type; u32 msize; u32 field; u32 last; ptr bufs[32]; ptr ops; ptr int_ops; u32 streaming;"
    " struct list_head stream; u32 read_off; ptr read_buf; ptr priv_data",
    "videobuf_buffer": "u32 i; u32 magic; u32 width; u32 height; u32 bytesperline; u64 size; u32 field;"
    " u32 state; struct list_head stream; struct list_head queue; struct wait_queue_head done;"
    " u32 field_count; u64 ts; u32 memory; u64 bsize; u64 boff; u64 baddr; ptr map; u32 privsize; ptr priv",
    "videobuf_dmabuf": "u32 magic; u32 offset; u64 size; ptr pages; ptr vaddr; ptr vaddr_pages; ptr dma_addr;"
    " ptr dev; u64 bus_addr; ptr sglist; u32 sglen; u64 nr_pages; u32 direction",
    "vb2_dma_sg_buf": "ptr dev; ptr vaddr; ptr pages; ptr vec; u32 offset; u32 dma_dir;"
    " struct sg_table sg_table; ptr dma_sgt; u64 size; u32 num_pages",
}


class StructError(ValueError):
    """A struct that is needed is neither in any BTF nor declared here."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    align: int


class Structs:
    """Offsets of members by struct, looked up once.

    What a module brings along is known only while it is loaded.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._known: dict[tuple[str, tuple[str, ...]], Offsets] = {}

    @classmethod
    def of(cls, kernel: Kernel) -> Structs:
        """The kernel's own, made once."""
        found = kernel.cache.get("structs")
        if not isinstance(found, cls):
            found = kernel.cache["structs"] = cls(kernel)
        return found

    def offsets(self, name: str, *members: str) -> Offsets:
        """Byte offsets of these members (``"a.b"`` looks into what is embedded).

        :raise StructError: when the struct, or one of the members, is not known.
        """
        key = name, members
        found = self._known.get(key)
        if found is None:
            found = self._find(name, members)
            if found is None:
                raise StructError(f"the guest's BTF has no struct {name} with {', '.join(members)}")
            self._known[key] = found
        return found

    def size(self, name: str) -> int:
        """Size of a struct in bytes.

        :raise StructError: when it is not known.
        """
        for types in self._sources(name):
            found = types.find(name, Kind.STRUCT)
            if found is not None:
                return types.sizeof(found.id)
        raise StructError(f"the guest's BTF has no struct {name}")

    def enumerators(self, name: str) -> dict[str, int]:
        """Names and values of an enumeration; none when it is not known."""
        for types in self._sources(name):
            found = types.find(name, Kind.ENUM, Kind.ENUM64)
            if found is not None:
                return types.enumerators(found.id)
        return {}

    def is_array(self, name: str, member: str) -> bool:
        """Whether a member is an array rather than a pointer to one."""
        for types in self._sources(name):
            place = types.place(name, member)
            if place is not None:
                return types.resolve(place.type_id).kind == Kind.ARRAY
        return False

    def _sources(self, name: str) -> Iterator[Btf]:
        """The types of modules that are loaded and bring this name, then the kernel's."""
        for module in _MODULES if name not in _KERNELS else ():
            types = module_types(self._kernel, module)
            if types is not None and types.own(name):
                yield types
        yield self._kernel.btf

    def _find(self, name: str, members: tuple[str, ...]) -> Offsets | None:
        for types in self._sources(name):
            try:
                places = {member: types.offset(name, member) for member in members}
            except BtfError:
                continue
            known = {member: place for member, place in places.items() if place is not None}
            if len(known) == len(members):
                return known
        declared = self._declared(name)
        return declared if declared is not None and all(member in declared for member in members) else None

    def _declared(self, name: str) -> Offsets | None:
        """Lay a declaration out as the compiler does (System V ABI, natural alignment)."""
        if name not in _DECLARED:
            return None
        offsets, at = {}, 0
        for text in _DECLARED[name].split(";"):
            member = self._member(text.split())
            if member is None:
                return None
            at = -(-at // member.align) * member.align
            offsets[member.name] = at
            at += member.size
        return offsets

    def _member(self, words: list[str]) -> _Member | None:
        *kind, name = words
        if kind[0] != "struct":
            size = _SCALARS[kind[0]]
            name, _, count = name.rstrip("]").partition("[")
            return _Member(name, size * int(count or 1), size)
        found = self._kernel.btf.find(kind[1], Kind.STRUCT)
        if found is None:
            return None
        size = self._kernel.btf.sizeof(found.id)
        return _Member(name, size, 8 if size % 8 == 0 else 4)
