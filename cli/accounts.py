"""Commands about one's own account."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from cli import credentials
from cli.credentials import Credentials
from cli.errors import CommandError
from cli.output import print_json
from cli.server import Server

Url = Annotated[str, typer.Option("--server", help="Address of the server.", envvar="RAVAND_SERVER")]
Email = Annotated[str | None, typer.Option(help="E-mail address.")]
FromStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(
    server: Url = credentials.DEFAULT_SERVER,
    email: Email = None,
    name: Annotated[str | None, typer.Option(help="Name to show.")] = None,
    password_stdin: FromStdin = False,
    json: Json = False,
) -> None:
    """Make an account and log in with it."""
    email = email or typer.prompt("E-mail")
    body = {"email": email, "name": name or typer.prompt("Name"), "password": _password(password_stdin, confirm=True)}
    _keep(server, "/api/auth/register", body, json)


def login(
    server: Url = credentials.DEFAULT_SERVER, email: Email = None, password_stdin: FromStdin = False, json: Json = False
) -> None:
    """Log in; the token is kept in a private file for the commands that follow."""
    _keep(
        server,
        "/api/auth/login",
        {"email": email or typer.prompt("E-mail"), "password": _password(password_stdin)},
        json,
    )


def logout() -> None:
    """End the session: its token is dead at once, everywhere."""
    try:
        Server.of_user().http.post("/api/auth/logout")
    finally:
        credentials.forget()
    typer.echo("Logged out.")


def whoami(json: Json = False) -> None:
    """Who you are logged in as, and where."""
    server = Server.of_user()
    user = server.get("/api/auth/me")
    if json:
        print_json({**user, "server": server.url})
    else:
        typer.echo(f"{user['name']} <{user['email']}> ({user['role']}) at {server.url}")


def _keep(server: str, path: str, body: dict[str, Any], json: bool) -> None:
    answer = Server(server, None).post(path, body)
    file = credentials.save(Credentials(server.rstrip("/"), answer["token"], answer["user"]["email"]))
    if json:
        print_json({"user": answer["user"], "server": server.rstrip("/"), "credentials": str(file)})
    else:
        typer.echo(f"Logged in as {answer['user']['email']}.")


def _password(from_stdin: bool, confirm: bool = False) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if kept := os.environ.get("RAVAND_PASSWORD"):
        return kept
    if not sys.stdin.isatty():
        raise CommandError("There is no terminal to ask for the password.", "Give it with --password-stdin.")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=confirm))
