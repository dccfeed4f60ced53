"""The reference Manager: daemons register and report, operators look and operate; ``twistd hostmanager``."""

import daemon.rpc.grpc_env  # noqa: F401 - sets what gRPC reads at its import, so before every module here
