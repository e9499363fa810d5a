"""Dead letters on the command line: listed with their places, shown whole, and never let loose on a terminal."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.kafka import partition_of, producer, topic_name
from audit.dead_letters import DeadLetter
from cli.dead_letters import _write
from cli.errors import CommandError
from cli.safe_bytes import dump, escaped, is_text
from schemas.topics import DEADLETTER, EVENTS
from tests.projections.platform import ROOT, Log, project
from tests.projections.records import one_job

TEAM = b"team"
HOME = partition_of(TEAM, EVENTS.partitions)
NASTY = b'{"type": "\x1b[2J\x1b]0;owned\x07 \xe2\x80\xae [red]gone[/red]\r\nnext'


async def ravand(log: Log, *arguments: str, status: int = 0) -> tuple[str, str]:
    """One command on the test's platform; what it wrote to both outputs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "admin", "dead-letters", *arguments),
        cwd=ROOT,
        env={**log.environment(), "PYTHONUTF8": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == status, err.decode()
    return out.decode(), err.decode()


async def write_alone(log: Log, value: bytes | None, key: bytes | None = TEAM) -> None:
    """One record, however long: packed, so that the broker takes it."""
    settings = log.settings.kafka
    packed = producer(settings, compression_type="gzip", max_request_size=64 * 2**20, max_batch_size=64 * 2**20)
    await packed.start()
    try:
        await packed.send_and_wait(topic_name(settings, EVENTS), value, key=key, partition=HOME)
    finally:
        await packed.stop()


async def test_they_are_listed_and_shown_whole(log: Log, tmp_path: Path) -> None:
    long = b"\x00\xff" * (1024 * 1024)
    sound = one_job("team")
    await log.write(sound)
    for value in (NASTY, None, long):
        await write_alone(log, value)
    await project(log)
    first = len(sound)

    listed, _ = await ravand(log)
    assert [line.split()[1] for line in listed.splitlines()[:-1]] == [f"{HOME}/{first + n}" for n in range(3)]
    assert "no value" in listed
    assert "or more" in listed.splitlines()[2]
    found = json.loads((await ravand(log, "list", "--json"))[0])
    assert [letter["position"] for letter in found] == [{"partition": HOME, "offset": first + n} for n in range(3)]
    assert all(letter["error"] for letter in found)

    shown, _ = await ravand(log, "show", str(HOME), str(first))
    assert r"\x1b[2J\x1b]0;owned\x07 \u202e [red]gone[/red]\r\nnext" in shown
    assert all(line.isprintable() for line in shown.splitlines())

    # The letter was cut, the journal has all of it.
    shown, _ = await ravand(log, "show", str(HOME), str(first + 2))
    assert f"size      {len(long)} bytes\n" in shown
    assert f"… {len(long) - 4096} bytes more" in shown
    document = json.loads((await ravand(log, "show", str(HOME), str(first + 2), "--json"))[0])
    assert base64.b64decode(document["value_base64"]) == long
    await ravand(log, "show", str(HOME), str(first + 2), "-o", str(tmp_path / "value"))
    assert (tmp_path / "value").read_bytes() == long


async def test_what_is_none_is_said_and_what_others_put_into_the_topic_is_passed_over(log: Log) -> None:
    await log.write(one_job("team"))
    await project(log)
    topic = topic_name(log.settings.kafka, DEADLETTER)
    for headers in ([], [("partition", b"99"), ("offset", b"1")], [("partition", b"1"), ("offset", b"\xff")]):
        await log.producer.send_and_wait(topic, b"x", key=b"x", headers=headers)
    assert "There are none" in (await ravand(log))[0]
    assert "There is no dead letter" in (await ravand(log, "show", str(HOME), "0", status=1))[1]


async def test_without_the_database_the_copy_is_shown(log: Log) -> None:
    await write_alone(log, NASTY)
    await project(log)
    environment = log.environment()
    log.settings.database.url = type(log.settings.database.url)("postgresql://x@127.0.0.1:1/x")
    assert log.environment() != environment
    shown, _ = await ravand(log, "show", str(HOME), "0")
    assert r"\x1b[2J" in shown


def test_a_file_that_cannot_be_written_is_named() -> None:
    letter = DeadLetter(partition=0, offset=0, at=0, error="", key=None, value=b"x", whole=True)
    with pytest.raises(CommandError, match=r"/dev/full could not be written: No space left on device\."):
        _write(Path("/dev/full"), letter)


@given(st.binary(max_size=200))
def test_nothing_but_printable_characters_comes_out(data: bytes) -> None:
    assert escaped(data).isprintable()
    assert all(line.isprintable() and line.isascii() for line in dump(data))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_two_values_never_look_the_same(one: bytes, other: bytes) -> None:
    assert (escaped(one) == escaped(other)) == (one == other)


@pytest.mark.parametrize(
    ("data", "text"), [(b"", True), (b'{"a":1}\n', True), ("سلام".encode(), True), (bytes(range(40)), False)]
)
def test_text_is_told_from_bytes(data: bytes, text: bool) -> None:
    assert is_text(data) is text
