# ruff: noqa: E501  (tables are read by the row)
"""The gate on two files of recorded replies."""

import gzip
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from compress.errors import DataError, ResourceError, RuleError
from compress.validate import lines, outcomes, recorded
from compress.validate.recorded import judge_files
from runtime.rules import load_rules

RULES = """
version: 1
facts: {tier: [gold, basic]}
labels: [vip]
rules:
  - id: polite
    severity: soft
    must: {any_word: [sorry, thanks]}
    fixtures: {pass: [{user: hi, reply: Sorry.}], fail: [{user: hi, reply: No.}]}
  - id: no-promise
    severity: hard
    must_not: {words: [promise]}
    fixtures: {pass: [{user: hi, reply: We try.}], fail: [{user: hi, reply: We promise.}]}
"""
CONTRACT = """
version: 1
contract: {action: [answer, escalate], reply: text}
rules:
  - id: lawyer
    severity: hard
    when: {user_regex: lawyer}
    must: {action: escalate}
    fixtures: {pass: [{user: lawyer, reply: {action: escalate}}], fail: [{user: lawyer, reply: {action: answer}}]}
"""


def row(number, reply="Thanks.", **more):
    return {"id": f"q{number}", "messages": [{"role": "user", "content": f"hello {number}"}], "reply": reply, **more}


@pytest.fixture
def gate(tmp_path):
    """Run the gate on two lists of rows (or texts)."""

    def run(baseline, candidate, rules=RULES):
        paths = []
        for name, rows in (("b.jsonl", baseline), ("c.jsonl", candidate)):
            path = tmp_path / name
            data = rows if isinstance(rows, bytes) else "".join(json.dumps(r) + "\n" for r in rows).encode()
            path.write_bytes(data)
            paths.append(path)
        (tmp_path / "rules.yaml").write_text(rules)
        return judge_files(*paths, load_rules(tmp_path / "rules.yaml")).to_json()

    return run


def test_equal_files_pass_when_they_are_long_enough(gate):
    rows = [row(i) for i in range(299)]
    result = gate(rows, list(reversed(rows)))
    assert (result["verdict"], result["n_items"]) == ("PASS", 299)
    assert [(s["name"], s["n"]) for s in result["suites"]] == [("adherence", 299), ("soft adherence", 299)]
    assert {r["id"]: r["verdict"] for r in result["rules"]} == {"polite": "PASS", "no-promise": "PASS"}
    assert json.loads(json.dumps(result)) == result


def test_short_equal_files_do_not_decide(gate):
    result = gate([row(i) for i in range(40)], [row(i) for i in range(40)])
    assert result["verdict"] == "INCONCLUSIVE"
    assert {r["id"]: r["needed"] for r in result["rules"]} == {"polite": 59, "no-promise": 299}


def test_a_worse_file_fails(gate):
    result = gate([row(i) for i in range(299)], [row(i, "We promise.") for i in range(299)])
    assert result["verdict"] == "FAIL"
    assert [r["flips"] for r in result["rules"]] == [[0, 299], [0, 299]]


def test_expected_in_either_file_makes_an_accuracy_suite(gate):
    known = [row(i, expected={"answer": "thanks", "match": "contains"}) for i in range(150)]
    plain = [row(i) for i in range(150)]
    for result in (gate(known, plain), gate(plain, known)):
        assert (result["suites"][0]["name"], result["suites"][0]["n"]) == ("accuracy", 150)
        assert result["suites"][0]["verdict"] == "PASS"


def test_contract_replies_may_be_objects_or_text(gate):
    asked = [{"role": "user", "content": "my lawyer"}]
    made = [{"id": i, "messages": asked, "reply": {"action": "escalate", "reply": "Sorry."}} for i in range(10)]
    text = [{"id": i, "messages": asked, "reply": '{"action": "escalate", "reply": "Sorry."}'} for i in range(10)]
    result = gate(made, text, CONTRACT)
    assert (result["rules"][0]["baseline"], result["rules"][0]["candidate"]) == (1.0, 1.0)
    cut = gate(made, [{**r, "truncated": True} for r in text], CONTRACT)
    assert cut["rules"][0]["candidate"] == 0.0
    extra = gate(made, [{**r, "reply": {"action": "escalate", "reply": "x", "more": 1}} for r in made], CONTRACT)
    assert extra["rules"][0]["candidate"] == 0.0


def test_clusters_are_honoured(gate):
    rows = [row(i, cluster=i // 10) for i in range(400)]
    result = gate(rows, [row(i) for i in range(400)])
    assert result["verdict"] == "INCONCLUSIVE"
    assert result["suites"][0]["design_effect"] == pytest.approx(10)


def ask(number, content="hello", **more):
    return {**row(number, **more), "messages": [{"role": "user", "content": content}]}


def test_one_question_is_one_cluster_however_often_it_is_asked(gate):
    rows = [ask(i, "Hello" + " !"[i % 2] * (i % 5), cluster=i) for i in range(320)]
    result = gate(rows, rows)
    assert result["verdict"] == "INCONCLUSIVE"
    assert {suite["clusters"] for suite in result["suites"]} == {1}
    assert "n = 320 in 1 cluster" in result["reasons"][0]
    alike = ["C?", "C++?", "\u0915\u093e", "\u0915\u093f", "\U0001f44d", "\U0001f44e", "3.5", "35"]
    assert gate(*[[ask(i, text) for i, text in enumerate(alike)]] * 2)["suites"][0]["clusters"] == len(alike)
    other_facts = [ask(i, facts={"tier": ("gold", "basic")[i % 2]}) for i in range(320)]
    assert {suite["clusters"] for suite in gate(other_facts, other_facts)["suites"]} == {2}


def test_questions_and_clusters_join_transitively(gate):
    rows = [ask(0, "a", cluster="x"), ask(1, "a", cluster="y"), ask(2, "b", cluster="y"), ask(3, "c")]
    assert gate(rows, rows)["suites"][0]["clusters"] == 2


def test_a_baseline_that_passes_nothing_is_no_measure(gate):
    empty = [row(i, "", expected={"answer": "thanks", "match": "contains"}) for i in range(300)]
    soft = RULES.replace("severity: hard", "severity: soft")
    for candidate in (empty, [{**r, "reply": "Thanks."} for r in empty]):
        result = gate(empty, candidate, soft)
        assert result["verdict"] == "INCONCLUSIVE"
        assert all("the baseline itself passes 0 of" in reason for reason in result["reasons"])


def test_a_baseline_that_breaks_hard_rules_is_no_measure(gate):
    fine = [row(i) for i in range(320)]
    broken = [row(i, "Thanks, we promise.") if i % 10 == 0 else row(i) for i in range(320)]
    result = gate(broken, fine)
    assert result["verdict"] == "INCONCLUSIVE"
    assert any("the baseline itself breaks this hard rule in 32 of 320" in reason for reason in result["reasons"])
    once = [row(i, "Thanks, we promise.") if i == 0 else row(i) for i in range(320)]
    assert gate(once, fine)["verdict"] == "PASS"


def test_hard_rules_in_force_nowhere_are_listed(gate):
    rules = RULES.replace(
        "    must_not: {words: [promise]}", "    when: {label: vip}\n    must_not: {words: [promise]}"
    )
    rules = rules.replace("[{user: hi, reply: We", "[{user: hi, labels: vip, reply: We")
    rows = [row(i) for i in range(320)]
    result = gate(rows, rows, rules)
    assert (result["verdict"], result["hard_rules_not_in_force"]) == ("PASS", ["no-promise"])
    labelled = [row(i, labels=["vip"]) for i in range(320)]
    assert gate(labelled, labelled, rules)["hard_rules_not_in_force"] == []


def test_an_answer_that_the_contract_cannot_hold_is_refused(gate):
    for wrong, said in (({"acton": "answer"}, "'acton' is not a field"), ({"action": "sing"}, "action is 'sing'")):
        rows = [row(0, {"action": "answer", "reply": "x"}, expected={"answer": wrong, "match": "json"})]
        with pytest.raises(DataError, match=r"b\.jsonl:1: expected\.answer: " + said):
            gate(rows, rows, CONTRACT)


def test_windows_lines_and_byte_order_marks_are_fine(gate):
    rows = [row(i) for i in range(5)]
    data = b"\xef\xbb\xbf" + "\r\n".join(json.dumps(r) for r in rows).encode() + b"\r\n\r\n"
    assert gate(data, rows)["suites"][0]["n"] == 5


def test_a_final_assistant_message_is_not_part_of_the_question(gate):
    rows = [{**row(0), "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    assert gate(rows, rows)["suites"][0]["n"] == 1


ONE = json.dumps(row(0)).encode() + b"\n"
EMPTY = "expected.answer is empty: every reply would be right"


def answer(value, match="exact"):
    return [row(0, expected={"answer": value, "match": match})]


BAD = [
    ("labels as a text", [row(0, labels="gold")], ONE, "b.jsonl:1: labels is a text, not a list of texts"),
    ("an empty label", [row(0, labels=["vip", " "])], ONE, "labels has ' '"),
    ("labels null", [row(0, labels=None)], ONE, "labels is null"),
    ("a label that no rule names", [row(0, labels=["vlp"])], ONE, "label 'vlp' is named by no rule (did you mean 'vip'?)"),
    ("an unknown key", [row(0, lables=["vip"])], ONE, "b.jsonl:1: unknown key 'lables' (did you mean 'labels'?)"),
    ("a doubled key", b'{"id": "q0", "id": "q1"}\n', ONE, "the key 'id' stands twice"),
    ("facts as a list", [row(0, facts=[])], ONE, "facts is a list, not an object"),
    ("a nested fact", [row(0, facts={"tier": ["gold"]})], ONE, "fact 'tier' is a list"),
    ("sources as a text", [row(0, sources="K7")], ONE, "sources is a text"),
    ("a source without text", [row(0, sources=[{"id": "K7", "text": ""}])], ONE, "sources[0].text is ''"),
    ("prompted as a text", [row(0, prompted="polite")], ONE, "prompted is a text"),
    ("a cluster of a wrong type", [row(0, cluster=[1])], ONE, "cluster is [1]"),
    ("an unknown role", [{**row(0), "messages": [{"role": "User", "content": "x"}]}], ONE, "messages[0] has the role 'User'"),
    ("an empty question", [{**row(0), "messages": [{"role": "user", "content": " "}]}], ONE, "messages[0] has an empty content"),
    ("an answer alone", [{**row(0), "messages": [{"role": "assistant", "content": "x"}]}], ONE, "the question is missing"),
    ("an empty answer", answer(""), ONE, EMPTY),
    ("an answer that compares as empty", answer(" . "), ONE, EMPTY),
    ("an empty list", answer([], "contains"), ONE, EMPTY),
    ("a list of nothing", answer(["sorry", ""], "contains"), ONE, EMPTY),
    ("an empty object", answer({}, "json"), ONE, EMPTY),
    ("no answer", answer(None), ONE, "expected.answer is null"),
    ("a list to be met exactly", answer(["x"]), ONE, "expected.answer is a list, not a text"),
    ("a word as a choice", answer("yes", "choice"), ONE, "is not one letter"),
    ("expected null", [row(0, expected=None)], ONE, "expected is not {answer, match}"),
    ("more than an answer", [row(0, expected={"answer": "x", "matches": "exact"})], ONE, "unknown key 'matches'"),
    ("an empty file", b"", ONE, "b.jsonl: the file has no rows"),
    ("blank lines only", ONE, b"\n \n", "c.jsonl: the file has no rows"),
    ("a broken line", ONE + b'{"id": "q1"', ONE, "b.jsonl:2: not a line of JSON"),
    ("another encoding", ONE, ONE + b'{"id": "\xe9"}\n', "c.jsonl:2: not a line of JSON in UTF-8"),
    ("a list", b"[1]\n", ONE, "b.jsonl:1: a list, not an object"),
    ("no id", [{**row(0), "id": None}], ONE, "b.jsonl:1: id is None"),
    ("an empty id", ONE + ONE.replace(b"q0", b"q1"), [row(0), {**row(1), "id": " "}], "c.jsonl:2: id is ' ', not a text"),
    ("a fact that equals nothing", ONE, [row(0, facts={"tier": float("nan")})], "c.jsonl:1: fact 'tier' is nan, not a number"),
    ("a doubled id", [row(0), row(1), row(0)], ONE, "b.jsonl:3: id 'q0' stands on line 1 too"),
    ("a doubled number", [{**row(0), "id": 7}, {**row(0), "id": "7"}], ONE, "b.jsonl:2: id '7' stands on line 1 too"),
    ("an id missing in the candidate", [row(0), row(1)], [row(0)], "b.jsonl:2: id 'q1' is not in"),
    ("an id missing in the baseline", [row(0)], [row(0), row(1), row(2)], "(2 such ids)"),
    ("no common id", [row(0)], [row(1)], "b.jsonl:1: id 'q0' is not in"),
    ("no messages", [{"id": "a", "reply": "x"}], ONE, "b.jsonl:1: messages is not a list"),
    ("messages without role", [{"id": "a", "messages": [{"content": "x"}], "reply": "x"}], ONE, "messages[0] has the role None"),
    ("no reply", ONE, [{k: v for k, v in row(0).items() if k != "reply"}], "c.jsonl:1: reply is missing"),
    ("a number as reply", ONE, [row(0, 3)], "c.jsonl:1: reply is a number"),
    ("an object without contract", ONE, [row(0, {"action": "answer"})], "the rule file has no contract"),
    ("truncated as text", ONE, [row(0, truncated="no")], "truncated is 'no'"),
    ("an undeclared fact", [row(0, facts={"age": 3})], ONE, "fact 'age' is not declared"),
    ("a fact outside its values", [row(0, facts={"tier": "iron"})], ONE, "fact tier is 'iron'"),
    ("an unknown rule", [row(0, prompted=["politer"])], ONE, "unknown rule 'politer'"),
    ("labels of a wrong type", [row(0, labels=3)], ONE, "b.jsonl:1: labels is a number, not a list"),
    ("another question", [row(0)], [{**row(1), "id": "q0"}], "messages of id 'q0' differ from"),
    ("other facts", [row(0, facts={"tier": "gold"})], [row(0)], "facts of id 'q0' differ from"),
    ("another answer", [row(0, expected={"answer": 1})], [row(0, expected={"answer": 2})], "expected of id 'q0' differs"),
    ("expected without answer", [row(0, expected={"match": "exact"})], ONE, "expected is not {answer, match}"),
    ("an unknown match", [row(0, expected={"answer": 1, "match": "fuzzy"})], ONE, "expected is not {answer, match}"),
    ("json without object", [row(0, expected={"answer": 1, "match": "json"})], ONE, "must be an object"),
    ("numeric without number", [row(0, expected={"answer": "x", "match": "numeric"})], ONE, "is not a number"),
]  # fmt: skip


PACKED = gzip.compress(ONE, mtime=0)


@pytest.mark.parametrize(
    ("name", "data", "what", "step"),
    [
        ("b.jsonl.gz", PACKED, "b.jsonl.gz:1: the file is packed with gzip", "gunzip -k b.jsonl.gz"),
        ("b.csv", b"id,messages,reply\n1,Hi,Hello\n", "b.csv:1: the file is a table", "one JSON object a line"),
        ("b.json", b"[\n  {}\n]\n", "b.json:1: the file is one JSON list", "jq -c '.[]' b.json"),
        ("b.json", b"[{}]\n", "b.json:1: a list, not an object", "jq -c '.[]' b.json"),
        ("b.jsonl", ONE.decode().encode("utf-16"), "b.jsonl:1: the file is in UTF-16", "UTF-8"),
    ],
)
def test_a_file_of_another_format_is_called_that(tmp_path, name, data, what, step):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "c.jsonl").write_bytes(ONE)
    (tmp_path / "rules.yaml").write_text(RULES)
    with pytest.raises(DataError) as caught:
        judge_files(tmp_path / name, tmp_path / "c.jsonl", load_rules(tmp_path / "rules.yaml"))
    assert what in str(caught.value)
    assert step in str(caught.value)


@pytest.mark.parametrize(("baseline", "candidate", "message"), [r[1:] for r in BAD], ids=[r[0] for r in BAD])
def test_bad_files_are_named_with_their_line(gate, baseline, candidate, message):
    with pytest.raises(DataError) as caught:
        gate(baseline, candidate)
    assert message in str(caught.value)


@pytest.fixture
def many(monkeypatch):
    """Two processes however small the files are, in blocks of few lines."""
    monkeypatch.setattr(recorded, "SMALL", 0)
    monkeypatch.setattr(recorded, "CHUNK", 7)
    monkeypatch.setattr(recorded, "cores", lambda: 2)
    monkeypatch.setattr(lines, "BLOCK", 1000)


def worse(rows):
    return [{**r, "reply": "No, we promise."} if n % 20 == 0 else r for n, r in enumerate(rows)]


def test_processes_give_the_result_of_one(gate, many, monkeypatch):
    rows = [row(i, cluster=i // 3 if i % 2 else f"c{i}", expected={"answer": "thanks"}) for i in range(200)]
    shuffled = sorted(worse(rows), key=lambda r: r["id"][::-1])
    found = gate(rows, shuffled)
    monkeypatch.setattr(recorded, "cores", lambda: 1)
    assert gate(rows, shuffled) == found
    assert [rule["flips"] for rule in found["rules"]] == [[0, 10], [0, 10]]
    assert found["rules"][1]["broken"] == ["q0", "q20", "q40"]


@pytest.mark.parametrize(
    ("side", "at", "change", "message"),
    [
        (0, 150, {"lables": []}, "b.jsonl:151: unknown key 'lables'"),
        (1, 60, {"reply": 3}, "c.jsonl:61: reply is a number"),
        (1, 190, {"id": "q3"}, "c.jsonl:191: id 'q3' stands on line 4 too"),
        (1, 120, {"id": "z"}, "b.jsonl:121: id 'q120' is not in"),
        (1, 77, {"messages": [{"role": "user", "content": "?"}]}, "c.jsonl:78: messages of id 'q77' differ from"),
        (0, 33, {"id": None}, "b.jsonl:34: id is None"),
    ],
)
def test_processes_name_the_line_at_fault(gate, many, side, at, change, message):
    files = [[row(i) for i in range(200)], [row(i) for i in range(200)]]
    files[side][at] |= change
    with pytest.raises(DataError) as caught:
        gate(*files)
    assert message in str(caught.value)


def test_the_first_of_two_faults_is_named(gate, many):
    rows = [row(i) for i in range(200)]
    with pytest.raises(DataError, match=r"c\.jsonl:10: truncated is 1"):
        gate(rows, [{**r, "truncated": 1} if n in (9, 180) else r for n, r in enumerate(rows)])


def test_a_process_that_is_ended_is_told(gate, many, monkeypatch):
    monkeypatch.setattr(recorded, "check_all", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ResourceError, match="ended from outside"):
        gate([row(i) for i in range(60)], [row(i) for i in range(60)])


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    script = (
        "import os, time\nfrom compress.validate.workers import spread\n"
        "def job(n):\n    os.write(1, b'%d\\n' % os.getpid())\n    time.sleep(60)\n"
        "list(spread(job, range(4), 2))\n"
    )
    with subprocess.Popen([sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        parent.stdin.write(script)
        parent.stdin.close()
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    _, alive = psutil.wait_procs([psutil.Process(c) for c in children if psutil.pid_exists(c)], timeout=20)
    assert not alive


def test_a_truncated_reply_is_not_right(gate):
    rows = [row(i, expected={"answer": "thanks"}) for i in range(40)]
    result = gate(rows, [{**r, "truncated": True} for r in rows])
    assert (result["suites"][0]["baseline"], result["suites"][0]["candidate"]) == (1.0, 0.0)


def test_cases_show_both_replies_and_why(tmp_path, gate):
    rows = [row(i, expected={"answer": "thanks"}) for i in range(90)]
    gate(rows, worse(rows))
    judged = judge_files(tmp_path / "b.jsonl", tmp_path / "c.jsonl", load_rules(tmp_path / "rules.yaml"))
    found = judged.cases_json()
    assert {name: [case["item"] for case in cases] for name, cases in found.items()} == {
        name: ["q0", "q20", "q40", "q60", "q80"] for name in ("polite", "no-promise", "accuracy")
    }
    case = found["no-promise"][0]
    assert (case["asked"], case["baseline"]["reply"]) == ("hello 0", "Thanks.")
    assert case["candidate"] == {"reply": "No, we promise.", "passed": False, "why": case["candidate"]["why"]}
    assert "promise" in case["candidate"]["why"]
    assert found["accuracy"][0]["candidate"]["why"] == "the answer is 'thanks' (exact)"


def test_few_cases_are_kept_however_many_there_are(tmp_path, gate):
    rows = [row(i) for i in range(300)]
    gate(rows, [{**r, "reply": "We promise " + "much " * 2000} for r in rows])
    judged = judge_files(tmp_path / "b.jsonl", tmp_path / "c.jsonl", load_rules(tmp_path / "rules.yaml"))
    assert {len(cases) for cases in judged.cases_json().values()} == {outcomes.SHOWN}
    assert all(len(case.replies[1]) < outcomes.LONGEST + 50 for case in judged.cases)
    assert [rule.flips for rule in judged.rules] == [(0, 300), (0, 300)]


def test_half_characters_can_be_written(tmp_path, gate):
    result = gate([row(0)], [row(0, "No \ud800", id="q0")])
    assert json.dumps(result, ensure_ascii=False).encode()


def test_a_stream_is_refused(gate, tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES)
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        with pytest.raises(DataError, match="cannot be read twice"):
            judge_files(tmp_path / "pipe", tmp_path / "pipe", load_rules(tmp_path / "rules.yaml"))
    finally:
        os.close(writer)


def test_missing_files_and_bad_rules(gate, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        judge_files(tmp_path / "none.jsonl", tmp_path / "none.jsonl", load_rules(_rules(tmp_path)))
    with pytest.raises(RuleError):
        gate([row(0)], [row(0)], "version: 1\n")


def _rules(folder):
    (folder / "r.yaml").write_text(RULES)
    return folder / "r.yaml"
