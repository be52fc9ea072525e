/* test.h -- a test harness: checks that count, and a main that fails if one does.
 *
 * A file tests/NAME.c defines test_NAME(), which calls RUN(function) for each of its tests. CHECK
 * goes on after a failure, so one run shows them all. Lines of a test that passes are not printed.
 * */
#ifndef TFPRE_TEST_H
#define TFPRE_TEST_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tfpre.h"

typedef struct test_state {
  int passed, failed, skipped; /* tests */
  int bad;                     /* failed checks of the test that runs */
  int skip;
  const char *only;            /* run tests whose name contains this; NULL: all */
} test_state;
extern test_state test_now;

void test_check(int ok, const char *what, const char *file, int line);
void test_near(double a, double b, double tolerance, const char *what, const char *file, int line);
void test_run(void (*fn)(void), const char *name);
void test_skip(const char *why); /* the running test cannot run here */
const char *test_dir(void); /* a directory under build/ for the running test's files, emptied */
const char *test_path(const char *name); /* in that directory; valid until the 8th call after */
const char *test_shared(
    const char *name); /* a file of ../shared, or NULL (and the test is skipped) */

#define CHECK(x) test_check(!!(x), #x, __FILE__, __LINE__)
/* |a-b| <= tolerance * max(1, |b|) */
#define NEAR(a, b, tolerance)                                                                      \
  test_near((double)(a), (double)(b), (tolerance), #a " near " #b, __FILE__, __LINE__)
/* A call of the library that must succeed, and one that must fail with a status and words in the
 * message. The error is cleared afterwards. */
#define OK(ctx) test_check(tfp_error(ctx) == TFP_OK, tfp_error_message(ctx), __FILE__, __LINE__)
void test_fails(tfp_ctx *ctx, tfp_status status, const char *words, const char *file, int line);
#define FAILS(ctx, status, words) test_fails((ctx), (status), (words), __FILE__, __LINE__)
#define RUN(fn) test_run(fn, #fn)
#endif
