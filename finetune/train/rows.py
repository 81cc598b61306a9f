"""Training rows: which of them are learnt from, and as which tokens."""

from __future__ import annotations

import itertools
import json
import logging
import random
import re
from collections.abc import Sequence
from typing import Any

from compress.errors import DataError
from compress.stage import Job
from finetune.data import augment
from finetune.train.objective import GROUP
from runtime.rules import load_rules

log = logging.getLogger(__name__)
ANCHORS = ("\n", "a", ")", "0")
"""Signs with which few texts share a token."""
SHOWN = 30
"""Signs of a text that an error shows."""
WANTED = 0.5
"""The least label of a reply that is learnt as it stands."""
Row = augment.Row
Tokens = dict[str, Any]
"""``input_ids``, ``labels`` of the same length (-100 where there is no loss), and ``GROUP``."""


def training_rows(job: Job[Any]) -> tuple[list[Row], dict[str, int]]:
    """The rows to train on, augmented by the rules when there are any, in a fixed random order; and counts of them.

    Raises DataError naming the rules if no row keeps them.
    """
    given = read_rows(job)
    rows = demonstrations(given)
    counts = {"rows": len(rows)} | ({"unwanted": len(given) - len(rows)} if len(rows) < len(given) else {})
    if job.rules is not None:
        book = load_rules(job.rules)
        rows, report = augment.positives(book, rows, random.Random(job.seed), vary=job.params.augment)
        counts |= {"rejected": report.rejected, "toggled": report.toggled}
        if report.rejected:
            log.warning("%d of %d training rows break rules (%s)", report.rejected, counts["rows"], report.reasons())
        if not rows:
            what = f"no training row keeps the rules: {report.reasons()} of {counts['rows']} rows"
            raise DataError("training data", None, what, next="mend the answers, or the rule")
    random.Random(job.seed).shuffle(rows)
    return rows, counts


def read_rows(job: Job[Any]) -> list[Row]:
    """The training split. Raises DataError with the line of a row that has no answer to learn from."""
    assert job.data is not None
    path = job.data.path / "train.jsonl"
    with open(path, encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle]
    if not rows:
        raise DataError(path, None, "has no rows", next="give data.train some")
    for number, row in enumerate(rows, 1):
        if not row.get("messages") or row["messages"][-1].get("role") != "assistant":
            raise DataError(
                path,
                number,
                "a training row must end with an assistant message",
                next="add the reply, or leave the row out",
            )
    return rows


def demonstrations(rows: Sequence[Row]) -> list[Row]:
    """The rows without those whose ``label`` says that their reply is not wanted: 0, false, or less than a half.

    Raises DataError if none is left. A column of other labels than 0 to 1 says nothing about replies.
    """
    labels = [row.get("label") for row in rows]
    graded = all(label is None or (isinstance(label, bool | int | float) and 0 <= label <= 1) for label in labels)
    kept = [row for row, label in zip(rows, labels, strict=True) if not graded or label is None or label >= WANTED]
    if not kept:
        what = f"the label of every row ({len(rows)}) says that its reply is not wanted"
        hint = "give replies to learn, or rename the column if it means something else"
        raise DataError("training data", None, what, next=hint)
    if len(kept) < len(rows):
        said = "%d of %d training rows are left out: their label says that the reply is not wanted"
        log.warning(said, len(rows) - len(kept), len(rows))
    return kept


def tokenise(
    tokenizer: Any, rows: Sequence[Row], limit: int, *, every_turn: bool = False, counts: dict[str, Any] | None = None
) -> list[list[Tokens]]:
    """The rows in the chat template, without those of over ``limit`` tokens (``tokenise_all``, ``short_enough``)."""
    if every_turn:
        rows = turn_by_turn(tokenizer, rows)
    examples = tokenise_all(tokenizer, rows, every_turn=every_turn)
    return short_enough([[example] for example in examples], limit, counts)


def turn_by_turn(tokenizer: Any, rows: Sequence[Row]) -> list[Row]:
    """The rows, each as one for every turn that is learnt, which ends with it, where the template writes earlier turns
    otherwise than last ones (Qwen 3 leaves their thoughts out): the model answers behind the latter."""
    found: list[Row] = []
    apart = 0
    for row in rows:
        turns = _learnt(row, every_turn=True)
        if turns == [len(row["messages"]) - 1] or _in_one(tokenizer, row, turns):
            found.append(row)
        else:
            apart += 1
            found += [{**row, "messages": _ending(row["messages"][: i + 1]), GROUP: asked(row)} for i in turns]
    if apart:
        log.warning("the chat template rewrites earlier turns: %d conversations are learnt turn by turn", apart)
    return found


def _ending(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, of whose replies the last alone is learnt."""
    before = [{**message, "weight": 0} if message["role"] == "assistant" else message for message in messages[:-1]]
    return [*before, messages[-1]]


def _in_one(tokenizer: Any, row: Row, turns: Sequence[int]) -> bool:
    """Whether every reply stands in the whole conversation as it does where it is the last."""
    owners = [row] * len(turns)
    (whole,) = _render(tokenizer, [row], [row["messages"]], opened=False)
    heads = _render(tokenizer, owners, [row["messages"][:i] for i in turns], opened=True)
    ends = _render(tokenizer, owners, [row["messages"][: i + 1] for i in turns], opened=False)
    try:
        for i, head, end in zip(turns, heads, ends, strict=True):
            _span(row, i, whole, head, end)
    except DataError:
        return False
    return True


def tokenise_all(tokenizer: Any, rows: Sequence[Row], *, every_turn: bool = False) -> list[Tokens]:
    """Each row in the chat template.

    The last assistant turn has labels, or ``every_turn``; those of weight 0 have none. Raises DataError naming the row
    that the template cannot render, or whose turns it does not put one after another.
    """
    wholes = _render(tokenizer, rows, [row["messages"] for row in rows], opened=False)
    for row, whole in zip(rows, wholes, strict=True):
        _require_tools(row, whole)
    _tell_of_tools(rows, wholes)
    _tell_of_signs(tokenizer, rows)
    fulls = _split(tokenizer, wholes)
    labels = [[-100] * len(ids) for ids in fulls]
    places = [(n, i) for n, row in enumerate(rows) for i in _learnt(row, every_turn)]
    _mark(tokenizer, rows, places, wholes, fulls, labels)
    return [
        {"input_ids": ids, "labels": marks, GROUP: row.get(GROUP) or asked(row)}
        for row, ids, marks in zip(rows, fulls, labels, strict=True)
    ]


def asked(row: Row) -> str:
    """What the user says in a conversation: the same in the twins that differ by their system prompt."""
    said = [[message["role"], message["content"]] for message in row["messages"][:-1] if message["role"] != "system"]
    return json.dumps([said, row.get("facts")], sort_keys=True)


def short_enough(
    examples: Sequence[list[Tokens]], limit: int, counts: dict[str, Any] | None = None
) -> list[list[Tokens]]:
    """The examples whose rows all have at most ``limit`` tokens. Raises DataError if there is none; warns of others and
    notes in ``counts`` how many are ``too_long``."""
    longest = [max(len(row["input_ids"]) for row in example) for example in examples]
    kept = [example for example, size in zip(examples, longest, strict=True) if size <= limit]
    if not kept:
        what = f"none of {len(examples)} rows has at most {limit} tokens (the shortest has {min(longest)})"
        raise DataError("training data", None, what, next="raise max_length")
    if len(kept) < len(examples):
        said = "%d of %d rows are left out: longer than max_length, %d tokens (the longest has %d)"
        log.warning(said, len(examples) - len(kept), len(examples), limit, max(longest))
        if counts is not None:
            counts["too_long"] = len(examples) - len(kept)
    return kept


def _learnt(row: Row, every_turn: bool) -> list[int]:
    """Which messages have a loss."""
    turns = [i for i, m in enumerate(row["messages"]) if m["role"] == "assistant"]
    turns = turns if every_turn else turns[-1:]
    learnt = [i for i in turns if row["messages"][i].get("weight", 1)]
    if not learnt:
        what = f"row {row.get('id')!r} has no turn to learn from: weight 0"
        others = any(m.get("weight", 1) for m in row["messages"] if m["role"] == "assistant")
        raise DataError("training data", None, what, next="remove it" + ", or set loss_on: all" * others)
    return learnt


def _mark(
    tokenizer: Any,
    rows: Sequence[Row],
    places: Sequence[tuple[int, int]],
    wholes: Sequence[str],
    fulls: list[list[int]],
    labels: list[list[int]],
) -> None:
    """Label the tokens between a turn's generation prompt and its end. Rows in which a token would reach over either
    are split there, for a prompt is read alone when the model answers it."""
    owners = [rows[n] for n, _ in places]
    heads = _render(tokenizer, owners, [rows[n]["messages"][:i] for n, i in places], opened=True)
    ends = _render(tokenizer, owners, [rows[n]["messages"][: i + 1] for n, i in places], opened=False)
    split = set()
    told_all, said_all = _split(tokenizer, heads), _split(tokenizer, ends)
    for (n, _), told, said in zip(places, told_all, said_all, strict=True):
        full = fulls[n]
        if full[: len(told)] != told or full[: len(said)] != said or len(said) <= len(told):
            split.add(n)
        else:
            labels[n][len(told) : len(said)] = full[len(told) : len(said)]
    apart: dict[int, list[tuple[int, int]]] = {n: [] for n in sorted(split)}
    for (n, i), head, end in zip(places, heads, ends, strict=True):
        if n in split:
            apart[n].append(_span(rows[n], i, wholes[n], head, end))
    for n, spans in apart.items():
        fulls[n], labels[n] = _pieces(tokenizer, rows[n], wholes[n], spans)


def _span(row: Row, i: int, whole: str, head: str, end: str) -> tuple[int, int]:
    """Where the reply ``messages[i]`` begins and ends in the conversation's text. What only a last turn has behind it
    (Phi-3's end of text) is left to that. Raises DataError where the template writes turns otherwise together."""
    named = f"messages[{i}] of row {row.get('id')!r}"
    if len(end) <= len(head):
        hint = "use a template that writes replies"
        raise DataError("chat template", None, f"writes nothing of {named}", next=hint)
    stop = _common(whole, end)
    content = str(row["messages"][i].get("content") or "").strip()
    if not whole.startswith(head):
        at = _common(whole, head)
        asked, said = head[at : at + SHOWN], whole[at : at + SHOWN]
        what = f"asks for {named} with {asked!r}, where the whole conversation has {said!r}"
        hint = "let the replies begin so (a thinking template wants thoughts), or use a template that asks without it"
        raise DataError("chat template", None, what, next=hint)
    if stop < len(end) and (not content or content not in whole[len(head) : stop]):
        what = f"writes {named} otherwise within the whole conversation than at its end"
        raise DataError("chat template", None, what, next="use a template that writes turns one after another")
    return len(head), stop


def _pieces(tokenizer: Any, row: Row, whole: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """(tokens, labels) of a conversation that is read in pieces: one ends wherever a token would reach into a reply."""
    cuts = [0]
    while True:
        edges = list(itertools.pairwise([*cuts, len(whole)]))
        pieces = {start: _tokens(tokenizer, row, whole, start, stop) for start, stop in edges}
        over = next((at for at, _ in spans if _place(tokenizer, row, whole, pieces, at) is None), None)
        if over is None:
            break
        cuts = sorted([*cuts, over])
    ids = [token for start in cuts for token in pieces[start]]
    labels = [-100] * len(ids)
    for start, stop in spans:
        first, last = (_place(tokenizer, row, whole, pieces, at, short=at == stop) for at in (start, stop))
        labels[first:last] = ids[first:last]
    return ids, labels


def _place(
    tokenizer: Any, row: Row, whole: str, pieces: dict[int, list[int]], at: int, *, short: bool = False
) -> int | None:
    """Tokens in front of the place ``at`` of the text; None where one reaches over it, unless ``short``: then without
    that one."""
    start = max(cut for cut in pieces if cut <= at)
    piece, part = pieces[start], _tokens(tokenizer, row, whole, start, at)
    same = _common(piece, part)
    if same < len(part) and not short:
        return None
    return sum(len(pieces[cut]) for cut in pieces if cut < start) + same


def _tokens(tokenizer: Any, row: Row, whole: str, start: int, stop: int) -> list[int]:
    if start:
        return _behind(tokenizer, row, whole[start:stop])
    found: list[int] = _split(tokenizer, [whole[:stop]])[0]
    return found


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many signs or tokens two begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _behind(tokenizer: Any, row: Row, text: str) -> list[int]:
    """The tokens of a text that stands behind another one: without the space that some tokenizers put in front."""
    for anchor in ANCHORS if text else ():
        before, both = _split(tokenizer, [anchor, anchor + text])
        if both[: len(before)] == before:
            return both[len(before) :]
    if text:
        what = f"the tokenizer reads {text[:20]!r} of row {row.get('id')!r} together with what stands in front of it"
        raise DataError("training data", None, what, next="use a template whose turns begin with special tokens")
    return []


def _render(
    tokenizer: Any, rows: Sequence[Row], said: Sequence[Sequence[dict[str, Any]]], *, opened: bool
) -> list[str]:
    """The conversations as texts; ``opened``: with the generation prompt."""
    import jinja2

    texts: list[str] = []
    for row, messages in zip(rows, said, strict=True):
        plain = [{k: v for k, v in m.items() if k != "weight"} for m in messages]
        how = {"add_generation_prompt": opened, "tokenize": False, "tools": row.get("tools")}
        try:
            texts.append(tokenizer.apply_chat_template(plain, **how))
        except jinja2.TemplateSyntaxError as error:
            what = f"it is no template that can be read: {error.message}"
            raise DataError("chat template", error.lineno, what, next="mend the model's chat template") from None
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            what = f"the chat template refuses row {row.get('id')!r}: {error}"
            raise DataError("training data", None, what, next="mend or remove that row") from None
    return texts


def _split(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids


def _tell_of_tools(rows: Sequence[Row], texts: Sequence[str]) -> None:
    """Warn where the template leaves out the functions that a row offers."""
    offered = [
        all(tool["function"]["name"] in text for tool in row["tools"])
        for row, text in zip(rows, texts, strict=True)
        if row.get("tools")
    ]
    if not all(offered):
        said = "the chat template does not write the tools of %d rows: the model does not see what it may call"
        log.warning(said, offered.count(False))


def _tell_of_signs(tokenizer: Any, rows: Sequence[Row]) -> None:
    """Warn of texts that spell a special token, which is read as that token: a reply would learn to end there."""
    signs = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    if not signs:
        return
    spelled = re.compile("|".join(map(re.escape, sorted(signs, key=len, reverse=True))))
    found = [
        (row.get("id"), sign[0])
        for row in rows
        if (sign := next(filter(None, (spelled.search(m.get("content") or "") for m in row["messages"])), None))
    ]
    if found:
        said = "the texts of %d rows spell special tokens, which end or turn a reply there (%r in row %r)"
        log.warning(said, len(found), found[0][1], found[0][0])


def _require_tools(row: Row, text: str) -> None:
    """Raise DataError where the template leaves out what a turn calls."""
    calls = [c["function"]["name"] for m in row["messages"] for c in m.get("tool_calls") or ()]
    for name in calls:
        if name not in text:
            what = f"the chat template does not write the tool call {name!r} of row {row.get('id')!r}"
            raise DataError("training data", None, what, next="use a template with tools, or remove such rows")
