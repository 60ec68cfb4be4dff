"""Which lowering a primitive gets: one table of rules, and a switch.

A rule is a function of arrays for one platform or all. An equation carries the switch as a static parameter,
so programs with different choices are compiled apart, and its composite in the lowered text says both the
choice and the rule that was taken.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal, get_args

import jax

from pjax_prim._compat import is_whole_on_each_device, lower_as_composite, register_lowering
from pjax_prim.errors import ArgumentError
from pjax_prim.primitives import Choice, Definition
from pjax_prim.primitives import choice as _choice
from pjax_prim.primitives._definition import traceable

from .pointwise import gathered

CHOICES: tuple[Choice, ...] = get_args(Choice)
Platform = Literal["cpu", "cuda", "rocm", "tpu"]
Implementation = Callable[..., tuple[jax.Array, ...]]


@contextmanager
def use(choice: Choice) -> Iterator[None]:
    """A context manager: chooses which rules the equations that are made inside may use.

    **Arguments:** `choice`: "auto", the first of the table (`table`) that is legal where the equation is;
    "xla", no kernels; "pallas", kernels wherever they are legal, interpreted on platforms other than TPU,
    which is slow and for tests. It becomes a static parameter of every projection traced inside, so a
    function that `jax.jit` has traced before keeps the choice it was traced with.

    **Errors:** `ArgumentError` for another choice.
    """
    if choice not in CHOICES:
        raise ArgumentError(f"choice: expected {' or '.join(map(repr, CHOICES))}, given {choice!r}")
    token = _choice.set(choice)
    try:
        yield
    finally:
        _choice.reset(token)


@dataclass(frozen=True)
class Rule:
    """How a primitive is lowered.

    **Arguments:**

    - `name`: its name in tables and lowered text.
    - `implementation`: takes what the reference takes.
    - `kernel`: whether it is one of Pallas; the choice "xla" leaves these out, and with "pallas" platforms
      other than TPU interpret them (`interpret=True` of the implementation).
    - `local`: whether it may only be used where one device holds all of the operands: programs of one
      device, and `shard_map` over all axes.
    - `supports`: says for the operands' `ShapeDtypeStruct`s and the static parameters whether it can be used.
    - `when`: says in words what it is for.
    - `again`: on CPU, how many divisions, exponentials and the like are computed again for each of several
      loops that read them, rather than stored by a loop of its own. More is less to compile.
    """

    name: str
    implementation: Implementation
    kernel: bool = False
    local: bool = False
    supports: Callable[..., bool] = lambda *operands, **static: True
    when: str = "always"
    again: int = 0


RULES: dict[str, dict[Platform | None, tuple[Rule, ...]]] = {}
"""The rules by a primitive's name and platform. The first that can be used wins; those of None hold
for all platforms, after those of its own. The reference ends every list."""


def register(definition: Definition, rule: Rule | None = None, platform: Platform | None = None) -> None:
    """Adds a rule, ahead of those that the primitive has on the platform.

    The lowered text has a function of the primitive's name, in which a composite of a stable name and
    version; profiles show the primitive's name.

    **Arguments:** `definition`: the primitive; `rule`: the reference if None; `platform`: all if None.
    """
    rule = rule or Rule("reference", definition.reference)
    rules = RULES.setdefault(definition.name, {})
    rules[platform] = (rule, *rules.get(platform, ()))
    for where in {platform, platform or "cpu"}:  # on CPU what all platforms share is gathered
        lower = partial(_lower, definition, where)
        register_lowering(definition.primitive, lower, platform=where, inline=False)


def table() -> list[tuple[str, str, str, str]]:
    """Gives (primitive, platform, rule, when it is used) of every rule, in the order of trial."""
    return [
        (name, platform or "all", rule.name, rule.when)
        for name, rules in sorted(RULES.items())
        for platform, chosen in sorted(rules.items(), key=lambda item: item[0] or "~")
        for rule in chosen
    ]


def _lower(
    definition: Definition,
    platform: Platform | None,
    ctx: Any,
    *operands: Any,
    lowering: Choice = "auto",
    **static: Any,
) -> Any:
    local = is_whole_on_each_device(ctx)
    rule = _select(definition, platform, lowering, local, ctx.avals_in, static)
    scoped = traceable(definition.name, rule.implementation, tuple(sorted(static.items())))
    if platform == "cpu" and local and not rule.kernel:
        scoped = gathered(definition.name, scoped, rule.again)
    attributes = {**static, "rule": rule.name}
    if definition.chooses:
        attributes["lowering"] = lowering
    lower = partial(
        lower_as_composite, definition.composite, definition.version, scoped, attributes, ctx, *operands
    )
    if not (rule.kernel and platform == "cuda"):
        return lower()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
        return lower()


@cache
def _interpreted(rule: Rule) -> Rule:
    """The rule with its kernel interpreted; the same one each time, as `traceable` knows it by that."""
    return replace(rule, implementation=partial(rule.implementation, interpret=True))


def _select(
    definition: Definition,
    platform: Platform | None,
    choice: Choice,
    local: bool,
    operands: Any,
    static: dict[str, Any],
) -> Rule:
    rules = RULES[definition.name]
    candidates = [*(rules.get(platform, ()) if platform is not None else ()), *rules[None]]
    if choice == "pallas" and platform != "tpu":
        kernels = (rule for rule in rules.get("tpu", ()) if rule.kernel)
        own = [rule for rule in candidates if rule.kernel]
        candidates = [*own, *map(_interpreted, kernels), *candidates]
    usable = (
        rule
        for rule in candidates
        if not (rule.kernel and choice == "xla")
        and (local or not rule.local)
        and rule.supports(*operands, **static)
    )
    return next(usable)
