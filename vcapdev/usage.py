# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line's grammar: says in one line what is wrong, and what would be right."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from vcapdev.errors import ExitStatus

_CHOICE = re.compile(r"(.*): invalid choice: '?(.*?)'? \(choose from (.*)\)\Z", re.S)
_VALUE = re.compile(r"(.*): invalid (\w+) value: '(.*)'\Z", re.S)
_WANTED = {
    "int": "give a whole number",
    "number": "give a number, also as 0x11",
    "share": "give a share from 0 to 1, as 1% or 0.01",
}


class Parser(argparse.ArgumentParser):
    """argparse, which would print the whole usage before its complaint."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse's, but a command complains itself of words that it does not know."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(self._unknown(rest[0]))
        return found, rest

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word!r} is one word too many"
        name = word.partition("=")[0]
        return f"there is no option {name}{near(name, self._option_string_actions)}"

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ")
        option = text.partition(":")[0].split("/")[0]
        if choice := _CHOICE.match(text):
            known = [word.strip("'") for word in choice[3].split(", ")]
            right = near(choice[2], known, "") or f"give one of {', '.join(known)}"
            text = f"{choice[1]} {choice[2]}: {right}"
        elif (value := _VALUE.match(text)) and value[2] in _WANTED:
            text = f"{value[1]} {value[3]}: {_WANTED[value[2]]}"
        elif text.endswith("expected one argument") and option.startswith("-"):
            text += f" (a value that begins with a dash is written {option}=VALUE)"
        self.exit(ExitStatus.USAGE, f"vcapdev: {text}; see '{self.prog} --help'\n")


def near(word: str, known: Sequence[str] | dict[str, Any], before: str = "; ") -> str:
    """``; did you mean this?``, or nothing."""
    names = {name.lstrip("-"): name for name in known}  # dashes would make any two options alike
    found = difflib.get_close_matches(word.lstrip("-"), list(names), n=1)
    return f"{before}did you mean {names[found[0]]}?" if found else ""
