"""Parameters that are divided over `fsdp`: gathered where a program uses them, one layer after the other.

Between its uses a device holds its part of each parameter. A product needs the parameter whole: the part of
the one layer that is computed is gathered before it, and forgotten after it; the way back gathers it again.
What flows back to the parameter is summed over the examples of all devices, and each keeps its own part of
the sum.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.tree_util as jtu
from jax import lax
from jax.extend.core import Primitive, jaxpr_as_fun, primitives
from jax.interpreters import ad, batching
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .._compat import bind_equation, jit_options, lower_as_traced, scan_like, scan_operands
from ..graph.program import trace
from ..pullbacks.convolutions import has_groups
from ..pullbacks.directions import has_equation
from ..pullbacks.interpreter import Entry, Settings, interpret, register_movement
from ..walking import walk
from .mesh import FSDP
from .propagation import Labels, propagate, through
from .rules import axis_names, when_summed, when_used

_MOVEMENTS = (
    lax.convert_element_type_p, lax.copy_p, lax.reshape_p, lax.squeeze_p, lax.transpose_p,
)  # fmt: skip
"""What a device does with its part of a parameter as it would with the whole."""

_RESHAPED = (lax.reshape_p, lax.squeeze_p)
"""The movements whose result has no type of its own on a mesh of explicit axes."""


gather_p = Primitive("pjax_gather")
"""An array as it is, laid out anew: where it lies, where it is used, and where what flows back is summed
up."""


def _is_explicit(mesh: Any) -> bool:
    return AxisType.Explicit in mesh.axis_types


def _laid_out(x: Any, *, apart: NamedSharding, whole: NamedSharding, summed: NamedSharding) -> Any:
    place = jax.sharding.reshard if _is_explicit(whole.mesh) else lax.with_sharding_constraint
    return place(place(x, apart), whole)


def _type(x: Any, **places: NamedSharding) -> Any:
    if not _is_explicit(places["whole"].mesh):
        return x
    (found,) = jax.make_jaxpr(partial(_laid_out, **places))(x).out_avals
    return found


def _flows_back(
    cotangent: Any, x: Any, *, apart: NamedSharding, whole: NamedSharding, summed: NamedSharding
) -> list[Any]:
    if type(cotangent) is ad.Zero:
        return [ad.Zero(x.aval)]
    return [_laid_out(cotangent, apart=summed, whole=apart, summed=apart)]


def _batch(arrays: Sequence[Any], axes: Sequence[Any], **places: NamedSharding) -> tuple[Any, Any]:
    return jax.vmap(partial(_laid_out, **places), axes[0], axes[0])(*arrays), axes[0]


gather_p.def_impl(_laid_out)
gather_p.def_abstract_eval(_type)
ad.deflinear2(gather_p, _flows_back)
batching.primitive_batchers[gather_p] = _batch
lower_as_traced(gather_p, _laid_out)
register_movement(gather_p)


class _Operand(NamedTuple):
    """A value of the program. `spec`: how it lies, of a divided parameter that was not gathered yet."""

    value: Any
    spec: Labels | None = None


def stacked_axes(closed: Any, parameters: int) -> list[int]:
    """Along how many of its first axes loops take apart each of the first inputs of a jaxpr."""
    inputs = [tuple((i, axis) for axis in range(len(x.shape))) for i, x in enumerate(closed.in_avals)]
    found = [0] * parameters

    def visit(equation: Any, operands: Sequence[Labels]) -> None:
        if equation.primitive is not lax.scan_p:
            return
        fixed = sum(scan_operands(equation))
        taken = [labels[:1] if i >= fixed else () for i, labels in enumerate(operands)]
        for labels in taken:
            for label in labels:
                if label is not None and label[0] < parameters:
                    found[label[0]] = max(found[label[0]], label[1] + 1)
        inner = [labels[len(first) :] for labels, first in zip(operands, taken, strict=True)]
        propagate(equation.params["jaxpr"], inner, visit)

    propagate(closed, inputs, visit)
    return found


def gathered_by_layer(
    fn: Callable[..., Any], mesh: Mesh, specs: Sequence[PartitionSpec]
) -> Callable[..., Any]:
    """`fn(params, *args)` with its divided parameters gathered where they are used.

    Values are those of `fn`. A derivative does not keep what was gathered, and gathers it again. In a `scan`
    the parameters that it takes apart are gathered in its body, one iteration's at a time.

    **Arguments:** `specs`: of the arrays of `params`, in tree order. On a `mesh` of explicit axes `fn` sees
    parameters typed as they are once they are gathered.

    **Returns:** for use inside `jax.jit`, `jax.vjp` and `pjp.displacement`.
    """
    if mesh.shape.get(FSDP, 1) == 1:
        return fn

    def evaluate(closed: Any, leaves: Sequence[Any]) -> list[Any]:
        operands = [
            _Operand(x, (*spec, *[None] * (x.ndim - len(spec))))
            for x, spec in zip(leaves, specs, strict=True)
        ]
        return _evaluate(mesh, closed, operands)

    def gathered(leaves: Sequence[Any]) -> list[Any]:
        places = [NamedSharding(mesh, PartitionSpec(*when_used(tuple(spec)))) for spec in specs]
        return [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
            for x, place in zip(leaves, places, strict=True)
        ]

    return from_trace(fn, evaluate, gathered if _is_explicit(mesh) else list)


def from_trace(
    fn: Callable[..., Any],
    evaluate: Callable[[Any, Sequence[Any]], list[Any]],
    typed: Callable[[Sequence[Any]], list[Any]] = list,
) -> Callable[..., Any]:
    """`fn(params, *args)`, with its trace evaluated in its place.

    **Arguments:** `evaluate(closed, leaves)`: the values of its results, from the arrays of `params`;
    `typed(leaves)`: the arrays that it is traced with.
    """

    def run(params: Any, *args: Any) -> Any:
        leaves, treedef = jtu.tree_flatten(params)
        outside: list[Any] = []

        def flat(leaves: list[Any]) -> list[Any]:
            arrays, static = eqx.partition(fn(jtu.tree_unflatten(treedef, leaves), *args), eqx.is_array)
            found, structure = jtu.tree_flatten(arrays)
            outside[:] = structure, static
            return found

        found = evaluate(trace(flat, typed(leaves)), leaves)
        structure, static = outside
        return eqx.combine(jtu.tree_unflatten(structure, found), static)

    return run


def with_right_derivatives(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn(params, *args)`, whose gradient is right on every mesh: see `pullbacks.convolutions`.

    A displacement needs none of this. What is inside a function with a derivative of its own
    (`jax.custom_jvp`, `jax.custom_vjp`) keeps that.
    """

    def evaluate(closed: Any, leaves: Sequence[Any]) -> list[Any]:
        if not has_equation(closed, has_groups):
            return list(jaxpr_as_fun(closed)(*leaves))
        settings = Settings(weight=None)
        return [entry.value for entry in interpret(settings, closed, [Entry(x, True) for x in leaves])]

    return from_trace(fn, evaluate)


def _keeps(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a derivative keeps a result."""
    return primitive is not gather_p


def _evaluate(mesh: Mesh, closed: Any, operands: Sequence[_Operand], looped: bool = False) -> list[Any]:
    """The values of a jaxpr's results. `looped`: whether it is the body of a loop."""

    def run(equation: Any, given: Sequence[_Operand]) -> Sequence[_Operand]:
        if all(x.spec is None for x in given):
            return list(map(_Operand, bind_equation(equation, *_values(given))))
        if (moved := _moved(mesh, equation, given)) is not None:
            return [moved]
        if equation.primitive in _CALLS:
            return list(map(_Operand, _CALLS[equation.primitive](mesh, equation, given, looped)))
        return list(map(_Operand, _used(mesh, equation, given, looped)))

    inputs = (x if _is_divided(x.spec) else _Operand(x.value) for x in operands)
    return [_gather(mesh, x) for x in walk(closed, inputs, _Operand, run)]


def _used(mesh: Mesh, equation: Any, given: Sequence[_Operand], looped: bool) -> Sequence[Any]:
    """One operation, which needs its operands whole."""

    def run(*values: Any) -> Sequence[Any]:
        operands = map(_Operand, values, [x.spec for x in given])
        return bind_equation(equation, *(_gather(mesh, x) for x in operands))

    # In the body of a loop nothing is computed twice by mistake: the way back is another loop.
    found: Sequence[Any] = jax.checkpoint(run, prevent_cse=not looped, policy=_keeps)(*_values(given))
    return found


def _is_divided(spec: Labels | None) -> bool:
    return spec is not None and any(FSDP in axis_names(entry) for entry in spec)


def _gather(mesh: Mesh, operand: _Operand) -> Any:
    """The whole of a value."""
    if operand.spec is None:
        return operand.value
    value, spec = operand.value, operand.spec
    places = spec, when_used(spec), when_summed(mesh, value.shape, spec)
    apart, whole, summed = (NamedSharding(mesh, PartitionSpec(*entries)) for entries in places)
    return gather_p.bind(value, apart=apart, whole=whole, summed=summed)


def _moved(mesh: Mesh, equation: Any, given: Sequence[_Operand]) -> _Operand | None:
    """A parameter moved as the parts of it are; None where that does not keep them apart."""
    if equation.primitive not in _MOVEMENTS or len(given) != 1:
        return None
    if _is_explicit(mesh) and equation.primitive in _RESHAPED:
        return None
    (operand,) = given
    assert operand.spec is not None
    (variable,) = equation.outvars
    shapes = [tuple(operand.value.shape)], [tuple(variable.aval.shape)]
    (spec,) = through(equation.primitive, equation.params, [operand.spec], *shapes)
    if not _is_divided(spec):
        return None
    (value,) = bind_equation(equation, operand.value)
    return _Operand(value, spec)


def _values(operands: Sequence[_Operand]) -> list[Any]:
    return [operand.value for operand in operands]


def _body(mesh: Mesh, closed: Any, specs: Sequence[Labels | None], looped: bool) -> Callable[..., list[Any]]:
    def body(*arrays: Any) -> list[Any]:
        return _evaluate(mesh, closed, list(map(_Operand, arrays, specs)), looped)

    return body


def _jit(mesh: Mesh, equation: Any, given: Sequence[_Operand], looped: bool) -> list[Any]:
    closed, options = equation.params["jaxpr"], jit_options(equation)
    name = equation.params["name"]
    if not options:
        with jax.named_scope(name):
            return _evaluate(mesh, closed, given, looped)
    body = _body(mesh, closed, [x.spec for x in given], looped)
    body.__name__ = name
    found: list[Any] = jax.jit(body, **options)(*_values(given))
    return found


def _call(mesh: Mesh, equation: Any, given: Sequence[_Operand], looped: bool) -> list[Any]:
    return _evaluate(mesh, equation.params["call_jaxpr"], given, looped)


def _checkpoint(mesh: Mesh, equation: Any, given: Sequence[_Operand], looped: bool) -> list[Any]:
    params = equation.params
    body = _body(mesh, params["jaxpr"], [x.spec for x in given], looped)
    found: list[Any] = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])(
        *_values(given)
    )
    return found


def _scan(mesh: Mesh, equation: Any, given: Sequence[_Operand], looped: bool) -> list[Any]:
    """Parameters that it takes apart are gathered inside; others before it, once."""
    fixed = sum(scan_operands(equation))
    parts = [
        x if i >= fixed and x.spec is not None and x.spec[0] is None
        else _Operand(_gather(mesh, x))
        for i, x in enumerate(given)
    ]  # fmt: skip
    specs = [x.spec[1:] if x.spec is not None else None for x in parts]
    body = _body(mesh, equation.params["jaxpr"], specs, looped=True)
    return scan_like(equation, body)(*_values(parts))


_CALLS: dict[Any, Callable[[Mesh, Any, Sequence[_Operand], bool], list[Any]]] = {
    primitives.jit_p: _jit,
    primitives.closed_call_p: _call,
    primitives.call_p: _call,
    primitives.remat_p: _checkpoint,
    lax.scan_p: _scan,
}
