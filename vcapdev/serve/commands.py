# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of the control channel (docs/control.md): each a method, found by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from vcapdev import __version__
from vcapdev.bt878.faults import FAULTS
from vcapdev.bt878.faulty import Armed
from vcapdev.bt878.listing import listing
from vcapdev.dmacheck.verdict import Verdict
from vcapdev.errors import UsageError
from vcapdev.guestmm.memory import GuestReadError
from vcapdev.regs import AccessError
from vcapdev.serve.card import Card
from vcapdev.serve.control import CommandError, ControlSession
from vcapdev.serve.frame import describe_frame

_MOST_LINES = 4096
_MOST_STEPS = 10_000
_MOST_POINTS = 10_000_000
_MOST_FRAMES = (1 << 32) - 1

Json = dict[str, Any]


class Commands:
    """Answers for one card.

    :param quit_process: ends the process, after the answer.
    """

    def __init__(self, card: Card, quit_process: Callable[[], None]) -> None:
        self._card = card
        self._quit = quit_process

    def dispatch(self, command: str, arguments: Json, session: ControlSession) -> Json:
        """Run one command.

        :raise CommandError: no such command, or arguments that it cannot take.
        """
        name = "do_" + command.replace("-", "_")
        handler: Callable[[Json, ControlSession], Json] | None = getattr(self, name, None)
        if handler is None:
            known = sorted(each[3:].replace("_", "-") for each in dir(self) if each.startswith("do_"))
            raise CommandError(f"no command {command!r}; there are {', '.join(known)}")
        try:
            return handler(arguments, session)
        except (UsageError, AccessError) as error:
            raise CommandError(str(error)) from error
        except GuestReadError as error:  # the guest has gone, or its memory makes no sense
            raise CommandError(f"the guest's memory cannot be read: {error}") from error

    def do_hello(self, arguments: Json, session: ControlSession) -> Json:
        """Who is there."""
        card = self._card
        return {
            "vcapdev": __version__,
            "pid": os.getpid(),
            "board": card.board.title,
            "revision": card.board.revision,
            "norm": card.chip.decoder.norm.name,
            "clock": card.chip.clock.mode,
            "connected": card.server.connected,
        }

    def do_stats(self, arguments: Json, session: ControlSession) -> Json:
        """The card's own counters, and what the driver touched that is not modelled."""
        card = self._card
        return {
            **asdict(card.chip.stats),
            "dma_running": card.chip.dma_running,
            "refused_messages": card.server.refusals,
            "unmodelled": list(card.chip.registers.unmodelled),
        }

    def do_registers(self, arguments: Json, session: ControlSession) -> Json:
        """Every register as a read would give it; nothing is logged or cleared by it."""
        return {"registers": self._card.chip.registers.dump()}

    def do_register_read(self, arguments: Json, session: ControlSession) -> Json:
        """One register by name."""
        name = _text(arguments, "name")
        try:
            return {"name": name, "value": self._card.chip.registers.peek(name)}
        except KeyError:
            raise CommandError(f"no register {name!r}; 'registers' lists them") from None

    def do_register_write(self, arguments: Json, session: ControlSession) -> Json:
        """Write a register as the guest would."""
        name, value = _text(arguments, "name"), _number(arguments, "value", 0, 0xFFFF_FFFF)
        try:
            offset = self._card.chip.registers.cell(name).offset
        except KeyError:
            raise CommandError(f"no register {name!r}; 'registers' lists them") from None
        self._card.chip.bar_write(offset, 4, value)
        return {"name": name, "value": self._card.chip.registers.peek(name)}

    def do_access_log(self, arguments: Json, session: ControlSession) -> Json:
        """The last register accesses of the guest, decoded."""
        return {"lines": self._card.chip.registers.log.lines(_lines(arguments))}

    def do_dma_log(self, arguments: Json, session: ControlSession) -> Json:
        """The last transfers of the card, one line a batch."""
        return {"lines": self._card.dma_log.lines(_lines(arguments))}

    def do_timeline(self, arguments: Json, session: ControlSession) -> Json:
        """Begin or end to record what the card does when; what was recorded since the last begin."""
        timeline = self._card.timeline
        if arguments.get("record") is True:
            timeline.start()
        elif arguments.get("record") is False:
            timeline.stop()
        return {"events": timeline.events()}

    def do_clock(self, arguments: Json, session: ControlSession) -> Json:
        """Tell the clock's mode, or set it."""
        clock = self._card.chip.clock
        if "mode" in arguments:
            clock.mode = _text(arguments, "mode")
        return {"mode": clock.mode, "steps": clock.steps, "awaiting_handler": clock.awaiting}

    def do_step(self, arguments: Json, session: ControlSession) -> Json:
        """In clock mode "step": let fields pass. Those that wait for the guest's handler pass later."""
        self._card.chip.clock.step(_number(arguments, "fields", 1, _MOST_STEPS, default=1))
        return self.do_clock({}, session)

    def do_inject(self, arguments: Json, session: ControlSession) -> Json:
        """Make something go wrong: "parity-error" fails the RISC engine's next fetch."""
        fault = _text(arguments, "fault")
        if fault != "parity-error":
            raise CommandError(f"no fault {fault!r}; there is parity-error")
        self._card.chip.inject_parity_error()
        return {}

    def do_fault(self, arguments: Json, session: ControlSession) -> Json:
        """Arm a fault, for its ``at``-th point from now on; null takes it back; nothing given only asks."""
        box = self._card.faults
        if arguments.get("fault", "") is None:
            box.disarm()
        elif "fault" in arguments:
            at = _number(arguments, "at", 1, _MOST_POINTS, default=1)
            lasts = _number(arguments, "lasts", 1, _MOST_POINTS) if "lasts" in arguments else None
            box.arm(_text(arguments, "fault"), at, lasts)
        return {} if box.armed is None else box.armed.to_json()

    def do_faults(self, arguments: Json, session: ControlSession) -> Json:
        """Every fault that "fault" knows."""
        return {"faults": {name: {"point": each.point, "doc": each.doc} for name, each in FAULTS.items()}}

    def do_program(self, arguments: Json, session: ControlSession) -> Json:
        """The RISC program that the engine runs, decoded from memory: one instruction an entry."""
        most = _number(arguments, "most", 1, _MOST_LINES, default=_MOST_LINES)
        chip = self._card.chip
        found = listing(chip.registers.get("RISC_STRT_ADD"), chip.bus.peek, most)
        entries = [{"address": each.address, "words": each.words, "text": each.text} for each in found]
        return {"running": chip.dma_running, "pc": chip.engine.pc, "instructions": entries}

    def do_signal(self, arguments: Json, session: ControlSession) -> Json:
        """What the camera sends: its norm, and whether the cable is in."""
        decoder = self._card.chip.decoder
        if "norm" in arguments:
            decoder.set_norm(_text(arguments, "norm"))
        if "connected" in arguments:
            for pin in decoder.board.inputs:
                decoder.plug(pin.muxsel, bool(arguments["connected"]))
        return {"norm": decoder.norm.name, "connected": decoder.signal}

    def do_check_status(self, arguments: Json, session: ControlSession) -> Json:
        """What the checker has looked at."""
        return self._card.check_status()

    def do_attach(self, arguments: Json, session: ControlSession) -> Json:
        """Find the kernel of a restored guest now: its runner knows that it is up, the card does not yet."""
        self._card.attach(restored=True)
        return self._card.check_status()

    def do_verdicts(self, arguments: Json, session: ControlSession) -> Json:
        """All findings, each with its evidence and how often it came."""
        return {"verdicts": [verdict.to_json() for verdict in self._card.checker.verdicts]}

    def do_settle(self, arguments: Json, session: ControlSession) -> Json:
        """After the device was closed: are all pins back? With "final", what is left is a finding."""
        return self._card.settle(final=bool(arguments.get("final", True)))

    def do_new_scene(self, arguments: Json, session: ControlSession) -> Json:
        """Forget findings and figures; what is pinned now is no finding any more. The kernel stays known."""
        self._card.new_scene()
        return self._card.check_status()

    def do_hold(self, arguments: Json, session: ControlSession) -> Json:
        """Whether the next new kind of finding holds guest and card, and whether one does now."""
        holding = self._card.holding
        if "next" in arguments:
            holding.wanted = bool(arguments["next"])
        return {"held": holding.held, "next": holding.wanted}

    def do_resume(self, arguments: Json, session: ControlSession) -> Json:
        """Let guest and card go on after a finding has held them."""
        self._card.holding.resume(hold_again=bool(arguments.get("hold", False)))
        return self.do_hold({}, session)

    def do_memory(self, arguments: Json, session: ControlSession) -> Json:
        """Where guest RAM lies: each segment's descriptor in this process, to be opened by who may."""
        kernel = self._card.checker.kernel
        return {
            "pid": os.getpid(),
            "vmcoreinfo": "" if kernel is None else kernel.note.text.decode("latin-1"),
            "segments": [
                {"start": each.start, "size": each.size, "fd": each.fd, "offset": each.fd_offset}
                for each in self._card.guest_memory.segments
                if each.fd >= 0
            ],
        }

    def do_frame(self, arguments: Json, session: ControlSession) -> Json:
        """A frame, by default the last sent: its fields, and the page state under each run of bytes."""
        if "number" not in arguments:
            found = self._card.frames.last()
            if found is None:
                raise CommandError("no frame has been sent yet")
            return describe_frame(*found)
        number = _number(arguments, "number", 0, _MOST_FRAMES)
        found = self._card.frames.find(number)
        if found is None:
            raise CommandError(f"frame {number} is not kept (any more); keep-frames has to come before it")
        return describe_frame(*found)

    def do_keep_frames(self, arguments: Json, session: ControlSession) -> Json:
        """From now on, keep the last frames, so that one can be asked for by its number; or keep none."""
        self._card.frames.keep(bool(arguments.get("wanted", True)))
        return {}

    def do_subscribe(self, arguments: Json, session: ControlSession) -> Json:
        """From now on, tell this client of findings as they come."""
        session.subscribed = True
        return {}

    def do_quit(self, arguments: Json, session: ControlSession) -> Json:
        """End the process."""
        self._card.reactor.call_later(0, self._quit)
        return {}


def verdict_event(verdict: Verdict) -> Json:
    """The event that tells of a new finding."""
    return {"event": "verdict", "verdict": verdict.to_json()}


def held_event(verdict: Verdict, stopped: bool) -> Json:
    """The event that tells of guest and card being held until somebody says "resume"."""
    return {"event": "held", "verdict": verdict.to_json(), "vcpus_stopped": stopped}


def fault_event(armed: Armed) -> Json:
    """The event that tells of a fault that the runner has to carry out; the card stands still meanwhile."""
    return {"event": "fault", **armed.to_json()}


def _text(arguments: Json, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise CommandError(f'"{name}" must be given, as a string')
    return value


def _number(arguments: Json, name: str, low: int, high: int, *, default: int | None = None) -> int:
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise CommandError(f'"{name}" must be a number from {low} to {high}')
    return value


def _lines(arguments: Json) -> int:
    return _number(arguments, "last", 1, _MOST_LINES, default=100)
