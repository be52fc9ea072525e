/* attention.c -- the tiled op against attention spelled out with student ops: values and gradients,
 * all masks and position schemes, at every instruction level; T5's buckets, ALiBi's slopes. */
#include "test.h"

static tfp_ctx *ctx;

enum { BIAS = 1, CAUSAL = 2, MASK = 4, DOCS = 8, SLOPES = 16, CROSS = 32, ROWS = 3, HEADS = 2 };
static int variant;
static int64_t T, S, D;
static tfp_tensor *mask_of_keys, *q_docs, *k_docs;

static tfp_tensor *weigh(tfp_tensor *y) {
  return tfp_sum(ctx, tfp_mul(ctx, y, tfp_random(ctx, y->ndim, y->shape, 1, 77)), TFP_ALL_AXES);
}
static tfp_tensor *heads(tfp_tensor *x, int64_t length) { /* (B,T,H*D) -> (B,H,T,D) */
  static const int order[4] = {0, 2, 1, 3};
  int64_t shape[4];
  shape[0] = ROWS, shape[1] = length, shape[2] = HEADS, shape[3] = D;
  return tfp_permute(ctx, tfp_reshape(ctx, x, 4, shape), order);
}
static tfp_tensor *fused(tfp_tensor **l) {
  tfp_attention_desc d;
  memset(&d, 0, sizeof d);
  d.causal = !!(variant & CAUSAL);
  if (variant & BIAS) d.bias = tfp_relative_bias(ctx, l[3], T, S, !d.causal, 32);
  if (variant & MASK) d.mask = mask_of_keys;
  if (variant & DOCS) d.q_doc = q_docs, d.k_doc = k_docs;
  if (variant & SLOPES) d.slopes = tfp_alibi_slopes(ctx, HEADS);
  return weigh(tfp_attention(ctx, l[0], l[1], l[2], HEADS, &d));
}
/* Scores, the matrix of what is hidden, softmax, weighted sum. */
static tfp_tensor *spelled(tfp_tensor **l) {
  static const int order[4] = {0, 2, 1, 3};
  tfp_tensor *s, *o, *hidden, *q = heads(l[0], T), *k = heads(l[1], S), *v = heads(l[2], S);
  int32_t *h = (int32_t *)malloc((size_t)(ROWS * HEADS * T * S) * sizeof *h);
  float *slope = (float *)calloc((size_t)(ROWS * HEADS * S), sizeof *slope);
  int64_t shape[4], b, i, j, head, r;
  static const int64_t buckets = 32;
  shape[0] = ROWS, shape[1] = HEADS, shape[2] = T, shape[3] = S;
  s = tfp_scale(ctx, tfp_matmul(ctx, q, tfp_transpose(ctx, k, -1, -2)), 1 / sqrt((double)D));
  if (variant & BIAS) { /* rows of the table by distance: (T,S,H) -> (H,T,S) */
    static const int turn[3] = {2, 0, 1};
    int32_t *id = (int32_t *)malloc((size_t)(T * S) * sizeof *id);
    for (i = 0; i < T; i++)
      for (j = 0; j < S; j++)
        id[i * S + j] =
            (int32_t)tfp_relative_bucket(j - (i + S - T), !(variant & CAUSAL), buckets, 32);
    s = tfp_add(
        ctx, s,
        tfp_permute(ctx, tfp_embedding(ctx, l[3], tfp_from_ints(ctx, 2, shape + 2, id), -1), turn));
    free(id);
  }
  for (b = 0; b < ROWS; b++)
    for (head = 0; head < HEADS; head++) {
      int64_t seen = 0;
      for (j = 0; j < S; j++) {
        slope[(b * HEADS + head) * S + j] =
            (float)(pow(2, -8.0 * (double)(head + 1) / HEADS) * (double)seen);
        seen += !(variant & MASK) || ((int32_t *)mask_of_keys->data)[b * S + j];
      }
      for (i = 0; i < T; i++)
        for (j = 0; j < S; j++) {
          r = ((b * HEADS + head) * T + i) * S + j;
          h[r] = (variant & CAUSAL) && j > i + S - T;
          if (variant & MASK) h[r] |= !((int32_t *)mask_of_keys->data)[b * S + j];
          if (variant & DOCS)
            h[r] |= ((int32_t *)q_docs->data)[b * T + i] != ((int32_t *)k_docs->data)[b * S + j];
        }
    }
  hidden = tfp_from_ints(ctx, 4, shape, h);
  if (variant & SLOPES) {
    shape[2] = 1;
    s = tfp_add(ctx, s, tfp_from_floats(ctx, 4, shape, slope));
  }
  free(h);
  free(slope);
  o = tfp_matmul(ctx, tfp_softmax(ctx, tfp_masked_fill(ctx, s, hidden, -INFINITY)), v);
  shape[0] = ROWS, shape[1] = T, shape[2] = HEADS * D;
  return weigh(tfp_reshape(ctx, tfp_permute(ctx, o, order), 3, shape));
}

static void compare(void) {
  tfp_tensor *l[4];
  double value[2] = {0, 0};
  int64_t shape[3], i, n[4];
  float *kept[4], *got;
  char what[160];
  int pass, k, leaves = variant & BIAS ? 4 : 3;
  int32_t m[ROWS * 256], d[2][ROWS * 256];
  for (i = 0; i < ROWS * S; i++) m[i] = i % S < 3 || (i * 7 + i / S) % 5 > 1;
  for (i = 0; i < S && S > 4; i++)
    m[S + i] = i > 1; /* with causality the first queries see nothing */
  for (i = 0; i < ROWS * T; i++) d[0][i] = (int32_t)((i % T) * 3 / T + i / T);
  for (i = 0; i < ROWS * S; i++) d[1][i] = (int32_t)((i % S) * 3 / S + i / S);
  shape[0] = ROWS, shape[1] = S;
  mask_of_keys = tfp_from_ints(ctx, 2, shape, m), k_docs = tfp_from_ints(ctx, 2, shape, d[1]);
  shape[1] = T;
  q_docs = tfp_from_ints(ctx, 2, shape, d[0]);
  shape[2] = HEADS * D;
  l[0] = tfp_leaf(ctx, tfp_random(ctx, 3, shape, 1, 1));
  shape[1] = S;
  l[1] = tfp_leaf(ctx, tfp_random(ctx, 3, shape, 1, 2)),
  l[2] = tfp_leaf(ctx, tfp_random(ctx, 3, shape, 1, 3));
  l[3] = tfp_leaf(ctx, tfp_random(ctx, 2, (const int64_t[2]){32, HEADS}, 1, 4));
  for (pass = 0; pass < 2 && !tfp_error(ctx); pass++) {
    tfp_tensor *loss;
    for (k = 0; k < leaves; k++) l[k]->fresh = l[k]->grad != NULL;
    loss = pass ? spelled(l) : fused(l);
    value[pass] = tfp_item(loss);
    tfp_backward(ctx, loss);
    for (k = 0; k < leaves && !tfp_error(ctx); k++) {
      double apart = 0, top = 1e-2;
      n[k] = tfp_numel(l[k]);
      got = (float *)malloc((size_t)n[k] * sizeof *got);
      tfp_read(ctx, tfp_grad(l[k]), got, n[k]);
      if (!pass) {
        kept[k] = got;
        continue;
      }
      for (i = 0; i < n[k]; i++) {
        top = fmax(top, fabs(got[i]));
        if (!(fabs(got[i] - kept[k][i]) <= apart)) apart = fabs(got[i] - kept[k][i]);
      }
      snprintf(what, sizeof what, "variant %d, T %d, S %d, D %d: gradient %d apart by %.3g of %.3g",
               variant, (int)T, (int)S, (int)D, k, apart, top);
      test_check(apart <= 3e-5 * top, what, __FILE__, __LINE__);
      free(got);
      free(kept[k]);
    }
  }
  snprintf(what, sizeof what, "variant %d, T %d, S %d, D %d: %.7g and %.7g", variant, (int)T,
           (int)S, (int)D, value[0], value[1]);
  test_check(fabs(value[0] - value[1]) <= 3e-5 * fmax(10, fabs(value[1])), what, __FILE__,
             __LINE__);
  OK(ctx);
  tfp_step_reset(ctx);
}
static void every_variant(void) {
  static const int variants[] = {0,
                                 CAUSAL,
                                 MASK,
                                 DOCS,
                                 BIAS,
                                 SLOPES,
                                 CAUSAL | MASK,
                                 CAUSAL | DOCS,
                                 CAUSAL | BIAS,
                                 CAUSAL | SLOPES,
                                 CROSS,
                                 CROSS | MASK,
                                 CROSS | CAUSAL,
                                 CROSS | BIAS,
                                 MASK | SLOPES,
                                 MASK | DOCS | BIAS | CAUSAL,
                                 CROSS | CAUSAL | SLOPES};
  static const int64_t sizes[4][2] = {{5, 4}, {33, 8}, {64, 16}, {150, 20}};
  int i, z;
  for (z = 0; z < 4; z++)
    for (i = 0; i < (int)(sizeof variants / sizeof *variants); i++) {
      variant = variants[i];
      S = sizes[z][0], D = sizes[z][1], T = variant & CROSS ? S / 2 + 1 : S;
      compare();
    }
}
static void at_level(tfp_level level) {
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.level = level;
  ctx = tfp_create(&d);
  if (tfp_error(ctx) == TFP_ERR_UNSUPPORTED) test_skip(tfp_error_message(ctx));
  else every_variant();
  tfp_destroy(ctx);
}
static void attention_plain(void) { at_level(TFP_LEVEL_PLAIN); }
static void attention_avx2(void) { at_level(TFP_LEVEL_AVX2); }
static void attention_avx512(void) { at_level(TFP_LEVEL_AVX512); }

static void buckets_of_the_reference(void) {
  static const int to[14] = {8, 12, 16, 23, 32, 46, 64, 91},
                   from = 8; /* encoder: first distance of each bucket from 8 on */
  static const int decoder[16] = {16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113};
  int64_t n;
  int i;
  for (n = 0; n < 8; n++)
    CHECK(tfp_relative_bucket(-n, 1, 32, 128) == n && tfp_relative_bucket(-n, 0, 32, 128) == n);
  for (i = 0; i < 8; i++) {
    CHECK(tfp_relative_bucket(-to[i], 1, 32, 128) == from + i);
    CHECK(tfp_relative_bucket(-(to[i] - 1), 1, 32, 128) == from + i - 1);
    CHECK(tfp_relative_bucket(to[i], 1, 32, 128) == from + i + 16);
  }
  for (i = 0; i < 16; i++) {
    CHECK(tfp_relative_bucket(-decoder[i], 0, 32, 128) == 16 + i);
    CHECK(tfp_relative_bucket(-(decoder[i] - 1), 0, 32, 128) == 15 + i);
  }
  CHECK(tfp_relative_bucket(-100000, 1, 32, 128) == 15 && tfp_relative_bucket(5, 0, 32, 128) == 0);
}
static void slopes_of_the_reference(void) {
  static const double want12[12] = {-1, -2, -3, -4, -5, -6, -7, -8, -0.5, -1.5, -2.5, -3.5};
  const float *s;
  int i;
  ctx = tfp_create(NULL);
  s = (const float *)tfp_alibi_slopes(ctx, 16)->data;
  for (i = 0; i < 16; i++) NEAR(log2(s[i]), -0.5 * (i + 1), 1e-5);
  s = (const float *)tfp_alibi_slopes(ctx, 12)->data;
  for (i = 0; i < 12; i++) NEAR(log2(s[i]), want12[i], 1e-5);
  tfp_destroy(ctx);
}
static void a_hidden_row_gives_zeros(void) {
  static const int64_t shape[3] = {1, 4, 8}, two[2] = {1, 4};
  static const int32_t none[4] = {0, 0, 0, 0};
  tfp_attention_desc d;
  tfp_tensor *q, *o;
  int i;
  memset(&d, 0, sizeof d);
  ctx = tfp_create(NULL);
  d.mask = tfp_from_ints(ctx, 2, two, none);
  q = tfp_leaf(ctx, tfp_random(ctx, 3, shape, 1, 1));
  o = tfp_attention(ctx, q, q, q, 2, &d);
  for (i = 0; i < 32; i++) CHECK(((float *)o->data)[i] == 0);
  tfp_backward(ctx, weigh(o));
  for (i = 0; i < 32; i++) CHECK(((float *)tfp_grad(q)->data)[i] == 0);
  ((float *)q->data)[3] = NAN;
  CHECK(isnan(((float *)tfp_attention(ctx, q, q, q, 2, NULL)->data)[0]));
  tfp_destroy(ctx);
}

void test_attention(void) {
  RUN(attention_plain);
  RUN(attention_avx2);
  RUN(attention_avx512);
  RUN(buckets_of_the_reference);
  RUN(slopes_of_the_reference);
  RUN(a_hidden_row_gives_zeros);
}
