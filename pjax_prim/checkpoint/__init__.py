"""Checkpoints: any tree of arrays with some JSON, saved in the background and restored exactly.

Orbax writes and reads the arrays; this package adds what a run needs around it: checksums, clear
errors instead of silent casts, one writer per folder, and being asked to stop.
"""

from .folder import CheckpointFolder as CheckpointFolder
from .lock import FolderLock as FolderLock
from .naming import differences as differences
from .policy import Retention as Retention
from .policy import SavePolicy as SavePolicy
from .preemption import EXIT_CODE as EXIT_CODE
from .preemption import Preemption as Preemption
from .writer import CheckpointWriter as CheckpointWriter
