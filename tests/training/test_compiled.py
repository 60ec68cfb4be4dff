"""Steps that `aot --save` compiled, taken by `train --compiled`."""

import json
import zipfile
from pathlib import Path

import pytest

from pjax_prim.cli import main
from pjax_prim.errors import RunError
from pjax_prim.training import train
from pjax_prim.training.placing import Placing
from tests.training.runs import made

ADAM = "--solver adam --hidden 8 --batch-size 16 --batches 2".split()
CHUNKS = "--hidden 8 --batch-size 16 --batches 2 --steps-per-batch 3 --chunk-steps 2".split()
FIELDS = {"solver": "adam", "hidden": (8,), "batch_size": 16, "batches": 2}
TASK = """
import jax, jax.numpy as jnp, numpy as np
from pjax_prim.training import Task

def task():
    batch = {"x": np.ones((8, 3), np.float32)}
    loss = lambda model, batch, key: jnp.mean(FUNCTION(batch["x"] @ model["w"]))
    model = lambda key: {"w": jax.random.normal(key, (3, 2), jnp.float32)}
    return Task(model=model, loss=loss, train=[batch])
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "steps"
    assert main(["aot", "--topology", "here", *ADAM, "--save", str(path)]) == 0
    return path


@pytest.mark.parametrize(
    "options",
    [
        ["--solver", "adam", *CHUNKS, "--mesh", "data=4,model=2"],
        pytest.param(["--solver", "dr", *CHUNKS], marks=pytest.mark.slow),
        pytest.param(["--solver", "ap", *ADAM[2:], "--mesh", "data=4,model=2"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_run_by_compiled_steps(options: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    """It gives the parameters of any other run, and compiles no step."""
    file = tmp_path / "steps"
    assert main(["aot", "--topology", "here", *options, "--save", str(file)]) == 0
    capsys.readouterr()
    found = []
    for name, given in (("alone", []), ("compiled", ["--compiled", str(file)])):
        if given:
            monkeypatch.delattr(Placing, "compile")
        # The seed is no part of a step.
        words = ["train", *options, *given, "--seed", "3", "--run-dir", str(tmp_path / name), "--json"]
        assert main(words) == 0
        found.append(json.loads(capsys.readouterr().out)["params_sha256"])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.5}, r"config\.method\.learning_rate: None in the file, 0\.5 of this run"),
        ({"average": 0.5}, r"config\.average: None in the file, 0\.5 of this run"),
        ({"hidden": (4,)}, r"layers\.0\.weight: float32\[8, 64\] in the file, float32\[4, 64\] of this run"),
        (
            {"mesh": "data=8"},
            r"devices: 1 in the file, 8 of this run\n  mesh: '' in the file, 'data=8'",
        ),
    ],
)
def test_another_run_is_refused(fields: dict, message: str, file: Path) -> None:
    with pytest.raises(RunError, match=f"holds steps compiled for another run:(.|\n)*{message}"):
        train(*made({**FIELDS, **fields}), compiled=file)


def test_other_versions_are_refused(file: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(tmp_path / "old", "w") as old:
        about = json.loads(archive.read("description.json"))
        about["versions"]["jaxlib"] = "0.1"
        old.writestr("description.json", json.dumps(about))
    with pytest.raises(RunError, match=r"jaxlib: '0\.1' in the file, '[\d.]+' of this run"):
        train(*made(FIELDS), compiled=tmp_path / "old")


def test_other_code_is_refused(tmp_path: Path, capsys) -> None:
    code, steps = tmp_path / "own.py", tmp_path / "steps"
    code.write_text(TASK.replace("FUNCTION", "jnp.square"))
    assert main(["aot", str(code), "--topology", "here", "--solver", "adam", "--save", str(steps)]) == 0
    code.write_text(TASK.replace("FUNCTION", "jnp.exp"))
    words = [
        "train",
        str(code),
        "--solver",
        "adam",
        "--compiled",
        str(steps),
        "--run-dir",
        str(tmp_path / "r"),
    ]
    assert main(words) == 2
    assert "program: options and arrays are the same, the step is not: other code" in capsys.readouterr().err


def test_what_is_no_file_of_steps(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="absent: cannot be read"):
        train(*made(FIELDS), compiled=tmp_path / "absent")
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(RunError, match="text: not a file of compiled steps"):
        train(*made(FIELDS), compiled=tmp_path / "text")
