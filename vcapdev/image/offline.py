# SPDX-License-Identifier: GPL-2.0-or-later
"""Doing without a network: everything from the cache, or from a bundle that another machine has made.

``--offline FILE`` and the variable ``VCAPDEV_OFFLINE`` say so; the variable reaches all processes that are
started, so that a worker of a test run knows it as well. Its value is a bundle, or 1 for the cache as it is.
``VCAPDEV_LOCK`` hands a lock file to all of them in the same way.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from vcapdev.errors import SetupError
from vcapdev.image.bundlefile import BundleFile, Item, check_room
from vcapdev.image.cache import Cache, digest
from vcapdev.image.lock import locked_recipes
from vcapdev.progress import Progress

VARIABLE = "VCAPDEV_OFFLINE"
LOCK_VARIABLE = "VCAPDEV_LOCK"
_ON = ("1", "yes", "true")
_OFF = ("", "0", "no", "false")
_LOCK = "lock.json"
_known: dict[tuple[str, str], BundleFile] = {}


def asked() -> bool:
    """Whether nothing may be fetched."""
    return os.environ.get(VARIABLE, "").lower() not in _OFF


def bundle() -> BundleFile | None:
    """The bundle that everything is taken from, if one was named.

    :raise UsageError: it is none.
    """
    name = os.environ.get(VARIABLE, "")
    if name.lower() in (*_ON, *_OFF):
        return None
    path = Path(name).absolute()
    try:
        stamp = f"{path.stat().st_mtime_ns} {path.stat().st_size}"
    except OSError:
        stamp = ""
    if (str(path), stamp) not in _known:
        _known[str(path), stamp] = BundleFile(path)
    return _known[str(path), stamp]


def refuse_network(what: str) -> None:
    """To be called before anything is fetched.

    :raise SetupError: nothing may be.
    """
    if not asked():
        return
    source = bundle()
    where = "the cache" if source is None else f"the bundle {source.path}"
    raise SetupError(
        f"{what}: {where} lacks packages that it takes, and --offline allows no network; make a bundle that "
        "has them where there is one: vcapdev bundle FILE"
    )


def lock(name: str, cache: Cache, progress: Progress, *, guest: bool = True) -> Path | None:
    """The lock file that pins a recipe: the one that was named for all, or the bundle's, if there is any.

    All that a bundle's pins is in the cache afterwards.

    :param guest: it is a guest's: a lock file that was named has to have it.
    :raise UsageError: the file that was named is none.
    :raise SetupError: the bundle has none of that recipe, is damaged, or the disk is full.
    """
    named, source = os.environ.get(LOCK_VARIABLE, ""), bundle()
    if named and (name in locked_recipes(Path(named)) or (guest and source is None)):
        return Path(named)
    if source is None:
        return None
    if name not in source.manifest.lock.get("recipes", {}):
        has = ", ".join(source.manifest.kernels) or "no kernel"
        raise SetupError(f"the bundle {source.path} has no {name}; it has {has}")
    return _taken_up(source, cache, progress) / _LOCK


def programs(cache: Cache, progress: Progress) -> dict[str, tuple[str, Path]]:
    """The guest programs of the bundle: by name, a digest of the sources, and the directory of each."""
    source = bundle()
    if source is None:
        return {}
    _taken_up(source, cache, progress)
    found: dict[str, tuple[str, Path]] = {}
    for name, (sources, key) in source.manifest.programs.items():
        content = cache.lookup("programs", key)
        if content is not None:
            found[name] = sources, content
    return found


def _taken_up(source: BundleFile, cache: Cache, progress: Progress) -> Path:
    """Have all entries in the cache, unpacked now where they are missing; returns the bundle's own entry."""
    missing = [item for item in source.manifest.items if not (cache.root / item.kind / item.key).is_dir()]
    if missing:
        check_room(cache.root, missing, source.path)
        progress.start(f"Unpacking {source.path.name}", sum(item.unpacked for item in missing))
        done = 0
        for item in missing:
            _take(source, item, cache, progress, done)
            done += item.unpacked
        progress.finish(f"{len(missing)} entries, of {source.manifest.made}")
    text = json.dumps(source.manifest.lock, indent=1) + "\n"

    def write(into: Path) -> None:
        (into / _LOCK).write_text(text, encoding="utf-8")

    return cache.entry("bundles", digest(text), write, label=f"lock file of {source.path.name}")


def _take(source: BundleFile, item: Item, cache: Cache, progress: Progress, before: int) -> None:
    def build(into: Path) -> None:
        source.unpack(item, into, lambda done: progress.advance(before + done))

    cache.entry(item.kind, item.key, build, label=item.label)
