"""The forms of a state by their names."""

from .base import AbstractProblem, Form
from .compressed import CompressedProblem
from .consensus import ConsensusProblem
from .divided import DividedProblem
from .expanded import ExpandedProblem

PROBLEMS: dict[Form, type[AbstractProblem]] = {
    "compressed": CompressedProblem,
    "expanded": ExpandedProblem,
    "divided": DividedProblem,
    "consensus": ConsensusProblem,
}
