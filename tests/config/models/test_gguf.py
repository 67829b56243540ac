"""GGUF files of strangers: what their headers say, and every way in which they are refused."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf as official
import numpy as np
import pytest

from ida_tui.config.model_files import inspect_model
from ida_tui.config.models import gguf, gguf_header
from ida_tui.config.models.gguf_header import BLOCKS, GgufError, read_header
from ida_tui.config.schema import ModelConfig
from tests.support.gguf_files import write_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf", quantization="Q8_0")


def test_a_header_tells_the_size_shape_context_license_and_template(whole: Path) -> None:
    model = gguf.read_model(whole)

    embedded = inspect_model(ModelConfig(path="embedded"))
    assert model.parameters == embedded.parameters
    assert model.settings["hidden_size"] == 128
    assert model.settings["max_position_embeddings"] == 1024
    assert model.settings["vocab_size"] == 1536
    assert model.settings["tie_word_embeddings"] is True
    assert (model.quantization, model.stored_dtype) == ("Q8_0", "float32")
    assert model.unpacked_bytes == 4 * model.parameters
    assert model.licence == "apache-2.0"
    assert "<|im_start|>" in model.chat_template


def test_the_tensors_are_those_that_the_official_reader_finds(whole: Path) -> None:
    found = {t.name: (t.shape, t.start, t.size) for t in read_header(whole).tensors}

    official_tensors = official.GGUFReader(whole).tensors
    assert found == {
        t.name: (tuple(reversed(t.shape.tolist())), t.data_offset, t.n_bytes)
        for t in official_tensors
    }


def test_every_tensor_type_has_the_blocks_of_the_official_package_and_can_be_unpacked() -> None:
    for number, (name, values, size) in BLOCKS.items():
        kind = official.GGMLQuantizationType(number)
        assert (kind.name, *official.GGML_QUANT_SIZES[kind]) == (name, values, size)
        unpacked = official.dequantize(np.zeros((1, size), np.uint8), kind)
        assert unpacked.shape == (1, values)


def test_a_file_that_is_cut_off_anywhere_is_refused(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in (0, 3, 4, 20, 60, 400, 20_000, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(GgufError, match=r"is truncated|is no GGUF file"):
            gguf.read_model(cut)


def test_a_header_that_is_too_long_is_not_called_truncated(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_header, "MAX_HEADER_BYTES", 1 << 10)
    assert "has a header of more than 0 MB" in str(gguf_header._read_cached(whole, -1, -1))


def test_a_file_that_was_refused_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "old.gguf"
    file.write_bytes(_file(version=1))
    for _ in range(2):
        with pytest.raises(GgufError, match="unknown version 1"):
            read_header(file)
        monkeypatch.delattr(gguf_header, "_Reader", raising=False)


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def _tensor(name: str, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    head = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
    return head + struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)


def _file(*, version: int = 3, tensors: int = 0, entries: int = 0, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + body + bytes(256)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"PK\x03\x04" + bytes(100), "is no GGUF file"),
        (_file(version=1), "unknown version 1"),
        (_file(version=3 << 24), "big-endian"),
        (_file(tensors=1 << 40), "claims 1,099,511,627,776 tensors"),
        (_file(entries=1 << 62), "metadata entries"),
        (_file(entries=1, body=struct.pack("<Q", 1 << 63)), "too long"),
        (_file(entries=1, body=_entry("a", 8, struct.pack("<Q", 1 << 40))), "too long"),
        (_file(entries=1, body=_entry("a", 9, struct.pack("<IQ", 4, 1 << 60))), "items"),
        (_file(entries=1, body=_entry("a", 9, struct.pack("<IQ", 8, 4_000_000))), "is truncated"),
        (_file(entries=1, body=_entry("a", 9, struct.pack("<IQ", 9, 1))), "unknown type 9"),
        (_file(entries=1, body=_entry("a", 77, b"")), "unknown type 77"),
        (_file(entries=2, body=_entry("a", 0, b"1") * 2), "entry a twice"),
        (_file(entries=1, body=_entry("general.alignment", 4, bytes(4))), "alignment"),
        (_file(tensors=1, body=_tensor("a", *[1] * 9)), "9 dimensions"),
        (_file(tensors=1, body=_tensor("a", 1 << 40, 1 << 40)), "impossible shape"),
        (_file(tensors=1, body=_tensor("a", 0)), "impossible shape"),
        (_file(tensors=1, body=_tensor("a", 33, kind=8)), "no whole blocks of Q8_0"),
        (_file(tensors=1, body=_tensor("a", 1 << 30)), "is truncated"),
        (_file(tensors=2, body=_tensor("a", 8) * 2), "two tensors of one name"),
        (_file(tensors=2, body=_tensor("a", 8) + _tensor("b", 8, offset=16)), "overlaps"),
    ],
)
def test_a_header_that_lies_is_refused_with_what_is_wrong(
    data: bytes, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "lies.gguf"
    file.write_bytes(data)
    with pytest.raises(GgufError, match=problem):
        read_header(file)


@pytest.mark.parametrize(
    ("architecture", "change", "problem"),
    [
        ("mamba", lambda w: None, "has the architecture mamba, which cannot be read from GGUF"),
        ("clip", lambda w: None, "is the image part of a model"),
        ("qwen3", lambda w: w.add_expert_count(8), "is a mixture of experts"),
        ("qwen3", lambda w: w.add_uint16("split.count", 3), "llama-gguf-split --merge"),
    ],
)
def test_a_model_that_cannot_be_unpacked_is_refused_by_name(
    architecture: str,
    change: Callable[[official.GGUFWriter], object],
    problem: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "other.gguf"
    writer = official.GGUFWriter(file, architecture)
    change(writer)
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GgufError, match=problem):
        gguf.read_model(file)


def test_unknown_tensors_splittings_scalings_and_layers_are_refused(tmp_path: Path) -> None:
    stretched = write_gguf(
        tmp_path / "s.gguf", change=lambda w: w.add_string("qwen3.rope.scaling.type", "yarn")
    )
    with pytest.raises(GgufError, match=r"stretches its context \(rope\.scaling\)"):
        gguf.read_model(stretched)
    extra = {"vision.weight": np.zeros((32, 32), np.float32)}
    with pytest.raises(GgufError, match=r"unknown tensor vision\.weight"):
        gguf.read_model(write_gguf(tmp_path / "a.gguf", tensors=extra))
    layer = {"blk.9.attn_q.weight": np.zeros((32, 32), np.float32)}
    with pytest.raises(GgufError, match="contains 5 layers"):
        gguf.read_model(write_gguf(tmp_path / "b.gguf", tensors=layer))
    data = write_gguf(tmp_path / "c.gguf").read_bytes()
    (tmp_path / "c.gguf").write_bytes(data.replace(b"gpt-2", b"gpt-9"))
    with pytest.raises(GgufError, match=r"splits text in an unknown way \(gpt-9\)"):
        gguf.read_model(tmp_path / "c.gguf")


def test_copies_share_a_folder_and_other_weights_get_another(whole: Path, tmp_path: Path) -> None:
    data = bytearray(whole.read_bytes())
    copy, other = tmp_path / "copy.gguf", tmp_path / "other.gguf"
    copy.write_bytes(data)
    data[-100] ^= 1
    other.write_bytes(data)

    assert gguf.unpacked_folder(copy) == gguf.unpacked_folder(whole)
    assert gguf.unpacked_folder(other) != gguf.unpacked_folder(whole)


def test_a_fingerprint_takes_little_memory_wherever_the_tensors_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "late.gguf"
    file.write_bytes(_file(tensors=1, body=_tensor("a", 8, offset=64 << 20)))
    os.truncate(file, 80 << 20)
    monkeypatch.setattr(gguf, "MAX_HEADER_BYTES", 1 << 20)
    tracemalloc.start()
    try:
        gguf.fingerprint(file)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_large_quantized_model_is_stored_in_16_bits() -> None:
    assert gguf._stored_dtype({"Q4_K", "Q6_K"}, 8_000_000_000) == "float16"
    assert gguf._stored_dtype({"Q4_K", "Q6_K"}, 1_000_000_000) == "float32"
    assert gguf._stored_dtype({"BF16"}, 1_000_000_000) == "bfloat16"


def test_a_name_from_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "names.gguf"
    file.write_bytes(_file(entries=1, body=_entry("\x1b[2J" + "x" * 900, 77, b"")))
    with pytest.raises(GgufError) as refused:
        read_header(file)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) <= 300
