"""The command `pjax-prim`, before the package is imported, which takes a second: its help, and SIGINT.

It lies beside the package, for whatever lies in it imports all of JAX first. What it needs itself it imports
late, too: SIGINT is handled from the first milliseconds on.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any, NoReturn

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
"""What each command does; its file in `pjax_prim/cli/` is imported when it is called."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of what stands before a command's own options."""
    import argparse

    class Version(argparse.Action):
        """`--version`, which nothing else has to look up."""

        def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
            from importlib.metadata import version

            print(version("pjax-prim"))
            parser.exit()

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
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    parser.add_argument("command", choices=tuple(COMMANDS), metavar="COMMAND", help="one of these")
    return parser


class Heard:
    """Standard error whose reader may be gone: what cannot be written is lost, for nobody could be told."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Writes the text, or drops it."""
        try:
            self._file.write(text)
        except OSError:
            drop(self._file)
        return len(text)

    def flush(self) -> None:
        """Writes what is held back, or drops it."""
        try:
            self._file.flush()
        except OSError:
            drop(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def drop(file: Any) -> None:
    """Sends a standard stream nowhere from now on, with what it holds back."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def open_streams() -> None:
    """Standard streams that were closed go nowhere; without them files would be opened in their places."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            place = os.open(os.devnull, os.O_RDWR)
            if place != number:
                os.dup2(place, number)
                os.close(place)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
    sys.stderr = Heard(sys.stderr)


INTERRUPTED = 130
"""Exit status after SIGINT, as shells have it."""


class Interrupts:
    """SIGINT in a process of this command: it ends with one line and status 130, whenever the signal comes.

    While packages are imported it ends at once: some of them print what is raised in them. Later the first
    one raises `KeyboardInterrupt` in the main thread, as Python does, so that what is open is closed and a
    checkpoint that is being written is finished; the next one ends the process at once.
    """

    def __init__(self) -> None:
        self.asked = False
        """Whether there was one."""
        self.raises = False
        """Whether there is something to close."""
        self._again = False
        self._ends = False

    def install(self) -> None:
        """Handles the signal from now on, unless it is ignored, as in a shell's background."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._report, sys.unraisablehook = sys.unraisablehook, self._unraisable

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._ends:
            return  # and says so once
        if not self.raises or (self.asked and not self._again):
            self.end()
        self.asked, self._again = True, False
        raise KeyboardInterrupt

    def _unraisable(self, lost: Any) -> None:
        """Where an object ends, or C calls back, nothing takes an error: it is raised anew, later."""
        if not self.asked:
            self._report(lost)
        elif isinstance(lost.exc_value, KeyboardInterrupt):
            import threading

            timer = threading.Timer(0.01, self._raise_again)
            timer.daemon = True
            timer.start()

    def _raise_again(self) -> None:
        self._again = True
        os.kill(os.getpid(), signal.SIGINT)

    def check(self) -> None:
        """Raises `KeyboardInterrupt` if there was one, which code of others may have taken for itself."""
        if self.asked:
            raise KeyboardInterrupt

    def end(self) -> NoReturn:
        """Ends the process: an ordinary end would wait for other threads and processes once more."""
        self._ends = True
        show_cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar had hidden it
        for file, text in ((sys.stderr, f"{show_cursor}pjax-prim: interrupted\n"), (sys.stdout, "")):
            try:
                file.write(text)
                file.flush()
            except (OSError, ValueError, RuntimeError):  # nobody listens, or it was writing just now
                pass
        os._exit(INTERRUPTED)


def unheard(error: OSError) -> int:
    """The exit status where standard output or a file cannot be written: nobody reads it, or it is full."""
    if error.filename is None:
        drop(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return 0
    print(f"pjax-prim: error: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
    return 2


INTERRUPTS = Interrupts()
"""Those of this process."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command in a process of its own (`pjax_prim.cli.main`); returns its exit status."""
    INTERRUPTS.install()
    open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    status = 0
    try:
        try:
            make_parser().parse_args(given[:1])
        finally:
            sys.stdout.flush()  # its help or version
        from pjax_prim.cli import main as run

        status = run(given)
    except OSError as error:
        if not INTERRUPTS.asked:
            return unheard(error)
        INTERRUPTS.end()
    except BaseException as error:
        # Whatever came of it: code of others turns a KeyboardInterrupt into an error of its own.
        if not INTERRUPTS.asked and not isinstance(error, KeyboardInterrupt):
            raise
        INTERRUPTS.end()
    if INTERRUPTS.asked:
        INTERRUPTS.end()
    return status
