"""Solver steps over a mesh of devices; imported as `pjax_prim.sharding`.

`make_mesh` arranges devices, `make_plan` divides a function's feasibility problem over them. `solve` and
the plan's own jitted `step` keep every array where the plan says; values do not depend on it.
"""

from .collectives import Collective as Collective
from .collectives import collectives as collectives
from .mesh import MeshConfig as MeshConfig
from .mesh import make_mesh as make_mesh
from .plan import Plan as Plan
from .plan import make_plan as make_plan
from .rules import Rule as Rule
