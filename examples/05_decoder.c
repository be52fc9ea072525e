/* 05_decoder.c -- the fifth rung: a decoder learns to continue text, byte by byte, from the stories
 * of world.h, whose entropy is known: no model can do better than the floor.
 *
 *   cc -O2 -o 05_decoder 05_decoder.c -lm -lpthread && ./05_decoder
 *
 * Expected last lines:
 *   the loss fell below 1.4 nats a byte: yes
 *   and stayed above the floor of 0.14: yes
 *   the continuation is made of the stories' letters: yes
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include "world.h"
#include <stdio.h>

enum { STORIES = 400, T = 64, ROWS = 12, STEPS = 1200 };

int main(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_tokenizer *tok =
      tfp_tokenizer_bytes(ctx, TFP_SPECIALS_GPT2); /* 256 bytes and <|endoftext|> */
  const int32_t end = tfp_tokenizer_specials(tok).eos;
  static int32_t tokens[STORIES * WORLD_MAX];
  int64_t n = 0, i, made;
  double floor_nats = 0;
  char text[WORLD_MAX], out[512];
  tfp_loader_desc load;
  tfp_train_desc train;
  tfp_step_info info;
  tfp_config c;

  /* All stories one after the other, an end token behind each: windows of T tokens are cut from
   * that. */
  for (i = 0; i < STORIES; i++) {
    double nats;
    const int64_t bytes = world_story(1, i, text, sizeof text, &nats);
    n += tfp_encode(tok, text, bytes, 0, tokens + n, bytes);
    tokens[n++] = end;
    floor_nats += nats;
  }
  printf("%d tokens; one story:\n  %s\n", (int)n, text);

  tfp_config_preset("gpt2-tiny", &c);
  c.vocab_size = tfp_vocab_size(tok), c.hidden = 96, c.heads = 3, c.head_dim = 32, c.ffn = 384;
  c.max_positions = T, c.bos = c.eos = end;
  tfp_model *m = tfp_model_create(ctx, &c, 1);
  memset(&load, 0, sizeof load);
  load.data = tfp_dataset_from_tokens(ctx, tokens, n, tfp_vocab_size(tok), end, 0.1);
  load.T = T, load.rows = ROWS, load.seed = 1, load.special = tfp_tokenizer_specials(tok);
  memset(&train, 0, sizeof train);
  train.source = tfp_loader_source, train.source_user = tfp_loader_create(ctx, &load);
  train.rows = ROWS, train.lr = 3e-3, train.min_lr = 3e-4, train.steps = STEPS, train.warmup = 20;
  train.adamw.clip = 1;
  tfp_trainer *t = tfp_trainer_create(m, &train);
  while (tfp_trainer_step(t) < STEPS && !tfp_train_step(t, &info))
    if (info.step % 200 == 0) printf("step %d, loss %.2f\n", (int)info.step, info.loss);

  const double loss = tfp_eval_loss(m, (tfp_loader *)train.source_user, TFP_VALIDATION, 0, NULL);
  int32_t prompt[64], ids[160];
  tfp_gen_desc g;
  memset(&g, 0, sizeof g);
  g.max_new = 160, g.temperature = 0.5, g.top_k = 20, g.end_id = end, g.vocab = 256, g.seed = 1;
  n = tfp_encode(tok, "In Oslo lives", 13, 0, prompt, 64);
  made = tfp_generate(m, prompt, n, &g, ids, 160);
  tfp_decode(tok, ids, made > 0 ? made : 0, TFP_SKIP_SPECIAL, out, sizeof out);
  printf("In Oslo lives%s\n", out);

  int known = made > 0;
  for (i = 0; out[i]; i++) known &= (out[i] >= ' ' && out[i] <= 'z') || out[i] == '\n';
  printf("the loss fell below 1.4 nats a byte: %s\n", loss < 1.4 ? "yes" : "no");
  printf("and stayed above the floor of 0.14: %s\n",
         loss > 0.14 && floor_nats / (double)n > 0 ? "yes" : "no");
  printf("the continuation is made of the stories' letters: %s\n", known ? "yes" : "no");
  if (tfp_error(ctx)) printf("%s\n", tfp_error_message(ctx));
  tfp_destroy(ctx);
  return 0;
}
