"""Settings and figures of a training for other programs: TensorBoard's event files, MLflow's database; all local.

They hold times and names of the machine, so they stand outside the artifact's digest (``LOGS``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress import launch
from compress.artifact import LOGS
from compress.extras import need
from compress.json_files import read_json, write_json

LAST = "last.json"
"""File with the last step that was written: a resumed training writes none twice."""

COMPARED = ("train/loss", "validation/loss")
"""What TensorBoard shows beside the hyper-parameters of a run."""


class Logs:
    """Writes settings, numbers by step and final facts to each program named in ``to``."""

    def __init__(self, to: Sequence[str], scratch: Path) -> None:
        self.to = to if launch.place().leads else ()
        self.place = scratch / LOGS
        self.writers: list[Any] = []
        self.last = -1
        if self.to:
            self.place.mkdir(exist_ok=True)
            self.last = read_json(self._last)["step"] if self._last.is_file() else -1
            self.writers = [WRITERS[name](self.place) for name in self.to]

    @property
    def _last(self) -> Path:
        return self.place / LAST

    def begin(self, settings: Mapping[str, Any]) -> None:
        """What the training was asked for; objects in it go by names with dots (``adapter.kind``)."""
        if self.last < 0:
            for writer in self.writers:
                writer.settings(flat(settings))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of a step, e.g. ``train/loss``."""
        if not self.to or step <= self.last:
            return
        for writer in self.writers:
            writer.write(step, values)
        self.last = step
        write_json(self._last, {"step": step})

    def end(self, out: Path, facts: Mapping[str, Any]) -> None:
        """Write what came of it as ``final/…``, close the files and put a copy of them beside the model."""
        numbers, words = apart(flat(facts))
        for writer in self.writers:
            writer.write(max(0, self.last), {f"final/{name}": value for name, value in numbers.items()})
            writer.words({f"final/{name}": value for name, value in words.items()})
        self.close()
        if self.to:
            shutil.copytree(self.place, out / LOGS, ignore=shutil.ignore_patterns(LAST))

    def close(self, how: str = "FINISHED") -> None:
        """Close the files; ``how``: FINISHED, FAILED or KILLED."""
        for writer in self.writers:
            writer.close(how)


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The values that are set, of objects in objects by names with dots; lists as JSON."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        elif value is not None:
            found[before + name] = json.dumps(value) if isinstance(value, list | tuple) else value
    return found


def apart(values: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """(the numbers, all else in words)."""
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return numbers, {name: str(value) for name, value in values.items() if name not in numbers}


class _TensorBoard:
    def __init__(self, place: Path) -> None:
        need("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(place / "tensorboard"))

    def settings(self, values: Mapping[str, Any]) -> None:
        """For its page of hyper-parameters, which compares the runs of a folder."""
        from torch.utils.tensorboard.summary import hparams

        for part in hparams(dict(values), dict.fromkeys(COMPARED)):
            self.writer.file_writer.add_summary(part)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def words(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self.writer.add_text(name, value)

    def close(self, how: str) -> None:
        del how
        self.writer.close()


class _Mlflow:
    def __init__(self, place: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
        mlflow = need("mlflow")
        need("sqlalchemy")
        self.client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{(place / 'mlflow.db').resolve()}")
        found = self.client.get_experiment_by_name("training")
        experiment = found.experiment_id if found else self.client.create_experiment("training", artifact_location=".")
        runs = self.client.search_runs([experiment])
        self.run = (runs[0] if runs else self.client.create_run(experiment)).info.run_id

    def settings(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.client.log_param(self.run, name, value)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run, name, value, step=step)

    def words(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self.client.set_tag(self.run, name, value)

    def close(self, how: str) -> None:
        self.client.set_terminated(self.run, how)


WRITERS = {"mlflow": _Mlflow, "tensorboard": _TensorBoard}
