"""A language model in few bits: displacement beside straight-through gradients and PARQ-like rounding.

    python -m benchmarks.hard.language --data-dir DIR

The model of `examples/hard/low_bit.py` with nanoGPT's small recipe (2000 batches of 12 windows of 64
characters; AdamW along a cosine to a tenth of the rate, gradients clipped). All methods start from the
same weights and see the same windows. Losses are of the whole test text, in nats a character. A run that
is in the folder of results is not run again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.data import load

from .estimators import estimated, straight_through
from .networks import example

BATCH_SIZE, LENGTH, WARMUP, EVERY = 12, 64, 100, 500


def clipped(x: Array, t: Array) -> Array:
    """The derivative of the identity from -1 to 1, and 0 outside (the hard tanh)."""
    return jnp.where(jnp.abs(x) <= 1, t, jnp.zeros_like(t))


def annealed(x: Array, progress: Array) -> Array:
    """The proximal map of PARQ (arXiv 2503.15748): between levels it rises more steeply as time goes on.

    At first the identity, in the end rounding; its inverse slope falls along a sigmoid. Gradients take it
    for the identity.
    """
    inverse = _mirrored_sigmoid(progress)
    middle = jnp.floor(x) + 0.5
    value = middle + jnp.clip((x - middle) / jnp.maximum(inverse, 1e-6), -0.5, 0.5)
    return x + jax.lax.stop_gradient(jnp.clip(value, -1, 1) - x)


def _mirrored_sigmoid(progress: Array, steepness: float = 10.0) -> Array:
    """A sigmoid that falls from 1 at 0 to 0 at 1."""
    low, high = (jax.nn.sigmoid(steepness * (at - 0.5)) for at in (0.0, 1.0))
    return (high - jax.nn.sigmoid(steepness * (progress - 0.5))) / (high - low)


METHODS: dict[str, dict[str, Any]] = {
    "displacement": {},
    "straight-through": {
        "hard": lambda progress: straight_through(jnp.round),
        "activation": estimated(jnp.sign, clipped),
    },
    "PARQ-like": {"hard": lambda progress: partial(annealed, progress=progress)},
    "float": {},
}
"""What takes the place of `jnp.round` at a time from 0 to 1, and of `jnp.sign`; "float" rounds nothing."""
VARIANTS = {"ternary weights": ("ternary", "gelu"), "binary activations": ("float", "binary")}


def optimiser(rate: Any, batches: int) -> optax.GradientTransformation:
    """That of nanoGPT's recipe."""
    of_one = optax.warmup_cosine_decay_schedule(1 / (WARMUP + 1), 1.0, WARMUP, batches, 0.1)
    decayed = partial(jax.tree.map, lambda x: x.ndim >= 2)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(lambda count: rate * of_one(count), b2=0.99, weight_decay=0.1, mask=decayed),
    )


class Run:
    """One variant by one method: a training, and its test losses on the way."""

    def __init__(self, variant: str, method: str, folder: Path, batches: int):
        self.batches = batches
        data = load("text", folder, length=LENGTH, held_out=0.1)
        self.tokens = jnp.asarray(np.append(data.train_x.ravel(), data.train_y[-1, -1]))
        self.test = jnp.asarray(data.test_x), jnp.asarray(data.test_y)
        weights, activations = VARIANTS[variant]
        settings = METHODS[method]
        if method == "float":
            weights, activations = "float", "gelu"
        if activations == "binary" and "activation" in settings:
            activations = settings["activation"]
        self.make = lambda key: example("low_bit").network(
            data.classes, LENGTH, weights, activations, key=key
        )
        self.hard: Callable[[Any], Any] | None = settings.get("hard")
        both = pjp.value_and_displacement if method == "displacement" else eqx.filter_value_and_grad
        self.direct = both(self.loss)
        self.some = jax.jit(self._some)
        self.judge = jax.jit(self._judge)

    def loss(self, model: Any, windows: Any, progress: Any) -> Any:
        hard = {} if self.hard is None else {"hard": self.hard(progress)}
        used = model.used(**hard)
        return jnp.mean(pjp.cross_entropy(jax.vmap(used)(windows[:, :-1]), windows[:, 1:]))

    def windows(self, key: Any, number: Any) -> Any:
        """Those of a batch, each with the character that follows."""
        last = len(self.tokens) - LENGTH
        starts = jax.random.randint(jax.random.fold_in(key, number), (BATCH_SIZE, 1), 0, last)
        return self.tokens[starts + jnp.arange(LENGTH + 1)]

    def _some(self, carry: Any, key: Any, first: Any, rate: Any) -> Any:
        update = optimiser(rate, self.batches).update

        def step(carry: Any, number: Any) -> Any:
            model, memory = carry
            value, direction = self.direct(model, self.windows(key, number), number / self.batches)
            updates, memory = update(direction, memory, model)
            return (eqx.apply_updates(model, updates), memory), value

        return jax.lax.scan(step, carry, first + jnp.arange(EVERY))

    def _judge(self, model: Any) -> Any:
        used = model.used()

        def one(window: Any) -> Any:
            x, y = window
            return -jnp.take_along_axis(jax.nn.log_softmax(used(x)), y[:, None], -1)

        return jnp.mean(jax.lax.map(one, self.test, batch_size=64))

    def __call__(self, rate: float, seed: int) -> dict[str, Any]:
        model = self.make(jax.random.key(seed))
        carry = model, optimiser(rate, self.batches).init(model)
        losses, seconds = [], 0.0
        for first in range(0, self.batches, EVERY):
            started = time.perf_counter()
            carry, _ = jax.block_until_ready(
                self.some(carry, jax.random.key(seed + 1), first, jnp.float32(rate))
            )
            seconds += time.perf_counter() - started
            losses.append(float(self.judge(carry[0])))
        settings = {"rate": rate, "seed": seed, "batches": self.batches}
        return {**settings, "nats": losses[-1], "losses": losses, "seconds": seconds}


def agreement(folder: Path, batches: int = 60) -> tuple[float, float]:
    """The cosine of displacement and straight-through gradient of the ternary matrices, and that of the
    updates that the optimiser makes of them: means over the last 20 batches of a run by the latter."""
    methods = "displacement", "straight-through"
    runs = [Run("ternary weights", method, folder, 1000) for method in methods]
    model, optimise = runs[0].make(jax.random.key(0)), optimiser(1e-3, 1000)

    def cosine(trees: Sequence[Any]) -> Array:
        a, b = (
            jnp.concatenate(
                [jnp.ravel(getattr(t.network.blocks, n).weight) for n in example("low_bit").MATRICES]
            )
            for t in trees
        )
        return jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))

    def step(carry: Any, number: Any) -> Any:
        model, memories = carry
        windows = runs[0].windows(jax.random.key(1), number)
        directions = [run.direct(model, windows, 0.0)[1] for run in runs]
        pairs = [optimise.update(d, m, model) for d, m in zip(directions, memories, strict=True)]
        updates, memories = zip(*pairs, strict=True)
        return (eqx.apply_updates(model, updates[1]), memories), (cosine(directions), cosine(updates))

    memory = optimise.init(model)
    _, found = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(batches)))((model, (memory,) * 2))
    of_directions, of_updates = (float(jnp.mean(x[-20:])) for x in found)
    return of_directions, of_updates


def table(results: Sequence[dict[str, Any]]) -> str:
    """In Markdown: test losses, their means over seeds."""
    lines = ["| model | method | batches | rate | nats | seeds | seconds |", "|---" * 7 + "|"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in results:
        groups.setdefault(tuple(run[k] for k in ("variant", "method", "batches", "rate")), []).append(run)
    for (variant, method, batches, rate), runs in groups.items():
        nats = statistics.mean(run["nats"] for run in runs)
        seconds = statistics.mean(run["seconds"] for run in runs)
        lines.append(
            f"| {variant} | {method} | {batches} | {rate:g} | {nats:.4f} | {len(runs)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hard.language",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of the one .txt file")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["displacement", "straight-through", "PARQ-like"]
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3], help="all of them are run")
    parser.add_argument("--batches", type=int, default=2000, help=f"a multiple of {EVERY}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--agreement", action="store_true", help="print cosines, and nothing else")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/hard"))
    options = parser.parse_args(arguments)
    if options.agreement:
        print("cosines of directions and of updates:", *agreement(options.data_dir))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "language.json"
    results: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    done = {(run["variant"], run["method"], run["batches"], run["rate"], run["seed"]) for run in results}
    for variant in options.variants:
        for method in options.methods:
            if method == "PARQ-like" and variant != "ternary weights":
                continue
            run = Run(variant, method, options.data_dir, options.batches)
            for rate in options.rates:
                for seed in options.seeds:
                    if (variant, method, options.batches, rate, seed) in done:
                        continue
                    found = {"variant": variant, "method": method, **run(rate, seed)}
                    results.append(found)
                    file.write_text(json.dumps(results, indent=1) + "\n")
                    print(
                        f"{variant}, {method}, rate {rate:g}, seed {seed}: {found['nats']:.4f} nats",
                        f"{found['seconds']:.0f} s",
                        flush=True,
                    )
    (options.out / "language.md").write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
