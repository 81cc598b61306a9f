"""Words, sentences, emoji and JSON as people and models really write them."""

from __future__ import annotations

import pytest

from runtime.rules.checks_format import _parse_json
from runtime.rules.emoji import EMOJI
from runtime.rules.json_schema import schema_problem
from runtime.rules.text import plain, sentences, squeeze, word_pattern


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1. Open the app.\n2. Tap Help.", 2),
        ("a. Open the app.\nb. Tap Help.", 2),
        ("- Open the app\n- Tap Help\n- Wait", 3),
        ("First do this:\n1) Open it.\n2) Close it.", 3),
        ("你好。我们会退款。请稍候。再见。", 4),
        ("本当ですか？はい、そうです！ありがとう。", 3),
        ("他说：「好。」然后走了。", 2),
        ("کیا ہوا۔ ٹھیک ہے۔ شکریہ۔", 3),
        ("हम मदद करेंगे। धन्यवाद।", 2),
        ("هل وصل الطلب؟ نعم.", 2),
        ("We close at 5 p.m. today. Yes.", 2),
        ("We close at 5 p.m. Come tomorrow.", 2),
        ("Am 3. Mai kommt es. Danke.", 2),
        ("Ihr Paket liegt im 2. Stock. Danke.", 2),
        ("We have 12. Take one.", 2),
        ("Order no. 5 is here. Ok.", 2),
        ("No. We cannot.", 2),
        ("Dr. Smith and Mrs. J. Doe called. Thanks!", 2),
        ("See e.g. the page. It says z.B. alles.", 2),
        ("Really?! Yes... no.", 3),
        ("sorry. we will call you. thank you", 3),
        ("It costs 3.50 in v2.1 of the plan.", 1),
        ("**Sorry.** _We call you._", 2),
        ("One line\n\nand another", 2),
        ("", 0),
    ],
)
def test_sentences(text, count):
    assert len(sentences(plain(text))) == count, sentences(plain(text))


@pytest.mark.parametrize(
    ("word", "text", "stands"),
    [
        ("refund", "We _refund_ you", True),
        ("refund", "We will __refund__ it", True),
        ("refund", "We *refund* you", True),
        ("refund", "refunded", False),
        ("refund", "re\u200bfund", True),
        ("iptal", "Sipariş İPTAL edildi", True),
        ("iptal", "IPTAL", True),
        ("sıfır", "SIFIR", True),
        ("straße", "STRASSE", True),
        ("ｆｒｅｅ", "it is free", True),
        ("snake", "snake_case", True),
    ],
)
def test_words_between_boundaries(word, text, stands):
    assert bool(word_pattern([word]).search(squeeze(text))) == stands


@pytest.mark.parametrize("text", ["Thanks ⭐", "⏰ late", "🇩🇪", "1️⃣ first", "😀", "👍🏽", "✔️ done", "❤️", "👨‍👩‍👧", "©️"])
def test_emoji(text):
    assert EMOJI.search(text)


@pytest.mark.parametrize(
    "text", ["✓ done", "★ 5 stars", "© 2026", "™", "a → b", "№ 5", "12 #3 *", "½ ²", "✔ ok", "日本"]
)
def test_signs_that_are_no_emoji(text):
    assert not EMOJI.search(text)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ('{"a": 1}', True),
        ('\ufeff{"a": 1}', True),
        ('```json\r\n{"a": 1}\r\n```', True),
        ('```\n{"a": 1}\n```', True),
        ("~~~json\n[1]\n~~~", True),
        ('{"price": NaN}', False),
        ('{"a": -Infinity}', False),
        ("{'a': 1}", False),
        ('{"a": 1} and more', False),
        ('{"a": 1', False),
    ],
)
def test_what_is_json(text, good):
    assert (_parse_json(text)[1] is None) == good


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        (1, {"const": 1}, True),
        (1.0, {"const": 1}, True),
        (True, {"const": 1}, False),
        (1, {"enum": [True, "1"]}, False),
        (False, {"enum": [0]}, False),
        ([True], {"const": [1]}, False),
        ({"a": [1, {"b": False}]}, {"const": {"a": [1, {"b": False}]}}, True),
        ({"a": 0}, {"const": {"a": False}}, False),
    ],
)
def test_constants_know_true_from_one(value, schema, fits):
    assert (schema_problem(value, schema) is None) == fits
