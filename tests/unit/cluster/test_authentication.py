"""Ray's token, and who is let in without one; real clusters are in the integration tests."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from simfl.cluster import authentication
from simfl.cluster.authentication import (
    address_warning,
    is_open,
    keep_token_private,
    mode_warning,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_for_its_owner_alone(home: Path) -> None:
    keep_token_private()
    path = home / ".ray" / "auth_token"
    assert mode(path) == 0o600
    assert len(path.read_text()) == 64


def test_a_token_that_is_there_stays_and_is_closed_to_others(home: Path) -> None:
    """Ray makes it for all to read."""
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("mine")
    path.chmod(0o644)
    keep_token_private()
    assert (path.read_text(), mode(path)) == ("mine", 0o600)


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_elsewhere_is_the_users_own_affair(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "x")
    keep_token_private()
    assert not (home / ".ray").exists()


def test_a_home_that_cannot_be_written_is_left_to_ray(home: Path) -> None:
    (home / ".ray").write_text("a file where the folder belongs")
    keep_token_private()


@pytest.mark.parametrize("value", ["disabled", "DISABLED", "off", ""])
def test_anything_but_token_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Ray 2.60 takes any other word for disabled; so a misspelt one is told, too."""
    monkeypatch.setenv("RAY_AUTH_MODE", value)
    line = mode_warning()
    assert line is not None
    assert "\n" not in line
    assert f"RAY_AUTH_MODE is {value!r}" in line
    assert "unset it" in line


@pytest.mark.parametrize("value", ["token", "TOKEN", None])
def test_tokens_are_nothing_to_tell_of(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", value)
    assert mode_warning() is None


class _Answering(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers everybody with nothing."""

    def service(self, details: object) -> object:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


@pytest.fixture
def answering() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[_Answering()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_cluster_that_answers_without_a_token_is_open(answering: str) -> None:
    assert is_open(answering)


def test_the_warning_says_where_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "is_open", lambda address: True)
    line = address_warning("192.0.2.7:6379")
    assert line is not None
    assert "\n" not in line
    for part in ("192.0.2.7:6379", "asks for no token", "RAY_AUTH_MODE=token"):
        assert part in line


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "[::1]:6379", "localhost:6379", ""])
def test_loopback_and_what_is_not_known_draw_none(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(authentication, "is_open", lambda address: True)
    assert address_warning(address) is None


def test_where_nobody_answers_nothing_is_claimed() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        assert not is_open(f"127.0.0.1:{bound.getsockname()[1]}")
