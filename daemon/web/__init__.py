"""The HTTP edge: Klein routes that translate between requests and control."""
