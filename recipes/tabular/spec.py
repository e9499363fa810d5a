"""The recipe `tabular`: what people may ask of it, and whether a dataset suits. Without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from recipes.parameters import LoopParameters
from recipes.task import MINIMUM_ROWS, class_problem, decide
from schemas.dataset_profile import Column, DatasetProfile
from schemas.recipe import ParameterProblem, RecipeSpec

ColumnName = Annotated[str, Field(min_length=1, max_length=1000)]


class TabularParameters(LoopParameters):
    """A column to learn, the columns to learn it from, and the size of the network."""

    target: ColumnName = Field(description="The column to predict.")
    task: Literal["auto", "classification", "regression"] = Field(
        "auto", description="Predict one of a few values, or a number; `auto` goes by the target column."
    )
    features: list[ColumnName] | None = Field(
        None, min_length=1, max_length=10_000, description="The columns to learn from; empty takes all others."
    )
    ignore: list[ColumnName] = Field([], max_length=10_000, description="Columns to leave out.")
    hidden: list[Annotated[int, Field(ge=1, le=8192)]] = Field(
        [64, 64], max_length=16, description="Sizes of the hidden layers; none gives a linear model."
    )
    embedding_size: int = Field(8, ge=1, le=256, description="How many numbers stand for a value of a text column.")
    max_categories: int = Field(
        1000, ge=2, le=100_000, description="How many different values of a text column are told apart."
    )

    def feature_names(self, columns: Sequence[str]) -> list[str]:
        """The columns to learn from, in the order of the table."""
        wanted = set(columns if self.features is None else self.features) - {self.target, *self.ignore}
        return [name for name in columns if name in wanted]


def check(parameters: TabularParameters, profile: DatasetProfile) -> Sequence[ParameterProblem]:
    """Everything wrong with training these parameters on that dataset, each problem named by its field."""
    if profile.format not in TABULAR.formats:
        return [ParameterProblem("dataset_id", f"This recipe reads CSV and Parquet tables, not {profile.format}.")]
    return [*_target_problems(parameters, profile), *_feature_problems(parameters, profile)]


def _target_problems(parameters: TabularParameters, profile: DatasetProfile) -> Iterator[ParameterProblem]:
    field = "parameters.target"
    target = profile.column(parameters.target)
    if target is None:
        names = ", ".join(repr(column.name) for column in profile.columns[:20])
        yield ParameterProblem(field, f"The dataset has no column {parameters.target!r}; it has {names}.")
        return
    rows = profile.rows - target.missing
    if rows == 0:
        yield ParameterProblem(field, f"Every value of {target.name!r} is missing.")
        return
    if rows < MINIMUM_ROWS:
        yield ParameterProblem(
            field, f"Only {rows} rows have a value in {target.name!r}; at least {MINIMUM_ROWS} are needed."
        )
        return
    if target.distinct == 1:
        yield ParameterProblem(field, f"{target.name!r} has the same value in every row: there is nothing to learn.")
        return
    yield from _task_problems(parameters, target, rows)


def _task_problems(parameters: TabularParameters, target: Column, rows: int) -> Iterator[ParameterProblem]:
    field = "parameters.target"
    if target.type in ("array", "image"):
        yield ParameterProblem(field, f"{target.name!r} holds {target.type}s; a number or a text is needed.")
        return
    if parameters.task == "regression" and target.type not in ("integer", "number"):
        yield ParameterProblem("parameters.task", f"{target.name!r} is {target.type}: regression needs numbers.")
        return
    if target.type == "datetime":
        yield ParameterProblem(field, f"{target.name!r} is a date; a number or a text is needed.")
        return
    task = decide(parameters.task, target.type, target.distinct or rows, rows)
    problem = class_problem(target.distinct or rows, rows) if task == "classification" else None
    if problem:
        yield ParameterProblem(field, f"{target.name!r} {problem}")
    if task == "regression" and parameters.class_weights != "none":
        yield ParameterProblem("parameters.class_weights", "Class weights make sense for classification only.")


def _feature_problems(parameters: TabularParameters, profile: DatasetProfile) -> Iterator[ParameterProblem]:
    names = [column.name for column in profile.columns]
    for field, listed in (("features", parameters.features or []), ("ignore", parameters.ignore)):
        unknown = [name for name in listed if name not in names]
        if unknown:
            yield ParameterProblem(f"parameters.{field}", f"The dataset has no column {unknown[0]!r}.")
            return
    if parameters.features and parameters.target in parameters.features:
        yield ParameterProblem("parameters.features", "The column to predict cannot be one to learn from.")
        return
    features = parameters.feature_names(names)
    if not features:
        where = "parameters.features" if parameters.features or parameters.ignore else "parameters.target"
        yield ParameterProblem(where, "There is no other column to learn from.")
        return
    varying = [c for name in features if (c := profile.column(name)) and c.missing < profile.rows and c.distinct != 1]
    if not varying:
        yield ParameterProblem("parameters.features", "Every column to learn from is empty or the same in every row.")


TABULAR = RecipeSpec(
    name="tabular",
    version=1,
    title="Table",
    description="Learns one column of a CSV or Parquet table from the others, with a small neural network: "
    "classification for a text or few values, regression for a number.",
    formats=frozenset({"csv", "parquet"}),
    parameters=TabularParameters,
    train="recipes.tabular.train:train",
    predict="recipes.tabular.predict:load",
    check=check,
)
