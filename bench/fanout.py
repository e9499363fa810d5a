"""How many frames a second reach the clients when one job is told to many.

Beside each other in one run: uvicorn's WebSocket implementations, each sending one prepared text to every socket, and the
relay, which orders, encodes and sends facts. Each server is a process of its own, and so are the clients.

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
from pathlib import Path
from typing import Any

from ops.ports import free_port

ROOT = Path(__file__).parent.parent
BARE = ("websockets", "websockets-sansio", "wsproto")
MARK = '"type":"job_update"'
JOB = "0192f0c1-0000-7000-8000-000000000001"


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def _ask(process: subprocess.Popen[str], order: dict[str, Any] | None = None) -> dict[str, Any]:
    assert process.stdin and process.stdout
    if order is not None:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process ended: {process.args}")
    answer: dict[str, Any] = json.loads(line)
    if "lost_at" in answer:
        raise SystemExit(f"a socket was closed after {answer['lost_at']} messages")
    return answer


def measure(kind: str, sockets: int, frames: int, pace: int) -> float:
    """Frames a second over all sockets, from the first one sent to the last one received."""
    port = free_port()
    server = _start("bench.fanout", "--serve", kind, str(port))
    clients = _start("bench.socket_receivers")
    try:
        _ask(server)
        say = json.dumps({"type": "subscribe_job", "job_id": JOB, "since": 0}) if kind == "relay" else ""
        order = {
            "host": "127.0.0.1",
            "port": port,
            "paths": ["/ws"] * sockets,
            "say": say,
            "mark": MARK,
            "expected": frames,
        }
        _ask(clients, order)
        began = _ask(server, {"sockets": sockets, "frames": frames, "pace": pace})["began"]
        return sockets * frames / (_ask(clients)["last_at"] - began)
    finally:
        for process in (clients, server):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


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
        while not server.started:
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
        while len(sends) < sockets:
            await asyncio.sleep(0.01)
        message = {"type": "websocket.send", "text": _text(1).decode()}
        print(json.dumps({"began": time.monotonic()}), flush=True)
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
    from adapters.settings import Settings
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
        while "bench" not in hub.channels or len(hub.channels["bench"].jobs.get(JOB, ())) < sockets:
            await asyncio.sleep(0.01)
        facts = [("bench", _fact(version), version) for version in range(1, frames + 1)]
        print(json.dumps({"began": time.monotonic()}), flush=True)
        for first in range(0, frames, pace or frames):
            batch = facts[first : first + (pace or frames)]
            hub.facts(partition, batch)
            hub.committed(partition, batch[-1][2] + 1)
            await asyncio.sleep(0)

    return app, lambda: None, go


def main() -> None:
    """Run all, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
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
                    found.append(measure(kind, sockets, given.frames, pace))
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
