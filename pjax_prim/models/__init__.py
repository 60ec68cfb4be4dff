"""Networks for the command line: ordinary Equinox modules that know nothing of projections."""

from .mlp import MLP as MLP
