"""Chat templates: Jinja2 in a sandbox, with the same environment as Hugging Face transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import UsageError

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]


def _raise(message: str) -> NoReturn:
    raise UsageError(f"the chat template refuses these messages: {message}", next="check the roles and their order")


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


@lru_cache(maxsize=16)
def compile_template(template: str) -> Template:
    """The compiled template; UsageError when it is not valid Jinja2."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training; here it is transparent."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own contract

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise UsageError(f"the chat template is not valid: {error}", next="repair chat_template.jinja") from None


def render(
    template: str, messages: Sequence[Message], *, bos: str, eos: str, add_generation_prompt: bool = True
) -> str:
    """The prompt text for ``messages``. Raises UsageError when the template refuses them."""
    from jinja2 import TemplateError

    try:
        return compile_template(template).render(
            messages=[dict(m) for m in messages],
            bos_token=bos,
            eos_token=eos,
            add_generation_prompt=add_generation_prompt,
        )
    except TemplateError as error:
        raise UsageError(f"the chat template fails: {error}", next="repair chat_template.jinja") from None
