/* 04_encoder.c -- the fourth rung: an encoder learns by masked language modelling, as BERT did.
 *
 * An encoder's tokens see each other in both directions, so it cannot be asked for the next one: it
 * would look. Instead some tokens are hidden and asked for. The text is the small world of world.h;
 * byte-level BPE learns a vocabulary in which its common words are one token each.
 *
 *   cc -O2 -o 04_encoder 04_encoder.c -lm -lpthread && ./04_encoder
 *
 * It writes 04_encoder.txt, and removes it at the end.
 *
 * Expected last lines:
 *   The next day Tom went back to [MASK] as a baker. -> _work
 *   On Sunday the dog ran away. But it came [MASK]. -> _back
 *   loss before: that of guessing among 768 tokens, ln 768 = 6.64: yes
 *   loss after, on text that was held out, below 1.7: yes
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include "world.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { STORIES = 2000, VOCAB = 768, T = 32, ROWS = 32, STEPS = 500, MOST = 128 };
static const char *const path = "04_encoder.txt";

static int write_stories(void) {
  char text[WORLD_MAX];
  FILE *f = fopen(path, "w");
  if (!f) return 0;
  for (int i = 0; i < STORIES; i++) {
    world_story(1, i, text, sizeof text, NULL);
    fprintf(f, "%s\n", text);
  }
  return fclose(f) == 0;
}

/* A token as it stands in a text, blanks shown as '_'. */
static void put_token(const tfp_tokenizer *tok, int32_t id) {
  int64_t n = 0;
  const char *s = tfp_token_bytes(tok, id, &n);
  putchar(' ');
  for (int64_t i = 0; i < n; i++) putchar(s[i] == ' ' ? '_' : s[i]);
}

/* What BERT hides: 15 percent of the tokens are asked for; 8 in 10 of them become [MASK], 1 a
 * random token, 1 stays. The model never knows which of the tokens that it sees to believe, so it
 * has to understand them all. */
static void show_masking(tfp_tokenizer *tok, const tfp_mlm_options *mlm) {
  static const char *const text = "Mia Stone is a baker from Rome. She has a red kite.";
  int32_t tokens[MOST], ids[MOST], labels[MOST], work[MOST];
  int64_t n = tfp_encode(tok, text, (int64_t)strlen(text), TFP_ADD_SPECIAL, tokens, MOST);
  for (uint64_t index = 0; index < 3; index++) { /* each index hides other tokens */
    tfp_mlm(tokens, n, mlm, 1, index, ids, labels, work);
    printf("input :");
    for (int64_t i = 0; i < n; i++) put_token(tok, ids[i]);
    printf("\nlabels:");
    for (int64_t i = 0; i < n; i++)
      if (labels[i] == TFP_IGNORE_INDEX) printf(" -");
      else put_token(tok, labels[i]);
    printf("\n");
  }
}

/* Shows the likeliest tokens for the one mask in a text. */
static void fill(tfp_model *model, tfp_tokenizer *tok, const char *text, int64_t top) {
  int32_t ids[MOST];
  tfp_filled best[3];
  int64_t n = tfp_encode(tok, text, (int64_t)strlen(text), TFP_ADD_SPECIAL | TFP_PARSE_SPECIAL, ids,
                         MOST);
  int64_t found = tfp_fill(model, ids, n, tfp_tokenizer_specials(tok).mask, top, 0, best, 3);
  printf("%s ->", text);
  for (int64_t i = 0; i < found; i++) put_token(tok, best[i].id);
  printf("\n");
}

int main(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  if (!write_stories()) {
    printf("%s cannot be written\n", path);
    return 1;
  }
  tfp_tokenizer *tok = tfp_tokenizer_train_bpe(ctx, &path, 1, VOCAB, TFP_SPECIALS_BERT, NULL);
  int64_t V = tfp_vocab_size(tok);

  /* The data: stories as one stream of tokens, cut into windows of T with [CLS] and [SEP]. */
  tfp_data_desc text = {0};
  text.paths = &path, text.count = 1, text.tokenizer = tok;
  text.doc_per = TFP_DOC_PER_LINE, text.val_fraction = 0.05;
  tfp_loader_desc load = {0};
  uint8_t *special = (uint8_t *)calloc((size_t)V + 1, 1); /* these are never hidden */
  for (int32_t i = 0; special && i < V; i++) special[i] = (uint8_t)tfp_token_is_special(tok, i);
  load.data = tfp_dataset_load(ctx, &text);
  load.objective = TFP_MLM, load.T = T, load.rows = ROWS;
  load.special = tfp_tokenizer_specials(tok);
  load.mlm.mask_id = load.special.mask, load.mlm.vocab = V, load.mlm.special = special;
  tfp_loader *loader = tfp_loader_create(ctx, &load);
  show_masking(tok, &load.mlm);

  /* The model: BERT's design, 2 layers of width 64. BERT learns a vector for each position; turning
   * queries and keys by their position instead needs far fewer steps. */
  tfp_config c;
  tfp_config_preset("bert-tiny", &c);
  c.vocab_size = V, c.hidden = 64, c.head_dim = 32, c.ffn = 256, c.max_positions = T;
  c.position = TFP_POS_ROTARY, c.init_std = 0.05;
  tfp_model *model = tfp_model_create(ctx, &c, 1);
  double before = tfp_eval_loss(model, loader, TFP_VALIDATION, 64, NULL);

  /* The training: AdamW, the rate rising for a while and then falling along a line. */
  tfp_train_desc train = {0};
  train.source = tfp_loader_source, train.source_user = loader, train.rows = ROWS;
  train.lr = 4e-3, train.warmup = 40, train.steps = STEPS, train.schedule = TFP_LINEAR;
  train.adamw.weight_decay = 0.01, train.adamw.clip = 1;
  tfp_trainer *trainer = tfp_trainer_create(model, &train);
  tfp_step_info info;
  for (int step = 0; step < STEPS && tfp_train_step(trainer, &info) == TFP_OK; step++)
    if (info.step % 100 == 0) printf("step %d loss %.2f\n", (int)info.step, info.loss);
  double after = tfp_eval_loss(model, loader, TFP_VALIDATION, 64, NULL);
  printf("held out: loss %.2f, before %.2f\n", after, before);
  fill(model, tok, "Mia Stone is a [MASK] from Rome.", 3);
  fill(model, tok, "On Monday the [MASK] ran away.", 3);
  fill(model, tok, "The next day Tom went back to [MASK] as a baker.", 1);
  fill(model, tok, "On Sunday the dog ran away. But it came [MASK].", 1);
  printf("loss before: that of guessing among %d tokens, ln %d = %.2f: %s\n", (int)V, (int)V,
         log((double)V), fabs(before - log((double)V)) < 0.2 ? "yes" : "no");
  printf("loss after, on text that was held out, below 1.7: %s\n", after < 1.7 ? "yes" : "no");
  int failed = tfp_error(ctx) != TFP_OK;
  if (failed) printf("%s\n", tfp_error_message(ctx));
  free(special);
  tfp_destroy(ctx);
  remove(path);
  return failed;
}
