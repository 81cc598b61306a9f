"""Checkers on generated texts: whatever is done to the look of a text, what it says is found, and nothing else is."""
# ruff: noqa: E501

from __future__ import annotations

import datetime
import json
import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.rules import Turn
from runtime.rules.checks_format import read_json
from runtime.rules.emoji import EMOJI, is_emoji
from runtime.rules.kinds import KINDS
from runtime.rules.leaks import IBAN_LENGTHS, find_cards, find_emails, find_ibans, find_phones
from runtime.rules.published import punkt
from runtime.rules.published import sentences as published_sentences
from runtime.rules.refusal import refuses
from runtime.rules.sentences import sentences
from runtime.rules.text import plain, squeeze, word_pattern
from runtime.rules.turn import Reply

many = settings(max_examples=190, deadline=None, derandomize=True)
BETWEEN = st.sampled_from(["", " ", "-", ".", "_", "*", " - ", "\u00a0", "\u2009", "\u200b", "/", "\u2011"])
AROUND = st.sampled_from(
    [("", ""), ("**", "**"), ("_", "_"), ("`", "`"), ("(", ")"), ("\u201c", "\u201d"), ("[", "]"), ("\u200b", "\u2060")]
)
SEEDS = st.integers(0, 2**32)
DAYS = st.dates(datetime.date(1900, 1, 1), datetime.date(2099, 12, 31))

CARDS = [
    ("4", 13),
    ("4", 16),
    ("4", 19),
    ("51", 16),
    ("2221", 16),
    ("2720", 16),
    ("34", 15),
    ("36", 14),
    ("6011", 16),
    ("62", 19),
    ("63", 13),
]


def luhn_number(digits: str) -> str:
    total = sum(sum(divmod(int(d) * 2, 10)) if place % 2 == 0 else int(d) for place, d in enumerate(reversed(digits)))
    return digits + str(-total % 10)


def grouped(text: str, between: str, r: random.Random) -> str:
    parts = []
    while text:
        size = r.randint(2, 5)
        parts.append(text[:size])
        text = text[size:]
    return between.join(parts)


@many
@given(st.sampled_from(CARDS), BETWEEN, AROUND, SEEDS)
def test_cards(card, between, around, seed):
    r, (first, length) = random.Random(seed), card
    number = luhn_number(first + "".join(r.choice("0123456789") for _ in range(length - 1 - len(first))))
    shown = around[0] + grouped(number, between, r) + around[1]
    assert number in find_cards(plain(f"Card {shown} it is."))
    place = r.randrange(1, len(number))
    wrong = number[:place] + str((int(number[place]) + 1) % 10) + number[place + 1 :]
    assert find_cards(plain(f"No. {wrong} it is.")) == []


@many
@given(st.sampled_from(sorted(IBAN_LENGTHS)), BETWEEN, AROUND, st.booleans(), SEEDS)
def test_ibans(country, between, around, small, seed):
    r = random.Random(seed)
    body = "".join(r.choice("0123456789") for _ in range(IBAN_LENGTHS[country] - 4))
    check = 98 - int("".join(str(int(c, 36)) for c in f"{body}{country}00")) % 97
    iban = f"{country}{check:02d}{body}"
    shown = around[0] + grouped(iban.lower() if small else iban, between if between != " - " else "-", r) + around[1]
    assert iban in find_ibans(plain(f"Pay to {shown} please"))
    wrong = f"{country}{check:02d}{body[:-1]}{(int(body[-1]) + 1) % 10}"
    assert wrong not in find_ibans(wrong)


@many
@given(
    st.sampled_from(["+49", "+1", "+44", "0049", "+351"]),
    st.sampled_from(["", " ", "-", ".", "/", " / ", "\u00a0", "_"]),
    AROUND,
    SEEDS,
)
def test_phones(country, between, around, seed):
    r = random.Random(seed)
    number = str(r.randint(2, 9)) + "".join(r.choice("0123456789") for _ in range(r.randint(7, 9)))
    shown = around[0] + between.join([country, number[:3], number[3:6], number[6:]]) + around[1]
    assert find_phones(plain(f"Call {shown} now."))


@many
@given(
    DAYS,
    DAYS,
    st.sampled_from(["%d.%m.%Y", "%Y-%m-%d", "%m/%d/%Y", "%d/%m/%y"]),
    st.sampled_from([" - ", " to ", ", ", "-"]),
)
def test_dates_prices_and_addresses_are_no_phones(first, second, style, between):
    text = f"from {first.strftime(style)}{between}{second.strftime(style)} for {first.toordinal():,}.00 EUR at 10.{first.day}.0.{second.day}"
    assert find_phones(plain(text)) == []
    assert find_cards(plain(text)) == []


@many
@given(st.from_regex(r"[a-z][a-z0-9]{1,8}(\.[a-z]{2,6})?", fullmatch=True), st.sampled_from(["@", " (at) ", "[at]", "\uff20", " @ "]),
       st.sampled_from([".", " (dot) ", "[dot]"]), AROUND)  # fmt: skip
def test_emails(name, at, dot, around):
    shown = f"{around[0]}{name}{at}mail{dot}example{dot}org{around[1]}"
    found = find_emails(plain(f"Write to {shown} soon"))
    assert [address.endswith(f"{name}@mail.example.org") for address in found] == [True]


WORD = st.sampled_from(["refund", "money back", "straße", "iptal", "стоп", "café", "don't"])


@many
@given(
    WORD,
    st.sampled_from([str.upper, str.title, str.lower]),
    AROUND,
    st.sampled_from(["", "\u200b", "\u00ad", "\u2060"]),
    st.booleans(),
)
def test_words_are_found_however_they_look(word, case, around, hidden, wide):
    shown = hidden.join(case(word))
    if wide:
        shown = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" and c != "'" else c for c in shown)
    text = squeeze(f"We {around[0]}{shown}{around[1]} you.")
    assert word_pattern([word]).search(text)
    assert not word_pattern([word]).search(squeeze(f"We x{shown}x you."))


ALIKE = dict(zip("aeopcyxijs", "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455", strict=True))


@many
@given(st.sampled_from(["refund", "escalate", "password", "policy", "cannot"]), SEEDS)
def test_letters_that_look_alike_hide_nothing(word, seed):
    r = random.Random(seed)
    places = [place for place, char in enumerate(word) if char in ALIKE]
    changed = set(r.sample(places, r.randint(1, len(places))))
    shown = "".join(ALIKE[char] if place in changed else char for place, char in enumerate(word))
    assert word_pattern([word]).search(squeeze(f"We {shown} you."))
    assert plain("Мы вернём ваши деньги, ναι.") == "Мы вернём ваши деньги, ναι."


SENTENCES = ["It is late.", "Who knows?", "Stop!", "We met Dr. Low at 5 p.m. sharp.", "It cost 3.50 in v2.1.", "See e.g. the page.", "**Bold it is.**",
             "He said \"yes.\"", "Really?!", "Am 3. Mai kommt es.", "Order no. 5 is here.", "你好。", "ठीक है।", "Wait\u2026"]  # fmt: skip


@many
@given(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=8), st.sampled_from([" ", "\n", "\n\n", "\n- "]))
def test_sentences_add_up(parts, between):
    text = ("- " if between == "\n- " else "") + between.join(parts)
    assert len(sentences(plain(text))) == len(parts), sentences(plain(text))


@many
@given(
    st.text(
        alphabet=st.characters(max_codepoint=0x24FF, exclude_categories=["Cs"]).filter(lambda c: not is_emoji(c)),
        max_size=60,
    ),
    SEEDS,
)
def test_emoji_and_only_emoji(text, seed):
    assert not EMOJI.search(text.replace("\ufe0f", "").replace("\u20e3", ""))
    place = random.Random(seed).randrange(len(text) + 1)
    for picture in ("😀", "⭐", "🇩🇪", "1️⃣", "✔️", "👩‍🚀"):
        assert EMOJI.search(text[:place] + picture + text[place:])


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8)  # fmt: skip


@many
@given(
    st.dictionaries(st.text(max_size=5), VALUES, max_size=4),
    st.sampled_from(["{}", "```json\n{}\n```", "```\r\n{}\r\n```", "\ufeff{}", " {} \n", "~~~JSON\n{}\n~~~"]),
    SEEDS,
)
def test_json_in_any_wrapping_and_no_part_of_it(value, wrapping, seed):
    body = json.dumps(value, ensure_ascii=bool(seed % 2))
    found, error = read_json(wrapping.replace("{}", body))
    assert (error, found) == (None, value)
    cut = body[: random.Random(seed).randrange(len(body))]
    assert read_json(wrapping.replace("{}", cut))[1] is not None


ROWS = [json.loads(line) for line in Path(__file__).with_name("refusals.jsonl").open(encoding="utf-8")]
SAID = [row for row in ROWS if refuses(plain(row["reply"]), plain(row.get("asked", "")))]
DONE = [row for row in ROWS if not refuses(plain(row["reply"]), plain(row.get("asked", "")))]


@many
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([str, str.upper, str.lower]), st.sampled_from([("", ""), ("**", "**"), ("\n\n", "\n"), ("> ", "")]),
       st.sampled_from(["", "\u200b", "\u2060"]), st.booleans())  # fmt: skip
def test_refusals_keep_their_meaning(number, said, case, around, hidden, curly):
    row = (SAID if said else DONE)[number % len(SAID if said else DONE)]
    text = row["reply"].replace("'", "\u2019") if curly else row["reply"]
    text = around[0] + hidden.join(case(text)) + around[1]
    assert refuses(plain(text), plain(row.get("asked", ""))) == said


@many
@given(
    st.text(max_size=120)
    | st.lists(
        st.sampled_from(["a.", "B!", '"x"', "(", "]", "* ", "- ", "\n", "1. ", "...", "Dr. ", "é", "<<a>>", "##", " "]),
        max_size=40,
    ).map("".join)
)
def test_published_kinds_take_any_text(text):
    reply = Reply(Turn([{"role": "user", "content": "Go."}]), text)
    for (_, name), kind in KINDS.items():
        if ":" in name and kind.model is None:
            assert kind.check(reply, True)[0] in (True, False), name
    assert "".join("".join(punkt(text)).split()) == "".join(text.split())
    assert all(part == part.strip() for part in published_sentences(text))
