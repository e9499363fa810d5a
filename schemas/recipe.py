"""The specification of a recipe: everything the API and the page need to know, without torch.

A recipe is a plugin: an entry point of the group `ravand.recipes` whose value is a `RecipeSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from schemas.dataset_profile import DatasetFormat, DatasetProfile


@dataclass(frozen=True, slots=True)
class ParameterProblem:
    """One thing wrong with a request's parameters, named by field (`parameters.target`) and said in one sentence."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class RecipeSpec:
    """What can be trained, described without importing torch.

    `parameters` is the pydantic model of what people send (extra fields forbidden); its JSON Schema is the form in the
    page and the validation in the API. `check` compares valid parameters with a dataset's profile. `train` is the dotted
    name `package.module:function` of the training function, imported only in the training child.
    """

    name: str
    version: int
    title: str
    description: str
    formats: frozenset[DatasetFormat]
    parameters: type[BaseModel]
    train: str
    predict: str
    """Dotted name `package.module:function` that predicts from a model file without any server."""
    check: Callable[[Any, DatasetProfile], Sequence[ParameterProblem]] = field(default=lambda _parameters, _profile: ())
