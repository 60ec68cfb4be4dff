"""How a file with a function `task` becomes a task, and its arguments options."""

import copy
import hashlib
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, make_dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ..data import DATASETS
from ..errors import ArgumentError
from ..training import Method, Task, TrainConfig
from ..training.configuration import from_plain, to_plain

BUILT_IN = (*DATASETS, "nanogpt", "random")
"""The benchmarks, by the names of `--data`."""

FUNCTION, TRAIN_CONFIG = "task", "train_config"


@dataclass(frozen=True)
class TaskFile:
    """A Python file that defines a function `task`, whose arguments become options.

    It may define `train_config(solver)`, too: how the task is trained by a solver where no option says
    otherwise.

    **Arguments:** `path`; `name`: of a benchmark of `BUILT_IN`, None of another file.

    **Errors:** `ArgumentError` for a file that is not there, cannot be imported or has no such function; for
    an argument without annotation.
    """

    path: Path
    name: str | None = None

    @cached_property
    def function(self) -> Callable[..., Task]:
        """The function `task` of the file."""
        found = getattr(self._module, FUNCTION, None)
        if not callable(found):
            raise ArgumentError(
                f"{self.path}: defines no function {FUNCTION!r}; docs/tasks.md has an example"
            )
        return typing.cast(Callable[..., Task], found)

    @cached_property
    def _module(self) -> ModuleType:
        if self.name is not None:
            return importlib.import_module(f"{__package__}.{self.path.stem}")
        if not self.path.is_file():
            raise ArgumentError(f"{self.path}: no such file")
        name = f"pjax_prim_task_{self.path.stem}"
        spec = importlib.util.spec_from_file_location(name, self.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickles look their module up
        folder = str(self.path.resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)  # as `python FILE.py` does, for what it imports beside it
        try:
            spec.loader.exec_module(module)
        except (SyntaxError, ImportError) as error:
            raise ArgumentError(f"{self.path}: cannot be imported ({error})") from error
        return module

    @cached_property
    def options(self) -> type:
        """A dataclass with a field for each argument of the function."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        found: list[Any] = []
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ArgumentError(
                    f"{self.path}: {FUNCTION}(*{name}): expected arguments with names of their own"
                )
            if name not in hints:
                raise ArgumentError(f"{self.path}: {FUNCTION}: argument {name!r} has no annotation")
            default = parameter.default
            if default is parameter.empty:
                found.append((name, hints[name]))
            elif default.__class__.__hash__ is None:
                found.append((name, hints[name], field(default_factory=partial(copy.copy, default))))
            else:
                found.append((name, hints[name], field(default=default)))
        made = make_dataclass("TaskOptions", found, frozen=True)
        made.__doc__ = self.function.__doc__
        return made

    def train_config(self, solver: str | None = None) -> TrainConfig:
        """How it is trained by a solver, or the default one, where no option says otherwise.

        **Errors:** `ArgumentError` for a name that is no solver's.
        """
        found = getattr(self._module, TRAIN_CONFIG, None)
        if found is None:
            return TrainConfig()
        chosen = Method(**({} if solver is None else {"solver": solver}))  # type: ignore[arg-type]
        made = found(chosen.solver)
        if not isinstance(made, TrainConfig):
            raise ArgumentError(f"{self.path}: {TRAIN_CONFIG}(...): expected a TrainConfig, given {made!r}")
        return made

    def default_options(self, missing: Any = None) -> Any:
        """The options when none is given; `missing` for one without default."""
        needed = [
            item.name
            for item in fields(self.options)
            if item.default is MISSING and item.default_factory is MISSING
        ]
        return self.options(**dict.fromkeys(needed, missing))

    def read_options(self, values: Any, default: Any = None) -> Any:
        """Options from plain values. `ArgumentError` for what does not fit."""
        return from_plain(self.options, values, default, f"{self.label}: options")

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or self.path.stem

    def make(self, options: Any) -> Task:
        """The task with these options.

        **Errors:** those of the function; `ArgumentError` where it gives no task.
        """
        made = self.function(**{item.name: getattr(options, item.name) for item in fields(options)})
        if not isinstance(made, Task):
            raise ArgumentError(f"{self.path}: {FUNCTION}(...): expected a Task, given {made!r}")
        hints = typing.get_type_hints(self.options)
        places = [name for name, hint in hints.items() if Path in (hint, *typing.get_args(hint))]
        origin = {"name": self.label, "options": to_plain(options), "places": places}
        if self.name is None:
            content = self.path.read_bytes()
            origin |= {"file": str(self.path.resolve()), "sha256": hashlib.sha256(content).hexdigest()}
        name = self.path.stem if made.name == "task" else made.name
        return replace(made, origin=origin, name=name)

    @classmethod
    def of_origin(cls, origin: dict[str, Any]) -> "TaskFile":
        """The file that a task was made of. `ArgumentError` for a task that was made in Python."""
        if "file" in origin:
            return cls(Path(origin["file"]))
        if "name" not in origin:
            raise ArgumentError("task: the run was started from Python; name the file of its task: FILE.py")
        return built_in(origin["name"])


def built_in(name: str) -> TaskFile:
    """A benchmark by its name. `ArgumentError` for another name."""
    if name not in BUILT_IN:
        raise ArgumentError(f"data: expected one of {', '.join(BUILT_IN)}, given {name!r}")
    return TaskFile(Path(__file__).with_name(name.replace("-", "_") + ".py"), name)
