"""Heartbeats of agents: the Unix socket protocol and the HTTP queue."""
