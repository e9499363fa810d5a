"""The API process: builds what the endpoints are handed, and serves until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import structlog
import uvicorn
from aiokafka.errors import KafkaError
from fastapi import FastAPI

from adapters.dataset_files.limits import Limits
from adapters.dataset_files.profiler import Profiler
from adapters.kafka import Appender, producer
from adapters.object_store import ObjectStore
from adapters.postgres import create_pool, is_outage
from adapters.settings import Settings
from api import access, datasets, document, errors, health, job_events, jobs, measurements, models, training
from api.accounts import routes as accounts
from api.accounts.passwords import Hasher
from api.accounts.sessions import Sessions
from api.accounts.throttle import Throttle
from api.accounts.tokens import Tokens
from api.catalog import Catalog
from api.connections import BoundedHttp
from api.entry import Entry
from api.health import Gate, Health, LogProbe
from api.job_answers import ListedJobs, job_answer
from api.kept import Kept
from api.listener import Listener
from api.live import UVICORN_OPTIONS, Relay
from api.proposals import Proposals
from api.services import Services
from api.verdicts import Verdicts
from api.versions import Commits, Versions
from domain.job import Job

log = structlog.get_logger("api")
T = TypeVar("T")

GRACE_SECONDS = 10
"""How long requests that are under way may take once the process is told to stop."""
_TIDY_SECONDS = 600.0
_KEEP_ALIVE_SECONDS = 30
_CONNECT_SECONDS = 2.0
"""People wait behind a connection that is being made; a database that needs longer is not there."""
_ROUTERS = (
    # Matched one after the other: what is asked for most comes first.
    training.router,
    jobs.router,
    job_events.router,
    measurements.router,
    datasets.router,
    models.router,
    accounts.router,
    health.router,
)


def create_app(settings: Settings) -> FastAPI:
    """The application; its connections are made when it starts. Raises `UnguardedRoute` for a route without a rule."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            services = await build(settings, stack)
            app.state.services = services
            _add(app, services.relay.router.routes)
            await services.relay.start()
            stack.push_async_callback(services.relay.stop)
            yield

    app = FastAPI(
        title="Ravand",
        description="Trains models and tells every step of it. All addresses also exist under `/api/v1`.",
        version=document.version(),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
        lifespan=lifespan,
    )
    errors.install(app)
    app.add_middleware(Entry, origins=settings.auth.origins)
    for router in (*_ROUTERS, document.router):
        _add(app, router.routes)
    return app


def _add(app: FastAPI, routes: list[Any]) -> None:
    """Add routes as they are: an included router would be matched twice for every request, and hide its routes' rules."""
    app.router.routes.extend(routes)
    access.check_routes(app.router.routes)
    app.openapi_schema = None


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
        lambda: create_pool(settings.database, name="api", init=remember, reset=_as_it_is, timeout=_CONNECT_SECONDS),
        is_outage,
    )
    stack.push_async_callback(_close_pool, pool)
    listener = Listener(settings.database)
    listener.on_frozen(cut)
    sessions = Sessions(pool, listener, Tokens(settings.auth), settings.auth)
    commits = Commits(listener)
    versions = Versions(pool, commits, settings.api.version_deadline_seconds)
    throttle = Throttle(pool, settings.auth.failed_logins_per_minute)
    _in_background(stack, _tidy(sessions, throttle), "tidying")

    sender = await patiently("log", lambda: _started_producer(settings), _is_log_outage)
    stack.push_async_callback(_stop_producer, sender)
    probe = LogProbe(settings)
    stack.push_async_callback(probe.close)
    appender = Appender(sender, settings.kafka.append_deadline_seconds)

    store = ObjectStore(settings.store.url)
    stack.push_async_callback(store.close)
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
        proposals=Proposals(settings, appender, Verdicts(pool, commits), Gate(probe)),
        catalog=catalog,
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


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; then finish what is under way, close the sockets, and return.

    Run it on uvloop: it sets TCP_NODELAY on every connection, without which small answers wait 40 ms for an
    acknowledgement. Raises OSError when the address is taken.
    """
    listening = _listening(settings)
    config = uvicorn.Config(
        create_app(settings),
        http=BoundedHttp,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS,
        **UVICORN_OPTIONS,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.stop()
        if not server.started:  # It may be waiting for a database that does not come.
            serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    finally:
        stopping.cancel()
        listening.close()
    log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: whoever runs us has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            log.info("listening", address=f"http://{host}:{port}")

    def stop(self) -> None:
        """Stop accepting; finish what is under way."""
        self.should_exit = True


def _listening(settings: Settings) -> socket.socket:
    """The socket that is listened on, opened before anything else is: an address that is taken is said at once."""
    host, port = settings.api.host, settings.api.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening


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


async def _as_it_is(_connection: Any) -> None:
    """Our statements leave nothing in a session, so the round trip that would clean it after each of them is saved."""


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
        with contextlib.suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(end)


async def _tidy(*tidied: Sessions | Throttle) -> None:
    """Every now and then, drop rows that no longer matter."""
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        for one in tidied:
            try:
                await one.tidy()
            except Exception as error:
                if not is_outage(error):
                    log.error("tidying failed", exc_info=error)
