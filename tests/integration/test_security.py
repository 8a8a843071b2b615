"""Who can reach a cluster that simfl starts, and what it says of one that lets anybody in."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from simfl.cluster.access import ASKS_FOR_TOKEN, IS_OPEN, ask

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux"),
]

# Starts what a run starts, says where it is, and ends when its standard input does.
HOST = """
import json, os, sys
from simfl.cluster.session import connect
with_dashboard = "RAY_AUTH_MODE" not in os.environ
connection = connect(address="local", num_cpus=1, dashboard=with_dashboard)
gcs = connection.ray.get_runtime_context().gcs_address
print(json.dumps({"gcs": gcs, "dashboard": connection.dashboard}), flush=True)
sys.stdin.read()
connection.close()
"""

# Attaches as a run does.
ATTACH = "import sys; from simfl.cluster.session import connect; \
connect(address=sys.argv[1], num_cpus=1, dashboard=False)"


QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")


@dataclass(frozen=True)
class Host:
    process: subprocess.Popen[str]
    gcs: str
    dashboard: str | None
    home: Path

    @property
    def token_file(self) -> Path:
        return self.home / ".ray" / "auth_token"


@contextmanager
def hosting(home: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    home.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(home, **variables),
    )
    try:
        yield process
    finally:
        process.communicate(timeout=60)


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Return this process's environment without what it says of Ray."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return kept | {"HOME": str(home)} | variables


def ready(process: subprocess.Popen[str], home: Path) -> Host:
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    return Host(process, said["gcs"], said["dashboard"], home)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Two clusters: as simfl starts them, and without token or loopback."""
    homes = tmp_path_factory.mktemp("homes")
    open_to_all = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    with hosting(homes / "a") as closed, hosting(homes / "b", **open_to_all) as opened:
        yield ready(closed, homes / "a"), ready(opened, homes / "b")


@pytest.fixture
def host(hosts: tuple[Host, Host]) -> Host:
    return hosts[0]


@pytest.fixture
def open_host(hosts: tuple[Host, Host]) -> Host:
    return hosts[1]


def descendants(root: int) -> set[int]:
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:  # it has ended meanwhile
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening_addresses(pids: set[int]) -> set[str]:
    """Return the addresses, in hex as the kernel writes them, at which processes listen."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            sockets |= set(re.findall(r"socket:\[(\d+)\]", target))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                addresses.add(fields[1].partition(":")[0])
    return addresses


ON_LOOPBACK = {
    "0100007F",  # 127.0.0.1
    "0000000000000000FFFF00000100007F",  # the same, mapped into IPv6
    "00000000000000000000000001000000",  # ::1
}


def test_a_local_cluster_listens_on_loopback_only(host: Host) -> None:
    found = listening_addresses(descendants(host.process.pid))
    assert found
    assert found <= ON_LOOPBACK


def test_the_open_cluster_listens_on_all_interfaces(open_host: Host) -> None:
    """This is Ray's default, so the test above can fail."""
    assert not listening_addresses(descendants(open_host.process.pid)) <= ON_LOOPBACK


def test_the_token_is_readable_by_its_owner_only(host: Host) -> None:
    assert stat.S_IMODE(host.token_file.stat().st_mode) == 0o600
    assert len(host.token_file.read_text()) >= 32


def ask_dashboard(host: Host, token: str | None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://{host.dashboard}/api/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_the_dashboard_asks_for_the_token(host: Host) -> None:
    assert ask_dashboard(host, None) == 401
    assert ask_dashboard(host, "0" * 64) in (401, 403)
    assert ask_dashboard(host, host.token_file.read_text()) == 200


def test_a_client_with_the_token_is_accepted(host: Host) -> None:
    env = environment(host.home)
    command = [sys.executable, "-W", "ignore", "-c", ATTACH, host.gcs]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("metadata", [(), (("authorization", f"Bearer {'0' * 64}"),)])
def test_ray_does_not_answer_without_the_token(
    host: Host, metadata: tuple[tuple[str, str], ...]
) -> None:
    with grpc.insecure_channel(host.gcs) as channel:
        question = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        with pytest.raises(grpc.RpcError) as raised:
            question(b"", timeout=20, metadata=metadata)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_status_tells_open_clusters_from_others(host: Host, open_host: Host) -> None:
    assert ask(host.gcs) == ASKS_FOR_TOKEN
    assert ask(open_host.gcs) == IS_OPEN


def start_on(
    host: Host, command: str, *, home: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    simfl = [sys.executable, "-m", "simfl", command, QUICKSTART, "--address", host.gcs]
    env = environment(home, **variables)
    return subprocess.run(simfl, env=env, capture_output=True, text=True, timeout=60)


def test_an_open_cluster_is_refused_if_this_process_uses_a_token(
    open_host: Host, tmp_path: Path
) -> None:
    """simfl creates the token, since the user sets none."""
    result = start_on(open_host, "run", home=tmp_path)
    assert result.returncode == 1
    refusal = f"the Ray cluster at {open_host.gcs} asks for no token, but this process uses one"
    assert result.stderr.startswith(refusal)
    assert result.stderr.count("\n") == 1


def test_attaching_to_an_open_cluster_on_the_network_gives_a_warning(
    open_host: Host, tmp_path: Path
) -> None:
    result = start_on(open_host, "plan", home=tmp_path, RAY_AUTH_MODE="disabled")
    assert result.returncode == 0, result.stderr
    assert f"the Ray cluster at {open_host.gcs} asks for no token" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE is 'disabled' here"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "it is not the one in RAY_AUTH_TOKEN"),
        ({}, "none can be read in "),
    ],
)
def test_a_refusal_is_explained_in_one_line(
    host: Host, tmp_path: Path, variables: dict[str, str], reason: str
) -> None:
    """Ray itself would try for 20 s and report that it failed to connect."""
    result = start_on(host, "run", home=tmp_path, **variables)
    assert result.returncode == 1
    assert f"the Ray cluster at {host.gcs} asks for a token: {reason}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_switching_tokens_off_is_never_silent(hosts: tuple[Host, Host]) -> None:
    """The warning is the first line of the host that was started this way."""
    process = hosts[1].process
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    assert "RAY_AUTH_MODE is 'disabled'" in process.stderr.read()


SHADOWS = ("torch", "numpy", "json", "yaml", "typer", "ray", "pydantic", "simfl", "cloudpickle")


@pytest.mark.parametrize("trust", ["none", "all"])
@pytest.mark.parametrize(
    "command",
    [
        ("run", "theirs.yaml", "--quiet", "--set", "rounds=1", "--set", "cluster.actors=1"),
        ("sweep", "theirs.yaml", "--quiet", "--over", "seed=0,1", "--set", "rounds=1"),
    ],
    ids=["run", "sweep"],
)
def test_no_process_imports_a_file_next_to_the_scenario_as_a_package(
    tmp_path: Path, command: tuple[str, ...], trust: str
) -> None:
    # With trust, late imports in the driver search the scenario's folder first.
    for name in SHADOWS if trust == "none" else ("torch", "numpy"):
        marker = f"open({str(tmp_path / 'EXECUTED')!r}, 'a').write({name!r})"
        (tmp_path / f"{name}.py").write_text(f"{marker}\nraise SystemExit({name!r})\n")
    (tmp_path / "theirs.yaml").write_text(Path(QUICKSTART).read_text())
    (tmp_path / "home").mkdir()
    simfl = str(Path(sys.executable).with_name("simfl"))
    result = subprocess.run(
        [simfl, *command, "--trust", trust, "--out", "out"],
        cwd=tmp_path,
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert not (tmp_path / "EXECUTED").exists(), (tmp_path / "EXECUTED").read_text()
    assert result.returncode == 0, result.stderr
