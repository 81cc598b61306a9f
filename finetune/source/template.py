"""Which of a model's chat templates is the one in use: the default, as transformers and every later stage take it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from compress.errors import ArtifactError
from compress.json_files import write_json
from runtime.engine.chat import DEFAULT, TEMPLATE_FILE, TEMPLATE_FOLDER, of_folder

FORMER = "former_default"


def make_default(folder: Path, name: str) -> None:
    """Make the template ``name`` of a model folder its default. The others keep their names, and a default that there
    was is kept as ``former_default``. Raises UsageError that lists the names when there is no such template."""
    chat = of_folder(folder)
    chosen = chat.template(name)
    assert chosen is not None
    for other in chat.templates:
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", other):
            raise ArtifactError(f"the chat template {other!r} of {folder} has no name of a file", next="rename it")
    others = {FORMER if other == DEFAULT else other: text for other, text in chat.templates.items()}
    if name != DEFAULT:
        (folder / TEMPLATE_FOLDER).mkdir(exist_ok=True)
        for other, text in others.items():
            (folder / TEMPLATE_FOLDER / f"{other}.jinja").write_text(text, encoding="utf-8")
        (folder / TEMPLATE_FILE).write_text(chosen, encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if name != DEFAULT and config.is_file():
        given = json.loads(config.read_text(encoding="utf-8"))
        write_json(config, {key: value for key, value in given.items() if key != "chat_template"})
