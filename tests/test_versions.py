"""What a bug report says of the machine."""

import sys

import jax
import pytest

import pjax_prim as pjp
from pjax_prim.versions import versions


def test_versions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_something")
    with jax.default_matmul_precision("highest"):
        pjp.show_versions()
        found = versions()
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed == found
    assert found["python"] == sys.version.split()[0]
    assert found["jax"] == jax.__version__ and found["pjax-prim"] == pjp.__version__
    assert found["devices"] == f"{jax.device_count()} cpu (cpu)"
    assert found["jax_enable_x64"] == str(jax.config.jax_enable_x64)
    assert found["jax_default_matmul_precision"] == "highest"
    assert found["XLA_FLAGS"] == "--xla_something"
