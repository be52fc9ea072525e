"""hub.py -- what the scripts of this directory share: running build/tfpre, comparing, counting.

One line a check: "ok NAME what", or "FAIL NAME what: what was got and wanted"; the last line is
"N passed, N failed[, N skipped]".
"""
import json
import os
import subprocess
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TFPRE = os.environ.get("TFPRE", os.path.join(ROOT, "build", "tfpre"))
FLOAT = os.environ.get("TFPRE_FLOAT", os.path.join(ROOT, "build", "tests", "float"))
sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
import torch
import transformers as tr
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
tr.logging.set_verbosity_error()
tr.logging.disable_progress_bar()
passed = failed = skipped = 0


class Wrong(Exception):
    """A check did not hold; the text says what was got and wanted."""


def check(name, what, fn, *args):
    """Calls fn; it returns a figure to print, or raises. Returns whether it held."""
    global passed, failed
    try:
        figure = fn(*args)
        passed += 1
        print("ok", name, what, figure or "", flush=True)
        return True
    except Exception as e:  # whatever goes wrong in a check is its failure, and the next one runs
        failed += 1
        text = str(e).strip().replace("\n", " ") if str(e).strip() else type(e).__name__
        print("FAIL", name, what + ":", ("" if isinstance(e, Wrong) else type(e).__name__ + " ") + text[:400],
              flush=True)
        return False


def skip(name, why):
    """What cannot run here says so; it is counted, and is no failure."""
    global skipped
    skipped += 1
    print("skipped:", name, why, flush=True)


def finish():
    print("%d passed, %d failed%s" % (passed, failed, ", %d skipped" % skipped if skipped else ""))
    sys.exit(failed != 0)


def temporary():
    """A directory that goes when the script ends."""
    kept = tempfile.TemporaryDirectory(prefix="tfpre-hub-")
    temporary.all.append(kept)
    return kept.name


temporary.all = []


# ---- the command line ----


def run(*words, stdin=None, timeout=120):
    """Standard output of build/tfpre; its one line of an error is raised."""
    r = subprocess.run([TFPRE] + [str(w) for w in words], input=stdin, capture_output=True, timeout=timeout,
                       text=True)
    if r.returncode:
        lines = r.stderr.strip().splitlines() or ["nothing on standard error"]
        raise Wrong("tfpre %s: status %d, %s" % (words[0], r.returncode, lines[-1][:300]))
    return r.stdout


def refused(words_of_error, *words):
    """build/tfpre must say no, in one line that has these words, and must not crash."""
    r = subprocess.run([TFPRE] + [str(w) for w in words], capture_output=True, timeout=60, text=True,
                       stdin=subprocess.DEVNULL)
    lines = r.stderr.strip().splitlines()
    if r.returncode == 0:
        raise Wrong("status 0 where it should be refused")
    if r.returncode < 0 or r.returncode > 100 or len(lines) != 1 or not lines[0].startswith("tfpre: "):
        raise Wrong("status %d and %d lines: %s" % (r.returncode, len(lines), r.stderr[:200]))
    if not all(w in lines[0] for w in words_of_error):
        raise Wrong("no %s in: %s" % (words_of_error, lines[0]))
    return "refused: " + lines[0][:150]


def objects(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def write_batch(path, b):
    with open(path, "w") as f:
        f.write(json.dumps({k: v.tolist() if torch.is_tensor(v) else v for k, v in b.items()}) + "\n")


def logits(directory, b, *options):
    """Outputs of one batch as tensors, under the reference's names."""
    path = os.path.join(temporary(), "batch.jsonl")
    write_batch(path, b)
    o = objects(run("logits", directory, "--batches", path, "--json", *options))
    if len(o) != 1:
        raise Wrong("%d objects of one batch" % len(o))
    return {k: torch.tensor(v, dtype=torch.float64) for k, v in o[0].items()}


# ---- the reference ----

OUTPUTS = ("logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits",
           "last_hidden_state",
           "pooler_output")


def reference(model, b):
    """The same of the reference's model, in double (BLOOM's softmax is float32 and cannot have double's mask)."""
    dtype = torch.float32 if model.config.model_type == "bloom" else torch.float64
    model = model.to(dtype).eval()
    with torch.no_grad():
        o = model(**{k: v.to(dtype) if v.is_floating_point() else v for k, v in b.items()})
    return {k: o[k].double() for k in OUTPUTS if k in o and o[k] is not None}


def load(directory):
    """What architectures in config.json names, as from_pretrained opens it; nothing may be missing."""
    name = json.load(open(os.path.join(directory, "config.json")))["architectures"][0]
    model, info = getattr(tr, name).from_pretrained(directory, output_loading_info=True, dtype=torch.float32)
    odd = {k: v for k, v in info.items() if v and k != "unexpected_keys"}
    if odd:
        raise Wrong("from_pretrained: %s" % odd)
    return model


def apart(got, want, mask=None):
    """The largest distance, relative above 1, where the mask (of the first two axes) is 1."""
    if tuple(got.shape) != tuple(want.shape):
        raise Wrong("shape %s, wanted %s" % (list(got.shape), list(want.shape)))
    d = (got.double() - want.double()).abs() / want.double().abs().clamp(min=1)
    if mask is not None and d.dim() >= 2 and tuple(d.shape[:2]) == tuple(mask.shape):
        d = d[mask.bool()]
    if not torch.isfinite(d).all():
        raise Wrong("not finite")
    return float(d.max()) if d.numel() else 0.0


def same_outputs(got, want, b=None, tol=1e-4):
    mask = b.get("attention_mask") if b else None
    worst = 0.0
    for k, v in want.items():
        if k not in got:
            raise Wrong("no %s among %s" % (k, sorted(got)))
        by_place = k not in ("pooler_output",
                             "seq_relationship_logits") and not (k == "logits" and v.dim() < 3)
        x = apart(got[k], v, mask if by_place and not (b and ("decoder_input_ids" in b)) else None)
        if x > tol:
            raise Wrong("%s off by %.3g, more than %.1g" % (k, x, tol))
        worst = max(worst, x)
    return "%.1e" % worst


def at_most(x, tol, what=""):
    if not x <= tol:
        raise Wrong("%s%.3g, more than %.2g" % (what, x, tol))
    return "%.1e" % x
