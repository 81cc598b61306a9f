"""Figures and verdicts in plain words, for the terminal and for the page alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

BLANK = "–"
UNITS = ("B", "kB", "MB", "GB", "TB")
_UNFIT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
    + "]"
)
"""What HTML or XML cannot hold, and what turns the direction of the text around it."""


def percent(value: float | None, digits: int = 1) -> str:
    """``0.931`` -> ``93.1 %``."""
    return BLANK if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    return BLANK if value is None else f"{100 * value:+.1f}".replace("-", "−")


def margin(value: float) -> str:
    """A margin in points, with every digit that it has: ``0.0025`` -> ``−0.25``."""
    return f"\u2212{100 * value:.10g}"


def clean(text: str) -> str:
    """``text`` as a page or a report can hold it: what it cannot becomes U+FFFD."""
    return _UNFIT.sub("\ufffd", text)


def size(value: float | None) -> str:
    """Bytes with three significant digits."""
    if value is None:
        return BLANK
    number, unit = float(value), 0
    while number >= 1000 and unit < len(UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.3g} {UNITS[unit]}"


def seconds(value: float | None) -> str:
    """``95`` -> ``1 min 35 s``."""
    if value is None:
        return BLANK
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{int(value // 60)} min {int(value % 60):02d} s"


def figure(value: float | None, digits: int = 3) -> str:
    """A number with ``digits`` significant digits."""
    return BLANK if value is None else f"{value:.{digits}g}"


def milliseconds(value: float | None) -> str:
    """``12.34`` -> ``12.3 ms``."""
    return BLANK if value is None else f"{value:.3g} ms"


def readings(measured: Mapping[str, Any]) -> dict[str, str]:
    """What ``compress bench`` found (``compress.validate.bench``), without what was not measured."""
    found = {
        "first token": milliseconds(measured["ttft_ms"]),
        "first token, 95th percentile": milliseconds(measured["ttft_p95_ms"]),
        "first token, prompt cached": milliseconds(measured["ttft_cached_ms"]),
        "tokens/s, one stream": figure(measured["tokens_per_s"], 4),
        "prompt tokens/s": figure(measured["prefill_tokens_per_s"], 4),
        "loading": seconds(measured["load_s"]),
        "memory, peak": size(measured["peak_rss_bytes"]),
        "size": size(measured["size_bytes"]),
        "versions": ", ".join(f"{name} {version}" for name, version in measured["versions"].items()),
        "note": measured["note"],
    }
    return {name: text for name, text in found.items() if text not in (BLANK, "")}


def suite(candidate: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One suite of a candidate, or {}."""
    return next((s for s in candidate.get("suites", ()) if s["name"] == name), {})


def broken_rules(candidate: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rules of a candidate that failed, worst first, one entry per rule (model-only before enforced)."""
    failed = [rule for rule in candidate.get("rules", ()) if rule["verdict"] == "FAIL"]
    failed.sort(key=lambda r: (r["mode"] != "model", (r["candidate"] or 0) - (r["baseline"] or 0), r["id"]))
    seen: dict[str, Mapping[str, Any]] = {}
    for rule in failed:
        seen.setdefault(rule["id"], rule)
    return list(seen.values())


def named_items(result: Mapping[str, Any]) -> list[str]:
    """``escalate-legal: 14 newly broken, e.g. q7, q9, q12`` of every suite and rule that did not pass."""
    found = []
    for row in (*result["suites"], *result["rules"]):
        names = [printable(name) for name in row.get("broken") or ()]
        if names and row["verdict"] in ("FAIL", "INCONCLUSIVE"):
            what, mode = row.get("id", row.get("name")), ", enforced" if row.get("mode") == "enforced" else ""
            fresh, flips = row["flips"][1], "wrong" if "name" in row else "broken"
            count = f"{fresh} newly {flips}" if fresh else f"{flips} by both"
            found.append(f"{what}{mode}: {count}, e.g. {', '.join(names)}")
    return found


def protection(result: Mapping[str, Any]) -> list[str]:
    """The rule that fell most, what no rule lost with 95 % confidence, and what was asked of hard rules."""
    worst, said = result.get("worst_rule"), []
    if worst:
        fell = f"Worst rule: {printable(worst['id'])}, {points(worst['difference'])} points in {worst['n']}."
        said.append(
            f"{fell if worst['difference'] < 0 else 'No rule fell.'} With 95 % confidence no rule in force lost more "
            f"than {100 * worst['lost_at_most']:.1f} points."
        )
    if result.get("demands"):
        said.append(f"Asked of {result['demands']}.")
    return said


def wording_sentences(proof: Mapping[str, Any]) -> list[str]:
    """Flips that harmless other wordings cause in the baseline, beside those of every candidate on the same items."""
    rows: Sequence[Mapping[str, Any]] = proof.get("wording") or []
    told = [
        f"{printable(row['name'])} {sum(row['accuracy_flips'])} answers, "
        f"{sum(row['rule_flips'])} of {row['rule_n']} checks"
        for row in rows
    ]
    return (
        [f"Flips by wording and by compression, on the same {rows[0]['n']} items: {'; '.join(told)}."] if told else []
    )


def plan_sentences(plan: Mapping[str, Any]) -> list[str]:
    """What ``compress gate --plan`` assumes and what it comes to."""
    a = plan["assumed"]
    said = [
        f"If {100 * a['discordance']:g} % of the answers change, the difference is {100 * a['difference']:+g} points "
        f"and hard rules are truly broken in {100 * a['violations']:g} % of the replies: for all tests to pass with "
        f"{100 * a['power']:g} % probability, each must with {100 * plan['power_of_each']:.2f} %."
    ]
    if a["cluster_size"] > 1:
        said.append(f"Items come in clusters of {a['cluster_size']:g} whose flips correlate by {a['icc']:g}.")
    for place, items in plan["items"].items():
        known = "more than any number of" if items is None else f"{items}"
        often = "as often as in --data" if plan["shares"] else "in as many as the table says"
        said.append(f"{place}: {known} items, if every rule is in force {often}.")
    if plan["not_in_force"]:
        idle = ", ".join(plan["not_in_force"])
        said.append(f"In force in no item of --data, so that nothing would be shown: {idle}.")
    return said


def printable(text: str) -> str:
    """``text`` without anything that would steer a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in str(text))


def rule_phrase(rule: Mapping[str, Any]) -> str:
    """``escalate-legal (hard) 99.0 % → 61.2 %``."""
    before = "" if rule["baseline"] is None else f"{percent(rule['baseline'])} → "
    mode = ", enforced" if rule["mode"] == "enforced" else ""
    return f"{rule['id']} ({rule['severity']}{mode}) {before}{percent(rule['candidate'])}"


def judged(proof: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Candidates that the fixed sequence reached."""
    return [c for c in proof["candidates"] if c["verdict"] in ("PASS", "FAIL", "INCONCLUSIVE")]


def verdict_sentences(proof: Mapping[str, Any]) -> list[str]:
    """What the gate found, for somebody who has not read about the gate."""
    return [sentence for sentence in (*_verdict(proof), *_rounds(proof), idle_sentence(proof)) if sentence]


def _rounds(proof: Mapping[str, Any]) -> list[str]:
    """How far candidates were asked that were judged while they answered."""
    return [
        f"{c['name']} was asked in rounds: {c['asked']} items, judged after each of {len(c['looks'])}."
        for c in judged(proof)
        if c.get("looks")
    ]


def _verdict(proof: Mapping[str, Any]) -> list[str]:
    if proof["verdict"] == "PASS":
        return _passed(proof)
    blocked = next((c for c in judged(proof) if c["verdict"] != "PASS"), None)
    if blocked is None:
        return ["No candidate was judged."]
    if proof["verdict"] == "FAIL":
        return _failed(proof, blocked)
    return [
        f"The evidence does not decide: {blocked['name']} may be as good as {proof['baseline']['name']} or worse. "
        "Nothing may ship until more items are evaluated.",
        *blocked["reasons"],
    ]


def idle_sentence(result: Mapping[str, Any]) -> str:
    """The hard rules that no item tests, or nothing."""
    idle = result.get("hard_rules_not_in_force") or ()
    return f"In force in no item, so that nothing is shown: {', '.join(idle)} (hard)." if idle else ""


def _passed(proof: Mapping[str, Any]) -> list[str]:
    name, baseline = proof["chosen"], proof["baseline"]["name"]
    chosen = next(c for c in proof["candidates"] if c["name"] == name)
    said = [f"{name} may ship: it answers as well as {baseline} and keeps the rules, within the margins."]
    ratio = size_ratio(chosen["size_bytes"], proof["baseline"].get("size_bytes"))
    accuracy = suite(chosen, "accuracy")
    facts = [f"{size(chosen['size_bytes'])}" + (f", {ratio} smaller" if ratio else "")]
    if accuracy:
        facts.append(f"accuracy {percent(accuracy['baseline'])} → {percent(accuracy['candidate'])}")
    if adherence := suite(chosen, "adherence"):
        facts.append(f"hard rules kept {percent(adherence['baseline'])} → {percent(adherence['candidate'])}")
    said.append("; ".join(facts) + f"; n = {proof['n_items']}.")
    if stopped := next((c for c in judged(proof) if c["verdict"] != "PASS"), None):
        said.append(f"The next smaller step, {stopped['name']}, did not pass ({stopped['verdict']}).")
    return said


def _failed(proof: Mapping[str, Any], blocked: Mapping[str, Any]) -> list[str]:
    rules = broken_rules(blocked)
    said = [f"Nothing may ship: {blocked['name']} is worse than {proof['baseline']['name']}."]
    if rules:
        said.append("Rules that broke: " + "; ".join(rule_phrase(rule) for rule in rules) + ".")
    for entry in blocked.get("suites", ()):
        if entry["verdict"] == "FAIL":
            said.append(
                f"{entry['name']}: {percent(entry['baseline'])} → {percent(entry['candidate'])} "
                f"({points(entry['difference'])} points; the margin is {margin(entry['margin'])})."
            )
    return said if len(said) > 1 else [*said, *blocked["reasons"]]


def size_ratio(part: float | None, whole: float | None) -> str:
    """How many times smaller ``part`` is, or an empty string."""
    return f"{whole / part:.1f}×" if part and whole else ""


def flips(candidate: Mapping[str, Any]) -> list[int]:
    """``[to pass, to fail]`` over the model-only rules."""
    counted = [rule["flips"] for rule in candidate.get("rules", ()) if rule["mode"] == "model" and rule.get("flips")]
    return [sum(pair[0] for pair in counted), sum(pair[1] for pair in counted)]


def _row(model: Mapping[str, Any], judged: Mapping[str, Any], side: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the ``side`` (candidate or baseline) of a candidate; None where something was not measured."""
    bench = (measured.get("bench") or {}).get(model["name"]) or {}
    return {
        "name": model["name"],
        "kind": model.get("kind", ""),
        "verdict": model["verdict"] if side == "candidate" else "BASELINE",
        "note": model.get("note", "") if side == "candidate" else "",
        "size_bytes": model.get("size_bytes"),
        "ratio": 1.0,
        "ttft_ms": bench.get("ttft_ms"),
        "tokens_per_s": bench.get("tokens_per_s"),
        "peak_rss_bytes": bench.get("peak_rss_bytes"),
        "accuracy": suite(judged, "accuracy").get(side),
        "accuracy_low": None,
        "accuracy_high": None,
        "adherence": suite(judged, "adherence").get(side),
        "adherence_enforced": (model.get("enforced") or {}).get("rate"),
        "kl_mean": None,
        "top1": None,
        "perplexity_ratio": None,
        "flips": None,
    }


def candidate_row(
    candidate: Mapping[str, Any], proof: Mapping[str, Any], measured: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of one candidate in one flat row."""
    accuracy, drift = suite(candidate, "accuracy"), candidate.get("drift") or {}
    baseline_bytes = proof["baseline"].get("size_bytes")
    return _row(candidate, candidate, "candidate", measured) | {
        "ratio": round(baseline_bytes / candidate["size_bytes"], 2) if baseline_bytes else None,
        "accuracy_low": accuracy.get("low"),
        "accuracy_high": accuracy.get("high"),
        "kl_mean": drift.get("kl_mean"),
        "top1": drift.get("top1"),
        "perplexity_ratio": drift.get("perplexity_ratio"),
        "flips": flips(candidate),
    }


def baseline_row(proof: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """The baseline in the shape of ``candidate_row``."""
    return _row(proof["baseline"], proof["candidates"][0] if proof["candidates"] else {}, "baseline", measured)


def rows_of(proof: Mapping[str, Any], measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The baseline and every candidate, least compressed first."""
    rows: Sequence[dict[str, Any]] = [candidate_row(c, proof, measured) for c in proof["candidates"]]
    return [baseline_row(proof, measured), *rows]
