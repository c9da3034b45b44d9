"""What is said of ports, on real sockets."""

import socket

from abfleet.up.ports import WantedAddress, bind_problem, problems


def test_a_free_port_is_no_problem_and_stays_free() -> None:
    """Asking twice gives the same: the look itself takes nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    wanted = [WantedAddress(f"127.0.0.1:{port}", "--listen", "the router")]
    assert problems(wanted) == problems(wanted) == []


def test_every_problem_is_named() -> None:
    """A taken port, a port wanted twice, an address of another machine, a port that cannot be: all at once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = problems(
            [
                WantedAddress(address, "--listen", "the router"),
                WantedAddress(address, "--admin-listen", "admin of the router"),
                WantedAddress("192.0.2.1:5", "--a", "x"),
                WantedAddress("127.0.0.1:65536", "--worker-port", "worker-v1"),
                WantedAddress("127.0.0.1:0", "--b", "y"),
                WantedAddress("127.0.0.1:0", "--c", "z"),
                WantedAddress("unix:/nonexistent/socket", "--d", "z"),
            ]
        )
    assert len(found) == 4
    assert found[0] == f"{address} for the router is taken; choose another address with --listen"
    assert (
        found[1]
        == f"{address} is needed for both the router and admin of the router; change --listen or --admin-listen"
    )
    assert found[2].startswith("192.0.2.1:5 for x cannot be used (")
    assert "65536" in found[3]
    assert "--worker-port" in found[3]


def test_connections_of_a_server_that_has_ended_do_not_count() -> None:
    """A port with a connection in TIME_WAIT can be listened on: a restart need not wait for a minute."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = server.getsockname()
        with socket.create_connection(address) as client:
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first keeps TIME_WAIT
            assert client.recv(1) == b""
    assert bind_problem(f"{address[0]}:{address[1]}") is None
