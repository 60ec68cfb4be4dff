"""Projections onto whole sets of constraints, in the expanded and in the compressed form."""

from .base import AbstractProblem as AbstractProblem
from .base import Form as Form
from .compressed import CompressedProblem as CompressedProblem
from .divided import DividedProblem as DividedProblem
from .expanded import ExpandedProblem as ExpandedProblem
from .expanded import Summary as Summary
from .placement import Placement as Placement
from .placement import State as State
