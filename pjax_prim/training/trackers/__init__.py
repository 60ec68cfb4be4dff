"""Where the figures of a run go while it trains, beside its `metrics.jsonl`: one file per tracker."""

from .base import Figures as Figures
from .base import TrackedRun as TrackedRun
from .base import Tracker as Tracker
from .base import Trackers as Trackers
from .table import TRACKERS as TRACKERS
from .table import make_trackers as make_trackers
