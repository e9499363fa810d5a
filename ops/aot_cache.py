"""An ahead-of-time cache for the JVM (JDK 25): Kafka's classes loaded and linked once. It answers in 0.7 s, not in 2.0.

Made by `python -m ops.aot_cache`, which `ravand up` runs in the background at the lowest priority when there is none
yet: it runs a broker of its own for a moment, with an empty log in the cache folder, and lets the JVM write the cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ops.cache_folder import cache_folder, locked, make_folder

_TRAINING = "aot-training-"


def cache_file(java: Path, jars: Sequence[Path], jvm_options: Sequence[str]) -> Path:
    """Its place. It fits one JRE, one class path and one set of options only, so all are in the name."""
    release = (java.parent.parent / "release").read_text()
    content = "\n".join([release, *jvm_options, *(f"{jar} {jar.stat().st_mtime_ns}" for jar in jars)])
    return cache_folder() / f"kafka-{hashlib.sha256(content.encode()).hexdigest()[:16]}.aot"


def use(file: Path) -> list[str]:
    """The JVM's options to use it, if it has been made."""
    # The second one keeps the JVM quiet when it cannot use the file; it does without it either way.
    return [f"-XX:AOTCache={file}", "-Xlog:aot*=off"] if file.exists() else []


def make() -> None:
    """Makes the cache, unless it is there or another process is at it."""
    from ops.kafka_jars import kafka_jars
    from ops.kafka_server import JVM_OPTIONS, java

    file = cache_file(java(), kafka_jars(), JVM_OPTIONS)
    with locked(make_folder(cache_folder()) / "aot.lock", wait=False) as ours:
        if not ours or file.exists():
            return
        for leftover in (*cache_folder().glob(f"{_TRAINING}*"), *cache_folder().glob("*.aot.part*")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        unfinished = file.with_name(f"{file.name}.part")
        with tempfile.TemporaryDirectory(prefix=_TRAINING, dir=cache_folder()) as folder:
            asyncio.run(_train(Path(folder), unfinished))
        unfinished.replace(file)
        for older in set(cache_folder().glob("kafka-*.aot")) - {file}:
            older.unlink()


async def _train(folder: Path, output: Path) -> None:
    from ops.embedded import AskedPorts, choose_ports, kafka_of
    from ops.keeper import Keeper
    from ops.state_folder import StateFolder

    state = StateFolder.open(folder)
    ports = choose_ports(state, AskedPorts())
    # First a log is filled, so that what is remembered is a start like any other: with topics to load, and with work.
    for options in ([], [f"-XX:AOTCacheOutput={output}"]):
        broker = kafka_of(state, ports)
        broker.aot_options = options
        broker.grace_seconds = 300.0  # It writes the cache when it ends: 5 s of work, at the lowest priority.
        keeper = Keeper(broker, state.logs)
        try:
            await keeper.start()
            await _work(broker.client_settings())
        finally:
            await keeper.stop()


async def _work(settings: Mapping[str, str]) -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    login = {
        "bootstrap_servers": settings["RAVAND_KAFKA__BOOTSTRAP_SERVERS"],
        "security_protocol": settings["RAVAND_KAFKA__SECURITY_PROTOCOL"],
        "sasl_mechanism": settings["RAVAND_KAFKA__SASL_MECHANISM"],
        "sasl_plain_username": settings["RAVAND_KAFKA__SASL_USERNAME"],
        "sasl_plain_password": settings["RAVAND_KAFKA__SASL_PASSWORD"],
    }
    admin = AIOKafkaAdminClient(**login)
    await admin.start()
    compacted = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
    # At the second run it exists, which the broker answers and does not mind.
    await admin.create_topics([NewTopic("training", 3, 1, topic_configs=compacted)])
    await admin.close()
    async with AIOKafkaProducer(**login, acks="all", enable_idempotence=True) as producer:
        for partition in range(3):
            await producer.send_and_wait("training", b"value", key=b"key", partition=partition)
    async with AIOKafkaConsumer("training", **login, group_id="training", auto_offset_reset="earliest") as consumer:
        await consumer.getone()
        await consumer.commit()


if __name__ == "__main__":
    make()
