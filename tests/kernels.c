/* kernels.c -- every entry of the table at every level of this machine against the plain kernels,
 * on odd shapes, views and NaN, with 1 and 3 threads to the bit. Sees the inside of the header. */

#define TFPRE_IMPLEMENTATION
#include "test.h"

enum { MOST = 1 << 20 };
static tfp_ctx *plain, *fast, *fast3; /* fast3: three threads */

/* Random numbers, drawn once and dealt out from a place that depends on the stream. */
static tfp_tensor *fresh(tfp_ctx *ctx, int ndim, int64_t a, int64_t b, int64_t c, int64_t d,
                         uint64_t stream) {
  static float pool[MOST];
  int64_t shape[4], i, n;
  tfp_tensor *t;
  if (pool[0] == 0)
    for (i = 0; i < MOST; i++) pool[i] = tfp_random_normal(1, 2, (uint64_t)i);
  shape[0] = a, shape[1] = b, shape[2] = c, shape[3] = d;
  t = tfpi_tensor(&ctx->step, TFP_REAL, ndim, shape, "fresh");
  n = tfp_numel(t);
  for (i = 0; i < n; i++) tfpi_data(t)[i] = pool[(i + (int64_t)stream * 77777) % MOST];
  return t;
}
/* One case: fn runs a kernel of ctx's table and returns the tensor that it wrote. */
typedef tfp_tensor *(*kernel_case)(tfp_ctx *ctx, int variant);
static void against_plain(const char *name, kernel_case fn, int variant, double tolerance) {
  tfp_tensor *want = fn(plain, variant), *got = fn(fast, variant), *again = fn(fast3, variant);
  static float a[MOST], b[MOST], c[MOST];
  const int64_t n = tfp_numel(want);
  double top = 1e-6, apart = 0;
  int64_t i, where = 0;
  char what[200];
  if (n > MOST || tfp_numel(got) != n) {
    test_check(0, "sizes", __FILE__, __LINE__);
    return;
  }
  tfp_read(plain, want, a, n);
  tfp_read(fast, got, b, n);
  tfp_read(fast3, again, c, n);
  for (i = 0; i < n; i++) {
    if (isfinite(a[i])) top = fmax(top, fabs(a[i]));
    if (isnan(a[i]) || isinf(a[i])) {
      if (!(isnan(a[i]) ? isnan(b[i]) : a[i] == b[i])) apart = INFINITY, where = i;
    } else if (!(fabs(a[i] - b[i]) <= apart)) {
      apart = fabs(a[i] - b[i]), where = i;
    }
  }
  snprintf(what, sizeof what, "%s, variant %d, %s: element %d of %d is %.9g, plain %.9g", name,
           variant, tfp_level_name(fast), (int)where, (int)n, (double)b[where], (double)a[where]);
  test_check(apart <= tolerance * top, what, __FILE__, __LINE__);
  snprintf(what, sizeof what, "%s, variant %d: other bits with three threads", name, variant);
  test_check(!n || !memcmp(b, c, (size_t)n * sizeof *b), what, __FILE__, __LINE__);
  test_check(!tfp_error(plain) && !tfp_error(fast) && !tfp_error(fast3), tfp_error_message(fast),
             __FILE__, __LINE__);
  tfp_step_reset(plain);
  tfp_step_reset(fast);
  tfp_step_reset(fast3);
}

static const int64_t sizes[][2] = {{1, 1},     {3, 5},     {7, 16},   {5, 33},   {64, 64},
                                   {129, 100}, {300, 257}, {2, 5000}, {768, 128}};
enum { SIZES = (int)(sizeof sizes / sizeof *sizes) };
static void poison(tfp_tensor *t) { if (tfp_numel(t) > 20) tfpi_data(t)[11] = NAN; }

static tfp_tensor *run_unary(tfp_ctx *ctx, int v) { /* kind, size, backward, NaN */
  const int kind = v % TFPI_UNARY_COUNT, size = v / TFPI_UNARY_COUNT % SIZES,
            bwd = v / TFPI_UNARY_COUNT / SIZES;
  tfp_tensor *x = fresh(ctx, 2, sizes[size][0], sizes[size][1], 0, 0, 1),
             *y = fresh(ctx, 2, sizes[size][0], sizes[size][1], 0, 0, 2);
  if (kind == TFPI_LOG || kind == TFPI_SQRT || kind == TFPI_POW)
    x = tfp_add(ctx, tfp_full(ctx, 0, NULL, 0.5), tfp_mul(ctx, x, x));
  poison(x);
  ctx->be->unary(ctx, (tfpi_unary_kind)kind, y, x, 1.5);
  if (bwd) {
    tfp_tensor *dx = fresh(ctx, 2, sizes[size][0], sizes[size][1], 0, 0, 3),
               *dy = fresh(ctx, 2, sizes[size][0], sizes[size][1], 0, 0, 4);
    ctx->be->unary_bwd(ctx, (tfpi_unary_kind)kind, dx, dy, x, y, 1.5, bwd - 1);
    return dx;
  }
  return y;
}
static void unary_kernels(void) {
  int v;
  for (v = 0; v < 3 * SIZES * TFPI_UNARY_COUNT; v++) against_plain("unary", run_unary, v, 3e-6);
}
static tfp_tensor *run_binary(
    tfp_ctx *ctx, int v) { /* kind, size, which operand is repeated how, backward of which */
  const int kind = v % 4, size = v / 4 % SIZES, how = v / 4 / SIZES % 4, bwd = v / 4 / SIZES / 4;
  const int64_t R = sizes[size][0], C = sizes[size][1];
  tfp_tensor *a = fresh(ctx, 2, R, C, 0, 0, 1),
             *b = fresh(ctx, 2, how & 1 ? 1 : R, how & 2 ? 1 : C, 0, 0, 2), ha, hb;
  tfp_tensor *y = fresh(ctx, 2, R, C, 0, 0, 3);
  b = tfp_add(ctx, tfp_full(ctx, 0, NULL, 0.5), tfp_mul(ctx, b, b));
  tfpi_expand_header(&ha, a, 2, y->shape);
  tfpi_expand_header(&hb, b, 2, y->shape);
  if (!bwd) ctx->be->binary(ctx, (tfpi_binary_kind)kind, y, &ha, &hb);
  else {
    tfp_tensor *d =
        bwd == 1 ? fresh(ctx, 2, R, C, 0, 0, 5) : fresh(ctx, 2, b->shape[0], b->shape[1], 0, 0, 5);
    ctx->be->binary_bwd(ctx, (tfpi_binary_kind)kind, bwd - 1, d, y, &ha, &hb, v & 1);
    return d;
  }
  return y;
}
static void binary_kernels(void) {
  int v;
  for (v = 0; v < 3 * 4 * SIZES * 4; v++) against_plain("binary", run_binary, v, 1e-4);
}
static tfp_tensor *run_reduce(tfp_ctx *ctx, int v) { /* kind, size, axis, accumulate */
  const int kind = v % 3, size = v / 3 % SIZES, axis = v / 3 / SIZES % 3;
  tfp_tensor *x = fresh(ctx, 2, sizes[size][0], sizes[size][1], 0, 0, 1);
  tfp_tensor *y =
      fresh(ctx, 2, axis == 1 ? sizes[size][0] : 1, axis == 0 ? sizes[size][1] : 1, 0, 0, 2);
  if (v / 3 / SIZES / 3) poison(x);
  ctx->be->reduce(ctx, (tfpi_reduce_kind)kind, y, x, v & 1);
  return y;
}
static void reduce_kernels(void) {
  int v;
  for (v = 0; v < 2 * 3 * SIZES * 3; v++) against_plain("reduce", run_reduce, v, 1e-4);
}
static tfp_tensor *run_copy(tfp_ctx *ctx, int v) {
  const int size = v / 4 % SIZES;
  tfp_tensor *x = fresh(ctx, 2, sizes[size][0], sizes[size][1], 0, 0, 1),
             *y = fresh(ctx, 2, sizes[size][0], sizes[size][1], 0, 0, 2);
  tfp_tensor *yy = fresh(ctx, 2, sizes[size][1], sizes[size][0], 0, 0, 3);
  if (v & 2) y = tfp_transpose(ctx, yy, 0, 1);
  ctx->be->copy(ctx, y, x, v & 1);
  return y;
}
static void copy_kernels(void) {
  int v;
  for (v = 0; v < 4 * SIZES; v++) against_plain("copy", run_copy, v, 0);
}
static tfp_tensor *run_softmax(tfp_ctx *ctx, int v) { /* log form, size, backward, NaN or -inf */
  const int size = v / 2 % SIZES, bwd = v / 2 / SIZES % 3, odd = v / 2 / SIZES / 3;
  const int64_t R = sizes[size][0], C = sizes[size][1];
  tfp_tensor *x = fresh(ctx, 2, R, C, 0, 0, 1), *y = fresh(ctx, 2, R, C, 0, 0, 2),
             *dx = fresh(ctx, 2, R, C, 0, 0, 3);
  int64_t i;
  if (odd == 1) poison(x);
  if (odd == 2)
    for (i = 0; i < C; i++) tfpi_data(x)[i] = -INFINITY;
  ctx->be->softmax(ctx, y, x, v & 1);
  if (!bwd) return y;
  if (odd == 2) return y;
  ctx->be->softmax_bwd(ctx, dx, fresh(ctx, 2, R, C, 0, 0, 4), y, v & 1, bwd - 1);
  return dx;
}
static void softmax_kernels(void) {
  int v;
  for (v = 0; v < 2 * SIZES * 3 * 3; v++) against_plain("softmax", run_softmax, v, 3e-5);
}
static tfp_tensor *run_norm(tfp_ctx *ctx, int v) { /* rms, residual, size, output */
  const int rms = v & 1, res = v >> 1 & 1, size = v / 4 % SIZES, what = v / 4 / SIZES;
  const int64_t R = sizes[size][0], C = sizes[size][1];
  tfpi_norm_args f;
  tfpi_norm_bwd_args b;
  tfp_tensor *dx = fresh(ctx, 2, R, C, 0, 0, 9), *dg = fresh(ctx, 1, C, 0, 0, 0, 10),
             *db = fresh(ctx, 1, C, 0, 0, 0, 11);
  memset(&f, 0, sizeof f);
  memset(&b, 0, sizeof b);
  f.x = fresh(ctx, 2, R, C, 0, 0, 1), f.residual = res ? fresh(ctx, 2, R, C, 0, 0, 2) : NULL;
  f.sum = res ? fresh(ctx, 2, R, C, 0, 0, 3) : NULL;
  f.y = fresh(ctx, 2, R, C, 0, 0, 4), f.stats = fresh(ctx, 2, R, 2, 0, 0, 5);
  f.g = fresh(ctx, 1, C, 0, 0, 0, 6), f.b = rms ? NULL : fresh(ctx, 1, C, 0, 0, 0, 7), f.eps = 1e-2,
  f.rms = rms;
  ctx->be->norm(ctx, &f);
  if (what == 0) return f.y;
  if (what == 1) return f.stats;
  b.in = res ? f.sum : f.x, b.stats = f.stats, b.g = f.g, b.dy = fresh(ctx, 2, R, C, 0, 0, 8);
  b.dsum = res ? fresh(ctx, 2, R, C, 0, 0, 12) : NULL;
  b.dx = dx, b.dg = dg, b.db = rms ? NULL : db, b.dx_accumulate = 1, b.dg_accumulate = res,
  b.rms = rms;
  b.work = fresh(ctx, 3, tfpi_norm_slices(R), 2, C, 0, 13);
  ctx->be->norm_bwd(ctx, &b);
  return what == 2 ? dx : what == 3 ? dg : db;
}
static void norm_kernels(void) {
  int v;
  for (v = 0; v < 4 * SIZES * 5; v++) against_plain("norm", run_norm, v, 1e-4);
}
static tfp_tensor *run_gather(tfp_ctx *ctx, int v) { /* scatter or gather of up to three tables */
  const int size = v / 4 % SIZES;
  const int64_t V = 37, C = sizes[size][1], N = sizes[size][0];
  const tfp_tensor *tables[3], *ids[3];
  tfp_tensor *y = fresh(ctx, 2, N, C, 0, 0, 1), *d = fresh(ctx, 2, V, C, 0, 0, 2);
  int64_t i;
  int k;
  for (k = 0; k < 3; k++) {
    tfp_tensor *id = tfpi_tensor(&ctx->step, TFP_I32, 1, &N, "ids");
    for (i = 0; i < N; i++) tfpi_ints(id)[i] = (int32_t)(i * (k + 7) % V);
    tables[k] = fresh(ctx, 2, V, C, 0, 0, 3), ids[k] = id;
  }
  if (v % 4 < 2) {
    ctx->be->gather(ctx, y, 1 + 2 * (v & 1), tables, ids);
    return y;
  }
  ctx->be->scatter_add(ctx, d, y, ids[0], 5, v & 1);
  return d;
}
static void gather_kernels(void) {
  int v;
  for (v = 0; v < 4 * SIZES; v++) against_plain("gather", run_gather, v, 1e-5);
}
static tfp_tensor *run_xent(tfp_ctx *ctx, int v) { /* what, size */
  const int what = v % 5, size = v / 5 % SIZES;
  const int64_t R = sizes[size][0], V = sizes[size][1], C = 19;
  static const float scale = 0.03f;
  tfp_tensor *x = fresh(ctx, 2, R, V, 0, 0, 1), *loss = tfp_zeros(ctx, 0, NULL),
             *d = fresh(ctx, 2, R, V, 0, 0, 2);
  tfp_tensor *labels = tfpi_tensor(&ctx->step, TFP_I32, 1, &R, "labels"), *none = NULL;
  tfpi_linear_xent_args a;
  int64_t i;
  for (i = 0; i < R; i++)
    tfpi_ints(labels)[i] = i % 4 == 2 ? TFP_IGNORE_INDEX : (int32_t)(i * 13 % V);
  if (what == 0) {
    ctx->be->xent(ctx, loss, x, labels, &scale);
    return loss;
  }
  if (what == 1) {
    ctx->be->xent_bwd(ctx, d, x, labels, tfp_full(ctx, 0, NULL, 1.5), &scale, v & 1);
    return d;
  }
  memset(&a, 0, sizeof a);
  a.x = fresh(ctx, 2, R, C, 0, 0, 3), a.w = fresh(ctx, 2, V, C, 0, 0, 4),
  a.bias = fresh(ctx, 1, V, 0, 0, 0, 5);
  a.labels = labels, a.loss = loss, a.scale = &scale;
  a.dx = fresh(ctx, 2, R, C, 0, 0, 6), a.dw = fresh(ctx, 2, V, C, 0, 0, 7),
  a.db = fresh(ctx, 2, 1, V, 0, 0, 8);
  a.db->ndim = 1, a.db->shape[0] = V, a.db->stride[0] = 1;
  a.dw_accumulate = a.db_accumulate = size & 1;
  a.rows = fresh(ctx, 3, 50, 2, C, 0, 9), a.logits = fresh(ctx, 2, 50, V, 0, 0, 10);
  ctx->be->linear_xent(ctx, &a);
  return what == 2 ? loss : what == 3 ? a.dx : a.dw;
  (void)none;
}
static void xent_kernels(void) {
  int v;
  for (v = 0; v < 5 * SIZES; v++) against_plain("xent", run_xent, v, 1e-4);
}
static tfp_tensor *run_matmul(tfp_ctx *ctx,
                              int v) { /* transposes, accumulate, epilogue; sizes by v */
  static const int64_t dims[][3] = {
      {1, 1, 1},       {3, 5, 7},       {1, 64, 200},   {4, 100, 33},    {8, 130, 70},
      {17, 40, 31},    {64, 64, 64},    {100, 300, 50}, {65, 1100, 129}, {768, 128, 384},
      {128, 768, 512}, {200, 33, 1000}, {30, 0, 9}};
  const int count = (int)(sizeof dims / sizeof *dims), size = v / 16 % count;
  const int64_t B = v / 16 / count ? 3 : 1, M = dims[size][0], K = dims[size][1], N = dims[size][2];
  tfpi_matmul_args m;
  tfp_tensor *a =
      v & 1 ? tfp_transpose(ctx, fresh(ctx, 3, B, K, M, 0, 1), 1, 2) : fresh(ctx, 3, B, M, K, 0, 1);
  tfp_tensor *b =
      v & 2 ? tfp_transpose(ctx, fresh(ctx, 3, B, N, K, 0, 2), 1, 2) : fresh(ctx, 3, B, K, N, 0, 2);
  tfp_tensor *c = fresh(ctx, 3, B, M, N, 0, 3), *before = fresh(ctx, 3, B, M, N, 0, 4);
  memset(&m, 0, sizeof m);
  m.a = a, m.b = b, m.c = c, m.activation = TFPI_NO_ACTIVATION;
  m.accumulate = v >> 2 & 1;
  if (v & 8) {
    m.bias = fresh(ctx, 1, N, 0, 0, 0, 5);
    m.activation = size % 2 ? TFPI_GELU : size % 3 ? TFPI_RELU : TFPI_GELU_NEW;
    m.before = before;
  }
  ctx->be->matmul(ctx, &m);
  return (v & 12) == 12 && size == 5 ? before : c;
}
static void matmul_kernels(void) {
  int v;
  for (v = 0; v < 16 * 13 * 2; v++)
    if (v / 16 % 13 < 8 || (v < 16 * 13 && v % 5 == 0))
      against_plain("matmul", run_matmul, v, 2e-5);
}
static tfp_tensor *run_attention(
    tfp_ctx *ctx, int v) { /* plain against fast where dropout draws the same pairs */
  static const int64_t dims[][4] = {
      {2, 3, 9, 9}, {1, 2, 64, 64}, {2, 1, 100, 130}, {1, 1, 1, 700}, {1, 1, 600, 600}};
  const int size = v / 12 % 5, what = v / 3 % 4;
  const int64_t B = dims[size][0], H = dims[size][1], T = dims[size][2], S = dims[size][3],
                D = size == 2 ? 20 : 32;
  tfpi_attention_args a;
  tfp_tensor *dq, *dk, *dv;
  memset(&a, 0, sizeof a);
  a.q = fresh(ctx, 4, B, H, T, D, 1), a.k = fresh(ctx, 4, B, H, S, D, 2),
  a.v = fresh(ctx, 4, B, H, S, D, 3);
  a.o = fresh(ctx, 4, B, H, T, D, 4), a.lse = fresh(ctx, 3, B, H, T, 0, 5);
  a.causal = v % 3 == 1, a.scale = 0.2, a.dropout = v % 3 == 2 ? 0.3 : 0, a.stream = 99;
  ctx->be->attention(ctx, &a);
  if (!what) return a.o;
  a.dout = fresh(ctx, 4, B, H, T, D, 6);
  dq = fresh(ctx, 4, B, H, T, D, 7), dk = fresh(ctx, 4, B, H, S, D, 8),
  dv = fresh(ctx, 4, B, H, S, D, 9);
  a.dq = dq, a.dk = dk, a.dv = dv, a.dk_accumulate = 1;
  ctx->be->attention_bwd(ctx, &a);
  return what == 1 ? dq : what == 2 ? dk : dv;
}
static void attention_kernels(void) {
  int v;
  for (v = 0; v < 12 * 5; v++) against_plain("attention", run_attention, v, 3e-5);
}
static tfp_tensor *run_flat(tfp_ctx *ctx, int v) { /* adamw: p, m or v; sum of squares; dropout */
  static const int64_t lengths[4] = {1, 1000, 16384, 70001};
  const int64_t n = lengths[v / 5 % 4];
  tfp_tensor *p = fresh(ctx, 1, n, 0, 0, 0, 1), *g = fresh(ctx, 1, n, 0, 0, 0, 2),
             *m = fresh(ctx, 1, n, 0, 0, 0, 3);
  tfp_tensor *w = fresh(ctx, 1, n, 0, 0, 0, 4), *y = fresh(ctx, 3, 3, n % 50 + 1, 70, 0, 5);
  tfpi_adamw_args a;
  int64_t i;
  for (i = 0; i < n; i++) tfpi_data(w)[i] *= tfpi_data(w)[i];
  if (v % 5 == 3) return tfp_full(ctx, 0, NULL, ctx->be->sum_squares(ctx, tfpi_data(g), n));
  if (v % 5 == 4) {
    ctx->be->dropout(ctx, y, fresh(ctx, 3, 3, n % 50 + 1, 70, 0, 6), 0.3, 77, v & 1);
    return y;
  }
  a.p = tfpi_data(p), a.g = tfpi_data(g), a.m = tfpi_data(m), a.v = tfpi_data(w), a.n = n;
  a.beta1 = 0.9, a.beta2 = 0.99, a.eps = 1e-8, a.decay = 0.1;
  ctx->now.lr = 0.01f, ctx->now.grad_scale = 0.7f, ctx->now.fix1 = 1.2f, ctx->now.fix2 = 1.4f;
  ctx->be->adamw(ctx, &a);
  return v % 5 == 0 ? p : v % 5 == 1 ? m : w;
}
static void flat_kernels(void) {
  int v;
  for (v = 0; v < 20; v++) against_plain("flat", run_flat, v, 1e-5);
}

static tfp_ctx *at_level(tfp_level level, int threads) {
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.level = level, d.threads = threads;
  return tfp_create(&d);
}
/* The caller's rounding mode and denormals are as before. */
static void caller_mode_is_kept(void) {
  volatile float tiny = 1e-38f, small;
  tfp_exp(fast3, fresh(fast3, 2, 300, 300, 0, 0, 1));
  small = tiny * 0.01f;
  CHECK(small != 0);
  tfp_step_reset(fast3);
}

void test_kernels(void);
void test_kernels(void) {
  int level;
  plain = at_level(TFP_LEVEL_PLAIN, 2);
  for (level = TFP_LEVEL_PLAIN; level <= TFP_LEVEL_AVX512; level++) {
    fast = at_level((tfp_level)level, 1);
    fast3 = at_level((tfp_level)level, 3);
    if (tfp_error(fast) == TFP_ERR_UNSUPPORTED) {
      printf("skipped: level %d: %s\n", level, tfp_error_message(fast));
      test_now.skipped++;
    } else {
      RUN(unary_kernels);
      RUN(binary_kernels);
      RUN(reduce_kernels);
      RUN(copy_kernels);
      RUN(softmax_kernels);
      RUN(norm_kernels);
      RUN(gather_kernels);
      RUN(xent_kernels);
      RUN(matmul_kernels);
      RUN(attention_kernels);
      RUN(flat_kernels);
      RUN(caller_mode_is_kept);
    }
    tfp_destroy(fast);
    tfp_destroy(fast3);
  }
  tfp_destroy(plain);
}
