"""`Task`: all that training needs to know of a problem."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from ..arguments import is_data, is_trained
from ..errors import ArgumentError
from ..primitives._arguments import compute_dtype
from ..restricting import Restrictions, pairs_of, project_params

Values = dict[str, "Mean"]


class Mean(eqx.Module):
    """A mean as a sum and its weight, so that the means of batches of different weights add up.

    - `total`: the sum of all weighted values; `weight`: the sum of their weights. Numbers.
    """

    total: Array
    weight: Array

    @property
    def value(self) -> Array:
        """The mean; not finite where the weight is zero."""
        return self.total / self.weight

    @classmethod
    def of(cls, values: Any, mask: Any = None) -> "Mean":
        """The mean of an array, or of the elements that a mask (or weights) of its shape keeps."""
        values = _summable(values)
        if mask is None:
            return cls(jnp.sum(values), jnp.asarray(values.size, values.dtype))
        weights = jnp.broadcast_to(_summable(mask).astype(values.dtype), values.shape)
        return cls(jnp.sum(values * weights), jnp.sum(weights))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A problem to train on: a model, a loss, data. `docs/tasks.md` has a complete example.

    **Arguments:**

    - `model`: `model(key)` gives the module, any pytree; with `stateful` a pair of it and its state, as
      `eqx.nn.make_with_state(...)(key)`. It is traced.
    - `loss`: `loss(model, batch, key)` gives a value (an array stands for its mean) or a pair of it and a
      dictionary of metrics; with `stateful`, `loss(model, state, batch, key)` gives `(value, state)` or
      `(value, state, metrics)`. `key` is None in evaluations.
    - `train`: batches without end (`pjax_prim.data.open_stream`), or a function of the seed that gives them.
    - `evaluate`: by name, an iterable of batches that ends and can be iterated again.
    - `metrics`: `metrics(model, batch)`, with `stateful` `metrics(model, state, batch)`, gives what
      evaluations report in place of the loss and its metrics.
    - `trainable`: `trainable(model)` gives what is trained, as `eqx.partition` takes it; all floating-point
      arrays by default.
    - `stateful`: whether the model has a state that the loss changes.
    - `nats`: whether the loss is a mean of negative logarithms of probabilities, so that evaluations give
      bits and perplexity, too.
    - `best`: "max NAME" or "min NAME", the figure of evaluations by which one is the best.
    - `optimiser`: `optimiser(learning_rate)` gives an optax transformation; the rate may be a schedule.
    - `shardings`: rules for parameters on a mesh (`pjax_prim.sharding.make_plan`).
    - `restrictions`: sets that trained parameters are in before, during and after training, whatever moves
      them (`pjp.project_params`): one restriction, or a mapping from patterns of paths to them.
    - `measure_gap`: whether evaluations of a run by displacement report the gap of the loss, too.
    - `baselines`: for figures of an evaluation the name and the value of a trivial prediction, to compare
      with.
    - `name`: its name in tables and folders.
    - `origin`: what the task was made of, ready for JSON; written by the command line.

    **Metrics** are numbers, arrays or `Mean`s. Over an evaluation set a number counts for as many examples
    as its batch has, an array for its elements, a `Mean` for its weight. One named `loss` takes the place of
    the loss.

    **Errors:** `ArgumentError` for a field of another kind.
    """

    model: Callable[[PRNGKeyArray], Any]
    loss: Callable[..., Any]
    train: Any
    evaluate: Mapping[str, Iterable[Any]] = field(default_factory=dict)
    metrics: Callable[..., Mapping[str, Any]] | None = None
    trainable: Callable[[Any], Any] | None = None
    stateful: bool = False
    nats: bool = False
    best: str | None = None
    optimiser: Callable[[Any], Any] | None = None
    shardings: Iterable[Any] = ()
    restrictions: Restrictions = None
    measure_gap: bool = False
    baselines: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    name: str = "task"
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("model", "loss", "metrics", "trainable", "optimiser"):
            value = getattr(self, name)
            if not callable(value) and not (value is None and name not in ("model", "loss")):
                raise ArgumentError(f"{name}: expected a function, given {value!r}")
        if not isinstance(self.evaluate, Mapping):
            raise ArgumentError(
                f"evaluate: expected a dictionary from names to batches, given {self.evaluate!r}"
            )
        pairs_of(self.restrictions)
        if self.best is not None:
            parse_best(self.best)

    def has_figures(self, names: Iterable[str]) -> bool:
        """Whether some of the names are of figures of its evaluations (`Evaluator`)."""
        return any(name.startswith(f"{place}_") for name in names for place in self.evaluate)

    def data(self, seed: int) -> Any:
        """The batches to train on, of a run with this seed."""
        return self.train(seed) if callable(self.train) else self.train

    def make_model(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """The model and its state (None for one without).

        **Errors:** `ArgumentError` where a stateful task makes no pair.
        """
        made = self.model(key)
        if not self.stateful:
            return made, None
        if not (isinstance(made, tuple) and len(made) == 2):
            raise ArgumentError(
                f"model: expected a pair of module and state of a stateful task, given {made!r}"
            )
        return made[0], made[1]

    def restrict(self, trained: Any) -> Any:
        """The trained arrays of a model at the nearest points of the sets that they are restricted to."""
        return trained if self.restrictions is None else project_params(trained, self.restrictions)

    def split(self, model: Any) -> tuple[Any, Any]:
        """The trained arrays of a model, and all else; None in the place of the other part's leaves.

        **Errors:** `ArgumentError` where nothing is trained.
        """
        wanted, frozen = model, None
        if self.trainable is not None:
            wanted, frozen = eqx.partition(model, self._chosen(model))
        trained, others = eqx.partition(wanted, is_trainable)
        if not jax.tree.leaves(trained):
            raise ArgumentError("trainable: expected floating-point arrays to train, found none in the model")
        return trained, others if frozen is None else eqx.combine(frozen, others)

    def _chosen(self, model: Any) -> Any:
        """Says of each leaf whether `trainable` takes it, also where shapes stand for arrays."""
        assert self.trainable is not None
        trainable = self.trainable
        shapes, rest = eqx.partition(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))
        found: list[Any] = []

        def look(arrays: Any) -> None:
            whole = eqx.combine(arrays, rest)
            kept = eqx.filter(whole, trainable(whole))
            found.append(jax.tree.map(lambda x: x is not None, kept, is_leaf=lambda x: x is None))

        if jax.tree.leaves(shapes):
            jax.eval_shape(look, shapes)
        else:
            look(shapes)
        return found[0]


def parse_best(text: str) -> tuple[float, str]:
    """The sign by which a figure is the larger the better, and its name, of "max NAME" or "min NAME"."""
    kind, _, name = text.partition(" ")
    if kind not in ("max", "min") or not name.strip():
        raise ArgumentError(
            f"best: expected 'max NAME' or 'min NAME' such as 'min test_loss', given {text!r}"
        )
    return (1.0 if kind == "max" else -1.0), name.strip()


@dataclass(frozen=True)
class TaskLoss:
    """The loss of a task as a function of the trained arrays, in the form that all methods take.

    **Arguments:** `compute_dtype`: what floating-point arrays of model and batch are converted to, None as
    they are.
    """

    task: Task
    compute_dtype: str | None = None

    def value(self, trained: Any, frozen: Any, state: Any, batch: Any, key: PRNGKeyArray | None) -> Array:
        """The loss alone, which is a number or an array."""
        return self(trained, frozen, state, batch, key)[0]

    def __call__(
        self, trained: Any, frozen: Any, state: Any, batch: Any, key: PRNGKeyArray | None
    ) -> tuple[Array, tuple[Any, Mapping[str, Any]]]:
        """The loss, the new state (None of a model without one) and the metrics.

        **Errors:** `ArgumentError` for results of another form.
        """
        model, given = eqx.combine(trained, frozen), batch
        if self.compute_dtype is not None:
            model, batch = _converted((model, batch), jnp.dtype(self.compute_dtype))
        if self.task.stateful:
            found = self.task.loss(model, state, batch, key)
            if not (isinstance(found, tuple) and len(found) in (2, 3)):
                raise ArgumentError(
                    "loss: expected (value, state) or (value, state, metrics) of a stateful task, "
                    f"given {found!r}"
                )
            value, new, metrics = (*found, {})[:3]
            new = jax.tree.map(lambda a, b: a.astype(b.dtype) if eqx.is_array(b) else a, new, state)
        else:
            found = self.task.loss(model, batch, key)
            value, metrics = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
            new = None
        if not eqx.is_array_like(value) or not isinstance(metrics, Mapping):
            raise ArgumentError(
                "loss: expected a number or an array, or a pair of it and a dictionary of metrics, "
                f"given {found!r}"
            )
        value = jnp.asarray(value)
        if self.compute_dtype is not None:
            value = value.astype(jnp.result_type(*_floats(trained), *_floats(given)))
        return value, (new, metrics)

    def figures(self, model: Any, state: Any, batch: Any) -> Values:
        """What an evaluation sums over its batches: the means of one of them, of the model in inference."""
        task = self.task
        model = eqx.nn.inference_mode(model)
        if task.metrics is not None:
            found = task.metrics(model, state, batch) if task.stateful else task.metrics(model, batch)
            if not isinstance(found, Mapping):
                raise ArgumentError(f"metrics: expected a dictionary, given {found!r}")
        else:
            value, (_, metrics) = self(*task.split(model), state, batch, None)
            found = {"loss": value, **metrics}
        return {name: as_mean(x, batch) for name, x in found.items()}


def as_mean(value: Any, batch: Any) -> Mean:
    """A metric of a batch as a `Mean`."""
    if isinstance(value, Mean):
        return value
    value = _summable(value)
    if value.ndim:
        return Mean.of(value)
    rows = jnp.asarray(rows_of(batch), value.dtype)
    return Mean(value * rows, rows)


def rows_of(batch: Any) -> int:
    """How many examples a batch has: the leading axis of its first array that has one.

    **Errors:** `ArgumentError` where none has.
    """
    for leaf in jax.tree.leaves(batch):
        if jnp.ndim(leaf):
            return int(jnp.shape(leaf)[0])
    raise ArgumentError(f"batch: expected arrays with the examples along their first axis, given {batch!r}")


def _summable(values: Any) -> Array:
    """The values as numbers of at least 32 bits, in which counts and sums are exact enough."""
    values = jnp.asarray(values)
    return values.astype(compute_dtype(values.dtype))


def is_trainable(leaf: Any) -> bool:
    """Whether a leaf is an array, or stands for one, that can be trained."""
    return is_data(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _floats(tree: Any) -> list[Any]:
    return [x.dtype for x in jax.tree.leaves(tree) if is_trained(x)]


def _converted(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if is_trained(x) else x, tree)
