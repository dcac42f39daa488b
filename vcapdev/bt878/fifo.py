# SPDX-License-Identifier: GPL-2.0-or-later
"""The data stream between decoder and RISC engine, as a sequence of blocks of lines.

What the 36-bit words of the three FIFO banks would hold for one field::

    FM1 [VBI lines]  FM1 or FM3 [video lines]  ... field ends ...  VRO or VRE

A mode code stands before VBI and again before video: both of bttv's programs begin with SYNC FM1. Lines are
there at once when a field begins and their bytes are rendered when somebody takes them; the VRO or VRE comes
when the field's time is over. (Data sheet 100600B, pages 2-26 to 2-34 and Table 2-7.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from vcapdev.bt878.pattern import Shot
from vcapdev.bt878.risc import END_OF_LINE, Status

LINE = 0x10
"""What :meth:`Fifo.head` says inside a line; not a status code."""

GROUP_BYTES = 896 * 1024
"""Lines are rendered and moved in groups of at most so many bytes: a register read waits for one only.

Large enough for a field of the largest picture, whose program and pages are then looked at as a whole; small
enough to be moved within a millisecond.
"""


class Block:
    """Lines of one mode.

    :ivar widths: bytes of a line in FIFO 1, 2 and 3; in packed mode all are in the first.
    :ivar group: lines that are rendered together.
    """

    def __init__(self, shot: Shot, lines: int) -> None:
        self.shot = shot
        self.lines = lines
        widths = shot.picture.widths
        self.mode = int(Status.FM1 if len(widths) == 1 else Status.FM3)
        self.widths = (widths[0], widths[1], widths[2]) if len(widths) == 3 else (widths[0], 0, 0)
        self.group = max(1, GROUP_BYTES // sum(shot.picture.strides))


class Fifo:
    """Where the engine stands in the stream.

    :ivar line: number of the line at the head, in its block.
    :ivar used: bytes taken of it from each bank.
    """

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        self._end: int | None = None  # a VRE or VRO that has not been taken; precedes the blocks
        self._inside = False  # the first block's mode code has been taken
        self.line = 0
        self.used = [0, 0, 0]

    def load(self, blocks: Sequence[Block]) -> None:
        """A field begins: its lines arrive."""
        self._blocks.extend(blocks)

    def end(self, code: int) -> bool:
        """A field ends: VRE or VRO arrives. Lines that nobody took are lost, which is returned."""
        lost = bool(self._blocks)
        self._drop()
        self._end = code
        return lost

    def flush(self) -> None:
        """Forget everything (FIFO_ENABLE is 0)."""
        self._drop()
        self._end = None

    def _drop(self) -> None:
        self._blocks.clear()
        self._inside = False
        self.line, self.used = 0, [0, 0, 0]

    @property
    def block(self) -> Block | None:
        """The block whose lines are at the head, after its mode code was taken."""
        return self._blocks[0] if self._inside else None

    def head(self) -> int | None:
        """The status code at the head, :data:`LINE` inside a block, None when there is nothing."""
        if self._end is not None:
            return self._end
        if not self._blocks:
            return None
        return LINE if self._inside else self._blocks[0].mode

    @property
    def at_start(self) -> bool:
        """Whether nothing of the line at the head has been taken."""
        return not any(self.used)

    def left(self) -> tuple[int, int, int]:
        """Bytes of the line at the head that are still in each bank."""
        widths, used = self._blocks[0].widths, self.used
        return widths[0] - used[0], widths[1] - used[1], widths[2] - used[2]

    def take_code(self) -> None:
        """Take the mode code or the VRE or VRO at the head."""
        if self._end is not None:
            self._end = None
            return
        self._inside = True
        if self._blocks[0].lines == 0:
            self._next_block()

    def next_line(self, count: int = 1) -> None:
        """Leave the line at the head, or ``count`` whole lines."""
        self.line += count
        self.used = [0, 0, 0]
        if self.line >= self._blocks[0].lines:
            self._next_block()

    def _next_block(self) -> None:
        self._blocks.popleft()
        self._inside = False
        self.line, self.used = 0, [0, 0, 0]

    def skip_lines(self) -> int:
        """Discard the rest of the block at the head; returns how many lines that was."""
        lines = self._blocks[0].lines - self.line
        self._next_block()
        return lines

    def seek_in_line(self, operand: int) -> bool:
        """Discard dwords of the line at the head (bank 1) up to and with one of status ``operand``.

        :return: whether there was one; if not, the line has been left.
        """
        width = self._blocks[0].widths[0]
        at = -(-self.used[0] // 4) * 4
        last = (width - 1) // 4 * 4
        if operand == Status.PXV:
            at = max(at, 4)
        elif operand != Status.SOL:
            at = last if END_OF_LINE[width - last] == operand else width
        found = (
            at == 0 < last if operand == Status.SOL else at < last or (at == last and operand != Status.PXV)
        )
        if not found or at >= last:
            self.next_line()
        else:
            self.used[0] = at + 4
        return found
