#!/usr/bin/env python3
"""make.py -- what the reference computes for small random models, for the tests to compare with.

    HF_HUB_OFFLINE=1 python make.py [--out DIR] [--seed N] [--size small|odd|wide] [--only WORD] [--extra]

The committed directories beside this file are --size small --seed 1, made with transformers 5.23.0
and torch 2.15.0; tests/golden.c reads them without Python. tests/hub/models.py makes fresh ones in
other sizes, with other seeds and with more heads (--extra).

DIR/list names the directories. Each is a family with a head, and mostly one field of the
configuration that is not the usual one:

  config.json, generation_config.json, model.safetensors   as save_pretrained writes them
  batches.jsonl         ten batches, a JSON object a line, with the words that the reference's
                        forward takes; rows are padded on the right, labels left out are -100
  expected.safetensors  what the first batch gives, under the reference's names (logits,
                        start_logits, last_hidden_state, ...), and its gradient of every parameter
                        as grad.NAME
  expected.json         kind; loss of the first batch; losses and grad_norms (before the update,
                        over all parameters) of ten steps of AdamW with rate 1e-3, betas 0.9 and
                        0.999, eps 1e-8, decay 0.01 of every parameter, no clipping, no dropout;
                        generations: prompt, options and all ids that `generate` returns;
                        together: the same for three prompts at once; tol: how far to allow where float32 itself is not nearer than the usual goals, and
                        floor: the same for gradients, as the share of the model's largest below
                        which a tensor counts as zero (else a thousandth)

DIR/filters.json has logits with options of sampling and the tokens that stay possible, with their
probabilities.

Everything is computed in double (where the reference has no float inside) and stored in float: what
is left of a tolerance is the tester's own. Weights are drawn so that every part counts: scores of
attention that are neither flat nor saturated, norms that are not the identity, biases and rows of
padding that are not zero. What is generated is the same in float and in double, or another prompt
is taken.
"""
import argparse
import copy
import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers as tr
from safetensors.torch import save_file

SIZES = {
    "small": dict(d=16, layers=2, heads=4, ffn=22, vocab=53, positions=24, rows=3, T=9, S=7, new=12),
    "odd": dict(d=60, layers=3, heads=5, ffn=83, vocab=131, positions=50, rows=2, T=17, S=23, new=16),
    "wide": dict(d=128, layers=2, heads=2, ffn=384, vocab=517, positions=80, rows=4, T=64, S=48, new=16),
}
GOALS = dict(logits=1e-4, grads=1e-4, losses=1e-4, norms=1e-3)
FIRST = 5  # ids below are special in one family or another


class Case:
    """A model to make: its class, its configuration and what it is trained on."""

    def __init__(self, name, cls, config, kind, **more):
        self.name, self.cls, self.config, self.kind, self.more = name, cls, config, kind, more


def cases(z, extra=False):
    d, L, H, F, V, P = (z[k] for k in ("d", "layers", "heads", "ffn", "vocab", "positions"))
    bert = dict(vocab_size=V, hidden_size=d, num_hidden_layers=L, num_attention_heads=H, intermediate_size=F,
                max_position_embeddings=P, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    roberta = dict(bert, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
                   layer_norm_eps=1e-5)
    gpt2 = dict(vocab_size=V, n_positions=P, n_embd=d, n_layer=L, n_head=H, n_inner=F, resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0, bos_token_id=1, eos_token_id=1, pad_token_id=0, classifier_dropout=0.0)
    bloom = dict(vocab_size=V, hidden_size=d, n_layer=L, n_head=H, hidden_dropout=0.0, attention_dropout=0.0,
                 bos_token_id=1, eos_token_id=2, pad_token_id=3, classifier_dropout=0.0)
    t5 = dict(vocab_size=V, d_model=d, d_kv=d // H + 2, d_ff=F, num_layers=L, num_heads=H, dropout_rate=0.0,
              relative_attention_num_buckets=8, relative_attention_max_distance=20, pad_token_id=0,
              eos_token_id=1,
              decoder_start_token_id=0)
    bart = dict(vocab_size=V, d_model=d, encoder_layers=L, decoder_layers=L, encoder_attention_heads=H,
                decoder_attention_heads=H, encoder_ffn_dim=F, decoder_ffn_dim=F, max_position_embeddings=P,
                dropout=0.0,
                attention_dropout=0.0, activation_dropout=0.0, pad_token_id=1, bos_token_id=0, eos_token_id=2,
                decoder_start_token_id=2, forced_eos_token_id=None)
    B, R, G, O, T, A = tr.BertConfig, tr.RobertaConfig, tr.GPT2Config, tr.BloomConfig, tr.T5Config, tr.BartConfig
    six = dict(bloom, n_head=6, hidden_size=6 * (d // H))
    many = dict(problem_type="multi_label_classification", num_labels=4)
    out = [
        Case("bert-mlm", tr.BertForMaskedLM, B(**bert), "mlm"),
        Case("bert-pretraining", tr.BertForPreTraining, B(**bert), "pretraining"),
        Case("bert-nsp", tr.BertForNextSentencePrediction, B(**bert, hidden_act="gelu_new"), "nsp"),
        Case("bert-cls", tr.BertForSequenceClassification, B(**bert, num_labels=3), "cls"),
        Case("bert-regression", tr.BertForSequenceClassification, B(**bert, num_labels=1), "regression"),
        Case("bert-multilabel", tr.BertForSequenceClassification, B(**bert, **many), "multilabel"),
        Case("bert-token", tr.BertForTokenClassification, B(**bert, num_labels=5, hidden_act="relu"),
             "token"),
        Case("bert-qa", tr.BertForQuestionAnswering, B(**bert), "qa"),
        Case("bert-choice", tr.BertForMultipleChoice, B(**bert), "choice"),
        Case("bert-base", tr.BertModel, B(**bert), "base"),
        Case("roberta-mlm", tr.RobertaForMaskedLM, R(**roberta), "mlm"),
        Case("roberta-cls", tr.RobertaForSequenceClassification, R(**roberta, num_labels=3), "cls"),
        Case("roberta-token", tr.RobertaForTokenClassification,
             R(**dict(roberta, pad_token_id=3), num_labels=4), "token"),
        Case("roberta-qa", tr.RobertaForQuestionAnswering, R(**roberta, hidden_act="silu"), "qa"),
        Case("roberta-base", tr.RobertaModel, R(**roberta), "base"),
        Case("gpt2-lm", tr.GPT2LMHeadModel, G(**gpt2), "lm"),
        Case("gpt2-cls", tr.GPT2ForSequenceClassification,
             G(**dict(gpt2, n_inner=None), num_labels=3, scale_attn_by_inverse_layer_idx=True), "cls"),
        Case("gpt2-token", tr.GPT2ForTokenClassification, G(**gpt2, num_labels=4, activation_function="gelu"),
             "token"),
        Case("gpt2-qa", tr.GPT2ForQuestionAnswering, G(**gpt2, layer_norm_epsilon=1e-3), "qa"),
        Case("bloom-lm", tr.BloomForCausalLM, O(**bloom), "lm"),
        Case("bloom-lm-6heads", tr.BloomForCausalLM, O(**six), "lm", two_ends=True),
        Case("bloom-cls", tr.BloomForSequenceClassification, O(**bloom, num_labels=3), "cls"),
        Case("bloom-token", tr.BloomForTokenClassification,
             O(**bloom, num_labels=4, apply_residual_connection_post_layernorm=True), "token"),
        Case("bloom-qa", tr.BloomForQuestionAnswering, O(**six), "qa"),
        Case("t5-relu", tr.T5ForConditionalGeneration, T(**t5, feed_forward_proj="relu"), "seq2seq"),
        Case("t5-gated", tr.T5ForConditionalGeneration,
             T(**t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False), "seq2seq", own_head=True),
        Case("t5-cls", tr.T5ForSequenceClassification, T(**t5, num_labels=3), "cls"),
        Case("t5-token", tr.T5ForTokenClassification, T(**t5, num_labels=4, feed_forward_proj="gated-silu"),
             "token"),
        Case("t5-qa", tr.T5ForQuestionAnswering, T(**t5, num_decoder_layers=1), "qa"),
        Case("t5-encoder", tr.T5EncoderModel, T(**t5, feed_forward_proj="gated-gelu"), "base"),
        Case("bart-lm", tr.BartForConditionalGeneration, A(**bart), "seq2seq"),
        Case("bart-cls", tr.BartForSequenceClassification, A(**dict(bart, decoder_layers=1), num_labels=3),
             "cls"),
        Case("bart-qa", tr.BartForQuestionAnswering, A(**bart, scale_embedding=True), "qa"),
    ]
    if extra:
        out += [
            Case("roberta-choice", tr.RobertaForMultipleChoice, R(**roberta), "choice"),
            Case("roberta-multilabel", tr.RobertaForSequenceClassification, R(**roberta, **many),
                 "multilabel"),
            Case("bert-cls-2", tr.BertForSequenceClassification, B(**bert, num_labels=2), "cls"),
            Case("bert-mlm-types", tr.BertForMaskedLM,
                 B(**dict(bert, type_vocab_size=4), layer_norm_eps=1e-6), "mlm"),
            Case("gpt2-base", tr.GPT2Model, G(**gpt2), "base"),
            Case("gpt2-regression", tr.GPT2ForSequenceClassification,
                 G(**gpt2, num_labels=2, problem_type="regression"), "regression"),
            Case("gpt2-unscaled", tr.GPT2LMHeadModel, G(**gpt2, scale_attn_weights=False), "lm"),
            Case("bloom-base", tr.BloomModel, O(**bloom), "base"),
            Case("bloom-lm-residual", tr.BloomForCausalLM,
                 O(**bloom, apply_residual_connection_post_layernorm=True), "lm"),
            Case("t5-base", tr.T5Model, T(**t5), "base2"),
            Case("t5-silu", tr.T5ForConditionalGeneration,
                 T(**t5, feed_forward_proj="gated-silu", num_decoder_layers=L - 1), "seq2seq"),
            Case("bart-base", tr.BartModel, A(**bart), "base2"),
            Case("bart-lm-scaled", tr.BartForConditionalGeneration,
                 A(**dict(bart, encoder_layers=1), scale_embedding=True, activation_function="relu"),
                 "seq2seq"),
            Case("bart-cls-2", tr.BartForSequenceClassification,
                 A(**bart, id2label={0: "NO", 1: "YES"}, label2id={"NO": 0, "YES": 1}), "cls"),
        ]
    return out


# ---- weights ----


def draw(shape, std, g, mean=0.0):
    return mean + std * torch.randn(shape, generator=g)


def enliven(model, g):
    """Draws every weight so that each part of the model counts in what comes out."""
    t5 = model.config.model_type == "t5"
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            last = name.split(".")[-2]
            norm = "norm" in last.lower() or last in ("ln_1", "ln_2", "ln_f")
            if norm or p.dim() == 1:
                p.copy_(draw(p.shape, 0.2, g, 1.0 if norm and name.endswith("weight") else 0.0))
            elif "relative_attention_bias" in name:
                p.copy_(draw(p.shape, 0.7, g))
            elif "embed" in name or last in ("wte", "wpe", "shared"):
                p.copy_(draw(p.shape, 1.0 if t5 else 2.0 / p.shape[1] ** 0.5, g))
            else:
                inputs = p.shape[0] if "GPT2" in type(model).__name__ and ".h." in name else p.shape[1]
                p.copy_(draw(p.shape, 1.3 / inputs ** 0.5, g))
                if t5 and name.endswith(("SelfAttention.q.weight", "EncDecAttention.q.weight")):
                    p.mul_(model.config.d_kv ** -0.5)  # T5 does not divide its scores
        for name, b in model.named_buffers():
            if name.endswith("final_logits_bias"):
                b.copy_(draw(b.shape, 0.4, g))
    model.tie_weights()


def build(case, seed):
    """The model of a case, and the generator that its batches are drawn from."""
    g = torch.Generator().manual_seed(seed * 1000003 + sum(ord(c) * 31 ** i for i,
                                                           c in enumerate(case.name)) % 999983)
    config = copy.deepcopy(case.config)
    config._attn_implementation = "eager"
    model = case.cls(config).eval()
    enliven(model, g)
    if case.more.get("own_head"):  # the reference ties a new model's head whatever its configuration says
        w = model.lm_head.weight
        model.lm_head.weight = torch.nn.Parameter(draw(w.shape, 1.3 / w.shape[1] ** 0.5, g))
    return model, g


# ---- batches ----


def ints(low, high, shape, g):
    return torch.randint(low, high, shape, generator=g)


def where(keep, x, otherwise=-100):
    return torch.where(keep, x, torch.full_like(x, otherwise))


def batch(case, z, g, number):
    """Batch `number` of a case; row 0 is full, the others end earlier. Every fourth has no padding and no mask."""
    c, kind = case.config, case.kind
    rows, T, V = z["rows"], z["T"] - number % 3, z["vocab"]
    choices = 3 if kind == "choice" else 1
    n = rows * choices
    ends = torch.full((n,), T)
    if number % 4 != 3:
        ends[1:] = ints(T // 2, T + 1, (n - 1,), g)
    mask = torch.arange(T)[None, :] < ends[:, None]
    ids = where(mask, ints(FIRST, V, (n, T), g), c.pad_token_id)
    out = dict(input_ids=ids)
    if number % 4 != 3:
        out["attention_mask"] = mask.long()
    if c.model_type == "bert":
        split = ints(1, T, (n, 1), g)
        out["token_type_ids"] = (torch.arange(T)[None, :] >= split).long() * ints(1, c.type_vocab_size,
            (n, 1), g)
    if kind in ("cls", "regression", "multilabel") and c.model_type in ("t5", "bart"):
        ids[:, 1] = c.eos_token_id  # the last of a row is read, and rows must have as many
        ids[torch.arange(n), ends - 1] = c.eos_token_id
    some = mask & (torch.rand((n, T), generator=g) < 0.5)
    some[:, 0] = True
    if kind in ("mlm", "pretraining"):
        out["labels"] = where(some, ints(0, V, (n, T), g))
    if kind == "pretraining":
        out["next_sentence_label"] = ints(0, 2, (n,), g)
    elif kind == "nsp":
        out["labels"] = ints(0, 2, (n,), g)
    elif kind == "lm":  # a text, or an answer whose question is not scored
        out["labels"] = where(mask & (torch.arange(T)[None, :] >= number % 2 * 2), ids)
    elif kind == "token":
        out["labels"] = where(some, ints(0, c.num_labels, (n, T), g))
    elif kind == "cls":
        out["labels"] = ints(0, c.num_labels, (n,), g)
    elif kind == "regression":
        out["labels"] = draw((n,) if c.num_labels == 1 else (n, c.num_labels), 1.0, g).mul(64).round() / 64
    elif kind == "multilabel":
        out["labels"] = ints(0, 2, (n, c.num_labels), g).float()
    elif kind == "choice":
        out = {k: v.view(rows, choices, T) for k, v in out.items()}
        out["labels"] = ints(0, choices, (rows,), g)
    elif kind == "qa":
        first, second = ints(0, T, (n,), g), ints(0, T, (n,), g)
        out["start_positions"], out["end_positions"] = torch.minimum(first, second), torch.maximum(first,
            second)
        if number % 2:  # an answer that was cut away, or its end alone: places behind the row do not count
            out["end_positions"][1] = T + 2
        if number % 4 == 1:
            out["start_positions"][1] = T
    elif kind in ("seq2seq", "base2"):
        S = z["S"] - number % 2
        lasts = torch.full((n, 1), S)
        lasts[1:] = ints(S // 2, S + 1, (n - 1, 1), g)
        labels = where(torch.arange(S)[None, :] < lasts, ints(FIRST, V, (n, S), g))
        out["labels" if kind == "seq2seq" else "decoder_input_ids"] = labels if kind == "seq2seq" else where(
            labels >= 0, labels, c.pad_token_id)
    return out


# ---- what is expected ----

OUTPUTS = ("logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits",
           "last_hidden_state",
           "pooler_output")


def as_type(b, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in b.items()}


def outputs(model, b):
    o = model(**b)
    return {k: o[k].detach() for k in OUTPUTS if k in o and o[k] is not None}


def train(model, batches):
    """Losses and gradient norms of ten steps, and the first gradient of every parameter."""
    dtype = next(model.parameters()).dtype
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses, norms, first = [], [], None
    for b in batches:
        opt.zero_grad()
        loss = model(**as_type(b, dtype)).loss
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        first = first or {n: g.detach().double().clone() for n, g in grads.items()}
        norms.append(float(torch.stack([g.double().norm() for g in grads.values()]).norm()))
        losses.append(float(loss.detach()))
        opt.step()
    return losses, norms, first


def apart(a, b):
    return max(abs(x - y) / max(1e-3, abs(y)) for x, y in zip(a, b))


def largest(grads):
    return max(float(g.abs().max()) for g in grads.values())


def grads_apart(a, b, floor=1e-3):
    """Of each tensor against its largest, or a share of the model's largest: a key's bias has no gradient but for rounding."""
    top = floor * largest(b)
    return max(float((a[n] - g).abs().max()) / max(top, float(g.abs().max())) for n, g in b.items())


def floor_of(a, b):
    """The share of the model's largest that grads_apart needs for a to be within a quarter of the goal of b."""
    need = 0.0
    for n, g in b.items():
        far = 4 * float((a[n] - g).abs().max()) / GOALS["grads"]
        if far > float(g.abs().max()):
            need = max(need, far / largest(b))
    return need


def generations(model, twin, case, z, g):
    """Some prompts under some options. The model's end becomes a token that it likes to write, so that texts end early."""
    new = z["new"]
    options = [
        dict(num_beams=1),
        dict(num_beams=1, no_repeat_ngram_size=2, repetition_penalty=1.3, min_new_tokens=new - 3),
        dict(num_beams=4, length_penalty=0.8, early_stopping=True, no_repeat_ngram_size=3),
        dict(num_beams=3, length_penalty=2.0, early_stopping=False, repetition_penalty=1.2),
        dict(num_beams=2, length_penalty=-1.0, early_stopping=True, min_new_tokens=4),
    ]

    def run(m, ids, o, ends, mask=None):
        for c in (m.config, m.generation_config):
            c.pad_token_id = case.config.pad_token_id
            c.eos_token_id = ends
        with torch.no_grad():
            out = m.generate(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask,
                             do_sample=False,
                             max_new_tokens=new, **o)
        return out[0].tolist() if mask is None else out.tolist()

    def prompt(n):
        return ints(FIRST, z["vocab"], (1, n), g)

    first = z["T"] // 2
    ids, start = prompt(first), 1 if case.kind == "seq2seq" else first
    written = [t for o in (options[0], options[2]) for t in run(model, ids, o, None)[start:]]
    ends, most = None, -1
    for t in sorted(set(written), key=written.index):
        e = [t, written[-1]] if case.more.get("two_ends") else t
        early = sum(2 < len(run(model, ids, o, e)) - start < new for o in options)
        if early > most:
            ends, most = e, early
    out = []
    while len(out) < 3 * len(options):
        these = [(o, run(model, ids, o, ends), run(twin, ids, o, ends)) for o in options]
        if all(a == b for _, a, b in these):
            out += [dict(input_ids=ids[0].tolist(), max_new_tokens=new, **o, ids=a) for o, a, _ in these]
        ids = prompt(first + len(out) // len(options))
    together, close = [], nearby(model,
                                 g)  # BLOOM in double cannot hide padding on the left: its softmax is float32
    for o in (options[1],
              options[3]):  # several prompts at once, shorter ones padded: decoders read up to the right edge
        while True:
            mask = torch.arange(first)[None, :] < torch.tensor([first, first - 1, first - 2])[:, None]
            mask = mask if case.kind == "seq2seq" else mask.flip(1)
            ids = where(mask, ints(FIRST, z["vocab"], (3, first), g), case.config.pad_token_id)
            a, b = (run(m, ids, o, ends, mask.long()) for m in (model, close))
            if a == b:
                break
        together.append(dict(input_ids=ids.tolist(), attention_mask=mask.long().tolist(), max_new_tokens=new,
                             **o, ids=a))
    model.config.eos_token_id = ends[0] if isinstance(ends, list) else ends
    return out, together


def nearby(model, g):
    """The same model in float32 but for the last bit of its weights: what it gives is as right as what the model gives."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1 + 2.0 ** -24 * torch.randn(p.shape, generator=g))
    return other


def digits(x):
    return float("%.10g" % x)


def write_lines(path, rows):
    with open(path, "w") as f:
        for r in rows:
            f.write(json.dumps(r, separators=(",", ":")) + "\n")


def lists(b):
    return {k: v.tolist() for k, v in b.items()}


def make(case, out, z, seed):
    """One directory. Returns how far the reference's own float32 is from its double, at worst of three tries."""
    model, g = build(case, seed)
    batches = [batch(case, z, g, i) for i in range(1 if case.kind in ("base", "base2") else 10)]
    twin = copy.deepcopy(model).double()
    d = os.path.join(out, case.name)
    os.makedirs(d, exist_ok=True)
    exp = dict(kind=case.kind)
    if case.kind in ("lm", "seq2seq"):
        exp["generations"], exp["together"] = generations(model, twin, case, z, g)
    model.save_pretrained(d)
    write_lines(os.path.join(d, "batches.jsonl"), map(lists, batches))
    true, seen = outputs(twin, as_type(batches[0], torch.double)), outputs(model, batches[0])
    noise = dict(logits=max(float(((seen[k] - v).abs() / v.abs().clamp(min=1)).max()) for k,
                            v in true.items()))
    tensors = {k: v.float().contiguous() for k, v in true.items()}
    if len(batches) > 1:
        others = [nearby(model, g), nearby(model, g), model]
        losses, norms, grads = train(twin, batches)
        floats = [train(m, batches) for m in others]
        noise.update(losses=max(apart(f[0], losses) for f in floats),
                     norms=max(apart(f[1], norms) for f in floats),
                     floor=max(floor_of(f[2], grads) for f in floats))
        exp.update(loss=digits(losses[0]), losses=list(map(digits, losses)),
                   grad_norms=list(map(digits, norms)))
        tensors.update({"grad." + n: t.float().contiguous() for n, t in grads.items()})
    tol = {k: float("%.1e" % (4 * noise[k])) for k in noise if k in GOALS and 4 * noise[k] > GOALS[k]}
    if tol:
        exp["tol"] = tol
    if noise.get("floor", 0) > 1e-3:
        exp["floor"] = float("%.1e" % noise["floor"])
    save_file(tensors, os.path.join(d, "expected.safetensors"), metadata={"format": "pt"})
    lists_of = {k: exp.pop(k) for k in ("generations", "together") if k in exp}
    with open(os.path.join(d, "expected.json"), "w") as f:
        f.write(json.dumps(exp)[:-1])
        for k, rows in lists_of.items():
            f.write(', "%s": [\n' % k + ",\n".join(json.dumps(r, separators=(",", ":"))
                                                   for r in rows) + "\n]")
        f.write("}\n")
    for name in os.listdir(d):
        os.chmod(os.path.join(d, name), 0o644)
    return exp, noise, lists_of.get("generations")


def filtered(x, t, k, p):
    """The ids that the reference leaves, with their probabilities."""
    s, ids = x[None].clone(), torch.zeros((1, 1), dtype=torch.long)
    if t != 1:
        s = tr.TemperatureLogitsWarper(t)(ids, s)
    if k:
        s = tr.TopKLogitsWarper(k)(ids, s)
    if p < 1:
        s = tr.TopPLogitsWarper(p)(ids, s)
    kept = torch.isfinite(s[0]).nonzero()[:, 0].tolist()
    probs = s[0].double().softmax(0)
    return kept, [float("%.6g" % probs[i]) for i in kept]


def filters(path, seed):
    """What the reference leaves to be drawn of given logits. Some are equal, but never one that stays and one that goes:
    which of them goes under top_p is left to torch.sort, which does not say."""
    g = torch.Generator().manual_seed(seed)
    rows = []
    for t, k, p in ((1.0, 0, 1.0), (0.7, 0, 1.0), (1.0, 5, 1.0), (1.0, 1, 1.0), (1.0, 40, 1.0), (1.0, 0, 0.9),
                    (1.0, 0, 0.5),
                    (1.0, 0, 0.05), (2.5, 0, 0.8), (0.25, 7, 1.0), (1.5, 6, 0.7), (0.5, 3, 0.99),
                    (3.0, 12, 0.95)):
        for steps in (64, 2):  # the second has many that are equal
            clear = False
            while not clear:
                x = draw((24,), 2.0, g).mul(steps).round() / steps
                kept, probs = filtered(x, t, k, p)
                clear = not {float(x[i]) for i in kept} & {float(x[i]) for i in range(24) if i not in kept}
            rows.append(dict(logits=x.tolist(), temperature=t, top_k=k, top_p=p, kept=kept,
                             probabilities=probs))
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]\n")


def make_all(out, size, seed, only=None, extra=False, say=print):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tr.logging.set_verbosity_error()
    tr.logging.disable_progress_bar()
    os.makedirs(out, exist_ok=True)
    for case in cases(SIZES[size], extra):
        if only and only not in case.name:
            continue
        exp, noise, rows = make(case, out, SIZES[size], seed)
        say("%-18s %s noise %s%s%s" % (case.name, "loss %.4f -> %.4f" % (exp["loss"], exp["losses"][-1])
                                       if "loss" in exp else "",
                                       " ".join("%s %.0e" % x for x in noise.items()),
                                       "".join(" %s %s" % (k, exp[k]) for k in ("tol", "floor") if k in exp),
                                       " lengths %s" % [len(r["ids"]) for r in rows] if rows else ""))
    filters(os.path.join(out, "filters.json"), seed)
    names = [c.name for c in cases(SIZES[size], extra) if os.path.isdir(os.path.join(out, c.name))]
    with open(os.path.join(out, "list"), "w") as f:
        f.write("".join(n + "\n" for n in names))
    return names


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--size", choices=SIZES, default="small")
    ap.add_argument("--only")
    ap.add_argument("--extra", action="store_true")
    a = ap.parse_args()
    make_all(a.out, a.size, a.seed, a.only, a.extra)


if __name__ == "__main__":
    main()
