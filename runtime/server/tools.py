"""``tools`` and ``tool_choice``.

With a bundle's contract the contract decides: its field ``tools`` names what is to be called, and only functions that
it knows and that need no arguments can be offered. Without one the reply is bound to a JSON schema made of the offered
functions: either one call with arguments that fit its parameters, or words.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..engine.text import begun
from ..errors import UsageError
from ..schema import remade

if TYPE_CHECKING:
    from ..info import Info
    from ..reply import Reply

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_CALL = re.compile(r'\{"name":"([A-Za-z0-9_-]{1,64})","arguments":(.*)', re.DOTALL)
_WORDS = re.compile(r'\{"reply":"(.*)', re.DOTALL)
_HOW = """You can use these functions. Each line is one of them as JSON:
{tools}
To use one, write {{"name": its name, "arguments": its arguments}} and nothing else."""
_OR = """ To answer in words instead, write {"reply": the words}."""


@dataclass(frozen=True)
class Function:
    """One function that the model may ask for."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def call(self) -> dict[str, Any]:
        """JSON schema of a call; that of the arguments stands in ``$defs`` under the function's name."""
        properties = {"name": {"const": self.name}, "arguments": {"$ref": f"#/$defs/{self.name}"}}
        return {
            "type": "object",
            "properties": properties,
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class ToolUse:
    """The functions offered in one request, and whether one must be used."""

    functions: tuple[Function, ...]
    forced: bool = False
    by_contract: bool = False

    @property
    def instruction(self) -> str:
        """What the model is told about the functions; empty where the contract decides."""
        if self.by_contract:
            return ""
        lines = [
            json.dumps({"name": f.name, "description": f.description, "parameters": f.parameters}, ensure_ascii=False)
            for f in self.functions
        ]
        return _HOW.format(tools="\n".join(lines)) + ("" if self.forced else _OR)

    @property
    def response_format(self) -> dict[str, Any] | None:
        """The form that the reply is bound to; None where the contract decides."""
        if self.by_contract:
            return None
        words = {
            "type": "object",
            "properties": {"reply": {"type": "string"}},
            "required": ["reply"],
            "additionalProperties": False,
        }
        choices = [function.call for function in self.functions] + ([] if self.forced else [words])
        defs = {f.name: moved(closed(f.parameters), f"#/$defs/{f.name}") for f in self.functions}
        schema = {"$defs": defs, **(choices[0] if len(choices) == 1 else {"anyOf": choices})}
        return {"type": "json_schema", "json_schema": {"name": "use", "schema": schema}}

    def read(self, reply: Reply) -> tuple[str | None, list[dict[str, Any]]]:
        """The words of a reply, and the calls that it asks for."""
        if self.by_contract:
            names = {function.name for function in self.functions}
            return reply.raw, [_call(name, "{}") for name in reply.tools if name in names]
        try:
            said = json.loads(reply.raw)
        except ValueError:
            return _cut(reply.raw)
        if isinstance(said, dict) and isinstance(said.get("name"), str):
            return None, [_call(said["name"], json.dumps(said.get("arguments", {}), ensure_ascii=False))]
        return (str(said["reply"]) if isinstance(said, dict) and "reply" in said else reply.raw), []


def _cut(raw: str) -> tuple[str | None, list[dict[str, Any]]]:
    """What there is of a reply that ran into the token limit: a call with the beginning of its arguments, as other
    servers give it, or the beginning of the words."""
    if (call := _CALL.match(raw)) is not None:
        return None, [_call(call[1], call[2])]
    words = _WORDS.match(raw)
    return (None if words is None else begun(words[1])), []


_MERGED = frozenset(("$ref", "allOf", "anyOf", "minProperties", "oneOf", "patternProperties"))
"""Beside these an object may have properties that it does not name itself."""


def closed(schema: Any) -> Any:
    """The schema, in which objects that name their properties have no others unless it says so: a call needs none, and
    a small model would not find an end of them. Left alone where parts of it are merged to one object."""
    merged: list[bool] = []

    def look(part: dict[str, Any]) -> dict[str, Any]:
        own, wanted = part.get("properties"), part.get("required")
        lacking = isinstance(own, Mapping) and isinstance(wanted, list) and not all(name in own for name in wanted)
        merged.append(lacking or "allOf" in part or ("properties" in part and not _MERGED.isdisjoint(part)))
        return part

    def change(part: dict[str, Any]) -> dict[str, Any]:
        return {"additionalProperties": False, **part} if isinstance(part.get("properties"), Mapping) else part

    remade(schema, look)
    return schema if any(merged) else remade(schema, change)


def moved(schema: Any, to: str) -> Any:
    """The schema as it is to stand at ``to`` of another one: its references to itself lead there."""

    def change(part: dict[str, Any]) -> dict[str, Any]:
        if isinstance(ref := part.get("$ref"), str) and ref.startswith("#"):
            part["$ref"] = to + ref.removeprefix("#")
        return part

    return remade(schema, change)


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def read_tools(fields: Mapping[str, Any], info: Info, *, most: int) -> ToolUse | None:
    """``tools`` and ``tool_choice`` of a body; None where nothing is offered. Raises UsageError naming the culprit."""
    offered, choice = fields.get("tools"), fields.get("tool_choice")
    if not offered:
        if choice not in (None, "none", "auto"):
            raise UsageError("'tool_choice' is given without 'tools'", next="send the functions in 'tools'")
        if offered not in (None, []):
            raise UsageError("'tools' must be a list of functions")
        return None
    if not isinstance(offered, list) or len(offered) > most:
        raise UsageError(f"'tools' must be a list of at most {most} functions")
    functions = [_function(i, tool) for i, tool in enumerate(offered)]
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise UsageError("'tools' offers two functions of the same name", next="give each a name of its own")
    chosen, forced = _chosen(functions, choice)
    if not chosen:
        return None
    if info.contract is not None:
        _check_contract(functions, forced, info)
        return ToolUse(tuple(chosen), by_contract=True)
    if not info.grammars:
        raise UsageError(f"{info.backend} cannot be bound to the functions", next="leave 'tools' out")
    return ToolUse(tuple(chosen), forced)


def _function(index: int, tool: Any) -> Function:
    inner = tool.get("function") if isinstance(tool, Mapping) and tool.get("type", "function") == "function" else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if inner is None or not isinstance(name, str) or not _NAME.match(name):
        raise UsageError(
            f"tools[{index}] is no function with a name", next='{"type": "function", "function": {"name": …}}'
        )
    parameters, about = inner.get("parameters"), inner.get("description")
    parameters = {"type": "object", "properties": {}} if parameters in (None, {}) else parameters
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise UsageError(f"tools[{index}].function.parameters must be a JSON schema of an object")
    if about is not None and not isinstance(about, str):
        raise UsageError(f"tools[{index}].function.description must be text")
    return Function(name, about or "", parameters)


def _chosen(functions: Sequence[Function], choice: Any) -> tuple[list[Function], bool]:
    """The functions that may be used, and whether one must be."""
    if choice in (None, "auto"):
        return list(functions), False
    if choice == "none":
        return [], False
    if choice == "required":
        return list(functions), True
    named = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    name = named.get("name") if isinstance(named, Mapping) else None
    found = [function for function in functions if function.name == name]
    if not found:
        raise UsageError("'tool_choice' must be none, auto, required or one of the offered functions")
    return found, True


def _check_contract(functions: Sequence[Function], forced: bool, info: Info) -> None:
    assert info.contract is not None
    field = info.contract["properties"].get("tools")
    if field is None:
        raise UsageError(
            f"the contract of {info.name!r} has no field 'tools': its replies use none", next="leave 'tools' out"
        )
    allowed = field.get("items", {}).get("enum")
    for function in functions:
        if allowed is not None and function.name not in allowed:
            what = f"the contract of {info.name!r} does not know the function {function.name!r}"
            raise UsageError(what, next=f"it knows {', '.join(allowed)}")
        if function.parameters.get("required"):
            what = f"the contract of {info.name!r} names functions without arguments; {function.name!r} needs some"
            raise UsageError(what, next="offer functions that need no arguments")
    if forced and not field.get("minItems"):
        raise UsageError(
            f"the contract of {info.name!r} decides which functions are used; none can be forced",
            next="send tool_choice: auto or none",
        )
