"""What a run has cost, and when it was all but done."""

import math
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

SHARE = 0.99


def first_within(values: Sequence[float | None], sign: float = 1.0) -> int | None:
    """The place of the first value within 1% of the best one; None where there is none.

    **Arguments:** `sign`: 1 where the largest is the best, -1 where the least is.

    A value is within 1% of the best if the two differ by no more than that of the one farther from zero.
    What is not finite does not count.
    """
    known = [(place, x) for place, x in enumerate(values) if x is not None and math.isfinite(x)]
    if not known:
        return None
    best = max(sign * value for _, value in known) * sign
    return next(p for p, v in known if abs(v - best) <= (1 - SHARE) * max(abs(v), abs(best)))


def peak_bytes() -> int:
    """The most memory that this process had so far: of the first device, or of the process where its
    devices are the CPU."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    status = Path("/proc/self/status")
    if status.exists():  # what `getrusage` says is at least what the parent had when it started this process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
