"""Collectors of host metrics and the manager that runs them."""
