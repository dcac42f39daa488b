# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets: owner-only, no stale one in the way, only our own removed; inherited ones of either kind."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading

import pytest

from vcapdev.vfiouser import adopt_socket, is_listening, listening_socket


def refused(expect, path):
    with pytest.raises(OSError, match=r"Errno") as caught, listening_socket(path):
        pass
    assert caught.value.errno == expect
    return caught.value.strerror


def test_owner_only_and_removed(tmp_path):
    path = tmp_path / "card.sock"
    before = os.umask(0)
    try:
        with listening_socket(path) as sock:
            assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
            assert is_listening(sock)
            assert os.listdir(tmp_path) == ["card.sock"]
    finally:
        os.umask(before)
    assert not path.exists()


def test_a_stale_one_is_replaced(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with listening_socket(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_live_one_is_not(tmp_path):
    path = tmp_path / "s"
    with listening_socket(path) as first:
        assert "in use" in refused(errno.EADDRINUSE, path)
        assert path.exists()
        first.accept()[0].close()


def test_full_backlog_is_alive(tmp_path):
    path = tmp_path / "s"
    with listening_socket(path, backlog=0):
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(str(path))
        refused(errno.EADDRINUSE, path)
        for sock in waiting:
            sock.close()


def test_no_socket(tmp_path):
    path = tmp_path / "s"
    path.write_text("precious")
    refused(errno.EEXIST, path)
    assert path.read_text() == "precious"


def test_a_symlink_is_no_socket(tmp_path):
    with listening_socket(tmp_path / "real"):
        (tmp_path / "link").symlink_to("real")
        refused(errno.EEXIST, tmp_path / "link")


def test_too_long(tmp_path):
    assert "shorter" in refused(errno.ENAMETOOLONG, tmp_path / ("x" * 120))


def test_no_directory(tmp_path):
    refused(errno.ENOENT, tmp_path / "missing" / "s")


def test_another_ones_is_not_removed(tmp_path):
    path = tmp_path / "s"
    with listening_socket(path):
        path.unlink()
        path.write_text("somebody else's")
    assert path.exists()


def test_only_one_of_many_at_once_gets_it(tmp_path):
    """With a stale socket in the way of all of them."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    outcomes = []
    all_tried = threading.Barrier(8)

    def start():
        try:
            with listening_socket(path):
                outcomes.append("mine")
                all_tried.wait(60)
        except OSError as error:
            outcomes.append(error.errno)
            all_tried.wait(60)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [errno.EADDRINUSE] * 7 + ["mine"]


def test_adopting(tmp_path):
    with listening_socket(tmp_path / "s") as listener:
        adopted = adopt_socket(os.dup(listener.fileno()))
        assert is_listening(adopted)
        adopted.close()
    ours, theirs = socket.socketpair()
    adopted = adopt_socket(theirs.detach())
    assert not is_listening(adopted)
    assert not adopted.get_inheritable()
    adopted.close()
    ours.close()


def test_what_cannot_be_adopted(tmp_path):
    reader, writer = os.pipe()
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    internet = socket.socket(socket.AF_INET)
    cases = [(reader, errno.ENOTSOCK), (12345, errno.EBADF)]
    cases += [(datagram.fileno(), errno.EPROTOTYPE), (internet.fileno(), errno.EPROTOTYPE)]
    for fd, expect in cases:
        with pytest.raises(OSError, match=r"Errno") as caught:
            adopt_socket(fd)
        assert caught.value.errno == expect
    os.close(reader)
    os.close(writer)
    datagram.close()
    internet.close()
