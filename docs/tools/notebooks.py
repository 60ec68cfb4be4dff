"""Notebooks as pages, and how they are executed: `python docs/tools/notebooks.py` runs all, in place."""

import base64
import json
import sys
from pathlib import Path
from typing import Any


def paths(root: Path) -> list[Path]:
    """All notebooks."""
    return sorted((root / "docs" / "notebooks").glob("*.ipynb"))


def page(path: Path) -> str:
    """A notebook with the outputs that it has, as Markdown."""
    parts: list[str] = []
    for number, cell in enumerate(_cells(path)):
        lines = "".join(cell["source"]).rstrip().splitlines()
        text = "\n".join(line for line in lines if not line.startswith("%"))  # for Jupyter alone
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        parts.extend(_output(path, number, output) for output in cell["outputs"])
    return "\n\n".join(parts) + "\n"


def pictures(path: Path) -> dict[str, bytes]:
    """The pictures in a notebook's outputs, by the names that its page gives them."""
    return {
        _picture(path, number): base64.b64decode(output["data"]["image/png"])
        for number, cell in enumerate(_cells(path))
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    }


def _cells(path: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return cells


def _picture(path: Path, number: int) -> str:
    return f"{path.stem}_{number}.png"


def _output(path: Path, number: int, output: dict[str, Any]) -> str:
    if "image/png" in output.get("data", {}):
        cell = _cells(path)[number]
        return f"![{cell['metadata']['alt']}]({_picture(path, number)})"
    text = output.get("text") or output["data"]["text/plain"]
    return "```text\n" + "".join(text).rstrip() + "\n```"


def execute(path: Path) -> None:
    """Runs a notebook in a fresh kernel and writes its outputs into it."""
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")
    NotebookClient(notebook, km=kernel, timeout=600, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                output.pop("execution_count", None)
                if output.output_type == "execute_result":
                    output.execution_count = None
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    root = Path(__file__).parents[2]
    wanted = set(sys.argv[1:])
    for each in paths(root):
        if not wanted or each.stem in wanted:
            print(each.name, flush=True)
            execute(each)
