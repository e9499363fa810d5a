"""After a loss of power: the log is made whole again before anybody can reach the brokers.

A broker acknowledges what the system has yet to write to the disk. `kill -9` loses none of it; a machine that goes off does,
and the log then ends earlier than what was judged of it. The journal has the rest, but whoever appended first would take its
place. So brokers that were not stopped in good order and have not run since the machine was started are first started on
ports that nobody knows, the log is completed, and only then they are started as always.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ops.kafka_server import KafkaServer, Node
from ops.ports import free_port
from ops.state_folder import replace

_BOOT = "boot"
"""In a broker's folder: the start of the machine in which its log was last known to be whole."""
_CLEAN = ".kafka_cleanshutdown"


def suspected(brokers: Sequence[KafkaServer]) -> bool:
    """Whether any of them may have lost the end of its log."""
    return any(_may_have_lost(broker.folder) for broker in brokers)


def log_is_whole(brokers: Sequence[KafkaServer]) -> None:
    """Note that nothing is missing as long as the machine stays on."""
    for broker in brokers:
        if broker.folder.is_dir() and _noted(broker.folder) != _this_boot():
            replace(broker.folder / _BOOT, _this_boot())


def hidden(brokers: Sequence[KafkaServer]) -> list[KafkaServer]:
    """The same brokers on ports that were never told to anybody."""
    taken: list[int] = []
    for _ in brokers:
        taken.append(free_port(taken))
    nodes = [
        Node(broker.node.id, port, broker.node.controller_port, broker.node.folder)
        for broker, port in zip(brokers, taken, strict=True)
    ]
    return [broker.among(node, nodes) for broker, node in zip(brokers, nodes, strict=True)]


def _may_have_lost(folder: Path) -> bool:
    data = folder / "data"
    return data.is_dir() and not (data / _CLEAN).exists() and _noted(folder) != _this_boot()


def _noted(folder: Path) -> str | None:
    try:
        return (folder / _BOOT).read_text()
    except FileNotFoundError:
        return None


def _this_boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
