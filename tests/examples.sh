#!/bin/sh
# examples.sh NAME... -- runs build/examples/NAME and compares the end of its output with the lines
# behind "Expected last lines:" in the top comment of examples/NAME.c.
# EXAMPLES_LIMIT: seconds that one may run, 60 if it is not set.
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
limit=
if command -v timeout > /dev/null 2>&1; then limit="timeout ${EXAMPLES_LIMIT:-60}"; fi

fail() {
  echo "$1: $2"
  failed=$((failed + 1))
}

for name in "$@"; do
  if [ ! -x "build/examples/$name" ] || [ ! -f "examples/$name.c" ]; then
    fail "$name" "build/examples/$name or examples/$name.c does not exist"
    continue
  fi
  sed -n '/Expected last lines:/,/\*\//{
    /Expected last lines:/d
    /\*\//d
    s/^ \*$//
    s/^ \*   //
    p
  }' "examples/$name.c" > "$work/want"
  lines=$(wc -l < "$work/want")
  if [ "$lines" -eq 0 ]; then
    fail "$name" "examples/$name.c has no line behind 'Expected last lines:'"
    continue
  fi
  $limit "build/examples/$name" > "$work/out" 2>&1
  status=$?
  tail -n "$lines" "$work/out" > "$work/got"
  if [ "$status" -eq 124 ] && [ -n "$limit" ]; then
    fail "$name" "ran for more than ${EXAMPLES_LIMIT:-60} s"
  elif [ "$status" -ne 0 ]; then
    fail "$name" "ended with status $status; its last lines:"
    cat "$work/got"
  elif ! diff "$work/want" "$work/got" > "$work/diff"; then
    fail "$name" "the last lines differ (< expected, > printed):"
    cat "$work/diff"
  else
    passed=$((passed + 1))
  fi
done

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
