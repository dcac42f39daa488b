# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the build of the guest programs: static, kept by content, a first error that says something."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import Cache
from vcapdev.image.elf import Elf
from vcapdev.image.programs import build_programs, program_sources
from vcapdev.progress import Silent
from vcapdev.resources import resource_dir


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    directory = tmp_path / "src"
    (directory / "hello").mkdir(parents=True)
    (directory / "vcap-hello.c").write_text(
        '#include <stdio.h>\n#include "hello/text.h"\nint main(void) { puts(text()); return 0; }\n'
    )
    (directory / "hello/text.h").write_text("const char *text(void);\n")
    (directory / "hello/text.c").write_text(
        '#include "hello/text.h"\nconst char *text(void) { return "one"; }\n'
    )
    return directory


def build(sources: Path, tmp_path: Path, name: str = "vcap-hello") -> Path:
    return build_programs([name], Silent(), sources=sources, cache=Cache(tmp_path / "cache"))[name]


def test_a_program_is_static_and_works(sources: Path, tmp_path: Path) -> None:
    built = build(sources, tmp_path)
    linkage = Elf(built.read_bytes()).linkage()
    assert (linkage.interpreter, linkage.needed) == (None, ())
    assert subprocess.run([built], capture_output=True, check=True).stdout == b"one\n"


def test_only_a_change_builds_anew(sources: Path, tmp_path: Path) -> None:
    first = build(sources, tmp_path)
    made = first.stat().st_ino
    assert build(sources, tmp_path).stat().st_ino == made
    (sources / "hello/text.h").write_text("const char *text(void); /* changed */\n")
    assert build(sources, tmp_path) != first


def test_the_place_of_the_sources_leaves_no_trace(sources: Path, tmp_path: Path) -> None:
    text = sources / "hello/text.c"
    text.write_text(text.read_text().replace('"one"', "__FILE__"))
    assert str(tmp_path).encode() not in build(sources, tmp_path).read_bytes()


def test_the_first_error_is_told(sources: Path, tmp_path: Path) -> None:
    (sources / "hello/text.c").write_text("int a;\nconst char *text(void) { return nothing; }\n")
    with pytest.raises(SetupError, match=r"vcap-hello does not compile: .*text\.c:2:.* error: .*nothing"):
        build(sources, tmp_path)
    (sources / "hello/text.c").write_text("")
    with pytest.raises(SetupError, match="undefined reference"):
        build(sources, tmp_path)


def test_an_unknown_program_is_named(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no guest program 'vcap-nothing'; there are vcap-hello"):
        build(sources, tmp_path, "vcap-nothing")


def test_the_programs_that_come_with_us_have_sources() -> None:
    directory = resource_dir("guest") / "src"
    for name in ("vcap-agent", "vcap-capture", "vcap-edges", "vcap-pressure", "vcap-scene"):
        files = program_sources(name, directory)
        assert all(path.is_file() for path in files), name


def test_shared_files_are_part_of_a_program() -> None:
    directory = resource_dir("guest") / "src"
    assert directory / "capture/verify.c" in program_sources("vcap-scene", directory)
