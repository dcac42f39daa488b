# SPDX-License-Identifier: GPL-2.0-or-later
"""Image recipes (images/*.yaml): which suites, kernel and packages an image is made of.

A recipe names no host: the archives come from the machine's apt configuration. Schema::

    description: text
    suites:                      # in the order of preference for naming; at least one
      - bookworm                 # short for {suite: bookworm}
      - suite: bookworm-security
        archive: security        # main (default) or security
        optional: true           # go on without it, with a warning, when the mirror has no such suite
        prefer: true             # take packages and their dependencies from here first (apt's target release)
        components: [main]
    allow-expired: true          # accept a Release file past its Valid-Until; its signature still counts
    kernel: linux-image-amd64    # metapackage or package; absent in recipes that are no guest image. One "*"
                                 # stands for digits and dots: of linux-image-7.3.*-amd64 the newest there is
    kernel-else: linux-image-amd64  # when there is no such package (any longer); a warning says so
    packages: [busybox-static]   # userland, with everything they depend on
    assume: [initramfs-tools]    # dependencies of packages that are not needed in an unpacked tree
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vcapdev.errors import UsageError
from vcapdev.image.cache import digest
from vcapdev.resources import resource_dir

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+\Z")
_KERNEL = re.compile(r"[a-z0-9][a-z0-9+.-]+(\*[a-z0-9+.-]+)?\Z")
_SUITE = re.compile(r"[a-z][a-z0-9./-]*\Z")
_TOP = ("description", "suites", "allow-expired", "kernel", "kernel-else", "packages", "assume")
_SUITE_KEYS = ("suite", "archive", "optional", "prefer", "components")
_ARCHIVES = ("main", "security")


@dataclass(frozen=True)
class Suite:
    """One suite of a Debian archive."""

    name: str
    archive: str = "main"
    optional: bool = False
    prefer: bool = False
    components: tuple[str, ...] = ("main",)


@dataclass(frozen=True)
class Recipe:
    """A validated recipe; ``key`` changes with everything that can change its packages."""

    name: str
    path: Path
    description: str
    suites: tuple[Suite, ...]
    packages: tuple[str, ...]
    kernel: str | None = None
    kernel_else: str | None = None
    assume: tuple[str, ...] = ()
    allow_expired: bool = False

    @property
    def key(self) -> str:
        """Cache key over the content, not over file name, place or description."""
        kernel = (self.kernel, self.kernel_else) if self.kernel_else else self.kernel
        return digest(repr((self.suites, self.packages, kernel, self.assume, self.allow_expired)))

    @property
    def prefer(self) -> str | None:
        """The suite that apt takes packages from first, if one is marked so."""
        return next((suite.name for suite in self.suites if suite.prefer), None)


def recipe_names(kernels_only: bool = True) -> list[str]:
    """Names of the shipped recipes, sorted; by default only those that hold a kernel."""
    names = sorted(path.stem for path in resource_dir("images").glob("*.yaml"))
    return [name for name in names if not kernels_only or load_recipe(name).kernel]


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The recipe of that name in images/, or of that file when it has a slash or ends in .yaml.

    :raise UsageError: when there is none, or with file, key and suggestion when it is wrong.
    """
    text = str(name_or_path)
    is_path = "/" in text or text.endswith((".yaml", ".yml"))
    path = Path(text) if is_path else resource_dir("images") / f"{text}.yaml"
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(_no_recipe(text, path, is_path, error)) from error
    return parse_recipe(content, path)


def _no_recipe(text: str, path: Path, is_path: bool, error: OSError | UnicodeDecodeError) -> str:
    if is_path or not isinstance(error, FileNotFoundError):
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        return f"cannot read recipe {path}: {reason}"
    names = recipe_names()
    return f"no recipe {text!r} in images/{_suggest(text, names)}"


def _suggest(word: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def parse_recipe(content: str, path: Path) -> Recipe:
    """Check the text of a recipe and turn it into a :class:`Recipe`.

    :raise UsageError: names the file, the key and what would be right.
    """
    try:
        data = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UsageError(
            f"{where}: not valid YAML: {getattr(error, 'problem', None) or 'bad text'}"
        ) from error
    check = _Checker(path)
    top = check.mapping(data, "recipe", _TOP)
    kernel, other = top.get("kernel"), top.get("kernel-else")
    recipe = Recipe(
        name=path.stem,
        path=path,
        description=check.string(top.get("description", ""), "description"),
        suites=check.suites(top.get("suites")),
        packages=check.names(top.get("packages", []), "packages"),
        kernel=None if kernel is None else check.name(kernel, "kernel", _KERNEL),
        kernel_else=None if other is None else check.name(other, "kernel-else"),
        assume=check.names(top.get("assume", []), "assume"),
        allow_expired=check.flag(top.get("allow-expired", False), "allow-expired"),
    )
    if not recipe.packages and not recipe.kernel:
        raise check.error("packages", "names no package, and there is no kernel either")
    if recipe.kernel_else and not recipe.kernel:
        raise check.error("kernel-else", "stands in for a kernel, and there is none")
    if sum(suite.prefer for suite in recipe.suites) > 1:
        raise check.error("suites", "marks more than one suite with prefer")
    return recipe


class _Checker:
    """Checks one value each, with the file and the key in its complaints."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def error(self, key: str, what: str) -> UsageError:
        return UsageError(f"{self._path}: key {key!r} {what}")

    def mapping(self, value: object, key: str, known: Sequence[str]) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise UsageError(f"{self._path}: {key} must be a mapping with the keys {', '.join(known)}")
        for name in value:
            if name not in known:
                raise UsageError(f"{self._path}: unknown key {name!r} in {key}{_suggest(name, known)}")
        return value

    def string(self, value: object, key: str) -> str:
        if not isinstance(value, str):
            raise self.error(key, f"must be text, not {value!r}")
        return value

    def flag(self, value: object, key: str) -> bool:
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def name(self, value: object, key: str, pattern: re.Pattern[str] = _NAME) -> str:
        if not isinstance(value, str) or not pattern.match(value):
            raise self.error(key, f"holds {value!r}, which is not the name of a Debian package")
        return value

    def names(self, value: object, key: str) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise self.error(key, f"must be a list of package names, not {value!r}")
        return tuple(self.name(item, key) for item in value)

    def suites(self, value: object) -> tuple[Suite, ...]:
        if not isinstance(value, list) or not value:
            raise self.error("suites", "must be a list of at least one suite, such as [bookworm]")
        suites = tuple(self.suite(item) for item in value)
        if len({suite.name for suite in suites}) != len(suites):
            raise self.error("suites", "names a suite twice")
        return suites

    def suite(self, value: object) -> Suite:
        entry = self.mapping({"suite": value} if isinstance(value, str) else value, "suites", _SUITE_KEYS)
        name = entry.get("suite")
        if not isinstance(name, str) or not _SUITE.match(name):
            raise self.error("suite", f"holds {name!r}, which is not a suite such as bookworm-security")
        archive = entry.get("archive", "main")
        if archive not in _ARCHIVES:
            raise self.error("archive", f"holds {archive!r}{_suggest(archive, _ARCHIVES)}")
        return Suite(
            name,
            archive,
            self.flag(entry.get("optional", False), "optional"),
            self.flag(entry.get("prefer", False), "prefer"),
            self.components(entry.get("components", ["main"])),
        )

    def components(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise self.error("components", "must be a list such as [main]")
        return self.names(value, "components")
