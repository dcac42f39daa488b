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

static int draw_overlay(struct buffer *buf)
{
\tpin(buf->pages, 1);
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


def test_neighbours_are_swapped_if_they_depend_on_each_other() -> None:
    source = "void f(struct b *b)\n{\n\tb->nr = 1;\n\tb->size = 2;\n\tpin(b->size);\n\tfree(b);\n}\n"
    swapped = [one.old.split() for one in mutations(FILE, source) if one.kind == "swap"]
    assert swapped == [["b->size", "=", "2;", "pin(b->size);"], ["pin(b->size);", "free(b);"]]


def test_sums_and_bits_may_change_places() -> None:
    for operator, value, count in (
        ("+=", "8", 0),
        ("|=", "(y & 8) << 4", 0),
        ("=", "8", 1),
        ("|=", "g(8)", 1),
    ):
        source = f"void f(int x)\n{{\n\tx {operator} 4;\n\tx {operator} {value};\n}}\n"
        assert len([one for one in mutations(FILE, source) if one.kind == "swap"]) == count


def test_assignments_are_dropped_but_not_declarations() -> None:
    source = "void f(struct b *b)\n{\n\tint n = 1;\n\n\tb->nr = n;\n\tn += 2;\n\t*(rp++) = n;\n}\n"
    dropped = [one.old for one in mutations(FILE, source) if one.kind == "drop-assignment"]
    assert dropped == ["b->nr = n", "n += 2", "*(rp++) = n"]


def test_arguments_are_mistaken_for_others_of_their_type() -> None:
    source = "void f(unsigned int offset, unsigned int padding, struct p *p)\n{\n\tg(p, offset, 0);\n}\n"
    made = {(one.kind, one.old, one.new) for one in mutations(FILE, source)}
    assert ("wrong-argument", "offset", "padding") in made
    assert ("wrong-argument", "offset, 0", "0, offset") in made
    assert ("off-by-one", "offset", "offset - 1") in made
    assert not any(old == "p" for _, old, _ in made)


def test_flags_are_taken_wrong() -> None:
    source = (
        "void f(unsigned long a)\n{\n\tflags = FOLL_FORCE;\n\tpin(a & PAGE_MASK, flags | FOLL_LONGTERM);\n"
        "\tmap(DMA_FROM_DEVICE);\n\toffset = a & ~PAGE_MASK;\n}\n"
    )
    made = {(one.old.strip(), one.new.strip()) for one in mutations(FILE, source) if one.kind == "wrong-flag"}
    assert made == {
        ("FOLL_FORCE", "0"),
        ("& PAGE_MASK", ""),
        ("| FOLL_LONGTERM", ""),
        ("DMA_FROM_DEVICE", "DMA_TO_DEVICE"),
        ("& ~PAGE_MASK", "& PAGE_MASK"),
    }


def test_overlay_and_talk_are_left_alone() -> None:
    assert {mutation.function for mutation in mutations(FILE, SOURCE)} == {"map"}
    assert not any("dprintk" in mutation.old for mutation in mutations(FILE, SOURCE))


def test_a_change_says_what_has_to_run() -> None:
    skip = found("skip-error-path")[0]
    assert SOURCE[skip.needs :].startswith("unpin(buf->pages);")
    assert skip.text == "if (buf->nr < n) {"
    for mutation in mutations(FILE, SOURCE):
        assert mutation.needs <= mutation.start or mutation.kind == "skip-error-path"


def test_conditions_are_inverted() -> None:
    assert [mutation.new for mutation in found("invert")] == ["!(buf->nr < n)", "!(buf->dirty)"]


def test_only_branches_that_leave_are_error_paths() -> None:
    assert [mutation.new for mutation in found("skip-error-path")] == ["0 && (buf->nr < n)"]


def test_off_by_one_knows_an_arrow_from_a_comparison() -> None:
    assert [(mutation.old, mutation.new) for mutation in found("off-by-one")] == [
        ("buf->size", "buf->size - 1"),
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
    chosen = choose(many, 16)
    assert chosen == choose(list(many), 16)
    assert len(set(chosen)) == 16
    assert {mutation.kind for mutation in chosen} == {mutation.kind for mutation in many}
    assert {mutation.file for mutation in chosen} == {FILE, "other.c"}
    assert len(choose(many, 10_000)) == len(many)
