"""The processes of a run meet, or learn in one line why not."""

import socket
import threading
from collections.abc import Sequence

import pytest
from pjax_prim.sharding.rendezvous import meet

from pjax_prim.errors import LostProcessError


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def outcomes(
    members: Sequence[tuple[int, int]], timeout: float = 20.0, coordinator: str | None = None
) -> list[str | None]:
    """For each (processes, process) the message of its error, None where it met the others."""
    coordinator = coordinator or f"localhost:{free_port()}"
    found: list[str | None] = ["it did not end"] * len(members)

    def run(index: int) -> None:
        try:
            meet(coordinator, *members[index], timeout)
            found[index] = None
        except LostProcessError as error:
            found[index] = str(error).replace(coordinator, "HERE")

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_all_come(processes: int) -> None:
    assert outcomes([(processes, i) for i in reversed(range(processes))]) == [None] * processes


def test_the_port_is_free_afterwards() -> None:
    coordinator = f"localhost:{free_port()}"
    for _ in range(3):
        assert outcomes([(2, 0), (2, 1)], coordinator=coordinator) == [None, None]


def test_a_process_that_does_not_come() -> None:
    found = outcomes([(4, 0), (4, 2)], timeout=1.0)
    assert found == ["coordinator: process 1, 3 of 4 did not come within 1 s"] * 2


def test_process_0_does_not_come() -> None:
    (message,) = outcomes([(2, 1)], timeout=0.5)
    assert message is not None
    assert message.startswith("coordinator: process 1 of 2 could not join HERE within 0.5 s (")


def test_two_processes_with_one_number() -> None:
    found = outcomes([(3, 0), (3, 1), (3, 1)])
    assert found == ["coordinator: two processes have process_id=1"] * 3


def test_another_number_of_processes() -> None:
    found = outcomes([(2, 0), (3, 1)])
    assert found == ["coordinator: process 0 was given num_processes=2, process 1 3"] * 2


def test_a_port_in_use() -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        (message,) = outcomes([(2, 0)], coordinator=f"localhost:{port}")
    assert message is not None
    assert message.startswith(f"coordinator: port {port} of HERE cannot be used (Address already in use")


def test_a_port_of_something_else() -> None:
    with socket.create_server(("localhost", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found = outcomes([(2, 1)], coordinator=f"localhost:{other.getsockname()[1]}")
        thread.join(60)
    assert found == ["coordinator: what answers at HERE is not process 0 of this run"]


@pytest.mark.parametrize("coordinator", ["here", ":80", "host:", "host:x", "host:0", "host:70000"])
def test_an_address_that_is_none(coordinator: str) -> None:
    with pytest.raises(LostProcessError, match=f"coordinator: expected HOST:PORT, given {coordinator!r}"):
        meet(coordinator, 2, 0, 1.0)


def test_an_unknown_host() -> None:
    with pytest.raises(LostProcessError, match="coordinator: the host of nowhere.invalid:80 is unknown"):
        meet("nowhere.invalid:80", 2, 1, 1.0)
