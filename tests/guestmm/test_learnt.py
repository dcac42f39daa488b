# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what is kept of kernels: as if worked out anew, damaged files are none, and an end."""

import pytest

from vcapdev.guestmm import learnt
from vcapdev.guestmm.btf import Btf, BtfError
from vcapdev.guestmm.learnt import remembered

TABLE = bytes(range(256)) * 1024  # large enough to be worth a file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path))
    return tmp_path / learnt.DIRECTORY


class Worker:
    """Works something out, and counts how often."""

    def __init__(self, result=b"result"):
        self.result, self.calls = result, 0

    def __call__(self):
        self.calls += 1
        return self.result


def test_the_same_table_is_worked_out_once(cache):
    work = Worker()
    assert remembered("kind", [TABLE, b"a"], work) == remembered("kind", [TABLE, b"a"], work) == b"result"
    assert work.calls == 1
    assert len(list(cache.iterdir())) == 1


def test_another_table_or_another_kind_is_another_one():
    work = Worker()
    for kind, parts in (("k", [TABLE, b"ab"]), ("k", [TABLE + b"a", b"b"]), ("j", [TABLE, b"ab"])):
        remembered(kind, parts, work)
    assert work.calls == 3


def test_small_tables_leave_no_file(cache):
    remembered("kind", [b"small"], Worker())
    assert not cache.exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + b"X"])
def test_a_damaged_file_is_replaced(cache, damage):
    work = Worker()
    remembered("kind", [TABLE], work)
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert remembered("kind", [TABLE], work) == b"result"
    assert remembered("kind", [TABLE], work) == b"result"
    assert work.calls == 2


def test_what_cannot_be_kept_is_worked_out_each_time(cache):
    cache.parent.joinpath(learnt.DIRECTORY).write_text("a file in the way")
    work = Worker()
    assert remembered("kind", [TABLE], work) == remembered("kind", [TABLE], work) == b"result"
    assert work.calls == 2


def test_the_number_of_files_is_bounded(cache):
    for i in range(learnt._MOST_FILES + 5):
        remembered("kind", [TABLE, b"%d" % i], Worker())
    assert len(list(cache.iterdir())) == learnt._MOST_FILES


def test_an_error_is_not_kept(cache):
    def fail():
        raise BtfError("no")

    with pytest.raises(BtfError):
        remembered("kind", [TABLE], fail)
    assert not cache.exists()


def test_btf_with_remembered_starts_is_the_same(guest):
    data = guest.btf.build()
    first = Btf(data)
    second = Btf(data, starts=first.starts)
    assert len(first) == len(second)
    for name in ("page", "pageflags", "folio", "nothing"):
        assert first.find(name) == second.find(name)


def test_starts_outside_the_types_are_refused(guest):
    with pytest.raises(BtfError, match="outside"):
        Btf(guest.btf.build(), starts=b"\0\0\0\0" + b"\xff" * 4)
