"""Networks for the command line: ordinary Equinox modules that know nothing of projections."""

from .cnn import CNN as CNN
from .mlp import MLP as MLP
