"""The wheel holds every module, and each of them is imported from it, away from the repository.

The slow tests install it as users do, by Python `PJAX_PRIM_PYTHONS` (several, separated by spaces; by default
the one of the tests), and need a package index.
"""

import os
import subprocess
import sys
import tarfile
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


def succeed(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder: Path, *options: str) -> None:
    """Builds from a copy: a `build/` left in the repository would end up in the wheel."""
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", COMMAND, *FOLDERS):
        (copy / name).symlink_to(ROOT / name)
    options = ("--no-isolation", *options, "--outdir", str(folder))
    succeed(sys.executable, "-m", "build", *options, cwd=copy)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build(folder, "--wheel")
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
        ("grain", "train"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, package, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        expected = f"{arguments[0]}: needs the package {package}; pip install 'pjax-prim[train]'"
        assert done.returncode == 2 and expected in done.stderr, done.stderr


PYTHONS = os.environ.get("PJAX_PRIM_PYTHONS", sys.executable).split()
SMOKE = """
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import pjax_prim as pjp
from pjax_prim.checkpoint import CheckpointWriter
from pjax_prim.data import load
from pjax_prim.models import ThresholdNetwork

assert Path(pjp.__file__).is_relative_to(sys.prefix), pjp.__file__
assert (Path(pjp.__file__).parent / "py.typed").is_file()
pjp.show_versions()
digits = load("digits")
model = eqx.nn.MLP(64, 10, width_size=32, depth=1, key=jax.random.key(0))


def loss(model, x, labels):
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


optimiser = optax.adam(5e-3)
memory = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
step = eqx.filter_jit(pjp.displacement_step(loss, optimiser))
rng = np.random.default_rng(0)
for _ in range(150):
    rows = rng.choice(len(digits.train_x), 64)
    model, memory, value = step(model, memory, digits.train_x[rows], digits.train_y[rows])
accuracy = jnp.mean(jnp.argmax(jax.vmap(model)(digits.test_x), -1) == digits.test_y)
assert accuracy > 0.9, accuracy
batch = digits.train_x[:64], digits.train_y[:64]
solution = pjp.solve(loss, model, *batch, solver=pjp.JointProjections(), max_steps=3)
assert jnp.mean(loss(solution.params, *batch)) < jnp.mean(loss(model, *batch))
with CheckpointWriter(Path("checkpoints")) as writer:
    writer.save(1, eqx.filter(model, eqx.is_array), {})
assert writer.folder.steps() == [1]
print("it works")
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("published")
    build(folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_source_distribution_holds_every_source(published: tuple[Path, Path]) -> None:
    with tarfile.open(published[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    beside = {"pjax_prim/lowering/": "lowering/", "pjax_prim/sharding/": "sharding/"}
    for path in sources():
        for inside, outside in beside.items():
            path = path.replace(inside, outside) if path.startswith(inside) else path
        assert path in names
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_the_wheel_works_in_a_fresh_environment(
    python: str, published: tuple[Path, Path], tmp_path: Path
) -> None:
    # What users have: no path of the repository, and no settings of the tests.
    kept = ("PATH", "HOME", "LANG", *(name for name in os.environ if name.startswith("PIP_")))
    env = {name: os.environ[name] for name in kept if name in os.environ}
    inside = tmp_path / "fresh" / "bin"
    succeed(python, "-m", "venv", "fresh", cwd=tmp_path, env=env)
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    wanted = f"pjax-prim[train] @ {published[1].as_uri()}"
    succeed(str(inside / "python"), *install, wanted, cwd=tmp_path, env=env)
    (tmp_path / "smoke.py").write_text(SMOKE)
    printed = succeed(str(inside / "python"), "-I", "-W", "error", "smoke.py", cwd=tmp_path, env=env)
    assert "it works" in printed
    trained = succeed(str(inside / "pjax-prim"), "train", "--batches", "20", "--json", cwd=tmp_path, env=env)
    assert '"test_accuracy"' in trained.splitlines()[-1]
