# SPDX-License-Identifier: GPL-2.0-or-later
"""The card as the stock driver sees it: its configuration space, and frames in every format and mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lspci_golden import golden, mask

import vcapdev
from vcapdev.bt878.pattern import KIND_VBI, PictureKey, Shot, picture
from vcapdev.run.options import FORMATS
from vcapdev.run.prepare import Prepared
from vcapdev.testing import Card, Guest

pytestmark = [pytest.mark.guest, vcapdev.guest(clock="fast")]

FRAMES = 4


def capture(guest: Guest, card: Card, **options: Any) -> None:
    """Every frame intact, compared in full, every write judged, and not one finding."""
    result = guest.capture(FRAMES, **{"size": "320x240", "pool": None, **options})
    assert result.status == 0, result
    assert result.summary["full"] == result.intact == FRAMES
    card.dma.assert_clean()


def lspci(prepared: Prepared, guest: Guest) -> str:
    names = prepared.guest.root / "usr/share/misc/pci.ids"  # too large for every guest's memory
    guest.push(names, "/tmp/pci.ids")
    return guest.run("lspci -i /tmp/pci.ids -vv -d 109e:", check=True).stdout


def test_lspci_shows_the_real_identity(prepared: Prepared, guest: Guest) -> None:
    assert mask(lspci(prepared, guest)) == golden("pv143")


@vcapdev.guest(board="vc100", cold=True)
def test_lspci_of_an_early_revision_that_was_there_at_boot(prepared: Prepared, guest: Guest) -> None:
    assert mask(lspci(prepared, guest), plugged=False) == golden("vc100")


@pytest.mark.parametrize("fourcc", FORMATS)
def test_every_format_arrives_as_it_was_sent(guest: Guest, card: Card, fourcc: str) -> None:
    capture(guest, card, format=fourcc)


@pytest.mark.parametrize("field", ["top", "bottom", "alternate", "seq-tb"])
def test_every_field_order(guest: Guest, card: Card, field: str) -> None:
    capture(guest, card, size="320x192", field=field)


@pytest.mark.parametrize("way", ["mmap", "read"])
@pytest.mark.parametrize("fourcc", ["YUYV", "BGR4", "YU12"])
def test_buffers_of_the_kernel(guest: Guest, card: Card, way: str, fourcc: str) -> None:
    capture(guest, card, io=way, format=fourcc)


def test_secam_by_read(guest: Guest, card: Card) -> None:
    """It has PAL's lines, so the guest's signal will do. (NTSC: test_run.py.)"""
    capture(guest, card, norm="SECAM", size="768x576", io="read")


@pytest.mark.parametrize("size", ["48x32", "768x576", "924x576", "700x244"])
def test_sizes(guest: Guest, card: Card, size: str) -> None:
    capture(guest, card, size=size)


VBI_FILE = "/tmp/vbi"
VBI_LINES, VBI_STRIDE, VBI_BYTES = 16, 2048, 2044  # of a field; of a line in memory, and written (PAL)


def vbi_command(frames: int) -> list[str]:
    return ["v4l2-ctl", "-d", "/dev/vbi0", "--set-standard=pal", "--stream-mmap",
            f"--stream-count={frames}", f"--stream-to={VBI_FILE}"]  # fmt: skip


def check_vbi(guest: Guest, frames: int) -> None:
    """Each line of each field is the card's, to the byte: odd field first, lines from 0, frames in order."""
    shape = (frames, 2, VBI_LINES, VBI_STRIDE)
    got = np.frombuffer(guest.pull(VBI_FILE), np.uint8).reshape(shape)
    numbers = got[..., :4].copy().view("<u4")[..., 0]
    assert (numbers == numbers[:, :1, :1]).all(), "a buffer mixes frames"
    assert (np.diff(numbers[:, 0, 0].astype(np.int64)) > 0).all(), "a buffer came twice"
    for frame in range(frames):
        for field in (0, 1):
            key = PictureKey(KIND_VBI, field, 576, VBI_LINES, VBI_BYTES)
            sent = Shot(picture(key), int(numbers[frame, 0, 0])).plane(0)
            assert sent[5, 12:16].tobytes() == b"VCAP"
            assert np.array_equal(got[frame, field, :, :VBI_BYTES], sent), f"frame {frame}, field {field}"


def test_vbi_lines_arrive_as_they_were_sent(guest: Guest, card: Card) -> None:
    done = guest.run(vbi_command(5))
    assert done.ok, done
    check_vbi(guest, 5)
    card.dma.assert_clean()


def test_vbi_beside_video(guest: Guest, card: Card) -> None:
    """Both programs of a field end in an interrupt; the driver has to see both, or one of them times out."""
    video = guest.spawn("exec v4l2-ctl -d /dev/video0 --stream-mmap --stream-count=1000000")
    guest.wait(lambda: "<<<<" in video.stderr, 30, "video to stream")
    done = guest.run(vbi_command(20))
    assert done.ok, done
    check_vbi(guest, 20)
    frames = video.stderr.count("<")
    guest.wait(lambda: video.stderr.count("<") > frames + 10, 30, "video to stream on")
    video.kill()
    guest.wait(lambda: video.status is not None, 30, "v4l2-ctl to end")
    assert "timeout: drop=" not in guest.dmesg()
    card.dma.assert_clean()
