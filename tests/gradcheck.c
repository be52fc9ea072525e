/* gradcheck.c -- every op and a tiny model of each kind against central differences, in double.
 *
 * The list of ops is the header's own: an op without a function here does not compile. */
#include "test.h"

#define LIMIT 1e-6

static tfp_ctx *ctx;

/* ---- inputs ---- */

enum { MAX_LEAVES = 8 };
typedef struct op_case {
  tfp_tensor *leaf[MAX_LEAVES];
  int leaves;
  tfp_tensor *ints[3];
  tfp_tensor *weights; /* makes a scalar of a result that every element reaches differently */
  int variant;
} op_case;

static tfp_tensor *numbers(int ndim, int64_t a, int64_t b, int64_t c, double std, uint64_t stream) {
  int64_t shape[3];
  shape[0] = a, shape[1] = b, shape[2] = c;
  return tfp_leaf(ctx, tfp_random(ctx, ndim, shape, std, stream));
}
static tfp_tensor *positive(int64_t a, int64_t b, uint64_t stream) { /* in (0.5, 2.5) or so */
  tfp_tensor *t = numbers(2, a, b, 0, 0.5, stream);
  return tfp_leaf(ctx, tfp_add(ctx, tfp_full(ctx, 0, NULL, 0.6), tfp_mul(ctx, t, t)));
}
static tfp_tensor *integers(int ndim, int64_t a, int64_t b, const int32_t *values) {
  int64_t shape[2];
  shape[0] = a, shape[1] = b;
  return tfp_from_ints(ctx, ndim, shape, values);
}
/* sum(y * w) with fixed random weights of y's shape */
static tfp_tensor *scalar(tfp_tensor *y, uint64_t stream) {
  if (!y) return NULL;
  return tfp_sum(ctx, tfp_mul(ctx, y, tfp_random(ctx, y->ndim, y->shape, 1, 1000 + stream)),
                 TFP_ALL_AXES);
}

static void gradient(const char *name, tfp_tensor *(*fn)(tfp_ctx *, void *), op_case *c) {
  double worst = 1;
  char what[96];
  tfp_gradcheck(ctx, fn, c, c->leaf, c->leaves, 1e-5, &worst);
  snprintf(what, sizeof what, "%s: relative error %.3g, %s", name, worst, tfp_error_message(ctx));
  test_check(!tfp_error(ctx) && worst < LIMIT, what, __FILE__, __LINE__);
  tfp_clear_error(ctx);
  tfp_step_reset(ctx);
}
static void start(op_case *c) {
  tfp_step_reset(ctx);
  memset(c, 0, sizeof *c);
}

/* ---- one function an op ---- */

#define BINARY(name)                                                                     \
  static tfp_tensor *f_##name(tfp_ctx *x, void *user) {                                  \
    op_case *c = (op_case *)user;                                                        \
    return scalar(tfp_##name(x, c->leaf[0], c->leaf[1]), 1);                             \
  }                                                                                      \
  static void grad_##name(void) {                                                        \
    static const int64_t shapes[4][2] = {{3, 4}, {1, 4}, {3, 1}, {1, 1}};                \
    op_case c;                                                                           \
    int i;                                                                               \
    for (i = 0; i < 4; i++) {                                                            \
      start(&c);                                                                         \
      c.leaf[0] = positive(3, 4, 1), c.leaf[1] = positive(shapes[i][0], shapes[i][1], 2); \
      c.leaves = 2;                                                                      \
      gradient(#name, f_##name, &c);                                                     \
      c.leaf[0] = positive(shapes[i][0], shapes[i][1], 3), c.leaf[1] = positive(3, 4, 4); \
      gradient(#name, f_##name, &c);                                                     \
    }                                                                                    \
  }
BINARY(add)
BINARY(sub) BINARY(mul) BINARY(div)

#define UNARY(name, make)                                                                          \
  static tfp_tensor *f_##name(tfp_ctx *x, void *user) {                                            \
    return scalar(tfp_##name(x, ((op_case *)user)->leaf[0]), 1);                                   \
  }                                                                                                \
  static void grad_##name(void) {                                                                  \
    op_case c;                                                                                     \
    start(&c);                                                                                     \
    c.leaf[0] = make, c.leaves = 1;                                                                \
    gradient(#name, f_##name, &c);                                                                 \
  }
    UNARY(neg, numbers(2, 3, 5, 0, 1, 1)) UNARY(exp, numbers(2, 3, 5, 0, 1, 1))
        UNARY(log, positive(3, 5, 1)) UNARY(sqrt, positive(3, 5, 1))
            UNARY(tanh, numbers(2, 3, 5, 0, 1, 1)) UNARY(sigmoid, numbers(2, 3, 5, 0, 1, 1))
                UNARY(relu, positive(3, 5, 1)) UNARY(silu, numbers(2, 3, 5, 0, 1, 1))
                    UNARY(gelu, numbers(2, 3, 5, 0, 1, 1))
                        UNARY(gelu_new, numbers(2, 3, 5, 0, 1, 1))
                            UNARY(softmax, numbers(2, 3, 5, 0, 1, 1))
                                UNARY(log_softmax, numbers(2, 3, 5, 0, 1, 1))

                                    static tfp_tensor *f_scale(tfp_ctx *x, void *user) {
  return scalar(tfp_scale(x, ((op_case *)user)->leaf[0], -1.7), 1);
}
static void grad_scale(void) {
  op_case c;
  start(&c);
  c.leaf[0] = numbers(2, 3, 5, 0, 1, 1), c.leaves = 1;
  gradient("scale", f_scale, &c);
}
static tfp_tensor *f_pow(tfp_ctx *x, void *user) {
  static const double powers[4] = {2, 3, 0.5, -1.5};
  op_case *c = (op_case *)user;
  return scalar(tfp_pow(x, c->leaf[0], powers[c->variant]), 1);
}
static void grad_pow(void) {
  op_case c;
  int i;
  for (i = 0; i < 4; i++) {
    start(&c);
    c.leaf[0] = positive(3, 5, 1), c.leaves = 1, c.variant = i;
    gradient("pow", f_pow, &c);
  }
}

static tfp_tensor *f_matmul(tfp_ctx *x, void *user) {
  op_case *c = (op_case *)user;
  tfp_tensor *a = c->leaf[0], *b = c->leaf[1];
  if (c->variant & 1) a = tfp_transpose(x, a, -1, -2);
  if (c->variant & 2) b = tfp_transpose(x, b, -1, -2);
  return scalar(tfp_matmul(x, a, b), 1);
}
static void grad_matmul(
    void) { /* four transposes; equal batches, one repeated, the other repeated */
  op_case c;
  int i, batch;
  for (i = 0; i < 4; i++)
    for (batch = 0; batch < 4; batch++) {
      const int64_t ba = batch == 2 ? 1 : 2, bb = batch == 1 ? 1 : 2;
      start(&c);
      c.variant = i, c.leaves = 2;
      c.leaf[0] = i & 1 ? numbers(3, ba, 4, 3, 1, 1) : numbers(3, ba, 3, 4, 1, 1);
      if (batch == 3) c.leaf[1] = i & 2 ? numbers(2, 5, 4, 0, 1, 2) : numbers(2, 4, 5, 0, 1, 2);
      else c.leaf[1] = i & 2 ? numbers(3, bb, 5, 4, 1, 2) : numbers(3, bb, 4, 5, 1, 2);
      gradient("matmul", f_matmul, &c);
    }
}

#define REDUCE(name)                                                                   \
  static tfp_tensor *f_##name(tfp_ctx *x, void *user) {                                \
    op_case *c = (op_case *)user;                                                      \
    return scalar(tfp_##name(x, c->leaf[0], c->variant), 1);                           \
  }                                                                                    \
  static void grad_##name(void) {                                                      \
    static const int axes[4] = {0, 1, -1, TFP_ALL_AXES};                               \
    op_case c;                                                                         \
    int i;                                                                             \
    for (i = 0; i < 4; i++) {                                                          \
      start(&c);                                                                       \
      c.leaf[0] = numbers(3, 2, 3, 4, 1, 1), c.leaves = 1, c.variant = axes[i];        \
      gradient(#name, f_##name, &c);                                                   \
    }                                                                                  \
  }
REDUCE(sum)
REDUCE(mean) REDUCE(max)

    static tfp_tensor *f_view(
        tfp_ctx *x, void *user) { /* all views, one after the other, also twice on one base */
  op_case *c = (op_case *)user;
  static const int order[3] = {2, 0, 1};
  int64_t flat[2];
  tfp_tensor *part[2], *a, *b;
  flat[0] = 6, flat[1] = -1;
  a = tfp_permute(x, c->leaf[0], order);
  b = tfp_reshape(x, tfp_slice(x, a, 0, 1, 2), 2, flat);
  tfp_split(x, c->leaf[0], 2, 2, part);
  return tfp_add(x, scalar(tfp_mul(x, b, b), 1),
                 scalar(tfp_mul(x, part[0], tfp_transpose(x, part[1], 0, 0)), 2));
}
static void grad_view(void) {
  op_case c;
  start(&c);
  c.leaf[0] = numbers(3, 2, 3, 4, 1, 1), c.leaves = 1;
  gradient("view", f_view, &c);
}
static tfp_tensor *f_expand(tfp_ctx *x, void *user) {
  static const int64_t shape[3] = {2, 3, 4};
  tfp_tensor *e = tfp_expand(x, ((op_case *)user)->leaf[0], 3, shape);
  return tfp_add(x, scalar(tfp_mul(x, e, e), 1), scalar(tfp_slice(x, e, 2, 1, 2), 2));
}
static void grad_expand(void) {
  op_case c;
  start(&c);
  c.leaf[0] = numbers(2, 3, 1, 0, 1, 1), c.leaves = 1;
  gradient("expand", f_expand, &c);
}
static tfp_tensor *f_contiguous(tfp_ctx *x, void *user) {
  return scalar(tfp_contiguous(x, tfp_transpose(x, ((op_case *)user)->leaf[0], 0, 1)), 1);
}
static void grad_contiguous(void) {
  op_case c;
  start(&c);
  c.leaf[0] = numbers(2, 3, 5, 0, 1, 1), c.leaves = 1;
  gradient("contiguous", f_contiguous, &c);
}
static tfp_tensor *f_concat(tfp_ctx *x, void *user) {
  op_case *c = (op_case *)user;
  return scalar(tfp_concat(x, c->leaf, 3, c->variant), 1);
}
static void grad_concat(void) {
  op_case c;
  int axis;
  for (axis = 0; axis < 2; axis++) {
    start(&c);
    c.leaf[0] = numbers(2, 2, 3, 0, 1, 1),
    c.leaf[1] = axis ? numbers(2, 2, 4, 0, 1, 2) : numbers(2, 4, 3, 0, 1, 2);
    c.leaf[2] = numbers(2, 2, 3, 0, 1, 3), c.leaves = 3, c.variant = axis;
    gradient("concat", f_concat, &c);
  }
}

static tfp_tensor *f_embedding(tfp_ctx *x, void *user) {
  op_case *c = (op_case *)user;
  return scalar(tfp_embedding_sum(x, c->leaves, c->leaf, c->ints, NULL), 1);
}
static void grad_embedding(void) {
  static const int32_t ids[3][6] = {{0, 3, 3, 1, 4, 0}, {0, 1, 2, 0, 1, 2}, {1, 1, 0, 0, 1, 0}};
  static const int64_t rows[3] = {5, 3, 2};
  op_case c;
  int i;
  start(&c);
  for (i = 0; i < 3; i++)
    c.leaf[i] = numbers(2, rows[i], 4, 0, 1, (uint64_t)i), c.ints[i] = integers(2, 2, 3, ids[i]);
  c.leaves = 3;
  gradient("embedding", f_embedding, &c);
}

/* the norms, alone and with a residual whose sum is used as well */
static tfp_tensor *f_norm(tfp_ctx *x, void *user) {
  op_case *c = (op_case *)user;
  const int rms = c->variant & 1;
  tfp_tensor *sum, *y;
  if (c->variant & 2) {
    y = tfp_norm_residual(x, c->leaf[0], c->leaf[1], c->leaf[2], rms ? NULL : c->leaf[3], 1e-3, rms,
                          &sum);
    return tfp_add(x, scalar(y, 1), scalar(sum, 2));
  }
  return scalar(rms ? tfp_rmsnorm(x, c->leaf[0], c->leaf[2], 1e-3)
                    : tfp_layernorm(x, c->leaf[0], c->leaf[2], c->leaf[3], 1e-3), 1);
}
static void norm_case(int variant) {
  op_case c;
  tfp_tensor *keep[4];
  start(&c);
  keep[0] = numbers(2, 3, 5, 0, 1, 1), keep[1] = numbers(2, 3, 5, 0, 1, 2);
  keep[2] = numbers(1, 5, 0, 0, 1, 3), keep[3] = numbers(1, 5, 0, 0, 1, 4);
  memcpy(c.leaf, keep, sizeof keep);
  c.variant = variant, c.leaves = 4;
  gradient(variant & 1 ? "rmsnorm" : "layernorm", f_norm, &c);
}
static void grad_layernorm(void) { norm_case(0), norm_case(2); }
static void grad_rmsnorm(void) { norm_case(1), norm_case(3); }

static tfp_tensor *f_dropout(tfp_ctx *x, void *user) {
  op_case *c = (op_case *)user;
  return scalar(tfp_dropout(x, tfp_mul(x, c->leaf[0], c->leaf[0]), 0.4, 1, 2), 1);
}
static void grad_dropout(void) {
  op_case c;
  start(&c);
  tfp_training(ctx, 1, 3, 5);
  c.leaf[0] = numbers(3, 2, 3, 4, 1, 1), c.leaves = 1;
  gradient("dropout", f_dropout, &c);
  tfp_training(ctx, 0, 0, 0);
}
static tfp_tensor *f_masked_fill(tfp_ctx *x, void *user) {
  op_case *c = (op_case *)user;
  return scalar(tfp_masked_fill(x, c->leaf[0], c->ints[0], -3), 1);
}
static void grad_masked_fill(void) {
  static const int32_t mask[4] = {0, 1, 0, 1};
  op_case c;
  start(&c);
  c.leaf[0] = numbers(2, 3, 4, 0, 1, 1), c.ints[0] = integers(1, 4, 0, mask), c.leaves = 1;
  gradient("masked_fill", f_masked_fill, &c);
}
static const int32_t some_labels[6] = {2, -100, 0, 4, 4, -100};
static tfp_tensor *f_cross_entropy(tfp_ctx *x, void *user) {
  op_case *c = (op_case *)user;
  return tfp_scale(x, tfp_cross_entropy(x, c->leaf[0], c->ints[0], 0.25), 1.5);
}
static void grad_cross_entropy(void) {
  op_case c;
  start(&c);
  c.leaf[0] = numbers(2, 6, 5, 0, 1, 1), c.ints[0] = integers(1, 6, 0, some_labels), c.leaves = 1;
  gradient("cross_entropy", f_cross_entropy, &c);
}
static tfp_tensor *f_linear(tfp_ctx *x, void *user) {
  op_case *c = (op_case *)user;
  return scalar(tfp_linear(x, c->leaf[0], c->leaf[1], c->leaves > 2 ? c->leaf[2] : NULL,
                           (tfp_activation)c->variant),
                1);
}
static void grad_linear(void) {
  op_case c;
  int act, bias;
  for (act = TFP_ACT_NONE; act <= TFP_ACT_TANH; act++)
    for (bias = 0; bias < 2; bias++) {
      start(&c);
      c.leaf[0] = numbers(3, 2, 3, 4, 1, 1), c.leaf[1] = numbers(2, 5, 4, 0, 1, 2),
      c.leaf[2] = numbers(1, 5, 0, 0, 1, 3);
      c.variant = act, c.leaves = 2 + bias;
      gradient("linear", f_linear, &c);
    }
}
static tfp_tensor *f_linear_xent(tfp_ctx *x,
                                 void *user) { /* the same W twice, as with a tied embedding */
  op_case *c = (op_case *)user;
  tfp_tensor *h = tfp_mul(x, c->leaf[0], c->leaf[0]);
  tfp_tensor *first = tfp_linear_xent(x, h, c->leaf[1], c->leaf[2], c->ints[0], 0.25);
  return tfp_add(x, first, tfp_linear_xent(x, c->leaf[0], c->leaf[1], NULL, c->ints[0], 0.5));
}
static void grad_linear_xent(void) {
  op_case c;
  start(&c);
  c.leaf[0] = numbers(2, 6, 3, 0, 1, 1), c.leaf[1] = numbers(2, 5, 3, 0, 1, 2),
  c.leaf[2] = numbers(1, 5, 0, 0, 1, 3);
  c.ints[0] = integers(1, 6, 0, some_labels), c.leaves = 3;
  gradient("linear_xent", f_linear_xent, &c);
}

enum { BIAS = 1, CAUSAL = 2, MASK = 4, DOCS = 8, SLOPES = 16, CROSS = 32, DROP = 64, FUSED = 128 };
static tfp_tensor *f_attention(tfp_ctx *x, void *user) {
  op_case *c = (op_case *)user;
  tfp_attention_desc d;
  tfp_tensor *q = c->leaf[0], *k = c->leaf[1], *v = c->leaf[2], *part[3];
  memset(&d, 0, sizeof d);
  d.causal = !!(c->variant & CAUSAL);
  if (c->variant & BIAS)
    d.bias = tfp_relative_bias(x, c->leaf[3], q->shape[1], k->shape[1], !d.causal, 8);
  if (c->variant & MASK) d.mask = c->ints[0];
  if (c->variant & DOCS) d.q_doc = c->ints[1], d.k_doc = c->ints[2];
  if (c->variant & SLOPES) d.slopes = tfp_alibi_slopes(x, 2);
  if (c->variant & DROP) d.dropout = 0.3, d.layer = 1, d.site = 7;
  if (c->variant & FUSED) {
    tfp_split(x, c->leaf[0], 2, 3, part);
    q = part[0], k = part[1], v = part[2];
  }
  return scalar(tfp_attention(x, q, k, v, 2, &d), 1);
}
static void grad_attention(void) {
  static const int variants[] = {0,
                                 CAUSAL,
                                 MASK,
                                 DOCS,
                                 DOCS | CAUSAL,
                                 BIAS,
                                 BIAS | CAUSAL,
                                 SLOPES | CAUSAL,
                                 SLOPES | MASK,
                                 CROSS,
                                 CROSS | MASK,
                                 CROSS | CAUSAL,
                                 DROP,
                                 DROP | CAUSAL | BIAS,
                                 FUSED,
                                 FUSED | CAUSAL,
                                 MASK | DOCS | BIAS | CAUSAL};
  static const int32_t mask[2][6] = {{1, 0, 1, 1, 0, 1}, {1, 1, 1, 0, 0, 0}},
                       docs[2][6] = {{0, 0, 1, 1, 1, 2}, {3, 3, 3, 3, 4, 4}};
  op_case c;
  int i;
  for (i = 0; i < (int)(sizeof variants / sizeof *variants); i++) {
    const int64_t S = 6, T = variants[i] & CROSS ? 4 : 6;
    start(&c);
    c.variant = variants[i];
    c.leaf[0] = numbers(3, 2, T, variants[i] & FUSED ? 12 : 4, 1, 1);
    c.leaf[1] = numbers(3, 2, S, 4, 1, 2), c.leaf[2] = numbers(3, 2, S, 4, 1, 3);
    c.leaf[3] = numbers(2, 8, 2, 0, 1, 4);
    c.ints[0] = integers(2, 2, S, mask[0]), c.ints[1] = c.ints[2] = integers(2, 2, S, docs[0]);
    c.leaves = variants[i] & FUSED ? 1 : variants[i] & BIAS ? 4 : 3;
    tfp_training(ctx, 1, 3, 5);
    gradient("attention", f_attention, &c);
    tfp_training(ctx, 0, 0, 0);
  }
}
static tfp_tensor *f_rotary(tfp_ctx *x, void *user) {
  op_case *c = (op_case *)user;
  return tfp_add(x, scalar(tfp_rotary(x, c->leaf[0], NULL, 2, 2, 100), 1),
                 scalar(tfp_rotary(x, c->leaf[0], c->ints[0], 0, 1, 100), 2));
}
static void grad_rotary(void) {
  static const int32_t positions[6] = {0, 5, 2, 1, 1, 7};
  op_case c;
  start(&c);
  c.leaf[0] = numbers(3, 2, 3, 8, 1, 1), c.ints[0] = integers(2, 2, 3, positions), c.leaves = 1;
  gradient("rotary", f_rotary, &c);
}
static tfp_tensor *inner(tfp_ctx *x, void *user, tfp_tensor *t) {
  op_case *c = (op_case *)user;
  return tfp_add(x, tfp_linear(x, t, c->leaf[1], c->leaf[2], TFP_ACT_GELU),
                 tfp_dropout(x, t, 0.3, 1, 1));
}
static tfp_tensor *f_recompute(tfp_ctx *x, void *user) { /* nested, and x used outside as well */
  op_case *c = (op_case *)user;
  tfp_tensor *h = tfp_mul(x, c->leaf[0], c->leaf[0]);
  h = tfp_recompute(x, inner, user, h);
  return tfp_add(x, scalar(tfp_recompute(x, inner, user, h), 1), scalar(h, 2));
}
static void grad_recompute(void) {
  op_case c;
  start(&c);
  tfp_training(ctx, 1, 3, 5);
  c.leaf[0] = numbers(2, 3, 4, 0, 1, 1), c.leaf[1] = numbers(2, 4, 4, 0, 1, 2),
  c.leaf[2] = numbers(1, 4, 0, 0, 1, 3);
  c.leaves = 3;
  gradient("recompute", f_recompute, &c);
  tfp_training(ctx, 0, 0, 0);
}

/* ---- tiny models: every parameter's gradient against differences along random directions ---- */

typedef struct model_case {
  tfp_model *model;
  tfp_batch batch;
} model_case;
static double model_loss(model_case *m, int with_gradients) {
  tfp_output out;
  double loss;
  tfp_step_reset(ctx);
  if (!with_gradients) tfp_no_grad_begin(ctx);
  tfp_forward(m->model, &m->batch, TFP_WANT_LOSS, NULL, &out);
  loss = tfp_item(out.loss);
  if (with_gradients) tfp_backward(ctx, out.loss);
  else tfp_no_grad_end(ctx);
  return loss;
}
/* A few elements of each parameter, those with large gradients among them. */
static void check_model(const char *name, tfp_config *c) {
  static const int32_t ids[2][6] = {{5, 6, 7, 8, 9, 2}, {5, 10, 11, 2, 3, 3}},
                       mask[2][6] = {{1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 0, 0}};
  static const int32_t types[2][6] = {{0, 0, 0, 1, 1, 1}, {0, 1, 1, 1, 0, 0}};
  static const int32_t labels[2][6] = {{-100, 6, 3, -100, 9, 1}, {4, -100, 7, 2, -100, -100}},
                       dec[2][6] = {{0, 4, 5, 6, 7, 8}, {0, 9, 4, 10, 3, 3}};
  static const int32_t classes[4] = {1, 0, 3, 2};
  static const float targets[4] = {1, 0.25f, 0, 1};
  model_case m;
  tfp_param *p;
  char what[160];
  double worst = 0, top = 0;
  const double step = 1e-5;
  memset(&m, 0, sizeof m);
  c->vocab_size = 12, c->hidden = 8, c->heads = 2, c->head_dim = 4, c->ffn = 12;
  if (c->encoder_layers) c->encoder_layers = 2;
  if (c->decoder_layers) c->decoder_layers = 2;
  if (c->max_positions) c->max_positions = 8;
  c->init_std = c->family == TFP_T5 ? 1 : 0.3;
  c->eos = 2, c->pad = 1;
  if (c->head == TFP_HEAD_TAG) c->num_labels = 12;
  if (c->decoder_start < 0) c->decoder_start = 0;
  if (c->buckets) c->buckets = 8, c->max_distance = 16;
  m.model = tfp_model_create(ctx, c, 1);
  m.batch.B = 2, m.batch.T = 6, m.batch.ids = ids[0], m.batch.mask = mask[0];
  if (c->type_vocab > 1) m.batch.types = types[0];
  m.batch.labels = labels[0], m.batch.n_labels = 12;
  if (c->arch == TFP_SEQ2SEQ) m.batch.S = 6, m.batch.dec_ids = dec[0];
  if (c->head == TFP_HEAD_CLASS) m.batch.labels = classes, m.batch.n_labels = 2;
  if (c->head == TFP_HEAD_QA) m.batch.labels = classes, m.batch.n_labels = 4;
  if (c->head == TFP_HEAD_PRETRAINING) m.batch.next_labels = classes;
  if (c->head == TFP_HEAD_NSP) m.batch.labels = classes, m.batch.n_labels = 2;
  if (c->head == TFP_HEAD_CHOICE)
    m.batch.labels = classes, m.batch.n_labels = 1, m.batch.choices = 2;
  if (c->head == TFP_HEAD_CLASS && c->problem)
    m.batch.labels = NULL, m.batch.targets = targets, m.batch.n_targets = 2 * c->num_labels;
  tfp_set_loss_scale(ctx, 0.25);
  if (m.model) tfp_params_zero_grad(m.model->params);
  if (m.model) model_loss(&m, 1);
  for (p = m.model ? m.model->params->first : NULL; p && !tfp_error(ctx); p = p->next) {
    const int64_t n = tfp_numel(p->tensor);
    int64_t i;
    if (p->tensor->fresh == 1 && !p->frozen) {
      snprintf(what, sizeof what, "%s: '%s' got no gradient", name, p->name);
      test_check(0, what, __FILE__, __LINE__);
    }
    if (p->tensor->fresh == 1) continue;
    for (i = 0; i < n; i++) top = fmax(top, fabs(((tfp_real *)p->tensor->grad->data)[i]));
  }
  for (p = m.model ? m.model->params->first : NULL; p && !tfp_error(ctx); p = p->next) {
    const int64_t n = tfp_numel(p->tensor);
    int64_t i;
    if (p->tensor->fresh == 1) continue;
    for (i = 0; i < n; i += 1 + n / 9) {
      tfp_real *x = (tfp_real *)p->tensor->data + i;
      const tfp_real kept = *x;
      const double analytic = ((tfp_real *)p->tensor->grad->data)[i];
      double up, down, error;
      *x = kept + step, up = model_loss(&m, 0);
      *x = kept - step, down = model_loss(&m, 0);
      *x = kept;
      up = (up - down) / (2 * step);
      error = fabs(up - analytic) / fmax(fmax(fabs(up), fabs(analytic)), 1e-3 * top);
      if (!(error <= worst)) {
        worst = error;
        snprintf(what, sizeof what, "%s: '%s' element %d: %.9g by differences, %.9g", name, p->name,
                 (int)i, up, analytic);
      }
    }
  }
  if (worst >= LIMIT || !(worst == worst)) test_check(0, what, __FILE__, __LINE__);
  OK(ctx);
  tfp_clear_error(ctx);
  tfp_step_reset(ctx);
  tfp_model_free(m.model);
}
/* A look-up of the padding id gives its row no gradient on purpose, where the differences see one.
 * So no id of these batches is the padding id: the mask alone hides. */
static void grad_models(void) {
  static const char *const presets[] = {"bert-tiny", "roberta-tiny",  "gpt2-tiny", "bloom-tiny",
                                        "t5-tiny",   "t5-v1_1-small", "bart-tiny"};
  tfp_config c;
  char name[64];
  int i, head;
  for (i = 0; i < 7; i++)
    for (head = TFP_HEAD_LM; head < TFP_HEAD_COUNT; head++) {
      tfp_config_preset(presets[i], &c);
      if (c.arch == TFP_SEQ2SEQ && head == TFP_HEAD_TAG) continue;
      if (c.arch != TFP_ENCODER && head > TFP_HEAD_QA) continue;
      c.head = (tfp_head)head;
      snprintf(name, sizeof name, "%s, head %d", presets[i], head);
      check_model(name, &c);
    }
  for (i = TFP_PROBLEM_REGRESSION; i <= TFP_PROBLEM_MULTI_LABEL; i++) {
    tfp_config_preset("bert-tiny", &c);
    c.head = TFP_HEAD_CLASS, c.problem = (tfp_problem)i;
    c.num_labels = i == TFP_PROBLEM_REGRESSION ? 1 : 2;
    snprintf(name, sizeof name, "problem %d", i);
    check_model(name, &c);
  }
  tfp_config_preset("bart-tiny", &c); /* each stack with words of its own */
  c.tied = 0, c.own_words = 1;
  check_model("untied bart", &c);
}
static void grad_positions(
    void) { /* every scheme on one decoder, and the rarer switches of a block */
  tfp_config c;
  int scheme;
  char name[64];
  for (scheme = TFP_POS_NONE; scheme <= TFP_POS_ROTARY; scheme++) {
    tfp_config_preset("gpt2-tiny", &c);
    c.position = (tfp_position)scheme, c.buckets = 8, c.max_distance = 16;
    snprintf(name, sizeof name, "gpt2 with position scheme %d", scheme);
    check_model(name, &c);
  }
  tfp_config_preset("bloom-tiny", &c);
  c.residual_after_norm = 1;
  check_model("bloom, residual after norm", &c);
  tfp_config_preset("gpt2-tiny", &c);
  c.scale_by_layer = 1, c.tied = 0;
  check_model("gpt2, untied, scaled by layer", &c);
  tfp_config_preset("bart-tiny", &c);
  c.scale_embedding = 1, c.norm_first = 1, c.final_norm = 1;
  check_model("bart, scaled embedding, pre-norm", &c);
}

void test_gradcheck(void) {
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.threads = 2;
  ctx = tfp_create(&d);
#define X(ENUM, name, inputs, grads) RUN(grad_##name);
  TFP_OP_LIST(X)
#undef X
  RUN(grad_models);
  RUN(grad_positions);
  tfp_destroy(ctx);
}
