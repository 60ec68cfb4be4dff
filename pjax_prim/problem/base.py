"""What both forms of a feasibility problem share: consensus, and reading parameters."""

import abc
import copy
import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..finite import sums
from ..graph import ConstraintGraph
from ..graph.graph import Use
from ..graph.infinite import stand_in
from ..graph.ir import Environment, Equation, computing, evaluate, read, widen
from ..graph.operand import Operand
from ..restrictions import AbstractRestriction
from ..rules.constraint import Count, squared_distances
from .placement import Placement, State

Form = Literal["compressed", "expanded", "divided", "consensus"]
Thing = TypeVar("Thing")

Readout = Literal["shadow", "governing"]


class AbstractProblem(abc.ABC):
    """A constraint graph with its constant values.

    **Arguments:** `graph`; `constants`, the values that depend on no parameter (`given`; the attribute of
    this name has finite numbers where the function computes infinite ones); `placement`, where
    arrays lie on a mesh; `restrictions`, of each parameter, or none at all: a parameter's own projection is
    then the nearest point of its set to what its copies ask for.

    - `sums_terms`: whether parameters move by the sum of all terms that a function returns. Where each term
      moves them by itself, terms that pull against each other balance elsewhere than in their sum; a weight
      below zero is then refused, or NaN where it is traced.
    """

    sums_terms: ClassVar[bool] = False

    def __init__(
        self,
        graph: ConstraintGraph,
        constants: Environment,
        placement: Placement | None = None,
        restrictions: Sequence[AbstractRestriction | None] = (),
    ):
        self.graph = graph
        self.restrictions = {
            node: chosen
            for node, chosen in zip(graph.parameters, restrictions, strict=bool(restrictions))
            if node is not None and chosen is not None
        }
        self.given = constants
        self.constants = constants
        if literals := graph.infinite_literals:
            self.constants = stand_in(constants, graph.constant_equations, literals)
        self.placement = placement
        self.factors: Sequence[float] | Array | None = graph.factors or None

    @abc.abstractmethod
    def initial(self, parameters: Sequence[Array]) -> State:
        """The state in which all copies agree with the forward pass."""

    @abc.abstractmethod
    def arrange(
        self, outputs: Sequence[Thing], copies: Sequence[tuple[Thing, ...]]
    ) -> tuple[tuple[Thing, ...], ...]:
        """Puts in the places of a state what belongs to its arrays, such as their shardings.

        **Arguments:** for each node, what belongs to its `outputs` and to its `copies`.
        """

    @abc.abstractmethod
    def cycle(self, state: State) -> tuple[State, list[Array]]:
        """Projects onto one of the graph's sets after another.

        Projecting a set projects each of its nodes (the output target is the mean over its
        consumers of each consumer's own mean over copies; a parameter's projection is that
        mean), then overwrites all inputs of every constraint that a member of the set feeds
        with the present values of their producers.

        **Returns:** the new state, and for each set the squared distance moved, as an array over
        nodes (copies belong to the constraint that consumes them).
        """

    @abc.abstractmethod
    def means(self, state: State) -> Callable[[Use], Array]:
        """Gives for each use of a producer its mean over copies, in the producer's shape."""

    def parameters(self, state: State, readout: Readout) -> list[Array | None]:
        """The parameters that a state stands for; None where one reaches no loss.

        `readout` "governing" gives the parameters' own variables, "shadow" their projection: the
        consensus of all their copies.
        """
        means = self.means(state)

        def read(node: int) -> Array:
            own = state[node][0]
            return own if readout == "governing" else self.target(node, means, lambda: own)

        return [None if node is None else read(node) for node in self.graph.parameters]

    def target(self, node: int, mean: Callable[[Use], Array], present: Callable[[], Array]) -> Array:
        """The consensus value of what a node produces, of a restricted parameter the nearest point to it.

        The mean runs over the consumers that touch an element; an element that nobody uses keeps
        its value.

        **Arguments:** `mean(use)`, over all copies of one use, in the producer's shape; where the
        use does not touch an element it does not count. `present()`, the value the node has now.
        """
        agreed = self._agreed(node, mean, present)
        return self.place_output(node, self.restrict(node, agreed)) if node in self.restrictions else agreed

    def restrict(self, node: int | None, value: Array) -> Array:
        """The nearest point of the set that a parameter is restricted to; other values as they are."""
        chosen = None if node is None else self.restrictions.get(node)
        return value if chosen is None else chosen.project(value)

    def _agreed(self, node: int, mean: Callable[[Use], Array], present: Callable[[], Array]) -> Array:
        if self.factors is not None and len(self.graph.uses[node]) > 1:
            return self.place_output(node, self._weighted_target(node, mean, present))
        touched = self._touched(node)
        means = [value for _, _, value in self._means_of_uses(node, mean)]
        if not means:
            return present()
        total = functools.reduce(operator.add, means)
        value = None
        if isinstance(touched, int | np.ndarray):
            if np.all(touched == 1):
                value = total
            elif np.all(touched > 0):
                value = total / np.asarray(touched, total.dtype)
        if value is None:
            value = jnp.where(touched > 0, total / jnp.maximum(touched, 1), present())
        return self.place_output(node, value)

    def _weighted_target(
        self, node: int, mean: Callable[[Use], Array], present: Callable[[], Array]
    ) -> Array:
        """The mean over consumers, weighted by their factors."""
        assert self.factors is not None
        total: Array | float = 0.0
        weight: Array | float = 0.0
        for consumer, count, value in self._means_of_uses(node, mean):
            factor = self.factors[consumer]
            touched = 1 if isinstance(count, int) else jnp.asarray(count > 0, jnp.result_type(float))
            total, weight = total + factor * value, weight + factor * touched
        if isinstance(total, float):
            return present()
        if self.is_determined(node):
            return (total / weight).astype(total.dtype)
        return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1), present()).astype(total.dtype)

    def _means_of_uses(
        self, node: int, mean: Callable[[Use], Array]
    ) -> list[tuple[int, Array | Count, Array]]:
        """Gives for each use its consumer, how often it uses each element, and its mean; 0 where never."""
        found: list[tuple[int, Array | Count, Array]] = []
        for use in self.graph.uses[node]:
            count = self.uses(use.consumer, use.operand)[use.input]
            if not isinstance(count, int):
                found.append((use.consumer, count, jnp.where(count > 0, mean(use), 0)))
            elif count > 0:
                found.append((use.consumer, count, mean(use)))
        return found

    def with_factors(self, factors: Float[Array, " nodes"]) -> Self:
        """The same problem with other factors of the nodes in consensus."""
        new = copy.copy(self)
        new.factors = factors
        return new

    def is_determined(self, node: int) -> bool:
        """Whether consumers are known to touch all that a node produces, so that `target` needs no more."""
        touched = self._touched(node)
        return not isinstance(touched, Array) and bool(np.all(touched > 0))

    def _touched(self, node: int) -> Array | Count:
        """How many consumers touch each element of what a node produces."""
        touched: Array | Count = 0
        for use in self.graph.uses[node]:
            count = self.uses(use.consumer, use.operand)[use.input]
            touched = touched + (int(count > 0) if isinstance(count, int) else count > 0)
        return touched

    def uses(self, node: int, operand: int) -> list[Array | Count]:
        """How often an operand uses each element of each of its inputs; 0 where it has no copy."""
        consumer = self.graph.nodes[node]
        copies = consumer.multiplicity[operand]
        every = isinstance(copies, int) or bool(copies.all())
        return consumer.operands[operand].uses(self.constants, 1 if every else np.sign(copies))

    def copies(self, node: int, operand: int) -> list[Array | Count]:
        """How many copies each element of each input of an operand has."""
        consumer = self.graph.nodes[node]
        return consumer.operands[operand].uses(self.constants, consumer.multiplicity[operand])

    def mean_over_uses(self, node: int, operand: int, array: Array) -> list[Array]:
        """Gives for each input of an operand the mean of `array` over the copies of each element.

        It is zero where an element has none.
        """
        consumer = self.graph.nodes[node]
        copies = consumer.multiplicity[operand]
        # Where all elements of the operand have the same number of copies, it cancels.
        weights = 1 if isinstance(copies, int) else copies
        weighted = array if isinstance(weights, int) else array * weights.astype(array.dtype)
        sums = consumer.operands[operand].spread(weighted, self.constants)
        return [
            total / jnp.maximum(count, 1)
            if isinstance(count, Array)
            else total  # 0 only where nothing is used
            if np.all(count <= 1)
            else total / np.maximum(count, 1).astype(total.dtype)
            for total, count in zip(
                sums, consumer.operands[operand].uses(self.constants, weights), strict=True
            )
        ]

    def fed_by(self, members: Sequence[int]) -> list[int]:
        """The constraints that a set of nodes feeds."""
        return sorted({use.consumer for node in members for use in self.graph.uses[node]})

    def constant_operands(self, node: int) -> tuple[Array, ...]:
        """The constants of a constraint."""
        return tuple(
            widen(jnp.asarray(read(self.constants, value))) for value in self.graph.nodes[node].constants
        )

    def outputs(self, parameters: Sequence[Array]) -> dict[int, Array]:
        """The forward pass: what each node produces.

        Only loops are run one iteration after the other, in the dtypes of the function. Where the function
        has infinite numbers of its own, what is NaN with them is NaN, and all is where a loss is infinite.
        """
        produced = self._produced(parameters)
        if not self.graph.infinite_literals:
            return produced
        plain = copy.copy(self)
        plain.constants = self.given
        values = plain._produced(parameters)
        undefined = functools.reduce(operator.or_, map(plain._is_infinite(values), self.graph.losses))
        return {i: jnp.where(jnp.isnan(values[i]) | undefined, jnp.nan, x) for i, x in produced.items()}

    def _is_infinite(self, produced: Mapping[int, Array]) -> Callable[[int], Array]:
        """Says of a loss whether an element that counts is not finite, with what the nodes produce."""

        def of(loss: int) -> Array:
            constraint, constants = self.graph.nodes[loss].constraint, self.constant_operands(loss)
            assert constraint is not None
            value = constraint.forward(self.gather(loss, produced.__getitem__), constants)
            return jnp.any(~jnp.isfinite(value) & (constants[-1] > 0))

        return of

    def _produced(self, parameters: Sequence[Array]) -> dict[int, Array]:
        if self.graph.function.carries:
            environment = self._evaluated(parameters, self.graph.function.equations)
            return {
                index: self.place_output(index, widen(environment[node.output]))
                for index, node in enumerate(self.graph.nodes)
                if node.output is not None
            }
        produced: dict[int, Array] = {
            node: widen(array)
            for node, array in zip(self.graph.parameters, parameters, strict=True)
            if node is not None
        }
        for index, node in enumerate(self.graph.nodes):
            if node.constraint is not None and node.output is not None:
                value = node.constraint.forward(
                    self.gather(index, produced.__getitem__), self.constant_operands(index)
                )
                produced[index] = self.place_output(index, value)
        return produced

    def _evaluated(self, parameters: Sequence[Array], equations: Iterable[Equation]) -> Environment:
        """The values that equations of the function compute, with its parameters and constants."""
        environment = {**self.constants, **dict(zip(self.graph.function.parameters, parameters, strict=True))}
        known = set(environment)
        evaluate((x for x in equations if not known.issuperset(x.outputs)), environment)
        return environment

    def reached(self, parameters: Sequence[Array]) -> list[tuple[Array, ...]]:
        """What reaches each loss in a forward pass, in which each loop runs once."""
        function, nodes, losses = self.graph.function, self.graph.nodes, self.graph.losses
        if not function.carries:
            produced = self.outputs(parameters)
            return [self.gather(loss, produced.__getitem__) for loss in losses]
        computed = {value for x in function.equations for value in x.outputs}
        wanted = [
            value
            for loss in losses
            for operand in nodes[loss].operands
            for value in ((operand.value,) if operand.value in computed else operand.inputs)
        ]
        known = {*self.constants, *function.parameters}
        environment = self._evaluated(
            parameters, computing(function.equations, function.whole_loops, wanted, known)
        )

        def of(operand: Operand) -> Array:
            if operand.value in environment:
                return widen(environment[operand.value])
            return operand.gather([widen(environment[value]) for value in operand.inputs], self.constants)

        return [
            self.place_operands(loss, tuple(of(operand) for operand in nodes[loss].operands))
            for loss in losses
        ]

    def forward_gaps(self, parameters: Sequence[Array]) -> list[Float[Array, ""]]:
        """Gives for each loss the squared distance that its projection moves what a forward pass gives."""
        return [
            squared_distances(self._project_loss(loss, operands), operands)
            for loss, operands in zip(self.graph.losses, self.reached(parameters), strict=True)
        ]

    def _project_loss(self, loss: int, operands: tuple[Array, ...]) -> tuple[Array, ...]:
        constraint = self.graph.nodes[loss].constraint
        assert constraint is not None
        return constraint.project(operands, None, self.constant_operands(loss))

    def gather(self, node: int, produced: Callable[[int], Array]) -> tuple[Array, ...]:
        """The operands of a constraint from what its producers produce."""
        return self.place_operands(
            node,
            tuple(
                operand.gather([produced(producer) for producer in operand.producers], self.constants)
                for operand in self.graph.nodes[node].operands
            ),
        )

    def place_operands(self, node: int, operands: tuple[Array, ...]) -> tuple[Array, ...]:
        """Operands where the placement has them."""
        return operands if self.placement is None else self.placement.place_operands(node, operands)

    def place_means(self, node: int, means: tuple[Any, ...]) -> tuple[Any, ...]:
        """Means over copies of a node's operands where the placement has them; None stays None."""
        return means if self.placement is None else self.placement.place_means(node, means)

    def place_copies(self, node: int, copies: tuple[Array, ...]) -> tuple[Array, ...]:
        """Copies where the placement has them."""
        return copies if self.placement is None else self.placement.place_copies(node, copies)

    def place_output(self, node: int, value: Array) -> Array:
        """What a node produces, or its target, where the placement has it."""
        return value if self.placement is None else self.placement.place_output(node, value)


def per_node(graph: ConstraintGraph, terms: Mapping[int, Sequence[Array]]) -> Float[Array, " nodes"]:
    """The sums of some nodes' scalars as an array over all nodes; zero where there are none."""
    return sums([terms.get(node, ()) for node in range(len(graph.nodes))], jnp.result_type(float))
