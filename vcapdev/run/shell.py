# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev run --shell``: the same guest and the same checked card, with a person at the console."""

from __future__ import annotations

import time

from vcapdev.errors import ExitStatus, GuestError, InconclusiveError
from vcapdev.run.session import Session
from vcapdev.vm.agent import AgentGoneError
from vcapdev.vm.machine import Vm
from vcapdev.vm.watch import CrashWatch, GuestCrash

_TURN = 0.2  # seconds
_RESTARTED = "reboot: Restarting system"  # kernel/reboot.c, when somebody asked for it


def interact(session: Session) -> ExitStatus:
    """Hand the terminal to the guest until it ends; findings are printed between its lines.

    :raise GuestError: when QEMU, the device process or the guest's kernel fails, or what the card wrote could
        not be judged.
    """
    session.screen.show("the guest boots; leave it with 'exit'")
    session.debugger.booting()
    session.device.start()
    session.vm.start()
    session.vm.agent.hail()
    while (status := session.vm.poll()) is None:
        session.show_events()
        _turn(session.vm)
    verdicts = session.device.call("verdicts")["verdicts"]
    checker = session.device.call("check-status")
    session.stop()  # takes in what the guest said last
    crash = failure(session.vm.watch)
    many = len(verdicts)
    found = f"{many} finding{'s' * (many != 1)}, see above" if many else "no findings"
    session.screen.show(f"{checker['pages_checked']} pages checked, {found}")
    if verdicts:
        if crash is not None:
            session.screen.show(str(crash))
        return ExitStatus.FINDINGS
    if defects := checker.get("defects"):
        session.screen.show(f"a defect of vcapdev's checker: {defects[0]}; please report it")
        return ExitStatus.DEFECT
    if status != 0:
        raise GuestError(f"QEMU ended with status {status}: {session.vm.qemu_complaint()}")
    if crash is not None:
        raise crash
    if unchecked := checker.get("unchecked_writes"):
        why = checker.get("why_not") or "too early, or pages without sense"
        raise InconclusiveError(f"{unchecked} of the card's writes could not be checked: {why}")
    return ExitStatus.CLEAN


def _turn(vm: Vm) -> None:
    """Take in what the kernel says. Of what it complains is judged at the end: a person may want to go on.

    :raise GuestError: when the device process has ended.
    """
    try:
        vm.agent.pump(_TURN)
    except (GuestCrash, AgentGoneError):
        time.sleep(_TURN)
    except GuestError:
        if vm.poll() is None:
            raise


def failure(watch: CrashWatch) -> GuestCrash | None:
    """How the kernel of a guest that has ended failed, if it did.

    A person may well have an old log on the screen. So the console is believed only where the kernel could
    not tell the agent any more: when the machine was reset, and nobody had asked for it.
    """
    told = [incident for incident in watch.kmsg.incidents if incident.failure]
    asked = any(record.text.startswith(_RESTARTED) for record in watch.console_log.records)
    reset = watch.stopped == "reset" and not asked
    if reset:
        told += [incident for incident in watch.console_log.incidents if incident.failure]
    if told:
        worst = next((incident for incident in told if incident.panicked), told[0])
        return GuestCrash(worst.kind, worst.title, worst.text, fatal=reset)
    return GuestCrash("reset", "it rebooted by itself", "", fatal=True) if reset else None
