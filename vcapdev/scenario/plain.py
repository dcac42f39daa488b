# SPDX-License-Identifier: GPL-2.0-or-later
"""Text of a guest made harmless: what a terminal, XML or a line-based format would obey is shown instead."""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1, surrogates, non-characters, and marks that turn the direction of text.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u200e\u200f\u2028-\u202e\u2066-\u2069]"
    "|[\U0001fffe\U0001ffff]"
)
_LONGEST = 400_000


def plain(text: str, longest: int = _LONGEST) -> str:
    """The text with every such character as ``\\x1b`` or ``\\u202e``; line ends become plain ones."""
    if len(text) > longest:
        left_out = f"[... {len(text) - longest} characters left out ...]"
        text = f"{text[: longest // 2]}\n{left_out}\n{text[-longest // 2 :]}"
    return _HARMFUL.sub(_shown, text.replace("\r\n", "\n"))


def line(text: str, longest: int = 500) -> str:
    """The same in one line, cut at its end."""
    text = " ".join(text[: 4 * longest].split("\n")).replace("\t", " ")
    text = plain(text).replace("\n", " ")
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
