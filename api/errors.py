"""Problems: what an answer says when something is wrong (RFC 9457), and the one place that knows which HTTP status that is.

Every problem has a stable `code`, a sentence for the person who asked, and the request's `id`, which stands in the log
line about it as well. Nothing of a request's values is repeated in it.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import asyncpg
import msgspec
import structlog
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from adapters.dataset_files.errors import DatasetTooLarge, ReadersUnavailable, UnreadableDataset
from adapters.objects import ObjectMissing, StoreFull, StoreUnavailable
from adapters.postgres import is_outage

log = structlog.get_logger("api")

MEDIA_TYPE = "application/problem+json"


class Problem(HTTPException):
    """Answered instead of a result. `more` are members of the document beside the standard ones.

    An HTTPException, because FastAPI lets only those out of the reading of a body.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.code = code
        self.more = more if errors is None else {"errors": list(errors), **more}

    def document(self, id: str) -> dict[str, Any]:
        """The document's members."""
        return {
            "type": f"urn:ravand:problem:{self.code}",
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": self.detail,
            "code": self.code,
            "id": id,
            **self.more,
        }


def not_found(what: str = "resource") -> Problem:
    """The same for what never was, what is somebody else's, and what is no id."""
    return Problem(404, "not_found", f"There is no such {what} here.")


def invalid(*problems: tuple[str, str]) -> Problem:
    """Fields that are wrong, each named with what is wrong about it."""
    errors = [{"field": field, "message": message} for field, message in problems]
    first = errors[0] if errors else {"field": "", "message": "The request is not valid."}
    said = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, "invalid", said + more, errors=errors)


def malformed(detail: str) -> Problem:
    """A body that is not the JSON that was asked for."""
    return Problem(422, "malformed", detail)


def too_large(detail: str, code: str = "too_large") -> Problem:
    """More bytes than are taken."""
    return Problem(413, code, detail)


def unauthenticated(detail: str, *, error: str | None = None) -> Problem:
    """Nobody whom we know is asking. RFC 6750 names the header."""
    challenge = 'Bearer realm="ravand"' + (f', error="{error}"' if error else "")
    return Problem(401, "unauthenticated", detail, headers={"WWW-Authenticate": challenge})


def unavailable(code: str, detail: str, *, retry_after: int = 1, **more: Any) -> Problem:
    """Something that we need is away for now."""
    return Problem(503, code, detail, headers={"Retry-After": str(retry_after)}, **more)


def stopping(method: str) -> Problem:
    """The server ends, and has waited for this request for as long as it may."""
    began = "The server is stopping and was not done with this in time"
    if method in ("GET", "HEAD"):
        return unavailable("stopping", f"{began}. Nothing was changed; ask again.")
    return unavailable(
        "outcome_unknown",
        f"{began}, so it may or may not take effect. Look whether it has, or send it again with the Idempotency-Key that it had.",
    )


def request_id(request: Request) -> str:
    """The id of the request, which problems and log lines share."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def answer(problem: Problem, id: str) -> Response:
    """The problem as a response."""
    return Response(
        msgspec.json.encode(problem.document(id)),
        problem.status_code,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


def of_exception(error: Exception) -> Problem:
    """The problem that an exception means to whoever asked."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return _of_validation(error)
        case StarletteHTTPException():
            return _of_framework(error)
        case StoreFull():
            return Problem(
                507, "storage_full", "There is no space left to store it. Nothing was kept; tell the operator."
            )
        case StoreUnavailable():
            return unavailable(
                "store_unavailable", "The object store does not answer. Try again shortly.", retry_after=2
            )
        case ObjectMissing():
            return Problem(
                500, "object_missing", "A stored object is missing. Quote the id of this answer to the operator."
            )
        case DatasetTooLarge():
            return too_large(error.message, error.code)
        case UnreadableDataset():
            where = {"row": error.row, "byte": error.byte}
            known: dict[str, Any] = {name: value for name, value in where.items() if value is not None}
            return Problem(
                422, error.code, error.message, errors=[{"field": "file", "message": error.message}], **known
            )
        case ReadersUnavailable():
            return unavailable(
                "readers_unavailable",
                "No process can be started now to look at the file. Nothing was kept; try again shortly.",
                retry_after=5,
            )
        case asyncpg.DiskFullError():
            return Problem(507, "storage_full", "The database has no space left. Nothing was kept; tell the operator.")
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Problem(507, "storage_full", "There is no space left to receive it. Nothing was kept.")
        case _ if is_outage(error):
            return unavailable(
                "read_model_unavailable", "The database does not answer. Nothing was changed; try again shortly."
            )
        case _:
            return Problem(
                500,
                "internal",
                "Something went wrong on our side. Quote the id of this answer to the operator; it stands in the log.",
            )


def _of_framework(error: StarletteHTTPException) -> Problem:
    match error.status_code:
        case 404:
            return Problem(404, "not_found", "There is nothing at this address.")
        case 405:
            return Problem(405, "method_not_allowed", "This address does not take that method.", headers=error.headers)
        case status:
            phrase = HTTPStatus(status).phrase
            return Problem(status, phrase.lower().replace(" ", "_"), f"{phrase}.", headers=error.headers)


def _of_validation(error: RequestValidationError) -> Problem:
    return invalid(*(problem_of(fault, drop=1) for fault in error.errors()))


def problem_of(fault: Mapping[str, Any], *, drop: int = 0, prefix: str = "") -> tuple[str, str]:
    """Field and sentence of one of pydantic's errors; `drop` leading parts of its location are ours, not the caller's."""
    parts = [str(part) for part in fault["loc"]][drop:]
    field = ".".join([prefix, *parts] if prefix else parts)
    return field, _sentence(fault)


_SENTENCES = {
    "missing": "This field is required.",
    "extra_forbidden": "There is no such field.",
    "model_type": "An object is expected.",
    "model_attributes_type": "An object is expected.",
    "dict_type": "An object is expected.",
    "finite_number": "A finite number is expected.",
}


def _sentence(fault: Mapping[str, Any]) -> str:
    said = _SENTENCES.get(fault["type"]) or str(fault["msg"]).removeprefix("Value error, ")
    return said if said.endswith(".") else f"{said}."


def report(error: Exception, problem: Problem, id: str, **about: Any) -> None:
    """The one log line about what went wrong on our side; what the caller did wrong is in the access lines."""
    if problem.status_code == 500:
        log.error("request failed", id=id, code=problem.code, exc_info=error, **about)
    elif problem.status_code > 500:
        log.warning("request refused", id=id, code=problem.code, reason=_reason(error), **about)


def _reason(error: Exception) -> str:
    root = error.__cause__ or error
    return f"{type(root).__name__}: {root}"[:300]


async def handle(request: Request, error: Exception) -> Response:
    """The answer to an exception, and the log line about it where it is ours."""
    problem = of_exception(error)
    id = request_id(request)
    request.scope.setdefault("state", {})["code"] = problem.code
    report(error, problem, id, method=request.method, path=request.scope["path"])
    return answer(problem, id)


def install(app: FastAPI) -> None:
    """Let the framework's own errors (no such address, wrong method) be problems too."""
    app.add_exception_handler(StarletteHTTPException, handle)
    app.add_exception_handler(RequestValidationError, handle)
