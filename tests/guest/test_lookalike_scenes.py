# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the checker from crying wolf, and the scenes from being empty: a sample of them in one boot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vcapdev.gallery.lookalike import Lookalike, Result, judge
from vcapdev.gallery.lookalike_scenes import all_lookalikes
from vcapdev.gallery.lookalikes import with_modules
from vcapdev.gallery.stage import Stage
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared

pytestmark = pytest.mark.guest

SAMPLE = (
    "shared-edges",
    "unmapped-by-reclaim",
    "munmap",
    "fork-parent",
    "ext4-file",
    "thp",
    "hugetlb",
    "kill",
)


@pytest.fixture(scope="module")
def stage(prepared: Prepared) -> Iterator[Stage]:
    with Stage(RunOptions(), prepared) as stage:
        yield stage


@pytest.mark.parametrize(
    "lookalike", [one for one in all_lookalikes() if one.name in SAMPLE], ids=lambda one: one.name
)
def test_silent_and_really_there(stage: Stage, prepared: Prepared, lookalike: Lookalike) -> None:
    played = judge(lookalike, stage.run_scene(with_modules(lookalike, prepared)))
    assert (played.result, played.why) == (Result.SILENT, played.why)
    assert played.pages > 1000
    assert played.triples
    assert stage.boots == 1
