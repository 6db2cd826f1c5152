"""Content-addressed bytes: a blob is named by its sha256 and never changes."""
