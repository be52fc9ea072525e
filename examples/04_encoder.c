/* 04_encoder.c -- the fourth rung: an encoder learns by masked language modelling.
 *
 * A language of 13 words: each animal lives in one place, and what it does there is left to chance.
 * Some words of each sentence are hidden; the model looks at both sides and says what stood there.
 *
 *   cc -O2 -o 04_encoder 04_encoder.c -lm -lpthread && ./04_encoder
 *
 * Expected last lines:
 *   the fish sleeps in the [MASK]: sea
 *   the [MASK] sleeps in the tree: bird
 *   the fox [MASK] in the wood: a verb, none of them sure
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include <stdio.h>

enum {
  CLS,
  SEP,
  PAD,
  MASK,
  THE,
  IN,
  ANIMALS,
  PLACES = ANIMALS + 4,
  VERBS = PLACES + 4,
  VOCAB = VERBS + 3
};
enum { WORDS = 6, T = WORDS + 2, ROWS = 16 };
static const char *const words[VOCAB] = {"[CLS]", "[SEP]", "[PAD]",  "[MASK]", "the",   "in",
                                         "cat",   "fish",  "bird",   "fox",    "house", "sea",
                                         "tree",  "wood",  "sleeps", "plays",  "eats"};

/* Sentence number n: the ANIMAL VERB in the PLACE, between CLS and SEP. */
static void sentence(uint64_t n, int32_t *out) {
  const int32_t animal = (int32_t)tfp_random_below(1, 1, n, 4),
                verb = (int32_t)tfp_random_below(1, 2, n, 3);
  out[0] = CLS, out[1] = THE, out[2] = ANIMALS + animal, out[3] = VERBS + verb;
  out[4] = IN, out[5] = THE, out[6] = PLACES + animal, out[7] = SEP;
}

/* The trainer asks for examples first ... first+rows-1; each is a function of its number. */
typedef struct source { int32_t ids[ROWS * T], labels[ROWS * T]; tfp_mlm_options options; } source;
static tfp_status next(void *user, uint64_t first, int64_t rows, tfp_batch *b) {
  source *s = (source *)user;
  int32_t tokens[T], work[T];
  int64_t r;
  for (r = 0; r < rows; r++) {
    sentence(first + (uint64_t)r, tokens);
    tfp_mlm(tokens, T, &s->options, 1, first + (uint64_t)r, s->ids + r * T, s->labels + r * T,
            work);
  }
  memset(b, 0, sizeof *b);
  b->B = rows, b->T = T, b->ids = s->ids, b->labels = s->labels, b->n_labels = rows * T;
  return TFP_OK;
}
static void print(const int32_t *ids, const int32_t *labels) {
  int i;
  for (i = 1; i < T - 1; i++)
    printf(" %s%s%s%s", words[ids[i]], labels[i] >= 0 ? " (" : "",
           labels[i] >= 0 ? words[labels[i]] : "", labels[i] >= 0 ? ")" : "");
  printf("\n");
}
/* Hides one word of a sentence and prints the likeliest filling. */
static void ask(tfp_model *m, int animal, int hidden, int want_sure) {
  int32_t ids[T];
  tfp_filled best[1];
  int i;
  ids[0] = CLS, ids[1] = THE, ids[2] = ANIMALS + animal, ids[3] = VERBS, ids[4] = IN, ids[5] = THE;
  ids[6] = PLACES + animal, ids[7] = SEP;
  ids[hidden] = MASK;
  if (tfp_fill(m, ids, T, MASK, 1, 0, best, 1) != 1) return;
  for (i = 1; i < T - 1; i++) printf("%s%s", words[ids[i]], i < T - 2 ? " " : ": ");
  if (want_sure) printf("%s\n", words[best[0].id]);
  else
    printf("%s, %s\n", best[0].id >= VERBS ? "a verb" : words[best[0].id],
           best[0].probability < 0.7 ? "none of them sure" : "sure");
}

int main(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static uint8_t special[VOCAB] = {1, 1, 1, 1};
  static source s;
  tfp_train_desc train;
  tfp_step_info info;
  tfp_config c;
  tfp_batch b;
  int i;

  tfp_config_preset("bert-tiny", &c);
  c.vocab_size = VOCAB, c.hidden = 32, c.heads = 2, c.head_dim = 16, c.ffn = 64,
  c.max_positions = T, c.pad = PAD;
  tfp_model *m = tfp_model_create(ctx, &c, 1);
  s.options.mask_id = MASK, s.options.vocab = VOCAB, s.options.special = special;
  s.options.share = 0.25; /* a usual share is 0.15; these sentences are short */

  next(&s, 0, 3, &b);
  printf("what it is asked, the hidden word behind it:\n");
  for (i = 0; i < 3; i++) print(s.ids + i * T, s.labels + i * T);

  memset(&train, 0, sizeof train);
  train.source = next, train.source_user = &s, train.rows = ROWS;
  train.lr = 3e-3, train.steps = 400, train.warmup = 20;
  tfp_trainer *t = tfp_trainer_create(m, &train);
  while (tfp_trainer_step(t) < train.steps && !tfp_train_step(t, &info))
    if (info.step % 100 == 0)
      printf("step %d, loss %.2f nats a hidden word\n", (int)info.step, info.loss);

  ask(m, 1, 6, 1);
  ask(m, 2, 2, 1);
  ask(m, 3, 3, 0);
  if (tfp_error(ctx)) printf("%s\n", tfp_error_message(ctx));
  tfp_destroy(ctx);
  return 0;
}
