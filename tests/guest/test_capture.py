# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the capture program against the real driver: every way to hand over buffers, every layout.

One guest with one card; each test is a short capture, verified byte by byte in the guest.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vcapdev.bt878.expected import expected_frame
from vcapdev.run.device import DeviceProcess
from vcapdev.serve.options import ServeOptions
from vcapdev.vm.machine import Vm

pytestmark = pytest.mark.guest

FRAMES = 12


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    """The directory of a device's sockets."""
    with tempfile.TemporaryDirectory(prefix="vcap-card-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def card(sockets: Path) -> Iterator[DeviceProcess]:
    options = ServeOptions(socket_path=sockets / "card", control=sockets / "control")
    with DeviceProcess(options, sockets / "log") as device:
        device.start()
        yield device


@pytest.fixture(scope="module")
def vm(boot: Any, card: DeviceProcess, sockets: Path, tmp_path_factory: pytest.TempPathFactory) -> Vm:
    swap = tmp_path_factory.mktemp("swap") / "disk"
    return boot(card_socket=sockets / "card", swap="disk", swap_disk=swap)


@pytest.fixture
def stalled(card: DeviceProcess) -> Iterator[None]:
    """No field comes until somebody sets the clock again."""
    card.call("clock", mode="step")
    yield
    card.call("clock", mode="paced")


def capture(
    vm: Vm, *extra: str, fourcc: str = "YUYV", size: str = "768x576", field: str = "interlaced"
) -> dict:
    """Run the program; its summary, after all frames were found intact."""
    width, height = map(int, size.split("x"))
    vm.agent.push(expected_frame("PAL", fourcc, width, height, field).file(), "/tmp/expect")
    words = ["vcap-capture", "--expect", "/tmp/expect", "--frames", str(FRAMES), "--hold-ms", "50"]
    words += ["--format", fourcc, "--size", size, "--field", field, *extra]
    result = vm.agent.run(words, timeout=120)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.status == 0, (result.stderr, [event for event in events if event["event"] == "bad"])
    summary = events[-1]
    assert events[0]["event"] == "start"
    assert summary["event"] == "summary"
    assert summary["frames"] == FRAMES
    # A stalled host makes the driver give frames up; they do not count.
    assert summary["intact"] == summary["verified"] == FRAMES
    return summary


@pytest.mark.parametrize("io", ["userptr", "mmap", "read"])
def test_every_way_to_hand_over_buffers(vm: Vm, io: str) -> None:
    capture(vm, "--io", io)


@pytest.mark.parametrize("fourcc", ["BGR4", "RGB4", "BGR3", "RGBP", "RGBO", "UYVY", "GREY"])
def test_packed_formats(vm: Vm, fourcc: str) -> None:
    capture(vm, fourcc=fourcc, size="384x288")


@pytest.mark.parametrize("fourcc", ["422P", "YU12", "YV12", "411P", "YUV9", "YVU9"])
@pytest.mark.parametrize("size", ["768x576", "320x240"])
def test_planar_formats(vm: Vm, fourcc: str, size: str) -> None:
    capture(vm, fourcc=fourcc, size=size)


@pytest.mark.parametrize("field", ["top", "bottom", "alternate"])
@pytest.mark.parametrize("fourcc", ["YUYV", "YU12"])
def test_single_fields(vm: Vm, fourcc: str, field: str) -> None:
    capture(vm, fourcc=fourcc, field=field, size="768x288")


def test_both_fields_one_behind_the_other(vm: Vm) -> None:
    """The driver has this order for packed formats only."""
    capture(vm, field="seq-tb")


@pytest.mark.parametrize("size", ["48x32", "176x144", "640x480", "720x576", "924x576"])
def test_sizes(vm: Vm, size: str) -> None:
    capture(vm, size=size)


@pytest.mark.parametrize("offset", [4, 2048, 4092])
def test_buffers_that_begin_inside_a_page(vm: Vm, offset: int) -> None:
    capture(vm, "--offset", str(offset))


def test_pageout_really_swaps_and_the_frames_survive(vm: Vm) -> None:
    summary = capture(vm, "--pageout", "idle,queued")
    assert summary["pswpout"] > 200
    assert summary["swapped_pages"] > 200
    assert summary["queued_swapped"] == 0  # pinned pages stay
    assert abs(summary["pins_acquired"] - summary["pins_released"]) <= 64  # per-CPU counters lag


def test_a_released_buffer_rests_even_when_the_pool_is_too_small(vm: Vm) -> None:
    """Five buffers, four of them queued: each frame has to wait until the one buffer has rested."""
    hold, frames = 300, 5
    words = ["--pool", "5", "--buffers", "4", "--hold-ms", str(hold)]
    result = vm.agent.run(["vcap-capture", *words, "--frames", str(frames)], timeout=60)
    assert result.status == 0, result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    # The spare buffer serves the first frame; the time ends with the last frame, before its rest.
    assert summary["hold_waits"] == frames - 1
    assert summary["elapsed_ms"] >= hold * (frames - 2)


def test_clean_buffers_are_clean_when_they_are_handed_over(vm: Vm) -> None:
    assert capture(vm, "--clean")["clean_pages"] > 200


def test_a_saved_frame_is_the_one_that_was_captured(vm: Vm) -> None:
    capture(vm, "--save", "3", "/tmp/frame")
    data = vm.agent.pull("/tmp/frame")
    assert len(data) == 768 * 576 * 2
    assert data[12:16] == b"VCAP"


@pytest.mark.parametrize("io", ["userptr", "mmap", "read"])
@pytest.mark.usefixtures("stalled")
def test_failed_frames_do_not_count(vm: Vm, card: DeviceProcess, io: str) -> None:
    """After half a second without a field the driver gives its buffers back with the error flag."""
    vm.agent.push(expected_frame("PAL", "YUYV", 768, 576, "interlaced").file(), "/tmp/expect")
    events: list[dict] = []
    words = [
        "vcap-capture",
        "--expect",
        "/tmp/expect",
        "--io",
        io,
        "--frames",
        str(FRAMES),
        "--save",
        "0",
        "/tmp/0",
    ]
    process = vm.agent.spawn(words, on_stdout=lambda line: events.append(json.loads(line)))
    vm.agent.wait_for(lambda: any(event.get("errors", 0) for event in events), 60, "a failed frame")
    card.call("clock", mode="paced")
    result = process.wait(60)
    assert result.status == 0, result.stdout
    summary = events[-1]
    assert summary["errors"] > 0
    assert summary["frames"] == summary["intact"] == FRAMES
    assert vm.agent.pull("/tmp/0")[12:16] == b"VCAP"  # the first good frame, not the first


@pytest.mark.usefixtures("stalled")
def test_a_card_that_sends_nothing_is_given_up(vm: Vm) -> None:
    result = vm.agent.run(["vcap-capture", "--frames", "3"], timeout=120)
    assert result.status == 3
    assert "frames as failed and only 0 of 3 as good" in result.stderr


def test_content_that_is_not_what_was_sent_is_found(vm: Vm) -> None:
    """The verifier must be able to fail: it is given another picture than the card's."""
    other = bytearray(expected_frame("PAL", "YUYV", 768, 576, "interlaced").file())
    other[-1] ^= 0x80
    vm.agent.push(bytes(other), "/tmp/expect")
    result = vm.agent.run(["vcap-capture", "--expect", "/tmp/expect", "--frames", "5"], timeout=60)
    assert result.status == 1
    bad = [json.loads(line) for line in result.stdout.splitlines() if '"bad"' in line]
    assert len(bad) == 5
    place = (bad[0]["kind"], bad[0]["field"], bad[0]["line"], bad[0]["byte"], bad[0]["page"])
    assert place == ("damaged", 1, 287, 1535, 215)


def test_a_size_that_the_driver_changes_is_told(vm: Vm) -> None:
    result = vm.agent.run(["vcap-capture", "--field", "alternate", "--size", "768x576"], timeout=60)
    assert result.status == 2
    assert "the driver makes 768x288 of 768x576" in result.stderr
    assert result.stderr.endswith("ask for --size 768x288\n")


def test_a_width_that_the_driver_rounds_is_told(vm: Vm) -> None:
    for fourcc, size, better in (("YUYV", "722x576", "724x576"), ("YU12", "724x576", "720x576")):
        result = vm.agent.run(["vcap-capture", "--format", fourcc, "--size", size], timeout=60)
        assert result.status == 2
        assert result.stderr.endswith(f"ask for --size {better}\n")
