#!/bin/sh
# test.sh -- runs the test programs and the command line's tests; the last line counts them all.
cd "$(dirname "$0")/.." || exit 1
log=build/tests/log
passed=0 failed=0 skipped=0
: > "$log"

# run NAME COMMAND...: the last line of the output is "N passed, N failed[, N skipped]"
run() {
  name=$1
  shift
  start=$(date +%s)
  "$@" > build/tests/out 2>&1
  status=$?
  cat build/tests/out >> "$log"
  last=$(tail -n 1 build/tests/out)
  counts=$(printf '%s\n' "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed\(, \([0-9]*\) skipped\)*$/\1 \2 \4/p')
  if [ -z "$counts" ]; then
    tail -n 20 build/tests/out
    echo "$name: ended with status $status and no count"
    failed=$((failed + 1))
    return
  fi
  sed '$d' build/tests/out
  set -- $counts
  echo "$name: $last ($(($(date +%s) - start)) s)"
  passed=$((passed + $1))
  failed=$((failed + $2))
  skipped=$((skipped + ${3:-0}))
  if [ "$status" -ne 0 ] && [ "$2" -eq 0 ]; then
    echo "$name: ended with status $status although nothing failed"
    failed=$((failed + 1))
  fi
}

# the harness itself: a failing check must make its main return 1
if build/tests/float --self > /dev/null 2>&1; then
  echo "harness: a failing check did not fail"
  failed=$((failed + 1))
else
  passed=$((passed + 1))
fi

run double build/tests/double
run float build/tests/float
run kernels build/tests/kernels
run cli sh tests/cli.sh

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
