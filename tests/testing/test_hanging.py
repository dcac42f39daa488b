# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects who is blamed for a program that does not end, and a kernel that does not come up. No guest."""

from __future__ import annotations

from pathlib import Path

import fakepair
import pytest

from vcapdev.errors import GuestError
from vcapdev.progress import Progress
from vcapdev.scenario.model import load
from vcapdev.scenario.play import play
from vcapdev.scenario.results import Status, TestResult, What
from vcapdev.testing import Guest, GuestConfig
from vcapdev.testing.hanging import hanging, parse
from vcapdev.testing.keeper import Keeper
from vcapdev.testing.living import BootCrashError
from vcapdev.testing.opening import Opened
from vcapdev.vm.watch import GuestCrash

STACK = (
    "[<0>] schedule+0x1/0x2\n[<0>] vb2_core_queue_release+0x22/0x60 [videobuf2_common]\n[<0>] __fput+0x9/0x2"
)
HUNG = f"== 12 sh\n[<0>] wait+0x1/0x2\n== 31 v4l2-ctl\n{STACK}\n"


def played(directory: Path, looks: list[str]) -> TestResult:
    """A scenario that leaves a program behind which cannot be killed. ``looks``: what hangs in the kernel."""
    (directory / "one.yaml").write_text(
        "title: x\nsteps: [{meanwhile: [{run: stuck}], steps: [{run: 'false'}]}]\nexpect: {pages: 0}\n"
    )
    fakepair.VMS.clear()

    def opener(config: GuestConfig, work: Path, progress: Progress) -> Opened:
        opened = fakepair.opener(config, work, progress)
        opened.pair.vm.hung = list(looks)  # type: ignore[attr-defined]
        return opened

    keeper = Keeper(lambda config: Guest(config, opener=opener))
    try:
        return play(load(directory / "one.yaml").tests(["bookworm-6.1"])[0], keeper)
    finally:
        keeper.close()


def test_a_driver_that_hangs_a_program_is_red_with_its_stack(tmp_path: Path) -> None:
    result = played(tmp_path, [HUNG, HUNG.replace("12 sh", "13 sh")])
    assert result.status == Status.FAIL
    (failure,) = [one for one in result.failures if one.what == What.KERNEL]
    assert failure.message == (
        "the guest's kernel does not let a program go (hung-task): v4l2-ctl (process 31) was killed and "
        "hangs in vb2_core_queue_release [videobuf2_common]"
    )
    assert failure.text.endswith(STACK)
    assert failure.key == (
        "kernel: hung-task: v4l2-ctl (process N) was killed and hangs in vb2_core_queue_release "
        "[videobuf2_common]"
    )


@pytest.mark.parametrize("looks", [[], [HUNG], [HUNG, HUNG.replace("== ", "== 9")]])
def test_a_program_that_hangs_elsewhere_or_goes_on_is_no_red_driver(tmp_path: Path, looks: list[str]) -> None:
    """Whoever hangs is found twice; else it may only have waited for a slow disk."""
    result = played(tmp_path, looks)
    assert [one.what for one in result.failures] == [What.STEP, What.INFRASTRUCTURE]
    assert "the test's programs to end" in result.failures[1].text


def test_a_guest_that_cannot_be_asked_says_nothing() -> None:
    class Gone:
        def run(self, words: list[str], *, timeout: float) -> None:
            raise GuestError("it has gone")

    assert hanging(Gone()) == []  # type: ignore[arg-type]


def test_stacks_without_frames() -> None:
    """A kernel without CONFIG_STACKTRACE has none."""
    assert parse("noise\n== 1 a b\n== 2 c\nx\ny\n") == {"== 1 a b": "", "== 2 c": "x\ny"}


def boot(tmp_path: Path, log: str, slice_of_it: str) -> type[Exception]:
    """What the boot of a kernel ends with that has said this."""

    class Pair(fakepair.FakePair):
        def start(self) -> fakepair.FakeAgent:
            for line in log.splitlines():
                self.vm.log(line)
            raise GuestCrash("panic", "Kernel panic - not syncing", slice_of_it, fatal=True)

    def opener(config: GuestConfig, work: Path, progress: Progress) -> Opened:
        return Opened(Pair(config, work), lambda wanted: {})  # type: ignore[arg-type, return-value]

    with pytest.raises(GuestError) as caught, Guest(opener=opener):
        pass
    return caught.type


COMMAND_LINE = (
    "Kernel command line: console=ttyS0 bttv.vsfx=0\nUnknown kernel command line parameters: bttv.x=1"
)


@pytest.mark.parametrize(
    ("log", "slice_of_it", "kind"),
    [
        (COMMAND_LINE, "Kernel panic - not syncing: VFS: Unable to mount root fs", BootCrashError),
        (f"{COMMAND_LINE}\nbttv: driver version 0.9.19 loaded", "Oops", GuestCrash),
        (COMMAND_LINE, "Oops\nModules linked in: bttv(+) videodev mc", GuestCrash),
        ("", "RIP: 0010:bttv_probe+0x1/0x2 [bttv]", GuestCrash),
    ],
)
def test_a_kernel_that_dies_before_its_driver_is_no_red_driver(
    tmp_path: Path, log: str, slice_of_it: str, kind: type[Exception]
) -> None:
    assert boot(tmp_path, log, slice_of_it) is kind
