"""How a projection becomes a JAX primitive.

`define` makes a primitive from a *reference*: a pure `jax.numpy` function of arrays with
static keyword parameters. Everything else is derived from it:

- abstract evaluation traces the reference, or a shorter function with results of the same types (`types`),
  so shardings (Explicit meshes) and varying axes (`shard_map`) propagate exactly as through ordinary code;
- the implementation is the jitted bind, so eager and jitted values are the same;
- batching rebinds the *same* primitive, so the name survives `vmap` of `vmap`.

Batch contract: all operands have the same number of leading batch axes; on each of them an
operand has the common size or 1, and every result has the common size. A reference written
with ordinary broadcasting satisfies it.

Lowerings are registered by `pjax_prim.lowering`, one layer above. Which of them a projection may use is
a static parameter of its equation, `lowering`, taken from `choice` where the equation is made; references
never see it, and operations of models do not have it.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from .._compat import exclude_from_sources, is_jit_disabled
from ._arguments import standard_promotion

exclude_from_sources(str(Path(__file__).parent))

Choice = Literal["auto", "xla", "pallas"]

choice: ContextVar[Choice] = ContextVar("lowering", default="auto")
"""Set by `pjax_prim.lowering.use`."""


@dataclass(frozen=True)
class Definition:
    """One primitive of the library.

    **Arguments:**

    - `name`: the primitive's name, as it appears in jaxprs and in lowered text.
    - `version`: of what it computes, results and static parameters. It changes when they do, not when a
      lowering does.
    - `chooses`: whether its equations have the parameter `lowering`.
    - `primitive`: the `jax.extend.core.Primitive`; always with multiple results.
    - `reference`: `reference(*arrays, **static) -> tuple of arrays` in plain `jax.numpy`.
    - `types`: see `define`.
    """

    name: str
    primitive: Primitive
    reference: Callable[..., tuple[jax.Array, ...]]
    types: Callable[..., tuple[jax.Array, ...]]
    version: int = 1
    chooses: bool = True

    @property
    def composite(self) -> str:
        """The name of its composite operation in StableHLO."""
        return self.name.replace("_", ".", 1)

    def bind(self, *arrays: Any, **static: Any) -> tuple[jax.Array, ...]:
        """Applies the primitive to batched operands (module docstring: batch contract)."""
        if self.chooses:
            static = {"lowering": choice.get(), **static}
        return tuple(self.primitive.bind(*arrays, **static))


Transpose = Callable[..., jax.Array]

DEFINITIONS: dict[str, Definition] = {}
"""Every primitive of the library by name; `pjax_prim.lowering` gives each its lowerings."""


def define(
    name: str,
    reference: Callable[..., tuple[jax.Array, ...]],
    *,
    differentiable: bool = False,
    steps: bool = False,
    derivative: Callable[..., tuple[jax.Array, ...]] | None = None,
    types: Callable[..., tuple[jax.Array, ...]] | None = None,
    transposes: tuple[Transpose, Transpose] | None = None,
    version: int = 1,
) -> Definition:
    """Makes the primitive `name` from its reference and records it in `DEFINITIONS`.

    **Arguments:**

    - `name`: unique; starts with `pjax_`.
    - `reference`: see `Definition`. Static parameters must be hashable.
    - `differentiable`: set for operations that users call in ordinary models. All primitives have the
      JVP of their reference; those of models have no lowering to choose.
    - `steps`: whether it is a loss, whose last operand has exactly the shape of its value (the steps of
      its proximal operator): batching gives that operand the whole size of each axis.
    - `derivative`: a function like the reference, whose derivative is that of what the primitive computes,
      for a reference that searches; by default the reference.
    - `types`: a function like the reference, whose results have the same shapes, dtypes, shardings and
      varying axes; by default the reference. It saves tracing a long one where a lowering replaces it.
    - `transposes`: of an operation of two operands that is linear in either: its transposes by each of them,
      functions of the cotangent, the other operand and the operand's shape and dtype. Its derivative is then
      made of itself and of these.
    - `version`: see `Definition`.
    """
    if name in DEFINITIONS:
        raise ValueError(f"name={name!r}: a primitive of this name is already defined")
    DEFINITIONS[name] = make(
        name,
        reference,
        differentiable=differentiable,
        steps=steps,
        derivative=derivative,
        types=types,
        version=version,
    )
    if transposes is not None:
        _make_bilinear(DEFINITIONS[name].primitive, transposes)
    return DEFINITIONS[name]


@cache
def traceable(name: str, function: Callable[..., Any], static: tuple[tuple[str, Any], ...]) -> Any:
    """A reference, or what a rule puts in its place, jitted: JAX keeps its trace of every shape.

    Abstract evaluation, the lowering and other programs with the same equation share that trace.
    """

    def scoped(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        with jax.named_scope(name), standard_promotion():
            return function(*arrays, **dict(static))

    return jax.jit(scoped, inline=True)


def make(
    name: str,
    reference: Callable[..., tuple[jax.Array, ...]],
    *,
    differentiable: bool = False,
    steps: bool = False,
    derivative: Callable[..., tuple[jax.Array, ...]] | None = None,
    types: Callable[..., tuple[jax.Array, ...]] | None = None,
    version: int = 1,
) -> Definition:
    """A primitive as those of `define`, which is not among those of the library."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    @cache
    def jitted(static: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
        return jax.jit(partial(primitive.bind, **dict(static)))

    def implementation(*arrays: Any, lowering: Choice = "auto", **static: Any) -> Any:
        if is_jit_disabled():  # else the jitted bind would be this function again
            with standard_promotion():
                return reference(*map(jnp.asarray, arrays), **static)
        if not differentiable:
            static["lowering"] = lowering
        return jitted(tuple(sorted(static.items())))(*arrays)

    types = types or reference

    def abstract_evaluation(*avals: Any, lowering: Choice = "auto", **static: Any) -> Any:
        function = traceable(name, types, tuple(sorted(static.items())))
        # JAX sets the mesh while it lowers, also that of no axes; the same trace serves if it is set here.
        with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
            return function.trace(*avals).jaxpr.out_avals

    def batch(arrays: Sequence[Any], dims: Sequence[int | None], **static: Any) -> Any:
        moved = [
            jnp.expand_dims(array, 0) if dim is None else jnp.moveaxis(array, dim, 0)
            for array, dim in zip(arrays, dims, strict=True)
        ]
        if steps:
            *_, step = moved
            moved[-1] = jnp.broadcast_to(step, (max(x.shape[0] for x in moved), *step.shape[1:]))
        results = primitive.bind(*moved, **static)
        return results, [0] * len(results)

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **static: Any) -> Any:
        results = primitive.bind(*primals, **static)
        static = {name: value for name, value in static.items() if name != "lowering"}
        # What does not move is no part of the derivative's program.
        moving = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]

        def of_moving(*given: Any) -> tuple[jax.Array, ...]:
            arrays = list(primals)
            for i, array in zip(moving, given, strict=True):
                arrays[i] = array
            return (derivative or reference)(*arrays, **static)

        with standard_promotion():
            _, moved = jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])
        return results, list(moved)

    primitive.def_impl(implementation)
    primitive.def_abstract_eval(abstract_evaluation)
    batching.primitive_batchers[primitive] = batch
    ad.primitive_jvps[primitive] = jvp
    return Definition(name, primitive, reference, types, version, not differentiable)


def _make_bilinear(primitive: Primitive, transposes: tuple[Transpose, Transpose]) -> None:
    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **static: Any) -> Any:
        (result,) = primitive.bind(*primals, **static)
        moved = []
        for index, tangent in enumerate(tangents):
            if type(tangent) is not ad.Zero:
                operands = [tangent if i == index else primal for i, primal in enumerate(primals)]
                moved += primitive.bind(*operands, **static)
        return [result], [sum(moved[1:], moved[0])]

    def transpose(cotangents: Sequence[Any], *operands: Any, **static: Any) -> list[Any]:
        (cotangent,) = cotangents
        found: list[Any] = [None, None]
        for index, operand in enumerate(operands):
            if ad.is_undefined_primal(operand):
                zero = type(cotangent) is ad.Zero
                other = operands[1 - index]
                rule = transposes[index]
                found[index] = (
                    ad.Zero(operand.aval) if zero else rule(cotangent, other, operand.aval, **static)
                )
        return found

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
