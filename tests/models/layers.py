"""Every layer of `equinox.nn` in one small problem; `python -m tests.models.layers` writes the page.

A problem trains a model with the layer in it to imitate the same model with other parameters: half the
squared error of its outputs. It trains if the gap falls tenfold within `STEPS` alternating projections.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

import pjax_prim as pjp

PAGE = Path(__file__).parents[2] / "docs" / "equinox.md"
STEPS = 10_000
EXAMPLES = 4

HEAD = "| `eqx.nn` | traces | trains | |\n|---|---|---|---|\n"
"""Of the table; the text above it is written by hand."""

Make = Callable[[Array], Any]


@dataclass(frozen=True)
class Layer:
    """A model with a layer in it, `make(key)`, that maps an input of `shape`.

    - `call`: how the model is applied to one example.
    - `inputs`: makes one example from a key, if it is not normally distributed.
    - `stateful`: `make` returns the model and an `eqx.nn.State`, which the model also takes.
    - `note`: for the page.
    """

    name: str
    make: Make
    shape: tuple[int, ...]
    call: Callable[[Any, Array], Array] = lambda model, x: model(x)
    inputs: Callable[[Array, tuple[int, ...]], Array] = jr.normal
    stateful: bool = False
    note: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outcome:
    """What became of a layer: `error` of the trace, or None; the gap of the first and of a late step."""

    error: str | None
    first: float = 0.0
    last: float = 0.0

    @property
    def trains(self) -> bool:
        """Whether the gap fell tenfold."""
        return self.error is None and self.last <= self.first / 10


def after_linear(layer: eqx.Module, shape: tuple[int, ...] = (6,)) -> Make:
    """A layer that has few parameters or none, fed by a linear map."""

    def make(key: Array) -> Any:
        linear = eqx.nn.Linear(6, math.prod(shape), key=key)
        return eqx.nn.Sequential([linear, eqx.nn.Lambda(lambda x: x.reshape(shape)), layer])

    return make


def pool(kind: Any, axes: int, *sizes: int) -> Layer:
    """A pooling layer on 2 channels."""
    return Layer(kind.__name__, after_linear(kind(*sizes), (2,) + (4,) * axes), (6,))


def adaptive(kind: Any, axes: int) -> Layer:
    """An adaptive pooling layer on 2 channels."""
    return Layer(kind.__name__, after_linear(kind((2,) * axes), (2,) + (5,) * axes), (6,))


def attend(model: Any, x: Array) -> Array:
    """Self-attention, causal."""
    return model(x, x, x, jnp.tril(jnp.ones((len(x), len(x)), bool)))


def run_cell(model: Any, x: Array) -> Array:
    """The states of a GRU that reads a sequence."""

    def step(state: Array, x: Array) -> tuple[Array, Array]:
        state = model(x, state)
        return state, state

    return jax.lax.scan(step, jnp.zeros(model.hidden_size), x)[1]


def run_lstm(model: Any, x: Array) -> Array:
    """The outputs of an LSTM that reads a sequence."""

    def step(state: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
        state = model(x, state)
        return state, state[0]

    zeros = jnp.zeros(model.hidden_size)
    return jax.lax.scan(step, (zeros, zeros), x)[1]


class Fed(eqx.Module):
    """A layer with state, fed by a linear map."""

    before: eqx.nn.Linear
    layer: Any

    def __call__(self, x: Array, state: eqx.nn.State) -> Array:
        return self.layer(self.before(x), state)[0]


def with_state(make_layer: Callable[[Array], Any]) -> Callable[[Array], tuple[Any, eqx.nn.State]]:
    """A layer with state, fed by a linear map; its state apart, because it is not trained."""

    def make(key: Array) -> Any:
        return Fed(eqx.nn.Linear(6, 6, key=key), make_layer(key))

    return eqx.nn.make_with_state(make)


NN = eqx.nn
LAYERS: tuple[Layer, ...] = (
    Layer("Linear", lambda key: NN.Linear(6, 5, key=key), (6,)),
    *(Layer(f"Conv{n}d", lambda key, n=n: NN.Conv(n, 2, 3, 3, key=key), (2,) + (4,) * n) for n in (1, 2, 3)),
    *(
        Layer(
            f"ConvTranspose{n}d",
            lambda key, n=n: NN.ConvTranspose(n, 2, 3, 2, stride=2, key=key),
            (2,) + (3,) * n,
        )
        for n in (1, 2, 3)
    ),
    Layer("MLP", lambda key: NN.MLP(6, 3, 8, 2, key=key), (6,)),
    Layer("GRUCell", lambda key: NN.GRUCell(3, 4, key=key), (5, 3), run_cell, note="in a `jax.lax.scan`"),
    Layer("LSTMCell", lambda key: NN.LSTMCell(3, 4, key=key), (5, 3), run_lstm, note="in a `jax.lax.scan`"),
    pool(NN.AvgPool1d, 1, 2, 2),
    pool(NN.AvgPool2d, 2, 2, 2),
    pool(NN.AvgPool3d, 3, 2, 2),
    pool(NN.MaxPool1d, 1, 2, 2),
    pool(NN.MaxPool2d, 2, 2, 2),
    pool(NN.MaxPool3d, 3, 2, 2),
    adaptive(NN.AdaptiveAvgPool1d, 1),
    adaptive(NN.AdaptiveAvgPool2d, 2),
    adaptive(NN.AdaptiveAvgPool3d, 3),
    adaptive(NN.AdaptiveMaxPool1d, 1),
    adaptive(NN.AdaptiveMaxPool2d, 2),
    adaptive(NN.AdaptiveMaxPool3d, 3),
    Layer("LayerNorm", after_linear(NN.LayerNorm(6)), (6,)),
    Layer("RMSNorm", after_linear(NN.RMSNorm(6)), (6,)),
    Layer("GroupNorm", after_linear(NN.GroupNorm(2, 6)), (6,)),
    Layer(
        "BatchNorm, inference",
        with_state(lambda key: NN.BatchNorm(6, "batch", mode="ema", inference=True)),
        (6,),
        stateful=True,
        note="its state passed in `args`",
    ),
    Layer(
        "BatchNorm",
        with_state(lambda key: NN.BatchNorm(6, "batch", mode="batch")),
        (6,),
        stateful=True,
        note="means and variances of the batch",
    ),
    Layer(
        "Dropout",
        lambda key: NN.MLP(6, 3, 8, 1, key=key),
        (6,),
        lambda model, x: NN.Dropout(0.5)(model(x), key=jr.key(0)),
    ),
    Layer(
        "Embedding",
        lambda key: NN.Embedding(5, 3, key=key),
        (),
        inputs=lambda key, shape: jr.randint(key, shape, 0, 5),
    ),
    Layer("PReLU", after_linear(NN.Lambda(NN.PReLU())), (6,), note="the gap falls eightfold"),
    Layer("Lambda", after_linear(NN.Lambda(jnp.tanh)), (6,)),
    Layer("Sequential", after_linear(NN.Lambda(jax.nn.gelu)), (6,)),
    Layer(
        "RotaryPositionalEmbedding",
        after_linear(NN.RotaryPositionalEmbedding(4), (3, 4)),
        (6,),
    ),
    Layer("MultiheadAttention", lambda key: NN.MultiheadAttention(2, 4, key=key), (3, 4), attend),
    Layer("WeightNorm", lambda key: NN.WeightNorm(NN.Linear(6, 5, key=key)), (6,)),
    Layer(
        "SpectralNorm",
        with_state(lambda key: NN.SpectralNorm(NN.Linear(6, 5, key=key), "weight", key=jr.key(2))),
        (6,),
        stateful=True,
        note="its state passed in `args`",
    ),
    Layer("Identity", after_linear(NN.Identity()), (6,)),
)


def problem(layer: Layer) -> tuple[Callable[..., Array], tuple[Any, ...]]:
    """The loss of a layer's small problem, and its arguments: model, inputs and targets."""
    keys = jr.split(jr.key(0), EXAMPLES + 2)
    x = jax.vmap(lambda key: layer.inputs(key, layer.shape))(keys[2:])
    teacher, model = layer.make(keys[0]), layer.make(keys[1])

    def outputs(model: Any, state: Any, x: Array) -> Array:
        def one(x: Array) -> Array:
            return model(x, state) if layer.stateful else layer.call(model, x)

        return jax.vmap(one, axis_name="batch")(x).reshape(len(x), -1)

    def loss(model: Any, state: Any, x: Array, targets: Array) -> Array:
        return pjp.squared_error(outputs(model, state, x), targets)

    model, state = model if layer.stateful else (model, None)
    teacher, first = teacher if layer.stateful else (teacher, None)
    return loss, (model, state, x, outputs(teacher, first, x))


def attempt(layer: Layer) -> Outcome:
    """Traces and trains the small problem of a layer."""
    loss, arguments = problem(layer)
    gaps: list[float] = []
    try:
        for steps in (1, STEPS // 16, STEPS // 4, STEPS):
            solution = pjp.solve(loss, *arguments, solver=pjp.AlternatingProjections(), max_steps=steps)
            gaps.append(float(solution.stats["gap"]))
            if gaps[-1] <= gaps[0] / 10:
                break
    except pjp.PjaxError as error:
        return Outcome(str(error))
    return Outcome(None, gaps[0], gaps[-1])


def row(layer: Layer, outcome: Outcome) -> str:
    """A layer's line of the page."""
    traces = "yes" if outcome.error is None else "no"
    trains = "yes" if outcome.trains else "no"
    return f"| {layer} | {traces} | {trains} | {layer.note} |"


def page(outcomes: dict[Layer, Outcome]) -> str:
    """`docs/equinox.md` with another table."""
    text, _, _ = PAGE.read_text().partition(HEAD)
    rows = [row(layer, outcome) for layer, outcome in outcomes.items()]
    return text + HEAD + "\n".join(rows) + "\n"


def main() -> None:
    """Runs every problem and writes the page; with names, only those problems, and prints."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # much less to compile
    names = sys.argv[1:]
    outcomes = {}
    for layer in LAYERS:
        if not names or any(name in str(layer) for name in names):
            outcomes[layer] = attempt(layer)
            print(layer, outcomes[layer], flush=True)
    if not names:
        PAGE.write_text(page(outcomes))


if __name__ == "__main__":
    main()
