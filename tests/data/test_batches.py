import numpy as np
import pytest

from pjax_prim.data import Dataset, batch, batch_indices, batches
from pjax_prim.errors import ArgumentError


def sequence(examples: int, batch_size: int, steps: int, seed: int = 0) -> np.ndarray:
    return np.concatenate([batch_indices(examples, batch_size, seed=seed, step=i) for i in range(steps)])


@pytest.mark.parametrize(("examples", "batch_size"), [(12, 4), (10, 4), (7, 7), (3, 8), (5, 1)])
def test_every_epoch_is_a_permutation(examples: int, batch_size: int) -> None:
    steps = examples * 3  # batch_size whole epochs, three times over
    chosen = sequence(examples, batch_size, steps)
    epochs = chosen.reshape(-1, examples)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(examples), (len(epochs), 1)))


def test_depends_on_seed_and_step_only() -> None:
    late = batch_indices(100, 8, seed=3, step=40)
    np.testing.assert_array_equal(late, sequence(100, 8, 41, seed=3)[-8:])
    assert (late != batch_indices(100, 8, seed=4, step=40)).any()


def test_epochs_differ() -> None:
    assert (batch_indices(50, 50, seed=0, step=0) != batch_indices(50, 50, seed=0, step=1)).any()


def test_batch_takes_features_and_labels_together() -> None:
    y = np.arange(6, dtype=np.int32)
    x = y[:, None].astype(np.float32)
    dataset = Dataset("toy", x, y, x, y, classes=6)
    features, labels = batch(dataset, 4, seed=0, step=1)
    assert features.shape == (4, 1)
    np.testing.assert_array_equal(features[:, 0], labels)


def test_read_ahead_in_order_from_anywhere() -> None:
    read: list[int] = []

    def square(step: int) -> int:
        read.append(step)
        return step * step

    assert list(batches(square, 3, 9)) == [x * x for x in range(3, 9)] and sorted(read) == [*range(3, 9)]
    read.clear()
    assert next(batches(square, 5, 1000, ahead=2)) == 25
    assert len(read) < 50
    assert list(batches(square, 4, 4)) == []


def test_an_error_in_a_thread_arrives() -> None:
    def fail(step: int) -> int:
        raise OSError(f"no step {step}")

    with pytest.raises(OSError, match="no step 7"):
        next(batches(fail, 7, 9))


@pytest.mark.parametrize("name", ["examples", "batch_size", "seed", "step"])
def test_out_of_range(name: str) -> None:
    values = {"examples": 5, "batch_size": 2, "seed": 0, "step": 0, name: -1}
    with pytest.raises(ArgumentError, match=rf"{name}: expected at least [01], given -1"):
        batch_indices(values.pop("examples"), values.pop("batch_size"), **values)
