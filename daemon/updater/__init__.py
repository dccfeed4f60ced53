"""Signed updates with automatic roll-back: what is asked for, in which order it is done, what is told."""
