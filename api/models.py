"""Registered models: what there is, and the files of a version to take away."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

import msgspec
import structlog
from fastapi import Path, Request, Response
from fastapi.responses import StreamingResponse

from api import access
from api.answers import answered, moment, returns
from api.errors import Problem, not_found
from api.model_archive import Archive, CorruptModel, Member, checksum, in_order
from api.names import LONGEST
from api.pages import Cursor, Limit, link, read_cursor
from api.past import AsOf, version_of
from api.routing import router as new_router
from api.services import CurrentCaller, Services, services_of
from domain.workspace import Model
from projections import as_of as past
from projections import queries

log = structlog.get_logger("api")
router = new_router()
ModelName = Annotated[str, Path(description="As it was registered.")]


class FileAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a version."""

    name: str
    sha256: str
    bytes: int


class VersionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of a model."""

    name: str
    number: int
    job_id: str
    attempt: int
    dataset_id: str
    recipe: str
    metrics: dict[str, float]
    files: list[FileAnswer]
    created_at: str
    version: int


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A model by name, with its newest version."""

    name: str
    versions: int
    latest: VersionAnswer
    version: int


class ModelWithVersions(msgspec.Struct, frozen=True, kw_only=True):
    """A model by name, with its versions, newest first."""

    name: str
    versions: list[VersionAnswer]
    version: int


@router.get("/models", responses=returns(200, list[ModelAnswer], problems=(401, 422)))
@access.user
async def list_models(
    request: Request, caller: CurrentCaller, limit: Limit = 50, cursor: Cursor = None, as_of: AsOf = None
) -> Response:
    """The workspace's models, the one with the newest version first."""
    services = await services_of(request)
    before, workspace = read_cursor(cursor), caller.workspace
    then = await version_of(services, caller, as_of)
    version = then if then is not None else await services.versions.current(workspace)
    if then is None:
        found = await queries.models_page(services.pool, workspace, limit=limit + 1, before=before)
    else:
        found = await past.models_page(services.pool, workspace, then, limit=limit + 1, before=before)
    page = found[:limit]
    answers = [
        ModelAnswer(name=model.name, versions=model.number, latest=_version(model), version=model.version)
        for model in page
    ]
    more = link(request, page[-1].version) if len(found) > limit else {}
    return answered(request, answers, version=version, headers=more)


@router.get("/models/{name}", responses=returns(200, ModelWithVersions, problems=(401, 404, 422)))
@access.user
async def one_model(
    name: ModelName,
    request: Request,
    caller: CurrentCaller,
    limit: Limit = 200,
    cursor: Cursor = None,
    as_of: AsOf = None,
) -> Response:
    """One model with its versions, newest first."""
    services = await services_of(request)
    before, workspace = read_cursor(cursor), caller.workspace
    then = await version_of(services, caller, as_of)
    version = then if then is not None else await services.versions.current(workspace)
    found = []
    if not _may_be_a_name(name):
        pass  # Not found, below.
    elif then is None:
        found = await queries.model_versions(services.pool, workspace, name, limit=limit + 1, before=before)
    else:
        found = await past.model_versions(services.pool, workspace, name, then, limit=limit + 1, before=before)
    if not found and before is None:
        raise not_found("model")
    page = found[:limit]
    answer = ModelWithVersions(
        name=name,
        versions=[_version(model) for model in page],
        version=max((model.version for model in page), default=version),
    )
    more = link(request, page[-1].version) if len(found) > limit else {}
    return answered(request, answer, version=version, headers=more)


DOWNLOAD = "/models/{name}/versions/{number}/download"


@router.head(DOWNLOAD, include_in_schema=False)
@router.get(
    DOWNLOAD,
    responses={
        200: {"description": "A zip with `model.safetensors` and `manifest.json`.", "content": {"application/zip": {}}},
        206: {"description": "The part that was asked for.", "content": {"application/zip": {}}},
        304: {"description": "You have it already."},
    },
)
@access.user
async def download_model(name: ModelName, number: str, request: Request, caller: CurrentCaller) -> Response:
    """A version's files in a zip: always the same bytes, so a download can be resumed (Range, ETag)."""
    services = await services_of(request)
    model = None
    if _may_be_a_name(name) and number.isascii() and number.isdecimal() and 0 < len(number) < 10:
        model = await queries.model_version(services.pool, caller.workspace, name, int(number))
    if model is None:
        raise not_found("model version")
    files = in_order(model.files)
    etag = (
        '"' + hashlib.sha256("".join(f"{file.name}\0{file.sha256}\0" for file in files).encode()).hexdigest()[:40] + '"'
    )
    filename = quote(f"{model.name}-{number}.zip", safe="")
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"attachment; filename=\"model.zip\"; filename*=UTF-8''{filename}",
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    archive = await _archive(services, model)
    start, end = _range(request, etag, archive.size)
    headers["Content-Length"] = str(end - start)
    partial = (start, end) != (0, archive.size)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{archive.size}"
    body: AsyncIterator[bytes] = archive.stream(services.store, start, end)
    if request.method == "HEAD":
        body = _nothing()
    return StreamingResponse(body, 206 if partial else 200, headers=headers, media_type="application/zip")


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def _archive(services: Services, model: Model) -> Archive:
    """Read every file through once, in the first download of it by this process, to know and to check its bytes."""
    members = []
    for file in in_order(model.files):
        crc = services.checksums.get(file.sha256)
        if crc is None:
            try:
                crc = services.checksums.put(file.sha256, await checksum(services.store, file))
            except CorruptModel as error:
                log.error("model file is corrupt", model=model.name, number=model.number, file=file.name)
                detail = "The stored file of this version is damaged, so it is not handed out. Tell the operator."
                raise Problem(500, "model_corrupt", detail) from error
        members.append(Member(file.name, file.uri, file.bytes, crc))
    return Archive(members)


_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def _range(request: Request, etag: str, size: int) -> tuple[int, int]:
    """The part that is asked for. Several at once, and forms that we do not know, give the whole (RFC 9110, 14.2)."""
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    condition = request.headers.get("if-range")
    if not asked or asked[0] == "bytes=-" or (condition is not None and condition != etag):
        return 0, size
    if asked[1]:
        start, end = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else size, size)
    else:
        start, end = max(size - int(asked[2]), 0), size
    if start >= end:
        raise Problem(
            416, "range_not_satisfiable", f"The archive has {size} bytes.", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, end


def _matches(condition: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (condition or "")[:1000].split(",")]
    return etag in tags or "*" in tags


def _may_be_a_name(name: str) -> bool:
    return 0 < len(name) <= LONGEST and "\0" not in name


def _version(model: Model) -> VersionAnswer:
    return VersionAnswer(
        name=model.name,
        number=model.number,
        job_id=model.job_id,
        attempt=model.attempt,
        dataset_id=model.dataset_id,
        recipe=model.recipe,
        metrics=model.metrics,
        files=[FileAnswer(name=file.name, sha256=file.sha256, bytes=file.bytes) for file in in_order(model.files)],
        created_at=moment(model.registered_at),
        version=model.version,
    )
