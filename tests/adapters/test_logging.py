"""Log lines: one event a line, and never a secret or a control character in them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from adapters.logging import configure, scrub, scrub_text
from adapters.settings import Settings

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


ROOT = Path(__file__).parents[2]
SAID = re.compile(r"(?:log\.(?:debug|info|warning|error|exception)|trouble\.tell)\(\s*\"(?P<text>[^\"]+)\"")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(capture: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capture.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {TOKEN}",
        f"token {TOKEN} was refused",
        "GET /api/ws?ticket=s3cr3t-ticket HTTP/1.1",
        "postgresql://ravand:s3cr3t-ticket@localhost/ravand",
        "password=s3cr3t-ticket&x=1",
        "$argon2id$v=19$m=47104,t=1,p=1$s3cr3t-ticket$abc",
    ],
)
def test_secrets_in_texts_are_hidden(text: str) -> None:
    cleaned = scrub_text(text)
    assert "s3cr3t-ticket" not in cleaned
    assert TOKEN not in cleaned
    assert "[hidden]" in cleaned


def test_values_under_telling_names_are_hidden_however_deep() -> None:
    found = scrub({"a": [{"password": "x"}, {"api_key": "y", "Ticket": "z"}], "token": None, "tokens": ("t",)})
    assert found == {
        "a": [{"password": "[hidden]"}, {"api_key": "[hidden]", "Ticket": "[hidden]"}],
        "token": None,
        "tokens": "[hidden]",
    }


def test_control_characters_cannot_forge_lines() -> None:
    assert scrub_text("a\r\nb\x1b[31mc\u2028d\x00") == "a\\x0d\nb\\x1b[31mc\\x2028d\\x00"


def test_a_line_is_json_with_the_same_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="json"), "api")
    structlog.get_logger("api").info("job requested", job="1", password="x", note="a\nb")
    logging.getLogger("some.library").warning("connecting to %s", "http://u:p@host")
    first, second = lines(capsys)
    assert list(first)[:4] == ["timestamp", "level", "service", "message"]
    assert (first["service"], first["message"], first["job"], first["password"]) == (
        "api",
        "job requested",
        "1",
        "[hidden]",
    )
    assert second["message"] == "connecting to http://[hidden]@host"


def test_exceptions_are_told_without_their_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="json"), "api")
    try:
        raise ValueError(f"bad token {TOKEN}")
    except ValueError:
        structlog.get_logger("api").exception("failed")
    (line,) = lines(capsys)
    assert "ValueError: bad token [hidden]" in line["exception"]
    assert TOKEN not in json.dumps(line)


def test_libraries_that_chatter_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="json", log_level="info"), "api")
    logging.getLogger("aiokafka.cluster").info("metadata updated")
    logging.getLogger("uvicorn.access").info("GET /")
    structlog.get_logger("api").debug("hidden by its level")
    assert lines(capsys) == []


def test_what_a_library_warns_of_and_nobody_can_use_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="json"), "api")
    logging.getLogger("uvicorn.error").error("ASGI callable returned without completing handshake.")
    logging.getLogger("aiokafka").error(
        "Group Coordinator Request failed: [Error 15] GroupCoordinatorNotAvailableError"
    )
    logging.getLogger("uvicorn.error").error("Exception in ASGI application")
    assert [line["message"] for line in lines(capsys)] == ["Exception in ASGI application"]


def test_events_are_phrases_and_not_names() -> None:
    said = {
        (path.relative_to(ROOT).as_posix(), match["text"])
        for package in ("adapters", "api", "cli", "ops", "projections", "workers")
        for path in (ROOT / package).rglob("*.py")
        for match in SAID.finditer(path.read_text())
    }
    assert len(said) > 80
    assert [(path, text) for path, text in sorted(said) if "_" in text or text.endswith(".")] == []


def test_what_a_library_says_a_thousand_times_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="json", log_level="info"), "projector")
    for number in (1, 1, 1, 2):
        logging.getLogger("aiokafka").error("Unable to update metadata from %s", [number])
        structlog.get_logger("projector").warning("ours")
    said = [line["message"] for line in lines(capsys)]
    assert [text for text in said if text != "ours"] == [
        "Unable to update metadata from [1]",
        "Unable to update metadata from [2]",
    ]
    assert said.count("ours") == 4


def test_on_a_terminal_a_line_is_read_by_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="console"), "worker")
    structlog.get_logger("worker").info("epoch done", epoch=3)
    said = capsys.readouterr().err
    assert "worker" in said
    assert "epoch done" in said
    assert "epoch=3" in said


def test_a_line_that_nobody_can_be_told_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(Settings(log_format="json"), "api")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as gone, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", gone)
        structlog.get_logger("api").info("said to nobody")
        with contextlib.suppress(BrokenPipeError):
            gone.close()


def test_what_the_quick_look_lets_through_the_thorough_one_would_too() -> None:
    texts = [
        TOKEN,
        f"a{TOKEN}",
        "x://u:p@h",
        "bearer abc",
        "Bearer abc",
        "ticket=a",
        "token=b",
        "password=c",
        "$argon2i$v",
    ]
    for text in texts:
        assert "[hidden]" in scrub_text(text), text
        assert "[hidden]" in scrub_text(f"سلام {text}"), text
