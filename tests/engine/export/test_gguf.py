"""GGUF export: where the converter is found, how it is called, and the check of what it writes.

A stand-in takes the place of llama.cpp's converter, which is not on the package index.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from ida_tui.engine.export import gguf
from ida_tui.errors import IdaError

STAND_IN = """\
#!/usr/bin/env python
import json, os, sys
from pathlib import Path
import gguf
from safetensors.numpy import load_file
from beside import SCALE

def main():
    folder, _, file, _, outtype = sys.argv[1:]
    Path(os.environ["SEEN"]).write_text(json.dumps([sys.argv, os.getcwd(), gguf.__file__]))
    writer = gguf.GGUFWriter(file, "llama")
    for name, values in load_file(Path(folder) / "model.safetensors").items():
        if outtype == "q8_0" and values.ndim > 1:
            kind = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quants.quantize(values * SCALE, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
        else:
            writer.add_tensor(name, values * SCALE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
"""
FAILING = """\
import sys
def main():
    print("ERROR: Model OtherForCausalLM is not supported", file=sys.stderr)
    sys.exit(1)
"""
QUANTIZER = f"""\
#!{sys.executable}
import shutil, sys
source, file, kind = sys.argv[1:]
print(kind, file=sys.stderr)
if kind == "Q4_K_M":
    shutil.copy(source, file)
"""
CUT_OFF = """\
import sys
from pathlib import Path
def main():
    Path(sys.argv[3]).write_bytes(b"GGUF")
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    values = numpy.arange(96, dtype=numpy.float32).reshape(3, 32)
    save_file({"embedding": values, "norm": values[0].copy()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which the stand-in writes how it was called."""
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    return tmp_path / "seen.json"


def write_stand_in(folder: Path, script: str = STAND_IN, scale: float = 1.0) -> Path:
    folder.mkdir()
    file = folder / gguf.CONVERTER_FILE
    file.write_text(script)
    file.chmod(0o755)
    (folder / "beside.py").write_text(f"SCALE = {scale}\n")
    return file


def test_the_converter_of_the_folder_in_llama_cpp_is_used_before_that_on_path(
    tmp_path: Path, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = write_stand_in(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert gguf.find_converter() == on_path

    checkout = write_stand_in(tmp_path / "llama.cpp")
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path / "llama.cpp"))
    assert gguf.find_converter() == checkout


def test_a_link_on_path_leads_to_the_folder_with_the_converters_modules(
    tmp_path: Path, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_stand_in(tmp_path / "cellar")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / file.name).symlink_to(file)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert gguf.find_converter() == file


def test_a_folder_without_the_converter_is_named_even_if_one_is_on_path(
    tmp_path: Path, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stand_in(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("LLAMA_CPP", "/nowhere/llama.cpp")
    with pytest.raises(
        IdaError, match=r"there is no convert_hf_to_gguf\.py in /nowhere/llama\.cpp"
    ):
        gguf.find_converter()


def test_without_the_package_gguf_its_installation_is_named(
    tmp_path: Path, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stand_in(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(IdaError) as raised:
        gguf.find_converter()
    assert "uv sync --extra gguf" in raised.value.hint


def test_the_converter_gets_the_model_the_file_and_the_format_and_its_file_is_checked(
    tmp_path: Path, model: Path, seen: Path
) -> None:
    converter = write_stand_in(tmp_path / "llama.cpp")
    # A file in the working folder never takes the place of a library.
    Path("gguf.py").write_text("raise SystemExit('the working folder was imported')\n")
    file = tmp_path / "mine.gguf"

    summary = gguf.convert_to_gguf(gguf.Tools(converter), model, file, "float32")

    assert summary == "checked the GGUF file: 2 tensors, all matrices match"
    arguments, _, library = json.loads(seen.read_text())
    assert arguments == [
        str(converter), str(model), "--outfile", str(file), "--outtype", "f32",
    ]  # fmt: skip
    assert Path(library).parent.name == "gguf"


@pytest.mark.parametrize(
    ("script", "scale", "expected"),
    [
        (STAND_IN, 1.01, "the values of a matrix differ"),
        (CUT_OFF, 1.0, "it cannot be read"),
        (FAILING, 1.0, "nothing was converted: ERROR: Model OtherForCausalLM is not supported"),
        ("def main(): pass\n", 1.0, "nothing was converted: convert_hf_to_gguf.py ended early"),
    ],
    ids=["other values", "cut off", "unsupported", "no file"],
)
def test_a_failed_or_wrong_conversion_is_one_error(
    tmp_path: Path, model: Path, seen: Path, script: str, scale: float, expected: str
) -> None:
    converter = write_stand_in(tmp_path / "llama.cpp", script, scale)
    with pytest.raises(IdaError) as raised:
        gguf.convert_to_gguf(gguf.Tools(converter), model, tmp_path / "mine.gguf", "float32")
    assert expected in raised.value.title
    assert "llama.cpp" in raised.value.hint


def test_q8_0_is_written_by_the_converter_and_compared_with_the_exact_file(
    tmp_path: Path, model: Path, seen: Path
) -> None:
    tools = gguf.Tools(write_stand_in(tmp_path / "llama.cpp"))
    exact, rounded = tmp_path / "exact.gguf", tmp_path / "rounded.gguf"
    gguf.convert_to_gguf(tools, model, exact, "float32")

    summary = gguf.quantize(tools, model, exact, rounded, "q8_0")

    assert summary == "rounded to q8_0: each matrix within 0.3%"
    assert json.loads(seen.read_text())[0][-2:] == ["--outtype", "q8_0"]
    assert rounded.stat().st_size < exact.stat().st_size


def test_a_rounded_file_of_other_values_is_one_error(
    tmp_path: Path, model: Path, seen: Path
) -> None:
    exact = tmp_path / "exact.gguf"
    gguf.convert_to_gguf(gguf.Tools(write_stand_in(tmp_path / "a")), model, exact, "float32")
    other = gguf.Tools(write_stand_in(tmp_path / "b", scale=1.1))
    with pytest.raises(IdaError, match="does not match the exported model: a matrix differs by 1"):
        gguf.quantize(other, model, exact, tmp_path / "rounded.gguf", "q8_0")


@pytest.mark.parametrize("place", [".", "build/bin"])
def test_q4_k_m_is_written_by_llama_quantize_of_the_folder_in_llama_cpp(
    tmp_path: Path, model: Path, seen: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    checkout = write_stand_in(tmp_path / "llama.cpp").parent
    quantizer = checkout / place / gguf.QUANTIZER
    quantizer.parent.mkdir(parents=True, exist_ok=True)
    quantizer.write_text(QUANTIZER)
    quantizer.chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP", str(checkout))
    tools = gguf.find_tools("q4_k_m")
    exact, rounded = tmp_path / "exact.gguf", tmp_path / "rounded.gguf"
    gguf.convert_to_gguf(tools, model, exact, "float32")

    assert gguf.quantize(tools, model, exact, rounded, "q4_k_m").startswith("rounded to q4_k_m")
    assert rounded.is_file()


def test_without_llama_quantize_the_ways_to_get_it_are_named_before_anything_is_written(
    ida_tui_here: Any, own_run: Path, tmp_path: Path, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CPP", str(write_stand_in(tmp_path / "llama.cpp").parent))
    done = ida_tui_here("export", "quickstart", "--gguf", "--dtype", "q4_k_m")
    assert done.code == 1
    assert "llama-quantize is missing" in done.err
    assert "brew install llama.cpp" in done.err
    assert not (own_run / "export").exists()


def test_a_gguf_export_has_a_modelfile_and_prints_the_command_for_ollama(
    ida_tui_here: Any, own_run: Path, tmp_path: Path, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CPP", str(write_stand_in(tmp_path / "llama.cpp").parent))
    done = ida_tui_here("export", "quickstart", "--gguf", "--dtype", "q8_0", "--json")
    assert done.code == 0, done.err

    result = json.loads(done.out)
    folder = Path(result["folder"])
    [file] = folder.glob("*.gguf")
    modelfile = (folder / "Modelfile").read_text()
    assert modelfile.startswith(f'FROM ./{file.name}\nTEMPLATE """')
    assert modelfile.endswith('PARAMETER stop "<|im_end|>"\n')
    assert result["dtype"] == json.loads((folder / "export.json").read_text())["dtype"] == "q8_0"
    command = "ollama create quickstart -f outputs/quickstart/"
    assert command in done.err
    assert result["ollama"].startswith(command)
    assert "in q8_0, as a GGUF file" in (folder / "README.md").read_text()
    assert {path.name for path in folder.iterdir()} == {
        file.name, "Modelfile", "README.md", "export.json",
    }  # fmt: skip


def test_a_quantized_format_needs_gguf(ida_tui_here: Any, own_run: Path) -> None:
    done = ida_tui_here("export", "quickstart", "--merged", "--dtype", "q8_0")
    assert done.code == 2
    assert "--dtype q8_0 needs --gguf" in done.err


def test_without_a_converter_nothing_is_exported_and_the_way_to_get_it_is_printed(
    ida_tui_here: Any, own_run: Path, seen: Path
) -> None:
    done = ida_tui_here("export", "quickstart", "--gguf")
    assert done.code == 1
    assert "llama.cpp's converter is missing" in done.err
    assert "LLAMA_CPP=" in done.err
    assert not (own_run / "export").exists()
