"""Whoever imports this reaches nothing but this machine: a process that tries says so on stderr, and gets an error."""

import sys
from typing import Any

LOOPBACK = {"127.0.0.1", "::1", "localhost", "0.0.0.0", None, ""}


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    asked = {"socket.connect": lambda: arguments[1], "socket.getaddrinfo": lambda: arguments}.get(event)
    if asked is None:
        return
    address = asked()
    host = address[0] if isinstance(address, tuple) else None
    if host not in LOOPBACK:
        print(f"OUTSIDE: {event} {host}", file=sys.stderr, flush=True)
        raise OSError(f"The test allows no connection to {host}.")


sys.addaudithook(_refuse)
