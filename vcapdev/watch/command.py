# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop: look, build, exchange the driver in the guest, play, show, wait."""

from __future__ import annotations

import time
from collections.abc import Sequence

from vcapdev.errors import ExitStatus
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import prepare
from vcapdev.run.screen import Screen
from vcapdev.scenario import suite
from vcapdev.scenario.model import Test, with_modules
from vcapdev.scenario.options import ScenarioOptions
from vcapdev.scenario.play import play
from vcapdev.scenario.results import Results
from vcapdev.testing.guest import Guest
from vcapdev.testing.keeper import Keeper
from vcapdev.watch.build import ModuleBuild
from vcapdev.watch.options import WatchOptions
from vcapdev.watch.show import Show
from vcapdev.watch.sources import Sources
from vcapdev.workdir import workdir

_LOOK = 0.2  # seconds between two looks at the sources
_SETTLED = 0.15  # seconds without a change after which an editor has written all


def run(options: WatchOptions) -> ExitStatus:
    """Until Ctrl-C, or once; the exit status is that of the last round.

    :raise VcapdevError: the machine lacks something, or the scenarios are wrong.
    """
    tests = suite.selected(
        ScenarioOptions(files=options.files, kernels=(options.kernel,), select=options.select)
    )
    screen = Screen()
    with screen.stage("prepare") as stage:
        prepared = prepare(RunOptions(kernel=options.kernel), screen.progress)
        stage.note = f"{options.kernel}, QEMU {prepared.qemu.version} with {prepared.accel.name}"
    sources = Sources(options.module)
    with workdir("watch") as work:
        with screen.stage("headers") as stage:
            build = ModuleBuild(sources, options.kernel, prepared.guest, work, screen.progress)
            stage.note = f"of {build.release}, {build.toolchain.version}"
        if options.init:
            build.lay_out()
        keeper = Keeper(Guest, most=1)
        try:
            return _Loop(options, sources, build, tests, keeper).run()
        finally:
            keeper.close()


class _Loop:
    """Rounds, and the guest that serves all of them."""

    def __init__(
        self,
        options: WatchOptions,
        sources: Sources,
        build: ModuleBuild,
        tests: Sequence[Test],
        keeper: Keeper,
    ) -> None:
        self._options, self._sources, self._build = options, sources, build
        self._tests, self._keeper = tests, keeper
        self._show = Show(options, build.release)

    def run(self) -> ExitStatus:
        self._sources.look()
        status = self._round()
        while not self._options.once:
            try:
                self._show.waiting(len(self._sources))
                self._wait()
            except KeyboardInterrupt:
                break  # how it ends
            status = self._round()
        return status

    def _round(self) -> ExitStatus:
        begin = time.monotonic()
        outcome = self._build.build()
        self._show.begin(outcome)
        results = Results()
        for test in self._tests if outcome.good else ():
            if not self._options.once and self._sources.moved():
                break  # this one is out of date
            result = play(with_modules(test, outcome.modules), self._keeper)
            result.repeat = self._options.again(test)
            results.tests.append(result)
            self._show.told(result)
        self._show.end(results.tests, time.monotonic() - begin)
        return results.exit_status() if outcome.good else ExitStatus.USAGE

    def _wait(self) -> None:
        """Until a source has changed, and no other does."""
        while not self._sources.look():
            time.sleep(_LOOK)
        while True:
            time.sleep(_SETTLED)
            if not self._sources.look():
                return
