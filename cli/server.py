"""The API as the command line calls it: problems become sentences, and a lost answer is asked for again safely."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import httpx2
import uuid_utils

from cli import credentials
from cli.errors import CommandError

PATIENCE_SECONDS = 30.0
"""How long a proposal with an unknown outcome is repeated, under its one Idempotency-Key."""


class Server:
    """A server and, usually, a token for it."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        self.token = token
        self.http = httpx2.Client(base_url=self.url, timeout=httpx2.Timeout(30.0, connect=5.0))
        if token:
            self.http.headers["Authorization"] = f"Bearer {token}"

    @classmethod
    def of_user(cls) -> Server:
        """The server of the last login; `RAVAND_SERVER` and `RAVAND_TOKEN` come first. Raises `CommandError` without one."""
        kept = credentials.load()
        url = os.environ.get("RAVAND_SERVER") or (kept.server if kept else credentials.DEFAULT_SERVER)
        token = os.environ.get("RAVAND_TOKEN") or (kept.token if kept and kept.server == url.rstrip("/") else None)
        if not token:
            raise CommandError(
                f"You are not logged in at {url}.",
                "Log in with `ravand login`, or make an account with `ravand register`.",
            )
        return cls(url, token)

    def close(self) -> None:
        """Give the connections back."""
        self.http.close()

    def get(self, path: str, **params: Any) -> Any:
        """The JSON of an answer. Raises `CommandError` for anything but success."""
        return self.call("GET", path, params={k: v for k, v in params.items() if v is not None}).json()

    def get_page(self, path: str, **params: Any) -> tuple[Any, str | None]:
        """The JSON of one page of a list, and the path of the next page if there is one."""
        answer = self.call("GET", path, params={k: v for k, v in params.items() if v is not None})
        return answer.json(), answer.links.get("next", {}).get("url")

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Propose something. Repeated under one key while the outcome is unknown, so it takes effect at most once."""
        key = str(uuid_utils.uuid7())
        until = time.monotonic() + PATIENCE_SECONDS
        pause = 0.2
        while True:
            try:
                answer = self.call("POST", path, json=dict(body or {}), headers={"Idempotency-Key": key})
                return answer.json() if answer.content else None
            except Unanswered:
                if time.monotonic() > until:
                    raise
                time.sleep(pause)
                pause = min(2.0, pause * 2)

    def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            answer = self.http.request(method, path, **options)
        except httpx2.ConnectError:
            raise NoServer(
                f"No server answers at {self.url}.", "Start one with `ravand up`, or set RAVAND_SERVER."
            ) from None
        except httpx2.TransportError as error:
            raise Unanswered(
                f"The server did not answer ({type(error).__name__}).",
                "Whether the request took effect is not known; look before repeating it.",
            ) from None
        if answer.is_success:
            return answer
        raise problem(answer)


class NoServer(CommandError):
    """Nobody listens at the address."""


class Unanswered(CommandError):
    """The outcome is unknown, or the platform can't decide now: the same request may be repeated."""


def problem(answer: httpx2.Response) -> CommandError:
    """The error that a problem document (RFC 9457) tells of."""
    try:
        document = answer.json()
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    said = document.get("detail") or document.get("title") or f"The server answered {answer.status_code}."
    if faults := document.get("errors"):
        said = "\n".join(f"{fault.get('field')}: {fault.get('message')}" for fault in faults)
    code, reference = document.get("code"), document.get("id")
    hint = " ".join(
        part for part in (f"[{code}]" if code else "", f"reference {reference}" if reference else "") if part
    )
    if code == "unauthenticated" or answer.status_code == 401:
        hint = f"{hint} Log in with `ravand login`.".strip()
    kind = Unanswered if answer.status_code == 503 else CommandError
    return kind(str(said), hint)
