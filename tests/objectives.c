/* objectives.c -- the worked examples of >>objectives.h, the statistics of the noise, and the
 * loader. */
#include "test.h"

enum { MASK = 3, VOCAB = 1000, ROOM = 2048 };

#define SAME(got, n, ...)                                                                          \
  do {                                                                                             \
    static const int32_t want_[] = {__VA_ARGS__};                                                  \
    same_ids(got, n, want_, (int64_t)(sizeof want_ / sizeof *want_), __LINE__);                    \
  } while (0)
static void same_ids(const int32_t *got, int64_t n, const int32_t *want, int64_t wanted, int line) {
  char text[1024];
  int64_t i;
  int at = snprintf(text, sizeof text, "%d ids and not %d:", (int)n, (int)wanted);
  for (i = 0; i < n && i < 40; i++)
    at += snprintf(text + at, sizeof text - (size_t)at, " %d", (int)got[i]);
  test_check(n == wanted && !memcmp(got, want, (size_t)n * sizeof *got), text, __FILE__, line);
}
#define N -100

/* ---- the examples of the header ---- */

static void objectives_examples(void) {
  static const int32_t mlm[] = {1, 20, 21, 22, 23, 24, 25, 26, 27, 2},
                       text[] = {10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
  static const int32_t clm[] = {5, 6, 9, 7, 8},
                       bart[] = {0, 10, 11, 4, 12, 13, 14, 4, 15, 16, 4, 2},
                       shift[] = {7, 8, -100, 1};
  int32_t a[64], b[64], c[64], d[64], work[256];
  uint8_t special[40];
  tfp_mlm_options m;
  tfp_span_options s;
  tfp_denoise_options n;
  int64_t na, nb;
  memset(special, 0, sizeof special);
  special[1] = special[2] = special[3] = 1;
  memset(&m, 0, sizeof m);
  m.share = 0.3, m.mask_id = 3, m.vocab = 40, m.special = special;
  CHECK(tfp_mlm(mlm, 10, &m, 7, 3, a, b, work) == 3);
  SAME(a, 10, 1, 20, 21, 22, 37, 3, 25, 3, 27, 2);
  SAME(b, 10, N, N, N, N, 23, 24, N, 26, N, N);
  CHECK(tfp_clm(clm, 4, 9, 1, a, b, c, d) == 3);
  SAME(a, 4, 5, 6, 9, 7);
  SAME(b, 4, 6, 9, N, 8);
  SAME(c, 4, 0, 1, 2, 0);
  SAME(d, 4, 0, 0, 0, 1);
  memset(&s, 0, sizeof s);
  s.density = 0.3, s.mean_length = 1.5, s.sentinel0 = 99, s.end_id = 1;
  CHECK(tfp_span_corrupt(text, 10, &s, 7, 2, a, &na, b, &nb, work) == 2);
  SAME(a, na, 10, 11, 12, 13, 14, 15, 99, 18, 98, 1);
  SAME(b, nb, 99, 16, 17, 98, 19, 1);
  memset(&n, 0, sizeof n);
  n.mask_id = 3, n.stop_id = 4, n.vocab = 40, n.share = 0.3;
  na = tfp_denoise(bart, 12, &n, 7, 8, a, work);
  SAME(a, na, 0, 15, 16, 4, 3, 14, 4, 3, 11, 4, 2);
  tfp_shift_right(shift, 4, 0, 0, a);
  SAME(a, 4, 0, 7, 8, 0);
}

/* ---- masked language modelling ---- */

typedef struct counts {
  int64_t tokens, asked, masked, kept, drawn, bad;
} counts;
/* Many examples of n tokens between two specials; what became of them. */
static counts count_mlm(const tfp_mlm_options *o, int64_t n, int64_t examples) {
  static int32_t tokens[ROOM], ids[ROOM], labels[ROOM], work[ROOM];
  counts c;
  int64_t k, i;
  memset(&c, 0, sizeof c);
  for (k = 0; k < examples; k++) {
    int64_t asked = 0, said;
    for (i = 0; i < n; i++)
      tokens[i] = 10 + (int32_t)tfp_random_below(4, 5, (uint64_t)(k * n + i), VOCAB - 10);
    tokens[0] = 1, tokens[n - 1] = 2;
    said = tfp_mlm(tokens, n, o, 11, (uint64_t)k, ids, labels, work);
    for (i = 0; i < n; i++) {
      if (labels[i] == TFP_IGNORE_INDEX) {
        c.bad += ids[i] != tokens[i]; /* what is not asked for stays */
        continue;
      }
      asked++;
      c.bad += labels[i] != tokens[i];
      if (ids[i] == MASK)
        c.masked++;
      else if (ids[i] == tokens[i])
        c.kept++;
      else
        c.drawn++, c.bad += ids[i] < 10; /* never a special */
      if (o->count != TFP_MLM_DITHERED) c.bad += i == 0 || i == n - 1;
    }
    c.bad += asked != said;
    c.asked += asked;
    c.tokens += n;
  }
  return c;
}
static void mlm_options(tfp_mlm_options *o, uint8_t *special, tfp_mlm_count count) {
  memset(o, 0, sizeof *o);
  memset(special, 0, VOCAB);
  memset(special, 1, 10);
  o->mask_id = MASK, o->vocab = VOCAB, o->special = special, o->count = count;
}
static void objectives_mlm_statistics(void) {
  static uint8_t special[VOCAB];
  tfp_mlm_options o;
  counts c;
  int count;
  for (count = 0; count < 3; count++) { /* bounds are five deviations wide */
    double asked;
    mlm_options(&o, special, (tfp_mlm_count)count);
    c = count_mlm(&o, 128, 2000);
    asked = (double)c.asked;
    CHECK(c.bad == 0);
    if (count == TFP_MLM_EXACT) CHECK(c.asked == 2000 * 19); /* 0.15 * 128 = 19.2 */
    if (count == TFP_MLM_EACH)
      NEAR(asked / (2000 * 126), 0.15, 5 * sqrt(0.15 * 0.85 / (2000 * 126)));
    if (count == TFP_MLM_DITHERED) NEAR(asked / 2000, 19.2, 5 * sqrt(0.2 * 0.8 / 2000) / 19.2);
    NEAR((double)c.masked / asked, 0.8, 5 * sqrt(0.16 / asked));
    NEAR((double)c.kept / asked, 0.1,
         5 * sqrt(0.09 / asked) + 0.0002); /* a random token may be the same */
    NEAR((double)c.drawn / asked, 0.1, 5 * sqrt(0.09 / asked) + 0.0002);
  }
  mlm_options(&o, special, TFP_MLM_EXACT);
  o.keep = -1; /* all masked */
  c = count_mlm(&o, 64, 200);
  CHECK(c.bad == 0 && c.masked == c.asked && c.asked == 200 * 10);
  o.keep = 0.5, o.random = 0.5; /* none */
  c = count_mlm(&o, 64, 200);
  CHECK(c.bad == 0 && c.masked == 0 && c.kept > 800 && c.drawn > 800);
}
static void objectives_mlm_counts(void) {
  /* max(1, round(0.15 n)), halves to even: 0.15 * 10 = 1.5 and 0.15 * 30 = 4.5 among them */
  static const int cases[][2] = {{3, 1},  {4, 1},  {10, 2}, {12, 2},  {16, 2},
                                 {17, 3}, {30, 4}, {50, 8}, {512, 77}};
  static uint8_t special[VOCAB];
  tfp_mlm_options o;
  int32_t tokens[3] = {1, 2, 1}, ids[3], labels[3], work[3];
  size_t i;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[64];
    counts c;
    mlm_options(&o, special, TFP_MLM_EXACT);
    c = count_mlm(&o, cases[i][0], 20);
    snprintf(text, sizeof text, "%d tokens: %d of 20 examples", cases[i][0], (int)c.asked);
    test_check(c.asked == 20 * cases[i][1] && !c.bad, text, __FILE__, __LINE__);
  }
  mlm_options(&o, special, TFP_MLM_EXACT);
  CHECK(tfp_mlm(tokens, 3, &o, 1, 1, ids, labels, work) == 0); /* nothing but specials */
  CHECK(ids[0] == 1 && labels[1] == TFP_IGNORE_INDEX);
  o.special = NULL;
  CHECK(tfp_mlm(tokens, 3, &o, 1, 1, tokens, labels, work) == 1); /* in place, no specials known */
}
static void objectives_mlm_every_place(void) {
  static uint8_t special[VOCAB];
  static int32_t tokens[16], ids[16], labels[16], work[16];
  tfp_mlm_options o;
  int64_t hits[16], k;
  int i;
  memset(hits, 0, sizeof hits);
  for (i = 0; i < 16; i++) tokens[i] = 100 + i;
  mlm_options(&o, special, TFP_MLM_EXACT);
  for (k = 0; k < 8000; k++) {
    tfp_mlm(tokens, 16, &o, 2, (uint64_t)k, ids, labels, work);
    for (i = 0; i < 16; i++) hits[i] += labels[i] != TFP_IGNORE_INDEX;
  }
  for (i = 0; i < 16; i++) NEAR((double)hits[i], 1000, 0.16); /* two of sixteen; 5 deviations */
}

/* ---- span corruption ---- */

static void objectives_span_lengths(void) {
  static const int want[][3] = {
      {64, 70, 14}, {128, 141, 29}, {256, 284, 58}, {512, 568, 114}, {1024, 1137, 229}};
  tfp_span_options o;
  int64_t targets, n, length;
  int i;
  memset(&o, 0, sizeof o);
  o.sentinel0 = 1100, o.end_id = 1;
  for (i = 0; i < 5; i++) {
    n = tfp_span_lengths(want[i][0], &o, &targets);
    CHECK(n == want[i][1] && targets == want[i][2]);
  }
  for (length = 4; length < 200;
       length++) { /* the lengths are those that come out, and no text more fits */
    static int32_t text[512], in[512], out[512], work[2048];
    int64_t a, b;
    n = tfp_span_lengths(length, &o, &targets);
    tfp_span_corrupt(text, n, &o, 1, 1, in, &a, out, &b, work);
    CHECK(a <= length && b == targets);
    tfp_span_corrupt(text, n + 1, &o, 1, 1, in, &a, out, &b, work);
    CHECK(a > length);
  }
  o.density = 0.5; /* targets are not longer than inputs, beyond the shortest */
  for (length = 6; length < 200; length++) {
    n = tfp_span_lengths(length, &o, &targets);
    CHECK(targets <= length);
  }
}
/* The text that inputs and targets were made of: each sentinel stands for what follows it there. */
static int64_t rebuild(const int32_t *in, int64_t n_in, const int32_t *out, int64_t n_out,
                       int32_t first, int64_t spans, int32_t *text) {
  int64_t i, j, n = 0;
  for (i = 0; i < n_in; i++) {
    if (in[i] > first || in[i] <= first - spans) {
      text[n++] = in[i];
      continue;
    }
    for (j = 0; j < n_out && out[j] != in[i]; j++) continue;
    for (j++; j < n_out && (out[j] > first || out[j] <= first - spans); j++) text[n++] = out[j];
  }
  return n;
}
static void objectives_span_properties(void) {
  static int32_t text[ROOM], in[ROOM], out[ROOM], back[ROOM], work[4 * ROOM];
  static const double densities[] = {0.15, 0.5, 0.9, 0.01}, means[] = {3, 1, 10};
  uint64_t k;
  for (k = 0; k < 600; k++) {
    const int64_t n = 2 + tfp_random_below(8, 1, k, k % 3 ? 30 : 600);
    tfp_span_options o;
    int64_t a, b, spans, i, hidden = 0, again, x, y;
    memset(&o, 0, sizeof o);
    o.density = densities[k % 4], o.mean_length = means[k / 4 % 3], o.sentinel0 = 9000,
    o.end_id = -1;
    for (i = 0; i < n; i++) text[i] = 10 + (int32_t)i;
    spans = tfp_span_corrupt(text, n, &o, 5, k, in, &a, out, &b, work);
    CHECK(spans >= 1 && a <= n + 2 && b <= n + 2);
    CHECK(in[0] == text[0] &&
          in[a - 1] == 9000 - (int32_t)(spans - 1)); /* begins kept, ends hidden */
    CHECK(out[0] == 9000 && out[b - 1] == text[n - 1]);
    CHECK(rebuild(in, a, out, b, 9000, spans, back) == n &&
          !memcmp(text, back, (size_t)n * sizeof *text));
    for (i = 0, x = 0; i < b; i++) {
      if (out[i] <= 9000 && out[i] > 9000 - (int32_t)spans)
        CHECK(out[i] == 9000 - (int32_t)x++); /* in order */
      else
        hidden++;
    }
    CHECK(x == spans && a == n - hidden + spans && b == hidden + spans);
    NEAR((double)hidden, fmax(1, fmin((double)n * o.density, (double)n - 1)), n > 3 ? 0.51 : 1);
    o.end_id = 1, o.sentinel_step = 1; /* the same noise in the other spelling */
    again = tfp_span_corrupt(text, n, &o, 5, k, back, &x, out, &y, work);
    CHECK(again == spans && x == a + 1 && y == b + 1 && back[x - 1] == 1 &&
          back[x - 2] == 9000 + (int32_t)spans - 1);
  }
}
static void objectives_span_is_random(void) {
  static int32_t text[100], in[128], out[128], work[512];
  tfp_span_options o;
  int64_t place[100], a, b, i;
  uint64_t k;
  memset(place, 0, sizeof place);
  memset(&o, 0, sizeof o);
  o.sentinel0 = 9000, o.end_id = -1;
  for (i = 0; i < 100; i++) text[i] = (int32_t)i;
  for (k = 0; k < 4000; k++) {
    tfp_span_corrupt(text, 100, &o, 3, k, in, &a, out, &b, work);
    for (i = 0; i < b; i++)
      if (out[i] < 9000 - 100) place[out[i]]++;
  }
  CHECK(place[0] == 0 && place[99] == 4000);
  for (i = 30; i < 70; i++)
    NEAR((double)place[i], 540, 0.2); /* 15 of 100, fewer where it always begins kept */
}

/* ---- denoising ---- */

/* n tokens: <s> 0, words from 10 on, full stop 4 at every fifth place, </s> 2. */
static void sentences(int32_t *text, int64_t n) {
  int64_t i;
  for (i = 0; i < n; i++) text[i] = i % 5 == 4 ? 4 : 10 + (int32_t)i;
  text[0] = 0, text[n - 1] = 2;
}
static void objectives_denoise_permutes_sentences(void) {
  static int32_t text[201], out[201], work[7 * 201];
  tfp_denoise_options o;
  int64_t moved = 0, k;
  memset(&o, 0, sizeof o);
  o.share = 1e-9, o.mask_id = MASK, o.stop_id = 4, o.vocab = VOCAB; /* a single token is hidden */
  sentences(text, 201);
  for (k = 0; k < 50; k++) {
    int64_t i, masks = 0, breaks = 0, sum = 0;
    char seen[300];
    memset(seen, 0, sizeof seen);
    CHECK(tfp_denoise(text, 201, &o, 1, (uint64_t)k, out, work) == 201);
    CHECK(out[0] == 0 && out[200] == 2);
    for (i = 1; i < 200; i++) {
      masks += out[i] == MASK;
      if (out[i] >= 10) CHECK(!seen[out[i]]++); /* each word once */
      sum += out[i] >= 10;
      if (out[i] >= 10 && out[i - 1] >= 10)
        breaks += out[i] != out[i - 1] + 1; /* inside a sentence nothing moves */
      moved += out[i] != text[i] && out[i] != MASK;
    }
    CHECK(masks == 1 && breaks == 0 && (sum == 159 || sum == 158));
  }
  CHECK(moved > 50 * 150);
  o.permute = -1;
  for (k = 0; k < 20; k++) {
    int64_t i, same = 0;
    tfp_denoise(text, 201, &o, 1, (uint64_t)k, out, work);
    for (i = 0; i < 201; i++) same += out[i] == text[i];
    CHECK(same == 200);
  }
  o.permute = 0, o.stop_id = -1; /* one sentence: nothing to permute */
  tfp_denoise(text, 201, &o, 1, 1, out, work);
  CHECK(out[1] == text[1] || out[1] == MASK);
}
static void objectives_denoise_spans(void) {
  static int32_t text[1002], out[1002], work[7 * 1002];
  double lengths[16] = {0}, total = 0, sum = 0, hidden_sum = 0;
  tfp_denoise_options o;
  int64_t i, k;
  memset(&o, 0, sizeof o);
  o.mask_id = MASK, o.stop_id = -1, o.vocab = 5000, o.permute = -1,
  o.share = 0.05; /* few spans: they seldom meet */
  for (i = 0; i < 1002; i++) text[i] = 10 + (int32_t)i;
  text[0] = 0, text[1001] = 2;
  for (k = 0; k < 400; k++) {
    int64_t n = tfp_denoise(text, 1002, &o, 3, (uint64_t)k, out, work), hidden = 1000, last = 9,
            gap;
    CHECK(n <= 1002 && out[0] == 0 && out[n - 1] == 2);
    for (i = 1; i < n - 1; i++) {
      if (out[i] == MASK) continue;
      gap = out[i] - last - 1;
      if (last >= 10 && i > 1 && out[i - 1] == MASK && i > 2 &&
          out[i - 2] != MASK) { /* one mask between two kept */
        CHECK(gap >= 0);
        if (gap > 0 && gap < 16) lengths[gap]++, total++, sum += (double)gap;
      } else if (out[i - 1] != MASK && i > 1) {
        CHECK(gap == 0);
      }
      CHECK(out[i] > last);
      last = out[i];
      hidden--;
    }
    CHECK(hidden <= 50); /* ceil(0.05 * 1000) covers, less where spans meet */
    hidden_sum += (double)hidden;
  }
  CHECK(hidden_sum / 400 > 45);
  NEAR(sum / total, 3.0 / (1 - exp(-3.0)),
       0.08); /* Poisson(3) without its zeros; the last one is cut */
  NEAR(lengths[1] / total, 0.157, 0.03);
  NEAR(lengths[3] / total, 0.236, 0.03);
  NEAR(lengths[6] / total, 0.053, 0.02);
}
static void objectives_denoise_bounds(void) {
  static int32_t text[130], out[130], work[7 * 130];
  static const double shares[] = {0.3, 0.9, 0.05};
  tfp_denoise_options o;
  uint64_t k;
  int64_t drawn = 0, masks = 0;
  for (k = 0; k < 900; k++) {
    const int64_t n = 1 + tfp_random_below(6, 1, k, 129);
    int64_t m, i;
    memset(&o, 0, sizeof o);
    o.mask_id = MASK, o.stop_id = 4, o.vocab = VOCAB, o.share = shares[k % 3],
    o.random = k % 2 ? 0.5 : 0;
    sentences(text, n);
    m = tfp_denoise(text, n, &o, 9, k, out, work);
    CHECK(m <= n && m >= (n < 3 ? n : 3));
    CHECK(out[0] == text[0] && out[m - 1] == text[n - 1]); /* the ends stay */
    for (i = 1; i < m - 1; i++) {
      masks += out[i] == MASK;
      drawn += out[i] >= 10 + n; /* no word of the text */
      CHECK(out[i] >= 1 && out[i] < VOCAB);
    }
  }
  CHECK(masks > 1000 && drawn > masks / 5 && drawn < masks);
}

/* ---- the loader ---- */

enum { TEXT = 5000, T = 32, ROWS = 4 };
static tfp_dataset *text_of(tfp_ctx *ctx) {
  static int32_t t[TEXT];
  int i;
  for (i = 0; i < TEXT; i++)
    t[i] = i % 11 == 10 ? 4 : 10 + (int32_t)tfp_random_below(2, 3, (uint64_t)i, 800);
  return tfp_dataset_from_tokens(ctx, t, TEXT, VOCAB, -1, 0.1);
}
static void loader_desc(tfp_loader_desc *d, tfp_dataset *data, tfp_objective objective,
                        uint8_t *special) {
  memset(d, 0, sizeof *d);
  memset(&d->special, 0xFF, sizeof d->special);
  d->data = data, d->objective = objective, d->T = T, d->rows = ROWS, d->seed = 21;
  d->special.pad = 0;
  mlm_options(&d->mlm, special, TFP_MLM_EXACT);
  if (objective == TFP_MLM) d->special.cls = 1, d->special.sep = 2, d->special.mask = MASK;
  if (objective == TFP_SPAN) {
    d->special.eos = 1, d->special.sentinel0 = VOCAB - 1, d->special.sentinels = 100,
    d->special.sentinel_step = -1;
    d->span.sentinel0 = VOCAB - 1, d->span.end_id = 1;
  }
  if (objective == TFP_DENOISE) {
    d->special.bos = 1, d->special.eos = 2, d->special.mask = MASK, d->decoder_start = 2;
    d->denoise.mask_id = MASK, d->denoise.stop_id = 4, d->denoise.vocab = VOCAB;
  }
}
static void check_mlm_row(const tfp_batch *b, int64_t r) {
  int64_t i, asked = 0;
  CHECK(b->ids[r * T] == 1 && b->ids[r * T + T - 1] == 2);
  for (i = 0; i < T; i++) asked += b->labels[r * T + i] != TFP_IGNORE_INDEX;
  CHECK(asked == 5); /* round(0.15 * 32) */
}
static void check_decoder_row(const tfp_batch *b, int64_t r, int32_t start, int32_t pad) {
  int64_t i;
  CHECK(b->dec_ids[r * b->S] == start);
  for (i = 1; i < b->S; i++) {
    const int32_t label = b->labels[r * b->S + i - 1];
    CHECK(b->dec_ids[r * b->S + i] == (label == TFP_IGNORE_INDEX ? pad : label));
  }
}
static void objectives_loader_batches(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static uint8_t special[VOCAB];
  tfp_dataset *data = text_of(ctx);
  int objective;
  for (objective = 0; objective < 4; objective++) {
    tfp_loader_desc d;
    tfp_loader *l;
    tfp_batch b;
    int64_t t, s, raw, r, i;
    loader_desc(&d, data, (tfp_objective)objective, special);
    l = tfp_loader_create(ctx, &d);
    OK(ctx);
    raw = tfp_loader_lengths(l, &t, &s);
    CHECK(t == T);
    if (objective == TFP_CLM) CHECK(raw == T && s == 0);
    if (objective == TFP_MLM) CHECK(raw == T - 2 && s == 0);
    if (objective == TFP_SPAN) CHECK(raw > T && s > 0 && s < T);
    if (objective == TFP_DENOISE) CHECK(raw == T - 2 && s == T);
    CHECK(tfp_loader_train(l, 0, ROWS, &b) == TFP_OK);
    CHECK(b.B == ROWS && b.T == T && b.S == s && b.n_labels == ROWS * (s ? s : T));
    CHECK((b.dec_ids != NULL) == (s > 0));
    for (r = 0; r < ROWS; r++) {
      if (objective == TFP_MLM) check_mlm_row(&b, r);
      if (s) check_decoder_row(&b, r, d.decoder_start, 0);
      for (i = 0; objective == TFP_CLM && i + 1 < T; i++)
        CHECK(b.labels[r * T + i] == b.ids[r * T + i + 1]);
      if (objective == TFP_SPAN)
        CHECK(b.ids[r * T + T - 1] == 1 && b.labels[r * s] == VOCAB - 1 &&
              b.labels[(r + 1) * s - 1] == 1);
      if (objective == TFP_DENOISE) {
        CHECK(b.mask && b.ids[r * T] == 1 && b.labels[r * s] == 1 && b.labels[r * s + s - 1] == 2);
        for (i = 0; i < T; i++)
          CHECK(b.mask[r * T + i] == (b.ids[r * T + i] != 0)); /* pads are hidden */
      }
    }
    if (objective != TFP_DENOISE) CHECK(b.mask == NULL);
    CHECK(tfp_batch_scored(&b) > 0);
    CHECK(tfp_loader_train(l, 0, ROWS + 1, &b) == TFP_ERR_ARG);
    FAILS(ctx, TFP_ERR_ARG, "5 rows; it was made for up to 4");
    CHECK(tfp_loader_train(l, 0, 0, &b) == TFP_ERR_ARG);
    FAILS(ctx, TFP_ERR_ARG, "0 rows");
    tfp_loader_free(l);
  }
  tfp_loader_free(NULL);
  tfp_destroy(ctx);
}
/* A row is a function of its number: however the rows are cut into batches, whoever made it before.
 */
static void objectives_loader_rows_by_number(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static uint8_t special[VOCAB];
  static int32_t all[3][64 * 2 * T];
  tfp_dataset *data = text_of(ctx);
  int objective, way;
  for (objective = 0; objective < 4; objective++) {
    tfp_loader_desc d;
    tfp_loader *l;
    loader_desc(&d, data, (tfp_objective)objective, special);
    for (way = 0; way < 3; way++) { /* by 4, by 1, backwards by 3 */
      const int64_t by = way == 0 ? 4 : way == 1 ? 1 : 3;
      int64_t k, r;
      l = tfp_loader_create(ctx, &d);
      for (k = 0; k < 48; k += by) {
        const int64_t first = way == 2 ? 45 - k : k;
        tfp_batch b;
        CHECK(tfp_loader_source(l, (uint64_t)(100 + first), by, &b) == TFP_OK);
        for (r = 0; r < by; r++) {
          int32_t *to = all[way] + (first + r) * 2 * T;
          const int64_t s = b.S ? b.S : T;
          memset(to, 0, 2 * T * sizeof *to);
          memcpy(to, b.ids + r * T, T * sizeof *to);
          memcpy(to + T, b.labels + r * s, (size_t)s * sizeof *to);
        }
      }
      tfp_loader_free(l);
    }
    CHECK(!memcmp(all[0], all[1], 48 * 2 * T * sizeof **all) &&
          !memcmp(all[0], all[2], 48 * 2 * T * sizeof **all));
    CHECK(memcmp(all[0], all[0] + 2 * T, 2 * T * sizeof **all) != 0); /* rows differ */
  }
  OK(ctx);
  tfp_destroy(ctx);
}
static void objectives_loader_epochs_differ(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static uint8_t special[VOCAB];
  tfp_loader_desc d;
  tfp_loader *l;
  tfp_batch b;
  int32_t first[T];
  int64_t windows, t, s, raw;
  loader_desc(&d, text_of(ctx), TFP_MLM, special);
  l = tfp_loader_create(ctx, &d);
  raw = tfp_loader_lengths(l, &t, &s);
  windows = tfp_dataset_windows(d.data, raw);
  CHECK(tfp_loader_train(l, 0, 1, &b) == TFP_OK);
  memcpy(first, b.ids, sizeof first);
  CHECK(tfp_loader_train(l, (uint64_t)windows, 1, &b) == TFP_OK &&
        memcmp(first, b.ids, sizeof first));
  d.seed++;
  tfp_loader_free(l);
  l = tfp_loader_create(ctx, &d);
  CHECK(tfp_loader_train(l, 0, 1, &b) == TFP_OK && memcmp(first, b.ids, sizeof first));
  tfp_destroy(ctx);
}
static void objectives_loader_documents_apart(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static uint8_t special[VOCAB];
  tfp_loader_desc d;
  tfp_loader *l;
  tfp_batch b;
  int64_t i, ends = 0;
  loader_desc(&d, text_of(ctx), TFP_CLM, special);
  d.separate = 1, d.special.eos = 4;
  l = tfp_loader_create(ctx, &d);
  CHECK(tfp_loader_train(l, 0, 2, &b) == TFP_OK && b.docs && b.positions);
  for (i = 0; i < 2 * T; i++) {
    const int begins = i % T == 0 || b.ids[i - 1] == 4;
    CHECK((b.ids[i] == 4) == (b.labels[i] == TFP_IGNORE_INDEX));
    CHECK(b.positions[i] == (begins ? 0 : b.positions[i - 1] + 1));
    CHECK(b.docs[i] == (i % T == 0 ? 0 : b.docs[i - 1] + begins));
    ends += b.ids[i] == 4;
  }
  CHECK(ends >= 2);
  tfp_destroy(ctx);
}
static void objectives_loader_evaluation(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static uint8_t special[VOCAB];
  tfp_dataset *data = text_of(ctx);
  int objective;
  for (objective = 0; objective < 4; objective++) {
    tfp_loader_desc d;
    tfp_loader *l;
    tfp_batch b;
    int64_t window = 0, n, t, s, raw, rows = 0;
    int32_t first[T];
    loader_desc(&d, data, (tfp_objective)objective, special);
    l = tfp_loader_create(ctx, &d);
    raw = tfp_loader_lengths(l, &t, &s);
    while ((n = tfp_loader_eval(l, TFP_VALIDATION, window, ROWS, &b)) > 0) {
      if (!window) memcpy(first, b.ids, sizeof first);
      window += n, rows += n;
    }
    CHECK(rows ==
          (500 - (objective == TFP_CLM) + raw - 1) / raw); /* 500 tokens, the last window padded */
    CHECK(tfp_loader_eval(l, TFP_VALIDATION, 0, 1, &b) == 1 &&
          !memcmp(first, b.ids, sizeof first)); /* the same noise again */
    CHECK(tfp_loader_eval(l, TFP_VALIDATION, rows - 1, ROWS, &b) == 1);
    if (objective != TFP_CLM)
      CHECK(b.mask && b.mask[0] == 1 && b.mask[T - 1] == 0 && b.ids[T - 1] == 0);
    CHECK(b.labels[b.n_labels - 1] == TFP_IGNORE_INDEX);
    CHECK(tfp_loader_eval(l, TFP_VALIDATION, -1, 1, &b) == -1);
    FAILS(ctx, TFP_ERR_ARG, "window -1");
  }
  OK(ctx);
  tfp_destroy(ctx);
}
static void objectives_loader_errors(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static uint8_t special[VOCAB];
  tfp_dataset *data = text_of(ctx);
  tfp_loader_desc d;
  tfp_batch b;
  int k;
  static const char *const words[] = {"length 3",
                                      "0 rows",
                                      "wants a mask token; this one is -1",
                                      "sentinels; the tokenizer has 1",
                                      "wants start, end and mask tokens",
                                      "wants start, end and mask tokens",
                                      "objective 9 is unknown",
                                      "length 32"};
  for (k = 0; k < 8; k++) {
    loader_desc(&d, data, k == 3 ? TFP_SPAN : k == 4 || k == 5 ? TFP_DENOISE : TFP_MLM, special);
    if (k == 0) d.T = 3;
    if (k == 1) d.rows = 0;
    if (k == 2) d.mlm.mask_id = -1;
    if (k == 3) d.special.sentinels = 1;
    if (k == 4) d.denoise.mask_id = -1;
    if (k == 5) d.special.bos = -1;
    if (k == 6) d.objective = (tfp_objective)9;
    if (k == 7) d.data = NULL;
    CHECK(!tfp_loader_create(ctx, &d));
    FAILS(ctx, TFP_ERR_ARG, words[k]);
  }
  loader_desc(&d, data, TFP_MLM, special);
  d.T = 4502; /* 4500 tokens of text and two specials: one token too many */
  CHECK(!tfp_loader_create(ctx, &d));
  FAILS(ctx, TFP_ERR_DATA, "has 4500 tokens; one example of length 4502 wants 4501");
  CHECK(tfp_loader_train(NULL, 0, 1, &b) == TFP_ERR_ARG &&
        tfp_loader_eval(NULL, TFP_TRAIN, 0, 1, &b) == -1);
  tfp_destroy(ctx);
}

void test_objectives(void) {
  RUN(objectives_examples);
  RUN(objectives_mlm_statistics);
  RUN(objectives_mlm_counts);
  RUN(objectives_mlm_every_place);
  RUN(objectives_span_lengths);
  RUN(objectives_span_properties);
  RUN(objectives_span_is_random);
  RUN(objectives_denoise_permutes_sentences);
  RUN(objectives_denoise_spans);
  RUN(objectives_denoise_bounds);
  RUN(objectives_loader_batches);
  RUN(objectives_loader_rows_by_number);
  RUN(objectives_loader_epochs_differ);
  RUN(objectives_loader_documents_apart);
  RUN(objectives_loader_evaluation);
  RUN(objectives_loader_errors);
}
