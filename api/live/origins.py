"""Which web pages may open a socket. Browsers send cookies of ours to no socket, but a page must not even try tickets."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def is_allowed(origin: str | None, host: str | None, allowed: Collection[str]) -> bool:
    """Whether a page of `origin` may: one that is listed, or that this server, addressed as `host`, served itself.

    Without an origin it is no browser. The scheme of our own pages is not compared: a proxy may have ended TLS.
    """
    if origin is None:
        return True
    if origin.rstrip("/").lower() in {entry.rstrip("/").lower() for entry in allowed}:
        return True
    try:
        page = urlsplit(origin)
        own = urlsplit(f"//{host or ''}")
        if page.scheme not in _PORTS or not page.hostname or page.hostname != own.hostname:
            return False
        default = _PORTS[page.scheme]
        return (page.port or default) == (own.port or default)
    except ValueError:
        return False
