"""Pullbacks: from a displacement of an operation's output to displacements of its inputs."""

from . import calls as calls  # registers its primitives
from . import steps as steps  # registers its pullbacks
from .directions import WEIGHT as WEIGHT
from .directions import directions as directions
from .directions import settings_of as settings_of
from .registry import Pullback as Pullback
from .registry import Step as Step
from .registry import register_pullback as register_pullback
