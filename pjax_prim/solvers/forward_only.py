"""What can be differentiated forward alone."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..errors import ArgumentError

Tree = TypeVar("Tree")

_forward_only_p = Primitive("pjax_forward_only")
"""The identity, linear, without a transpose."""


def forward_only(results: Tree) -> Tree:
    """The same arrays, which `jax.jvp` differentiates and `jax.grad` refuses in a sentence.

    A loop whose number of steps is not known beforehand has no reverse mode. JAX says so too, of a line
    in here.
    """

    def mark(x: Any) -> Any:
        floating = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
        return _forward_only_p.bind(x) if floating else x

    return jax.tree.map(mark, results)


def _refuse(cotangent: Any, x: Any) -> Any:
    raise ArgumentError(
        "pjp.solve cannot be differentiated in reverse mode: the number of its steps is not known "
        "beforehand, and its states are not kept; use forward mode (jax.jvp, jax.jacfwd), or differentiate "
        "the loss at the parameters that it returns"
    )


def _batch(arrays: Any, dims: Any) -> tuple[Any, Any]:
    return _forward_only_p.bind(arrays[0]), dims[0]


_forward_only_p.def_impl(lambda x: x)
_forward_only_p.def_abstract_eval(lambda x: x)
ad.deflinear2(_forward_only_p, _refuse)
batching.primitive_batchers[_forward_only_p] = _batch
mlir.register_lowering(_forward_only_p, lambda ctx, x: [x])
