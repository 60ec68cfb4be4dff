"""How rules name parameters."""

import re
from fnmatch import fnmatchcase
from typing import TypeAlias

Pattern: TypeAlias = str | re.Pattern[str]
"""Which paths are meant, written as `layers.0.weight`.

A string is a pattern as in a shell (`layers.*.weight`), a compiled regular expression has to match the
whole path.
"""


def path_of(name: str) -> str:
    """The path of a parameter, from its name in a graph: `.layers[0].weight` is `layers.0.weight`."""
    return re.sub(r"\[['\"]?(.*?)['\"]?\]", r".\1", name).lstrip(".")


def matches(pattern: Pattern, path: str) -> bool:
    """Whether a pattern means a path."""
    return fnmatchcase(path, pattern) if isinstance(pattern, str) else bool(pattern.fullmatch(path))
