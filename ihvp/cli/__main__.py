"""``python -m ihvp.cli`` is ``ihvp``."""

from ihvp.cli.main import main

main()
