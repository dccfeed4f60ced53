"""How the server listens: its address, whether that is free, and what it permits its clients."""

from __future__ import annotations

import errno
import os
import socket

from daemon.errors import ListenError

STREAMS_PER_CONNECTION = 256
PINGS_FROM_S = 5.0  # clients ping every 10 s without calls; half of it, so that jitter is no offence
KEEPALIVE_S = 60.0  # ours: finds callers whose host is gone
KEEPALIVE_TIMEOUT_S = 20.0
HANDSHAKE_S = 10.0


def server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """The channel arguments of the server (grpc/impl/channel_arg_names.h)."""
    return [
        ("grpc.so_reuseport", 0),  # else a second server would share the port, and nobody would notice
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
        ("grpc.http2.min_ping_interval_without_data_ms", int(PINGS_FROM_S * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
    ]


def server_address(host: str, port: int) -> str:
    """As gRPC writes addresses; an empty host is every interface."""
    host = host.strip("[]") or "0.0.0.0"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_free(host: str, port: int, program: str = "daemon") -> None:
    """Binds the port and lets it go: gRPC itself would say neither why nor in one line.

    Args:
        program: whose ``grpc_host`` and ``grpc_port`` they are.

    Raises:
        ListenError: it cannot be bound; says why.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]") or "0.0.0.0", port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ListenError(
            f"gRPC: {cannot(host, port)}: the name is unknown; correct {program}.grpc_host"
        ) from error
    for family, kind, protocol, _name, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
                probe.listen(1)
            except OSError as error:
                cause = os.strerror(error.errno or 0)
                raise ListenError(f"gRPC: {cannot(host, port)}: {cause}; {_step(error, program)}") from error


def cannot(host: str, port: int) -> str:
    """The first words of every such error."""
    return f"{server_address(host, port)} cannot be listened to"


def _step(error: OSError, program: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"free the port (ss -ltnp shows who has it) or change {program}.grpc_port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"choose a port above 1023, or give the {program} CAP_NET_BIND_SERVICE"
    return f"correct {program}.grpc_host, which must be an address of this host"
