# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets are owner-only and removed, and what is in use by others is left alone."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from vcapdev.errors import SetupError, UsageError
from vcapdev.serve.sockets import adopt, listening
from vcapdev.vfiouser.sockets import is_listening


def test_owner_only_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(path, "--control"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    with listening(path, "--control"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        listening(path, "--control"),
        pytest.raises(UsageError, match="in use by another process"),
        listening(path, "--control"),
    ):
        pass
    with listening(path, "--control"):
        pass


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(UsageError, match="no socket"), listening(path, "--socket-path"):
        pass
    assert path.read_text() == "precious"


def test_a_socket_that_somebody_put_in_our_place_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(path, "--control"):
        path.unlink()
        path.write_text("theirs")
    assert path.read_text() == "theirs"


def test_refusals_name_option_and_path(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    with (
        pytest.raises(UsageError, match=r"--socket-path: .*longer than 107"),
        listening(long, "--socket-path"),
    ):
        pass
    with (
        pytest.raises(SetupError, match=r"--control .*No such file"),
        listening(tmp_path / "no" / "s", "--control"),
    ):
        pass


def test_adopted_descriptors_tell_what_they_are() -> None:
    one, other = socket.socketpair()
    os.set_inheritable(one.fileno(), True)
    with other, adopt(one.detach()) as adopted:
        assert not is_listening(adopted)
        assert not os.get_inheritable(adopted.fileno())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        with adopt(listener.detach()) as adopted:
            assert is_listening(adopted)


def test_other_descriptors_are_refused() -> None:
    with pytest.raises(UsageError, match="--fd 9999"):
        adopt(9999)
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with datagrams, pytest.raises(UsageError, match="stream"):
        adopt(datagrams.fileno())
