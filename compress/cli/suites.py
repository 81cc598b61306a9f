"""``compress validate --suite``: a suite's own rule file and items in the place of ``--rules`` and ``--data``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.cli import console
from compress.errors import UsageError


def named_suites(
    names: Sequence[str],
    rules: Path | None,
    data: Sequence[str],
    work_dir: Path,
    most: int | None = None,
    judge: str | None = None,
) -> tuple[Path, Sequence[str]]:
    """The rule file and the data options that ``validate`` takes: those given, or those of the suites.

    ``judge``: ``LABEL=FOLDER`` of a classifier for the suite ``toxicity``.
    """
    label, _, place = (judge or "").partition("=")
    if judge is not None and not (label and place):
        raise UsageError(f"--classifier {judge!r} is not LABEL=FOLDER", next="e.g. --classifier toxic=./toxic-bert")
    if not names:
        if judge is not None:
            raise UsageError("--classifier goes with --suite toxicity", next="in rows of your own: match: classifier")
        if rules is None or not data:
            raise UsageError("validate needs --rules and --data, or --suite", next="e.g. --suite ifeval")
        return rules, data
    if rules is not None or data:
        raise UsageError("--suite brings its own rules and data", next="leave --rules and --data out, or run twice")
    from compress.validate.suites import write_suites

    folder = work_dir / "suites" / "+".join(_folder(name) for name in names)
    rules, items, notes = write_suites(names, folder, most, (label, Path(place)) if judge else None)
    for note in notes:
        console.note(note)
    return rules, [str(items)]


def _folder(name: str) -> str:
    suite, _, given = name.partition("=")
    return f"{suite}-{Path(given).stem}" if given else suite
