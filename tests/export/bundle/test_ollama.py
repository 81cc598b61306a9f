"""Modelfiles: the Go template equals the chat template in Go's own text/template, and the file survives its parser."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, LLAMA2, MISTRAL, TEMPLATES

from export.bundle.ollama import Turns, conversations, derive, keeps_spaces, literal, modelfile, prompt_of, quoted
from runtime.engine.template import render
from runtime.errors import UsageError

NO_SYSTEM = {"mistral", "gemma"}


def prompt(template: str) -> Callable[[Any], str | None]:
    def rendered(talk: Any) -> str | None:
        try:
            return render(template, talk, special={"bos_token": "<s>", "eos_token": "</s>"})
        except UsageError:
            return None

    return rendered


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled renderer."""
    if shutil.which("go") is None:
        pytest.skip("no go on PATH")
    place = tmp_path_factory.mktemp("go")
    source = Path(__file__).with_name("go_render.go")
    subprocess.run(["go", "build", "-o", str(place / "render"), str(source)], check=True, capture_output=True)
    return place / "render"


def test_go_renders_every_conversation_as_jinja_does(go: Path) -> None:
    derived = {name: derive(prompt(template)) for name, template in TEMPLATES.items()}
    assert None not in derived.values(), derived
    talks = list(conversations(system=True))
    given = {"templates": [t.go() for t in derived.values() if t], "talks": talks}
    done = subprocess.run([str(go)], input=json.dumps(given), check=True, capture_output=True, text=True)
    checked = 0
    for (name, template), texts in zip(TEMPLATES.items(), json.loads(done.stdout), strict=True):
        for talk, text in zip(talks, texts, strict=True):
            if name in NO_SYSTEM and talk[0]["role"] == "system":
                continue
            assert text == prompt(template)(talk), (name, talk)
            checked += 1
    assert checked > 500


def test_where_the_system_message_goes() -> None:
    found = {name: derive(prompt(template)) for name, template in TEMPLATES.items()}
    for name in NO_SYSTEM:
        assert (found[name].system, found[name].late) == (None, None)  # type: ignore[union-attr]
    assert found["mistral-v3"].late == "\n\n"  # type: ignore[union-attr]
    assert found["gemma3"].system == ("<s><start_of_turn>user\n", "\n\n")  # type: ignore[union-attr]
    assert "You are a helpful" in found["qwen"].first  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "template",
    [
        LLAMA2.replace("content.strip()", "content.strip() | upper"),
        "{% for m in messages %}{{ loop.index }}. {{ m['content'] }}\n{% endfor %}",
        "{% for m in messages %}[{{ m['content'] | length }}] {{ m['content'] }}\n{% endfor %}",
        "{{ messages[-1]['content'] }}",
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'].split('{')[0] }};{% endfor %}",
    ],
)
def test_no_template_is_written_where_none_is_equal(template: str) -> None:
    assert derive(prompt(template)) is None


def test_llama2_keeps_its_order_but_takes_spaces_off() -> None:
    turns = derive(prompt(LLAMA2))
    assert turns is not None
    assert turns.system == ("<s>[INST] <<SYS>>\n", "\n<</SYS>>\n\n")
    assert not keeps_spaces(prompt(LLAMA2), turns)
    chatml = derive(prompt(CHATML))
    assert chatml is not None
    assert keeps_spaces(prompt(CHATML), chatml)


def parse(text: str) -> list[tuple[str, str]]:
    """Commands of a Modelfile, as Ollama's parser/parser.go reads them: what is not printable is dropped, a quoted
    value ends where a line ends with its quotes."""
    commands, lines = [], iter(text.replace("\r", "\n").split("\n"))
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        name, _, value = line.partition(" ")
        if name == "PARAMETER":
            name, _, value = value.partition(" ")
        while not _closed(value.strip()):
            value += "\n" + next(lines)
        value = "".join(c for c in value.strip() if c.isprintable() or c in "\n\t ")
        quotes = 3 if value.startswith('"""') else 1 if value.startswith('"') else 0
        commands.append((name.lower(), value[quotes : len(value) - quotes]))
    return commands


def _closed(value: str) -> bool:
    if value.startswith('"""'):
        return len(value) >= 6 and value.endswith('"""')
    return not value.startswith('"') or (len(value) >= 2 and value.endswith('"'))


def header(path: Path, template: str | None, *, add_bos: bool = False) -> Path:
    """A .gguf file with a vocabulary only."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", "<|end|>", 'odd"', "x"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(add_bos)
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_a_modelfile_reads_back(tmp_path: Path, name: str) -> None:
    path = header(tmp_path / "model.gguf", TEMPLATES[name])
    system = 'Be "brief".\n\n- Never promise.\n'
    commands = parse(modelfile(path, [1, 2, 3], context=512, system=system))
    turns = derive(prompt(TEMPLATES[name]))
    assert turns is not None
    assert dict(commands) | {"stop": ""} == {
        "from": "./model.gguf",
        "template": turns.go(),
        "system": system,
        "temperature": "0",
        "num_ctx": "512",
        "stop": "",
    }
    assert [value for key, value in commands if key == "stop"] == ["</s>", "<|end|>", 'odd"']


def test_a_file_that_adds_bos_itself_gets_a_template_without(tmp_path: Path) -> None:
    from runtime.engine.gguf_file import read_gguf

    talk = [{"role": "user", "content": "a"}]
    for add, expected in ((False, "<s>[INST] a [/INST]"), (True, "[INST] a [/INST]")):
        path = header(tmp_path / f"{add}.gguf", MISTRAL, add_bos=add)
        assert prompt_of(read_gguf(path).metadata, MISTRAL)(talk) == expected
        assert ("<s>" in dict(parse(modelfile(path, [1], context=None)))["template"].split("{{ else }}")[0]) != add
    text = modelfile(path, [1], context=None)
    assert "# The chat template refuses system messages" in text


def test_models_without_an_equal_template_say_so(tmp_path: Path) -> None:
    path = header(tmp_path / "model.gguf", "{{ messages[-1]['content'] }}")
    text = modelfile(path, [1], context=None)
    assert "# No fixed texts render as this model's chat template does" in text
    assert "template" not in dict(parse(text))
    text = modelfile(header(tmp_path / "base.gguf", None), [1], context=None)
    assert "# The model has no chat template" in text


def test_literals_survive_both_languages() -> None:
    assert literal("plain\n text") == "plain\n text"
    assert literal('a{{b"""') == 'a{{ "\\x7b\\x7b" }}b{{ "\\x22\\x22\\x22" }}'
    assert literal("\u00a0") == '{{ "\\U000000a0" }}'
    assert quoted("a b") == '"a b"'
    assert quoted('say "a"') == '"""say "a""""'
    value = '"a"'
    assert parse(f"SYSTEM {quoted(value)}\n") == [("system", value)]
    assert Turns("", "", "", "").say([{"role": "user", "content": "x"}]) == "x"
