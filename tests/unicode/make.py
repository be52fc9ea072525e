#!/usr/bin/env python3
"""Makes the tables of characters of tfpre.h (section >>tokenizer.c), and checks what comes of them.

  make.py            prints tfpi_unicode_runs, from Unicode 16.0: the version that Hugging Face
                     tokenizers 0.23.3 splits GPT-2's words by. Python 3.14 has it; older ones take
                     it from the package unicodedata2 (pip install unicodedata2==16.0.0)
  make.py --forms    prints the other tables. Each is of another Unicode version, the normal forms of
                     9.0 and punctuation of 8.0, so they are read off the package tokenizers
  make.py --words    prints tfpi_word_flips, off the same package
  make.py --check    with tokenizers, and $CC or cc: compares every code point, and many sequences,
                     with what the reference does
"""
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

VERSION = "16.0.0"
WIDTH = 98
HERE = os.path.dirname(os.path.abspath(__file__))
# White_Space, which is not a general category
SPACES = {9, 10, 11, 12, 13, 32, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000} | set(range(0x2000, 0x200B))
POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def table(kind, name, numbers):
    """A C table; numbers are words that stay on one line"""
    print("static const %s %s[%d] = {" % (kind, name, sum(len(w) for w in numbers)))
    line = " "
    for word in numbers:
        text = " " + "".join("%d," % n for n in word)
        if len(line + text) > WIDTH:
            print(line)
            line = " "
        line += text
    print(line.rstrip(",") + "\n};")


# ---- letters, numbers and white space: Unicode 16.0 ----

def data():
    if unicodedata.unidata_version == VERSION:
        return unicodedata
    import unicodedata2
    if unicodedata2.unidata_version != VERSION:
        sys.exit("make.py: Unicode %s is needed, this is %s" % (VERSION, unicodedata2.unidata_version))
    return unicodedata2


def classes():
    """0 other, 1 letter, 2 number, 3 white space, for every code point"""
    u = data()
    of = {"L": 1, "N": 2}
    return [3 if c in SPACES else of.get(u.category(chr(c))[0], 0) for c in range(0x110000)]


def runs(of):
    """(code points since the last run's end, length, class) of each run that is not 0"""
    out, end, c = [], 0, 0
    while c < len(of):
        first = c
        while c < len(of) and of[c] == of[first]:
            c += 1
        if of[first]:
            out.append((first - end, c - first, of[first]))
            end = c
    return out


def check_runs(of):
    from tokenizers import pre_tokenizers
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bad = 0
    for c in POINTS:
        joins = [k for k, before in ((1, "a"), (2, "1"), (0, "!")) if len(words.pre_tokenize_str(before + chr(c))) == 1]
        if (joins or [3])[0] != of[c]:
            print("U+%04X: table %d, reference %s" % (c, of[c], joins))
            bad += 1
    print("letters, numbers, white space: %d code points differ" % bad)
    return bad


# ---- the rest, as the reference has it ----

class Reference:
    def __init__(self):
        from tokenizers import normalizers as n, pre_tokenizers as p
        self.form = {"nfd": n.NFD().normalize_str, "nfc": n.NFC().normalize_str,
                     "nfkd": n.NFKD().normalize_str, "nfkc": n.NFKC().normalize_str}
        self.lower = n.Lowercase().normalize_str
        self.clean = n.BertNormalizer(True, False, False, False).normalize_str
        self.strip = n.BertNormalizer(False, False, True, False).normalize_str
        self.strip_all = n.StripAccents().normalize_str
        self.split = p.BertPreTokenizer().pre_tokenize_str

    def sets(self):
        """1 control, 2 nonspacing mark, 3 punctuation, 4 other mark"""
        of = [0] * 0x110000
        for c in POINTS:
            s = chr(c)
            if self.clean(s) == "" and c != 0xFFFD or c in (9, 10, 13):
                of[c] = 1
            elif len(self.split("a" + s + "b")) == 3:
                of[c] = 3
            elif self.strip_all(s) == "":  # one with a decomposition never gets as far as the stripping
                of[c] = 2 if self.form["nfd"](s) != s or self.strip("a" + s) == "a" else 4
        return of

    def combining(self):
        """Combining classes, by what is put before what"""
        nfd = self.form["nfd"]
        of, kinds = [0] * 0x110000, {}
        found = [c for c in POINTS if nfd(chr(c)) == chr(c) and
                 (nfd("a\u0345" + chr(c)) != "a\u0345" + chr(c) or nfd("a" + chr(c) + "\u0334") != "a" + chr(c) + "\u0334")]
        for c in found:
            kinds.setdefault(unicodedata.combining(chr(c)), chr(c))
        for c in found:
            of[c] = unicodedata.combining(chr(c))
            for k, mark in kinds.items():
                a, b = sorted((chr(c), mark), key=lambda m: unicodedata.combining(m))
                if k != of[c] and (nfd("a" + a + b) != "a" + a + b or nfd("a" + b + a) != "a" + a + b):
                    sys.exit("make.py: U+%04X is not of class %d" % (c, of[c]))
        return of

    def maps(self):
        """(kind, code points): 0 canonical, 1 compatible, 2 canonical and never composed"""
        out = {}
        for c in POINTS:
            s = chr(c)
            if 0xAC00 <= c < 0xD7A4:
                continue
            if self.form["nfd"](s) != s:
                to = [int(x, 16) for x in unicodedata.decomposition(s).split()]
                out[c] = (0 if self.form["nfc"](s) == s else 2, to)
            elif self.form["nfkd"](s) != s:
                out[c] = (1, [ord(x) for x in self.form["nfkd"](s)])
        return out

    def lowers(self):
        """Runs (code points since the last, how many, step, distance), all but U+0130"""
        pairs = [(c, ord(self.lower(chr(c)))) for c in POINTS if c != 0x130 and self.lower(chr(c)) != chr(c)]
        out, at, i = [], 0, 0
        while i < len(pairs):
            c, t = pairs[i]
            step = pairs[i + 1][0] - c if i + 1 < len(pairs) else 1
            n = 1
            while step < 3 and i + n < len(pairs) and pairs[i + n] == (c + n * step, t + n * step):
                n += 1
            step = step if n > 1 else 1
            out.append((c - at, n, step, t - c))
            at = c + (n - 1) * step
            i += n
        return out


def differences(maps):
    """Each (code point since the last)*128 + length*4 + kind, then how much more each of its code
    points is than that of the entry before; -n: n more with the same numbers"""
    out, at, last, again, before = [], 0, [0] * 32, 0, None
    for c, (kind, to) in sorted(maps.items()):
        word = [(c - at) * 128 + len(to) * 4 + kind] + [x - last[i] for i, x in enumerate(to)]
        at, last[:len(to)] = c, to
        if word == before:
            again += 1
            continue
        if again:
            out.append([-again])
        again, before = 0, word
        out.append(word)
    return out + ([[-again]] if again else [])


def forms():
    ref = Reference()
    sets = ref.sets()
    sets[0xF0000:] = [0] * 0x20000
    print("/* As the reference has them, whose tables are of several Unicode versions: code points added")
    print(" * since then are in no set and stay as they are. Made by tests/unicode/make.py --forms. Runs of")
    print(" * control characters, marks and punctuation (of 2015, Unicode 8.0; other marks: 9.0): code points")
    print(" * since the end of the run before, then length*8 + set. */")
    table("uint32_t", "tfpi_unicode_sets", [(g, n * 8 + k) for g, n, k in runs(sets)])
    print("/* Runs of one canonical combining class, Unicode 9.0: since the run before, length*256 + class. */")
    table("uint32_t", "tfpi_unicode_order", [(g, n * 256 + k) for g, n, k in runs(ref.combining())])
    print("/* Lower case, Unicode 17.0: code points since the last one, how many, step, distance. */")
    table("int32_t", "tfpi_unicode_lower", ref.lowers())
    print("/* Decompositions, Unicode 9.0: code points since the last one*128 + length*4 + kind, then how much")
    print(" * more each code point is than that at its place in the entry before; -n: n more entries with")
    print(" * the same numbers. Kinds: 0 canonical, one step; 1 compatible; 2 canonical, never composed. */")
    table("int32_t", "tfpi_unicode_maps", differences(ref.maps()))


def words():
    """Where \\w is not "letter, number or mark": by whether a character joins an "a" before it"""
    from tokenizers import pre_tokenizers
    ref = Reference()
    split = pre_tokenizers.Whitespace().pre_tokenize_str
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    flips, before = [], False
    for c in range(0x110000):
        s = chr(c) if not 0xD800 <= c < 0xE000 else ""
        word = split("a" + s)[0][0] == "a" + s
        here = len(gpt2("a" + s)) == 1 or len(gpt2("1" + s)) == 1 or ref.strip_all(s) == ""
        other = bool(s) and word != here
        if other != before:
            flips.append(c)
        before = other
    steps = [b - a for a, b in zip([0] + flips, flips)]
    print("/* Where \\w of the reference's patterns (Rust's: letters, marks, decimal digits, connectors) is not")
    print(" * the same as \"letter, number or mark\" by the tables here: code points up to the next change, in")
    print(" * turn from the same to the other and back. Made by tests/unicode/make.py --words. */")
    table("uint16_t", "tfpi_word_flips", list(zip(steps[::2], steps[1::2])))


# ---- the check ----

def samples():
    """Strings that normal forms must get right: each code point, pairs that might compose, runs of
    marks, syllables in parts"""
    rand = random.Random(7)
    yield from map(chr, POINTS)
    parts = [unicodedata.decomposition(chr(c)).split() for c in POINTS]
    parts = [[chr(int(x, 16)) for x in p] for p in parts if len(p) == 2 and "<" not in p[0]]
    firsts, seconds = sorted({p[0] for p in parts}), sorted({p[1] for p in parts})
    yield from (a + b for a in firsts for b in seconds)
    marks = [chr(c) for c in POINTS if unicodedata.combining(chr(c))]
    jamo = [chr(c) for c in list(range(0x1100, 0x1200)) + [0xAC00, 0xAC01, 0xAC1C, 0xD7A3]]
    whole = [chr(c) for c in POINTS if unicodedata.decomposition(chr(c))]
    for _ in range(200000):
        kinds = rand.choice(((firsts, marks, seconds), (jamo,), (whole, marks), (firsts, seconds, marks, whole, jamo)))
        yield "".join(rand.choice(rand.choice(kinds)) for _ in range(rand.randint(2, 7)))
    for n in (40, 100, 1000):  # long runs of marks
        for _ in range(20):
            yield "a" + "".join(rand.choice(marks) for _ in range(n))


def check_forms():
    """All samples through tests/unicode/forms.c"""
    ref = Reference()
    bad = 0
    texts = list(samples())
    given = "\n".join(" ".join("%x" % ord(c) for c in t) for t in texts) + "\n"
    with tempfile.TemporaryDirectory() as d:
        program = os.path.join(d, "forms")
        subprocess.check_call([os.environ.get("CC", "cc"), "-std=c99", "-O1", "-o", program,
                               os.path.join(HERE, "forms.c"), "-lm", "-lpthread"])

        def ours(what):
            out = subprocess.run([program, what], input=given.encode(), stdout=subprocess.PIPE, check=True).stdout
            return out.decode().split("\n")[:-1]
        for what in ("nfd", "nfc", "nfkd", "nfkc", "lower"):
            call = ref.lower if what == "lower" else ref.form[what]
            wrong = [(t, o) for t, o in zip(texts, ours(what))
                     if o != " ".join("%x" % ord(c) for c in call(t))]
            for t, o in wrong[:5]:
                print("%s of %a: %s, reference %a" % (what, t, o, call(t)))
            print("%s: %d of %d texts differ" % (what, len(wrong), len(texts)))
            bad += len(wrong)
        ours_sets = [int(x) for x in ours("sets")[:len(POINTS)]]
        sets = ref.sets()
        wrong = [c for c, k in zip(POINTS, ours_sets) if sets[c] != k]
        for c in wrong[:5]:
            print("U+%04X: set %d, reference %d" % (c, ours_sets[POINTS.index(c)], sets[c]))
        print("sets: %d code points differ" % len(wrong))
    return bad + len(wrong)


def main():
    if "--check" in sys.argv:
        sys.exit(check_runs(classes()) + check_forms() != 0)
    if "--forms" in sys.argv:
        return forms()
    if "--words" in sys.argv:
        return words()
    print("/* Unicode %s, as the reference has it. Runs of letters, numbers and white space: code points" % VERSION)
    print(" * since the end of the run before, then length*4 + class. Made by tests/unicode/make.py. */")
    table("uint32_t", "tfpi_unicode_runs", [(g, n * 4 + k) for g, n, k in runs(classes())])


main()
