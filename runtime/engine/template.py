"""Chat templates: Jinja2 in a sandbox, with the same environment as Hugging Face transformers
(utils/chat_template_utils.py of 5.23): names, filters, extensions, options and what is kept from a template."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import UsageError

if TYPE_CHECKING:
    from jinja2 import Environment, Template

Message = Mapping[str, Any]

STILL = datetime(2025, 1, 1)
"""The clock of everything that is compared or must come out the same tomorrow: calibration, parity, the gate, golden
prompts. Templates that write the date write this one there, and today's when serving."""
REPAIR = "repair chat_template.jinja"
_REASONING = ("reasoning_content", "thinking", "reasoning")


def _raise(message: str) -> NoReturn:
    raise UsageError(f"the chat template refuses these messages: {message}", next="check the roles and their order")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Dict:
    """``dict`` of a template: makes one, and shows nothing of the type."""

    def __call__(self, *pairs: Any, **named: Any) -> dict[Any, Any]:
        return dict(*pairs, **named)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        """As ``dict.fromkeys``."""
        return dict.fromkeys(keys, value)


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The sandbox that every template is compiled in."""
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training; here only its scope remains."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own contract

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

        def _said(self, caller: Callable[[], str]) -> str:
            return caller()

    class Guarded(Namespace):
        """``namespace`` without names that begin with an underscore, which would reach into Python."""

        def __init__(*args: Any, **named: Any) -> None:
            self, values = args[0], dict(*args[1:], **named)
            for name in values:
                _plain_name(name)
            Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            _plain_name(name)
            super().__setitem__(name, value)

    def _plain_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"the attribute {name!r} of a namespace begins with an underscore")

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _raise, "dict": _Dict(), "namespace": Guarded}
    return made


@lru_cache(maxsize=32)
def compile_template(template: str) -> Template:
    """The compiled template; UsageError when it is not valid Jinja2."""
    from jinja2 import TemplateError

    try:
        return environment().from_string(template)
    except (TemplateError, RecursionError) as error:
        raise UsageError(f"the chat template is not valid: {error}", next=REPAIR) from None


def render(
    template: str,
    messages: Sequence[Message],
    *,
    special: Mapping[str, Any],
    add_generation_prompt: bool = True,
    now: datetime | None = None,
) -> str:
    """The prompt text for ``messages``.

    ``special``: special tokens by name (``bos_token`` …), as the template calls them. ``now``: what ``strftime_now``
    tells; None is the present. Raises UsageError when the template refuses the messages or fails on them.
    """
    moment = now or datetime.now()

    def strftime_now(form: str) -> str:
        return moment.strftime(form)

    names = {
        "strftime_now": strftime_now,
        **special,
        "messages": list(map(_given, messages)),
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    if not names["messages"]:
        raise UsageError("the conversation is empty", next="give at least one message")
    try:
        return compile_template(template).render(names)
    except UsageError:
        raise
    except Exception as error:  # a template may raise anything
        raise UsageError(f"the chat template fails: {error}", next=REPAIR) from None


def _given(message: Message) -> dict[str, Any]:
    """A message as templates get it: keys without a value left out, reasoning under each of its names."""
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = next((given[key] for key in _REASONING if key in given), None)
    return given if reasoning is None else {"thinking": reasoning, **given, "reasoning_content": reasoning}


def literals(template: str) -> Iterator[str]:
    """Every text that stands in a template: what it writes, and its string constants."""
    from jinja2 import nodes

    tree = environment().parse(template)
    yield from (node.data for node in tree.find_all(nodes.TemplateData))
    yield from (node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))


def inspected(template: str) -> set[str]:
    """Constants that a template looks for in texts (``'</think>' in content``, ``content.split('</think>')``)."""
    from jinja2 import nodes

    tree = environment().parse(template)
    asked: list[nodes.Node] = [arg for call in tree.find_all(nodes.Call) for arg in call.args]
    asked += [arg for use in tree.find_all(nodes.Filter) for arg in use.args]
    asked += [test.expr for test in tree.find_all(nodes.Compare) if test.ops[0].op in ("in", "notin")]
    return {node.value for node in asked if isinstance(node, nodes.Const) and isinstance(node.value, str)}
