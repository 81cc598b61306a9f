"""A model in several .gguf files is taken whole, or refused by name where one file is needed."""

import shutil

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf_export import export
from small_folder import write_model

import runtime
from compress.artifact import open_artifact
from compress.errors import ArtifactError
from export.bundle.stage import copy_model
from runtime.engine.gguf_split import parts_of, require_whole
from runtime.session import find_model


def cut(path, folder, tensors):
    """``path`` as several files of at most ``tensors`` tensors, by llama.cpp's own writer."""
    folder.mkdir()
    reader, writer = GGUFReader(path), GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=tensors)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if field.types[0] == GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("gguf")
    return export(write_model(place / "hf", hidden=64, ffn=96, heads=4), place)


@pytest.fixture
def parts(whole, tmp_path):
    return cut(whole, tmp_path / "parts", 8)


def test_the_runtime_opens_all_of_it(whole, parts):
    assert len(parts) == 3
    with runtime.load(whole) as session:
        expected = session.logits([1, 20, 33])
    for path in (parts[0], parts[0].parent):
        assert find_model(path) == ("gguf", parts[0])
        with runtime.load(path) as session:
            assert np.array_equal(session.logits([1, 20, 33]), expected)
    shutil.copy(whole, parts[0].parent)
    with pytest.raises(ArtifactError, match=r"several .gguf files"):
        find_model(parts[0].parent)


def test_size_and_digest_are_of_all_files(parts):
    before = open_artifact(parts[0])
    assert before.size_bytes() == sum(part.stat().st_size for part in parts)
    raw = bytearray(parts[-1].read_bytes())
    raw[-64:] = bytes(64)
    parts[-1].write_bytes(raw)
    assert open_artifact(parts[0]).digest != before.digest


def test_where_one_file_is_needed_it_is_refused(parts, tmp_path):
    for path in (parts[0], parts[0].parent):
        with pytest.raises(ArtifactError, match=r"m-00001-of-00003.gguf is the first of 3 files") as caught:
            copy_model(open_artifact(path), tmp_path)
        assert "llama-gguf-split --merge" in str(caught.value)


def test_a_part_alone_is_refused(parts):
    with pytest.raises(ArtifactError, match="is part 2 of 3"):
        open_artifact(parts[1])
    parts[2].unlink()
    for use in (open_artifact, find_model, require_whole):
        with pytest.raises(ArtifactError, match=r"m-00003-of-00003.gguf is missing"):
            use(parts[0])


def test_one_file_is_itself(whole):
    assert parts_of(whole) == [whole]
    require_whole(whole)
