"""Builds what the endpoints are handed: connections, the parts that use them, and the tasks that run beside requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar
from weakref import WeakSet

import structlog
from aiokafka.errors import KafkaError

from adapters.dataset_files.limits import Limits
from adapters.dataset_files.profiler import Profiler
from adapters.kafka import Appender, producer
from adapters.object_store import ObjectStore
from adapters.postgres import as_it_is, create_pool, is_outage
from adapters.settings import Settings
from api.abandoned_checkpoints import AbandonedCheckpoints
from api.accounts.passwords import Hasher
from api.accounts.sessions import Sessions
from api.accounts.throttle import Throttle
from api.accounts.tokens import Tokens
from api.catalog import Catalog
from api.gathered import Gathered
from api.health import Gate, Health, LogProbe
from api.job_answers import ListedJobs, job_answer
from api.kept import Kept
from api.listener import Listener
from api.live import Relay
from api.proposals import Proposals
from api.services import Services
from api.verdicts import Verdicts
from api.versions import Commits, Versions
from domain.job import Job
from projections import queries

log = structlog.get_logger("api")
T = TypeVar("T")

_TIDY_SECONDS = 600.0
_CONNECT_SECONDS = 2.0
"""People wait behind a connection that is being made; a database that needs longer is not there."""


async def build(settings: Settings, stack: AsyncExitStack) -> Services:
    """Everything that endpoints are handed, connected; `stack` lets go of it again. Waits for what is away."""
    connections: WeakSet[Any] = WeakSet()

    async def remember(connection: Any) -> None:
        connections.add(connection)

    def cut() -> None:
        # A statement that waits for a frozen server would wait for its whole time limit, and every request behind it.
        # Cut, it fails at once, and the pool connects again when it can.
        for connection in list(connections):
            connection.terminate()

    pool = await patiently(
        "database",
        lambda: create_pool(settings.database, name="api", init=remember, reset=as_it_is, timeout=_CONNECT_SECONDS),
        is_outage,
    )
    stack.push_async_callback(_close_pool, pool)
    listener = Listener(settings.database)
    listener.on_frozen(cut)
    sessions = Sessions(pool, listener, Tokens(settings.auth), settings.auth)
    commits = Commits(listener)
    versions = Versions(pool, commits, settings.api.version_deadline_seconds)
    throttle = Throttle(pool, settings.auth.failed_logins_per_minute)
    store = ObjectStore(settings.store.url)
    stack.push_async_callback(store.close)
    _in_background(stack, _tidy(sessions, throttle, AbandonedCheckpoints(pool, store)), "tidying")

    sender = await patiently("log", lambda: _started_producer(settings), _is_log_outage)
    stack.push_async_callback(_stop_producer, sender)
    probe = LogProbe(settings)
    stack.push_async_callback(probe.close)
    appender = Appender(sender, settings.kafka.append_deadline_seconds)

    profiler = Profiler(Limits(file_bytes=settings.datasets.max_bytes, ratio=settings.datasets.max_unpack_ratio))
    stack.push_async_callback(profiler.close)
    hasher = Hasher()
    stack.callback(hasher.close)
    catalog = Catalog(pool, store)
    services = Services(
        settings=settings,
        pool=pool,
        listener=listener,
        sessions=sessions,
        throttle=throttle,
        hasher=hasher,
        versions=versions,
        proposals=Proposals(settings, appender, Verdicts(pool, listener), Gate(probe)),
        catalog=catalog,
        jobs=Gathered(lambda keys: queries.jobs_seen(pool, keys)),
        listed=ListedJobs(),
        store=store,
        profiler=profiler,
        checksums=Kept(10_000),
        health=Health(pool, probe, store),
        relay=Relay(settings, pool, sessions, listener, document=_document(catalog)),
    )
    _in_background(stack, listener.run(), "listener")  # Last: by now everybody has said what to listen for.
    return services


def _document(catalog: Catalog) -> Callable[[Job], Any]:
    def of(job: Job) -> Any:
        return job_answer(job, catalog.known_log(job.error.log) if job.error else None)

    return of


async def patiently(
    what: str, make: Callable[[], Coroutine[Any, Any, T]], is_away: Callable[[BaseException], bool]
) -> T:
    """The thing, once it can be made. What is away is waited for; anything else is raised."""
    pause, said = 0.1, False
    while True:
        try:
            return await make()
        except Exception as error:
            if not is_away(error):
                raise
            if not said:
                log.warning("waiting", what=what, reason=type(error).__name__)
                said = True
        await asyncio.sleep(pause)
        pause = min(2.0, pause * 2)


def _is_log_outage(error: BaseException) -> bool:
    return isinstance(error, KafkaError | OSError | TimeoutError)


async def _started_producer(settings: Settings) -> Any:
    made = producer(settings.kafka)
    try:
        await made.start()
    except BaseException:
        await made.stop()
        raise
    return made


async def _stop_producer(made: Any) -> None:
    """Give what was sent a moment to be acknowledged; a broker that is away does not keep us."""
    with contextlib.suppress(TimeoutError, KafkaError):
        async with asyncio.timeout(3.0):
            await made.stop()


async def _close_pool(pool: Any) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3.0):
            await pool.close()
            return
    pool.terminate()


def _in_background(stack: AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
    task = asyncio.create_task(work, name=name)

    async def end() -> None:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    stack.push_async_callback(end)


async def _tidy(*tidied: Sessions | Throttle | AbandonedCheckpoints) -> None:
    """Every now and then, drop what no longer matters."""
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        for one in tidied:
            try:
                await one.tidy()
            except Exception as error:
                if not is_outage(error):
                    log.error("tidying failed", exc_info=error)
