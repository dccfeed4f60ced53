"""Puts a version in an agent's place, proves it, and puts the old one back."""
