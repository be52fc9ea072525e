/* 02_autograd.c -- the second rung: gradients. By hand, by the tape, checked by differences; then a
 * network of two layers that learns exclusive or.
 *
 *   cc -O2 -o 02_autograd 02_autograd.c -lm -lpthread && ./02_autograd
 *
 * Expected last lines:
 *   y = sum(x * x): dy/dx = 2 x: 2 4 6
 *   gradcheck of gelu: good
 *   0 xor 0 = 0
 *   0 xor 1 = 1
 *   1 xor 0 = 1
 *   1 xor 1 = 0
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include <stdio.h>

static tfp_tensor *checked(tfp_ctx *ctx, void *user) {
  return tfp_sum(ctx, tfp_gelu(ctx, *(tfp_tensor **)user), TFP_ALL_AXES);
}

/* h = tanh(x W1' + b1), z = h W2' + b2: x (4,2) -> h (4,8) -> z (4,2), a logit for 0 and one for 1
 * */
static tfp_tensor *network(tfp_ctx *ctx, tfp_params *p, tfp_tensor *x) {
  tfp_tensor *h = tfp_linear(ctx, x, tfp_params_find(p, "w1")->tensor,
                             tfp_params_find(p, "b1")->tensor, TFP_ACT_TANH);
  return tfp_linear(ctx, h, tfp_params_find(p, "w2")->tensor, tfp_params_find(p, "b2")->tensor,
                    TFP_ACT_NONE);
}

int main(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const int64_t three = 3, four = 4, in[2] = {4, 2}, w1[2] = {8, 2}, w2[2] = {2, 8};
  const float numbers[3] = {1, 2, 3}, corners[8] = {0, 0, 0, 1, 1, 0, 1, 1};
  const int32_t truth[4] = {0, 1, 1, 0};
  float g[3];
  int32_t answer[4];
  double worst;
  int step, i;

  /* A leaf wants a gradient. Ops on it leave nodes on a tape; backward walks the tape in reverse.
   * */
  tfp_tensor *x = tfp_leaf(ctx, tfp_from_floats(ctx, 1, &three, numbers));
  tfp_backward(ctx, tfp_sum(ctx, tfp_mul(ctx, x, x), TFP_ALL_AXES));
  tfp_read(ctx, tfp_grad(x), g, 3);
  printf("y = sum(x * x): dy/dx = 2 x: %g %g %g\n", (double)g[0], (double)g[1], (double)g[2]);

  /* The same by differences: (f(x+h) - f(x-h)) / 2h. In float32 this is rough; TFPRE_REAL=double is
   * what the library's own tests use. */
  x = tfp_leaf(ctx, tfp_from_floats(ctx, 1, &three, numbers));
  tfp_gradcheck(ctx, checked, &x, &x, 1, 1e-2, &worst);
  printf("gradcheck of gelu: %s\n", worst < 1e-2 ? "good" : "bad");

  /* Parameters outlive the step. One flat array holds them, one their gradients. */
  tfp_params *p = tfp_params_create(ctx);
  tfp_param_add(p, "w1", 2, w1, TFP_INIT_NORMAL, 1);
  tfp_param_add(p, "b1", 1, w1, TFP_INIT_ZERO, 0);
  tfp_param_add(p, "w2", 2, w2, TFP_INIT_NORMAL, 1);
  tfp_param_add(p, "b2", 1, w2, TFP_INIT_ZERO, 0);
  tfp_params_finish(p, 1);
  tfp_adamw *opt = tfp_adamw_create(p, NULL);
  for (step = 0; step < 300; step++) {
    tfp_step_reset(ctx);
    tfp_tensor *z = network(ctx, p, tfp_from_floats(ctx, 2, in, corners));
    tfp_tensor *loss = tfp_cross_entropy(ctx, z, tfp_from_ints(ctx, 1, &four, truth), 0.25);
    tfp_backward(ctx, loss);
    tfp_adamw_step(opt, 0.03, NULL);
  }
  tfp_step_reset(ctx);
  tfp_argmax(ctx, network(ctx, p, tfp_from_floats(ctx, 2, in, corners)), answer);
  for (i = 0; i < 4; i++) printf("%d xor %d = %d\n", i / 2, i % 2, (int)answer[i]);
  if (tfp_error(ctx)) printf("%s\n", tfp_error_message(ctx));
  tfp_destroy(ctx);
  return 0;
}
