"""Losses that a function writes out, or takes from optax, become those of the library.

What reaches a result by sums, means and factors alone is compared with the traces of examples: first by its
operations alone, which tells what its arguments would be, then with the trace of the example for arguments of
exactly these shapes and dtypes, down to every axis, index and number.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .. import primitives as pp
from .inline import Inliner
from .ir import Equation, Value, leading_to
from .linearity import is_linear
from .match import PLACEHOLDERS, Pattern, has_patterns, make_pattern
from .terms import Terms
from .trace import FlatFunction

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class LossExample:
    """Ways to write a loss out.

    - `functions`: of (outputs, target, *parameters), or without a target; the same but for the form.
    - `target`: "like" the outputs, "classes" (integers, one for the last axis), "column" (the same with an
      axis of size 1 in its place), or "none".
    - `by_library`: the same function of the same arguments, with a loss of the library.
    - `needs`: an operation that each of them has. For a program without it nothing is traced.
    - `count`: of parameters, each a number above zero.
    """

    functions: Sequence[Function]
    target: str
    by_library: Function
    needs: Any
    count: int = 0


def _picked(x: Any, classes: Any) -> Any:
    return jnp.take_along_axis(x, classes[..., None], -1)[..., 0]


def _rows_picked(x: Any, classes: Any) -> Any:
    return x[jnp.arange(len(x)), classes]


def _integer_labels(logits: Any, classes: Any) -> Any:
    """The form of `optax.softmax_cross_entropy_with_integer_labels`."""
    log_normalizers = jax.nn.logsumexp(logits, -1)
    return log_normalizers - jnp.take_along_axis(logits, classes[..., None], -1).take(0, -1)


def _divergence(x: Any, t: Any) -> Any:
    """The form of `optax.kl_divergence` of a log-softmax."""
    return jnp.sum(t * (jnp.where(t == 0, 0, jnp.log(t)) - jax.nn.log_softmax(x)), -1)


def _sigmoid(x: Any, t: Any) -> Any:
    """The form of `optax.sigmoid_binary_cross_entropy`."""
    return -t * jax.nn.log_sigmoid(x) - (1.0 - t) * jax.nn.log_sigmoid(-x)


def _huber(errors: Any, delta: Any) -> Any:
    """The form of `optax.huber_loss`."""
    absolute = jnp.abs(errors)
    quadratic = jnp.minimum(absolute, delta)
    return 0.5 * quadratic**2 + delta * (absolute - quadratic)


def _alike(x: Any, target: Any) -> tuple[Any, Any]:
    """The two in one shape and in the dtype of their difference."""
    dtype = jnp.promote_types(x.dtype, target.dtype)
    shape = jnp.broadcast_shapes(x.shape, target.shape)
    return jnp.broadcast_to(x, shape).astype(dtype), jnp.broadcast_to(target, shape).astype(dtype)


def _cross_entropy(x: Any, target: Any) -> Any:
    if jnp.issubdtype(target.dtype, jnp.integer):
        # An index below zero counts from the end, as where the loss was written out.
        classes = jnp.where(target < 0, target + x.shape[-1], target)
        target = jax.nn.one_hot(classes, x.shape[-1], dtype=x.dtype)
    return pp.cross_entropy(*_alike(x, target))


def _minus_cross_entropy(x: Any, target: Any) -> Any:
    return -_cross_entropy(x, target)


def _squared_error(x: Any, target: Any) -> Any:
    x, target = _alike(x, target)
    return 2 * pp.squared_error(x[..., None], target[..., None])


LOSSES: tuple[LossExample, ...] = (
    LossExample(
        [
            _integer_labels,
            lambda x, t: jax.nn.logsumexp(x, -1) - _picked(x, t),
            lambda x, t: jax.nn.logsumexp(x, -1) - _rows_picked(x, t),
            lambda x, t: -_picked(jax.nn.log_softmax(x), t),
            lambda x, t: -_rows_picked(jax.nn.log_softmax(x), t),
            lambda x, t: -jax.nn.log_softmax(x)[t],
        ],
        "classes",
        _cross_entropy,
        needs=lax.reduce_max_p,
    ),
    LossExample(
        [
            lambda x, t: _picked(jax.nn.log_softmax(x), t),
            lambda x, t: _rows_picked(jax.nn.log_softmax(x), t),
            lambda x, t: jax.nn.log_softmax(x)[t],
        ],
        "classes",
        _minus_cross_entropy,
        needs=lax.reduce_max_p,
    ),
    LossExample(
        [lambda x, t: jnp.take_along_axis(jax.nn.log_softmax(x), t, -1)],
        "column",
        lambda x, t: _minus_cross_entropy(x, t[..., 0])[..., None],
        needs=lax.reduce_max_p,
    ),
    LossExample(
        [
            lambda x, t: -jnp.sum(t * jax.nn.log_softmax(x), -1),
            lambda x, t: jnp.sum(-t * jax.nn.log_softmax(x), -1),
            lambda x, t: jnp.sum(t * -jax.nn.log_softmax(x), -1),
        ],
        "like",
        _cross_entropy,
        needs=lax.reduce_max_p,
    ),
    LossExample(
        [lambda x, t: jnp.sum(t * jax.nn.log_softmax(x), -1)],
        "like",
        _minus_cross_entropy,
        needs=lax.reduce_max_p,
    ),
    LossExample(
        [lambda x, t: jnp.sum(t * jax.nn.log_softmax(x))],
        "like",
        lambda x, t: jnp.sum(_minus_cross_entropy(x, t)),
        needs=lax.reduce_max_p,
    ),
    LossExample(
        [_divergence],
        "like",
        lambda x, t: pp.kl_divergence(*_alike(x, t)),
        needs=lax.reduce_max_p,
    ),
    LossExample(
        [
            _sigmoid,
            lambda x, t: -(t * jax.nn.log_sigmoid(x) + (1.0 - t) * jax.nn.log_sigmoid(-x)),
            lambda x, t: jnp.maximum(x, 0) - x * t + jnp.log1p(jnp.exp(-jnp.abs(x))),
            lambda x, t: jax.nn.softplus(x) - t * x,
        ],
        "like",
        lambda x, t: pp.binary_cross_entropy(*_alike(x, t)),
        needs=lax.log1p_p,
    ),
    LossExample(
        [lambda x, t, delta: _huber(x - t, delta), lambda x, t, delta: _huber(t - x, delta)],
        "like",
        lambda x, t, delta: pp.huber(*_alike(x, t), delta),
        needs=lax.min_p,
        count=1,
    ),
    LossExample(
        [_huber], "none", lambda x, delta: pp.huber(x, jnp.zeros_like(x), delta), needs=lax.min_p, count=1
    ),
    LossExample(
        [lambda x, t: jnp.abs(x - t), lambda x, t: jnp.abs(t - x)],
        "like",
        lambda x, t: pp.absolute_error(*_alike(x, t)),
        needs=lax.abs_p,
    ),
    LossExample([jnp.abs], "none", lambda x: pp.absolute_error(x, jnp.zeros_like(x)), needs=lax.abs_p),
    LossExample(
        [lambda x, t: jnp.square(x - t), lambda x, t: jnp.square(t - x)],
        "like",
        _squared_error,
        needs=lax.square_p,
    ),
    LossExample([jnp.square], "none", lambda x: _squared_error(x, jnp.zeros_like(x)), needs=lax.square_p),
)


def write_losses(function: FlatFunction, varying: set[Value], is_loss: Callable[[Any], bool]) -> FlatFunction:
    """The function with losses of the library in place of those that it writes out."""
    found = _Outputs(function, varying)
    tail = {value for value in function.outputs if value in varying}
    read_by_others = {value for x in function.carries for value in x.inputs}
    replaced: dict[Equation, list[Equation]] = {}
    for equation in reversed(leading_to(function.equations, (*function.outputs, *read_by_others))):
        varied = [value for value in equation.inputs if value in varying]
        alone = read_by_others.isdisjoint(equation.outputs) and not is_loss(equation.primitive)
        if alone and not tail.isdisjoint(equation.outputs):
            if (new := found.written(equation)) is not None:
                replaced[equation] = new
                continue
            if is_linear(equation, varying):
                tail.update(varied)
                continue
        read_by_others.update(varied)
    equations = [new for old in function.equations for new in replaced.get(old, [old])]
    if not replaced:
        return function
    # What only led to a loss that was written out is gone.
    ends = (*function.outputs, *(value for carry in function.carries for value in carry.inputs))
    return replace(function, equations=tuple(leading_to(equations, ends)))


def _is_float(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


class _Outputs:
    """The values of a function, as losses are looked for among them."""

    def __init__(self, function: FlatFunction, varying: set[Value]):
        self._function, self._varying = function, varying
        self._loose = Terms(function.equations, "operations")
        operations = self._loose.operations
        self._examples = tuple(example for example in LOSSES if example.needs in operations)

    def written(self, equation: Equation) -> list[Equation] | None:
        """The equations of the library's loss in the place of one written out, or None."""
        if len(equation.outputs) != 1 or not has_patterns(equation.outputs[0].dtype):
            return None
        term = self._loose.of(equation.outputs[0])
        skeletons = _skeletons(self._examples, bool(jax.config.read("jax_enable_x64")))
        for example, function, pattern in skeletons.get(term.operation, ()):
            for bindings in pattern.bind_loosely(term):
                values = [self._loose.values_of(bindings[x]) for x in pattern.inputs]
                for arguments in _products(values):
                    new = self._exactly(equation, example, function, arguments)
                    if new is not None:
                        return new
        return None

    def _exactly(
        self, equation: Equation, example: LossExample, function: Function, arguments: Sequence[Value]
    ) -> list[Equation] | None:
        x, *targets = arguments
        (output,) = equation.outputs
        if x not in self._varying or any(t in self._varying for t in targets):
            return None
        if not has_patterns(x.dtype):
            return None
        indices = {"classes": x.shape[:-1], "column": (*x.shape[:-1], 1)}.get(example.target)
        if indices is not None and (indices != targets[0].shape or _is_float(targets[0].dtype)):
            return None
        term = self._strict.of(output)
        inputs = tuple(map(self._strict.of, arguments))
        x64 = bool(jax.config.read("jax_enable_x64"))
        for depth in range(1 if indices is None else len(x.shape)):
            key = tuple((value.shape, jnp.dtype(value.dtype).name) for value in arguments)
            pattern = _exact_pattern(function, example.count, key, depth, x64)
            bindings = None if pattern is None else pattern.bind(term, inputs)
            parameters = None if pattern is None or bindings is None else pattern.read(bindings)
            if parameters is not None and all(0 < number < float("inf") for number in parameters):
                return _replaced(equation, example, arguments, parameters)
        return None

    @property
    def _strict(self) -> Terms:
        if not hasattr(self, "_strict_terms"):
            self._strict_terms = Terms(self._function.equations, detail="all")
        return self._strict_terms


def _replaced(
    equation: Equation, example: LossExample, arguments: Sequence[Value], parameters: Sequence[float]
) -> list[Equation] | None:
    inliner = Inliner()
    (output,) = equation.outputs
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        (made,) = inliner.apply(
            lambda *xs: example.by_library(*xs, *parameters).astype(output.dtype),
            arguments,
            equation.source,
            equation.loops,
        )
    if inliner.baked or made.shape != output.shape:
        return None
    last = next(x for x in inliner.equations if made in x.outputs)
    position = inliner.equations.index(last)
    inliner.equations[position] = replace(last, outputs=(output,))
    return inliner.equations


def _products(choices: Sequence[Sequence[Value]]) -> Iterator[tuple[Value, ...]]:
    if not choices:
        yield ()
        return
    for rest in _products(choices[1:]):
        for first in choices[0]:
            yield first, *rest


@cache
def _skeletons(
    examples: tuple[LossExample, ...], x64: bool
) -> dict[Any, list[tuple[LossExample, Function, Pattern]]]:
    """Examples by the operation that they end in, compared by operations alone; the largest first."""
    found: dict[Any, list[tuple[LossExample, Function, Pattern]]] = {}
    for example in examples:
        for function, pattern in _loosely_traced(example, x64):
            found.setdefault(pattern.output.operation, []).append((example, function, pattern))
    for rows in found.values():
        rows.sort(key=lambda row: -row[2].size)
    return found


@cache
def _loosely_traced(example: LossExample, x64: bool) -> list[tuple[Function, Pattern]]:
    del x64
    x = jax.ShapeDtypeStruct((3, 4), "float32")
    targets = {
        "like": [x],
        "classes": [jax.ShapeDtypeStruct((3,), "int32")],
        "column": [jax.ShapeDtypeStruct((3, 1), "int32")],
        "none": [],
    }[example.target]
    traced = []
    for function in example.functions:
        forms = (function, jax.vmap(function)) if example.target in ("classes", "column") else (function,)
        for form in forms:
            with suppress(TypeError, ValueError, IndexError):  # an example is not of every rank
                placeholders = PLACEHOLDERS[: example.count]
                traced.append((function, make_pattern(form, [x, *targets], placeholders, "operations")))
    return traced


@lru_cache(maxsize=256)
def _exact_pattern(
    function: Function, count: int, arguments: tuple[Any, ...], depth: int, x64: bool
) -> Pattern | None:
    """The trace of an example for arguments of some shapes and dtypes, with `depth` axes that are mapped."""
    del x64
    for _ in range(depth):
        function = jax.vmap(function)
    structs = [jax.ShapeDtypeStruct(*argument) for argument in arguments]
    try:
        return make_pattern(function, structs, PLACEHOLDERS[:count], "all")
    except (TypeError, ValueError, IndexError, AssertionError):  # an example is not of every rank
        return None
