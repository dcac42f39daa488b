# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the cache: entries are complete or absent, built once, never taken from under a user."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vcapdev.errors import SetupError
from vcapdev.image.cache import Cache, digest, remove_tree, write_atomic


def put(text: str, path: str = "file"):  # type: ignore[no-untyped-def]
    def build(into: Path) -> None:
        (into / path).write_text(text)

    return build


def never(_: Path) -> None:
    raise AssertionError("built again")


def age(cache: Cache, kind: str, key: str, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(cache.root / kind / key / "entry.json", (when, when))


def test_an_entry_is_built_once(cache: Cache) -> None:
    place = cache.entry("thing", "k1", put("content"), label="a thing")
    assert (place / "file").read_text() == "content"
    assert cache.entry("thing", "k1", never) == place
    assert Cache().entry("thing", "k1", never) == place
    assert cache.lookup("thing", "k1") == place
    assert cache.lookup("thing", "k2") is None
    assert not (cache.root / "thing/k2").exists()


def test_two_that_look_at_the_same_time_need_not_wait_for_each_others_end(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find nothing, one builds; the other gets that although the first one keeps its lock."""
    both, really, seen, built = threading.Barrier(2), fcntl.flock, threading.local(), []

    def meeting(descriptor: int, how: int) -> None:
        really(descriptor, how)
        if how == fcntl.LOCK_SH and not hasattr(seen, "met"):
            seen.met = True
            both.wait(20)

    def build(into: Path) -> None:
        built.append(into)
        (into / "file").write_text("content")

    monkeypatch.setattr(fcntl, "flock", meeting)
    threads = [
        threading.Thread(target=one.entry, args=("thing", "k1", build), daemon=True)
        for one in (cache, Cache())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(built) == 1


def test_an_entry_that_is_gone_is_built_again_though_others_still_hold_it(cache: Cache) -> None:
    place = cache.entry("thing", "k1", put("old"))
    held = Cache().open_lock("thing-k1")
    fcntl.flock(held, fcntl.LOCK_SH)
    remove_tree(place.parent)
    assert (cache.entry("thing", "k1", put("new")) / "file").read_text() == "new"
    os.close(held)


def test_a_failed_build_leaves_nothing_and_the_next_one_works(cache: Cache) -> None:
    def fail(into: Path) -> None:
        (into / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry("thing", "k1", fail)
    assert list((cache.root / "thing").iterdir()) == []
    assert sorted(path.name for path in cache.entry("thing", "k1", put("x")).iterdir()) == ["file"]


def test_what_a_killed_build_left_is_removed(cache: Cache) -> None:
    left = cache.root / "thing/k1.tmp-dead/content"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    left.chmod(0o500)
    cache.entry("thing", "k1", put("x"))
    assert [path.name for path in (cache.root / "thing").iterdir()] == ["k1"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_setup_error_and_leaves_no_entry(cache: Cache, code: int) -> None:
    def fill_up(into: Path) -> None:
        (into / "half").write_text("half")
        raise OSError(code, os.strerror(code))

    with pytest.raises(SetupError, match="no space left for the cache at") as caught:
        cache.entry("thing", "k1", fill_up)
    assert "\n" not in str(caught.value)
    assert list((cache.root / "thing").iterdir()) == []


def test_an_unwritable_place_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="Not a directory"):
        Cache(tmp_path / "file" / "cache").entry("thing", "k1", put("x"))

    def refuse(into: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(SetupError, match=r"cannot write to the cache .*VCAPDEV_CACHE"):
        Cache(tmp_path / "cache").entry("thing", "k1", refuse)


_BUILD = """
import sys, time
from pathlib import Path
from vcapdev.image.cache import Cache
def build(into):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    (into / "file").write_text("x")
print("ready", flush=True)
sys.stdin.readline()
print(Cache().entry("thing", "k1", build))
"""


def test_processes_at_once_build_once(cache: Cache, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    log = tmp_path / "log"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _BUILD, str(log)],
            env=os.environ | {"PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    outputs = {child.communicate("go\n", timeout=60)[0] for child in children}
    assert len(outputs) == 1
    assert log.read_text() == "built\n"


def test_a_second_builder_waits_for_the_first(cache: Cache) -> None:
    building, go_on = threading.Event(), threading.Event()

    def slow(into: Path) -> None:
        building.set()
        assert go_on.wait(60)
        (into / "file").write_text("first")

    first = threading.Thread(target=lambda: cache.entry("thing", "k1", slow))
    first.start()
    assert building.wait(60)
    second: list[Path] = []
    other = threading.Thread(target=lambda: second.append(Cache().entry("thing", "k1", never)))
    other.start()
    assert not (cache.root / "thing/k1").exists()
    go_on.set()
    first.join(60)
    other.join(60)
    assert (second[0] / "file").read_text() == "first"


def test_waiting_for_a_lock_is_told(cache: Cache) -> None:
    told = threading.Event()
    with cache.locked("name"):
        other = threading.Thread(target=lambda: _take(Cache(), told))
        other.start()
        assert told.wait(60), "nobody said that it waits"
    other.join(60)
    assert not other.is_alive()


def _take(cache: Cache, told: threading.Event) -> None:
    with cache.locked("name", told.set):
        pass


def test_list_says_what_is_there(cache: Cache) -> None:
    cache.entry("thing", "k1", put("x" * 10_000), label="the big one")
    cache.entry("other", "k2", put("x"), label="the small one")
    write_atomic(cache.path("debs", "tool.deb"), "package")
    items = {item.kind: item for item in cache.list()}
    assert items["thing"].label == "the big one"
    assert items["thing"].size >= 10_000
    assert abs(items["thing"].last_used - time.time()) < 600
    assert items["debs"].label == "1 package files"
    assert cache.list()[0].kind == "thing"
    assert cache.size() >= sum(item.size for item in cache.list()) - items["debs"].size


def test_list_of_no_cache_is_empty_and_makes_none(cache: Cache) -> None:
    assert cache.list() == []
    assert cache.size() == 0
    assert not cache.root.exists()


def test_prune_spares_what_is_in_use(cache: Cache) -> None:
    place = cache.entry("thing", "k1", put("x"))
    pruned = Cache().prune(everything=True)
    assert [item.kind for item in pruned.in_use] == ["thing"]
    assert place.is_dir()
    cache.release()
    pruned = Cache().prune(everything=True)
    assert [item.kind for item in pruned.removed] == ["thing"]
    assert pruned.freed > 0
    assert Cache().list() == []
    assert (cache.entry("thing", "k1", put("again")) / "file").read_text() == "again"


def test_prune_by_age(cache: Cache) -> None:
    cache.entry("thing", "old", put("x"))
    cache.entry("thing", "new", put("x"))
    cache.release()
    age(cache, "thing", "old", 8 * 86400)
    Cache().prune(older_than=7 * 86400)
    assert [path.name for path in (cache.root / "thing").iterdir()] == ["new"]


def test_a_use_makes_an_entry_young(cache: Cache) -> None:
    cache.entry("thing", "k1", put("x"))
    cache.release()
    age(cache, "thing", "k1", 8 * 86400)
    cache.lookup("thing", "k1")
    cache.release()
    assert Cache().prune(older_than=7 * 86400).removed == []


def test_prune_of_the_unused_takes_packages_leftovers_and_the_old(cache: Cache) -> None:
    cache.entry("thing", "old", put("x"))
    cache.entry("thing", "new", put("x"))
    cache.release()
    age(cache, "thing", "old", 31 * 86400)
    write_atomic(cache.path("debs", "tool.deb"), "package")
    write_atomic(cache.path("partial", "other.deb"), "half")
    (cache.root / "thing/k3.tmp-dead").mkdir()
    write_atomic(cache.path("resolutions", "test.json"), "{}")
    removed = {item.kind for item in Cache().prune(unused=True).removed}
    assert removed == {"thing", "debs", "partial"}
    assert [path.name for path in (cache.root / "thing").iterdir()] == ["new"]
    assert (cache.root / "resolutions/test.json").is_file()


def test_prune_does_not_disturb_an_unpacking(cache: Cache) -> None:
    write_atomic(cache.path("debs", "tool.deb"), "package")
    with cache.shared("debs"):
        assert [item.kind for item in Cache().prune(unused=True).in_use] == ["debs"]
    assert (cache.root / "debs/tool.deb").is_file()


def test_locks_are_not_inherited_by_programs(cache: Cache) -> None:
    """A program that outlives us must not keep an entry locked."""
    descriptor = cache.open_lock("name")
    assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(descriptor)


def test_many_caches_of_one_process_hold_one_lock_of_each_entry(cache: Cache) -> None:
    """Each guest of a session asks anew; a process may have 1024 open files."""
    cache.entry("packages", "k1", lambda into: None)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        Cache(cache.root).entry("packages", "k1", lambda into: None)
    assert len(os.listdir("/proc/self/fd")) == before


def test_keys_tell_parts_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a", b"b") == digest(b"a", "b")


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "file", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_remove_tree_removes_links_not_their_targets(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner/link").symlink_to(target)
    (tree / "inner").chmod(0o500)
    remove_tree(tree)
    assert not tree.exists()
    assert (target / "file").read_text() == "kept"
