#!/usr/bin/env python3
"""training.py [BUILD] -- vocabularies that tfpre learns, against those of Hugging Face's trainers.

Needs the packages tokenizers and transformers, the corpora in ../shared/data and BUILD/tests/float.o
(`make test-hub` makes it; BUILD is "build"). One line a case: "ok NAME what" or "FAIL NAME what".
"""
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
THREADS = "2"
os.environ["RAYON_NUM_THREADS"] = THREADS
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, sys.argv[1] if len(sys.argv) > 1 else "build")
DATA = os.environ.get("TFPRE_DATA") or os.path.join(ROOT, "..", "shared", "data")
CORPORA = os.path.join(DATA, "corpora")
passed = failed = 0


def report(good, name, what):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print("%s %s %s" % ("ok" if good else "FAIL", name, what), flush=True)


def texts():
    return sorted(os.path.join(d, f) for d, _, names in os.walk(CORPORA) for f in names
                  if f.endswith((".txt", ".raw")) and "merges" not in f)


def lines_of(path, most=2000):
    with open(path, encoding="utf-8", errors="replace", newline="\n") as f:
        return [line.rstrip("\n").replace("\0", "") for _, line in zip(range(most), f)]


class Ours:
    """A tokenizer trained by the program, saved in a directory; ids: of the lines given"""

    def __init__(self, kind, vocab, files, lines=(), threads=THREADS):
        self.dir = tempfile.mkdtemp(dir=work.name)
        p = subprocess.run([os.path.join(work.name, "training"), kind, str(vocab), threads, self.dir] + files,
                           input="".join(x + "\n" for x in lines).encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if p.returncode:
            raise RuntimeError("%s: %s" % (kind, p.stderr.decode("utf-8", "replace").strip()))
        out = p.stdout.decode().split("\n")
        self.seconds, self.ids = float(out[0]), [[int(i) for i in x.split()] for x in out[1:1 + len(lines)]]
        self.bytes = open(os.path.join(self.dir, "tokenizer.json"), "rb").read()
        self.model = json.loads(self.bytes)["model"]


def theirs(kind, vocab, files):
    """The reference's tokenizer, and how long it took"""
    import tokenizers as t
    if kind == "bpe":
        tok = t.Tokenizer(t.models.BPE())
        tok.pre_tokenizer = t.pre_tokenizers.ByteLevel(add_prefix_space=False)
        how = t.trainers.BpeTrainer(vocab_size=vocab, min_frequency=2, show_progress=False,
                                    initial_alphabet=t.pre_tokenizers.ByteLevel.alphabet())
    elif kind == "unigram":
        tok = t.Tokenizer(t.models.Unigram())
        tok.normalizer = t.normalizers.NFKC()
        tok.pre_tokenizer = t.pre_tokenizers.Sequence([t.pre_tokenizers.WhitespaceSplit(), t.pre_tokenizers.Metaspace()])
        names = ["<pad>", "</s>", "<unk>"] + ["<extra_id_%d>" % i for i in range(99, -1, -1)]
        how = t.trainers.UnigramTrainer(vocab_size=vocab, special_tokens=names, unk_token="<unk>", show_progress=False)
    else:
        tok = t.implementations.BertWordPieceTokenizer(lowercase=kind == "wordpiece")
        start = time.time()
        tok.train(files, vocab_size=vocab, show_progress=False)
        return tok, time.time() - start
    start = time.time()
    tok.train(files, how)
    return tok, time.time() - start


def check_saved(name, ours, lines):
    """AutoTokenizer opens what was saved, and gives the same ids"""
    from transformers import AutoTokenizer
    tok = AutoTokenizer.from_pretrained(ours.dir)
    bad = [(x, a, b) for x, a, b in zip(lines, ours.ids, (tok(x)["input_ids"] for x in lines)) if a != b]
    report(not bad, name + " saved", "%d lines have the same ids in AutoTokenizer" % len(lines) if not bad else
           "%d of %d lines differ, first %r: %s, not %s" % (len(bad), len(lines), bad[0][0][:80], bad[0][1][:20], bad[0][2][:20]))


def check_threads(kind, vocab, files, first):
    same = [Ours(kind, vocab, files, threads=n).bytes == first.bytes for n in ("1", "3")]
    report(all(same), kind + " threads", "the same file with 1, 2 and 3 threads")


def bpe_merges(model):
    return [tuple(m) for m in model["merges"]]


def check_bpe(files):
    for path in files:
        ours = bpe_merges(Ours("bpe", 8000, [path]).model)
        tok, _ = theirs("bpe", 8000, [path])
        merges = bpe_merges(json.loads(tok.to_str())["model"])
        same = next((i for i, (a, b) in enumerate(zip(ours, merges)) if a != b), min(len(ours), len(merges)))
        report(ours == merges, "bpe " + os.path.basename(path), "%d of %d merges" % (same, len(merges)))


def check_course():
    """The merges of a course's reference, which gives ties to the larger pair of bytes"""
    where = os.path.join(DATA, "tokenizers", "cs336-bpe-training")
    with open(os.path.join(where, "train-bpe-reference-merges.txt"), encoding="utf-8") as f:
        want = [tuple(line.rstrip("\n").split(" ")) for line in f if line.strip()]
    ours = bpe_merges(Ours("larger", 500, [os.path.join(where, "corpus.en")]).model)
    same = next((i for i, (a, b) in enumerate(zip(ours, want)) if a != b), min(len(ours), len(want)))
    report(ours == want, "bpe course", "%d of %d merges" % (same, len(want)))


def overlap(a, b):
    return len(a & b) / len(a | b)


def check_wordpiece(kind, vocab, files, lines):
    ours = Ours(kind, vocab, files, lines)
    tok, _ = theirs(kind, vocab, files)
    share = overlap(set(ours.model["vocab"]), set(tok.get_vocab()))
    again, _ = theirs(kind, vocab, files)
    report(share > 0.995, kind, "%.2f %% of the vocabularies in common (two runs of theirs: %.2f %%)" %
           (100 * share, 100 * overlap(set(again.get_vocab()), set(tok.get_vocab()))))
    check_saved(kind, ours, lines)
    check_threads(kind, vocab, files, ours)


def likelihood(vocab, unk, words):
    """Nats of the best cuts of a corpus, and its pieces"""
    from tokenizers import models
    score, model = dict(vocab), models.Unigram(vocab, unk)
    lowest = min(score.values()) - 10
    total = n = 0
    for word, count in words.items():
        pieces = [t.value for t in model.tokenize(word)]
        total += count * sum(score.get(p, lowest) for p in pieces)
        n += count * len(pieces)
    return total, n


def check_unigram(vocab, files, lines):
    ours = Ours("unigram", vocab, files, lines)
    tok, _ = theirs("unigram", vocab, files)
    model = json.loads(tok.to_str())["model"]
    words = Counter()
    for path in files:
        for line in lines_of(path, 10 ** 9):
            words.update(w for w, _ in tok.pre_tokenizer.pre_tokenize_str(tok.normalizer.normalize_str(line)))
    mine, other = dict(ours.model["vocab"]), dict(model["vocab"])
    share = overlap(set(mine), set(other))
    a, an = likelihood([tuple(x) for x in ours.model["vocab"]], 2, words)
    b, bn = likelihood([tuple(x) for x in model["vocab"]], 2, words)
    apart = sorted(abs(mine[p] - other[p]) for p in set(mine) & set(other) if len(p) > 1)
    report(share > 0.999, "unigram %d" % vocab, "%.2f %% of the pieces in common, whose scores differ by at most %.1e" % (100 * share, apart[-1]))
    # characters that EM forgets come back in the reference's hash order, each 0.0001 above the last
    report(abs(a / b - 1) < 1e-4 and abs(an / bn - 1) < 1e-5, "unigram %d likelihood" % vocab,
           "log likelihood of the corpus %.7f and tokens %.7f times theirs" % (a / b, an / bn))
    check_saved("unigram", ours, lines)
    check_threads("unigram", vocab, files, ours)


def check_seed(files):
    """Without pruning (a vocabulary larger than EM leaves) all pieces and scores must be the same"""
    ours = dict(Ours("unigram", 400000, files).model["vocab"])
    tok, _ = theirs("unigram", 400000, files)
    other = dict(json.loads(tok.to_str())["model"]["vocab"])
    apart = max((abs(ours[p] - other[p]) for p in set(ours) & set(other) if len(p) > 1), default=1)
    report(set(ours) == set(other) and apart < 1e-7, "unigram EM", "%d pieces, scores differ by at most %.1e" % (len(other), apart))


def speeds(files):
    size = sum(os.path.getsize(f) for f in files) / 1e6
    for kind, want in (("bpe", 4), ("wordpiece", 2), ("unigram", 2)):
        mine = min(Ours(kind, 8000, files).seconds for _ in range(3))
        other = min(theirs(kind, 8000, files)[1] for _ in range(2))
        report(other / mine >= want, "speed " + kind, "%.3f s, theirs %.3f s: %.1f times as fast (%.2f MB, 8,000 pieces, %s threads)" %
               (mine, other, other / mine, size, THREADS))


def main():
    source = os.path.join(ROOT, "tests", "hub", "training.c")
    subprocess.check_call([os.environ.get("CC", "cc"), "-O1", "-o", os.path.join(work.name, "training"), source,
                           os.path.join(BUILD, "tests", "float.o"), "-lm", "-lpthread"])
    every = texts()
    some = [f for f in every if os.path.basename(f) in ("input.txt", "wiki.valid.raw", "wiki.test.raw")]
    lines = [x for f in every for x in lines_of(f, 300)] + lines_of(os.path.join(DATA, "tokenizers", "stress", "blns.txt"))
    check_bpe(every)
    check_course()
    first = Ours("bpe", 8000, some, lines)
    check_saved("bpe", first, lines)
    check_threads("bpe", 8000, some, first)
    check_wordpiece("wordpiece", 8000, some, lines)
    check_wordpiece("cased", 8000, some, lines)
    check_seed(some[:1])
    check_unigram(8000, some, lines)
    check_unigram(4000, every, lines)
    speeds(some)
    print("%d passed, %d failed" % (passed, failed))
    sys.exit(failed != 0)


with tempfile.TemporaryDirectory() as name:
    class work:
        pass
    work.name = name
    main()
