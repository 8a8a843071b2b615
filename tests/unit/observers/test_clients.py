"""The columns of a round's clients."""

from __future__ import annotations

import numpy as np

from simfl.messages import ChunkReport, ChunkTrace, ClientReports, RoundTrace
from simfl.observers import client_table


def reports(clients: list[int], dropped: dict[int, str] | None = None) -> ClientReports:
    ids = np.array(clients, dtype=np.int64)
    losses = ids.astype(np.float64)
    return ClientReports(
        client=ids,
        num_examples=10 * ids,
        num_steps=2 * ids,
        train_loss=losses,
        first_loss=losses + 0.5,
        last_loss=losses - 0.5,
        delta_norm=losses / 2,
        seconds=losses / 4,
        dropped=dropped or {},
    )


def test_the_rows_of_chunks_are_concatenated_with_their_actors() -> None:
    chunks = (
        ChunkTrace(ChunkReport(7, 0, reports([5, 3]), 0.1), actor="client-1"),
        ChunkTrace(ChunkReport(7, 2, reports([4], {4: "not finite"}), 0.1), "client-0", retries=2),
    )
    table = client_table(7, RoundTrace(chunks, train_s=1.0, aggregate_s=0.1))
    assert (table.round, len(table)) == (7, 3)
    assert table.client.tolist() == [5, 3, 4]
    assert table.num_examples.tolist() == [50, 30, 40]
    assert table.num_steps.tolist() == [10, 6, 8]
    assert table.first_loss.tolist() == [5.5, 3.5, 4.5]
    assert table.last_loss.tolist() == [4.5, 2.5, 3.5]
    assert table.delta_norm.tolist() == [2.5, 1.5, 2.0]
    assert [table.actors[code] for code in table.actor] == ["client-1", "client-1", "client-0"]
    assert table.retries.tolist() == [0, 0, 2]
    assert table.dropped == {4: "not finite"}
