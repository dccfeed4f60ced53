"""For every test: gRPC reads its environment at its first import, which may be any test file's."""

import daemon.rpc.grpc_env  # noqa: F401
