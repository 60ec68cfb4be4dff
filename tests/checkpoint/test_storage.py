"""Which places there are."""

from pathlib import Path

import pytest

from pjax_prim.checkpoint import as_path, storage, storage_of
from pjax_prim.errors import ArgumentError


def test_local_places(tmp_path: Path) -> None:
    for place in (tmp_path, str(tmp_path), "runs/a:b", "c:/d"):
        assert as_path(place) == Path(place) and type(as_path(place)) is type(tmp_path)
        assert storage_of(as_path(place)).local(as_path(place)) == Path(place)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "s3://bucket/run",
            "s3://bucket/run: expected a local path, or one on gs://; others are not supported",
        ),
        (Path("gs://bucket/run"), "gs:/bucket/run: expected a local path; that of a bucket is given as text"),
        ("gs://bucket", "gs://bucket: expected gs://BUCKET/PATH"),
        ("gs://", "gs://: expected gs://BUCKET/PATH"),
    ],
)
def test_places_that_are_none(place: str | Path, message: str, monkeypatch) -> None:
    monkeypatch.setattr(storage, "_is_installed", lambda package: True)
    with pytest.raises(ArgumentError, match=message):
        as_path(place)


def test_a_bucket_needs_an_extra(monkeypatch) -> None:
    monkeypatch.setattr(storage, "_is_installed", lambda package: package != "gcsfs")
    with pytest.raises(
        ArgumentError, match=r"gs://b/run: needs the package gcsfs; pip install 'pjax-prim\[gcs\]'"
    ):
        as_path("gs://b/run")
    monkeypatch.undo()
    assert storage._is_installed("json") and not storage._is_installed("none.at_all")
