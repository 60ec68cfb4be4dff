"""Rules for every platform: references, and what pays off wherever one device holds the operands."""

from functools import partial

from pjax_prim.primitives import (
    DEFINITIONS,
    displace_convolution_p,
    displace_linear_p,
    displace_max_p,
    displace_scalar_p,
    project_max_p,
    project_scalar_p,
)
from pjax_prim.primitives.displace_convolution import displace_small as displace_small_convolution
from pjax_prim.primitives.displace_linear import displace_small
from pjax_prim.primitives.max import find_by_search
from pjax_prim.primitives.scalar import Mode

from .registry import Rule, register

for _definition in DEFINITIONS.values():
    register(_definition)
# Its length depends on the data: over several devices each pass would cost a collective.
for _definition in (project_max_p, displace_max_p):
    _search = partial(_definition.reference, find=find_by_search)
    register(_definition, Rule("search", _search, local=True, when="one device: no sort"))
# So would the choice between the two ways to solve.
for _definition in (project_scalar_p, displace_scalar_p):
    _branch = partial(_definition.reference, mode=Mode(stops=True, straight=True))
    _when = "one device: the short solve if all targets are near"
    register(_definition, Rule("branch", _branch, local=True, when=_when))
register(
    displace_linear_p,
    Rule("first_order", displace_small, local=True, when="one device: no product where no change is large"),
)
register(
    displace_convolution_p,
    Rule(
        "first_order",
        displace_small_convolution,
        local=True,
        when="one device: no convolution forward where no change is large",
    ),
)
