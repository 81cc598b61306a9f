import io
from pathlib import Path

import pytest
from report_data import make_proof, make_run
from rich.console import Console

from compress.report import tables, words
from compress.report.tables import compare_rows, comparison_table, proof_table, rules_table, status_table, suites_table


def drawn(table: object, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(table)
    return stream.getvalue()


def test_readings_carry_units_and_leave_out_what_was_not_measured() -> None:
    times = ("ttft_ms", "ttft_p95_ms", "ttft_cached_ms", "tokens_per_s", "prefill_tokens_per_s")
    rest = {"load_s": 95.0, "peak_rss_bytes": 94_728_192, "size_bytes": 0, "note": "", "versions": {"python": "3.11.7"}}
    assert words.readings(dict.fromkeys(times, 12.34) | rest) == {
        "first token": "12.3 ms",
        "first token, 95th percentile": "12.3 ms",
        "first token, prompt cached": "12.3 ms",
        "tokens/s, one stream": "12.34",
        "prompt tokens/s": "12.34",
        "loading": "1 min 35 s",
        "memory, peak": "94.7 MB",
        "size": "0 B",
        "versions": "python 3.11.7",
    }
    untimed = words.readings(dict.fromkeys(times) | rest | {"note": "timed on GPUs only"})
    assert list(untimed) == ["loading", "memory, peak", "size", "versions", "note"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_what_the_guard_sent_is_told_apart_where_the_mode_has_no_room(width: int) -> None:
    rule = {"id": "polite", "verdict": "FAIL", "severity": "hard", "n": 9, "baseline": 1.0, "candidate": 0.5}
    text = drawn(
        rules_table([{**rule, "mode": "model"}, {**rule, "mode": "enforced", "verdict": "PASS"}], width), width
    )
    model, sent = (line for line in text.splitlines() if "polite" in line)
    assert ("polite, sent" in model, "polite, sent" in sent) == (False, True)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_tables_fit_the_terminal_and_keep_names_and_verdicts(width: int) -> None:
    text = drawn(proof_table(make_proof(), {}, width), width)
    assert max(map(len, text.splitlines())) <= width
    assert "gguf-Q4_K_M" in text
    assert "PASS" in text


def test_a_wide_terminal_shows_all_columns(tmp_path: Path) -> None:
    state = make_run(tmp_path)
    text = drawn(comparison_table(compare_rows([state]), 200), 200)
    assert all(c.header in text for c in tables.CANDIDATE_COLUMNS)
    assert "812.4" in text


def test_compare_lists_baseline_and_candidates_of_every_run(tmp_path: Path) -> None:
    good, bad = make_run(tmp_path / "a"), make_run(tmp_path / "b", "FAIL") | {"name": "too-small"}
    rows = compare_rows([good, bad])
    assert [(r["run"], r["name"]) for r in rows] == [
        ("support-demo", "tune"),
        ("support-demo", "gguf-Q8_0"),
        ("support-demo", "gguf-Q4_K_M"),
        ("too-small", "tune"),
        ("too-small", "gguf-Q4_K_M"),
    ]
    assert [r["chosen"] for r in rows] == [False, False, True, False, False]
    assert rows[2]["ratio"] == 5.52
    assert rows[2]["tokens_per_s"] == 812.4
    assert rows[1]["tokens_per_s"] is None


def test_rules_suites_and_status_show_their_numbers(tmp_path: Path) -> None:
    (candidate,) = make_proof("FAIL")["candidates"]
    assert "61.2 %" in drawn(rules_table(candidate["rules"]), 120)
    assert "−23.1" in drawn(suites_table(candidate["suites"]), 120)
    text = drawn(status_table(make_run(tmp_path, "FAIL")), 120)
    assert "the gate did not pass" in text
    assert "1 min 35 s" in text


def test_names_with_brackets_are_no_markup() -> None:
    proof = make_proof()
    proof["candidates"][0]["name"] = "m[bold][/x]"
    proof["baseline"] = {**proof["baseline"], "name": "tune[/x]"}
    text = drawn(proof_table(proof, {}), 120)
    assert "m[bold][/x]" in text
    assert "Against tune[/x]" in text


def test_ends_of_commands_print_verdict_and_broken_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = make_run(tmp_path, "FAIL")
    tables.print_run(state)
    tables.print_status(state)
    tables.print_comparison([])
    proof = make_proof("FAIL")
    tables.print_proof(proof, {})
    (candidate,) = proof["candidates"]
    tables.print_gate({"verdict": "FAIL", "suites": candidate["suites"], "rules": candidate["rules"]})
    said = capsys.readouterr().out
    assert "escalate-legal (hard) 99.0 %" in said
    assert said.count("FAIL") >= 5
    assert "no proof to compare" in said


def test_hard_rules_that_no_item_tests_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    proof = {**make_proof("PASS"), "hard_rules_not_in_force": ["no-promise", "refuse"]}
    tables.print_proof(proof, {})
    tables.print_gate({"verdict": "PASS", "suites": [], "rules": [], "hard_rules_not_in_force": ["never"]})
    said = " ".join(capsys.readouterr().out.split())
    assert "In force in no item, so that nothing is shown: no-promise, refuse (hard)." in said
    assert "so that nothing is shown: never (hard)." in said


def test_eighty_columns_keep_counts_flips_and_three_items(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (candidate,) = make_proof("FAIL")["candidates"]
    suites = [{**suite, "n": 123456, "flips": [1203, 4567]} for suite in candidate["suites"]]
    rules = [{**rule, "n": 123456, "flips": [1203, 4567], "broken": []} for rule in candidate["rules"]]
    rules[0]["broken"] = ["q7", "\x1b[31mq9", "[bold]q12"]
    tables.print_gate({"verdict": "FAIL", "suites": suites, "rules": rules})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in ("accuracy", "adherence", "escalate-legal"):
        (line,) = [line for line in lines if line.strip().startswith(name) and "%" in line and "FAIL" in line][:1]
        assert "123456" in line
        assert "1203 / 4567" in line
    told = "escalate-legal: 4567 newly broken, e.g. q7, \ufffd[31mq9, [bold]q12"
    assert told in " ".join(" ".join(lines).split())
