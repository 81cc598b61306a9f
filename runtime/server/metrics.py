"""Prometheus metrics of a server. Labels never hold prompt text.

Names follow vLLM's (``holdfast_`` in place of ``vllm:``) and, for histograms that it names, OpenTelemetry's semantic
conventions for generative AI (``gen_ai.server.*`` as Prometheus writes them). Both describe the same numbers, so that
dashboards made for either read them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from ..engine.gaps import GAPS
from ..engine.text import whole
from .fallback import OUTCOMES

if TYPE_CHECKING:
    from ..info import Info
    from ..reply import Reply
    from .host import Host

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
_GAP = "holdfast_inter_token_latency_seconds"
_STATES = ("ready", "restarting", "failed")
_GAUGES = {
    "running": ("running", "Requests that hold a slot"),
    "num_requests_running": ("running", "Requests that hold a slot"),
    "queue_depth": ("waiting", "Requests waiting for a slot"),
    "num_requests_waiting": ("waiting", "Requests waiting for a slot"),
    "kv_tokens": ("kv_tokens", "Tokens in the KV caches"),
}
_COUNTERS = {
    "prompt_tokens": ("prompt_tokens", "Prompt tokens"),
    "prefix_cache_queries": ("prompt_tokens", "Prompt tokens looked for among kept prefixes"),
    "prefix_cache_hits": ("reused_tokens", "Prompt tokens taken from a kept prefix"),
    "reply_tokens": ("reply_tokens", "Reply tokens"),
    "generation_tokens": ("reply_tokens", "Reply tokens"),
    "spec_decode_num_draft_tokens": ("drafted_tokens", "Tokens decoded before they were chosen"),
    "spec_decode_num_accepted_tokens": ("taken_tokens", "Of those, tokens that were then chosen"),
    "restored_tokens": ("restored_tokens", "Prompt tokens taken from a prefix kept over a restart"),
    "steps": ("steps", "Batches decoded"),
    "rejected": ("rejected", "Requests refused because the queue was full"),
    "engine_restarts": ("restarts", "Times that the engine's process was started again"),
}


def gen_ai(host: Host) -> dict[str, str]:
    """The labels that OpenTelemetry's conventions ask for."""
    return {"gen_ai_request_model": whole(host.name), "gen_ai_operation_name": "chat"}


class _Engine:
    """Reads the engine when the page is asked for, so that decoding pays nothing."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def collect(self) -> Iterator[Any]:
        figures, info = self._host.figures(), self._host.info
        for name, (key, text) in _GAUGES.items():
            yield GaugeMetricFamily(f"holdfast_{name}", text, figures.get(key, 0))
        held = figures.get("kv_tokens", 0) / (info.context * info.slots)
        yield GaugeMetricFamily("holdfast_kv_cache_usage_ratio", "Share of the KV caches that holds tokens", held)
        for name, (key, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"holdfast_{name}", text, figures.get(key, 0))
        counts = figures.get("gaps", [0] * (len(GAPS) + 1))
        buckets = list(zip([*map(str, GAPS), "+Inf"], accumulate(counts), strict=True))
        total = figures.get("gap_seconds", 0.0)
        for name, labels in ((_GAP, {}), ("gen_ai_server_time_per_output_token_seconds", gen_ai(self._host))):
            family = HistogramMetricFamily(name, "Between two tokens of a reply", labels=list(labels))
            family.add_metric(list(labels.values()), buckets=buckets, sum_value=total)
            yield family
        about = "Replies asked of the fallback, by outcome"
        asked = CounterMetricFamily("holdfast_fallbacks", about, labels=["outcome"])
        for outcome, times in figures.get("fallbacks", dict.fromkeys(OUTCOMES, 0)).items():
            asked.add_metric([outcome], times)
        yield asked
        state = GaugeMetricFamily("holdfast_engine_state", "1 for the state that the engine is in", labels=["state"])
        for known in _STATES:
            state.add_metric([known], float(self._host.state == known))
        yield state


class Metrics:
    """The metrics of one server."""

    def __init__(self, host: Host) -> None:
        self._registry = made = CollectorRegistry()
        made.register(_Engine(host))
        model = gen_ai(host)
        properties = (host.info.contract or {}).get("properties", {})
        self._closed = {name: frozenset(part.get("enum", ())) for name, part in properties.items()}
        """Fields whose values may be labels: there are only so many."""
        started = Gauge("process_start_time_seconds", "When the server was started", registry=made)
        started.set(time.time())
        self.responses = Counter("holdfast_responses", "Responses by status", ["status"], registry=made)

        def histogram(names: tuple[str, ...], text: str, buckets: tuple[float, ...]) -> list[Any]:
            ours = [Histogram(names[0], text, buckets=buckets, registry=made)]
            theirs = [Histogram(name, text, model, buckets=buckets, registry=made) for name in names[1:]]
            return [*ours, *(one.labels(**model) for one in theirs)]

        self._ttft = histogram(
            ("holdfast_time_to_first_token_seconds", "gen_ai_server_time_to_first_token_seconds"),
            "From a request's arrival in the queue to its first token",
            _SECONDS,
        )
        self._all = histogram(
            ("holdfast_e2e_request_latency_seconds", "gen_ai_server_request_duration_seconds"),
            "From a request's head to the end of its answer",
            _SECONDS,
        )
        self._waited = histogram(("holdfast_request_queue_time_seconds",), "Waiting for a slot", _SECONDS)
        self._prompt = histogram(("holdfast_request_prompt_tokens",), "Tokens of a prompt", _TOKENS)
        self._reply = histogram(("holdfast_request_generation_tokens",), "Tokens of a reply", _TOKENS)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"holdfast_{name}", text, labels, registry=made)

        self._ended = counter("request_success", "Finished replies by reason", "finished_reason")
        self._interventions = counter("interventions", "What enforcement did, and for which rule", "action", "rule")
        self._broken = counter("rule_violations", "Rules that replies which were sent broke", "rule", "severity")
        self._escalations = counter("escalations", "Escalations by queue", "queue")
        self._priorities = counter("priorities", "Replies by priority", "priority")
        self._actions = counter("actions", "Replies by action", "action")

        self._begin(host.info)

    def _begin(self, info: Info) -> None:
        """Every label that is known starts at 0: Prometheus does not see a counter that is born with 1 rise."""
        for rule in info.rules:
            self._broken.labels(rule.id, rule.severity)
        for action in ("cut", "retry", "template", "unsafe"):
            for name in ("contract", *(rule.id for rule in info.rules if rule.severity == "hard")):
                self._interventions.labels(action, name)
        for name in self._closed if info.rules else ():
            self._interventions.labels("set", name)
        for counted, name in ((self._actions, "action"), (self._priorities, "priority"), (self._escalations, "queue")):
            for value in self._closed.get(name, ()):
                counted.labels(value)
        for reason in ("stop", "length"):
            self._ended.labels(reason)
        for status in ("200", "400", "429", "500", "503"):
            self.responses.labels(status)

    def note(self, reply: Reply) -> None:
        """Count one finished reply."""
        timings, usage = reply.timings, reply.usage
        _observe(self._ttft, timings.ttft_ms / 1e3)
        _observe(self._prompt, usage.prompt_tokens)
        _observe(self._reply, usage.completion_tokens)
        _observe(self._waited, timings.queue_ms / 1e3)
        self._ended.labels(reply.finish_reason).inc()
        for what in reply.interventions:
            action, _, rule = what.partition(":")
            self._interventions.labels(action, rule).inc()
        for verdict in reply.report:
            if not verdict.passed:
                self._broken.labels(verdict.rule, verdict.severity).inc()
        for name, counted in (("action", self._actions), ("priority", self._priorities)):
            if (value := getattr(reply, name)) in self._closed.get(name, ()):
                counted.labels(whole(value)).inc()
        if reply.action == "escalate":
            queue = reply.queue if reply.queue in self._closed.get("queue", ()) else None
            self._escalations.labels(whole(queue or "none")).inc()

    def close(self, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.responses.labels(str(status)).inc()
        _observe(self._all, seconds)

    def page(self) -> bytes:
        """The text of ``/metrics``."""
        return generate_latest(self._registry)


def _observe(histograms: list[Any], value: float) -> None:
    for one in histograms:
        one.observe(value)
