# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the way from a signed repository to unpacked trees: refused, fallen back, kept."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from aptrepo import KERNEL, RECIPE, SMALL, Repository, Server, add_kernel, fill, make_recipe
from openpgp import STRANGER

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import Cache
from vcapdev.image.provision import Provisioned, fetch, provision, resolve
from vcapdev.image.recipe import Recipe
from vcapdev.progress import Silent


class Log(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int | None]] = []
        self.amounts: list[int] = []

    def start(self, label: str, total: int | None = None, unit: str = "B") -> None:
        self.started.append((label, total))

    def advance(self, done: int) -> None:
        self.amounts.append(done)


def run(recipe: Recipe = RECIPE, **options: bool | Path) -> Provisioned:
    return provision(recipe, progress=Silent(), **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("machine", "cache")
def test_kernel_and_userland_come_with_their_dependencies(repository: Repository) -> None:
    fill(repository)
    got = run()
    assert got.release == "6.1.0-5-amd64"
    assert got.kernel.read_bytes() == b"kernel"
    assert got.modules.name == got.release
    assert (got.modules / "modules.order").is_file()
    assert (got.root / "usr/bin/tool").is_file()
    assert (got.root / "usr/lib/libtool.so.1").is_file()
    assert not (got.root / "boot").exists()
    names = {package.name: package for package in got.packages}
    assert set(names) == {KERNEL, "linux-image-6.1.0-5-amd64", "tool", "libtool1"}  # no initramfs-tools
    assert names["tool"].version == "1:2.0-1"
    assert names["tool"].suite == "bookworm"
    assert got.warnings == []


@pytest.mark.usefixtures("machine", "cache")
def test_second_run_uses_neither_apt_nor_the_mirror(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repository)
    first = run()
    shutil.rmtree(repository.root)
    monkeypatch.setattr(subprocess, "Popen", _no_process)
    assert run() == first


def _no_process(*args: object, **options: object) -> None:
    raise AssertionError(f"a process was started: {args}")


@pytest.mark.usefixtures("machine", "cache")
def test_refresh_moves_to_newer_versions_and_a_plain_run_does_not(repository: Repository) -> None:
    fill(repository)
    run()
    repository.add("libtool1", "1.3-1", {"usr/lib/libtool.so.1": b"newer"})
    repository.publish()
    assert (run().root / "usr/lib/libtool.so.1").read_bytes() == b"library"
    assert (run(refresh=True).root / "usr/lib/libtool.so.1").read_bytes() == b"newer"


@pytest.mark.usefixtures("machine", "cache")
def test_a_signature_by_a_stranger_is_refused(repository: Repository) -> None:
    fill(repository)
    repository.publish(key=STRANGER)
    with pytest.raises(SetupError, match="signature of the package indexes is not good, refused"):
        resolve(SMALL, Cache(), Silent())


@pytest.mark.usefixtures("machine", "cache")
def test_an_unsigned_repository_is_refused(repository: Repository) -> None:
    fill(repository)
    (repository.root / "dists/bookworm/InRelease").unlink()
    repository.publish(key=None)
    with pytest.raises(SetupError, match=r"not good, refused.*is not signed"):
        resolve(SMALL, Cache(), Silent())


@pytest.mark.usefixtures("machine")
def test_a_changed_release_file_is_refused_and_good_indexes_survive(
    repository: Repository, cache: Cache
) -> None:
    fill(repository)
    good = run()
    release = repository.publish()
    release.write_text(release.read_text().replace("Origin: Test", "Origin: Evil"))
    with pytest.raises(SetupError, match="refused") as caught:
        run(refresh=True)
    assert "\n" not in str(caught.value)
    assert run() == good
    repository.publish()
    assert run(refresh=True).packages == good.packages


@pytest.mark.usefixtures("machine", "cache")
def test_a_package_that_differs_from_its_checksum_is_refused(repository: Repository) -> None:
    fill(repository)
    deb = next(repository.root.glob("pool/main/t/tool/*.deb"))
    deb.write_bytes(deb.read_bytes()[:-1] + b"\xff")
    with pytest.raises(SetupError, match="does not match its checksum"):
        resolve(SMALL, Cache(), Silent())


@pytest.mark.usefixtures("set_sources")
def test_trusted_in_apts_configuration_counts(
    repository: Repository, cache: Cache, set_sources: Callable[[str], Path]
) -> None:
    set_sources(f"deb [trusted=yes] {repository.uri} bookworm main\n")
    fill(repository)
    repository.publish(key=STRANGER)
    assert [item.name for item in resolve(SMALL, cache, Silent()).packages] == ["libtool1", "tool"]


@pytest.mark.usefixtures("machine")
def test_an_expired_release_is_refused_unless_the_recipe_allows_it(
    repository: Repository, cache: Cache
) -> None:
    fill(repository)
    repository.publish(age=9 * 86400, valid=7 * 86400)
    with pytest.raises(SetupError, match=r"past its date .*allow-expired"):
        resolve(SMALL, cache, Silent())
    lenient = make_recipe("suites: [bookworm]\npackages: [tool]\nallow-expired: true\n")
    warnings = resolve(lenient, cache, Silent()).warnings
    assert len(warnings) == 1
    assert "bookworm is 9 days old and past its date (signature verified)" in warnings[0]


@pytest.mark.usefixtures("machine")
def test_expiry_does_not_soften_the_signature(repository: Repository, cache: Cache) -> None:
    fill(repository)
    repository.publish(age=9 * 86400, valid=7 * 86400, key=STRANGER)
    lenient = make_recipe("suites: [bookworm]\npackages: [tool]\nallow-expired: true\n")
    with pytest.raises(SetupError, match="refused"):
        resolve(lenient, cache, Silent())


@pytest.mark.usefixtures("machine", "cache")
def test_an_unknown_package_is_named(repository: Repository) -> None:
    fill(repository)
    recipe = make_recipe("suites: [bookworm]\npackages: [tool, no-such-tool]\n")
    with pytest.raises(SetupError, match="Unable to locate package no-such-tool"):
        resolve(recipe, Cache(), Silent())


@pytest.mark.usefixtures("machine", "cache")
def test_an_unmet_dependency_is_named(repository: Repository) -> None:
    repository.add("tool", "1.0", depends="libnone (>= 3)")
    repository.publish()
    with pytest.raises(SetupError, match="tool : Depends: libnone"):
        resolve(SMALL, Cache(), Silent())


@pytest.mark.usefixtures("http_machine", "cache")
@pytest.mark.parametrize("lost", ["image", "meta"])
def test_a_listed_file_that_is_not_there_falls_back_to_the_next_version(
    repository: Repository, server: Server, lost: str
) -> None:
    """The newest image gone takes the metapackage that needs exactly it along: the older pair is used."""
    fill(repository)
    image = add_kernel(repository, "6.1.9-1", "6.1.0-9")
    repository.publish()
    server.gone.add(image.name if lost == "image" else f"{KERNEL}_6.1.9-1_amd64.deb")
    got = run()
    assert got.release == "6.1.0-5-amd64"
    assert {item.version for item in got.packages if item.name.startswith("linux-")} == {"6.1.5-1"}
    assert len(got.warnings) == 1
    assert "6.1.9-1 but does not have it: the next version that it has is used" in got.warnings[0]


@pytest.mark.usefixtures("machine", "cache")
def test_the_fallback_works_for_files_on_disk(repository: Repository) -> None:
    fill(repository)
    repository.add("libtool1", "1.9-1").unlink()
    repository.publish()
    versions = {item.name: item.version for item in resolve(SMALL, Cache(), Silent()).packages}
    assert versions["libtool1"] == "1.2-3"


@pytest.mark.usefixtures("http_machine", "cache")
def test_a_vanished_package_without_another_version_is_one_clear_line(
    repository: Repository, server: Server
) -> None:
    fill(repository)
    server.gone.add("libtool1_1.2-3_amd64.deb")
    with pytest.raises(SetupError) as caught:
        run()
    assert "lists but does not have libtool1 1.2-3 (404" in str(caught.value)
    assert "\n" not in str(caught.value)
    server.gone.clear()
    assert run().release == "6.1.0-5-amd64"  # the cache is usable


@pytest.mark.usefixtures("machine", "cache")
def test_a_run_can_be_pinned_to_a_lock_file(repository: Repository, tmp_path: Path) -> None:
    """The lock's versions are used although newer ones are listed, and without its indexes."""
    fill(repository)
    first = run()
    first.write_lock(tmp_path / "lock.json")
    repository.add("libtool1", "1.3-1", {"usr/lib/libtool.so.1": b"newer"})
    repository.publish()
    assert run(refresh=True).packages != first.packages
    pinned = run(lock=tmp_path / "lock.json")
    assert sorted(pinned.packages, key=repr) == sorted(first.packages, key=repr)
    assert (pinned.root / "usr/lib/libtool.so.1").read_bytes() == b"library"


@pytest.mark.usefixtures("machine")
def test_a_pinned_run_fetches_into_an_empty_cache_by_checksum(
    repository: Repository, cache: Cache, tmp_path: Path
) -> None:
    fill(repository)
    run().write_lock(tmp_path / "lock.json")
    cache.release()
    shutil.rmtree(cache.root)
    shutil.rmtree(repository.root / "dists")  # the indexes have moved on
    assert run(lock=tmp_path / "lock.json").release == "6.1.0-5-amd64"
    cache.release()
    shutil.rmtree(cache.root)
    deb = next(repository.root.glob("pool/main/l/libtool1/*.deb"))
    deb.write_bytes(deb.read_bytes()[::-1])
    with pytest.raises(SetupError, match="does not match its checksum"):
        run(lock=tmp_path / "lock.json")


@pytest.mark.usefixtures("http_machine")
def test_a_pinned_version_that_is_gone_is_one_clear_line(
    repository: Repository, cache: Cache, server: Server, tmp_path: Path
) -> None:
    fill(repository)
    run().write_lock(tmp_path / "lock.json")
    cache.release()
    shutil.rmtree(cache.root)
    server.gone.add("libtool1_1.2-3_amd64.deb")
    with pytest.raises(SetupError, match=r"does not have libtool1 1\.2-3"):
        run(lock=tmp_path / "lock.json")


@pytest.mark.usefixtures("machine", "cache")
def test_a_lock_of_another_recipe_version_is_said(repository: Repository, tmp_path: Path) -> None:
    fill(repository)
    run().write_lock(tmp_path / "lock.json")
    data = json.loads((tmp_path / "lock.json").read_text())
    data["recipes"]["test"]["key"] = "0" * 64
    (tmp_path / "lock.json").write_text(json.dumps(data))
    assert "the lock file counts" in run(lock=tmp_path / "lock.json").warnings[0]


@pytest.mark.usefixtures("machine", "cache")
def test_a_missing_optional_suite_is_a_warning(repository: Repository) -> None:
    fill(repository)
    optional = "{suite: bookworm-updates, optional: true}"
    recipe = make_recipe(f"suites: [bookworm, {optional}]\npackages: [tool]\n")
    assert "no suite bookworm-updates" in resolve(recipe, Cache(), Silent()).warnings[0]
    needed = make_recipe("suites: [bookworm, bookworm-updates]\npackages: [tool]\n")
    with pytest.raises(SetupError, match="mirror lacks a suite"):
        resolve(needed, Cache(), Silent())


@pytest.mark.usefixtures("machine", "cache")
def test_packages_name_the_suite_that_they_come_from(repository: Repository) -> None:
    fill(repository)
    repository.add("libtool1", "1.4-1", suite="bookworm-backports")
    repository.publish("bookworm-backports")
    recipe = make_recipe("suites: [bookworm, {suite: bookworm-backports, prefer: true}]\npackages: [tool]\n")
    suites = {item.name: item.suite for item in resolve(recipe, Cache(), Silent()).packages}
    assert suites == {"tool": "bookworm", "libtool1": "bookworm-backports"}


@pytest.mark.usefixtures("http_machine", "cache")
def test_a_download_shows_how_far_it_is(repository: Repository) -> None:
    fill(repository)
    log = Log()
    provision(RECIPE, progress=log)
    labels = dict(log.started)
    total = sum(file.stat().st_size for file in repository.root.glob("pool/**/*.deb"))
    assert labels["Downloading 4 packages"] == total
    assert "Unpacking kernel of test" in labels
    assert "Unpacking userland of test" in labels


@pytest.mark.usefixtures("machine", "cache")
def test_single_packages_are_fetched_in_the_asked_version(repository: Repository) -> None:
    fill(repository)
    repository.add("libtool1", "1.3-1")
    repository.publish()
    old, new = fetch(SMALL, ["libtool1", "tool"], ["1.2-3", None], progress=Silent())
    assert old.name.startswith("libtool1_1.2-3_amd64.")
    assert new.name.startswith("tool_1%3a2.0-1_amd64.")
    with pytest.raises(SetupError, match=r"does not list libtool1 7 \(it has 1\.3-1, 1\.2-3\)"):
        fetch(SMALL, ["libtool1"], ["7"], progress=Silent())


@pytest.mark.usefixtures("machine", "cache")
def test_missing_tools_are_named_before_anything_is_fetched(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(repository)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SetupError, match=r"lacks apt-get, dpkg-deb, .* run '.*apt-get install apt dpkg gpgv['\"]"
    ):
        resolve(SMALL, Cache(), Silent())


@pytest.mark.usefixtures("machine", "cache")
def test_a_recipe_without_kernel_is_no_guest(repository: Repository) -> None:
    with pytest.raises(UsageError, match="has no kernel"):
        run(SMALL)


@pytest.mark.usefixtures("machine", "cache")
def test_mirror_variables_replace_the_machines_mirror(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another place, the same keys."""
    fill(repository)
    moved = tmp_path / "elsewhere"
    repository.root.rename(moved)
    monkeypatch.setenv("VCAPDEV_MIRROR", str(moved))
    first = run()
    assert first.release == "6.1.0-5-amd64"
    assert all(package.path.startswith("pool/main/") for package in first.packages)
    first.write_lock(tmp_path / "lock.json")
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "cache2"))
    assert run(lock=tmp_path / "lock.json").packages == first.packages
