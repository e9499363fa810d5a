"""Every setting, from the environment (`RAVAND_KAFKA__BOOTSTRAP_SERVERS`, ...), with its meaning.

A process reads its settings once, in its entry point, and hands the parts to what needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEVELOPMENT_SECRET = "development-secret-never-for-production-0123456789"  # noqa: S105 — refused in production, below.


class KafkaSettings(BaseModel):
    """How to reach the cluster that keeps the log."""

    bootstrap_servers: str = "127.0.0.1:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = (
        "PLAINTEXT"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: Path | None = None
    """Certificate authority of the brokers; the system's own when not given."""
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    prefix: str = Field("ravand.", pattern=r"^[a-zA-Z0-9._-]{0,80}$")
    """Prefix of every topic name."""
    replication_factor: int = Field(1, ge=1, le=9)
    """Of the topics that `ravand admin init` creates; min.insync.replicas is one less from 3 on."""
    append_deadline_seconds: float = Field(10.0, gt=0)
    """After this long an append without an acknowledgement is answered as unknown."""


class DatabaseSettings(BaseModel):
    """How to reach PostgreSQL."""

    url: SecretStr = SecretStr("postgresql://ravand@127.0.0.1:5432/ravand")
    pool_size: int = Field(8, ge=1, le=200)
    statement_timeout_seconds: float = Field(10.0, gt=0)


class StoreSettings(BaseModel):
    """Where datasets, checkpoints and models are kept."""

    url: str = "file:///var/lib/ravand/objects"
    """`file:///folder`, or an object store's URL (`s3://bucket/prefix`); credentials from its usual environment."""


class DatasetSettings(BaseModel):
    """What may be uploaded."""

    max_bytes: int = Field(256 * 1024 * 1024, ge=1)
    max_unpack_ratio: int = Field(100, ge=1)
    profile_timeout_seconds: float = Field(120.0, gt=0)


class AuthSettings(BaseModel):
    """Accounts, tokens, and who may open a socket."""

    secret: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Signs tokens; at least 32 bytes. Production refuses to start on the default."""
    token_hours: float = Field(24.0, gt=0)
    origins: tuple[str, ...] = ()
    """Origins of web pages that may open sockets and call the API, beside the server's own."""
    failed_logins_per_minute: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _long_enough(self) -> AuthSettings:
        if len(self.secret.get_secret_value().encode()) < 32:
            raise ValueError("RAVAND_AUTH__SECRET has less than 32 bytes")
        return self


class ApiSettings(BaseModel):
    """Where the API listens and how long it waits."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    verdict_deadline_seconds: float = Field(5.0, gt=0)
    """After this long an appended request without a verdict is answered 202 pending."""
    version_deadline_seconds: float = Field(5.0, gt=0)
    """How long a read waits for `?after=`."""
    max_body_bytes: int = Field(1024 * 1024, ge=1)
    socket_queue_bytes: int = Field(1024 * 1024, ge=1024)
    """What may wait for one slow socket before it is closed."""


class WorkerSettings(BaseModel):
    """How a worker works."""

    lease_seconds: float = Field(10.0, gt=0)
    """A worker that is silent this long loses its attempt; supervisors read the same setting."""
    grace_seconds: float = Field(20.0, gt=0)
    """How long a child that was told to leave may take to save a checkpoint."""
    device: str | None = None
    """`cpu`, `cuda:1`, ... ; the best there is when not given."""
    threads: int = Field(1, ge=1)
    """CPU threads of the training child."""


class JobSettings(BaseModel):
    """Defaults that the API writes into each `JobRequested`."""

    max_losses: int = Field(3, ge=1, le=1000)


class Settings(BaseSettings):
    """All of them."""

    model_config = SettingsConfigDict(
        env_prefix="RAVAND_", env_nested_delimiter="__", extra="ignore"
    )

    environment: Literal["development", "staging", "production"] = "development"
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    state: Annotated[
        Path | None,
        Field(
            description="The state folder of `ravand up`, in the processes it starts."
        ),
    ] = None
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
        if (
            self.environment == "production"
            and self.auth.secret.get_secret_value() == DEVELOPMENT_SECRET
        ):
            raise ValueError(
                "RAVAND_AUTH__SECRET is not set: production does not start on the development secret"
            )
        return self
