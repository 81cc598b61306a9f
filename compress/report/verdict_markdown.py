"""A verdict as Markdown for a pull request: tables, and the items of what did not pass folded away.

GitHub takes 65,536 characters of a comment. Reasons and rows of a table are left out, and counted, where they would
take more than their share of ``MOST``, and cases once ``MOST`` are written.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from compress.report import verdict as documents
from compress.report import words

Json = Mapping[str, Any]
MOST = 50_000
"""Characters after which nothing further is written."""
SHOWN = 3
"""Cases shown of each rule and direction."""
MARK = {"PASS": "\u2705", "FAIL": "\u274c", "INCONCLUSIVE": "\u2753"}
SAID = {"broken": "newly broken", "mended": "mended", "both": "broken by both"}
_SPECIAL = re.compile(r"[|`*_\[\]@#~\\:]")
_REFERENCE = re.compile(r"([@#]|(?i:\bGH-|\bwww))(?=\w|\.)")
"""What GitHub reads as a mention, a reference or a link in the finished text, where an entity no longer helps."""


def markdown(document: Json) -> str:
    """The document as GitHub-flavoured Markdown."""
    count = f", {document['n_items']} items" if document["n_items"] else ""
    parts = [f"## Gate: {_badge(document['verdict'])} (against {cell(document['baseline'])}{count})\n"]
    left = 0
    for number, candidate in enumerate(document["candidates"]):
        waiting = len(document["candidates"]) - number
        parts += _tables(candidate, (MOST - sum(map(len, parts))) // (3 * waiting))
        for part in _details(candidate):
            if sum(map(len, parts)) + len(part) > MOST:
                left += 1
            else:
                parts.append(part)
    if left:
        parts.append(f"\n{left} further rules have cases, which the page and the JSON file show.\n")
    return words.clean("\n".join(parts))


def _badge(verdict: str) -> str:
    return f"{MARK[verdict]} {verdict}" if verdict in MARK else verdict


def _tables(candidate: Json, room: int) -> Iterator[str]:
    """``room``: characters of the reasons, and of either table."""
    yield f"### {cell(candidate['name'])}: {_badge(candidate['verdict'])}\n"
    yield from _first([f"- {cell(reason)}" for reason in candidate["reasons"]], room, "- {} further reasons")
    if candidate["idle"]:
        yield f"- In force in no item, so that nothing is shown: {', '.join(map(cell, candidate['idle']))} (hard)"
    if candidate["reasons"] or candidate["idle"]:
        yield ""
    yield from (f"{cell(line)}\n" for line in candidate["notes"])
    found = documents.rows(candidate)
    fine = [entry for entry in found if entry[1] and entry[2]["verdict"] in ("PASS", "n/a")]
    yield _table([entry for entry in found if entry not in fine], room)
    if fine:
        kept = sum(row["verdict"] == "PASS" for _, _, row in fine)
        idle = f", {len(fine) - kept} were in force nowhere" if len(fine) > kept else ""
        yield f"<details><summary>{kept} rules passed{idle}</summary>\n\n{_table(fine, room)}\n</details>\n"


def _first(lines: Sequence[str], room: int, rest: str) -> list[str]:
    """The lines that fit, and how many were left out."""
    fit = sum(size <= room for size in accumulate(len(line) + 1 for line in lines))
    return [*lines[:fit], *([rest.format(len(lines) - fit)] if fit < len(lines) else [])]


HEADER = ("suite", "rule", "verdict", "n", "baseline", "candidate", "difference (points)", "flips + / \u2212", "")


def _table(found: Sequence[tuple[str, str, Json]], room: int) -> str:
    rest = _table_row(["", "{} further rows", *[""] * (len(HEADER) - 2)])
    rows = _first([_table_row(_cells(*entry)) for entry in found], room, rest)
    return "\n".join([_table_row(HEADER), _table_row(["---"] * len(HEADER)), *rows]) + "\n"


def _table_row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(suite: str, rule: str, row: Json) -> list[str]:
    about = documents.interval(row["difference"]) if row["difference"] else words.BLANK
    return [
        cell(suite) if rule else f"**{cell(suite)}**",
        cell(rule),
        _badge(row["verdict"]),
        str(row["n"]),
        words.percent(row["baseline"]),
        words.percent(row["candidate"]),
        cell(about),
        "{} / {}".format(*row["flips"]),
        cell(documents.more(row)),
    ]


def _details(candidate: Json) -> Iterator[str]:
    """Cases of what did not pass; what passed has none here."""
    for suite, rule, row in documents.rows(candidate):
        found = [(kind, case) for kind in ("broken", "both") for case in row["cases"][kind][:SHOWN]]
        if row["verdict"] in ("FAIL", "INCONCLUSIVE") and found:
            name = f"{candidate['name']}, {suite}" + (f", {rule}" if rule else "")
            parts = [f"<details><summary>{cell(name)}: {cell(documents.line(row))}</summary>\n"]
            parts += [_case(kind, case) for kind, case in found]
            yield "\n".join([*parts, "</details>\n"])


def _case(kind: str, case: Json) -> str:
    parts = [f"**{cell(case['item'])}** ({SAID[kind]}): {cell(case['asked'])}\n"]
    for side in ("baseline", "candidate"):
        why = case[side]["why"]
        parts += [f"{side}{': ' + cell(why) if why else ''}", fenced(case[side]["reply"])]
    return "\n".join(parts)


def cell(text: str) -> str:
    """``text`` as it reads, in one line: nothing in it is markup, a mention or a reference."""
    said = html.escape(_REFERENCE.sub("\\1\u200b", " ".join(str(text).split())), quote=False)
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", said)


def fenced(text: str) -> str:
    """``text`` as a block of code that it cannot leave."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"\n{fence}text\n{text}\n{fence}\n"
