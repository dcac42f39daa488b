# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the keys of @vcapdev.guest: what is taken, and that what is not costs one clear line."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import vcapdev
from vcapdev.bt878.faults import FAULTS
from vcapdev.errors import UsageError
from vcapdev.testing.capture import CaptureKeywords, CaptureOptions
from vcapdev.testing.complaints import Complaint
from vcapdev.testing.config import GuestConfig, GuestOptions, config_from
from vcapdev.testing.pressure import KINDS


def test_the_example_of_the_documentation() -> None:
    config = config_from({"kernel": "bookworm-6.1", "memory": "256M", "swap": "disk"})
    assert config == GuestConfig(kernel="bookworm-6.1", memory=256, swap="disk")


@pytest.mark.parametrize(("text", "mib"), [("256M", 256), ("1G", 1024), (512, 512), ("300 MiB", 300)])
def test_memory_in_the_ways_that_people_write_it(text: str | int, mib: int) -> None:
    assert config_from({"memory": text}).memory == mib


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kernal": "x"}, "@vcapdev.guest: there is no key 'kernal'; did you mean 'kernel'?"),
        ({"kernel": 6.1}, "@vcapdev.guest: kernel=6.1: give text"),
        ({"memory": "lots"}, "@vcapdev.guest: memory='lots': give MiB, or text such as '256M' or '1G'"),
        ({"memory": True}, "@vcapdev.guest: memory=True: give MiB, or text such as '256M' or '1G'"),
        ({"memory": "64M"}, "@vcapdev.guest: memory='64M': give 128M to 16G"),
        ({"swap": "tape"}, "@vcapdev.guest: swap='tape': give one of none, zram, disk"),
        ({"cpus": 0}, "@vcapdev.guest: cpus=0: give a number from 1 to 16"),
        ({"iommu": "yes"}, "@vcapdev.guest: iommu='yes': give True or False"),
        ({"clock": "slow"}, "@vcapdev.guest: clock='slow': give one of paced, real, fast, step"),
        ({"revision": 3}, "@vcapdev.guest: revision=3: the chip was made as 0x11 and 0x02"),
        ({"modules": "a.ko"}, "@vcapdev.guest: modules='a.ko': give a list of files"),
        ({"modules": ["a.ko"]}, "@vcapdev.guest: modules=['a.ko']: a.ko is no file"),
        ({"parameters": "debug=1"}, "@vcapdev.guest: parameters='debug=1': give a mapping of modules"),
        ({"allow": "lockdep"}, "@vcapdev.guest: allow='lockdep': give a list of texts"),
        ({"allow": ["lockdpe"]}, "'lockdpe' is no kind of complaint and no rule; did you mean 'lockdep'?"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        config_from(options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_ways_to_replace_the_driver_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "bttv.ko").write_bytes(b"")
    with pytest.raises(UsageError, match="mutant and modules both replace the driver"):
        config_from({"mutant": "leak", "modules": [tmp_path / "bttv.ko"]})


def test_tests_that_differ_in_what_is_set_anew_share_a_machine() -> None:
    one = config_from(
        {
            "swap": "disk",
            "clock": "step",
            "norm": "NTSC",
            "allow": ["warning"],
            "mutant": "leak",
            "fresh": True,
        }
    )
    other = config_from({"swap": "disk", "parameters": {"bttv": "debug=1"}})
    assert one.machine == other.machine
    assert hash(one.machine) == hash(other.machine)
    assert one.machine != config_from({"swap": "zram"}).machine


def test_complaints_are_allowed_by_kind_or_by_their_title_but_never_a_death() -> None:
    lockdep = Complaint("lockdep", "WARNING: possible circular locking in bttv_irq", "", fatal=False)
    assert lockdep.allowed(["lockdep"])
    assert lockdep.allowed(["*bttv_irq*"])
    assert not lockdep.allowed(["warning", "*saa7134*"])
    assert not Complaint("panic", "Kernel panic", "", fatal=True).allowed(["panic", "*"])


def test_the_documentation_names_every_key_and_every_fault() -> None:
    text = (Path(__file__).parents[2] / "docs/pytest.md").read_text()
    words = [item.name for item in fields(GuestConfig)] + [item.name for item in fields(CaptureOptions)]
    missing = [word for word in (*words, *FAULTS, *KINDS) if f"`{word}`" not in text]
    assert missing == ["frames", "saved"]  # a capture's own first word, and a path that goes with "save"


def test_type_checkers_know_the_same_keys() -> None:
    assert set(GuestOptions.__annotations__) == {item.name for item in fields(GuestConfig)}
    assert {"frames", *CaptureKeywords.__annotations__} == {item.name for item in fields(CaptureOptions)}


def test_the_marks_check_nothing_by_themselves() -> None:
    """So that a wrong key fails the tests it concerns, not the import of their file."""
    mark = vcapdev.guest(kernal="x").mark  # type: ignore[call-arg]
    assert (mark.name, mark.kwargs) == ("vcapdev_guest", {"kernal": "x"})
    with pytest.raises(AttributeError, match="no attribute 'gast'"):
        vcapdev.gast  # noqa: B018
