import numpy as np
import pytest

from pjax_prim.data import InOrder, Shuffled, TokenFile, batch_indices, open_stream
from pjax_prim.data.tokens import write_tokens
from pjax_prim.errors import ArgumentError, DataError


class Items:
    """Examples that count how often they were read."""

    def __init__(self, count: int):
        self.count, self.read = count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        self.read.append(index)
        return {"x": np.full(2, index)}


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    x = np.arange(10)
    stream = Shuffled({"x": x, "y": -x}, 4, seed=3)
    batch = stream[7]
    np.testing.assert_array_equal(batch["x"], batch_indices(10, 4, seed=3, step=7))
    np.testing.assert_array_equal(batch["y"], -batch["x"])
    items = Items(10)
    np.testing.assert_array_equal(Shuffled(items, 4, seed=3)[7]["x"][:, 1], batch["x"])


def test_a_process_reads_its_own_rows_alone() -> None:
    items = Items(10)
    stream = open_stream(Shuffled(items, 4, seed=3))
    whole = [batch for batch, _ in stream.read(2, 3)]
    items.read.clear()
    found = list(stream.read(2, 3, lambda count: slice(count // 2, count)))
    assert len(items.read) == 6 and [position for _, position in found] == [3, 4, 5]
    for (batch, _), all_rows in zip(found, whole, strict=True):
        np.testing.assert_array_equal(batch["x"], all_rows["x"][2:])
    # Of other data the whole batch is read, and the own rows kept.
    listed = open_stream([{"x": np.arange(4), "n": np.array(2)}])
    [(batch, _)] = listed.read(0, 1, lambda count: slice(count // 2, count))
    assert batch["x"].tolist() == [2, 3] and batch["n"] == 2


def test_in_order_to_the_last_short_batch() -> None:
    parts = InOrder(np.arange(7), 3)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]] and len(parts) == 3
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]


def test_descriptions_differ_with_the_data() -> None:
    x = np.arange(12.0)
    assert Shuffled(x, 2).describe() == Shuffled(x.copy(), 3, seed=4).describe()
    assert Shuffled(x, 2).describe() != Shuffled(x + 1, 2).describe()
    assert open_stream([x]).describe() != open_stream([x.astype(np.float32)]).describe()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shuffled(np.zeros(0), 2), "examples: expected at least one, given none"),
        (lambda: Shuffled((np.zeros(3), np.zeros(4)), 2), "one example a row, given lengths .3, 4."),
        (lambda: Shuffled(np.zeros(3), 0), "batch_size: expected at least 1, given 0"),
        (lambda: InOrder(np.zeros(3), 0), "batch_size: expected at least 1, given 0"),
    ],
)
def test_examples_that_are_none(make, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("length", [1, 7, 26])
def test_windows_of_a_file_of_tokens(length: int, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("the quick brown ", encoding="utf-8")
    (tmp_path / "b.txt").write_text("fox jümps", encoding="utf-8")
    found = write_tokens([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "tokens.bin")
    content = np.frombuffer("the quick brown fox jümps".encode(), np.uint8)
    assert found["tokens"] == len(content) == 26 and found["classes"] == 256
    if length == 26:
        with pytest.raises(DataError, match="a window of 26 tokens needs more than as many, found 26"):
            TokenFile(tmp_path / "tokens.bin", length)
        return
    file = TokenFile(tmp_path / "tokens.bin", length)
    assert len(file) == 25 // length
    for index in range(len(file)):
        tokens, targets = file[index]
        assert tokens.dtype == np.int32
        np.testing.assert_array_equal(tokens, content[index * length : (index + 1) * length])
        np.testing.assert_array_equal(targets, content[index * length + 1 : (index + 1) * length + 1])
    parts = [TokenFile(tmp_path / "tokens.bin", 1, *part) for part in ((0, 0.5), (0.5, 1))]
    assert [len(part) for part in parts] == [12, 12] and parts[1][0][0] == content[13]
    assert parts[0].describe() != parts[1].describe()


def test_damaged_files_of_tokens(tmp_path) -> None:
    text, path = tmp_path / "a.txt", tmp_path / "tokens.bin"
    text.write_text("some text")
    write_tokens([text], path)
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], "expected 9 bytes of tokens, found 8"),
        (b"x" + whole, "not a file of tokens; pjax-prim prepare writes one"),
        (whole.replace(b"{", b"", 1), "damaged: its second line is not as it was written"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            TokenFile(path, 2)
    path.unlink()
    with pytest.raises(DataError, match="tokens.bin: cannot be read"):
        TokenFile(path, 2)
    text.write_bytes(b"\xff")
    with pytest.raises(DataError, match="a.txt: not UTF-8"):
        write_tokens([text], path)
    text.write_text("")
    with pytest.raises(DataError, match="a.txt: expected text, found none"):
        write_tokens([text], path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_tokens_of_a_tokenizer(tmp_path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "t.txt").write_text("a b b\nc a")
    found = write_tokens([tmp_path / "t.txt"], tmp_path / "tokens.bin", tmp_path / "tokenizer.json")
    assert found["classes"] == 3
    assert TokenFile(tmp_path / "tokens.bin", 4)[0][1].tolist() == [1, 1, 2, 0]
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="not a file of the package tokenizers"):
        write_tokens([tmp_path / "t.txt"], tmp_path / "tokens.bin", tmp_path / "tokenizer.json")
