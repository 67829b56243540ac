"""`ida-tui export RUN`: the trained model in a folder that others can use, with a model card."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util.text import printable

if TYPE_CHECKING:
    from ida_tui.config.precision import Format
    from ida_tui.config.schema import Config
    from ida_tui.engine.export.equivalence import Agreement
    from ida_tui.runs.directory import RunDirectory
    from ida_tui.runs.store.exports import Kind
    from ida_tui.runs.weights import Trained

EPILOG = """\
examples:
  ida-tui export quickstart --merged                   one folder that transformers loads
  ida-tui export quickstart --merged --dtype bfloat16 --output ~/models/mine
  ida-tui export oblit-1-mps --adapter                 a few MB, to be put on its base
  ida-tui export oblit-1-mps --gguf --dtype float16    a file for llama.cpp, Ollama, LM Studio
  ida-tui export oblit-1-mps --merged --push me/mine   then upload it, to a private repository
"""
FORMATS = ("float32", "float16", "bfloat16")


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "name", metavar="RUN", help="its folder, its id, or an experiment (its newest run)"
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--adapter", action="store_true", help="the LoRA adapter alone")
    kind.add_argument("--merged", action="store_true", help="the whole model, the adapter in it")
    kind.add_argument("--gguf", action="store_true", help="the whole model as a file for llama.cpp")
    parser.add_argument(
        "--dtype",
        choices=FORMATS,
        help="format of a whole model's weights; otherwise the one that the run held them in",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="where to; otherwise export/ in the run's own folder"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export that is there"
    )
    parser.add_argument(
        "--push", metavar="REPO", help="then upload it to this repository of the Hugging Face hub"
    )
    parser.add_argument("--public", action="store_true", help="with --push: a new one is public")
    parser.add_argument("--json", action="store_true", help="what was written, as JSON")


def run(options: Namespace) -> ExitCode:
    """Write, read back, compare, describe, move into place; then push, where that is asked for.

    Raises:
        UsageError: there is no such run, it has no such weights, or the place is taken.
        IdaError: the model cannot be loaded or written, what was written is not the run's model, or the
            hub does not take it.
    """
    from ida_tui.config.resolve import resolve
    from ida_tui.engine.export import gguf as gguf_file
    from ida_tui.engine.export import hub as pushing
    from ida_tui.runs import resume as resumption
    from ida_tui.runs import weights as trained
    from ida_tui.runs.store import exports

    directory = resumption.find(options.name, Path("outputs"))
    config = resolve(str(directory.config), []).config
    kind: Kind = "adapter" if options.adapter else "merged" if options.merged else "gguf"
    _check(options, config, kind)
    found = trained.trained(directory, config)
    target = Path(options.output).expanduser() if options.output else exports.place(directory, kind)
    target = target.absolute()
    exports.require_free(target, overwrite=options.overwrite)
    if kind == "gguf":
        gguf_file.require_converter()
    token = pushing.token() if options.push else ""
    _say(f"{config.name}/{directory.run_id} ({found.words}) → {_shown(target)}")
    if not found.final:
        _say(f"! the run was not finished: these are the weights of {found.words}")
    from ida_tui.engine import libraries as environment

    # Before torch is imported. A push needs the hub that a local model does not.
    environment.prepare(None if options.push else config.model.folder())
    replaced = exports.is_export(target)
    with exports.staged(target) as folder:
        agreed, checked = _write(directory, config, found, kind, folder, options.dtype)
    _say(f"✓ {checked}")
    _say(f"✓ {'replaced' if replaced else 'wrote'} {_shown(target)}")
    address = ""
    if options.push:
        address = pushing.push(target, options.push, token, public=options.public)
        _say(f"✓ pushed to {address}")
    if options.json:
        print(json.dumps(_as_json(target, kind, found, agreed, address), indent=1))
    else:
        print(printable(_shown(target)))
    return ExitCode.DONE


def _check(options: Namespace, config: Config, kind: Kind) -> None:
    if kind == "adapter" and config.training.method != "lora":
        raise UsageError(
            "every weight of this run was trained: it has no adapter", "--merged is the whole model"
        )
    if kind == "adapter" and options.dtype:
        raise UsageError("--dtype goes with --merged or --gguf", "an adapter stays in float32")
    if options.public and not options.push:
        raise UsageError("--public goes with --push")


def _write(
    directory: RunDirectory,
    config: Config,
    found: Trained,
    kind: Kind,
    folder: Path,
    dtype: Format | None,
) -> tuple[Agreement, str]:
    """Everything that goes into the folder; returns how far it agrees, also in words."""
    from ida_tui.analysis.model_card import Facts, card
    from ida_tui.engine.export.write import write, write_gguf
    from ida_tui.runs.store import evaluations, exports, manifest

    if kind == "gguf":
        name = f"{config.name}-{directory.run_id}"
        agreed, looked = write_gguf(config, found, folder, name, dtype=dtype, tell=_say)
        checked = f"{agreed.words}; {looked}"
    else:
        agreed = write(config, found, kind, folder, dtype=dtype, tell=_say)
        checked = agreed.words
    evaluated = map(evaluations.read, evaluations.found(directory))
    same = (one for one in evaluated if one is not None and one.step == found.step)
    facts = Facts(
        config=config,
        found=found,
        kind=kind,
        dtype=agreed.dtype,
        checked=checked,
        manifest=manifest.read(directory.manifest),
        evaluation=next(same, None),
    )
    try:
        (folder / exports.CARD).write_text(card(facts), encoding="utf-8")
        exports.write_facts(
            folder,
            {
                "kind": kind,
                "dtype": agreed.dtype,
                "experiment": config.name,
                "run": directory.run_id,
                "step": found.step,
                "final": found.final,
                "checked": checked,
            },
        )
    except OSError as error:
        raise IdaError(
            f"the export cannot be written: {error.strerror or error}", "nothing was put in place"
        ) from None
    return agreed, checked


def _as_json(
    target: Path, kind: Kind, found: Trained, agreed: Agreement, address: str
) -> dict[str, Any]:
    return {
        "folder": str(target),
        "kind": kind,
        "dtype": agreed.dtype,
        "step": found.step,
        "final": found.final,
        "prompts": agreed.prompts,
        "same_greedy_answers": agreed.same,
        "logits_difference": agreed.difference,
        "pushed_to": address or None,
    }


def _shown(path: Path) -> str:
    from ida_tui.util.paths import shown_path

    return shown_path(path)


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
