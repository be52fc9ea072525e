/* static.c -- everything private to this file: no tfp_ name may be seen from outside. */
#define TFPRE_STATIC
#define TFPRE_IMPLEMENTATION
#include "../../tfpre.h"
int main(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const int bad = tfp_error(ctx) != TFP_OK;
  tfp_destroy(ctx);
  return bad;
}
