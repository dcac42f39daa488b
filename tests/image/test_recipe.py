# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects recipes: the shipped ones are valid, a wrong one is refused with file, key and suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest
from aptrepo import make_recipe

from vcapdev.errors import UsageError
from vcapdev.image.recipe import Suite, load_recipe, recipe_names


def test_the_default_image_follows_the_security_suite() -> None:
    recipe = load_recipe("bookworm-6.1")
    assert recipe.kernel == "linux-image-amd64"
    assert [(suite.name, suite.archive) for suite in recipe.suites] == [
        ("bookworm", "main"),
        ("bookworm-security", "security"),
    ]
    assert {"busybox-static", "v4l-utils", "pciutils"} <= set(recipe.packages)
    assert recipe.prefer is None


def test_qemu_comes_from_backports_and_is_no_guest() -> None:
    recipe = load_recipe("qemu")
    assert recipe.kernel is None
    assert recipe.prefer == "trixie-backports"
    assert "qemu" not in recipe_names()
    assert "qemu" in recipe_names(kernels_only=False)
    assert "bookworm-6.1" in recipe_names()


def test_no_recipe_names_a_host() -> None:
    for name in recipe_names(kernels_only=False):
        assert "://" not in load_recipe(name).path.read_text()


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(
        UsageError, match=r"no recipe 'bookwurm-6.1' in images/; did you mean 'bookworm-6.1'\?"
    ):
        load_recipe("bookwurm-6.1")


def test_a_path_is_a_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("suites: [sid]\npackages: [hello]\n")
    assert load_recipe(file).name == "mine"
    with pytest.raises(UsageError, match=r"cannot read recipe .*none.yaml: No such file"):
        load_recipe(tmp_path / "none.yaml")


def test_a_suite_has_options() -> None:
    suite = "{suite: sid, archive: security, optional: true, components: [main, contrib]}"
    assert make_recipe(f"suites: [{suite}]\npackages: [a1]\n").suites == (
        Suite("sid", "security", True, False, ("main", "contrib")),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("packages: [a1", r"test.yaml:\d+: not valid YAML"),
        ("- a\n", "recipe must be a mapping with the keys description, suites"),
        ("suits: [sid]\npackages: [a1]\n", r"unknown key 'suits' in recipe; did you mean 'suites'\?"),
        ("packages: [a1]\n", "key 'suites' must be a list of at least one suite"),
        ("suites: []\npackages: [a1]\n", "key 'suites' must be a list of at least one suite"),
        ("suites: [sid, sid]\npackages: [a1]\n", "key 'suites' names a suite twice"),
        ("suites: [{suit: sid}]\npackages: [a1]\n", r"unknown key 'suit' in suites; did you mean 'suite'\?"),
        ("suites: [{suite: 'a b'}]\npackages: [a1]\n", "key 'suite' holds 'a b'"),
        ("suites: [{suite: 7}]\npackages: [a1]\n", "key 'suite' holds 7"),
        (
            "suites: [{suite: sid, archive: secure}]\npackages: [a1]\n",
            "'archive' holds 'secure'; did you mean",
        ),
        ("suites: [{suite: sid, prefer: 1}]\npackages: [a1]\n", "key 'prefer' must be true or false, not 1"),
        (
            "suites: [{suite: a, prefer: true}, {suite: b, prefer: true}]\npackages: [a1]\n",
            "more than one suite with prefer",
        ),
        ("suites: [sid]\n", "key 'packages' names no package, and there is no kernel"),
        ("suites: [sid]\npackages: tool\n", "key 'packages' must be a list of package names, not 'tool'"),
        ("suites: [sid]\npackages: ['-o']\n", "key 'packages' holds '-o', which is not the name"),
        ("suites: [sid]\npackages: ['a1=2 ; b']\n", "which is not the name of a Debian package"),
        ("suites: [sid]\nkernel: [a1]\n", r"key 'kernel' holds \['a1'\]"),
        ("suites: [sid]\npackages: [a1]\nallow-expired: 'no'\n", "key 'allow-expired' must be true or false"),
        ("suites: [sid]\npackages: [a1]\ndescription: 5\n", "key 'description' must be text"),
    ],
)
def test_a_wrong_recipe_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_recipe(text)
    assert str(caught.value).startswith("test.yaml")
    assert "\n" not in str(caught.value)


def test_the_key_follows_the_content_only() -> None:
    base = "suites: [sid]\npackages: [a1]\n"
    assert make_recipe(base).key == make_recipe(base + "description: other words\n").key
    others = ["assume: [b1]\n", "kernel: linux-image-amd64\n", "allow-expired: true\n"]
    keys = {make_recipe(base + line).key for line in others}
    assert len(keys | {make_recipe(base).key}) == 4


def test_a_kernel_may_be_any_of_a_release() -> None:
    recipe = make_recipe("suites: [sid]\nkernel: linux-image-7.3.*-amd64\nkernel-else: linux-image-amd64\n")
    assert (recipe.kernel, recipe.kernel_else) == ("linux-image-7.3.*-amd64", "linux-image-amd64")
    plain = make_recipe("suites: [sid]\nkernel: linux-image-7.3.*-amd64\n")
    assert plain.key != recipe.key
    for wrong in ("linux-*-*-amd64", "*", "linux image"):
        with pytest.raises(UsageError, match="which is not the name of a Debian package"):
            make_recipe(f"suites: [sid]\nkernel: '{wrong}'\n")
    with pytest.raises(UsageError, match="'kernel-else' stands in for a kernel, and there is none"):
        make_recipe("suites: [sid]\npackages: [tool]\nkernel-else: linux-image-amd64\n")
