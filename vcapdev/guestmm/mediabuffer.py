# SPDX-License-Identifier: GPL-2.0-or-later
"""A buffer of a media framework, as the kernel's own books describe it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE

MAX_BUFFER_PAGES = 1 << 14  # 64 MB; what a buffer has beyond is not looked at
USERPTR, MMAP, DMABUF, OVERLAY, KERNEL = "userptr", "mmap", "dmabuf", "overlay", "kernel"

_Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MediaBuffer:
    """One buffer (one plane of it), found in the guest's memory.

    ``queue`` and ``address`` are kernel addresses of the queue's and the buffer's structs; ``index`` is -1
    for what is no numbered buffer (the one behind read()). ``state`` is the framework's number for it,
    ``state_name`` its word; ``owned`` tells whether it is the device's in that state, ``steady`` whether the
    framework can be neither pinning nor releasing its pages in it.

    ``userptr`` and ``length`` are what the user passed; 0 and the size where there is no user address.
    ``pfns`` are the page frames in the order of the buffer (-1 for what is no page), its first byte lies at
    ``offset`` in the first; ``extents``, shape ``(n, 2)``, start and length of each piece of a buffer that is
    described by a scatterlist alone. ``pinned``: the framework holds a pin on each page.
    ``complete``: the page frames are those of all of its length.

    ``watch`` are the addresses of the aligned words that, beside the page frames, all of this rests on, and
    ``state_at`` that of the 32-bit state. ``entries`` are address and number of its scatterlist's entries.
    ``bounced``: what the device writes to is elsewhere, ``extents``, and copied to the pages later.
    """

    framework: str
    queue: int
    address: int
    index: int
    plane: int
    memory: str
    state: int
    state_name: str
    owned: bool
    steady: bool
    userptr: int
    length: int
    offset: int
    pfns: _Ints
    pinned: bool
    complete: bool
    watch: tuple[int, ...]
    state_at: int
    extents: _Ints | None = None
    entries: tuple[int, int] = (0, 0)
    bounced: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """Tells buffers that exist at the same time apart."""
        return self.address, self.plane

    @property
    def holds(self) -> bool:
        """Whether its framework holds a pin on each page, and is not about to take or to drop them."""
        return self.pinned and self.steady

    @property
    def name(self) -> str:
        """For people."""
        number = f"buffer {self.index}" if self.index >= 0 else "the buffer of read()"
        return f"{self.framework} {self.memory} {number} at {self.address:#x}"

    def ranges(self) -> _Ints:
        """All bytes of the buffer, shape ``(n, 2)``: physical start and length of each piece, in order."""
        if self.extents is not None:
            return self.extents
        count = len(self.pfns)
        low, high = np.zeros(count, dtype=np.int64), np.full(count, PAGE_SIZE, dtype=np.int64)
        if count:
            low[0] = self.offset
            left = self.offset + self.length - (count - 1) * PAGE_SIZE
            high[-1] = min(max(left, low[-1]), PAGE_SIZE)
        return np.stack([(self.pfns << PAGE_SHIFT) + low, high - low], axis=1)

    def targets(self) -> _Ints:
        """The page frames that a device writes to for this buffer, in no certain order."""
        if not self.bounced or self.extents is None:
            return self.pfns
        first, last = self.extents[:, 0], self.extents.sum(axis=1) - 1
        return np.concatenate([first >> PAGE_SHIFT, last >> PAGE_SHIFT])

    def text(self) -> str:
        """One line for people."""
        where = f"user address {self.userptr:#x}, " if self.userptr else ""
        pins = ", pages pinned" if self.pinned else ""
        return (
            f"{self.name}: state {self.state_name}, {where}{self.length} bytes, {len(self.pfns)} pages{pins}"
        )
