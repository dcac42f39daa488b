# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernels beside the default one: each boots, its own driver stack captures intact frames under swap
pressure, and the checker judges all of them.
"""

from __future__ import annotations

import pytest

from vcapdev.gallery.scene import Expectation, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.image.recipe import load_recipe, recipe_names
from vcapdev.run.capture import capture_command
from vcapdev.run.options import RunOptions

pytestmark = pytest.mark.guest

FRAMES = 30
OTHERS = [name for name in recipe_names() if name != RunOptions().kernel]
FRAMEWORKS = {"videobuf_dma_sg", "videobuf2_dma_sg"}


@pytest.mark.parametrize("stage", OTHERS, indirect=True)
def test_the_stock_driver_of_each_kernel_is_clean_under_pressure(stage: Stage) -> None:
    scene = Scene(
        "stock",
        "the kernel's own driver under pressure",
        tuple(capture_command(RunOptions(frames=FRAMES))),
        beside=(("vcap-pressure", "--fill", "100"),),
        setup=("cat /proc/vmstat > /tmp/before",),
        expect=Expectation(silent=True),
    )
    outcome = stage.run_scene(scene)
    assert outcome.shortfalls() == []
    assert outcome.rules == frozenset()
    assert outcome.frames.captured == outcome.frames.intact == FRAMES
    assert outcome.pins_left == 0
    assert pages_out(stage, "/proc/vmstat") > pages_out(stage, "/tmp/before")
    loaded = {line.split()[0] for line in stage.pull("/proc/modules").decode().splitlines()}
    (framework,) = loaded & FRAMEWORKS
    assert f"bttv on {framework.replace('_', '-')}" in load_recipe(stage.kernel).description
    assert stage.prepared.guest.release in stage.pull("/proc/version").decode()


def pages_out(stage: Stage, path: str) -> int:
    """Pages that have been written to swap so far."""
    lines = stage.pull(path).decode().splitlines()
    return int(dict(line.split() for line in lines)["pswpout"])
