"""Do other programs read our exports as the Hugging Face model? Runs every reader that is installed.

    python benchmarks/interop/check_all.py --hf MERGED --gguf MODEL.gguf --onnx FOLDER --gptq FOLDER --data eval.jsonl
        [--peer-python VENV/bin/python] [--llama-tools FOLDER]

Prints one JSON object: a reader's figures, or ``did not run: why``. Exits 1 when one of them disagrees: prompt ids must
be equal, answers and mean KL within the limits of the file's type.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from formats import LIMITS, NEW, Answer, Reference, compare, file_type, llama_answers, onnx_answers, read_prompts

Row = dict[str, Any] | str
SERVER = ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")


class NotRun(Exception):
    """Why a reader could not be asked."""


class Check:
    """What every reader gets."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.reference = Reference(given.hf)
        self.talks = read_prompts(given.data, given.prompts)
        self.expected = [self.reference.answer(talk) for talk in self.talks]

    def judge(self, kind: str, answers: list[Answer]) -> Row:
        """Figures, and whether they are within the limits of ``kind``."""
        row: dict[str, Any] = compare(self.expected, answers)
        agree, kl = LIMITS.get(kind, (self.given.agree_quantized, self.given.kl_quantized))
        row["passed"] = row["prompt_ids"] == 1.0 and row["answer"] >= agree and row.get("kl_mean", 0.0) <= kl
        return row

    def path(self, format_name: str) -> Path:
        """The artifact of a format, or NotRun."""
        found: Path | None = getattr(self.given, format_name)
        if found is None:
            raise NotRun(f"no --{format_name} was given")
        return found


def require(*modules: str) -> None:
    """NotRun naming the first module that is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise NotRun(f"Python module {module} is not installed")


def llama_cpp_python(check: Check) -> Row:
    """``llama_cpp.Llama.create_chat_completion``."""
    require("llama_cpp")
    path = check.path("gguf")
    return check.judge(file_type(path), list(llama_answers(path, check.reference, check.talks)))


def llama_cpp_server(check: Check) -> Row:
    """llama-cpp-python's own server over HTTP."""
    require("llama_cpp", *SERVER)
    path, port = check.path("gguf"), free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(path), "--port", str(port), "--n_ctx", "0"]
    with serving(command, f"http://127.0.0.1:{port}/v1/models"):
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        return check.judge(file_type(path), [_over_http(url, check, n) for n in range(len(check.talks))])


def _over_http(url: str, check: Check, number: int) -> Answer:
    choice = post(url, {"messages": check.talks[number], "max_tokens": NEW, "temperature": 0})["choices"][0]
    ended = choice["finish_reason"] == "stop"
    return Answer(check.expected[number].prompt, choice["message"]["content"], ended, None)


def onnxruntime_genai(check: Check) -> Row:
    """onnxruntime-genai's own tokenizer and generator."""
    require("onnxruntime_genai")
    path = check.path("onnx")
    return check.judge(file_type(path), list(onnx_answers(path, check.reference, check.talks)))


def transformers_gguf(check: Check) -> Row:
    """transformers' own GGUF loading: weights and tokenizer come from the file alone."""
    require("gguf")
    path = check.path("gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise NotRun(f"transformers does not load this file ({type(error).__name__}: {str(error)[:160]})") from None
    other = Reference(check.given.hf)
    other.model = model
    answers = []
    for talk in check.talks:
        found = other.answer(talk)
        ids = tokenizer.encode(check.reference.render(talk), add_special_tokens=False)
        answers.append(Answer(ids, found.text, found.ended, found.logits))
    return check.judge(file_type(path), answers)


def transformers_gptq(check: Check) -> Row:
    """transformers + GPTQModel, in an environment of their own."""
    folder, python = check.path("gptq"), check.given.peer_python
    if python is None:
        raise NotRun("no --peer-python with gptqmodel was given")
    script = Path(__file__).with_name("gptq_transformers.py")
    command = [python, script, folder, check.given.hf, check.given.data, check.given.prompts]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise NotRun(f"{python} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1][:200]}")
    return {**json.loads(lines[-1]), "passed": done.returncode == 0}


def optimum_onnx(check: Check) -> Row:
    """optimum's ORTModelForCausalLM."""
    check.path("onnx")
    require("optimum", "optimum.onnxruntime")
    raise NotRun("optimum reads graphs of its own exporter, with other inputs than onnxruntime-genai's")


def vllm_gptq(check: Check) -> Row:
    """vLLM on the GPTQ folder."""
    require("vllm")
    folder = check.path("gptq")
    from vllm import LLM, SamplingParams

    prompts = [{"prompt_token_ids": answer.prompt} for answer in check.expected]
    made = LLM(str(folder)).generate(prompts, SamplingParams(temperature=0, max_tokens=NEW))
    answers = [
        Answer(list(m.prompt_token_ids), m.outputs[0].text, m.outputs[0].finish_reason == "stop", None) for m in made
    ]
    return check.judge("int4", answers)


def ollama(check: Check) -> Row:
    """Ollama with the Modelfile that a bundle gets; its service must be running."""
    from export.bundle.ollama import modelfile

    path, program = check.path("gguf"), shutil.which("ollama")
    if program is None:
        raise NotRun("no ollama on PATH")
    name = "holdfast-interop-check"
    with tempfile.TemporaryDirectory() as place:
        shutil.copyfile(path, Path(place) / "model.gguf")
        text = modelfile(Path(place) / "model.gguf", sorted(check.reference.ends), context=None)
        (Path(place) / "Modelfile").write_text(text, encoding="utf-8")
        done = subprocess.run([program, "create", name, "-f", "Modelfile"], cwd=place, capture_output=True, check=False)
    if done.returncode:
        raise NotRun(f"ollama create failed: {done.stderr.decode(errors='replace').strip()[-200:]}")
    answers = []
    for number, talk in enumerate(check.talks):
        options = {"num_predict": NEW, "temperature": 0}
        body = {"model": name, "messages": talk, "stream": False, "options": options}
        said = post("http://127.0.0.1:11434/api/chat", body)
        ended = said["done_reason"] == "stop"
        answers.append(Answer(check.expected[number].prompt, said["message"]["content"], ended, None))
    return check.judge(file_type(path), answers)


def llama_tools(check: Check) -> Row:
    """llama.cpp's own llama-tokenize on every rendered prompt."""
    path, folder = check.path("gguf"), check.given.llama_tools
    program = folder / "llama-tokenize" if folder else None
    if program is None or not program.is_file():
        raise NotRun("no --llama-tools folder with llama-tokenize was given")
    same = 0
    with tempfile.TemporaryDirectory() as place:
        prompt = Path(place) / "prompt.txt"
        for talk, answer in zip(check.talks, check.expected, strict=True):
            prompt.write_text(check.reference.render(talk), encoding="utf-8")
            command = [program, "-m", path, "-f", prompt, "--ids", "--no-bos", "--log-disable"]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
            same += json.loads(done.stdout.strip().splitlines()[-1]) == answer.prompt
    return {"n": len(check.talks), "prompt_ids": same / len(check.talks), "passed": same == len(check.talks)}


READERS: dict[str, Callable[[Check], Row]] = {
    "llama-cpp-python": llama_cpp_python,
    "llama-cpp-python's server": llama_cpp_server,
    "llama.cpp's tools": llama_tools,
    "Ollama": ollama,
    "transformers, GGUF": transformers_gguf,
    "onnxruntime-genai": onnxruntime_genai,
    "optimum": optimum_onnx,
    "transformers + GPTQModel": transformers_gptq,
    "vLLM": vllm_gptq,
}


def free_port() -> int:
    """A TCP port of the loopback that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def serving(command: list[str], ready: str) -> Iterator[None]:
    """A server process that answers ``ready``; stopped at the end."""
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(120):
                if process.poll() is not None:
                    log.seek(0)
                    raise NotRun(f"the server ended: {log.read().decode(errors='replace').strip()[-200:]}")
                try:
                    urllib.request.urlopen(ready, timeout=1).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.5)
            else:
                raise NotRun("the server did not answer within a minute")
            yield
        finally:
            process.terminate()


def post(url: str, body: dict[str, Any]) -> Any:
    """POST JSON, read JSON."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def main() -> int:
    """Ask every reader, print, and tell by the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hf", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    for name in ("gguf", "onnx", "gptq", "peer-python", "llama-tools"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--agree-quantized", type=float, default=0.3, help="least share of equal answers below 8 bits")
    parser.add_argument("--kl-quantized", type=float, default=0.05, help="largest mean KL below 8 bits")
    check = Check(parser.parse_args())
    results: dict[str, Row] = {}
    for name, reader in READERS.items():
        try:
            results[name] = reader(check)
        except NotRun as why:
            results[name] = f"did not run: {why}"
    print(json.dumps(results, indent=2))
    return 0 if all(isinstance(row, str) or row["passed"] for row in results.values()) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(main())
