"""The HTTP front end: it parses, calls the store once, and answers; no numerics, no torch."""
