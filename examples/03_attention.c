/* 03_attention.c -- the third rung: attention, by hand and fused.
 *
 * Attention lets each token look at others and take a weighted mean of what they offer: its query
 * is compared with every key, a softmax turns the scores into weights, the values are mixed.
 * This program builds it from the ops of the first two rungs, compares it with tfp_attention, and
 * shows three properties: a causal mask hides the future, a padding mask hides what is no token,
 * and without positions attention does not know the order of its tokens.
 *
 * Shapes: B batch, T tokens, C width, H heads, D = C/H width of a head.
 *
 *   cc -O2 -o 03_attention 03_attention.c -lm -lpthread && ./03_attention
 *
 * Expected last lines:
 *   causal: by hand and fused agree to 0.00001: yes, their gradients to 0.0001: yes
 *   causal: another last token changes outputs 0 to 4: no, output 5: yes
 *   not causal: another last token changes outputs 0 to 4: yes
 *   last token hidden by a mask: changing it changes outputs 0 to 4: no
 *   tokens turned round, no positions: the outputs are turned round too: yes
 *   tokens turned round, with positions: the outputs are turned round too: no
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include <math.h>
#include <stdio.h>

enum { B = 1, T = 6, C = 16, H = 2, D = C / H };

/* (B,T,C) -> (B,H,T,D): each head sees D of the C channels. Two views, no copy. */
static tfp_tensor *split_heads(tfp_ctx *ctx, tfp_tensor *x) {
  x = tfp_reshape(ctx, x, 4, (int64_t[]){B, T, H, D});
  return tfp_permute(ctx, x, (int[]){0, 2, 1, 3});
}

/* Attention in five steps. weights: NULL, or gets the softmax (B,H,T,T). */
static tfp_tensor *by_hand(tfp_ctx *ctx, tfp_tensor *q, tfp_tensor *k, tfp_tensor *v, int causal,
                           tfp_tensor **weights) {
  tfp_tensor *s, *o;
  q = split_heads(ctx, q), k = split_heads(ctx, k), v = split_heads(ctx, v);
  s = tfp_matmul(ctx, q, tfp_transpose(ctx, k, -1, -2)); /* 1. (B,H,T,D) @ (B,H,D,T) = (B,H,T,T) */
  s = tfp_scale(ctx, s, 1 / sqrt(D)); /* 2. else scores grow with D, and softmax picks one key */
  if (causal) {                       /* 3. key j > query i is hidden: exp(-infinity) = 0 */
    int32_t hidden[T * T];
    for (int i = 0; i < T * T; i++) hidden[i] = i % T > i / T;
    s = tfp_masked_fill(ctx, s, tfp_from_ints(ctx, 2, (int64_t[]){T, T}, hidden), -INFINITY);
  }
  s = tfp_softmax(ctx, s);     /* 4. weights: each row sums to 1 */
  o = tfp_matmul(ctx, s, v);   /* 5. (B,H,T,T) @ (B,H,T,D) = (B,H,T,D) */
  if (weights) *weights = s;
  o = tfp_permute(ctx, o, (int[]){0, 2, 1, 3});
  return tfp_reshape(ctx, o, 3, (int64_t[]){B, T, C}); /* heads side by side again */
}

/* The same in one call, which never stores the (T,T) weights. */
static tfp_tensor *fused(tfp_ctx *ctx, tfp_tensor *q, tfp_tensor *k, tfp_tensor *v, int causal,
                         tfp_tensor *mask) {
  tfp_attention_desc how = {0};
  how.causal = causal;
  how.mask = mask;
  return tfp_attention(ctx, q, k, v, H, &how);
}

/* Largest difference of two tensors (B,T,C) in their tokens from ... to - 1. */
static double difference(tfp_ctx *ctx, tfp_tensor *a, tfp_tensor *b, int from, int to) {
  float x[B * T * C], y[B * T * C];
  double worst = 0;
  if (tfp_read(ctx, a, x, B * T * C) || tfp_read(ctx, b, y, B * T * C)) return INFINITY;
  for (int i = from * C; i < to * C; i++) worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
  return worst;
}

static const char *yes(int truth) { return truth ? "yes" : "no"; }

/* Self-attention: queries, keys and values are three linear maps of the same tokens. */
typedef struct layer { tfp_tensor *wq, *wk, *wv; } layer; /* (C,C) each */
static tfp_tensor *attend(tfp_ctx *ctx, const layer *l, tfp_tensor *x, int causal,
                          tfp_tensor *mask) {
  return fused(ctx, tfp_linear(ctx, x, l->wq, NULL, TFP_ACT_NONE),
               tfp_linear(ctx, x, l->wk, NULL, TFP_ACT_NONE),
               tfp_linear(ctx, x, l->wv, NULL, TFP_ACT_NONE), causal, mask);
}

static tfp_tensor *turned_round(tfp_ctx *ctx, tfp_tensor *x) { /* token t to place T-1-t */
  float in[B * T * C], out[B * T * C];
  tfp_read(ctx, x, in, B * T * C);
  for (int i = 0; i < T * C; i++) out[i] = in[(T - 1 - i / C) * C + i % C];
  return tfp_from_floats(ctx, 3, (int64_t[]){B, T, C}, out);
}

static void same_result(tfp_ctx *ctx) {
  const int64_t shape[] = {B, T, C};
  tfp_tensor *weights = NULL, *leaves[2][3], *out[2]; /* of either way: q, k, v; their result */
  float w[B * H * T * T];
  for (int causal = 0; causal < 2; causal++) {
    for (int way = 0; way < 2; way++) {
      tfp_tensor **l = leaves[way];
      for (int i = 0; i < 3; i++)
        l[i] = tfp_leaf(ctx, tfp_random(ctx, 3, shape, 1.0, (uint64_t)i));
      out[way] = way == 0 ? by_hand(ctx, l[0], l[1], l[2], causal, &weights)
                          : fused(ctx, l[0], l[1], l[2], causal, NULL);
      tfp_backward(ctx, tfp_sum(ctx, tfp_mul(ctx, out[way], out[way]), TFP_ALL_AXES));
    }
    double apart = difference(ctx, out[0], out[1], 0, T), grads_apart = 0;
    for (int i = 0; i < 3; i++) {
      tfp_tensor *a = tfp_grad(leaves[0][i]), *b = tfp_grad(leaves[1][i]);
      grads_apart = fmax(grads_apart, difference(ctx, a, b, 0, T));
    }
    if (causal && !tfp_read(ctx, weights, w, B * H * T * T)) {
      printf("causal weights of head 0: a row a query, a column a key\n");
      for (int i = 0; i < T * T; i++) printf("%5.2f%s", (double)w[i], i % T == T - 1 ? "\n" : " ");
    }
    printf("%s: by hand and fused agree to 0.00001: %s, their gradients to 0.0001: %s\n",
           causal ? "causal" : "both directions", yes(apart < 1e-5), yes(grads_apart < 1e-4));
  }
}

int main(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const int64_t shape[] = {B, T, C}, square[] = {C, C};
  const int32_t visible[T] = {1, 1, 1, 1, 1, 0};
  same_result(ctx);

  layer l = {tfp_random(ctx, 2, square, 0.3, 10), tfp_random(ctx, 2, square, 0.3, 11),
             tfp_random(ctx, 2, square, 0.3, 12)};
  tfp_tensor *x = tfp_random(ctx, 3, shape, 1.0, 13), *last = tfp_random(ctx, 3, shape, 1.0, 14);
  tfp_tensor *mask = tfp_from_ints(ctx, 2, (int64_t[]){B, T}, visible); /* 0: no token there */
  tfp_tensor *parts[] = {tfp_slice(ctx, x, 1, 0, T - 1), tfp_slice(ctx, last, 1, T - 1, 1)};
  tfp_tensor *y = tfp_concat(ctx, parts, 2, 1); /* x with another last token */
  tfp_tensor *places = tfp_random(ctx, 2, (int64_t[]){T, C}, 1.0, 15); /* a vector a position */

  tfp_tensor *a = attend(ctx, &l, x, 1, NULL), *b = attend(ctx, &l, y, 1, NULL);
  printf("causal: another last token changes outputs 0 to 4: %s, output 5: %s\n",
         yes(difference(ctx, a, b, 0, T - 1) > 0), yes(difference(ctx, a, b, T - 1, T) > 0));
  a = attend(ctx, &l, x, 0, NULL), b = attend(ctx, &l, y, 0, NULL);
  printf("not causal: another last token changes outputs 0 to 4: %s\n",
         yes(difference(ctx, a, b, 0, T - 1) > 0));
  a = attend(ctx, &l, x, 0, mask), b = attend(ctx, &l, y, 0, mask);
  printf("last token hidden by a mask: changing it changes outputs 0 to 4: %s\n",
         yes(difference(ctx, a, b, 0, T - 1) > 0));

  a = turned_round(ctx, attend(ctx, &l, x, 0, NULL));
  b = attend(ctx, &l, turned_round(ctx, x), 0, NULL);
  printf("tokens turned round, no positions: the outputs are turned round too: %s\n",
         yes(difference(ctx, a, b, 0, T) < 1e-5));
  a = turned_round(ctx, attend(ctx, &l, tfp_add(ctx, x, places), 0, NULL));
  b = attend(ctx, &l, tfp_add(ctx, turned_round(ctx, x), places), 0, NULL);
  printf("tokens turned round, with positions: the outputs are turned round too: %s\n",
         yes(difference(ctx, a, b, 0, T) < 1e-5));
  int failed = tfp_error(ctx) != TFP_OK;
  if (failed) printf("%s\n", tfp_error_message(ctx));
  tfp_destroy(ctx);
  return failed;
}
