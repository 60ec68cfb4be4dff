"""The benchmarks that come along, each a file as users write them, and how such a file becomes a task."""

from .loading import BUILT_IN as BUILT_IN
from .loading import TaskFile as TaskFile
from .loading import built_in as built_in
