"""Health checks of live agents: heartbeats, sustained use of the host, endpoints and commands.

The checks judge; what follows is decided by the supervision of the agent.
"""
