/* 05_decoder.c -- the fifth rung: a decoder learns to continue text, as GPT does.
 *
 * A decoder's tokens see only what stands before them, so every token can be asked for the next
 * one: a text of T tokens is T questions at once. The tokens are bytes here, the text is the small
 * world of world.h. Since that text is generated, its entropy is known: a floor for the loss.
 *
 *   cc -O2 -o 05_decoder 05_decoder.c -lm -lpthread && ./05_decoder
 *
 * Expected last lines:
 *   The next day Tom went back to w|ork as a
 *   loss before: that of guessing among 257 tokens, ln 257 = 5.55: yes
 *   loss after, on text that was held out, below 0.8: yes
 *   the floor under it, nats a byte: 0.14
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include "world.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { STORIES = 3000, T = 96, ROWS = 8, STEPS = 800 };

/* Stories as token ids, an end token behind each. *entropy gets nats a token: the world tells the
 * probability of every story that it makes, and no model can predict better on average. */
static int32_t *tell_stories(tfp_tokenizer *tok, int64_t *n, double *entropy) {
  char text[WORLD_MAX];
  double nats, sum = 0;
  int32_t *ids = (int32_t *)malloc(sizeof(int32_t) * STORIES * WORLD_MAX);
  *n = 0;
  for (int i = 0; ids && i < STORIES; i++) {
    int64_t bytes = world_story(1, i, text, sizeof text, &nats);
    *n += tfp_encode(tok, text, bytes, 0, ids + *n, WORLD_MAX);
    ids[(*n)++] = tfp_tokenizer_specials(tok).eos;
    sum += nats;
  }
  *entropy = sum / (double)*n;
  return ids;
}

/* The decoder's question at every place: which token comes next? */
static void show_objective(tfp_tokenizer *tok) {
  int32_t tokens[16], ids[16], labels[16];
  int64_t n = tfp_encode(tok, "Mia is a baker", 14, 0, tokens, 16) - 1;
  tfp_clm(tokens, n, -1, 0, ids, labels, NULL, NULL);
  printf("input  ");
  for (int64_t i = 0; i < n; i++) printf("%c ", (char)ids[i]);
  printf("\nlabels ");
  for (int64_t i = 0; i < n; i++) printf("%c ", (char)labels[i]);
  printf("\n");
}

/* Continues a text by up to `most` bytes; temperature 0 always takes the likeliest byte. */
static void go_on(tfp_model *model, tfp_tokenizer *tok, const char *text, int64_t most,
                  double temperature) {
  int32_t prompt[WORLD_MAX], out[200];
  char said[4 * 200];
  tfp_gen_desc how = {0};
  how.max_new = most, how.temperature = temperature, how.top_p = 0.95, how.seed = 2;
  how.end_id = tfp_tokenizer_specials(tok).eos;
  int64_t n = tfp_encode(tok, text, (int64_t)strlen(text), 0, prompt, WORLD_MAX);
  n = tfp_generate(model, prompt, n, &how, out, 200);
  if (n < 0 || tfp_decode(tok, out, n, TFP_SKIP_SPECIAL, said, sizeof said) < 0) return;
  printf("%s|%s\n", text, said);
}

int main(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_tokenizer *tok = tfp_tokenizer_bytes(ctx, TFP_SPECIALS_GPT2); /* 256 bytes, <|endoftext|> */
  double entropy = 0;
  int64_t n = 0;
  int32_t *ids = tell_stories(tok, &n, &entropy);
  show_objective(tok);

  tfp_loader_desc load = {0};
  load.special = tfp_tokenizer_specials(tok);
  load.data = tfp_dataset_from_tokens(ctx, ids, n, tfp_vocab_size(tok), load.special.eos, 0.05);
  load.objective = TFP_CLM, load.T = T, load.rows = ROWS;
  tfp_loader *loader = tfp_loader_create(ctx, &load);
  free(ids);

  tfp_config c; /* GPT-2's design: a learned vector a position, norms before the sub-layers */
  tfp_config_preset("gpt2-tiny", &c);
  c.vocab_size = tfp_vocab_size(tok), c.hidden = 64, c.head_dim = 32, c.ffn = 256;
  c.max_positions = T, c.bos = c.eos = load.special.eos;
  tfp_model *model = tfp_model_create(ctx, &c, 1);

  tfp_train_desc train = {0};
  train.source = tfp_loader_source, train.source_user = loader, train.rows = ROWS;
  train.lr = 5e-3, train.min_lr = 5e-4, train.warmup = 40, train.steps = STEPS;
  train.adamw.beta2 = 0.99, train.adamw.weight_decay = 0.1, train.adamw.clip = 1;
  tfp_trainer *trainer = tfp_trainer_create(model, &train);
  tfp_step_info info;
  double before = tfp_eval_loss(model, loader, TFP_VALIDATION, 64, NULL);
  for (int step = 0; step < STEPS && tfp_train_step(trainer, &info) == TFP_OK; step++)
    if (info.step % 200 == 0) printf("step %d loss %.2f\n", (int)info.step, info.loss);
  double after = tfp_eval_loss(model, loader, TFP_VALIDATION, 64, NULL);
  printf("held out: loss %.2f, before %.2f\n", after, before);
  go_on(model, tok, "Mia is a baker", 200, 0.5);
  go_on(model, tok, "In Rome lives a", 200, 0.5);
  go_on(model, tok, "The next day Tom went back to w", 8, 0);
  printf("loss before: that of guessing among 257 tokens, ln 257 = %.2f: %s\n", log(257.0),
         fabs(before - log(257.0)) < 0.2 ? "yes" : "no");
  printf("loss after, on text that was held out, below 0.8: %s\n", after < 0.8 ? "yes" : "no");
  printf("the floor under it, nats a byte: %.2f\n", entropy);
  int failed = tfp_error(ctx) != TFP_OK;
  if (failed) printf("%s\n", tfp_error_message(ctx));
  tfp_destroy(ctx);
  return failed;
}
