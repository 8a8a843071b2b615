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
from simfl.states.packed import GivenStates, PackedRow, PackedStates, join_rows, pack_rows
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
from simfl.states.stacked import KeptRow, StackedStates, count_kept_bytes, counts_of, has_kept
from simfl.states.storage import Storage, open_storage
from simfl.states.table import (
    Place,
    PlannedShard,
    StateTable,
    StoredObject,
    in_equal_parts,
)

__all__ = [
    "STATES_FOLDER",
    "Checksum",
    "Dropped",
    "GivenStates",
    "Kept",
    "KeptRow",
    "KeptState",
    "Nothing",
    "OptimizerState",
    "PackedRow",
    "PackedStates",
    "Place",
    "PlannedShard",
    "Retained",
    "ServerState",
    "ShardInfo",
    "StackedStates",
    "State",
    "StateFile",
    "StateTable",
    "Storage",
    "StoredObject",
    "count_kept_bytes",
    "counts_of",
    "decode_file",
    "encode_file",
    "encode_pieces",
    "encode_tree",
    "has_kept",
    "in_equal_parts",
    "join_rows",
    "load_state",
    "open_storage",
    "pack_rows",
    "read_state",
    "read_state_digests",
    "shard_file",
    "tensor_from",
    "view_bytes",
    "write_shard",
]
