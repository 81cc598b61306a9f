"""deploy/prometheus and deploy/grafana against the metrics of a running server: by name, by promtool, and by a real
Prometheus that scrapes it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from served import Served, served, wait_until
from tiny_bundle import write_ruled_bundle

ROOT = Path(__file__).parents[3]
RULES, DASHBOARD = ROOT / "deploy/prometheus", ROOT / "deploy/grafana/holdfast.json"
LAWYER = [{"role": "user", "content": "I will call my lawyer."}]


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine (Debian: prometheus)")
    return found


def panels() -> dict[str, list[str]]:
    """The dashboard's questions by title, for all servers and 20 seconds."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    filled = {"$instance": ".*", "$__rate_interval": "20s"}
    return {
        panel["title"]: [re.sub(r"\$\w+", lambda name: filled[name[0]], target["expr"]) for target in panel["targets"]]
        for panel in found
    }


def alerts() -> dict[str, str]:
    (group,) = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(write_ruled_bundle(tmp_path_factory.mktemp("scraped") / "bundle"), "--slots", "2") as found:
        reply = found.ask(messages=LAWYER, facts={"tier": "gold", "urgency": "high"}, max_tokens=8)
        assert reply.json()["holdfast"]["fields"]["queue"] == "legal"
        assert found.ask(temperature="hot").status_code == 400
        yield found


def test_what_the_page_counts(server: Served) -> None:
    found = server.figures()
    assert found['holdfast_escalations_total{queue="legal"}'] == 1
    assert found['holdfast_priorities_total{priority="P1"}'] == 1
    assert found['holdfast_actions_total{action="escalate"}'] == 1
    assert found['holdfast_responses_total{status="400"}'] == 1
    assert found['holdfast_interventions_total{action="template",rule="contract"}'] == 1
    assert found['holdfast_rule_violations_total{rule="no-links",severity="hard"}'] == 0
    assert (
        found["holdfast_time_to_first_token_seconds_count"] == found["holdfast_request_queue_time_seconds_count"] == 1
    )
    assert (
        found["holdfast_inter_token_latency_seconds_count"] == found["holdfast_generation_tokens_total"] - 2
    )  # a retry
    assert found["holdfast_generation_tokens_total"] == found["holdfast_reply_tokens_total"] > 2
    labels = '{gen_ai_operation_name="chat",gen_ai_request_model="test"}'
    assert found[f"gen_ai_server_request_duration_seconds_count{labels}"] == 2


def test_questions_name_metrics_that_there_are(server: Served) -> None:
    there = {re.split("[ {]", line)[0] for line in httpx.get(f"{server.url}/metrics").text.splitlines()}
    asked = " ".join([*(e for exprs in panels().values() for e in exprs), *alerts().values()])
    names = set(re.findall(r"\b(?:holdfast|gen_ai)_\w+", asked)) - {"gen_ai_request_model"}
    assert len(names) > 15
    assert names <= there


def test_promtool_is_content(server: Served) -> None:
    promtool = tool("promtool")
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *command], cwd=RULES, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    page = httpx.get(f"{server.url}/metrics").text
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A running Prometheus with our rules that scrapes ``target`` every second."""
    told = yaml.safe_load((RULES / "prometheus.yml").read_text())
    told["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    told["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    shutil.copy(RULES / "alerts.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(told))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            tool("prometheus"),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={address}",
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_a_real_prometheus_scrapes_it_and_answers_every_question(server: Served, tmp_path: Path) -> None:
    with prometheus(tmp_path, httpx.URL(server.url).netloc.decode()) as api:

        def ask(question: str) -> list[Any]:
            told = httpx.get(f"{api}/query", params={"query": question}, timeout=30).json()
            assert told["status"] == "success", (question, told)
            return list(told["data"]["result"])

        def scraped() -> bool:
            try:
                return any(row["value"][1] == "1" for row in ask("up"))
            except httpx.ConnectError:
                return False

        wait_until(scraped, 60)
        for _ in range(6):  # so that rates have something to tell
            server.ask(messages=LAWYER, facts={"tier": "gold", "urgency": "high"}, max_tokens=8)
            time.sleep(1.1)
        idle = {"Drafted tokens that were chosen"}
        silent = {title for title, exprs in panels().items() for question in exprs if not ask(question)}
        assert silent <= idle
        (legal,) = ask('increase(holdfast_escalations_total{queue="legal"}[1m])')
        assert float(legal["value"][1]) > 0
        rules = httpx.get(f"{api}/rules").json()["data"]["groups"][0]["rules"]
        assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(alerts(), "ok")
        assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
