"""JAX's client ends a process by `abort()` where the service of process 0 is gone: with a message instead."""

import ctypes
import signal
import socket
import sys
from collections.abc import Callable

_SECONDS = 2.0
"""How long the service may take to answer."""

_kept: list[object] = []
"""What C calls back."""


def end_without_service(address: str, end: Callable[[], None]) -> None:
    """Calls `end` where the process is about to abort and nobody listens at `address`, "host:port".

    Python's own handlers run between its instructions, and an abort does not wait for that. So this one is
    called by C, in the thread that aborts. Where the service answers the abort goes on.
    """
    host, _, port = address.rpartition(":")

    def handle(_: int) -> None:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()
        except OSError:
            print(
                f"pjax-prim: error: process 0 of this run is gone: nothing answers at {address}; start all "
                "processes again",
                file=sys.stderr,
                flush=True,
            )
            end()

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    _kept.append(handler)
    # POSIX: where the handler of SIGABRT returns, abort() restores the default and raises it again.
    ctypes.CDLL(None).signal(ctypes.c_int(signal.SIGABRT), handler)
