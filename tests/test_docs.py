"""The documentation: every public name is in it, and the code of its pages runs."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import pjax_prim as pjp

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGES = {
    "pjax_prim": "pjax_prim",
    "pjax_prim.checkpoint": "pjax_prim/checkpoint",
    "pjax_prim.data": "pjax_prim/data",
    "pjax_prim.lowering": "lowering",
    "pjax_prim.models": "pjax_prim/models",
    "pjax_prim.sharding": "sharding",
    "pjax_prim.training": "pjax_prim/training",
    "pjax_prim.training.trackers": "pjax_prim/training/trackers",
}
REFERENCE = "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))


def public_names(package: str) -> set[str]:
    """What a package's `__init__` exports: `import x as x`, and what it defines."""
    names: set[str] = set()
    for node in ast.parse((ROOT / PACKAGES[package] / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            # A lower package's module is reached as an attribute and has a page of its own.
            names |= {alias.name for alias in node.names if alias.asname == alias.name and node.module}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_missing_from_the_reference(package: str) -> None:
    names = public_names(package)
    assert names, package
    listed = set(re.findall(rf"^::: {re.escape(package)}\.(\w+)$", REFERENCE, re.M))
    assert listed == names


def test_public_names_are_found() -> None:
    assert {"solve", "register_loss", "DouglasRachford"} <= public_names("pjax_prim")
    assert not hasattr(pjp, "__all__")  # or it would have to be read instead
