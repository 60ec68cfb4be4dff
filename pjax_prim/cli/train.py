"""Train a network and leave checkpoints, metrics, model and curves in a run folder.

Exit status 75 says that the run was asked to stop (SIGTERM), saved, and can be resumed.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..checkpoint import Retention, SavePolicy
from ..errors import ArgumentError
from ..sharding import processes
from ..training import RunFolder, Saving, TrainConfig, TrainResult, train
from ..training.state import judged_by
from ..training.tensorboard import TensorBoard
from .options import NETWORK, TRAINING, add_options, console, given_fields

MEASURES = "train_accuracy", "validation_accuracy", "test_accuracy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pjax-prim train`."""
    add_options(parser, {**NETWORK, **TRAINING})
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="the run folder (default: a new one under runs/)"
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write metrics for TensorBoard into the run folder, too",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is in the run folder")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in the run folder (begin it if there is none); options left out are as before",
    )
    parser.add_argument(
        "--resume-older",
        action="store_true",
        help="as --resume, and if the newest checkpoint is damaged from the newest one that is not",
    )
    parser.add_argument(
        "--init-from", type=Path, metavar="RUN", help="begin with the parameters of this run folder or file"
    )
    saving = parser.add_argument_group("checkpoints (also saved at the end, and before stopping on SIGTERM)")
    policy, retention = SavePolicy(), Retention()
    saving.add_argument("--checkpoint-every", type=int, metavar="N", help="save after each N batches")
    saving.add_argument(
        "--checkpoint-seconds",
        type=float,
        metavar="X",
        default=policy.seconds,
        help=f"save X seconds after the last save began, also within a batch (default: {policy.seconds:g})",
    )
    saving.add_argument(
        "--keep-latest",
        type=int,
        metavar="N",
        default=retention.latest,
        help=f"keep the N newest (default: {retention.latest})",
    )
    saving.add_argument("--keep-every", type=int, metavar="N", help="keep also those of each N-th batch")
    saving.add_argument(
        "--keep-best",
        type=int,
        metavar="N",
        default=retention.best,
        help=f"keep also the N with the best accuracy, held out or test (default: {retention.best})",
    )
    joint = parser.add_argument_group("several processes (each is started with the same options)")
    joint.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where the first process listens; auto: as the environment says (Cloud TPU, SLURM, Open MPI)",
    )
    joint.add_argument("--num-processes", type=int, metavar="N", help="how many processes there are")
    joint.add_argument("--process-id", type=int, metavar="N", help="which one this is, from 0")
    joint.add_argument(
        "--process-timeout",
        type=float,
        metavar="X",
        default=300.0,
        help="seconds after which a process that does not answer counts as gone (default: 300)",
    )


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Trains; returns the figures of the run, on the first of several processes."""
    group = processes.start(
        options.coordinator, options.num_processes, options.process_id, options.process_timeout
    )
    resume = options.resume or options.resume_older
    if resume and options.run_dir is None:
        raise ArgumentError("--resume: needs the folder of the run, --run-dir")
    config = group.together("options", lambda: read_config(options, resume))
    saving = Saving(
        SavePolicy(options.checkpoint_every, options.checkpoint_seconds),
        Retention(options.keep_latest, options.keep_every, options.keep_best, judged_by(config)),
    )
    if options.run_dir is None and jax.process_count() > 1:
        raise ArgumentError("--run-dir: several processes need to be told one folder")
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.data}-{config.solver}"
    folder = RunFolder(options.run_dir or Path("runs") / name)
    with make_progress(quiet=not group.is_first) as progress, make_board(options, folder, group) as write:
        task = progress.add_task("compiling", total=config.batches, figures="")

        def show(row: dict[str, Any]) -> None:
            progress.update(task, completed=row["batch"], description="training", figures=figures(row))
            write(row)

        result = train(
            config,
            folder,
            overwrite=options.overwrite,
            resume=resume,
            resume_older=options.resume_older,
            init_from=options.init_from,
            saving=saving,
            on_batch=show,
            say=lambda message: print(f"pjax-prim: {message}", file=sys.stderr),
            group=group,
        )
    if not group.is_first:
        return None
    out = console(options)
    out.print(make_table(result))
    out.print(
        f"compiled in {result.compile_seconds:.1f} s, trained in {result.timings[-1]:.1f} s; run folder:"
    )
    out.print(str(folder.path), soft_wrap=True)
    name, share = result.baseline
    out.print(f"for comparison, the {name}: {share:.2%} of the test labels")
    return {**result.summary(), "baseline_accuracy": share, "run_dir": str(folder.path)}


def make_board(
    options: argparse.Namespace, folder: RunFolder, group: processes.Group
) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
    """What takes each row of metrics for TensorBoard, if asked for."""
    if options.tensorboard and group.is_first:
        return TensorBoard(folder.tensorboard)
    return nullcontext(lambda row: None)


def read_config(options: argparse.Namespace, resume: bool) -> TrainConfig:
    """The configuration: what is given, and for a resumed run else what it had."""
    given = given_fields(options)
    if resume and (folder := RunFolder(options.run_dir)).config.exists():
        return replace(folder.load_config(), **given)
    return TrainConfig(**given)


def make_progress(*, quiet: bool) -> Progress:
    """A progress bar on standard error; none if `quiet`."""
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


def figures(row: dict[str, Any]) -> str:
    """Gap or loss of one batch, for the progress bar."""
    kind = "gap" if "gap" in row else "loss"
    return f"{kind} {row[kind]:.2e}"


def make_table(result: TrainResult) -> Table:
    """One line per evaluation."""
    config: TrainConfig = result.config
    kind = "gap" if "gap" in result.rows[-1] else "loss"
    steps = f"{config.steps} step{'s' if config.steps > 1 else ''} a batch of {config.batch_size}"
    table = Table(title=f"{config.data}, {config.model}, {config.solver}: {steps}")
    measures = [name for name in MEASURES if name in result.rows[-1]]
    for heading in ("batches", *(name.replace("_", " ") for name in measures), kind, "batches/s"):
        table.add_column(heading, justify="right")
    batches, seconds = 0, 0.0
    for row, after in zip(result.rows, result.timings, strict=True):
        if "test_accuracy" in row:
            accuracies = [f"{row[name]:.2%}" for name in measures]
            speed = (row["batch"] - batches) / (after - seconds)
            table.add_row(str(row["batch"]), *accuracies, f"{row[kind]:.3e}", f"{speed:.1f}")
            batches, seconds = row["batch"], after
    return table
