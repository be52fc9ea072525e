/* nn.c -- sets of parameters: layout, initialisation, gradients that never came */
#include "test.h"

static tfp_ctx *context(uint64_t seed) {
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.threads = 2, d.seed = seed;
  return tfp_create(&d);
}
static tfp_param *add(tfp_params *set, const char *name, int ndim, int64_t a, int64_t b,
                      tfp_init init, double std) {
  int64_t shape[2];
  shape[0] = a, shape[1] = b;
  return tfp_param_add(set, name, ndim, shape, init, std);
}

static void names_are_unique(void) {
  tfp_ctx *ctx = context(1);
  tfp_params *set = tfp_params_create(ctx);
  char name[8] = "a.w";
  tfp_param *p = add(set, name, 2, 3, 4, TFP_INIT_NORMAL, 1);
  name[0] = 'b'; /* the name was copied */
  CHECK(p && !strcmp(p->name, "a.w"));
  CHECK(add(set, "b.w", 1, 5, 0, TFP_INIT_ONE, 2) != NULL);
  CHECK(add(set, "a.w", 1, 5, 0, TFP_INIT_ONE, 1) == NULL);
  FAILS(ctx, TFP_ERR_ARG, "'a.w'");
  CHECK(set->count == 2);
  tfp_params_finish(set, 1);
  CHECK(tfp_params_find(set, "b.w") && tfp_params_find(set, "b.w")->tensor->shape[0] == 5);
  CHECK(!tfp_params_find(set, "c.w") && !tfp_params_find(NULL, "a.w"));
  CHECK(add(set, "c.w", 1, 5, 0, TFP_INIT_ONE, 1) == NULL);
  FAILS(ctx, TFP_ERR_STATE, "'c.w'");
  tfp_params_finish(set, 1);
  FAILS(ctx, TFP_ERR_STATE, "twice");
  tfp_destroy(ctx);
}

static void layout_is_flat(void) {
  tfp_ctx *ctx = context(1);
  tfp_params *set = tfp_params_create(ctx);
  tfp_param *p, *q;
  int64_t numel = 0;
  char *used;
  add(set, "w1", 2, 3, 7, TFP_INIT_NORMAL, 0.5), add(set, "b1", 1, 7, 0, TFP_INIT_ZERO, 0);
  add(set, "w2", 2, 5, 5, TFP_INIT_NORMAL, 0.5), add(set, "b2", 1, 16, 0, TFP_INIT_ONE, 1);
  p = add(set, "bias table", 2, 4, 3, TFP_INIT_NORMAL, 0.5);
  if (p) p->decay = 0;
  add(set, "s", 0, 0, 0, TFP_INIT_ONE, 3);
  CHECK(!tfp_params_finish(set, 1));
  used = (char *)calloc((size_t)set->flat, 1);
  for (p = set->first; p; p = p->next) {
    const int64_t n = tfp_numel(p->tensor);
    int64_t i;
    numel += n;
    CHECK(p->offset % 16 == 0 && p->offset + n <= set->flat);
    CHECK(p->tensor->data == set->data + p->offset &&
          p->tensor->grad->data == set->grad + p->offset);
    CHECK((uintptr_t)p->tensor->data % 64 == 0);
    CHECK(p->tensor->needs_grad && tfp_is_contiguous(p->tensor));
    if (p->decay) CHECK(p->offset + n <= set->decayed);
    else CHECK(p->offset >= set->decayed);
    for (i = 0; i < n; i++) CHECK(!used[p->offset + i]++);
  }
  CHECK(numel == set->numel && set->count == 6);
  CHECK(tfp_params_find(set, "w2")->decay && !tfp_params_find(set, "b2")->decay &&
        !tfp_params_find(set, "bias table")->decay);
  for (numel = 0; numel < set->flat; numel++) /* the gaps hold nothing */
    if (!used[numel]) CHECK(set->data[numel] == 0 && set->grad[numel] == 0);
  free(used);
  q = tfp_params_find(set, "s");
  CHECK(q->tensor->ndim == 0 && tfp_item(q->tensor) == 3);
  set = tfp_params_create(ctx);
  add(set, "w1", 2, 3, 7, TFP_INIT_NORMAL, 0.5);
  CHECK(!tfp_params_finish(set, 0));
  CHECK(set->data && !set->grad && !set->first->tensor->needs_grad);
  tfp_destroy(ctx);
}

/* Draws depend on the seed and the name: not on the order, and not on what else there is. */
static void initialisation_goes_by_name(void) {
  tfp_ctx *ctx = context(1), *other = context(2);
  tfp_params *a = tfp_params_create(ctx), *b = tfp_params_create(ctx),
             *c = tfp_params_create(other);
  tfp_real *x, *y, *z;
  double sum = 0, squares = 0;
  int64_t i, same = 0, n = 300 * 200;
  add(a, "w", 2, 300, 200, TFP_INIT_NORMAL, 0.02), add(a, "v", 2, 300, 200, TFP_INIT_NORMAL, 0.02);
  add(b, "head", 2, 17, 3, TFP_INIT_NORMAL, 1), add(b, "v", 2, 300, 200, TFP_INIT_NORMAL, 0.02);
  add(b, "w", 2, 300, 200, TFP_INIT_NORMAL, 0.02);
  add(c, "w", 2, 300, 200, TFP_INIT_NORMAL, 0.02);
  tfp_params_finish(a, 1), tfp_params_finish(b, 0), tfp_params_finish(c, 0);
  OK(ctx);
  x = (tfp_real *)tfp_params_find(a, "w")->tensor->data,
  y = (tfp_real *)tfp_params_find(b, "w")->tensor->data;
  CHECK(!memcmp(x, y, (size_t)n * sizeof *x));
  y = (tfp_real *)tfp_params_find(a, "v")->tensor->data,
  z = (tfp_real *)tfp_params_find(c, "w")->tensor->data;
  for (i = 0; i < n; i++)
    same += (x[i] == y[i]) + (x[i] == z[i]), sum += (double)x[i],
        squares += (double)x[i] * (double)x[i];
  CHECK(same < 100);
  NEAR(sum / (double)n / 0.02, 0, 0.02);
  NEAR(squares / (double)n / 0.0004, 1, 0.03);
  tfp_destroy(ctx), tfp_destroy(other);
}
static void zero_row_and_constants(void) {
  tfp_ctx *ctx = context(1);
  tfp_params *set = tfp_params_create(ctx);
  tfp_param *w = add(set, "w", 2, 5, 7, TFP_INIT_NORMAL, 1),
            *one = add(set, "one", 1, 9, 0, TFP_INIT_ONE, 0.7);
  tfp_param *zero = add(set, "zero", 2, 2, 2, TFP_INIT_ZERO, 5);
  const tfp_real *x;
  int i;
  w->zero_row = 3;
  tfp_params_finish(set, 1);
  x = (const tfp_real *)w->tensor->data;
  for (i = 0; i < 35; i++) CHECK((x[i] == 0) == (i / 7 == 3));
  for (i = 0; i < 9; i++) NEAR(((tfp_real *)one->tensor->data)[i], 0.7, 1e-7);
  for (i = 0; i < 4; i++) CHECK(((tfp_real *)zero->tensor->data)[i] == 0);
  tfp_destroy(ctx);
}
static void copying(void) {
  tfp_ctx *ctx = context(1), *other = context(2);
  tfp_params *a = tfp_params_create(ctx), *b = tfp_params_create(other),
             *empty = tfp_params_create(ctx);
  tfp_real before;
  add(a, "w", 2, 3, 4, TFP_INIT_NORMAL, 1), add(a, "b", 1, 4, 0, TFP_INIT_ZERO, 0),
      add(a, "x", 1, 4, 0, TFP_INIT_ZERO, 0);
  add(b, "b", 1, 4, 0, TFP_INIT_ONE, 1), add(b, "w", 2, 3, 4, TFP_INIT_NORMAL, 1),
      add(b, "x", 1, 5, 0, TFP_INIT_ONE, 1);
  add(b, "y", 1, 5, 0, TFP_INIT_ONE, 1);
  tfp_params_finish(a, 1), tfp_params_finish(b, 1);
  CHECK(tfp_params_copy(b, a) == 2); /* x has another shape, y is new */
  CHECK(!memcmp(tfp_params_find(a, "w")->tensor->data, tfp_params_find(b, "w")->tensor->data,
                12 * sizeof(tfp_real)));
  CHECK(((tfp_real *)tfp_params_find(b, "b")->tensor->data)[3] == 0);
  CHECK(((tfp_real *)tfp_params_find(b, "x")->tensor->data)[0] == 1);
  before = a->data[0];
  add(empty, "w", 2, 3, 4, TFP_INIT_NORMAL, 1);
  CHECK(tfp_params_copy(a, empty) == 0);
  FAILS(ctx, TFP_ERR_STATE, "finish");
  CHECK(a->data[0] == before);
  tfp_destroy(ctx), tfp_destroy(other);
}

/* A parameter that no gradient reaches is named; zeroing forgets without touching the memory. */
static void untouched_are_reported(void) {
  tfp_ctx *ctx = context(1);
  tfp_params *set = tfp_params_create(ctx);
  tfp_param *w = add(set, "w", 2, 3, 4, TFP_INIT_NORMAL, 1),
            *lost = add(set, "lost", 1, 4, 0, TFP_INIT_NORMAL, 1);
  tfp_param *frozen = add(set, "frozen", 1, 4, 0, TFP_INIT_NORMAL, 1);
  const char *names[3] = {NULL, NULL, NULL};
  double once;
  frozen->frozen = 1;
  tfp_params_finish(set, 1);
  CHECK(!frozen->tensor->needs_grad && w->tensor->needs_grad);
  CHECK(tfp_params_untouched(set, names, 3) == 2 && !strcmp(names[0], "w") &&
        !strcmp(names[1], "lost"));
  tfp_backward(ctx, tfp_sum(ctx, tfp_mul(ctx, tfp_add(ctx, w->tensor, frozen->tensor), w->tensor),
                            TFP_ALL_AXES));
  OK(ctx);
  names[1] = NULL;
  CHECK(tfp_params_untouched(set, names, 1) == 1 && !strcmp(names[0], "lost") && !names[1]);
  CHECK(tfp_params_untouched(set, NULL, 0) == 1);
  once = (double)((tfp_real *)tfp_grad(w->tensor)->data)[5];
  tfp_backward(ctx, tfp_sum(ctx, tfp_mul(ctx, tfp_add(ctx, w->tensor, frozen->tensor), w->tensor),
                            TFP_ALL_AXES));
  NEAR(((tfp_real *)tfp_grad(w->tensor)->data)[5], 2 * once, 1e-6); /* gradients add up */
  tfp_params_zero_grad(set);
  CHECK(tfp_params_untouched(set, NULL, 0) == 2);
  tfp_backward(ctx, tfp_sum(ctx, tfp_mul(ctx, tfp_add(ctx, w->tensor, frozen->tensor), w->tensor),
                            TFP_ALL_AXES));
  NEAR(((tfp_real *)tfp_grad(w->tensor)->data)[5], once, 1e-6); /* and begin anew */
  CHECK(lost->tensor->fresh == 1);
  tfp_destroy(ctx);
}

void test_nn(void) {
  RUN(names_are_unique);
  RUN(layout_is_flat);
  RUN(initialisation_goes_by_name);
  RUN(zero_row_and_constants);
  RUN(copying);
  RUN(untouched_are_reported);
}
