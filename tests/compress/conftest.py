import pytest
from stages import run_stage


@pytest.fixture(scope="session")
def tiny_calibration(tiny_llama, chat_jsonl, tmp_path_factory):
    """The calibration pass over the tiny model: 16 windows of 64 tokens."""
    out = tmp_path_factory.mktemp("calibration") / "artifact"
    return run_stage(
        "calibrate", tiny_llama, out, calibration=chat_jsonl, calibration_tokens=1024, calibration_length=64
    )
