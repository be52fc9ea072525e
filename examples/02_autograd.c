/* 02_autograd.c -- the second rung: gradients, and a network that learns.
 *
 * An op on tensors that want a gradient leaves a note on a tape. tfp_backward reads the tape
 * backwards and applies the chain rule to each note. First one derivative by hand beside the
 * computed one, then a matrix, then a check against differences, then a network of two layers that
 * tells two spirals apart. Shapes: N points, F hidden numbers.
 *
 *   cc -O2 -o 02_autograd 02_autograd.c -lm -lpthread && ./02_autograd
 *
 * Expected last lines:
 *   dloss/dw = 8 (by hand 8), dloss/dx = 12 (by hand 12), dloss/db = 4 (by hand 4)
 *   a second backward adds: dloss/dw = 16
 *   matrix: largest difference to the gradient by hand below 0.00001: yes
 *   network: gradients agree with differences to 0.0001: yes
 *   .................................
 *   .................................
 *   .........###########.............
 *   .......################..........
 *   .....#######....########.........
 *   ..########......#######........##
 *   #########........####.......#####
 *   #########.................#######
 *   #############...........#########
 *   #################################
 *   #################################
 *   loss at first 0.7, at last below 0.02: yes
 *   points on the right side: 128 of 128
 */
#define TFPRE_REAL double /* not float: differences are exact enough to check gradients with */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include <math.h>
#include <stdio.h>

#define PI 3.14159265358979
enum { N = 128, F = 64, STEPS = 600 };

static tfp_tensor *leaf(tfp_ctx *ctx, float value) {
  return tfp_leaf(ctx, tfp_from_floats(ctx, 0, NULL, &value)); /* a leaf wants its gradient */
}

/* loss = (w x + b - 5)^2 at w = 3, x = 2, b = 1: e = w x + b - 5 = 2, and the chain rule gives
 * dloss/de = 2 e = 4, dloss/dw = 4 x = 8, dloss/dx = 4 w = 12, dloss/db = 4. */
static void one_number(tfp_ctx *ctx) {
  tfp_tensor *w = leaf(ctx, 3), *x = leaf(ctx, 2), *b = leaf(ctx, 1);
  const float five = 5;
  tfp_tensor *target = tfp_from_floats(ctx, 0, NULL, &five); /* no leaf: a constant */
  for (int again = 0; again < 2; again++) {
    tfp_tensor *e = tfp_sub(ctx, tfp_add(ctx, tfp_mul(ctx, w, x), b), target);
    tfp_backward(ctx, tfp_mul(ctx, e, e));
    if (again == 0)
      printf("dloss/dw = %.0f (by hand 8), dloss/dx = %.0f (by hand 12), "
             "dloss/db = %.0f (by hand 4)\n",
             tfp_item(tfp_grad(w)), tfp_item(tfp_grad(x)), tfp_item(tfp_grad(b)));
  }
  printf("a second backward adds: dloss/dw = %.0f\n", tfp_item(tfp_grad(w)));
}

/* loss = mean of (X W)^2, Y = X W (8,3): dloss/dY = 2 Y / 24, dloss/dW = X' @ dloss/dY. */
static void one_matrix(tfp_ctx *ctx) {
  tfp_tensor *x = tfp_random(ctx, 2, (int64_t[]){8, 4}, 1.0, 1);
  tfp_tensor *w = tfp_leaf(ctx, tfp_random(ctx, 2, (int64_t[]){4, 3}, 1.0, 2));
  tfp_tensor *y = tfp_matmul(ctx, x, w), *by_hand, *d;
  tfp_backward(ctx, tfp_mean(ctx, tfp_mul(ctx, y, y), TFP_ALL_AXES));
  tfp_no_grad_begin(ctx); /* what follows needs no tape */
  by_hand = tfp_matmul(ctx, tfp_transpose(ctx, x, 0, 1), tfp_scale(ctx, y, 2.0 / 24));
  d = tfp_sub(ctx, tfp_grad(w), by_hand);
  d = tfp_max(ctx, tfp_mul(ctx, d, d), TFP_ALL_AXES);
  tfp_no_grad_end(ctx);
  printf("matrix: largest difference to the gradient by hand below 0.00001: %s\n",
         sqrt(tfp_item(d)) < 1e-5 ? "yes" : "no");
}

/* ---- two spirals ---- */

typedef struct network {
  tfp_tensor *w1, *b1, *w2, *b2; /* (F,2) (F) (2,F) (2) */
  tfp_tensor *x, *labels;        /* (N,2), int32 (N) */
} network;

/* logits = W2 tanh(W1 x + b1) + b2, one row of two numbers a point. */
static tfp_tensor *logits_of(tfp_ctx *ctx, const network *n, tfp_tensor *x) {
  tfp_tensor *h = tfp_linear(ctx, x, n->w1, n->b1, TFP_ACT_TANH); /* (N,F) */
  return tfp_linear(ctx, h, n->w2, n->b2, TFP_ACT_NONE);          /* (N,2) */
}

static tfp_tensor *loss_of(tfp_ctx *ctx, void *user) {
  const network *n = (const network *)user;
  return tfp_cross_entropy(ctx, logits_of(ctx, n, n->x), n->labels, 1.0 / N); /* the mean */
}

/* Data do not survive tfp_step_reset, so each step makes its tensors anew. */
static void make_spirals(tfp_ctx *ctx, network *n, int32_t *labels) {
  float x[2 * N];
  for (int i = 0; i < N; i++) {
    double radius = 0.3 + 1.2 * (i / 2) / (N / 2), angle = PI * (2 * radius + i % 2);
    labels[i] = i % 2; /* the second spiral is the first, turned by half a circle */
    x[2 * i] = (float)(radius * cos(angle));
    x[2 * i + 1] = (float)(radius * sin(angle));
  }
  n->x = tfp_from_floats(ctx, 2, (int64_t[]){N, 2}, x);
  n->labels = tfp_from_ints(ctx, 1, (int64_t[]){N}, labels);
}

static void draw(tfp_ctx *ctx, const network *n) {
  enum { ROWS = 11, COLUMNS = 33 };
  float x[2 * ROWS * COLUMNS];
  int32_t side[ROWS * COLUMNS];
  for (int i = 0; i < ROWS * COLUMNS; i++) {
    x[2 * i] = (float)(i % COLUMNS - COLUMNS / 2) * 0.1f;
    x[2 * i + 1] = (float)(ROWS / 2 - i / COLUMNS) * 0.28f;
  }
  tfp_tensor *points = tfp_from_floats(ctx, 2, (int64_t[]){ROWS * COLUMNS, 2}, x);
  if (tfp_argmax(ctx, logits_of(ctx, n, points), side)) return;
  for (int i = 0; i < ROWS * COLUMNS; i++)
    printf("%c%s", side[i] ? '#' : '.', i % COLUMNS == COLUMNS - 1 ? "\n" : "");
}

static void two_spirals(tfp_ctx *ctx) {
  network n;
  int32_t labels[N], side[N];
  double worst = 1, first = 0, last = 1;
  int right = 0;
  /* Parameters outlive the steps: declared first, then allocated and drawn all at once. */
  tfp_params *set = tfp_params_create(ctx);
  tfp_adamw_desc how = {0};
  tfp_adamw *opt;
  n.w1 = tfp_param_add(set, "w1", 2, (int64_t[]){F, 2}, TFP_INIT_NORMAL, 2.0)->tensor;
  n.b1 = tfp_param_add(set, "b1", 1, (int64_t[]){F}, TFP_INIT_NORMAL, 1.0)->tensor;
  n.w2 = tfp_param_add(set, "w2", 2, (int64_t[]){2, F}, TFP_INIT_NORMAL, 0.02)->tensor;
  n.b2 = tfp_param_add(set, "b2", 1, (int64_t[]){2}, TFP_INIT_ZERO, 0)->tensor;
  tfp_params_finish(set, 1);
  opt = tfp_adamw_create(set, &how);

  make_spirals(ctx, &n, labels);
  tfp_gradcheck(ctx, loss_of, &n, (tfp_tensor *[]){n.w1, n.b1, n.w2, n.b2}, 4, 1e-4, &worst);
  printf("network: gradients agree with differences to 0.0001: %s\n", worst < 1e-4 ? "yes" : "no");
  tfp_params_zero_grad(set);
  for (int step = 0; step < STEPS && !tfp_error(ctx); step++) {
    tfp_step_reset(ctx);
    make_spirals(ctx, &n, labels);
    tfp_tensor *loss = loss_of(ctx, &n);
    tfp_backward(ctx, loss);
    last = tfp_item(loss);
    if (step == 0) first = last;
    tfp_adamw_step(opt, 0.02, NULL); /* also forgets the gradients */
  }
  tfp_no_grad_begin(ctx);
  if (tfp_argmax(ctx, logits_of(ctx, &n, n.x), side)) return;
  for (int i = 0; i < N; i++) right += side[i] == labels[i];
  draw(ctx, &n);
  tfp_no_grad_end(ctx);
  printf("loss at first %.1f, at last below 0.02: %s\n", first, last < 0.02 ? "yes" : "no");
  printf("points on the right side: %d of %d\n", right, N);
}

int main(void) {
  tfp_desc desc = {0};
  desc.level = TFP_LEVEL_PLAIN; /* the vector instructions are for float */
  tfp_ctx *ctx = tfp_create(&desc);
  one_number(ctx);
  one_matrix(ctx);
  two_spirals(ctx);
  int failed = tfp_error(ctx) != TFP_OK;
  if (failed) printf("%s\n", tfp_error_message(ctx));
  tfp_destroy(ctx);
  return failed;
}
