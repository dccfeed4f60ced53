"""Keeping resident memory small: glibc is asked to give back what only the start needed."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # malloc.h
ARENAS = 2  # a heap of its own for every thread would cost more than the threads' short waits


def bound_arenas() -> None:
    """Bounds the number of heaps; called before any thread starts. Without mallopt(3) nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Returns free pages to the kernel (malloc_trim(3)): after the start, of imports and the parsed file."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
