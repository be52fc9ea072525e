/* 06_seq2seq.c -- the sixth rung: an encoder reads, a decoder writes, as in T5 and BART.
 *
 * The encoder sees its text in both directions; the decoder writes from left to right and looks at
 * the encoder through cross attention. The objectives that pre-train such models are shown on one
 * sentence. Then a tiny BART learns what the design was made for: translation, here from English
 * into the invented language of world.h, whose words are in another order and carry endings.
 *
 *   cc -O2 -o 06_seq2seq 06_seq2seq.c -lm -lpthread && ./06_seq2seq
 *
 * It writes 06_seq2seq.txt, and removes it at the end.
 *
 * Expected last lines:
 *   English:     The small dogs did not see a red kite in the garden.
 *   translated:  Murari sipiri fulipe velon ruva o ne tolot.
 *   loss below 0.1 nats a token: yes
 *   of 100 sentences that it has never seen it translates at least 90 without an error: yes
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"
#include "world.h"
#include <stdio.h>

enum { SAMPLE = 3000, VOCAB = 900, T = 24, ROWS = 32, STEPS = 500 };
static const char *const path = "06_seq2seq.txt";
static const char *const shown = "The quiet horse found the small bikes near the river.";

static int write_sample(void) { /* a text from which the vocabulary is learned */
  char english[WORLD_MAX], foreign[WORLD_MAX];
  FILE *f = fopen(path, "w");
  if (!f) return 0;
  for (int i = 0; i < SAMPLE; i++) {
    world_translation(1, i, english, sizeof english, foreign, sizeof foreign);
    fprintf(f, "%s\n%s\n", english, foreign);
  }
  return fclose(f) == 0;
}

static int64_t encode(tfp_tokenizer *tok, const char *text, int32_t *ids) { /* <s> text </s> */
  return tfp_encode(tok, text, (int64_t)strlen(text), TFP_ADD_SPECIAL, ids, T);
}
static void put_text(tfp_tokenizer *tok, const char *what, const int32_t *ids, int64_t n) {
  char text[1024];
  if (tfp_decode(tok, ids, n, 0, text, sizeof text) >= 0) printf("%-13s%s\n", what, text);
}

/* Span corruption (T5): spans are replaced by sentinels, the target says what stood there. */
static void show_span_corruption(tfp_ctx *ctx) {
  int32_t text[T], noised[T + 2], target[T + 2], work[4 * T];
  tfp_tokenizer *t5 = tfp_tokenizer_train_bpe(ctx, &path, 1, VOCAB, TFP_SPECIALS_T5, NULL);
  int64_t n = encode(t5, shown, text), ni = 0, nt = 0;
  tfp_span_options span = {0};
  span.density = 0.4, span.mean_length = 2, span.end_id = tfp_tokenizer_specials(t5).eos;
  span.sentinel0 = tfp_tokenizer_specials(t5).sentinel0;
  span.sentinel_step = tfp_tokenizer_specials(t5).sentinel_step;
  tfp_span_corrupt(text, n - 1, &span, 1, 0, noised, &ni, target, &nt, work);
  put_text(t5, "text:", text, n);
  put_text(t5, "T5 reads:", noised, ni);
  put_text(t5, "T5 writes:", target, nt);
  tfp_tokenizer_free(t5);
}

/* Denoising (BART): spans are replaced by one mask each, the target is the whole text. */
static void show_denoising(tfp_tokenizer *tok) {
  int32_t text[T], noised[T], work[7 * T];
  int64_t n = encode(tok, shown, text);
  tfp_denoise_options noise = {0};
  noise.mask_id = tfp_tokenizer_specials(tok).mask, noise.stop_id = -1, noise.vocab = VOCAB;
  put_text(tok, "BART reads:", noised, tfp_denoise(text, n, &noise, 1, 0, noised, work));
  put_text(tok, "BART writes:", text + 1, n - 1); /* its decoder starts with </s>, not <s> */
}

/* ---- batches of translations ---- */

typedef struct pairs {
  tfp_tokenizer *tok;
  tfp_special_ids id;
  int32_t ids[ROWS * T], mask[ROWS * T], dec_ids[ROWS * T], labels[ROWS * T]; /* (ROWS,T) each */
} pairs;

/* Rows first, first+1, ... : what the encoder reads, what the decoder has read before each token
 * that it shall write, and that token. Rows are padded to T; padding is hidden and not scored. */
static tfp_status give_pairs(void *user, uint64_t first, int64_t rows, tfp_batch *batch) {
  pairs *p = (pairs *)user;
  for (int64_t r = 0; r < rows; r++) {
    char english[WORLD_MAX], foreign[WORLD_MAX];
    int32_t *ids = p->ids + r * T, *labels = p->labels + r * T;
    world_translation(1, (int64_t)first + r, english, sizeof english, foreign, sizeof foreign);
    int64_t n = encode(p->tok, english, ids), m = encode(p->tok, foreign, labels);
    if (n < 0 || n > T || m < 0 || m > T) return TFP_ERR_DATA;
    for (int64_t t = 0; t < T; t++) p->mask[r * T + t] = t < n;
    for (; n < T; n++) ids[n] = p->id.pad;
    for (; m < T; m++) labels[m] = TFP_IGNORE_INDEX;
    /* BART's decoder starts with </s> */
    tfp_shift_right(labels, T, p->id.eos, p->id.pad, p->dec_ids + r * T);
  }
  memset(batch, 0, sizeof *batch);
  batch->B = rows, batch->T = batch->S = T, batch->n_labels = rows * T;
  batch->ids = p->ids, batch->mask = p->mask;
  batch->dec_ids = p->dec_ids, batch->labels = p->labels;
  return TFP_OK;
}

static void translate(tfp_model *model, const pairs *p, const char *english, char *out,
                      int64_t max) {
  int32_t ids[T], written[T];
  tfp_gen_desc how = {0}; /* greedy */
  how.max_new = T, how.end_id = p->id.eos;
  int64_t n = encode(p->tok, english, ids);
  n = tfp_generate(model, ids, n, &how, written, T);
  if (n < 0 || tfp_decode(p->tok, written, n, TFP_SKIP_SPECIAL, out, max) < 0) out[0] = 0;
}

int main(void) {
  static pairs p;
  tfp_ctx *ctx = tfp_create(NULL);
  if (!write_sample()) {
    printf("%s cannot be written\n", path);
    return 1;
  }
  p.tok = tfp_tokenizer_train_bpe(ctx, &path, 1, VOCAB, TFP_SPECIALS_ROBERTA, NULL);
  p.id = tfp_tokenizer_specials(p.tok);
  show_span_corruption(ctx);
  show_denoising(p.tok);

  tfp_config c;
  tfp_config_preset("bart-tiny", &c); /* 2 + 2 layers, here of width 64 */
  c.vocab_size = tfp_vocab_size(p.tok), c.hidden = 64, c.head_dim = 32, c.ffn = 256;
  c.max_positions = T, c.init_std = 0.05;
  tfp_model *model = tfp_model_create(ctx, &c, 1);

  tfp_train_desc train = {0};
  train.source = give_pairs, train.source_user = &p, train.rows = ROWS;
  train.lr = 2e-3, train.warmup = 50, train.steps = STEPS, train.schedule = TFP_LINEAR;
  train.adamw.beta2 = 0.98, train.adamw.clip = 1;
  tfp_trainer *trainer = tfp_trainer_create(model, &train);
  tfp_step_info info = {0};
  while (info.step < STEPS && tfp_train_step(trainer, &info) == TFP_OK)
    if (info.step % 100 == 0) printf("step %d loss %.2f\n", (int)info.step, info.loss);

  char english[WORLD_MAX], foreign[WORLD_MAX], said[WORLD_MAX];
  int right = 0;
  for (int i = 1; i <= 100; i++) { /* what world.h calls -1, -2, ... is never among 0, 1, ... */
    world_translation(1, -i, english, sizeof english, foreign, sizeof foreign);
    translate(model, &p, english, said, WORLD_MAX);
    right += strcmp(said, foreign) == 0;
  }
  printf("%d of 100\n", right);
  translate(model, &p, "The small dogs did not see a red kite in the garden.", said, WORLD_MAX);
  printf("English:     The small dogs did not see a red kite in the garden.\n");
  printf("translated:  %s\n", said);
  printf("loss below 0.1 nats a token: %s\n", info.loss < 0.1 ? "yes" : "no");
  printf("of 100 sentences that it has never seen it translates at least 90 without an error: %s\n",
         right >= 90 ? "yes" : "no");
  int failed = tfp_error(ctx) != TFP_OK;
  if (failed) printf("%s\n", tfp_error_message(ctx));
  tfp_destroy(ctx);
  remove(path);
  return failed;
}
