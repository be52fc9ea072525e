/* base.c -- contexts, errors, random numbers, threads */
#include "test.h"

/* ---- contexts and errors ---- */

static void status_names(void) {
  int i;
  CHECK(!strcmp(tfp_status_name(TFP_OK), "TFP_OK"));
  CHECK(!strcmp(tfp_status_name(TFP_ERR_SHAPE), "TFP_ERR_SHAPE"));
  CHECK(!strcmp(tfp_status_name(TFP_ERR_BUG), "TFP_ERR_BUG"));
  for (i = 0; i < TFP_STATUS_COUNT; i++) CHECK(!strncmp(tfp_status_name((tfp_status)i), "TFP_", 4));
  CHECK(!strcmp(tfp_status_name(TFP_STATUS_COUNT), "unknown"));
}

static void descriptions(void) {
  tfp_desc d;
  tfp_ctx *ctx = tfp_create(NULL);
  OK(ctx);
  CHECK(tfp_threads(ctx) >= 1 && tfp_threads(ctx) <= TFP_MAX_THREADS);
  CHECK(!strcmp(tfp_error_message(ctx), ""));
  tfp_destroy(ctx);
  tfp_destroy(NULL);
  CHECK(tfp_error(NULL) == TFP_ERR_NOMEM && tfp_error_message(NULL)[0]);
  memset(&d, 0, sizeof d);
  d.threads = -1;
  ctx = tfp_create(&d);
  FAILS(ctx, TFP_ERR_ARG, "-1");
  tfp_destroy(ctx);
  d.threads = TFP_MAX_THREADS + 1;
  ctx = tfp_create(&d);
  FAILS(ctx, TFP_ERR_ARG, "257");
  tfp_destroy(ctx);
  d.threads = 3, d.level = TFP_LEVEL_PLAIN;
  ctx = tfp_create(&d);
  OK(ctx);
  CHECK(tfp_threads(ctx) == 3 && !strcmp(tfp_level_name(ctx), "plain"));
  tfp_destroy(ctx);
  d.level = (tfp_level)9;
  ctx = tfp_create(&d);
  FAILS(ctx, TFP_ERR_ARG, "9");
  tfp_destroy(ctx);
}

static void stamps(void) {
  const unsigned mine = TFPRE_VERSION * 16u + (unsigned)sizeof(tfp_real);
  tfp_ctx *ctx = tfp_create_stamped(NULL, sizeof(tfp_desc), mine);
  OK(ctx);
  tfp_destroy(ctx);
  ctx = tfp_create_stamped(NULL, sizeof(tfp_desc), mine + 16);
  FAILS(ctx, TFP_ERR_VERSION, "version");
  tfp_destroy(ctx);
  ctx = tfp_create_stamped(NULL, sizeof(tfp_desc), mine ^ 12u); /* 4 and 8: float and double */
  FAILS(ctx, TFP_ERR_VERSION, sizeof(tfp_real) == 4 ? "8-byte" : "4-byte");
  tfp_destroy(ctx);
  ctx = tfp_create_stamped(NULL, sizeof(tfp_desc) - 8, mine);
  FAILS(ctx, TFP_ERR_VERSION, "version");
  tfp_destroy(ctx);
}

typedef struct log_lines { int count; char last[640]; } log_lines;
static void log_line(void *user, const char *line) {
  log_lines *l = (log_lines *)user;
  l->count++;
  snprintf(l->last, sizeof l->last, "%s", line);
}

static void first_error_stays(void) {
  const int64_t s23[2] = {2, 3}, s45[2] = {4, 5};
  log_lines lines;
  tfp_desc d;
  tfp_ctx *ctx;
  tfp_tensor *a, *b, *c;
  char first[640];
  memset(&lines, 0, sizeof lines);
  memset(&d, 0, sizeof d);
  d.threads = 1, d.log = log_line, d.log_user = &lines;
  ctx = tfp_create(&d);
  a = tfp_named(tfp_zeros(ctx, 2, s23), "left"), b = tfp_zeros(ctx, 2, s45);
  CHECK(a && b && lines.count == 0);
  c = tfp_matmul(ctx, a, b);
  CHECK(!c && tfp_error(ctx) == TFP_ERR_SHAPE);
  CHECK(strstr(tfp_error_message(ctx), "(2,3)") && strstr(tfp_error_message(ctx), "(4,5)"));
  CHECK(strstr(tfp_error_message(ctx), "left") != NULL);
  CHECK(lines.count == 1 && strstr(lines.last, "TFP_ERR_SHAPE") &&
        strstr(lines.last, tfp_error_message(ctx)));
  snprintf(first, sizeof first, "%s", tfp_error_message(ctx));
  CHECK(!tfp_zeros(ctx, 9, s23)); /* another error, and things that were fine before: all quiet */
  CHECK(!tfp_zeros(ctx, 2, s23));
  CHECK(!tfp_add(ctx, a, a));
  CHECK(tfp_read(ctx, a, NULL, 6) == TFP_ERR_SHAPE);
  CHECK(tfp_write_file(ctx, "build", NULL, 5) ==
        TFP_ERR_ARG); /* it says so, but the first one is kept */
  CHECK(lines.count == 2 && strstr(lines.last, "TFP_ERR_ARG"));
  CHECK(tfp_error(ctx) == TFP_ERR_SHAPE && !strcmp(first, tfp_error_message(ctx)));
  tfp_clear_error(ctx);
  CHECK(tfp_error(ctx) == TFP_OK && !strcmp(tfp_error_message(ctx), ""));
  CHECK(tfp_add(ctx, a, a) != NULL);
  CHECK(!tfp_zeros(ctx, 9, s23));
  FAILS(ctx, TFP_ERR_ARG, "9");
  CHECK(!tfp_add(ctx, NULL, a)); /* NULL passes through without an error of its own */
  OK(ctx);
  tfp_destroy(ctx);
}

static tfp_status no_batch(void *user, uint64_t first, int64_t rows, tfp_batch *batch) {
  (void)user, (void)first, (void)rows, (void)batch;
  return TFP_ERR_STOPPED;
}

/* Every code is raised by something. TFP_ERR_VERSION: see stamps. TFP_ERR_BUG cannot be: nothing a
 * caller does may lead there. */
static void every_status(void) {
  const int64_t two = 2;
  const int32_t ids[2] = {0, 7};
  static char block[1 << 16];
  tfp_desc d;
  tfp_ctx *ctx;
  tfp_params *set;
  tfp_adamw *opt;
  tfp_config c;
  tfp_train_desc t;
  char *text;
  int64_t shape[2] = {5, 2}, many = 1 << 20;
  memset(&d, 0, sizeof d);
  d.threads = 1;
  ctx = tfp_create(&d);
  test_dir();

  tfp_zeros(ctx, -1, NULL);
  FAILS(ctx, TFP_ERR_ARG, "-1");
  tfp_backward(ctx, tfp_zeros(ctx, 1, &two));
  FAILS(ctx, TFP_ERR_SHAPE, "(2)");
  tfp_embedding(ctx, tfp_zeros(ctx, 2, shape), tfp_from_ints(ctx, 1, &two, ids), -1);
  FAILS(ctx, TFP_ERR_DATA, "7");
  tfp_read_file(ctx, test_path("absent"), &text, NULL);
  FAILS(ctx, TFP_ERR_IO, "absent");
  tfp_json_parse(ctx, "{", 1, "text");
  FAILS(ctx, TFP_ERR_FORMAT, "text");

  set = tfp_params_create(ctx);
  tfp_param_add(set, "w", 1, &two, TFP_INIT_ONE, 1);
  tfp_params_finish(set, 1);
  tfp_params_finish(set, 1);
  FAILS(ctx, TFP_ERR_STATE, "twice");
  opt = tfp_adamw_create(set, NULL);
  set->grad[1] = (tfp_real)NAN;
  set->first->tensor->fresh = 0; /* as if a backward had left it */
  tfp_adamw_step(opt, 0.1, NULL);
  FAILS(ctx, TFP_ERR_NAN, "nan");

  CHECK(tfp_config_preset("gpt2-tiny", &c));
  c.vocab_size = 20, c.hidden = 16, c.head_dim = 8, c.ffn = 16, c.bos = c.eos = 1;
  memset(&t, 0, sizeof t);
  t.lr = 0.1, t.steps = 1, t.rows = 1, t.source = no_batch;
  tfp_train_step(tfp_trainer_create(tfp_model_create(ctx, &c, 1), &t), NULL);
  FAILS(ctx, TFP_ERR_STOPPED, "source");
  tfp_destroy(ctx);

  d.block = block, d.block_bytes = sizeof block;
  ctx = tfp_create(&d);
  if (tfp_error(ctx) == TFP_OK) tfp_random(ctx, 1, &many, 1, 0);
  FAILS(ctx, TFP_ERR_NOMEM, "block");
  tfp_destroy(ctx);
  d.block_bytes = 100; /* too small for anything */
  CHECK(tfp_create(&d) == NULL);
  {
    void *large = malloc(1 << 24);
    d.block = large, d.block_bytes = 1 << 24;
    ctx = tfp_create(&d);
    OK(ctx);
    tfp_read_file(ctx, "anything", &text, NULL);
    FAILS(ctx, TFP_ERR_UNSUPPORTED, "no files");
    tfp_destroy(ctx);
    free(large);
  }
}

static void clock_runs(void) {
  double last = tfp_seconds(), start = last;
  int i;
  for (i = 0; i < 100000; i++) {
    const double now = tfp_seconds();
    CHECK(now >= last);
    last = now;
  }
  CHECK(last > start && last - start < 60);
}

/* ---- random numbers ---- */

/* Philox4x32-10 written from the paper's description, and its published test vectors. */
static void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t c[4], k[2], round;
  memcpy(c, counter, sizeof c);
  memcpy(k, key, sizeof k);
  for (round = 0; round < 10; round++) {
    const uint64_t a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
    const uint32_t n0 = (uint32_t)(b >> 32) ^ c[1] ^ k[0], n2 = (uint32_t)(a >> 32) ^ c[3] ^ k[1];
    c[0] = n0, c[1] = (uint32_t)b, c[2] = n2, c[3] = (uint32_t)a;
    k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
  }
  memcpy(out, c, sizeof c);
}
static void philox_vectors(void) {
  static const uint32_t vectors[3][10] = {
      {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
      {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
       0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
      {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
       0x94fdcceb, 0x5001e420, 0x24126ea1}};
  uint32_t out[4], counter[4], key[2];
  int i, w;
  for (i = 0; i < 3; i++) {
    philox(vectors[i], vectors[i] + 4, out);
    CHECK(!memcmp(out, vectors[i] + 6, sizeof out));
  }
  for (w = 0; w < 4; w++) CHECK(tfp_random_bits(0, 0, (uint64_t)w) == vectors[0][6 + w]);
  for (i = 0; i < 200;
       i++) { /* the library's counter is 62 bits wide, so not every vector can be asked of it */
    const uint64_t r = 0x9E3779B97F4A7C15u * (uint64_t)(i + 1), seed = r ^ r >> 7, stream = r * r,
                   block = r >> (2 + i % 40);
    counter[0] = (uint32_t)block, counter[1] = (uint32_t)(block >> 32);
    counter[2] = (uint32_t)stream, counter[3] = (uint32_t)(stream >> 32);
    key[0] = (uint32_t)seed, key[1] = (uint32_t)(seed >> 32);
    philox(counter, key, out);
    for (w = 0; w < 4; w++) CHECK(tfp_random_bits(seed, stream, block * 4 + (uint64_t)w) == out[w]);
  }
}

static void random_moments(void) {
  enum { N = 200000 };
  double s1 = 0, s2 = 0, n1 = 0, n2 = 0, n3 = 0, n4 = 0, pair = 0, last = 0;
  int64_t i;
  int bins[16] = {0};
  for (i = 0; i < N; i++) {
    const double u = (double)tfp_random_uniform(5, 9, (uint64_t)i),
                 z = (double)tfp_random_normal(5, 9, (uint64_t)i);
    CHECK(u >= 0 && u < 1);
    CHECK(fabs(z) < 6.8);
    bins[(int)(u * 16)]++;
    s1 += u, s2 += u * u;
    n1 += z, n2 += z * z, n3 += z * z * z, n4 += z * z * z * z;
    pair += z * last, last = z;
  }
  NEAR(s1 / N, 0.5, 0.003); /* five standard deviations of these means, about */
  NEAR(s2 / N, 1.0 / 3, 0.004);
  NEAR(n1 / N, 0, 0.012);
  NEAR(n2 / N, 1, 0.016);
  NEAR(n3 / N, 0, 0.045);
  NEAR(n4 / N, 3, 0.04);
  NEAR(pair / N, 0, 0.012);
  for (i = 0; i < 16; i++) CHECK(abs(bins[i] - N / 16) < 550);
}

static void random_below(void) {
  static const int64_t sizes[] = {
      1, 2, 3, 7, 10, 1000, (int64_t)1 << 31, ((int64_t)1 << 40) + 3, INT64_MAX};
  int counts[10] = {0};
  int64_t i;
  size_t s;
  for (s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    int64_t low = INT64_MAX, high = 0;
    for (i = 0; i < 2000; i++) {
      const int64_t x = tfp_random_below(3, s, (uint64_t)i, sizes[s]);
      CHECK(x >= 0 && x < sizes[s]);
      if (x < low) low = x;
      if (x > high) high = x;
    }
    CHECK((double)low <= (double)sizes[s] * 0.01); /* both ends of the range are reached */
    CHECK((double)high >= (double)(sizes[s] - 1) * 0.99);
  }
  for (i = 0; i < 100000; i++) counts[tfp_random_below(4, 1, (uint64_t)i, 10)]++;
  for (i = 0; i < 10; i++) CHECK(abs(counts[i] - 10000) < 480);
}

static void random_permuted(void) {
  static unsigned char seen[70000];
  int64_t n, i, fixed = 0, others = 0;
  for (n = 1; n <= 70000; n += n < 300 ? 1 : n < 1000 ? 163 : 23211) {
    memset(seen, 0, sizeof seen);
    for (i = 0; i < n; i++) {
      const int64_t x = tfp_random_permuted(11, (uint64_t)n, i, n);
      CHECK(x >= 0 && x < n);
      if (x >= 0 && x < n) CHECK(!seen[x]++);
      if (n > 200) fixed += x == i, others++;
    }
  }
  CHECK(fixed < others / 20); /* it does move things */
  for (i = 0, n = 0; i < 100; i++)
    n += tfp_random_permuted(1, 5, i, 1000) == tfp_random_permuted(1, 6, i, 1000);
  CHECK(n < 10);
}

static void streams_differ(void) {
  uint64_t all[5 * 4 * 4];
  int n = 0, i, j;
  static const uint64_t steps[5] = {0, 1, 2, 65536, 4294967295u};
  static const unsigned small[4] = {0, 1, 2, 65535};
  for (i = 0; i < 5; i++)
    for (j = 0; j < 16; j++) all[n++] = tfp_stream(steps[i], small[j / 4], small[j % 4]);
  for (i = 0; i < n; i++)
    for (j = 0; j < i; j++) CHECK(all[i] != all[j]);
}

/* ---- threads ---- */

enum { MANY = 300 };
static const int thread_counts[4] = {1, 2, 3, 7};

/* A chain of ops of many sizes, most of them too small to share. */
static void some_ops(tfp_ctx *ctx, float *out, int64_t count) {
  int64_t shape[2] = {count / 64, 64}, square[2] = {64, 64}, row = 64;
  tfp_tensor *x = tfp_random(ctx, 2, shape, 1, 1), *w = tfp_random(ctx, 2, square, 0.1, 2);
  tfp_tensor *g = tfp_full(ctx, 1, &row, 1.1), *b = tfp_full(ctx, 1, &row, 0.1);
  x = tfp_layernorm(ctx, tfp_gelu(ctx, tfp_matmul(ctx, x, w)), g, b, 1e-5);
  x = tfp_add(ctx, x, tfp_softmax(ctx, tfp_linear(ctx, x, w, b, TFP_ACT_TANH)));
  x = tfp_mul(ctx, x, tfp_sum(ctx, x, 0));
  tfp_read(ctx, x, out, count);
}
static void threads_agree(void) {
  static float first[4096 * 64], other[4096 * 64];
  static const int64_t rows[] = {1, 3, 17, 256, 4096};
  tfp_desc d;
  size_t r;
  int i;
  memset(&d, 0, sizeof d);
  for (r = 0; r < sizeof rows / sizeof *rows; r++)
    for (i = 0; i < 4; i++) {
      tfp_ctx *ctx;
      d.threads = thread_counts[i];
      ctx = tfp_create(&d);
      CHECK(tfp_threads(ctx) == thread_counts[i]);
      some_ops(ctx, i ? other : first, rows[r] * 64);
      OK(ctx);
      CHECK(!i || !memcmp(first, other, (size_t)rows[r] * 64 * sizeof *first));
      tfp_destroy(ctx);
    }
}
static void many_small_regions(void) {
  static float out[4][256 * 64];
  tfp_desc d;
  int i, k;
  memset(&d, 0, sizeof d);
  for (i = 0; i < 4; i++) {
    tfp_ctx *ctx;
    d.threads = thread_counts[i];
    ctx = tfp_create(&d);
    for (k = 0; k < MANY; k++) {
      some_ops(ctx, out[i], k % 8 ? 64 * (k % 256 + 1) : 256 * 64);
      tfp_step_reset(ctx);
    }
    OK(ctx);
    CHECK(!i || !memcmp(out[0], out[i], sizeof out[0]));
    tfp_destroy(ctx);
  }
  d.threads = 7;
  for (k = 0; k < 50;
       k++) { /* a pool that is opened and closed at once, and one that never works */
    tfp_ctx *ctx = tfp_create(&d);
    if (k % 2) some_ops(ctx, out[0], 256 * 64);
    OK(ctx);
    tfp_destroy(ctx);
  }
}
static void contexts_share_nothing(void) {
  static float a[256 * 64], b[256 * 64];
  tfp_desc d;
  tfp_ctx *one, *two;
  memset(&d, 0, sizeof d);
  d.threads = 2;
  one = tfp_create(&d);
  d.seed = 1;
  two = tfp_create(&d);
  tfp_zeros(two, 9, NULL);
  CHECK(tfp_error(two) == TFP_ERR_ARG && tfp_error(one) == TFP_OK);
  tfp_clear_error(two);
  some_ops(one, a, 256 * 64);
  some_ops(two, b, 256 * 64);
  CHECK(memcmp(a, b, sizeof a) != 0); /* other seeds, other numbers */
  tfp_destroy(two);
  some_ops(one, b, 256 * 64);
  OK(one);
  CHECK(!memcmp(a, b, sizeof a));
  tfp_destroy(one);
}

void test_base(void) {
  RUN(status_names);
  RUN(descriptions);
  RUN(stamps);
  RUN(first_error_stays);
  RUN(every_status);
  RUN(clock_runs);
  RUN(philox_vectors);
  RUN(random_moments);
  RUN(random_below);
  RUN(random_permuted);
  RUN(streams_differ);
  RUN(threads_agree);
  RUN(many_small_regions);
  RUN(contexts_share_nothing);
}
