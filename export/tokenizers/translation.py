"""A folder's vocabulary and its probes, read in a process of their own.

transformers and a large tokenizer take more memory than the rest of an export; so a process that ends before the
tensors are written loads them, and without torch, which tokenizers do not need.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import compress.errors
from compress.errors import ArtifactError, HoldfastError
from export.tokenizers.probes import Probe, make_probes
from export.tokenizers.vocabulary import Vocabulary
from runtime.engine.chat import Chat

log = logging.getLogger(__name__)


def translate(folder: Path, size: int) -> tuple[Vocabulary, list[Probe]]:
    """Vocabulary padded to ``size`` rows (without its limits, which made the probes), and what Hugging Face makes of
    the probes. Raises what reading the tokenizer raised."""
    command = [sys.executable, "-P", "-m", "export.tokenizers.translation", str(folder), str(size)]
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    env = os.environ | quiet | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", errors="replace", check=False)
    lines = done.stderr.splitlines()
    if done.returncode:
        last = lines[-1] if lines else f"exit code {done.returncode}"
        log.debug("reading the tokenizer: %s", done.stderr)
        raise ArtifactError(f"the tokenizer of {folder} cannot be read ({last[:300]})", next="run again with --debug")
    for line in lines:
        log.warning("%s", line)
    found = json.loads(done.stdout)
    if "error" in found:
        raise getattr(compress.errors, found["error"])(found["what"], next=found["next"])
    return _vocabulary(found["vocabulary"]), [Probe(*probe) for probe in found["probes"]]


def _vocabulary(found: dict[str, Any]) -> Vocabulary:
    charsmap = found.pop("charsmap")
    chat = Chat(**found.pop("chat"))
    return Vocabulary(**found, chat=chat, charsmap=None if charsmap is None else base64.b64decode(charsmap))


def _found(folder: Path, size: int) -> dict[str, Any]:
    from export.tokenizers.read import load_tokenizer, read_vocabulary

    try:
        tokenizer = load_tokenizer(folder)
        vocabulary = read_vocabulary(folder, tokenizer, size)
        probes = make_probes(vocabulary, tokenizer)
    except HoldfastError as error:
        return {"error": type(error).__name__, "what": error.what, "next": error.next}
    kept = {f.name: getattr(vocabulary, f.name) for f in fields(vocabulary) if f.name != "limits"}
    kept["charsmap"] = None if vocabulary.charsmap is None else base64.b64encode(vocabulary.charsmap).decode()
    kept["chat"] = asdict(vocabulary.chat)
    return {"vocabulary": kept, "probes": [list(asdict(probe).values()) for probe in probes]}


def main(folder: str, size: str) -> None:
    """The process: answers with JSON on the standard output, where nothing else may print."""
    answer = os.dup(1)
    os.dup2(2, 1)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    sys.modules["torch"] = None  # type: ignore[assignment]  # to transformers it is not installed
    found = json.dumps(_found(Path(folder), int(size)))
    with open(answer, "w", encoding="utf-8") as out:
        out.write(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
