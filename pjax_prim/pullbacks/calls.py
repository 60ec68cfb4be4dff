"""Operations that call programs: they stay what they are, and what they call is interpreted."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives

from .. import _compat
from ..dependence import dependence, loop_dependence
from .interpreter import CALLS, Call, Entry, Settings, has_soft, interpret, number_of

Pair = tuple[Any, Any]


def _fixed(entries: Sequence[Entry]) -> list[Any]:
    return [entry.value for entry in entries]


def _pairs(entries: Sequence[Entry]) -> list[Pair]:
    """The values, and beside them what comparisons carry."""
    return [(entry.value, entry.soft) for entry in entries]


def _body(
    settings: Settings, closed: Any, entries: Sequence[Entry], numbered: Sequence[bool] | None = None
) -> Callable[..., list[Pair]]:
    """The called program as a function of pairs of values and what comparisons carry.

    **Arguments:** `numbered`, which results carry a number in any case, of JAX's default float; the others do
    where the program says so.
    """

    def run(*pairs: Pair) -> list[Pair]:
        arguments = [
            Entry(value, entry.moves, entry.weighs, soft)
            for (value, soft), entry in zip(pairs, entries, strict=True)
        ]
        results = interpret(settings, closed, arguments)
        return _pairs(results if numbered is None else _numbered(results, numbered))

    return run


def _numbered(entries: Sequence[Entry], wanted: Sequence[bool]) -> list[Entry]:
    dtype = jnp.result_type(float)
    return [
        entry._replace(soft=number_of(entry, dtype)) if want else entry._replace(soft=None)
        for entry, want in zip(entries, wanted, strict=True)
    ]


def _carrying(closed: Any, flags: Sequence[bool]) -> list[bool]:
    """Which results of a program may be made of comparisons: booleans and integers that move."""
    results = _compat.open_jaxpr(closed)[0].outvars
    return [flag and has_soft(x.aval.dtype) for flag, x in zip(flags, results, strict=True)]


def _moved(closed: Any, entries: Sequence[Entry], pairs: Sequence[Pair]) -> list[Entry]:
    return _entries(pairs, dependence(closed, [entry.moves for entry in entries]))


def _entries(pairs: Sequence[Pair], moves: Sequence[bool]) -> list[Entry]:
    return [Entry(value, flag, soft=soft) for (value, soft), flag in zip(pairs, moves, strict=True)]


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
    if "out_shardings" in options:
        options["out_shardings"] = list(options["out_shardings"])  # as the body's results
    return _moved(closed, entries, jax.jit(body, **options)(*_pairs(entries)))


def _checkpoint(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    params = equation.params
    if params["differentiated"]:
        return _as_it_is(settings, equation, entries)
    body = _body(settings, params["jaxpr"], entries)
    body = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
    return _moved(params["jaxpr"], entries, body(*_pairs(entries)))


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
    moves = dependence(closed, flags)
    numbered = _carrying(closed, moves)
    carried = _numbered(entries[split : split + carries], numbered[:carries])
    entries = [*entries[:split], *carried, *entries[split + carries :]]
    pairs = _compat.scan_like(equation, _body(settings, closed, entries, numbered))(*_pairs(entries))
    return _entries(pairs, moves)


def _cond(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    index, *operands = entries
    branches = equation.params["branches"]
    found = [dependence(branch, [entry.moves for entry in operands]) for branch in branches]
    flags = [any(each) for each in zip(*found, strict=True)]
    numbered = _carrying(branches[0], flags)
    bodies = [_body(settings, branch, operands, numbered) for branch in branches]
    pairs = lax.switch(index.value, bodies, *_pairs(operands))
    return _entries(pairs, [flag or index.moves for flag in flags])


def _shard_map(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    body = _body(settings, equation.params["jaxpr"], entries)
    pairs = _compat.shard_map_like(equation, body)(*_pairs(entries))
    return _moved(equation.params["jaxpr"], entries, pairs)


def _as_it_is(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    """The directions by the rule of the equation's author, or of JAX."""
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
