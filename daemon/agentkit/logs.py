"""hostagent's log: the shared sink, fed with hostagent's ``log:`` keys."""

from __future__ import annotations

from typing import BinaryIO

from daemon.agentkit.config import LogConfig
from daemon.aio.logsink import LogSink, open_log_stream


def open_stream(config: LogConfig) -> BinaryIO:
    """The file of the configuration, or stderr.

    Raises:
        StorageError: the file cannot be opened.
    """
    return open_log_stream(config.file, "log.file")


def make_sink(config: LogConfig, stream: BinaryIO) -> LogSink:
    """The observer for a configuration."""
    return LogSink(config.level, config.format == "json", stream)

