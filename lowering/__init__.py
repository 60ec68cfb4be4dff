"""Lowerings of the library's primitives to StableHLO; imported as `pjax_prim.lowering`.

Every primitive has its reference as a default for every platform (`xla`), and rules of single platforms where
they pay (`cpu`, `gpu`, `tpu`). `registry` holds the table of them and the switch between them.
"""

from . import cpu as cpu
from . import gpu as gpu
from . import registry as registry
from . import tpu as tpu
from . import xla as xla
from .registry import RULES as RULES
from .registry import Rule as Rule
from .registry import register as register
from .registry import table as table
from .registry import use as use
