/* model.c -- the six families: sizes, heads, masks, packing, caches, recomputation, accumulation */
#include "test.h"

enum { VOCAB = 61, WIDTH = 32, LABELS = 3, MAX = 24, PAD = 0, END = 2 };

static tfp_ctx *context(void) {
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.threads = 2, d.seed = 3;
  return tfp_create(&d);
}
static tfp_config tiny(tfp_family family) {
  tfp_config c;
  char name[32];
  snprintf(name, sizeof name, "%s-tiny", tfp_family_name(family));
  CHECK(tfp_config_preset(name, &c));
  c.vocab_size = VOCAB, c.hidden = WIDTH, c.heads = 4, c.head_dim = 8, c.ffn = 48,
  c.num_labels = LABELS;
  if (c.max_positions) c.max_positions = MAX;
  c.bos = 1, c.eos = END, c.pad = PAD;
  if (c.positions_skip_pad) c.position_offset = PAD + 1;
  if (family == TFP_T5) c.init_std = 0.5;
  else c.init_std = 0.3; /* far from zero, so that every part of the model counts */
  return c;
}
/* Takes biases and norms away from their constants, on which much cancels. */
static void shake(tfp_model *m) {
  tfp_param *p;
  int64_t i;
  if (!m) return;
  for (p = m->params->first; p; p = p->next)
    for (i = 0; p->init != TFP_INIT_NORMAL && i < tfp_numel(p->tensor); i++)
      ((tfp_real *)p->tensor->data)[i] +=
          (tfp_real)(0.2f * tfp_random_normal(8, (uint64_t)p->offset, (uint64_t)i));
}
static tfp_model *tiny_model(tfp_ctx *ctx, tfp_family family) {
  const tfp_config c = tiny(family);
  tfp_model *m = tfp_model_create(ctx, &c, 1);
  OK(ctx);
  shake(m);
  return m;
}

/* A batch with memory of its own. Ids are 3 ... VOCAB-1: no special ones. */
enum { CELLS = 8 * MAX };
typedef struct rows {
  tfp_batch b;
  int32_t ids[CELLS], mask[CELLS], positions[CELLS], docs[CELLS], labels[CELLS];
  int32_t dec_ids[CELLS], dec_mask[CELLS], dec_positions[CELLS], dec_docs[CELLS];
} rows;
static void fill_rows(rows *r, const tfp_config *c, int64_t B, int64_t T, int64_t S,
                      uint64_t seed) {
  int64_t i, n;
  memset(r, 0, sizeof *r);
  r->b.B = B, r->b.T = T, r->b.ids = r->ids;
  for (i = 0; i < B * T; i++)
    r->ids[i] = 3 + (int32_t)tfp_random_below(seed, 1, (uint64_t)i, VOCAB - 3);
  if (c->arch == TFP_SEQ2SEQ) {
    r->b.S = S, r->b.dec_ids = r->dec_ids;
    for (i = 0; i < B * S; i++)
      r->dec_ids[i] = 3 + (int32_t)tfp_random_below(seed, 2, (uint64_t)i, VOCAB - 3);
  }
  n = r->b.S ? B * S : B * T;
  if (c->head == TFP_HEAD_CLASS) n = B;
  if (c->head == TFP_HEAD_QA) n = 2 * B;
  r->b.labels = r->labels, r->b.n_labels = n;
  for (i = 0; i < n; i++) {
    const int64_t most = c->head == TFP_HEAD_LM   ? VOCAB
                         : c->head == TFP_HEAD_QA ? (r->b.S ? S : T)
                                                  : LABELS;
    r->labels[i] = (int32_t)tfp_random_below(seed, 3, (uint64_t)i, most);
    if (c->head != TFP_HEAD_CLASS && tfp_random_below(seed, 4, (uint64_t)i, 4) == 0 && i)
      r->labels[i] = TFP_IGNORE_INDEX;
  }
  for (i = 0; c->pool == TFP_POOL_LAST_END && i < B; i++) r->ids[i * T + T - 1] = END;
}
static const float *logits_of(tfp_model *m, const tfp_batch *b, tfp_cache *cache, float *out) {
  tfp_output o;
  tfp_step_reset(m->ctx);
  tfp_no_grad_begin(m->ctx);
  tfp_forward(m, b, TFP_WANT_LOGITS, cache, &o);
  tfp_no_grad_end(m->ctx);
  OK(m->ctx);
  if (o.logits) tfp_read(m->ctx, o.logits, out, tfp_numel(o.logits));
  return out;
}
static double largest_difference(const float *a, const float *b, int64_t n) {
  double worst = 0;
  int64_t i;
  for (i = 0; i < n; i++) {
    const double d = fabs((double)a[i] - (double)b[i]);
    if (!(d <= worst)) worst = d; /* NaN too */
  }
  return worst;
}
/* Forward and backward from fresh gradients; the loss. */
static double gradients_of(tfp_model *m, const tfp_batch *b, double scale) {
  tfp_output o;
  tfp_params_zero_grad(m->params);
  tfp_step_reset(m->ctx);
  tfp_set_loss_scale(m->ctx, scale);
  tfp_forward(m, b, TFP_WANT_LOSS, NULL, &o);
  tfp_backward(m->ctx, o.loss);
  OK(m->ctx);
  return o.loss ? tfp_item(o.loss) : NAN;
}
static void failed(tfp_family family, const char *what, double number, const char *file, int line) {
  char text[200];
  snprintf(text, sizeof text, "%s: %s (%g)", tfp_family_name(family), what, number);
  test_check(0, text, file, line);
}
/* A check that names the family. */
#define FOR(family, ok, what, number)                                                              \
  do {                                                                                             \
    if (!(ok)) failed((family), (what), (double)(number), __FILE__, __LINE__);                     \
  } while (0)

/* ---- sizes ---- */

static void preset_sizes(void) {
  /* as the published files have them; encoders with the language-modelling head, which has no
   * pooler */
  static const struct { const char *name; int64_t parameters;
  } published[] = {
      {"bert-base-uncased", 109514298},
      {"bert-base-cased", 108340804},
      {"bert-large-uncased", 335174458},
      {"bert-large-cased", 333610308},
      {"bert-medium", 41404730},
      {"bert-small", 28795194},
      {"bert-mini", 11201594},
      {"bert-tiny", 4416698},
      {"roberta-base", 124697433},
      {"roberta-large", 355412057},
      {"gpt2", 124439808},
      {"gpt2-medium", 354823168},
      {"gpt2-large", 774030080},
      {"gpt2-xl", 1557611200},
      {"bloom-560m", 559214592},
      {"bloom-1b1", 1065314304},
      {"bloom-1b7", 1722408960},
      {"bloom-3b", 3002557440},
      {"bloom-7b1", 7069016064},
      {"bloom", 176247271424},
      {"t5-small", 60506624},
      {"t5-base", 222903552},
      {"t5-large", 737668096},
      {"t5-3b", 2851598336},
      {"t5-11b", 11307321344},
      {"t5-v1_1-small", 76961152},
      {"t5-v1_1-base", 247577856},
      {"t5-v1_1-large", 783150080},
      {"t5-v1_1-xl", 2849757184},
      {"t5-v1_1-xxl", 11135332352},
      {"bart-base", 139420416},
      {"bart-large", 406291456}};
  int i, k, seen = 0;
  const char *name;
  tfp_config flan;
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.dry_run = 1, d.threads = 1;
  for (i = 0; (name = tfp_preset_name(i)) != NULL; i++) {
    tfp_config c;
    tfp_ctx *ctx = tfp_create(&d);
    tfp_model *m;
    char text[160];
    int64_t want = 0, got;
    CHECK(tfp_config_preset(name, &c) && c.head == TFP_HEAD_LM);
    m = tfp_model_create(ctx, &c, 1);
    OK(ctx);
    got = tfp_model_parameters(m);
    for (k = 0; k < (int)(sizeof published / sizeof *published); k++)
      if (!strcmp(published[k].name, name)) want = published[k].parameters, seen++;
    snprintf(text, sizeof text, "%s has %lld parameters, published are %lld", name, (long long)got,
             (long long)want);
    test_check(want ? got == want : strstr(name, "-tiny") && got > 0, text, __FILE__, __LINE__);
    tfp_destroy(ctx);
  }
  CHECK(seen == (int)(sizeof published / sizeof *published) && i == seen + TFP_FAMILY_COUNT - 1);
  CHECK(tfp_config_preset("flan-t5-xl", &flan) && flan.ffn == 5120 && flan.gated && !flan.tied);
  CHECK(!tfp_config_preset("flan-t5-3b", &flan));
  CHECK(!tfp_preset_name(-1));
}
static void family_names(void) {
  tfp_config c;
  int i;
  for (i = 0; i < TFP_FAMILY_COUNT; i++)
    CHECK(tfp_family_from_name(tfp_family_name((tfp_family)i)) == i);
  CHECK(tfp_family_from_name("llama") == -1 &&
        !strcmp(tfp_family_name(TFP_FAMILY_COUNT), "unknown"));
  CHECK(!tfp_config_preset("gpt3", &c));
}

#define BAD_CONFIG(change, words) do { c = tiny(TFP_GPT2); change; \
    CHECK(!tfp_model_create(ctx, &c, 1)); FAILS(ctx, TFP_ERR_ARG, words); } while (0)
static void bad_configurations(void) {
  tfp_ctx *ctx = context();
  tfp_config c;
  BAD_CONFIG(c.vocab_size = 0, "vocab_size is 0");
  BAD_CONFIG(c.hidden = -3, "-3");
  BAD_CONFIG((c.heads = 5, c.head_dim = 0), "5 heads do not divide");
  BAD_CONFIG(c.decoder_layers = 0, "0 decoder");
  BAD_CONFIG(c.max_positions = 0, "max_positions");
  BAD_CONFIG((c.position = TFP_POS_ROTARY, c.head_dim = 7), "7");
  BAD_CONFIG(c.norm_eps = 0, "norm_eps");
  BAD_CONFIG(c.norm_eps = NAN, "norm_eps");
  BAD_CONFIG(c.dropout = 1, "dropout");
  BAD_CONFIG(c.attention_dropout = NAN, "dropout");
  BAD_CONFIG(c.family = (tfp_family)17, "17");
  BAD_CONFIG(c.head = (tfp_head)19, "19");
  c = tiny(TFP_GPT2), c.head_dim = c.ffn = c.num_labels = 0; /* what 0 leaves open is filled in */
  CHECK(tfp_config_check(ctx, &c) == TFP_OK && c.head_dim == 8 && c.ffn == 4 * WIDTH &&
        c.num_labels == 2);
  tfp_destroy(ctx);
}

/* ---- every family and head ---- */

static void heads_run(void) {
  static rows r;
  int family, head;
  for (family = 0; family < TFP_FAMILY_COUNT; family++)
    for (head = 0; head < TFP_HEAD_COUNT; head++) {
      tfp_ctx *ctx;
      tfp_config c = tiny((tfp_family)family);
      tfp_model *m;
      tfp_output o;
      tfp_param *p;
      const char *names[4] = {"", "", "", ""};
      const int64_t B = 3, T = 9, S = head == TFP_HEAD_CLASS ? 9 : 7;
      static const int32_t next[] = {1, 0, 1};
      if (head > TFP_HEAD_QA && c.arch != TFP_ENCODER) continue;
      ctx = context();
      c.head = (tfp_head)head;
      if (c.family == TFP_T5 && head == TFP_HEAD_TAG) c.arch = TFP_ENCODER;
      m = tfp_model_create(ctx, &c, 1);
      shake(m);
      fill_rows(&r, &c, B, T, S, 5);
      if (head == TFP_HEAD_PRETRAINING) r.b.next_labels = next;
      if (head == TFP_HEAD_NSP) r.b.labels = next, r.b.n_labels = B;
      if (head == TFP_HEAD_CHOICE) r.b.labels = next + 1, r.b.n_labels = 1, r.b.choices = B;
      tfp_forward(m, &r.b, TFP_WANT_LOGITS | (head ? TFP_WANT_LOSS : 0), NULL, &o);
      OK(ctx);
      if (!m || !o.hidden) continue;
      CHECK(o.hidden->shape[0] == B && o.hidden->shape[1] == (c.arch == TFP_SEQ2SEQ ? S : T) &&
            o.hidden->shape[2] == WIDTH);
      CHECK((o.encoder != NULL) == (c.arch == TFP_SEQ2SEQ));
      if (!head) {
        CHECK(!o.logits && !o.loss);
        o.loss = tfp_sum(ctx, tfp_mul(ctx, o.hidden, tfp_random(ctx, 3, o.hidden->shape, 1, 1)),
                         TFP_ALL_AXES);
        CHECK((o.pooled != NULL) == (c.arch == TFP_ENCODER));
        if (o.pooled) o.loss = tfp_add(ctx, o.loss, tfp_sum(ctx, o.pooled, TFP_ALL_AXES));
      } else {
        const int64_t want[TFP_HEAD_COUNT] = {0, VOCAB, LABELS, LABELS, 2, VOCAB, 2, B};
        const int flat = head == TFP_HEAD_CLASS || head > TFP_HEAD_PRETRAINING;
        CHECK(o.logits && o.logits->shape[o.logits->ndim - 1] == want[head] &&
              o.logits->shape[0] == (head == TFP_HEAD_CHOICE ? 1 : B));
        CHECK(o.logits && o.logits->ndim == (flat ? 2 : 3));
        CHECK((o.next != NULL) == (head == TFP_HEAD_PRETRAINING || head == TFP_HEAD_NSP));
        CHECK(o.loss && tfp_item(o.loss) > 0 && tfp_item(o.loss) < 1e5);
      }
      tfp_backward(ctx, o.loss);
      OK(ctx);
      FOR((tfp_family)family, tfp_params_untouched(m->params, names, 4) == 0, names[0], head);
      for (p = m->params->first; p; p = p->next) {
        const tfp_tensor *g = tfp_grad(p->tensor);
        double sum = 0;
        int64_t i;
        if (p->frozen || !strcmp(p->name, "choice.b")) continue; /* it shifts all choices alike */
        for (i = 0; g && i < tfp_numel(g); i++) sum += fabs((double)((const tfp_real *)g->data)[i]);
        FOR((tfp_family)family, sum > 0 && sum < 1e9, p->name, sum);
      }
      tfp_destroy(ctx);
    }
}
/* An encoder's or decoder's loss is the mean negative log-likelihood of its logits. */
static void loss_is_that_of_the_logits(void) {
  static rows r;
  static float logits[CELLS * VOCAB];
  int family;
  for (family = 0; family < TFP_FAMILY_COUNT; family++) {
    tfp_ctx *ctx = context();
    tfp_model *m = tiny_model(ctx, (tfp_family)family);
    double want = 0, got;
    int64_t i, k;
    fill_rows(&r, &m->config, 3, 9, 7, 5);
    logits_of(m, &r.b, NULL, logits);
    for (i = 0; i < r.b.n_labels; i++) {
      double sum = 0;
      if (r.labels[i] < 0) continue;
      for (k = 0; k < VOCAB; k++) sum += exp((double)logits[i * VOCAB + k]);
      want += log(sum) - (double)logits[i * VOCAB + r.labels[i]];
    }
    got = gradients_of(m, &r.b, 1.0 / (double)tfp_batch_scored(&r.b));
    FOR((tfp_family)family, fabs(got - want / (double)tfp_batch_scored(&r.b)) < 1e-4 * got, "loss",
        got);
    tfp_destroy(ctx);
  }
}

/* ---- who sees whom ---- */

static void no_causal_leak(void) {
  static rows r;
  static float before[CELLS * VOCAB], after[CELLS * VOCAB];
  int family;
  for (family = 0; family < TFP_FAMILY_COUNT; family++) {
    tfp_ctx *ctx = context();
    tfp_model *m = tiny_model(ctx, (tfp_family)family);
    const int seq2seq = m->config.arch == TFP_SEQ2SEQ, encoder = m->config.arch == TFP_ENCODER;
    const int64_t T = 20, S = 20, B = 2;
    int64_t t, b;
    int32_t *ids = seq2seq ? r.dec_ids : r.ids;
    fill_rows(&r, &m->config, B, T, S, 6);
    logits_of(m, &r.b, NULL, before);
    for (t = 0; t < T; t += 3) {
      const int32_t was = ids[T + t];
      ids[T + t] = was == 3 ? 4 : 3; /* a token of the second row */
      logits_of(m, &r.b, NULL, after);
      ids[T + t] = was;
      for (b = 0; b < B; b++) {
        const int64_t at = b * T * VOCAB;
        const double earlier = largest_difference(before + at, after + at, t * VOCAB);
        const double later =
            largest_difference(before + at + t * VOCAB, after + at + t * VOCAB, (T - t) * VOCAB);
        if (b == 0)
          FOR((tfp_family)family, earlier == 0 && later == 0, "one row changes another", later);
        else if (encoder)
          FOR((tfp_family)family, !t || earlier > 1e-3,
              "an earlier position does not see a later one", t);
        else FOR((tfp_family)family, earlier == 0, "an earlier position sees a later one", earlier);
        if (b) FOR((tfp_family)family, later > 1e-3, "a position does not see itself", t);
      }
    }
    if (seq2seq) { /* every position of the decoder sees all of the encoder */
      for (t = 0; t < T; t += 19) {
        const int32_t was = r.ids[T + t];
        r.ids[T + t] = was == 3 ? 4 : 3;
        logits_of(m, &r.b, NULL, after);
        r.ids[T + t] = was;
        FOR((tfp_family)family,
            largest_difference(before + S * VOCAB, after + S * VOCAB, VOCAB) > 1e-4, "cross", t);
        FOR((tfp_family)family, largest_difference(before, after, S * VOCAB) == 0,
            "cross, another row", t);
      }
    }
    tfp_destroy(ctx);
  }
}
/* A padded row gives what the shorter row gives, whatever stands in the padding. */
static void padding_changes_nothing(void) {
  static rows whole, shorter;
  static float a[CELLS * VOCAB], b[CELLS * VOCAB];
  int family;
  for (family = 0; family < TFP_FAMILY_COUNT; family++) {
    tfp_ctx *ctx = context();
    tfp_model *m = tiny_model(ctx, (tfp_family)family);
    const int seq2seq = m->config.arch == TFP_SEQ2SEQ;
    const int64_t T = 14, n = 9, S = 11, q = 6, B = 2, L = seq2seq ? S : T, l = seq2seq ? q : n;
    int64_t t;
    double worst, padded, alone;
    fill_rows(&whole, &m->config, B, T, S, 7);
    fill_rows(&shorter, &m->config, 1, n, q, 7);
    for (t = 0; t < B * T; t++) whole.mask[t] = t < T || t - T < n;
    for (t = 0; t < B * S; t++) whole.dec_mask[t] = t < S || t - S < q;
    for (t = n; t < T; t++) whole.ids[T + t] = PAD;
    whole.b.mask = whole.mask, whole.b.dec_mask = seq2seq ? whole.dec_mask : NULL;
    memcpy(shorter.ids, whole.ids + T, (size_t)n * sizeof(int32_t));
    memcpy(shorter.dec_ids, whole.dec_ids + S, (size_t)q * sizeof(int32_t));
    logits_of(m, &whole.b, NULL, a);
    logits_of(m, &shorter.b, NULL, b);
    worst = largest_difference(a + L * VOCAB, b, l * VOCAB);
    FOR((tfp_family)family, worst < 1e-5 * 30, "padded and shorter row",
        worst);                                                 /* logits of size 30 */
    for (t = 0; t < L; t++) whole.labels[t] = TFP_IGNORE_INDEX; /* and so do the gradients */
    for (t = 0; t < L; t++) whole.labels[L + t] = t < l ? (int32_t)(t * 5) : TFP_IGNORE_INDEX;
    for (t = 0; t < l; t++) shorter.labels[t] = (int32_t)(t * 5);
    alone = gradients_of(m, &shorter.b, 1);
    {
      const size_t bytes = (size_t)m->params->flat * sizeof(tfp_real);
      tfp_real *kept = (tfp_real *)malloc(bytes);
      double size = 0;
      memcpy(kept, m->params->grad, bytes);
      padded = gradients_of(m, &whole.b, 1);
      for (t = 0, worst = 0; t < m->params->flat; t++) {
        worst = fmax(worst, fabs((double)kept[t] - (double)m->params->grad[t]));
        size = fmax(size, fabs((double)kept[t]));
      }
      FOR((tfp_family)family, fabs(padded - alone) < 1e-5 * fabs(alone), "loss of a padded row",
          padded - alone);
      FOR((tfp_family)family, worst < 1e-5 * size, "gradients of a padded row", worst / size);
      free(kept);
    }
    tfp_destroy(ctx);
  }
}
/* Three documents in one row give what each gives in a row of its own. */
static void packed_equals_separate(void) {
  static rows packed, alone;
  static float a[CELLS * VOCAB], b[CELLS * VOCAB];
  static const int64_t lengths[3] = {5, 9, 6}, dec_lengths[3] = {4, 3, 7};
  int family, k;
  for (family = 0; family < TFP_FAMILY_COUNT; family++) {
    tfp_ctx *ctx = context();
    tfp_model *m = tiny_model(ctx, (tfp_family)family);
    const int seq2seq = m->config.arch == TFP_SEQ2SEQ;
    int64_t at = 0, dec_at = 0, i;
    fill_rows(&packed, &m->config, 1, 20, 14, 8);
    packed.b.docs = packed.docs, packed.b.positions = packed.positions;
    if (seq2seq) packed.b.dec_docs = packed.dec_docs, packed.b.dec_positions = packed.dec_positions;
    for (k = 0; k < 3; k++) {
      for (i = 0; i < lengths[k]; i++) packed.docs[at] = k, packed.positions[at++] = (int32_t)i;
      for (i = 0; i < dec_lengths[k]; i++)
        packed.dec_docs[dec_at] = k, packed.dec_positions[dec_at++] = (int32_t)i;
    }
    logits_of(m, &packed.b, NULL, a);
    for (k = 0, at = dec_at = 0; k < 3; at += lengths[k], dec_at += dec_lengths[k], k++) {
      double worst;
      fill_rows(&alone, &m->config, 1, lengths[k], dec_lengths[k], 8);
      memcpy(alone.ids, packed.ids + at, (size_t)lengths[k] * sizeof(int32_t));
      memcpy(alone.dec_ids, packed.dec_ids + dec_at, (size_t)dec_lengths[k] * sizeof(int32_t));
      logits_of(m, &alone.b, NULL, b);
      worst = largest_difference(a + (seq2seq ? dec_at : at) * VOCAB, b,
                                 (seq2seq ? dec_lengths[k] : lengths[k]) * VOCAB);
      FOR((tfp_family)family, worst < 3e-4, "a packed document", worst);
    }
    packed.b.docs = NULL, packed.b.dec_docs = NULL; /* without documents they do see each other */
    logits_of(m, &packed.b, NULL, b);
    FOR((tfp_family)family, largest_difference(a, b, (seq2seq ? 14 : 20) * VOCAB) > 1e-2,
        "documents are not heeded", 0);
    tfp_destroy(ctx);
  }
}

/* ---- caches ---- */

/* Feeds a batch to a cache in the given pieces and compares all logits with those of one forward.
 * */
static void compare_cached(tfp_model *m, rows *r, const int64_t *pieces, const char *what) {
  static float want[CELLS * VOCAB], got[CELLS * VOCAB], piece[CELLS * VOCAB];
  static int32_t ids[CELLS], mask[CELLS];
  const int seq2seq = m->config.arch == TFP_SEQ2SEQ;
  const int64_t L = seq2seq ? r->b.S : r->b.T, B = r->b.B;
  const int32_t *source = seq2seq ? r->dec_ids : r->ids,
                *source_mask = seq2seq ? r->b.dec_mask : r->b.mask;
  tfp_cache *cache = tfp_cache_create(m, B, L, seq2seq ? r->b.T : 0);
  int64_t at = 0, b, t, n;
  double worst = 0;
  logits_of(m, &r->b, NULL, want);
  for (; at < L; at += n, pieces += pieces[1] != 0) {
    tfp_batch part = r->b;
    n = *pieces < L - at ? *pieces : L - at;
    for (b = 0; b < B; b++)
      for (t = 0; t < n; t++) {
        ids[b * n + t] = source[b * L + at + t];
        if (source_mask) mask[b * n + t] = source_mask[b * L + at + t];
      }
    part.labels = NULL, part.n_labels = 0;
    if (seq2seq) part.dec_ids = ids, part.S = n, part.dec_mask = source_mask ? mask : NULL;
    else part.ids = ids, part.T = n, part.mask = source_mask ? mask : NULL;
    if (seq2seq && at) part.ids = NULL, part.mask = NULL; /* the encoder is not needed again */
    logits_of(m, &part, cache, piece);
    for (b = 0; b < B; b++)
      memcpy(got + (b * L + at) * VOCAB, piece + b * n * VOCAB, (size_t)(n * VOCAB) * sizeof *got);
    CHECK(tfp_cache_length(cache) == at + n);
  }
  for (b = 0; b < B; b++)
    for (t = 0; t < L; t++)
      if (!source_mask || source_mask[b * L + t])
        worst = fmax(worst, largest_difference(want + (b * L + t) * VOCAB,
                                               got + (b * L + t) * VOCAB, VOCAB));
  FOR(m->config.family, worst < 1e-4, what, worst);
  tfp_cache_free(cache);
}
static void cached_equals_uncached(void) {
  static const tfp_family families[4] = {TFP_GPT2, TFP_BLOOM, TFP_T5, TFP_BART};
  static const int64_t ones[2] = {1, 0}, chunks[6] = {3, 1, 4, 2, 5, 0}, whole[2] = {99, 0},
                       prompt[3] = {8, 1, 0};
  static rows r;
  int f;
  for (f = 0; f < 4; f++) {
    tfp_ctx *ctx = context();
    tfp_model *m = tiny_model(ctx, families[f]);
    int64_t t;
    fill_rows(&r, &m->config, 2, 15, 15, 9);
    compare_cached(m, &r, ones, "token by token");
    compare_cached(m, &r, chunks, "in chunks");
    compare_cached(m, &r, whole, "at once");
    compare_cached(m, &r, prompt, "a prompt, then tokens");
    for (t = 0; t < 30; t++) r.mask[t] = r.dec_mask[t] = 1;
    for (t = 0; t < 4; t++)
      r.mask[15 + t] = r.dec_mask[15 + t] = 0; /* the second row is padded on the left */
    r.b.mask = r.mask, r.b.dec_mask = r.b.S ? r.dec_mask : NULL;
    compare_cached(m, &r, ones, "padded, token by token");
    compare_cached(m, &r, chunks, "padded, in chunks");
    tfp_destroy(ctx);
  }
}
/* A rotary decoder with a cache, for no preset has rotary positions. */
static void cached_rotary(void) {
  static const int64_t chunks[6] = {3, 1, 4, 2, 1, 0};
  static rows r;
  tfp_ctx *ctx = context();
  tfp_config c = tiny(TFP_GPT2);
  tfp_model *m;
  c.position = TFP_POS_ROTARY;
  m = tfp_model_create(ctx, &c, 1);
  fill_rows(&r, &c, 2, 15, 0, 9);
  compare_cached(m, &r, chunks, "rotary, in chunks");
  tfp_destroy(ctx);
}
static void cache_can_be_used_again(void) {
  static rows r;
  static float first[CELLS * VOCAB], again[CELLS * VOCAB];
  tfp_ctx *ctx = context();
  tfp_model *m = tiny_model(ctx, TFP_T5);
  tfp_cache *cache = tfp_cache_create(m, 2, 6, 9);
  fill_rows(&r, &m->config, 2, 9, 6, 10);
  logits_of(m, &r.b, cache, first);
  tfp_cache_reset(cache);
  CHECK(tfp_cache_length(cache) == 0);
  r.ids[3] = 5, r.ids[12] = 6; /* another input: the encoder runs again */
  logits_of(m, &r.b, cache, again);
  CHECK(largest_difference(first, again, 12 * VOCAB) > 1e-3);
  logits_of(m, &r.b, NULL, first);
  CHECK(largest_difference(first, again, 12 * VOCAB) < 1e-4);
  CHECK(tfp_forward(m, &r.b, TFP_WANT_LOGITS, cache, &(tfp_output){0}) == TFP_ERR_SHAPE);
  FAILS(ctx, TFP_ERR_SHAPE, "6"); /* it is full */
  tfp_cache_free(cache);
  CHECK(!tfp_cache_create(m, 0, 6, 9));
  FAILS(ctx, TFP_ERR_ARG, "0 rows");
  CHECK(!tfp_cache_create(tiny_model(ctx, TFP_BERT), 1, 6, 0));
  FAILS(ctx, TFP_ERR_ARG, "0 decoder layers");
  tfp_destroy(ctx);
}

/* ---- gradients ---- */

/* The worst difference of two gradients over the largest number. */
static double gradient_difference(const tfp_model *m, const tfp_real *kept, const char **name) {
  double worst = 0;
  const tfp_param *p;
  for (p = m->params->first; p; p = p->next) {
    double size = 1e-30, far = 0;
    int64_t i;
    for (i = 0; i < tfp_numel(p->tensor); i++) {
      const double d = fabs((double)kept[p->offset + i] - (double)m->params->grad[p->offset + i]);
      far = d <= far ? far : d;
      size = fmax(size, fabs((double)kept[p->offset + i]));
    }
    if (p->frozen || far / size <= worst) continue;
    worst = far / size, *name = p->name;
  }
  return worst;
}
static tfp_real *keep_gradients(const tfp_model *m) {
  const size_t bytes = (size_t)m->params->flat * sizeof(tfp_real);
  tfp_real *kept = (tfp_real *)malloc(bytes);
  memcpy(kept, m->params->grad, bytes);
  return kept;
}
static void recompute_changes_nothing(void) {
  static rows r;
  int family;
  for (family = 0; family < TFP_FAMILY_COUNT; family++) {
    tfp_ctx *ctx = context();
    tfp_config c = tiny((tfp_family)family);
    tfp_model *m;
    double plain, again, worst;
    const char *name = "";
    tfp_real *kept;
    int64_t step_plain, step_again;
    c.dropout = c.attention_dropout = c.activation_dropout = 0.1;
    if (c.encoder_layers) c.encoder_layers = 4;
    if (c.decoder_layers) c.decoder_layers = 4;
    m = tfp_model_create(ctx, &c, 1);
    shake(m);
    fill_rows(&r, &c, 4, 20, 20, 11);
    tfp_training(ctx, 1, 3, 0);
    plain = gradients_of(m, &r.b, 0.1);
    step_plain = tfp_memory(ctx).step;
    kept = keep_gradients(m);
    m->recompute = 1;
    again = gradients_of(m, &r.b, 0.1);
    step_again = tfp_memory(ctx).step;
    worst = gradient_difference(m, kept, &name);
    FOR((tfp_family)family, fabs(plain - again) <= 1e-6 * plain, "loss with recomputation",
        plain - again);
    FOR((tfp_family)family, worst < 2e-5, name, worst);
    FOR((tfp_family)family, step_again < step_plain, "recomputation takes less memory",
        (double)step_again / (double)step_plain);
    FOR((tfp_family)family, tfp_params_untouched(m->params, NULL, 0) == 0, "untouched", 0);
    free(kept);
    tfp_destroy(ctx);
  }
}
static void dropout_has_coordinates(void) {
  static rows r;
  int family;
  for (family = 0; family < TFP_FAMILY_COUNT; family++) {
    tfp_ctx *ctx = context();
    tfp_config c = tiny((tfp_family)family);
    tfp_model *m;
    double off, first, same, other, shifted;
    c.dropout = c.attention_dropout = 0.2;
    m = tfp_model_create(ctx, &c, 1);
    fill_rows(&r, &c, 2, 9, 9, 12);
    off = gradients_of(m, &r.b, 1);
    tfp_training(ctx, 1, 5, 0);
    first = gradients_of(m, &r.b, 1);
    same = gradients_of(m, &r.b, 1);
    tfp_training(ctx, 1, 6, 0);
    other = gradients_of(m, &r.b, 1);
    tfp_training(ctx, 1, 5, 2);
    shifted = gradients_of(m, &r.b, 1);
    FOR((tfp_family)family, first == same, "the same step, another mask", first - same);
    FOR((tfp_family)family, first != off && first != other && first != shifted,
        "another step or example, the same mask", first);
    tfp_training(ctx, 0, 0, 0);
    FOR((tfp_family)family, gradients_of(m, &r.b, 1) == off, "dropout stays on", off);
    tfp_destroy(ctx);
  }
}
/* The draws of an example do not depend on the batch that it is in. */
static void dropout_goes_by_example(void) {
  static rows both, second;
  static const tfp_family families[3] = {TFP_BERT, TFP_GPT2, TFP_T5};
  int f;
  for (f = 0; f < 3; f++) {
    tfp_ctx *ctx = context();
    tfp_config c = tiny(families[f]);
    tfp_model *m;
    double whole, one, two;
    int64_t L;
    c.dropout = c.attention_dropout = 0.2;
    m = tfp_model_create(ctx, &c, 1);
    fill_rows(&both, &c, 2, 9, 7, 13);
    L = both.b.S ? 7 : 9;
    tfp_training(ctx, 1, 5, 0);
    whole = gradients_of(m, &both.b, 1);
    fill_rows(&second, &c, 1, 9, 7, 13); /* the first row, then the second */
    memcpy(second.labels, both.labels, (size_t)L * sizeof(int32_t));
    one = gradients_of(m, &second.b, 1);
    memcpy(second.ids, both.ids + 9, 9 * sizeof(int32_t));
    memcpy(second.dec_ids, both.dec_ids + 7, 7 * sizeof(int32_t));
    memcpy(second.labels, both.labels + L, (size_t)L * sizeof(int32_t));
    tfp_training(ctx, 1, 5, 1);
    two = gradients_of(m, &second.b, 1);
    FOR(families[f], fabs(one + two - whole) < 1e-5 * whole, "two rows apart", one + two - whole);
    tfp_destroy(ctx);
  }
}
/* Two micro-batches, of other lengths too, give the gradients of one batch with all of their rows.
 * */
static void accumulation_adds_up(void) {
  static rows both, part;
  int family, ragged;
  for (family = 0; family < TFP_FAMILY_COUNT; family++)
    for (ragged = 0; ragged < 2; ragged++) {
      tfp_ctx *ctx = context();
      tfp_model *m = tiny_model(ctx, (tfp_family)family);
      const int seq2seq = m->config.arch == TFP_SEQ2SEQ;
      const int64_t T = 12, S = 10, L = seq2seq ? S : T;
      const int64_t t2 = ragged ? 7 : T, s2 = ragged ? 4 : S,
                    l2 = seq2seq ? s2 : t2; /* lengths of the second half */
      double loss = 0, whole, worst;
      int64_t b, t;
      const char *name = "";
      tfp_real *kept;
      tfp_output o;
      fill_rows(&both, &m->config, 4, T, S, 14);
      for (b = 2; b < 4; b++) {
        for (t = 0; t < T; t++) both.mask[b * T + t] = t < t2;
        for (t = 0; t < S; t++) both.dec_mask[b * S + t] = t < s2;
        for (t = l2; t < L; t++) both.labels[b * L + t] = TFP_IGNORE_INDEX;
        for (t = t2; t < T; t++) both.ids[b * T + t] = PAD;
      }
      for (t = 0; t < 2 * T; t++) both.mask[t] = 1;
      for (t = 0; t < 2 * S; t++) both.dec_mask[t] = 1;
      both.b.mask = both.mask, both.b.dec_mask = seq2seq ? both.dec_mask : NULL;
      whole = gradients_of(m, &both.b, 0.05);
      kept = keep_gradients(m);
      tfp_params_zero_grad(m->params);
      for (b = 0; b < 4; b += 2) {
        const int64_t n = b ? t2 : T, s = b ? s2 : S, l = b ? l2 : L;
        fill_rows(&part, &m->config, 2, n, s, 14);
        for (t = 0; t < 2; t++) {
          memcpy(part.ids + t * n, both.ids + (b + t) * T, (size_t)n * sizeof(int32_t));
          memcpy(part.dec_ids + t * s, both.dec_ids + (b + t) * S, (size_t)s * sizeof(int32_t));
          memcpy(part.labels + t * l, both.labels + (b + t) * L, (size_t)l * sizeof(int32_t));
        }
        tfp_step_reset(ctx);
        tfp_forward(m, &part.b, TFP_WANT_LOSS, NULL, &o);
        tfp_backward(ctx, o.loss);
        OK(ctx);
        loss += tfp_item(o.loss);
      }
      worst = gradient_difference(m, kept, &name);
      FOR((tfp_family)family, fabs(loss - whole) < 1e-5 * whole, "loss of the parts", loss - whole);
      FOR((tfp_family)family, worst < 3e-5, name, worst);
      free(kept);
      tfp_destroy(ctx);
    }
}

/* ---- batches that cannot be ---- */

#define BAD_BATCH(change, status, words) do { fill_rows(&r, &m->config, 2, 9, 7, 15); change; \
    tfp_step_reset(ctx); CHECK(tfp_forward(m, &r.b, TFP_WANT_LOSS, NULL, &o) == (status)); \
    CHECK(!o.loss); FAILS(ctx, status, words); } while (0)
static void bad_batches(void) {
  static rows r;
  int family;
  for (family = 0; family < TFP_FAMILY_COUNT; family++) {
    tfp_ctx *ctx = context();
    tfp_model *m = tiny_model(ctx, (tfp_family)family);
    const int seq2seq = m->config.arch == TFP_SEQ2SEQ;
    tfp_output o;
    BAD_BATCH(r.b.ids = NULL, TFP_ERR_ARG, "no ids");
    BAD_BATCH(r.b.B = 0, TFP_ERR_ARG, "0 rows");
    BAD_BATCH(r.b.T = 0, TFP_ERR_ARG, "0");
    BAD_BATCH(r.ids[13] = VOCAB, TFP_ERR_DATA, "61");
    BAD_BATCH(r.ids[13] = -1, TFP_ERR_DATA, "-1");
    BAD_BATCH(r.labels[3] = VOCAB, TFP_ERR_DATA, "61");
    BAD_BATCH(r.labels[3] = -7, TFP_ERR_DATA, "-7");
    BAD_BATCH(r.b.labels = NULL, TFP_ERR_ARG, "0 labels");
    BAD_BATCH(r.b.n_labels = 5, TFP_ERR_ARG, "5 labels");
    if (seq2seq) BAD_BATCH(r.b.dec_ids = NULL, TFP_ERR_ARG, "dec_ids");
    if (seq2seq) BAD_BATCH(r.b.S = 0, TFP_ERR_ARG, "0");
    if (seq2seq) BAD_BATCH(r.dec_ids[8] = 1000, TFP_ERR_DATA, "1000");
    if (m->config.max_positions)
      BAD_BATCH((r.b.T = MAX + 1, r.b.B = 1), TFP_ERR_SHAPE, "25 positions; the model has 24");
    if (m->config.max_positions)
      BAD_BATCH((r.positions[4] = 900, r.b.positions = r.positions), TFP_ERR_DATA, "90");
    if (m->config.type_vocab) {
      static int32_t types[CELLS] = {0, 0, 77};
      BAD_BATCH(r.b.types = types, TFP_ERR_DATA, "77");
    }
    if (m->config.arch == TFP_ENCODER) {
      fill_rows(&r, &m->config, 2, 9, 7, 15);
      tfp_forward(m, &r.b, 0, tfp_cache_create(tiny_model(ctx, TFP_GPT2), 2, 9, 0), &o);
      FAILS(ctx, TFP_ERR_ARG, "cache");
    }
    fill_rows(&r, &m->config, 2, 9, 7, 15); /* and then it works */
    CHECK(gradients_of(m, &r.b, 1) > 0);
    CHECK(tfp_forward(NULL, &r.b, 0, NULL, &o) == TFP_ERR_ARG && !o.hidden);
    tfp_destroy(ctx);
  }
}

/* ---- hidden states ---- */

static void pooling(void) {
  tfp_ctx *ctx = context();
  const int64_t shape[3] = {2, 4, 3}, flat[2] = {2, 4}, wrong[2] = {2, 3};
  float x[24], out[6];
  const int32_t mask[8] = {1, 0, 1, 0, 0, 0, 0, 0};
  int i;
  for (i = 0; i < 24; i++) x[i] = (float)i;
  tfp_read(ctx, tfp_pool_mean(ctx, tfp_from_floats(ctx, 3, shape, x), NULL), out, 6);
  NEAR(out[0], 4.5, 1e-6);
  NEAR(out[5], 18.5, 1e-6);
  tfp_read(ctx,
           tfp_pool_mean(ctx, tfp_from_floats(ctx, 3, shape, x), tfp_from_ints(ctx, 2, flat, mask)),
           out, 6);
  OK(ctx);
  NEAR(out[1], 4, 1e-6);
  CHECK(out[3] == 0 && out[5] == 0); /* a row without tokens */
  CHECK(!tfp_pool_mean(ctx, tfp_from_floats(ctx, 3, shape, x), tfp_from_ints(ctx, 2, wrong, mask)));
  FAILS(ctx, TFP_ERR_SHAPE, "(2,3)");
  tfp_destroy(ctx);
}
/* Which state is classified: first, last that is no padding, or under the encoder's end token. */
static void classification_picks_its_row(void) {
  static rows r;
  static float a[64], b[64];
  static const tfp_family families[3] = {TFP_BERT, TFP_GPT2, TFP_BART};
  int f;
  for (f = 0; f < 3; f++) {
    tfp_ctx *ctx = context();
    tfp_config c = tiny(families[f]);
    tfp_model *m;
    int64_t t;
    c.head = TFP_HEAD_CLASS;
    m = tfp_model_create(ctx, &c, 0);
    fill_rows(&r, &c, 2, 9, 9, 16);
    for (t = 14; t < 18; t++) r.ids[t] = PAD, r.dec_ids[t] = PAD; /* row 1: five tokens */
    for (t = 0; t < 18; t++) r.mask[t] = r.dec_mask[t] = t < 14;
    r.ids[13] = END;
    r.b.mask = r.mask, r.b.dec_mask = c.arch == TFP_SEQ2SEQ ? r.dec_mask : NULL;
    logits_of(m, &r.b, NULL, a);
    memmove(r.ids, r.ids + 9, 5 * sizeof(int32_t));
    memmove(r.dec_ids, r.dec_ids + 9, 5 * sizeof(int32_t));
    r.b.B = 1, r.b.T = 5, r.b.S = r.b.S ? 5 : 0, r.b.mask = r.b.dec_mask = NULL;
    logits_of(m, &r.b, NULL, b);
    FOR(families[f], largest_difference(a + LABELS, b, LABELS) < 1e-4, "class of a padded row",
        largest_difference(a + LABELS, b, LABELS));
    if (c.pool == TFP_POOL_LAST_END) {
      r.ids[4] = 5;
      tfp_forward(m, &r.b, TFP_WANT_LOGITS, NULL, &(tfp_output){0});
      FAILS(ctx, TFP_ERR_DATA, "no end token");
    }
    tfp_destroy(ctx);
  }
}

void test_model(void) {
  RUN(preset_sizes);
  RUN(family_names);
  RUN(bad_configurations);
  RUN(heads_run);
  RUN(loss_is_that_of_the_logits);
  RUN(no_causal_leak);
  RUN(padding_changes_nothing);
  RUN(packed_equals_separate);
  RUN(cached_equals_uncached);
  RUN(cached_rotary);
  RUN(cache_can_be_used_again);
  RUN(recompute_changes_nothing);
  RUN(dropout_has_coordinates);
  RUN(dropout_goes_by_example);
  RUN(accumulation_adds_up);
  RUN(bad_batches);
  RUN(pooling);
  RUN(classification_picks_its_row);
}
