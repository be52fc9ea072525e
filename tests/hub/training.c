/* training.c -- trains a tokenizer for training.py, and says what it makes of lines of text.
 *
 *   training KIND VOCAB THREADS OUT FILES...     KIND: bpe, larger (bpe with ties_larger, GPT-2's
 *                                                special token), wordpiece, cased, unigram
 *
 * Saves to OUT; prints the seconds it took, then the ids of each line of stdin. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../tfpre.h"

static tfp_tokenizer *train(tfp_ctx *ctx, const char *kind, int64_t vocab,
                            const char *const *paths, int n) {
  tfp_bpe_options bpe;
  tfp_wordpiece_options wordpiece;
  memset(&bpe, 0, sizeof bpe);
  memset(&wordpiece, 0, sizeof wordpiece);
  if (!strcmp(kind, "bpe"))
    return tfp_tokenizer_train_bpe(ctx, paths, n, vocab, TFP_SPECIALS_NONE, NULL);
  if (!strcmp(kind, "larger")) {
    bpe.ties_larger = bpe.min_frequency = 1;
    return tfp_tokenizer_train_bpe(ctx, paths, n, vocab, TFP_SPECIALS_GPT2, &bpe);
  }
  wordpiece.cased = !strcmp(kind, "cased");
  if (!strcmp(kind, "unigram"))
    return tfp_tokenizer_train_unigram(ctx, paths, n, vocab, TFP_SPECIALS_T5, NULL);
  return tfp_tokenizer_train_wordpiece(ctx, paths, n, vocab, &wordpiece);
}

int main(int argc, char **argv) {
  static char line[1 << 16];
  static int32_t ids[1 << 16];
  tfp_desc desc;
  tfp_ctx *ctx;
  tfp_tokenizer *tok;
  double start;
  if (argc < 6) return 2;
  memset(&desc, 0, sizeof desc);
  desc.threads = atoi(argv[3]);
  ctx = tfp_create(&desc);
  start = tfp_seconds();
  tok = train(ctx, argv[1], atoi(argv[2]), (const char *const *)(argv + 5), argc - 5);
  printf("%.4f\n", tfp_seconds() - start);
  if (tok) tfp_tokenizer_save(tok, argv[4], 0);
  while (tok && fgets(line, sizeof line, stdin)) {
    int64_t n = (int64_t)strcspn(line, "\n"), i;
    n = tfp_encode(tok, line, n, TFP_ADD_SPECIAL, ids, 1 << 16);
    for (i = 0; i < n; i++) printf(i ? " %d" : "%d", (int)ids[i]);
    printf("\n");
  }
  if (tfp_error(ctx)) fprintf(stderr, "%s\n", tfp_error_message(ctx));
  argc = tfp_error(ctx) != TFP_OK;
  tfp_destroy(ctx);
  return argc;
}
