# SPDX-License-Identifier: GPL-2.0-or-later
"""The media frameworks' buffers, found in the guest without anybody's help: whose pages a program writes to.

::

    tasks ─▶ open files of videodev ─▶ what the driver keeps for each opener ─▶ queues ─▶ buffers ─▶ pages

Nothing here knows a driver: a queue is recognised by the framework's operations that it points to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import methodcaller
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.btf import BtfError
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.mediabuffer import MediaBuffer
from vcapdev.guestmm.memory import PAGE_SHIFT, GuestReadError
from vcapdev.guestmm.openfiles import OpenFile, OpenFiles
from vcapdev.guestmm.pages import Pfns, among
from vcapdev.guestmm.rings import Rings
from vcapdev.guestmm.scatter import ScatterLists
from vcapdev.guestmm.structs import StructError
from vcapdev.guestmm.swiotlb import bounce_pfns
from vcapdev.guestmm.vb2 import Vb2
from vcapdev.guestmm.videobuf import Videobuf
from vcapdev.guestmm.words import Reader
from vcapdev.recall import Recall

_MAX_QUEUES = 256


class Framework(Protocol):
    """A media framework whose queues and buffers can be read."""

    name: str

    def queues(self, private: int) -> list[int]:
        """Addresses of the queues of an opener of a video device, by the driver's data for him."""

    def alive(self, queue: int) -> bool:
        """Whether there still is a queue at this address."""

    def buffers(self, queue: int) -> list[MediaBuffer]:
        """The buffers of a queue that have memory."""

    def numbered(self, queue: int, index: int) -> list[MediaBuffer]:
        """The planes of the buffer of a queue that has this number, as far as they have memory."""


class Media:
    """Finds queues and buffers. Queues are looked for anew only when a buffer is not found in the known ones.

    ``why_not`` tells what is missing when nothing can be found at all.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.why_not = ""
        self._reader = Reader.of(kernel)
        self._kernel = kernel
        self._queues: dict[int, tuple[Framework, OpenFile]] = {}
        self._modules_at = kernel.symbols.address("modules")
        self._modules = 0
        self._rings: Rings | None = None
        self._pool: range | None = None
        self._lists: ScatterLists | None = None
        self._frameworks: dict[str, Framework] = {}
        self._files: OpenFiles | None = None
        self._same: Recall[bool] = Recall()  # pages of a buffer, and a program's
        self._latest: tuple[int, int] | None = None  # queue and number of the buffer that was found last

    @classmethod
    def of(cls, kernel: Kernel) -> Media:
        """The kernel's own, made once."""
        found = kernel.cache.get("media")
        if not isinstance(found, cls):
            found = kernel.cache["media"] = cls(kernel)
        return found

    @property
    def files(self) -> OpenFiles | None:
        """What the kernel's processes have open; looked into when first asked for, which takes a moment."""
        if self._rings is None:
            self._rings = Rings(self._kernel)
            try:
                self._files = OpenFiles(self._kernel, self._rings.operations)
            except (StructError, BtfError) as error:
                self.why_not = str(error)
        return self._files

    def buffers(self, *, anew: bool = True) -> list[MediaBuffer]:
        """All buffers that have memory; ``anew``: look for new queues first."""
        if anew:
            self._find_queues()
        found: list[MediaBuffer] = []
        for queue in list(self._queues):
            found += self.of_queue(queue)
        return found

    def listed(self) -> list[NDArray[np.int64]]:
        """Page frames that somebody known has a claim to: buffers in whatever state, rings of io_uring."""
        return [buffer.pfns for buffer in self.buffers()] + [pfns for _, pfns in self._registered()]

    def pins(self) -> dict[tuple[int, int], NDArray[np.int64]]:
        """Page frames that somebody known holds pins on, one for each time that a frame is listed; by holder.

        These are the frameworks' buffers, by their keys, but for those whose pages may be on their way in or
        out, and what is registered with io_uring. To find them anew goes through all tasks.
        """
        found = {buffer.key: buffer.pfns for buffer in self.buffers() if buffer.holds}
        return found | dict(self._registered())

    def _registered(self) -> Iterator[tuple[tuple[int, int], NDArray[np.int64]]]:
        """What is registered with io_uring, once the files were looked at."""
        if self._files is not None and self._rings is not None:
            for ring in set(self._files.rings):
                for number, pfns in enumerate(self._rings.pages(ring)):
                    yield (ring, -1 - number), pfns

    def behind(self, pfns: Pfns, ends: tuple[int, int]) -> list[MediaBuffer]:
        """The buffers that a program writes to: those with most of its pages, more than one only if equal.

        :param pfns: the program's pages, ascending.
        :param ends: the first and the last page that it writes, as a quick way to find its buffer.
        """
        guess = self._next(pfns, ends)
        if guess is not None:
            return [guess]
        for anew in (False, True):
            buffers = self.buffers(anew=anew)
            found = _nearest(buffers, pfns, ends)
            if not found and self._bounces:
                found = _nearest([self._as_bounced(buffer) for buffer in buffers], pfns, ends)
            if found:
                self._latest = found[0].queue, found[0].index
                return found
        return []

    def _next(self, pfns: Pfns, ends: tuple[int, int]) -> MediaBuffer | None:
        """Queues go round: the buffer after the last one, or the first, if it is just these pages'.

        That it lists just these, in a queue that was there a moment ago, is proof enough that this still is.
        """
        queue, last = self._latest or (0, 0)
        if queue not in self._queues:
            return None
        framework = self._queues[queue][0]
        try:
            for index in (last + 1, 0):
                for buffer in framework.numbered(queue, index):
                    if self._is_just(buffer, pfns, ends):
                        self._latest = queue, index
                        return buffer
        except (GuestReadError, StructError, BtfError):
            pass
        return None

    def _is_just(self, buffer: MediaBuffer, pfns: Pfns, ends: tuple[int, int]) -> bool:
        """Whether a buffer is the device's, and has these pages and no others."""
        own = buffer.pfns
        if not buffer.owned or buffer.bounced or len(own) != len(pfns) or own[0] != ends[0]:
            return False
        return self._same(lambda: bool((np.sort(own) == pfns).all()), own, pfns)

    @property
    def _bounces(self) -> bool:
        """Whether the kernel copies for devices that do not reach all of its memory."""
        if self._pool is None:
            self._pool = bounce_pfns(self._kernel)
        return len(self._pool) > 0

    def _as_bounced(self, buffer: MediaBuffer) -> MediaBuffer:
        """The buffer as the device finds it, where that is in the bounce pool; else as it is."""
        first, count = buffer.entries
        if not first or not count or buffer.extents is not None or self._pool is None:
            return buffer
        try:
            if self._lists is None:
                self._lists = ScatterLists(self._kernel)
            bus = self._lists.read(first, count).bus
        except (GuestReadError, StructError):
            return buffer
        pages = bus[:, 0] >> PAGE_SHIFT
        if not ((pages >= self._pool.start) & (pages < self._pool.stop)).any():
            return buffer
        return replace(buffer, extents=bus[bus[:, 1] > 0], bounced=True)

    def again(self, buffer: MediaBuffer) -> MediaBuffer | None:
        """The same buffer as it is now; None when the framework has let go of it or of its memory."""
        now = next((now for now in self.of_queue(buffer.queue) if now.key == buffer.key), None)
        return self._as_bounced(now) if now is not None and buffer.bounced else now

    def opener(self, buffer: MediaBuffer) -> str:
        """Who has the buffer's device open, for people; empty when unknown."""
        known = self._queues.get(buffer.queue)
        return f"pid {known[1].pid} ({known[1].comm})" if known is not None else ""

    def of_queue(self, queue: int) -> list[MediaBuffer]:
        """The buffers of a queue that have memory; none where there is no such queue any more."""
        return self._read(queue, methodcaller("buffers", queue))

    def _read(self, queue: int, read: Callable[[Framework], list[MediaBuffer]]) -> list[MediaBuffer]:
        """What is read of a queue; one that does not exist any more is forgotten."""
        framework = self._queues[queue][0] if queue in self._queues else None
        try:
            if framework is not None and framework.alive(queue):
                return read(framework)
        except (GuestReadError, StructError, BtfError):
            pass
        self._queues.pop(queue, None)
        return []

    def _find_queues(self) -> None:
        """A queue that is known stays so while it is alive: its file may have left the process already."""
        files = self.files
        if files is None:
            return
        if self._modules_changed():
            files.forget()
            self._meet()
        for file in files.find():
            for framework in self._frameworks.values():
                for queue in framework.queues(file.private):
                    if queue in self._queues or len(self._queues) < _MAX_QUEUES:
                        self._queues[queue] = framework, file

    def _meet(self) -> None:
        """The frameworks that the kernel has loaded by now, with their operations where they are now."""
        self._frameworks.clear()
        reasons = []
        for name, framework in (("videobuf", Videobuf), ("vb2", Vb2)):
            try:
                self._frameworks[name] = framework(self._kernel)
            except (StructError, BtfError) as error:
                reasons.append(f"{name}: {error}")
        self.why_not = "" if self._frameworks else "; ".join(reasons)
        self._queues = {
            queue: (self._frameworks[old.name], file)
            for queue, (old, file) in self._queues.items()
            if old.name in self._frameworks
        }

    def _modules_changed(self) -> bool:
        """Whether another module is the first in the list: the one that was loaded last."""
        try:
            first = 0 if self._modules_at is None else self._reader.u64(self._modules_at)
        except GuestReadError:
            first = 0
        changed, self._modules = first != self._modules, first
        return changed


def _nearest(buffers: list[MediaBuffer], pfns: Pfns, ends: tuple[int, int]) -> list[MediaBuffer]:
    """Those with most of these pages."""
    chosen = [b for b in buffers if ((b.targets() == ends[0]) | (b.targets() == ends[1])).any()]
    shared = [(shared_pages(buffer, pfns), buffer) for buffer in chosen or buffers]
    most = max((count for count, _ in shared), default=0)
    return [buffer for count, buffer in shared if count == most] if most else []


def shared_pages(buffer: MediaBuffer, pfns: Pfns) -> int:
    """How many of these pages, which are ascending, are the buffer's."""
    own: NDArray[np.int64] = np.unique(buffer.targets()) if buffer.bounced else buffer.targets()
    return int(np.count_nonzero(among(own, pfns)))


def buffers(kernel: Kernel) -> list[MediaBuffer]:
    """All buffers of media frameworks that have memory at this moment."""
    return Media.of(kernel).buffers()
