/* main.c -- runs the tests that it was linked with and prints "N passed, N failed" last.
 *
 *   build/tests/float [WORD]     only tests whose name contains WORD
 *   build/tests/float --self     the harness's own test: fails one check, and must return 1
 *
 * The list of test files is in TESTS, which the Makefile sets: X(base) X(files) ... */
#include "test.h"
#include <sys/stat.h>
#include <sys/types.h>
#if !defined(_WIN32)
#include <dirent.h>
#include <unistd.h>
#endif

test_state test_now;
static const char *test_name;

void test_check(int ok, const char *what, const char *file, int line) {
  if (ok) return;
  if (test_now.bad++ < 8) printf("%s:%d: %s: failed: %s\n", file, line, test_name, what);
}
void test_near(double a, double b, double tolerance, const char *what, const char *file, int line) {
  char text[512];
  const double size = fabs(b) > 1 ? fabs(b) : 1;
  snprintf(text, sizeof text, "%s: %.9g and %.9g, apart by %.3g", what, a, b, fabs(a - b));
  test_check(fabs(a - b) <= tolerance * size, text, file, line);
}
void test_fails(tfp_ctx *ctx, tfp_status status, const char *words, const char *file, int line) {
  char text[1024];
  const int same = tfp_error(ctx) == status && strstr(tfp_error_message(ctx), words) != NULL;
  snprintf(text, sizeof text, "wanted %s with \"%s\", got %s: %s", tfp_status_name(status), words,
           tfp_status_name(tfp_error(ctx)), tfp_error_message(ctx));
  test_check(same, text, file, line);
  tfp_clear_error(ctx);
}
void test_skip(const char *why) {
  if (!test_now.skip++) printf("skipped: %s: %s\n", test_name, why);
}
void test_run(void (*fn)(void), const char *name) {
  if (test_now.only && !strstr(name, test_now.only)) return;
  test_name = name;
  test_now.bad = test_now.skip = 0;
  fn();
  if (test_now.bad) test_now.failed++;
  else if (test_now.skip) test_now.skipped++;
  else test_now.passed++;
  fflush(stdout);
}

const char *test_dir(void) {
  static char path[256];
  char old[1024];
  DIR *d;
  struct dirent *e;
  snprintf(path, sizeof path, "build/tests/tmp-%s", test_name);
  mkdir("build", 0777);
  mkdir("build/tests", 0777);
  mkdir(path, 0777);
  d = opendir(path);
  while (d && (e = readdir(d)) != NULL) {
    if (e->d_name[0] == '.' && (!e->d_name[1] || e->d_name[1] == '.')) continue;
    snprintf(old, sizeof old, "%s/%s", path, e->d_name);
    remove(old);
  }
  if (d) closedir(d);
  return path;
}
const char *test_path(const char *name) {
  static char paths[8][512];
  static int next;
  char *p = paths[next++ % 8];
  snprintf(p, sizeof paths[0], "build/tests/tmp-%s/%s", test_name, name);
  return p;
}
const char *test_shared(const char *name) {
  static char paths[8][512];
  static int next;
  char *p = paths[next++ % 8];
  FILE *f;
  snprintf(p, sizeof paths[0], "../shared/%s", name);
  f = fopen(p, "rb");
  if (f) {
    fclose(f);
    return p;
  }
  test_skip(p);
  return NULL;
}

#define X(name) void test_##name(void);
TESTS
#undef X

static void one_failing_check(void) { CHECK(1 == 2); }

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "--self")) {
    RUN(one_failing_check);
  } else {
    if (argc > 1) test_now.only = argv[1];
#define X(name) test_##name();
    TESTS
#undef X
  }
  printf("%d passed, %d failed, %d skipped\n", test_now.passed, test_now.failed, test_now.skipped);
  return test_now.failed != 0;
}
