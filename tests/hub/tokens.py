#!/usr/bin/env python3
"""tokens.py [BUILD] -- the tokenizers of tfpre against Hugging Face's and sentencepiece's own.

Needs the packages tokenizers, transformers and sentencepiece (tiktoken too, if it is there), the data
in ../shared/data, BUILD/tfpre and BUILD/tests/float.o (`make test-hub` makes them; BUILD is "build").
One line a case: "ok NAME N lines" or "FAIL NAME ..." with the first line that differs. Speeds last.
"""
import json
import os
import random
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["RAYON_NUM_THREADS"] = "1"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, sys.argv[1] if len(sys.argv) > 1 else "build")
DATA = os.environ.get("TFPRE_DATA") or os.path.join(ROOT, "..", "shared", "data")
TOK = os.path.join(DATA, "tokenizers")
passed = failed = 0


def report(good, name, what):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print("%s %s %s" % ("ok" if good else "FAIL", name, what), flush=True)


def run(args, text=b""):
    p = subprocess.run(args, input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if p.returncode:
        raise RuntimeError("%s: %s" % (" ".join(args), p.stderr.decode("utf-8", "replace").strip()))
    return p.stdout


def compare(name, lines, ours, theirs, what="lines"):
    """Two lists, item for item; shows the first that differs"""
    bad = [i for i in range(len(lines)) if i >= len(ours) or ours[i] != theirs[i]]
    if not bad and len(ours) == len(lines):
        return report(True, name, "%d %s" % (len(lines), what))
    i = bad[0] if bad else len(lines)
    shown = "%d of %d %s differ" % (len(bad), len(lines), what)
    if bad:
        shown += ", first %d: %.80r: %s, not %s" % (i, lines[i], str(ours[i] if i < len(ours) else None)[:150],
                                                  str(theirs[i])[:150])
    report(False, name, shown)


def compare_ties(name, folder, lines, ours, theirs):
    """The same, but of two ways that cost the same sentencepiece may take the other: it adds floats"""
    import sentencepiece
    score = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "spiece.model")).get_score
    ties = [i for i in range(len(lines)) if ours[i] != theirs[i] and abs(sum(map(score, ours[i])) - sum(map(score, theirs[i]))) < 1e-4]
    for i in ties:
        ours[i] = theirs[i]
    compare(name, lines, ours, theirs, "lines" + (", %d of them ties" % len(ties) if ties else ""))


def ids_of(directory, lines, *options):
    out = run([os.path.join(BUILD, "tfpre"), "tokenize", directory] + list(options), ("\n".join(lines) + "\n").encode())
    return [[int(x) for x in line.split()] for line in out.decode().split("\n")[:-1]]


# ---- texts ----

def corpora():
    """All lines of all texts there are, and stress, each once"""
    seen = {}
    for folder in (os.path.join(DATA, "corpora"), os.path.join(TOK, "stress")):
        for at, _, names in sorted(os.walk(folder)):
            for name in sorted(names):
                if not name.endswith((".txt", ".raw")):
                    continue
                for line in open(os.path.join(at, name), "rb").read().split(b"\n"):
                    try:
                        seen[line.decode("utf-8")] = 1
                    except UnicodeDecodeError:
                        pass
    return list(seen)


def mixtures(n):
    """Lines of odd characters, which no corpus has"""
    r = random.Random(1)
    sets = [(0x20, 0x7F), (0, 0x20), (0x80, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xA00), (0xE00, 0xE80),
            (0x1100, 0x1200), (0x1E00, 0x2070), (0x2100, 0x2600), (0x3000, 0x3400), (0x4E00, 0x4F00), (0xAC00, 0xAC80),
            (0xF900, 0xFB50), (0xFE00, 0x10000), (0x1D400, 0x1D500), (0x1F300, 0x1F700), (0x20000, 0x20100), (0x2B740, 0x2B940)]
    out = []
    for _ in range(n):
        line = ""
        for _ in range(r.randrange(1, 30)):
            low, high = sets[r.randrange(len(sets))] if r.random() < 0.6 else (0x61, 0x7B)
            c = r.randrange(low, high)
            line += " " if r.random() < 0.15 or c == 10 or 0xD800 <= c < 0xE000 else chr(c)
        out.append(line)
    specials = ["<s>", "</s>", "<mask>", "[MASK]", "[SEP]", "<|endoftext|>", "<extra_id_0>", "<extra_id_7>", "<pad>", "<unk>", "[unused1]"]
    for _ in range(n // 10):
        out.append("".join(r.choice([" ", "  ", "a", "word", ".", r.choice(specials)]) for _ in range(8)))
    return out


# ---- vocabularies ----

def place(top, name, **files):
    """A folder with links to files"""
    path = os.path.join(top, name)
    os.makedirs(path, exist_ok=True)
    for new, old in files.items():
        new = new.replace("__", ".")
        if isinstance(old, dict):
            json.dump(old, open(os.path.join(path, new), "w"))
        else:
            os.symlink(os.path.abspath(os.path.join(TOK, old)), os.path.join(path, new))
    return path


def vocabularies(top):
    """name -> (folder, text -> ids, the reference itself or None)"""
    import sentencepiece
    import tokenizers
    import transformers as tf
    out = {}

    def add(name, folder, ref):
        out[name] = (folder, lambda s: ref(s)["input_ids"], ref)

    d = place(top, "gpt2", vocab__json="gpt2/encoder.json", merges__txt="gpt2/vocab.bpe")
    add("gpt2", d, tf.GPT2Tokenizer.from_pretrained(d))
    d = place(top, "roberta", tokenizer__json="roberta/tokenizer.json")
    add("roberta", d, tf.PreTrainedTokenizerFast(tokenizer_file=os.path.join(d, "tokenizer.json")))
    for case, lower in (("cased", False), ("uncased", True)):
        d = place(top, "bert-" + case, vocab__txt="bert/bert_base_%s_vocab.txt" % case, tokenizer_config__json={
            "tokenizer_class": "BertTokenizer", "do_lower_case": lower})
        add("bert-" + case, d, tf.BertTokenizer.from_pretrained(d))
    d = place(top, "t5", tokenizer__json="t5/tokenizer.json", tokenizer_config__json={"tokenizer_class": "T5Tokenizer"})
    add("t5", d, tf.T5Tokenizer.from_pretrained(d))
    d = place(top, "t5-spiece", spiece__model="t5/spiece.model")
    add("t5-spiece", d, tf.T5Tokenizer.from_pretrained(d))
    for name in sorted(os.listdir(os.path.join(TOK, "sentencepiece"))):
        d = place(top, name, spiece__model="sentencepiece/" + name)
        out[name] = (d, sentencepiece.SentencePieceProcessor(model_file=os.path.join(d, "spiece.model")).encode, None)
    return out


# ---- the cases ----

def same_ids(vocabs, lines, odd):
    for name, (folder, encode, ref) in vocabs.items():
        for what, texts in (("", lines), (", odd characters", odd)):
            if ref is None and what:
                continue  # Precompiled by clusters is not what sentencepiece does: see T5's
            if ref is None:  # the sign for blanks itself, in a text, is one where the model keeps it
                texts = [s for s in texts if "\u2581" not in s]
                compare_ties("ids of " + name, folder, texts, ids_of(folder, texts, "--no-special"), [encode(s) for s in texts])
            else:
                compare("ids of " + name + what, texts, ids_of(folder, texts), [encode(s) for s in texts])


def same_saved(vocabs, lines, odd, top, tool):
    """What tfpre saves, opened by the reference, gives the same ids; and again by tfpre"""
    import transformers as tf
    texts = lines[::7] + odd[::3]
    for name, (folder, _, ref) in vocabs.items():
        saved = os.path.join(top, name + "-saved")
        run([tool, "save", folder, saved])
        ours = ids_of(folder, texts)
        kinds = {"bert": "bert", "t5": "t5", "gpt2": "gpt2", "roberta": "roberta"}
        if name.split("-")[0] in kinds:  # beside a model, as a rule
            json.dump({"model_type": kinds[name.split("-")[0]]}, open(os.path.join(saved, "config.json"), "w"))
        again = tf.AutoTokenizer.from_pretrained(saved)
        compare("saved " + name + ", opened by AutoTokenizer", texts, ours, [again(s)["input_ids"] for s in texts])
        compare("saved " + name + ", opened by tfpre", texts, ids_of(saved, texts), ours)


def same_decoded(vocabs, lines, odd):
    texts = [s for s in lines[::11] + odd if "\0" not in s]  # which ends a text in the command line's JSON
    for name, (folder, encode, ref) in vocabs.items():
        if ref is None:
            continue
        ids = [encode(s) for s in texts]
        for skip in (False, True):
            out = run([os.path.join(BUILD, "tfpre"), "tokenize", folder, "--decode", "--json"] + (["--no-special"] if skip else []),
                      "".join(" ".join(map(str, x)) + "\n" for x in ids).encode())
            ours = [json.loads(x)["text"] for x in out.decode().split("\n")[:-1]]
            theirs = [ref.decode(x, skip_special_tokens=skip, clean_up_tokenization_spaces=False) for x in ids]
            compare("text of " + name + (", no specials" if skip else ""), texts, ours, theirs)


def same_places(vocabs, lines, odd, tool):
    """Offsets, words, type ids, of texts and pairs; truncation, windows"""
    plain = [s for s in lines[::13] + odd if "\t" not in s and s]
    pairs = [a + "\t" + b for a, b in zip(plain[::5], plain[1::5])]
    for name, (folder, _, ref) in vocabs.items():
        if ref is None:
            continue
        for what, texts, args in [("text", plain, {}), ("pair", pairs, {}), ("text cut", plain, dict(max_length=12, truncation=True)),
                                  ("pair cut", pairs, dict(max_length=20, truncation="longest_first")),
                                  ("text in windows", plain[::3], dict(max_length=12, truncation=True, stride=4, return_overflowing_tokens=True)),
                                  ("text in windows from the left", plain[::3], dict(max_length=12, truncation=True, stride=4, return_overflowing_tokens=True, left=1)),
                                  ("pair, second in windows", pairs, dict(max_length=60, truncation="only_second", stride=5, return_overflowing_tokens=True))]:
            kind = {"only_second": 2}.get(args.get("truncation"), 0)
            left = args.pop("left", 0)
            ref.truncation_side = "left" if left else "right"
            good, theirs = [], []
            for s in texts:
                two = s.split("\t")
                try:
                    e = ref(*two, return_offsets_mapping=True, **args)
                except BaseException as e:  # the first alone is too long, or the stride is: a panic of Rust
                    if isinstance(e, KeyboardInterrupt):
                        raise
                    continue
                good.append(s)
                at = [[0], [0]]
                for i, one in enumerate(two):
                    for c in one:
                        at[i].append(at[i][-1] + len(c.encode()))
                all_of = []
                for x in e.encodings:
                    all_of.append([(t, y, -1 if q is None else q, -1 if w is None else w, at[q or 0][o[0]], at[q or 0][o[1]]) for t, y, q, w, o in
                                   zip(x.ids, x.type_ids, x.sequence_ids, x.word_ids, x.offsets)])
                theirs.append(all_of)
            out = run([tool, "spans", folder, str(args.get("max_length", 0)), str(kind), str(args.get("stride", 0)), str(left)],
                      ("\n".join(good) + "\n").encode()) if good else b""
            ours = [[[tuple(map(int, t.split(","))) for t in w.split()] for w in line.split("|")] for line in out.decode().split("\n")[:-1]]
            if "stride" in args:  # in windows behind the first the reference's type ids are not the template's
                ours, theirs = [[[[t[:1] + t[2:] for t in w] for w in x] for x in all_of] for all_of in (ours, theirs)]
            compare("places of %s, %s" % (name, what), good, ours, theirs)
        ref.truncation_side = "right"


def same_streamed(vocabs, tool):
    text = "".join(open(os.path.join(DATA, "corpora", f), encoding="utf-8").read() for f in (
        "wikitext-2/wiki.test.raw", "books-sentencepiece/wagahaiwa_nekodearu.txt")).encode()[:2000000].decode("utf-8", "ignore")
    for name, (folder, encode, ref) in vocabs.items():
        ours = run([tool, "stream", folder, "4093"], text.encode()).decode().split()
        if ref is None:  # sentencepiece takes a line
            whole = run([tool, "stream", folder, "100000000"], text.encode()).decode().split()
            theirs = whole
        else:
            theirs = [str(x) for x in ref(text)["input_ids"]]
        compare("a stream through " + name, theirs, ours, theirs, "ids")


def pipelines(top, tool, lines, odd):
    """Made-up tokenizer.json files with each stage there is, against the package tokenizers"""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers as n, pre_tokenizers as p
    texts = lines[::97] + odd
    bytes256 = sorted(p.ByteLevel.alphabet())
    words = {}
    for c in ["[UNK]"] + [chr(c) for c in range(33, 127)] + ["##" + chr(c) for c in range(33, 127)] + "the ##ing ##er and of to in a 12 ##34".split():
        words.setdefault(c, len(words))
    piece = lambda: models.WordPiece(words, unk_token="[UNK]", max_input_chars_per_word=20)
    pieces = [("<unk>", 0.0)] + [(c, -5.0 - i / 100) for i, c in enumerate(["\u2581"] + [chr(c) for c in range(33, 127)])] + [
        (w, -4.5 - i / 10) for i, w in enumerate(["\u2581the", "ing", "\u2581a", "er", "th", "he", "\u2581\u2581", "in"])]
    fall = pieces + [("<0x%02X>" % i, -9.0) for i in range(256)]
    bpe_vocab = {c: i for i, c in enumerate(["<unk>"] + [chr(c) for c in range(33, 127)] + ["t</w>", "e</w>", "s</w>", "th", "the</w>", "he</w>", "in"])}
    merges = [("t", "h"), ("h", "e</w>"), ("th", "e</w>"), ("i", "n")]
    merges = [m for m in merges if m[0] + m[1] in bpe_vocab]
    uni = lambda: models.Unigram(pieces, 0, False)
    byte = lambda: models.BPE({c: i for i, c in enumerate(bytes256)}, [])
    norms = {"NFC": n.NFC(), "NFD": n.NFD(), "NFKC": n.NFKC(), "NFKD": n.NFKD(), "Lowercase": n.Lowercase(), "StripAccents": n.Sequence([n.NFD(), n.StripAccents()]),
             "Strip": n.Strip(), "Strip left": n.Strip(True, False), "Replace": n.Sequence([n.Replace("the", "THE"), n.Replace("a", "")]),
             "Replace blanks": n.Replace(Regex(" {2,}"), " "), "Prepend": n.Prepend("\u2581"), "Bert no clean": n.BertNormalizer(False, False, True, False),
             "Bert": n.Sequence([n.BertNormalizer(True, True, None, True), n.Replace("x", "yy")]), "Bert accents stay": n.BertNormalizer(True, True, False, True)}
    cuts = {"Whitespace": p.Whitespace(), "WhitespaceSplit": p.WhitespaceSplit(), "Bert": p.BertPreTokenizer(),
            "Digits": p.Sequence([p.WhitespaceSplit(), p.Digits(False)]), "Digits apart": p.Sequence([p.Digits(True), p.WhitespaceSplit()]),
            "Split text": p.Split("e", "merged_with_next"), "GPT-2": p.Split(Regex(GPT2), "isolated"), "GPT-2 inverted": p.Split(Regex(GPT2), "removed", True)}
    for how in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        cuts["Punctuation " + how] = p.Sequence([p.WhitespaceSplit(), p.Punctuation(how)])
        cuts["Split " + how] = p.Split(" ", how)
        cuts["Split inverted " + how] = p.Split("e", how, True)
    space = {s + (" whole" if not split else ""): p.Metaspace("\u2581", s, split) for s in ("always", "first", "never") for split in (True, False)}
    levels = {"ByteLevel": p.ByteLevel(False), "ByteLevel prefix": p.ByteLevel(True), "Digits, ByteLevel": p.Sequence([p.Digits(True), p.ByteLevel(False)]),
              "BLOOM": p.Sequence([p.Split(Regex(BLOOM), "isolated"), p.ByteLevel(False, use_regex=False)]),
              "Split, ByteLevel": p.Sequence([p.Split(Regex(GPT2), "isolated"), p.ByteLevel(True, use_regex=False)]), "ByteLevel whole": p.ByteLevel(False, use_regex=False)}
    made = []
    for k, v in norms.items():
        made += [("normalizer %s, WordPiece" % k, piece(), v, p.Whitespace(), decoders.WordPiece()), ("normalizer %s, Unigram" % k, uni(), v, p.Metaspace(), decoders.Metaspace())]
    made += [("pre_tokenizer " + k, piece(), None, v, decoders.WordPiece("##", False)) for k, v in cuts.items()]
    made += [("Metaspace " + k, uni(), None, v, decoders.Metaspace("\u2581", "always")) for k, v in space.items()]
    made += [(k, byte(), None, v, decoders.ByteLevel()) for k, v in levels.items()]
    made += [("NFC, ByteLevel", byte(), n.NFC(), p.ByteLevel(True), decoders.ByteLevel()),
             ("byte_fallback, Unigram", models.Unigram(fall, 0, True), None, p.Metaspace(), decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])),
             ("byte_fallback, BPE", models.BPE({w: i for i, (w, _) in enumerate(fall)}, [("t", "h"), ("i", "n")], unk_token="<unk>", fuse_unk=True, byte_fallback=True), n.Sequence([n.Prepend("\u2581"), n.Replace(" ", "\u2581")]), None,
              decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])),
             ("end_of_word_suffix, BPE", models.BPE(bpe_vocab, merges, unk_token="<unk>", end_of_word_suffix="</w>"), n.Lowercase(), p.WhitespaceSplit(), decoders.BPEDecoder("</w>")),
             ("continuing prefix, BPE", models.BPE(words, [], unk_token="[UNK]", continuing_subword_prefix="##", fuse_unk=True), None, p.Whitespace(), decoders.WordPiece("##", True)),
             ("no decoder, BPE", models.BPE(bpe_vocab, [], unk_token="<unk>", fuse_unk=True), None, p.WhitespaceSplit(), None)]
    added = [AddedToken("word", single_word=True), AddedToken("<a>", lstrip=True, rstrip=True), AddedToken("The", normalized=True), AddedToken("<<", special=True, rstrip=True, normalized=False)]
    odd2 = ["a word, words <a> sword word", "the The <a>  <a>word", "<<  x << <a> word.", "theThe  the", " word word_ \u00e9word"] * 2 + texts[::40]
    for name, model, norm, pre, dec in made:
        for extra in (False, True):
            t = Tokenizer(model)
            if norm is not None:
                t.normalizer = norm
            if pre is not None:
                t.pre_tokenizer = pre
            if dec is not None:
                t.decoder = dec
            if extra:
                t.add_tokens(added)
            d = os.path.join(top, "made")
            os.makedirs(d, exist_ok=True)
            t.save(os.path.join(d, "tokenizer.json"))
            use = [s for s in (odd2 if extra else texts) if "\t" not in s and s]
            theirs = [t.encode(s) for s in use]
            label = name + (" with added tokens" if extra else "")
            try:
                ours = ids_of(d, use)
                compare(label, use, ours, [e.ids for e in theirs])
                places(label, tool, d, use, theirs)
                whole = [(s, e) for s, e in zip(use, theirs) if "\0" not in s]
                out = run([os.path.join(BUILD, "tfpre"), "tokenize", d, "--decode", "--json"], "".join(" ".join(map(str, e.ids)) + "\n" for _, e in whole).encode())
                compare(label + ", text", [s for s, _ in whole], [json.loads(x)["text"] for x in out.decode().split("\n")[:-1]],
                        [t.decode(e.ids, skip_special_tokens=False) for _, e in whole])
                saved = os.path.join(top, "made-saved")
                run([tool, "save", d, saved])
                back = Tokenizer.from_file(os.path.join(saved, "tokenizer.json"))
                compare(label + ", saved", use, [back.encode(s).ids for s in use], [e.ids for e in theirs])
            except RuntimeError as e:
                report(False, label, str(e)[-200:])


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"


def places(label, tool, folder, texts, encodings):
    out = run([tool, "spans", folder], ("\n".join(texts) + "\n").encode()).decode().split("\n")[:-1]
    ours = [[tuple(map(int, t.split(",")))[3:] for t in line.split()] for line in out]
    theirs = []
    for s, e in zip(texts, encodings):
        at = [0]
        for c in s:
            at.append(at[-1] + len(c.encode()))
        theirs.append([(w, at[o[0]], at[o[1]]) for w, o in zip(e.word_ids, e.offsets)])
    compare(label + ", places", texts, ours, theirs)


def speeds(vocabs, tool):
    import tokenizers
    text = open(os.path.join(DATA, "corpora", "wikitext-2", "wiki.test.raw"), encoding="utf-8").read()
    lines = text.split("\n")
    mb = len(text.encode()) / 1e6

    def best(f):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            f()
            times.append(time.perf_counter() - start)
        return mb / min(times)

    for name in ("gpt2", "roberta", "bert-cased", "bert-uncased", "t5"):
        folder, _, ref = vocabs[name]
        ours, whole = map(float, run([tool, "speed", folder], text.encode()).split())
        t = ref._tokenizer
        t.no_truncation()
        theirs = best(lambda: [t.encode(s, add_special_tokens=False).ids for s in lines])
        line = "speed %s: tfpre %.1f MB/s by lines, %.1f as a whole; tokenizers %.2f by lines: %.1f times" % (name, ours, whole, theirs, ours / theirs)
        if name == "gpt2":
            try:
                import tiktoken
                ranks = {}
                vocab = json.load(open(os.path.join(TOK, "gpt2", "encoder.json"), encoding="utf-8"))
                table = [c for c in range(256) if 33 <= c < 127 or 161 <= c < 173 or 174 <= c]
                back = {chr(c): c for c in table}
                back.update({chr(256 + i): c for i, c in enumerate(c for c in range(256) if c not in table)})
                order = [bytes([back[c]]) for c in sorted(back, key=ord)]
                merges = open(os.path.join(TOK, "gpt2", "vocab.bpe"), encoding="utf-8").read().split("\n")[1:-1]
                for b in order + [bytes(back[c] for c in m.replace(" ", "")) for m in merges]:
                    ranks.setdefault(b, len(ranks))
                enc = tiktoken.Encoding("gpt2", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})
                assert len(vocab) >= len(ranks)
                theirs = best(lambda: [enc.encode_ordinary(s) for s in lines])
                line += "; tiktoken %.2f: %.1f times" % (theirs, ours / theirs)
            except ImportError:
                line += "; tiktoken is not installed"
        print(line, flush=True)


def main():
    if not os.path.isdir(TOK):
        print("skipped: %s is not there" % TOK)
        return 0
    try:
        import sentencepiece, tokenizers, transformers  # noqa: F401
    except ImportError as e:
        print("skipped: %s" % e)
        return 0
    only = os.environ.get("ONLY", "ids saved decoded places streamed pipelines speeds").split()
    with tempfile.TemporaryDirectory() as top:
        tool = os.path.join(top, "tokens")
        run([os.environ.get("CC", "cc"), "-std=c11", "-O2", "-o", tool, os.path.join(ROOT, "tests", "hub", "tokens.c"),
             os.path.join(BUILD, "tests", "float.o"), "-lm", "-lpthread"])
        lines, odd = corpora(), mixtures(2000)
        vocabs = vocabularies(top)
        if "ids" in only:
            same_ids(vocabs, lines, odd)
        if "saved" in only:
            same_saved(vocabs, lines, odd, top, tool)
        if "decoded" in only:
            same_decoded(vocabs, lines, odd)
        if "places" in only:
            same_places(vocabs, lines, odd, tool)
        if "streamed" in only:
            same_streamed(vocabs, tool)
        if "pipelines" in only:
            pipelines(top, tool, lines, odd)
        if "speeds" in only:
            speeds(vocabs, tool)
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
