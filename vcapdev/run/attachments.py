# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes beside report.json: logs, the captured frame as a picture, the same coloured by page state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcapdev.report.model import Kernel
from vcapdev.report.picture import decode, layout_of
from vcapdev.report.png import encode_png
from vcapdev.report.states import Piece, states_picture
from vcapdev.run import capture as capturing
from vcapdev.run.device import DeviceProcess
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared
from vcapdev.serve.client import ControlError
from vcapdev.vm.agent import Agent
from vcapdev.vm.machine import Vm

_TRIES = 5  # turns of the run, a tenth of a second at most each


class Attachments:
    """Collects the files of a report while the run goes; only where a report is wanted."""

    def __init__(self, options: RunOptions, work: Path) -> None:
        self._options = options
        self._work = work
        self._of: int | None = None  # the frame whose pages are asked for
        self._tries = 0
        self._pieces: list[Piece] = []
        self.files: dict[str, bytes | Path] = {}

    def begin(self, device: DeviceProcess) -> None:
        """Capture is about to begin: let the device keep where its frames went."""
        if self._options.report is not None:
            device.call("keep-frames")

    def frame(self, agent: Agent, timeout: float = 60.0) -> None:
        """Fetch the frame that the capture program saved, and make its pictures; ``timeout`` in seconds."""
        if self._options.report is None or self._of is None:
            return
        pixels = self._decode(np.frombuffer(agent.pull(capturing.SAVED, timeout=timeout), np.uint8))
        self.files["frame.png"] = encode_png(pixels)
        if self._pieces:
            depth = layout_of(self._options.format).depth
            self.files["frame-pages.png"] = encode_png(states_picture(pixels, self._pieces, depth))

    def states(self, device: DeviceProcess, saved: int | None) -> None:
        """Ask the device where the frame went that the capture program has just saved; again until it knows.

        The program may have a frame before the card has come to the end of its last field.
        """
        if self._options.report is None or saved is None:
            return
        if saved != self._of:
            self._of, self._pieces, self._tries = saved, [], _TRIES
        if self._pieces or not self._tries:
            return
        self._tries -= 1
        with suppress(ControlError):  # or the card never sent such a frame: the guest is not trusted
            self._pieces = list(
                pieces_of(device.call("frame", number=saved, timeout=20), self._options.field)
            )

    def logs(self, vm: Vm) -> None:
        """What guest, QEMU and device wrote."""
        self.files["kernel.log"] = vm.kernel_log().encode()
        for name in ("console.log", "qemu.log", "device.log"):
            path = self._work / name
            self.files[name] = path.read_bytes() if path.is_file() else b""

    def lock(self, prepared: Prepared, kernel: Kernel) -> None:
        """The lock file that a later run can be pinned to."""
        path = self._work / "packages.lock"
        prepared.write_lock(path, kernel)
        self.files[path.name] = path.read_bytes()

    def _decode(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A buffer of a single-field capture holds fewer lines than a frame; both are the size asked for."""
        options = self._options
        size = layout_of(options.format).size(options.width, options.height)
        if data.size < size:
            data = np.pad(data, (0, size - data.size))
        return decode(options.format, data, options.width, options.height)


def pieces_of(answer: dict[str, Any], order: str) -> Iterator[Piece]:
    """Rows of the picture from lines of fields: which row a line becomes depends on the field order."""
    fields = {field["field"]: field["lines"] for field in answer["fields"]}
    for parity, line, offset, length, state in answer["pieces"]:
        if order == "interlaced" and len(fields) == 2:
            row = 2 * line + parity
        elif order == "seq-tb":
            row = line + parity * fields.get(0, 0)
        else:
            row = line
        yield Piece(row, offset, length, state)
