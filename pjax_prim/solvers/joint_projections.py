"""Projections onto all constraints of a batch at once, linearised."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from ..problem import ConsensusProblem, Form, State
from ..settings import Setting, check_count
from .base import AbstractSolver


class JointProjections(AbstractSolver[ConsensusProblem]):
    r"""w <- w + d, the nearest point to w where, to first order, every loss has what it asks for.

    With y the values that reach the losses in a forward pass, P the projections of the losses (their proximal
    operators, with steps of their own) and J the derivative of y by the parameters, d is

    $$\arg\min_d |d| \quad\text{among those with the least}\quad |J d - (P(y) - y)|,$$

    approached by `iterations` steps of conjugate gradients from zero (CGLS): after k of them d is the best
    combination of k directions, and few keep it from fitting what only this batch asks for. The mean that
    other solvers take over copies and examples moves parameters by a fraction of what any of them asks for,
    and a factor that makes up for it has to be found for each problem. Here the examples are projected
    jointly, so that what they have in common is not divided by their number, and there is no rate:
    P(y) - y has the units of what reaches the loss, and lengths in parameters follow.

    Where the gap of the new point is not below that of the old one, d is halved, at most `HALVINGS` times;
    then w stays. A number that is minimised asks for as much wherever it is: in place of its gap counts the
    distance from what it asked for at w.

    **Arguments:**

    - `iterations`: the number of steps, at least 1. More of them satisfy a batch more closely.
    - `form`: only "consensus": the state is the parameters.

    The gap is that of `pjp.gap`, of the point that the step led to.

    **Cost:** each iteration a derivative forward and one back, about a gradient; a step with 10 of them some
    12 gradients, and memory for one.

    Nothing passes through step functions, whose derivative is zero (`pjp.displacement` goes through them).
    The linearised constraints of a batch are a block in the method of Kaczmarz (Elfving, 1980); conjugate
    gradients: Hestenes and Stiefel, 1952; in place of a gradient step on a batch: Martens, 2010.
    """

    iterations: Setting = 10
    form: Form = eqx.field(static=True, default="consensus")
    forms: ClassVar[tuple[Form, ...]] = ("consensus",)
    two_sets: ClassVar[bool] = False

    def __check_init__(self) -> None:
        self._only_unit("has parameters of one weight")
        check_count("iterations", self.iterations, 1)

    def step(self, problem: ConsensusProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        return problem.approach(state, self.iterations)
