from pathlib import Path

import pytest
from validate_models import make_model


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def damaged_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shape and tokenizer, other random weights."""
    return make_model(tmp_path_factory.mktemp("models") / "damaged", seed=1)
