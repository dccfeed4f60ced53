"""What a package is: its archive, its manifest, who signed it, which version it brings and for which host."""
