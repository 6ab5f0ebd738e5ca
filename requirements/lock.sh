#!/usr/bin/env bash
# Bring the lists of packages up to date with pyproject.toml, as `make lock` does; needs uv.
# Each list has the versions and hashes of the packages that no list before it has:
#   base.txt      what xrec imports, and gguf
#   source.txt    the part of base that PyPI has as source only
#   cuda.txt      torch for GPUs and its libraries
#   dev.txt       what `make setup` adds to base: tests, docs, and the extras that they cover; and
#                 triton, which xgrammar needs beside torch for CPUs too
#   vllm.txt      what vLLM adds to base and cuda
#   extras.txt    what the remaining extras add
# torch-cpu.txt and models.txt are edited by hand.
# Arguments are passed on to uv pip compile: --upgrade takes the newest versions.
set -euo pipefail
cd "$(dirname "$0")"
command -v uv >/dev/null || { echo "error: make lock needs uv: pip install uv" >&2; exit 1; }
compile=(uv pip compile --quiet --no-annotate --no-header --universal --python-version 3.11)
lists=(base source cuda dev vllm extras)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# All extras are resolved together, starting from the versions that are locked now.
cat "${lists[@]/%/.txt}" > "$scratch/all.txt"
"${compile[@]}" --all-extras "$@" --output-file "$scratch/all.txt" ../pyproject.toml

for list in "${lists[@]}"; do echo "# Written by make lock." > "$list.txt"; done
touch "$scratch/known.txt"
add() { # LIST EXTRA...: the packages of these extras go into LIST, but for those known already
  local list=$1
  shift
  "${compile[@]}" --generate-hashes --constraint "$scratch/all.txt" "${@/#/--extra=}" \
    ../pyproject.toml | awk -v own="$list" -v known_file="$scratch/known.txt" '
      BEGIN { while ((getline name < known_file) > 0) known[name] = 1 }
      /^[a-z0-9]/ {
        list = own
        if (/^(deepspeed|rouge-score)==/) list = "source"
        if (own == "base" && /^(torch==|triton==|nvidia-|cuda-)/) list = "cuda"
        isnew = !($1 in known) || (own == "dev" && /^triton==/)
        if (isnew) print $1 >> known_file
      }
      isnew { print >> (list ".txt") }'
}
add base cluster gguf
add dev cluster compare docs gguf index schema test
add vllm cluster gguf vllm
add extras benchmarks cluster gguf int8

torch=$(grep -o '^torch==[0-9.]*' cuda.txt)
if ! grep -qF "$torch+cpu " torch-cpu.txt; then
  echo "error: cuda.txt has $torch, torch-cpu.txt has another version; bring it up to date as its" \
    "first lines say" >&2
  exit 1
fi
