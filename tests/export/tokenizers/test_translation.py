"""The tokenizer read by another process: the same vocabulary, the same errors, and no torch."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from small_folder import write_model

from compress.errors import ArtifactError, HoldfastError
from export.tokenizers.probes import make_probes
from export.tokenizers.read import load_tokenizer, read_vocabulary
from export.tokenizers.translation import translate

SIZE = 4096


def test_the_same_as_in_this_process(shared_data: Path) -> None:
    for name in ("m7", "babyllama105", "stories260k-spm"):
        folder = shared_data / "models" / name
        size = {"m7": 4096, "babyllama105": 105}.get(name, 512)
        tokenizer = load_tokenizer(folder)
        vocabulary = read_vocabulary(folder, tokenizer, size)
        got, probes = translate(folder, size)
        assert got == replace(vocabulary, limits=())
        assert probes == make_probes(vocabulary, tokenizer)


def test_errors_and_warnings_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_model(tmp_path / "hf")
    with pytest.raises(ArtifactError, match="the embedding only 5 rows"):
        translate(folder, 5)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with caplog.at_level(logging.WARNING):
        translate(folder, SIZE)
    assert "no chat template" in caplog.text
    assert "PyTorch" not in caplog.text
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(HoldfastError, match="cannot be loaded"):
        translate(folder, SIZE)


def test_a_folder_called_export_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "hf")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    assert translate(folder, SIZE)[0].tokens
