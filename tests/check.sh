#!/bin/sh
# check.sh -- what `make check` adds to `make test`: compile modes, sanitizers, lint, examples.
# A check that cannot run here says why and counts as skipped.
cd "$(dirname "$0")/.." || exit 1
B=build/check
mkdir -p $B
passed=0 failed=0 skipped=0
WARN="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"

good() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "failed: $1"; [ -s $B/log ] && head -n 12 $B/log; }
skip() { skipped=$((skipped + 1)); echo "skipped: $1"; }
# try NAME COMMAND...: the command must succeed
try() {
  what=$1
  shift
  if "$@" > $B/log 2>&1; then good; else bad "$what"; fi
}

# ---- compile modes: each standard and compiler, declarations in one file and the code in another ----
mode() { # NAME COMPILER... : both files, linked and run
  what=$1
  shift
  if "$@" $WARN -c -o $B/one.o tests/compile/one.c > $B/log 2>&1 &&
    "$@" $WARN -c -o $B/use.o tests/compile/use.c > $B/log 2>&1 &&
    ${1%% *} -o $B/one $B/one.o $B/use.o -lm -lpthread > $B/log 2>&1 && $B/one > $B/log 2>&1; then good
  else bad "compile mode $what"; fi
}
for cc in gcc clang; do
  if ! command -v $cc > /dev/null 2>&1; then
    skip "$cc is not installed"
    continue
  fi
  cxx=$([ $cc = gcc ] && echo g++ || echo clang++)
  for std in c99 c11 c17; do mode "$cc -std=$std" $cc -O1 -std=$std; done
  mode "$cc -std=c99, <stdio.h> first" $cc -O0 -std=c99 -DEARLY
  if command -v $cxx > /dev/null 2>&1; then
    for std in c++11 c++17; do mode "$cxx -std=$std" $cxx -O1 -x c++ -std=$std; done
  else
    skip "$cxx is not installed"
  fi
  for switch in TFPRE_NO_THREADS TFPRE_NO_SIMD TFPRE_NO_STDIO; do
    mode "$cc -D$switch" $cc -O0 -std=c99 -D$switch
  done
done

# ---- Windows: compiled and linked, not run ----
if command -v x86_64-w64-mingw32-gcc > /dev/null 2>&1; then
  try "MinGW" x86_64-w64-mingw32-gcc -std=c99 -O0 $WARN -o $B/one.exe tests/compile/one.c tests/compile/use.c -lm -lpthread
else
  skip "x86_64-w64-mingw32-gcc is not installed"
fi

# ---- static: nothing is exported; each switch takes its symbols away ----
cc=${CC:-cc}
try "static builds" $cc -std=c99 -O0 $WARN -Wno-unused-function -o $B/static tests/compile/static.c -lm -lpthread
if nm $B/static 2> /dev/null | grep -q ' T tfp_'; then bad "TFPRE_STATIC exports tfp_ names"; else good; fi
without() { # SWITCH SYMBOLS: the object must not refer to them
  printf '#define TFPRE_IMPLEMENTATION\n#include "../../tfpre.h"\n' > $B/without.c
  $cc -std=c99 -O1 -D$1 -c -o $B/without.o $B/without.c > $B/log 2>&1
  if nm $B/without.o | grep -E " U ($2)\$" > $B/log; then bad "-D$1 still uses these"; else good; fi
}
without TFPRE_NO_THREADS 'pthread_.*'
without TFPRE_NO_STDIO 'fopen|open|open64|read|write|fsync|rename|mkdir|unlink'
without TFPRE_NO_STDLIB 'malloc|calloc|realloc|free'
$cc -std=c99 -O2 -c -o $B/print.o build/tests/impl.c > /dev/null 2>&1
if nm $B/print.o | grep -E ' U (printf|puts|fprintf|abort|exit|__assert_fail|stderr|stdout)$' > $B/log; then
  bad "the library prints, aborts or exits"
else good; fi

# ---- how long the header takes to compile: under 15 s is wanted at full clock. The clock of a shared
# machine was seen to vary by a fifth, and other jobs cost time too: the best of up to three, and 20 s fails ----
best=999
for once in 1 2 3; do
  seconds=$( ($cc -std=c99 -O2 -c -o $B/time.o build/tests/impl.c; times) | tail -n 1 |
    sed 's/^\([0-9]*\)m\([0-9]*\).*/\1 \2/' | { read -r m s; echo $((m * 60 + s)); })
  [ "$seconds" -lt "$best" ] && best=$seconds
  [ "$best" -lt 15 ] && break
done
echo "tfpre.h compiles with -O2 in $best s of processor time"
if [ "$best" -lt 20 ]; then good; else bad "the header takes 20 s or more to compile"; fi

# ---- sanitizers ----
san="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined"
tests=$(make -s print-float)
if $cc -std=c99 $san -c -o $B/san.o build/tests/impl.c > $B/log 2>&1; then
  list=$(for t in $tests; do printf 'X(%s) ' "$t"; done)
  files=$(for t in $tests; do printf 'tests/%s.c ' "$t"; done)
  if $cc $san "-DTESTS=$list" -o $B/san tests/main.c $files $B/san.o -lm -lpthread > $B/log 2>&1; then
    ASAN_OPTIONS=detect_leaks=1 timeout 1200 $B/san > $B/log 2>&1
    status=$?
    if [ $status -eq 0 ]; then good; else tail -n 30 $B/log > $B/log2; mv $B/log2 $B/log; bad "tests under sanitizers (status $status)"; fi
  else bad "tests build with sanitizers"; fi
else
  skip "no sanitizers here"
fi

# ---- hostile files, for half a minute ----
fuzz=$B/fuzz
rm -rf $fuzz && mkdir -p $fuzz/inputs
if clang -std=gnu99 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
  -o $fuzz/fuzz tests/fuzz.c -lm -lpthread > $B/log 2>&1; then
  $cc -std=gnu99 -O0 -DFUZZ_MAIN -o $fuzz/seeds tests/fuzz.c -lm -lpthread && $fuzz/seeds --seeds $fuzz/inputs
  try "hostile files" $fuzz/fuzz -max_total_time=30 -timeout=20 -rss_limit_mb=2000 -verbosity=0 \
    -artifact_prefix=$fuzz/ $fuzz/inputs
else
  skip "fuzzing: clang has no libFuzzer here"
fi

# ---- lint and examples ----
try "lint" sh tests/lint.sh
make -s run-examples > $B/log 2>&1
set -- $(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed.*/\1 \2/p' $B/log | tail -n 1)
passed=$((passed + ${1:-0}))
failed=$((failed + ${2:-1}))
[ "${2:-1}" -eq 0 ] || cat $B/log
try "make run --fast" build/run --fast --report $B/report.html

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
