"""How the stores speak to a Valkey or Redis server: calls as values, and the two ways to carry them out."""
