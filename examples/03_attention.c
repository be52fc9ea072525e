/* 03_attention.c -- the third rung: attention by hand, and the same in one op.
 *
 *   cc -O2 -o 03_attention 03_attention.c -lm -lpthread && ./03_attention
 *
 * Expected last lines:
 *   by hand and fused: equal
 *   row 0 looks at: 1.00 0.00 0.00 0.00
 *   weights of the last row sum to 1.00
 *   changing the last token changes rows before it: no (causal), yes (bidirectional)
 *   without positions, swapping two tokens swaps their rows: yes
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include <stdio.h>

enum { T = 4, D = 8 };

/* softmax(Q K' / sqrt(D)) of one head, later keys hidden if causal: q, k (T,D) -> (T,T) */
static tfp_tensor *weights_by_hand(tfp_ctx *ctx, tfp_tensor *q, tfp_tensor *k, int causal) {
  const int64_t square[2] = {T, T};
  int32_t later[T * T];
  tfp_tensor *s = tfp_matmul(ctx, q, tfp_transpose(ctx, k, 0, 1)); /* every query with every key */
  int i;
  s = tfp_scale(ctx, s, 1 / sqrt((double)D));
  for (i = 0; i < T * T; i++) later[i] = causal && i % T > i / T;
  s = tfp_masked_fill(ctx, s, tfp_from_ints(ctx, 2, square, later), -INFINITY);
  return tfp_softmax(ctx, s); /* exp(-inf) is 0: what is hidden weighs nothing */
}
/* Self-attention of x (1,T,D) with x as queries, keys and values. */
static tfp_tensor *fused(tfp_ctx *ctx, tfp_tensor *x, int causal) {
  tfp_attention_desc d;
  memset(&d, 0, sizeof d);
  d.causal = causal;
  return tfp_attention(ctx, x, x, x, 1, &d);
}
/* Largest difference of rows first ... last-1 of two results (1,T,D). */
static double apart(const tfp_tensor *a, const tfp_tensor *b, int first, int last) {
  const tfp_real *x = (const tfp_real *)a->data, *y = (const tfp_real *)b->data;
  double most = 0;
  int i;
  for (i = first * D; i < last * D; i++) most = fmax(most, fabs((double)x[i] - (double)y[i]));
  return most;
}

int main(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const int64_t shape[3] = {1, T, D}, matrix[2] = {T, D};
  tfp_tensor *x = tfp_random(ctx, 3, shape, 1, 1), *m = tfp_reshape(ctx, x, 2, matrix);

  tfp_tensor *w = weights_by_hand(ctx, m, m, 1);         /* (T,T) */
  tfp_tensor *y = tfp_matmul(ctx, w, m);                 /* each row: a weighted sum of values */
  tfp_tensor *z = fused(ctx, x, 1);
  printf("by hand and fused: %s\n",
         apart(tfp_reshape(ctx, y, 3, shape), z, 0, T) < 1e-5 ? "equal" : "different");

  const tfp_real *p = (const tfp_real *)w->data;
  printf("row 0 looks at: %.2f %.2f %.2f %.2f\n", (double)p[0], (double)p[1], (double)p[2],
         (double)p[3]);
  printf("weights of the last row sum to %.2f\n", (double)(p[12] + p[13] + p[14] + p[15]));

  /* A causal row never sees a later token: that is what lets a decoder train on all positions at
   * once. */
  tfp_tensor *changed = tfp_leaf(ctx, x);
  ((tfp_real *)changed->data)[(T - 1) * D] += 5;
  printf("changing the last token changes rows before it: %s (causal), %s (bidirectional)\n",
         apart(z, fused(ctx, changed, 1), 0, T - 1) > 1e-6 ? "yes" : "no",
         apart(fused(ctx, x, 0), fused(ctx, changed, 0), 0, T - 1) > 1e-6 ? "yes" : "no");

  /* Attention alone does not know the order of its keys: positions must be put into the input. */
  tfp_tensor *rows[4], *swapped, *a, *b;
  tfp_split(ctx, x, 1, T, rows);
  { tfp_tensor *keep = rows[1]; rows[1] = rows[2]; rows[2] = keep; }
  swapped = tfp_concat(ctx, rows, T, 1);
  a = fused(ctx, x, 0), b = fused(ctx, swapped, 0);
  a = tfp_contiguous(ctx, tfp_slice(ctx, a, 1, 1, 1)),
  b = tfp_contiguous(ctx, tfp_slice(ctx, b, 1, 2, 1));
  printf("without positions, swapping two tokens swaps their rows: %s\n",
         apart(a, b, 0, 1) < 1e-5 ? "yes" : "no");
  if (tfp_error(ctx)) printf("%s\n", tfp_error_message(ctx));
  tfp_destroy(ctx);
  return 0;
}
