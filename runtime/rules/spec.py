"""The shape of a rule file, and the collector that turns every fault into one line with its place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from .kinds import Args, OneOrMore, Regex, listed
from .yaml import Place

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,39}$")]


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | int | float | bool) or value != value:  # NaN
        raise ValueError("is not a text, number or true/false")
    return value


Plain = str | int | float | bool
Scalar = Annotated[Any, AfterValidator(_scalar)]
Scalars = Annotated[list[Scalar], BeforeValidator(listed, Plain | list[Plain]), Field(min_length=1)]


class TurnBounds(Args):
    """``turn: 1`` or ``turn: {min: 2}``: which user message this is, counting from 1."""

    short: ClassVar[Any] = Annotated[int, Field(ge=1)]
    min: Annotated[int, Field(ge=1)] = 1
    max: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _exactly(cls, value: Any) -> Any:
        return {"min": value, "max": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _ordered(self) -> TurnBounds:
        if self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self


class WhenSpec(Args):
    """All that is given must hold."""

    facts: dict[str, Scalars] = Field(default_factory=dict)
    """Fact -> the value, or the values of which it has one."""
    user_regex: Regex = None
    """What the last user message matches (RE2, any case)."""
    any_user_regex: Regex = None
    """What one of the user messages matches."""
    turn: TurnBounds | None = None
    """How many user messages there are so far."""
    label: OneOrMore | None = None
    """The turn carries one of these labels."""
    labels: OneOrMore | None = None
    """The turn carries all of these labels."""
    has_sources: bool | None = None
    """Whether documents were retrieved, or stand in the prompt as ``[id] text``."""
    not_: WhenSpec | None = Field(None, alias="not")
    """This does not hold."""
    any: list[WhenSpec] | None = Field(None, min_length=1)
    """One of these holds."""
    all: list[WhenSpec] | None = Field(None, min_length=1)
    """All of these hold."""


class SourceSpec(Args):
    id: str
    text: str


class FixtureSpec(Args):
    """A turn and, for ``pass`` and ``fail``, a reply to it."""

    user: str | None = None
    """The customer's message; or ``messages``."""
    messages: list[dict[str, str]] | None = None
    system: str | None = None
    facts: dict[str, Scalar] = Field(default_factory=dict)
    labels: OneOrMore | None = None
    sources: list[SourceSpec] = Field(default_factory=list)
    prompted: list[str] = Field(default_factory=list)
    reply: Any = None
    """A text, or the contract fields that matter."""
    raw: str | None = None
    """The reply as the model would write it."""

    @model_validator(mode="after")
    def _one_turn(self) -> FixtureSpec:
        if (self.user is None) == (self.messages is None):
            raise ValueError("give either user (one message) or messages")
        return self


class FixturesSpec(Args):
    """How the rule proves itself when the file is loaded."""

    passing: list[FixtureSpec] = Field(default_factory=list, alias="pass")
    """Replies that keep the rule; at least one."""
    fail: list[FixtureSpec] = Field(default_factory=list)
    """Replies that break it; at least one."""
    inactive: list[FixtureSpec] = Field(default_factory=list)
    """Turns in which it is not in force."""


class RuleSpec(Args):
    """One testable obligation."""

    id: Identifier
    """Its name: letters, digits, ``.``, ``_``, ``-``."""
    severity: Literal["hard", "soft"]
    """``hard``: enforced by the runtime; ``soft``: measured only."""
    text: str = ""
    """The rule in words, for the system prompt."""
    margin: Annotated[float, Field(gt=0, lt=1, strict=True, allow_inf_nan=False)] | None = None
    """How much worse a candidate may be on it, as a share of its items."""
    optional: bool = False
    """In force only in turns whose system prompt names it."""
    unless: OneOrMore | None = None
    """Not in force where one of these rules is."""
    when: WhenSpec = Field(default_factory=lambda: WhenSpec.model_validate({}))
    """In force only where all of this holds."""
    must: dict[str, Any] = Field(default_factory=dict)
    """What a reply must do: rule kinds and contract fields."""
    must_not: dict[str, Any] = Field(default_factory=dict)
    """What must not be found in a reply."""
    fallback: dict[str, Any] | str | None = None
    """What this rule wants otherwise in the safe reply."""
    fixtures: FixturesSpec = Field(default_factory=lambda: FixturesSpec.model_validate({}))
    """How the rule proves itself when the file is loaded."""


class PromptSpec(Args):
    """The system prompt and the safe reply."""

    system: str = ""
    """``{fact}`` is filled in, ``{rules}`` becomes the texts of the rules that are named."""
    fallback: dict[str, Any] | str | None = None
    """What is sent when a hard rule stays broken: a reply object, or a text without a contract."""


SECTIONS: dict[str, Any] = {
    "version": TypeAdapter(Literal[1]),
    "contract": TypeAdapter(dict[Name, Any]),
    "labels": TypeAdapter(OneOrMore),
    "facts": TypeAdapter(dict[Name, Annotated[list[Scalar] | str, Field(min_length=1)]]),
    "prompt": TypeAdapter(PromptSpec),
    "rules": TypeAdapter(Annotated[list[Any], Field(min_length=1)]),
}
RULE = TypeAdapter(RuleSpec)


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or what is known when nothing is near."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(options)})"


class Problems:
    """Collects ``line N: place: what``."""

    def __init__(self, lines: Mapping[Place, int]) -> None:
        self.lines = lines
        self.found: list[tuple[int, str]] = []

    def add(self, path: Place, what: str, label: str = "") -> None:
        """Note a problem at ``path``; its line is that of the nearest ancestor which stands in the file."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        place = label or dotted(path)
        self.found.append((self.lines.get(known, 1), f"{place}: {what}" if place else what))

    def sorted(self) -> list[str]:
        """Every problem once, in the order of lines."""
        return [f"line {line}: {what}" for line, what in sorted(dict.fromkeys(self.found))]

    def validate(self, adapter: TypeAdapter[Any], value: Any, path: Place, model: type[BaseModel] | None = None) -> Any:
        """The validated value, or None after noting what is wrong with it."""
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                location = tuple(part for part in fault["loc"] if not str(part).startswith(("dict[", "[key]", "list[")))
                self.add((*path, *location), _explain(fault, model))
        except ValueError as error:
            self.add(path, str(error))
        return None


def dotted(path: Place) -> str:
    """``rules[3].must.action``"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _explain(fault: Any, model: type[BaseModel] | None) -> str:
    kind, given = fault["type"], fault.get("input")
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(fault['loc'][-1]), keys_at(model, fault['loc'][:-1])) if model else ''}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    shown = repr(given)
    text = fault["msg"][0].lower() + fault["msg"][1:]
    hint = "; put quotes around it" if kind == "string_type" and isinstance(given, bool | int | float) else ""
    return f"{text} (got {shown if len(shown) <= 50 else shown[:47] + '...'}{hint})"


def keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys that may stand at ``location`` inside ``model``."""
    for part in location:
        if isinstance(part, int):
            continue
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        inner = _model_in(field.annotation) if field else None
        model = inner or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
