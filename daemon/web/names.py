"""By which names a browser may rightly call this daemon."""

from __future__ import annotations


def names_of_host(hostname: str, http_host: str) -> frozenset[str]:
    """The host's name, its first label, and the configured address; lower case."""
    hostname = hostname.lower()
    return frozenset({hostname, hostname.partition(".")[0], http_host.lower()} - {""})
