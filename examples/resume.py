"""Save a training loop of your own, stop it, and continue it bit for bit.

    python examples/resume.py RUN        # trains; stop it by SIGTERM, or kill it, at any time
    python examples/resume.py RUN        # continues

Any tree of arrays is a state: here a model and a batch number.
The data need no state of their own, since batch `n` is a function of the seed and `n`.
"""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

import pjax_prim as pjp
from pjax_prim.checkpoint import EXIT_CODE, CheckpointWriter, FolderLock, Preemption, Retention, SavePolicy
from pjax_prim.data import batch, load

BATCHES, BATCH_SIZE, STEPS = 40, 128, 20


class State(eqx.Module):
    """All that the loop carries."""

    model: eqx.nn.MLP
    batch: Int[Array, ""]


def loss(model, x, labels):
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


@eqx.filter_jit
def step(state, x, labels):
    solver = pjp.AlternatingProjections()
    solution = pjp.solve(loss, state.model, x, labels, solver=solver, max_steps=STEPS)
    return State(solution.params, state.batch + 1), solution.stats["gap"]


def main(run: Path) -> int:
    digits = load("digits")
    state = State(eqx.nn.MLP(64, 10, width_size=32, depth=2, key=jax.random.key(0)), jnp.array(0))
    policy = SavePolicy(every=5)
    run.mkdir(parents=True, exist_ok=True)
    with FolderLock(run), Preemption() as preemption, CheckpointWriter(run, Retention(latest=2)) as writer:
        if writer.folder.steps():
            newest = writer.folder.choose()  # verified: every file has its checksum
            state = writer.folder.restore(newest, like=state)
            print(f"continues after batch {newest}")
        while (done := int(state.batch)) < BATCHES:
            state, gap = step(state, *batch(digits, BATCH_SIZE, seed=0, step=done))
            done += 1
            stop = preemption.reached()
            if stop or done == BATCHES or policy.is_due(done, writer.last_save):
                writer.save(done, state, {"gap": float(gap)})  # returns at once, writes in the background
                print(f"batch {done}: gap {gap:.3f}, saved")
            if stop:
                return EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/resume")))
