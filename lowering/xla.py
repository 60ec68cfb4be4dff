"""Rules for every platform: references, and what pays off wherever one device holds the operands."""

from functools import partial

from pjax_prim.primitives import (
    DEFINITIONS,
    displace_max_p,
    displace_scalar_p,
    project_max_p,
    project_scalar_p,
)
from pjax_prim.primitives import max as maximum

from .registry import register

for _definition in DEFINITIONS.values():
    register(_definition)
# Its length depends on the data: over several devices each pass would cost a collective.
for _definition, _implementation in (
    (project_max_p, partial(maximum.reference, find=maximum.find_by_search)),
    (displace_max_p, partial(maximum.displace_reference, find=maximum.find_by_search)),
):
    register(_definition, _implementation, name="search", local=True, when="one device: no sort")
# So would the choice between the two ways to solve.
for _definition in (project_scalar_p, displace_scalar_p):
    register(
        _definition,
        partial(_definition.reference, branch=True),
        name="branch",
        local=True,
        when="one device: the short solve if all targets are near",
    )
