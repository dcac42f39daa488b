# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine-made mutants: each is one small change, of a kind that is asked for, and always the same ones."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from vcapdev.gallery.mutate import KINDS, Mutation, choose, mutations

FILE = "drivers/media/thing.c"
SOURCE = """\
int map(struct buffer *buf, int n)
{
\tint err;

\tdprintk(1, "mapping\\n");
\tbuf->pages = get(buf->size, n);
\tbuf->nr = n;
\tpin(buf->pages, n + 1);
\tif (buf->nr < n) {
\t\tunpin(buf->pages);
\t\treturn -EINVAL;
\t}
\tif (buf->dirty)
\t\tmark(buf);
\treturn err >= 0;
}
"""


def found(kind: str) -> list[Mutation]:
    return [mutation for mutation in mutations(FILE, SOURCE) if mutation.kind == kind]


def test_calls_are_dropped_but_not_what_only_talks() -> None:
    assert [mutation.old for mutation in found("drop-call")] == [
        "pin(buf->pages, n + 1)",
        "unpin(buf->pages)",
        "mark(buf)",
    ]
    assert "\t;\n" in found("drop-call")[0].apply(SOURCE)


def test_neighbours_are_swapped() -> None:
    swapped = found("swap")[1].apply(SOURCE)
    assert swapped.index("pin(buf->pages, n + 1);") < swapped.index("buf->nr = n;")


def test_conditions_are_inverted() -> None:
    assert [mutation.new for mutation in found("invert")] == ["!(buf->nr < n)", "!(buf->dirty)"]


def test_only_branches_that_leave_are_error_paths() -> None:
    assert [mutation.new for mutation in found("skip-error-path")] == ["0 && (buf->nr < n)"]


def test_off_by_one_knows_an_arrow_from_a_comparison() -> None:
    assert [(mutation.old, mutation.new) for mutation in found("off-by-one")] == [
        ("+ 1", "+ 0"),
        ("<", "<="),
        (">=", ">"),
    ]


def test_a_field_is_mistaken_for_one_that_the_function_knows() -> None:
    assert {mutation.old for mutation in found("wrong-field")} == {"pages", "size", "nr", "dirty"}
    assert all(mutation.new in ("pages", "size", "nr", "dirty") for mutation in found("wrong-field"))


def test_every_mutation_changes_one_place_and_says_where() -> None:
    for mutation in mutations(FILE, SOURCE):
        changed = mutation.apply(SOURCE)
        assert changed != SOURCE
        assert changed.startswith(SOURCE[: mutation.start])
        assert (
            SOURCE.splitlines()[mutation.line - 1]
            in SOURCE[: mutation.start].rpartition("\n")[2] + SOURCE[mutation.start :].partition("\n")[0]
        )
        assert mutation.function == "map"
        assert mutation.kind in KINDS


def test_names_are_distinct() -> None:
    counts = Counter(f"{mutation.name} {mutation.new}" for mutation in mutations(FILE, SOURCE))
    assert max(counts.values()) == 1


def test_a_diff_applies(tmp_path: Path) -> None:
    target = tmp_path / FILE
    target.parent.mkdir(parents=True)
    mutation = found("invert")[0]
    target.write_text(SOURCE)
    subprocess.run(
        ["patch", "-p1", "--fuzz=0"], cwd=tmp_path, input=mutation.diff(SOURCE), text=True, check=True
    )
    assert target.read_text() == mutation.apply(SOURCE)


def test_another_file_is_refused() -> None:
    with pytest.raises(ValueError, match="does not hold"):
        found("invert")[0].apply(SOURCE.replace("nr < n", "nr > n"))


def test_the_choice_is_spread_and_repeatable() -> None:
    many = mutations(FILE, SOURCE) + mutations("other.c", SOURCE)
    chosen = choose(many, 12)
    assert chosen == choose(list(many), 12)
    assert len(set(chosen)) == 12
    assert {mutation.kind for mutation in chosen} == set(KINDS)
    assert {mutation.file for mutation in chosen} == {FILE, "other.c"}
    assert len(choose(many, 10_000)) == len(many)
