"""``python -m compress.cli``."""

from compress.cli.app import main

main()
