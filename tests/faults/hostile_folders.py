"""Hostile run directories, profiles, models and checkpoints: real ones with mutations that a seed selects.

Each mutation takes a `World` and a generator of random numbers, changes the files, and returns what it did.
The folders look as if a stranger had made them: they name the stranger's server and this machine's files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.faults import hostile

SECRETS = {
    "OPENAI_API_KEY": "sk-canary-openai-000000000000",
    "AWS_SECRET_ACCESS_KEY": "canary/aws/secret+000000000000",
    "GITHUB_TOKEN": "ghp_canary_github_000000000000",
    "HF_TOKEN": "hf_canary_hub_000000000000",
}
"""Environment variables of the victim. None of these values may arrive at the stranger's server."""
RUN_ID = "20260101-000000"


@dataclass(frozen=True, slots=True)
class World:
    """The folders of one case."""

    path: Path
    server: str
    """Base URL of the stranger's server."""
    canary: Path
    """A file that exists only if the stranger's code was run."""

    @property
    def home(self) -> Path:
        """The victim's home directory."""
        return self.path / "home"

    @property
    def work(self) -> Path:
        """The working folder of the command."""
        return self.path / "work"

    @property
    def run(self) -> Path:
        """The stranger's run directory."""
        return self.work / "outputs" / "quickstart" / RUN_ID

    @property
    def model(self) -> Path:
        """The stranger's model folder."""
        return self.work / "model"

    def code(self) -> str:
        """Python code that creates the canary."""
        return f"open({str(self.canary)!r}, 'w').close()\n"

    def victims(self) -> list[Path]:
        """Files and folders outside of the run directory that a link may name."""
        return [
            self.home / ".bashrc", self.home / ".ssh/id_rsa", self.home / "data.db", self.home,
            self.home / "missing", self.work, Path("/dev/zero"), Path("/dev/stdin"), Path("/proc/self/mem"),
            Path("/etc/passwd"), self.run, Path(".."),
        ]  # fmt: skip

    def snapshot(self) -> dict[str, str]:
        """Every path outside of the run directory, and what it is."""
        entries: dict[str, str] = {}
        for parent, folders, names in os.walk(self.path):
            folders[:] = [name for name in folders if Path(parent) / name not in self._own()]
            for name in (*folders, *names):
                file = Path(parent) / name
                if file not in self._own():
                    entries[str(file.relative_to(self.path))] = _describe(file)
        return entries

    def _own(self) -> tuple[Path, ...]:
        """What a command may write: the run directory, the index of runs, the link, the cache."""
        outputs = self.work / "outputs"
        index = [outputs / f".runs.sqlite{end}" for end in ("", "-wal", "-shm", "-journal")]
        return (
            self.run,
            *index,
            outputs / "quickstart/latest",
            self.path / "cache",
            self.path / "tmp",
        )


def _describe(file: Path) -> str:
    if file.is_symlink():
        return f"link to {file.readlink()}"
    if file.is_file():
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return "folder" if file.is_dir() else "special"


def build_world(path: Path, base_run: Path, base_model: Path, server: str) -> World:
    """A victim's home and working folder, with copies of a real unfinished run and a real model."""
    world = World(path, server, path.with_name(f"{path.name}-canary"))
    for folder in (world.home / ".ssh", world.work, path / "cache", path / "tmp"):
        folder.mkdir(parents=True)
    (world.home / ".bashrc").write_text("# the victim's own\n")
    (world.home / ".ssh/id_rsa").write_text("the victim's key\n")
    with contextlib.closing(sqlite3.connect(world.home / "data.db")) as database, database:
        database.execute("CREATE TABLE runs (x)")
        database.executemany("INSERT INTO runs VALUES (?)", [(n,) for n in range(100)])
    shutil.copytree(base_run, world.run, symlinks=True)
    other = world.work / "outputs" / "quickstart" / "20250101-000000"
    other.mkdir()
    for name in ("events.jsonl", "config.yaml", "manifest.json"):
        shutil.copy(base_run / name, other)
    shutil.copytree(base_model, world.model)
    return world


# --- mutations ----------------------------------------------------------------------------------


def _is_plain(file: Path) -> bool:
    """Whether no earlier mutation has made a file a link, a pipe or huge."""
    return not file.is_symlink() and file.is_file() and file.stat().st_size < 50_000_000


def _any_file(folder: Path, rng: Random, pattern: str = "*") -> Path:
    files = sorted(filter(_is_plain, folder.rglob(pattern)))
    return rng.choice(files) if files else folder / "missing"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


NEW_NAMES = (
    "report.html", "report.md", "control.json", "owner.json", "logs/crash.txt", "exports", "chats",
    "evaluations", "judge-costs.jsonl", "spot-checks.jsonl", ".lock", "adapter", "model",
    "checkpoints/latest", "checkpoints/.saving-1-1", "events.jsonl", "completions.jsonl", "config.yaml",
    "manifest.json", "adapter/chat_template.jinja", "adapter/README.md", "../latest", "../../.runs.sqlite",
)  # fmt: skip


def replace_by_link(world: World, rng: Random, folder: Path) -> str:
    """Replace an entry, or put beside them a new one, by a link to something outside."""
    file = folder / rng.choice(NEW_NAMES) if rng.random() < 0.6 else _any_file(folder, rng)
    target = rng.choice(world.victims())
    if file == folder or file in world.work.parents or not file.parent.resolve().is_dir():
        return "nothing"
    _remove(file)
    file.symlink_to(target)
    return f"{file.name} -> {target}"


def replace_by_fifo(world: World, rng: Random, folder: Path) -> str:
    """Replace a file by a pipe that nobody writes to."""
    file = folder / rng.choice(NEW_NAMES) if rng.random() < 0.5 else _any_file(folder, rng)
    if not file.parent.is_dir() or file.parent.is_symlink():
        return "nothing"
    _remove(file)
    os.mkfifo(file)
    return f"fifo {file.name}"


def damage_bytes(world: World, rng: Random, folder: Path) -> str:
    """Truncate a file, empty it, flip its bits, or insert hostile text."""
    file = _any_file(folder, rng)
    if not _is_plain(file):
        return "nothing"
    data = file.read_bytes()
    kind = rng.randrange(4)
    if kind == 0:
        data = data[: rng.randrange(len(data) + 1)]
    elif kind == 1:
        data = b""
    elif kind == 2 and data:
        flipped = bytearray(data)
        for _ in range(rng.randint(1, 30)):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        data = bytes(flipped)
    else:
        data = hostile.mutate_bytes(data[:300_000], rng)
    file.write_bytes(data)
    return f"damaged {file.name} ({kind})"


def grow(world: World, rng: Random, folder: Path) -> str:
    """Add a huge line, or a sparse gigabyte, or deep nesting to a text file."""
    file = folder / rng.choice(
        ("events.jsonl", "completions.jsonl", "config.yaml", "manifest.json")
    )
    file = file if _is_plain(file) else _any_file(folder, rng, "*.json")
    if not _is_plain(file):
        return "nothing"
    kind = rng.randrange(3)
    with file.open("ab") as stream:
        if kind == 0:
            stream.write(b'{"type": "' + b"x" * 3_000_000 + b'"}\n')
        elif kind == 1:
            stream.truncate(stream.tell() + (1 << 31))
        else:
            stream.write(b"[" * 100_000 + b"\n")
    return f"huge {file.name} ({kind})"


def mutate_json(world: World, rng: Random, folder: Path) -> str:
    """Give keys of a JSON file wrong types, NaN, other versions, or write a key twice."""
    file = _any_file(folder, rng, "*.json")
    if not _is_plain(file):
        return "nothing"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        text = file.read_text()
        if rng.random() < 0.15:
            text = text.replace("{", '{"version": 1, "version": 99, ', 1)
        else:
            tree = json.loads(text)
            for _ in range(rng.randint(1, 3)):
                tree = hostile.mutate_tree(tree, rng)
            text = json.dumps(tree)
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return f"json {file.name}"


def mutate_events(world: World, rng: Random, folder: Path) -> str:
    """Replace or insert event lines."""
    file = world.run / rng.choice(("events.jsonl", "completions.jsonl"))
    if not _is_plain(file):
        return "nothing"
    with contextlib.suppress(OSError):
        lines = file.read_bytes().splitlines()
        for _ in range(rng.randint(1, 5)):
            position = rng.randrange(len(lines) + 1)
            lines[position : position + rng.randrange(2)] = [hostile.event_line(rng)]
        file.write_bytes(b"\n".join(lines) + b"\n")
    return f"lines of {file.name}"


def mutate_config(world: World, rng: Random, folder: Path) -> str:
    """Set a value of the run's config to something hostile of the same shape, or of another type."""
    file = world.run / "config.yaml"
    if not _is_plain(file):
        return "nothing"
    with contextlib.suppress(OSError, yaml.YAMLError, UnicodeError):
        tree = yaml.safe_load(file.read_bytes())
        if isinstance(tree, dict):
            tree = hostile.mutate_tree(tree, rng)
            with contextlib.suppress(UnicodeError):
                file.write_text(yaml.safe_dump(tree, allow_unicode=True))
    return "config.yaml"


def set_config(world: World, rng: Random, folder: Path) -> str:
    """Set keys of the run's config that reach for keys, hosts, files and trust."""
    file = world.run / "config.yaml"
    if not _is_plain(file):
        return "nothing"
    try:
        tree = yaml.safe_load(file.read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return "nothing"
    if not isinstance(tree, dict):
        return "nothing"
    done = []
    for _ in range(rng.randint(1, 3)):
        choice = rng.randrange(8)
        section = tree.setdefault("judge" if choice < 3 else "model", {})
        if not isinstance(section, dict):
            continue
        if choice < 3:
            section |= {
                "kind": "openai", "model": "m", "base_url": world.server, "max_retries": 0, "timeout_s": 2.0,
                "api_key_env": rng.choice([*SECRETS, None, "PATH", next(iter(SECRETS.values()))]),
            }  # fmt: skip
            if rng.random() < 0.3:
                section["base_url"] = world.server.replace("http://", "http://user:secret@")
        elif choice == 3:
            section |= {"path": str(world.model), "trust_remote_code": True}
            _add_code(world, world.model)
        elif choice == 4:
            section["path"] = rng.choice(
                ("../../model", "/etc", "org/name", str(world.home), "a\0b")
            )
        elif choice == 5:
            tree["output_dir"] = rng.choice(
                (str(world.home), "../../..", "/proc", "a\0b", "~nobody-here/x")
            )
        elif choice == 6:
            tree["name"] = rng.choice(("../../../home", "a/b", "..", "x" * 300))
        else:
            training = tree.setdefault("training", {})
            if isinstance(training, dict) and training:
                key = rng.choice(sorted(training))
                training[key] = rng.choice(
                    (1e308, -1, 0, 5e-324, float("nan"), 10**30, "x", [], None)
                )
        done.append(str(choice))
    file.write_text(yaml.safe_dump(tree))
    return f"config {' '.join(done)}"


def _add_code(world: World, folder: Path) -> None:
    """Add Python code to a model folder, which transformers runs if it trusts the folder."""
    (folder / "modeling_evil.py").write_text(world.code() + "class Evil: pass\n")
    if not _is_plain(folder / "config.json"):
        return
    with contextlib.suppress(OSError, ValueError, TypeError):
        settings = json.loads((folder / "config.json").read_text())
        names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
        settings["auto_map"] = dict.fromkeys(names, "modeling_evil.Evil")
        (folder / "config.json").write_text(json.dumps(settings))


class _Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.system, (self.command,)


def plant_pickle(world: World, rng: Random, folder: Path) -> str:
    """Replace a checkpoint's file by a pickle that runs a command, and seal the checkpoint again."""
    names = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "rollout.pt",
             "adapter_model.bin", "scaler.pt", "device_rng.pt")  # fmt: skip
    name = rng.choice(names)
    for checkpoint in _checkpoints(world):
        _remove(checkpoint / name)
        (checkpoint / name).write_bytes(pickle.dumps(_Payload(f"touch {world.canary}")))
        reseal(checkpoint)
    return f"pickle {name}"


def damage_checkpoint(world: World, rng: Random, folder: Path) -> str:
    """Damage a file of a checkpoint, and seal the checkpoint again as if it were whole."""
    done = ""
    for checkpoint in _checkpoints(world):
        mutation = rng.choice((damage_bytes, damage_bytes, mutate_json))
        done = mutation(world, rng, checkpoint)
        if rng.random() < 0.9:
            reseal(checkpoint)
    return f"checkpoint: {done}"


def _checkpoints(world: World) -> list[Path]:
    return [p for p in (world.run / "checkpoints").glob("checkpoint-*") if not p.is_symlink()]


def reseal(checkpoint: Path) -> None:
    """Write the digests of a checkpoint's files into its seal."""
    seal = checkpoint / "checkpoint.json"
    if not _is_plain(seal):
        return
    with contextlib.suppress(OSError, ValueError, TypeError):
        body = json.loads(seal.read_text())
        body["files"] = {
            file.name: {
                "bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            for file in sorted(filter(_is_plain, checkpoint.iterdir()))
            if file != seal
        }
        seal.write_text(json.dumps(body))


TEMPLATES = (
    "{% for", "{{ messages[9].x.y }}", "{{ 1 / 0 }}", "{% for i in range(10**9) %}x{% endfor %}", "",
    "{{ 'x' * 40000000 }}", "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ raise_exception('no') }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "\x1b[31m",
)  # fmt: skip


def mutate_template(world: World, rng: Random, folder: Path) -> str:
    """Give the model, or the run's weights, a hostile chat template."""
    text = rng.choice(TEMPLATES).replace("CANARY", str(world.canary))
    folders = [world.model, *_checkpoints(world), world.run / "adapter"]
    for target in folders:
        if target.is_dir() and not target.is_symlink():
            _remove(target / "chat_template.jinja")
            (target / "chat_template.jinja").write_text(text)
            if target not in folders[:1]:
                reseal(target)
    return f"template {text[:30]}"


def plant_git(world: World, rng: Random, folder: Path) -> str:
    """Make the working folder a repository whose configuration names programs."""
    git = world.work / ".git"
    (git / "objects").mkdir(parents=True, exist_ok=True)
    (git / "refs").mkdir(exist_ok=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    command = f"touch {world.canary}"
    (git / "config").write_text(
        f'[core]\n\tfsmonitor = "{command}"\n\tpager = "{command}"\n[diff]\n\texternal = "{command}"\n'
        f'[filter "x"]\n\tclean = "{command}"\n\tsmudge = "{command}"\n'
    )
    return "git"


Mutation = Callable[[World, Random, Path], str]
RUN_MUTATIONS: tuple[Mutation, ...] = (
    replace_by_link, replace_by_link, replace_by_fifo, damage_bytes, grow, mutate_json, mutate_events,
    mutate_config, set_config, set_config, set_config, plant_pickle, damage_checkpoint, mutate_template,
    plant_git,
)  # fmt: skip
MODEL_MUTATIONS: tuple[Mutation, ...] = (
    replace_by_link, replace_by_fifo, damage_bytes, damage_bytes, grow, mutate_json, mutate_json,
    mutate_template,
)  # fmt: skip


def mutate_run(world: World, rng: Random) -> str:
    """Apply one to three mutations to the run directory; returns what they did."""
    done = [rng.choice(RUN_MUTATIONS)(world, rng, world.run) for _ in range(rng.randint(1, 3))]
    return "; ".join(done)


def mutate_model(world: World, rng: Random) -> str:
    """Apply one or two mutations to the model folder; returns what they did."""
    done = [rng.choice(MODEL_MUTATIONS)(world, rng, world.model) for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.2:
        _add_code(world, world.model)
        done.append("code")
    return "; ".join(done)


def mutate_profile(world: World, rng: Random) -> str:
    """Write a hostile experiment profile into the working folder; returns what it is."""
    kind, data = rng.choice(hostile.profiles())
    data = hostile.mutate_bytes(data, rng)
    if rng.random() < 0.3:
        data = rng.choice(hostile.BOMBS).encode("utf-8", "surrogatepass")
    (world.work / "mine.yaml").write_bytes(data)
    return f"profile of {kind}"
