"""``hostctl``: the operator's command line, over the daemon's control socket; no twisted, no grpc."""
