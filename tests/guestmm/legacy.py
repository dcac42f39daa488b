# SPDX-License-Identifier: GPL-2.0-or-later
"""A synthetic guest whose vmcoreinfo tells as little as that of 5.10."""

from __future__ import annotations

import struct

from synthetic import SyntheticGuest, note_bytes, packed_length

UNTOLD = ("kallsyms", "BUILD-ID", "uts_namespace.name")


def legacy_guest(*, symbols: int = 700, leave_out: tuple[str, ...] = ()) -> SyntheticGuest:
    """A guest with the tables of kallsyms in the order they had until 6.3, and nobody to name them.

    ``symbols`` more than it needs; those in ``leave_out`` are missing.
    """
    guest = SyntheticGuest("5.10")
    for i in range(symbols):
        guest.symbols[f"some_function_{i}"] = guest.image_virtual + 16 * i
    guest.symbols["_stext"] = guest.image_virtual
    guest.variable("hidden_tables", tables(guest, leave_out))
    tell(guest)
    return guest


def tell(guest: SyntheticGuest, **more: str) -> None:
    """Write the note anew, without what 5.10 does not tell."""
    lines = {k: v for k, v in guest.values.items() if not any(word in k for word in UNTOLD)}
    lines |= {"SYMBOL(_stext)": f"{guest.image_virtual:x}", **more}
    guest.poke(guest.note_at, bytes(8192))
    guest.poke(guest.note_at, note_bytes("".join(f"{k}={v}\n" for k, v in lines.items()).encode()))


def tables(guest: SyntheticGuest, leave_out: tuple[str, ...] = ()) -> bytes:
    """offsets, relative_base, num_syms, names, markers, token_table, token_index, each aligned to 8 bytes."""
    base = guest.image_virtual
    chosen = sorted(set(guest.symbols) - set(leave_out), key=guest.symbols.__getitem__)
    parts = [b"".join(struct.pack("<i", base - 1 - guest.symbols[name]) for name in chosen)]
    parts += [struct.pack("<Q", base), struct.pack("<I", len(chosen))]
    names, markers = b"", []
    for i, name in enumerate(chosen):
        if i % 256 == 0:
            markers.append(len(names))
        names += packed_length(len(name) + 1) + b"T" + name.encode()
    parts += [names, struct.pack(f"<{len(markers)}I", *markers)]
    parts += [b"".join(bytes([i or 1]) + b"\0" for i in range(256)), struct.pack("<256H", *range(0, 512, 2))]
    return b"".join(part + bytes(-len(part) % 8) for part in parts)
