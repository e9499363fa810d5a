"""Free TCP ports on this machine."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from ops.errors import OperatorError

# Below the range from which Linux takes ports for outgoing connections: one of those would otherwise, now and then,
# sit on a port between two starts of the server that owns it.
_RANGE = range(20_000, 32_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(taken: Collection[int] = ()) -> int:
    """A random free one: two state folders that start at once hardly ever choose the same."""
    for port in random.sample(_RANGE, k=200):
        if port not in taken and is_free(port):
            return port
    raise OperatorError("No free port was found on 127.0.0.1.", "End programs that listen on ports, and start again.")


def require_free(port: int, what: str, option: str, host: str = "127.0.0.1") -> None:
    """Refuses a port that somebody asked for and somebody else has."""
    if not is_free(port, host):
        raise OperatorError(
            f"Port {port}, wanted for {what}, is taken by another program.",
            f"End that program (`ss -ltnp 'sport = :{port}'` names it), or choose another port with {option}.",
        )
