"""TreeSum: sums over the cohort whose bits do not depend on who computed what, or when.

Float addition is not associative, so the order of a sum must be part of its definition. Here it is
a binary tree over cohort positions. Node (level, index) covers the positions from index * 2**level
to below (index + 1) * 2**level, and its value is left child + right child; where the cohort ends
before the right child begins, it is the left child's::

    level 2            (2,0)
    level 1      (1,0)       (1,1)
    level 0    0       1   2        (cohort of three)

A node's value is the same wherever it is computed. So an actor adds up what it can of the chunk it
was given and sends the few roots, the server does the rest, and any chunks in any order give the
same bits. Pairwise sums are also the more accurate ones: the error grows with log N and not with N
(Higham, 1993, https://doi.org/10.1137/0914050).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from simfl.messages import Contribution, Node, Partial

T = TypeVar("T")


class TreeSum(Generic[T]):
    """The part of the tree that has been computed so far: the roots of its complete subtrees.

    Memory is that of the roots: about log2(N) while positions arrive in order.

    Args:
        num_leaves: N, the number of positions.
        merge: adds two values, left and right; it may reuse the left one's memory.

    >>> tree = TreeSum(3, lambda left, right: f"({left} {right})")
    >>> for position in (2, 0, 1):
    ...     tree.add(position, position)
    >>> tree.result()
    '((0 1) 2)'
    """

    def __init__(self, num_leaves: int, merge: Callable[[T, T], T]) -> None:
        self._num_leaves = num_leaves
        self._merge = merge
        self._height = (num_leaves - 1).bit_length()
        self._nodes: dict[Node, T | None] = {}

    def add(self, position: int, value: T | None) -> None:
        """Add the value at a position; None where there is none, as for a dropped client."""
        self.add_node((0, position), value)

    def add_node(self, node: Node, value: T | None) -> None:
        """Add the value of a whole subtree, and merge upward as far as siblings are there."""
        level, index = node
        while level < self._height:
            sibling = (level, index ^ 1)
            if sibling in self._nodes:
                other = self._nodes.pop(sibling)
                value = self._add(other, value) if index & 1 else self._add(value, other)
            elif sibling[1] << level < self._num_leaves:
                break
            level, index = level + 1, index >> 1
        assert (level, index) not in self._nodes, f"node {(level, index)} was added twice"
        self._nodes[level, index] = value

    @property
    def nodes(self) -> dict[Node, T | None]:
        """The roots of the subtrees that are complete."""
        return dict(self._nodes)

    @property
    def is_complete(self) -> bool:
        """Whether every position has been added."""
        return (self._height, 0) in self._nodes

    def result(self) -> T | None:
        """Return the sum over all positions; None if no position had a value."""
        assert self.is_complete, "positions are missing"
        return self._nodes[self._height, 0]

    def _add(self, left: T | None, right: T | None) -> T | None:
        if left is None:
            return right
        return left if right is None else self._merge(left, right)


class CohortSum:
    """What of a cohort's partials has been added up, in any order; duplicates are ignored.

    Args:
        merge: adds two contributions, as for ``TreeSum``.
    """

    def __init__(self, merge: Callable[[Contribution, Contribution], Contribution]) -> None:
        self._merge = merge
        self._tree: TreeSum[Contribution] | None = None
        self._width = 0
        self.starts: set[int] = set()
        """The first cohort position of each partial so far."""

    def add(self, partial: Partial) -> None:
        """Add a partial."""
        if self._tree is None:
            self._width = partial.cohort_size
            self._tree = TreeSum(self._width, self._merge)
        if partial.start in self.starts:
            return
        self.starts.add(partial.start)
        for node, contribution in partial.nodes.items():
            self._tree.add_node(node, contribution)

    def partial(self) -> Partial:
        """Return all of them as one, with the roots that they come to."""
        assert self._tree is not None, "no partial was added"
        return Partial(min(self.starts), self._width, self._tree.nodes)

    def result(self) -> Contribution | None:
        """Return the sum over the cohort; None if nothing was added or no client contributed."""
        return None if self._tree is None else self._tree.result()
