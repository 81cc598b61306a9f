"""The parts of a data row and what each must be, checked alike wherever a row comes in.

Rows reach the tools as evaluation items, as recorded replies and as users' own files. A part of the wrong type must
never count as "not given": ``labels: "plain"`` read as a list of letters would take rules out of force in silence.
"""

from __future__ import annotations

import difflib
import gzip
import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from compress.errors import DataError
from compress.numbers import read_number

MATCHES = ("choice", "classifier", "contains", "exact", "instructions", "json", "lacks", "numeric", "refusal")
ROLES = ("system", "developer", "user", "assistant", "tool")


def numbered_rows(path: Path, shape: str, prefix: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """``(line number, row)`` of every line of a JSONL file (``.gz`` too) that is not blank.

    A byte-order mark and Windows line ends are fine. Raises DataError (file and line): ``prefix`` and what is wrong,
    with ``shape`` as the next step.
    """
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rb") as handle:
            for number, line in enumerate(handle, start=1):
                line = line.removeprefix(MARK) if number == 1 else line
                if line.strip():
                    yield number, read_row(path, number, line, shape, prefix)
    except (OSError, EOFError, zlib.error) as error:  # the last two: a packed file that is cut short or damaged
        raise unreadable(path, error) from None


MARK = b"\xef\xbb\xbf"
"""A byte-order mark."""


def unreadable(path: Path, error: Exception) -> DataError:
    """The error for a file that cannot be opened or unpacked."""
    why = getattr(error, "strerror", None) or error
    return DataError(path, None, f"cannot be read: {why}", next="check the path and the file")


def read_row(path: Path, number: int, line: bytes, shape: str, prefix: str = "") -> dict[str, Any]:
    """The object on a line. Raises DataError as in ``numbered_rows``."""
    try:
        row = parse(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        what, hint = _other_format(path, line) if number == 1 else ("", "")
        what = what or f"{prefix}not a line of JSON in UTF-8 ({error})"
        raise DataError(path, number, what, next=hint or shape) from None
    if not isinstance(row, dict):
        hint = _other_format(path, line)[1] if number == 1 else ""
        raise DataError(path, number, f"{prefix}{kind(row)}, not an object", next=hint or shape)
    return row


def _other_format(path: Path, line: bytes) -> tuple[str, str]:
    """What a file is whose first line shows that it is no JSON Lines at all, and the next step; two empty texts."""
    for found, what, hint in (
        (line.startswith(b"\x1f\x8b"), "packed with gzip", f"unpack it: gunzip -k {path.name}"),
        (line.startswith((b"\xff\xfe", b"\xfe\xff")), "in UTF-16", "save it in UTF-8"),
        (path.suffix.lower() in (".csv", ".tsv"), "a table", "write one JSON object a line, a key for each column"),
        (line.lstrip().startswith(b"["), "one JSON list", f"write one row a line: jq -c '.[]' {path.name}"),
    ):
        if found:
            return f"the file is {what}, not JSON Lines", hint
    return "", ""


def parse(text: str) -> Any:
    """A JSON value. Raises ValueError also for a key that stands twice, of which only the last would be seen."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return found


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = (
        (bool, "true or false"),
        (str, "a text"),
        (int | float, "a number"),
        (Mapping, "an object"),
        (list, "a list"),
    )
    return next((name for types, name in names if isinstance(value, types)), f"a {type(value).__name__}")


def check_known_keys(row: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ValueError for a key that nothing would read."""
    for key in row:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise ValueError(f"unknown key {key!r} ({hint})")


def check_parts(row: Mapping[str, Any]) -> None:
    """Raise ValueError, saying what is wrong, for the first part of a row that is not what it must be."""
    for name, check in _CHECKS.items():
        if name in row:
            check(name, row[name])


def check_question(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError unless ``messages`` (without a final answer) end with what is to be answered."""
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise ValueError("the question is missing: it ends with the user's message")


def _check_messages(name: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"{name} is not a list of {{role, content}}" + ("" if value else " that ends with the user's message")
        )
    for place, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise ValueError(f"{name} is not a list of {{role, content}}: see {name}[{place}]")
        if message.get("role") not in ROLES:
            raise ValueError(f"{name}[{place}] has the role {message.get('role')!r}, not one of {', '.join(ROLES)}")
        if message["role"] in ("user", "system") and not message["content"].strip():
            raise ValueError(f"{name}[{place}] has an empty content")


def _check_name(name: str, value: Any) -> None:
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise ValueError(f"{name} is {value!r}, not a text or a whole number")


def _check_facts(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {kind(value)}, not an object of names and values")
    for fact, given in value.items():
        if not isinstance(given, str | int | float | bool):
            raise ValueError(f"fact {fact!r} is {kind(given)}, not a text, a number or true/false")
        if isinstance(given, float) and not isfinite(given):  # it would not even equal itself in the other file
            raise ValueError(f"fact {fact!r} is {given}, not a number")


def _check_texts(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {kind(value)}, not a list of texts")
    for entry in value:
        if not isinstance(entry, str) or not entry.strip():
            raise ValueError(f"{name} has {entry!r}, which is not a text with something in it")


def _check_sources(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {kind(value)}, not a list of {{id, text}}")
    for place, source in enumerate(value):
        if not isinstance(source, Mapping) or not {"id", "text"} <= set(source):
            raise ValueError(f"{name}[{place}] is not {{id, text}}")
        _check_name(f"{name}[{place}].id", source["id"])
        if not isinstance(source["text"], str) or not source["text"].strip():
            raise ValueError(f"{name}[{place}].text is {source['text']!r}, not a text with something in it")


def _check_expected(name: str, value: Any) -> None:
    if not isinstance(value, Mapping) or "answer" not in value:
        raise ValueError(f"{name} is not {{answer, match}}")
    extra = [key for key in value if key not in ("answer", "match")]
    if extra:
        raise ValueError(f"{name} has the unknown key {extra[0]!r} (it holds answer and match)")
    match = value.get("match", "exact")
    if match not in MATCHES:
        raise ValueError(f"{name} is not {{answer, match}}: match is {match!r}, not one of {', '.join(MATCHES)}")
    _ANSWERS[match](value["answer"])


def _check_phrase(answer: Any) -> None:
    if not isinstance(answer, str | int | float) or isinstance(answer, bool):
        raise ValueError(f"expected.answer is {kind(answer)}, not a text")
    if not any(unicodedata.category(char) != "Cf" for char in folded(answer).rstrip(".")):
        raise ValueError("expected.answer is empty: every reply would be right")


def _check_phrases(answer: Any) -> None:
    for phrase in answer if isinstance(answer, list) and answer else [answer]:
        if isinstance(phrase, list) and not phrase:
            raise ValueError("expected.answer is empty: every reply would be right")
        _check_phrase(phrase)


def _check_choices(answer: Any) -> None:
    """Phrases, or lists of phrases of which any will do."""
    for part in answer if isinstance(answer, list) and answer else [answer]:
        _check_phrases(part)


def _check_number(answer: Any) -> None:
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or read_number(str(answer)) is None:
        raise ValueError(f"expected.answer {answer!r} is not a number, but expected.match is numeric")


def _check_letter(answer: Any) -> None:
    if not isinstance(answer, str) or not re.fullmatch(r"\(?[A-Za-z][.)]?", answer.strip()):
        raise ValueError(f"expected.answer {answer!r} is not one letter, but expected.match is choice")


def _check_refusal(answer: Any) -> None:
    if answer not in ("refuse", "answer"):
        raise ValueError(f"expected.answer {answer!r} is neither refuse nor answer, but expected.match is refusal")


def _check_fields(answer: Any) -> None:
    if not isinstance(answer, Mapping):
        raise ValueError("expected.answer must be an object where expected.match is json")
    if not answer:
        raise ValueError("expected.answer is empty: every reply would be right")


def _check_instructions(answer: Any) -> None:
    if not isinstance(answer, list) or not answer:
        raise ValueError('expected.answer must be a list of {"id", arguments} where expected.match is instructions')
    for place, one in enumerate(answer):
        if not isinstance(one, Mapping) or not isinstance(one.get("id"), str):
            raise ValueError(f"expected.answer[{place}] is not an object with an id")


def _check_classifier(answer: Any) -> None:
    given = answer if isinstance(answer, Mapping) else {}
    texts = all(isinstance(given.get(key), str) and given[key] for key in ("model", "label"))
    below = given.get("below", 0.5)
    right = isinstance(below, float) and 0 < below < 1 and isinstance(given.get("sha256", ""), str)
    if not texts or not right or set(given) - {"model", "label", "below", "sha256"}:
        shape = '{"model": folder, "label", "below"?: 0 to 1, "sha256"?}'
        raise ValueError(f"expected.answer must be {shape} where expected.match is classifier")


_ANSWERS: dict[str, Callable[[Any], None]] = {
    "choice": _check_letter,
    "classifier": _check_classifier,
    "contains": _check_choices,
    "exact": _check_phrase,
    "instructions": _check_instructions,
    "json": _check_fields,
    "lacks": _check_phrases,
    "numeric": _check_number,
    "refusal": _check_refusal,
}
_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "id": _check_name,
    "messages": _check_messages,
    "facts": _check_facts,
    "labels": _check_texts,
    "sources": _check_sources,
    "prompted": _check_texts,
    "expected": _check_expected,
    "cluster": _check_name,
}
PARTS = tuple(_CHECKS)


def folded(text: Any) -> str:
    """NFKC, case-folded, white space squeezed."""
    return " ".join(unicodedata.normalize("NFKC", str(text)).casefold().split())


def question_of(messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None) -> str:
    """What is asked, whatever the case, spacing and punctuation between words: rows that share it are one question."""
    said = [[str(m["role"]), _PUNCTUATION.sub("", folded(m["content"])) or m["content"]] for m in messages]
    return json.dumps([said, sorted((str(name), str(value)) for name, value in (facts or {}).items())])


_PUNCTUATION = re.compile(r"\s*[.,;:!?\u2026\"']+(?=\s|$)")
