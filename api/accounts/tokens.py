"""Tokens: signed statements of who holds a session. Short to check, and worth nothing once the session has ended.

One algorithm, named here and never read from the token; every claim is required. The session's id (`jti`) is what ends at a
logout, never the token's text: the same claims can be written in several texts.
"""

from __future__ import annotations

import time
from collections import OrderedDict

import jwt

from adapters.settings import AuthSettings
from api.access import Caller
from api.errors import Problem, unauthenticated

_ALGORITHM = "HS256"
_ISSUER, _AUDIENCE, _KIND = "ravand", "ravand-api", "access"
_REQUIRED = ["iss", "aud", "exp", "nbf", "iat", "jti", "sub", "typ", "ws", "role"]
_LEEWAY_SECONDS = 2.0
"""How far the clocks of two API machines may differ when a token is new."""
_REMEMBERED = 10_000
_LONGEST = 4096


class Tokens:
    """Makes and reads them."""

    def __init__(self, settings: AuthSettings) -> None:
        self._secret = settings.secret.get_secret_value().encode()
        self._read: OrderedDict[str, Caller] = OrderedDict()

    def issue(self, caller: Caller) -> str:
        """The token of a session."""
        now = int(time.time())
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "typ": _KIND,
            "sub": caller.user,
            "ws": caller.workspace,
            "role": caller.role,
            "jti": caller.session,
            "iat": now,
            "nbf": now,
            "exp": int(caller.expires_at),
        }
        return jwt.encode(claims, self._secret, algorithm=_ALGORITHM)

    def read(self, token: str) -> Caller:
        """Who the token speaks for. Raises 401. Whether the session lives is another question (`sessions`)."""
        caller = self._read.get(token)
        if caller is None:
            caller = self._verified(token)
            self._read[token] = caller
            if len(self._read) > _REMEMBERED:
                self._read.popitem(last=False)
        if caller.expires_at <= time.time():
            self._read.pop(token, None)
            raise _refused("The token has expired. Log in again.")
        return caller

    def _verified(self, token: str) -> Caller:
        if len(token) > _LONGEST:
            raise _refused("The token is not valid.")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                leeway=_LEEWAY_SECONDS,
                options={"require": _REQUIRED, "strict_aud": True},
            )
        except jwt.ExpiredSignatureError:
            raise _refused("The token has expired. Log in again.") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise _refused("The token is not valid.") from None
        texts = [claims[name] for name in ("sub", "ws", "role", "jti")]
        if claims["typ"] != _KIND or not all(isinstance(text, str) and text for text in texts):
            raise _refused("The token is not valid.")
        user, workspace, role, session = texts
        return Caller(user=user, workspace=workspace, role=role, session=session, expires_at=float(claims["exp"]))


def _refused(detail: str) -> Problem:
    return unauthenticated(detail, error="invalid_token")
