"""Softmax, logsumexp and layer norm as the library has them and as one: `python -m benchmarks.compositions`.

A vector x is to be such that f(x) is a target, f(x') of a random x'. Alternating projections between f's
constraints and the loss, once with f as the library takes it apart, once with {(x, y): y = f(x)} as one
constraint, whose nearest point is found by Gauss-Newton steps with a line search to rounding. Shown is the
median over problems of |f(x) - target|^2 relative to the start.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import pjax_prim as pjp

STEPS = (1, 10, 100, 1000)
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "softmax": jax.nn.softmax,
    "logsumexp": lambda x: jax.nn.logsumexp(x, keepdims=True),
    "layer norm": lambda x: (x - jnp.mean(x)) * jax.lax.rsqrt(jnp.var(x) + 1e-5),
}


def project(function: Callable[[Array], Array], x: Array, y: Array) -> Array:
    """The nearest x' to the query: argmin |x' - x|^2 + |f(x') - y|^2, a local minimum of it."""

    def cost(t: Array) -> Array:
        return jnp.sum(jnp.square(t - x)) + jnp.sum(jnp.square(function(t) - y))

    def newton(_: int, t: Array) -> Array:
        jacobian = jax.jacobian(function)(t)
        gradient = (t - x) + jacobian.T @ (function(t) - y)
        step = jnp.linalg.solve(jnp.eye(t.size) + jacobian.T @ jacobian, gradient)
        tried = t - step * 0.5 ** jnp.arange(12)[:, None]
        costs = jax.vmap(cost)(tried)
        best = jnp.argmin(costs)
        return jnp.where(costs[best] < cost(t), tried[best], t)

    return jax.lax.fori_loop(0, 30, newton, x)


def whole(function: Callable[[Array], Array], start: Array, targets: Array, steps: int) -> Array:
    """Alternating projections with f as one constraint, in the order of the library's graph."""

    def one(x: Array, target: Array) -> Array:
        def step(_: int, held: tuple[Array, Array]) -> tuple[Array, Array]:
            x, y = held
            x = project(function, x, y)
            return x, 0.5 * (function(x) + target)  # the proximal step of half the squared error at lam 1

        return jax.lax.fori_loop(0, steps, step, (x, 0.5 * (function(x) + target)))[0]

    return jax.jit(jax.vmap(one))(start, targets)


def library(function: Callable[[Array], Array], start: Array, targets: Array, steps: int) -> Array:
    """The same with the constraints that the library makes of f."""

    def loss(x: Array) -> Array:
        return pjp.squared_error(jax.vmap(function)(x), targets)

    return pjp.solve(loss, start, solver=pjp.AlternatingProjections(), max_steps=steps).params


def squared_errors(function: Callable[[Array], Array], x: Array, targets: Array) -> Array:
    return jnp.sum(jnp.square(jax.vmap(function)(x) - targets), -1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=16, help="of the vectors (default %(default)s)")
    parser.add_argument("--problems", type=int, default=32)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    keys = jax.random.split(jax.random.key(0), 2)
    start, other = (jax.random.normal(key, (options.problems, options.size)) for key in keys)
    print(f"| function | form | {' | '.join(f'{n} steps' for n in STEPS)} |")
    print("|---" * (2 + len(STEPS)) + "|")
    for name, function in FUNCTIONS.items():
        targets = jax.vmap(function)(other)
        before = squared_errors(function, start, targets)
        for form, run in (("the library's", library), ("one, by Newton's method", whole)):
            errors = (squared_errors(function, run(function, start, targets, n), targets) for n in STEPS)
            cells = (f"{np.median(error / before):.2g}" for error in errors)
            print(f"| {name} | {form} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
