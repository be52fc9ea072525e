#!/bin/sh
# bench.sh -- `make bench`: the peak of this machine, products and training steps as shares of it.
cd "$(dirname "$0")/.." || exit 1
t=${THREADS:-$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 2)}
b=build/tfpre
$b bench peak --threads $t
for s in "256 256 256" "768 128 384" "768 128 512" "768 512 128" "1024 768 768" "1024 768 3072"; do
  set -- $s
  for trans in nn nt tn; do $b bench gemm --m $1 --k $2 --n $3 --trans $trans --threads $t; done
done
$b bench step --family gpt2 --layers 4 --heads 4 --hidden 128 --vocab 65 --batch 12 --seq 64 --threads $t
$b bench step --family gpt2 --layers 6 --heads 6 --hidden 384 --vocab 256 --batch 4 --seq 256 --threads $t
$b bench step --family bert --layers 4 --heads 4 --hidden 256 --vocab 30522 --batch 16 --seq 128 --threads $t
$b bench step --family t5 --layers 4 --heads 6 --hidden 384 --vocab 32128 --batch 8 --seq 128 --target-seq 32 --threads $t
