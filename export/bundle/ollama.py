"""A Modelfile for Ollama: stop words, parameters, and the chat template as a Go template where one equals it.

Ollama renders Go's text/template over ``.Messages`` (each ``.Role`` and ``.Content``). Most chat templates put fixed
texts between the contents; those texts are found by rendering sentinels, and the Go template that they give is written
only if it renders many conversations as the chat template does. Grammar and data model: docs/modelfile.mdx,
parser/parser.go and template/template.go of https://github.com/ollama/ollama.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import UsageError
from runtime.engine.chat import DEFAULT, of_gguf, special_by_ids
from runtime.engine.gguf_file import read_gguf
from runtime.engine.template import STILL, render

Talk = Sequence[Mapping[str, Any]]
Render = Callable[[Talk], str | None]
"""A prompt text that ends where the reply begins; None where the template refuses the messages."""

CONTENTS = (
    "Hello",
    "Where is order #48213? It's 3 days late!",
    "line one\nline two\n\nline four",
    '{"action": "answer", "reply": "Yes."}',
    "{{ .System }} {% if x %} <b>&amp;</b> `code` \\n 'quoted'",
    "Ärger? 你好，世界 🙂 مرحبا",
    "a",
)
"""What is said in the conversations that a Go template must render equally."""
LENGTHS = (1, 3, 5, 9)


@dataclass(frozen=True)
class Turns:
    """A chat template as the texts around the contents of ``[system] user (assistant user)*``."""

    first: str
    """Before the first user content where there is no system message."""
    answer: str
    """Between a user's and an assistant's content."""
    again: str
    """Between an assistant's and a user's content."""
    last: str
    """After the last user content: up to the start of the reply."""
    system: tuple[str, str] | None = None
    """Before the system content, and between it and the first user content."""
    late: str | None = None
    """Instead: the system content stands before the last user content, with this text between."""

    def say(self, talk: Talk) -> str:
        """The prompt for ``talk``, as the Go template renders it."""
        system = str(talk[0]["content"]) if talk[0]["role"] == "system" else None
        turns = [str(m["content"]) for m in talk if m["role"] != "system"]
        text = self.first
        if system is not None and self.system is not None:
            text = self.system[0] + system + self.system[1]
        for number, content in enumerate(turns):
            if number:
                text += self.answer if number % 2 else self.again
            if system is not None and self.late is not None and number == len(turns) - 1:
                text += system + self.late
            text += content
        return text + self.last

    def go(self) -> str:
        """The template in Go's text/template."""
        first, again = literal(self.first), literal(self.again)
        if self.system is not None:
            between = "{{ if eq $i 0 }}%s{{ else if eq $i 1 }}%s{{ else }}%s{{ end }}"
            opening = between % (first, literal(self.system[1]), again)
        else:
            opening = f"{{{{ if lt $i 2 }}}}{first}{{{{ else }}}}{again}{{{{ end }}}}"
        late = ""
        if self.late is not None:
            late = f"{{{{ if and $last $.System }}}}{{{{ $.System }}}}{literal(self.late)}{{{{ end }}}}"
        before = f'{{{{ if eq .Role "system" }}}}{literal(self.system[0])}{{{{ .Content }}}}' if self.system else ""
        user = f'{{{{ {"else " if before else ""}if eq .Role "user" }}}}{opening}{late}{{{{ .Content }}}}'
        assistant = f'{{{{ else if eq .Role "assistant" }}}}{literal(self.answer)}{{{{ .Content }}}}'
        end = f'{{{{ end }}}}{{{{ if and $last (ne .Role "assistant") }}}}{literal(self.last)}{{{{ end }}}}'
        head = "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        return f"{head}{before}{user}{assistant}{end}{{{{ end }}}}"


def literal(text: str) -> str:
    """Text as it must stand in a Go template inside a Modelfile, whose parser drops what is not printable."""
    pieces = []
    for plain, run in itertools.groupby(text, _plain):
        piece = "".join(run)
        pieces.append(piece if plain else f'{{{{ "{"".join(map(_escape, piece))}" }}}}')
    return "".join(pieces)


def _plain(char: str) -> bool:
    return char in "\n\t " or (char.isprintable() and char not in '{}"')


def _escape(char: str) -> str:
    return f"\\U{ord(char):08x}" if ord(char) > 127 else f"\\x{ord(char):02x}"


def derive(rendered: Render) -> Turns | None:
    """The fixed texts of a chat template, or None where it has none or they do not render equally."""
    one, three = _cut(rendered, ["user"]), _cut(rendered, ["user", "assistant", "user"])
    if one is None or three is None:
        return None
    turns = Turns(one[0], three[1], three[2], one[1])
    found = next((t for t in _with_system(rendered, turns) if agrees(t, rendered)), None)
    return found if found is None or not _needless(found) else None


def _needless(turns: Turns) -> bool:
    """Without a text that starts the reply there is nothing to prompt with."""
    return not (turns.first or turns.answer or turns.again or turns.last)


def _with_system(rendered: Render, turns: Turns) -> Iterator[Turns]:
    """Ways in which a system message may enter; ``turns`` itself where it is refused."""
    given = _cut(rendered, ["system", "user"])
    if given is not None:
        head, between, _ = given
        yield Turns(turns.first, turns.answer, turns.again, turns.last, (head, between))
        yield Turns(turns.first, turns.answer, turns.again, turns.last, late=between)
    elif rendered(_talk(["system", "user"], ["s", "u"])) is None:
        yield turns


def _talk(roles: Sequence[str], contents: Sequence[str]) -> Talk:
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def _cut(rendered: Render, roles: Sequence[str]) -> list[str] | None:
    """The texts around the contents, or None when a content is missing, doubled or out of its order."""
    marks = [f"Zq{number}{role}qZ" for number, role in enumerate(roles)]
    text = rendered(_talk(roles, marks))
    if text is None or any(text.count(mark) != 1 for mark in marks):
        return None
    pieces = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            return None
        pieces.append(before)
    return [*pieces, text]


def conversations(*, system: bool) -> Iterator[Talk]:
    """Conversations of several lengths over ``CONTENTS``, that end with a user's turn."""
    for length, start in itertools.product(LENGTHS, range(len(CONTENTS))):
        contents = [CONTENTS[(start + 3 * i) % len(CONTENTS)] for i in range(length + 1)]
        roles = ["user" if i % 2 == 0 else "assistant" for i in range(length)]
        yield _talk(roles, contents[:length])
        if system:
            yield _talk(["system", *roles], contents)


def agrees(turns: Turns, rendered: Render) -> bool:
    """Whether both render every conversation alike."""
    system = turns.system is not None or turns.late is not None
    return all(turns.say(talk) == rendered(talk) for talk in conversations(system=system))


def keeps_spaces(rendered: Render, turns: Turns) -> bool:
    """Whether the chat template leaves spaces around a content (Go's templates cannot take them off)."""
    talk = _talk(["user", "assistant", "user"], [" a\n", "\n b ", "  c  "])
    return turns.say(talk) == rendered(talk)


# ---- the file ----

_NOT_EQUAL = (
    "# No fixed texts render as this model's chat template does, so there is no TEMPLATE here: Ollama has to read",
    "# tokenizer.chat_template from the GGUF, and takes the nearest one that it knows. Check what it asks the model.",
)


def modelfile(
    model: Path, stops: Sequence[int], *, context: int | None, template: str | None = None, system: str = ""
) -> str:
    """The Modelfile beside ``model`` (a .gguf file). ``stops``: tokens that end a reply; ``template``: the chat
    template in use, by default the file's; ``system``: the system prompt that the rules put in front. Ollama does not
    enforce rules."""
    metadata = read_gguf(model).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    lines = ["# Rules are enforced by the Holdfast runtime only.", f"FROM ./{model.name}"]
    lines += _template_lines(metadata, template or of_gguf(metadata).templates.get(DEFAULT))
    lines += [f"SYSTEM {quoted(system)}"] if system and '"""' not in system else []
    lines += ["PARAMETER temperature 0"]
    lines += [f"PARAMETER num_ctx {context}"] if context else []
    texts = sorted({str(tokens[token]) for token in stops} - {""})
    lines += [f"PARAMETER stop {quoted(text)}" for text in texts if all(map(_survives, text))]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A value of a Modelfile: no escapes exist; three quotes end it at the end of a line."""
    return f'"""{text}"""' if "\n" in text or '"' in text else f'"{text}"'


def _survives(char: str) -> bool:
    return char.isprintable() or char in "\n\t "


def _template_lines(metadata: Mapping[str, Any], template: str | None) -> list[str]:
    if not template:
        return ["# The model has no chat template: it continues texts."]
    rendered = prompt_of(metadata, template)
    turns = derive(rendered)
    if turns is None or "strftime_now" in template:  # a fixed text would tell the same day for ever
        return list(_NOT_EQUAL)
    notes = []
    if turns.system is None and turns.late is None:
        notes.append("# The chat template refuses system messages; they are left out.")
    if not keeps_spaces(rendered, turns):
        notes.append("# The chat template takes spaces off around a message; Ollama does not.")
    return [*notes, f"TEMPLATE {quoted(turns.go())}"]


def prompt_of(metadata: Mapping[str, Any], template: str) -> Render:
    """How a .gguf file's chat template renders prompts for Ollama, which puts BOS in front itself where the file says
    so."""
    special = of_gguf(metadata).special
    bos = special_by_ids(metadata).get("bos_token", "")
    added = bos if metadata.get("tokenizer.ggml.add_bos_token", metadata["tokenizer.ggml.model"] == "llama") else ""

    def rendered(talk: Talk) -> str | None:
        try:
            text = render(template, talk, special=special, now=STILL)
        except UsageError:
            return None
        return text.removeprefix(added)

    return rendered
