import re

import pytest

from pjax_prim.errors import ArgumentError
from pjax_prim.models import NETWORKS, SEQUENCE_NETWORKS
from pjax_prim.tasks.classification import Classifier
from pjax_prim.training import Method, TrainConfig
from pjax_prim.training.configuration import from_plain
from pjax_prim.training.methods import PROJECTION_SOLVERS

from .runs import made


def test_json_round_trip() -> None:
    method = Method(solver="dr", relaxation=0.7, steps_per_batch=2)
    config = TrainConfig(method=method, seed=4, track_best=True)
    assert TrainConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"solver": "newton"},
            f"solver: expected one of {', '.join(PROJECTION_SOLVERS)}, displacement, ",
        ),
        ({"form": "dense"}, "form: expected one of compressed, expanded, given 'dense'"),
        ({"form": "expanded", "solver": "dr"}, "form: only for solver ap, cp, given with dr"),
        ({"relaxation": 0.5}, "relaxation: only for solver dr, given with ap"),
        ({"beta": 1.0}, "beta: only for solver dm, given with ap"),
        ({"rate": 0.5}, "rate: only for solver ep, given with ap"),
        ({"iterations": 5}, "iterations: only for solver jp, given with ap"),
        ({"iterations": 0, "solver": "jp"}, "iterations: expected a whole number of at least 1, given 0"),
        (
            {"final_learning_rate": 1e-4, "solver": "adam"},
            "final_learning_rate: of a schedule that falls; give schedule",
        ),
        ({"rate": -1.0, "solver": "ep"}, "rate: expected a finite number above zero, given -1.0"),
        ({"acceleration": "anderson", "solver": "ep"}, "acceleration: of several steps on a batch"),
        (
            {"acceleration": "anderson", "solver": "adam"},
            "acceleration: only for solver ap, ",
        ),
        ({"metric": "fast"}, "metric: expected one of unit, slow-weights, full-outputs, given 'fast'"),
        (
            {"metric": "unit", "solver": "ep"},
            "metric: only for solver ap, ",
        ),
        ({"learning_rate": 0.1}, "learning_rate: only for solver displacement, gradient, adam, sgd, given"),
        ({"optimiser": "lion", "solver": "adam"}, "optimiser: only for solver displacement, gradient, given"),
        ({"micro_batches": 2}, "micro_batches: only for solver displacement, gradient, adam, sgd, given"),
        (
            {"decay_matrices": True},
            "decay_matrices: only for solver displacement, gradient, adam, sgd",
        ),
        ({"lam": 1.0}, "lam: only for solver displacement, ep, given with ap"),
        ({"lam": float("nan"), "solver": "ep"}, "lam: expected a finite number above zero, given nan"),
        (
            {"learning_rate": 0.0, "solver": "sgd"},
            "learning_rate: expected a finite number above zero",
        ),
        ({"schedule": "step", "solver": "adam"}, "schedule: expected one of constant, cosine, linear, given"),
        ({"schedule": "cosine"}, "schedule: only for solver displacement, gradient, adam, sgd, given with"),
        (
            {"warmup": 5, "solver": "sgd", "batches": 5},
            "warmup: expected fewer than the 5 batches of",
        ),
        (
            {"compute_dtype": "int8"},
            "compute_dtype: expected one of bfloat16, float16, float32, given",
        ),
        ({"patience": 0}, "patience: expected a whole number of at least 1, given 0"),
        ({"batches": -1}, "batches: expected a whole number of at least 1, given -1"),
        ({"batches": 2.5}, "batches: expected a whole number of at least 1, given 2.5"),
        ({"steps_per_batch": 0}, "steps_per_batch: expected a whole number of at least 1, given 0"),
        ({"eval_every": 0}, "eval_every: expected a whole number of at least 1, given 0"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, given -1"),
        ({"best": "test_loss"}, "best: expected 'max NAME' or 'min NAME' such as 'min test_loss', given"),
        ({"average": 1.0}, "average: expected a number of at least 0 and below 1, given 1.0"),
    ],
)
def test_bad_values(fields: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        made(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "vgg"}, f"model: expected one of {', '.join(NETWORKS)}, given 'vgg'"),
        ({"loss": "l1"}, "loss: expected one of cross_entropy, margin, squared_error, given 'l1'"),
        ({"loss_lam": 1.0, "loss": "margin"}, "loss_lam: only for loss cross_entropy, squared_error, given"),
        ({"loss_lam": -1.0}, "loss_lam: expected a finite number above zero, given -1.0"),
        ({"hidden": (), "model": "rnn"}, "hidden: expected at least one width for model rnn, given none"),
        ({"hidden": (6,), "model": "transformer"}, "hidden: expected equal multiples of 4 for model transfo"),
        ({"hidden": (8, 4), "model": "transformer"}, "hidden: expected equal multiples of 4"),
        ({"hidden": (4, 0)}, "hidden: expected widths of at least 1, given (4, 0)"),
        ({"skip": True, "model": "transformer"}, "skip: not for model transformer"),
        ({"validation": 1.0}, "validation: expected a number above 0 and below 1, given 1.0"),
        ({"dropout": 0.1, "model": "cnn"}, "dropout: only for model mlp, given with cnn"),
        ({"batch_size": 0}, "batch_size: expected at least 1, given 0"),
    ],
)
def test_bad_networks(fields: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        Classifier(**fields)


def test_a_network_for_other_data() -> None:
    with pytest.raises(
        ArgumentError, match=f"model: {', '.join(SEQUENCE_NETWORKS)} are for data text and no others"
    ):
        made({"model": "gru"})
    with pytest.raises(ArgumentError, match="data: expected one of digits, mnist, .*, given 'imagenet'"):
        made({"data": "imagenet"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "here: not a configuration: expected a table, given []"),
        ({"batchs": 3}, "here: batchs: no such field; did you mean batches"),
        ({"solver": "ap"}, "here: solver: no such field; did you mean method.solver?"),
        ({"method": {"sovler": "ap"}}, "here: method: sovler: no such field; did you mean solver"),
        ({"seed": "x"}, "here: seed: expected int, given 'x'"),
        ({"seed": True}, "here: seed: expected int, given True"),
        ({"method": {"solver": "newton"}}, "here: method: solver: expected 'ap', 'ar', "),
        ({"method": 3}, "here: method: not a configuration: expected a table, given 3"),
        ({"batches": 0}, "batches: expected a whole number of at least 1, given 0"),
    ],
)
def test_not_a_configuration(values: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        from_plain(TrainConfig, values, where="here")


def test_values_are_converted_and_defaults_kept() -> None:
    default = Classifier(hidden=(3,), skip=True)
    assert from_plain(Classifier, {"hidden": [4, 5]}, default) == Classifier(hidden=(4, 5), skip=True)
    assert from_plain(Method, {"solver": "sgd", "learning_rate": 1}).learning_rate == 1.0


def test_defaults_by_solver() -> None:
    assert Method(solver="ap").steps == 50 and Method().solver == "displacement"
    assert Method(solver="adam").steps == Method(solver="sgd").steps == 1
    assert Method(solver="adam", steps_per_batch=3).steps == 3


def test_evaluations() -> None:
    config = TrainConfig(batches=25, eval_every=10)
    assert [i for i in range(1, 26) if config.is_evaluated(i)] == [10, 20, 25]
    assert [i for i in range(1, 4) if TrainConfig(batches=3).is_evaluated(i)] == [1, 2, 3]
