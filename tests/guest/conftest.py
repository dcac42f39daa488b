# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests for tests, made from the product's own provisioning (so from its cache, or the network)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

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
def guest(boot: Boot) -> Vm:
    """One guest for a module's tests, without a card, with 128 MiB of zram swap."""
    return boot(swap="zram:128")
