# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev run --shell``: the same guest and the same checked card, with a person at the console."""

from __future__ import annotations

import time

from vcapdev.errors import ExitStatus, GuestError, InconclusiveError
from vcapdev.run.session import Session

_TURN = 0.2  # seconds


def interact(session: Session) -> ExitStatus:
    """Hand the terminal to the guest until it ends; findings are printed between its lines.

    :raise GuestError: when QEMU or the device process fails, or what the card wrote could not be judged.
    """
    session.screen.show("the guest boots; leave it with 'exit'")
    session.debugger.booting()
    session.device.start()
    session.vm.start()
    while (status := session.vm.poll()) is None:
        session.show_events()
        time.sleep(_TURN)
    verdicts = session.device.call("verdicts")["verdicts"]
    checker = session.device.call("check-status")
    session.stop()
    found = f"{len(verdicts)} finding(s), see above" if verdicts else "no findings"
    session.screen.show(f"{checker['pages_checked']} pages checked, {found}")
    if verdicts:
        return ExitStatus.FINDINGS
    if defects := checker.get("defects"):
        session.screen.show(f"a defect of vcapdev's checker: {defects[0]}; please report it")
        return ExitStatus.DEFECT
    if status != 0:
        raise GuestError(f"QEMU ended with status {status}: {session.vm.qemu_complaint()}")
    if unchecked := checker.get("unchecked_writes"):
        why = checker.get("why_not") or "too early, or pages without sense"
        raise InconclusiveError(f"{unchecked} of the card's writes could not be checked: {why}")
    return ExitStatus.CLEAN
