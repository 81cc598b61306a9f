"""A proof as ``validate`` writes it, for pages and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def suite(name: str, baseline: float, candidate: float, verdict: str, margin: float = 0.02) -> dict[str, Any]:
    difference = candidate - baseline
    return {
        "name": name,
        "n": 640,
        "baseline": baseline,
        "candidate": candidate,
        "difference": difference,
        "low": difference - 0.012,
        "high": difference + 0.012,
        "margin": margin,
        "verdict": verdict,
    }


def rule(name: str, mode: str, baseline: float | None, candidate: float, verdict: str) -> dict[str, Any]:
    interval = (
        (0.0, 0.004) if mode == "enforced" else (candidate - (baseline or 0) - 0.02, candidate - (baseline or 0) + 0.02)
    )
    return {
        "id": name,
        "severity": "hard",
        "mode": mode,
        "n": 300,
        "baseline": baseline,
        "candidate": candidate,
        "low": interval[0],
        "high": interval[1],
        "verdict": verdict,
        "flips": [1, 3] if mode == "model" else None,
    }


def candidate(name: str, size: int, verdict: str, legal: float = 0.99) -> dict[str, Any]:
    failed = "FAIL" if legal < 0.9 else "PASS"
    return {
        "name": name,
        "kind": "gguf",
        "digest": "d" * 64,
        "size_bytes": size,
        "verdict": verdict,
        "reasons": [] if verdict == "PASS" else [f"{name}: escalate-legal fell"],
        "note": "",
        "suites": [
            suite("accuracy", 0.931, 0.931 if verdict == "PASS" else 0.7, verdict),
            suite("adherence", 0.99, legal, failed),
        ],
        "rules": [
            rule("escalate-legal", "model", 0.99, legal, failed),
            rule("no-<script>card", "model", 1.0, 1.0, "PASS"),
            rule("escalate-legal", "enforced", None, 1.0, "PASS"),
        ],
        "drift": {
            "kl_mean": 0.004,
            "kl_p999": 0.2,
            "top1": 0.97,
            "perplexity_ratio": 1.01,
            "rows": 200,
            "tokens": 9000,
        },
        "side_effects": {"false_escalations": {"n": 200, "baseline": 1, "candidate": 2}},
        "enforced": {"rate": 1.0, "n": 640, "touched": 9, "interventions": {"set priority": 7, "fallback": 2}},
        "parity": {
            "reference": "slim",
            "prompts": 32,
            "same_prompts": 32,
            "starts": 32,
            "same_starts": 31,
            "difference": None,
        },
    }


def make_proof(verdict: str = "PASS") -> dict[str, Any]:
    passed = verdict == "PASS"
    small = candidate("gguf-Q4_K_M", 2_900_000, "PASS" if passed else verdict, 0.985 if passed else 0.612)
    return {
        "baseline": {"name": "tune", "digest": "b" * 64, "kind": "hf", "size_bytes": 16_000_000},
        "verdict": verdict,
        "chosen": "gguf-Q4_K_M" if passed else None,
        "n_items": 640,
        "why_n": "640 items decide a margin of 2 points.",
        "margins": {"accuracy": 0.02, "adherence": 0.02, "rule": 0.05},
        "candidates": [candidate("gguf-Q8_0", 4_500_000, "PASS"), small] if passed else [small],
        "a_a": {"n": 640, "text_changed": 2, "accuracy_flips": [0, 1], "rule_flips": [1, 0], "rule_n": 5000},
        "base": {"name": "source", "size_bytes": 16_000_000, "accuracy": 0.11, "adherence": 0.4, "n_items": 200},
    }


def make_run(folder: Path, verdict: str = "PASS") -> dict[str, Any]:
    """A run's state whose proof is on disk below ``folder``."""
    proof = folder / "proof"
    proof.mkdir(parents=True)
    (proof / "proof.json").write_text(json.dumps(make_proof(verdict)))
    bench = {"ttft_ms": 12.5, "tokens_per_s": 812.4, "prefill_tokens_per_s": 5000.0, "peak_rss_bytes": 90_000_000}
    (proof / "measurements.json").write_text(
        json.dumps(
            {"machine": {"threads": 2}, "bench": {"gguf-Q4_K_M": bench, "tune": {**bench, "tokens_per_s": 90.0}}}
        )
    )
    page = {
        "id": "a",
        "prompt": "I will sue <b>you</b>",
        "facts": {"tier": "gold"},
        "rules": ["escalate-legal"],
        "replies": [
            {
                "name": "source",
                "text": "<script>alert(1)</script>",
                "ok": False,
                "accurate": False,
                "broken": ["escalate-legal"],
            }
        ],
    }
    (proof / "before_after.json").write_text(json.dumps({"items": [page]}))
    stage = {
        "use": "validate",
        "key": "k",
        "kind": "proof",
        "path": str(proof),
        "digest": "e" * 64,
        "cached": False,
        "seconds": 95.0,
        "peak_rss_bytes": 500_000_000,
        "size_bytes": 20_000,
    }
    return {
        "run": str(folder),
        "name": "support-demo",
        "config": "demo.yaml",
        "verdict": verdict,
        "bundle": None,
        "report": None,
        "skipped": {} if verdict == "PASS" else {"ship": "the gate did not pass"},
        "stages": {"proof": stage},
    }
