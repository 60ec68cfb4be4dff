"""Checkpoints: any tree of arrays with some JSON, saved in the background and restored exactly.

Orbax writes and reads the arrays; this package adds what a run needs around it: checksums, clear
errors instead of silent casts, one writer per folder, and being asked to stop.
"""

from .folder import CheckpointFolder as CheckpointFolder
from .lock import FolderLock as FolderLock
from .naming import differences as differences
from .params import CHECKPOINTS as CHECKPOINTS
from .params import WHICH as WHICH
from .params import Source as Source
from .params import export_params as export_params
from .params import import_params as import_params
from .params import import_state_dict as import_state_dict
from .params import load_params as load_params
from .params import restore_params as restore_params
from .params import restore_part as restore_part
from .policy import Retention as Retention
from .policy import SavePolicy as SavePolicy
from .preemption import EXIT_CODE as EXIT_CODE
from .preemption import Preemption as Preemption
from .storage import as_path as as_path
from .storage import storage_of as storage_of
from .writer import CheckpointWriter as CheckpointWriter
from .writer import set_aside as set_aside
