/* faults.c -- memory that runs out at every allocation, disks that fail at every call */
#if !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE 1 /* symlink */
#endif
#include "test.h"
#include <errno.h>
#if !defined(_WIN32)
#include <sys/stat.h>
#include <unistd.h>
#endif

/* ---- a job that touches everything ---- */

static tfp_config config(void) {
  tfp_config c;
  CHECK(tfp_config_preset("gpt2-tiny", &c));
  c.vocab_size = 101, c.hidden = 32, c.heads = 2, c.head_dim = 16, c.ffn = 64, c.max_positions = 32;
  c.bos = 1, c.eos = 2;
  return c;
}
static tfp_trainer *trainer_of(tfp_model *m) {
  int32_t tokens[600];
  int i;
  tfp_loader_desc d;
  tfp_train_desc t;
  if (!m) return NULL;
  for (i = 0; i < 600; i++) tokens[i] = 3 + (int32_t)tfp_random_below(1, 2, (uint64_t)i, 80);
  memset(&d, 0, sizeof d);
  d.data = tfp_dataset_from_tokens(m->ctx, tokens, 600, 101, -1, 0.1);
  d.T = 16, d.rows = 4, d.special.eos = -1, d.special.pad = 0;
  memset(&t, 0, sizeof t);
  t.lr = 1e-3, t.steps = 10, t.rows = 4, t.source = tfp_loader_source,
  t.source_user = tfp_loader_create(m->ctx, &d);
  return tfp_trainer_create(m, &t);
}
static void run_job(tfp_ctx *ctx, const char *file, const char *dir) {
  const char *const arguments[4] = {"corpus", "some", "seed", "0"};
  const int32_t prompt[3] = {4, 5, 6};
  int32_t out[4];
  const tfp_config c = config();
  tfp_model *m = tfp_model_create(ctx, &c, 1), *back;
  tfp_trainer *t = trainer_of(m);
  tfp_train_step(t, NULL);
  tfp_train_step(t, NULL);
  tfp_trainer_save(t, file, arguments, 2);
  tfp_trainer_load(t, file, arguments, 2);
  tfp_make_dir(ctx, dir);
  tfp_model_save(m, dir);
  back = tfp_model_load(ctx, dir, 0);
  tfp_generate(back, prompt, 3, NULL, out, 4);
}

/* ---- memory ---- */

typedef struct failing { int64_t calls, blocks, bytes, fail_at; int once; } failing;
static void *failing_alloc(void *user, size_t bytes) {
  failing *f = (failing *)user;
  char *raw, *p;
  f->calls++;
  if (f->calls == f->fail_at || (f->calls > f->fail_at && !f->once)) return NULL;
  raw = (char *)malloc(bytes + 128);
  p = raw + 128 - (uintptr_t)raw % 64;
  memcpy(p - sizeof raw, &raw, sizeof raw);
  f->blocks++, f->bytes += (int64_t)bytes;
  return p;
}
static void failing_release(void *user, void *block, size_t bytes) {
  failing *f = (failing *)user;
  char *raw;
  memcpy(&raw, (char *)block - sizeof raw, sizeof raw);
  f->blocks--, f->bytes -= (int64_t)bytes;
  free(raw);
}
static void every_allocation_fails(void) {
  char file[300], dir[300];
  int once, threads;
  int64_t n;
  test_dir();
  snprintf(file, sizeof file, "%s", test_path("trainer"));
  snprintf(dir, sizeof dir, "%s", test_path("model"));
  for (once = 0; once < 2; once++)
    for (threads = 1; threads <= 2; threads++) {
      tfp_status status = TFP_ERR_NOMEM;
      for (n = 1; n < 2000; n++) {
        failing f;
        tfp_desc d;
        tfp_ctx *ctx;
        memset(&f, 0, sizeof f);
        memset(&d, 0, sizeof d);
        f.fail_at = n, f.once = once;
        d.threads = threads;
        d.allocator.user = &f, d.allocator.alloc = failing_alloc,
        d.allocator.release = failing_release;
        ctx = tfp_create(&d);
        if (ctx) run_job(ctx, file, dir);
        status = tfp_error(ctx);
        if (f.calls >= n && !once)
          CHECK(status == TFP_ERR_NOMEM && strstr(tfp_error_message(ctx), "memory"));
        if (f.calls >= n && once)
          CHECK(status == TFP_ERR_NOMEM || status == TFP_OK); /* smaller pieces may do */
        if (ctx && status) { /* what there is can still be used, and freed */
          tfp_clear_error(ctx);
          tfp_step_reset(ctx);
        }
        tfp_destroy(ctx);
        CHECK(f.blocks == 0 && f.bytes == 0);
        if (f.calls < n) break;
      }
      CHECK(n > 8 && n < 2000 && status == TFP_OK);
    }
}

/* ---- files: a door that fails at a chosen call ---- */

typedef struct door {
  int64_t calls, fail_at; /* calls that can fail, and which one does */
  int reading;            /* 0: the calls that write can; 1: those that read */
  int code;
} door;
typedef struct handle { FILE *f; int writing; } handle;
static int door_trips(door *d, int reading) {
  return d->reading == reading && ++d->calls == d->fail_at ? d->code : 0;
}
static int door_open(void *user, const char *path, int for_writing, void **file) {
  const int e = door_trips((door *)user, !for_writing);
  handle *h = (handle *)malloc(sizeof *h);
  *file = h;
  h->f = e ? NULL : fopen(path, for_writing ? "wb" : "rb");
  h->writing = for_writing;
  if (h->f) return 0;
  free(h);
  return e ? e : errno;
}
static int door_close(void *user, void *file) {
  handle *h = (handle *)file;
  const int e = h->writing ? door_trips((door *)user, 0) : 0,
            bad = fclose(h->f); /* it is closed in any case */
  free(h);
  return e ? e : bad ? errno : 0;
}
static int64_t door_read_at(void *user, void *file, int64_t offset, void *buffer, int64_t bytes) {
  FILE *f = ((handle *)file)->f;
  const int e = door_trips((door *)user, 1);
  if (e) return -e;
  if (fseek(f, (long)offset, SEEK_SET)) return -errno;
  return (int64_t)fread(buffer, 1, (size_t)bytes, f);
}
static int door_write(void *user, void *file, const void *data, int64_t bytes) {
  FILE *f = ((handle *)file)->f;
  const int e = door_trips((door *)user, 0);
  if (e) { /* as a full disk does: a part of it is there */
    fwrite(data, 1, (size_t)bytes / 2, f);
    return e;
  }
  return fwrite(data, 1, (size_t)bytes, f) == (size_t)bytes ? 0 : EIO;
}
static int door_sync(void *user, void *file) {
  const int e = door_trips((door *)user, 0);
  return e ? e : fflush(((handle *)file)->f) ? errno : 0;
}
static int door_size(void *user, void *file, int64_t *bytes) {
  FILE *f = ((handle *)file)->f;
  const int e = door_trips((door *)user, 1);
  if (e || fseek(f, 0, SEEK_END)) return e ? e : errno;
  *bytes = ftell(f);
  return 0;
}
static int door_replace(void *user, const char *from, const char *to) {
  const int e = door_trips((door *)user, 0);
  return e ? e : rename(from, to) ? errno : 0;
}
static int door_remove(void *user, const char *path) {
  (void)user;
  return remove(path) ? errno : 0;
}
static int door_mkdir(void *user, const char *path) {
  (void)user;
  return mkdir(path, 0777) && errno != EEXIST ? errno : 0;
}
static tfp_ctx *context_with(door *d) {
  tfp_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.threads = 1;
  if (d) {
    desc.io.user = d, desc.io.open = door_open, desc.io.close = door_close,
    desc.io.read_at = door_read_at;
    desc.io.write = door_write, desc.io.sync = door_sync, desc.io.size = door_size,
    desc.io.replace = door_replace;
    desc.io.remove = door_remove, desc.io.mkdir = door_mkdir;
  }
  return tfp_create(&desc);
}
static int there_is(const char *path) {
  FILE *f = fopen(path, "rb");
  if (f) fclose(f);
  return f != NULL;
}
static int64_t steps_in(const char *file) { /* loads it as a later run would */
  const tfp_config c = config();
  tfp_ctx *ctx = context_with(NULL);
  tfp_trainer *t = trainer_of(tfp_model_create(ctx, &c, 1));
  int64_t steps = -1;
  if (!tfp_trainer_load(t, file, NULL, 0)) steps = tfp_trainer_step(t);
  OK(ctx);
  tfp_destroy(ctx);
  return steps;
}

static void every_write_of_a_trainer_fails(void) {
  const tfp_config c = config();
  char file[300], half[300];
  door d;
  tfp_ctx *ctx;
  tfp_trainer *t;
  int64_t n;
  test_dir();
  snprintf(file, sizeof file, "%s", test_path("trainer"));
  snprintf(half, sizeof half, "%s", test_path("trainer.tmp"));
  memset(&d, 0, sizeof d);
  ctx = context_with(&d);
  t = trainer_of(tfp_model_create(ctx, &c, 1));
  tfp_train_step(t, NULL);
  tfp_trainer_save(t, file, NULL, 0);
  OK(ctx);
  CHECK(d.calls >= 5); /* open, write, sync, close, replace at least */
  tfp_train_step(t, NULL);
  for (n = 1; n < 1000; n++) {
    d.calls = 0, d.fail_at = n, d.code = n % 2 ? ENOSPC : EIO;
    if (!tfp_trainer_save(t, file, NULL, 0)) break;
    CHECK(strstr(tfp_error_message(ctx), "trainer") != NULL);
    FAILS(ctx, TFP_ERR_IO, "");
    CHECK(!there_is(half));
    if (n < 4 || n % 16 == 0) CHECK(steps_in(file) == 1);
  }
  CHECK(n >= 5 && n < 1000);
  CHECK(d.calls < n); /* it succeeded because nothing failed */
  CHECK(steps_in(file) == 2);
  tfp_destroy(ctx);
}

static double weight_in(
    const char *dir) { /* a number of the model there, NaN if it cannot be loaded */
  tfp_ctx *ctx = context_with(NULL);
  tfp_model *m = tfp_model_load(ctx, dir, 0);
  double x = NAN;
  if (m) x = (double)m->params->data[7];
  OK(ctx);
  tfp_destroy(ctx);
  return x;
}
static void every_write_of_a_model_fails(void) {
  const tfp_config c = config();
  char dir[300], path[400];
  static const char *const halves[3] = {"config.json.tmp", "generation_config.json.tmp",
                                        "model.safetensors.tmp"};
  door d;
  tfp_ctx *ctx;
  tfp_model *m;
  int64_t n;
  double before;
  int i;
  snprintf(dir, sizeof dir, "%s", test_dir());
  memset(&d, 0, sizeof d);
  ctx = context_with(&d);
  m = tfp_model_create(ctx, &c, 1);
  tfp_model_save(m, dir);
  OK(ctx);
  if (!m) return;
  before = (double)m->params->data[7];
  CHECK(weight_in(dir) == before);
  m->params->data[7] = (tfp_real)42;
  for (n = 1; n < 1000; n++) {
    d.calls = 0, d.fail_at = n, d.code = n % 2 ? ENOSPC : EIO;
    if (!tfp_model_save(m, dir)) break;
    FAILS(ctx, TFP_ERR_IO, "tests/tmp-");
    for (i = 0; i < 3; i++) {
      snprintf(path, sizeof path, "%s/%s", dir, halves[i]);
      CHECK(!there_is(path));
    }
    CHECK(weight_in(dir) == before ||
          weight_in(dir) == 42); /* files before the one that failed are new */
  }
  CHECK(n >= 16 && n < 1000); /* three files of at least five calls */
  CHECK(d.calls < n); /* it succeeded because nothing failed */
  CHECK(weight_in(dir) == 42);
  tfp_destroy(ctx);
}
static void every_read_fails(void) {
  const tfp_config c = config();
  char file[300], dir[300];
  door d;
  tfp_ctx *ctx;
  tfp_model *m;
  tfp_trainer *t;
  int64_t n;
  snprintf(dir, sizeof dir, "%s", test_dir());
  snprintf(file, sizeof file, "%s", test_path("trainer"));
  memset(&d, 0, sizeof d);
  ctx = context_with(&d);
  m = tfp_model_create(ctx, &c, 1);
  t = trainer_of(m);
  tfp_train_step(t, NULL);
  tfp_trainer_save(t, file, NULL, 0);
  tfp_model_save(m, dir);
  OK(ctx);
  d.reading = 1, d.code = EIO;
  for (n = 1; n < 1000; n++) {
    d.calls = 0, d.fail_at = n;
    if (!tfp_trainer_load(t, file, NULL, 0)) break;
    FAILS(ctx, TFP_ERR_IO, "trainer");
  }
  CHECK(n >= 4 && n < 1000);
  CHECK(d.calls < n); /* it succeeded because nothing failed */
  for (n = 1; n < 1000; n++) {
    tfp_model *back;
    d.calls = 0, d.fail_at = n;
    back = tfp_model_load(ctx, dir, 0);
    CHECK((back != NULL) == (tfp_error(ctx) == TFP_OK));
    if (back) CHECK(tfp_model_parameters(back) == tfp_model_parameters(m));
    tfp_model_free(back);
    if (d.calls < n) break;
    if (back) continue; /* what failed was a look whether there is an index */
    FAILS(ctx, TFP_ERR_IO, "tests/tmp-");
  }
  CHECK(n >= 6 && n < 1000);
  CHECK(d.calls < n); /* it succeeded because nothing failed */
  tfp_destroy(ctx);
}

/* ---- what is in the way ---- */

static void full_disk(void) {
#if defined(__linux__)
  const tfp_config c = config();
  tfp_ctx *ctx = context_with(NULL);
  tfp_trainer *t = trainer_of(tfp_model_create(ctx, &c, 1));
  static char large[1 << 20];
  char file[300], half[300];
  test_dir();
  snprintf(file, sizeof file, "%s", test_path("trainer"));
  snprintf(half, sizeof half, "%s", test_path("trainer.tmp"));
  tfp_trainer_save(t, file, NULL, 0);
  OK(ctx);
  if (symlink("/dev/full", half)) { /* what is written goes to a disk without room */
    test_skip("no symbolic links");
    tfp_destroy(ctx);
    return;
  }
  tfp_trainer_save(t, file, NULL, 0);
  FAILS(ctx, TFP_ERR_IO, "write");
  CHECK(steps_in(file) == 0);
  CHECK(symlink("/dev/full", half) == 0); /* the first one was removed */
  tfp_write_file(ctx, file, large, sizeof large);
  FAILS(ctx, TFP_ERR_IO, "trainer");
  CHECK(steps_in(file) == 0);
  tfp_destroy(ctx);
#else
  test_skip("no /dev/full");
#endif
}
static void directory_below_a_file(void) {
  const tfp_config c = config();
  tfp_ctx *ctx = context_with(NULL);
  tfp_model *m = tfp_model_create(ctx, &c, 1);
  tfp_trainer *t = trainer_of(m);
  char below[300];
  test_dir();
  tfp_write_file(ctx, test_path("plain"), "x", 1);
  OK(ctx);
  snprintf(below, sizeof below, "%s", test_path("plain/below"));
  tfp_make_dir(ctx, below);
  FAILS(ctx, TFP_ERR_IO, "plain");
  tfp_trainer_save(t, below, NULL, 0);
  FAILS(ctx, TFP_ERR_IO, "plain/below");
  tfp_model_save(m, below);
  FAILS(ctx, TFP_ERR_IO, "plain/below");
  CHECK(!tfp_model_load(ctx, below, 0));
  FAILS(ctx, TFP_ERR_IO, "plain/below");
  tfp_trainer_load(t, below, NULL, 0);
  FAILS(ctx, TFP_ERR_IO, "plain/below");
  tfp_model_save(m, test_path("absent")); /* a directory that nobody made */
  FAILS(ctx, TFP_ERR_IO, "absent");
  tfp_trainer_save(t, test_path("."), NULL, 0);
  FAILS(ctx, TFP_ERR_IO, ".");
  tfp_train_step(t, NULL); /* nothing of this has hurt the trainer */
  OK(ctx);
  tfp_destroy(ctx);
}
static void damaged_trainer_is_refused(void) {
  const tfp_config c = config();
  tfp_ctx *ctx = context_with(NULL);
  tfp_trainer *t = trainer_of(tfp_model_create(ctx, &c, 1));
  char file[300], part[300], *data = NULL;
  int64_t bytes = 0, keep;
  test_dir();
  snprintf(file, sizeof file, "%s", test_path("trainer"));
  snprintf(part, sizeof part, "%s", test_path("part"));
  tfp_train_step(t, NULL);
  tfp_trainer_save(t, file, NULL, 0);
  tfp_read_file(ctx, file, &data, &bytes);
  OK(ctx);
  CHECK(bytes > 10000);
  for (keep = 0; keep < bytes; keep += keep < 40 ? 1 : keep < 600 ? 53 : bytes / 9) {
    tfp_write_file(ctx, part, data, keep);
    OK(ctx);
    tfp_trainer_load(t, part, NULL, 0);
    FAILS(ctx, TFP_ERR_FORMAT, "part");
  }
  tfp_write_file(ctx, part, data, bytes - 1);
  tfp_trainer_load(t, part, NULL, 0);
  FAILS(ctx, TFP_ERR_FORMAT, "part");
  for (keep = 0; keep < 300;
       keep += 7) { /* a header with a wrong byte: refused, or harmless; never a crash */
    const char was = data[keep];
    data[keep] = (char)(was ^ 0x11);
    tfp_write_file(ctx, part, data, bytes);
    data[keep] = was;
    tfp_trainer_load(t, part, NULL, 0);
    CHECK(tfp_error(ctx) == TFP_OK || tfp_error(ctx) == TFP_ERR_FORMAT ||
          tfp_error(ctx) == TFP_ERR_ARG);
    tfp_clear_error(ctx);
  }
  tfp_trainer_load(t, file, NULL, 0);
  CHECK(tfp_trainer_step(t) == 1);
  tfp_train_step(t, NULL);
  OK(ctx);
  tfp_destroy(ctx);
}
/* A context in a block has no files, and says so. */
static void no_files_in_a_block(void) {
  const tfp_config c = config();
  tfp_desc d;
  tfp_ctx *ctx;
  tfp_model *m;
  void *block = malloc(8 << 20);
  memset(&d, 0, sizeof d);
  d.block = block, d.block_bytes = 8 << 20;
  ctx = tfp_create(&d);
  m = tfp_model_create(ctx, &c, 1);
  OK(ctx);
  tfp_model_save(m, "build");
  FAILS(ctx, TFP_ERR_UNSUPPORTED, "no files");
  tfp_trainer_save(trainer_of(m), "build/x", NULL, 0);
  FAILS(ctx, TFP_ERR_UNSUPPORTED, "no files");
  tfp_make_dir(ctx, "build");
  FAILS(ctx, TFP_ERR_UNSUPPORTED, "no files");
  tfp_destroy(ctx);
  free(block);
}

void test_faults(void) {
  RUN(every_allocation_fails);
  RUN(every_write_of_a_trainer_fails);
  RUN(every_write_of_a_model_fails);
  RUN(every_read_fails);
  RUN(full_disk);
  RUN(directory_below_a_file);
  RUN(damaged_trainer_is_refused);
  RUN(no_files_in_a_block);
}
