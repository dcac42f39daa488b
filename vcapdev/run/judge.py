# SPDX-License-Identifier: GPL-2.0-or-later
"""From what a run saw to its exit status and one plain sentence. Findings win over what came later."""

from __future__ import annotations

from collections.abc import Callable

from vcapdev.errors import ExitStatus
from vcapdev.report.model import RunReport

Doubt = Callable[[RunReport], str | None]


def judge(report: RunReport) -> tuple[ExitStatus, str]:
    """Exit status and sentence; the report's own two fields for them are not looked at."""
    finding = _finding(report)
    if finding is not None:
        return ExitStatus.FINDINGS, _ended(finding, report.failure)
    if report.dma.defects:
        return ExitStatus.DEFECT, f"A defect of vcapdev's checker: {report.dma.defects[0]}; please report it."
    if report.failure is not None:
        return ExitStatus.GUEST, f"Failed: {report.failure}."
    for doubt in _DOUBTS:
        if (reason := doubt(report)) is not None:
            return ExitStatus.GUEST, f"Inconclusive: {reason}."
    return ExitStatus.CLEAN, _clean(report)


def _finding(report: RunReport) -> str | None:
    if report.verdicts:
        rules = ", ".join(dict.fromkeys(verdict.rule for verdict in report.verdicts))
        times = sum(verdict.count for verdict in report.verdicts)
        return f"Findings: {rules}, {_many(times, 'time')}; first: {report.verdicts[0].sentence}"
    frames = report.frames
    bad = frames.damaged + frames.torn
    if bad and not _went_on_alone(report):
        return f"Findings: {bad} of {frames.captured} frames arrived damaged, though no page rule was broken"
    return None


def _ended(finding: str, failure: str | None) -> str:
    return f"{finding}." if failure is None else f"{finding}. Then the run ended early: {failure}."


def _went_on_alone(report: RunReport) -> bool:
    """Where the card did not wait for the handler, a slow guest spoils frames, as with the hardware."""
    return report.settings.get("clock") == "real" or bool(report.device.get("handshake_timeouts"))


def _unchecked(report: RunReport) -> str | None:
    dma = report.dma
    if dma.checker != "attached":
        return f"the checker could not judge anything: {dma.checker}"
    if dma.unchecked:
        return f"{dma.unchecked} of the card's writes could not be checked: too early, or pages without sense"
    return None if dma.pages_checked else "the checker was attached, but no page was written to"


def _too_few_frames(report: RunReport) -> str | None:
    frames = report.frames
    if frames.captured >= frames.wanted:
        return None
    return f"only {frames.captured} of {frames.wanted} frames were captured"


def _unsure_frames(report: RunReport) -> str | None:
    """Every good frame must have been compared. (Failed ones are apart; the capture program bounds them.)"""
    frames = report.frames
    if frames.intact + frames.torn + frames.damaged >= frames.captured:
        return None
    return f"only {frames.intact} of {frames.captured} frames were verified"


def _spoilt_by_haste(report: RunReport) -> str | None:
    """On the real clock torn frames are expected of a slow host, and no more than counted."""
    frames = report.frames
    if report.settings.get("clock") == "real":
        why, bad = "the real clock does not wait for the guest", frames.damaged
    else:
        why, bad = "the card had waited 500 ms for the guest's handler in vain", frames.damaged + frames.torn
    if not bad:
        return None
    return f"{_many(bad, 'frame')} arrived damaged, but {why}, so a slow host may have done it"


def _no_swapping(report: RunReport) -> str | None:
    swap = report.swap
    if swap.pressure == "none" or swap.pages_out:
        return None
    return f"pressure {swap.pressure} on {swap.kind} swap was asked for, but not one page was swapped out"


def _buffers_stayed(report: RunReport) -> str | None:
    """The hog swaps what it finds; whether buffers were out is what MADV_PAGEOUT was asked for."""
    swap = report.swap
    asked = report.settings.get("io") == "userptr" and swap.pressure in ("pageout", "both")
    if not asked or swap.buffer_pages_out:
        return None
    return f"pressure {swap.pressure} was asked for, but not one page of the buffers was seen swapped out"


def _pageout_failed(report: RunReport) -> str | None:
    """Whatever the hog swapped: the buffers themselves were not under the pressure that was asked for."""
    if report.swap.pageout_error is None:
        return None
    return f"MADV_PAGEOUT on the buffers failed in the guest ({report.swap.pageout_error})"


def _nothing_clean(report: RunReport) -> str | None:
    if not report.settings.get("clean") or report.pins.clean_at_pin:
        return None
    return "no page was seen released that had been clean while pinned, so a lost dirty bit could not show"


_DOUBTS: tuple[Doubt, ...] = (
    _unchecked,
    _too_few_frames,
    _unsure_frames,
    _spoilt_by_haste,
    _no_swapping,
    _pageout_failed,
    _buffers_stayed,
    _nothing_clean,
)


def _clean(report: RunReport) -> str:
    frames, dma, swap = report.frames, report.dma, report.swap
    checked = _many(dma.pages_checked, "page")
    text = f"Clean: {frames.intact} of {frames.captured} frames intact, {checked} checked"
    if swap.pages_out:
        text += f" while {swap.pages_out} were swapped out"
    return f"{text}; every DMA write went to a page that the card was entitled to."


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
