"""The API process: builds what the endpoints are handed, and serves until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from adapters.settings import Settings
from api import access, datasets, document, errors, health, job_events, jobs, measurements, models, rebuilds, training
from api.accounts import routes as accounts
from api.building import build
from api.connections import BoundedHttp
from api.entry import Entry, is_news
from api.live import UVICORN_OPTIONS

log = structlog.get_logger("api")

GRACE_SECONDS = 17
"""How long requests that are under way may take once the process is told to stop: as long as one may wait for the log and
then for its verdict. `ravand up` ends the process 8 s after that."""
_KEEP_ALIVE_SECONDS = 30
_ROUTERS = (
    # Matched one after the other: what is asked for most comes first.
    training.router,
    jobs.router,
    job_events.router,
    measurements.router,
    datasets.router,
    models.router,
    accounts.router,
    rebuilds.router,
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


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; then finish what is under way, close the sockets, and return.

    Run it on uvloop: it sets TCP_NODELAY on every connection, without which small answers wait 40 ms for an
    acknowledgement. Raises OSError when the address is taken.
    """
    listening = _listening(settings)
    logging.getLogger("uvicorn.error").addFilter(is_news)
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
        await asyncio.wait({serving})
        if not serving.cancelled():
            serving.result()
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
