"""What a run is made of before it begins, and its steps, compiled when they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from ..checkpoint import import_params, restore_params
from ..data import Stream, open_stream
from ..errors import DataError
from .clock import Clock
from .config import TrainConfig
from .placing import Packed, PackedStep, Placing
from .state import TrainState, make_state
from .steps import Step, make_step
from .task import Task, TaskLoss


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
            is_file = Path(source).is_file()
            start = [import_params(source, like) if is_file else restore_params(source, like)]
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


def batch_shapes(stream: Stream) -> Any:
    """Shapes and dtypes of the first batch of a stream. `DataError` where there is none."""
    for batch, _ in stream.read(stream.start, 1):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)), batch
        )
    raise DataError("train: expected batches, found none")


class CompiledSteps:
    """The steps from each position in a batch, compiled when they are first needed."""

    def __init__(self, parts: Parts, clock: Clock):
        self._parts = parts
        self._clock = clock
        self._compiled: dict[Any, PackedStep] = {}

    def __call__(self, start: int, packed: Packed, batch: Any) -> tuple[Packed, dict[str, Any]]:
        """A step from `start` steps of the batch on."""
        method = self._parts.config.method
        count = method.chunk(start)
        shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
        kind = (start == 0, count, start + count == method.steps, shapes)
        is_new = kind not in self._compiled
        if is_new:
            self._compiled[kind] = self._parts.placing.compile(self._parts.make_step(start), packed, batch)
        with self._clock.on("compile" if is_new else "steps"):
            return self._compiled[kind](packed, batch)
