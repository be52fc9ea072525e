/* 01_tensor.c -- the first rung: tensors.
 *
 * Everything in a transformer is a tensor: numbers in a row, and a shape that says how to read
 * them. This program makes some, looks at them through views, combines them, makes a mistake on
 * purpose and shows where the memory goes. No learning yet; that is 02_autograd.c.
 *
 *   cc -O2 -o 01_tensor 01_tensor.c -lm -lpthread && ./01_tensor
 *
 * Expected last lines:
 *   the result of A @ A is NULL, the error is TFP_ERR_SHAPE:
 *     matmul: inner sizes differ: A 'A' (2,3) @ B 'A' (2,3): 3 != 2
 *   exp of that NULL is NULL, and the first error is kept: TFP_ERR_SHAPE
 *   after tfp_clear_error: no error
 *   after tfp_step_reset a tensor lies where the first one lay: yes
 *   1000 steps later malloc was called 0 times more
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include <stdio.h>

/* Prints shape, strides and numbers of a tensor of at most two axes. tfp_read copies the numbers in
 * row-major order, whatever the strides. */
static void show(tfp_ctx *ctx, const char *what, const tfp_tensor *t) {
  float x[32];
  int64_t columns = t && t->ndim > 0 ? t->shape[t->ndim - 1] : 1;
  if (tfp_read(ctx, t, x, tfp_numel(t))) return;
  printf("%s: shape (", what);
  for (int i = 0; i < t->ndim; i++) printf(i ? ",%d" : "%d", (int)t->shape[i]);
  printf("), strides (");
  for (int i = 0; i < t->ndim; i++) printf(i ? ",%d" : "%d", (int)t->stride[i]);
  printf(")\n");
  for (int64_t i = 0; i < tfp_numel(t); i++)
    printf("%6g%s", (double)x[i], (i + 1) % columns ? "" : "\n");
}

/* Strides: element (i,j) of a matrix is data[i*stride[0] + j*stride[1]]. Many changes of shape need
 * only other strides, so they are views: they share the data and copy nothing. */
static void views(tfp_ctx *ctx, tfp_tensor *a) {
  tfp_tensor *at = tfp_transpose(ctx, a, 0, 1);      /* (3,2) */
  tfp_tensor *right = tfp_slice(ctx, a, 1, 1, 2);    /* (2,2): columns 1 and 2 */
  tfp_tensor *flat = tfp_reshape(ctx, a, 1, (int64_t[]){6});
  tfp_tensor *copy = tfp_reshape(ctx, at, 1, (int64_t[]){-1}); /* -1: what is left, 6 here */
  const float new_numbers[] = {20, 30, 50, 60};
  printf("\n-- views --\n");
  show(ctx, "A transposed", at);
  show(ctx, "its columns 1 and 2", right);
  show(ctx, "A flat", flat);
  show(ctx, "A transposed, flat: no strides can say this, so it is a copy", copy);
  if (!at || !copy) return;
  printf("the transpose shares A's data: %s, the copy does: %s\n",
         at->data == a->data ? "yes" : "no", copy->data == a->data ? "yes" : "no");
  tfp_write(ctx, right, new_numbers, 4); /* writing through a view changes what it looks at */
  show(ctx, "A after writing to those columns", a);
}

/* Broadcasting: shapes are aligned at the last axis; an axis that is missing or 1 is repeated. */
static void broadcasting(tfp_ctx *ctx, tfp_tensor *a) {
  const float numbers[] = {100, 200, 300};
  tfp_tensor *row = tfp_from_floats(ctx, 1, (int64_t[]){3}, numbers);
  tfp_tensor *column = tfp_from_floats(ctx, 2, (int64_t[]){2, 1}, numbers);
  printf("\n-- broadcasting --\n");
  show(ctx, "A (2,3) + row (3)", tfp_add(ctx, a, row));
  show(ctx, "A (2,3) * column (2,1)", tfp_mul(ctx, a, column));
  show(ctx, "the row repeated: stride 0 instead of copies",
       tfp_expand(ctx, row, 2, (int64_t[]){2, 3}));
  show(ctx, "mean of each row of A", tfp_mean(ctx, a, -1)); /* -1: the last axis; it stays, as 1 */
}

/* The product C[m,n] = sum over k of A[m,k] B[k,n] does nearly all the work of a transformer. */
static void products(tfp_ctx *ctx, tfp_tensor *a) {
  tfp_tensor *at = tfp_transpose(ctx, a, -1, -2);
  const float weights[] = {1, 0, 0, 0, 0, 1};
  tfp_tensor *w = tfp_from_floats(ctx, 2, (int64_t[]){2, 3}, weights);
  tfp_tensor *batch = tfp_full(ctx, 3, (int64_t[]){4, 5, 2}, 1); /* 4 matrices of (5,2) */
  tfp_tensor *c = tfp_matmul(ctx, batch, a);                     /* (4,5,2) @ (2,3) = (4,5,3) */
  printf("\n-- products --\n");
  show(ctx, "A (2,3) @ A' (3,2)", tfp_matmul(ctx, a, at));
  show(ctx, "A' (3,2) @ A (2,3)", tfp_matmul(ctx, at, a));
  show(ctx, "a layer has its weights as (out,in): linear(A, W) = A @ W'",
       tfp_linear(ctx, a, w, NULL, TFP_ACT_NONE));
  if (c)
    printf("(4,5,2) @ (2,3) = (%d,%d,%d): axes before the last two are a batch\n", (int)c->shape[0],
           (int)c->shape[1], (int)c->shape[2]);
}

/* Nothing aborts. A function that cannot do its work returns NULL and the context keeps the first
 * error; NULL goes through all that follows, so one check at the end of a phase is enough. */
static void errors(tfp_ctx *ctx, tfp_tensor *a) {
  tfp_tensor *wrong, *later;
  printf("\n-- errors --\n");
  tfp_named(a, "A"); /* names make messages readable */
  wrong = tfp_matmul(ctx, a, a);
  printf("the result of A @ A is %s, the error is %s:\n", wrong ? "a tensor" : "NULL",
         tfp_status_name(tfp_error(ctx)));
  printf("  %s\n", tfp_error_message(ctx));
  later = tfp_exp(ctx, wrong);
  printf("exp of that NULL is %s, and the first error is kept: %s\n", later ? "a tensor" : "NULL",
         tfp_status_name(tfp_error(ctx)));
  tfp_clear_error(ctx);
  printf("after tfp_clear_error: %s\n", tfp_error(ctx) ? tfp_error_message(ctx) : "no error");
}

/* Tensors made by ops live in the step arena, one stretch of memory that is given back as a whole.
 * There is no tfp_free for a tensor, and after the first step no malloc. */
static void memory(tfp_ctx *ctx, const void *first_data) {
  const int64_t shape[] = {2, 3};
  int64_t blocks;
  tfp_step_reset(ctx);
  tfp_tensor *again = tfp_zeros(ctx, 2, shape);
  printf("after tfp_step_reset a tensor lies where the first one lay: %s\n",
         again && again->data == first_data ? "yes" : "no");
  blocks = tfp_memory(ctx).blocks;
  for (int step = 0; step < 1000; step++) {
    tfp_step_reset(ctx);
    tfp_exp(ctx, tfp_random(ctx, 2, shape, 1.0, (uint64_t)step));
  }
  printf("1000 steps later malloc was called %d times more\n",
         (int)(tfp_memory(ctx).blocks - blocks));
}

int main(void) {
  tfp_ctx *ctx = tfp_create(NULL); /* NULL: all threads, best instructions, seed 0 */
  const float numbers[] = {1, 2, 3, 4, 5, 6};
  tfp_tensor *a = tfp_from_floats(ctx, 2, (int64_t[]){2, 3}, numbers);
  const void *first_data = a ? a->data : NULL;
  show(ctx, "A", a);
  views(ctx, a);
  broadcasting(ctx, a);
  products(ctx, a);
  if (tfp_error(ctx)) {
    printf("%s\n", tfp_error_message(ctx));
    return 1;
  }
  errors(ctx, a);
  memory(ctx, first_data);
  tfp_destroy(ctx);
  return 0;
}
