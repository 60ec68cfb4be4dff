"""What is trained: every task by every method with every seed, each a cell of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pjax_prim.tasks import TaskFile, built_in
from pjax_prim.tasks.classification import Classifier
from pjax_prim.training import Method, TrainConfig
from pjax_prim.training.methods import FROM_FORWARD_PASS, PROJECTION_SOLVERS


@dataclass(frozen=True)
class Task:
    """A data set and a network, the same for all methods.

    `folder` under the data folder holds its files; None for what comes with scikit-learn.
    """

    title: str
    data: str
    folder: str | None
    model: str
    hidden: tuple[int, ...]
    skip: bool = False
    batch_size: int = 256


TASKS: dict[str, Task] = {
    "digits-mlp": Task("digits, MLP", "digits", None, "mlp", (128, 128), skip=True),
    "mnist-mlp": Task("MNIST, MLP", "mnist", "mnist", "mlp", (128, 128), skip=True),
    "mnist-cnn": Task("MNIST, CNN", "mnist", "mnist", "cnn", (16, 32), skip=True, batch_size=128),
    "fashion-mlp": Task("Fashion-MNIST, MLP", "fashion-mnist", "fashion-mnist", "mlp", (128, 128), skip=True),
    "cifar10-mlp": Task("CIFAR-10, MLP", "cifar10", "cifar10", "mlp", (128, 128), skip=True),
    "cifar10-cnn": Task("CIFAR-10, CNN", "cifar10", "cifar10", "cnn", (16, 32), skip=True, batch_size=128),
    "higgs-mlp": Task("HIGGS, MLP", "higgs", "higgs", "mlp", (128, 128), skip=True),
    "shakespeare-rnn": Task("Shakespeare, RNN", "text", "text", "rnn", (128,), batch_size=32),
}
"""The widths of MLPs and the RNN are the paper's; its CNN has 32-32 channels."""

METHODS: dict[str, str] = {
    **{solver: solver for solver in PROJECTION_SOLVERS},
    "displacement": "displacement + Adam",
    "adam": "Adam",
    "sgd": "SGD",
}
"""The solvers of `pjax-prim train`, and their names in tables. The trivial baselines are no runs."""

LEARNING_RATES = {"displacement": 4e-3, "adam": 4e-3, "sgd": 0.1}
"""Where they begin, to fall to zero along a cosine. The same for all tasks, chosen on MNIST and Shakespeare;
displacement and Adam share one."""


@dataclass(frozen=True)
class Budget:
    """How much a cell may take: `batches`, `steps` of a projection solver on each.

    `batch_size` is the task's own if None.
    """

    batches: int
    steps: int
    evaluations: int = 20
    batch_size: int | None = None


FULL = Budget(batches=1000, steps=50)
QUICK = Budget(batches=150, steps=10)


@dataclass(frozen=True)
class Cell:
    """One run."""

    task: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}-{self.method}-{self.seed}"

    def network(self, budget: Budget) -> Classifier:
        """The network and its batches: the same for every method of a task."""
        task = TASKS[self.task]
        size = budget.batch_size or task.batch_size
        return Classifier(model=task.model, hidden=task.hidden, skip=task.skip, batch_size=size)

    def options(self, data_dir: Path | None, budget: Budget) -> tuple[TaskFile, Any]:
        """The benchmark's file, and its options."""
        file, folder = built_in(TASKS[self.task].data), folder_of(TASKS[self.task], data_dir)
        return file, file.options(
            network=self.network(budget), **({} if folder is None else {"data_dir": folder})
        )

    def config(self, budget: Budget) -> TrainConfig:
        """How the run is trained: on as many batches as any other of its task."""
        method = Method(
            solver=self.method,
            learning_rate=LEARNING_RATES.get(self.method),
            schedule="cosine" if self.method in LEARNING_RATES else None,
            steps_per_batch=None if self.method in FROM_FORWARD_PASS else budget.steps,
        )
        return TrainConfig(
            method=method,
            batches=budget.batches,
            eval_every=max(1, budget.batches // budget.evaluations),
            seed=self.seed,
        )


def folder_of(task: Task, data_dir: Path | None) -> Path | None:
    """Where the files of a task lie, or None if it needs none."""
    if task.folder is None:
        return None
    if data_dir is None:
        raise FileNotFoundError(f"{task.title}: needs --data-dir with a folder {task.folder!r}")
    return data_dir / task.folder


def is_there(task: Task, data_dir: Path | None) -> bool:
    """Whether the data of a task are there."""
    return task.folder is None or (data_dir is not None and (data_dir / task.folder).is_dir())
