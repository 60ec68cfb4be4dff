"""What `docs/equinox.md` says of every layer of Equinox is so."""

import equinox as eqx
import pytest

import pjax_prim as pjp

from .layers import LAYERS, PAGE, Layer, attempt, problem, row

QUICK = ("Linear", "MaxPool1d", "Embedding")
EVERY_LAYER = pytest.mark.parametrize("layer", LAYERS, ids=str)
NOT_LAYERS = {
    *("AdaptivePool", "Conv", "ConvTranspose", "Pool", "Shared", "State", "StateIndex", "StatefulLayer")
}
"""Base classes, and what is no layer (`test_import.py` has shared ones)."""


def committed() -> dict[str, str]:
    _, _, table = PAGE.read_text().partition("| `eqx.nn` |")
    lines = [line for line in table.splitlines()[1:] if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def test_the_page_has_every_layer() -> None:
    assert list(committed()) == [str(layer) for layer in LAYERS]
    names = {name for name in vars(eqx.nn) if name[0].isupper()} - NOT_LAYERS
    assert names == {str(layer).split(",")[0] for layer in LAYERS}  # "BatchNorm, inference"


@EVERY_LAYER
def test_traces_as_the_page_says(layer: Layer) -> None:
    loss, arguments = problem(layer)
    traces = " | yes | " in committed()[str(layer)]
    try:
        graph = pjp.constraint_graph(loss)(*arguments)
    except pjp.GraphError:
        assert not traces
    else:
        assert traces and any(node.constraint is None for node in graph.nodes)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(layer, marks=[] if str(layer) in QUICK else pytest.mark.slow, id=str(layer))
        for layer in LAYERS
    ],
)
def test_trains_as_the_page_says(layer: Layer) -> None:
    assert committed()[str(layer)] == row(layer, attempt(layer))


def test_not_more_than_two_fail() -> None:
    assert sum("| no |" in line for line in committed().values()) <= 2
