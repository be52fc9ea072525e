#!/usr/bin/env python3
"""Prints the table tfpi_unicode_runs of tfpre.h (section >>tokenizer.c).

The version is the one that Hugging Face tokenizers 0.23.3 splits words by: Unicode 16.0. Python 3.14
has it; older ones take it from the package unicodedata2 (pip install unicodedata2==16.0.0).

With --check and the package tokenizers, every code point is tried on the reference instead.
"""
import sys

VERSION = "16.0.0"
WIDTH = 98
# White_Space, which is not a general category
SPACES = {9, 10, 11, 12, 13, 32, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000} | set(range(0x2000, 0x200B))


def data():
    import unicodedata
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
    """(code points since the last run's end, length*4 + class) of each run that is not other"""
    out, end, c = [], 0, 0
    while c < len(of):
        first = c
        while c < len(of) and of[c] == of[first]:
            c += 1
        if of[first]:
            out.append((first - end, (c - first) * 4 + of[first]))
            end = c
    return out


def check(of):
    from tokenizers import pre_tokenizers
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bad = 0
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000:
            continue
        joins = [k for k, before in ((1, "a"), (2, "1"), (0, "!")) if len(words.pre_tokenize_str(before + chr(c))) == 1]
        if (joins or [3])[0] != of[c]:
            print("U+%04X: table %d, reference %s" % (c, of[c], joins))
            bad += 1
    print("%d code points differ" % bad)
    return bad


def main():
    of = classes()
    if "--check" in sys.argv:
        sys.exit(check(of) != 0)
    table = runs(of)
    print("/* Unicode %s, as the reference has it. Runs of letters, numbers and white space: code points" % VERSION)
    print(" * since the end of the run before, then length*4 + class. Made by tests/unicode/make.py. */")
    print("static const uint32_t tfpi_unicode_runs[%d] = {" % (2 * len(table)))
    line = " "
    for pair in table:
        word = " %d,%d," % pair
        if len(line + word) > WIDTH:
            print(line)
            line = " "
        line += word
    print(line.rstrip(",") + "\n};")


main()
