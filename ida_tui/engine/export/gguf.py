"""Conversion of a full model to GGUF with llama.cpp's own programs, and checks of the files that they wrote.

The converter is a script of llama.cpp, which is not on the package index. It runs in a separate process,
started from this file:

    python -P -m ida_tui.engine.export.gguf SCRIPT FOLDER --outfile FILE --outtype TYPE
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ida_tui.config.precision import WeightFormat
from ida_tui.errors import IdaError
from ida_tui.util.paths import display_path, is_file
from ida_tui.util.secrets import environment_without_secrets

CONVERTER_TYPES: Mapping[WeightFormat, str] = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
}
Quantization = Literal["q8_0", "q4_k_m"]
"""A format of 8 or about 4 bits per weight, in llama.cpp's words."""
LARGEST_ERROR: Mapping[Quantization, float] = {"q8_0": 0.02, "q4_k_m": 0.2}
"""Largest allowed error of a matrix, relative to its norm; three times what both formats have."""
CONVERTER_FILE = "convert_hf_to_gguf.py"
QUANTIZER = "llama-quantize"
GET_CONVERTER = (
    "get llama.cpp: git clone https://github.com/ggml-org/llama.cpp\n"
    "then: LLAMA_CPP=PATH/llama.cpp ida-tui export RUN --gguf   (or have its "
    f"{CONVERTER_FILE} on PATH)"
)
NEWER_CONVERTER = "a newer llama.cpp: LLAMA_CPP=PATH/llama.cpp ida-tui export RUN --gguf"
GET_QUANTIZER = (
    f"install llama.cpp, which has {QUANTIZER}: brew install llama.cpp, or build it in the folder that\n"
    f"LLAMA_CPP names: cmake -B build && cmake --build build --target {QUANTIZER}\n"
    "or use --dtype q8_0, which needs the converter only"
)
GPT2_PRE_TOKENIZER = "gpt-2"
"""llama.cpp's name for byte-level BPE with GPT-2's pattern."""
SUM_TOLERANCE = 1e-6
"""Largest allowed relative difference of a matrix's sum: values are copied, but summed in another order."""
ROWS_AT_ONCE = 4096
"""Rows of a matrix that are compared at once, which bounds the memory that this takes."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs of llama.cpp that an export needs."""

    converter: Path
    quantizer: Path | None = None
    """Only for q4_k_m."""


def find_tools(quantization: Quantization | None) -> Tools:
    """The programs for an export, rounded to this format or not rounded.

    Raises:
        IdaError: one is missing.
    """
    return Tools(find_converter(), find_quantizer() if quantization == "q4_k_m" else None)


def find_quantizer() -> Path:
    """`llama-quantize`, in the folder that `LLAMA_CPP` names or its build, else on PATH.

    Raises:
        IdaError: it is missing.
    """
    if folder := os.environ.get("LLAMA_CPP", ""):
        root = Path(folder).expanduser().absolute()
        for place in (root, root / "build" / "bin", root / "bin"):
            if is_file(place / QUANTIZER):
                return place / QUANTIZER
    found = shutil.which(QUANTIZER)
    if found is None:
        raise IdaError(f"nothing was converted: {QUANTIZER} is missing", GET_QUANTIZER)
    return Path(found)


def find_converter() -> Path:
    """The converter's script, in the folder that `LLAMA_CPP` names, else on PATH.

    Raises:
        IdaError: the converter or the package `gguf`, which it uses, is missing.
    """
    folder = os.environ.get("LLAMA_CPP", "")
    if folder:
        script = Path(folder).expanduser().absolute() / CONVERTER_FILE
        if not is_file(script):
            raise IdaError(
                f"nothing was converted: there is no {CONVERTER_FILE} in {display_path(script.parent)}",
                f"set LLAMA_CPP to a checkout of llama.cpp, or unset it\n{GET_CONVERTER}",
                where="LLAMA_CPP",
            )
    else:
        found = shutil.which(CONVERTER_FILE)
        if found is None:
            raise IdaError("nothing was converted: llama.cpp's converter is missing", GET_CONVERTER)
        script = Path(found)
    if find_spec("gguf") is None:
        raise IdaError(
            "nothing was converted: the package gguf is not installed",
            "install it: uv sync --extra gguf   (or pip install 'ida-tui[gguf]')",
        )
    # Its modules lie beside the real file.
    return script.resolve()


def convert_to_gguf(tools: Tools, folder: Path, file: Path, dtype: WeightFormat) -> str:
    """Convert a full model; returns a one-line summary of the check of the file.

    Args:
        tools: the programs, from `find_tools`.
        folder: the model, in the format of transformers.
        file: the GGUF file to write.
        dtype: format of the matrices.

    Raises:
        IdaError: the model cannot be converted, or the file does not hold the model.
    """
    _run_converter(tools.converter, folder, file, CONVERTER_TYPES[dtype])
    count, problem = _check_file(folder, file)
    if problem:
        raise IdaError(
            f"the GGUF file does not match the exported model: {problem}",
            f"Nothing was exported. Use {NEWER_CONVERTER}",
        )
    return f"checked the GGUF file: {count} tensors, all matrices match"


def quantize(tools: Tools, folder: Path, source: Path, file: Path, dtype: Quantization) -> str:
    """Write a quantized GGUF file; returns a one-line summary of its comparison with the one that is not.

    Args:
        tools: the programs, from `find_tools`.
        folder: the model, in the format of transformers.
        source: the same model as a GGUF file that was checked.
        file: the file to write.
        dtype: format of the matrices.

    Raises:
        IdaError: the file cannot be written, or its matrices are not close to the model's.
    """
    if dtype == "q8_0":
        _run_converter(tools.converter, folder, file, dtype)
    else:
        assert tools.quantizer is not None
        command = [str(tools.quantizer), str(source), str(file), dtype.upper()]
        _run_program(command, tools.quantizer, file)
    error, problem = _largest_error(source, file)
    if not problem and error > LARGEST_ERROR[dtype]:
        problem = f"a matrix differs by {error:.0%}"
    if problem:
        raise IdaError(
            f"the {dtype} file does not match the exported model: {problem}",
            f"Nothing was exported. Use {NEWER_CONVERTER}",
        )
    return f"rounded to {dtype}: each matrix within {error:.1%}"


def adds_bos(file: Path) -> bool:
    """Whether programs that load this GGUF file write the first token (BOS) themselves."""
    gguf: Any = import_module("gguf")
    reader = gguf.GGUFReader(str(file))
    field = reader.get_field("tokenizer.ggml.add_bos_token")
    if field is not None:
        return bool(field.contents())
    tokenizer = reader.get_field("tokenizer.ggml.model")
    return tokenizer is not None and tokenizer.contents() == "llama"  # SentencePiece


def _run_converter(converter: Path, folder: Path, file: Path, outtype: str) -> None:
    options = ["--outfile", str(file), "--outtype", outtype]
    command = [sys.executable, "-P", "-m", __name__, str(converter), str(folder), *options]
    _run_program(command, converter, file)


def _run_program(command: list[str], program: Path, file: Path) -> None:
    """Run a program of llama.cpp that writes a file.

    Raises:
        IdaError: it failed, with the last line of what it printed.
    """
    process = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=environment_without_secrets(),
    )
    if process.returncode or not is_file(file):
        lines = [line for line in process.stderr.splitlines() if line.strip()]
        raise IdaError(
            f"nothing was converted: {lines[-1][:300] if lines else f'{program.name} ended early'}",
            f"this is the message of {display_path(program)}: install what it needs, or use\n"
            f"{NEWER_CONVERTER}",
        )


def _check_file(folder: Path, file: Path) -> tuple[int, str]:
    """Compare the file's matrices with the model's, by size and sum: the format may reorder a matrix.

    Returns:
        The number of tensors in the file, and what does not match; empty if all does.
    """
    from safetensors import safe_open

    gguf: Any = import_module("gguf")
    expected = []
    for part in sorted(folder.glob("*.safetensors")):
        with safe_open(str(part), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name)
                if tensor.ndim > 1:
                    expected.append((tensor.numel(), float(tensor.double().abs().sum())))
    try:
        reader = gguf.GGUFReader(str(file))
    except (ValueError, IndexError, OSError) as error:
        return 0, f"it cannot be read: {error}"
    actual = []
    for tensor in reader.tensors:
        if len(tensor.shape) > 1:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            actual.append((int(values.size), float(abs(values.astype("float64")).sum())))
    if len(actual) != len(expected):
        return 0, f"the file has {len(actual)} matrices, the model has {len(expected)}"
    pairs = zip(sorted(expected), sorted(actual), strict=True)
    if any(
        size != actual_size or abs(total - actual_total) > SUM_TOLERANCE * max(total, actual_total)
        for (size, total), (actual_size, actual_total) in pairs
    ):
        return 0, "the values of a matrix differ"
    return len(reader.tensors), ""


def _largest_error(source: Path, file: Path) -> tuple[float, str]:
    """Compare the matrices of two GGUF files by name.

    Returns:
        The largest error of a matrix relative to its norm, and what prevents the comparison; empty if nothing
        does.
    """
    gguf: Any = import_module("gguf")
    try:
        matrices, rounded = (
            {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}
            for path in (source, file)
        )
    except (ValueError, IndexError, OSError) as error:
        return 0.0, f"it cannot be read: {error}"
    if matrices.keys() != rounded.keys():
        return 0.0, "it has other tensors"
    largest = 0.0
    for name, matrix in matrices.items():
        if list(matrix.shape) != list(rounded[name].shape):
            return 0.0, f"{name} has another shape"
        squares = [0.0, 0.0]
        pair = [_rows(matrix), _rows(rounded[name])]
        for start in range(0, len(pair[0]), ROWS_AT_ONCE):
            values, approximate = (
                gguf.quants.dequantize(rows[start : start + ROWS_AT_ONCE], tensor.tensor_type)
                for rows, tensor in zip(pair, (matrix, rounded[name]), strict=True)
            )
            squares[0] += float((values.astype("float64") ** 2).sum())
            squares[1] += float(((values - approximate).astype("float64") ** 2).sum())
        if not math.isfinite(squares[1]):
            return 0.0, f"{name} has values that are not numbers"
        if squares[1]:
            largest = max(largest, (squares[1] / squares[0]) ** 0.5 if squares[0] else 1.0)
    return largest, ""


def _rows(tensor: Any) -> Any:
    """A tensor's data as rows, which may be packed."""
    return tensor.data.reshape(-1, tensor.data.shape[-1])


# -- in the separate process ---------------------------------------------------------------------


def _main(script: Path, arguments: list[str]) -> None:
    # A checkout has the package gguf that its converter needs, which may be newer than the installed one.
    sys.path[:0] = [str(script.parent), str(script.parent / "gguf-py")]
    converter: Any = import_module(script.stem)
    _accept_gpt2_tokenizers(converter)
    sys.argv = [str(script), *arguments]
    converter.main()


def _accept_gpt2_tokenizers(converter: Any) -> None:
    """Have the converter accept tokenizers that split text as GPT-2 does, whatever their vocabulary.

    The converter recognizes a tokenizer by a digest of its output for a sample text, so it rejects new ones.
    """
    try:
        text_model: Any = getattr(converter, "TextModel", None)
        if text_model is None:
            text_model = import_module("conversion.base").TextModel
        recognize = text_model.get_vocab_base_pre
    except (ImportError, AttributeError):
        return  # another version of the converter, with another layout: leave it as it is

    def get_name(self: Any, tokenizer: Any) -> str:
        try:
            name: str = recognize(self, tokenizer)
        except NotImplementedError:
            settings = json.loads((Path(self.dir_model) / "tokenizer.json").read_text("utf-8"))
            pre_tokenizer = settings.get("pre_tokenizer") or {}
            splits_as_gpt2 = pre_tokenizer.get("type") == "ByteLevel" and pre_tokenizer.get(
                "use_regex", True
            )
            if not splits_as_gpt2 or settings.get("normalizer"):
                raise
            return GPT2_PRE_TOKENIZER
        return name

    text_model.get_vocab_base_pre = get_name


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
