"""Train a task and leave checkpoints, metrics, model and curves in a run folder.

Exit status 75 says that the run was asked to stop (SIGTERM), saved, and can be resumed.
"""

import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from pjax_prim_command import INTERRUPTS

from ..checkpoint import Retention, SavePolicy, as_path
from ..errors import ArgumentError
from ..sharding import processes
from ..training import RunFolder, Saving, Task, TrainConfig, TrainResult, train
from ..training.curves import draw_curves
from ..training.state import judged_by
from ..training.trackers import make_trackers
from .eval import columns, show
from .options import Output, Place, choose_task, parse, peek, print_table


@dataclass(frozen=True)
class Files:
    """Where the run goes, and where it comes from.

    Attributes:
        run_dir: the run folder, also gs://bucket/... (default: a new one under runs/).
        resume: continue the run in the run folder (begin it if there is none); options left out are as
            before.
        resume_older: as --resume, and if the newest checkpoint is damaged from the newest one that is not.
        overwrite: replace a run that is in the run folder.
        init_from: begin with the parameters of this run folder or file, also gs://bucket/...
        tracker: where metrics go beside the run folder: console (a progress bar), json-lines (on standard
            output), tensorboard, wandb, mlflow.
        compiled: take the steps of this file, which aot --save made, in place of compiling them.
        compile_cache: a folder where compiled steps are kept between runs.
        profile: record the batches from the first to the second number (from 2 on) for xprof or TensorBoard.
    """

    run_dir: Place | None = None
    resume: bool = False
    resume_older: bool = False
    overwrite: bool = False
    init_from: Place | None = None
    tracker: tuple[str, ...] = ("console",)
    compiled: Path | None = None
    compile_cache: Path | None = None
    profile: tuple[int, int] | None = None


@dataclass(frozen=True)
class Checkpoints:
    """When checkpoints are saved; also at the end, and before stopping on SIGTERM.

    Attributes:
        checkpoint_every: save after each so many batches.
        checkpoint_seconds: save so many seconds after the last save began, also within a batch.
        keep_latest: keep so many newest ones.
        keep_every: keep also the checkpoint of every so many batches.
        keep_best: keep also so many of the best evaluations.
    """

    checkpoint_every: int | None = SavePolicy.every
    checkpoint_seconds: float | None = SavePolicy.seconds
    keep_latest: int = Retention.latest
    keep_every: int | None = Retention.every
    keep_best: int = Retention.best

    def saving(self, config: TrainConfig, task: Task) -> Saving:
        """What `train` takes of these options."""
        judge = judged_by(config, task)
        return Saving(
            SavePolicy(self.checkpoint_every, self.checkpoint_seconds),
            Retention(self.keep_latest, self.keep_every, self.keep_best, "" if judge is None else judge[1]),
        )


@dataclass(frozen=True)
class Processes:
    """Several processes, each started with the same options.

    Attributes:
        coordinator: HOST:PORT where the first process listens; auto: as the environment says (Cloud TPU,
            SLURM, Open MPI).
        num_processes: how many processes there are.
        process_id: which one this is, from 0.
        process_timeout: seconds after which a process that does not answer counts as gone.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    process_timeout: float = 300.0


def start_processes(arguments: Sequence[str]) -> processes.Group:
    """Joins the other processes, before anything uses JAX's devices."""
    values: list[Any] = []
    kinds: list[tuple[str, Any]] = [("coordinator", str), ("num-processes", int), ("process-id", int),
                                    ("process-timeout", float)]  # fmt: skip
    for name, kind in kinds:
        text = peek(arguments, f"--{name}")
        try:
            values.append(None if text is None else kind(text))
        except ValueError:
            raise ArgumentError(f"--{name}: expected a number, given {text!r}") from None
    coordinator, number, process, timeout = values
    return processes.start(
        coordinator, number, process, Processes.process_timeout if timeout is None else timeout
    )


def run(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Trains; returns the figures of the run, on the first of several processes."""
    if importlib.util.find_spec("matplotlib") is None:  # which draws the run when it has ended
        raise ModuleNotFoundError("matplotlib", name="matplotlib")
    group = start_processes(arguments)
    options, task = group.together("options", lambda: read_options(arguments))
    files, config = options.files, options.train
    if files.compile_cache is not None:
        # Before the first compilation: a restarted run does not compile again.
        jax.config.update("jax_compilation_cache_dir", str(files.compile_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    if files.run_dir is None and jax.process_count() > 1:
        raise ArgumentError("--run-dir: several processes need to be told one folder")
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{task.origin['name']}-{config.method.solver}"
    folder = RunFolder(files.run_dir or Path("runs") / name)
    trackers = group.together("trackers", lambda: make_trackers(files.tracker if group.is_first else ()))
    with Profile(folder.storage.local(folder.path / "profile"), files.profile) as profile:

        def on_batch(row: dict[str, Any]) -> None:
            profile(row)
            INTERRUPTS.check()

        result = train(
            task,
            config,
            folder,
            overwrite=files.overwrite,
            resume=files.resume or files.resume_older,
            resume_older=files.resume_older,
            init_from=files.init_from,
            compiled=files.compiled,
            saving=options.checkpoints.saving(config, task),
            trackers=trackers,
            on_batch=on_batch,
            say=lambda message: print(f"pjax-prim: {message}", file=sys.stderr),
            group=group,
        )
    if not group.is_first:
        return None
    draw_curves(result.rows, list(task.evaluate), f"{task.name}, {config.method.solver}", folder.curves)
    return report(result, folder, options.output)


def read_options(arguments: Sequence[str]) -> tuple[Any, Task]:
    """The options and the task: what is given, and for a resumed run else what it had."""
    resume = bool({"--resume", "--resume-older"} & {*arguments})
    place = peek(arguments, "--run-dir")
    if resume and place is None:
        raise ArgumentError("--resume: needs the folder of the run, --run-dir")
    folder = None if place is None else RunFolder(checked(place))
    saved = folder if resume and folder is not None and folder.holds_run() else None
    file, start, rest = choose_task(arguments, saved=saved)
    config = file.train_config(peek(rest, "--solver")) if saved is None else saved.load_config()
    parts = {"task": (file.options, start), "train": (TrainConfig, config), "files": (Files, Files()),
             "checkpoints": (Checkpoints, Checkpoints()), "processes": (Processes, Processes()),
             "output": (Output, Output())}  # fmt: skip
    options = parse("train", rest, parts, __doc__ or "")
    return options, file.make(options.task)


def checked(place: str) -> Path:
    """A run folder. `ArgumentError` for one that cannot be."""
    try:
        return as_path(place)
    except ArgumentError as error:
        raise ArgumentError(f"--run-dir: {error}") from None


def report(result: TrainResult, folder: RunFolder, output: Output) -> dict[str, Any]:
    """Prints what the run has come to; returns its figures."""
    out = output.console()
    print_table(out, make_table(result))
    seconds = result.seconds["compile"]
    summary = {**result.summary(), "run_dir": str(folder.path)}
    out.print(f"compiled in {seconds:.1f} s, trained in {result.timings[-1]:.1f} s on {summary['samples']:,} "
              f"samples; at most {summary['peak_bytes'] / 1e6:,.0f} MB")  # fmt: skip
    if summary["samples_to_99"] is not None:
        out.print(
            f"within 1% of the best after {summary['seconds_to_99']:.1f} s, "
            f"{summary['samples_to_99']:,} samples"
        )
    out.print("run folder:", str(folder.path), soft_wrap=True)
    for name, reason in result.failed_trackers.items():
        out.print(f"without tracker {name}, which failed {reason}", soft_wrap=True, markup=False)
    for name, (trivial, value) in result.task.baselines.items():
        out.print(f"for comparison, {name.replace('_', ' ')} of the {trivial}: {show(name, value)}")
        if name == "test_accuracy":
            summary["baseline_accuracy"] = value
    return summary


class Profile:
    """Records some batches of this process; a context manager."""

    def __init__(self, folder: Path | None, window: tuple[int, int] | None):
        if window is not None and folder is None:
            raise ArgumentError("--profile: needs a local run folder")
        if window is not None and not 2 <= window[0] <= window[1]:
            raise ArgumentError(f"--profile: expected two numbers from 2 on, in order, given {window}")
        self._folder, self._window, self._on = folder, window, False

    def __call__(self, row: dict[str, Any]) -> None:
        """Begins before the first of the batches is read, and ends after the last."""
        if self._window is None:
            return
        if not self._on and self._window[0] - 1 <= row["batch"] < self._window[1]:
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        elif self._on and row["batch"] >= self._window[1]:
            self.__exit__()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            jax.profiler.stop_trace()
            self._on = False


def make_table(result: TrainResult) -> Table:
    """One line per evaluation."""
    method = result.config.method
    steps = f"{method.steps} step{'s' if method.steps > 1 else ''} a batch"
    table = Table(title=f"{result.task.name}, {method.solver}: {steps}")
    evaluated = result.evaluations or result.rows[-1:]
    measures = columns(evaluated[-1])
    for heading in ("batches", *(name.replace("_", " ") for name in measures), "batches/s"):
        table.add_column(heading, justify="right")
    batches, seconds = 0, 0.0
    after = dict(zip((row["batch"] for row in result.rows), result.timings, strict=True))
    for row in evaluated:
        number = row["batch"]
        spent = after[number] - seconds
        speed = f"{(number - batches) / spent:.1f}" if spent > 0 else "-"
        table.add_row(str(number), *(show(name, row.get(name)) for name in measures), speed)
        batches, seconds = number, after[number]
    return table
