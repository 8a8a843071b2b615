"""The manifest: a checkpoint's last file, which makes it count; and the names of its files."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Final

from simfl.errors import CheckpointError
from simfl.states import Checksum, ShardInfo, Storage, shard_file

FORMAT: Final = 1
"""The version of the format that is written, and the only one that can be read."""

_MAX_BYTES: Final = 1 << 28
"""The maximum size that is read; the manifest of ten million clients has a third of that."""
_MANIFEST = re.compile(r"round-(\d{6,})/manifest\.json")


@dataclass(frozen=True)
class Manifest:
    """Lists the files of a checkpoint."""

    round: int
    """The number of rounds that have been committed."""
    scenario_hash: str
    simfl: str
    """The version of simfl that wrote it."""
    torch: str
    """The version of torch that wrote it."""
    server: Checksum
    """Of the file with everything but the clients' states."""
    shards: tuple[ShardInfo, ...]
    """All shards with a state that the checkpoint uses; they may hold others, too."""


def round_folder(round: int) -> str:
    """Return the folder of a round's checkpoint.

    >>> round_folder(123)
    'round-000123'
    """
    return f"round-{round:06d}"


def manifest_file(round: int) -> str:
    """Return the manifest's file within the storage."""
    return f"{round_folder(round)}/manifest.json"


def server_file(round: int) -> str:
    """Return the server's file within the storage."""
    return f"{round_folder(round)}/server.safetensors"


def find_manifests(files: dict[str, int]) -> list[int]:
    """Return the rounds that have a manifest, newest first."""
    matches = map(_MANIFEST.fullmatch, files)
    rounds = {int(match[1]) for match in matches if match is not None}
    return sorted((r for r in rounds if manifest_file(r) in files), reverse=True)


def write_manifest(storage: Storage, manifest: Manifest) -> None:
    """Write the manifest; the checkpoint counts from now on."""
    storage.write(manifest_file(manifest.round), [_encode(manifest)])


def read_manifest(storage: Storage, round: int) -> Manifest:
    """Read a manifest and check it against its own checksum.

    Raises:
        CheckpointError: if it is damaged, has an unknown format, or names files elsewhere.
    """
    data = storage.read(manifest_file(round), 0, _MAX_BYTES)
    try:
        body = json.loads(data.decode("ascii"))
        version = body["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError("its manifest is damaged") from None
    if type(version) is not int or version != FORMAT:
        raise CheckpointError(f"its format is {version!r}, and this version reads {FORMAT}")
    return _decode(body, data, round)


def _decode(body: dict[str, Any], data: bytes, round: int) -> Manifest:
    try:
        manifest = _parse(body)
        is_whole = _encode(manifest) == data  # other bytes, even other spaces, are not by simfl
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise CheckpointError("its manifest is damaged")
    if manifest.round != round:
        raise CheckpointError(f"its manifest is that of round {manifest.round}")
    for shard in manifest.shards:
        shard_file(shard.name)
    return manifest


def _parse(body: dict[str, Any]) -> Manifest:
    entries = {key: value for key, value in body.items() if key not in ("format", "sha256")}
    shards = tuple(map(_parse_shard, entries.pop("shards")))
    server = Checksum(**entries.pop("server"))
    manifest = Manifest(**entries, server=server, shards=shards)
    _require_types(manifest)
    return manifest


def _parse_shard(entry: dict[str, Any]) -> ShardInfo:
    return ShardInfo(entry["name"], Checksum(**entry["checksum"]), tuple(entry["clients"]))


def _require_types(manifest: Manifest) -> None:
    checksums = (manifest.server, *(shard.checksum for shard in manifest.shards))
    texts = [manifest.scenario_hash, manifest.simfl, manifest.torch]
    texts += [*(found.sha256 for found in checksums), *(shard.name for shard in manifest.shards)]
    numbers = [manifest.round, *(found.num_bytes for found in checksums)]
    numbers += [client for shard in manifest.shards for client in shard.clients]
    if any(type(text) is not str for text in texts) or any(type(n) is not int for n in numbers):
        raise TypeError("an entry of the wrong type")


def _encode(manifest: Manifest) -> bytes:
    body = {"format": FORMAT, **asdict(manifest)}
    digest = hashlib.sha256(_dump(body)).hexdigest()
    return _dump({**body, "sha256": digest})


def _dump(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
