"""One rule per JAX primitive: what it means as a constraint, or that it only moves data."""

from . import (  # noqa: F401  registers the rules
    convolution,
    cumulative,
    elementwise,
    indexing,
    linear,
    logsumexp,
    losses,
    normalize,
    pooling,
    reductions,
    scalar,
    selection,
    softmax,
    steps,
    structural,
    threshold,
)
from .constraint import AbstractConstraint as AbstractConstraint
from .constraint import Projected as Projected
from .registry import ConstraintRule as ConstraintRule
from .registry import Movement as Movement
from .registry import RuleContext as RuleContext
from .registry import is_loss as is_loss
from .registry import meaning_of as meaning_of
from .registry import register_projection as register_projection
from .registry import rule_of as rule_of
