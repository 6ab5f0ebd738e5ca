#!/usr/bin/env bash
# An hour on a rented GPU, most important first: `bash infra/gpu-hour.sh` after `make setup`.
# A step that fails or takes too long does not stop the others. The report, gpu-hour.md, is made for
# docs/log. For vLLM: .venv/bin/pip install 'vllm>=0.29,<0.33'
set -uo pipefail
cd "$(dirname "$0")/.."

report=${1:-gpu-hour.md}
bench=workspace/benchmarks/gpu # what make bench-gpu writes
output=$(mktemp)
trap 'rm -f "$output"' EXIT

step() { # TITLE SECONDS LINES COMMAND...: run it, and report its last LINES lines
  local title=$1 limit=$2 lines=$3 start=$SECONDS code
  shift 3
  echo "$title (at most $((limit / 60)) minutes)"
  timeout --kill-after=30 "$limit" "$@" >"$output" 2>&1
  code=$?
  {
    printf '\n## %s\n\n`%s`: exit code %d after %d s\n\n```\n' "$title" "$*" "$code" $((SECONDS - start))
    tail -n "$lines" "$output"
    echo '```'
  } >>"$report"
}

{
  echo "# An hour on $(nvidia-smi --query-gpu=name --format=csv,noheader | sort | uniq -c | xargs)"
  echo
  echo "$(date -u +%F), commit $(git rev-parse --short HEAD), driver" \
    "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)"
} >"$report"

step "Tests on a GPU, parity with a CPU among them" 1500 60 make test-gpu
step "Training and texts of 8 billion parameters" 1200 60 make bench-gpu
engine=builtin
.venv/bin/python -c 'import vllm' 2>/dev/null && engine=vllm
project=("$bench/workspace.yaml" "workspace=$bench/workspace" "llm.model=$PWD/$bench/llm" llm.dtype=bfloat16)
town=(prepare.source.num_users=200 prepare.source.num_items=60)
training=(pretrain-graph.training.num_epochs=1 pretrain-graph.folds=0 train-adapter.training.max_steps=1
  train-adapter.training.max_validation_pairs=8 train-adapter.training.leave_out=nothing)
step "A backfill by $engine" 900 40 .venv/bin/xrec run "${project[@]}" "${town[@]}" "${training[@]}" \
  backfill.max_failed_share=1 backfill.gate=null "backfill.engine.kind=$engine" --from neighbors --until backfill
echo "report: $report"
