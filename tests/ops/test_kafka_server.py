"""The real broker: who may come in, and what survives."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from ops.embedded import AskedPorts, choose_ports, kafka_of
from ops.errors import OperatorError
from ops.kafka_server import KafkaServer
from ops.keeper import Keeper
from ops.state_folder import StateFolder
from tests.ops.conftest import until_async


@pytest.fixture
async def broker(folder: Path) -> AsyncIterator[Keeper]:
    """One that answers, in a folder of its own."""
    state = StateFolder.open(folder)
    keeper = Keeper(kafka_of(state, choose_ports(state, AskedPorts())), state.logs)
    await keeper.start()
    yield keeper
    await keeper.stop()


def login(broker: Keeper) -> dict[str, str]:
    """What aiokafka's clients take."""
    assert isinstance(broker.program, KafkaServer)
    settings = broker.program.client_settings()
    return {
        "bootstrap_servers": settings["RAVAND_KAFKA__BOOTSTRAP_SERVERS"],
        "security_protocol": settings["RAVAND_KAFKA__SECURITY_PROTOCOL"],
        "sasl_mechanism": settings["RAVAND_KAFKA__SASL_MECHANISM"],
        "sasl_plain_username": settings["RAVAND_KAFKA__SASL_USERNAME"],
        "sasl_plain_password": settings["RAVAND_KAFKA__SASL_PASSWORD"],
    }


async def test_a_killed_broker_is_started_again_and_has_lost_nothing(broker: Keeper) -> None:
    admin = AIOKafkaAdminClient(**login(broker))
    await admin.start()
    await admin.create_topics([NewTopic("kept", 2, 1)])
    await admin.close()
    async with AIOKafkaProducer(**login(broker), acks="all", enable_idempotence=True) as producer:
        for number in range(10):
            await producer.send_and_wait("kept", str(number).encode(), partition=number % 2)
    before = broker.identity
    assert before is not None
    psutil.Process(before.pid).send_signal(signal.SIGKILL)
    await until_async("another one runs", lambda: broker.identity != before and broker.state == "running")
    async with AIOKafkaConsumer("kept", **login(broker), auto_offset_reset="earliest") as consumer:
        found = {(await consumer.getone()).value for _ in range(10)}
    assert found == {str(number).encode() for number in range(10)}


async def test_nobody_comes_in_without_the_password(broker: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(broker.program, KafkaServer)
    controller = f"127.0.0.1:{broker.program.node.controller_port}"
    right = login(broker)
    attempts = [
        right | {"sasl_plain_password": "wrong"},
        {"bootstrap_servers": right["bootstrap_servers"]},
        {"bootstrap_servers": controller},
        right | {"bootstrap_servers": controller, "sasl_mechanism": "PLAIN"},
    ]
    for attempt in attempts:
        client = AIOKafkaClient(**attempt, request_timeout_ms=3000)
        with pytest.raises(KafkaError):
            await client.bootstrap()
        await client.close()
    caplog.clear()


async def test_no_password_is_on_a_command_line(broker: Keeper) -> None:
    assert broker.identity is not None
    line = " ".join(psutil.Process(broker.identity.pid).cmdline())
    assert login(broker)["sasl_plain_password"] not in line


async def test_an_interrupted_first_start_is_begun_anew(folder: Path) -> None:
    state = StateFolder.open(folder)
    state.secrets()
    (state.kafka / "unfinished").mkdir()
    (state.kafka / "unfinished" / "meta.properties").write_text("half of i")
    keeper = Keeper(kafka_of(state, choose_ports(state, AskedPorts())), state.logs)
    await keeper.start()
    await keeper.stop()
    assert not (state.kafka / "unfinished").exists()


async def test_one_that_cannot_start_says_why_and_where_to_look(folder: Path) -> None:
    state = StateFolder.open(folder)
    state.secrets()
    (state.kafka / "data").mkdir()
    (state.kafka / "data" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=another\n")
    keeper = Keeper(kafka_of(state, choose_ports(state, AskedPorts())), state.logs)
    with pytest.raises(OperatorError, match="kafka ended with status") as refused:
        await keeper.start()
    await keeper.stop()
    assert "Stored node id 7" in refused.value.message
    assert str(keeper.log.path) in refused.value.what_to_do
