"""Extrapolated projections from consensus."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from ..problem import ConsensusProblem, Form, State
from ..pullbacks import WEIGHT
from ..settings import Setting, check_positive
from .base import AbstractSolver, combine


class ExtrapolatedProjections(AbstractSolver[ConsensusProblem]):
    r"""w <- w + `rate` d, where d is the displacement of one extrapolated sweep of projections.

    A step goes from the losses back to the parameters, as a step of cyclic projections does, and then
    forward again: all operations hold, and only the losses are left to satisfy. What keeps plain projections
    from teaching the first layers is taken back block by block. A mean over M copies divides a displacement
    by M: their sum is taken. A projection divides a change between its inputs and its output: what it keeps
    from its inputs is taken back.

    The displacement is that of `pjp.displacement`, here without an optimiser: a parameter moves by the mean
    over examples of what its constraints ask for. Extrapolation by blocks: Pierra, 1984; Combettes, 1997.

    **Arguments:**

    - `rate`: above zero. Where it is too large the sequence diverges, as that of gradient descent.
    - `lam`, `weight`: as in `pjp.displacement`.
    - `form`: only "consensus": the state is the parameters.

    The gap is that of `pjp.gap`: how far the losses' projections (with steps of their own) move the outputs.
    """

    rate: Setting = 0.5
    lam: Setting | None = None
    weight: Setting = WEIGHT
    form: Form = eqx.field(static=True, default="consensus")
    forms: ClassVar[tuple[Form, ...]] = ("consensus",)
    two_sets: ClassVar[bool] = False

    def __check_init__(self) -> None:
        self._only_unit("has a weight of its own; expected weight=...")
        check_positive(rate=self.rate, weight=self.weight)
        if self.lam is not None:
            check_positive(lam=self.lam)

    def step(self, problem: ConsensusProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        moves, squared = problem.displace(state, self.lam, self.weight)
        moved = combine(lambda x, move: x + self.rate * move, state, moves)
        return problem.restricted(moved), squared
