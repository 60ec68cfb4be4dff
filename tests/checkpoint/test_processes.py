"""Checkpoints of several processes: saved by two, restored by one; saved by one, restored by two."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pjax_prim.checkpoint import CheckpointFolder, CheckpointWriter
from pjax_prim.errors import CheckpointError

PROGRAM = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
port, process, one, two = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process), initialization_timeout=120)
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pjax_prim.checkpoint import CheckpointFolder, CheckpointWriter, Retention, set_aside
from pjax_prim.errors import CheckpointError

mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
sharding = NamedSharding(mesh, PartitionSpec("a", "b"))
whole = NamedSharding(mesh, PartitionSpec())
like = {
    "x": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=sharding),
    "n": jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
}
folder = CheckpointFolder(Path(one))
assert folder.choose(allow_older=True) == 1  # one process sees the damage of 2, both pass it over
try:
    folder.choose()
except CheckpointError as error:
    print(error)
tree = folder.restore(1, like)
assert tree["x"].sharding == sharding
assert {shard.data.shape for shard in tree["x"].addressable_shards} == {(4, 2)}
print(set_aside(folder, 1))
with CheckpointWriter(Path(two), Retention(latest=2)) as writer:
    step = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    for number in range(1, 5):
        tree = step(tree)
        writer.save(number, tree, {"number": number})
        tree = step(tree)
jax.distributed.shutdown()
"""


def test_two_processes_and_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    x = jnp.arange(32, dtype=jnp.float32).reshape(8, 4)
    eight = NamedSharding(Mesh(np.array(jax.devices()), ("a",)), PartitionSpec("a"))
    tree = {"x": jax.device_put(x, eight), "n": jnp.zeros((), jnp.int32)}
    with CheckpointWriter(one) as writer:
        for step in (1, 2):
            writer.save(step, tree, {})
    (one / "2" / "state" / "_METADATA").write_text("{}")

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, port, str(index), one, two],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    for output in outputs:
        assert "damaged" in output and "2.damaged" in output
    assert CheckpointFolder(one).steps() == [1]

    folder = CheckpointFolder(two)
    assert folder.steps() == [3, 4]
    for step in folder.steps():
        folder.verify(step)
        restored = folder.restore(step, tree)
        np.testing.assert_array_equal(restored["x"], x + 2 * step - 1)
        assert restored["x"].sharding == eight and int(restored["n"]) == 2 * step - 1
        assert folder.info(step)["number"] == step
    (two / "4" / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(CheckpointError, match="4/state/manifest.ocdbt: cannot be read"):
        folder.verify(4)


STOPPED = """
import os, signal, sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
port, process, stopped, place, work = sys.argv[1:]
from pjax_prim.sharding.processes import start
group = start(f"localhost:{port}", 2, int(process), 8.0)
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pjax_prim.checkpoint import CheckpointFolder, CheckpointWriter, set_aside

whole = NamedSharding(Mesh(np.array(jax.devices()), ("a",)), PartitionSpec())
tree = jax.jit(lambda: {"x": jnp.ones(4)}, out_shardings=whole)()
with CheckpointWriter(Path(place)) as writer:
    for step in (1, 2, 3):
        with group.watching(work):
            if step == 3 and process == stopped:
                os.kill(os.getpid(), signal.SIGSTOP)
            if step == 3 and work == "set_aside":
                set_aside(CheckpointFolder(Path(place)), 1)
            writer.save(step, tree, {})
            writer.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("work", "stopped"), [("save", 1), ("set_aside", 1), ("save", 0)])
def test_a_stopped_process_holds_nobody_up(work: str, stopped: int, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STOPPED, port, str(index), str(stopped), tmp_path, work],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        _, err = processes[1 - stopped].communicate(timeout=240)
        assert processes[1 - stopped].returncode == 70, err
        assert f"{work}: process {1 - stopped} waited 8 s for the others" in err
        assert processes[stopped].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert CheckpointFolder(tmp_path).steps() == [1, 2]
