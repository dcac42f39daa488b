# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the loop: what is played is what was saved last, and each build gets a place of its own.

Compiler and guest are stood in for; tests/guest/test_watching.py has the real ones.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "image"))
from crafted_elf import module, relocatable

from vcapdev import cli
from vcapdev.errors import ExitStatus, UsageError
from vcapdev.image.elf import Elf
from vcapdev.image.kmake import BuildError
from vcapdev.image.modules import ModuleTree
from vcapdev.scenario.model import Test
from vcapdev.scenario.results import Failure, Status, TestResult, What
from vcapdev.watch import build as building
from vcapdev.watch import command
from vcapdev.watch.build import ModuleBuild, Outcome
from vcapdev.watch.command import _Loop
from vcapdev.watch.options import WatchOptions, from_arguments
from vcapdev.watch.show import Show
from vcapdev.watch.sources import Sources

RELEASE = "6.1.0-9-amd64"


def options(*words: str) -> WatchOptions:
    return from_arguments(cli.parser().parse_args(["watch", *words]))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    directory = tmp_path / "own"
    directory.mkdir()
    (directory / "Kbuild").write_text("obj-m := bttv.o\n")
    (directory / "bttv.c").write_text("struct a {\n int b;\n};\n")
    return directory


# Options.


def test_what_cannot_be_watched_is_refused_in_one_line(own: Path, tmp_path: Path) -> None:
    for words, said in (
        (
            ["--module", str(tmp_path / "none")],
            "no such directory; name the one with the sources, or add --init",
        ),
        (["--module", str(tmp_path)], "has no Kbuild or Makefile that says: obj-m := NAME.o"),
        (["--module", str(own), "--init"], "is not empty; name a new directory"),
    ):
        with pytest.raises(UsageError, match=said):
            options(*words)
    blank = tmp_path / "a b"
    blank.mkdir()
    (blank / "Kbuild").touch()
    with pytest.raises(UsageError, match="no blank or colon"):
        options("--module", str(blank))


def test_two_quick_tests_are_played_unless_others_are_named(own: Path, tmp_path: Path) -> None:
    assert options("--module", str(own)).select == ("=capture-mmap", "=capture-userptr")
    assert options("--module", str(own), "-k", "read").select == ("read",)
    assert options("--module", str(own), "mine.yaml").select == ()
    assert options("--module", str(tmp_path / "new"), "--init").init


# Building.


class Make:
    """In the place of the kernel's build: makes a module, or complains."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error, self.said, self.image = "", "", module("bttv")
        self.names = ["bttv"]
        monkeypatch.setattr(building, "run_make", self)

    def __call__(self, _toolchain: object, _release: str, place: Path, *_: object) -> str:
        if self.error:
            raise BuildError(self.error, self.said)
        for name in self.names:
            (place / f"{name}.ko").write_bytes(self.image)
        return self.said


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return Make(monkeypatch)


@pytest.fixture
def build(own: Path, tmp_path: Path) -> ModuleBuild:
    """As it is once headers and compiler were found; the stock bttv has types, and one source file."""
    built = ModuleBuild.__new__(ModuleBuild)
    stock = tmp_path / "stock/kernel/bttv.ko"
    stock.parent.mkdir(parents=True)
    info = Elf(module("bttv")).section(".modinfo")
    assert info is not None
    stock.write_bytes(relocatable({".modinfo": info, ".BTF": b"types"}))
    source = tmp_path / "source/drivers/media/pci/bt8xx/bttv.c"
    source.parent.mkdir(parents=True)
    source.write_text("/* another comment */\nstruct a {\n int b;\n};\n")
    sources = Sources(own)
    sources.look()
    (tmp_path / "work").mkdir()
    built.__dict__.update(
        release=RELEASE, toolchain=None, _sources=sources, _work=tmp_path / "work", _number=0,
        _stock=ModuleTree(tmp_path / "stock"), _driver=lambda: tmp_path / "source",
    )  # fmt: skip
    return built


def test_each_build_has_a_place_of_its_own(build: ModuleBuild, make: Make) -> None:
    """A guest that has a module of that path loaded would take it for the same."""
    first, second = build.build(), build.build()
    assert (first.good, first.sources) == (True, 2)
    assert first.modules != second.modules
    assert first.modules[0].is_file(), "the guest may still load it"
    build.build()
    assert not first.modules[0].is_file(), "they do not pile up"


def test_types_come_from_the_stock_module_while_structs_are_the_same(
    build: ModuleBuild, make: Make, own: Path
) -> None:
    assert Elf(build.build().modules[0].read_bytes()).section(".BTF") == b"types"
    (own / "bttv.c").write_text("struct a {\n long b;\n};\n")
    assert Elf(build.build().modules[0].read_bytes()).section(".BTF") is None


def test_a_build_that_fails_tells_the_lines_that_matter(build: ModuleBuild, make: Make) -> None:
    make.error = "it does not compile: bttv.c:3: error: x"
    make.said = "In file included\nbttv.c:3: error: x\n  3 | x\nmake[2]: *** [bttv.o] Error 1\n"
    make.said += "cc1: some warnings being treated as errors\n"
    outcome = build.build()
    assert not outcome.good
    assert outcome.lines == ("bttv.c:3: error: x",)
    make.said = "".join(f"bttv.c:{n}: error: x\n" for n in range(40))
    assert build.build().lines[-1] == "(28 more lines)"


def test_warnings_are_told_and_a_build_of_nothing_is_an_error(build: ModuleBuild, make: Make) -> None:
    make.said = "bttv.c:9: warning: unused variable\n"
    assert build.build().lines == ("bttv.c:9: warning: unused variable",)
    make.names = []
    for path in (build.__dict__["_work"] / "build").glob("*.ko"):
        path.unlink()
    assert "obj-m := NAME.o" in build.build().error


# The loop.


class Player:
    """Plays tests by a list of statuses, and does what a person may do meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *statuses: Status) -> None:
        self.statuses, self.played = list(statuses), list[tuple[str, list[str]]]()
        self.meanwhile: Callable[[], object] = lambda: None  # while a test is played
        self.asleep: Callable[[], object] = lambda: None  # between two looks
        monkeypatch.setattr(command, "play", self)
        monkeypatch.setattr(command.time, "sleep", self.sleep)

    def __call__(self, test: Test, _keeper: object) -> TestResult:
        self.played.append((test.name, [Path(path).name for path in test.options["modules"]]))
        result = TestResult(test.name, test.kernel, status=self.statuses.pop(0), repeat="vcapdev scenario x")
        if result.status == Status.FAIL:
            text = "not-pinned (V3)\n" + "line\n" * 200
            result.failures.append(Failure(What.VERDICT, "key", text))
        self.meanwhile()
        return result

    def sleep(self, _seconds: float) -> None:
        if not self.statuses:
            raise KeyboardInterrupt
        self.asleep()


def loop(own: Path, build: ModuleBuild, names: list[str], *words: str) -> tuple[_Loop, io.StringIO]:
    tests = [Test(name, name, "", Path("x"), "k", {}, ()) for name in names]
    chosen = options("--module", str(own), *words)
    made = _Loop(chosen, build.__dict__["_sources"], build, tests, None)  # type: ignore[arg-type]
    shown = io.StringIO()
    made.__dict__["_show"] = Show(chosen, RELEASE, shown)
    return made, shown


def test_the_status_is_that_of_the_last_round(
    own: Path, build: ModuleBuild, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status, expected in (
        (Status.PASS, ExitStatus.CLEAN),
        (Status.FAIL, ExitStatus.FINDINGS),
        (Status.ERROR, ExitStatus.GUEST),
    ):
        Player(monkeypatch, status)
        assert loop(own, build, ["one"], "--once")[0].run() == expected
    make.error, make.said = (
        "it does not compile: bttv.c:3: error: x",
        "bttv.c:3: warning: y\nbttv.c:3: error: x\n",
    )
    player = Player(monkeypatch)
    one, shown = loop(own, build, ["one"], "--once")
    assert one.run() == ExitStatus.USAGE
    assert player.played == [], "there is nothing new to play"
    told = "BUILD it does not compile\n      bttv.c:3: warning: y\n      bttv.c:3: error: x\n"
    assert told in shown.getvalue(), "each once"


def test_a_saved_change_starts_a_round_and_ctrl_c_ends_the_loop(
    own: Path, build: ModuleBuild, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = Player(monkeypatch, Status.FAIL, Status.PASS)
    one, shown = loop(own, build, ["one"])
    saved: list[int] = []

    def mend_once() -> None:
        if player.played and not saved:
            saved.append((own / "bttv.c").write_text("struct a {\n int b;\n};\n/* mended */\n"))

    player.asleep = mend_once
    assert one.run() == ExitStatus.CLEAN
    assert [name for name, _ in player.played] == ["one", "one"]
    text = shown.getvalue()
    assert text.index("FAIL  one") < text.index("not-pinned (V3)") < text.index("ok    one")
    again = f"more lines: vcapdev watch --once --module {own} --kernel bookworm-6.1 -k =one)"
    assert again in text, "a long finding leaves room, and says where the rest is"


def test_a_change_amid_a_round_makes_the_rest_of_it_void(
    own: Path, build: ModuleBuild, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = Player(monkeypatch, Status.PASS, Status.PASS, Status.PASS)
    saved: list[int] = []

    def save_once() -> None:
        if not saved:
            saved.append(1)
            (own / "bttv.c").write_text("/* saved while the first test was played */")

    player.meanwhile = save_once
    loop(own, build, ["one", "two"])[0].run()
    assert [name for name, _ in player.played] == ["one", "one", "two"]


def test_what_was_built_is_what_is_played(
    own: Path, build: ModuleBuild, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = Player(monkeypatch, Status.PASS)
    loop(own, build, ["one"], "--once")[0].run()
    assert player.played == [("one", ["bttv.ko"])]


def test_on_a_terminal_each_round_has_the_screen_for_itself(own: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, plain = Terminal(), io.StringIO()
    for stream in (terminal, plain):
        show = Show(options("--module", str(own)), RELEASE, stream)
        show.begin(Outcome(1.5, (Path("bttv.ko"),), sources=2))
    assert terminal.getvalue().startswith("\033[2J")
    assert "\033" not in plain.getvalue()
    assert "built bttv.ko of 2 files in 1.5 s" in plain.getvalue()
