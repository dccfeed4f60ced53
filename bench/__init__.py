"""What the daemon costs, each measure against the least code that does the same; see docs/bench.md."""
