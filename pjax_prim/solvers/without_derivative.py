"""What cannot be differentiated says so."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from .._compat import register_lowering
from ..errors import ArgumentError

Tree = TypeVar("Tree")

_without_derivative_p = Primitive("pjax_without_derivative")
"""The identity, whose derivative is an error."""


def without_derivative(results: Tree) -> Tree:
    """The same arrays, which `jax.jvp` and `jax.grad` refuse in a sentence.

    A loop whose number of steps is not known beforehand has no reverse mode, and projections have no
    derivative where a constraint holds already, as all but the losses do at the start of a solve.
    """

    def mark(x: Any) -> Any:
        floating = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
        return _without_derivative_p.bind(x) if floating else x

    return jax.tree.map(mark, results)


def _refuse(primals: Any, tangents: Any) -> Any:
    raise ArgumentError(
        "pjp.solve cannot be differentiated: the number of its steps is not known beforehand, and where a "
        "constraint holds already its projection has no derivative; put jax.lax.stop_gradient around its "
        "arguments, or differentiate the loss at the parameters that it returns"
    )


def _batch(arrays: Any, dims: Any) -> tuple[Any, Any]:
    return _without_derivative_p.bind(arrays[0]), dims[0]


_without_derivative_p.def_impl(lambda x: x)
_without_derivative_p.def_abstract_eval(lambda x: x)
ad.primitive_jvps[_without_derivative_p] = _refuse
batching.primitive_batchers[_without_derivative_p] = _batch
register_lowering(_without_derivative_p, lambda ctx, x: [x])
