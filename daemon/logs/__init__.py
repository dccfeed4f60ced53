"""Agents' logs: rotated without losing a line, bounded, compressed, read across files, followed."""
