"""What can be wrong with the line between the services and a server, done to its proxies and undone again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from storm.proxy import Proxy

SLOW_BYTES_A_SECOND = 8 * 1024
"""64 kbit/s."""


async def disturb(what: str, proxies: Sequence[Proxy], rng: random.Random) -> None:
    """Do one of the things by its name, for a while; everything goes through again when this returns."""
    try:
        match what:
            case "cut":
                for proxy in proxies:
                    proxy.cut()
            case "delay":
                for proxy in proxies:
                    proxy.delay = rng.uniform(0.02, 0.2)
                await asyncio.sleep(rng.uniform(1.0, 3.0))
            case "slow down":
                for proxy in proxies:
                    proxy.bytes_a_second = SLOW_BYTES_A_SECOND
                await asyncio.sleep(rng.uniform(1.0, 4.0))
            case "reset":
                for proxy in proxies:
                    proxy.reset_chance = 0.1
                await asyncio.sleep(rng.uniform(1.0, 3.0))
            case "lose requests to" | "lose replies of":
                for proxy in proxies:
                    (proxy.requests if what == "lose requests to" else proxy.replies).clear()
                await asyncio.sleep(rng.uniform(0.3, 3.0))
                for proxy in proxies:
                    proxy.cut()
            case "clog":
                await _clog(proxies, rng)
    finally:
        for proxy in proxies:
            proxy.heal()


async def _clog(proxies: Sequence[Proxy], rng: random.Random) -> None:
    """Connections stop one by one, and go on, or are reset, in another order."""
    links = [link for proxy in proxies for link in proxy.links]
    rng.shuffle(links)
    pause = rng.uniform(1.0, 2.0) / max(1, len(links))
    for link in links:
        link.flows.clear()
        await asyncio.sleep(pause)
    rng.shuffle(links)
    for link in links:
        if rng.random() < 0.3:
            link.cut()
        link.flows.set()
        await asyncio.sleep(pause)
