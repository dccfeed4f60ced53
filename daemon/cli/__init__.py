"""The hostctl command line (not built yet)."""
