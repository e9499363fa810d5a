"""The tables as the newest step leaves them, for alembic's comparison; the statements themselves are in the steps.

A test compares this with a migrated database, so neither can change without the other.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

metadata = MetaData()


def _text(name: str, *, key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=False)


def _number(name: str, *, key: bool = False, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, primary_key=key, nullable=nullable, autoincrement=False)


def _small(name: str, *, key: bool = False) -> Column[int]:
    return Column(name, Integer, primary_key=key, nullable=False, autoincrement=False)


def _bytes(name: str, *, nullable: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=nullable)


def _maybe(name: str) -> Column[str]:
    return Column(name, Text, nullable=True)


cursors = Table(
    "cursors",
    metadata,
    _small("partition", key=True),
    _number("next_offset"),
    _number("published"),
    _small("rules"),
    _bytes("chain"),
    Column("generation", Integer, nullable=False, server_default=text("0")),
    schema="log",
)
journal = Table(
    "journal",
    metadata,
    _small("partition", key=True),
    _number("offset", key=True),
    _number("at"),
    _text("id"),
    _text("type"),
    _text("workspace"),
    _text("subject"),
    _text("actor"),
    _number("version", nullable=True),
    _maybe("refusal"),
    _bytes("key", nullable=True),
    _bytes("value", nullable=True),
    _bytes("headers", nullable=True),
    _bytes("tail", nullable=True),
    _bytes("hash"),
    schema="log",
)
Index("journal_version", journal.c.workspace, journal.c.version, postgresql_where=journal.c.version.is_not(None))
Index("journal_subject", journal.c.workspace, journal.c.subject, journal.c.partition, journal.c.offset)
requests = Table(
    "requests",
    metadata,
    _text("workspace", key=True),
    _text("id", key=True),
    _small("partition"),
    _number("offset"),
    _text("type"),
    _text("subject"),
    _number("version", nullable=True),
    _maybe("refusal"),
    _maybe("requesthash"),
    schema="log",
)
workspaces = Table(
    "workspaces",
    metadata,
    _text("workspace", key=True),
    _small("partition", key=True),
    _number("version"),
    schema="log",
)
history = Table("history", metadata, _text("log_id", key=True), schema="log")
ancestors = Table(
    "ancestors",
    metadata,
    _text("log_id", key=True),
    _small("partition", key=True),
    _number("next_offset"),
    _bytes("chain"),
    Column("restored_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    schema="log",
)

jobs = Table(
    "jobs",
    metadata,
    _text("workspace", key=True),
    _text("job_id", key=True),
    _text("status"),
    _small("priority"),
    _number("requested_version"),
    _number("version"),
    _bytes("state"),
    schema="read",
)
Index("jobs_newest", jobs.c.workspace, jobs.c.requested_version.desc())
Index("jobs_by_status", jobs.c.workspace, jobs.c.status, jobs.c.requested_version.desc())
Index(
    "jobs_open",
    jobs.c.workspace,
    jobs.c.job_id,
    postgresql_where=text("status NOT IN ('completed', 'failed', 'stopped')"),
)
epochs = Table(
    "epochs",
    metadata,
    _text("workspace", key=True),
    _text("job_id", key=True),
    _small("attempt", key=True),
    _small("epoch", key=True),
    _number("version"),
    _number("at"),
    _bytes("metrics"),
    schema="read",
)
checkpoints = Table(
    "checkpoints",
    metadata,
    _text("workspace", key=True),
    _text("job_id", key=True),
    _small("attempt", key=True),
    _small("epoch", key=True),
    _number("step", key=True),
    _text("uri"),
    _text("sha256"),
    _number("version"),
    Column("struck", Boolean, nullable=False),
    schema="read",
)
datasets = Table(
    "datasets",
    metadata,
    _text("workspace", key=True),
    _text("dataset_id", key=True),
    _text("name"),
    _number("number"),
    _number("version"),
    _bytes("state"),
    schema="read",
)
Index("datasets_newest", datasets.c.workspace, datasets.c.version.desc())
Index("datasets_number", datasets.c.workspace, datasets.c.name, datasets.c.number, unique=True)
models = Table(
    "models",
    metadata,
    _text("workspace", key=True),
    _text("name", key=True),
    _number("number", key=True),
    _number("version"),
    _text("job_id"),
    _bytes("state"),
    schema="read",
)
Index("models_newest", models.c.workspace, models.c.version.desc())

job_states = Table(
    "job_states",
    metadata,
    _text("workspace", key=True),
    _text("job_id", key=True),
    _number("version", key=True),
    _number("offset"),
    _bytes("state"),
    schema="audit",
)
snapshots = Table("snapshots", metadata, _text("workspace", key=True), _number("version"), schema="audit")
seals = Table(
    "seals",
    metadata,
    _small("partition", key=True),
    _number("next_offset", key=True),
    _text("log_id", key=True),
    _bytes("chain"),
    _number("at"),
    _bytes("signature"),
    schema="audit",
)

runs = Table(
    "runs",
    metadata,
    _text("id", key=True),
    _text("kind"),
    _text("projections"),
    Column("dry_run", Boolean, nullable=False),
    _text("state"),
    _text("phase"),
    _text("actor"),
    _text("step"),
    Column("cancel", Boolean, nullable=False),
    _bytes("report"),
    _maybe("error"),
    _number("started_at"),
    _number("ended_at", nullable=True),
    CheckConstraint("kind IN ('rebuild', 'rollback')"),
    CheckConstraint("state IN ('running', 'refused', 'compared', 'swapped', 'cancelled')"),
    schema="rebuild",
)
Index("runs_newest", runs.c.started_at.desc())
differences = Table(
    "differences",
    metadata,
    Column("number", BigInteger, Identity(always=True), primary_key=True),
    Column("run", Text, ForeignKey("rebuild.runs.id", ondelete="CASCADE"), nullable=False),
    _text("projection"),
    _text("what"),
    _text("key"),
    _text("columns"),
    schema="rebuild",
)
Index("differences_run", differences.c.run, differences.c.what)
records = Table(
    "records",
    metadata,
    _text("id", key=True),
    _text("run"),
    _bytes("value"),
    _number("at"),
    schema="rebuild",
)

_measured = ("workspace", "job_id")
step_metrics = Table(
    "step_metrics",
    metadata,
    *(_text(name, key=True) for name in _measured),
    _small("attempt", key=True),
    _number("sequence", key=True),
    _number("at"),
    _small("epoch"),
    _number("step"),
    _bytes("metrics"),
    schema="telemetry",
)
log_lines = Table(
    "log_lines",
    metadata,
    *(_text(name, key=True) for name in _measured),
    _small("attempt", key=True),
    _number("sequence", key=True),
    _number("at"),
    _bytes("lines"),
    schema="telemetry",
)
resource_samples = Table(
    "resource_samples",
    metadata,
    *(_text(name, key=True) for name in _measured),
    _small("attempt", key=True),
    _number("sequence", key=True),
    _number("at"),
    Column("cpu_percent", Double, nullable=False),
    _number("memory_bytes"),
    Column("gpu_percent", Double, nullable=True),
    _number("gpu_memory_bytes", nullable=True),
    schema="telemetry",
)

_moment = DateTime(timezone=True)


def _reference(name: str, target: str, *, key: bool = False) -> Column[str]:
    return Column(name, Text, ForeignKey(target, ondelete="CASCADE"), primary_key=key, nullable=False)


def _now(name: str) -> Column[datetime]:
    return Column(name, _moment, nullable=False, server_default=text("now()"))


users = Table(
    "users",
    metadata,
    _text("id", key=True),
    _text("email"),
    _text("email_key"),
    _text("name"),
    _text("password_hash"),
    _text("role"),
    _now("created_at"),
    Column("disabled_at", _moment, nullable=True),
    CheckConstraint("role IN ('user', 'admin')"),
    schema="accounts",
)
Index("users_email", users.c.email_key, unique=True)
account_workspaces = Table(
    "workspaces",
    metadata,
    _text("id", key=True),
    _text("name"),
    _text("kind"),
    _now("created_at"),
    CheckConstraint("kind IN ('personal', 'team')"),
    schema="accounts",
)
memberships = Table(
    "memberships",
    metadata,
    _reference("user_id", "accounts.users.id", key=True),
    _reference("workspace_id", "accounts.workspaces.id", key=True),
    _text("role"),
    CheckConstraint("role IN ('owner', 'member')"),
    schema="accounts",
)
Index("memberships_workspace", memberships.c.workspace_id)
sessions = Table(
    "sessions",
    metadata,
    _text("id", key=True),
    _reference("user_id", "accounts.users.id"),
    _reference("workspace_id", "accounts.workspaces.id"),
    _now("created_at"),
    Column("expires_at", _moment, nullable=False),
    Column("ended_at", _moment, nullable=True),
    schema="accounts",
)
Index("sessions_user", sessions.c.user_id)
Index("sessions_workspace", sessions.c.workspace_id)
Index("sessions_expiry", sessions.c.expires_at)
tickets = Table(
    "tickets",
    metadata,
    Column("hash", LargeBinary, primary_key=True, nullable=False),
    _reference("session_id", "accounts.sessions.id"),
    Column("expires_at", _moment, nullable=False),
    schema="accounts",
)
Index("tickets_session", tickets.c.session_id)
login_failures = Table(
    "login_failures",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _bytes("email_hash"),
    _now("at"),
    schema="accounts",
)
Index("login_failures_email", login_failures.c.email_hash, login_failures.c.at)
Index("login_failures_at", login_failures.c.at)
