# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages of vfio-user, in numbers.

Source: QEMU docs/interop/vfio-user.rst and, for the flags taken over from VFIO, linux/vfio.h. All fields are
in host byte order, as the specification wants; the only hosts served are little endian, so that is spelt out.
"""

from __future__ import annotations

import struct
from enum import IntEnum


class Command(IntEnum):
    """Commands, by the number in the header."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11  # server to client only
    DMA_WRITE = 12  # server to client only
    DEVICE_RESET = 13
    DIRTY_PAGES = 14  # dropped from the specification
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16  # migration
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


# Header: message id, command, size of the whole message, flags, errno of a reply.
HEADER = struct.Struct("<HHIII")
TYPE_MASK = 0xF
TYPE_COMMAND = 0x0
TYPE_REPLY = 0x1
FLAG_NO_REPLY = 0x10
FLAG_ERROR = 0x20

# VERSION: major, minor; then optional JSON that ends in NUL.
VERSION = struct.Struct("<HH")
MAJOR = 0
MINOR = 0

# DMA_MAP: argsz, flags, offset in the file, address, size.
DMA_MAP = struct.Struct("<IIQQQ")
DMA_MAP_READ = 1 << 0
DMA_MAP_WRITE = 1 << 1

# DMA_UNMAP: argsz, flags, address, size.
DMA_UNMAP = struct.Struct("<IIQQ")
DMA_UNMAP_DIRTY_BITMAP = 1 << 0
DMA_UNMAP_ALL = 1 << 1

# DEVICE_GET_INFO: argsz, flags, number of regions, number of interrupt indexes.
DEVICE_INFO = struct.Struct("<IIII")
DEVICE_FLAG_RESET = 1 << 0
DEVICE_FLAG_PCI = 1 << 1

# DEVICE_GET_REGION_INFO: argsz, flags, index, capability offset, size, offset for mmap.
REGION_INFO = struct.Struct("<IIIIQQ")
REGION_FLAG_READ = 1 << 0
REGION_FLAG_WRITE = 1 << 1

# DEVICE_GET_REGION_IO_FDS: argsz, flags, index, count.
REGION_IO_FDS = struct.Struct("<IIII")

# DEVICE_GET_IRQ_INFO: argsz, flags, index, count.
IRQ_INFO = struct.Struct("<IIII")
IRQ_INFO_EVENTFD = 1 << 0
IRQ_INFO_MASKABLE = 1 << 1
IRQ_INFO_AUTOMASKED = 1 << 2
IRQ_INFO_NORESIZE = 1 << 3

# DEVICE_SET_IRQS: argsz, flags, index, start, count; then a byte an interrupt with IRQ_DATA_BOOL.
IRQ_SET = struct.Struct("<IIIII")
IRQ_DATA_NONE = 1 << 0
IRQ_DATA_BOOL = 1 << 1
IRQ_DATA_EVENTFD = 1 << 2
IRQ_DATA_MASK = IRQ_DATA_NONE | IRQ_DATA_BOOL | IRQ_DATA_EVENTFD
IRQ_ACTION_MASK = 1 << 3
IRQ_ACTION_UNMASK = 1 << 4
IRQ_ACTION_TRIGGER = 1 << 5
IRQ_ACTIONS = IRQ_ACTION_MASK | IRQ_ACTION_UNMASK | IRQ_ACTION_TRIGGER

# REGION_READ and REGION_WRITE: offset, region, count; then the data.
REGION_ACCESS = struct.Struct("<QII")
REGION_MESSAGE = struct.Struct("<HHIIIQII")  # the same with its header, for the fast path

# REGION_WRITE_MULTI: number of writes; then one record a write, always with eight bytes of data.
WRITE_MULTI = struct.Struct("<Q")
WRITE_MULTI_ONE = struct.Struct("<QII8s")
WRITE_MULTI_MAX = 200  # QEMU hw/vfio-user/protocol.h, VFIO_USER_MULTI_MAX

PAGE_SIZE = 4096  # every map is a multiple; the smallest page size that the protocol knows


def reply(ident: int, command: int, payload: bytes) -> bytes:
    """A reply to ``command``."""
    return HEADER.pack(ident, command, HEADER.size + len(payload), TYPE_REPLY, 0) + payload


def error_reply(ident: int, command: int, errno: int) -> bytes:
    """A refusal: only the header, as the specification wants."""
    return HEADER.pack(ident, command, HEADER.size, TYPE_REPLY | FLAG_ERROR, errno)


def command_name(command: int) -> str:
    """The name in the specification without its prefix, for messages to people."""
    try:
        return Command(command).name
    except ValueError:
        return f"command {command}"
