"""Two-colouring of the nodes, so that every edge joins set A and set B.

A producer with consumers of its own colour needs one identity constraint, which all of them
share. So the fewest identities are the fewest producers whose edges, left out, leave no cycle of
odd length: at least one producer of every such cycle has to go. A colouring outwards from one
node, improved by flips of single nodes, is found at once; a search over odd cycles then looks
for a better one. It is exact for graphs that need few identities, and stops early on others.
"""

from collections import deque
from collections.abc import Collection, Sequence

Edges = Sequence[tuple[int, int]]
_VISITS = 2000  # colourings that the search may try
_WORK = 2_000_000  # edges that it may look at


def two_colour(count: int, edges: Edges, anchor: int) -> list[int]:
    """Colours 0 (set A) and 1 (set B) with few producers that have a consumer of their colour.

    **Arguments:**

    - `count`: the number of nodes.
    - `edges`: `(producer, consumer)` pairs.
    - `anchor`: the node that is in set A.
    """
    colours, _ = _spread_colours(count, edges, anchor)
    _improve(colours, edges)
    visits = min(_VISITS, _WORK // max(1, len(edges)))
    for size in range(len(conflicts(colours, edges))):
        found, visits = _search(count, edges, anchor, frozenset(), size, visits)
        if found is not None:
            colours = found
        if found is not None or visits <= 0:
            break
    return [colour ^ colours[anchor] for colour in colours]


def conflicts(colours: Sequence[int], edges: Edges) -> set[int]:
    """The producers that have a consumer of their own colour."""
    return {producer for producer, consumer in edges if colours[producer] == colours[consumer]}


def _spread_colours(
    count: int, edges: Edges, anchor: int, exempt: Collection[int] = ()
) -> tuple[list[int], list[int]]:
    """Colours spread breadth-first along the edges of all but the exempt producers.

    **Returns:** the colours, and the producers on some cycle of odd length; none if all edges
    join two colours.
    """
    neighbours: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for producer, consumer in edges:
        if producer not in exempt:
            neighbours[producer].append((consumer, producer))
            neighbours[consumer].append((producer, producer))
    colours = [-1] * count
    cycle: list[int] = []
    reached_from: dict[int, tuple[int, int]] = {}
    for start in (anchor, *range(count)):
        if colours[start] >= 0:
            continue
        colours[start] = 0
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for other, producer in neighbours[node]:
                if colours[other] < 0:
                    colours[other] = 1 - colours[node]
                    reached_from[other] = node, producer
                    queue.append(other)
                elif colours[other] == colours[node] and not cycle:
                    cycle = _cycle(reached_from, node, other, producer)
    return colours, cycle


def _cycle(reached_from: dict[int, tuple[int, int]], a: int, b: int, producer: int) -> list[int]:
    """The producers on the cycle that the edge between `a` and `b` closes in a search tree."""

    def to_root(node: int) -> dict[tuple[int, int], None]:
        steps: dict[tuple[int, int], None] = {}
        while node in reached_from:
            parent, by = reached_from[node]
            steps[node, by] = None
            node = parent
        return steps

    left, right = to_root(a), to_root(b)
    steps = [step for step in (*left, *right) if not (step in left and step in right)]
    return sorted({producer, *(by for _, by in steps)})


def _search(
    count: int, edges: Edges, anchor: int, exempt: frozenset[int], size: int, visits: int
) -> tuple[list[int] | None, int]:
    """A colouring with conflicts of the exempt and at most `size` more producers, if there is one.

    **Returns:** the colouring or None, and how many of the `visits` are left.
    """
    if visits <= 0:
        return None, 0
    colours, cycle = _spread_colours(count, edges, anchor, exempt)
    visits -= 1
    if not cycle:
        return colours, visits
    if size == 0:
        return None, visits
    for producer in cycle:
        found, visits = _search(count, edges, anchor, exempt | {producer}, size - 1, visits)
        if found is not None or visits == 0:
            return found, visits
    return None, visits


def _improve(colours: list[int], edges: Edges) -> None:
    """Flips single nodes, and single nodes with one neighbour, while that removes conflicts."""
    touching: list[list[tuple[int, int]]] = [[] for _ in colours]
    alike = [0] * len(colours)  # for each producer its edges to consumers of its colour
    for producer, consumer in edges:
        alike[producer] += colours[producer] == colours[consumer]
        if producer != consumer:  # that one has its own colour whatever it is
            touching[producer].append((producer, consumer))
            touching[consumer].append((producer, consumer))
    cost = sum(map(bool, alike))

    def flip(node: int) -> int:
        """Flips a node; returns how many conflicts that makes."""
        made = 0
        for producer, consumer in touching[node]:
            before = alike[producer]
            alike[producer] += -1 if colours[producer] == colours[consumer] else 1
            made += (alike[producer] > 0) - (before > 0)
        colours[node] ^= 1
        return made

    candidates = [(node,) for node in range(len(colours))] + [tuple(edge) for edge in edges]
    improved = cost > 0
    while improved:
        improved = False
        for candidate in candidates:
            flipped = set(candidate)
            change = sum(map(flip, flipped))
            if change < 0:
                cost, improved = cost + change, True
            else:
                for node in flipped:
                    flip(node)
