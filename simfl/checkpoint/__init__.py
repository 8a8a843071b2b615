"""Checkpoints: everything a resumed run needs, written as a whole or not at all.

Format, version 1. The storage that ``open_storage`` opens holds these files:

===================================  ===========================================================
``round-000123/server.safetensors``  the run after round 123, without the clients' states
``round-000123/manifest.json``       written last: a round without one does not count
``states/NAME.safetensors``          a shard, the states of some clients: never changed, and used
                                     by all checkpoints that need it
``owner/000001.json``                the process that writes here, during a run: see ``lease``
===================================  ===========================================================

The manifest and the owner file are JSON. The others are safetensors files, whose metadata have one
entry, ``simfl``, JSON text.

``server.safetensors``
    The value of ``simfl.states.encode_file``: the entry is the skeleton, as the table in
    ``simfl/states/codec.py`` says,
    and it refers to the tensors by name. It is a dict of

    ==================  ========================================================================
    ``round``           the number of rounds that have been committed
    ``scenario_hash``   identifies the scenario
    ``weights``         the server's Vector of all weights
    ``optimizer``       the server's ``OptimizerState``
    ``algorithm``       what the server's half of the algorithm keeps; omitted if that is nothing
    ``aggregator``      what the aggregator keeps; likewise
    ``sampler``         what the sampler knows of the rounds so far; likewise
    ``states``          shard name -> tensor of the ids of the clients whose states it has
    ``positions``       ``metrics.jsonl`` -> the sha256 of the records of its rounds;
                        ``scenario`` -> the part of it that affects the results; ``data`` -> the
                        sha256 of the examples; ``code`` -> those of plug-ins, by module
    ==================  ========================================================================

``states/NAME.safetensors``
    One tensor of bytes per client, named by its id in decimal: a file in the file, the value of
    ``encode_file`` for the tuple (id, ``KeptState``). The entry is ``{"sha256": {id: hex}}`` of
    each client's bytes, so that one client can be read and checked without the others.

``manifest.json``
    ASCII JSON in one line without spaces, with these entries in this order:

    ==================  ========================================================================
    ``format``          1
    ``round``           as in the server's file
    ``scenario_hash``   as in the server's file
    ``simfl, torch``    the versions that wrote it
    ``server``          ``{"sha256": hex, "num_bytes": n}`` of the server's file
    ``shards``          ``[{"name": NAME, "checksum": {"sha256": hex, "num_bytes": n},
                        "clients": [id, ...]}, ...]``: all shards in ``states``
    ``sha256``          of the line without this entry
    ==================  ========================================================================

Nothing is pickled, and nothing is looked up by an import path: a checkpoint runs no code.
"""

from __future__ import annotations

from simfl.checkpoint.checkpoint import (
    Checkpoint,
    Found,
    Refusal,
    latest_checkpoint,
    read_checkpoint,
    saved_rounds,
    write_checkpoint,
)
from simfl.checkpoint.lease import OWNER_FOLDER, Lease
from simfl.checkpoint.prune import delete_unused_shards, prune

__all__ = [
    "OWNER_FOLDER",
    "Checkpoint",
    "Found",
    "Lease",
    "Refusal",
    "delete_unused_shards",
    "latest_checkpoint",
    "prune",
    "read_checkpoint",
    "saved_rounds",
    "write_checkpoint",
]
