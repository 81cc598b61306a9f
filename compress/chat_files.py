"""Named chat templates of a model folder, which lie in a folder of their own beside the tokenizer's files."""

from __future__ import annotations

import shutil
from pathlib import Path

from runtime.engine.chat import TEMPLATE_FOLDER

TEMPLATE_FILES = f"{TEMPLATE_FOLDER}/*.jinja"


def copy_named_templates(source: Path, target: Path) -> None:
    """Copy them from one model folder to another; there need not be any."""
    for file in sorted(source.glob(TEMPLATE_FILES)):
        (target / TEMPLATE_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(file, target / TEMPLATE_FOLDER / file.name)
