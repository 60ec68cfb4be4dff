"""Two-colouring against every colouring there is."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from pjax_prim.graph.colour import conflicts, two_colour


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], int]:
    """A number of nodes, edges from earlier to later ones, and an anchor."""
    count = draw(st.integers(1, 8))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = [] if not pairs else draw(st.lists(st.sampled_from(pairs), unique=True, max_size=12))
    return count, edges, draw(st.integers(0, count - 1))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(graphs())
def test_as_few_identities_as_possible(graph: tuple[int, list[tuple[int, int]], int]) -> None:
    count, edges, anchor = graph
    colours = two_colour(count, edges, anchor)
    assert colours[anchor] == 0
    assert set(colours) <= {0, 1}
    fewest = min(len(conflicts(other, edges)) for other in product((0, 1), repeat=count))
    assert len(conflicts(colours, edges)) == fewest


def test_bipartite_graphs_need_none() -> None:
    chain = [(i, i + 1) for i in range(500)]
    assert conflicts(two_colour(501, chain, 500), chain) == set()
