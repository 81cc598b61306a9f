"""A verdict as JUnit XML: a test suite per candidate and suite, a test case per rule.

FAIL is a ``failure``, INCONCLUSIVE an ``error`` (nothing is shown, so nothing may ship), a rule in force nowhere is
``skipped``. Elements and attributes as Jenkins and GitLab read them (the schema of the xUnit plugin, junit-10.xsd).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from compress.report import verdict as documents
from compress.report import words

Json = Mapping[str, Any]
SHOWN = 3
"""Cases told of each rule and direction."""
ELEMENT = {"FAIL": "failure", "INCONCLUSIVE": "error"}


def junit(document: Json) -> str:
    """The document as XML text."""
    root = Element("testsuites", name=f"gate against {document['baseline']}")
    for candidate in document["candidates"]:
        for suite in candidate["suites"]:
            _suite(SubElement(root, "testsuite"), candidate, suite)
    _count(root)
    indent(root)
    return words.clean(f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n')


def _suite(element: Element, candidate: Json, suite: Json) -> None:
    element.set("name", f"{candidate['name']}: {suite['name']}")
    judged = candidate["verdict"] in ("PASS", "FAIL", "INCONCLUSIVE")
    if suite["name"] != documents.ENFORCED:
        _case(element, candidate, suite["name"], suite["name"], suite, judged=judged)
    for rule in suite["rules"]:
        _case(element, candidate, suite["name"], rule["id"], rule, judged=judged)
    _count(element)


def _case(element: Element, candidate: Json, suite: str, name: str, row: Json, *, judged: bool) -> None:
    """``judged``: a candidate that the sequence did not reach has figures, and no verdict."""
    case = SubElement(element, "testcase", classname=f"{candidate['name']}.{suite}", name=name)
    kind = ELEMENT.get(row["verdict"])
    if not judged or row["verdict"] == "n/a":
        SubElement(case, "skipped", message=documents.line(row))
    elif kind:
        told = SubElement(case, kind, type=row["verdict"], message=documents.line(row))
        told.text = "\n".join(_told(row))
    else:
        SubElement(case, "system-out").text = documents.line(row)


def _told(row: Json) -> Iterator[str]:
    yield documents.line(row)
    for kind, said in (("broken", "newly broken"), ("both", "broken by both")):
        for case in row["cases"][kind][:SHOWN]:
            yield f"\n{case['item']} ({said}): {case['asked']}"
            for side in ("baseline", "candidate"):
                why = f" ({case[side]['why']})" if case[side]["why"] else ""
                yield f"  {side}{why}: {case[side]['reply']}"


def _count(element: Element) -> None:
    cases = list(element.iter("testcase"))
    counted = [("failures", "failure"), ("errors", "error"), ("skipped", "skipped")]
    for name, tag in counted[:2] if element.tag == "testsuites" else counted:  # the whole has no "skipped" there
        element.set(name, str(sum(case.find(tag) is not None for case in cases)))
    element.set("tests", str(len(cases)))
