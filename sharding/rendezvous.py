"""The processes of a run meet before JAX's service starts, which aborts where something is wrong.

Process 0 listens at the coordinator's address, the others say there who they are, and all learn whether
everybody came. Then the port is free again, for JAX.
"""

import json
import socket
import time
from typing import Any

from ..errors import LostProcessError

_RETRY = 0.2  # seconds between attempts to reach process 0


def meet(coordinator: str, processes: int, process: int, timeout: float) -> None:
    """Returns once all processes are there.

    **Arguments:** `coordinator`, "host:port"; `processes`, how many there are; `process`, which of them this
    is; `timeout`, in seconds.

    **Errors:** `LostProcessError` for an unknown host, a port in use, processes that do not come, two with
    one number, and another number of processes than process 0 was given.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise LostProcessError(f"coordinator: expected HOST:PORT, given {coordinator!r}")
    address = host.strip("[]"), int(port)
    try:
        socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LostProcessError(f"coordinator: the host of {coordinator} is unknown ({error})") from None
    deadline = time.monotonic() + timeout
    if process:
        _report(coordinator, address, {"process": process, "processes": processes}, deadline, timeout)
    elif processes > 1:
        _receive(coordinator, address[1], processes, deadline, timeout)


def _receive(coordinator: str, port: int, processes: int, deadline: float, timeout: float) -> None:
    """Process 0: hears all others, and tells them what it found."""
    try:
        listener = socket.create_server(("", port))
    except OSError as error:
        raise LostProcessError(
            f"coordinator: port {port} of {coordinator} cannot be used ({error.strerror or error}); "
            "choose another, or end what uses it"
        ) from None
    there: set[int] = set()
    connections: list[socket.socket] = []
    problem = None
    with listener:
        while len(there) < processes - 1 and problem is None:
            listener.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                missing = ", ".join(map(str, sorted(set(range(1, processes)) - there)))
                problem = f"process {missing} of {processes} did not come within {timeout:g} s"
                continue
            try:
                message = _read(connection, 5.0)
                number, told = int(message["process"]), message["processes"]
            except (OSError, ValueError, KeyError):  # not one of ours
                connection.close()
                continue
            if told != processes:
                problem = f"process 0 was given num_processes={processes}, process {number} {told}"
            elif number in there:
                problem = f"two processes have process_id={number}"
            there.add(number)
            connections.append(connection)
        for connection in connections:
            with connection:
                connection.sendall(json.dumps({"problem": problem}).encode() + b"\n")
    if problem is not None:
        raise LostProcessError(f"coordinator: {problem}")


def _report(
    coordinator: str, address: tuple[str, int], message: dict[str, int], deadline: float, timeout: float
) -> None:
    """Another process: says who it is, and waits for the answer of process 0."""
    reason = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=min(left, 5.0)) as connection:
                connection.sendall(json.dumps(message).encode() + b"\n")
                # Process 0 answers once all are there: later than this process gives up by a little.
                problem = _read(connection, left + 2.0)["problem"]
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(min(_RETRY, left))
        except (ValueError, KeyError):
            raise LostProcessError(
                f"coordinator: what answers at {coordinator} is not process 0 of this run"
            ) from None
        else:
            if problem is not None:
                raise LostProcessError(f"coordinator: {problem}")
            return
    raise LostProcessError(
        f"coordinator: process {message['process']} of {message['processes']} could not join {coordinator} "
        f"within {timeout:g} s ({reason})"
    )


def _read(connection: socket.socket, timeout: float) -> dict[str, Any]:
    """One line of JSON."""
    connection.settimeout(timeout)
    with connection.makefile("rb") as lines:
        line = lines.readline(4096)
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the connection was closed")
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, given {found!r}")
    return found
