/* optim.c -- AdamW, schedules, the trainer, its checkpoints, and many processes */
#include "test.h"
#if !defined(_WIN32)
#include <pthread.h>
#endif

typedef enum kind { ENCODER = 0, DECODER, SEQ2SEQ, KINDS } kind;
enum { VOCAB = 300 };

static tfp_ctx *context(int threads) {
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.threads = threads, d.seed = 6;
  return tfp_create(&d);
}

/* ---- AdamW against the formula, in double ---- */

enum { PARAMS = 3, MOST = 40 * 33 };
typedef struct reference { double p[PARAMS][MOST], m[PARAMS][MOST], v[PARAMS][MOST]; } reference;
static const int64_t rows_of[PARAMS] = {40, 7, 19}, columns_of[PARAMS] = {33, 0, 0};

static double gradient(int which, int64_t i, int step) {
  return (double)tfp_random_normal(7, (uint64_t)(which * 100 + step), (uint64_t)i) *
         (which == 1 ? 1e-3 : 1) * (step == 4 ? 30 : 1);
}
static void reference_step(reference *r, const tfp_adamw_desc *d, double lr, int step,
                           double *norm) {
  double squares = 0, scale;
  const double b1 = d->beta1 > 0 ? d->beta1 : 0.9, b2 = d->beta2 > 0 ? d->beta2 : 0.999,
               eps = d->eps > 0 ? d->eps : 1e-8;
  int k;
  int64_t i;
  for (k = 0; k < PARAMS; k++)
    for (i = 0; i < rows_of[k] * (columns_of[k] ? columns_of[k] : 1); i++)
      squares += gradient(k, i, step) * gradient(k, i, step);
  *norm = sqrt(squares);
  scale = d->clip > 0 && *norm > d->clip ? d->clip / *norm : 1;
  for (k = 0; k < PARAMS; k++)
    for (i = 0; i < rows_of[k] * (columns_of[k] ? columns_of[k] : 1); i++) {
      const double g = gradient(k, i, step) * scale,
                   decay = columns_of[k] || d->decay_all ? d->weight_decay : 0;
      double *p = &r->p[k][i], *m = &r->m[k][i], *v = &r->v[k][i];
      *m = b1 * *m + (1 - b1) * g;
      *v = b2 * *v + (1 - b2) * g * g;
      *p -= lr * decay * *p;
      *p -= lr * (*m / (1 - pow(b1, step + 1))) / (sqrt(*v / (1 - pow(b2, step + 1))) + eps);
    }
}
static void adamw_follows_the_formula(void) {
  static const tfp_adamw_desc all[4] = {{0, 0, 0, 0, 0, 0},
                                        {0.9, 0.95, 1e-6, 0.1, 0, 1},
                                        {0.8, 0.99, 1e-3, 0.3, 1, 0},
                                        {0, 0, 0, 0.01, 0, 5}};
  static reference r;
  int d, step, k;
  int64_t i;
  for (d = 0; d < 4; d++) {
    tfp_ctx *ctx = context(2);
    tfp_params *set = tfp_params_create(ctx);
    tfp_param *p[PARAMS];
    tfp_adamw *opt;
    memset(&r, 0, sizeof r);
    for (k = 0; k < PARAMS; k++) {
      char name[8];
      int64_t shape[2];
      snprintf(name, sizeof name, "p%d", k);
      shape[0] = rows_of[k], shape[1] = columns_of[k];
      p[k] = tfp_param_add(set, name, columns_of[k] ? 2 : 1, shape, TFP_INIT_NORMAL, 1);
    }
    tfp_params_finish(set, 1);
    opt = tfp_adamw_create(set, &all[d]);
    OK(ctx);
    for (k = 0; k < PARAMS; k++)
      for (i = 0; i < tfp_numel(p[k]->tensor); i++)
        r.p[k][i] = (double)((tfp_real *)p[k]->tensor->data)[i];
    for (step = 0; step < 10; step++) {
      const double lr = 0.01 / (step + 1);
      double norm = 0, want = 0;
      for (k = 0; k < PARAMS; k++) {
        for (i = 0; i < tfp_numel(p[k]->tensor); i++)
          ((tfp_real *)p[k]->tensor->grad->data)[i] = (tfp_real)gradient(k, i, step);
        p[k]->tensor->fresh = 0;
      }
      CHECK(tfp_adamw_step(opt, lr, &norm) == TFP_OK);
      CHECK(p[0]->tensor->fresh == 1); /* the gradients are forgotten */
      reference_step(&r, &all[d], lr, step, &want);
      NEAR(norm, want, 1e-5);
      for (k = 0; k < PARAMS; k++)
        for (i = 0; i < tfp_numel(p[k]->tensor); i++)
          NEAR(((tfp_real *)p[k]->tensor->data)[i], r.p[k][i], 3e-6);
    }
    tfp_adamw_free(opt);
    tfp_destroy(ctx);
  }
}
static void adamw_refuses(void) {
  tfp_ctx *ctx = context(1);
  tfp_params *set = tfp_params_create(ctx), *untrained = tfp_params_create(ctx);
  const int64_t three = 3;
  tfp_adamw_desc d;
  tfp_adamw *opt;
  tfp_real before[3];
  tfp_param *p = tfp_param_add(set, "p", 1, &three, TFP_INIT_NORMAL, 1);
  tfp_param_add(untrained, "p", 1, &three, TFP_INIT_NORMAL, 1);
  tfp_params_finish(set, 1), tfp_params_finish(untrained, 0);
  CHECK(!tfp_adamw_create(untrained, NULL));
  FAILS(ctx, TFP_ERR_ARG, "without gradients");
  memset(&d, 0, sizeof d);
  d.beta2 = 1;
  CHECK(!tfp_adamw_create(set, &d));
  FAILS(ctx, TFP_ERR_ARG, "beta2 1");
  d.beta2 = 0, d.weight_decay = -0.5;
  CHECK(!tfp_adamw_create(set, &d));
  FAILS(ctx, TFP_ERR_ARG, "-0.5");
  d.weight_decay = NAN;
  CHECK(!tfp_adamw_create(set, &d));
  FAILS(ctx, TFP_ERR_ARG, "nan");
  opt = tfp_adamw_create(set, NULL);
  memcpy(before, p->tensor->data, sizeof before);
  tfp_adamw_step(opt, -1, NULL);
  FAILS(ctx, TFP_ERR_ARG, "-1");
  ((tfp_real *)p->tensor->grad->data)[2] = (tfp_real)INFINITY, p->tensor->fresh = 0;
  tfp_adamw_step(opt, 0.1, NULL);
  FAILS(ctx, TFP_ERR_NAN, "inf");
  CHECK(!memcmp(before, p->tensor->data, sizeof before));
  CHECK(tfp_adamw_step(NULL, 0.1, NULL) == TFP_ERR_ARG);
  p->tensor->fresh = 1; /* what nothing reached counts as zero, whatever is left in its memory */
  CHECK(tfp_adamw_step(opt, 0.1, NULL) == TFP_OK);
  CHECK(!memcmp(before, p->tensor->data, sizeof before));
  tfp_destroy(ctx);
}

/* ---- schedules ---- */

static void schedules(void) {
  const double pi = 3.14159265358979323846;
  int64_t s;
  for (s = 0; s < 10; s++) {
    NEAR(tfp_learning_rate(TFP_COSINE, 2, 0.2, 10, 110, s), 2.0 * (double)(s + 1) / 11, 1e-12);
    NEAR(tfp_learning_rate(TFP_CONSTANT, 2, 0.2, 10, 110, s), 2.0 * (double)(s + 1) / 11, 1e-12);
  }
  for (s = 10; s < 110; s++) {
    const double r = (double)(s - 10) / 100;
    NEAR(tfp_learning_rate(TFP_COSINE, 2, 0.2, 10, 110, s), 0.2 + 1.8 * (1 + cos(pi * r)) / 2,
         1e-12);
    NEAR(tfp_learning_rate(TFP_LINEAR, 2, 0.2, 10, 110, s), 2 - 1.8 * r, 1e-12);
    NEAR(tfp_learning_rate(TFP_CONSTANT, 2, 0.2, 10, 110, s), 2, 0);
  }
  CHECK(tfp_learning_rate(TFP_COSINE, 2, 0.2, 10, 110, 110) == 0.2 &&
        tfp_learning_rate(TFP_LINEAR, 2, 0.2, 10, 110, 5000) == 0.2);
  CHECK(tfp_learning_rate(TFP_COSINE, 2, 0, 0, 100, 0) == 2);
  NEAR(tfp_learning_rate(TFP_COSINE, 2, 0, 0, 100, 50), 1, 1e-12);
  CHECK(tfp_learning_rate(TFP_LINEAR, 2, 0.5, 100, 100, 100) ==
        0.5); /* a warm-up as long as the run */
  CHECK(tfp_learning_rate(TFP_CONSTANT, 2, 0.5, 0, 100, 1000000) == 2);
}

/* ---- training ---- */

static tfp_config config_of(kind what, int64_t width, double dropout) {
  static const char *const names[KINDS] = {"bert-tiny", "gpt2-tiny", "t5-tiny"};
  tfp_config c;
  CHECK(tfp_config_preset(names[what], &c));
  c.vocab_size = VOCAB, c.hidden = width, c.heads = 4, c.head_dim = width / 4, c.ffn = 2 * width;
  if (c.max_positions) c.max_positions = 64;
  c.bos = 1, c.eos = 2, c.pad = 0;
  c.dropout = c.attention_dropout = dropout;
  return c;
}
static tfp_loader *loader_of(tfp_ctx *ctx, kind what, int64_t T, int64_t rows) {
  static const tfp_objective objectives[KINDS] = {TFP_MLM, TFP_CLM, TFP_SPAN};
  int32_t tokens[6000];
  tfp_loader_desc d;
  int i;
  for (i = 0; i < 6000;
       i++) /* words follow each other as they do in a language: some pairs are frequent */
    tokens[i] =
        3 + (int32_t)tfp_random_below(1, 2, (uint64_t)i, 16) * (i && tokens[i - 1] % 3 ? 2 : 13);
  memset(&d, 0, sizeof d);
  d.data = tfp_dataset_from_tokens(ctx, tokens, 6000, VOCAB, -1, 0.1);
  d.objective = objectives[what], d.T = T, d.rows = rows;
  d.special.bos = d.special.cls = 1, d.special.eos = d.special.sep = 2, d.special.pad = 0;
  d.special.unk = d.special.mask = -1, d.special.sentinel0 = VOCAB - 1, d.special.sentinels = 30,
  d.special.sentinel_step = -1;
  d.mlm.mask_id = 250, d.mlm.vocab = VOCAB;
  d.span.sentinel0 = VOCAB - 1, d.span.end_id = 2;
  return tfp_loader_create(ctx, &d);
}
static tfp_train_desc train_desc(tfp_ctx *ctx, kind what, int64_t T, int64_t rows) {
  tfp_train_desc t;
  memset(&t, 0, sizeof t);
  t.lr = 3e-3, t.min_lr = 3e-4, t.warmup = 3, t.steps = 20, t.rows = rows;
  t.adamw.clip = 1, t.adamw.weight_decay = 0.1;
  t.source = tfp_loader_source, t.source_user = loader_of(ctx, what, T, rows);
  return t;
}
/* A trainer and its model for the tests below: wide enough that kernels share their work. */
static tfp_trainer *trainer_of(tfp_ctx *ctx, kind what, tfp_model **model) {
  const tfp_config c = config_of(what, 64, 0.1);
  const tfp_train_desc t = train_desc(ctx, what, 32, 8);
  *model = tfp_model_create(ctx, &c, 1);
  return tfp_trainer_create(*model, &t);
}
static tfp_real *copy_weights(const tfp_model *m) {
  tfp_real *kept = (tfp_real *)malloc((size_t)m->params->flat * sizeof *kept);
  memcpy(kept, m->params->data, (size_t)m->params->flat * sizeof *kept);
  return kept;
}
static int same_weights(const tfp_model *m, const tfp_real *kept) {
  return !memcmp(kept, m->params->data, (size_t)m->params->flat * sizeof *kept);
}
static double far_weights(const tfp_model *m, const tfp_real *kept) {
  double worst = 0;
  int64_t i;
  for (i = 0; i < m->params->flat; i++)
    worst = fmax(worst, fabs((double)kept[i] - (double)m->params->data[i]));
  return worst;
}

static void threads_give_the_same_bits(void) {
  static const int threads[4] = {1, 2, 3, 7};
  int what, i, step;
  for (what = 0; what < KINDS; what++) {
    tfp_real *first = NULL;
    double losses[20], norms[20];
    for (i = 0; i < 4; i++) {
      tfp_ctx *ctx = context(threads[i]);
      tfp_model *m;
      tfp_trainer *t = trainer_of(ctx, (kind)what, &m);
      tfp_step_info info;
      for (step = 0; step < 20; step++) {
        CHECK(tfp_train_step(t, &info) == TFP_OK);
        CHECK(info.step == step + 1 && info.tokens >= 8 * 32 && info.scored > 0);
        NEAR(info.lr, tfp_learning_rate(TFP_COSINE, 3e-3, 3e-4, 3, 20, step), 1e-12);
        if (i) CHECK(losses[step] == info.loss && norms[step] == info.grad_norm);
        losses[step] = info.loss, norms[step] = info.grad_norm;
      }
      OK(ctx);
      CHECK(losses[0] > 4 && losses[19] < losses[0] - 0.5); /* and it learns */
      if (!first) first = copy_weights(m);
      CHECK(same_weights(m, first));
      tfp_destroy(ctx);
    }
    free(first);
  }
}

static void resuming_changes_nothing(void) {
  const char *const arguments[6] = {"data", "words", "rows", "8", "seed", "6"};
  const char *other[6];
  int what, step;
  char file[300];
  test_dir();
  snprintf(file, sizeof file, "%s", test_path("trainer"));
  for (what = 0; what < KINDS; what++) {
    tfp_ctx *ctx = context(2);
    tfp_model *m;
    tfp_trainer *t = trainer_of(ctx, (kind)what, &m);
    tfp_real *kept;
    for (step = 0; step < 10; step++) tfp_train_step(t, NULL);
    tfp_trainer_save(t, file, arguments, 3);
    for (step = 0; step < 10; step++) tfp_train_step(t, NULL);
    OK(ctx);
    kept = copy_weights(m);
    tfp_destroy(ctx);

    ctx = context(1); /* another number of threads, too */
    t = trainer_of(ctx, (kind)what, &m);
    tfp_train_step(t, NULL); /* this is forgotten */
    tfp_trainer_load(t, file, arguments, 3);
    CHECK(tfp_trainer_step(t) == 10);
    for (step = 0; step < 10; step++) tfp_train_step(t, NULL);
    OK(ctx);
    CHECK(tfp_trainer_step(t) == 20 && same_weights(m, kept));

    memcpy(other, arguments, sizeof other);
    other[3] = "16"; /* other arguments are refused by name, and nothing is loaded */
    free(kept), kept = copy_weights(m);
    tfp_trainer_load(t, file, other, 3);
    CHECK(strstr(tfp_error_message(ctx), "rows is 16 and was 8") != NULL);
    FAILS(ctx, TFP_ERR_ARG, "rows");
    other[2] = "new", other[3] = "1";
    tfp_trainer_load(t, file, other, 3);
    FAILS(ctx, TFP_ERR_ARG, "new");
    CHECK(same_weights(m, kept) && tfp_trainer_step(t) == 20);
    free(kept);
    tfp_destroy(ctx);

    ctx = context(1); /* the file of another model */
    t = trainer_of(ctx, (kind)((what + 1) % KINDS), &m);
    kept = copy_weights(m);
    tfp_trainer_load(t, file, NULL, 0);
    FAILS(ctx, TFP_ERR_ARG, "another model");
    CHECK(same_weights(m, kept) && tfp_trainer_step(t) == 0);
    free(kept);
    tfp_destroy(ctx);
  }
}

/* ---- bad numbers ---- */

static void nan_stops_before_the_update(void) {
  int what;
  for (what = 0; what < KINDS; what++) {
    tfp_ctx *ctx = context(2);
    tfp_model *m;
    tfp_trainer *t = trainer_of(ctx, (kind)what, &m);
    tfp_real *kept;
    tfp_train_step(t, NULL);
    OK(ctx);
    m->params->data[m->params->decayed - 5] = (tfp_real)NAN; /* one number of the last matrix */
    kept = copy_weights(m);
    tfp_train_step(t, NULL);
    CHECK(strstr(tfp_error_message(ctx), "step 2: the loss is nan") != NULL);
    FAILS(ctx, TFP_ERR_NAN, "no weight was changed");
    CHECK(same_weights(m, kept) && tfp_trainer_step(t) == 1);
    free(kept);
    tfp_destroy(ctx);
  }
}
static void infinite_gradient_stops_before_the_update(void) {
  tfp_ctx *ctx = context(1);
  tfp_config c = config_of(DECODER, 32, 0);
  tfp_train_desc d = train_desc(ctx, DECODER, 16, 4);
  tfp_model *m = tfp_model_create(ctx, &c, 1);
  tfp_trainer *t;
  tfp_real *kept;
  tfp_param *p;
  int64_t i;
  t = tfp_trainer_create(m, &d);
  p = tfp_params_find(m->params,
                      "decoder.final_norm.w"); /* a finite loss is not enough: logits of 1e30 */
  CHECK(p != NULL);
  for (i = 0; p && i < 32; i++) ((tfp_real *)p->tensor->data)[i] = (tfp_real)1e30;
  p = tfp_params_find(m->params, "word.w");
  for (i = 0; p && i < tfp_numel(p->tensor); i++)
    ((tfp_real *)p->tensor->data)[i] *= (tfp_real)1e10;
  kept = copy_weights(m);
  tfp_train_step(t, NULL);
  FAILS(ctx, TFP_ERR_NAN, "no weight was changed");
  CHECK(same_weights(m, kept));
  free(kept);
  tfp_destroy(ctx);
}

typedef struct scripted { int64_t calls, fail_at, unscored; tfp_loader *loader; } scripted;
static tfp_status scripted_source(void *user, uint64_t first, int64_t rows, tfp_batch *batch) {
  scripted *s = (scripted *)user;
  if (++s->calls == s->fail_at) return TFP_ERR_STOPPED;
  if (tfp_loader_train(s->loader, first, rows, batch)) return TFP_ERR_ARG;
  if (s->unscored) batch->labels = NULL, batch->n_labels = 0;
  return TFP_OK;
}
static void sources_that_end(void) {
  tfp_ctx *ctx = context(1);
  const tfp_config c = config_of(DECODER, 32, 0);
  tfp_train_desc d = train_desc(ctx, DECODER, 16, 4);
  tfp_model *m = tfp_model_create(ctx, &c, 1);
  tfp_trainer *t;
  tfp_real *kept = copy_weights(m);
  scripted s;
  memset(&s, 0, sizeof s);
  s.loader = (tfp_loader *)d.source_user;
  d.source = scripted_source, d.source_user = &s, d.accumulate = 2;
  t = tfp_trainer_create(m, &d);
  for (s.fail_at = 1; s.fail_at <= 4; s.fail_at++) { /* two rounds of two */
    s.calls = 0;
    tfp_train_step(t, NULL);
    FAILS(ctx, TFP_ERR_STOPPED, "source");
    CHECK(same_weights(m, kept) && tfp_trainer_step(t) == 0);
  }
  s.fail_at = 0, s.unscored = 1;
  tfp_train_step(t, NULL);
  FAILS(ctx, TFP_ERR_DATA, "no label");
  CHECK(same_weights(m, kept) && tfp_trainer_step(t) == 0);
  s.unscored = 0, s.calls = 0;
  CHECK(tfp_train_step(t, NULL) == TFP_OK && s.calls == 4);
  CHECK(!same_weights(m, kept));
  free(kept);

  d.steps = 0;
  CHECK(!tfp_trainer_create(m, &d));
  FAILS(ctx, TFP_ERR_ARG, "0 steps");
  d.steps = 1, d.lr = NAN;
  CHECK(!tfp_trainer_create(m, &d));
  FAILS(ctx, TFP_ERR_ARG, "nan");
  d.lr = 1, d.source = NULL;
  CHECK(!tfp_trainer_create(m, &d));
  FAILS(ctx, TFP_ERR_ARG, "no source");
  d.source = scripted_source, d.ranks = 2;
  CHECK(!tfp_trainer_create(m, &d));
  FAILS(ctx, TFP_ERR_ARG, "without comm");
  CHECK(!tfp_trainer_create(NULL, &d) && tfp_train_step(NULL, NULL) == TFP_ERR_ARG &&
        tfp_trainer_step(NULL) == 0);
  OK(ctx);
  tfp_destroy(ctx);
}

/* ---- micro-batches and many processes ---- */

static void micro_batches_equal_one_batch(void) {
  int what;
  for (what = 0; what < KINDS; what++) {
    tfp_real *kept = NULL;
    tfp_step_info one, many;
    int accumulate;
    for (accumulate = 1; accumulate <= 4; accumulate *= 2) {
      tfp_ctx *ctx = context(2);
      const tfp_config c = config_of((kind)what, 32, 0.1);
      tfp_train_desc d = train_desc(ctx, (kind)what, 24, 8 / accumulate);
      tfp_model *m = tfp_model_create(ctx, &c, 1);
      tfp_trainer *t;
      d.accumulate = accumulate;
      d.adamw.eps = 1e-3; /* without it, gradients near zero are blown up to a whole step */
      t = tfp_trainer_create(m, &d);
      tfp_train_step(t, &many);
      tfp_train_step(t, &many);
      OK(ctx);
      if (!kept) kept = copy_weights(m), one = many;
      CHECK(far_weights(m, kept) < 1e-5);
      NEAR(many.loss, one.loss, 1e-5);
      NEAR(many.grad_norm, one.grad_norm, 1e-5);
      CHECK(many.scored == one.scored && many.tokens == one.tokens);
      tfp_destroy(ctx);
    }
    free(kept);
  }
}

/* A hook that does what a second process with equal data would do: doubles. It notes what it is
 * asked. */
typedef struct note {
  int calls, sources, sources_before_first, order_is_wrong, floats, waits;
  double first;
  int64_t numbers;
} note;
static note *counted; /* the source and the hook share it */
static tfp_status doubling(void *user, const tfp_comm *what) {
  note *n = (note *)user;
  int64_t i;
  if (what->kind == TFP_COMM_WAIT) {
    n->waits++;
    return TFP_OK;
  }
  if (what->kind != TFP_COMM_SUM) return TFP_ERR_UNSUPPORTED;
  if (!n->calls++) {
    n->sources_before_first = n->sources;
    n->first = what->is_double ? *(double *)what->data : -1;
    n->order_is_wrong |= what->count != 1 || what->bucket != -1 || !what->is_double;
  }
  if (what->bucket >= 0) {
    n->order_is_wrong |= what->bucket != n->floats++ || n->waits || n->calls < 3;
    n->numbers += what->count;
  }
  for (i = 0; i < what->count; i++) {
    if (what->is_double) ((double *)what->data)[i] *= 2;
    else ((float *)what->data)[i] *= 2;
  }
  return TFP_OK;
}
static tfp_status counting_source(void *user, uint64_t first, int64_t rows, tfp_batch *batch) {
  (void)first;
  counted->sources++;
  return tfp_loader_train((tfp_loader *)user, 0, rows, batch); /* both ranks see the same */
}
static void equal_ranks_give_the_same_update(void) {
  int what, ranks;
  for (what = 0; what < KINDS; what++) {
    tfp_real *kept = NULL;
    tfp_step_info one, two;
    for (ranks = 1; ranks <= 2; ranks++) {
      tfp_ctx *ctx = context(1);
      const tfp_config c = config_of((kind)what, 32, 0);
      tfp_train_desc d = train_desc(ctx, (kind)what, 24, 4);
      tfp_model *m = tfp_model_create(ctx, &c, 1);
      tfp_trainer *t;
      note n;
      int step;
      memset(&n, 0, sizeof n);
      counted = &n;
      d.source = counting_source, d.accumulate = 2;
      if (ranks == 2) d.ranks = 2, d.comm = doubling, d.comm_user = &n;
      t = tfp_trainer_create(m, &d);
      for (step = 0; step < 3; step++) {
        memset(&n, 0, sizeof n);
        CHECK(tfp_train_step(t, &two) == TFP_OK);
        CHECK(n.sources == 4);
        if (ranks == 1) continue;
        CHECK(n.sources_before_first ==
              2); /* both micro-batches are counted before the first forward */
        CHECK(n.first > 0 && 2 * n.first == (double)two.scored && !n.order_is_wrong);
        CHECK(n.waits == 1 && n.floats >= 1 && n.numbers == m->params->flat);
      }
      OK(ctx);
      if (!kept) kept = copy_weights(m), one = two;
      CHECK(same_weights(m, kept) && one.loss == two.loss && one.grad_norm == two.grad_norm);
      CHECK(two.scored == one.scored * ranks && two.tokens == one.tokens * ranks);
      tfp_destroy(ctx);
    }
    free(kept);
  }
}
static tfp_status refusing(void *user, const tfp_comm *what) {
  int *left = (int *)user;
  (void)what;
  return --*left < 0 ? TFP_ERR_STOPPED : TFP_OK;
}
static void hooks_that_fail(void) {
  tfp_ctx *ctx = context(1);
  const tfp_config c = config_of(DECODER, 32, 0);
  tfp_train_desc d = train_desc(ctx, DECODER, 16, 4);
  tfp_model *m = tfp_model_create(ctx, &c, 1);
  tfp_real *kept = copy_weights(m);
  int allowed, left;
  tfp_trainer *t;
  d.comm = refusing, d.comm_user = &left;
  t = tfp_trainer_create(m, &d);
  for (allowed = 0; allowed < 20; allowed++) {
    left = allowed;
    if (tfp_train_step(t, NULL) == TFP_OK) break;
    FAILS(ctx, TFP_ERR_STOPPED, "hook");
    CHECK(same_weights(m, kept) && tfp_trainer_step(t) == 0);
  }
  CHECK(allowed >= 4 && allowed < 20 && !same_weights(m, kept));
  free(kept);
  tfp_destroy(ctx);
}

#if !defined(_WIN32)
/* Two ranks in two threads of this process, each with a context of its own, and a hook that sums.
 * */
typedef struct meeting {
  pthread_mutex_t lock;
  pthread_cond_t all_here;
  int here, round;
  void *data[2];
} meeting;
typedef struct rank {
  meeting *place;
  int number;
  tfp_real *weights;
  int64_t flat;
  tfp_step_info info;
  tfp_status status;
  kind what;
} rank;

static void wait_for_the_other(meeting *p) {
  pthread_mutex_lock(&p->lock);
  if (++p->here == 2) {
    p->here = 0, p->round++;
    pthread_cond_broadcast(&p->all_here);
  } else {
    const int round = p->round;
    while (p->round == round) pthread_cond_wait(&p->all_here, &p->lock);
  }
  pthread_mutex_unlock(&p->lock);
}
static tfp_status summing(void *user, const tfp_comm *what) {
  rank *r = (rank *)user;
  int64_t i;
  if (what->kind != TFP_COMM_SUM) return TFP_OK;
  r->place->data[r->number] = what->data;
  wait_for_the_other(r->place);
  for (i = 0; r->number == 0 && i < what->count; i++) {
    if (what->is_double) {
      double *a = (double *)r->place->data[0] + i, *b = (double *)r->place->data[1] + i;
      *a = *b = *a + *b;
    } else {
      float *a = (float *)r->place->data[0] + i, *b = (float *)r->place->data[1] + i;
      *a = *b = *a + *b;
    }
  }
  wait_for_the_other(r->place);
  return TFP_OK;
}
static void *run_rank(void *user) {
  rank *r = (rank *)user;
  tfp_ctx *ctx = context(1);
  const tfp_config c = config_of(r->what, 32, 0.1);
  tfp_train_desc d = train_desc(ctx, r->what, 24, r->place ? 2 : 4);
  tfp_model *m = tfp_model_create(ctx, &c, 1);
  tfp_trainer *t;
  int step;
  d.accumulate = 2, d.adamw.eps = 1e-3;
  if (r->place) d.ranks = 2, d.rank = r->number, d.comm = summing, d.comm_user = r;
  t = tfp_trainer_create(m, &d);
  for (step = 0; step < 3; step++) tfp_train_step(t, &r->info);
  r->status = tfp_error(ctx);
  if (m) r->weights = copy_weights(m), r->flat = m->params->flat;
  tfp_destroy(ctx);
  return NULL;
}
static void two_ranks_equal_one(void) {
  int what;
  for (what = 0; what < KINDS; what++) {
    meeting place;
    rank r[3];
    pthread_t id[2];
    double worst = 0;
    int64_t i;
    int k;
    memset(&place, 0, sizeof place);
    memset(r, 0, sizeof r);
    pthread_mutex_init(&place.lock, NULL);
    pthread_cond_init(&place.all_here, NULL);
    for (k = 0; k < 3; k++)
      r[k].what = (kind)what, r[k].number = k, r[k].place = k < 2 ? &place : NULL;
    r[2].number = 0;
    for (k = 0; k < 2; k++) CHECK(!pthread_create(&id[k], NULL, run_rank, &r[k]));
    for (k = 0; k < 2; k++) pthread_join(id[k], NULL);
    run_rank(&r[2]);
    for (k = 0; k < 3; k++) CHECK(r[k].status == TFP_OK && r[k].weights);
    CHECK(!memcmp(r[0].weights, r[1].weights, (size_t)r[0].flat * sizeof(tfp_real)));
    for (i = 0; i < r[0].flat; i++)
      worst = fmax(worst, fabs((double)r[0].weights[i] - (double)r[2].weights[i]));
    CHECK(worst < 1e-5);
    NEAR(r[0].info.loss, r[2].info.loss, 1e-5);
    NEAR(r[0].info.grad_norm, r[2].info.grad_norm, 1e-5);
    CHECK(r[0].info.loss == r[1].info.loss && r[0].info.scored == r[2].info.scored &&
          r[0].info.tokens == r[2].info.tokens);
    for (k = 0; k < 3; k++) free(r[k].weights);
    pthread_mutex_destroy(&place.lock);
    pthread_cond_destroy(&place.all_here);
  }
}
#endif

void test_optim(void) {
  RUN(adamw_follows_the_formula);
  RUN(adamw_refuses);
  RUN(schedules);
  RUN(threads_give_the_same_bits);
  RUN(resuming_changes_nothing);
  RUN(nan_stops_before_the_update);
  RUN(infinite_gradient_stops_before_the_update);
  RUN(sources_that_end);
  RUN(micro_batches_equal_one_batch);
  RUN(equal_ranks_give_the_same_update);
  RUN(hooks_that_fail);
#if !defined(_WIN32)
  RUN(two_ranks_equal_one);
#endif
}
