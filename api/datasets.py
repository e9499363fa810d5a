"""Datasets: received, looked at, kept by content, registered on the log; and shown."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import Query, Request, Response

from api import access
from api.answers import answered, moment, returns
from api.errors import Problem, invalid, not_found
from api.ids import is_id
from api.names import checked_name, name_of_file
from api.pages import Cursor, Limit, link, read_cursor
from api.past import AsOf, version_of
from api.proposals import told_of
from api.routing import router as new_router
from api.services import CurrentCaller, Services, services_of
from api.uploads import Upload, received
from domain.events import DatasetRegistered, ObjectRef
from domain.workspace import Dataset
from projections import as_of as past
from projections import queries
from schemas.dataset_profile import DatasetProfile

log = structlog.get_logger("api")
router = new_router()


class ColumnAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A column, or one array of a file."""

    name: str
    type: str
    missing: int


class DatasetAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable dataset version; `number` is its ordinal under the name."""

    id: str
    name: str
    number: int
    sha256: str
    format: str
    bytes: int
    rows: int
    columns: list[ColumnAnswer]
    created_at: str
    created_by: str
    version: int


class PreviewAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The first rows, each in the order of the columns."""

    columns: list[ColumnAnswer]
    rows: list[tuple[Any, ...]]


@router.post(
    "/datasets",
    status_code=201,
    responses=returns(201, DatasetAnswer, problems=(401, 413, 422, 507)),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {
                            "file": {"type": "string", "format": "binary"},
                            "name": {"type": "string", "description": "The file's own name by default."},
                        },
                    }
                }
            },
        }
    },
)
@access.user
async def register_dataset(request: Request, caller: CurrentCaller) -> Response:
    """Upload a CSV, a Parquet file, an NPZ file or a zip of folders of images: the next version under its name."""
    services = await services_of(request)
    limits = services.settings.datasets
    services.profiler.prepare()
    async with received(request, services.store.staging(), limits.max_bytes) as upload:
        name = _name_of(upload)
        body = {"name": name, "filename": upload.filename, "sha256": upload.sha256}
        ask = services.proposals.ask(caller, "datasets.register", request.headers, body)
        verdict = await services.proposals.earlier(ask)
        if verdict is None:
            profile = await services.profiler.profile(upload.path, upload.filename, limits.profile_timeout_seconds)
            event = await _keep(services, name, upload, profile)
            verdict = await services.proposals.append(ask, ask.id, event)
    if verdict.refusal is not None:
        raise Problem(409, verdict.refusal, "The dataset was not registered.")
    with told_of(ask, ask.id):
        dataset = await services.catalog.dataset(caller.workspace, ask.id)
        if dataset is None:
            raise AssertionError("an effective registration has no dataset")
        log.info(
            "dataset registered", dataset=dataset.id, workspace=caller.workspace, rows=dataset.rows, bytes=dataset.bytes
        )
        return answered(request, await _answer(services, dataset), 201, version=dataset.version)


def _name_of(upload: Upload) -> str:
    unknown = set(upload.fields) - {"name"}
    if unknown:
        raise invalid(*((name, "There is no such field.") for name in sorted(unknown)))
    given = upload.fields.get("name")
    if given is None:
        return name_of_file(upload.filename) or "dataset"
    try:
        return checked_name(given)
    except ValueError as error:
        raise invalid(("name", str(error))) from None


async def _keep(services: Services, name: str, upload: Upload, profile: DatasetProfile) -> DatasetRegistered:
    """Put the file and its profile under the hashes of their bytes; the same bytes twice are one object."""
    described = msgspec.json.encode(profile)
    profile_hash = hashlib.sha256(described).hexdigest()
    uri, profile_uri = f"datasets/{upload.sha256}", f"profiles/{profile_hash}"
    await services.store.put_file(uri, upload.path, "create")
    await services.store.put(profile_uri, described, "create")
    return DatasetRegistered(
        name=name,
        uri=uri,
        sha256=upload.sha256,
        format=profile.format,
        bytes=upload.bytes,
        rows=profile.rows,
        profile=ObjectRef(uri=profile_uri, sha256=profile_hash),
    )


@router.get("/datasets", responses=returns(200, list[DatasetAnswer], problems=(401, 422)))
@access.user
async def list_datasets(
    request: Request, caller: CurrentCaller, limit: Limit = 50, cursor: Cursor = None, as_of: AsOf = None
) -> Response:
    """The workspace's dataset versions, newest first."""
    services = await services_of(request)
    before, workspace = read_cursor(cursor), caller.workspace
    then = await version_of(services, caller, as_of)
    version = then if then is not None else await services.versions.current(workspace)
    if then is None:
        found = await queries.datasets_page(services.pool, workspace, limit=limit + 1, before=before)
    else:
        found = await past.datasets_page(services.pool, workspace, then, limit=limit + 1, before=before)
    page = found[:limit]
    answers = [await _answer(services, dataset) for dataset in page]
    more = link(request, page[-1].version) if len(found) > limit else {}
    return answered(request, answers, version=version, headers=more)


@router.get("/datasets/{dataset_id}", responses=returns(200, DatasetAnswer, problems=(401, 404, 422)))
@access.user
async def one_dataset(dataset_id: str, request: Request, caller: CurrentCaller) -> Response:
    """One dataset version."""
    services = await services_of(request)
    dataset = await _dataset(services, caller.workspace, dataset_id)
    version = await services.versions.current(caller.workspace)
    return answered(request, await _answer(services, dataset), version=version)


@router.get("/datasets/{dataset_id}/preview", responses=returns(200, PreviewAnswer, problems=(401, 404, 422)))
@access.user
async def preview_dataset(
    dataset_id: str,
    request: Request,
    caller: CurrentCaller,
    rows: Annotated[int, Query(ge=1, le=1000, description="At most; 100 rows are kept for this.")] = 20,
) -> Response:
    """Its first rows."""
    services = await services_of(request)
    dataset = await _dataset(services, caller.workspace, dataset_id)
    profile = await services.catalog.profile(dataset)
    version = await services.versions.current(caller.workspace)
    answer = PreviewAnswer(columns=_columns(profile), rows=list(profile.preview[:rows]))
    return answered(request, answer, version=version)


async def _dataset(services: Services, workspace: str, id: str) -> Dataset:
    dataset = await services.catalog.dataset(workspace, id) if is_id(id) else None
    if dataset is None:
        raise not_found("dataset")
    return dataset


async def _answer(services: Services, dataset: Dataset) -> DatasetAnswer:
    return DatasetAnswer(
        id=dataset.id,
        name=dataset.name,
        number=dataset.number,
        sha256=dataset.sha256,
        format=dataset.format,
        bytes=dataset.bytes,
        rows=dataset.rows,
        columns=_columns(await services.catalog.profile(dataset)),
        created_at=moment(dataset.registered_at),
        created_by=dataset.registered_by,
        version=dataset.version,
    )


def _columns(profile: DatasetProfile) -> list[ColumnAnswer]:
    return [ColumnAnswer(name=column.name, type=column.type, missing=column.missing) for column in profile.columns]
