"""Whether this process needs TLS of Twisted's, that is pyOpenSSL, which costs 12 MB; pure.

gRPC has TLS of its own and does not count. The entry module asks before anything imports OpenSSL,
and a reload that adds a need to a process without it asks for a restart (:mod:`daemon.config.diff`).
"""

from __future__ import annotations

from collections.abc import Iterable

from daemon.config.schema import Config


def needs_tls(config: Config) -> bool:
    """Whether anything in it needs TLS in this process."""
    return bool(tls_needs(config))


def tls_needs(config: Config) -> tuple[tuple[str, str], ...]:
    """The keys that need TLS, as (agent id or empty, key)."""
    needs: list[tuple[str, str]] = []
    if config.daemon.http_port and config.daemon.http_tls.cert_file:
        needs.append(("", "daemon.http_tls.cert_file"))
    for agent in config.agents:
        if _https((agent.health_check.http_endpoint,)):
            needs.append((agent.id, "health_check.http_endpoint"))
    if _https((config.resources.webhook,)):
        needs.append(("", "resources.webhook"))
    if _https(config.update.allowed_urls):
        needs.append(("", "update.allowed_urls"))
    return tuple(needs)


def _https(urls: Iterable[str]) -> bool:
    return any(url[:6].lower() == "https:" for url in urls)
