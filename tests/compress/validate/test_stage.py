import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from validate_models import RULES, question

from compress.artifact import Artifact, open_artifact, seal
from compress.errors import UsageError
from compress.report.words import verdict_sentences
from compress.stage import Job
from compress.validate import kept, listen
from compress.validate.in_torch import HfRunner
from compress.validate.params import ValidateParams
from compress.validate.recorded import judge_files
from compress.validate.stage import Validate
from runtime.rules import load_rules

ITEMS = 320


def run(tmp: Path, candidates: Mapping[str, Path], baseline: Path, data: Path, **params: Any) -> Path:
    out, scratch = tmp / "out", tmp / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir(exist_ok=True)
    cache = params.pop("cache", None)
    job = replace(make_job(candidates, baseline, data, out, scratch, **params), cache=cache)
    facts = Validate().run(job)
    assert facts["verdict"] == json.loads((out / "proof.json").read_text())["verdict"]
    return out


def make_job(
    candidates: Mapping[str, Path], baseline: Path, data: Path, out: Path, scratch: Path, **params: Any
) -> Job[ValidateParams]:
    artifacts = {name: open_artifact(path) for name, path in candidates.items()}
    refs: dict[str, Artifact] = {"baseline": open_artifact(baseline)}
    if "base" in params:
        refs["base"] = open_artifact(params.pop("base"))
    given = ValidateParams(
        baseline="tune",
        base="source" if "base" in refs else None,
        max_tokens=24,
        drift_rows=10,
        **{"bench_runs": 0, **params},
    )
    return Job(
        params=given,
        out=out,
        scratch=scratch,
        inputs=tuple(artifacts.values()),
        names=tuple(artifacts),
        refs=refs,
        ancestors={"tune": refs["baseline"], **artifacts},
        data=Artifact("data", data, "0" * 64),
        rules=data / "rules.yaml",
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320 items: enough for the zero-flip floors (133 checks; 299 enforced replies)."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for n in range(ITEMS):
        user, reply = question(n)
        rows.append(
            {
                "id": f"q{n}",
                "messages": [{"role": "user", "content": user}],
                "facts": {"tier": ("gold", "basic")[n % 2]},
                "expected": {"answer": json.loads(reply), "match": "json"},
            }
        )
    (folder / "eval.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    (folder / "rules.yaml").write_text(RULES)
    return folder


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory, trained_hf: Path, tiny_hf: Path, data: Path) -> Path:
    copy = tmp_path_factory.mktemp("copy") / "copy"
    shutil.copytree(trained_hf, copy)
    return run(tmp_path_factory.mktemp("pass"), {"copy": copy}, trained_hf, data, base=tiny_hf, samples=6)


def read(out: Path, name: str) -> Any:
    return json.loads((out / name).read_text())


def test_a_copy_of_the_baseline_passes(passed: Path) -> None:
    proof = read(passed, "proof.json")
    (candidate,) = proof["candidates"]
    assert (proof["verdict"], proof["chosen"], candidate["reasons"]) == ("PASS", "copy", [])
    accuracy = next(s for s in candidate["suites"] if s["name"] == "accuracy")
    assert accuracy["candidate"] == accuracy["baseline"] > 0.98
    assert candidate["drift"]["kl_mean"] < 1e-9
    assert candidate["drift"]["top1"] == 1
    assert proof["n_items"] == ITEMS
    assert proof["a_a"]["n"] == ValidateParams.model_fields["again_rows"].default < ITEMS
    assert f"{ITEMS} items" in proof["why_n"]
    assert "(copy changed 0; reckoned with are one at least" in proof["why_n"]


def test_the_model_before_tuning_is_far_below(passed: Path) -> None:
    base = read(passed, "proof.json")["base"]
    assert base["name"] == "source"
    assert base["accuracy"] < 0.1
    assert base["adherence"] < 0.5
    pages = read(passed, "before_after.json")["items"]
    assert len(pages) == 6
    assert [reply["name"] for reply in pages[0]["replies"]] == ["source", "tune", "copy"]
    assert any("escalate-legal" in page["rules"] for page in pages)
    assert all(page["replies"][1]["ok"] for page in pages)


def test_replies_are_recorded_with_everything_a_checker_needs(passed: Path) -> None:
    rows = [json.loads(line) for line in (passed / "replies" / "copy.jsonl").read_text().splitlines()]
    assert len(rows) == ITEMS
    assert rows[0]["id"] == "q0"
    assert rows[0]["messages"][0]["role"] == "system"
    assert json.loads(rows[0]["reply"])["action"] == "escalate"
    assert not rows[0]["truncated"]
    assert {p.name for p in (passed / "replies").iterdir()} == {
        "copy.jsonl",
        "copy.enforced.jsonl",
        "tune.jsonl",
        "tune.enforced.jsonl",
    }


def test_recorded_replies_pass_the_gate_on_files(passed: Path, data: Path) -> None:
    book = load_rules(data / "rules.yaml")
    result = judge_files(passed / "replies/tune.jsonl", passed / "replies/copy.jsonl", book)
    assert result.verdict != "FAIL"
    assert all(rule.flips == (0, 0) for rule in result.rules)


def test_damage_fails_and_stops_the_sequence(tmp_path: Path, trained_hf: Path, damaged_hf: Path, data: Path) -> None:
    later = tmp_path / "later"
    shutil.copytree(trained_hf, later)
    candidates = {"z-later": later, "a-damaged": damaged_hf}
    proof = read(run(tmp_path / "run", candidates, trained_hf, data), "proof.json")
    first, second = proof["candidates"]
    assert (first["name"], first["verdict"]) == ("a-damaged", "FAIL")
    assert (second["name"], second["verdict"]) == ("z-later", "n/a")
    assert "stopped at a-damaged" in second["reasons"][0]
    assert (proof["verdict"], proof["chosen"]) == ("FAIL", None)
    assert any("escalate-legal" in reason or "adherence" in reason for reason in first["reasons"])
    assert first["drift"]["kl_mean"] > 0.01
    enforced = {rule["id"]: rule for rule in first["rules"] if rule["mode"] == "enforced"}
    assert enforced["escalate-legal"]["candidate"] == 1, "the rule guard repairs what the model breaks"
    assert first["enforced"]["touched"] > 0


def test_a_killed_validation_asks_no_finished_model_again_and_ends_with_equal_bytes(
    tmp_path: Path, passed: Path, trained_hf: Path, tiny_hf: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained_hf, copy)
    asked: list[str] = []
    real = listen.hear_candidate

    def killed(setting: Any, model: Any, *rest: Any) -> Any:
        asked.append(model.name)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return real(setting, model, *rest)

    monkeypatch.setattr(listen, "hear_candidate", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, {"copy": copy}, trained_hf, data, base=tiny_hf, samples=6)
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(listen, "hear_baseline", None)  # the baseline's replies are on disk
    out = run(tmp_path, {"copy": copy}, trained_hf, data, base=tiny_hf, samples=6)
    files = sorted(p.relative_to(passed) for p in passed.rglob("*") if p.is_file() and p.name != "measurements.json")
    for name in files:
        assert (out / name).read_bytes() == (passed / name).read_bytes(), name


@pytest.fixture
def few(tmp_path: Path, data: Path) -> Path:
    """Forty of the items."""
    folder = tmp_path / "few"
    folder.mkdir()
    lines = (data / "eval.jsonl").read_text().splitlines(keepends=True)[:40]
    (folder / "eval.jsonl").write_text("".join(lines))
    shutil.copyfile(data / "rules.yaml", folder / "rules.yaml")
    return folder


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """How many prompts each call of the torch runner was given; call number ``stop_at`` is a kill."""
    asked: list[int] = []
    real = HfRunner.complete

    def complete(self: HfRunner, prompts: Any, *rest: Any, **more: Any) -> Any:
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return real(self, prompts, *rest, **more)

    monkeypatch.setattr(HfRunner, "complete", complete)
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_a_validation_goes_on_behind_the_segment_where_it_was_killed(
    tmp_path: Path, trained_hf: Path, few: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    monkeypatch.setattr(kept, "SEGMENT", 16)
    copy = tmp_path / "copy"
    shutil.copytree(trained_hf, copy)
    whole = run(tmp_path / "whole", {"copy": copy}, trained_hf, few, samples=4, wording_rows=0)
    with monkeypatch.context() as patch:
        counted(patch, stop_at)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, {"copy": copy}, trained_hf, few, samples=4, wording_rows=0)
    shutil.rmtree(tmp_path / "out")
    with monkeypatch.context() as patch:
        again = counted(patch)
        out = run(tmp_path, {"copy": copy}, trained_hf, few, samples=4, wording_rows=0)
    every = [16, 16, 8] * 3  # the baseline twice, the candidate
    assert again == every[stop_at:]
    for path in sorted(p for p in whole.rglob("*") if p.is_file() and p.name != "measurements.json"):
        name = path.relative_to(whole)
        assert (out / name).read_bytes() == path.read_bytes(), name


def test_a_baseline_answers_once_for_all_candidates(
    tmp_path: Path, trained_hf: Path, damaged_hf: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, asked = tmp_path / "cache", counted(monkeypatch)
    first = run(tmp_path / "first", {"a": damaged_hf}, trained_hf, few, cache=cache, wording_rows=0)
    assert asked == [40, 40, 40]
    second = run(tmp_path / "second", {"b": damaged_hf}, trained_hf, few, cache=cache, wording_rows=0)
    assert asked == [40, 40, 40, 40]
    one, two = read(first, "proof.json"), read(second, "proof.json")
    assert one["candidates"][0]["drift"] == two["candidates"][0]["drift"]
    assert (one["baseline"], one["a_a"]) == (two["baseline"], two["a_a"])
    (few / "rules.yaml").write_text((few / "rules.yaml").read_text().replace("Answer in JSON.", "Reply in JSON."))
    run(tmp_path / "third", {"a": damaged_hf}, trained_hf, few, cache=cache, wording_rows=0)
    assert asked[4:] == [40, 40, 40]  # another prompt is another question


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory, trained_hf: Path) -> Path:
    """The trained model in 8 bits."""
    how = {"inputs": (open_artifact(trained_hf),), "names": ("tune",)}
    return made(tmp_path_factory.mktemp("gguf"), "export.gguf", {"type": "Q8_0", "imatrix": False}, **how)


def made(tmp: Path, name: str, params: dict[str, Any], **how: Any) -> Path:
    """The artifact of a stage."""
    from compress.registry import load_stage

    out, scratch, stage = tmp / "made", tmp / "scratch", load_stage(name)
    for folder in (out, scratch):
        folder.mkdir()
    facts = stage.run(Job(params=stage.Params.model_validate(params), out=out, scratch=scratch, **how))
    inputs = {f"from.{n}": artifact.digest for n, artifact in enumerate(how["inputs"])}
    seal(out, kind=stage.produces, stage=name, stage_version=1, params={}, inputs=inputs, facts=facts)
    return out


def test_parity_is_read_where_it_was_proved(
    tmp_path: Path, gguf: Path, trained_hf: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = (open_artifact(trained_hf), open_artifact(gguf))
    how = {"inputs": inputs, "names": ("tune", "gguf"), "data": Artifact("data", data, "0" * 64)}
    same = open_artifact(made(tmp_path, "export.parity", {"prompts": 8, "tokens": 4}, **how))
    monkeypatch.setattr(listen, "starts_of", None)  # nothing is computed again
    (tmp_path / "out").mkdir()
    told: list[tuple[int, int, str]] = []
    job = make_job({"gguf": gguf}, trained_hf, data, tmp_path / "out", tmp_path / "scratch", parity="same")
    job = replace(job, refs={**job.refs, "parity": same}, progress=lambda *at: told.append(at))
    assert Validate().run(job)["verdict"] == "PASS"
    (candidate,) = read(tmp_path / "out", "proof.json")["candidates"]
    assert candidate["parity"]["proved_by"] == "export.parity"
    assert (candidate["parity"]["starts"], candidate["parity"]["failed"]) == (8, False)
    assert [at[0] for at in told] == sorted(at[0] for at in told)
    assert {note for _, _, note in told} == {
        *(f"tune: {what}" for what in ("loading", "answers", "answers again", "logits", "rules", "other wordings")),
        *(f"gguf: {what}" for what in ("loading", "answers", "rules", "drift")),
    }
    with pytest.raises(UsageError, match="parity is a gguf artifact"):
        Validate().check(replace(job, refs={**job.refs, "parity": inputs[1]}))


def test_a_gguf_is_judged_in_the_runtime_that_ships(tmp_path: Path, gguf: Path, trained_hf: Path, data: Path) -> None:
    out = run(tmp_path / "run", {"gguf": gguf}, trained_hf, data, bench_runs=2)
    proof = read(out, "proof.json")
    (candidate,) = proof["candidates"]
    assert (proof["verdict"], proof["chosen"]) == ("PASS", "gguf"), candidate["reasons"]
    parity = candidate["parity"]
    assert (parity["reference"], parity["same_prompts"], parity["difference"]) == ("tune", 32, None)
    assert parity["same_starts"] == 32
    assert 0 < candidate["drift"]["kl_mean"] < 0.01
    measured = read(out, "measurements.json")["bench"]
    assert measured["gguf"]["tokens_per_s"] > 0
    assert "torch" not in measured["gguf"]["versions"]
    assert measured["gguf"]["peak_rss_bytes"] < measured["tune"]["peak_rss_bytes"]


@pytest.mark.slow
def test_asking_stops_when_the_verdict_is_sure(tmp_path: Path, trained_hf: Path, damaged_hf: Path, data: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained_hf, copy)
    out = run(tmp_path / "run", {"a-copy": copy, "b-damaged": damaged_hf}, trained_hf, data, sequential=True)
    proof = read(out, "proof.json")
    first, second = proof["candidates"]
    assert (first["verdict"], first["asked"], first["looks"][-1]) == ("PASS", 300, 300), first["reasons"]
    assert second["verdict"] == "FAIL"
    assert second["asked"] <= 119
    assert (proof["n_items"], proof["chosen"]) == (300, "a-copy")
    assert "items, when the verdict was sure. A single rule needs 59 checks" in proof["why_n"]
    assert "a-copy was asked in rounds: 300 items, judged after each of 6." in verdict_sentences(proof)
    rows = [json.loads(line) for line in (out / "replies" / "b-damaged.jsonl").read_text().splitlines()]
    assert len(rows) == second["asked"]
    assert len({row["id"] for row in rows}) == len(rows)
    assert [row["id"] for row in rows[:3]] != ["q0", "q1", "q2"], "a beginning must be drawn, not taken"
    early = [suite for suite in first["suites"] if suite["name"] == "accuracy"]
    assert early[0]["low"] > -early[0]["margin"]


def test_wordings_stand_beside_the_candidates(passed: Path) -> None:
    rows = {row["name"]: row for row in read(passed, "proof.json")["wording"]}
    assert list(rows) == ["blank lines", "general sentence", "greeting", "the baseline again", "copy"]
    assert {row["n"] for row in rows.values()} == {48}
    assert rows["copy"]["rule_flips"] == [0, 0]


def test_missing_rules_and_items_are_named(tmp_path: Path, trained_hf: Path, data: Path) -> None:
    job = make_job({"c": trained_hf}, trained_hf, data, tmp_path, tmp_path)
    with pytest.raises(UsageError, match="rule file"):
        Validate().check(replace(job, rules=None))
    with pytest.raises(UsageError, match="evaluation items"):
        Validate().check(replace(job, data=Artifact("data", tmp_path, "0" * 64)))
    calibration = Artifact("calibration", tmp_path, "0" * 64)
    with pytest.raises(UsageError, match="does not answer prompts"):
        Validate().check(replace(job, refs={"baseline": calibration}))


def test_the_report_draws_what_the_stage_wrote(passed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from compress.report.html import read_proof, render_report
    from compress.report.tables import print_proof

    files = read_proof(passed)
    text = render_report({"name": "demo", "stages": {}}, [files])
    assert "copy may ship" in text
    assert "A colleague will call you." in text
    print_proof(files.proof, files.measured)
    assert "copy may ship" in capsys.readouterr().out
