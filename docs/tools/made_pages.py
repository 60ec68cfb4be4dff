"""Pages that are made from the package itself: primitives, lowerings, command line, examples, notebooks."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import notebooks

NOTE = "*This page is made from the package's own tables when the site is built.*"


def pages(root: Path) -> dict[str, str]:
    """The text of each page by its path in the site."""
    return {
        "supported_primitives.md": primitives_page(),
        "lowering_rules.md": rules_page(),
        "command_line.md": command_line_page(),
        "examples.md": examples_page(root),
        **{f"notebooks/{path.stem}.md": notebooks.page(path) for path in notebooks.paths(root)},
    }


def pictures(root: Path) -> dict[str, bytes]:
    """The pictures of notebooks by their path in the site."""
    return {
        f"notebooks/{name}": data
        for path in notebooks.paths(root)
        for name, data in notebooks.pictures(path).items()
    }


# Supported JAX primitives.

OF_DATA = {
    "after_all",
    "axis_index",
    "create_token",
    "dce_sink",
    "iota",
    "rng_bit_generator",
    "rng_uniform",
    "stage",
}
"""Primitives that see no value, or that JAX has for itself."""

INTRODUCTION = """
# Supported JAX primitives

{note}

A *primitive* is an elementary operation of JAX, as `jax.make_jaxpr` shows it. The table says what each
primitive means in the two ways of training, where it depends on parameters. Operations on data alone are
always possible.

**In a solver** (`pjp.solve`, `--solver ap` and others) an operation is one of these:

- *constraint*: it has a projection of its own, which finds the nearest point of its graph.
- *moves data*: it moves, repeats or selects elements, and needs no projection.
- *loss*: the graph ends here.
- *entered*: it calls another program, and the operations of that program are looked at one by one.
- *linearised*: it has no projection of its own. Where JAX can differentiate it, its nearest point is
  found by a fixed number of Gauss-Newton steps; the graph's printout marks it, and one warning names it.
  Where JAX cannot differentiate it, it is an error that names your line.
- *chooses*: its result is a truth value or an index, which has no projection alone. It can be part of a
  `jnp.where`, or of a linearised constraint around the numbers that are computed from it. Otherwise it is
  an error.
- *error*: it has neither a projection nor a derivative.

**In a displacement** (`pjp.displacement`) an operation passes its signal on in one of these ways:

- *derivative*: it uses the derivative that JAX has for it.
- *damped*: it uses its derivative, with the signal divided by a number close to 1.
- *pullback*: its derivative is zero, missing or ambiguous, and the library passes a signal through it.
- *entered*: its program is entered, and stays a loop, a branch or a checkpoint.
- *held*: its result is taken as the forward pass found it. A comparison that becomes a number, and a
  `jnp.where` of two constants, pass on a signal all the same.
- *error*: it has no derivative.

The last column is what the error says to write instead.
"""


def primitives_page() -> str:
    rows = ["| primitive | in a solver | in a displacement | instead |", "|---|---|---|---|"]
    rows += [f"| `{name}` | {' | '.join(columns)} |" for name, *columns in primitive_rows()]
    return INTRODUCTION.format(note=NOTE) + "\n" + "\n".join(rows) + "\n"


def primitive_rows() -> Iterator[tuple[str, str, str, str]]:
    """Gives for each primitive its name, what it means in a solver and in a displacement, and its remedy."""
    from jax import lax
    from jax.extend.core import Primitive
    from jax.extend.core.primitives import custom_jvp_call_p, custom_vjp_call_p, jit_p, remat_p
    from jax.interpreters import ad

    import pjax_prim  # noqa: F401  fills the tables
    from pjax_prim.rules import registry
    from pjax_prim.rules.remedies import remedy

    named = (getattr(lax, name) for name in dir(lax) if name.endswith("_p"))
    found = {x for x in named if isinstance(x, Primitive)} | set(registry._RULES)
    found |= {jit_p, remat_p, custom_jvp_call_p, custom_vjp_call_p}
    usual = remedy("")
    found = {primitive for primitive in found if primitive.name not in OF_DATA}
    for primitive in sorted(found, key=lambda x: x.name):
        differentiable = primitive in ad.primitive_jvps
        solver = _in_a_solver(primitive, differentiable)
        instead = remedy(primitive.name) if solver in ("linearised", "chooses", "error") else usual
        direction = _in_a_displacement(primitive, differentiable)
        yield primitive.name, solver, direction, "" if instead == usual else instead.replace("|", "\\|")


def _in_a_solver(primitive: Any, differentiable: bool) -> str:
    from jax.lax import scan_p

    from pjax_prim import _compat
    from pjax_prim.rules import is_loss, rule_of, structural

    if is_loss(primitive):
        return "loss"
    if primitive in _compat._CALLS or primitive is scan_p:
        return "entered"
    if (rule := rule_of(primitive)) is not None:
        return "moves data" if rule.__module__ == structural.__name__ else "constraint"
    if _chooses(primitive):
        return "chooses"
    return "linearised" if differentiable else "error"


def _in_a_displacement(primitive: Any, differentiable: bool) -> str:
    from pjax_prim.pullbacks.interpreter import CALLS
    from pjax_prim.pullbacks.products import DAMPED
    from pjax_prim.pullbacks.registry import pullback_of

    if pullback_of(primitive) is not None:
        return "pullback"
    if primitive in DAMPED:
        return "damped"
    if _chooses(primitive):
        return "held"
    if primitive in CALLS and primitive.name in ("jit", "checkpoint", "remat2", "scan", "cond"):
        return "entered"
    return "derivative" if differentiable or primitive in CALLS else "error"


def _chooses(primitive: Any) -> bool:
    """Whether its results are truth values or whole numbers though its operands are numbers."""
    import jax
    import jax.numpy as jnp

    if primitive.name.startswith(("argm", "reduce_and", "reduce_or", "reduce_xor", "shift_")):
        return True
    if primitive.name in ("and", "or", "not", "xor", "clz", "population_count"):
        return True
    for count in (1, 2):
        try:
            found = jax.eval_shape(lambda *x: primitive.bind(*x), *[jnp.float32(1)] * count)
            dtypes = [x.dtype for x in jax.tree.leaves(found)]
        except Exception:  # it needs other operands, or parameters
            continue
        return not all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes)
    return False


# The rules of lowering.


def rules_page() -> str:
    from pjax_prim.lowering import table

    rows = ["| primitive | platform | rule | when |", "|---|---|---|---|"]
    rows += [
        f"| `{name}` | {platform} | `{rule}` | {when} |"
        for name, platform, rule, when in table()
        if rule != "reference"
    ]
    text = f"{NOTE}\n\n[Lowering](lowering.md) says how one is chosen. Every primitive has a reference, too."
    return f"# Rules of lowering\n\n{text}\n\n" + "\n".join(rows) + "\n"


# The command line, and the examples.


def command_line_page() -> str:
    from pjax_prim_command import COMMANDS

    text = [
        f"# Command line\n\n{NOTE}\n\nAfter the name of a file of yours a command takes the options "
        "of [its task](tasks.md), too.\n"
    ]
    for command in COMMANDS:
        text.append(f"## pjax-prim {command}\n\n```text\n{_help(command)}\n```\n")
    return "\n".join(text)


def _help(command: str) -> str:
    from pjax_prim.cli import main

    os.environ["COLUMNS"] = "90"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue()).strip()


def examples_page(root: Path) -> str:
    text = ["# Examples\n\nThese files lie in `examples/` of the source.\n"]
    for path in sorted((root / "examples").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        text.append(f"## {name.removeprefix('examples/')} {{ #{anchor(name)} }}\n")
        text.append(f"```python\n{path.read_text().rstrip()}\n```\n")
    return "\n".join(text)


def anchor(path: str) -> str:
    """The anchor of an example on its page."""
    return re.sub(r"\W+", "-", path.removesuffix(".py"))
