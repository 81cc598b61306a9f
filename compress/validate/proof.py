"""From what the models said to ``proof.json``: verdicts, numbers, and why they are what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from compress.validate.answers import count_interventions, let_out, said, score
from compress.validate.drift import spread_rows
from compress.validate.gate import Answer, judge
from compress.validate.models import Everyone, Heard, Setting
from compress.validate.results import Judgement
from compress.validate.runner import Completion
from compress.validate.statistics import (
    FAIL,
    INCONCLUSIVE,
    NOT_TESTED,
    PASS,
    gatekeep,
    hard_floor,
    why_n,
    zero_flip_floor,
)
from compress.validate.wording import changes, flips, sensitivity
from runtime.engine.backends import BACKENDS

Json = Mapping[str, Any]

SHIPPABLE = frozenset({"bundle", *BACKENDS})
"""Kinds that the runtime loads; a GPTQ folder is judged but ships on a GPU server instead."""


Judged = tuple[Judgement, Judgement]


def build_proof(
    setting: Setting, margins: Mapping[str, float], everyone: Everyone
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of ``proof.json`` and of ``cases.json``. The candidates of ``everyone`` come from least to most
    compressed.

    ``margins`` holds accuracy, adherence, rule, and under ``baseline`` what the baseline may break itself.
    """
    baseline = everyone.baseline
    found = [_judged(setting, margins, baseline, candidate) for candidate in everyone.candidates]
    entries = [_candidate(setting, *pair) for pair in zip(everyone.candidates, found, strict=True)]
    chosen, reached = gatekeep((entry["name"], entry["verdict"]) for entry in entries)
    stopped = next((entry["name"] for entry in entries if entry["verdict"] != PASS), None)
    for entry in entries:
        if reached[entry["name"]] == NOT_TESTED:
            entry["verdict"] = NOT_TESTED
            entry["reasons"] = [f"not tested: the sequence stopped at {stopped}; its figures are shown, not judged"]
    floor = a_a(setting, baseline)
    judged = [h for h, e in zip(everyone.candidates, entries, strict=True) if e["verdict"] != NOT_TESTED]
    cases = {
        entry["name"]: {"model": own.cases_json(), "enforced": kept.cases_json()}
        for entry, (own, kept) in zip(entries, found, strict=True)
    }
    proof = {
        "baseline": _baseline(setting, baseline),
        "verdict": PASS if chosen else entries[0]["verdict"],
        "chosen": _shipped(entries) or chosen,
        "n_items": len(setting.items),
        "why_n": explain_n(setting, margins, baseline, judged[-1], floor),
        "margins": {name: share for name, share in margins.items() if name != "baseline"},
        "max_baseline_violations": margins["baseline"],
        "hard_rules_not_in_force": _not_in_force(setting),
        "candidates": entries,
        "a_a": floor,
        "wording": _wording(setting, everyone),
        "base": _base(setting, everyone.base, everyone.base_items) if everyone.base else None,
    }
    return proof, {"candidates": cases}


def _not_in_force(setting: Setting) -> list[str]:
    """Hard rules about which the items show nothing."""
    active = {rule.id for item in setting.items for rule in setting.book.active(item.turn)}
    return [rule.id for rule in setting.book.rules if rule.severity == "hard" and rule.id not in active]


def _shipped(entries: Sequence[Mapping[str, Any]]) -> str | None:
    """The most compressed passing candidate that the runtime can load."""
    passing = [entry["name"] for entry in entries if entry["verdict"] == PASS and entry["kind"] in SHIPPABLE]
    return passing[-1] if passing else None


def _identity(heard: Heard) -> dict[str, Any]:
    artifact = heard.model.artifact
    return {
        "name": heard.model.name,
        "kind": artifact.kind,
        "digest": artifact.digest,
        "size_bytes": artifact.size_bytes(),
        "note": heard.note,
    }


def _baseline(setting: Setting, heard: Heard) -> dict[str, Any]:
    return {**_identity(heard), "enforced": _enforced(setting, heard)}


def _answers(replies: Sequence[tuple[str, bool]]) -> list[Answer]:
    return [Answer(text, truncated) for text, truncated in replies]


def _judged(setting: Setting, margins: Mapping[str, float], baseline: Heard, candidate: Heard) -> Judged:
    """The model's own replies, and what the guard lets out."""
    book, items, n = setting.book, setting.items[: len(candidate.replies)], len(candidate.replies)
    first, second = _answers(said(baseline.replies[:n])), _answers(said(candidate.replies))
    own = judge(book, items, first, second, margins=margins, looks=candidate.looks)
    first, second = _answers(let_out(baseline.guarded[:n])), _answers(let_out(candidate.guarded))
    return own, judge(book, items, first, second, mode="enforced")


def verdict_of(setting: Setting, margins: Mapping[str, float], baseline: Heard, candidate: Heard) -> str:
    """The verdict on a candidate that answered the first of the items."""
    judged = _judged(setting, margins, baseline, candidate)
    return _together(*judged, asdict(candidate.parity) if candidate.parity else None)[0]


def _candidate(setting: Setting, candidate: Heard, judged: Judged) -> dict[str, Any]:
    """One candidate: the model's own replies and what the guard lets out must both pass, and so must parity."""
    own, kept = judged
    parity = asdict(candidate.parity) if candidate.parity else None
    verdict, reasons = _together(own, kept, parity)
    return {
        **_identity(candidate),
        "verdict": verdict,
        "reasons": reasons,
        "suites": [suite.to_json() for suite in own.suites],
        "rules": [rule.to_json() for rule in (*own.rules, *kept.rules)],
        "worst_rule": own.worst_rule,
        "demands": own.demands,
        "asked": len(candidate.replies),
        "looks": list(candidate.looks.ends) if candidate.looks else None,
        "side_effects": own.side_effects,
        "drift": asdict(candidate.drift) if candidate.drift else None,
        "parity": parity,
        "enforced": _enforced(setting, candidate),
    }


def _together(own: Judgement, kept: Judgement, parity: Mapping[str, Any] | None) -> tuple[str, list[str]]:
    reasons = [*own.reasons, *kept.reasons]
    verdicts = {own.verdict, kept.verdict}
    if parity and parity["failed"]:
        verdicts.add(FAIL)
        reasons.insert(0, f"parity with {parity['reference']}: {parity['difference']}")
    return (FAIL if FAIL in verdicts else INCONCLUSIVE if INCONCLUSIVE in verdicts else PASS), reasons


def _enforced(setting: Setting, heard: Heard) -> dict[str, Any]:
    """What the guard did, and the share of hard-rule checks that hold afterwards."""
    hard = {rule.id for rule in setting.book.rules if rule.severity == "hard"}
    items = setting.items[: len(heard.guarded)]
    kept, checked = score(setting.book, items, let_out(heard.guarded)).kept(hard)
    return {
        "n": len(heard.guarded),
        "touched": sum(bool(reply.interventions) for reply in heard.guarded),
        "interventions": count_interventions(heard.guarded),
        "rate": kept / checked if checked else None,
    }


def a_a(setting: Setting, baseline: Heard) -> dict[str, Any]:
    """The baseline against itself in batches of another composition: the flip floor of the measurement."""
    few = setting.few(list(baseline.again))
    first = [baseline.replies[row] for row in baseline.again]
    return changes(few.book, few.items, said(first), said(list(baseline.again.values())))


def _wording(setting: Setting, everyone: Everyone) -> list[dict[str, Any]]:
    """Flips that other words cause, beside those of a second pass and of every candidate on the same items."""
    told = {AGAIN: everyone.baseline.again} | {h.model.name: dict(enumerate(h.replies)) for h in everyone.candidates}
    others = {name: dict(zip(of, said(list(of.values())), strict=True)) for name, of in told.items()}
    return sensitivity(setting.book, setting.items, everyone.baseline.reworded, said(everyone.baseline.replies), others)


AGAIN = "the baseline again"


def percent(share: float) -> str:
    """``0.02`` -> ``2 %``."""
    return f"{100 * share:.3g} %"


def explain_n(setting: Setting, margins: Mapping[str, float], baseline: Heard, heard: Heard, floor: Json) -> str:
    """Why this many items suffice or do not, at the share of answers that changed (never below the A/A floor); of a
    stream that stopped, only that it did: no plan was needed."""
    few, n = setting.few(range(len(heard.replies))), len(heard.replies)
    if heard.looks and not heard.looks.complete:
        known = f"Stopped after {n} items, when the verdict was sure."
    else:
        before = replace(baseline, replies=baseline.replies[:n]).score(few)
        changed = sum(flips(list(zip(before.accurate, heard.score(few).accurate, strict=True))))
        share = max(changed / n, sum(floor["accuracy_flips"]) / floor["n"], 1 / n)
        known = why_n(n, margins["accuracy"], round(share, 4), clusters=len({item.cluster for item in few.items}))
        said = "reckoned with are one at least, and the baseline's own flips"
        known += f" ({heard.model.name} changed {changed}; {said}.)"
    return (
        f"{known} A single rule needs {zero_flip_floor(margins['rule'])} checks at its margin of "
        f"{percent(margins['rule'])}, or more where the rule file gives it a smaller one, and a fall of less than its "
        f"margin may pass; enforced hard rules need {hard_floor()} replies without a violation to show a rate of at "
        "most 1 %."
    )


def _base(setting: Setting, base: Heard, rows: Sequence[int]) -> dict[str, Any]:
    """The model before tuning, in the same numbers."""
    few = setting.few(rows)
    found = base.score(few)
    hard = {rule.id for rule in setting.book.rules if rule.severity == "hard"}
    kept, checked = found.kept(hard)
    shares = {rule.id: found.kept({rule.id}) for rule in setting.book.rules}
    return {
        **_identity(base),
        "n_items": len(rows),
        "accuracy": found.accuracy(),
        "adherence": kept / checked if checked else None,
        "rules": [{"id": name, "n": n, "rate": kept / n} for name, (kept, n) in shares.items() if n],
    }


def before_after(setting: Setting, proof: Json, everyone: Everyone, samples: int) -> list[dict[str, Any]]:
    """Items with what the model before tuning, the baseline and the smallest candidate said."""
    wanted = proof["chosen"] or (proof["candidates"][-1]["name"] if proof["candidates"] else None)
    shown = [everyone.baseline, *(heard for heard in everyone.candidates if heard.model.name == wanted)]
    least = min(len(heard.replies) for heard in shown)
    known = [row for row in range(least) if everyone.base is None or row in set(everyone.base_items)]
    rows = _telling(setting, list(known), samples)
    said_by_base = dict(zip(everyone.base_items, everyone.base.replies, strict=True)) if everyone.base else {}
    pages = []
    for row in rows:
        replies = [(heard.model.name, heard.replies[row]) for heard in shown]
        if everyone.base:
            replies.insert(0, (everyone.base.model.name, said_by_base[row]))
        pages.append(_page(setting, row, replies))
    return pages


def _telling(setting: Setting, rows: Sequence[int], samples: int) -> list[int]:
    """First an item for each rule that has one, then items spread evenly, in the order of the data."""
    chosen: dict[int, None] = {}
    for rule in setting.book.rules:
        held = (row for row in rows if rule in setting.book.active(setting.items[row].turn))
        chosen.update(dict.fromkeys(row for row in [next(held, None)] if row is not None))
    for place in spread_rows(len(rows), samples):
        chosen.setdefault(rows[place])
    return sorted(list(chosen)[:samples])


def _page(setting: Setting, row: int, replies: Sequence[tuple[str, Completion]]) -> dict[str, Any]:
    item, book = setting.items[row], setting.book
    prompt = next((m["content"] for m in reversed(item.messages) if m["role"] == "user"), "")
    return {
        "id": item.id,
        "prompt": prompt,
        "facts": dict(item.turn.facts),
        "rules": [rule.id for rule in book.active(item.turn)],
        "expected": item.answer,
        "replies": [_reply(setting, row, name, reply) for name, reply in replies],
    }


def _reply(setting: Setting, row: int, name: str, reply: Completion) -> dict[str, Any]:
    item, book = setting.items[row], setting.book
    accurate = item.accurate(book, reply.text)
    broken = [v.rule for v in book.check(item.turn, reply.text, reply.truncated) if not v.passed]
    return {"name": name, "text": reply.text, "accurate": accurate, "broken": broken, "ok": accurate and not broken}
