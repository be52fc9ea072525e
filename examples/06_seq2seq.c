/* 06_seq2seq.c -- the sixth rung: an encoder-decoder learns by span corruption, as T5 does. Spans
 * of the text become sentinels; the decoder says what each of them stood for.
 *
 *   cc -O2 -o 06_seq2seq 06_seq2seq.c -lm -lpthread && ./06_seq2seq
 *
 * Expected last lines:
 *   the cat sleeps in <X>  ->  <X> the house
 *   the fish sleeps in <X>  ->  <X> the sea
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include <stdio.h>

enum {
  PAD,
  END,
  THE,
  IN,
  ANIMALS,
  PLACES = ANIMALS + 4,
  VERBS = PLACES + 4,
  Y = VERBS + 3,
  X,
  VOCAB
};
enum { WORDS = 6, ROWS = 16, T = WORDS + 2 };
static const char *const words[VOCAB] = {"<pad>",  "</s>",  "the",   "in",  "cat",  "fish",
                                         "bird",   "fox",   "house", "sea", "tree", "wood",
                                         "sleeps", "plays", "eats",  "<Y>", "<X>"};

static void sentence(uint64_t n,
                     int32_t *out) { /* the ANIMAL VERB in the PLACE: each has its own */
  const int32_t animal = (int32_t)tfp_random_below(1, 1, n, 4),
                verb = (int32_t)tfp_random_below(1, 2, n, 3);
  out[0] = THE, out[1] = ANIMALS + animal, out[2] = VERBS + verb, out[3] = IN, out[4] = THE,
  out[5] = PLACES + animal;
}
static void print(const char *before, const int32_t *ids, int64_t n, const char *after) {
  int64_t i;
  printf("%s", before);
  for (i = 0; i < n && ids[i] != END && ids[i] != PAD; i++)
    printf("%s%s", i ? " " : "", words[ids[i]]);
  printf("%s", after);
}

typedef struct source {
  int32_t ids[ROWS * T], mask[ROWS * T], labels[ROWS * T], dec_ids[ROWS * T];
  tfp_span_options options;
} source;
static tfp_status next(void *user, uint64_t first, int64_t rows, tfp_batch *b) {
  source *s = (source *)user;
  int32_t tokens[WORDS], work[4 * WORDS];
  int64_t r, i, n_in, n_out;
  for (r = 0; r < rows; r++) {
    int32_t *ids = s->ids + r * T, *labels = s->labels + r * T;
    sentence(first + (uint64_t)r, tokens);
    tfp_span_corrupt(tokens, WORDS, &s->options, 1, first + (uint64_t)r, ids, &n_in, labels, &n_out,
                     work);
    for (i = 0; i < T; i++) {
      s->mask[r * T + i] = i < n_in;
      if (i >= n_in) ids[i] = PAD;
      if (i >= n_out) labels[i] = TFP_IGNORE_INDEX;
    }
    tfp_shift_right(labels, T, PAD, PAD, s->dec_ids + r * T); /* the decoder reads its own past */
  }
  memset(b, 0, sizeof *b);
  b->B = rows, b->T = b->S = T, b->ids = s->ids, b->mask = s->mask, b->dec_ids = s->dec_ids;
  b->labels = s->labels, b->n_labels = rows * T;
  return TFP_OK;
}
static void ask(tfp_model *m, int animal) {
  int32_t prompt[6], out[T];
  tfp_gen_desc g;
  int64_t n;
  prompt[0] = THE, prompt[1] = ANIMALS + animal, prompt[2] = VERBS, prompt[3] = IN, prompt[4] = X,
  prompt[5] = END;
  memset(&g, 0, sizeof g);
  g.max_new = T, g.end_id = END;
  n = tfp_generate(m, prompt, 6, &g, out, T);
  print("", prompt, 6, "  ->  ");
  print("", out, n, "\n");
}

int main(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static source s;
  tfp_train_desc train;
  tfp_step_info info;
  tfp_config c;
  tfp_batch b;
  int i;

  tfp_config_preset("t5-tiny", &c);
  c.vocab_size = VOCAB, c.hidden = 32, c.heads = 2, c.head_dim = 16, c.ffn = 64, c.buckets = 8,
  c.max_distance = 16;
  c.pad = PAD, c.eos = END, c.decoder_start = PAD;
  tfp_model *m = tfp_model_create(ctx, &c, 1);
  s.options.density = 0.35, s.options.mean_length = 2, s.options.sentinel0 = X,
  s.options.end_id = END;

  next(&s, 0, 3, &b);
  printf("what it reads and what it must say:\n");
  for (i = 0; i < 3; i++)
    print("  ", s.ids + i * T, T, "  ->  "), print("", s.labels + i * T, T, "\n");

  memset(&train, 0, sizeof train);
  train.source = next, train.source_user = &s, train.rows = ROWS;
  train.lr = 3e-3, train.steps = 600, train.warmup = 20;
  tfp_trainer *t = tfp_trainer_create(m, &train);
  while (tfp_trainer_step(t) < train.steps && !tfp_train_step(t, &info))
    if (info.step % 100 == 0)
      printf("step %d, loss %.2f nats a token\n", (int)info.step, info.loss);

  ask(m, 0);
  ask(m, 1);
  if (tfp_error(ctx)) printf("%s\n", tfp_error_message(ctx));
  tfp_destroy(ctx);
  return 0;
}
