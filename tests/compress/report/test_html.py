import json
from pathlib import Path

import pytest
from html_page import Page
from report_data import make_run

from compress.report.html import render_report, write_run_report


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_page_is_whole_and_asks_nothing_of_the_network(tmp_path: Path, verdict: str) -> None:
    state = make_run(tmp_path, verdict)
    text = write_run_report(state, tmp_path / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert not page.requests
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "url(" not in text
    assert "@import" not in text
    assert verdict in page.words


def test_replies_and_names_are_escaped(tmp_path: Path) -> None:
    page = Page(write_run_report(make_run(tmp_path), tmp_path / "r.html").read_text())
    assert "<script>alert(1)</script>" in page.words
    assert "no-<script>card" in page.words
    assert "script" not in page.tags


def test_failure_names_the_broken_rule_with_its_numbers(tmp_path: Path) -> None:
    page = Page(write_run_report(make_run(tmp_path, "FAIL"), tmp_path / "r.html").read_text())
    assert "Rules that broke: escalate-legal (hard) 99.0 % → 61.2 %" in page.words
    assert "the gate did not pass" in page.words


def test_page_shows_figures_of_every_candidate(tmp_path: Path) -> None:
    page = Page(write_run_report(make_run(tmp_path), tmp_path / "r.html").read_text())
    shown = ["gguf-Q8_0", "gguf-Q4_K_M", "812.4", "2.9 MB", "5.52×", "93.1 %", "640 items", "1 min 35 s", "9 of 640"]
    assert [words for words in shown if words not in page.words] == []
    assert {"svg", "table", "details"} <= page.tags


def test_curves_of_a_training_are_drawn_with_what_was_measured(tmp_path: Path) -> None:
    state = make_run(tmp_path)
    name, stage = "tune", {**state["stages"]["proof"], "kind": "hf", "path": str(tmp_path / "tune")}
    state["stages"] = {name: stage, **state["stages"]}
    history = {"loss": [3.0, 2.0, 1.0], "learning_rate": [1e-3, 5e-4, 1e-4], "validation": [[2, 1.8, 0.75, 40]]}
    history["rules"] = {"no-<promise>": [[2, 9, 12]]}
    ended = {"values": {"rate": 0.001}, "state": "done", "value": 1.75, "measured": []}
    study = {"measure": "loss", "best": 0, "trials": [ended, {**ended, "state": "pruned", "value": None}]}
    history["replies"] = [[0, 0.5, 64, {"short": 32}], [4, 0.75, 64, {"short": 16}]]
    Path(stage["path"]).mkdir(parents=True, exist_ok=True)
    (Path(stage["path"]) / "training.json").write_text(json.dumps(history))
    (Path(stage["path"]) / "study.json").write_text(json.dumps(study))
    folds = {"folds": [{"loss": 1.5, "n": 20}, {"loss": 2.5, "n": 21}], "loss": {"mean": 2.0, "deviation": 0.70711}}
    facts = {"facts": {"unfrozen_at": {"4": 2}, "cross_validation": folds}}
    (Path(stage["path"]) / "artifact.json").write_text(json.dumps(facts))
    text = write_run_report(state, tmp_path / "r.html").read_text()
    page = Page(text)
    assert f"Training: {name}" in page.words
    assert "validation: 1.8 at 2" in page.words
    assert "block 4" in page.words
    assert "agrees: 75 % at 2; low: 59.8" in page.words
    caption = "Pairs that break no-<promise>: positive margin (n = 12)"
    assert page.words.count(caption) == 2  # in the picture, where nobody sees it, and above it
    assert "margin > 0: 75 % at 2; low: 46.77 % at 2; high: 91.11" in page.words
    assert "What the search tried, by loss" in page.words
    assert "pruned" in page.words
    assert "Trials of tune" in page.words
    assert "loss 2 ± 0.707" in page.words
    assert "pass: 75 % at 4" in page.words
    assert not page.open


def test_a_run_without_a_proof_still_has_a_page(tmp_path: Path) -> None:
    state = make_run(tmp_path)
    page = Page(render_report({**state, "verdict": None, "stages": {}}, []))
    assert "nothing is known about its quality" in page.words
