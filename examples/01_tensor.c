/* 01_tensor.c -- the first rung: a context, tensors, views, broadcasting, products, errors.
 *
 *   cc -O2 -o 01_tensor 01_tensor.c -lm -lpthread && ./01_tensor
 *
 * Expected last lines:
 *   x @ x' has shape (2,2): 5 14 / 14 50
 *   rows minus their means: -1 0 1 / -1 0 1
 *   the error: matmul: inner sizes differ: A 'x' (2,3) @ B 'x' (2,3): 3 != 2
 *   after the reset the step holds 0 bytes
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include <stdio.h>

static void show(const char *what, tfp_ctx *ctx, const tfp_tensor *t) {
  float v[64];
  int64_t i, last = t->shape[t->ndim - 1];
  tfp_read(ctx, t, v, tfp_numel(t));
  printf("%s:", what);
  for (i = 0; i < tfp_numel(t); i++) printf("%s %g", i && i % last == 0 ? " /" : "", (double)v[i]);
  printf("\n");
}

int main(void) {
  /* A context owns everything: memory, threads, the first error. All zero is a good description. */
  tfp_ctx *ctx = tfp_create(NULL);
  const int64_t shape[2] = {2, 3}, flat[1] = {-1};
  const float numbers[6] = {0, 1, 2, 3, 4, 5};

  /* Tensors live in the step arena. Row-major: the last axis runs fastest. */
  tfp_tensor *x = tfp_named(tfp_from_floats(ctx, 2, shape, numbers), "x"); /* (2,3) */
  show("x", ctx, x);

  /* Views share the numbers; only shape and strides differ. */
  tfp_tensor *t = tfp_transpose(ctx, x, 0, 1); /* (3,2), strides (1,3) */
  show("x'", ctx, t);
  printf("strides of x' are %d,%d; contiguous: %d\n", (int)t->stride[0], (int)t->stride[1],
         tfp_is_contiguous(t));
  show("its middle row", ctx, tfp_slice(ctx, t, 0, 1, 1));   /* (1,2) */
  show("flat again, in its order", ctx, tfp_reshape(ctx, t, 1, flat)); /* (6), a copy */

  /* matmul(A,B) is A @ B; a transposed view costs nothing. */
  tfp_tensor *p = tfp_matmul(ctx, x, t); /* (2,3) @ (3,2) -> (2,2) */
  char what[64];
  snprintf(what, sizeof what, "x @ x' has shape (%d,%d)", (int)p->shape[0], (int)p->shape[1]);
  show(what, ctx, p);

  /* Broadcasting as in NumPy: (2,3) - (2,1). */
  show("rows minus their means", ctx, tfp_sub(ctx, x, tfp_mean(ctx, x, 1)));

  /* A mistake gives NULL and a message with the shapes; NULL passes through, so one check does. */
  tfp_tensor *wrong = tfp_softmax(ctx, tfp_matmul(ctx, x, x));
  if (!wrong) printf("the error: %s\n", tfp_error_message(ctx));
  tfp_clear_error(ctx);

  /* Nothing is freed by itself: the step is given back whole. */
  tfp_step_reset(ctx);
  printf("after the reset the step holds %d bytes\n", (int)tfp_memory(ctx).step);
  tfp_destroy(ctx);
  return 0;
}
