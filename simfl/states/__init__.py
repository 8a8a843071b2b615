"""What clients keep from round to round: the values, their codec and files, and where they are.

``codec`` turns any nested value into JSON and tensors, and ``files`` makes that one safetensors
file. ``shards`` has the states of many clients in a file, in a ``Storage``, and ``StateTable``
knows whether a client's state is in memory or in a shard. ``simfl/checkpoint/__init__.py``
describes the formats.
"""

from simfl.states.codec import encode_tree, tensor_from, view_bytes
from simfl.states.files import Checksum, decode_file, encode_file, encode_pieces
from simfl.states.kept import (
    Dropped,
    Kept,
    KeptState,
    Nothing,
    OptimizerState,
    Retained,
    ServerState,
    State,
)
from simfl.states.shards import (
    STATES_FOLDER,
    ShardInfo,
    StateFile,
    load_state,
    read_state,
    read_state_digests,
    shard_file,
    write_shard,
)
from simfl.states.storage import Storage, open_storage
from simfl.states.table import PlannedShard, StateTable

__all__ = [
    "STATES_FOLDER",
    "Checksum",
    "Dropped",
    "Kept",
    "KeptState",
    "Nothing",
    "OptimizerState",
    "PlannedShard",
    "Retained",
    "ServerState",
    "ShardInfo",
    "State",
    "StateFile",
    "StateTable",
    "Storage",
    "decode_file",
    "encode_file",
    "encode_pieces",
    "encode_tree",
    "load_state",
    "open_storage",
    "read_state",
    "read_state_digests",
    "shard_file",
    "tensor_from",
    "view_bytes",
    "write_shard",
]
