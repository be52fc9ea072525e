#!/usr/bin/env python3
"""wild.py -- model directories as they lie in the wild, and batches as people make them.

    python tests/hub/wild.py [--only WORD]

Each case is a small model whose files were changed into what older releases, other tools or hostile
people leave behind. It is read as the reference reads it (the same outputs; and again after
`convert`, by the reference), or refused in one line with the reason: the case says which.
"""
import argparse
import json
import os
import re
import shutil

import hub
import make
import torch
import transformers as tr
from hub import Wrong, check, load_file, save_file

Z = dict(make.SIZES["small"], vocab=71, d=24, ffn=36, T=11)
ALL = {c.name: c for c in make.cases(Z, True)}
ONLY = PART = None
F, I = torch.float32, torch.int64


def wanted(name, what):
    return not ONLY or ONLY in " ".join((PART, name, what))


class Base:
    """A saved model of a case: its directory, tensors, configuration and a batch without labels."""

    def __init__(self, name):
        self.name, self.case = name, ALL[name]
        self.model, self.g = make.build(self.case, 5)
        self.dir = hub.temporary()
        self.model.save_pretrained(self.dir)
        self.weights = load_file(os.path.join(self.dir, "model.safetensors"))
        self.config = json.load(open(os.path.join(self.dir, "config.json")))
        b = make.batch(self.case, Z, self.g, 0)
        if self.case.kind == "seq2seq":
            b["decoder_input_ids"] = make.where(b["labels"] >= 0, b["labels"], self.case.config.pad_token_id)
        self.batch = {k: v for k, v in b.items() if k not in ("labels", "start_positions", "end_positions",
                                                              "next_sentence_label")}

    def random(self, *shape, std=0.3):
        return make.draw(shape, std, self.g)


BASES = {}


def base(name):
    if name not in BASES:
        BASES[name] = Base(name)
    return BASES[name]


def variant(m, weights=None, config=None, drop=()):
    """A directory like m's with other tensors or another configuration."""
    d = hub.temporary()
    shutil.copytree(m.dir, d, dirs_exist_ok=True)
    if weights is not None:
        save_file({k: v.contiguous().clone() for k, v in weights.items()},
                  os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
    if config is not None or drop:
        c = {k: v for k, v in dict(m.config, **(config or {})).items() if k not in drop}
        json.dump(c, open(os.path.join(d, "config.json"), "w"), indent=2)
    return d


def reads(name, what, d, b, tol=1e-4, again=True, zero=(), want=None):
    """Our outputs are the reference's; zero: tensors that neither file nor reference needs, and that are 0."""
    if not wanted(name, what):
        return

    def read():
        if want is None:
            cls = getattr(tr, json.load(open(os.path.join(d, "config.json")))["architectures"][0])
            model, info = cls.from_pretrained(d, output_loading_info=True, dtype=F)
            missing = [k for k in info["missing_keys"] if not k.endswith(tuple(zero) or "/")]
            if missing or info["mismatched_keys"]:
                raise Wrong("the case is wrong: the reference misses %s %s" % (missing[:3],
                    info["mismatched_keys"]))
            for k in info["missing_keys"]:
                if float(model.state_dict()[k].abs().max()) != 0:
                    raise Wrong("the case is wrong: %s is not 0" % k)
            box.append(hub.reference(model, b))
        else:
            box.append(want)
        return hub.same_outputs(hub.logits(d, b), box[0], b, tol)

    def saved():
        out = hub.temporary()
        hub.run("convert", d, "--out", out)
        theirs = hub.load(out)
        if want is None:  # every weight as the reference has it of the first directory, to the bit
            first = type(theirs).from_pretrained(d, dtype=F)
            for k, v in first.state_dict().items():
                if not torch.equal(v, theirs.state_dict()[k]):
                    raise Wrong("%s is not what it was" % k)
            if theirs.config.id2label != first.config.id2label:
                raise Wrong("labels %s, they were %s" % (theirs.config.id2label, first.config.id2label))
        return hub.same_outputs(hub.reference(theirs, b), box[0], b, tol)

    box = []
    if check(name, what + ": read", read) and again:
        check(name, what + ": converted, opened by the reference", saved)


def refuses(name, what, d, words, b=None):
    """What is refused must be refused in one line that has these words."""
    if not wanted(name, what):
        return
    if b is None:
        check(name, what, hub.refused, words, "logits", d, "--ids", "5 6 7",
              *(["--decoder-ids", "0 5"] if name[:2] in ("t5", "ba") else []))
        return
    path = os.path.join(hub.temporary(), "batch.jsonl")
    hub.write_batch(path, b)
    check(name, what, hub.refused, words, "logits", d, "--batches", path)


def reads_or_refuses(name, what, d, b, words):
    """Where a field is rare: the reference's numbers, or a refusal; never other numbers."""
    if not wanted(name, what):
        return

    def either():
        try:
            return hub.refused(words, "logits", d, "--ids", "5 6 7",
                               *(["--decoder-ids", "0 5"] if "decoder_input_ids" in b else []))
        except Wrong:
            return "read " + hub.same_outputs(hub.logits(d, b), hub.reference(hub.load(d), b), b)

    check(name, what + ": read or refused", either)


# ---- names of tensors ----


def renamed(weights, *pairs):
    out = {}
    for k, v in weights.items():
        for a, b in pairs:
            k = re.sub(a, b, k)
        out[k] = v
    return out


def names():
    old = ((r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta"))
    for n in ("bert-mlm", "bert-pretraining", "bert-cls", "bert-base"):
        m = base(n)
        reads(n, "norms called gamma and beta", variant(m, renamed(m.weights, *old)), m.batch)
    for n in ("bert-mlm", "bert-qa", "roberta-mlm"):
        m = base(n)
        p = m.config["model_type"] + ".embeddings."
        w = dict(m.weights)
        w[p + "position_ids"] = torch.arange(m.config["max_position_embeddings"])[None]
        w[p + "token_type_ids"] = torch.zeros(1, m.config["max_position_embeddings"], dtype=I)
        reads(n, "buffers position_ids and token_type_ids", variant(m, w), m.batch)
    m = base("roberta-mlm")
    w = dict(m.weights, **{"roberta.pooler.dense.weight": m.random(24, 24),
                           "roberta.pooler.dense.bias": m.random(24)})
    reads(m.name, "a pooler that the model has not, as in roberta-base", variant(m, w), m.batch)
    m = base("bert-mlm")
    w = dict(m.weights, **{"bert.pooler.dense.weight": m.random(24, 24),
                           "bert.pooler.dense.bias": m.random(24),
                           "cls.seq_relationship.weight": m.random(2, 24),
                           "cls.seq_relationship.bias": m.random(2)})
    reads(m.name, "the file of BertForPreTraining under BertForMaskedLM", variant(m, w), m.batch)
    for n in ("gpt2-lm", "gpt2-cls"):
        m = base(n)
        w = dict(m.weights)
        for i in range(m.config["n_layer"]):
            seen = torch.ones(24, 24, dtype=torch.uint8 if i else torch.bool)
            w["transformer.h.%d.attn.bias" % i] = torch.tril(seen)[None, None]
            w["transformer.h.%d.attn.masked_bias" % i] = torch.tensor(-1e4)
        reads(n, "buffers attn.bias and attn.masked_bias", variant(m, w), m.batch)
        reads(n, "the same without the prefix, as openai-community/gpt2",
              variant(m, renamed(w, (r"^transformer\.", ""))), m.batch)
    for n in ("bart-lm", "bart-cls"):
        m = base(n)
        w = dict(m.weights, **{"model.encoder.version": torch.tensor([3.0]),
                               "model.decoder.version": torch.tensor([3.0])})
        reads(n, "encoder.version and decoder.version", variant(m, w), m.batch)
    m = base("bart-lm")
    w = {k: v for k, v in m.weights.items() if k != "final_logits_bias"}
    reads(m.name, "without final_logits_bias", variant(m, w), m.batch, zero=("final_logits_bias",))
    m = base("t5-relu")
    w = dict(m.weights, **{"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": m.random(8, 4)})
    reads(m.name, "a bias table for looking at the encoder, unused", variant(m, w), m.batch)


def prefixes():
    for n in ("bert-mlm", "bert-cls", "bert-token", "roberta-mlm", "roberta-qa", "gpt2-lm", "gpt2-token",
              "bloom-lm", "bloom-cls",
              "bart-lm", "bart-qa", "t5-cls", "t5-token"):
        m = base(n)
        reads(n, "without the base model's prefix",
              variant(m, renamed(m.weights, (r"^(bert|roberta|transformer|model)\.", ""))), m.batch)
    for n, p in (("bert-base", "bert."), ("roberta-base", "roberta."), ("gpt2-base", "transformer."),
                 ("bloom-base", "transformer."),
                 ("bart-base", "model."), ("t5-base", "transformer.")):
        m = base(n)
        reads(n, "with a prefix that the model has not", variant(m, {p + k: v for k, v in m.weights.items()}),
              m.batch)
    for n, wide in (("gpt2-base", "gpt2-lm"), ("bloom-base", "bloom-lm"), ("bert-base", "bert-cls"),
                    ("bert-base", "bert-pretraining"),
                    ("t5-base", "t5-relu"), ("t5-encoder", "t5-gated"), ("bart-base", "bart-lm")):
        m, w = base(n), base(wide)
        config = dict(w.config, architectures=m.config["architectures"])
        d = variant(w)
        json.dump(config, open(os.path.join(d, "config.json"), "w"))
        b = m.batch if "decoder_input_ids" in m.batch else {k: v for k, v in w.batch.items()
                                                            if k != "decoder_input_ids"}
        reads(n, "the base model out of the file of " + wide, d, b)


# ---- tying ----


def tying():
    alias = {
        "bert-mlm": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight",
                     "cls.predictions.bias", "cls.predictions.decoder.bias"),
        "roberta-mlm": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight", "lm_head.bias",
                        "lm_head.decoder.bias"),
        "gpt2-lm": ("transformer.wte.weight", "lm_head.weight"),
        "bloom-lm": ("transformer.word_embeddings.weight", "lm_head.weight"),
        "t5-relu": ("shared.weight", "lm_head.weight"),
        "bart-lm": ("model.shared.weight", "lm_head.weight"),
    }
    for n, a in alias.items():
        m = base(n)
        word = m.weights[a[0]]
        own = m.random(*word.shape, std=0.25)
        same = dict(m.weights, **{a[1]: word})
        other = dict(m.weights, **{a[1]: own})
        if len(a) > 2:
            same[a[3]] = m.weights[a[2]]
        reads(n, "tied, and the head's copy is in the file", variant(m, same), m.batch)
        if len(a) > 2:
            reads(n, "untied, with decoder.bias", variant(m, dict(other, **{a[3]: m.random(len(word))}),
                                                          dict(tie_word_embeddings=False)), m.batch)
            reads(n, "untied, without decoder.bias", variant(m, other, dict(tie_word_embeddings=False)),
                  m.batch, zero=("decoder.bias",))
            same_bias = dict(other, **{a[3]: m.weights[a[2]]})
            reads(n, "said to be tied, and the head differs", variant(m, same_bias), m.batch)
        elif n == "bart-lm":
            w = dict(other, **{"model.encoder.embed_tokens.weight": m.random(*word.shape),
                               "model.decoder.embed_tokens.weight": m.random(*word.shape)})
            reads(n, "untied: three tables and a head", variant(m, w, dict(tie_word_embeddings=False)),
                  m.batch)
            w = {k: v for k, v in w.items() if k != "lm_head.weight"}
            w["model.encoder.embed_tokens.weight"] = w["model.decoder.embed_tokens.weight"] = word
            reads(n, "tied, and the tables' copies are in the file", variant(m, w), m.batch)
            reads(n, "said to be tied, and the head differs", variant(m, other), m.batch)
        else:
            reads(n, "untied", variant(m, other, dict(tie_word_embeddings=False)), m.batch)
            reads(n, "said to be tied, and the head differs", variant(m, other), m.batch)
        without = {k: v for k, v in same.items() if k != a[0]}
        reads(n, "the embedding under the head's name alone", variant(m, without), m.batch)
    for n, p in (("t5-relu", ""), ("t5-cls", "transformer."), ("bart-lm", "model."), ("bart-cls", "model.")):
        m = base(n)
        for stack in ("encoder", "decoder"):
            w = renamed(m.weights, (r"(^|\.)shared\.weight$", r"\1%s.embed_tokens.weight" % stack))
            reads(n, "the embedding under %s.embed_tokens alone" % stack, variant(m, w), m.batch)
    m = base("t5-gated")
    for what, c, drop in (("as release 4 wrote v1.1: untied by the flag", dict(tie_word_embeddings=False),
                           ("scale_decoder_outputs",)),
                          ("as release 5 saves v1.1: said to be tied, not scaled",
                           dict(tie_word_embeddings=True, scale_decoder_outputs=False), ()),
                          ("a head of its own, and scaled",
                           dict(tie_word_embeddings=True, scale_decoder_outputs=True), ())):
        reads(m.name, what, variant(m, None, c, drop), m.batch)
    w = {k: v for k, v in m.weights.items() if k != "lm_head.weight"}
    reads(m.name, "new in release 5: untied by the flag, and no head in the file",
          variant(m, w, dict(tie_word_embeddings=False), ("scale_decoder_outputs",)), m.batch)
    w = renamed(dict(m.weights, **{"encoder.embed_tokens.weight": m.weights["shared.weight"],
                                   "decoder.embed_tokens.weight": m.weights["shared.weight"]}))
    reads(m.name, "all copies of the embedding beside a head of its own", variant(m, w), m.batch)
    w = renamed(m.weights, (r"^shared\.weight$", "decoder.embed_tokens.weight"))
    reads(m.name, "no shared.weight: the decoder's table, not the head", variant(m, w), m.batch)


# ---- precision and shards ----


def precision():
    for n in ("bert-mlm", "gpt2-lm", "bloom-lm", "t5-gated", "bart-lm", "roberta-cls"):
        m = base(n)
        for dtype, word in ((torch.float16, "float16"), (torch.bfloat16, "bfloat16")):
            w = {k: v.to(dtype) for k, v in m.weights.items()}
            reads(n, "weights in " + word, variant(m, w, dict(dtype=word)), m.batch)
    m = base("t5-relu")
    w = {k: v if k.endswith("wo.weight") else v.half() for k, v in m.weights.items()}
    reads(m.name, "half precision, wo in float32", variant(m, w, dict(torch_dtype="float16"), ("dtype",)),
          m.batch)
    m = base("bert-cls")
    reads(m.name, "weights in float64", variant(m, {k: v.double() for k, v in m.weights.items()}), m.batch)


def sharded(m, size="16KB"):
    d = variant(m)
    os.remove(os.path.join(d, "model.safetensors"))
    m.model.save_pretrained(d, max_shard_size=size)
    index = os.path.join(d, "model.safetensors.index.json")
    return d, index, json.load(open(index))


def shards():
    for n in ("bert-mlm", "gpt2-lm", "bloom-lm", "t5-gated", "bart-lm"):
        m = base(n)
        d, _, index = sharded(m)
        reads(n, "%d shards" % len(set(index["weight_map"].values())), d, m.batch)
    m = base("gpt2-lm")

    def edited(fn, also=None):
        d, path, index = sharded(m)
        if also:
            also(d)
        index = fn(index) or index
        open(path, "w").write(index if isinstance(index, str) else json.dumps(index))
        return d

    def moved(to):
        def fn(index):
            first = sorted(index["weight_map"].values())[0]
            index["weight_map"] = {k: to(v) if v == first else v for k, v in index["weight_map"].items()}
        return fn

    d = edited(lambda i: i.pop("metadata") and None)  # the reference wants it, and has no use for it
    reads(m.name, "an index without metadata", d, m.batch, want=hub.reference(hub.load(m.dir), m.batch))
    d = edited(lambda i: i)
    shutil.copy(os.path.join(m.dir, "model.safetensors"), d)
    os.remove(os.path.join(d, sorted(f for f in os.listdir(d) if f.startswith("model-"))[0]))
    reads(m.name, "a whole file beside a stale index", d, m.batch)
    outside = hub.temporary()
    shutil.copy(os.path.join(m.dir, "model.safetensors"), os.path.join(outside, "model.safetensors"))
    relative = lambda d: os.path.relpath(os.path.join(outside, "model.safetensors"), d)
    d, path, index = sharded(m)
    index["weight_map"] = {k: relative(d) for k in index["weight_map"]}
    json.dump(index, open(path, "w"))
    refuses(m.name, "a shard outside the directory, by ../", d, ["model.safetensors.index.json"])
    d = edited(moved(lambda v: os.path.join(outside, "model.safetensors")))
    refuses(m.name, "a shard outside the directory, by an absolute path", d, ["model.safetensors.index.json"])
    d = edited(moved(lambda v: "sub/../" + v), lambda d: os.mkdir(os.path.join(d, "sub")))
    refuses(m.name, "a shard by a path through another directory", d, ["model.safetensors.index.json"])
    d = edited(moved(lambda v: "model-00099-of-00099.safetensors"))
    refuses(m.name, "a shard that is not there", d, ["model-00099-of-00099.safetensors"])
    d = edited(moved(lambda v: "model.safetensors.index.json"))
    refuses(m.name, "an index that names itself", d, ["index.json"])
    d, path, index = sharded(m)
    first = sorted(set(index["weight_map"].values()))[0]
    os.remove(os.path.join(d, first))
    os.symlink(first, os.path.join(d, first))
    refuses(m.name, "a shard that is a link to itself", d, [first])
    d = edited(moved(lambda v: "sub"), lambda d: os.mkdir(os.path.join(d, "sub")))
    refuses(m.name, "a shard that is a directory", d, ["sub"])
    d = edited(moved(lambda v: ""))
    refuses(m.name, "a shard without a name", d, ["model.safetensors.index.json"])
    d = edited(moved(lambda v: 7))
    refuses(m.name, "a shard that is a number", d, ["model.safetensors.index.json"])
    for what, text in (("not JSON", "{"), ("a list", "[]"), ("without weight_map", "{}"),
                       ("with an empty weight_map", '{"weight_map":{}}'),
                       ("with a weight_map that is a list", '{"weight_map":[]}')):
        d = edited(lambda i: text)
        refuses(m.name, "an index that is " + what if what[0] != "w" else "an index " + what, d,
                ["model.safetensors"])
    d, path, index = sharded(m)
    files = sorted(set(index["weight_map"].values()))
    w = load_file(os.path.join(d, files[0]))
    gone = sorted(w)[0]
    save_file({k: v for k, v in w.items() if k != gone}, os.path.join(d, files[0]), metadata={"format": "pt"})
    refuses(m.name, "a tensor that its shard has not", d, [gone])
    d = variant(m)
    data = open(os.path.join(d, "model.safetensors"), "rb").read()
    open(os.path.join(d, "model.safetensors"), "wb").write(data[:-100])
    refuses(m.name, "a file that is cut off", d, ["model.safetensors"])
    d = variant(m)
    os.rename(os.path.join(d, "model.safetensors"), os.path.join(d, "pytorch_model.bin"))
    refuses(m.name, "pickled weights alone", d, ["model.safetensors"])


# ---- config.json of other releases ----


def labels(*names):
    return dict(id2label=dict(zip(map(str, range(len(names))), names)),
                label2id=dict(zip(names, range(len(names)))))


def configs():
    def case(n, what, config, drop=(), **more):
        m = base(n)
        reads(n, what, variant(m, None, config, drop), m.batch, **more)

    g = base("gpt2-lm").config
    case("gpt2-lm", "names of the other families",
         dict(hidden_size=g["n_embd"], num_attention_heads=g["n_head"], num_hidden_layers=g["n_layer"],
              max_position_embeddings=g["n_positions"]), ("n_embd", "n_head", "n_layer", "n_positions"))
    case("gpt2-lm", "keys of release 2", dict(n_ctx=24, output_past=True, torch_dtype="float32",
                                              task_specific_params={"text-generation": {"do_sample": True,
                                                  "max_length": 50}}, summary_type="cls_index",
                                              finetuning_task=None, gradient_checkpointing=False, num_beams=4,
                                              vocab_size_or_config_json_file=71),
         ("dtype", "transformers_version"))
    case("gpt2-lm", "scores upcast and reordered", dict(reorder_and_upcast_attn=True))
    case("gpt2-lm", "a list of ends", dict(eos_token_id=[1, 2]))
    case("gpt2-lm", "without any optional key", {},
         [k for k in g if k not in ("model_type", "architectures", "vocab_size", "n_positions", "n_embd",
                                    "n_layer", "n_head", "n_inner")])
    b = base("bloom-lm").config
    case("bloom-lm", "n_embed, and keys of Megatron",
         dict(n_embed=b["hidden_size"], num_attention_heads=b["n_head"], num_hidden_layers=b["n_layer"],
              seq_length=2048, offset_alibi=100, masked_softmax_fusion=True, bias_dropout_fusion=True,
              skip_bias_add=True, skip_bias_add_qkv=False, attention_softmax_in_fp32=True, n_inner=None,
              unk_token_id=0, pretraining_tp=4, torch_dtype="float32"),
         ("hidden_size", "n_head", "n_layer", "dtype"))
    t = base("t5-relu").config
    case("t5-relu", "hidden_size, num_attention_heads, num_hidden_layers, head_dim",
         dict(hidden_size=t["d_model"], num_attention_heads=t["num_heads"], num_hidden_layers=t["num_layers"],
              head_dim=t["d_kv"]), ("d_model", "num_heads", "num_layers", "d_kv"))
    case("t5-relu", "keys of t5-small", dict(n_positions=512, output_past=True, torch_dtype="float32",
                                             task_specific_params={"summarization": {"num_beams": 4,
                                                 "prefix": "summarize: "}}),
         ("dtype", "feed_forward_proj", "is_gated_act", "dense_act_fn", "tie_word_embeddings",
          "scale_decoder_outputs", "num_decoder_layers", "classifier_dropout", "use_cache"))
    case("t5-gated", "is_gated_act and dense_act_fn win over feed_forward_proj",
         dict(is_gated_act=True, dense_act_fn="relu", feed_forward_proj="gated-gelu"))
    case("t5-gated", "a gate with silu", dict(feed_forward_proj="gated-silu"),
         ("is_gated_act", "dense_act_fn"))
    case("t5-relu", "plain gelu", dict(feed_forward_proj="gelu"), ("is_gated_act", "dense_act_fn"))
    case("t5-relu", "no relative_attention_max_distance", {}, ("relative_attention_max_distance",))
    case("bart-lm", "keys of bart-large-cnn", dict(classif_dropout=0.0, add_bias_logits=False,
                                                   add_final_layer_norm=False, normalize_before=False,
                                                   normalize_embedding=True, static_position_embeddings=False,
                                                   extra_pos_embeddings=2,
                                                   force_bos_token_to_be_generated=True, num_beams=4,
                                                   length_penalty=2.0, no_repeat_ngram_size=3,
                                                   early_stopping=True, min_length=56, max_length=142,
                                                   output_past=True, prefix=" ", gradient_checkpointing=False,
                                                   encoder_layerdrop=0.0, decoder_layerdrop=0.0,
                                                   torch_dtype="float32"), ("dtype", "classifier_dropout"))
    case("bart-lm", "hidden_size and num_attention_heads",
         dict(hidden_size=24, num_attention_heads=4, num_hidden_layers=2),
         ("d_model", "encoder_attention_heads", "encoder_layers"))
    case("bart-cls", "labels with names", labels("contradiction", "neutral", "entailment"))
    case("bert-cls", "num_labels alone", dict(num_labels=3), ("id2label", "label2id"))
    case("bert-token", "labels of CoNLL", labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))
    case("bert-mlm", "keys of release 4", dict(position_embedding_type="absolute",
                                               gradient_checkpointing=False, torch_dtype="float32",
                                               _name_or_path="x", attention_probs_dropout_prob=0.1,
                                               hidden_dropout_prob=0.1, classifier_dropout=None),
         ("dtype", "is_decoder", "add_cross_attention", "bos_token_id", "eos_token_id"))
    for act in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate", "silu", "swish", "relu",
                "tanh", "gelu_python"):
        case("bert-mlm", "hidden_act " + act, dict(hidden_act=act), again=False)
    for act in ("quick_gelu", "mish", "relu6"):
        m = base("bert-mlm")
        reads_or_refuses(m.name, "hidden_act " + act, variant(m, None, dict(hidden_act=act)), m.batch, [act])
    for key, value in (("decoder_attention_heads", 2), ("encoder_attention_heads", 8)):
        m = base("bart-lm")
        reads_or_refuses(m.name, "%s %d" % (key, value), variant(m, None, {key: value}), m.batch, ["heads"])
    m = base("bloom-lm")
    reads_or_refuses(m.name, "slow_but_exact", variant(m, None, dict(pretraining_tp=2, slow_but_exact=True)),
                     m.batch, ["slow_but_exact"])
    for n, key in (("bert-mlm", "is_decoder"), ("bert-mlm", "add_cross_attention"),
                   ("gpt2-lm", "add_cross_attention")):
        m = base(n)
        refuses(n, key, variant(m, None, {key: True}), [key])
    for n, config, words in (("gpt2-lm", dict(vocab_size=72), ["wte", "72"]),
                             ("bert-mlm", dict(hidden_size=48), ["48"]),
                             ("gpt2-lm", dict(n_layer=3), ["h.2", "missing"]),
                             ("bert-mlm", dict(num_hidden_layers=10 ** 12), ["layers"]),
                             ("bert-mlm", dict(vocab_size=2 ** 62), ["vocab_size"]),
                             ("gpt2-lm", dict(n_embd=-24), ["n_embd"]),
                             ("t5-relu", dict(relative_attention_num_buckets=0), ["relative_attention"]),
                             ("bert-mlm", dict(num_attention_heads=5), ["5"]),
                             ("bert-mlm", dict(architectures=["LlamaForCausalLM"]), ["LlamaForCausalLM"]),
                             ("bert-mlm", dict(model_type="llama"), ["llama"])):
        refuses(n, "config: %s" % config, variant(base(n), None, config), words)


# ---- batches ----


def rows():
    def case(n, what, change, **more):
        m = base(n)
        b = {k: v.clone() for k, v in m.batch.items()}
        b = change(b, m) or b
        reads(n, what, m.dir, b, again=False, **more)

    def holes(b, m):
        b["attention_mask"][:, 3] = 0
        b["attention_mask"][0, 5:7] = 0

    def pads(b, m):
        b["input_ids"][:, 3] = m.config["pad_token_id"]
        b["input_ids"][0, 5:7] = m.config["pad_token_id"]

    def both(b, m):
        holes(b, m)
        pads(b, m)

    def no_mask(b, m):
        del b["attention_mask"]

    def left(b, m):
        for k in ("input_ids", "attention_mask", "token_type_ids"):
            if k in b:
                b[k] = torch.stack([torch.roll(x, int((b["attention_mask"][i] == 0).sum())) for i,
                                    x in enumerate(b[k])])

    def one(b, m):
        b = {k: v[:1, :1].clone() for k, v in b.items()}
        return b

    # a row whose keys are all hidden from a place on is compared where its mask is 1
    for n in ("bert-mlm", "roberta-mlm", "gpt2-lm", "bloom-lm", "t5-relu", "bart-lm"):
        case(n, "holes in the mask", holes)
        case(n, "pads inside rows, shown by the mask", pads)
        case(n, "pads inside rows, hidden by the mask", both)
        case(n, "pads and no mask", no_mask)
        case(n, "padding on the left", left)
        case(n, "one id", one)
    for n in ("gpt2-cls", "bloom-cls"):
        case(n, "pads inside rows", both)
        case(n, "padding on the left", left)
        case(n, "pads and no mask", no_mask)
    for n in ("t5-cls", "bart-cls", "roberta-cls", "bert-cls", "t5-qa", "bart-qa", "roberta-token",
              "t5-token"):
        case(n, "padding on the left", left)
        case(n, "pads and no mask", no_mask)
    for n in ("bert-mlm", "roberta-mlm", "gpt2-lm"):
        case(n, "positions given", lambda b,
             m: b.update(position_ids=(torch.arange(b["input_ids"].shape[1])[None].expand(b["input_ids"].shape) * 2) % 17 + 2))
    for n in ("t5-relu", "bart-lm"):
        case(n, "a mask of the decoder", lambda b,
             m: b.update(decoder_attention_mask=torch.tensor([[1] * Z["S"], [1] * (Z["S"] - 2) + [0] * 2,
                                                              [1, 0] + [1] * (Z["S"] - 2)])))
        m = base(n)
        b = dict(m.batch)
        b["labels"] = make.where(b.pop("decoder_input_ids") != m.config["pad_token_id"],
                                 m.batch["decoder_input_ids"])
        reads(n, "labels alone: shifted for the decoder", m.dir, b, again=False)
    for n in ("gpt2-lm",):
        case(n, "token types, which are words", lambda b,
             m: b.update(token_type_ids=b["input_ids"] * 0 + 7 + torch.arange(b["input_ids"].shape[1])[None] % 3))
    case("roberta-mlm", "token types that are 0", lambda b, m: b.update(token_type_ids=b["input_ids"] * 0))
    m = base("bert-mlm")
    full = dict(m.batch, input_ids=m.batch["input_ids"].clone())
    full["input_ids"][1, 2] = 71
    refuses(m.name, "an id out of range", m.dir, ["71"], full)
    full = dict(m.batch, token_type_ids=m.batch["token_type_ids"] + 2)
    refuses(m.name, "a token type out of range", m.dir, ["outside"], full)
    for n in ("bert-mlm", "roberta-mlm", "gpt2-lm", "bart-lm"):
        m = base(n)
        long = dict(input_ids=torch.full((1, 40), 6))
        if n == "bart-lm":
            long["decoder_input_ids"] = torch.full((1, 3), 6)
        refuses(n, "a row longer than the positions", m.dir, ["40"], long)
    m = base("gpt2-lm")
    refuses(m.name, "inputs_embeds", m.dir, ["inputs_embeds"], dict(inputs_embeds=torch.zeros(1, 2, 24)))
    refuses(m.name, "rows of two lengths", m.dir, ["input_ids"], dict(input_ids=[[5, 6], [7]]))
    m = base("gpt2-cls")
    d = variant(m, None, dict(pad_token_id=None))
    reads(m.name, "no pad token, one row", d, {k: v[:1] for k, v in m.batch.items()})
    one_by_one(m.name, "no pad token, two rows", d, {k: v[:2] for k, v in m.batch.items()})
    for n in ("t5-cls", "bart-cls"):
        m = base(n)
        b = {k: v.clone() for k, v in m.batch.items()}
        b["input_ids"][0, 4] = m.config["eos_token_id"]
        one_by_one(n, "rows with different numbers of ends", m.dir, b)


def one_by_one(name, what, d, b):
    """The reference refuses these rows together; a row of ours is what it gives for the row alone, or a refusal."""
    if not wanted(name, what):
        return

    def rows_alone():
        model = hub.load(d)
        got = hub.logits(d, b)["logits"]
        for i in range(len(got)):
            want = hub.reference(model, {k: v[i:i + 1] for k, v in b.items()})["logits"]
            hub.at_most(hub.apart(got[i:i + 1], want), 1e-4, "row %d off by " % i)

    check(name, what + ": each as alone", rows_alone)


# ---- training ----


def trains(name, what, d, b):
    """The loss of a batch and the gradient of every parameter, by the reference's names."""
    if not wanted(name, what):
        return

    def one_step():
        model = hub.load(d).eval()
        dtype = F if model.config.model_type == "bloom" else torch.float64
        model.to(dtype)
        loss = model(**make.as_type(b, dtype)).loss
        loss.backward()
        want = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
        work = hub.temporary()
        hub.write_batch(os.path.join(work, "batch.jsonl"), b)
        o = hub.objects(hub.run("trace", d, "--batches", os.path.join(work, "batch.jsonl"), "--steps", 1,
                                "--grads", os.path.join(work, "grads"),
                                "--decay-all", "--clip", 0, "--json"))
        got = {n: g.double() for n, g in load_file(os.path.join(work, "grads")).items()}
        hub.at_most(abs(o[0]["loss"] / float(loss) - 1), 1e-4,
                    "loss %.8g, wanted %.8g: off by " % (o[0]["loss"], float(loss)))
        missing = sorted(set(want) - set(got))
        if missing:
            raise Wrong("no gradient of %s" % missing)
        for n in want:  # 1e-6 of the model's largest is what float32 can be asked where a gradient is 0
            far = float((got[n] - want[n]).abs().max())
            if not far <= max(1e-4 * float(want[n].abs().max()), 1e-6 * make.largest(want)):
                raise Wrong("gradient of %s off by %.3g of %.3g" % (n, far, float(want[n].abs().max())))
        norm = sum(float((g ** 2).sum()) for g in want.values()) ** 0.5
        return "norm " + hub.at_most(abs(o[0]["grad_norm"] / norm - 1), 1e-3,
                                     "norm %.8g, wanted %.8g: off by " % (o[0]["grad_norm"], norm))

    check(name, what + ": trained", one_step)


def training():
    def with_labels(m):
        b = make.batch(m.case, Z, torch.Generator().manual_seed(9), 0)
        return {k: v.clone() for k, v in b.items()}

    for n, head in (("bert-mlm", "cls.predictions.decoder."), ("roberta-mlm", "lm_head.decoder."),
                    ("gpt2-lm", "lm_head."), ("bloom-lm", "lm_head."),
                    ("t5-relu", "lm_head."), ("bart-lm", "lm_head.")):
        m = base(n)
        w = dict(m.weights, **{head + "weight": m.random(Z["vocab"], m.config.get("hidden_size", 24),
                                                         std=0.25)})
        if "decoder" in head:
            w[head + "bias"] = m.random(Z["vocab"])
        trains(n, "untied", variant(m, w, dict(tie_word_embeddings=False) if n != "bart-lm" else None),
               with_labels(m))
    m = base("bart-lm")
    w = dict(m.weights, **{k: m.random(Z["vocab"], 24, std=0.4)
                           for k in ("lm_head.weight", "model.encoder.embed_tokens.weight",
                                     "model.decoder.embed_tokens.weight")})
    trains(m.name, "untied: three tables and a head", variant(m, w, dict(tie_word_embeddings=False)),
           with_labels(m))
    for n in ("bert-mlm", "roberta-mlm", "gpt2-lm", "bloom-lm", "t5-relu", "t5-gated", "bart-lm", "bert-cls",
              "roberta-cls", "gpt2-cls", "bart-cls", "t5-cls"):
        m = base(n)
        b = with_labels(m)
        if m.case.kind in ("mlm", "lm", "seq2seq"):
            pads = dict(b, input_ids=b["input_ids"].clone())
            pads["input_ids"][:, 3] = m.config["pad_token_id"]
            trains(n, "pads inside rows, seen", m.dir,
                   {k: v for k, v in pads.items() if k != "attention_mask"})
        trains(n, "without a mask", m.dir, {k: v for k, v in b.items() if k != "attention_mask"})
        one = {k: v[:1].clone() for k, v in b.items()}
        trains(n, "one row", m.dir, one)
        drops = {k: 0.3 for k in m.config if "drop" in k and k not in ("encoder_layerdrop",
            "decoder_layerdrop") and isinstance(m.config[k], float)}
        trains(n, "dropout in config.json, which trace leaves out", variant(m, None, drops), b)
    for n in ("bert-mlm", "gpt2-lm", "t5-gated"):
        m = base(n)
        trains(n, "weights in bfloat16", variant(m, {k: v.bfloat16() for k, v in m.weights.items()},
                                                 dict(dtype="bfloat16")), with_labels(m))
    for n in ("bert-mlm", "bert-token", "gpt2-lm"):
        m = base(n)
        b = with_labels(m)
        b["labels"][1] = -100
        trains(n, "a row without labels", m.dir, b)
    for n in ("t5-relu", "bart-lm"):
        m = base(n)
        b = with_labels(m)
        b["decoder_input_ids"] = make.ints(5, Z["vocab"], tuple(b["labels"].shape), m.g)
        trains(n, "labels and decoder_input_ids", m.dir, b)
        b["decoder_attention_mask"] = torch.ones_like(b["labels"])
        b["decoder_attention_mask"][1, 4:] = 0
        trains(n, "and a mask of the decoder", m.dir, b)
    m = base("gpt2-lm")
    trains(m.name, "token types, which are words", m.dir,
           dict(with_labels(m), token_type_ids=torch.full((3, Z["T"]), 7)))
    for what, start, end in (("places behind the row", Z["T"] + 3, Z["T"] + 9),
                             ("the end behind the row", 2, Z["T"]), ("places below 0", -5, 3)):
        for n in ("bert-qa", "t5-qa", "bart-qa", "gpt2-qa"):
            m = base(n)
            b = with_labels(m)
            b["start_positions"][1], b["end_positions"][1] = start, end
            trains(n, what, m.dir, b)
    m = base("bert-pretraining")
    b = with_labels(m)
    b["next_sentence_label"][1] = -100
    trains(m.name, "a pair without a label", m.dir, b)
    m = base("bert-cls")
    b = with_labels(m)
    b["labels"][2] = -100
    trains(m.name, "a text without a label", m.dir, b)
    d = variant(m, None, dict(problem_type="single_label_classification"))
    trains(m.name, "problem_type named", d, with_labels(m))


# ---- odd sizes and long rows ----

LMS = ("bert-mlm", "roberta-mlm", "gpt2-lm", "bloom-lm", "t5-relu", "t5-gated", "bart-lm")


def sized(n, what, seed, **sizes):
    """A model and a batch of these sizes: outputs, loss and gradients."""
    if not wanted(n, what):
        return
    z = dict(dict(Z, ffn=36), **sizes)
    z["d"] = z["heads"] * z.pop("head_dim", 6)
    z["positions"] = max(z["T"], z["S"]) + 2
    case = {c.name: c for c in make.cases(z, True)}[n]
    for k, v in z.get("config", {}).items():
        if hasattr(case.config, k):
            setattr(case.config, k, v)
    model, g = make.build(case, seed)
    d = hub.temporary()
    model.save_pretrained(d)
    b = make.batch(case, z, g, 0)
    reads(n, what, d, {k: v for k, v in b.items() if k != "labels" or case.kind == "seq2seq"}, again=False)
    trains(n, what, d, b)


def sizes():
    g = torch.Generator().manual_seed(4)
    pick = lambda *of: of[int(make.ints(0, len(of), (1,), g))]
    for n in LMS:
        for i in range(4):
            z = dict(heads=pick(1, 2, 3, 7, 12), head_dim=pick(2, 3, 5, 16, 33), layers=pick(1, 3),
                     ffn=pick(1, 7, 65, 129),
                     vocab=pick(11, 64, 257), T=pick(2, 17, 33, 70), S=pick(2, 16, 35), rows=pick(1, 2, 5))
            sized(n, " ".join("%s %d" % x for x in z.items()), i, **z)
        long = dict(relative_attention_num_buckets=32, relative_attention_max_distance=128)
        for T, S in ((130, 67), (300, 40), (64, 200)):
            sized(n, "rows of %d and %d" % (T, S), T, T=T, S=S, rows=2, layers=1, heads=2, config=long)


def main():
    global ONLY, PART
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--only")
    ONLY = ap.parse_args().only
    for part in (names, prefixes, tying, precision, shards, configs, rows, training, sizes):
        PART = part.__name__
        part()
    hub.finish()


if __name__ == "__main__":
    main()
