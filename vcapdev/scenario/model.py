# SPDX-License-Identifier: GPL-2.0-or-later
"""A scenario, read; and the tests that it makes: one for each variant and kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vcapdev.errors import UsageError
from vcapdev.scenario.language import SCENARIO, Step
from vcapdev.scenario.nodes import Place, ScenarioError, compose, read_text
from vcapdev.testing.another import ANOTHER_SLOT
from vcapdev.testing.config import GuestConfig, config_from

SUFFIXES = (".yaml", ".yml")
#: The kernel of scenarios that are for all, where the command line names none.
DEFAULT_KERNEL = "bookworm-6.1"
#: Below the shipped ones: suspicions about stock drivers; what came of them is in docs/findings.md.
FINDINGS = "findings"
#: Likewise: what takes hours, and is played only when it is asked for.
SLOW = "slow"
_GLOB = frozenset("*?[")

Json = dict[str, Any]


@dataclass(frozen=True)
class Expectation:
    """What must have come of a scenario at its end.

    :ivar verdicts: rules that must be violated; None: whatever the checker finds is let pass.
    :ivar pages: pages that must have been judged, by the checker of each card that sent frames; None: one,
        where anything is captured.
    :ivar unjudged: whether it is no wonder that some writes cannot be judged.
    """

    verdicts: tuple[str, ...] | None = ()
    also: tuple[str, ...] = ()
    pages: int | None = None
    unjudged: bool = False
    log_has: tuple[str, ...] = ()
    log_lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Test:
    """One scenario, or one variant of it, on one kernel.

    :ivar name: the file's stem, and the variant's name behind a slash.
    :ivar skip: why it cannot be played on this kernel, "" when it can.
    :ivar red: it has to fail, and one of its failures to match this.
    """

    __test__ = False  # none of pytest's

    name: str
    title: str
    about: str
    file: Path
    kernel: str
    options: Json  # for vcapdev.testing.config.config_from
    steps: tuple[Step, ...]
    expect: Expectation = field(default_factory=Expectation)
    skip: str = ""
    red: str | None = None

    @property
    def id(self) -> str:
        """Unique in a run: name and kernel."""
        return f"{self.name}@{self.kernel}"

    def config(self) -> GuestConfig:
        """What guest it wants. :raise UsageError: a value that cannot be; with the file's name."""
        return config_from({**self.options, "kernel": self.kernel}, f"{self.file}")


@dataclass(frozen=True)
class Scenario:
    """One file."""

    file: Path
    body: Json

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.file.stem

    def kernels(self) -> tuple[str, ...]:
        """The recipe that it names, or the default where it is for many."""
        globs = self.body.get("kernel", ("*",))
        exact = [glob for glob in globs if not _GLOB & set(glob)]
        return tuple(exact) or (DEFAULT_KERNEL,)

    def tests(self, kernels: Sequence[str]) -> list[Test]:
        """Its tests on these kernels, those that must be skipped among them."""
        names = list(self.body.get("variants", {})) or [""]
        return [self._test(name, kernel) for kernel in kernels for name in names]

    def _test(self, variant: str, kernel: str) -> Test:
        own = self.body.get("variants", {}).get(variant, {}) if variant else {}
        body = {**self.body, **own, "card": {**self.body.get("card", {}), **own.get("card", {})}}
        expect = {**self.body.get("expect", {}), **own.get("expect", {})}
        title = f"{self.body['title']}: {own['title']}" if own.get("title") else str(self.body["title"])
        return Test(
            name=f"{self.name}/{variant}" if variant else self.name,
            title=title,
            about=" ".join(str(self.body.get("about", "")).split()),
            file=self.file,
            kernel=kernel,
            options=_guest_options(body, self.file.parent),
            steps=self.body["steps"],
            expect=_expectation(expect),
            skip=_reason_against(body, kernel),
            red=own.get("red"),
        )


def _reason_against(body: Json, kernel: str) -> str:
    for glob, reason in body.get("not-on", {}).items():
        if fnmatchcase(kernel, glob):
            return str(reason)
    globs = body.get("kernel", ("*",))
    if any(fnmatchcase(kernel, glob) for glob in globs):
        return ""
    return f"this is for {', '.join(globs)} only"


_SAME = ("memory", "swap", "cpus", "iommu", "append", "mutant", "fresh", "allow")


def _guest_options(body: Json, here: Path) -> Json:
    options: Json = {key: body[key] for key in _SAME if key in body}
    if body.get("second-slot"):
        options["qemu_opts"] = list(ANOTHER_SLOT)
    card = body.get("card", {})
    options |= {key: card[key] for key in ("board", "norm", "clock") if key in card}
    if "revision" in card:
        options["revision"] = int(card["revision"], 16)
    if "modules" in body:
        options["modules"] = [str((here / name).resolve()) for name in body["modules"]]
    if "parameters" in body:
        options["parameters"] = dict(body["parameters"])
    return options


def _expectation(expect: Json) -> Expectation:
    verdicts = expect.get("verdicts", "none")
    log = expect.get("kernel-log", {})
    return Expectation(
        verdicts=None if verdicts == "any" else () if verdicts == "none" else tuple(verdicts),
        also=expect.get("also", ()),
        pages=expect.get("pages"),
        unjudged=expect.get("unjudged", False),
        log_has=log.get("has", ()),
        log_lacks=log.get("lacks", ()),
    )


def load(path: Path) -> Scenario:
    """Read one file. :raise ScenarioError: with line and column."""
    place = Place(str(path))
    node = compose(read_text(path), place)
    scenario = Scenario(path, SCENARIO.read(node, place))
    for test in scenario.tests(scenario.kernels()):
        try:
            test.config()
        except UsageError as error:
            raise ScenarioError(str(error)) from None
    return scenario


def collect(paths: Iterable[Path]) -> list[Scenario]:
    """Files, all files of directories, and shipped ones by name; all of those where none is named.

    :raise ScenarioError: a file is wrong, two have one name, or there is none.
    """
    files: list[Path] = []
    for path in list(paths) or [shipped()]:
        path = _named(path)
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES)
            if not inside:
                raise ScenarioError(f"{path}: there is no scenario (*.yaml) in this directory")
            files += inside
        else:
            files.append(path)
    scenarios = [load(file) for file in dict.fromkeys(files)]
    seen: dict[str, Path] = {}
    for one in scenarios:
        if one.name in seen:
            raise ScenarioError(
                f"{one.file}: {seen[one.name]} has the same name; results could not be told apart"
            )
        seen[one.name] = one.file
    return scenarios


def _named(path: Path) -> Path:
    """A path, a shipped scenario by its name, or :data:`FINDINGS` or :data:`SLOW` for all of these."""
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        for directory in (shipped(), shipped() / FINDINGS, shipped() / SLOW):
            candidate = directory / f"{path.name}.yaml"
            if candidate.is_file():
                return candidate
    if not path.exists() and str(path) in (FINDINGS, SLOW):
        return shipped() / path
    return path


def shipped() -> Path:
    """The directory of the scenarios that come with vcapdev."""
    return Path(__file__).resolve().parent.parent / "scenarios"


def with_modules(test: Test, modules: Sequence[Path]) -> Test:
    """The same with modules of the command line in the places of the stock ones."""
    if not modules or test.red is not None or "mutant" in test.options:
        return test
    return replace(test, options={**test.options, "modules": [str(path) for path in modules]})


def shard(tests: Sequence[Test], number: int, of: int) -> list[Test]:
    """Share ``number`` (from 1) of ``of``: every so-manieth of the sorted names; deterministic."""
    ordered = sorted(tests, key=lambda test: test.id)
    return ordered[number - 1 :: of]
