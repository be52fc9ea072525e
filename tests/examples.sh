#!/bin/sh
# examples.sh NAME... -- runs build/examples/NAME and compares the end of its output with the lines
# after "Expected last lines:" in the comment of examples/NAME.c. Ends with "N passed, N failed".
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0
limit=
command -v timeout > /dev/null 2>&1 && limit="timeout 60"
mkdir -p build/examples
for name in "$@"; do
  want=build/examples/$name.want got=build/examples/$name.got
  sed -n '/^ \* Expected last lines:/,/\*\//p' "examples/$name.c" | sed '1d;$d;s/^ \*   //' > "$want"
  $limit "build/examples/$name" > "$got.all" 2>&1
  status=$?
  tail -n "$(wc -l < "$want")" "$got.all" > "$got"
  if [ $status -eq 0 ] && [ -s "$want" ] && cmp -s "$want" "$got"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "failed: $name (status $status); expected and got:"
    diff "$want" "$got"
  fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
