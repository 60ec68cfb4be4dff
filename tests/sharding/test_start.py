"""What a host takes to make a model in parts, and to restore it: its own parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
import pjax_prim as pjp
from pathlib import Path
from pjax_prim.models import Transformer
from pjax_prim.checkpoint import CheckpointFolder, CheckpointWriter
from pjax_prim.training import Method, Task, TrainConfig
from pjax_prim.training.parts import Parts

what, folder = sys.argv[1], Path(sys.argv[2])

def parts_of(width):
    def model(key):
        return Transformer(256, 16, width, 28, heads=8, inner=4 * width, gated=True, positions="rotary",
                           bias=False, dtype=jnp.float32, key=key)

    def loss(model, batch, key):
        return jnp.mean(jax.vmap(model)(batch) ** 2)

    task = Task(model=model, loss=loss, train=[np.zeros((8, 16), np.int32)])
    return Parts.make(task, TrainConfig(method=Method(solver="sgd"), mesh="fsdp=8"))

def used(kind="VmHWM"):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))

jax.block_until_ready(parts_of(64).init().model.norm)  # JAX itself, and what compiling takes
parts = parts_of(1024)
before = used()
if what == "make":
    state = parts.init()
else:
    state = CheckpointFolder(folder).restore(1, parts.before())
jax.block_until_ready(state.model)
peak = used()
leaves = [x for x in jax.tree.leaves(state.model) if isinstance(x, jax.Array)]
shards = [shard.data.nbytes for x in leaves for shard in x.addressable_shards]
print(json.dumps({"before": before, "peak": peak, "shards": sum(shards),
                  "model": sum(x.nbytes for x in leaves)}))
if what == "make":
    with CheckpointWriter(folder) as writer:
        writer.save(1, state, {})
"""


@pytest.mark.slow
def test_no_more_than_the_parts_of_a_host(tmp_path: Path) -> None:
    """On 8 devices of one host: 1.2 times what they hold, beside JAX."""
    for what in ("make", "restore"):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
        arguments = [sys.executable, "-c", CHILD, what, str(tmp_path / "checkpoints")]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["model"] > 1.8e9 and found["shards"] == pytest.approx(found["model"], rel=0.01)
        assert found["peak"] - found["before"] <= 1.2 * found["shards"], (what, found)
