"""Has neither a config nor a build function."""
