import re
from dataclasses import replace

import jax.numpy as jnp
import pytest

from pjax_prim.data import load
from pjax_prim.errors import ArgumentError
from pjax_prim.training import TrainConfig


def test_json_round_trip() -> None:
    config = TrainConfig(hidden=(8,), solver="dr", relaxation=0.7, skip=True, lam=2.0)
    assert TrainConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"solver": "newton"},
            "solver: expected one of ap, ar, dr, dm, cp, cdr, ep, displacement, adam, sgd, given 'newton'",
        ),
        (
            {"data": "imagenet"},
            "data: expected one of digits, mnist, fashion-mnist, cifar10, higgs, text, given",
        ),
        ({"model": "vgg"}, "model: expected one of mlp, cnn, rnn, gru, transformer, given 'vgg'"),
        (
            {"data": "text"},
            "model: rnn, gru, transformer are for data text and no others are, given mlp with",
        ),
        (
            {"model": "gru"},
            "model: rnn, gru, transformer are for data text and no others are, given gru",
        ),
        ({"length": 8}, "length: only for data text, given with digits"),
        ({"length": 0, "data": "text", "model": "rnn"}, "length: expected at least 1, given 0"),
        ({"hidden": (), "model": "rnn"}, "hidden: expected at least one width for model rnn, given none"),
        (
            {"hidden": (6,), "model": "transformer"},
            "hidden: expected equal multiples of 4 for model transformer, given (6,)",
        ),
        ({"hidden": (8, 4), "model": "transformer"}, "hidden: expected equal multiples of 4"),
        ({"skip": True, "model": "transformer", "data": "text"}, "skip: not for model transformer"),
        ({"loss": "l1"}, "loss: expected one of cross_entropy, margin, squared_error, given 'l1'"),
        ({"form": "dense"}, "form: expected one of compressed, expanded, given 'dense'"),
        ({"form": "expanded", "solver": "dr"}, "form: only for solver ap, cp, given with dr"),
        ({"relaxation": 0.5}, "relaxation: only for solver dr, given with ap"),
        ({"beta": 1.0}, "beta: only for solver dm, given with ap"),
        ({"rate": 0.5}, "rate: only for solver ep, given with ap"),
        ({"rate": -1.0, "solver": "ep"}, "rate: expected a finite number above zero, given -1.0"),
        ({"acceleration": "anderson", "solver": "ep"}, "acceleration: of several steps on a batch"),
        ({"acceleration": "anderson", "solver": "adam"}, "acceleration: only for solver ap, ar, dr, dm, cp"),
        ({"metric": "fast"}, "metric: expected one of unit, slow-weights, full-outputs, given 'fast'"),
        (
            {"metric": "unit", "solver": "ep"},
            "metric: only for solver ap, ar, dr, dm, cp, cdr, given with ep",
        ),
        ({"learning_rate": 0.1}, "learning_rate: only for solver displacement, adam, sgd, given with ap"),
        ({"lam": 1.0, "loss": "margin"}, "lam: only for loss cross_entropy, squared_error, given with"),
        ({"lam": float("nan")}, "lam: expected a finite number above zero, given nan"),
        (
            {"learning_rate": 0.0, "solver": "sgd"},
            "learning_rate: expected a finite number above zero, given 0.0",
        ),
        ({"schedule": "step", "solver": "adam"}, "schedule: expected one of constant, cosine, linear, given"),
        ({"schedule": "cosine"}, "schedule: only for solver displacement, adam, sgd, given with ap"),
        ({"warmup": 3}, "warmup: only for solver displacement, adam, sgd, given with ap"),
        (
            {"warmup": 5, "solver": "sgd", "batches": 5},
            "warmup: expected fewer than the 5 batches of the run, given 5",
        ),
        ({"validation": 1.0}, "validation: expected a number above 0 and below 1, given 1.0"),
        ({"patience": 2}, "patience: needs examples to judge by; give validation"),
        ({"patience": 0, "validation": 0.1}, "patience: expected at least 1, given 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, given 0"),
        ({"batches": -1}, "batches: expected at least 1, given -1"),
        ({"steps_per_batch": 0}, "steps_per_batch: expected at least 1, given 0"),
        ({"eval_every": 0}, "eval_every: expected at least 1, given 0"),
        ({"hidden": (4, 0)}, "hidden: expected widths of at least 1, given (4, 0)"),
        ({"seed": -1}, "seed: expected at least 0, given -1"),
    ],
)
def test_bad_values(fields: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        TrainConfig(**fields)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hidden": 3}', "null", '{"hidden": [4], "seed": "x"}'])
def test_not_a_configuration(text: str) -> None:
    with pytest.raises(ArgumentError, match="not a configuration"):
        TrainConfig.from_json(text)


def test_unknown_field() -> None:
    with pytest.raises(ArgumentError, match="depth: no such field"):
        TrainConfig.from_json('{"depth": 3}')


def test_defaults_by_solver() -> None:
    assert TrainConfig().steps == 50
    assert TrainConfig(solver="adam").steps == TrainConfig(solver="sgd").steps == 1
    assert TrainConfig(solver="adam", steps_per_batch=3).steps == 3


def test_evaluations() -> None:
    config = TrainConfig(batches=25, eval_every=10)
    assert [i for i in range(1, 26) if config.is_evaluated(i)] == [10, 20, 25]
    assert [i for i in range(1, 4) if TrainConfig(batches=3).is_evaluated(i)] == [1, 2, 3]


def test_model_is_float32() -> None:
    model = TrainConfig(hidden=(4,)).make_model(load("digits"))
    assert model.layers[0].weight.dtype == jnp.float32


def test_cnn_takes_images() -> None:
    digits = load("digits")
    model = TrainConfig(model="cnn", hidden=(3,)).make_model(digits)
    assert model(jnp.zeros(64, jnp.float32)).shape == (10,)
    assert TrainConfig(model="cnn").hidden == (32, 32) and TrainConfig().hidden == (128, 128)
    with pytest.raises(ArgumentError, match="model: cnn takes images"):
        TrainConfig(model="cnn").make_model(replace(digits, image_shape=None))
    with pytest.raises(ArgumentError, match="hidden: expected at least one width for model cnn"):
        TrainConfig(model="cnn", hidden=())
