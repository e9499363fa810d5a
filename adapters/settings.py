"""Every setting, from the environment (`RAVAND_KAFKA__BOOTSTRAP_SERVERS`, ...), with its meaning.

A process reads its settings once, in its entry point, and hands the parts to what needs them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEVELOPMENT_SECRET = "development-secret-never-for-production-0123456789"  # noqa: S105 — refused in production, below.


class Part(BaseModel):
    """A group of settings; the docstrings of its fields are their documentation."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class KafkaSettings(Part):
    """How to reach the cluster that keeps the log."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """`host:port`, several separated by commas."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How connections are protected."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """How the password is proven, with a SASL protocol."""
    sasl_username: str | None = None
    """User of the cluster."""
    sasl_password: SecretStr | None = None
    """Password of that user."""
    ssl_cafile: Path | None = None
    """Certificate authority of the brokers; the system's own when not given."""
    ssl_certfile: Path | None = None
    """Client certificate, where the brokers ask for one."""
    ssl_keyfile: Path | None = None
    """Its key."""
    prefix: str = Field("ravand.", pattern=r"^[a-zA-Z0-9._-]{0,80}$")
    """Prefix of every topic name."""
    replication_factor: int = Field(1, ge=1, le=9)
    """Of the topics that `ravand admin init` creates; min.insync.replicas is one less from 3 on."""
    append_deadline_seconds: float = Field(10.0, gt=0)
    """After this long an append without an acknowledgement is answered as unknown."""


class DatabaseSettings(Part):
    """How to reach PostgreSQL."""

    url: SecretStr = SecretStr("postgresql://ravand@127.0.0.1:5432/ravand")
    """`postgresql://user:password@host:port/database`."""
    pool_size: int = Field(8, ge=1, le=200)
    """Connections that one process may hold."""
    statement_timeout_seconds: float = Field(10.0, gt=0)
    """After this long a statement is given up."""


class StoreSettings(Part):
    """Where datasets, checkpoints and models are kept."""

    url: str = "file:///var/lib/ravand/objects"
    """`file:///folder`, or an object store's URL (`s3://bucket/prefix`); credentials from its usual environment."""


class DatasetSettings(Part):
    """What may be uploaded."""

    max_bytes: int = Field(256 * 1024 * 1024, ge=1)
    """Largest file that may be uploaded."""
    max_unpack_ratio: int = Field(100, ge=1)
    """An archive may unpack to this many times its size."""
    profile_timeout_seconds: float = Field(120.0, gt=0)
    """How long reading an uploaded file may take."""


class AuthSettings(Part):
    """Accounts, tokens, and who may open a socket."""

    secret: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Signs tokens; at least 32 bytes. Production refuses to start on the default."""
    token_hours: float = Field(24.0, gt=0)
    """How long a login lasts."""
    origins: tuple[str, ...] = ()
    """Origins of web pages that may open sockets and call the API, beside the server's own."""
    failed_logins_per_minute: int = Field(10, ge=1)
    """For one e-mail; after that logins for it are refused with 429."""

    @model_validator(mode="after")
    def _long_enough(self) -> AuthSettings:
        if len(self.secret.get_secret_value().encode()) < 32:
            raise ValueError("RAVAND_AUTH__SECRET has less than 32 bytes")
        return self


class ApiSettings(Part):
    """Where the API listens and how long it waits."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on."""
    verdict_deadline_seconds: float = Field(5.0, gt=0)
    """After this long an appended request without a verdict is answered 202 pending."""
    version_deadline_seconds: float = Field(5.0, gt=0)
    """How long a read waits for `?after=`."""
    max_body_bytes: int = Field(1024 * 1024, ge=1)
    """Largest JSON body."""
    socket_queue_bytes: int = Field(1024 * 1024, ge=1024)
    """What may wait for one slow socket before it is closed."""


class WorkerSettings(Part):
    """How a worker works."""

    lease_seconds: float = Field(10.0, gt=0)
    """A worker that is silent this long loses its attempt; supervisors read the same setting."""
    grace_seconds: float = Field(20.0, gt=0)
    """How long a child that was told to leave may take to save a checkpoint."""
    device: str | None = None
    """`cpu`, `cuda:1`, ... ; the best there is when not given."""
    threads: int = Field(1, ge=1)
    """CPU threads of the training child."""


class JobSettings(Part):
    """Defaults that the API writes into each `JobRequested`."""

    max_losses: int = Field(3, ge=1, le=1000)
    """A job that lost this many attempts in a row, without a new checkpoint between them, fails."""


class Settings(BaseSettings):
    """All of them."""

    model_config = SettingsConfigDict(
        env_prefix="RAVAND_", env_nested_delimiter="__", extra="ignore", use_attribute_docstrings=True
    )

    environment: Literal["development", "staging", "production"] = "development"
    """Production refuses to start on default secrets."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """Of log lines: JSON, readable, or whichever fits where they go."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines that are written."""
    state: Path | None = None
    """The state folder of `ravand up`, in the processes that it starts."""
    kafka: KafkaSettings = KafkaSettings()
    database: DatabaseSettings = DatabaseSettings()
    store: StoreSettings = StoreSettings()
    datasets: DatasetSettings = DatasetSettings()
    auth: AuthSettings = AuthSettings()
    api: ApiSettings = ApiSettings()
    worker: WorkerSettings = WorkerSettings()
    jobs: JobSettings = JobSettings()

    @model_validator(mode="after")
    def _no_default_secret_in_production(self) -> Settings:
        if self.environment == "production" and self.auth.secret.get_secret_value() == DEVELOPMENT_SECRET:
            raise ValueError("RAVAND_AUTH__SECRET is not set: production does not start on the development secret")
        return self


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables with which another process has the same settings, secrets included."""
    return dict(_variables(settings, "RAVAND_"))


def _variables(part: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from _variables(value, f"{prefix}{name.upper()}__")
        elif isinstance(value, SecretStr):
            yield f"{prefix}{name.upper()}", value.get_secret_value()
        elif isinstance(value, tuple):
            yield f"{prefix}{name.upper()}", json.dumps(value)
        elif value is not None:
            yield f"{prefix}{name.upper()}", str(value)
