/* tensor.c -- shapes, strides, views, reading and writing; broadcasting as NumPy does it. */
#include "test.h"

static tfp_ctx *ctx;

static tfp_tensor *counting(int ndim, const int64_t *shape) { /* 0, 1, 2, ... */
  float v[256];
  int i;
  for (i = 0; i < 256; i++) v[i] = (float)i;
  return tfp_from_floats(ctx, ndim, shape, v);
}
static void equals(const tfp_tensor *t, const float *want, int64_t n) {
  float got[256];
  int64_t i;
  CHECK(tfp_numel(t) == n);
  if (tfp_numel(t) != n || tfp_read(ctx, t, got, n)) return;
  for (i = 0; i < n; i++) NEAR(got[i], want[i], 1e-6);
}

static void views_share_data(void) {
  static const int64_t shape[3] = {2, 3, 4}, flat[2] = {6, -1};
  static const int order[3] = {2, 0, 1};
  static const float turned[6] = {1, 5, 9, 13, 17, 21}, cut[4] = {5, 6, 9, 10};
  tfp_tensor *x = counting(3, shape), *p, *s, *part[3];
  p = tfp_permute(ctx, x, order);
  CHECK(p->shape[0] == 4 && p->shape[1] == 2 && p->shape[2] == 3 && !tfp_is_contiguous(p) &&
        p->base == x);
  equals(tfp_slice(ctx, p, 0, 1, 1), turned, 6);
  s = tfp_slice(ctx, tfp_slice(ctx, tfp_slice(ctx, x, 0, 0, 1), 1, 1, 2), 2, 1, 2);
  equals(s, cut, 4);
  ((float *)x->data)[5] = -5;
  CHECK(*(float *)s->data == -5);
  CHECK(tfp_reshape(ctx, x, 2, flat)->shape[1] == 4);
  CHECK(tfp_contiguous(ctx, x) == x && tfp_contiguous(ctx, p) != p);
  CHECK(!tfp_split(ctx, x, 1, 3, part) && ((float *)part[2]->data)[0] == 8);
  CHECK(tfp_transpose(ctx, x, -1, -2)->stride[2] == 4);
  OK(ctx);
}
static void broadcasting(void) {
  static const int64_t a_shape[2] = {2, 1}, b_shape[1] = {3}, c_shape[3] = {2, 1, 3};
  static const float sum[6] = {0, 1, 2, 1, 2, 3};
  tfp_tensor *y = tfp_add(ctx, counting(2, a_shape), counting(1, b_shape));
  CHECK(y->ndim == 2 && y->shape[0] == 2 && y->shape[1] == 3);
  equals(y, sum, 6);
  y = tfp_mul(ctx, counting(3, c_shape), counting(2, a_shape));
  CHECK(y->ndim == 3 && y->shape[0] == 2 && y->shape[1] == 2 && y->shape[2] == 3);
  y = tfp_matmul(ctx, tfp_zeros(ctx, 3, c_shape), tfp_zeros(ctx, 2, (const int64_t[2]){3, 5}));
  CHECK(y->ndim == 3 && y->shape[2] == 5);
  y = tfp_expand(ctx, counting(2, a_shape), 3, (const int64_t[3]){4, 2, 3});
  CHECK(y->stride[0] == 0 && y->stride[2] == 0 && tfp_numel(y) == 24);
  OK(ctx);
}
static void empty_and_scalar(void) {
  static const int64_t none[2] = {0, 3};
  tfp_tensor *e = tfp_zeros(ctx, 2, none), *s = tfp_full(ctx, 0, NULL, 2.5);
  CHECK(tfp_numel(e) == 0 && tfp_item(s) == 2.5);
  CHECK(tfp_item(tfp_sum(ctx, e, TFP_ALL_AXES)) == 0);
  CHECK(tfp_numel(tfp_add(ctx, e, s)) == 0);
  CHECK(isnan(tfp_item(e)) && isnan(tfp_item(NULL)));
  OK(ctx);
}
static void wrong_shapes(void) {
  static const int64_t a[2] = {2, 3}, b[2] = {3, 2}, huge[3] = {1LL << 40, 1LL << 40, 1LL << 40},
                       minus[1] = {-1};
  tfp_tensor *x = counting(2, a), *y = counting(2, b);
  const int64_t big[2] = {7, 1};
  CHECK(!tfp_add(ctx, x, y));
  FAILS(ctx, TFP_ERR_SHAPE, "add: (2,3) and (3,2) differ");
  CHECK(!tfp_matmul(ctx, tfp_named(x, "h3"), tfp_named(counting(2, a), "w")));
  FAILS(ctx, TFP_ERR_SHAPE, "matmul: inner sizes differ: A 'h3' (2,3) @ B 'w' (2,3): 3 != 2");
  CHECK(!tfp_zeros(ctx, 3, huge));
  FAILS(ctx, TFP_ERR_ARG, "more bytes than there can be");
  CHECK(!tfp_zeros(ctx, 1, minus));
  FAILS(ctx, TFP_ERR_ARG, "size -1 of axis 0 is negative");
  CHECK(!tfp_zeros(ctx, 6, huge));
  FAILS(ctx, TFP_ERR_ARG, "6 dimensions");
  CHECK(!tfp_reshape(ctx, x, 2, big));
  FAILS(ctx, TFP_ERR_SHAPE, "6 elements");
  CHECK(!tfp_slice(ctx, x, 1, 2, 2));
  FAILS(ctx, TFP_ERR_ARG, "2 elements from 2 leave axis 1");
  CHECK(!tfp_transpose(ctx, x, 0, 2));
  FAILS(ctx, TFP_ERR_ARG, "axis 2");
  CHECK(!tfp_sum(ctx, x, 5));
  FAILS(ctx, TFP_ERR_ARG, "axis 5");
  CHECK(!tfp_layernorm(ctx, x, y, NULL, 1e-5));
  FAILS(ctx, TFP_ERR_SHAPE, "layernorm: scale (3,2)");
  CHECK(!tfp_concat(ctx, (tfp_tensor *const[2]){x, y}, 2, 0));
  FAILS(ctx, TFP_ERR_SHAPE, "concat");
  CHECK(!tfp_dropout(ctx, x, 1, 0, 0));
  FAILS(ctx, TFP_ERR_ARG, "p = 1");
}
static void null_passes_through(void) {
  CHECK(!tfp_add(ctx, NULL, NULL) && !tfp_softmax(ctx, NULL) &&
        !tfp_linear(ctx, NULL, NULL, NULL, TFP_ACT_NONE));
  CHECK(!tfp_reshape(ctx, NULL, 0, NULL) && !tfp_attention(ctx, NULL, NULL, NULL, 1, NULL));
  OK(ctx);
}
static void read_and_write(void) {
  static const int64_t shape[2] = {2, 3};
  static const float values[6] = {1, 2, 3, 4, 5, 6}, turned[6] = {1, 3, 5, 2, 4, 6};
  tfp_tensor *x = tfp_zeros(ctx, 2, shape), *t = tfp_transpose(ctx, x, 0, 1);
  CHECK(!tfp_write(ctx, t, values, 6));
  equals(x, turned, 6);
  CHECK(tfp_read(ctx, x, (float *)(uintptr_t)values, 5) == TFP_ERR_ARG);
  FAILS(ctx, TFP_ERR_ARG, "5 numbers for (2,3)");
}

void test_tensor(void) {
  ctx = tfp_create(NULL);
  RUN(views_share_data);
  RUN(broadcasting);
  RUN(empty_and_scalar);
  RUN(wrong_shapes);
  RUN(null_passes_through);
  RUN(read_and_write);
  tfp_destroy(ctx);
}
