"""Every template of a model is compared, at one and the same time of day."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from chat_templates import DATED, JSON, STRICT
from onnx_export import export_onnx
from small_folder import write_model

from export.parity import reading, words
from export.parity.prompts import TALKS
from runtime.session import load

NAMED = [{"name": "default", "template": DATED}, {"name": "rag", "template": STRICT}, {"name": "j", "template": JSON}]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[words.Words, words.Words]:
    """(an ONNX export, its model) with three templates, one of which writes the date."""
    pytest.importorskip("onnxruntime_genai")
    place = tmp_path_factory.mktemp("named")
    folder = write_model(place / "hf", hidden=64, ffn=128, layers=1, heads=4)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": NAMED}))
    made = export_onnx(folder, place / "onnx", precision="fp32")
    with load(made, slots=1) as session:
        ours = words.onnx(made, session)
        asked = {(n, i): ours.render(talk, True, n) for n in ours.templates for i, talk in enumerate(TALKS)}
    kept = replace(ours, render=lambda talk, start, name: asked.get((name, TALKS.index(talk))) if start else None)
    return kept, words.tokenizer_files(folder)


def test_named_templates_and_the_date_render_alike(sides: tuple[words.Words, words.Words]) -> None:
    ours, theirs = sides
    assert sorted(ours.templates) == ["default", "j", "rag"]
    for name in theirs.templates:
        for talk in TALKS:
            assert ours.render(talk, True, name) == theirs.render(talk, True, name)
    assert "01 January 2025" in str(theirs.render(TALKS[0], True, None))


def test_a_template_that_is_gone_or_different_is_named(sides: tuple[words.Words, words.Words]) -> None:
    ours, theirs = sides
    gone = replace(ours, templates={"default": DATED})
    assert list(reading.templates(gone, theirs, TALKS)) == [
        "there is a chat template, the reference has chat templates ['default', 'j', 'rag']"
    ]
    other = replace(ours, templates={**ours.templates, "rag": JSON}, render=theirs.render)
    (only,) = reading.templates(other, theirs, TALKS)
    assert only.startswith("the template's text differs by the template 'rag'")
