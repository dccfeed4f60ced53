"""Files that survive a crash: atomic replacement and the bounded append journal."""
