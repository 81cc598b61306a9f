"""``compress gate`` on many recorded replies: seconds, and the memory of all its processes.

    python benchmarks/gate.py [ITEMS] [--shuffled]

writes two files of ITEMS (100,000) replies and a rule file of 20 rules of 18 kinds below a temporary folder, runs the
command in a fresh process and samples it and its children (psutil): resident memory added up, and proportional set
size, which counts shared pages once. ``--shuffled`` puts the candidate's rows into another order.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ITEMS = 100_000
RULES = """\
version: 1
facts: {tier: [gold, silver, basic]}
labels: [legal, money]
rules:
"""
KINDS = [
    ("hard", "must_not: {words: [stupid, idiot]}", "You are stupid."),
    ("hard", "must_not: {leaks: [card]}", "Your card is 4111 1111 1111 1111."),
    ("hard", "must_not: {regex: '(?i)\\bpassword is\\b'}", "The password is abc."),
    ("hard", "when: {label: legal}\n    must: {any_word: [colleague, legal]}", "No."),
    ("hard", "must_not: {include_any: ['http://']}", "See http://x.example."),
    ("hard", "must_not: {starts_with: [As an AI]}", "As an AI I cannot."),
    ("hard", "when: {user_regex: '\\brefund\\b'}\n    must: {include_any: [refund]}", "No."),
    ("hard", "must_not: {invents: [amounts]}", "That is $ 19.99."),
    ("soft", "must: {max_words: 60}", "word " * 61),
    ("soft", "must: {min_words: 3}", "No."),
    ("soft", "must: {max_sentences: 6}", "No. " * 7),
    ("soft", "must: {tone: polite}", "Go away."),
    ("soft", "must: {tone: no_shouting}", "GO AWAY NOW, ALL OF YOU!!!"),
    ("soft", "must: {tone: no_emoji}", "Fine \\U0001f600"),
    ("soft", "must_not: {words: [whatever]}", "Whatever."),
    ("soft", "must: {max_characters: 500}", "a" * 501),
    ("soft", "when: {facts: {tier: gold}}\n    must: {any_word: [thank, thanks]}", "No."),
    ("soft", "must: {bullets: {max: 3}}", "* a\\n* b\\n* c\\n* d"),
    ("soft", "must: {paragraphs: {max: 3}}", "a\\n\\nb\\n\\nc\\n\\nd"),
    ("soft", "must_not: {refuse: true}", "I cannot help with that."),
]  # fmt: skip
GOOD = "Thank you for your message, a colleague looks into the refund of order {n} and writes to you within two days."
ASKED = ("Where is my order {n}?", "I want a refund for order {n}.", "I will call my lawyer about order {n}.")
MORE = (
    "Please keep the box until then.",
    "We are sorry for the trouble.",
    "You can follow the parcel on the page of the carrier.",
)
BAD = ("You are stupid.", "Whatever.", "I cannot help with that.", "NO, NO, NO, NO!", "As an AI I do not know.")


def rule_file() -> str:
    """Twenty rules, each with a reply that keeps and one that breaks it."""
    parts = [RULES]
    for number, (severity, what, wrong) in enumerate(KINDS):
        about = 'user: "I want a refund for order 7.", labels: [legal], facts: {tier: gold}'
        parts.append(
            f"  - id: rule-{number:02d}\n    severity: {severity}\n    text: rule {number}\n    {what}\n    fixtures:\n"
            f'      pass: [{{{about}, reply: "{GOOD.format(n=7)}"}}]\n      fail: [{{{about}, reply: "{wrong}"}}]\n'
        )
    return "".join(parts)


def rows(count: int, worse: float, seed: int) -> list[dict[str, Any]]:
    """Replies of one system; a share ``worse`` of them breaks a rule."""
    draw, found = random.Random(seed), []
    for n in range(count):
        user = ASKED[n % 3].format(n=10_000 + n)
        reply = GOOD.format(n=10_000 + n) + " " + " ".join(draw.sample(MORE, draw.randrange(3)))
        if draw.random() < worse:
            reply = draw.choice(BAD) + " " + reply
        row = {"id": f"q{n:06d}", "messages": [{"role": "user", "content": user}], "reply": reply}
        row |= {"facts": {"tier": ("gold", "silver", "basic")[n % 3]}, "labels": ["legal"] if n % 3 == 2 else []}
        row |= {"expected": {"answer": "colleague", "match": "contains"}}
        found.append(row)
    return found


def write(folder: Path, count: int, *, shuffled: bool) -> None:
    """``baseline.jsonl``, ``candidate.jsonl`` and ``rules.yaml``."""
    for name, worse, seed in (("baseline", 0.004, 1), ("candidate", 0.02, 2)):
        made = rows(count, worse, seed)
        if shuffled and name == "candidate":
            random.Random(3).shuffle(made)
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in made)
    (folder / "rules.yaml").write_text(rule_file(), encoding="utf-8")


def watch(process: subprocess.Popen[str]) -> tuple[float, float]:
    """``(resident, proportional)``: the highest sums over the process and its children, in bytes."""
    most = [0.0, 0.0]
    root = psutil.Process(process.pid)
    while process.poll() is None:
        sums = [0.0, 0.0]
        try:
            for one in [root, *root.children(recursive=True)]:
                found = one.memory_full_info()
                sums[0] += found.rss
                sums[1] += found.pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        most = [max(a, b) for a, b in zip(most, sums, strict=True)]
        time.sleep(0.1)
    return most[0], most[1]


def main() -> None:
    numbers = [int(a) for a in sys.argv[1:] if a.isdigit()]
    count = numbers[0] if numbers else ITEMS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, count, shuffled="--shuffled" in sys.argv)
        command = [sys.executable, "-m", "compress.cli", "gate", "--json"]
        for what in ("baseline.jsonl", "candidate.jsonl", "rules.yaml"):
            command += [f"--{what.partition('.')[0]}", str(folder / what)]
        start = time.perf_counter()
        with open(folder / "out.json", "w") as out, subprocess.Popen(command, stdout=out, text=True) as process:
            resident, proportional = watch(process)
        seconds = time.perf_counter() - start
        told = json.loads((folder / "out.json").read_text())
        size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
    print(f"{count} items x {len(KINDS)} rules, {size / 1e6:.0f} MB: {told['verdict']} in {seconds:.1f} s")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"processor seconds of all processes: {used.ru_utime + used.ru_stime:.1f}")
    print(f"peak of all processes: {resident / 1e6:.0f} MB resident, {proportional / 1e6:.0f} MB proportional")


if __name__ == "__main__":
    main()
