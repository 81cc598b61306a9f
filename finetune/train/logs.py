"""The figures of a training for other programs: TensorBoard's event files, MLflow's database; all on this machine.

They hold times and names of the machine, so they stand outside the artifact's digest (``LOGS``).
"""

from __future__ import annotations

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


class Logs:
    """Writes numbers by step to each program named in ``to``."""

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

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of a step, e.g. ``train/loss``."""
        if not self.to or step <= self.last:
            return
        for writer in self.writers:
            writer.write(step, values)
        write_json(self._last, {"step": step})

    def end(self, out: Path) -> None:
        """Close the files and put a copy of them beside the model."""
        for writer in self.writers:
            writer.close()
        if self.to:
            shutil.copytree(self.place, out / LOGS, ignore=shutil.ignore_patterns(LAST))


class _TensorBoard:
    def __init__(self, place: Path) -> None:
        need("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(place / "tensorboard"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
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

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run, name, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.run)


WRITERS = {"mlflow": _Mlflow, "tensorboard": _TensorBoard}
