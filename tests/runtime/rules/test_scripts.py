"""Words, sentences, emoji and JSON as people and models really write them."""

from __future__ import annotations

import pytest

from runtime.rules.checks_format import read_json
from runtime.rules.emoji import EMOJI
from runtime.rules.json_schema import check_schema, schema_problem
from runtime.rules.kinds import KINDS
from runtime.rules.language import is_in
from runtime.rules.sentences import sentences
from runtime.rules.text import plain, squeeze, word_pattern
from runtime.rules.turn import Reply, Turn


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
        ("Really?! Yes... No.", 3),
        ("Well... it depends. So… yes.", 2),
        ("sorry. we will call you. thank you", 3),
        ("It costs 3.50 in v2.1 of the plan.", 1),
        ("**Sorry.** _We call you._", 2),
        ("One line\n\nand another", 2),
        ("The U.S. Army left. The U.S.A. stayed.", 2),
        ("I live in the U.S. It is big.", 2),
        ("I wait … and wait.", 1),
        ("(a) one\n(b) two", 2),
        ("i. one\nii. two\niii. three", 3),
        ("1\\. Wash\n2\\. Rinse", 2),
        ('He asked "Why?" and left. Then: "Stop!"', 2),
        ("Im 19. Jahrhundert regierte Ludwig XIV. allein.", 1),
        ("Siehe Abs. 2 Nr. 3. Danke.", 2),
        ("Vom 3. bis 5. Mai. Der 1. FC Köln spielt.", 2),
        ("M. Dupont et Mme. Durand, cf. p. 12. Merci.", 2),
        ("El Sr. García y la Sra. López. Gracias.", 2),
        ("Il dott. Rossi e a Dra. Costa. Grazie.", 2),
        ("См. стр. 5. Это 5 руб. за шт. Да.", 3),
        ("डॉ. शर्मा आए। धन्यवाद।", 2),
        ("Γεια σας. Τι κάνετε; Καλά.", 3),
        ("དེ་ཡིན། བཀྲ་ཤིས།", 2),
        ("Use `x.y. z` here.", 1),
        ("Run:\n```\na = 1. b = 2.\n```\nDone.", 2),
        ("Thanks.We will call. Really?Yes.", 4),
        ("Acme Co. Ltd. ships it. I work at Acme Inc. We ship.", 3),
        ("Jan. 5 is fine. Feb. 3 is not.", 2),
        ("Ph.D. students of the M.Sc. course.", 1),
        ("Yes. [1] No.[2]", 2),
        ("Your order no. is 5. Thanks.", 2),
        ('She said "Yes." and left.', 1),
        ("It is plan A. It works. J. K. Rowling wrote it.", 3),
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
        ("Οδυσσεύς", "ΟΔΥΣΣΕΥΣ", True),
        ("don't", "we don\u00b4t", True),
        ("refund", "r\u0336e\u0336fund", True),
        ("كتاب", "كِتَاب", True),
        ("كتاب", "كـتـاب", True),
        ("שלום", "שָׁלוֹם", True),
        ("退款", "我们会退款。", True),
        ("返金", "返金します", True),
        ("คืนเงิน", "เราจะคืนเงินให้", True),
        ("환불", "환불을 해", True),
        ("काम", "कामों", False),
        ("काम", "यह काम है", True),
    ],
)
def test_words_between_boundaries(word, text, stands):
    assert bool(word_pattern([word]).search(squeeze(text))) == stands


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("refund", "re**fund**"),
        ("refund", "re<b>fund</b>"),
        ("refund", "ref&shy;und"),
        ("refund", "&#114;efund"),
        ("refund", "re-\nfund"),
        ("refund", "`refund`"),
        ("money back", "money **back**"),
        ("money back", "_money_ _back_"),
        ("don't", "don&#39;t"),
        ("at&t", "AT&amp;T"),
        ("sorry", "**S**orry"),
    ],
)
def test_what_a_reader_sees_is_said(phrase, text):
    reply = Reply(Turn([{"role": "user", "content": "hi"}]), text)
    assert any(word_pattern([phrase]).search(view) for view in reply.views)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("3.14 and 1,000.5", 3),
        ("at 10:30 on 1/2/2024", 4),
        ("e.g. the U.S.A.", 3),
        ("one—two well-known", 3),
        ("see https://shop.example/a/b, or a.b@shop.example", 4),
        ("2 * 3 = 6", 3),
        ("你好世界", 4),
        ("これはペンです", 6),
        ("안녕 하세요", 2),
        ("हिन्दी में", 2),
    ],
)
def test_words(text, count):
    assert len(Reply(Turn([]), text).words) == count


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
        ('{"a": 1, "a": 2}', False),
        ('{"a": {"b": 1, "b": 1}}', False),
        ('{"a": ' + "9" * 5000 + "}", True),
        ('``` json\n{"a": 1}\n```', True),
        ('````json\n{"a": "```"}\n````', True),
        ('```json\n{"a": 1}\n```\nDone.', False),
        ('```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```', False),
        ('{"a": 1} and more', False),
        ('{"a": 1', False),
    ],
)
def test_what_is_json(text, good):
    assert (read_json(text)[1] is None) == good


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
        (0, {"exclusiveMinimum": 0}, False),
        (0.5, {"exclusiveMaximum": 0.5}, False),
        (0.07, {"multipleOf": 0.01}, True),
        (0.075, {"multipleOf": 0.01}, False),
        (float("inf"), {"multipleOf": 2}, False),
        ([1, 1.0], {"uniqueItems": True}, False),
        ([1, True], {"uniqueItems": True}, True),
        ([None, None], {"uniqueItems": True}, False),
        ("BA", {"pattern": "a"}, False),
        (1, {"$schema": "x", "default": 1, "examples": [2], "type": "integer"}, True),
    ],
)
def test_what_a_schema_admits(value, schema, fits):
    assert (schema_problem(value, schema) is None) == fits


@pytest.mark.parametrize(
    "schema",
    [{"enum": []}, {"enum": 5}, {"type": {}}, {"type": [["string"]]}, {"multipleOf": 0}, {"uniqueItems": "yes"}],
)
def test_schemas_that_mean_nothing(schema):
    with pytest.raises(ValueError, match="the schema"):
        check_schema(schema)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "Sure, no problem."),
        ("de", "Ja, gern."),
        ("de", "Kein Problem."),
        ("fr", "Non, c'est impossible."),
        ("it", "Mi dispiace molto."),
        ("pt", "Muito obrigado."),
        ("nl", "Ja, natuurlijk."),
        ("sv", "Ja, självklart."),
        ("da", "Ja, selvfølgelig."),
        ("pl", "Dziękuję bardzo."),
        ("ro", "Da, desigur."),
        ("tr", "Evet, tabii ki."),
        ("id", "Ya, tentu saja."),
        ("ru", "Да, конечно."),
        ("zh", "请打开 Settings 应用。"),
        ("ja", "iPhoneを再起動してください。"),
    ],
)
def test_the_language_of_short_replies(code, text):
    assert is_in(text, code)
    assert not any(is_in(text, other) for other in ("en", "de", "fr", "es") if other != code)


def test_a_reply_of_no_language_is_in_any_and_shows_none():
    assert is_in("Okay", "fr")
    assert not is_in("Okay", "fr", doubt=False)
    assert not is_in("Größe XL", "en")


@pytest.mark.parametrize(
    ("tone", "text", "kept"),
    [
        ("calm", "wow❗", False),
        ("calm", "a != b ![img](x.png)", True),
        ("no_shouting", "DAS IST FALSCH", False),
        ("no_shouting", "ЭТО НЕПРАВИЛЬНО", False),
        ("no_shouting", "Use JSON, XML, HTML, HTTPS.", True),
        ("polite", "Bitte warten.", True),
        ("polite", "Merci.", True),
        ("polite", "请稍候。", True),
        ("polite", "It pleased him.", False),
        ("not_rude", "Das ist dumm.", False),
        ("not_rude", "Go to hell.", False),
    ],
)
def test_tone(tone, text, kept):
    kind = KINDS["must", "tone"]
    holds, _ = kind.check(Reply(Turn([]), text), kind.adapter.validate_python(tone))
    assert holds == kept


@pytest.mark.parametrize(
    ("text", "words", "count"),
    [
        ("One.<br>Two.<br/>Three.", 3, 3),
        ("<ul><li>Tea</li><li>Milk</li></ul>", 2, 2),
        ("<p class='a'>It&#39;s&nbsp;so.</p><!-- a note -->", 2, 1),
        ("a<b and c>d", 5, 1),
        ("<<Title>>\n\nText.", 2, 2),
        ("user_name is _so_", 3, 1),
    ],
)
def test_what_html_adds_is_not_counted(text, words, count):
    reply = Reply(Turn([]), text)
    assert (len(reply.words), len(reply.sentences)) == (words, count)


@pytest.mark.parametrize(
    ("name", "argument", "text", "holds"),
    [
        ("bullets", 0, "* * *\n- - -\n---", True),
        ("bullets", 2, "- a\n- b", True),
        ("highlights", 0, r"\*so\* and \**so\**", True),
        ("highlights", 2, r"*so* \* and **so**", True),
        ("tone", "not_rude", "You are an id**iot**.", False),
        ("tone", "polite", "<b>Ple</b>ase wait.", True),
    ],
)
def test_what_markdown_means(name, argument, text, holds):
    kind = KINDS["must", name]
    assert kind.check(Reply(Turn([]), text), kind.adapter.validate_python(argument))[0] == holds


def test_a_citation_may_say_that_it_is_one():
    turn = Turn([], sources=[("K7", "Free for 30 days.")])
    kind = KINDS["must", "cite"]
    wanted = kind.adapter.validate_python(True)
    assert kind.check(Reply(turn, "Free [Source: K7]."), wanted)[0]
    assert not kind.check(Reply(turn, "Free [Source: K8]."), wanted)[0]
