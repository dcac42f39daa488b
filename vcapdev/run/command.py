# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev run``: prepare, boot, capture, settle, report; or an interactive guest."""

from __future__ import annotations

import sys

from vcapdev.errors import ExitStatus
from vcapdev.evidence.bundle import check_target as check_bundle
from vcapdev.report.files import check_target, write_report
from vcapdev.report.summary import summary
from vcapdev.run.byhand import lines
from vcapdev.run.judge import judge
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare
from vcapdev.run.screen import Screen
from vcapdev.run.session import Session
from vcapdev.run.shell import interact


def run(options: RunOptions) -> ExitStatus:
    """One run; prints its summary, writes its report, and says how it went.

    :raise VcapdevError: what kept the run from happening at all.
    """
    screen = Screen()
    if options.report is not None:
        check_target(options.report)
    if options.on_violation == "bundle":
        check_bundle(options.bundle)
    with screen.stage("prepare") as stage:
        prepared = prepare(options, screen.progress)
        stage.note = f"{options.kernel}, QEMU {prepared.qemu.version} with {prepared.accel.name}"
    with Session(options, prepared, screen) as session:
        if options.show:
            _show(session, prepared)
        if options.shell:
            return interact(session)
        return finish(session)


def finish(session: Session) -> ExitStatus:
    """Run a session to its end: summary, report, exit status."""
    try:
        report = session.run()
    except KeyboardInterrupt:
        if not session.report.verdicts:
            raise
        session.stop()
        session.screen.show("interrupted; the findings above stand, no report was written")
        return ExitStatus.FINDINGS
    report.exit_status, report.sentence = judge(report)
    directory = session.options.report
    if directory is not None:
        with session.screen.stage("report") as stage:
            stage.note = str(directory)
            write_report(directory, report, session.attachments.files)
    print(summary(report, directory), end="", flush=True)
    return report.exit_status


def _show(session: Session, prepared: Prepared) -> None:
    place = session.work.with_name(f"{session.work.name}-by-hand")
    print("\n".join(lines(session.options, prepared, place)), file=sys.stderr, flush=True)
