"""Texts on which a tokenizer is tried."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress.errors import ArtifactError, UsageError
from runtime.engine.chat import DEFAULT, of_tokenizer
from runtime.engine.template import STILL, render

PROBES = (
    "Hello, world! How are you today?",
    "  two  spaces   three    four\ttab\t\ttabs \n newline\n\n\nnewlines \r\n end  ",
    "I've, you're, WE'LL, he'd, it's, o'clock, rock'n'roll, 'quoted' ''double''",
    "0 1 12 123 1234 12345 1,234.56 3.14e-10 2026-01-31 +49 170 1234567 #42 50% $9.99 €7,50 ½ ² Ⅳ",
    "ÄÖÜ äöü ß é è ñ ç å ø œ Ł ž İ ı ﬁ",
    "Быстрая коричневая лиса; γρήγορη αλεπού; שלום עולם; مرحبا بالعالم ١٢٣; नमस्ते दुनिया ४५; สวัสดี; កាន់តែ",
    "你好，世界！今天天气很好。日本語のテスト、カタカナ。한국어 문장입니다.",
    "🙂 👍🏽 👩‍👩‍👧 🇩🇪 ❤️ 🚀🚀🚀 (normal) 😶\u200d🌫️",
    "def f(x):\n    return x**2  # comment\n\nfor (int i=0;i<10;++i){a[i]&=~0x1F;}\n<html>&amp;</html>",
    "!!??..,,;;::--__==++//\\\\||@@##$$%%^^&&**(())[[]]{{}}<<>>``~~\"\"''",
    "a\u00a0b\u2003c\u3000d\u200be\u2028f\ufeffg",
    "https://example.com/a?b=c&d=%20#e user.name+tag@example.co.uk C:\\Path\\file.txt",
    '{"action": "answer", "priority": "P1", "citations": [], "reply": "Order 48213 ships on 3 May."}',
    "x",
    "1",
    "The   quick\u0001brown\u007ffox",
)
"""Text of many kinds; llama.cpp must split each exactly as Hugging Face does."""


def chat_probes(tokenizer: Any, template: str | None = None) -> list[str]:
    """Rendered conversations (none without a template): what the model is really asked.

    ``template``: used instead of the tokenizer's default. Raises ArtifactError for one that cannot be rendered.
    """
    chat = of_tokenizer(tokenizer)
    text = template or chat.templates.get(DEFAULT)
    if not text:
        return []
    turns = [{"role": "user", "content": PROBES[0]}, {"role": "assistant", "content": PROBES[12]}]
    padded = [{"role": "user", "content": " \n indented\n  text "}, {"role": "assistant", "content": "  so  "}]
    talks = [turns[:1], [*turns, {"role": "user", "content": PROBES[3]}], [*padded, *turns[:1]]]
    try:
        return [render(text, talk, special=chat.special, now=STILL) for talk in talks]
    except UsageError as error:
        raise ArtifactError(error.what, next=error.next) from error


@dataclass(frozen=True)
class Repairs:
    """What a rendered chat needs so that llama.cpp splits it as Hugging Face does."""

    stripped: tuple[str, ...] = ()
    """Special tokens that take the spaces behind them along."""
    spaced: tuple[str, ...] = ()
    """Special tokens behind which llama.cpp adds a space even to one that is there; ``""``: the start."""
    opening: bool = False
    """Whether text at the very start wants a space that llama.cpp does not add."""

    def template(self, template: str, tokenizer: Any) -> str:
        """``template`` with the repairs around it, for those tokens that it renders and those that messages hold."""
        if self == Repairs():
            return template
        chats = "".join(chat_probes(tokenizer, template))
        words = {token.content for token in tokenizer.added_tokens_decoder.values() if not token.special}
        stripped, spaced = (
            [t for t in given if t and (t in chats or t in words)] for given in (self.stripped, self.spaced)
        )
        inner = ("\n" if template.startswith("\n") else "") + template.removesuffix("\n")
        steps = f"{{% set ns = namespace(text=chat) %}}{_each(stripped, 'part.lstrip()')}"
        if self.spaced:
            one_less = "part[1:] if part[:1] == ' ' and part != ' ' else part"
            steps += "{% if ns.text[:1] == ' ' %}{% set ns.text = ns.text[1:] %}{% endif %}" + _each(spaced, one_less)
        if self.opening:
            tokens = [t.content for t in tokenizer.added_tokens_decoder.values() if t.content in chats]
            starts = " or ".join(f"ns.text.startswith({json.dumps(t)})" for t in (" ", *tokens))
            steps += f"{{% if not ({starts}) %}}{{% set ns.text = ' ' + ns.text %}}{{% endif %}}"
        return f"{{% set chat %}}{inner}{{% endset %}}{steps}{{{{ ns.text }}}}"


def _each(tokens: Sequence[str], part: str) -> str:
    """Jinja: the text behind every one of ``tokens`` replaced by the expression ``part``."""
    if not tokens:
        return ""
    return (
        f"{{% for token in {json.dumps(tokens, ensure_ascii=False)} %}}{{% set parts = ns.text.split(token) %}}"
        "{% set ns.text = parts[0] %}{% for part in parts[1:] %}"
        f"{{% set ns.text = ns.text + token + ({part}) %}}{{% endfor %}}{{% endfor %}}"
    )
