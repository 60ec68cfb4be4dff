"""The Kullback-Leibler divergence."""

from dataclasses import dataclass

from ... import primitives as pp
from .base import register
from .cross_entropy import CrossEntropy


@dataclass(frozen=True)
class KLDivergence(CrossEntropy):
    """The divergence of a softmax from targets: the cross-entropy, less a number that no logit changes."""

    name = "kl_divergence"
    operation = pp.kl_divergence_p


register(KLDivergence)
