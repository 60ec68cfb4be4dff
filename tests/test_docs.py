"""The documentation: every public name is in it, and the code of its pages runs."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.rules import registry

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGES = {
    "pjax_prim": "pjax_prim",
    "pjax_prim.checkpoint": "pjax_prim/checkpoint",
    "pjax_prim.data": "pjax_prim/data",
    "pjax_prim.lowering": "lowering",
    "pjax_prim.models": "pjax_prim/models",
    "pjax_prim.problem": "pjax_prim/problem",
    "pjax_prim.sharding": "sharding",
    "pjax_prim.training": "pjax_prim/training",
    "pjax_prim.training.trackers": "pjax_prim/training/trackers",
}
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
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


def code_of(page: Path) -> Iterator[tuple[int, str]]:
    """Each block of Python of a page, with its line; `<!-- not run -->` before a block leaves it out."""
    text = page.read_text()
    for block in re.finditer(r"^(<!-- not run.*?-->\n+)?```python\n(.*?)^```", text, re.M | re.S):
        if block[1] is None:
            yield text.count("\n", 0, block.start(2)), block[2]


@pytest.mark.filterwarnings("ignore::pjax_prim.LinearisedConstraintWarning")
@pytest.mark.parametrize("page", [x for x in PAGES if any(code_of(x))], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"page_{page.stem}"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))  # where dataclasses look
    namespace: dict[str, object] = {"__name__": name}
    for line, code in code_of(page):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_blocks_that_are_not_run_are_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\na\n```\n\n<!-- not run: slow -->\n```python\nb\n```\n```sh\nc\n```\n")
    assert list(code_of(page)) == [(1, "a\n")]


def graph_errors() -> Iterator[tuple[str, list[str]]]:
    """Where a graph is refused, with the fixed parts of the message."""
    for path in sorted((ROOT / "pjax_prim").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id in ("GraphError", "MissingRuleError") and node.args:
                parts = [x.value for x in ast.walk(node.args[0]) if isinstance(x, ast.Constant)]
                texts = [x for x in parts if isinstance(x, str) and len(x) > 3]
                if texts:  # else it passes another message on
                    yield f"{path.name}:{node.lineno}", texts


def test_every_error_of_a_graph_is_explained() -> None:
    messages = re.findall(r"^\| `(.*?)`.*? \|", (DOCS / "faq.md").read_text(), re.M)
    rows = [[part.strip(" '") for part in row.split("...")] for row in messages]
    rows = [[part for part in row if len(part) > 3] for row in rows]
    found = list(graph_errors())
    assert len(found) > 15
    wholes = {where: " ".join(texts) for where, texts in found}
    explained = {w for w, text in wholes.items() if any(row and all(x in text for x in row) for row in rows)}
    assert wholes.keys() == explained, {w: text for w, text in wholes.items() if w not in explained}


NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def cells_of(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text())["cells"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_gave(notebook: Path) -> None:
    cells = cells_of(notebook)
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert outputs and cells[0]["cell_type"] == "markdown"
    assert all(output.get("name") != "stderr" and output["output_type"] != "error" for output in outputs)
    for cell in cells:
        drawn = any("image/png" in output.get("data", {}) for output in cell.get("outputs", ()))
        assert drawn == ("alt" in cell["metadata"])  # a picture has a text


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_warnings(notebook: Path, tmp_path: Path) -> None:
    codes = ["".join(cell["source"]) for cell in cells_of(notebook) if cell["cell_type"] == "code"]
    lines = [line for code in codes for line in code.splitlines() if not line.startswith("%")]
    (tmp_path / "notebook.py").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-W", "error", "notebook.py"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shown = [
        text for cell in cells_of(notebook) for x in cell.get("outputs", ()) for text in x.get("text", ())
    ]
    # Figures of learning differ a little from machine to machine; the words are the same.
    words = [re.sub(r"[\d.\[\]()%, \-e+]+", " ", text) for text in shown]
    printed = re.sub(r"[\d.\[\]()%, \-e+]+", " ", done.stdout)
    assert all(word.strip() in printed for word in words)


@pytest.mark.filterwarnings("ignore::pjax_prim.LinearisedConstraintWarning")
def test_the_page_of_primitives_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says of solvers is what graphs do, for every primitive of one number without parameters."""
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    rows = {name: solver for name, solver, *_ in importlib.import_module("made_pages").primitive_rows()}
    assert {primitive.name for primitive in registry._RULES} <= rows.keys()
    tried = set()
    for name in dir(lax):
        primitive = getattr(lax, name)
        if not name.endswith("_p") or rows.get(primitive.name, "entered") == "entered" or name == "round_p":
            continue
        try:
            if jax.eval_shape(primitive.bind, jnp.float32(0.5)).dtype != jnp.float32:
                continue
        except Exception:  # it takes several numbers, or parameters
            continue

        def fn(w: Array, primitive: Any = primitive) -> Array:
            return pjp.squared_error(primitive.bind(2 * w), jnp.ones(1))

        try:
            kinds = {node.kind for node in pjp.constraint_graph(fn)(jnp.full(1, 0.3)).nodes}
            found = (
                "linearised" if "linearised" in kinds else "constraint" if len(kinds) == 4 else "moves data"
            )
        except pjp.GraphError:
            found = "error"
        if name != "stop_gradient_p":  # behind which nothing is trained
            assert rows[primitive.name] == found, (name, found)
            tried.add(found)
    assert tried >= {"constraint", "linearised", "moves data"}
