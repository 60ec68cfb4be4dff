"""Options that several commands share, and the configuration they give."""

import argparse
from dataclasses import fields

from rich.console import Console

from ..training.config import CHOICES, HIDDEN, ONLY_FOR, TrainConfig

DEFAULTS = TrainConfig()
SIZES = "; ".join(f"{model}: {' '.join(map(str, widths))}" for model, widths in HIDDEN.items())

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
    "solver": (str, "how to train: projections, or adam and sgd for comparison"),
    "relaxation": (float, "relaxation"),
    "beta": (float, "beta"),
    "form": (str, "whether all copies are stored"),
    "learning_rate": (float, "learning rate"),
    "batches": (int, "how many batches"),
    "steps_per_batch": (int, "solver steps on each batch (default: 50; 1 for adam and sgd)"),
    "eval_every": (int, "batches between evaluations (default: a tenth of the run)"),
}


def add_options(parser: argparse.ArgumentParser, options: dict[str, tuple[type, str]]) -> None:
    """Adds an option for each field of `TrainConfig` named in `options`."""
    for name, (kind, text) in options.items():
        flag = "--" + name.replace("_", "-")
        default = getattr(DEFAULTS, name)
        if name in ONLY_FOR:
            field, values = ONLY_FOR[name]
            text += f" (only for {field} {', '.join(values)})"
        if kind is bool:
            parser.add_argument(flag, action="store_true", help=text)
            continue
        several = isinstance(default, tuple)
        if several:
            default = None  # it depends on other options
        if default is not None:
            text += f" (default: {default})"
        parser.add_argument(
            flag,
            type=kind,
            default=default,
            choices=CHOICES.get(name),
            nargs="*" if several else None,
            metavar={int: "N", float: "X"}.get(kind, "DIR" if name.endswith("dir") else None),
            help=text,
        )


def make_config(options: argparse.Namespace) -> TrainConfig:
    """The configuration that the parsed options describe."""
    names = {field.name for field in fields(TrainConfig)}
    given = {name: value for name, value in vars(options).items() if name in names}
    return TrainConfig(**{**given, "hidden": None if options.hidden is None else tuple(options.hidden)})


def console(options: argparse.Namespace) -> Console:
    """Where to print results: standard output, unless `--json` claims it."""
    return Console(stderr=options.json, highlight=False)
