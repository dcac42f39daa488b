# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading C just well enough to change it: functions and statements are found, and nothing else."""

from __future__ import annotations

import pytest

from vcapdev.gallery.csource import ReadError, blank, functions

SOURCE = """\
#define LOOP(x) for (x = 0; x < 3; x++) {   \\
\t}
static const struct ops those = { .open = open_it };
struct thing { int member; };

/* if (this) is a comment { */
static int first(struct thing *t, int n)
{
\tint i = 0;

\tif (!t)
\t\treturn -EINVAL;
\tfor (i = 0; i < n; i++) {
\t\tcall("text; with (brackets", t->member);
\t\tif (i == 2)
\t\t\tgoto out;
\t\telse if (i > 3)
\t\t\tbreak;
\t}
\tlist_for_each_entry(t, list, member)
\t\tcall(t, 1);
\tswitch (n) {
\tcase 1:
\t\tcall(';', 0);
\t\tbreak;
\tdefault:
\t\tdo {
\t\t\tn--;
\t\t} while (n > 0);
\t}
\tt->member = n ? 1 : 2;
out:
\treturn i;
}

int second(void) { return 0; }
"""


def test_functions_are_found_and_nothing_else() -> None:
    assert [function.name for function in functions(SOURCE)] == ["first", "second"]


def test_statements_by_kind_and_place() -> None:
    first = functions(SOURCE)[0]
    kinds = [part.kind for part in first.body.parts]
    assert kinds == ["simple", "if", "loop", "loop", "switch", "simple", "label", "return"]
    texts = [SOURCE[part.start : part.end] for part in first.body.parts]
    assert texts[0] == "int i = 0;"
    assert texts[1] == "if (!t)\n\t\treturn -EINVAL;"
    assert texts[3].endswith("call(t, 1);")
    assert texts[5] == "t->member = n ? 1 : 2;"
    assert texts[7] == "return i;"


def test_conditions_and_branches() -> None:
    ifs = [part for part in functions(SOURCE)[0].body.walk() if part.kind == "if"]
    conditions = [SOURCE[slice(*part.condition)] for part in ifs if part.condition]
    assert conditions == ["!t", "i == 2", "i > 3"]
    assert [len(part.parts) for part in ifs] == [1, 2, 1]


def test_every_statement_lies_within_its_parent_and_none_overlap() -> None:
    for function in functions(SOURCE):
        for statement in function.body.walk():
            ends = [statement.start]
            for part in statement.parts:
                assert ends[-1] <= part.start < part.end <= statement.end
                ends.append(part.end)


def test_blanking_keeps_every_place() -> None:
    plain = blank(SOURCE)
    assert len(plain) == len(SOURCE)
    assert plain.count("\n") == SOURCE.count("\n")
    assert not {word for word in ("comment", "brackets", "LOOP") if word in plain}


@pytest.mark.parametrize(
    "text", ["int f(void) { g(; }", "int f(void) { if (1) { }", "int f(void) { return 1 }", "int f(void) {)}"]
)
def test_what_is_no_c_is_refused(text: str) -> None:
    with pytest.raises(ReadError):
        functions(text)
