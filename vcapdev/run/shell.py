# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev run --shell``: the same guest and the same checked card, with a person at the console."""

from __future__ import annotations

import time

from vcapdev.errors import ExitStatus, GuestError
from vcapdev.run.session import Session

_TURN = 0.2  # seconds


def interact(session: Session) -> ExitStatus:
    """Hand the terminal to the guest until it ends; findings are printed between its lines.

    :raise GuestError: when QEMU or the device process fails.
    """
    session.screen.show("the guest boots; leave it with 'exit'")
    session.debugger.booting()
    session.device.start()
    session.vm.start()
    while (status := session.vm.poll()) is None:
        session.show_events()
        time.sleep(_TURN)
    verdicts = session.device.call("verdicts")["verdicts"]
    checked = session.device.call("check-status")["pages_checked"]
    session.stop()
    found = f"{len(verdicts)} finding(s), see above" if verdicts else "no findings"
    session.screen.show(f"{checked} pages checked, {found}")
    if verdicts:
        return ExitStatus.FINDINGS
    if status != 0:
        raise GuestError(f"QEMU ended with status {status}: {session.vm.qemu_complaint()}")
    return ExitStatus.CLEAN
