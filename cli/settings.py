"""`ravand settings`: every setting with its environment variable, default and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr

from adapters.settings import Settings


def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page docs/configuration.md.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every setting: its environment variable, its default and what it means. Values in force are not shown."""
    rows = list(described())
    if json:
        from cli.output import print_json

        print_json([{"variable": name, "default": default, "meaning": meaning} for name, default, meaning in rows])
    elif markdown:
        typer.echo(page(), nl=False)
    else:
        from cli.output import print_table

        print_table(("variable", "default", "meaning"), rows, empty="")


def described() -> Iterator[tuple[str, str, str]]:
    """(environment variable, default, meaning) of every setting, in the order of the source."""
    yield from _fields(Settings, "RAVAND_")


def page() -> str:
    """The documentation page."""
    lines = [
        "# Configuration",
        "",
        "Every setting comes from the environment; `ravand settings` prints this list. Durations are seconds, sizes bytes.",
        "`ravand up` sets what its services need; `ravand env` prints the settings of a running one.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
        *(f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |" for name, default, meaning in described()),
        "",
        "Beside these the command line reads `RAVAND_SERVER`, `RAVAND_TOKEN`, `RAVAND_PASSWORD` (address, token and password to",
        "use instead of the last login's), `RAVAND_CONFIG_DIR` (where a login is kept) and `RAVAND_CACHE_DIR` (where the",
        "embedded broker's jars are kept).",
        "",
    ]
    return "\n".join(lines)


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from _fields(type(field.default), f"{prefix}{name.upper()}__")
        else:
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            yield f"{prefix}{name.upper()}", _shown(field.default), meaning


def _shown(default: Any) -> str:
    match default:
        case None | ():
            return ""
        case SecretStr():
            return "a development value"
        case _:
            return str(default)
