"""The schema, as numbered steps from nothing to now.

Portable SQL: standard types, no rowids, keys chosen by us. A step is never changed once released; the next
one is added below it.
"""

from __future__ import annotations

from typing import Any

from daemon.errors import StorageError

Statements = tuple[str, ...]

MIGRATIONS: tuple[tuple[int, Statements], ...] = (
    (
        1,
        (
            """CREATE TABLE nodes (
                node_id VARCHAR(128) NOT NULL PRIMARY KEY,
                hostname VARCHAR(255) NOT NULL,
                ip VARCHAR(64) NOT NULL,
                peer VARCHAR(255) NOT NULL,
                owner VARCHAR(255) NOT NULL,
                os VARCHAR(64) NOT NULL,
                arch VARCHAR(64) NOT NULL,
                labels TEXT NOT NULL,
                daemon_version VARCHAR(64) NOT NULL,
                agent_version VARCHAR(64) NOT NULL,
                state VARCHAR(16) NOT NULL,
                registered_at DOUBLE PRECISION NOT NULL,
                first_seen_at DOUBLE PRECISION NOT NULL,
                last_heartbeat_at DOUBLE PRECISION NOT NULL,
                state_since DOUBLE PRECISION NOT NULL,
                reports_lost BIGINT NOT NULL
            )""",
            """CREATE TABLE agents (
                node_id VARCHAR(128) NOT NULL REFERENCES nodes (node_id),
                agent_id VARCHAR(128) NOT NULL,
                type VARCHAR(64) NOT NULL,
                version VARCHAR(64) NOT NULL,
                status VARCHAR(32) NOT NULL,
                pid INTEGER NOT NULL,
                last_heartbeat BIGINT NOT NULL,
                since DOUBLE PRECISION NOT NULL,
                seen_at DOUBLE PRECISION NOT NULL,
                PRIMARY KEY (node_id, agent_id)
            )""",
            """CREATE TABLE samples (
                node_id VARCHAR(128) NOT NULL REFERENCES nodes (node_id),
                type VARCHAR(128) NOT NULL,
                sampled_at BIGINT NOT NULL,
                received_at DOUBLE PRECISION NOT NULL,
                numbers TEXT NOT NULL,
                PRIMARY KEY (node_id, type, sampled_at)
            )""",
            "CREATE INDEX samples_received ON samples (received_at)",
            """CREATE TABLE node_events (
                node_id VARCHAR(128) NOT NULL REFERENCES nodes (node_id),
                source VARCHAR(16) NOT NULL,
                event_id VARCHAR(128) NOT NULL,
                happened_at DOUBLE PRECISION NOT NULL,
                received_at DOUBLE PRECISION NOT NULL,
                type VARCHAR(128) NOT NULL,
                severity VARCHAR(16) NOT NULL,
                agent_id VARCHAR(128) NOT NULL,
                message TEXT NOT NULL,
                data TEXT NOT NULL,
                PRIMARY KEY (node_id, source, event_id)
            )""",
            "CREATE INDEX node_events_received ON node_events (received_at)",
            "CREATE INDEX node_events_happened ON node_events (node_id, happened_at)",
            """CREATE TABLE commands (
                command_id VARCHAR(64) NOT NULL PRIMARY KEY,
                node_id VARCHAR(128) NOT NULL REFERENCES nodes (node_id),
                agent_id VARCHAR(128) NOT NULL,
                operation VARCHAR(16) NOT NULL,
                peer VARCHAR(255) NOT NULL,
                state VARCHAR(16) NOT NULL,
                message TEXT NOT NULL,
                code VARCHAR(64) NOT NULL,
                asked_at DOUBLE PRECISION NOT NULL,
                ended_at DOUBLE PRECISION NOT NULL
            )""",
            "CREATE INDEX commands_asked ON commands (asked_at)",
            "CREATE INDEX commands_of_node ON commands (node_id, asked_at)",
        ),
    ),
)

NEWEST = MIGRATIONS[-1][0]


def version_of(tx: Any) -> int:
    """The schema's version; 0 for an empty database, whose table of versions is made here."""
    tx.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    tx.execute("SELECT version FROM schema_version")
    row = tx.fetchone()
    if row is None:
        tx.execute("INSERT INTO schema_version (version) VALUES (0)")
        return 0
    return int(row[0])


def migrate(tx: Any, number: int, statements: Statements) -> None:
    """One step, in the transaction of the caller: all of it or nothing."""
    # First, because sqlite3 opens a transaction before it changes rows, not before it changes tables.
    tx.execute("UPDATE schema_version SET version = ?", (number,))
    for statement in statements:
        tx.execute(statement)


def pending(version: int) -> tuple[tuple[int, Statements], ...]:
    """The steps still to do.

    Raises:
        StorageError: the database is of a Manager newer than this one.
    """
    if version > NEWEST:
        raise StorageError(
            f"the database has schema {version}, and this Manager knows {NEWEST}; "
            "start the newer version, or choose another manager.database.path"
        )
    return tuple(step for step in MIGRATIONS if step[0] > version)
