"""These tests compile several hundred small solves: XLA optimises them less, to save minutes."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def every_module(quick_compilation: None) -> None:
    """All of them."""
