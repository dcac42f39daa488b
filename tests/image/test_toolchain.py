# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the choice of the compiler, and programs that run through the loader of a private root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from aptrepo import Repository, make_recipe

from vcapdev.errors import SetupError
from vcapdev.image.cache import Cache
from vcapdev.image.elf import Elf, resolve_in_root
from vcapdev.image.recipe import Recipe
from vcapdev.image.toolchain import (
    Toolchain,
    choose_toolchain,
    host_compiler,
    kernel_compiler,
    tools_run,
    wrap_programs,
)
from vcapdev.progress import Terminal

RELEASE = "6.1.0-9-amd64"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def headers(tmp_path: Path, text: str) -> Path:
    config = tmp_path / f"usr/src/linux-headers-{RELEASE}/.config"
    config.parent.mkdir(parents=True)
    config.write_text(f'CONFIG_X=y\nCONFIG_CC_VERSION_TEXT="{text}"\n')
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc-12"),
        ("gcc-10 (Debian 10.2.1-6) 10.2.1 20210110", "gcc-10"),
        ("x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0", "gcc-14"),
    ],
)
def test_the_kernel_names_its_compiler(tmp_path: Path, text: str, name: str) -> None:
    assert kernel_compiler(headers(tmp_path, text), RELEASE) == (name, text)


def test_another_compiler_than_gcc_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="does not name a gcc"):
        kernel_compiler(headers(tmp_path, "Debian clang version 14.0.6"), RELEASE)
    with pytest.raises(SetupError, match="does not name a gcc"):
        kernel_compiler(tmp_path / "empty", RELEASE)


def test_the_machines_gcc_is_taken_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "gcc", '[ "$1" = -dumpversion ] && echo 12 || echo "gcc (Debian) 12.2.0"')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host_compiler("gcc-12") == (str(tmp_path / "gcc"), "gcc (Debian) 12.2.0")
    assert host_compiler("gcc-10") is None


def needs_library(program: Path, version: str) -> Path:
    """A program that needs ``version`` of a symbol in a library beside it; the library."""
    program.parent.mkdir(parents=True, exist_ok=True)
    library, script = program.with_name("libelf-of-tests.so"), program.with_name("versions")
    script.write_text(f"{version} {{ global: elf; local: *; }};")
    define = [f"-Wl,--version-script={script}", f"-Wl,-soname,{library.name}"]
    build(["-shared", "-fPIC", *define, "-o", library], "int elf(void) { return 0; }")
    search = ["-L", library.parent, f"-l:{library.name}", f"-Wl,-rpath,{library.parent}"]
    build(["-o", program, "-x", "c", "-", *search], "int elf(void); int main(void) { return elf(); }")
    return library


def build(options: list[str | Path], source: str) -> None:
    stdin = [] if "-" in options else ["-x", "c", "-"]
    subprocess.run(["gcc", *options, *stdin], input=source, text=True, check=True)


def test_build_tools_that_lack_a_library_are_found_out(tmp_path: Path) -> None:
    """Also where the tool that is called is fine, and starts another one that is not (objtool since 6.9)."""
    kbuild = tmp_path / "usr/lib/linux-kbuild-6.1"
    assert not tools_run(tmp_path), "there are none"
    library = needs_library(kbuild / "tools/objtool/objtool.real-x86", "ELF_1.0")
    script(kbuild / "tools/objtool/objtool", "exit 1")
    assert tools_run(tmp_path)
    library.unlink()
    assert not tools_run(tmp_path)


def test_build_tools_that_need_a_newer_library_are_found_out(tmp_path: Path) -> None:
    """As tools of a later suite need a later C library."""
    program = tmp_path / "usr/lib/linux-kbuild-6.1/scripts/basic/fixdep"
    library = needs_library(program, "ELF_2.0")
    older = needs_library(tmp_path / "elsewhere/fixdep", "ELF_1.0")
    assert tools_run(tmp_path)
    older.replace(library)
    assert not tools_run(tmp_path)


def who(program: Path, root: str) -> Path:
    """A dynamic program that says its name, whether a loader below ``root`` started it, its argument."""
    source = (
        "#include <stdio.h>\n#include <string.h>\n"
        "int main(int argc, char **argv) { char maps[4096]; int own = 0;\n"
        'FILE *f = fopen("/proc/self/maps", "r");\n'
        f'while (fgets(maps, sizeof maps, f)) own |= strstr(maps, "{root}") != NULL;\n'
        'printf("%s %d %s\\n", argv[0], own, argc > 1 ? argv[1] : ""); return 0; }\n'
    )
    subprocess.run(["gcc", "-x", "c", "-o", program, "-"], input=source, text=True, check=True)
    return program


def private_root(root: Path, program: Path) -> None:
    """The loader and libraries of this machine, as if they were another suite's."""
    linkage = Elf(program.read_bytes()).linkage()
    assert linkage.interpreter is not None
    for name in (linkage.interpreter, *(f"/lib/x86_64-linux-gnu/{name}" for name in linkage.needed)):
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        source = resolve_in_root(Path("/"), name)
        assert source is not None, name
        shutil.copy(source, target)


def test_a_program_runs_through_the_private_loader(tmp_path: Path) -> None:
    """Also after the tree was moved to its final place, with its arguments, and by its hidden name."""
    made = tmp_path / "made"
    (made / "root/usr/bin").mkdir(parents=True)
    program = who(made / "root/usr/bin/who", "/final/root/")
    shutil.copy(program, made / "root/usr/bin/who.part")
    private_root(made / "root", program)
    final = tmp_path / "final"
    wrap_programs(made / "root", final / "root", made / "root", final / "root")
    made.rename(final)
    bin_dir = final / "root/usr/bin"
    said = subprocess.run([bin_dir / "who", "a b"], capture_output=True, text=True, check=True).stdout
    assert said == f"{bin_dir}/.who.elf 1 a b\n"
    part = subprocess.run([f"{bin_dir}/.who.elf.part"], capture_output=True, text=True, check=True).stdout
    assert part == f"{bin_dir}/.who.part.elf 1 \n"
    assert os.access(bin_dir / "who", os.X_OK)


@pytest.fixture
def suite(repository: Repository, machine: Path, tmp_path: Path) -> Recipe:
    """A suite with a compiler of its own, and this machine's loader and libraries as its C library."""
    program = who(tmp_path / "who", "/toolchains/")
    private_root(tmp_path / "libc", program)
    files = {
        str(path.relative_to(tmp_path / "libc")): path.read_bytes()
        for path in (tmp_path / "libc").rglob("*")
        if path.is_file()
    }
    repository.add("libc6", "2.36-9", files)
    repository.add("gcc-12", "12.2.0-14", {"usr/bin/gcc-12": program.read_bytes()}, depends="libc6")
    for name in ("binutils", "libelf1", "zlib1g"):
        repository.add(name, "1.0")
    repository.publish()
    return make_recipe("suites: [bookworm]\npackages: [libc6]\n")


def test_a_private_compiler_of_the_suite_also_where_the_machines_would_do(
    suite: Recipe, tmp_path: Path, cache: Cache, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = headers(tmp_path / "headers", "gcc-12 (Debian 12.2.0-14) 12.2.0")
    tool = tree / "usr/lib/linux-kbuild-6.1/scripts/basic/fixdep"
    tool.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "who", tool)
    script(tmp_path / "bin/gcc-12", '[ "$1" = -dumpversion ] && echo 12 || echo "gcc-12 of the machine"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    its = choose_toolchain(suite, tree, RELEASE, Terminal(), cache)
    assert its == Toolchain(tree, str(tmp_path / "bin/gcc-12"), "gcc-12 of the machine")

    own = choose_toolchain(suite, tree, RELEASE, Terminal(), cache, private=True)
    assert own.compiler == "gcc-12"
    assert own.version == "gcc-12 (Debian 12.2.0-14) 12.2.0 in a private root"
    assert own.headers.is_relative_to(cache.root / "toolchains")
    command = f"{own.compiler} -c; {own.headers / tool.relative_to(tree)} dep; {tool} dep"
    said = subprocess.run(
        command, shell=True, env=own.environment(), capture_output=True, text=True, check=True
    )
    compiled, moved, original = (line.split() for line in said.stdout.splitlines())
    assert compiled == [str(own.path[0] / ".gcc-12.elf"), "1", "-c"]
    assert moved == [str(own.headers / tool.relative_to(tree).with_name(".fixdep.elf")), "1", "dep"]
    assert original == [str(tool), "0", "dep"]  # the headers that others use are as they were

    shutil.rmtree(repository.root)  # no network: all is in the cache
    assert choose_toolchain(suite, tree, RELEASE, Terminal(), cache, private=True) == own


def test_a_root_without_loader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no loader"):
        wrap_programs(tmp_path, tmp_path, tmp_path, tmp_path)
