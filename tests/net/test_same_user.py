"""Whose process is at the other end of a Unix socket."""

import os
import socket

import pytest

from warpfleet.net.same_user import is_of_this_user


def test_the_kernel_tells_a_user_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = socket.socketpair()
    with near, far:
        assert is_of_this_user(near)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert not is_of_this_user(far)
