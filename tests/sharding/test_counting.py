"""Loops in compiled programs: how often they run, and what that adds."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from pjax_prim.sharding import collectives, make_mesh
from pjax_prim.sharding.counting import repeated
from pjax_prim.sharding.program import Program

LAYERS, WIDTH, ROWS = 5, 24, 16


def layers(weights: jax.Array, x: jax.Array, unroll: int) -> jax.Array:
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights, unroll=unroll)[0]


def compiled(unroll: int) -> Any:
    def loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(layers(weights, x, unroll))

    shapes = jnp.zeros((LAYERS, WIDTH, WIDTH), jnp.float32), jnp.zeros((ROWS, WIDTH), jnp.float32)
    return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()


def test_a_loop_counts_as_its_iterations() -> None:
    """One product forward and two backward in each layer, as in the program without the loop."""
    loop, unrolled = compiled(1), compiled(LAYERS)
    program = Program.parse(loop.as_text())
    flops, accessed = repeated(program)
    assert flops == (LAYERS - 1) * 3 * 2 * ROWS * WIDTH**2
    assert repeated(Program.parse(unrolled.as_text())) == (0, 0)
    whole = loop.cost_analysis()["flops"] + flops
    assert whole == pytest.approx(unrolled.cost_analysis()["flops"], rel=0.1)
    # At least a read of each layer's weights in both directions and of what they are multiplied with.
    assert accessed > (LAYERS - 1) * 4 * (2 * WIDTH**2 + 3 * ROWS * WIDTH)
    assert accessed < 3 * unrolled.cost_analysis()["bytes accessed"]


def test_collectives_of_a_loop_count_as_its_iterations() -> None:
    mesh = make_mesh("data=8")
    divided = NamedSharding(mesh, PartitionSpec(None, "data"))
    whole = NamedSharding(mesh, PartitionSpec())
    step = jax.jit(lambda w, x: layers(w, x, 1), in_shardings=(divided, whole), out_shardings=whole)
    shapes = jnp.zeros((LAYERS, WIDTH, WIDTH), jnp.float32), jnp.zeros((ROWS, WIDTH), jnp.float32)
    found = collectives(step.lower(*shapes).compile().as_text())
    looped = [x for x in found if x.looped]
    assert looped and all(x.times == LAYERS for x in looped)


def test_a_loop_of_any_length_counts_once() -> None:
    def halve(w: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda w: jnp.sum(w) > 1, lambda w: w @ w / 2, w)

    program = Program.parse(jax.jit(halve).lower(jnp.zeros((8, 8), jnp.float32)).compile().as_text())
    assert program.open_loops == 1 and program.looped == program.open_ended
    assert repeated(program) == (0, 0)


TPU = """
%cond (p: (s32[], f32[4,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  %p = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}
%body (q: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %q = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%q), index=1
  %k = f32[8,8]{1,0} constant({...})
  %product = f32[4,8]{1,0} convolution(%x, %k), dim_labels=bf_io->bf
  %images = f32[2,6,6,3]{3,2,1,0} constant({...})
  %filters = f32[3,3,3,5]{3,2,1,0} constant({...})
  %same = f32[2,6,6,5]{3,2,1,0} convolution(%images, %filters), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
  %stacks = f32[4,2,3]{2,1,0} constant({...})
  %others = f32[4,3,5]{2,1,0} constant({...})
  %stacked = f32[4,2,5]{2,1,0} convolution(%stacks, %others), window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf
  ROOT %out = (s32[]{:T(128)}, f32[4,8]{1,0}) tuple(%x, %product)
}
ENTRY %main (a: f32[4,8]) -> (s32[], f32[4,8]) {
  %a = f32[4,8]{1,0} parameter(0)
  %zero = s32[]{:T(128)} constant(2)
  %start = s32[]{:T(128)} copy(%zero)
  %both = (s32[]{:T(128)}, f32[4,8]{1,0}) tuple(%start, %a)
  ROOT %w = (s32[]{:T(128)}, f32[4,8]{1,0}) while(%both), condition=%cond, body=%body
}
"""  # noqa: E501


def test_the_tpu_compiler_s_loops_and_products() -> None:
    """Its loops do not say their lengths, and its products are convolutions: an output at the edge has fewer
    pairs, and a batch axis is one along which every output has one."""
    program = Program.parse(TPU)
    assert program.times["body"] == 7 - 2 and not program.open_loops
    plain = 2 * 4 * 8 * 8
    padded = 2 * 2 * 3 * 5 * (3 * 6 - 2) ** 2
    batched = 2 * 4 * 2 * 3 * 5
    assert repeated(program)[0] == 4 * (plain + padded + batched)
