# SPDX-License-Identifier: GPL-2.0-or-later
"""A test's timeline as SVG inside the page: one band a track, what overlaps in lines below each other."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vcapdev.report.states import colour_of
from vcapdev.scenario.plain import line
from vcapdev.scenario.results import Event, StepResult, TestResult

_WIDTH, _LEFT, _ROW, _GAP, _AXIS = 1100, 120, 12, 6, 18
_MOST = 300  # marks of a track that are drawn; more would only be ink, but for what was judged bad
_MOST_ROWS = 8
BAD_COLOUR = "#d22"
_COLOURS = {"pass": "#3c9a4b", "fail": BAD_COLOUR, "known": "#c80", "skip": "#888", "error": "#a2a"}
_TRACKS = {
    "fields": "#4a78b5",
    "interrupts": "#c08a00",
    "registers": "#777",
    "guest log": "#444",
    "pressure": "#9a5fb5",
    "findings": BAD_COLOUR,
}


def timeline(test: TestResult) -> str:
    """The picture; "" where nothing was recorded."""
    tracks: dict[str, list[Event]] = {"steps": [_of_step(step) for step in test.steps]}
    for event in test.timeline:
        tracks.setdefault(event.track, []).append(event)
    tracks = {name: events for name, events in tracks.items() if events}
    if not tracks:
        return ""
    end = max(event.begin + event.length for events in tracks.values() for event in events) or 1
    scale = (_WIDTH - _LEFT - 10) / end
    parts, y = [], _AXIS + 4
    for name, events in tracks.items():
        marks, rows = _band(name, events, y, scale)
        parts.append(f'<text x="4" y="{y + _ROW - 2}">{escape(line(name, 24))}</text>{marks}')
        y += rows * _ROW + _GAP
    return (
        f'<svg viewBox="0 0 {_WIDTH} {y}" width="100%" role="img" aria-label="timeline">'
        f"{_axis(end, scale, y)}{''.join(parts)}</svg>"
    )


def _of_step(step: StepResult) -> Event:
    return Event(
        "steps", step.title, round(step.begin * 1e6), round(step.seconds * 1e6), step.status, step.note
    )


def _axis(end: int, scale: float, height: int) -> str:
    unit = 10 ** max(0, len(str(end)) - 2)
    every = next(unit * factor for factor in (1, 2, 5, 10, 20) if end / (unit * factor) <= 12)
    parts = []
    for at in range(0, end + 1, every):
        x = _LEFT + at * scale
        parts.append(
            f'<path d="M{x:.1f} {_AXIS}V{height}" class="g"/>'
            f'<text x="{x + 2:.1f}" y="12">{at / 1e6:g} s</text>'
        )
    return "".join(parts)


def _band(track: str, events: Sequence[Event], top: int, scale: float) -> tuple[str, int]:
    """The marks of one track, and how many rows they take."""
    rows: list[float] = []  # where each row is free again
    parts = []
    every = -(-len(events) // _MOST)
    drawn = [event for at, event in enumerate(events) if at % every == 0 or event.colour == "fail"]
    for event in drawn:
        x = _LEFT + event.begin * scale
        width = max(1.0, event.length * scale)
        row = next((at for at, free in enumerate(rows) if free <= x + 0.01), len(rows))
        if row >= _MOST_ROWS:
            row = _MOST_ROWS - 1
        if row == len(rows):
            rows.append(0.0)
        rows[row] = x + width
        told = line(f"{event.name} at {event.begin / 1e6:.6f} s {event.detail}", 300)
        parts.append(
            f'<rect x="{x:.1f}" y="{top + row * _ROW}" width="{width:.1f}" height="{_ROW - 2}"'
            f' fill="{_colour(track, event)}"><title>{escape(told)}</title></rect>'
        )
    return "".join(parts), max(1, len(rows))


def _colour(track: str, event: Event) -> str:
    if event.colour in _COLOURS:
        return _COLOURS[event.colour]
    if event.colour:
        red, green, blue = colour_of(event.colour)
        return f"#{red:02x}{green:02x}{blue:02x}"
    return _TRACKS.get(track, "#4a78b5")
