"""IFBench's instructions on words, sentences and their counts (Pyatkin et al. 2025, arXiv:2507.02833) as rule kinds.

They judge as the published verifiers do, on the text as it was written. Two of the 57 are left out: words:start_verb
wants a part-of-speech tagger, words:odd_even_syllables a dictionary of syllables.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise, zip_longest
from typing import Annotated

from pydantic import Field

from .checks_ifeval import Number, Yes
from .emoji import is_emoji
from .kinds import MUST, Args, Finding, Phrase, kind
from .published import EDGES, bare, bare_words, sentences, tokens, treebank
from .published_words import NAMES, PRONOUNS, STOP_WORDS
from .turn import Reply

# ── counts ───────────────────────────────────────────────────────────────────────────────────────


class WordRange(Args):
    """``min_words`` to ``max_words``."""

    min_words: Number
    max_words: Number


@kind("count:word_count_range", MUST)
def word_count_range(reply: Reply, spec: WordRange) -> Finding:
    """So many runs of letters, digits and underscores."""
    count = len(tokens(reply.text))
    return spec.min_words <= count <= spec.max_words, f"{count} words (wanted {spec.min_words} to {spec.max_words})"


class AtLeast(Args):
    """At least ``N``."""

    N: Number


@kind("count:unique_word_count", MUST)
def unique_word_count(reply: Reply, spec: AtLeast) -> Finding:
    """At least ``N`` different words, in any case."""
    count = len({word.strip(EDGES) for word in reply.text.lower().split()})
    return count >= spec.N, f"{count} different words (wanted {spec.N})"


class SmallNumber(Args):
    """``small_n``: the number."""

    small_n: Number


_CONJUNCTIONS = frozenset(["and", "but", "for", "nor", "or", "so", "yet"])


@kind("count:conjunctions", MUST)
def conjunctions(reply: Reply, spec: SmallNumber) -> Finding:
    """At least ``small_n`` different coordinating conjunctions; ``And`` and ``and,`` are two."""
    count = len({word for word in reply.text.split() if word.strip(EDGES).lower() in _CONJUNCTIONS})
    return count >= spec.small_n, f"{count} conjunctions (wanted {spec.small_n})"


@kind("count:person_names", MUST)
def person_names(reply: Reply, spec: AtLeast) -> Finding:
    """At least ``N`` of the fifty names that the benchmark lists."""
    count = sum(name in reply.text for name in NAMES)
    return count >= spec.N, f"{count} of the listed names (wanted {spec.N})"


@kind("count:numbers", MUST)
def numbers(reply: Reply, spec: AtLeast) -> Finding:
    """Exactly ``N`` numbers; ``3.14`` and ``100,000`` are one each."""
    count = len(re.findall(r"\d+", bare(reply.text)))
    return count == spec.N, f"{count} numbers (wanted {spec.N})"


@kind("count:pronouns", MUST)
def pronouns(reply: Reply, spec: AtLeast) -> Finding:
    """At least ``N`` personal and possessive pronouns."""
    count = sum(word in PRONOUNS for word in bare_words(reply.text.replace("/", " ").lower()))
    return count >= spec.N, f"{count} pronouns (wanted {spec.N})"


@kind("count:punctuation", MUST)
def punctuation(reply: Reply, wanted: Yes) -> Finding:
    """Every one of ``. , ! ? ; :`` and, besides those, an interrobang (``?!``, ``!?`` or ``‽``)."""
    mark = next((mark for mark in ("?!", "!?") if mark in reply.text), None)
    lacking = set(".,!?;:") - set(reply.text.replace(mark, "", 1) if mark else reply.text)
    good = not lacking and (mark is not None or "\u203d" in reply.text)
    return good, f"lacks {' '.join(sorted(lacking)) or 'an interrobang'}"


_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


class EveryNth(Args):
    """Every ``N``-th word."""

    N: Annotated[Number, Field(ge=1)]


@kind("count:words_japanese", MUST)
def words_japanese(reply: Reply, spec: EveryNth) -> Finding:
    """Every ``N``-th word has Japanese characters in it, or is a number or punctuation."""
    nth = [word.strip(EDGES) for word in reply.text.split()[spec.N - 1 :: spec.N]]
    other = next((word for word in nth if word and not word.isdigit() and not _JAPANESE.search(word)), None)
    return other is None, f"{other!r} is not Japanese"


class Multiple(Args):
    """Five keywords: once, twice, three, five and seven times."""

    keyword1: Phrase
    keyword2: Phrase
    keyword3: Phrase
    keyword4: Phrase
    keyword5: Phrase


@kind("count:keywords_multiple", MUST)
def keywords_multiple(reply: Reply, spec: Multiple) -> Finding:
    """Each keyword stands exactly so many times, in any case, also inside a word."""
    keywords = (spec.keyword1, spec.keyword2, spec.keyword3, spec.keyword4, spec.keyword5)
    text = reply.text.lower()
    wrong = [w for w, n in zip(keywords, (1, 2, 3, 5, 7), strict=True) if text.count(w.strip().lower()) != n]
    return not wrong, f"{wrong[:1]} stands another number of times"


# ── ratios ───────────────────────────────────────────────────────────────────────────────────────


class Percentage(Args):
    """``percentage``, 0 to 100."""

    percentage: Annotated[Number, Field(le=100)]


@kind("ratio:stop_words", MUST)
def stop_words(reply: Reply, spec: Percentage) -> Finding:
    """At most ``percentage`` % of the words are English stop words."""
    said = tokens(reply.text)
    share = (sum(word.lower() in STOP_WORDS for word in said) / len(said)) * 100 if said else 101
    return share <= spec.percentage, f"{share:.1f} % stop words (at most {spec.percentage})"


def _endings(text: str) -> tuple[int, int, int]:
    ends = Counter(sentence[-1:] for sentence in sentences(text))
    return ends["."], ends["?"], ends["!"]


@kind("ratio:sentence_type", MUST)
def sentence_type(reply: Reply, wanted: Yes) -> Finding:
    """Twice as many sentences end with a full stop as with a question mark."""
    stops, questions, _ = _endings(reply.text)
    return stops == 2 * questions, f"{stops} statements, {questions} questions"


@kind("ratio:sentence_balance", MUST)
def sentence_balance(reply: Reply, wanted: Yes) -> Finding:
    """As many sentences end with a full stop as with a question mark and with an exclamation mark."""
    ends = _endings(reply.text)
    return len(set(ends)) == 1, "{} statements, {} questions, {} exclamations".format(*ends)


class Overlap(Args):
    """``percentage`` of what is shared with ``reference_text``."""

    reference_text: Phrase
    percentage: Annotated[Number, Field(le=100)]


@kind("ratio:overlap", MUST)
def overlap(reply: Reply, spec: Overlap) -> Finding:
    """So many % (within 2) of the text's different runs of three characters stand in the reference."""
    own, reference = _trigrams(reply.text), _trigrams(spec.reference_text)
    share = len(own & reference) / len(own) * 100 if own else -100.0
    return spec.percentage - 2 <= share <= spec.percentage + 2, f"{share:.1f} % shared (wanted {spec.percentage})"


def _trigrams(text: str) -> set[str]:
    return {text[place : place + 3] for place in range(len(text) - 2)}


@kind("ratio:sentence_words", MUST)
def sentence_words(reply: Reply, wanted: Yes) -> Finding:
    """Three sentences of the same number of characters."""
    lengths = [len(sentence) for sentence in sentences(reply.text)]
    return len(lengths) == 3 and len(set(lengths)) == 1, f"sentences of {lengths[:5]} characters"


# ── words ────────────────────────────────────────────────────────────────────────────────────────

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_VOWELS = frozenset("aeiou")
_CLUSTER = re.compile(r"[bcdfghjklmnpqrstvwxyz]{2}")
_PRIMES = frozenset(n for n in range(2, 98) if all(n % d for d in range(2, n)))


@kind("words:alphabet", MUST)
def alphabet(reply: Reply, wanted: Yes) -> Finding:
    """Each word begins with the letter after that of the word before; ``a`` follows ``z``."""
    said = bare_words(reply.text)
    first = said[0][0].lower() if said else ""
    place = _ALPHABET.find(first) if len(first) == 1 else -1
    if place < 0:
        return False, "does not begin with a letter"
    wrong = next((w for n, w in enumerate(said) if n and w.lower()[0] != _ALPHABET[(place + n) % 26]), None)
    return wrong is None, f"{wrong!r} is out of order"


@kind("words:vowel", MUST)
def vowel(reply: Reply, wanted: Yes) -> Finding:
    """One paragraph with at most three of the vowels."""
    text = reply.text.strip()
    used = _VOWELS & set(text.lower())
    return "\n" not in text and len(used) <= 3, f"uses {len(used)} vowels or more than one paragraph"


@kind("words:consonants", MUST)
def consonants(reply: Reply, wanted: Yes) -> Finding:
    """Each word has two consonants side by side."""
    wrong = next((word for word in reply.text.lower().split() if not _CLUSTER.search(word)), None)
    return wrong is None, f"{wrong!r} has none"


@kind("words:palindrome", MUST)
def palindrome(reply: Reply, wanted: Yes) -> Finding:
    """Ten palindromes of five letters or more."""
    count = sum(len(word) >= 5 and word == word[::-1] for word in bare_words(reply.text.lower()))
    return count >= 10, f"{count} palindromes (wanted 10)"


@kind("words:prime_lengths", MUST)
def prime_lengths(reply: Reply, wanted: Yes) -> Finding:
    """Each word has a prime number of letters."""
    wrong = next((word for word in bare_words(reply.text) if len(word) not in _PRIMES), None)
    return wrong is None, f"{wrong!r} has {len(wrong or '')} letters"


@kind("words:repeats", MUST)
def repeats(reply: Reply, spec: SmallNumber) -> Finding:
    """No word stands more than ``small_n`` times."""
    word, count = max(Counter(bare_words(reply.text.lower())).items(), key=lambda pair: pair[1], default=("", 0))
    return count <= spec.small_n, f"{word!r} stands {count} times"


@kind("words:no_consecutive", MUST)
def no_consecutive(reply: Reply, wanted: Yes) -> Finding:
    """No two neighbouring words begin with the same letter."""
    same = next((f"{a} {b}" for a, b in pairwise(bare_words(reply.text.lower())) if a[0] == b[0]), None)
    return same is None, f"{same!r} begin alike"


@kind("words:last_first", MUST)
def last_first(reply: Reply, wanted: Yes) -> Finding:
    """Each sentence begins with the last word of the one before."""
    for one, other in pairwise(sentences(reply.text)):
        last, first = one.rstrip(EDGES).split(), other.lstrip(EDGES).split()
        if not last or not first or last[-1].lower() != first[0].lower():
            return False, f"{last[-1:]} is not followed by itself"
    return True, "each takes up the last word"


@kind("words:paragraph_last_first", MUST)
def paragraph_last_first(reply: Reply, wanted: Yes) -> Finding:
    """Each line ends with the word that it begins with."""
    for line in reply.text.split("\n"):
        said = line.strip().lower().strip(EDGES).split()
        if line.strip() and (not said or said[0] != said[-1]):
            return False, f"{line.strip()[:30]!r} ends with another word"
    return True, "each ends with its first word"


class Position(Args):
    """``keyword`` as the ``m``-th word of the ``n``-th sentence, both from 1."""

    keyword: Phrase
    n: Annotated[Number, Field(ge=1)]
    m: Annotated[Number, Field(ge=1)]


@kind("words:keywords_specific_position", MUST)
def keywords_specific_position(reply: Reply, spec: Position) -> Finding:
    """One Treebank token of one sentence is the keyword."""
    found = treebank(sentences(reply.text)[spec.n - 1]) if len(sentences(reply.text)) >= spec.n else ()
    good = len(found) >= spec.m and found[spec.m - 1] == spec.keyword.strip()
    return good, f"{spec.keyword!r} is not there"


class Keyword(Args):
    """``keyword``: the word."""

    keyword: Phrase


@kind("words:words_position", MUST)
def words_position(reply: Reply, spec: Keyword) -> Finding:
    """The second Treebank token and the last but one are the keyword: the full stop at the end is the last."""
    found = treebank(reply.text)
    good = len(found) > 1 and found[1] == found[-2] == spec.keyword.strip()
    return good, f"{spec.keyword!r} is not there"


# ── sentences ────────────────────────────────────────────────────────────────────────────────────


@kind("sentence:alliteration_increment", MUST)
def alliteration_increment(reply: Reply, wanted: Yes) -> Finding:
    """Each sentence has more alliterating words than the one before."""
    counts = [_alliterating(sentence.lower().split()) for sentence in sentences(reply.text)]
    return all(a < b for a, b in pairwise(counts)), f"{counts[:6]} alliterating words"


def _alliterating(said: list[str]) -> int:
    firsts = [word.lstrip(EDGES)[:1] for word in said if word.lstrip(EDGES)]
    same = [a == b for a, b in pairwise(firsts)]
    runs = sum(now and not before for before, now in pairwise([False, *same]))
    return sum(same) + runs


class SentenceKeyword(Args):
    """``word`` in sentence number ``N`` (from 1)."""

    word: Phrase
    N: Annotated[Number, Field(ge=1)]


@kind("sentence:keyword", MUST)
def sentence_keyword(reply: Reply, spec: SentenceKeyword) -> Finding:
    """The sentence has the keyword in it, in any case, also inside a word."""
    found = sentences(reply.text)
    good = len(found) >= spec.N and spec.word.lower() in found[spec.N - 1].lower()
    return good, f"sentence {spec.N} of {len(found)} lacks {spec.word!r}"


@kind("sentence:increment", MUST)
def increment(reply: Reply, spec: SmallNumber) -> Finding:
    """Each sentence has exactly ``small_n`` words more than the one before."""
    counts = [len(bare_words(sentence)) for sentence in sentences(reply.text)]
    return all(b - a == spec.small_n for a, b in pairwise(counts)), f"sentences of {counts[:6]} words"


@kind("format:emoji", MUST)
def emoji_at_the_end(reply: Reply, wanted: Yes) -> Finding:
    """Each sentence ends with an emoji, or the next begins with one."""
    found = [bare(sentence).strip() for sentence in sentences(reply.text)]
    for one, other in zip_longest(found, found[1:], fillvalue=""):
        if not one or not (any(map(is_emoji, one[-2:])) or is_emoji(other[:1])):
            return False, f"{one[-20:]!r} is without"
    return True, "each has one"
