"""Register, log in, log out, and who am I."""

from __future__ import annotations

import msgspec
import structlog
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api import access
from api.accounts import emails, people
from api.accounts.passwords import weakness
from api.accounts.people import EmailTaken, User
from api.answers import Answer, returns
from api.errors import Problem, invalid, unauthenticated
from api.names import checked_name
from api.routing import router as new_router
from api.services import CurrentCaller, services_of

log = structlog.get_logger("api")
router = new_router()


class Body(BaseModel):
    """Strict: nothing that is not asked for, and no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RegisterRequest(Body):
    """Who is new."""

    email: str = Field(max_length=1000)
    password: str = Field(description="At least 10 characters, and none of the common ones.")
    name: str


class LoginRequest(Body):
    """Who is back."""

    email: str = Field(max_length=1000)
    password: str


class LoggedIn(msgspec.Struct, frozen=True, kw_only=True):
    """A token, and whose it is."""

    token: str
    user: User


@router.post("/auth/register", status_code=201, responses=returns(201, LoggedIn, problems=(409, 422, 429)))
@access.public
async def register(body: RegisterRequest, request: Request) -> Response:
    """Make an account with a personal workspace, and log in with it."""
    services = await services_of(request)
    email, name = _checked(body)
    hashed = await services.hasher.hash(body.password)
    async with services.pool.acquire() as connection, connection.transaction():
        try:
            async with connection.transaction():
                known = await people.add(connection, email=email, name=name, password_hash=hashed)
        except EmailTaken:
            raise Problem(409, "email_taken", "There is an account with this e-mail address already.") from None
        _, token = await services.sessions.begin(connection, known.user.id, known.workspace, known.user.role)
    log.info("user registered", user=known.user.id, workspace=known.workspace)
    return Answer(LoggedIn(token=token, user=known.user), 201)


def _checked(body: RegisterRequest) -> tuple[str, str]:
    problems: list[tuple[str, str]] = []
    email = name = ""
    try:
        email = emails.checked(body.email)
    except ValueError as error:
        problems.append(("email", str(error)))
    try:
        name = checked_name(body.name)
    except ValueError as error:
        problems.append(("name", str(error)))
    if weak := weakness(body.password, email=email, name=name):
        problems.append(("password", weak))
    if problems:
        raise invalid(*problems)
    return email, name


@router.post("/auth/login", responses=returns(200, LoggedIn, problems=(401, 422, 429)))
@access.public
async def login(body: LoginRequest, request: Request) -> Response:
    """A new token for an account."""
    services = await services_of(request)
    async with services.throttle.turn(body.email):
        known = await people.by_email(services.pool, body.email)
        hashed = known.password_hash if known else None
        if not await services.hasher.verify(body.password, hashed) or known is None:
            await services.throttle.failed(body.email)
            log.info("login failed", user=known.user.id if known else None)
            raise unauthenticated("The e-mail address or the password is wrong.")
    async with services.pool.acquire() as connection:
        _, token = await services.sessions.begin(connection, known.user.id, known.workspace, known.user.role)
    return Answer(LoggedIn(token=token, user=known.user))


@router.post("/auth/logout", status_code=204, responses={204: {"description": "The token is dead."}})
@access.user
async def logout(request: Request, caller: CurrentCaller) -> Response:
    """End the session: its token is dead at once, and its sockets are closed."""
    services = await services_of(request)
    await services.sessions.end(caller.session)
    return Response(status_code=204)


@router.get("/auth/me", responses=returns(200, User, problems=(401,)))
@access.user
async def me(request: Request, caller: CurrentCaller) -> Response:
    """Who the token belongs to."""
    services = await services_of(request)
    user = await people.by_id(services.pool, caller.user)
    if user is None:
        raise unauthenticated("The account is gone.", error="invalid_token")
    return Answer(user)
