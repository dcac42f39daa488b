# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs to attach to a freshly booted kernel, in seconds of CPU time: the first time, and the next.

Each kernel that there is a recipe for is booted once. The first attachment begins with an empty cache; the
guest's vCPUs run meanwhile, in another process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "guest"))

from guest_ram import memory_of

from vcapdev.guestmm.kernel import attach
from vcapdev.progress import Silent
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import prepare
from vcapdev.vm.commandline import VmConfig
from vcapdev.vm.machine import Vm

RECIPES = ("bullseye-5.10", "bookworm-6.1", "trixie-6.12", "trixie-7.3")
BOOT_TIMEOUT = 180.0


def measure() -> dict[str, float]:
    figures = {}
    for recipe in RECIPES:
        first, again = attach_twice(recipe)
        figures |= {f"first_{recipe}": first, f"again_{recipe}": again}
    return figures


def attach_twice(recipe: str) -> tuple[float, float]:
    made = prepare(RunOptions(kernel=recipe), Silent())
    with tempfile.TemporaryDirectory(prefix="vcapdev-bench-") as name:
        config = VmConfig(
            qemu=made.qemu, accel=made.accel.name, kernel=made.kernel, initrd=made.initrd, workdir=Path(name)
        )
        vm = Vm(config)
        former = os.environ.get("VCAPDEV_CACHE")
        try:
            vm.start()
            vm.wait_agent(BOOT_TIMEOUT)
            os.environ["VCAPDEV_CACHE"] = f"{name}/cache"
            return timed(vm), timed(vm)
        finally:
            if former is None:
                os.environ.pop("VCAPDEV_CACHE", None)
            else:
                os.environ["VCAPDEV_CACHE"] = former
            vm.stop()


def timed(vm: Vm) -> float:
    """CPU seconds of one attachment."""
    with memory_of(vm) as memory:
        start = time.process_time()
        kernel = attach(memory)
        taken = time.process_time() - start
        assert kernel.vmemmap.pages > 0
    return taken


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:20} {value:8.3f}")
