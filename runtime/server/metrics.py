"""Prometheus metrics of a server. Labels never hold prompt text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ..engine.text import whole

if TYPE_CHECKING:
    from ..engine.scheduler import Scheduler
    from ..reply import Reply

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class _Engine:
    """Reads the scheduler when the page is asked for, so that decoding pays nothing."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterator[Any]:
        counters = self._scheduler.counters
        for name, value, text in (
            ("queue_depth", self._scheduler.depth, "Requests waiting for a slot"),
            ("running", self._scheduler.running, "Requests that hold a slot"),
            ("kv_tokens", self._scheduler.held_tokens, "Tokens in the KV caches"),
        ):
            yield GaugeMetricFamily(f"holdfast_{name}", text, value)
        for name, value, text in (
            ("prompt_tokens", counters.prompt_tokens, "Prompt tokens"),
            ("prefix_tokens", counters.reused_tokens, "Prompt tokens taken from a kept prefix"),
            ("reply_tokens", counters.reply_tokens, "Reply tokens"),
            ("steps", counters.steps, "Batches decoded"),
            ("rejected", counters.rejected, "Requests refused because the queue was full"),
        ):
            yield CounterMetricFamily(f"holdfast_{name}", text, value)


class Metrics:
    """The metrics of one server."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engine(scheduler))
        self.responses = Counter("holdfast_responses", "Responses by status", ["status"], registry=self._registry)
        self._ttft = Histogram("holdfast_ttft_seconds", "To the first token", buckets=_SECONDS, registry=self._registry)
        self._token = Histogram(
            "holdfast_inter_token_seconds",
            "Mean time between tokens of a reply",
            buckets=(0.0005, 0.001, 0.0025, *_SECONDS),
            registry=self._registry,
        )
        self._interventions = Counter(
            "holdfast_interventions", "What enforcement did", ["what"], registry=self._registry
        )
        self._escalations = Counter("holdfast_escalations", "Escalations by queue", ["queue"], registry=self._registry)

    def note(self, reply: Reply) -> None:
        """Count one finished reply."""
        self._ttft.observe(reply.timings.ttft_ms / 1e3)
        if reply.timings.tokens_per_s > 0:
            self._token.observe(1 / reply.timings.tokens_per_s)
        for what in reply.interventions:
            self._interventions.labels(what).inc()
        if reply.action == "escalate":
            self._escalations.labels(whole(reply.queue or "none")).inc()

    def page(self) -> bytes:
        """The text of ``/metrics``."""
        return generate_latest(self._registry)
