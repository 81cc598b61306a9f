"""YAML with the line of every key, from text that nobody has vouched for.

Only mappings, lists, texts, numbers, true/false and null. Anchors, aliases and tags are refused
(they make small files huge), and so are doubled keys, files over 1 MiB and nesting over 40 levels.
"""

from __future__ import annotations

from typing import Any

MAX_BYTES, MAX_DEPTH = 1 << 20, 40
Place = tuple[str | int, ...]


class YamlError(ValueError):
    """``line`` counts from 1."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def read(text: str) -> tuple[Any, dict[Place, int], list[YamlError]]:
    """The value, the line of every path in it, and problems that do not stop the reading (doubled keys).

    Raises YamlError for a text that cannot be read at all.
    """
    import yaml

    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise YamlError(1, f"the file is larger than {MAX_BYTES // 1024} KiB")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _scan(yaml, text, loader)
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise YamlError(
            line, f"not valid YAML: {error.problem or error}{_hint(text, line, str(error.problem))}"
        ) from None
    except yaml.YAMLError as error:
        raise YamlError(1, f"not valid YAML: {str(error).splitlines()[0]}") from None
    if node is None:
        raise YamlError(1, "the file is empty")
    builder = _Builder(yaml)
    return builder.build(node, ()), builder.lines, builder.problems


def _hint(text: str, line: int, problem: str) -> str:
    shown = text.splitlines()[line - 1] if line <= len(text.splitlines()) else ""
    if "\t" in shown[: len(shown) - len(shown.lstrip())]:
        return " (a tab; indent with spaces)"
    return " (put quotes around a text with a colon)" if "mapping values are not allowed" in problem else ""


def _scan(yaml: Any, text: str, loader: Any) -> None:
    """Walk the events without recursion, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError(line, "anchors and aliases (& and *) are not allowed; write the value out")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            raise YamlError(line, f"tags are not allowed ({event.tag})")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise YamlError(line, f"nested deeper than {MAX_DEPTH} levels")


class _Builder:
    def __init__(self, yaml: Any) -> None:
        self.yaml = yaml
        self.constructor = yaml.constructor.SafeConstructor()
        self.lines: dict[Place, int] = {}
        self.problems: list[YamlError] = []

    def build(self, node: Any, path: Place) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, self.yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, self.yaml.SequenceNode):
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: Any, path: Place) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, self.yaml.ScalarNode):
                self.problems.append(YamlError(line, "a key is a list or a mapping; keys are texts"))
                continue
            key = key_node.value  # as written: `on:` and `no:` are keys, not booleans
            if key in value:
                self.problems.append(YamlError(line, f"key {key!r} is given twice"))
            self.lines[(*path, key)] = line
            value[key] = self.build(child, (*path, key))
        return value

    def _scalar(self, node: Any) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind not in ("bool", "float", "int", "null"):
            return node.value  # dates stay as written
        try:
            return self.constructor.construct_object(node)
        except ValueError:
            return node.value
