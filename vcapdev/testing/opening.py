# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes a guest and its device from a configuration; tests of the plugin have one that boots nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vcapdev.errors import GuestError
from vcapdev.progress import Progress
from vcapdev.run.device import DeviceProcess
from vcapdev.run.pair import Pair, WatchedVm
from vcapdev.testing.config import GuestConfig
from vcapdev.testing.modules import Variant, variant_of
from vcapdev.vm.agent import Agent


class GuestPair(Protocol):
    """What is needed of ``vcapdev.run.pair.Pair``."""

    @property
    def device(self) -> DeviceProcess: ...
    @property
    def vm(self) -> WatchedVm: ...
    def start(self) -> Agent: ...
    def stop(self) -> None: ...
    def why_gone(self, error: GuestError) -> GuestError: ...


@dataclass(frozen=True)
class Opened:
    """A guest and its device before they are started, and where the altered drivers for it come from."""

    pair: GuestPair
    variants: Callable[[GuestConfig], Variant]


Opener = Callable[[GuestConfig, Path, Progress], Opened]


def open_pair(config: GuestConfig, work: Path, progress: Progress) -> Opened:
    """Prepare what a guest needs (nearly all of it comes from the cache), and put guest and device together.

    :raise UsageError: a recipe, board or file that does not exist.
    :raise SetupError: packages, network, disk, compiler.
    """
    from vcapdev.run.prepare import prepare

    options = config.run_options()
    prepared = prepare(options, progress)
    return Opened(
        Pair(options, prepared, work, progress), lambda wanted: variant_of(wanted, prepared, progress)
    )
