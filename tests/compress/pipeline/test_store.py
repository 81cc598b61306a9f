import json
import threading

import pytest

from compress.artifact import MEASUREMENTS, open_artifact, seal, sniff_kind
from compress.errors import ArtifactError
from compress.pipeline.store import Fingerprints, Store, publish, run_key

RECORD = {"kind": "data", "stage": "data.files", "stage_version": 1, "params": {}, "inputs": {}, "facts": {"rows": 1}}


def make(store, key, text="hello"):
    with store.workplace(key) as place:
        (place.out / "train.jsonl").write_text(text)
        return store.commit(key, place, **RECORD)


def test_committed_artifact_opens_with_its_facts(tmp_path):
    store = Store(tmp_path)
    made = make(store, "a" * 32)
    assert made.facts == {"rows": 1}
    assert made.size_bytes() == 5
    assert store.get("a" * 32, verify=True).digest == made.digest
    assert not (tmp_path / ".partial" / ("a" * 32)).exists()


def test_unfinished_output_has_no_valid_name_and_scratch_survives(tmp_path):
    store = Store(tmp_path)
    with store.workplace("k") as place:
        (place.out / "half").write_text("x")
        (place.scratch / "checkpoint").write_text("7")
    assert store.get("k") is None
    with store.workplace("k") as place:
        assert list(place.out.iterdir()) == []
        assert (place.scratch / "checkpoint").read_text() == "7"


def test_equal_content_has_an_equal_digest_whatever_was_measured(tmp_path):
    digests = []
    for name, reading in (("x", 1), ("y", 2)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.jsonl").write_text("same")
        (folder / MEASUREMENTS).write_text(json.dumps({"seconds": reading}))
        digests.append(seal(folder, **RECORD).digest)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("damage", ["flip", "remove", "grow", "record"])
def test_damage_is_named(tmp_path, damage):
    store = Store(tmp_path)
    path = make(store, "k").path
    target = path / ("artifact.json" if damage == "record" else "train.jsonl")
    target.chmod(0o644)
    if damage == "remove":
        target.unlink()
    else:
        target.write_text({"flip": "hellp", "grow": "hello!", "record": "{"}[damage])
    with pytest.raises(ArtifactError, match=target.name):
        store.get("k", verify=True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: r["files"].update({"../x": r["files"].pop("train.jsonl")}), r"names '\.\./x', which is no file of"),
        (lambda r: r["files"].update({"/etc/hostname": {"size": 1, "sha256": ""}}), "names '/etc/hostname'"),
        (lambda r: r["files"].update({"x": {"size": 1}}), "names 'x'"),
        (lambda r: r.update(files=[]), "not a valid artifact record"),
        (lambda r: r.update(kind="hf"), "its digest is not that of its files"),
    ],
)
def test_a_record_that_was_changed_is_named(tmp_path, change, why):
    path = make(Store(tmp_path), "k").path / "artifact.json"
    record = json.loads(path.read_text())
    change(record)
    path.chmod(0o644)
    path.write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=why):
        open_artifact(path.parent)


def test_a_link_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="is a link"):
        seal(tmp_path / "a", **RECORD)


def test_links_in_a_model_folder_count_as_their_files(tmp_path):
    """The hub's cache holds snapshots of links into a folder of blobs."""
    plain, snapshot, blobs = tmp_path / "plain", tmp_path / "snapshots" / "1", tmp_path / "blobs"
    for folder in (plain, snapshot, blobs):
        folder.mkdir(parents=True)
    for number, name in enumerate(("config.json", "model.safetensors")):
        (plain / name).write_text("{}")
        (blobs / str(number)).write_text("{}")
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert open_artifact(snapshot).digest == open_artifact(plain).digest
    assert Fingerprints(tmp_path).of(snapshot) == Fingerprints(tmp_path).of(plain)
    (blobs / "1").unlink()
    with pytest.raises(ArtifactError, match="is a link"):
        open_artifact(snapshot)


def test_only_one_worker_at_a_time(tmp_path):
    store = Store(tmp_path)
    entered = threading.Event()

    def second():
        with Store(tmp_path).workplace("k"):
            entered.set()

    with store.workplace("k"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(5)
    assert entered.is_set()


def test_fingerprint_follows_content(tmp_path):
    file = tmp_path / "f"
    file.write_text("one")
    first = Fingerprints(tmp_path).of(file)
    assert Fingerprints(tmp_path).of(file) == first
    file.write_text("three")
    assert Fingerprints(tmp_path).of(file) != first


def test_published_copy_replaces_an_older_one(tmp_path):
    store = Store(tmp_path / "s")
    first, second = make(store, "a", "one"), make(store, "b", "two")
    publish(first, tmp_path / "bundle")
    publish(second, tmp_path / "bundle")
    assert open_artifact(tmp_path / "bundle").digest == second.digest


def test_key_depends_on_every_part():
    parts = {"use": "x", "seed": 1}
    assert run_key(parts) == run_key(dict(reversed(parts.items())))
    assert run_key(parts) != run_key({**parts, "seed": 2})


def test_foreign_folders_are_recognised(tmp_path, tiny_llama):
    assert sniff_kind(tiny_llama) == "hf"
    with pytest.raises(ArtifactError, match="not a model"):
        sniff_kind(tmp_path)
