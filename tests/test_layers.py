"""Each layer imports only from those before it, and only `_compat` knows of JAX versions."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "pjax_prim"

# Lowest first. Names on one line may not import each other. "" is `import pjax_prim`, the public
# names: what stands after it is written against them, as a user would.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("_compat",),
    ("walking",),
    ("errors", "dependence", "explicit_axes", "versions"),
    ("primitives",),
    ("settings", "finite", "arguments"),
    ("lowering",),
    ("rules", "restrictions"),
    ("pullbacks", "own_losses"),
    ("graph",),
    ("metric", "restricting", "lipschitz"),
    ("problem",),
    ("solvers",),
    ("stepping",),
    ("constants",),
    ("feasibility",),
    ("solving",),
    ("starts",),
    ("displacement",),
    ("updates",),
    ("sharding",),
    ("checkpoint",),
    ("",),
    ("data", "models"),
    ("training",),
    ("tasks",),
    ("cli",),
)
PRIVATE = ("jax._src", "jax.interpreters.mlir", "jax.extend.mlir")
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package as it is imported."""
    found = {}
    for folder, prefix in ((PACKAGE, ()), ("lowering", (PACKAGE,)), ("sharding", (PACKAGE,))):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = (*prefix, *path.relative_to(ROOT).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(source: str, name: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """`(line, dotted name)` of each import in `source`, relative ones resolved.

    `from m import a` yields `m.a` (whether `a` is a module is for the caller to ask).
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")
            if node.level:
                base = base[: len(base) - node.level + is_package]
                base += node.module.split(".") if node.module else []
            else:
                base = (node.module or "").split(".")
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def layer(dotted: str) -> str | None:
    """The layer that an imported name belongs to; None for other packages."""
    package, _, rest = dotted.partition(".")
    if package != PACKAGE:
        return None
    head = rest.split(".")[0]
    known = head in LEVEL or any(name.split(".")[1:2] == [head] for name in MODULES)
    return head if known else ""


def layer_violations(source: str, name: str, is_package: bool = False) -> list[str]:
    """Imports that point to a higher layer, or sideways within one."""
    own = layer(name)
    assert own is not None
    found = []
    for line, target in imported(source, name, is_package):
        other = layer(target)
        if other is None or other == own:
            continue
        if other not in LEVEL or LEVEL[other] >= LEVEL[own]:
            found.append(f"{name}:{line} imports {target}")
    return found


def compat_violations(source: str, name: str, is_package: bool = False) -> list[str]:
    """Uses of what is JAX's own in all but name, or of a version, which only `_compat` may make."""
    found = [
        f"{name}:{line} imports {target}"
        for line, target in imported(source, name, is_package)
        if target.startswith(PRIVATE) or target.endswith(".__version__")
    ]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        if node.attr in ("Tracer", "symbol_table", "module_context"):
            found.append(f"{name}:{node.lineno} reads {node.attr}")
        if node.attr in ("_src", "__version__", "__version_info__"):
            if isinstance(node.value, ast.Name) and node.value.id in ("jax", "jaxlib"):
                found.append(f"{name}:{node.lineno} reads {node.value.id}.{node.attr}")
    return found


def test_every_module_has_a_layer() -> None:
    tops = {name.split(".")[1] if "." in name else "" for name in MODULES}
    assert tops <= LEVEL.keys(), "add the new module to LAYERS"


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    path = MODULES[name]
    assert not layer_violations(path.read_text(), name, path.stem == "__init__")


@pytest.mark.parametrize("name", [name for name in MODULES if name != f"{PACKAGE}._compat"])
def test_only_compat_knows_versions(name: str) -> None:
    assert not compat_violations(MODULES[name].read_text(), name)


@pytest.mark.parametrize(
    ("source", "name", "is_package", "bad"),
    [
        ("from ..errors import DataError", "pjax_prim.primitives.dot", False, False),
        ("from ..rules.registry import x", "pjax_prim.primitives.dot", False, True),
        ("from .. import rules", "pjax_prim.primitives.dot", False, True),
        ("from ._definition import define", "pjax_prim.primitives", True, False),
        ("from .. import rules", "pjax_prim.primitives", True, True),
        ("import pjax_prim.solving", "pjax_prim.solvers.ap", False, True),
        ("def f():\n    from pjax_prim.graph import x", "pjax_prim.solvers.ap", False, False),
        ("def f():\n    from pjax_prim.solving import x", "pjax_prim.solvers.ap", False, True),
        ("import pjax_prim as pjp", "pjax_prim.training.step", False, False),
        ("import pjax_prim as pjp", "pjax_prim.solvers.ap", False, True),
        ("from .. import mistyped", "pjax_prim.solvers.ap", False, True),
        ("from ..models import MLP", "pjax_prim.data.idx", False, True),
        ("import jax.numpy as jnp", "pjax_prim.errors", False, False),
    ],
)
def test_layer_check_itself(source: str, name: str, is_package: bool, bad: bool) -> None:
    assert bool(layer_violations(source, name, is_package)) is bad


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("from jax._src import core", True),
        ("import jax._src.core", True),
        ("import jax\njax._src", True),
        ("import jax\nif jax.__version_info__ > (0, 11): pass", True),
        ("from jax import __version__", True),
        ("from jax.interpreters import mlir", True),
        ("from jax.interpreters import ad", False),
        ("import jax\nisinstance(x, jax.core.Tracer)", True),
        ("ctx.module_context.symbol_table", True),
        ("import jax.extend.core", False),
    ],
)
def test_compat_check_itself(source: str, bad: bool) -> None:
    assert bool(compat_violations(source, "pjax_prim.graph")) is bad
