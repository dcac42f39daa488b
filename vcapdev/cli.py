# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``vcapdev`` command: parse, call, print. What a command needs is imported when it runs, not before."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from vcapdev import __version__
from vcapdev.carry import cifiles
from vcapdev.carry import options as carry_options
from vcapdev.errors import ExitStatus, UsageError, VcapdevError
from vcapdev.gallery import answer_options, lookalike_options, mutant_options
from vcapdev.run import options as run_options
from vcapdev.scenario import options as scenario_options
from vcapdev.serve import options as serve_options
from vcapdev.streams import outlive_readers
from vcapdev.usage import Parser
from vcapdev.watch import options as watch_options

Handler = Callable[[argparse.Namespace], int]

_WITH_GUESTS = ("run", "scenario", "matrix", "watch", "mutants", "lookalikes", "answer", "doctor")
#: Options that are handed to all processes of a run as variables of the environment (vcapdev.image.offline).
_FOR_ALL = {"offline": "VCAPDEV_OFFLINE", "lock": "VCAPDEV_LOCK"}
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None, grammar: argparse.ArgumentParser | None = None) -> int:
    """Run one command; its exit status, see :class:`vcapdev.errors.ExitStatus`.

    :param grammar: what :func:`parser` gives, from who has it already.
    """
    outlive_readers()
    args = (grammar or parser()).parse_args(argv)
    handler: Handler = args.handler
    for name, variable in _FOR_ALL.items():
        if getattr(args, name, None) is not None:
            os.environ[variable] = str(getattr(args, name).absolute())
    before = {number: signal.signal(number, _interrupt) for number in _ENDING}
    try:
        status = int(handler(args))
        sys.stdout.flush()
        return status
    except VcapdevError as error:
        return _say(error, int(error.exit_status), args.verbose)
    except KeyboardInterrupt as error:
        return _say(error, int(ExitStatus.GUEST), args.verbose)
    except Exception as error:
        return _say(error, int(ExitStatus.DEFECT), True)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(prog="vcapdev", description=sys.modules["vcapdev"].__doc__)
    top.add_argument("-v", "--verbose", action="store_true", help="show where an error came from")
    top.add_argument("--version", action="version", version=f"vcapdev {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS,
                         help="show where an error came from")  # fmt: skip
        sub.set_defaults(handler=handler)
        if name in _WITH_GUESTS and name not in ("run", "doctor"):
            sub.add_argument("--lock", type=Path, metavar="FILE",
                             help="take exactly the packages of this lock file")  # fmt: skip
        if name in _WITH_GUESTS:
            sub.add_argument("--offline", type=Path, metavar="FILE",
                             help="take everything from this bundle, nothing from the network")  # fmt: skip
        return sub

    run = command("run", _run, "boot a guest, capture in it, judge every DMA write")
    run_options.add_arguments(run)
    run.epilog = _statuses()
    run.formatter_class = argparse.RawDescriptionHelpFormatter
    serve = command("serve", _serve, "be the card for a QEMU that somebody else starts")
    serve_options.add_arguments(serve)
    look = command("look", _look, "a drgn prompt at a finding that --on-violation bundle kept")
    look.add_argument("bundle", type=Path, metavar="BUNDLE", help="the directory")
    altered = command("mutants", _mutants, "play altered drivers, and tell which were caught, and where")
    mutant_options.add_arguments(altered)
    carried = command("bundle", _bundle, "write all that guests are made of to a file, for --offline")
    carry_options.add_arguments(carried)
    pinning = command("lock", _lock, "write which packages guests are made of, for --lock")
    pinning.add_argument("path", type=Path, metavar="FILE", help="where to")
    pinning.add_argument("--kernel", action="append", default=[], metavar="NAME",
                         help="image recipe; repeatable (bookworm-6.1)")  # fmt: skip
    pinning.add_argument("--refresh", action="store_true", help="ask the mirror for newer packages")
    ready = command("ci", _ci, "ready files for CI servers")
    cifiles.add_arguments(ready)
    command("doctor", _doctor, "what was found on this machine, what was chosen, what is missing")
    cache = command("cache", _cache, "what the per-user cache holds")
    cache.add_argument("action", choices=("list", "prune"), metavar="{list,prune}",
                       help="print it, the largest first; or remove what no run needs any more")  # fmt: skip
    cache.add_argument("--all", action="store_true", help="prune: remove everything that is not in use")
    listing = command("list", _list, "names that run and serve accept")
    listing.add_argument("what", choices=("boards", "recipes", "mutants"), metavar="{boards,recipes,mutants}",
                         help="cards to be, kernels to test, altered drivers")  # fmt: skip
    scenes = command("lookalikes", _lookalikes, "play legitimate scenes: the checker must stay silent")
    lookalike_options.add_arguments(scenes)
    played = command("scenario", _scenario, "play scenario files, and write results that people's tools read")
    scenario_options.add_arguments(played)
    grid = command("matrix", _matrix, "play scenarios on several kernels: the grid, and the first bad one")
    scenario_options.add_arguments(grid, matrix=True)
    loop = command("watch", _watch, "build a module whenever its sources change, and play scenarios with it")
    watch_options.add_arguments(loop)
    question = command("answer", _answer, "is get_user_pages() enough? play the matrix, write the answer")
    answer_options.add_arguments(question)
    command("version", _version, "the version of vcapdev")
    return top


def _statuses() -> str:
    return "exit status:\n" + "\n".join(f"  {status:>2}  {status.meaning}" for status in ExitStatus)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Every request to end takes the path of Ctrl-C, once: the clean-up that follows is not cut short."""
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


def _say(error: BaseException, status: int, verbose: bool) -> int:
    if verbose:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, KeyboardInterrupt):
        kept = " ".join(getattr(error, "__notes__", ())) or "no report was written"
        text = f"interrupted; nothing was left running, {kept}"
    elif isinstance(error, VcapdevError):
        text = str(error)
    else:
        text = f"a defect of vcapdev: {type(error).__name__}: {error}; please report it with the lines above"
    print(f"vcapdev: {text}", file=sys.stderr)
    return status


def _run(args: argparse.Namespace) -> int:
    options = run_options.from_arguments(args)
    from vcapdev.run.command import run

    return run(options)


def _serve(args: argparse.Namespace) -> int:
    options = serve_options.from_arguments(args)
    from vcapdev.serve.command import serve

    return serve(options)


def _look(args: argparse.Namespace) -> int:
    from vcapdev.evidence.look import look

    return look(args.bundle)


def _mutants(args: argparse.Namespace) -> int:
    from vcapdev.gallery.mutants import run

    return run(mutant_options.from_arguments(args))


def _bundle(args: argparse.Namespace) -> int:
    from vcapdev.carry.command import run

    return run(carry_options.from_arguments(args))


def _lock(args: argparse.Namespace) -> int:
    from vcapdev.carry.command import lock

    return lock(args.path, tuple(dict.fromkeys(args.kernel)) or ("bookworm-6.1",), refresh=args.refresh)


def _ci(args: argparse.Namespace) -> int:
    return cifiles.run(args.what, args.path)


def _doctor(_args: argparse.Namespace) -> int:
    from vcapdev.doctor import doctor

    return doctor()


def _cache(args: argparse.Namespace) -> int:
    from vcapdev.run.listing import cache_listing, cache_prune

    if args.all and args.action == "list":
        raise UsageError("cache list --all: --all is for prune; leave it out")
    for line in cache_listing() if args.action == "list" else cache_prune(args.all):
        print(line)
    return ExitStatus.CLEAN


def _list(args: argparse.Namespace) -> int:
    from vcapdev.run.listing import listing

    for name, text in listing(args.what):
        print(f"{name:<16} {text}".rstrip())
    return ExitStatus.CLEAN


def _lookalikes(args: argparse.Namespace) -> int:
    from vcapdev.gallery.lookalikes import from_arguments, lookalikes

    return lookalikes(from_arguments(args))


def _answer(args: argparse.Namespace) -> int:
    from vcapdev.gallery.answer import answer

    return answer(answer_options.from_arguments(args))


def _scenario(args: argparse.Namespace) -> int:
    from vcapdev.scenario.command import run

    return run(scenario_options.from_arguments(args))


def _matrix(args: argparse.Namespace) -> int:
    from vcapdev.scenario.command import run

    return run(scenario_options.from_arguments(args, matrix=True))


def _watch(args: argparse.Namespace) -> int:
    from vcapdev.watch.command import run

    return run(watch_options.from_arguments(args))


def _version(_args: argparse.Namespace) -> int:
    print(f"vcapdev {__version__}")
    return ExitStatus.CLEAN
