"""Batches without end for training, with a position to go on from, and batches that end for evaluation."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from ..errors import ArgumentError, DataError
from .batches import batch_indices, batches

Position = Any
"""Where a stream stands, ready for JSON: the number of the next batch, or what an iterator calls its
state."""


class Shuffled:
    """Batches of examples in random order, without end: batch `step` is a function of seed and step.

    The epochs, each a permutation of all examples, are laid end to end (`batch_indices`): every epoch sees
    every example once, and nothing is dropped.

    **Arguments:**

    - `examples`: a pytree of arrays with one example a row, or an object with `__len__` and `__getitem__`
      whose items are pytrees of arrays (`TokenFile`, a grain `MapDataset` or data source).
    - `batch_size`: examples in a batch; `seed`, that of the order.

    **Errors:** `ArgumentError` for a size or seed out of range, no example, or arrays of different lengths.
    """

    def __init__(self, examples: Any, batch_size: int, *, seed: int = 0):
        self._examples = _Examples(examples)
        self.batch_size = batch_size
        self.seed = seed
        batch_indices(len(self._examples), batch_size, seed=seed, step=0)

    def __getitem__(self, step: int) -> Any:
        return self.rows(step, slice(None))

    def rows(self, step: int, chosen: Any) -> Any:
        """Some rows of a batch; no others are read. **Arguments:** `chosen`: an index of NumPy into its
        rows."""
        indices = batch_indices(len(self._examples), self.batch_size, seed=self.seed, step=step)
        return self._examples.take(indices[chosen])

    def describe(self) -> dict[str, Any]:
        """What tells one set of examples from another, ready for JSON."""
        return self._examples.describe()


class InOrder:
    """The examples in their order, in batches, once: the last batch may be shorter.

    **Arguments:** `examples`, `batch_size`: as for `Shuffled`.
    """

    def __init__(self, examples: Any, batch_size: int):
        self._examples = _Examples(examples)
        if batch_size < 1:
            raise ArgumentError(f"batch_size: expected at least 1, given {batch_size}")
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._examples) // self.batch_size)

    @property
    def examples(self) -> int:
        """The number of examples in all batches."""
        return len(self._examples)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.batch_size
        return self._examples.take(np.arange(start, min(start + self.batch_size, len(self._examples))))

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


class _Examples:
    """A pytree of arrays, or items that are pytrees of arrays, by index."""

    def __init__(self, examples: Any):
        self._items = examples if _has_items(examples) else None
        self._arrays = None if self._items is not None else jax.tree.map(np.asarray, examples)
        if self._items is not None:
            self._count = len(self._items)
        else:
            leaves = jax.tree.leaves(self._arrays)
            counts = sorted({len(leaf) if leaf.ndim else 0 for leaf in leaves})
            if len(counts) != 1:
                raise ArgumentError(
                    f"examples: expected arrays with one example a row, given lengths {counts}"
                )
            (self._count,) = counts
        if self._count < 1:
            raise ArgumentError("examples: expected at least one, given none")

    def __len__(self) -> int:
        return self._count

    def take(self, indices: np.ndarray) -> Any:
        if self._items is None:
            return jax.tree.map(lambda array: array[indices], self._arrays)
        rows = [self._items[int(index)] for index in indices]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *rows)

    def describe(self) -> dict[str, Any]:
        if self._items is None:
            return checksum(self._arrays)
        if hasattr(self._items, "describe"):
            found: dict[str, Any] = self._items.describe()
            return found
        return {"examples": len(self), **checksum(self.take(np.array([0, len(self) - 1])))}


def _has_items(examples: Any) -> bool:
    """Whether it is an object of items, rather than arrays and containers of arrays."""
    is_leaf = jax.tree_util.all_leaves([examples])
    return is_leaf and not hasattr(examples, "dtype") and hasattr(examples, "__getitem__")


def checksum(tree: Any) -> dict[str, Any]:
    """The shapes of a tree's arrays, by path, and a checksum of their bytes."""
    digest = hashlib.sha256()
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "batch"
        shapes[name] = [str(array.dtype), *array.shape]
        digest.update(array.data if array.size else b"")
    return {**shapes, "sha256": digest.hexdigest()}


class Stream(Protocol):
    """Batches for training, from a position on."""

    start: Position
    """The position before the first batch."""

    def read(self, position: Position, count: int, chosen: Any = None) -> Iterator[tuple[Any, Position]]:
        """Gives up to `count` batches from `position` on, each with the position after it.

        **Arguments:** `chosen`: given the number of rows of a batch's array, an index of those to read; None
        reads all.
        """

    def describe(self) -> dict[str, Any]:
        """What tells these data from others, ready for JSON."""


def open_stream(train: Any) -> Stream:
    """The stream of what a task gives as `train`; `docs/tasks.md` lists what that may be.

    **Errors:** `ArgumentError` for what gives no batches, or none that could be found again.
    """
    if isinstance(train, Sequence) and not isinstance(train, str):
        if not train:
            raise ArgumentError("train: expected at least one batch, given none")
        return _ByNumber(lambda step: train[step % len(train)], train)
    if hasattr(train, "__getitem__"):
        return _ByNumber(train.__getitem__, train)
    if hasattr(train, "__iter__"):
        iterator = iter(train)
        if iterator is not train and hasattr(iterator, "get_state") and hasattr(iterator, "set_state"):
            return _ByState(train, iterator.get_state())
        raise ArgumentError(
            f"train: expected batches that can be found again after a stop, given {type(train).__name__}, "
            "whose iterator has no get_state and set_state; use a grain pipeline, "
            "pjax_prim.data.Shuffled, or a list"
        )
    raise ArgumentError(f"train: expected batches, such as a grain pipeline or Shuffled, given {train!r}")


class _ByNumber:
    """Batches that are a function of their number."""

    start: Position = 0

    def __init__(self, get: Callable[[int], Any], source: Any):
        self._get = get
        self._source = source

    def read(self, position: Position, count: int, chosen: Any = None) -> Iterator[tuple[Any, Position]]:
        rows = getattr(self._source, "rows", None)

        def get(step: int) -> Any:
            if chosen is None:
                return self._get(step)
            if rows is not None:
                return rows(step, chosen(self._source.batch_size))
            return _chosen(self._get(step), chosen)

        numbers = range(position, position + count)
        found = batches(get, numbers.start, numbers.stop)
        return ((batch, step + 1) for step, batch in zip(numbers, found, strict=False))

    def describe(self) -> dict[str, Any]:
        if hasattr(self._source, "describe"):
            found: dict[str, Any] = self._source.describe()
            return found
        return checksum(self._get(0))


class _ByState:
    """Batches of an iterator that can say where it is and be put there."""

    def __init__(self, source: Any, start: Position):
        self._source = source
        self.start = _to_json(start)

    def read(self, position: Position, count: int, chosen: Any = None) -> Iterator[tuple[Any, Position]]:
        iterator = iter(self._source)
        iterator.set_state(_from_json(position))
        for _ in range(count):
            try:
                batch = next(iterator)
            except StopIteration:
                return
            yield (
                (batch if chosen is None else _chosen(batch, chosen)),
                _to_json(iterator.get_state()),
            )

    def describe(self) -> dict[str, Any]:
        for batch, _ in self.read(self.start, 1):
            return checksum(batch)
        raise DataError("train: the pipeline holds no batch")


def _chosen(batch: Any, chosen: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[chosen(len(x))] if np.ndim(x) else np.asarray(x), batch)


def _to_json(state: Any) -> Any:
    """A state of an iterator as JSON takes it: bytes, which some of grain's are, as hexadecimal."""
    if isinstance(state, bytes):
        return {"bytes": state.hex()}
    return json.loads(json.dumps(state))


def _from_json(state: Any) -> Any:
    if isinstance(state, dict) and state.keys() == {"bytes"}:
        return bytes.fromhex(state["bytes"])
    return state
