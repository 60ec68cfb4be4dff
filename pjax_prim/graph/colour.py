"""Two-colouring of the nodes, so that every edge joins set A and set B.

A producer with consumers of its own colour needs one identity constraint, which all of them
share. Finding the fewest is a maximum-cut problem; a breadth-first colouring is exact for
bipartite graphs, and flips of single nodes improve it on others.
"""

from collections import deque
from collections.abc import Sequence

Edges = Sequence[tuple[int, int]]


def two_colour(count: int, edges: Edges, anchor: int) -> list[int]:
    """Colours 0 (set A) and 1 (set B) with few producers that have a consumer of their colour.

    **Arguments:**

    - `count`: the number of nodes.
    - `edges`: `(producer, consumer)` pairs.
    - `anchor`: the node that is in set A.
    """
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for producer, consumer in edges:
        neighbours[producer].append(consumer)
        neighbours[consumer].append(producer)
    colours = [-1] * count
    for start in (anchor, *range(count)):
        if colours[start] >= 0:
            continue
        colours[start] = 0
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for other in neighbours[node]:
                if colours[other] < 0:
                    colours[other] = 1 - colours[node]
                    queue.append(other)
    _improve(colours, edges, anchor)
    return colours


def conflicts(colours: Sequence[int], edges: Edges) -> set[int]:
    """The producers that have a consumer of their own colour."""
    return {producer for producer, consumer in edges if colours[producer] == colours[consumer]}


def _improve(colours: list[int], edges: Edges, anchor: int) -> None:
    """Flips single nodes, and single nodes with one neighbour, while that removes conflicts."""
    cost = len(conflicts(colours, edges))
    candidates = [(node,) for node in range(len(colours))] + [tuple(edge) for edge in edges]
    improved = cost > 0
    while improved:
        improved = False
        for flipped in candidates:
            if anchor in flipped:
                continue
            for node in set(flipped):
                colours[node] ^= 1
            changed = len(conflicts(colours, edges))
            if changed < cost:
                cost, improved = changed, True
            else:
                for node in set(flipped):
                    colours[node] ^= 1
