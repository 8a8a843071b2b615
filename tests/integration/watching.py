"""A Ray cluster with a dashboard, and the real Prometheus, each in its own process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# In its own process, since a process takes part in one Ray session at a time.
_HEAD = """
import json, sys
from ray.cluster_utils import Cluster
options = {"num_cpus": 4, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
# Not their defaults, which another cluster may have: its agent would run no jobs then.
options["dashboard_agent_listen_port"], options["dashboard_port"] = map(int, sys.argv[1:])
cluster = Cluster(initialize_head=True, head_node_args=options)
print(json.dumps({"dashboard": cluster.webui_url, **cluster.head_node.address_info}), flush=True)
sys.stdin.read()
cluster.shutdown()
"""

# Often enough for a test: a gauge is forgotten after two of the first, and what nodes use is
# measured as often as the second says.
_INTERVALS = {"RAY_metrics_report_interval_ms": "1000", "REPORTER_UPDATE_INTERVAL_MS": "1000"}


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster of one node."""

    address: str
    """Where drivers attach."""
    dashboard: str
    """The URL of its dashboard."""
    nodes_file: Path
    """Where Prometheus finds its nodes."""
    logs: Path
    """The folder of its processes' logs."""


@contextlib.contextmanager
def cluster_with_dashboard() -> Iterator[Cluster]:
    """Start a cluster; it ends with the context."""
    # Not pytest's folder: the paths of Ray's sockets may not be longer than 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = os.environ | _INTERVALS | {"RAY_TMPDIR": str(folder), "PYTHONPATH": path}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _HEAD, str(_free_port()), str(_free_port())],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the cluster did not start"
        head = json.loads(line)
        yield Cluster(
            address=head["gcs_address"],
            dashboard=f"http://{head['dashboard']}",
            nodes_file=folder / "ray" / "prom_metrics_service_discovery.json",
            logs=Path(head["session_dir"]) / "logs",
        )
    finally:
        process.communicate("", timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate PromQL at this moment; a fault in it raises ValueError."""
        result: list[dict[str, Any]] = self._get("query", {"query": expression})["result"]
        return result

    def series(self, selector: str) -> list[dict[str, str]]:
        """Return the labels of all series that a selector has ever matched."""
        result: list[dict[str, str]] = self._get("series", {"match[]": selector})
        return result

    def _get(self, what: str, parameters: dict[str, str]) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {json.load(error)['error']}") from None


@contextlib.contextmanager
def prometheus(cluster: Cluster, folder: Path) -> Iterator[Prometheus]:
    """Start Prometheus with the project's own configuration, but for paths and for more haste."""
    shipped = (ROOT / "dashboards" / "prometheus.yml").read_text()
    config = folder / "prometheus.yml"
    config.write_text(
        shipped.replace("/tmp/ray/prom_metrics_service_discovery.json", str(cluster.nodes_file))
        .replace("scrape_interval: 5s", "scrape_interval: 1s")
        .replace("refresh_interval: 5s", "refresh_interval: 1s")
    )
    assert str(cluster.nodes_file) in config.read_text()
    address = f"127.0.0.1:{_free_port()}"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
    )
    try:
        _await_ready(f"http://{address}/-/ready", process)
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:  # the test's own time limit ends it
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(f"prometheus ended with {process.returncode}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
