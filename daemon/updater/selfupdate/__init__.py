"""Puts another version of the daemon in its own place, and back: installation, switch, probation, watcher."""
