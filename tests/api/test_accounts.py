"""Accounts: registering, logging in, and tokens that die when they should."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx2
import jwt
import pytest
import pytest_asyncio

from adapters.settings import Settings
from api import building
from api.accounts.admin import create_admin
from api.accounts.sessions import Sessions
from api.accounts.throttle import Throttle
from api.accounts.tokens import Tokens
from api.listener import Listener
from tests.api.platform import PASSWORD, Member, Platform, eventually, serving, until_said
from tests.api.test_bad_input import problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def register(platform: Platform, **changes: str) -> Any:
    async with platform.client() as http:
        body = {"email": "somebody@example.org", "password": PASSWORD, "name": "Somebody", **changes}
        return await http.post("/api/auth/register", json=body)


async def login(platform: Platform, email: str, password: str = PASSWORD) -> Any:
    async with platform.client() as http:
        return await http.post("/api/auth/login", json={"email": email, "password": password})


@pytest_asyncio.fixture(loop_scope="module")
async def database(module_settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(module_settings.database.url.get_secret_value())
    yield connection
    await connection.close()


class TestRegistering:
    async def test_gives_a_token_and_the_user(self, platform: Platform) -> None:
        answer = await register(platform, email="Ada@Example.org", name="Ada Lovelace")
        assert answer.status_code == 201
        body = answer.json()
        assert body["user"] == {
            "id": body["user"]["id"],
            "email": "Ada@Example.org",
            "name": "Ada Lovelace",
            "role": "user",
        }
        async with platform.client(body["token"]) as http:
            me = await http.get("/api/auth/me")
        assert me.json() == body["user"]

    async def test_an_address_is_taken_whatever_its_case(self, platform: Platform) -> None:
        assert (await register(platform, email="taken@example.org")).status_code == 201
        problem(await register(platform, email="TAKEN@example.ORG"), 409, "email_taken")

    async def test_of_many_at_once_with_one_address_one_wins(
        self, platform: Platform, database: asyncpg.Connection
    ) -> None:
        answers = await asyncio.gather(
            *(register(platform, email=f"race{'S' * (i % 2)}@x.org".lower()) for i in range(8))
        )
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [201, 201, *[409] * 6]
        assert await database.fetchval("SELECT count(*) FROM accounts.users WHERE email_key LIKE 'race%'") == 2
        orphans = (
            "SELECT count(*) FROM accounts.workspaces w"
            " WHERE NOT EXISTS (SELECT FROM accounts.memberships m WHERE m.workspace_id = w.id)"
        )
        assert await database.fetchval(orphans) == 0

    @pytest.mark.parametrize(
        "email",
        [
            "",
            "no",
            "a@b",
            "@b.cd",
            "a@",
            "a b@c.de",
            "a@b..cd",
            "a@-b.cd",
            "a@b.c",
            "a\n@b.cd",
            "a@b.cd\r\nX: y",
            "é@b.cd",
            "a@b.cd@e.fg",
            "<a@b.cd>",
            "x" * 65 + "@b.cd",
            "a@" + "b" * 250 + ".cd",
        ],
    )
    async def test_what_is_no_address_is_refused(self, platform: Platform, email: str) -> None:
        document = problem(await register(platform, email=email), 422, "invalid")
        assert "email" in [error["field"] for error in document["errors"]]

    @pytest.mark.parametrize(
        "password",
        [
            "",
            "short",
            "ninechars",
            "password123",
            "Password123!",
            "P@ssw0rd2024",
            "1234567890",
            "qwertyuiop",
            "aaaaaaaaaa",
            "abcabcabcabc",
            "iloveyou12345",
            "1q2w3e4r5t",
            "somebody@example.org",
            "somebody1!",
            "x9" * 513,
        ],
    )
    async def test_weak_passwords_are_refused(self, platform: Platform, password: str) -> None:
        document = problem(await register(platform, password=password), 422, "invalid")
        assert [error["field"] for error in document["errors"]] == ["password"]
        assert password not in json.dumps(document) or not password

    async def test_passwords_are_never_cut(self, platform: Platform) -> None:
        stem = "a phrase that goes on and on " * 6
        assert (await register(platform, email="long@example.org", password=stem + "1")).status_code == 201
        assert (await login(platform, "long@example.org", stem + "2")).status_code == 401
        assert (await login(platform, "long@example.org", stem[:72])).status_code == 401
        assert (await login(platform, "long@example.org", stem + "1")).status_code == 200

    async def test_a_password_is_the_same_however_a_keyboard_composes_it(self, platform: Platform) -> None:
        password = "mötley crüe naïve"
        decomposed = unicodedata.normalize("NFD", password)
        assert (await register(platform, email="nf@example.org", password=decomposed)).status_code == 201
        assert (await login(platform, "nf@example.org", password)).status_code == 200

    async def test_a_megabyte_of_password_is_refused_quickly(self, platform: Platform) -> None:
        problem(await register(platform, password="x1y2" * 200_000), 422, "invalid")
        assert (await login(platform, "somebody@example.org", "x1y2" * 200_000)).status_code == 401


class TestLoggingIn:
    async def test_does_not_say_which_was_wrong(self, platform: Platform, member: Member) -> None:
        unknown = problem(await login(platform, "nobody@example.org"), 401, "unauthenticated")
        wrong = problem(await login(platform, member.email, "not the right one"), 401, "unauthenticated")
        assert {**unknown, "id": ""} == {**wrong, "id": ""}

    async def test_case_of_the_address_does_not_count(self, platform: Platform, member: Member) -> None:
        assert (await login(platform, member.email.upper())).status_code == 200

    async def test_sessions_are_independent(self, platform: Platform, member: Member) -> None:
        other = (await login(platform, member.email)).json()["token"]
        assert (await member.http.post("/api/auth/logout")).status_code == 204
        async with platform.client(other) as http:
            assert (await http.get("/api/auth/me")).status_code == 200

    @pytest.mark.parametrize("known", [True, False])
    async def test_ten_failures_in_a_minute_close_an_address_for_a_while(
        self, platform: Platform, member: Member, database: asyncpg.Connection, known: bool
    ) -> None:
        email = member.email if known else "stranger-to-all@example.org"
        for _ in range(10):
            assert (await login(platform, email.upper(), "wrong wrong wrong")).status_code == 401
        answer = await login(platform, email)
        problem(answer, 429, "too_many_attempts")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        await database.execute("UPDATE accounts.login_failures SET at = at - interval '61 seconds'")
        assert (await login(platform, email)).status_code == (200 if known else 401)

    async def test_guesses_side_by_side_are_counted_too(self, platform: Platform, member: Member) -> None:
        answers = await asyncio.gather(*(login(platform, member.email, f"wrong guess {i}") for i in range(20)))
        codes = [answer.status_code for answer in answers]
        assert codes.count(401) == 10
        assert codes.count(429) == 10

    async def test_right_passwords_side_by_side_all_pass(self, platform: Platform, member: Member) -> None:
        answers = await asyncio.gather(*(login(platform, member.email) for _ in range(12)))
        assert {answer.status_code for answer in answers} == {200}

    async def test_a_user_who_is_disabled_is_nobody(
        self, platform: Platform, member: Member, database: asyncpg.Connection
    ) -> None:
        await database.execute("UPDATE accounts.users SET disabled_at = now() WHERE id = $1", member.user["id"])
        assert (await login(platform, member.email)).status_code == 401


@asynccontextmanager
async def sessions_beside(settings: Settings) -> AsyncIterator[Sessions]:
    """What another process knows of them that hears nothing yet."""
    async with asyncpg.create_pool(settings.database.url.get_secret_value(), min_size=1, max_size=1) as pool:
        yield Sessions(pool, Listener(settings.database), Tokens(settings.auth), settings.auth)


async def until_refused(http: httpx2.AsyncClient) -> None:
    async def is_refused() -> bool:
        return (await http.get("/api/auth/me")).status_code == 401

    await eventually(is_refused)


def forged(claims: dict[str, Any], header: dict[str, Any], secret: bytes, digest: str = "sha256") -> str:
    def part(data: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=")

    signed = part(header) + b"." + part(claims)
    signature = b"" if header.get("alg") == "none" else hmac.new(secret, signed, digest).digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def bad_tokens(settings: Settings, good: str) -> dict[str, str]:
    """Every kind of token that must not open anything."""
    secret = settings.auth.secret.get_secret_value().encode()
    claims = jwt.decode(good, options={"verify_signature": False})
    header = {"alg": "HS256", "typ": "JWT"}
    now = int(time.time())
    head, body, signature = good.split(".")
    swapped = base64.urlsafe_b64encode(json.dumps({**claims, "role": "admin"}).encode()).decode().rstrip("=")
    without = {
        f"without {name}": forged({n: v for n, v in claims.items() if n != name}, header, secret) for name in claims
    }
    changed = {
        f"{name}={value!r}": forged({**claims, name: value}, header, secret)
        for name, value in [
            ("iss", "someone"),
            ("aud", "someone"),
            ("aud", ["ravand-api"]),
            ("typ", "refresh"),
            ("exp", now - 10),
            ("exp", "soon"),
            ("exp", float("inf")),
            ("nbf", now + 3600),
            ("iat", "x"),
            ("jti", ""),
            ("jti", "00000000-0000-0000-0000-000000000000"),
            ("jti", 5),
            ("sub", "00000000-0000-0000-0000-000000000000"),
            ("ws", "00000000-0000-0000-0000-000000000000"),
            ("role", "admin"),
        ]
    }
    return {
        "garbage": "garbage",
        "three dots": "...",
        "another secret": forged(claims, header, b"x" * 32),
        "empty secret": forged(claims, header, b""),
        "alg none": forged(claims, {"alg": "none", "typ": "JWT"}, secret),
        "alg None": forged(claims, {"alg": "None", "typ": "JWT"}, secret),
        "alg HS512": forged(claims, {"alg": "HS512", "typ": "JWT"}, secret, "sha512"),
        "alg RS256": forged(claims, {"alg": "RS256", "typ": "JWT"}, secret),
        "no alg": forged(claims, {"typ": "JWT"}, secret),
        "kid as path": forged(claims, {**header, "kid": "../../dev/null"}, b""),
        "own jwk": forged(claims, {**header, "jwk": {"kty": "oct", "k": "eA"}}, b"x"),
        "jku": forged(claims, {**header, "jku": "http://127.0.0.1:1/"}, b"x"),
        "crit": forged(claims, {**header, "crit": ["exp2"], "exp2": 1}, secret),
        "signature cut": f"{head}.{body}.{signature[:-4]}",
        "signature gone": f"{head}.{body}.",
        "body swapped": f"{head}.{swapped}.{signature}",
        "a hash": hashlib.sha256(good.encode()).hexdigest(),
        "very long": "e" * 20_000,
        **without,
        **changed,
    }


async def routes_of(platform: Platform) -> list[tuple[str, str, str]]:
    """Method, path and access rule of every route in the OpenAPI document."""
    async with platform.client() as http:
        document = (await http.get("/api/openapi.json")).json()
    return [
        (method.upper(), path, operation["x-access"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


def filled(path: str) -> str:
    return path.replace("{number}", "1").replace("{", "0").replace("}", "")


class TestTokens:
    async def test_no_protected_route_opens_without_a_good_one(self, platform: Platform, member: Member) -> None:
        protected = [(method, path) for method, path, rule in await routes_of(platform) if rule != "public"]
        assert len(protected) > 15
        async with platform.client() as http:
            for method, path in protected:
                answer = await http.request(method, filled(path), content=b"{" * 10)
                if method == "HEAD":
                    assert answer.status_code == 401
                else:
                    problem(answer, 401, "unauthenticated")
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    async def test_no_forged_one_opens_anything(self, platform: Platform, member: Member) -> None:
        protected = [(method, path) for method, path, rule in await routes_of(platform) if rule != "public"]
        kinds = bad_tokens(platform.settings, member.token)
        async with platform.client() as http:
            for number, (kind, token) in enumerate(kinds.items()):
                method, path = protected[number % len(protected)]
                for target in {(method, path), ("GET", "/api/auth/me")}:
                    sent = {"Authorization": f"Bearer {token}"}
                    answer = await http.request(target[0], filled(target[1]), headers=sent)
                    assert answer.status_code == 401, (kind, target, answer.status_code, answer.text)

    @pytest.mark.parametrize("given", ["Basic YTpi", "Bearer", "bearer  ", "Token x", "{token}", "Bearer a b c"])
    async def test_other_authorizations_are_refused(self, platform: Platform, member: Member, given: str) -> None:
        async with platform.client() as http:
            answer = await http.get(
                "/api/auth/me", headers={"Authorization": given.format(token=member.token).rstrip()}
            )
        problem(answer, 401, "unauthenticated")

    async def test_a_token_in_the_address_is_no_token(self, platform: Platform, member: Member) -> None:
        async with platform.client() as http:
            problem(await http.get("/api/auth/me", params={"token": member.token}), 401, "unauthenticated")

    async def test_is_dead_at_once_after_logging_out(self, member: Member) -> None:
        assert (await member.http.get("/api/auth/me")).status_code == 200
        assert (await member.http.post("/api/auth/logout")).status_code == 204
        problem(await member.http.get("/api/auth/me"), 401, "unauthenticated")
        problem(await member.http.post("/api/auth/logout"), 401, "unauthenticated")
        problem(await member.http.post("/api/ws/ticket"), 401, "unauthenticated")

    async def test_is_dead_in_every_other_process_too(self, platform: Platform, member: Member) -> None:
        async with serving(platform.settings, projector=False) as other, other.client(member.token) as http:
            assert (await http.get("/api/auth/me")).status_code == 200
            assert (await member.http.post("/api/auth/logout")).status_code == 204
            await until_refused(http)

    async def test_an_end_that_nobody_heard_is_noticed_all_the_same(
        self, platform: Platform, member: Member, database: asyncpg.Connection
    ) -> None:
        assert (await member.http.get("/api/auth/me")).status_code == 200
        session = jwt.decode(member.token, options={"verify_signature": False})["jti"]
        await database.execute("UPDATE accounts.sessions SET ended_at = now() WHERE id = $1", session)
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'ravand-api-listener' AND datname = current_database()"
        )
        await until_refused(member.http)

    async def test_an_end_is_noticed_also_if_hearing_was_lost_while_earlier_ends_were_looked_for(
        self,
        member: Member,
        database: asyncpg.Connection,
        module_settings: Settings,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        session = jwt.decode(member.token, options={"verify_signature": False})["jti"]
        async with sessions_beside(module_settings) as sessions:
            await database.execute("ALTER TABLE accounts.sessions RENAME TO sessions_away")
            try:
                sessions._hearing_changed(True)
                look = sessions._rereading
                await until_said(capsys, "ended sessions could not be read")
            finally:
                await database.execute("ALTER TABLE accounts.sessions_away RENAME TO sessions")
            sessions._hearing_changed(False)
            assert look is not None
            await asyncio.wait({look})
            await database.execute("UPDATE accounts.sessions SET ended_at = now() WHERE id = $1", session)
            sessions._hearing_changed(True)
            assert sessions._rereading is not None
            await sessions._rereading
            assert sessions.is_ended(session)


class TestAdministrators:
    async def test_are_made_by_the_operator(self, platform: Platform) -> None:
        await create_admin(platform.settings, "root@example.org", PASSWORD, "Operator")
        assert (await login(platform, "root@example.org")).json()["user"]["role"] == "admin"

    async def test_may_be_somebody_who_is_there_whose_sessions_end(self, platform: Platform, member: Member) -> None:
        await create_admin(platform.settings, member.email.upper(), "another fine phrase", "Whoever")
        await until_refused(member.http)
        assert (await login(platform, member.email)).status_code == 401
        assert (await login(platform, member.email, "another fine phrase")).json()["user"]["role"] == "admin"

    @pytest.mark.parametrize(("email", "password"), [("no", PASSWORD), ("a@b.cd", "password123")])
    async def test_need_an_address_and_a_password(self, platform: Platform, email: str, password: str) -> None:
        with pytest.raises(ValueError, match=r"address|password"):
            await create_admin(platform.settings, email, password, "Operator")


async def test_a_table_that_cannot_be_tidied_is_reported_and_the_others_are_and_it_is_later(
    platform: Platform,
    member: Member,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def is_tidied(table: str) -> bool:
        return not await database.fetchval(f"SELECT EXISTS (SELECT FROM accounts.{table})")

    await login(platform, member.email, "not the right one")
    await database.execute("UPDATE accounts.login_failures SET at = at - interval '1 day'")
    await database.execute("UPDATE accounts.sessions SET expires_at = now() - interval '31 days'")
    await database.execute("ALTER TABLE accounts.sessions RENAME TO sessions_away")
    monkeypatch.setattr(building, "_TIDY_SECONDS", 0.05)
    async with sessions_beside(platform.settings) as sessions:
        tidying = asyncio.create_task(building._tidy(sessions, Throttle(sessions._pool, 10)))
        try:
            await until_said(capsys, "tidying failed")
            await eventually(lambda: is_tidied("login_failures"))
            await database.execute("ALTER TABLE accounts.sessions_away RENAME TO sessions")
            await eventually(lambda: is_tidied("sessions"))
        finally:
            await database.execute("ALTER TABLE IF EXISTS accounts.sessions_away RENAME TO sessions")
            tidying.cancel()
            await asyncio.wait({tidying})
