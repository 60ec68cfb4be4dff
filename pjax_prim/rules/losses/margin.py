"""Margins: the logit of the label at least 1, the others at most 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array

from ... import primitives as pp
from ...primitives._losses import check_labels
from ..constraint import Arrays
from .base import Condition, last_axis, register, some_of


@dataclass(frozen=True)
class Margin(Condition):
    """The condition that logits satisfy the margins of their labels."""

    name = "margin"
    operation = pp.margin_loss_p
    is_checked = True

    def nearest(self, x: Array, targets: Arrays) -> Array:
        return pp.project_margin_p.bind(x, *targets)[0]

    def check(self, constants: Sequence[Any]) -> None:
        labels, step = constants
        classes = labels.shape[-1]
        name = f"labels (as one-hot vectors; an integer outside 0 to {classes - 1} has no 1)"
        check_labels(labels, classes, name, some_of(step))

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return last_axis(shapes)


register(Margin)
