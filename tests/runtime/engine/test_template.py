from __future__ import annotations

import pytest

from runtime.engine.template import render
from runtime.errors import UsageError

SAID = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "<héllo> & 'you'"}]


def test_it_renders_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    template = (
        "{{ bos_token }}{%- for m in messages %}\n    {%- if m.role == 'tool' %}{% continue %}{% endif %}\n"
        "{% if loop.first %}[{{ m | tojson }}]{% endif %}\n"
        "  {% generation %}{{ '<|' + m['role'] + '|>' + m['content'].strip() }}{% endgeneration %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}{{ eos_token }}"
    )
    from transformers.utils.chat_template_utils import render_jinja_template

    del transformers
    said = [*SAID, {"role": "tool", "content": "skipped"}]
    theirs, _ = render_jinja_template(
        [said], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert render(template, said, special={"bos_token": "<s>", "eos_token": "</s>"}) == theirs[0]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "not valid"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.__class__.__mro__ }}", "fails"),
        ("{{ messages.append(1) }}", "fails"),
        ("{{ nothing.at.all }}", "fails"),
    ],
)
def test_a_bad_template_is_one_clear_error(template: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(template, SAID, special={})
