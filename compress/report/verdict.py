"""A verdict as one document: candidate, suite, rule, and the items in which the two systems differ.

::

    {"verdict", "baseline", "n_items", "candidates": [CANDIDATE…]}
    CANDIDATE {"name", "verdict", "reasons", "suites": [SUITE…], "idle": [rule in force in no item…], "notes": [line…]}
    SUITE  {"name", …ROW, "rules": [{"id", "severity", "mode", …ROW}]}
    ROW    {"verdict", "n", "clusters", "baseline", "candidate", "difference": {"estimate", "low", "high"} or null,
            "own": {"low", "high"} or null, "margin", "needed", "more", "note", "flips": [to pass, to fail],
            "broken": [item id], "cases": {"broken": [CASE…], "mended": [CASE…], "both": [CASE…]}}
    CASE   {"item", "asked", "baseline": {"reply", "passed", "why"}, "candidate": {…}}

``own`` bounds the candidate's own share where that is what decides (a hard rule of recorded or enforced replies);
``more`` says how many further checks would decide at these rates, null where nothing is open or no number would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compress.report import words

Json = Mapping[str, Any]
KINDS = {(True, False): "broken", (False, True): "mended", (False, False): "both"}
"""What a case shows, by who passed."""
POOLS = {"hard": "adherence", "soft": "soft adherence"}
ENFORCED = "enforced"


def of_gate(result: Json, cases: Json, baseline: str, candidate: str) -> dict[str, Any]:
    """The document of ``compress gate``: its result, ``{check: cases}``, and what both sides are called."""
    entry = {"name": candidate, **result}
    return {
        "verdict": result["verdict"],
        "baseline": baseline,
        "n_items": result["n_items"],
        "candidates": [_candidate(entry, {"model": cases})],
    }


def of_proof(proof: Json, cases: Json) -> dict[str, Any]:
    """The document of a ``proof`` artifact: ``proof.json`` and the ``candidates`` of ``cases.json``."""
    return {
        "verdict": proof["verdict"],
        "baseline": proof["baseline"]["name"],
        "n_items": proof["n_items"],
        "candidates": [
            _candidate({**entry, "hard_rules_not_in_force": idle(proof)}, cases.get(entry["name"], {}))
            for entry in proof["candidates"]
        ],
    }


def idle(result: Json) -> list[str]:
    """Hard rules that no item tests."""
    return list(result.get("hard_rules_not_in_force") or ())


def _candidate(entry: Json, cases: Json) -> dict[str, Any]:
    told, sent = cases.get("model", {}), cases.get(ENFORCED, {})
    suites = [{"name": s["name"], **_row(s, told.get(s["name"], ())), "rules": []} for s in entry["suites"]]
    by_name = {suite["name"]: suite for suite in suites}
    for rule in entry["rules"]:
        enforced = rule["mode"] == ENFORCED
        name = ENFORCED if enforced else POOLS.get(rule["severity"], rule["severity"])
        if name not in by_name:  # rules in force in no item have no pool, enforced ones never
            by_name[name] = {"name": name, **_row({"verdict": "n/a", "n": 0}, ()), "rules": []}
            suites.append(by_name[name])
        shown = {"id": rule["id"], "severity": rule["severity"], "mode": rule["mode"]}
        own = (sent if enforced else told).get(rule["id"], ())
        by_name[name]["rules"].append({**shown, **_row(rule, own)})
    suite = by_name.get(ENFORCED)
    if suite:
        verdicts = [rule["verdict"] for rule in suite["rules"]]
        suite["verdict"] = next((v for v in ("FAIL", "INCONCLUSIVE", "PASS") if v in verdicts), "n/a")
    return {
        "name": entry["name"],
        "verdict": entry["verdict"],
        "reasons": list(entry.get("reasons") or ()),
        "suites": suites,
        "idle": idle(entry),
        "notes": words.protection(entry),
    }


def _row(result: Json, cases: Iterable[Json]) -> dict[str, Any]:
    """One suite or rule in the shape that every page reads."""
    n, needed = result["n"], result.get("needed")
    low, high, margin = result.get("low"), result.get("high"), result.get("margin")
    about, own = None, None
    given = result.get("difference")
    if isinstance(given, Sequence):
        about = dict(zip(("estimate", "low", "high"), given, strict=True))
        own = {"low": low, "high": high} if margin is None and low is not None else None
    elif result.get("mode", "model") == "model" and low is not None and result.get("baseline") is not None:
        about = {"estimate": result["candidate"] - result["baseline"], "low": low, "high": high}
    elif low is not None:
        own = {"low": low, "high": high}
    found: dict[str, list[Json]] = {kind: [] for kind in KINDS.values()}
    for case in cases:
        found[KINDS[case["baseline"]["passed"], case["candidate"]["passed"]]].append(case)
    return {
        "verdict": result["verdict"],
        "n": n,
        "clusters": result.get("clusters") or n,
        "baseline": result.get("baseline"),
        "candidate": result.get("candidate"),
        "difference": about,
        "own": own,
        "margin": margin,
        "needed": needed,
        "more": needed - n if needed is not None and result["verdict"] == "INCONCLUSIVE" else None,
        "note": result.get("note", ""),
        "flips": list(result.get("flips") or (0, 0)),
        "broken": list(result.get("broken") or ()),
        "cases": found,
    }


def rows(candidate: Json) -> list[tuple[str, str, Json]]:
    """``(suite, what, row)`` of every suite and rule of a candidate, in order; ``what`` is the rule's id or empty."""
    found: list[tuple[str, str, Json]] = []
    for suite in candidate["suites"]:
        if suite["name"] != ENFORCED:
            found.append((suite["name"], "", suite))
        found += [(suite["name"], rule["id"], rule) for rule in suite["rules"]]
    return found


def line(row: Json) -> str:
    """What was found of a suite or rule, in one line of words."""
    if not row["n"]:
        return "in force in no item"
    said = [f"{words.percent(row['baseline'])} \u2192 {words.percent(row['candidate'])}"]
    if row["difference"]:
        said.append(f"difference {interval(row['difference'])} points")
    if row["own"]:
        said.append(f"own share {words.percent(row['own']['low'], 2)} to {words.percent(row['own']['high'], 2)}")
    if row["margin"] is not None:
        said.append(f"margin {words.margin(row['margin'])}")
    count = f"n = {row['n']}" + (f" in {row['clusters']} clusters" if row["clusters"] < row["n"] else "")
    said += [count, "flips +{} / \u2212{}".format(*row["flips"])]
    return "; ".join([*said, *([more(row)] if more(row) else [])])


def interval(difference: Json) -> str:
    """``-1.2 [-3.0, +0.6]`` in points."""
    return "{} [{}, {}]".format(*(words.points(difference[key]) for key in ("estimate", "low", "high")))


def more(row: Json) -> str:
    """What would decide an open row, or why it does not count; nothing for a decided one."""
    if row["note"]:
        return str(row["note"])
    if row["verdict"] != "INCONCLUSIVE":
        return ""
    if row["more"] is None:
        return "no number of items would decide"
    return f"about {row['more']} more would decide" if row["more"] > 0 else "the whole decides, not this row alone"
