"""The servers of one state folder: which ports, which settings, all started at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ops.kafka_server import KafkaServer, Node
from ops.ports import free_port, is_free, require_free
from ops.postgres_server import PostgresServer
from ops.state_folder import StateFolder


@dataclass(frozen=True)
class AskedPorts:
    """Ports that somebody named; the others are chosen once and kept."""

    kafka: int | None = None
    """Of the first broker."""
    postgres: int | None = None


def choose_ports(state: StateFolder, asked: AskedPorts, brokers: int = 1) -> dict[str, int]:
    """A port that was asked for must be free. One that we chose earlier is kept as long as it is."""
    ports = state.ports()
    for name, port, option in (("kafka", asked.kafka, "--kafka-port"), ("postgres", asked.postgres, "--postgres-port")):
        if port is not None:
            require_free(port, name, option)
            ports[name] = port
    chosen: dict[str, int] = {}
    for name in (*(name for index in range(brokers) for name in _ports_of_broker(index)), "postgres"):
        port = ports.get(name)
        taken = chosen.values()
        chosen[name] = port if port and port not in taken and is_free(port) else free_port(taken)
    state.remember_ports(chosen)
    return chosen


def kafka_of(
    state: StateFolder, ports: Mapping[str, int], say: Callable[[str], None] = lambda text: None
) -> KafkaServer:
    """The one broker."""
    return cluster_of(state, ports, say=say)[0]


def cluster_of(
    state: StateFolder,
    ports: Mapping[str, int],
    brokers: int = 1,
    advertised: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> list[KafkaServer]:
    """All brokers; `advertised` names where each of them is reached, in their order."""
    nodes = []
    for index in range(brokers):
        broker, controller = (ports[name] for name in _ports_of_broker(index))
        reached_at = advertised[index] if advertised else None
        nodes.append(Node(index + 1, broker, controller, state.broker(index), reached_at))
    return [KafkaServer(node, nodes, state.secrets(), say) for node in nodes]


def _ports_of_broker(index: int) -> tuple[str, str]:
    number = f"-{index}" if index else ""
    return f"kafka{number}", f"kafka-controller{number}"


def postgres_of(state: StateFolder, ports: Mapping[str, int], *, durable: bool = True) -> PostgresServer:
    """The one database server."""
    return PostgresServer(state.postgres, ports["postgres"], state.secrets(), durable=durable)


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all at once. The first that fails ends the others, and its error is raised as it is."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
