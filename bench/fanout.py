"""How many frames a second reach the clients when one job is told to many.

Beside each other in one run: uvicorn's WebSocket implementations, each sending one prepared text to every socket, and the
relay, which orders, encodes and sends facts. Each server is a process of its own, and so are the clients.

As one of the measures (`python -m bench fanout`) it takes a whole installation. By itself it takes the sockets and the hub
alone, with facts out of memory, one at a time or all at once:

    python -m bench.fanout [--sockets 100 1000] [--frames 300] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.settings import Settings
from bench import filling
from bench.figures import Figure
from bench.installation import Installation
from bench.latency import PATIENT, new_job, socket_url
from bench.limits import free_port
from cli.server import Server

ROOT = Path(__file__).parent.parent
BARE = ("websockets", "websockets-sansio", "wsproto")
EPOCH = '"event":"EpochCompleted"'
"""Every message that is counted holds it once."""
SOCKETS, FRAMES, ROUNDS = (100, 1000), 300, 3
JOB = "0192f0c1-0000-7000-8000-000000000001"


def measure() -> list[Figure]:
    """The whole installation beside the bare servers: epochs are appended at once, as after a stall."""
    figures = []
    with Installation(workers=0, environment=PATIENT) as it:
        server, settings = it.user(), it.settings()
        for sockets in SOCKETS:
            bare = {kind: [of_server(kind, sockets, FRAMES, 0) for _ in range(ROUNDS)] for kind in BARE}
            ours = [_of_installation(it, server, settings, sockets) for _ in range(ROUNDS)]
            best = max(bare, key=lambda kind: statistics.median(bare[kind]))
            limit, rate = statistics.median(bare[best]), statistics.median(ours)
            figures.append(
                Figure(
                    f"fan-out of one job to {sockets:,} sockets",
                    rate,
                    "frames/s",
                    "≥ bare uvicorn",
                    rate >= limit,
                    f"min {min(ours):,.0f}, max {max(ours):,.0f} (n {ROUNDS})",
                    f"uvicorn with {best}, one prepared text: {limit:,.0f} frames/s",
                    rate / limit,
                )
            )
    return figures


def _of_installation(it: Installation, server: Server, settings: Settings, sockets: int) -> float:
    job_id, workspace = asyncio.run(new_job(server, settings, FRAMES))
    begun, *epochs = filling.epochs(job_id, FRAMES)
    asyncio.run(filling.append(settings, workspace, [begun]))
    say = json.dumps({"type": "subscribe_job", "job_id": job_id})
    paths = ["/api/ws?ticket=" + socket_url(server).partition("ticket=")[2] for _ in range(sockets)]
    # The claim may be told to some and not to others; it is no epoch.
    with _process("bench.socket_receivers") as clients:
        order = {"host": "127.0.0.1", "port": it.port, "paths": paths, "say": say, "mark": EPOCH, "expected": FRAMES}
        _ask(clients, order)
        asyncio.run(filling.append(settings, workspace, epochs))
        return sockets * FRAMES / float(_ask(clients)["seconds"])


def of_server(kind: str, sockets: int, frames: int, pace: int) -> float:
    """Frames a second over all sockets of one server of ours, from the first that came to the last."""
    port = free_port()
    with _process("bench.fanout", "--serve", kind, str(port)) as server, _process("bench.socket_receivers") as clients:
        _ask(server)
        say = json.dumps({"type": "subscribe_job", "job_id": JOB, "since": 0}) if kind == "relay" else ""
        paths = ["/ws"] * sockets
        order = {"host": "127.0.0.1", "port": port, "paths": paths, "say": say, "mark": EPOCH, "expected": frames}
        _ask(clients, order)
        _ask(server, {"sockets": sockets, "frames": frames, "pace": pace})
        return sockets * frames / float(_ask(clients)["seconds"])


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _ask(process: subprocess.Popen[str], order: dict[str, Any] | None = None) -> dict[str, Any]:
    assert process.stdin
    assert process.stdout
    if order is not None:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process ended: {process.args!r}")
    answer: dict[str, Any] = json.loads(line)
    if "lost_at" in answer:
        raise SystemExit(f"a socket was closed after {answer['lost_at']} messages")
    return answer


# --- the servers ------------------------------------------------------------------------------------------------------


def serve(kind: str, port: int) -> None:
    """One server process: bare uvicorn with that implementation, or the relay's sockets and hub."""
    import uvicorn
    import uvloop

    from api.live import UVICORN_OPTIONS

    app, started, go = (_relay if kind == "relay" else _bare)()
    options = UVICORN_OPTIONS if kind == "relay" else {"ws": kind, "ws_per_message_deflate": False}
    config = uvicorn.Config(app, port=port, log_level="error", lifespan="off", **options)

    async def run() -> None:
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 — uvicorn offers nothing to wait for.
            await asyncio.sleep(0.01)
        started()
        print(json.dumps({"ready": True}), flush=True)
        order = json.loads(await asyncio.to_thread(sys.stdin.readline))
        await go(order["sockets"], order["frames"], order["pace"])
        await serving

    uvloop.run(run())


def _text(version: int) -> bytes:
    from api.live.frames import payloads

    return payloads(_update(version).frame)[0]


def _update(version: int) -> Any:
    from api.live.feed import Update
    from api.live.messages import job_update
    from schemas import facts

    return Update(version, version, JOB, job_update(facts.decode(_fact(version))))


def _fact(version: int) -> bytes:
    from domain.events import EpochCompleted
    from schemas import envelope, facts
    from schemas.job_view import JobView

    metrics = {"loss": 0.1234567, "val_loss": 0.2345678, "accuracy": 0.9123456, "val_accuracy": 0.8987654}
    record = envelope.record(
        EpochCompleted(attempt=1, worker="w-1", epoch=version, metrics=metrics, seconds=1.5),
        id=f"0192f0c1-0000-7000-8000-{version:012d}",
        source="bench",
        subject=JOB,
        time="2026-01-01T00:00:00.000Z",
        workspace="bench",
        actor="w-1",
    )
    view = JobView(
        job_id=JOB,
        status="running",
        progress=12.5,
        epoch=version,
        epochs=100_000,
        attempt=1,
        message=f"Epoch {version} of 100000.",
        loss=0.1234567,
        metrics=metrics,
        eta_seconds=123.4,
    )
    return facts.splice(envelope.encode(record), version=version, previous=version - 1, at=1_700_000_000_000, job=view)


def _bare() -> Any:
    """Accept everybody; on the word, send one prepared text to each, again and again."""
    sends: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        sends.append(send)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def go(sockets: int, frames: int, pace: int) -> None:
        while len(sends) < sockets:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        message = {"type": "websocket.send", "text": _text(1).decode()}
        print(json.dumps({"began": True}), flush=True)
        for number in range(frames):
            for send in sends:
                await send(message)
            if pace and number % pace == pace - 1:
                await asyncio.sleep(0)

    return app, lambda: None, go


def _relay() -> Any:
    """The relay's sockets and hub, with tickets that let everybody in and an empty journal; facts as Kafka would bring them."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute

    from adapters.kafka import partition_of
    from api.live import messages
    from api.live.hub import Hub
    from api.live.journal import Page, Snapshot
    from api.live.socket import Sockets
    from api.live.tickets import Holder
    from schemas.topics import EVENTS

    class Anybody:
        async def redeem(self, ticket: str) -> Holder:
            return Holder("u", "bench", "s", time.time() + 3600)

        def is_ended(self, session_id: str) -> bool:
            return False

        def on_end(self, callback: Any) -> None:
            pass

    class Empty:
        async def snapshot(self, workspace: str, job_id: str | None) -> Snapshot:
            return Snapshot(0, "log", messages.document({"job_id": job_id}))

        async def since(self, workspace: str, version: int, job_id: str | None) -> Page:
            raise AssertionError("nothing should be missing")

        async def versions(self, workspaces: Any) -> dict[str, int]:
            return {}

    hub = Hub(Empty())
    anybody: Any = Anybody()
    sockets_ = Sockets(Settings(), anybody, anybody, hub)
    app = Starlette(routes=[WebSocketRoute("/ws", sockets_.serve)])

    async def go(sockets: int, frames: int, pace: int) -> None:
        partition = partition_of(b"bench", EVENTS.partitions)
        while "bench" not in hub.channels or len(hub.channels["bench"].jobs.get(JOB, ())) < sockets:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        facts = [("bench", _fact(version), version) for version in range(1, frames + 1)]
        print(json.dumps({"began": True}), flush=True)
        for first in range(0, frames, pace or frames):
            batch = facts[first : first + (pace or frames)]
            hub.facts(partition, batch)
            hub.committed(partition, batch[-1][2] + 1)
            await asyncio.sleep(0)

    return app, lambda: None, go


def main() -> None:
    """Run all, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, nargs="+", default=SOCKETS)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--pace", type=int, nargs="+", default=[1, 0], help="facts at a time; 0: all at once")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve[0], int(given.serve[1]))
        return
    rows = []
    for sockets in given.sockets:
        for pace in given.pace:
            rates: dict[str, list[float]] = {kind: [] for kind in (*BARE, "relay")}
            for _ in range(given.rounds):
                for kind, found in rates.items():
                    found.append(of_server(kind, sockets, given.frames, pace))
            median = {kind: statistics.median(found) for kind, found in rates.items()}
            best = max(median[kind] for kind in BARE)
            rows.append(
                {
                    "sockets": sockets,
                    "at_once": pace or "all",
                    "frames_per_second": {kind: round(rate) for kind, rate in median.items()},
                    "spread": {kind: [round(min(r)), round(max(r))] for kind, r in rates.items()},
                    "ratio": round(median["relay"] / best, 2),
                }
            )
            if not given.json:
                print(f"{sockets} sockets, {pace or 'all'} at once: {rows[-1]}", flush=True)
    if given.json:
        json.dump({"cpus": os.cpu_count(), "frame_bytes": len(_text(1)), "rows": rows}, sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
