# SPDX-License-Identifier: GPL-2.0-or-later
"""A vmlinux with debug information in the place of what a kernel lacks in its own memory: BTF, kallsyms.

It is read before the guest runs, since that takes seconds. Only types that the checker asks for are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from drgn import Architecture, Platform, Program, SymbolKind

from vcapdev.errors import UsageError
from vcapdev.guestmm.btf import DWARF_OPTION
from vcapdev.guestmm.btfwriter import BtfWriter
from vcapdev.guestmm.kallsyms import Kallsyms
from vcapdev.guestmm.vmcoreinfo import Vmcoreinfo

_MASK = (1 << 64) - 1
_IMAGE = 0xFFFFFFFF80000000  # __START_KERNEL_map: below are per-CPU offsets, which KASLR does not move
_COMPARED = ("init_uts_ns", "_stext", "node_data", "init_top_pgt")

# Structs and enumerations that some rule or explanation looks into; those that a kernel lacks are left out.
TYPES = (
    *("page", "folio", "pageflags", "pagetype", "slab", "list_head", "rb_node", "rb_root_cached"),
    *("task_struct", "mm_struct", "vm_area_struct", "anon_vma", "anon_vma_chain", "address_space"),
    *("file", "file_operations", "files_struct", "fdtable", "path", "dentry", "qstr", "inode"),
    *("pglist_data", "per_cpu_nodestat", "node_stat_item", "zone", "zone_type", "mem_section"),
    *("mem_section_usage", "migratetype", "migrate_reason", "pageblock_bits", "fault_flag"),
    *("io_tlb_mem", "io_tlb_pool", "uts_namespace", "pid_namespace", "static_key_false"),
    *("module", "module_memory", "mod_mem_type", "btf", "btf_module", "mod_kallsyms"),
    *("mutex", "wait_queue_head", "scatterlist", "sg_table", "bio_vec", "frame_vector", "v4l2_fh"),
    *("videobuf_queue", "videobuf_buffer", "videobuf_dmabuf", "vb2_queue", "vb2_buffer", "vb2_plane"),
    *("vb2_buffer_state", "vb2_dma_sg_buf", "vb2_dc_buf", "vb2_vmalloc_buf", "v4l2_m2m_ctx", "video_device"),
    *("io_ring_ctx", "io_mapped_ubuf", "io_rsrc_data", "io_rsrc_node"),
    *("page_owner", "page_ext", "page_ext_operations", "page_ext_flags", "stack_record", "handle_parts"),
)


@dataclass(frozen=True)
class DebugFile:
    """``btf`` holds :data:`TYPES`, ``symbols`` addresses as linked; ``build_id`` may be empty."""

    path: Path
    btf: bytes
    symbols: Mapping[str, int]
    build_id: str

    @classmethod
    def load(cls, path: Path) -> DebugFile:
        """Read the file.

        :raise UsageError: when it is no vmlinux with debug information.
        """
        program = Program(Platform(Architecture.X86_64))
        module = program.extra_module(str(path), create=True)
        if isinstance(module, tuple):
            module = module[0]
        module.address_ranges = [(0, _MASK)]
        try:
            module.try_file(str(path), force=True)
            writer = BtfWriter(program, TYPES)
            known = [name for name in TYPES if writer.add(name)]
            bias = module.debug_file_bias or 0
            symbols = {
                symbol.name: (symbol.address - bias) & _MASK
                for symbol in program.symbols()
                if symbol.kind not in (SymbolKind.FILE, SymbolKind.SECTION)
            }
        except Exception as error:  # drgn has no one class for all that may be wrong with a file
            raise UsageError(f"--vmlinux {path}: it cannot be read: {error}") from error
        if "page" not in known:
            raise UsageError(
                f"--vmlinux {path} has no struct page: give a vmlinux that was built with {DWARF_OPTION}"
            )
        return cls(path, writer.blob(), symbols, module.build_id.hex() if module.build_id else "")

    def why_not(self, note: Vmcoreinfo) -> str:
        """Why this is not the file of the kernel that left this note; empty when it may be."""
        if note.build_id and self.build_id and note.build_id != self.build_id:
            return (
                f"{self.path} is of another build: {self.build_id[:12]}, the kernel's is {note.build_id[:12]}"
            )
        for name in _COMPARED:
            told, linked = note.symbol(name), self.symbols.get(name)
            if told is not None and linked is not None and told != linked + note.kernel_offset:
                return f"{self.path} is of another build: it has {name} elsewhere"
        return ""

    def kallsyms(self, note: Vmcoreinfo) -> Kallsyms:
        """The symbols, moved to where the kernel runs."""
        moved = [a + note.kernel_offset if a >= _IMAGE else a for a in self.symbols.values()]
        return Kallsyms(list(self.symbols), np.array([a & _MASK for a in moved], dtype=np.uint64))
