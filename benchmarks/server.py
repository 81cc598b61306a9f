"""What the server costs and how soon it says no: python benchmarks/server.py MODEL [--threads N] [--rounds N]

In one run, on one machine: tokens per second of one conversation in process, with the engine in a process of its own,
and over HTTP whole and streamed (each way with an engine of its own; rounds in turn, medians; the same questions for
all, another in each round, for a reply that was given before is drafted); milliseconds until a full queue is refused;
until the engine rests after a client left its stream; from the engine's death to the error of whoever waited, and to
the next answer; seconds from the command to the open port, beside those of loading alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from served import Served, served, wait_until  # noqa: E402

from runtime import load, load_isolated  # noqa: E402

SAID = [{"role": "user", "content": "Write a long story about a lighthouse and the people who keep it."}]
TOKENS = 200
REST = 5
"""Seconds in which the engines measure what drafts cost, each for itself."""


def rates(model: Path, threads: int, rounds: int) -> dict[str, float]:
    """Tokens per second of one conversation, each way in turn."""
    with (
        load(model, threads=threads, slots=1) as here,
        load_isolated(model, threads=threads, slots=1) as there,
        served(model, "--slots", "1", "--threads", str(threads), "--no-logs") as one,
        served(model, "--slots", "1", "--threads", str(threads), "--no-logs") as other,
        httpx.Client(timeout=300) as client,
    ):
        route = "/v1/chat/completions"

        def whole(body: dict[str, Any]) -> int:
            return int(client.post(one.url + route, json=body).json()["usage"]["completion_tokens"])

        def streamed(body: dict[str, Any]) -> int:
            more = {"stream": True, "stream_options": {"include_usage": True}}
            with client.stream("POST", other.url + route, json=body | more) as reply:
                events = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
            return int(events[-1]["usage"]["completion_tokens"])

        ways: dict[str, Callable[[dict[str, Any]], int]] = {
            "in process": lambda body: here.chat(**body).usage.completion_tokens,
            "own process": lambda body: there.chat(**body).usage.completion_tokens,
            "HTTP": whole,
            "HTTP, streamed": streamed,
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        order = random.Random(0)
        for number in range(rounds + 1):
            said = [{"role": "user", "content": f"{SAID[0]['content']} They have {number + 2} lamps."}]
            for name, way in order.sample(list(ways.items()), len(ways)):
                started = time.perf_counter()
                made = way({"messages": said, "max_tokens": TOKENS})
                if number:  # the first round warms up
                    found[name].append(made / (time.perf_counter() - started))
            if not number:
                time.sleep(REST)
    return {name: statistics.median(rates) for name, rates in found.items()}


def endless(length: int = 900) -> dict[str, Any]:
    schema = {"type": "string", "minLength": length, "maxLength": length}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    return {"messages": SAID, "max_tokens": 1000, "temperature": 1.0, "response_format": form}


def refusals(server: Served, times: int) -> list[float]:
    """Milliseconds until a full queue (1 runs, 1 waits) says no."""
    filling = [server.leave_open(**endless()) for _ in range(2)]
    wait_until(lambda: server.busy == 2, 60)
    found = []
    with httpx.Client(timeout=60) as client:
        while len(found) < times and server.busy == 2:
            started = time.perf_counter()
            assert client.post(f"{server.url}/v1/chat/completions", json={"messages": SAID}).status_code == 429
            found.append(1e3 * (time.perf_counter() - started))
    for one in filling:
        one.close()
    wait_until(lambda: server.busy == 0, 60)
    return found


def departures(server: Served, times: int) -> list[float]:
    """Milliseconds from the end of a streaming client's connection until the engine rests."""
    found = []
    for _ in range(times):
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json={**endless(), "stream": True}, timeout=60
        ) as one:
            lines = one.iter_lines()
            [next(lines) for _ in range(5)]
        started = time.perf_counter()
        while server.busy:
            pass
        found.append(1e3 * (time.perf_counter() - started))
    return found


def deaths(server: Served, times: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the engine's death to the error, and to the next answer."""
    errors, answers = [], []
    for _ in range(times):
        ended: list[float] = []
        waiting = threading.Thread(target=lambda: (server.ask(**endless()), ended.append(time.perf_counter())))  # noqa: B023
        waiting.start()
        wait_until(lambda: server.busy == 1, 60)
        os.kill(server.engine, signal.SIGKILL)
        killed = time.perf_counter()
        waiting.join()
        errors.append(1e3 * (ended[0] - killed))
        while server.ask(max_tokens=1).status_code != 200:
            time.sleep(0.01)
        answers.append(1e3 * (time.perf_counter() - killed))
    return errors, answers


def told(name: str, found: list[float], unit: str = "ms") -> None:
    most = sorted(found)[int(0.99 * (len(found) - 1))]
    print(f"{name:46} median {statistics.median(found):8.1f} {unit}   p99 {most:8.1f} {unit}   n {len(found)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(f"{given.model.name}, {given.threads} threads, {os.cpu_count()} CPUs, {platform.machine()}")
    found = rates(given.model, given.threads, given.rounds)
    for name, rate in found.items():
        print(f"{name:46} {rate:8.1f} tokens/s   {rate / found['in process']:.3f} of in process")
    started = time.perf_counter()
    load(given.model, threads=given.threads, slots=1).close()
    alone = time.perf_counter() - started
    started = time.perf_counter()
    with served(given.model, "--slots", "1", "--queue", "1", "--threads", str(given.threads), "--no-logs") as server:
        took = time.perf_counter() - started
        print(f"{'from the command to the open port':46} {took:8.2f} s (loading in process {alone:.2f} s)")
        told("a full queue is refused", refusals(server, 50 * given.rounds))
        told("the engine rests after a client left", departures(server, 4 * given.rounds))
        errors, answers = deaths(server, 2 * given.rounds)
        told("the engine's death to the error", errors)
        told("the engine's death to the next answer", answers)


if __name__ == "__main__":
    main()
