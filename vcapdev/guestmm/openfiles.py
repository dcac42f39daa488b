# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has a video device or a ring open: the descriptors of all processes (kernel/fork.c, fs/file.c).

A file of videodev is told by its operations, whose owner is that module (or which have that symbol where it
is built in). Its private data is what the driver keeps for each opener.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import GuestReadError
from vcapdev.guestmm.structs import Structs
from vcapdev.guestmm.words import Reader

_MAX_TASKS = 1 << 14
_MAX_DESCRIPTORS = 1 << 12  # looked at of one process
_NAME = 56  # MODULE_NAME_LEN


@dataclass(frozen=True)
class OpenFile:
    """A video device that a process has open; ``private`` is the address of the driver's data for it."""

    private: int
    pid: int
    comm: str


class OpenFiles:
    """Finds them; which file operations are videodev's is found out once.

    :param ring: operations of io_uring's files, 0 where unknown.
    :ivar rings: private data of all rings that were open at the last :meth:`find`.
    """

    def __init__(self, kernel: Kernel, ring: int = 0) -> None:
        self._ring = ring
        self.rings: list[int] = []
        self._reader = Reader.of(kernel)
        structs = Structs.of(kernel)
        self._task = structs.offsets("task_struct", "tasks", "files", "mm", "tgid", "comm")
        self._files = structs.offsets("files_struct", "fdt")
        self._table = structs.offsets("fdtable", "max_fds", "fd")
        self._file = structs.offsets("file", "f_op", "private_data")
        self._owner = structs.offsets("file_operations", "owner")
        self._module = structs.offsets("module", "name")
        self._init_task = kernel.symbols.address("init_task")
        self._built_in = kernel.symbols.address("v4l2_fops")
        self._video: dict[int, bool] = {}
        self.forget()

    def forget(self) -> None:
        """Modules have come or gone: their operations may lie elsewhere now."""
        self._video = {} if self._built_in is None else {self._built_in: True}

    def find(self) -> list[OpenFile]:
        """All video devices that are open now, each opener's once. What cannot be read is left out."""
        found: dict[int, OpenFile] = {}
        seen: set[int] = set()
        self.rings = []
        for task in self._tasks():
            try:
                files = self._reader.u64(task + self._task["files"])
                if not files or files in seen:
                    continue
                seen.add(files)
                for private in self._of(files):
                    found.setdefault(private, self._opener(private, task))
            except GuestReadError:
                continue
        return list(found.values())

    def uses(self, mm: int) -> bool:
        """Whether any process still has this ``mm_struct``."""
        try:
            return any(self._reader.u64(task + self._task["mm"]) == mm for task in self._tasks())
        except GuestReadError:
            return False

    def _tasks(self) -> Iterator[int]:
        """Addresses of the ``task_struct`` of all processes."""
        if self._init_task is None:
            return
        head = self._init_task + self._task["tasks"]
        link = head
        try:
            for _ in range(_MAX_TASKS):
                link = self._reader.u64(link)
                if link == head:
                    return
                yield link - self._task["tasks"]
        except GuestReadError:
            return

    def _of(self, files: int) -> Iterator[int]:
        """Private data of the video devices among the descriptors of a ``files_struct``."""
        reader = self._reader
        table = reader.u64(files + self._files["fdt"])
        count = min(reader.u32(table + self._table["max_fds"]), _MAX_DESCRIPTORS)
        descriptors = reader.words(reader.u64(table + self._table["fd"]), count)
        for file in descriptors[np.flatnonzero(descriptors)].tolist():
            operations = reader.u64(file + self._file["f_op"])
            if operations == self._ring and operations:
                self.rings.append(reader.u64(file + self._file["private_data"]))
            elif self._is_video(operations):
                private = reader.u64(file + self._file["private_data"])
                if private:
                    yield private

    def _is_video(self, operations: int) -> bool:
        known = self._video.get(operations)
        if known is None:
            known = False
            if operations:
                owner = self._reader.u64(operations + self._owner["owner"])
                known = bool(owner) and self._reader.text(owner + self._module["name"], _NAME) == "videodev"
            self._video[operations] = known
        return known

    def _opener(self, private: int, task: int) -> OpenFile:
        pid = self._reader.u32(task + self._task["tgid"])
        return OpenFile(private, pid, self._reader.text(task + self._task["comm"], 16))
