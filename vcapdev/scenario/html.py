# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as one self-contained page: nothing is loaded, no script runs, a guest's words are text."""

from __future__ import annotations

import re
from html import escape

from vcapdev.report.states import colour_of
from vcapdev.scenario.plain import plain
from vcapdev.scenario.results import Picture, Results, Status, Subtest, TestResult
from vcapdev.scenario.svg import BAD_COLOUR, timeline

_BASE64 = re.compile(r"[A-Za-z0-9+/=]*\Z")
_WORDS = {Status.PASS: "passed", Status.FAIL: "failed", Status.KNOWN: "known", Status.SKIP: "skipped",
          Status.ERROR: "infrastructure", Status.USAGE: "wrong usage"}  # fmt: skip
_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:1.5em auto;max-width:1180px;
padding:0 1em;color:#222;background:#fff}
h1{font-size:1.5em}h2{font-size:1.15em;margin:0}table{border-collapse:collapse;margin:.6em 0}
td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}
a{color:inherit}pre{background:#f4f4f4;padding:.6em;overflow:auto;max-height:32em;font-size:12px}
.pass{background:#d9f2dd}.fail{background:#f8c9c9}.known{background:#fbe8c0}.skip{background:#eee}
.error,.usage{background:#ecd3ef}section{border-top:1px solid #ccc;padding:.8em 0}
svg text{font:10px sans-serif;fill:#333}svg .g{stroke:#e4e4e4}svg{background:#fafafa}
.box{display:inline-block;width:.9em;height:.9em;margin:0 .3em 0 .9em;vertical-align:-1px}
img{max-width:100%;image-rendering:auto}summary{cursor:pointer}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#242424}
td,th,section{border-color:#444}.pass{background:#1d4526}.fail{background:#5e1f1f}.known{background:#574310}
.skip{background:#333}.error,.usage{background:#48244c}
svg{background:#202020}svg text{fill:#ccc}svg .g{stroke:#333}}
""".strip()


def write(results: Results) -> str:
    """The page."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    body = [f"<h1>{_title(results)}</h1>", _about(results), _grid(results)]
    body += [_test(number, test) for number, test in enumerate(results.tests, 1)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_title(results)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _text(text: str) -> str:
    return escape(plain(text))


def _title(results: Results) -> str:
    counts = results.counts()
    told = ", ".join(f"{counts[status]} {word}" for status, word in _WORDS.items() if counts[status])
    return f"vcapdev scenarios: {told or 'none'}"


def _about(results: Results) -> str:
    lines = [f"begun {_text(results.when)}" if results.when else "", f"vcapdev {_text(results.version)}"]
    told = f"<p>{', '.join(line for line in lines if line)}</p>"
    if results.command:
        told += f"<pre>{_text(results.command)}</pre>"
    return told + "".join(f"<p>{_text(note)}</p>" for note in results.notes)


def _grid(results: Results) -> str:
    kernels = results.kernels()
    place = {test.id: number for number, test in enumerate(results.tests, 1)}
    head = "".join(f"<th>{_text(kernel)}</th>" for kernel in kernels)
    rows = []
    for name in results.names():
        cells = []
        for kernel in kernels:
            test = results.at(name, kernel)
            if test is None:
                cells.append("<td></td>")
                continue
            word = _WORDS[Status(test.status)]
            cells.append(f'<td class="{_class(test.status)}"><a href="#t{place[test.id]}">{word}</a></td>')
        rows.append(f"<tr><th>{_text(name)}</th>{''.join(cells)}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _class(status: str) -> str:
    return str(Status(status))


def _badge(status: str) -> str:
    return f'<span class="{_class(status)}">{_WORDS[Status(status)]}</span>'


def _box(state: str, text: str) -> str:
    red, green, blue = colour_of(state)
    return f'<span class="box" style="background:rgb({red},{green},{blue})"></span>{_text(text)}'


def _test(number: int, test: TestResult) -> str:
    parts = [
        f'<section id="t{number}"><h2>{_badge(test.status)} {_text(test.id)}</h2>'
        f"<p>{_text(test.title)}, {test.seconds:.1f} s"
        + (f", Linux {_text(test.release)}" if test.release else "")
        + "</p>"
    ]
    if test.message:
        parts.append(f"<p><b>{_text(test.message)}</b></p>")
    parts += [_failure(failure.text, failure.key, failure.known) for failure in test.failures]
    picture = timeline(test)
    if picture:
        parts.append(_fold("timeline", picture + _legend(test), test.status != Status.PASS))
    parts += [_fold("finding", f"<pre>{_text(splat)}</pre>", True) for splat in test.splats]
    parts += [_picture(one) for one in test.pictures]
    if test.steps:
        parts.append(_fold("steps", _steps(test), False))
    if test.subtests:
        parts.append(_fold("tests inside", _subtests(test.subtests), test.status == Status.FAIL))
    if test.figures:
        told = "".join(f"<tr><td>{_text(k)}</td><td>{int(v)}</td></tr>" for k, v in test.figures.items())
        parts.append(_fold("figures", f"<table>{told}</table>", False))
    parts += [_fold(title, f"<pre>{_text(text)}</pre>", False) for title, text in test.texts]
    if test.repeat:
        parts.append(f"<p>again: <code>{_text(test.repeat)}</code></p>")
    return "".join(parts) + "</section>"


def _failure(text: str, key: str, known: str) -> str:
    told = f"<pre>{_text(text)}</pre><p>key: <code>{_text(key)}</code>"
    return told + (f", known: {_text(known)}" if known else "") + "</p>"


def _fold(title: str, inside: str, shown: bool) -> str:
    return f"<details{' open' if shown else ''}><summary>{_text(title)}</summary>{inside}</details>"


def _legend(test: TestResult) -> str:
    states = dict.fromkeys(event.colour for event in test.timeline if event.colour and event.track == "DMA")
    bad = states.pop("fail", "") is None
    boxes = f'<span class="box" style="background:{BAD_COLOUR}"></span>judged bad' if bad else ""
    boxes += "".join(_box(state, state) for state in states)
    return f"<p>DMA, by verdict, then by the state of the page: {boxes}</p>" if boxes else ""


def _picture(picture: Picture) -> str:
    if not _BASE64.match(picture.png):
        return ""
    boxes = "".join(_box(state, f"{state} {share}") for state, share in picture.legend)
    image = f'<img alt="{_text(picture.title)}" src="data:image/png;base64,{picture.png}">'
    return _fold(picture.title, f"{image}<p>{boxes}</p>", True)


def _steps(test: TestResult) -> str:
    rows = "".join(
        f'<tr class="{_class(step.status)}"><td style="padding-left:{min(step.level, 20) + 0.5}em">'
        f"{_text(step.title)}</td><td>{step.begin:.2f} s</td><td>{step.seconds:.2f} s</td>"
        f"<td>{_text(step.note)}</td></tr>"
        for step in test.steps
    )
    return f"<table><tr><th>step</th><th>begin</th><th>took</th><th></th></tr>{rows}</table>"


def _subtests(subtests: list[Subtest]) -> str:
    items = "".join(
        f"<li>{_badge(one.status)} {_text(one.name)}"
        + (f": {_text(one.message)}" if one.message else "")
        + (_subtests(one.subtests) if one.subtests else "")
        + "</li>"
        for one in subtests
    )
    return f"<ul>{items}</ul>"
