# SPDX-License-Identifier: GPL-2.0-or-later
"""Television norms, and what the decoder makes of them: when fields come, and how many lines they have.

::

    field:  |VSYNC| vertical blanking, VBI lines | active video: VACTIVE/2 lines, scaled | rest |VRO or VRE|
            0                                 VDELAY/2                                        field_seconds

Source of the numbers: ``bttv_tvnorms`` (Linux 6.1 ``drivers/media/pci/bt8xx/bttv-driver.c``), line and field
times from the standards.
"""

from __future__ import annotations

from dataclasses import dataclass

from vcapdev.errors import UsageError


@dataclass(frozen=True, slots=True)
class Norm:
    """One television norm, as the signal at the input has it."""

    name: str
    lines: int  # of a frame, blanking included
    height: int  # active lines of a frame
    line_seconds: float

    @property
    def field_seconds(self) -> float:
        """Time of one field in seconds: 20 ms, or 16.683 ms."""
        return self.line_seconds * self.lines / 2

    @property
    def field_lines(self) -> int:
        """Whole lines of one field, blanking included."""
        return self.lines // 2

    @property
    def has_625_lines(self) -> bool:
        """What DSTATUS.NUML shows."""
        return self.lines == 625


_PAL_LINE = 64e-6
_NTSC_LINE = 1001 / 15_750_000  # 63.556 us

NORMS = {
    "PAL": Norm("PAL", 625, 576, _PAL_LINE),
    "NTSC": Norm("NTSC", 525, 480, _NTSC_LINE),
    "SECAM": Norm("SECAM", 625, 576, _PAL_LINE),
}


def norm_named(name: str) -> Norm:
    """A norm by its name, whatever its case.

    :raise UsageError: there is no such norm.
    """
    norm = NORMS.get(name.upper())
    if norm is None:
        raise UsageError(f"no television norm is called {name!r}; there are {', '.join(NORMS)}")
    return norm


def vbi_lines(norm: Norm, vdelay: int) -> int:
    """Lines of the vertical blanking interval that a field delivers: they end where active video starts.

    :param vdelay: VDELAY register in half lines (data sheet 100600B, page 2-25); bttv's idle value 0x3fe
        gives the whole field to VBI.
    """
    return min(vdelay // 2, norm.field_lines)


def video_lines(norm: Norm, vdelay: int, vactive: int, vscale: int) -> int:
    """Lines of active video that the vertical scaler delivers for one field.

    The inverse of ``bttv_calc_geo_old``: right for interlaced and single-field scaling alike.

    :param vactive: VACTIVE register, lines of a frame.
    :param vscale: VSCALE register, thirteen bits.
    """
    given = min(vactive // 2, max(0, norm.field_lines - vdelay // 2))
    step = (0x2000 - vscale) & 0x1FFF
    return (given * 512 * 2 + 512 + step) // ((512 + step) * 2)


# The raw mode ("VBI frame" on page 2-26): a fixed number of 256-dword packets, whatever the lines are.
RAW_PACKET_BYTES = 1024


def raw_packets(norm: Norm) -> int:
    """Packets that one field delivers in raw mode."""
    return 650 if norm.has_625_lines else 434
