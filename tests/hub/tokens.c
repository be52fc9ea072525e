/* tokens.c -- what tests/hub/tokens.py wants of the library and the command line does not have.
 *
 *   tokens save DIR OUT      loads a tokenizer and saves it
 *   tokens spans DIR [MAX_LENGTH TRUNCATE STRIDE LEFT]   < lines, a pair as "A<tab>B"
 *       for each line, and each of its windows, "id,type,sequence,word,start,end ..."
 *   tokens stream DIR PIECE  < text       ids of the text, given in pieces of PIECE bytes
 *   tokens speed DIR         < text       MB per second of tfp_encode line by line, and as a whole
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../tfpre.h"

static void die(const char *why) {
  fprintf(stderr, "tokens: %s\n", why);
  exit(1);
}
static void check(tfp_ctx *ctx) {
  if (tfp_error(ctx)) die(tfp_error_message(ctx));
}
static double now(void) {
  struct timespec t;
  timespec_get(&t, TIME_UTC);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
/* All of standard input; a NUL behind it. */
static char *read_all(int64_t *bytes) {
  size_t n = 0, room = 1 << 16, got;
  char *text = (char *)malloc(room + 1);
  while (text && (got = fread(text + n, 1, room - n, stdin)) > 0)
    if ((n += got) == room) text = (char *)realloc(text, (room *= 2) + 1);
  if (!text) die("no memory");
  text[n] = 0;
  *bytes = (int64_t)n;
  return text;
}

static void spans(tfp_ctx *ctx, tfp_tokenizer *tok, tfp_encode_desc d) {
  int64_t bytes, i;
  char *text = read_all(&bytes), *at = text;
  while (at < text + bytes) {
    char *end = (char *)memchr(at, '\n', (size_t)(text + bytes - at)), *tab;
    const int64_t line = (end ? end : text + bytes) - at;
    tab = (char *)memchr(at, '\t', (size_t)line);
    for (d.window = 0;; d.window++) {
      const int64_t an = tab ? tab - at : line, bn = tab ? line - an - 1 : 0;
      const char *b = tab ? tab + 1 : NULL;
      const int64_t n = tfp_encode_spans(tok, at, an, b, bn, &d, NULL, 0);
      tfp_token_span *t;
      check(ctx);
      if (d.window && n == 0) break;
      t = (tfp_token_span *)malloc((size_t)(n + 1) * sizeof *t);
      if (!t || tfp_encode_spans(tok, at, an, b, bn, &d, t, n) != n) die("another number now");
      printf(d.window ? " |" : "");
      for (i = 0; i < n; i++)
        printf("%s%d,%d,%d,%d,%lld,%lld", i || d.window ? " " : "", (int)t[i].id, (int)t[i].type,
               (int)t[i].sequence, (int)t[i].word, (long long)t[i].start, (long long)t[i].end);
      free(t);
      if (!d.stride) break;
    }
    putchar('\n');
    at += line + 1;
  }
  free(text);
}

static tfp_status emit(void *user, const int32_t *ids, int64_t n) {
  int64_t i;
  (void)user;
  for (i = 0; i < n; i++) printf("%d\n", (int)ids[i]);
  return TFP_OK;
}
static void stream(tfp_ctx *ctx, tfp_tokenizer *tok, int64_t piece) {
  int64_t bytes, i;
  char *text = read_all(&bytes);
  tfp_encoder *enc = tfp_encoder_new(tok, TFP_ADD_SPECIAL, emit, NULL);
  for (i = 0; i < bytes; i += piece)
    tfp_encoder_feed(enc, text + i, bytes - i < piece ? bytes - i : piece);
  tfp_encoder_end(enc);
  check(ctx);
  free(text);
}

static void speed(tfp_ctx *ctx, tfp_tokenizer *tok) {
  int64_t bytes, i, round;
  char *text = read_all(&bytes);
  int32_t *ids = (int32_t *)malloc((size_t)(2 * bytes + 64) * sizeof *ids);
  double best[2] = {1e9, 1e9}, start;
  if (!ids) die("no memory");
  for (round = 0; round < 5; round++) {
    start = now();
    for (i = 0; i < bytes;) {
      const char *end = (const char *)memchr(text + i, '\n', (size_t)(bytes - i));
      const int64_t line = end ? end - text - i : bytes - i;
      tfp_encode(tok, text + i, line, 0, ids, 2 * bytes);
      i += line + 1;
    }
    if (now() - start < best[0]) best[0] = now() - start;
    start = now();
    tfp_encode(tok, text, bytes, 0, ids, 2 * bytes);
    if (now() - start < best[1]) best[1] = now() - start;
  }
  check(ctx);
  printf("%.2f %.2f\n", (double)bytes / best[0] / 1e6, (double)bytes / best[1] / 1e6);
  free(ids);
  free(text);
}

int main(int argc, char **argv) {
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_tokenizer *tok;
  tfp_encode_desc d;
  memset(&d, 0, sizeof d);
  if (argc < 3) die("which command, and which directory?");
  tok = tfp_tokenizer_load(ctx, argv[2]);
  check(ctx);
  if (!strcmp(argv[1], "save") && argc > 3) {
    tfp_make_dir(ctx, argv[3]);
    tfp_tokenizer_save(tok, argv[3], 512);
  } else if (!strcmp(argv[1], "spans")) {
    d.flags = TFP_ADD_SPECIAL | TFP_PARSE_SPECIAL;
    if (argc > 6) {
      d.max_length = atoi(argv[3]), d.truncate = (tfp_truncate)atoi(argv[4]);
      d.stride = atoi(argv[5]), d.from_left = atoi(argv[6]);
    }
    spans(ctx, tok, d);
  } else if (!strcmp(argv[1], "stream") && argc > 3) stream(ctx, tok, atoi(argv[3]));
  else if (!strcmp(argv[1], "speed")) speed(ctx, tok);
  else die("no such command");
  check(ctx);
  tfp_destroy(ctx);
  return 0;
}
