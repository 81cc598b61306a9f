from pathlib import Path

import pytest
from validate_models import damage, make_model, train


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def trained_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that gives the right reply to every ``question``."""
    return train(make_model(tmp_path_factory.mktemp("models") / "trained", spread=0.05))


@pytest.fixture(scope="session")
def damaged_hf(trained_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model with noise on its weights."""
    return damage(trained_hf, tmp_path_factory.mktemp("models") / "damaged")
