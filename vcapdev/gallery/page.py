# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of docs/ with a section for each kernel, which are replaced one by one, between marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vcapdev.errors import SetupError

_SECTION = re.compile(r"^<!-- kernel (\S+) -->\n(.*?)\n<!-- end of \1 -->$", re.M | re.S)


def sections_of(text: str) -> dict[str, str]:
    """The sections of a page by kernel, in their order."""
    return {found[1]: found[2] for found in _SECTION.finditer(text)}


def assembled(head: str, sections: Mapping[str, str], order: Sequence[str]) -> str:
    """A page: its head, then the sections; those of kernels that ``order`` does not name come last."""
    names = [name for name in order if name in sections] + [name for name in sections if name not in order]
    parts = [f"<!-- kernel {name} -->\n{sections[name].strip()}\n<!-- end of {name} -->\n" for name in names]
    return "\n".join([head.rstrip() + "\n", *parts])


def renew(path: Path, head: str, sections: Mapping[str, str], order: Sequence[str]) -> None:
    """Replace the head and these sections of a page; the sections of other kernels stay as they are.

    :raise SetupError: the file cannot be written.
    """
    try:
        known = sections_of(path.read_text(encoding="utf-8")) if path.exists() else {}
        text = assembled(head, known | dict(sections), order)
        new = path.with_name(path.name + ".new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise SetupError(f"--page {path}: {error.strerror}; name a file that can be written") from None
