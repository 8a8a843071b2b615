"""Posts with tags as bags of words, in the shape of the paper's Stack Overflow tag prediction."""

from __future__ import annotations

from typing import Any

import numpy as np


def posts(
    seed: int,
    clients: int = 200,
    per_client: int = 30,
    words: int = 1000,
    tags: int = 50,
    length: int = 20,
) -> dict[str, Any]:
    """Return the arrays of an npz source: shares of words, and the tags of each post.

    Words and tags follow Zipf's law. Each tag has ten words of its own, drawn among all, and a post
    has one to three tags, of which its client prefers some. Half of a post's words are of its tags.
    So most words are rare, and the gradients of most weights are 0 in most rounds.
    """
    rng = np.random.default_rng(seed)
    of_words, of_tags = _zipf(words), _zipf(tags)
    typical = rng.integers(0, words, (tags, 10))
    size = clients * per_client
    client = np.repeat(np.arange(clients), per_client)
    inputs = np.zeros((size, words), np.float32)
    targets = np.zeros((size, tags), np.float32)
    liked = rng.dirichlet(of_tags * tags * 0.3, clients)
    for post in range(size):
        own = rng.choice(tags, rng.integers(1, 4), p=liked[client[post]])
        targets[post, own] = 1
        common = rng.choice(words, length // 2, p=of_words)
        special = typical[rng.choice(own, length // 2), rng.integers(0, 10, length // 2)]
        np.add.at(inputs[post], np.concatenate([common, special]), 1 / length)
    return {"inputs": inputs, "targets": targets, "client": client}


def _zipf(count: int) -> np.ndarray[Any, Any]:
    shares = 1 / np.arange(1, count + 1)
    return shares / shares.sum()
