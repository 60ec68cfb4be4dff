"""The parameters alone: for fine-tuning, for another model, and as one file."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..errors import ArgumentError, CheckpointError
from .folder import CheckpointFolder, mismatch
from .naming import describe, differences, is_abstract, named_arrays, with_arrays

CHECKPOINTS = "checkpoints"
"""The folder of the checkpoints in a run folder."""

WHICH: dict[str, str] = {"last": "model", "averaged": "averaged", "best": "best.params"}
"""Parameters that a run's checkpoint can hold, and the path of each in the run's state."""


def restore_params(
    run: str | Path,
    like: PyTree,
    *,
    mapping: Mapping[str, str | None] | None = None,
    drop: Collection[str] = (),
    step: int | None = None,
    which: str = "last",
) -> PyTree:
    """A model with the parameters of a checkpoint of a run, and nothing else of it.

    **Arguments:**

    - `run`: the run folder.
    - `like`: the model. Its arrays may be `jax.ShapeDtypeStruct`s, and each is restored into the
      sharding that it has.
    - `mapping`: where the models differ: from a path in `like` to the path of the saved model whose
      arrays it takes, or to None where `like` keeps its own. A path such as `layers.1` stands for
      all that lies under it; the longest path that fits counts. Other paths map to themselves.
    - `drop`: paths of the saved model that are not wanted.
    - `step`: which checkpoint; the newest if left out.
    - `which`: "last", "averaged" or "best" parameters.

    **Errors:** `CheckpointError` that lists every path without a counterpart, or whose shape or
    dtype differs; also for a damaged checkpoint, or one without such parameters. `ArgumentError`
    for a path in `mapping` or `drop` that does not exist.
    """
    if which not in WHICH:
        raise ArgumentError(f"which: expected one of {', '.join(WHICH)}, given {which!r}")
    folder = CheckpointFolder(Path(run) / CHECKPOINTS)
    if step is None:
        step = folder.choose()
    else:
        folder.verify(step)
    saved = folder.info(step)["arrays"]
    full = _under(saved, WHICH["last"])
    if which != "last":
        chosen = _under(saved, WHICH[which])
        if not chosen:
            raise CheckpointError(f"{folder.step_path(step)}: holds no {which} parameters")
        full.update(chosen)  # what is not trained has no average
    pairs = _pair({name: saved[path] for name, path in full.items()}, like, mapping or {}, drop,
                  folder.step_path(step))  # fmt: skip
    arrays = named_arrays(like)
    # Two paths may take one saved array; the first says into which sharding it is read.
    read: dict[str, Any] = {}
    for name, source in pairs.items():
        read.setdefault(full[source], arrays[name])
    restored = folder.read(step, read)
    return with_arrays(like, {name: restored[full[source]] for name, source in pairs.items()})


def restore_part(run: str | Path, like: PyTree, path: str, *, step: int | None = None) -> PyTree:
    """A part of the state of a run's checkpoint, by its path in that state.

    **Arguments:** `run`, `step`: as for `restore_params`; `like`: of the saved structure, shapes and dtypes.

    **Errors:** those of `CheckpointFolder.restore`.
    """
    folder = CheckpointFolder(Path(run) / CHECKPOINTS)
    if step is None:
        step = folder.choose()
    else:
        folder.verify(step)
    arrays = named_arrays(like)
    restored = folder.read(step, {f"{path}.{name}": x for name, x in arrays.items()})
    return with_arrays(like, {name: restored[f"{path}.{name}"] for name in arrays})


def export_params(model: PyTree, path: str | Path) -> None:
    """Writes the arrays of a model to one file.

    **Arguments:** `path`: ends in `.eqx` (as `equinox.tree_serialise_leaves` writes it) or
    `.safetensors` (by the paths of the leaves). A file that is there is replaced, at once.

    **Errors:** `ArgumentError` for another ending or without the package `safetensors`;
    `CheckpointError` where the file cannot be written.
    """
    path = Path(path)
    write = _format(path)[0]
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: cannot be written (no such folder)")
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial, model)
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        partial.unlink(missing_ok=True)


def import_params(
    path: str | Path,
    like: PyTree,
    *,
    mapping: Mapping[str, str | None] | None = None,
    drop: Collection[str] = (),
) -> PyTree:
    """A model with the arrays of a file of `export_params`.

    **Arguments:** as those of `restore_params`; `mapping` and `drop` only for `.safetensors`, since
    an `.eqx` file names nothing.

    **Errors:** those of `restore_params`.
    """
    path = Path(path)
    read = _format(path)[1]
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return read(path, like, mapping or {}, drop)


def _write_eqx(path: Path, model: PyTree) -> None:
    with path.open("wb") as file:
        eqx.tree_serialise_leaves(file, model)


def _read_eqx(path: Path, like: PyTree, mapping: Mapping[str, str | None], drop: Collection[str]) -> PyTree:
    if mapping or drop:
        raise ArgumentError(f"mapping, drop: not for {path.name}: an .eqx file does not name its arrays")
    try:
        with path.open("rb") as file:
            loaded = eqx.tree_deserialise_leaves(file, like)
            rest = file.read(1)
    except Exception as error:  # whatever equinox and numpy make of a damaged file
        raise CheckpointError(f"{path}: damaged, or of another model ({error})") from None
    if rest:
        raise CheckpointError(f"{path}: damaged, or of another model: it holds more than this one")
    return loaded


def _write_safetensors(path: Path, model: PyTree) -> None:
    package = _safetensors()
    arrays = named_arrays(model)
    for name, array in arrays.items():
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) or jnp.asarray(array).dtype != array.dtype:
            raise ArgumentError(
                f"{path.name.removesuffix('.partial')}: {name}: a safetensors file cannot hold {array.dtype} "
                "here without loss; export to .eqx, or convert the leaf"
            )
    try:
        package.save_file({name: jnp.asarray(x) for name, x in arrays.items()}, path)
    except Exception as error:  # of a class of its own, also for a full disk
        raise CheckpointError(f"{path.name.removesuffix('.partial')}: cannot be written ({error})") from None


def _read_safetensors(
    path: Path, like: PyTree, mapping: Mapping[str, str | None], drop: Collection[str]
) -> PyTree:
    try:
        arrays = _safetensors().load_file(path)
    except Exception as error:  # its own class, or one of the operating system
        raise CheckpointError(f"{path}: damaged, or no safetensors file ({error})") from None
    pairs = _pair(describe(arrays), like, mapping, drop, path)
    return with_arrays(like, {name: arrays[source] for name, source in pairs.items()})


def _safetensors() -> Any:
    try:
        import safetensors.flax  # named for flax, needs JAX alone
    except ImportError:
        raise ArgumentError(
            "safetensors: this format needs the package; pip install 'pjax-prim[safetensors]'"
        ) from None
    return safetensors.flax


_FORMATS: dict[str, tuple[Callable[..., None], Callable[..., PyTree]]] = {
    ".eqx": (_write_eqx, _read_eqx),
    ".safetensors": (_write_safetensors, _read_safetensors),
}


def _format(path: Path) -> tuple[Callable[..., None], Callable[..., PyTree]]:
    if path.suffix not in _FORMATS:
        raise ArgumentError(f"{path}: expected a name that ends in {' or '.join(_FORMATS)}")
    return _FORMATS[path.suffix]


def _under(names: Collection[str], prefix: str) -> dict[str, str]:
    """The names under a path, without it -> with it."""
    return {name.removeprefix(f"{prefix}."): name for name in names if name.startswith(f"{prefix}.")}


def _pair(
    saved: Mapping[str, Any],
    like: PyTree,
    mapping: Mapping[str, str | None],
    drop: Collection[str],
    place: Path,
) -> dict[str, str]:
    """For each array of `like` that is to be restored the name of the saved one."""
    arrays = named_arrays(like)
    for argument, paths, names in (
        ("mapping", mapping, arrays),
        ("mapping", [path for path in mapping.values() if path is not None], saved),
        ("drop", drop, saved),
    ):
        for path in paths:
            if not any(_lies_under(name, path) for name in names):
                where = "the model" if names is arrays else str(place)
                raise ArgumentError(f"{argument}: {path!r} is no path of {where}")
    pairs: dict[str, str] = {}
    for name, array in arrays.items():
        source = _map(name, mapping)
        if source is not None:
            pairs[name] = source
        elif is_abstract(array):
            raise ArgumentError(f"mapping: {name!r} is to keep its own value, but is only a shape")
    described = describe({name: arrays[name] for name in pairs})
    lines = []
    for name, source in pairs.items():
        here = {source: described[name]}
        there = {source: saved[source]} if source in saved else {}
        lines += differences(there, here, f"at {name}" if name != source else "here")
    used = set(pairs.values())
    unused = {
        name: value
        for name, value in saved.items()
        if name not in used and not any(_lies_under(name, path) for path in drop)
    }
    lines += differences(unused, {})
    if lines:
        raise mismatch(place, lines)
    return pairs


def _map(name: str, mapping: Mapping[str, str | None]) -> str | None:
    fitting = [path for path in mapping if _lies_under(name, path)]
    if not fitting:
        return name
    path = max(fitting, key=len)
    target = mapping[path]
    return None if target is None else target + name.removeprefix(path)


def _lies_under(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")
