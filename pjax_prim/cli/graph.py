"""Print the constraint graph of a network on one batch."""

import argparse
from typing import Any

import pjax_prim as pjp

from .. import data
from ..training import make_loss
from .options import NETWORK, add_options, console, make_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pjax-prim graph`."""
    add_options(parser, NETWORK)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the graph; returns its size."""
    config = make_config(options)
    dataset = config.load_data()
    batch = data.batch(dataset, config.batch_size, seed=config.seed, step=0)
    graph = pjp.constraint_graph(make_loss(config))(config.make_model(dataset), *batch)
    console(options).print(str(graph), markup=False, soft_wrap=True)
    parameters = sum(node.constraint is None for node in graph.nodes)
    return {
        "parameters": parameters,
        "constraint_nodes": len(graph.nodes) - parameters,
        "identities": graph.identities,
        "constraints": sum(node.constraints for node in graph.nodes),
        "copies": sum(node.copies for node in graph.nodes),
    }
