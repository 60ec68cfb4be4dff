"""The script `run` and the environment that it makes, with a Python that only writes down what it is told."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PYTHON = """#!/bin/sh
case "$*" in
"-m venv --clear "*)
    echo "venv" >>"$LOG"
    rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
"-m pip install "*)
    echo "install" >>"$LOG"
    if [ -e "$KILL" ]; then
        rm "$KILL" && touch "$(dirname "$0")/half" && kill -9 "$PPID"
        exit 1
    fi
    [ ! -e "$(dirname "$0")/half" ] || { echo "half an environment" >&2; exit 1; }
    printf '#!/bin/sh\\necho "$@"\\n' >"$(dirname "$0")/pjax-prim" && chmod +x "$(dirname "$0")/pjax-prim" ;;
"-m mkdocs build "*) echo "docs" >>"$LOG" ;;
"-c "*) ;;
*) echo "not expected: $*" >&2; exit 1 ;;
esac
"""


class Clone:
    """A clone of the repository, with a Python of its own."""

    def __init__(self, folder: Path):
        self.root, self.log, self.kill = folder / "a clone", folder / "log", folder / "kill"
        self.root.mkdir()
        for name in ("run", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        self.python = folder / "python3"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {"PYTHON": str(self.python), "LOG": str(self.log), "KILL": str(self.kill)} | environment
        command = [self.root / "run", *arguments]
        return subprocess.run(command, env=os.environ | given, capture_output=True, text=True)

    def done(self) -> list[str]:
        """What the Python was told since the last time."""
        lines = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_the_environment_is_made_once_and_updated(clone: Clone) -> None:
    for expected in (["venv", "install"], []):
        found = clone.run("graph", "--json")
        assert (found.returncode, found.stdout) == (0, "graph --json\n"), found.stderr
        assert clone.done() == expected
    with (clone.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert clone.run("graph").returncode == 0 and clone.done() == ["install"]
    other = clone.root.parent / "else where" / "env"
    assert clone.run("graph", PJAX_PRIM_VENV=str(other)).returncode == 0
    assert clone.done() == ["venv", "install"] and (other / "bin" / "pjax-prim").exists()


@pytest.mark.parametrize("whole_before", [False, True], ids=["first", "update"])
def test_killed_while_it_installs_it_makes_the_environment_anew(clone: Clone, whole_before: bool) -> None:
    if whole_before:
        clone.run("graph")
        with (clone.root / "pyproject.toml").open("a") as file:
            file.write("# changed\n")
        clone.done()
    clone.kill.touch()
    assert clone.run("graph").returncode == -signal.SIGKILL
    assert clone.done() == (["install"] if whole_before else ["venv", "install"])
    found = clone.run("graph")
    assert (found.returncode, found.stdout) == (0, "graph\n"), found.stderr
    assert clone.done() == ["venv", "install"]
    assert clone.run("graph").returncode == 0 and not clone.done()


def test_the_documentation_needs_more_once(clone: Clone) -> None:
    assert clone.run("docs").returncode == 0 and clone.done() == ["venv", "install", "install", "docs"]
    assert clone.run("docs").returncode == 0 and clone.done() == ["docs"]
    (clone.root / ".venv" / "pyproject.docs").unlink()
    clone.kill.touch()
    assert clone.run("docs").returncode == -signal.SIGKILL and clone.done() == ["install"]
    assert clone.run("docs").returncode == 0 and clone.done() == ["venv", "install", "install", "docs"]


def test_an_environment_for_tests_and_documentation_is_one_installation(clone: Clone) -> None:
    assert clone.run("environment").returncode == 0 and clone.done() == ["venv", "install"]
    assert clone.run("docs").returncode == 0 and clone.done() == ["docs"]
    (clone.root / ".venv" / "pyproject.docs").unlink()
    assert clone.run("environment").returncode == 0 and clone.done() == ["install"]


def test_a_failed_installation_is_tried_again(clone: Clone) -> None:
    broken = clone.python.read_text().replace('echo "install" >>"$LOG"', "exit 3")
    good, _ = clone.python.read_text(), clone.python.write_text(broken)
    assert clone.run("graph").returncode == 3
    clone.python.write_text(good)
    assert clone.run("graph").returncode == 0 and clone.done() == ["venv", "venv", "install"]


def test_no_python_is_said_in_a_sentence(clone: Clone) -> None:
    found = clone.run("graph", PYTHON="/no/such/python")
    assert found.returncode == 1 and "run: needs Python 3.11, 3.12 or 3.13; found" in found.stderr
    assert "PYTHON=/path/to/python3.12 ./run" in found.stderr
