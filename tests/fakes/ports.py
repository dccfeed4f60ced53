"""Ports for servers under test."""

from __future__ import annotations

import itertools
import os
import random
import socket

# Below what the kernel gives to clients (ip_local_port_range begins at 32768): a port that is free now and is
# listened to only later must not become the own end of some connection meanwhile.
FIRST, LAST = 20_000, 32_000

_next = itertools.count(random.Random(os.getpid()).randrange(LAST - FIRST))


def free_port() -> int:
    """A port of loopback that nobody listens to at the moment; each call gives another one."""
    for number in _next:
        port = FIRST + number % (LAST - FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("counting never ends")
