# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects ``--offline``: a run from a bundle takes just what is in it, and never asks the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vcapdev.errors import SetupError, UsageError
from vcapdev.image import machine, offline, programs
from vcapdev.image.bundlefile import Manifest, Writer
from vcapdev.image.cache import Cache
from vcapdev.image.lock import Package, Resolution, dump_lock
from vcapdev.image.programs import build_programs, sources_digest
from vcapdev.image.provision import resolve, unpacked
from vcapdev.image.recipe import load_recipe
from vcapdev.progress import Silent

RECIPE = "bookworm-6.1"
PACKAGE = Package("linux", "6.1-1", "cd" * 32, "bookworm", 5, "amd64", "main", "pool/l/linux.deb")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "cache"))
    return Cache()


def _no_compiler(*_: object) -> str:
    raise AssertionError("it is in the bundle, and yet a compiler is looked for")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of another machine: a package's tree, and a program that a compiler was needed for."""
    recipe = load_recipe(RECIPE)
    other = Cache(tmp_path / "other")

    def fill(name: str) -> Callable[[Path], None]:
        return lambda into: (into / name).write_text(name) and None  # type: ignore[return-value]

    tree = other.entry("packages", offline.digest(PACKAGE.sha256), fill("tree"), label="kernel")
    program = other.entry("programs", "12" * 32, fill("vcap-agent"), label="vcap-agent")
    lock = json.loads(dump_lock([Resolution(RECIPE, recipe.key, (PACKAGE,))]))
    path = tmp_path / "x.vcap"
    made_of = {"vcap-agent": [sources_digest("vcap-agent"), "12" * 32]}
    with Writer(path) as writer:
        for content in (tree, program):
            place = content.parent
            writer.add(place.parent.name, place.name, place.name, content, lambda _: None)
        writer.finish(Manifest("1", "2026-01-02", {RECIPE: "6.1.0"}, lock, made_of, items=writer.items))
    return path


def test_packages_come_from_the_bundle_whatever_was_resolved_here(
    cache: Cache, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(offline.VARIABLE, str(bundle))
    recipe = load_recipe(RECIPE)
    resolution = resolve(recipe, cache, Silent())
    assert resolution.packages == (PACKAGE,)
    assert (unpacked(recipe, resolution.packages, cache, Silent(), "it") / "tree").read_text() == "tree"


def test_a_second_run_unpacks_nothing(cache: Cache, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(offline.VARIABLE, str(bundle))
    first = offline.lock(RECIPE, cache, Silent())
    monkeypatch.setattr(offline, "_take", _no_compiler)
    assert offline.lock(RECIPE, Cache(), Silent()) == first


def test_what_was_pruned_meanwhile_is_unpacked_again(
    cache: Cache, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(offline.VARIABLE, str(bundle))
    offline.lock(RECIPE, cache, Silent())
    cache.release()
    cache.prune(everything=True)
    offline.lock(RECIPE, cache, Silent())
    assert (cache.root / "programs" / ("12" * 32) / "content/vcap-agent").is_file()


def test_programs_of_the_same_sources_need_no_compiler(
    cache: Cache, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(offline.VARIABLE, str(bundle))
    monkeypatch.setattr(programs, "_compiler_version", _no_compiler)
    assert build_programs(["vcap-agent"], Silent())["vcap-agent"].read_text() == "vcap-agent"
    with pytest.raises(AssertionError, match="compiler is looked for"):
        build_programs(["vcap-capture"], Silent())
    sources = tmp_path / "src"
    sources.mkdir()
    (sources / "vcap-agent.c").write_text("int main(void) { return 0; } /* another one */")
    with pytest.raises(AssertionError, match="compiler is looked for"):
        build_programs(["vcap-agent"], Silent(), sources=sources)


def test_a_kernel_that_the_bundle_lacks_is_one_line(
    cache: Cache, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(offline.VARIABLE, str(bundle))
    with pytest.raises(SetupError, match=r"x\.vcap has no trixie-6\.12; it has bookworm-6\.1$"):
        resolve(load_recipe("trixie-6.12"), cache, Silent())


def test_a_damaged_bundle_leaves_the_cache_as_it_was(
    cache: Cache, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(bundle.read_bytes())
    place = data.index(b"\x28\xb5\x2f\xfd") + 12  # amid the first entry
    data[place] ^= 0xFF
    bundle.write_bytes(data)
    monkeypatch.setenv(offline.VARIABLE, str(bundle))
    with pytest.raises(SetupError, match="is damaged"):
        resolve(load_recipe(RECIPE), cache, Silent())
    assert not list(cache.root.glob("packages/*")), "nothing of it stays"


def test_without_a_network_and_a_bundle_the_cache_must_do(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(offline.VARIABLE, "1")
    monkeypatch.setattr(machine, "require", _no_compiler)
    with pytest.raises(SetupError, match=r"the cache lacks packages .* --offline allows no network"):
        resolve(load_recipe(RECIPE), cache, Silent())


def test_the_variable_says_no_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, wanted in (("", False), ("0", False), ("no", False), ("1", True), ("/x.vcap", True)):
        monkeypatch.setenv(offline.VARIABLE, text)
        assert offline.asked() is wanted
    with pytest.raises(UsageError, match=r"the bundle /x\.vcap cannot be read: No such file"):
        offline.bundle()


def test_a_lock_file_for_all_processes_pins_what_it_has(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU need not be in it; a guest that is to be pinned has to."""
    recipe, path = load_recipe(RECIPE), tmp_path / "lock.json"
    path.write_text(dump_lock([Resolution(RECIPE, recipe.key, (PACKAGE,))]))
    monkeypatch.setenv(offline.LOCK_VARIABLE, str(path))
    assert resolve(recipe, cache, Silent()).packages == (PACKAGE,)
    assert offline.lock("qemu", cache, Silent(), guest=False) is None
    with pytest.raises(UsageError, match=r"does not hold recipe 'trixie-6\.12'"):
        resolve(load_recipe("trixie-6.12"), cache, Silent())


def test_a_lock_file_that_was_named_counts_more(
    cache: Cache, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(offline.VARIABLE, str(bundle))
    recipe = load_recipe(RECIPE)
    other = replace(PACKAGE, version="6.1-2")
    lock = tmp_path / "lock.json"
    lock.write_text(dump_lock([Resolution(RECIPE, recipe.key, (other,))]))
    assert resolve(recipe, cache, Silent(), lock=lock).packages == (other,)
