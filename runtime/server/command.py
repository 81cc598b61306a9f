"""``serve``: from its options to a server that runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from ..isolated import IsolatedSession, Loading
    from ..session import Session
    from .fallback import Target
    from .host import Host
    from .keys import Keys

KEYS_VARIABLE, FALLBACK_VARIABLE = "HOLDFAST_API_KEYS", "HOLDFAST_FALLBACK_KEY"
log = logging.getLogger(__name__)


def serve(
    bundle: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    slots: int = 16,
    queue: int = 64,
    threads: int | None = None,
    context: int | None = None,
    keys: list[str] | None = None,
    template: str | None = None,
    isolate: bool = True,
    key_file: Path | None = None,
    cors: list[str] | None = None,
    fd: int | None = None,
    grace: float = 0.0,
    logs: bool = True,
    kv: str | None = None,
    fallback: str | None = None,
    fallback_model: str | None = None,
    fallback_for: list[str] | None = None,
    fallback_budget: int | None = None,
    **limits: Any,
) -> None:
    """Serve until SIGTERM. API keys come from ``keys`` or the variable HOLDFAST_API_KEYS (comma-separated), and from
    ``key_file``. ``isolate``: the engine in a process of its own, which is started again when it crashes; ``limits``:
    see `server.limits.Limits`. ``fallback``: a bundle, or the base URL of an OpenAI-compatible server (its key in
    HOLDFAST_FALLBACK_KEY), that is asked where this one escalates, refuses or sends its safe reply."""
    for module in ("httpx", "prometheus_client", "starlette", "uvicorn"):
        if find_spec(module) is None:
            raise MissingExtra(module, "serve")
    from ..isolated import Loading
    from .limits import Limits
    from .logs import to_stderr
    from .origins import origins
    from .sockets import inherited, reserved

    listening = reserved(host, port) if fd is None else inherited(fd)
    cors, with_fallback = origins(cors or ()), _fallback(fallback, fallback_model, fallback_for, fallback_budget)
    if logs:
        to_stderr()
    given = _keys(keys, key_file, host)
    how = Loading(slots=slots, queue=queue, threads=threads, context=context, template=template, kv=kv)
    bounds = Limits(**{name: value for name, value in limits.items() if value is not None})
    with ExitStack() as stack:
        stack.callback(listening.close)
        pool = stack.enter_context(ThreadPoolExecutor(1, "holdfast-load"))
        loading = pool.submit(_open, bundle, how, isolate=isolate)
        from .serve import run_server  # takes a while, in which the model is loaded

        opened = loading.result()
        stack.callback(opened.close)
        run_server(
            with_fallback(opened, stack),
            listening,
            keys=given,
            cors=cors,
            limits=bounds,
            grace=grace,
            started=_announce,
        )


def _keys(given: list[str] | None, file: Path | None, host: str) -> Keys:
    from .keys import Keys

    keys = Keys(given or os.environ.get(KEYS_VARIABLE, "").split(","), file=file)
    if not keys.required and host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("serving on %s without API keys: anybody who reaches it may ask", host)
    return keys


def _open(bundle: Path, how: Loading, *, isolate: bool) -> IsolatedSession | Session:
    from ..isolated import load_isolated

    if isolate:
        return load_isolated(bundle, **how)
    from ..session import load

    return load(bundle, **how)


def _fallback(
    given: str | None, model: str | None, names: list[str] | None, budget: int | None
) -> Callable[[Host, ExitStack], Host]:
    """Puts the fallback around a session, or nothing; what is wrong with its options is said before anything loads."""
    from .fallback import Budget, Fallback, WithFallback, reasons_of

    reasons = reasons_of(names)
    if given is None:
        if names or model or budget:
            raise UsageError("it is said how to ask a fallback, and not whom", next="give --fallback BUNDLE or URL")
        return lambda session, _: session
    url = _fallback_url(given, model)

    def around(session: Host, stack: ExitStack) -> Host:
        if not session.info.rules:
            log.warning("the model has no rules: the fallback is never asked")
        target = url or _bundle(Path(given), stack)
        return WithFallback(session, Fallback(target, reasons, Budget(budget)))

    return around


def _fallback_url(given: str, model: str | None) -> Target | None:
    """The server to ask; None where a bundle is given."""
    from .fallback import UrlTarget

    if given.lower().startswith(("http://", "https://")):
        return UrlTarget(given, model or "default", os.environ.get(FALLBACK_VARIABLE, "").strip())
    if not given or "://" in given:
        raise UsageError(f"--fallback {given!r} is neither a bundle nor an http URL", next="give one of them")
    if model is not None:
        raise UsageError("--fallback-model is for a URL, and --fallback is a bundle", next="leave it out")
    return None


def _bundle(given: Path, stack: ExitStack) -> Target:
    from ..isolated import load_isolated
    from .fallback import BundleTarget

    return BundleTarget(stack.enter_context(load_isolated(given)))


def _announce(url: str) -> None:
    print(f"serving on {url}/v1", flush=True)
