"""Stage ``source.hf``: a base model from the hub, checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from compress.chat_files import TEMPLATE_FILES
from compress.costs import WORKER, Work
from compress.errors import HoldfastError, UsageError
from compress.extras import need
from compress.model.files import INDEX, SINGLE, is_indexed, shard_names
from compress.model.outline import folder_outline
from compress.outline import Outline
from compress.stage import Job, JobOutline, Needs, Params, Stage
from finetune.source.folder import KEPT, check_model_folder, take
from finetune.source.template import make_default

HASHED = 30
"""Bytes moved for one that is copied to disk, read back and hashed."""


class HubParams(Params):
    hf: str = Field(pattern=r"^[\w.\-]+/[\w.\-]+$")
    """Repository on the hub: ``organisation/name``."""
    revision: str = Field(min_length=1)
    """Commit, tag or branch. A commit makes the run repeatable."""
    template: str | None = None
    """Which of several named chat templates is used from here on; by default the model's own default."""


class HubSource(Stage[HubParams]):
    """Downloads configuration, tokenizer and safetensors of one revision."""

    Params = HubParams
    accepts = frozenset()
    produces = "hf"
    version = 2
    modules = frozenset({"transformers"})
    online = True

    def outline(self, job: JobOutline[HubParams]) -> Outline:
        """What the hub's own cache holds of that revision. Raises LookupError where it holds nothing."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(job.params.hf, "config.json", revision=job.params.revision)
        folder = Path(found).parent if isinstance(found, str) else None
        if folder is None or not any(folder.glob("*.safetensors")):
            raise LookupError(f"{job.params.hf} is not on this machine yet")
        return folder_outline(folder)

    def needs(self, job: JobOutline[HubParams]) -> Needs:
        """Twice on disk while it is copied; the network's time is not counted."""
        size = self.outline(job).disk_bytes
        return Needs(2 * size, WORKER, Work(moved=HASHED * size, python=1.0))

    def run(self, job: Job[HubParams]) -> Mapping[str, Any]:
        folder = download(job.params.hf, job.params.revision, job.scratch / "hub")
        taken = take(folder, check_model_folder(folder), job)
        if job.params.template is not None:
            make_default(job.out, job.params.template)
        return taken | {"repository": job.params.hf}


def download(repository: str, revision: str, folder: Path) -> Path:
    """The files of one revision that are needed, resumable in ``folder``: of the weights those that transformers
    would load, so the index comes first where the model has shards."""
    need("transformers")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        wanted: dict[str, Any] = {"repo_id": repository, "revision": revision, "local_dir": folder}
        snapshot_download(**wanted, allow_patterns=[*KEPT, TEMPLATE_FILES, SINGLE, INDEX])
        if is_indexed(folder) and (folder / INDEX).is_file():
            snapshot_download(**wanted, allow_patterns=shard_names(folder))
        return folder
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = f"{repository}@{revision} is not on the hub, or needs a login: {str(error).splitlines()[0]}"
        raise UsageError(what, next="check the name and the revision, or run: hf auth login") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        what = f"cannot fetch {repository}@{revision}: {type(error).__name__}: {str(error).splitlines()[0]}"
        hint = "check the network, or use source: {path: {path: FOLDER}} with a downloaded model"
        raise HoldfastError(what, next=hint) from None
