/* files.c -- files that are replaced whole, UTF-8, numbers, JSON, safetensors. */
#include "test.h"
#include <errno.h>
#include <locale.h>
#if !defined(_WIN32)
#include <unistd.h>
#endif

/* ---- a disk in memory whose N-th call fails ---- */

enum { DISK_FILES = 8 };
typedef struct mem_file {
  char name[64];
  char *data;
  int64_t n;
} mem_file;
typedef struct disk {
  mem_file files[DISK_FILES];
  int calls, fail_at, open;
  int64_t room;
} disk;

static int disk_fails(disk *d) { return ++d->calls == d->fail_at; }
static mem_file *disk_find(disk *d, const char *name) {
  int i;
  for (i = 0; i < DISK_FILES; i++)
    if (d->files[i].name[0] && !strcmp(d->files[i].name, name)) return &d->files[i];
  return NULL;
}
static void disk_forget(mem_file *f) {
  free(f->data);
  memset(f, 0, sizeof *f);
}
static int disk_open(void *user, const char *path, int for_writing, void **file) {
  disk *d = (disk *)user;
  mem_file *f = disk_find(d, path);
  int i;
  if (disk_fails(d)) return EIO;
  if (!f && !for_writing) return ENOENT;
  for (i = 0; !f && i < DISK_FILES; i++)
    if (!d->files[i].name[0]) f = &d->files[i];
  if (!f) return ENOSPC;
  snprintf(f->name, sizeof f->name, "%s", path);
  if (for_writing) f->n = 0;
  d->open++;
  *file = f;
  return 0;
}
static int disk_close(void *user, void *file) {
  disk *d = (disk *)user;
  (void)file;
  d->open--;
  return disk_fails(d) ? EIO : 0;
}
static int64_t disk_read_at(void *user, void *file, int64_t offset, void *buffer, int64_t bytes) {
  const mem_file *f = (const mem_file *)file;
  if (disk_fails((disk *)user)) return -EIO;
  if (offset >= f->n) return 0;
  if (bytes > f->n - offset) bytes = f->n - offset;
  if (bytes) memcpy(buffer, f->data + offset, (size_t)bytes);
  return bytes;
}
static int disk_write(void *user, void *file, const void *data, int64_t bytes) {
  disk *d = (disk *)user;
  mem_file *f = (mem_file *)file;
  char *more;
  if (disk_fails(d)) return EIO;
  if (bytes > d->room - f->n) return ENOSPC;
  more = (char *)realloc(f->data, (size_t)(f->n + bytes + 1));
  if (!more) return ENOMEM;
  f->data = more;
  if (bytes) memcpy(f->data + f->n, data, (size_t)bytes);
  f->n += bytes;
  return 0;
}
static int disk_sync(void *user, void *file) {
  (void)file;
  return disk_fails((disk *)user) ? EIO : 0;
}
static int disk_size(void *user, void *file, int64_t *bytes) {
  *bytes = ((const mem_file *)file)->n;
  return disk_fails((disk *)user) ? EIO : 0;
}
static int disk_replace(void *user, const char *from, const char *to) {
  disk *d = (disk *)user;
  mem_file *f = disk_find(d, from), *old = disk_find(d, to);
  if (disk_fails(d)) return EIO;
  if (!f) return ENOENT;
  if (old) disk_forget(old);
  snprintf(f->name, sizeof f->name, "%s", to);
  return 0;
}
static int disk_remove(void *user, const char *path) {
  mem_file *f = disk_find((disk *)user, path);
  if (!f) return ENOENT;
  disk_forget(f);
  return 0;
}
static int disk_mkdir(void *user, const char *path) {
  (void)path;
  return disk_fails((disk *)user) ? EIO : 0;
}
static tfp_ctx *disk_ctx(disk *d) {
  tfp_desc desc;
  memset(&desc, 0, sizeof desc);
  memset(d, 0, sizeof *d);
  d->room = 1 << 20;
  desc.threads = 1;
  desc.io.user = d;
  desc.io.open = disk_open, desc.io.close = disk_close, desc.io.read_at = disk_read_at;
  desc.io.write = disk_write, desc.io.sync = disk_sync, desc.io.size = disk_size;
  desc.io.replace = disk_replace, desc.io.remove = disk_remove, desc.io.mkdir = disk_mkdir;
  return tfp_create(&desc);
}
static void disk_end(disk *d) {
  int i;
  for (i = 0; i < DISK_FILES; i++) disk_forget(&d->files[i]);
}
static int disk_is(disk *d, const char *name, const char *text) {
  const mem_file *f = disk_find(d, name);
  return f && f->n == (int64_t)strlen(text) && !memcmp(f->data, text, strlen(text));
}

/* ---- files ---- */

static int file_is(const char *path, const char *text) {
  char got[256];
  size_t n;
  FILE *f = fopen(path, "rb");
  if (!f) return 0;
  n = fread(got, 1, sizeof got, f);
  fclose(f);
  return n == strlen(text) && !memcmp(got, text, n);
}
static void put_file(const char *path, const void *data, size_t n) {
  FILE *f = fopen(path, "wb");
  CHECK(f != NULL);
  if (!f) return;
  CHECK(fwrite(data, 1, n, f) == n);
  fclose(f);
}

static void files_write_and_read(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  char *data;
  int64_t n = -1;
  test_dir();
  CHECK(tfp_write_file(ctx, test_path("a"), "one\0two", 7) == TFP_OK);
  CHECK(tfp_read_file(ctx, test_path("a"), &data, &n) == TFP_OK);
  OK(ctx);
  CHECK(n == 7 && !memcmp(data, "one\0two\0", 8));
  CHECK(tfp_write_file(ctx, test_path("a"), "", 0) == TFP_OK);
  CHECK(tfp_read_file(ctx, test_path("a"), &data, NULL) == TFP_OK);
  CHECK(data[0] == 0);
  CHECK(tfp_file_exists(ctx, test_path("a")) == 1);
  CHECK(tfp_file_exists(ctx, test_path("b")) == 0);
  CHECK(tfp_file_exists(ctx, "build/tests") == 0); /* a directory */
  CHECK(tfp_make_dir(ctx, "build/tests/tmp-files_write_and_read") == TFP_OK);
  CHECK(tfp_error(ctx) == TFP_OK);
  CHECK(tfp_read_file(ctx, test_path("b"), &data, &n) == TFP_ERR_IO);
  FAILS(ctx, TFP_ERR_IO, "No such file");
  CHECK(tfp_read_file(ctx, "build/tests", &data, &n) == TFP_ERR_IO);
  FAILS(ctx, TFP_ERR_IO, "'build/tests'");
  CHECK(tfp_write_file(ctx, "", "x", 1) == TFP_ERR_ARG);
  FAILS(ctx, TFP_ERR_ARG, "path is empty");
  tfp_destroy(ctx);
}

static void files_failed_write_keeps_the_old(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  char below[256];
  test_dir();
  CHECK(tfp_write_file(ctx, test_path("plain"), "old", 3) == TFP_OK);
  snprintf(below, sizeof below, "%s/below", test_path("plain"));
  CHECK(tfp_write_file(ctx, below, "x", 1) == TFP_ERR_IO);
  FAILS(ctx, TFP_ERR_IO, "plain/below");
  CHECK(tfp_make_dir(ctx, below) == TFP_ERR_IO);
  FAILS(ctx, TFP_ERR_IO, "plain");
  CHECK(file_is(test_path("plain"), "old"));
#if !defined(_WIN32)
  if (access("/dev/full", W_OK) == 0) {
    /* what is written first lies on a full device: the old file stays, the new one goes */
    CHECK(symlink("/dev/full", test_path("plain.tmp")) == 0);
    CHECK(tfp_write_file(ctx, test_path("plain"), "new", 3) == TFP_ERR_IO);
    FAILS(ctx, TFP_ERR_IO, "No space left");
    CHECK(file_is(test_path("plain"), "old"));
    CHECK(access(test_path("plain.tmp"), F_OK) != 0);
  }
#endif
  CHECK(tfp_write_file(ctx, test_path("plain"), "new", 3) == TFP_OK);
  CHECK(file_is(test_path("plain"), "new"));
  tfp_destroy(ctx);
}

static void files_every_call_of_the_door_may_fail(void) {
  disk d;
  tfp_ctx *ctx = disk_ctx(&d);
  char *data;
  int at, good = 0;
  CHECK(tfp_write_file(ctx, "x", "old", 3) == TFP_OK);
  CHECK(disk_is(&d, "x", "old"));
  for (at = 1; at < 20 && !good; at++) {
    d.calls = 0, d.fail_at = at;
    good = tfp_write_file(ctx, "x", "newer", 5) == TFP_OK;
    d.fail_at = 0;
    if (good) break;
    FAILS(ctx, TFP_ERR_IO, "'x");
    CHECK(disk_is(&d, "x", "old"));
    CHECK(!disk_find(&d, "x.tmp"));
    CHECK(d.open == 0);
  }
  CHECK(good && at >= 5); /* open, write, sync, close, replace */
  CHECK(disk_is(&d, "x", "newer"));
  for (at = 1, good = 0; at < 20 && !good; at++) {
    d.calls = 0, d.fail_at = at;
    good = tfp_read_file(ctx, "x", &data, NULL) == TFP_OK;
    d.fail_at = 0;
    if (!good) FAILS(ctx, TFP_ERR_IO, "'x'");
    CHECK(d.open == 0);
  }
  CHECK(good && at >= 4 && !strcmp(data, "newer"));
  d.room = 3; /* the disk is full */
  CHECK(tfp_write_file(ctx, "x", "newest", 6) == TFP_ERR_IO);
  FAILS(ctx, TFP_ERR_IO, strerror(ENOSPC));
  CHECK(disk_is(&d, "x", "newer"));
  tfp_destroy(ctx);
  disk_end(&d);
}

static void files_a_context_without_them(void) {
  tfp_desc desc;
  tfp_ctx *ctx;
  char *data;
  size_t bytes = (size_t)64 << 20;
  void *block = malloc(bytes);
  memset(&desc, 0, sizeof desc);
  desc.block = block, desc.block_bytes = bytes;
  ctx = tfp_create(&desc);
  CHECK(tfp_error(ctx) == TFP_OK);
  CHECK(tfp_file_exists(ctx, "tfpre.h") == 0);
  CHECK(tfp_read_file(ctx, "tfpre.h", &data, NULL) == TFP_ERR_UNSUPPORTED);
  FAILS(ctx, TFP_ERR_UNSUPPORTED, "no files");
  CHECK(tfp_write_file(ctx, "x", "x", 1) == TFP_ERR_UNSUPPORTED);
  FAILS(ctx, TFP_ERR_UNSUPPORTED, "no files");
  CHECK(tfp_safetensors_open(ctx, "x") == NULL);
  FAILS(ctx, TFP_ERR_UNSUPPORTED, "no files");
  tfp_destroy(ctx);
  free(block);
}

static unsigned char pattern(int64_t i) { return (unsigned char)(i * 131 + i / 251); }

static void files_large_in_pieces(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const int64_t n = 1500001;
  unsigned char *data = (unsigned char *)malloc((size_t)n),
                *piece = (unsigned char *)malloc(200000);
  static const int64_t sizes[] = {1, 65535, 65536, 65537, 7, 200000, 4096};
  int64_t i, at = 0, got, bad = 0;
  tfp_file *f;
  int k = 0;
  test_dir();
  for (i = 0; i < n; i++) data[i] = pattern(i);
  CHECK(tfp_write_file(ctx, test_path("big"), data, n) == TFP_OK);
  f = tfp_file_open(ctx, test_path("big"));
  CHECK(f && tfp_file_size(f) == n);
  while ((got = tfp_file_read(f, piece, sizes[k++ % 7])) > 0) {
    for (i = 0; i < got; i++) bad += piece[i] != pattern(at + i);
    at += got;
    CHECK(tfp_file_read_at(f, n - at, piece, 3) ==
          (at > 3 ? 3 : at)); /* elsewhere; the place stays */
  }
  CHECK(got == 0 && at == n && bad == 0);
  tfp_file_seek(f, n - 5);
  CHECK(tfp_file_read(f, piece, 100) == 5 && !memcmp(piece, data + n - 5, 5));
  tfp_file_seek(f, n + 5);
  CHECK(tfp_file_read(f, piece, 100) == 0);
  CHECK(tfp_file_read_at(f, -1, piece, 3) == -1);
  FAILS(ctx, TFP_ERR_ARG, "offset -1");
  tfp_file_close(f);
  tfp_file_close(NULL);
  CHECK(tfp_file_size(NULL) == 0);
  CHECK(tfp_file_open(ctx, test_path("none")) == NULL);
  FAILS(ctx, TFP_ERR_IO, "none");
  free(data);
  free(piece);
  tfp_destroy(ctx);
}

static void files_lines_of_any_length(void) {
  static const int lengths[] = {0, 1, 0, 65534, 65535, 65536, 65537, 200000, 3};
  const int count = (int)(sizeof lengths / sizeof *lengths);
  tfp_ctx *ctx = tfp_create(NULL);
  char *text = (char *)malloc(700000);
  const char *line;
  int64_t n = 0, i, got;
  int k, ends;
  tfp_file *f;
  test_dir();
  for (k = 0; k < count; k++) { /* every second line ends with CR LF, the last with nothing */
    for (i = 0; i < lengths[k]; i++) text[n++] = (char)('a' + (i + k) % 26);
    if (k % 2) text[n++] = '\r';
    if (k < count - 1) text[n++] = '\n';
  }
  for (ends = 0; ends < 2; ends++) {
    if (ends) text[n++] = '\n';
    CHECK(tfp_write_file(ctx, test_path("lines"), text, n) == TFP_OK);
    f = tfp_file_open(ctx, test_path("lines"));
    for (k = 0; k < count; k++) {
      got = tfp_file_line(f, &line);
      CHECK(got == lengths[k]);
      if (got == lengths[k])
        CHECK(line[got] == 0 && (!got || line[got - 1] == (char)('a' + (got - 1 + k) % 26)));
    }
    CHECK(tfp_file_line(f, &line) == -1);
    OK(ctx);
    tfp_file_close(f);
  }
  put_file(test_path("odd"), "a\rb\n\r\n\0c\n\r", 10);
  f = tfp_file_open(ctx, test_path("odd"));
  CHECK(tfp_file_line(f, &line) == 3 && !memcmp(line, "a\rb", 3));
  CHECK(tfp_file_line(f, &line) == 0);
  CHECK(tfp_file_line(f, &line) == 2 && !memcmp(line, "\0c", 2));
  CHECK(tfp_file_line(f, &line) == 1 && line[0] == '\r'); /* no LF follows: it is text */
  CHECK(tfp_file_line(f, &line) == -1);
  tfp_file_close(f);
  free(text);
  tfp_destroy(ctx);
}

static void files_hash_is_stable(void) {
  CHECK(tfp_hash(0, "", 0) == 0xe220a8397b1dcdafu);
  CHECK(tfp_hash(0, "hello", 5) == 0xb02228924cb32984u);
  CHECK(tfp_hash(7, "The quick brown fox", 19) == 0xe34e6c67180fb8a8u);
  CHECK(tfp_hash(0, "hello", 5) != tfp_hash(0, "hello\0", 6)); /* the padding counts */
}

/* ---- UTF-8 ---- */

static void files_utf8(void) {
  static const struct {
    const char *text;
    int bytes, length;
    uint32_t c;
  } cases[] = {{"", 0, 0, 0},
               {"\0", 1, 1, 0},
               {"a", 1, 1, 'a'},
               {"\x7f", 1, 1, 0x7F},
               {"\xC2\x80", 2, 2, 0x80},
               {"\xDF\xBF", 2, 2, 0x7FF},
               {"\xE0\xA0\x80", 3, 3, 0x800},
               {"\xED\x9F\xBF", 3, 3, 0xD7FF},
               {"\xEE\x80\x80", 3, 3, 0xE000},
               {"\xEF\xBF\xBF", 3, 3, 0xFFFF},
               {"\xF0\x90\x80\x80", 4, 4, 0x10000},
               {"\xF4\x8F\xBF\xBF", 4, 4, 0x10FFFF},
               {"\x80", 1, 0, 0},
               {"\xBF", 1, 0, 0},
               {"\xFE", 1, 0, 0},
               {"\xFF", 1, 0, 0},
               {"\xC0\x80", 2, 0, 0},
               {"\xC1\xBF", 2, 0, 0},
               {"\xE0\x9F\xBF", 3, 0, 0},
               {"\xF0\x8F\xBF\xBF", 4, 0, 0},
               {"\xED\xA0\x80", 3, 0, 0},
               {"\xED\xBF\xBF", 3, 0, 0},
               {"\xF4\x90\x80\x80", 4, 0, 0},
               {"\xF5\x80\x80\x80", 4, 0, 0},
               {"\xF8\x88\x80\x80\x80", 5, 0, 0},
               {"\xC2", 1, 0, 0},
               {"\xC2"
                "a",
                2, 0, 0},
               {"\xE2\x82", 2, 0, 0},
               {"\xE2\x82"
                "a",
                3, 0, 0},
               {"\xF0\x9F\x98", 3, 0, 0},
               {"\xF0\x9F\x98"
                "a",
                4, 0, 0},
               {"\xE2\x28\xA1", 3, 0, 0}};
  size_t i;
  uint32_t c, value;
  char out[4];
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *p = cases[i].text;
    c = 0;
    CHECK(tfp_utf8_decode(cases[i].text, cases[i].bytes, &c) == cases[i].length);
    CHECK(tfp_utf8_check(cases[i].text, cases[i].bytes) ==
          (cases[i].length || !cases[i].bytes ? -1 : 0));
    if (cases[i].length) CHECK(c == cases[i].c);
    if (!cases[i].bytes) continue;
    value = tfp_utf8_next(&p, cases[i].text + cases[i].bytes);
    CHECK(value == (cases[i].length ? cases[i].c : 0xFFFD));
    CHECK(p == cases[i].text + (cases[i].length ? cases[i].length : 1));
  }
  for (value = 0; value < 0x110010; value++) { /* every code point there and back */
    const int n = tfp_utf8_encode(value, out),
              bad = (value >= 0xD800 && value < 0xE000) || value > 0x10FFFF;
    if (n != (bad               ? 0
              : value < 0x80    ? 1
              : value < 0x800   ? 2
              : value < 0x10000 ? 3
                                : 4) ||
        (n && (tfp_utf8_decode(out, n, &c) != n || c != value)))
      break;
  }
  CHECK(value == 0x110010);
  CHECK(tfp_utf8_check("ab\xC3\xA4\xED\xA0\x80", 7) == 4);
  CHECK(tfp_utf8_length("a\xC3\xA4\xF0\x9F\x98\x80\xFF", 8) == 4);
}

/* ---- numbers ---- */

static void files_numbers_as_python_prints_them(void) {
  static const struct {
    double x;
    const char *text;
  } cases[] = {{0.0, "0.0"},
               {-0.0, "-0.0"},
               {1.0, "1.0"},
               {-1.5, "-1.5"},
               {0.1, "0.1"},
               {0.3, "0.3"},
               {1e-5, "1e-05"},
               {0.0001, "0.0001"},
               {1e15, "1000000000000000.0"},
               {1e16, "1e+16"},
               {1e22, "1e+22"},
               {1e23, "1e+23"},
               {123456789012345680.0, "1.2345678901234568e+17"},
               {5e-324, "5e-324"},
               {1.7976931348623157e308, "1.7976931348623157e+308"},
               {2.2250738585072014e-308, "2.2250738585072014e-308"},
               {9007199254740993.0, "9007199254740992.0"},
               {0.1 + 0.2, "0.30000000000000004"},
               {1.0 / 3, "0.3333333333333333"},
               {2e-5, "2e-05"},
               {6.02214076e23, "6.02214076e+23"},
               {4.35, "4.35"},
               {9.5367431640625e-07, "9.5367431640625e-07"}};
  char out[TFP_NUMBER_BYTES], text[512];
  size_t i;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    const int n = tfp_format_double(out, cases[i].x);
    snprintf(text, sizeof text, "%s is written %s", cases[i].text, out);
    test_check(!strcmp(out, cases[i].text) && n == (int)strlen(out), text, __FILE__, __LINE__);
  }
  CHECK(tfp_format_double(out, (double)INFINITY) == 3 && !strcmp(out, "inf"));
  CHECK(tfp_format_double(out, -(double)INFINITY) == 4 && !strcmp(out, "-inf"));
  tfp_format_double(out, (double)NAN);
  CHECK(!strcmp(out, "nan"));
  tfp_format_float(out, 0.1f);
  CHECK(!strcmp(out, "0.1"));
  tfp_format_float(out, 16777216.0f);
  CHECK(!strcmp(out, "16777216.0"));
  tfp_format_float(out, 1e-45f);
  CHECK(!strcmp(out, "1e-45"));
  tfp_format_float(out, 3.4028235e38f);
  CHECK(!strcmp(out, "3.4028235e+38"));
}

static void files_numbers_are_read_exactly(void) {
  static const struct {
    const char *text;
    int used;
    double x;
  } cases[] = {{"0", 1, 0},
               {"-0", 2, -0.0},
               {"1.5e3,", 5, 1500},
               {"+2", 2, 2},
               {"1.", 2, 1},
               {".5", 2, 0.5},
               {"1e", 1, 1},
               {"1e+", 1, 1},
               {"", 0, 0},
               {"-", 0, 0},
               {"nan", 0, 0},
               {"inf", 0, 0},
               {" 1", 0, 0},
               {"0x10", 1, 0},
               {"9007199254740993", 16, 9007199254740992.0},
               {"9007199254740993.0000000000000000001", 36, 9007199254740994.0},
               {"2.2250738585072011e-308", 23, 2.225073858507201e-308},
               {"1.7976931348623158e308", 22, 1.7976931348623157e308},
               {"1.8e308", 7, (double)INFINITY},
               {"-1e400", 6, -(double)INFINITY},
               {"1e-400", 6, 0},
               {"4.9e-324", 8, 5e-324},
               {"2.4703282292062327208e-324", 26, 0},
               {"2.4703282292062328e-324", 23, 5e-324},
               {"0.00000000000000000000000000000000000000000000000001e52", 55, 100},
               {"1e99999999999999999999", 22, (double)INFINITY},
               {"100000000000000000000000000000000000000000000000000e-50", 55, 1}};
  char text[512];
  size_t i;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    double x = 0;
    const int64_t n = tfp_parse_number(cases[i].text, (int64_t)strlen(cases[i].text), &x);
    snprintf(text, sizeof text, "'%s': %d bytes, %.17g", cases[i].text, (int)n, x);
    test_check(n == cases[i].used && (!n || !memcmp(&x, &cases[i].x, sizeof x)), text, __FILE__,
               __LINE__);
  }
}

/* 100,000 doubles and floats with random bits: the text reads back as the same bits, in our reader
 * and in the C library's, and a text of one digit less does not. */
static int number_round_trips(uint64_t bits) {
  char out[TFP_NUMBER_BYTES], shorter[64], *end;
  double x, y = 0;
  int digits = 0;
  const char *p;
  memcpy(&x, &bits, sizeof x);
  if (x - x != 0) return 1;
  if (tfp_format_double(out, x) != (int)strlen(out) ||
      tfp_parse_number(out, (int64_t)strlen(out), &y) != (int64_t)strlen(out))
    return 0;
  if (memcmp(&x, &y, sizeof x)) return 0;
  y = strtod(out, &end);
  if (*end || memcmp(&x, &y, sizeof x)) return 0;
  for (p = out; *p && *p != 'e'; p++) digits += *p >= '0' && *p <= '9';
  if (digits < 2 || x == 0 || fabs(x) < 1e-4 * 1e-300 || (fabs(x) >= 1e-4 && fabs(x) < 1e16))
    return 1; /* zeros of the layout */
  snprintf(shorter, sizeof shorter, "%.*e", digits - 2, x);
  return strtod(shorter, NULL) != x || digits == 2; /* "1.0e.." has a digit that says nothing */
}
static int float_round_trips(uint32_t bits) {
  char out[TFP_NUMBER_BYTES];
  float x, y;
  double wide = 0;
  memcpy(&x, &bits, sizeof x);
  if (x - x != 0) return 1;
  tfp_format_float(out, x);
  if (tfp_parse_number(out, (int64_t)strlen(out), &wide) != (int64_t)strlen(out)) return 0;
  y = strtof(out, NULL);
  return !memcmp(&x, &y, sizeof x) && strlen(out) <= 19; /* nine digits, zeros up to 10^16 */
}
static void files_numbers_round_trip(void) {
  uint64_t i, bad = 0;
  for (i = 0; i < 100000; i++) {
    const uint64_t bits = (uint64_t)tfp_random_bits(5, 1, i) << 32 | tfp_random_bits(5, 2, i);
    bad += !number_round_trips(bits);
    bad += !float_round_trips(tfp_random_bits(5, 3, i));
  }
  CHECK(bad == 0);
}

static void files_numbers_in_a_locale_with_commas(void) {
  static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE",
                                      "fr_FR.UTF-8", "fr_FR.utf8", "German"};
  char out[TFP_NUMBER_BYTES], text[16];
  size_t i;
  double x = 0;
  for (i = 0; i < sizeof names / sizeof *names; i++)
    if (setlocale(LC_ALL, names[i])) break;
  snprintf(text, sizeof text, "%.1f", 0.5);
  if (text[1] == ',') {
    tfp_format_double(out, 0.5);
    CHECK(!strcmp(out, "0.5"));
    CHECK(tfp_parse_number("0.5", 3, &x) == 3 && x == 0.5);
  } else {
    test_skip("no locale with a decimal comma is installed");
  }
  setlocale(LC_ALL, "C");
}

/* ---- JSON ---- */

static void files_json_accepts(void) {
  static const char *const texts[] = {"null",
                                      " true ",
                                      "\t\r\n false",
                                      "0",
                                      "-0",
                                      "1e5",
                                      "1E+5",
                                      "1.25e-3",
                                      "\"\"",
                                      "[]",
                                      "{}",
                                      "[1,2,3]",
                                      "[[],[]]",
                                      "{\"a\":{\"b\":[null]}}",
                                      "\"\\u0041\\n\\/\"",
                                      "\"\\ud83d\\ude00\"",
                                      "\"\xC3\xA4\"",
                                      "9223372036854775807",
                                      "123456789012345678901234567890",
                                      "{\"a\":1,\"a\":2}",
                                      "\"\x7f\"",
                                      "[ 1 , 2 ]"};
  tfp_ctx *ctx = tfp_create(NULL);
  size_t i;
  for (i = 0; i < sizeof texts / sizeof *texts; i++) {
    tfp_json *v = tfp_json_parse(ctx, texts[i], (int64_t)strlen(texts[i]), "t");
    test_check(v != NULL, texts[i], __FILE__, __LINE__);
    tfp_json_free(v);
    tfp_clear_error(ctx);
  }
  tfp_json_free(NULL);
  tfp_destroy(ctx);
}
static void files_json_refuses(void) {
  static const struct {
    const char *text;
    int bytes;
    const char *words;
  } cases[] = {{"", 0, "byte 0: expected a value, found the end"},
               {"  ", 2, "byte 2:"},
               {"nul", 3, "byte 0:"},
               {"nulL", 4, "byte 0:"},
               {"01", 2, "byte 1: expected no digit after a leading 0"},
               {"-", 1, "byte 1: expected a digit"},
               {"1.", 2, "byte 2:"},
               {".5", 2, "byte 0:"},
               {"+1", 2, "byte 0:"},
               {"1e", 2, "byte 2:"},
               {"1e400", 5, "byte 0:"},
               {"NaN", 3, "byte 0:"},
               {"Infinity", 8, "byte 0:"},
               {"'a'", 3, "byte 0:"},
               {"\"a", 2, "byte 2: expected the closing quote"},
               {"\"\\", 2, "byte 2: expected an escape"},
               {"\"\\x\"", 4, "byte 2: expected an escape"},
               {"\"\\u12g4\"", 8, "byte 2:"},
               {"\"\\ud800\"", 8, "surrogate"},
               {"\"\\ude00\"", 8, "surrogate"},
               {"\"\\ud800\\u0041\"", 14, "surrogate"},
               {"\"a\nb\"", 5, "byte 2: expected an escape for a control"},
               {"\"a\0b\"", 5, "byte 2:"},
               {"\"\xFF\"", 3, "byte 1: expected UTF-8"},
               {"\"\xED\xA0\x80\"", 5, "byte 1: expected UTF-8"},
               {"[1 2]", 5, "byte 3: expected ',' or ']'"},
               {"[1,]", 4, "byte 3: expected a value"},
               {"[,1]", 4, "byte 1:"},
               {"[", 1, "byte 1:"},
               {"[1", 2, "byte 2:"},
               {"{", 1, "byte 1: expected a key"},
               {"{1:2}", 5, "byte 1: expected a key"},
               {"{\"a\" 1}", 7, "byte 5: expected ':'"},
               {"{\"a\":}", 6, "byte 5: expected a value"},
               {"{\"a\":1,}", 8, "byte 7: expected a key"},
               {"{\"a\":1 \"b\"", 10, "byte 7: expected ',' or '}'"},
               {"1 2", 3, "byte 2: expected the end"},
               {"[]]", 3, "byte 2:"},
               {"\xEF\xBB\xBF{}", 5, "byte 0:"},
               {"// c\n1", 6, "byte 0:"},
               {"[1]\0", 4, "byte 3:"},
               {"]", 1, "byte 0:"}};
  tfp_ctx *ctx = tfp_create(NULL);
  size_t i;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    tfp_json *v = tfp_json_parse(ctx, cases[i].text, cases[i].bytes, "t.json");
    test_check(v == NULL, cases[i].text, __FILE__, __LINE__);
    if (v) continue;
    FAILS(ctx, TFP_ERR_FORMAT, cases[i].words);
  }
  CHECK(tfp_json_parse(ctx, "x", 1, "a/b.json") == NULL);
  FAILS(ctx, TFP_ERR_FORMAT, "a/b.json");
  tfp_destroy(ctx);
}
static void files_json_depth(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  char text[4 * TFP_JSON_MAX_DEPTH];
  int n;
  for (n = TFP_JSON_MAX_DEPTH - 1; n <= TFP_JSON_MAX_DEPTH + 1; n++) {
    tfp_json *v;
    memset(text, '[', (size_t)n);
    memset(text + n, ']', (size_t)n);
    v = tfp_json_parse(ctx, text, 2 * n, "deep");
    CHECK((v != NULL) == (n <= TFP_JSON_MAX_DEPTH));
    if (!v) FAILS(ctx, TFP_ERR_FORMAT, "more than 128 levels");
    tfp_json_free(v);
  }
  tfp_destroy(ctx);
}
static void files_json_values(void) {
  static const char text[] = "{\"i\":-7,\"f\":1.5,\"b\":true,\"n\":null,\"t\":"
                             "\"a\\u0000b\\ud83d\\ude00\\\"\\t\",\"big\":9223372036854775808,"
                             "\"list\":[10,20,30],\"i\":8,\"\\u006b\":4}";
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_json *v = tfp_json_parse(ctx, text, (int64_t)strlen(text), NULL);
  const tfp_json *t;
  OK(ctx);
  CHECK(v && v->type == TFP_JSON_OBJECT && v->count == 9);
  CHECK(tfp_json_get_int(v, "i", 0) == 8); /* of two, the last */
  CHECK(tfp_json_at(v, 0) && tfp_json_at(v, 0)->integer == -7);
  CHECK(tfp_json_get_number(v, "f", 0) == 1.5 && tfp_json_get_number(v, "i", 0) == 8);
  CHECK(tfp_json_get_int(v, "f", 3) == 3); /* of another type */
  CHECK(tfp_json_get_bool(v, "b", 0) == 1 && tfp_json_get_bool(v, "none", 5) == 5);
  CHECK(!strcmp(tfp_json_get_text(v, "n", "other"), "other"));
  CHECK(tfp_json_get_int(v, "k", 0) == 4); /* an escaped key */
  t = tfp_json_get(v, "t");
  CHECK(t && t->text_bytes == 9 && !memcmp(t->text, "a\0b\xF0\x9F\x98\x80\"\t", 10));
  t = tfp_json_get(v, "big");
  CHECK(t && t->type == TFP_JSON_FLOAT && t->number == 9223372036854775808.0);
  t = tfp_json_get(v, "list");
  CHECK(t && t->count == 3 && tfp_json_at(t, 2)->integer == 30 && !tfp_json_at(t, 3) &&
        !tfp_json_at(t, -1));
  CHECK(t && t->offset == (int64_t)(strstr(text, "[10") - text));
  CHECK(!tfp_json_get(NULL, "x") && !tfp_json_get(t, "x") && !tfp_json_at(NULL, 0));
  tfp_json_free(v);
  tfp_destroy(ctx);
}

static void write_sample(tfp_json_writer *w) {
  tfp_json_begin_object(w);
  tfp_json_key(w, "a", -1);
  tfp_json_put_int(w, INT64_MIN);
  tfp_json_key(w, "b", -1);
  tfp_json_begin_array(w);
  tfp_json_put_bool(w, 1);
  tfp_json_put_null(w);
  tfp_json_put_double(w, 0.1);
  tfp_json_put_float(w, 0.1f);
  tfp_json_end_array(w);
  tfp_json_key(w, "e", -1);
  tfp_json_begin_object(w);
  tfp_json_end_object(w);
  tfp_json_key(w, "l", -1);
  tfp_json_begin_array(w);
  tfp_json_end_array(w);
  tfp_json_key(w, "t\"", -1);
  tfp_json_put_text(w, "\x01\n\\/\x7f\xC3\xA4\xF0\x9F\x98\x80", -1);
  tfp_json_end_object(w);
}
static void files_json_writer_styles(void) {
  static const char *const want[] = {
      "{\n  \"a\": -9223372036854775808,\n  \"b\": [\n    true,\n    null,\n    0.1,\n    0.1\n  "
      "],\n  \"e\": {},\n  \"l\": [],\n"
      "  \"t\\\"\": \"\\u0001\\n\\\\/\x7f\xC3\xA4\xF0\x9F\x98\x80\"\n}",
      "{\"a\": -9223372036854775808, \"b\": [true, null, 0.1, 0.1], \"e\": {}, \"l\": [], "
      "\"t\\\"\": \"\\u0001\\n\\\\/\x7f\xC3\xA4\xF0\x9F\x98\x80\"}",
      "{\"a\":-9223372036854775808,\"b\":[true,null,0.1,0.1],\"e\":{},\"l\":[],\"t\\\"\":"
      "\"\\u0001\\n\\\\/\x7f\xC3\xA4\xF0\x9F\x98\x80\"}"};
  tfp_ctx *ctx = tfp_create(NULL);
  int style;
  test_dir();
  for (style = 0; style < 3; style++) {
    tfp_json_writer *w = tfp_json_writer_open(ctx, (tfp_json_style)style), *again;
    tfp_json *v;
    int64_t n = 0;
    const char *text;
    write_sample(w);
    text = tfp_json_writer_text(w, &n);
    OK(ctx);
    CHECK(text && !strcmp(text, want[style]) && n == (int64_t)strlen(want[style]));
    v = text ? tfp_json_parse(ctx, text, n, "t") : NULL;
    again = tfp_json_writer_open(ctx, (tfp_json_style)style);
    tfp_json_put(again, v); /* what was parsed, written again */
    text = tfp_json_writer_text(again, NULL);
    CHECK(text && !strcmp(text, want[style]));
    CHECK(tfp_json_writer_save(again, test_path("w.json")) == TFP_OK);
    tfp_json_free(v);
    v = tfp_json_parse_file(ctx, test_path("w.json"));
    CHECK(v && v->count == 5);
    tfp_json_free(v);
    tfp_json_writer_close(w);
    tfp_json_writer_close(again);
  }
  tfp_json_writer_close(NULL);
  tfp_destroy(ctx);
}
static void files_json_writer_keeps_order(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  int k;
  for (k = 0; k < 9; k++) {
    tfp_json_writer *w = tfp_json_writer_open(ctx, TFP_JSON_TIGHT);
    static const tfp_status status[] = {TFP_ERR_STATE, TFP_ERR_STATE, TFP_ERR_STATE,
                                        TFP_ERR_STATE, TFP_ERR_STATE, TFP_ERR_ARG,
                                        TFP_ERR_DATA,  TFP_ERR_STATE, TFP_ERR_ARG};
    static const char *const words[] = {"without a key", "outside an object", "not open",
                                        "after the end", "not complete",      "no JSON number",
                                        "byte 1",        "after a key",       "more than 128"};
    int i;
    if (k == 0) tfp_json_begin_object(w), tfp_json_put_int(w, 1);
    if (k == 1) tfp_json_key(w, "a", -1);
    if (k == 2) tfp_json_begin_object(w), tfp_json_end_array(w);
    if (k == 3) tfp_json_put_int(w, 1), tfp_json_put_int(w, 2);
    if (k == 4) tfp_json_begin_array(w), tfp_json_writer_text(w, NULL);
    if (k == 5) tfp_json_put_double(w, (double)NAN);
    if (k == 6) tfp_json_put_text(w, "a\xFF", -1);
    if (k == 7) tfp_json_begin_object(w), tfp_json_key(w, "a", 1), tfp_json_key(w, "b", 1);
    for (i = 0; k == 8 && i < 200; i++) tfp_json_begin_array(w);
    FAILS(ctx, status[k], words[k]);
    tfp_json_writer_close(w);
  }
  tfp_json_put_int(NULL, 1); /* nothing */
  CHECK(tfp_json_writer_text(NULL, NULL) == NULL);
  tfp_destroy(ctx);
}

/* ---- safetensors ---- */

/* What safetensors 0.8 for Python writes for these tensors: byte for byte. */
static const char reference_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},\"i\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":"
    "[0,8]},"
    "\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[8,16]},\"a\":{\"dtype\":\"F32\","
    "\"shape\":[2],\"data_offsets\":[16,24]},"
    "\"b\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[24,36]},\"z\":{\"dtype\":\"F32\","
    "\"shape\":[0,4],\"data_offsets\":[36,36]},"
    "\"h\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[36,38]},\"u\":{\"dtype\":\"U8\","
    "\"shape\":[3],\"data_offsets\":[38,41]}}";
static const char reference_data[] = "\x07\0\0\0\0\0\0\0"
                                     "\0\0\0\0\0\0\0\x40"
                                     "\0\0\x80\x3f\0\0\0\x40"
                                     "\0\0\x80\x3f\0\0\x20\x40\0\0\x40\xc0"
                                     "\0\x38"
                                     "\x01\x02\x03";

static void set_entry(tfp_safetensors_entry *e, const char *name, tfp_st_dtype dtype, int ndim,
                      int64_t a, int64_t b) {
  memset(e, 0, sizeof *e);
  e->name = name, e->dtype = dtype, e->ndim = ndim, e->shape[0] = a, e->shape[1] = b;
}
static void files_safetensors_bytes_of_the_reference(void) {
  static const float b[] = {1, 2.5f, -3}, a[] = {1, 2}, i[] = {7}, u[] = {1, 2, 3}, h[] = {0.5f},
                     s[] = {2};
  static const float *const values[] = {b, a, i, u, h, NULL, s};
  static const int64_t counts[] = {3, 2, 1, 3, 1, 0, 1};
  static const char *const meta[] = {"format", "pt"};
  tfp_safetensors_entry e[7];
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_safetensors_writer *w;
  int64_t k, n;
  char *data;
  test_dir();
  set_entry(&e[0], "b", TFP_ST_F32, 2, 1, 3), set_entry(&e[1], "a", TFP_ST_F32, 1, 2, 0);
  set_entry(&e[2], "i", TFP_ST_I64, 1, 1, 0), set_entry(&e[3], "u", TFP_ST_U8, 1, 3, 0);
  set_entry(&e[4], "h", TFP_ST_F16, 1, 1, 0), set_entry(&e[5], "z", TFP_ST_F32, 2, 0, 4);
  set_entry(&e[6], "s", TFP_ST_F64, 0, 0, 0);
  w = tfp_safetensors_create(ctx, test_path("r.safetensors"), meta, 1, e, 7);
  while ((k = tfp_safetensors_next(w)) >= 0) {
    if (tfp_safetensors_write(w, k, values[k], 1)) break; /* in two parts where there are two */
    if (counts[k] > 1) tfp_safetensors_write(w, k, values[k] + 1, counts[k] - 1);
  }
  CHECK(tfp_safetensors_finish(w) == TFP_OK);
  OK(ctx);
  CHECK(tfp_read_file(ctx, test_path("r.safetensors"), &data, &n) == TFP_OK);
  CHECK(sizeof reference_header == 416 + 1 && sizeof reference_data == 41 + 1);
  CHECK(n == 465);
  CHECK(n == 465 && !memcmp(data, "\xa0\x01\0\0\0\0\0\0", 8));
  CHECK(n == 465 && !memcmp(data + 8, reference_header, 416));
  CHECK(n == 465 && !memcmp(data + 424, reference_data, 41));
  tfp_destroy(ctx);
}

/* Writes a file with this header (padded to 8) and so many zero bytes behind it. */
static void put_safetensors(const char *path, const char *header, int64_t data) {
  char text[4096];
  size_t n = strlen(header), pad = (8 - n % 8) % 8, i;
  memset(text, ' ', sizeof text);
  memcpy(text + 8, header, n);
  n += pad;
  for (i = 0; i < 8; i++) text[i] = (char)(n >> 8 * i & 255);
  memset(text + 8 + n, 0, (size_t)data);
  put_file(path, text, 8 + n + (size_t)data);
}
static void files_safetensors_refuses(void) {
#define T1 "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
  static const struct {
    const char *header;
    int data;
    const char *words;
  } cases[] = {
      {"[]", 0, "expected '{'"},
      {"{", 0, "byte"},
      {"{" T1 ",}", 8, "byte"},
      {"{" T1 "}", 7, "'a'"},
      {"{" T1 "}", 9, "end at byte 8 of 9"},
      {"{}", 1, "end at byte 0 of 1"},
      {"{" T1 ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9,13]}}", 13,
       "'b' begins at byte 9, not at 8"},
      {"{" T1 ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
       "'b' begins at byte 4, not at 8"},
      {"{" T1 "," T1 "}", 8, "'a'"},
      {"{" T1 ",\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}", 12,
       "'a' comes twice"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "'a' needs 12 bytes"},
      {"{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype is unknown"},
      {"{\"a\":{\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
       "dtype is missing or not a text"},
      {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "shape is missing"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "data_offsets is missing"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, "array of two"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8,
       "not a whole number"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8,
       "not a whole number"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "'a' lies at [8,0)"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8,
       "not a whole number"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,8]}}", 8,
       "'a'"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
       "'a'"},
      {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "part of one"},
      {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
       "a field comes twice"},
      {"{\"a\":3}", 0, "not an object"},
      {"{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "NUL"},
      {"{\"__metadata__\":{\"x\":1}}", 0, "not a text"},
      {"{\"__metadata__\":[]}", 0, "not an object"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "twice"}};
#undef T1
  tfp_ctx *ctx = tfp_create(NULL);
  size_t i;
  char text[64];
  test_dir();
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    tfp_safetensors *st;
    put_safetensors(test_path("bad.safetensors"), cases[i].header, cases[i].data);
    st = tfp_safetensors_open(ctx, test_path("bad.safetensors"));
    test_check(st == NULL, cases[i].header, __FILE__, __LINE__);
    if (st)
      tfp_safetensors_close(st);
    else
      CHECK(strstr(tfp_error_message(ctx), "bad.safetensors") != NULL);
    FAILS(ctx, TFP_ERR_FORMAT, cases[i].words);
  }
  put_safetensors(test_path("bad.safetensors"),
                  "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}",
                  1);
  CHECK(!tfp_safetensors_open(ctx, test_path("bad.safetensors")));
  FAILS(ctx, TFP_ERR_UNSUPPORTED, "9 dimensions");
  memcpy(text, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10); /* longer than any header may be */
  put_file(test_path("bad.safetensors"), text, 10);
  CHECK(!tfp_safetensors_open(ctx, test_path("bad.safetensors")));
  FAILS(ctx, TFP_ERR_FORMAT, "header of 18446744073709551615 bytes");
  memcpy(text, "\x03\0\0\0\0\0\0\0{}", 10); /* longer than this file */
  put_file(test_path("bad.safetensors"), text, 10);
  CHECK(!tfp_safetensors_open(ctx, test_path("bad.safetensors")));
  FAILS(ctx, TFP_ERR_FORMAT, "header of 3 bytes");
  tfp_destroy(ctx);
}

static void files_safetensors_cut_anywhere(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  char whole[465];
  size_t n, opened = 0;
  tfp_safetensors *st;
  test_dir();
  memcpy(whole, "\xa0\x01\0\0\0\0\0\0", 8);
  memcpy(whole + 8, reference_header, 416);
  memcpy(whole + 424, reference_data, 41);
  for (n = 0; n < sizeof whole; n++) {
    put_file(test_path("cut.safetensors"), whole, n);
    st = tfp_safetensors_open(ctx, test_path("cut.safetensors"));
    opened += st != NULL;
    tfp_safetensors_close(st);
    FAILS(ctx, TFP_ERR_FORMAT, "cut.safetensors");
  }
  CHECK(opened == 0);
  for (n = 8; n < 424;
       n++) { /* and with any byte of the header spoiled: an error or a file, no crash */
    const char was = whole[n];
    whole[n] = (char)(was ^ 1);
    put_file(test_path("cut.safetensors"), whole, sizeof whole);
    tfp_safetensors_close(tfp_safetensors_open(ctx, test_path("cut.safetensors")));
    tfp_clear_error(ctx);
    whole[n] = was;
  }
  put_file(test_path("cut.safetensors"), whole, sizeof whole);
  st = tfp_safetensors_open(ctx, test_path("cut.safetensors"));
  OK(ctx);
  CHECK(tfp_safetensors_count(st) == 7);
  CHECK(!strcmp(tfp_safetensors_metadata(st, "format"), "pt") &&
        !tfp_safetensors_metadata(st, "none"));
  CHECK(tfp_safetensors_at(st, 0) && !strcmp(tfp_safetensors_at(st, 0)->name, "i") &&
        !tfp_safetensors_at(st, 7));
  CHECK(!tfp_safetensors_find(st, "none") && tfp_safetensors_find(st, "z")->count == 0);
  tfp_safetensors_close(st);
  tfp_destroy(ctx);
}

static void files_safetensors_types_round_trip(void) {
  static const tfp_st_dtype types[] = {TFP_ST_F32, TFP_ST_F16, TFP_ST_BF16, TFP_ST_F64,
                                       TFP_ST_I64, TFP_ST_I32, TFP_ST_U8,
                                       TFP_ST_I8,  TFP_ST_BOOL};
  static const float all[3][6] = {{0, 1, 2, 255, 77, 128}, {0, 1, -128, 127, 77, -1},
                                  {0, 1, 1, 1, 0, 0}};
  static const char *const names[] = {"f32", "f16", "bf16", "f64", "i64",
                                      "i32", "u8",  "i8",   "bool"};
  tfp_safetensors_entry e[9];
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_safetensors_writer *w;
  tfp_safetensors *st;
  float got[6];
  int64_t k;
  int i;
  test_dir();
  for (i = 0; i < 9; i++) set_entry(&e[i], names[i], types[i], 2, 2, 3);
  w = tfp_safetensors_create(ctx, test_path("t.safetensors"), NULL, 0, e, 9);
  while ((k = tfp_safetensors_next(w)) >= 0)
    if (tfp_safetensors_write(w, k, all[k < 7 ? 0 : k - 6], 6)) break;
  CHECK(tfp_safetensors_finish(w) == TFP_OK);
  st = tfp_safetensors_open(ctx, test_path("t.safetensors"));
  OK(ctx);
  for (i = 0; i < 9; i++) {
    const float *values = all[i < 7 ? 0 : i - 6];
    const tfp_safetensors_entry *f = tfp_safetensors_find(st, names[i]);
    CHECK(f && f->dtype == types[i] && f->ndim == 2 && f->shape[0] == 2 && f->shape[1] == 3 &&
          f->count == 6);
    if (!f) continue;
    memset(got, 1, sizeof got);
    CHECK(tfp_safetensors_read(st, f, 0, 6, got) == TFP_OK && !memcmp(got, values, sizeof got));
    CHECK(tfp_safetensors_read(st, f, 3, 2, got) == TFP_OK && got[0] == values[3] &&
          got[1] == values[4]); /* a part */
    CHECK(tfp_safetensors_read(st, f, 5, 2, got) == TFP_ERR_ARG);
    FAILS(ctx, TFP_ERR_ARG, names[i]);
  }
  tfp_safetensors_close(st);
  for (i = 7; i < 9; i++) { /* one more than fits */
    const float over = i == 7 ? 128 : 2;
    set_entry(&e[0], names[i], types[i], 1, 1, 0);
    w = tfp_safetensors_create(ctx, test_path("t.safetensors"), NULL, 0, e, 1);
    CHECK(tfp_safetensors_write(w, 0, &over, 1) == TFP_ERR_ARG);
    tfp_safetensors_abort(w);
    FAILS(ctx, TFP_ERR_ARG, "does not hold");
  }
  tfp_destroy(ctx);
}

static void files_safetensors_halves(void) {
  /* to the nearest, ties to even; overflow to infinity; the smallest ones of float16 */
  static const float in[] = {1,     1 + 1.0f / 2048, 1 + 3.0f / 2048, 65504,
                             65520, 6e-8f,           2.98e-8f,        -0.0f};
  static const unsigned f16[] = {0x3C00, 0x3C00, 0x3C02, 0x7BFF, 0x7C00, 0x0001, 0x0000, 0x8000};
  static const float in_b[] = {1,   1 + 1.0f / 256, 1 + 3.0f / 256, 3.4028235e38f, -2, 1e-40f, 0,
                               0.1f};
  static const unsigned bf16[] = {0x3F80, 0x3F80, 0x3F82, 0x7F80, 0xC000, 0x0001, 0, 0x3DCD};
  tfp_safetensors_entry e[2];
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_safetensors_writer *w;
  tfp_safetensors *st;
  unsigned char raw[16];
  float back[8];
  int64_t k;
  int i;
  test_dir();
  set_entry(&e[0], "h", TFP_ST_F16, 1, 8, 0), set_entry(&e[1], "b", TFP_ST_BF16, 1, 8, 0);
  w = tfp_safetensors_create(ctx, test_path("h.safetensors"), NULL, 0, e, 2);
  while ((k = tfp_safetensors_next(w)) >= 0)
    if (tfp_safetensors_write(w, k, k ? in_b : in, 8)) break;
  CHECK(tfp_safetensors_finish(w) == TFP_OK);
  st = tfp_safetensors_open(ctx, test_path("h.safetensors"));
  OK(ctx);
  CHECK(tfp_safetensors_read_bytes(st, tfp_safetensors_find(st, "h"), 0, 16, raw) == TFP_OK);
  for (i = 0; i < 8; i++) CHECK((unsigned)(raw[2 * i] | raw[2 * i + 1] << 8) == f16[i]);
  CHECK(tfp_safetensors_read(st, tfp_safetensors_find(st, "h"), 0, 8, back) == TFP_OK);
  CHECK(back[0] == 1 && back[2] == 1 + 2.0f / 1024 && back[3] == 65504 && back[4] > 3e38f);
  CHECK(back[5] == ldexpf(1, -24) && signbit(back[7]) && back[7] == 0);
  CHECK(tfp_safetensors_read_bytes(st, tfp_safetensors_find(st, "b"), 0, 16, raw) == TFP_OK);
  for (i = 0; i < 8; i++) CHECK((unsigned)(raw[2 * i] | raw[2 * i + 1] << 8) == bf16[i]);
  CHECK(tfp_safetensors_read_bytes(st, tfp_safetensors_find(st, "b"), 15, 2, raw) == TFP_ERR_ARG);
  FAILS(ctx, TFP_ERR_ARG, "2 bytes from 15 on of 16");
  tfp_safetensors_close(st);
  tfp_destroy(ctx);
}

static void files_safetensors_writer_checks(void) {
  static const float x[] = {1, 2, 300, 0.5f};
  tfp_safetensors_entry e[2];
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_safetensors_writer *w;
  test_dir();
  put_file(test_path("w.safetensors"), "old", 3);
  set_entry(&e[0], "a", TFP_ST_U8, 1, 4, 0), set_entry(&e[1], "a", TFP_ST_F32, 1, 1, 0);
  CHECK(!tfp_safetensors_create(ctx, test_path("w.safetensors"), NULL, 0, e, 2));
  FAILS(ctx, TFP_ERR_ARG, "'a' comes twice");
  e[0].name = "__metadata__";
  CHECK(!tfp_safetensors_create(ctx, test_path("w.safetensors"), NULL, 0, e, 1));
  FAILS(ctx, TFP_ERR_ARG, "__metadata__");
  e[0].name = "\xFF";
  CHECK(!tfp_safetensors_create(ctx, test_path("w.safetensors"), NULL, 0, e, 1));
  FAILS(ctx, TFP_ERR_DATA, "UTF-8");
  e[0].name = "b", e[0].shape[0] = -1;
  CHECK(!tfp_safetensors_create(ctx, test_path("w.safetensors"), NULL, 0, e, 1));
  FAILS(ctx, TFP_ERR_ARG, "'b'");
  e[0].shape[0] = 4;
  w = tfp_safetensors_create(ctx, test_path("w.safetensors"), NULL, 0, e, 2);
  CHECK(tfp_safetensors_next(w) == 1); /* F32 lies in front of U8 */
  CHECK(tfp_safetensors_write(w, 0, x, 1) == TFP_ERR_STATE);
  FAILS(ctx, TFP_ERR_STATE, "entry 0 is written where 1 was expected");
  CHECK(tfp_safetensors_write(w, 1, x, 2) == TFP_ERR_ARG);
  FAILS(ctx, TFP_ERR_ARG, "2 elements");
  CHECK(tfp_safetensors_write(w, 1, x, 1) == TFP_OK);
  CHECK(tfp_safetensors_write(w, 0, x, 4) == TFP_ERR_ARG);
  FAILS(ctx, TFP_ERR_ARG, "element 2 is 300");
  CHECK(tfp_safetensors_finish(w) == TFP_ERR_STATE);
  FAILS(ctx, TFP_ERR_STATE, "'b' is not complete");
  w = tfp_safetensors_create(ctx, test_path("w.safetensors"), NULL, 0, e, 2);
  tfp_safetensors_abort(w);
  tfp_safetensors_abort(NULL);
  OK(ctx);
  CHECK(file_is(test_path("w.safetensors"), "old"));
  CHECK(!tfp_file_exists(ctx, test_path("w.safetensors.tmp")));
  tfp_destroy(ctx);
}

void test_files(void) {
  RUN(files_write_and_read);
  RUN(files_failed_write_keeps_the_old);
  RUN(files_every_call_of_the_door_may_fail);
  RUN(files_a_context_without_them);
  RUN(files_large_in_pieces);
  RUN(files_lines_of_any_length);
  RUN(files_hash_is_stable);
  RUN(files_utf8);
  RUN(files_numbers_as_python_prints_them);
  RUN(files_numbers_are_read_exactly);
  RUN(files_numbers_round_trip);
  RUN(files_numbers_in_a_locale_with_commas);
  RUN(files_json_accepts);
  RUN(files_json_refuses);
  RUN(files_json_depth);
  RUN(files_json_values);
  RUN(files_json_writer_styles);
  RUN(files_json_writer_keeps_order);
  RUN(files_safetensors_bytes_of_the_reference);
  RUN(files_safetensors_refuses);
  RUN(files_safetensors_cut_anywhere);
  RUN(files_safetensors_types_round_trip);
  RUN(files_safetensors_halves);
  RUN(files_safetensors_writer_checks);
}
