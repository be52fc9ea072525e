/* generate.c -- writing text with a cache, sampling, filling masks */
#include "test.h"

enum { VOCAB = 61, MAX = 32 };
static tfp_ctx *context(void) {
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.threads = 2, d.seed = 3;
  return tfp_create(&d);
}
static tfp_model *model_of(tfp_ctx *ctx, const char *preset) {
  tfp_config c;
  CHECK(tfp_config_preset(preset, &c));
  c.vocab_size = VOCAB, c.hidden = 32, c.heads = 4, c.head_dim = 8, c.ffn = 48;
  if (c.max_positions) c.max_positions = MAX;
  c.bos = 1, c.eos = 2, c.pad = 0, c.init_std = 0.4;
  return tfp_model_create(ctx, &c, 0);
}
static const char *const writers[4] = {"gpt2-tiny", "bloom-tiny", "t5-tiny", "bart-tiny"};
static const int32_t prompt[6] = {7, 9, 30, 31, 12, 2};

/* Logits behind a text, by a forward without a cache. */
static void last_logits(tfp_model *m, const int32_t *text, int64_t n, float *out) {
  tfp_batch b;
  tfp_output o;
  memset(&b, 0, sizeof b);
  b.B = 1, b.ids = text, b.T = n;
  if (m->config.arch == TFP_SEQ2SEQ) b.ids = prompt, b.T = 6, b.dec_ids = text, b.S = n;
  tfp_step_reset(m->ctx);
  tfp_forward(m, &b, TFP_LAST_LOGITS, NULL, &o);
  OK(m->ctx);
  tfp_read(m->ctx, o.logits, out, VOCAB);
}
static int64_t begin(const tfp_model *m,
                     int32_t *text) { /* what the decoder has before the first new token */
  memcpy(text, prompt, sizeof prompt);
  if (m->config.arch != TFP_SEQ2SEQ) return 6;
  text[0] = m->config.decoder_start;
  return 1;
}
static int32_t first_largest(const float *x) {
  int32_t i, at = 0;
  for (i = 1; i < VOCAB; i++)
    if (x[i] > x[at]) at = i;
  return at;
}

static void greedy_is_the_argmax(void) {
  int w;
  for (w = 0; w < 4; w++) {
    tfp_ctx *ctx = context();
    tfp_model *m = model_of(ctx, writers[w]);
    tfp_gen_desc d;
    int32_t text[64], out[20];
    float logits[VOCAB];
    int64_t n = begin(m, text), made, i;
    memset(&d, 0, sizeof d);
    d.end_id = -1;
    made = tfp_generate(m, prompt, 6, &d, out, 20);
    OK(ctx);
    CHECK(made == 20);
    for (i = 0; i < made; i++) {
      last_logits(m, text, n, logits);
      CHECK(out[i] == first_largest(logits));
      text[n++] = out[i];
    }
    tfp_destroy(ctx);
  }
}
/* Learned positions end; the text goes on from its second half. */
static void text_outgrows_its_positions(void) {
  tfp_ctx *ctx = context();
  tfp_model *m = model_of(ctx, "gpt2-tiny");
  tfp_gen_desc d;
  int32_t text[200], out[150];
  float logits[VOCAB];
  int64_t n = begin(m, text), i, start = 0, held = 6;
  memset(&d, 0, sizeof d);
  d.end_id = -1, d.max_new = 150;
  CHECK(tfp_generate(m, prompt, 6, &d, out, 150) == 150);
  OK(ctx);
  for (i = 0; i < 150; i++, held++) {
    if (held > MAX) start = n - MAX / 2, held = MAX / 2;
    last_logits(m, text + start, n - start, logits);
    CHECK(out[i] == first_largest(logits));
    text[n++] = out[i];
  }
  tfp_destroy(ctx);
  ctx = context(); /* an encoder-decoder's answer ends there */
  m = model_of(ctx, "bart-tiny");
  i = tfp_generate(m, prompt, 6, &d, out, 150);
  OK(ctx);
  CHECK(i == MAX - 1);
  tfp_destroy(ctx);
}

typedef struct listener { int calls, stop_after; int32_t heard[40]; } listener;
static int listen(void *user, int32_t id) {
  listener *l = (listener *)user;
  l->heard[l->calls++] = id;
  return l->calls == l->stop_after;
}
static void ends_and_stops(void) {
  int w;
  for (w = 0; w < 4; w++) {
    tfp_ctx *ctx = context();
    tfp_model *m = model_of(ctx, writers[w]);
    tfp_gen_desc d;
    listener l;
    int32_t all[30], out[30];
    int64_t n, i, first;
    memset(&d, 0, sizeof d);
    d.end_id = -1, d.max_new = 25, d.temperature = 1, d.seed = 5;
    CHECK(tfp_generate(m, prompt, 6, &d, all, 30) == 25);
    d.end_id = all[6];
    for (first = 0; all[first] != all[6]; first++) continue;
    n = tfp_generate(m, prompt, 6, &d, out, 30);
    CHECK(n == first + 1 && out[n - 1] == d.end_id && !memcmp(out, all, (size_t)n * sizeof *out));
    memset(&l, 0, sizeof l);
    d.end_id = -1, d.on_token = listen, d.user = &l, l.stop_after = 9;
    n = tfp_generate(m, prompt, 6, &d, out, 30);
    CHECK(n == 9 && l.calls == 9 && !memcmp(out, all, 9 * sizeof *out) &&
          !memcmp(l.heard, all, 9 * sizeof *out));
    d.on_token = NULL;
    CHECK(tfp_generate(m, prompt, 6, &d, out, 4) == 4 &&
          !memcmp(out, all, 4 * sizeof *out)); /* room for four */
    CHECK(tfp_generate(m, prompt, 6, NULL, out, 30) <= 20);
    n = tfp_generate(m, prompt, 6, &d, out, 30); /* the same seed */
    CHECK(n == 25 && !memcmp(out, all, 25 * sizeof *out));
    d.seed = 6;
    n = tfp_generate(m, prompt, 6, &d, out, 30);
    CHECK(n == 25 && memcmp(out, all, 25 * sizeof *out));
    d.vocab = 40;
    n = tfp_generate(m, prompt, 6, &d, out, 30);
    for (i = 0; i < n; i++) CHECK(out[i] < 40);
    OK(ctx);
    tfp_destroy(ctx);
  }
}
static void generate_refuses(void) {
  tfp_ctx *ctx = context();
  tfp_model *m = model_of(ctx, "gpt2-tiny");
  tfp_gen_desc d;
  int32_t out[4], wrong[3] = {3, VOCAB, 5};
  memset(&d, 0, sizeof d);
  CHECK(tfp_generate(m, prompt, 0, NULL, out, 4) == -1);
  FAILS(ctx, TFP_ERR_ARG, "0 tokens");
  d.temperature = -1;
  CHECK(tfp_generate(m, prompt, 6, &d, out, 4) == -1);
  FAILS(ctx, TFP_ERR_ARG, "-1");
  d.temperature = 1, d.top_p = 1.5;
  CHECK(tfp_generate(m, prompt, 6, &d, out, 4) == -1);
  FAILS(ctx, TFP_ERR_ARG, "1.5");
  CHECK(tfp_generate(m, wrong, 3, NULL, out, 4) == -1);
  FAILS(ctx, TFP_ERR_DATA, "61");
  CHECK(tfp_generate(model_of(ctx, "bert-tiny"), prompt, 6, NULL, out, 4) == -1);
  FAILS(ctx, TFP_ERR_ARG, "encoder");
  CHECK(tfp_generate(NULL, prompt, 6, NULL, out, 4) == -1);
  CHECK(tfp_generate(m, prompt, 6, NULL, out, 4) > 0); /* and all is well again */
  OK(ctx);
  tfp_destroy(ctx);
}

/* ---- sampling ---- */

enum { FEW = 6 };
/* Which ids come out for u over [0,1), and how often of a thousand. */
static void shares(const float *logits, const tfp_gen_desc *d, int *counts) {
  int i;
  memset(counts, 0, FEW * sizeof *counts);
  for (i = 0; i < 1000; i++) {
    float x[FEW];
    int32_t work[FEW], id;
    memcpy(x, logits, sizeof x);
    id = tfp_sample(x, FEW, d, (i + 0.5) / 1000, work);
    CHECK(id >= 0 && id < FEW);
    if (id >= 0 && id < FEW) counts[id]++;
  }
}
static void sampling_sets(void) {
  /* probabilities 0.4 0.3 0.15 0.1 0.04 0.01, not in order: ids 2 0 4 1 5 3 */
  static const double p[FEW] = {0.3, 0.1, 0.4, 0.01, 0.15, 0.04};
  float x[FEW], with_nan[FEW], ties[FEW] = {1, 2, 2, 2, 0, 2};
  const float equal[FEW] = {5, 5, 5, 5, -INFINITY, -INFINITY};
  int counts[FEW], i;
  tfp_gen_desc d;
  for (i = 0; i < FEW; i++) x[i] = (float)log(p[i]) + 3;
  memset(&d, 0, sizeof d);
  shares(x, &d, counts); /* greedy */
  CHECK(counts[2] == 1000);
  shares(ties, &d, counts);
  CHECK(counts[1] == 1000); /* the first of equals */
  d.temperature = 1;
  shares(x, &d, counts);
  for (i = 0; i < FEW; i++) CHECK(abs(counts[i] - (int)(1000 * p[i] + 0.5)) <= 1);
  d.temperature = 0.5; /* squares the odds */
  shares(x, &d, counts);
  CHECK(abs(counts[2] - (int)(1000 * 0.16 / 0.2842)) <= 2 &&
        abs(counts[1] - (int)(1000 * 0.01 / 0.2842)) <= 2);
  d.temperature = 1, d.top_k = 3;
  shares(x, &d, counts);
  CHECK(abs(counts[2] - 471) <= 2 && abs(counts[0] - 353) <= 2 && abs(counts[4] - 176) <= 2);
  CHECK(!counts[1] && !counts[3] && !counts[5]);
  d.top_k = 1;
  shares(x, &d, counts);
  CHECK(counts[2] == 1000);
  d.top_k = 2; /* ties with the second stay */
  shares(ties, &d, counts);
  CHECK(!counts[0] && !counts[4] && counts[1] == 250 && counts[2] == 250 && counts[3] == 250 &&
        counts[5] == 250);
  d.top_k = 0, d.top_p = 0.6; /* 0.4 is too little, 0.4 + 0.3 is enough */
  shares(x, &d, counts);
  CHECK(counts[2] + counts[0] == 1000 && abs(counts[2] - 571) <= 2);
  d.top_p = 0.86;
  shares(x, &d, counts);
  CHECK(counts[2] + counts[0] + counts[4] + counts[1] == 1000 && counts[1] > 80);
  d.top_p = 0.01;
  shares(x, &d, counts);
  CHECK(counts[2] == 1000);
  d.top_p = 0.5; /* two of four equal ones are exactly a half */
  shares(equal, &d, counts);
  CHECK(counts[0] == 500 && counts[1] == 500);
  d.top_p = 0.8,
  d.top_k = 3; /* 0.4 0.3 0.15 of 0.85: the third is needed to reach 0.8, 0.7/0.85 is 0.82 */
  shares(x, &d, counts);
  CHECK(counts[2] + counts[0] == 1000);
  d.top_p = 0, d.top_k = 0, d.vocab = 3; /* dead rows */
  shares(x, &d, counts);
  CHECK(counts[0] + counts[1] + counts[2] == 1000 && counts[1] > 0);
  d.vocab = 0;
  memcpy(with_nan, x, sizeof x);
  with_nan[2] = NAN, with_nan[0] = -INFINITY;
  shares(with_nan, &d, counts);
  CHECK(!counts[2] && !counts[0] && counts[4] > 0);
}
static void sampled_text_follows_the_logits(void) {
  tfp_ctx *ctx = context();
  tfp_model *m = model_of(ctx, "gpt2-tiny");
  float logits[VOCAB];
  double sum = 0, spread = 0;
  int counts[VOCAB] = {0}, i;
  tfp_gen_desc d;
  memset(&d, 0, sizeof d);
  d.end_id = -1, d.max_new = 1, d.temperature = 3;
  for (i = 0; i < 2000; i++) {
    int32_t id = 0;
    d.seed = (uint64_t)i;
    CHECK(tfp_generate(m, prompt, 6, &d, &id, 1) == 1);
    counts[id]++;
  }
  last_logits(m, prompt, 6, logits);
  for (i = 0; i < VOCAB; i++) sum += exp((double)logits[i] / 3);
  for (i = 0; i < VOCAB; i++) {
    const double want = 2000 * exp((double)logits[i] / 3) / sum;
    spread += (counts[i] - want) * (counts[i] - want) / (want + 0.5);
  }
  CHECK(spread < 120); /* chi squared of 60 degrees of freedom */
  OK(ctx);
  tfp_destroy(ctx);
}

/* ---- masks ---- */

static void fill_sorts_probabilities(void) {
  static const char *const encoders[2] = {"bert-tiny", "roberta-tiny"};
  int e;
  for (e = 0; e < 2; e++) {
    tfp_ctx *ctx = context();
    tfp_model *m = model_of(ctx, encoders[e]);
    const int32_t ids[8] = {1, 50, 9, 50, 11, 12, 50, 2};
    static const int64_t masks[3] = {1, 3, 6};
    static float logits[8 * VOCAB];
    tfp_filled f[3 * VOCAB];
    tfp_batch b;
    tfp_output o;
    int64_t n, k, i;
    memset(&b, 0, sizeof b);
    b.B = 1, b.T = 8, b.ids = ids;
    tfp_forward(m, &b, TFP_WANT_LOGITS, NULL, &o);
    tfp_read(ctx, o.logits, logits, 8 * VOCAB);
    OK(ctx);
    n = tfp_fill(m, ids, 8, 50, VOCAB, 0, f, 3 * VOCAB); /* all of them */
    CHECK(n == 3 * VOCAB);
    for (k = 0; k < 3 && n == 3 * VOCAB; k++) {
      const tfp_filled *g = f + k * VOCAB;
      const float *x = logits + masks[k] * VOCAB;
      int seen[VOCAB] = {0};
      double total = 0, sum = 0;
      for (i = 0; i < VOCAB; i++) sum += exp((double)x[i]);
      for (i = 0; i < VOCAB; i++) {
        CHECK(g[i].position == masks[k] && g[i].id >= 0 && g[i].id < VOCAB && !seen[g[i].id]++);
        CHECK(!i || g[i].probability <= g[i - 1].probability);
        NEAR(g[i].probability, exp((double)x[g[i].id]) / sum, 1e-6);
        total += g[i].probability;
      }
      NEAR(total, 1, 1e-6);
    }
    n = tfp_fill(m, ids, 8, 50, 4, 20, f, 3 * VOCAB); /* the best four of the first 20 ids */
    CHECK(n == 12);
    for (i = 0; i < n; i++)
      CHECK(f[i].id < 20 && f[i].position == masks[i / 4] && f[i].probability <= 1);
    CHECK(tfp_fill(m, ids, 8, 50, 4, 0, f, 5) == 5); /* room for five */
    CHECK(tfp_fill(m, ids, 8, 49, 4, 0, f, 5) == -1);
    FAILS(ctx, TFP_ERR_ARG, "49");
    CHECK(tfp_fill(m, ids, 8, 50, 0, 0, f, 5) == -1);
    FAILS(ctx, TFP_ERR_ARG, "0");
    CHECK(tfp_fill(model_of(ctx, "gpt2-tiny"), ids, 8, 50, 4, 0, f, 5) == -1);
    FAILS(ctx, TFP_ERR_ARG, "encoder");
    tfp_destroy(ctx);
  }
}

void test_generate(void) {
  RUN(greedy_is_the_argmax);
  RUN(text_outgrows_its_positions);
  RUN(ends_and_stops);
  RUN(generate_refuses);
  RUN(sampling_sets);
  RUN(sampled_text_follows_the_logits);
  RUN(fill_sorts_probabilities);
}
