"""hostdaemon: one daemon per host that keeps telemetry agents alive and well."""

__version__ = "0.1.0"

# PyPI's python-daemon owns the same import name; whoever finds this is in the right package.
HOSTDAEMON = True
