"""The gRPC edge (not built yet)."""
