"""OpenAI-compatible servers side by side: ours, xllamacpp's (llama.cpp's own server) and llama-cpp-python's.

    python benchmarks/clients.py MODEL.gguf --data eval.jsonl [--xllamacpp PYTHON] [--llama-cpp-python PYTHON]
        [--threads 2] [--clients 1 4 16] [--tokens 64] [--rounds 5] [--json]

Each server is a process of its own with as many slots as there are clients at most (llama-cpp-python's has one),
greedy, on the same file. In each round they answer in turn; a client sends its next conversation when it has its reply.
Rows of DATA are ``{"messages"}``; all share their system message, if any. Tokens are those that a server counts. Then
the gaps between a stream's tokens, in quiet and from the moment that another client sends a long prompt until it has
its first token; seconds from the command to the first reply; memory of the process and its children (VmHWM, added up).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
SLOT = 2560
"""Context of a slot, tokens."""
LONG, STORY = 2000, "Write a long story about a lighthouse and the people who keep it."
"""Words of the long prompt, about a token each; what the stream that it disturbs was asked."""
LEAST, REST = 12, 5
"""Conversations of a round at least; seconds after the first, in which ours measures what drafts cost."""
OURS = "import sys; sys.path.insert(0, {root!r}); from runtime.cli import main; main()"
XLLAMACPP = """
import sys, threading, xllamacpp
model, port, threads, slots, context = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path, params.port, params.hostnames = model, port, ["127.0.0.1"]
params.n_parallel, params.n_ctx = slots, slots * context
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)
threading.Event().wait()
"""


@dataclass(frozen=True)
class Side:
    """A running server."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    ready: float
    """Seconds from the command to the first reply."""
    slots: int

    def ask(self, client: httpx.Client, messages: Sequence[Any], tokens: int) -> int:
        """Tokens of a reply."""
        body = {"model": "x", "messages": messages, "max_tokens": tokens, "temperature": 0}
        reply = client.post(f"{self.url}/v1/chat/completions", json=body)
        reply.raise_for_status()
        return int(reply.json()["usage"]["completion_tokens"])

    def stream(self, client: httpx.Client, messages: Sequence[Any], tokens: int) -> Iterator[float]:
        """The moments at which a reply's pieces come."""
        body = {"model": "x", "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
        with client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    yield time.perf_counter()

    def peak_mb(self) -> float:
        """Peak memory of the process and what it started."""
        found, waiting = 0.0, [self.process.pid]
        while waiting:
            pid = waiting.pop()
            status = Path(f"/proc/{pid}/status").read_text()
            found += int(status.split("VmHWM:")[1].split()[0]) / 1024
            for thread in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
        return found


def commands(given: argparse.Namespace, port: int, slots: int) -> dict[str, list[str]]:
    """How each server is started."""
    model, threads = str(given.model), str(given.threads)
    ours = [sys.executable, "-c", OURS.format(root=str(ROOT)), "serve", model, "--port", str(port), "--no-logs"]
    found = {"Holdfast": [*ours, "--threads", threads, "--slots", str(slots), "--context", str(SLOT)]}
    if given.xllamacpp:
        found["xllamacpp"] = [given.xllamacpp, "-c", XLLAMACPP, model, str(port), threads, str(slots), str(SLOT)]
    if given.llama_cpp_python:
        peer = [given.llama_cpp_python, "-m", "llama_cpp.server", "--model", model, "--port", str(port)]
        more = ["--n_threads", threads, "--n_threads_batch", threads, "--n_ctx", str(SLOT)]
        found["llama-cpp-python"] = [*peer, *more]
    return found


@contextmanager
def running(name: str, command: list[str], port: int, slots: int) -> Iterator[Side]:
    """One server, ended afterwards."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    side = Side(name, f"http://127.0.0.1:{port}", process, 0.0, slots)
    try:
        with httpx.Client(timeout=60) as client:
            while True:
                try:
                    side.ask(client, [{"role": "user", "content": "Hello"}], 1)
                    break
                except httpx.HTTPError:
                    if process.poll() is not None:
                        sys.exit(f"{name} ended with {process.returncode}: {command}")
                    time.sleep(0.02)
        yield Side(name, side.url, process, time.perf_counter() - started, slots)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def throughput(side: Side, talks: Sequence[Any], clients: int, tokens: int) -> float:
    """Tokens a second of so many clients, each with its share of the talks one after another."""

    def work(share: Sequence[Any]) -> int:
        with httpx.Client(timeout=600) as client:
            return sum(side.ask(client, talk, tokens) for talk in share)

    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        made = sum(pool.map(work, [talks[start::clients] for start in range(clients)]))
        return made / (time.perf_counter() - started)


def gaps(side: Side, number: int) -> tuple[list[float], list[float]]:
    """Milliseconds between a stream's tokens before, and while another client's long prompt is read; none where the
    model ends its story too soon."""
    words = " ".join(f"{word}{number}" if word % 50 == 0 else "word" for word in range(LONG))
    long = [{"role": "user", "content": words}]
    span: list[float] = []

    def intrude() -> None:
        span.append(time.perf_counter())
        with httpx.Client(timeout=600) as client:
            side.ask(client, long, 1)
        span.append(time.perf_counter())

    came, other = [], threading.Thread(target=intrude)
    with httpx.Client(timeout=600) as client:
        for moment in side.stream(client, [{"role": "user", "content": STORY}], 400):
            came.append(moment)
            if len(came) == 60:
                other.start()
    if len(came) < 60:
        return [], []
    other.join(600)
    pairs = list(itertools.pairwise(came))[5:]
    quiet = [1e3 * (b - a) for a, b in pairs if b < span[0]]
    return quiet, [1e3 * (b - a) for a, b in pairs if a < span[1] and b > span[0]]


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values, the one at ``share``."""
    return sorted(values)[round(share * (len(values) - 1))] if values else float("nan")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(given: argparse.Namespace, talks: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Every figure by server."""
    slots = max(given.clients)
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        sides = []
        for name in commands(given, 0, slots):
            port = free_port()
            sides.append(stack.enter_context(running(name, commands(given, port, slots)[name], port, slots)))
            found[name] = {"ready_s": round(sides[-1].ready, 2)}
        rows = itertools.cycle(talks)  # none comes back: one of the servers keeps what it read in a store of its own
        for clients in given.clients:
            rates: dict[str, list[float]] = {side.name: [] for side in sides}
            for turn in range(given.rounds + 1):
                part = list(itertools.islice(rows, max(clients, LEAST)))
                for side in sides:
                    rate = throughput(side, part, clients, given.tokens)
                    if turn:  # the first round warms up
                        rates[side.name].append(rate)
                time.sleep(0 if turn else REST)
            for name, values in rates.items():
                found[name][f"clients_{clients}"] = [round(v, 1) for v in values]
        for side in sides:
            if side.name != "llama-cpp-python":  # one request after another: a stream is not disturbed, it waits
                told = [gaps(side, number) for number in range(given.rounds)]
                quiet, busy = (list(itertools.chain(*part)) for part in zip(*told, strict=True))
                found[side.name]["gap_ms"] = [quantile(quiet, 0.5), quantile(busy, 0.5), quantile(busy, 0.99)]
            found[side.name]["peak_mb"] = round(side.peak_mb())
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    for name in ("--xllamacpp", "--llama-cpp-python"):
        parser.add_argument(name, metavar="PYTHON")
    for name, value in (("threads", 2), ("tokens", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    lines = given.data.read_text(encoding="utf-8").splitlines()
    rows = (json.loads(line)["messages"] for line in lines if line.strip())
    talks = [row[:-1] if row[-1]["role"] == "assistant" else row for row in rows]
    found = measure(given, talks)
    if given.json:
        print(json.dumps(found))
        return
    print(f"{given.model.name}, {given.threads} threads of {os.cpu_count()} CPUs, {given.tokens} tokens a reply")
    for clients in given.clients:
        key = f"clients_{clients}"
        own = found["Holdfast"][key]
        for name, figures in found.items():
            ratios = [a / b for a, b in zip(own, figures[key], strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{clients:3} clients {name:18} {statistics.median(figures[key]):8.1f} tokens/s; ours / it {spread}")
    for name, figures in found.items():
        gap = "quiet {:.1f} ms, long prompt median {:.1f}, p99 {:.1f}".format(
            *figures.get("gap_ms", [float("nan")] * 3)
        )
        print(f"{name:18} first reply after {figures['ready_s']} s, peak {figures['peak_mb']} MB, gaps: {gap}")


if __name__ == "__main__":
    main()
