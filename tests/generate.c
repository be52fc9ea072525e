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
  d.beams = 3;
  CHECK(tfp_generate(m, prompt, 6, &d, out, 150) == 150);
  OK(ctx);
  tfp_destroy(ctx);
  d.beams = 1;
  ctx = context(); /* an encoder-decoder's answer ends there */
  m = model_of(ctx, "bart-tiny");
  i = tfp_generate(m, prompt, 6, &d, out, 150);
  OK(ctx);
  CHECK(i == MAX); /* the last token is not read: it needs no position */
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
  memset(&d, 0, sizeof d);
  d.beams = 1025;
  CHECK(tfp_generate(m, prompt, 6, &d, out, 4) == -1);
  FAILS(ctx, TFP_ERR_ARG, "num_beams is 1025");
  d.beams = 1, d.repetition_penalty = -0.5;
  CHECK(tfp_generate(m, prompt, 6, &d, out, 4) == -1);
  FAILS(ctx, TFP_ERR_ARG, "repetition_penalty is -0.5");
  d.repetition_penalty = 0, d.length_penalty = NAN;
  CHECK(tfp_generate(m, prompt, 6, &d, out, 4) == -1);
  FAILS(ctx, TFP_ERR_ARG, "length_penalty is nan");
  d.length_penalty = 0, d.max_new = INT32_MAX; /* fine where there is room for four */
  CHECK(tfp_generate(m, prompt, 6, &d, out, 4) > 0);
  OK(ctx);
  CHECK(tfp_generate(m, prompt, 6, &d, out, INT32_MAX) == -1);
  FAILS(ctx, TFP_ERR_ARG, "2147483647 new tokens");
  d.max_new = 0, d.suppress.n = 2;
  CHECK(tfp_generate(m, prompt, 6, &d, out, 4) == -1);
  FAILS(ctx, TFP_ERR_ARG, "suppress_tokens has 2 ids");
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
  CHECK(counts[2] == 500 && counts[3] == 500); /* the lowest ids go first, as in the reference */
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

/* ---- filters: the sets that the reference's warpers leave, in their order ---- */

static void filters_as_the_reference(void) {
  static const float logits[12] = {1.3f, -0.7f, 2.1f, 0.4f,  2.0f, -3.2f,
                                   0.9f, 1.8f,  0.4f, -1.1f, 2.6f, 0.0f};
  static const struct {
    double temperature, top_p, min_p;
    int64_t top_k, beams, ends;
    unsigned kept; /* bit i: id i */
  } cases[] = {
    {1, 1, 0, 0, 1, 1, 0xfff}, {1, 1, 0, 2, 1, 1, 0x404},
    {1, 1, 0, 7, 1, 1, 0x5dd}, {0.5, 0.8, 0, 0, 1, 1, 0x414},
    {1, 0.8, 0, 0, 1, 1, 0x495}, {2, 0.8, 0, 0, 1, 1, 0x5d5},
    {1, 0.05, 0, 0, 1, 1, 0x400}, {1, 0.05, 0, 0, 3, 1, 0x404},
    {1, 0.05, 0, 0, 3, 2, 0x414}, {1, 1, 0, 1, 3, 2, 0x414},
    {1, 1, 0.3, 0, 1, 1, 0x494}, {1, 1, 0.99, 0, 1, 1, 0x400},
    {1, 1, 0.99, 0, 3, 1, 0x404}, {0.7, 0.9, 0.1, 6, 1, 1, 0x494},
    {1.5, 0.95, 0.15, 8, 1, 1, 0x5dd}, {1.5, 0.5, 0.5, 8, 3, 2, 0x414}};
  static const int32_t ends[2] = {1, 2};
  size_t c;
  for (c = 0; c < sizeof cases / sizeof *cases; c++) {
    float x[12];
    int32_t work[12];
    unsigned kept = 0;
    int64_t n, i, bits = 0;
    tfp_gen_desc d;
    memset(&d, 0, sizeof d);
    memcpy(x, logits, sizeof x);
    d.temperature = cases[c].temperature, d.top_p = cases[c].top_p, d.min_p = cases[c].min_p;
    d.top_k = cases[c].top_k, d.beams = cases[c].beams, d.ends.at = ends, d.ends.n = cases[c].ends;
    n = tfp_filter_logits(x, 12, &d, work);
    for (i = 0; i < 12; i++) {
      if (x[i] > -INFINITY) kept |= 1u << i, bits++;
      CHECK(!(x[i] > -INFINITY) || fabs(x[i] - logits[i] / (float)cases[c].temperature) < 1e-6);
    }
    CHECK(kept == cases[c].kept && n == bits);
    for (i = 0; i < n; i++) CHECK(kept >> work[i] & 1);
  }
}

/* ---- beam search by hand: a model whose next token depends on the last one alone ----
 * Words are unit vectors, blocks add nothing, and the final norm is set so that it gives the unit
 * vector back: the logits behind token i are column i of the head, here log P(next | i). */

enum { TOY = 8, END = 7 };
static void set_all(tfp_model *m, const char *name, float value) {
  tfp_param *p = tfp_params_find(m->params, name);
  static float values[TOY * TOY * 4];
  int64_t i, n = p ? tfp_numel(p->tensor) : 0;
  CHECK(p && n <= TOY * TOY * 4);
  for (i = 0; i < n; i++) values[i] = value;
  if (p) tfp_write(m->ctx, p->tensor, values, n);
}
static tfp_model *toy(tfp_ctx *ctx) {
  static const struct { int from, to; double p; } odds[] = {
    {1, 2, .5}, {1, 3, .4}, {1, 7, .1},  {2, 4, .4}, {2, 5, .35}, {2, 7, .25}, {3, 7, .9},
    {3, 4, .1}, {4, 7, .6}, {4, 6, .4},  {5, 7, .97}, {5, 6, .03}, {6, 7, .55}, {6, 6, .45},
    {7, 0, .9}, {7, 1, .1}, {0, 0, 1}};
  /* a unit vector of 8 numbers, normalised: 7 ^ 1/2 at its place, -7 ^ -1/2 elsewhere */
  const double hot = sqrt(7.0), cold = -1 / sqrt(7.0);
  float word[TOY * TOY], head[TOY * TOY];
  tfp_config c;
  tfp_model *m;
  int i;
  CHECK(tfp_config_preset("gpt2-tiny", &c));
  c.vocab_size = c.hidden = TOY, c.heads = 2, c.head_dim = 4, c.ffn = 8, c.decoder_layers = 1;
  c.max_positions = 16, c.bos = 1, c.eos = END, c.pad = 0, c.tied = 0, c.norm_eps = 1e-12;
  m = tfp_model_create(ctx, &c, 0);
  for (i = 0; i < TOY * TOY; i++) word[i] = i % (TOY + 1) == 0, head[i] = -30;
  for (i = 0; i < (int)(sizeof odds / sizeof *odds); i++)
    head[odds[i].to * TOY + odds[i].from] = (float)log(odds[i].p);
  tfp_write(ctx, tfp_params_find(m->params, "word.w")->tensor, word, TOY * TOY);
  tfp_write(ctx, tfp_params_find(m->params, "lm.w")->tensor, head, TOY * TOY);
  set_all(m, "decoder.positions.w", 0);
  set_all(m, "decoder.0.out.w", 0);
  set_all(m, "decoder.0.out.b", 0);
  set_all(m, "decoder.0.down.w", 0);
  set_all(m, "decoder.0.down.b", 0);
  set_all(m, "decoder.final_norm.w", (float)(1 / (hot - cold)));
  set_all(m, "decoder.final_norm.b", (float)(-cold / (hot - cold)));
  OK(ctx);
  return m;
}
static int writes(tfp_model *m, int32_t first, const tfp_gen_desc *d, const char *want) {
  char said[32];
  int32_t out[16];
  int64_t n = tfp_generate(m, &first, 1, d, out, 16), i;
  for (i = 0; i < n; i++) said[i] = (char)('0' + out[i]);
  said[n > 0 ? n : 0] = 0;
  if (strcmp(said, want)) printf("wrote %s, not %s\n", said, want);
  return !strcmp(said, want);
}
/* From 1: greedy takes 2 (.5), 4 (.4), end (.6): .12. Two beams keep 2 and 3; 3 ends with .36,
 * 2-5 with .17, 2-4 with .12; 2-4-6 (.08) may go on through 6. Lengths are 2, 3, 3. */
static void beams_by_hand(void) {
  tfp_ctx *ctx = context();
  tfp_model *m = toy(ctx);
  tfp_gen_desc d;
  const int32_t three = 3, five = 5, six = 6;
  const int32_t words[2] = {2, 5};
  tfp_ids bad;
  memset(&d, 0, sizeof d);
  d.max_new = 3;
  CHECK(writes(m, 1, &d, "247"));
  d.beams = 1;
  CHECK(writes(m, 1, &d, "247"));
  d.beams = 2;
  CHECK(writes(m, 1, &d, "37")); /* ln .36 / 2 = -.51, ln .17 / 3 = -.59 */
  d.length_penalty = TFP_LENGTH_PENALTY_OFF;
  CHECK(writes(m, 1, &d, "37"));
  d.length_penalty = -1;
  CHECK(writes(m, 1, &d, "37"));
  d.length_penalty = 2;
  CHECK(writes(m, 1, &d, "257")); /* / 4 = -.255, / 9 = -.197 */
  d.max_new = 6; /* running 2-4-6 at -2.53 / 9 = -.28 does not beat the second, 2-4-end, -.236 */
  CHECK(writes(m, 1, &d, "257"));
  d.early_stopping = TFP_STOP_NEVER; /* at length 6 it could: -2.53 / 36; 6-6-6-end: -4.72 / 36 */
  CHECK(writes(m, 1, &d, "246667"));
  d.early_stopping = TFP_STOP_WHEN_FULL;
  CHECK(writes(m, 1, &d, "257"));
  /* from 4: end .6, or 6 .4 and on; the first two that end are 7 and 6-7 */
  d.max_new = 4;
  CHECK(writes(m, 4, &d, "67"));
  d.early_stopping = TFP_STOP_BY_SCORE;
  CHECK(writes(m, 4, &d, "6667"));
  d.min_new = 4, d.max_new = 5; /* four new tokens, then an end: score / 25 */
  CHECK(writes(m, 4, &d, "66667"));
  d.min_new = 0, d.max_new = 3, d.length_penalty = 0;
  d.forced_bos.at = &five, d.forced_bos.n = 1; /* the text has one token: 5 comes, at no cost */
  CHECK(writes(m, 1, &d, "57"));
  d.forced_bos.n = 0, d.forced_eos.at = &six, d.forced_eos.n = 1;
  d.suppress.at = &three, d.suppress.n = 1; /* the last token costs nothing: 2-4 was the best */
  CHECK(writes(m, 1, &d, "246"));
  d.forced_eos.n = d.suppress.n = 0, d.begin_suppress.at = &three, d.begin_suppress.n = 1;
  CHECK(writes(m, 1, &d, "257"));
  bad.at = words, bad.n = 2, d.bad_words = &bad, d.n_bad_words = 1;
  CHECK(writes(m, 1, &d, "247"));
  d.max_new = 1, d.forced_eos.n = 1; /* 6 is the only token, and it may not come */
  d.suppress.at = &six, d.suppress.n = 1;
  CHECK(writes(m, 1, &d, ""));
  OK(ctx);
  tfp_destroy(ctx);
}
/* Log-probabilities are what a penalty punishes in beam search, logits without it. */
static void penalties_by_hand(void) {
  tfp_ctx *ctx = context();
  tfp_model *m = toy(ctx);
  tfp_gen_desc d;
  int32_t out[4];
  const int32_t text[2] = {4, 1}, after_pad[2] = {0, 7}, none = -1;
  memset(&d, 0, sizeof d);
  d.max_new = 4, d.end_id = -1;
  CHECK(writes(m, 6, &d, "7000"));
  d.suppress.at = &text[0], d.suppress.n = 0;
  d.no_repeat_ngram = 1, d.end_id = 0;
  CHECK(writes(m, 6, &d, "7")); /* 6 was there */
  d.no_repeat_ngram = 0, d.repetition_penalty = 0.5; /* ln .45 / 2 beats ln .55: both are below 0 */
  CHECK(writes(m, 6, &d, "6666"));
  d.repetition_penalty = 0, d.encoder_repetition_penalty = 2; /* turned round */
  CHECK(writes(m, 6, &d, "6666"));
  d.encoder_repetition_penalty = 0, d.encoder_no_repeat_ngram = 1;
  CHECK(writes(m, 6, &d, "7"));
  CHECK(tfp_generate(m, text, 2, &d, out, 4) == 3 && out[0] == 2 && out[1] == 5 && out[2] == 7);
  d.encoder_no_repeat_ngram = 0, d.repetition_penalty = 30, d.end_id = -1;
  CHECK(tfp_generate(m, after_pad, 2, &d, out, 1) == 1 && out[0] == 0); /* hidden: was not there */
  d.pad.at = &none, d.pad.n = 1;
  CHECK(tfp_generate(m, after_pad, 2, &d, out, 1) == 1 && out[0] == 1);
  OK(ctx);
  tfp_destroy(ctx);
}

/* ---- beam search of random models against a slow one without a cache ---- */

typedef struct beam { int32_t text[40]; double score; } beam;
/* Two beams, no processors, everything from whole texts; out: new tokens. Returns how many. */
static int64_t slow_beams(tfp_model *m, int64_t steps, int32_t *out) {
  beam run[2], next[4], best;
  float x[VOCAB];
  int64_t n = begin(m, run[0].text), start = n, k, c, made = 0;
  int32_t v;
  double ended = -1e9;
  memcpy(&run[1], &run[0], sizeof run[0]);
  run[0].score = 0, run[1].score = -1e9, best.score = -1e9;
  for (k = 0; k < steps; k++, n++) {
    int filled = 0, b, kept = 0;
    for (b = 0; b < 2; b++) {
      double sum = 0;
      last_logits(m, run[b].text, n, x);
      for (v = 0; v < VOCAB; v++) sum += exp((double)x[v]);
      for (v = 0; v < VOCAB; v++) {
        const double s = run[b].score + (double)x[v] - log(sum);
        for (c = filled; c > 0 && s > next[c - 1].score; c--)
          if (c < 4) next[c] = next[c - 1];
        if (c == 4) continue;
        memcpy(&next[c], &run[b], sizeof next[c]);
        next[c].score = s, next[c].text[n] = v;
        if (filled < 4) filled++;
      }
    }
    for (c = 0; c < 4; c++) {
      const int hit = next[c].text[n] == m->config.eos || k + 1 == steps;
      const double s = next[c].score / (double)(k + 1);
      if (hit && c < 2 && s > ended) ended = s, best = next[c], made = k + 1;
      if (!hit && kept < 2) run[kept++] = next[c];
    }
  }
  memcpy(out, best.text + start, (size_t)made * sizeof *out);
  return made;
}
static void beams_of_random_models(void) {
  int w;
  for (w = 0; w < 4; w++) {
    tfp_ctx *ctx = context();
    tfp_model *m = model_of(ctx, writers[w]);
    tfp_gen_desc d;
    int32_t out[20], slow[20];
    int64_t n, k;
    memset(&d, 0, sizeof d);
    d.beams = 2, d.max_new = 9, d.early_stopping = TFP_STOP_NEVER;
    n = tfp_generate(m, prompt, 6, &d, out, 20);
    OK(ctx);
    k = slow_beams(m, 9, slow);
    CHECK(n == k && !memcmp(out, slow, (size_t)n * sizeof *out));
    tfp_destroy(ctx);
  }
}

/* ---- several prompts ---- */

static void batches_as_single_texts(void) {
  /* row 1 has three pads in front, row 2 one inside; 0 is the pad token and no end token */
  static const int32_t ids[18] = {7, 9, 30, 31, 12, 2, 0, 0, 0, 44, 5, 17, 21, 8, 0, 33, 6, 50};
  static const int64_t beams[2] = {1, 3};
  int w, k, given;
  for (w = 0; w < 4; w++)
    for (k = 0; k < 2; k++)
      for (given = 0; given < 2; given++) {
        tfp_ctx *ctx = context();
        tfp_model *m = model_of(ctx, writers[w]);
        tfp_gen_desc d;
        int32_t all[36], one[12], mask[18];
        int64_t counts[3], n, most = 0, row, i;
        memset(&d, 0, sizeof d);
        d.max_new = 11, d.beams = beams[k], d.no_repeat_ngram = 2, d.repetition_penalty = 1.2;
        tfp_generate(m, ids, 6, &d, one, 12);
        d.end_id = one[4]; /* so that some row ends before the others */
        for (i = 0; i < 18; i++) mask[i] = ids[i] != 0;
        n = tfp_generate_batch(m, ids, given ? mask : NULL, 3, 6, &d, all, 12, counts);
        OK(ctx);
        for (row = 0; row < 3; row++) {
          const int64_t made = tfp_generate_batch(m, ids + 6 * row, given ? mask + 6 * row : NULL,
                                                  1, 6, &d, one, 12, NULL);
          CHECK(made == counts[row] && !memcmp(all + 12 * row, one, (size_t)made * sizeof *one));
          for (i = made; i < 12; i++) CHECK(all[12 * row + i] == (d.beams > 1 ? d.end_id : 0));
          if (made > most) most = made;
        }
        CHECK(n == most);
        tfp_destroy(ctx);
      }
}
/* Rows that outgrow the positions go on with their second half, padding or not. */
static void batches_outgrow_positions(void) {
  static const int32_t ids[12] = {7, 9, 30, 31, 12, 2, 0, 0, 0, 44, 5, 17};
  tfp_ctx *ctx = context();
  tfp_model *m = model_of(ctx, "gpt2-tiny");
  tfp_gen_desc d;
  int32_t all[2 * 90], one[90];
  memset(&d, 0, sizeof d);
  d.max_new = 90, d.end_id = -1;
  CHECK(tfp_generate_batch(m, ids, NULL, 2, 6, &d, all, 90, NULL) == 90);
  CHECK(tfp_generate(m, ids, 6, &d, one, 90) == 90 && !memcmp(one, all, sizeof one));
  /* row 1 slides when its neighbour does, three tokens before it must */
  CHECK(tfp_generate(m, ids + 6, 6, &d, one, 27) == 27 &&
        !memcmp(one, all + 90, 27 * sizeof *one));
  OK(ctx);
  tfp_destroy(ctx);
}
/* Hidden tokens in front of a decoder's prompt change nothing but what processors see. */
static void padding_is_not_read(void) {
  static const int32_t padded[10] = {0, 0, 0, 0, 7, 9, 30, 31, 12, 2};
  int w;
  for (w = 0; w < 2; w++) {
    tfp_ctx *ctx = context();
    tfp_model *m = model_of(ctx, writers[w]);
    tfp_gen_desc d;
    int32_t a[20], b[20], mask[10] = {0, 0, 0, 0, 1, 1, 1, 1, 1, 1};
    memset(&d, 0, sizeof d);
    d.end_id = -1, d.max_new = 20;
    CHECK(tfp_generate(m, prompt, 6, &d, a, 20) == 20);
    CHECK(tfp_generate(m, padded, 10, &d, b, 20) == 20 && !memcmp(a, b, sizeof a));
    CHECK(tfp_generate_batch(m, padded, mask, 1, 10, &d, b, 20, NULL) == 20);
    CHECK(!memcmp(a, b, sizeof a));
    memset(mask, 0, sizeof mask);
    CHECK(tfp_generate_batch(m, padded, mask, 1, 10, &d, b, 20, NULL) == -1);
    FAILS(ctx, TFP_ERR_ARG, "hidden");
    tfp_destroy(ctx);
  }
}

/* A hidden token at the end is what the next one follows, at position 0; new ones begin at 1. */
static void hidden_at_the_end(void) {
  tfp_ctx *ctx = context();
  tfp_model *m = model_of(ctx, "gpt2-tiny");
  int32_t text[12] = {0}, out[8];
  const int32_t mask[12] = {1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  const int32_t positions[12] = {0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8};
  float logits[VOCAB];
  tfp_gen_desc d;
  tfp_batch b;
  tfp_output o;
  int i, k;
  memset(&d, 0, sizeof d);
  memset(&b, 0, sizeof b);
  d.end_id = -1, d.max_new = 8;
  b.B = 1, b.ids = text, b.mask = mask, b.positions = positions;
  for (k = 0; k < 12; k++) {
    for (i = 0; i < 3; i++) text[i] = 1 + (17 * k + 5 * i) % 60;
    text[3] = 0;
    CHECK(tfp_generate(m, text, 4, &d, out, 8) == 8);
    for (i = 0; i < 8; i++) {
      b.T = 4 + i;
      tfp_step_reset(ctx);
      tfp_forward(m, &b, TFP_LAST_LOGITS, NULL, &o);
      OK(ctx);
      tfp_read(ctx, o.logits, logits, VOCAB);
      text[4 + i] = first_largest(logits);
      CHECK(out[i] == text[4 + i]);
    }
  }
  tfp_destroy(ctx);
}

/* ---- memory ---- */

/* A dry run counts what a run takes, and less memory is an error, not a crash. */
static void memory_of_beams(void) {
  int w, dry;
  for (w = 0; w < 4; w++) {
    int64_t peak[2], bytes, step;
    tfp_gen_desc d;
    int32_t out[12];
    tfp_desc desc;
    memset(&d, 0, sizeof d);
    memset(&desc, 0, sizeof desc);
    d.beams = 4, d.max_new = 12, d.end_id = -1;
    desc.threads = 1;
    for (dry = 0; dry < 2; dry++) {
      tfp_ctx *ctx;
      desc.dry_run = dry;
      ctx = tfp_create(&desc);
      CHECK(tfp_generate(model_of(ctx, writers[w]), prompt, 6, &d, out, 12) == 12);
      OK(ctx);
      peak[dry] = tfp_memory(ctx).peak;
      tfp_destroy(ctx);
    }
    CHECK(peak[0] == peak[1]);
    desc.dry_run = 0;
    step = peak[0] / 6400 * 64;
    for (bytes = peak[0] - 40 * step; bytes <= peak[0]; bytes += step) {
      tfp_ctx *ctx;
      int64_t n;
      desc.block = malloc((size_t)bytes + 64), desc.block_bytes = (size_t)bytes;
      ctx = tfp_create(&desc);
      n = tfp_generate(model_of(ctx, writers[w]), prompt, 6, &d, out, 12);
      CHECK(n == 12 ? bytes == peak[0] : tfp_error(ctx) == TFP_ERR_NOMEM);
      free(desc.block);
    }
    desc.block = NULL;
  }
}

/* ---- properties ---- */

static void constraints_hold(void) {
  static const int64_t beams[2] = {1, 4};
  int w, k;
  for (w = 0; w < 4; w++)
    for (k = 0; k < 2; k++) {
      tfp_ctx *ctx = context();
      tfp_model *m = model_of(ctx, writers[w]);
      tfp_gen_desc d;
      int32_t text[64], out[30], end;
      int64_t n = begin(m, text), made, i, j, size;
      memset(&d, 0, sizeof d);
      d.beams = beams[k], d.end_id = -1, d.max_new = 25;
      CHECK(tfp_generate(m, prompt, 6, &d, out, 30) == 25);
      end = out[2];
      for (size = 1; size < 4; size++) { /* no n tokens in a row come twice */
        d.no_repeat_ngram = size;
        made = tfp_generate(m, prompt, 6, &d, out, 30);
        CHECK(made == 25);
        memcpy(text + n, out, (size_t)made * sizeof *out);
        for (i = 0; i + size <= n + made; i++)
          for (j = i + 1; j + size <= n + made; j++)
            CHECK(j + size <= n || memcmp(text + i, text + j, (size_t)size * sizeof *text));
      }
      d.no_repeat_ngram = 0, d.ends.at = &end, d.ends.n = 1, d.min_new = 7, d.max_new = 12;
      made = tfp_generate(m, prompt, 6, &d, out, 30);
      CHECK(made >= 8 && made <= 12);
      for (i = 0; i + 1 < made; i++) CHECK(out[i] != end);
      d.min_new = 0, d.min_length = n + 9;
      made = tfp_generate(m, prompt, 6, &d, out, 30);
      CHECK(made >= 10 && made <= 12);
      d.max_new = 0, d.max_length = n + 11, d.forced_eos.at = &end, d.forced_eos.n = 1;
      made = tfp_generate(m, prompt, 6, &d, out, 30);
      CHECK(made >= 10 && made <= 11 && out[made - 1] == end);
      OK(ctx);
      d.max_length = n;
      CHECK(tfp_generate(m, prompt, 6, &d, out, 30) == -1);
      FAILS(ctx, TFP_ERR_ARG, "max_length");
      tfp_destroy(ctx);
    }
}
static void several_ends(void) {
  tfp_ctx *ctx = context();
  tfp_model *m = model_of(ctx, "t5-tiny");
  tfp_gen_desc d;
  int32_t all[20], out[20], ends[3] = {-1, -1, 60};
  int64_t made;
  memset(&d, 0, sizeof d);
  d.end_id = -1, d.temperature = 1, d.max_new = 20, d.seed = 3;
  CHECK(tfp_generate(m, prompt, 6, &d, all, 20) == 20);
  ends[0] = all[9], ends[1] = all[5], d.ends.at = ends, d.ends.n = 3;
  made = tfp_generate(m, prompt, 6, &d, out, 20);
  CHECK(made >= 1 && made <= 6 && !memcmp(all, out, (size_t)made * sizeof *out));
  CHECK(made > 0 && (out[made - 1] == ends[0] || out[made - 1] == ends[1]));
  OK(ctx);
  tfp_destroy(ctx);
}
/* Drawn beams: a function of the seed; with one likely token after another, that text. */
static void drawn_beams(void) {
  tfp_ctx *ctx = context();
  tfp_model *m = model_of(ctx, "bloom-tiny");
  tfp_gen_desc d;
  int32_t a[12], b[12];
  int64_t n, k;
  memset(&d, 0, sizeof d);
  d.beams = 3, d.temperature = 1, d.max_new = 12, d.seed = 1, d.top_k = 20, d.top_p = 0.9;
  n = tfp_generate(m, prompt, 6, &d, a, 12);
  k = tfp_generate(m, prompt, 6, &d, b, 12);
  CHECK(n > 0 && n == k && !memcmp(a, b, (size_t)n * sizeof *a));
  for (d.seed = 2; d.seed < 40; d.seed++) {
    k = tfp_generate(m, prompt, 6, &d, b, 12);
    if (n != k || memcmp(a, b, (size_t)n * sizeof *a)) break;
  }
  CHECK(d.seed < 40);
  OK(ctx);
  m = toy(ctx);
  memset(&d, 0, sizeof d);
  d.beams = 2, d.temperature = 0.01, d.max_new = 5;
  CHECK(writes(m, 3, &d, "7"));
  OK(ctx);
  tfp_destroy(ctx);
}
static void beams_speak_at_the_end(void) {
  tfp_ctx *ctx = context();
  tfp_model *m = model_of(ctx, "gpt2-tiny");
  tfp_gen_desc d;
  listener l;
  int32_t out[20];
  memset(&d, 0, sizeof d);
  memset(&l, 0, sizeof l);
  d.beams = 3, d.end_id = -1, d.on_token = listen, d.user = &l;
  CHECK(tfp_generate(m, prompt, 6, &d, out, 20) == 20 && l.calls == 20);
  CHECK(!memcmp(l.heard, out, sizeof out));
  memset(&l, 0, sizeof l);
  l.stop_after = 4;
  CHECK(tfp_generate(m, prompt, 6, &d, out, 20) == 4 && l.calls == 4);
  OK(ctx);
  tfp_destroy(ctx);
}

/* ---- the cache ---- */

/* Rows read different texts, change places in several ways at once, and read on. */
static void cache_rows_change_places(void) {
  static const int64_t parents[3][6] = {
    {1, 2, 0, 3, 3, 4}, {5, 5, 5, 5, 5, 5}, {1, 0, 3, 2, 2, 5}}; /* circles, chains, copies */
  int w, k;
  for (w = 0; w < 2; w++)
    for (k = 0; k < 3; k++) {
      tfp_ctx *ctx = context();
      tfp_model *m = model_of(ctx, writers[w]);
      tfp_cache *cache = tfp_cache_create(m, 6, 8, 0);
      int32_t ids[24], mask[24], text[5], next[6] = {4, 8, 15, 16, 23, 42};
      static float got[6 * VOCAB], want[VOCAB];
      tfp_batch b;
      tfp_output o;
      int i;
      memset(&b, 0, sizeof b);
      for (i = 0; i < 24; i++) ids[i] = (i * 7 + i / 4) % VOCAB, mask[i] = 1;
      b.B = 6, b.T = 4, b.ids = ids, b.mask = mask;
      tfp_forward(m, &b, TFP_LAST_LOGITS, cache, &o);
      tfp_cache_reorder(cache, parents[k]);
      b.T = 1, b.ids = next, b.mask = NULL;
      tfp_forward(m, &b, TFP_LAST_LOGITS, cache, &o);
      OK(ctx);
      tfp_read(ctx, o.logits, got, 6 * VOCAB);
      for (i = 0; i < 6; i++) {
        double far = 0;
        int v;
        memcpy(text, ids + 4 * parents[k][i], 4 * sizeof *text);
        text[4] = next[i];
        last_logits(m, text, 5, want);
        for (v = 0; v < VOCAB; v++) far = fmax(far, fabs(want[v] - got[i * VOCAB + v]));
        CHECK(far < 1e-4);
      }
      tfp_destroy(ctx);
    }
}
static void cache_refuses(void) {
  static const int64_t none[4] = {0, 1, 2, 4}, other[4] = {0, 1, 1, 3};
  tfp_ctx *ctx = context();
  tfp_model *m = model_of(ctx, "t5-tiny");
  tfp_cache *cache = tfp_cache_create(m, 4, 8, 6);
  tfp_cache_reorder(cache, none);
  FAILS(ctx, TFP_ERR_ARG, "as row 4");
  tfp_cache_narrow(cache, 5);
  FAILS(ctx, TFP_ERR_ARG, "5 rows of 4");
  tfp_cache_narrow(cache, 2);
  tfp_cache_repeat(cache, 3);
  FAILS(ctx, TFP_ERR_ARG, "2 rows 3 times");
  CHECK(tfp_cache_repeat(cache, 2) == TFP_OK);
  tfp_cache_reorder(cache, other); /* row 2 reads the other input */
  FAILS(ctx, TFP_ERR_ARG, "row 2");
  tfp_destroy(ctx);
}

/* ---- generation_config.json ---- */

static void write_text(tfp_ctx *ctx, const char *path, const char *text) {
  tfp_write_file(ctx, path, text, (int64_t)strlen(text));
  OK(ctx);
}
static void generation_config_is_read(void) {
  static const char full[] =
      "{\"eos_token_id\": [5, 9], \"pad_token_id\": 0, \"bos_token_id\": 3, \"num_beams\": 4,\n"
      " \"length_penalty\": 0.0, \"early_stopping\": \"never\", \"max_length\": 142,\n"
      " \"min_length\": 56, \"no_repeat_ngram_size\": 3, \"forced_bos_token_id\": 0,\n"
      " \"forced_eos_token_id\": 2, \"do_sample\": true, \"temperature\": 0.7, \"top_p\": 0.9,\n"
      " \"bad_words_ids\": [[4], [5, 6]], \"suppress_tokens\": [], \"top_k\": null,\n"
      " \"use_cache\": true, \"transformers_version\": \"5.23.0\", \"typical_p\": 1.0}";
  const char *dir = test_dir();
  char gen[300], conf[300];
  tfp_ctx *ctx = context();
  tfp_config c;
  tfp_gen_desc d;
  snprintf(gen, sizeof gen, "%s/generation_config.json", dir);
  snprintf(conf, sizeof conf, "%s/config.json", dir);
  CHECK(tfp_config_preset("bart-tiny", &c));
  write_text(ctx, gen, full);
  write_text(ctx, conf, "{\"num_beams\": 7, \"eos_token_id\": 8, \"decoder_start_token_id\": 8}");
  tfp_gen_load(ctx, dir, &c, &d);
  OK(ctx);
  CHECK(d.ends.n == 2 && d.ends.at[0] == 5 && d.ends.at[1] == 9 && d.pad.at[0] == 0);
  CHECK(d.beams == 4 && d.length_penalty == TFP_LENGTH_PENALTY_OFF && d.max_length == 142);
  CHECK(d.early_stopping == TFP_STOP_NEVER && d.min_length == 56 && d.no_repeat_ngram == 3);
  CHECK(d.forced_bos.n == 1 && d.forced_bos.at[0] == 0 && d.forced_eos.at[0] == 2);
  CHECK(!d.greedy && d.temperature == 0.7 && d.top_p == 0.9 && d.top_k == 50);
  CHECK(d.n_bad_words == 2 && d.bad_words[1].n == 2 && d.bad_words[1].at[1] == 6);
  CHECK(!d.suppress.n && d.decoder_start.at[0] == 3); /* the token that begins a text */
  tfp_gen_save(ctx, dir, &c, &d);
  tfp_gen_free(ctx, &d);
  CHECK(!d.lists && !d.beams);
  tfp_gen_load(ctx, dir, &c, &d); /* what was saved says the same */
  OK(ctx);
  CHECK(d.ends.n == 2 && d.ends.at[1] == 9 && d.length_penalty == TFP_LENGTH_PENALTY_OFF);
  CHECK(d.early_stopping == TFP_STOP_NEVER && !d.greedy && d.temperature == 0.7 && d.top_k == 50);
  CHECK(d.n_bad_words == 2 && d.forced_bos.n == 1 && d.decoder_start.at[0] == 3);
  tfp_gen_free(ctx, &d);
  remove(gen); /* then config.json has the say */
  tfp_gen_load(ctx, dir, &c, &d);
  OK(ctx);
  CHECK(d.beams == 7 && d.greedy && d.ends.n == 1 && d.ends.at[0] == 8 && d.pad.at[0] == -1);
  CHECK(d.decoder_start.at[0] == 8);
  tfp_gen_save(ctx, dir, &c, NULL); /* the configuration's ids and nothing else */
  tfp_gen_free(ctx, &d);
  tfp_gen_load(ctx, dir, &c, &d);
  OK(ctx);
  CHECK(d.ends.at[0] == c.eos && d.pad.at[0] == c.pad && d.decoder_start.at[0] == c.decoder_start);
  CHECK(!d.beams && d.greedy && !d.max_length);
  tfp_destroy(ctx);
}
static void generation_config_is_refused(void) {
  static const struct { const char *text; tfp_status status; const char *words; } cases[] = {
    {"{\"num_beams\": 2.5}", TFP_ERR_FORMAT, "num_beams"},
    {"{\"num_beams\": -2}", TFP_ERR_FORMAT, "num_beams"},
    {"{\"max_length\": 1e300}", TFP_ERR_FORMAT, "max_length"},
    {"{\"eos_token_id\": [1, \"x\"]}", TFP_ERR_FORMAT, "eos_token_id"},
    {"{\"eos_token_id\": 4294967296}", TFP_ERR_FORMAT, "eos_token_id"},
    {"{\"bad_words_ids\": [1, 2]}", TFP_ERR_FORMAT, "bad_words_ids"},
    {"{\"early_stopping\": \"soon\"}", TFP_ERR_FORMAT, "early_stopping"},
    {"{\"do_sample\": 1}", TFP_ERR_FORMAT, "do_sample"},
    {"{\"top_p\": 1.5}", TFP_ERR_FORMAT, "top_p"},
    {"[1]", TFP_ERR_FORMAT, "not an object"},
    {"{", TFP_ERR_FORMAT, "generation_config.json"},
    {"{\"num_beam_groups\": 2}", TFP_ERR_UNSUPPORTED, "num_beam_groups"},
    {"{\"sequence_bias\": [[[1], 2.0]]}", TFP_ERR_UNSUPPORTED, "sequence_bias"},
    {"{\"do_sample\": true, \"typical_p\": 0.9}", TFP_ERR_UNSUPPORTED, "typical_p"},
    {"{\"typical_p\": 0.9, \"guidance_scale\": 1, \"constraints\": null}", TFP_OK, ""}};
  const char *dir = test_dir();
  char gen[300];
  tfp_ctx *ctx = context();
  tfp_config c;
  size_t i;
  snprintf(gen, sizeof gen, "%s/generation_config.json", dir);
  CHECK(tfp_config_preset("gpt2-tiny", &c));
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    tfp_gen_desc d;
    write_text(ctx, gen, cases[i].text);
    CHECK(tfp_gen_load(ctx, dir, &c, &d) == cases[i].status);
    if (cases[i].status) {
      CHECK(!d.lists);
      FAILS(ctx, cases[i].status, cases[i].words);
    }
  }
  tfp_destroy(ctx);
}

/* ---- the reference's own texts ---- */

static int64_t read_ints(const tfp_json *list, int32_t *out, int64_t max) {
  const tfp_json *v;
  int64_t n = 0;
  for (v = list ? list->child : NULL; v && n < max; v = v->next) out[n++] = (int32_t)v->integer;
  return n;
}
static void texts_of_the_reference(void) {
  static const char *const models[6] = {"gpt2-lm", "bloom-lm", "bloom-lm-6heads",
                                        "t5-relu", "t5-gated", "bart-lm"};
  int k;
  for (k = 0; k < 6; k++) {
    tfp_ctx *ctx = context();
    char name[64], dir[600];
    const char *path;
    tfp_json *root;
    const tfp_json *e;
    tfp_model *m;
    tfp_gen_desc d;
    snprintf(name, sizeof name, "golden/%s/expected.json", models[k]);
    path = test_shared(name);
    if (path) {
      snprintf(dir, sizeof dir, "%.*s", (int)(strlen(path) - strlen("/expected.json")), path);
      root = tfp_json_parse_file(ctx, path);
      m = tfp_model_load(ctx, dir, 0);
      OK(ctx);
      e = tfp_json_get(root, "generations");
      CHECK(e && e->count);
      for (e = e ? e->child : NULL; e && m; e = e->next) {
        int32_t ids[64], want[64], out[64];
        const int64_t n = read_ints(tfp_json_get(e, "input_ids"), ids, 64);
        int64_t all = read_ints(tfp_json_get(e, "ids"), want, 64), made, lead;
        lead = m->config.arch == TFP_SEQ2SEQ ? 1 : n;
        tfp_gen_load(ctx, dir, &m->config, &d);
        d.max_new = tfp_json_get_int(e, "max_new_tokens", 0);
        d.min_new = tfp_json_get_int(e, "min_new_tokens", 0);
        d.beams = tfp_json_get_int(e, "num_beams", 0);
        d.no_repeat_ngram = tfp_json_get_int(e, "no_repeat_ngram_size", 0);
        d.length_penalty = tfp_json_get_number(e, "length_penalty", 0);
        d.repetition_penalty = tfp_json_get_number(e, "repetition_penalty", 0);
        if (tfp_json_get_bool(e, "early_stopping", 0)) d.early_stopping = TFP_STOP_WHEN_FULL;
        made = tfp_generate(m, ids, n, &d, out, 64);
        OK(ctx);
        CHECK(made == all - lead && !memcmp(out, want + lead, (size_t)made * sizeof *out));
        tfp_gen_free(ctx, &d);
      }
      tfp_json_free(root);
    }
    tfp_destroy(ctx);
  }
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
  RUN(filters_as_the_reference);
  RUN(beams_by_hand);
  RUN(penalties_by_hand);
  RUN(beams_of_random_models);
  RUN(batches_as_single_texts);
  RUN(batches_outgrow_positions);
  RUN(padding_is_not_read);
  RUN(hidden_at_the_end);
  RUN(memory_of_beams);
  RUN(constraints_hold);
  RUN(several_ends);
  RUN(drawn_beams);
  RUN(beams_speak_at_the_end);
  RUN(cache_rows_change_places);
  RUN(cache_refuses);
  RUN(generation_config_is_read);
  RUN(generation_config_is_refused);
  RUN(texts_of_the_reference);
  RUN(fill_sorts_probabilities);
}
