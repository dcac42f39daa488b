# SPDX-License-Identifier: GPL-2.0-or-later
"""How much one client may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass

from vcapdev.vfiouser import wire


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one client; what exceeds them is refused with an errno."""

    max_transfer: int = 1 << 20  # bytes in one region access; the specification's default
    max_message_fds: int = 8  # descriptors in one message; QEMU's own default
    max_maps: int = 65535  # DMA maps at a time; the specification's default
    max_files: int = 64  # distinct files behind the maps; each costs two descriptors
    max_mapped: int = 1 << 40  # bytes of address space over all files, and of all maps
    max_version_data: int = 4096  # bytes of capability JSON
    max_log_lines: int = 64  # refusals printed for one client; a hostile one must not fill the disk

    @property
    def max_message(self) -> int:
        """The longest message accepted, in bytes, header included."""
        payload = max(
            wire.REGION_ACCESS.size + self.max_transfer,
            wire.VERSION.size + self.max_version_data,
            wire.WRITE_MULTI.size + wire.WRITE_MULTI_MAX * wire.WRITE_MULTI_ONE.size,
        )
        return wire.HEADER.size + payload
