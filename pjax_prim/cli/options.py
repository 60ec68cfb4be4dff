"""Options that several commands share, and the configuration they give."""

import argparse
from dataclasses import fields
from typing import Any

from rich.console import Console

from ..training.config import CHOICES, HIDDEN, ONLY_FOR, SOLVERS, TrainConfig

DEFAULTS = TrainConfig()
SIZES = "; ".join(f"{model}: {' '.join(map(str, widths))}" for model, widths in HIDDEN.items())
SOLVER = "; ".join(f"{model}: {solver}" for model, solver in SOLVERS.items())
BY_MODEL = ("hidden", "solver")
"""Options whose default depends on the model."""

NETWORK = {
    "data": (str, "the data set"),
    "data_dir": (str, "folder of the data files (none for digits)"),
    "length": (int, "characters in an example (default: 64)"),
    "model": (str, "the network"),
    "hidden": (int, f"widths of the hidden layers; of a cnn, channels (default: {SIZES})"),
    "skip": (bool, "the output layer reads all hidden layers"),
    "loss": (str, "the output condition"),
    "lam": (float, "step of the loss's proximal operator"),
    "batch_size": (int, "examples per batch"),
    "seed": (int, "of the initial parameters and the order of examples"),
}
TRAINING = {
    "solver": (
        str,
        "how to train: projections, their direction for Adam (displacement), or adam and sgd for "
        f"comparison (default: {SOLVER})",
    ),
    "relaxation": (float, "relaxation"),
    "beta": (float, "beta"),
    "rate": (float, "how far parameters move in a step"),
    "form": (str, "whether all copies are stored"),
    "metric": (str, "weights of the distances (default: unit)"),
    "acceleration": (str, "of the solver's steps on a batch"),
    "learning_rate": (float, "learning rate"),
    "schedule": (str, "how the learning rate falls to zero over the run (default: constant, it does not)"),
    "warmup": (int, "batches over which the learning rate rises at the beginning"),
    "batches": (int, "how many batches"),
    "steps_per_batch": (int, "solver steps on each batch (default: 50; 1 for ep, displacement, adam, sgd)"),
    "chunk_steps": (int, "at most so many solver steps between two chances to save and stop"),
    "dropout": (float, "share of hidden values dropped in training"),
    "average": (float, "keep a moving average of the parameters with this decay"),
    "validation": (float, "share of the training examples that is held out to judge by"),
    "patience": (int, "stop after so many evaluations without a better one on the held out examples"),
    "track_best": (bool, "keep the parameters of the best evaluation"),
    "mesh": (str, "how devices are arranged, such as data=2,model=2; -1 is inferred (default: one device)"),
    "eval_every": (int, "batches between evaluations (default: a tenth of the run)"),
}


def add_options(parser: argparse.ArgumentParser, options: dict[str, tuple[type, str]]) -> None:
    """Adds an option for each field of `TrainConfig` named in `options`.

    One that is not given is absent from the result, so that it can be told from its default.
    """
    for name, (kind, text) in options.items():
        flag = "--" + name.replace("_", "-")
        default = getattr(DEFAULTS, name)
        if name in ONLY_FOR:
            field, values = ONLY_FOR[name]
            text += f" (only for {field} {', '.join(values)})"
        if kind is bool:
            parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
            continue
        if default is not None and name not in BY_MODEL:
            text += f" (default: {default})"
        parser.add_argument(
            flag,
            type=kind,
            default=argparse.SUPPRESS,
            choices=CHOICES.get(name),
            nargs="*" if isinstance(default, tuple) else None,
            metavar={int: "N", float: "X"}.get(kind, "DIR" if name.endswith("dir") else None),
            help=text,
        )


def given_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of `TrainConfig` that were given on the command line."""
    names = {field.name for field in fields(TrainConfig)}
    given = {name: value for name, value in vars(options).items() if name in names}
    if "hidden" in given:
        given["hidden"] = tuple(given["hidden"])
    return given


def make_config(options: argparse.Namespace) -> TrainConfig:
    """The configuration that the parsed options describe."""
    return TrainConfig(**given_fields(options))


def console(options: argparse.Namespace) -> Console:
    """Where to print results: standard output, unless `--json` claims it."""
    return Console(stderr=options.json, highlight=False)
