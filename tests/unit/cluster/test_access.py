"""Access to a cluster, with a token or without; real clusters are in the integration tests."""

from __future__ import annotations

import socket
import stat
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from simfl.cluster import access
from simfl.cluster.access import (
    address_warning,
    ask,
    find_cluster,
    keep_token_private,
    mode_warning,
    refusal_fault,
    refuse_open,
    require_cluster,
    token_fault,
)
from simfl.errors import ClusterError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_is_readable_by_its_owner_only(home: Path) -> None:
    keep_token_private()
    path = home / ".ray" / "auth_token"
    assert mode(path) == 0o600
    assert len(path.read_text()) == 64


def test_an_existing_token_is_kept_and_made_private(home: Path) -> None:
    """Ray creates it readable by all users."""
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("mine")
    path.chmod(0o644)
    keep_token_private()
    assert (path.read_text(), mode(path)) == ("mine", 0o600)


def test_an_empty_token_file_is_completed(home: Path) -> None:
    """A process may be killed between creating the file and writing it."""
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.touch()
    keep_token_private()
    assert (len(path.read_text()), mode(path)) == (64, 0o600)


def test_simultaneous_first_runs_use_the_same_token(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    found: list[str] = []
    barrier = threading.Barrier(8)

    def come() -> None:
        barrier.wait()
        keep_token_private()
        found.append(path.read_text())

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found[0]) == 64


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_elsewhere_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "x")
    keep_token_private()
    assert not (home / ".ray").exists()


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_an_empty_variable_counts_as_unset_as_in_ray(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "")
    keep_token_private()
    assert mode(home / ".ray" / "auth_token") == 0o600


def test_a_home_that_cannot_be_written_is_left_to_ray(home: Path) -> None:
    (home / ".ray").write_text("a file where the folder belongs")
    keep_token_private()
    assert (home / ".ray").read_text() == "a file where the folder belongs"


@pytest.mark.parametrize("value", ["disabled", "DISABLED", "off", ""])
def test_any_mode_but_token_gives_a_warning(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Ray 2.60 treats any other value as disabled, including misspelt ones."""
    monkeypatch.setenv("RAY_AUTH_MODE", value)
    line = mode_warning()
    assert line is not None
    assert "\n" not in line
    assert f"RAY_AUTH_MODE is {value!r}" in line
    assert "unset it" in line


@pytest.mark.parametrize("value", ["token", "TOKEN", None])
def test_token_mode_gives_no_warning(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", value)
    assert mode_warning() is None


TOKEN = "0123456789abcdef"


class _Asking(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers requests with the token by an empty message, as a Ray cluster does."""

    def service(self, details: grpc.HandlerCallDetails) -> object:
        is_known = ("authorization", f"Bearer {TOKEN}") in details.invocation_metadata

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if not is_known:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def asking() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[_Asking()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_the_status_shows_whether_a_cluster_requires_a_token(asking: str) -> None:
    assert (ask(asking), ask(asking, token=TOKEN)) == ("UNAUTHENTICATED", "OK")


def test_the_status_is_unavailable_if_nothing_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        assert ask(f"127.0.0.1:{bound.getsockname()[1]}") == "UNAVAILABLE"


def test_the_right_token_is_accepted_from_each_place(
    asking: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray strips white space; the variables take precedence over the home folder."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    keep_token_private()
    fault = refusal_fault(asking)
    assert fault is not None
    assert f"it is not the one in {home / '.ray' / 'auth_token'}; put the cluster's there" in fault
    (home / "elsewhere").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "elsewhere"))
    assert refusal_fault(asking) is None
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    assert "it is not the one in RAY_AUTH_TOKEN;" in (refusal_fault(asking) or "")
    monkeypatch.setenv("RAY_AUTH_TOKEN", f" {TOKEN} ")
    assert refusal_fault(asking) is None


@pytest.mark.parametrize("content", [None, "", "t\xf6ken", "to\0ken"])
def test_a_token_that_cannot_be_sent_is_reported(
    home: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """Ray would raise for the first two, and gRPC would abort the process for the others."""
    path = home / "token"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token_fault() is None
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert f"none can be read in {path}; put it there" in (token_fault() or "")


@pytest.mark.parametrize("mode", ["disabled", None])
def test_a_missing_token_is_reported_if_the_cluster_requires_one(
    monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    shown = "'disabled'" if mode else "not set"
    assert f"RAY_AUTH_MODE is {shown} here; set it to 'token'" in (refusal_fault("x:1") or "")


def test_the_warning_names_place_reason_and_remedy() -> None:
    line = address_warning("192.0.2.7:6379", "OK")
    assert line is not None
    assert "\n" not in line
    for part in ("192.0.2.7:6379", "asks for no token", "RAY_AUTH_MODE=token"):
        assert part in line


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("127.0.0.1:6379", "OK"),
        ("[::1]:6379", "OK"),
        ("localhost:6379", "OK"),
        ("192.0.2.7:6379", "UNAUTHENTICATED"),
        ("192.0.2.7:6379", "DEADLINE_EXCEEDED"),
    ],
)
def test_loopback_and_unclear_statuses_give_no_warning(address: str, answer: str) -> None:
    assert address_warning(address, answer) is None


ADDRESS = "192.0.2.7:6379"


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_address_where_nothing_listens_is_an_error_within_seconds() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ClusterError, match=rf"nothing answers at cluster\.address '{address}'"):
            require_cluster(address)


def test_a_listener_that_never_answers_is_no_cluster(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simfl.cluster.access._ANSWER_S", 0.2)
    with pytest.raises(ClusterError, match=rf"{listening}' does not answer as a Ray cluster does"):
        require_cluster(listening)


def test_tls_is_left_to_ray(listening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    require_cluster(listening)


def test_an_open_cluster_is_refused_with_a_token_and_accepted_without(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "ask", lambda address: "OK")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    require_cluster(listening)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ClusterError, match="asks for no token, but this process uses one"):
        require_cluster(listening)


def test_a_cluster_that_refuses_the_token_is_refused(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "ask", lambda address: "UNAUTHENTICATED")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ClusterError, match="asks for a token: RAY_AUTH_MODE is 'disabled' here"):
        require_cluster(listening)


def test_the_remedy_for_an_open_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ClusterError) as raised:
        refuse_open(ADDRESS, "OK")
    line = str(raised.value)
    assert "\n" not in line
    for part in (ADDRESS, "RAY_AUTH_MODE=token", "on all of its machines", "docs/security.md"):
        assert part in line


def test_auto_is_left_to_ray_if_no_cluster_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "gcs_addresses", set)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert find_cluster() is None
    require_cluster("auto")


def test_auto_is_the_local_cluster_or_the_last_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:2\n")
    monkeypatch.setattr(access, "gcs_addresses", lambda: {"10.0.0.1:1"})
    assert find_cluster() == "10.0.0.1:1"
    monkeypatch.setattr(access, "gcs_addresses", lambda: {"10.0.0.1:1", "10.0.0.1:2"})
    assert find_cluster() == "10.0.0.1:2"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:3")
    assert find_cluster() == "10.0.0.1:3"
