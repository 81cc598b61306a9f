"""The checks of one candidate against the reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.artifact import Artifact
from compress.errors import ArtifactError
from export.checkpoint import Checkpoint
from export.parity import reading, words
from export.parity.answers import compare_answers
from export.parity.logits import Floats
from export.parity.prompts import TALKS, asked, plain
from export.parity.twin import Twin
from export.parity.weights import Stored, read_gguf, read_gptq, source_of, unexplained
from runtime.session import Session, find_model, load


@dataclass
class Check:
    """One comparison: ``difference`` is the first one that nothing explains."""

    name: str
    count: int
    """What was compared: conversations, texts, weights, positions …"""
    differences: list[str] = field(default_factory=list)
    figures: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """For parity.json."""
        return {
            "check": self.name,
            "passed": not self.differences,
            "compared": self.count,
            "different": len(self.differences),
            "first_difference": self.differences[0] if self.differences else None,
            **self.figures,
        }


@dataclass(frozen=True)
class Reference:
    """The model that all others are compared with, and what is asked."""

    name: str
    checkpoint: Checkpoint
    own: words.Words
    talks: Sequence[words.Messages]
    texts: Sequence[str]
    """Prompts that are no conversations."""
    rows: Sequence[Sequence[int]]
    """Token ids of the prompts, cut to ``length``."""
    few: int
    """On how many of them the runtime's arithmetic is imitated."""
    twin: Twin
    """The model in torch; it holds whichever weights are looked at."""
    logits: Mapping[int, Floats]
    """Of the first rows, the model's own."""


def compare(reference: Reference, artifact: Artifact, *, tokens: int, threads: int) -> list[Check]:
    """All checks of one candidate, with ``tokens`` greedy tokens."""
    if artifact.kind == "gptq":
        own = words.hugging_face(artifact.path)
        return [*_read_alike(reference, own, None), _hold_alike(reference, read_gptq(artifact.path), None, fed=True)]
    path, twin = find_model(artifact.path)[1], reference.twin
    twin.empty()
    context = max(map(len, reference.rows)) + tokens
    with load(artifact.path, threads=threads, context=context) as session:
        own = words.gguf(path, session) if artifact.kind == "gguf" else words.onnx(path, session)
        checks = _read_alike(reference, own, path if artifact.kind == "gguf" else None)
        stored = _weights(path, artifact.kind, reference.checkpoint)
        checks.append(_hold_alike(reference, stored, twin, fed=artifact.facts.get("feedback") != "off"))
        if checks[-1].differences and not twin.filled:
            return checks  # without all weights there is nothing to run
        checks += _say_alike(reference, twin, session, tokens)
    return checks


def _weights(path: Path, kind: str, reference: Checkpoint) -> Iterable[Stored]:
    if kind == "gguf":
        return read_gguf(path, reference)
    from export.parity.onnx import read_onnx

    return read_onnx(path, reference)


def _read_alike(reference: Reference, own: words.Words, gguf: Path | None) -> list[Check]:
    """Template, token ids, special tokens, end tokens."""
    theirs = reference.own
    talks = [*TALKS, *reference.talks, *map(asked, reference.talks)]
    texts = list(_texts(reference, own))
    ids = list(reading.token_ids(own, theirs, texts))
    figures = {}
    if gguf is not None:
        figures = {"probes": 0}
        try:
            figures["probes"] = reading.probe(gguf, reference.checkpoint)
        except ArtifactError as error:
            ids.append(error.what)
    return [
        Check("template", len(talks) * len(theirs.templates), list(reading.templates(own, theirs, talks))),
        Check("token ids", len(texts), ids, figures),
        Check("special tokens", len(theirs.control), list(reading.special_tokens(own, theirs))),
        Check("end tokens", len(theirs.ends), list(reading.end_tokens(own, theirs)), _extra_stops(own, theirs)),
    ]


def _texts(reference: Reference, own: words.Words) -> Iterator[tuple[str, str]]:
    """Prompts as the reference and as a candidate has them: a candidate may render spaces otherwise."""
    for talk in map(asked, reference.talks):
        if reference.own.template is None:
            yield plain(talk), plain(talk)
        elif (expected := reference.own.render(talk, True, None)) is not None:
            yield expected, own.render(talk, True, None) or expected
    yield from zip(reference.texts, reference.texts, strict=True)


def _extra_stops(own: words.Words, theirs: words.Words) -> dict[str, Any]:
    """Tokens at which the runtime stops of its own accord (llama.cpp knows some by their text)."""
    return {"also_stops_at": sorted(own.stops - theirs.ends)}


def _hold_alike(reference: Reference, weights: Iterable[Stored], twin: Twin | None, *, fed: bool) -> Check:
    """Every weight against the reference's, by its type; they go into ``twin`` on the way. ``fed``: errors may have
    been fed back (a file without a record may have been made by anyone)."""
    check = Check("weights", 0)
    worst: dict[str, float] = {}
    try:
        for stored in weights:
            source = source_of(reference.checkpoint, stored.name)
            error, difference = unexplained(stored, source, fed=fed)
            worst[stored.kind] = max(worst.get(stored.kind, 0.0), error)
            check.count += 1
            check.differences += [difference] if difference else []
            if twin is not None and stored.values.shape == source.shape:
                twin.put(stored)
        if twin is not None:
            twin.complete()
    except ArtifactError as error:
        check.differences.insert(0, error.what)
    check.figures = {"largest_row_error": {kind: float(f"{value:.4g}") for kind, value in sorted(worst.items())}}
    return check


def _say_alike(reference: Reference, twin: Twin, session: Session, tokens: int) -> list[Check]:
    """Logits and greedy tokens."""
    room = session.engine.context - tokens
    rows = [row[:room] for row in reference.rows]
    how: dict[str, Any] = {"ends": reference.own.ends, "count": tokens, "few": reference.few}
    found = compare_answers(twin, session, rows, reference.logits, **how)
    return [
        Check("logits", found.gap.positions, found.logits, found.figures),
        Check("greedy", len(rows), found.greedy, {"tokens": tokens, "near_ties": found.near_ties}),
    ]
