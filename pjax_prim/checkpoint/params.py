"""The parameters alone: for fine-tuning, for another model, and as one file."""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from ..arguments import is_data
from ..errors import ArgumentError, CheckpointError
from .folder import CheckpointFolder, mismatch
from .naming import describe, differences, is_abstract, is_array, named_arrays, with_arrays
from .storage import as_path, storage_of

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
    which: str | None = None,
) -> PyTree:
    """Gives a model the parameters of a checkpoint of a run, and nothing else of it.

    **Arguments:**

    - `run`: the run folder.
    - `like`: the model, perhaps by `eqx.nn.inference_mode`. Its arrays may be `jax.ShapeDtypeStruct`s, and
      each is restored into the sharding that it has; what is no array stays as it is.
    - `mapping`: says where the models differ. It maps a path in `like` to the path of the saved model whose
      arrays it takes, or to None where `like` keeps its own. A path such as `layers.1` stands for
      all that lies under it; the longest path that fits counts. Other paths map to themselves.
    - `drop`: paths of the saved model that are not wanted.
    - `step`: which checkpoint; the newest if left out.
    - `which`: "last", "averaged" or "best" parameters; None for the averaged ones where the checkpoint has
      them, else the last ones.

    **Errors:** `CheckpointError` that lists every path without a counterpart, or whose shape or
    dtype differs; also for a damaged checkpoint, or one without such parameters. `ArgumentError`
    for a path in `mapping` or `drop` that does not exist.
    """
    if which is not None and which not in WHICH:
        raise ArgumentError(f"which: expected one of {', '.join(WHICH)}, given {which!r}")
    folder = CheckpointFolder(as_path(run) / CHECKPOINTS)
    if step is None:
        step = folder.choose()
    else:
        folder.verify(step)
    saved = folder.info(step)["arrays"]
    full = _under(saved, WHICH["last"])
    chosen = _under(saved, WHICH[which or "averaged"])
    if which is not None and not chosen:
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
    """Restores a part of the state of a run's checkpoint, by its path in that state.

    **Arguments:** `run`, `step`: as for `restore_params`; `like`: has the saved structure, shapes and dtypes.

    **Errors:** those of `CheckpointFolder.restore`.
    """
    folder = CheckpointFolder(as_path(run) / CHECKPOINTS)
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

    **Errors:** `ArgumentError` for another ending, without the package `safetensors`, and for an array of a
    dtype that such a file cannot hold; `CheckpointError` where the file cannot be written.
    """
    path = as_path(path)
    write = _format(path)[0]
    try:
        with storage_of(path).writing(path) as file:
            write(file, model)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None


def load_params(source: str | Path, like: PyTree) -> PyTree:
    """A model with the parameters of a run folder's newest checkpoint, or of a file of `export_params`.

    **Errors:** those of `restore_params` and `import_params`.
    """
    path = as_path(source)
    try:
        is_file = storage_of(path).is_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    return import_params(path, like) if is_file else restore_params(path, like)


@dataclass(frozen=True)
class Source:
    """Where an array of a model comes from, if it is not a saved one as it is: a part of it, transposed,
    converted.

    **Arguments:** `key`, of the saved array; `take(array)`, a NumPy array, gives the array of the model.
    """

    key: str
    take: Callable[[np.ndarray], Any]


KeyMap = Mapping[str, str | Source | None]
"""The paths of saved arrays by those of a model; see `restore_params`."""


def import_params(
    path: str | Path, like: PyTree, *, mapping: KeyMap | None = None, drop: Collection[str] = ()
) -> PyTree:
    """Gives a model the arrays of a file, one of `export_params` or another `.safetensors` file.

    **Arguments:** as those of `restore_params`; `mapping` and `drop` only for `.safetensors`, since
    an `.eqx` file names nothing. There `mapping` may hold a `Source`, too.

    **Errors:** those of `restore_params`.
    """
    path = as_path(path)
    read = _format(path)[1]
    with ExitStack() as stack:
        try:
            file = stack.enter_context(storage_of(path).reading(path))
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from None
        return read(file, like, mapping or {}, drop, path)


def import_state_dict(
    state_dict: Mapping[str, Any], like: PyTree, *, mapping: KeyMap | None = None, drop: Collection[str] = ()
) -> PyTree:
    """Gives a model the arrays of a state dict, in which another framework names them in its own way.

    Nothing is left over on either side unless it is said, and nothing is cast.

    **Arguments:**

    - `state_dict`: maps keys such as `h.0.ln_1.weight` to arrays (whatever `numpy.asarray` takes).
    - `like`, `drop`: as for `restore_params`.
    - `mapping`: maps a path in `like` to a key, to a `Source`, or to None where `like` keeps its own; as for
      `restore_params`, a path stands for all that lies under it, unless it leads to a `Source`.

    **Errors:** those of `restore_params`; `ArgumentError` that names the path where `Source.take` fails.
    """
    arrays = {key: np.asarray(x) for key, x in state_dict.items()}
    return _fill(arrays, like, mapping or {}, drop, "the state dict")


def _fill(
    arrays: dict[str, np.ndarray], like: PyTree, mapping: KeyMap, drop: Collection[str], place: Path | str
) -> PyTree:
    """The model with arrays of these names."""
    keys: dict[str, str | None] = {}
    dropped = [*drop]
    made: dict[str, np.ndarray] = {}
    for path, source in mapping.items():
        if isinstance(source, Source):
            if source.key not in arrays:
                raise ArgumentError(f"mapping: {source.key!r} is no path of {place}")
            keys[path] = f"{source.key} for {path}"
            made[f"{source.key} for {path}"] = _taken(source, path, arrays[source.key])
            dropped.append(source.key)
        else:
            keys[path] = source
    arrays = {**arrays, **made}
    pairs = _pair(describe(arrays), like, keys, dropped, place)
    here = named_arrays(like)
    return with_arrays(like, {name: _placed(arrays[key], here[name]) for name, key in pairs.items()})


def _taken(source: Source, path: str, array: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(source.take(array))
    except Exception as error:  # of the user's own function
        raise ArgumentError(
            f"mapping: {path!r}: cannot be taken from {source.key!r}, {array.dtype}{[*array.shape]} ({error})"
        ) from error


def _placed(array: np.ndarray, like: Any) -> Any:
    """Where the array of the model is: in memory, on its devices, or on the default one."""
    if isinstance(like, np.ndarray):
        return array
    sharding = getattr(like, "sharding", None)
    return jax.device_put(array, sharding) if isinstance(sharding, NamedSharding) else jnp.asarray(array)


def _write_eqx(path: Path, model: PyTree) -> None:
    _check_leaves(path, model, lambda array: array.dtype != object, "write its numbers as an array of them")
    with path.open("wb") as file:
        eqx.tree_serialise_leaves(file, jax.tree.map(_data, model))


def _check_leaves(path: Path, model: PyTree, fits: Callable[[Any], bool], remedy: str) -> None:
    for name, array in named_arrays(model).items():
        if not fits(array):
            file = Path(path.name.removesuffix(".partial"))
            raise ArgumentError(f"{file}: {name}: a {file.suffix} file cannot hold {array.dtype}; {remedy}")


def _read_eqx(file: Path, like: PyTree, mapping: KeyMap, drop: Collection[str], place: Path) -> PyTree:
    if mapping or drop:
        raise ArgumentError(f"mapping, drop: not for {place.name}: an .eqx file does not name its arrays")
    try:
        with file.open("rb") as content:
            loaded = eqx.tree_deserialise_leaves(content, jax.tree.map(_data, like))
            rest = content.read(1)
    except Exception as error:  # whatever equinox and numpy make of a damaged file
        raise CheckpointError(f"{place}: damaged, or of another model ({error})") from None
    if rest:
        raise CheckpointError(f"{place}: damaged, or of another model: it holds more than this one")
    # Flags and numbers are in the file, too, but the model's own count: it may be set for inference.
    return jax.tree.map(lambda old, new: _wrapped(new, old) if is_array(old) else old, like, loaded)


def _is_key(leaf: Any) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    """A leaf as files hold it: a typed key by its numbers."""
    if not _is_key(leaf):
        return leaf
    return jax.eval_shape(jax.random.key_data, leaf) if is_abstract(leaf) else jax.random.key_data(leaf)


def _wrapped(loaded: Any, like: Any) -> Any:
    """The inverse of `_data`."""
    if not _is_key(like):
        return loaded
    if not is_abstract(like):
        return jax.random.wrap_key_data(loaded, impl=jax.random.key_impl(like))
    kinds = ("threefry2x32", "rbg", "unsafe_rbg")
    made = {name: jax.eval_shape(lambda name=name: jax.random.key(0, impl=name)).dtype for name in kinds}
    return jax.random.wrap_key_data(loaded, impl=next(name for name in kinds if made[name] == like.dtype))


def _write_safetensors(path: Path, model: PyTree) -> None:
    package = _safetensors()
    arrays = named_arrays(model)
    _check_leaves(path, model, lambda x: is_data(x) and not _is_key(x), "export to .eqx, or convert the leaf")
    try:
        package.numpy.save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, path)
    except Exception as error:  # of a class of its own, also for a full disk
        raise CheckpointError(f"{path.name.removesuffix('.partial')}: cannot be written ({error})") from None


def _read_safetensors(
    file: Path, like: PyTree, mapping: KeyMap, drop: Collection[str], place: Path
) -> PyTree:
    package = _safetensors()
    try:
        arrays = package.numpy.load_file(file)  # of NumPy, which casts no float64
    except Exception as error:  # its own class, or one of the operating system
        raise CheckpointError(f"{place}: damaged, or no safetensors file ({error})") from None
    return _fill(arrays, like, mapping, drop, place)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ArgumentError(
            "safetensors: this format needs the package; pip install 'pjax-prim[safetensors]'"
        ) from None
    return safetensors


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
    place: Path | str,
) -> dict[str, str]:
    """The name of the saved array for each array of `like` that is to be restored."""
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
