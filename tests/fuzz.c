/* fuzz.c -- hostile files: one file of a model's directory is the fuzzer's, the others are good.
 *
 * The first byte of an input says which file it is (see `names`), the rest are its bytes. Files
 * live in memory, behind the library's own door, and memory ends at 256 MB, so that a huge
 * allocation is an error and not a swap. `make check` runs it for a while with clang's libFuzzer;
 * with a main of its own it replays inputs, and writes those to begin with:
 *
 *   cc -DFUZZ_MAIN -o build/fuzz tests/fuzz.c -lm -lpthread
 *   build/fuzz --seeds DIR; build/fuzz DIR/seed*
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"

#include <errno.h>
#include <stdio.h>

enum { MOST = 256 << 20, GOOD = 3 };
static const char *const names[] = {"tokenizer.json",
                                    "spiece.model",
                                    "vocab.txt",
                                    "tokenizer_config.json",
                                    "config.json",
                                    "model.safetensors",
                                    "generation_config.json",
                                    "model.safetensors.index.json"};
enum { NAMES = sizeof names / sizeof *names };

/* ---- files and memory ---- */

typedef struct file {
  const char *name;
  const uint8_t *data;
  int64_t bytes;
} file;
static file files[4];
static int n_files;
static size_t held;

static void put(const char *name, const void *data, int64_t bytes) {
  files[n_files].name = name, files[n_files].data = (const uint8_t *)data;
  files[n_files++].bytes = bytes;
}
static int file_open(void *user, const char *path, int for_writing, void **out) {
  const char *last = strrchr(path, '/');
  int i;
  (void)user;
  for (i = 0; i < n_files && !for_writing; i++)
    if (!strcmp(files[i].name, last ? last + 1 : path)) {
      *out = &files[i];
      return 0;
    }
  return for_writing ? EACCES : ENOENT;
}
static int file_close(void *user, void *f) { return (void)user, (void)f, 0; }
static int64_t file_read(void *user, void *f, int64_t offset, void *out, int64_t bytes) {
  const file *x = (const file *)f;
  (void)user;
  if (offset >= x->bytes) return 0;
  if (bytes > x->bytes - offset) bytes = x->bytes - offset;
  memcpy(out, x->data + offset, (size_t)bytes);
  return bytes;
}
static int file_size(void *user, void *f, int64_t *bytes) {
  (void)user;
  *bytes = ((const file *)f)->bytes;
  return 0;
}
static void *take(void *user, size_t bytes) {
  void *p;
  (void)user;
  if (held + bytes > MOST || posix_memalign(&p, 64, bytes)) return NULL;
  held += bytes;
  return p;
}
static void give(void *user, void *p, size_t bytes) {
  (void)user;
  held -= bytes;
  free(p);
}

/* ---- good files to stand beside the hostile one ---- */

static const char vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\nab\nhello\n";
static char *config, *weights;
static int64_t config_bytes, weights_bytes;

static char *slurp(const char *path, int64_t *bytes) {
  FILE *f = fopen(path, "rb");
  char *data;
  *bytes = 0;
  if (!f || fseek(f, 0, SEEK_END)) return NULL;
  *bytes = ftell(f);
  rewind(f);
  data = (char *)malloc((size_t)*bytes + 1);
  if (!data || fread(data, 1, (size_t)*bytes, f) != (size_t)*bytes) *bytes = 0;
  fclose(f);
  return data;
}

static void try_tokenizer(tfp_ctx *ctx) {
  static const char text[] =
      "Hello  <mask> w\xC3\xB6rld\xE2\x96\x81 ab 12 \xF0\x9F\x98\x80 \xFF!\n<s>";
  int32_t ids[256];
  char out[4096];
  tfp_token_span spans[256];
  tfp_encode_desc how;
  int64_t n;
  tfp_tokenizer *tok = tfp_tokenizer_load(ctx, "d");
  if (!tok) return;
  memset(&how, 0, sizeof how);
  how.flags = TFP_ADD_SPECIAL;
  n = tfp_encode(tok, text, sizeof text - 1, TFP_ADD_SPECIAL | TFP_PARSE_SPECIAL, ids, 256);
  tfp_clear_error(ctx);
  tfp_encode_spans(tok, text, sizeof text - 1, NULL, 0, &how, spans, 256);
  tfp_clear_error(ctx);
  if (n > 0) tfp_decode(tok, ids, n < 256 ? n : 256, 0, out, sizeof out);
}
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  tfp_desc d;
  tfp_ctx *ctx;
  tfp_config c;
  tfp_gen_desc g;
  uint8_t *copy;
  int which;
  if (!config) config = slurp("tests/golden/bert-mlm/config.json", &config_bytes);
  if (!weights) weights = slurp("tests/golden/bert-mlm/model.safetensors", &weights_bytes);
  if (!bytes) return 0;
  which = data[0] % NAMES;
  copy = (uint8_t *)malloc(bytes); /* exactly as long, so that a read beyond it is seen */
  if (!copy) return 0;
  memcpy(copy, data + 1, bytes - 1);
  memset(&d, 0, sizeof d);
  d.threads = 1, d.allocator.alloc = take, d.allocator.release = give;
  d.io.open = file_open, d.io.close = file_close, d.io.read_at = file_read, d.io.size = file_size;
  ctx = tfp_create(&d);
  n_files = 0;
  put(names[which], copy, (int64_t)bytes - 1);
  if (which < 4) {
    if (which == 3) put("vocab.txt", vocab, sizeof vocab - 1);
    try_tokenizer(ctx);
  } else {
    if (which != 4) put("config.json", config, config_bytes);
    if (which == 4) put("model.safetensors", weights, weights_bytes);
    if (which == 7) put("m.safetensors", weights, weights_bytes);
    if (which != 6)
      tfp_model_load(ctx, "d", 0);
    else if (!tfp_config_load(ctx, "d", &c))
      tfp_gen_load(ctx, "d", &c, &g);
  }
  tfp_destroy(ctx);
  free(copy);
  return 0;
}

#if defined(FUZZ_MAIN)
/* An apostrophe stands for a quotation mark. */
static const char *const seeds[] = {
    "\x02[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\nhello\n",
    "\x03{'do_lower_case': true, 'tokenizer_class': 'BertTokenizer', 'mask_token': '[MASK]'}",
    "\x07{'metadata': {'total_size': 1}, "
    "'weight_map': {'bert.embeddings.word_embeddings.weight': 'm.safetensors'}}",
    "\x06{'num_beams': 3, 'eos_token_id': [1, 2], 'bad_words_ids': [[3, 4]], 'top_p': 0.5}",
    "\x01\x0A\x07\x0A\x05<unk>",
    "\0{'version': '1.0', 'truncation': null, 'padding': null, "
    "'added_tokens': [{'id': 0, 'content': '<s>', 'single_word': false, 'lstrip': true, "
    "'rstrip': false, 'normalized': true, 'special': true}], "
    "'normalizer': {'type': 'Sequence', 'normalizers': [{'type': 'NFKC'}, "
    "{'type': 'Replace', 'pattern': {'String': ' '}, 'content': '_'}]}, "
    "'pre_tokenizer': {'type': 'Metaspace', 'replacement': '_', 'prepend_scheme': 'always'}, "
    "'post_processor': {'type': 'RobertaProcessing', 'sep': ['b', 2], 'cls': ['<s>', 0], "
    "'trim_offsets': true, 'add_prefix_space': true}, "
    "'decoder': {'type': 'Metaspace', 'replacement': '_'}, "
    "'model': {'type': 'Unigram', 'unk_id': 0, "
    "'vocab': [['<s>', 0.0], ['a', -1.5], ['b', -2.0], ['ab', -2.5]]}}",
    "\0{'version': '1.0', 'added_tokens': [], "
    "'pre_tokenizer': {'type': 'ByteLevel', 'add_prefix_space': false, 'trim_offsets': true}, "
    "'decoder': {'type': 'ByteLevel'}, "
    "'model': {'type': 'BPE', 'vocab': {'a': 0, 'b': 1, 'ab': 2}, 'merges': ['a b']}}"};

static void write_seed(const char *dir, int number, const char *data, size_t bytes) {
  char path[512];
  FILE *f;
  snprintf(path, sizeof path, "%s/seed%d", dir, number);
  f = fopen(path, "wb");
  for (; f && bytes; bytes--, data++) fputc(number < 100 && *data == '\'' ? '"' : *data, f);
  if (f) fclose(f);
}
int main(int argc, char **argv) {
  int i;
  int64_t bytes;
  for (i = 1; i < argc; i++) {
    char *data;
    if (!strcmp(argv[i], "--seeds") && i + 1 < argc) {
      const char *const golden[] = {"tests/golden/t5-gated/config.json",
                                    "tests/golden/bart-lm/config.json",
                                    "tests/golden/bert-mlm/model.safetensors"};
      int k;
      for (k = 0; k < (int)(sizeof seeds / sizeof *seeds); k++)
        write_seed(argv[i + 1], k, seeds[k], 1 + strlen(seeds[k] + 1));
      for (k = 0; k < GOOD; k++) { /* a byte in front says what they are */
        data = slurp(golden[k], &bytes);
        if (!data) continue;
        memmove(data + 1, data, (size_t)bytes), data[0] = k < 2 ? 4 : 5;
        write_seed(argv[i + 1], 100 + k, data, (size_t)bytes + 1);
        free(data);
      }
      return 0;
    }
    data = slurp(argv[i], &bytes);
    if (data) LLVMFuzzerTestOneInput((const uint8_t *)data, (size_t)bytes);
    free(data);
  }
  return 0;
}
#endif
