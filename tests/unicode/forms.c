/* forms.c -- a line of code points in hex on stdin, what becomes of them on stdout: with the
 * argument nfd, nfc, nfkd, nfkc or lower the code points of that form, with sets the set of the
 * first. For make.py --check; it sees the inside of the header. */
#define TFPRE_IMPLEMENTATION
#include "../../tfpre.h"

enum { MAX = 4096 };

int main(int argc, char **argv) {
  static const char *const forms[] = {"nfd", "nfc", "nfkd", "nfkc", "lower", "sets"};
  static uint32_t in[MAX], out[MAX * TFPI_DECOMPOSE_MAX];
  static int32_t at[MAX], out_at[MAX * TFPI_DECOMPOSE_MAX];
  static char line[MAX * 8];
  tfp_ctx *ctx = tfp_create(NULL);
  tfpi_unicode *u = ctx ? tfpi_unicode_new(&ctx->own) : NULL;
  int form = 0;
  while (form < 6 && (argc < 2 || strcmp(argv[1], forms[form]))) form++;
  if (!u || form == 6) return 1;
  while (fgets(line, sizeof line, stdin)) {
    char *s = line;
    int64_t n = 0, made = 0, i;
    while (*s && *s != '\n' && n < MAX) in[n] = (uint32_t)strtoul(s, &s, 16), at[n] = (int32_t)n, n++;
    if (form < 4) {
      made = tfpi_normal_form(u, in, at, n, form, out, out_at, (int64_t)TFPI_COUNT(out));
      for (i = 0; i < made; i++)
        if (out_at[i] < 0 || out_at[i] >= n) return 1;
    } else if (form == 4)
      for (i = 0; i < n; i++) made += tfpi_unicode_lower_of(u, in[i], out + made);
    else printf("%d", (int)tfpi_unicode_set(u, in[0]));
    for (i = 0; i < made; i++) printf(i ? " %x" : "%x", (unsigned)out[i]);
    printf("\n");
  }
  tfp_destroy(ctx);
  return 0;
}
