"""Differential equations and implicit layers."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .registry import Problem, key, model, normal, squared


class Field(eqx.Module):
    """A vector field."""

    network: eqx.nn.MLP

    def __init__(self, out: int | None = None):
        self.network = eqx.nn.MLP(2, out or 2, 8, 1, jax.nn.softplus, jnp.tanh, key=key())

    def __call__(self, t: Any, y: Array, args: Any) -> Array:
        return self.network(y)


def ode(adjoint: Callable[[Any], Any], solver: str = "Tsit5", adaptive: bool = True) -> Problem:
    import diffrax

    controller = diffrax.PIDController(1e-3, 1e-3) if adaptive else diffrax.ConstantStepSize()
    times, starts = jnp.linspace(0.0, 1.0, 5), normal(3, 2)

    def loss(field: Any) -> Array:
        def solve(y: Array) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(field), getattr(diffrax, solver)(), 0.0, 1.0, 0.1, y, max_steps=64,
                saveat=diffrax.SaveAt(ts=times), stepsize_controller=controller, adjoint=adjoint(diffrax),
            ).ys  # fmt: skip

        return squared(jax.vmap(solve)(starts))

    return Field(), loss


model("neural ODE, adaptive steps, checkpointed", "diffrax")(
    lambda: ode(lambda diffrax: diffrax.RecursiveCheckpointAdjoint())
)
model("neural ODE, direct adjoint", "diffrax")(
    lambda: ode(lambda diffrax: diffrax.DirectAdjoint(), adaptive=False)
)
model("neural ODE, backsolve adjoint", "diffrax")(lambda: ode(lambda diffrax: diffrax.BacksolveAdjoint()))
model("neural ODE, implicit solver", "diffrax")(
    lambda: ode(lambda diffrax: diffrax.RecursiveCheckpointAdjoint(), "Kvaerno3")
)


@model("neural controlled differential equation", "diffrax")
def cde() -> Problem:
    import diffrax

    times = jnp.linspace(0.0, 1.0, 6)
    data = jnp.concatenate([times[:, None], normal(6, 1)], 1)
    coefficients = diffrax.backward_hermite_coefficients(times, data)

    class Control(Field):
        def __call__(self, t: Any, y: Array, args: Any) -> Array:
            return self.network(y).reshape(2, 2)

    def loss(m: Any) -> Array:
        control = diffrax.CubicInterpolation(times, coefficients)
        term = diffrax.ControlTerm(m[0], control).to_ode()
        start = m[1](data[0])
        return squared(diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.1, start).ys)

    return (Control(4), eqx.nn.Linear(2, 2, key=key(1))), loss


@model("neural stochastic differential equation", "diffrax")
def sde() -> Problem:
    import diffrax

    def loss(m: Any) -> Array:
        path = diffrax.VirtualBrownianTree(0.0, 1.0, 1e-2, (2,), key(3))

        def scale(t: Any, y: Array, args: Any) -> Any:
            import lineax

            return lineax.DiagonalLinearOperator(jax.nn.softplus(m[1](t, y, args)))

        terms = diffrax.MultiTerm(diffrax.ODETerm(m[0]), diffrax.ControlTerm(scale, path))
        solution = diffrax.diffeqsolve(terms, diffrax.Heun(), 0.0, 1.0, 0.05, normal(2))
        return squared(solution.ys)

    return (Field(), Field()), loss


class Cell(eqx.Module):
    """A contraction."""

    weight: Array
    into: eqx.nn.Linear

    def __init__(self, inputs: int = 3) -> None:
        self.weight, self.into = 0.2 * normal(4, 4), eqx.nn.Linear(inputs, 4, key=key())

    def __call__(self, z: Array, x: Array) -> Array:
        return jnp.tanh(self.weight @ z + self.into(x))


@model("deep equilibrium, implicit adjoint", "banax")
def equilibrium() -> Problem:
    import banax
    from banax.adjoint import Implicit
    from banax.solver import Picard

    x = normal(3)

    def loss(m: Any) -> Array:
        adjoint = Implicit(Picard(rtol=1e-6), Picard(rtol=1e-6))
        found: banax.Solution = adjoint((lambda z, m, x: m(z, x), (m, x)), jnp.zeros(4))
        return squared(found.value)

    return Cell(), loss


@model("fixed point of optimistix", "optimistix")
def fixed_point() -> Problem:
    import optimistix

    x = normal(3)

    def loss(m: Any) -> Array:
        solver = optimistix.FixedPointIteration(1e-6, 1e-6)
        return squared(optimistix.fixed_point(lambda z, m: m(z, x), solver, jnp.zeros(4), m).value)

    return Cell(), loss


@model("least squares inside (optimistix)", "optimistix")
def least_squares() -> Problem:
    import optimistix

    x = normal(3)

    def loss(m: Any) -> Array:
        solver = optimistix.LevenbergMarquardt(1e-5, 1e-5)
        found = optimistix.least_squares(lambda z, m: m(z, x) - 0.5 * z, solver, jnp.zeros(4), m, throw=False)
        return squared(found.value)

    return Cell(), loss


@model("linear solve (lineax)", "lineax")
def linear_solve() -> Problem:
    import lineax

    def loss(a: Array) -> Array:
        matrix = lineax.MatrixLinearOperator(a @ a.T + jnp.eye(4), lineax.positive_semidefinite_tag)
        return squared(lineax.linear_solve(matrix, normal(4), lineax.CG(1e-6, 1e-6)).value)

    return normal(4, 4), loss


class Keyed(Cell):
    """A contraction with the arguments that anchorax passes on."""

    def __call__(self, z: Array, x: Array, *, inference: bool = False, key: Any = None) -> Array:
        return super().__call__(z, x)


@model("deep equilibrium without a Jacobian", "anchorax")
def jacobian_free() -> Problem:
    from anchorax.backprop import jfb
    from anchorax.solvers import anderson

    x = normal(4)

    def loss(m: Any) -> Array:
        trained, rest = eqx.partition(m, eqx.is_inexact_array)
        return squared(jfb((trained, x), rest, solver=anderson, key=key(3), eps=1e-5)[0])

    return Keyed(4), loss
