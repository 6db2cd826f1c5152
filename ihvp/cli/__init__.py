"""The command line: ``ihvp``."""

from ihvp.cli.main import main

__all__ = ["main"]
