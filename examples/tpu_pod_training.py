"""Train over a TPU pod: the same command on every host.

On Cloud TPU the hosts find each other (`--coordinator auto`); the run folder is one that all of them see:

    gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all \
        --command "python tpu_pod_training.py --coordinator auto --run-dir /shared/run --mesh data=-1,model=4"

Meshes that suit the slices (`pjax-prim aot` tells memory and time before one is rented):

    v5e-256  v5e:16x16   16 GiB a chip, 2D torus, 8 chips a host   data=16,model=16 or data=64,model=4
    v5p-1024 v5p:8x8x8   95 GiB a chip, 3D torus, 4 chips a host   data=64,model=8
    v6e-256  v6e:16x16   32 GiB a chip, 2D torus, 8 chips a host   data=64,model=4

Keep `model` within one axis of the torus, and let `data` have the rest. Several slices: add `dcn.data=N`.
Without a TPU the file runs as it is, on this machine's devices:

    JAX_NUM_CPU_DEVICES=8 python examples/tpu_pod_training.py --run-dir /tmp/run --mesh data=4,model=2
"""

import argparse
import contextlib
from pathlib import Path
from typing import Any

import jax
from pjax_prim.sharding import processes

from pjax_prim.training import RunFolder, TrainConfig, train


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="a folder that all hosts see")
    parser.add_argument("--mesh", default="data=-1", help="how the chips are arranged")
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 256])
    parser.add_argument("--batch-size", type=int, default=256, help="over all chips")
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--coordinator", help="HOST:PORT, or auto: as the environment says")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--process-timeout", type=float, default=300.0, help="seconds to wait for others")
    parser.add_argument("--compile-cache", type=Path, help="where compiled steps are kept between runs")
    parser.add_argument("--profile", type=int, nargs=2, metavar=("FIRST", "LAST"), help="batches to profile")
    return parser.parse_args()


class Profile:
    """Records batches FIRST to LAST (FIRST is at least 2) on the first host, for xprof or TensorBoard."""

    def __init__(self, folder: Path, window: list[int] | None):
        self.folder, self.window = folder, window
        self.stack = contextlib.ExitStack()

    def __call__(self, row: dict[str, Any]) -> None:
        if jax.process_index() == 0:
            print(row, flush=True)
            if self.window and row["batch"] == self.window[0] - 1:
                self.stack.enter_context(jax.profiler.trace(self.folder))
            if self.window and row["batch"] == self.window[1]:
                self.stack.close()


def main() -> None:
    options = parse()
    if options.compile_cache is not None:
        # Before the first compilation: a restarted run does not compile again.
        jax.config.update("jax_compilation_cache_dir", str(options.compile_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    group = processes.start(
        options.coordinator, options.num_processes, options.process_id, timeout=options.process_timeout
    )
    config = TrainConfig(
        solver="ap",
        hidden=tuple(options.hidden),
        batch_size=options.batch_size,
        batches=options.batches,
        mesh=options.mesh,
    )
    profile = Profile(options.run_dir / "profile", options.profile)
    # A host that is restarted, or a run started again on another mesh, goes on from the last checkpoint.
    result = train(config, RunFolder(options.run_dir), resume=True, group=group, on_batch=profile)
    if group.is_first:
        print(result.summary())


if __name__ == "__main__":
    main()
