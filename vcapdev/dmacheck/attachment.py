# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether, and to which kernel, the checker is attached; and what voids that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vcapdev.dma import MemoryMap
from vcapdev.dmacheck.rules import Setting
from vcapdev.guestmm.btf import BtfError
from vcapdev.guestmm.familiar import recognise
from vcapdev.guestmm.kernel import AttachError, Kernel, attach, refresh
from vcapdev.guestmm.memory import GuestMemory, GuestReadError
from vcapdev.guestmm.swiotlb import bounce_pfns

if TYPE_CHECKING:
    from vcapdev.guestmm.debugfile import DebugFile


class Attachment:
    """The kernel that is known, if any.

    ``epoch`` is another object whenever everything derived from guest memory has become void: a look that was
    prepared in another epoch must not be used.
    """

    def __init__(self, memory: MemoryMap) -> None:
        self._map = memory
        self._memory = GuestMemory(memory)
        self._under_way = False
        self._resets = 0
        self.debug_file: DebugFile | None = None  # stands in for what a kernel was built without
        self.kernel: Kernel | None = None
        self.setting: Setting | None = None
        self.epoch = object()
        self.generation = -1
        self.why_not = "DMA has not been switched on yet"
        self.release = ""
        self.build_id = ""

    @property
    def under_way(self) -> bool:
        """Whether the kernel is just being looked for: messages that are handled meanwhile may lead here."""
        return self._under_way

    @property
    def stale(self) -> bool:
        """Whether the memory map has changed since the kernel was last looked for in it."""
        return self.kernel is not None and self._map.generation != self.generation

    def attach(self, breathe: Callable[[], None], *, restored: bool = False) -> bool:
        """Find the kernel; ``why_not`` tells what was missing. A reset meanwhile makes it void.

        :param restored: the guest goes on from a snapshot: its kernel may be one that was met before.
        """
        if self._under_way:  # handling messages meanwhile led here again
            return False
        self._under_way, resets = True, self._resets
        try:
            kernel = (recognise(self._memory) if restored else None) or attach(
                self._memory, breathe, debug_file=self.debug_file
            )
            setting = Setting.of(kernel, bounce_pfns(kernel))
        except (AttachError, GuestReadError, BtfError) as error:
            self.why_not = str(error)
            return False
        finally:
            self._under_way = False
        if self._resets != resets:
            return False
        self.release, self.build_id, self.why_not = kernel.release, kernel.note.build_id, ""
        self._use(kernel, setting)
        return True

    def follow(self) -> bool:
        """Build anew what rests on the memory map or on the place of struct pages; False: given up."""
        if self.kernel is None or self.setting is None:
            return False
        try:
            self._use(refresh(self.kernel), self.setting)
        except GuestReadError as error:
            self.drop(f"the guest's memory map changed: {error}")
            return False
        return True

    def drop(self, why: str) -> None:
        """Forget the kernel."""
        self.kernel = self.setting = None
        self.why_not, self.epoch = why, object()
        self._resets += 1

    def _use(self, kernel: Kernel, setting: Setting) -> None:
        self.kernel, self.setting = kernel, setting
        self.generation, self.epoch = self._map.generation, object()
