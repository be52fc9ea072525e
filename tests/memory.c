/* memory.c -- dry runs, blocks of the caller, allocators */
#include "test.h"

/* ---- a job: data, a small model of each kind, training, writing text ---- */

typedef enum kind { ENCODER = 0, DECODER, SEQ2SEQ, KINDS } kind;
typedef struct job {
  kind what;
  int64_t accumulate, steps;
  int recompute, train, write; /* which parts of it */
  tfp_mlm_count count;
} job;

static tfp_config config_of(kind what) {
  static const char *const names[KINDS] = {"bert-tiny", "gpt2-tiny", "t5-tiny"};
  tfp_config c;
  CHECK(tfp_config_preset(names[what], &c));
  c.vocab_size = 101, c.hidden = 32, c.heads = 2, c.head_dim = 16, c.ffn = 64;
  if (c.max_positions) c.max_positions = 64;
  c.bos = 1, c.eos = 2, c.pad = 0;
  c.dropout = c.attention_dropout = 0.1;
  return c;
}
static tfp_dataset *data_of(tfp_ctx *ctx) {
  int32_t tokens[1500];
  int i;
  for (i = 0; i < 1500; i++) tokens[i] = 3 + (int32_t)tfp_random_below(1, 2, (uint64_t)i, 80);
  return tfp_dataset_from_tokens(ctx, tokens, 1500, 101, -1, 0.1);
}
static tfp_loader *loader_of(tfp_ctx *ctx, tfp_dataset *data, kind what, int64_t rows,
                             tfp_mlm_count count) {
  static const tfp_objective objectives[KINDS] = {TFP_MLM, TFP_CLM, TFP_SPAN};
  tfp_loader_desc d;
  memset(&d, 0, sizeof d);
  d.data = data;
  d.objective = objectives[what], d.T = 32, d.rows = rows;
  d.special.bos = d.special.cls = 1, d.special.eos = d.special.sep = 2, d.special.pad = 0;
  d.special.unk = d.special.mask = -1, d.special.sentinel0 = 100, d.special.sentinels = 15,
  d.special.sentinel_step = -1;
  d.mlm.count = count, d.mlm.mask_id = 84, d.mlm.vocab = 101;
  d.span.sentinel0 = 100, d.span.end_id = 2;
  return tfp_loader_create(ctx, &d);
}
/* Leaves its errors in the context; fills in blocks after each step where that is wanted. */
static void run_job(tfp_ctx *ctx, const job *j, int64_t *blocks) {
  static const int32_t prompt[5] = {9, 8, 7, 6, 2};
  const tfp_config c = config_of(j->what);
  int32_t out[150];
  int64_t i;
  tfp_train_desc t;
  tfp_loader *loader = j->train ? loader_of(ctx, data_of(ctx), j->what, 4, j->count) : NULL;
  tfp_model *model = tfp_model_create(ctx, &c, j->train);
  tfp_trainer *trainer;
  memset(&t, 0, sizeof t);
  t.lr = 1e-3, t.steps = 10, t.rows = 4, t.accumulate = j->accumulate, t.adamw.clip = 1;
  t.source = tfp_loader_source, t.source_user = loader;
  if (model) model->recompute = j->recompute;
  if (j->train) {
    trainer = tfp_trainer_create(model, &t);
    for (i = 0; i < j->steps; i++) {
      tfp_train_step(trainer, NULL);
      if (blocks) blocks[i] = tfp_memory(ctx).blocks;
    }
  }
  if (j->write && j->what != ENCODER) {
    tfp_gen_desc g;
    memset(&g, 0, sizeof g);
    g.max_new = j->train ? 30 : 150, g.end_id = -1,
    g.temperature = 1; /* 150: more than there are positions */
    tfp_generate(model, prompt, j->train ? 5 : 1, &g, out, 150);
  } else if (j->write) {
    tfp_filled filled[3];
    const int32_t masked[6] = {1, 9, 84, 7, 6, 2};
    tfp_fill(model, masked, 6, 84, 3, 0, filled, 3);
  }
}
static tfp_ctx *context(int threads, tfp_level level, int dry) {
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.threads = threads, d.level = level, d.dry_run = dry, d.seed = 4;
  return tfp_create(&d);
}

/* All jobs: each kind with one and two micro-batches and with recomputation; then text alone. */
enum { JOBS = 13 };
static job job_number(int i) {
  job j;
  memset(&j, 0, sizeof j);
  j.what = (kind)(i % KINDS), j.accumulate = 1, j.steps = 3, j.train = 1, j.write = 1;
  if (i / KINDS == 1) j.accumulate = 2;
  if (i / KINDS == 2) j.recompute = 1;
  if (i / KINDS == 3) j.train = 0;
  if (i == 12)
    j.count = TFP_MLM_EACH, j.steps = 6; /* the number of labels differs from step to step */
  return j;
}
static const char *job_text(const job *j, int threads, tfp_level level) {
  static char text[200];
  snprintf(text, sizeof text,
           "kind %d, accumulate %d, recompute %d, train %d, threads %d, level %d", (int)j->what,
           (int)j->accumulate, j->recompute, j->train, threads, (int)level);
  return text;
}

static void dry_run_counts_exactly(void) {
  int i, threads, level;
  for (i = 0; i < JOBS; i++)
    for (threads = 1; threads <= 2; threads++)
      for (level = 0; level <= 1; level++) {
        const job j = job_number(i);
        char text[300];
        tfp_memory_info dry, real;
        tfp_ctx *ctx = context(threads, (tfp_level)level, 1);
        run_job(ctx, &j, NULL);
        OK(ctx);
        dry = tfp_memory(ctx);
        tfp_destroy(ctx);
        ctx = context(threads, (tfp_level)level, 0);
        run_job(ctx, &j, NULL);
        OK(ctx);
        real = tfp_memory(ctx);
        tfp_destroy(ctx);
        snprintf(text, sizeof text, "dry run %lld (used %lld), real %lld (used %lld): %s",
                 (long long)dry.peak, (long long)dry.used, (long long)real.peak,
                 (long long)real.used, job_text(&j, threads, (tfp_level)level));
        test_check(dry.peak == real.peak && dry.used == real.used, text, __FILE__, __LINE__);
        CHECK(real.peak > 50000 && real.peak >= real.used && real.used >= real.step);
      }
}
/* A large model can be counted on a small machine. */
static void dry_run_takes_nothing(void) {
  tfp_ctx *ctx = context(1, TFP_LEVEL_BEST, 1);
  tfp_config c;
  tfp_model *m;
  tfp_batch b;
  tfp_output out;
  static int32_t ids[1024];
  CHECK(tfp_config_preset("gpt2-xl", &c));
  m = tfp_model_create(ctx, &c, 1);
  memset(&b, 0, sizeof b);
  b.B = 1, b.T = 1024, b.ids = ids, b.labels = ids, b.n_labels = 1024;
  tfp_forward(m, &b, TFP_WANT_LOSS, NULL, &out);
  tfp_backward(ctx, out.loss);
  OK(ctx);
  CHECK(tfp_memory(ctx).peak > 8 * tfp_model_parameters(m));
  CHECK(tfp_memory(ctx).reserved < 16 << 20);
  CHECK(!m->params->data && !m->params->grad && (!out.loss || !out.loss->data));
  tfp_destroy(ctx);
}

enum { GUARD = 4096 };
/* Runs the job in a block of so many bytes between two guards; says whether the guards held. */
static int run_in_block(const job *j, tfp_level level, size_t bytes, int shift, tfp_status *status,
                        int64_t *peak) {
  unsigned char *raw = (unsigned char *)malloc(bytes + 2 * GUARD + 128), *block;
  size_t i;
  int held = 1;
  tfp_desc d;
  tfp_ctx *ctx;
  memset(raw, 0xA5, bytes + 2 * GUARD + 128);
  block = raw + GUARD;
  block += 64 - (uintptr_t)block % 64 + (unsigned)shift;
  memset(&d, 0, sizeof d);
  d.threads = 1, d.level = level, d.seed = 4, d.block = block, d.block_bytes = bytes;
  ctx = tfp_create(&d);
  *status = tfp_error(ctx), *peak = 0;
  if (ctx) {
    run_job(ctx, j, NULL);
    *status = tfp_error(ctx);
    *peak = tfp_memory(ctx).peak;
    CHECK(*status == TFP_OK || strstr(tfp_error_message(ctx), "memory"));
    CHECK(tfp_memory(ctx).blocks == 0 && tfp_memory(ctx).reserved == 0);
    tfp_destroy(ctx);
  }
  for (i = 0; i < GUARD; i++) held &= raw[i] == 0xA5 && block[bytes + i] == 0xA5;
  for (i = 0; raw + i < block; i++) held &= raw[i] == 0xA5;
  free(raw);
  return held;
}
static void block_of_peak_bytes_is_enough(void) {
  int i, level;
  for (i = 0; i < JOBS; i++)
    for (level = 0; level <= 1; level++) {
      const job j = job_number(i);
      tfp_status status;
      int64_t peak, inside;
      tfp_ctx *ctx = context(1, (tfp_level)level, 1);
      run_job(ctx, &j, NULL);
      peak = tfp_memory(ctx).peak;
      tfp_destroy(ctx);
      CHECK(run_in_block(&j, (tfp_level)level, (size_t)peak, 0, &status, &inside));
      test_check(status == TFP_OK && inside == peak, job_text(&j, 1, (tfp_level)level), __FILE__,
                 __LINE__);
      CHECK(run_in_block(&j, (tfp_level)level, (size_t)peak - 64, 0, &status, &inside));
      test_check(status == TFP_ERR_NOMEM, job_text(&j, 1, (tfp_level)level), __FILE__, __LINE__);
      CHECK(run_in_block(&j, (tfp_level)level, (size_t)peak + 63, 1, &status,
                         &inside)); /* not aligned */
      CHECK(status == TFP_OK);
    }
}
/* Blocks of any smaller size give an error too, wherever the memory ends. */
static void small_blocks_fail(void) {
  const job j = job_number(1);
  tfp_status status;
  int64_t peak, inside, bytes;
  tfp_ctx *ctx = context(1, TFP_LEVEL_PLAIN, 1);
  run_job(ctx, &j, NULL);
  peak = tfp_memory(ctx).peak;
  tfp_destroy(ctx);
  for (bytes = 0; bytes < peak; bytes += peak / 60 / 64 * 64 + 64) {
    CHECK(run_in_block(&j, TFP_LEVEL_PLAIN, (size_t)bytes, 0, &status, &inside));
    CHECK(status == TFP_ERR_NOMEM);
  }
}
static void block_gives_the_same_numbers(void) {
  static tfp_real weights[2][40000];
  int i;
  for (i = 0; i < 2; i++) {
    const tfp_config c = config_of(DECODER);
    tfp_desc d;
    tfp_ctx *ctx;
    tfp_model *m;
    tfp_train_desc t;
    tfp_trainer *trainer;
    void *block = malloc(8 << 20);
    memset(&d, 0, sizeof d);
    d.threads = 1;
    if (i) d.block = block, d.block_bytes = 8 << 20;
    ctx = tfp_create(&d);
    m = tfp_model_create(ctx, &c, 1);
    memset(&t, 0, sizeof t);
    t.lr = 1e-3, t.steps = 10, t.rows = 4, t.source = tfp_loader_source,
    t.source_user = loader_of(ctx, data_of(ctx), DECODER, 4, TFP_MLM_EXACT);
    trainer = tfp_trainer_create(m, &t);
    tfp_train_step(trainer, NULL);
    tfp_train_step(trainer, NULL);
    OK(ctx);
    CHECK(m && m->params->flat <= 40000);
    if (m) memcpy(weights[i], m->params->data, (size_t)m->params->flat * sizeof(tfp_real));
    tfp_destroy(ctx);
    free(block);
  }
  CHECK(!memcmp(weights[0], weights[1], sizeof weights[0]));
}

/* ---- allocators ---- */

typedef struct count { int64_t calls, blocks, bytes, most; int wrong; } count;
static void *count_alloc(void *user, size_t bytes) {
  count *c = (count *)user;
  char *raw = (char *)malloc(bytes + 128), *p;
  if (!raw) return NULL;
  p = raw + 128 - (uintptr_t)raw % 64;
  memcpy(p - sizeof raw, &raw, sizeof raw);
  memcpy(p - sizeof raw - sizeof bytes, &bytes, sizeof bytes);
  memset(p, 0xEE, bytes); /* nothing may rely on cleared memory */
  c->calls++, c->blocks++, c->bytes += (int64_t)bytes;
  if (c->bytes > c->most) c->most = c->bytes;
  return p;
}
static void count_release(void *user, void *block, size_t bytes) {
  count *c = (count *)user;
  char *raw;
  size_t was;
  memcpy(&raw, (char *)block - sizeof raw, sizeof raw);
  memcpy(&was, (char *)block - sizeof raw - sizeof was, sizeof was);
  c->wrong += was != bytes;
  c->blocks--, c->bytes -= (int64_t)was;
  free(raw);
}
static void everything_is_given_back(void) {
  int i, threads;
  for (i = 0; i < JOBS; i++)
    for (threads = 1; threads <= 3; threads += 2) {
      const job j = job_number(i);
      count c;
      tfp_desc d;
      tfp_ctx *ctx;
      int64_t reserved;
      memset(&c, 0, sizeof c);
      memset(&d, 0, sizeof d);
      d.threads = threads;
      d.allocator.user = &c, d.allocator.alloc = count_alloc, d.allocator.release = count_release;
      ctx = tfp_create(&d);
      run_job(ctx, &j, NULL);
      OK(ctx);
      reserved = tfp_memory(ctx).reserved;
      CHECK(reserved == c.bytes && tfp_memory(ctx).blocks == c.calls);
      CHECK(c.blocks > 1);
      tfp_destroy(ctx);
      CHECK(c.blocks == 0 && c.bytes == 0 && c.wrong == 0);
    }
}
static void no_memory_after_the_first_step(void) {
  int i, threads;
  for (i = 0; i < JOBS; i++)
    for (threads = 1; threads <= 2; threads++) {
      job j = job_number(i);
      int64_t blocks[8], k;
      tfp_ctx *ctx = context(threads, TFP_LEVEL_BEST, 0);
      if (!j.train) {
        tfp_destroy(ctx);
        continue;
      }
      j.steps = 8, j.write = 0;
      run_job(ctx, &j, blocks);
      OK(ctx);
      for (k = 1; k < 8; k++)
        test_check(blocks[k] == blocks[0], job_text(&j, threads, TFP_LEVEL_BEST), __FILE__,
                   __LINE__);
      tfp_destroy(ctx);
    }
}
/* Freed things leave the count where it was, and the same things again fit into the same memory. */
static void freed_things_come_back(void) {
  tfp_ctx *ctx = context(1, TFP_LEVEL_PLAIN, 0);
  const tfp_config c = config_of(DECODER);
  tfp_dataset *data = data_of(ctx);
  tfp_memory_info then, now;
  int i;
  memset(&then, 0, sizeof then);
  for (i = 0; i < 6; i++) {
    tfp_loader *loader = loader_of(ctx, data, DECODER, 4, TFP_MLM_EXACT);
    tfp_model *m = tfp_model_create(ctx, &c, 1);
    tfp_train_desc t;
    tfp_trainer *trainer;
    int32_t out[4];
    const int32_t prompt[2] = {4, 5};
    memset(&t, 0, sizeof t);
    t.lr = 1e-3, t.steps = 10, t.rows = 4, t.source = tfp_loader_source, t.source_user = loader;
    trainer = tfp_trainer_create(m, &t);
    tfp_train_step(trainer, NULL);
    tfp_generate(m, prompt, 2, NULL, out, 4);
    OK(ctx);
    tfp_trainer_free(trainer);
    tfp_model_free(m);
    tfp_loader_free(loader);
    now = tfp_memory(ctx);
    CHECK(i < 1 || now.used == then.used);
    CHECK(i < 2 || (now.peak == then.peak &&
                    now.reserved == then.reserved)); /* a hole may be left by the first */
    then = now;
  }
  CHECK(then.used < 400000);
  tfp_model_free(NULL), tfp_trainer_free(NULL), tfp_loader_free(NULL), tfp_dataset_free(NULL);
  tfp_params_free(NULL), tfp_adamw_free(NULL), tfp_cache_free(NULL);
  tfp_destroy(ctx);
}
static void step_reset_gives_the_same_addresses(void) {
  tfp_ctx *ctx = context(1, TFP_LEVEL_BEST, 0);
  const int64_t shape[2] = {30, 50};
  tfp_tensor *a, *b, *c, *d;
  a = tfp_zeros(ctx, 2, shape), b = tfp_random(ctx, 2, shape, 1, 1);
  CHECK((uintptr_t)a->data % 64 == 0 && (uintptr_t)b->data % 64 == 0 &&
        tfp_memory(ctx).step > 12000);
  tfp_step_reset(ctx);
  CHECK(tfp_memory(ctx).step == 0);
  c = tfp_zeros(ctx, 2, shape), d = tfp_random(ctx, 2, shape, 1, 1);
  CHECK(a == c && b == d && a->data == c->data && b->data == d->data);
  tfp_destroy(ctx);
}

void test_memory(void) {
  RUN(dry_run_counts_exactly);
  RUN(dry_run_takes_nothing);
  RUN(block_of_peak_bytes_is_enough);
  RUN(small_blocks_fail);
  RUN(block_gives_the_same_numbers);
  RUN(everything_is_given_back);
  RUN(no_memory_after_the_first_step);
  RUN(freed_things_come_back);
  RUN(step_reset_gives_the_same_addresses);
}
