# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks before statements: the program stays the same, and what was run is told statement by statement."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vcapdev.errors import SetupError
from vcapdev.gallery.reach import Reach, change_of, marked, places, statements_in

FILE = "drivers/media/thing-one.c"
SOURCE = """\
#include <stdio.h>

static int sum(int n)
{
\tint i, all = 0;

\tif (n < 0)
\t\treturn -1;
\telse if (n > 100)
\t\tgoto out;
\tfor (i = 0; i < n; i++)
\t\tif (i % 2)
\t\t\tall += i;
\t\telse {
\t\t\tall += 2 * i;
\t\t}
\tswitch (n) {
\tcase 3:
\t\tall++;
\t\tbreak;
\tdefault:
\t\tdo
\t\t\tall--;
\t\twhile (all > 1000);
\t}
out:
\treturn all;
}

int main(void) { printf("%d", sum(3)); return 0; }
"""


def test_the_marked_program_does_the_same_and_tells_what_ran(tmp_path: Path) -> None:
    marks = marked(FILE, SOURCE)
    stubs = '#define module_param_array(...) _Static_assert(1, "")\n'
    text = marks.text.replace("#include <linux/module.h>\n#include <linux/moduleparam.h>\n", "")
    text = text.replace(
        "return 0; }",
        f"for (unsigned i = 0; i < sizeof({marks.parameter}); i++)"
        f" printf(\"%c%d\", i ? ',' : ' ', {marks.parameter}[i]); return 0; }}",
    )
    source = tmp_path / "one.c"
    source.write_text(stubs + text)
    subprocess.run(["gcc", "-o", str(tmp_path / "one"), str(source)], check=True, timeout=60)
    said = subprocess.run(
        [str(tmp_path / "one")], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    result, _, values = said.partition(" ")
    assert result == "6"
    ran = places(f"/sys/module/x/parameters/{marks.parameter} {values}\n", [marks])
    told = {SOURCE[start:].partition("\n")[0] for _, start in ran}
    assert {"if (i % 2)", "all += i;", "all += 2 * i;", "all++;", "return all;"} <= told
    assert not {"return -1;", "goto out;", "all--;"} & told


def test_marks_are_where_changes_need_them() -> None:
    marks = marked(FILE, SOURCE)
    assert statements_in([marks]) == len(marks.starts) == len(set(marks.starts))
    assert change_of([marks]).files == [FILE]
    assert marks.text.startswith("#include <stdio.h>\n#include <linux/module.h>\n")


def test_acts_that_run_a_statement() -> None:
    reach = Reach({"one": {(FILE, 3)}, "two": {(FILE, 3), (FILE, 9)}}, loading={(FILE, 1)})
    assert reach.acts((FILE, 3)) == ["one", "two"]
    assert reach.acts((FILE, 9)) == ["two"]
    assert reach.acts((FILE, 1)) == ["one", "two"]
    assert reach.acts((FILE, 4)) == []


def test_what_the_guest_tells_wrongly_is_let_pass() -> None:
    marks = marked(FILE, SOURCE)
    assert places("nonsense\n/sys/other 1,1\n" + f"{marks.parameter} 1," + "1," * 5000, [marks])
    assert places(f"{marks.parameter} x,,", [marks]) == set()


def test_too_many_statements_are_refused() -> None:
    many = "#include <a.h>\nvoid f(void)\n{\n" + "\tx();\n" * 2001 + "}\n"
    with pytest.raises(SetupError, match="2001 statements"):
        marked(FILE, many)
