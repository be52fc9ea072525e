/* ops.c -- each fused op equals its unfused spelling, in value and gradients; the rules of the
 * tape. */
#include "test.h"

static tfp_ctx *ctx;

static tfp_tensor *numbers(int ndim, int64_t a, int64_t b, int64_t c, uint64_t stream) {
  int64_t shape[3];
  shape[0] = a, shape[1] = b, shape[2] = c;
  return tfp_leaf(ctx, tfp_random(ctx, ndim, shape, 1, stream));
}
static tfp_tensor *weigh(tfp_tensor *y) {
  return tfp_sum(ctx, tfp_mul(ctx, y, tfp_random(ctx, y->ndim, y->shape, 1, 77)), TFP_ALL_AXES);
}
/* Both spellings of one function of the same leaves: value and every gradient. */
static void same(const char *name, tfp_tensor *(*fused)(tfp_tensor **),
                 tfp_tensor *(*plain)(tfp_tensor **), tfp_tensor **leaf, int leaves,
                 double tolerance) {
  static float first[8][8192], second[8192];
  double value[2];
  char what[128];
  int pass, l;
  for (pass = 0; pass < 2; pass++) {
    tfp_tensor *loss;
    for (l = 0; l < leaves; l++) leaf[l]->fresh = leaf[l]->grad != NULL;
    loss = pass ? plain(leaf) : fused(leaf);
    value[pass] = tfp_item(loss);
    tfp_backward(ctx, loss);
    for (l = 0; l < leaves; l++) {
      const int64_t n = tfp_numel(leaf[l]);
      int64_t i;
      double apart = 0, top = 1e-3;
      if (!tfp_grad(leaf[l])) {
        snprintf(what, sizeof what, "%s: leaf %d got no gradient in spelling %d", name, l, pass);
        test_check(0, what, __FILE__, __LINE__);
        continue;
      }
      tfp_read(ctx, tfp_grad(leaf[l]), pass ? second : first[l], n);
      if (!pass) continue;
      for (i = 0; i < n; i++) {
        top = fmax(top, fabs(second[i]));
        apart = fmax(apart, fabs(second[i] - first[l][i]));
      }
      snprintf(what, sizeof what, "%s: gradient %d apart by %.3g of %.3g", name, l, apart, top);
      test_check(apart <= tolerance * top, what, __FILE__, __LINE__);
    }
  }
  NEAR(value[0], value[1], tolerance);
  OK(ctx);
  tfp_step_reset(ctx);
}

static int activation;
static tfp_tensor *linear_fused(tfp_tensor **l) {
  return weigh(tfp_linear(ctx, l[0], l[1], l[2], (tfp_activation)activation));
}
static tfp_tensor *linear_plain(tfp_tensor **l) {
  tfp_tensor *z = tfp_add(ctx, tfp_matmul(ctx, l[0], tfp_transpose(ctx, l[1], 0, 1)), l[2]);
  return weigh(tfp_activate(ctx, z, (tfp_activation)activation));
}
static void linear_is_matmul_bias_activation(void) {
  tfp_tensor *l[3];
  for (activation = TFP_ACT_NONE; activation <= TFP_ACT_TANH; activation++) {
    l[0] = numbers(3, 3, 17, 40, 1), l[1] = numbers(2, 50, 40, 0, 2),
    l[2] = numbers(1, 50, 0, 0, 3);
    same("linear", linear_fused, linear_plain, l, 3, 2e-5);
  }
}
static int rms;
static tfp_tensor *norm_fused(tfp_tensor **l) {
  tfp_tensor *sum,
      *y = tfp_norm_residual(ctx, l[0], l[1], l[2], rms ? NULL : l[3], 1e-5, rms, &sum);
  return tfp_add(ctx, weigh(y), tfp_scale(ctx, weigh(sum), 0.3));
}
static tfp_tensor *norm_plain(tfp_tensor **l) { /* by the formula, with student ops */
  tfp_tensor *s = tfp_add(ctx, l[0], l[1]), *c = s, *y;
  if (!rms) c = tfp_sub(ctx, s, tfp_mean(ctx, s, -1));
  y = tfp_add(ctx, tfp_mean(ctx, tfp_mul(ctx, c, c), -1), tfp_full(ctx, 0, NULL, 1e-5));
  y = tfp_mul(ctx, tfp_div(ctx, c, tfp_sqrt(ctx, y)), l[2]);
  if (!rms) y = tfp_add(ctx, y, l[3]);
  return tfp_add(ctx, weigh(y), tfp_scale(ctx, weigh(s), 0.3));
}
static void norm_is_its_formula(void) {
  tfp_tensor *l[4];
  for (rms = 0; rms < 2; rms++) {
    l[0] = numbers(2, 70, 48, 0, 1), l[1] = numbers(2, 70, 48, 0, 2),
    l[2] = numbers(1, 48, 0, 0, 3);
    l[3] = numbers(1, 48, 0, 0, 4);
    same("norm_residual", norm_fused, norm_plain, l, rms ? 3 : 4, 5e-5);
  }
}
static tfp_tensor *xent_labels;
static tfp_tensor *xent_fused(tfp_tensor **l) {
  return tfp_linear_xent(ctx, tfp_tanh(ctx, l[0]), l[1], l[2], xent_labels, 0.02);
}
static tfp_tensor *xent_plain(tfp_tensor **l) {
  return tfp_cross_entropy(ctx, tfp_linear(ctx, tfp_tanh(ctx, l[0]), l[1], l[2], TFP_ACT_NONE),
                           xent_labels, 0.02);
}
static void linear_xent_is_linear_and_cross_entropy(void) {
  int32_t labels[90];
  int64_t n = 90, i;
  tfp_tensor *l[3];
  for (i = 0; i < n; i++) labels[i] = i % 3 == 1 ? TFP_IGNORE_INDEX : (int32_t)(i * 7 % 101);
  xent_labels = tfp_from_ints(ctx, 1, &n, labels);
  l[0] = numbers(2, 90, 24, 0, 1), l[1] = numbers(2, 101, 24, 0, 2),
  l[2] = numbers(1, 101, 0, 0, 3);
  same("linear_xent", xent_fused, xent_plain, l, 3, 3e-5);
}
static void cross_entropy_is_log_softmax(void) {
  static const int64_t shape[2] = {4, 7}, one = 4;
  static const int32_t labels[4] = {3, -100, 0, 6};
  tfp_tensor *x = tfp_random(ctx, 2, shape, 2, 5), *p = tfp_log_softmax(ctx, x);
  const float *v = (const float *)p->data;
  const double want = -(v[3] + v[14] + v[27]) / 3;
  NEAR(tfp_item(tfp_cross_entropy(ctx, x, tfp_from_ints(ctx, 1, &one, labels), 1.0 / 3)), want,
       1e-6);
  OK(ctx);
  tfp_step_reset(ctx);
}

/* ---- the tape ---- */

static void gradients_accumulate(void) {
  tfp_tensor *x = numbers(1, 3, 0, 0, 1);
  float once[3], twice[3];
  int i;
  tfp_backward(ctx, weigh(tfp_mul(ctx, x, x)));
  tfp_read(ctx, tfp_grad(x), once, 3);
  tfp_backward(ctx, weigh(tfp_mul(ctx, x, x)));
  tfp_read(ctx, tfp_grad(x), twice, 3);
  for (i = 0; i < 3; i++) NEAR(twice[i], 2 * once[i], 1e-6);
  OK(ctx);
}
static void backward_refuses(void) {
  tfp_tensor *x = numbers(1, 3, 0, 0, 1), *loss;
  tfp_backward(ctx, x);
  FAILS(ctx, TFP_ERR_SHAPE, "needs one number, got (3)");
  tfp_backward(ctx, tfp_full(ctx, 0, NULL, 1));
  FAILS(ctx, TFP_ERR_STATE, "nothing below the loss");
  loss = weigh(x);
  tfp_backward(ctx, loss);
  tfp_backward(ctx, loss);
  FAILS(ctx, TFP_ERR_STATE, "walked already");
  x = numbers(1, 3, 0, 0, 1);
  loss = tfp_mul(ctx, x, x);
  tfp_backward(ctx, weigh(loss));
  CHECK(!tfp_mul(ctx, loss, x)); /* what is below it would get nothing */
  FAILS(ctx, TFP_ERR_STATE, "mul: the tape of its input (3) was walked already");
  tfp_no_grad_begin(ctx);
  loss = weigh(x);
  tfp_no_grad_end(ctx);
  tfp_backward(ctx, loss);
  FAILS(ctx, TFP_ERR_STATE, "nothing below the loss");
}
static void kept_gradients(void) {
  tfp_tensor *x = numbers(1, 3, 0, 0, 1), *y = tfp_mul(ctx, x, x), *z = tfp_exp(ctx, x);
  tfp_keep_grad(y);
  tfp_backward(ctx, tfp_add(ctx, weigh(y), weigh(z)));
  CHECK(tfp_grad(y) != NULL && tfp_grad(z) == NULL);
  OK(ctx);
}
/* A linear_xent whose backward never came must leave nothing in the parameter's gradient. */
static void abandoned_step(void) {
  static const int64_t shape[2] = {5, 4};
  static const int32_t labels[6] = {1, 2, 3, 4, 0, 1};
  const int64_t n = 6;
  float want[20], got[20];
  int pass, i;
  tfp_params *set = tfp_params_create(ctx);
  tfp_param *p = tfp_param_add(set, "w", 2, shape, TFP_INIT_NORMAL, 1);
  tfp_params_finish(set, 1);
  for (pass = 0; pass < 2; pass++) {
    tfp_params_zero_grad(set);
    if (pass)
      tfp_linear_xent(ctx, numbers(2, 6, 4, 0, 9), p->tensor, NULL,
                      tfp_from_ints(ctx, 1, &n, labels), 1);
    if (pass) tfp_step_reset(ctx);
    tfp_backward(ctx, tfp_linear_xent(ctx, numbers(2, 6, 4, 0, 3), p->tensor, NULL,
                                      tfp_from_ints(ctx, 1, &n, labels), 1));
    tfp_read(ctx, tfp_grad(p->tensor), pass ? got : want, 20);
  }
  for (i = 0; i < 20; i++) CHECK(got[i] == want[i]);
  tfp_backward(ctx, tfp_scale(ctx, tfp_linear_xent(ctx, numbers(2, 6, 4, 0, 3), p->tensor, NULL,
                                                  tfp_from_ints(ctx, 1, &n, labels), 1), 2));
  FAILS(ctx, TFP_ERR_ARG, "comes back is 2 and must be 1");
  tfp_params_free(set);
}
static void nan_passes_through(void) {
  static const int64_t shape[2] = {3, 20};
  tfp_tensor *x = tfp_random(ctx, 2, shape, 1, 1), *g = tfp_full(ctx, 1, shape + 1, 1);
  ((float *)x->data)[7] = NAN;
  CHECK(isnan(((float *)tfp_relu(ctx, x)->data)[7]) && isnan(((float *)tfp_gelu(ctx, x)->data)[7]));
  CHECK(isnan(((float *)tfp_tanh(ctx, x)->data)[7]) &&
        isnan(((float *)tfp_sigmoid(ctx, x)->data)[7]));
  CHECK(isnan(((float *)tfp_max(ctx, x, 1)->data)[0]) &&
        !isnan(((float *)tfp_max(ctx, x, 1)->data)[1]));
  CHECK(isnan(((float *)tfp_softmax(ctx, x)->data)[0]) &&
        !isnan(((float *)tfp_softmax(ctx, x)->data)[20]));
  CHECK(isnan(((float *)tfp_layernorm(ctx, x, g, NULL, 1e-5)->data)[3]));
  OK(ctx);
}
static void ids_out_of_range(void) {
  static const int64_t shape[2] = {5, 4}, n = 3;
  static const int32_t ids[3] = {0, 5, 1}, minus[3] = {0, -1, 1};
  tfp_embedding(ctx, tfp_zeros(ctx, 2, shape), tfp_from_ints(ctx, 1, &n, ids), -1);
  FAILS(ctx, TFP_ERR_DATA, "number 1 of (3) is 5, outside [0,5)");
  tfp_cross_entropy(ctx, tfp_zeros(ctx, 2, (const int64_t[2]){3, 4}),
                    tfp_from_ints(ctx, 1, &n, minus), 1);
  FAILS(ctx, TFP_ERR_DATA, "is -1, outside [0,4)");
}

void test_ops(void) {
  ctx = tfp_create(NULL);
  RUN(linear_is_matmul_bias_activation);
  RUN(norm_is_its_formula);
  RUN(linear_xent_is_linear_and_cross_entropy);
  RUN(cross_entropy_is_log_softmax);
  RUN(gradients_accumulate);
  RUN(backward_refuses);
  RUN(kept_gradients);
  RUN(abandoned_step);
  RUN(nan_passes_through);
  RUN(ids_out_of_range);
  tfp_destroy(ctx);
}
