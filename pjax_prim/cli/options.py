"""How the words after a command become its options: dataclasses, read by tyro."""

import contextlib
import io
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pjax_prim_command import drop

from ..checkpoint import as_path
from ..checkpoint.json_text import parse_json
from ..errors import ArgumentError, RunError
from ..tasks import TaskFile, built_in
from ..training import RunFolder
from ..training.configuration import from_plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DATA, CONFIG = "--data", "--config"
FROM_FILE = (
    f"{CONFIG} FILE.toml (.json, .yaml) gives options by tables named as the groups below, such as [train] "
    "and [train.method]; what is also given here counts."
)


@dataclass(frozen=True)
class Output:
    """Results.

    Attributes:
        json: end with one line of JSON on standard output; all else goes to standard error.
    """

    json: bool = False

    def console(self) -> "Console":
        """Where to print results."""
        from rich.console import Console

        class Results(Console):
            def on_broken_pipe(self) -> None:
                """Nobody reads the results, which is no error."""
                drop(sys.stdout)

        return Results(stderr=self.json, highlight=False)


@dataclass(frozen=True)
class Choice:
    """Which parameters of a run.

    Attributes:
        step: the checkpoint (default: the newest).
        parameters: which of its parameters: last, averaged or best (default: averaged where the run
            averages, else last).
    """

    step: int | None = None
    parameters: str | None = None


Place = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: as_path(words[0]),
        is_instance=lambda value: isinstance(value, PurePath),
        str_from_instance=lambda path: [str(path)],
    ),
]
"""A folder or file of a run: local, or gs://bucket/..., of which a plain path would lose a slash."""


def print_table(out: "Console", table: "Table") -> None:
    """Prints a table with every number whole; where the lines are too short, they are made longer."""
    from rich.measure import Measurement

    least = Measurement.get(out, out.options.update(max_width=10_000), table).minimum
    out.width = max(out.width, least)
    out.print(table)


def peek(arguments: Sequence[str], *names: str) -> str | None:
    """The value of an option that decides which others there are; None where it is not given."""
    for index, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in names:
            if equals:
                return value
            if index + 1 == len(arguments):
                raise ArgumentError(f"{name}: expected a value")
            return arguments[index + 1]
    return None


def take(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The value of an option, and the words without it."""
    value = peek(arguments, name)
    rest = list(arguments)
    for index, word in enumerate(rest):
        if word == name:
            del rest[index : index + 2]
            break
        if word.startswith(f"{name}="):
            del rest[index]
            break
    return value, rest


def choose_task(
    arguments: Sequence[str], *, saved: RunFolder | None = None, default: str = "digits"
) -> tuple[TaskFile, Any, list[str]]:
    """The task that a command is for: FILE.py before its options, `--data NAME`, else that of a run, else
    `default`.

    **Returns:** the file, the options that its task has before any is given, and the other words.

    **Errors:** `ArgumentError` for names that are none, and for both of them.
    """
    rest = list(arguments)
    origin = None if saved is None else saved.load_origin()
    path = Path(rest.pop(0)) if rest and rest[0].endswith(".py") else None
    name, rest = take(rest, DATA)
    if path is not None and name is not None:
        raise ArgumentError(f"{DATA}: names a benchmark, and {path} is given; expected one of them")
    if path is not None:
        file = TaskFile(path)
    elif name is not None:
        file = built_in(name)
    else:
        file = built_in(default) if origin is None else TaskFile.of_origin(origin)
    start = file.default_options(tyro.MISSING)
    if origin is not None and origin.get("name") == file.label:
        start = file.read_options(origin["options"], start)
    return file, start, rest


def parse(
    command: str, arguments: Sequence[str], parts: dict[str, tuple[type, Any]], summary: str = ""
) -> Any:
    """The options of a command, an object with the given parts; `--config FILE` gives some of them before.

    **Arguments:** `parts`: of each its dataclass, and what it is before any option is given. Names of
    options are those of the fields alone, of all parts and all that is nested in them.

    **Errors:** `ArgumentError` for words that are no options, with the nearest ones, and for values that do
    not fit; `SystemExit` after `--help`.
    """
    kind = make_dataclass("Options", [(name, part) for name, (part, _) in parts.items()], frozen=True)
    default = kind(**{name: start for name, (_, start) in parts.items()})
    path, arguments = take(arguments, CONFIG)
    if path is not None:
        default = from_plain(kind, read_config(Path(path)), default, path)
    text = io.StringIO()
    try:
        with contextlib.redirect_stderr(text):
            return tyro.cli(
                kind,
                args=list(arguments),
                default=default,
                prog=f"pjax-prim {command}",
                description=f"{summary.rstrip()}\n\n{FROM_FILE}",
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as ended:
        if not ended.code:
            raise
        raise ArgumentError(_one_line(text.getvalue())) from None


def read_config(path: Path) -> dict[str, Any]:
    """The tables of a configuration file: TOML, JSON or YAML, by its ending.

    **Errors:** `ArgumentError` for another ending, `RunError` for a file that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            found: Any = tomllib.loads(text)
        elif path.suffix == ".json":
            found = parse_json(text)
        elif path.suffix in (".yaml", ".yml"):
            import yaml

            try:
                found = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(str(error)) from None
        else:
            raise ArgumentError(f"{path}: expected a name that ends in .toml, .json or .yaml")
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        if isinstance(error, ArgumentError):
            raise
        raise RunError(f"{path}: not a configuration ({error})") from None
    if not isinstance(found, dict):
        raise RunError(f"{path}: not a configuration: expected tables, found {found!r}")
    return found


def _one_line(text: str) -> str:
    """A message that tyro drew in a box, as one line."""
    borders = r"[│╭╮╰╯─]+|^[|+]|[|+]$|-{3,}"  # also of a box in ASCII
    lines = [re.sub(borders, " ", line).strip() for line in text.splitlines()]
    words = " ".join(lines[1:])  # without the heading
    words = re.split("Argument helptext:|For full helptext", words)[0]
    words = re.sub(r"\s+", " ", words).strip()
    return re.sub(r"^Error parsing [\w.-]+: ", "", words) or "wrong options"
