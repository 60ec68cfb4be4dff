"""What several files of this folder use."""

from typing import Any

import pytest

from pjax_prim.training import trainer


@pytest.fixture
def shared_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of one configuration compile once; those in processes of their own again."""
    compiled: dict[Any, Any] = {}
    make = trainer.CompiledSteps.__init__

    def init(self: Any, *arguments: Any) -> None:
        make(self, *arguments)
        self._compiled = compiled

    monkeypatch.setattr(trainer.CompiledSteps, "__init__", init)
