"""Print the constraint graph of a task on one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax

import pjax_prim as pjp

from ..data import open_stream
from ..training import TaskLoss
from ..training.parts import batch_shapes
from .options import Output, choose_task, parse


@dataclass(frozen=True)
class Graph:
    """The run that it is of.

    Attributes:
        seed: of the data.
    """

    seed: int = 0


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Prints the graph; returns its size."""
    file, start, rest = choose_task(arguments)
    parts = {"task": (file.options, start), "graph": (Graph, Graph()), "output": (Output, Output())}
    options = parse("graph", rest, parts, __doc__ or "")
    task = file.make(options.task)
    key = jax.random.key(options.graph.seed)
    model, state = eqx.filter_eval_shape(lambda: task.make_model(key))
    batch = batch_shapes(open_stream(task.data(options.graph.seed)))
    graph = pjp.constraint_graph(TaskLoss(task).value)(*task.split(model), state, batch, key)
    options.output.console().print(str(graph), markup=False, soft_wrap=True)
    parameters = sum(node.constraint is None for node in graph.nodes)
    return {
        "parameters": parameters,
        "constraint_nodes": len(graph.nodes) - parameters,
        "identities": graph.identities,
        "constraints": sum(node.constraints for node in graph.nodes),
        "copies": sum(node.copies for node in graph.nodes),
    }
