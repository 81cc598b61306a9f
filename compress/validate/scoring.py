"""Whether a reply is right by what a row expects of it (``match``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compress.validate import classifier
from compress.validate.chosen_label import choice
from compress.validate.final_number import numeric
from runtime.rules.refusal import refuses
from runtime.rules.text import plain, shown, squeeze, word_pattern


def exact(answer: Any, text: str) -> bool:
    """The same text but for case, spaces, the shape of quotes and dashes, Markdown or quotation marks around it, and a
    full stop at the end."""
    return _bare(str(answer)) == _bare(text)


def _bare(text: str) -> str:
    folded = squeeze(shown(text))
    core = folded.strip("\"' ").rstrip(".!\u3002").strip("\"' ")
    return core or folded


def contains(answer: Any, text: str) -> bool:
    """Every wanted phrase (of a list in the list, any) stands in the text, at word boundaries."""
    parts = answer if isinstance(answer, list) else [answer]
    wanted = [word_pattern(map(str, part if isinstance(part, list) else [part])) for part in parts]
    said = _views(text)
    return all(any(map(pattern.search, said)) for pattern in wanted)


def _views(text: str) -> set[str]:
    """The text folded, as it was written and as a reader sees it."""
    bare = shown(text)
    return {squeeze(text)} if bare == text else {squeeze(text), squeeze(bare)}


def instructions(answer: Any, text: str) -> bool:
    """Every instruction of IFEval or IFBench that the answer names is followed."""
    from runtime.rules.instructions import not_followed

    return not not_followed(answer, text)


def lacks(answer: Any, text: str) -> bool:
    """None of the words or phrases stands in the text, at word boundaries."""
    return not any(map(word_pattern(answer if isinstance(answer, list) else [answer]).search, _views(text)))


def refusal(answer: Any, text: str, asked: str = "") -> bool:
    """The text refuses where ``refuse`` is wanted, and does not where ``answer`` is; ``asked`` is the question."""
    return refuses(plain(text), plain(asked)) == (answer == "refuse")


SCORERS: dict[str, Callable[[Any, str], bool]] = {
    "choice": choice,
    "classifier": classifier.holds,
    "contains": contains,
    "exact": exact,
    "instructions": instructions,
    "lacks": lacks,
    "numeric": numeric,
    "refusal": refusal,
}
