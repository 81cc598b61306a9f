"""``holdfast chat|serve|verify``: the runtime's own command line. The toolkit's CLI calls the same functions."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import EXIT_FAILURE, EXIT_INTERRUPTED, HoldfastError, UsageError
from .reply import LONGEST_WAIT
from .values import MOST_THREADS, from_text

if TYPE_CHECKING:
    from .reply import Reply
    from .session import Session

app = typer.Typer(
    help="Talk to, serve or verify a Holdfast bundle.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # which shows the values of variables, hence what somebody wrote
    context_settings={"help_option_names": ["-h", "--help"]},
)


def chat(
    bundle: Path,
    *,
    message: str | None = None,
    facts: Mapping[str, Any] | None = None,
    system: str | None = None,
    max_tokens: int = 256,
    enforce: bool = True,
    as_json: bool = False,
    template: str | None = None,
) -> None:
    """One question (``message``), or a conversation on the terminal, or one question from a pipe. Facts that are texts
    are read as the rule file declares them."""
    from .session import load

    options: dict[str, Any] = {"max_tokens": max_tokens, "enforce": enforce}
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may write what a terminal cannot show
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read()
    if message is not None and not (message := message.strip()):
        raise UsageError("nothing was asked", next="give a question by -m or on stdin")
    with load(bundle, slots=1, template=template) as session:
        facts = as_declared(facts or {}, session.info.facts)
        head = [{"role": "system", "content": system}] if system else []
        if message is not None:
            reply = session.chat([*head, {"role": "user", "content": message}], facts, **options)
            _show(reply, as_json=as_json)
        else:
            _converse(session, head, facts, options, as_json=as_json)


def _converse(
    session: Session, said: list[dict[str, str]], facts: Mapping[str, Any] | None, options: Any, *, as_json: bool
) -> None:
    print(f"{session.name} on {session.backend}. Empty line or Ctrl-D ends.", file=sys.stderr)
    while words := _ask():
        said.append({"role": "user", "content": words})
        reply = session.chat(said, facts, **options)
        said.append({"role": "assistant", "content": reply.raw})
        _show(reply, as_json=as_json)


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _show(reply: Reply, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(as_dict(reply), ensure_ascii=False))
        return
    print(reply.text)
    notes = [f"{name} {reply.fields[name]}" for name in ("action", "priority", "queue") if name in (reply.fields or {})]  # type: ignore[index]
    notes += list(reply.interventions)
    notes.append(f"{reply.usage.completion_tokens} tokens, first after {reply.timings.ttft_ms:.0f} ms")
    print(f"[{' · '.join(notes)}]", file=sys.stderr)


def as_dict(reply: Reply) -> dict[str, Any]:
    """A reply as JSON values."""
    from dataclasses import asdict

    return {
        "text": reply.text,
        "raw": reply.raw,
        "fields": dict(reply.fields) if reply.fields is not None else None,
        "rules": [{"rule": v.rule, "severity": v.severity, "passed": v.passed, "why": v.why} for v in reply.report],
        "interventions": list(reply.interventions),
        "finish_reason": reply.finish_reason,
        "usage": asdict(reply.usage),
        "timings": asdict(reply.timings),
    }


def verify(bundle: Path, *, as_json: bool = False, test: bool = True) -> None:
    """Check a bundle's layout, hashes and golden prompts; raises ArtifactError naming the culprit."""
    from dataclasses import asdict

    from .session import verify as check

    report = check(bundle, test=test)
    if as_json:
        print(json.dumps(asdict(report)))
        return
    print(f"{report.name}: {report.files} files, {report.size_bytes / 1e6:.1f} MB, all as in the manifest")
    print(f"golden prompts: {report.golden} answered as expected" + (" (not asked)" if not test else ""))
    print(f"proof: {report.verdict}" if report.proved else "proof: none (packaged without a gate)")


def as_declared(facts: Mapping[str, Any], declared: Mapping[str, Sequence[Any] | str]) -> dict[str, Any]:
    """Facts that came as texts, as a rule file declares them; what it does not declare stays a text."""
    return {name: from_text(value, declared.get(name, "text")) for name, value in facts.items()}


def parse_facts(facts: list[str]) -> dict[str, str]:
    """``name=value`` pairs; what the values mean is up to the rule file (`as_declared`)."""
    found: dict[str, str] = {}
    for fact in facts:
        name, separator, value = fact.partition("=")
        if not separator or not name:
            raise UsageError(f"--fact {fact!r} is not name=value", next="for example --fact tier=gold")
        if name in found:
            raise UsageError(f"--fact {name} is given twice", next="give each fact once")
        found[name] = value
    return found


# ---- the command line ----

Bundle = Annotated[Path, typer.Argument(help="A bundle, a .gguf file or an onnxruntime-genai folder.")]
Template = Annotated[str | None, typer.Option(help="Chat template by name, where the model has several.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and the engine's log.")] = False,
) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


@app.command("chat")
def chat_command(
    bundle: Bundle,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Ask this and leave.")] = None,
    fact: Annotated[
        list[str] | None,
        typer.Option("--fact", metavar="NAME=VALUE", help="What is known of the customer (repeat), e.g. tier=gold."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt instead of the rules'.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens at most per reply.")] = 256,
    enforce: Annotated[bool, typer.Option(help="Enforce the bundle's rules.")] = True,
    template: Template = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a bundle."""
    chat(
        bundle,
        message=message,
        facts=parse_facts(fact or []),
        system=system,
        max_tokens=max_tokens,
        enforce=enforce,
        as_json=as_json,
        template=template,
    )


@app.command("serve")
def serve_command(
    bundle: Bundle,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    slots: Annotated[int, typer.Option(min=1, help="Replies decoded together.")] = 16,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait.")] = 64,
    threads: Annotated[int | None, typer.Option(min=1, max=MOST_THREADS, help="Decode threads.")] = None,
    context: Annotated[int | None, typer.Option(min=16, help="Tokens per conversation.")] = None,
    template: Template = None,
    key_file: Annotated[Path | None, typer.Option(help="API keys, one a line; read again when it changes.")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Origin whose pages may ask (repeat); * for all.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens that a reply may have.")] = None,
    max_body: Annotated[int | None, typer.Option(min=1, help="Bytes of a request (1 MiB).")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, max=LONGEST_WAIT, help="Seconds that a reply may take (120).")
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds on SIGTERM in which connections are taken.")
    ] = 0,
    fd: Annotated[int | None, typer.Option(min=0, help="Listen on this inherited socket instead.")] = None,
    isolate: Annotated[bool, typer.Option(help="Run the engine in a process of its own.")] = True,
    logs: Annotated[bool, typer.Option(help="Write a line of JSON per request to stderr.")] = True,
    kv: Annotated[str | None, typer.Option(help="f16 or q8_0: the type of llama.cpp's KV cache.")] = None,
    fallback: Annotated[str | None, typer.Option(help="Bundle or URL to ask where this one cannot help.")] = None,
    fallback_model: Annotated[str | None, typer.Option(help="Model's name at that URL (default).")] = None,
    fallback_for: Annotated[
        list[str] | None, typer.Option(metavar="CASE", help="escalated, refused or safe (repeat); all by default.")
    ] = None,
    fallback_budget: Annotated[int | None, typer.Option(min=1, help="Its tokens per hour.")] = None,
) -> None:
    """Serve the OpenAI chat API. API keys: environment variable HOLDFAST_API_KEYS, comma-separated."""
    from .server.command import serve

    serve(
        bundle,
        host=host,
        port=port,
        slots=slots,
        queue=queue,
        threads=threads,
        context=context,
        template=template,
        isolate=isolate,
        key_file=key_file,
        cors=cors_origin,
        fd=fd,
        grace=grace,
        logs=logs,
        kv=kv,
        fallback=fallback,
        fallback_model=fallback_model,
        fallback_for=fallback_for,
        fallback_budget=fallback_budget,
        max_tokens=max_tokens,
        body=max_body,
        timeout=timeout,
    )


@app.command("verify")
def verify_command(
    bundle: Bundle,
    test: Annotated[bool, typer.Option(help="Ask the golden prompts.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check a bundle from layout to golden prompts."""
    verify(bundle, as_json=as_json, test=test)


def main() -> None:
    """Entry point: errors are one message and the exit code of the error tree."""
    try:
        app()
    except HoldfastError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: unexpected {type(error).__name__}\n  next: run again with --debug in front", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
