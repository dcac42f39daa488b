# SPDX-License-Identifier: GPL-2.0-or-later
"""The card as the stock driver sees it: its configuration space, and frames in every format and mode."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from lspci_golden import golden, mask

from vcapdev.bt878.expected import expected_frame
from vcapdev.bt878.pattern import KIND_VBI, PictureKey, Shot, picture
from vcapdev.run.capture import EXPECT, capture_command
from vcapdev.run.options import FORMATS, RunOptions
from vcapdev.run.prepare import Prepared
from vcapdev.run.screen import Screen
from vcapdev.run.session import Session
from vcapdev.vm.agent import Agent

pytestmark = pytest.mark.guest

FRAMES = 4
SMALL = RunOptions(width=320, height=240, frames=FRAMES, swap="none", pressure="none", clock="fast", pool=6)


@pytest.fixture(scope="module")
def session(prepared: Prepared) -> Iterator[Session]:
    """A guest with a card, for all tests of this module."""
    screen = Screen(io.StringIO())
    with Session(SMALL, prepared, screen) as session:
        with screen.stage("boot") as stage:
            session.start(stage)
        yield session


@pytest.fixture
def agent(session: Session) -> Agent:
    assert session.vm.agent is not None
    return session.vm.agent


def capture(session: Session, agent: Agent, options: RunOptions) -> None:
    """Every frame intact, and not one finding."""
    expected = expected_frame(options.norm, options.format, options.width, options.height, options.field)
    agent.push(expected.file(), EXPECT)
    words = [word if word != "10" else "1" for word in capture_command(options)]  # verify every frame in full
    done = agent.run(words, timeout=120)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.status == 0, done.stdout + done.stderr
    summary = events[-1]
    assert summary["event"] == "summary"
    assert summary["full"] == summary["intact"] == FRAMES
    assert session.device.call("verdicts")["verdicts"] == []


def test_lspci_shows_the_real_identity(prepared: Prepared, agent: Agent) -> None:
    names = prepared.guest.root / "usr/share/misc/pci.ids"  # too large for every guest's memory
    agent.push(names.read_bytes(), "/tmp/pci.ids")
    shown = agent.run(["lspci", "-i", "/tmp/pci.ids", "-vv", "-d", "109e:"], timeout=60)
    assert shown.status == 0, shown.stderr
    assert mask(shown.stdout) == golden("pv143")


@pytest.mark.parametrize("fourcc", FORMATS)
def test_every_format_arrives_as_it_was_sent(session: Session, agent: Agent, fourcc: str) -> None:
    capture(session, agent, replace(SMALL, format=fourcc))


@pytest.mark.parametrize("field", ["top", "bottom", "alternate", "seq-tb"])
def test_every_field_order(session: Session, agent: Agent, field: str) -> None:
    capture(session, agent, replace(SMALL, height=192, field=field))


@pytest.mark.parametrize("way", ["mmap", "read"])
@pytest.mark.parametrize("fourcc", ["YUYV", "BGR4", "YU12"])
def test_buffers_of_the_kernel(session: Session, agent: Agent, way: str, fourcc: str) -> None:
    capture(session, agent, replace(SMALL, io=way, format=fourcc))


def test_secam_by_read(session: Session, agent: Agent) -> None:
    """It has PAL's lines, so the session's signal will do. (NTSC: test_run.py.)"""
    capture(session, agent, replace(SMALL, norm="SECAM", width=768, height=576, io="read"))


@pytest.mark.parametrize("size", ["48x32", "768x576", "924x576", "700x244"])
def test_sizes(session: Session, agent: Agent, size: str) -> None:
    width, height = map(int, size.split("x"))
    capture(session, agent, replace(SMALL, width=width, height=height))


VBI_FILE = "/tmp/vbi"
VBI_LINES, VBI_STRIDE, VBI_BYTES = 16, 2048, 2044  # of a field; of a line in memory, and written (PAL)


def vbi_command(frames: int) -> list[str]:
    return ["v4l2-ctl", "-d", "/dev/vbi0", "--set-standard=pal", "--stream-mmap",
            f"--stream-count={frames}", f"--stream-to={VBI_FILE}"]  # fmt: skip


def check_vbi(agent: Agent, frames: int) -> None:
    """Each line of each field is the card's, to the byte: odd field first, lines from 0, frames in order."""
    shape = (frames, 2, VBI_LINES, VBI_STRIDE)
    got = np.frombuffer(agent.pull(VBI_FILE), np.uint8).reshape(shape)
    numbers = got[..., :4].copy().view("<u4")[..., 0]
    assert (numbers == numbers[:, :1, :1]).all(), "a buffer mixes frames"
    assert (np.diff(numbers[:, 0, 0].astype(np.int64)) > 0).all(), "a buffer came twice"
    for frame in range(frames):
        for field in (0, 1):
            key = PictureKey(KIND_VBI, field, 576, VBI_LINES, VBI_BYTES)
            sent = Shot(picture(key), int(numbers[frame, 0, 0])).plane(0)
            assert sent[5, 12:16].tobytes() == b"VCAP"
            assert np.array_equal(got[frame, field, :, :VBI_BYTES], sent), f"frame {frame}, field {field}"


def test_vbi_lines_arrive_as_they_were_sent(session: Session, agent: Agent) -> None:
    done = agent.run(vbi_command(5), timeout=60)
    assert done.status == 0, done.stdout + done.stderr
    check_vbi(agent, 5)
    assert session.device.call("verdicts")["verdicts"] == []


def test_vbi_beside_video(session: Session, agent: Agent) -> None:
    """Both programs of a field end in an interrupt; the driver has to see both, or one of them times out."""
    video = agent.spawn(["v4l2-ctl", "-d", "/dev/video0", "--stream-mmap", "--stream-count=1000000"])
    try:
        agent.wait_for(lambda: "<<<<" in video.stderr, 30, "video to stream")
        done = agent.run(vbi_command(20), timeout=60)
        assert done.status == 0, done.stdout + done.stderr
        check_vbi(agent, 20)
        frames = video.stderr.count("<")
        agent.wait_for(lambda: video.stderr.count("<") > frames + 10, 30, "video to stream on")
    finally:
        video.kill()
        video.wait(30)
    assert "timeout: drop=" not in agent.run(["dmesg"], timeout=30).stdout


def test_nothing_is_written_unchecked(session: Session) -> None:
    status = session.device.call("check-status")
    assert status["attached"]
    assert status["unchecked_writes"] == 0
    assert not status["defects"]
