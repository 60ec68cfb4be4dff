"""The wheel holds every module, and each of them is imported from it, away from the repository."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"pjax_prim": "pjax_prim", "lowering": "pjax_prim/lowering", "sharding": "pjax_prim/sharding"}

COMMAND = "pjax_prim_command.py"

IMPORT_ALL = """
import importlib, importlib.util, sys, warnings
target, *names = sys.argv[1:]
sys.path.insert(0, target)
warnings.simplefilter("error")
missing = [name for name in ("mlflow", "wandb") if importlib.util.find_spec(name) is None]  # no part of dev
for name in names:
    if name.startswith("pjax_prim.training.trackers.") and name.rpartition(".")[2] in missing:
        continue
    file = importlib.import_module(name).__file__
    assert file.startswith(target), file
"""


def sources() -> set[str]:
    """The path in the wheel of every source file of the package."""
    return {
        (Path(inside) / path.relative_to(ROOT / folder)).as_posix()
        for folder, inside in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    } | {COMMAND}


def succeed(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    # from a copy: a `build/` left in the repository would end up in the wheel
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", COMMAND, *FOLDERS):
        (copy / name).symlink_to(ROOT / name)
    succeed(sys.executable, *build, cwd=copy)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_every_source_file_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == sources()


def test_every_module_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    succeed(sys.executable, *install, str(wheel), cwd=tmp_path)
    paths = [Path(name).with_suffix("") for name in sources() if name.endswith(".py")]
    modules = [".".join(path.parent.parts if path.name == "__init__" else path.parts) for path in paths]
    succeed(sys.executable, "-I", "-c", IMPORT_ALL, str(target), *sorted(modules), cwd=tmp_path)


def test_command_line_is_installed(wheel: Path) -> None:
    (entry,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("entry_points.txt"))
    assert b"pjax-prim = pjax_prim_command:main" in zipfile.ZipFile(wheel).read(entry)


WEIGHT = """
import sys
import pjax_prim_command
assert "jax" not in sys.modules and "numpy" not in sys.modules
import jax, equinox, jaxtyping, numpy
before = set(sys.modules)
import pjax_prim
brought = {name.partition(".")[0] for name in set(sys.modules) - before}
assert brought - sys.stdlib_module_names <= {"jax", "jaxlib", "equinox", "pjax_prim"}, brought
assert not any("pallas.triton" in name or "pallas.tpu" in name for name in sys.modules)
heavy = {"optax", "orbax", "tensorstore", "grain", "matplotlib", "rich", "sklearn", "tyro", "scipy"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
import pjax_prim.cli, pjax_prim.training, pjax_prim.data
heavy -= {"orbax", "tensorstore"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""


def test_what_an_import_brings(tmp_path: Path) -> None:
    succeed(sys.executable, "-c", WEIGHT, cwd=tmp_path)


def test_a_command_names_the_extra_that_it_lacks(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules[sys.argv[1]] = None; from pjax_prim.cli import main; "
        "sys.exit(main(sys.argv[2:]))"
    )
    for package, *arguments in (
        ("tyro", "graph"),
        ("rich", "train"),
        ("sklearn", "graph"),
        ("grain", "train"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, package, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        expected = f"{arguments[0]}: needs the package {package}; pip install 'pjax-prim[train]'"
        assert done.returncode == 2 and expected in done.stderr, done.stderr
