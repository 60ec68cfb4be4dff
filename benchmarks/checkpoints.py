"""What checkpoints cost: `python -m benchmarks.checkpoints blocking|throughput|memory`.

- `blocking`: how long a save holds up the training of the MNIST network (784-128-128-10 with skips,
  batch 256, 50 solver steps), beside the time of a batch.
- `throughput`: bytes a second of save and restore, beside a plain tensorstore write of the same bytes.
- `memory`: peak host memory of a process that restores 1 GB sharded over eight CPU devices.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MEGABYTE = 1 << 20


def blocking(options: argparse.Namespace) -> dict[str, Any]:
    from pjax_prim.checkpoint import Retention, SavePolicy
    from pjax_prim.tasks import built_in
    from pjax_prim.tasks.classification import Classifier
    from pjax_prim.training import Method, RunFolder, Saving, TrainConfig, train

    file = built_in("mnist" if options.data_dir else "digits")
    place = {"data_dir": Path(options.data_dir)} if options.data_dir else {}
    task = file.make(file.options(network=Classifier(skip=True), **place))
    config = TrainConfig(method=Method(solver="ap"), batches=options.batches, eval_every=options.batches)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        saving = Saving(SavePolicy(every=5, seconds=None), Retention(latest=2))
        result = train(task, config, RunFolder(Path(folder) / "run"), saving=saving)
    # Metrics are read late, several batches at once: only the whole time says what one takes. The first
    # fifth compiles.
    first = options.batches // 5
    spent = result.timings[-1] - result.timings[first] - sum(result.blocked[1:])
    batch = spent / (options.batches - 1 - first)
    # The first save also imports and starts what the writer needs; the last is not waited for by a batch.
    saves = result.blocked[1:-1]
    return {
        "batch_ms": 1e3 * batch,
        "blocked_ms": 1e3 * statistics.median(saves),
        "blocked_max_ms": 1e3 * max(saves),
        "first_blocked_ms": 1e3 * result.blocked[0],
        "ratio": statistics.median(saves) / batch,
    }


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import tensorstore as ts

    from pjax_prim.checkpoint import CheckpointFolder, CheckpointWriter

    count = options.megabytes * MEGABYTE // 4 // 8
    keys = jax.random.split(jax.random.key(0), 8)
    tree = {f"x{i}": jax.random.normal(key, (count,), jnp.float32) for i, key in enumerate(keys)}
    size = sum(x.nbytes for x in tree.values())
    jax.block_until_ready(tree)
    seconds: dict[str, list[float]] = {"plain_write": [], "plain_read": [], "save": [], "restore": []}

    def timed(name: str, began: float) -> None:
        seconds[name].append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        for turn in range(options.repeats):
            plain = Path(folder) / f"plain{turn}"
            spec = {
                name: {
                    "driver": "zarr",
                    "kvstore": {"driver": "file", "path": str(plain / name)},
                    "metadata": {"shape": [count], "dtype": "<f4", "chunks": [count]},
                }
                for name in tree
            }
            began = time.perf_counter()
            stores = [ts.open(spec[name], create=True, open=True).result() for name in tree]
            for future in [store.write(x) for store, x in zip(stores, tree.values(), strict=True)]:
                future.result()
            timed("plain_write", began)
            began = time.perf_counter()
            for future in [ts.open(spec[name]).result().read() for name in tree]:
                future.result()
            timed("plain_read", began)
            path = Path(folder) / f"c{turn}"
            with CheckpointWriter(path) as writer:
                began = time.perf_counter()
                writer.save(1, tree, {})
                writer.wait()
                timed("save", began)
            checkpoints = CheckpointFolder(path)
            began = time.perf_counter()
            checkpoints.verify(1)
            jax.block_until_ready(checkpoints.restore(1, tree))
            timed("restore", began)
            shutil.rmtree(plain)
            shutil.rmtree(path)
    rates = {f"{name}_mb_s": size / 1e6 / statistics.median(times) for name, times in seconds.items()}
    return {
        "bytes": size,
        **rates,
        "save_to_plain_write": rates["save_mb_s"] / rates["plain_write_mb_s"],
        "restore_to_plain_write": rates["restore_mb_s"] / rates["plain_write_mb_s"],
    }


def memory(options: argparse.Namespace) -> dict[str, Any]:
    def child(task: str) -> dict[str, Any]:
        more = ["--megabytes", str(options.megabytes), "--path", folder]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.checkpoints", task, *more],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        child("write")
        return child("read")


def _sharded(options: argparse.Namespace, axes: tuple[int, int]) -> Any:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()).reshape(axes), ("a", "b"))
    sharding = NamedSharding(mesh, PartitionSpec("a", "b"))
    rows = options.megabytes * MEGABYTE // 4 // 8 // 1024
    return {f"x{i}": jax.ShapeDtypeStruct((rows, 1024), jnp.float32, sharding=sharding) for i in range(8)}


def write(options: argparse.Namespace) -> dict[str, Any]:
    """Writes the state of `memory` on an 8x1 mesh."""
    import jax
    import jax.numpy as jnp

    from pjax_prim.checkpoint import CheckpointWriter

    def make(key: Any) -> Any:
        keys = jax.random.split(key, 8)
        return {f"x{i}": jax.random.normal(k, x.shape, jnp.float32) for i, (k, x) in enumerate(
            zip(keys, like.values(), strict=True))}  # fmt: skip

    like = _sharded(options, (8, 1))
    tree = jax.jit(make, out_shardings={name: x.sharding for name, x in like.items()})(jax.random.key(0))
    with CheckpointWriter(Path(options.path)) as writer:
        writer.save(1, tree, {})
    return {}


def read(options: argparse.Namespace) -> dict[str, Any]:
    """Restores the state of `memory` on a 4x2 mesh."""
    import jax

    from pjax_prim.checkpoint import CheckpointFolder

    checkpoints = CheckpointFolder(Path(options.path))
    like = _sharded(options, (4, 2))
    checkpoints.verify(1)
    before = _memory("VmRSS")
    tree = jax.block_until_ready(checkpoints.restore(1, like))
    size = sum(x.nbytes for x in tree.values())
    peak = _memory("VmHWM")
    return {
        "state_gb": size / 1e9,
        "before_gb": before / 1e9,
        "peak_gb": peak / 1e9,
        "peak_over_before_gb": (peak - before) / 1e9,
    }


def _memory(field: str) -> int:
    """Resident (VmRSS) or peak resident (VmHWM) bytes of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


TASKS = {"blocking": blocking, "throughput": throughput, "memory": memory, "write": write, "read": read}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=tuple(TASKS), metavar="|".join(list(TASKS)[:3]))
    parser.add_argument("--data-dir", help="folder of MNIST; without it digits are used")
    parser.add_argument("--dir", help="where to write (default: the system's folder for temporary files)")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batches < 15:
        parser.error(f"--batches: expected at least 15, three saves, given {options.batches}")
    if options.dir is not None:
        Path(options.dir).mkdir(parents=True, exist_ok=True)
    print(json.dumps(TASKS[options.task](options)))


if __name__ == "__main__":
    main()
