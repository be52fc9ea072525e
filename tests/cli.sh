#!/bin/sh
# cli.sh -- the command line build/tfpre, from outside: what it writes, what it says, how it fails.
# The last line is "N passed, N failed, N skipped"; the exit status is not 0 if anything failed.
cd "$(dirname "$0")/.." || exit 1
home=$PWD
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
# ---- logits: every way in and out ----

"$tfpre" logits decoder --ids '116 104 101' --json > one.json 2> err || fail "logits --json: $(cat err)"
check "logits --json: one line of JSON with logits" sh -c "test \$(wc -l < one.json) -eq 1 && grep -q '^{\"logits\": \\[\\[\\[.*\\]\\]\\]}\$' one.json"
echo '{"input_ids": [[116, 104, 101]], "attention_mask": [[true, 1, 1.0]], "labels": null}' > ids.jsonl
printf '\n{"input_ids": [[116, 104, 101]]}\n \n' >> ids.jsonl
"$tfpre" logits decoder --batches ids.jsonl --json > two.json 2> err || fail "logits --batches: $(cat err)"
check "logits: two batches are two lines" test "$(wc -l < two.json)" -eq 2
check "logits: a batch gives what --ids gives" sh -c "tail -n 1 two.json | cmp -s - one.json"
check "logits: the mask's types do not matter" sh -c "head -n 1 two.json | cmp -s - one.json"
check "logits of an encoder" sh -c "\"$tfpre\" logits encoder --ids '116 104 101' --mask '1 1 0' --type-ids '0 0 1' > out 2> err && test \$(wc -l < out) -eq 3"
check "logits of an encoder-decoder" sh -c "\"$tfpre\" logits seq2seq --ids '116 104 101' --decoder-ids '0 5' > out 2> err && test \$(wc -l < out) -eq 2"
echo '{"input_ids": [[116, 104, 101]], "labels": [[7, 8, 9]]}' > labels.jsonl
echo '{"input_ids": [[116, 104, 101]], "decoder_input_ids": [[256, 7, 8]]}' > shifted.jsonl
start=$(sed -n 's/.*"decoder_start_token_id": *\([0-9]*\).*/\1/p' seq2seq/config.json)
sed -i "s/256/$start/" shifted.jsonl
"$tfpre" logits seq2seq --batches labels.jsonl > out 2> err
"$tfpre" logits seq2seq --batches shifted.jsonl > out2 2> err2
check "logits: labels are the decoder's input, shifted" sh -c "test -s out && cmp -s out out2"
sed 's/GPT2LMHeadModel/GPT2Model/' decoder/config.json > config && mkdir -p base && cp decoder/model.safetensors decoder/tokenizer* base/ && mv config base/config.json
check "logits of a model without a head" sh -c "\"$tfpre\" logits base --ids '116 104' --json 2> err | grep -q '^{\"last_hidden_state\": '"
refuses "a decoder's input for a decoder" "decoder" logits decoder --ids "1 2" --decoder-ids "1"
refuses "an encoder-decoder without its decoder's input" "--decoder-ids" logits seq2seq --ids "1 2"
refuses "token types that are not there" "token types" logits seq2seq --ids "1 2" --type-ids "0 0" --decoder-ids "0"
refuses "a mask of another length" "attention_mask" logits decoder --ids "1 2" --mask "1"
refuses "logits of nothing" "--ids" logits decoder
refuses "ids and batches" "not both" logits decoder --ids "1" --batches ids.jsonl
refuses "batches that are not there" "nowhere.jsonl" logits decoder --batches nowhere.jsonl
refused() { # refused WORDS LINE: a batch that is refused, with the line that has it
  echo '{"input_ids": [[1]]}' > x.jsonl
  printf '%s\n' "$2" >> x.jsonl
  "$tfpre" logits decoder --batches x.jsonl > out 2> err
  check "a batch $2: $(cat err)" sh -c "test $? -ne 0 && test \$(wc -l < err) -eq 1 && grep -q -- '$1' err"
}
refused 'x.jsonl:2' '{"input_ids": [[1, 2], [3]]}'
refused 'x.jsonl:2' '{"input_ids": [[1, 2]'
refused 'x.jsonl:2.*rows' '{"input_ids": [1, 2]}'
refused 'x.jsonl:2.*id' '{"input_ids": [[1, 2.5]]}'
refused 'x.jsonl:2.*999999' '{"input_ids": [[1, 999999]]}'
refused 'x.jsonl:2.*colour' '{"input_ids": [[1, 2]], "colour": [[1, 2]]}'
refused 'x.jsonl:2.*twice' '{"input_ids": [[1, 2]], "input_ids": [[1, 2]]}'
refused 'x.jsonl:2.*deep' '{"input_ids": [[[1, 2]]]}'
refused 'x.jsonl:2.*object' '[1, 2]'
refused 'x.jsonl:2.*input_ids' '{}'
: > none.jsonl
refuses "no batches" "none.jsonl" logits decoder --batches none.jsonl

# ---- trace ----

for i in 1 2 3 4; do
  echo "{\"input_ids\": [[116, 104, 101, 32], [99, 97, $((i + 110)), 32]], \"attention_mask\": [[1, 1, 1, 1], [1, 1, 1, 0]], \"labels\": [[116, 104, 101, 32], [99, 97, $((i + 110)), -100]]}"
done > steps.jsonl
for arch in encoder decoder seq2seq; do
  check "trace $arch" sh -c "\"$tfpre\" trace $arch --batches steps.jsonl --steps 3 --json --lr 1e-2 --weight-decay 0.1 --decay-all --clip 1 --grads g-$arch.safetensors --out $arch-traced > t1 2> err && test ! -s err"
  check "trace $arch: three lines" sh -c "test \$(grep -c '^{\"step\": [123], \"loss\": [0-9.]*, \"grad_norm\": [0-9.]*}\$' t1) -eq 3 && test \$(wc -l < t1) -eq 3"
  check "trace $arch: no gradients" grep -q '"format"' g-$arch.safetensors
  check "trace $arch: the saved model" sh -c "\"$tfpre\" info $arch-traced > out 2> err && cmp -s $arch/tokenizer.json $arch-traced/tokenizer.json"
  check "trace $arch: the saved model is the old one" sh -c "! cmp -s $arch/model.safetensors $arch-traced/model.safetensors"
  "$tfpre" trace $arch --batches steps.jsonl --steps 3 --json --lr 1e-2 --weight-decay 0.1 --decay-all --clip 1 --threads 1 > t2 2> err
  check "trace $arch: another number of threads" cmp -s t1 t2
  check "trace $arch: a rate of 0" sh -c "\"$tfpre\" trace $arch --batches steps.jsonl --lr 0 --out $arch-still > out 2> err && test \$(wc -l < out) -eq 4"
  check "trace $arch: a rate of 0 changes weights" cmp -s $arch/model.safetensors $arch-still/model.safetensors
done
refuses "trace without batches" "--batches" trace decoder
refuses "more steps than batches" "4.*5" trace decoder --batches steps.jsonl --steps 5
refuses "trace without labels" "labels" trace decoder --batches ids.jsonl
refuses "trace of a model without a head" "head" trace base --batches steps.jsonl
refuses "trace over its own model" "decoder" trace decoder --batches steps.jsonl --out decoder/
refuses "gradients that cannot be written" "plain" trace decoder --batches steps.jsonl --grads plain/g
echo '{"input_ids": [[1, 2]], "labels": [[-100, -100]]}' > x.jsonl
refuses "labels that do not count" "x.jsonl:1" trace decoder --batches x.jsonl
echo '{"input_ids": [[1, 2]], "labels": [[1, 2, 3]]}' > x.jsonl
refuses "labels of another length" "x.jsonl:1" trace decoder --batches x.jsonl
echo '{"input_ids": [[1, 2]], "labels": [[1.5, 2]]}' > x.jsonl
refuses "labels that are no ids" "whole" trace decoder --batches x.jsonl

# ---- convert ----

check "convert to bfloat16" sh -c "\"$tfpre\" convert decoder --out half --dtype bf16 --json 2> err | grep -q '^{.*\"dtype\": \"bf16\".*}\$'"
check "bfloat16 is half as large" sh -c "test \$(wc -c < half/model.safetensors) -lt \$(expr \$(wc -c < decoder/model.safetensors) \* 3 / 5)"
check "bfloat16 runs" sh -c "\"$tfpre\" logits half --ids '116 104' > out 2> err && test -s out"
check "float32 again, and bfloat16 again" sh -c "\"$tfpre\" convert half --out full > out 2> err && \"$tfpre\" convert full --out half-2 --dtype bf16 > out 2> err && cmp -s half/model.safetensors half-2/model.safetensors"
check "convert to float16" sh -c "\"$tfpre\" convert decoder --out half-3 --dtype f16 > out 2> err"
check "convert to shards" sh -c "\"$tfpre\" convert decoder --out shards --max-shard 40KB > out 2> err && test -s shards/model.safetensors.index.json && test ! -e shards/model.safetensors"
check "shards give the same" sh -c "\"$tfpre\" convert shards --out whole > out 2> err && cmp -s whole/model.safetensors decoder/model.safetensors"
check "convert takes other files along" sh -c "for f in tokenizer.json tokenizer_config.json generation_config.json README.md; do cmp -s decoder/\$f half/\$f || exit 1; done"
refuses "convert onto itself" "decoder" convert decoder --out ./decoder
refuses "convert to nowhere" "--out" convert decoder
refuses "convert to an unknown type" "f64" convert decoder --out e --dtype f64
refuses "a size that is none" "many" convert decoder --out e --max-shard many
refuses "a unit that is none" "5XB" convert decoder --out e --max-shard 5XB

# ---- embed ----

head -n 40 text.txt > lines.txt
printf '\na\na\n' >> lines.txt
for arch in encoder decoder seq2seq; do
  check "embed $arch" sh -c "\"$tfpre\" embed $arch < lines.txt > v1 2> err && test \$(wc -l < v1) -eq 43 && test \$(head -n 1 v1 | wc -w) -eq 32"
  for line in 1 2 41 42; do
    sed -n ${line}p lines.txt | "$tfpre" embed $arch > v2 2> err
    check "embed $arch: line $line alone" sh -c "sed -n ${line}p v1 | cmp -s - v2"
  done
done
check "embed --normalize" sh -c "\"$tfpre\" embed encoder --normalize < lines.txt 2> err | awk '{ s = 0; for (i = 1; i <= NF; i++) s += \$i * \$i; if (s < 0.9999 || s > 1.0001) exit 1 }'"
check "embed --pool cls" sh -c "\"$tfpre\" embed encoder --pool cls < lines.txt > v2 2> err && test \$(wc -l < v2) -eq 43 && ! cmp -s v1 v2"
check "embed --json" sh -c "\"$tfpre\" embed encoder --json < lines.txt > v2 2> err && test \$(grep -c '^{\"embedding\": \\[.*\\]}\$' v2) -eq 43"
check "embed of nothing" sh -c "\"$tfpre\" embed encoder < /dev/null > out 2> err && test ! -s out"
mkdir -p bare && cp decoder/config.json decoder/model.safetensors bare/
refuses "embed without a tokenizer" "token" embed bare
seq 1 100 | tr '\n' ' ' > long.txt
"$tfpre" embed encoder < long.txt > out 2> err
check "a line longer than the model: $(cat err)" sh -c "test $? -ne 0 && test \$(wc -l < err) -eq 1 && grep -q 'line 1 has.*32 positions' err"

# ---- tokenize, info ----

check "tokenize adds special tokens" sh -c "test \$(echo ab | \"$tfpre\" tokenize encoder | wc -w) -eq 4 && test \$(echo ab | \"$tfpre\" tokenize encoder --no-special | wc -w) -eq 2"
check "tokenize knows special tokens in a text" sh -c "test \$(echo 'a[MASK]' | \"$tfpre\" tokenize encoder --no-special | wc -w) -eq 2"
check "tokenize --json" sh -c "echo ab | \"$tfpre\" tokenize encoder --json | grep -q '^{\"ids\": \\[[0-9]*, 97, 98, [0-9]*\\]}\$'"
check "tokenize --decode --json" sh -c "echo '97 0 98' | \"$tfpre\" tokenize encoder --decode --json | grep -q '^{\"text\": \"a.u0000b\"}\$'"
check "tokenize --decode --no-special" sh -c "echo ab | \"$tfpre\" tokenize encoder | \"$tfpre\" tokenize encoder --decode --no-special | grep -q '^ab\$'"
check "an empty line has no ids" sh -c "printf '\n' | \"$tfpre\" tokenize decoder | grep -q '^\$'"
refuses "tokenize without a tokenizer" "token" tokenize bare
echo '1 x' | "$tfpre" tokenize decoder --decode > out 2> err
check "tokenize --decode of words: $(cat err)" sh -c "test $? -ne 0 && test \$(wc -l < err) -eq 1 && grep -q x err"
for kind in bpe wordpiece unigram; do
  check "train-tokenizer --kind $kind" sh -c "\"$tfpre\" train-tokenizer --kind $kind --vocab 400 --out tok-$kind text.txt --json > out 2> err && test \$(wc -l < out) -eq 1 && grep -q '\"kind\": \"$kind\"' out"
  check "tokenize $kind and back" sh -c "\"$tfpre\" tokenize tok-$kind --no-special < line | \"$tfpre\" tokenize tok-$kind --decode --no-special | cmp -s - line"
done
check "wordpiece is lower case" sh -c "echo 'THE cat saw a dog' | \"$tfpre\" tokenize tok-wordpiece > out && \"$tfpre\" tokenize tok-wordpiece < line | cmp -s - out"
check "wordpiece of both cases" sh -c "\"$tfpre\" train-tokenizer --kind wordpiece --lowercase false --vocab 400 --out tok-cased text.txt > out 2> err && echo 'THE cat saw a dog' | \"$tfpre\" tokenize tok-cased > out && ! \"$tfpre\" tokenize tok-cased < line | cmp -s - out"
refuses "an option of another kind" "--lowercase" train-tokenizer --kind bpe --lowercase --vocab 400 --out e text.txt
refuses "wordpiece for another family" "gpt2" train-tokenizer --kind wordpiece --family gpt2 --vocab 400 --out e text.txt
refuses "train-tokenizer without a kind" "--kind" train-tokenizer --vocab 300 --out e text.txt
refuses "train-tokenizer of another kind" "cake" train-tokenizer --kind cake --vocab 300 --out e text.txt
refuses "train-tokenizer without a size" "--vocab" train-tokenizer --kind bpe --out e text.txt
refuses "train-tokenizer without a text" "FILES" train-tokenizer --kind bpe --vocab 300 --out e
refuses "train-tokenizer of a missing text" "nowhere.txt" train-tokenizer --kind bpe --vocab 300 --out e nowhere.txt
"$tfpre" info shards > out 2> err
check "info of shards" sh -c "test ! -s err && grep -q 'model-00001-of-' out && grep -q 'bytes, 257 tokens' out && grep -q F32 out"
check "info --json of shards" sh -c "\"$tfpre\" info shards --json > out 2> err && test \$(wc -l < out) -eq 1 && grep -q '\"tokenizer\": {\"kind\": \"bytes\"' out"
sed 's/BertForMaskedLM/BertForQuestionAnswering/' encoder/config.json > config && mkdir -p other-head && cp encoder/model.safetensors other-head/ && mv config other-head/config.json
check "info of weights that do not fit" sh -c "\"$tfpre\" info other-head > out 2> err && test ! -s err && grep -q 'missing.*qa_outputs' out"
refuses "a head without weights" "qa_outputs" logits other-head --ids "1 2"

# ---- the reference's numbers, where they are ----

golden=$home/../shared/golden
if [ ! -d "$golden" ]; then
  echo "cli: skipped the reference's numbers: there is no ../shared/golden"
  skipped=$((skipped + 1))
elif ! command -v python3 > /dev/null 2>&1; then
  echo "cli: skipped the reference's numbers: there is no python3"
  skipped=$((skipped + 1))
else
  for dir in "$golden"/*/; do
    python3 "$golden/compare.py" "$tfpre" "$dir" > out 2> err
    check "golden: $(cat out err)" sh -c "grep -q '[a-z]' out && ! grep -q FAIL out"
  done
fi

# ---- help, and what standard output says ----

check "help" sh -c "\"$tfpre\" -h > out 2> err && test -s out && test ! -s err"
for command in info tokenize train-tokenizer logits trace convert embed fill generate pretrain eval bench; do
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
