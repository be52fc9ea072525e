#!/bin/sh
# cli.sh -- the command line build/tfpre, from outside: what it writes, what it says, how it fails.
# The last line is "N passed, N failed, N skipped"; the exit status is not 0 if anything failed.
cd "$(dirname "$0")/.." || exit 1
tfpre=$PWD/build/tfpre
work=$PWD/build/tests/cli
rm -rf "$work"
mkdir -p "$work"
cd "$work" || exit 1
passed=0 failed=0 skipped=0

pass() { passed=$((passed + 1)); }
fail() {
  failed=$((failed + 1))
  echo "cli: $*"
}
# check NAME COMMAND...: the command must succeed
check() {
  name=$1
  shift
  if "$@"; then pass; else fail "$name"; fi
}
# refuses NAME WORDS ARGUMENTS...: an exit status that is not 0, nothing on standard output, and one line on
# standard error that begins with "tfpre: " and contains the words
refuses() {
  name=$1 words=$2
  shift 2
  "$tfpre" "$@" > out 2> err < /dev/null
  status=$?
  lines=$(wc -l < err)
  if [ "$status" -eq 0 ]; then fail "$name: exit status 0"
  elif [ "$status" -gt 100 ]; then fail "$name: exit status $status"
  elif [ "$lines" -ne 1 ]; then fail "$name: $lines lines on standard error: $(head -c 300 err)"
  elif [ -s out ]; then fail "$name: standard output holds $(head -c 100 out)"
  elif ! grep -q '^tfpre: ' err; then fail "$name: it begins otherwise: $(cat err)"
  elif ! grep -q -- "$words" err; then fail "$name: no '$words' in: $(cat err)"
  else pass; fi
}
# value FILE KEY: the number behind "KEY": in the last line that has it
value() { sed -n "s/.*\"$2\": *\([-+0-9.eE]*\).*/\1/p" "$1" | tail -n 1; }
first() { sed -n "s/.*\"$2\": *\([-+0-9.eE]*\).*/\1/p" "$1" | head -n 1; }
less() { awk "BEGIN { exit !($1 + 0 < $2 + 0) }"; }
near() { awk "BEGIN { d = $1 - $2; exit !(d < 1e-5 && d > -1e-5 && \"$1\" != \"\") }"; }

# 20 KB of sentences that follow a rule, from a small generator of numbers
awk 'BEGIN {
  split("the cat|a dog|my bird|one fish|our horse", who, "|"); split("saw|found|liked|left", did, "|")
  split("a red ball|the old house|some water|my friend", what, "|"); x = 1
  while (n < 20000) {
    x = (x * 1103 + 12345) % 65521; a = x % 5 + 1; x = (x * 1103 + 12345) % 65521; b = x % 4 + 1
    x = (x * 1103 + 12345) % 65521; c = x % 4 + 1
    line = who[a] " " did[b] " " what[c] "."; print line; n += length(line) + 1
  }
}' > text.txt
small="--layers 2 --heads 2 --hidden 32 --seq 32 --batch 4 --seed 1 --json"

# ---- pretrain: three kinds of transformer ----

for arch in encoder decoder seq2seq; do
  # shellcheck disable=SC2086
  if ! "$tfpre" pretrain --arch $arch --data text.txt --out $arch $small --steps 60 --lr 3e-3 > $arch.json 2> err; then
    fail "pretrain --arch $arch: $(head -c 300 err)"
    continue
  fi
  pass
  for file in config.json model.safetensors tokenizer.json README.md trainer.safetensors; do
    check "pretrain $arch: $file is missing" test -s $arch/$file
  done
  check "pretrain $arch: a line on standard output is no JSON" sh -c "! grep -qv '^{.*}\$' $arch.json"
  for key in step loss lr grad_norm ms tokens_per_s val_loss "done" steps train_seconds seconds peak_bytes; do
    check "pretrain $arch: no \"$key\"" grep -q "\"$key\"" $arch.json
  done
  check "pretrain $arch: the loss went from $(first $arch.json loss) to $(value $arch.json loss)" \
    less "$(value $arch.json loss)" "$(first $arch.json loss)"
  check "pretrain $arch: val_loss $(value $arch.json val_loss)" less "$(value $arch.json val_loss)" "$(first $arch.json loss)"
  check "pretrain $arch: steps" test "$(value $arch.json steps)" = 60
  "$tfpre" eval $arch --data text.txt --json > eval.json 2> err || fail "eval $arch: $(head -c 300 err)"
  eval_loss=$(value eval.json val_loss)
  [ -n "$eval_loss" ] || eval_loss=$(value eval.json loss)
  check "eval $arch: $eval_loss, pretrain said $(value $arch.json val_loss)" near "$eval_loss" "$(value $arch.json val_loss)"
  check "info $arch" sh -c "\"$tfpre\" info $arch > out 2> err && test -s out && test ! -s err"
  check "info $arch --json" sh -c "\"$tfpre\" info $arch --json | grep -q '^{'"
  check "convert $arch" sh -c "\"$tfpre\" convert $arch --out $arch-2 > out 2> err"
  check "convert $arch: the weights differ" cmp -s $arch/model.safetensors $arch-2/model.safetensors
  check "tokenize $arch" sh -c "echo 'the cat' | \"$tfpre\" tokenize $arch --no-special > out 2> err && grep -q '^116 104 101 32 99 97 116 *\$' out"
done

# ---- what a model does ----

check "fill" sh -c "\"$tfpre\" fill encoder 'the c<mask>t saw' > out 2> err && test -s out"
check "fill --json" sh -c "\"$tfpre\" fill encoder 'the c<mask>t saw' --json | grep -q '^{'"
refuses "fill without a mask" "mask" fill encoder "no gap here"
refuses "fill with a decoder" "" fill decoder "the <mask>"
check "generate" sh -c "\"$tfpre\" generate decoder --prompt 'the cat' --max-new 20 --greedy --json > g1 2> err && grep -q '\"ids\"' g1"
"$tfpre" generate decoder --prompt 'the cat' --max-new 20 --greedy --json > g2 2> err
check "generate twice" cmp -s g1 g2
"$tfpre" generate decoder --prompt 'the cat' --max-new 20 --temperature 1 --seed 3 --json > g1 2> err
"$tfpre" generate decoder --prompt 'the cat' --max-new 20 --temperature 1 --seed 3 --json --threads 1 > g2 2> err
check "generate with a seed twice" cmp -s g1 g2
check "generate with an encoder-decoder" sh -c "\"$tfpre\" generate seq2seq --prompt 'the cat' --max-new 10 --json | grep -q '\"ids\"'"
refuses "generate with an encoder" "" generate encoder --prompt "the cat"
check "logits" sh -c "\"$tfpre\" logits decoder --ids '116 104 101' > out 2> err && test \$(wc -l < out) -eq 3"
refuses "logits with an id out of range" "999999" logits decoder --ids "1 999999"
refuses "logits with words" "" logits decoder --ids "1 two"

# ---- resume and threads: the same bytes ----

for arch in encoder decoder seq2seq; do
  args="--arch $arch --data text.txt $small --steps 12 --dropout 0.1 --accum 2"
  # shellcheck disable=SC2086
  for threads in 1 2 3; do
    "$tfpre" pretrain $args --out $arch-t$threads --threads $threads > out 2> err || fail "pretrain $arch --threads $threads: $(head -c 300 err)"
  done
  check "$arch: 2 threads differ from 1" cmp -s $arch-t1/model.safetensors $arch-t2/model.safetensors
  check "$arch: 3 threads differ from 1" cmp -s $arch-t1/model.safetensors $arch-t3/model.safetensors
  check "$arch: the trainer of 3 threads differs" cmp -s $arch-t1/trainer.safetensors $arch-t3/trainer.safetensors
  # shellcheck disable=SC2086
  "$tfpre" pretrain $args --out $arch-r --stop-at 5 > out 2> err || fail "pretrain $arch --stop-at: $(head -c 300 err)"
  check "$arch: stopped where it should go on" sh -c "! cmp -s $arch-t1/model.safetensors $arch-r/model.safetensors"
  # shellcheck disable=SC2086
  "$tfpre" pretrain $args --out $arch-r --resume > out 2> err || fail "pretrain $arch --resume: $(head -c 300 err)"
  check "$arch: resumed is not uninterrupted" cmp -s $arch-t1/model.safetensors $arch-r/model.safetensors
  check "$arch: the resumed trainer is not the uninterrupted one" cmp -s $arch-t1/trainer.safetensors $arch-r/trainer.safetensors
done
# shellcheck disable=SC2086
"$tfpre" pretrain --arch decoder --data text.txt $small --steps 12 --dropout 0.1 --accum 2 --seed 2 --out other > out 2> err
check "another seed gives the same" sh -c "! cmp -s decoder-t1/model.safetensors other/model.safetensors"

# ---- data ----

# shellcheck disable=SC2086
if "$tfpre" pretrain --arch decoder --tokenizer chars --data text.txt --out chars $small --steps 3 > out 2> err; then pass; else
  fail "pretrain --tokenizer chars: $(head -c 300 err)"; fi
if "$tfpre" train-tokenizer --kind bpe --vocab 300 --out bpe text.txt > out 2> err; then pass; else fail "train-tokenizer: $(head -c 300 err)"; fi
# shellcheck disable=SC2086
if "$tfpre" pretrain --arch decoder --tokenizer bpe --data text.txt --out bpe-model $small --steps 3 > out 2> err; then pass; else
  fail "pretrain --tokenizer bpe: $(head -c 300 err)"; fi
echo 'the cat saw a dog' > line
check "tokenize and back" sh -c "\"$tfpre\" tokenize bpe < line | \"$tfpre\" tokenize bpe --decode | cmp -s - line"
printf 'fine text and then \377 this, %s\n' "$(cat text.txt)" > bad.txt
# shellcheck disable=SC2086
if "$tfpre" pretrain --arch decoder --data bad.txt --out bad $small --steps 2 > out 2> err; then pass; else
  fail "pretrain of bytes that are no UTF-8: $(head -c 300 err)"; fi
sed 's/.*/{"text": "&"}/' text.txt > text.jsonl
# shellcheck disable=SC2086
if "$tfpre" pretrain --arch encoder --data text.jsonl --out jsonl $small --steps 2 > out 2> err; then pass; else
  fail "pretrain of JSON lines: $(head -c 300 err)"; fi

# ---- errors: one line each ----

: > empty.txt
printf 'short' > short.txt
echo plain > plain
# shellcheck disable=SC2086
{
  refuses "empty data" "empty.txt" pretrain --arch decoder --data empty.txt --out e $small --steps 2
  refuses "short data" "32" pretrain --arch decoder --data short.txt --out e $small --steps 2
  refuses "missing data" "nowhere.txt" pretrain --arch decoder --data nowhere.txt --out e $small --steps 2
  refuses "characters that are no UTF-8" "19" pretrain --arch decoder --tokenizer chars --data bad.txt --out e $small --steps 2
  refuses "a directory below a file" "plain" pretrain --arch decoder --data text.txt --out plain/below $small --steps 2
  refuses "no --out" "--out" pretrain --arch decoder --data text.txt $small --steps 2
  refuses "no --data" "--data" pretrain --arch decoder --out e $small --steps 2
  refuses "an unknown architecture" "cake" pretrain --arch cake --data text.txt --out e $small
  refuses "an unknown family" "gpt9" pretrain --arch decoder --family gpt9 --data text.txt --out e $small
  refuses "an unknown preset" "gpt9" pretrain --arch decoder --preset gpt9 --data text.txt --out e $small
  refuses "an objective that does not fit" "" pretrain --arch decoder --objective mlm --data text.txt --out e $small
  refuses "heads that do not divide" "3" pretrain --arch decoder --data text.txt --out e $small --heads 3
  refuses "no steps" "" pretrain --arch decoder --data text.txt --out e $small --steps 0
  refuses "a number that is none" "many" pretrain --arch decoder --data text.txt --out e $small --steps many
  refuses "a value that is missing" "--steps" pretrain --arch decoder --data text.txt --out e $small --steps
}
check "errors leave no model" test ! -e e/model.safetensors
refuses "an unknown option" "--frobnicate" info decoder --frobnicate
refuses "an unknown command" "frobnicate" frobnicate
refuses "no command" ""
refuses "no directory" "nowhere" info nowhere
refuses "eval without a model" "nowhere" eval nowhere --data text.txt
refuses "eval without data" "" eval decoder
refuses "generate without a prompt" "" generate decoder
refuses "convert onto a file" "plain" convert decoder --out plain/below
mkdir -p broken
cp decoder/config.json decoder/tokenizer.json decoder/tokenizer_config.json broken/ 2> err
head -c 1000 decoder/model.safetensors > broken/model.safetensors
refuses "weights that are cut off" "model.safetensors" info broken
refuses "weights that are cut off, used" "model.safetensors" generate broken --prompt the --max-new 3
check "help" sh -c "\"$tfpre\" -h > out 2> err && test -s out && test ! -s err"
for command in info tokenize train-tokenizer logits convert fill generate pretrain eval bench; do
  check "$command -h" sh -c "\"$tfpre\" $command -h > out 2> err && test -s out && test ! -s err"
done
if [ -w /dev/full ]; then
  "$tfpre" info decoder > /dev/full 2> err
  check "a full standard output is an error" test $? -ne 0
else
  skipped=$((skipped + 1))
fi

cd .. && [ "$failed" -ne 0 ] || rm -rf "$work"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
