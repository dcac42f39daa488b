# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames for the report: as the guest saved them, and coloured by the state of the page under each byte."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import numpy as np

from vcapdev.errors import GuestError
from vcapdev.report.picture import decode, layout_of
from vcapdev.report.png import encode_png
from vcapdev.report.states import states_picture
from vcapdev.run.attachments import pieces_of
from vcapdev.scenario.results import Picture
from vcapdev.testing.capture import RunningCapture
from vcapdev.testing.guest import Guest

_MOST = 4  # frames of a test

Json = dict[str, Any]


class Photographer:
    """Takes pictures of the captures that asked for one (``save``).

    :ivar pictures: those that were made.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._states: Json | None = None
        self.pictures: list[Picture] = []

    def watch(self, running: RunningCapture) -> None:
        """Let the capture go on until its frame is there, and ask the card where the last one went."""
        wanted = running.options.save
        self._states = None
        if wanted is None or len(self.pictures) >= 2 * _MOST:
            return
        running.wait_frames(wanted + 1)
        with suppress(GuestError):  # nothing was sent: the capture itself will tell
            self._states = self._guest.card.dma.frame()

    def develop(self, running: RunningCapture) -> None:
        """Fetch the frame that the program saved."""
        options = running.options
        if options.save is None or len(self.pictures) >= 2 * _MOST:
            return
        try:
            raw = np.frombuffer(self._guest.pull(options.saved), np.uint8)
        except GuestError:
            return
        width, height = options.dimensions()
        if options.field in ("top", "bottom", "alternate"):
            return  # half a frame; the picture would be half as high as its states
        pixels = decode(options.format, raw, width, height)
        self._add(f"frame {options.save}, {options.format} {options.size}", pixels)
        if self._states is not None:
            depth = layout_of(options.format).depth
            tinted = states_picture(pixels, list(pieces_of(self._states, options.field)), depth)
            self._add(f"page states under a frame, {options.format} {options.size}", tinted)

    def _add(self, title: str, pixels: Any) -> None:
        self.pictures.append(Picture(title, base64.b64encode(encode_png(pixels)).decode()))
