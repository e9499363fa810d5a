"""What `ravand up` is asked for, and the programs and settings that follow from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ops.embedded import AskedPorts, choose_ports, cluster_of, postgres_of
from ops.errors import OperatorError
from ops.gpus import device_of, gpu_count
from ops.ports import require_free
from ops.program import Program
from ops.service import SOURCE, Service
from ops.state_folder import StateFolder

KAFKA_SETTING = "RAVAND_KAFKA__BOOTSTRAP_SERVERS"
DATABASE_SETTING = "RAVAND_DATABASE__URL"


@dataclass(frozen=True)
class Options:
    """The command's options."""

    state: Path
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    ports: AskedPorts = field(default_factory=AskedPorts)
    only_servers: bool = False
    brokers: int | None = None
    """As many as the folder has, and one in a new one, when nobody says."""
    advertised: tuple[str, ...] = ()
    """Where clients reach each broker; where they listen when empty."""


@dataclass(frozen=True)
class Installation:
    """The servers that are ours, the services, and the settings that all of them share."""

    servers: list[Program]
    services: list[Service]
    settings: Mapping[str, str]
    """`RAVAND_…` only; what `ravand env` prints."""

    @property
    def environment(self) -> dict[str, str]:
        """All of a service's environment."""
        path = os.environ.get("PYTHONPATH")
        return {
            **os.environ,
            **self.settings,
            "PYTHONPATH": os.pathsep.join([str(SOURCE), *([path] if path else [])]),
        }


def plan(state: StateFolder, options: Options, say: Callable[[str, str], None]) -> Installation:
    """Chooses ports and settings. A server that the environment names is used instead of one of ours."""
    given = {name: value for name, value in os.environ.items() if name.startswith("RAVAND_")}
    if not options.only_servers:
        require_free(options.port, "the API", "--port", options.host)
    brokers = _brokers(state, options, elsewhere=KAFKA_SETTING in given)
    ports = choose_ports(state, options.ports, brokers)
    servers: list[Program] = []
    settings: dict[str, str] = {}
    if KAFKA_SETTING in given:
        say("kafka", f"using the one at {given[KAFKA_SETTING]}")
        settings |= {name: value for name, value in given.items() if name.startswith("RAVAND_KAFKA__")}
    else:
        cluster = cluster_of(state, ports, brokers, options.advertised, lambda text: say("kafka", text))
        servers.extend(cluster)
        settings |= cluster[0].client_settings()
    if DATABASE_SETTING in given:
        say("postgres", "using the one that the environment names")
        settings[DATABASE_SETTING] = given[DATABASE_SETTING]
    else:
        postgres = postgres_of(state, ports)
        servers.append(postgres)
        settings[DATABASE_SETTING] = postgres.url()
    settings |= {
        "RAVAND_STORE__URL": given.get("RAVAND_STORE__URL") or state.objects.as_uri(),
        "RAVAND_AUTH__SECRET": given.get("RAVAND_AUTH__SECRET") or state.secrets().auth_secret,
        "RAVAND_API__HOST": options.host,
        "RAVAND_API__PORT": str(options.port),
        "RAVAND_STATE": str(state.root),
    }
    installation = Installation(servers, [], settings)
    if not options.only_servers:
        installation.services.extend(_services(state, options, installation.environment))
    return installation


def _brokers(state: StateFolder, options: Options, *, elsewhere: bool) -> int:
    if elsewhere:
        if options.brokers is not None or options.advertised:
            raise OperatorError(
                f"{KAFKA_SETTING} names a Kafka that runs elsewhere, and --brokers or --kafka-advertised are about our own.",
                "Leave out the one or the other.",
            )
        return 1
    if options.brokers not in {None, 1, 3}:
        raise OperatorError(
            f"--brokers {options.brokers} is not possible: there is one broker, or there are three.",
            "With two, the loss of either would stop the log, so there would be more to fail and nothing gained.",
        )
    brokers = state.brokers(options.brokers)
    if options.advertised and len(options.advertised) != brokers:
        raise OperatorError(
            f"--kafka-advertised names {len(options.advertised)} addresses, and there are {brokers} brokers.",
            "Name one HOST:PORT for each broker, separated by commas.",
        )
    return brokers


def _services(state: StateFolder, options: Options, environment: Mapping[str, str]) -> list[Service]:
    """In the order in which they stop: nobody asks any more, then nobody trains, then the rest catches up."""
    # The API listens on all addresses when asked to; we look at it where it surely is.
    host = "127.0.0.1" if options.host in {"0.0.0.0", "::"} else options.host  # noqa: S104
    services = [Service("api", environment, state.root, address=f"{host}:{options.port}", grace_seconds=25.0)]
    gpus = gpu_count() if "RAVAND_WORKER__DEVICE" not in environment else 0
    for index in range(options.workers):
        device = device_of(index, gpus)
        own = {**environment, "RAVAND_WORKER__DEVICE": device} if device else environment
        services.append(Service("worker", own, state.root, index, grace_seconds=30.0))
    return [*services, *(Service(name, environment, state.root) for name in ("supervisor", "projector", "telemetry"))]
