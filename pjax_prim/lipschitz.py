"""A certified bound of a function's Lipschitz constant, read from its program."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax
from jax.extend.core import Primitive

from . import primitives as pp
from .errors import ArgumentError, GraphError
from .graph.compose import compose
from .graph.ir import Environment, Equation, Value, closure, evaluate, leading_to, read
from .graph.program import make_program, trace
from .graph.trace import flatten
from .primitives._arguments import is_concrete
from .rules import Movement, RuleContext
from .rules.registry import meaning_of

Numbers = np.ndarray[Any, Any]


def lipschitz_bound(fn: Callable[[Any], Any], x: Any) -> float:
    r"""A number L with $|f(x) - f(y)| \le L |x - y|$ for all x and y, in Euclidean norms.

    The bound is certified: it holds for every input, not for sampled ones. It is read from the program of
    `fn`: along a chain of operations bounds multiply, at a sum they add up (a skip connection gives
    1 + L). It is often far above the least such number, which is hard to find.

    | operation | its bound |
    |---|---|
    | product with a constant matrix | its largest singular value |
    | convolution with a constant kernel | of three bounds the least (below) |
    | relu, tanh, gelu and other functions of one number | the steepest slope |
    | scaling; sums, means, pooling, copies | the largest factor; the root of most terms times most copies |
    | layer norm, softmax, logsumexp | 1 / root of epsilon; 1/2; 1 |

    Of a convolution, with any padding, strides, dilation and groups: the sum over offsets of the largest
    singular value of the channel matrix there; that of the kernel as a matrix times the root of the number
    of patches that an input belongs to; and the largest over a grid of frequencies times 1.08 for an image,
    which is within 8% of the norm on an unbounded image.

    **Arguments:**

    - `fn`: a function of one pytree of arrays, such as an Equinox model of one example; all arrays that it
      closes over are constants.
    - `x`: an input, or `jax.ShapeDtypeStruct`s; only shapes and dtypes count.

    **Returns:** a float. Numbers of a bound are computed on the host in double precision, singular values
    with an allowance for rounding; what the function itself rounds is not counted.

    **Errors:** `GraphError`, with the user's source line, for an operation without a finite bound (the
    product of two values that depend on x, as in attention; exp, square, sqrt) and for a loop that carries
    what depends on x; `ArgumentError` for traced arrays: call it outside of `jax.jit`.

    **Cost:** the singular values of all weights.

    **Source:** Szegedy et al., 2013; for frequencies Sedghi et al., 2018, with M. Riesz' lemma for what lies
    between those of the grid.
    """
    leaves, treedef = jtu.tree_flatten(x)
    for path, leaf in jtu.tree_leaves_with_path(x):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ArgumentError(f"x{jtu.keystr(path)}: expected floating-point arrays, given {leaf!r}")
    shapes = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    closed = trace(lambda *leaves: jtu.tree_leaves(fn(jtu.tree_unflatten(treedef, leaves))), *shapes)
    program, captured = make_program(closed, len(leaves), ["x"] * len(leaves), len(closed.out_avals))
    flat = flatten(program)
    if not all(map(is_concrete, captured)):
        raise ArgumentError("fn: expected one whose arrays are known, given traced ones: call it outside jit")
    varying = closure(set(flat.parameters), (*flat.equations, *flat.carries))
    if flat.carries and not varying.isdisjoint(value for x in flat.carries for value in x.inputs):
        raise GraphError(f"{flat.carries[0].source}: a loop that carries what depends on x has no bound here")
    flat = compose(flat, varying)
    constants: Environment = {
        **dict(flat.baked),
        **dict(zip(flat.captured, captured, strict=True)),
    }
    bounds: dict[Value, float] = dict.fromkeys(flat.parameters, 1.0)
    for equation in leading_to(flat.equations, flat.outputs):
        if varying.isdisjoint(equation.inputs):
            evaluate([equation], constants)
        else:
            bounds.update(dict.fromkeys(equation.outputs, _bound(_Step(equation, bounds, constants))))
    return float(math.hypot(*(bounds.get(output, 0.0) for output in flat.outputs)))


@dataclass(frozen=True)
class _Step:
    """An equation with the bounds of what depends on x and the values of what does not."""

    equation: Equation
    bounds: dict[Value, float]
    constants: Environment

    @property
    def moving(self) -> tuple[bool, ...]:
        """Which inputs depend on x."""
        return tuple(value in self.bounds for value in self.equation.inputs)

    @property
    def given(self) -> list[float]:
        """The bounds of those that do."""
        return [self.bounds[value] for value in self.equation.inputs if value in self.bounds]

    def constant(self, position: int) -> Numbers:
        """The numbers of an input that does not."""
        return np.asarray(read(self.constants, self.equation.inputs[position])).astype(np.float64)

    def refuse(self, why: str) -> GraphError:
        """That there is no bound."""
        name = self.equation.primitive.name
        return GraphError(f"{self.equation.source}: {name} has no finite Lipschitz bound: {why}")


def _bound(step: _Step) -> float:
    equation = step.equation
    rule = _RULES.get(equation.primitive)
    if rule is not None:
        return rule(step)
    literals = tuple(None if x.literal is None or x.shape else float(x.literal) for x in equation.inputs)
    meaning = meaning_of(
        RuleContext(
            equation.primitive,
            equation.params,
            equation.inputs,
            equation.outputs,
            tuple(not moves for moves in step.moving),
            literals,
        )  # fmt: skip
    )
    if isinstance(meaning, Movement):
        return _counted(step)
    steepest = None if meaning is None else meaning.constraint.steepest
    if steepest is not None:
        return step.given[0] * steepest
    raise step.refuse("its slope is not bounded, or not known here; leave it out of the function")


def _sum(step: _Step) -> float:
    return sum(step.given)


def _root(step: _Step) -> float:
    """Every output element is at most as far as one element of each input."""
    return math.hypot(*step.given)


def _product(step: _Step) -> float:
    if sum(step.moving) > 1:
        raise step.refuse("both factors depend on x")
    factor = step.constant(step.moving.index(False))
    return step.given[0] * float(np.max(np.abs(factor), initial=0.0))


def _quotient(step: _Step) -> float:
    if step.moving[1]:
        raise step.refuse("the divisor depends on x")
    return step.given[0] / float(np.min(np.abs(step.constant(1)), initial=math.inf))


def _dot(step: _Step) -> float:
    if sum(step.moving) > 1:
        raise step.refuse("both factors depend on x")
    (contracted, batched) = step.equation.params["dimension_numbers"]
    side = step.moving.index(False)
    matrix = step.constant(side)
    first = (*batched[side], *contracted[side])
    rest = [axis for axis in range(matrix.ndim) if axis not in first]
    stack = [matrix.shape[axis] for axis in batched[side]]
    rows = math.prod(matrix.shape[axis] for axis in contracted[side])
    columns = math.prod(matrix.shape[axis] for axis in rest)
    return step.given[0] * _norm(matrix.transpose(*first, *rest).reshape(*stack, rows, columns))


def _norm(matrices: Numbers) -> float:
    """The largest singular value of all matrices, with an allowance for its rounding."""
    if not matrices.size:
        return 0.0
    largest = float(np.max(np.linalg.svd(matrices, compute_uv=False)))
    return largest * (1 + 4 * max(matrices.shape[-2:]) * float(np.finfo(np.float64).eps))


def _convolution(step: _Step) -> float:
    params = step.equation.params
    if step.moving != (True, False) or params["batch_group_count"] != 1:
        raise step.refuse("its kernel depends on x, or the batch is in groups")
    groups = params["feature_group_count"]
    kernel = step.constant(1).transpose(params["dimension_numbers"].rhs_spec)
    kernels = kernel.reshape(groups, kernel.shape[0] // groups, *kernel.shape[1:])
    patches = math.prod(
        -(-size // stride) if dilation == 1 else size
        for size, stride, dilation in zip(
            kernel.shape[2:], params["window_strides"], params["rhs_dilation"], strict=True
        )
    )
    return step.given[0] * max(_convolution_norm(kernel, patches) for kernel in kernels)


_GRID = 8
"""So many frequencies for each degree."""
_MOST = 1e10
"""Operations of singular values beyond which frequencies are not looked at."""


def _convolution_norm(kernel: Numbers, patches: int) -> float:
    """An upper bound of the norm of a convolution, whatever its padding, strides and dilation are.

    Zero padding and strides leave out parts of the convolution on the whole grid, whose norm is the largest
    singular value of the channel matrix over all frequencies. Its square is a maximum of trigonometric
    polynomials of degree size - 1 along each axis, and the maximum of one of degree n is at most
    1/cos(pi n/N) times that on N equal steps, for each axis (M. Riesz).

    **Arguments:** `kernel`, (out, in, *window); `patches`, that an input belongs to at most.
    """
    out, into, *window = kernel.shape
    found = [
        sum(_norm(matrix) for matrix in np.moveaxis(kernel.reshape(out, into, -1), -1, 0)),
        math.sqrt(patches) * _norm(kernel.reshape(out, -1)),
    ]
    steps = [_GRID * (size - 1) or 1 for size in window]
    if window and math.prod(steps) * out * into * min(out, into) <= _MOST:
        spectrum = np.moveaxis(np.fft.fftn(kernel, steps, range(2, kernel.ndim)), (0, 1), (-2, -1))
        slack = math.cos(math.pi / _GRID) ** -sum(size > 1 for size in window)
        found.append(math.sqrt(slack) * _norm(spectrum))
    return min(found)


def _counted(step: _Step) -> float:
    """A linear operation whose coefficients are 0 and 1: at most the root of most terms times most copies."""
    equation, moving = step.equation, step.moving
    inputs = [
        jnp.zeros(value.shape, jnp.float32) if moves else _single(read(step.constants, value))
        for value, moves in zip(equation.inputs, moving, strict=True)
    ]

    def apply(*moved: Any) -> Any:
        rest = iter(moved)
        return equation.apply(*(next(rest) if moves else x for x, moves in zip(inputs, moving, strict=True)))

    zeros = [x for x, moves in zip(inputs, moving, strict=True) if moves]
    outputs, terms = jax.jvp(apply, tuple(zeros), tuple(map(jnp.ones_like, zeros)))
    _, back = jax.vjp(apply, *zeros)
    copies = back(jax.tree.map(jnp.ones_like, outputs))
    most = max(float(jnp.max(x, initial=0.0)) for x in jax.tree.leaves(terms))
    parts = [
        bound * math.sqrt(most * float(jnp.max(x, initial=0.0)))
        for bound, x in zip(step.given, copies, strict=True)
    ]
    return math.hypot(*parts)


def _single(value: Any) -> Any:
    array = jnp.asarray(value)
    return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _pooled(step: _Step) -> float:
    """An output moves at most as far as one of its inputs, which may belong to several windows."""
    (shape,) = (value.shape for value in step.equation.inputs)
    params = step.equation.params
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")

    def windows(x: Any) -> Any:
        return lax.reduce_window(x, 0.0, lax.add, *(params[name] for name in names))

    outputs, back = jax.vjp(windows, jnp.zeros(shape, jnp.float32))
    (copies,) = back(jnp.ones_like(outputs))
    return step.given[0] * math.sqrt(float(jnp.max(copies)))


def _normalised(step: _Step) -> float:
    eps = step.equation.params["eps"]
    if not eps > 0:
        raise step.refuse("near a constant row it turns ever faster without an epsilon")
    return step.given[0] / math.sqrt(eps)


_RULES: dict[Primitive, Callable[[_Step], float]] = {
    lax.add_p: _sum,
    lax.sub_p: _sum,
    pp.sum_relu_p.primitive: _sum,
    lax.neg_p: _root,
    lax.max_p: _root,
    lax.min_p: _root,
    lax.clamp_p: _root,
    lax.stop_gradient_p: _root,
    lax.reduce_max_p: _root,
    lax.reduce_min_p: _root,
    lax.mul_p: _product,
    lax.div_p: _quotient,
    lax.dot_general_p: _dot,
    lax.conv_general_dilated_p: _convolution,
    lax.reduce_sum_p: _counted,
    lax.reduce_window_sum_p: _counted,
    lax.cumsum_p: _counted,
    lax.reduce_window_max_p: _pooled,
    lax.reduce_window_min_p: _pooled,
    pp.normalize_p.primitive: _normalised,
    pp.logsumexp_p.primitive: _root,
    pp.softmax_p.primitive: lambda step: step.given[0] / 2,
}
