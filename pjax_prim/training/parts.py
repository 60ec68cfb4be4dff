"""What a run is made of before it begins, and its steps, compiled when they are needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from jax.stages import Lowered

from ..checkpoint import load_params
from ..data import Stream, open_stream
from ..errors import DataError
from ..sharding.plan import bytes_on_device
from .clock import Clock
from .config import TrainConfig
from .placing import Packed, PackedStep, Placing, donating, is_abstract
from .state import TrainState, make_state
from .steps import Step, make_step
from .task import Task, TaskLoss

Kind = tuple[bool, int, bool, tuple[Any, ...]]
"""What tells one step from another: whether it begins a batch, how many steps of it, whether it ends it;
shapes and dtypes of the batch."""


def _as_it_is(tree: Any) -> Any:
    return tree


@dataclass(frozen=True)
class Parts:
    """What a run needs before it begins; nothing is compiled to make it.

    - `stream`: of batches.
    - `shapes`, `batch`: shapes and dtypes of the state before the first batch, and of a batch.
    """

    task: Task
    config: TrainConfig
    stream: Stream
    shapes: TrainState
    batch: Any
    placing: Placing

    @classmethod
    def make(
        cls,
        task: Task,
        config: TrainConfig,
        devices: Any = None,
        convert_batch: Callable[[Any], Any] = _as_it_is,
        convert_state: Callable[[Any], Any] = _as_it_is,
    ) -> "Parts":
        """The parts of a run. `devices`: see `Placing`; the shapes of batch and state may be converted.

        **Errors:** those of `train` before anything is compiled.
        """
        stream = open_stream(task.data(config.seed))
        batch = convert_batch(batch_shapes(stream))
        key = jax.random.key(config.seed)
        shapes = convert_state(eqx.filter_eval_shape(partial(make_state, config, task), key))
        loss = TaskLoss(task, config.method.compute_dtype)
        # Traced once before anything is written or compiled: what is wrong with it is an error now.
        eqx.filter_eval_shape(loss, *task.split(shapes.model), shapes.model_state, batch, key)
        return cls(task, config, stream, shapes, batch, Placing(config, task, shapes, batch, devices))

    def init(self, source: str | Path | None = None) -> TrainState:
        """The state before the first batch, in its place, with the parameters of a run or a file if one is
        named."""
        start = []
        if source is not None:
            like = self.before().model
            start = [load_params(source, like)]
        key = jax.random.key(self.config.seed)
        return self.placing.init(partial(make_state, self.config, self.task), key, *start)

    def make_step(self, start: int = 0) -> Step:
        """The step from so many steps of a batch on, on the run's mesh."""
        return make_step(self.config, self.task, start, self.placing.placement, self.placing.gathering)

    def before(self) -> TrainState:
        """The shapes of the state before the first batch, with their shardings."""
        return self.placing.abstract(self.shapes)

    def between(self) -> TrainState:
        """The shapes of the state in the middle of a batch, with their shardings."""
        after, _ = eqx.filter_eval_shape(self.make_step(), self.shapes, self.batch)
        return self.placing.abstract(after)

    def kind(self, start: int, batch: Any) -> Kind:
        """What a step from `start` steps of a batch on depends on."""
        method = self.config.method
        count = method.chunk(start)
        shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(batch))
        return start == 0, count, start + count == method.steps, shapes

    def starts(self) -> dict[Kind, int]:
        """The different steps of a batch, and where the first of each kind begins."""
        method = self.config.method
        found: dict[Kind, int] = {}
        for start in range(0, method.steps, method.chunk_steps):
            found.setdefault(self.kind(start, self.batch), start)
        return found

    def held(self) -> dict[str, int]:
        """Bytes of the arguments of a step on each device, by kind of array."""
        state = self.before()
        trained, frozen = self.task.split(state.model)
        best = None if state.best is None else state.best.params
        kinds = {
            "parameters": trained, "frozen": (frozen, state.model_state), "optimiser": state.memory,
            "average": state.averaged, "best": best, "batch": self.placing.abstract_batch(self.batch),
        }  # fmt: skip
        sizes = {
            kind: sum(bytes_on_device(x) for x in jax.tree.leaves(tree) if is_abstract(x))
            for kind, tree in kinds.items()
        }
        return {kind: size for kind, size in sizes.items() if size}

    def lower(self, start: int = 0) -> tuple[Lowered, Callable[[], tuple[Any, Any]]]:
        """The step from so many steps of a batch on, lowered for where its arrays lie; see `Placing.jit`."""
        state = self.between() if start else self.before()
        packed = Packed.of(state, is_abstract)
        batch = self.placing.abstract_batch(self.batch)
        jitted, after = self.placing.jit(self.make_step(start), packed, batch)
        with donating():
            return jitted.lower(packed.leaves, batch), after


def batch_shapes(stream: Stream) -> Any:
    """Shapes and dtypes of the first batch of a stream. `DataError` where there is none."""
    for batch, _ in stream.read(stream.start, 1):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)), batch
        )
    raise DataError("train: expected batches, found none")


class CompiledSteps:
    """The steps from each position in a batch, compiled when they are first needed.

    **Arguments:** `compiled`: those that are there already.
    """

    def __init__(self, parts: Parts, clock: Clock, compiled: Mapping[Kind, PackedStep] | None = None):
        self._parts = parts
        self._clock = clock
        self._compiled: dict[Kind, PackedStep] = dict(compiled or {})

    def __call__(self, start: int, packed: Packed, batch: Any) -> tuple[Packed, dict[str, Any]]:
        """A step from `start` steps of the batch on."""
        kind = self._parts.kind(start, batch)
        is_new = kind not in self._compiled
        if is_new:
            self._compiled[kind] = self._parts.placing.compile(self._parts.make_step(start), packed, batch)
        with self._clock.on("compile" if is_new else "steps"):
            return self._compiled[kind](packed, batch)
