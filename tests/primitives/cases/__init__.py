"""The table of projections: one row each, with queries and an independent slow minimiser.

All numbers here are float64 NumPy with a leading batch axis. A minimiser shares nothing with the
library: distances to hyperplanes, exhaustive search over pieces, one- and two-dimensional
searches, bisection with SciPy's Wright omega function. One file per family.
"""

import pytest

from . import affine, logsumexp, losses, normalize, pieces, products, scalar, softmax
from .case import Case as Case
from .case import Rows as Rows
from .case import norm2 as norm2

CASES = [
    *affine.CASES, *normalize.CASES, *pieces.CASES, *products.CASES, *losses.CASES, *scalar.CASES,
    *softmax.CASES, *logsumexp.CASES,
]  # fmt: skip

_COMMON = ("abs", "tanh", "exp", "log", "gelu", "sqrt", "sin", "reciprocal", "clamp")


def is_rare(case: Case) -> bool:
    """Whether a row is a scalar function that only some tests take by default: one piece of code does all."""
    name = str(case)
    return "function=" in name and not any(f"function={common}," in name for common in _COMMON)


ROWS = [pytest.param(case, marks=pytest.mark.slow if is_rare(case) else ()) for case in CASES]
"""All rows; those of the rarer scalar functions are slow tests."""
