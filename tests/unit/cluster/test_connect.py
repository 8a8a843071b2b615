"""Attaching: what is not there is said at once."""

from __future__ import annotations

import socket

import pytest

from simfl.cluster.connect import _require_listener, connect
from simfl.errors import ClusterError


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_an_address_where_nobody_listens_is_an_error_within_seconds() -> None:
    with pytest.raises(ClusterError, match=r"nothing answers at cluster\.address '127.0.0.1:"):
        _require_listener(f"127.0.0.1:{free_port()}")


def test_an_address_where_somebody_listens_is_let_through() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        _require_listener(f"127.0.0.1:{server.getsockname()[1]}")


def test_an_address_of_ray_client_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(ClusterError, match=r"'ray://head:10001'.*HOST:6379.*ray job submit"):
        connect(address="ray://head:10001", num_cpus=1, dashboard=False)


def test_auto_is_left_to_ray() -> None:
    _require_listener("auto")
