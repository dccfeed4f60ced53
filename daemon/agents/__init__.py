"""Agents and their processes: what should run, what does run, and the step between them."""
