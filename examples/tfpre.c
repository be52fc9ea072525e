/* tfpre.c -- the command line: pre-trains, runs and exchanges transformers without a line of C.
 *
 *   make
 *   build/tfpre pretrain --arch decoder --data book.txt --out mine
 *   build/tfpre generate mine --prompt "Once upon a time" --max-new 200 --temperature 0.8
 *   build/tfpre -h                         the commands; build/tfpre COMMAND -h: its options
 *
 * It is also an example of the whole library. Read main, then a command: they stand in the order of
 * the table of commands, each with what it needs in front of it. Options are rows of one table. An
 * error ends the program with one line on standard error (see die): 2 for a wrong command line, 1
 * for everything else.
 */
#define TFPRE_IMPLEMENTATION
#include "../tfpre.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

/* ---- options --------------------------------------------------------------------------------- */

typedef struct list {
  const char **at;
  int n;
} list;

typedef struct options {
  int json, help, resume, decode, no_special, greedy;
  int64_t threads, seed, layers, heads, hidden, head_dim, ffn, seq, batch, accum, steps, warmup;
  int64_t log_every, eval_every, save_every, stop_at, vocab, min_frequency, max_new, top_k, top;
  int64_t m, k, n, target_seq, reps;
  int64_t beams, no_repeat_ngram, min_new;
  double lr, min_lr, beta1, beta2, weight_decay, clip, dropout, val_fraction, temperature, top_p;
  double label_fraction, min_p, length_penalty, repetition_penalty;
  const char *arch, *family, *objective, *preset, *config, *tokenizer, *schedule, *doc_per, *out;
  const char *kind, *ids, *mask, *type_ids, *decoder_ids, *batches, *prompt, *dtype, *trans, *later;
  const char *early_stopping;
  int decay_all, normalize;
  int64_t max_shard, limit_alphabet, max_piece;
  double eps;
  const char *grads, *pool, *lowercase, *strip_accents;
  list data, words; /* words: what is no option */
} options;

enum { /* which commands have an option */
       INFO = 1,
       TOKENIZE = 2,
       TRAIN_TOK = 4,
       LOGITS = 8,
       CONVERT = 16,
       FILL = 32,
       GENERATE = 64,
       PRETRAIN = 128,
       EVAL = 256,
       PEAK = 512,
       GEMM = 1024,
       STEP = 2048,
       TRACE = 4096,
       EMBED = 8192,
       BENCH = PEAK | GEMM | STEP,
       ALL = 0x7fffffff
};
typedef enum option_kind {
  FLAG,   /* no value */
  COUNT,  /* a whole number in [low,high] */
  BYTES,  /* the same, and 200KB, 5GB, 1GiB are known */
  REAL,   /* a number in [low,high] */
  ABOVE,  /* in (low,high] */
  SHARE,  /* in [low,high) */
  INSIDE, /* in (low,high) */
  TEXT,
  CHOICE, /* one of the words in `value` */
  SWITCH, /* one of the words in `value`, or nothing, which is "true" */
  FILES,  /* the words up to the next option */
  LATER   /* of the contract, but not in this release */
} option_kind;

typedef struct option {
  int commands;
  const char *name;
  option_kind kind;
  size_t at;                   /* of the field in options */
  double low, high, otherwise; /* NAN: nothing; then counts are -1 */
  const char *value, *help;
} option;

#define AT(field) offsetof(options, field)
#define FAMILIES "bert|roberta|gpt2|bloom|t5|bart"
#define MANY 1e12
static const option option_table[] = {
    {PRETRAIN, "arch", CHOICE, AT(arch), 0, 0, NAN, "encoder|decoder|seq2seq",
     "the kind of transformer"},
    {PRETRAIN | STEP, "family", CHOICE, AT(family), 0, 0, NAN, FAMILIES,
     "default: bert, gpt2, t5 by --arch, bart with denoise; bench: needed"},
    {TRAIN_TOK, "family", CHOICE, AT(family), 0, 0, NAN, FAMILIES,
     "whose special tokens it gets: gpt2, for wordpiece bert alone, for unigram t5"},
    {PRETRAIN | EVAL, "objective", CHOICE, AT(objective), 0, 0, NAN, "mlm|clm|span|denoise",
     "default: mlm, clm, span by the architecture; denoise for bart"},
    {PRETRAIN | EVAL, "data", FILES, AT(data), 0, 0, NAN, "FILES...",
     "text; .jsonl has a document in each line's \"text\""},
    {PRETRAIN | EVAL, "doc-per", CHOICE, AT(doc_per), 0, 0, NAN, "file|blank|line",
     "where a document ends: at the end of the file (default), at blank lines, at each line"},
    {PRETRAIN | CONVERT | TRAIN_TOK, "out", TEXT, AT(out), 0, 0, NAN, "DIR",
     "the directory to write, needed"},
    {TRACE, "out", TEXT, AT(out), 0, 0, NAN, "DIR", "save the model there after the last step"},
    {PRETRAIN, "preset", TEXT, AT(preset), 0, 0, NAN, "NAME",
     "sizes of a published model, or FAMILY-tiny; see the end"},
    {PRETRAIN, "config", TEXT, AT(config), 0, 0, NAN, "FILE", "sizes and dropout of a config.json"},
    {PRETRAIN | STEP, "layers", COUNT, AT(layers), 1, 10000, NAN, "N",
     "of each stack: 4, or as the preset says"},
    {PRETRAIN | STEP, "heads", COUNT, AT(heads), 1, 10000, NAN, "N",
     "of attention: 4, or as the preset says"},
    {PRETRAIN | STEP, "hidden", COUNT, AT(hidden), 1, 1e6, NAN, "N",
     "width: 128, or as the preset says"},
    {PRETRAIN | STEP, "head-dim", COUNT, AT(head_dim), 1, 1e6, NAN, "N",
     "of a head: hidden / heads"},
    {PRETRAIN | STEP, "ffn", COUNT, AT(ffn), 1, 1e7, NAN, "N",
     "width of the feed-forward: 4 times hidden"},
    {PRETRAIN, "tokenizer", TEXT, AT(tokenizer), 0, 0, NAN, "bytes|chars|DIR", "default: bytes"},
    {PRETRAIN, "seq", COUNT, AT(seq), 4, 1048576, 64, "T",
     "tokens of the encoder's (or decoder's) input"},
    {EVAL, "seq", COUNT, AT(seq), 4, 1048576, NAN, "T", "length of the windows: as in training"},
    {STEP, "seq", COUNT, AT(seq), 1, 1048576, 128, "T",
     "tokens of the encoder's (or decoder's) input"},
    {PRETRAIN | STEP, "batch", COUNT, AT(batch), 1, 1e6, 12, "B", "rows of a micro-batch"},
    {PRETRAIN, "accum", COUNT, AT(accum), 1, 1e6, 1, "N", "micro-batches a step"},
    {PRETRAIN, "steps", COUNT, AT(steps), 1, 1e9, 2000, "N",
     "steps, and the length of the schedule"},
    {PRETRAIN, "lr", REAL, AT(lr), 0, 1e30, 1e-3, "X", "highest learning rate"},
    {PRETRAIN, "min-lr", REAL, AT(min_lr), 0, 1e30, NAN, "X",
     "learning rate at the end: a tenth of --lr"},
    {PRETRAIN, "warmup", COUNT, AT(warmup), 0, 1e9, NAN, "N",
     "steps in which the rate rises: 100, at most a tenth of --steps"},
    {PRETRAIN, "schedule", CHOICE, AT(schedule), 0, 0, NAN, "cosine|linear|constant",
     "how the rate falls: cosine"},
    {PRETRAIN, "beta1", INSIDE, AT(beta1), 0, 1, 0.9, "X", "of AdamW"},
    {PRETRAIN, "beta2", INSIDE, AT(beta2), 0, 1, 0.99, "X", "of AdamW"},
    {PRETRAIN, "weight-decay", REAL, AT(weight_decay), 0, 1e30, 0.1, "X", "of matrices and tables"},
    {PRETRAIN, "clip", REAL, AT(clip), 0, 1e30, 1, "X",
     "largest norm of the gradient; 0: no clipping"},
    {PRETRAIN, "dropout", SHARE, AT(dropout), 0, 1, NAN, "X",
     "of hidden states and attention: 0, or as --config says"},
    {PRETRAIN, "val-fraction", SHARE, AT(val_fraction), 0, 1, 0.1, "X",
     "share of the data kept for validation"},
    {EVAL, "val-fraction", ABOVE, AT(val_fraction), 0, 1, NAN, "X",
     "the last share of the data: as in training if the data is what DIR was trained on, else 1"},
    {PRETRAIN, "log-every", COUNT, AT(log_every), 1, 1e9, NAN, "N",
     "steps between two lines: a hundredth of all, at least 10"},
    {PRETRAIN, "eval-every", COUNT, AT(eval_every), 1, 1e9, NAN, "N",
     "steps between validations: at the end alone"},
    {PRETRAIN, "save-every", COUNT, AT(save_every), 1, 1e9, NAN, "N",
     "steps between saves: at the end alone"},
    {PRETRAIN, "stop-at", COUNT, AT(stop_at), 1, 1e9, NAN, "N", "save after step N and end"},
    {PRETRAIN, "resume", FLAG, AT(resume), 0, 0, NAN, NULL,
     "go on from --out, or begin where it holds no state"},
    {TRAIN_TOK, "kind", CHOICE, AT(kind), 0, 0, NAN, "bpe|wordpiece|unigram",
     "pairs of bytes (GPT-2), pieces of words (BERT), likely pieces (T5); needed"},
    {TRAIN_TOK, "vocab", COUNT, AT(vocab), 2, 1 << 24, NAN, "N", "tokens, needed"},
    {TRAIN_TOK, "min-frequency", COUNT, AT(min_frequency), 1, MANY, NAN, "N",
     "a pair seen less often is not merged (bpe, wordpiece): 2"},
    {TRAIN_TOK, "lowercase", SWITCH, AT(lowercase), 0, 0, NAN, "true|false",
     "texts become lower case (wordpiece): true"},
    {TRAIN_TOK, "strip-accents", SWITCH, AT(strip_accents), 0, 0, NAN, "true|false",
     "accents go (wordpiece): as --lowercase"},
    {TRAIN_TOK, "limit-alphabet", COUNT, AT(limit_alphabet), 1, MANY, NAN, "N",
     "so many characters; others are unknown (wordpiece): 1000"},
    {TRAIN_TOK, "max-piece-length", COUNT, AT(max_piece), 1, 31, NAN, "N",
     "characters of the longest piece (unigram): 16"},
    {TOKENIZE, "decode", FLAG, AT(decode), 0, 0, NAN, NULL, "from ids to text"},
    {TOKENIZE, "no-special", FLAG, AT(no_special), 0, 0, NAN, NULL, "without special tokens"},
    {LOGITS | GENERATE, "ids", TEXT, AT(ids), 0, 0, NAN, "\"1 2 3\"", "the tokens of the input"},
    {LOGITS, "mask", TEXT, AT(mask), 0, 0, NAN, "\"1 1 0\"", "0 hides a token"},
    {LOGITS, "type-ids", TEXT, AT(type_ids), 0, 0, NAN, "\"0 0 1\"", "token types"},
    {LOGITS, "decoder-ids", TEXT, AT(decoder_ids), 0, 0, NAN, "\"0 5\"",
     "the decoder's input, start token first"},
    {LOGITS | TRACE, "batches", TEXT, AT(batches), 0, 0, NAN, "FILE",
     "a JSON object a line: input_ids, attention_mask, labels, ..."},
    {TRACE, "steps", COUNT, AT(steps), 1, 1e9, NAN, "N", "one line of the file each: all lines"},
    {TRACE, "lr", REAL, AT(lr), 0, 1e30, 1e-3, "X", "learning rate"},
    {TRACE, "beta1", INSIDE, AT(beta1), 0, 1, 0.9, "X", "of AdamW"},
    {TRACE, "beta2", INSIDE, AT(beta2), 0, 1, 0.999, "X", "of AdamW"},
    {TRACE, "eps", ABOVE, AT(eps), 0, 1, 1e-8, "X", "of AdamW"},
    {TRACE, "weight-decay", REAL, AT(weight_decay), 0, 1e30, 0.01, "X", "of matrices and tables"},
    {TRACE, "decay-all", FLAG, AT(decay_all), 0, 0, NAN, NULL, "decay biases and norms too"},
    {TRACE, "clip", REAL, AT(clip), 0, 1e30, 0, "X",
     "largest norm of the gradient; 0: no clipping"},
    {TRACE, "grads", TEXT, AT(grads), 0, 0, NAN, "FILE",
     "write the first step's gradients there as safetensors"},
    {CONVERT, "dtype", CHOICE, AT(dtype), 0, 0, NAN, "f32|bf16|f16",
     "of the weights in the files: f32"},
    {CONVERT, "max-shard", BYTES, AT(max_shard), 1, 9e15, NAN, "BYTES",
     "of a file of weights, as 200MB or 5GB: all in one"},
    {EMBED, "pool", CHOICE, AT(pool), 0, 0, NAN, "mean|cls",
     "the mean of the hidden states, or the first token's: mean"},
    {EMBED, "normalize", FLAG, AT(normalize), 0, 0, NAN, NULL, "to length 1"},
    {FILL, "top", COUNT, AT(top), 1, 1000, 5, "N", "predictions for each mask"},
    {GENERATE, "prompt", TEXT, AT(prompt), 0, 0, NAN, "TEXT",
     "the text to continue, or the encoder's input"},
    {GENERATE, "max-new", COUNT, AT(max_new), 1, 1e7, NAN, "N",
     "tokens at most: as generation_config.json says, else 20"},
    {GENERATE, "min-new", COUNT, AT(min_new), 0, 1e7, NAN, "N", "no end before N new tokens"},
    {GENERATE, "greedy", FLAG, AT(greedy), 0, 0, NAN, NULL,
     "no draws, and no beams but those of --beams: the likeliest token"},
    {GENERATE, "temperature", REAL, AT(temperature), 0, 1e6, NAN, "X",
     "draw; logits are divided by X"},
    {GENERATE, "top-k", COUNT, AT(top_k), 0, MANY, NAN, "N",
     "draw among the N likeliest tokens: 50 or as generation_config.json says; 0: all"},
    {GENERATE, "top-p", ABOVE, AT(top_p), 0, 1, NAN, "X",
     "draw among the fewest tokens that reach X"},
    {GENERATE, "min-p", REAL, AT(min_p), 0, 1, NAN, "X",
     "draw among tokens at least X times as likely as the likeliest"},
    {GENERATE, "beams", COUNT, AT(beams), 1, 1024, NAN, "N",
     "beam search of N texts at once: 1, or as generation_config.json says"},
    {GENERATE, "length-penalty", REAL, AT(length_penalty), -1e6, 1e6, NAN, "X",
     "beam scores are divided by length to the power of X: 1"},
    {GENERATE, "early-stopping", SWITCH, AT(early_stopping), 0, 0, NAN, "true|false|never",
     "end when N texts have ended; never: when none can become better (alone: true)"},
    {GENERATE, "no-repeat-ngram", COUNT, AT(no_repeat_ngram), 0, 1e7, NAN, "N",
     "no N tokens in a row come twice; 0: they may"},
    {GENERATE, "repetition-penalty", ABOVE, AT(repetition_penalty), 0, 1e6, NAN, "X",
     "makes tokens that were there less likely (above 1)"},
    {GEMM, "m", COUNT, AT(m), 1, 1e6, NAN, "N", "rows of A and C, needed"},
    {GEMM, "k", COUNT, AT(k), 1, 1e6, NAN, "N", "columns of A, rows of B, needed"},
    {GEMM, "n", COUNT, AT(n), 1, 1e6, NAN, "N", "columns of B and C, needed"},
    {GEMM, "trans", CHOICE, AT(trans), 0, 0, NAN, "nn|nt|tn|tt",
     "which of A, B lie transposed: nn"},
    {STEP, "vocab", COUNT, AT(vocab), 8, 1e7, NAN, "N", "tokens of the vocabulary, needed"},
    {STEP, "target-seq", COUNT, AT(target_seq), 1, 1048576, NAN, "S",
     "tokens of the decoder behind an encoder: as --seq"},
    {STEP, "label-fraction", ABOVE, AT(label_fraction), 0, 1, NAN, "X",
     "share of positions scored: 1, for encoders 0.15"},
    {GEMM | STEP, "reps", COUNT, AT(reps), 1, 1e6, NAN, "N",
     "how often it is timed: for about two seconds, at least 5 times"},
    {PRETRAIN | GEMM | STEP, "bf16", LATER, AT(later), 0, 0, NAN, NULL, NULL},
    {EVAL, "task", LATER, AT(later), 0, 0, NAN, NULL, NULL},
    {ALL, "threads", COUNT, AT(threads), 1, TFP_MAX_THREADS, NAN, "N",
     "default: as many as this process may use"},
    {ALL, "seed", COUNT, AT(seed), 0, 9e15, 0, "N", "of every random number"},
    {ALL, "json", FLAG, AT(json), 0, 0, NAN, NULL, "print JSON, an object a line"},
};
enum { OPTIONS = sizeof option_table / sizeof *option_table };

/* ---- messages -------------------------------------------------------------------------------- */

typedef struct cli {
  options o;
  const char *command; /* "bench gemm" */
  tfp_ctx *ctx;
  int argc;
  char **argv;
  FILE *progress; /* a terminal for the line that is written again and again, or NULL */
  int line_open;  /* and that line is there now */
  double began;
} cli;

/* Ends or wipes the progress line, so that what follows begins a line of its own. */
static void progress_end(cli *c) {
  if (!c->line_open) return;
  c->line_open = 0;
  fputs(c->progress == stderr ? "\r\033[K" : "\n", c->progress);
  fflush(c->progress);
}

/* One line on standard error, and the end. */
static void die(cli *c, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));
static void die(cli *c, int status, const char *format, ...) {
  char line[4096];
  va_list ap;
  size_t i;
  va_start(ap, format);
  vsnprintf(line, sizeof line, format, ap);
  va_end(ap);
  for (i = 0; line[i]; i++) /* a line break in a path would make two lines */
    if ((unsigned char)line[i] < 32) line[i] = ' ';
  progress_end(c);
  fflush(stdout);
  fprintf(stderr, "tfpre: %s\n", line);
  tfp_destroy(c->ctx);
  exit(status);
}
static void check(cli *c) {
  if (tfp_error(c->ctx) == TFP_OK) return;
  die(c, 1, "%s", c->ctx ? tfp_error_message(c->ctx) : "no memory for a context");
}
static void *take(cli *c, int64_t n, size_t size) {
  void *p = (uint64_t)n > SIZE_MAX / 2 / size ? NULL : calloc((size_t)n + 1, size);
  if (!p) die(c, 1, "no memory for %lld times %lu bytes", (long long)n, (unsigned long)size);
  return p;
}
/* What was printed must have arrived. */
static void check_output(cli *c) {
  if (fflush(stdout) || ferror(stdout))
    die(c, 1, "standard output: %s", strerror(errno ? errno : EIO));
}

/* ---- reading the command line ---------------------------------------------------------------- */

typedef struct command {
  int bit;
  const char *name, *words, *what;
  int least, most;     /* words that it takes; most 0x7fff: any number */
  void (*run)(cli *c); /* NULL: not in this release */
} command;

/* Is `word` one of the words between the bars of `list_of`? */
static int is_choice(const char *list_of, const char *word) {
  const size_t n = strlen(word);
  const char *p;
  for (p = list_of; p; p = strchr(p, '|')) {
    if (*p == '|') p++;
    if (!strncmp(p, word, n) && n && (p[n] == '|' || !p[n])) return 1;
  }
  return 0;
}
static const option *find_option(int bit, const char *name, size_t n) {
  int i;
  for (i = 0; i < OPTIONS; i++)
    if (option_table[i].commands & bit && !strncmp(option_table[i].name, name, n) &&
        !option_table[i].name[n])
      return &option_table[i];
  return NULL;
}
static int is_option(const command *cmd, const char *word) {
  size_t n;
  if (!strcmp(word, "-h") || !strcmp(word, "--help") || !strcmp(word, "--")) return 1;
  if (word[0] != '-' || word[1] != '-') return 0;
  n = strcspn(word + 2, "=");
  return find_option(cmd->bit, word + 2, n) != NULL;
}
/* What a unit of bytes behind a number multiplies it with; used counts the unit's letters. */
static double unit(const char *text, int64_t *used) {
  static const char letters[] = "kmgt";
  const char *at = *text ? strchr(letters, *text | 32) : NULL;
  const int binary = at && (text[1] | 32) == 'i';
  const int n = at ? 1 + binary : 0;
  double size = 1;
  *used += n + ((text[n] | 32) == 'b');
  for (; at && at >= letters; at--) size *= binary ? 1024 : 1000;
  return size;
}
static void set_number(cli *c, const option *row, const char *text) {
  const int64_t n = (int64_t)strlen(text);
  const int whole = row->kind == COUNT || row->kind == BYTES;
  const char open = row->kind == ABOVE || row->kind == INSIDE ? '(' : '[';
  const char close = row->kind == SHARE || row->kind == INSIDE ? ')' : ']';
  double x = 0;
  int64_t used = tfp_parse_number(text, n, &x);
  int good;
  if (row->kind == COUNT && text[strspn(text, "+-0123456789")]) used = -1;
  if (row->kind == BYTES && used > 0) x = floor(x * unit(text + used, &used));
  good = n > 0 && used == n;
  good = good && x >= row->low && x <= row->high;
  if (open == '(') good = good && x > row->low;
  if (close == ')') good = good && x < row->high;
  if (!good)
    die(c, 2, "--%s wants a %snumber in %c%.9g, %.9g%c, not '%s'", row->name, whole ? "whole " : "",
        open, row->low, row->high, close, text);
  if (whole)
    *(int64_t *)(void *)((char *)&c->o + row->at) = (int64_t)x;
  else
    *(double *)(void *)((char *)&c->o + row->at) = x;
}
static void set_option(cli *c, const option *row, const char *text) {
  char *at = (char *)&c->o + row->at;
  if (row->kind == FLAG) {
    *(int *)(void *)at = 1;
  } else if (row->kind == FILES) {
    list *l = (list *)(void *)at;
    l->at[l->n++] = text;
  } else if (row->kind == TEXT || row->kind == CHOICE || row->kind == SWITCH) {
    if (row->kind != TEXT && !is_choice(row->value, text))
      die(c, 2, "--%s wants one of %s, not '%s'", row->name, row->value, text);
    *(const char **)(void *)at = text;
  } else {
    set_number(c, row, text);
  }
}
static void set_defaults(cli *c, const command *cmd) {
  int i;
  for (i = 0; i < OPTIONS; i++) {
    const option *row = &option_table[i];
    char *at = (char *)&c->o + row->at;
    const int none = row->otherwise != row->otherwise;
    if (!(row->commands & cmd->bit)) continue;
    if (row->kind == COUNT || row->kind == BYTES)
      *(int64_t *)(void *)at = none ? -1 : (int64_t)row->otherwise;
    else if (row->kind >= REAL && row->kind <= INSIDE)
      *(double *)(void *)at = row->otherwise;
  }
  c->o.data.at = (const char **)take(c, c->argc, sizeof(char *));
  c->o.words.at = (const char **)take(c, c->argc, sizeof(char *));
}
/* Option number i of the command line, with its value; returns the number of the last word used. */
static int read_option(cli *c, const command *cmd, int i) {
  const char *word = c->argv[i], *name = word + 2, *equals = strchr(name, '=');
  const size_t n = equals ? (size_t)(equals - name) : strlen(name);
  const option *row = word[1] == '-' ? find_option(cmd->bit, name, n) : NULL;
  if (!row) die(c, 2, "%s has no option '%s'; see tfpre %s -h", cmd->name, word, cmd->name);
  if (row->kind == LATER) die(c, 2, "--%s is not in this release", row->name);
  if (row->kind == FLAG) {
    if (equals) die(c, 2, "--%s takes no value, and was given '%s'", row->name, equals + 1);
    set_option(c, row, NULL);
    return i;
  }
  if (row->kind == SWITCH && !equals &&
      (i + 1 >= c->argc || !is_choice(row->value, c->argv[i + 1])))
    equals = "=true";
  if (equals) {
    set_option(c, row, equals + 1);
    return i;
  }
  if (i + 1 >= c->argc || is_option(cmd, c->argv[i + 1]))
    die(c, 2, "--%s wants a value: %s", row->name, row->value);
  set_option(c, row, c->argv[++i]);
  while (row->kind == FILES && i + 1 < c->argc && c->argv[i + 1][0] != '-')
    set_option(c, row, c->argv[++i]);
  return i;
}
static void read_options(cli *c, const command *cmd, int first) {
  int i, words_only = 0;
  set_defaults(c, cmd);
  for (i = first; i < c->argc; i++) {
    const char *word = c->argv[i];
    if (words_only || word[0] != '-' || !word[1]) {
      c->o.words.at[c->o.words.n++] = word;
    } else if (!strcmp(word, "--")) {
      words_only = 1;
    } else if (!strcmp(word, "-h") || !strcmp(word, "--help")) {
      c->o.help = 1;
      return;
    } else {
      i = read_option(c, cmd, i);
    }
  }
  if (c->o.words.n < cmd->least)
    die(c, 2, "%s wants %s; see tfpre %s -h", cmd->name, cmd->words, cmd->name);
  if (c->o.words.n > cmd->most)
    die(c, 2, "%s has no use for '%s'; see tfpre %s -h", cmd->name, c->o.words.at[cmd->most],
        cmd->name);
}
static void needs(cli *c, int there, const char *what) {
  if (!there) die(c, 2, "%s needs %s; see tfpre %s -h", c->command, what, c->command);
}
static void help(const command *cmd) {
  int i;
  const char *name;
  printf("tfpre %s%s%s [options]\n  %s\n\n", cmd->name, *cmd->words ? " " : "", cmd->words,
         cmd->what);
  for (i = 0; i < OPTIONS; i++) {
    const option *row = &option_table[i];
    char left[80];
    if (!(row->commands & cmd->bit) || row->kind == LATER) continue;
    snprintf(left, sizeof left, "--%s%s%s", row->name, row->value ? " " : "",
             row->value ? row->value : "");
    printf("  %-26s %s", left, row->help);
    if (row->otherwise == row->otherwise) printf(" (default %g)", row->otherwise);
    putchar('\n');
  }
  if (cmd->bit != PRETRAIN) return;
  printf("\nPresets:");
  for (i = 0; (name = tfp_preset_name(i)) != NULL; i++) printf("%s%s", i % 6 ? " " : "\n  ", name);
  printf("\n\nDIR gets config.json, model.safetensors, the tokenizer, README.md and "
         "trainer.safetensors, from which\n"
         "--resume goes on. ms and tokens_per_s are means since the line before.\n");
}

/* ---- small tools ----------------------------------------------------------------------------- */

static int64_t either(int64_t given, int64_t otherwise) { return given >= 0 ? given : otherwise; }
static double either_real(double given, double otherwise) {
  return given == given ? given : otherwise;
}

static int index_of(const char *const *names, int n, const char *name) {
  int i;
  for (i = 0; i < n && strcmp(names[i], name); i++) continue;
  return i;
}
static void path_join(cli *c, char *path, size_t bytes, const char *dir, const char *name) {
  if (snprintf(path, bytes, "%s/%s", dir, name) >= (int)bytes)
    die(c, 1, "the path '%s/%s' is too long", dir, name);
}
static tfp_ctx *open_context(cli *c, int dry_run) {
  tfp_desc d;
  memset(&d, 0, sizeof d);
  d.threads = c->o.threads > 0 ? (int)c->o.threads : 0;
  d.seed = (uint64_t)c->o.seed;
  d.dry_run = dry_run;
  return tfp_create(&d);
}

/* A JSON object on a line of standard output. Numbers that JSON lacks become null. */
static tfp_json_writer *json_begin(cli *c) {
  tfp_json_writer *w = tfp_json_writer_open(c->ctx, TFP_JSON_LINE);
  tfp_json_begin_object(w);
  return w;
}
static void json_end(cli *c, tfp_json_writer *w) {
  const char *text;
  tfp_json_end_object(w);
  text = tfp_json_writer_text(w, NULL);
  if (text) puts(text);
  fflush(stdout);
  tfp_json_writer_close(w);
  check(c);
}
static void json_number(tfp_json_writer *w, double x) {
  if (x - x == 0)
    tfp_json_put_double(w, x);
  else
    tfp_json_put_null(w);
}
static void json_real(tfp_json_writer *w, const char *key, double x) {
  tfp_json_key(w, key, -1);
  json_number(w, x);
}
static void json_int(tfp_json_writer *w, const char *key, int64_t x) {
  tfp_json_key(w, key, -1);
  tfp_json_put_int(w, x);
}
static void json_text(tfp_json_writer *w, const char *key, const char *text) {
  tfp_json_key(w, key, -1);
  if (text)
    tfp_json_put_text(w, text, -1);
  else
    tfp_json_put_null(w);
}
static void json_ids(tfp_json_writer *w, const char *key, const int32_t *ids, int64_t n) {
  int64_t i;
  tfp_json_key(w, key, -1);
  tfp_json_begin_array(w);
  for (i = 0; i < n; i++) tfp_json_put_int(w, ids[i]);
  tfp_json_end_array(w);
}

/* "1 2 3" or "[1, 2, 3]" as numbers. */
static int32_t *parse_ids(cli *c, const char *what, const char *text, int64_t bytes, int64_t *n) {
  int32_t *ids = (int32_t *)take(c, bytes, sizeof *ids);
  const char *p = text, *end = text + bytes;
  for (*n = 0; p < end;) {
    int64_t used;
    double x;
    if (*p && strchr(" ,[]\t\r", *p)) {
      p++;
      continue;
    }
    used = tfp_parse_number(p, end - p, &x);
    if (!used || x != floor(x) || fabs(x) > INT32_MAX)
      die(c, 1, "%s: token number %lld is no id: '%.*s'", what, (long long)*n + 1,
          (int)(end - p > 20 ? 20 : end - p), p);
    ids[(*n)++] = (int32_t)x;
    p += used;
  }
  return ids;
}
static int32_t *encode(cli *c, tfp_tokenizer *tok, const char *text, int64_t bytes, int flags,
                       int64_t *n) {
  int32_t *ids;
  *n = tfp_encode(tok, text, bytes, flags, NULL, 0);
  check(c);
  ids = (int32_t *)take(c, *n, sizeof *ids);
  tfp_encode(tok, text, bytes, flags, ids, *n);
  check(c);
  return ids;
}
/* A text that may have NULs inside. */
static char *decode_bytes(cli *c, tfp_tokenizer *tok, const int32_t *ids, int64_t n, int flags,
                          int64_t *bytes) {
  char *text;
  *bytes = tfp_decode(tok, ids, n, flags | TFP_REPLACE_INVALID, NULL, 0);
  check(c);
  text = (char *)take(c, *bytes, 1);
  tfp_decode(tok, ids, n, flags | TFP_REPLACE_INVALID, text, *bytes + 1);
  check(c);
  return text;
}
static char *decode(cli *c, tfp_tokenizer *tok, const int32_t *ids, int64_t n, int flags) {
  int64_t bytes;
  return decode_bytes(c, tok, ids, n, flags, &bytes);
}
/* A token as a word in a line: control characters are spelt out. */
static void print_token(const char *text) {
  putchar('\'');
  for (; *text; text++) {
    if (*text == '\n')
      fputs("\\n", stdout);
    else if ((unsigned char)*text < 32)
      printf("\\x%02x", (unsigned)(unsigned char)*text);
    else
      putchar(*text);
  }
  putchar('\'');
}
static int has_tokenizer(cli *c, const char *dir) {
  static const char *const names[] = {"tokenizer.json", "vocab.json", "encoder.json", "vocab.txt",
                                      "spiece.model"};
  char path[1024];
  size_t i;
  for (i = 0; i < sizeof names / sizeof *names; i++) {
    path_join(c, path, sizeof path, dir, names[i]);
    if (tfp_file_exists(c->ctx, path)) return 1;
  }
  return 0;
}
/* ---- model directories ----------------------------------------------------------------------- */

static tfp_model *load_model(cli *c, const char *dir, int trainable) {
  tfp_model *m = tfp_model_load(c->ctx, dir, trainable);
  check(c);
  return m;
}
static tfp_tokenizer *load_tokenizer(cli *c, const char *dir) {
  tfp_tokenizer *tok = tfp_tokenizer_load(c->ctx, dir);
  check(c);
  return tok;
}
/* Nothing is written over what it was made from: a kill in between would leave neither whole. */
static void refuse_same(cli *c, const char *dir, const char *out) {
  struct stat a, b;
  const int same = !strcmp(dir, out) || (!stat(dir, &a) && !stat(out, &b) && a.st_ino &&
                                         a.st_ino == b.st_ino && a.st_dev == b.st_dev);
  if (same) die(c, 2, "%s: --out '%s' is the directory that is read", c->command, out);
}
static void copy_file(cli *c, const char *dir, const char *out, const char *name) {
  char path[1024], *data;
  int64_t bytes;
  path_join(c, path, sizeof path, dir, name);
  if (!tfp_file_exists(c->ctx, path)) return;
  tfp_read_file(c->ctx, path, &data, &bytes);
  check(c);
  path_join(c, path, sizeof path, out, name);
  tfp_write_file(c->ctx, path, data, bytes);
  check(c);
}
/* Saves a model that came from `dir`; what is not a weight goes along as it is. */
static void export_model(cli *c, tfp_model *m, const char *dir, const char *out) {
  static const char *const others[] = {"tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "encoder.json",
                                       "vocab.bpe",
                                       "vocab.txt",
                                       "spiece.model",
                                       "tokenizer.model",
                                       "sentencepiece.bpe.model",
                                       "generation_config.json"};
  static const char *const dtypes[] = {"f32", "bf16", "f16"};
  static const tfp_st_dtype stored[] = {TFP_ST_F32, TFP_ST_BF16, TFP_ST_F16};
  const int dtype = c->o.dtype ? index_of(dtypes, 3, c->o.dtype) : 0;
  size_t i;
  tfp_make_dir(c->ctx, out);
  tfp_model_save_as(m, out, stored[dtype], c->o.max_shard > 0 ? c->o.max_shard : 0);
  check(c);
  for (i = 0; i < sizeof others / sizeof *others; i++) copy_file(c, dir, out, others[i]);
}

/* ---- info ------------------------------------------------------------------------------------ */

typedef struct contents {
  const char *dir;
  tfp_config config;
  int64_t parameters, run_bytes, train_bytes;
  list names; /* of the files of weights */
  tfp_safetensors **files;
  char report[2048];       /* what is missing or too much in them; empty if all is well */
  const char *tokenizer;   /* its kind, or NULL */
  int64_t vocabulary;      /* of the tokenizer */
  char no_tokenizer[1024]; /* why it cannot be read */
  char *card;              /* README.md, or NULL */
} contents;

static int by_name(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}
/* The file of the weights, or those that the index names, each once. */
static void find_weights(cli *c, contents *in) {
  char path[1024];
  tfp_json *root;
  const tfp_json *map, *v;
  int i;
  in->names.at = (const char **)take(c, 1, sizeof(char *));
  path_join(c, path, sizeof path, in->dir, "model.safetensors");
  if (tfp_file_exists(c->ctx, path)) {
    in->names.at[in->names.n++] = "model.safetensors";
    return;
  }
  path_join(c, path, sizeof path, in->dir, "model.safetensors.index.json");
  if (!tfp_file_exists(c->ctx, path)) return;
  root = tfp_json_parse_file(c->ctx, path); /* it stays: the names lie in it */
  check(c);
  map = tfp_json_get(root, "weight_map");
  if (!map || map->type != TFP_JSON_OBJECT) die(c, 1, "'%s' has no weight_map", path);
  free(in->names.at);
  in->names.at = (const char **)take(c, map->count, sizeof(char *));
  for (v = map->child; v; v = v->next) {
    if (v->type != TFP_JSON_STRING || strpbrk(v->text, "/\\"))
      die(c, 1, "'%s': \"%s\" lies in no file of this directory", path, v->key);
    for (i = in->names.n - 1; i >= 0 && strcmp(in->names.at[i], v->text); i--) continue;
    if (i < 0) in->names.at[in->names.n++] = v->text;
  }
  qsort(in->names.at, (size_t)in->names.n, sizeof *in->names.at, by_name);
}
static void open_weights(cli *c, contents *in) {
  char path[1024];
  int i;
  in->files = (tfp_safetensors **)take(c, in->names.n, sizeof *in->files);
  for (i = 0; i < in->names.n; i++) {
    path_join(c, path, sizeof path, in->dir, in->names.at[i]);
    in->files[i] = tfp_safetensors_open(c->ctx, path);
    check(c);
  }
}
/* Bytes of a model at rest and of one with gradients and moments: counted, not taken. The names and
 * shapes of the weights are checked, and none is read. */
static void dry_run(cli *c, contents *in, int trainable) {
  tfp_ctx *dry = open_context(c, 1);
  tfp_model *m = dry && in->names.n ? tfp_model_load(dry, in->dir, trainable) : NULL;
  const char *report = m ? tfp_model_load_report(m) : NULL;
  if (dry && in->names.n && !m) report = tfp_error_message(dry); /* said, and no error here */
  if (report) snprintf(in->report, sizeof in->report, "%s", report);
  tfp_clear_error(dry);
  if (dry && !m) m = tfp_model_create(dry, &in->config, trainable);
  if (trainable && m) tfp_adamw_create(m->params, NULL);
  if (tfp_error(dry)) {
    char line[1024];
    snprintf(line, sizeof line, "%s", dry ? tfp_error_message(dry) : "no memory for a context");
    tfp_destroy(dry);
    die(c, 1, "%s", line);
  }
  in->parameters = tfp_model_parameters(m);
  *(trainable ? &in->train_bytes : &in->run_bytes) = tfp_memory(dry).used;
  tfp_destroy(dry);
}
static void find_tokenizer(cli *c, contents *in) {
  tfp_tokenizer *tok;
  if (!has_tokenizer(c, in->dir)) return;
  tok = tfp_tokenizer_load(c->ctx, in->dir);
  if (!tok) {
    snprintf(in->no_tokenizer, sizeof in->no_tokenizer, "%s", tfp_error_message(c->ctx));
    tfp_clear_error(c->ctx);
    return;
  }
  in->tokenizer = tfp_tokenizer_name(tok);
  in->vocabulary = tfp_vocab_size(tok);
}
/* README.md; bytes that are no UTF-8 become U+FFFD, which has three. */
static void find_card(cli *c, contents *in) {
  char path[1024], *text = NULL, *to;
  const char *from, *end;
  int64_t bytes = 0;
  path_join(c, path, sizeof path, in->dir, "README.md");
  if (!tfp_file_exists(c->ctx, path)) return;
  tfp_read_file(c->ctx, path, &text, &bytes);
  check(c);
  in->card = to = (char *)take(c, 3 * bytes, 1);
  for (from = text, end = text + bytes; from < end;) {
    const uint32_t cp = tfp_utf8_next(&from, end);
    if (cp) to += tfp_utf8_encode(cp, to);
  }
}
static int64_t file_bytes(const tfp_safetensors *st) {
  int64_t i, bytes = 0;
  for (i = 0; i < tfp_safetensors_count(st); i++)
    if (tfp_safetensors_at(st, i)->end > bytes) bytes = tfp_safetensors_at(st, i)->end;
  return bytes;
}
static int has_dtype(const tfp_safetensors *st, int dtype) {
  int64_t i;
  for (i = 0; i < tfp_safetensors_count(st); i++)
    if ((int)tfp_safetensors_at(st, i)->dtype == dtype) return 1;
  return 0;
}

static void json_files(tfp_json_writer *w, const contents *in) {
  int i, k;
  tfp_json_key(w, "files", -1);
  tfp_json_begin_array(w);
  for (i = 0; i < in->names.n; i++) {
    tfp_json_begin_object(w);
    json_text(w, "name", in->names.at[i]);
    json_int(w, "tensors", tfp_safetensors_count(in->files[i]));
    json_int(w, "bytes", file_bytes(in->files[i]));
    tfp_json_key(w, "dtypes", -1);
    tfp_json_begin_array(w);
    for (k = 0; k < TFP_ST_COUNT; k++)
      if (has_dtype(in->files[i], k)) tfp_json_put_text(w, tfp_st_dtype_name((tfp_st_dtype)k), -1);
    tfp_json_end_array(w);
    tfp_json_end_object(w);
  }
  tfp_json_end_array(w);
}
static void json_tensors(tfp_json_writer *w, const contents *in) {
  int64_t i;
  int f, k;
  tfp_json_key(w, "tensors", -1);
  tfp_json_begin_array(w);
  for (f = 0; f < in->names.n; f++)
    for (i = 0; i < tfp_safetensors_count(in->files[f]); i++) {
      const tfp_safetensors_entry *e = tfp_safetensors_at(in->files[f], i);
      tfp_json_begin_object(w);
      json_text(w, "name", e->name);
      json_text(w, "dtype", tfp_st_dtype_name(e->dtype));
      tfp_json_key(w, "shape", -1);
      tfp_json_begin_array(w);
      for (k = 0; k < e->ndim; k++) tfp_json_put_int(w, e->shape[k]);
      tfp_json_end_array(w);
      tfp_json_end_object(w);
    }
  tfp_json_end_array(w);
}
static void info_json(cli *c, const contents *in) {
  static const char *const archs[] = {"encoder", "decoder", "seq2seq"};
  char path[1024];
  tfp_json *root;
  tfp_json_writer *w = json_begin(c);
  json_text(w, "family", tfp_family_name(in->config.family));
  json_text(w, "arch", archs[in->config.arch]);
  json_int(w, "parameters", in->parameters);
  tfp_json_key(w, "memory", -1);
  tfp_json_begin_object(w);
  json_int(w, "inference_bytes", in->run_bytes);
  json_int(w, "training_bytes", in->train_bytes);
  tfp_json_end_object(w);
  path_join(c, path, sizeof path, in->dir, "config.json");
  root = tfp_json_parse_file(c->ctx, path);
  tfp_json_key(w, "config", -1);
  tfp_json_put(w, root);
  tfp_json_free(root);
  json_files(w, in);
  json_tensors(w, in);
  json_text(w, "report", in->report[0] ? in->report : NULL);
  tfp_json_key(w, "tokenizer", -1);
  if (in->tokenizer || in->no_tokenizer[0]) {
    tfp_json_begin_object(w);
    json_text(w, "kind", in->tokenizer);
    json_int(w, "vocab_size", in->vocabulary);
    if (!in->tokenizer) json_text(w, "error", in->no_tokenizer);
    tfp_json_end_object(w);
  } else {
    tfp_json_put_null(w);
  }
  json_text(w, "card", in->card);
  json_end(c, w);
}

/* "1.5 GB", in steps of a thousand. */
static void size_text(char *out, size_t bytes, int64_t size) {
  static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
  double x = (double)size;
  int i;
  for (i = 0; x >= 999.5 && i < 4; i++) x /= 1000;
  snprintf(out, bytes, "%.3g %s", x, units[i]);
}
static void print_files(const contents *in) {
  char size[32];
  int64_t tensors = 0, bytes = 0;
  int i, k;
  for (i = 0; i < in->names.n; i++)
    tensors += tfp_safetensors_count(in->files[i]), bytes += file_bytes(in->files[i]);
  if (!in->names.n) {
    printf("weights     none: there is no model.safetensors\n");
    return;
  }
  size_text(size, sizeof size, bytes);
  printf("weights     %lld tensors, %s, as", (long long)tensors, size);
  for (k = 0; k < TFP_ST_COUNT; k++) {
    for (i = 0; i < in->names.n && !has_dtype(in->files[i], k); i++) continue;
    if (i < in->names.n) printf(" %s", tfp_st_dtype_name((tfp_st_dtype)k));
  }
  if (in->names.n == 1)
    printf(" in %s\n", in->names.at[0]);
  else
    printf(" in %d files, %s to %s\n", in->names.n, in->names.at[0], in->names.at[in->names.n - 1]);
}
/* The first lines of text behind the card's YAML. */
static void print_card(const char *card) {
  int lines = 0, in_yaml = !strncmp(card, "---\n", 4);
  if (in_yaml) card += 4;
  while (*card && lines < 5) {
    const int n = (int)strcspn(card, "\n");
    if (in_yaml && n >= 3 && !strncmp(card, "---", 3))
      in_yaml = 0;
    else if (!in_yaml && n && *card != '|')
      printf("%s  %.*s\n", lines++ ? "" : "card\n", n, card);
    card += n + (card[n] == '\n');
  }
}
static void info_text(const contents *in) {
  static const char *const archs[] = {"an encoder", "a decoder", "an encoder-decoder"};
  static const char *const heads[TFP_HEAD_COUNT] = {
      "none",
      "language modelling",
      "a class for each text",
      "a class for each token",
      "answers",
      "masked language modelling and the next sentence",
      "the next sentence",
      "the best of several continuations"};
  const tfp_config *k = &in->config;
  char use[32], learn[32];
  printf("%s, %s\n", tfp_family_name(k->family), archs[k->arch]);
  printf("head        %s", heads[k->head]);
  if (k->head == TFP_HEAD_CLASS || k->head == TFP_HEAD_TAG)
    printf(", %lld labels", (long long)k->num_labels);
  printf("\nlayers      %lld encoder, %lld decoder\n", (long long)k->encoder_layers,
         (long long)k->decoder_layers);
  printf("width       %lld, %lld heads of %lld, feed-forward %lld\n", (long long)k->hidden,
         (long long)k->heads, (long long)k->head_dim, (long long)k->ffn);
  printf("vocabulary  %lld\n", (long long)k->vocab_size);
  if (k->max_positions)
    printf("positions   %lld\n", (long long)k->max_positions);
  else
    printf("positions   without limit\n");
  printf("parameters  %lld\n", (long long)in->parameters);
  size_text(use, sizeof use, in->run_bytes);
  size_text(learn, sizeof learn, in->train_bytes);
  printf("memory      %s to run, %s to train, and activations\n", use, learn);
  print_files(in);
  if (in->report[0]) printf("but         %s\n", in->report);
  if (in->tokenizer)
    printf("tokenizer   %s, %lld tokens\n", in->tokenizer, (long long)in->vocabulary);
  else
    printf("tokenizer   none%s%s\n", in->no_tokenizer[0] ? ": " : "", in->no_tokenizer);
  if (in->card) print_card(in->card);
}
static void run_info(cli *c) {
  contents in;
  memset(&in, 0, sizeof in);
  in.dir = c->o.words.at[0];
  tfp_config_load(c->ctx, in.dir, &in.config);
  check(c);
  find_weights(c, &in);
  open_weights(c, &in);
  dry_run(c, &in, 0);
  dry_run(c, &in, 1);
  find_tokenizer(c, &in);
  find_card(c, &in);
  if (c->o.json)
    info_json(c, &in);
  else
    info_text(&in);
}

/* ---- tokenize, train-tokenizer --------------------------------------------------------------- */

/* The next line of standard input, of any length; -1 behind the last. */
static int64_t read_line(cli *c, char **line, size_t *room) {
  size_t n = 0;
  int ch = EOF;
  while ((ch = getchar()) != EOF && ch != '\n') {
    if (n + 2 > *room) {
      char *more = (char *)realloc(*line, 2 * *room + 256);
      if (!more) die(c, 1, "no memory for a line of %lu bytes", (unsigned long)n);
      *line = more, *room = 2 * *room + 256;
    }
    (*line)[n++] = (char)ch;
  }
  if (ferror(stdin)) die(c, 1, "standard input: %s", strerror(errno));
  return ch == EOF && !n ? -1 : (int64_t)n;
}
static void print_ids(cli *c, const int32_t *ids, int64_t n) {
  int64_t i;
  if (c->o.json) {
    tfp_json_writer *w = json_begin(c);
    json_ids(w, "ids", ids, n);
    json_end(c, w);
    return;
  }
  for (i = 0; i < n; i++) printf("%s%d", i ? " " : "", (int)ids[i]);
  putchar('\n');
}
static void print_text(cli *c, const char *text, int64_t bytes) {
  if (c->o.json) {
    tfp_json_writer *w = json_begin(c);
    tfp_json_key(w, "text", -1);
    tfp_json_put_text(w, text, bytes);
    json_end(c, w);
    return;
  }
  fwrite(text, 1, (size_t)bytes, stdout);
  putchar('\n');
}
/* As the reference's tokenizer(text), add_special_tokens, and decode(ids, skip_special_tokens). */
static void run_tokenize(cli *c) {
  tfp_tokenizer *tok = load_tokenizer(c, c->o.words.at[0]);
  const int encode_flags = TFP_PARSE_SPECIAL | (c->o.no_special ? 0 : TFP_ADD_SPECIAL);
  const int decode_flags = c->o.no_special ? TFP_SKIP_SPECIAL : 0;
  char *line = NULL;
  size_t room = 0;
  int64_t bytes, n;
  while ((bytes = read_line(c, &line, &room)) >= 0) {
    const char *from = line ? line : "";
    int32_t *ids;
    if (c->o.decode) {
      char *text;
      ids = parse_ids(c, "tokenize --decode", from, bytes, &n);
      text = decode_bytes(c, tok, ids, n, decode_flags, &bytes);
      print_text(c, text, bytes);
      free(text);
    } else {
      ids = encode(c, tok, from, bytes, encode_flags, &n);
      print_ids(c, ids, n);
    }
    free(ids);
  }
  free(line);
}

static tfp_special_style style_of(tfp_family family) {
  static const tfp_special_style styles[] = {TFP_SPECIALS_BERT, TFP_SPECIALS_ROBERTA,
                                             TFP_SPECIALS_GPT2, TFP_SPECIALS_BLOOM,
                                             TFP_SPECIALS_T5,   TFP_SPECIALS_ROBERTA};
  return styles[family];
}
/* An option that says nothing to this kind of tokenizer was meant for another. */
static void only_for(cli *c, int is_given, const char *name, const char *kinds) {
  if (is_given && !is_choice(kinds, c->o.kind))
    die(c, 2, "--%s goes with --kind %s, not with %s", name, kinds, c->o.kind);
}
static tfp_tokenizer *train_bpe(cli *c, tfp_special_style style) {
  tfp_bpe_options o;
  memset(&o, 0, sizeof o);
  o.min_frequency = either(c->o.min_frequency, 0);
  return tfp_tokenizer_train_bpe(c->ctx, c->o.words.at, c->o.words.n, c->o.vocab, style, &o);
}
static tfp_tokenizer *train_wordpiece(cli *c) {
  tfp_wordpiece_options o;
  memset(&o, 0, sizeof o);
  o.min_frequency = either(c->o.min_frequency, 0);
  o.limit_alphabet = either(c->o.limit_alphabet, 0);
  o.cased = c->o.lowercase && !strcmp(c->o.lowercase, "false");
  if (c->o.strip_accents) o.strip_accents = strcmp(c->o.strip_accents, "false") ? 1 : -1;
  return tfp_tokenizer_train_wordpiece(c->ctx, c->o.words.at, c->o.words.n, c->o.vocab, &o);
}
static tfp_tokenizer *train_unigram(cli *c, tfp_special_style style) {
  tfp_unigram_options o;
  memset(&o, 0, sizeof o);
  o.max_piece = (int)either(c->o.max_piece, 0);
  return tfp_tokenizer_train_unigram(c->ctx, c->o.words.at, c->o.words.n, c->o.vocab, style, &o);
}
static void run_train_tokenizer(cli *c) {
  tfp_tokenizer *tok;
  const char *family = c->o.family;
  needs(c, c->o.kind != NULL, "--kind bpe, wordpiece or unigram");
  needs(c, c->o.vocab > 0, "--vocab N");
  needs(c, c->o.out != NULL, "--out DIR");
  only_for(c, c->o.min_frequency > 0, "min-frequency", "bpe|wordpiece");
  only_for(c, c->o.lowercase != NULL, "lowercase", "wordpiece");
  only_for(c, c->o.strip_accents != NULL, "strip-accents", "wordpiece");
  only_for(c, c->o.limit_alphabet > 0, "limit-alphabet", "wordpiece");
  only_for(c, c->o.max_piece > 0, "max-piece-length", "unigram");
  if (!strcmp(c->o.kind, "wordpiece")) {
    if (family && strcmp(family, "bert"))
      die(c, 2, "--kind wordpiece is bert's, and --family is %s", family);
    tok = train_wordpiece(c);
  } else if (!strcmp(c->o.kind, "unigram")) {
    tok = train_unigram(c, family ? style_of((tfp_family)tfp_family_from_name(family))
                                  : TFP_SPECIALS_T5);
  } else {
    tok = train_bpe(c, family ? style_of((tfp_family)tfp_family_from_name(family))
                              : TFP_SPECIALS_GPT2);
  }
  check(c);
  tfp_make_dir(c->ctx, c->o.out);
  tfp_tokenizer_save(tok, c->o.out, 0);
  check(c);
  if (c->o.json) {
    tfp_json_writer *w = json_begin(c);
    json_text(w, "kind", tfp_tokenizer_name(tok));
    json_int(w, "vocab_size", tfp_vocab_size(tok));
    json_text(w, "out", c->o.out);
    json_real(w, "seconds", tfp_seconds() - c->began);
    json_end(c, w);
  } else {
    printf("%lld tokens in %s\n", (long long)tfp_vocab_size(tok), c->o.out);
  }
}

/* ---- batches: what logits and trace read ----------------------------------------------------- */

/* Numbers of a batch, from JSON or from the command line, as rows of equal length. */
typedef struct rows {
  int32_t *ids;
  float *reals; /* the same with fractions */
  int64_t B, T;
  int64_t choices; /* rows that are one question, where lists are nested three deep; else 0 */
  int axes, fractions;
} rows;
enum {
  IN_IDS,
  IN_MASK,
  IN_TYPES,
  IN_POSITIONS,
  IN_DEC_IDS,
  IN_DEC_MASK,
  IN_LABELS,
  IN_NEXT,
  IN_START,
  IN_END,
  INPUTS
};
static const char *const input_keys[INPUTS] = {
    "input_ids",         "attention_mask",         "token_type_ids", "position_ids",
    "decoder_input_ids", "decoder_attention_mask", "labels",         "next_sentence_label",
    "start_positions",   "end_positions"};
typedef struct feed {
  rows in[INPUTS];
  tfp_batch batch;  /* borrows from the rows */
  int64_t line;     /* of the file, from 1 */
  char where[1100]; /* FILE:LINE, for errors */
} feed;

static void feed_clear(feed *f) {
  int i;
  for (i = 0; i < INPUTS; i++) {
    free(f->in[i].ids);
    free(f->in[i].reals);
  }
  memset(f->in, 0, sizeof f->in);
}
/* The library's error, with the line that led to it. */
static void check_feed(cli *c, const feed *f) {
  if (tfp_error(c->ctx)) die(c, 1, "%s: %s", f->where, tfp_error_message(c->ctx));
}

typedef struct number_reader {
  cli *c;
  const char *where;
  int key;
  rows *to;
  int64_t n;
} number_reader;

/* Nested lists that must have the given shape. */
static void read_numbers(number_reader *r, const tfp_json *v, const int64_t *shape, int axes) {
  const char *key = input_keys[r->key];
  const tfp_json *x;
  if (v->type != TFP_JSON_ARRAY || v->count != shape[0])
    die(r->c, 1, "%s: \"%s\" has a list of %lld at byte %lld, where others have %lld", r->where,
        key, (long long)v->count, (long long)v->offset, (long long)shape[0]);
  for (x = v->child; x; x = x->next) {
    const int is_mask = r->key == IN_MASK || r->key == IN_DEC_MASK;
    const double number = x->type == TFP_JSON_BOOL ? (double)x->integer : x->number;
    if (axes > 1) {
      read_numbers(r, x, shape + 1, axes - 1);
      continue;
    }
    if (x->type < TFP_JSON_BOOL || x->type > TFP_JSON_FLOAT || fabs(number) > INT32_MAX ||
        (x->type == TFP_JSON_FLOAT && !is_mask && r->key != IN_LABELS))
      die(r->c, 1, "%s: \"%s\" has at byte %lld what is no %s", r->where, key, (long long)x->offset,
          r->key == IN_LABELS ? "label" : "id");
    r->to->fractions |= x->type == TFP_JSON_FLOAT;
    r->to->reals[r->n] = (float)number;
    r->to->ids[r->n++] = is_mask ? number != 0 : (int32_t)number;
  }
}
static void read_rows(cli *c, const feed *f, const tfp_json *v, int key, rows *to) {
  const tfp_json *inner;
  number_reader r;
  int64_t shape[3] = {1, 1, 1};
  int axes = 0;
  for (inner = v; inner && inner->type == TFP_JSON_ARRAY && axes < 3; inner = inner->child)
    shape[axes++] = inner->count;
  if (!axes || (axes < 2 && key < IN_LABELS) || shape[0] < 1 || shape[1] < 1 || shape[2] < 1)
    die(c, 1, "%s: \"%s\" is no list of rows", f->where, input_keys[key]);
  to->axes = axes;
  to->B = axes < 3 ? shape[0] : shape[0] * shape[1];
  to->T = axes < 3 ? shape[1] : shape[2];
  to->choices = axes < 3 ? 0 : shape[1];
  to->ids = (int32_t *)take(c, to->B * to->T, sizeof *to->ids);
  to->reals = (float *)take(c, to->B * to->T, sizeof *to->reals);
  r.c = c, r.where = f->where, r.key = key, r.to = to, r.n = 0;
  read_numbers(&r, v, shape, axes);
}
static void read_inputs(cli *c, const tfp_json *root, feed *f) {
  const tfp_json *v;
  int i;
  if (root->type != TFP_JSON_OBJECT) die(c, 1, "%s: this is no JSON object", f->where);
  for (v = root->child; v; v = v->next) {
    i = index_of(input_keys, INPUTS, v->key);
    if (i == INPUTS) die(c, 1, "%s: \"%s\" is no input that is known here", f->where, v->key);
    if (f->in[i].ids) die(c, 1, "%s: \"%s\" comes twice", f->where, v->key);
    if (v->type != TFP_JSON_NULL) read_rows(c, f, v, i, &f->in[i]);
  }
}
static void take_input(cli *c, const char *what, const char *text, rows *r) {
  if (!text) return;
  r->B = 1, r->axes = 2;
  r->ids = parse_ids(c, what, text, (int64_t)strlen(text), &r->T);
}
/* Where the decoder's input is not given, the reference shifts the labels of language modelling to
 * the right, or for other heads (and for BART without labels) the encoder's input. */
static void shift_decoder(cli *c, const tfp_model *m, feed *f) {
  const tfp_config *k = &m->config;
  const int is_lm = k->head == TFP_HEAD_LM;
  const rows *from = &f->in[is_lm && f->in[IN_LABELS].ids ? IN_LABELS : IN_IDS];
  const int32_t pad = k->pad >= 0 ? k->pad : 0;
  rows *r = &f->in[IN_DEC_IDS];
  int64_t b;
  if (k->arch != TFP_SEQ2SEQ || r->ids) return;
  if (from == &f->in[IN_IDS] && k->family == TFP_T5 && (is_lm || k->head == TFP_HEAD_NONE))
    die(c, 1, "%s: this model has a decoder and needs %s", f->where,
        c->o.batches ? "decoder_input_ids or labels" : "--decoder-ids");
  r->B = from->B, r->T = from->T, r->axes = 2;
  r->ids = (int32_t *)take(c, r->B * r->T, sizeof *r->ids);
  for (b = 0; b < r->B; b++)
    tfp_shift_right(from->ids + b * r->T, r->T, k->decoder_start, pad, r->ids + b * r->T);
}
static void same_shape(cli *c, const feed *f, int one, int other) {
  const rows *a = &f->in[one], *b = &f->in[other];
  if (b->ids && (a->B != b->B || a->T != b->T))
    die(c, 1, "%s: \"%s\" is %lld rows of %lld, and \"%s\" %lld of %lld", f->where, input_keys[one],
        (long long)a->B, (long long)a->T, input_keys[other], (long long)b->B, (long long)b->T);
}
/* The rows as a batch without labels. */
static void make_batch(cli *c, const tfp_model *m, feed *f) {
  const tfp_config *k = &m->config;
  rows *in = f->in;
  tfp_batch *b = &f->batch;
  int64_t i;
  if (!in[IN_IDS].ids || in[IN_IDS].T < 1)
    die(c, 1, "%s: there are no %s", f->where, c->o.batches ? "input_ids" : "ids");
  if (in[IN_TYPES].ids && !k->type_vocab && k->family != TFP_GPT2)
    die(c, 1, "%s: this model has no token types", f->where);
  if (in[IN_POSITIONS].ids && k->position != TFP_POS_LEARNED && k->position != TFP_POS_ROTARY)
    die(c, 1, "%s: this model takes no position_ids", f->where);
  if ((in[IN_IDS].axes == 3) != (k->head == TFP_HEAD_CHOICE && c->o.batches))
    die(c, 1, "%s: input_ids are lists %d deep, which does not go with the head of this model",
        f->where, in[IN_IDS].axes);
  if ((in[IN_DEC_IDS].ids || in[IN_DEC_MASK].ids) && k->arch != TFP_SEQ2SEQ)
    die(c, 1, "%s: this model has no decoder behind an encoder", f->where);
  shift_decoder(c, m, f);
  same_shape(c, f, IN_IDS, IN_MASK);
  same_shape(c, f, IN_IDS, IN_TYPES);
  same_shape(c, f, IN_IDS, IN_POSITIONS);
  same_shape(c, f, IN_DEC_IDS, IN_DEC_MASK);
  if (in[IN_DEC_IDS].ids && in[IN_DEC_IDS].B != in[IN_IDS].B)
    die(c, 1, "%s: the encoder has %lld rows, the decoder %lld", f->where, (long long)in[IN_IDS].B,
        (long long)in[IN_DEC_IDS].B);
  for (i = 0; in[IN_POSITIONS].ids && i < in[IN_POSITIONS].B * in[IN_POSITIONS].T; i++)
    in[IN_POSITIONS].ids[i] -= k->position_offset; /* they come as rows of the table */
  memset(b, 0, sizeof *b);
  b->B = in[IN_IDS].B, b->T = in[IN_IDS].T, b->S = in[IN_DEC_IDS].T;
  b->ids = in[IN_IDS].ids, b->mask = in[IN_MASK].ids, b->types = in[IN_TYPES].ids;
  b->positions = in[IN_POSITIONS].ids, b->choices = in[IN_IDS].choices;
  b->dec_ids = in[IN_DEC_IDS].ids, b->dec_mask = in[IN_DEC_MASK].ids;
}
/* The next line of the file as a batch; 0 at its end. */
static int next_batch(cli *c, tfp_file *file, const tfp_model *m, feed *f) {
  const char *line;
  tfp_json *root;
  int64_t n;
  feed_clear(f);
  for (f->line++; (n = tfp_file_line(file, &line)) >= 0; f->line++)
    if (n > (int64_t)strspn(line, " \t")) break;
  check(c);
  if (n < 0) return 0;
  snprintf(f->where, sizeof f->where, "%s:%lld", c->o.batches, (long long)f->line);
  root = tfp_json_parse(c->ctx, line, n, f->where);
  check(c);
  read_inputs(c, root, f);
  tfp_json_free(root);
  make_batch(c, m, f);
  return 1;
}

/* ---- logits ---------------------------------------------------------------------------------- */

/* Nested lists of numbers; of a last axis with a stride, every stride-th number. */
static void json_nest(tfp_json_writer *w, const int64_t *shape, int ndim, int stride,
                      const float **x) {
  int64_t i;
  tfp_json_begin_array(w);
  for (i = 0; i < shape[0]; i++) {
    if (ndim > 1) {
      json_nest(w, shape + 1, ndim - 1, stride, x);
      continue;
    }
    if (**x - **x == 0)
      tfp_json_put_float(w, **x);
    else
      tfp_json_put_null(w);
    *x += stride;
  }
  tfp_json_end_array(w);
}
static float *numbers_of(cli *c, const tfp_tensor *t) {
  const int64_t n = tfp_numel(t);
  float *x = (float *)take(c, n, sizeof *x);
  tfp_read(c->ctx, t, x, n);
  check(c);
  return x;
}
static void json_tensor(cli *c, tfp_json_writer *w, const char *key, const tfp_tensor *t) {
  float *x;
  const float *at;
  if (!t) return;
  at = x = numbers_of(c, t);
  tfp_json_key(w, key, -1);
  json_nest(w, t->shape, t->ndim, 1, &at);
  free(x);
}
/* Starts and ends of answers lie side by side, and are two lists for the reference. */
static void json_spans(cli *c, tfp_json_writer *w, const tfp_tensor *t) {
  static const char *const keys[] = {"start_logits", "end_logits"};
  float *x = numbers_of(c, t);
  int end;
  for (end = 0; end < 2; end++) {
    const float *at = x + end;
    tfp_json_key(w, keys[end], -1);
    json_nest(w, t->shape, t->ndim - 1, 2, &at);
  }
  free(x);
}
static void print_rows(cli *c, const float *x, int64_t n, int64_t width) {
  int64_t i;
  for (i = 0; i < n; i++) printf("%.9g%c", (double)x[i], (i + 1) % width ? ' ' : '\n');
  if (ferror(stdout)) check_output(c); /* no use in going on */
}
static void print_outputs(cli *c, const tfp_model *m, const tfp_output *out) {
  const tfp_head head = m->config.head;
  const tfp_tensor *t = head == TFP_HEAD_NONE ? out->hidden : out->logits;
  tfp_json_writer *w;
  if (!c->o.json) {
    float *x = numbers_of(c, t);
    print_rows(c, x, tfp_numel(t), t->shape[t->ndim - 1]);
    free(x);
    return;
  }
  w = json_begin(c);
  if (head == TFP_HEAD_QA) {
    json_spans(c, w, t);
  } else {
    json_tensor(c, w,
                head == TFP_HEAD_NONE          ? "last_hidden_state"
                : head == TFP_HEAD_PRETRAINING ? "prediction_logits"
                                               : "logits",
                t);
    if (head == TFP_HEAD_NONE) json_tensor(c, w, "pooler_output", out->pooled);
    if (head == TFP_HEAD_PRETRAINING) json_tensor(c, w, "seq_relationship_logits", out->next);
  }
  json_end(c, w);
}
static void logits_of(cli *c, tfp_model *m, feed *f) {
  tfp_output out;
  tfp_step_reset(c->ctx);
  tfp_no_grad_begin(c->ctx);
  tfp_forward(m, &f->batch, TFP_WANT_LOGITS, NULL, &out);
  tfp_no_grad_end(c->ctx);
  check_feed(c, f);
  print_outputs(c, m, &out);
}
static void run_logits(cli *c) {
  feed f;
  tfp_model *m;
  tfp_file *file;
  int64_t lines = 0;
  needs(c, c->o.ids || c->o.batches, "--ids or --batches");
  if (c->o.batches && (c->o.ids || c->o.mask || c->o.type_ids || c->o.decoder_ids))
    die(c, 2, "logits takes --batches, or --ids, --mask, --type-ids and --decoder-ids, not both");
  m = load_model(c, c->o.words.at[0], 0);
  memset(&f, 0, sizeof f);
  if (c->o.ids) {
    snprintf(f.where, sizeof f.where, "logits");
    take_input(c, "--ids", c->o.ids, &f.in[IN_IDS]);
    take_input(c, "--mask", c->o.mask, &f.in[IN_MASK]);
    take_input(c, "--type-ids", c->o.type_ids, &f.in[IN_TYPES]);
    take_input(c, "--decoder-ids", c->o.decoder_ids, &f.in[IN_DEC_IDS]);
    make_batch(c, m, &f);
    logits_of(c, m, &f);
  } else {
    file = tfp_file_open(c->ctx, c->o.batches);
    check(c);
    for (; next_batch(c, file, m, &f); lines++) logits_of(c, m, &f);
    tfp_file_close(file);
    if (!lines) die(c, 1, "'%s' has no batches", c->o.batches);
  }
  feed_clear(&f);
}

/* ---- trace ----------------------------------------------------------------------------------- */

/* Labels that are asked of the next position, as the reference's causal models shift them. */
static void shift_labels(rows *r) {
  int64_t b, t;
  for (b = 0; b < r->B; b++)
    for (t = 0; t < r->T; t++)
      r->ids[b * r->T + t] = t + 1 < r->T ? r->ids[b * r->T + t + 1] : TFP_IGNORE_INDEX;
}
/* Pairs (start, end) in the place of the labels; what lies behind the text does not count. */
static void join_spans(cli *c, feed *f) {
  rows *labels = &f->in[IN_LABELS];
  const int64_t B = f->batch.B, T = f->batch.S ? f->batch.S : f->batch.T;
  int64_t i;
  free(labels->ids);
  labels->ids = (int32_t *)take(c, 2 * B, sizeof *labels->ids);
  labels->B = B, labels->T = 2;
  for (i = 0; i < 2 * B; i++) {
    const rows *from = &f->in[i % 2 ? IN_END : IN_START];
    const int32_t at = from->ids[i / 2];
    labels->ids[i] = at < 0 ? 0 : at < T ? at : TFP_IGNORE_INDEX;
  }
}
/* Labels as the model's head wants them, added to the batch. */
static void add_labels(cli *c, tfp_model *m, feed *f) {
  tfp_config *k = &m->config;
  rows *in = f->in, *labels = &in[IN_LABELS];
  tfp_batch *b = &f->batch;
  const int wants_next = k->head == TFP_HEAD_PRETRAINING;
  if (k->head == TFP_HEAD_QA) {
    if (!in[IN_START].ids || !in[IN_END].ids || in[IN_START].B != b->B || in[IN_START].T != 1 ||
        in[IN_END].B != b->B || in[IN_END].T != 1)
      die(c, 1, "%s: start_positions and end_positions want a number for each of %lld rows",
          f->where, (long long)b->B);
    join_spans(c, f);
  }
  if (k->head == TFP_HEAD_NSP && in[IN_NEXT].ids && !labels->ids) labels = &in[IN_NEXT];
  if (!labels->ids) die(c, 1, "%s: there are no labels", f->where);
  if (labels->fractions && k->head != TFP_HEAD_CLASS)
    die(c, 1, "%s: the labels of this model are whole numbers", f->where);
  if (wants_next) {
    if (!in[IN_NEXT].ids || in[IN_NEXT].B * in[IN_NEXT].T != b->B)
      die(c, 1, "%s: next_sentence_label wants a number for each of %lld rows", f->where,
          (long long)b->B);
    b->next_labels = in[IN_NEXT].ids;
  }
  if (k->head == TFP_HEAD_CLASS && !k->problem && labels->B == b->B &&
      (labels->fractions || (labels->T > 1 && labels->T == k->num_labels)))
    k->problem = TFP_PROBLEM_MULTI_LABEL; /* what the reference infers, if config.json is silent */
  if (k->head == TFP_HEAD_CLASS && k->problem) {
    b->targets = labels->reals, b->n_targets = labels->B * labels->T;
    return;
  }
  if (k->head == TFP_HEAD_LM && k->arch == TFP_DECODER) shift_labels(labels);
  if (k->head == TFP_HEAD_LM || wants_next || k->head == TFP_HEAD_TAG)
    same_shape(c, f, k->arch == TFP_SEQ2SEQ ? IN_DEC_IDS : IN_IDS, IN_LABELS);
  b->labels = labels->ids, b->n_labels = labels->B * labels->T;
}
static int64_t count_batches(cli *c) {
  tfp_file *file = tfp_file_open(c->ctx, c->o.batches);
  const char *line;
  int64_t n, count = 0;
  check(c);
  while ((n = tfp_file_line(file, &line)) >= 0) count += n > (int64_t)strspn(line, " \t");
  check(c);
  tfp_file_close(file);
  return count;
}
/* One step of AdamW on the mean of the scored labels, without dropout. */
static void trace_step(cli *c, tfp_model *m, tfp_adamw *opt, const feed *f, int64_t step) {
  const int64_t scored = tfp_batch_scored(&f->batch);
  tfp_output out;
  double loss, norm;
  if (!scored) die(c, 1, "%s: no label is scored", f->where);
  tfp_step_reset(c->ctx);
  tfp_set_loss_scale(c->ctx, 1 / (double)scored);
  tfp_forward(m, &f->batch, TFP_WANT_LOSS, NULL, &out);
  check_feed(c, f);
  loss = tfp_item(out.loss);
  tfp_backward(c->ctx, out.loss);
  if (step == 1 && c->o.grads) tfp_gradients_save(m, c->o.grads);
  check(c);
  if (!(fabs(loss) < INFINITY)) die(c, 1, "%s: the loss is %g", f->where, loss);
  tfp_adamw_step(opt, c->o.lr, &norm);
  check_feed(c, f);
  if (c->o.json) {
    tfp_json_writer *w = json_begin(c);
    json_int(w, "step", step);
    json_real(w, "loss", loss);
    json_real(w, "grad_norm", norm);
    json_end(c, w);
  } else {
    printf("step %lld  loss %.9g  grad_norm %.9g\n", (long long)step, loss, norm);
    fflush(stdout);
  }
}
static void run_trace(cli *c) {
  const char *dir = c->o.words.at[0];
  tfp_adamw_desc d;
  tfp_adamw *opt;
  tfp_model *m;
  tfp_file *file;
  feed f;
  int64_t steps, step, lines;
  needs(c, c->o.batches != NULL, "--batches FILE");
  lines = count_batches(c);
  steps = either(c->o.steps, lines);
  if (!lines) die(c, 1, "'%s' has no batches", c->o.batches);
  if (steps > lines)
    die(c, 1, "trace: '%s' has fewer batches (%lld) than --steps (%lld): a step takes one",
        c->o.batches, (long long)lines, (long long)steps);
  if (c->o.out) refuse_same(c, dir, c->o.out);
  m = load_model(c, dir, 1);
  if (m->config.head == TFP_HEAD_NONE)
    die(c, 1, "trace: the model in '%s' has no head, and so no loss", dir);
  memset(&d, 0, sizeof d);
  d.beta1 = c->o.beta1, d.beta2 = c->o.beta2, d.eps = c->o.eps;
  d.weight_decay = c->o.weight_decay, d.decay_all = c->o.decay_all, d.clip = c->o.clip;
  opt = tfp_adamw_create(m->params, &d);
  check(c);
  memset(&f, 0, sizeof f);
  file = tfp_file_open(c->ctx, c->o.batches);
  check(c);
  for (step = 1; step <= steps && next_batch(c, file, m, &f); step++) {
    add_labels(c, m, &f);
    trace_step(c, m, opt, &f, step);
  }
  tfp_file_close(file);
  feed_clear(&f);
  if (c->o.out) export_model(c, m, dir, c->o.out);
}

/* ---- convert --------------------------------------------------------------------------------- */

static void run_convert(cli *c) {
  const char *dir = c->o.words.at[0], *report;
  tfp_model *m;
  needs(c, c->o.out != NULL, "--out DIR");
  refuse_same(c, dir, c->o.out);
  m = load_model(c, dir, 0);
  report = tfp_model_load_report(m);
  export_model(c, m, dir, c->o.out);
  copy_file(c, dir, c->o.out, "README.md");
  if (c->o.json) {
    tfp_json_writer *w = json_begin(c);
    json_int(w, "parameters", tfp_model_parameters(m));
    json_text(w, "dtype", c->o.dtype ? c->o.dtype : "f32");
    json_text(w, "out", c->o.out);
    json_text(w, "report", report);
    json_end(c, w);
  } else {
    printf("%lld parameters as %s in %s\n", (long long)tfp_model_parameters(m),
           c->o.dtype ? c->o.dtype : "f32", c->o.out);
    if (report) printf("%s\n", report);
  }
}

/* ---- embed ----------------------------------------------------------------------------------- */

enum { EMBED_LINES = 256, EMBED_TOKENS = 4096, EMBED_LEAST = 16 };
typedef struct embed_line {
  int32_t *ids;
  int64_t n, number; /* of its tokens; of the line, from 0 */
} embed_line;

static int by_tokens(const void *a, const void *b) {
  const embed_line *x = (const embed_line *)a, *y = (const embed_line *)b;
  if (x->n != y->n) return x->n < y->n ? -1 : 1;
  return x->number < y->number ? -1 : x->number > y->number;
}
/* Vectors (n,C) of lines of one length, so that there is no padding that could change a bit. Matrix
 * products of a few rows add in another order than those of many; so that a line has the same
 * vector alone as among others, short ones are repeated up to EMBED_LEAST tokens. */
static void embed_alike(cli *c, tfp_model *m, const embed_line *lines, int64_t n, float *out) {
  const tfp_config *k = &m->config;
  const int64_t T = lines[0].n, least = (EMBED_LEAST + T - 1) / T, B = n > least ? n : least;
  int32_t *ids = (int32_t *)take(c, B * T, sizeof *ids);
  int32_t *starts = (int32_t *)take(c, B, sizeof *starts);
  tfp_batch b;
  tfp_output o;
  tfp_tensor *hidden;
  int64_t i;
  memset(&b, 0, sizeof b);
  b.B = B, b.T = T, b.ids = ids;
  for (i = 0; i < B; i++) memcpy(ids + i * T, lines[i < n ? i : 0].ids, (size_t)T * sizeof *ids);
  if (k->arch == TFP_SEQ2SEQ) { /* the encoder's states count; the decoder gets one token */
    for (i = 0; i < B; i++) starts[i] = k->decoder_start >= 0 ? k->decoder_start : 0;
    b.S = 1, b.dec_ids = starts;
  }
  tfp_step_reset(c->ctx);
  tfp_no_grad_begin(c->ctx);
  tfp_forward(m, &b, 0, NULL, &o);
  hidden = o.encoder ? o.encoder : o.hidden;
  if (c->o.pool && !strcmp(c->o.pool, "cls"))
    hidden = tfp_slice(c->ctx, hidden, 1, 0, 1);
  else
    hidden = tfp_pool_mean(c->ctx, hidden, NULL);
  hidden = tfp_slice(c->ctx, hidden, 0, 0, n);
  tfp_no_grad_end(c->ctx);
  tfp_read(c->ctx, hidden, out, n * k->hidden);
  check(c);
  free(ids);
  free(starts);
}
static void normalize(float *x, int64_t n) {
  double sum = 0;
  int64_t i;
  for (i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
  for (i = 0; i < n && sum > 0; i++) x[i] = (float)((double)x[i] / sqrt(sum));
}
/* Some lines at once, those of one length together; the vectors come in the order of the lines. */
static void embed_lines(cli *c, tfp_model *m, embed_line *lines, int64_t n) {
  const int64_t C = m->config.hidden, first = n ? lines[0].number : 0;
  float *vectors = (float *)take(c, n * C, sizeof *vectors);
  float *some = (float *)take(c, n * C, sizeof *some);
  int64_t i, k, alike;
  qsort(lines, (size_t)n, sizeof *lines, by_tokens);
  for (i = 0; i < n; i += alike) {
    for (alike = 1; i + alike < n && lines[i + alike].n == lines[i].n; alike++)
      if ((alike + 1) * lines[i].n > EMBED_TOKENS) break;
    embed_alike(c, m, lines + i, alike, some);
    for (k = 0; k < alike; k++) {
      float *to = vectors + (lines[i + k].number - first) * C;
      memcpy(to, some + k * C, (size_t)C * sizeof *to);
      if (c->o.normalize) normalize(to, C);
      free(lines[i + k].ids);
    }
  }
  for (i = 0; i < n; i++) {
    const float *at = vectors + i * C;
    if (c->o.json) {
      tfp_json_writer *w = json_begin(c);
      tfp_json_key(w, "embedding", -1);
      json_nest(w, &C, 1, 1, &at);
      json_end(c, w);
    } else {
      print_rows(c, at, C, C);
    }
  }
  fflush(stdout);
  free(vectors);
  free(some);
}
static void run_embed(cli *c) {
  const char *dir = c->o.words.at[0];
  tfp_model *m = load_model(c, dir, 0);
  tfp_tokenizer *tok = load_tokenizer(c, dir);
  embed_line lines[EMBED_LINES];
  char *line = NULL;
  size_t room = 0;
  int64_t bytes, number = 0, n = 0;
  while ((bytes = read_line(c, &line, &room)) >= 0) {
    embed_line *l = &lines[n++];
    l->number = number++;
    l->ids = encode(c, tok, line ? line : "", bytes, TFP_ADD_SPECIAL | TFP_PARSE_SPECIAL, &l->n);
    if (!l->n && m->config.bos >= 0) l->ids[l->n++] = m->config.bos;
    if (!l->n) die(c, 1, "embed: line %lld has no tokens", (long long)number);
    if (m->config.max_positions && l->n > m->config.max_positions)
      die(c, 1, "embed: line %lld has %lld tokens, and the model %lld positions", (long long)number,
          (long long)l->n, (long long)m->config.max_positions);
    if (n == EMBED_LINES) embed_lines(c, m, lines, n), n = 0;
  }
  embed_lines(c, m, lines, n);
  free(line);
}

/* ---- fill ------------------------------------------------------------------------------------ */

/* The text with every "<mask>" as the model spells its mask. */
static char *spell_masks(cli *c, const char *text, const char *mask) {
  const size_t most = strlen(text) / 6 * (strlen(mask) + 6) + strlen(text);
  char *out = (char *)take(c, (int64_t)most, 1), *to = out;
  while (*text) {
    if (strncmp(text, "<mask>", 6)) {
      *to++ = *text++;
      continue;
    }
    memcpy(to, mask, strlen(mask));
    to += strlen(mask), text += 6;
  }
  return out;
}
static void print_filled(cli *c, tfp_tokenizer *tok, const tfp_filled *f, int64_t n) {
  tfp_json_writer *w = NULL;
  int64_t i;
  for (i = 0; i < n; i++) {
    const int first = !i || f[i].position != f[i - 1].position;
    char *text = decode(c, tok, &f[i].id, 1, 0);
    if (!c->o.json) {
      if (first) printf("%smask at token %lld\n", i ? "\n" : "", (long long)f[i].position);
      printf("  %.4f  %6d  ", f[i].probability, (int)f[i].id);
      print_token(text);
      putchar('\n');
      free(text);
      continue;
    }
    if (first) {
      w = json_begin(c);
      json_int(w, "position", f[i].position);
      tfp_json_key(w, "predictions", -1);
      tfp_json_begin_array(w);
    }
    tfp_json_begin_object(w);
    json_int(w, "id", f[i].id);
    json_text(w, "token", text);
    json_real(w, "probability", f[i].probability);
    tfp_json_end_object(w);
    free(text);
    if (i + 1 < n && f[i + 1].position == f[i].position) continue;
    tfp_json_end_array(w);
    json_end(c, w);
  }
}
static void run_fill(cli *c) {
  const char *dir = c->o.words.at[0];
  tfp_model *m = tfp_model_load(c->ctx, dir, 0);
  tfp_tokenizer *tok;
  tfp_special_ids special;
  tfp_filled *filled;
  int32_t *ids;
  char *text;
  int64_t n, i, masks = 0, made, usable;
  check(c);
  tok = load_tokenizer(c, dir);
  special = tfp_tokenizer_specials(tok);
  if (special.mask < 0) die(c, 1, "fill: the tokenizer of '%s' has no mask token", dir);
  text = spell_masks(c, c->o.words.at[1], tfp_token_text(tok, special.mask));
  ids = encode(c, tok, text, (int64_t)strlen(text), TFP_ADD_SPECIAL | TFP_PARSE_SPECIAL, &n);
  for (i = 0; i < n; i++) masks += ids[i] == special.mask;
  if (!masks) die(c, 1, "fill: there is no <mask> in '%s'", c->o.words.at[1]);
  filled = (tfp_filled *)take(c, masks * c->o.top, sizeof *filled);
  usable = tfp_vocab_size(tok);
  made = tfp_fill(m, ids, n, special.mask, c->o.top, usable, filled, masks * c->o.top);
  check(c);
  print_filled(c, tok, filled, made);
}

/* ---- generate -------------------------------------------------------------------------------- */

typedef struct speaker {
  cli *c;
  tfp_tokenizer *tok; /* NULL: ids alone are printed */
  int started;
  int32_t start;       /* the decoder's start token */
  const int32_t *lead; /* goes in front of the first new token, so that an error comes alone */
  int64_t n_lead;
  char pending[8]; /* the first bytes of a character that is not complete */
  int n_pending;
} speaker;

/* Prints what is complete; a byte that can begin no character becomes U+FFFD. */
static void speak_pending(speaker *s, int at_end) {
  uint32_t cp;
  int used = 0;
  while (used < s->n_pending) {
    const int left = s->n_pending - used, size = tfp_utf8_decode(s->pending + used, left, &cp);
    const unsigned char lead = (unsigned char)s->pending[used];
    const int whole = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (!size && !at_end && left < whole && lead >= 0xc2 && lead < 0xf5) break;
    if (size)
      fwrite(s->pending + used, 1, (size_t)size, stdout);
    else
      fputs("\xef\xbf\xbd", stdout);
    used += size ? size : 1;
  }
  s->n_pending -= used;
  memmove(s->pending, s->pending + used, (size_t)s->n_pending);
}
static void speak(speaker *s, int32_t id) {
  const tfp_special_ids special = tfp_tokenizer_specials(s->tok);
  const char *bytes;
  int64_t n = 0, i;
  if (!s->tok) {
    printf("%s%d", s->started ? " " : "", (int)id);
    s->started = 1;
    return;
  }
  if (id == special.bos || id == special.eos || id == special.pad || id == special.cls ||
      id == special.sep || id == s->start)
    return;
  bytes = tfp_token_bytes(s->tok, id, &n);
  for (i = 0; bytes && i < n; i++) {
    s->pending[s->n_pending++] = bytes[i];
    speak_pending(s, 0);
  }
}
static int on_token(void *user, int32_t id) {
  speaker *s = (speaker *)user;
  if (s->c->o.json) return 0;
  for (; s->n_lead > 0; s->n_lead--) speak(s, *s->lead++);
  speak(s, id);
  fflush(stdout);
  return 0;
}

/* What generation_config.json says, and what the command line says over it. Draws must be asked for
 * here; then the file has a say in them. */
static tfp_gen_desc read_generation(cli *c, const char *dir, const tfp_model *m) {
  const options *o = &c->o;
  const int drawn = o->temperature == o->temperature || o->top_k >= 0 || o->top_p == o->top_p ||
                    o->min_p == o->min_p;
  tfp_gen_desc d;
  if (o->greedy && drawn)
    die(c, 2, "generate takes --greedy, or --temperature, --top-k, --top-p and --min-p, not both");
  tfp_gen_load(c->ctx, dir, &m->config, &d);
  check(c);
  d.greedy = !drawn || o->temperature == 0;
  if (o->greedy) d.beams = 1;
  d.temperature = either_real(o->temperature, d.temperature);
  d.top_k = either(o->top_k, d.top_k);
  d.top_p = either_real(o->top_p, d.top_p), d.min_p = either_real(o->min_p, d.min_p);
  d.seed = (uint64_t)o->seed;
  d.beams = either(o->beams, d.beams);
  if (o->length_penalty == o->length_penalty)
    d.length_penalty = o->length_penalty == 0 ? TFP_LENGTH_PENALTY_OFF : o->length_penalty;
  if (o->early_stopping)
    d.early_stopping = *o->early_stopping == 't'   ? TFP_STOP_WHEN_FULL
                       : *o->early_stopping == 'n' ? TFP_STOP_NEVER
                                                   : TFP_STOP_BY_SCORE;
  d.no_repeat_ngram = either(o->no_repeat_ngram, d.no_repeat_ngram);
  d.repetition_penalty = either_real(o->repetition_penalty, d.repetition_penalty);
  if (o->min_new >= 0) d.min_new = o->min_new, d.min_length = 0;
  if (o->max_new > 0) d.max_new = o->max_new;
  return d;
}
static int32_t *read_prompt(cli *c, const char *dir, tfp_model *m, tfp_tokenizer **tok,
                            int64_t *n) {
  int32_t *ids;
  *tok = NULL;
  if (c->o.prompt || has_tokenizer(c, dir)) {
    *tok = tfp_tokenizer_load(c->ctx, dir);
    if (!*tok && c->o.ids && tfp_error(c->ctx) == TFP_ERR_UNSUPPORTED) tfp_clear_error(c->ctx);
    check(c);
  }
  if (c->o.ids)
    ids = parse_ids(c, "--ids", c->o.ids, (int64_t)strlen(c->o.ids), n);
  else
    ids = encode(c, *tok, c->o.prompt, (int64_t)strlen(c->o.prompt),
                 TFP_ADD_SPECIAL | TFP_PARSE_SPECIAL, n);
  if (!*n && m->config.bos >= 0) ids[(*n)++] = m->config.bos;
  if (!*n)
    die(c, 1, "generate: the prompt is empty, and the model has no token that begins a text");
  return ids;
}
static void print_generated(cli *c, speaker *s, const int32_t *ids, int64_t n) {
  tfp_json_writer *w;
  char *text = NULL;
  if (!c->o.json) {
    speak_pending(s, 1);
    putchar('\n');
    return;
  }
  if (s->tok) text = decode(c, s->tok, ids, n, TFP_SKIP_SPECIAL);
  w = json_begin(c);
  json_ids(w, "ids", ids, n);
  json_text(w, "text", text);
  json_end(c, w);
  free(text);
}
static void run_generate(cli *c) {
  const char *dir = c->o.words.at[0];
  int64_t n, made, lead, most, usable;
  tfp_model *m;
  tfp_gen_desc d;
  speaker s;
  int32_t *prompt, *ids;
  int two;
  needs(c, c->o.prompt || c->o.ids, "--prompt or --ids");
  if (c->o.prompt && c->o.ids) die(c, 2, "generate takes --prompt or --ids, not both");
  m = tfp_model_load(c->ctx, dir, 0);
  check(c);
  memset(&s, 0, sizeof s);
  s.c = c, two = m->config.arch == TFP_SEQ2SEQ;
  d = read_generation(c, dir, m);
  prompt = read_prompt(c, dir, m, &s.tok, &n);
  s.start = two ? d.decoder_start.at[0] : -1;
  if (two && s.start < 0) s.start = m->config.bos > 0 ? m->config.bos : 0;
  lead = two ? 1 : n;
  most = d.max_new ? d.max_new : d.max_length > lead ? d.max_length - lead : 20;
  usable = tfp_vocab_size(s.tok);
  if (!d.greedy && usable < m->config.vocab_size) d.vocab = usable; /* dead rows are not drawn */
  d.on_token = on_token, d.user = &s;
  ids = (int32_t *)take(c, lead + most, sizeof *ids);
  if (two)
    ids[0] = s.start;
  else
    memcpy(ids, prompt, (size_t)n * sizeof *ids);
  s.lead = ids, s.n_lead = two && s.tok ? 0 : lead;
  made = tfp_generate(m, prompt, n, &d, ids + lead, most);
  check(c);
  print_generated(c, &s, ids, lead + made);
  tfp_gen_free(c->ctx, &d);
}

/* ---- what pretrain and eval share ------------------------------------------------------------ */

typedef struct task {
  tfp_tokenizer *tok;
  tfp_special_ids special;
  uint8_t *is_special; /* (V) */
  tfp_dataset *data;
  tfp_objective objective;
  tfp_doc_per doc_per;
  int64_t seq;
  int32_t decoder_start;
} task;

static const char *const objective_names[] = {"clm", "mlm", "span", "denoise"};

static void choose_objective(cli *c, task *t, tfp_arch arch, tfp_family family) {
  static const tfp_arch wants[] = {TFP_DECODER, TFP_ENCODER, TFP_SEQ2SEQ, TFP_SEQ2SEQ};
  t->objective = arch == TFP_ENCODER   ? TFP_MLM
                 : arch == TFP_DECODER ? TFP_CLM
                 : family == TFP_BART  ? TFP_DENOISE
                                       : TFP_SPAN;
  if (c->o.objective) t->objective = (tfp_objective)index_of(objective_names, 4, c->o.objective);
  if (wants[t->objective] != arch)
    die(c, 2, "--objective %s does not go with %s", c->o.objective, tfp_family_name(family));
}
static tfp_doc_per choose_doc_per(const char *name) {
  static const char *const names[] = {"file", "blank", "line"};
  return name ? (tfp_doc_per)index_of(names, 3, name) : TFP_DOC_PER_FILE;
}
static void load_data(cli *c, task *t, double val_fraction) {
  tfp_data_desc d;
  int i, several = t->doc_per != TFP_DOC_PER_FILE || c->o.data.n > 1;
  memset(&d, 0, sizeof d);
  for (i = 0; i < c->o.data.n; i++) {
    const size_t n = strlen(c->o.data.at[i]);
    several |= n >= 6 && !strcmp(c->o.data.at[i] + n - 6, ".jsonl");
  }
  d.paths = c->o.data.at, d.count = c->o.data.n, d.tokenizer = t->tok, d.doc_per = t->doc_per;
  d.val_fraction = val_fraction;
  d.append_end = several && t->objective == TFP_CLM; /* one text needs no token between texts */
  t->data = tfp_dataset_load(c->ctx, &d);
  check(c);
}
static tfp_loader *make_loader(cli *c, const task *t, int64_t rows_at_once) {
  tfp_loader_desc d;
  tfp_loader *loader;
  int32_t stop = -1;
  memset(&d, 0, sizeof d);
  if (t->objective == TFP_DENOISE && tfp_encode(t->tok, ".", 1, 0, &stop, 1) != 1) stop = -1;
  tfp_clear_error(c->ctx); /* characters without a full stop: a text is one sentence */
  d.data = t->data, d.objective = t->objective, d.T = t->seq, d.rows = rows_at_once,
  d.seed = (uint64_t)c->o.seed;
  d.special = t->special, d.decoder_start = t->decoder_start;
  d.mlm.mask_id = d.denoise.mask_id = t->special.mask;
  d.mlm.vocab = d.denoise.vocab = tfp_vocab_size(t->tok);
  d.mlm.special = t->is_special;
  d.span.sentinel0 = t->special.sentinel0, d.span.sentinel_step = t->special.sentinel_step,
  d.span.end_id = t->special.eos;
  d.denoise.stop_id = stop;
  loader = tfp_loader_create(c->ctx, &d);
  check(c);
  return loader;
}
/* Rows of a validation batch: about 2048 tokens, from the length alone, so that sums run alike. */
static int64_t eval_rows(int64_t seq) { return seq > 2048 ? 1 : 2048 / seq > 32 ? 32 : 2048 / seq; }

static void note_specials(cli *c, task *t) {
  int64_t i;
  t->special = tfp_tokenizer_specials(t->tok);
  t->is_special = (uint8_t *)take(c, tfp_vocab_size(t->tok), 1);
  for (i = 0; i < tfp_vocab_size(t->tok); i++)
    t->is_special[i] = (uint8_t)tfp_token_is_special(t->tok, (int32_t)i);
}

/* ---- pretrain -------------------------------------------------------------------------------- */

enum { PAIRS = 32, PAIR_BYTES = 64, CURVE = 24 };
typedef struct run {
  cli *c;
  task t;
  tfp_config config;
  tfp_model *model;
  tfp_trainer *trainer;
  tfp_train_desc train;
  tfp_loader *loader, *valid;
  char state[1024];             /* path of trainer.safetensors */
  const char *pairs[2 * PAIRS]; /* arguments that decide about the numbers */
  char values[PAIRS][PAIR_BYTES];
  int64_t n_pairs;
  int64_t begin, end, log_every;
  tfp_step_info first, last, curve[CURVE];
  int64_t n_curve, curve_every;
  int64_t since_steps, since_tokens; /* since the line before */
  double since_seconds, train_seconds, val_loss, shown;
  int64_t val_step;
} run;

/* A file of any name for tfp_config_load, which asks for NAME/config.json. */
static int config_open(void *user, const char *path, int for_writing, void **file) {
  (void)path, (void)for_writing;
  *file = fopen((const char *)user, "rb");
  return *file ? 0 : errno;
}
static int config_close(void *user, void *file) {
  (void)user;
  return fclose((FILE *)file) ? errno : 0;
}
static int64_t config_read(void *user, void *file, int64_t offset, void *buffer, int64_t bytes) {
  (void)user;
  if (fseek((FILE *)file, (long)offset, SEEK_SET)) return -errno;
  return (int64_t)fread(buffer, 1, (size_t)bytes, (FILE *)file);
}
static int config_size(void *user, void *file, int64_t *bytes) {
  (void)user;
  if (fseek((FILE *)file, 0, SEEK_END)) return errno;
  *bytes = (int64_t)ftell((FILE *)file);
  return 0;
}
static void read_config(cli *c, const char *path, tfp_config *config) {
  tfp_desc d;
  tfp_ctx *ctx;
  char line[1024] = "", *tail;
  memset(&d, 0, sizeof d);
  d.threads = 1;
  d.io.user = (void *)(uintptr_t)path;
  d.io.open = config_open, d.io.close = config_close, d.io.read_at = config_read,
  d.io.size = config_size;
  ctx = tfp_create(&d);
  if (tfp_config_load(ctx, path, config))
    snprintf(line, sizeof line, "%s", ctx ? tfp_error_message(ctx) : "no memory");
  tfp_destroy(ctx);
  tail = strstr(line, "/config.json'"); /* it was asked for a directory's file, and got this one */
  if (tail) memmove(tail, tail + 12, strlen(tail + 12) + 1);
  if (line[0]) die(c, 1, "--config: %s", line);
}

/* Which model: a preset or a file, then the sizes that were given. */
static void choose_family(cli *c, tfp_config *k) {
  static const char *const archs[] = {"encoder", "decoder", "seq2seq"};
  static const char *const families[] = {"bert", "gpt2", "t5"};
  const int arch = c->o.arch ? index_of(archs, 3, c->o.arch) : -1;
  const char *family = c->o.family;
  char name[32];
  if (c->o.preset && c->o.config) die(c, 2, "pretrain takes --preset or --config, not both");
  if (c->o.preset) {
    if (!tfp_config_preset(c->o.preset, k))
      die(c, 2, "--preset '%s' is unknown; see tfpre pretrain -h", c->o.preset);
  } else if (c->o.config) {
    read_config(c, c->o.config, k);
  } else {
    needs(c, arch >= 0 || family, "--arch");
    if (!family)
      family = arch == TFP_SEQ2SEQ && c->o.objective && !strcmp(c->o.objective, "denoise")
                   ? "bart"
                   : families[arch];
    snprintf(name, sizeof name, "%s-tiny", family);
    tfp_config_preset(name, k);
    k->hidden = 128, k->heads = 4, k->head_dim = 0, k->ffn = 0, k->max_positions = 0;
    if (k->encoder_layers) k->encoder_layers = 4;
    if (k->decoder_layers) k->decoder_layers = 4;
  }
  family = tfp_family_name(k->family);
  if (c->o.family && strcmp(c->o.family, family))
    die(c, 2, "--family is %s, and the model's is %s", c->o.family, family);
  if (arch >= 0 && arch != (int)k->arch)
    die(c, 2, "--arch is %s, and %s has another", c->o.arch, family);
  k->head = TFP_HEAD_LM;
}
static void choose_sizes(const cli *c, tfp_config *k) {
  if (c->o.hidden > 0 || c->o.heads > 0) k->head_dim = 0;
  if (c->o.hidden > 0) k->hidden = c->o.hidden, k->ffn = 0;
  if (c->o.heads > 0) k->heads = c->o.heads;
  if (c->o.head_dim > 0) k->head_dim = c->o.head_dim;
  if (c->o.ffn > 0) k->ffn = c->o.ffn;
  if (c->o.layers > 0 && k->encoder_layers) k->encoder_layers = c->o.layers;
  if (c->o.layers > 0 && k->decoder_layers) k->decoder_layers = c->o.layers;
  if (c->o.dropout == c->o.dropout) k->dropout = k->attention_dropout = c->o.dropout;
}
/* The vocabulary, and the ids that play a part, are the tokenizer's. */
static void fit_to_tokenizer(tfp_config *k, const task *t) {
  k->vocab_size = tfp_vocab_size(t->tok);
  k->bos = k->family == TFP_T5 ? -1 : t->special.bos;
  k->eos = t->special.eos, k->pad = t->special.pad;
  if (k->arch == TFP_SEQ2SEQ) k->decoder_start = k->family == TFP_T5 ? k->pad : k->eos;
  if (k->family == TFP_ROBERTA) k->position_offset = (k->pad >= 0 ? k->pad : 0) + 1;
  if (k->position == TFP_POS_LEARNED && k->max_positions < t->seq) k->max_positions = t->seq;
}
static void make_tokenizer(cli *c, task *t, tfp_family family) {
  const char *name = c->o.tokenizer ? c->o.tokenizer : "bytes";
  if (!strcmp(name, "bytes"))
    t->tok = tfp_tokenizer_bytes(c->ctx, style_of(family));
  else if (!strcmp(name, "chars"))
    t->tok = tfp_tokenizer_chars(c->ctx, c->o.data.at, c->o.data.n,
                                 family == TFP_GPT2 ? TFP_SPECIALS_NONE : style_of(family));
  else
    t->tok = tfp_tokenizer_load(c->ctx, name);
  check(c);
  note_specials(c, t);
}

static void pair(run *r, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void pair(run *r, const char *name, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  vsnprintf(r->values[r->n_pairs], PAIR_BYTES, format, ap);
  va_end(ap);
  r->pairs[2 * r->n_pairs] = name;
  r->pairs[2 * r->n_pairs + 1] = r->values[r->n_pairs];
  r->n_pairs++;
}
static void pair_real(run *r, const char *name, double x) {
  char text[TFP_NUMBER_BYTES];
  tfp_format_double(text, x);
  pair(r, name, "%s", text);
}
/* What may not change between saving and resuming, under the names of the options. */
static void note_arguments(run *r) {
  static const char *const schedules[] = {"cosine", "linear", "constant"};
  const options *o = &r->c->o;
  const tfp_config *k = &r->config;
  const tfp_train_desc *d = &r->train;
  char block[512];
  pair(r, "family", "%s", tfp_family_name(k->family));
  pair(r, "objective", "%s", objective_names[r->t.objective]);
  pair(r, "layers", "%lld", (long long)(k->encoder_layers ? k->encoder_layers : k->decoder_layers));
  pair(r, "heads", "%lld", (long long)k->heads);
  pair(r, "hidden", "%lld", (long long)k->hidden);
  pair(r, "head-dim", "%lld", (long long)k->head_dim);
  pair(r, "ffn", "%lld", (long long)k->ffn);
  pair(r, "tokenizer", "%016llx", (unsigned long long)tfp_tokenizer_hash(r->t.tok));
  pair(r, "data", "%016llx", (unsigned long long)tfp_dataset_hash(r->t.data));
  pair(r, "doc-per", "%s", o->doc_per ? o->doc_per : "file");
  pair_real(r, "val-fraction", o->val_fraction);
  pair(r, "seq", "%lld", (long long)o->seq);
  pair(r, "batch", "%lld", (long long)o->batch);
  pair(r, "accum", "%lld", (long long)o->accum);
  pair_real(r, "lr", d->lr);
  pair(r, "schedule", "%s", schedules[d->schedule]);
  pair(r, "warmup", "%lld", (long long)d->warmup);
  if (d->schedule != TFP_CONSTANT) { /* a constant rate knows no end */
    pair(r, "steps", "%lld", (long long)d->steps);
    pair_real(r, "min-lr", d->min_lr);
  }
  pair_real(r, "beta1", o->beta1);
  pair_real(r, "beta2", o->beta2);
  pair_real(r, "weight-decay", o->weight_decay);
  pair_real(r, "clip", o->clip);
  pair_real(r, "dropout", k->dropout);
  pair(r, "seed", "%lld", (long long)o->seed);
  snprintf(
      block, sizeof block,
      "%d%d%d%d%d %.17g %d%d%d%d%d %d %d %lld %lld %.17g %d%d%d%d%d %.17g %lld %lld %.17g %.17g",
      k->rms_norm, k->norm_first, k->embedding_norm, k->final_norm, k->residual_after_norm,
      k->norm_eps, (int)k->activation, k->gated, k->biases, k->unscaled_attention,
      k->scale_by_layer, (int)k->position, k->position_offset, (long long)k->buckets,
      (long long)k->max_distance, k->rotary_base, k->tied, k->transform, k->output_bias,
      k->scale_logits, k->scale_embedding, k->init_std, (long long)k->max_positions,
      (long long)k->decoder_layers, k->attention_dropout, k->activation_dropout);
  pair(r, o->config ? "config" : "preset", "%016llx",
       (unsigned long long)tfp_hash(0, block, (int64_t)strlen(block)));
}

static void set_up_run(run *r) {
  cli *c = r->c;
  options *o = &c->o;
  tfp_train_desc *d = &r->train;
  choose_family(c, &r->config);
  choose_sizes(c, &r->config);
  choose_objective(c, &r->t, r->config.arch, r->config.family);
  r->t.doc_per = choose_doc_per(o->doc_per), r->t.seq = o->seq;
  make_tokenizer(c, &r->t, r->config.family);
  fit_to_tokenizer(&r->config, &r->t);
  tfp_config_check(c->ctx, &r->config);
  check(c);
  r->t.decoder_start = r->config.decoder_start;
  load_data(c, &r->t, o->val_fraction);
  r->loader = make_loader(c, &r->t, o->batch);
  r->valid = make_loader(c, &r->t, eval_rows(o->seq));
  r->model = tfp_model_create(c->ctx, &r->config, 1);
  check(c);
  d->lr = o->lr, d->min_lr = either_real(o->min_lr, o->lr / 10);
  d->warmup = either(o->warmup, o->steps / 10 < 100 ? o->steps / 10 : 100), d->steps = o->steps;
  d->schedule = !o->schedule || !strcmp(o->schedule, "cosine") ? TFP_COSINE
                : !strcmp(o->schedule, "linear")               ? TFP_LINEAR
                                                               : TFP_CONSTANT;
  d->adamw.beta1 = o->beta1, d->adamw.beta2 = o->beta2, d->adamw.weight_decay = o->weight_decay,
  d->adamw.clip = o->clip;
  d->rows = o->batch, d->accumulate = o->accum, d->source = tfp_loader_source,
  d->source_user = r->loader;
  r->trainer = tfp_trainer_create(r->model, d);
  check(c);
  note_arguments(r);
}
/* The state is read before anything is written, so that a refusal leaves the directory as it was.
 */
static void open_directory(run *r) {
  cli *c = r->c;
  if (c->o.resume && tfp_file_exists(c->ctx, r->state))
    tfp_trainer_load(r->trainer, r->state, r->pairs, r->n_pairs);
  check(c);
  r->begin = tfp_trainer_step(r->trainer);
  r->end = c->o.stop_at > 0 ? c->o.stop_at : c->o.steps;
  tfp_make_dir(c->ctx, c->o.out);
  tfp_config_save(c->ctx, &r->config, c->o.out);
  tfp_tokenizer_save(r->t.tok, c->o.out, c->o.seq);
  check(c);
}

static void clock_text(char *out, size_t bytes, double seconds) {
  const int64_t s = (int64_t)(seconds + 0.5);
  if (s < 3600)
    snprintf(out, bytes, "%lld:%02lld", (long long)(s / 60), (long long)(s % 60));
  else
    snprintf(out, bytes, "%lld:%02lld:%02lld", (long long)(s / 3600), (long long)(s / 60 % 60),
             (long long)(s % 60));
}
/* A step for the reader: JSON, a plain line, or the line of a terminal written again. */
static void report_step(run *r, const tfp_step_info *i, int logged) {
  cli *c = r->c;
  const double seconds = r->since_seconds,
               rate = seconds > 0 ? (double)r->since_tokens / seconds : 0;
  const int64_t done = i->step - r->begin;
  char left[32];
  clock_text(left, sizeof left, r->train_seconds / (double)done * (double)(r->end - i->step));
  if (c->progress && (logged || tfp_seconds() - r->shown > 0.1)) {
    r->shown = tfp_seconds();
    fprintf(c->progress, "\rstep %lld/%lld  loss %.4f  %.0f tokens/s  %s left\033[K",
            (long long)i->step, (long long)r->end, i->loss, rate, left);
    fflush(c->progress);
    c->line_open = 1;
  }
  if (!logged) return;
  if (c->o.json) {
    tfp_json_writer *w = json_begin(c);
    json_int(w, "step", i->step);
    json_real(w, "loss", i->loss);
    json_real(w, "lr", i->lr);
    json_real(w, "grad_norm", i->grad_norm);
    json_real(w, "ms", seconds * 1e3 / (double)r->since_steps);
    json_real(w, "tokens_per_s", rate);
    json_end(c, w);
  } else if (!c->progress) {
    printf("step %lld/%lld  loss %.4f  lr %.3g  norm %.3g  %.1f ms  %.0f tokens/s  %s left\n",
           (long long)i->step, (long long)r->end, i->loss, i->lr, i->grad_norm,
           seconds * 1e3 / (double)r->since_steps, rate, left);
    fflush(stdout);
  }
  r->since_steps = r->since_tokens = 0, r->since_seconds = 0;
}
static void validate(run *r) {
  cli *c = r->c;
  const int64_t step = tfp_trainer_step(r->trainer);
  if (r->val_step == step) return;
  r->val_loss = tfp_eval_loss(r->model, r->valid, TFP_VALIDATION, 0, NULL);
  check(c);
  r->val_step = step;
  if (r->val_loss != r->val_loss && !tfp_dataset_tokens(r->t.data, TFP_VALIDATION)) return;
  if (c->o.json) {
    tfp_json_writer *w = json_begin(c);
    json_int(w, "step", step);
    json_real(w, "val_loss", r->val_loss);
    json_end(c, w);
  } else {
    progress_end(c);
    printf("step %lld  val_loss %.6f\n", (long long)step, r->val_loss);
    fflush(stdout);
  }
}
static void save(run *r) {
  tfp_trainer_save(r->trainer, r->state, r->pairs, r->n_pairs);
  tfp_model_save(r->model, r->c->o.out);
  check(r->c);
}
/* Keeps an evenly spread part of the steps for the card. */
static void note_curve(run *r, const tfp_step_info *i) {
  int64_t k;
  if ((i->step - r->begin - 1) % r->curve_every) return;
  if (r->n_curve == CURVE) {
    for (k = 0; 2 * k < CURVE; k++) r->curve[k] = r->curve[2 * k];
    r->n_curve = CURVE / 2;
    r->curve_every *= 2;
    if ((i->step - r->begin - 1) % r->curve_every) return;
  }
  r->curve[r->n_curve++] = *i;
}
static void train(run *r) {
  cli *c = r->c;
  const options *o = &c->o;
  r->log_every = either(o->log_every, o->steps / 100 > 10 ? o->steps / 100 : 10);
  r->curve_every = 1;
  while (tfp_trainer_step(r->trainer) < r->end) {
    tfp_step_info i;
    int logged;
    if (tfp_train_step(r->trainer, &i)) check(c);
    if (i.step == r->begin + 1) r->first = i;
    r->last = i;
    r->train_seconds += i.seconds, r->since_seconds += i.seconds;
    r->since_steps++, r->since_tokens += i.tokens;
    note_curve(r, &i);
    logged = i.step % r->log_every == 0 || i.step == r->end || i.step == r->begin + 1;
    report_step(r, &i, logged);
    if (o->eval_every > 0 && i.step % o->eval_every == 0) validate(r);
    if (o->save_every > 0 && i.step % o->save_every == 0 && i.step < r->end) save(r);
  }
  validate(r);
  save(r);
}
static void write_card(run *r) {
  cli *c = r->c;
  static const char *const goals[] = {"causal language modelling", "masked language modelling",
                                      "span corruption", "denoising"};
  char command_line[2048] = "", data[1024] = "", machine[96];
  tfp_card card;
  int i;
  if (r->last.step <= r->begin) return; /* nothing was done: the card of the run before stays */
  for (i = 0; i < c->argc; i++) {
    const char *quote = c->argv[i][strcspn(c->argv[i], " \t\n\"'$*?&;|<>()\\")] ? "'" : "";
    const size_t n = strlen(command_line);
    snprintf(command_line + n, sizeof command_line - n, "%s%s%s%s", i ? " " : "", quote, c->argv[i],
             quote);
  }
  for (i = 0; i < c->o.data.n; i++) {
    const size_t n = strlen(data);
    snprintf(data + n, sizeof data - n, "%s%s", i ? ", " : "", c->o.data.at[i]);
  }
  snprintf(machine, sizeof machine, "%d threads, %s", tfp_threads(c->ctx), tfp_level_name(c->ctx));
  memset(&card, 0, sizeof card);
  card.objective = goals[r->t.objective], card.data = data, card.command = command_line,
  card.machine = machine;
  card.tokenizer = tfp_tokenizer_name(r->t.tok), card.train = &r->train;
  card.seed = (uint64_t)c->o.seed;
  card.parameters = tfp_model_parameters(r->model), card.steps = r->last.step,
  card.tokens_per_step = r->last.tokens;
  card.train_tokens = tfp_dataset_tokens(r->t.data, TFP_TRAIN);
  card.val_tokens = tfp_dataset_tokens(r->t.data, TFP_VALIDATION);
  card.lr = r->train.lr, card.weight_decay = c->o.weight_decay, card.first_loss = r->first.loss,
  card.last_loss = r->last.loss;
  card.val_loss = r->val_loss, card.seconds = r->train_seconds, card.curve = r->curve,
  card.curve_points = r->n_curve;
  tfp_card_save(c->ctx, &r->config, &card, c->o.out);
  check(c);
}
static void report_end(run *r) {
  cli *c = r->c;
  const double seconds = tfp_seconds() - c->began;
  if (c->o.json) {
    tfp_json_writer *w = json_begin(c);
    tfp_json_key(w, "done", -1);
    tfp_json_put_bool(w, 1);
    json_int(w, "steps", tfp_trainer_step(r->trainer));
    json_real(w, "val_loss", r->val_loss);
    json_real(w, "train_seconds", r->train_seconds);
    json_real(w, "seconds", seconds);
    json_int(w, "peak_bytes", tfp_memory(c->ctx).peak);
    json_end(c, w);
  } else {
    printf("%lld steps in %.1f s of %.1f s, at most %.1f MB; the model is in %s\n",
           (long long)tfp_trainer_step(r->trainer), r->train_seconds, seconds,
           (double)tfp_memory(c->ctx).peak / 1e6, c->o.out);
  }
}
static void run_pretrain(cli *c) {
  run r;
  memset(&r, 0, sizeof r);
  r.c = c, r.val_loss = NAN, r.val_step = -1;
  needs(c, c->o.data.n > 0, "--data FILES");
  needs(c, c->o.out != NULL, "--out DIR");
  if (c->o.stop_at > c->o.steps)
    die(c, 2, "--stop-at %lld lies behind --steps %lld", (long long)c->o.stop_at,
        (long long)c->o.steps);
  path_join(c, r.state, sizeof r.state, c->o.out, "trainer.safetensors");
  if (!c->o.resume && tfp_file_exists(c->ctx, r.state))
    die(c, 1, "'%s' holds the state of a run: give --resume to go on, or another --out", c->o.out);
  set_up_run(&r);
  open_directory(&r);
  if (!c->o.json)
    printf("%s, %lld parameters, %s on %lld tokens (%lld more for validation), %d threads, %s\n",
           tfp_family_name(r.config.family), (long long)tfp_model_parameters(r.model),
           objective_names[r.t.objective], (long long)tfp_dataset_tokens(r.t.data, TFP_TRAIN),
           (long long)tfp_dataset_tokens(r.t.data, TFP_VALIDATION), tfp_threads(c->ctx),
           tfp_level_name(c->ctx));
  if (r.begin && !c->o.json) printf("going on from step %lld\n", (long long)r.begin);
  train(&r);
  write_card(&r);
  progress_end(c);
  report_end(&r);
}

/* ---- eval ------------------------------------------------------------------------------------ */

/* The length of training: what the tokenizer's file calls the longest text, else the positions. */
static int64_t trained_length(cli *c, const char *dir, const tfp_config *k) {
  char path[1024];
  int64_t length = k->max_positions ? k->max_positions : 512;
  path_join(c, path, sizeof path, dir, "tokenizer_config.json");
  if (tfp_file_exists(c->ctx, path)) {
    tfp_json *root = tfp_json_parse_file(c->ctx, path);
    const double longest = root ? tfp_json_get_number(root, "model_max_length", 0) : 0;
    if (longest >= 4 && longest <= 1 << 20 &&
        (!k->max_positions || longest <= (double)k->max_positions))
      length = (int64_t)longest;
    tfp_json_free(root);
    check(c);
  }
  return length;
}
/* The share that pretrain kept for validation, if this is the data that DIR was trained on; else 1.
 */
static double trained_fraction(cli *c, const char *dir, task *t) {
  char path[1024], hash[24];
  const char *data, *fraction, *doc_per;
  tfp_safetensors *st;
  double x = 1;
  path_join(c, path, sizeof path, dir, "trainer.safetensors");
  if (!tfp_file_exists(c->ctx, path)) return 1;
  st = tfp_safetensors_open(c->ctx, path);
  check(c);
  data = tfp_safetensors_metadata(st, "arg.data"),
  fraction = tfp_safetensors_metadata(st, "arg.val-fraction");
  doc_per = tfp_safetensors_metadata(st, "arg.doc-per");
  if (data && fraction && doc_per) {
    const tfp_doc_per given = t->doc_per;
    if (!c->o.doc_per) t->doc_per = choose_doc_per(doc_per);
    load_data(c, t, 0);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)tfp_dataset_hash(t->data));
    if (strcmp(hash, data) || !tfp_parse_number(fraction, (int64_t)strlen(fraction), &x) ||
        !(x > 0))
      x = 1;
    if (x == 1) t->doc_per = given;
    tfp_dataset_free(t->data);
  }
  tfp_safetensors_close(st);
  return x;
}
static void run_eval(cli *c) {
  const char *dir = c->o.words.at[0];
  task t;
  tfp_model *m;
  double share, loss;
  int64_t scored = 0;
  needs(c, c->o.data.n > 0, "--data FILE");
  memset(&t, 0, sizeof t);
  m = tfp_model_load(c->ctx, dir, 0);
  check(c);
  if (m->config.head != TFP_HEAD_LM)
    die(c, 1, "eval: the head of '%s' is not for language modelling", dir);
  t.tok = load_tokenizer(c, dir);
  note_specials(c, &t);
  choose_objective(c, &t, m->config.arch, m->config.family);
  t.doc_per = choose_doc_per(c->o.doc_per);
  t.decoder_start = m->config.decoder_start;
  t.seq = either(c->o.seq, trained_length(c, dir, &m->config));
  share = c->o.val_fraction == c->o.val_fraction ? c->o.val_fraction : trained_fraction(c, dir, &t);
  load_data(c, &t, share < 1 ? share : 0);
  loss = tfp_eval_loss(m, make_loader(c, &t, eval_rows(t.seq)),
                       share < 1 ? TFP_VALIDATION : TFP_TRAIN, 0, &scored);
  check(c);
  if (!scored) die(c, 1, "eval: nothing is scored in a share of %g of the data", share);
  if (c->o.json) {
    tfp_json_writer *w = json_begin(c);
    json_real(w, "loss", loss);
    json_real(w, "perplexity", exp(loss));
    json_int(w, "scored", scored);
    json_text(w, "objective", objective_names[t.objective]);
    json_int(w, "seq", t.seq);
    json_real(w, "val_fraction", share);
    json_end(c, w);
  } else {
    printf(
        "loss %.6f  perplexity %.4f  (%s, %lld tokens scored, windows of %lld, %s of the data)\n",
        loss, exp(loss), objective_names[t.objective], (long long)scored, (long long)t.seq,
        share < 1 ? "the validation part" : "all");
  }
}

/* ---- bench ----------------------------------------------------------------------------------- */

/* The peak of arithmetic: chains of multiply-adds in registers, twelve of them, because a core has
 * two units of latency four and some more to be safe. */
#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
enum { CHAINS = 12 };

typedef float wide4 __attribute__((vector_size(16)));
static float multiply_plain(int64_t rounds) {
  const wide4 m = {0.999f, 0.999f, 0.999f, 0.999f}, s = {0.5f, 0.5f, 0.5f, 0.5f};
  wide4 sum;
  int64_t r;
#define START(i) wide4 a##i = s * (float)i;
#define GO(i) a##i = a##i * m + s;
#define ADD(i) sum += a##i;
  TWELVE(START)
  for (r = 0; r < rounds; r++) {
    TWELVE(GO)
  }
  sum = s;
  TWELVE(ADD)
#undef START
#undef GO
#undef ADD
  return sum[0] + sum[1] + sum[2] + sum[3];
}
#if defined(__x86_64__) || defined(__i386__)
__attribute__((target("avx2,fma"))) static float multiply_avx2(int64_t rounds) {
  const __m256 m = _mm256_set1_ps(0.999f), s = _mm256_set1_ps(0.5f);
  __m256 sum;
  float out[8];
  int64_t r;
#define START(i) __m256 a##i = _mm256_set1_ps((float)i);
#define GO(i) a##i = _mm256_fmadd_ps(a##i, m, s);
#define ADD(i) sum = _mm256_add_ps(sum, a##i);
  TWELVE(START)
  for (r = 0; r < rounds; r++) {
    TWELVE(GO)
  }
  sum = s;
  TWELVE(ADD)
#undef START
#undef GO
#undef ADD
  _mm256_storeu_ps(out, sum);
  return out[0];
}
__attribute__((target("avx512f"))) static float multiply_avx512(int64_t rounds) {
  const __m512 m = _mm512_set1_ps(0.999f), s = _mm512_set1_ps(0.5f);
  __m512 sum;
  float out[16];
  int64_t r;
#define START(i) __m512 a##i = _mm512_set1_ps((float)i);
#define GO(i) a##i = _mm512_fmadd_ps(a##i, m, s);
#define ADD(i) sum = _mm512_add_ps(sum, a##i);
  TWELVE(START)
  for (r = 0; r < rounds; r++) {
    TWELVE(GO)
  }
  sum = s;
  TWELVE(ADD)
#undef START
#undef GO
#undef ADD
  _mm512_storeu_ps(out, sum);
  return out[0];
}
#endif

typedef struct worker {
  pthread_t thread;
  float (*multiply)(int64_t rounds); /* or NULL: read */
  int64_t n;                         /* rounds, or numbers to read */
  const float *from;
  double start, end;
  float result;
} worker;

static float read_all(const float *x, int64_t n) {
  wide4 a = {0, 0, 0, 0}, b = a, d = a, e = a;
  int64_t i;
  for (i = 0; i + 16 <= n; i += 16) {
    a += *(const wide4 *)(const void *)(x + i);
    b += *(const wide4 *)(const void *)(x + i + 4);
    d += *(const wide4 *)(const void *)(x + i + 8);
    e += *(const wide4 *)(const void *)(x + i + 12);
  }
  a += b + d + e;
  return a[0] + a[1] + a[2] + a[3];
}
static void *work(void *user) {
  worker *w = (worker *)user;
  w->start = tfp_seconds();
  w->result = w->multiply ? w->multiply(w->n) : read_all(w->from, w->n);
  w->end = tfp_seconds();
  return NULL;
}
/* Seconds from the first start to the last end. */
static double run_workers(cli *c, worker *w, int n) {
  double start, end;
  int i;
  for (i = 1; i < n; i++)
    if (pthread_create(&w[i].thread, NULL, work, &w[i]))
      die(c, 1, "bench: no thread number %d", i + 1);
  work(&w[0]);
  start = w[0].start, end = w[0].end;
  for (i = 1; i < n; i++) {
    pthread_join(w[i].thread, NULL);
    if (w[i].start < start) start = w[i].start;
    if (w[i].end > end) end = w[i].end;
  }
  return end - start;
}
/* Float32 GFLOP/s of all threads at the level of the context: the best of some runs. */
static double peak_gflops(cli *c) {
  const int threads = tfp_threads(c->ctx);
  worker *w = (worker *)take(c, threads, sizeof *w);
  float (*multiply)(int64_t) = multiply_plain;
  int width = 4, i, k;
  double best = 0;
#if defined(__x86_64__) || defined(__i386__)
  if (!strcmp(tfp_level_name(c->ctx), "avx2")) multiply = multiply_avx2, width = 8;
  if (!strcmp(tfp_level_name(c->ctx), "avx512")) multiply = multiply_avx512, width = 16;
#endif
  for (k = 0; k < 10; k++) {
    const int64_t rounds = k ? 3000000 : 300000;
    double rate;
    for (i = 0; i < threads; i++) w[i].multiply = multiply, w[i].n = rounds;
    rate = 2.0 * CHAINS * width * (double)rounds * threads / run_workers(c, w, threads) * 1e-9;
    if (rate > best) best = rate;
  }
  free(w);
  return best;
}
/* GB/s of reading memory that no cache holds. */
static double peak_bandwidth(cli *c) {
  const int threads = tfp_threads(c->ctx);
  const int64_t numbers = ((int64_t)64 << 20) / threads / 16 * 16;
  worker *w = (worker *)take(c, threads, sizeof *w);
  float *block = (float *)take(c, numbers * threads + 16, sizeof *block), *at = block;
  double best = 0;
  int i, k;
  while ((uintptr_t)at % 64) at++;
  for (i = 0; i < threads; i++) w[i].from = at + i * numbers, w[i].n = numbers;
  memset(at, 1, (size_t)(numbers * threads) * sizeof *at);
  for (k = 0; k < 5; k++) {
    const double rate =
        (double)(numbers * threads) * sizeof(float) / run_workers(c, w, threads) * 1e-9;
    if (rate > best) best = rate;
  }
  free(block);
  free(w);
  return best;
}

typedef struct timing {
  double *ms;
  int64_t n, most;
  double median, least;
} timing;

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}
/* Is one more measurement wanted? Given, or two seconds and at least five. */
static int more_wanted(const cli *c, timing *t, double since) {
  if (t->n >= t->most) return 0;
  return c->o.reps > 0 || t->n < 5 || tfp_seconds() - since < 2;
}
static timing timing_of(cli *c) {
  timing t;
  memset(&t, 0, sizeof t);
  t.most = either(c->o.reps, 100000);
  t.ms = (double *)take(c, t.most, sizeof *t.ms);
  return t;
}
static void timing_end(timing *t) {
  qsort(t->ms, (size_t)t->n, sizeof *t->ms, by_size);
  t->median = t->n % 2 ? t->ms[t->n / 2] : (t->ms[t->n / 2 - 1] + t->ms[t->n / 2]) / 2;
  t->least = t->ms[0];
  free(t->ms);
}
/* One result: a negative number is one that makes no sense here. */
static void report_bench(cli *c, const char *what, const timing *t, double gflops, double peak,
                         double tokens_per_s, double gbytes) {
  if (!c->o.json) {
    printf("%s, %d threads, %s: ", what, tfp_threads(c->ctx), tfp_level_name(c->ctx));
    if (t) printf("%.3f ms (least %.3f), ", t->median, t->least);
    printf("%.1f GFLOP/s", gflops);
    if (t) printf(", %.0f %% of %.1f", 100 * gflops / peak, peak);
    if (tokens_per_s >= 0) printf(", %.0f tokens/s", tokens_per_s);
    if (gbytes >= 0) printf(", reads %.1f GB/s", gbytes);
    printf("\n");
  } else {
    tfp_json_writer *w = json_begin(c);
    json_text(w, "what", what);
    json_real(w, "ms_median", t ? t->median : (double)NAN);
    json_real(w, "ms_min", t ? t->least : (double)NAN);
    json_real(w, "gflops", gflops);
    json_real(w, "share_of_peak", gflops / peak);
    json_real(w, "tokens_per_s", tokens_per_s >= 0 ? tokens_per_s : (double)NAN);
    json_int(w, "peak_bytes", tfp_memory(c->ctx).peak);
    json_int(w, "threads", tfp_threads(c->ctx));
    json_text(w, "level", tfp_level_name(c->ctx));
    json_real(w, "peak_gflops", peak);
    if (gbytes >= 0) json_real(w, "gbytes_per_s", gbytes);
    json_end(c, w);
  }
}
static void run_peak(cli *c) {
  const double peak = peak_gflops(c);
  report_bench(c, "peak", NULL, peak, peak, -1, peak_bandwidth(c));
}

static void run_gemm(cli *c) {
  const options *o = &c->o;
  const char *trans = o->trans ? o->trans : "nn";
  const int turn_a = trans[0] == 't', turn_b = trans[1] == 't';
  int64_t a_shape[2], b_shape[2];
  tfp_params *set = tfp_params_create(c->ctx);
  tfp_param *a, *b;
  timing t = timing_of(c);
  double before, after, since;
  int k;
  needs(c, o->m > 0 && o->k > 0 && o->n > 0, "--m, --k and --n");
  a_shape[turn_a] = o->m, a_shape[1 - turn_a] = o->k;
  b_shape[turn_b] = o->k, b_shape[1 - turn_b] = o->n;
  a = tfp_param_add(set, "a", 2, a_shape, TFP_INIT_NORMAL, 1);
  b = tfp_param_add(set, "b", 2, b_shape, TFP_INIT_NORMAL, 1);
  tfp_params_finish(set, 0);
  check(c);
  before = peak_gflops(c);
  tfp_no_grad_begin(c->ctx);
  for (k = -2, since = tfp_seconds(); k < 0 || more_wanted(c, &t, since); k++) {
    tfp_tensor *x, *y;
    double start;
    tfp_step_reset(c->ctx);
    x = turn_a ? tfp_transpose(c->ctx, a->tensor, 0, 1) : a->tensor;
    y = turn_b ? tfp_transpose(c->ctx, b->tensor, 0, 1) : b->tensor;
    start = tfp_seconds();
    tfp_matmul(c->ctx, x, y);
    if (k >= 0) t.ms[t.n++] = (tfp_seconds() - start) * 1e3;
    check(c);
  }
  tfp_no_grad_end(c->ctx);
  timing_end(&t);
  after = peak_gflops(c);
  report_bench(c, "gemm", &t, 2e-6 * (double)o->m * (double)o->n * (double)o->k / t.median,
               before > after ? before : after, -1, -1);
}

/* Floating-point operations of a training step. Each number of a matrix is used once for each token
 * that passes it, in the forward, for the input's gradient and for its own: 6 flops. Attention is
 * two products of T x S numbers a channel forward and four backward: 12 T S H D flops a layer and
 * row, half of it where the mask is causal. The output projection (and the layer in front of it, in
 * BERT) counts for the labelled positions alone. Norms, activations and the optimiser are left out.
 *
 *   flops = 6 (sum over stacks of tokens * matrices + scored * output) + 12 B H D sum of T S */
static double step_flops(const tfp_config *k, double B, double T, double S, double scored) {
  const double C = (double)k->hidden, inner = (double)(k->heads * k->head_dim), F = (double)k->ffn;
  const double self = 4 * C * inner + (k->gated ? 3 : 2) * C * F;
  const double E = (double)k->encoder_layers, D = (double)k->decoder_layers,
               head = C * (double)k->vocab_size;
  double matrices = 6 * scored * (head + (k->transform ? C * C : 0)), attention = 0;
  if (k->arch == TFP_DECODER) S = T;
  matrices += 6 * B * T * E * self;
  attention += 12 * B * inner * E * T * T;
  matrices += 6 * B * S * D * self;
  attention += 6 * B * inner * D * S * S;
  if (k->arch == TFP_SEQ2SEQ) {
    matrices +=
        6 * D *
        (B * S * 2 * C * inner + B * T * 2 * C * inner); /* queries and output; keys and values */
    attention += 12 * B * inner * D * T * S;
  }
  return matrices + attention;
}
static tfp_status fixed_batch(void *user, uint64_t first, int64_t n, tfp_batch *batch) {
  (void)first, (void)n;
  *batch = *(const tfp_batch *)user;
  return TFP_OK;
}
/* Random ids, none of them one of the first four, which may be padding. */
static int32_t *random_ids(cli *c, int64_t n, int64_t vocab, uint64_t stream) {
  int32_t *ids = (int32_t *)take(c, n, sizeof *ids);
  int64_t i;
  for (i = 0; i < n; i++)
    ids[i] = (int32_t)(4 + tfp_random_below((uint64_t)c->o.seed, tfp_stream(stream, 0, 0),
                                            (uint64_t)i, vocab - 4));
  return ids;
}
static void random_batch(cli *c, const tfp_config *k, tfp_batch *b) {
  const options *o = &c->o;
  const int two = k->arch == TFP_SEQ2SEQ;
  const double share = either_real(o->label_fraction, k->arch == TFP_ENCODER ? 0.15 : 1);
  int32_t *labels;
  int64_t i;
  memset(b, 0, sizeof *b);
  b->B = o->batch, b->T = o->seq, b->S = two ? either(o->target_seq, o->seq) : 0;
  b->ids = random_ids(c, b->B * b->T, o->vocab, 1);
  if (two) b->dec_ids = random_ids(c, b->B * b->S, o->vocab, 2);
  b->n_labels = b->B * (two ? b->S : b->T);
  labels = random_ids(c, b->n_labels, o->vocab, 3);
  for (i = 1; i < b->n_labels; i++) /* the first is scored always: a step needs one */
    if ((double)tfp_random_uniform((uint64_t)o->seed, tfp_stream(4, 0, 0), (uint64_t)i) >= share)
      labels[i] = TFP_IGNORE_INDEX;
  b->labels = labels;
}
static void run_step(cli *c) {
  options *o = &c->o;
  tfp_config k;
  tfp_train_desc d;
  tfp_batch b;
  tfp_trainer *trainer;
  tfp_step_info info;
  timing t = timing_of(c);
  double before, after, flops, since;
  char name[32];
  int i;
  needs(c, o->family && o->vocab > 0, "--family and --vocab");
  snprintf(name, sizeof name, "%s-tiny", o->family);
  tfp_config_preset(name, &k);
  if (o->target_seq > 0 && k.arch != TFP_SEQ2SEQ)
    die(c, 2, "--target-seq: %s has no decoder behind an encoder", o->family);
  o->layers = either(o->layers, 4), o->heads = either(o->heads, 4),
  o->hidden = either(o->hidden, 128);
  choose_sizes(c, &k);
  k.vocab_size = o->vocab, k.dropout = k.attention_dropout = 0;
  if (k.bos >= k.vocab_size) k.bos = k.eos = -1;
  random_batch(c, &k, &b);
  if (k.position == TFP_POS_LEARNED) k.max_positions = b.T > b.S ? b.T : b.S;
  tfp_config_check(c->ctx, &k);
  check(c);
  memset(&d, 0, sizeof d);
  d.lr = d.min_lr = 1e-4, d.steps = 1 << 30, d.schedule = TFP_CONSTANT, d.rows = b.B;
  d.adamw.weight_decay = 0.1, d.adamw.clip = 1, d.source = fixed_batch, d.source_user = &b;
  trainer = tfp_trainer_create(tfp_model_create(c->ctx, &k, 1), &d);
  check(c);
  before = peak_gflops(c);
  for (i = -2, since = tfp_seconds(); i < 0 || more_wanted(c, &t, since); i++) {
    if (tfp_train_step(trainer, &info)) check(c);
    if (i >= 0) t.ms[t.n++] = info.seconds * 1e3;
  }
  timing_end(&t);
  after = peak_gflops(c);
  flops = step_flops(&k, (double)b.B, (double)b.T, (double)b.S, (double)tfp_batch_scored(&b));
  report_bench(c, "step", &t, flops * 1e-6 / t.median, before > after ? before : after,
               (double)info.tokens / t.median * 1e3, -1);
}

/* ---- main ------------------------------------------------------------------------------------ */

static const command commands[] = {
    {INFO, "info", "DIR", "configuration, parameters, memory, tensors and model card", 1, 1,
     run_info},
    {TOKENIZE, "tokenize", "DIR", "ids of each line of standard input, or with --decode its text",
     1, 1, run_tokenize},
    {TRAIN_TOK, "train-tokenizer", "FILES...", "learn a vocabulary from texts", 1, 0x7fff,
     run_train_tokenizer},
    {LOGITS, "logits", "DIR", "what the head puts out, a row for each position (or example)", 1, 1,
     run_logits},
    {TRACE, "trace", "DIR", "losses and gradient norms of some AdamW steps on given batches", 1, 1,
     run_trace},
    {CONVERT, "convert", "DIR", "load a model, check it and save it again", 1, 1, run_convert},
    {EMBED, "embed", "DIR", "a vector for each line of standard input", 1, 1, run_embed},
    {FILL, "fill", "DIR TEXT", "the likeliest tokens for each <mask> in a text (encoders)", 2, 2,
     run_fill},
    {GENERATE, "generate", "DIR", "continue a text (decoders) or answer one (encoder-decoders)", 1,
     1, run_generate},
    {PRETRAIN, "pretrain", "", "train a model on text", 0, 0, run_pretrain},
    {0, "finetune", "", "", 0, 0, NULL},
    {EVAL, "eval", "DIR", "loss and perplexity of a model on text", 1, 1, run_eval},
    {0, "curate", "", "", 0, 0, NULL},
    {0, "plan", "", "", 0, 0, NULL},
    {PEAK, "bench peak", "", "float32 arithmetic and memory bandwidth of this machine", 0, 0,
     run_peak},
    {GEMM, "bench gemm", "", "a matrix product C (m,n) = A (m,k) B (k,n)", 0, 0, run_gemm},
    {STEP, "bench step", "", "a training step on random tokens: forward, backward, clipping, AdamW",
     0, 0, run_step},
    {0, "bench decode", "", "", 0, 0, NULL},
    {0, "bench prefill", "", "", 0, 0, NULL},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void help_all(const char *only) {
  int i;
  printf("tfpre COMMAND ...: pre-trains, runs and exchanges transformers on CPUs\n\n");
  for (i = 0; i < COMMANDS; i++)
    if (commands[i].run && !strncmp(commands[i].name, only, strlen(only))) {
      char left[48];
      snprintf(left, sizeof left, "%s %s", commands[i].name, commands[i].words);
      printf("  tfpre %-25s %s\n", left, commands[i].what);
    }
  printf("\ntfpre COMMAND -h tells its options. --json prints JSON, --threads N and --seed N go "
         "everywhere.\n");
}
static int is_help(const char *word) { return !strcmp(word, "-h") || !strcmp(word, "--help"); }

int main(int argc, char **argv) {
  cli c;
  char name[64];
  int i, first = 2;
  memset(&c, 0, sizeof c);
  c.argc = argc, c.argv = argv, c.began = tfp_seconds();
  if (argc < 2) die(&c, 2, "a command is missing; see tfpre -h");
  snprintf(name, sizeof name, "%s", argv[1]);
  if (is_help(name) || (!strcmp(name, "bench") && argc > 2 && is_help(argv[2]))) {
    help_all(is_help(name) ? "" : "bench");
    check_output(&c);
    return 0;
  }
  if (!strcmp(name, "bench")) {
    if (argc < 3) die(&c, 2, "bench wants peak, gemm or step; see tfpre bench -h");
    snprintf(name, sizeof name, "bench %s", argv[first++]);
  }
  for (i = 0; i < COMMANDS && strcmp(commands[i].name, name); i++) continue;
  if (i == COMMANDS) die(&c, 2, "'%s' is no command; see tfpre -h", name);
  if (!commands[i].run) die(&c, 2, "%s is not in this release", name);
  c.command = commands[i].name;
  read_options(&c, &commands[i], first);
  if (c.o.help) {
    help(&commands[i]);
    check_output(&c);
    return 0;
  }
  if (isatty(STDOUT_FILENO) && !c.o.json)
    c.progress = stdout;
  else if (isatty(STDERR_FILENO) && c.o.json)
    c.progress = stderr;
  c.ctx = open_context(&c, 0);
  check(&c);
  commands[i].run(&c);
  check_output(&c);
  tfp_destroy(c.ctx);
  return 0;
}
