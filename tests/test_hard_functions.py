"""The tasks of `examples/hard`: networks with hard functions, which are trained as they are written."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pjax_prim as pjp
from pjax_prim.data import open_stream
from pjax_prim.tasks import TaskFile
from pjax_prim.training import Task
from pjax_prim.training.benchmark import case_of, compare

FOLDER = Path(__file__).parent.parent / "examples" / "hard"
ROWS: dict[str, dict[str, Any]] = {
    "spiking": {"width": 12, "steps": 6},
    "int8": {"width": 8},
    "attention": {"width": 8, "count": 3},
    "staircase": {"width": 8},
    "mixture": {"width": 8, "experts": 3},
    "low_bit": {"weights": "ternary", "activations": "binary", "length": 8},
}


@pytest.fixture
def modules() -> Iterator[None]:
    """Files of tasks put their folder in the path, and what they import beside them in `sys.modules`."""
    path, known = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in {"common", *ROWS} & (set(sys.modules) - known):
        del sys.modules[name]


def write_images(folder: Path) -> None:
    """Bright rows of images by their class, in the files of MNIST."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 64), ("t10k", 8)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = rng.integers(0, 60, (count, 10, 3)).astype(np.uint8)
        images[np.arange(count), labels] += 180
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())


def make(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TaskFile, Task]:
    file = TaskFile(FOLDER / f"{name}.py")
    options: dict[str, Any] = {"data_dir": str(folder), **ROWS[name]}
    if name == "low_bit":
        (folder / "text.txt").write_text("the cat sat on the mat; " * 40)
        for size, value in (("WIDTH", 16), ("BLOCKS", 2)):
            monkeypatch.setitem(file.function.__globals__, size, value)
    else:
        write_images(folder)
        options["batch_size"] = 32
    if name == "mixture":
        options["fashion_dir"] = str(folder)
    return file, file.make(file.read_options(options, file.default_options()))


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.slow if x in ("attention", "staircase") else ()) for x in ROWS],
)
def test_tasks_train_as_they_are_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: None
) -> None:
    file, task = make(name, tmp_path, monkeypatch)
    assert file.train_config().method.solver == "displacement"
    assert file.train_config("jp").method.optimiser is None
    stream = open_stream(task.data(0))
    batch = jax.tree.map(jnp.asarray, next(stream.read(stream.start, 1))[0])
    model = task.model(jax.random.key(0))
    optimiser = optax.adam(0.02)

    def value(model: Any) -> Any:
        return task.loss(model, batch, None)

    @eqx.filter_jit
    def run(model: Any) -> Any:
        trained, others = eqx.partition(model, eqx.is_inexact_array)

        def step(carry: Any, _: None) -> Any:
            trained, memory = carry
            found, direction = pjp.value_and_displacement(value)(eqx.combine(trained, others))
            updates, memory = optimiser.update(direction, memory)
            return (eqx.apply_updates(trained, updates), memory), (jnp.mean(found), direction)

        return jax.lax.scan(step, (trained, optimiser.init(trained)), None, length=30)[1]

    values, directions = run(model)
    for leaf in jax.tree.leaves(directions):
        assert np.isfinite(leaf).all() and np.abs(leaf[0]).max() > 0
    assert values[-1] < 0.9 * values[0]
    evaluated = task.metrics(model, next(iter(task.evaluate["test"])))  # type: ignore[misc]
    assert set(evaluated) == {"loss", "accuracy"} and np.isfinite(evaluated["loss"]).all()


def test_gradients_end_at_hard_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: None
) -> None:
    """So that what is above is due to displacements."""
    _, task = make("spiking", tmp_path, monkeypatch)
    model = task.model(jax.random.key(0))
    batch = next(iter(task.evaluate["test"]))
    found = eqx.filter_grad(lambda model: jnp.mean(task.loss(model, batch, None)))(model)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found))


def test_a_benchmark_without_a_constraint_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: None
) -> None:
    _, task = make("spiking", tmp_path, monkeypatch)
    figures = compare(None, *case_of(task), repeats=1)
    assert figures["ratio_to_adam"] > 0 and not any("products" in name for name in figures)
    with pytest.raises(pjp.GraphError, match="no projection rule for primitive 'ge'"):
        compare(pjp.AlternatingProjections(), *case_of(task), repeats=1)
