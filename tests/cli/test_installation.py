"""An installation that is not as it must be: commands and services refuse it by name, and change nothing."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import asyncpg
import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import SecretStr

from adapters.kafka import client_options, topic_name
from adapters.settings import Settings
from cli import rebuild, services
from cli.errors import CommandError
from domain.events import RulesActivated
from domain.rules import KNOWN_RULES
from projections.rebuild import run as rebuilding
from schemas.topics import EVENTS
from tests.cli.conftest import Ravand
from tests.projections.platform import Log, project
from tests.projections.records import Written, one_job, written
from tests.servers import Servers


async def refused_by_a_service(settings: Settings, said: str) -> None:
    """A service ends at its start instead of waiting."""
    with pytest.raises(CommandError, match=said):
        await services._surroundings(settings, database=True, log=structlog.get_logger("test"))


async def test_a_topic_with_another_number_of_partitions(ravand: Ravand, settings: Settings) -> None:
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic_name(settings.kafka, EVENTS), 1, 1)])
    finally:
        await admin.close()
    await refused_by_a_service(settings, "has 1 partitions, not")
    ravand("admin", "init", settings=settings).explains("The log is not as it must be", "has 1 partitions, not")


async def test_topics_that_are_missing(ravand: Ravand, settings: Settings, tmp_path: Path) -> None:
    ended = ravand("admin", "backup", str(tmp_path / "backup"), settings=settings)
    ended.explains("No backup was made", "is missing", "Nothing was written.")


async def test_tables_of_a_newer_version(ravand: Ravand, log: Log, tmp_path: Path) -> None:
    await log.database.execute("UPDATE log.schema_version SET version_num = '9999'")
    await refused_by_a_service(log.settings, "schema step 9999, of a newer Ravand")
    ravand("admin", "init", settings=log.settings).explains("of a newer Ravand", "nothing was changed")
    ended = ravand("admin", "backup", str(tmp_path / "backup"), settings=log.settings)
    ended.explains("No backup was made", "of a newer Ravand")


async def test_a_database_of_another_log(ravand: Ravand, log: Log) -> None:
    await log.database.execute("INSERT INTO log.cursors VALUES (3, 5, 5, 1, '', 0)")
    await refused_by_a_service(log.settings, "log_diverged: partition 3")
    for command in ("init", "complete-log"):
        ravand("admin", command, settings=log.settings).explains(
            "log_diverged", "Nothing was changed", "docs/backup.md"
        )
    assert sum((await log.ends(EVENTS)).values()) == 0


class TestInitialising:
    """What is in the way is said, and it can be run again."""

    @pytest.mark.parametrize("database_template", ["template1"])
    async def test_a_database_that_takes_no_changes(
        self, ravand: Ravand, log: Log, servers: Servers, database_template: str
    ) -> None:
        url = log.settings.database.url.get_secret_value()
        connection = await asyncpg.connect(url)
        await connection.execute(f'ALTER DATABASE "{url.rpartition("/")[2]}" SET default_transaction_read_only = on')
        await connection.close()
        ended = ravand("admin", "init", settings=log.settings)
        ended.explains("ReadOnlySQLTransactionError", "run it again")

    async def test_a_role_that_the_database_does_not_let_in(self, ravand: Ravand, log: Log) -> None:
        url = log.settings.database.url.get_secret_value().replace("ravand:", "stranger:")
        log.settings.database.url = SecretStr(url)
        ravand("admin", "init", settings=log.settings).explains("InvalidPasswordError", "run it again")

    async def test_a_store_that_cannot_be_written(self, ravand: Ravand, log: Log, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        log.settings.store.url = f"file://{tmp_path}/file/objects"
        ravand("admin", "init", settings=log.settings).explains("StoreUnavailable", "RAVAND_STORE__URL")


async def test_rules_whose_record_was_not_acknowledged_in_time_may_be_activated_again(ravand: Ravand, log: Log) -> None:
    impatient = {"RAVAND_KAFKA__APPEND_DEADLINE_SECONDS": "0.000001"}
    ended = ravand("admin", "rules", "--activate", "2", settings=log.settings, **impatient)
    ended.explains("The log did not acknowledge", "Run it again")


async def test_a_log_that_only_a_newer_version_can_judge(ravand: Ravand, log: Log) -> None:
    """As an older program finds it after the newer one has judged it."""
    known, newer = (
        Written(b"system", written(RulesActivated(rules=n), workspace="system", subject="rules").value, (), 3)
        for n in (KNOWN_RULES, KNOWN_RULES + 1)
    )
    await log.write([known])
    await project(log)
    await log.write([newer])
    await log.database.execute(
        "CREATE TEMP TABLE newest AS SELECT * FROM log.journal WHERE partition = 3;"
        ' UPDATE newest SET "offset" = "offset" + 1;'
        " INSERT INTO log.journal SELECT * FROM newest;"
        " UPDATE log.cursors SET next_offset = next_offset + 1 WHERE partition = 3"
    )
    said = f"rule set {KNOWN_RULES + 1} comes into force; this build knows up to {KNOWN_RULES}"
    verified = ravand("audit", "verify", "--processes", "1", settings=log.settings)
    assert verified.status == 1
    assert said in verified.out
    ended = ravand("audit", "replay", "--from-log", settings=log.settings)
    ended.explains("The log cannot be replayed any further", said)
    ended = ravand("admin", "rebuild-projections", "--processes", "1", settings=log.settings)
    ended.explains("Not rebuilt", "The live tables are as they were")


class TestRebuilding:
    """Nothing is swapped, and it is said how to go on."""

    async def test_nothing_is_kept_to_roll_back_to(self, ravand: Ravand, log: Log) -> None:
        ended = ravand("admin", "rebuild-projections", "--rollback", settings=log.settings)
        ended.explains("Nothing was rolled back", "Rebuild instead")

    async def test_somebody_reads_for_long_and_then_another_one_is_asked_for(
        self, ravand: Ravand, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rebuilding, "PATIENCE_SECONDS", 0.0)
        await log.write(one_job("team"))
        await project(log)
        async with log.database.transaction():
            await log.database.fetch("SELECT 1 FROM read.jobs LIMIT 1")
            ended = ravand("admin", "rebuild-projections", "--processes", "1", settings=log.settings)
        ended.explains("Not swapped", "could not be locked", "Run it again: it goes on where it was")
        ended = ravand("admin", "rebuild-projections", "jobs", settings=log.settings)
        ended.explains("Nothing was begun", "--cancel")

    @pytest.mark.usefixtures("interruptible")
    def test_ctrl_c(self) -> None:
        async def interrupted() -> None:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(60)

        with pytest.raises(CommandError, match="Interrupted") as raised:
            rebuild._run(interrupted())
        assert "The live tables are as they were" in raised.value.what_to_do
