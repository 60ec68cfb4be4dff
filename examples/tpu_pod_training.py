"""Train over a TPU pod: the same command on every host.

On Cloud TPU the hosts find each other (`--coordinator auto`); the run folder is one that all of them see:

    gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all --command "pjax-prim train \
        tpu_pod_training.py --coordinator auto --run-dir /shared/run --resume --mesh fsdp=-1 \
        --width 4096 --batch-size 4096"

A host that is restarted, or a run started again on another mesh, goes on from the last checkpoint;
`--compile-cache DIR` keeps compiled steps, `--profile 20 25` records some batches. Meshes that suit the
slices (`pjax-prim aot tpu_pod_training.py --topology v5e:16x16 --mesh data=64,model=4 ...` tells memory and
time before one is rented):

    v5e-256  v5e:16x16   16 GiB a chip, 2D torus, 8 chips a host   fsdp=256 or fsdp=64,model=4
    v5p-1024 v5p:8x8x8   95 GiB a chip, 3D torus, 4 chips a host   fsdp=512
    v6e-256  v6e:16x16   32 GiB a chip, 2D torus, 8 chips a host   fsdp=256 or fsdp=64,model=4

`fsdp` holds parameters and the optimiser's memory in parts and gathers one block at a time. Where a batch has
fewer examples than chips, keep `model` within one axis of the torus. Slices: `data=N,dcn.data=N,fsdp=-1`.
Without a TPU the file runs as it is, on this machine's devices:

    pjax-prim prepare text.txt --to tokens.bin
    JAX_NUM_CPU_DEVICES=8 pjax-prim train examples/tpu_pod_training.py --run-dir /tmp/run \
        --mesh data=4,model=2
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import pjax_prim as pjp
from pjax_prim.data import InOrder, Shuffled, TokenFile
from pjax_prim.models import Transformer
from pjax_prim.training import Task


def task(
    tokens: Path = Path("tokens.bin"),
    length: int = 64,
    width: int = 64,
    blocks: int = 2,
    batch_size: int = 32,
) -> Task:
    """A language model on a file of tokens (`pjax-prim prepare text.txt --to tokens.bin`).

    Args:
        tokens: the file. Every host maps it and reads the windows of its own rows alone.
        length: of a window.
        width: of the model.
        blocks: how many.
        batch_size: windows in a batch, over all chips.
    """
    train, test = TokenFile(tokens, length, 0.0, 0.9), TokenFile(tokens, length, 0.9, 1.0)

    def model(key: jax.Array) -> eqx.Module:
        return Transformer(train.classes, length, width, blocks, dtype=jnp.float32, key=key)

    def loss(model: Any, batch: tuple[jax.Array, jax.Array], key: jax.Array | None) -> Any:
        inputs, targets = batch
        logits = jax.vmap(model)(inputs)
        return pjp.cross_entropy(logits, targets), {"accuracy": jnp.argmax(logits, -1) == targets}

    return Task(
        model=model,
        loss=loss,
        train=lambda seed: Shuffled(train, batch_size, seed=seed),
        evaluate={"test": InOrder(test, batch_size)},
        nats=True,
    )
