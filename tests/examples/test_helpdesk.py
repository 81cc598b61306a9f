"""The help desk of examples/, as a person uses it: a real browser on a real server with a real engine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny_bundle import write_ruled_bundle

ROOT = Path(__file__).parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    bundle = write_ruled_bundle(tmp_path_factory.mktemp("desk") / "bundle")
    command = [sys.executable, str(ROOT / "examples/helpdesk"), str(bundle), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("help desk on "), process.stderr and process.stderr.read()
        yield line.split()[-1], process
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no Chromium on this machine (Debian: chromium-headless-shell)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, desk: tuple[str, Any]) -> Iterator[Any]:
    """The page in a fresh window. Anything that the browser complains about fails the test."""
    window = browser.new_context(viewport={"width": 1200, "height": 900})
    opened, complaints = window.new_page(), []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.set_default_timeout(30_000)
    opened.goto(desk[0])
    yield opened
    if place := os.environ.get("HOLDFAST_SCREENSHOTS"):
        opened.screenshot(path=f"{place}/helpdesk.png")
    window.close()
    assert complaints == []


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("facts", "kind", "status"),
    [
        ('{"tier": "gold"}', JSON, 201),
        ('{"tier": "lead"}', JSON, 400),
        ('{"unheard": 1}', JSON, 400),
        ('{"tier": NaN}', JSON, 400),
        ('{"policy": "\\ud83d"}', JSON, 400),
        (f'{{"policy": {"[" * 700}{"]" * 700}}}', JSON, 400),
        ('{"tier": "gold"}', {"Content-Type": "text/plain"}, 415),
    ],
)
def test_a_case_has_facts_that_the_rules_know(desk: tuple[str, Any], facts: str, kind: Any, status: int) -> None:
    told = httpx.post(f"{desk[0]}/api/cases", content=f'{{"facts": {facts}}}', headers=kind)
    assert told.status_code == status


def test_a_conversation_that_the_context_does_not_hold_goes_on(desk: tuple[str, Any]) -> None:
    case = httpx.post(f"{desk[0]}/api/cases", json={"facts": {}}).json()["id"]
    for number in range(6):
        words = {"text": f"{number} " + "My kettle is broken. " * 8}
        told = httpx.post(f"{desk[0]}/api/cases/{case}/messages", json=words, timeout=60)
        assert told.status_code == 200, told.text
    assert len(told.json()["shown"]) == 12


def begin(page: Any, **facts: str) -> None:
    for name, value in facts.items():
        field = page.locator(f"#facts [name={name}]")
        field.select_option(value) if name != "policy" else field.fill(value)
    page.get_by_role("button", name="New case").click()
    page.locator("#talk:not(:has(.desk))").wait_for(state="attached")  # the words of the case before are gone
    page.wait_for_selector("#text:enabled")


def say(page: Any, words: str) -> str:
    """Send a message; the words of the answer."""
    answers = page.locator("#talk .desk").count()
    page.fill("#text", words)
    page.click("#send")
    page.locator("#talk .desk").nth(answers).wait_for()
    page.wait_for_selector("#send:enabled")
    return str(page.locator("#talk .desk").last.inner_text())


def test_a_threat_is_escalated_and_the_board_shows_it(page: Any) -> None:
    begin(page, tier="basic", urgency="low", policy="K7")
    assert say(page, "My lamp <b>is</b> broken \U0001f62d") != ""
    assert page.locator("#talk .customer").inner_text() == "My lamp <b>is</b> broken \U0001f62d"
    begin(page, tier="gold", urgency="high", policy="C7")
    assert "Sorry" in say(page, "My kettle is broken. I will call my lawyer.")
    first = page.locator("#priorities li").first
    assert first.locator(".tag").all_inner_texts() == ["P1", "escalate"]
    assert "kettle" in first.inner_text()
    assert page.locator("#escalations li .legal").count() == 1
    done = page.locator("#done li").all_inner_texts()
    assert any(re.match("retry", what) for what in done)
    assert any("sent the safe reply" in what for what in done)
    assert page.locator("#rules li").filter(has_text="escalate-legal").locator(".tag").inner_text() == "kept"
    page.locator("#priorities li").filter(has_text="lamp").click()
    assert "lamp" in page.locator("#talk .customer").inner_text()


def test_a_second_window_sees_the_cases_come(page: Any, desk: tuple[str, Any]) -> None:
    other = page.context.new_page()
    other.goto(desk[0])
    begin(page, tier="silver", urgency="high", policy="Q4")
    say(page, "Connect me with a human being.")
    other.locator("#escalations li").filter(has_text="human").first.wait_for()


@pytest.mark.slow
def test_an_engine_that_dies_is_not_noticed_by_the_customer(page: Any, desk: tuple[str, Any]) -> None:
    begin(page, tier="gold", urgency="low", policy="K7")
    threads = Path(f"/proc/{desk[1].pid}/task").iterdir()
    (engine,) = (int(child) for thread in threads for child in (thread / "children").read_text().split())
    os.kill(engine, signal.SIGKILL)
    assert "Sorry" in say(page, "The parcel never came. I will sue you.")
    assert page.locator("#said").inner_text() == ""
