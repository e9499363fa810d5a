"""Which recipes there are: the two of this repository and whatever installed packages add. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from recipes.images.spec import IMAGES
from recipes.tabular.spec import TABULAR
from schemas.recipe import RecipeSpec

GROUP = "ravand.recipes"


class UnknownRecipe(LookupError):
    """No installed recipe has this name, or not in this version."""


@cache
def recipes() -> Mapping[str, RecipeSpec]:
    """Every recipe by its name. A plugin cannot take the name of a recipe that is already there."""
    found = {spec.name: spec for spec in (TABULAR, IMAGES)}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        spec = entry.load()
        if not isinstance(spec, RecipeSpec):
            raise TypeError(f"The entry point {entry.name} = {entry.value} of {GROUP} is no RecipeSpec.")
        if found.setdefault(spec.name, spec) != spec:
            raise ValueError(f"Two recipes are named {spec.name!r}; one of them is {entry.value}.")
    return MappingProxyType(found)


def recipe(name: str, version: int | None = None) -> RecipeSpec:
    """The recipe of that name (and version, where one is asked for), or `UnknownRecipe`."""
    spec = recipes().get(name)
    if spec is None:
        raise UnknownRecipe(f"There is no recipe {name!r}; there are: {', '.join(sorted(recipes()))}.")
    if version is not None and spec.version != version:
        raise UnknownRecipe(f"The recipe {name!r} is here in version {spec.version}, not {version}.")
    return spec


def function(dotted: str) -> Callable[..., Any]:
    """Import what `package.module:function` names. This is where torch comes in, so only where training happens."""
    module, _, name = dotted.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
