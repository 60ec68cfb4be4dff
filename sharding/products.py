"""Products whose parameter lies still: its parts stay on their devices, and activations move.

Where a parameter is divided along the axis that a product contracts (`fsdp`), each device multiplies its part
with the same part of all rows. What the devices have are terms of the products, and their sum leaves each
device its rows. Where there are few rows this moves less than gathering the parameter does, and no device
ever holds more of the parameter than its part.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from ..graph import ConstraintGraph
from ..graph.graph import Node
from ..rules.linear import EmptyLinear, Linear
from .labelling import GraphLabels
from .mesh import MODEL
from .propagation import Labels
from .rules import axis_names, divisor

Names = tuple[str, ...]
Product = Callable[[str, Array, Array], Array]
"""`einsum` in the precision of a projection."""


@dataclass(frozen=True)
class Stationary:
    """A layout of `project_linear`: rows of the one operand move, the other operand does not.

    It is called as `primitives.linear.together` is. In canonical form the operands are (..., G, P, K) and
    (..., G, Q, K); each attribute holds the names of the mesh axes that divide an axis.

    - `side`: which operand lies still.
    - `batch`: of G.
    - `rows`: of the other operand's rows, as its producer and the output have them.
    - `features`: of the contracted axis of the other operand, as its producer has it.
    - `columns`: of the rows of the operand that lies still.
    - `contracted`: of the contracted axis of the operand that lies still.
    """

    mesh: Mesh
    side: int
    batch: Names
    rows: Names
    features: Names
    columns: Names
    contracted: Names

    def __str__(self) -> str:
        return f"operand {self.side} lies still"

    @property
    def kept(self) -> Names:
        """The mesh axes that divide the rows while products are formed."""
        return tuple(name for name in self.rows if name not in self.contracted)

    def place(self, operands: Sequence[Array], linear: Linear) -> tuple[Array, ...]:
        """The operands as the constraint has them, where their producers have them."""
        own = [(self.batch, self.rows, self.features), (self.batch, self.columns, self.contracted)]
        return tuple(
            lax.with_sharding_constraint(
                x, NamedSharding(self.mesh, linear.original_spec(own[side == self.side], side))
            )
            for side, x in enumerate(operands)
        )

    def __call__(
        self, product: Product, a: Array, b: Array
    ) -> tuple[Array, Callable[[Array, tuple[bool, bool]], tuple[Array | None, Array | None]]]:
        operands = a, b
        still, moving = operands[self.side], operands[1 - self.side]
        row, column = "qp" if self.side == 0 else "pq"
        # First in parts of rows, of which no device has two, then all rows of a part of the features.
        # Without the barrier what else reads the rows would read them from there.
        spread = self._at(lax.optimization_barrier(moving), (*self.kept, *self.columns), self.contracted)
        moving = self._at(spread, self.kept, self.contracted)
        of_moving, of_still = (self.kept, self.contracted), (self.columns, self.contracted)
        of_e, of_output = (self._ordered(rows, self.columns) for rows in (self.kept, self.rows))

        def multiply(
            subscripts: str, x: Array, y: Array, places: Sequence[tuple[Names, Names]], summed: Names
        ) -> Array:
            """The product of each device's parts, and its sum over some mesh axes: a new first axis.

            The compiler makes the sum: of one inside of `shard_map` that is scattered it makes a whole one,
            and of a product whose result is scattered a loop that sends twice as much.
            """
            *given, result = (self._spec(a, *names) for names in places)
            terms = jax.shard_map(
                lambda x, y: product(subscripts, x, y)[None],
                mesh=self.mesh,
                in_specs=tuple(given),
                out_specs=PartitionSpec(summed or None, *result),
            )(x, y)
            return jnp.sum(terms, 0)

        output = multiply(
            f"...{row}k,...{column}k->...pq", moving, still, (of_moving, of_still, of_e), self.contracted
        )

        def moves(e: Array, wanted: tuple[bool, bool]) -> tuple[Array | None, Array | None]:
            e = self._at(e, *of_e)
            found: list[Array | None] = [None, None]
            if wanted[1 - self.side]:
                places = of_e, of_still, of_moving
                of_rows = multiply(f"...pq,...{column}k->...{row}k", e, still, places, self.columns)
                of_rows = self._at(of_rows, (*self.kept, *self.columns), self.contracted)
                found[1 - self.side] = self._at(of_rows, self.rows, self.features)
            if wanted[self.side]:
                places = of_e, of_moving, of_still
                mean = multiply(f"...pq,...{row}k->...{column}k", e, moving, places, self.kept)
                found[self.side] = self._at(mean, *of_still)
            return found[0], found[1]

        return self._at(output, *of_output), moves

    def _ordered(self, rows: Names, columns: Names) -> tuple[Names, Names]:
        """The names for an output's last two axes."""
        return (columns, rows) if self.side == 0 else (rows, columns)

    def _spec(self, x: Array, *last: Names) -> PartitionSpec:
        entries = (None,) * (x.ndim - 3), self.batch, *last
        return PartitionSpec(*entries[0], *(names or None for names in entries[1:]))

    def _at(self, x: Array, *last: Names) -> Array:
        return lax.with_sharding_constraint(x, NamedSharding(self.mesh, self._spec(x, *last)))


def choose_stationary(
    graph: ConstraintGraph,
    labels: GraphLabels,
    parameters: Mapping[int, Labels],
    fixed: Container[int],
    mesh: Mesh,
) -> tuple[dict[int, Labels], dict[int, Stationary]]:
    """Which products leave their parameter where it lies.

    **Arguments:** `labels` of a graph in use; those of its `parameters` between their uses, by node, of which
    some are `fixed`.

    **Returns:** these labels, where a parameter is to lie otherwise; and the layouts, by node. A product is
    among them if this moves fewer numbers than gathering its parameter.
    """
    moved: dict[int, Labels] = {}
    found: dict[int, Stationary] = {}
    for index, node in enumerate(graph.nodes):
        if not isinstance(node.constraint, Linear) or isinstance(node.constraint, EmptyLinear):
            continue
        for side, operand in enumerate(node.operands):
            producer = operand.producers[0] if len(operand.producers) == 1 else -1
            if producer not in parameters or operand.path or len(graph.uses[producer]) > 1:
                continue
            places = [parameters[producer]]
            if producer not in fixed:
                places += _along_contracted(node.constraint, side, labels.outputs[producer], mesh)
            layouts = [(x, _layout(graph, labels, index, side, x, mesh)) for x in places]
            costs = [(_excess(node, y), x, y) for x, y in layouts if y is not None]
            excess, place, layout = min(costs, key=lambda x: x[0], default=(0, (), None))
            if layout is not None and excess < 0:
                found[index] = layout
                moved.update({} if place == parameters[producer] else {producer: place})
                break
    return moved, found


def _along_contracted(linear: Linear, side: int, used: Labels | None, mesh: Mesh) -> list[Labels]:
    """The labels of a parameter whose rows `model` does not divide: it divides the contracted axis."""
    parts, (axis, *_) = mesh.shape.get(MODEL, 1), linear.axes(side)[2]
    if parts == 1 or used is None or any(used) or linear.shapes[side][axis] % parts:
        return []
    return [tuple(MODEL if i == axis else None for i in range(len(used)))]


def _layout(
    graph: ConstraintGraph, labels: GraphLabels, index: int, side: int, at_rest: Labels, mesh: Mesh
) -> Stationary | None:
    """The layout of a product whose operand lies `at_rest`; None where it has none."""
    node = graph.nodes[index]
    linear, other = node.constraint, 1 - side
    assert isinstance(linear, Linear) and node.output is not None
    output, moving = labels.outputs[index], labels.means[index][other]
    if output is None:
        return None
    sizes = [len(group) for group in linear.axes(0)[:1]] + [len(linear.axes(i)[1]) for i in (0, 1)]
    ends = [sum(sizes[:i]) for i in range(4)]
    groups = [
        *(output[start:end] for start, end in zip(ends, ends[1:], strict=False)),
        *([at_rest[axis] for axis in axes] for axes in linear.axes(side)),
        *([moving[axis] for axis in axes] for axes in linear.axes(other)),
    ]
    if any(any(group[1:]) for group in groups):  # an axis of several, of which not the first is divided
        return None
    names = [axis_names(group[0]) if len(group) else () for group in groups]
    batch, free, own, others = names[0], names[1:3], names[3:6], names[6:9]
    rows, columns, contracted = free[other], free[side], own[2]
    layout = Stationary(mesh, side, batch, rows, others[2], columns, contracted)
    scattered = [name for name in contracted if name in rows]
    fits = (
        contracted
        and (own[0], own[1]) == (batch, columns)
        and (others[0], others[1]) == (batch, rows)
        and list(rows[len(rows) - len(scattered) :]) == scattered
        and not set(contracted) & {*batch, *columns}
    )
    p = math.prod(linear.shapes[other][axis] for axis in linear.axes(other)[1])
    return layout if fits and p % divisor((*layout.kept, *columns), mesh) == 0 else None


def _excess(node: Node, layout: Stationary) -> float:
    """How many numbers a layout moves more than gathering the operand that would lie still does."""
    linear = node.constraint
    assert isinstance(linear, Linear)
    other = 1 - layout.side
    p, q, k = (
        math.prod(linear.shapes[side][axis] for axis in linear.axes(side)[group])
        for side, group in ((other, 1), (layout.side, 1), (0, 2))
    )

    def parts(names: Names) -> int:
        return divisor(names, layout.mesh)

    def passed(names: Names, whole: float) -> float:
        """What a device sends where arrays of this size are gathered, or sums of them scattered."""
        return whole * (1 - 1 / parts(names))

    rows, columns = p / parts(layout.rows), q / parts(layout.columns)
    kept, ways = p / parts(layout.kept), 1 if node.operands[other].is_constant else 2
    scattered = tuple(name for name in layout.contracted if name in layout.rows)
    # Of operands that no axis divides in use each device makes the whole mean.
    gathered = (
        passed(scattered, columns * k)
        + passed(layout.rows, columns * k)
        + (ways if layout.columns else 1) * passed(layout.features, rows * k)
    )
    summed = tuple(name for name in layout.contracted if name not in layout.rows)
    lies = (layout.kept, layout.contracted) == (layout.rows, layout.features)
    stationary = (
        (0 if lies else ways * kept * k / parts(layout.contracted))
        + 2 * passed(scattered, kept * columns)
        + 2 * passed(summed, kept * columns)
        + 2 * passed(layout.kept, columns * k / parts(layout.contracted))
    )
    return stationary - gathered
