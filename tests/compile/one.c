/* one.c -- the implementation, included twice and after <stdio.h> where EARLY asks for it. */
#if defined(EARLY)
#include <stdio.h>
#endif
#define TFPRE_IMPLEMENTATION
#include "../../tfpre.h"
#include "../../tfpre.h"
#ifdef __cplusplus
extern "C"
#endif
int use_from_here(void);
int main(void) { return !use_from_here(); }
