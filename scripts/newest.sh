#!/usr/bin/env bash
# Tests of what ida-tui overrides or reads privately, with the newest release of each library that has an upper bound.
#
#     scripts/newest.sh                 # all libraries
#     scripts/newest.sh torch peft      # only these
#
# The environment is temporary, and the bounds in pyproject.toml do not apply to the named libraries.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE

libraries=("$@")
[ $# -gt 0 ] || libraries=(torch transformers trl peft accelerate matplotlib textual trackio)
tests=(tests/engine/trainer tests/engine/test_libraries.py tests/events/test_sinks.py)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# An override replaces every requirement of a library; without a bound, it allows the newest.
printf '%s\n' "${libraries[@]}" >"$folder/overrides.txt"
uv venv --quiet "$folder/env"
export VIRTUAL_ENV="$folder/env"
uv pip install --quiet --upgrade --exclude-newer "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
  --overrides "$folder/overrides.txt" --editable . --group dev
uv pip list 2>/dev/null | grep -E "^($(
  IFS='|'
  echo "${libraries[*]}"
)) "
"$folder/env/bin/python" -m pytest -n 0 -q "${tests[@]}"
