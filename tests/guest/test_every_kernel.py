# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernels beside the default one: each boots, its own driver stack captures intact frames under swap
pressure, and the checker judges all of them. One boot a kernel.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from vcapdev.errors import ExitStatus
from vcapdev.image.recipe import load_recipe, recipe_names
from vcapdev.progress import Silent
from vcapdev.run.command import finish
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import prepare
from vcapdev.run.screen import Screen
from vcapdev.run.session import Session

pytestmark = pytest.mark.guest

FRAMES = 30
FRAMEWORKS = {"videobuf_dma_sg", "videobuf2_dma_sg"}


class Asked(Session):
    """A run that asks the guest what it has loaded once a few frames have come."""

    loaded: str = ""

    def show_events(self) -> None:
        if not self.loaded and self.capture.frames.captured >= 5:
            self.loaded = self.vm.agent.pull("/proc/modules").decode()
        super().show_events()


@pytest.mark.parametrize("kernel", [name for name in recipe_names() if name != RunOptions().kernel])
def test_the_stock_driver_of_each_kernel_is_clean_under_pressure(kernel: str, tmp_path: Path) -> None:
    options = RunOptions(kernel=kernel, frames=FRAMES, report=tmp_path / "report")
    with Asked(options, prepare(options, Silent()), Screen(io.StringIO())) as session:
        status, report = finish(session), session.report
    assert status is ExitStatus.CLEAN, report.sentence
    assert report.verdicts == []
    assert report.frames.captured == report.frames.intact == FRAMES
    assert report.pins.left == 0
    assert report.swap.pages_out > 0
    names = {line.split()[0] for line in session.loaded.splitlines()}
    (framework,) = names & FRAMEWORKS
    assert f"bttv on {framework.replace('_', '-')}" in load_recipe(kernel).description
    assert report.kernel.release in (tmp_path / "report/console.log").read_text(errors="replace")
