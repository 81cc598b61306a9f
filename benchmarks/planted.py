"""Planted regressions: known damage in a good model must be blocked, harmless changes must not.

    python benchmarks/planted.py [work/runs/demo/run.lock.json] [--results planted.jsonl] [--only WORD]

takes the tuned model, the items and the rules of a finished run of ``configs/pipelines/demo.yaml``, makes a copy for
every planting and lets the stage ``validate`` judge it against the model that it was copied from, on as many items as
``compress gate --plan`` asks for where 0.2 % of the answers change: so many in all, and so many in which each rule is
in force, as far as the run has them. ``--sequential`` stops damaged ones as soon as their verdict is sure; harmless
ones are asked everything, since that is what the plan is for. The baseline answers once (its replies are kept by
digest). Results are written as they come; what is there already is not judged again. The last lines sum up: detected
(FAIL), blocked (FAIL or INCONCLUSIVE), and harmless changes blocked.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from compress.artifact import Artifact, open_artifact
from compress.rows import question_of
from compress.stage import Job
from compress.validate.gate import MARGINS
from compress.validate.params import ValidateParams
from compress.validate.planning import Assumed, plan_gate
from compress.validate.stage import Validate
from runtime.rules import RuleBook, Turn, load_rules

State = dict[str, Any]
Change = Callable[[Path], None]
HARMFUL = ("noise", "forgotten", "template", "end token", "2 bits")


# ---- weights ----


def weights(change: Callable[[State], None]) -> Change:
    """A change of the tensors of ``model.safetensors``."""

    def apply(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})

    return apply


def linears(state: State, word: str) -> Iterator[str]:
    """Matrices of the blocks whose name has ``word``."""
    return (n for n, w in sorted(state.items()) if ".layers." in n and w.ndim == 2 and word in n)


def noise(word: str, scale: float, seed: int = 0) -> Change:
    """Gaussian noise of ``scale`` standard deviations of each matrix."""

    def change(state: State) -> None:
        draw = torch.Generator().manual_seed(seed)
        for name in linears(state, word):
            weight = state[name]
            state[name] = weight + scale * weight.std() * torch.randn(weight.shape, generator=draw)

    return weights(change)


def rounded(word: str, bits: int, group: int, *, symmetric: bool = False) -> Change:
    """Round to nearest in groups of ``group`` inputs."""

    def change(state: State) -> None:
        for name in linears(state, word):
            weight = state[name]
            rows = weight.reshape(-1, group)
            if symmetric:
                scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-8) / (2 ** (bits - 1) - 1)
                back = (rows / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
            else:
                low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
                scale = ((high - low) / (2**bits - 1)).clamp(min=1e-8)
                back = ((rows - low) / scale).round() * scale + low
            state[name] = back.reshape(weight.shape)

    return weights(change)


def in_type(dtype: torch.dtype) -> Change:
    """Every weight through another type and back."""
    return weights(lambda state: state.update({n: w.to(dtype).to(w.dtype) for n, w in state.items()}))


def permuted(seed: int) -> Change:
    """The channels of every FFN in another order: the same function."""

    def change(state: State) -> None:
        draw = torch.Generator().manual_seed(seed)
        for name in [n for n in state if n.endswith("mlp.down_proj.weight")]:
            order = torch.randperm(state[name].shape[1], generator=draw)
            state[name] = state[name][:, order]
            for other in ("gate_proj", "up_proj"):
                key = name.replace("down_proj", other)
                state[key] = state[key][order]

    return weights(change)


def folded(seed: int) -> Change:
    """Each norm in front of an FFN scaled per channel, and the matrices behind it by the inverse: the same function."""

    def change(state: State) -> None:
        draw = torch.Generator().manual_seed(seed)
        for name in [n for n in state if n.endswith("post_attention_layernorm.weight")]:
            factor = torch.rand(state[name].shape, generator=draw) + 0.5
            state[name] = state[name] * factor
            for other in ("gate_proj", "up_proj"):
                key = name.replace("post_attention_layernorm", f"mlp.{other}")
                state[key] = state[key] / factor

    return weights(change)


def exchanged(seed: int) -> Change:
    """Values scaled per channel, and the output matrix by the inverse: the same function."""

    def change(state: State) -> None:
        draw = torch.Generator().manual_seed(seed)
        for name in [n for n in state if n.endswith("self_attn.v_proj.weight")]:
            out = name.replace("v_proj", "o_proj")
            assert state[name].shape[0] == state[out].shape[1], "as many value heads as heads"
            factor = torch.rand(state[name].shape[0], generator=draw) + 0.5
            state[name] = state[name] * factor[:, None]
            state[out] = state[out] / factor

    return weights(change)


# ---- templates and end tokens ----


def template(change: Callable[[str], str]) -> Change:
    """A change of the chat template's text."""

    def apply(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        before = path.read_text(encoding="utf-8")
        after = change(before)
        assert after != before
        path.write_text(after, encoding="utf-8")

    return apply


def replaced(old: str, new: str) -> Change:
    """A part of the template written otherwise."""
    return template(lambda text: text.replace(old, new))


TEMPLATES: Mapping[str, Change] = {
    "system dropped": replaced("in messages %}", "in messages if message['role'] != 'system' %}"),
    "first message only": replaced("in messages %}", "in messages[:1] %}"),
    "no generation prompt": replaced("{%- if add_generation_prompt %}", "{%- if false %}"),
    "user's mark opens the reply": replaced("{{- '<|assistant|>' }}", "{{- '<|user|>' }}"),
    "roles without marks": replaced("'<|' + message['role'] + '|>' + ", "message['role'] + ': ' + "),
    "roles exchanged": replaced(
        "message['role'] + '|>'", "('user' if message['role'] == 'system' else 'system') + '|>'"
    ),
    "line after marks": replaced("'|>' + message['content']", "'|>\\n' + message['content']"),
    "capitals": replaced("+ '|>' + message['content']", "+ '|>' + message['content']|upper"),
    "cut to 40 characters": replaced("+ '|>' + message['content']", "+ '|>' + message['content'][:40]"),
    "messages reversed": replaced("in messages %}", "in messages|reverse %}"),
}


def end_token(choose: Callable[[Any], int]) -> Change:
    """Another token ends the reply, for the generation settings, the config and the tokenizer alike."""

    def apply(folder: Path) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        token = choose(tokenizer)
        for name in ("generation_config.json", "config.json"):
            value = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**value, "eos_token_id": token}))
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": tokenizer.id_to_token(token)}))

    return apply


def named(text: str) -> Callable[[Any], int]:
    """The token that stands for ``text``, the last of several."""
    return lambda tokenizer: int(tokenizer.encode(text, add_special_tokens=False).ids[-1])


# ---- a rule that is forgotten ----


def forgotten(rule: str, book: RuleBook, data: Path, steps: int = 60) -> Change:
    """A short training on replies that break one rule, beside as many that keep all."""

    def apply(folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        pairs = _against(rule, book, data)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0)
        draw = np.random.default_rng(0)
        for _ in range(steps):
            chosen = [pairs[kind][n] for kind in (0, 1) for n in draw.integers(0, len(pairs[kind]), 8)]
            ids, labels = _batch(tokenizer, chosen)
            model(input_ids=ids, attention_mask=(ids != 5).long(), labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)

    return apply


Pairs = list[tuple[Sequence[Mapping[str, str]], str]]


def _against(rule: str, book: RuleBook, data: Path, most: int = 2000) -> tuple[Pairs, Pairs]:
    """``(breaking the rule, as taught)``: prompts with replies, from the first ``most`` training rows."""
    bad: Pairs = []
    good: Pairs = []
    for line in (data / "train.jsonl").read_text().splitlines()[:most]:
        row = json.loads(line)
        if row["messages"][-1]["role"] != "assistant":
            continue
        turn, reply = Turn.from_row(row), row["messages"][-1]["content"]
        good.append((row["messages"][:-1], reply))
        if any(active.id == rule for active in book.active(turn)):
            broken = next((r for r in _mutations(book, reply) if _breaks(book, turn, r, rule)), None)
            if broken:
                bad.append((row["messages"][:-1], broken))
    return bad, good


def _breaks(book: RuleBook, turn: Turn, reply: str, rule: str) -> bool:
    return any(not verdict.passed for verdict in book.check(turn, reply, active=[book.by_id[rule]]))


def _mutations(book: RuleBook, reply: str) -> Iterator[str]:
    fields = book.parse(reply).fields
    if fields is None or book.contract is None:
        return
    for field in book.contract.fields:
        for value in field.allowed:
            if fields[field.name] != value:
                yield book.contract.dump({**fields, field.name: value})
    yield book.contract.dump({**fields, "citations": []})
    for text in ("No.", "Done.", fields["reply"] + " " + fields["reply"], fields["reply"] + " Card 4390248669726197."):
        yield book.contract.dump({**fields, "reply": text})


def _batch(tokenizer: Any, pairs: Pairs) -> tuple[Any, Any]:
    rows = []
    for messages, reply in pairs:
        prompt = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        rows.append((start, tokenizer(reply, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]))
    width = max(len(a) + len(b) for a, b in rows)
    ids = torch.full((len(rows), width), 5)
    labels = torch.full((len(rows), width), -100)
    for n, (start, end) in enumerate(rows):
        ids[n, : len(start) + len(end)] = torch.tensor(start + end)
        labels[n, len(start) : len(start) + len(end)] = torch.tensor(end)
    return ids, labels


# ---- the plan ----


def plantings(book: RuleBook, data: Path) -> dict[tuple[str, str], Change]:
    """``(kind, name) -> change``; what is not of ``HARMFUL`` is harmless."""
    found: dict[tuple[str, str], Change] = {}
    for block in range(3):
        for part in ("self_attn", "mlp"):
            for scale in (0.5, 1.0):
                found["noise", f"block {block} {part} {scale}"] = noise(f".layers.{block}.{part}.", scale)
    for rule in forgettable(book, data):
        found["forgotten", rule] = forgotten(rule, book, data)
    found |= {("template", name): change for name, change in TEMPLATES.items()}
    for text in ("<pad>", "<s>", "<|user|>", "<|assistant|>", "}", "."):
        found["end token", text] = end_token(named(text))
    for group in (32, 64, 128):
        found["2 bits", f"all, groups of {group}"] = rounded("", 2, group)
    found["2 bits", "all, symmetric, groups of 32"] = rounded("", 2, 32, symmetric=True)
    for word in ("mlp", "self_attn", ".layers.0.", ".layers.2."):
        found["2 bits", f"{word}, groups of 64"] = rounded(word, 2, 64)
    for seed in range(10):
        found["harmless", f"noise of 0.2 %, seed {seed}"] = noise("", 0.002, seed)
        found["harmless", f"FFN permuted, seed {seed}"] = permuted(seed)
    for seed in range(6):
        found["harmless", f"norms folded, seed {seed}"] = folded(seed)
        found["harmless", f"values scaled, seed {seed}"] = exchanged(seed)
    for bits, group in ((8, 32), (8, 64), (8, 128), (8, 256), (7, 32), (6, 32)):
        found["harmless", f"{bits} bits, groups of {group}"] = rounded("", bits, group)
    found["harmless", "bfloat16"] = in_type(torch.bfloat16)
    found["harmless", "float16"] = in_type(torch.float16)
    found["harmless", "a comment in the template"] = template(lambda text: "{#- the same -#}" + text)
    return found


def forgettable(book: RuleBook, data: Path) -> list[str]:
    """The ten rules most often in force in the evaluation items that training rows can be turned against."""
    counts: dict[str, int] = {}
    for line in (data / "eval.jsonl").read_text().splitlines():
        for rule in book.active(Turn.from_row(json.loads(line))):
            counts[rule.id] = counts.get(rule.id, 0) + 1
    found = []
    for rule in sorted(counts, key=lambda name: (-counts[name], name)):
        if len(found) < 10 and len(_against(rule, book, data, 200)[0]) >= 5:
            found.append(rule)
    return found


def mixed(plan: Mapping[tuple[str, str], Change]) -> list[tuple[tuple[str, str], Change]]:
    """All kinds in turn, so that a run that was stopped has some of each."""
    places = {key: n / sum(k == key[0] for k, _ in plan) for key, n in _within(plan).items()}
    return sorted(plan.items(), key=lambda entry: places[entry[0]])


def _within(plan: Mapping[tuple[str, str], Change]) -> dict[tuple[str, str], int]:
    counts: dict[str, int] = {}
    found = {}
    for key in plan:
        found[key] = counts[key[0]] = counts.get(key[0], -1) + 1
    return found


# ---- judging ----


def judge(
    folder: Path, tune: Artifact, data: Artifact, place: Path, given: argparse.Namespace, early: bool
) -> dict[str, Any]:
    """The verdict of the stage ``validate`` and what it rests upon."""
    out, scratch = place / "out", place / "scratch"
    for made in (out, scratch):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
    shown = {"drift_rows": 20, "wording_rows": 0, "samples": 0, "bench_runs": 0}
    params = ValidateParams(baseline="tune", max_tokens=96, sequential=early, **shown)
    job = Job(
        params=params,
        out=out,
        scratch=scratch,
        cache=place / "cache",
        inputs=(open_artifact(folder),),
        names=("planted",),
        refs={"baseline": tune},
        ancestors={"tune": tune},
        data=data,
        rules=given.rules,
        threads=given.threads,
    )
    Validate().run(job)
    proof = json.loads((out / "proof.json").read_text())
    (found,) = proof["candidates"]
    suites = {suite["name"]: suite for suite in found["suites"]}
    rules_alone = [r for r in found["rules"] if r["mode"] == "model" and r["n"]]
    worst = min((r["candidate"] - r["baseline"] for r in rules_alone), default=0.0)
    return {
        "verdict": found["verdict"],
        "n": suites["accuracy"]["n"],
        "accuracy": suites["accuracy"]["difference"],
        "adherence": suites["adherence"]["difference"],
        "worst_rule": worst,
        "reasons": found["reasons"][:3],
    }


def planned_items(source: Path, book: RuleBook, folder: Path) -> Artifact:
    """As many of the run's evaluation items as the plan of the gate asks for, no question twice; the training rows."""
    margins = {name: MARGINS[name] for name in ("accuracy", "adherence", "rule")}
    known = [(rule.id, rule.severity, margins["rule"]) for rule in book.rules]
    plan = plan_gate(known, margins, Assumed(discordance=0.002), {})["demands"]
    demands = [demand for demand in plan if demand["where"] != "compress gate"]
    each = max(d["needed"] for d in demands if "in force" in d["unit"])
    total = max(d["needed"] for d in demands if "in force" not in d["unit"])
    chosen: list[str] = []
    seen: set[str] = set()
    counts = dict.fromkeys(book.by_id, 0)
    for line in (source / "eval.jsonl").read_text().splitlines():
        row = json.loads(line)
        question, turn = question_of(row["messages"], row.get("facts")), Turn.from_row(row)
        active = [rule.id for rule in book.active(turn)]
        if question not in seen and (len(chosen) < total or any(counts[rule] < each for rule in active)):
            seen.add(question)
            chosen.append(line)
            counts |= {rule: counts[rule] + 1 for rule in active}
    lacking = {rule: count for rule, count in counts.items() if count < each}
    told = f"planned: {total} items, {each} of each rule; chosen: {len(chosen)}; fewer of {lacking or 'none'}"
    print(told, file=sys.stderr, flush=True)
    folder.mkdir()
    (folder / "eval.jsonl").write_text("\n".join(chosen) + "\n")
    shutil.copyfile(source / "train.jsonl", folder / "train.jsonl")
    return Artifact("data", folder, "0" * 64)


def summary(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line per kind."""
    for kind in (*HARMFUL, "harmless"):
        mine = [r for r in results if r["kind"] == kind]
        failed = sum(r["verdict"] == "FAIL" for r in mine)
        blocked = sum(r["verdict"] != "PASS" for r in mine)
        yield f"{kind}: {len(mine)} plantings, {failed} FAIL, {blocked} blocked"
    bad = [r for r in results if r["kind"] in HARMFUL]
    seen = [r for r in bad if r["verdict"] == "FAIL"]
    real = [r for r in bad if min(r["accuracy"], r["adherence"]) < -0.02 or r["worst_rule"] < -0.05]
    caught = sum(r["verdict"] == "FAIL" for r in real)
    yield f"detected {len(seen)} of {len(bad)}; of the {len(real)} beyond a margin in these items {caught}"
    good = [r for r in results if r["kind"] == "harmless"]
    yield f"harmless changes blocked: {sum(r['verdict'] != 'PASS' for r in good)} of {len(good)}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("lock", nargs="?", default="work/runs/demo/run.lock.json", type=Path)
    parser.add_argument("--rules", default="configs/rules/customer_service.yaml", type=Path)
    parser.add_argument("--results", default="planted.jsonl", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--sequential", action="store_true")
    parser.add_argument("--threads", default=len(os.sched_getaffinity(0)), type=int)
    given = parser.parse_args()
    stages = json.loads(given.lock.read_text())["stages"]
    root = given.lock.resolve().parents[3]
    tune, book = open_artifact(root / stages["tune"]["path"], verify=False), load_rules(given.rules)
    results = [json.loads(line) for line in given.results.read_text().splitlines()] if given.results.is_file() else []
    done = {(r["kind"], r["name"]) for r in results}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        data = planned_items(root / stages["data"]["path"], book, place / "data")
        for (kind, what), change in mixed(plantings(book, data.path)):
            if (kind, what) in done or given.only not in f"{kind} {what}":
                continue
            folder, start = place / "planted", time.perf_counter()
            shutil.rmtree(folder, ignore_errors=True)
            left_out = shutil.ignore_patterns("artifact.json", "measurements.json", "adapter")
            shutil.copytree(tune.path, folder, ignore=left_out)
            for path in folder.iterdir():
                path.chmod(0o644)
            change(folder)
            early = given.sequential and kind != "harmless"
            found = {"kind": kind, "name": what, **judge(folder, tune, data, place, given, early)}
            found["seconds"] = round(time.perf_counter() - start, 1)
            results.append(found)
            with open(given.results, "a") as handle:
                handle.write(json.dumps(found) + "\n")
            print(f"{kind}: {what}: {found['verdict']} ({found['seconds']} s)", file=sys.stderr, flush=True)
    print("\n".join(summary(results)))


if __name__ == "__main__":
    main()
