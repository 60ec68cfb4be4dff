"""What moves the parameters of a run, by the names that the command line knows."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, TypeAlias

from .. import solvers as pjs


@dataclass(frozen=True)
class ProjectionSolver:
    """A solver that moves the parameters of a run itself; all else that a run knows of it follows.

    - `kind`: its class. Those of its fields that `Method` has, too, are settings of a run.
    - `average`: the decay of the moving average of the parameters where none is asked for; 0 for none.
    """

    kind: type[pjs.AbstractSolver]
    average: float = 0.0

    @property
    def keeps_parameters_alone(self) -> bool:
        """Whether every step begins with a forward pass, so that nothing is kept but parameters."""
        return self.kind.forms == ("consensus",)

    def takes(self, setting: str) -> bool:
        """Whether a field of the class can be set: a form that is not the only one, a metric of copies."""
        if setting == "form":
            return len(self.kind.forms) > 1
        if setting == "metric":
            return not self.keeps_parameters_alone
        return setting in {item.name for item in fields(self.kind)}


PROJECTION_SOLVERS: dict[str, ProjectionSolver] = {
    "ap": ProjectionSolver(pjs.AlternatingProjections),
    "ar": ProjectionSolver(pjs.AlternatingReflections),
    "dr": ProjectionSolver(pjs.DouglasRachford),
    "dm": ProjectionSolver(pjs.DifferenceMap),
    "cp": ProjectionSolver(pjs.CyclicProjections),
    "cdr": ProjectionSolver(pjs.CyclicDouglasRachford),
    "ep": ProjectionSolver(pjs.ExtrapolatedProjections),
    "jp": ProjectionSolver(pjs.JointProjections, average=0.999),
}
ACCELERATIONS: dict[str, Callable[..., pjs.AbstractSolver]] = {
    "anderson": pjs.Anderson,
    "restarted": pjs.Restarted,
}
OPTIMISERS: dict[str, str | None] = {
    "displacement": None,
    "gradient": None,
    "adam": "adam",
    "sgd": "sgd",
}
"""What hands a direction to an optimiser of optax, and the optimiser that its name says."""

LEARNING_RATES = {("displacement", "adam"): 2e-3, ("gradient", "adam"): 1e-3, ("gradient", "sgd"): 0.1}
"""The learning rates by direction and optimiser; others have no default."""

FROM_FORWARD_PASS = (
    *OPTIMISERS,
    *(name for name, solver in PROJECTION_SOLVERS.items() if solver.keeps_parameters_alone),
)
"""The solvers whose every step begins with a forward pass, so that they keep nothing but parameters."""

if TYPE_CHECKING:
    Solver: TypeAlias = str
    Acceleration: TypeAlias = str
else:  # the command line reads its choices here
    Solver = Literal[(*PROJECTION_SOLVERS, *OPTIMISERS)]
    Acceleration = Literal[tuple(ACCELERATIONS)]
