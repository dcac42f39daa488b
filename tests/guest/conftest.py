# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests for tests, made from the product's own provisioning (so from its cache, or the network)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest

from vcapdev.gallery.stage import Stage
from vcapdev.image.kbuild import build_mutant
from vcapdev.image.recipe import load_recipe, recipe_names
from vcapdev.progress import Silent
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare
from vcapdev.vm.commandline import VmConfig
from vcapdev.vm.kernel_image import quick_kernel
from vcapdev.vm.machine import Vm

BOOT_TIMEOUT = 180.0  # seconds; a guest boots in 6 to 15 on two busy cores

Boot = Callable[..., Vm]


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """Kernel, initramfs, QEMU and accelerator of the default recipe."""
    return prepare(RunOptions(), Silent())


@pytest.hookimpl(trylast=True)  # pytest itself sorts by parameters, and starts a kernel again and again
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that play on ``stage`` come last, those of one kernel together: it boots once for all of them."""
    kernels = recipe_names()

    def place(item: pytest.Item) -> int:
        call = getattr(item, "callspec", None)
        kernel = call.params.get("stage") if call is not None else None
        return 1 + kernels.index(kernel) if kernel in kernels else 0

    items.sort(key=place)


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stage of the kernel that the test is parametrized with; others play on it, too.

    It has every altered driver of guest/mutants, built when a scene first asks for it.
    """
    options, recipe = RunOptions(kernel=request.param, cold=False), load_recipe(request.param)
    prepared = prepare(options, Silent())

    @cache
    def driver(name: str) -> dict[str, Path]:
        return build_mutant(recipe, prepared.guest, name, Silent())

    with Stage(options, prepared, driver) as stage:
        yield stage


@pytest.fixture(scope="module")
def boot_of() -> Iterator[Boot]:
    """``boot_of(prepared, **changes of VmConfig)``: a guest whose agent answers; all end with the module."""
    started: list[Vm] = []
    with tempfile.TemporaryDirectory(prefix="vcap-test-") as name:

        def start(prepared: Prepared, **changes: object) -> Vm:
            work = Path(name) / str(len(started))
            work.mkdir()
            config = VmConfig(
                qemu=prepared.qemu,
                accel=prepared.accel.name,
                kernel=quick_kernel(prepared.kernel, prepared.accel.name),
                initrd=prepared.initrd,
                workdir=work,
            )
            vm = Vm(replace(config, **changes))  # type: ignore[arg-type]
            started.append(vm)
            vm.start()
            vm.wait_agent(BOOT_TIMEOUT)
            return vm

        yield start
        for vm in started:
            vm.stop()


@pytest.fixture(scope="module")
def boot(boot_of: Boot, prepared: Prepared) -> Boot:
    """``boot(**changes of VmConfig)``: the same for the default recipe."""
    return partial(boot_of, prepared)


@pytest.fixture(scope="module")
def bare(boot: Boot) -> Vm:
    """One guest for a module's tests, without a card, with 128 MiB of zram swap."""
    return boot(swap="zram:128")
