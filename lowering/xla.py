"""Rules for every platform: references, and what pays off wherever one device holds the operands."""

from functools import partial

from pjax_prim.primitives import (
    DEFINITIONS,
    correlate_p,
    displace_max_p,
    displace_scalar_p,
    project_convolution_p,
    project_max_p,
    project_scalar_p,
)
from pjax_prim.primitives._window import Window
from pjax_prim.primitives.max import find_by_comparing, find_by_search
from pjax_prim.primitives.scalar import Mode

from .registry import Rule, register

for _definition in DEFINITIONS.values():
    register(_definition)
# Its length depends on the data: over several devices each pass would cost a collective.
for _definition in (project_max_p, displace_max_p):
    _search = partial(_definition.reference, find=find_by_search)
    register(_definition, Rule("search", _search, local=True, when="one device: no sort"))
    _compare = Rule(
        "comparisons",
        partial(_definition.reference, find=find_by_comparing),
        supports=lambda a, *_, **__: isinstance(a.shape[-1], int) and a.shape[-1] <= 16,
        when="up to 16 entries",
    )
    register(_definition, _compare)
# So would the choice between the two ways to solve.
for _definition in (project_scalar_p, displace_scalar_p):
    _branch = partial(_definition.reference, mode=Mode(stops=True, straight=True))
    _when = "one device: the short solve if all targets are near"
    register(_definition, Rule("branch", _branch, local=True, when=_when))
# Over several devices it is a sum of products where it has groups.
for _definition in (correlate_p, project_convolution_p):
    _at_once = partial(_definition.reference, correlate=Window.correlate_at_once)
    _when = "one device: what filters get back as one convolution, with groups, too"
    register(_definition, Rule("at_once", _at_once, local=True, when=_when))
