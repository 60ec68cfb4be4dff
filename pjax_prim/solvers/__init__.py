"""Solvers of feasibility problems, one file each, over one interface."""

from .adaptive_metric import AdaptiveMetric as AdaptiveMetric
from .alternating_projections import AlternatingProjections as AlternatingProjections
from .alternating_reflections import AlternatingReflections as AlternatingReflections
from .anderson import Anderson as Anderson
from .base import AbstractSolver as AbstractSolver
from .cyclic_douglas_rachford import CyclicDouglasRachford as CyclicDouglasRachford
from .cyclic_projections import CyclicProjections as CyclicProjections
from .difference_map import DifferenceMap as DifferenceMap
from .douglas_rachford import DouglasRachford as DouglasRachford
from .extrapolated_projections import ExtrapolatedProjections as ExtrapolatedProjections
from .iterate import Progress as Progress
from .iterate import iterate as iterate
from .joint_projections import JointProjections as JointProjections
from .reflect_reflect_relax import ReflectReflectRelax as ReflectReflectRelax
from .restarted import Restarted as Restarted
from .wrapper import AbstractWrapper as AbstractWrapper
from .wrapper import WrapperState as WrapperState
