"""From texts to the sequences that a language model is trained on.

Shapes: N documents, E examples, S tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from simfl.data.dataset import positions_within
from simfl.data.ragged import IGNORED, Array, Ragged
from simfl.data.text.token_cache import encode_once
from simfl.data.text.tokenizers import Tokenizer, Tokens
from simfl.errors import DataError


@dataclass(frozen=True)
class Sequences:
    """Examples of a language model, and the document of each."""

    inputs: Ragged
    targets: Ragged
    documents: Array
    """(E,) int64, ascending."""
    choices: tuple[Ragged, ...] = ()
    """The first choice of each example, the second..."""


def blocks(
    texts: Sequence[str], tokenizer: Tokenizer, *, max_tokens: int, groups: Array | None = None
) -> Sequences:
    """Cut documents into examples of ``max_tokens`` positions, each of which predicts its next.

    Every token but the first of a document is predicted once. A document's last example is shorter.

    Args:
        texts: the documents.
        tokenizer: makes tokens of them.
        max_tokens: the most positions of an example.
        groups: (N,) integers, ascending; the documents of a group become one. None: each is alone.
    """
    tokens = _documents(tokenizer, [], texts)
    groups = np.arange(len(texts)) if groups is None else groups
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.add.reduceat(tokens.lengths, first) if len(first) else tokens.lengths
    predicted = lengths - 1
    num_blocks = -(-predicted // max_tokens)
    places = positions_within(num_blocks) * max_tokens
    begins = np.repeat(tokens.begins[first], num_blocks) + places
    sizes = np.minimum(np.repeat(predicted, num_blocks) - places, max_tokens)
    inputs = Ragged(tokens.values, begins, sizes, max_tokens, tokenizer.vocabulary, tokenizer.pad)
    targets = _following(inputs, hidden=None)
    documents = np.repeat(first, num_blocks)
    return Sequences(inputs, targets, documents)


def answers(
    prompts: Sequence[str],
    responses: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    choices: Sequence[Sequence[str]] = (),
) -> Sequences:
    """Make an example of each prompt and response, of which the response's tokens count.

    So does the end. Both are encoded apart. What is longer than ``max_tokens`` positions is cut off
    at its end; examples of which no token of the response is left are left out, and so are those
    with a choice that is too long.

    Args:
        prompts: (N,) what does not count.
        responses: (N,) what does.
        tokenizer: makes tokens of them.
        max_tokens: the most positions of an example.
        choices: (N,) what the responses could be; (): they have no choices.
    """
    tokens = _documents(tokenizer, prompts, responses)
    sizes = np.minimum(tokens.lengths - 1, max_tokens)
    before = len(tokenizer.before) + _prompt_lengths(tokenizer, prompts)
    hidden = np.maximum(before - 1, 0)
    tokens_of_choices = choices_of(choices, tokenizer) if choices else ()
    longest = np.max([one.counts() for one in tokens_of_choices], axis=0, initial=1)
    kept = np.flatnonzero((sizes > hidden) & (hidden + longest <= max_tokens))
    parts = (tokens.values, tokens.begins[kept], sizes[kept])
    inputs = Ragged(*parts, max_tokens, tokenizer.vocabulary, tokenizer.pad)
    kept_choices = tuple(one.select(kept) for one in tokens_of_choices)
    return Sequences(inputs, _following(inputs, hidden=hidden[kept]), kept, kept_choices)


def choices_of(texts: Sequence[Sequence[str]], tokenizer: Tokenizer) -> tuple[Ragged, ...]:
    """Return the tokens of each example's first choice, of its second, and so on.

    An example that has fewer choices than others has no token of the last ones.

    Args:
        texts: (N,) the choices of each example.
        tokenizer: makes tokens of them.

    Raises:
        DataError: if it makes none of a choice.
    """
    all_choices = [choice for own in texts for choice in own]
    tokens = encode_texts(tokenizer, all_choices)
    if len(empty := np.flatnonzero(tokens.lengths == 0)):
        raise DataError(
            f"the choice {all_choices[empty[0]]!r} has no token; use another tokenizer, "
            "or leave out its rows"
        )
    counts = np.array([len(own) for own in texts], np.int64)
    first = np.cumsum(counts) - counts
    width = max(int(tokens.lengths.max(initial=1)), 1)
    found = []
    for number in range(int(counts.max(initial=0))):
        is_there = counts > number
        places = np.where(is_there, first + number, 0)
        lengths = np.where(is_there, tokens.lengths[places], 1)
        parts = (tokens.values, tokens.begins[places], lengths, width, tokenizer.vocabulary)
        found.append(Ragged(*parts, IGNORED, hidden=(~is_there).astype(np.int64)))
    return tuple(found)


def classified(
    texts: Sequence[str], tokenizer: Tokenizer, *, max_tokens: int
) -> tuple[dict[str, Ragged], Array]:
    """Make ``input_ids`` and ``attention_mask`` of texts; return them, and which texts they are.

    Texts are cut off at their end; those without tokens are left out.
    """
    room = max_tokens - len(tokenizer.before) - len(tokenizer.after)
    tokens = encode_texts(tokenizer, texts)
    short = Tokens(tokens.values, tokens.begins, np.minimum(tokens.lengths, max(room, 0)))
    joined = _joined(tokenizer, [tokenizer.before, short, tokenizer.after])
    kept = np.flatnonzero(joined.lengths > 0)
    lengths = joined.lengths[kept]
    ids = Ragged(
        joined.values,
        joined.begins[kept],
        lengths,
        max_tokens,
        tokenizer.vocabulary,
        tokenizer.pad,
    )
    mask = Ragged.mask(lengths, width=max_tokens)
    return {"input_ids": ids, "attention_mask": mask}, kept


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Return the tokens of texts, from the cache if it pays."""
    if not tokenizer.is_slow:
        return tokenizer.encode(texts)
    parts = _hashed(tokenizer, "texts", texts)
    return encode_once(parts, lambda: tokenizer.encode(texts), num_texts=len(texts))


def _following(inputs: Ragged, *, hidden: Array | None) -> Ragged:
    """Return the targets of a language model: position t predicts token t + 1."""
    parts = (inputs.values, inputs.begins + 1, inputs.lengths, inputs.width, inputs.vocabulary)
    return Ragged(*parts, IGNORED, hidden)


def _documents(tokenizer: Tokenizer, prompts: Sequence[str], texts: Sequence[str]) -> Tokens:
    """Return prompts, if any, and texts with what begins them and the end."""

    def make() -> Tokens:
        pieces = [tokenizer.encode(part) for part in (prompts, texts)[0 if prompts else 1 :]]
        return _joined(tokenizer, [tokenizer.before, *pieces, (tokenizer.end,)])

    if not tokenizer.is_slow:
        return make()
    parts = _hashed(tokenizer, "documents", prompts, texts)
    return encode_once(parts, make, num_texts=len(texts))


def _prompt_lengths(tokenizer: Tokenizer, prompts: Sequence[str]) -> Array:
    return encode_texts(tokenizer, prompts).lengths


def _hashed(tokenizer: Tokenizer, what: str, *texts: Sequence[str]) -> Iterator[str]:
    fixed = (tokenizer.vocabulary, tokenizer.before, tokenizer.end)
    yield f"{what} {fixed} {list(map(len, texts))}"
    for part in texts:
        yield from part


def _joined(tokenizer: Tokenizer, pieces: Sequence[Tokens | tuple[int, ...]]) -> Tokens:
    """Join pieces of the same texts; a tuple of ids is the same for each."""
    num_texts = next(len(piece.lengths) for piece in pieces if isinstance(piece, Tokens))
    parts = [_repeated(p, num_texts) if isinstance(p, tuple) else p for p in pieces]
    lengths = np.sum([part.lengths for part in parts], axis=0)
    place = np.cumsum(lengths) - lengths
    values = np.empty(int(lengths.sum()), tokenizer.dtype)
    for part in parts:
        within = positions_within(part.lengths)
        found = part.values[np.repeat(part.begins, part.lengths) + within]
        values[np.repeat(place, part.lengths) + within] = found
        place = place + part.lengths
    return Tokens.from_lengths(values, lengths)


def _repeated(ids: tuple[int, ...], times: int) -> Tokens:
    begins, lengths = np.zeros(times, np.int64), np.full(times, len(ids), np.int64)
    return Tokens(np.array(ids, np.int64), begins, lengths)
