"""Program in place of `ida-tui --run outputs/sweeps/ID/configs/NUMBER.yaml`: it writes a run in a moment.

It needs only the standard library. `--wait` prints a line and waits until the process is stopped.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

if sys.argv[1] == "--wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    print("waiting", flush=True)
    signal.pause()
config = Path(sys.argv[2])
with open("gpus.jsonl", "a", encoding="utf-8") as file:
    file.write(json.dumps([int(config.stem) - 1, os.environ.get("CUDA_VISIBLE_DEVICES")]) + "\n")
_, sweep, _, outputs = list(config.parents)[:4]
experiment = json.loads((sweep / "sweep.json").read_text())["experiment"]
run = outputs / experiment / f"20260131-0901{config.stem}"
(run / "logs").mkdir(parents=True)
(run / "manifest.json").write_text(json.dumps({"command": ["ida-tui", "--run", str(config)]}))
shutil.copy(Path(__file__).with_name(f"{config.stem}.jsonl"), run / "events.jsonl")
