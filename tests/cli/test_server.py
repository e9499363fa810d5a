"""The API out of a user's reach: which address does not answer, whether anything was done, and what to do."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli import demo
from cli.errors import CommandError
from cli.server import NoServer, Server, Unanswered

CREATED = b'HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"id": 1}'
BY_A_PROXY = b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"
CUT = b""


@contextmanager
def answering(*answers: bytes, then: Callable[[], object] = lambda: None) -> Iterator[tuple[Server, list[bytes]]]:
    """A server that gives these answers, one a connection, and closes it; and what it was asked. `then` comes at the end."""
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(answer)
        then()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        server = Server(f"http://127.0.0.1:{listener.getsockname()[1]}", "token")
        try:
            yield server, asked
        finally:
            server.close()
            thread.join(10)


def keys(asked: list[bytes]) -> set[bytes]:
    return {line for request in asked for line in request.splitlines() if line.lower().startswith(b"idempotency-key")}


def test_nobody_who_listens_is_named_with_the_way_to_start_one() -> None:
    server = Server("http://127.0.0.1:1", "token")
    with pytest.raises(NoServer, match=r"No server answers at http://127\.0\.0\.1:1") as raised:
        server.get("/api/train")
    assert "ravand up" in raised.value.what_to_do
    server.close()


def test_a_lost_answer_is_asked_for_again_under_the_same_key() -> None:
    with answering(CUT, CUT, CREATED) as (server, asked):
        assert server.post("/api/train", {}) == {"id": 1}
    assert len(asked) == 3
    assert len(keys(asked)) == 1


def test_a_server_that_never_answers_leaves_the_outcome_unknown_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.server.PATIENCE_SECONDS", 0.0)
    with answering(CUT) as (server, _), pytest.raises(Unanswered, match="did not answer") as raised:
        server.post("/api/train", {})
    assert "not known" in raised.value.what_to_do


def test_an_answer_that_is_no_document_of_ours_is_told_by_its_status() -> None:
    with answering(BY_A_PROXY) as (server, _), pytest.raises(CommandError, match="The server answered 502"):
        server.get("/api/train")


class TestTheDemo:
    """It starts the services itself, and says why when they do not come up."""

    def test_services_that_end_before_they_are_ready_are_shown_with_their_last_words(self, tmp_path: Path) -> None:
        log = tmp_path / "demo.log"
        log.write_text("the port is taken\n")
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as up:
            assert up.stdin is not None
            with (
                answering(CUT, then=up.stdin.close) as (server, asked),
                pytest.raises(CommandError, match="did not start:\n  the port is taken"),
            ):
                demo._wait_until_ready(server, up, log)
        assert asked, "it was not answered before the services ended"

    def test_a_port_that_is_in_use_is_told_from_a_free_one(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert not demo._is_free(port)
        assert demo._is_free(port)
