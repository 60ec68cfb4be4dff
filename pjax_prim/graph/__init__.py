"""How a function becomes its constraint graph: trace, sort, fuse, colour, print."""

from .build import build_graph as build_graph
from .graph import ConstraintGraph as ConstraintGraph
from .graph import Node as Node
from .graph import Use as Use
