"""Operations that call programs: they stay what they are, and what they call is interpreted."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import primitives

from .. import _compat
from ..dependence import dependence, loop_dependence
from .interpreter import CALLS, Call, Entry, Settings, interpret


def _fixed(outputs: Sequence[Entry]) -> list[Any]:
    return [entry.value for entry in outputs]


def _body(settings: Settings, closed: Any, entries: Sequence[Entry]) -> Callable[..., list[Any]]:
    """The called program as a function of arrays."""

    def run(*arrays: Any) -> list[Any]:
        arguments = [
            Entry(array, entry.moves, entry.weighs) for array, entry in zip(arrays, entries, strict=True)
        ]
        return _fixed(interpret(settings, closed, arguments))

    return run


def _moved(closed: Any, entries: Sequence[Entry], values: Sequence[Any]) -> list[Entry]:
    flags = dependence(closed, [entry.moves for entry in entries])
    return [Entry(value, flag) for value, flag in zip(values, flags, strict=True)]


def _walk(name: str) -> Call:
    """A call that means no more than its program."""

    def call(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
        with jax.named_scope(equation.params.get("name") or equation.primitive.name):
            return interpret(settings, equation.params[name], entries)

    return call


def _jit(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    """A jitted function is walked through, unless it says where its arrays lie."""
    closed = equation.params["jaxpr"]
    options = _compat.jit_options(equation)
    if not options:
        with jax.named_scope(equation.params["name"]):
            return interpret(settings, closed, entries)
    body = _body(settings, closed, entries)
    body.__name__ = equation.params["name"]
    values = jax.jit(body, **options)(*_fixed(entries))
    return _moved(closed, entries, values)


def _checkpoint(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    params = equation.params
    if params["differentiated"]:
        return _as_it_is(settings, equation, entries)
    body = _body(settings, params["jaxpr"], entries)
    body = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
    return _moved(params["jaxpr"], entries, body(*_fixed(entries)))


def _scan(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    closed = equation.params["jaxpr"]
    split, carries = _compat.scan_operands(equation)
    flags = loop_dependence(equation, [entry.moves for entry in entries])
    entries = [entry._replace(moves=flag) for entry, flag in zip(entries, flags, strict=True)]
    # A carry is made of parameters only as long as nothing is known of what an iteration passes on.
    entries = [
        entry._replace(weighs=entry.weighs and not split <= i < split + carries)
        for i, entry in enumerate(entries)
    ]
    values = _compat.scan_like(equation, _body(settings, closed, entries))(*_fixed(entries))
    moves = dependence(closed, flags)
    return [Entry(value, flag) for value, flag in zip(values, moves, strict=True)]


def _cond(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    index, *operands = entries
    branches = equation.params["branches"]
    bodies = [_body(settings, branch, operands) for branch in branches]
    values = lax.switch(index.value, bodies, *_fixed(operands))
    found = [dependence(branch, [entry.moves for entry in operands]) for branch in branches]
    flags = [any(each) for each in zip(*found, strict=True)]
    return [Entry(value, flag or index.moves) for value, flag in zip(values, flags, strict=True)]


def _shard_map(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    body = _body(settings, equation.params["jaxpr"], entries)
    values = _compat.shard_map_like(equation, body)(*_fixed(entries))
    return _moved(equation.params["jaxpr"], entries, values)


def _as_it_is(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    """By the rule of its author, or of JAX."""
    return [Entry(value, True) for value in _compat.bind_equation(equation, *_fixed(entries))]


CALLS |= {
    primitives.jit_p: _jit,
    primitives.closed_call_p: _walk("call_jaxpr"),
    primitives.call_p: _walk("call_jaxpr"),
    primitives.remat_p: _checkpoint,
    lax.scan_p: _scan,
    primitives.cond_p: _cond,
    _compat.shard_map_p: _shard_map,
    primitives.while_p: _as_it_is,
    primitives.custom_jvp_call_p: _as_it_is,
    primitives.custom_vjp_call_p: _as_it_is,
}
