"""The live relay: what takes effect on the log reaches every socket that asked for it, in order, without gap or duplicate."""

from __future__ import annotations

from typing import Any

from api.live.ports import Sessions
from api.live.relay import Relay

UVICORN_OPTIONS: dict[str, Any] = {
    "ws": "api.live.framed_socket:FramedSocket",
    "ws_max_size": 64 * 1024,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    "ws_per_message_deflate": False,
}
"""With these uvicorn serves the sockets as they are meant: finished frames, small messages from clients, no compression."""

__all__ = ["UVICORN_OPTIONS", "Relay", "Sessions"]
