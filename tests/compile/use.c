/* use.c -- the interface alone, from a second file: works in C and C++, linked to an implementation. */
#include "../../tfpre.h"
#ifdef __cplusplus
extern "C"
#endif
int use_from_here(void);
int use_from_here(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const int64_t shape[2] = {2, 3};
  const int good = tfp_item(tfp_sum(ctx, tfp_full(ctx, 2, shape, 2), TFP_ALL_AXES)) == 12 && !tfp_error(ctx);
  tfp_destroy(ctx);
  return good;
}
