"""The load of the heartbeat measures: ``python -m bench.senders lines|posts ADDRESS COUNT PID``.

Run with the environment of an agent it carries that agent's mark, so that the daemon's check of the
peer finds what it would find of a child of the agent.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.lab import ROOT

BLOCK = 5000  # lines in one write
LINE = (
    b'{"pid":%d,"timestamp":"2026-11-20T10:00:00.123456789+08:00","version":"1.0.0",'
    b'"status":"running","cpu":1.5,"memory":1048576}\n'
)
POST = (
    b'{"agent_id":"a0","pid":%d,"status":"running","cpu":1.5,"memory":1048576,'
    b'"timestamp":"2026-11-20T10:00:00.123456789+08:00"}'
)


def run_as_agent(agent_pid: int, arguments: Sequence[str]) -> None:
    """Runs a sender with an agent's mark; ``agent_pid`` 0 runs it without."""
    environ = dict(os.environ)
    if agent_pid:
        for entry in Path(f"/proc/{agent_pid}/environ").read_bytes().split(b"\0"):
            name, _, value = os.fsdecode(entry).partition("=")
            if name.startswith("HOSTDAEMON_"):
                environ[name] = value
    environ["PYTHONPATH"] = str(ROOT)
    pid = str(agent_pid or os.getpid())
    subprocess.run([sys.executable, "-m", "bench.senders", *arguments, pid], check=True, env=environ)


def lines(path: str, count: int, pid: int) -> None:
    """Heartbeats over one Unix connection; returns when the server has read and closed it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        block = (LINE % pid) * BLOCK
        for _ in range(count // BLOCK):
            client.sendall(block)
        client.shutdown(socket.SHUT_WR)
        if client.recv(1):
            raise SystemExit("lines: an answer came where none was due")


def posts(port: int, count: int, pid: int) -> None:
    """Heartbeats by POST on one keep-alive connection, each answered before the next."""
    body = POST % pid
    request = (
        b"POST /heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            client.sendall(request)
            if not _answer(client).startswith(b"HTTP/1.1 200"):
                raise SystemExit("posts: refused")


def _answer(client: socket.socket) -> bytes:
    """One whole response, by its length or its last chunk."""
    data = b""
    while True:
        piece = client.recv(65536)
        if not piece:
            raise SystemExit(f"posts: the server closed the connection after {data[:200]!r}")
        data += piece
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            continue
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:") and len(rest) >= int(line.partition(b":")[2]):
                return data
        if b"transfer-encoding: chunked" in head.lower() and rest.endswith(b"0\r\n\r\n"):
            return data


if __name__ == "__main__":
    kind, address, number, whose = sys.argv[1:]
    if kind == "lines":
        lines(address, int(number), int(whose))
    else:
        posts(int(address), int(number), int(whose))
