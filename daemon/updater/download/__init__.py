"""Brings a package over HTTP(S) to the disk, in pieces that survive a restart."""
