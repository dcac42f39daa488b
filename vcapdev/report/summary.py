# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of a run on the terminal: a few aligned lines, then one plain sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vcapdev.report.model import Audit, Json, Pins, RunReport

_LESS_THAN_INTACT = {
    "dropped": "dropped",
    "torn": "torn",
    "damaged": "damaged",
    "errors": "given back as failed by the driver",
}


def summary(report: RunReport, directory: Path | None = None) -> str:
    """The whole text, ending in a newline."""
    rows = [f"  {name:<9} {text}" for name, text in _rows(report)]
    lines = ["", *rows, ""]
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines.append(f"{report.sentence} (exit status {int(report.exit_status)})")
    if directory is not None:
        lines.append(f"Report: {directory}/report.json")
    return "\n".join(lines) + "\n"


def _rows(report: RunReport) -> Iterator[tuple[str, str]]:
    yield "kernel", _kernel(report)
    yield "frames", _frames(report)
    dma = report.dma
    yield (
        "dma",
        f"{dma.writes} writes, {dma.bytes / 1e6:.1f} MB, {dma.pages_checked} pages checked"
        f" ({dma.distinct_pages} distinct)"
        + ("" if dma.checker == "attached" else f"; checker {dma.checker}"),
    )
    yield "swap", _swap(report)
    if report.swap.note is not None:
        yield "", report.swap.note
    yield "pins", _pins(report.pins)
    yield "verdicts", _verdicts(report)
    if report.audit is not None:
        yield "audit", _audit(report.audit)
    if report.iommu is not None:
        yield "iommu", _iommu(report.iommu)
    for hazard in report.hazards:
        yield "hazard", f"{hazard['sentence']}: {hazard['pages']} pages ({hazard['rule']}, no verdict)"
    odd = [f"{count} {name}" for name, count in sorted(report.oddities.items()) if count]
    if odd:
        yield "oddities", ", ".join(odd) + " (harmless)"
    if report.guest_log.reports:
        reports = report.guest_log.reports
        first = reports[0].strip().splitlines()[0]
        yield "guest", f"{len(reports)} kernel report{'s' * (len(reports) != 1)}, first: {first}"


def _kernel(report: RunReport) -> str:
    kernel, extra = report.kernel, ""
    if kernel.mutant:
        extra = f", mutant {kernel.mutant}"
    elif kernel.replaced_modules:
        extra = f", with your {', '.join(kernel.replaced_modules)}"
    return (
        f"{kernel.release} ({kernel.recipe}{extra}) on QEMU {report.qemu.version}, {report.qemu.accelerator}"
    )


def _frames(report: RunReport) -> str:
    frames = report.frames
    text = f"{frames.captured} of {frames.wanted} captured, {frames.intact} intact"
    for name, words in _LESS_THAN_INTACT.items():
        if count := getattr(frames, name):
            text += f", {count} {words}"
    return f"{text}, {frames.per_second:.1f} fps"


def _swap(report: RunReport) -> str:
    swap = report.swap
    if swap.kind == "none":
        return "none"
    text = (
        f"{swap.kind}, pressure {swap.pressure}: {swap.pages_out} pages out, {swap.pages_in} in,"
        f" {swap.buffer_pages_out} times a buffer page was out"
    )
    if swap.pageout_error is not None:
        text += f"; MADV_PAGEOUT failed: {swap.pageout_error}"
    return text


def _pins(pins: Pins) -> str:
    """Left over is exact; the rest is from /proc/vmstat, which leaves out what a CPU has not added yet."""
    lags = " (by /proc/vmstat, which lags)" if pins.acquired != pins.released and not pins.left else ""
    return f"{pins.acquired} taken, {pins.released} given back{lags}, {pins.left} left over"


def _audit(audit: Audit) -> str:
    text = f"{audit.pages} pages ({audit.bad} bad) judged again with the vCPUs stopped: "
    text += f"{audit.disagreed} disagreement{'s' * (audit.disagreed != 1)}"
    rest = {
        "changed and bad by then": audit.turned,
        "changed and clean by then": audit.mended,
        "judgements overtaken by a stop": audit.raced_with_stop,
        "judgements without a stop of the vCPUs": audit.not_stopped,
    }
    text += "".join(f", {count} {words}" for words, count in rest.items() if count)
    return f"{text} (seed {audit.seed})"


def _iommu(figures: Json) -> str:
    if not figures["translating"]:
        return "not switched on by the guest"
    live = ", ".join(f"{count} of {kind}" for kind, count in sorted(figures["live"].items())) or "none"
    text = f"{figures['maps']} maps, {figures['unmaps']} unmaps, {figures['refused']} transfers refused"
    return f"{text}; left: {live}"


def _verdicts(report: RunReport) -> str:
    if not report.verdicts:
        return "none"
    counts: dict[str, int] = {}
    for verdict in report.verdicts:
        counts[verdict.rule] = counts.get(verdict.rule, 0) + verdict.count
    return ", ".join(f"{rule} ({count} time{'s' * (count != 1)})" for rule, count in counts.items())
