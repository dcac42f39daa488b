# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of run: the documented defaults, and one clear line for everything that cannot be."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from vcapdev.bt878.expected import FIELDS, expected_frame
from vcapdev.bt878.timing import NORMS
from vcapdev.errors import UsageError
from vcapdev.report.picture import FORMATS as PICTURES
from vcapdev.run import options
from vcapdev.run.options import FORMATS, RunOptions, add_arguments, from_arguments
from vcapdev.run.pair import serve_options


def parse(*words: str) -> RunOptions:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(words))


def test_the_defaults_are_those_of_the_issue() -> None:
    options = parse()
    assert options == RunOptions()
    assert (options.kernel, options.norm, options.size, options.format) == (
        "bookworm-6.1",
        "PAL",
        "768x576",
        "YUYV",
    )
    assert (options.io, options.frames, options.swap, options.pressure) == ("userptr", 150, "disk", "both")


def test_words_become_options(tmp_path: Path) -> None:
    module = tmp_path / "bttv.ko"
    module.touch()
    options = parse(
        *("--norm", "ntsc", "--size", "640x480", "--format", "rgb4", "--io", "MMAP", "--swap", "zram"),
        *("--pressure", "hog", "--module", str(module), "--qemu-opts", "-device 'a b'", "--revision", "0x02"),
    )
    assert (options.norm, options.width, options.height, options.format) == ("NTSC", 640, 480, "RGB4")
    assert (options.io, options.swap, options.pressure) == ("mmap", "zram", "hog")
    assert options.modules == (module,)
    assert options.qemu_opts == ("-device", "a b")
    assert options.revision == 2


def test_without_swap_there_is_no_pressure_by_default() -> None:
    assert parse("--swap", "none").pressure == "none"


def test_the_fast_clock_brings_a_pool_that_does_not_hold_it_up_and_memory_for_it() -> None:
    """200 ms of rest at 300 frames a second are 60 buffers, besides those that are queued."""
    fast = parse("--clock", "fast")
    assert fast.pool >= 60 + fast.buffers
    assert (fast.memory - RunOptions().memory) << 20 >= (fast.pool - RunOptions().pool) * 768 * 576 * 2
    assert parse("--clock", "fast", "--format", "RGB4").memory > fast.memory
    assert parse("--format", "RGB4").memory == RunOptions().memory
    own = parse("--clock", "fast", "--pool", "256", "--memory", "300")
    assert (own.pool, own.memory) == (256, 300)
    kernels = parse("--clock", "fast", "--io", "mmap")
    assert (kernels.pool, kernels.memory) == (RunOptions().pool, RunOptions().memory)
    assert parse("--buffers", "16").pool > 16


def test_behind_a_viommu_the_device_process_is_told_where_ram_lies(tmp_path: Path) -> None:
    options = parse("--iommu", "--memory", "384")
    assert serve_options(options, tmp_path).iommu == "384M"
    assert "--iommu" not in serve_options(parse(), tmp_path).command_line()


def test_settings_are_plain_json(tmp_path: Path) -> None:
    settings = parse("--report", str(tmp_path)).settings()
    assert json.loads(json.dumps(settings)) == settings


def test_every_format_of_the_driver_has_a_picture() -> None:
    assert set(FORMATS) <= set(PICTURES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "big"), "768x576"),
        (("--size", "1920x1080"), "924x576"),
        (("--format", "MJPG"), "no such format"),
        (("--frames", "0"), "--frames 0"),
        (("--buffers", "8", "--pool", "8"), "more than the 8"),
        (("--pool", "257"), "from 2 to 256"),
        (("--swap", "none", "--pressure", "hog"), "needs swap"),
        (("--io", "mmap", "--pressure", "pageout"), "use --pressure hog"),
        (("--module", "/no/such.ko"), "no such file"),
        (("--kimg", "/no/such"), "no such file"),
        (("--qemu-opts", "'open"), "--qemu-opts"),
        (("--revision", "3"), "0x11 and 0x02"),
        (("--memory", "20000"), "16384"),
    ],
)
def test_refusals(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(*words)


def test_a_mutant_brings_what_it_needs() -> None:
    assert parse("--mutant", "no-dirty").clean
    assert not parse("--mutant", "early-unpin").clean
    assert not parse("--mutant", "unaltered").clean
    with pytest.raises(UsageError, match="only with --io userptr"):
        parse("--mutant", "early-unpin", "--io", "mmap")
    with pytest.raises(UsageError, match="no altered driver 'early-unpn'"):
        parse("--mutant", "early-unpn")


def test_the_mutant_none_is_the_stock_driver() -> None:
    assert parse("--mutant", "none") == RunOptions()


@pytest.mark.parametrize("option", ["--kdir", "--kimg"])
def test_a_mutant_is_for_packaged_kernels(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="leave out --kdir and --kimg"):
        parse("--mutant", "early-unpin", option, str(tmp_path / "file"))


def test_own_files_are_named_so_that_they_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bzImage").touch()
    monkeypatch.chdir(tmp_path)
    assert parse("--kimg", "bzImage").kimg == tmp_path / "bzImage"
    assert parse("--kdir", "linux").kdir == tmp_path / "linux"
    assert parse().kdir is None


def test_mutant_and_module_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.ko").touch()
    with pytest.raises(UsageError, match="give one of them"):
        parse("--mutant", "early-unpin", "--module", str(tmp_path / "a.ko"))


def test_choices_are_what_the_card_has() -> None:
    """They are written down a second time so that ``--help`` need not load the card."""
    assert tuple(NORMS) == options.NORMS
    assert options.FIELDS == FIELDS
    for fourcc in options.FORMATS:
        for field in options.FIELDS:
            expected_frame("PAL", fourcc, 64, 64, field)


def test_what_happens_at_a_violation() -> None:
    parsed = parse("--on-violation", "bundle", "--bundle", "kept", "--bundle-size", "128")
    assert (parsed.on_violation, parsed.bundle, parsed.bundle_size) == ("bundle", Path("kept"), 128)
    with pytest.raises(UsageError, match="--bundle-size 1: give a number from 64"):
        parse("--on-violation", "bundle", "--bundle-size", "1")
    with pytest.raises(UsageError, match="--shell has the terminal"):
        parse("--on-violation", "stop", "--shell")


def test_the_seed_of_an_audit_is_drawn_unless_given() -> None:
    assert parse("--audit", "1%", "--audit-seed", "9").audit_seed == 9
    assert parse("--audit", "1%").audit == 0.01
    assert len({parse("--audit", "0.5").audit_seed for _ in range(4)}) > 1
    assert parse().audit_seed == 0


@pytest.mark.parametrize(
    ("words", "cold"),
    [
        ((), False),
        (("--swap", "zram", "--append", "quiet", "--iommu"), False),
        (("--cold",), True),
        (("--shell",), True),
        (("--mutant", "leak"), True),
        (("--qemu-opts=-device edu",), True),
    ],
)
def test_only_guests_of_the_recipes_own_making_start_from_a_snapshot(
    words: tuple[str, ...], cold: bool
) -> None:
    assert parse(*words).cold is cold
