/* golden.c -- the reference's numbers. tests/golden/make.py says what lies in its directories.
 *
 * Each directory that tests/golden/list names is a test; so is each of ../shared/golden, where that
 * is there, and each of $TFPRE_GOLDEN, which tests/hub/models.py sets to fresh ones:
 *
 *   build/tests/float golden_t5      those whose name contains t5
 */
#include "test.h"

enum { CELLS = 1 << 14, ROWS = 10 };

/* One directory under test. */
typedef struct golden {
  const char *name;
  char dir[512];
  tfp_ctx *ctx;
  tfp_model *model;
  tfp_json *expected;
  tfp_safetensors *tensors;
} golden;
static char golden_dir[512];

/* ---- batches ---- */

typedef struct example {
  tfp_batch batch;
  int32_t ids[CELLS], mask[CELLS], types[CELLS], dec[CELLS], labels[CELLS], ends[CELLS];
  float targets[CELLS];
} example;

/* Nested lists of numbers into one array, as integers and, if `real` is given, as they are; the
 * sizes of the first rows into shape[0..2], outermost first. */
static int64_t numbers(const tfp_json *v, int depth, int64_t *shape, int32_t *out, float *real) {
  int64_t n = 0;
  const tfp_json *x;
  if (!v || v->type == TFP_JSON_NULL) return 0;
  if (v->type != TFP_JSON_ARRAY) {
    out[0] = (int32_t)v->number;
    if (real) real[0] = (float)v->number;
    return 1;
  }
  if (depth < 3) shape[depth] = v->count;
  for (x = v->child; x && n < CELLS / 2; x = x->next)
    n += numbers(x, depth + 1, shape, out + n, real ? real + n : NULL);
  return n;
}
static const char *kind_of(const golden *g) { return tfp_json_get_text(g->expected, "kind", ""); }
static int is_kind(const golden *g, const char *kind) { return !strcmp(kind_of(g), kind); }

/* What stands behind an encoder: labels shifted, or the text itself where it is classified. */
static void read_decoder(const golden *g, const tfp_json *v, example *e) {
  const tfp_config *c = &g->model->config;
  tfp_batch *b = &e->batch;
  int64_t shape[3], i, n = numbers(tfp_json_get(v, "decoder_input_ids"), 0, shape, e->dec, NULL);
  const int32_t *from = c->head == TFP_HEAD_LM ? e->labels : e->ids;
  b->S = n ? n / b->B : c->head == TFP_HEAD_LM ? b->n_labels / b->B : b->T;
  b->dec_ids = e->dec;
  for (i = 0; !n && i < b->B; i++)
    tfp_shift_right(from + i * b->S, b->S, c->decoder_start, c->pad, e->dec + i * b->S);
}
/* One line of batches.jsonl: decoders score the next token, answers are pairs of places. */
static void read_batch(const golden *g, const tfp_json *v, example *e) {
  tfp_batch *b = &e->batch;
  int64_t shape[3] = {1, 1, 1}, n, i;
  const int with_targets = is_kind(g, "regression") || is_kind(g, "multilabel");
  memset(e, 0, sizeof *e);
  n = numbers(tfp_json_get(v, "input_ids"), 0, shape, e->ids, NULL);
  if (is_kind(g, "choice")) b->choices = shape[1], shape[0] *= shape[1];
  b->B = shape[0], b->T = n / b->B, b->ids = e->ids;
  if (numbers(tfp_json_get(v, "attention_mask"), 0, shape, e->mask, NULL)) b->mask = e->mask;
  if (numbers(tfp_json_get(v, "token_type_ids"), 0, shape, e->types, NULL)) b->types = e->types;
  n = numbers(tfp_json_get(v, "labels"), 0, shape, e->labels, e->targets);
  if (n && with_targets)
    b->targets = e->targets, b->n_targets = n;
  else if (n)
    b->labels = e->labels, b->n_labels = n;
  if (is_kind(g, "qa")) {
    n = numbers(tfp_json_get(v, "start_positions"), 0, shape, e->ids + CELLS / 2, NULL);
    numbers(tfp_json_get(v, "end_positions"), 0, shape, e->ends, NULL);
    for (i = 0; i < n; i++)
      e->labels[2 * i] = e->ids[CELLS / 2 + i], e->labels[2 * i + 1] = e->ends[i];
    b->labels = e->labels, b->n_labels = 2 * n;
  }
  if (numbers(tfp_json_get(v, "next_sentence_label"), 0, shape, e->ends, NULL))
    b->next_labels = e->ends;
  if (g->model->config.arch == TFP_SEQ2SEQ) read_decoder(g, v, e);
  if (is_kind(g, "lm"))
    for (i = 0; i < n; i++) e->labels[i] = (i + 1) % b->T ? e->labels[i + 1] : TFP_IGNORE_INDEX;
}
static int next_batch(const golden *g, tfp_file *file, example *e) {
  const char *line;
  const int64_t n = tfp_file_line(file, &line);
  tfp_json *v = n > 0 ? tfp_json_parse(g->ctx, line, n, "batches.jsonl") : NULL;
  if (v) read_batch(g, v, e);
  tfp_json_free(v);
  return v != NULL;
}
static tfp_file *open_batches(const golden *g) {
  char path[600];
  snprintf(path, sizeof path, "%s/batches.jsonl", g->dir);
  return tfp_file_open(g->ctx, path);
}

/* ---- comparing ---- */

static double tolerance(const golden *g, const char *what, double usual) {
  return tfp_json_get_number(tfp_json_get(g->expected, "tol"), what, usual);
}
static void say(int ok, const golden *g, const char *format, const char *what, double got,
                double want) {
  char text[400], all[500];
  snprintf(text, sizeof text, format, what, got, want);
  snprintf(all, sizeof all, "%s: %s", g->name, text);
  test_check(ok, all, __FILE__, __LINE__);
}
static float *floats_of(tfp_safetensors *st, const tfp_safetensors_entry *e) {
  float *x = (float *)malloc((size_t)(e->count + 1) * sizeof(float));
  if (!x || tfp_safetensors_read(st, e, 0, e->count, x)) {
    free(x);
    return NULL;
  }
  return x;
}
/* An output against that of the reference: every stride-th number from `first` on, where the mask
 * is 1 (cells numbers for each of its places; 0: everywhere), relative above 1. */
static void compare_output(const golden *g, const char *name, const tfp_tensor *t, int64_t first,
                           int64_t stride, const int32_t *mask, int64_t cells) {
  const tfp_safetensors_entry *e = tfp_safetensors_find(g->tensors, name);
  float *x, *want;
  double worst = 0, size;
  int64_t i, n = tfp_numel(t) / stride;
  if (!e) return;
  say(n == e->count, g, "%s has %.0f numbers, the reference's has %.0f", name, (double)n,
      (double)e->count);
  x = (float *)malloc((size_t)(n * stride + 1) * sizeof(float));
  want = floats_of(g->tensors, e);
  if (n == e->count && x && want && !tfp_read(g->ctx, t, x, n * stride)) {
    for (i = 0; i < n; i++) {
      if (mask && cells && !mask[i / cells]) continue;
      size = fabs((double)want[i]) > 1 ? fabs((double)want[i]) : 1;
      size = fabs((double)x[i * stride + first] - (double)want[i]) / size;
      if (!(size <= worst)) worst = size;
    }
    size = tolerance(g, "logits", 1e-4);
    say(worst <= size, g, "%s are off by %.3g, more than %.3g", name, worst, size);
  }
  free(x);
  free(want);
}
static void compare_outputs(const golden *g, const example *e, const tfp_output *out) {
  const tfp_config *c = &g->model->config;
  const int32_t *mask = c->arch == TFP_SEQ2SEQ ? NULL : e->batch.mask;
  const tfp_tensor *t = out->logits;
  const int by_place = t && t->ndim == 3 && c->head != TFP_HEAD_QA;
  if (c->head == TFP_HEAD_NONE) {
    compare_output(g, "last_hidden_state", out->hidden, 0, 1, mask, c->hidden);
    compare_output(g, "pooler_output", out->pooled, 0, 1, NULL, 0);
    return;
  }
  compare_output(g, "logits", t, 0, 1, mask, by_place ? t->shape[2] : 0);
  compare_output(g, "prediction_logits", t, 0, 1, mask, by_place ? t->shape[2] : 0);
  compare_output(g, "seq_relationship_logits", out->next, 0, 1, NULL, 0);
  compare_output(g, "start_logits", t, 0, 2, mask, 1);
  compare_output(g, "end_logits", t, 1, 2, mask, 1);
}

/* Each parameter's gradient against the larger of the tensor's largest and a share (a thousandth)
 * of the model's largest: a key's bias has none but for rounding. */
static void compare_gradients(const golden *g) {
  static const char *const path = "build/tests/golden-gradients";
  tfp_safetensors *ours;
  const tfp_safetensors_entry *e, *f;
  const double tol = tolerance(g, "grads", 1e-4),
               floor = tfp_json_get_number(g->expected, "floor", 1e-3);
  double top = 0;
  int64_t i, k, pass;
  if (tfp_gradients_save(g->model, path)) return;
  ours = tfp_safetensors_open(g->ctx, path);
  for (pass = 0; pass < 2; pass++)
    for (i = 0; i < tfp_safetensors_count(g->tensors); i++) {
      float *want, *got;
      double most = 0, worst = 0;
      e = tfp_safetensors_at(g->tensors, i);
      if (strncmp(e->name, "grad.", 5)) continue;
      f = tfp_safetensors_find(ours, e->name + 5);
      say(f && f->count == e->count, g, "gradient of %s: %.0f numbers, the reference has %.0f",
          e->name + 5, f ? (double)f->count : 0, (double)e->count);
      if (!f || f->count != e->count) continue;
      want = floats_of(g->tensors, e), got = floats_of(ours, f);
      for (k = 0; want && got && k < e->count; k++) {
        const double d = fabs((double)got[k] - (double)want[k]);
        if (fabs((double)want[k]) > most) most = fabs((double)want[k]);
        if (!(d <= worst)) worst = d;
      }
      CHECK(want && got);
      free(want);
      free(got);
      if (!pass)
        top = most > top ? most : top;
      else {
        if (most < top * floor) most = top * floor;
        say(worst <= tol * most, g, "gradient of %s is off by %.3g of its size, more than %.3g",
            e->name + 5, worst / most, tol);
      }
    }
  for (i = 0; i < tfp_safetensors_count(ours); i++) {
    char name[256];
    snprintf(name, sizeof name, "grad.%s", tfp_safetensors_at(ours, i)->name);
    say(tfp_safetensors_find(g->tensors, name) != NULL, g, "%s is none of the reference's", name, 0,
        0);
  }
  tfp_safetensors_close(ours);
  remove(path);
}

/* ---- the checks of a directory ---- */

/* Ten steps of AdamW on ten batches; before the first of them the outputs, the loss and the
 * gradients. Directories of models without a head have one batch and no loss. */
static void check_training(const golden *g) {
  static example e;
  const tfp_json *losses = tfp_json_get(g->expected, "losses"),
                 *norms = tfp_json_get(g->expected, "grad_norms");
  tfp_file *file = open_batches(g);
  tfp_adamw_desc desc;
  tfp_adamw *adam;
  int64_t step;
  memset(&desc, 0, sizeof desc);
  desc.weight_decay = 0.01, desc.decay_all = 1;
  adam = tfp_adamw_create(g->model->params, &desc);
  for (step = 0; next_batch(g, file, &e) && tfp_error(g->ctx) == TFP_OK; step++) {
    const tfp_json *loss = tfp_json_at(losses, step), *norm = tfp_json_at(norms, step);
    const int want = TFP_WANT_LOGITS | (loss ? TFP_WANT_LOSS : 0);
    tfp_output out;
    double got_loss, got_norm = 0, tol = tolerance(g, "losses", 1e-4);
    if (loss) tfp_set_loss_scale(g->ctx, 1.0 / (double)tfp_batch_scored(&e.batch));
    if (tfp_forward(g->model, &e.batch, want, NULL, &out)) break;
    if (!step) compare_outputs(g, &e, &out);
    if (!loss) continue;
    if (tfp_backward(g->ctx, out.loss)) break;
    if (!step) compare_gradients(g);
    got_loss = tfp_item(out.loss);
    tfp_adamw_step(adam, 1e-3, &got_norm);
    tfp_step_reset(g->ctx);
    say(fabs(got_loss / loss->number - 1) <= tol, g, "%sloss is %.8g, the reference has %.8g",
        step ? "a later step's " : "the ", got_loss, loss->number);
    tol = tolerance(g, "norms", 1e-3);
    say(fabs(got_norm / norm->number - 1) <= tol, g,
        "%sgradient's norm is %.8g, the reference has %.8g", step ? "a later " : "the first ",
        got_norm, norm->number);
  }
  say(step == (losses ? losses->count : 1), g, "%s%.0f batches were run of %.0f", "", (double)step,
      losses ? (double)losses->count : 1);
  tfp_file_close(file);
  tfp_adamw_free(adam);
}
/* What was loaded is saved under the same names with the same bits, and nothing beside it. */
static void check_saved(const golden *g) {
  char path[600];
  const char *dir = test_dir();
  tfp_safetensors *a, *b;
  int64_t i;
  if (tfp_model_save(g->model, dir)) return;
  snprintf(path, sizeof path, "%s/model.safetensors", g->dir);
  a = tfp_safetensors_open(g->ctx, path);
  b = tfp_safetensors_open(g->ctx, test_path("model.safetensors"));
  for (i = 0; i < tfp_safetensors_count(a); i++) {
    const tfp_safetensors_entry *e = tfp_safetensors_at(a, i),
                                *f = tfp_safetensors_find(b, e->name);
    const int64_t bytes = e->end - e->begin;
    char *x = (char *)malloc((size_t)bytes + 1), *y = (char *)malloc((size_t)bytes + 1);
    int same = f && f->dtype == e->dtype && f->ndim == e->ndim && f->end - f->begin == bytes &&
               !memcmp(f->shape, e->shape, sizeof e->shape);
    same = same && x && y && !tfp_safetensors_read_bytes(a, e, 0, bytes, x) &&
           !tfp_safetensors_read_bytes(b, f, 0, bytes, y) && !memcmp(x, y, (size_t)bytes);
    say(same, g, f ? "tensor %s differs when saved again" : "tensor %s is not saved again", e->name,
        0, 0);
    free(x);
    free(y);
  }
  for (i = 0; i < tfp_safetensors_count(b); i++)
    say(tfp_safetensors_find(a, tfp_safetensors_at(b, i)->name) != NULL, g,
        "tensor %s is not in the reference's file", tfp_safetensors_at(b, i)->name, 0, 0);
  tfp_safetensors_close(a);
  tfp_safetensors_close(b);
}

/* The options of a text under the reference's names. */
static void read_options(const tfp_json *row, tfp_gen_desc *d) {
  const tfp_json *stop = tfp_json_get(row, "early_stopping");
  d->max_new = tfp_json_get_int(row, "max_new_tokens", 0);
  d->min_new = tfp_json_get_int(row, "min_new_tokens", 0);
  d->beams = tfp_json_get_int(row, "num_beams", 0);
  d->length_penalty = tfp_json_get_number(row, "length_penalty", 0);
  d->repetition_penalty = tfp_json_get_number(row, "repetition_penalty", 0);
  d->no_repeat_ngram = tfp_json_get_int(row, "no_repeat_ngram_size", 0);
  d->early_stopping = TFP_STOP_BY_SCORE;
  if (tfp_json_get_bool(row, "early_stopping", 0)) d->early_stopping = TFP_STOP_WHEN_FULL;
  if (stop && stop->type == TFP_JSON_STRING) d->early_stopping = TFP_STOP_NEVER;
}
/* One row of `generations` or `together`: prompts, options, and all ids that the reference returns:
 * the prompt, or the start token, and then what is new. */
static void check_generation(const golden *g, const tfp_json *row, int64_t rows) {
  int32_t prompt[CELLS / 64], mask[CELLS / 64], want[CELLS / 64], got[CELLS / 64];
  const int after = g->model->config.arch == TFP_SEQ2SEQ;
  int64_t shape[3], i, k, most, n = numbers(tfp_json_get(row, "input_ids"), 0, shape, prompt, NULL);
  const int64_t m = numbers(tfp_json_get(row, "ids"), 0, shape, want, NULL) / rows;
  const int masked = numbers(tfp_json_get(row, "attention_mask"), 0, shape, mask, NULL) > 0;
  const int64_t lead = after ? 1 : n / rows, max = tfp_json_get_int(row, "max_new_tokens", 0);
  tfp_gen_desc d;
  int same;
  if (tfp_gen_load(g->ctx, g->dir, &g->model->config, &d)) return;
  read_options(row, &d);
  n /= rows;
  most = rows == 1 ? tfp_generate(g->model, prompt, n, &d, got, max)
                   : tfp_generate_batch(g->model, prompt, masked ? mask : NULL, rows, n, &d, got,
                                        max, NULL);
  same = most == m - lead;
  for (k = 0; k < rows; k++) {
    same = same && want[k * m] == (after ? g->model->config.decoder_start : prompt[k * n]);
    for (i = 0; same && i < most; i++) same = got[k * max + i] == want[k * m + lead + i];
  }
  say(same, g, "%s%.0f beams write something else than the reference's %.0f ids",
      rows > 1 ? "together: " : "", (double)d.beams, (double)m);
  tfp_gen_free(g->ctx, &d);
}
static void check_generations(const golden *g) {
  const tfp_json *row = tfp_json_get(g->expected, "generations");
  for (row = row ? row->child : NULL; row; row = row->next) check_generation(g, row, 1);
  row = tfp_json_get(g->expected, "together");
  for (row = row ? row->child : NULL; row; row = row->next)
    check_generation(g, row, tfp_json_get(row, "input_ids")->count);
}

static void golden_one(void) {
  golden g;
  char path[600];
  memset(&g, 0, sizeof g);
  g.ctx = tfp_create(NULL);
  snprintf(g.dir, sizeof g.dir, "%s", golden_dir);
  g.name = strrchr(g.dir, '/') + 1;
  snprintf(path, sizeof path, "%s/expected.json", g.dir);
  g.expected = tfp_json_parse_file(g.ctx, path);
  snprintf(path, sizeof path, "%s/expected.safetensors", g.dir);
  g.tensors = tfp_safetensors_open(g.ctx, path);
  g.model = tfp_model_load(g.ctx, g.dir, 1);
  if (g.model && g.expected && g.tensors) {
    check_saved(&g);
    check_generations(&g);
    check_training(&g);
  }
  say(tfp_error(g.ctx) == TFP_OK, &g, "%s", tfp_error_message(g.ctx), 0, 0);
  tfp_json_free(g.expected);
  tfp_safetensors_close(g.tensors);
  tfp_destroy(g.ctx);
}

/* ---- what may be drawn ---- */

/* filters.json: logits, options, and the reference's tokens that stay with their probabilities. */
static void golden_filters(void) {
  enum { V = 24, DRAWS = 4096 };
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_json *root = tfp_json_parse_file(ctx, "tests/golden/filters.json");
  const tfp_json *row;
  int rows = 0;
  OK(ctx);
  for (row = root ? root->child : NULL; row; row = row->next, rows++) {
    int32_t whole[V], kept[V], work[V];
    float logits[V], x[V], probability[V];
    int64_t shape[3], n, i, left, draws[V] = {0};
    char text[160];
    tfp_gen_desc d;
    memset(&d, 0, sizeof d);
    CHECK(numbers(tfp_json_get(row, "logits"), 0, shape, whole, logits) == V);
    n = numbers(tfp_json_get(row, "kept"), 0, shape, kept, NULL);
    numbers(tfp_json_get(row, "probabilities"), 0, shape, whole, probability);
    d.temperature = tfp_json_get_number(row, "temperature", 0);
    d.top_k = tfp_json_get_int(row, "top_k", 0), d.top_p = tfp_json_get_number(row, "top_p", 0);
    memcpy(x, logits, sizeof x);
    left = tfp_filter_logits(x, V, &d, work);
    snprintf(text, sizeof text, "temperature %g, top_k %d, top_p %g: %d stay, the reference has %d",
             d.temperature, (int)d.top_k, d.top_p, (int)left, (int)n);
    test_check(left == n, text, __FILE__, __LINE__);
    for (i = 0; i < n; i++) CHECK(x[kept[i]] > -INFINITY);
    for (i = 0; i < DRAWS; i++) {
      memcpy(x, logits, sizeof x);
      draws[tfp_sample(x, V, &d, ((double)i + 0.5) / DRAWS, work)]++;
    }
    for (i = left = 0; i < n; i++) {
      left += draws[kept[i]];
      NEAR((double)draws[kept[i]] / DRAWS, probability[i], 1.0 / DRAWS);
    }
    CHECK(left == DRAWS); /* nothing else was drawn */
  }
  CHECK(rows == 26);
  tfp_json_free(root);
  tfp_destroy(ctx);
}

/* ---- which directories ---- */

static void one_directory(const char *root, const char *name) {
  char title[160];
  snprintf(golden_dir, sizeof golden_dir, "%s/%s", root, name);
  snprintf(title, sizeof title, "golden_%s", name);
  test_run(golden_one, title);
}
static void listed(const char *root) {
  char path[512], name[128];
  FILE *f;
  snprintf(path, sizeof path, "%s/list", root);
  f = fopen(path, "r");
  while (f && fscanf(f, "%120s", name) == 1) one_directory(root, name);
  if (f) fclose(f);
}
/* The list is there, and so is every directory that it should name: none is lost in silence. */
static void golden_list(void) {
  FILE *f = fopen("tests/golden/list", "r");
  char name[128];
  int n = 0;
  CHECK(f != NULL);
  while (f && fscanf(f, "%120s", name) == 1) n++;
  if (f) fclose(f);
  CHECK(n == 33);
}
static void golden_shared(void) { test_shared("golden/README.md"); }

void test_golden(void) {
  static const char *const shared[] = {
      "bert-mlm",        "bert-pretraining", "bert-cls", "bert-token", "bert-qa",
      "roberta-mlm",     "roberta-cls",      "gpt2-lm",  "gpt2-cls",   "bloom-lm",
      "bloom-lm-6heads", "t5-relu",          "t5-gated", "bart-lm",    "bart-cls"};
  const char *more = getenv("TFPRE_GOLDEN");
  FILE *there = fopen("../shared/golden/README.md", "r");
  size_t i;
  RUN(golden_list);
  RUN(golden_filters);
  listed("tests/golden");
  if (more) listed(more);
  RUN(golden_shared);
  for (i = 0; there && i < sizeof shared / sizeof *shared; i++)
    one_directory("../shared/golden", shared[i]);
  if (there) fclose(there);
}
