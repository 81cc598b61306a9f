"""The ``compress`` command: options, what each command does, what is shown."""

from compress.cli.app import app, main

__all__ = ["app", "main"]
