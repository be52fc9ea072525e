/* run.c -- the main job: the three kinds of transformer on a small world, in two minutes on a
 * laptop.
 *
 * Tells a few thousand stories (world.h), pre-trains on them an encoder by masked language
 * modelling, a decoder by causal language modelling and an encoder-decoder by span corruption; then
 * fine-tunes each on its tasks with a few hundred examples, and beside it the same architecture
 * from scratch: same examples, same steps, same rate. The table tells what pre-training was worth,
 * build/report.html shows it.
 *
 *   make run                        or: build/run [--seed N] [--threads N] [--report PATH] [--fast]
 *   build/run --data book.txt       pre-trains on any text; the tasks are the world's, and left out
 *
 * Read main, then pretrain, then finetune. The last lines but for the samples are the table:
 *
 *   encoder mlm loss 6.597 -> 0.755 floor 0.171 sentiment scratch 0.838 pretrained 0.935
 *   encoder mlm loss 6.597 -> 0.755 floor 0.171 entities scratch 0.893 pretrained 0.989
 *   encoder mlm loss 6.597 -> 0.755 floor 0.171 questions scratch 0.545 pretrained 0.590
 *   decoder clm loss 6.523 -> 0.638 floor 0.540 completion scratch 0.325 pretrained 0.795
 *   seq2seq span loss 7.050 -> 0.728 floor 0.151 translation scratch 0.507 pretrained 0.607
 *   seq2seq span loss 7.050 -> 0.728 floor 0.151 summary scratch 0.293 pretrained 0.687
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "report.h"
#include "world.h"

enum { ENCODER, DECODER, SEQ2SEQ, KINDS, TASKS = 6, LONG = 160, TOP = 3, SAID = 6000 };

/* ---- the job ------------------------------------------------------------------------------------
 * */

typedef struct kind {
  const char *name, *objective, *preset;
  tfp_special_style style;
  tfp_objective goal;
  double share;        /* of the text that is hidden */
  int64_t layers, T, rows;
  int steps;
  double lr, init;
  /* made as the job goes on */
  tfp_tokenizer *tok;
  tfp_special_ids special;
  uint8_t *is_special; /* (V) */
  tfp_dataset *data;
  tfp_model *model;
  float *loss;         /* (steps) */
  double first, last, floor;
} kind;

/* An example of a task, encoded. The decoder alone reads a prompt; its ids go on with the answer.
 * */
typedef struct example {
  int32_t ids[LONG], labels[LONG];
  int64_t n, n_labels, prompt;
} example;

typedef struct task {
  const char *name, *measure;
  int kind;
  tfp_head head;
  int64_t labels;      /* classes or tags */
  int train, test, steps;
  int64_t rows;
  double lr;
  void (*make)(const kind *k, uint64_t seed, int64_t index, example *e);
  double scratch, pretrained;
} task;

typedef struct job {
  tfp_ctx *ctx;
  const char *report, *data;
  char corpus[1024], lessons[1024]; /* paths of the text, and of a sample of every task */
  int threads, fast, terminal, stories;
  uint64_t seed;
  double story_nats;                /* the mean entropy of a story */
  kind kinds[KINDS];
  task tasks[TASKS];
  char said[KINDS + 1][SAID];       /* samples of each kind, and translations */
} job;

/* Of the text a fifth or a third is hidden, not 15 %: more to learn from every step. The third
 * model is of BART's shape and learns T5's objective: T5's own start wants another optimiser. */
/* clang-format off */
static const kind all_kinds[KINDS] = {
  {.name = "encoder", .objective = "mlm", .preset = "roberta-tiny", .style = TFP_SPECIALS_ROBERTA,
   .goal = TFP_MLM, .share = 0.2, .layers = 3, .T = 128, .rows = 8, .steps = 700, .lr = 3e-3,
   .init = 0.05},
  {.name = "decoder", .objective = "clm", .preset = "gpt2-tiny", .style = TFP_SPECIALS_GPT2,
   .goal = TFP_CLM, .layers = 3, .T = 128, .rows = 8, .steps = 800, .lr = 3e-3, .init = 0.09},
  {.name = "seq2seq", .objective = "span", .preset = "bart-tiny", .style = TFP_SPECIALS_T5,
   .goal = TFP_SPAN, .share = 0.33, .layers = 2, .T = 32, .rows = 24, .steps = 900, .lr = 3e-3,
   .init = 0.09}};
/* clang-format on */

/* Ends the program after an error of the library, with its one line. */
static void check(const tfp_ctx *ctx, const char *phase) {
  if (!tfp_error(ctx)) return;
  fprintf(stderr, "run: %s: %s\n", phase, tfp_error_message(ctx));
  exit(1);
}

static void fail(const char *what, const char *which) {
  fprintf(stderr, "run: %s '%s': %s\n", what, which, strerror(errno));
  exit(1);
}

static void *room(size_t count, size_t size) {
  void *p = calloc(count, size);
  if (!p) fail("no memory for", "the job");
  return p;
}

/* A line that is written again and again on a terminal; elsewhere now and then. */
static void progress(const job *j, const char *what, int64_t step, int64_t steps, double loss) {
  if (j->terminal) {
    if (step % 5 == 0 || step == steps)
      printf("\r%-28s step %4d of %d   loss %.3f ", what, (int)step, (int)steps, loss);
    if (step == steps) printf("\r%72s\r", "");
  } else if (steps >= 100 && step % (steps / 3) == 0 && step < steps) {
    printf("  %-26s step %4d of %d   loss %.3f\n", what, (int)step, (int)steps, loss);
  }
  fflush(stdout);
}

static void phase_done(const char *what, double began, const char *format, ...) {
  va_list args;
  printf("%-28s %6.1f s   ", what, tfp_seconds() - began);
  va_start(args, format);
  vprintf(format, args);
  va_end(args);
  printf("\n");
  fflush(stdout);
}

/* Adds to the samples that are shown at the end. */
static void say(char *said, const char *format, ...) {
  size_t n = strlen(said);
  va_list args;
  va_start(args, format);
  vsnprintf(said + n, SAID - n, format, args);
  va_end(args);
}

/* ---- text, tokens and floors --------------------------------------------------------------------
 * */

/* The corpus, a story a line; and some texts of every task, so that the tokenizer has met their
 * words. */
static void write_texts(job *j) {
  char a[WORLD_MAX], b[WORLD_MAX];
  double nats, sum = 0;
  FILE *f = fopen(j->corpus, "wb");
  if (!f) fail("cannot write", j->corpus);
  for (int64_t i = 0; i < j->stories; i++) {
    world_story(j->seed, i, a, sizeof a, &nats);
    fprintf(f, "%s\n", a);
    sum += nats;
  }
  j->story_nats = sum / j->stories;
  if (fclose(f)) fail("cannot write", j->corpus);
  f = fopen(j->lessons, "wb");
  if (!f) fail("cannot write", j->lessons);
  for (int64_t i = 0; i < 1500; i++) {
    world_word word[WORLD_MAX_WORDS];
    int64_t start, length;
    int label, words;
    world_sentiment(j->seed, i, a, sizeof a, &label);
    world_entities(j->seed, i, b, sizeof b, word, WORLD_MAX_WORDS, &words);
    fprintf(f, "%s\n%s\n", a, b);
    world_question(j->seed, i, a, sizeof a, b, sizeof b, &start, &length);
    fprintf(f, "%s\n", b);
    world_summary(j->seed, i, a, sizeof a, b, sizeof b);
    fprintf(f, "%s\n", b);
    world_translation(j->seed, i, a, sizeof a, b, sizeof b);
    fprintf(f, "%s\n%s\n", a, b);
  }
  if (fclose(f)) fail("cannot write", j->lessons);
}

static void make_tokens(job *j, kind *k) {
  const char *paths[2];
  tfp_data_desc d;
  paths[0] = j->data ? j->data : j->corpus;
  paths[1] = j->lessons;
  k->tok = tfp_tokenizer_train_bpe(j->ctx, paths, j->data ? 1 : 2, 1024, k->style, NULL);
  check(j->ctx, "tokenizer");
  k->special = tfp_tokenizer_specials(k->tok);
  k->is_special = (uint8_t *)room((size_t)tfp_vocab_size(k->tok), 1);
  for (int32_t i = 0; i < tfp_vocab_size(k->tok); i++)
    k->is_special[i] = (uint8_t)tfp_token_is_special(k->tok, i);
  memset(&d, 0, sizeof d);
  d.paths = paths, d.count = 1, d.tokenizer = k->tok, d.append_end = 1, d.val_fraction = 0.02;
  d.doc_per = j->data ? TFP_DOC_PER_BLANK : TFP_DOC_PER_LINE;
  k->data = tfp_dataset_load(j->ctx, &d);
  check(j->ctx, "data");
}

static int64_t encode(const kind *k, const char *text, int64_t bytes, int32_t *ids, int64_t max) {
  int64_t n = tfp_encode(k->tok, text, bytes, 0, ids, max);
  return n < max ? n : max;
}

/* Text of one token, for labels: without the space in front. */
static void token_word(const kind *k, int32_t id, char *out, size_t size) {
  int64_t n = 0;
  const char *s = tfp_token_bytes(k->tok, id, &n);
  if (n > 1 && *s == ' ') s++, n--;
  snprintf(out, size, "%.*s", (int)n, s ? s : "?");
  for (; *out; out++)
    if ((unsigned char)*out < 32) *out = ' ';
}

static const char *text_of(const kind *k, const int32_t *ids, int64_t n, int flags) {
  static char text[2][4096]; /* two, for one line of output */
  static int which;
  which = !which;
  tfp_decode(k->tok, ids, n, flags | TFP_REPLACE_INVALID, text[which], sizeof text[which]);
  return text[which];
}

/* How many entries a fact could be, seen from outside: those that are one token and not taken by
 * other facts of the story, and as she or he, and as town or person, as the true one. At least 1.
 * */
static int fact_choices(const kind *k, const world_teller *w, int fact, int at_start) {
  int group = world_facts[fact].group, twin = world_groups[group].twin, value = w->value[fact],
      n = 0;
  int32_t ids[8];
  for (int v = 0; v < world_groups[group].n; v++) {
    char word[32] = " ";
    size_t bytes, mine = 0, his = 0;
    const char *s = world_form(group, v, 0, &bytes);
    int shared = v < world_groups[group].shared;
    if (v != value && w->used[group] >> v & 1) continue;
    if (shared != (value < world_groups[group].shared)) continue;
    if (shared && w->used[twin] >> v & 1) continue;
    if (group == WORLD_PEOPLE) {
      const char *a = world_form(group, v, 1, &mine), *b = world_form(group, value, 1, &his);
      if (mine != his || memcmp(a, b, mine) != 0) continue;
    }
    memcpy(word + !at_start, s, bytes);
    if (encode(k, word, (int64_t)bytes + !at_start, ids, 8) == 1) n++;
    else if (v == value) return 1;
  }
  return n > 0 ? n : 1;
}

/* A lower bound of the entropy of a hidden token, in nats, the mean over the tokens of stories.
 *
 * Given the whole rest of a story, and which rows of the grammar it was told by, a fact that is
 * told only once is still any of its entries, all equally likely; every other token counts as
 * known. Who sees less than all that cannot guess better, so no model has a lower expected loss per
 * hidden token. Real models see less (more is hidden, stories are cut, the rows must be guessed):
 * they stay above.
 */
static double hidden_token_nats(const job *j, const kind *k) {
  double nats = 0, tokens = 0;
  int32_t ids[WORLD_MAX];
  for (int64_t i = 0; i < 2000; i++) {
    world_teller w;
    world_begin(&w, j->seed, i, 0);
    world_tell(&w, "story");
    int end = (int)strcspn(w.text, "\n");
    tokens += (double)encode(k, w.text, end, ids, WORLD_MAX);
    for (int s = 0; s < w.spans && w.span[s].start < end; s++) {
      int told = 0, fact = w.span[s].fact;
      for (int o = 0; o < w.spans && w.span[o].start < end; o++) told += w.span[o].fact == fact;
      if (told == 1) nats += log((double)fact_choices(k, &w, fact, w.span[s].start == 0));
    }
  }
  return nats /
         (tokens + (k->goal == TFP_SPAN ? 2000 : 0)); /* span corruption hides end tokens too */
}

/* The entropy of a story's first token, from their frequencies. */
static double first_token_nats(const job *j, const kind *k) {
  double nats = 0, *count = (double *)room((size_t)tfp_vocab_size(k->tok), sizeof *count);
  char text[WORLD_MAX];
  int32_t id;
  for (int64_t i = 0; i < j->stories; i++) {
    world_story(j->seed, i, text, sizeof text, NULL);
    if (encode(k, text, (int64_t)strcspn(text, " "), &id, 1) > 0) count[id]++;
  }
  for (int32_t i = 0; i < tfp_vocab_size(k->tok); i++)
    if (count[i] > 0) nats -= count[i] / j->stories * log(count[i] / j->stories);
  free(count);
  return nats;
}

/* Nats per scored token that no model can go below on average. */
static void set_floor(const job *j, kind *k, const tfp_loader *loader) {
  int64_t T, S, raw = tfp_loader_lengths(loader, &T, &S);
  double tokens = (double)(tfp_dataset_tokens(k->data, TFP_TRAIN) +
                           tfp_dataset_tokens(k->data, TFP_VALIDATION)) / j->stories;
  if (j->data) return;
  /* exact: all of a story and its end, but for its first token, which is not asked for */
  if (k->goal == TFP_CLM) k->floor = (j->story_nats - first_token_nats(j, k)) / (tokens - 1);
  /* one asked token in five is not replaced by the mask, and may be known */
  if (k->goal == TFP_MLM) k->floor = 0.8 * hidden_token_nats(j, k);
  /* T = raw - hidden + spans + 1 and S = hidden + spans + 1: sentinels and the end are scored too
   * */
  if (k->goal == TFP_SPAN)
    k->floor = hidden_token_nats(j, k) * (double)((raw + S - T) / 2) / (double)S;
}

/* ---- pre-training -------------------------------------------------------------------------------
 * */

static double mean(const float *x, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += (double)x[i];
  return n > 0 ? sum / n : 0;
}

static void train(const job *j, tfp_model *model, const tfp_train_desc *d, const char *what,
                  float *loss) {
  tfp_trainer *trainer = tfp_trainer_create(model, d);
  tfp_step_info info;
  for (int64_t step = 0; step < d->steps && !tfp_train_step(trainer, &info); step++) {
    loss[step] = (float)info.loss;
    progress(j, what, info.step, d->steps, info.loss);
  }
  check(j->ctx, what);
  tfp_trainer_free(trainer);
}

static void configure(const kind *k, tfp_config *c) {
  tfp_config_preset(k->preset, c);
  c->vocab_size = tfp_vocab_size(k->tok);
  c->hidden = 128, c->heads = 4, c->head_dim = 32, c->ffn = 512;
  if (c->encoder_layers) c->encoder_layers = k->layers;
  if (c->decoder_layers) c->decoder_layers = k->layers;
  /* what came after these families, and learns sooner: rotary positions, and norms in front */
  c->position = TFP_POS_ROTARY, c->position_offset = c->positions_skip_pad = 0;
  c->norm_first = c->final_norm = 1, c->init_std = k->init;
  c->decoder_start = k->special.pad;
  c->bos = k->special.bos, c->eos = k->special.eos, c->pad = k->special.pad;
}

static tfp_mlm_options mlm_options(const kind *k) {
  tfp_mlm_options o;
  memset(&o, 0, sizeof o);
  o.share = k->share, o.mask_id = k->special.mask;
  o.vocab = tfp_vocab_size(k->tok), o.special = k->is_special;
  return o;
}
static tfp_span_options span_options(const kind *k) {
  tfp_span_options o;
  memset(&o, 0, sizeof o);
  o.density = k->share, o.end_id = k->special.eos;
  o.sentinel0 = k->special.sentinel0, o.sentinel_step = k->special.sentinel_step;
  return o;
}

static void pretrain(job *j, kind *k) {
  const double began = tfp_seconds();
  char what[64];
  tfp_loader_desc l;
  tfp_train_desc t;
  tfp_config c;
  memset(&l, 0, sizeof l);
  memset(&t, 0, sizeof t);
  l.data = k->data, l.objective = k->goal, l.T = k->T, l.rows = k->rows, l.seed = j->seed;
  l.special = k->special, l.decoder_start = k->special.pad;
  l.mlm = mlm_options(k), l.span = span_options(k);
  l.separate = 1; /* the decoder's: stories do not see each other */
  tfp_loader *loader = tfp_loader_create(j->ctx, &l);
  configure(k, &c);
  k->model = tfp_model_create(j->ctx, &c, 1);
  check(j->ctx, "model");
  t.lr = k->lr, t.min_lr = k->lr / 20, t.steps = k->steps, t.warmup = k->steps / 12;
  t.rows = k->rows, t.adamw.weight_decay = 0.01, t.adamw.clip = 1, t.adamw.beta2 = 0.98;
  t.source = tfp_loader_source, t.source_user = loader;
  k->loss = (float *)room((size_t)k->steps, sizeof *k->loss);
  snprintf(what, sizeof what, "%s: pre-training", k->name);
  train(j, k->model, &t, what, k->loss);
  int late = k->steps < 200 ? k->steps / 4 : 50;
  k->first = mean(k->loss, k->steps < 10 ? k->steps : 10);
  k->last = mean(k->loss + k->steps - late, late);
  set_floor(j, k, loader);
  double held_out = tfp_eval_loss(k->model, loader, TFP_VALIDATION, 64, NULL);
  check(j->ctx, what);
  tfp_loader_free(loader);
  phase_done(what, began, "%.1f million parameters, loss %.3f -> %.3f, held-out %.3f",
             (double)tfp_model_parameters(k->model) / 1e6, k->first, k->last, held_out);
  if (!(k->last < INFINITY)) {
    fprintf(stderr, "run: %s: the loss is not a number\n", what);
    exit(1);
  }
}

/* ---- tasks: examples ----------------------------------------------------------------------------
 * */

static void add(example *e, int32_t id, int32_t label) {
  if (e->n < LONG) e->ids[e->n] = id, e->labels[e->n++] = label;
}
/* Adds a piece of text; its first token gets the label. */
static int64_t add_text(const kind *k, example *e, const char *text, int64_t bytes, int32_t label) {
  int32_t ids[LONG];
  int64_t n = encode(k, text, bytes, ids, LONG), at = e->n;
  for (int64_t i = 0; i < n; i++) add(e, ids[i], i ? TFP_IGNORE_INDEX : label);
  return at;
}

/* The text, then " So she was <mask>": what a model of masked words thinks there is a mood. The
 * class is read at the mask, the last token. */
static void make_sentiment(const kind *k, uint64_t seed, int64_t index, example *e) {
  char text[WORLD_MAX + 16];
  int label;
  int64_t n = world_sentiment(seed, index, text, WORLD_MAX, &label);
  n += snprintf(text + n, 16, " So she was");
  add(e, k->special.bos, 0);
  add_text(k, e, text, n, 0);
  add(e, k->special.mask, 0);
  e->labels[0] = label;
  e->n_labels = 1;
}

/* The first token of a word carries its tag. */
static void make_entities(const kind *k, uint64_t seed, int64_t index, example *e) {
  char text[WORLD_MAX];
  world_word word[WORLD_MAX_WORDS];
  int words;
  world_entities(seed, index, text, sizeof text, word, WORLD_MAX_WORDS, &words);
  add(e, k->special.bos, TFP_IGNORE_INDEX);
  for (int i = 0; i < words; i++) {
    int space = word[i].start > 0 && text[word[i].start - 1] == ' ';
    add_text(k, e, text + word[i].start - space, word[i].bytes + space, word[i].tag);
  }
  add(e, k->special.eos, TFP_IGNORE_INDEX);
  e->n_labels = e->n;
}

/* <s> question </s></s> context </s>; the labels are the first and the last token of the answer. */
static void make_question(const kind *k, uint64_t seed, int64_t index, example *e) {
  char text[WORLD_MAX], question[WORLD_MAX];
  int64_t start, length;
  int64_t n =
      world_question(seed, index, text, sizeof text, question, sizeof question, &start, &length);
  int64_t end = start + length;
  if (start > 0) start--; /* the space belongs to the answer's first token */
  add(e, k->special.bos, 0);
  add_text(k, e, question, (int64_t)strlen(question), 0);
  add(e, k->special.eos, 0);
  add(e, k->special.eos, 0);
  e->prompt = e->n; /* answers are looked for from here */
  add_text(k, e, text, start, 0);
  int64_t first = add_text(k, e, text + start, end - start, 0), last = e->n - 1;
  add_text(k, e, text + end, n - end, 0);
  add(e, k->special.eos, 0);
  e->labels[0] = (int32_t)first, e->labels[1] = (int32_t)last;
  e->n_labels = 2;
}

/* The story, then the answer and its full stop, which alone are scored. */
static void make_completion(const kind *k, uint64_t seed, int64_t index, example *e) {
  char text[WORLD_MAX], answer[WORLD_MAX + 2] = " ";
  int64_t n = world_completion(seed, index, text, sizeof text, answer + 1, WORLD_MAX);
  strcat(answer, ".");
  add_text(k, e, text, n, TFP_IGNORE_INDEX);
  e->prompt = e->n;
  add_text(k, e, answer, (int64_t)strlen(answer), 0);
  for (int64_t t = 0; t < e->n; t++)
    e->labels[t] = t + 1 < e->prompt ? TFP_IGNORE_INDEX : e->ids[t + 1];
  e->n_labels = --e->n; /* nobody reads the full stop */
}

static void make_pair(const kind *k, const char *from, const char *to, example *e) {
  add_text(k, e, from, (int64_t)strlen(from), 0);
  add(e, k->special.eos, 0);
  e->n_labels = encode(k, to, (int64_t)strlen(to), e->labels, LONG - 1);
  e->labels[e->n_labels++] = k->special.eos;
}
static void make_translation(const kind *k, uint64_t seed, int64_t index, example *e) {
  char from[WORLD_MAX], to[WORLD_MAX];
  world_translation(seed, index, from, sizeof from, to, sizeof to);
  make_pair(k, from, to, e);
}
static void make_summary(const kind *k, uint64_t seed, int64_t index, example *e) {
  char from[WORLD_MAX], to[WORLD_MAX];
  world_summary(seed, index, from, sizeof from, to, sizeof to);
  make_pair(k, from, to, e);
}

static const task all_tasks[TASKS] = {
  {.name = "sentiment", .measure = "accuracy", .kind = ENCODER, .head = TFP_HEAD_CLASS, .labels = 2,
   .train = 200, .test = 400, .steps = 160, .rows = 16, .lr = 1e-3, .make = make_sentiment},
  {.name = "entities", .measure = "F1", .kind = ENCODER, .head = TFP_HEAD_TAG, .labels = WORLD_TAGS,
   .train = 50, .test = 400, .steps = 80, .rows = 16, .lr = 1.5e-3, .make = make_entities},
  {.name = "questions", .measure = "exact match", .kind = ENCODER, .head = TFP_HEAD_QA,
   .train = 600, .test = 400, .steps = 200, .rows = 16, .lr = 4e-3, .make = make_question},
  {.name = "completion", .measure = "exact match", .kind = DECODER, .head = TFP_HEAD_LM,
   .train = 300, .test = 200, .steps = 100, .rows = 16, .lr = 1e-3, .make = make_completion},
  {.name = "translation", .measure = "exact match", .kind = SEQ2SEQ, .head = TFP_HEAD_LM,
   .train = 400, .test = 150, .steps = 400, .rows = 16, .lr = 3e-3, .make = make_translation},
  {.name = "summary", .measure = "exact match", .kind = SEQ2SEQ, .head = TFP_HEAD_LM,
   .train = 400, .test = 150, .steps = 250, .rows = 16, .lr = 2e-3, .make = make_summary}};

/* Many examples, and room for one batch of them. */
typedef struct lesson {
  const job *job;
  const task *task;
  const kind *kind;
  example *e;
  int64_t count, T, S; /* of the longest example */
  int32_t *ids, *mask, *labels, *dec_ids;
} lesson;

static void open_lesson(lesson *l, const job *j, const task *t, int64_t first, int64_t step,
                        int64_t count) {
  memset(l, 0, sizeof *l);
  l->job = j, l->task = t, l->kind = &j->kinds[t->kind], l->count = count;
  l->e = (example *)room((size_t)count, sizeof *l->e);
  for (int64_t i = 0; i < count; i++) {
    t->make(l->kind, j->seed, first + step * i, &l->e[i]);
    if (l->e[i].n > l->T) l->T = l->e[i].n;
    if (l->e[i].n_labels > l->S) l->S = l->e[i].n_labels;
  }
  if (t->head == TFP_HEAD_TAG || (t->head == TFP_HEAD_LM && t->kind == DECODER)) l->S = l->T;
  l->ids = (int32_t *)room((size_t)(t->rows * LONG), 4 * sizeof *l->ids);
  l->mask = l->ids + t->rows * LONG, l->labels = l->mask + t->rows * LONG;
  l->dec_ids = l->labels + t->rows * LONG;
}
static void close_lesson(lesson *l) {
  free(l->e);
  free(l->ids);
}

/* A batch of examples, padded to the longest of all. */
static void fill_batch(lesson *l, const int64_t *which, int64_t rows, tfp_batch *b) {
  const kind *k = l->kind;
  const int32_t pad = k->special.pad >= 0 ? k->special.pad : 0;
  for (int64_t r = 0; r < rows; r++) {
    const example *e = &l->e[which[r]];
    for (int64_t i = 0; i < l->T; i++) {
      l->ids[r * l->T + i] = i < e->n ? e->ids[i] : pad;
      l->mask[r * l->T + i] = i < e->n;
    }
    for (int64_t i = 0; i < l->S; i++)
      l->labels[r * l->S + i] = i < e->n_labels ? e->labels[i] : TFP_IGNORE_INDEX;
    tfp_shift_right(l->labels + r * l->S, l->S, pad, pad, l->dec_ids + r * l->S);
  }
  memset(b, 0, sizeof *b);
  b->B = rows, b->T = l->T, b->ids = l->ids, b->labels = l->labels, b->n_labels = rows * l->S;
  if (l->task->kind != DECODER)
    b->mask = l->mask; /* what follows is not seen by a decoder anyway */
  if (l->task->kind == SEQ2SEQ) b->S = l->S, b->dec_ids = l->dec_ids;
}

/* The trainer's source: the examples in a new random order every epoch. */
static tfp_status lesson_source(void *user, uint64_t first, int64_t rows, tfp_batch *batch) {
  lesson *l = (lesson *)user;
  int64_t which[64];
  for (int64_t r = 0; r < rows; r++) {
    uint64_t n = first + (uint64_t)r, count = (uint64_t)l->count;
    which[r] = tfp_random_permuted(l->job->seed, n / count, (int64_t)(n % count), l->count);
  }
  fill_batch(l, which, rows, batch);
  return TFP_OK;
}

/* ---- tasks: fine-tuning and scores --------------------------------------------------------------
 * */

/* Accuracy, F1 of entities, or the share of spans found, over all test examples. */
static double score_encoder(tfp_model *m, lesson *l) {
  const task *t = l->task;
  float *logits = (float *)room((size_t)(t->rows * l->T * WORLD_TAGS), sizeof *logits);
  int32_t *best = (int32_t *)room((size_t)(t->rows * l->T), sizeof *best);
  int64_t right = 0, counts[3] = {0, 0, 0}, start, end;
  for (int64_t i = 0; i < l->count; i += t->rows) {
    int64_t which[64], rows = l->count - i < t->rows ? l->count - i : t->rows;
    tfp_batch b;
    tfp_output out;
    for (int64_t r = 0; r < rows; r++) which[r] = i + r;
    fill_batch(l, which, rows, &b);
    tfp_step_reset(m->ctx);
    if (tfp_forward(m, &b, TFP_WANT_LOGITS, NULL, &out)) break;
    if (t->head == TFP_HEAD_QA) tfp_read(m->ctx, out.logits, logits, tfp_numel(out.logits));
    else tfp_argmax(m->ctx, out.logits, best);
    for (int64_t r = 0; r < rows; r++) {
      const example *e = &l->e[i + r];
      if (t->head == TFP_HEAD_CLASS) right += best[r] == e->labels[0];
      if (t->head == TFP_HEAD_TAG) tfp_entity_counts(best + r * l->T, e->labels, e->n, counts);
      if (t->head != TFP_HEAD_QA) continue;
      tfp_best_span(logits + 2 * (r * l->T + e->prompt), NULL, e->n - 1 - e->prompt, 6, &start,
                    &end);
      right += start + e->prompt == e->labels[0] && end + e->prompt == e->labels[1];
    }
  }
  free(logits);
  free(best);
  if (t->head == TFP_HEAD_TAG) return 2.0 * (double)counts[0] / (double)(counts[1] + counts[2]);
  return (double)right / (double)l->count;
}

/* Share of test examples whose greedy answer is the true one, token by token. */
static double score_writer(tfp_model *m, lesson *l, char *said) {
  const kind *k = l->kind;
  int64_t right = 0;
  for (int64_t i = 0; i < l->count; i++) {
    const example *e = &l->e[i];
    const int64_t skip = l->task->kind == DECODER ? e->prompt - 1 : 0;
    const int64_t read = l->task->kind == DECODER ? e->prompt : e->n, want = e->n_labels - skip;
    int32_t out[LONG];
    tfp_gen_desc d;
    memset(&d, 0, sizeof d);
    d.max_new = want + 4, d.end_id = e->labels[e->n_labels - 1];
    int64_t n = tfp_generate(m, e->ids, read, &d, out, LONG);
    if (n < 0) break;
    right += n == want && memcmp(out, e->labels + skip, (size_t)n * sizeof *out) == 0;
    if (!said || i >= 3) continue;
    say(said, "  %s\n", text_of(k, e->ids, read, TFP_SKIP_SPECIAL));
    say(said, "    -> %s\n", text_of(k, out, n, TFP_SKIP_SPECIAL));
    say(said, "    is %s\n", text_of(k, e->labels + skip, want, TFP_SKIP_SPECIAL));
  }
  return (double)right / (double)l->count;
}

/* A model with the task's head, trained on the task's examples; how well it does on new ones. */
static double finetune(job *j, task *t, int pretrained, lesson *train_on, lesson *test_on) {
  const kind *k = &j->kinds[t->kind];
  char what[64];
  float *loss = (float *)room((size_t)t->steps, sizeof *loss);
  tfp_train_desc d;
  tfp_config c;
  configure(k, &c);
  c.head = t->head, c.num_labels = t->labels, c.pool = TFP_POOL_LAST;
  tfp_model *m = tfp_model_create(j->ctx, &c, 1);
  if (m && pretrained) tfp_params_copy(m->params, k->model->params);
  memset(&d, 0, sizeof d);
  d.lr = t->lr, d.steps = t->steps, d.warmup = t->steps / 10, d.rows = t->rows;
  d.schedule = TFP_LINEAR, d.adamw.weight_decay = 0.01, d.adamw.clip = 1;
  d.source = lesson_source, d.source_user = train_on;
  snprintf(what, sizeof what, "%s: %s", t->name, pretrained ? "fine-tuning" : "from scratch");
  train(j, m, &d, what, loss);
  double score = t->head == TFP_HEAD_LM ? score_writer(m, test_on, pretrained && t->kind == SEQ2SEQ
                                                                       ? j->said[KINDS] : NULL)
                                        : score_encoder(m, test_on);
  check(j->ctx, what);
  tfp_model_free(m);
  free(loss);
  return score;
}

static void run_task(job *j, task *t) {
  const double began = tfp_seconds();
  lesson train_on, test_on;
  open_lesson(&train_on, j, t, 0, 1, t->train);
  open_lesson(&test_on, j, t, -1, -1, t->test);
  if (t->kind == SEQ2SEQ) say(j->said[KINDS], "%s\n", t->name);
  t->scratch = finetune(j, t, 0, &train_on, &test_on);
  t->pretrained = finetune(j, t, 1, &train_on, &test_on);
  close_lesson(&train_on);
  close_lesson(&test_on);
  phase_done(t->name, began, "%s: scratch %.3f, pre-trained %.3f", t->measure, t->scratch,
             t->pretrained);
}

/* ---- samples ------------------------------------------------------------------------------------
 * */

/* A text that no model has seen: a story of another seed, or a stretch of the held-out part. */
static int64_t sample_text(const job *j, const kind *k, int64_t number, int32_t *ids, int64_t max) {
  char text[WORLD_MAX];
  if (j->data) {
    tfp_partition split =
        tfp_dataset_tokens(k->data, TFP_VALIDATION) > max ? TFP_VALIDATION : TFP_TRAIN;
    int64_t at = number * max % (tfp_dataset_tokens(k->data, split) - max + 1);
    return tfp_dataset_read(k->data, split, at, max, ids);
  }
  int64_t n = world_story(j->seed + 1000, number, text, sizeof text, NULL);
  return encode(k, text, n, ids, max);
}

static void sample_encoder(job *j, kind *k, char *said) {
  for (int64_t i = 0; i < 3; i++) {
    int32_t text[LONG], ids[LONG], labels[LONG], work[LONG];
    tfp_filled filled[LONG];
    tfp_mlm_options o = mlm_options(k);
    o.share = 0.06, o.keep = -1; /* few, and masks alone */
    text[0] = k->special.bos;
    int64_t n = sample_text(j, k, i, text + 1, 60) + 1;
    text[n++] = k->special.eos;
    tfp_mlm(text, n, &o, j->seed, (uint64_t)i, ids, labels, work);
    int64_t made = tfp_fill(k->model, ids, n, k->special.mask, TOP, 0, filled, LONG);
    say(said, "  %s\n", text_of(k, ids + 1, n - 2, 0));
    for (int64_t f = 0; f < made; f++) {
      char word[REPORT_WORD];
      token_word(k, filled[f].id, word, sizeof word);
      say(said, "%s%s %.2f", f % TOP ? ", " : "    ", word, filled[f].probability);
      token_word(k, labels[filled[f].position], word, sizeof word);
      if (f % TOP == TOP - 1) say(said, "   (it was: %s)\n", word);
    }
  }
}

static void sample_decoder(job *j, kind *k, char *said) {
  for (int64_t i = 0; i < 3; i++) {
    int32_t ids[LONG], out[LONG];
    tfp_gen_desc d;
    memset(&d, 0, sizeof d);
    d.max_new = 70, d.temperature = 0.8, d.seed = j->seed + (uint64_t)i, d.end_id = k->special.eos;
    int64_t n = sample_text(j, k, i + 10, ids, 7),
            made = tfp_generate(k->model, ids, n, &d, out, LONG);
    say(said, "  %s ...\n", text_of(k, ids, n, 0));
    say(said, "    ...%s\n", text_of(k, out, made > 0 ? made : 0, TFP_SKIP_SPECIAL));
  }
}

static void sample_seq2seq(job *j, kind *k, char *said) {
  tfp_span_options o = span_options(k);
  for (int64_t i = 0; i < 2; i++) {
    int32_t text[LONG], ids[2 * LONG], targets[2 * LONG], work[4 * LONG], out[LONG];
    int64_t n = sample_text(j, k, i + 20, text, k->T), n_ids, n_targets;
    tfp_gen_desc d;
    memset(&d, 0, sizeof d);
    tfp_span_corrupt(text, n, &o, j->seed, (uint64_t)i, ids, &n_ids, targets, &n_targets, work);
    d.max_new = n_targets + 4, d.end_id = k->special.eos;
    int64_t made = tfp_generate(k->model, ids, n_ids, &d, out, LONG);
    say(said, "  %s\n", text_of(k, ids, n_ids - 1, 0));
    say(said, "    -> %s\n", text_of(k, out, made > 0 ? made : 0, 0));
    say(said, "    is %s\n", text_of(k, targets, n_targets, 0));
  }
}

/* The text of the pictures: a short one, so that every token has room. */
static int64_t picture_text(const job *j, const kind *k, int32_t *ids) {
  static const char text[] =
      "Mia is a baker and lives in Oslo. She has a red ball. On Monday Mia lost "
      "the ball.";
  return j->data ? sample_text(j, k, 0, ids, 22)
                 : encode(k, text, (int64_t)sizeof text - 1, ids, 26);
}

static void box(report_boxes *b, const kind *k, int32_t id, report_mark mark) {
  if (b->n >= REPORT_BOXES) return;
  if (mark == REPORT_NOTHING) snprintf(b->word[b->n], REPORT_WORD, "\302\267");
  else token_word(k, id, b->word[b->n], REPORT_WORD);
  b->mark[b->n++] = mark;
}

/* What a model reads, and what it is asked for, by its objective. */
static void picture_masks(const job *j, const kind *k, report_boxes *reads, report_boxes *asked) {
  int32_t text[LONG], ids[LONG], labels[LONG], work[4 * LONG];
  int64_t n = k->goal == TFP_MLM, n_ids, n_labels;
  tfp_span_options o = span_options(k);
  tfp_mlm_options m = mlm_options(k);
  memset(reads, 0, sizeof *reads);
  memset(asked, 0, sizeof *asked);
  snprintf(reads->label, sizeof reads->label, "%s reads", k->name);
  snprintf(asked->label, sizeof asked->label, "and is asked for");
  text[0] = k->special.bos;
  n += picture_text(j, k, text + n);
  text[n++] = k->special.eos;
  n_ids = n_labels = n;
  if (k->goal == TFP_MLM) tfp_mlm(text, n, &m, j->seed, 0, ids, labels, work);
  if (k->goal == TFP_CLM)
    n_ids = n_labels = n - 1, tfp_clm(text, n - 1, -1, 0, ids, labels, NULL, NULL);
  if (k->goal == TFP_SPAN)
    tfp_span_corrupt(text, n - 1, &o, j->seed, 0, ids, &n_ids, labels, &n_labels, work);
  for (int64_t i = 0; i < n_ids; i++) {
    int other =
        k->goal == TFP_MLM && labels[i] != TFP_IGNORE_INDEX; /* also the kept and random ones */
    int sentinel = k->goal == TFP_SPAN && k->is_special[ids[i]] && ids[i] != k->special.eos;
    box(reads, k, ids[i], other || sentinel ? REPORT_HIDDEN : REPORT_PLAIN);
  }
  for (int64_t i = 0; i < n_labels; i++)
    box(asked, k, labels[i], labels[i] == TFP_IGNORE_INDEX ? REPORT_NOTHING : REPORT_ASKED);
}

/* ---- attention, by hand -------------------------------------------------------------------------
 * */

/* How much a head looks from a token to the same one earlier (encoder), or to what followed it
 * then. */
static double looks_back(const int32_t *ids, const float *w, int64_t n, int followers) {
  double sum = 0;
  for (int64_t i = 1; i < n; i++)
    for (int64_t t = 0; t < i - 1; t++)
      if (ids[i] == ids[t]) sum += (double)w[i * n + t + followers];
  return sum;
}

/* softmax(Q K' / sqrt(D)) of a layer's heads in single ops: x (1,n,C), which enters the layer ->
 * (H,n,n). */
static tfp_tensor *weights_by_hand(const tfp_model *m, int64_t layer, tfp_tensor *x, int64_t n) {
  static const char *const names[4] = {"attention_norm.w", "attention_norm.b", "qkv.w", "qkv.b"};
  const tfp_config *c = &m->config;
  const int causal = c->arch == TFP_DECODER;
  const int64_t heads[3] = {n, c->heads, c->head_dim}, square[2] = {n, n};
  int32_t later[REPORT_MAP * REPORT_MAP];
  tfp_ctx *ctx = m->ctx;
  tfp_tensor *p[4], *qk[2];
  for (int i = 0; i < 4; i++) {
    char full[64];
    snprintf(full, sizeof full, "%s.%d.%s", causal ? "decoder" : "encoder", (int)layer, names[i]);
    p[i] = tfp_params_find(m->params, full)->tensor;
  }
  if (c->norm_first) x = tfp_layernorm(ctx, x, p[0], p[1], c->norm_eps);
  x = tfp_linear(ctx, x, p[2], p[3], TFP_ACT_NONE); /* (1,n,3C) */
  for (int i = 0; i < 2; i++) {
    qk[i] = tfp_rotary(ctx, tfp_slice(ctx, x, 2, i * c->hidden, c->hidden), NULL, 0, c->heads,
                       c->rotary_base);
    qk[i] = tfp_transpose(ctx, tfp_reshape(ctx, qk[i], 3, heads), 0, 1); /* (H,n,D) */
  }
  x = tfp_matmul(ctx, qk[0], tfp_transpose(ctx, qk[1], -1, -2));
  x = tfp_scale(ctx, x, 1 / sqrt((double)c->head_dim));
  for (int64_t i = 0; i < n * n; i++) later[i] = i % n > i / n;
  if (causal) x = tfp_masked_fill(ctx, x, tfp_from_ints(ctx, 2, square, later), -INFINITY);
  return tfp_softmax(ctx, x);
}

/* Keeps the head that looks back most. What enters a layer is what a model of fewer layers puts
 * out. */
static void picture_attention(const job *j, const kind *k, report_map *map) {
  const int causal = k->goal == TFP_CLM;
  tfp_ctx *ctx = j->ctx;
  int32_t ids[REPORT_MAP];
  float w[REPORT_MAP * REPORT_MAP];
  double best = -1;
  int64_t n = !causal;
  ids[0] = k->special.bos;
  n += picture_text(j, k, ids + n);
  if (!causal) ids[n++] = k->special.eos;
  map->n = (int)n;
  for (int i = 0; i < n; i++) token_word(k, ids[i], map->word[i], REPORT_WORD);
  for (int64_t layer = 1; layer < k->layers; layer++) {
    tfp_config c = k->model->config;
    tfp_batch b;
    tfp_output out;
    c.final_norm = 0, c.head = TFP_HEAD_NONE;
    if (causal) c.decoder_layers = layer;
    else c.encoder_layers = layer;
    tfp_model *below = tfp_model_create(ctx, &c, 0);
    if (!below) break;
    tfp_params_copy(below->params, k->model->params);
    memset(&b, 0, sizeof b);
    b.B = 1, b.T = n, b.ids = ids;
    tfp_step_reset(ctx);
    tfp_no_grad_begin(ctx);
    tfp_forward(below, &b, 0, NULL, &out);
    tfp_tensor *weights = weights_by_hand(k->model, layer, out.hidden, n);
    for (int64_t h = 0; h < c.heads && !tfp_read(ctx, tfp_slice(ctx, weights, 0, h, 1), w, n * n);
         h++) {
      double score = looks_back(ids, w, n, causal);
      if (score <= best) continue;
      best = score;
      for (int i = 0; i < n; i++) memcpy(map->weight[i], w + i * n, (size_t)n * sizeof *w);
      snprintf(map->title, sizeof map->title, "%s, layer %d of %d, head %d: %s", k->name,
               (int)layer + 1, (int)k->layers, (int)h + 1,
               causal ? "it never looks ahead"
                      : "it looks to both sides");
    }
    tfp_no_grad_end(ctx);
    tfp_model_free(below);
  }
  check(ctx, "attention map");
}

/* ---- the report ---------------------------------------------------------------------------------
 * */

static void write_report(job *j, double seconds) {
  static const char *const titles[KINDS + 1] = {
      "Masked words, and the likeliest fillings", "The decoder goes on",
      "Hidden spans, filled by the encoder-decoder", "Translations and summaries"};
  report_task rows[TASKS];
  char lead[300];
  FILE *f = fopen(j->report, "wb");
  if (!f) fail("cannot write", j->report);
  snprintf(
      lead, sizeof lead,
      "Three kinds of transformer, each pre-trained by its objective on %s, "
      "then fine-tuned beside the same architecture from scratch. %.0f seconds on %d threads (%s), "
      "seed %d.",
      j->data ? j->data : "the stories of a generated world", seconds, tfp_threads(j->ctx),
      tfp_level_name(j->ctx), (int)j->seed);
  report_begin(f, "What pre-training is worth", lead);
  report_heading(
      f, "Pre-training",
      "Pale: every step. Strong: the mean of twenty. The decoder's floor is "
      "exact: the entropy of the generator. The other two are lower bounds: what a hidden word "
      "could still be for a reader who sees all the others and knows the grammar.");
  fputs("<div class=\"row\">", f);
  for (int i = 0; i < KINDS; i++) {
    kind *k = &j->kinds[i];
    char title[64];
    snprintf(title, sizeof title, "%s, %s", k->name, k->objective);
    report_curve c = {title, i == DECODER ? "floor: entropy" : "floor: lower bound", k->loss,
                      k->steps, k->floor};
    report_curve_card(f, &c, i);
  }
  fputs("</div>\n", f);
  if (!j->data) {
    for (int i = 0; i < TASKS; i++) {
      const task *t = &j->tasks[i];
      const kind *k = &j->kinds[t->kind];
      report_task row = {k->name, k->objective, t->name, t->measure, k->first, k->last, k->floor,
                         t->scratch, t->pretrained};
      rows[i] = row;
    }
    report_heading(f, "Tasks",
                   "The same architecture, examples, steps and rate; the one difference is "
                   "where the weights began. Measured on examples that neither has seen.");
    report_tasks(f, rows, TASKS);
  }
  report_heading(f, "What each is asked",
                 "One text, three objectives. Dark: hidden, or replaced by "
                 "another word, or left as it is to keep the encoder honest. Yellow: scored.");
  for (int i = 0; i < KINDS; i++) {
    report_boxes reads, asked;
    picture_masks(j, &j->kinds[i], &reads, &asked);
    report_boxes_row(f, &reads);
    report_boxes_row(f, &asked);
  }
  report_heading(f, "Attention",
                 "Rows look at columns; the darker, the more. Of all heads, the one that "
                 "looks most at earlier mentions. Computed with single ops from the parameters.");
  fputs("<div class=\"row\">", f);
  for (int i = 0; i < SEQ2SEQ; i++) {
    static report_map map;
    memset(&map, 0, sizeof map);
    picture_attention(j, &j->kinds[i], &map);
    report_map_card(f, &map, i);
  }
  fputs("</div>\n", f);
  report_heading(f, "Samples", "Texts that no model has seen.");
  fputs("<div class=\"row\">", f);
  for (int i = 0; i <= KINDS; i++)
    if (j->said[i][0]) report_samples(f, titles[i], j->said[i]);
  fputs("</div>\n", f);
  if (report_end(f)) fail("cannot write", j->report);
}

/* ---- main ---------------------------------------------------------------------------------------
 * */

static const char usage[] =
  "usage: run [options]\n"
  "  --report PATH   where the report goes (build/report.html)\n"
  "  --data FILE     pre-train on this text instead of the world's stories\n"
  "  --threads N     threads (0: as many as the machine gives)\n"
  "  --seed N        of the world, the weights and the order of the data (1)\n"
  "  --fast          a twelfth of the steps: for tests\n"
  "  -h              this text\n";

static uint64_t number(const char *option, const char *text, uint64_t most) {
  char *end = NULL;
  errno = 0;
  unsigned long long x = text ? strtoull(text, &end, 10) : 0;
  if (!text || !*text || *end || errno || x > most || *text == '-') {
    fprintf(stderr, "run: %s wants a number from 0 to %llu\n", option, (unsigned long long)most);
    exit(1);
  }
  return x;
}

static void read_options(job *j, int argc, char **argv) {
  j->report = "build/report.html";
  j->seed = 1;
  for (int i = 1; i < argc; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
      fputs(usage, stdout);
      exit(0);
    }
    if (!strcmp(argv[i], "--fast")) {
      j->fast = 1;
      continue;
    }
    if (!strcmp(argv[i], "--threads")) j->threads = (int)number(argv[i], value, TFP_MAX_THREADS);
    else if (!strcmp(argv[i], "--seed")) j->seed = number(argv[i], value, 1000000000);
    else if (!strcmp(argv[i], "--report") && value) j->report = value;
    else if (!strcmp(argv[i], "--data") && value) j->data = value;
    else {
      fprintf(stderr, "run: %s '%s'; see run -h\n", value ? "unknown option" : "no value for",
              argv[i]);
      exit(1);
    }
    i++;
  }
}

static void prepare(job *j) {
  tfp_desc d;
  const char *slash = strrchr(j->report, '/');
  int directory = slash ? (int)(slash - j->report) + 1 : 0;
  memset(&d, 0, sizeof d);
  d.threads = j->threads, d.seed = j->seed;
  j->ctx = tfp_create(&d);
  check(j->ctx, "start");
  errno = ENAMETOOLONG;
  if (directory > 900) fail("cannot write", j->report);
  snprintf(j->corpus, sizeof j->corpus, "%.*sworld-%d.txt", directory, j->report, (int)j->seed);
  snprintf(j->lessons, sizeof j->lessons, "%.*slessons-%d.txt", directory, j->report, (int)j->seed);
  j->terminal = isatty(1);
  j->stories = j->fast ? 2500 : 20000; /* so that hardly a story comes twice */
  memcpy(j->kinds, all_kinds, sizeof all_kinds);
  memcpy(j->tasks, all_tasks, sizeof all_tasks);
  for (int i = 0; i < KINDS && j->fast; i++) j->kinds[i].steps /= 12;
  for (int i = 0; i < TASKS && j->fast; i++) {
    j->tasks[i].steps /= 12, j->tasks[i].test /= 10;
  }
}

static void print_table(const job *j) {
  printf("\n");
  for (int i = 0; i < TASKS && !j->data; i++) {
    const task *t = &j->tasks[i];
    const kind *k = &j->kinds[t->kind];
    printf("%s %s loss %.3f -> %.3f floor %.3f %s scratch %.3f pretrained %.3f\n", k->name,
           k->objective, k->first, k->last, k->floor, t->name, t->scratch, t->pretrained);
  }
  for (int i = 0; i < KINDS && j->data; i++)
    printf("%s %s loss %.3f -> %.3f\n", j->kinds[i].name, j->kinds[i].objective, j->kinds[i].first,
           j->kinds[i].last);
  if (j->data)
    printf("No floors and no tasks: their truth is the world's, and this text is not.\n");
}

int main(int argc, char **argv) {
  static job j;
  const double began = tfp_seconds();
  read_options(&j, argc, argv);
  prepare(&j);
  printf("tfpre: %s kernels, %d threads, seed %d\n", tfp_level_name(j.ctx), tfp_threads(j.ctx),
         (int)j.seed);
  double phase = tfp_seconds();
  if (!j.data) write_texts(&j);
  for (int i = 0; i < KINDS; i++) make_tokens(&j, &j.kinds[i]);
  phase_done("text and tokens", phase, "%d thousand tokens, vocabularies of %d, %d, %d",
             (int)(tfp_dataset_tokens(j.kinds[DECODER].data, TFP_TRAIN) / 1000),
             (int)tfp_vocab_size(j.kinds[0].tok), (int)tfp_vocab_size(j.kinds[1].tok),
             (int)tfp_vocab_size(j.kinds[2].tok));
  for (int i = 0; i < KINDS; i++) pretrain(&j, &j.kinds[i]);
  for (int i = 0; i < TASKS && !j.data; i++) run_task(&j, &j.tasks[i]);
  sample_encoder(&j, &j.kinds[ENCODER], j.said[ENCODER]);
  sample_decoder(&j, &j.kinds[DECODER], j.said[DECODER]);
  sample_seq2seq(&j, &j.kinds[SEQ2SEQ], j.said[SEQ2SEQ]);
  check(j.ctx, "samples");
  write_report(&j, tfp_seconds() - began);
  if (!j.data) remove(j.corpus), remove(j.lessons);
  print_table(&j);
  for (int i = 0; i <= KINDS; i++)
    if (j.said[i][0]) printf("\n%s", j.said[i]);
  printf("\n%.0f seconds; the pictures are in %s\n", tfp_seconds() - began, j.report);
  tfp_destroy(j.ctx);
  return 0;
}
