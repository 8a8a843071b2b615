"""Attaching: what is not there, or cannot be worked with, is said at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from simfl.cluster import attaching
from simfl.cluster.attaching import find_cluster, refuse_open, require_cluster
from simfl.cluster.connect import _attach, chosen_address, connect
from simfl.errors import ClusterError

ADDRESS = "192.0.2.7:6379"


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_address_where_nobody_listens_is_an_error_within_seconds() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ClusterError, match=rf"nothing answers at cluster\.address '{address}'"):
            require_cluster(address)


def test_one_who_listens_and_never_answers_is_no_cluster(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simfl.cluster.authentication._ANSWER_S", 0.2)
    with pytest.raises(ClusterError, match=rf"{listening}' does not answer as a Ray cluster does"):
        require_cluster(listening)


def test_what_speaks_tls_is_left_to_ray(listening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    require_cluster(listening)


def test_an_open_cluster_is_refused_with_a_token_and_taken_without(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attaching, "ask", lambda address: "OK")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    require_cluster(listening)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ClusterError, match="asks for no token, and this process does"):
        require_cluster(listening)


def test_a_cluster_that_refuses_the_token_is_refused(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attaching, "ask", lambda address: "UNAUTHENTICATED")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ClusterError, match="asks for a token: RAY_AUTH_MODE is 'disabled' here"):
        require_cluster(listening)


def test_what_to_do_about_an_open_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ClusterError) as raised:
        refuse_open(ADDRESS, "OK")
    line = str(raised.value)
    assert "\n" not in line
    for part in (ADDRESS, "RAY_AUTH_MODE=token", "on each of its machines", "docs/security.md"):
        assert part in line


def test_an_address_of_ray_client_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(ClusterError, match=r"'ray://head:10001'.*HOST:6379.*ray job submit"):
        connect(address="ray://head:10001", num_cpus=1, dashboard=False)


def test_auto_where_nothing_runs_is_left_to_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attaching, "gcs_addresses", set)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert find_cluster() is None
    require_cluster("auto")


def test_the_host_that_a_scenario_names_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The user's token is sent there."""
    assert chosen_address(None, "10.0.0.5:6379\x1b") == "10.0.0.5:6379\x1b"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "cluster.address names the Ray cluster at 10.0.0.5:6379'\\x1b'; your Ray token"
    )
    assert chosen_address("127.0.0.1:6379", "10.0.0.5:6379") == "127.0.0.1:6379"
    assert chosen_address(None, "local") == "local"
    assert chosen_address(None, None) is None
    assert capsys.readouterr().err == ""


def test_auto_is_the_cluster_that_runs_here_and_of_several_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:2\n")
    monkeypatch.setattr(attaching, "gcs_addresses", lambda: {"10.0.0.1:1"})
    assert find_cluster() == "10.0.0.1:1"
    monkeypatch.setattr(attaching, "gcs_addresses", lambda: {"10.0.0.1:1", "10.0.0.1:2"})
    assert find_cluster() == "10.0.0.1:2"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:3")
    assert find_cluster() == "10.0.0.1:3"


def test_auto_is_refused_as_soon_as_an_address_where_nobody_answers(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would wait for minutes: a control service that was stopped listens still."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("simfl.cluster.authentication._ANSWER_S", 0.2)
    monkeypatch.setattr(attaching, "gcs_addresses", lambda: {listening})
    with pytest.raises(ClusterError, match=rf"{listening}' does not answer as a Ray cluster does"):
        _attach(None, "auto", job_config=None)
