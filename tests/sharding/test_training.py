"""`train` on a mesh, in one process."""

from pathlib import Path

import chex
import equinox as eqx
import jax
import pytest

from pjax_prim.errors import ArgumentError
from pjax_prim.models import SEQUENCE_NETWORKS
from pjax_prim.training import RunFolder
from tests.training.runs import run

CONFIG = {"hidden": (8,), "batch_size": 16, "batches": 2, "steps_per_batch": 3, "eval_every": 2}


def check_same(solver: str, mesh: str, **fields: object) -> None:
    config = {**CONFIG, "solver": solver, **fields}
    alone, divided = run(config), run({**config, "mesh": mesh})
    arrays = [jax.device_get(eqx.filter(x.model, eqx.is_inexact_array)) for x in (alone, divided)]
    chex.assert_trees_all_close(*arrays, rtol=0, atol=1e-5)
    assert divided.rows[-1]["loss"] == pytest.approx(alone.rows[-1]["loss"], rel=1e-4)


def test_projections() -> None:
    check_same("ap", "data=4,model=2")


@pytest.mark.slow
def test_a_metric() -> None:
    check_same("cp", "data=4,model=2", metric="full-outputs")


@pytest.mark.slow
def test_with_a_state_between_chunks_and_dropout() -> None:
    check_same("dr", "data=2,model=4", chunk_steps=2, average=0.9, dropout=0.2, track_best=True)


def check_same_rows(mesh: str, config: dict) -> None:
    """Losses and gaps, not parameters: Adam makes whole steps of directions that are rounding."""
    for a, b in zip(run(config).rows, run({**config, "mesh": mesh}).rows, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b.get("gap") == pytest.approx(a.get("gap"), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [None, 3])
def test_extrapolated_projections(steps: int | None) -> None:
    """On one device small displacements are taken to first order: half of the digits agree."""
    config = {**CONFIG, "solver": "ep", "batches": 4, "steps_per_batch": steps, "chunk_steps": 2}
    check_same_rows("data=4,model=2", config)


@pytest.mark.slow
def test_images() -> None:
    fields = {"solver": "displacement", "model": "cnn", "steps_per_batch": None}
    check_same_rows("data=2,model=4", {**CONFIG, "batches": 5, **fields})


@pytest.mark.slow
@pytest.mark.parametrize("model", SEQUENCE_NETWORKS)
def test_texts(model: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question: " * 40)
    fields = {"data": "text", "data_dir": tmp_path, "length": 8, "hidden": (8,)}
    config = {**CONFIG, "solver": "displacement", "model": model, "steps_per_batch": None, **fields}
    check_same_rows("data=4,model=2", config)


@pytest.mark.slow
def test_gradients() -> None:
    check_same("adam", "data=2,model=4")


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    config = {**CONFIG, "batches": 4}
    whole = run(config)
    run({**config, "batches": 2, "mesh": "data=4,model=2"}, folder)
    went_on = run({**config, "mesh": "data=8"}, folder, resume=True)
    assert [row["batch"] for row in went_on.rows] == [1, 2, 3, 4]
    arrays = [jax.device_get(eqx.filter(x.model, eqx.is_inexact_array)) for x in (whole, went_on)]
    chex.assert_trees_all_close(*arrays, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mesh": "dota=2"}, "mesh: no axis 'dota'; did you mean data"),
        ({"mesh": "data=3"}, "mesh: expected sizes that multiply to the 8 devices there are, given data=3"),
        ({"mesh": "data=8", "batch_size": 12}, "0 has 12 examples, which mesh axis data=8 does not"),
    ],
)
def test_bad_meshes(fields: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        run({**CONFIG, **fields})
