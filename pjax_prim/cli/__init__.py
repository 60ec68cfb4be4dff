"""The command line `pjax-prim`: one file per command, each with a function `run`."""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

import pjax_prim as pjp

from ..errors import LostProcessError, NonFiniteError, PjaxError, PreemptedError

COMMANDS = {
    "train": "train a task and leave checkpoints, metrics, model and curves in a run folder",
    "seeds": "train several seeds at once, and show how far they differ",
    "eval": "report the figures of a run's newest checkpoint",
    "inspect": "list a run's checkpoints, with their arrays, sizes, metrics and configuration",
    "export": "write the parameters of a run to one file, .eqx or .safetensors",
    "graph": "print the constraint graph of a task on one batch",
    "bench": "time a step of a task beside an Adam step",
    "aot": "compile a step for TPU pods ahead of time: memory, communication, predicted time",
    "prepare": "write a text as a file of tokens for memory-mapped reading",
}
"""What each command does; its file is imported when it is called."""

EXTRAS = {
    **dict.fromkeys(("tyro", "rich", "grain", "sklearn", "matplotlib", "yaml"), "train"),
    "safetensors": "safetensors",
    "tensorboardX": "tensorboard",
    "tokenizers": "tokenizers",
}
"""Packages that not every command needs, and the extra that brings them."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of what stands before a command's own options."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="pjax-prim",
        usage="pjax-prim COMMAND [FILE.py] [options]",
        description="Train networks by projections, without gradients.\n\ncommands:\n" + "\n".join(lines),
        epilog="pjax-prim COMMAND --help lists a command's options; after FILE.py those of its task, too.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=pjp.__version__)
    parser.add_argument("command", choices=tuple(COMMANDS), metavar="COMMAND", help="one of these")
    return parser


INTERRUPTED = 130
"""Exit status after SIGINT, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    **Returns:** the exit status: 0; 1 where training met a value that is not finite; 2 for bad input (for
    the command's name by `SystemExit`, from argparse); 75 where training was asked to stop by SIGTERM, saved
    a checkpoint and can be resumed; 70 where another process of a run was lost; 130 after SIGINT. Messages
    go to standard error, and with `--json` so does all else but the JSON line.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = make_parser().parse_args(given[:1]).command
    try:
        result = importlib.import_module(f".{name}", __package__).run(given[1:])
        if "--json" in given and result is not None:
            print(json.dumps(result), flush=True)
        else:
            sys.stdout.flush()
    except PreemptedError as error:
        from ..checkpoint import EXIT_CODE

        print(f"pjax-prim: {error}", file=sys.stderr)
        return EXIT_CODE
    except PjaxError as error:
        print(f"pjax-prim: error: {error}", file=sys.stderr)
        if isinstance(error, LostProcessError):
            from ..sharding.processes import leave

            leave()
        return 1 if isinstance(error, NonFiniteError) else 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = f"pip install 'pjax-prim[{EXTRAS[package]}]'"
        print(f"pjax-prim: error: {name}: needs the package {package}; {extra}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        from .options import drop_output

        drop_output()  # else the interpreter would try to write it once more
    except OSError as error:
        print(f"pjax-prim: error: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pjax-prim: interrupted", file=sys.stderr)
        if "jax" in sys.modules:
            from ..sharding.processes import is_alone, leave

            if not is_alone():
                leave(INTERRUPTED)
        return INTERRUPTED
    return 0
