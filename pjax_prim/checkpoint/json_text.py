"""Text of files as plain values."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """`json.loads`; text that is nested too deeply is a `ValueError`, as any that is no JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
