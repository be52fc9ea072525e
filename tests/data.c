/* data.c -- corpora from files and tokens, their split, and the windows of an epoch. */
#include "test.h"

static void put_text(const char *path, const char *text) {
  FILE *f = fopen(path, "wb");
  CHECK(f != NULL);
  if (!f) return;
  CHECK(fwrite(text, 1, strlen(text), f) == strlen(text));
  fclose(f);
}
/* A data set of one file, bytes as tokens; 256 ends a document if append_end is set. */
static tfp_dataset *load(tfp_ctx *ctx, const char *path, tfp_doc_per per, double val,
                         int append_end) {
  tfp_data_desc d;
  memset(&d, 0, sizeof d);
  d.paths = &path, d.count = 1, d.doc_per = per, d.val_fraction = val, d.append_end = append_end;
  d.tokenizer = tfp_tokenizer_bytes(ctx, TFP_SPECIALS_GPT2);
  return tfp_dataset_load(ctx, &d);
}
/* The training part is this text; '|' stands for the end of a document. */
static int text_is(const tfp_dataset *d, const char *want) {
  int32_t ids[512];
  int64_t n = tfp_dataset_read(d, TFP_TRAIN, 0, 512, ids), i;
  if (n != (int64_t)strlen(want) || n != tfp_dataset_tokens(d, TFP_TRAIN)) return 0;
  for (i = 0; i < n; i++)
    if (ids[i] != (want[i] == '|' ? 256 : (unsigned char)want[i])) return 0;
  return 1;
}

static void data_documents_per_file_blank_line(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_dataset *d;
  const char *path;
  test_dir();
  put_text(test_path("t.txt"), "ab\ncd\n\n \nef\r\n\n\n");
  path = test_path("t.txt");
  d = load(ctx, path, TFP_DOC_PER_FILE, 0, 1);
  OK(ctx);
  CHECK(tfp_dataset_documents(d) == 1 && text_is(d, "ab\ncd\n\n \nef\r\n\n\n|"));
  d = load(ctx, path, TFP_DOC_PER_BLANK, 0, 1);
  CHECK(tfp_dataset_documents(d) == 2 && text_is(d, "ab\ncd\n|ef\n|"));
  d = load(ctx, path, TFP_DOC_PER_LINE, 0, 1);
  CHECK(tfp_dataset_documents(d) == 3 && text_is(d, "ab|cd|ef|"));
  d = load(ctx, path, TFP_DOC_PER_LINE, 0, 0);
  CHECK(tfp_dataset_documents(d) == 3 && text_is(d, "abcdef"));
  put_text(test_path("t.txt"), "no break at the end\n\nlast");
  d = load(ctx, test_path("t.txt"), TFP_DOC_PER_BLANK, 0, 1);
  CHECK(tfp_dataset_documents(d) == 2 && text_is(d, "no break at the end\n|last\n|"));
  OK(ctx);
  tfp_dataset_free(d);
  tfp_dataset_free(NULL);
  tfp_destroy(ctx);
}
static void data_several_files(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *paths[3];
  tfp_data_desc desc;
  tfp_dataset *d;
  test_dir();
  put_text(test_path("a.txt"), "one");
  put_text(test_path("b.txt"), "");
  put_text(test_path("c.jsonl"), "{\"text\":\"two\\n\"}\n\n{\"n\":1,\"text\":\"three\"}\n");
  paths[0] = test_path("a.txt"), paths[1] = test_path("b.txt"), paths[2] = test_path("c.jsonl");
  memset(&desc, 0, sizeof desc);
  desc.paths = paths, desc.count = 3, desc.append_end = 1,
  desc.tokenizer = tfp_tokenizer_bytes(ctx, TFP_SPECIALS_GPT2);
  d = tfp_dataset_load(ctx, &desc);
  OK(ctx);
  CHECK(tfp_dataset_documents(d) == 3 &&
        text_is(d, "one|two\n|three|")); /* the empty file is no document */
  put_text(test_path("c.jsonl"), "{\"text\":\"two\"}\n{\"body\":\"three\"}\n");
  CHECK(!tfp_dataset_load(ctx, &desc));
  FAILS(ctx, TFP_ERR_DATA, "line 2 of");
  put_text(test_path("c.jsonl"), "{\"text\":\"two\"}\n{\"text\": 5}\n");
  CHECK(!tfp_dataset_load(ctx, &desc));
  FAILS(ctx, TFP_ERR_DATA, "no \"text\"");
  put_text(test_path("c.jsonl"), "{\"text\":\"two\"\n");
  CHECK(!tfp_dataset_load(ctx, &desc));
  FAILS(ctx, TFP_ERR_FORMAT, "c.jsonl");
  tfp_destroy(ctx);
}
static void data_files_that_cannot_be(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *path;
  tfp_data_desc desc;
  test_dir();
  put_text(test_path("t.txt"), "");
  CHECK(!load(ctx, test_path("t.txt"), TFP_DOC_PER_FILE, 0, 1));
  FAILS(ctx, TFP_ERR_DATA, "t.txt' is without any text");
  put_text(test_path("t.txt"), " \n\t\n\r\n");
  CHECK(!load(ctx, test_path("t.txt"), TFP_DOC_PER_LINE, 0, 1));
  FAILS(ctx, TFP_ERR_DATA, "without any text");
  CHECK(!load(ctx, test_path("t.txt"), TFP_DOC_PER_BLANK, 0, 1));
  FAILS(ctx, TFP_ERR_DATA, "without any text");
  CHECK(!load(ctx, test_path("none.txt"), TFP_DOC_PER_FILE, 0, 1));
  FAILS(ctx, TFP_ERR_IO, "none.txt");
  CHECK(!load(ctx, test_path("none.txt"), TFP_DOC_PER_LINE, 0, 1));
  FAILS(ctx, TFP_ERR_IO, "none.txt");
  put_text(test_path("t.txt"), "text");
  CHECK(!load(ctx, test_path("t.txt"), TFP_DOC_PER_FILE, 1.0, 1));
  FAILS(ctx, TFP_ERR_ARG, "1 is not in [0,1)");
  CHECK(!load(ctx, test_path("t.txt"), TFP_DOC_PER_FILE, (double)NAN, 1));
  FAILS(ctx, TFP_ERR_ARG, "not in [0,1)");
  memset(&desc, 0, sizeof desc);
  CHECK(!tfp_dataset_load(ctx, &desc));
  FAILS(ctx, TFP_ERR_ARG, "needs a tokenizer");
  put_text(test_path("c.txt"), "abc");
  path = test_path("c.txt");
  desc.tokenizer = tfp_tokenizer_chars(ctx, &path, 1, TFP_SPECIALS_NONE);
  put_text(test_path("bad.txt"), "abc\xFF");
  path = test_path("bad.txt");
  desc.paths = &path, desc.count = 1;
  CHECK(!tfp_dataset_load(ctx, &desc));
  FAILS(ctx, TFP_ERR_DATA, "byte 3");
  tfp_destroy(ctx);
}

/* ---- the split ---- */

/* n documents of `length` tokens: the number of the document, then its end, 0. */
static tfp_dataset *documents(tfp_ctx *ctx, int64_t n, int64_t length, double val) {
  int32_t *t = (int32_t *)malloc((size_t)(n * length) * sizeof *t);
  int64_t i;
  tfp_dataset *d;
  for (i = 0; i < n * length; i++) t[i] = i % length == length - 1 ? 0 : (int32_t)(1 + i / length);
  d = tfp_dataset_from_tokens(ctx, t, n * length, n + 1, 0, val);
  free(t);
  return d;
}
static void data_few_documents_split_by_place(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_dataset *d = documents(ctx, 99, 10, 0.1);
  int32_t t[3];
  OK(ctx);
  CHECK(tfp_dataset_documents(d) == 99);
  CHECK(tfp_dataset_tokens(d, TFP_VALIDATION) == 99 && tfp_dataset_tokens(d, TFP_TRAIN) == 891);
  CHECK(tfp_dataset_read(d, TFP_TRAIN, 890, 3, t) == 1 &&
        t[0] == 90); /* the last one before the cut */
  CHECK(tfp_dataset_read(d, TFP_VALIDATION, 0, 3, t) == 3 && t[0] == 90);
  CHECK(tfp_dataset_read(d, TFP_VALIDATION, 99, 3, t) == 0 &&
        tfp_dataset_read(d, TFP_VALIDATION, -1, 3, t) == 0);
  d = documents(ctx, 99, 10, 0);
  CHECK(tfp_dataset_tokens(d, TFP_VALIDATION) == 0 && tfp_dataset_tokens(d, TFP_TRAIN) == 990);
  tfp_destroy(ctx);
}
static void data_many_documents_split_by_document(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_dataset *d = documents(ctx, 2000, 10, 0.1);
  static int32_t t[20000];
  static char seen[2001];
  int64_t i, n, held = 0, rises = 0;
  int part;
  OK(ctx);
  memset(seen, 0, sizeof seen);
  for (part = 0; part < 2; part++) {
    n = tfp_dataset_read(d, part ? TFP_VALIDATION : TFP_TRAIN, 0, 20000, t);
    CHECK(n == tfp_dataset_tokens(d, part ? TFP_VALIDATION : TFP_TRAIN) && n % 10 == 0);
    for (i = 0; i < n; i += 10) { /* whole documents, in their order, each in one part */
      CHECK(t[i] == t[i + 8] && t[i + 9] == 0 && t[i] >= 1 && t[i] <= 2000);
      CHECK(!seen[t[i]]++);
      if (i) rises += t[i] > t[i - 10];
    }
    if (part) held = n / 10;
  }
  CHECK(rises == 1998);
  CHECK(held > 140 && held < 260); /* 200, give or take four deviations */
  for (i = 0; i < 50; i++) {       /* read from anywhere, across gaps */
    int32_t few[7];
    const int64_t at = tfp_random_below(1, 2, (uint64_t)i, tfp_dataset_tokens(d, TFP_TRAIN) - 7);
    tfp_dataset_read(d, TFP_TRAIN, 0, 20000, t);
    CHECK(tfp_dataset_read(d, TFP_TRAIN, at, 7, few) == 7 && !memcmp(few, t + at, sizeof few));
  }
  tfp_destroy(ctx);
}
static void data_tokens_hash_and_range(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  int32_t t[300];
  uint64_t hash;
  int i;
  for (i = 0; i < 300; i++) t[i] = i % 50;
  hash = tfp_dataset_hash(tfp_dataset_from_tokens(ctx, t, 300, 50, -1, 0));
  OK(ctx);
  CHECK(hash == tfp_dataset_hash(tfp_dataset_from_tokens(ctx, t, 300, 50, -1, 0.5)));
  for (i = 0; i < 300; i += 13) {
    const int32_t was = t[i];
    t[i] = (was + 1) % 50;
    CHECK(tfp_dataset_hash(tfp_dataset_from_tokens(ctx, t, 300, 50, -1, 0)) != hash);
    t[i] = was;
  }
  CHECK(tfp_dataset_hash(tfp_dataset_from_tokens(ctx, t, 299, 50, -1, 0)) != hash);
  t[7] = 50;
  CHECK(!tfp_dataset_from_tokens(ctx, t, 300, 50, -1, 0));
  FAILS(ctx, TFP_ERR_DATA, "token 7 is 50, outside [0,50)");
  t[7] = -1;
  CHECK(!tfp_dataset_from_tokens(ctx, t, 300, 50, -1, 0));
  FAILS(ctx, TFP_ERR_DATA, "token 7 is -1");
  CHECK(!tfp_dataset_from_tokens(ctx, t, 0, 50, -1, 0));
  FAILS(ctx, TFP_ERR_DATA, "no tokens");
  t[7] = 70000; /* above 65,535, where a token takes four bytes */
  {
    tfp_dataset *d = tfp_dataset_from_tokens(ctx, t, 300, 70001, -1, 0);
    int32_t back[300];
    CHECK(tfp_dataset_read(d, TFP_TRAIN, 0, 300, back) == 300 && !memcmp(t, back, sizeof t));
  }
  t[7] = 65535;
  {
    tfp_dataset *d = tfp_dataset_from_tokens(ctx, t, 300, 65536, -1, 0);
    int32_t back[300];
    CHECK(tfp_dataset_read(d, TFP_TRAIN, 0, 300, back) == 300 && !memcmp(t, back, sizeof t));
  }
  OK(ctx);
  tfp_destroy(ctx);
}
static void data_many_tokens(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const int64_t n = 300000; /* over several blocks of 65,536 */
  int32_t *t = (int32_t *)malloc((size_t)n * sizeof *t),
          *back = (int32_t *)malloc((size_t)n * sizeof *t);
  tfp_dataset *d;
  int64_t i;
  for (i = 0; i < n; i++) t[i] = (int32_t)(tfp_random_bits(1, 9, (uint64_t)i) % 60000);
  d = tfp_dataset_from_tokens(ctx, t, n, 60000, -1, 0);
  CHECK(tfp_dataset_read(d, TFP_TRAIN, 0, n, back) == n && !memcmp(t, back, (size_t)n * sizeof *t));
  CHECK(tfp_dataset_read(d, TFP_TRAIN, 65530, 20, back) == 20 &&
        !memcmp(t + 65530, back, 20 * sizeof *t));
  free(t);
  free(back);
  tfp_destroy(ctx);
}

/* ---- windows ---- */

static tfp_dataset *counting(tfp_ctx *ctx, int32_t n) {
  int32_t *t = (int32_t *)malloc((size_t)n * sizeof *t), i;
  tfp_dataset *d;
  for (i = 0; i < n; i++) t[i] = i;
  d = tfp_dataset_from_tokens(ctx, t, n, n, -1, 0);
  free(t);
  return d;
}
static void data_windows_once_an_epoch(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static const int32_t sizes[] = {1001, 1017, 129, 33, 17};
  const int64_t length = 16;
  int k, epoch;
  for (k = 0; k < 5; k++) {
    tfp_dataset *d = counting(ctx, sizes[k]);
    const int64_t windows = tfp_dataset_windows(d, length);
    int64_t cut[4], i, changed = 0;
    CHECK(windows >= 1 && windows * length <= sizes[k] - 1);
    CHECK((windows + 2) * length >
          sizes[k] - 1 - length); /* at most a window and the rest stay outside */
    for (epoch = 0; epoch < 4; epoch++) {
      static char seen[1100];
      int64_t order = 0, before = -1;
      memset(seen, 0, sizeof seen);
      cut[epoch] = sizes[k];
      for (i = 0; i < windows; i++) {
        const int64_t at = tfp_dataset_window(d, 3, (uint64_t)(epoch * windows + i), length);
        int64_t j;
        CHECK(at >= 0 && at + length + 1 <= sizes[k]); /* a label stands behind it */
        CHECK(at == tfp_dataset_window(d, 3, (uint64_t)(epoch * windows + i), length));
        for (j = at; j < at + length; j++) CHECK(!seen[j]++); /* no token twice */
        if (at < cut[epoch]) cut[epoch] = at;
        order += at > before;
        before = at;
      }
      if (windows > 20) CHECK(order < windows); /* shuffled */
      if (epoch) changed += cut[epoch] != cut[epoch - 1];
    }
    if (windows > 20) CHECK(changed > 0);
  }
  tfp_destroy(ctx);
}
static void data_windows_differ_by_seed(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_dataset *d = counting(ctx, 1001);
  int64_t i, same = 0;
  for (i = 0; i < 50; i++)
    same += tfp_dataset_window(d, 1, (uint64_t)i, 16) == tfp_dataset_window(d, 2, (uint64_t)i, 16);
  CHECK(same < 10);
  CHECK(tfp_dataset_windows(d, 1000) == 1 && tfp_dataset_windows(d, 1001) == 0);
  tfp_destroy(ctx);
}
/* Every token but the first is a label once: windows of evaluation cover all of a split. */
static void data_evaluation_covers_once(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static const int32_t sizes[] = {100, 97, 96, 8, 50};
  int k;
  for (k = 0; k < 5; k++) {
    tfp_loader_desc desc;
    tfp_loader *l;
    tfp_batch b;
    int64_t window = 0, n, i, r, next = 1;
    memset(&desc, 0, sizeof desc);
    memset(&desc.special, 0xFF, sizeof desc.special);
    desc.data = counting(ctx, sizes[k]);
    desc.objective = TFP_CLM, desc.T = 7, desc.rows = 3;
    l = tfp_loader_create(ctx, &desc);
    OK(ctx);
    while ((n = tfp_loader_eval(l, TFP_TRAIN, window, 3, &b)) > 0) {
      CHECK(b.B == n && b.T == 7);
      for (r = 0; r < n; r++)
        for (i = 0; i < 7; i++) {
          const int32_t label = b.labels[r * 7 + i];
          if (label == TFP_IGNORE_INDEX) continue;
          CHECK(label == next && b.ids[r * 7 + i] == next - 1);
          next++;
        }
      window += n;
    }
    CHECK(n == 0 && next == sizes[k]);
    CHECK(tfp_loader_eval(l, TFP_VALIDATION, 0, 3, &b) == 0);
  }
  OK(ctx);
  tfp_destroy(ctx);
}
static void data_too_short(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_loader_desc desc;
  memset(&desc, 0, sizeof desc);
  memset(&desc.special, 0xFF, sizeof desc.special);
  desc.data = counting(ctx, 20);
  desc.objective = TFP_CLM, desc.T = 20, desc.rows = 1;
  CHECK(!tfp_loader_create(ctx, &desc));
  FAILS(ctx, TFP_ERR_DATA, "has 20 tokens; one example of length 20 wants 21");
  desc.T = 19;
  CHECK(tfp_loader_create(ctx, &desc) != NULL);
  OK(ctx);
  tfp_destroy(ctx);
}

void test_data(void) {
  RUN(data_documents_per_file_blank_line);
  RUN(data_several_files);
  RUN(data_files_that_cannot_be);
  RUN(data_few_documents_split_by_place);
  RUN(data_many_documents_split_by_document);
  RUN(data_tokens_hash_and_range);
  RUN(data_many_tokens);
  RUN(data_windows_once_an_epoch);
  RUN(data_windows_differ_by_seed);
  RUN(data_evaluation_covers_once);
  RUN(data_too_short);
}
