/* tokenizer_training.c -- vocabularies that are learnt: by hand, and alike for any number of
 * threads. */
#include "test.h"

enum { ROOM = 4096 };

static const char *put(const char *name, const char *text) {
  const char *path = test_path(name);
  FILE *f = fopen(path, "wb");
  CHECK(f && fwrite(text, 1, strlen(text), f) == strlen(text));
  if (f) fclose(f);
  return path;
}
/* The same, in a directory that is emptied before. */
static const char *put_first(const char *name, const char *text) {
  test_dir();
  return put(name, text);
}
static tfp_ctx *with_threads(int threads) {
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.threads = threads;
  return tfp_create(&d);
}
/* The tokens of a text, with blanks between them. */
static const char *tokens_of(tfp_tokenizer *tok, const char *text) {
  static char out[ROOM];
  int32_t ids[ROOM];
  const int64_t n = tfp_encode(tok, text, (int64_t)strlen(text), 0, ids, ROOM);
  int64_t i;
  size_t at = 0;
  out[0] = 0;
  for (i = 0; i < n && at < ROOM - 100; i++)
    at += (size_t)snprintf(out + at, ROOM - at, i ? " %s" : "%s", tfp_token_text(tok, ids[i]));
  return out;
}
static void tokens_are(tfp_tokenizer *tok, const char *text, const char *want, int line) {
  char message[2 * ROOM];
  const char *got = tokens_of(tok, text);
  snprintf(message, sizeof message, "'%s' gives '%s', not '%s'", text, got, want);
  test_check(!strcmp(got, want), message, __FILE__, line);
}
#define TOKENS(tok, text, want) tokens_are(tok, text, want, __LINE__)
static void vocabulary_is(const tfp_tokenizer *tok, int first, const char *const *want, int n,
                          int line) {
  int i;
  for (i = 0; i < n; i++) {
    const char *text = tfp_token_text(tok, first + i);
    char message[256];
    snprintf(message, sizeof message, "token %d is '%s', not '%s'", first + i,
             text ? text : "(none)", want[i]);
    test_check(text && !strcmp(text, want[i]), message, __FILE__, line);
  }
}

/* Pairs ab and cd are equally common. */
static void training_ties(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *path = put_first("ties.txt", "ab\nab\ncd\ncd\n");
  tfp_bpe_options o;
  tfp_tokenizer *t = tfp_tokenizer_train_bpe(ctx, &path, 1, 257, TFP_SPECIALS_NONE, NULL);
  memset(&o, 0, sizeof o);
  TOKENS(t, "abcd", "ab c d");
  o.ties_larger = 1;
  t = tfp_tokenizer_train_bpe(ctx, &path, 1, 257, TFP_SPECIALS_NONE, &o);
  TOKENS(t, "abcd", "a b cd");
  /* of "\x1F" and " " the latter is larger as a byte, and smaller among GPT-2's ids than "\x1F" */
  path = put("bytes.txt", "a\x1F\na\x1F\na z\na z\n");
  t = tfp_tokenizer_train_bpe(ctx, &path, 1, 257, TFP_SPECIALS_NONE, &o);
  CHECK(tfp_token_id(t, "\xC4\xA0z") == 256);
  OK(ctx);
  tfp_destroy(ctx);
}

/* hug 2, pug 2, hugs 1: ##u ##g come together 5 times, then h ##ug 3 times, p ##ug twice. */
static void training_wordpiece(void) {
  static const char *const want[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "g",
                                     "h",     "p",     "s",     "u",     "##g",    "##s",
                                     "##u",   "##ug",  "hug",   "pug"};
  tfp_ctx *ctx = tfp_create(NULL);
  const char *path = put_first("hug.txt", "Hug pug\nhugs PUG\n hu\xCC\x82g\n");
  tfp_wordpiece_options o;
  tfp_special_ids s;
  int32_t ids[16];
  tfp_tokenizer *t = tfp_tokenizer_train_wordpiece(ctx, &path, 1, 100, NULL);
  OK(ctx);
  CHECK(tfp_vocab_size(t) == 16 && tfp_tokenizer_type(t) == TFP_TOKENIZER_WORDPIECE);
  vocabulary_is(t, 0, want, 16, __LINE__);
  TOKENS(t, "HUGS pug, gum", "hug ##s pug [UNK] [UNK]");
  s = tfp_tokenizer_specials(t);
  CHECK(s.pad == 0 && s.unk == 1 && s.cls == 2 && s.sep == 3 && s.mask == 4);
  CHECK(tfp_encode(t, "hug", 3, TFP_ADD_SPECIAL, ids, 16) == 3 && ids[0] == 2 && ids[1] == 14 &&
        ids[2] == 3);
  memset(&o, 0, sizeof o);
  o.min_frequency = 1;
  t = tfp_tokenizer_train_wordpiece(ctx, &path, 1, 100, &o);
  CHECK(tfp_vocab_size(t) == 17 && tfp_token_id(t, "hugs") == 16);
  o.limit_alphabet = 4; /* s goes, the rarest; hugs is learnt as hug */
  t = tfp_tokenizer_train_wordpiece(ctx, &path, 1, 14, &o);
  CHECK(tfp_vocab_size(t) == 14 && tfp_token_id(t, "s") < 0 && tfp_token_id(t, "hug") == 12);
  TOKENS(t, "hug hugs", "hug [UNK]");
  o.limit_alphabet = 0, o.cased = 1;
  t = tfp_tokenizer_train_wordpiece(ctx, &path, 1, 100, &o);
  CHECK(tfp_token_id(t, "Hug") > 0 && tfp_token_id(t, "##\xCC\x82") > 0);
  o.strip_accents = 1;
  t = tfp_tokenizer_train_wordpiece(ctx, &path, 1, 100, &o);
  CHECK(tfp_token_id(t, "Hug") > 0 && tfp_token_id(t, "##\xCC\x82") < 0);
  OK(ctx);
  tfp_destroy(ctx);
}

/* The score of a piece in the file that a tokenizer is saved to; 1 if it is not there. */
static double score_of(tfp_ctx *ctx, tfp_tokenizer *tok, const char *dir, const char *piece) {
  tfp_json *root;
  const tfp_json *v;
  double score = 1;
  tfp_tokenizer_save(tok, dir, 0);
  root = tfp_json_parse_file(ctx, test_path("tokenizer.json"));
  v = tfp_json_get(tfp_json_get(root, "model"), "vocab");
  for (v = v ? v->child : NULL; v; v = v->next)
    if (!strcmp(tfp_json_at(v, 0)->text, piece)) score = tfp_json_at(v, 1)->number;
  tfp_json_free(root);
  return score;
}

static void training_unigram(void) {
  const char *const here = test_dir();
  static const char mark[] = "\xE2\x96\x81"; /* the blank of pieces */
  static const char *const want[] = {"<pad>", "</s>", "<unk>", "a", mark, "<extra_id_99>"};
  tfp_ctx *ctx = tfp_create(NULL);
  const char *path = put("a.txt", "a a\n a\ta");
  tfp_unigram_options o;
  tfp_special_ids s;
  tfp_tokenizer *t = tfp_tokenizer_train_unigram(ctx, &path, 1, 200, TFP_SPECIALS_T5, NULL);
  OK(ctx);
  /* one word, four times: each of its two characters is expected 4 times of 8, so its score is
   * digamma(4) - digamma(8) = 11/6 - 363/140 */
  CHECK(tfp_vocab_size(t) == 105 && tfp_tokenizer_type(t) == TFP_TOKENIZER_UNIGRAM);
  vocabulary_is(t, 0, want, 6, __LINE__);
  NEAR(score_of(ctx, t, here, "a"), 11.0 / 6 - 363.0 / 140, 1e-13);
  NEAR(score_of(ctx, t, here, mark), 11.0 / 6 - 363.0 / 140, 1e-13);
  s = tfp_tokenizer_specials(t);
  CHECK(s.pad == 0 && s.eos == 1 && s.unk == 2 && s.sentinel0 == 104 && s.sentinels == 100);
  /* _ab and its continuation: a substring that two words share, and different things follow.
   * b and c stand alone nowhere, so EM forgets them; as characters they come back at the end */
  path = put("ab.txt", "ab ab ab abc ab\xEF\xBD\x83 abc bc\n");
  t = tfp_tokenizer_train_unigram(ctx, &path, 1, 200, TFP_SPECIALS_T5, NULL);
  TOKENS(t, "ab abc", "\xE2\x96\x81"
                      "ab \xE2\x96\x81"
                      "ab c");
  CHECK(tfp_token_id(t, "a") > 2 && tfp_token_id(t, "b") > 2);
  CHECK(score_of(ctx, t, here, "\xE2\x96\x81"
                         "ab") > score_of(ctx, t, here, "c") && score_of(ctx, t, here, "c") < 0);
  memset(&o, 0, sizeof o);
  o.max_piece = 2;
  t = tfp_tokenizer_train_unigram(ctx, &path, 1, 200, TFP_SPECIALS_BERT, &o);
  CHECK(tfp_token_id(t, "\xE2\x96\x81"
                        "ab") < 0);
  TOKENS(t, "z", "\xE2\x96\x81 [UNK]");
  OK(ctx);
  tfp_destroy(ctx);
}

/* Words [from,to) of an endless text, in lines of 11; few recur, so that a block has more distinct
 * ones than its table takes. */
static const char *large_text(const char *name, int64_t from, int64_t to) {
  const char *path = test_path(name);
  FILE *f = fopen(path, "wb");
  static const char *const letters[] = {"e", "t", "a", "o", "\xC3\xAF", "n", "s", "r", "h", "l",
                                        "d", "c", "u", "m", "f",        "p", "g", "w", "y", "b"};
  int64_t i, w;
  CHECK(f != NULL);
  for (i = from; f && i < to; i++) {
    const int64_t most = tfp_random_below(1, 1, (uint64_t)i, 8) ? 2000000 : 900;
    for (w = 5 + tfp_random_below(1, 2, (uint64_t)i, most); w; w /= 20)
      fputs(letters[w % 20], f);
    fputc(i % 11 < 10 ? ' ' : '\n', f);
  }
  if (f) fclose(f);
  return path;
}
static tfp_tokenizer *train(tfp_ctx *ctx, int kind, const char *const *paths, int n) {
  if (kind == 0) return tfp_tokenizer_train_bpe(ctx, paths, n, 900, TFP_SPECIALS_BERT, NULL);
  if (kind == 1) return tfp_tokenizer_train_wordpiece(ctx, paths, n, 700, NULL);
  return tfp_tokenizer_train_unigram(ctx, paths, n, 700, TFP_SPECIALS_T5, NULL);
}

/* Whatever the threads, and whether the text is one file or eight, the result is the same. */
static void training_threads(void) {
  const char *whole, *parts[8];
  char names[8][300];
  uint64_t want[3] = {0, 0, 0};
  int kind, threads, i;
  test_dir();
  for (i = 0; i < 8; i++) {
    snprintf(names[i], sizeof names[i], "part%d", i);
    snprintf(names[i], sizeof names[i], "%s", large_text(names[i], i * 8800, (i + 1) * 8800));
    parts[i] = names[i];
  }
  whole = large_text("whole.txt", 0, 8 * 8800);
  for (threads = 1; threads <= 4; threads++) {
    tfp_ctx *ctx = with_threads(threads);
    for (kind = 0; kind < 3; kind++) {
      tfp_tokenizer *t =
          threads == 1 ? train(ctx, kind, parts, 8) : train(ctx, kind, &whole, 1);
      OK(ctx);
      if (threads == 1) want[kind] = tfp_tokenizer_hash(t);
      CHECK(want[kind] && tfp_tokenizer_hash(t) == want[kind]);
      tfp_tokenizer_free(t);
    }
    tfp_destroy(ctx);
  }
}

/* What was learnt, saved and loaded gives the same ids, and texts come back. */
static void training_round(void) {
  const char *const here = test_dir();
  tfp_ctx *ctx = with_threads(2);
  const char *path = large_text("round.txt", 0, 20000);
  const char *text = "teo hla then, 12 the \xC3\xAFne";
  int kind;
  for (kind = 0; kind < 3; kind++) {
    tfp_tokenizer *t = train(ctx, kind, &path, 1), *back;
    int32_t a[200], b[200];
    char out[400];
    const int64_t n = tfp_encode(t, text, (int64_t)strlen(text), 0, a, 200);
    CHECK(tfp_vocab_size(t) == (kind ? 700 : 900));
    tfp_tokenizer_save(t, here, 0);
    back = tfp_tokenizer_load(ctx, here);
    OK(ctx);
    CHECK(tfp_tokenizer_hash(back) == tfp_tokenizer_hash(t));
    CHECK(n > 0 && n == tfp_encode(back, text, (int64_t)strlen(text), 0, b, 200) &&
          !memcmp(a, b, (size_t)n * sizeof *a));
    tfp_encode(t, "teo hla", 7, 0, a, 200);
    CHECK(tfp_decode(t, a, tfp_encode(t, "teo hla", 7, 0, a, 200), 0, out, sizeof out) == 7 &&
          !strcmp(out, "teo hla"));
  }
  tfp_destroy(ctx);
}

static void training_errors(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *path = put_first("x.txt", "some words of text\n"), *none = test_path("none.txt");
  tfp_unigram_options u;
  tfp_wordpiece_options w;
  CHECK(!tfp_tokenizer_train_wordpiece(ctx, NULL, 1, 100, NULL));
  FAILS(ctx, TFP_ERR_ARG, "at least one file");
  CHECK(!tfp_tokenizer_train_wordpiece(ctx, &none, 1, 100, NULL));
  FAILS(ctx, TFP_ERR_IO, "none.txt");
  CHECK(!tfp_tokenizer_train_wordpiece(ctx, &path, 1, 5, NULL));
  FAILS(ctx, TFP_ERR_ARG, "vocab_size 5 is not in 6");
  CHECK(!tfp_tokenizer_train_wordpiece(ctx, &path, 1, 16, NULL)); /* 10 characters, 6 with ## */
  FAILS(ctx, TFP_ERR_ARG, "vocab_size 16 is too small for 5 special tokens and");
  memset(&w, 0, sizeof w);
  w.limit_alphabet = -1;
  CHECK(!tfp_tokenizer_train_wordpiece(ctx, &path, 1, 100, &w));
  FAILS(ctx, TFP_ERR_ARG, "negative");
  CHECK(!tfp_tokenizer_train_unigram(ctx, &path, 1, 100, TFP_SPECIALS_GPT2, NULL));
  FAILS(ctx, TFP_ERR_ARG, "none for the unknown");
  CHECK(!tfp_tokenizer_train_unigram(ctx, &path, 1, 103, TFP_SPECIALS_T5, NULL));
  FAILS(ctx, TFP_ERR_ARG, "vocab_size 103 is not in 104");
  CHECK(!tfp_tokenizer_train_unigram(ctx, &path, 1, 106, TFP_SPECIALS_T5, NULL));
  FAILS(ctx, TFP_ERR_ARG, "too small for 103 special tokens and 11 characters");
  CHECK(!tfp_tokenizer_train_unigram(ctx, &none, 1, 200, TFP_SPECIALS_T5, NULL));
  FAILS(ctx, TFP_ERR_IO, "none.txt");
  memset(&u, 0, sizeof u);
  u.max_piece = 32;
  CHECK(!tfp_tokenizer_train_unigram(ctx, &path, 1, 200, TFP_SPECIALS_T5, &u));
  FAILS(ctx, TFP_ERR_ARG, "max_piece 32 is out of range");
  path = put("empty.txt", "");
  CHECK(tfp_vocab_size(tfp_tokenizer_train_wordpiece(ctx, &path, 1, 100, NULL)) == 5);
  CHECK(tfp_vocab_size(tfp_tokenizer_train_unigram(ctx, &path, 1, 200, TFP_SPECIALS_T5, NULL)) ==
        103);
  OK(ctx);
  tfp_destroy(ctx);
}

/* Memory that runs out anywhere is an error, and nothing is left behind. */
typedef struct failing { int64_t calls, blocks, fail_at; } failing;
static void *failing_alloc(void *user, size_t bytes) {
  failing *f = (failing *)user;
  char *raw = ++f->calls >= f->fail_at ? NULL : (char *)malloc(bytes + 128), *p;
  if (!raw) return NULL;
  p = raw + 128 - (uintptr_t)raw % 64;
  memcpy(p - sizeof raw, &raw, sizeof raw);
  f->blocks++;
  return p;
}
static void failing_release(void *user, void *block, size_t bytes) {
  char *raw;
  (void)bytes;
  memcpy(&raw, (char *)block - sizeof raw, sizeof raw);
  ((failing *)user)->blocks--;
  free(raw);
}
static void training_memory(void) {
  const char *path = put_first("m.txt", "hug pug hugs pugs then the thin pin \xC3\xA9t\xC3\xA9 hug\n");
  int kind;
  for (kind = 1; kind < 3; kind++) {
    int64_t at;
    int done = 0;
    for (at = 1; !done && at < 2000; at++) {
      failing f = {0, 0, 0};
      tfp_desc d;
      tfp_ctx *ctx;
      memset(&d, 0, sizeof d);
      f.fail_at = at;
      d.threads = 1, d.allocator.user = &f;
      d.allocator.alloc = failing_alloc, d.allocator.release = failing_release;
      ctx = tfp_create(&d);
      if (ctx) {
        tfp_tokenizer *t = kind == 1 ? tfp_tokenizer_train_wordpiece(ctx, &path, 1, 60, NULL)
                                     : tfp_tokenizer_train_unigram(ctx, &path, 1, 130,
                                                                   TFP_SPECIALS_T5, NULL);
        done = t != NULL;
        CHECK(done || tfp_error(ctx) == TFP_ERR_NOMEM);
        tfp_destroy(ctx);
      }
      CHECK(f.blocks == 0);
    }
    CHECK(done && at > 5);
  }
}

void test_tokenizer_training(void) {
  RUN(training_ties);
  RUN(training_wordpiece);
  RUN(training_unigram);
  RUN(training_threads);
  RUN(training_round);
  RUN(training_errors);
  RUN(training_memory);
}
