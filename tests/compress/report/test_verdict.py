"""The verdict as a document, a page, Markdown and JUnit."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from html_page import Page
from report_data import make_proof

from compress.report import verdict
from compress.report.verdict import of_gate, of_proof, rows
from compress.report.verdict_files import FORMATS, write

HOSTILE = "</div><script>alert(1)</script>\n````\n# @team #1 | a\x1b[31m\x00\ufffe\u202e\U0001ffff"
CLEAN = "# @team #1 | a\ufffd[31m\ufffd\ufffd\ufffd\ufffd"


def case(item: str, before: bool, after: bool, reply: str = "Fine.") -> dict[str, Any]:
    sides = [
        {"reply": reply, "passed": passed, "why": "" if passed else "must any_word: none of them"}
        for passed in (before, after)
    ]
    return {"item": item, "asked": "Where is it?", "baseline": sides[0], "candidate": sides[1]}


def row(verdict: str, **more: Any) -> dict[str, Any]:
    found = {"n": 200, "baseline": 1.0, "candidate": 0.9, "low": -0.14, "high": -0.07, "margin": 0.02, "needed": None}
    return {**found, "verdict": verdict, "clusters": 200, "note": "", "flips": [0, 20], "broken": ["q1", "q2"], **more}


def document(reply: str = "Fine.") -> dict[str, Any]:
    result = {
        "verdict": "FAIL",
        "n_items": 250,
        "reasons": ["adherence: fell"],
        "hard_rules_not_in_force": ["never"],
        "suites": [
            {"name": "accuracy", **row("FAIL", difference=-0.1)},
            {"name": "adherence", **row("INCONCLUSIVE", difference=-0.1, needed=900)},
        ],
        "rules": [
            {"id": "polite", "severity": "hard", "mode": "recorded", **row("FAIL", difference=[-0.1, -0.14, -0.07])}
            | {"low": 0.86, "high": 0.93, "margin": None},
            {"id": "never", "severity": "hard", "mode": "recorded", **row("n/a", n=0, difference=None)},
            {"id": "short", "severity": "soft", "mode": "model", **row("PASS", difference=[-0.1, -0.14, -0.07])},
        ],
    }
    cases = {
        "accuracy": [case("q9", True, False, reply)],
        "polite": [case("q1", True, False, reply), case("q2", False, False, reply), case("q3", False, True, reply)],
        "short": [case("q4", True, False, reply)],
    }
    return of_gate(result, cases, "old.jsonl", "new.jsonl")


def test_rules_stand_below_their_suites_with_differences_flips_and_cases() -> None:
    (candidate,) = document()["candidates"]
    assert [(suite, what) for suite, what, _ in rows(candidate)] == [
        ("accuracy", ""),
        ("adherence", ""),
        ("adherence", "polite"),
        ("adherence", "never"),
        ("soft adherence", ""),
        ("soft adherence", "short"),
    ]
    found = {what or suite: entry for suite, what, entry in rows(candidate)}
    assert found["adherence"]["more"] == 700
    assert found["accuracy"]["more"] is None
    assert found["polite"]["difference"] == {"estimate": -0.1, "low": -0.14, "high": -0.07}
    assert found["polite"]["own"] == {"low": 0.86, "high": 0.93}
    assert {kind: [c["item"] for c in cases] for kind, cases in found["polite"]["cases"].items()} == {
        "broken": ["q1"],
        "mended": ["q3"],
        "both": ["q2"],
    }
    assert (found["accuracy"]["cases"]["broken"][0]["item"], candidate["idle"]) == ("q9", ["never"])


def test_a_proof_becomes_the_same_document() -> None:
    proof = make_proof("FAIL")
    cases = {"gguf-Q4_K_M": {"model": {"escalate-legal": [case("q7", True, False)]}, "enforced": {}}}
    (candidate,) = of_proof(proof, cases)["candidates"]
    found = {(suite, what): entry for suite, what, entry in rows(candidate)}
    assert found["adherence", "escalate-legal"]["cases"]["broken"][0]["item"] == "q7"
    assert found["adherence", "escalate-legal"]["flips"] == [1, 3]
    assert found["enforced", "escalate-legal"]["own"] == {"low": 0.0, "high": 0.004}


def test_a_document_says_how_many_items_there_were_and_every_digit_of_a_margin() -> None:
    told = document()
    assert told["n_items"] == 250
    row = told["candidates"][0]["suites"][0]
    assert "margin \u22122;" in verdict.line(row)
    assert "margin \u22120.25;" in verdict.line({**row, "margin": 0.0025})
    assert "\u22120.25" in FORMATS[".html"](
        {**told, "candidates": [{**told["candidates"][0], "suites": [{**row, "margin": 0.0025}]}]}
    )


@pytest.mark.parametrize("suffix", [".html", ".md", ".xml"])
def test_what_a_page_cannot_hold_is_shown_as_such(suffix: str) -> None:
    """Control characters are errors of HTML and XML, and an override would turn the text behind it around."""
    text = html.unescape(FORMATS[suffix](document(HOSTILE)))
    assert CLEAN in text
    assert not set(text) & set("\x00\x1b\ufffe\u202e\U0001ffff")


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_every_format_is_written_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new folder" / f"v{suffix}"
    write(document(HOSTILE), path)
    assert path.stat().st_size > 1000
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    first = path.read_bytes()
    write(document(HOSTILE), path)
    assert path.read_bytes() == first


def test_the_page_escapes_what_models_say_and_asks_nothing_of_the_network() -> None:
    page = Page(FORMATS[".html"](document(HOSTILE)))
    assert not page.open
    assert not page.requests
    assert "script" not in page.tags
    assert HOSTILE.split("\n")[0] in page.words
    wanted = ["old.jsonl", "new.jsonl", "about 700 more would decide", "Newly broken", "q1", "Broken by both", "q2"]
    wanted += ["must any_word: none of them", "\u221210.0 [\u221214.0, \u22127.0]", "own share 86.00 %"]
    for shown in wanted:
        assert shown in page.words, shown


def test_json_is_the_document_itself() -> None:
    assert json.loads(FORMATS[".json"](document(HOSTILE))) == document(HOSTILE)


def test_markdown_keeps_replies_inside_their_fences() -> None:
    text = FORMATS[".md"](document(HOSTILE))
    outside, fence = [], ""
    for line in text.split("\n"):
        mark = re.match(r"`{3,}", line)
        if mark and not fence:
            fence = mark[0]
        elif fence and line == fence:
            fence = ""
        elif not fence:
            outside.append(line)
    assert fence == ""
    assert not [line for line in outside if "script" in line or "@team" in line]
    assert "| **accuracy** |" in text
    assert "`````text" in text
    assert not [line for line in outside if line.startswith("|") and line.count(" | ") != 8]


def test_markdown_mentions_and_refers_to_nobody_once_it_is_shown() -> None:
    """GitHub looks for mentions and references in the finished text, where an entity is the character again."""
    told = document()
    told["candidates"][0]["suites"][0]["cases"]["broken"][0]["asked"] = (
        "Ask @team of #12 or GH-7 at www.evil.example, a@b.example"
    )
    shown = html.unescape(re.sub(r"```text.*?```", "", FORMATS[".md"](told), flags=re.S))
    assert "Ask @\u200bteam of #\u200b12 or GH-\u200b7 at www\u200b.evil.example, a@\u200bb.example" in shown
    assert not re.search(r"[@#]\w|GH-\d|www\.", shown)


def test_markdown_of_many_cases_fits_a_comment() -> None:
    told = document("word " * 2000)
    (candidate,) = told["candidates"]
    suite = candidate["suites"][1]
    suite["rules"] = [{**suite["rules"][0], "id": f"rule-{n}"} for n in range(40)]
    text = FORMATS[".md"](told)
    assert len(text) < 65_536
    assert "further rules have cases" in text


def test_markdown_of_many_rules_fits_a_comment_and_counts_the_rest() -> None:
    told = document()
    (candidate,) = told["candidates"]
    suite, good = candidate["suites"][1], candidate["suites"][2]
    suite["rules"] = [{**suite["rules"][0], "id": f"rule-{n}"} for n in range(900)]
    good["rules"] = [{**good["rules"][0], "id": f"fine-{n}"} for n in range(900)]
    candidate["reasons"] = [f"rule-{n} (hard): " + "fell " * 30 for n in range(900)]
    text = FORMATS[".md"](told)
    assert len(text) < 65_536
    reasons = [line for line in text.split("\n") if line.startswith("- rule-")]
    assert f"- {900 - len(reasons)} further reasons" in text
    shown = {what: re.findall(rf"(?m)^\|[^|]*\| {what}-\d+ \|", text) for what in ("rule", "fine")}
    assert all(len(rows) > 50 for rows in shown.values())
    assert f"|  | {901 - len(shown['rule'])} further rows |" in text  # soft adherence among them
    assert f"|  | {900 - len(shown['fine'])} further rows |" in text


def test_junit_counts_failures_and_errors_and_holds_no_forbidden_character() -> None:
    root = ElementTree.fromstring(FORMATS[".xml"](document(HOSTILE)))
    counts = {"tests": "6", "failures": "2", "errors": "1"}
    assert root.attrib == {"name": "gate against old.jsonl", **counts}  # junit-10.xsd has no "skipped" here
    assert [suite.get("skipped") for suite in root] == ["0", "1", "1"]
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["new.jsonl: accuracy", "new.jsonl: adherence", "new.jsonl: soft adherence"]
    failure = suites["new.jsonl: adherence"].find("testcase[@name='polite']/failure")
    assert failure is not None
    assert failure.text is not None
    assert "q1 (newly broken)" in failure.text
    assert "q2 (broken by both)" in failure.text
    passed = suites["new.jsonl: soft adherence"].find("testcase[@name='short']")
    assert passed is not None
    assert [child.tag for child in passed] == ["system-out"]


def test_a_candidate_that_was_not_reached_fails_no_build() -> None:
    told = document()
    told["candidates"][0]["verdict"] = "n/a"
    root = ElementTree.fromstring(FORMATS[".xml"](told))
    assert (root.get("failures"), root.get("errors")) == ("0", "0")
    assert sum(int(suite.get("skipped", "0")) for suite in root) == 6


BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_shows_the_page_without_a_complaint(tmp_path: Path) -> None:
    path = tmp_path / "v.html"
    write(document(HOSTILE), path)
    command = [str(BROWSER), "--no-sandbox", "--headless", "--disable-gpu", "--enable-logging=stderr"]
    shown = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=100, check=True
    )
    assert ":CONSOLE" not in shown.stderr
    assert "about 700 more would decide" in shown.stdout
    assert "<script" not in shown.stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize(("width", "media"), [(360, "screen"), (1280, "screen"), (794, "print")])
def test_no_reply_id_or_question_widens_the_page(tmp_path: Path, width: int, media: Any) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    result = document("https://" + "a" * 3000)
    broken = result["candidates"][0]["suites"][0]["cases"]["broken"][0]
    broken |= {"item": "x" * 900, "asked": "y" * 4000}
    broken["candidate"]["why"] = "z" * 900
    path = tmp_path / "v.html"
    write(result, path)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.emulate_media(media=media)
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        browser.close()
