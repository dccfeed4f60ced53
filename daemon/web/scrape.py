"""The body of ``/metrics`` for whoever scrapes, and of paths like it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector


class Exposition:
    """Encodes the metrics as the scraper likes them: text 0.0.4 or OpenMetrics, by its Accept header.

    Args:
        metrics: every family.
        process: adds ``process_*`` of ourselves.
    """

    def __init__(self, metrics: Collector, *, process: bool = True) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(metrics)
        if process:
            ProcessCollector(registry=self._registry)

    def encode(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type
