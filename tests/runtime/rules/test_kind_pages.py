"""The pages of the rule kinds, and the JSON Schema for editors, say what the code does; every example is run."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from runtime.errors import RuleError
from runtime.rules import read_rules
from runtime.rules.kinds import KINDS

ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location("make_kinds", ROOT / "docs" / "make_kinds.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
BLOCKS = [
    (page, block)
    for page in make.PAGES
    for block in make.yaml_blocks((ROOT / "docs" / page).read_text(encoding="utf-8"))
]


def rule_file(block, **change):
    top = {key: block[key] for key in ("contract", "facts") if key in block}
    rule = {"id": "r", "severity": "hard"} | {k: v for k, v in block.items() if k not in top} | change
    return {"version": 1, **top, "rules": [rule]}


def swapped(block):
    return rule_file(block, fixtures={"pass": block["fixtures"]["fail"], "fail": block["fixtures"]["pass"]})


@pytest.mark.parametrize("page", make.PAGES)
def test_pages_are_what_the_code_says(page):
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == make.render_page(page), (
        "run: python docs/make_kinds.py"
    )


def test_schema_is_what_the_code_says():
    assert make.SCHEMA.read_text(encoding="utf-8") == make.render_schema(), "run: python docs/make_kinds.py"


def test_every_kind_has_an_example_on_its_page():
    shown = {(side, name) for _, block in BLOCKS for side in ("must", "must_not") for name in block.get(side, ())}
    assert set(KINDS) == shown | {
        ("must", name) for side, name in KINDS if ("must_not", name) in shown and side == "must"
    }
    assert len(BLOCKS) == len({json.dumps(block, sort_keys=True, default=str) for _, block in BLOCKS})


def test_every_example_is_kept_and_broken_as_shown():
    for _, block in BLOCKS:
        read_rules(json.dumps(rule_file(block), ensure_ascii=False))  # a fixture that does not behave is an error
        with pytest.raises(RuleError) as caught:
            read_rules(json.dumps(swapped(block), ensure_ascii=False))
        assert len(caught.value.problems) == 2, block


MISTAKES = [
    {"version": 2},
    {"rules": []},
    {"rulez": []},
    {"facts": {"tier": "words"}},
    {"contract": {"action": ["a"]}},
    {"contract": {"reply": "text", "x": "words"}},
]
RULE_MISTAKES = [
    {"severity": "medium"},
    {"when": {"turn": 0}},
    {"when": {"user": "x"}},
    {"when": {"any": [{"nott": {}}]}},
    {"must": {"max_words": "five"}},
    {"must": {"tone": "loud"}},
    {"must": {"bullets": {"most": 3}}},
    {"must": {"count:numbers": {"n": 3}}},
    {"must_not": {"leaks": ["cards"]}},
    {"fixtures": {"pass": []}},
    {"fixtures": {"pass": [{"usr": "x"}], "fail": []}},
]


def test_schema_takes_what_loads_and_refuses_mistakes():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(make.SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    good = rule_file(BLOCKS[0][1])
    for file in [
        good,
        yaml.safe_load((ROOT / "configs/rules/customer_service.yaml").read_text()),
        *map(rule_file, (b for _, b in BLOCKS)),
    ]:
        assert [error.message for error in check.iter_errors(file)] == []
    for change in MISTAKES:
        assert not check.is_valid({**good, **change}), change
    for change in RULE_MISTAKES:
        rule = {k: v for k, v in good["rules"][0].items() if k not in ("must", "must_not") or k not in change}
        assert not check.is_valid({**good, "rules": [{**rule, **change}]}), change
