"""Projections onto whole sets of constraints, in several forms of the state."""

from .base import AbstractProblem as AbstractProblem
from .base import Form as Form
from .compressed import CompressedProblem as CompressedProblem
from .consensus import ConsensusProblem as ConsensusProblem
from .divided import DividedProblem as DividedProblem
from .expanded import ExpandedProblem as ExpandedProblem
from .expanded import Summary as Summary
from .placement import Placement as Placement
from .placement import State as State
