"""Asynchronous seams over Twisted: periodic work, back-off, threads, processes, ordered stop."""
