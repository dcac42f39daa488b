# SPDX-License-Identifier: GPL-2.0-or-later
"""Which tests are played, in which order, and by whom: this process, or workers with guests of their own."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from vcapdev.errors import UsageError
from vcapdev.scenario.model import Scenario, Test, collect, shard, with_modules
from vcapdev.scenario.options import ScenarioOptions
from vcapdev.scenario.play import Settings, last_words, play, repeat_command, skipped
from vcapdev.scenario.results import Failure, Results, Status, TestResult, What
from vcapdev.testing.config import GuestConfig
from vcapdev.testing.guest import Guest
from vcapdev.testing.keeper import Keeper

_END = 30.0  # seconds for a worker to end its guests

Told = Callable[[TestResult], None]


def selected(options: ScenarioOptions) -> list[Test]:
    """The tests that the options mean, in the order of files, variants and kernels.

    :raise UsageError: a file is wrong, or nothing is left to play.
    """
    scenarios = collect(options.files)
    tests = [test for one in scenarios for test in one.tests(_kernels(one, options))]
    tests = [with_modules(test, options.modules) for test in tests if _wanted(test, options.select)]
    if not tests:
        names = ", ".join(one.name for one in scenarios[:12])
        raise UsageError(f"no test has {' or '.join(options.select)} in its name; there are {names}, ...")
    if options.shard != (1, 1):
        share = {test.id for test in shard(tests, *options.shard)}
        tests = [test for test in tests if test.id in share]
    return tests


def _kernels(scenario: Scenario, options: ScenarioOptions) -> Sequence[str]:
    return options.kernels or scenario.kernels()


def _wanted(test: Test, select: Sequence[str]) -> bool:
    if not select:
        return True
    return any(test.name == text[1:] if text.startswith("=") else text in test.name for text in select)


def settings_of(options: ScenarioOptions) -> Settings:
    """How tests are played."""
    return Settings(options.record, options.cold, options.qemu_opts)


def by_machine(tests: Sequence[Test]) -> list[Test]:
    """Those that can share a guest behind each other; apart from that the order stays."""
    groups: dict[GuestConfig, list[Test]] = {}
    for test in tests:
        groups.setdefault(test.config().machine, []).append(test)
    return [test for group in groups.values() for test in group]


def run(tests: Sequence[Test], options: ScenarioOptions, told: Told) -> list[TestResult]:
    """Play them all; ``told`` hears of each result as it comes. Results come back in the order of ``tests``.

    What cannot be played is told first, so that the last one of all is one that had a guest.

    :raise KeyboardInterrupt: after all guests have been ended.
    """
    found = [skipped(test) for test in tests if test.skip]
    for result in found:
        told(result)
    ordered = by_machine([test for test in tests if not test.skip])
    jobs = min(options.jobs, len(ordered))
    found += _alone(ordered, options, told) if jobs <= 1 else _shared(ordered, options, told, jobs)
    place = {test.id: at for at, test in enumerate(tests)}
    return sorted(found, key=lambda result: place[result.id])


def _alone(tests: Sequence[Test], options: ScenarioOptions, told: Told) -> list[TestResult]:
    keeper = Keeper(_guest, most=1)
    found = []
    try:
        for left, test in zip(range(len(tests) - 1, -1, -1), tests, strict=True):
            found.append(play(test, keeper, settings_of(options)))
            if not left:
                last_words(test, keeper, found[-1])
            told(found[-1])
    finally:
        keeper.close()
    return found


def _guest(config: GuestConfig) -> Guest:
    return Guest(config)


# -- workers


class _Worker:
    """A process that plays one test after another: names go in, results come out, a line each."""

    def __init__(self, options: ScenarioOptions) -> None:
        self._command = [sys.executable, "-m", "vcapdev.scenario.worker"]
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._ended = False

    def play(self, test: Test) -> TestResult:
        """One test; a worker that dies of it is replaced for the next one."""
        process = self._process
        try:
            if process is None or process.poll() is not None:
                process = self._process = self._start()
        except OSError as error:
            return _lost(test, f"no worker could be started to play it: {error.strerror or error}")
        try:
            return _answer(process, _order(test, self._options))
        except (OSError, ValueError, UsageError, IndexError):
            return _lost(test, f"the worker that played it ended with status {process.poll()}")

    def rest(self, test: Test, result: TestResult) -> TestResult:
        """No test is left for it: its guests end, and what they still say goes into the last one's result."""
        process = self._process
        if process is None or process.poll() is not None:
            return result
        try:
            return _answer(process, {"end": True})
        except (OSError, ValueError, UsageError, IndexError):
            if result.status != Status.PASS:
                return result
            return _lost(test, f"the worker ended with status {process.poll()}, its guest was not heard out")

    def end(self) -> None:
        """End it and its guests."""
        self._ended = True
        process = self._process
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END)
                return

    def _start(self) -> subprocess.Popen[str]:
        if self._ended:
            raise OSError("the run is over")
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )


def _answer(process: subprocess.Popen[str], order: dict[str, object]) -> TestResult:
    """What a worker says to an order; errors of many kinds where it has gone, or talks nonsense."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return Results.from_json(json.loads(process.stdout.readline()), "worker").tests[0]


def _order(test: Test, options: ScenarioOptions) -> dict[str, object]:
    return {
        "file": str(test.file), "name": test.name, "kernel": test.kernel, "record": options.record,
        "modules": [str(path) for path in options.modules], "cold": options.cold,
        "qemu_opts": list(options.qemu_opts),
    }  # fmt: skip


def _lost(test: Test, text: str) -> TestResult:
    result = TestResult(test.name, test.kernel, test.title, str(test.file), Status.ERROR, text)
    result.failures.append(Failure(What.INFRASTRUCTURE, "infrastructure: worker", text))
    result.exit_status, result.repeat = 30, repeat_command(test)
    return result


def _shared(tests: Sequence[Test], options: ScenarioOptions, told: Told, jobs: int) -> list[TestResult]:
    """Each thread has a worker of its own; tests of one machine go to the same one while there are others."""
    shares = _Shares(tests)
    results: queue.Queue[TestResult | BaseException] = queue.Queue()
    workers = [_Worker(options) for _ in range(jobs)]
    stopping = threading.Event()

    def serve(worker: _Worker) -> None:
        try:
            test = shares.next(worker)
            while not stopping.is_set() and test is not None:
                result, following = worker.play(test), shares.next(worker)
                results.put(result if following is not None else worker.rest(test, result))
                test = following
        except BaseException as error:  # a defect of ours: whoever waits for results must hear of it
            results.put(error)

    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in workers]
    found: list[TestResult] = []
    try:
        for thread in threads:
            thread.start()
        while len(found) < len(tests):
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            found.append(result)
            told(result)
    finally:
        stopping.set()
        for worker in workers:
            worker.end()
    return found


class _Shares:
    """Hands out tests: a worker stays with its machine, then takes the longest queue that nobody works on."""

    def __init__(self, tests: Sequence[Test]) -> None:
        self._lock = threading.Lock()
        self._groups: dict[GuestConfig, list[Test]] = {}
        self._mine: dict[object, GuestConfig] = {}
        for test in tests:
            self._groups.setdefault(test.config().machine, []).append(test)

    def next(self, worker: object) -> Test | None:
        """The next test for a worker; None when there is none."""
        with self._lock:
            machine = self._mine.get(worker)
            if machine is None or not self._groups.get(machine):
                left = {key: group for key, group in self._groups.items() if group}
                if not left:
                    return None
                taken = set(self._mine.values())
                free = {key: group for key, group in left.items() if key not in taken} or left
                machine = self._mine[worker] = max(free, key=lambda key: len(free[key]))
            return self._groups[machine].pop(0)


def find(order: dict[str, object]) -> tuple[Test, Settings]:
    """In a worker: the test that an order means."""
    file, name, kernel = (str(order[key]) for key in ("file", "name", "kernel"))
    tests = [test for one in collect([Path(file)]) for test in one.tests([kernel]) if test.name == name]
    modules = order["modules"]
    extra = order["qemu_opts"]
    assert isinstance(modules, list)
    assert isinstance(extra, list)
    settings = Settings(bool(order["record"]), bool(order["cold"]), tuple(map(str, extra)))
    return with_modules(tests[0], [Path(path) for path in modules]), settings
