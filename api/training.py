"""Asking for a training job: everything that can be wrong with it is said at once, before anything is on the log."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
import structlog
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api import access
from api.answers import Answer, answered, returns
from api.errors import Problem, invalid, not_found, problem_of
from api.ids import is_id
from api.job_answers import RequestedAnswer, requested_answer
from api.names import Name, without_ending
from api.routing import router as new_router
from api.services import CurrentCaller, Services, services_of
from domain.events import DatasetRef, JobRequested
from domain.workspace import Dataset
from recipes.catalog import recipes
from schemas.dataset_profile import DatasetProfile
from schemas.recipe import RecipeSpec

log = structlog.get_logger("api")
router = new_router()


class TrainRequest(BaseModel):
    """What to train, on what, and how."""

    model_config = ConfigDict(extra="forbid", strict=True)

    recipe: str = Field(max_length=200, description="One of `GET /api/recipes`.")
    dataset_id: str
    parameters: dict[str, Any] = Field(
        {}, description="As the recipe's schema says; what is left out takes its default."
    )
    name: Name | None = Field(None, description="Shown in lists; the dataset's name by default.")
    model: Name | None = Field(None, description="Under which the model is registered; the dataset's name by default.")
    priority: int = Field(0, ge=-1000, le=1000, description="Higher goes first.")


@router.get("/recipes", responses=returns(200, list[dict[str, Any]], problems=(401, 422)))
@access.user
async def list_recipes(request: Request, caller: CurrentCaller) -> Response:
    """What can be trained, with the JSON Schema of each recipe's parameters."""
    return Answer(_all_described())


@cache
def _all_described() -> bytes:
    return msgspec.json.encode([_described(spec) for _, spec in sorted(recipes().items())])


def _described(spec: RecipeSpec) -> Mapping[str, Any]:
    return {
        "name": spec.name,
        "version": spec.version,
        "title": spec.title,
        "description": spec.description,
        "formats": sorted(spec.formats),
        "parameters": spec.parameters.model_json_schema(),
    }


@router.post("/train", status_code=202, responses=returns(202, RequestedAnswer, problems=(401, 404, 409, 413, 422)))
@access.user
async def request_job(body: TrainRequest, request: Request, caller: CurrentCaller) -> Response:
    """Ask for a training job. Answered once the log's order has accepted it."""
    services = await services_of(request)
    ask = services.proposals.ask(caller, "train", request.headers, body.model_dump(exclude_unset=True))
    event = await _event(services, caller.workspace, body)
    verdict = await services.proposals.earlier(ask)
    if verdict is None:
        verdict = await services.proposals.append(ask, ask.id, event)
        log.info("job requested", job=ask.id, workspace=caller.workspace, recipe=event.recipe)
    if verdict.version is None:
        raise Problem(409, str(verdict.refusal), "The job was refused.")
    services.versions.saw(caller.workspace, verdict.version)
    return answered(request, requested_answer(verdict.subject, verdict.version, event), 202, version=verdict.version)


async def _event(services: Services, workspace: str, body: TrainRequest) -> JobRequested:
    spec = recipes().get(body.recipe)
    if spec is None:
        raise invalid(("recipe", f"There is no such recipe; there are: {', '.join(sorted(recipes()))}."))
    dataset = await services.catalog.dataset(workspace, body.dataset_id) if is_id(body.dataset_id) else None
    if dataset is None:
        raise not_found("dataset")
    parameters = checked_parameters(spec, body.parameters, await services.catalog.profile(dataset))
    name = without_ending(dataset.name)
    return JobRequested(
        name=body.name or name,
        recipe=spec.name,
        recipe_version=spec.version,
        parameters=parameters.model_dump(mode="json"),
        epochs=getattr(parameters, "epochs", 1),
        dataset=_reference(dataset),
        model=body.model or name,
        max_losses=services.settings.jobs.max_losses,
        priority=body.priority,
    )


def _reference(dataset: Dataset) -> DatasetRef:
    return DatasetRef(id=dataset.id, uri=dataset.uri, sha256=dataset.sha256, format=dataset.format)


def checked_parameters(spec: RecipeSpec, given: Mapping[str, Any], profile: DatasetProfile) -> BaseModel:
    """The recipe's parameters, complete. Raises 422 that names every wrong one, also those that only the dataset shows."""
    problems: list[tuple[str, str]] = []
    try:
        parameters: BaseModel | None = spec.parameters.model_validate(dict(given))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        problems = [problem_of(fault, prefix="parameters") for fault in faults]
        parameters = _without(spec, given, {str(fault["loc"][0]) for fault in faults if fault["loc"]})
    if profile.format not in spec.formats:
        formats = ", ".join(sorted(spec.formats))
        problems.append(("dataset_id", f"This recipe reads {formats}, not {profile.format}."))
    elif parameters is not None:
        named = {field for field, _ in problems}
        found = spec.check(parameters, profile)
        problems += [(problem.field, problem.message) for problem in found if problem.field not in named]
    if problems or parameters is None:
        raise invalid(*problems)
    return parameters


def _without(spec: RecipeSpec, given: Mapping[str, Any], wrong: set[str]) -> BaseModel | None:
    """What is left is checked against the dataset too, so that one answer names everything."""
    try:
        return spec.parameters.model_validate({name: value for name, value in given.items() if name not in wrong})
    except ValidationError:
        return None
