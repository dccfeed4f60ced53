"""What gRPC reads from the environment when it is imported, once and for good.

Imported by ``daemon.rpc`` itself, so that whoever imports a module of this package has it before grpc.
A program that imports grpc without this package imports this module first.
"""

from __future__ import annotations

import os
import sys

# Fork handlers would stop every thread of gRPC at each fork; we spawn without fork.
_FORK_SUPPORT = ("GRPC_ENABLE_FORK_SUPPORT", "0")

# TLS 1.3 only. grpcio has no switch for the version, but this list is of TLS 1.2 suites: with one that no
# certificate can serve, 1.2 finds nothing in common, while the suites of 1.3 are not ours to choose.
_TLS_1_3_ONLY = ("GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-CHACHA20-POLY1305")

# gRPC's core writes to stderr in words of its own, a line for every handshake that fails, without the peer.
# What can be known of those we count and tell (daemon.rpc.handshakes); who debugs gRPC sets it himself.
_QUIET = ("GRPC_VERBOSITY", "NONE")


def prepare(environ: os._Environ[str] | dict[str, str], *, imported: bool) -> None:
    """Sets what must be so, and what is left to the operator where he said nothing.

    Args:
        environ: the process's environment.
        imported: whether grpc is imported already.

    Raises:
        ImportError: it is, without them: TLS 1.2 would be open, and nothing would tell.
    """
    if imported and environ.get(_TLS_1_3_ONLY[0]) != _TLS_1_3_ONLY[1]:
        raise ImportError(
            "grpc was imported before daemon.rpc.grpc_env; import that first, or TLS 1.2 stays open"
        )
    environ.update((_FORK_SUPPORT, _TLS_1_3_ONLY))
    environ.setdefault(*_QUIET)


prepare(os.environ, imported="grpc._cython.cygrpc" in sys.modules)
