"""The table of projections: one row each, with queries and an independent slow minimiser.

All numbers here are float64 NumPy with a leading batch axis. A minimiser shares nothing with the
library: distances to hyperplanes, exhaustive search over pieces, one- and two-dimensional
searches, bisection with SciPy's Wright omega function. One file per family.
"""

from . import affine, losses, normalize, pieces, products, scalar
from .case import Case as Case
from .case import Rows as Rows
from .case import norm2 as norm2

CASES = [*affine.CASES, *normalize.CASES, *pieces.CASES, *products.CASES, *losses.CASES, *scalar.CASES]
