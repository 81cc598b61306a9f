from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from chat_templates import DATED, ENVIRONMENT, TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.template import STILL, render
from runtime.errors import UsageError

SAID = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "<héllo> & 'you'"}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
TALKS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.text(max_size=12)},
        optional={"reasoning_content": st.none() | st.just("why"), "thinking": st.just("hm")},
    ),
    min_size=1,
    max_size=5,
)


def theirs(template: str, talk: list[dict[str, Any]], start: bool) -> str | None:
    """transformers' rendering; None where it raises."""
    from transformers.utils.chat_template_utils import render_jinja_template

    given = [{key: value for key, value in message.items() if value is not None} for message in talk]
    try:
        (text,), _ = render_jinja_template([given], chat_template=template, add_generation_prompt=start, **SPECIAL)
    except Exception:
        return None
    return text


def ours(template: str, talk: list[dict[str, Any]], start: bool) -> str | None:
    try:
        return render(template, talk, special=SPECIAL, add_generation_prompt=start)
    except UsageError:
        return None


@pytest.mark.parametrize("name", [*TEMPLATES, *ENVIRONMENT])
def test_it_renders_as_transformers_does(name: str) -> None:
    pytest.importorskip("transformers")
    template = (TEMPLATES | ENVIRONMENT)[name]

    @settings(max_examples=25, deadline=None)
    @given(TALKS, st.booleans())
    def compare(talk: list[dict[str, Any]], start: bool) -> None:
        assert ours(template, talk, start) == theirs(template, talk, start)

    compare()


def test_the_clock_is_the_callers() -> None:
    told = [render(DATED, SAID, special={}, now=now) for now in (STILL, datetime(1999, 12, 31))]
    assert told[0].startswith("Today is 01 January 2025. <|im_start|>")
    assert told[1].startswith("Today is 31 December 1999. <|im_start|>")
    assert f"{datetime.now():%Y}" in render(DATED, SAID, special={})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "not valid"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.__class__.__mro__ }}", "fails"),
        ("{{ messages.append(1) }}", "fails"),
        ("{{ nothing.at.all }}", "fails"),
        ("{{ messages[0].content + 1 }}", "fails"),
        ("{{ strftime_now.__globals__ }}{{ strftime_now(5) }}", "fails"),
    ],
)
def test_a_bad_template_is_one_clear_error(template: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(template, SAID, special={})


def test_no_messages_are_no_conversation() -> None:
    with pytest.raises(UsageError, match="empty"):
        render(TEMPLATES["chatml"], [], special={})
