"""Models as callers describe them: the spec, built-in architectures, and the registry's records."""
