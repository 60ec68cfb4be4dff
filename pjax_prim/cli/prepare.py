"""Write a text as a file of tokens for memory-mapped reading."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from ..data.tokens import write_tokens
from .options import Output, parse


@dataclass(frozen=True)
class Prepare:
    """What is written where.

    Attributes:
        texts: files of text (UTF-8), one after the other.
        to: the file of tokens.
        tokenizer: a file of the package tokenizers (tokenizer.json); without it tokens are bytes.
    """

    texts: tyro.conf.Positional[tuple[Path, ...]]
    to: Path
    tokenizer: Path | None = None


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Writes the file; returns how many tokens it has, and of how many kinds."""
    parts = {"prepare": (Prepare, Prepare(tyro.MISSING, tyro.MISSING)), "output": (Output, Output())}
    parsed = parse("prepare", arguments, parts, __doc__ or "")
    options = parsed.prepare
    found = write_tokens(options.texts, options.to, options.tokenizer)
    parsed.output.console().print(
        f"{options.to}: {found['tokens']:,} tokens of {found['classes']:,} kinds", soft_wrap=True
    )
    return {"file": str(options.to), **found}
