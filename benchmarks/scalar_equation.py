"""The error of the dot projection's scalar equation by its steps: `python -m benchmarks.scalar_equation`.

The largest relative error of u over queries whose S, D and r are spread over many decades, with zeros, and
with r where the terms that saturate all but meet it; in units of the rounding that such a query allows. The
exact root is found by bisection in extended precision.
"""

from unittest.mock import patch

import jax

from pjax_prim.primitives import dot
from tests.primitives.test_multiplier import rounding_errors, sample

DECADES = {"float32": 8, "float64": 25}
COUNT = 100_000


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    print("| steps | float32, 16 decades | float64, 50 decades |\n|---|---|---|")
    for steps in range(7):
        cells = []
        for dtype, decades in DECADES.items():
            with patch.dict(dot._STEPS, {dtype: steps}):
                errors, regular = rounding_errors(*(x.astype(dtype) for x in sample(COUNT, decades)))
            used = " (used)" if dot._STEPS[dtype] == steps else ""
            cells.append(f"{errors[regular].max():.2g}{used}")
        print(f"| {steps} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
