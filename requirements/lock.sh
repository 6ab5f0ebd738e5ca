#!/usr/bin/env bash
# Brings the lists of packages up to date with pyproject.toml, as `make lock` calls it; needs uv.
#   lock.txt          the version of every package, of all extras; the same for all Pythons
#   images/*.txt      what images install, with hashes: base.txt; cuda.txt, which is torch for GPUs
#                     and its libraries; vllm.txt, which is what vLLM adds to both
# Arguments go on to uv pip compile: --upgrade takes the newest versions.
set -euo pipefail
cd "$(dirname "$0")"
command -v uv >/dev/null || { echo "error: make lock needs uv: pip install uv" >&2; exit 1; }
compile=(uv pip compile --quiet --python-version 3.11 --python-platform linux --no-annotate)

"${compile[@]}" --all-extras --custom-compile-command "make lock" "$@" \
  --output-file lock.txt ../pyproject.toml

hashed=("${compile[@]}" --no-header --generate-hashes --constraint lock.txt --extra gguf)
rm -rf images
mkdir images
"${hashed[@]}" ../pyproject.toml | awk '
  /^[a-z0-9]/ { list = /^(torch==|triton==|nvidia-|cuda-)/ ? "cuda" : "base" }
  { print > "images/" list ".txt" }'
"${hashed[@]}" --extra vllm ../pyproject.toml | awk '
  FNR == NR { if (/^[a-z0-9]/) known[$1] = 1; next }
  /^[a-z0-9]/ { isnew = !($1 in known) }
  isnew { print > "images/vllm.txt" }' <(cat images/base.txt images/cuda.txt) -
