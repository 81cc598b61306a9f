"""The progress of a validation: which model, what is done with it, how much of the whole."""

from __future__ import annotations

from collections.abc import Callable

from compress.validate.runner import Progress

Report = Callable[..., None]
"""A job's ``progress(done, total, note)``."""


class Ticker:
    """Shares of the whole for one model after the other. What a model does not need is skipped."""

    def __init__(self, report: Report, total: int) -> None:
        self.report, self.total, self.reserved = report, total, 0

    def of(self, name: str, units: int) -> Phases:
        """The next ``units`` of the whole, for the model called ``name``."""
        begin, self.reserved = self.reserved, self.reserved + units
        return Phases(self, name, begin)


class Phases:
    """What is done with one model, in order."""

    def __init__(self, ticker: Ticker, name: str, begin: int) -> None:
        self.ticker, self.name, self.at = ticker, name, begin

    def phase(self, what: str, units: int) -> Progress:
        """The progress function of a loop that makes up ``units``; it may count in steps of its own."""
        begin, self.at = self.at, self.at + units
        note, whole = f"{self.name}: {what}", self.ticker.total

        def tick(done: int, total: int) -> None:
            self.ticker.report(min(begin + units * done // max(total, 1), whole), whole, note)

        tick(0, 1)
        return tick
