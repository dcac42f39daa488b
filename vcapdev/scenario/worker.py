# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m vcapdev.scenario.worker``: plays the tests whose names come in (see suite.py)."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType
from typing import TextIO

from vcapdev.scenario.model import Test
from vcapdev.scenario.play import last_words, play
from vcapdev.scenario.results import Results, TestResult
from vcapdev.scenario.suite import find
from vcapdev.testing.config import GuestConfig
from vcapdev.testing.guest import Guest
from vcapdev.testing.keeper import Keeper


def main() -> int:
    """Until its input ends, or it is told to end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not get between the results
    keeper = Keeper(_guest, most=1)
    try:
        _serve(keeper, out)
    except KeyboardInterrupt:
        return 30
    finally:
        keeper.close()
    return 0


def _guest(config: GuestConfig) -> Guest:
    return Guest(config)


def _serve(keeper: Keeper, out: TextIO) -> None:
    """An order names a test. The last says that no more will come; its answer is the last result again."""
    played: list[tuple[Test, TestResult]] = []
    for text in sys.stdin:
        order = json.loads(text)
        if order.get("end"):
            last_words(played[-1][0], keeper, played[-1][1])
        else:
            test, settings = find(order)
            played = [(test, play(test, keeper, settings))]
        out.write(json.dumps(Results([played[-1][1]]).to_json()) + "\n")
        out.flush()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


if __name__ == "__main__":
    sys.exit(main())
