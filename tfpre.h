/* tfpre.h -- pre-trains, fine-tunes, runs and exchanges transformers: encoders by masked language
 * modelling (BERT, RoBERTa), decoders by causal language modelling (GPT-2, BLOOM), encoder-decoders
 * by span corruption and denoising (T5, BART). One file of C, nothing beneath it but libc.
 *
 * Do this in one C or C++ file of your program:
 *
 *   #define TFPRE_IMPLEMENTATION
 *   #include "tfpre.h"
 *
 * and only #include "tfpre.h" elsewhere. Link with -lm -lpthread. Public domain or MIT-0, as you
 * like (see the end of the file).
 *
 * A COMPLETE PROGRAM: a small GPT that learns a text file by heart, byte by byte.
 *
 *   #define TFPRE_IMPLEMENTATION
 *   #include "tfpre.h"
 *   #include <stdio.h>
 *   int main(int argc, char **argv) {
 *     const char *paths[] = {argc > 1 ? argv[1] : "text.txt"};
 *     tfp_ctx *ctx = tfp_create(NULL);
 *     tfp_tokenizer *tok = tfp_tokenizer_bytes(ctx, TFP_SPECIALS_NONE);
 *     tfp_data_desc data = {paths, 1, tok, TFP_DOC_PER_FILE, 0.1, 0};
 *     tfp_loader_desc load = {0};
 *     tfp_train_desc train = {0};
 *     tfp_config c;
 *     tfp_step_info info;
 *     tfp_config_preset("gpt2-tiny", &c);
 *     c.vocab_size = tfp_vocab_size(tok), c.max_positions = 64, c.bos = c.eos = -1;
 *     tfp_model *model = tfp_model_create(ctx, &c, 1);
 *     load.data = tfp_dataset_load(ctx, &data);
 *     load.T = 64, load.rows = 12, load.special = tfp_tokenizer_specials(tok);
 *     train.source = tfp_loader_source, train.source_user = tfp_loader_create(ctx, &load);
 *     train.lr = 1e-3, train.steps = 500, train.rows = 12, train.adamw.clip = 1;
 *     tfp_trainer *trainer = tfp_trainer_create(model, &train);
 *     while (tfp_trainer_step(trainer) < 500 && tfp_train_step(trainer, &info) == TFP_OK)
 *       if (info.step % 100 == 0) printf("step %d loss %.3f\n", (int)info.step, info.loss);
 *     if (tfp_error(ctx)) printf("%s\n", tfp_error_message(ctx));
 *     tfp_destroy(ctx);
 *     return 0;
 *   }
 *
 * IT DOES NOT convert other people's PyTorch pickles, quantise to 8 bits, run several models on one
 * context from several threads at once, or print, exit and abort: it returns errors.
 *
 * CONTENTS. Search for ">>name.h" (interface) or ">>name.c" (implementation). A section uses only
 * sections above it.
 *
 *   >>config.h      switches, version, language shims
 *   >>base.h        status codes, context, memory
 *   >>rng.h         counter-based random numbers
 *   >>files.h       the I/O door, UTF-8, JSON, safetensors
 *   >>tensor.h      shapes, strides, views
 *   >>ops.h         operations and automatic differentiation
 *   >>nn.h          parameters
 *   >>attention.h   attention, its masks and its position schemes
 *   >>tokenizer.h   text to ids and back
 *   >>data.h        corpora, splits, batches
 *   >>objectives.h  what a model is asked to predict
 *   >>model.h       one configuration, one block, six families
 *   >>eval.h        how good a model is
 *   >>optim.h       AdamW, schedules, the trainer and its checkpoints
 *   >>generate.h    writing text, and filling masks
 *   >>hub.h         model directories as Hugging Face has them
 *   >>base.c >>rng.c >>files.c >>threads.c >>tensor.c >>backend.c >>kernels.c >>simd.c >>ops.c
 *   >>nn.c >>attention.c >>tokenizer.c >>data.c >>objectives.c >>model.c >>eval.c >>optim.c
 *   >>generate.c >>hub.c >>history
 *
 * CONVENTIONS. tfp_ and TFP_ are public, tfpi_ and TFPI_ private, TFPRE_ are the switches below.
 * Shape letters: B batch, T query length, S key length (or the decoder's length), C width, H heads,
 * D head width, F feed-forward width, V vocabulary, L layers, N elements. Row-major, outermost
 * first. tfp_matmul(A,B) is A@B; tfp_linear(x,W,b) is x@W'+b with W (out,in). Sizes are int64_t
 * elements, memory is size_t bytes, losses are nats a token. A description struct that is all zero
 * is a good one. Masks hide with weight exactly 0; a label of -100 is not scored.
 *
 * ERRORS. Functions that make something return NULL on error, others a tfp_status. The context
 * keeps the first error and its message; NULL inputs pass through; so check once at the end of a
 * phase: if (tfp_error(ctx)) puts(tfp_error_message(ctx)).
 *
 * MEMORY.
 *
 *   context --- lasting arenas: its own, one per model, cache, tokenizer, data set, trainer
 *      |            a model      [ parameters | gradients ]
 *      |            an optimiser [ moment 1   | moment 2  ]   four arrays of one layout
 *      '------- step arena: every tensor that an op makes, and the tape; tfp_step_reset takes all
 *               of it back
 *
 *   They grow from malloc, from your allocator, or within one block that you give (tfp_desc.block):
 *   lasting pieces from its start, the step's from its end. A context made with dry_run = 1
 *   computes nothing and counts the bytes exactly; a block of that size is enough. No tensor is
 *   freed by itself.
 *
 * SWITCHES, defined before the include.
 *
 *   TFPRE_IMPLEMENTATION   in one file: the code
 *   TFPRE_STATIC           everything private to that file
 *   TFPRE_REAL double      plain kernels in double, for gradient checks (in every file alike)
 *   TFPRE_NO_THREADS       the worker pool becomes a loop
 *   TFPRE_NO_SIMD          plain kernels alone (as -O0 has them in any case)
 *   TFPRE_NO_STDIO         no files of its own: give tfp_desc.io, or use none
 *   TFPRE_NO_STDLIB        no malloc: give tfp_desc.block or tfp_desc.allocator
 *
 * STATUS CODES. See TFP_STATUS_LIST in >>base.h: one line each.
 *
 * READING PATHS. An hour: this comment, >>ops.h, layernorm in >>ops.c with its kernels in
 * >>kernels.c, tfp_backward, then >>model.c from tfpi_run_block. The objectives: >>objectives.h,
 * whose examples have real ids. The speed: >>simd.c, beginning at the register block of the matrix
 * product.
 *
 * REFERENCES. Vaswani et al. 2017 (arXiv:1706.03762); Devlin et al. 2018 (1810.04805); Liu et al.
 * 2019 (1907.11692); Radford et al. 2019; BigScience 2022 (2211.05100); Raffel et al. 2020
 * (1910.10683); Lewis et al. 2019 (1910.13461). Others stand at what they describe.
 */

/* ================================================================================================
 * >>config.h   switches, version, language shims
 * ================================================================================================
 * Nothing here does anything. It makes one source compile as C99 and as C++11, hosted and bare.
 */
#ifndef TFPRE_H
#define TFPRE_H

#define TFPRE_VERSION 100 /* 10000*major + 100*minor + patch */

/* Feature macros: only where no system header was read before this one, and only additive ones. */
#if defined(TFPRE_IMPLEMENTATION) && !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE 1
#endif
#if defined(TFPRE_IMPLEMENTATION) && !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64
#endif

#include <stddef.h>
#include <stdint.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "tfpre.h needs NaN, infinity and ordered sums: compile without -ffast-math and -Ofast"
#endif
#if !defined(__GNUC__)
#error "tfpre.h needs gcc, clang or a compiler that speaks their dialect (MinGW does)"
#endif
#if defined(__cplusplus)
#if __cplusplus < 201103L
#error "tfpre.h needs C++11 or newer: compile with -std=c++11"
#endif
#elif !defined(__STDC_VERSION__) || __STDC_VERSION__ < 199901L
#error "tfpre.h needs C99 or newer: compile with -std=c99"
#endif

#if defined(TFPRE_STATIC)
#define TFP_API static __attribute__((unused))
#else
#define TFP_API extern
#endif

/* The number type of tensors. double is for gradient checks: plain kernels only, files stay
 * float32. It is the only switch that changes a type, and tfp_create refuses a file that was built
 * otherwise. */
#if defined(TFPRE_REAL)
typedef TFPRE_REAL tfp_real;
#else
typedef float tfp_real;
#endif

#ifdef __cplusplus
extern "C" {
#endif
/* ================================================================================================
 * >>base.h   status codes, context, memory
 * ================================================================================================
 * Everything belongs to a context: its memory, its threads, its first error. Contexts share
 * nothing, so each thread of a program may have one. Read tfp_create, then tfp_error, then go on to
 * >>tensor.h.
 */

/* Status codes. Functions that make a tensor return NULL on error, others return one of these; the
 * context keeps the first error with its message, and everything called after it fails quietly. */
#define TFP_STATUS_LIST(X) \
  X(OK,              "no error") \
  X(ERR_ARG,         "an argument is out of its range") \
  X(ERR_SHAPE,       "shapes do not fit each other") \
  X(ERR_NOMEM,       "memory ran out") \
  X(ERR_IO,          "a file could not be opened, read, written or put in place") \
  X(ERR_FORMAT,      "a file is not what it claims to be") \
  X(ERR_DATA,        "text or tokens cannot be used: too short, not UTF-8, id out of range") \
  X(ERR_NAN,         "a loss or a gradient norm is NaN or infinite") \
  X(ERR_STATE,       "called out of order") \
  X(ERR_VERSION,     "header and implementation were compiled differently") \
  X(ERR_UNSUPPORTED, "this build, machine or model cannot do it") \
  X(ERR_STOPPED,     "a callback of the caller asked to stop") \
  X(ERR_BUG,         "the library contradicts itself; please report it")

typedef enum tfp_status {
#define TFPI_X(name, text) TFP_##name,
  TFP_STATUS_LIST(TFPI_X)
#undef TFPI_X
  TFP_STATUS_COUNT
} tfp_status;

enum {
  TFP_MAX_DIMS = 5,
  TFP_IGNORE_INDEX = -100, /* a label that is not scored */
  TFP_MAX_THREADS = 256
};

/* Instruction levels of the CPU kernels. A context takes the best that the machine has, or the one
 * that the description or the environment variable TFPRE_LEVEL (plain, avx2, avx512) asks for. */
typedef enum tfp_level {
  TFP_LEVEL_BEST = 0,
  TFP_LEVEL_PLAIN = 1, /* the specification: C without vector instructions of its own */
  TFP_LEVEL_AVX2 = 2,
  TFP_LEVEL_AVX512 = 3
} tfp_level;

typedef struct tfp_ctx tfp_ctx;

/* Caller's memory. alloc returns bytes aligned to 64, or NULL; release gets what alloc gave. */
typedef struct tfp_allocator {
  void *user;
  void *(*alloc)(void *user, size_t bytes);
  void (*release)(void *user, void *block, size_t bytes);
} tfp_allocator;

/* The door to files. Every function but read_at returns 0 or an errno value; read_at returns the
 * bytes read (fewer only at the end) or a negative errno value. Paths are UTF-8. */
typedef struct tfp_io {
  void *user;
  int (*open)(void *user, const char *path, int for_writing, void **file);
  int (*close)(void *user, void *file);
  int64_t (*read_at)(void *user, void *file, int64_t offset, void *buffer, int64_t bytes);
  int (*write)(void *user, void *file, const void *data, int64_t bytes); /* appends, all or error */
  int (*sync)(void *user, void *file);
  int (*size)(void *user, void *file, int64_t *bytes);
  int (*replace)(void *user, const char *from,
                 const char *to); /* atomic, and the directory synced */
  int (*remove)(void *user, const char *path);
  int (*mkdir)(void *user, const char *path); /* 0 also where the directory exists */
} tfp_io;

/* What a context is made from. All zero is a good description. */
typedef struct tfp_desc {
  int threads;          /* 0: as many as the affinity mask and the control group's quota allow */
  tfp_level level;      /* TFP_LEVEL_BEST (0): the best of this machine */
  uint64_t seed;        /* of every random stream */
  int dry_run;          /* 1: nothing is computed, bytes are counted (see tfp_memory) */
  void *block;          /* not NULL: this block is all the memory there is; one thread, no files */
  size_t block_bytes;
  tfp_allocator allocator; /* alloc NULL: malloc and free */
  tfp_io io;               /* open NULL: the operating system's files */
  void (*log)(void *user, const char *line); /* NULL: silence */
  void *log_user;
} tfp_desc;

/* Bytes of a context. used and peak count every arena and are the same in each memory mode and in a
 * dry run with the same threads and level; a block of peak bytes is enough for the same work. */
typedef struct tfp_memory_info {
  int64_t used, peak; /* now, and the most there was */
  int64_t step;       /* part of used that tfp_step_reset gives back */
  int64_t reserved;   /* taken from malloc or from the caller's allocator */
  int64_t blocks;     /* how often it was asked: constant after the first training step */
} tfp_memory_info;

/* tfp_create -- make a context.
 *
 * Args     desc: NULL or a description; it is copied, what it points to is borrowed
 * Returns  a context, or NULL if there is no memory even for that
 * Errors   on the context: TFP_ERR_VERSION if this file was compiled with another TFPRE_REAL or
 *          version than the implementation; TFP_ERR_ARG for a description that cannot be
 * Memory   free with tfp_destroy
 */
static inline tfp_ctx *tfp_create(const tfp_desc *desc);

/* tfp_create_stamped -- what tfp_create calls, with the marks of the calling file.
 *
 * Args     stamp: TFPRE_VERSION*16 + sizeof(tfp_real); desc_bytes: sizeof(tfp_desc)
 * Returns  as tfp_create
 * Errors   as tfp_create
 */
TFP_API tfp_ctx *tfp_create_stamped(const tfp_desc *desc, size_t desc_bytes, unsigned stamp);

static inline tfp_ctx *tfp_create(const tfp_desc *desc) {
  return tfp_create_stamped(desc, sizeof(tfp_desc),
                            TFPRE_VERSION * 16u + (unsigned)sizeof(tfp_real));
}

/* tfp_destroy -- free a context and all that was made in it (models, tokenizers, trainers, data).
 *
 * Args     ctx: NULL is fine
 */
TFP_API void tfp_destroy(tfp_ctx *ctx);

/* tfp_error -- the first error since creation or tfp_clear_error; TFP_OK if there was none.
 *
 * Args     ctx: NULL gives TFP_ERR_NOMEM, so that the result of tfp_create needs no check of its
 *          own
 * Returns  a status
 */
TFP_API tfp_status tfp_error(const tfp_ctx *ctx);

/* tfp_error_message -- one line about the first error, with the values in it; "" if there was none.
 *
 * Returns  text owned by the context, valid until tfp_clear_error
 */
TFP_API const char *tfp_error_message(const tfp_ctx *ctx);

/* tfp_clear_error -- forget the error, to go on. */
TFP_API void tfp_clear_error(tfp_ctx *ctx);

/* tfp_status_name -- "TFP_ERR_SHAPE" for TFP_ERR_SHAPE; "unknown" outside the list.
 *
 * Returns  a constant string
 */
TFP_API const char *tfp_status_name(tfp_status status);

/* tfp_step_reset -- give back everything in the step arena: all tensors made by ops, and the tape.
 *
 * Memory   what follows gets the same addresses in the same order: no malloc after the first step
 */
TFP_API void tfp_step_reset(tfp_ctx *ctx);

/* tfp_memory -- bytes in use, at most in use, and reserved.
 *
 * Returns  a struct of bytes
 */
TFP_API tfp_memory_info tfp_memory(const tfp_ctx *ctx);

/* tfp_threads, tfp_level_name -- how many threads compute, and with which instructions.
 *
 * Returns  at least 1; "plain", "avx2" or "avx512"
 */
TFP_API int tfp_threads(const tfp_ctx *ctx);
TFP_API const char *tfp_level_name(const tfp_ctx *ctx);

/* tfp_seconds -- a clock for measuring, from an unspecified start. 0 where the system has none.
 *
 * Returns  seconds
 */
TFP_API double tfp_seconds(void);
/* ================================================================================================
 * >>rng.h   counter-based random numbers
 * ================================================================================================
 * A draw is a function of (seed, stream, index) and of nothing else, so there is no generator to
 * save, to lock or to advance: any thread can make any draw, and a resumed run makes the same ones.
 */

/* tfp_random_bits -- 32 random bits: word index%4 of Philox4x32-10 at counter (index/4, stream).
 *
 * Args     seed, stream, index: any
 * Returns  uniform over all 32-bit values
 * Source   Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"
 */
TFP_API uint32_t tfp_random_bits(uint64_t seed, uint64_t stream, uint64_t index);

/* tfp_random_uniform -- a number in [0,1), one of 2^24 equally spaced ones.
 *
 * Returns  bits >> 8 times 2^-24
 */
TFP_API float tfp_random_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* tfp_random_normal -- a standard normal number, by Box and Muller from two 32-bit draws.
 *
 * Returns  finite, at most 6.7 away from 0
 */
TFP_API float tfp_random_normal(uint64_t seed, uint64_t stream, uint64_t index);

/* tfp_random_below -- an integer in [0,n), unbiased to 2^-32 relative.
 *
 * Args     n >= 1
 * Returns  the integer
 */
TFP_API int64_t tfp_random_below(uint64_t seed, uint64_t stream, uint64_t index, int64_t n);

/* tfp_random_permuted -- where position i of n stands after a random permutation that is never
 * stored: a keyed bijection of [0,n) (Feistel network over the next power of four, walked until
 * the result is inside).
 *
 * Args     0 <= i < n
 * Returns  a value in [0,n); different i give different values
 */
TFP_API int64_t tfp_random_permuted(uint64_t seed, uint64_t stream, int64_t i, int64_t n);

/* tfp_stream -- the number of a stream from coordinates, so that no two purposes share draws.
 *
 * Args     step below 2^32, layer and site below 2^16
 * Returns  step << 32 | layer << 16 | site
 */
TFP_API uint64_t tfp_stream(uint64_t step, unsigned layer, unsigned site);
/* ================================================================================================
 * >>files.h   the I/O door, UTF-8, JSON, safetensors
 * ================================================================================================
 * Every file goes through the tfp_io of the context's description. Files are replaced whole: what
 * is written lies under the name with ".tmp" behind it until all of it is on the disk, so that an
 * error or a kill leaves the old file. What is read is not trusted: it is checked to the last byte,
 * and an error names the file, the place and what was expected there. Numbers are read and written
 * exactly, in any locale. To load a model you need none of this: go on to >>tensor.h and come back.
 */

/* ---- files ---- */

/* tfp_read_file -- a whole file into memory. For large files use tfp_file_open.
 *
 * Args     data, bytes: receive where it lies and how long it is; bytes may be NULL
 * Returns  TFP_OK or the error; a NUL follows the last byte
 * Errors   TFP_ERR_IO; TFP_ERR_NOMEM; TFP_ERR_UNSUPPORTED in a context without files
 * Memory   owned by the context until tfp_destroy
 */
TFP_API tfp_status tfp_read_file(tfp_ctx *ctx, const char *path, char **data, int64_t *bytes);

/* tfp_write_file -- put a whole file in place, or leave what was there.
 *
 * Args     data: bytes bytes
 * Returns  TFP_OK once the bytes and the directory entry are on the disk, or the error
 * Errors   TFP_ERR_IO; TFP_ERR_NOMEM; TFP_ERR_UNSUPPORTED in a context without files
 */
TFP_API tfp_status tfp_write_file(tfp_ctx *ctx, const char *path, const void *data, int64_t bytes);

/* tfp_make_dir -- make a directory, with those above it; no error if it is there.
 *
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_IO; TFP_ERR_NOMEM; TFP_ERR_UNSUPPORTED in a context without files
 */
TFP_API tfp_status tfp_make_dir(tfp_ctx *ctx, const char *path);

/* tfp_file_exists -- whether a file (not a directory) can be opened for reading.
 *
 * Returns  1 or 0; never sets an error
 */
TFP_API int tfp_file_exists(tfp_ctx *ctx, const char *path);

/* An open file that is read through a small buffer; it may be larger than the memory. */
typedef struct tfp_file tfp_file;

/* tfp_file_open -- open a file for reading.
 *
 * Returns  the file; NULL on error
 * Errors   TFP_ERR_IO; TFP_ERR_NOMEM; TFP_ERR_UNSUPPORTED in a context without files
 * Memory   free with tfp_file_close; one thread at a time may use it
 */
TFP_API tfp_file *tfp_file_open(tfp_ctx *ctx, const char *path);

/* tfp_file_read -- the next bytes of a file.
 *
 * Returns  how many were read: fewer than asked only at the end, 0 behind it; -1 on error
 * Errors   TFP_ERR_IO
 */
TFP_API int64_t tfp_file_read(tfp_file *file, void *out, int64_t bytes);

/* tfp_file_line -- the next line of a file, of any length, without its line break (LF or CR LF).
 *
 * Args     line: receives the text, NUL behind it
 * Returns  its bytes; -1 at the end of the file or on error (see tfp_error)
 * Errors   TFP_ERR_IO; TFP_ERR_NOMEM
 * Memory   the text is valid until the next call on this file
 */
TFP_API int64_t tfp_file_line(tfp_file *file, const char **line);

/* tfp_file_read_at -- bytes from anywhere in a file; the place of tfp_file_read stays.
 *
 * Args     offset: bytes from the start
 * Returns  how many were read: fewer than asked only at the end; -1 on error
 * Errors   TFP_ERR_IO; TFP_ERR_ARG if offset is negative
 */
TFP_API int64_t tfp_file_read_at(tfp_file *file, int64_t offset, void *out, int64_t bytes);

/* tfp_file_seek -- where the next tfp_file_read starts.
 *
 * Args     offset: bytes from the start, at least 0; behind the end, nothing is read
 */
TFP_API void tfp_file_seek(tfp_file *file, int64_t offset);

/* tfp_file_size -- bytes of a file when it was opened; 0 for NULL.
 *
 * Returns  bytes
 */
TFP_API int64_t tfp_file_size(const tfp_file *file);

/* tfp_file_close -- close a file and free its buffer; NULL is fine. */
TFP_API void tfp_file_close(tfp_file *file);

/* tfp_hash -- 64 bits that stand for some bytes, the same on every machine. Not against forgers.
 *
 *   h = seed ^ (bytes+1)*K;  for each 8 bytes w, little-endian, the last padded with zeros:
 *   h = (h ^ w)*K, h ^= h >> 32;  at the end the mixing of splitmix64      K = 0x9E3779B97F4A7C15
 *
 * Args     seed: 0, or the hash of what came before
 * Returns  the hash
 * Source   the mixing: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"
 */
TFP_API uint64_t tfp_hash(uint64_t seed, const void *data, int64_t bytes);

/* ---- UTF-8 ---- */

/* tfp_utf8_decode -- the code point at the start of a text, strictly: no overlong forms, no
 * surrogates, nothing above U+10FFFF.
 *
 * Args     bytes: how many there are; codepoint: receives it
 * Returns  its length, 1 to 4; 0 if there is none
 */
TFP_API int tfp_utf8_decode(const char *text, int64_t bytes, uint32_t *codepoint);

/* tfp_utf8_next -- the code point at *text, and step over it; U+FFFD and one byte for a bad byte.
 *
 * Args     *text < end
 * Returns  a code point
 */
TFP_API uint32_t tfp_utf8_next(const char **text, const char *end);

/* tfp_utf8_encode -- the bytes of a code point; no NUL follows.
 *
 * Args     out: room for 4 bytes
 * Returns  their number, 1 to 4; 0 for surrogates and above U+10FFFF
 */
TFP_API int tfp_utf8_encode(uint32_t codepoint, char *out);

/* tfp_utf8_check -- whether a text is UTF-8.
 *
 * Returns  -1 if it is, or the offset of the first code point that is none, in bytes
 */
TFP_API int64_t tfp_utf8_check(const char *text, int64_t bytes);

/* tfp_utf8_length -- code points in a text; a bad byte counts as one.
 *
 * Returns  code points
 */
TFP_API int64_t tfp_utf8_length(const char *text, int64_t bytes);

/* ---- numbers ---- */

/* tfp_parse_number -- the double nearest to a decimal number (ties to even), as strtod in the C
 * locale, but of plain decimals alone: [+-] digits [. digits] [e [+-] digits].
 *
 * Args     value: receives it; infinite where the number is beyond all doubles
 * Returns  bytes read; 0 if no number starts the text
 * Cost     exact for any length: arithmetic with large integers where doubles do not do
 */
TFP_API int64_t tfp_parse_number(const char *text, int64_t bytes, double *value);

/* tfp_format_double, tfp_format_float -- the shortest decimal number that reads back as this one;
 * of several, the nearest. It has a point or an exponent always: "1.0", "1e-12", "0.1", "1e+16".
 * Doubles look as in Python's repr. "nan", "inf" and "-inf" where there is no number.
 *
 * Args     out: room for TFP_NUMBER_BYTES
 * Returns  the length, without the NUL behind it
 * Source   Steele, White 1990, "How to print floating-point numbers accurately"
 */
enum { TFP_NUMBER_BYTES = 32 };
TFP_API int tfp_format_double(char *out, double x);
TFP_API int tfp_format_float(char *out, float x);

/* ---- JSON ---- */

typedef enum tfp_json_type {
  TFP_JSON_NULL,
  TFP_JSON_BOOL,   /* integer is 0 or 1 */
  TFP_JSON_INT,    /* written without point and exponent, and fits integer; number has it too */
  TFP_JSON_FLOAT,  /* number */
  TFP_JSON_STRING, /* text */
  TFP_JSON_ARRAY,  /* child */
  TFP_JSON_OBJECT  /* child, each with a key */
} tfp_json_type;

/* A value. Walk an array or object with: for (v = x->child; v; v = v->next). */
typedef struct tfp_json tfp_json;
struct tfp_json {
  tfp_json_type type;
  const char *key, *text;        /* UTF-8, a NUL behind; NULL if it has none */
  int64_t key_bytes, text_bytes; /* without that NUL; there may be NULs inside */
  int64_t integer;
  double number;
  tfp_json *child, *next; /* first value inside; next one beside it */
  int64_t count;          /* values inside */
  int64_t offset;         /* where it starts in the text that was parsed, bytes */
};

enum { TFP_JSON_MAX_DEPTH = 128 };

/* tfp_json_parse -- read a JSON text (RFC 8259, strictly: nothing that it does not allow).
 *
 * Args     text: bytes bytes, copied; name: what errors call it, usually the path, or NULL
 * Returns  the outermost value; NULL on error
 * Errors   TFP_ERR_FORMAT with the byte offset, for text that is not JSON or not UTF-8, numbers
 *          beyond a double, lone surrogates, more than TFP_JSON_MAX_DEPTH levels; TFP_ERR_NOMEM
 * Memory   free with tfp_json_free
 * Cost     one pass; about 100 bytes per value
 */
TFP_API tfp_json *tfp_json_parse(tfp_ctx *ctx, const char *text, int64_t bytes, const char *name);

/* tfp_json_parse_file -- the same for a file.
 *
 * Returns  the outermost value; NULL on error
 * Errors   as tfp_json_parse and tfp_read_file
 * Memory   free with tfp_json_free
 */
TFP_API tfp_json *tfp_json_parse_file(tfp_ctx *ctx, const char *path);

/* tfp_json_free -- free a whole tree; NULL is fine.
 *
 * Args     root: what tfp_json_parse returned, no other value
 */
TFP_API void tfp_json_free(tfp_json *root);

/* tfp_json_get -- the member of an object with this key; of several, the last.
 *
 * Returns  the value; NULL if there is none, or object is NULL or none
 * Cost     looks at every member: to use many, walk them
 */
TFP_API const tfp_json *tfp_json_get(const tfp_json *object, const char *key);

/* tfp_json_at -- the value number i of an array or object, from 0.
 *
 * Returns  the value; NULL if there is none
 * Cost     walks there
 */
TFP_API const tfp_json *tfp_json_at(const tfp_json *array, int64_t i);

/* tfp_json_get_int, tfp_json_get_number, tfp_json_get_bool, tfp_json_get_text -- a member's value,
 * or another if there is no such member, or it is null or of another type.
 *
 * Args     otherwise: any; an integer does as a number too
 * Returns  the value; text with a NUL behind, owned by the tree
 */
TFP_API int64_t tfp_json_get_int(const tfp_json *object, const char *key, int64_t otherwise);
TFP_API double tfp_json_get_number(const tfp_json *object, const char *key, double otherwise);
TFP_API int tfp_json_get_bool(const tfp_json *object, const char *key, int otherwise);
TFP_API const char *tfp_json_get_text(const tfp_json *object, const char *key,
                                      const char *otherwise);

typedef enum tfp_json_style {
  TFP_JSON_PRETTY = 0, /* two spaces per level, as Python's json.dumps(x, indent=2) */
  TFP_JSON_LINE = 1,   /* one line, ", " and ": ", as json.dumps(x) */
  TFP_JSON_TIGHT = 2   /* one line without spaces */
} tfp_json_style;

/* A JSON text that grows. Its calls check their order; the first error is the context's. */
typedef struct tfp_json_writer tfp_json_writer;

/* tfp_json_writer_open -- begin a JSON text.
 *
 * Returns  the writer; NULL on error, and the calls below take a NULL writer and do nothing
 * Errors   TFP_ERR_NOMEM
 * Memory   free with tfp_json_writer_close
 */
TFP_API tfp_json_writer *tfp_json_writer_open(tfp_ctx *ctx, tfp_json_style style);

/* tfp_json_begin_object, tfp_json_end_object, tfp_json_begin_array, tfp_json_end_array -- { } [ ].
 *
 * Errors   TFP_ERR_STATE out of order; TFP_ERR_ARG beyond TFP_JSON_MAX_DEPTH; TFP_ERR_NOMEM
 */
TFP_API void tfp_json_begin_object(tfp_json_writer *writer);
TFP_API void tfp_json_end_object(tfp_json_writer *writer);
TFP_API void tfp_json_begin_array(tfp_json_writer *writer);
TFP_API void tfp_json_end_array(tfp_json_writer *writer);

/* tfp_json_key -- the key of the next value; in an object each value needs one.
 *
 * Args     bytes: of the key; -1: up to its NUL
 * Errors   TFP_ERR_STATE outside an object; TFP_ERR_DATA if it is not UTF-8; TFP_ERR_NOMEM
 */
TFP_API void tfp_json_key(tfp_json_writer *writer, const char *key, int64_t bytes);

/* tfp_json_put_text, tfp_json_put_int, tfp_json_put_double, tfp_json_put_float, tfp_json_put_bool,
 * tfp_json_put_null -- a value. Text is escaped as by Python's json.dumps(x, ensure_ascii=False).
 *
 * Args     bytes: of the text; -1: up to its NUL
 * Errors   TFP_ERR_STATE where a key is missing or the text is complete; TFP_ERR_DATA for text
 *          that is not UTF-8; TFP_ERR_ARG for NaN and infinities: JSON has none; TFP_ERR_NOMEM
 */
TFP_API void tfp_json_put_text(tfp_json_writer *writer, const char *text, int64_t bytes);
TFP_API void tfp_json_put_int(tfp_json_writer *writer, int64_t x);
TFP_API void tfp_json_put_double(tfp_json_writer *writer, double x);
TFP_API void tfp_json_put_float(tfp_json_writer *writer, float x);
TFP_API void tfp_json_put_bool(tfp_json_writer *writer, int x);
TFP_API void tfp_json_put_null(tfp_json_writer *writer);

/* tfp_json_put -- a value that was parsed, with all that is inside it.
 *
 * Args     value: NULL writes null
 * Errors   as the calls above
 */
TFP_API void tfp_json_put(tfp_json_writer *writer, const tfp_json *value);

/* tfp_json_writer_text -- the text so far.
 *
 * Args     bytes: receives its length; may be NULL
 * Returns  the text, a NUL behind it; NULL for a NULL writer or after an error
 * Errors   TFP_ERR_STATE while an object or array is open
 * Memory   valid until the next call on the writer
 */
TFP_API const char *tfp_json_writer_text(tfp_json_writer *writer, int64_t *bytes);

/* tfp_json_writer_save -- the text and a line break into a file, as tfp_write_file does.
 *
 * Returns  TFP_OK or the error
 * Errors   as tfp_json_writer_text and tfp_write_file
 */
TFP_API tfp_status tfp_json_writer_save(tfp_json_writer *writer, const char *path);

/* tfp_json_writer_close -- free a writer and its text; NULL is fine. */
TFP_API void tfp_json_writer_close(tfp_json_writer *writer);

/* ---- safetensors ---- */

/* The types of the format with their bits. Files hold tensors in this order, backwards. */
#define TFP_ST_LIST(X) \
  X(BOOL, 8) X(F4, 4) X(F6_E2M3, 6) X(F6_E3M2, 6) X(U8, 8) X(I8, 8) X(F8_E5M2, 8) X(F8_E4M3, 8) \
  X(F8_E8M0, 8) X(F8_E4M3FNUZ, 8) X(F8_E5M2FNUZ, 8) X(I16, 16) X(U16, 16) X(F16, 16) X(BF16, 16) \
  X(I32, 32) X(U32, 32) X(F32, 32) X(C64, 64) X(F64, 64) X(I64, 64) X(U64, 64)

typedef enum tfp_st_dtype {
#define TFPI_X(name, bits) TFP_ST_##name,
  TFP_ST_LIST(TFPI_X)
#undef TFPI_X
  TFP_ST_COUNT
} tfp_st_dtype;

enum { TFP_ST_MAX_DIMS = 8, TFP_ST_MAX_HEADER = 100000000 };

/* One tensor of a file. */
typedef struct tfp_safetensors_entry {
  const char *name; /* UTF-8 */
  tfp_st_dtype dtype;
  int ndim; /* 0: a scalar, one element */
  int64_t shape[TFP_ST_MAX_DIMS];
  int64_t count;      /* elements */
  int64_t begin, end; /* bytes, from the end of the header */
} tfp_safetensors_entry;

/* An open safetensors file. */
typedef struct tfp_safetensors tfp_safetensors;

/* tfp_safetensors_open -- open a file and check all of its header.
 *
 * Returns  the file; NULL on error
 * Errors   TFP_ERR_IO; TFP_ERR_FORMAT with the tensor's name and offset: a header that is too long,
 *          not JSON or not of the format, sizes that do not fit the bytes, holes, overlaps, names
 *          that come twice, bytes missing or left over; TFP_ERR_UNSUPPORTED beyond
 *          TFP_ST_MAX_DIMS dimensions or in a context without files; TFP_ERR_NOMEM
 * Memory   free with tfp_safetensors_close; tensors stay in the file until they are read
 * Source   github.com/huggingface/safetensors, README and safetensors/src/tensor.rs
 */
TFP_API tfp_safetensors *tfp_safetensors_open(tfp_ctx *ctx, const char *path);

/* tfp_safetensors_close -- close the file and free its entries; NULL is fine. */
TFP_API void tfp_safetensors_close(tfp_safetensors *st);

/* tfp_safetensors_count -- how many tensors there are; 0 for NULL.
 *
 * Returns  tensors
 */
TFP_API int64_t tfp_safetensors_count(const tfp_safetensors *st);

/* tfp_safetensors_at -- tensor number i in the order of the bytes, from 0.
 *
 * Returns  the entry, owned by st; NULL if there is none
 */
TFP_API const tfp_safetensors_entry *tfp_safetensors_at(const tfp_safetensors *st, int64_t i);

/* tfp_safetensors_find -- the tensor with this name.
 *
 * Returns  the entry, owned by st; NULL if there is none
 * Cost     a binary search
 */
TFP_API const tfp_safetensors_entry *tfp_safetensors_find(const tfp_safetensors *st,
                                                          const char *name);

/* tfp_safetensors_metadata -- the text under this key of "__metadata__".
 *
 * Returns  the text, owned by st; NULL if there is none
 */
TFP_API const char *tfp_safetensors_metadata(const tfp_safetensors *st, const char *key);

/* tfp_safetensors_read -- elements of a tensor as floats.
 *
 * Shapes   out: count floats
 * Args     entry: one of st's; first, count: elements, row-major, inside the tensor
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_ARG outside the tensor; TFP_ERR_UNSUPPORTED for types other than F64, F32, F16,
 *          BF16, BOOL and integers; TFP_ERR_IO
 * Cost     F32 goes straight to out, others through a buffer; 64-bit values are rounded to float
 */
TFP_API tfp_status tfp_safetensors_read(tfp_safetensors *st, const tfp_safetensors_entry *entry,
                                        int64_t first, int64_t count, float *out);

/* tfp_safetensors_read_bytes -- bytes of a tensor as they are in the file (little-endian).
 *
 * Args     entry: one of st's; first, bytes: inside the tensor's bytes
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_ARG outside the tensor; TFP_ERR_IO
 */
TFP_API tfp_status tfp_safetensors_read_bytes(tfp_safetensors *st,
                                              const tfp_safetensors_entry *entry, int64_t first,
                                              int64_t bytes, void *out);

/* tfp_st_dtype_name -- "F32" for TFP_ST_F32; "unknown" outside the list.
 *
 * Returns  a constant string
 */
TFP_API const char *tfp_st_dtype_name(tfp_st_dtype dtype);

/* A safetensors file that is being written. */
typedef struct tfp_safetensors_writer tfp_safetensors_writer;

/* tfp_safetensors_create -- lay a file out and write its header, under a name ending in ".tmp".
 *
 *   w = tfp_safetensors_create(ctx, path, meta, 1, entries, n);
 *   while ((i = tfp_safetensors_next(w)) >= 0) tfp_safetensors_write(w, i, data[i], numel[i]);
 *   status = tfp_safetensors_finish(w);
 *
 * Args     metadata: 2*pairs texts, key and value in turn, or NULL with 0 pairs; entries: name,
 *          dtype, ndim and shape of n tensors (count, begin, end are not read); all of it is copied
 * Returns  the writer; NULL on error, and the calls below take a NULL writer
 * Errors   TFP_ERR_ARG for a duplicate or forbidden name, a shape out of range; TFP_ERR_DATA for a
 *          name that is not UTF-8; TFP_ERR_UNSUPPORTED for a type of less than a byte and in a
 *          context without files; TFP_ERR_IO; TFP_ERR_NOMEM
 * Memory   free with tfp_safetensors_finish or tfp_safetensors_abort
 */
TFP_API tfp_safetensors_writer *tfp_safetensors_create(tfp_ctx *ctx, const char *path,
    const char *const *metadata, int64_t pairs, const tfp_safetensors_entry *entries, int64_t n);

/* tfp_safetensors_next -- which of the entries is written now. Types come in the order of
 * TFP_ST_LIST from its end, names in byte order within a type, as the reference lays files out.
 *
 * Returns  an index of entries; -1 when all are complete, after an error, or for NULL
 */
TFP_API int64_t tfp_safetensors_next(const tfp_safetensors_writer *writer);

/* tfp_safetensors_write -- the next elements of the entry that is written now; all or a part.
 *
 * Shapes   values: count floats
 * Args     entry: must be what tfp_safetensors_next says
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_STATE for another entry; TFP_ERR_ARG for more elements than are left, or numbers
 *          that an integer type does not hold; TFP_ERR_UNSUPPORTED for types other than F32, F16,
 *          BF16 (to nearest, ties to even), F64, I64, I32, U8; TFP_ERR_IO
 */
TFP_API tfp_status tfp_safetensors_write(tfp_safetensors_writer *writer, int64_t entry,
                                         const float *values, int64_t count);

/* tfp_safetensors_write_bytes -- the same for bytes as they shall lie in the file (little-endian).
 *
 * Args     entry: must be what tfp_safetensors_next says; bytes: any, up to the end of the entry
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_STATE for another entry; TFP_ERR_ARG for more bytes than are left; TFP_ERR_IO
 */
TFP_API tfp_status tfp_safetensors_write_bytes(tfp_safetensors_writer *writer, int64_t entry,
                                               const void *data, int64_t bytes);

/* tfp_safetensors_finish -- put the file in place and free the writer. If the context has an error,
 * or anything fails here, the old file stays and the new one is removed.
 *
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_STATE if an entry is not complete; TFP_ERR_IO; the context's earlier error
 */
TFP_API tfp_status tfp_safetensors_finish(tfp_safetensors_writer *writer);

/* tfp_safetensors_abort -- remove what was written and free the writer; NULL is fine. */
TFP_API void tfp_safetensors_abort(tfp_safetensors_writer *writer);
/* ================================================================================================
 * >>tensor.h   shapes, strides, views
 * ================================================================================================
 * A tensor is a shape, strides and a pointer. Row-major, outermost axis first, as in NumPy and
 * PyTorch; strides count elements. Views share the data of the tensor that they look at.
 */
typedef enum tfp_dtype { TFP_REAL = 0 /* tfp_real */, TFP_I32 = 1 } tfp_dtype;

typedef struct tfp_tensor tfp_tensor;
struct tfp_tensor {
  int64_t shape[TFP_MAX_DIMS];
  int64_t stride[TFP_MAX_DIMS]; /* elements; 0 where an axis was expanded */
  int ndim;                     /* 0: a scalar, one element */
  tfp_dtype dtype;
  int device;      /* 0: the CPU */
  int needs_grad;  /* a gradient is wanted here */
  void *data;      /* NULL in a dry run */
  tfp_tensor *grad;         /* same shape; NULL until a backward reaches it */
  tfp_tensor *base;         /* a view: the tensor whose data this is; NULL otherwise */
  int64_t offset;           /* a view: elements from the base's first one to its own */
  const char *name;         /* for messages; "" if it has none */
  struct tfpi_node *node;   /* the op that made it; NULL for leaves */
  int fresh; /* a leaf's gradient memory holds nothing yet: the first writer overwrites (2: see
                      tfp_linear_xent, whose forward has written and whose backward must confirm) */
  int keep_grad;   /* the gradient of an intermediate stays after the backward */
};

/* tfp_zeros, tfp_full -- a new tensor in the step arena, filled.
 *
 * Args     ndim in 0..5; shape: ndim sizes >= 0
 * Returns  new tensor without gradient; NULL on error
 * Errors   TFP_ERR_ARG for ndim or a size out of range; TFP_ERR_NOMEM
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_zeros(tfp_ctx *ctx, int ndim, const int64_t *shape);
TFP_API tfp_tensor *tfp_full(tfp_ctx *ctx, int ndim, const int64_t *shape, double value);

/* tfp_from_floats -- a new tensor in the step arena holding a copy of the given numbers.
 *
 * Shapes   values: product of shape numbers, row-major
 * Returns  new tensor without gradient; NULL on error
 * Errors   TFP_ERR_ARG for ndim or a size out of range, or values NULL; TFP_ERR_NOMEM
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_from_floats(tfp_ctx *ctx, int ndim, const int64_t *shape,
                                    const float *values);

/* tfp_from_ints -- the same for token ids, labels and masks (dtype TFP_I32).
 *
 * Shapes   values: product of shape numbers, row-major
 * Returns  new tensor; NULL on error
 * Errors   as tfp_from_floats
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_from_ints(tfp_ctx *ctx, int ndim, const int64_t *shape,
                                  const int32_t *values);

/* tfp_random -- normal numbers of mean 0 in the step arena.
 *
 * Args     std >= 0; stream: see tfp_stream; the seed is the context's
 * Returns  new tensor without gradient; NULL on error
 * Errors   TFP_ERR_ARG; TFP_ERR_NOMEM
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_random(tfp_ctx *ctx, int ndim, const int64_t *shape, double std,
                               uint64_t stream);

/* tfp_named -- give a tensor a name for messages; borrows the text.
 *
 * Returns  the tensor itself, NULL if it is NULL
 */
TFP_API tfp_tensor *tfp_named(tfp_tensor *t, const char *name);

/* tfp_numel -- elements of a tensor: the product of its sizes; 0 for NULL.
 *
 * Returns  elements
 */
TFP_API int64_t tfp_numel(const tfp_tensor *t);

/* tfp_is_contiguous -- whether its elements lie in row-major order without gaps.
 *
 * Returns  1 or 0
 */
TFP_API int tfp_is_contiguous(const tfp_tensor *t);

/* tfp_read -- copy a tensor's numbers out, row-major whatever its strides.
 *
 * Shapes   out: count floats
 * Args     count: must be tfp_numel(t)
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_ARG if count differs, t is NULL or not of dtype TFP_REAL; TFP_ERR_STATE in a dry
 *          run
 */
TFP_API tfp_status tfp_read(tfp_ctx *ctx, const tfp_tensor *t, float *out, int64_t count);

/* tfp_write -- copy numbers into a tensor, row-major whatever its strides.
 *
 * Shapes   values: count floats
 * Args     count: must be tfp_numel(t)
 * Returns  TFP_OK or the error
 * Errors   as tfp_read
 */
TFP_API tfp_status tfp_write(tfp_ctx *ctx, tfp_tensor *t, const float *values, int64_t count);

/* tfp_item -- the number in a one-element tensor (a loss); NaN for NULL or more elements.
 *
 * Returns  its value
 */
TFP_API double tfp_item(const tfp_tensor *t);
/* ================================================================================================
 * >>ops.h   operations and automatic differentiation
 * ================================================================================================
 * An op runs when it is called. If a gradient is wanted somewhere below its result, it also leaves
 * a node on the tape; tfp_backward walks the tape from the newest node to the oldest. Results live
 * in the step arena until tfp_step_reset. A NULL input gives NULL, so errors need one check at the
 * end.
 *
 * Every op stands once in this list; the list makes the enum, the names and the table of forward
 * and backward functions (an op without a backward does not compile), and tests walk it.
 */
#define TFP_OP_LIST(X) /* X(ENUM, name, inputs, the first so many of them get gradients) */ \
  X(ADD,          add,          2, 2) \
  X(SUB,          sub,          2, 2) \
  X(MUL,          mul,          2, 2) \
  X(DIV,          div,          2, 2) \
  X(NEG,          neg,          1, 1) \
  X(SCALE,        scale,        1, 1) \
  X(EXP,          exp,          1, 1) \
  X(LOG,          log,          1, 1) \
  X(SQRT,         sqrt,         1, 1) \
  X(POW,          pow,          1, 1) \
  X(TANH,         tanh,         1, 1) \
  X(SIGMOID,      sigmoid,      1, 1) \
  X(RELU,         relu,         1, 1) \
  X(SILU,         silu,         1, 1) \
  X(GELU,         gelu,         1, 1) \
  X(GELU_NEW,     gelu_new,     1, 1) \
  X(MATMUL,       matmul,       2, 2) \
  X(SUM,          sum,          1, 1) \
  X(MEAN,         mean,         1, 1) \
  X(MAX,          max,          1, 1) \
  X(VIEW,         view,         1, 1) /* reshape, transpose, permute, slice: no copy */ \
  X(EXPAND,       expand,       1, 1) \
  X(COPY,         contiguous,   1, 1) \
  X(CONCAT,       concat,       4, 4) \
  X(GATHER,       embedding,    6, 3) /* up to three tables, then their ids */ \
  X(SOFTMAX,      softmax,      1, 1) \
  X(LOG_SOFTMAX,  log_softmax,  1, 1) \
  X(LAYERNORM,    layernorm,    4, 4) /* x, g, b, residual */ \
  X(RMSNORM,      rmsnorm,      4, 4) /* x, g, none, residual */ \
  X(DROPOUT,      dropout,      1, 1) \
  X(MASKED_FILL,  masked_fill,  2, 1) \
  X(XENT,         cross_entropy, 2, 1) \
  X(LINEAR,       linear,       3, 3) /* x, W, b */ \
  X(LINEAR_XENT,  linear_xent,  4, 3) /* x, W, b, labels */ \
  X(ATTENTION,    attention,    7, 4) /* q, k, v, relative bias, mask, q_doc, k_doc */ \
  X(ROTARY,       rotary,       2, 1) \
  X(RECOMPUTE,    recompute,    3, 3) /* x, and what fn reads besides that wants a gradient */

typedef enum tfp_op {
#define TFPI_X(ENUM, name, inputs, grads) TFP_OP_##ENUM,
  TFP_OP_LIST(TFPI_X)
#undef TFPI_X
  TFP_OP_COUNT
} tfp_op;

/* tfp_op_name -- "layernorm" for TFP_OP_LAYERNORM.
 *
 * Returns  a constant string; "unknown" outside the list
 */
TFP_API const char *tfp_op_name(tfp_op op);

/* ---- gradients ---- */

/* tfp_leaf -- a tensor whose gradient is wanted, in the step arena, holding a copy of t.
 *
 * Shapes   t: any   ->   the same, contiguous
 * Returns  new tensor with needs_grad set; NULL on error
 * Errors   TFP_ERR_NOMEM
 * Memory   valid until tfp_step_reset. Models keep theirs longer: see tfp_param
 */
TFP_API tfp_tensor *tfp_leaf(tfp_ctx *ctx, const tfp_tensor *t);

/* tfp_backward -- gradients of a scalar with respect to every leaf below it.
 *
 * Shapes   loss: one element
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_SHAPE if loss has more than one element; TFP_ERR_STATE if nothing below it wants
 *          a gradient, or its tape was walked already; TFP_ERR_ARG if what comes back to a
 *          tfp_linear_xent is not 1
 * Grad     leaves add to the gradient that they hold (see tfp_params_zero_grad); intermediates give
 *          their gradient memory back unless tfp_keep_grad was called
 * Cost     about twice the forward
 */
TFP_API tfp_status tfp_backward(tfp_ctx *ctx, tfp_tensor *loss);

/* tfp_grad -- the gradient of a tensor after tfp_backward; NULL if none reached it.
 *
 * Returns  a tensor of the same shape, owned by t
 */
TFP_API tfp_tensor *tfp_grad(const tfp_tensor *t);

/* tfp_keep_grad -- let an intermediate keep its gradient after tfp_backward.
 *
 * Returns  t
 */
TFP_API tfp_tensor *tfp_keep_grad(tfp_tensor *t);

/* tfp_no_grad_begin, tfp_no_grad_end -- between them ops leave nothing on the tape. They nest. */
TFP_API void tfp_no_grad_begin(tfp_ctx *ctx);
TFP_API void tfp_no_grad_end(tfp_ctx *ctx);

/* tfp_training -- switch dropout on or off (off in a new context), and say where its draws stand.
 *
 * Args     on: 0 or 1; step: optimiser step; example: number of the batch's first example in the
 *          step
 */
TFP_API void tfp_training(tfp_ctx *ctx, int on, uint64_t step, uint64_t example);

/* tfp_gradcheck -- compare gradients with central differences.
 *
 * Shapes   leaves: count tensors with needs_grad, which fn reads
 * Args     fn(ctx, user): builds a scalar from the leaves with ops and returns it; called many
 *          times, with the step arena released after each call; step > 0: the difference, 1e-5
 *          suits double
 * Returns  TFP_OK, with the worst relative error in *worst: |numeric - analytic| over the larger of
 *          the two and a thousandth of that leaf's largest gradient
 * Errors   whatever fn raises
 * Memory   scratch in the step arena
 * Cost     two calls of fn an element
 */
TFP_API tfp_status tfp_gradcheck(tfp_ctx *ctx, tfp_tensor *(*fn)(tfp_ctx *ctx, void *user),
                                 void *user, tfp_tensor *const *leaves, int count, double step,
                                 double *worst);

/* tfp_recompute -- run fn(x) without keeping what is inside; the backward runs it again.
 *
 * Shapes   x: any   ->   what fn returns
 * Args     fn(ctx, user, x): ops only; its draws have coordinates, so both runs make the same
 * Returns  fn's result; NULL on error
 * Errors   whatever fn raises
 * Grad     x, and every parameter that fn reads; other tensors that want a gradient must not be
 *          read
 * Memory   keeps x and the result; the backward needs fn's intermediates once
 * Cost     one more forward of fn
 * Source   Chen, Xu, Zhang, Guestrin 2016 (arXiv:1604.06174)
 */
TFP_API tfp_tensor *tfp_recompute(tfp_ctx *ctx,
                                  tfp_tensor *(*fn)(tfp_ctx *ctx, void *user, tfp_tensor *x),
                                  void *user, tfp_tensor *x);

/* ---- elementwise ---- */

/* tfp_add, tfp_sub, tfp_mul, tfp_div -- c = a op b, elementwise with NumPy's broadcasting.
 *
 * Shapes   a, b: aligned at the last axis; an axis of size 1 or missing is repeated   ->   the
 *          larger
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE if two sizes differ and neither is 1; TFP_ERR_NOMEM
 * Grad     a, b; summed over the axes that were repeated
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_add(tfp_ctx *ctx, tfp_tensor *a, tfp_tensor *b);
TFP_API tfp_tensor *tfp_sub(tfp_ctx *ctx, tfp_tensor *a, tfp_tensor *b);
TFP_API tfp_tensor *tfp_mul(tfp_ctx *ctx, tfp_tensor *a, tfp_tensor *b);
TFP_API tfp_tensor *tfp_div(tfp_ctx *ctx, tfp_tensor *a, tfp_tensor *b);

/* tfp_neg, tfp_exp, tfp_log, tfp_sqrt, tfp_tanh, tfp_sigmoid, tfp_relu, tfp_silu, tfp_gelu,
 * tfp_gelu_new -- y = f(x), elementwise.
 *
 *   sigmoid 1/(1+exp(-x))     silu x sigmoid(x)     gelu x/2 (1 + erf(x/sqrt 2)), as in BERT and
 *   BART gelu_new x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as in GPT-2, BLOOM and T5 v1.1
 *
 * Shapes   x: any   ->   y: the same
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_NOMEM
 * Grad     x
 * Memory   valid until tfp_step_reset
 * Source   Hendrycks, Gimpel 2016 (arXiv:1606.08415) for gelu
 */
TFP_API tfp_tensor *tfp_neg(tfp_ctx *ctx, tfp_tensor *x);
TFP_API tfp_tensor *tfp_exp(tfp_ctx *ctx, tfp_tensor *x);
TFP_API tfp_tensor *tfp_log(tfp_ctx *ctx, tfp_tensor *x);
TFP_API tfp_tensor *tfp_sqrt(tfp_ctx *ctx, tfp_tensor *x);
TFP_API tfp_tensor *tfp_tanh(tfp_ctx *ctx, tfp_tensor *x);
TFP_API tfp_tensor *tfp_sigmoid(tfp_ctx *ctx, tfp_tensor *x);
TFP_API tfp_tensor *tfp_relu(tfp_ctx *ctx, tfp_tensor *x);
TFP_API tfp_tensor *tfp_silu(tfp_ctx *ctx, tfp_tensor *x);
TFP_API tfp_tensor *tfp_gelu(tfp_ctx *ctx, tfp_tensor *x);
TFP_API tfp_tensor *tfp_gelu_new(tfp_ctx *ctx, tfp_tensor *x);

/* tfp_scale, tfp_pow -- y = x * c, and y = x to the power c.
 *
 * Shapes   x: any   ->   y: the same
 * Args     c: a number; a negative x has a power only if c is whole
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_NOMEM
 * Grad     x
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_scale(tfp_ctx *ctx, tfp_tensor *x, double c);
TFP_API tfp_tensor *tfp_pow(tfp_ctx *ctx, tfp_tensor *x, double c);

/* tfp_masked_fill -- y = value where mask is not 0, x elsewhere.
 *
 * Shapes   x: any   mask: int32, broadcast to x   ->   y: as x
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE; TFP_ERR_ARG if mask is not int32; TFP_ERR_NOMEM
 * Grad     x; 0 where it was masked
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_masked_fill(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *mask, double value);

/* tfp_dropout -- set each element to 0 with probability p and scale the others by 1/(1-p), while
 * training (see tfp_training); otherwise x itself.
 *
 * Shapes   x (B,T,C), or fewer axes (the first is always the example)   ->   the same
 * Args     p in [0,1); layer, site: which draws (see tfp_stream); the index is (example, t, c)
 * Returns  x, or a new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_ARG for p or more than three axes; TFP_ERR_NOMEM
 * Grad     x; the backward makes the same draws again
 * Memory   valid until tfp_step_reset
 * Source   Srivastava et al. 2014, JMLR 15
 */
TFP_API tfp_tensor *tfp_dropout(tfp_ctx *ctx, tfp_tensor *x, double p, unsigned layer,
                                unsigned site);

/* ---- products and sums ---- */

/* tfp_matmul -- C = A @ B over the last two axes; the axes before them broadcast. Transposes cost
 * nothing: pass tfp_transpose(ctx, B, -1, -2).
 *
 *   C[...,m,n] = sum_k A[...,m,k] B[...,k,n]
 *
 * Shapes   A (...,M,K)   B (...,K,N)   ->   C (...,M,N)
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE if the K differ, batch axes do not broadcast or an operand has under two
 *          axes
 * Grad     A, B
 * Memory   valid until tfp_step_reset
 * Cost     2 M N K flops a batch
 */
TFP_API tfp_tensor *tfp_matmul(tfp_ctx *ctx, tfp_tensor *a, tfp_tensor *b);

enum { TFP_ALL_AXES = 127 };
/* tfp_sum, tfp_mean, tfp_max -- over one axis (kept with size 1), or over all to a scalar.
 *
 * Shapes   x: any   ->   x with size 1 at axis, or () for TFP_ALL_AXES
 * Args     axis: 0..ndim-1, or negative from the end, or TFP_ALL_AXES
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_ARG for axis; TFP_ERR_NOMEM
 * Grad     x; of equal maxima the first gets it
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_sum(tfp_ctx *ctx, tfp_tensor *x, int axis);
TFP_API tfp_tensor *tfp_mean(tfp_ctx *ctx, tfp_tensor *x, int axis);
TFP_API tfp_tensor *tfp_max(tfp_ctx *ctx, tfp_tensor *x, int axis);

/* ---- shapes ---- */

/* tfp_reshape -- the same numbers under another shape; a view if x is contiguous, else a copy.
 *
 * Args     one size may be -1: what is left
 * Returns  tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE if the element counts differ
 * Grad     x
 * Memory   shares x's data; valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_reshape(tfp_ctx *ctx, tfp_tensor *x, int ndim, const int64_t *shape);

/* tfp_transpose, tfp_permute -- swap two axes, or put axes in another order. Views.
 *
 * Args     axes may be negative from the end; order: x's axis for each axis of the result, all once
 * Returns  view in the step arena; NULL on error
 * Errors   TFP_ERR_ARG for an axis out of range or named twice
 * Grad     x
 * Memory   shares x's data
 */
TFP_API tfp_tensor *tfp_transpose(tfp_ctx *ctx, tfp_tensor *x, int axis_a, int axis_b);
TFP_API tfp_tensor *tfp_permute(tfp_ctx *ctx, tfp_tensor *x, const int *order);

/* tfp_slice -- elements start, start+1, ..., start+length-1 of one axis. A view.
 *
 * Returns  view in the step arena; NULL on error
 * Errors   TFP_ERR_ARG if the range leaves the axis
 * Grad     x
 * Memory   shares x's data
 */
TFP_API tfp_tensor *tfp_slice(tfp_ctx *ctx, tfp_tensor *x, int axis, int64_t start, int64_t length);

/* tfp_split -- parts of equal length along an axis, as views.
 *
 * Shapes   x (...,N,...)   ->   out: parts tensors (...,N/parts,...)
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_SHAPE if parts does not divide N; TFP_ERR_ARG
 * Grad     x
 * Memory   shares x's data
 */
TFP_API tfp_status tfp_split(tfp_ctx *ctx, tfp_tensor *x, int axis, int parts, tfp_tensor **out);

/* tfp_expand -- repeat axes of size 1 (and new ones in front) to a shape, without a copy.
 *
 * Returns  view in the step arena, stride 0 where it repeats; NULL on error
 * Errors   TFP_ERR_SHAPE if an axis is neither 1 nor equal
 * Grad     x; summed over what was repeated
 * Memory   shares x's data; read only
 */
TFP_API tfp_tensor *tfp_expand(tfp_ctx *ctx, tfp_tensor *x, int ndim, const int64_t *shape);

/* tfp_contiguous -- x itself if its elements lie in order, else a copy that does.
 *
 * Returns  tensor in the step arena; NULL on error
 * Errors   TFP_ERR_NOMEM
 * Grad     x
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_contiguous(tfp_ctx *ctx, tfp_tensor *x);

/* tfp_concat -- two to four tensors one after the other along an axis.
 *
 * Shapes   equal but for the axis   ->   the sizes of the axis add up
 * Args     count in 1..4; more: concatenate again
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE if other axes differ; TFP_ERR_ARG for count or axis
 * Grad     each input
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_concat(tfp_ctx *ctx, tfp_tensor *const *parts, int count, int axis);

/* ---- rows ---- */

/* tfp_softmax, tfp_log_softmax -- over the last axis.
 *
 *   softmax(x)_j = exp(x_j - max x) / sum_k exp(x_k - max x)
 *
 * Shapes   x (...,N)   ->   the same
 * Returns  new tensor in the step arena; NULL on error. A row of -inf alone gives zeros (log: -inf)
 * Errors   TFP_ERR_SHAPE for a scalar; TFP_ERR_NOMEM
 * Grad     x. Saves the result
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_softmax(tfp_ctx *ctx, tfp_tensor *x);
TFP_API tfp_tensor *tfp_log_softmax(tfp_ctx *ctx, tfp_tensor *x);

/* tfp_layernorm -- normalise each length-C row to mean 0, variance 1, then scale and shift.
 *
 *   y[...,:] = g * (x[...,:] - mu) / sqrt(var + eps) + b        mu, var over C, biased variance
 *
 * Shapes   x (...,C)   g (C)   b (C) or NULL   ->   y (...,C)
 * Args     eps > 0, added to the variance (not to its root); 1e-12 in BERT, 1e-5 in GPT-2
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE if g or b is not (C); TFP_ERR_ARG if eps <= 0; TFP_ERR_NOMEM
 * Grad     x, g, b. Saves mu and 1/sigma: 2 numbers a row
 * Memory   valid until tfp_step_reset
 * Cost     about 8 flops an element, two passes over x
 * Source   Ba, Kiros, Hinton 2016 (arXiv:1607.06450) section 3. Deviation: the paper has no eps
 */
TFP_API tfp_tensor *tfp_layernorm(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *g, tfp_tensor *b,
                                  double eps);

/* tfp_rmsnorm -- divide each length-C row by its root mean square, then scale.
 *
 *   y[...,:] = g * x[...,:] / sqrt(mean(x^2) + eps)
 *
 * Shapes   x (...,C)   g (C)   ->   y (...,C)
 * Args     eps > 0; 1e-6 in T5
 * Returns  new tensor in the step arena; NULL on error
 * Errors   as tfp_layernorm
 * Grad     x, g
 * Memory   valid until tfp_step_reset
 * Source   Zhang, Sennrich 2019 (arXiv:1910.07467)
 */
TFP_API tfp_tensor *tfp_rmsnorm(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *g, double eps);

/* tfp_norm_residual -- s = x + residual and y = norm(s), in one pass: the seam between sub-layers.
 *
 * Shapes   x, residual (...,C)   g (C)   b (C) or NULL   ->   y, s (...,C)
 * Args     rms: 0 layernorm, 1 rmsnorm (b NULL); sum: where s is put, or NULL if it is not needed
 * Returns  y; NULL on error
 * Errors   as tfp_layernorm, and TFP_ERR_SHAPE if x and residual differ
 * Grad     x, residual, g, b; from y and from s
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_norm_residual(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *residual,
                                      tfp_tensor *g, tfp_tensor *b, double eps, int rms,
                                      tfp_tensor **sum);

/* tfp_embedding -- rows of a table.
 *
 *   y[...,:] = table[ids[...],:]
 *
 * Shapes   table (V,C)   ids: int32, any   ->   y (ids..., C)
 * Args     padding_id: this row gets no gradient from look-ups; -1 for none
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE; TFP_ERR_DATA for an id outside [0,V), with its place; TFP_ERR_NOMEM
 * Grad     table
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_embedding(tfp_ctx *ctx, tfp_tensor *table, tfp_tensor *ids,
                                  int64_t padding_id);

/* tfp_embedding_sum -- the sum of up to three look-ups with ids of one shape: token + position +
 * type.
 *
 * Shapes   tables (V_k,C)   ids: int32, equal shapes   ->   y (ids..., C)
 * Args     count in 1..3; padding_ids: one a table
 * Returns  new tensor in the step arena; NULL on error
 * Errors   as tfp_embedding
 * Grad     the tables
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_embedding_sum(tfp_ctx *ctx, int count, tfp_tensor *const *tables,
                                      tfp_tensor *const *ids, const int64_t *padding_ids);

/* tfp_cross_entropy -- the sum over labelled rows of -log softmax(logits)[label], times a scale.
 *
 * Shapes   logits (N,V)   labels: int32 (N)   ->   ()
 * Args     scale: 1 over the number of labelled rows gives the mean, in nats a token
 * Returns  new tensor in the step arena; NULL on error. No labelled row gives 0
 * Errors   TFP_ERR_SHAPE; TFP_ERR_DATA for a label outside [0,V) that is not TFP_IGNORE_INDEX
 * Grad     logits
 * Memory   valid until tfp_step_reset
 */
TFP_API tfp_tensor *tfp_cross_entropy(tfp_ctx *ctx, tfp_tensor *logits, tfp_tensor *labels,
                                      double scale);

/* ---- fused ---- */

typedef enum tfp_activation {
  TFP_ACT_NONE = 0, TFP_ACT_RELU, TFP_ACT_GELU, TFP_ACT_GELU_NEW, TFP_ACT_SILU, TFP_ACT_TANH
} tfp_activation;

/* tfp_activate -- the activation as an op of its own; x itself for TFP_ACT_NONE.
 *
 * Shapes   x: any   ->   the same
 * Returns  tensor in the step arena; NULL on error
 * Errors   TFP_ERR_ARG for an unknown activation; TFP_ERR_NOMEM
 * Grad     x
 */
TFP_API tfp_tensor *tfp_activate(tfp_ctx *ctx, tfp_tensor *x, tfp_activation act);

/* tfp_linear -- y = act(x W' + b), bias and activation applied while a block is in the cache.
 *
 *   y[...,o] = act(sum_i x[...,i] W[o,i] + b[o])
 *
 * Shapes   x (...,I)   W (O,I)   b (O) or NULL   ->   y (...,O)
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE; TFP_ERR_NOMEM
 * Grad     x, W, b. Saves what goes into the activation
 * Memory   valid until tfp_step_reset
 * Cost     2 rows I O flops
 */
TFP_API tfp_tensor *tfp_linear(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *w, tfp_tensor *b,
                               tfp_activation act);

/* tfp_linear_xent -- cross_entropy(x W' + b, labels), with the logits never whole: labelled rows go
 * by in chunks, and their gradients are made in the same pass.
 *
 * Shapes   x (...,C)   W (V,C)   b (V) or NULL   labels: int32, one a row of x   ->   ()
 * Args     scale: as in tfp_cross_entropy; 0 takes the trainer's, one over the step's scored tokens
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE; TFP_ERR_DATA for a label out of range; TFP_ERR_NOMEM
 * Grad     x, W, b; the gradient that comes back must be 1, so scale here and not afterwards
 * Memory   a chunk of logits (at most 64 MiB, or one row), valid until tfp_step_reset
 * Cost     6 labelled_rows C V flops with gradients, 2 without
 */
TFP_API tfp_tensor *tfp_linear_xent(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *w, tfp_tensor *b,
                                    tfp_tensor *labels, double scale);
/* ================================================================================================
 * >>nn.h   parameters
 * ================================================================================================
 * All parameters of a network lie in one flat array, their gradients in a second of the same
 * layout; the optimiser's moments are two more. A parameter is a tensor that looks into them. Those
 * that are decayed lie in front of those that are not, so an optimiser step is two passes. Layers
 * themselves are ops: tfp_linear, tfp_embedding, tfp_layernorm, tfp_rmsnorm, tfp_activate,
 * tfp_dropout.
 */
typedef enum tfp_init { TFP_INIT_ZERO = 0, TFP_INIT_ONE, TFP_INIT_NORMAL } tfp_init;

typedef struct tfp_param tfp_param;
struct tfp_param {
  const char *name;
  tfp_tensor *tensor;
  int64_t offset;     /* of its first element in the flat arrays */
  tfp_init init;
  double std;         /* of TFP_INIT_NORMAL, or the value of TFP_INIT_ONE */
  int64_t zero_row;   /* this row starts as zeros (padding_idx); -1 for none */
  int decay;          /* weight decay applies */
  int frozen;         /* never trained */
  tfp_param *next;
};

typedef struct tfp_params tfp_params;
struct tfp_params {
  tfp_ctx *ctx;
  tfp_param *first, *last;
  int64_t count;
  int64_t numel;        /* numbers in use */
  int64_t flat;         /* numbers in a flat array: numel and the gaps of alignment */
  int64_t decayed;      /* the first so many of them are decayed */
  tfp_real *data, *grad; /* grad is NULL without training */
  struct tfpi_arena *arena;
};

/* tfp_params_create -- an empty set of parameters, with memory of its own.
 *
 * Returns  a set owned by the context; NULL on error
 * Errors   TFP_ERR_NOMEM
 * Memory   free with tfp_params_free, or with the context
 */
TFP_API tfp_params *tfp_params_create(tfp_ctx *ctx);

/* tfp_param_add -- declare a parameter. It has no data before tfp_params_finish.
 *
 * Args     name: unique, copied; init, std: how it starts; a tensor of two or more axes is decayed
 * Returns  its record, to adjust zero_row, decay or frozen; NULL on error
 * Errors   TFP_ERR_ARG for a name that exists; TFP_ERR_STATE after tfp_params_finish; TFP_ERR_NOMEM
 */
TFP_API tfp_param *tfp_param_add(tfp_params *set, const char *name, int ndim, const int64_t *shape,
                                 tfp_init init, double std);

/* tfp_params_finish -- allocate the flat arrays and initialise. Draws depend on the context's seed
 * and on the parameter's name alone, so that a head more or less changes nothing else.
 *
 * Args     trainable: 0 leaves out the gradients
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_NOMEM; TFP_ERR_STATE if called twice
 */
TFP_API tfp_status tfp_params_finish(tfp_params *set, int trainable);

/* tfp_params_free -- free a set and its arrays.
 *
 * Args     set: NULL is fine
 */
TFP_API void tfp_params_free(tfp_params *set);

/* tfp_params_find -- a parameter by name.
 *
 * Returns  its record; NULL if there is none
 */
TFP_API tfp_param *tfp_params_find(const tfp_params *set, const char *name);

/* tfp_params_zero_grad -- forget all gradients, without touching their memory: the next backward
 * overwrites instead of adding. */
TFP_API void tfp_params_zero_grad(tfp_params *set);

/* tfp_params_untouched -- parameters that no gradient has reached since tfp_params_zero_grad.
 *
 * Shapes   names: room for max texts, or NULL
 * Returns  how many there are
 */
TFP_API int64_t tfp_params_untouched(const tfp_params *set, const char **names, int64_t max);

/* tfp_params_copy -- copy every parameter that both sets have under one name and shape.
 *
 * Returns  how many were copied
 * Errors   TFP_ERR_STATE before tfp_params_finish
 */
TFP_API int64_t tfp_params_copy(tfp_params *to, const tfp_params *from);
/* ================================================================================================
 * >>attention.h   attention, its masks and its position schemes
 * ================================================================================================
 * One op for all three kinds of transformer: bidirectional (BERT), causal (GPT), cross (decoder
 * over encoder). The T x S matrix of weights never exists; masks are functions of position and
 * document.
 */
typedef struct tfp_attention_desc {
  int causal;            /* query i, at key position i + S - T, sees no later key */
  double scale;          /* of the scores; 0 means 1/sqrt(D); T5 uses 1 */
  double dropout;        /* of the weights, while training, in [0,1) */
  unsigned layer, site;  /* which random draws; site s takes s ... s+H-1 */
  tfp_tensor *bias; /* (H,T+S-1) added to the scores by distance, see tfp_relative_bias; or NULL */
  tfp_tensor *slopes;    /* (H) ALiBi: slope times the key's position is added; or NULL */
  tfp_tensor *mask;      /* int32 (B,S): 0 hides a key from everybody; or NULL */
  tfp_tensor *q_doc, *k_doc; /* int32 (B,T), (B,S): a query sees keys of its own document; or NULL.
                            A document is a run of equal numbers */
} tfp_attention_desc;

/* tfp_attention -- softmax(scale Q K' + bias) V for every head, without the matrix of weights.
 *
 *   s[i,j] = scale q_i . k_j + bias[h, j-i+T-1] + slope_h p_j     o_i = sum_j softmax_j(s)[i,j] v_j
 *
 * Shapes   q (B,T,H*D)   k, v (B,S,H*D), views of one product are fine   ->   o (B,T,H*D)
 * Args     heads H >= 1, divides the width; desc: NULL is bidirectional with scale 1/sqrt(D)
 * Returns  new tensor in the step arena; NULL on error. A query that sees no key gives zeros
 * Errors   TFP_ERR_SHAPE; TFP_ERR_ARG; TFP_ERR_NOMEM
 * Grad     q, k, v, bias. Saves one number a query and head
 * Memory   valid until tfp_step_reset
 * Cost     4 B H T S D flops (half when causal); the backward 2.5 times as much
 * Source   Vaswani et al. 2017 (arXiv:1706.03762); Dao et al. 2022 (arXiv:2205.14135) for the
 *          tiling
 */
TFP_API tfp_tensor *tfp_attention(tfp_ctx *ctx, tfp_tensor *q, tfp_tensor *k, tfp_tensor *v,
                                  int64_t heads, const tfp_attention_desc *desc);

/* tfp_relative_bias -- T5's bias by distance: a learned number for each bucket of distances and
 * head.
 *
 *   out[h,r] = table[bucket(r - (S-1)), h]        r - (S-1) = key position - query position
 *
 * Shapes   table (buckets,H)   ->   (H,T+S-1)
 * Args     T queries that end where S keys end; bidirectional: half of the buckets for later keys;
 *          max_distance: from here on one bucket (128 in T5)
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE; TFP_ERR_ARG if buckets or max_distance are too small
 * Grad     table
 * Source   Raffel et al. 2020 (arXiv:1910.10683) section 2.1. One table serves all layers of a
 *          stack
 */
TFP_API tfp_tensor *tfp_relative_bias(tfp_ctx *ctx, tfp_tensor *table, int64_t T, int64_t S,
                                      int bidirectional, int64_t max_distance);

/* tfp_relative_bucket -- the bucket of one distance (key position - query position).
 *
 * Returns  a bucket in [0,buckets)
 */
TFP_API int64_t tfp_relative_bucket(int64_t distance, int bidirectional, int64_t buckets,
                                    int64_t max_distance);

/* tfp_alibi_slopes -- ALiBi's fixed slopes: 2^(-8 i/H) for i = 1..H where H is a power of two.
 *
 * Shapes   ->   (H)
 * Args     heads H >= 1; other counts take every second slope of the next power of two, as BLOOM
 *          does
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_ARG; TFP_ERR_NOMEM
 * Source   Press, Smith, Lewis 2022 (arXiv:2108.12409)
 */
TFP_API tfp_tensor *tfp_alibi_slopes(tfp_ctx *ctx, int64_t heads);

/* tfp_rotary -- turn pairs of channels by an angle that grows with the position.
 *
 *   (x_i, x_{i+D/2}) turned by p * base^(-2i/D)        i < D/2, in each head
 *
 * Shapes   x (B,T,H*D)   positions: int32 (B,T) or NULL for start, start+1, ...   ->   (B,T,H*D)
 * Args     heads H; D even; base > 0 (10000)
 * Returns  new tensor in the step arena; NULL on error
 * Errors   TFP_ERR_SHAPE; TFP_ERR_ARG
 * Grad     x
 * Source   Su et al. 2021 (arXiv:2104.09864)
 */
TFP_API tfp_tensor *tfp_rotary(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *positions, int64_t start,
                               int64_t heads, double base);
/* ================================================================================================
 * >>tokenizer.h   text to ids and back
 * ================================================================================================
 * A tokenizer is a pipeline: added tokens are cut out of the text, the rest is split into words,
 * the model turns each word into ids, a template puts special tokens around the whole; a decoder
 * goes back. Three models are here: bytes, characters, and BPE, on bytes as GPT-2 and RoBERTa have
 * it. Files are those of Hugging Face. Read tfp_tokenizer_train_bpe, tfp_encode and tfp_decode.
 */

/* Which special tokens a tokenizer gets, by the family whose published one has them. */
typedef enum tfp_special_style {
  TFP_SPECIALS_NONE = 0,
  TFP_SPECIALS_BERT,    /* [PAD] [UNK] [CLS] [SEP] [MASK];    text becomes [CLS] A [SEP] */
  TFP_SPECIALS_ROBERTA, /* <s> <pad> </s> <unk> <mask>, also BART's;     <s> A </s> */
  TFP_SPECIALS_GPT2,    /* <|endoftext|>;                                A */
  TFP_SPECIALS_BLOOM,   /* <unk> <s> </s> <pad>;                         A */
  TFP_SPECIALS_T5,      /* <pad> </s> <unk> <extra_id_99> ... <extra_id_0>;  A </s> */
  TFP_SPECIALS_COUNT
} tfp_special_style;

typedef enum tfp_tokenizer_kind {
  TFP_TOKENIZER_BYTES = 0, /* an id for each byte */
  TFP_TOKENIZER_CHARS,     /* an id for each code point of a corpus */
  TFP_TOKENIZER_BPE        /* merged pairs, of bytes or of characters */
} tfp_tokenizer_kind;

/* Ids of the tokens that play a part; -1 where there is none. One token may play several parts:
 * <s> is bos and cls, <|endoftext|> is bos and eos. Sentinel i is sentinel0 + i*sentinel_step. */
typedef struct tfp_special_ids {
  int32_t bos, eos, pad, unk, cls, sep, mask;
  int32_t sentinel0;     /* <extra_id_0>: the highest id where the step is -1 */
  int32_t sentinels;     /* how many follow each other; 0 if there are none */
  int32_t sentinel_step; /* -1 as in the published T5; +1 in some later files */
} tfp_special_ids;

enum { /* flags of tfp_encode */
  TFP_ADD_SPECIAL = 1,  /* put the template's tokens around the text, as tokenizer(text) does */
  TFP_PARSE_SPECIAL = 2 /* "<mask>" in the text becomes the mask's id, not five letters */
};
enum { /* flags of tfp_decode */
  TFP_SKIP_SPECIAL = 1,   /* special tokens give no text */
  TFP_REPLACE_INVALID = 2 /* bytes that are not UTF-8 become U+FFFD, as in the reference */
};

/* What tfp_tokenizer_train_bpe learns by. All zero is a good description. */
typedef struct tfp_bpe_options {
  int64_t min_frequency; /* a pair seen less often is never merged; 0 means 2, 1 means no limit */
  int64_t max_words;     /* most distinct words; new ones beyond it are not counted; 0: no limit */
} tfp_bpe_options;

typedef struct tfp_tokenizer tfp_tokenizer;
typedef struct tfp_encoder tfp_encoder;

/* tfp_tokenizer_bytes -- ids 0 to 255 are the byte values, the special tokens follow.
 *
 * Returns  a tokenizer owned by the context; NULL on error
 * Errors   TFP_ERR_ARG for an unknown style; TFP_ERR_NOMEM
 * Memory   its own arena, until tfp_tokenizer_free or tfp_destroy
 */
TFP_API tfp_tokenizer *tfp_tokenizer_bytes(tfp_ctx *ctx, tfp_special_style style);

/* tfp_tokenizer_chars -- every code point in the files, in code point order, then special tokens.
 *
 * Args     paths: n >= 1 files of UTF-8, read as streams
 * Returns  a tokenizer owned by the context; NULL on error
 * Errors   TFP_ERR_DATA, with file and byte offset, where a file is not UTF-8; TFP_ERR_IO;
 *          TFP_ERR_ARG; TFP_ERR_NOMEM
 * Memory   its own arena, until tfp_tokenizer_free or tfp_destroy
 */
TFP_API tfp_tokenizer *tfp_tokenizer_chars(tfp_ctx *ctx, const char *const *paths, int n,
                                           tfp_special_style style);

/* tfp_tokenizer_train_bpe -- learn a byte-level BPE vocabulary.
 *
 * Words are cut by GPT-2's rule within each line (with its newline) and counted; then the commonest
 * pair of neighbours becomes a token, again and again. Ties go to the smaller (left id, right id).
 * The ids: special tokens, the 256 bytes in GPT-2's order, the merges; but <|endoftext|> and T5's
 * sentinels come last. A text with few words gives a smaller vocabulary than was asked for.
 *
 * Args     paths: n >= 1 files, read as streams; any bytes; vocab_size >= 256 + special tokens,
 *          at most 2^24; options: NULL or a description
 * Returns  a tokenizer owned by the context; NULL on error
 * Errors   TFP_ERR_ARG; TFP_ERR_IO; TFP_ERR_NOMEM
 * Memory   its own arena, until tfp_tokenizer_free or tfp_destroy; while it learns about 100 bytes
 *          per distinct word, and 16 per letter of those
 * Cost     the text once, then about the distinct words' letters times the depth of merging
 * Source   Sennrich, Haddow, Birch 2016 (arXiv:1508.07909); same merges as Hugging Face's
 *          BpeTrainer with the byte alphabet
 */
TFP_API tfp_tokenizer *tfp_tokenizer_train_bpe(tfp_ctx *ctx, const char *const *paths, int n,
                                               int64_t vocab_size, tfp_special_style style,
                                               const tfp_bpe_options *options);

/* tfp_tokenizer_load -- read dir/tokenizer.json, or else dir/vocab.json and dir/merges.txt.
 *
 * Of pipelines it takes BPE on bytes with GPT-2's or BLOOM's words or none, and BPE on characters
 * without words; OpenAI's names encoder.json and vocab.bpe do as well. Parts (bos, mask and so on)
 * come from tokenizer_config.json or special_tokens_map.json where these name any, else from the
 * usual names. What a file says about truncation and padding is not used.
 *
 * Returns  a tokenizer owned by the context; NULL on error
 * Errors   TFP_ERR_IO if there is no such file; TFP_ERR_FORMAT if it contradicts itself;
 *          TFP_ERR_UNSUPPORTED, naming the component, if it wants what is not here; TFP_ERR_NOMEM
 * Memory   its own arena, until tfp_tokenizer_free or tfp_destroy
 */
TFP_API tfp_tokenizer *tfp_tokenizer_load(tfp_ctx *ctx, const char *dir);

/* tfp_tokenizer_save -- write dir/tokenizer.json and dir/tokenizer_config.json, which
 * transformers.AutoTokenizer.from_pretrained(dir) opens, and which gives the same ids there.
 *
 * Args     dir: exists; model_max_length: tokens the model takes, 0 if that is unknown
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_IO; TFP_ERR_NOMEM
 */
TFP_API tfp_status tfp_tokenizer_save(tfp_tokenizer *tok, const char *dir,
                                      int64_t model_max_length);

/* tfp_tokenizer_free -- free a tokenizer; its encoders go with it.
 *
 * Args     tok: NULL is fine
 */
TFP_API void tfp_tokenizer_free(tfp_tokenizer *tok);

/* tfp_encode -- the ids of a text.
 *
 * "Hello world" with GPT-2's vocabulary gives 15496 995; with RoBERTa's and TFP_ADD_SPECIAL
 * 0 31414 232 2.
 *
 * Args     text: any bytes, also NUL (characters: UTF-8 alone); flags: TFP_ADD_SPECIAL,
 *          TFP_PARSE_SPECIAL or 0; ids: room for max ids, or NULL and 0 to learn the number
 * Returns  how many ids the text has, also where that is more than max; -1 on error
 * Errors   TFP_ERR_DATA, with the byte offset, for a character that the vocabulary lacks (where it
 *          has an unk token, that is used) and for characters that are not UTF-8
 * Memory   nothing is allocated after the first texts: words of up to 256 KiB are merged in a
 *          buffer that grows to the longest so far, and longer ones are cut there
 * Cost     a word seen lately is looked up; others cost their length times its logarithm
 */
TFP_API int64_t tfp_encode(tfp_tokenizer *tok, const char *text, int64_t bytes, int flags,
                           int32_t *ids, int64_t max);

/* tfp_encode_pair -- the ids of two texts, joined by the template ([CLS] A [SEP] B [SEP]).
 *
 * Args     as tfp_encode; types: room for max numbers 0 or 1 (token_type_ids), or NULL
 * Returns  how many ids the pair has; -1 on error
 * Errors   as tfp_encode
 */
TFP_API int64_t tfp_encode_pair(tfp_tokenizer *tok, const char *a, int64_t a_bytes, const char *b,
                                int64_t b_bytes, int flags, int32_t *ids, int32_t *types,
                                int64_t max);

/* tfp_decode -- the text of ids.
 *
 * With bytes and byte-level BPE tfp_decode(tfp_encode(x)) is x for any bytes x.
 *
 * Args     flags: TFP_SKIP_SPECIAL, TFP_REPLACE_INVALID or 0; out: room for max bytes, or NULL, 0
 * Returns  bytes of the text, also where that is more than max; -1 on error. A NUL follows the text
 *          if there is room for it
 * Errors   TFP_ERR_DATA for an id that the vocabulary lacks
 */
TFP_API int64_t tfp_decode(tfp_tokenizer *tok, const int32_t *ids, int64_t n, int flags, char *out,
                           int64_t max);

/* tfp_encoder_new -- encode a text that comes in pieces, cut anywhere.
 *
 * What it emits is what tfp_encode gives for the whole text. The exception is a stretch of more
 * than 256 KiB without a place where the words before and after do not depend on each other (in
 * GPT-2's rule: without a blank after a letter, digit or sign); it is cut.
 *
 * Args     flags: as in tfp_encode; emit: gets ids in order, may return an error to stop, and gets
 *          user
 * Returns  an encoder owned by the tokenizer; NULL on error
 * Errors   TFP_ERR_UNSUPPORTED for TFP_PARSE_SPECIAL with a token that has white space inside;
 *          TFP_ERR_NOMEM
 * Memory   about 1.3 MB, until tfp_encoder_free or the tokenizer's end
 */
TFP_API tfp_encoder *tfp_encoder_new(tfp_tokenizer *tok, int flags,
                                     tfp_status (*emit)(void *user, const int32_t *ids, int64_t n),
                                     void *user);

/* tfp_encoder_feed, tfp_encoder_end -- the next piece of the text; its end. After the end, or after
 * an error, a new text may begin.
 *
 * Returns  TFP_OK, the error, or what emit returned (recorded as an error of the context)
 * Errors   as tfp_encode, with the byte offset in the whole text
 */
TFP_API tfp_status tfp_encoder_feed(tfp_encoder *enc, const char *text, int64_t bytes);
TFP_API tfp_status tfp_encoder_end(tfp_encoder *enc);

/* tfp_encoder_free -- free an encoder.
 *
 * Args     enc: NULL is fine
 */
TFP_API void tfp_encoder_free(tfp_encoder *enc);

/* tfp_vocab_size -- the highest id plus one; 0 for NULL.
 *
 * Returns  ids, special tokens among them
 */
TFP_API int64_t tfp_vocab_size(const tfp_tokenizer *tok);

/* tfp_token_id, tfp_token_text -- between ids and tokens as files spell them ("Ġthe" for " the").
 *
 * Returns  an id or -1; a text owned by the tokenizer, or NULL for an id without a token
 */
TFP_API int32_t tfp_token_id(const tfp_tokenizer *tok, const char *text);
TFP_API const char *tfp_token_text(const tfp_tokenizer *tok, int32_t id);

/* tfp_token_bytes -- the bytes that an id stands for in a text (" the"); a special token: its name.
 *
 * Args     bytes: NULL, or gets the number of them
 * Returns  bytes owned by the tokenizer, not ended by NUL; NULL for an id without a token
 */
TFP_API const char *tfp_token_bytes(const tfp_tokenizer *tok, int32_t id, int64_t *bytes);

/* tfp_token_is_special -- is this one of the special tokens?
 *
 * Returns  1 or 0
 */
TFP_API int tfp_token_is_special(const tfp_tokenizer *tok, int32_t id);

/* tfp_tokenizer_specials -- ids of the tokens that play a part.
 *
 * Returns  a struct of ids, all -1 for NULL
 */
TFP_API tfp_special_ids tfp_tokenizer_specials(const tfp_tokenizer *tok);

/* tfp_tokenizer_type, tfp_tokenizer_name -- which kind it is; "bytes", "chars" or "bpe".
 *
 * Returns  an enum; a constant string
 */
TFP_API tfp_tokenizer_kind tfp_tokenizer_type(const tfp_tokenizer *tok);
TFP_API const char *tfp_tokenizer_name(const tfp_tokenizer *tok);

/* tfp_tokenizer_hash -- a number of all that decides about ids: equal before and after saving.
 *
 * Returns  64 bits, 0 for NULL
 */
TFP_API uint64_t tfp_tokenizer_hash(const tfp_tokenizer *tok);
/* ================================================================================================
 * >>data.h   corpora, splits, batches
 * ================================================================================================
 * Text files are read as a stream and kept as tokens: 2 bytes each (4 where the vocabulary is
 * larger than 65,536). Every example is a function of (seed, number), so the order of the data is
 * not a state.
 */
typedef enum tfp_doc_per { TFP_DOC_PER_FILE = 0, TFP_DOC_PER_BLANK, TFP_DOC_PER_LINE } tfp_doc_per;
typedef enum tfp_partition { TFP_TRAIN = 0, TFP_VALIDATION = 1 } tfp_partition;

typedef struct tfp_data_desc {
  const char *const *paths; /* .jsonl: a document a line, in "text"; others by doc_per */
  int count;
  tfp_tokenizer *tokenizer; /* borrowed */
  tfp_doc_per doc_per;
  double
      val_fraction; /* in [0,1). Under 100 documents: the last part of the tokens; else by document
                       */
  int append_end;      /* 1: the tokenizer's end token stands behind every document */
} tfp_data_desc;

typedef struct tfp_dataset tfp_dataset;

/* tfp_dataset_load -- read and tokenise text.
 *
 * Args     desc: paths, tokenizer, split
 * Returns  a data set owned by the context; NULL on error
 * Errors   TFP_ERR_IO; TFP_ERR_DATA for text without tokens or, for characters, invalid UTF-8, with
 *          the file and offset; TFP_ERR_ARG; TFP_ERR_NOMEM
 * Memory   free with tfp_dataset_free, or with the context
 */
TFP_API tfp_dataset *tfp_dataset_load(tfp_ctx *ctx, const tfp_data_desc *desc);

/* tfp_dataset_from_tokens -- a data set of tokens that the caller has, copied; documents end behind
 * every end_id (-1: one document).
 *
 * Shapes   tokens (n)
 * Returns  a data set owned by the context; NULL on error
 * Errors   TFP_ERR_DATA for a token outside [0,vocab); TFP_ERR_NOMEM
 */
TFP_API tfp_dataset *tfp_dataset_from_tokens(tfp_ctx *ctx, const int32_t *tokens, int64_t n,
                                             int64_t vocab, int32_t end_id, double val_fraction);

/* tfp_dataset_free -- free a data set.
 *
 * Args     data: NULL is fine
 */
TFP_API void tfp_dataset_free(tfp_dataset *data);

/* tfp_dataset_tokens, tfp_dataset_documents, tfp_dataset_hash -- size of a split in tokens;
 * documents of both; a number that changes with any token.
 *
 * Returns  tokens; documents; a hash
 */
TFP_API int64_t tfp_dataset_tokens(const tfp_dataset *data, tfp_partition split);
TFP_API int64_t tfp_dataset_documents(const tfp_dataset *data);
TFP_API uint64_t tfp_dataset_hash(const tfp_dataset *data);

/* tfp_dataset_read -- tokens first, first+1, ..., first+n-1 of a split.
 *
 * Shapes   out (n)
 * Returns  how many there were
 */
TFP_API int64_t tfp_dataset_read(const tfp_dataset *data, tfp_partition split, int64_t first,
                                 int64_t n, int32_t *out);

/* tfp_dataset_windows -- how many windows of a length a training part has; 0 if it is too short.
 *
 * Args     length: tokens of a window, >= 1; each begins where the one before it ends
 * Returns  windows an epoch
 */
TFP_API int64_t tfp_dataset_windows(const tfp_dataset *data, int64_t length);

/* tfp_dataset_window -- where training example number `example` begins. All windows of an epoch
 * come once, in a random order; in each epoch they are cut at another place.
 *
 * Args     length: as above, with at least one window
 * Returns  a position in the training part
 */
TFP_API int64_t tfp_dataset_window(const tfp_dataset *data, uint64_t seed, uint64_t example,
                                   int64_t length);

/* ---- batches ---- */

/* What a model is given: B rows. T is the length of the encoder's input, or of the decoder's where
 * there is no encoder; S that of the decoder behind an encoder. Arrays are row-major int32,
 * borrowed. */
typedef struct tfp_batch {
  int64_t B, T, S;
  const int32_t *ids;        /* (B,T) */
  const int32_t *mask;       /* (B,T) 0: padding; NULL: all are tokens */
  const int32_t *types;      /* (B,T) token types; NULL: 0 */
  const int32_t *positions;  /* (B,T) or NULL: 0,1,2,... (RoBERTa: counted by its rule) */
  const int32_t *docs;       /* (B,T) documents of packed rows; NULL: one a row */
  const int32_t *dec_ids;    /* (B,S) */
  const int32_t *dec_mask;   /* (B,S) or NULL */
  const int32_t *dec_positions, *dec_docs; /* (B,S) or NULL */
  const int32_t
      *labels; /* language modelling (B,T) or (B,S); classes (B); tags (B,T); spans (B,2) */
  int64_t n_labels;          /* numbers in labels */
} tfp_batch;

/* tfp_batch_scored -- labels that count: those that are not TFP_IGNORE_INDEX.
 *
 * Returns  how many
 */
TFP_API int64_t tfp_batch_scored(const tfp_batch *batch);
/* ================================================================================================
 * >>objectives.h   what a model is asked to predict
 * ================================================================================================
 * Pre-training turns plain text into questions with answers. Each objective is a pure function of
 * (tokens, options, seed, index): no state, so that any worker can make any example, and a run that
 * stops and goes on makes the same ones. The worked examples are checked by tests/objectives.c.
 */

/* ---- masked language modelling: BERT, RoBERTa ---- */

typedef enum tfp_mlm_count {
  TFP_MLM_EXACT = 0, /* max(1, round(share * n)) of all n tokens, halves to even: BERT */
  TFP_MLM_EACH,      /* each token by itself with probability `share`: the reference's collator */
  TFP_MLM_DITHERED   /* floor(share * n + u), u uniform in [0,1), specials too: RoBERTa */
} tfp_mlm_count;

typedef struct tfp_mlm_options {
  double share;          /* of the tokens that are asked for; 0 means 0.15 */
  double keep, random;   /* of those, how many stay as they are, how many become a random token;
                            both 0 means 0.1 each; the others become mask_id. All masked: -1, 0 */
  tfp_mlm_count count;
  int32_t mask_id;
  int64_t vocab;         /* random tokens are uniform in [0,vocab) without specials */
  const uint8_t *special; /* (vocab) 1: never asked for (but see DITHERED), never drawn; or NULL */
} tfp_mlm_options;

/* tfp_mlm -- hide tokens and ask for them (masked language modelling).
 *
 *   tokens  [1, 20, 21, 22, 23, 24, 25, 26, 27, 2]   specials 1 2, mask 3, vocab 40, share 0.3
 *   ids     [1, 20, 21, 22, 37, 3, 25, 3, 27, 2]     seed 7, index 3: one random, two masks
 *   labels  [-100, -100, -100, -100, 23, 24, -100, 26, -100, -100]
 *
 * Shapes   tokens (n)   ->   ids (n), labels (n): the hidden token, TFP_IGNORE_INDEX elsewhere
 * Args     work: room for n int32; ids may be tokens itself
 * Returns  how many tokens are asked for
 * Source   Devlin et al. 2018 (arXiv:1810.04805) section 3.1; Liu et al. 2019 (arXiv:1907.11692)
 */
TFP_API int64_t tfp_mlm(const int32_t *tokens, int64_t n, const tfp_mlm_options *options,
                        uint64_t seed, uint64_t index, int32_t *ids, int32_t *labels,
                        int32_t *work);

/* ---- causal language modelling: GPT-2, BLOOM ---- */

/* tfp_clm -- each token asks for the next one.
 *
 *   tokens  [5, 6, 9, 7, 8]   end of document 9, separate
 *   ids     [5, 6, 9, 7]      labels [6, 9, -100, 8]   positions [0, 1, 2, 0]   docs [0, 0, 0, 1]
 *
 * Shapes   tokens (n+1)   ->   ids, labels (n); positions, docs (n) or NULL
 * Args     end_id: the token that ends a document, -1 for none; separate: 1 counts positions anew
 *          after it, numbers the documents for attention and does not ask for a document's first
 *          token
 * Returns  how many labels are scored
 * Source   Radford et al. 2019
 */
TFP_API int64_t tfp_clm(const int32_t *tokens, int64_t n, int32_t end_id, int separate,
                        int32_t *ids, int32_t *labels, int32_t *positions, int32_t *docs);

/* ---- span corruption: T5 ---- */

typedef struct tfp_span_options {
  double density;      /* share of tokens that are hidden; 0 means 0.15 */
  double mean_length;  /* of a hidden span; 0 means 3 */
  int32_t sentinel0;   /* id of the first sentinel; the k-th is sentinel0 + k*sentinel_step */
  int32_t sentinel_step; /* 0 means -1, as in the published T5 */
  int32_t end_id;      /* appended to inputs and targets; -1 for none */
} tfp_span_options;

/* tfp_span_lengths -- how many tokens of text fill inputs of a given length, and how long the
 * targets are then. 512 -> 568 tokens and 114 targets with the usual options, as in the paper's
 * code.
 *
 * Args     inputs: length of the inputs with their end token, >= 4
 * Returns  tokens of text; *targets gets the length of the targets with their end token
 */
TFP_API int64_t tfp_span_lengths(int64_t inputs, const tfp_span_options *options, int64_t *targets);

/* tfp_span_corrupt -- replace spans by sentinels; the targets say what stood there.
 *
 *   tokens  [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]   density 0.3, mean length 1.5
 *   inputs  [10, 11, 12, 13, 14, 15, 99, 18, 98, 1]    sentinel0 99, end 1, seed 7, index 2
 *   targets [99, 16, 17, 98, 19, 1]
 *
 * Shapes   tokens (n), n >= 2   ->   inputs, targets: at most n + 2 each
 * Args     n_inputs, n_targets: the lengths, which depend on n and options alone; work: 4 n int32
 * Returns  the number of spans
 * Source   Raffel et al. 2020 (arXiv:1910.10683) section 3.1.4. A text always begins with what is
 *          kept and ends with what is hidden; there is no sentinel behind the last span
 */
TFP_API int64_t tfp_span_corrupt(const int32_t *tokens, int64_t n, const tfp_span_options *options,
                                 uint64_t seed, uint64_t index, int32_t *inputs, int64_t *n_inputs,
                                 int32_t *targets, int64_t *n_targets, int32_t *work);

/* ---- denoising: BART ---- */

typedef struct tfp_denoise_options {
  double share;        /* of the tokens that are covered by masks; 0 means 0.3 */
  double lambda;       /* mean span length (Poisson); 0 means 3 */
  double permute;      /* share of the sentences that are permuted; 0 means 1, negative none */
  double random;       /* share of the masks that become a random token instead */
  int32_t mask_id;
  int32_t stop_id;     /* the full stop, which ends a sentence; -1: the text is one sentence */
  int64_t vocab;       /* random tokens are uniform in [1,vocab) */
} tfp_denoise_options;

/* tfp_denoise -- permute sentences, then replace spans by one mask each; the target is the clean
 * text.
 *
 *   tokens  [0, 10, 11, 4, 12, 13, 14, 4, 15, 16, 4, 2]   full stop 4, mask 3, share 0.3
 *   noised  [0, 15, 16, 4, 3, 14, 4, 3, 11, 4, 2]         seed 7, index 8
 *
 * Shapes   tokens (n) with their start and end token   ->   noised: at most n
 * Args     work: 7 n int32
 * Returns  the length of noised
 * Source   Lewis et al. 2019 (arXiv:1910.13461) section 2.2, text infilling and sentence
 *          permutation. Deviation: an empty span (a mask is inserted) is left out where the result
 *          would be longer than the text
 */
TFP_API int64_t tfp_denoise(const int32_t *tokens, int64_t n, const tfp_denoise_options *options,
                            uint64_t seed, uint64_t index, int32_t *noised, int32_t *work);

/* tfp_shift_right -- the decoder's input for given targets: the start token, then all but the last.
 *
 *   labels [7, 8, -100, 1], start 0, pad 0   ->   [0, 7, 8, 0]
 *
 * Shapes   labels (n)   ->   out (n)
 */
TFP_API void tfp_shift_right(const int32_t *labels, int64_t n, int32_t start_id, int32_t pad_id,
                             int32_t *out);

/* ---- batches of an objective ---- */

typedef enum tfp_objective { TFP_CLM = 0, TFP_MLM, TFP_SPAN, TFP_DENOISE } tfp_objective;

typedef struct tfp_loader_desc {
  tfp_dataset *data; /* borrowed */
  tfp_objective objective;
  int64_t T;         /* length of the (encoder's) input with its special tokens */
  int64_t rows;      /* most rows that a batch will have */
  uint64_t seed;
  tfp_special_ids special; /* which frame the text: <s> ... </s> for MLM and denoising */
  int32_t decoder_start;   /* SPAN, DENOISE */
  int separate;            /* CLM: documents do not see each other */
  tfp_mlm_options mlm;     /* mask_id, vocab and special are filled in by the caller */
  tfp_span_options span;
  tfp_denoise_options denoise;
} tfp_loader_desc;

typedef struct tfp_loader tfp_loader;

/* tfp_loader_create -- makes batches of an objective out of a data set.
 *
 * Args     desc: copied; what it points to is borrowed
 * Returns  a loader owned by the context; NULL on error
 * Errors   TFP_ERR_ARG for T, rows or ids that cannot be; TFP_ERR_DATA if the training part is
 *          shorter than one example; TFP_ERR_NOMEM
 * Memory   its buffers hold one batch; free with tfp_loader_free, or with the context
 */
TFP_API tfp_loader *tfp_loader_create(tfp_ctx *ctx, const tfp_loader_desc *desc);
TFP_API void tfp_loader_free(tfp_loader *loader);

/* tfp_loader_lengths -- lengths of the batches: T as given, S of the decoder (0 without).
 *
 * Returns  tokens of text behind one example
 */
TFP_API int64_t tfp_loader_lengths(const tfp_loader *loader, int64_t *T, int64_t *S);

/* tfp_loader_train -- training examples first, first+1, ... : the windows of the training part in a
 * random order, each once an epoch, with other cuts and other noise in every epoch.
 *
 * Args     rows <= desc.rows
 * Returns  TFP_OK or the error; the batch's arrays are the loader's, valid until its next call
 * Errors   TFP_ERR_ARG
 */
TFP_API tfp_status tfp_loader_train(tfp_loader *loader, uint64_t first, int64_t rows,
                                    tfp_batch *batch);

/* tfp_loader_source -- tfp_loader_train in the form that tfp_train_desc.source wants.
 *
 * Args     loader: a tfp_loader
 * Returns  as tfp_loader_train
 * Errors   as tfp_loader_train
 */
TFP_API tfp_status tfp_loader_source(void *loader, uint64_t first, int64_t rows, tfp_batch *batch);

/* tfp_loader_eval -- consecutive windows of a split, each token in one of them; the last is padded.
 * Noise is that of a stream of its own, the same for every call.
 *
 * Args     window: number of the first; rows: how many at most
 * Returns  how many rows the batch has, 0 at the end, -1 on error
 * Errors   TFP_ERR_ARG
 */
TFP_API int64_t tfp_loader_eval(tfp_loader *loader, tfp_partition split, int64_t window,
                                int64_t rows, tfp_batch *batch);
/* ================================================================================================
 * >>model.h   one configuration, one block, six families
 * ================================================================================================
 * A configuration says which stacks there are and how a block is built; the forward code reads it.
 * A family is a row of presets: tfp_config_preset("gpt2", &c), then change what you like.
 */
typedef enum tfp_family {
  TFP_BERT = 0,
  TFP_ROBERTA,
  TFP_GPT2,
  TFP_BLOOM,
  TFP_T5,
  TFP_BART,
  TFP_FAMILY_COUNT
} tfp_family;
typedef enum tfp_arch { TFP_ENCODER = 0, TFP_DECODER, TFP_SEQ2SEQ } tfp_arch;
typedef enum tfp_position {
  TFP_POS_NONE = 0,
  TFP_POS_LEARNED,  /* a table of positions */
  TFP_POS_BUCKETS,  /* T5: a learned bias by distance */
  TFP_POS_ALIBI,    /* BLOOM: a fixed slope by distance */
  TFP_POS_ROTARY    /* queries and keys turned by their position */
} tfp_position;
typedef enum tfp_head {
  TFP_HEAD_NONE = 0, /* hidden states alone */
  TFP_HEAD_LM,       /* masked LM for encoders, LM for the others */
  TFP_HEAD_CLASS,    /* a class for each sequence */
  TFP_HEAD_TAG,      /* a class for each token */
  TFP_HEAD_QA,       /* start and end of an answer */
  TFP_HEAD_COUNT
} tfp_head;
typedef enum tfp_pool { TFP_POOL_FIRST = 0, TFP_POOL_LAST, TFP_POOL_LAST_END } tfp_pool;

typedef struct tfp_config {
  tfp_family family;
  tfp_arch arch;
  tfp_head head;
  int64_t vocab_size, hidden, heads, head_dim, ffn; /* 0: hidden / heads, 4 hidden */
  int64_t encoder_layers, decoder_layers;
  int64_t max_positions, type_vocab; /* usable positions (0: no limit); token types (0: none) */
  int64_t num_labels;                /* of TFP_HEAD_CLASS and TFP_HEAD_TAG; 0 means 2 */
  /* the block */
  int rms_norm, norm_first;          /* RMSNorm, not LayerNorm; in front of sub-layers */
  int embedding_norm, final_norm;    /* one behind the embeddings, one behind the last block */
  int residual_after_norm; /* BLOOM's apply_residual_connection_post_layernorm */
  double norm_eps;
  tfp_activation activation;
  int gated;               /* act(W0 x) * (W1 x) in the feed-forward */
  int biases;              /* of linear layers */
  int unscaled_attention;  /* T5: no 1/sqrt(D) */
  int scale_by_layer;      /* GPT-2's scale_attn_by_inverse_layer_idx */
  /* positions */
  tfp_position position;
  int position_offset;     /* row of position 0: BART 2, RoBERTa pad + 1 */
  int positions_skip_pad;  /* RoBERTa: padding has a row of its own and is not counted */
  int64_t buckets, max_distance;
  double rotary_base;
  /* head */
  int tied;                /* output projection = word embedding */
  int transform;           /* BERT, RoBERTa: dense, activation, norm before the projection */
  int output_bias; /* 1: learned (BERT, RoBERTa); 2: a fixed buffer (BART's final_logits_bias) */
  int scale_logits;        /* T5: decoder output times hidden^-1/2 */
  int scale_embedding;     /* BART's scale_embedding: words times hidden^1/2 */
  tfp_pool pool;           /* which hidden state is classified */
  int pool_dense;          /* dense and tanh before the classifier */
  int class_bias;
  /* training */
  double dropout, attention_dropout, activation_dropout, classifier_dropout;
  double init_std;         /* T5: initializer_factor */
  int scaled_residual_init; /* GPT-2: output projections start with std / sqrt(2 layers) */
  /* ids; -1 for none */
  int32_t bos, eos, pad, decoder_start;
} tfp_config;

/* tfp_config_preset -- a configuration by its published name, or a tiny one of a family.
 *
 * Args     name: bert-base-uncased, bert-base-cased, bert-large-uncased, bert-mini, roberta-base,
 *          gpt2, gpt2-medium, gpt2-large, gpt2-xl, bloom-560m, bloom-1b1, bloom-1b7, bloom-3b,
 *          t5-small, t5-base, t5-large, t5-v1_1-small, t5-v1_1-base, bart-base, bart-large; or
 *          FAMILY-tiny
 * Returns  1, or 0 if there is no such name; the head is TFP_HEAD_LM
 */
TFP_API int tfp_config_preset(const char *name, tfp_config *config);

/* tfp_preset_name -- names of the presets, for lists.
 *
 * Returns  the i-th name, NULL behind the last
 */
TFP_API const char *tfp_preset_name(int i);

/* tfp_family_name, tfp_family_from_name -- "gpt2" for TFP_GPT2, and back.
 *
 * Returns  a constant string; a family, or -1
 */
TFP_API const char *tfp_family_name(tfp_family family);
TFP_API int tfp_family_from_name(const char *name);

/* tfp_config_check -- whether a configuration can be built; fills in what 0 leaves open.
 *
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_ARG with the field and its value
 */
TFP_API tfp_status tfp_config_check(tfp_ctx *ctx, tfp_config *config);

typedef struct tfp_model tfp_model;
struct tfp_model {
  tfp_ctx *ctx;
  tfp_config config;
  tfp_params *params;
  int recompute; /* 1: blocks run again in the backward instead of keeping their inside */
};

/* tfp_model_create -- build a model and initialise it as its family is published.
 *
 * Args     config: copied; trainable: 0 leaves out gradients
 * Returns  a model owned by the context; NULL on error
 * Errors   TFP_ERR_ARG; TFP_ERR_NOMEM
 * Memory   4 bytes a parameter, 8 if trainable; free with tfp_model_free, or with the context
 */
TFP_API tfp_model *tfp_model_create(tfp_ctx *ctx, const tfp_config *config, int trainable);
TFP_API void tfp_model_free(tfp_model *model);

/* tfp_model_parameters -- numbers in a model, tied ones once.
 *
 * Returns  parameters
 */
TFP_API int64_t tfp_model_parameters(const tfp_model *model);

/* ---- running ---- */

typedef struct tfp_cache tfp_cache;

enum {
  TFP_WANT_LOGITS = 1,
  TFP_WANT_LOSS = 2,
  TFP_LAST_LOGITS = 4 /* of the last position alone */
};

typedef struct tfp_output {
  tfp_tensor *hidden;  /* (B,T,C) of the decoder, or of the encoder where there is no decoder */
  tfp_tensor *encoder; /* (B,T,C) of the encoder in front of a decoder */
  tfp_tensor *logits;  /* LM (B,T,V); class (B,labels); tag (B,T,labels); QA (B,T,2) */
  tfp_tensor *loss; /* sum over scored labels, times the trainer's scale (see tfp_set_loss_scale) */
} tfp_output;

/* tfp_forward -- run a model.
 *
 * Shapes   batch: see tfp_batch   ->   out: what `want` asks for, NULL elsewhere
 * Args     want: TFP_WANT_LOGITS, TFP_WANT_LOSS, or both; 0 gives hidden states
 *          cache: NULL, or keys and values of earlier positions (decoders): the batch then holds
 *          what follows, and the encoder runs only when the cache is new
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_ARG if the batch lacks what the model needs; TFP_ERR_DATA for ids out of range;
 *          TFP_ERR_SHAPE for a batch longer than the positions; TFP_ERR_NOMEM
 * Memory   tensors in the step arena
 */
TFP_API tfp_status tfp_forward(tfp_model *model, const tfp_batch *batch, int want, tfp_cache *cache,
                               tfp_output *out);

/* tfp_set_loss_scale -- what losses are multiplied with: one over the scored labels of the step
 * gives the mean. 1 in a new context. */
TFP_API void tfp_set_loss_scale(tfp_ctx *ctx, double scale);

/* tfp_pool_mean -- mean of the hidden states of the tokens that a mask shows: a sentence embedding.
 *
 * Shapes   hidden (B,T,C)   mask: int32 (B,T) or NULL   ->   (B,C)
 * Returns  new tensor in the step arena; NULL on error. A row without tokens gives zeros
 * Errors   TFP_ERR_SHAPE
 * Grad     hidden
 */
TFP_API tfp_tensor *tfp_pool_mean(tfp_ctx *ctx, tfp_tensor *hidden, tfp_tensor *mask);

/* tfp_cache_create -- room for the keys and values of a decoder.
 *
 * Args     rows: B; length: positions at most; encoder_length: T of the encoder, 0 without one
 * Returns  a cache owned by the context; NULL on error
 * Errors   TFP_ERR_ARG; TFP_ERR_NOMEM
 * Memory   2 layers B (length + encoder_length) heads head_dim numbers; free with tfp_cache_free
 */
TFP_API tfp_cache *tfp_cache_create(tfp_model *model, int64_t rows, int64_t length,
                                    int64_t encoder_length);
TFP_API void tfp_cache_free(tfp_cache *cache);
/* tfp_cache_reset -- forget everything, to begin a new text. */
TFP_API void tfp_cache_reset(tfp_cache *cache);
/* tfp_cache_length -- positions in the cache.
 *
 * Returns  positions
 */
TFP_API int64_t tfp_cache_length(const tfp_cache *cache);
/* tfp_cache_narrow, tfp_cache_repeat -- read prompts once, then go on with several texts of each:
 * an empty cache takes `rows` rows (at most those it was made with) from now on; later each row
 * becomes `times` rows behind each other, with all that they hold.
 *
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_ARG if the rows do not fit; TFP_ERR_STATE if a cache in use is narrowed
 */
TFP_API tfp_status tfp_cache_narrow(tfp_cache *cache, int64_t rows);
TFP_API tfp_status tfp_cache_repeat(tfp_cache *cache, int64_t times);
/* tfp_cache_reorder -- row i goes on as row parents[i] was: what beam search does each step.
 *
 * Shapes   parents (B)
 * Args     parents: behind an encoder, rows that tfp_cache_repeat made of the same row
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_ARG for a parent out of range, or one that reads another encoder input
 * Cost     copies the rows that change, in place
 */
TFP_API tfp_status tfp_cache_reorder(tfp_cache *cache, const int64_t *parents);
/* ================================================================================================
 * >>eval.h   how good a model is
 * ================================================================================================
 */
/* tfp_eval_loss -- mean loss of a language model over all of a split, in nats a scored token: no
 * dropout, consecutive windows, masks from a fixed stream. perplexity is exp of it.
 *
 * Args     max_rows: how many windows at most, 0 for all; scored: NULL, or gets the scored tokens
 * Returns  the mean; NaN on error or if the split is too short
 * Errors   as tfp_forward
 * Memory   resets the step arena
 */
TFP_API double tfp_eval_loss(tfp_model *model, tfp_loader *loader, tfp_partition split,
                             int64_t max_rows, int64_t *scored);

/* tfp_argmax -- the first largest number of each row; NaN counts as smaller than all.
 *
 * Shapes   x (...,N)   ->   out: one int32 a row
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_ARG if x is NULL, has no axis or no data
 */
TFP_API tfp_status tfp_argmax(tfp_ctx *ctx, const tfp_tensor *x, int32_t *out);

/* tfp_accuracy -- share of positions where the two agree; labels of TFP_IGNORE_INDEX do not count.
 *
 * Shapes   predicted, labels (n)
 * Returns  a number in [0,1]; 0 if nothing counts
 */
TFP_API double tfp_accuracy(const int32_t *predicted, const int32_t *labels, int64_t n);

/* tfp_macro_f1 -- mean over classes of 2 P R / (P + R).
 *
 * Shapes   predicted, labels (n), classes in [0,classes)
 * Returns  a number in [0,1]; classes that neither side has do not count
 */
TFP_API double tfp_macro_f1(const int32_t *predicted, const int32_t *labels, int64_t n,
                            int64_t classes);

/* tfp_entity_counts -- entities in BIO tags: tag 0 is outside, 2k-1 begins and 2k continues kind k.
 * Adds to counts, so that sequences can be summed; F1 = 2 hits / (found + there).
 *
 * Shapes   predicted, labels (n); positions labelled TFP_IGNORE_INDEX are left out   counts (3)
 * Args     counts: hits, found, there
 * Source   Tjong Kim Sang, De Meulder 2003: an entity counts if kind, start and end agree
 */
TFP_API void tfp_entity_counts(const int32_t *predicted, const int32_t *labels, int64_t n,
                               int64_t *counts);

/* tfp_best_span -- start and end (inclusive) with the largest sum of logits, start <= end.
 *
 * Shapes   logits (n,2): start and end of each position   allowed (n): 0 rules out, or NULL
 * Args     max_length: tokens at most
 * Returns  the sum; -infinity if nothing is allowed
 */
TFP_API double tfp_best_span(const float *logits, const int32_t *allowed, int64_t n,
                             int64_t max_length, int64_t *start, int64_t *end);
/* ================================================================================================
 * >>optim.h   AdamW, schedules, the trainer and its checkpoints
 * ================================================================================================
 * tfp_adamw updates any set of parameters. tfp_trainer does a whole step with one call: batches,
 * forward, backward, clipping, update; and it saves and resumes to the bit.
 */
typedef struct tfp_adamw_desc {
  double beta1, beta2;  /* 0 means 0.9 and 0.999 */
  double eps;           /* 0 means 1e-8 */
  double weight_decay;  /* decoupled: p shrinks by lr * decay; tensors of two or more axes alone */
  int decay_all;        /* 1: biases and norms too, as torch.optim.AdamW(model.parameters()) does */
  double clip;          /* largest global norm of the gradient; 0: no clipping */
} tfp_adamw_desc;

typedef struct tfp_adamw tfp_adamw;

/* tfp_adamw_create -- the optimiser of a set of parameters, its moments zero.
 *
 *   m = b1 m + (1-b1) g     v = b2 v + (1-b2) g^2
 *   p = p - lr decay p - lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)
 *
 * Args     desc: copied; NULL is all zero
 * Returns  an optimiser owned by the context; NULL on error
 * Errors   TFP_ERR_ARG for numbers out of range, or parameters without gradients; TFP_ERR_NOMEM
 * Memory   8 bytes a parameter; free with tfp_adamw_free
 * Source   Kingma, Ba 2015 (arXiv:1412.6980); Loshchilov, Hutter 2019 (arXiv:1711.05101)
 */
TFP_API tfp_adamw *tfp_adamw_create(tfp_params *params, const tfp_adamw_desc *desc);
TFP_API void tfp_adamw_free(tfp_adamw *opt);

/* tfp_adamw_step -- one update from the gradients that are there, which are then forgotten.
 *
 * Args     lr >= 0; norm: NULL, or gets the gradient's norm before clipping
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_NAN if the norm is NaN or infinite: then no parameter has changed
 * Cost     one pass over seven streams of the parameters' size, and one to sum squares
 */
TFP_API tfp_status tfp_adamw_step(tfp_adamw *opt, double lr, double *norm);

typedef enum tfp_schedule { TFP_COSINE = 0, TFP_LINEAR, TFP_CONSTANT } tfp_schedule;

/* tfp_learning_rate -- the rate of a step: rising over `warmup` steps, then falling to min_lr at
 * step `steps` along a half cosine or a line, or constant.
 *
 *   rising: lr (step+1) / (warmup+1)     cosine: min + (lr-min) (1 + cos(pi r)) / 2, r the share of
 *   the fall
 *
 * Args     step from 0
 * Returns  the rate
 */
TFP_API double tfp_learning_rate(tfp_schedule schedule, double lr, double min_lr, int64_t warmup,
                                 int64_t steps, int64_t step);

/* ---- the trainer ---- */

/* What the trainer asks of many processes, through one function of the caller. */
typedef enum tfp_comm_kind {
  TFP_COMM_SUM = 0,
  TFP_COMM_REDUCE_SCATTER,
  TFP_COMM_ALL_GATHER,
  TFP_COMM_WAIT
} tfp_comm_kind;
typedef struct tfp_comm {
  tfp_comm_kind kind;
  void *data;      /* in place: float32, or double where is_double */
  int64_t count;   /* numbers */
  int is_double;
  int bucket;      /* number of the stretch of gradients, for overlap; -1: not a gradient */
  int device;
} tfp_comm;

typedef struct tfp_train_desc {
  double lr, min_lr;
  int64_t warmup, steps;   /* steps: where the schedule ends, >= 1 */
  tfp_schedule schedule;
  tfp_adamw_desc adamw;
  int64_t rows;            /* of a micro-batch */
  int64_t accumulate;      /* micro-batches a step; 0 means 1 */
  /* Gives examples first ... first+rows-1; called twice for each micro-batch where accumulate > 1.
   * */
  tfp_status (*source)(void *user, uint64_t first, int64_t rows, tfp_batch *batch);
  void *source_user;
  tfp_status (*comm)(void *user, const tfp_comm *what); /* NULL: one process */
  void *comm_user;
  int rank, ranks;         /* ranks 0 means 1 */
} tfp_train_desc;

typedef struct tfp_step_info {
  int64_t step;      /* number of the step just done, from 1 */
  double loss;       /* mean over scored labels, nats */
  double lr, grad_norm;
  int64_t scored, tokens; /* labels that counted; positions of all batches */
  double seconds;
} tfp_step_info;

typedef struct tfp_trainer tfp_trainer;

/* tfp_trainer_create -- a trainer for a model.
 *
 * Args     desc: copied; its source gives the data
 * Returns  a trainer owned by the context; NULL on error
 * Errors   TFP_ERR_ARG; TFP_ERR_NOMEM
 * Memory   the moments: 8 bytes a parameter; free with tfp_trainer_free
 */
TFP_API tfp_trainer *tfp_trainer_create(tfp_model *model, const tfp_train_desc *desc);
TFP_API void tfp_trainer_free(tfp_trainer *trainer);

/* tfp_train_step -- one step: count labels, forward and backward of each micro-batch, clip, update.
 *
 * Args     info: NULL, or gets what happened
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_NAN for a loss or norm that is NaN or infinite, TFP_ERR_DATA for a step without
 *          a scored label: the weights are untouched; whatever source, comm and forward raise
 * Memory   resets the step arena; asks for none after the first step
 */
TFP_API tfp_status tfp_train_step(tfp_trainer *trainer, tfp_step_info *info);

/* tfp_trainer_step -- steps done.
 *
 * Returns  steps
 */
TFP_API int64_t tfp_trainer_step(const tfp_trainer *trainer);

/* tfp_trainer_save -- write all that resuming needs: weights, moments, step, and the given
 * arguments. The old file stays until the new one is complete.
 *
 * Args     arguments: 2*pairs texts, name and value in turn, that must be the same when resuming
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_IO; TFP_ERR_NOMEM
 */
TFP_API tfp_status tfp_trainer_save(tfp_trainer *trainer, const char *path,
                                    const char *const *arguments, int64_t pairs);

/* tfp_trainer_load -- go on from a file of tfp_trainer_save: the steps that follow are, to the bit,
 * those of a run that never stopped.
 *
 * Args     arguments: as for saving
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_ARG naming the argument that differs; TFP_ERR_FORMAT; TFP_ERR_IO; TFP_ERR_NOMEM
 */
TFP_API tfp_status tfp_trainer_load(tfp_trainer *trainer, const char *path,
                                    const char *const *arguments, int64_t pairs);
/* ================================================================================================
 * >>generate.h   writing text, and filling masks
 * ================================================================================================
 * A description says how the next token is chosen: the likeliest, a draw, or a beam search, and
 * what the scores go through first. tfp_gen_load reads it from a model directory, so that a model
 * writes here what it writes in the reference. Begin with tfp_generate and no description.
 */
/* A list of token ids. n = 0: none, or what the model's configuration says. It is borrowed. */
typedef struct tfp_ids { const int32_t *at; int64_t n; } tfp_ids;

/* When a beam search ends, though its running texts could go on. */
typedef enum tfp_early_stopping {
  TFP_STOP_BY_SCORE = 0, /* when the best running text, scored at its present length, is no better
                            than the worst of as many ended texts as there are beams ("false") */
  TFP_STOP_WHEN_FULL,    /* as soon as that many texts ended ("true") */
  TFP_STOP_NEVER         /* as by score, but at the length that would help it most ("never") */
} tfp_early_stopping;

/* A length_penalty of 0, which a description cannot say with 0: scores are sums, not means. */
#define TFP_LENGTH_PENALTY_OFF 1e-30

/* How a text is written. All zero is greedy search of 20 tokens, up to the model's end token. The
 * names in brackets are those of generation_config.json, where the field has another. */
typedef struct tfp_gen_desc {
  int64_t max_new;    /* new tokens at most (max_new_tokens), up to 2^24; 0: as max_length says */
  int64_t max_length; /* prompt (encoder-decoders: start token) and new tokens; 0: 20 new tokens,
                         or as many as learned positions leave */
  int64_t min_new;    /* no end before so many new tokens (min_new_tokens); wins over min_length */
  int64_t min_length; /* the same, counted as in max_length */
  /* which token comes next */
  double temperature; /* draw, logits divided by it; 0: the likeliest token, or beams */
  int greedy;         /* 1: do not draw, whatever temperature says (not do_sample) */
  int64_t top_k;      /* draw among the k likeliest; 0: all */
  double top_p;       /* draw among the fewest whose probability reaches p; 0 means 1 */
  double min_p;       /* draw among those with so many times the probability of the likeliest */
  uint64_t seed;      /* of the draws */
  /* beam search */
  int64_t beams; /* texts that run at once (num_beams), at most 1024; 0 means 1: no beam search */
  double length_penalty;             /* scores are divided by new tokens to this power; 0 means 1 */
  tfp_early_stopping early_stopping;
  /* what the scores go through first: logits, or in beam search log-probabilities */
  double repetition_penalty; /* of tokens that were there: s/r, or s*r below 0; 0 means 1 */
  double encoder_repetition_penalty; /* the other way round, of the prompt's tokens; 0 means 1 */
  int64_t no_repeat_ngram; /* n tokens in a row come once (no_repeat_ngram_size); 0: anything */
  int64_t encoder_no_repeat_ngram;   /* nor may they stand in the prompt (same ending) */
  const tfp_ids *bad_words;          /* sequences that are never completed (bad_words_ids) */
  int64_t n_bad_words;
  tfp_ids suppress;          /* tokens that are never written (suppress_tokens) */
  tfp_ids begin_suppress;    /* not as the first new one (begin_suppress_tokens) */
  tfp_ids forced_bos;        /* the only token behind a text of one token (forced_bos_token_id) */
  tfp_ids forced_eos;        /* the only tokens at the last place (forced_eos_token_id) */
  int renormalize;           /* probabilities sum to 1 again after all that (renormalize_logits) */
  int64_t vocab; /* ids from here on are never written (dead rows of the table); 0: all may be */
  /* special tokens; one with id -1 is "none" */
  tfp_ids ends;          /* tokens that end a text (eos_token_id); n = 0: end_id */
  int32_t end_id;        /* one such token; 0: the model's eos; -1: none */
  tfp_ids pad;           /* one id (pad_token_id): fills up rows; n = 0: the model's */
  tfp_ids decoder_start; /* one id (decoder_start_token_id); n = 0: the model's */
  /* listening */
  int (*on_token)(void *user,
                  int32_t id); /* called for each new token of a single text, with beams at the
                                  end; not 0: stop. NULL: silence */
  void *user;
  void *lists; /* of tfp_gen_load: see tfp_gen_free */
} tfp_gen_desc;

/* tfp_generate -- continue a text (decoders), or answer one (encoder-decoders), with a cache.
 *
 * Shapes   prompt (n)   ->   out: new tokens, the end token among them
 * Args     prompt: n >= 1; for encoder-decoders the encoder's input with its special tokens
 *          desc: NULL is all zero; out: room for max ids
 * Returns  how many tokens were written to out; -1 on error
 * Errors   TFP_ERR_ARG for an encoder, an empty prompt or options out of range; TFP_ERR_DATA;
 *          TFP_ERR_NOMEM
 * Memory   a cache for the call; resets the step arena
 * Cost     one position a token and beam, all beams in one forward; the prompt is read once. A text
 *          that outgrows learned positions goes on with its second half as context, which costs
 *          half a context then
 * Source   the rules are those of Hugging Face's generate (5.23), token by token: see tfpi_process
 *          and tfpi_beam_step
 */
TFP_API int64_t tfp_generate(tfp_model *model, const int32_t *prompt, int64_t n,
                             const tfp_gen_desc *desc, int32_t *out, int64_t max);

/* tfp_generate_batch -- the same for several prompts at once.
 *
 * Shapes   ids, mask (rows,n)   ->   out (rows,max)   counts (rows)
 * Args     mask: 0 hides a token; decoders want it on the left. NULL: nothing is hidden, but in
 *          decoders the pad token, if it is no end token. out: new tokens of each row, then pad (in
 *          beam search the first end token if pad is 0, and -1 if there is no end token, as in the
 *          reference); counts: new tokens of each row, or NULL
 * Returns  the largest count; -1 on error
 * Errors   as tfp_generate; TFP_ERR_ARG for a row that is hidden altogether
 * Memory   as tfp_generate, rows times
 */
TFP_API int64_t tfp_generate_batch(tfp_model *model, const int32_t *ids, const int32_t *mask,
                                   int64_t rows, int64_t n, const tfp_gen_desc *desc, int32_t *out,
                                   int64_t max, int64_t *counts);

/* tfp_filter_logits -- leave what may be drawn: temperature, then top_k, top_p, min_p. What falls
 * out becomes -infinity, NaN and ids beyond desc.vocab too.
 *
 * Shapes   logits (V)   work (V): receives the ids that stay
 * Args     desc: temperature (0 means 1), top_k, top_p, min_p, vocab; where beams > 1, one token
 *          more stays than there are `ends`
 * Returns  how many ids stay
 * Source   Holtzman et al. 2019 (arXiv:1904.09751) for top_p. Ties with the k-th stay in, as in the
 *          reference; the set for top_p is the smallest whose probability is at least p: from the
 *          unlikeliest up, those go whose probabilities add up to at most 1 - p. In float32
 */
TFP_API int64_t tfp_filter_logits(float *logits, int64_t V, const tfp_gen_desc *desc,
                                  int32_t *work);

/* tfp_sample -- draw a token from logits, filtered as above; the likeliest if temperature is 0.
 *
 * Shapes   logits (V)   work (V)
 * Args     desc: as above, and greedy; u in [0,1): the draw
 * Returns  an id
 */
TFP_API int32_t tfp_sample(float *logits, int64_t V, const tfp_gen_desc *desc, double u,
                           int32_t *work);

/* tfp_gen_load -- how a model directory says that texts are written: dir/generation_config.json,
 * or, where there is no such file, the same keys in dir/config.json.
 *
 * Args     config: the start token, where the file names none; desc: receives it. Without do_sample
 *          greedy is 1; temperature is then 1 and top_k 50 where the file does not say
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_IO; TFP_ERR_FORMAT with the key and the byte; TFP_ERR_UNSUPPORTED for a key that
 *          asks for another search (num_beam_groups, sequence_bias, ...); TFP_ERR_NOMEM
 * Memory   lists are owned by the context: free them with tfp_gen_free, or with the context
 */
TFP_API tfp_status tfp_gen_load(tfp_ctx *ctx, const char *dir, const tfp_config *config,
                                tfp_gen_desc *desc);
TFP_API void tfp_gen_free(tfp_ctx *ctx, tfp_gen_desc *desc);

/* tfp_gen_save -- write dir/generation_config.json, from which the reference's generate and
 * tfp_gen_load read the same.
 *
 * Args     config: its ids stand where desc has none; desc: NULL is all zero
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_IO; TFP_ERR_NOMEM
 */
TFP_API tfp_status tfp_gen_save(tfp_ctx *ctx, const char *dir, const tfp_config *config,
                                const tfp_gen_desc *desc);

typedef struct tfp_filled { int64_t position; int32_t id; double probability; } tfp_filled;

/* tfp_fill -- the likeliest tokens for every mask in a text (encoders).
 *
 * Shapes   ids (n), with special tokens   ->   out: top of each mask in turn, the likeliest first
 * Args     mask_id; top >= 1; vocab: as in tfp_gen_desc; max: room in out
 * Returns  how many were written: masks times top; -1 on error
 * Errors   TFP_ERR_ARG if the model is no encoder with a language-modelling head, or nothing is
 *          masked
 * Memory   resets the step arena
 */
TFP_API int64_t tfp_fill(tfp_model *model, const int32_t *ids, int64_t n, int32_t mask_id,
                         int64_t top, int64_t vocab, tfp_filled *out, int64_t max);
/* ================================================================================================
 * >>hub.h   model directories as Hugging Face has them
 * ================================================================================================
 * config.json, generation_config.json, model.safetensors and README.md (the model card) of the six
 * families. Which tensor of a file is which part of which parameter stands in one table, used for
 * loading, saving and naming gradients. Tokenizers have their own functions (>>tokenizer.h).
 */
/* tfp_config_save, tfp_config_load -- dir/config.json; saving also writes generation_config.json
 * for models that write text.
 *
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_IO; TFP_ERR_FORMAT with the key; TFP_ERR_UNSUPPORTED for an unknown model_type
 *          or a field whose value this library cannot compute; TFP_ERR_NOMEM
 */
TFP_API tfp_status tfp_config_save(tfp_ctx *ctx, const tfp_config *config, const char *dir);
TFP_API tfp_status tfp_config_load(tfp_ctx *ctx, const char *dir, tfp_config *config);

/* tfp_model_save -- write dir/config.json, generation_config.json and model.safetensors (float32),
 * under the names of the reference. dir must exist.
 *
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_IO; TFP_ERR_NOMEM
 */
TFP_API tfp_status tfp_model_save(tfp_model *model, const char *dir);

/* tfp_model_load -- read a directory that tfp_model_save or the reference wrote.
 *
 * Args     trainable: 0 leaves out gradients
 * Returns  a model owned by the context; NULL on error
 * Errors   as tfp_config_load; TFP_ERR_FORMAT naming a tensor that is missing or has another shape
 */
TFP_API tfp_model *tfp_model_load(tfp_ctx *ctx, const char *dir, int trainable);

/* tfp_load_weights -- read dir/model.safetensors into a model that exists.
 *
 * Args     strict: 0 lets tensors be missing (a new head), 1 makes that an error
 * Returns  how many tensors were read; -1 on error
 * Errors   as tfp_model_load
 */
TFP_API int64_t tfp_load_weights(tfp_model *model, const char *dir, int strict);

/* What a model card says of a run. Texts may be NULL. */
typedef struct tfp_card {
  const char *title, *objective, *data, *command, *machine;
  int64_t parameters, steps, tokens_per_step, train_tokens, val_tokens;
  double lr, weight_decay, first_loss, last_loss, val_loss, seconds;
  const tfp_step_info *curve; /* some steps of the run */
  int64_t curve_points;
} tfp_card;

/* tfp_card_save -- write dir/README.md: YAML for the hub, then what the model is, how it was made,
 * how good it is and what it is not for.
 *
 * Returns  TFP_OK or the error
 * Errors   TFP_ERR_IO; TFP_ERR_NOMEM
 */
TFP_API tfp_status tfp_card_save(tfp_ctx *ctx, const tfp_config *config, const tfp_card *card,
                                 const char *dir);

#ifdef __cplusplus
}
#endif
#endif /* TFPRE_H: stop reading here if you only want the interface */

#if defined(TFPRE_IMPLEMENTATION) && !defined(TFPRE_IMPLEMENTED)
#define TFPRE_IMPLEMENTED
/* ================================================================================================
 * >>base.c   status codes, context, memory
 * ================================================================================================
 */
#include <math.h>
#include <string.h>
#if !defined(TFPRE_NO_STDLIB)
#include <stdlib.h>
#endif
#include <stdarg.h>
#if defined(_WIN32)
#include <windows.h>
#elif defined(__unix__) || defined(__APPLE__)
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#endif

#define TFPI_INLINE static inline __attribute__((always_inline))
#define TFPI_NOINLINE __attribute__((noinline))
#define TFPI_UNUSED __attribute__((unused))
#if defined(__cplusplus)
#define TFPI_RESTRICT __restrict
#else
#define TFPI_RESTRICT restrict
#endif
#define TFPI_COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))
TFPI_INLINE int64_t tfpi_min64(int64_t a, int64_t b) { return a < b ? a : b; }
TFPI_INLINE int64_t tfpi_max64(int64_t a, int64_t b) { return a > b ? a : b; }
TFPI_INLINE int64_t tfpi_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* ---- memory: arenas ---------------------------------------------------------------------------
 * An arena hands out 64-byte aligned pieces and is freed whole. There are two kinds. Lasting arenas
 * (the context's, one per model, tokenizer, data set, trainer) grow and end. The step arena is
 * reset between steps. Both live in malloc chunks or, given one caller block, lasting pieces are
 * stacked from its start and step pieces from its end, so that neither needs headers and the count
 * of bytes is the same in every mode. A dry run counts in the same way; it takes real memory for
 * the small structures that describe the work (META) and none for the numbers (DATA). */

enum { TFPI_ALIGN = 64, TFPI_CHUNK = 1 << 18 };
typedef enum tfpi_purpose { TFPI_META, TFPI_DATA } tfpi_purpose;

typedef struct tfpi_chunk tfpi_chunk;
struct tfpi_chunk {
  tfpi_chunk *next;
  size_t bytes, used; /* of the space behind this header */
  size_t whole;       /* what was allocated, for release */
  char pad[TFPI_ALIGN - sizeof(void *) - 3 * sizeof(size_t)];
};

typedef struct tfpi_arena tfpi_arena;
struct tfpi_arena {
  tfp_ctx *ctx;
  tfpi_chunk *first, *now;
  size_t used; /* bytes handed out */
  size_t top;  /* lasting: where its highest piece in the stack ends */
  int idle;    /* returned, and free to be borrowed */
  int is_step;
  tfpi_arena *next; /* every arena hangs in its context, so that tfp_destroy frees it */
};

typedef struct tfpi_mark {
  tfpi_chunk *now;
  size_t chunk_used, used, top;
} tfpi_mark;

/* What changes from step to step reaches kernels through this block alone. */
typedef struct tfpi_step_params {
  uint64_t step;        /* optimiser step, from 0 */
  uint64_t example;     /* number of the first example of this batch within the step */
  int training;         /* dropout on */
  float loss_scale;     /* one over the scored tokens of the step */
  float lr, grad_scale; /* of the optimiser; grad_scale does the clipping */
  float fix1, fix2;     /* Adam's bias corrections 1/(1-beta^t) */
} tfpi_step_params;

typedef struct tfpi_recycled tfpi_recycled; /* >>ops.c */
typedef struct tfpi_backend tfpi_backend;   /* >>backend.c */
typedef struct tfpi_pool tfpi_pool;         /* >>threads.c */
struct tfpi_node;

struct tfp_ctx {
  tfp_desc desc;
  tfp_status status;
  char message[640];
  size_t lasting;         /* bytes in lasting arenas */
  size_t stacked, peak;   /* height of the stack of lasting pieces; most of stacked + step */
  size_t reserved;
  int64_t blocks;
  tfpi_arena own, step;
  tfpi_arena *arenas;     /* all but own and step */
  int threads;
  tfpi_pool *pool;
  const tfpi_backend *be; /* the door to the device */
  tfp_level level;        /* of the CPU kernels: never TFP_LEVEL_BEST */
  char *scratch; /* threads times scratch_bytes, 64-byte aligned, for use inside one kernel */
  size_t scratch_bytes;   /* see tfpi_scratch */
  struct tfpi_node *tape; /* newest node first */
  uint64_t tapes;         /* tapes walked or dropped so far: tells an old node from a live one */
  tfp_tensor *claimed;    /* parameter whose gradient a linear_xent wrote in its forward */
  int no_grad;            /* depth of tfp_no_grad_begin */
  tfpi_recycled *recycled; /* gradient buffers that can be used again */
  tfpi_step_params now;
};

/* ---- errors ---- */

/* Writes a decimal number with up to `digits` significant digits, as %g does; returns its length.
 * Good to about 15 digits: messages and progress lines use it, files use >>files.c. */
static int tfpi_put_number(char *out, double x, int digits) {
  char d[20];
  int n = 0, e = 0, i, last;
  double scale;
  if (x != x) { memcpy(out, "nan", 4); return 3; }
  if (x < 0 || (x == 0 && 1 / x < 0)) { out[n++] = '-'; x = -x; }
  if (x > 1.7976931348623157e308) { memcpy(out + n, "inf", 4); return n + 3; }
  if (x == 0) { out[n++] = '0'; out[n] = 0; return n; }
  e = (int)floor(log10(x));
  scale = digits - 1 - e;
  x = scale > 300 ? floor(x * 1e300 * pow(10, scale - 300) + 0.5) : floor(x * pow(10, scale) + 0.5);
  if (x >= pow(10, digits)) { x /= 10; e++; }
  for (i = digits - 1; i >= 0; i--) { d[i] = (char)('0' + (int)fmod(x, 10)); x = floor(x / 10); }
  for (last = digits - 1; last > 0 && d[last] == '0'; last--) continue;
  if (e < -5 || e >= digits) {
    int a = e < 0 ? -e : e;
    out[n++] = d[0];
    if (last > 0) out[n++] = '.';
    for (i = 1; i <= last; i++) out[n++] = d[i];
    out[n++] = 'e';
    out[n++] = e < 0 ? '-' : '+';
    if (a >= 100) out[n++] = (char)('0' + a / 100);
    out[n++] = (char)('0' + a / 10 % 10);
    out[n++] = (char)('0' + a % 10);
  } else if (e < 0) {
    out[n++] = '0';
    out[n++] = '.';
    for (i = -1; i > e; i--) out[n++] = '0';
    for (i = 0; i <= last; i++) out[n++] = d[i];
  } else {
    for (i = 0; i <= e; i++) out[n++] = d[i];
    if (last > e) out[n++] = '.';
    for (; i <= last; i++) out[n++] = d[i];
  }
  out[n] = 0;
  return n;
}

static int tfpi_put_integer(char *out, uint64_t u, int negative) {
  char t[24];
  int n = 0, k = 0;
  do { t[k++] = (char)('0' + (int)(u % 10)); u /= 10; } while (u);
  if (negative) out[n++] = '-';
  while (k) out[n++] = t[--k];
  out[n] = 0;
  return n;
}

/* A text that grows to `cap` bytes with its NUL and is cut there. */
typedef struct tfpi_text { char *at; size_t n, cap; } tfpi_text;
static void tfpi_text_add(tfpi_text *t, const char *s, size_t n) {
  size_t room = t->cap - 1 - t->n;
  if (n > room) n = room;
  memcpy(t->at + t->n, s, n);
  t->n += n;
  t->at[t->n] = 0;
}
static void tfpi_text_shape(tfpi_text *t, const tfp_tensor *x) {
  char b[32];
  int i;
  if (!x) { tfpi_text_add(t, "NULL", 4); return; }
  if (x->name && x->name[0]) {
    tfpi_text_add(t, "'", 1);
    tfpi_text_add(t, x->name, strlen(x->name));
    tfpi_text_add(t, "' ", 2);
  }
  tfpi_text_add(t, "(", 1);
  for (i = 0; i < x->ndim; i++) {
    if (i) tfpi_text_add(t, ",", 1);
    tfpi_text_add(t, b, (size_t)tfpi_put_integer(b, (uint64_t)x->shape[i], 0));
  }
  tfpi_text_add(t, ")", 1);
}

/* printf of our own, for it must work without stdio and in any locale:
 * %s text, %d int, %i int64_t, %u uint64_t, %g double, %x uint64_t in hex, %t const tfp_tensor *.
 * */
static void tfpi_format_list(tfpi_text *t, const char *f, va_list ap) {
  char b[48];
  for (; *f; f++) {
    const char *stop = f;
    if (*f != '%') {
      while (*stop && *stop != '%') stop++;
      tfpi_text_add(t, f, (size_t)(stop - f));
      f = stop - 1;
      continue;
    }
    switch (*++f) {
      case 's': {
        const char *s = va_arg(ap, const char *);
        if (!s) s = "NULL";
        tfpi_text_add(t, s, strlen(s));
      } break;
      case 'd': {
        int v = va_arg(ap, int);
        tfpi_text_add(t, b,
                      (size_t)tfpi_put_integer(b, v < 0 ? 0u - (uint64_t)v : (uint64_t)v, v < 0));
      } break;
      case 'i': {
        int64_t v = va_arg(ap, int64_t);
        tfpi_text_add(t, b,
                      (size_t)tfpi_put_integer(b, v < 0 ? 0u - (uint64_t)v : (uint64_t)v, v < 0));
      } break;
      case 'u': tfpi_text_add(t, b, (size_t)tfpi_put_integer(b, va_arg(ap, uint64_t), 0)); break;
      case 'g': tfpi_text_add(t, b, (size_t)tfpi_put_number(b, va_arg(ap, double), 6)); break;
      case 'x': {
        uint64_t v = va_arg(ap, uint64_t);
        int i;
        for (i = 15; i >= 0; i--, v >>= 4) b[i] = "0123456789abcdef"[v & 15];
        tfpi_text_add(t, b, 16);
      } break;
      case 't': tfpi_text_shape(t, va_arg(ap, const tfp_tensor *)); break;
      case 0: return;
      default: tfpi_text_add(t, f, 1);
    }
  }
}

static TFPI_UNUSED void tfpi_format(char *out, size_t bytes, const char *format, ...) {
  tfpi_text t;
  va_list ap;
  t.at = out, t.n = 0, t.cap = bytes;
  out[0] = 0;
  va_start(ap, format);
  tfpi_format_list(&t, format, ap);
  va_end(ap);
}

static void tfpi_log(tfp_ctx *ctx, const char *format, ...) {
  char line[640];
  tfpi_text t;
  va_list ap;
  if (!ctx->desc.log) return;
  t.at = line, t.n = 0, t.cap = sizeof line;
  line[0] = 0;
  va_start(ap, format);
  tfpi_format_list(&t, format, ap);
  va_end(ap);
  ctx->desc.log(ctx->desc.log_user, line);
}

/* Records the first error and returns its status; later ones only reach the log. */
static tfp_status tfpi_fail(tfp_ctx *ctx, tfp_status status, const char *format, ...) {
  tfpi_text t;
  va_list ap;
  char line[sizeof ctx->message];
  t.at = line, t.n = 0, t.cap = sizeof line;
  line[0] = 0;
  va_start(ap, format);
  tfpi_format_list(&t, format, ap);
  va_end(ap);
  if (ctx->status == TFP_OK) {
    ctx->status = status;
    memcpy(ctx->message, line, t.n + 1);
  }
  tfpi_log(ctx, "%s: %s", tfp_status_name(status), line);
  return status;
}

/* ---- arenas ---- */

static void *tfpi_system_alloc(tfp_ctx *ctx, size_t bytes) {
  void *p = NULL;
  if (ctx->desc.allocator.alloc) p = ctx->desc.allocator.alloc(ctx->desc.allocator.user, bytes);
#if !defined(TFPRE_NO_STDLIB)
  else {
    char *raw = (char *)malloc(bytes + TFPI_ALIGN); /* aligned by hand: no C11, no POSIX needed */
    if (raw) {
      size_t shift = TFPI_ALIGN - (size_t)((uintptr_t)raw % TFPI_ALIGN);
      raw[shift - 1] = (char)shift;
      p = raw + shift;
    }
  }
#endif
  if (p) ctx->reserved += bytes, ctx->blocks++;
  return p;
}

static void tfpi_system_release(tfp_ctx *ctx, void *p, size_t bytes) {
  ctx->reserved -= bytes;
  if (ctx->desc.allocator.alloc) {
    if (ctx->desc.allocator.release)
      ctx->desc.allocator.release(ctx->desc.allocator.user, p, bytes);
  }
#if !defined(TFPRE_NO_STDLIB)
  else free((char *)p - ((unsigned char *)p)[-1]);
#endif
}

static void tfpi_arena_open(tfp_ctx *ctx, tfpi_arena *a) {
  memset(a, 0, sizeof *a);
  a->ctx = ctx;
  a->next = ctx->arenas;
  ctx->arenas = a;
}

/* Gives `bytes` of a lasting arena back, whose highest piece now ends at `top`. The stack sinks to
 * the highest piece that is left; holes below it stay, also in the count, which thus holds for a
 * block. */
static void tfpi_unstack(tfpi_arena *a, size_t bytes, size_t top) {
  tfp_ctx *ctx = a->ctx;
  const tfpi_arena *other;
  if (a->is_step) return;
  ctx->lasting -= bytes;
  a->top = top;
  ctx->stacked = ctx->own.top;
  for (other = ctx->arenas; other; other = other->next)
    if (other->top > ctx->stacked) ctx->stacked = other->top;
}

static void tfpi_arena_close(tfpi_arena *a) {
  tfp_ctx *ctx = a->ctx;
  tfpi_arena **at;
  if (!ctx) return;
  while (a->first) {
    tfpi_chunk *c = a->first;
    a->first = c->next;
    tfpi_system_release(ctx, c, c->whole);
  }
  tfpi_unstack(a, a->used, 0);
  for (at = &ctx->arenas; *at; at = &(*at)->next)
    if (*at == a) { *at = a->next; break; }
  memset(a, 0, sizeof *a);
}

/* Space for `bytes` in the arena's chunks: the current one, the following ones, or a new one. */
static void *tfpi_chunk_take(tfpi_arena *a, size_t bytes) {
  tfpi_chunk *c = a->now;
  size_t want;
  while (c && c->bytes - c->used < bytes) {
    if (!c->next) break;
    c = c->next;
    c->used = 0;
  }
  if (!c || c->bytes - c->used < bytes) {
    tfpi_chunk *fresh;
    want = (size_t)TFPI_CHUNK; /* a dry run holds descriptions alone: they are small */
    if (!a->ctx->desc.dry_run && a->used / 4 > want) want = a->used / 4;
    if (want < bytes) want = bytes;
    fresh = (tfpi_chunk *)tfpi_system_alloc(a->ctx, want + sizeof *fresh);
    if (!fresh && want > bytes) {
      want = bytes;
      fresh = (tfpi_chunk *)tfpi_system_alloc(a->ctx, want + sizeof *fresh);
    }
    if (!fresh) return NULL;
    fresh->next = NULL, fresh->bytes = want, fresh->used = 0, fresh->whole = want + sizeof *fresh;
    if (c) c->next = fresh;
    else a->first = fresh;
    c = fresh;
  }
  a->now = c;
  c->used += bytes;
  return (char *)(c + 1) + c->used - bytes;
}

/* The one way to memory. Sets *out (NULL for DATA in a dry run); contents are not cleared. */
static tfp_status tfpi_take(tfpi_arena *a, size_t bytes, tfpi_purpose purpose, void **out) {
  tfp_ctx *ctx = a->ctx;
  const size_t limit = ctx->desc.block ? ctx->desc.block_bytes : (size_t)-1 / 2;
  size_t total;
  *out = NULL;
  if (ctx->status) return ctx->status;
  if (bytes > (size_t)-1 / 4)
    return tfpi_fail(ctx, TFP_ERR_NOMEM, "memory: a single piece of %u bytes is asked for",
                     (uint64_t)bytes);
  bytes = (bytes + TFPI_ALIGN - 1) / TFPI_ALIGN * TFPI_ALIGN;
  total = ctx->stacked + ctx->step.used + bytes;
  if (total > limit)
    return tfpi_fail(ctx, TFP_ERR_NOMEM,
                     "memory: the block of %u bytes is full: %u in use, %u more wanted",
                     (uint64_t)limit, (uint64_t)(total - bytes), (uint64_t)bytes);
  if (ctx->desc.block && !ctx->desc.dry_run) {
    char *block = (char *)ctx->desc.block;
    *out = a->is_step ? block + ctx->desc.block_bytes / TFPI_ALIGN * TFPI_ALIGN - a->used - bytes
                      : block + ctx->stacked;
  } else if (purpose == TFPI_META || !ctx->desc.dry_run) {
    *out = tfpi_chunk_take(a, bytes);
    if (!*out)
      return tfpi_fail(ctx, TFP_ERR_NOMEM, "memory: no %u bytes to be had; %u in use",
                       (uint64_t)bytes, (uint64_t)(total - bytes));
  }
  if (!a->is_step) {
    ctx->lasting += bytes;
    ctx->stacked += bytes;
    a->top = ctx->stacked;
  }
  a->used += bytes;
  if (total > ctx->peak) ctx->peak = total;
  return TFP_OK;
}

/* count*size bytes of zeroed META memory; NULL (and an error) if there are none. */
static void *tfpi_new(tfpi_arena *a, int64_t count, size_t size) {
  void *p;
  if (count < 0 || (uint64_t)count > (size_t)-1 / 4 / size) {
    tfpi_fail(a->ctx, TFP_ERR_NOMEM, "memory: %i pieces of %u bytes are asked for", count,
              (uint64_t)size);
    return NULL;
  }
  if (tfpi_take(a, (size_t)count * size, TFPI_META, &p)) return NULL;
  memset(p, 0, (size_t)count * size);
  return p;
}

static TFPI_UNUSED char *tfpi_copy_text(tfpi_arena *a, const char *s, size_t n) {
  char *p = (char *)tfpi_new(a, (int64_t)n + 1, 1);
  if (p) memcpy(p, s, n);
  return p;
}

static tfpi_mark tfpi_arena_mark(const tfpi_arena *a) {
  tfpi_mark m;
  m.now = a->now, m.chunk_used = a->now ? a->now->used : 0, m.used = a->used, m.top = a->top;
  return m;
}
static void tfpi_arena_release(tfpi_arena *a, tfpi_mark m) {
  tfpi_unstack(a, a->used - m.used, m.top);
  a->used = m.used;
  a->now = m.now ? m.now : a->first;
  if (a->now) a->now->used = m.now ? m.chunk_used : 0;
}

/* A lasting arena for one thing that is freed by itself: a tree, an open file, a model. Its header
 * lies in the context's own arena and is used again: opening and closing for ever takes no memory.
 * */
static tfpi_arena *tfpi_arena_borrow(tfp_ctx *ctx) {
  tfpi_arena *a;
  if (ctx->status) return NULL;
  for (a = ctx->arenas; a; a = a->next)
    if (a->idle) {
      a->idle = 0;
      return a;
    }
  a = (tfpi_arena *)tfpi_new(&ctx->own, 1, sizeof *a);
  if (a) tfpi_arena_open(ctx, a);
  return a;
}
static void tfpi_arena_return(tfpi_arena *a) {
  tfp_ctx *ctx = a->ctx;
  tfpi_arena_close(a);
  tfpi_arena_open(ctx, a);
  a->idle = 1;
}

/* ---- context ---- */

static tfp_status tfpi_threads_open(tfp_ctx *ctx);  /* >>threads.c */
static void tfpi_threads_close(tfp_ctx *ctx);
static tfp_status tfpi_backend_open(
    tfp_ctx *ctx); /* >>simd.c: chooses level and table, takes scratch */
static void tfpi_io_default(tfp_io *io);            /* >>files.c */
static void tfpi_tape_reset(tfp_ctx *ctx);          /* >>ops.c */

TFP_API const char *tfp_status_name(tfp_status status) {
  switch (status) {
#define TFPI_X(name, text) case TFP_##name: return "TFP_" #name;
    TFP_STATUS_LIST(TFPI_X)
#undef TFPI_X
    default: return "unknown";
  }
}

TFP_API tfp_ctx *tfp_create_stamped(const tfp_desc *desc, size_t desc_bytes, unsigned stamp) {
  tfp_ctx seed, *ctx = NULL;
  size_t bytes = (sizeof *ctx + TFPI_ALIGN - 1) / TFPI_ALIGN * TFPI_ALIGN;
  memset(&seed, 0, sizeof seed);
  if (desc && desc_bytes == sizeof(tfp_desc)) memcpy(&seed.desc, desc, sizeof seed.desc);
  if (seed.desc.block) {
    size_t skip = (TFPI_ALIGN - (size_t)((uintptr_t)seed.desc.block % TFPI_ALIGN)) % TFPI_ALIGN;
    if (seed.desc.block_bytes < skip + bytes) return NULL;
    seed.desc.block = (char *)seed.desc.block + skip;
    seed.desc.block_bytes -= skip;
    ctx = (tfp_ctx *)seed.desc.block;
    seed.desc.threads = 1;
  } else {
    ctx = (tfp_ctx *)tfpi_system_alloc(&seed, bytes);
  }
  if (!ctx) return NULL;
  memcpy(ctx, &seed, sizeof seed);
  ctx->lasting = ctx->stacked = ctx->peak = ctx->own.top = bytes;
  ctx->own.ctx = ctx->step.ctx = ctx;
  ctx->step.is_step = 1;
  if (desc_bytes != sizeof(tfp_desc) || stamp != TFPRE_VERSION * 16u + (unsigned)sizeof(tfp_real)) {
    tfpi_fail(ctx, TFP_ERR_VERSION,
              "tfp_create: this file was compiled as version %u with %u-byte numbers, the "
              "implementation as version %d with %d-byte numbers",
              (uint64_t)(stamp / 16), (uint64_t)(stamp % 16), TFPRE_VERSION, (int)sizeof(tfp_real));
    return ctx;
  }
  if (ctx->desc.threads < 0 || ctx->desc.threads > TFP_MAX_THREADS)
    tfpi_fail(ctx, TFP_ERR_ARG, "tfp_create: %d threads; 0 to %d are possible", ctx->desc.threads,
              TFP_MAX_THREADS);
  else if ((int)ctx->desc.level < 0 || (int)ctx->desc.level > TFP_LEVEL_AVX512)
    tfpi_fail(ctx, TFP_ERR_ARG, "tfp_create: level %d is unknown", (int)ctx->desc.level);
  if (!ctx->desc.io.open && !ctx->desc.block) tfpi_io_default(&ctx->desc.io);
  ctx->now.loss_scale = 1;
  if (!ctx->status) tfpi_threads_open(ctx);
  if (!ctx->status) tfpi_backend_open(ctx);
  return ctx;
}

TFP_API void tfp_destroy(tfp_ctx *ctx) {
  if (!ctx) return;
  tfpi_threads_close(ctx);
  while (ctx->arenas) tfpi_arena_close(ctx->arenas);
  tfpi_arena_close(&ctx->step);
  tfpi_arena_close(&ctx->own);
  if (!ctx->desc.block) {
    tfp_ctx last;
    memcpy(&last, ctx, sizeof last); /* release through a copy: the context itself is going */
    tfpi_system_release(&last, ctx, (sizeof *ctx + TFPI_ALIGN - 1) / TFPI_ALIGN * TFPI_ALIGN);
  }
}

TFP_API tfp_status tfp_error(const tfp_ctx *ctx) { return ctx ? ctx->status : TFP_ERR_NOMEM; }
TFP_API const char *tfp_error_message(const tfp_ctx *ctx) {
  return ctx ? ctx->message : "tfp_create: no memory for a context";
}
TFP_API void tfp_clear_error(tfp_ctx *ctx) {
  if (!ctx) return;
  ctx->status = TFP_OK;
  ctx->message[0] = 0;
}
TFP_API void tfp_step_reset(tfp_ctx *ctx) {
  tfpi_mark start;
  memset(&start, 0, sizeof start);
  tfpi_tape_reset(ctx);
  tfpi_arena_release(&ctx->step, start);
}
TFP_API tfp_memory_info tfp_memory(const tfp_ctx *ctx) {
  tfp_memory_info m;
  m.step = (int64_t)ctx->step.used;
  m.used = (int64_t)ctx->lasting + m.step;
  m.peak = (int64_t)ctx->peak;
  m.reserved = (int64_t)ctx->reserved;
  m.blocks = ctx->blocks;
  return m;
}
TFP_API int tfp_threads(const tfp_ctx *ctx) { return ctx->threads; }
TFP_API const char *tfp_level_name(const tfp_ctx *ctx) {
  return ctx->level == TFP_LEVEL_AVX512 ? "avx512"
         : ctx->level == TFP_LEVEL_AVX2 ? "avx2"
                                        : "plain";
}
TFP_API double tfp_seconds(void) {
#if defined(_WIN32)
  LARGE_INTEGER f, c;
  QueryPerformanceFrequency(&f);
  QueryPerformanceCounter(&c);
  return (double)c.QuadPart / (double)f.QuadPart;
#elif defined(CLOCK_MONOTONIC)
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#elif defined(__unix__) || defined(__APPLE__)
  struct timeval t; /* a strict -std=c99 with <time.h> read before this header */
  gettimeofday(&t, NULL);
  return (double)t.tv_sec + 1e-6 * (double)t.tv_usec;
#else
  return 0;
#endif
}
/* ================================================================================================
 * >>rng.c   counter-based random numbers
 * ================================================================================================
 */
/* Philox4x32-10: ten rounds of two 32x32 multiplications on a 128-bit counter under a 64-bit key.
 * */
static void tfpi_philox(uint64_t seed, uint64_t stream, uint64_t block, uint32_t out[4]) {
  uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32);
  uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  int round;
  for (round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

TFP_API uint32_t tfp_random_bits(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t w[4];
  tfpi_philox(seed, stream, index / 4, w);
  return w[index % 4];
}
TFP_API float tfp_random_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return (float)(tfp_random_bits(seed, stream, index) >> 8) * (1.0f / 16777216.0f);
}
TFP_API float tfp_random_normal(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t w[4];
  double u, angle;
  const uint64_t pair = index % 2 * 2;
  tfpi_philox(seed, stream ^ 0x5bf03635f0935ad1u, index / 2, w);
  u = ((double)w[pair] + 1.0) / 4294967296.0; /* in (0,1] */
  angle = (double)w[pair + 1] / 4294967296.0 * 6.283185307179586476925;
  return (float)(sqrt(-2.0 * log(u)) * cos(angle));
}
TFP_API int64_t tfp_random_below(uint64_t seed, uint64_t stream, uint64_t index, int64_t n) {
  uint32_t w[4];
  uint64_t hi, x;
  tfpi_philox(seed, stream, index / 2, w);
  x = (uint64_t)w[index % 2 * 2] << 32 | w[index % 2 * 2 + 1];
  if (n <= 1) return 0;
  if ((uint64_t)n >> 32) return (int64_t)(x % (uint64_t)n);
  hi = (x >> 32) * (uint64_t)n +
       (((x & 0xFFFFFFFFu) * (uint64_t)n) >> 32); /* floor(x n / 2^64) 2^32 */
  return (int64_t)(hi >> 32);
}
TFP_API int64_t tfp_random_permuted(uint64_t seed, uint64_t stream, int64_t i, int64_t n) {
  int half = 1, round;
  uint64_t mask, x = (uint64_t)i;
  if (n <= 1) return 0;
  while (half < 32 && ((uint64_t)(n - 1) >> (2 * half))) half++;
  mask = ((uint64_t)1 << half) - 1;
  do { /* cycle walking: on average fewer than four passes, for the domain is under 4n */
    uint64_t left = x >> half, right = x & mask;
    for (round = 0; round < 4; round++) {
      const uint64_t f =
          tfp_random_bits(seed, stream + 0x9E3779B97F4A7C15u * (uint64_t)(round + 1), right * 4);
      const uint64_t t = left ^ (f & mask);
      left = right;
      right = t;
    }
    x = left << half | right;
  } while (x >= (uint64_t)n);
  return (int64_t)x;
}
TFP_API uint64_t tfp_stream(uint64_t step, unsigned layer, unsigned site) {
  return step << 32 | (uint64_t)(layer & 0xFFFFu) << 16 | (site & 0xFFFFu);
}
/* ================================================================================================
 * >>files.c   the I/O door, UTF-8, JSON, safetensors
 * ================================================================================================
 */
#if !defined(TFPRE_NO_STDIO) && (defined(__unix__) || defined(__APPLE__) || defined(_WIN32))
#define TFPI_HAS_FILES 1
#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* rename */
#include <sys/stat.h>
#include <sys/types.h>
#if defined(_WIN32)
#include <io.h>
#include <wchar.h>
#elif defined(__STRICT_ANSI__) && !defined(__cplusplus)
extern int fsync(int); /* hidden where <stdio.h> was read under -std=c99 before this header */
#endif
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define TFPI_LITTLE 1
#else
#define TFPI_LITTLE 0
#endif

/* ---- growing text, sorting ---- */

/* Bytes that grow in an arena, always with a NUL behind them once there are any. What is outgrown
 * stays in the arena: doubling keeps that below the final size. */
typedef struct tfpi_grow {
  tfpi_arena *arena;
  char *at;
  int64_t n, cap;
} tfpi_grow;

static int tfpi_grow_room(tfpi_grow *g, int64_t more) {
  void *fresh;
  int64_t cap = g->cap ? g->cap : 256;
  if (more < 0 || more > INT64_MAX / 8 - g->n)
    more = INT64_MAX / 8 - g->n; /* tfpi_take refuses it */
  if (g->n + more < g->cap) return 1;
  while (cap <= g->n + more) cap *= 2;
  if (tfpi_take(g->arena, (size_t)cap, TFPI_META, &fresh)) return 0;
  if (g->n) memcpy(fresh, g->at, (size_t)g->n);
  g->at = (char *)fresh;
  g->cap = cap;
  return 1;
}

static void tfpi_grow_add(tfpi_grow *g, const void *data, int64_t bytes) {
  if (!tfpi_grow_room(g, bytes)) return;
  if (bytes) memcpy(g->at + g->n, data, (size_t)bytes);
  g->n += bytes;
  g->at[g->n] = 0;
}

/* Heap sort of pointers, ascending: no memory, no recursion, no bad case. Not stable. */
static void tfpi_sort(void **items, int64_t n, int (*compare)(const void *, const void *)) {
  int64_t start = n / 2, end = n;
  while (end > 1) {
    int64_t root, child;
    void *x;
    if (start > 0) {
      x = items[--start];
    } else {
      x = items[--end];
      items[end] = items[0];
    }
    for (root = start; (child = 2 * root + 1) < end; root = child) {
      if (child + 1 < end && compare(items[child], items[child + 1]) < 0) child++;
      if (compare(x, items[child]) >= 0) break;
      items[root] = items[child];
    }
    items[root] = x;
  }
}

/* ---- the operating system's files ---- */

#if defined(TFPI_HAS_FILES)
static int tfpi_os_errno(void) { return errno ? errno : EIO; }
static int tfpi_os_fd(void *file) { return (int)(intptr_t)file - 1; }
#endif

#if defined(TFPI_HAS_FILES) && defined(_WIN32)
enum { TFPI_WIDE = 2048 };
static int tfpi_os_wide(const char *path, wchar_t *wide) {
  return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, TFPI_WIDE) ? 0 : EINVAL;
}
static int tfpi_os_open(void *user, const char *path, int for_writing, void **file) {
  wchar_t wide[TFPI_WIDE];
  int fd, e = tfpi_os_wide(path, wide);
  (void)user;
  if (e) return e;
  fd = for_writing ? _wopen(wide, _O_BINARY | _O_NOINHERIT | _O_WRONLY | _O_CREAT | _O_TRUNC,
                            _S_IREAD | _S_IWRITE)
                   : _wopen(wide, _O_BINARY | _O_NOINHERIT | _O_RDONLY);
  if (fd < 0) return tfpi_os_errno();
  *file = (void *)(intptr_t)(fd + 1);
  return 0;
}
static int tfpi_os_close(void *user, void *file) {
  (void)user;
  return _close(tfpi_os_fd(file)) ? tfpi_os_errno() : 0;
}
static int64_t tfpi_os_read_at(void *user, void *file, int64_t offset, void *buffer,
                               int64_t bytes) {
  int64_t done = 0;
  (void)user;
  if (_lseeki64(tfpi_os_fd(file), offset, SEEK_SET) < 0) return -tfpi_os_errno();
  while (done < bytes) {
    int r =
        _read(tfpi_os_fd(file), (char *)buffer + done, (unsigned)tfpi_min64(bytes - done, 1 << 30));
    if (r < 0) return -tfpi_os_errno();
    if (r == 0) break;
    done += r;
  }
  return done;
}
static int tfpi_os_write(void *user, void *file, const void *data, int64_t bytes) {
  (void)user;
  while (bytes > 0) {
    int r = _write(tfpi_os_fd(file), data, (unsigned)tfpi_min64(bytes, 1 << 26));
    if (r < 0) return tfpi_os_errno();
    if (r == 0) return ENOSPC;
    data = (const char *)data + r;
    bytes -= r;
  }
  return 0;
}
static int tfpi_os_sync(void *user, void *file) {
  (void)user;
  return _commit(tfpi_os_fd(file)) ? tfpi_os_errno() : 0;
}
static int tfpi_os_size(void *user, void *file, int64_t *bytes) {
  (void)user;
  *bytes = _lseeki64(tfpi_os_fd(file), 0, SEEK_END);
  return *bytes < 0 ? tfpi_os_errno() : 0;
}
static int tfpi_os_replace(void *user, const char *from, const char *to) {
  wchar_t a[TFPI_WIDE], b[TFPI_WIDE];
  (void)user;
  if (tfpi_os_wide(from, a) || tfpi_os_wide(to, b)) return EINVAL;
  if (MoveFileExW(a, b, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH)) return 0;
  switch (GetLastError()) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND: return ENOENT;
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION: return EACCES;
    case ERROR_DISK_FULL: return ENOSPC;
    default: return EIO;
  }
}
static int tfpi_os_remove(void *user, const char *path) {
  wchar_t wide[TFPI_WIDE];
  int e = tfpi_os_wide(path, wide);
  (void)user;
  return e ? e : _wunlink(wide) ? tfpi_os_errno() : 0;
}
static int tfpi_os_mkdir(void *user, const char *path) {
  wchar_t wide[TFPI_WIDE];
  int e = tfpi_os_wide(path, wide);
  DWORD kind;
  (void)user;
  if (e) return e;
  if (_wmkdir(wide) == 0) return 0;
  e = tfpi_os_errno();
  kind = GetFileAttributesW(wide);
  return kind != INVALID_FILE_ATTRIBUTES && (kind & FILE_ATTRIBUTE_DIRECTORY) ? 0 : e;
}

#elif defined(TFPI_HAS_FILES)
#if !defined(O_CLOEXEC)
#define O_CLOEXEC 0
#endif
static int tfpi_os_open(void *user, const char *path, int for_writing, void **file) {
  struct stat st;
  int fd;
  (void)user;
  do {
    fd = for_writing ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)
                     : open(path, O_RDONLY | O_CLOEXEC);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return tfpi_os_errno();
  if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
    close(fd);
    return EISDIR;
  }
  *file = (void *)(intptr_t)(fd + 1);
  return 0;
}
static int tfpi_os_close(void *user, void *file) {
  (void)user; /* after EINTR the descriptor is gone on Linux: a second close could hit another's */
  return close(tfpi_os_fd(file)) && errno != EINTR ? tfpi_os_errno() : 0;
}
/* lseek and read, not pread, which a strict -std=c99 hides: one thread at a time has a file. */
static int64_t tfpi_os_read_at(void *user, void *file, int64_t offset, void *buffer,
                               int64_t bytes) {
  int64_t done = 0;
  (void)user;
  if ((int64_t)(off_t)offset != offset) return -EOVERFLOW;
  if (lseek(tfpi_os_fd(file), (off_t)offset, SEEK_SET) < 0) return -(int64_t)tfpi_os_errno();
  while (done < bytes) {
    int64_t r =
        read(tfpi_os_fd(file), (char *)buffer + done, (size_t)tfpi_min64(bytes - done, 1 << 30));
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return -(int64_t)tfpi_os_errno();
    if (r == 0) break;
    done += r;
  }
  return done;
}
static int tfpi_os_write(void *user, void *file, const void *data, int64_t bytes) {
  (void)user;
  while (bytes > 0) {
    int64_t r = write(tfpi_os_fd(file), data, (size_t)tfpi_min64(bytes, 1 << 30));
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return tfpi_os_errno();
    if (r == 0) return ENOSPC;
    data = (const char *)data + r;
    bytes -= r;
  }
  return 0;
}
static int tfpi_os_sync(void *user, void *file) {
  int r;
  (void)user;
#if defined(F_FULLFSYNC)
  if (fcntl(tfpi_os_fd(file), F_FULLFSYNC) == 0)
    return 0; /* fsync leaves it in the drive's cache */
#endif
  do r = fsync(tfpi_os_fd(file)); while (r < 0 && errno == EINTR);
  return r < 0 ? tfpi_os_errno() : 0;
}
static int tfpi_os_size(void *user, void *file, int64_t *bytes) {
  (void)user;
  *bytes = (int64_t)lseek(tfpi_os_fd(file), 0, SEEK_END);
  return *bytes < 0 ? tfpi_os_errno() : 0;
}
/* Renames, and brings the directory to the disk. Devices and pipes are not replaced by files. */
static int tfpi_os_replace(void *user, const char *from, const char *to) {
  struct stat st;
  const char *slash = strrchr(to, '/');
  char dir[4096];
  int fd, r, e = 0;
  size_t n = slash ? (size_t)(slash - to) + 1 : 1;
  (void)user;
  if (stat(to, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) return EEXIST;
  if (n >= sizeof dir) return ENAMETOOLONG;
  memcpy(dir, slash ? to : ".", n);
  dir[n] = 0;
  if (rename(from, to)) return tfpi_os_errno();
  do fd = open(dir, O_RDONLY | O_CLOEXEC); while (fd < 0 && errno == EINTR);
  if (fd < 0) return 0; /* a directory that may be written and not read cannot be synced */
  do r = fsync(fd); while (r < 0 && errno == EINTR);
  if (r < 0 && errno == EIO) e = EIO; /* other codes: this file system syncs no directories */
  close(fd);
  return e;
}
static int tfpi_os_remove(void *user, const char *path) {
  (void)user;
  return unlink(path) ? tfpi_os_errno() : 0;
}
static int tfpi_os_mkdir(void *user, const char *path) {
  struct stat st;
  int e;
  (void)user;
  if (mkdir(path, 0777) == 0) return 0;
  e = tfpi_os_errno();
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? 0 : e;
}
#endif

static void tfpi_io_default(tfp_io *io) {
  memset(io, 0, sizeof *io);
#if defined(TFPI_HAS_FILES)
  io->open = tfpi_os_open;
  io->close = tfpi_os_close;
  io->read_at = tfpi_os_read_at;
  io->write = tfpi_os_write;
  io->sync = tfpi_os_sync;
  io->size = tfpi_os_size;
  io->replace = tfpi_os_replace;
  io->remove = tfpi_os_remove;
  io->mkdir = tfpi_os_mkdir;
#endif
}

/* ---- reading ---- */

/* "open 'x/y.json' for reading: No such file or directory" */
static tfp_status tfpi_io_fail(tfp_ctx *ctx, const char *what, const char *path, const char *how,
                               int64_t code) {
  char number[32];
  const char *why = NULL;
#if defined(TFPI_HAS_FILES)
  why = strerror((int)code);
#endif
  if (!why || !why[0]) {
    tfpi_format(number, sizeof number, "error %i", code);
    why = number;
  }
  return tfpi_fail(ctx, TFP_ERR_IO, "%s '%s'%s: %s", what, path, how, why);
}

/* Whether the context has the functions of the door that are needed; an error if not. */
static tfp_status tfpi_io_ready(tfp_ctx *ctx, const char *path, int for_writing) {
  const tfp_io *io = &ctx->desc.io;
  int ready = io->open && io->close;
  if (ctx->status) return ctx->status;
  if (!path || !path[0]) return tfpi_fail(ctx, TFP_ERR_ARG, "open: the path is empty");
  if (for_writing) ready = ready && io->write && io->replace && io->remove;
  else ready = ready && io->read_at && io->size;
  if (ready) return TFP_OK;
  return tfpi_fail(ctx, TFP_ERR_UNSUPPORTED, "open '%s' for %s: this context has no files", path,
                   for_writing ? "writing" : "reading");
}

/* Opens for reading and learns the size. */
static tfp_status tfpi_open_read(tfp_ctx *ctx, const char *path, void **handle, int64_t *size) {
  const tfp_io *io = &ctx->desc.io;
  int e;
  if (tfpi_io_ready(ctx, path, 0)) return ctx->status;
  e = io->open(io->user, path, 0, handle);
  if (e) return tfpi_io_fail(ctx, "open", path, " for reading", e);
  e = io->size(io->user, *handle, size);
  if (!e && *size >= 0) return TFP_OK;
  io->close(io->user, *handle);
  return tfpi_io_fail(ctx, "size of", path, "", e);
}

/* Bytes at an offset; how many, or -1 with an error. */
static int64_t tfpi_read_some(tfp_ctx *ctx, const char *path, void *handle, int64_t offset,
                              void *out, int64_t bytes) {
  const tfp_io *io = &ctx->desc.io;
  int64_t r = io->read_at(io->user, handle, offset, out, bytes);
  if (r >= 0 && r <= bytes) return r;
  tfpi_io_fail(ctx, "read", path, "", r < 0 ? -r : 0);
  return -1;
}

/* The same where all of them must be there. */
static tfp_status tfpi_read_all(tfp_ctx *ctx, const char *path, void *handle, int64_t offset,
                                void *out, int64_t bytes) {
  int64_t r = tfpi_read_some(ctx, path, handle, offset, out, bytes);
  if (r < 0) return ctx->status;
  if (r < bytes)
    return tfpi_fail(ctx, TFP_ERR_IO, "read '%s': it ends at byte %i where %i were expected", path,
                     offset + r, offset + bytes);
  return TFP_OK;
}

/* A whole file into a lasting arena, a NUL behind it. */
static tfp_status tfpi_read_file(tfpi_arena *a, const char *path, char **data, int64_t *bytes) {
  tfp_ctx *ctx = a->ctx;
  void *handle, *p = NULL;
  int64_t size;
  *data = NULL;
  *bytes = 0;
  if (tfpi_open_read(ctx, path, &handle, &size)) return ctx->status;
  if (!tfpi_take(a, (size_t)size + 1, TFPI_META, &p) &&
      !tfpi_read_all(ctx, path, handle, 0, p, size)) {
    ((char *)p)[size] = 0;
    *data = (char *)p;
    *bytes = size;
  }
  ctx->desc.io.close(ctx->desc.io.user, handle);
  return ctx->status;
}

TFP_API tfp_status tfp_read_file(tfp_ctx *ctx, const char *path, char **data, int64_t *bytes) {
  int64_t size;
  tfp_status status = tfpi_read_file(&ctx->own, path, data, &size);
  if (bytes) *bytes = size;
  return status;
}

TFP_API int tfp_file_exists(tfp_ctx *ctx, const char *path) {
  const tfp_io *io = &ctx->desc.io;
  void *handle;
  if (!io->open || !io->close || !path || !path[0] || io->open(io->user, path, 0, &handle))
    return 0;
  io->close(io->user, handle);
  return 1;
}

enum { TFPI_FILE_BUFFER = 1 << 16 };

struct tfp_file {
  tfp_ctx *ctx;
  tfpi_arena *arena;
  void *handle;
  const char *path;
  int64_t size, at;   /* of the file; what is read next */
  int64_t from, have; /* the bytes [from, from+have) of the file are in the buffer */
  char *buffer;
  tfpi_grow line;
};

TFP_API tfp_file *tfp_file_open(tfp_ctx *ctx, const char *path) {
  tfp_file *f;
  void *buffer;
  tfpi_arena *a = tfpi_io_ready(ctx, path, 0) ? NULL : tfpi_arena_borrow(ctx);
  if (!a) return NULL;
  f = (tfp_file *)tfpi_new(a, 1, sizeof *f);
  if (f && !tfpi_take(a, TFPI_FILE_BUFFER, TFPI_META, &buffer)) {
    f->ctx = ctx;
    f->arena = f->line.arena = a;
    f->path = tfpi_copy_text(a, path, strlen(path));
    f->buffer = (char *)buffer;
    if (f->path && !tfpi_open_read(ctx, path, &f->handle, &f->size)) return f;
  }
  tfpi_arena_return(a);
  return NULL;
}

/* Makes the buffer hold the byte at f->at; how many bytes are there from it on, -1 on error. */
static int64_t tfpi_file_fill(tfp_file *f) {
  int64_t r;
  if (f->at >= f->from && f->at < f->from + f->have) return f->from + f->have - f->at;
  r = tfpi_read_some(f->ctx, f->path, f->handle, f->at, f->buffer, TFPI_FILE_BUFFER);
  f->from = f->at;
  f->have = r < 0 ? 0 : r;
  return r;
}

TFP_API int64_t tfp_file_read(tfp_file *file, void *out, int64_t bytes) {
  int64_t done = 0;
  if (!file || file->ctx->status) return -1;
  while (done < bytes) {
    const int in_buffer = file->at >= file->from && file->at < file->from + file->have;
    int64_t n = bytes - done;
    if (!in_buffer && n >= TFPI_FILE_BUFFER) { /* large pieces go past the buffer */
      n = tfpi_read_some(file->ctx, file->path, file->handle, file->at, (char *)out + done, n);
    } else {
      n = tfpi_min64(n, tfpi_file_fill(file));
      if (n > 0) memcpy((char *)out + done, file->buffer + (file->at - file->from), (size_t)n);
    }
    if (n < 0) return -1;
    if (n == 0) break;
    done += n;
    file->at += n;
  }
  return done;
}

TFP_API int64_t tfp_file_line(tfp_file *file, const char **line) {
  int found = 0, any = 0;
  *line = NULL;
  if (!file || file->ctx->status) return -1;
  file->line.n = 0;
  while (!found) {
    const char *start, *stop;
    int64_t n = tfpi_file_fill(file);
    if (n < 0) return -1;
    if (n == 0) break;
    any = 1;
    start = file->buffer + (file->at - file->from);
    stop = (const char *)memchr(start, '\n', (size_t)n);
    found = stop != NULL;
    if (stop) n = stop - start;
    tfpi_grow_add(&file->line, start, n);
    if (file->ctx->status) return -1;
    file->at += n + found;
  }
  if (!any) return -1;
  if (found && file->line.n && file->line.at[file->line.n - 1] == '\r')
    file->line.at[--file->line.n] = 0;
  *line = file->line.at;
  return file->line.n;
}

TFP_API int64_t tfp_file_read_at(tfp_file *file, int64_t offset, void *out, int64_t bytes) {
  if (!file || file->ctx->status) return -1;
  if (offset < 0 || bytes < 0) {
    tfpi_fail(file->ctx, TFP_ERR_ARG, "read '%s': %i bytes at offset %i", file->path, bytes,
              offset);
    return -1;
  }
  return tfpi_read_some(file->ctx, file->path, file->handle, offset, out, bytes);
}
TFP_API void tfp_file_seek(tfp_file *file, int64_t offset) {
  if (file) file->at = tfpi_max64(offset, 0);
}
TFP_API int64_t tfp_file_size(const tfp_file *file) { return file ? file->size : 0; }
TFP_API void tfp_file_close(tfp_file *file) {
  if (!file) return;
  file->ctx->desc.io.close(file->ctx->desc.io.user, file->handle);
  tfpi_arena_return(file->arena);
}

/* ---- writing ---- */

/* A file on its way: written as path + ".tmp" through a buffer, put in place at the end. After an
 * error anywhere in the context the old file stays. */
typedef struct tfpi_sink {
  tfp_ctx *ctx;
  char *path, *tmp;
  void *handle;
  int is_open, is_made; /* the handle is open; the temporary file is there */
  char *buffer;
  int64_t fill;
} tfpi_sink;

static void tfpi_sink_abort(tfpi_sink *s) {
  const tfp_io *io = &s->ctx->desc.io;
  if (s->is_open) io->close(io->user, s->handle);
  if (s->is_made) io->remove(io->user, s->tmp);
  s->is_open = s->is_made = 0;
}

static tfp_status tfpi_sink_open(tfpi_sink *s, tfpi_arena *a, const char *path) {
  const tfp_io *io = &a->ctx->desc.io;
  size_t n;
  void *p;
  int e;
  memset(s, 0, sizeof *s);
  s->ctx = a->ctx;
  if (tfpi_io_ready(s->ctx, path, 1)) return s->ctx->status;
  n = strlen(path);
  s->path = tfpi_copy_text(a, path, n);
  s->tmp = (char *)tfpi_new(a, (int64_t)n + 5, 1);
  if (!s->path || !s->tmp || tfpi_take(a, TFPI_FILE_BUFFER, TFPI_META, &p)) return s->ctx->status;
  memcpy(s->tmp, path, n);
  memcpy(s->tmp + n, ".tmp", 5);
  s->buffer = (char *)p;
  e = io->open(io->user, s->tmp, 1, &s->handle);
  if (e) return tfpi_io_fail(s->ctx, "open", s->tmp, " for writing", e);
  s->is_open = s->is_made = 1;
  return TFP_OK;
}

static tfp_status tfpi_sink_put(tfpi_sink *s, const void *data, int64_t bytes) {
  const tfp_io *io = &s->ctx->desc.io;
  int e = bytes ? io->write(io->user, s->handle, data, bytes) : 0;
  return e ? tfpi_io_fail(s->ctx, "write", s->tmp, "", e) : TFP_OK;
}

static tfp_status tfpi_sink_write(tfpi_sink *s, const void *data, int64_t bytes) {
  if (s->ctx->status) return s->ctx->status;
  if (bytes > TFPI_FILE_BUFFER - s->fill) {
    if (tfpi_sink_put(s, s->buffer, s->fill)) return s->ctx->status;
    s->fill = 0;
    if (bytes >= TFPI_FILE_BUFFER) return tfpi_sink_put(s, data, bytes);
  }
  if (bytes) memcpy(s->buffer + s->fill, data, (size_t)bytes);
  s->fill += bytes;
  return TFP_OK;
}

static tfp_status tfpi_sink_finish(tfpi_sink *s) {
  const tfp_io *io = &s->ctx->desc.io;
  int e;
  if (!s->ctx->status) tfpi_sink_put(s, s->buffer, s->fill);
  if (!s->ctx->status && io->sync) {
    e = io->sync(io->user, s->handle);
    if (e) tfpi_io_fail(s->ctx, "sync", s->tmp, "", e);
  }
  if (!s->ctx->status) {
    s->is_open = 0;
    e = io->close(io->user, s->handle);
    if (e) tfpi_io_fail(s->ctx, "close", s->tmp, "", e);
  }
  if (!s->ctx->status) {
    e = io->replace(io->user, s->tmp, s->path);
    if (!e) s->is_made = 0;
    else tfpi_io_fail(s->ctx, "put", s->path, " in place", e);
  }
  if (s->ctx->status) tfpi_sink_abort(s);
  return s->ctx->status;
}

TFP_API tfp_status tfp_write_file(tfp_ctx *ctx, const char *path, const void *data, int64_t bytes) {
  tfpi_sink s;
  tfpi_arena *a;
  if (bytes < 0 || (bytes && !data)) return tfpi_fail(ctx, TFP_ERR_ARG, "tfp_write_file: no data");
  a = tfpi_io_ready(ctx, path, 1) ? NULL : tfpi_arena_borrow(ctx);
  if (!a) return ctx->status;
  if (!tfpi_sink_open(&s, a, path)) {
    tfpi_sink_write(&s, data, bytes);
    tfpi_sink_finish(&s);
  }
  tfpi_arena_return(a);
  return ctx->status;
}

TFP_API tfp_status tfp_make_dir(tfp_ctx *ctx, const char *path) {
  const tfp_io *io = &ctx->desc.io;
  tfpi_arena *a;
  char *copy;
  size_t i, n;
  int e;
  if (ctx->status) return ctx->status;
  if (!path || !path[0]) return tfpi_fail(ctx, TFP_ERR_ARG, "tfp_make_dir: the path is empty");
  if (!io->mkdir)
    return tfpi_fail(ctx, TFP_ERR_UNSUPPORTED, "make directory '%s': this context has no files",
                     path);
  if (io->mkdir(io->user, path) == 0) return TFP_OK;
  a = tfpi_arena_borrow(ctx);
  if (!a) return ctx->status;
  n = strlen(path);
  copy = tfpi_copy_text(a, path, n);
  for (i = 1; copy && i < n; i++)
    if (copy[i] == '/' || copy[i] == '\\') { /* errors of those above show at the last one */
      const char separator = copy[i];
      copy[i] = 0;
      io->mkdir(io->user, copy);
      copy[i] = separator;
    }
  e = copy ? io->mkdir(io->user, path) : 0;
  if (e) tfpi_io_fail(ctx, "make directory", path, "", e);
  tfpi_arena_return(a);
  return ctx->status;
}

/* dir/name into out; 1 if it fits in `bytes` with its NUL, else 0 and out is "". */
static int tfpi_path_join(char *out, size_t bytes, const char *dir, const char *name) {
  size_t d = dir ? strlen(dir) : 0, n = strlen(name);
  const size_t slash = d > 0 && dir[d - 1] != '/' && dir[d - 1] != '\\';
  out[0] = 0;
  if (d + slash + n + 1 > bytes) return 0;
  if (d) memcpy(out, dir, d);
  if (slash) out[d++] = '/';
  memcpy(out + d, name, n + 1);
  return 1;
}

/* ---- bytes and bits ---- */

TFPI_INLINE uint32_t tfpi_get16(const unsigned char *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
TFPI_INLINE uint32_t tfpi_get32(const unsigned char *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
TFPI_INLINE uint64_t tfpi_get64(const unsigned char *p) {
  return (uint64_t)tfpi_get32(p) | (uint64_t)tfpi_get32(p + 4) << 32;
}
TFPI_INLINE void tfpi_put16(unsigned char *p, uint32_t x) {
  p[0] = (unsigned char)x;
  p[1] = (unsigned char)(x >> 8);
}
TFPI_INLINE void tfpi_put32(unsigned char *p, uint32_t x) {
  tfpi_put16(p, x);
  tfpi_put16(p + 2, x >> 16);
}
TFPI_INLINE void tfpi_put64(unsigned char *p, uint64_t x) {
  tfpi_put32(p, (uint32_t)x);
  tfpi_put32(p + 4, (uint32_t)(x >> 32));
}
TFPI_INLINE uint32_t tfpi_float_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
TFPI_INLINE float tfpi_bits_float(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}
TFPI_INLINE uint64_t tfpi_double_bits(double x) {
  uint64_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
TFPI_INLINE double tfpi_bits_double(uint64_t u) {
  double x;
  memcpy(&x, &u, sizeof x);
  return x;
}

TFP_API uint64_t tfp_hash(uint64_t seed, const void *data, int64_t bytes) {
  const uint64_t k = 0x9E3779B97F4A7C15u;
  const unsigned char *p = (const unsigned char *)data;
  uint64_t h = seed ^ ((uint64_t)bytes + 1) * k;
  for (; bytes > 0; bytes -= 8, p += 8) {
    unsigned char last[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (bytes < 8) memcpy(last, p, (size_t)bytes);
    h = (h ^ tfpi_get64(bytes < 8 ? last : p)) * k;
    h ^= h >> 32;
  }
  h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9u;
  h = (h ^ h >> 27) * 0x94D049BB133111EBu;
  return h ^ h >> 31;
}

/* ---- UTF-8 ---- */

TFP_API int tfp_utf8_decode(const char *text, int64_t bytes, uint32_t *codepoint) {
  const unsigned char *p = (const unsigned char *)text;
  uint32_t c;
  int n, i;
  if (bytes < 1) return 0;
  c = p[0];
  if (c < 0x80) {
    *codepoint = c;
    return 1;
  }
  n = c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0; /* C0 and C1: overlong */
  if (n == 0 || n > bytes) return 0;
  c &= 0x7Fu >> n;
  for (i = 1; i < n; i++) {
    if ((p[i] & 0xC0) != 0x80) return 0;
    c = c << 6 | (p[i] & 0x3Fu);
  }
  if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000) || c > 0x10FFFF ||
      (c >= 0xD800 && c < 0xE000))
    return 0;
  *codepoint = c;
  return n;
}
TFP_API uint32_t tfp_utf8_next(const char **text, const char *end) {
  uint32_t c = 0xFFFD;
  const int n = tfp_utf8_decode(*text, end - *text, &c);
  *text += n ? n : 1;
  return c;
}
TFP_API int tfp_utf8_encode(uint32_t codepoint, char *out) {
  const uint32_t c = codepoint;
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  if (c < 0x800) {
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3F));
    return 2;
  }
  if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return 0;
  if (c < 0x10000) {
    out[0] = (char)(0xE0 | c >> 12);
    out[1] = (char)(0x80 | (c >> 6 & 0x3F));
    out[2] = (char)(0x80 | (c & 0x3F));
    return 3;
  }
  out[0] = (char)(0xF0 | c >> 18);
  out[1] = (char)(0x80 | (c >> 12 & 0x3F));
  out[2] = (char)(0x80 | (c >> 6 & 0x3F));
  out[3] = (char)(0x80 | (c & 0x3F));
  return 4;
}
TFP_API int64_t tfp_utf8_check(const char *text, int64_t bytes) {
  int64_t i = 0;
  uint32_t c;
  while (i < bytes) {
    const int n = tfp_utf8_decode(text + i, bytes - i, &c);
    if (!n) return i;
    i += n;
  }
  return -1;
}
TFP_API int64_t tfp_utf8_length(const char *text, int64_t bytes) {
  const char *end = text + bytes;
  int64_t n = 0;
  for (; text < end; n++) tfp_utf8_next(&text, end);
  return n;
}

/* ---- numbers: exact decimal conversions on large integers ---- */

/* Digits kept of a decimal, and words enough for 10^(digits+326). */
enum { TFPI_DIGITS = 800, TFPI_BIG = 128 };
typedef struct tfpi_big {
  int n; /* words in use, the highest not zero */
  uint32_t w[TFPI_BIG];
} tfpi_big;

static void tfpi_big_set(tfpi_big *b, uint64_t x) {
  b->n = x >> 32 ? 2 : x ? 1 : 0;
  b->w[0] = (uint32_t)x;
  b->w[1] = (uint32_t)(x >> 32);
}
static void tfpi_big_muladd(tfpi_big *b, uint32_t factor, uint32_t more) {
  uint64_t carry = more;
  int i;
  for (i = 0; i < b->n; i++) {
    carry += (uint64_t)b->w[i] * factor;
    b->w[i] = (uint32_t)carry;
    carry >>= 32;
  }
  if (carry) b->w[b->n++] = (uint32_t)carry;
}
static void tfpi_big_mul10(tfpi_big *b, int64_t power) {
  for (; power >= 9; power -= 9) tfpi_big_muladd(b, 1000000000u, 0);
  for (; power > 0; power--) tfpi_big_muladd(b, 10u, 0);
}
static void tfpi_big_shift(tfpi_big *b, int bits) {
  const int words = bits / 32, rest = bits % 32;
  int i;
  if (b->n == 0 || bits == 0) return;
  b->w[b->n] = 0;
  for (i = b->n; i >= 0; i--) {
    uint32_t x = b->w[i] << rest;
    if (rest && i) x |= b->w[i - 1] >> (32 - rest);
    b->w[i + words] = x;
  }
  for (i = 0; i < words; i++) b->w[i] = 0;
  b->n += words + 1;
  while (b->n && !b->w[b->n - 1]) b->n--;
}
static int tfpi_big_bits(const tfpi_big *b) {
  return b->n ? 32 * b->n - __builtin_clz(b->w[b->n - 1]) : 0;
}
static int tfpi_big_compare(const tfpi_big *a, const tfpi_big *b) {
  int i;
  if (a->n != b->n) return a->n < b->n ? -1 : 1;
  for (i = a->n - 1; i >= 0; i--)
    if (a->w[i] != b->w[i]) return a->w[i] < b->w[i] ? -1 : 1;
  return 0;
}
/* a -= b, where a >= b */
static void tfpi_big_subtract(tfpi_big *a, const tfpi_big *b) {
  uint64_t borrow = 0;
  int i;
  for (i = 0; i < a->n; i++) {
    const uint64_t x = (uint64_t)a->w[i] - (i < b->n ? b->w[i] : 0u) - borrow;
    a->w[i] = (uint32_t)x;
    borrow = x >> 63;
  }
  while (a->n && !a->w[a->n - 1]) a->n--;
}
/* Compares a + b with c. */
static int tfpi_big_compare_sum(const tfpi_big *a, const tfpi_big *b, const tfpi_big *c) {
  tfpi_big sum;
  uint64_t carry = 0;
  int i, n = a->n > b->n ? a->n : b->n;
  for (i = 0; i < n; i++) {
    carry += (uint64_t)(i < a->n ? a->w[i] : 0u) + (i < b->n ? b->w[i] : 0u);
    sum.w[i] = (uint32_t)carry;
    carry >>= 32;
  }
  sum.n = n;
  if (carry) sum.w[sum.n++] = (uint32_t)carry;
  return tfpi_big_compare(&sum, c);
}

/* num/den, both positive, rounded to the nearest double, ties to even. Destroys both. */
static double tfpi_big_ratio(tfpi_big *num, tfpi_big *den) {
  const int high = tfpi_big_bits(num) - tfpi_big_bits(den);
  uint64_t q = 0, m, rest;
  int i, exponent = high, drop;
  if (high > 0) tfpi_big_shift(den, high);
  else tfpi_big_shift(num, -high);
  for (i = 0; i < 64; i++) { /* num/den is in (1/2,2): q is its 64 bits from 2^0 down */
    q <<= 1;
    if (tfpi_big_compare(num, den) >= 0) {
      tfpi_big_subtract(num, den);
      q |= 1;
    }
    tfpi_big_shift(num, 1);
  }
  if (!(q >> 63)) q <<= 1, exponent--;
  if (exponent > 1023) return tfpi_bits_double((uint64_t)0x7FF << 52);
  drop = exponent < -1022 ? 11 - 1022 - exponent : 11;
  if (drop > 64) return 0;
  m = drop == 64 ? 0 : q >> drop;
  rest = q << (64 - drop); /* drop 64: a shift by 0 */
  if (rest > (uint64_t)1 << 63 || (rest == (uint64_t)1 << 63 && (num->n || (m & 1)))) m++;
  if (drop > 11) return tfpi_bits_double(m);
  return tfpi_bits_double(((uint64_t)(exponent + 1022) << 52) + m); /* m's top bit adds 1 to 1022 */
}

/* The digits at p (points skipped) times 10^exponent. */
static double tfpi_decimal(const char *p, const char *end, int64_t exponent) {
  static const double ten[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                               1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                               1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  tfpi_big num, den;
  uint64_t head = 0;
  int digits = 0, more = 0;
  while (p < end && (*p == '0' || *p == '.')) p++;
  tfpi_big_set(&num, 0);
  for (; p < end; p++) {
    if (*p == '.') continue;
    if (digits < TFPI_DIGITS) {
      if (digits < 19) head = head * 10 + (uint64_t)(*p - '0');
      else if (digits == 19) tfpi_big_set(&num, head);
      if (digits >= 19) tfpi_big_muladd(&num, 10u, (uint32_t)(*p - '0'));
      digits++;
    } else {
      exponent++;
      more |= *p != '0';
    }
  }
  if (digits == 0 || digits + exponent < -326) return 0;
  if (digits + exponent > 310) return tfpi_bits_double((uint64_t)0x7FF << 52);
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ == 0
  if (digits <= 19 && head <= (uint64_t)1 << 53 && exponent >= -22 && exponent <= 22)
    return /* both numbers are exact, so there is one rounding */
        exponent < 0 ? (double)head / ten[-exponent] : (double)head * ten[exponent];
#endif
  if (digits <= 19) tfpi_big_set(&num, head);
  if (more) { /* what was cut off only matters for being there */
    tfpi_big_muladd(&num, 10u, 1u);
    exponent--;
  }
  tfpi_big_set(&den, 1);
  if (exponent > 0) tfpi_big_mul10(&num, exponent);
  else tfpi_big_mul10(&den, -exponent);
  (void)ten;
  return tfpi_big_ratio(&num, &den);
}

TFP_API int64_t tfp_parse_number(const char *text, int64_t bytes, double *value) {
  const char *p = text, *end = text + bytes, *first, *last;
  int64_t exponent = 0;
  int negative = 0, digits = 0;
  *value = 0;
  if (p < end && (*p == '-' || *p == '+')) negative = *p++ == '-';
  for (first = p; p < end && *p >= '0' && *p <= '9'; p++) digits = 1;
  last = p;
  if (p < end && *p == '.') {
    const char *point = p++;
    while (p < end && *p >= '0' && *p <= '9') p++;
    exponent = -(p - point - 1);
    if (exponent) digits = 1;
    last = p;
  }
  if (!digits) return 0;
  if (p < end && (*p == 'e' || *p == 'E')) {
    const char *mark = p++;
    int64_t e = 0;
    int down = 0;
    if (p < end && (*p == '-' || *p == '+')) down = *p++ == '-';
    if (p < end && *p >= '0' && *p <= '9') {
      for (; p < end && *p >= '0' && *p <= '9'; p++)
        if (e < INT64_MAX / 100) e = e * 10 + (*p - '0');
      exponent += down ? -e : e;
    } else {
      p = mark;
    }
  }
  *value = tfpi_decimal(first, last, exponent);
  if (negative) *value = tfpi_bits_double(tfpi_double_bits(*value) | (uint64_t)1 << 63);
  return p - text;
}

/* The shortest digits that identify m*2^e among its neighbours, whose gaps are 2^e above and, if
 * `narrow`, half of that below. Returns their number; the value is 0.d1d2d3... * 10^*point. */
static int tfpi_shortest(uint64_t m, int e, int narrow, char *digits, int *point) {
  tfpi_big r, s, up, down; /* r/s is what is left; up/s and down/s how far the result may be away */
  const int even = !(m & 1), two = narrow ? 2 : 1;
  const double log10_low = (e + 63 - __builtin_clzll(m)) * 0.30102999566398119521 - 1e-10;
  int k = (int)ceil(log10_low), n = 0, low, high, d;
  tfpi_big_set(&r, m);
  tfpi_big_set(&s, 1);
  tfpi_big_set(&up, 1);
  tfpi_big_set(&down, 1);
  tfpi_big_shift(&r, two + (e > 0 ? e : 0));
  tfpi_big_shift(&s, two + (e < 0 ? -e : 0));
  tfpi_big_shift(&up, two - 1 + (e > 0 ? e : 0));
  tfpi_big_shift(&down, e > 0 ? e : 0);
  if (k >= 0) {
    tfpi_big_mul10(&s, k);
  } else {
    tfpi_big_mul10(&r, -k);
    tfpi_big_mul10(&up, -k);
    tfpi_big_mul10(&down, -k);
  }
  if (tfpi_big_compare_sum(&r, &up, &s) >= (even ? 0 : 1)) k++;
  else tfpi_big_mul10(&r, 1), tfpi_big_mul10(&up, 1), tfpi_big_mul10(&down, 1);
  *point = k;
  for (;;) {
    for (d = 0; tfpi_big_compare(&r, &s) >= 0; d++) tfpi_big_subtract(&r, &s);
    low = tfpi_big_compare(&r, &down) < (even ? 1 : 0);
    high = tfpi_big_compare_sum(&r, &up, &s) >= (even ? 0 : 1);
    if (low || high) break;
    digits[n++] = (char)('0' + d);
    tfpi_big_mul10(&r, 1);
    tfpi_big_mul10(&up, 1);
    tfpi_big_mul10(&down, 1);
  }
  if (low && high) {
    const int c = tfpi_big_compare_sum(&r, &r, &s);
    high = c > 0 || (c == 0 && (d & 1));
  }
  digits[n++] = (char)('0' + d + (high ? 1 : 0));
  return n;
}

/* Lays digits out as Python's repr does: an exponent below 1e-4 and from 1e16 on. */
static int tfpi_layout(char *out, int negative, const char *digits, int n, int point) {
  char *p = out;
  int i, e = point - 1;
  if (negative) *p++ = '-';
  if (point <= -4 || point > 16) {
    *p++ = digits[0];
    if (n > 1) *p++ = '.';
    for (i = 1; i < n; i++) *p++ = digits[i];
    *p++ = 'e';
    *p++ = e < 0 ? '-' : '+';
    if (e < 0) e = -e;
    if (e < 10) *p++ = '0';
    p += tfpi_put_integer(p, (uint64_t)e, 0);
  } else if (point <= 0) {
    *p++ = '0';
    *p++ = '.';
    for (i = point; i < 0; i++) *p++ = '0';
    for (i = 0; i < n; i++) *p++ = digits[i];
  } else {
    for (i = 0; i < n || i <= point; i++) {
      if (i == point) *p++ = '.';
      *p++ = i < n ? digits[i] : '0';
    }
  }
  *p = 0;
  return (int)(p - out);
}

/* Formats a float of any width from its fields; `width` bits of mantissa are stored. */
static int tfpi_format_fields(char *out, int negative, uint64_t mantissa, int exponent, int width,
                              int bias) {
  char digits[24];
  int n, point, e = (exponent ? exponent : 1) - bias - width;
  const int narrow = mantissa == 0 && exponent > 1;
  if (exponent == 2 * bias + 1) {
    if (mantissa) { memcpy(out, "nan", 4); return 3; }
    memcpy(out, negative ? "-inf" : "inf", negative ? 5 : 4);
    return negative ? 4 : 3;
  }
  if (exponent) mantissa |= (uint64_t)1 << width;
  if (mantissa == 0) return tfpi_layout(out, negative, "0", 1, 1);
  n = tfpi_shortest(mantissa, e, narrow, digits, &point);
  return tfpi_layout(out, negative, digits, n, point);
}

TFP_API int tfp_format_double(char *out, double x) {
  const uint64_t u = tfpi_double_bits(x);
  return tfpi_format_fields(out, (int)(u >> 63), u & (((uint64_t)1 << 52) - 1),
                            (int)(u >> 52 & 0x7FF), 52, 1023);
}
TFP_API int tfp_format_float(char *out, float x) {
  const uint32_t u = tfpi_float_bits(x);
  double back;
  int n = tfpi_format_fields(out, (int)(u >> 31), u & 0x7FFFFFu, (int)(u >> 23 & 0xFF), 23, 127);
  if (x - x != 0) return n;
  tfp_parse_number(out, n, &back); /* readers round to double first, which may spoil a tie */
  return tfpi_float_bits((float)back) == u || x == 0 ? n : tfp_format_double(out, (double)x);
}

/* ---- JSON: reading ---- */

/* The text is parsed where it lies: strings are decoded in place, and their NUL takes the place of
 * the closing quote or of an escape before it. */
typedef struct tfpi_json_root {
  tfp_json value; /* first: tfp_json_free casts back */
  tfpi_arena *arena;
} tfpi_json_root;

typedef struct tfpi_parser {
  tfpi_arena *arena;
  const char *name;
  char *text;
  int64_t at, bytes;
  tfp_json *slab; /* nodes not used yet */
  int64_t left, slabs;
  int depth;
  tfp_json *open[TFP_JSON_MAX_DEPTH], *last[TFP_JSON_MAX_DEPTH]; /* by level; its newest child */
} tfpi_parser;

static tfp_status tfpi_json_fail(tfpi_parser *p, int64_t at, const char *expected) {
  char found[16] = "the end";
  if (at < p->bytes) {
    const int c = (unsigned char)p->text[at];
    const char quoted[2] = {c >= 0x20 && c < 0x7F ? (char)c : (char)0, 0};
    if (quoted[0]) tfpi_format(found, sizeof found, "'%s'", quoted);
    else tfpi_format(found, sizeof found, "byte %d", c);
  }
  return tfpi_fail(p->arena->ctx, TFP_ERR_FORMAT, "json '%s', byte %i: expected %s, found %s",
                   p->name ? p->name : "", at, expected, found);
}

static void tfpi_json_space(tfpi_parser *p) {
  while (p->at < p->bytes) {
    const char c = p->text[p->at];
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return;
    p->at++;
  }
}

static int tfpi_json_hex(const tfpi_parser *p, int64_t at, uint32_t *value) {
  int i;
  *value = 0;
  if (p->bytes - at < 4) return 0;
  for (i = 0; i < 4; i++) {
    const char c = p->text[at + i];
    const int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (d < 0) return 0;
    *value = *value << 4 | (uint32_t)d;
  }
  return 1;
}

/* An escape at p->at, behind its backslash; its code point to *c. */
static tfp_status tfpi_json_escape(tfpi_parser *p, uint32_t *c) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  const int64_t start = p->at - 1;
  const char *known;
  uint32_t low;
  if (p->at >= p->bytes) return tfpi_json_fail(p, p->at, "an escape");
  known = p->text[p->at] ? strchr(from, p->text[p->at]) : NULL;
  if (known) {
    *c = (unsigned char)to[known - from];
    p->at++;
    return TFP_OK;
  }
  if (p->text[p->at] != 'u' || !tfpi_json_hex(p, p->at + 1, c))
    return tfpi_json_fail(p, p->at, "an escape: one of \"\\/bfnrt or u and four hex digits");
  p->at += 5;
  if (*c < 0xD800 || *c > 0xDFFF) return TFP_OK;
  if (*c < 0xDC00 && p->bytes - p->at >= 6 && p->text[p->at] == '\\' && p->text[p->at + 1] == 'u' &&
      tfpi_json_hex(p, p->at + 2, &low) && low >= 0xDC00 && low <= 0xDFFF) {
    *c = 0x10000 + ((*c - 0xD800) << 10) + (low - 0xDC00);
    p->at += 6;
    return TFP_OK;
  }
  return tfpi_json_fail(p, start, "a surrogate pair, not half of one");
}

/* A string at p->at, which is its opening quote. */
static tfp_status tfpi_json_string(tfpi_parser *p, const char **text, int64_t *bytes) {
  char *start = p->text + p->at + 1, *to = start;
  uint32_t c;
  p->at++;
  for (;;) {
    unsigned char b;
    int n;
    if (p->at >= p->bytes) return tfpi_json_fail(p, p->at, "the closing quote of a string");
    b = (unsigned char)p->text[p->at];
    if (b == '"') break;
    if (b == '\\') {
      p->at++;
      if (tfpi_json_escape(p, &c)) return p->arena->ctx->status;
      to += tfp_utf8_encode(c, to);
      continue;
    }
    if (b < 0x20) return tfpi_json_fail(p, p->at, "an escape for a control character");
    n = tfp_utf8_decode(p->text + p->at, p->bytes - p->at, &c);
    if (!n) return tfpi_json_fail(p, p->at, "UTF-8");
    for (; n; n--) *to++ = p->text[p->at++];
  }
  p->at++;
  *to = 0;
  *text = start;
  *bytes = to - start;
  return TFP_OK;
}

/* A number at p->at, which is a digit or a minus. */
static tfp_status tfpi_json_number(tfpi_parser *p, tfp_json *node) {
  const char *t = p->text;
  const int64_t start = p->at, end = p->bytes;
  const int negative = t[start] == '-';
  int64_t i = start + negative;
  uint64_t u = 0;
  int fits = 1;
#define TFPI_IS_DIGIT(at) ((at) < end && t[at] >= '0' && t[at] <= '9')
  if (!TFPI_IS_DIGIT(i)) return tfpi_json_fail(p, i, "a digit");
  if (t[i] == '0' && TFPI_IS_DIGIT(i + 1))
    return tfpi_json_fail(p, i + 1, "no digit after a leading 0");
  for (; TFPI_IS_DIGIT(i); i++) {
    const unsigned d = (unsigned)(t[i] - '0');
    if (u > (UINT64_MAX - d) / 10) fits = 0;
    u = u * 10 + d;
  }
  node->type = TFP_JSON_INT;
  if (i < end && t[i] == '.') {
    node->type = TFP_JSON_FLOAT;
    i++;
    if (!TFPI_IS_DIGIT(i)) return tfpi_json_fail(p, i, "a digit");
    while (TFPI_IS_DIGIT(i)) i++;
  }
  if (i < end && (t[i] == 'e' || t[i] == 'E')) {
    node->type = TFP_JSON_FLOAT;
    i++;
    if (i < end && (t[i] == '+' || t[i] == '-')) i++;
    if (!TFPI_IS_DIGIT(i)) return tfpi_json_fail(p, i, "a digit");
    while (TFPI_IS_DIGIT(i)) i++;
  }
#undef TFPI_IS_DIGIT
  p->at = i;
  if (node->type == TFP_JSON_INT && fits && u <= (uint64_t)INT64_MAX + (negative ? 1u : 0u)) {
    node->integer = negative ? (int64_t)(0u - u) : (int64_t)u;
    node->number = (double)node->integer;
    return TFP_OK;
  }
  node->type = TFP_JSON_FLOAT;
  tfp_parse_number(t + start, i - start, &node->number);
  if (node->number - node->number == 0) return TFP_OK;
  return tfpi_json_fail(p, start, "a number within the range of a double");
}

/* The value at p->at into node; an array or object is only opened. */
static tfp_status tfpi_json_value(tfpi_parser *p, tfp_json *node) {
  static const struct { const char *text; int bytes; tfp_json_type type; int value; } word[3] = {
    {"null", 4, TFP_JSON_NULL, 0}, {"true", 4, TFP_JSON_BOOL, 1}, {"false", 5, TFP_JSON_BOOL, 0}};
  char c;
  int i;
  tfpi_json_space(p);
  node->offset = p->at;
  c = p->at < p->bytes ? p->text[p->at] : (char)0;
  if (c == '"') {
    node->type = TFP_JSON_STRING;
    return tfpi_json_string(p, &node->text, &node->text_bytes);
  }
  if (c == '-' || (c >= '0' && c <= '9')) return tfpi_json_number(p, node);
  if (c == '{' || c == '[') {
    node->type = c == '{' ? TFP_JSON_OBJECT : TFP_JSON_ARRAY;
    if (p->depth == TFP_JSON_MAX_DEPTH)
      return tfpi_fail(p->arena->ctx, TFP_ERR_FORMAT, "json '%s', byte %i: more than %d levels",
                       p->name ? p->name : "", p->at, TFP_JSON_MAX_DEPTH);
    p->open[p->depth] = node;
    p->last[p->depth++] = NULL;
    p->at++;
    return TFP_OK;
  }
  for (i = 0; i < 3; i++)
    if (p->bytes - p->at >= word[i].bytes &&
        !memcmp(p->text + p->at, word[i].text, (size_t)word[i].bytes)) {
      node->type = word[i].type;
      node->integer = word[i].value;
      p->at += word[i].bytes;
      return TFP_OK;
    }
  return tfpi_json_fail(p, p->at, "a value");
}

/* A new child of the innermost open array or object, in the latter case with its key read. */
static tfp_json *tfpi_json_child(tfpi_parser *p) {
  tfp_json *parent = p->open[p->depth - 1], *node;
  if (!p->left) {
    p->left = tfpi_min64((int64_t)32 << p->slabs++, 4096); /* small texts stay small */
    if (p->slabs > 8) p->slabs = 8;
    p->slab = (tfp_json *)tfpi_new(p->arena, p->left, sizeof *node);
    if (!p->slab) return NULL;
  }
  p->left--;
  node = p->slab++;
  if (p->last[p->depth - 1]) p->last[p->depth - 1]->next = node;
  else parent->child = node;
  p->last[p->depth - 1] = node;
  parent->count++;
  if (parent->type == TFP_JSON_ARRAY) return node;
  tfpi_json_space(p);
  if (p->at >= p->bytes || p->text[p->at] != '"') {
    tfpi_json_fail(p, p->at, "a key in quotes");
    return NULL;
  }
  if (tfpi_json_string(p, &node->key, &node->key_bytes)) return NULL;
  tfpi_json_space(p);
  if (p->at < p->bytes && p->text[p->at] == ':') {
    p->at++;
    return node;
  }
  tfpi_json_fail(p, p->at, "':' after a key");
  return NULL;
}

/* Parses text (in place) that lies in an arena, which the tree then owns; NULL on error. */
static tfp_json *tfpi_json_adopt(tfpi_arena *a, char *text, int64_t bytes, const char *name) {
  tfpi_json_root *root = (tfpi_json_root *)tfpi_new(a, 1, sizeof *root);
  tfpi_parser p;
  tfp_json *node;
  if (!root) return NULL;
  memset(&p, 0, sizeof p);
  p.arena = root->arena = a, p.name = name, p.text = text, p.bytes = bytes;
  node = &root->value;
  for (;;) {
    const int before = p.depth;
    int opened;
    if (tfpi_json_value(&p, node)) return NULL;
    opened = p.depth > before;
    for (;;) { /* behind a value, or just inside an array or object */
      const tfp_json *in = p.depth ? p.open[p.depth - 1] : NULL;
      char c;
      tfpi_json_space(&p);
      if (!in && p.at == p.bytes) return &root->value;
      if (!in) {
        tfpi_json_fail(&p, p.at, "the end of the text");
        return NULL;
      }
      c = p.at < p.bytes ? p.text[p.at] : (char)0;
      if (c == (in->type == TFP_JSON_OBJECT ? '}' : ']')) {
        p.at++;
        p.depth--;
        opened = 0;
        continue;
      }
      if (!opened && c != ',') {
        tfpi_json_fail(&p, p.at, in->type == TFP_JSON_OBJECT ? "',' or '}'" : "',' or ']'");
        return NULL;
      }
      if (!opened) p.at++;
      node = tfpi_json_child(&p);
      if (!node) return NULL;
      break;
    }
  }
}

TFP_API tfp_json *tfp_json_parse(tfp_ctx *ctx, const char *text, int64_t bytes, const char *name) {
  tfpi_arena *a = tfpi_arena_borrow(ctx);
  tfp_json *root = NULL;
  void *copy;
  if (!a) return NULL;
  if (bytes < 0 || (bytes && !text)) tfpi_fail(ctx, TFP_ERR_ARG, "tfp_json_parse: no text");
  else if (!tfpi_take(a, (size_t)bytes + 1, TFPI_META, &copy)) {
    if (bytes) memcpy(copy, text, (size_t)bytes);
    root = tfpi_json_adopt(a, (char *)copy, bytes, name);
  }
  if (!root) tfpi_arena_return(a);
  return root;
}

TFP_API tfp_json *tfp_json_parse_file(tfp_ctx *ctx, const char *path) {
  tfpi_arena *a = tfpi_io_ready(ctx, path, 0) ? NULL : tfpi_arena_borrow(ctx);
  tfp_json *root = NULL;
  char *text;
  int64_t bytes;
  if (!a) return NULL;
  if (!tfpi_read_file(a, path, &text, &bytes)) root = tfpi_json_adopt(a, text, bytes, path);
  if (!root) tfpi_arena_return(a);
  return root;
}

TFP_API void tfp_json_free(tfp_json *root) {
  if (root) tfpi_arena_return(((tfpi_json_root *)(void *)root)->arena);
}

/* Whether a member has this key; keys may have NULs inside. */
static int tfpi_json_is(const tfp_json *v, const char *key) {
  const size_t n = strlen(key);
  return (size_t)v->key_bytes == n && !memcmp(v->key, key, n);
}

TFP_API const tfp_json *tfp_json_get(const tfp_json *object, const char *key) {
  const tfp_json *v, *found = NULL;
  if (!object || object->type != TFP_JSON_OBJECT) return NULL;
  for (v = object->child; v; v = v->next)
    if (tfpi_json_is(v, key)) found = v;
  return found;
}
TFP_API const tfp_json *tfp_json_at(const tfp_json *array, int64_t i) {
  const tfp_json *v = array && i >= 0 ? array->child : NULL;
  for (; v && i; i--) v = v->next;
  return v;
}
TFP_API int64_t tfp_json_get_int(const tfp_json *object, const char *key, int64_t otherwise) {
  const tfp_json *v = tfp_json_get(object, key);
  return v && v->type == TFP_JSON_INT ? v->integer : otherwise;
}
TFP_API double tfp_json_get_number(const tfp_json *object, const char *key, double otherwise) {
  const tfp_json *v = tfp_json_get(object, key);
  return v && (v->type == TFP_JSON_INT || v->type == TFP_JSON_FLOAT) ? v->number : otherwise;
}
TFP_API int tfp_json_get_bool(const tfp_json *object, const char *key, int otherwise) {
  const tfp_json *v = tfp_json_get(object, key);
  return v && v->type == TFP_JSON_BOOL ? (int)v->integer : otherwise;
}
TFP_API const char *tfp_json_get_text(const tfp_json *object, const char *key,
                                      const char *otherwise) {
  const tfp_json *v = tfp_json_get(object, key);
  return v && v->type == TFP_JSON_STRING ? v->text : otherwise;
}

/* ---- JSON: writing ---- */

struct tfp_json_writer {
  tfp_ctx *ctx;
  tfpi_grow out;
  tfp_json_style style;
  int depth, has_key, complete;
  char kind[TFP_JSON_MAX_DEPTH]; /* '{' or '[' by level */
  int64_t count[TFP_JSON_MAX_DEPTH];
};

TFP_API tfp_json_writer *tfp_json_writer_open(tfp_ctx *ctx, tfp_json_style style) {
  tfpi_arena *a = tfpi_arena_borrow(ctx);
  tfp_json_writer *w = a ? (tfp_json_writer *)tfpi_new(a, 1, sizeof *w) : NULL;
  if (w) {
    w->ctx = ctx;
    w->out.arena = a;
    w->style = style;
    return w;
  }
  if (a) tfpi_arena_return(a);
  return NULL;
}

static void tfpi_json_newline(tfp_json_writer *w) {
  int i;
  if (w->style != TFP_JSON_PRETTY) return;
  tfpi_grow_add(&w->out, "\n", 1);
  for (i = 0; i < w->depth; i++) tfpi_grow_add(&w->out, "  ", 2);
}

/* Between two members: the comma and the space or new line behind it. */
static void tfpi_json_separate(tfp_json_writer *w) {
  if (w->count[w->depth - 1]++) tfpi_grow_add(&w->out, ", ", w->style == TFP_JSON_LINE ? 2 : 1);
  tfpi_json_newline(w);
}

/* Whether a value may come now; writes what goes before it. */
static int tfpi_json_before(tfp_json_writer *w) {
  if (!w || w->ctx->status) return 0;
  if (w->complete) {
    tfpi_fail(w->ctx, TFP_ERR_STATE, "json writer: a value after the end of the text");
  } else if (w->depth && w->kind[w->depth - 1] == '{' && !w->has_key) {
    tfpi_fail(w->ctx, TFP_ERR_STATE, "json writer: a value without a key in an object");
  } else if (w->has_key) {
    w->has_key = 0;
  } else if (w->depth) {
    tfpi_json_separate(w);
  }
  if (!w->depth) w->complete = 1;
  return w->ctx->status == TFP_OK;
}

static void tfpi_json_begin(tfp_json_writer *w, char kind) {
  if (!tfpi_json_before(w)) return;
  if (w->depth == TFP_JSON_MAX_DEPTH) {
    tfpi_fail(w->ctx, TFP_ERR_ARG, "json writer: more than %d levels", TFP_JSON_MAX_DEPTH);
    return;
  }
  w->complete = 0;
  w->count[w->depth] = 0;
  w->kind[w->depth++] = kind;
  tfpi_grow_add(&w->out, &kind, 1);
}

static void tfpi_json_end(tfp_json_writer *w, char kind) {
  if (!w || w->ctx->status) return;
  if (!w->depth || w->kind[w->depth - 1] != kind || w->has_key) {
    tfpi_fail(w->ctx, TFP_ERR_STATE,
              "json writer: an end of an %s that is not open or waits for a value",
              kind == '{' ? "object" : "array");
    return;
  }
  w->depth--;
  if (w->count[w->depth]) tfpi_json_newline(w);
  tfpi_grow_add(&w->out, kind == '{' ? "}" : "]", 1);
  if (!w->depth) w->complete = 1;
}

TFP_API void tfp_json_begin_object(tfp_json_writer *writer) { tfpi_json_begin(writer, '{'); }
TFP_API void tfp_json_end_object(tfp_json_writer *writer) { tfpi_json_end(writer, '{'); }
TFP_API void tfp_json_begin_array(tfp_json_writer *writer) { tfpi_json_begin(writer, '['); }
TFP_API void tfp_json_end_array(tfp_json_writer *writer) { tfpi_json_end(writer, '['); }

static void tfpi_json_quote(tfp_json_writer *w, const char *s, int64_t n) {
  static const char hex[] = "0123456789abcdef", from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
  int64_t i, done = 0;
  const int64_t bad = tfp_utf8_check(s, n);
  if (bad >= 0) {
    tfpi_fail(w->ctx, TFP_ERR_DATA, "json writer: byte %i of a text is not UTF-8", bad);
    return;
  }
  tfpi_grow_add(&w->out, "\"", 1);
  for (i = 0; i < n; i++) {
    const unsigned char c = (unsigned char)s[i];
    char escape[6] = {'\\', 'u', '0', '0', 0, 0};
    const char *known = c ? strchr(from, (char)c) : NULL;
    if (c >= 0x20 && !known) continue;
    tfpi_grow_add(&w->out, s + done, i - done);
    done = i + 1;
    escape[4] = hex[c >> 4];
    escape[5] = hex[c & 15];
    if (known) escape[1] = to[known - from];
    tfpi_grow_add(&w->out, escape, known ? 2 : 6);
  }
  tfpi_grow_add(&w->out, s + done, n - done);
  tfpi_grow_add(&w->out, "\"", 1);
}

TFP_API void tfp_json_key(tfp_json_writer *writer, const char *key, int64_t bytes) {
  tfp_json_writer *w = writer;
  if (!w || w->ctx->status) return;
  if (!w->depth || w->kind[w->depth - 1] != '{' || w->has_key) {
    tfpi_fail(w->ctx, TFP_ERR_STATE, "json writer: a key %s",
              w->has_key ? "after a key" : "outside an object");
    return;
  }
  tfpi_json_separate(w);
  tfpi_json_quote(w, key, bytes < 0 ? (int64_t)strlen(key) : bytes);
  tfpi_grow_add(&w->out, ": ", w->style == TFP_JSON_TIGHT ? 1 : 2);
  w->has_key = 1;
}

TFP_API void tfp_json_put_text(tfp_json_writer *writer, const char *text, int64_t bytes) {
  if (tfpi_json_before(writer))
    tfpi_json_quote(writer, text, bytes < 0 ? (int64_t)strlen(text) : bytes);
}
TFP_API void tfp_json_put_int(tfp_json_writer *writer, int64_t x) {
  char b[TFP_NUMBER_BYTES];
  if (tfpi_json_before(writer))
    tfpi_grow_add(&writer->out, b,
                  tfpi_put_integer(b, x < 0 ? 0u - (uint64_t)x : (uint64_t)x, x < 0));
}
static void tfpi_json_put_real(tfp_json_writer *w, double x, int is_float) {
  char b[TFP_NUMBER_BYTES];
  if (!tfpi_json_before(w)) return;
  if (x - x != 0) tfpi_fail(w->ctx, TFP_ERR_ARG, "json writer: %g is no JSON number", x);
  else
    tfpi_grow_add(&w->out, b, is_float ? tfp_format_float(b, (float)x) : tfp_format_double(b, x));
}
TFP_API void tfp_json_put_double(tfp_json_writer *writer, double x) {
  tfpi_json_put_real(writer, x, 0);
}
TFP_API void tfp_json_put_float(tfp_json_writer *writer, float x) {
  tfpi_json_put_real(writer, (double)x, 1);
}
TFP_API void tfp_json_put_bool(tfp_json_writer *writer, int x) {
  if (tfpi_json_before(writer)) tfpi_grow_add(&writer->out, x ? "true" : "false", x ? 4 : 5);
}
TFP_API void tfp_json_put_null(tfp_json_writer *writer) {
  if (tfpi_json_before(writer)) tfpi_grow_add(&writer->out, "null", 4);
}

TFP_API void tfp_json_put(tfp_json_writer *writer, const tfp_json *value) {
  const tfp_json *v;
  if (!writer || writer->ctx->status) return;
  switch (value ? value->type : TFP_JSON_NULL) {
    case TFP_JSON_NULL: tfp_json_put_null(writer); break;
    case TFP_JSON_BOOL: tfp_json_put_bool(writer, (int)value->integer); break;
    case TFP_JSON_INT: tfp_json_put_int(writer, value->integer); break;
    case TFP_JSON_FLOAT: tfp_json_put_double(writer, value->number); break;
    case TFP_JSON_STRING: tfp_json_put_text(writer, value->text, value->text_bytes); break;
    case TFP_JSON_ARRAY: /* levels are limited where they are opened */
    case TFP_JSON_OBJECT:
      tfpi_json_begin(writer, value->type == TFP_JSON_OBJECT ? '{' : '[');
      for (v = value->child; v && !writer->ctx->status; v = v->next) {
        if (value->type == TFP_JSON_OBJECT) tfp_json_key(writer, v->key, v->key_bytes);
        tfp_json_put(writer, v);
      }
      tfpi_json_end(writer, value->type == TFP_JSON_OBJECT ? '{' : '[');
  }
}

TFP_API const char *tfp_json_writer_text(tfp_json_writer *writer, int64_t *bytes) {
  if (bytes) *bytes = 0;
  if (!writer || writer->ctx->status) return NULL;
  if (!writer->complete) {
    tfpi_fail(writer->ctx, TFP_ERR_STATE,
              "json writer: the text is not complete: %d levels are open", writer->depth);
    return NULL;
  }
  if (bytes) *bytes = writer->out.n;
  return writer->out.at;
}

TFP_API tfp_status tfp_json_writer_save(tfp_json_writer *writer, const char *path) {
  int64_t bytes;
  if (!writer) return TFP_ERR_NOMEM;
  if (!tfp_json_writer_text(writer, &bytes)) return writer->ctx->status;
  if (!tfpi_grow_room(&writer->out, 1)) return writer->ctx->status;
  writer->out.at[bytes] = '\n';
  tfp_write_file(writer->ctx, path, writer->out.at, bytes + 1);
  writer->out.at[bytes] = 0;
  return writer->ctx->status;
}

TFP_API void tfp_json_writer_close(tfp_json_writer *writer) {
  if (writer) tfpi_arena_return(writer->out.arena);
}

/* ---- safetensors: types ---- */

static const struct { const char *name; int bits; } tfpi_st_types[] = {
#define TFPI_X(name, bits) {#name, bits},
  TFP_ST_LIST(TFPI_X)
#undef TFPI_X
};

TFP_API const char *tfp_st_dtype_name(tfp_st_dtype dtype) {
  return (int)dtype >= 0 && dtype < TFP_ST_COUNT ? tfpi_st_types[dtype].name : "unknown";
}

static float tfpi_half_to_float(uint32_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 0x3FFu;
  if (e == 31) return tfpi_bits_float(sign | 0x7F800000u | m << 13);
  if (e) return tfpi_bits_float(sign | (e + 112) << 23 | m << 13);
  return (sign ? -1.0f : 1.0f) * (float)m * (1.0f / 16777216.0f); /* exact: m * 2^-24 */
}

/* To nearest, ties to even; NaN stays NaN, too large becomes infinite. */
static uint32_t tfpi_float_to_half(float x) {
  const uint32_t u = tfpi_float_bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7FFFFFFFu;
  if (a > 0x7F800000u) return sign | 0x7E00u | (a >> 13 & 0x3FFu);
  if (a >= 0x47800000u) return sign | 0x7C00u; /* 65536 and more */
  if (a >= 0x38800000u) return sign | (((a - 0x38000000u) + 0xFFFu + (a >> 13 & 1u)) >> 13);
  if (a < 0x33000000u) return sign; /* under half of the smallest */
  {
    const uint32_t m = (a & 0x7FFFFFu) | 0x800000u, shift = 126u - (a >> 23); /* 14 to 24 */
    const uint32_t half = 1u << (shift - 1);
    return sign | ((m + half - 1u + (m >> shift & 1u)) >> shift);
  }
}

static uint32_t tfpi_float_to_bf16(float x) {
  const uint32_t u = tfpi_float_bits(x);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return u >> 16 | 0x40u;
  return (u + 0x7FFFu + (u >> 16 & 1u)) >> 16;
}

/* n elements of a file as floats; 0 if the type is none of those that can be. */
static int tfpi_st_to_float(tfp_st_dtype dtype, const unsigned char *in, int64_t n, float *out) {
  int64_t i = 0;
  switch ((int)dtype) {
    case TFP_ST_F32:
      for (; i < n; i++) out[i] = tfpi_bits_float(tfpi_get32(in + 4 * i));
      return 1;
    case TFP_ST_F16:
      for (; i < n; i++) out[i] = tfpi_half_to_float(tfpi_get16(in + 2 * i));
      return 1;
    case TFP_ST_BF16:
      for (; i < n; i++) out[i] = tfpi_bits_float(tfpi_get16(in + 2 * i) << 16);
      return 1;
    case TFP_ST_F64:
      for (; i < n; i++) out[i] = (float)tfpi_bits_double(tfpi_get64(in + 8 * i));
      return 1;
    case TFP_ST_I64:
      for (; i < n; i++) out[i] = (float)(int64_t)tfpi_get64(in + 8 * i);
      return 1;
    case TFP_ST_U64:
      for (; i < n; i++) out[i] = (float)tfpi_get64(in + 8 * i);
      return 1;
    case TFP_ST_I32:
      for (; i < n; i++) out[i] = (float)(int32_t)tfpi_get32(in + 4 * i);
      return 1;
    case TFP_ST_U32:
      for (; i < n; i++) out[i] = (float)tfpi_get32(in + 4 * i);
      return 1;
    case TFP_ST_I16:
      for (; i < n; i++) out[i] = (float)(int16_t)tfpi_get16(in + 2 * i);
      return 1;
    case TFP_ST_U16:
      for (; i < n; i++) out[i] = (float)tfpi_get16(in + 2 * i);
      return 1;
    case TFP_ST_I8:
      for (; i < n; i++) out[i] = (float)(signed char)in[i];
      return 1;
    case TFP_ST_U8:
      for (; i < n; i++) out[i] = (float)in[i];
      return 1;
    case TFP_ST_BOOL:
      for (; i < n; i++) out[i] = in[i] ? 1.0f : 0.0f;
      return 1;
    default: return 0;
  }
}

/* n floats as elements of a file. Returns n; fewer where an integer type does not hold the next
 * one; -1 for types that are not written. */
static int64_t tfpi_st_from_float(tfp_st_dtype dtype, const float *in, int64_t n,
                                  unsigned char *out) {
  const float least = dtype == TFP_ST_I32 ? -2147483648.0f : -9223372036854775808.0f;
  const float low = dtype == TFP_ST_U8 ? 0.0f : least;
  const float over = dtype == TFP_ST_U8 ? 256.0f : -low; /* the first one too large */
  int64_t i, whole;
  for (i = 0; i < n; i++) {
    switch ((int)dtype) {
      case TFP_ST_F32: tfpi_put32(out + 4 * i, tfpi_float_bits(in[i])); continue;
      case TFP_ST_F16: tfpi_put16(out + 2 * i, tfpi_float_to_half(in[i])); continue;
      case TFP_ST_BF16: tfpi_put16(out + 2 * i, tfpi_float_to_bf16(in[i])); continue;
      case TFP_ST_F64: tfpi_put64(out + 8 * i, tfpi_double_bits((double)in[i])); continue;
      case TFP_ST_I64:
      case TFP_ST_I32:
      case TFP_ST_U8: break;
      default: return -1;
    }
    if (!(in[i] >= low && in[i] < over)) return i;
    whole = (int64_t)in[i];
    if ((float)whole != in[i]) return i;
    if (dtype == TFP_ST_U8) out[i] = (unsigned char)whole;
    else if (dtype == TFP_ST_I32) tfpi_put32(out + 4 * i, (uint32_t)whole);
    else tfpi_put64(out + 8 * i, (uint64_t)whole);
  }
  return n;
}

/* Elements of a shape, and their bytes; 0 if a product overflows or they are not whole bytes. */
static int tfpi_st_size(const tfp_safetensors_entry *e, int64_t *count, int64_t *bytes) {
  int64_t n = 1, bits;
  int i;
  for (i = 0; i < e->ndim; i++)
    if (e->shape[i] < 0 || __builtin_mul_overflow(n, e->shape[i], &n)) return 0;
  if (__builtin_mul_overflow(n, (int64_t)tfpi_st_types[e->dtype].bits, &bits) || bits % 8) return 0;
  *count = n;
  *bytes = bits / 8;
  return 1;
}

/* ---- safetensors: reading ---- */

struct tfp_safetensors {
  tfp_ctx *ctx;
  tfpi_arena *arena;
  void *handle;
  const char *path;
  int64_t data, bytes; /* where the tensors' bytes start in the file, and how many there are */
  int64_t n, pairs;
  tfp_safetensors_entry **by_place, **by_name;
  const char **metadata; /* key, value, key, value... */
  unsigned char *buffer;
};

static int tfpi_st_compare_name(const void *a, const void *b) {
  return strcmp(((const tfp_safetensors_entry *)a)->name, ((const tfp_safetensors_entry *)b)->name);
}
static int tfpi_st_compare_place(const void *a, const void *b) {
  const tfp_safetensors_entry *x = (const tfp_safetensors_entry *)a;
  const tfp_safetensors_entry *y = (const tfp_safetensors_entry *)b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  if (x->end != y->end) return x->end < y->end ? -1 : 1;
  return tfpi_st_compare_name(a, b);
}

static tfp_status tfpi_st_fail(const tfp_safetensors *st, const tfp_json *v, const char *problem) {
  return tfpi_fail(st->ctx, TFP_ERR_FORMAT, "safetensors '%s': tensor '%s' (byte %i): %s", st->path,
                   v->key, v->offset + 8, problem);
}

/* One member of the header into an entry. */
static tfp_status tfpi_st_entry(tfp_safetensors *st, const tfp_json *v, tfp_safetensors_entry *e) {
  const tfp_json *x, *dtype = NULL, *shape = NULL, *place = NULL;
  int64_t bytes;
  int i = 0;
  if (v->type != TFP_JSON_OBJECT) return tfpi_st_fail(st, v, "its description is not an object");
  if (strlen(v->key) != (size_t)v->key_bytes)
    return tfpi_st_fail(st, v, "its name has a NUL in it");
  for (x = v->child; x; x = x->next) {
    const tfp_json **field = tfpi_json_is(x, "dtype") ? &dtype
                           : tfpi_json_is(x, "shape") ? &shape
                           : tfpi_json_is(x, "data_offsets") ? &place : NULL;
    if (field && *field) return tfpi_st_fail(st, v, "a field comes twice");
    if (field) *field = x;
  }
  if (!dtype || dtype->type != TFP_JSON_STRING)
    return tfpi_st_fail(st, v, "dtype is missing or not a text");
  if (!shape || shape->type != TFP_JSON_ARRAY)
    return tfpi_st_fail(st, v, "shape is missing or not an array");
  if (!place || place->type != TFP_JSON_ARRAY || place->count != 2)
    return tfpi_st_fail(st, v, "data_offsets is missing or not an array of two");
  while (i < TFP_ST_COUNT && strcmp(dtype->text, tfpi_st_types[i].name)) i++;
  if (i == TFP_ST_COUNT) return tfpi_st_fail(st, v, "its dtype is unknown");
  e->dtype = (tfp_st_dtype)i;
  if (shape->count > TFP_ST_MAX_DIMS)
    return tfpi_fail(st->ctx, TFP_ERR_UNSUPPORTED,
                     "safetensors '%s': tensor '%s' has %i dimensions (at most %d)", st->path,
                     v->key, shape->count, TFP_ST_MAX_DIMS);
  for (x = shape->child; x; x = x->next) {
    if (x->type != TFP_JSON_INT || x->integer < 0)
      return tfpi_st_fail(st, v, "a size is not a whole number >= 0");
    e->shape[e->ndim++] = x->integer;
  }
  for (x = place->child; x; x = x->next)
    if (x->type != TFP_JSON_INT || x->integer < 0)
      return tfpi_st_fail(st, v, "an offset is not a whole number >= 0");
  e->begin = place->child->integer;
  e->end = place->child->next->integer;
  if (e->begin > e->end || e->end > st->bytes)
    return tfpi_fail(st->ctx, TFP_ERR_FORMAT,
                     "safetensors '%s': tensor '%s' lies at [%i,%i) of %i bytes", st->path, v->key,
                     e->begin, e->end, st->bytes);
  if (!tfpi_st_size(e, &e->count, &bytes))
    return tfpi_st_fail(st, v,
                        "its sizes multiply to more bytes than there can be, or to part of one");
  if (bytes != e->end - e->begin)
    return tfpi_fail(st->ctx, TFP_ERR_FORMAT,
                     "safetensors '%s': tensor '%s' needs %i bytes and has [%i,%i)", st->path,
                     v->key, bytes, e->begin, e->end);
  e->name = v->key;
  return TFP_OK;
}

static tfp_status tfpi_st_metadata(tfp_safetensors *st, const tfp_json *v) {
  const tfp_json *x;
  if (v->type != TFP_JSON_OBJECT) return tfpi_st_fail(st, v, "it is not an object");
  if (st->metadata) return tfpi_st_fail(st, v, "it comes twice");
  st->metadata = (const char **)tfpi_new(st->arena, 2 * v->count + 1, sizeof(char *));
  if (!st->metadata) return st->ctx->status;
  for (x = v->child; x; x = x->next) {
    if (x->type != TFP_JSON_STRING) return tfpi_st_fail(st, v, "a value in it is not a text");
    st->metadata[2 * st->pairs] = x->key;
    st->metadata[2 * st->pairs++ + 1] = x->text;
  }
  return TFP_OK;
}

/* No holes, no overlaps, nothing left over, no name twice. */
static tfp_status tfpi_st_check(tfp_safetensors *st) {
  int64_t i, at = 0;
  tfpi_sort((void **)st->by_place, st->n, tfpi_st_compare_place);
  tfpi_sort((void **)st->by_name, st->n, tfpi_st_compare_name);
  for (i = 0; i < st->n; at = st->by_place[i++]->end)
    if (st->by_place[i]->begin != at)
      return tfpi_fail(st->ctx, TFP_ERR_FORMAT,
                       "safetensors '%s': tensor '%s' begins at byte %i, not at %i: %s", st->path,
                       st->by_place[i]->name, st->by_place[i]->begin, at,
                       st->by_place[i]->begin < at ? "tensors overlap" : "there is a hole");
  if (at != st->bytes)
    return tfpi_fail(st->ctx, TFP_ERR_FORMAT, "safetensors '%s': the tensors end at byte %i of %i",
                     st->path, at, st->bytes);
  for (i = 1; i < st->n; i++)
    if (!tfpi_st_compare_name(st->by_name[i - 1], st->by_name[i]))
      return tfpi_fail(st->ctx, TFP_ERR_FORMAT, "safetensors '%s': tensor '%s' comes twice",
                       st->path, st->by_name[i]->name);
  return TFP_OK;
}

/* The header of an open file into entries. Its text and tree stay, for names lie there. */
static tfp_status tfpi_st_header(tfp_safetensors *st, int64_t size) {
  unsigned char length[8];
  tfp_safetensors_entry *entries;
  const tfp_json *root, *v;
  void *text;
  int64_t n;
  if (size < 8)
    return tfpi_fail(st->ctx, TFP_ERR_FORMAT,
                     "safetensors '%s': %i bytes are too short for a header", st->path, size);
  if (tfpi_read_all(st->ctx, st->path, st->handle, 0, length, 8)) return st->ctx->status;
  n = tfpi_get64(length) > TFP_ST_MAX_HEADER ? INT64_MAX : (int64_t)tfpi_get64(length);
  if (n > TFP_ST_MAX_HEADER || n > size - 8)
    return tfpi_fail(st->ctx, TFP_ERR_FORMAT,
                     "safetensors '%s': a header of %u bytes (at most %d) in a file of %i",
                     st->path, tfpi_get64(length), TFP_ST_MAX_HEADER, size);
  st->data = 8 + n;
  st->bytes = size - st->data;
  if (tfpi_take(st->arena, (size_t)n + 1, TFPI_META, &text)) return st->ctx->status;
  if (tfpi_read_all(st->ctx, st->path, st->handle, 8, text, n)) return st->ctx->status;
  if (n == 0 || *(char *)text != '{')
    return tfpi_fail(st->ctx, TFP_ERR_FORMAT, "safetensors '%s', byte 8: expected '{', the header",
                     st->path);
  root = tfpi_json_adopt(st->arena, (char *)text, n, st->path);
  if (!root) return st->ctx->status;
  entries = (tfp_safetensors_entry *)tfpi_new(st->arena, root->count, sizeof *entries);
  st->by_place = (tfp_safetensors_entry **)tfpi_new(st->arena, root->count, sizeof entries);
  st->by_name = (tfp_safetensors_entry **)tfpi_new(st->arena, root->count, sizeof entries);
  if (!entries || !st->by_place || !st->by_name) return st->ctx->status;
  for (v = root->child; v; v = v->next) {
    if (tfpi_json_is(v, "__metadata__")) {
      if (tfpi_st_metadata(st, v)) return st->ctx->status;
      continue;
    }
    if (tfpi_st_entry(st, v, entries + st->n)) return st->ctx->status;
    st->by_place[st->n] = st->by_name[st->n] = entries + st->n;
    st->n++;
  }
  return tfpi_st_check(st);
}

TFP_API tfp_safetensors *tfp_safetensors_open(tfp_ctx *ctx, const char *path) {
  tfp_safetensors *st;
  tfpi_arena *a = tfpi_io_ready(ctx, path, 0) ? NULL : tfpi_arena_borrow(ctx);
  int64_t size;
  void *buffer;
  if (!a) return NULL;
  st = (tfp_safetensors *)tfpi_new(a, 1, sizeof *st);
  if (st && !tfpi_take(a, TFPI_FILE_BUFFER, TFPI_META, &buffer)) {
    st->ctx = ctx;
    st->arena = a;
    st->buffer = (unsigned char *)buffer;
    st->path = tfpi_copy_text(a, path, strlen(path));
    if (st->path && !tfpi_open_read(ctx, path, &st->handle, &size)) {
      if (!tfpi_st_header(st, size)) return st;
      ctx->desc.io.close(ctx->desc.io.user, st->handle);
    }
  }
  tfpi_arena_return(a);
  return NULL;
}

TFP_API void tfp_safetensors_close(tfp_safetensors *st) {
  if (!st) return;
  st->ctx->desc.io.close(st->ctx->desc.io.user, st->handle);
  tfpi_arena_return(st->arena);
}
TFP_API int64_t tfp_safetensors_count(const tfp_safetensors *st) { return st ? st->n : 0; }
TFP_API const tfp_safetensors_entry *tfp_safetensors_at(const tfp_safetensors *st, int64_t i) {
  return st && i >= 0 && i < st->n ? st->by_place[i] : NULL;
}
TFP_API const tfp_safetensors_entry *tfp_safetensors_find(const tfp_safetensors *st,
                                                          const char *name) {
  int64_t low = 0, high = st ? st->n : 0;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    const int c = strcmp(name, st->by_name[middle]->name);
    if (c == 0) return st->by_name[middle];
    if (c < 0) high = middle;
    else low = middle + 1;
  }
  return NULL;
}
TFP_API const char *tfp_safetensors_metadata(const tfp_safetensors *st, const char *key) {
  int64_t i;
  for (i = 0; st && i < st->pairs; i++)
    if (!strcmp(st->metadata[2 * i], key)) return st->metadata[2 * i + 1];
  return NULL;
}

TFP_API tfp_status tfp_safetensors_read_bytes(tfp_safetensors *st,
                                              const tfp_safetensors_entry *entry, int64_t first,
                                              int64_t bytes, void *out) {
  if (!st) return TFP_ERR_ARG;
  if (st->ctx->status) return st->ctx->status;
  if (!entry)
    return tfpi_fail(st->ctx, TFP_ERR_ARG, "safetensors '%s': no tensor to read", st->path);
  if (first < 0 || bytes < 0 || first > entry->end - entry->begin ||
      bytes > entry->end - entry->begin - first || (bytes && !out))
    return tfpi_fail(st->ctx, TFP_ERR_ARG,
                     "safetensors '%s': tensor '%s': %i bytes from %i on of %i", st->path,
                     entry->name, bytes, first, entry->end - entry->begin);
  return tfpi_read_all(st->ctx, st->path, st->handle, st->data + entry->begin + first, out, bytes);
}

TFP_API tfp_status tfp_safetensors_read(tfp_safetensors *st, const tfp_safetensors_entry *entry,
                                        int64_t first, int64_t count, float *out) {
  int64_t size, done = 0;
  if (!st) return TFP_ERR_ARG;
  if (st->ctx->status) return st->ctx->status;
  if (!entry)
    return tfpi_fail(st->ctx, TFP_ERR_ARG, "safetensors '%s': no tensor to read", st->path);
  if (first < 0 || count < 0 || first > entry->count || count > entry->count - first ||
      (count && !out))
    return tfpi_fail(st->ctx, TFP_ERR_ARG,
                     "safetensors '%s': tensor '%s': %i elements from %i on of %i", st->path,
                     entry->name, count, first, entry->count);
  if (!tfpi_st_to_float(entry->dtype, st->buffer, 0, out))
    return tfpi_fail(st->ctx, TFP_ERR_UNSUPPORTED,
                     "safetensors '%s': tensor '%s': %s does not convert to float", st->path,
                     entry->name, tfp_st_dtype_name(entry->dtype));
  size = tfpi_st_types[entry->dtype].bits / 8;
  if (TFPI_LITTLE && entry->dtype == TFP_ST_F32)
    return tfp_safetensors_read_bytes(st, entry, first * size, count * size, out);
  while (done < count) {
    const int64_t n = tfpi_min64(count - done, TFPI_FILE_BUFFER / size);
    if (tfp_safetensors_read_bytes(st, entry, (first + done) * size, n * size, st->buffer)) break;
    tfpi_st_to_float(entry->dtype, st->buffer, n, out + done);
    done += n;
  }
  return st->ctx->status;
}

/* ---- safetensors: writing ---- */

typedef struct tfpi_st_out {
  tfp_safetensors_entry e;
  int64_t index; /* in the caller's order */
} tfpi_st_out;

struct tfp_safetensors_writer {
  tfp_ctx *ctx;
  tfpi_arena *arena;
  tfpi_sink sink;
  tfpi_st_out **order; /* as they lie in the file */
  int64_t n, now;      /* the entry that is being written */
  int64_t done;        /* its bytes that are written */
  unsigned char *buffer;
};

static int tfpi_st_compare_out(const void *a, const void *b) {
  const tfp_safetensors_entry *x = &((const tfpi_st_out *)a)->e, *y = &((const tfpi_st_out *)b)->e;
  if (x->dtype != y->dtype) return x->dtype > y->dtype ? -1 : 1;
  return strcmp(x->name, y->name);
}
static int tfpi_st_compare_out_name(const void *a, const void *b) {
  return strcmp(((const tfpi_st_out *)a)->e.name, ((const tfpi_st_out *)b)->e.name);
}

/* Copies and checks one entry of the caller. */
static tfp_status tfpi_st_take(tfp_safetensors_writer *w, const tfp_safetensors_entry *from,
                               tfpi_st_out *to) {
  int64_t bytes;
  const char *name = from->name ? from->name : "";
  to->e = *from;
  if ((int)from->dtype < 0 || from->dtype >= TFP_ST_COUNT)
    return tfpi_fail(w->ctx, TFP_ERR_ARG, "safetensors '%s': tensor '%s': dtype %d is unknown",
                     w->sink.path, name, (int)from->dtype);
  if (tfpi_st_types[from->dtype].bits < 8)
    return tfpi_fail(w->ctx, TFP_ERR_UNSUPPORTED,
                     "safetensors '%s': tensor '%s': %s is not written", w->sink.path, name,
                     tfp_st_dtype_name(from->dtype));
  if (from->ndim < 0 || from->ndim > TFP_ST_MAX_DIMS || !tfpi_st_size(from, &to->e.count, &bytes))
    return tfpi_fail(w->ctx, TFP_ERR_ARG,
                     "safetensors '%s': tensor '%s': its shape is out of range", w->sink.path,
                     name);
  if (!from->name || !strcmp(name, "__metadata__"))
    return tfpi_fail(w->ctx, TFP_ERR_ARG, "safetensors '%s': a tensor may not be called '%s'",
                     w->sink.path, name);
  to->e.name = tfpi_copy_text(w->arena, name, strlen(name));
  to->e.begin = 0;
  to->e.end = bytes;
  return w->ctx->status;
}

/* Copies, sorts and places the entries. */
static tfp_status tfpi_st_layout(tfp_safetensors_writer *w, const tfp_safetensors_entry *entries) {
  tfpi_st_out *out = (tfpi_st_out *)tfpi_new(w->arena, w->n, sizeof *out);
  int64_t i, at = 0;
  w->order = (tfpi_st_out **)tfpi_new(w->arena, w->n, sizeof out);
  if (!out || !w->order) return w->ctx->status;
  for (i = 0; i < w->n; i++) {
    if (tfpi_st_take(w, entries + i, out + i)) return w->ctx->status;
    out[i].index = i;
    w->order[i] = out + i;
  }
  tfpi_sort((void **)w->order, w->n, tfpi_st_compare_out_name);
  for (i = 1; i < w->n; i++)
    if (!tfpi_st_compare_out_name(w->order[i - 1], w->order[i]))
      return tfpi_fail(w->ctx, TFP_ERR_ARG, "safetensors '%s': tensor '%s' comes twice",
                       w->sink.path, w->order[i]->e.name);
  tfpi_sort((void **)w->order, w->n, tfpi_st_compare_out);
  for (i = 0; i < w->n; i++) {
    tfp_safetensors_entry *e = &w->order[i]->e;
    if (e->end > INT64_MAX / 2 - at)
      return tfpi_fail(w->ctx, TFP_ERR_ARG, "safetensors '%s': more bytes than a file can have",
                       w->sink.path);
    e->begin = at;
    at = e->end += at;
  }
  return TFP_OK;
}

static tfp_status tfpi_st_write_header(tfp_safetensors_writer *w, const char *const *metadata,
                                       int64_t pairs) {
  tfp_json_writer *j = tfp_json_writer_open(w->ctx, TFP_JSON_TIGHT);
  unsigned char length[8];
  const char *text;
  int64_t i, bytes, pad;
  int d;
  tfp_json_begin_object(j);
  if (pairs > 0) {
    tfp_json_key(j, "__metadata__", -1);
    tfp_json_begin_object(j);
    for (i = 0; i < pairs; i++) {
      tfp_json_key(j, metadata[2 * i], -1);
      tfp_json_put_text(j, metadata[2 * i + 1], -1);
    }
    tfp_json_end_object(j);
  }
  for (i = 0; i < w->n; i++) {
    const tfp_safetensors_entry *e = &w->order[i]->e;
    tfp_json_key(j, e->name, -1);
    tfp_json_begin_object(j);
    tfp_json_key(j, "dtype", -1);
    tfp_json_put_text(j, tfp_st_dtype_name(e->dtype), -1);
    tfp_json_key(j, "shape", -1);
    tfp_json_begin_array(j);
    for (d = 0; d < e->ndim; d++) tfp_json_put_int(j, e->shape[d]);
    tfp_json_end_array(j);
    tfp_json_key(j, "data_offsets", -1);
    tfp_json_begin_array(j);
    tfp_json_put_int(j, e->begin);
    tfp_json_put_int(j, e->end);
    tfp_json_end_array(j);
    tfp_json_end_object(j);
  }
  tfp_json_end_object(j);
  text = tfp_json_writer_text(j, &bytes);
  pad = (8 - bytes % 8) % 8;
  if (text && bytes + pad > TFP_ST_MAX_HEADER) {
    tfpi_fail(w->ctx, TFP_ERR_ARG,
              "safetensors '%s': a header of %i bytes; at most %d are possible", w->sink.path,
              bytes + pad, TFP_ST_MAX_HEADER);
  } else if (text) {
    tfpi_put64(length, (uint64_t)(bytes + pad));
    tfpi_sink_write(&w->sink, length, 8);
    tfpi_sink_write(&w->sink, text, bytes);
    tfpi_sink_write(&w->sink, "       ", pad);
  }
  tfp_json_writer_close(j);
  return w->ctx->status;
}

/* Goes to the next entry that has bytes to come. */
static void tfpi_st_advance(tfp_safetensors_writer *w) {
  while (w->now < w->n && w->done == w->order[w->now]->e.end - w->order[w->now]->e.begin) {
    w->now++;
    w->done = 0;
  }
}

TFP_API tfp_safetensors_writer *tfp_safetensors_create(tfp_ctx *ctx, const char *path,
                                                       const char *const *metadata, int64_t pairs,
                                                       const tfp_safetensors_entry *entries,
                                                       int64_t n) {
  tfp_safetensors_writer *w;
  void *buffer;
  tfpi_arena *a = tfpi_io_ready(ctx, path, 1) ? NULL : tfpi_arena_borrow(ctx);
  if (!a) return NULL;
  w = (tfp_safetensors_writer *)tfpi_new(a, 1, sizeof *w);
  if (w && !tfpi_take(a, TFPI_FILE_BUFFER, TFPI_META, &buffer)) {
    w->ctx = ctx;
    w->arena = a;
    w->n = n;
    w->buffer = (unsigned char *)buffer;
    w->sink.ctx = ctx;
    w->sink.path = tfpi_copy_text(a, path, strlen(path));
    if (w->sink.path && !tfpi_st_layout(w, entries) && !tfpi_sink_open(&w->sink, a, path) &&
        !tfpi_st_write_header(w, metadata, pairs)) {
      tfpi_st_advance(w);
      return w;
    }
    tfpi_sink_abort(&w->sink);
  }
  tfpi_arena_return(a);
  return NULL;
}

TFP_API int64_t tfp_safetensors_next(const tfp_safetensors_writer *writer) {
  if (!writer || writer->ctx->status || writer->now >= writer->n) return -1;
  return writer->order[writer->now]->index;
}

/* Whether `bytes` more of this entry may come now. */
static tfp_status tfpi_st_may_write(tfp_safetensors_writer *w, int64_t entry, const void *data,
                                    int64_t bytes) {
  const tfp_safetensors_entry *e;
  if (w->ctx->status) return w->ctx->status;
  if (w->now >= w->n || w->order[w->now]->index != entry)
    return tfpi_fail(w->ctx, TFP_ERR_STATE,
                     "safetensors '%s': entry %i is written where %i was expected", w->sink.path,
                     entry, tfp_safetensors_next(w));
  e = &w->order[w->now]->e;
  if (bytes < 0 || bytes > e->end - e->begin - w->done || (bytes && !data))
    return tfpi_fail(w->ctx, TFP_ERR_ARG,
                     "safetensors '%s': tensor '%s': %i bytes are written where %i are left",
                     w->sink.path, e->name, bytes, e->end - e->begin - w->done);
  return TFP_OK;
}

TFP_API tfp_status tfp_safetensors_write_bytes(tfp_safetensors_writer *writer, int64_t entry,
                                               const void *data, int64_t bytes) {
  tfp_safetensors_writer *w = writer;
  if (!w) return TFP_ERR_ARG;
  if (tfpi_st_may_write(w, entry, data, bytes) || tfpi_sink_write(&w->sink, data, bytes))
    return w->ctx->status;
  w->done += bytes;
  tfpi_st_advance(w);
  return TFP_OK;
}

TFP_API tfp_status tfp_safetensors_write(tfp_safetensors_writer *writer, int64_t entry,
                                         const float *values, int64_t count) {
  tfp_safetensors_writer *w = writer;
  tfp_safetensors_entry *e;
  int64_t size, done = 0;
  if (!w) return TFP_ERR_ARG;
  if (tfpi_st_may_write(w, entry, values, 0)) return w->ctx->status;
  e = &w->order[w->now]->e;
  size = tfpi_st_types[e->dtype].bits / 8;
  if (count < 0 || count > (e->end - e->begin - w->done) / size || w->done % size ||
      (count && !values))
    return tfpi_fail(w->ctx, TFP_ERR_ARG,
                     "safetensors '%s': tensor '%s': %i elements for %i bytes that are left",
                     w->sink.path, e->name, count, e->end - e->begin - w->done);
  if (TFPI_LITTLE && e->dtype == TFP_ST_F32)
    return tfp_safetensors_write_bytes(w, entry, values, count * size);
  while (done < count) {
    const int64_t n = tfpi_min64(count - done, TFPI_FILE_BUFFER / size);
    const int64_t good = tfpi_st_from_float(e->dtype, values + done, n, w->buffer);
    if (good < 0)
      return tfpi_fail(w->ctx, TFP_ERR_UNSUPPORTED,
                       "safetensors '%s': tensor '%s': floats are not written as %s", w->sink.path,
                       e->name, tfp_st_dtype_name(e->dtype));
    if (good < n)
      return tfpi_fail(w->ctx, TFP_ERR_ARG,
                       "safetensors '%s': tensor '%s': element %i is %g, which %s does not hold",
                       w->sink.path, e->name, w->done / size + good, (double)values[done + good],
                       tfp_st_dtype_name(e->dtype));
    if (tfp_safetensors_write_bytes(w, entry, w->buffer, n * size)) break;
    done += n;
  }
  return w->ctx->status;
}

TFP_API tfp_status tfp_safetensors_finish(tfp_safetensors_writer *writer) {
  tfp_safetensors_writer *w = writer;
  tfp_ctx *ctx;
  if (!w) return TFP_ERR_ARG;
  ctx = w->ctx;
  if (!ctx->status && w->now < w->n)
    tfpi_fail(ctx, TFP_ERR_STATE, "safetensors '%s': tensor '%s' is not complete", w->sink.path,
              w->order[w->now]->e.name);
  tfpi_sink_finish(&w->sink);
  tfpi_arena_return(w->arena);
  return ctx->status;
}

TFP_API void tfp_safetensors_abort(tfp_safetensors_writer *writer) {
  if (!writer) return;
  tfpi_sink_abort(&writer->sink);
  tfpi_arena_return(writer->arena);
}
/* ================================================================================================
 * >>threads.c   the worker pool
 * ================================================================================================
 * One kind of work: call fn(arg, i, thread) for every i in [0,n). Each thread owns a contiguous
 * range and then takes from the others, so a slow core costs little; results never depend on who
 * did what, because tasks write different outputs. Workers spin for some 20 microseconds, then
 * sleep.
 */
typedef void (*tfpi_task)(void *arg, int64_t index, int thread);

/* Round to nearest, denormals to zero, no traps: the mode of every kernel on every thread. */
TFPI_INLINE unsigned tfpi_float_enter(void) {
#if defined(__SSE__)
  unsigned old = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(0x9FC0u);
  return old;
#else
  return 0;
#endif
}
TFPI_INLINE void tfpi_float_leave(unsigned old) {
#if defined(__SSE__)
  __builtin_ia32_ldmxcsr(old);
#else
  (void)old;
#endif
}

#if defined(TFPRE_NO_THREADS)

static tfp_status tfpi_threads_open(tfp_ctx *ctx) {
  ctx->threads = 1;
  return TFP_OK;
}
static void tfpi_threads_close(tfp_ctx *ctx) { (void)ctx; }
static void tfpi_parallel(tfp_ctx *ctx, int64_t n, tfpi_task fn, void *arg) {
  const unsigned mode = tfpi_float_enter();
  int64_t i;
  (void)ctx;
  for (i = 0; i < n; i++) fn(arg, i, 0);
  tfpi_float_leave(mode);
}

#else
#include <pthread.h>
#include <sched.h>
#if defined(__linux__) && !defined(TFPRE_NO_STDIO)
#include <fcntl.h>
#endif

typedef struct tfpi_range { int64_t next, end; char pad[48]; } tfpi_range;
typedef struct tfpi_worker { tfpi_pool *pool; int index; pthread_t id; } tfpi_worker;
struct tfpi_pool {
  int others;   /* workers besides the calling thread */
  int started;
  tfpi_task fn;
  void *arg;
  char pad0[64];
  int job;      /* number of the job: workers wait for it to change */
  int sleepers;
  int quit;
  char pad1[64];
  int done;     /* workers that have finished this job */
  char pad2[64];
  pthread_mutex_t lock;
  pthread_cond_t wake;
  tfpi_worker *workers; /* [1..others] */
  tfpi_range *ranges;   /* [0..others] */
};

TFPI_INLINE void tfpi_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

/* Spins until *word differs from old, for about 20 microseconds; says whether it changed. */
static int tfpi_spin(int *word, int old) {
  const double start = tfp_seconds();
  for (;;) {
    int i;
    for (i = 0; i < 64; i++) {
      if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != old) return 1;
      tfpi_pause();
    }
    if (tfp_seconds() - start > 20e-6) return 0;
  }
}

static void tfpi_pool_work(tfpi_pool *p, int thread) {
  const unsigned mode = tfpi_float_enter();
  int i;
  for (i = 0; i <= p->others; i++) {
    tfpi_range *r = &p->ranges[(thread + i) % (p->others + 1)];
    while (__atomic_load_n(&r->next, __ATOMIC_RELAXED) < r->end) {
      const int64_t t = __atomic_fetch_add(&r->next, 1, __ATOMIC_RELAXED);
      if (t < r->end) p->fn(p->arg, t, thread);
    }
  }
  tfpi_float_leave(mode);
}

static void *tfpi_pool_worker(void *v) {
  tfpi_worker *w = (tfpi_worker *)v;
  tfpi_pool *p = w->pool;
  int seen = 0;
  for (;;) {
    if (!tfpi_spin(&p->job, seen)) {
      pthread_mutex_lock(&p->lock);
      __atomic_add_fetch(&p->sleepers, 1, __ATOMIC_SEQ_CST);
      while (__atomic_load_n(&p->job, __ATOMIC_SEQ_CST) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
      __atomic_sub_fetch(&p->sleepers, 1, __ATOMIC_SEQ_CST);
      pthread_mutex_unlock(&p->lock);
    }
    seen = __atomic_load_n(&p->job, __ATOMIC_ACQUIRE);
    if (p->quit) return NULL;
    tfpi_pool_work(p, w->index);
    __atomic_add_fetch(&p->done, 1, __ATOMIC_RELEASE);
  }
}

static void tfpi_pool_publish(tfpi_pool *p) {
  __atomic_store_n(&p->done, 0, __ATOMIC_RELAXED);
  __atomic_add_fetch(&p->job, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&p->sleepers, __ATOMIC_SEQ_CST)) {
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
  }
}

static void tfpi_parallel(tfp_ctx *ctx, int64_t n, tfpi_task fn, void *arg) {
  tfpi_pool *p = ctx->pool;
  int64_t i;
  if (n <= 1 || !p || !p->others) {
    const unsigned mode = tfpi_float_enter();
    for (i = 0; i < n; i++) fn(arg, i, 0);
    tfpi_float_leave(mode);
    return;
  }
  p->fn = fn, p->arg = arg;
  for (i = 0; i <= p->others; i++) {
    p->ranges[i].next = n * i / (p->others + 1);
    p->ranges[i].end = n * (i + 1) / (p->others + 1);
  }
  tfpi_pool_publish(p);
  tfpi_pool_work(p, 0);
  for (;;) { /* a worker that lost its core: give ours away rather than burn it */
    const int d = __atomic_load_n(&p->done, __ATOMIC_ACQUIRE);
    if (d == p->others) break;
    if (!tfpi_spin(&p->done, d)) sched_yield();
  }
}

/* Cores that this process may use: set bits of Cpus_allowed, at most what the control group's quota
 * pays for. Read from files, for the calls need feature macros that a user's file may lack. */
#if defined(__linux__) && !defined(TFPRE_NO_STDIO)
static int64_t tfpi_read_small(const char *path, char *buffer, size_t bytes) {
  const int fd = open(path, O_RDONLY);
  int64_t n = 0, got;
  buffer[0] = 0;
  if (fd < 0) return 0;
  while (n < (int64_t)bytes - 1 && (got = (int64_t)read(fd, buffer + n, bytes - 1 - (size_t)n)) > 0)
    n += got;
  close(fd);
  buffer[n] = 0;
  return n;
}
#endif
static int tfpi_usable_cores(void) {
  int cores = 0;
#if defined(__linux__) && !defined(TFPRE_NO_STDIO)
  char text[4096], *at;
  if (tfpi_read_small("/proc/self/status", text, sizeof text) &&
      (at = strstr(text, "Cpus_allowed:")) != NULL)
    for (at += 13; *at && *at != '\n'; at++) {
      const int digit = *at >= '0' && *at <= '9' ? *at - '0'
                        : *at >= 'a' && *at <= 'f' ? *at - 'a' + 10
                                                   : 0;
      cores += (digit & 1) + (digit >> 1 & 1) + (digit >> 2 & 1) + (digit >> 3 & 1);
    }
  if (tfpi_read_small("/sys/fs/cgroup/cpu.max", text, sizeof text) && text[0] != 'm') {
    int64_t quota = 0, period = 0;
    for (at = text; *at >= '0' && *at <= '9'; at++) quota = quota * 10 + (*at - '0');
    if (*at == ' ')
      for (at++; *at >= '0' && *at <= '9'; at++) period = period * 10 + (*at - '0');
    if (quota > 0 && period > 0 && tfpi_ceil_div(quota, period) < cores)
      cores = (int)tfpi_ceil_div(quota, period);
  }
#elif defined(_SC_NPROCESSORS_ONLN)
  cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
#elif defined(_WIN32)
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  cores = (int)info.dwNumberOfProcessors;
#endif
  return cores < 1 ? 1 : cores > TFP_MAX_THREADS ? TFP_MAX_THREADS : cores;
}

static tfp_status tfpi_threads_open(tfp_ctx *ctx) {
  tfpi_pool *p;
  int i;
  ctx->threads = ctx->desc.threads ? ctx->desc.threads : tfpi_usable_cores();
  if (ctx->threads == 1) return TFP_OK;
  p = (tfpi_pool *)tfpi_new(&ctx->own, 1, sizeof *p);
  if (!p) return ctx->status;
  p->workers = (tfpi_worker *)tfpi_new(&ctx->own, ctx->threads, sizeof *p->workers);
  p->ranges = (tfpi_range *)tfpi_new(&ctx->own, ctx->threads, sizeof *p->ranges);
  if (ctx->status || ctx->desc.dry_run) return ctx->status;
  if (pthread_mutex_init(&p->lock, NULL) || pthread_cond_init(&p->wake, NULL))
    return tfpi_fail(ctx, TFP_ERR_UNSUPPORTED, "threads: the system gives no lock");
  ctx->pool = p;
  p->started = 1;
  for (i = 1; i < ctx->threads; i++) {
    p->workers[i].pool = p;
    p->workers[i].index = i;
    if (pthread_create(&p->workers[i].id, NULL, tfpi_pool_worker, &p->workers[i])) break;
    p->others = i; /* workers read it only in a job, which comes after */
  }
  if (p->others + 1 < ctx->threads)
    tfpi_log(ctx, "threads: %d of %d could be started", p->others + 1, ctx->threads);
  return TFP_OK;
}

static void tfpi_threads_close(tfp_ctx *ctx) {
  tfpi_pool *p = ctx->pool;
  int i;
  if (!p) return;
  p->quit = 1;
  tfpi_pool_publish(p);
  for (i = 1; i <= p->others; i++) pthread_join(p->workers[i].id, NULL);
  pthread_mutex_destroy(&p->lock);
  pthread_cond_destroy(&p->wake);
  ctx->pool = NULL;
}
#endif
/* ================================================================================================
 * >>tensor.c   shapes, strides, views
 * ================================================================================================
 */
static size_t tfpi_dtype_bytes(tfp_dtype d) {
  return d == TFP_I32 ? sizeof(int32_t) : sizeof(tfp_real);
}
TFPI_INLINE tfp_real *tfpi_data(const tfp_tensor *t) { return (tfp_real *)t->data; }
TFPI_INLINE int32_t *tfpi_ints(const tfp_tensor *t) { return (int32_t *)t->data; }

/* Number of elements of a shape; -1 if it has a negative size or its bytes do not fit. */
static int64_t tfpi_shape_numel(int ndim, const int64_t *shape) {
  int64_t n = 1;
  int i;
  for (i = 0; i < ndim; i++) {
    if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n)) return -1;
  }
  return n > INT64_MAX / 64 ? -1 : n;
}

static void tfpi_set_shape(tfp_tensor *t, int ndim, const int64_t *shape) {
  int64_t stride = 1;
  int i;
  t->ndim = ndim;
  for (i = 0; i < TFP_MAX_DIMS; i++) t->shape[i] = 1, t->stride[i] = 0;
  for (i = ndim - 1; i >= 0; i--) {
    t->shape[i] = shape[i];
    t->stride[i] = stride;
    stride *= shape[i];
  }
}

/* A tensor's header alone, contiguous, without data. */
static tfp_tensor *tfpi_tensor_header(tfpi_arena *a, tfp_dtype dtype, int ndim,
                                      const int64_t *shape, const char *who) {
  tfp_tensor *t;
  tfp_ctx *ctx = a->ctx;
  int i;
  if (ctx->status) return NULL;
  if (ndim < 0 || ndim > TFP_MAX_DIMS) {
    tfpi_fail(ctx, TFP_ERR_ARG, "%s: %d dimensions; 0 to %d are possible", who, ndim, TFP_MAX_DIMS);
    return NULL;
  }
  for (i = 0; i < ndim; i++)
    if (shape[i] < 0) {
      tfpi_fail(ctx, TFP_ERR_ARG, "%s: size %i of axis %d is negative", who, shape[i], i);
      return NULL;
    }
  if (tfpi_shape_numel(ndim, shape) < 0) {
    tfpi_fail(ctx, TFP_ERR_ARG, "%s: the sizes multiply to more bytes than there can be", who);
    return NULL;
  }
  t = (tfp_tensor *)tfpi_new(a, 1, sizeof *t);
  if (!t) return NULL;
  t->dtype = dtype;
  t->name = "";
  tfpi_set_shape(t, ndim, shape);
  return t;
}

static tfp_tensor *tfpi_tensor(tfpi_arena *a, tfp_dtype dtype, int ndim, const int64_t *shape,
                               const char *who) {
  tfp_tensor *t = tfpi_tensor_header(a, dtype, ndim, shape, who);
  if (t && tfpi_take(a, (size_t)tfp_numel(t) * tfpi_dtype_bytes(dtype), TFPI_DATA, &t->data))
    return NULL;
  return t;
}

/* A contiguous tensor of like's shape, as ops make for their results. */
static tfp_tensor *tfpi_tensor_like(tfp_ctx *ctx, const tfp_tensor *like, const char *who) {
  return tfpi_tensor(&ctx->step, like->dtype, like->ndim, like->shape, who);
}

TFP_API int64_t tfp_numel(const tfp_tensor *t) {
  int64_t n = 1;
  int i;
  if (!t) return 0;
  for (i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}
TFP_API int tfp_is_contiguous(const tfp_tensor *t) {
  int64_t stride = 1;
  int i;
  if (!t) return 0;
  for (i = t->ndim - 1; i >= 0; i--) {
    if (t->shape[i] != 1 && t->stride[i] != stride) return 0;
    stride *= t->shape[i];
  }
  return 1;
}
static int tfpi_same_shape(const tfp_tensor *a, const tfp_tensor *b) {
  int i;
  if (a->ndim != b->ndim) return 0;
  for (i = 0; i < a->ndim; i++)
    if (a->shape[i] != b->shape[i]) return 0;
  return 1;
}

/* Walks a tensor's elements in row-major order: at is the offset of the current one. */
typedef struct tfpi_walk { const tfp_tensor *t; int64_t index[TFP_MAX_DIMS], at; } tfpi_walk;
static void tfpi_walk_start(tfpi_walk *w, const tfp_tensor *t) {
  memset(w, 0, sizeof *w);
  w->t = t;
}
static void tfpi_walk_next(tfpi_walk *w) {
  int i;
  for (i = w->t->ndim - 1; i >= 0; i--) {
    w->at += w->t->stride[i];
    if (++w->index[i] < w->t->shape[i]) return;
    w->at -= w->t->stride[i] * w->t->shape[i];
    w->index[i] = 0;
  }
}

TFP_API tfp_tensor *tfp_full(tfp_ctx *ctx, int ndim, const int64_t *shape, double value) {
  tfp_tensor *t = tfpi_tensor(&ctx->step, TFP_REAL, ndim, shape, "tfp_full");
  int64_t i, n = tfp_numel(t);
  if (t && t->data)
    for (i = 0; i < n; i++) tfpi_data(t)[i] = (tfp_real)value;
  return t;
}
TFP_API tfp_tensor *tfp_zeros(tfp_ctx *ctx, int ndim, const int64_t *shape) {
  return tfp_full(ctx, ndim, shape, 0);
}

TFP_API tfp_tensor *tfp_from_floats(tfp_ctx *ctx, int ndim, const int64_t *shape,
                                    const float *values) {
  tfp_tensor *t = tfpi_tensor(&ctx->step, TFP_REAL, ndim, shape, "tfp_from_floats");
  int64_t i, n = tfp_numel(t);
  if (!t || !t->data) return t;
  if (!values) {
    tfpi_fail(ctx, TFP_ERR_ARG, "tfp_from_floats: values is NULL");
    return NULL;
  }
  for (i = 0; i < n; i++) tfpi_data(t)[i] = (tfp_real)values[i];
  return t;
}
TFP_API tfp_tensor *tfp_from_ints(tfp_ctx *ctx, int ndim, const int64_t *shape,
                                  const int32_t *values) {
  tfp_tensor *t = tfpi_tensor(&ctx->step, TFP_I32, ndim, shape, "tfp_from_ints");
  if (!t || !t->data) return t;
  if (!values) {
    tfpi_fail(ctx, TFP_ERR_ARG, "tfp_from_ints: values is NULL");
    return NULL;
  }
  memcpy(t->data, values, (size_t)tfp_numel(t) * sizeof *values);
  return t;
}
TFP_API tfp_tensor *tfp_random(tfp_ctx *ctx, int ndim, const int64_t *shape, double std,
                               uint64_t stream) {
  tfp_tensor *t = tfpi_tensor(&ctx->step, TFP_REAL, ndim, shape, "tfp_random");
  int64_t i, n = tfp_numel(t);
  if (!t || !t->data) return t;
  for (i = 0; i < n; i++)
    tfpi_data(t)[i] =
        (tfp_real)(std * (double)tfp_random_normal(ctx->desc.seed, stream, (uint64_t)i));
  return t;
}
TFP_API tfp_tensor *tfp_named(tfp_tensor *t, const char *name) {
  if (t) t->name = name ? name : "";
  return t;
}

/* What tfp_read and tfp_write refuse. */
static tfp_status tfpi_check_transfer(tfp_ctx *ctx, const tfp_tensor *t, const void *values,
                                      int64_t count, const char *who) {
  if (ctx->status) return ctx->status;
  if (!t || !values || t->dtype != TFP_REAL)
    return tfpi_fail(ctx, TFP_ERR_ARG, "%s: needs a tensor of numbers and a place for them", who);
  if (count != tfp_numel(t))
    return tfpi_fail(ctx, TFP_ERR_ARG, "%s: %i numbers for %t", who, count, t);
  if (!t->data && count)
    return tfpi_fail(ctx, TFP_ERR_STATE, "%s: %t has no data in a dry run", who, t);
  return TFP_OK;
}
TFP_API tfp_status tfp_read(tfp_ctx *ctx, const tfp_tensor *t, float *out, int64_t count) {
  tfpi_walk w;
  int64_t i;
  if (tfpi_check_transfer(ctx, t, out, count, "tfp_read")) return ctx->status;
  tfpi_walk_start(&w, t);
  for (i = 0; i < count; i++, tfpi_walk_next(&w)) out[i] = (float)tfpi_data(t)[w.at];
  return TFP_OK;
}
TFP_API tfp_status tfp_write(tfp_ctx *ctx, tfp_tensor *t, const float *values, int64_t count) {
  tfpi_walk w;
  int64_t i;
  if (tfpi_check_transfer(ctx, t, values, count, "tfp_write")) return ctx->status;
  tfpi_walk_start(&w, t);
  for (i = 0; i < count; i++, tfpi_walk_next(&w)) tfpi_data(t)[w.at] = (tfp_real)values[i];
  return TFP_OK;
}
TFP_API double tfp_item(const tfp_tensor *t) {
  if (!t || !t->data || tfp_numel(t) != 1 || t->dtype != TFP_REAL) return NAN;
  return (double)*tfpi_data(t);
}
/* ================================================================================================
 * >>backend.c   the table of kernels that a device must offer
 * ================================================================================================
 * The only door between ops and devices. Every entry takes tensors (shape, strides, dtype, device)
 * and constants. Inputs were checked by the op; outputs are allocated; an entry cannot fail. Where
 * an entry has `accumulate`, 1 adds to what is in the output and 0 overwrites it. Sums have an
 * order that depends on sizes alone, and NaN comes out of everything that it goes into.
 */
typedef enum tfpi_unary_kind {
  TFPI_NEG,
  TFPI_SCALE,
  TFPI_EXP,
  TFPI_LOG,
  TFPI_SQRT,
  TFPI_POW,
  TFPI_TANH,
  TFPI_SIGMOID,
  TFPI_RELU,
  TFPI_SILU,
  TFPI_GELU,     /* x/2 (1 + erf(x/sqrt 2)) */
  TFPI_GELU_NEW, /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
  TFPI_UNARY_COUNT
} tfpi_unary_kind;
enum { TFPI_NO_ACTIVATION = -1 };
typedef enum tfpi_binary_kind { TFPI_ADD, TFPI_SUB, TFPI_MUL, TFPI_DIV } tfpi_binary_kind;
typedef enum tfpi_reduce_kind { TFPI_SUM, TFPI_MEAN, TFPI_MAX } tfpi_reduce_kind;

/* c = a @ b, or c += a @ b; then + bias, then activation. All three have the same ndim >= 2; the
 * axes before the last two are batch axes of equal size (an expanded one has stride 0). Transposes
 * are strides: a.stride[last] == 1 or a.stride[last-1] == 1 is fast, anything else is right. */
typedef struct tfpi_matmul_args {
  const tfp_tensor *a, *b; /* (...,M,K) (...,K,N) */
  tfp_tensor *c;           /* (...,M,N), last stride 1 */
  const tfp_tensor *bias;  /* (N) or NULL */
  tfp_tensor *before;      /* like c: keeps what goes into the activation; or NULL */
  int activation;          /* a tfpi_unary_kind without a constant, or TFPI_NO_ACTIVATION */
  int accumulate;
} tfpi_matmul_args;

/* y = normalised (x + residual), times g, plus b. */
typedef struct tfpi_norm_args {
  const tfp_tensor *x, *residual; /* (...,C) contiguous; residual may be NULL */
  tfp_tensor *sum;                /* x + residual is kept here when there is a residual */
  tfp_tensor *y, *stats;          /* (...,C); (rows,2): mean and 1/sigma (mean is 0 for rms) */
  const tfp_tensor *g, *b;        /* (C); b may be NULL */
  double eps;
  int rms;                        /* 1: RMSNorm, no mean and no b */
} tfpi_norm_args;
/* Backward: in is what was normalised. d = d(norm input) + dsum; written to dx and to dres. */
typedef struct tfpi_norm_bwd_args {
  const tfp_tensor *in, *stats, *g, *dy; /* dy may be NULL (nothing came) */
  const tfp_tensor *dsum;                /* gradient that reached the sum itself, or NULL */
  tfp_tensor *dx, *dres, *dg, *db;       /* each may be NULL */
  int dx_accumulate, dres_accumulate, dg_accumulate, db_accumulate;
  tfp_tensor *work;                      /* (slices,2,C) with tfpi_norm_slices(rows) slices */
  int rms;
} tfpi_norm_bwd_args;
enum { TFPI_NORM_SLICE = 32 }; /* rows whose dg and db are summed together */
static int64_t tfpi_norm_slices(int64_t rows) { return tfpi_ceil_div(rows, TFPI_NORM_SLICE); }

/* Attention of T queries over S keys; query i stands at key position i + S - T.
 *   s[i,j] = scale q_i.k_j + slope_h p_j + rel[h, j - i + T - 1]       o_i = sum_j
 *   softmax_j(s)[i,j] v_j
 * A pair is hidden (weight exactly 0) if causal and j > i + S - T; if mask[b,j] is 0; if q_doc[b,i]
 * and k_doc[b,j] differ (documents are contiguous runs in a row). p_j counts the visible keys of
 * the mask before j (0,1,2,...; j itself without a mask). A query that sees no key gives zeros.
 * Dropout acts on the weights: pair (b,h,i,j) is dropped by the draw of stream + h at the index
 * tfpi_draw_index(example+b, i, j). */
typedef struct tfpi_attention_args {
  const tfp_tensor *q, *k, *v; /* (B,H,T,D) (B,H,S,D) (B,H,S,D), last stride 1, any others */
  tfp_tensor *o;               /* (B,H,T,D), last stride 1 */
  tfp_tensor *lse;             /* (B,H,T) contiguous: log of the sum of exponentials; or NULL */
  int causal;
  double scale, dropout;
  uint64_t stream;
  const tfp_tensor *mask, *q_doc, *k_doc; /* int32 (B,S) (B,T) (B,S) contiguous; or NULL */
  const tfp_tensor *slopes;    /* (H) or NULL */
  const tfp_tensor *rel;       /* (H,T+S-1) contiguous or NULL */
  /* backward; o and lse are then inputs */
  const tfp_tensor *dout;      /* like o */
  tfp_tensor *dq, *dk, *dv;    /* like q, k, v; or NULL */
  int dq_accumulate, dk_accumulate, dv_accumulate;
  tfp_tensor *drel;            /* (B,H,T+S-1) contiguous, overwritten; or NULL */
} tfpi_attention_args;

/* y = x W' + bias is never whole: rows with a label go by in chunks of `chunk` rows. */
typedef struct tfpi_linear_xent_args {
  const tfp_tensor *x, *w, *bias; /* (N,C) (V,C) (V) or NULL, contiguous */
  const tfp_tensor *labels;       /* int32 (N); TFP_IGNORE_INDEX is skipped */
  tfp_tensor *loss;               /* one number: scale * sum of -log p(label) */
  const float *scale;             /* read when the kernel runs */
  tfp_tensor *dx, *dw, *db; /* scale * gradient, or NULL; dx overwritten, with 0 in skipped rows */
  int dw_accumulate, db_accumulate;
  tfp_tensor *rows;               /* work: (chunk,2,C) */
  tfp_tensor *logits;             /* work: (chunk,V) */
} tfpi_linear_xent_args;

/* One pass over flat arrays of n numbers (the hyper-parameters lr, grad_scale, fix1, fix2 are in
 * ctx->now):   m = beta1 m + (1-beta1) s g     v = beta2 v + (1-beta2) (s g)^2      s = grad_scale
 *   p = p (1 - lr decay) - lr fix1 m / (sqrt(fix2 v) + eps) */
typedef struct tfpi_adamw_args {
  tfp_real *p, *m, *v;
  const tfp_real *g;
  int64_t n;
  double beta1, beta2, eps, decay;
} tfpi_adamw_args;

/* Index of a random draw for (example, position, channel): 24, 20 and 20 bits. */
TFPI_INLINE uint64_t tfpi_draw_index(uint64_t example, int64_t position, int64_t channel) {
  return example << 40 | (uint64_t)position << 20 | (uint64_t)channel;
}

struct tfpi_backend {
  const char *name;
  /* y = x or y += x, same shape, any strides, any dtype (both the same) */
  void (*copy)(tfp_ctx *, tfp_tensor *y, const tfp_tensor *x, int accumulate);
  void (*fill)(tfp_ctx *, tfp_tensor *y, double value);
  /* y = f(x); c is the factor of SCALE and the exponent of POW; any strides */
  void (*unary)(tfp_ctx *, tfpi_unary_kind, tfp_tensor *y, const tfp_tensor *x, double c);
  /* dx = or += dy f'(x); y = f(x) is given */
  void (*unary_bwd)(tfp_ctx *, tfpi_unary_kind, tfp_tensor *dx, const tfp_tensor *dy,
                    const tfp_tensor *x, const tfp_tensor *y, double c, int accumulate);
  /* a and b are expanded to y's shape by stride 0 */
  void (*binary)(tfp_ctx *, tfpi_binary_kind, tfp_tensor *y, const tfp_tensor *a,
                 const tfp_tensor *b);
  /* gradient of operand `which` (0: a, 1: b) of y: d (that operand's own shape with size-1 axes
   * kept, the same ndim as dy) gets the sum over the axes where its size is 1 and dy's is not; a,
   * b expanded to dy's shape */
  void (*binary_bwd)(tfp_ctx *, tfpi_binary_kind, int which, tfp_tensor *d, const tfp_tensor *dy,
                     const tfp_tensor *a, const tfp_tensor *b, int accumulate);
  /* y has x's ndim, and size 1 on the reduced axes */
  void (*reduce)(tfp_ctx *, tfpi_reduce_kind, tfp_tensor *y, const tfp_tensor *x, int accumulate);
  /* MAX: the gradient goes to the first of equal maxima */
  void (*reduce_bwd)(tfp_ctx *, tfpi_reduce_kind, tfp_tensor *dx, const tfp_tensor *dy,
                     const tfp_tensor *x, const tfp_tensor *y, int accumulate);
  /* y (ids...,C) = sum over k < count of table[k][ids[k]]; ids have the same shape; contiguous */
  void (*gather)(tfp_ctx *, tfp_tensor *y, int count, const tfp_tensor *const *tables,
                 const tfp_tensor *const *ids);
  /* dtable[id] += dy row for every id but `skip` (-1: none); accumulate 0 clears first */
  void (*scatter_add)(tfp_ctx *, tfp_tensor *dtable, const tfp_tensor *dy, const tfp_tensor *ids,
                      int64_t skip, int accumulate);
  /* over the last axis, contiguous; log_form gives log-probabilities; a row of -inf alone gives
   * zeros (log: -inf) */
  void (*softmax)(tfp_ctx *, tfp_tensor *y, const tfp_tensor *x, int log_form);
  void (*softmax_bwd)(tfp_ctx *, tfp_tensor *dx, const tfp_tensor *dy, const tfp_tensor *y,
                      int log_form, int accumulate);
  void (*norm)(tfp_ctx *, const tfpi_norm_args *);
  void (*norm_bwd)(tfp_ctx *, const tfpi_norm_bwd_args *);
  /* x (B,T,C) contiguous or viewed so: y = (or +=) x / (1-p) where kept, 0 where dropped; draw of
   * `stream` at tfpi_draw_index(example + b, t, c) */
  void (*dropout)(tfp_ctx *, tfp_tensor *y, const tfp_tensor *x, double p, uint64_t stream,
                  int accumulate);
  /* y = value where mask (int32, expanded to x's shape) is not 0, else x; backward: dx = 0 there,
   * else dy */
  void (*masked_fill)(tfp_ctx *, tfp_tensor *y, const tfp_tensor *x, const tfp_tensor *mask,
                      double value, int accumulate);
  /* loss (1) = scale * sum over labelled rows of -log softmax(logits)[label]; logits (N,V), labels
   * int32 (N) */
  void (*xent)(tfp_ctx *, tfp_tensor *loss, const tfp_tensor *logits, const tfp_tensor *labels,
               const float *scale);
  void (*xent_bwd)(tfp_ctx *, tfp_tensor *dlogits, const tfp_tensor *logits,
                   const tfp_tensor *labels, const tfp_tensor *dloss, const float *scale,
                   int accumulate);
  void (*matmul)(tfp_ctx *, const tfpi_matmul_args *);
  void (*attention)(tfp_ctx *, const tfpi_attention_args *);
  void (*attention_bwd)(tfp_ctx *, const tfpi_attention_args *);
  void (*linear_xent)(tfp_ctx *, const tfpi_linear_xent_args *);
  /* x (B,H,T,D), last stride 1: rotates (x[i], x[i+D/2]) by angle position * base^(-2i/D), i < D/2;
   * positions int32 (B,T) or NULL for start, start+1, ...; inverse turns back (the backward) */
  void (*rotary)(tfp_ctx *, tfp_tensor *y, const tfp_tensor *x, const tfp_tensor *positions,
                 int64_t start, double base, int inverse, int accumulate);
  void (*adamw)(tfp_ctx *, const tfpi_adamw_args *);
  double (*sum_squares)(tfp_ctx *, const tfp_real *x, int64_t n);
};
/* ================================================================================================
 * >>kernels.c   the plain C kernels: the specification in code, always compiled
 * ================================================================================================
 * Every entry of the table in loops that say what it computes; forward first, then its backward
 * with the forward's formula above each derivative. They take all strides, in float and in double
 * (TFPRE_REAL). The vector kernels are compared with these and fall back to them. The tasks of a
 * kernel write different outputs and their sizes follow from shapes alone, so that no sum depends
 * on the number of threads.
 */
#define TFPI_MATH(name) \
  TFPI_INLINE tfp_real tfpi_m##name(tfp_real x) { \
    return sizeof x == sizeof(float) ? (tfp_real)name##f((float)x) : (tfp_real)name((double)x); \
  }
TFPI_MATH(exp)
TFPI_MATH(log)
TFPI_MATH(sqrt)
TFPI_MATH(tanh)
TFPI_MATH(erf)
#undef TFPI_MATH

enum {
  TFPI_TASK = 1 << 14,    /* elements that are worth a task of their own */
  TFPI_BLOCK = 64,        /* columns that are worked on together */
  TFPI_OPERANDS = 4,
  TFPI_PARTS = 512        /* partial sums that wait on the stack of the calling thread */
};

/* Scratch of one thread, for use within one kernel of a fast level. Plain kernels use none: what
 * they need is small and lies on the stack. */
static TFPI_UNUSED char *tfpi_scratch(tfp_ctx *ctx, int thread) {
  return ctx->scratch + (size_t)thread * ctx->scratch_bytes;
}

/* ---- walking tensors ---- */

/* Offset of element `flat` (row-major) of the first `axes` axes of t. */
static int64_t tfpi_offset(const tfp_tensor *t, int axes, int64_t flat) {
  int64_t at = 0;
  int i;
  for (i = axes - 1; i >= 0; i--) {
    at += flat % t->shape[i] * t->stride[i];
    flat /= t->shape[i];
  }
  return at;
}
static int64_t tfpi_row_length(const tfp_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }
static int64_t tfpi_row_count(const tfp_tensor *t) {
  int64_t n = 1;
  int i;
  for (i = 0; i < t->ndim - 1; i++) n *= t->shape[i];
  return n;
}
/* Row r of t, counted over the axes before the last. */
static tfp_real *tfpi_row(const tfp_tensor *t, int64_t r) {
  return tfpi_data(t) + tfpi_offset(t, t->ndim - 1, r);
}
/* t's header as it looks when its size-1 axes are repeated to the shape of `like`. */
static tfp_tensor tfpi_expanded(const tfp_tensor *t, const tfp_tensor *like) {
  tfp_tensor e;
  int i;
  memcpy(&e, t, sizeof e);
  for (i = 0; i < t->ndim; i++) {
    e.shape[i] = like->shape[i];
    if (t->shape[i] != like->shape[i]) e.stride[i] = 0;
  }
  return e;
}

/* Some axes that several operands have in common; neighbours that can be one axis are one. */
typedef struct tfpi_axes {
  int ndim;
  int64_t n; /* the product of the sizes */
  int64_t shape[TFP_MAX_DIMS], stride[TFP_MAX_DIMS][TFPI_OPERANDS];
} tfpi_axes;
static void tfpi_axes_start(tfpi_axes *x) {
  memset(x, 0, sizeof *x);
  x->n = 1;
}
static void tfpi_axes_add(tfpi_axes *x, int64_t size, const int64_t *stride) {
  int64_t *last = x->ndim ? x->stride[x->ndim - 1] : NULL;
  int k, joins = last != NULL;
  x->n *= size;
  if (size == 1) return;
  for (k = 0; k < TFPI_OPERANDS; k++) joins = joins && last[k] == stride[k] * size;
  if (!joins) x->shape[x->ndim++] = 1;
  x->shape[x->ndim - 1] *= size;
  for (k = 0; k < TFPI_OPERANDS; k++) x->stride[x->ndim - 1][k] = stride[k];
}
/* Adds the offsets of element `flat` to at[]; returns how many lie from there on the last axis. */
static int64_t tfpi_axes_at(const tfpi_axes *x, int64_t flat, int64_t *at) {
  int64_t left = 1;
  int i, k;
  for (i = x->ndim - 1; i >= 0; i--) {
    const int64_t index = flat % x->shape[i];
    flat /= x->shape[i];
    if (i == x->ndim - 1) left = x->shape[i] - index;
    for (k = 0; k < TFPI_OPERANDS; k++) at[k] += index * x->stride[i][k];
  }
  return left;
}
static const int64_t *tfpi_axes_step(const tfpi_axes *x) {
  return x->stride[x->ndim ? x->ndim - 1 : 0];
}

/* ---- kernels that work element by element ----
 * A stretch is n elements along the last axis: those of operand k lie at at[k] + i*step[k]. */
typedef void (*tfpi_stretch_fn)(const void *args, const int64_t *at, const int64_t *step,
                                int64_t n);
typedef struct tfpi_each_job {
  tfpi_axes axes;
  tfpi_stretch_fn fn;
  const void *args;
} tfpi_each_job;

static void tfpi_each_task(void *v, int64_t task, int thread) {
  const tfpi_each_job *j = (const tfpi_each_job *)v;
  const int64_t end = tfpi_min64((task + 1) * TFPI_TASK, j->axes.n);
  int64_t i, n;
  (void)thread;
  for (i = task * TFPI_TASK; i < end; i += n) {
    int64_t at[TFPI_OPERANDS] = {0, 0, 0, 0};
    n = tfpi_min64(tfpi_axes_at(&j->axes, i, at), end - i);
    j->fn(j->args, at, tfpi_axes_step(&j->axes), n);
  }
}
/* Operand 0 has the shape; an operand that is NULL is not there. */
static void tfpi_each(tfp_ctx *ctx, tfpi_stretch_fn fn, const void *args, const tfp_tensor *t0,
                      const tfp_tensor *t1, const tfp_tensor *t2, const tfp_tensor *t3) {
  tfpi_each_job j;
  int i;
  j.fn = fn, j.args = args;
  tfpi_axes_start(&j.axes);
  for (i = 0; i < t0->ndim; i++) {
    int64_t stride[TFPI_OPERANDS];
    stride[0] = t0->stride[i];
    stride[1] = t1 ? t1->stride[i] : 0;
    stride[2] = t2 ? t2->stride[i] : 0;
    stride[3] = t3 ? t3->stride[i] : 0;
    tfpi_axes_add(&j.axes, t0->shape[i], stride);
  }
  tfpi_parallel(ctx, tfpi_ceil_div(j.axes.n, TFPI_TASK), tfpi_each_task, &j);
}

/* What element-wise kernels need besides the places. */
typedef struct tfpi_each_args {
  int kind, accumulate;
  void *y;
  const void *a, *b, *d;
  double c;
} tfpi_each_args;
static tfpi_each_args tfpi_each_open(int kind, int accumulate, const tfp_tensor *y,
                                     const tfp_tensor *a, const tfp_tensor *b,
                                     const tfp_tensor *d, double c) {
  tfpi_each_args e;
  e.kind = kind, e.accumulate = accumulate, e.c = c;
  e.y = y->data, e.a = a ? a->data : NULL, e.b = b ? b->data : NULL, e.d = d ? d->data : NULL;
  return e;
}
TFPI_INLINE void tfpi_put(tfp_real *y, tfp_real value, int accumulate) {
  *y = accumulate ? *y + value : value;
}

/* ---- copy, fill, masked_fill ---- */

static void tfpi_copy_reals(const void *v, const int64_t *at, const int64_t *step, int64_t n) {
  const tfpi_each_args *e = (const tfpi_each_args *)v;
  tfp_real *y = (tfp_real *)e->y + at[0];
  const tfp_real *x = (const tfp_real *)e->a + at[1];
  int64_t i;
  if (step[0] == 1 && step[1] == 1 && !e->accumulate) memmove(y, x, (size_t)n * sizeof *y);
  else for (i = 0; i < n; i++) tfpi_put(y + i * step[0], x[i * step[1]], e->accumulate);
}
static void tfpi_copy_ints(const void *v, const int64_t *at, const int64_t *step, int64_t n) {
  const tfpi_each_args *e = (const tfpi_each_args *)v;
  int32_t *y = (int32_t *)e->y + at[0];
  const int32_t *x = (const int32_t *)e->a + at[1];
  int64_t i;
  for (i = 0; i < n; i++)
    y[i * step[0]] = e->accumulate ? y[i * step[0]] + x[i * step[1]] : x[i * step[1]];
}
static void tfpi_copy_plain(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x, int accumulate) {
  const tfpi_each_args e = tfpi_each_open(0, accumulate, y, x, NULL, NULL, 0);
  tfpi_each(ctx, y->dtype == TFP_I32 ? tfpi_copy_ints : tfpi_copy_reals, &e, y, x, NULL, NULL);
}

static void tfpi_fill_reals(const void *v, const int64_t *at, const int64_t *step, int64_t n) {
  const tfpi_each_args *e = (const tfpi_each_args *)v;
  int64_t i;
  for (i = 0; i < n; i++) ((tfp_real *)e->y)[at[0] + i * step[0]] = (tfp_real)e->c;
}
static void tfpi_fill_ints(const void *v, const int64_t *at, const int64_t *step, int64_t n) {
  const tfpi_each_args *e = (const tfpi_each_args *)v;
  int64_t i;
  for (i = 0; i < n; i++) ((int32_t *)e->y)[at[0] + i * step[0]] = (int32_t)e->c;
}
static void tfpi_fill_plain(tfp_ctx *ctx, tfp_tensor *y, double value) {
  const tfpi_each_args e = tfpi_each_open(0, 0, y, NULL, NULL, NULL, value);
  tfpi_each(ctx, y->dtype == TFP_I32 ? tfpi_fill_ints : tfpi_fill_reals, &e, y, NULL, NULL, NULL);
}

static void tfpi_masked_fill_reals(const void *v, const int64_t *at, const int64_t *step,
                                   int64_t n) {
  const tfpi_each_args *e = (const tfpi_each_args *)v;
  tfp_real *y = (tfp_real *)e->y + at[0];
  const tfp_real *x = (const tfp_real *)e->a + at[1];
  const int32_t *mask = (const int32_t *)e->b + at[2];
  int64_t i;
  for (i = 0; i < n; i++)
    tfpi_put(y + i * step[0], mask[i * step[2]] ? (tfp_real)e->c : x[i * step[1]], e->accumulate);
}
static void tfpi_masked_fill_plain(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x,
                                   const tfp_tensor *mask, double value, int accumulate) {
  const tfpi_each_args e = tfpi_each_open(0, accumulate, y, x, mask, NULL, value);
  tfpi_each(ctx, tfpi_masked_fill_reals, &e, y, x, mask, NULL);
}

/* ---- functions of one number ---- */

static const tfp_real tfpi_root_half = (tfp_real)0.70710678118654752440;
static const tfp_real tfpi_root_2_over_pi = (tfp_real)0.79788456080286535588;
static const tfp_real tfpi_gelu_cubic = (tfp_real)0.044715;

static tfp_real tfpi_pow_plain(tfp_real x, double c) {
  if (x != x) return x; /* pow(NaN, 0) would be 1 */
  if (sizeof x == sizeof(float)) return (tfp_real)powf((float)x, (float)c);
  return (tfp_real)pow((double)x, c);
}
static tfp_real tfpi_unary_value(tfpi_unary_kind kind, tfp_real x, double c) {
  const tfp_real half = x * (tfp_real)0.5;
  switch (kind) {
    case TFPI_NEG: return -x;
    case TFPI_SCALE: return x * (tfp_real)c;
    case TFPI_EXP: return tfpi_mexp(x);
    case TFPI_LOG: return tfpi_mlog(x);
    case TFPI_SQRT: return tfpi_msqrt(x);
    case TFPI_POW: return tfpi_pow_plain(x, c);
    case TFPI_TANH: return tfpi_mtanh(x);
    case TFPI_SIGMOID: return 1 / (1 + tfpi_mexp(-x));
    case TFPI_RELU: return x <= 0 ? 0 : x; /* NaN is not <= 0 */
    case TFPI_SILU: return x / (1 + tfpi_mexp(-x));
    case TFPI_GELU: return half * (1 + tfpi_merf(x * tfpi_root_half));
    case TFPI_GELU_NEW:
      return half * (1 + tfpi_mtanh(tfpi_root_2_over_pi * (x + tfpi_gelu_cubic * x * x * x)));
    default: return x;
  }
}
/* f'(x), where y = f(x) is known. */
static tfp_real tfpi_unary_slope(tfpi_unary_kind kind, tfp_real x, tfp_real y, double c) {
  const tfp_real half = (tfp_real)0.5;
  tfp_real s, t;
  switch (kind) {
    case TFPI_NEG: return -1;
    case TFPI_SCALE: return (tfp_real)c;
    case TFPI_EXP: return y;
    case TFPI_LOG: return 1 / x;
    case TFPI_SQRT: return half / y;
    case TFPI_POW: return c == 0 ? 0 : (tfp_real)c * tfpi_pow_plain(x, c - 1);
    case TFPI_TANH: return 1 - y * y;
    case TFPI_SIGMOID: return y * (1 - y);
    case TFPI_RELU: return x > 0 ? 1 : x <= 0 ? 0 : x; /* the last is NaN */
    case TFPI_SILU: /* y = x s     y' = s + x s (1 - s) */
      s = 1 / (1 + tfpi_mexp(-x));
      return s * (1 + x * (1 - s));
    case TFPI_GELU: /* y = x Phi(x)     y' = Phi(x) + x phi(x) */
      s = half * (1 + tfpi_merf(x * tfpi_root_half));
      return s + x * (tfp_real)0.39894228040143267794 * tfpi_mexp(-x * x * half);
    case TFPI_GELU_NEW: /* y = x/2 (1 + tanh u)     y' = (1 + tanh u)/2 + x/2 (1 - tanh^2 u) u' */
      t = tfpi_mtanh(tfpi_root_2_over_pi * (x + tfpi_gelu_cubic * x * x * x));
      s = 1 - t * t;
      if (s == 0) return half * (1 + t); /* u' may have overflowed */
      s *= tfpi_root_2_over_pi * (1 + 3 * tfpi_gelu_cubic * x * x);
      return half * (1 + t) + half * x * s;
    default: return 1;
  }
}
static void tfpi_unary_stretch(const void *v, const int64_t *at, const int64_t *step, int64_t n) {
  const tfpi_each_args *e = (const tfpi_each_args *)v;
  tfp_real *y = (tfp_real *)e->y + at[0];
  const tfp_real *x = (const tfp_real *)e->a + at[1];
  int64_t i;
  for (i = 0; i < n; i++)
    y[i * step[0]] = tfpi_unary_value((tfpi_unary_kind)e->kind, x[i * step[1]], e->c);
}
static void tfpi_unary_plain(tfp_ctx *ctx, tfpi_unary_kind kind, tfp_tensor *y, const tfp_tensor *x,
                             double c) {
  const tfpi_each_args e = tfpi_each_open((int)kind, 0, y, x, NULL, NULL, c);
  tfpi_each(ctx, tfpi_unary_stretch, &e, y, x, NULL, NULL);
}
/* dx = dy f'(x) */
static void tfpi_unary_bwd_stretch(const void *v, const int64_t *at, const int64_t *step,
                                   int64_t n) {
  const tfpi_each_args *e = (const tfpi_each_args *)v;
  tfp_real *dx = (tfp_real *)e->y + at[0];
  const tfp_real *dy = (const tfp_real *)e->a + at[1];
  const tfp_real *x = (const tfp_real *)e->b + at[2], *y = (const tfp_real *)e->d + at[3];
  int64_t i;
  for (i = 0; i < n; i++) {
    const tfp_real slope =
        tfpi_unary_slope((tfpi_unary_kind)e->kind, x[i * step[2]], y[i * step[3]], e->c);
    tfpi_put(dx + i * step[0], dy[i * step[1]] * slope, e->accumulate);
  }
}
static void tfpi_unary_bwd_plain(tfp_ctx *ctx, tfpi_unary_kind kind, tfp_tensor *dx,
                                 const tfp_tensor *dy, const tfp_tensor *x, const tfp_tensor *y,
                                 double c, int accumulate) {
  const tfpi_each_args e = tfpi_each_open((int)kind, accumulate, dx, dy, x, y, c);
  tfpi_each(ctx, tfpi_unary_bwd_stretch, &e, dx, dy, x, y);
}

/* ---- functions of two numbers ---- */

static void tfpi_binary_stretch(const void *v, const int64_t *at, const int64_t *step, int64_t n) {
  const tfpi_each_args *e = (const tfpi_each_args *)v;
  tfp_real *y = (tfp_real *)e->y + at[0];
  const tfp_real *a = (const tfp_real *)e->a + at[1], *b = (const tfp_real *)e->b + at[2];
  const int64_t ys = step[0], as = step[1], bs = step[2];
  int64_t i;
  switch ((tfpi_binary_kind)e->kind) {
    case TFPI_ADD: for (i = 0; i < n; i++) y[i * ys] = a[i * as] + b[i * bs]; break;
    case TFPI_SUB: for (i = 0; i < n; i++) y[i * ys] = a[i * as] - b[i * bs]; break;
    case TFPI_MUL: for (i = 0; i < n; i++) y[i * ys] = a[i * as] * b[i * bs]; break;
    case TFPI_DIV: for (i = 0; i < n; i++) y[i * ys] = a[i * as] / b[i * bs]; break;
  }
}
static void tfpi_binary_plain(tfp_ctx *ctx, tfpi_binary_kind kind, tfp_tensor *y,
                              const tfp_tensor *a, const tfp_tensor *b) {
  const tfpi_each_args e = tfpi_each_open((int)kind, 0, y, a, b, NULL, 0);
  tfpi_each(ctx, tfpi_binary_stretch, &e, y, a, b, NULL);
}

/* ---- sums and maxima over any axes ----
 * The axes of the input that the output keeps make its K outputs, those that it lacks the R
 * elements behind each. A task has some outputs and one slice of their elements: outputs that are
 * few have their elements cut into slices of a fixed size, which are put together in order. Sums
 * are in double, for they are long. Values come from a function, so that gradients are summed in
 * the same way. */
typedef void (*tfpi_value_fn)(const void *args, const int64_t *at, const int64_t *step, int64_t n,
                              tfp_real *out);
typedef struct tfpi_fold_job {
  tfpi_axes kept, folded; /* operands 0..2: inputs, 3: output */
  tfpi_value_fn value;
  const void *args;
  tfp_real *y;
  tfpi_reduce_kind kind;
  int accumulate, across; /* across: the inner loop runs over outputs */
  int64_t outputs;        /* of a task */
  int64_t slices, slice;  /* how many, and the elements of one */
  double *parts;          /* (slices,K) where there are several slices */
} tfpi_fold_job;

TFPI_INLINE void tfpi_fold_in(tfpi_reduce_kind kind, double *acc, double x) {
  if (kind != TFPI_MAX) *acc += x;
  else if (x > *acc || x != x) *acc = x; /* nothing is larger than NaN: it stays */
}
static void tfpi_fold_store(const tfpi_fold_job *j, int64_t output, double acc) {
  int64_t at[TFPI_OPERANDS] = {0, 0, 0, 0};
  tfpi_axes_at(&j->kept, output, at);
  if (j->kind == TFPI_MEAN) acc /= (double)j->folded.n;
  tfpi_put(j->y + at[3], (tfp_real)acc, j->accumulate);
}
/* The elements [r0,r1) behind m <= TFPI_BLOCK outputs that lie at `at`, one kept step apart. */
static void tfpi_fold_block(const tfpi_fold_job *j, const int64_t *at, int64_t m, int64_t r0,
                            int64_t r1, double *acc) {
  const int64_t *step = tfpi_axes_step(&j->kept);
  tfp_real x[TFPI_BLOCK];
  int64_t r, o, n, i, here[TFPI_OPERANDS];
  for (o = 0; o < m; o++) acc[o] = j->kind == TFPI_MAX ? -(double)INFINITY : 0;
  if (j->across) {
    for (r = r0; r < r1; r++) {
      memcpy(here, at, sizeof here);
      tfpi_axes_at(&j->folded, r, here);
      j->value(j->args, here, step, m, x);
      for (o = 0; o < m; o++) tfpi_fold_in(j->kind, acc + o, (double)x[o]);
    }
    return;
  }
  for (o = 0; o < m; o++)
    for (r = r0; r < r1; r += n) {
      for (i = 0; i < TFPI_OPERANDS; i++) here[i] = at[i] + o * step[i];
      n = tfpi_min64(tfpi_axes_at(&j->folded, r, here), tfpi_min64(r1 - r, TFPI_BLOCK));
      j->value(j->args, here, tfpi_axes_step(&j->folded), n, x);
      for (i = 0; i < n; i++) tfpi_fold_in(j->kind, acc + o, (double)x[i]);
    }
}
static void tfpi_fold_task(void *v, int64_t task, int thread) {
  const tfpi_fold_job *j = (const tfpi_fold_job *)v;
  const int64_t K = j->kept.n, s = task % j->slices, r0 = s * j->slice;
  const int64_t r1 = tfpi_min64(r0 + j->slice, j->folded.n);
  const int64_t end = tfpi_min64((task / j->slices + 1) * j->outputs, K);
  double acc[TFPI_BLOCK];
  int64_t i, o, m;
  (void)thread;
  for (i = task / j->slices * j->outputs; i < end; i += m) {
    int64_t at[TFPI_OPERANDS] = {0, 0, 0, 0};
    m = tfpi_min64(tfpi_axes_at(&j->kept, i, at), tfpi_min64(end - i, TFPI_BLOCK));
    tfpi_fold_block(j, at, m, r0, r1, acc);
    for (o = 0; o < m; o++) {
      if (j->slices > 1) j->parts[s * K + i + o] = acc[o];
      else tfpi_fold_store(j, i + o, acc[o]);
    }
  }
}
static void tfpi_fold_combine(void *v, int64_t output, int thread) {
  const tfpi_fold_job *j = (const tfpi_fold_job *)v;
  double acc = j->parts[output];
  int64_t s;
  (void)thread;
  for (s = 1; s < j->slices; s++) tfpi_fold_in(j->kind, &acc, j->parts[s * j->kept.n + output]);
  tfpi_fold_store(j, output, acc);
}
/* Sorts the axes of x into kept and folded ones; a and b are more inputs of x's shape or NULL. */
static void tfpi_fold_axes(tfpi_axes *kept, tfpi_axes *folded, const tfp_tensor *x,
                           const tfp_tensor *a, const tfp_tensor *b, const tfp_tensor *y) {
  int i;
  tfpi_axes_start(kept);
  tfpi_axes_start(folded);
  for (i = 0; i < x->ndim; i++) {
    const int is_kept = y->shape[i] == x->shape[i];
    int64_t stride[TFPI_OPERANDS];
    stride[0] = x->stride[i];
    stride[1] = a ? a->stride[i] : 0;
    stride[2] = b ? b->stride[i] : 0;
    stride[3] = is_kept ? y->stride[i] : 0;
    tfpi_axes_add(is_kept ? kept : folded, x->shape[i], stride);
  }
}
static void tfpi_fold(tfp_ctx *ctx, tfpi_fold_job *j) {
  const int64_t K = j->kept.n, R = j->folded.n;
  const int64_t most = tfpi_max64(1, TFPI_PARTS / tfpi_max64(K, 1));
  const int64_t worth = TFPI_TASK / tfpi_max64(1, tfpi_min64(K, TFPI_BLOCK));
  double parts[TFPI_PARTS];
  j->across = tfpi_axes_step(&j->kept)[0] <= tfpi_axes_step(&j->folded)[0] && K > 1;
  j->slice = tfpi_max64(worth, tfpi_ceil_div(R, most));
  j->slices = tfpi_max64(1, tfpi_ceil_div(R, j->slice));
  j->outputs = tfpi_max64(TFPI_BLOCK, TFPI_TASK / tfpi_max64(1, tfpi_min64(R, j->slice)));
  j->parts = parts;
  tfpi_parallel(ctx, tfpi_ceil_div(K, j->outputs) * j->slices, tfpi_fold_task, j);
  if (j->slices > 1) tfpi_parallel(ctx, K, tfpi_fold_combine, j);
}

/* dy times the derivative of a op b in operand `kind % 2`, op being kind / 2. */
static void tfpi_binary_bwd_values(const void *v, const int64_t *at, const int64_t *step, int64_t n,
                                   tfp_real *out) {
  const tfpi_each_args *e = (const tfpi_each_args *)v;
  const tfp_real *dy = (const tfp_real *)e->d + at[0];
  const tfp_real *a = (const tfp_real *)e->a + at[1], *b = (const tfp_real *)e->b + at[2];
  const int64_t ds = step[0], as = step[1], bs = step[2];
  int64_t i;
  switch (e->kind) {
    case 2 * TFPI_SUB + 1: for (i = 0; i < n; i++) out[i] = -dy[i * ds]; break;
    case 2 * TFPI_MUL + 0: for (i = 0; i < n; i++) out[i] = dy[i * ds] * b[i * bs]; break;
    case 2 * TFPI_MUL + 1: for (i = 0; i < n; i++) out[i] = dy[i * ds] * a[i * as]; break;
    case 2 * TFPI_DIV + 0: for (i = 0; i < n; i++) out[i] = dy[i * ds] / b[i * bs]; break;
    case 2 * TFPI_DIV + 1: /* y = a/b     dy/db = -(a/b)/b, which overflows later than a/b^2 */
      for (i = 0; i < n; i++) out[i] = -dy[i * ds] * (a[i * as] / b[i * bs]) / b[i * bs];
      break;
    default: for (i = 0; i < n; i++) out[i] = dy[i * ds];
  }
}
static void tfpi_binary_bwd_plain(tfp_ctx *ctx, tfpi_binary_kind kind, int which, tfp_tensor *d,
                                  const tfp_tensor *dy, const tfp_tensor *a, const tfp_tensor *b,
                                  int accumulate) {
  const tfpi_each_args e = tfpi_each_open(2 * (int)kind + which, 0, d, a, b, dy, 0);
  tfpi_fold_job j;
  tfpi_fold_axes(&j.kept, &j.folded, dy, a, b, d);
  j.value = tfpi_binary_bwd_values, j.args = &e, j.y = tfpi_data(d);
  j.kind = TFPI_SUM, j.accumulate = accumulate;
  tfpi_fold(ctx, &j);
}

static void tfpi_reduce_values(const void *v, const int64_t *at, const int64_t *step, int64_t n,
                               tfp_real *out) {
  const tfp_real *x = (const tfp_real *)v + at[0];
  int64_t i;
  for (i = 0; i < n; i++) out[i] = x[i * step[0]];
}
static void tfpi_reduce_plain(tfp_ctx *ctx, tfpi_reduce_kind kind, tfp_tensor *y,
                              const tfp_tensor *x, int accumulate) {
  tfpi_fold_job j;
  tfpi_fold_axes(&j.kept, &j.folded, x, NULL, NULL, y);
  j.value = tfpi_reduce_values, j.args = x->data, j.y = tfpi_data(y);
  j.kind = kind, j.accumulate = accumulate;
  tfpi_fold(ctx, &j);
}

/* y = sum x: dx = dy     y = mean x: dx = dy / R (c is the factor) */
static void tfpi_spread_stretch(const void *v, const int64_t *at, const int64_t *step, int64_t n) {
  const tfpi_each_args *e = (const tfpi_each_args *)v;
  tfp_real *dx = (tfp_real *)e->y + at[0];
  const tfp_real *dy = (const tfp_real *)e->a + at[1];
  int64_t i;
  for (i = 0; i < n; i++)
    tfpi_put(dx + i * step[0], dy[i * step[1]] * (tfp_real)e->c, e->accumulate);
}
/* y = max x: dx = dy at the first x that is y, 0 elsewhere. Operands x, dx, dy and y. */
typedef struct tfpi_max_bwd_job {
  tfpi_axes kept, folded;
  const tfp_real *x, *dy, *y;
  tfp_real *dx;
  int accumulate;
  int64_t outputs;
} tfpi_max_bwd_job;
static void tfpi_max_bwd_task(void *v, int64_t task, int thread) {
  const tfpi_max_bwd_job *j = (const tfpi_max_bwd_job *)v;
  const int64_t end = tfpi_min64((task + 1) * j->outputs, j->kept.n);
  const int64_t xs = tfpi_axes_step(&j->folded)[0], ds = tfpi_axes_step(&j->folded)[1];
  int64_t o, r, n, i;
  (void)thread;
  for (o = task * j->outputs; o < end; o++) {
    int64_t at[TFPI_OPERANDS] = {0, 0, 0, 0};
    int found = 0;
    tfpi_axes_at(&j->kept, o, at);
    for (r = 0; r < j->folded.n; r += n) {
      int64_t here[TFPI_OPERANDS];
      memcpy(here, at, sizeof here);
      n = tfpi_axes_at(&j->folded, r, here);
      for (i = 0; i < n; i++) {
        const tfp_real x = j->x[here[0] + i * xs], y = j->y[at[3]];
        const int first = !found && (x == y || (x != x && y != y));
        tfpi_put(j->dx + here[1] + i * ds, first ? j->dy[at[2]] : 0, j->accumulate);
        found |= first;
      }
    }
  }
}
static void tfpi_reduce_bwd_plain(tfp_ctx *ctx, tfpi_reduce_kind kind, tfp_tensor *dx,
                                  const tfp_tensor *dy, const tfp_tensor *x, const tfp_tensor *y,
                                  int accumulate) {
  const int64_t R = tfp_numel(y) ? tfp_numel(x) / tfp_numel(y) : 0;
  if (kind == TFPI_MAX) {
    const tfp_tensor wide = tfpi_expanded(dy, x);
    tfpi_max_bwd_job j;
    tfpi_fold_axes(&j.kept, &j.folded, x, dx, &wide, y);
    j.x = tfpi_data(x), j.dx = tfpi_data(dx), j.dy = tfpi_data(dy), j.y = tfpi_data(y);
    j.accumulate = accumulate, j.outputs = tfpi_max64(1, TFPI_TASK / tfpi_max64(R, 1));
    tfpi_parallel(ctx, tfpi_ceil_div(j.kept.n, j.outputs), tfpi_max_bwd_task, &j);
  } else {
    const tfp_tensor wide = tfpi_expanded(dy, x);
    const double factor = kind == TFPI_MEAN ? 1 / (double)R : 1;
    const tfpi_each_args e = tfpi_each_open((int)kind, accumulate, dx, dy, NULL, NULL, factor);
    tfpi_each(ctx, tfpi_spread_stretch, &e, dx, &wide, NULL, NULL);
  }
}

/* ---- kernels that work row by row ---- */

typedef void (*tfpi_rows_fn)(const void *args, int64_t first, int64_t end);
typedef struct tfpi_rows_job {
  tfpi_rows_fn fn;
  const void *args;
  int64_t rows, per_task;
} tfpi_rows_job;
static void tfpi_rows_task(void *v, int64_t task, int thread) {
  const tfpi_rows_job *j = (const tfpi_rows_job *)v;
  (void)thread;
  j->fn(j->args, task * j->per_task, tfpi_min64((task + 1) * j->per_task, j->rows));
}
/* Calls fn for ranges of rows that have `length` elements each. */
static void tfpi_over_rows(tfp_ctx *ctx, int64_t rows, int64_t length, tfpi_rows_fn fn,
                           const void *args) {
  tfpi_rows_job j;
  j.fn = fn, j.args = args, j.rows = rows;
  j.per_task = tfpi_max64(1, TFPI_TASK / tfpi_max64(length, 1));
  tfpi_parallel(ctx, tfpi_ceil_div(rows, j.per_task), tfpi_rows_task, &j);
}

/* ---- rows of tables ---- */

typedef struct tfpi_gather_args {
  tfp_real *y;
  int count;
  const tfp_tensor *const *tables, *const *ids;
  int64_t C;
} tfpi_gather_args;
static void tfpi_gather_rows(const void *v, int64_t first, int64_t end) {
  const tfpi_gather_args *g = (const tfpi_gather_args *)v;
  const int64_t C = g->C;
  int64_t r, c;
  int k;
  for (r = first; r < end; r++) {
    tfp_real *y = g->y + r * C;
    for (k = 0; k < g->count; k++) {
      const tfp_real *row = tfpi_data(g->tables[k]) + (int64_t)tfpi_ints(g->ids[k])[r] * C;
      for (c = 0; c < C; c++) y[c] = k ? y[c] + row[c] : row[c];
    }
  }
}
static void tfpi_gather_plain(tfp_ctx *ctx, tfp_tensor *y, int count,
                              const tfp_tensor *const *tables, const tfp_tensor *const *ids) {
  tfpi_gather_args g;
  g.y = tfpi_data(y), g.count = count, g.tables = tables, g.ids = ids, g.C = tfpi_row_length(y);
  tfpi_over_rows(ctx, tfpi_row_count(y), g.C * count, tfpi_gather_rows, &g);
}

/* y[r] = table[id[r]]: dtable[id[r]] += dy[r]. A task has a block of the columns, and goes through
 * the ids in order: no two tasks touch the same number. */
typedef struct tfpi_scatter_args {
  tfp_real *d;
  const tfp_real *dy;
  const int32_t *ids;
  int64_t rows, n, C, skip;
  int accumulate;
} tfpi_scatter_args;
static void tfpi_scatter_columns(void *v, int64_t task, int thread) {
  const tfpi_scatter_args *g = (const tfpi_scatter_args *)v;
  const int64_t C = g->C, c0 = task * TFPI_BLOCK, c1 = tfpi_min64(c0 + TFPI_BLOCK, C);
  int64_t r, i, c;
  (void)thread;
  for (r = 0; r < g->rows && !g->accumulate; r++)
    for (c = c0; c < c1; c++) g->d[r * C + c] = 0;
  for (i = 0; i < g->n; i++) {
    const int64_t id = g->ids[i];
    if (id == g->skip) continue;
    for (c = c0; c < c1; c++) g->d[id * C + c] += g->dy[i * C + c];
  }
}
static void tfpi_scatter_add_plain(tfp_ctx *ctx, tfp_tensor *dtable, const tfp_tensor *dy,
                                   const tfp_tensor *ids, int64_t skip, int accumulate) {
  tfpi_scatter_args g;
  g.d = tfpi_data(dtable), g.dy = tfpi_data(dy), g.ids = tfpi_ints(ids);
  g.rows = dtable->shape[0], g.n = tfp_numel(ids), g.C = dtable->shape[1], g.skip = skip;
  g.accumulate = accumulate;
  tfpi_parallel(ctx, tfpi_ceil_div(g.C, TFPI_BLOCK), tfpi_scatter_columns, &g);
}

/* ---- softmax ---- */

typedef struct tfpi_softmax_args {
  tfp_tensor *out;
  const tfp_tensor *x, *y, *dy;
  int log_form, accumulate;
} tfpi_softmax_args;

/* The largest of n numbers; NaN if one is among them, -INFINITY if there are none. */
static tfp_real tfpi_row_max(const tfp_real *x, int64_t n) {
  tfp_real top = (tfp_real)-INFINITY;
  int64_t i;
  for (i = 0; i < n; i++)
    if (x[i] > top || x[i] != x[i]) top = x[i];
  return top;
}
/* y = exp(x) / sum exp(x), or y = x - log(sum exp(x)); the largest x is taken off first. */
static void tfpi_softmax_rows(const void *v, int64_t first, int64_t end) {
  const tfpi_softmax_args *g = (const tfpi_softmax_args *)v;
  const int64_t C = tfpi_row_length(g->out);
  int64_t r, c;
  for (r = first; r < end; r++) {
    const tfp_real *x = tfpi_row(g->x, r), top = tfpi_row_max(x, C);
    tfp_real *y = tfpi_row(g->out, r), sum = 0, log_sum;
    if (top == (tfp_real)-INFINITY) { /* nothing is possible */
      for (c = 0; c < C; c++) y[c] = g->log_form ? top : 0;
      continue;
    }
    for (c = 0; c < C; c++) sum += tfpi_mexp(x[c] - top);
    log_sum = tfpi_mlog(sum);
    for (c = 0; c < C; c++) y[c] = g->log_form ? x[c] - top - log_sum : tfpi_mexp(x[c] - top) / sum;
  }
}
static void tfpi_softmax_plain(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x, int log_form) {
  tfpi_softmax_args g;
  memset(&g, 0, sizeof g);
  g.out = y, g.x = x, g.log_form = log_form;
  tfpi_over_rows(ctx, tfpi_row_count(y), tfpi_row_length(y), tfpi_softmax_rows, &g);
}
/* y = softmax x: dx = y (dy - sum(dy y))     y = log softmax x: dx = dy - exp(y) sum(dy) */
static void tfpi_softmax_bwd_rows(const void *v, int64_t first, int64_t end) {
  const tfpi_softmax_args *g = (const tfpi_softmax_args *)v;
  const int64_t C = tfpi_row_length(g->y);
  int64_t r, c;
  for (r = first; r < end; r++) {
    const tfp_real *y = tfpi_row(g->y, r), *dy = tfpi_row(g->dy, r);
    tfp_real *dx = tfpi_row(g->out, r), sum = 0;
    for (c = 0; c < C; c++) sum += g->log_form ? dy[c] : dy[c] * y[c];
    for (c = 0; c < C; c++) {
      const tfp_real d = g->log_form ? dy[c] - tfpi_mexp(y[c]) * sum : y[c] * (dy[c] - sum);
      tfpi_put(dx + c, d, g->accumulate);
    }
  }
}
static void tfpi_softmax_bwd_plain(tfp_ctx *ctx, tfp_tensor *dx, const tfp_tensor *dy,
                                   const tfp_tensor *y, int log_form, int accumulate) {
  tfpi_softmax_args g;
  g.out = dx, g.x = NULL, g.y = y, g.dy = dy, g.log_form = log_form, g.accumulate = accumulate;
  tfpi_over_rows(ctx, tfpi_row_count(dx), tfpi_row_length(dx), tfpi_softmax_bwd_rows, &g);
}

/* ---- norms ---- */

/* y = g (x - mu) / sigma + b, sigma = sqrt(var + eps); mu and var over the row (mu = 0 for rms) */
static void tfpi_norm_rows(const void *v, int64_t first, int64_t end) {
  const tfpi_norm_args *a = (const tfpi_norm_args *)v;
  const int64_t C = tfpi_row_length(a->y);
  const tfp_real *g = tfpi_data(a->g), *b = a->b ? tfpi_data(a->b) : NULL;
  int64_t r, c;
  for (r = first; r < end; r++) {
    const tfp_real *x = tfpi_data(a->x) + r * C;
    tfp_real *y = tfpi_data(a->y) + r * C, *stats = tfpi_data(a->stats) + 2 * r;
    tfp_real mu, rstd;
    double mean = 0, var = 0;
    if (a->residual) {
      const tfp_real *residual = tfpi_data(a->residual) + r * C;
      tfp_real *sum = tfpi_data(a->sum) + r * C;
      for (c = 0; c < C; c++) sum[c] = x[c] + residual[c];
      x = sum;
    }
    for (c = 0; c < C && !a->rms; c++) mean += (double)x[c];
    mu = (tfp_real)(mean / (double)C);
    for (c = 0; c < C; c++) var += (double)(x[c] - mu) * (double)(x[c] - mu);
    rstd = (tfp_real)(1 / sqrt(var / (double)C + a->eps));
    for (c = 0; c < C; c++) y[c] = (x[c] - mu) * rstd * g[c] + (b ? b[c] : 0);
    stats[0] = mu, stats[1] = rstd;
  }
}
static void tfpi_norm_plain(tfp_ctx *ctx, const tfpi_norm_args *a) {
  tfpi_over_rows(ctx, tfpi_row_count(a->y), tfpi_row_length(a->y), tfpi_norm_rows, a);
}

/* One slice of rows: d of each, and its part of dg and db. With n = (x - mu) / sigma:
 *   y = g n + b      dg = sum dy n     db = sum dy     dn = g dy
 *   n = (x - mu) / sigma               dx = (dn - mean(dn) - n mean(dn n)) / sigma
 * For rms, mean(dn) drops out with mu. */
static void tfpi_norm_bwd_slice(void *v, int64_t slice, int thread) {
  const tfpi_norm_bwd_args *a = (const tfpi_norm_bwd_args *)*(const void **)v;
  const int64_t C = tfpi_row_length(a->in), rows = a->stats->shape[0];
  const int64_t end = tfpi_min64((slice + 1) * TFPI_NORM_SLICE, rows);
  const tfp_real *g = tfpi_data(a->g);
  tfp_real *dg = tfpi_data(a->work) + slice * 2 * C, *db = dg + C;
  int64_t r, c;
  (void)thread;
  for (c = 0; c < 2 * C; c++) dg[c] = 0;
  for (r = slice * TFPI_NORM_SLICE; r < end; r++) {
    const tfp_real *x = tfpi_data(a->in) + r * C, *dy = a->dy ? tfpi_data(a->dy) + r * C : NULL;
    const tfp_real *dsum = a->dsum ? tfpi_data(a->dsum) + r * C : NULL;
    const tfp_real mu = tfpi_data(a->stats)[2 * r], rstd = tfpi_data(a->stats)[2 * r + 1];
    tfp_real mean = 0, mean_n = 0;
    for (c = 0; c < C && dy; c++) {
      const tfp_real n = (x[c] - mu) * rstd, dn = g[c] * dy[c];
      dg[c] += dy[c] * n;
      db[c] += dy[c];
      mean += dn;
      mean_n += dn * n;
    }
    mean = a->rms ? 0 : mean / (tfp_real)C;
    mean_n /= (tfp_real)C;
    for (c = 0; c < C; c++) {
      const tfp_real n = (x[c] - mu) * rstd;
      tfp_real d = dy ? (g[c] * dy[c] - mean - n * mean_n) * rstd : 0;
      if (dsum) d += dsum[c];
      if (a->dx) tfpi_put(tfpi_data(a->dx) + r * C + c, d, a->dx_accumulate);
      if (a->dres) tfpi_put(tfpi_data(a->dres) + r * C + c, d, a->dres_accumulate);
    }
  }
}
/* A block of columns of dg and db, from the slices in their order. */
static void tfpi_norm_bwd_columns(void *v, int64_t task, int thread) {
  const tfpi_norm_bwd_args *a = (const tfpi_norm_bwd_args *)*(const void **)v;
  const int64_t C = tfpi_row_length(a->in), slices = tfpi_norm_slices(a->stats->shape[0]);
  const int64_t end = tfpi_min64((task + 1) * TFPI_BLOCK, C);
  int64_t s, c;
  (void)thread;
  for (c = task * TFPI_BLOCK; c < end; c++) {
    tfp_real dg = 0, db = 0;
    for (s = 0; s < slices; s++) {
      const tfp_real *part = tfpi_data(a->work) + s * 2 * C;
      dg += part[c];
      db += part[C + c];
    }
    if (a->dg) tfpi_put(tfpi_data(a->dg) + c, dg, a->dg_accumulate);
    if (a->db) tfpi_put(tfpi_data(a->db) + c, db, a->db_accumulate);
  }
}
static void tfpi_norm_bwd_plain(tfp_ctx *ctx, const tfpi_norm_bwd_args *a) {
  const int64_t C = tfpi_row_length(a->in);
  const void *job = a;
  tfpi_parallel(ctx, tfpi_norm_slices(a->stats->shape[0]), tfpi_norm_bwd_slice, &job);
  if (a->dg || a->db) tfpi_parallel(ctx, tfpi_ceil_div(C, TFPI_BLOCK), tfpi_norm_bwd_columns, &job);
}

/* ---- dropout ---- */

/* The factors of n numbers whose draws stand at index, index+1, ...: 0 if dropped, else 1/(1-p). */
static void tfpi_dropout_factors(uint64_t seed, uint64_t stream, uint64_t index, double p,
                                 int64_t n, tfp_real *factor) {
  const tfp_real kept = (tfp_real)(1 / (1 - p));
  uint32_t word[4] = {0, 0, 0, 0};
  int64_t i;
  for (i = 0; i < n; i++, index++) { /* tfp_random_uniform, with one Philox block for four draws */
    if (i == 0 || index % 4 == 0) tfpi_philox(seed, stream, index / 4, word);
    factor[i] = (double)(word[index % 4] >> 8) * (1.0 / 16777216.0) < p ? 0 : kept;
  }
}
typedef struct tfpi_dropout_args {
  tfp_tensor *y;
  const tfp_tensor *x;
  double p;
  uint64_t seed, stream, example;
  int accumulate;
} tfpi_dropout_args;
static void tfpi_dropout_rows(const void *v, int64_t first, int64_t end) {
  const tfpi_dropout_args *a = (const tfpi_dropout_args *)v;
  const int64_t T = a->x->shape[1], C = a->x->shape[2], ys = a->y->stride[2], xs = a->x->stride[2];
  tfp_real factor[TFPI_BLOCK];
  int64_t r, c, i;
  for (r = first; r < end; r++) { /* r = b T + t */
    const uint64_t index = tfpi_draw_index(a->example + (uint64_t)(r / T), r % T, 0);
    const tfp_real *x = tfpi_row(a->x, r);
    tfp_real *y = tfpi_row(a->y, r);
    for (c = 0; c < C; c += TFPI_BLOCK) {
      const int64_t n = tfpi_min64(TFPI_BLOCK, C - c);
      tfpi_dropout_factors(a->seed, a->stream, index + (uint64_t)c, a->p, n, factor);
      for (i = 0; i < n; i++) {
        const tfp_real kept = factor[i] != 0 ? x[(c + i) * xs] * factor[i] : 0;
        tfpi_put(y + (c + i) * ys, kept, a->accumulate);
      }
    }
  }
}
static void tfpi_dropout_plain(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x, double p,
                               uint64_t stream, int accumulate) {
  tfpi_dropout_args a;
  a.y = y, a.x = x, a.p = p, a.stream = stream, a.accumulate = accumulate;
  a.seed = ctx->desc.seed, a.example = ctx->now.example;
  tfpi_over_rows(ctx, tfpi_row_count(x), tfpi_row_length(x), tfpi_dropout_rows, &a);
}

/* ---- cross-entropy ---- */

enum { TFPI_XENT_ROWS = 256 }; /* rows whose losses wait for their turn on the stack */

/* -log softmax(x)[label] = log(sum exp(x - top)) + top - x[label]; gives top and the sum too. */
static double tfpi_xent_loss(const tfp_real *x, int64_t V, int32_t label, tfp_real *top,
                             tfp_real *sum) {
  int64_t j;
  *top = tfpi_row_max(x, V);
  *sum = 0;
  for (j = 0; j < V; j++) *sum += tfpi_mexp(x[j] - *top);
  return (double)(tfpi_mlog(*sum) + (*top - x[label]));
}
/* linear_xent's step on one row: returns the loss, and x becomes scale (softmax(x) - onehot). */
static double tfpi_xent_row_plain(tfp_real *x, int64_t V, int32_t label, float scale) {
  tfp_real top, sum;
  const double loss = tfpi_xent_loss(x, V, label, &top, &sum);
  int64_t j;
  for (j = 0; j < V; j++) x[j] = tfpi_mexp(x[j] - top) / sum * (tfp_real)scale;
  x[label] -= (tfp_real)scale;
  return loss;
}

typedef struct tfpi_xent_args {
  const tfp_tensor *logits, *labels;
  tfp_tensor *dlogits;
  tfp_real factor;
  int accumulate;
  int64_t start; /* loss[r - start] is for row r */
  double *loss;
} tfpi_xent_args;
static int32_t tfpi_label(const tfp_tensor *labels, int64_t r) {
  return tfpi_ints(labels)[tfpi_offset(labels, labels->ndim, r)];
}
static void tfpi_xent_rows(const void *v, int64_t first, int64_t end) {
  const tfpi_xent_args *a = (const tfpi_xent_args *)v;
  int64_t r;
  for (r = a->start + first; r < a->start + end; r++) {
    const int32_t label = tfpi_label(a->labels, r);
    tfp_real top, sum;
    a->loss[r - a->start] = 0;
    if (label == TFP_IGNORE_INDEX) continue;
    a->loss[r - a->start] = tfpi_xent_loss(tfpi_row(a->logits, r), a->logits->shape[1], label, &top,
                                           &sum);
  }
}
static void tfpi_xent_plain(tfp_ctx *ctx, tfp_tensor *loss, const tfp_tensor *logits,
                            const tfp_tensor *labels, const float *scale) {
  const unsigned mode = tfpi_float_enter();
  const int64_t N = logits->shape[0], V = logits->shape[1];
  double row_loss[TFPI_XENT_ROWS], sum = 0;
  tfpi_xent_args a;
  int64_t i;
  memset(&a, 0, sizeof a);
  a.logits = logits, a.labels = labels, a.loss = row_loss;
  for (a.start = 0; a.start < N; a.start += TFPI_XENT_ROWS) {
    const int64_t n = tfpi_min64(TFPI_XENT_ROWS, N - a.start);
    tfpi_over_rows(ctx, n, V, tfpi_xent_rows, &a);
    for (i = 0; i < n; i++) sum += row_loss[i];
  }
  *tfpi_data(loss) = (tfp_real)(sum * (double)*scale);
  tfpi_float_leave(mode);
}
/* loss = scale sum -log softmax(x)[label]: dx = dloss scale (softmax(x) - onehot(label)) */
static void tfpi_xent_bwd_rows(const void *v, int64_t first, int64_t end) {
  const tfpi_xent_args *a = (const tfpi_xent_args *)v;
  const int64_t V = a->logits->shape[1];
  int64_t r, j;
  for (r = first; r < end; r++) {
    const int32_t label = tfpi_label(a->labels, r);
    const tfp_real *x = tfpi_row(a->logits, r);
    tfp_real *dx = tfpi_row(a->dlogits, r), top = 0, sum = 1;
    if (label == TFP_IGNORE_INDEX) {
      for (j = 0; j < V && !a->accumulate; j++) dx[j] = 0;
      continue;
    }
    tfpi_xent_loss(x, V, label, &top, &sum);
    for (j = 0; j < V; j++) {
      const tfp_real p = tfpi_mexp(x[j] - top) / sum;
      tfpi_put(dx + j, a->factor * (j == label ? p - 1 : p), a->accumulate);
    }
  }
}
static void tfpi_xent_bwd_plain(tfp_ctx *ctx, tfp_tensor *dlogits, const tfp_tensor *logits,
                                const tfp_tensor *labels, const tfp_tensor *dloss,
                                const float *scale, int accumulate) {
  tfpi_xent_args a;
  memset(&a, 0, sizeof a);
  a.logits = logits, a.labels = labels, a.dlogits = dlogits, a.accumulate = accumulate;
  a.factor = *tfpi_data(dloss) * (tfp_real)*scale;
  tfpi_over_rows(ctx, logits->shape[0], logits->shape[1], tfpi_xent_bwd_rows, &a);
}

/* ---- matmul ----
 * A task computes a tile of C. What it needs of B is copied into a panel, TILE_K rows at a time, in
 * which columns are neighbours whatever B's strides are: one loop does for every transpose. The sum
 * over k runs in order. */
enum { TFPI_TILE_M = 16, TFPI_TILE_N = 32, TFPI_TILE_K = 64, TFPI_LANES = 16 };
typedef struct tfpi_matmul_job {
  const tfpi_matmul_args *g;
  int64_t M, N, K, tiles_m, tiles_n;
} tfpi_matmul_job;

/* acc (m,TILE_N) += a (m,k; strides am, ak) @ panel (k,TILE_N) */
static void tfpi_tile_multiply(tfp_real *acc, const tfp_real *a, int64_t am, int64_t ak,
                               const tfp_real *panel, int64_t m, int64_t kn) {
  int64_t i, j, k;
  int lane;
  for (i = 0; i < m; i++)
    for (j = 0; j < TFPI_TILE_N; j += TFPI_LANES) {
      tfp_real *c = acc + i * TFPI_TILE_N + j, sum[TFPI_LANES];
      for (lane = 0; lane < TFPI_LANES; lane++) sum[lane] = c[lane];
      for (k = 0; k < kn; k++) {
        const tfp_real x = a[i * am + k * ak], *b = panel + k * TFPI_TILE_N + j;
        for (lane = 0; lane < TFPI_LANES; lane++) sum[lane] += x * b[lane];
      }
      for (lane = 0; lane < TFPI_LANES; lane++) c[lane] = sum[lane];
    }
}
/* panel[k][j] = b[k][j] for k < kn, j < n; 0 in the columns behind. */
static void tfpi_tile_pack(tfp_real *panel, const tfp_real *b, int64_t bk, int64_t bn, int64_t kn,
                           int64_t n) {
  int64_t k, j;
  for (k = 0; k < kn; k++)
    for (j = 0; j < TFPI_TILE_N; j++)
      panel[k * TFPI_TILE_N + j] = j < n ? b[k * bk + j * bn] : 0;
}
static void tfpi_matmul_tile(void *v, int64_t task, int thread) {
  const tfpi_matmul_job *w = (const tfpi_matmul_job *)v;
  const tfpi_matmul_args *g = w->g;
  const int nd = g->c->ndim;
  const int64_t n0 = task % w->tiles_n * TFPI_TILE_N;
  const int64_t m0 = task / w->tiles_n % w->tiles_m * TFPI_TILE_M;
  const int64_t batch = task / w->tiles_n / w->tiles_m;
  const int64_t m = tfpi_min64(TFPI_TILE_M, w->M - m0), n = tfpi_min64(TFPI_TILE_N, w->N - n0);
  const int64_t am = g->a->stride[nd - 2], ak = g->a->stride[nd - 1];
  const int64_t bk = g->b->stride[nd - 2], bn = g->b->stride[nd - 1];
  const tfp_real *a = tfpi_data(g->a) + tfpi_offset(g->a, nd - 2, batch) + m0 * am;
  const tfp_real *b = tfpi_data(g->b) + tfpi_offset(g->b, nd - 2, batch) + n0 * bn;
  tfp_real acc[TFPI_TILE_M * TFPI_TILE_N], panel[TFPI_TILE_K * TFPI_TILE_N];
  int64_t i, j, k;
  (void)thread;
  for (i = 0; i < m * TFPI_TILE_N; i++) acc[i] = 0;
  for (k = 0; k < w->K; k += TFPI_TILE_K) {
    const int64_t kn = tfpi_min64(TFPI_TILE_K, w->K - k);
    tfpi_tile_pack(panel, b + k * bk, bk, bn, kn, n);
    tfpi_tile_multiply(acc, a + k * ak, am, ak, panel, m, kn);
  }
  for (i = 0; i < m; i++) {
    const int64_t row = batch * w->M + m0 + i;
    tfp_real *c = tfpi_row(g->c, row) + n0;
    tfp_real *before = g->before ? tfpi_row(g->before, row) + n0 : NULL;
    for (j = 0; j < n; j++) {
      tfp_real sum = acc[i * TFPI_TILE_N + j];
      if (g->accumulate) sum += c[j];
      if (g->bias) sum += tfpi_data(g->bias)[(n0 + j) * g->bias->stride[0]];
      if (before) before[j] = sum;
      if (g->activation != TFPI_NO_ACTIVATION)
        sum = tfpi_unary_value((tfpi_unary_kind)g->activation, sum, 0);
      c[j] = sum;
    }
  }
}
static void tfpi_matmul_plain(tfp_ctx *ctx, const tfpi_matmul_args *g) {
  const int nd = g->c->ndim;
  tfpi_matmul_job w;
  int64_t batches = 1;
  int i;
  for (i = 0; i < nd - 2; i++) batches *= g->c->shape[i];
  w.g = g;
  w.M = g->c->shape[nd - 2], w.N = g->c->shape[nd - 1], w.K = g->a->shape[nd - 1];
  w.tiles_m = tfpi_ceil_div(w.M, TFPI_TILE_M), w.tiles_n = tfpi_ceil_div(w.N, TFPI_TILE_N);
  tfpi_parallel(ctx, batches * w.tiles_m * w.tiles_n, tfpi_matmul_tile, &w);
}

/* ---- attention ----
 * Keys go by in blocks. The softmax of a row is put together from them with a running maximum and
 * sum (Milakov and Gimelshein 2018; Dao et al. 2022), so that no row of scores is ever whole. */

/* One head of one example, with what decides which pairs are hidden. */
typedef struct tfpi_head {
  const tfpi_attention_args *a;
  int64_t b, h, H, T, S, D;
  const int32_t *mask, *q_doc, *k_doc; /* (S) (T) (S) or NULL */
  uint64_t seed, example;
} tfpi_head;
typedef struct tfpi_attention_job {
  const tfp_ctx *ctx;
  const tfpi_attention_args *a;
} tfpi_attention_job;
static void tfpi_head_open(tfpi_head *w, const tfpi_attention_job *j, int64_t b, int64_t h) {
  const tfpi_attention_args *a = j->a;
  w->a = a, w->b = b, w->h = h;
  w->H = a->q->shape[1], w->T = a->q->shape[2], w->S = a->k->shape[2], w->D = a->q->shape[3];
  w->mask = a->mask ? tfpi_ints(a->mask) + b * w->S : NULL;
  w->q_doc = a->q_doc ? tfpi_ints(a->q_doc) + b * w->T : NULL;
  w->k_doc = a->k_doc ? tfpi_ints(a->k_doc) + b * w->S : NULL;
  w->seed = j->ctx->desc.seed, w->example = j->ctx->now.example;
}
/* Row i of this head in a (B,H,rows,D) tensor. */
TFPI_INLINE tfp_real *tfpi_head_row(const tfpi_head *w, const tfp_tensor *t, int64_t i) {
  return tfpi_data(t) + w->b * t->stride[0] + w->h * t->stride[1] + i * t->stride[2];
}
/* Keys before this one are the only ones that query i may see. */
static int64_t tfpi_head_end(const tfpi_head *w, int64_t i) {
  return w->a->causal ? tfpi_max64(0, tfpi_min64(w->S, i + w->S - w->T + 1)) : w->S;
}
/* a . b, in eight sums that a compiler can keep side by side */
static tfp_real tfpi_dot(const tfp_real *a, const tfp_real *b, int64_t n) {
  tfp_real s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  int64_t i;
  int lane;
  for (i = 0; i + 8 <= n; i += 8)
    for (lane = 0; lane < 8; lane++) s[lane] += a[i + lane] * b[i + lane];
  for (; i < n; i++) s[0] += a[i] * b[i];
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}
/* s[j - j0] = scores of query i over the keys [j0,j1), -INFINITY for a hidden pair. *seen is the
 * number of visible keys of the mask before j0, and then before j1. */
static void tfpi_head_scores(const tfpi_head *w, int64_t i, int64_t j0, int64_t j1, int64_t *seen,
                             tfp_real *s) {
  const tfpi_attention_args *a = w->a;
  const tfp_real *q = tfpi_head_row(w, a->q, i), scale = (tfp_real)a->scale;
  const tfp_real *rel = a->rel ? tfpi_data(a->rel) + w->h * (w->T + w->S - 1) : NULL;
  const tfp_real slope = a->slopes ? tfpi_data(a->slopes)[w->h] : 0;
  int64_t j;
  for (j = j0; j < j1; j++) {
    const int in_mask = !w->mask || w->mask[j] != 0;
    tfp_real score = (tfp_real)-INFINITY;
    if (in_mask && (!w->q_doc || w->q_doc[i] == w->k_doc[j])) {
      score = scale * tfpi_dot(q, tfpi_head_row(w, a->k, j), w->D);
      if (a->slopes) score += slope * (tfp_real)*seen;
      if (rel) score += rel[j - i + w->T - 1];
    }
    s[j - j0] = score;
    *seen += in_mask;
  }
}
/* keep[j - j0] = what dropout makes of the weight of (i,j): 0 or 1/(1-p). */
static void tfpi_head_keep(const tfpi_head *w, int64_t i, int64_t j0, int64_t j1, tfp_real *keep) {
  int64_t j;
  if (w->a->dropout > 0) {
    const uint64_t index = tfpi_draw_index(w->example + (uint64_t)w->b, i, j0);
    const uint64_t stream = w->a->stream + (uint64_t)w->h;
    tfpi_dropout_factors(w->seed, stream, index, w->a->dropout, j1 - j0, keep);
  } else {
    for (j = 0; j < j1 - j0; j++) keep[j] = 1;
  }
}

/* One query: o = sum_j exp(s_j - top) keep_j v_j / sum_j exp(s_j - top) */
static void tfpi_attention_row(void *v, int64_t task, int thread) {
  const tfpi_attention_job *job = (const tfpi_attention_job *)v;
  const int64_t H = job->a->q->shape[1], T = job->a->q->shape[2], i = task % T;
  tfpi_head w;
  tfp_real s[TFPI_BLOCK], keep[TFPI_BLOCK], top = (tfp_real)-INFINITY, sum = 0, *o;
  int64_t j0, j, d, end, seen = 0;
  (void)thread;
  tfpi_head_open(&w, job, task / T / H, task / T % H);
  o = tfpi_head_row(&w, job->a->o, i);
  end = tfpi_head_end(&w, i);
  for (d = 0; d < w.D; d++) o[d] = 0;
  for (j0 = 0; j0 < end; j0 += TFPI_BLOCK) {
    const int64_t n = tfpi_min64(TFPI_BLOCK, end - j0);
    tfp_real block_top, fade;
    /* 1. scores, and the largest so far */
    tfpi_head_scores(&w, i, j0, j0 + n, &seen, s);
    block_top = tfpi_row_max(s, n);
    if (block_top == (tfp_real)-INFINITY) continue;
    /* 2. what was summed under a smaller maximum shrinks */
    if (block_top > top || block_top != block_top) {
      fade = top == (tfp_real)-INFINITY && block_top == block_top ? 0 : tfpi_mexp(top - block_top);
      top = block_top;
      sum *= fade;
      for (d = 0; d < w.D; d++) o[d] *= fade;
    }
    /* 3. weights and weighted values; a hidden value is not even looked at */
    tfpi_head_keep(&w, i, j0, j0 + n, keep);
    for (j = 0; j < n; j++) {
      const tfp_real *value = tfpi_head_row(&w, job->a->v, j0 + j), e = tfpi_mexp(s[j] - top);
      if (s[j] == (tfp_real)-INFINITY) continue;
      sum += e;
      for (d = 0; d < w.D && keep[j] != 0; d++) o[d] += e * keep[j] * value[d];
    }
  }
  /* 4. the division; a query that saw nothing stays 0 */
  for (d = 0; d < w.D && sum != 0; d++) o[d] /= sum;
  if (job->a->lse)
    tfpi_data(job->a->lse)[task] = sum != 0 ? top + tfpi_mlog(sum) : (tfp_real)-INFINITY;
}
static void tfpi_attention_plain(tfp_ctx *ctx, const tfpi_attention_args *a) {
  tfpi_attention_job job;
  job.ctx = ctx, job.a = a;
  tfpi_parallel(ctx, a->q->shape[0] * a->q->shape[1] * a->q->shape[2], tfpi_attention_row, &job);
}

/* One query of the backward. The weights come back from lse; r_j is dropout's factor.
 *   s_j = scale q.k_j + ...         dq += scale ds_j k_j     dk_j += scale ds_j q     drel += ds_j
 *   P_j = exp(s_j - lse)            ds_j = P_j (dP_j - sum_m P_m dP_m)
 *   o   = sum_j r_j P_j v_j         dP_j = r_j do.v_j        dv_j += r_j P_j do
 * and sum_m P_m dP_m = do . sum_m r_m P_m v_m = do.o, which is called delta. */
static void tfpi_attention_bwd_row(const tfpi_head *w, int64_t i) {
  const tfpi_attention_args *a = w->a;
  const int64_t Z = w->T + w->S - 1, bh = w->b * w->H + w->h, end = tfpi_head_end(w, i);
  const tfp_real *q = tfpi_head_row(w, a->q, i), *go = tfpi_head_row(w, a->dout, i);
  const tfp_real lse = tfpi_data(a->lse)[bh * w->T + i], scale = (tfp_real)a->scale;
  const tfp_real delta = tfpi_dot(go, tfpi_head_row(w, a->o, i), w->D);
  tfp_real *dq = a->dq ? tfpi_head_row(w, a->dq, i) : NULL;
  tfp_real *drel = a->drel ? tfpi_data(a->drel) + bh * Z + w->T - 1 - i : NULL;
  tfp_real s[TFPI_BLOCK], keep[TFPI_BLOCK];
  int64_t j0, j, d, seen = 0;
  if (lse == (tfp_real)-INFINITY) return; /* it saw nothing */
  for (j0 = 0; j0 < end; j0 += TFPI_BLOCK) {
    const int64_t j1 = tfpi_min64(end, j0 + TFPI_BLOCK);
    tfpi_head_scores(w, i, j0, j1, &seen, s);
    tfpi_head_keep(w, i, j0, j1, keep);
    for (j = j0; j < j1; j++) {
      const tfp_real *k = tfpi_head_row(w, a->k, j), P = tfpi_mexp(s[j - j0] - lse);
      const tfp_real r = keep[j - j0];
      tfp_real *dk = a->dk ? tfpi_head_row(w, a->dk, j) : NULL;
      tfp_real *dv = a->dv ? tfpi_head_row(w, a->dv, j) : NULL, dP = 0, ds;
      if (s[j - j0] == (tfp_real)-INFINITY) continue;
      if (r != 0) dP = r * tfpi_dot(go, tfpi_head_row(w, a->v, j), w->D);
      ds = P * (dP - delta);
      for (d = 0; d < w->D && dv && r != 0; d++) dv[d] += r * P * go[d];
      for (d = 0; d < w->D && dk; d++) dk[d] += scale * ds * q[d];
      for (d = 0; d < w->D && dq; d++) dq[d] += scale * ds * k[d];
      if (drel) drel[j] += ds;
    }
  }
}
static void tfpi_head_clear(const tfpi_head *w, const tfp_tensor *t, int64_t rows, int keep) {
  int64_t i, d;
  for (i = 0; i < rows && t && !keep; i++)
    for (d = 0; d < w->D; d++) tfpi_head_row(w, t, i)[d] = 0;
}
static void tfpi_attention_bwd_head(void *v, int64_t task, int thread) {
  const tfpi_attention_job *job = (const tfpi_attention_job *)v;
  const tfpi_attention_args *a = job->a;
  tfpi_head w;
  int64_t i, Z;
  (void)thread;
  tfpi_head_open(&w, job, task / a->q->shape[1], task % a->q->shape[1]);
  Z = w.T + w.S - 1;
  tfpi_head_clear(&w, a->dq, w.T, a->dq_accumulate);
  tfpi_head_clear(&w, a->dk, w.S, a->dk_accumulate);
  tfpi_head_clear(&w, a->dv, w.S, a->dv_accumulate);
  for (i = 0; i < Z && a->drel; i++) tfpi_data(a->drel)[task * Z + i] = 0;
  for (i = 0; i < w.T; i++) tfpi_attention_bwd_row(&w, i);
}
static void tfpi_attention_bwd_plain(tfp_ctx *ctx, const tfpi_attention_args *a) {
  tfpi_attention_job job;
  job.ctx = ctx, job.a = a;
  tfpi_parallel(ctx, a->q->shape[0] * a->q->shape[1], tfpi_attention_bwd_head, &job);
}

/* ---- linear_xent ----
 * Rows that have a label are gathered, a chunk at a time, and go through the table's own matmul.
 * The step on a row of logits is a parameter: a fast level brings its own and uses the rest. */

/* x (V) becomes scale (softmax(x) - onehot(label)); returns -log softmax(x)[label]. */
typedef double (*tfpi_xent_row_fn)(tfp_real *x, int64_t V, int32_t label, float scale);

enum { TFPI_CHUNK_ROWS = 1024 };
typedef struct tfpi_xent_chunk {
  const tfpi_linear_xent_args *a;
  tfpi_xent_row_fn step;
  int64_t n;                      /* labelled rows in this chunk */
  int64_t place[TFPI_CHUNK_ROWS]; /* where they stand in x */
  double loss[TFPI_CHUNK_ROWS];
} tfpi_xent_chunk;
/* Gathered row r is row 2r of the work tensor, its gradient is row 2r+1. */
static void tfpi_xent_gather(const void *v, int64_t first, int64_t end) {
  const tfpi_xent_chunk *k = (const tfpi_xent_chunk *)v;
  const int64_t C = k->a->x->shape[1];
  int64_t r;
  for (r = first; r < end; r++)
    memcpy(tfpi_data(k->a->rows) + 2 * r * C, tfpi_data(k->a->x) + k->place[r] * C,
           (size_t)C * sizeof(tfp_real));
}
static void tfpi_xent_scatter(const void *v, int64_t first, int64_t end) {
  const tfpi_xent_chunk *k = (const tfpi_xent_chunk *)v;
  const int64_t C = k->a->x->shape[1];
  int64_t r;
  for (r = first; r < end; r++)
    memcpy(tfpi_data(k->a->dx) + k->place[r] * C, tfpi_data(k->a->rows) + (2 * r + 1) * C,
           (size_t)C * sizeof(tfp_real));
}
static void tfpi_xent_step(void *v, int64_t r, int thread) {
  tfpi_xent_chunk *k = (tfpi_xent_chunk *)v;
  const int64_t V = k->a->w->shape[0];
  (void)thread;
  k->loss[r] = k->step(tfpi_data(k->a->logits) + r * V, V, tfpi_label(k->a->labels, k->place[r]),
                       *k->a->scale);
}
/* The header of a (rows,columns) matrix that lies somewhere. */
static tfp_tensor tfpi_matrix_at(tfp_real *data, int64_t rows, int64_t columns, int64_t row_stride,
                                 int64_t column_stride) {
  tfp_tensor t;
  memset(&t, 0, sizeof t);
  t.ndim = 2, t.name = "", t.data = data;
  t.shape[0] = rows, t.stride[0] = row_stride;
  t.shape[1] = columns, t.stride[1] = column_stride;
  return t;
}
/* c = or += a @ b, + bias */
static void tfpi_xent_product(tfp_ctx *ctx, const tfp_tensor *a, const tfp_tensor *b, tfp_tensor *c,
                              const tfp_tensor *bias, int accumulate) {
  tfpi_matmul_args m;
  memset(&m, 0, sizeof m);
  m.a = a, m.b = b, m.c = c, m.bias = bias;
  m.activation = TFPI_NO_ACTIVATION, m.accumulate = accumulate;
  ctx->be->matmul(ctx, &m);
}
/* Logits, losses, gradients of one chunk; returns its sum of losses. */
static double tfpi_xent_run(tfp_ctx *ctx, tfpi_xent_chunk *k, int is_first) {
  const tfpi_linear_xent_args *a = k->a;
  const int64_t C = a->w->shape[1], V = a->w->shape[0], n = k->n;
  tfp_real *rows = tfpi_data(a->rows), *weights = tfpi_data(a->w), *l = tfpi_data(a->logits);
  const tfp_tensor x = tfpi_matrix_at(rows, n, C, 2 * C, 1);
  const tfp_tensor w = tfpi_matrix_at(weights, V, C, C, 1);
  const tfp_tensor w_t = tfpi_matrix_at(weights, C, V, 1, C);
  const tfp_tensor logits_t = tfpi_matrix_at(l, V, n, 1, V);
  tfp_tensor logits = tfpi_matrix_at(l, n, V, V, 1), dx = tfpi_matrix_at(rows + C, n, C, 2 * C, 1);
  double sum = 0;
  int64_t r;
  tfpi_over_rows(ctx, n, C, tfpi_xent_gather, k);
  /* logits = x w' + bias */
  tfpi_xent_product(ctx, &x, &w_t, &logits, a->bias, 0);
  tfpi_parallel(ctx, n, tfpi_xent_step, k);
  for (r = 0; r < n; r++) sum += k->loss[r];
  if (a->dx) { /* dx = dlogits w */
    tfpi_xent_product(ctx, &logits, &w, &dx, NULL, 0);
    tfpi_over_rows(ctx, n, C, tfpi_xent_scatter, k);
  }
  /* dw = dlogits' x */
  if (a->dw) tfpi_xent_product(ctx, &logits_t, &x, a->dw, NULL, !is_first || a->dw_accumulate);
  if (a->db) { /* db = column sums of dlogits */
    tfp_tensor db = tfpi_matrix_at(tfpi_data(a->db), 1, V, V, 1);
    ctx->be->reduce(ctx, TFPI_SUM, &db, &logits, !is_first || a->db_accumulate);
  }
  return sum;
}
static void tfpi_linear_xent_with(tfp_ctx *ctx, const tfpi_linear_xent_args *a,
                                  tfpi_xent_row_fn step) {
  const unsigned mode = tfpi_float_enter();
  const int64_t N = a->x->shape[0], chunk = tfpi_min64(a->rows->shape[0], TFPI_CHUNK_ROWS);
  tfpi_xent_chunk k;
  double sum = 0;
  int64_t i;
  int is_first = 1;
  k.a = a, k.step = step, k.n = 0;
  if (a->dx) ctx->be->fill(ctx, a->dx, 0);
  for (i = 0; i < N; i++) {
    if (tfpi_label(a->labels, i) != TFP_IGNORE_INDEX) k.place[k.n++] = i;
    if (k.n == 0 || (k.n < chunk && i + 1 < N)) continue;
    sum += tfpi_xent_run(ctx, &k, is_first);
    is_first = 0;
    k.n = 0;
  }
  if (is_first) { /* nothing had a label */
    if (a->dw && !a->dw_accumulate) ctx->be->fill(ctx, a->dw, 0);
    if (a->db && !a->db_accumulate) ctx->be->fill(ctx, a->db, 0);
  }
  *tfpi_data(a->loss) = (tfp_real)(sum * (double)*a->scale);
  tfpi_float_leave(mode);
}
static void tfpi_linear_xent_plain(tfp_ctx *ctx, const tfpi_linear_xent_args *a) {
  tfpi_linear_xent_with(ctx, a, tfpi_xent_row_plain);
}

/* ---- rotary ---- */

typedef struct tfpi_rotary_args {
  tfp_tensor *y;
  const tfp_tensor *x, *positions;
  int64_t start;
  double base;
  int inverse, accumulate;
} tfpi_rotary_args;
/* Rows [first,end) are positions t, shared by all examples, or (b,t) where positions are given. The
 * sines of a row serve all heads of all examples that it stands for. */
static void tfpi_rotary_rows(const void *v, int64_t first, int64_t end) {
  const tfpi_rotary_args *a = (const tfpi_rotary_args *)v;
  const int64_t H = a->x->shape[1], T = a->x->shape[2], half = a->x->shape[3] / 2;
  int64_t r, b, h, i;
  for (r = first; r < end; r++) {
    const int64_t t = r % T, b0 = a->positions ? r / T : 0,
                  b1 = a->positions ? b0 + 1 : a->x->shape[0];
    const double position = (double)(a->positions ? tfpi_ints(a->positions)[r] : a->start + t);
    for (i = 0; i < half; i++) {
      const double angle = position * pow(a->base, -(double)i / (double)half);
      const tfp_real c = (tfp_real)cos(angle), s = (tfp_real)sin(a->inverse ? -angle : angle);
      for (b = b0; b < b1; b++)
        for (h = 0; h < H; h++) {
          const tfp_real *x = tfpi_data(a->x) + b * a->x->stride[0] + h * a->x->stride[1] +
                              t * a->x->stride[2];
          tfp_real *y = tfpi_data(a->y) + b * a->y->stride[0] + h * a->y->stride[1] +
                        t * a->y->stride[2];
          const tfp_real p = x[i], q = x[i + half];
          tfpi_put(y + i, p * c - q * s, a->accumulate);
          tfpi_put(y + i + half, q * c + p * s, a->accumulate);
        }
    }
  }
}
static void tfpi_rotary_plain(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x,
                              const tfp_tensor *positions, int64_t start, double base, int inverse,
                              int accumulate) {
  tfpi_rotary_args a;
  a.y = y, a.x = x, a.positions = positions, a.start = start, a.base = base;
  a.inverse = inverse, a.accumulate = accumulate;
  tfpi_over_rows(ctx, positions ? x->shape[0] * x->shape[2] : x->shape[2],
                 x->shape[1] * x->shape[3] * (positions ? 1 : x->shape[0]), tfpi_rotary_rows, &a);
}

/* ---- the optimiser's passes over flat arrays ---- */

typedef struct tfpi_adamw_job {
  const tfpi_adamw_args *a;
  const tfpi_step_params *now;
} tfpi_adamw_job;
static void tfpi_adamw_slice(void *v, int64_t slice, int thread) {
  const tfpi_adamw_job *j = (const tfpi_adamw_job *)v;
  const tfpi_adamw_args *a = j->a;
  const int64_t end = tfpi_min64((slice + 1) * TFPI_TASK, a->n);
  /* 1 - beta in double: in float, 1 - 0.999f is wrong in its fifth digit */
  const tfp_real beta1 = (tfp_real)a->beta1, rest1 = (tfp_real)(1 - a->beta1);
  const tfp_real beta2 = (tfp_real)a->beta2, rest2 = (tfp_real)(1 - a->beta2);
  const tfp_real eps = (tfp_real)a->eps, scale = (tfp_real)j->now->grad_scale;
  const tfp_real keep = (tfp_real)(1 - (double)j->now->lr * a->decay);
  const tfp_real rate = (tfp_real)((double)j->now->lr * (double)j->now->fix1);
  const tfp_real fix2 = (tfp_real)j->now->fix2;
  int64_t i;
  (void)thread;
  for (i = slice * TFPI_TASK; i < end; i++) {
    const tfp_real g = scale * a->g[i];
    a->m[i] = beta1 * a->m[i] + rest1 * g;
    a->v[i] = beta2 * a->v[i] + rest2 * g * g;
    a->p[i] = a->p[i] * keep - rate * a->m[i] / (tfpi_msqrt(fix2 * a->v[i]) + eps);
  }
}
static void tfpi_adamw_plain(tfp_ctx *ctx, const tfpi_adamw_args *a) {
  tfpi_adamw_job j;
  j.a = a, j.now = &ctx->now;
  tfpi_parallel(ctx, tfpi_ceil_div(a->n, TFPI_TASK), tfpi_adamw_slice, &j);
}

/* Slices are summed in double and added in their order, a round of them at a time. */
typedef struct tfpi_squares_job {
  const tfp_real *x;
  int64_t n;
  double *sums;
} tfpi_squares_job;
static void tfpi_squares_slice(void *v, int64_t slice, int thread) {
  const tfpi_squares_job *j = (const tfpi_squares_job *)v;
  const int64_t end = tfpi_min64((slice + 1) * TFPI_TASK, j->n);
  double sum = 0;
  int64_t i;
  (void)thread;
  for (i = slice * TFPI_TASK; i < end; i++) sum += (double)j->x[i] * (double)j->x[i];
  j->sums[slice] = sum;
}
static double tfpi_sum_squares_plain(tfp_ctx *ctx, const tfp_real *x, int64_t n) {
  const unsigned mode = tfpi_float_enter();
  const int64_t round = (int64_t)TFPI_PARTS * TFPI_TASK;
  double sums[TFPI_PARTS], sum = 0;
  tfpi_squares_job j;
  int64_t done, i;
  j.sums = sums;
  for (done = 0; done < n; done += round) {
    int64_t slices;
    j.x = x + done, j.n = tfpi_min64(round, n - done);
    slices = tfpi_ceil_div(j.n, TFPI_TASK);
    tfpi_parallel(ctx, slices, tfpi_squares_slice, &j);
    for (i = 0; i < slices; i++) sum += j.sums[i];
  }
  tfpi_float_leave(mode);
  return sum;
}

static const tfpi_backend tfpi_backend_plain = {
  "plain",
  tfpi_copy_plain, tfpi_fill_plain, tfpi_unary_plain, tfpi_unary_bwd_plain,
  tfpi_binary_plain, tfpi_binary_bwd_plain, tfpi_reduce_plain, tfpi_reduce_bwd_plain,
  tfpi_gather_plain, tfpi_scatter_add_plain, tfpi_softmax_plain, tfpi_softmax_bwd_plain,
  tfpi_norm_plain, tfpi_norm_bwd_plain, tfpi_dropout_plain, tfpi_masked_fill_plain,
  tfpi_xent_plain, tfpi_xent_bwd_plain, tfpi_matmul_plain,
  tfpi_attention_plain, tfpi_attention_bwd_plain, tfpi_linear_xent_plain,
  tfpi_rotary_plain, tfpi_adamw_plain, tfpi_sum_squares_plain
};
/* ================================================================================================
 * >>simd.c  AVX2 and AVX-512 kernels behind the same table, chosen at run time
 * ================================================================================================
 * A vector is 16 floats in the compilers' generic vector type. Bodies over it are written once, as
 * always-inline functions without a target; one small function per level has the target attribute
 * and calls the body: there a vector is one AVX-512 register or two AVX2 ones. Rules that keep gcc
 * and clang, C and C++, silent and fast: vectors go by pointer (by value they have another ABI per
 * level); no comparisons (gcc splits them into scalars), masks come from signs: (a - b) >> 31; no
 * vector is carried round a loop or out of an if, running sums are two halves in a tfpi_vacc (else
 * gcc's AVX2 code keeps them in memory). Then read on with the products, attention, and the rows
 * below them.
 */
/* Without optimisation these kernels would be slow and take minutes to compile: -O0 gets plain
 * ones. */
#if defined(__x86_64__) && defined(__OPTIMIZE__) && !defined(TFPRE_NO_SIMD) && \
  !defined(TFPRE_REAL)
#define TFPI_SIMD 1
#include <immintrin.h>

#define TFPI_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define TFPI_TARGET_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")))
#if defined(__clang__)
#define TFPI_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TFPI_UNROLL _Pragma("GCC unroll 32")
#endif

enum { TFPI_VN = 16 };
typedef float tfpi_vf __attribute__((vector_size(64)));
typedef int32_t tfpi_vi __attribute__((vector_size(64)));
typedef uint32_t tfpi_vu __attribute__((vector_size(64)));
typedef float tfpi_v8f __attribute__((vector_size(32)));
typedef int32_t tfpi_v8i __attribute__((vector_size(32)));
typedef float tfpi_v4f __attribute__((vector_size(16)));
typedef struct tfpi_vacc { tfpi_v8f lo, hi; } tfpi_vacc;

TFPI_INLINE void tfpi_vload(tfpi_vf *r, const float *p) { memcpy(r, p, sizeof *r); }
TFPI_INLINE void tfpi_vstore(float *p, const tfpi_vf *x) { memcpy(p, x, sizeof *x); }
TFPI_INLINE void tfpi_vset(tfpi_vf *r, float x) {
  const tfpi_vf zero = {0};
  *r = zero + x; /* -0 becomes 0 */
}
/* The first n < 16 lanes from p, `rest` in the others; and the first n lanes to p. */
TFPI_INLINE void tfpi_vhead(tfpi_vf *r, const float *p, int64_t n, float rest) {
  float t[TFPI_VN];
  int i;
  for (i = 0; i < TFPI_VN; i++) t[i] = i < n ? p[i] : rest;
  memcpy(r, t, sizeof t);
}
TFPI_INLINE void tfpi_vput(float *p, const tfpi_vf *x, int64_t n) {
  float t[TFPI_VN];
  int64_t i;
  memcpy(t, x, sizeof t);
  for (i = 0; i < n; i++) p[i] = t[i];
}
/* r = yes where the mask is all ones, no where it is 0 */
TFPI_INLINE void tfpi_vpick(tfpi_vf *r, const tfpi_vi *mask, const tfpi_vf *yes,
                            const tfpi_vf *no) {
  *r = (tfpi_vf)(((tfpi_vi)*yes & *mask) | ((tfpi_vi)*no & ~*mask));
}
/* r = x where x is NaN */
TFPI_INLINE void tfpi_vnan_of(tfpi_vf *r, const tfpi_vf *x) {
  const tfpi_vi m = (0x7F800000 - ((tfpi_vi)*x & 0x7FFFFFFF)) >> 31;
  tfpi_vpick(r, &m, x, r);
}

/* ---- running sums and maxima of 16 lanes; the order of the sum is fixed ---- */

TFPI_INLINE void tfpi_vacc_set(tfpi_vacc *a, float x) {
  const tfpi_v8f zero = {0};
  a->lo = zero + x;
  a->hi = a->lo;
}
TFPI_INLINE void tfpi_vacc_add(tfpi_vacc *a, const tfpi_vf *x) {
  tfpi_v8f lo, hi;
  memcpy(&lo, x, sizeof lo);
  memcpy(&hi, (const char *)x + sizeof lo, sizeof hi);
  a->lo = a->lo + lo;
  a->hi = a->hi + hi;
}
TFPI_INLINE float tfpi_vacc_sum(const tfpi_vacc *a) {
  const tfpi_v8f s = a->lo + a->hi;
  tfpi_v4f c, d;
  memcpy(&c, &s, sizeof c);
  memcpy(&d, (const char *)&s + sizeof c, sizeof d);
  c = c + d;
  return (c[0] + c[2]) + (c[1] + c[3]);
}
/* A NaN becomes all ones: x - a then has a's sign bit, so that a is kept from then on. */
TFPI_INLINE void tfpi_vmax_half(tfpi_v8f *a, const tfpi_v8f *x) {
  const tfpi_v8i nan = (0x7F800000 - ((tfpi_v8i)*x & 0x7FFFFFFF)) >> 31;
  const tfpi_v8i keep = (tfpi_v8i)(*x - *a) >> 31;
  *a = (tfpi_v8f)((((tfpi_v8i)*a & keep) | ((tfpi_v8i)*x & ~keep)) | nan);
}
TFPI_INLINE void tfpi_vacc_max(tfpi_vacc *a, const tfpi_vf *x) {
  tfpi_v8f lo, hi;
  memcpy(&lo, x, sizeof lo);
  memcpy(&hi, (const char *)x + sizeof lo, sizeof hi);
  tfpi_vmax_half(&a->lo, &lo);
  tfpi_vmax_half(&a->hi, &hi);
}
/* The largest lane; NaN if one is NaN. */
TFPI_INLINE float tfpi_vacc_top(const tfpi_vacc *a) {
  tfpi_v8f m = a->lo;
  float t[8], top;
  int i;
  tfpi_vmax_half(&m, &a->hi);
  memcpy(t, &m, sizeof t);
  top = t[0];
  for (i = 1; i < 8; i++)
    if (t[i] > top || t[i] != t[i]) top = t[i];
  return top;
}

/* ---- exp, tanh, erf ---------------------------------------------------------------------------
 * Errors against double on every 61st float, AVX2 and AVX-512, with FMA (denormals off, as in
 *        kernels):
 * exp 1.00 ulp, tanh 1.5, erf 1.03 (6e-8), 1/sqrt 2 (x >= 2.4e-38), sigmoid 1.6 (x >= -87.3);
 * normal_cdf 7e-8, silu and both gelu |x| times 1e-7, all slopes 2e-7 absolute.
 * Minimax polynomials of our own. */

/* x = k ln 2 + r with |r| <= ln 2 / 2: the low bits of *k become `bias` + k, *p = exp(r). */
TFPI_INLINE void tfpi_vexp_parts(const tfpi_vf *x, float bias, tfpi_vi *k, tfpi_vf *p) {
  const tfpi_vf t = *x * 1.44269504f + (12582912.0f + bias); /* 1.5 * 2^23: rounds to an integer */
  const tfpi_vf n = t - (12582912.0f + bias);
  tfpi_vf r = *x - n * 0.693359375f, q;
  r = r - n * -2.12194440e-4f;
  q = r * 1.3813078409e-3f + 8.3694247218e-3f;
  q = q * r + 4.1668458179e-2f;
  q = q * r + 1.6666514727e-1f;
  q = q * r + 4.9999993044e-1f;
  q = q * (r * r) + r;
  *p = q + 1.0f;
  *k = (tfpi_vi)t;
}

/* exp of any float: inf above 88.72, 0 where the result would be denormal, NaN kept. */
TFPI_INLINE void tfpi_vexp(tfpi_vf *r) {
  const tfpi_vf in = *r;
  tfpi_vf x = in, p, hi, lo;
  tfpi_vi m, n, half;
  tfpi_vset(&hi, 89.0f);
  tfpi_vset(&lo, -104.0f);
  m = (tfpi_vi)(hi - x) >> 31;
  tfpi_vpick(&x, &m, &hi, &x);
  m = (tfpi_vi)(x - lo) >> 31;
  tfpi_vpick(&x, &m, &lo, &x);
  tfpi_vexp_parts(&x, 0, &n, &p);
  n = n - 0x4B400000;
  half = n >> 1; /* in two factors, for 2^128 is no float */
  p = p * (tfpi_vf)((half + 127) << 23);
  p = p * (tfpi_vf)((n - half + 127) << 23);
  *r = p;
  tfpi_vnan_of(r, &in);
}

/* exp for x <= 0 (good up to 88): exactly 0 below -87.3 and for -inf, never a denormal, NaN kept.
 * */
TFPI_INLINE void tfpi_vexp_neg(tfpi_vf *r) {
  /* -87.3 to -inf are the bits C2AE999A to FF800000: past is >= 0 from there on, into is < 0 */
  const tfpi_vu past = (tfpi_vu)*r - 0xC2AE999Au, into = past - 0x3CD16667u;
  const tfpi_vi gone = (tfpi_vi)(~past & into) >> 31;
  tfpi_vf p;
  tfpi_vi k;
  tfpi_vexp_parts(r, 127.0f, &k, &p);
  p = p * (tfpi_vf)(k << 23);
  *r = (tfpi_vf)((tfpi_vi)p & ~gone);
}

/* tanh: an odd polynomial below 0.625, (1 - e) / (1 + e) with e = exp(-2|x|) above. */
TFPI_INLINE void tfpi_vtanh(tfpi_vf *r) {
  const tfpi_vf in = *r, a = (tfpi_vf)((tfpi_vi)in & 0x7FFFFFFF), z = in * in;
  tfpi_vf e = a * -2.0f, p, big, limit;
  tfpi_vi m;
  tfpi_vexp_neg(&e);
  big = (1.0f - e) / (1.0f + e);
  p = z * -5.7049381156e-3f + 2.0639039120e-2f;
  p = p * z + -5.3739698543e-2f;
  p = p * z + 1.3331441969e-1f;
  p = p * z + -3.3333281932e-1f;
  p = p * z * a + a;
  tfpi_vset(&limit, 0.625f);
  m = (tfpi_vi)(a - limit) >> 31;
  tfpi_vpick(&big, &m, &p, &big);
  *r = (tfpi_vf)(((tfpi_vi)big & 0x7FFFFFFF) | ((tfpi_vi)in & (int32_t)(-2147483647 - 1)));
}

/* erf: an odd polynomial below 1, 1 - exp(a polynomial that goes to -inf) above. */
TFPI_INLINE void tfpi_verf(tfpi_vf *r) {
  const tfpi_vf in = *r, a = (tfpi_vf)((tfpi_vi)in & 0x7FFFFFFF), z = in * in;
  tfpi_vf p, e, one;
  tfpi_vi m;
  p = z * 7.8538409915e-5f + -8.0101874574e-4f;
  p = p * z + 5.1883269835e-3f;
  p = p * z + -2.6853811566e-2f;
  p = p * z + 1.1283585140e-1f;
  p = p * z + -3.7612625823e-1f;
  p = p * z + 1.2837916573e-1f;
  p = p * a + a;
  e = a * -1.4134686923e-5f + 3.5234054863e-4f; /* log(erfc(a)) / a */
  e = e * a + -3.7646938706e-3f;
  e = e * a + 2.4025579414e-2f;
  e = e * a + -1.0654918455e-1f;
  e = e * a + -6.3495824857e-1f;
  e = e * a + -1.1286971705f;
  e = e * a;
  tfpi_vexp_neg(&e);
  e = 1.0f - e;
  tfpi_vset(&one, 1.0f);
  m = (tfpi_vi)(a - one) >> 31;
  tfpi_vpick(&e, &m, &p, &e);
  *r = (tfpi_vf)(((tfpi_vi)e & 0x7FFFFFFF) | ((tfpi_vi)in & (int32_t)(-2147483647 - 1)));
}

/* 1/sqrt(x), x >= 0 and finite: from the bits and three Newton steps. 0 gives a large finite
 * number, so that x * (1/sqrt(x)) is the root of 0 too. */
TFPI_INLINE void tfpi_vrsqrt(tfpi_vf *r) {
  const tfpi_vf x = *r, h = x * 0.5f;
  tfpi_vf y = (tfpi_vf)(0x5F3759DF - ((tfpi_vi)x >> 1));
  y = y * (1.5f - h * y * y);
  y = y * (1.5f - h * y * y);
  y = y * (1.5f - h * y * y);
  *r = y;
}

/* ---- activations, and their slopes f'(x), in place ---- */

/* 1 / (1 + exp(-x)), from exp(-|x|), so that nothing overflows. */
TFPI_INLINE void tfpi_vsigmoid(tfpi_vf *r) {
  const tfpi_vf x = *r;
  const tfpi_vi negative = (tfpi_vi)x >> 31;
  tfpi_vf e = (tfpi_vf)((tfpi_vi)x | (int32_t)(-2147483647 - 1)), one;
  tfpi_vexp_neg(&e);
  tfpi_vset(&one, 1.0f);
  tfpi_vpick(r, &negative, &e, &one);
  *r = *r / (1.0f + e);
}
/* s = sigmoid(x), slope = s (1 - s) = e / (1 + e)^2, in which nothing cancels */
TFPI_INLINE void tfpi_vsigmoid_both(const tfpi_vf *x, tfpi_vf *s, tfpi_vf *slope) {
  const tfpi_vi negative = (tfpi_vi)*x >> 31;
  tfpi_vf e = (tfpi_vf)((tfpi_vi)*x | (int32_t)(-2147483647 - 1)), q, one;
  tfpi_vexp_neg(&e);
  q = 1.0f / (1.0f + e);
  tfpi_vset(&one, 1.0f);
  tfpi_vpick(s, &negative, &e, &one);
  *s = *s * q;
  *slope = e * q * q;
}
TFPI_INLINE void tfpi_vsigmoid_slope(tfpi_vf *r) {
  const tfpi_vf x = *r;
  tfpi_vf s;
  tfpi_vsigmoid_both(&x, &s, r);
}
TFPI_INLINE void tfpi_vsilu(tfpi_vf *r) {
  const tfpi_vf x = *r;
  tfpi_vsigmoid(r);
  *r = *r * x;
}
TFPI_INLINE void tfpi_vsilu_slope(tfpi_vf *r) {
  const tfpi_vf x = *r;
  tfpi_vf s, slope;
  tfpi_vsigmoid_both(&x, &s, &slope);
  *r = s + x * slope;
}
TFPI_INLINE void tfpi_vtanh_slope(tfpi_vf *r) {
  tfpi_vtanh(r);
  *r = 1.0f - *r * *r;
}
TFPI_INLINE void tfpi_vrelu(tfpi_vf *r) {
  const tfpi_vf x = *r;
  *r = (tfpi_vf)((tfpi_vi)x & ~((tfpi_vi)x >> 31));
  tfpi_vnan_of(r, &x);
}
/* The tanh form, x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): one exp. */
TFPI_INLINE void tfpi_vgelu_new(tfpi_vf *r) {
  const tfpi_vf x = *r;
  tfpi_vf s = x * (x * x * (2.0f * 0.7978845608f * 0.044715f) + 2.0f * 0.7978845608f);
  tfpi_vsigmoid(&s);
  *r = x * s;
}
TFPI_INLINE void tfpi_vgelu_new_slope(tfpi_vf *r) {
  const tfpi_vf x = *r, z = x * x;
  const tfpi_vf u = x * (z * (2.0f * 0.7978845608f * 0.044715f) + 2.0f * 0.7978845608f);
  const tfpi_vf d = z * (6.0f * 0.7978845608f * 0.044715f) + 2.0f * 0.7978845608f;
  tfpi_vf s, slope;
  tfpi_vsigmoid_both(&u, &s, &slope);
  *r = s + x * (d * slope);
}
/* Phi(x), the normal distribution function: erfc(t/sqrt 2)/2 with t = |x| on the left, 1 minus that
 * on the right. log(erfc(t/sqrt 2))/t is a polynomial that goes to -inf with t. */
TFPI_INLINE void tfpi_vnormal_cdf(tfpi_vf *r) {
  const tfpi_vf x = *r, t = (tfpi_vf)((tfpi_vi)x & 0x7FFFFFFF);
  const tfpi_vi negative = (tfpi_vi)x >> 31;
  tfpi_vf p = t * -1.9649380488e-6f + 2.7293497758e-5f, right;
  p = p * t + -1.2904486645e-4f;
  p = p * t + -9.4930934311e-5f;
  p = p * t + 4.8960082037e-3f;
  p = p * t + -3.6387590611e-2f;
  p = p * t + -3.1829886284e-1f;
  p = p * t + -7.9788532801e-1f;
  p = p * t;
  tfpi_vexp_neg(&p);
  p = p * 0.5f;
  right = 1.0f - p;
  tfpi_vpick(r, &negative, &p, &right);
}
TFPI_INLINE void tfpi_vgelu(tfpi_vf *r) {
  const tfpi_vf x = *r;
  tfpi_vnormal_cdf(r);
  *r = *r * x;
}
TFPI_INLINE void tfpi_vgelu_slope(tfpi_vf *r) {
  const tfpi_vf x = *r;
  tfpi_vf density = x * x * -0.5f;
  tfpi_vnormal_cdf(r);
  tfpi_vexp_neg(&density);
  *r = *r + x * density * 0.39894228f;
}

/* The activation of a tfpi_unary_kind; kinds that it does not list leave x alone. Give it a
 * constant. */
TFPI_INLINE void tfpi_vactivate(int kind, tfpi_vf *x) {
  switch (kind) {
    case TFPI_NEG: *x = -*x; break;
    case TFPI_EXP: tfpi_vexp(x); break;
    case TFPI_TANH: tfpi_vtanh(x); break;
    case TFPI_SIGMOID: tfpi_vsigmoid(x); break;
    case TFPI_RELU: tfpi_vrelu(x); break;
    case TFPI_SILU: tfpi_vsilu(x); break;
    case TFPI_GELU: tfpi_vgelu(x); break;
    case TFPI_GELU_NEW: tfpi_vgelu_new(x); break;
    default: break;
  }
}
#endif /* x86-64 */
#if defined(TFPI_SIMD)
/* ---- products ----------------------------------------------------------------------------------
 * One brick does everything: a register block c(rows,cols) = A B whose operands are reached by
 * strides, so that a row-major A is read where it lies, and packed panels, transposes and small
 * operands need no code of their own. Above it a driver packs B by strips that stay in the
 * second-level cache, lets all rows of A pass by, and finishes each block (bias, activation) while
 * it is in the first level. K is cut by a constant and never between threads, so each sum has one
 * order whatever the tiles are. */
enum {
  TFPI_MM_K = 512,      /* longest K block */
  TFPI_MM_STRIP = 256,  /* columns of a packed strip of B: 512 KiB with a full K block */
  TFPI_MM_STRIP_MOST = 1024, /* the same with a short K block, within the same bytes */
  TFPI_MM_ROWS = 1024,  /* most rows of a tile */
  TFPI_MM_ROWS_T = 512, /* the same where A is packed */
  TFPI_MM_SKINNY = 8,   /* up to here B passes by once and is not packed */
  TFPI_MM_AHEAD = 8,    /* rows of B that are prefetched where it is not packed */
  TFPI_MM_LONGEST = TFPI_MM_K + 8, /* shares are rounded to multiples of 8 */
  TFPI_MM_RUNS = TFPI_MM_LONGEST / 8
};

/* c[i*ldc + j] (+)= sum over k of a[i*rs + k*cs] b[k*bs + j] + bias[j]; the rows are in the
 * function's name. */
typedef struct tfpi_block {
  int64_t k, rs, cs, bs, ldc;
  const float *a, *b, *bias; /* bias of these columns: added last; or NULL */
  float *c;
  int cols, accumulate;
  const char *const
      *prefetch; /* runs of 256 bytes to bring into the second-level cache on the way */
  int64_t prefetches;
} tfpi_block;
typedef void (*tfpi_block_fn)(const tfpi_block *);

/* out[i*ldo + j] = sum over k of x[i*ldx + k] w[j*ldw + k], a few rows of each at a time. */
typedef struct tfpi_dots {
  int64_t k, ldx, ldw, ldo;
  const float *x, *w;
  float *out;
  int accumulate;
} tfpi_dots;
typedef void (*tfpi_dots_fn)(const tfpi_dots *);

/* What follows the sum in a finished block. */
typedef struct tfpi_finish {
  float *c, *before; /* before may be NULL */
  const float *bias; /* of the first column; NULL if there is none or the block has added it */
  int64_t ldc, ld_before, rows, cols;
  int activation;
} tfpi_finish;

typedef struct tfpi_mm_level {
  int rows, cols;  /* of the largest block */
  int panel;       /* floats of a packed panel of A for each k */
  const tfpi_block_fn *full, *edge; /* [rows]: exactly `cols` columns, or fewer */
  void (*pack_rows)(const float *b, int64_t ldb, int64_t k, int64_t n, float *out);    /* b[k][n] */
  void (*pack_columns)(const float *b, int64_t ldb, int64_t k, int64_t n, float *out); /* b[n][k] */
  const tfpi_dots_fn *dots, *dots1; /* [rows of x]: dots_rows[rows of x] rows of w, or one */
  const int *dots_rows;
  const tfpi_block_fn
      *wide; /* [rows]: wide_cols[rows] columns of a B in place that passes by once */
  const int *wide_cols;
  void (*finish)(const tfpi_finish *);
} tfpi_mm_level;

/* out[panel][k][cols] from rows b[k][n]; what is beyond n is zero. */
TFPI_INLINE void tfpi_pack_rows_any(const float *b, int64_t ldb, int64_t k, int64_t n, float *out,
                                    int64_t cols) {
  int64_t i, j, p;
  for (i = 0; i < k; i++, b += ldb)
    for (p = 0; p < n; p += cols) {
      float *o = out + p * k + i * cols;
      const int64_t m = tfpi_min64(n - p, cols);
      memcpy(o, b + p, (size_t)m * sizeof *o);
      for (j = m; j < cols; j++) o[j] = 0;
    }
}
/* Zeroes columns [from, cols) of one panel: what the last one has beyond n. */
TFPI_INLINE void tfpi_pack_zero(float *out, int64_t k, int64_t from, int64_t cols) {
  int64_t i, j;
  for (i = 0; i < k; i++, out += cols)
    for (j = from; j < cols; j++) out[j] = 0;
}

TFPI_INLINE void tfpi_finish_bias(float *c, const float *bias, int64_t n) {
  int64_t j;
  for (j = 0; j + TFPI_VN <= n; j += TFPI_VN) {
    tfpi_vf x, y;
    tfpi_vload(&x, c + j);
    tfpi_vload(&y, bias + j);
    x = x + y;
    tfpi_vstore(c + j, &x);
  }
  for (; j < n; j++) c[j] += bias[j];
}
/* A copy of what goes into the activation, and the activation, 16 columns at a time. */
TFPI_INLINE void tfpi_finish_16(float *c, float *before, const int kind) {
  tfpi_vf x;
  tfpi_vload(&x, c);
  if (before) tfpi_vstore(before, &x);
  tfpi_vactivate(kind, &x);
  tfpi_vstore(c, &x);
}
TFPI_INLINE void tfpi_finish_body(const tfpi_finish *f, const int kind) {
  const int64_t whole = f->cols / TFPI_VN * TFPI_VN;
  const size_t rest = (size_t)(f->cols - whole) * sizeof(float);
  float last[TFPI_VN];
  int64_t i, j;
  memset(last, 0, sizeof last);
  for (i = 0; i < f->rows; i++) {
    float *c = f->c + i * f->ldc, *before = f->before ? f->before + i * f->ld_before : NULL;
    if (f->bias) tfpi_finish_bias(c, f->bias, f->cols);
    for (j = 0; j < whole; j += TFPI_VN) tfpi_finish_16(c + j, before ? before + j : NULL, kind);
    if (!rest) continue;
    if (before) memcpy(before + whole, c + whole, rest);
    memcpy(last, c + whole, rest);
    tfpi_finish_16(last, NULL, kind);
    memcpy(c + whole, last, rest);
  }
}
static int tfpi_finish_knows(int kind) {
  return kind == TFPI_NO_ACTIVATION || kind == TFPI_NEG || kind == TFPI_EXP || kind == TFPI_TANH ||
         kind == TFPI_SIGMOID || kind == TFPI_RELU || kind == TFPI_SILU || kind == TFPI_GELU ||
         kind == TFPI_GELU_NEW;
}
TFPI_INLINE void tfpi_finish_any(const tfpi_finish *f) {
  switch (f->activation) {
    case TFPI_NEG: tfpi_finish_body(f, TFPI_NEG); break;
    case TFPI_EXP: tfpi_finish_body(f, TFPI_EXP); break;
    case TFPI_TANH: tfpi_finish_body(f, TFPI_TANH); break;
    case TFPI_SIGMOID: tfpi_finish_body(f, TFPI_SIGMOID); break;
    case TFPI_RELU: tfpi_finish_body(f, TFPI_RELU); break;
    case TFPI_SILU: tfpi_finish_body(f, TFPI_SILU); break;
    case TFPI_GELU: tfpi_finish_body(f, TFPI_GELU); break;
    case TFPI_GELU_NEW: tfpi_finish_body(f, TFPI_GELU_NEW); break;
    default: tfpi_finish_body(f, TFPI_NO_ACTIVATION); break;
  }
}
TFPI_TARGET_AVX2 static void tfpi_finish_avx2(const tfpi_finish *f) { tfpi_finish_any(f); }
TFPI_TARGET_AVX512 static void tfpi_finish_avx512(const tfpi_finish *f) { tfpi_finish_any(f); }

TFPI_INLINE void tfpi_block_prefetch(const tfpi_block *t, int64_t at) {
  const char *p;
  if (at >= t->prefetches) return;
  p = t->prefetch[at];
  __builtin_prefetch(p, 0, 2);
  __builtin_prefetch(p + 64, 0, 2);
  __builtin_prefetch(p + 128, 0, 2);
  __builtin_prefetch(p + 192, 0, 2);
}

/* ---- AVX-512: 14 x 32, 28 sums in 32 registers ---- */

enum { TFPI_Z_ROWS = 14, TFPI_Z_COLS = 32, TFPI_Z_PANEL = 16 };
#define TFPI_Z_ALL                                                                                 \
  ((__mmask16)0xFFFF) /* gcc 12 warns in C++ about the plain forms of some intrinsics */

/* One k. Rows are reached from five pointers by 0, rs and 2rs, for with one pointer a row gcc runs
 * out of registers; q is an offset in k that the instructions hold. */
#define TFPI_Z_STEP(q, bs) \
  { \
    const float *const bq = b + (q) * (bs); \
    const __m512 b0 = edge ? _mm512_maskz_loadu_ps(m0, bq) : _mm512_loadu_ps(bq); \
    const __m512 b1 = edge ? _mm512_maskz_loadu_ps(m1, bq + 16) : _mm512_loadu_ps(bq + 16); \
    TFPI_UNROLL \
    for (int i = 0; i < rows; i++) { \
      const float *r = i < 3 ? a0 : i < 6 ? a1 : i < 9 ? a2 : i < 12 ? a3 : a4; \
      const __m512 a = _mm512_set1_ps(r[(i % 3) * rs + (q)]); \
      x0[i] = _mm512_fmadd_ps(a, b0, x0[i]); \
      x1[i] = _mm512_fmadd_ps(a, b1, x1[i]); \
    } \
  }
#define TFPI_Z_NEXT(da, db) a0 += (da), a1 += (da), a2 += (da), a3 += (da), a4 += (da), b += (db)

/* rows and edge are constants in every use. */
TFPI_TARGET_AVX512 TFPI_INLINE void tfpi_block_z(const tfpi_block *t, const int rows,
                                                 const int edge) {
  const int64_t rs = t->rs, cs = t->cs, bs = t->bs, ldc = t->ldc, eights = t->k / 8;
  const float *a0 = t->a, *a1 = a0 + 3 * rs, *a2 = a1 + 3 * rs, *a3 = a2 + 3 * rs,
              *a4 = a3 + 3 * rs;
  const float *b = t->b;
  const __mmask16 m0 = (__mmask16)(t->cols >= 16 ? 0xFFFF : (1 << t->cols) - 1);
  const __mmask16 m1 = (__mmask16)(t->cols >= 32   ? 0xFFFF
                                   : t->cols <= 16 ? 0
                                                   : (1 << (t->cols - 16)) - 1);
  const int lined_up = !edge && cs == 1 && bs == TFPI_Z_COLS;
  float *c = t->c;
  int64_t e, k;
  __m512 x0[TFPI_Z_ROWS], x1[TFPI_Z_ROWS];
  TFPI_UNROLL
  for (int i = 0; i < rows; i++) {
    x0[i] = x1[i] = _mm512_setzero_ps();
    __builtin_prefetch(c + i * ldc, 1);
    __builtin_prefetch(c + i * ldc + 16, 1);
  }
  for (e = 0; e < eights; e++) {
    tfpi_block_prefetch(t, e);
    if (lined_up)
      for (k = 0; k < 2; k++) {
        TFPI_Z_STEP(0, TFPI_Z_COLS) TFPI_Z_STEP(1, TFPI_Z_COLS)
        TFPI_Z_STEP(2, TFPI_Z_COLS) TFPI_Z_STEP(3, TFPI_Z_COLS)
        TFPI_Z_NEXT(4, 4 * TFPI_Z_COLS);
      }
    else
      for (k = 0; k < 8; k++) {
        TFPI_Z_STEP(0, 0)
        TFPI_Z_NEXT(cs, bs);
      }
  }
  for (k = eights * 8; k < t->k; k++) {
    TFPI_Z_STEP(0, 0)
    TFPI_Z_NEXT(cs, bs);
  }
  if (t->accumulate) {
    TFPI_UNROLL
    for (int i = 0; i < rows; i++) {
      const float *o = c + i * ldc;
      x0[i] = _mm512_add_ps(edge ? _mm512_maskz_loadu_ps(m0, o) : _mm512_loadu_ps(o), x0[i]);
      x1[i] =
          _mm512_add_ps(edge ? _mm512_maskz_loadu_ps(m1, o + 16) : _mm512_loadu_ps(o + 16), x1[i]);
    }
  }
  if (t->bias) {
    const __m512 b0 = edge ? _mm512_maskz_loadu_ps(m0, t->bias) : _mm512_loadu_ps(t->bias);
    const __m512 b1 =
        edge ? _mm512_maskz_loadu_ps(m1, t->bias + 16) : _mm512_loadu_ps(t->bias + 16);
    TFPI_UNROLL
    for (int i = 0; i < rows; i++)
      x0[i] = _mm512_add_ps(x0[i], b0), x1[i] = _mm512_add_ps(x1[i], b1);
  }
  TFPI_UNROLL
  for (int i = 0; i < rows; i++, c += ldc) {
    if (edge) {
      _mm512_mask_storeu_ps(c, m0, x0[i]);
      _mm512_mask_storeu_ps(c + 16, m1, x1[i]);
    } else {
      _mm512_storeu_ps(c, x0[i]);
      _mm512_storeu_ps(c + 16, x1[i]);
    }
  }
}
#define TFPI_Z_LIST(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#define TFPI_X(rows)                                                                               \
  TFPI_TARGET_AVX512 static void tfpi_block_z##rows(const tfpi_block *t) {                         \
    tfpi_block_z(t, rows, 0);                                                                      \
  }                                                                                                \
  TFPI_TARGET_AVX512 static void tfpi_edge_z##rows(const tfpi_block *t) {                          \
    tfpi_block_z(t, rows, 1);                                                                      \
  }
TFPI_Z_LIST(TFPI_X)
#undef TFPI_X
#define TFPI_X(rows) , tfpi_block_z##rows
static const tfpi_block_fn tfpi_full_z[] = {NULL TFPI_Z_LIST(TFPI_X)};
#undef TFPI_X
#define TFPI_X(rows) , tfpi_edge_z##rows
static const tfpi_block_fn tfpi_edges_z[] = {NULL TFPI_Z_LIST(TFPI_X)};
#undef TFPI_X

TFPI_TARGET_AVX512 static void tfpi_pack_rows_z(const float *b, int64_t ldb, int64_t k, int64_t n,
                                                float *out) {
  const int64_t whole = n / TFPI_Z_COLS * TFPI_Z_COLS;
  const float *row = b;
  int64_t i, p;
  for (i = 0; i < k; i++, row += ldb) {
    float *o = out + i * TFPI_Z_COLS;
    for (p = 0; p < whole; p += TFPI_Z_COLS, o += TFPI_Z_COLS * k) {
      _mm512_storeu_ps(o, _mm512_loadu_ps(row + p));
      _mm512_storeu_ps(o + 16, _mm512_loadu_ps(row + p + 16));
    }
  }
  if (whole < n) tfpi_pack_rows_any(b + whole, ldb, k, n - whole, out + whole * k, TFPI_Z_COLS);
}
/* Four k of rows 0, 4, 8 and 12 in the four lanes of a register. */
TFPI_TARGET_AVX512 TFPI_INLINE __m512 tfpi_lanes_z(const float *b, int64_t ldb) {
  __m512 z = _mm512_castps128_ps512(_mm_loadu_ps(b));
  z = _mm512_maskz_insertf32x4(TFPI_Z_ALL, z, _mm_loadu_ps(b + 4 * ldb), 1);
  z = _mm512_maskz_insertf32x4(TFPI_Z_ALL, z, _mm_loadu_ps(b + 8 * ldb), 2);
  return _mm512_maskz_insertf32x4(TFPI_Z_ALL, z, _mm_loadu_ps(b + 12 * ldb), 3);
}
TFPI_TARGET_AVX512 static void tfpi_pack_columns_z(const float *b, int64_t ldb, int64_t k,
                                                   int64_t n, float *out) {
  int64_t p, i, j;
  for (p = 0; p < n; p += 16) {
    float *o = out + p / TFPI_Z_COLS * TFPI_Z_COLS * k + p % TFPI_Z_COLS;
    const float *s = b + p * ldb;
    const int64_t m = tfpi_min64(n - p, 16);
    i = 0;
    for (; m == 16 && i + 4 <= k;
         i += 4, s += 4, o += 4 * TFPI_Z_COLS) { /* then 4x4 transposes in lanes */
      const __m512 r0 = tfpi_lanes_z(s, ldb), r1 = tfpi_lanes_z(s + ldb, ldb);
      const __m512 r2 = tfpi_lanes_z(s + 2 * ldb, ldb), r3 = tfpi_lanes_z(s + 3 * ldb, ldb);
      const __m512 u0 = _mm512_maskz_unpacklo_ps(TFPI_Z_ALL, r0, r1),
                   u1 = _mm512_maskz_unpackhi_ps(TFPI_Z_ALL, r0, r1);
      const __m512 u2 = _mm512_maskz_unpacklo_ps(TFPI_Z_ALL, r2, r3),
                   u3 = _mm512_maskz_unpackhi_ps(TFPI_Z_ALL, r2, r3);
      _mm512_storeu_ps(o, _mm512_maskz_shuffle_ps(TFPI_Z_ALL, u0, u2, 0x44));
      _mm512_storeu_ps(o + TFPI_Z_COLS, _mm512_maskz_shuffle_ps(TFPI_Z_ALL, u0, u2, 0xEE));
      _mm512_storeu_ps(o + 2 * TFPI_Z_COLS, _mm512_maskz_shuffle_ps(TFPI_Z_ALL, u1, u3, 0x44));
      _mm512_storeu_ps(o + 3 * TFPI_Z_COLS, _mm512_maskz_shuffle_ps(TFPI_Z_ALL, u1, u3, 0xEE));
    }
    for (; i < k; i++, s++, o += TFPI_Z_COLS)
      for (j = 0; j < 16; j++) o[j] = j < m ? s[j * ldb] : 0;
  }
  if (n % TFPI_Z_COLS && n % TFPI_Z_COLS <= 16)
    tfpi_pack_zero(out + n / TFPI_Z_COLS * TFPI_Z_COLS * k, k, 16, TFPI_Z_COLS);
}

TFPI_TARGET_AVX2 TFPI_INLINE float tfpi_total_y(__m256 x) {
  const __m128 h = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 q = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
TFPI_TARGET_AVX512 TFPI_INLINE void tfpi_dots_z(const tfpi_dots *t, const int mr, const int nr) {
  const __mmask16 rest = (__mmask16)((1 << t->k % 16) - 1);
  int64_t k;
  __m512 s[24];
  TFPI_UNROLL
  for (int i = 0; i < mr * nr; i++) s[i] = _mm512_setzero_ps();
  for (k = 0; k + 16 <= t->k; k += 16) {
    TFPI_UNROLL
    for (int j = 0; j < nr; j++)
      __builtin_prefetch(t->w + (nr + j) * t->ldw + k, 0, 2); /* the next rows of w */
    TFPI_UNROLL
    for (int i = 0; i < mr; i++) {
      const __m512 x = _mm512_loadu_ps(t->x + i * t->ldx + k);
      TFPI_UNROLL
      for (int j = 0; j < nr; j++)
        s[i * nr + j] = _mm512_fmadd_ps(x, _mm512_loadu_ps(t->w + j * t->ldw + k), s[i * nr + j]);
    }
  }
  if (rest) {
    TFPI_UNROLL
    for (int i = 0; i < mr; i++) {
      const __m512 x = _mm512_maskz_loadu_ps(rest, t->x + i * t->ldx + k);
      TFPI_UNROLL
      for (int j = 0; j < nr; j++)
        s[i * nr + j] =
            _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(rest, t->w + j * t->ldw + k), s[i * nr + j]);
    }
  }
  TFPI_UNROLL
  for (int i = 0; i < mr * nr; i++) {
    const __m512 x = s[i];
    float *o = t->out + i / nr * t->ldo + i % nr;
    const __m256 low = _mm512_maskz_extractf32x8_ps((__mmask8)0xFF, x, 0);
    const __m256 high = _mm512_maskz_extractf32x8_ps((__mmask8)0xFF, x, 1);
    const float sum = tfpi_total_y(_mm256_add_ps(low, high));
    *o = t->accumulate ? *o + sum : sum;
  }
}
/* Rows of x and of w: as many sums as hide the latency, and few enough streams of w. */
#define TFPI_DOTS_Z_LIST(X) X(1, 8) X(2, 8) X(3, 8) X(4, 6) X(5, 4) X(6, 4) X(7, 3) X(8, 3)
#define TFPI_X(rows, of_w) \
  TFPI_TARGET_AVX512 static void tfpi_dots_z##rows(const tfpi_dots *t) { \
    tfpi_dots_z(t, rows, of_w); \
  } \
  TFPI_TARGET_AVX512 static void tfpi_dots1_z##rows(const tfpi_dots *t) { tfpi_dots_z(t, rows, 1); }
TFPI_DOTS_Z_LIST(TFPI_X)
#undef TFPI_X
#define TFPI_X(rows, of_w) , tfpi_dots_z##rows
static const tfpi_dots_fn tfpi_dots_list_z[] = {NULL TFPI_DOTS_Z_LIST(TFPI_X)};
#undef TFPI_X
#define TFPI_X(rows, of_w) , tfpi_dots1_z##rows
static const tfpi_dots_fn tfpi_dots1_list_z[] = {NULL TFPI_DOTS_Z_LIST(TFPI_X)};
#undef TFPI_X
#define TFPI_X(rows, of_w) , of_w
static const int tfpi_dots_rows_z[] = {0 TFPI_DOTS_Z_LIST(TFPI_X)};
#undef TFPI_X

/* A few rows by many columns: long runs of each row of B, rows ahead prefetched. */
TFPI_TARGET_AVX512 TFPI_INLINE void tfpi_wide_z(const tfpi_block *t, const int rows,
                                                const int vecs) {
  const int64_t rs = t->rs, cs = t->cs, bs = t->bs;
  const float *a = t->a, *b = t->b;
  int64_t k;
  __m512 x[24];
  TFPI_UNROLL
  for (int i = 0; i < rows * vecs; i++) x[i] = _mm512_setzero_ps();
  for (k = 0; k < t->k; k++, a += cs, b += bs) {
    TFPI_UNROLL
    for (int j = 0; j < vecs; j++) {
      const __m512 y = _mm512_loadu_ps(b + 16 * j);
      if (j * 16 % 16 == 0) __builtin_prefetch(b + TFPI_MM_AHEAD * bs + 16 * j, 0, 2);
      TFPI_UNROLL
      for (int i = 0; i < rows; i++)
        x[i * vecs + j] = _mm512_fmadd_ps(_mm512_set1_ps(a[i * rs]), y, x[i * vecs + j]);
    }
  }
  TFPI_UNROLL
  for (int i = 0; i < rows * vecs; i++) {
    float *c = t->c + i / vecs * t->ldc + i % vecs * 16;
    _mm512_storeu_ps(c, t->accumulate ? _mm512_add_ps(_mm512_loadu_ps(c), x[i]) : x[i]);
  }
}
#define TFPI_WIDE_Z_LIST(X) X(1, 16) X(2, 12) X(3, 8) X(4, 6) X(5, 4) X(6, 4) X(7, 2) X(8, 2)
#define TFPI_X(rows, vecs)                                                                         \
  TFPI_TARGET_AVX512 static void tfpi_wide_z##rows(const tfpi_block *t) {                          \
    tfpi_wide_z(t, rows, vecs);                                                                    \
  }
TFPI_WIDE_Z_LIST(TFPI_X)
#undef TFPI_X
#define TFPI_X(rows, vecs) , tfpi_wide_z##rows
static const tfpi_block_fn tfpi_wide_list_z[] = {NULL TFPI_WIDE_Z_LIST(TFPI_X)};
#undef TFPI_X
#define TFPI_X(rows, vecs) , (vecs) * 16
static const int tfpi_wide_cols_z[] = {0 TFPI_WIDE_Z_LIST(TFPI_X)};
#undef TFPI_X

static const tfpi_mm_level tfpi_mm_avx512 = {
    TFPI_Z_ROWS,      TFPI_Z_COLS,         TFPI_Z_PANEL,      tfpi_full_z,       tfpi_edges_z,
    tfpi_pack_rows_z, tfpi_pack_columns_z, tfpi_dots_list_z,  tfpi_dots1_list_z, tfpi_dots_rows_z,
    tfpi_wide_list_z, tfpi_wide_cols_z,    tfpi_finish_avx512};

/* ---- AVX2: 6 x 16, 12 sums in 16 registers ---- */

enum { TFPI_Y_ROWS = 6, TFPI_Y_COLS = 16, TFPI_Y_PANEL = 8 };

TFPI_TARGET_AVX2 TFPI_INLINE __m256i tfpi_mask_y(int cols) { /* the first cols of 8 lanes */
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(cols), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
TFPI_TARGET_AVX2 TFPI_INLINE void tfpi_block_y(const tfpi_block *t, const int rows,
                                               const int edge) {
  const int64_t rs = t->rs, cs = t->cs, bs = t->bs, ldc = t->ldc;
  const float *a0 = t->a, *a1 = a0 + 3 * rs, *b = t->b;
  const __m256i m0 = tfpi_mask_y(t->cols), m1 = tfpi_mask_y(t->cols - 8);
  float *c = t->c;
  int64_t k = 0;
  __m256 x0[TFPI_Y_ROWS], x1[TFPI_Y_ROWS];
  TFPI_UNROLL
  for (int i = 0; i < rows; i++) {
    x0[i] = x1[i] = _mm256_setzero_ps();
    __builtin_prefetch(c + i * ldc, 1);
  }
  while (k < t->k) {
    const int64_t stop = tfpi_min64(k + 8, t->k);
    tfpi_block_prefetch(t, k / 8);
    for (; k < stop; k++, a0 += cs, a1 += cs, b += bs) {
      const __m256 b0 = edge ? _mm256_maskload_ps(b, m0) : _mm256_loadu_ps(b);
      const __m256 b1 = edge ? _mm256_maskload_ps(b + 8, m1) : _mm256_loadu_ps(b + 8);
      TFPI_UNROLL
      for (int i = 0; i < rows; i++) {
        const __m256 a = _mm256_set1_ps((i < 3 ? a0 : a1)[(i % 3) * rs]);
        x0[i] = _mm256_fmadd_ps(a, b0, x0[i]);
        x1[i] = _mm256_fmadd_ps(a, b1, x1[i]);
      }
    }
  }
  if (t->accumulate) {
    TFPI_UNROLL
    for (int i = 0; i < rows; i++) {
      const float *o = c + i * ldc;
      x0[i] = _mm256_add_ps(edge ? _mm256_maskload_ps(o, m0) : _mm256_loadu_ps(o), x0[i]);
      x1[i] = _mm256_add_ps(edge ? _mm256_maskload_ps(o + 8, m1) : _mm256_loadu_ps(o + 8), x1[i]);
    }
  }
  if (t->bias) {
    const __m256 b0 = edge ? _mm256_maskload_ps(t->bias, m0) : _mm256_loadu_ps(t->bias);
    const __m256 b1 = edge ? _mm256_maskload_ps(t->bias + 8, m1) : _mm256_loadu_ps(t->bias + 8);
    TFPI_UNROLL
    for (int i = 0; i < rows; i++)
      x0[i] = _mm256_add_ps(x0[i], b0), x1[i] = _mm256_add_ps(x1[i], b1);
  }
  TFPI_UNROLL
  for (int i = 0; i < rows; i++, c += ldc) {
    if (edge) {
      _mm256_maskstore_ps(c, m0, x0[i]);
      _mm256_maskstore_ps(c + 8, m1, x1[i]);
    } else {
      _mm256_storeu_ps(c, x0[i]);
      _mm256_storeu_ps(c + 8, x1[i]);
    }
  }
}
#define TFPI_Y_LIST(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define TFPI_X(rows) \
  TFPI_TARGET_AVX2 static void tfpi_block_y##rows(const tfpi_block *t) { \
    tfpi_block_y(t, rows, 0); \
  } \
  TFPI_TARGET_AVX2 static void tfpi_edge_y##rows(const tfpi_block *t) { tfpi_block_y(t, rows, 1); }
TFPI_Y_LIST(TFPI_X)
#undef TFPI_X
#define TFPI_X(rows) , tfpi_block_y##rows
static const tfpi_block_fn tfpi_full_y[] = {NULL TFPI_Y_LIST(TFPI_X)};
#undef TFPI_X
#define TFPI_X(rows) , tfpi_edge_y##rows
static const tfpi_block_fn tfpi_edges_y[] = {NULL TFPI_Y_LIST(TFPI_X)};
#undef TFPI_X

static void tfpi_pack_rows_y(const float *b, int64_t ldb, int64_t k, int64_t n, float *out) {
  tfpi_pack_rows_any(b, ldb, k, n, out, TFPI_Y_COLS);
}
TFPI_TARGET_AVX2 TFPI_INLINE __m256 tfpi_lanes_y(const float *b, int64_t ldb) { /* rows 0 and 4 */
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(b)), _mm_loadu_ps(b + 4 * ldb),
                              1);
}
TFPI_TARGET_AVX2 static void tfpi_pack_columns_y(const float *b, int64_t ldb, int64_t k, int64_t n,
                                                 float *out) {
  int64_t p, i, j;
  for (p = 0; p < n; p += 8) {
    float *o = out + p / TFPI_Y_COLS * TFPI_Y_COLS * k + p % TFPI_Y_COLS;
    const float *s = b + p * ldb;
    const int64_t m = tfpi_min64(n - p, 8);
    i = 0;
    for (; m == 8 && i + 4 <= k; i += 4, s += 4, o += 4 * TFPI_Y_COLS) {
      const __m256 r0 = tfpi_lanes_y(s, ldb), r1 = tfpi_lanes_y(s + ldb, ldb);
      const __m256 r2 = tfpi_lanes_y(s + 2 * ldb, ldb), r3 = tfpi_lanes_y(s + 3 * ldb, ldb);
      const __m256 u0 = _mm256_unpacklo_ps(r0, r1), u1 = _mm256_unpackhi_ps(r0, r1);
      const __m256 u2 = _mm256_unpacklo_ps(r2, r3), u3 = _mm256_unpackhi_ps(r2, r3);
      _mm256_storeu_ps(o, _mm256_shuffle_ps(u0, u2, 0x44));
      _mm256_storeu_ps(o + TFPI_Y_COLS, _mm256_shuffle_ps(u0, u2, 0xEE));
      _mm256_storeu_ps(o + 2 * TFPI_Y_COLS, _mm256_shuffle_ps(u1, u3, 0x44));
      _mm256_storeu_ps(o + 3 * TFPI_Y_COLS, _mm256_shuffle_ps(u1, u3, 0xEE));
    }
    for (; i < k; i++, s++, o += TFPI_Y_COLS)
      for (j = 0; j < 8; j++) o[j] = j < m ? s[j * ldb] : 0;
  }
  if (n % TFPI_Y_COLS && n % TFPI_Y_COLS <= 8)
    tfpi_pack_zero(out + n / TFPI_Y_COLS * TFPI_Y_COLS * k, k, 8, TFPI_Y_COLS);
}

TFPI_TARGET_AVX2 TFPI_INLINE void tfpi_dots_y(const tfpi_dots *t, const int mr, const int nr) {
  const __m256i rest = tfpi_mask_y((int)(t->k % 8));
  int64_t k;
  __m256 s[12];
  TFPI_UNROLL
  for (int i = 0; i < mr * nr; i++) s[i] = _mm256_setzero_ps();
  for (k = 0; k + 8 <= t->k; k += 8) {
    TFPI_UNROLL
    for (int j = 0; j < nr; j++)
      __builtin_prefetch(t->w + (nr + j) * t->ldw + k, 0, 2); /* the next rows of w */
    TFPI_UNROLL
    for (int i = 0; i < mr; i++) {
      const __m256 x = _mm256_loadu_ps(t->x + i * t->ldx + k);
      TFPI_UNROLL
      for (int j = 0; j < nr; j++)
        s[i * nr + j] = _mm256_fmadd_ps(x, _mm256_loadu_ps(t->w + j * t->ldw + k), s[i * nr + j]);
    }
  }
  if (t->k % 8) {
    TFPI_UNROLL
    for (int i = 0; i < mr; i++) {
      const __m256 x = _mm256_maskload_ps(t->x + i * t->ldx + k, rest);
      TFPI_UNROLL
      for (int j = 0; j < nr; j++)
        s[i * nr + j] =
            _mm256_fmadd_ps(x, _mm256_maskload_ps(t->w + j * t->ldw + k, rest), s[i * nr + j]);
    }
  }
  TFPI_UNROLL
  for (int i = 0; i < mr * nr; i++) {
    float *o = t->out + i / nr * t->ldo + i % nr;
    const float sum = tfpi_total_y(s[i]);
    *o = t->accumulate ? *o + sum : sum;
  }
}
#define TFPI_DOTS_Y_LIST(X) X(1, 8) X(2, 4) X(3, 4) X(4, 2) X(5, 2) X(6, 2) X(7, 1) X(8, 1)
#define TFPI_X(rows, of_w) \
  TFPI_TARGET_AVX2 static void tfpi_dots_y##rows(const tfpi_dots *t) { \
    tfpi_dots_y(t, rows, of_w); \
  } \
  TFPI_TARGET_AVX2 static void tfpi_dots1_y##rows(const tfpi_dots *t) { tfpi_dots_y(t, rows, 1); }
TFPI_DOTS_Y_LIST(TFPI_X)
#undef TFPI_X
#define TFPI_X(rows, of_w) , tfpi_dots_y##rows
static const tfpi_dots_fn tfpi_dots_list_y[] = {NULL TFPI_DOTS_Y_LIST(TFPI_X)};
#undef TFPI_X
#define TFPI_X(rows, of_w) , tfpi_dots1_y##rows
static const tfpi_dots_fn tfpi_dots1_list_y[] = {NULL TFPI_DOTS_Y_LIST(TFPI_X)};
#undef TFPI_X
#define TFPI_X(rows, of_w) , of_w
static const int tfpi_dots_rows_y[] = {0 TFPI_DOTS_Y_LIST(TFPI_X)};
#undef TFPI_X

TFPI_TARGET_AVX2 TFPI_INLINE void tfpi_wide_y(const tfpi_block *t, const int rows, const int vecs) {
  const int64_t rs = t->rs, cs = t->cs, bs = t->bs;
  const float *a = t->a, *b = t->b;
  int64_t k;
  __m256 x[12];
  TFPI_UNROLL
  for (int i = 0; i < rows * vecs; i++) x[i] = _mm256_setzero_ps();
  for (k = 0; k < t->k; k++, a += cs, b += bs) {
    TFPI_UNROLL
    for (int j = 0; j < vecs; j++) {
      const __m256 y = _mm256_loadu_ps(b + 8 * j);
      if (j * 8 % 16 == 0) __builtin_prefetch(b + TFPI_MM_AHEAD * bs + 8 * j, 0, 2);
      TFPI_UNROLL
      for (int i = 0; i < rows; i++)
        x[i * vecs + j] = _mm256_fmadd_ps(_mm256_set1_ps(a[i * rs]), y, x[i * vecs + j]);
    }
  }
  TFPI_UNROLL
  for (int i = 0; i < rows * vecs; i++) {
    float *c = t->c + i / vecs * t->ldc + i % vecs * 8;
    _mm256_storeu_ps(c, t->accumulate ? _mm256_add_ps(_mm256_loadu_ps(c), x[i]) : x[i]);
  }
}
#define TFPI_WIDE_Y_LIST(X) X(1, 8) X(2, 6) X(3, 4) X(4, 2) X(5, 2) X(6, 2) X(7, 1) X(8, 1)
#define TFPI_X(rows, vecs)                                                                         \
  TFPI_TARGET_AVX2 static void tfpi_wide_y##rows(const tfpi_block *t) {                            \
    tfpi_wide_y(t, rows, vecs);                                                                    \
  }
TFPI_WIDE_Y_LIST(TFPI_X)
#undef TFPI_X
#define TFPI_X(rows, vecs) , tfpi_wide_y##rows
static const tfpi_block_fn tfpi_wide_list_y[] = {NULL TFPI_WIDE_Y_LIST(TFPI_X)};
#undef TFPI_X
#define TFPI_X(rows, vecs) , (vecs) * 8
static const int tfpi_wide_cols_y[] = {0 TFPI_WIDE_Y_LIST(TFPI_X)};
#undef TFPI_X

static const tfpi_mm_level tfpi_mm_avx2 = {
    TFPI_Y_ROWS,      TFPI_Y_COLS,         TFPI_Y_PANEL,     tfpi_full_y,       tfpi_edges_y,
    tfpi_pack_rows_y, tfpi_pack_columns_y, tfpi_dots_list_y, tfpi_dots1_list_y, tfpi_dots_rows_y,
    tfpi_wide_list_y, tfpi_wide_cols_y,    tfpi_finish_avx2};

/* ---- the driver ---- */

/* What a thread has packed: operand, and number of the part of it (-1: nothing). */
typedef struct tfpi_mm_have { const float *a, *b; int64_t a_part, b_part; } tfpi_mm_have;

/* A product with names for its strides. Row panels are even shares of M of at most level->rows rows
   each (19 of 13 or 14 rows make 256, not 18 of 14 and one of 4), strips are even shares of N. */
typedef struct tfpi_mm {
  tfp_ctx *ctx;
  const tfpi_mm_level *level;
  const float *a, *b, *bias;
  float *c, *before;
  int64_t M, N, K, a_row, a_col, b_row, b_col, ldc, ld_before; /* b_row: along K, b_col: along N */
  int axes;
  int64_t size[TFP_MAX_DIMS], a_step[TFP_MAX_DIMS], b_step[TFP_MAX_DIMS], c_step[TFP_MAX_DIMS],
      before_step[TFP_MAX_DIMS], batches;
  int activation, accumulate, pack_a, by_columns,
      in_place; /* B: packed by columns, or not packed */
  int64_t kblocks, row_panels, col_panels, strips;
  int64_t chunks, groups; /* tiles of a batch: chunks of row panels times groups of strips */
  int64_t tiles;          /* of all batches */
  tfpi_task task;
  tfpi_mm_have *have;     /* [threads] */
} tfpi_mm;

enum { /* floats of scratch for packed panels */
  TFPI_MM_PACK_B = TFPI_MM_LONGEST * TFPI_MM_STRIP,
  TFPI_MM_PACK_A = (TFPI_MM_ROWS_T / TFPI_Y_ROWS + 3) * (TFPI_MM_LONGEST + 1) * TFPI_Y_PANEL
};

static int64_t tfpi_mm_k(const tfpi_mm *j, int64_t kb) { /* where K block kb begins */
  return kb >= j->kblocks ? j->K : j->K * kb / j->kblocks / 8 * 8;
}
static int64_t tfpi_mm_n(const tfpi_mm *j, int64_t strip) {
  return tfpi_min64(j->col_panels * strip / j->strips * j->level->cols, j->N);
}
static int64_t tfpi_mm_m(const tfpi_mm *j, int64_t panel) { return j->M * panel / j->row_panels; }

/* Sets the pointers of batch `index`. */
static void tfpi_mm_seek(tfpi_mm *j, int64_t index) {
  int e;
  for (e = j->axes - 1; e >= 0; e--) {
    const int64_t i = index % j->size[e];
    index /= j->size[e];
    j->a += i * j->a_step[e];
    j->b += i * j->b_step[e];
    j->c += i * j->c_step[e];
    if (j->before) j->before += i * j->before_step[e];
  }
}

/* A rectangle of memory that is still to be prefetched. */
typedef struct tfpi_runs { const char *row; int64_t stride, rows, bytes, at; } tfpi_runs;

static void tfpi_runs_set(tfpi_runs *r, const float *p, int64_t ld, int64_t rows, int64_t cols) {
  r->row = (const char *)p;
  r->stride = ld * (int64_t)sizeof *p;
  r->rows = rows > 0 && cols > 0 ? rows : 0;
  r->bytes = cols * (int64_t)sizeof *p;
  r->at = 0;
}
static int64_t tfpi_runs_take(tfpi_runs *r, const char **list, int64_t n, int64_t max) {
  while (n < max && r->rows > 0) {
    list[n++] = r->row + r->at;
    r->at += 256;
    if (r->at >= r->bytes) r->at = 0, r->row += r->stride, r->rows--;
  }
  return n;
}
/* The share of what is left that one of `calls` blocks should fetch. */
static int64_t tfpi_runs_share(const tfpi_runs *r, int64_t calls) {
  return (r->rows * ((r->bytes + 255) / 256) + calls - 1) / calls;
}

/* Rows of a transposed A as panels [panel][k][level->panel], with a spare row after each panel,
 * which keeps panels off each other's cache sets. */
#define TFPI_MM_PANEL(j, kc) (((kc) + 1) * (j)->level->panel)
static void tfpi_mm_pack_a(const tfpi_mm *j, const float *a, int64_t kc, int64_t p0, int64_t p1,
                           float *out) {
  const int64_t width = j->level->panel, base = tfpi_mm_m(j, p0);
  int64_t i, p;
  for (p = p0; p < p1; p++, out += width) {
    const int64_t m = tfpi_mm_m(j, p);
    const float *from = a + m - base;
    for (i = 0; i < kc; i++, from += j->a_col, out += width) {
      if (m + width > j->M) memcpy(out, from, (size_t)(j->M - m) * sizeof *out);
      else if (width == TFPI_Z_PANEL)
        memcpy(out, from, TFPI_Z_PANEL * sizeof *out); /* constants: no call */
      else memcpy(out, from, TFPI_Y_PANEL * sizeof *out);
    }
  }
}

/* Rows whose distance is near a multiple of 2 KiB share a few sets of the first-level cache, more
 * rows than there are ways: such a panel is copied, with an odd number of cache lines from row to
 * row. */
static int tfpi_mm_rows_collide(int64_t stride) {
  const int64_t bytes = (stride < 0 ? -stride : stride) * (int64_t)sizeof(float) % 2048;
  return stride && (bytes < 64 || bytes > 2048 - 64);
}
#define TFPI_MM_APART(k) (((k) + 31) / 32 * 32 + 16)
static void tfpi_mm_copy_rows(const float *a, int64_t stride, int64_t rows, int64_t k, float *out,
                              int64_t ld) {
  int64_t i;
  for (i = 0; i < rows; i++) memcpy(out + i * ld, a + i * stride, (size_t)k * sizeof *out);
}

/* One K block of a chunk of row panels times one strip. */
typedef struct tfpi_mm_part {
  int64_t p0, p1, n0, n1, k0, k1; /* row panels, columns, k */
  int first, last;                /* K block */
  float *copy;                    /* room for a panel of A whose rows meet in the cache; or NULL */
  const float *a, *b;             /* packed; NULL where the operand is read in place */
  tfpi_runs ahead;                /* the strip that comes next */
} tfpi_mm_part;

/* What follows the sum in the block at (m,n); bias is NULL where the block has added it. */
static void tfpi_mm_finish(const tfpi_mm *j, const float *bias, int64_t m, int64_t rows, int64_t n,
                           int64_t cols) {
  tfpi_finish f;
  if (!bias && !j->before && j->activation == TFPI_NO_ACTIVATION) return;
  f.c = j->c + m * j->ldc + n, f.ldc = j->ldc, f.rows = rows, f.cols = cols,
  f.activation = j->activation;
  f.bias = bias ? bias + n : NULL;
  f.before = j->before ? j->before + m * j->ld_before + n : NULL, f.ld_before = j->ld_before;
  j->level->finish(&f);
}

static void tfpi_mm_rows(const tfpi_mm *j, tfpi_mm_part *w) {
  const tfpi_mm_level *L = j->level;
  const int64_t kc = w->k1 - w->k0, across = tfpi_ceil_div(w->n1 - w->n0, L->cols);
  const int64_t most = kc / 8;
  const char *list[TFPI_MM_RUNS];
  int64_t p, n, left = (w->p1 - w->p0) * across; /* calls to come: they share the prefetches */
  tfpi_block t;
  memset(&t, 0, sizeof t);
  t.k = kc, t.ldc = j->ldc, t.accumulate = !w->first || j->accumulate, t.prefetch = list;
  t.bs = w->b ? L->cols : j->b_row;
  for (p = w->p0; p < w->p1; p++) {
    const int64_t m0 = tfpi_mm_m(j, p), rows = tfpi_mm_m(j, p + 1) - m0;
    const int64_t next = p + 1 < w->p1 ? tfpi_mm_m(j, p + 2) - m0 - rows : 0;
    int64_t of_row = across;
    tfpi_runs ahead;
    if (w->a) {
      t.a = w->a + (p - w->p0) * TFPI_MM_PANEL(j, kc), t.rs = 1, t.cs = L->panel;
      tfpi_runs_set(&ahead, t.a + TFPI_MM_PANEL(j, kc), 0, next > 0, TFPI_MM_PANEL(j, kc));
    } else {
      t.a = j->a + m0 * j->a_row + w->k0 * j->a_col, t.rs = j->a_row, t.cs = j->a_col;
      tfpi_runs_set(&ahead, t.a + rows * j->a_row, j->a_row, j->a_col == 1 ? next : 0, kc);
      if (w->copy) {
        tfpi_mm_copy_rows(t.a, t.rs, rows, kc, w->copy, TFPI_MM_APART(kc));
        t.a = w->copy, t.rs = TFPI_MM_APART(kc);
      }
    }
    n = w->n0;
    if (j->M <= TFPI_MM_SKINNY && !w->b)
      for (; n + L->wide_cols[rows] <= w->n1; n += L->wide_cols[rows]) {
        t.b = j->b + w->k0 * j->b_row + n;
        t.c = j->c + m0 * j->ldc + n;
        L->wide[rows](&t);
        if (w->last) tfpi_mm_finish(j, j->bias, m0, rows, n, L->wide_cols[rows]);
      }
    for (; n < w->n1; n += L->cols, left--, of_row--) {
      const int64_t of_a = tfpi_runs_share(&ahead, of_row), of_b = tfpi_runs_share(&w->ahead, left);
      t.prefetches = tfpi_runs_take(&ahead, list, 0, tfpi_min64(of_a, most));
      t.prefetches =
          tfpi_runs_take(&w->ahead, list, t.prefetches, tfpi_min64(t.prefetches + of_b, most));
      t.b = w->b ? w->b + (n - w->n0) * kc : j->b + w->k0 * j->b_row + n;
      t.c = j->c + m0 * j->ldc + n;
      t.cols = (int)tfpi_min64(w->n1 - n, L->cols);
      t.bias = w->last && j->bias ? j->bias + n : NULL;
      (t.cols == L->cols ? L->full : L->edge)[rows](&t);
      if (w->last) tfpi_mm_finish(j, NULL, m0, rows, n, t.cols);
    }
  }
}

/* What is packed after this part: the same strip at the next k, or the next strip. */
static void tfpi_mm_look_ahead(const tfpi_mm *j, tfpi_mm_part *w, int64_t kb, int next_k) {
  const int64_t k0 = tfpi_mm_k(j, kb + next_k), k1 = tfpi_mm_k(j, kb + next_k + 1);
  const int64_t n0 = next_k ? w->n0 : w->n1, n1 = tfpi_min64(n0 + w->n1 - w->n0, j->N);
  if (j->in_place) tfpi_runs_set(&w->ahead, NULL, 0, 0, 0);
  else if (j->by_columns)
    tfpi_runs_set(&w->ahead, j->b + n0 * j->b_col + k0, j->b_col, n1 - n0, k1 - k0);
  else tfpi_runs_set(&w->ahead, j->b + k0 * j->b_row + n0, j->b_row, k1 - k0, n1 - n0);
}

static void tfpi_mm_tile(void *arg, int64_t index, int thread) {
  tfpi_mm job = *(const tfpi_mm *)arg, *j = &job;
  tfpi_mm_have *have = &j->have[thread];
  float *room_b = (float *)tfpi_scratch(j->ctx, thread), *room_a = room_b + TFPI_MM_PACK_B;
  const int64_t tile = index % (j->chunks * j->groups);
  /* the order of tiles keeps what is packed: A for a row of groups, B for a column of chunks */
  const int64_t chunk = j->pack_a ? tile / j->groups : tile % j->chunks;
  const int64_t group = j->pack_a ? tile % j->groups : tile / j->chunks;
  const int64_t s0 = j->strips * group / j->groups, s1 = j->strips * (group + 1) / j->groups;
  int64_t kb, s;
  tfpi_mm_part w;
  tfpi_mm_seek(j, index / (j->chunks * j->groups));
  w.p0 = j->row_panels * chunk / j->chunks, w.p1 = j->row_panels * (chunk + 1) / j->chunks;
  for (kb = 0; kb < j->kblocks; kb++) {
    w.k0 = tfpi_mm_k(j, kb), w.k1 = tfpi_mm_k(j, kb + 1);
    w.first = kb == 0, w.last = kb + 1 == j->kblocks;
    w.a = j->pack_a ? room_a : NULL;
    w.copy = !j->pack_a && j->a_col == 1 && j->col_panels > 2 && tfpi_mm_rows_collide(j->a_row)
                 ? room_a
                 : NULL;
    if (j->pack_a && (have->a != j->a || have->a_part != chunk * j->kblocks + kb)) {
      const float *from = j->a + w.k0 * j->a_col + tfpi_mm_m(j, w.p0);
      tfpi_mm_pack_a(j, from, w.k1 - w.k0, w.p0, w.p1, room_a);
      have->a = j->a, have->a_part = chunk * j->kblocks + kb;
    }
    for (s = s0; s < s1; s++) {
      w.n0 = tfpi_mm_n(j, s), w.n1 = tfpi_mm_n(j, s + 1);
      w.b = j->in_place ? NULL : room_b;
      if (!j->in_place && (have->b != j->b || have->b_part != s * j->kblocks + kb)) {
        const float *from = j->b + w.k0 * j->b_row + w.n0 * j->b_col;
        if (j->by_columns) j->level->pack_columns(from, j->b_col, w.k1 - w.k0, w.n1 - w.n0, room_b);
        else j->level->pack_rows(from, j->b_row, w.k1 - w.k0, w.n1 - w.n0, room_b);
        have->b = j->b, have->b_part = s * j->kblocks + kb;
      }
      tfpi_mm_look_ahead(j, &w, kb, s + 1 == s1 && kb + 1 < j->kblocks);
      tfpi_mm_rows(j, &w);
    }
  }
}

/* ---- a few rows: B passes by once ---- */

/* A share of the rows of a weight matrix (N,K), which is B with unit stride in K, against all rows
 * of A. */
static void tfpi_mm_dots_tile(void *arg, int64_t index, int thread) {
  tfpi_mm job = *(const tfpi_mm *)arg, *j = &job;
  const int64_t strip = index % j->strips;
  const int64_t n0 = j->N * strip / j->strips, n1 = j->N * (strip + 1) / j->strips;
  const int rows = (int)j->M, step = j->level->dots_rows[rows];
  int64_t n = n0;
  tfpi_dots t;
  tfpi_mm_seek(j, index / j->strips);
  t.k = j->K, t.ldx = j->a_row, t.ldw = j->b_col, t.ldo = j->ldc;
  t.x = j->a, t.accumulate = j->accumulate;
  if (rows > 1 && tfpi_mm_rows_collide(j->a_row) && rows * TFPI_MM_APART(j->K) <= TFPI_MM_PACK_A) {
    float *room = (float *)tfpi_scratch(j->ctx, thread);
    if (j->have[thread].a != j->a)
      tfpi_mm_copy_rows(j->a, j->a_row, rows, j->K, room, TFPI_MM_APART(j->K));
    j->have[thread].a = j->a, t.x = room, t.ldx = TFPI_MM_APART(j->K);
  }
  while (n < n1) {
    const int all = n + step <= n1;
    t.w = j->b + n * j->b_col, t.out = j->c + n;
    (all ? j->level->dots : j->level->dots1)[rows](&t);
    n += all ? step : 1;
  }
  tfpi_mm_finish(j, j->bias, 0, j->M, n0, n1 - n0);
}

/* ---- shapes ---- */

/* At least n, at most `most`, and such that n*others tiles are equally many for each thread, if one
 * can. */
static int64_t tfpi_mm_even(int64_t n, int64_t most, int64_t others, int64_t threads) {
  int64_t i;
  n = tfpi_max64(tfpi_min64(n, most), 1);
  for (i = n; i <= most && i < n + threads; i++)
    if (i * others % threads == 0) return i;
  for (i = n; i > 1 && i > n - threads; i--)
    if (i * others % threads == 0) return i;
  return n;
}

/* The tiles. Threads may shape the grid, for it moves no sum. */
static void tfpi_mm_grid(tfpi_mm *j, int64_t threads) {
  const double work = (double)j->M * (double)j->N * (double)j->K;
  const int64_t most =
      work < 5e8 ? (int64_t)(work / 5e5) + 1 : 1000; /* tiles of 20 microseconds or more */
  const int64_t longest = tfpi_min64(tfpi_ceil_div(j->K, j->kblocks) + 8, TFPI_MM_LONGEST);
  const int64_t strip =
      tfpi_min64(TFPI_MM_PACK_B / longest, TFPI_MM_STRIP_MOST) / j->level->cols * j->level->cols;
  int64_t want =
      tfpi_ceil_div(tfpi_max64(tfpi_min64(4 * threads, most * j->batches), threads), j->batches);
  if (threads == 1) want = 1;
  j->strips = tfpi_ceil_div(j->col_panels * j->level->cols, strip);
  if (j->pack_a) {
    const int64_t least = tfpi_ceil_div(j->M, TFPI_MM_ROWS_T);
    if (j->N >= j->M) { /* each thread packs all of A and its part of B */
      j->chunks = least;
      j->strips = tfpi_max64(j->strips, tfpi_ceil_div(want, least));
      j->strips = tfpi_mm_even(j->strips, j->col_panels, j->batches * least, threads);
      j->groups = j->kblocks == 1 ? j->strips : tfpi_min64(j->strips, tfpi_min64(want, threads));
    } else {
      j->chunks = tfpi_max64(least, tfpi_min64(want, j->row_panels / 8));
      j->chunks =
          tfpi_mm_even(j->chunks, tfpi_max64(j->row_panels / 4, least), j->batches, threads);
      j->groups = tfpi_min64(j->strips, tfpi_ceil_div(tfpi_min64(want, threads), j->chunks));
    }
  } else {
    const int64_t least = tfpi_ceil_div(j->M, TFPI_MM_ROWS);
    const int64_t thin =
        j->kblocks == 1 || j->in_place ? 4 : 14; /* panels that pay for packing B once more */
    j->chunks = tfpi_max64(least, tfpi_min64(tfpi_ceil_div(want, j->strips), j->row_panels / thin));
    if (j->strips * j->chunks < tfpi_min64(want, threads))
      j->strips = tfpi_min64(j->col_panels, tfpi_ceil_div(want, j->chunks));
    else if (want > 1)
      j->chunks = tfpi_mm_even(j->chunks, tfpi_max64(j->row_panels / thin, j->chunks),
                               j->batches * j->strips, threads);
    j->groups = j->strips;
  }
}

/* Batch axes that only lengthen M (A's follow its rows, B is the same for all) become part of it.
 * */
static void tfpi_mm_fold(tfpi_mm *j) {
  while (j->axes > 0) {
    const int e = j->axes - 1;
    if (j->size[e] != 1) {
      if (j->b_step[e] != 0) return;
      if (j->M == 1) {
        j->a_row = j->a_step[e], j->ldc = j->c_step[e], j->ld_before = j->before_step[e];
      } else if (j->a_step[e] != j->M * j->a_row || j->c_step[e] != j->M * j->ldc ||
                 (j->before && j->before_step[e] != j->M * j->ld_before)) {
        return;
      }
      j->M *= j->size[e];
    }
    j->axes--;
  }
}

/* Fills in a job; 0 if the operands are laid out in a way that is left to the plain kernel. */
static int tfpi_mm_open(tfp_ctx *ctx, const tfpi_mm_level *level, const tfpi_matmul_args *x,
                        tfpi_mm *j) {
  const int n = x->c->ndim - 1, m = n - 1;
  int e;
  memset(j, 0, sizeof *j);
  j->ctx = ctx, j->level = level;
  j->a = tfpi_data(x->a), j->b = tfpi_data(x->b), j->c = tfpi_data(x->c);
  j->bias = x->bias ? tfpi_data(x->bias) : NULL;
  j->before = x->before ? tfpi_data(x->before) : NULL;
  j->activation = x->activation, j->accumulate = x->accumulate;
  j->M = x->c->shape[m], j->N = x->c->shape[n], j->K = x->a->shape[n];
  j->a_row = x->a->stride[m], j->a_col = j->K == 1 ? 1 : x->a->stride[n];
  j->b_row = j->K == 1 ? 1 : x->b->stride[m], j->b_col = x->b->stride[n];
  j->ldc = x->c->stride[m], j->ld_before = x->before ? x->before->stride[m] : 0;
  for (e = 0; e < m; e++) {
    j->size[e] = x->c->shape[e];
    j->a_step[e] = x->a->shape[e] == 1 ? 0 : x->a->stride[e];
    j->b_step[e] = x->b->shape[e] == 1 ? 0 : x->b->stride[e];
    j->c_step[e] = x->c->stride[e];
    j->before_step[e] = x->before ? x->before->stride[e] : 0;
  }
  j->axes = m;
  tfpi_mm_fold(j);
  for (e = 0, j->batches = 1; e < j->axes; e++) j->batches *= j->size[e];
  j->by_columns = j->b_col != 1 && j->N != 1;
  if (j->by_columns && j->b_row != 1) return 0;
  if (j->N > 1 && (x->c->stride[n] != 1 || (x->bias && x->bias->stride[0] != 1) ||
                   (x->before && x->before->stride[n] != 1))) return 0;
  return tfpi_finish_knows(j->activation);
}

/* All tiles, by the threads or, where waking them takes longer than the work, by the caller alone.
 * */
static void tfpi_mm_alone(void *arg, int64_t index, int thread) {
  const tfpi_mm *j = (const tfpi_mm *)arg;
  for (index = 0; index < j->tiles; index++) j->task(arg, index, thread);
}
static void tfpi_mm_start(tfpi_mm *j, int64_t tiles_of_a_batch, int64_t threads, tfpi_task task) {
  j->tiles = j->batches * tiles_of_a_batch, j->task = task;
  if (threads == 1) tfpi_parallel(j->ctx, 1, tfpi_mm_alone, j);
  else tfpi_parallel(j->ctx, j->tiles, task, j);
}

static void tfpi_mm_run(tfp_ctx *ctx, const tfpi_mm_level *level, const tfpi_matmul_args *x) {
  tfpi_mm j;
  tfpi_mm_have have[TFP_MAX_THREADS];
  int64_t threads = ctx->threads, i;
  if (!tfpi_mm_open(ctx, level, x, &j)) {
    tfpi_matmul_plain(ctx, x);
    return;
  }
  if (j.M <= 0 || j.N <= 0 || j.batches <= 0) return;
  if ((double)j.M * (double)j.N * (double)j.K * (double)j.batches < 2e5)
    threads = 1; /* not worth a wake */
  j.have = have;
  for (i = 0; i < ctx->threads; i++)
    have[i].a = have[i].b = NULL, have[i].a_part = have[i].b_part = -1;
  if (j.M <= TFPI_MM_SKINNY && j.by_columns && j.a_col == 1) {
    j.strips = tfpi_ceil_div(j.N, tfpi_max64(16384 / tfpi_max64(j.K, 1), 8));
    tfpi_mm_start(&j, j.strips, threads, tfpi_mm_dots_tile);
    return;
  }
  j.kblocks = tfpi_max64(tfpi_ceil_div(j.K, TFPI_MM_K), 1);
  j.row_panels = tfpi_ceil_div(j.M, level->rows);
  j.col_panels = tfpi_ceil_div(j.N, level->cols);
  j.in_place = !j.by_columns && (j.row_panels <= 2 || j.K * j.N <= 4096);
  j.pack_a = j.a_row == 1 && j.a_col != 1 && j.M > TFPI_MM_SKINNY && j.col_panels > 2;
  tfpi_mm_grid(&j, threads);
  tfpi_mm_start(&j, j.chunks * j.groups, threads, tfpi_mm_tile);
}

static void tfpi_matmul_avx2(tfp_ctx *ctx, const tfpi_matmul_args *x) {
  tfpi_mm_run(ctx, &tfpi_mm_avx2, x);
}
static void tfpi_matmul_avx512(tfp_ctx *ctx, const tfpi_matmul_args *x) {
  tfpi_mm_run(ctx, &tfpi_mm_avx512, x);
}
#endif /* TFPI_SIMD */
#if defined(TFPI_SIMD)
/* ---- attention ----------------------------------------------------------------------------------
 * A tile of queries meets the keys block by block: scores into scratch by register blocks, one pass
 * over the rows makes them weights, register blocks again for what the weights multiply. No buffer
 * grows with T or S. Every query has a range of keys that it may see (causality, documents, the
 * ends of the mask); a panel of rows works on the union of its ranges, so that what lies above the
 * diagonal is left out to the width of a block, and everything else (mask, ALiBi, T5's bias) is
 * added to the rows. With all keys in one block there is no rescaling; with more, the running
 * maximum of online softmax. */
enum {
  TFPI_ATT_ROWS = 70,  /* most queries of a tile: five panels of 14 */
  TFPI_ATT_KEYS = 512, /* keys of a block */
  TFPI_ATT_LD =
      TFPI_ATT_KEYS + 16,  /* floats between rows of scores: an odd number of cache lines */
  TFPI_ATT_PACK = 1 << 18, /* floats of packed keys: all of a head's where they fit, else a block */
  TFPI_ATT_WIDEST = TFPI_ATT_PACK / TFPI_ATT_KEYS,
  TFPI_ATT_PANELS = (TFPI_ATT_ROWS + TFPI_Y_ROWS - 1) / TFPI_Y_ROWS,
  TFPI_ATT_CHUNK = 64, /* keys of a task where dk and dv have a pass of their own */
  TFPI_ATT_FLOATS = 2 * TFPI_ATT_PACK + 2 * TFPI_ATT_ROWS * TFPI_ATT_LD + 2 * TFPI_ATT_LD
};
typedef enum tfpi_att_pass {
  TFPI_ATT_FORWARD,
  TFPI_ATT_ALL,
  TFPI_ATT_DQ,
  TFPI_ATT_DKV
} tfpi_att_pass;

typedef struct tfpi_att_level tfpi_att_level;
typedef struct tfpi_att { /* a job */
  tfp_ctx *ctx;
  const tfpi_att_level *level;
  const tfpi_mm_level *mm;
  const tfpi_attention_args *x;
  int64_t B, H, T, S, D, tiles, chunks;
  int64_t *have; /* [threads]: the head whose keys are packed, or -1 */
  float scale;
  int whole, few; /* all keys of a head are packed at once; so few queries that none are packed */
  int drop;       /* of 2^24 draws; 0: no dropout */
  float keep_scale;
  tfpi_att_pass pass;
} tfpi_att;

typedef struct tfpi_att_tile {
  const tfpi_att *j;
  int64_t b, h, t0, rows;
  int64_t c0, c1;               /* keys of this task */
  int64_t panels, start[TFPI_ATT_PANELS + 1];
  int64_t lo[TFPI_ATT_ROWS], hi[TFPI_ATT_ROWS];         /* keys that a query may see */
  int64_t plo[TFPI_ATT_PANELS], phi[TFPI_ATT_PANELS];   /* and their union in a panel of rows */
  int64_t first, last;          /* and in the tile */
  int touched[TFPI_ATT_PANELS]; /* the output of the panel holds something */
  float top[TFPI_ATT_ROWS], sum[TFPI_ATT_ROWS];         /* running maximum and sum */
  float lse[TFPI_ATT_ROWS], delta[TFPI_ATT_ROWS];       /* backward */
  double place[TFPI_ATT_ROWS];  /* ALiBi at the query's own position, which is taken off its row */
  float own[TFPI_ATT_ROWS];     /* the same from `origin`: small numbers have small errors */
  double slope;
  int64_t origin;               /* p of the tile's first query */
  const float *q, *k, *v, *dout;
  float *o, *dq, *dk, *dv, *drel;
  int64_t ldq, ldk, ldv, ldo, ld_do, ld_dq, ld_dk, ld_dv;
  float *kt, *vt, *s, *ds;      /* scratch: packed keys and values, scores, their gradients */
  float *key_add, *draw; /* a row each: what is added to a key's scores; multipliers of dropout */
  const float *add;             /* key_add, or NULL where nothing is to be added */
  const float *rel; /* T5's bias of the head, at key 0 of the tile's first query; or NULL */
  const int32_t *mask;          /* of the batch row; or NULL */
} tfpi_att_tile;

/* The passes over rows of scores, once for each level. k0: first key of the block; panel p, or all
 * rows. */
struct tfpi_att_level {
  const tfpi_mm_level *mm;
  void (*weights)(tfpi_att_tile *t, int64_t p, int64_t k0, int64_t k1);
  void (*slopes)(tfpi_att_tile *t, int64_t k0, int64_t k1);
  void (*finish)(tfpi_att_tile *t);
  void (*delta)(tfpi_att_tile *t);
};

/* ---- rows ---- */

/* Multipliers of dropout for n keys of one query: 0 or 1/(1-p). The draws of four counters at a
 * time, one in each 64-bit lane; AVX2 at both levels. */
TFPI_TARGET_AVX2 static void tfpi_att_draw(float *out, int64_t n, uint64_t seed, uint64_t stream,
                                           uint64_t index, int limit, float scale) {
  const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
  const __m256i least = _mm256_set1_epi32(limit);
  const __m256 kept = _mm256_set1_ps(scale);
  int64_t at;
  for (at = 0; at < n; at += 16, index += 16) {
    __m256i c0 =
        _mm256_add_epi64(_mm256_set1_epi64x((int64_t)(index / 4)), _mm256_setr_epi64x(0, 1, 2, 3));
    __m256i c1 = _mm256_srli_epi64(c0, 32), c2 = _mm256_set1_epi64x((int64_t)stream),
            c3 = _mm256_srli_epi64(c2, 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    int round, half;
    for (round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      const __m256i p0 = _mm256_mul_epu32(m0, c0),
                    p1 = _mm256_mul_epu32(m1, c2); /* read the low halves alone */
      const __m256i h0 = _mm256_srli_epi64(p0, 32), h1 = _mm256_srli_epi64(p1, 32);
      c0 = _mm256_xor_si256(_mm256_xor_si256(h1, c1), _mm256_set1_epi64x((int64_t)k0));
      c2 = _mm256_xor_si256(_mm256_xor_si256(h0, c3), _mm256_set1_epi64x((int64_t)k1));
      c1 = p1, c3 = p0;
    }
    c0 =
        _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xAA); /* words 0 and 1 of each counter */
    c2 = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xAA);
    c1 = _mm256_unpacklo_epi64(c0, c2),
    c3 = _mm256_unpackhi_epi64(c0, c2); /* counters 0, 2 and 1, 3 */
    for (half = 0; half < 2; half++) {
      const __m256i w =
          half ? _mm256_permute2x128_si256(c1, c3, 0x31) : _mm256_permute2x128_si256(c1, c3, 0x20);
      const __m256i gone = _mm256_cmpgt_epi32(least, _mm256_srli_epi32(w, 8));
      _mm256_storeu_ps(out + at + 8 * half, _mm256_andnot_ps(_mm256_castsi256_ps(gone), kept));
    }
  }
}
static void tfpi_att_draw_row(tfpi_att_tile *t, int64_t row, int64_t key, int64_t n) {
  const tfpi_att *j = t->j;
  tfpi_att_draw(t->draw, n, j->ctx->desc.seed, j->x->stream + (uint64_t)t->h,
                tfpi_draw_index(j->ctx->now.example + (uint64_t)t->b, t->t0 + row, key), j->drop,
                j->keep_scale);
}

/* Puts `rest` into what [n0,n1) leaves of its first and its last vector. Loops would mispredict. */
static const int32_t tfpi_att_edge[2 * TFPI_VN] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                   -1, -1, -1, -1, -1, -1, -1, -1};
TFPI_INLINE void tfpi_att_cut(float *s, int64_t n0, int64_t n1, float rest) {
  const int64_t before = n0 % TFPI_VN, within = n1 % TFPI_VN;
  tfpi_vf x, y;
  tfpi_vi m;
  tfpi_vset(&y, rest);
  if (within) {
    tfpi_vload(&x, s + n1 - within);
    memcpy(&m, tfpi_att_edge + TFPI_VN - within, sizeof m);
    tfpi_vpick(&x, &m, &x, &y);
    tfpi_vstore(s + n1 - within, &x);
  }
  if (before) {
    tfpi_vload(&x, s + n0 - before);
    memcpy(&m, tfpi_att_edge + TFPI_VN - before, sizeof m);
    tfpi_vpick(&x, &m, &y, &x);
    tfpi_vstore(s + n0 - before, &x);
  }
}
/* The largest lane, without branches; where one is NaN, NaN or another lane. */
TFPI_INLINE float tfpi_att_top(const tfpi_vacc *a) {
  float t[16];
  int i;
  memcpy(t, a, sizeof t);
  TFPI_UNROLL
  for (i = 0; i < 8; i++) t[i] = t[i] > t[i + 8] ? t[i] : t[i + 8];
  TFPI_UNROLL
  for (i = 0; i < 4; i++) t[i] = t[i] > t[i + 4] ? t[i] : t[i + 4];
  t[0] = t[0] > t[2] ? t[0] : t[2];
  t[1] = t[1] > t[3] ? t[1] : t[3];
  return t[0] > t[1] ? t[0] : t[1];
}
TFPI_INLINE void tfpi_att_clear(float *s, int64_t from, int64_t to) { /* multiples of 16 */
  tfpi_vf zero;
  tfpi_vset(&zero, 0);
  for (; from < to; from += TFPI_VN) tfpi_vstore(s + from, &zero);
}
TFPI_INLINE void tfpi_att_times(float *o, int64_t n, float by) {
  int64_t d;
  tfpi_vf x;
  for (d = 0; d + TFPI_VN <= n; d += TFPI_VN) {
    tfpi_vload(&x, o + d);
    x = x * by;
    tfpi_vstore(o + d, &x);
  }
  for (; d < n; d++) o[d] *= by;
}

/* Scores of keys [j0,j1) of a row: scale q.k, and what is added to it. */
TFPI_INLINE void tfpi_att_bias(tfpi_vf *x, int64_t j, float scale, const float *add, float own,
                               const float *rel, int64_t rel_n) {
  tfpi_vf y;
  *x = *x * scale;
  if (add) {
    tfpi_vload(&y, add + j);
    *x = *x + (y - own);
  }
  if (!rel) return;
  if (j + TFPI_VN <= rel_n)
    tfpi_vload(&y, rel + j); /* a key after the last has no bias in memory */
  else tfpi_vhead(&y, rel + j, rel_n - j, 0);
  *x = *x + y;
}

/* The row of a query: [n0,n1) is visible, [from,to) is made, 0 where hidden; from, to multiples of
 * 16. Returns what the output so far must be multiplied with. */
TFPI_INLINE float tfpi_att_weights_row(tfpi_att_tile *t, int64_t i, float *s, int64_t n0,
                                       int64_t n1, int64_t from, int64_t to, const float *rel,
                                       int64_t rel_n) {
  const int64_t j0 = n0 / TFPI_VN * TFPI_VN, j1 = (n1 + TFPI_VN - 1) / TFPI_VN * TFPI_VN;
  const float old = t->top[i];
  float scale = t->j->scale, top, keep;
  int64_t j;
  tfpi_vacc most, total;
  tfpi_vf x;
  if (t->add || rel) {
    for (j = j0; j < j1; j += TFPI_VN) {
      tfpi_vload(&x, s + j);
      tfpi_att_bias(&x, j, scale, t->add, t->own[i], rel, rel_n);
      tfpi_vstore(s + j, &x);
    }
    scale = 1;
  }
  tfpi_att_clear(s, from, j0);
  tfpi_att_cut(s, n0, n1, -INFINITY);
  tfpi_att_clear(s, j1, to);
  tfpi_vacc_set(&most, -INFINITY);
  for (j = j0; j < j1; j += TFPI_VN) {
    tfpi_vload(&x, s + j);
    tfpi_vacc_max(&most, &x);
  }
  top = tfpi_att_top(&most) * scale;
  if (top < old) top = old;
  if (top < -3e38f) top = tfpi_vacc_top(&most); /* NaN if that is all it saw */
  if (top < -3e38f) { /* nothing seen yet */
    tfpi_att_clear(s, j0, j1);
    return 1;
  }
  t->top[i] = top;
  tfpi_vacc_set(&total, 0);
  for (j = j0; j < j1; j += TFPI_VN) {
    tfpi_vload(&x, s + j);
    x = x * scale - top;
    tfpi_vexp_neg(&x);
    tfpi_vstore(s + j, &x);
    tfpi_vacc_add(&total, &x);
  }
  keep = old < -3e38f ? 0.0f : old == top ? 1.0f : expf(old - top);
  t->sum[i] = t->sum[i] * keep + tfpi_vacc_sum(&total);
  return keep;
}

/* Scores of panel p become weights (not yet divided by their sum); its output is rescaled. */
TFPI_INLINE void tfpi_att_weights(tfpi_att_tile *t, int64_t p, int64_t k0, int64_t k1) {
  const int64_t from = (tfpi_max64(t->plo[p], k0) - k0) / TFPI_VN * TFPI_VN;
  const int64_t to = (tfpi_min64(t->phi[p], k1) - k0 + TFPI_VN - 1) / TFPI_VN * TFPI_VN;
  int64_t i, j;
  for (i = t->start[p]; i < t->start[p + 1]; i++) {
    float *s = t->s + i * TFPI_ATT_LD, keep;
    const int64_t n0 = tfpi_max64(t->lo[i], k0) - k0, n1 = tfpi_min64(t->hi[i], k1) - k0;
    if (n0 >= n1) {
      tfpi_att_clear(s, from, to);
      continue;
    }
    keep = tfpi_att_weights_row(t, i, s, n0, n1, from, to, t->rel ? t->rel - i + k0 : NULL,
                                t->j->S - k0);
    if (t->touched[p] && keep != 1.0f) tfpi_att_times(t->o + i * t->ldo, t->j->D, keep);
    if (!t->j->drop) continue;
    tfpi_att_draw_row(t, i, k0 + from, to - from);
    for (j = from; j < to; j += TFPI_VN) {
      tfpi_vf x, y;
      tfpi_vload(&x, s + j);
      tfpi_vload(&y, t->draw + j - from);
      x = x * y;
      tfpi_vstore(s + j, &x);
    }
  }
}

/* Backward: s becomes the weights P (with dropout), ds, which holds dO V', the gradient of q.k.
 * Hidden pairs get 0 over all keys of the tile, for the products with P' and dS' take all of its
 * rows. */
TFPI_INLINE void tfpi_att_slopes_row(tfpi_att_tile *t, int64_t i, int64_t n0, int64_t n1,
                                     int64_t from, int64_t to, const float *rel, float *drel,
                                     int64_t rel_n) {
  float *s = t->s + i * TFPI_ATT_LD, *g = t->ds + i * TFPI_ATT_LD;
  const float scale = t->j->scale, lse = t->lse[i], delta = t->delta[i];
  const int64_t j0 = n0 / TFPI_VN * TFPI_VN, j1 = (n1 + TFPI_VN - 1) / TFPI_VN * TFPI_VN;
  const float *draw = t->j->drop ? t->draw - j0 : NULL;
  int64_t j;
  tfpi_att_clear(s, from, j0);
  tfpi_att_clear(g, from, j0);
  tfpi_att_clear(s, j1, to);
  tfpi_att_clear(g, j1, to);
  tfpi_att_cut(s, n0, n1, -INFINITY);
  tfpi_att_cut(g, n0, n1, 0);
  for (j = j0; j < j1; j += TFPI_VN) {
    tfpi_vf x, y, z;
    tfpi_vload(&x, s + j);
    tfpi_vload(&y, g + j);
    tfpi_att_bias(&x, j, scale, t->add, t->own[i], rel, rel_n);
    x = x - lse;
    tfpi_vexp_neg(&x);
    if (draw) {
      tfpi_vload(&z, draw + j);
      y = x * (y * z - delta);
      x = x * z;
    } else {
      y = x * (y - delta);
    }
    tfpi_vstore(s + j, &x);
    if (drel && j + TFPI_VN <= rel_n) {
      tfpi_vload(&z, drel + j);
      z = z + y;
      tfpi_vstore(drel + j, &z);
    } else if (drel) {
      tfpi_vhead(&z, drel + j, rel_n - j, 0);
      z = z + y;
      tfpi_vput(drel + j, &z, rel_n - j);
    }
    y = y * scale;
    tfpi_vstore(g + j, &y);
  }
}
TFPI_INLINE void tfpi_att_slopes(tfpi_att_tile *t, int64_t k0, int64_t k1) {
  const int64_t from = (tfpi_max64(t->first, k0) - k0) / TFPI_VN * TFPI_VN;
  const int64_t to = (tfpi_min64(t->last, k1) - k0 + TFPI_VN - 1) / TFPI_VN * TFPI_VN;
  int64_t i;
  for (i = 0; i < t->rows; i++) {
    const int64_t n0 = tfpi_max64(t->lo[i], k0) - k0, n1 = tfpi_min64(t->hi[i], k1) - k0;
    if (n0 >= n1 || t->lse[i] < -3e38f) { /* it sees nothing here */
      tfpi_att_clear(t->s + i * TFPI_ATT_LD, from, to);
      tfpi_att_clear(t->ds + i * TFPI_ATT_LD, from, to);
      continue;
    }
    if (t->j->drop)
      tfpi_att_draw_row(t, i, k0 + n0 / TFPI_VN * TFPI_VN, n1 - n0 / TFPI_VN * TFPI_VN);
    tfpi_att_slopes_row(t, i, n0, n1, from, to, t->rel ? t->rel - i + k0 : NULL,
                        t->drel ? t->drel - i + k0 : NULL, t->j->S - k0);
  }
}

/* Divides the rows of the output by their sums; a query that saw nothing gets zeros. */
TFPI_INLINE void tfpi_att_finish(tfpi_att_tile *t) {
  int64_t i;
  for (i = 0; i < t->rows; i++) {
    float *o = t->o + i * t->ldo;
    if (t->sum[i] == 0) memset(o, 0, (size_t)t->j->D * sizeof *o);
    else tfpi_att_times(o, t->j->D, 1.0f / t->sum[i]);
  }
}

/* delta_i = o_i . do_i, which is the sum over j of P dP. */
TFPI_INLINE void tfpi_att_delta(tfpi_att_tile *t) {
  int64_t i, d;
  for (i = 0; i < t->rows; i++) {
    const float *o = t->o + i * t->ldo, *g = t->dout + i * t->ld_do;
    tfpi_vf x, y;
    tfpi_vacc sum;
    tfpi_vacc_set(&sum, 0);
    for (d = 0; d + TFPI_VN <= t->j->D; d += TFPI_VN) {
      tfpi_vload(&x, o + d);
      tfpi_vload(&y, g + d);
      x = x * y;
      tfpi_vacc_add(&sum, &x);
    }
    t->delta[i] = tfpi_vacc_sum(&sum);
    for (; d < t->j->D; d++) t->delta[i] += o[d] * g[d];
  }
}

#define TFPI_ATT_LEVELS(X) X(TFPI_TARGET_AVX2, avx2) X(TFPI_TARGET_AVX512, avx512)
#define TFPI_X(target, level) \
  target static void tfpi_att_weights_##level(tfpi_att_tile *t, int64_t p, int64_t k0, \
                                              int64_t k1) { \
    tfpi_att_weights(t, p, k0, k1); \
  } \
  target static void tfpi_att_slopes_##level(tfpi_att_tile *t, int64_t k0, int64_t k1) { \
    tfpi_att_slopes(t, k0, k1); \
  } \
  target static void tfpi_att_finish_##level(tfpi_att_tile *t) { tfpi_att_finish(t); } \
  target static void tfpi_att_delta_##level(tfpi_att_tile *t) { tfpi_att_delta(t); } \
  static const tfpi_att_level tfpi_att_##level = { \
    &tfpi_mm_##level, tfpi_att_weights_##level, tfpi_att_slopes_##level, tfpi_att_finish_##level, \
    tfpi_att_delta_##level};
TFPI_ATT_LEVELS(TFPI_X)
#undef TFPI_X

/* ---- tiles ---- */

static int64_t tfpi_att_count(const int32_t *mask, int64_t from, int64_t to) { /* visible keys */
  int64_t n = 0;
  if (!mask) return tfpi_max64(to - from, 0);
  for (; from < to; from++) n += mask[from] != 0;
  return n;
}

/* The keys that each query of the tile may see, within [c0,c1), and the unions of those ranges. */
static void tfpi_att_ranges(tfpi_att_tile *t) {
  const tfpi_att *j = t->j;
  const tfpi_attention_args *x = j->x;
  const int32_t *q_doc = x->q_doc ? tfpi_ints(x->q_doc) + t->b * j->T + t->t0 : NULL;
  const int32_t *k_doc = x->k_doc ? tfpi_ints(x->k_doc) + t->b * j->S : NULL;
  int64_t lo = t->c0, hi = t->c1, doc0 = 0, doc1 = j->S, i, p;
  if (t->mask) {
    while (lo < hi && !t->mask[lo]) lo++;
    while (lo < hi && !t->mask[hi - 1]) hi--;
  }
  t->first = j->S, t->last = 0;
  for (i = 0; i < t->rows; i++) {
    if (q_doc && k_doc && (i == 0 || q_doc[i] != q_doc[i - 1])) {
      for (doc0 = 0; doc0 < j->S && k_doc[doc0] != q_doc[i]; doc0++) continue;
      for (doc1 = doc0; doc1 < j->S && k_doc[doc1] == q_doc[i]; doc1++) continue;
    }
    t->lo[i] = tfpi_max64(lo, doc0);
    t->hi[i] = tfpi_min64(hi, doc1);
    if (x->causal) t->hi[i] = tfpi_min64(t->hi[i], t->t0 + i + j->S - j->T + 1);
  }
  for (p = 0; p < t->panels; p++) {
    t->plo[p] = j->S, t->phi[p] = 0;
    for (i = t->start[p]; i < t->start[p + 1]; i++)
      if (t->lo[i] < t->hi[i])
        t->plo[p] = tfpi_min64(t->plo[p], t->lo[i]), t->phi[p] = tfpi_max64(t->phi[p], t->hi[i]);
    t->first = tfpi_min64(t->first, t->plo[p]);
    t->last = tfpi_max64(t->last, t->phi[p]);
  }
}

/* Where ALiBi stands for each query. */
static void tfpi_att_places(tfpi_att_tile *t) {
  const tfpi_att *j = t->j;
  int64_t i, at = 0, p = 0;
  t->slope = j->x->slopes ? (double)tfpi_data(j->x->slopes)[t->h * j->x->slopes->stride[0]] : 0;
  t->origin = 0;
  for (i = 0; i < t->rows; i++) {
    const int64_t key = tfpi_min64(tfpi_max64(t->t0 + i + j->S - j->T, 0), j->S);
    if (j->x->slopes) {
      p += tfpi_att_count(t->mask, at, key);
      at = key;
      if (i == 0) t->origin = p;
    }
    t->place[i] = t->slope * (double)p;
    t->own[i] = (float)(t->slope * (double)(p - t->origin));
  }
}

/* What is added to the scores of the keys [k0,k1): the mask, and ALiBi from the tile's origin. */
static void tfpi_att_key_add(tfpi_att_tile *t, int64_t k0, int64_t k1) {
  const int32_t *mask = t->mask;
  int64_t k, p;
  t->add = NULL;
  if (!t->j->x->slopes && tfpi_att_count(mask, k0, k1) == k1 - k0) return;
  p = (t->j->x->slopes ? tfpi_att_count(mask, 0, k0) : 0) - t->origin;
  for (k = k0; k < k1; k++) {
    const int seen = !mask || mask[k];
    t->key_add[k - k0] = seen ? (float)(t->slope * (double)p) : -INFINITY;
    p += seen;
  }
  for (; (k - k0) % TFPI_VN; k++) t->key_add[k - k0] = 0;
  t->add = t->key_add;
}

/* The rows of a head in a tensor (B,H,rows,D). */
static float *tfpi_att_rows(const tfp_tensor *x, int64_t b, int64_t h, int64_t row) {
  return x ? (float *)x->data + b * x->stride[0] + h * x->stride[1] + row * x->stride[2] : NULL;
}

static void tfpi_att_open_tile(tfpi_att_tile *t, const tfpi_att *j, int64_t head, int64_t tile,
                               int64_t c0, int64_t c1, float *scratch) {
  const tfpi_attention_args *x = j->x;
  const int64_t b = head / j->H, h = head % j->H, t0 = j->T * tile / j->tiles;
  int64_t i;
  t->j = j, t->b = b, t->h = h, t->t0 = t0, t->rows = j->T * (tile + 1) / j->tiles - t0;
  t->c0 = c0, t->c1 = c1;
  t->panels = tfpi_ceil_div(t->rows, j->mm->rows);
  for (i = 0; i <= t->panels; i++) t->start[i] = t->rows * i / t->panels;
  for (i = 0; i < t->panels; i++) t->touched[i] = 0;
  for (i = 0; i < t->rows; i++) t->top[i] = -INFINITY, t->sum[i] = 0;
  t->q = tfpi_att_rows(x->q, b, h, t0), t->ldq = x->q->stride[2];
  t->k = tfpi_att_rows(x->k, b, h, 0), t->ldk = x->k->stride[2];
  t->v = tfpi_att_rows(x->v, b, h, 0), t->ldv = x->v->stride[2];
  t->o = tfpi_att_rows(x->o, b, h, t0), t->ldo = x->o->stride[2];
  t->kt = scratch, t->vt = t->kt + TFPI_ATT_PACK;
  t->s = t->vt + TFPI_ATT_PACK, t->ds = t->s + TFPI_ATT_ROWS * TFPI_ATT_LD;
  t->key_add = t->ds + TFPI_ATT_ROWS * TFPI_ATT_LD, t->draw = t->key_add + TFPI_ATT_LD;
  t->add = NULL;
  t->mask = x->mask ? tfpi_ints(x->mask) + b * j->S : NULL;
  t->rel = x->rel ? tfpi_data(x->rel) + h * (j->T + j->S - 1) + j->T - 1 - t0 : NULL;
  tfpi_att_ranges(t);
  tfpi_att_places(t);
}

/* The columns of a product one block after the other; b->b and b->c are at its first column. */
static void tfpi_att_product(const tfpi_mm_level *L, const tfpi_block *b, int64_t rows,
                             int64_t cols) {
  tfpi_block t = *b;
  for (; cols > 0; cols -= L->cols, t.b += L->cols, t.c += L->cols) {
    t.cols = (int)tfpi_min64(cols, L->cols);
    (t.cols == L->cols ? L->full : L->edge)[rows](&t);
  }
}
static void tfpi_att_block(tfpi_block *b, int64_t ldc) {
  b->ldc = ldc, b->accumulate = 0, b->bias = NULL, b->prefetch = NULL, b->prefetches = 0;
}

/* Packs the keys [k0,k1) of rows x (or all of the head's) so that their columns are beside each
 * other. */
static void tfpi_att_pack(const tfpi_att *j, const float *x, int64_t ld, int64_t k0, int64_t k1,
                          float *out) {
  j->mm->pack_columns(x + k0 * ld, ld, j->D, k1 - k0, out);
}

/* out = a x' for panel p and the keys [k0,k1): a are rows of the tile, x the keys (or values),
 * packed or not. */
static void tfpi_att_scores(const tfpi_att_tile *t, int64_t p, int64_t k0, int64_t k1,
                            const float *a, int64_t lda, const float *x, int64_t ldx,
                            const float *packed, float *out) {
  const tfpi_mm_level *L = t->j->mm;
  const int64_t r0 = t->start[p], rows = t->start[p + 1] - r0, D = t->j->D;
  const int64_t from = tfpi_max64(t->plo[p], k0) - k0, to = tfpi_min64(t->phi[p], k1) - k0;
  int64_t key;
  if (t->j->few) {
    const int step = L->dots_rows[rows];
    tfpi_dots d;
    d.k = D, d.ldx = lda, d.ldw = ldx, d.ldo = TFPI_ATT_LD, d.accumulate = 0, d.x = a + r0 * lda;
    for (key = from; key < to; key += key + step <= to ? step : 1) {
      d.w = x + (k0 + key) * ldx, d.out = out + r0 * TFPI_ATT_LD + key;
      (key + step <= to ? L->dots : L->dots1)[rows](&d);
    }
  } else {
    tfpi_block b;
    tfpi_att_block(&b, TFPI_ATT_LD);
    b.k = D, b.rs = lda, b.cs = 1, b.bs = L->cols, b.a = a + r0 * lda, b.cols = L->cols;
    for (key = from / L->cols * L->cols; key < to;
         key += L->cols) { /* the row has room for a whole block */
      b.b = packed + ((t->j->whole ? k0 : 0) + key) * D;
      b.c = out + r0 * TFPI_ATT_LD + key;
      L->full[rows](&b);
    }
  }
}

/* c (+)= w x for panel p: w are rows of scores, x the keys (or values) [k0,k1), D columns. */
static void tfpi_att_weighted(const tfpi_att_tile *t, int64_t p, int64_t k0, int64_t k1,
                              const float *w, const float *x, int64_t ldx, float *c, int64_t ldc,
                              int accumulate) {
  const int64_t r0 = t->start[p];
  const int64_t from = tfpi_max64(t->plo[p], k0) - k0, to = tfpi_min64(t->phi[p], k1) - k0;
  tfpi_block b;
  tfpi_att_block(&b, ldc);
  b.k = to - from, b.rs = TFPI_ATT_LD, b.cs = 1, b.bs = ldx;
  b.a = w + r0 * TFPI_ATT_LD + from, b.b = x + (k0 + from) * ldx, b.c = c + r0 * ldc,
  b.accumulate = accumulate;
  tfpi_att_product(t->j->mm, &b, t->start[p + 1] - r0, t->j->D);
}

static void tfpi_att_forward(void *arg, int64_t index, int thread) {
  const tfpi_att *j = (const tfpi_att *)arg;
  const int64_t head = index / j->tiles;
  int64_t k0, k1, p, i;
  tfpi_att_tile t;
  tfpi_att_open_tile(&t, j, head, index % j->tiles, 0, j->S, (float *)tfpi_scratch(j->ctx, thread));
  if (j->whole && j->have[thread] != head) tfpi_att_pack(j, t.k, t.ldk, 0, j->S, t.kt);
  j->have[thread] = head;
  for (k0 = t.first / TFPI_ATT_KEYS * TFPI_ATT_KEYS; k0 < t.last; k0 = k1) {
    k1 = tfpi_min64(k0 + TFPI_ATT_KEYS, j->S);
    if (!j->whole && !j->few) tfpi_att_pack(j, t.k, t.ldk, k0, k1, t.kt);
    tfpi_att_key_add(&t, k0, k1);
    for (p = 0; p < t.panels; p++) {
      if (tfpi_max64(t.plo[p], k0) >= tfpi_min64(t.phi[p], k1)) continue;
      tfpi_att_scores(&t, p, k0, k1, t.q, t.ldq, t.k, t.ldk, t.kt, t.s);
      j->level->weights(&t, p, k0, k1);
      tfpi_att_weighted(&t, p, k0, k1, t.s, t.v, t.ldv, t.o, t.ldo, t.touched[p]);
      t.touched[p] = 1;
    }
  }
  j->level->finish(&t);
  if (!j->x->lse) return;
  for (i = 0; i < t.rows; i++)
    tfpi_data(j->x->lse)[head * j->T + t.t0 + i] =
        t.sum[i] == 0 ? -INFINITY
                      : (float)(t.place[i] + ((double)t.top[i] + (double)logf(t.sum[i])));
}

/* ---- backward ---- */

/* dv += P' do and dk += dS' q for the keys of the block: panels of keys, over the queries that see
 * one. */
static void tfpi_att_key_slopes(const tfpi_att_tile *t, int64_t k0, int64_t k1) {
  const tfpi_mm_level *L = t->j->mm;
  const int64_t from = tfpi_max64(t->first, k0) - k0, n = tfpi_min64(t->last, k1) - k0 - from;
  const int64_t panels = tfpi_ceil_div(n, L->rows);
  int64_t p;
  tfpi_block b;
  tfpi_att_block(&b, 0);
  b.rs = 1, b.cs = TFPI_ATT_LD, b.accumulate = 1;
  for (p = 0; p < panels; p++) {
    const int64_t key = from + n * p / panels, keys = from + n * (p + 1) / panels - key;
    int64_t r0 = 0, r1 = t->rows;
    while (r0 < r1 && (t->hi[r0] <= k0 + key || t->lo[r0] >= k0 + key + keys)) r0++;
    while (r0 < r1 && (t->hi[r1 - 1] <= k0 + key || t->lo[r1 - 1] >= k0 + key + keys)) r1--;
    b.k = r1 - r0;
    if (b.k == 0) continue;
    if (t->dv) {
      b.a = t->s + r0 * TFPI_ATT_LD + key, b.b = t->dout + r0 * t->ld_do, b.bs = t->ld_do;
      b.c = t->dv + (k0 + key) * t->ld_dv, b.ldc = t->ld_dv;
      tfpi_att_product(L, &b, keys, t->j->D);
    }
    if (t->dk) {
      b.a = t->ds + r0 * TFPI_ATT_LD + key, b.b = t->q + r0 * t->ldq, b.bs = t->ldq;
      b.c = t->dk + (k0 + key) * t->ld_dk, b.ldc = t->ld_dk;
      tfpi_att_product(L, &b, keys, t->j->D);
    }
  }
}

/* The gradient that a tile sends to its queries (dq) and to the keys [c0,c1) (dk, dv), as the pass
 * says. */
static void tfpi_att_backward_tile(const tfpi_att *j, int64_t head, int64_t tile, int64_t c0,
                                   int64_t c1, float *scratch) {
  const tfpi_attention_args *x = j->x;
  int64_t k0, k1, p, i;
  tfpi_att_tile t;
  tfpi_att_open_tile(&t, j, head, tile, c0, c1, scratch);
  t.dout = tfpi_att_rows(x->dout, t.b, t.h, t.t0), t.ld_do = x->dout->stride[2];
  t.dq = j->pass == TFPI_ATT_DKV ? NULL : tfpi_att_rows(x->dq, t.b, t.h, t.t0),
  t.ld_dq = x->dq ? x->dq->stride[2] : 0;
  t.dk = j->pass == TFPI_ATT_DQ ? NULL : tfpi_att_rows(x->dk, t.b, t.h, 0),
  t.ld_dk = x->dk ? x->dk->stride[2] : 0;
  t.dv = j->pass == TFPI_ATT_DQ ? NULL : tfpi_att_rows(x->dv, t.b, t.h, 0),
  t.ld_dv = x->dv ? x->dv->stride[2] : 0;
  t.drel = x->drel ? tfpi_data(x->drel) + head * (j->T + j->S - 1) + j->T - 1 - t.t0 : NULL;
  for (i = 0; i < t.rows; i++)
    t.lse[i] = (float)((double)tfpi_data(x->lse)[head * j->T + t.t0 + i] - t.place[i]);
  j->level->delta(&t);
  for (k0 = t.first / TFPI_ATT_KEYS * TFPI_ATT_KEYS; k0 < t.last; k0 = k1) {
    k1 = tfpi_min64(k0 + TFPI_ATT_KEYS, j->S);
    if (!j->whole) {
      tfpi_att_pack(j, t.k, t.ldk, k0, k1, t.kt);
      tfpi_att_pack(j, t.v, t.ldv, k0, k1, t.vt);
    }
    tfpi_att_key_add(&t, k0, k1);
    for (p = 0; p < t.panels; p++) {
      if (tfpi_max64(t.plo[p], k0) >= tfpi_min64(t.phi[p], k1)) continue;
      tfpi_att_scores(&t, p, k0, k1, t.q, t.ldq, t.k, t.ldk, t.kt, t.s);
      tfpi_att_scores(&t, p, k0, k1, t.dout, t.ld_do, t.v, t.ldv, t.vt, t.ds);
    }
    j->level->slopes(&t, k0, k1);
    if (t.dk || t.dv) tfpi_att_key_slopes(&t, k0, k1);
    for (p = 0; t.dq && p < t.panels; p++) {
      if (tfpi_max64(t.plo[p], k0) >= tfpi_min64(t.phi[p], k1)) continue;
      tfpi_att_weighted(&t, p, k0, k1, t.ds, t.k, t.ldk, t.dq, t.ld_dq,
                        t.touched[p] || x->dq_accumulate);
      t.touched[p] = 1;
    }
  }
  for (i = 0, p = 0; t.dq && !x->dq_accumulate && i < t.rows; i++) {
    while (i >= t.start[p + 1]) p++;
    if (!t.touched[p]) memset(t.dq + i * t.ld_dq, 0, (size_t)j->D * sizeof(float));
  }
}

static void tfpi_att_zero_rows(const tfp_tensor *x, const tfpi_att *j, int64_t head, int64_t from,
                               int64_t to) {
  for (; x && from < to; from++)
    memset(tfpi_att_rows(x, head / j->H, head % j->H, from), 0, (size_t)j->D * sizeof(float));
}

/* A task is a head; or, in two passes, a tile of queries (dq), then a chunk of keys (dk and dv). */
static void tfpi_att_backward(void *arg, int64_t index, int thread) {
  const tfpi_att *j = (const tfpi_att *)arg;
  const int64_t parts = j->pass == TFPI_ATT_ALL ? 1 : j->pass == TFPI_ATT_DQ ? j->tiles : j->chunks;
  const int64_t head = index / parts, part = index % parts;
  const int64_t c0 = j->pass == TFPI_ATT_DKV ? part * TFPI_ATT_CHUNK : 0;
  const int64_t c1 = j->pass == TFPI_ATT_DKV ? tfpi_min64(c0 + TFPI_ATT_CHUNK, j->S) : j->S;
  const int64_t first = j->pass == TFPI_ATT_DQ ? part : 0,
                last = j->pass == TFPI_ATT_DQ ? part + 1 : j->tiles;
  float *scratch = (float *)tfpi_scratch(j->ctx, thread);
  int64_t tile;
  if (j->whole && j->have[thread] != head) {
    const tfp_tensor *k = j->x->k, *v = j->x->v;
    tfpi_att_pack(j, tfpi_att_rows(k, head / j->H, head % j->H, 0), k->stride[2], 0, j->S, scratch);
    tfpi_att_pack(j, tfpi_att_rows(v, head / j->H, head % j->H, 0), v->stride[2], 0, j->S,
                  scratch + TFPI_ATT_PACK);
  }
  j->have[thread] = head;
  if (j->pass != TFPI_ATT_DQ) {
    if (!j->x->dk_accumulate) tfpi_att_zero_rows(j->x->dk, j, head, c0, c1);
    if (!j->x->dv_accumulate) tfpi_att_zero_rows(j->x->dv, j, head, c0, c1);
  }
  if (j->x->drel)
    memset(tfpi_data(j->x->drel) + head * (j->T + j->S - 1), 0,
           (size_t)(j->T + j->S - 1) * sizeof(float));
  for (tile = first; tile < last; tile++) tfpi_att_backward_tile(j, head, tile, c0, c1, scratch);
}

/* ---- the two entries ---- */

/* Fills in a job; 0 for what is left to the plain kernel. Shapes alone decide. */
static int tfpi_att_open(tfpi_att *j, tfp_ctx *ctx, const tfpi_att_level *level,
                         const tfpi_attention_args *x, int64_t *have, int backward) {
  int i;
  memset(j, 0, sizeof *j);
  j->ctx = ctx, j->level = level, j->mm = level->mm, j->x = x, j->have = have;
  j->B = x->q->shape[0], j->H = x->q->shape[1], j->T = x->q->shape[2], j->D = x->q->shape[3],
  j->S = x->k->shape[2];
  j->scale = (float)x->scale;
  j->tiles = tfpi_ceil_div(j->T, TFPI_ATT_ROWS);
  j->chunks = tfpi_ceil_div(j->S, TFPI_ATT_CHUNK);
  j->few = !backward && j->T <= TFPI_MM_SKINNY;
  j->whole = !j->few && tfpi_ceil_div(j->S, j->mm->cols) * j->mm->cols * j->D <= TFPI_ATT_PACK;
  j->drop = x->dropout > 0 ? (int)ceil(x->dropout * 16777216.0) : 0; /* draw 2^-24 < p is dropped */
  j->keep_scale = j->drop ? (float)(1.0 / (1.0 - x->dropout)) : 1.0f;
  for (i = 0; i < ctx->threads; i++) have[i] = -1;
  return j->D <= TFPI_ATT_WIDEST && j->scale > 0 && x->dropout < 1;
}

static void tfpi_att_run(tfp_ctx *ctx, const tfpi_att_level *level, const tfpi_attention_args *x) {
  int64_t have[TFP_MAX_THREADS];
  tfpi_att j;
  if (!tfpi_att_open(&j, ctx, level, x, have, 0)) tfpi_attention_plain(ctx, x);
  else tfpi_parallel(ctx, j.B * j.H * j.tiles, tfpi_att_forward, &j);
}

/* By heads: five products. Where threads would be idle, in two passes of three and four products.
 * Both add in the same order, so threads may decide; the gradient of T5's bias needs whole heads.
 * */
static void tfpi_att_run_bwd(tfp_ctx *ctx, const tfpi_att_level *level,
                             const tfpi_attention_args *x) {
  int64_t have[TFP_MAX_THREADS], heads;
  tfpi_att j;
  if (!tfpi_att_open(&j, ctx, level, x, have, 1)) {
    tfpi_attention_bwd_plain(ctx, x);
    return;
  }
  heads = j.B * j.H;
  if (x->drel || j.tiles == 1 ||
      5 * tfpi_ceil_div(heads, ctx->threads) * ctx->threads <= 8 * heads) {
    j.pass = TFPI_ATT_ALL;
    tfpi_parallel(ctx, heads, tfpi_att_backward, &j);
    return;
  }
  j.pass = TFPI_ATT_DQ;
  if (x->dq) tfpi_parallel(ctx, heads * j.tiles, tfpi_att_backward, &j);
  j.pass = TFPI_ATT_DKV;
  if (x->dk || x->dv) tfpi_parallel(ctx, heads * j.chunks, tfpi_att_backward, &j);
}

static void tfpi_attention_avx2(tfp_ctx *ctx, const tfpi_attention_args *x) {
  tfpi_att_run(ctx, &tfpi_att_avx2, x);
}
static void tfpi_attention_avx512(tfp_ctx *ctx, const tfpi_attention_args *x) {
  tfpi_att_run(ctx, &tfpi_att_avx512, x);
}
static void tfpi_attention_bwd_avx2(tfp_ctx *ctx, const tfpi_attention_args *x) {
  tfpi_att_run_bwd(ctx, &tfpi_att_avx2, x);
}
static void tfpi_attention_bwd_avx512(tfp_ctx *ctx, const tfpi_attention_args *x) {
  tfpi_att_run_bwd(ctx, &tfpi_att_avx512, x);
}

/* Bytes of scratch that a thread needs for products and attention. */
static size_t tfpi_simd_scratch_bytes(void) {
  const size_t products = (size_t)TFPI_MM_PACK_B + (size_t)TFPI_MM_PACK_A,
               attention = (size_t)TFPI_ATT_FLOATS;
  return (products > attention ? products : attention) * sizeof(float);
}
#endif /* TFPI_SIMD */
/* ---- memory-bound kernels ---------------------------------------------------------------------
 * Bodies are written once; TFPI_ROW_LIST makes a function of each per level, and ctx->level picks
 * one from tfpi_row_table. An entry that meets what it is not made for (other strides, other types,
 * rows of a few numbers) calls the plain kernel. The size of a task depends on the shape alone. */
#if defined(TFPI_SIMD)

enum { TFPI_ROW_TASK = 16384 }; /* numbers that a task is worth: 64 KB of each stream */

/* 16 lanes, or the first n of them. Give n as the constant TFPI_VN in the main loop. */
TFPI_INLINE void tfpi_vget(tfpi_vf *r, const float *p, int64_t n, float rest) {
  if (n == TFPI_VN) tfpi_vload(r, p);
  else tfpi_vhead(r, p, n, rest);
}
TFPI_INLINE void tfpi_vgive(float *p, const tfpi_vf *x, int64_t n) {
  if (n == TFPI_VN) tfpi_vstore(p, x);
  else tfpi_vput(p, x, n);
}
static int64_t tfpi_row_per_task(int64_t length) {
  return tfpi_max64(1, TFPI_ROW_TASK / tfpi_max64(1, length));
}

/* ---- element by element: y = or += f(a, b) over rows with any strides between them ---- */

#define TFPI_ELEMENT_LIST(X)                                                                       \
  X(COPY)                                                                                          \
  X(ADD) X(SUB) X(MUL) X(DIV) X(NEG) X(SCALE) X(EXP) X(TANH) X(SIGMOID) X(RELU) X(SILU) X(GELU)    \
      X(GELU_NEW) X(SQRT_BWD) X(TANH_BWD) X(SIGMOID_BWD) X(RELU_BWD) X(SILU_BWD) X(GELU_BWD)       \
          X(GELU_NEW_BWD)
typedef enum tfpi_element {
#define TFPI_X(name) TFPI_ELEMENT_##name,
  TFPI_ELEMENT_LIST(TFPI_X)
#undef TFPI_X
  TFPI_ELEMENT_COUNT
} tfpi_element;

/* Up to three operands of one shape; axes that can be one axis are one. Operand 0 is written. */
typedef struct tfpi_element_job {
  float *at[3];
  int64_t shape[TFP_MAX_DIMS], stride[3][TFP_MAX_DIMS]; /* [0] is the innermost axis, the row */
  int axes;
  int64_t rows, per_task,
      pieces; /* a task has per_task whole rows, or one of the pieces of a row */
  int accumulate;
  float c;
} tfpi_element_job;

/* a = f(a, b); the gradients have dy in a, and x or y in b. */
TFPI_INLINE void tfpi_element_step(int op, tfpi_vf *a, const tfpi_vf *b, float c) {
  tfpi_vf s = *b;
  tfpi_vi m;
  switch (op) {
    case TFPI_ELEMENT_ADD: *a = *a + s; break;
    case TFPI_ELEMENT_SUB: *a = *a - s; break;
    case TFPI_ELEMENT_MUL: *a = *a * s; break;
    case TFPI_ELEMENT_DIV: *a = *a / s; break;
    case TFPI_ELEMENT_SCALE: *a = *a * c; break;
    case TFPI_ELEMENT_NEG: tfpi_vactivate(TFPI_NEG, a); break;
    case TFPI_ELEMENT_EXP: tfpi_vactivate(TFPI_EXP, a); break;
    case TFPI_ELEMENT_TANH: tfpi_vactivate(TFPI_TANH, a); break;
    case TFPI_ELEMENT_SIGMOID: tfpi_vactivate(TFPI_SIGMOID, a); break;
    case TFPI_ELEMENT_RELU: tfpi_vactivate(TFPI_RELU, a); break;
    case TFPI_ELEMENT_SILU: tfpi_vactivate(TFPI_SILU, a); break;
    case TFPI_ELEMENT_GELU: tfpi_vactivate(TFPI_GELU, a); break;
    case TFPI_ELEMENT_GELU_NEW: tfpi_vactivate(TFPI_GELU_NEW, a); break;
    case TFPI_ELEMENT_SQRT_BWD: *a = *a * 0.5f / s; break;
    case TFPI_ELEMENT_TANH_BWD: *a = *a * (1.0f - s * s); break;
    case TFPI_ELEMENT_SIGMOID_BWD: *a = *a * (s * (1.0f - s)); break;
    case TFPI_ELEMENT_RELU_BWD:
      m = (tfpi_vi)(0.0f - s) >> 31;
      *a = (tfpi_vf)((tfpi_vi)*a & m);
      tfpi_vnan_of(a, &s);
      break;
    case TFPI_ELEMENT_SILU_BWD: tfpi_vsilu_slope(&s); *a = *a * s; break;
    case TFPI_ELEMENT_GELU_BWD: tfpi_vgelu_slope(&s); *a = *a * s; break;
    case TFPI_ELEMENT_GELU_NEW_BWD: tfpi_vgelu_new_slope(&s); *a = *a * s; break;
    default: break;
  }
}
TFPI_INLINE void tfpi_element_at(int op, float *y, const float *a, const float *b, int64_t n,
                                 float c, int accumulate) {
  tfpi_vf u, v, old;
  tfpi_vget(&u, a, n, 0);
  tfpi_vget(&v, b, n, 1.0f);
  tfpi_element_step(op, &u, &v, c);
  if (accumulate) { /* a constant */
    tfpi_vget(&old, y, n, 0);
    u = u + old;
  }
  tfpi_vgive(y, &u, n);
}
/* a_step and b_step: 1, or 0 for 16 equal numbers that serve the whole row. */
TFPI_INLINE void tfpi_element_row(int op, float *y, const float *a, int64_t a_step, const float *b,
                                  int64_t b_step, int64_t n, float c, int accumulate) {
  int64_t i;
  for (i = 0; i + TFPI_VN <= n; i += TFPI_VN)
    tfpi_element_at(op, y + i, a + i * a_step, b + i * b_step, TFPI_VN, c, accumulate);
  if (i < n) tfpi_element_at(op, y + i, a + i * a_step, b + i * b_step, n - i, c, accumulate);
}
TFPI_INLINE void tfpi_element_rows(int op, void *arg, int64_t task) {
  const tfpi_element_job *r = (const tfpi_element_job *)arg;
  int64_t row = task / r->pieces * r->per_task, index[TFP_MAX_DIMS], rest = row;
  const int64_t end = tfpi_min64(row + r->per_task, r->rows);
  const int64_t from = r->shape[0] * (task % r->pieces) / r->pieces / TFPI_VN * TFPI_VN;
  const int64_t to = task % r->pieces + 1 == r->pieces
                         ? r->shape[0]
                         : r->shape[0] * (task % r->pieces + 1) / r->pieces / TFPI_VN * TFPI_VN;
  float *at[3], same[3][TFPI_VN];
  int i, k;
  for (k = 0; k < 3; k++) at[k] = r->at[k] + from * r->stride[k][0];
  for (i = 1; i < r->axes; i++) {
    index[i] = rest % r->shape[i];
    rest /= r->shape[i];
    for (k = 0; k < 3; k++) at[k] += index[i] * r->stride[k][i];
  }
  for (; row < end; row++) {
    const float *in[3];
    for (k = 1; k < 3; k++) {
      in[k] = at[k];
      if (r->stride[k][0] == 0) {
        for (i = 0; i < TFPI_VN; i++) same[k][i] = *at[k];
        in[k] = same[k];
      }
    }
    if (r->accumulate)
      tfpi_element_row(op, at[0], in[1], r->stride[1][0], in[2], r->stride[2][0], to - from, r->c,
                       1);
    else
      tfpi_element_row(op, at[0], in[1], r->stride[1][0], in[2], r->stride[2][0], to - from, r->c,
                       0);
    for (i = 1; i < r->axes; i++) {
      for (k = 0; k < 3; k++) at[k] += r->stride[k][i];
      if (++index[i] < r->shape[i]) break;
      for (k = 0; k < 3; k++) at[k] -= r->stride[k][i] * r->shape[i];
      index[i] = 0;
    }
  }
}

/* ---- sums over rows: y (C) = or += sum of x (rows,C), 64 columns a task; over columns: rows a
 * task ---- */

typedef struct tfpi_row_sums_job {
  const float *x;
  float *y;
  int64_t rows, cols, stride; /* of x: from row to row */
  int64_t per_task;           /* columns, or rows */
  int accumulate;
  float scale;
} tfpi_row_sums_job;

/* `count` vectors side by side, n lanes of each; groups of rows, so that long sums stay exact. */
TFPI_INLINE void tfpi_row_columns_at(const tfpi_row_sums_job *s, int64_t c, int count, int64_t n) {
  enum { TFPI_GROUP = 64 };
  tfpi_vacc total[4], part[4];
  int64_t r, r0;
  int k;
  TFPI_UNROLL
  for (k = 0; k < count; k++) tfpi_vacc_set(&total[k], 0);
  for (r0 = 0; r0 < s->rows; r0 += TFPI_GROUP) {
    const int64_t end = tfpi_min64(r0 + TFPI_GROUP, s->rows);
    TFPI_UNROLL
    for (k = 0; k < count; k++) tfpi_vacc_set(&part[k], 0);
    for (r = r0; r < end; r++) {
      const float *x = s->x + r * s->stride + c;
      TFPI_UNROLL
      for (k = 0; k < count; k++) {
        tfpi_vf v;
        tfpi_vget(&v, x + k * TFPI_VN, n, 0);
        tfpi_vacc_add(&part[k], &v);
      }
    }
    TFPI_UNROLL
    for (k = 0; k < count; k++)
      total[k].lo = total[k].lo + part[k].lo, total[k].hi = total[k].hi + part[k].hi;
  }
  TFPI_UNROLL
  for (k = 0; k < count; k++) {
    tfpi_vf v, old;
    memcpy(&v, &total[k], sizeof v);
    v = v * s->scale;
    if (s->accumulate) {
      tfpi_vget(&old, s->y + c + k * TFPI_VN, n, 0);
      v = v + old;
    }
    tfpi_vgive(s->y + c + k * TFPI_VN, &v, n);
  }
}
TFPI_INLINE void tfpi_row_columns(void *arg, int64_t task, int thread) {
  const tfpi_row_sums_job *s = (const tfpi_row_sums_job *)arg;
  int64_t c = task * s->per_task;
  const int64_t end = tfpi_min64(c + s->per_task, s->cols);
  (void)thread;
  for (; c + 4 * TFPI_VN <= end; c += 4 * TFPI_VN) tfpi_row_columns_at(s, c, 4, TFPI_VN);
  for (; c + TFPI_VN <= end; c += TFPI_VN) tfpi_row_columns_at(s, c, 1, TFPI_VN);
  if (c < end) tfpi_row_columns_at(s, c, 1, end - c);
}
TFPI_INLINE void tfpi_row_totals(void *arg, int64_t task, int thread) {
  const tfpi_row_sums_job *s = (const tfpi_row_sums_job *)arg;
  int64_t row = task * s->per_task;
  const int64_t end = tfpi_min64(row + s->per_task, s->rows);
  (void)thread;
  for (; row < end; row++) {
    const float *x = s->x + row * s->stride;
    double sum = 0;
    int64_t c = 0;
    while (c < s->cols) { /* 2048 numbers in float, those sums in double */
      const int64_t stop = tfpi_min64(c + 2048, s->cols);
      tfpi_vacc t;
      tfpi_vf v;
      tfpi_vacc_set(&t, 0);
      for (; c + TFPI_VN <= stop; c += TFPI_VN) {
        tfpi_vload(&v, x + c);
        tfpi_vacc_add(&t, &v);
      }
      if (c < stop) {
        tfpi_vhead(&v, x + c, stop - c, 0);
        tfpi_vacc_add(&t, &v);
        c = stop;
      }
      sum += (double)tfpi_vacc_sum(&t);
    }
    s->y[row] = (float)(sum * (double)s->scale) + (s->accumulate ? s->y[row] : 0);
  }
}

/* ---- rows of tables ---- */

typedef struct tfpi_row_lookup_job {
  float *rows, *table;                        /* (n,C), (.,C); table is written by scatter_add */
  const float *const *tables;
  const int32_t *const *ids;
  int count;
  int64_t n, cols, skip, per_task;
} tfpi_row_lookup_job;
TFPI_INLINE void tfpi_row_add(float *y, const float *x, int64_t n) {
  tfpi_element_row(TFPI_ELEMENT_COPY, y, x, 1, x, 1, n, 0, 1);
}
TFPI_INLINE void tfpi_row_gather(void *arg, int64_t task, int thread) {
  const tfpi_row_lookup_job *g = (const tfpi_row_lookup_job *)arg;
  int64_t i = task * g->per_task;
  const int64_t end = tfpi_min64(i + g->per_task, g->n);
  int k;
  (void)thread;
  for (; i < end; i++) {
    float *y = g->rows + i * g->cols;
    memcpy(y, g->tables[0] + g->ids[0][i] * g->cols, (size_t)g->cols * sizeof *y);
    for (k = 1; k < g->count; k++) tfpi_row_add(y, g->tables[k] + g->ids[k][i] * g->cols, g->cols);
  }
}
/* A task owns some columns of the table, so that rows come in their order on any number of threads.
 * */
TFPI_INLINE void tfpi_row_scatter(void *arg, int64_t task, int thread) {
  const tfpi_row_lookup_job *g = (const tfpi_row_lookup_job *)arg;
  const int64_t c = task * g->per_task, n = tfpi_min64(g->per_task, g->cols - c);
  int64_t i;
  (void)thread;
  for (i = 0; i < g->n; i++)
    if (g->ids[0][i] != g->skip)
      tfpi_row_add(g->table + g->ids[0][i] * g->cols + c, g->rows + i * g->cols + c, n);
}

/* ---- softmax and cross-entropy ---- */

/* The largest of n numbers (NaN if one is NaN, -inf if there are none). */
TFPI_INLINE float tfpi_row_top(const float *x, int64_t n) {
  tfpi_vacc t;
  tfpi_vf v;
  int64_t c;
  tfpi_vacc_set(&t, -INFINITY);
  for (c = 0; c + TFPI_VN <= n; c += TFPI_VN) {
    tfpi_vload(&v, x + c);
    tfpi_vacc_max(&t, &v);
  }
  if (c < n) {
    tfpi_vhead(&v, x + c, n - c, -INFINITY);
    tfpi_vacc_max(&t, &v);
  }
  return tfpi_vacc_top(&t);
}
TFPI_INLINE void tfpi_row_exp_at(tfpi_vacc *t, float *y, const float *x, int64_t n, float top,
                                 int store) {
  tfpi_vf v;
  tfpi_vget(&v, x, n, -INFINITY);
  v = v - top;
  tfpi_vexp_neg(&v);
  if (store) tfpi_vgive(y, &v, n); /* store is a constant */
  tfpi_vacc_add(t, &v);
}
/* y = exp(x - top), or y is left alone; returns the sum: 2048 numbers in float, those sums in
 * double. */
TFPI_INLINE double tfpi_row_exp(float *y, const float *x, int64_t n, float top, int store) {
  double sum = 0;
  int64_t c = 0;
  while (c < n) {
    const int64_t stop = tfpi_min64(c + 2048, n);
    tfpi_vacc t;
    tfpi_vacc_set(&t, 0);
    for (; c + TFPI_VN <= stop; c += TFPI_VN)
      tfpi_row_exp_at(&t, store ? y + c : y, x + c, TFPI_VN, top, store);
    if (c < stop) tfpi_row_exp_at(&t, store ? y + c : y, x + c, stop - c, top, store);
    c = stop;
    sum += (double)tfpi_vacc_sum(&t);
  }
  return sum;
}
/* y = or += factor * x + shift */
TFPI_INLINE void tfpi_row_affine_at(float *y, const float *x, int64_t n, float factor, float shift,
                                    int accumulate) {
  tfpi_vf v, old;
  tfpi_vget(&v, x, n, 0);
  v = v * factor + shift;
  if (accumulate) {
    tfpi_vget(&old, y, n, 0);
    v = v + old;
  }
  tfpi_vgive(y, &v, n);
}
TFPI_INLINE void tfpi_row_affine(float *y, const float *x, int64_t n, float factor, float shift,
                                 int accumulate) {
  int64_t c;
  for (c = 0; c + TFPI_VN <= n; c += TFPI_VN)
    tfpi_row_affine_at(y + c, x + c, TFPI_VN, factor, shift, accumulate);
  if (c < n) tfpi_row_affine_at(y + c, x + c, n - c, factor, shift, accumulate);
}

typedef struct tfpi_row_softmax_job {
  const float *x, *dy;
  float *y;
  int64_t rows, cols, per_task;
  int accumulate;
} tfpi_row_softmax_job;
TFPI_INLINE void tfpi_row_softmaxes(void *arg, int64_t task, int log_form) {
  const tfpi_row_softmax_job *j = (const tfpi_row_softmax_job *)arg;
  const int64_t C = j->cols, end = tfpi_min64((task + 1) * j->per_task, j->rows);
  int64_t i, c;
  for (i = task * j->per_task; i < end; i++) {
    const float *x = j->x + i * C, top = tfpi_row_top(x, C);
    float *y = j->y + i * C;
    if (top == -INFINITY)
      for (c = 0; c < C; c++) y[c] = log_form ? -INFINITY : 0;
    else if (log_form)
      tfpi_row_affine(y, x, C, 1.0f, (float)-((double)top + log(tfpi_row_exp(y, x, C, top, 0))), 0);
    else
      tfpi_row_affine(y, y, C, (float)(1.0 / tfpi_row_exp(y, x, C, top, 1)), 0, 0);
  }
}
TFPI_INLINE void tfpi_row_softmax(void *arg, int64_t task, int thread) {
  (void)thread;
  tfpi_row_softmaxes(arg, task, 0);
}
TFPI_INLINE void tfpi_row_log_softmax(void *arg, int64_t task, int thread) {
  (void)thread;
  tfpi_row_softmaxes(arg, task, 1);
}
TFPI_INLINE void tfpi_row_softmax_bwd_at(float *dx, const float *dy, const float *y, int64_t n,
                                         float sum, int log_form, int accumulate) {
  tfpi_vf d, p, old;
  tfpi_vget(&d, dy, n, 0);
  tfpi_vget(&p, y, n, 0);
  if (log_form) { /* both are constants */
    tfpi_vexp_neg(&p);
    d = d - p * sum;
  } else {
    d = p * (d - sum);
  }
  if (accumulate) {
    tfpi_vget(&old, dx, n, 0);
    d = d + old;
  }
  tfpi_vgive(dx, &d, n);
}
TFPI_INLINE void tfpi_row_softmax_bwd_one(float *dx, const float *dy, const float *y, int64_t C,
                                          float sum, int log_form, int accumulate) {
  int64_t c;
  for (c = 0; c + TFPI_VN <= C; c += TFPI_VN)
    tfpi_row_softmax_bwd_at(dx + c, dy + c, y + c, TFPI_VN, sum, log_form, accumulate);
  if (c < C) tfpi_row_softmax_bwd_at(dx + c, dy + c, y + c, C - c, sum, log_form, accumulate);
}
TFPI_INLINE void tfpi_row_dot_at(tfpi_vacc *t, const float *a, const float *b, int64_t n,
                                 int log_form) {
  tfpi_vf u, v;
  tfpi_vget(&u, a, n, 0);
  if (!log_form) {
    tfpi_vget(&v, b, n, 0);
    u = u * v;
  }
  tfpi_vacc_add(t, &u);
}
TFPI_INLINE void tfpi_row_softmax_bwds(void *arg, int64_t task, int log_form) {
  const tfpi_row_softmax_job *j = (const tfpi_row_softmax_job *)arg;
  const int64_t C = j->cols, end = tfpi_min64((task + 1) * j->per_task, j->rows);
  int64_t i, c;
  for (i = task * j->per_task; i < end; i++) {
    const float *dy = j->dy + i * C, *y = j->x + i * C;
    float *dx = j->y + i * C, sum;
    tfpi_vacc t;
    tfpi_vacc_set(&t, 0);
    for (c = 0; c + TFPI_VN <= C; c += TFPI_VN)
      tfpi_row_dot_at(&t, dy + c, y + c, TFPI_VN, log_form);
    if (c < C) tfpi_row_dot_at(&t, dy + c, y + c, C - c, log_form);
    sum = tfpi_vacc_sum(&t);
    if (j->accumulate) tfpi_row_softmax_bwd_one(dx, dy, y, C, sum, log_form, 1);
    else tfpi_row_softmax_bwd_one(dx, dy, y, C, sum, log_form, 0);
  }
}
TFPI_INLINE void tfpi_row_softmax_bwd(void *arg, int64_t task, int thread) {
  (void)thread;
  tfpi_row_softmax_bwds(arg, task, 0);
}
TFPI_INLINE void tfpi_row_log_softmax_bwd(void *arg, int64_t task, int thread) {
  (void)thread;
  tfpi_row_softmax_bwds(arg, task, 1);
}

/* Losses are summed within up to TFPI_ROW_SLICES runs of rows, and those in order. */
enum { TFPI_ROW_SLICES = 64 };
typedef struct tfpi_row_xent_job {
  const float *x;
  const int32_t *labels;
  float *dx;
  double loss[TFPI_ROW_SLICES];
  int64_t rows, cols, per_task;
  float scale;
  int accumulate;
} tfpi_row_xent_job;
TFPI_INLINE void tfpi_row_xent(void *arg, int64_t task, int thread) {
  tfpi_row_xent_job *j = (tfpi_row_xent_job *)arg;
  const int64_t end = tfpi_min64((task + 1) * j->per_task, j->rows);
  int64_t i;
  double loss = 0;
  (void)thread;
  for (i = task * j->per_task; i < end; i++) {
    const float *x = j->x + i * j->cols;
    float top;
    if (j->labels[i] == TFP_IGNORE_INDEX) continue;
    top = tfpi_row_top(x, j->cols);
    loss += log(tfpi_row_exp(NULL, x, j->cols, top, 0)) + (double)top - (double)x[j->labels[i]];
  }
  j->loss[task] = loss;
}
/* x (V) becomes scale * (softmax(x) - onehot(label)); returns -log softmax(x)[label]. */
TFPI_INLINE double tfpi_row_xent_in(float *dx, const float *x, int64_t V, int32_t label,
                                    float scale) {
  const float top = tfpi_row_top(x, V), at = x[label];
  const double sum = tfpi_row_exp(dx, x, V, top, 1);
  tfpi_row_affine(dx, dx, V, (float)((double)scale / sum), 0, 0);
  dx[label] -= scale;
  return log(sum) + (double)top - (double)at;
}
/* The same added to dx, which costs a second exponential. */
TFPI_INLINE void tfpi_row_xent_add_at(float *dx, const float *x, int64_t n, float top,
                                      float factor) {
  tfpi_vf v, old;
  tfpi_vget(&v, x, n, -INFINITY);
  tfpi_vget(&old, dx, n, 0);
  v = v - top;
  tfpi_vexp_neg(&v);
  v = v * factor + old;
  tfpi_vgive(dx, &v, n);
}
TFPI_INLINE void tfpi_row_xent_add(float *dx, const float *x, int64_t V, int32_t label,
                                   float scale) {
  const float top = tfpi_row_top(x, V);
  const float factor = (float)((double)scale / tfpi_row_exp(dx, x, V, top, 0));
  int64_t c;
  for (c = 0; c + TFPI_VN <= V; c += TFPI_VN)
    tfpi_row_xent_add_at(dx + c, x + c, TFPI_VN, top, factor);
  if (c < V) tfpi_row_xent_add_at(dx + c, x + c, V - c, top, factor);
  dx[label] -= scale;
}
TFPI_INLINE void tfpi_row_xent_bwd(void *arg, int64_t task, int thread) {
  const tfpi_row_xent_job *j = (const tfpi_row_xent_job *)arg;
  const int64_t V = j->cols, end = tfpi_min64((task + 1) * j->per_task, j->rows);
  int64_t i;
  (void)thread;
  for (i = task * j->per_task; i < end; i++) {
    const float *x = j->x + i * V;
    float *dx = j->dx + i * V;
    if (j->labels[i] == TFP_IGNORE_INDEX) {
      if (!j->accumulate) memset(dx, 0, (size_t)V * sizeof *dx);
    } else if (j->accumulate) {
      tfpi_row_xent_add(dx, x, V, j->labels[i], j->scale);
    } else {
      tfpi_row_xent_in(dx, x, V, j->labels[i], j->scale);
    }
  }
}

/* ---- layernorm and RMSNorm ---- */

typedef struct tfpi_row_norm_job {
  const tfpi_norm_args *a;
  const tfpi_norm_bwd_args *b;
  tfp_ctx *ctx;
  int64_t rows, cols, per_task;
} tfpi_row_norm_job;
TFPI_INLINE void tfpi_row_norm_sum_at(tfpi_vacc *t, float *sum, const float *x,
                                      const float *residual, int64_t n, int add) {
  tfpi_vf v, w;
  tfpi_vget(&v, x, n, 0);
  if (add) { /* a constant */
    tfpi_vget(&w, residual, n, 0);
    v = v + w;
    tfpi_vgive(sum, &v, n);
  }
  tfpi_vacc_add(t, &v);
}
TFPI_INLINE float tfpi_row_norm_sum(float *sum, const float *x, const float *residual, int64_t C,
                                    int add) {
  tfpi_vacc t;
  int64_t c;
  tfpi_vacc_set(&t, 0);
  for (c = 0; c + TFPI_VN <= C; c += TFPI_VN)
    tfpi_row_norm_sum_at(&t, sum + c, x + c, residual + c, TFPI_VN, add);
  if (c < C) tfpi_row_norm_sum_at(&t, sum + c, x + c, residual + c, C - c, add);
  return tfpi_vacc_sum(&t);
}
TFPI_INLINE void tfpi_row_square_at(tfpi_vacc *t, const float *x, int64_t n, float mean) {
  tfpi_vf v;
  tfpi_vget(&v, x, n, mean);
  v = v - mean;
  v = v * v;
  tfpi_vacc_add(t, &v);
}
TFPI_INLINE void tfpi_row_norm_out_at(float *y, const float *x, const float *g, const float *b,
                                      int64_t n, float mean, float inv, int bias) {
  tfpi_vf v, w;
  tfpi_vget(&v, x, n, 0);
  tfpi_vget(&w, g, n, 0);
  v = (v - mean) * inv * w;
  if (bias) { /* a constant */
    tfpi_vget(&w, b, n, 0);
    v = v + w;
  }
  tfpi_vgive(y, &v, n);
}
TFPI_INLINE void tfpi_row_norm_out(float *y, const float *x, const float *g, const float *b,
                                   int64_t C, float mean, float inv, int bias) {
  int64_t c;
  for (c = 0; c + TFPI_VN <= C; c += TFPI_VN)
    tfpi_row_norm_out_at(y + c, x + c, g + c, b + c, TFPI_VN, mean, inv, bias);
  if (c < C) tfpi_row_norm_out_at(y + c, x + c, g + c, b + c, C - c, mean, inv, bias);
}
TFPI_INLINE void tfpi_row_norm(void *arg, int64_t task, int thread) {
  const tfpi_row_norm_job *j = (const tfpi_row_norm_job *)arg;
  const tfpi_norm_args *a = j->a;
  const int64_t C = j->cols, end = tfpi_min64((task + 1) * j->per_task, j->rows);
  const float *g = tfpi_data(a->g);
  int64_t i, c;
  (void)thread;
  for (i = task * j->per_task; i < end; i++) {
    const float *x = tfpi_data(a->x) + i * C;
    float *stats = tfpi_data(a->stats) + 2 * i, *y = tfpi_data(a->y) + i * C, mean = 0, inv;
    tfpi_vacc t;
    if (a->residual) {
      float *sum = tfpi_data(a->sum) + i * C;
      mean = tfpi_row_norm_sum(sum, x, tfpi_data(a->residual) + i * C, C, 1);
      x = sum;
    } else if (!a->rms) {
      mean = tfpi_row_norm_sum(y, x, x, C, 0); /* writes nothing */
    }
    mean = a->rms ? 0 : mean / (float)C;
    tfpi_vacc_set(&t, 0);
    for (c = 0; c + TFPI_VN <= C; c += TFPI_VN) tfpi_row_square_at(&t, x + c, TFPI_VN, mean);
    if (c < C) tfpi_row_square_at(&t, x + c, C - c, mean);
    inv = (float)(1.0 / sqrt((double)tfpi_vacc_sum(&t) / (double)C + a->eps));
    if (a->b) tfpi_row_norm_out(y, x, g, tfpi_data(a->b), C, mean, inv, 1);
    else tfpi_row_norm_out(y, x, g, g, C, mean, inv, 0);
    stats[0] = mean;
    stats[1] = inv;
  }
}

/* With h = (x - mean) inv and e = g dy: sums of e and of e h; dg and db on the way. */
TFPI_INLINE void tfpi_row_norm_bwd_sums_at(tfpi_vacc *e_sum, tfpi_vacc *eh_sum, float *dg,
                                           float *db, const float *x, const float *dy,
                                           const float *g, int64_t n, float mean, float inv) {
  tfpi_vf h, d, w;
  tfpi_vget(&h, x, n, mean);
  tfpi_vget(&d, dy, n, 0);
  h = (h - mean) * inv;
  tfpi_vget(&w, db, n, 0);
  w = w + d;
  tfpi_vgive(db, &w, n);
  tfpi_vget(&w, dg, n, 0);
  w = w + d * h;
  tfpi_vgive(dg, &w, n);
  tfpi_vget(&w, g, n, 0);
  d = d * w;
  tfpi_vacc_add(e_sum, &d);
  d = d * h;
  tfpi_vacc_add(eh_sum, &d);
}
/* d = inv (e - mean(e) - h mean(e h)) + dsum */
TFPI_INLINE void tfpi_row_norm_bwd_out_at(float *out, const float *x, const float *dy,
                                          const float *g, const float *dsum, int64_t n, float mean,
                                          float inv, float e, float eh, int add) {
  tfpi_vf h, d, w;
  tfpi_vget(&h, x, n, mean);
  tfpi_vget(&d, dy, n, 0);
  tfpi_vget(&w, g, n, 0);
  h = (h - mean) * inv;
  d = (d * w - e - h * eh) * inv;
  if (add) { /* a constant */
    tfpi_vget(&w, dsum, n, 0);
    d = d + w;
  }
  tfpi_vgive(out, &d, n);
}
TFPI_INLINE void tfpi_row_norm_bwd_out(float *out, const float *x, const float *dy, const float *g,
                                       const float *dsum, int64_t C, float mean, float inv, float e,
                                       float eh, int add) {
  int64_t c;
  for (c = 0; c + TFPI_VN <= C; c += TFPI_VN)
    tfpi_row_norm_bwd_out_at(out + c, x + c, dy + c, g + c, dsum + c, TFPI_VN, mean, inv, e, eh,
                             add);
  if (c < C)
    tfpi_row_norm_bwd_out_at(out + c, x + c, dy + c, g + c, dsum + c, C - c, mean, inv, e, eh, add);
}
/* One slice of rows. A row's gradient is made in dx or dres if one of them is to be overwritten,
 * else in scratch, and reaches the others from there. */
TFPI_INLINE void tfpi_row_norm_bwd(void *arg, int64_t slice, int thread) {
  const tfpi_row_norm_job *j = (const tfpi_row_norm_job *)arg;
  const tfpi_norm_bwd_args *a = j->b;
  const int64_t C = j->cols, end = tfpi_min64((slice + 1) * TFPI_NORM_SLICE, j->rows);
  float *dg = tfpi_data(a->work) + slice * 2 * C, *db = dg + C;
  const float *g = tfpi_data(a->g);
  int64_t i, c;
  memset(dg, 0, (size_t)(2 * C) * sizeof *dg);
  for (i = slice * TFPI_NORM_SLICE; i < end; i++) {
    const float *x = tfpi_data(a->in) + i * C, *dy = tfpi_data(a->dy) + i * C;
    const float mean = tfpi_data(a->stats)[2 * i], inv = tfpi_data(a->stats)[2 * i + 1];
    float *dx = a->dx ? tfpi_data(a->dx) + i * C : NULL,
          *dres = a->dres ? tfpi_data(a->dres) + i * C : NULL;
    float *out = dx && !a->dx_accumulate ? dx : dres && !a->dres_accumulate ? dres : NULL, e, eh;
    tfpi_vacc e_sum, eh_sum;
    if (!out) out = (float *)tfpi_scratch(j->ctx, thread);
    tfpi_vacc_set(&e_sum, 0);
    tfpi_vacc_set(&eh_sum, 0);
    for (c = 0; c + TFPI_VN <= C; c += TFPI_VN)
      tfpi_row_norm_bwd_sums_at(&e_sum, &eh_sum, dg + c, db + c, x + c, dy + c, g + c, TFPI_VN,
                                mean, inv);
    if (c < C)
      tfpi_row_norm_bwd_sums_at(&e_sum, &eh_sum, dg + c, db + c, x + c, dy + c, g + c, C - c, mean,
                                inv);
    if (!dx && !dres) continue;
    e = a->rms ? 0 : tfpi_vacc_sum(&e_sum) / (float)C;
    eh = tfpi_vacc_sum(&eh_sum) / (float)C;
    if (a->dsum)
      tfpi_row_norm_bwd_out(out, x, dy, g, tfpi_data(a->dsum) + i * C, C, mean, inv, e, eh, 1);
    else tfpi_row_norm_bwd_out(out, x, dy, g, g, C, mean, inv, e, eh, 0);
    if (dx && dx != out)
      tfpi_row_affine(dx, out, C, 1.0f, 0, 1); /* it accumulates: else it were out */
    if (dres && dres != out) {
      if (a->dres_accumulate) tfpi_row_affine(dres, out, C, 1.0f, 0, 1);
      else memcpy(dres, out, (size_t)C * sizeof *out);
    }
  }
}

/* ---- flat arrays ---- */

typedef struct tfpi_row_flat_job {
  const tfpi_adamw_args *adam;
  const tfpi_step_params *now;
  float *y;
  const float *x;
  float value;
  double part[256];
  int64_t n, per_task;
} tfpi_row_flat_job;
TFPI_INLINE void tfpi_row_fill(void *arg, int64_t task, int thread) {
  const tfpi_row_flat_job *f = (const tfpi_row_flat_job *)arg;
  const int64_t end = tfpi_min64((task + 1) * f->per_task, f->n);
  int64_t i = task * f->per_task;
  tfpi_vf v;
  (void)thread;
  if (f->value == 0) {
    memset(f->y + i, 0, (size_t)(end - i) * sizeof *f->y);
    return;
  }
  tfpi_vset(&v, f->value);
  for (; i + TFPI_VN <= end; i += TFPI_VN) tfpi_vstore(f->y + i, &v);
  for (; i < end; i++) f->y[i] = f->value;
}

typedef struct tfpi_row_adam { float b1, c1, b2, c2, scale, step, keep, fix2, eps; } tfpi_row_adam;
TFPI_INLINE void tfpi_row_adamw_at(const tfpi_adamw_args *a, const tfpi_row_adam *k, int64_t i,
                                   int64_t n) {
  tfpi_vf p, g, m, v, root, inv;
  tfpi_vget(&p, a->p + i, n, 0);
  tfpi_vget(&g, a->g + i, n, 0);
  tfpi_vget(&m, a->m + i, n, 0);
  tfpi_vget(&v, a->v + i, n, 0);
  g = g * k->scale;
  m = m * k->b1 + g * k->c1;
  v = v * k->b2 + g * g * k->c2;
  tfpi_vgive(a->m + i, &m, n);
  tfpi_vgive(a->v + i, &v, n);
  root = inv = v * k->fix2;
  tfpi_vrsqrt(&inv);
  root = root * inv;
  p = p * k->keep - m * k->step / (root + k->eps);
  tfpi_vgive(a->p + i, &p, n);
}
TFPI_INLINE void tfpi_row_adamw(void *arg, int64_t task, int thread) {
  const tfpi_row_flat_job *f = (const tfpi_row_flat_job *)arg;
  const tfpi_adamw_args *a = f->adam;
  const int64_t end = tfpi_min64((task + 1) * f->per_task, f->n);
  int64_t i = task * f->per_task;
  tfpi_row_adam k;
  (void)thread;
  k.b1 = (float)a->beta1, k.c1 = (float)(1.0 - a->beta1);
  k.b2 = (float)a->beta2, k.c2 = (float)(1.0 - a->beta2);
  k.scale = f->now->grad_scale, k.fix2 = f->now->fix2, k.eps = (float)a->eps;
  k.step = f->now->lr * f->now->fix1;
  k.keep = (float)(1.0 - (double)f->now->lr * a->decay);
  for (; i + TFPI_VN <= end; i += TFPI_VN) tfpi_row_adamw_at(a, &k, i, TFPI_VN);
  if (i < end) tfpi_row_adamw_at(a, &k, i, end - i);
}
TFPI_INLINE void tfpi_row_squares(void *arg, int64_t task, int thread) {
  tfpi_row_flat_job *f = (tfpi_row_flat_job *)arg;
  const int64_t end = tfpi_min64((task + 1) * f->per_task, f->n);
  int64_t i = task * f->per_task;
  double sum = 0;
  (void)thread;
  while (i < end) {
    const int64_t stop = tfpi_min64(i + 2048, end);
    tfpi_vacc t;
    tfpi_vacc_set(&t, 0);
    for (; i + TFPI_VN <= stop; i += TFPI_VN) tfpi_row_square_at(&t, f->x + i, TFPI_VN, 0);
    if (i < stop) tfpi_row_square_at(&t, f->x + i, stop - i, 0);
    i = stop;
    sum += (double)tfpi_vacc_sum(&t);
  }
  f->part[task] = sum;
}

/* ---- dropout: y = or += x / (1-p) where it is kept ---- */

typedef struct tfpi_row_dropout_job {
  const float *x;
  float *y;
  int64_t rows, T, cols, per_task; /* rows of (B,T,C) */
  uint64_t seed, stream, example;
  int32_t limit;                   /* 24-bit draws below it drop */
  float scale;
  int accumulate;
} tfpi_row_dropout_job;
/* The 16 words of four blocks of Philox4x32-10, as tfpi_philox makes them; AVX2 at both levels. */
TFPI_TARGET_AVX2 TFPI_INLINE void tfpi_row_philox(tfpi_vu *out, uint64_t seed, uint64_t stream,
                                                  uint64_t block) {
  const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
  /* unpacking takes lanes 0 and 2, then 1 and 3 */
  const __m256i at =
      _mm256_add_epi64(_mm256_set1_epi64x((int64_t)block), _mm256_setr_epi64x(0, 2, 1, 3));
  __m256i c0 = at, c1 = _mm256_srli_epi64(at, 32), lo, hi;
  __m256i c2 = _mm256_set1_epi64x((int64_t)stream),
          c3 = _mm256_set1_epi64x((int64_t)(stream >> 32));
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  int round;
  TFPI_UNROLL
  for (round = 0; round < 10; round++) {
    const __m256i p0 = _mm256_mul_epu32(m0, c0), p1 = _mm256_mul_epu32(m1, c2);
    c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1),
                          _mm256_set1_epi64x((int64_t)k0));
    c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3),
                          _mm256_set1_epi64x((int64_t)k1));
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  c0 = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xAA);
  c2 = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xAA);
  lo = _mm256_unpacklo_epi64(c0, c2);
  hi = _mm256_unpackhi_epi64(c0, c2);
  memcpy(out, &lo, sizeof lo);
  memcpy((char *)out + sizeof lo, &hi, sizeof hi);
}
TFPI_TARGET_AVX2 TFPI_INLINE void tfpi_row_dropout_at(const tfpi_row_dropout_job *j, float *y,
                                                      const float *x, int64_t n, uint64_t index,
                                                      int accumulate) {
  tfpi_vu bits;
  tfpi_vi drop;
  tfpi_vf v, old;
  tfpi_row_philox(&bits, j->seed, j->stream, index / 4);
  drop = ((tfpi_vi)(bits >> 8) - j->limit) >> 31;
  tfpi_vget(&v, x, n, 0);
  v = v * j->scale;
  v = (tfpi_vf)((tfpi_vi)v & ~drop);
  if (accumulate) { /* a constant */
    tfpi_vget(&old, y, n, 0);
    v = v + old;
  }
  tfpi_vgive(y, &v, n);
}
TFPI_TARGET_AVX2 TFPI_INLINE void tfpi_row_dropout_one(const tfpi_row_dropout_job *j, float *y,
                                                       const float *x, int64_t C, uint64_t index,
                                                       int accumulate) {
  int64_t c;
  for (c = 0; c + TFPI_VN <= C; c += TFPI_VN)
    tfpi_row_dropout_at(j, y + c, x + c, TFPI_VN, index + (uint64_t)c, accumulate);
  if (c < C) tfpi_row_dropout_at(j, y + c, x + c, C - c, index + (uint64_t)c, accumulate);
}
TFPI_TARGET_AVX2 TFPI_INLINE void tfpi_row_dropout(void *arg, int64_t task, int thread) {
  const tfpi_row_dropout_job *j = (const tfpi_row_dropout_job *)arg;
  const int64_t C = j->cols, end = tfpi_min64((task + 1) * j->per_task, j->rows);
  int64_t i;
  (void)thread;
  for (i = task * j->per_task; i < end; i++) {
    const uint64_t index = tfpi_draw_index(j->example + (uint64_t)(i / j->T), i % j->T, 0);
    const float *x = j->x + i * C;
    float *y = j->y + i * C;
    if (j->accumulate) tfpi_row_dropout_one(j, y, x, C, index, 1);
    else tfpi_row_dropout_one(j, y, x, C, index, 0);
  }
}

/* ---- one function per level, and the table ---- */

#define TFPI_ROW_LIST(X) \
  X(columns) X(totals) X(gather) X(scatter) X(softmax) X(log_softmax) X(softmax_bwd) \
  X(log_softmax_bwd) X(xent) X(xent_bwd) X(norm) X(norm_bwd) X(dropout) X(fill) X(adamw) X(squares)
#define TFPI_X(name) \
  TFPI_TARGET_AVX2 static void tfpi_row_##name##_avx2(void *arg, int64_t i, int thread) { \
    tfpi_row_##name(arg, i, thread); \
  } \
  TFPI_TARGET_AVX512 static void tfpi_row_##name##_avx512(void *arg, int64_t i, int thread) { \
    tfpi_row_##name(arg, i, thread); \
  }
TFPI_ROW_LIST(TFPI_X)
#undef TFPI_X
#define TFPI_X(name) \
  TFPI_TARGET_AVX2 static void tfpi_element_##name##_avx2(void *arg, int64_t i, int thread) { \
    (void)thread; \
    tfpi_element_rows(TFPI_ELEMENT_##name, arg, i); \
  } \
  TFPI_TARGET_AVX512 static void tfpi_element_##name##_avx512(void *arg, int64_t i, int thread) { \
    (void)thread; \
    tfpi_element_rows(TFPI_ELEMENT_##name, arg, i); \
  }
TFPI_ELEMENT_LIST(TFPI_X)
#undef TFPI_X

enum { /* rows of the table below: tfpi_element counts on from TFPI_ROW_COUNT */
#define TFPI_X(name) TFPI_ROW_##name,
  TFPI_ROW_LIST(TFPI_X)
#undef TFPI_X
  TFPI_ROW_COUNT
};
static const tfpi_task tfpi_row_table[TFPI_ROW_COUNT + TFPI_ELEMENT_COUNT][2] = {
#define TFPI_X(name) {tfpi_row_##name##_avx2, tfpi_row_##name##_avx512},
  TFPI_ROW_LIST(TFPI_X)
#undef TFPI_X
#define TFPI_X(name) {tfpi_element_##name##_avx2, tfpi_element_##name##_avx512},
  TFPI_ELEMENT_LIST(TFPI_X)
#undef TFPI_X
};
static void tfpi_row_run(tfp_ctx *ctx, int which, int64_t tasks, void *arg) {
  tfpi_parallel(ctx, tasks, tfpi_row_table[which][ctx->level == TFP_LEVEL_AVX512], arg);
}

/* ---- entries of the kernel table ---- */

/* Joins the axes of y and its inputs; b may be NULL. 0: not for these kernels. */
static int tfpi_element_plan(tfpi_element_job *r, const tfp_tensor *y, const tfp_tensor *a,
                             const tfp_tensor *b) {
  const tfp_tensor *t[3];
  int axis, k;
  t[0] = y, t[1] = a, t[2] = b ? b : a;
  r->axes = 0;
  for (axis = y->ndim - 1; axis >= 0; axis--) {
    int joins = r->axes > 0;
    if (y->shape[axis] == 0) return 0;
    if (y->shape[axis] == 1) continue;
    for (k = 0; k < 3 && joins; k++)
      joins = t[k]->stride[axis] == r->shape[r->axes - 1] * r->stride[k][r->axes - 1];
    if (joins) {
      r->shape[r->axes - 1] *= y->shape[axis];
      continue;
    }
    r->shape[r->axes] = y->shape[axis];
    for (k = 0; k < 3; k++) r->stride[k][r->axes] = t[k]->stride[axis];
    r->axes++;
  }
  if (!r->axes || r->shape[0] < 8) return 0;
  for (k = 0; k < 3; k++) {
    if (t[k]->dtype != TFP_REAL || t[k]->ndim != y->ndim) return 0;
    if (r->stride[k][0] != 1 && (k == 0 || r->stride[k][0] != 0)) return 0;
    r->at[k] = tfpi_data(t[k]);
  }
  for (r->rows = 1, axis = 1; axis < r->axes; axis++) r->rows *= r->shape[axis];
  r->pieces = r->shape[0] >= 2 * TFPI_ROW_TASK ? tfpi_ceil_div(r->shape[0], TFPI_ROW_TASK) : 1;
  r->per_task = r->pieces > 1 ? 1 : tfpi_row_per_task(r->shape[0]);
  return 1;
}
/* y = or += op(a, b); 0 if it was not done. */
static int tfpi_element_run(tfp_ctx *ctx, int op, tfp_tensor *y, const tfp_tensor *a,
                            const tfp_tensor *b, double c, int accumulate) {
  tfpi_element_job r;
  if (!tfpi_element_plan(&r, y, a, b)) return 0;
  r.c = (float)c;
  r.accumulate = accumulate;
  tfpi_row_run(ctx, TFPI_ROW_COUNT + op, tfpi_ceil_div(r.rows, r.per_task) * r.pieces, &r);
  return 1;
}

static void tfpi_copy_simd(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x, int accumulate) {
  if (!tfpi_element_run(ctx, TFPI_ELEMENT_COPY, y, x, NULL, 0, accumulate))
    tfpi_copy_plain(ctx, y, x, accumulate);
}

static void tfpi_fill_simd(tfp_ctx *ctx, tfp_tensor *y, double value) {
  tfpi_row_flat_job f;
  if (y->dtype != TFP_REAL || !tfp_is_contiguous(y)) {
    tfpi_fill_plain(ctx, y, value);
    return;
  }
  f.y = tfpi_data(y), f.value = (float)value, f.n = tfp_numel(y), f.per_task = 4 * TFPI_ROW_TASK;
  tfpi_row_run(ctx, TFPI_ROW_fill, tfpi_ceil_div(f.n, f.per_task), &f);
}

static void tfpi_unary_simd(tfp_ctx *ctx, tfpi_unary_kind kind, tfp_tensor *y, const tfp_tensor *x,
                            double c) {
  int op = -1;
  switch (kind) {
    case TFPI_NEG: op = TFPI_ELEMENT_NEG; break;
    case TFPI_SCALE: op = TFPI_ELEMENT_SCALE; break;
    case TFPI_EXP: op = TFPI_ELEMENT_EXP; break;
    case TFPI_TANH: op = TFPI_ELEMENT_TANH; break;
    case TFPI_SIGMOID: op = TFPI_ELEMENT_SIGMOID; break;
    case TFPI_RELU: op = TFPI_ELEMENT_RELU; break;
    case TFPI_SILU: op = TFPI_ELEMENT_SILU; break;
    case TFPI_GELU: op = TFPI_ELEMENT_GELU; break;
    case TFPI_GELU_NEW: op = TFPI_ELEMENT_GELU_NEW; break;
    default: break;
  }
  if (op < 0 || !tfpi_element_run(ctx, op, y, x, NULL, c, 0)) tfpi_unary_plain(ctx, kind, y, x, c);
}

static void tfpi_unary_bwd_simd(tfp_ctx *ctx, tfpi_unary_kind kind, tfp_tensor *dx,
                                const tfp_tensor *dy, const tfp_tensor *x, const tfp_tensor *y,
                                double c, int accumulate) {
  const tfp_tensor *with = NULL;
  int op = -1;
  switch (kind) {
    case TFPI_NEG: op = TFPI_ELEMENT_NEG; break;
    case TFPI_SCALE: op = TFPI_ELEMENT_SCALE; break;
    case TFPI_EXP: op = TFPI_ELEMENT_MUL, with = y; break;
    case TFPI_LOG: op = TFPI_ELEMENT_DIV, with = x; break;
    case TFPI_SQRT: op = TFPI_ELEMENT_SQRT_BWD, with = y; break;
    case TFPI_TANH: op = TFPI_ELEMENT_TANH_BWD, with = y; break;
    case TFPI_SIGMOID: op = TFPI_ELEMENT_SIGMOID_BWD, with = y; break;
    case TFPI_RELU: op = TFPI_ELEMENT_RELU_BWD, with = y; break;
    case TFPI_SILU: op = TFPI_ELEMENT_SILU_BWD, with = x; break;
    case TFPI_GELU: op = TFPI_ELEMENT_GELU_BWD, with = x; break;
    case TFPI_GELU_NEW: op = TFPI_ELEMENT_GELU_NEW_BWD, with = x; break;
    default: break;
  }
  if (op < 0 || !tfpi_element_run(ctx, op, dx, dy, with, c, accumulate))
    tfpi_unary_bwd_plain(ctx, kind, dx, dy, x, y, c, accumulate);
}

static int tfpi_element_of(tfpi_binary_kind kind) {
  return kind == TFPI_ADD ? TFPI_ELEMENT_ADD : kind == TFPI_SUB ? TFPI_ELEMENT_SUB
         : kind == TFPI_MUL ? TFPI_ELEMENT_MUL : TFPI_ELEMENT_DIV;
}
static void tfpi_binary_simd(tfp_ctx *ctx, tfpi_binary_kind kind, tfp_tensor *y,
                             const tfp_tensor *a, const tfp_tensor *b) {
  if (!tfpi_element_run(ctx, tfpi_element_of(kind), y, a, b, 0, 0))
    tfpi_binary_plain(ctx, kind, y, a, b);
}

/* Sum of x over rows into y (C), if x is (...,C) contiguous and y has C numbers; 0 if not. */
static int tfpi_columns_run(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x, double scale,
                            int accumulate) {
  tfpi_row_sums_job s;
  const int64_t n = tfp_numel(x), m = tfp_numel(y);
  int64_t tail = 1;
  int i;
  if (x->dtype != TFP_REAL || y->dtype != TFP_REAL || !tfp_is_contiguous(x) ||
      !tfp_is_contiguous(y))
    return 0;
  if (n == 0 || m < 8 || x->ndim != y->ndim) return 0;
  for (i = x->ndim - 1; i >= 0 && y->shape[i] == x->shape[i]; i--) tail *= y->shape[i];
  if (tail != m) return 0;
  s.x = tfpi_data(x), s.y = tfpi_data(y), s.rows = n / m, s.cols = s.stride = m;
  s.per_task = n <= TFPI_ROW_TASK ? tfpi_max64(64, m) : 64;
  s.accumulate = accumulate, s.scale = (float)scale;
  tfpi_row_run(ctx, TFPI_ROW_columns, tfpi_ceil_div(m, s.per_task), &s);
  return 1;
}

static void tfpi_binary_bwd_simd(tfp_ctx *ctx, tfpi_binary_kind kind, int which, tfp_tensor *d,
                                 const tfp_tensor *dy, const tfp_tensor *a, const tfp_tensor *b,
                                 int accumulate) {
  const int same = tfpi_same_shape(d, dy);
  int done = 0;
  if (kind == TFPI_ADD || (kind == TFPI_SUB && which == 0))
    done = same ? tfpi_element_run(ctx, TFPI_ELEMENT_COPY, d, dy, NULL, 0, accumulate)
                : tfpi_columns_run(ctx, d, dy, 1, accumulate);
  else if (kind == TFPI_SUB)
    done = same ? tfpi_element_run(ctx, TFPI_ELEMENT_NEG, d, dy, NULL, 0, accumulate)
                : tfpi_columns_run(ctx, d, dy, -1, accumulate);
  else if (kind == TFPI_MUL && same)
    done = tfpi_element_run(ctx, TFPI_ELEMENT_MUL, d, dy, which == 0 ? b : a, 0, accumulate);
  else if (kind == TFPI_DIV && which == 0 && same)
    done = tfpi_element_run(ctx, TFPI_ELEMENT_DIV, d, dy, b, 0, accumulate);
  if (!done) tfpi_binary_bwd_plain(ctx, kind, which, d, dy, a, b, accumulate);
}

static void tfpi_reduce_simd(tfp_ctx *ctx, tfpi_reduce_kind kind, tfp_tensor *y,
                             const tfp_tensor *x, int accumulate) {
  const int64_t n = tfp_numel(x), m = tfp_numel(y);
  const double scale = kind == TFPI_MEAN && n ? (double)m / (double)n : 1;
  int64_t head = 1;
  int i;
  if (kind != TFPI_MAX && n && m && x->dtype == TFP_REAL && tfp_is_contiguous(x) &&
      tfp_is_contiguous(y)) {
    for (i = 0; i < x->ndim && y->shape[i] == x->shape[i]; i++) head *= y->shape[i];
    if (head == m && n / m >= 8) { /* the last axes go: whole rows are summed */
      tfpi_row_sums_job s;
      s.x = tfpi_data(x), s.y = tfpi_data(y), s.rows = m, s.cols = s.stride = n / m;
      s.per_task = tfpi_row_per_task(s.cols);
      s.accumulate = accumulate, s.scale = (float)scale;
      tfpi_row_run(ctx, TFPI_ROW_totals, tfpi_ceil_div(m, s.per_task), &s);
      return;
    }
    if (tfpi_columns_run(ctx, y, x, scale, accumulate)) return;
  }
  tfpi_reduce_plain(ctx, kind, y, x, accumulate);
}

enum { TFPI_GATHER_TABLES = 4 };
static void tfpi_gather_simd(tfp_ctx *ctx, tfp_tensor *y, int count,
                             const tfp_tensor *const *tables, const tfp_tensor *const *ids) {
  tfpi_row_lookup_job g;
  const float *table[TFPI_GATHER_TABLES];
  const int32_t *id[TFPI_GATHER_TABLES];
  int k;
  const int64_t cols = y->ndim ? y->shape[y->ndim - 1] : 1;
  int fast = count >= 1 && count <= TFPI_GATHER_TABLES && y->dtype == TFP_REAL && cols > 0 &&
             tfp_is_contiguous(y);
  for (k = 0; k < count && fast; k++) {
    fast =
        tables[k]->dtype == TFP_REAL && tfp_is_contiguous(tables[k]) && tfp_is_contiguous(ids[k]);
    table[k] = tfpi_data(tables[k]);
    id[k] = tfpi_ints(ids[k]);
  }
  if (!fast) {
    tfpi_gather_plain(ctx, y, count, tables, ids);
    return;
  }
  memset(&g, 0, sizeof g);
  g.rows = tfpi_data(y), g.tables = table, g.ids = id, g.count = count;
  g.cols = cols, g.n = tfp_numel(y) / cols, g.per_task = tfpi_row_per_task(cols);
  tfpi_row_run(ctx, TFPI_ROW_gather, tfpi_ceil_div(g.n, g.per_task), &g);
}

static void tfpi_scatter_add_simd(tfp_ctx *ctx, tfp_tensor *dtable, const tfp_tensor *dy,
                                  const tfp_tensor *ids, int64_t skip, int accumulate) {
  tfpi_row_lookup_job g;
  const int32_t *id = tfpi_ints(ids);
  const int64_t cols = dtable->shape[dtable->ndim - 1];
  if (dtable->dtype != TFP_REAL || cols == 0 || !tfp_is_contiguous(dtable) ||
      !tfp_is_contiguous(dy) || !tfp_is_contiguous(ids)) {
    tfpi_scatter_add_plain(ctx, dtable, dy, ids, skip, accumulate);
    return;
  }
  if (!accumulate) tfpi_fill_simd(ctx, dtable, 0);
  memset(&g, 0, sizeof g);
  g.rows = tfpi_data(dy), g.table = tfpi_data(dtable), g.ids = &id;
  g.cols = cols, g.n = tfp_numel(ids), g.skip = skip;
  g.per_task = g.n * cols <= TFPI_ROW_TASK ? cols : 64;
  tfpi_row_run(ctx, TFPI_ROW_scatter, tfpi_ceil_div(cols, g.per_task), &g);
}

/* A job over the rows of contiguous tensors of x's shape; 0 if they are not, or short. */
static int tfpi_softmax_plan(tfpi_row_softmax_job *j, tfp_tensor *y, const tfp_tensor *x,
                             const tfp_tensor *dy) {
  const int64_t C = x->ndim ? x->shape[x->ndim - 1] : 1;
  if (x->dtype != TFP_REAL || C < 4 || !tfp_is_contiguous(x) || !tfp_is_contiguous(y)) return 0;
  if (dy && !tfp_is_contiguous(dy)) return 0;
  j->x = tfpi_data(x), j->y = tfpi_data(y), j->dy = dy ? tfpi_data(dy) : NULL;
  j->rows = tfp_numel(x) / C, j->cols = C, j->per_task = tfpi_row_per_task(C);
  return 1;
}
static void tfpi_softmax_simd(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x, int log_form) {
  tfpi_row_softmax_job j;
  j.accumulate = 0;
  if (!tfpi_softmax_plan(&j, y, x, NULL)) tfpi_softmax_plain(ctx, y, x, log_form);
  else
    tfpi_row_run(ctx, log_form ? TFPI_ROW_log_softmax : TFPI_ROW_softmax,
                 tfpi_ceil_div(j.rows, j.per_task), &j);
}
static void tfpi_softmax_bwd_simd(tfp_ctx *ctx, tfp_tensor *dx, const tfp_tensor *dy,
                                  const tfp_tensor *y, int log_form, int accumulate) {
  tfpi_row_softmax_job j;
  const int which = log_form ? TFPI_ROW_log_softmax_bwd : TFPI_ROW_softmax_bwd;
  j.accumulate = accumulate;
  if (!tfpi_softmax_plan(&j, dx, y, dy))
    tfpi_softmax_bwd_plain(ctx, dx, dy, y, log_form, accumulate);
  else tfpi_row_run(ctx, which, tfpi_ceil_div(j.rows, j.per_task), &j);
}

static void tfpi_norm_simd(tfp_ctx *ctx, const tfpi_norm_args *a) {
  tfpi_row_norm_job j;
  const int64_t C = a->x->shape[a->x->ndim - 1];
  if (C < 4) {
    tfpi_norm_plain(ctx, a);
    return;
  }
  memset(&j, 0, sizeof j);
  j.a = a, j.ctx = ctx, j.cols = C, j.rows = tfp_numel(a->x) / C, j.per_task = tfpi_row_per_task(C);
  tfpi_row_run(ctx, TFPI_ROW_norm, tfpi_ceil_div(j.rows, j.per_task), &j);
}
static void tfpi_norm_bwd_simd(tfp_ctx *ctx, const tfpi_norm_bwd_args *a) {
  tfpi_row_norm_job j;
  tfpi_row_sums_job s;
  const int64_t C = a->in->shape[a->in->ndim - 1];
  if (C < 4 || !a->dy || (size_t)C * sizeof(float) > ctx->scratch_bytes) {
    tfpi_norm_bwd_plain(ctx, a);
    return;
  }
  memset(&j, 0, sizeof j);
  j.b = a, j.ctx = ctx, j.cols = C, j.rows = tfp_numel(a->in) / C;
  tfpi_row_run(ctx, TFPI_ROW_norm_bwd, tfpi_norm_slices(j.rows), &j);
  s.rows = tfpi_norm_slices(j.rows), s.cols = C, s.stride = 2 * C, s.scale = 1;
  s.per_task = s.rows * C <= TFPI_ROW_TASK ? tfpi_max64(64, C) : 64;
  if (a->dg) {
    s.x = tfpi_data(a->work), s.y = tfpi_data(a->dg), s.accumulate = a->dg_accumulate;
    tfpi_row_run(ctx, TFPI_ROW_columns, tfpi_ceil_div(C, s.per_task), &s);
  }
  if (a->db) {
    s.x = tfpi_data(a->work) + C, s.y = tfpi_data(a->db), s.accumulate = a->db_accumulate;
    tfpi_row_run(ctx, TFPI_ROW_columns, tfpi_ceil_div(C, s.per_task), &s);
  }
}

static void tfpi_dropout_simd(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x, double p,
                              uint64_t stream, int accumulate) {
  tfpi_row_dropout_job j;
  if (x->ndim < 2 || !tfp_is_contiguous(x) || !tfp_is_contiguous(y) || !tfp_numel(x) || !(p < 1)) {
    tfpi_dropout_plain(ctx, y, x, p, stream, accumulate);
    return;
  }
  j.x = tfpi_data(x), j.y = tfpi_data(y);
  j.cols = x->shape[x->ndim - 1], j.T = x->shape[x->ndim - 2], j.rows = tfp_numel(x) / j.cols;
  j.per_task = tfpi_row_per_task(j.cols);
  j.seed = ctx->desc.seed, j.stream = stream, j.example = ctx->now.example;
  j.limit = (int32_t)ceil(p * 16777216.0); /* draw * 2^-24 < p */
  j.scale = (float)(1.0 / (1.0 - p)), j.accumulate = accumulate;
  tfpi_row_run(ctx, TFPI_ROW_dropout, tfpi_ceil_div(j.rows, j.per_task), &j);
}

static void tfpi_xent_simd(tfp_ctx *ctx, tfp_tensor *loss, const tfp_tensor *logits,
                           const tfp_tensor *labels, const float *scale) {
  tfpi_row_xent_job j;
  double sum = 0;
  int64_t i, tasks;
  if (!tfp_is_contiguous(logits) || !tfp_is_contiguous(labels) || !tfp_numel(logits)) {
    tfpi_xent_plain(ctx, loss, logits, labels, scale);
    return;
  }
  memset(&j, 0, sizeof j);
  j.cols = logits->shape[logits->ndim - 1], j.rows = tfp_numel(logits) / j.cols;
  j.x = tfpi_data(logits), j.labels = tfpi_ints(labels);
  j.per_task = tfpi_max64(tfpi_row_per_task(j.cols), tfpi_ceil_div(j.rows, TFPI_ROW_SLICES));
  tasks = tfpi_ceil_div(j.rows, j.per_task);
  tfpi_row_run(ctx, TFPI_ROW_xent, tasks, &j);
  for (i = 0; i < tasks; i++) sum += j.loss[i];
  *tfpi_data(loss) = (float)(sum * (double)*scale);
}
static void tfpi_xent_bwd_simd(tfp_ctx *ctx, tfp_tensor *dlogits, const tfp_tensor *logits,
                               const tfp_tensor *labels, const tfp_tensor *dloss,
                               const float *scale, int accumulate) {
  tfpi_row_xent_job j;
  if (!tfp_is_contiguous(logits) || !tfp_is_contiguous(labels) || !tfp_is_contiguous(dlogits) ||
      !tfp_numel(logits)) {
    tfpi_xent_bwd_plain(ctx, dlogits, logits, labels, dloss, scale, accumulate);
    return;
  }
  memset(&j, 0, sizeof j);
  j.cols = logits->shape[logits->ndim - 1], j.rows = tfp_numel(logits) / j.cols;
  j.x = tfpi_data(logits), j.dx = tfpi_data(dlogits), j.labels = tfpi_ints(labels);
  j.per_task = tfpi_row_per_task(j.cols);
  j.scale = *scale * *tfpi_data(dloss), j.accumulate = accumulate;
  tfpi_row_run(ctx, TFPI_ROW_xent_bwd, tfpi_ceil_div(j.rows, j.per_task), &j);
}

/* The row step of linear_xent: x (V) becomes scale (softmax(x) - onehot(label)); returns -log
 * softmax(x)[label]. */
TFPI_TARGET_AVX2 static double tfpi_xent_row_avx2(float *x, int64_t V, int32_t label, float scale) {
  return tfpi_row_xent_in(x, x, V, label, scale);
}
TFPI_TARGET_AVX512 static double tfpi_xent_row_avx512(float *x, int64_t V, int32_t label,
                                                      float scale) {
  return tfpi_row_xent_in(x, x, V, label, scale);
}
static void tfpi_linear_xent_simd(tfp_ctx *ctx, const tfpi_linear_xent_args *a) {
  tfpi_linear_xent_with(ctx, a,
                        ctx->level == TFP_LEVEL_AVX512 ? tfpi_xent_row_avx512 : tfpi_xent_row_avx2);
}

static void tfpi_adamw_simd(tfp_ctx *ctx, const tfpi_adamw_args *a) {
  tfpi_row_flat_job f;
  f.adam = a, f.now = &ctx->now, f.n = a->n, f.per_task = TFPI_ROW_TASK;
  tfpi_row_run(ctx, TFPI_ROW_adamw, tfpi_ceil_div(f.n, f.per_task), &f);
}
static double tfpi_sum_squares_simd(tfp_ctx *ctx, const tfp_real *x, int64_t n) {
  tfpi_row_flat_job f;
  int64_t i, tasks;
  double sum = 0;
  f.x = x, f.n = n;
  f.per_task =
      tfpi_max64(TFPI_ROW_TASK, tfpi_ceil_div(tfpi_ceil_div(n, TFPI_COUNT(f.part)), 2048) * 2048);
  tasks = tfpi_ceil_div(n, f.per_task);
  tfpi_row_run(ctx, TFPI_ROW_squares, tasks, &f);
  for (i = 0; i < tasks; i++) sum += f.part[i];
  return sum <= 1e300 ? sum
                      : tfpi_sum_squares_plain(ctx, x, n); /* inf: in double it may be a number */
}
#endif /* TFPI_SIMD */
/* ---- the choice of a level --------------------------------------------------------------------
 * What a description asks for counts most, then TFPRE_LEVEL, then what the machine has. */
#if defined(TFPI_SIMD)
static const tfpi_backend tfpi_backend_avx2 = {"avx2",
                                               tfpi_copy_simd,
                                               tfpi_fill_simd,
                                               tfpi_unary_simd,
                                               tfpi_unary_bwd_simd,
                                               tfpi_binary_simd,
                                               tfpi_binary_bwd_simd,
                                               tfpi_reduce_simd,
                                               tfpi_reduce_bwd_plain,
                                               tfpi_gather_simd,
                                               tfpi_scatter_add_simd,
                                               tfpi_softmax_simd,
                                               tfpi_softmax_bwd_simd,
                                               tfpi_norm_simd,
                                               tfpi_norm_bwd_simd,
                                               tfpi_dropout_simd,
                                               tfpi_masked_fill_plain,
                                               tfpi_xent_simd,
                                               tfpi_xent_bwd_simd,
                                               tfpi_matmul_avx2,
                                               tfpi_attention_avx2,
                                               tfpi_attention_bwd_avx2,
                                               tfpi_linear_xent_simd,
                                               tfpi_rotary_plain,
                                               tfpi_adamw_simd,
                                               tfpi_sum_squares_simd};
static const tfpi_backend tfpi_backend_avx512 = {"avx512",
                                                 tfpi_copy_simd,
                                                 tfpi_fill_simd,
                                                 tfpi_unary_simd,
                                                 tfpi_unary_bwd_simd,
                                                 tfpi_binary_simd,
                                                 tfpi_binary_bwd_simd,
                                                 tfpi_reduce_simd,
                                                 tfpi_reduce_bwd_plain,
                                                 tfpi_gather_simd,
                                                 tfpi_scatter_add_simd,
                                                 tfpi_softmax_simd,
                                                 tfpi_softmax_bwd_simd,
                                                 tfpi_norm_simd,
                                                 tfpi_norm_bwd_simd,
                                                 tfpi_dropout_simd,
                                                 tfpi_masked_fill_plain,
                                                 tfpi_xent_simd,
                                                 tfpi_xent_bwd_simd,
                                                 tfpi_matmul_avx512,
                                                 tfpi_attention_avx512,
                                                 tfpi_attention_bwd_avx512,
                                                 tfpi_linear_xent_simd,
                                                 tfpi_rotary_plain,
                                                 tfpi_adamw_simd,
                                                 tfpi_sum_squares_simd};
#endif

/* The table of a dry run: entries that do nothing. */
static void tfpi_copy_dry(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x, int accumulate) {
  (void)ctx, (void)y, (void)x, (void)accumulate;
}
static void tfpi_fill_dry(tfp_ctx *ctx, tfp_tensor *y, double value) {
  (void)ctx, (void)y, (void)value;
}
static void tfpi_unary_dry(tfp_ctx *ctx, tfpi_unary_kind kind, tfp_tensor *y, const tfp_tensor *x,
                           double c) {
  (void)ctx, (void)kind, (void)y, (void)x, (void)c;
}
static void tfpi_unary_bwd_dry(tfp_ctx *ctx, tfpi_unary_kind kind, tfp_tensor *dx,
                               const tfp_tensor *dy, const tfp_tensor *x, const tfp_tensor *y,
                               double c, int accumulate) {
  (void)ctx, (void)kind, (void)dx, (void)dy, (void)x, (void)y, (void)c, (void)accumulate;
}
static void tfpi_binary_dry(tfp_ctx *ctx, tfpi_binary_kind kind, tfp_tensor *y, const tfp_tensor *a,
                            const tfp_tensor *b) {
  (void)ctx, (void)kind, (void)y, (void)a, (void)b;
}
static void tfpi_binary_bwd_dry(tfp_ctx *ctx, tfpi_binary_kind kind, int which, tfp_tensor *d,
                                const tfp_tensor *dy, const tfp_tensor *a, const tfp_tensor *b,
                                int accumulate) {
  (void)ctx, (void)kind, (void)which, (void)d, (void)dy, (void)a, (void)b, (void)accumulate;
}
static void tfpi_reduce_dry(tfp_ctx *ctx, tfpi_reduce_kind kind, tfp_tensor *y, const tfp_tensor *x,
                            int accumulate) {
  (void)ctx, (void)kind, (void)y, (void)x, (void)accumulate;
}
static void tfpi_reduce_bwd_dry(tfp_ctx *ctx, tfpi_reduce_kind kind, tfp_tensor *dx,
                                const tfp_tensor *dy, const tfp_tensor *x, const tfp_tensor *y,
                                int accumulate) {
  (void)ctx, (void)kind, (void)dx, (void)dy, (void)x, (void)y, (void)accumulate;
}
static void tfpi_gather_dry(tfp_ctx *ctx, tfp_tensor *y, int count, const tfp_tensor *const *tables,
                            const tfp_tensor *const *ids) {
  (void)ctx, (void)y, (void)count, (void)tables, (void)ids;
}
static void tfpi_scatter_add_dry(tfp_ctx *ctx, tfp_tensor *dtable, const tfp_tensor *dy,
                                 const tfp_tensor *ids, int64_t skip, int accumulate) {
  (void)ctx, (void)dtable, (void)dy, (void)ids, (void)skip, (void)accumulate;
}
static void tfpi_softmax_dry(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x, int log_form) {
  (void)ctx, (void)y, (void)x, (void)log_form;
}
static void tfpi_softmax_bwd_dry(tfp_ctx *ctx, tfp_tensor *dx, const tfp_tensor *dy,
                                 const tfp_tensor *y, int log_form, int accumulate) {
  (void)ctx, (void)dx, (void)dy, (void)y, (void)log_form, (void)accumulate;
}
static void tfpi_norm_dry(tfp_ctx *ctx, const tfpi_norm_args *a) { (void)ctx, (void)a; }
static void tfpi_norm_bwd_dry(tfp_ctx *ctx, const tfpi_norm_bwd_args *a) { (void)ctx, (void)a; }
static void tfpi_dropout_dry(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x, double p,
                             uint64_t stream, int accumulate) {
  (void)ctx, (void)y, (void)x, (void)p, (void)stream, (void)accumulate;
}
static void tfpi_masked_fill_dry(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x,
                                 const tfp_tensor *mask, double value, int accumulate) {
  (void)ctx, (void)y, (void)x, (void)mask, (void)value, (void)accumulate;
}
static void tfpi_xent_dry(tfp_ctx *ctx, tfp_tensor *loss, const tfp_tensor *logits,
                          const tfp_tensor *labels, const float *scale) {
  (void)ctx, (void)loss, (void)logits, (void)labels, (void)scale;
}
static void tfpi_xent_bwd_dry(tfp_ctx *ctx, tfp_tensor *dlogits, const tfp_tensor *logits,
                              const tfp_tensor *labels, const tfp_tensor *dloss, const float *scale,
                              int accumulate) {
  (void)ctx, (void)dlogits, (void)logits, (void)labels, (void)dloss, (void)scale, (void)accumulate;
}
static void tfpi_matmul_dry(tfp_ctx *ctx, const tfpi_matmul_args *a) { (void)ctx, (void)a; }
static void tfpi_attention_dry(tfp_ctx *ctx, const tfpi_attention_args *a) { (void)ctx, (void)a; }
static void tfpi_linear_xent_dry(tfp_ctx *ctx, const tfpi_linear_xent_args *a) {
  (void)ctx, (void)a;
}
static void tfpi_rotary_dry(tfp_ctx *ctx, tfp_tensor *y, const tfp_tensor *x,
                            const tfp_tensor *positions, int64_t start, double base, int inverse,
                            int accumulate) {
  (void)ctx, (void)y, (void)x, (void)positions, (void)start, (void)base, (void)inverse,
      (void)accumulate;
}
static void tfpi_adamw_dry(tfp_ctx *ctx, const tfpi_adamw_args *a) { (void)ctx, (void)a; }
static double tfpi_sum_squares_dry(tfp_ctx *ctx, const tfp_real *x, int64_t n) {
  (void)ctx, (void)x, (void)n;
  return 0;
}
static const tfpi_backend tfpi_backend_dry = {"dry",
                                              tfpi_copy_dry,
                                              tfpi_fill_dry,
                                              tfpi_unary_dry,
                                              tfpi_unary_bwd_dry,
                                              tfpi_binary_dry,
                                              tfpi_binary_bwd_dry,
                                              tfpi_reduce_dry,
                                              tfpi_reduce_bwd_dry,
                                              tfpi_gather_dry,
                                              tfpi_scatter_add_dry,
                                              tfpi_softmax_dry,
                                              tfpi_softmax_bwd_dry,
                                              tfpi_norm_dry,
                                              tfpi_norm_bwd_dry,
                                              tfpi_dropout_dry,
                                              tfpi_masked_fill_dry,
                                              tfpi_xent_dry,
                                              tfpi_xent_bwd_dry,
                                              tfpi_matmul_dry,
                                              tfpi_attention_dry,
                                              tfpi_attention_dry,
                                              tfpi_linear_xent_dry,
                                              tfpi_rotary_dry,
                                              tfpi_adamw_dry,
                                              tfpi_sum_squares_dry};

/* The best level that this build and this machine have. */
static tfp_level tfpi_best_level(void) {
#if defined(TFPI_SIMD)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      return TFP_LEVEL_AVX512;
    return TFP_LEVEL_AVX2;
  }
#endif
  return TFP_LEVEL_PLAIN;
}

static const char *tfpi_level_word(tfp_level level) {
  return level == TFP_LEVEL_AVX512 ? "avx512" : level == TFP_LEVEL_AVX2 ? "avx2" : "plain";
}

static tfp_status tfpi_choose_level(tfp_ctx *ctx) {
  const tfp_level best = tfpi_best_level();
  tfp_level asked = ctx->desc.level;
  const char *who = "tfp_create";
#if !defined(TFPRE_NO_STDLIB)
  const char *word = asked == TFP_LEVEL_BEST ? getenv("TFPRE_LEVEL") : NULL;
  if (word && *word) {
    who = "TFPRE_LEVEL";
    for (asked = TFP_LEVEL_PLAIN; strcmp(word, tfpi_level_word(asked)) != 0;
         asked = (tfp_level)(asked + 1))
      if (asked == TFP_LEVEL_AVX512)
        return tfpi_fail(ctx, TFP_ERR_ARG,
                         "TFPRE_LEVEL is '%s': plain, avx2 and avx512 are possible", word);
  }
#endif
#if !defined(TFPI_SIMD)
  if (ctx->desc.level == TFP_LEVEL_BEST) asked = best; /* the variable is for builds with levels */
#endif
  if (asked > best)
    return tfpi_fail(ctx, TFP_ERR_UNSUPPORTED,
                     "%s: level %s is asked for, the best of this build and machine is %s", who,
                     tfpi_level_word(asked), tfpi_level_word(best));
  ctx->level = asked == TFP_LEVEL_BEST ? best : asked;
  return TFP_OK;
}

/* Chooses ctx->level and ctx->be and takes the scratch of each thread. */
static tfp_status tfpi_backend_open(tfp_ctx *ctx) {
  void *scratch;
  if (tfpi_choose_level(ctx)) return ctx->status;
  ctx->be = &tfpi_backend_plain;
  ctx->scratch_bytes = 0; /* plain kernels need none */
#if defined(TFPI_SIMD)
  if (ctx->level > TFP_LEVEL_PLAIN) {
    const size_t products = tfpi_simd_scratch_bytes();
    ctx->be = ctx->level == TFP_LEVEL_AVX512 ? &tfpi_backend_avx512 : &tfpi_backend_avx2;
    ctx->scratch_bytes = products > (size_t)1 << 20 ? products : (size_t)1 << 20;
    ctx->scratch_bytes = (ctx->scratch_bytes + TFPI_ALIGN - 1) / TFPI_ALIGN * TFPI_ALIGN;
  }
#endif
  if (ctx->desc.dry_run) ctx->be = &tfpi_backend_dry;
  if (tfpi_take(&ctx->own, ctx->scratch_bytes * (size_t)ctx->threads, TFPI_DATA, &scratch))
    return ctx->status;
  ctx->scratch = (char *)scratch;
  return TFP_OK;
}
/* ================================================================================================
 * >>ops.c   operations and automatic differentiation
 * ================================================================================================
 * Each op is three functions side by side: _shape checks the inputs and makes the outputs, _fwd
 * computes through the backend's table, _bwd adds to the gradients of the inputs what the gradient
 * of the output says. The machinery comes first, then the ops in the order of the list.
 */
typedef struct tfpi_op tfpi_op;
typedef struct tfpi_node tfpi_node;
enum { TFPI_INPUTS = 7 };

struct tfpi_op {
  tfp_op id;
  const char *name;
  int inputs, grads; /* the first `grads` inputs can get a gradient */
  tfp_status (*shape)(tfp_ctx *ctx, tfpi_node *n);
  void (*fwd)(tfp_ctx *ctx, tfpi_node *n);
  tfp_status (*bwd)(tfp_ctx *ctx, tfpi_node *n);
};

struct tfpi_node {
  const tfpi_op *op;
  tfpi_node *older;
  uint64_t tape;                  /* ctx->tapes when it was recorded */
  int record;                     /* a backward will come: save what it needs */
  tfp_tensor *in[TFPI_INPUTS];
  tfp_tensor *out, *second;       /* second: the sum of a norm with residual */
  tfp_tensor *saved[3];
  double c[3];                    /* constants of the op: see each */
  int64_t k[TFP_MAX_DIMS + 1];
  float scale;
  uint64_t stream;
  tfp_tensor *(*fn)(tfp_ctx *, void *, tfp_tensor *); /* recompute */
  void *user;
};

#define TFPI_X(ENUM, name, inputs, grads)                                      \
  static tfp_status tfpi_##name##_shape(tfp_ctx *ctx, tfpi_node *n);           \
  static void tfpi_##name##_fwd(tfp_ctx *ctx, tfpi_node *n);                   \
  static tfp_status tfpi_##name##_bwd(tfp_ctx *ctx, tfpi_node *n);             \
  static const tfpi_op tfpi_op_##name = {TFP_OP_##ENUM, #name, inputs, grads,  \
    tfpi_##name##_shape, tfpi_##name##_fwd, tfpi_##name##_bwd};
TFP_OP_LIST(TFPI_X)
#undef TFPI_X

TFP_API const char *tfp_op_name(tfp_op op) {
  switch (op) {
#define TFPI_X(ENUM, name, inputs, grads) case TFP_OP_##ENUM: return #name;
    TFP_OP_LIST(TFPI_X)
#undef TFPI_X
    default: return "unknown";
  }
}

/* ---- gradient memory ----
 * The gradient of an intermediate dies as soon as its op's backward has run; its buffer is kept in
 * a list and given to the next tensor of the same size. So a deep network needs the gradients of
 * about one block, and they stay in the cache. */
struct tfpi_recycled { tfpi_recycled *next; size_t bytes; void *data; };

static tfp_tensor *tfpi_buffer(tfp_ctx *ctx, tfp_dtype dtype, int ndim, const int64_t *shape,
                               const char *who) {
  tfp_tensor *t = tfpi_tensor_header(&ctx->step, dtype, ndim, shape, who);
  tfpi_recycled **at;
  size_t bytes;
  if (!t) return NULL;
  bytes = (size_t)tfp_numel(t) * tfpi_dtype_bytes(dtype);
  for (at = &ctx->recycled; *at; at = &(*at)->next)
    if ((*at)->bytes == bytes) {
      t->data = (*at)->data;
      *at = (*at)->next;
      return t;
    }
  return tfpi_take(&ctx->step, bytes, TFPI_DATA, &t->data) ? NULL : t;
}
static tfp_tensor *tfpi_buffer_like(tfp_ctx *ctx, const tfp_tensor *t) {
  return tfpi_buffer(ctx, t->dtype, t->ndim, t->shape, t->name);
}
static void tfpi_recycle(tfp_ctx *ctx, tfp_tensor *buffer) {
  tfpi_recycled *r;
  if (!buffer) return;
  r = (tfpi_recycled *)tfpi_new(&ctx->step, 1, sizeof *r);
  if (!r) return;
  r->bytes = (size_t)tfp_numel(buffer) * tfpi_dtype_bytes(buffer->dtype);
  r->data = buffer->data;
  r->next = ctx->recycled;
  ctx->recycled = r;
}

/* Where the gradient of t goes, and whether it must be added to what is there. NULL if none is
 * wanted (or memory ran out). A view's gradient is the same view of its base's gradient. */
static tfp_tensor *tfpi_grad_into(tfp_ctx *ctx, tfp_tensor *t, int *accumulate) {
  *accumulate = 1;
  if (!t || !t->needs_grad || ctx->status) return NULL;
  if (t->base) {
    tfp_tensor *base = t->base;
    const int whole = tfp_numel(t) == tfp_numel(base), first = !base->grad || base->fresh == 1;
    if (!base->grad) base->grad = tfpi_buffer_like(ctx, base);
    if (!base->grad) return NULL;
    if (first && whole) *accumulate = 0;
    else if (first) ctx->be->fill(ctx, base->grad, 0);
    base->fresh = 0;
    if (!t->grad || t->grad->base != base->grad) {
      t->grad = (tfp_tensor *)tfpi_new(&ctx->step, 1, sizeof *t);
      if (!t->grad) return NULL;
      memcpy(t->grad, t, sizeof *t);
      t->grad->grad = NULL, t->grad->node = NULL, t->grad->needs_grad = 0;
      t->grad->base = base->grad;
      t->grad->data = base->grad->data ? (void *)(tfpi_data(base->grad) + t->offset) : NULL;
    }
    return t->grad;
  }
  if (!t->grad) {
    t->grad = tfpi_buffer_like(ctx, t);
    *accumulate = 0;
  } else if (t->fresh == 1) {
    *accumulate = 0;
  }
  t->fresh = 0;
  return t->grad;
}

/* dst (+)= src for an input that wants a gradient. */
static void tfpi_grad_add(tfp_ctx *ctx, tfp_tensor *t, const tfp_tensor *src) {
  int accumulate;
  tfp_tensor *g = tfpi_grad_into(ctx, t, &accumulate);
  if (g) ctx->be->copy(ctx, g, src, accumulate);
}

/* ---- running and recording ---- */

static void tfpi_tape_reset(tfp_ctx *ctx) {
  if (ctx->claimed && ctx->claimed->fresh == 2) ctx->claimed->fresh = 1; /* an abandoned step */
  ctx->claimed = NULL;
  ctx->tape = NULL;
  ctx->recycled = NULL;
  ctx->tapes++;
}

/* Runs the op described by *n and returns its output. A NULL among the inputs that the caller says
 * are required must have been ruled out; the first error of the context stops everything. */
static tfp_tensor *tfpi_run(tfp_ctx *ctx, const tfpi_op *op, tfpi_node *n) {
  int i, wanted = 0;
  if (ctx->status) return NULL;
  n->op = op;
  for (i = 0; i < op->grads; i++) {
    const tfp_tensor *t = n->in[i];
    if (!t || !t->needs_grad) continue;
    wanted = 1;
    if (t->node && t->node->tape != ctx->tapes && !ctx->no_grad) {
      tfpi_fail(ctx, TFP_ERR_STATE, "%s: the tape of its input %t was walked already", op->name, t);
      return NULL;
    }
  }
  /* what a recomputed function reads is not known before it runs: it is recorded in any case */
  n->record = (wanted || op->id == TFP_OP_RECOMPUTE) && !ctx->no_grad;
  if (op->shape(ctx, n) || ctx->status) return NULL;
  op->fwd(ctx, n);
  if (ctx->status) return NULL;
  if (n->record) {
    tfpi_node *kept = (tfpi_node *)tfpi_new(&ctx->step, 1, sizeof *kept);
    if (!kept) return NULL;
    memcpy(kept, n, sizeof *kept);
    kept->older = ctx->tape;
    kept->tape = ctx->tapes;
    ctx->tape = kept;
    kept->out->node = kept;
    kept->out->needs_grad = 1;
    if (kept->second) kept->second->needs_grad = 1, kept->second->node = kept;
  }
  return n->out;
}
static void tfpi_node_start(tfpi_node *n, tfp_tensor *a, tfp_tensor *b, tfp_tensor *c) {
  memset(n, 0, sizeof *n);
  n->in[0] = a, n->in[1] = b, n->in[2] = c;
}

/* Newest to oldest, down to but not including `stop`. */
static tfp_status tfpi_walk_tape(tfp_ctx *ctx, tfpi_node *stop) {
  tfpi_node *n;
  for (n = ctx->tape; n != stop && !ctx->status; n = n->older) {
    tfp_tensor *out = n->out;
    if (out->base) continue; /* a view: its gradient already lies in its base's */
    if (!out->grad && !(n->second && n->second->grad)) continue;
    if (n->op->bwd(ctx, n)) break;
    if (out->grad && !out->keep_grad) tfpi_recycle(ctx, out->grad), out->grad = NULL;
    if (n->second && n->second->grad && !n->second->keep_grad)
      tfpi_recycle(ctx, n->second->grad), n->second->grad = NULL;
  }
  return ctx->status;
}

TFP_API tfp_status tfp_backward(tfp_ctx *ctx, tfp_tensor *loss) {
  tfp_tensor *claimed;
  if (ctx->status) return ctx->status;
  if (!loss) return tfpi_fail(ctx, TFP_ERR_ARG, "backward: the loss is NULL");
  if (tfp_numel(loss) != 1)
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "backward: needs one number, got %t", loss);
  if (!loss->node)
    return tfpi_fail(ctx, TFP_ERR_STATE, "backward: nothing below the loss wants a gradient");
  if (loss->node->tape != ctx->tapes)
    return tfpi_fail(ctx, TFP_ERR_STATE, "backward: the tape of this loss was walked already");
  loss->grad = tfpi_buffer_like(ctx, loss);
  if (!loss->grad) return ctx->status;
  ctx->be->fill(ctx, loss->grad, 1);
  tfpi_walk_tape(ctx, NULL);
  claimed = ctx->claimed;
  if (claimed && claimed->fresh == 0 && !ctx->status)
    tfpi_fail(ctx, TFP_ERR_STATE,
              "backward: a linear_xent on %t was not part of this loss, but another use of it "
              "was; call tfp_step_reset between them",
              claimed);
  if (claimed && claimed->fresh == 2) claimed->fresh = 1;
  ctx->claimed = NULL;
  ctx->tape = NULL;
  ctx->tapes++;
  return ctx->status;
}

TFP_API tfp_tensor *tfp_grad(const tfp_tensor *t) {
  if (!t || t->fresh == 1 || (t->base && !t->base->grad)) return NULL;
  return t->grad;
}
TFP_API tfp_tensor *tfp_keep_grad(tfp_tensor *t) {
  if (t) t->keep_grad = 1;
  if (t && t->base) t->base->keep_grad = 1;
  return t;
}
TFP_API void tfp_no_grad_begin(tfp_ctx *ctx) { ctx->no_grad++; }
TFP_API void tfp_no_grad_end(tfp_ctx *ctx) { if (ctx->no_grad) ctx->no_grad--; }
TFP_API void tfp_training(tfp_ctx *ctx, int on, uint64_t step, uint64_t example) {
  ctx->now.training = on;
  ctx->now.step = step;
  ctx->now.example = example;
}

TFP_API tfp_tensor *tfp_leaf(tfp_ctx *ctx, const tfp_tensor *t) {
  tfp_tensor *leaf;
  if (!t || ctx->status) return NULL;
  leaf = tfpi_tensor_like(ctx, t, "tfp_leaf");
  if (!leaf) return NULL;
  ctx->be->copy(ctx, leaf, t, 0);
  leaf->needs_grad = 1;
  leaf->name = t->name;
  return leaf;
}

/* A stretch of the step arena and of the tape that is undone at its end. */
typedef struct tfpi_scope { tfpi_mark mark; tfpi_node *tape; tfpi_recycled *recycled; } tfpi_scope;
static tfpi_scope tfpi_scope_begin(tfp_ctx *ctx) {
  tfpi_scope s;
  s.mark = tfpi_arena_mark(&ctx->step);
  s.tape = ctx->tape;
  s.recycled = ctx->recycled;
  ctx->recycled = NULL; /* buffers from before may not be lost to what is undone */
  return s;
}
static void tfpi_scope_end(tfp_ctx *ctx, const tfpi_scope *s) {
  ctx->tape = s->tape;
  ctx->recycled = s->recycled;
  tfpi_arena_release(&ctx->step, s->mark);
}

static double tfpi_gradcheck_value(tfp_ctx *ctx, tfp_tensor *(*fn)(tfp_ctx *, void *), void *user) {
  tfpi_scope s = tfpi_scope_begin(ctx);
  double value;
  tfp_no_grad_begin(ctx);
  value = tfp_item(fn(ctx, user));
  tfp_no_grad_end(ctx);
  tfpi_scope_end(ctx, &s);
  return value;
}

TFP_API tfp_status tfp_gradcheck(tfp_ctx *ctx, tfp_tensor *(*fn)(tfp_ctx *ctx, void *user),
                                 void *user, tfp_tensor *const *leaves, int count, double step,
                                 double *worst) {
  tfpi_scope s;
  int l;
  *worst = 0;
  if (ctx->status) return ctx->status;
  if (!(step > 0) || count < 1)
    return tfpi_fail(ctx, TFP_ERR_ARG, "gradcheck: step %g, %d leaves", step, count);
  for (l = 0; l < count; l++) { /* their gradients must outlive the scope */
    if (!leaves[l] || !leaves[l]->needs_grad)
      return tfpi_fail(ctx, TFP_ERR_ARG, "gradcheck: leaf %d wants no gradient", l);
    if (!leaves[l]->grad) leaves[l]->grad = tfpi_tensor_like(ctx, leaves[l], "gradcheck");
    if (!leaves[l]->grad) return ctx->status;
    leaves[l]->fresh = 1;
  }
  s = tfpi_scope_begin(ctx);
  tfp_backward(ctx, fn(ctx, user));
  tfpi_scope_end(ctx, &s);
  for (l = 0; l < count && !ctx->status; l++) {
    tfp_tensor *t = leaves[l];
    const int64_t n = tfp_numel(t);
    int64_t i;
    double top = 0;
    if (t->fresh == 1) ctx->be->fill(ctx, t->grad, 0);
    if (!t->data) continue;
    for (i = 0; i < n; i++) top = fmax(top, fabs((double)tfpi_data(t->grad)[i]));
    for (i = 0; i < n && !ctx->status; i++) {
      tfp_real *x = tfpi_data(t) + i;
      const tfp_real kept = *x;
      double up, down, numeric, analytic = (double)tfpi_data(t->grad)[i], error;
      *x = (tfp_real)((double)kept + step), up = tfpi_gradcheck_value(ctx, fn, user);
      *x = (tfp_real)((double)kept - step), down = tfpi_gradcheck_value(ctx, fn, user);
      *x = kept;
      numeric = (up - down) / (2 * step);
      error = fabs(numeric - analytic) /
              fmax(fmax(fabs(numeric), fabs(analytic)), fmax(1e-3 * top, 1e-12));
      if (!(error <= *worst)) *worst = error;
    }
  }
  return ctx->status;
}

/* ---- recompute ---- */

static tfp_status tfpi_recompute_shape(tfp_ctx *ctx, tfpi_node *n) {
  tfpi_scope s = tfpi_scope_begin(ctx);
  tfp_tensor *y, found;
  tfp_no_grad_begin(ctx);
  y = n->fn(ctx, n->user, n->in[0]);
  tfp_no_grad_end(ctx);
  if (!y) {
    if (!ctx->status) tfpi_fail(ctx, TFP_ERR_ARG, "recompute: the function returned NULL");
    return ctx->status;
  }
  if (!tfp_is_contiguous(y))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "recompute: the result %t is not contiguous", y);
  memcpy(&found, y, sizeof found);
  tfpi_scope_end(ctx, &s);
  n->out = tfpi_tensor(&ctx->step, found.dtype, found.ndim, found.shape, "recompute");
  if (!n->out) return ctx->status;
  /* the result moves down to where the scope began; the two places may overlap */
  if (found.data)
    memmove(n->out->data, found.data, (size_t)tfp_numel(&found) * tfpi_dtype_bytes(found.dtype));
  return TFP_OK;
}
static void tfpi_recompute_fwd(tfp_ctx *ctx, tfpi_node *n) { (void)ctx, (void)n; }
static tfp_status tfpi_recompute_bwd(tfp_ctx *ctx, tfpi_node *n) {
  tfp_tensor *x = n->in[0], *again, *y;
  tfpi_scope s;
  int accumulate = 0, k;
  tfp_tensor *dx = tfpi_grad_into(ctx, x, &accumulate);
  for (k = 1; k < 3; k++) { /* gradients of tensors from outside must outlive the scope */
    int adds = 1;
    tfp_tensor *g = tfpi_grad_into(ctx, n->in[k], &adds);
    if (g && !adds) ctx->be->fill(ctx, g, 0);
  }
  s = tfpi_scope_begin(ctx);
  again = tfpi_tensor_header(&ctx->step, x->dtype, x->ndim, x->shape, "recompute");
  if (!again) return ctx->status;
  memcpy(again->stride, x->stride, sizeof again->stride);
  again->data = x->data;
  again->needs_grad = x->needs_grad;
  again->grad = dx;
  again->fresh = !accumulate;
  y = n->fn(ctx, n->user, again);
  if (ctx->status) return ctx->status;
  if (y && y->needs_grad) {
    tfpi_grad_add(ctx, y, n->out->grad);
    tfpi_walk_tape(ctx, s.tape);
  }
  if (dx && again->fresh == 1) ctx->be->fill(ctx, dx, 0);
  tfpi_scope_end(ctx, &s);
  return ctx->status;
}
static tfp_tensor *tfpi_recompute_with(tfp_ctx *ctx,
                                       tfp_tensor *(*fn)(tfp_ctx *ctx, void *user, tfp_tensor *x),
                                       void *user, tfp_tensor *x, tfp_tensor *a, tfp_tensor *b) {
  tfpi_node n;
  if (!x || ctx->status) return NULL;
  if (ctx->no_grad) return fn(ctx, user, x);
  x = tfp_contiguous(ctx, x);
  tfpi_node_start(&n, x, a, b);
  n.fn = fn;
  n.user = user;
  return tfpi_run(ctx, &tfpi_op_recompute, &n);
}
TFP_API tfp_tensor *tfp_recompute(tfp_ctx *ctx,
                                  tfp_tensor *(*fn)(tfp_ctx *ctx, void *user, tfp_tensor *x),
                                  void *user, tfp_tensor *x) {
  return tfpi_recompute_with(ctx, fn, user, x, NULL, NULL);
}

/* ---- broadcasting ---- */

/* Header for t seen as ndim axes of `shape`: stride 0 where it repeats. The sizes must fit. */
static void tfpi_expand_header(tfp_tensor *h, const tfp_tensor *t, int ndim, const int64_t *shape) {
  int i;
  const int shift = ndim - t->ndim;
  memcpy(h, t, sizeof *h);
  h->ndim = ndim;
  for (i = ndim - 1; i >= 0; i--) {
    const int own = i >= shift && t->shape[i - shift] == shape[i];
    h->shape[i] = shape[i];
    h->stride[i] = own && shape[i] != 1 ? t->stride[i - shift] : 0;
  }
}
/* Header for t with size-1 axes in front, so that it has ndim axes. */
static void tfpi_align_header(tfp_tensor *h, const tfp_tensor *t, int ndim) {
  int i;
  const int shift = ndim - t->ndim;
  memcpy(h, t, sizeof *h);
  h->ndim = ndim;
  for (i = ndim - 1; i >= 0; i--) {
    h->shape[i] = i < shift ? 1 : t->shape[i - shift];
    h->stride[i] = i < shift ? 0 : t->stride[i - shift];
  }
}
/* The shape of a op b; the last `skip` axes are left alone (matmul). */
static tfp_status tfpi_broadcast(tfp_ctx *ctx, const char *who, const tfp_tensor *a,
                                 const tfp_tensor *b, int skip, int *ndim, int64_t *shape) {
  int i;
  *ndim = a->ndim > b->ndim ? a->ndim : b->ndim;
  for (i = 1; i <= *ndim; i++) {
    const int64_t sa = i <= a->ndim ? a->shape[a->ndim - i] : 1,
                  sb = i <= b->ndim ? b->shape[b->ndim - i] : 1;
    if (i > skip && sa != sb && sa != 1 && sb != 1)
      return tfpi_fail(ctx, TFP_ERR_SHAPE, "%s: %t and %t differ %d from the end: %i and %i", who,
                       a, b, i, sa, sb);
    shape[*ndim - i] = sa == 1 ? sb : sa;
  }
  return TFP_OK;
}
static tfp_status tfpi_want_real(tfp_ctx *ctx, const char *who, const tfp_tensor *t) {
  if (t && t->dtype != TFP_REAL)
    return tfpi_fail(ctx, TFP_ERR_ARG, "%s: %t holds integers; numbers are needed", who, t);
  return TFP_OK;
}

/* ---- add, sub, mul, div ----
 *   add: da = dy, db = dy    sub: da = dy, db = -dy    mul: da = dy b, db = dy a
 *   div: da = dy / b, db = -dy a / b^2        each summed over the axes on which the operand was
 *   repeated */

static tfp_status tfpi_binary_shape(tfp_ctx *ctx, tfpi_node *n) {
  int64_t shape[TFP_MAX_DIMS];
  int ndim;
  if (tfpi_want_real(ctx, n->op->name, n->in[0]) || tfpi_want_real(ctx, n->op->name, n->in[1]))
    return ctx->status;
  if (tfpi_broadcast(ctx, n->op->name, n->in[0], n->in[1], 0, &ndim, shape)) return ctx->status;
  n->out = tfpi_tensor(&ctx->step, TFP_REAL, ndim, shape, n->op->name);
  return ctx->status;
}
static void tfpi_binary_fwd(tfp_ctx *ctx, tfpi_node *n, tfpi_binary_kind kind) {
  tfp_tensor a, b;
  tfpi_expand_header(&a, n->in[0], n->out->ndim, n->out->shape);
  tfpi_expand_header(&b, n->in[1], n->out->ndim, n->out->shape);
  ctx->be->binary(ctx, kind, n->out, &a, &b);
}
static tfp_status tfpi_binary_bwd(tfp_ctx *ctx, tfpi_node *n, tfpi_binary_kind kind) {
  tfp_tensor a, b, own;
  int which, accumulate;
  tfpi_expand_header(&a, n->in[0], n->out->ndim, n->out->shape);
  tfpi_expand_header(&b, n->in[1], n->out->ndim, n->out->shape);
  for (which = 0; which < 2; which++) {
    tfp_tensor *d = tfpi_grad_into(ctx, n->in[which], &accumulate);
    if (!d) continue;
    tfpi_align_header(&own, d, n->out->ndim);
    ctx->be->binary_bwd(ctx, kind, which, &own, n->out->grad, &a, &b, accumulate);
  }
  return ctx->status;
}
#define TFPI_BINARY_LIST(X) X(ADD, add) X(SUB, sub) X(MUL, mul) X(DIV, div)
#define TFPI_X(ENUM, name) \
  static tfp_status tfpi_##name##_shape(tfp_ctx *ctx, tfpi_node *n) { \
    return tfpi_binary_shape(ctx, n); \
  } \
  static void tfpi_##name##_fwd(tfp_ctx *ctx, tfpi_node *n) { \
    tfpi_binary_fwd(ctx, n, TFPI_##ENUM); \
  } \
  static tfp_status tfpi_##name##_bwd(tfp_ctx *ctx, tfpi_node *n) { \
    return tfpi_binary_bwd(ctx, n, TFPI_##ENUM); \
  } \
  TFP_API tfp_tensor *tfp_##name(tfp_ctx *ctx, tfp_tensor *a, tfp_tensor *b) { \
    tfpi_node n; \
    if (!a || !b) return NULL; \
    tfpi_node_start(&n, a, b, NULL); \
    return tfpi_run(ctx, &tfpi_op_##name, &n); \
  }
TFPI_BINARY_LIST(TFPI_X)
#undef TFPI_X

/* ---- functions of one number: c[0] is the factor of scale and the exponent of pow ---- */

static tfp_status tfpi_unary_shape(tfp_ctx *ctx, tfpi_node *n) {
  if (tfpi_want_real(ctx, n->op->name, n->in[0])) return ctx->status;
  n->out = tfpi_tensor_like(ctx, n->in[0], n->op->name);
  return ctx->status;
}
static tfp_status tfpi_unary_bwd(tfp_ctx *ctx, tfpi_node *n,
                                 tfpi_unary_kind kind) { /* dx = dy f'(x) */
  int accumulate;
  tfp_tensor *dx = tfpi_grad_into(ctx, n->in[0], &accumulate);
  if (dx) ctx->be->unary_bwd(ctx, kind, dx, n->out->grad, n->in[0], n->out, n->c[0], accumulate);
  return ctx->status;
}
#define TFPI_UNARY_LIST(X) \
  X(NEG, neg) X(EXP, exp) X(LOG, log) X(SQRT, sqrt) X(TANH, tanh) X(SIGMOID, sigmoid) \
  X(RELU, relu) X(SILU, silu) X(GELU, gelu) X(GELU_NEW, gelu_new) X(SCALE, scale) X(POW, pow)
#define TFPI_X(ENUM, name) \
  static tfp_status tfpi_##name##_shape(tfp_ctx *ctx, tfpi_node *n) { \
    return tfpi_unary_shape(ctx, n); \
  } \
  static void tfpi_##name##_fwd(tfp_ctx *ctx, tfpi_node *n) { \
    ctx->be->unary(ctx, TFPI_##ENUM, n->out, n->in[0], n->c[0]); \
  } \
  static tfp_status tfpi_##name##_bwd(tfp_ctx *ctx, tfpi_node *n) { \
    return tfpi_unary_bwd(ctx, n, TFPI_##ENUM); \
  }
TFPI_UNARY_LIST(TFPI_X)
#undef TFPI_X

static tfp_tensor *tfpi_unary(tfp_ctx *ctx, const tfpi_op *op, tfp_tensor *x, double c) {
  tfpi_node n;
  if (!x) return NULL;
  tfpi_node_start(&n, x, NULL, NULL);
  n.c[0] = c;
  return tfpi_run(ctx, op, &n);
}
TFP_API tfp_tensor *tfp_neg(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_neg, x, 0);
}
TFP_API tfp_tensor *tfp_exp(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_exp, x, 0);
}
TFP_API tfp_tensor *tfp_log(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_log, x, 0);
}
TFP_API tfp_tensor *tfp_sqrt(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_sqrt, x, 0);
}
TFP_API tfp_tensor *tfp_tanh(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_tanh, x, 0);
}
TFP_API tfp_tensor *tfp_sigmoid(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_sigmoid, x, 0);
}
TFP_API tfp_tensor *tfp_relu(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_relu, x, 0);
}
TFP_API tfp_tensor *tfp_silu(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_silu, x, 0);
}
TFP_API tfp_tensor *tfp_gelu(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_gelu, x, 0);
}
TFP_API tfp_tensor *tfp_gelu_new(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_gelu_new, x, 0);
}
TFP_API tfp_tensor *tfp_scale(tfp_ctx *ctx, tfp_tensor *x, double c) {
  return tfpi_unary(ctx, &tfpi_op_scale, x, c);
}
TFP_API tfp_tensor *tfp_pow(tfp_ctx *ctx, tfp_tensor *x, double c) {
  return tfpi_unary(ctx, &tfpi_op_pow, x, c);
}

TFP_API tfp_tensor *tfp_activate(tfp_ctx *ctx, tfp_tensor *x, tfp_activation act) {
  switch (act) {
    case TFP_ACT_NONE: return x;
    case TFP_ACT_RELU: return tfp_relu(ctx, x);
    case TFP_ACT_GELU: return tfp_gelu(ctx, x);
    case TFP_ACT_GELU_NEW: return tfp_gelu_new(ctx, x);
    case TFP_ACT_SILU: return tfp_silu(ctx, x);
    case TFP_ACT_TANH: return tfp_tanh(ctx, x);
  }
  tfpi_fail(ctx, TFP_ERR_ARG, "activate: activation %d is unknown", (int)act);
  return NULL;
}

/* ---- masked_fill: c[0] is the value ---- */

static tfp_status tfpi_masked_fill_shape(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *x = n->in[0], *mask = n->in[1];
  int i;
  if (tfpi_want_real(ctx, "masked_fill", x)) return ctx->status;
  if (mask->dtype != TFP_I32)
    return tfpi_fail(ctx, TFP_ERR_ARG, "masked_fill: the mask %t is not int32", mask);
  for (i = 1; i <= mask->ndim; i++)
    if (mask->ndim > x->ndim ||
        (mask->shape[mask->ndim - i] != 1 && mask->shape[mask->ndim - i] != x->shape[x->ndim - i]))
      return tfpi_fail(ctx, TFP_ERR_SHAPE, "masked_fill: mask %t does not broadcast to %t", mask,
                       x);
  n->out = tfpi_tensor_like(ctx, x, "masked_fill");
  return ctx->status;
}
static void tfpi_masked_fill_fwd(tfp_ctx *ctx, tfpi_node *n) {
  tfp_tensor mask;
  tfpi_expand_header(&mask, n->in[1], n->out->ndim, n->out->shape);
  ctx->be->masked_fill(ctx, n->out, n->in[0], &mask, n->c[0], 0);
}
static tfp_status tfpi_masked_fill_bwd(tfp_ctx *ctx, tfpi_node *n) { /* dx = mask ? 0 : dy */
  tfp_tensor mask;
  int accumulate;
  tfp_tensor *dx = tfpi_grad_into(ctx, n->in[0], &accumulate);
  tfpi_expand_header(&mask, n->in[1], n->out->ndim, n->out->shape);
  if (dx) ctx->be->masked_fill(ctx, dx, n->out->grad, &mask, 0, accumulate);
  return ctx->status;
}
TFP_API tfp_tensor *tfp_masked_fill(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *mask, double value) {
  tfpi_node n;
  if (!x || !mask) return NULL;
  tfpi_node_start(&n, x, mask, NULL);
  n.c[0] = value;
  return tfpi_run(ctx, &tfpi_op_masked_fill, &n);
}

/* ---- dropout: c[0] is p. y = x keep / (1-p);  dx = dy keep / (1-p), with the same draws ---- */

static tfp_status tfpi_dropout_shape(tfp_ctx *ctx, tfpi_node *n) {
  if (tfpi_want_real(ctx, "dropout", n->in[0])) return ctx->status;
  if (n->in[0]->ndim > 3)
    return tfpi_fail(ctx, TFP_ERR_ARG, "dropout: %t has more than (B,T,C)", n->in[0]);
  n->out = tfpi_tensor_like(ctx, n->in[0], "dropout");
  return ctx->status;
}
/* (B,T,C) from fewer axes: the first stays the example. */
static void tfpi_dropout_header(tfp_tensor *h, const tfp_tensor *t) {
  memcpy(h, t, sizeof *h);
  if (t->ndim == 3) return;
  h->ndim = 3;
  h->shape[0] = t->ndim ? t->shape[0] : 1, h->stride[0] = t->ndim ? t->stride[0] : 0;
  h->shape[1] = 1, h->stride[1] = 0;
  h->shape[2] = t->ndim == 2 ? t->shape[1] : 1, h->stride[2] = t->ndim == 2 ? t->stride[1] : 0;
}
static void tfpi_dropout_fwd(tfp_ctx *ctx, tfpi_node *n) {
  tfp_tensor x, y;
  tfpi_dropout_header(&x, n->in[0]);
  tfpi_dropout_header(&y, n->out);
  ctx->be->dropout(ctx, &y, &x, n->c[0], n->stream, 0);
}
static tfp_status tfpi_dropout_bwd(tfp_ctx *ctx, tfpi_node *n) {
  tfp_tensor dx, dy;
  int accumulate;
  tfp_tensor *g = tfpi_grad_into(ctx, n->in[0], &accumulate);
  if (!g) return ctx->status;
  tfpi_dropout_header(&dx, g);
  tfpi_dropout_header(&dy, n->out->grad);
  ctx->be->dropout(ctx, &dx, &dy, n->c[0], n->stream, accumulate);
  return ctx->status;
}
TFP_API tfp_tensor *tfp_dropout(tfp_ctx *ctx, tfp_tensor *x, double p, unsigned layer,
                                unsigned site) {
  tfpi_node n;
  if (!x || ctx->status) return NULL;
  if (!(p >= 0 && p < 1)) {
    tfpi_fail(ctx, TFP_ERR_ARG, "dropout: p = %g is not in [0,1)", p);
    return NULL;
  }
  if (p == 0 || !ctx->now.training) return x;
  tfpi_node_start(&n, tfp_contiguous(ctx, x), NULL, NULL);
  if (!n.in[0]) return NULL;
  n.c[0] = p;
  n.stream = tfp_stream(ctx->now.step, layer, site);
  return tfpi_run(ctx, &tfpi_op_dropout, &n);
}

/* ---- matmul ----
 *   C = A B     dA = dC B'     dB = A' dC      each summed over the batches on which it was
 *   repeated */

static tfp_status tfpi_matmul_shape(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *a = n->in[0], *b = n->in[1];
  int64_t shape[TFP_MAX_DIMS];
  int ndim;
  if (tfpi_want_real(ctx, "matmul", a) || tfpi_want_real(ctx, "matmul", b)) return ctx->status;
  if (a->ndim < 2 || b->ndim < 2)
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "matmul: A %t and B %t need two axes at least", a, b);
  if (a->shape[a->ndim - 1] != b->shape[b->ndim - 2])
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "matmul: inner sizes differ: A %t @ B %t: %i != %i", a, b,
                     a->shape[a->ndim - 1], b->shape[b->ndim - 2]);
  if (tfpi_broadcast(ctx, "matmul", a, b, 2, &ndim, shape)) return ctx->status;
  shape[ndim - 2] = a->shape[a->ndim - 2];
  shape[ndim - 1] = b->shape[b->ndim - 1];
  n->out = tfpi_tensor(&ctx->step, TFP_REAL, ndim, shape, "matmul");
  return ctx->status;
}
/* Header with t's batch axes expanded to those of `like`, its last two axes kept (or swapped). */
static void tfpi_batch_header(tfp_tensor *h, const tfp_tensor *t, const tfp_tensor *like,
                              int swap) {
  int64_t shape[TFP_MAX_DIMS];
  const int n = like->ndim;
  memcpy(shape, like->shape, sizeof shape);
  shape[n - 2] = t->shape[t->ndim - 2], shape[n - 1] = t->shape[t->ndim - 1];
  tfpi_expand_header(h, t, n, shape);
  h->stride[n - 2] = t->stride[t->ndim - 2], h->stride[n - 1] = t->stride[t->ndim - 1];
  if (swap) {
    const int64_t s = h->shape[n - 2], d = h->stride[n - 2];
    h->shape[n - 2] = h->shape[n - 1], h->stride[n - 2] = h->stride[n - 1];
    h->shape[n - 1] = s, h->stride[n - 1] = d;
  }
}
static void tfpi_product(tfp_ctx *ctx, tfp_tensor *c, const tfp_tensor *a, const tfp_tensor *b,
                         int accumulate) {
  tfpi_matmul_args m;
  memset(&m, 0, sizeof m);
  m.a = a, m.b = b, m.c = c, m.accumulate = accumulate, m.activation = TFPI_NO_ACTIVATION;
  ctx->be->matmul(ctx, &m);
}
static void tfpi_matmul_fwd(tfp_ctx *ctx, tfpi_node *n) {
  tfp_tensor a, b;
  tfpi_batch_header(&a, n->in[0], n->out, 0);
  tfpi_batch_header(&b, n->in[1], n->out, 0);
  tfpi_product(ctx, n->out, &a, &b, 0);
}
/* d(t) = x @ y, where t may have been repeated over batches of x @ y. */
static void tfpi_matmul_grad(tfp_ctx *ctx, tfp_tensor *t, const tfp_tensor *x,
                             const tfp_tensor *y) {
  int accumulate, i, repeated = 0;
  tfp_tensor own, *whole, *d = tfpi_grad_into(ctx, t, &accumulate);
  int64_t shape[TFP_MAX_DIMS];
  if (!d) return;
  tfpi_align_header(&own, d, x->ndim);
  memcpy(shape, x->shape, sizeof shape);
  shape[x->ndim - 1] = y->shape[y->ndim - 1];
  for (i = 0; i < x->ndim - 2; i++) repeated |= own.shape[i] != shape[i];
  if (!repeated && own.stride[x->ndim - 1] == 1) {
    tfpi_product(ctx, &own, x, y, accumulate);
    return;
  }
  whole = tfpi_buffer(ctx, TFP_REAL, x->ndim, shape, "matmul");
  if (!whole) return;
  tfpi_product(ctx, whole, x, y, 0);
  if (repeated) ctx->be->reduce(ctx, TFPI_SUM, &own, whole, accumulate);
  else ctx->be->copy(ctx, &own, whole, accumulate);
  tfpi_recycle(ctx, whole);
}
static tfp_status tfpi_matmul_bwd(tfp_ctx *ctx, tfpi_node *n) {
  tfp_tensor a, b;
  tfpi_batch_header(&b, n->in[1], n->out, 1);
  tfpi_matmul_grad(ctx, n->in[0], n->out->grad, &b);
  tfpi_batch_header(&a, n->in[0], n->out, 1);
  tfpi_matmul_grad(ctx, n->in[1], &a, n->out->grad);
  return ctx->status;
}
TFP_API tfp_tensor *tfp_matmul(tfp_ctx *ctx, tfp_tensor *a, tfp_tensor *b) {
  tfpi_node n;
  if (!a || !b) return NULL;
  if (b->ndim == 2 && a->ndim > 2 && tfp_is_contiguous(a)) { /* one product of all rows */
    int64_t rows[2], shape[TFP_MAX_DIMS];
    const int last = a->ndim - 1;
    rows[0] = -1, rows[1] = a->shape[last];
    memcpy(shape, a->shape, sizeof shape);
    shape[last] = b->shape[1];
    return tfp_reshape(ctx, tfp_matmul(ctx, tfp_reshape(ctx, a, 2, rows), b), last + 1, shape);
  }
  tfpi_node_start(&n, a, b, NULL);
  return tfpi_run(ctx, &tfpi_op_matmul, &n);
}

/* ---- sum, mean, max: k[0] is the axis, or TFP_ALL_AXES ----
 *   sum: dx = dy     mean: dx = dy / count     max: dx = dy at the first maximum */

/* Resolves a negative axis; -1 and an error if it is out of range. */
static int tfpi_axis(tfp_ctx *ctx, const char *who, const tfp_tensor *x, int axis) {
  const int a = axis < 0 ? axis + x->ndim : axis;
  if (a >= 0 && a < x->ndim) return a;
  tfpi_fail(ctx, TFP_ERR_ARG, "%s: axis %d of %t does not exist", who, axis, x);
  return -1;
}
static tfp_status tfpi_reduce_shape(tfp_ctx *ctx, tfpi_node *n) {
  int64_t shape[TFP_MAX_DIMS];
  const tfp_tensor *x = n->in[0];
  if (tfpi_want_real(ctx, n->op->name, x)) return ctx->status;
  memcpy(shape, x->shape, sizeof shape);
  if (n->k[0] == TFP_ALL_AXES) {
    n->out = tfpi_tensor(&ctx->step, TFP_REAL, 0, shape, n->op->name);
  } else {
    const int axis = tfpi_axis(ctx, n->op->name, x, (int)n->k[0]);
    if (axis < 0) return ctx->status;
    shape[axis] = 1;
    n->out = tfpi_tensor(&ctx->step, TFP_REAL, x->ndim, shape, n->op->name);
  }
  if (n->op->id == TFP_OP_MAX && !ctx->status && tfp_numel(x) == 0)
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "max: %t has no elements", x);
  return ctx->status;
}
static void tfpi_reduce_fwd(tfp_ctx *ctx, tfpi_node *n, tfpi_reduce_kind kind) {
  tfp_tensor y;
  tfpi_align_header(&y, n->out, n->in[0]->ndim);
  ctx->be->reduce(ctx, kind, &y, n->in[0], 0);
}
static tfp_status tfpi_reduce_bwd(tfp_ctx *ctx, tfpi_node *n, tfpi_reduce_kind kind) {
  tfp_tensor y, dy;
  int accumulate;
  tfp_tensor *dx = tfpi_grad_into(ctx, n->in[0], &accumulate);
  tfpi_align_header(&y, n->out, n->in[0]->ndim);
  tfpi_align_header(&dy, n->out->grad, n->in[0]->ndim);
  if (dx) ctx->be->reduce_bwd(ctx, kind, dx, &dy, n->in[0], &y, accumulate);
  return ctx->status;
}
#define TFPI_REDUCE_LIST(X) X(SUM, sum) X(MEAN, mean) X(MAX, max)
#define TFPI_X(ENUM, name) \
  static tfp_status tfpi_##name##_shape(tfp_ctx *ctx, tfpi_node *n) { \
    return tfpi_reduce_shape(ctx, n); \
  } \
  static void tfpi_##name##_fwd(tfp_ctx *ctx, tfpi_node *n) { \
    tfpi_reduce_fwd(ctx, n, TFPI_##ENUM); \
  } \
  static tfp_status tfpi_##name##_bwd(tfp_ctx *ctx, tfpi_node *n) { \
    return tfpi_reduce_bwd(ctx, n, TFPI_##ENUM); \
  } \
  TFP_API tfp_tensor *tfp_##name(tfp_ctx *ctx, tfp_tensor *x, int axis) { \
    tfpi_node n; \
    if (!x) return NULL; \
    tfpi_node_start(&n, x, NULL, NULL); \
    n.k[0] = axis; \
    return tfpi_run(ctx, &tfpi_op_##name, &n); \
  }
TFPI_REDUCE_LIST(TFPI_X)
#undef TFPI_X

/* ---- views: k[] are the new strides, k[5] the offset; the caller has set the shape in saved[0]
 * ---- Nothing to do backwards: the gradient of a view is the same view of the gradient
 * (tfpi_grad_into). */

static tfp_status tfpi_view_shape(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *x = n->in[0], *like = n->saved[0];
  n->out = (tfp_tensor *)tfpi_new(&ctx->step, 1, sizeof *n->out);
  if (!n->out) return ctx->status;
  memcpy(n->out->shape, like->shape, sizeof like->shape);
  memcpy(n->out->stride, like->stride, sizeof like->stride);
  n->out->ndim = like->ndim;
  n->out->dtype = x->dtype;
  n->out->device = x->device;
  n->out->name = x->name;
  n->out->base = x->base ? x->base : n->in[0];
  n->out->offset = x->offset + like->offset;
  n->saved[0] = NULL;
  if (x->data) n->out->data = (char *)x->data + like->offset * (int64_t)tfpi_dtype_bytes(x->dtype);
  return TFP_OK;
}
static void tfpi_view_fwd(tfp_ctx *ctx, tfpi_node *n) { (void)ctx, (void)n; }
static tfp_status tfpi_view_bwd(tfp_ctx *ctx, tfpi_node *n) {
  (void)n;
  return ctx->status;
}
/* Shape, strides and offset of *like over x's data. */
static tfp_tensor *tfpi_make_view(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *like) {
  tfpi_node n;
  tfpi_node_start(&n, x, NULL, NULL);
  n.saved[0] = like;
  return tfpi_run(ctx, &tfpi_op_view, &n);
}
static int tfpi_is_expanded(const tfp_tensor *t) {
  int i;
  for (i = 0; i < t->ndim; i++)
    if (t->stride[i] == 0 && t->shape[i] > 1) return 1;
  return 0;
}
/* A tensor that a view can be made of: an expanded one has no gradient of its layout, so it is
 * copied. */
static tfp_tensor *tfpi_viewable(tfp_ctx *ctx, tfp_tensor *x) {
  return x && tfpi_is_expanded(x) ? tfp_contiguous(ctx, x) : x;
}

TFP_API tfp_tensor *tfp_reshape(tfp_ctx *ctx, tfp_tensor *x, int ndim, const int64_t *shape) {
  tfp_tensor like;
  int64_t sizes[TFP_MAX_DIMS] = {0}, known = 1;
  int i, open = -1;
  if (!x || ctx->status) return NULL;
  memset(&like, 0, sizeof like);
  if (ndim < 0 || ndim > TFP_MAX_DIMS) {
    tfpi_fail(ctx, TFP_ERR_ARG, "reshape: %d dimensions; 0 to %d are possible", ndim, TFP_MAX_DIMS);
    return NULL;
  }
  for (i = 0; i < ndim; i++) {
    sizes[i] = shape[i];
    if (shape[i] == -1 && open < 0) open = i;
    else known *= shape[i];
  }
  if (open >= 0) sizes[open] = known > 0 ? tfp_numel(x) / known : 0;
  tfpi_set_shape(&like, ndim, sizes);
  if (tfpi_shape_numel(ndim, sizes) != tfp_numel(x)) {
    tfpi_fail(ctx, TFP_ERR_SHAPE, "reshape: %t has %i elements, %t has not", x, tfp_numel(x),
              &like);
    return NULL;
  }
  x = tfp_contiguous(ctx, x);
  return x ? tfpi_make_view(ctx, x, &like) : NULL;
}
TFP_API tfp_tensor *tfp_permute(tfp_ctx *ctx, tfp_tensor *x, const int *order) {
  tfp_tensor like;
  int i, seen = 0;
  x = tfpi_viewable(ctx, x);
  if (!x || ctx->status) return NULL;
  memcpy(&like, x, sizeof like);
  like.offset = 0;
  for (i = 0; i < x->ndim; i++) {
    const int a = tfpi_axis(ctx, "permute", x, order[i]);
    if (a < 0) return NULL;
    if (seen & 1 << a) {
      tfpi_fail(ctx, TFP_ERR_ARG, "permute: axis %d of %t is named twice", a, x);
      return NULL;
    }
    seen |= 1 << a;
    like.shape[i] = x->shape[a];
    like.stride[i] = x->stride[a];
  }
  return tfpi_make_view(ctx, x, &like);
}
TFP_API tfp_tensor *tfp_transpose(tfp_ctx *ctx, tfp_tensor *x, int axis_a, int axis_b) {
  int order[TFP_MAX_DIMS], i, a, b;
  if (!x || ctx->status) return NULL;
  a = tfpi_axis(ctx, "transpose", x, axis_a);
  b = tfpi_axis(ctx, "transpose", x, axis_b);
  if (a < 0 || b < 0) return NULL;
  for (i = 0; i < x->ndim; i++) order[i] = i == a ? b : i == b ? a : i;
  return tfp_permute(ctx, x, order);
}
TFP_API tfp_tensor *tfp_slice(tfp_ctx *ctx, tfp_tensor *x, int axis, int64_t start,
                              int64_t length) {
  tfp_tensor like;
  int a;
  x = tfpi_viewable(ctx, x);
  if (!x || ctx->status) return NULL;
  a = tfpi_axis(ctx, "slice", x, axis);
  if (a < 0) return NULL;
  if (start < 0 || length < 0 || start > x->shape[a] - length) {
    tfpi_fail(ctx, TFP_ERR_ARG, "slice: %i elements from %i leave axis %d of %t", length, start, a,
              x);
    return NULL;
  }
  memcpy(&like, x, sizeof like);
  like.shape[a] = length;
  like.offset = start * x->stride[a];
  return tfpi_make_view(ctx, x, &like);
}
TFP_API tfp_status tfp_split(tfp_ctx *ctx, tfp_tensor *x, int axis, int parts, tfp_tensor **out) {
  int i, a;
  if (parts > 0) memset(out, 0, (size_t)parts * sizeof *out);
  if (!x || ctx->status) return ctx->status;
  a = tfpi_axis(ctx, "split", x, axis);
  if (a < 0) return ctx->status;
  if (parts < 1 || x->shape[a] % parts)
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "split: axis %d of %t cannot be cut into %d equal parts",
                     a, x, parts);
  for (i = 0; i < parts; i++)
    out[i] = tfp_slice(ctx, x, a, x->shape[a] / parts * i, x->shape[a] / parts);
  return ctx->status;
}

/* ---- expand: dx = dy summed over what was repeated ---- */

static tfp_status tfpi_expand_shape(tfp_ctx *ctx, tfpi_node *n) {
  n->out = (tfp_tensor *)tfpi_new(&ctx->step, 1, sizeof *n->out);
  if (!n->out) return ctx->status;
  tfpi_expand_header(n->out, n->in[0], n->saved[0]->ndim, n->saved[0]->shape);
  n->out->grad = NULL, n->out->node = NULL, n->out->needs_grad = 0;
  n->out->base = NULL, n->out->offset = 0, n->out->fresh = n->out->keep_grad = 0;
  n->saved[0] = NULL;
  return TFP_OK;
}
static void tfpi_expand_fwd(tfp_ctx *ctx, tfpi_node *n) { (void)ctx, (void)n; }
static tfp_status tfpi_expand_bwd(tfp_ctx *ctx, tfpi_node *n) {
  tfp_tensor own;
  int accumulate;
  tfp_tensor *dx = tfpi_grad_into(ctx, n->in[0], &accumulate);
  if (!dx) return ctx->status;
  tfpi_align_header(&own, dx, n->out->ndim);
  ctx->be->reduce(ctx, TFPI_SUM, &own, n->out->grad, accumulate);
  return ctx->status;
}
TFP_API tfp_tensor *tfp_expand(tfp_ctx *ctx, tfp_tensor *x, int ndim, const int64_t *shape) {
  tfp_tensor like;
  tfpi_node n;
  int i;
  if (!x || ctx->status) return NULL;
  memset(&like, 0, sizeof like);
  if (ndim < x->ndim || ndim > TFP_MAX_DIMS || tfpi_shape_numel(ndim, shape) < 0) {
    tfpi_fail(ctx, TFP_ERR_SHAPE, "expand: %t to %d axes", x, ndim);
    return NULL;
  }
  tfpi_set_shape(&like, ndim, shape);
  for (i = 1; i <= x->ndim; i++)
    if (x->shape[x->ndim - i] != 1 && x->shape[x->ndim - i] != shape[ndim - i]) {
      tfpi_fail(ctx, TFP_ERR_SHAPE, "expand: %t does not repeat to %t", x, &like);
      return NULL;
    }
  tfpi_node_start(&n, x, NULL, NULL);
  n.saved[0] = &like;
  return tfpi_run(ctx, &tfpi_op_expand, &n);
}

/* ---- contiguous, concat: copies, and copies back ---- */

static tfp_status tfpi_contiguous_shape(tfp_ctx *ctx, tfpi_node *n) {
  n->out = tfpi_tensor_like(ctx, n->in[0], "contiguous");
  return ctx->status;
}
static void tfpi_contiguous_fwd(tfp_ctx *ctx, tfpi_node *n) {
  ctx->be->copy(ctx, n->out, n->in[0], 0);
}
static tfp_status tfpi_contiguous_bwd(tfp_ctx *ctx, tfpi_node *n) {
  tfpi_grad_add(ctx, n->in[0], n->out->grad);
  return ctx->status;
}
TFP_API tfp_tensor *tfp_contiguous(tfp_ctx *ctx, tfp_tensor *x) {
  tfpi_node n;
  if (!x || ctx->status) return NULL;
  if (tfp_is_contiguous(x)) return x;
  tfpi_node_start(&n, x, NULL, NULL);
  return tfpi_run(ctx, &tfpi_op_contiguous, &n);
}

static tfp_status tfpi_concat_shape(tfp_ctx *ctx, tfpi_node *n) { /* k[0] axis, k[1] count */
  const tfp_tensor *x = n->in[0];
  int64_t shape[TFP_MAX_DIMS];
  const int axis = tfpi_axis(ctx, "concat", x, (int)n->k[0]);
  int i, p;
  if (axis < 0) return ctx->status;
  n->k[0] = axis;
  memcpy(shape, x->shape, sizeof shape);
  shape[axis] = 0;
  for (p = 0; p < (int)n->k[1]; p++) {
    const tfp_tensor *t = n->in[p];
    int same = t->ndim == x->ndim && t->dtype == x->dtype;
    for (i = 0; same && i < x->ndim; i++) same = i == axis || t->shape[i] == x->shape[i];
    if (!same)
      return tfpi_fail(ctx, TFP_ERR_SHAPE, "concat along axis %d: %t does not fit %t", axis, t, x);
    shape[axis] += t->shape[axis];
  }
  n->out = tfpi_tensor(&ctx->step, x->dtype, x->ndim, shape, "concat");
  return ctx->status;
}
/* Header for the stretch of `whole` that part p takes. */
static void tfpi_concat_part(tfp_tensor *h, const tfpi_node *n, const tfp_tensor *whole, int p) {
  const int axis = (int)n->k[0];
  int64_t start = 0;
  int i;
  for (i = 0; i < p; i++) start += n->in[i]->shape[axis];
  memcpy(h, whole, sizeof *h);
  h->shape[axis] = n->in[p]->shape[axis];
  if (h->data)
    h->data = (char *)h->data + start * h->stride[axis] * (int64_t)tfpi_dtype_bytes(h->dtype);
}
static void tfpi_concat_fwd(tfp_ctx *ctx, tfpi_node *n) {
  tfp_tensor h;
  int p;
  for (p = 0; p < (int)n->k[1]; p++) {
    tfpi_concat_part(&h, n, n->out, p);
    ctx->be->copy(ctx, &h, n->in[p], 0);
  }
}
static tfp_status tfpi_concat_bwd(tfp_ctx *ctx, tfpi_node *n) {
  tfp_tensor h;
  int p;
  for (p = 0; p < (int)n->k[1]; p++) {
    tfpi_concat_part(&h, n, n->out->grad, p);
    tfpi_grad_add(ctx, n->in[p], &h);
  }
  return ctx->status;
}
TFP_API tfp_tensor *tfp_concat(tfp_ctx *ctx, tfp_tensor *const *parts, int count, int axis) {
  tfpi_node n;
  int p;
  if (ctx->status) return NULL;
  if (count < 1 || count > 4) {
    tfpi_fail(ctx, TFP_ERR_ARG, "concat: %d tensors; 1 to 4 are possible", count);
    return NULL;
  }
  tfpi_node_start(&n, NULL, NULL, NULL);
  for (p = 0; p < count; p++) {
    if (!parts[p]) return NULL;
    n.in[p] = parts[p];
  }
  n.k[0] = axis, n.k[1] = count;
  return tfpi_run(ctx, &tfpi_op_concat, &n);
}

/* ---- embedding: in[0..2] tables, in[3..5] ids, k[3..5] padding ids ----
 *   y[i,:] = sum_k table_k[ids_k[i],:]        d(table_k)[ids_k[i],:] += dy[i,:] */

static tfp_status tfpi_check_ids(tfp_ctx *ctx, const char *who, const tfp_tensor *ids,
                                 int64_t below, int ignore) {
  int64_t i, n = tfp_numel(ids);
  if (ids->dtype != TFP_I32) return tfpi_fail(ctx, TFP_ERR_ARG, "%s: %t holds no int32", who, ids);
  if (!tfp_is_contiguous(ids))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "%s: the integers %t are not contiguous", who, ids);
  if (!ids->data) return TFP_OK;
  for (i = 0; i < n; i++) {
    const int32_t id = tfpi_ints(ids)[i];
    if ((id < 0 || id >= below) && !(ignore && id == TFP_IGNORE_INDEX))
      return tfpi_fail(ctx, TFP_ERR_DATA, "%s: number %i of %t is %d, outside [0,%i)", who, i, ids,
                       (int)id, below);
  }
  return TFP_OK;
}
static tfp_status tfpi_embedding_shape(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *ids = n->in[3];
  int64_t shape[TFP_MAX_DIMS];
  int k;
  for (k = 0; k < 3 && n->in[k]; k++) {
    const tfp_tensor *table = n->in[k];
    if (tfpi_want_real(ctx, "embedding", table)) return ctx->status;
    if (table->ndim != 2 || !tfp_is_contiguous(table) || table->shape[1] != n->in[0]->shape[1])
      return tfpi_fail(ctx, TFP_ERR_SHAPE, "embedding: table %t is not (V,%i)", table,
                       n->in[0]->shape[1]);
    if (!tfpi_same_shape(n->in[3 + k], ids))
      return tfpi_fail(ctx, TFP_ERR_SHAPE, "embedding: ids %t and %t differ in shape", n->in[3 + k],
                       ids);
    if (tfpi_check_ids(ctx, "embedding", n->in[3 + k], table->shape[0], 0)) return ctx->status;
  }
  if (ids->ndim >= TFP_MAX_DIMS)
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "embedding: ids %t have too many axes", ids);
  memcpy(shape, ids->shape, sizeof shape);
  shape[ids->ndim] = n->in[0]->shape[1];
  n->out = tfpi_tensor(&ctx->step, TFP_REAL, ids->ndim + 1, shape, "embedding");
  return ctx->status;
}
static void tfpi_embedding_fwd(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *tables[3], *ids[3];
  int k;
  for (k = 0; k < 3 && n->in[k]; k++) tables[k] = n->in[k], ids[k] = n->in[3 + k];
  ctx->be->gather(ctx, n->out, k, tables, ids);
}
static tfp_status tfpi_embedding_bwd(tfp_ctx *ctx, tfpi_node *n) {
  int k, accumulate;
  for (k = 0; k < 3 && n->in[k]; k++) {
    tfp_tensor *d = tfpi_grad_into(ctx, n->in[k], &accumulate);
    if (d) ctx->be->scatter_add(ctx, d, n->out->grad, n->in[3 + k], n->k[3 + k], accumulate);
  }
  return ctx->status;
}
TFP_API tfp_tensor *tfp_embedding_sum(tfp_ctx *ctx, int count, tfp_tensor *const *tables,
                                      tfp_tensor *const *ids, const int64_t *padding_ids) {
  tfpi_node n;
  int k;
  if (ctx->status) return NULL;
  if (count < 1 || count > 3) {
    tfpi_fail(ctx, TFP_ERR_ARG, "embedding: %d tables; 1 to 3 are possible", count);
    return NULL;
  }
  tfpi_node_start(&n, NULL, NULL, NULL);
  for (k = 0; k < count; k++) {
    if (!tables[k] || !ids[k]) return NULL;
    n.in[k] = tables[k], n.in[3 + k] = ids[k], n.k[3 + k] = padding_ids ? padding_ids[k] : -1;
  }
  return tfpi_run(ctx, &tfpi_op_embedding, &n);
}
TFP_API tfp_tensor *tfp_embedding(tfp_ctx *ctx, tfp_tensor *table, tfp_tensor *ids,
                                  int64_t padding_id) {
  return tfp_embedding_sum(ctx, 1, &table, &ids, &padding_id);
}

/* ---- softmax, log_softmax ----
 *   y = softmax(x): dx_j = y_j (dy_j - sum_k dy_k y_k)     y = log softmax(x): dx_j = dy_j -
 *   exp(y_j) sum_k dy_k */

static tfp_status tfpi_softmax_shape(tfp_ctx *ctx, tfpi_node *n) {
  if (tfpi_want_real(ctx, n->op->name, n->in[0])) return ctx->status;
  if (n->in[0]->ndim < 1)
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "%s: %t has no axis", n->op->name, n->in[0]);
  n->out = tfpi_tensor_like(ctx, n->in[0], n->op->name);
  return ctx->status;
}
static void tfpi_softmax_fwd(tfp_ctx *ctx, tfpi_node *n) {
  ctx->be->softmax(ctx, n->out, n->in[0], n->op->id == TFP_OP_LOG_SOFTMAX);
}
static tfp_status tfpi_softmax_bwd(tfp_ctx *ctx, tfpi_node *n) {
  int accumulate;
  tfp_tensor *dx = tfpi_grad_into(ctx, n->in[0], &accumulate);
  if (dx)
    ctx->be->softmax_bwd(ctx, dx, n->out->grad, n->out, n->op->id == TFP_OP_LOG_SOFTMAX,
                         accumulate);
  return ctx->status;
}
static tfp_status tfpi_log_softmax_shape(tfp_ctx *ctx, tfpi_node *n) {
  return tfpi_softmax_shape(ctx, n);
}
static void tfpi_log_softmax_fwd(tfp_ctx *ctx, tfpi_node *n) { tfpi_softmax_fwd(ctx, n); }
static tfp_status tfpi_log_softmax_bwd(tfp_ctx *ctx, tfpi_node *n) {
  return tfpi_softmax_bwd(ctx, n);
}
TFP_API tfp_tensor *tfp_softmax(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_softmax, tfp_contiguous(ctx, x), 0);
}
TFP_API tfp_tensor *tfp_log_softmax(tfp_ctx *ctx, tfp_tensor *x) {
  return tfpi_unary(ctx, &tfpi_op_log_softmax, tfp_contiguous(ctx, x), 0);
}

/* ---- layernorm, rmsnorm, with or without residual: c[0] is eps; saved[0] (rows,2) is mu, 1/sigma
 * ----   s = x + residual     n = (s - mu) / sigma     y = g n + b
 *   dn = g dy     ds = (dn - mean(dn) - n mean(dn n)) / sigma + what reached s itself
 *   dx = dresidual = ds     dg = sum dy n     db = sum dy        (rms: mu = 0, no mean(dn)) */

static tfp_status tfpi_norm_shape(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *x = n->in[0], *g = n->in[1], *b = n->in[2], *residual = n->in[3];
  int64_t shape[2];
  const char *who = n->op->name;
  if (tfpi_want_real(ctx, who, x)) return ctx->status;
  if (x->ndim < 1 || g->ndim != 1 || g->shape[0] != x->shape[x->ndim - 1] || !tfp_is_contiguous(g))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "%s: scale %t does not fit the rows of x %t", who, g, x);
  if (b && !tfpi_same_shape(g, b))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "%s: shift %t does not fit x %t", who, b, x);
  if (residual && !tfpi_same_shape(x, residual))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "%s: x %t and residual %t differ", who, x, residual);
  if (!(n->c[0] > 0))
    return tfpi_fail(ctx, TFP_ERR_ARG, "%s: eps is %g; it must be above 0", who, n->c[0]);
  n->out = tfpi_tensor_like(ctx, x, who);
  if (residual) n->second = tfpi_tensor_like(ctx, x, who);
  shape[0] = x->shape[x->ndim - 1] ? tfp_numel(x) / x->shape[x->ndim - 1] : 0;
  shape[1] = 2;
  n->saved[0] = tfpi_tensor(&ctx->step, TFP_REAL, 2, shape, who);
  return ctx->status;
}
static void tfpi_norm_fwd(tfp_ctx *ctx, tfpi_node *n) {
  tfpi_norm_args a;
  a.x = n->in[0], a.g = n->in[1], a.b = n->in[2], a.residual = n->in[3];
  a.sum = n->second, a.y = n->out, a.stats = n->saved[0], a.eps = n->c[0];
  a.rms = n->op->id == TFP_OP_RMSNORM;
  ctx->be->norm(ctx, &a);
}
static tfp_status tfpi_norm_bwd(tfp_ctx *ctx, tfpi_node *n) {
  tfpi_norm_bwd_args a;
  int64_t shape[3];
  memset(&a, 0, sizeof a);
  a.in = n->second ? n->second : n->in[0];
  a.stats = n->saved[0], a.g = n->in[1], a.dy = n->out->grad,
  a.dsum = n->second ? n->second->grad : NULL;
  a.rms = n->op->id == TFP_OP_RMSNORM;
  a.dx = tfpi_grad_into(ctx, n->in[0], &a.dx_accumulate);
  a.dg = tfpi_grad_into(ctx, n->in[1], &a.dg_accumulate);
  a.db = tfpi_grad_into(ctx, n->in[2], &a.db_accumulate);
  a.dres = tfpi_grad_into(ctx, n->in[3], &a.dres_accumulate);
  shape[0] = tfpi_norm_slices(n->saved[0]->shape[0]), shape[1] = 2, shape[2] = n->in[1]->shape[0];
  a.work = tfpi_buffer(ctx, TFP_REAL, 3, shape, n->op->name);
  if (ctx->status) return ctx->status;
  ctx->be->norm_bwd(ctx, &a);
  tfpi_recycle(ctx, a.work);
  return ctx->status;
}
static tfp_status tfpi_layernorm_shape(tfp_ctx *ctx, tfpi_node *n) {
  return tfpi_norm_shape(ctx, n);
}
static void tfpi_layernorm_fwd(tfp_ctx *ctx, tfpi_node *n) { tfpi_norm_fwd(ctx, n); }
static tfp_status tfpi_layernorm_bwd(tfp_ctx *ctx, tfpi_node *n) { return tfpi_norm_bwd(ctx, n); }
static tfp_status tfpi_rmsnorm_shape(tfp_ctx *ctx, tfpi_node *n) { return tfpi_norm_shape(ctx, n); }
static void tfpi_rmsnorm_fwd(tfp_ctx *ctx, tfpi_node *n) { tfpi_norm_fwd(ctx, n); }
static tfp_status tfpi_rmsnorm_bwd(tfp_ctx *ctx, tfpi_node *n) { return tfpi_norm_bwd(ctx, n); }

static tfp_tensor *tfpi_norm(tfp_ctx *ctx, const tfpi_op *op, tfp_tensor *x, tfp_tensor *residual,
                             tfp_tensor *g, tfp_tensor *b, double eps, tfp_tensor **sum) {
  tfpi_node n;
  tfp_tensor *y;
  if (sum) *sum = NULL;
  if (!x || !g) return NULL;
  tfpi_node_start(&n, tfp_contiguous(ctx, x), g, b);
  n.in[3] = residual ? tfp_contiguous(ctx, residual) : NULL;
  n.c[0] = eps;
  if (ctx->status) return NULL;
  y = tfpi_run(ctx, op, &n);
  if (sum && y) *sum = residual ? n.second : n.in[0];
  return y;
}
TFP_API tfp_tensor *tfp_layernorm(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *g, tfp_tensor *b,
                                  double eps) {
  return tfpi_norm(ctx, &tfpi_op_layernorm, x, NULL, g, b, eps, NULL);
}
TFP_API tfp_tensor *tfp_rmsnorm(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *g, double eps) {
  return tfpi_norm(ctx, &tfpi_op_rmsnorm, x, NULL, g, NULL, eps, NULL);
}
TFP_API tfp_tensor *tfp_norm_residual(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *residual,
                                      tfp_tensor *g, tfp_tensor *b, double eps, int rms,
                                      tfp_tensor **sum) {
  if (!residual) {
    if (sum) *sum = NULL;
    return NULL;
  }
  return tfpi_norm(ctx, rms ? &tfpi_op_rmsnorm : &tfpi_op_layernorm, x, residual, g, rms ? NULL : b,
                   eps, sum);
}

/* ---- cross_entropy ----
 *   loss = scale sum_i [label_i scored] (log sum_j exp(x_ij) - x_i,label)
 *   dx_ij = dloss scale (softmax(x_i)_j - [j = label_i]) */

/* The scale that a loss was given: its own, or (0) the trainer's, which changes from step to step.
 * */
static const float *tfpi_scale_of(const tfp_ctx *ctx, const tfpi_node *n) {
  return n->scale != 0.0f ? &n->scale : &ctx->now.loss_scale;
}
static tfp_status tfpi_cross_entropy_shape(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *x = n->in[0], *labels = n->in[1];
  int64_t none = 0;
  if (tfpi_want_real(ctx, "cross_entropy", x)) return ctx->status;
  if (x->ndim != 2 || labels->ndim != 1 || labels->shape[0] != x->shape[0])
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "cross_entropy: logits %t want labels (%i), not %t", x,
                     x->ndim == 2 ? x->shape[0] : 0, labels);
  if (tfpi_check_ids(ctx, "cross_entropy", labels, x->shape[1], 1)) return ctx->status;
  n->out = tfpi_tensor(&ctx->step, TFP_REAL, 0, &none, "cross_entropy");
  return ctx->status;
}
static void tfpi_cross_entropy_fwd(tfp_ctx *ctx, tfpi_node *n) {
  ctx->be->xent(ctx, n->out, n->in[0], n->in[1], tfpi_scale_of(ctx, n));
}
static tfp_status tfpi_cross_entropy_bwd(tfp_ctx *ctx, tfpi_node *n) {
  int accumulate;
  tfp_tensor *dx = tfpi_grad_into(ctx, n->in[0], &accumulate);
  if (dx)
    ctx->be->xent_bwd(ctx, dx, n->in[0], n->in[1], n->out->grad, tfpi_scale_of(ctx, n), accumulate);
  return ctx->status;
}
TFP_API tfp_tensor *tfp_cross_entropy(tfp_ctx *ctx, tfp_tensor *logits, tfp_tensor *labels,
                                      double scale) {
  tfpi_node n;
  if (!logits || !labels) return NULL;
  tfpi_node_start(&n, tfp_contiguous(ctx, logits), labels, NULL);
  if (!n.in[0]) return NULL;
  n.scale = (float)scale;
  return tfpi_run(ctx, &tfpi_op_cross_entropy, &n);
}

/* ---- linear: k[0] is the activation; saved[0] what goes into it ----
 *   z = x W' + b     y = act(z)     dz = dy act'(z)     dx = dz W     dW = dz' x     db = sum of
 *   rows of dz */

static int tfpi_activation_kind(tfp_activation act) {
  static const int kinds[] = {TFPI_NO_ACTIVATION, TFPI_RELU, TFPI_GELU,
                              TFPI_GELU_NEW,      TFPI_SILU, TFPI_TANH};
  return kinds[act];
}
/* (rows, last axis) of a contiguous tensor; a swapped one is (last axis, rows). */
static void tfpi_rows_header(tfp_tensor *h, const tfp_tensor *t, int swap) {
  const int64_t columns = t->ndim ? t->shape[t->ndim - 1] : 1;
  memcpy(h, t, sizeof *h);
  h->ndim = 2;
  h->shape[swap] = columns ? tfp_numel(t) / columns : 0, h->stride[swap] = columns;
  h->shape[!swap] = columns, h->stride[!swap] = 1;
}
static tfp_status tfpi_linear_shape(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *x = n->in[0], *w = n->in[1], *b = n->in[2];
  int64_t shape[TFP_MAX_DIMS];
  if (tfpi_want_real(ctx, "linear", x) || tfpi_want_real(ctx, "linear", w)) return ctx->status;
  if (w->ndim != 2 || x->ndim < 1 || x->shape[x->ndim - 1] != w->shape[1] || !tfp_is_contiguous(w))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "linear: x %t does not fit W %t, which is (out,in)", x, w);
  if (b && (b->ndim != 1 || b->shape[0] != w->shape[0] || !tfp_is_contiguous(b)))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "linear: bias %t does not fit W %t", b, w);
  if ((int)n->k[0] < 0 || n->k[0] > TFP_ACT_TANH)
    return tfpi_fail(ctx, TFP_ERR_ARG, "linear: activation %i is unknown", n->k[0]);
  memcpy(shape, x->shape, sizeof shape);
  shape[x->ndim - 1] = w->shape[0];
  n->out = tfpi_tensor(&ctx->step, TFP_REAL, x->ndim, shape, "linear");
  if (n->record && n->k[0] != TFP_ACT_NONE)
    n->saved[0] = tfpi_tensor(&ctx->step, TFP_REAL, x->ndim, shape, "linear");
  return ctx->status;
}
static void tfpi_linear_fwd(tfp_ctx *ctx, tfpi_node *n) {
  tfpi_matmul_args m;
  tfp_tensor x, w, y, z;
  memset(&m, 0, sizeof m);
  tfpi_rows_header(&x, n->in[0], 0);
  tfpi_rows_header(&w, n->in[1], 1);
  tfpi_rows_header(&y, n->out, 0);
  m.a = &x, m.b = &w, m.c = &y, m.bias = n->in[2];
  m.activation = tfpi_activation_kind((tfp_activation)n->k[0]);
  if (n->saved[0]) {
    tfpi_rows_header(&z, n->saved[0], 0);
    m.before = &z;
  }
  ctx->be->matmul(ctx, &m);
}
static tfp_status tfpi_linear_bwd(tfp_ctx *ctx, tfpi_node *n) {
  tfp_tensor x, dz, dz_t, d, *made = NULL, *g;
  int accumulate;
  if (n->saved[0]) {
    made = n->out->keep_grad ? tfpi_buffer_like(ctx, n->out)
                             : n->out->grad; /* in place where dy is not kept */
    if (!made) return ctx->status;
    ctx->be->unary_bwd(ctx, (tfpi_unary_kind)tfpi_activation_kind((tfp_activation)n->k[0]), made,
                       n->out->grad, n->saved[0], n->out, 0, 0);
  }
  tfpi_rows_header(&dz, made ? made : n->out->grad, 0);
  tfpi_rows_header(&dz_t, made ? made : n->out->grad, 1);
  if ((g = tfpi_grad_into(ctx, n->in[1], &accumulate)) != NULL) {
    tfpi_rows_header(&x, n->in[0], 0);
    tfpi_product(ctx, g, &dz_t, &x, accumulate);
  }
  if ((g = tfpi_grad_into(ctx, n->in[2], &accumulate)) != NULL) {
    tfpi_align_header(&d, g, 2);
    ctx->be->reduce(ctx, TFPI_SUM, &d, &dz, accumulate);
  }
  if ((g = tfpi_grad_into(ctx, n->in[0], &accumulate)) != NULL) {
    if (tfp_is_contiguous(g)) {
      tfpi_rows_header(&d, g, 0);
      tfpi_product(ctx, &d, &dz, n->in[1], accumulate);
    } else { /* x was a view: through a buffer */
      tfp_tensor *whole = tfpi_buffer_like(ctx, n->in[0]);
      if (!whole) return ctx->status;
      tfpi_rows_header(&d, whole, 0);
      tfpi_product(ctx, &d, &dz, n->in[1], 0);
      ctx->be->copy(ctx, g, whole, accumulate);
      tfpi_recycle(ctx, whole);
    }
  }
  if (made && made != n->out->grad) tfpi_recycle(ctx, made);
  return ctx->status;
}
TFP_API tfp_tensor *tfp_linear(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *w, tfp_tensor *b,
                               tfp_activation act) {
  tfpi_node n;
  if (!x || !w) return NULL;
  tfpi_node_start(&n, tfp_contiguous(ctx, x), w, b);
  if (!n.in[0]) return NULL;
  n.k[0] = act;
  return tfpi_run(ctx, &tfpi_op_linear, &n);
}

/* ---- linear_xent: saved[0] dx, saved[1] dW, saved[2] db, made by the forward ----
 * dW goes straight into the parameter's gradient where nothing is there yet. It is then claimed
 * (fresh = 2), not valid: the backward confirms it, and an abandoned step takes the claim back. */

/* Where the forward puts the gradient of a parameter; NULL where none is wanted. */
static tfp_tensor *tfpi_claim(tfp_ctx *ctx, tfp_tensor *t, int may_claim) {
  if (!t || !t->needs_grad) return NULL;
  if (may_claim && t->grad && t->fresh == 1 && !ctx->claimed && !t->base) {
    t->fresh = 2;
    ctx->claimed = t;
    return t->grad;
  }
  return tfpi_buffer_like(ctx, t);
}
static void tfpi_confirm(tfp_ctx *ctx, tfp_tensor *t, tfp_tensor *made) {
  if (!t || !made) return;
  if (made == t->grad) {
    t->fresh = 0;
    ctx->claimed = NULL;
    return;
  }
  tfpi_grad_add(ctx, t, made);
  tfpi_recycle(ctx, made);
}
static tfp_status tfpi_linear_xent_shape(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *x = n->in[0], *w = n->in[1], *b = n->in[2], *labels = n->in[3];
  int64_t none = 0;
  if (tfpi_want_real(ctx, "linear_xent", x)) return ctx->status;
  if (w->ndim != 2 || x->ndim < 1 || x->shape[x->ndim - 1] != w->shape[1] || !tfp_is_contiguous(w))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "linear_xent: x %t does not fit W %t, which is (out,in)",
                     x, w);
  if (b && (b->ndim != 1 || b->shape[0] != w->shape[0]))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "linear_xent: bias %t does not fit W %t", b, w);
  if (tfp_numel(labels) * w->shape[1] != tfp_numel(x))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "linear_xent: labels %t are not one a row of x %t", labels,
                     x);
  if (tfpi_check_ids(ctx, "linear_xent", labels, w->shape[0], 1)) return ctx->status;
  n->out = tfpi_tensor(&ctx->step, TFP_REAL, 0, &none, "linear_xent");
  if (!n->record || ctx->status) return ctx->status;
  if (x->needs_grad) n->saved[0] = tfpi_buffer_like(ctx, x);
  n->saved[1] = tfpi_claim(ctx, n->in[1], 1);
  n->saved[2] = tfpi_claim(ctx, n->in[2], 0);
  return ctx->status;
}
static void tfpi_linear_xent_fwd(tfp_ctx *ctx, tfpi_node *n) {
  tfpi_linear_xent_args a;
  tfp_tensor x, dx, labels;
  const int64_t V = n->in[1]->shape[0], C = n->in[1]->shape[1], rows = tfp_numel(n->in[3]);
  int64_t shape[3], chunk = (64 << 20) / (int64_t)sizeof(float) / tfpi_max64(V, 1);
  chunk = tfpi_max64(1, tfpi_min64(tfpi_min64(chunk, 1024), rows));
  memset(&a, 0, sizeof a);
  tfpi_rows_header(&x, n->in[0], 0);
  memcpy(&labels, n->in[3], sizeof labels);
  labels.ndim = 1, labels.shape[0] = rows, labels.stride[0] = 1;
  shape[0] = chunk, shape[1] = 2, shape[2] = C;
  a.rows = tfpi_buffer(ctx, TFP_REAL, 3, shape, "linear_xent");
  shape[1] = V;
  a.logits = tfpi_buffer(ctx, TFP_REAL, 2, shape, "linear_xent");
  if (ctx->status) return;
  a.x = &x, a.w = n->in[1], a.bias = n->in[2], a.labels = &labels, a.loss = n->out;
  a.scale = tfpi_scale_of(ctx, n);
  if (n->saved[0]) {
    tfpi_rows_header(&dx, n->saved[0], 0);
    a.dx = &dx;
  }
  a.dw = n->saved[1], a.db = n->saved[2];
  ctx->be->linear_xent(ctx, &a);
  tfpi_recycle(ctx, a.rows);
  tfpi_recycle(ctx, a.logits);
}
static tfp_status tfpi_linear_xent_bwd(tfp_ctx *ctx, tfpi_node *n) {
  const double came = tfp_item(n->out->grad);
  if (n->out->grad->data && came != 1)
    return tfpi_fail(ctx, TFP_ERR_ARG,
                     "linear_xent: the gradient that comes back is %g and must be 1; pass scale at "
                     "the call",
                     came);
  if (n->saved[0]) {
    int accumulate;
    tfp_tensor *dx = tfpi_grad_into(ctx, n->in[0], &accumulate);
    if (dx) ctx->be->copy(ctx, dx, n->saved[0], accumulate);
    tfpi_recycle(ctx, n->saved[0]);
  }
  tfpi_confirm(ctx, n->in[1], n->saved[1]);
  tfpi_confirm(ctx, n->in[2], n->saved[2]);
  return ctx->status;
}
TFP_API tfp_tensor *tfp_linear_xent(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *w, tfp_tensor *b,
                                    tfp_tensor *labels, double scale) {
  tfpi_node n;
  if (!x || !w || !labels) return NULL;
  tfpi_node_start(&n, tfp_contiguous(ctx, x), w, b);
  if (!n.in[0]) return NULL;
  n.in[3] = labels;
  n.scale = (float)scale;
  return tfpi_run(ctx, &tfpi_op_linear_xent, &n);
}
/* ================================================================================================
 * >>nn.c   parameters
 * ================================================================================================
 */
enum { TFPI_PARAM_ALIGN = 16 }; /* numbers: 64 bytes of float32 */

TFP_API tfp_params *tfp_params_create(tfp_ctx *ctx) {
  tfp_params *set;
  tfpi_arena *arena = tfpi_arena_borrow(ctx);
  if (!arena) return NULL;
  set = (tfp_params *)tfpi_new(arena, 1, sizeof *set);
  if (!set) return NULL;
  set->ctx = ctx;
  set->arena = arena;
  return set;
}
TFP_API void tfp_params_free(tfp_params *set) {
  if (set) tfpi_arena_return(set->arena);
}
TFP_API tfp_param *tfp_params_find(const tfp_params *set, const char *name) {
  tfp_param *p;
  for (p = set ? set->first : NULL; p; p = p->next)
    if (strcmp(p->name, name) == 0) return p;
  return NULL;
}

TFP_API tfp_param *tfp_param_add(tfp_params *set, const char *name, int ndim, const int64_t *shape,
                                 tfp_init init, double std) {
  tfp_param *p;
  tfp_ctx *ctx;
  if (!set) return NULL;
  ctx = set->ctx;
  if (ctx->status) return NULL;
  if (set->data || set->flat) {
    tfpi_fail(ctx, TFP_ERR_STATE, "param_add: '%s' comes after tfp_params_finish", name);
    return NULL;
  }
  if (tfp_params_find(set, name)) {
    tfpi_fail(ctx, TFP_ERR_ARG, "param_add: there is a parameter '%s' already", name);
    return NULL;
  }
  p = (tfp_param *)tfpi_new(set->arena, 1, sizeof *p);
  if (!p) return NULL;
  p->name = tfpi_copy_text(set->arena, name, strlen(name));
  p->tensor = tfpi_tensor_header(set->arena, TFP_REAL, ndim, shape, name);
  if (!p->name || !p->tensor) return NULL;
  p->tensor->name = p->name;
  p->init = init, p->std = std, p->zero_row = -1, p->decay = ndim >= 2;
  if (set->last) set->last->next = p;
  else set->first = p;
  set->last = p;
  set->count++;
  return p;
}

/* Text to a stream number: FNV-1a. */
static uint64_t tfpi_name_stream(const char *name) {
  uint64_t h = 0xcbf29ce484222325u;
  for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
  return h;
}
typedef struct tfpi_init_job {
  const tfp_param *p;
  uint64_t seed, stream;
  int64_t n;
} tfpi_init_job;
enum { TFPI_INIT_SLICE = 1 << 14 };
static void tfpi_init_slice(void *v, int64_t slice, int thread) {
  const tfpi_init_job *j = (const tfpi_init_job *)v;
  tfp_real *x = tfpi_data(j->p->tensor);
  int64_t i, end = tfpi_min64((slice + 1) * TFPI_INIT_SLICE, j->n);
  (void)thread;
  for (i = slice * TFPI_INIT_SLICE; i < end; i++)
    x[i] = (tfp_real)(j->p->init == TFP_INIT_ZERO ? 0.0
                      : j->p->init == TFP_INIT_ONE
                          ? j->p->std
                          : j->p->std * (double)tfp_random_normal(j->seed, j->stream, (uint64_t)i));
}

TFP_API tfp_status tfp_params_finish(tfp_params *set, int trainable) {
  tfp_ctx *ctx;
  tfp_param *p;
  void *data = NULL, *grad = NULL;
  int pass;
  if (!set) return TFP_ERR_NOMEM;
  ctx = set->ctx;
  if (ctx->status) return ctx->status;
  if (set->flat) return tfpi_fail(ctx, TFP_ERR_STATE, "params_finish: called twice");
  for (pass = 1; pass >= 0; pass--) {
    for (p = set->first; p; p = p->next) {
      if ((p->decay != 0) != pass) continue;
      p->offset = set->flat;
      set->numel += tfp_numel(p->tensor);
      set->flat += tfpi_ceil_div(tfp_numel(p->tensor), TFPI_PARAM_ALIGN) * TFPI_PARAM_ALIGN;
    }
    if (pass) set->decayed = set->flat;
  }
  if (tfpi_take(set->arena, (size_t)set->flat * sizeof(tfp_real), TFPI_DATA, &data))
    return ctx->status;
  if (trainable && tfpi_take(set->arena, (size_t)set->flat * sizeof(tfp_real), TFPI_DATA, &grad))
    return ctx->status;
  set->data = (tfp_real *)data;
  set->grad = (tfp_real *)grad;
  if (data) memset(data, 0, (size_t)set->flat * sizeof(tfp_real));
  if (grad) memset(grad, 0, (size_t)set->flat * sizeof(tfp_real));
  for (p = set->first; p; p = p->next) {
    tfp_tensor *t = p->tensor;
    tfpi_init_job job;
    t->data = data ? set->data + p->offset : NULL;
    if (trainable) {
      t->needs_grad = !p->frozen;
      t->grad = tfpi_tensor_header(set->arena, TFP_REAL, t->ndim, t->shape, p->name);
      if (!t->grad) return ctx->status;
      t->grad->data = grad ? set->grad + p->offset : NULL;
      t->fresh = 1;
    }
    if (!data) continue;
    job.p = p, job.seed = ctx->desc.seed, job.stream = tfpi_name_stream(p->name),
    job.n = tfp_numel(t);
    tfpi_parallel(ctx, tfpi_ceil_div(job.n, TFPI_INIT_SLICE), tfpi_init_slice, &job);
    if (p->zero_row >= 0 && p->zero_row < t->shape[0])
      memset(tfpi_data(t) + p->zero_row * t->stride[0], 0, (size_t)t->stride[0] * sizeof(tfp_real));
  }
  return ctx->status;
}

TFP_API void tfp_params_zero_grad(tfp_params *set) {
  tfp_param *p;
  for (p = set ? set->first : NULL; p; p = p->next) p->tensor->fresh = 1;
  if (set) set->ctx->claimed = NULL;
}
TFP_API int64_t tfp_params_untouched(const tfp_params *set, const char **names, int64_t max) {
  int64_t n = 0;
  tfp_param *p;
  for (p = set ? set->first : NULL; p; p = p->next) {
    if (p->frozen || p->tensor->fresh != 1) continue;
    if (names && n < max) names[n] = p->name;
    n++;
  }
  return n;
}
TFP_API int64_t tfp_params_copy(tfp_params *to, const tfp_params *from) {
  int64_t n = 0;
  tfp_param *p;
  if (!to || !from || to->ctx->status) return 0;
  if (!to->flat || !from->flat) {
    tfpi_fail(to->ctx, TFP_ERR_STATE, "params_copy: before tfp_params_finish");
    return 0;
  }
  for (p = to->first; p; p = p->next) {
    const tfp_param *q = tfp_params_find(from, p->name);
    if (!q || !tfpi_same_shape(p->tensor, q->tensor)) continue;
    if (p->tensor->data && q->tensor->data)
      memcpy(p->tensor->data, q->tensor->data, (size_t)tfp_numel(p->tensor) * sizeof(tfp_real));
    n++;
  }
  return n;
}
/* ================================================================================================
 * >>attention.c   attention, its masks and its position schemes
 * ================================================================================================
 */
/* Header (B,H,T,D) of a tensor (B,T,H*D): heads are a split of the last axis. */
static void tfpi_heads_header(tfp_tensor *h, const tfp_tensor *t, int64_t heads) {
  const int64_t D = t->shape[2] / heads;
  memcpy(h, t, sizeof *h);
  h->ndim = 4;
  h->shape[1] = heads, h->stride[1] = D * t->stride[2];
  h->shape[2] = t->shape[1], h->stride[2] = t->stride[1];
  h->shape[3] = D, h->stride[3] = t->stride[2];
}

/* in: q, k, v, bias, mask, q_doc, k_doc. k[0] heads, k[1] causal; c[0] scale, c[1] dropout;
 * saved[0] the log of the sum of exponentials (B,H,T), saved[1] the slopes.
 *   P = softmax(s)     dV = P' dO     dP = dO V'     dS = P (dP - rowsum(P dP))     dQ = scale dS K
 *   dK = scale dS' Q     dbias = sums of dS over equal distances */
static tfp_status tfpi_attention_shape(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *q = n->in[0], *k = n->in[1], *v = n->in[2], *bias = n->in[3],
                   *slopes = n->saved[1];
  const int64_t H = n->k[0];
  int64_t shape[3], B, T, S;
  int i;
  for (i = 0; i < 3; i++)
    if (tfpi_want_real(ctx, "attention", n->in[i])) return ctx->status;
  if (q->ndim != 3 || k->ndim != 3 || !tfpi_same_shape(k, v) || k->shape[0] != q->shape[0] ||
      k->shape[2] != q->shape[2])
    return tfpi_fail(ctx, TFP_ERR_SHAPE,
                     "attention: q %t, k %t, v %t are not (B,T,C), (B,S,C), (B,S,C)", q, k, v);
  B = q->shape[0], T = q->shape[1], S = k->shape[1];
  if (H < 1 || q->shape[2] % H)
    return tfpi_fail(ctx, TFP_ERR_ARG, "attention: %i heads do not divide the width of q %t", H, q);
  if (bias && (bias->ndim != 2 || bias->shape[0] != H || bias->shape[1] != T + S - 1 ||
               !tfp_is_contiguous(bias)))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "attention: bias %t is not (%i,%i)", bias, H, T + S - 1);
  if (slopes && (slopes->ndim != 1 || slopes->shape[0] != H))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "attention: slopes %t are not (%i)", slopes, H);
  for (i = 4; i < 7; i++) {
    const int64_t length = i == 5 ? T : S;
    const tfp_tensor *m = n->in[i];
    if (!m) continue;
    if (m->dtype != TFP_I32 || m->ndim != 2 || m->shape[0] != B || m->shape[1] != length ||
        !tfp_is_contiguous(m))
      return tfpi_fail(ctx, TFP_ERR_SHAPE, "attention: %s %t is not int32 (%i,%i)",
                       i == 4 ? "mask" : i == 5 ? "q_doc" : "k_doc", m, B, length);
  }
  if (!n->in[5] != !n->in[6])
    return tfpi_fail(ctx, TFP_ERR_ARG, "attention: q_doc and k_doc go together");
  if (!(n->c[1] >= 0 && n->c[1] < 1))
    return tfpi_fail(ctx, TFP_ERR_ARG, "attention: dropout %g is not in [0,1)", n->c[1]);
  if (n->c[0] == 0) n->c[0] = 1 / sqrt((double)(q->shape[2] / H));
  n->out = tfpi_tensor(&ctx->step, TFP_REAL, 3, q->shape, "attention");
  shape[0] = B, shape[1] = H, shape[2] = T;
  if (n->record) n->saved[0] = tfpi_tensor(&ctx->step, TFP_REAL, 3, shape, "attention");
  return ctx->status;
}

typedef struct tfpi_attention_headers {
  tfp_tensor q, k, v, o, dout, dq, dk, dv;
} tfpi_attention_headers;
static void tfpi_attention_arguments(tfpi_attention_args *a, tfpi_attention_headers *h,
                                     const tfpi_node *n) {
  memset(a, 0, sizeof *a);
  tfpi_heads_header(&h->q, n->in[0], n->k[0]);
  tfpi_heads_header(&h->k, n->in[1], n->k[0]);
  tfpi_heads_header(&h->v, n->in[2], n->k[0]);
  tfpi_heads_header(&h->o, n->out, n->k[0]);
  a->q = &h->q, a->k = &h->k, a->v = &h->v, a->o = &h->o, a->lse = n->saved[0];
  a->causal = (int)n->k[1], a->scale = n->c[0], a->dropout = n->c[1], a->stream = n->stream;
  a->rel = n->in[3], a->mask = n->in[4], a->q_doc = n->in[5], a->k_doc = n->in[6],
  a->slopes = n->saved[1];
}
static void tfpi_attention_fwd(tfp_ctx *ctx, tfpi_node *n) {
  tfpi_attention_args a;
  tfpi_attention_headers h;
  tfpi_attention_arguments(&a, &h, n);
  ctx->be->attention(ctx, &a);
}

/* If q, k and v are the three thirds of one product whose gradient is new, the kernel writes all of
 * it and nothing needs clearing. */
static void tfpi_cover_thirds(tfp_ctx *ctx, tfp_tensor *const *in) {
  tfp_tensor *base = in[0]->base;
  int i;
  if (!base || in[1]->base != base || in[2]->base != base || !base->needs_grad ||
      (base->grad && base->fresh != 1))
    return;
  for (i = 0; i < 3; i++)
    if (tfp_numel(in[i]) * 3 != tfp_numel(base) || in[i]->offset != i * in[0]->shape[2] ||
        in[i]->stride[1] != 3 * in[0]->shape[2])
      return;
  if (!base->grad) base->grad = tfpi_buffer_like(ctx, base);
  base->fresh = -1; /* whole, and about to be overwritten in parts */
}
static tfp_status tfpi_attention_bwd(tfp_ctx *ctx, tfpi_node *n) {
  tfpi_attention_args a;
  tfpi_attention_headers h;
  tfp_tensor *dbias, *dq, *dk, *dv, sum, flat;
  int accumulate, thirds;
  int64_t shape[3];
  tfpi_attention_arguments(&a, &h, n);
  tfpi_cover_thirds(ctx, n->in);
  thirds = n->in[0]->base && n->in[0]->base->fresh == -1;
  dq = tfpi_grad_into(ctx, n->in[0], &a.dq_accumulate);
  dk = tfpi_grad_into(ctx, n->in[1], &a.dk_accumulate);
  dv = tfpi_grad_into(ctx, n->in[2], &a.dv_accumulate);
  if (thirds) a.dq_accumulate = a.dk_accumulate = a.dv_accumulate = 0;
  tfpi_heads_header(&h.dout, n->out->grad, n->k[0]);
  a.dout = &h.dout;
  if (dq) tfpi_heads_header(&h.dq, dq, n->k[0]), a.dq = &h.dq;
  if (dk) tfpi_heads_header(&h.dk, dk, n->k[0]), a.dk = &h.dk;
  if (dv) tfpi_heads_header(&h.dv, dv, n->k[0]), a.dv = &h.dv;
  dbias = tfpi_grad_into(ctx, n->in[3], &accumulate);
  if (dbias) {
    shape[0] = n->in[0]->shape[0], shape[1] = n->k[0], shape[2] = dbias->shape[1];
    a.drel = tfpi_buffer(ctx, TFP_REAL, 3, shape, "attention");
  }
  if (ctx->status) return ctx->status;
  ctx->be->attention_bwd(ctx, &a);
  if (dbias) { /* over the batch, in its order */
    shape[1] = tfp_numel(dbias);
    memcpy(&flat, a.drel, sizeof flat);
    tfpi_set_shape(&flat, 2, shape);
    memcpy(&sum, dbias, sizeof sum);
    shape[0] = 1;
    tfpi_set_shape(&sum, 2, shape);
    ctx->be->reduce(ctx, TFPI_SUM, &sum, &flat, accumulate);
    tfpi_recycle(ctx, a.drel);
  }
  return ctx->status;
}

TFP_API tfp_tensor *tfp_attention(tfp_ctx *ctx, tfp_tensor *q, tfp_tensor *k, tfp_tensor *v,
                                  int64_t heads, const tfp_attention_desc *desc) {
  tfpi_node n;
  int i;
  if (!q || !k || !v) return NULL;
  tfpi_node_start(&n, q, k, v);
  for (i = 0; i < 3; i++) /* kernels want heads whose numbers lie together */
    if (n.in[i]->ndim != 3 || n.in[i]->stride[2] != 1 || tfpi_is_expanded(n.in[i]))
      n.in[i] = tfp_contiguous(ctx, n.in[i]);
  if (ctx->status) return NULL;
  n.k[0] = heads;
  if (desc) {
    n.in[3] = desc->bias, n.in[4] = desc->mask, n.in[5] = desc->q_doc, n.in[6] = desc->k_doc;
    n.k[1] = desc->causal;
    n.c[0] = desc->scale;
    n.c[1] = ctx->now.training ? desc->dropout : 0;
    n.saved[1] = desc->slopes;
    n.stream = tfp_stream(ctx->now.step, desc->layer, desc->site);
  }
  return tfpi_run(ctx, &tfpi_op_attention, &n);
}

TFP_API int64_t tfp_relative_bucket(int64_t distance, int bidirectional, int64_t buckets,
                                    int64_t max_distance) {
  int64_t first = 0, n = -distance, exact, far;
  if (bidirectional) {
    buckets /= 2;
    if (distance > 0) first = buckets;
    if (n < 0) n = -n;
  } else if (n < 0) {
    n = 0;
  }
  exact = buckets / 2;
  if (n < exact) return first + n;
  /* single precision, as the reference: it decides where a bucket ends */
  far = exact + (int64_t)(logf((float)n / (float)exact) / logf((float)max_distance / (float)exact) *
                          (float)(buckets - exact));
  return first + (far < buckets - 1 ? far : buckets - 1);
}
TFP_API tfp_tensor *tfp_relative_bias(tfp_ctx *ctx, tfp_tensor *table, int64_t T, int64_t S,
                                      int bidirectional, int64_t max_distance) {
  tfp_tensor *ids;
  int64_t R = T + S - 1, r;
  if (!table || ctx->status) return NULL;
  if (table->ndim != 2 || table->shape[0] < (bidirectional ? 4 : 2) ||
      max_distance <= table->shape[0] / 2 || T < 1 || S < 1) {
    tfpi_fail(ctx, TFP_ERR_ARG, "relative_bias: table %t with max_distance %i, %i queries, %i keys",
              table, max_distance, T, S);
    return NULL;
  }
  ids = tfpi_tensor(&ctx->step, TFP_I32, 1, &R, "relative_bias");
  if (!ids) return NULL;
  if (ids->data)
    for (r = 0; r < R; r++)
      tfpi_ints(ids)[r] =
          (int32_t)tfp_relative_bucket(r - (S - 1), bidirectional, table->shape[0], max_distance);
  return tfp_contiguous(ctx, tfp_transpose(ctx, tfp_embedding(ctx, table, ids, -1), 0, 1));
}

TFP_API tfp_tensor *tfp_alibi_slopes(tfp_ctx *ctx, int64_t heads) {
  tfp_tensor *t;
  int64_t power = 1, i;
  if (heads < 1) {
    tfpi_fail(ctx, TFP_ERR_ARG, "alibi_slopes: %i heads", heads);
    return NULL;
  }
  t = tfpi_tensor(&ctx->step, TFP_REAL, 1, &heads, "alibi_slopes");
  if (!t || !t->data) return t;
  while (power * 2 <= heads) power *= 2;
  for (i = 0; i < heads; i++)
    tfpi_data(t)[i] =
        (tfp_real)(i < power ? pow(2, -8.0 * (double)(i + 1) / (double)power)
                             : pow(2, -4.0 * (double)(2 * (i - power) + 1) / (double)power));
  return t;
}

/* rotary: in[0] x, in[1] positions; k[0] start, k[1] heads, c[0] base. dx is dy turned back. */
static tfp_status tfpi_rotary_shape(tfp_ctx *ctx, tfpi_node *n) {
  const tfp_tensor *x = n->in[0], *p = n->in[1];
  const int64_t H = n->k[1];
  if (tfpi_want_real(ctx, "rotary", x)) return ctx->status;
  if (x->ndim != 3 || H < 1 || x->shape[2] % (2 * H))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "rotary: %t is not (B,T,H*D) with %i heads of even width",
                     x, H);
  if (p && (p->dtype != TFP_I32 || p->ndim != 2 || p->shape[0] != x->shape[0] ||
            p->shape[1] != x->shape[1]))
    return tfpi_fail(ctx, TFP_ERR_SHAPE, "rotary: positions %t do not fit %t", p, x);
  if (!(n->c[0] > 0)) return tfpi_fail(ctx, TFP_ERR_ARG, "rotary: base %g", n->c[0]);
  n->out = tfpi_tensor_like(ctx, x, "rotary");
  return ctx->status;
}
static void tfpi_rotary_turn(tfp_ctx *ctx, const tfpi_node *n, tfp_tensor *y, const tfp_tensor *x,
                             int inverse, int accumulate) {
  tfp_tensor hy, hx;
  tfpi_heads_header(&hy, y, n->k[1]);
  tfpi_heads_header(&hx, x, n->k[1]);
  ctx->be->rotary(ctx, &hy, &hx, n->in[1], n->k[0], n->c[0], inverse, accumulate);
}
static void tfpi_rotary_fwd(tfp_ctx *ctx, tfpi_node *n) {
  tfpi_rotary_turn(ctx, n, n->out, n->in[0], 0, 0);
}
static tfp_status tfpi_rotary_bwd(tfp_ctx *ctx, tfpi_node *n) {
  int accumulate;
  tfp_tensor *dx = tfpi_grad_into(ctx, n->in[0], &accumulate);
  if (dx) tfpi_rotary_turn(ctx, n, dx, n->out->grad, 1, accumulate);
  return ctx->status;
}
TFP_API tfp_tensor *tfp_rotary(tfp_ctx *ctx, tfp_tensor *x, tfp_tensor *positions, int64_t start,
                               int64_t heads, double base) {
  tfpi_node n;
  if (!x) return NULL;
  if (x->ndim == 3 && x->stride[2] != 1) x = tfp_contiguous(ctx, x);
  if (!x) return NULL;
  tfpi_node_start(&n, x, positions, NULL);
  n.k[0] = start, n.k[1] = heads, n.c[0] = base;
  return tfpi_run(ctx, &tfpi_op_rotary, &n);
}
/* ================================================================================================
 * >>tokenizer.c   text to ids and back
 * ================================================================================================
 * The stages have the order of a tokenizer.json: added tokens, normaliser (none), pre-tokenizer,
 * model, template; then the decoder. A stage is a field that says which variant it is, and code
 * that switches on it: a new variant is a value of the field, a case, a line in load and in save.
 * Read tfpi_gpt2_word, tfpi_merge_few and tfpi_encode_gap; training is at the end of the section.
 */
enum {
  TFPI_PIECE_MAX = 1 << 18,    /* bytes of a word, and of the stretch that an encoder keeps */
  TFPI_MAX_TOKENS = 1 << 24,
  TFPI_CACHE_TEXT = 22,        /* longest word in the cache */
  TFPI_CACHE_IDS = 10,
  TFPI_FEW = 40,               /* up to here a search for the best pair beats a heap */
  TFPI_TEMPLATE_MAX = 24
};
/* BLOOM's published pattern, whose brackets nest: see tfpi_bloom_word. */
#define TFPI_BLOOM_REGEX \
  " ?[^(\\s|[.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4\xDB\x94\xD8\x8C])]+"
typedef enum tfpi_char_class { TFPI_OTHER, TFPI_LETTER, TFPI_NUMBER, TFPI_SPACE } tfpi_char_class;
typedef enum tfpi_pre { TFPI_PRE_WHOLE, TFPI_PRE_GPT2, TFPI_PRE_BLOOM } tfpi_pre;
typedef enum tfpi_post {
  TFPI_POST_NONE,
  TFPI_POST_TEMPLATE,
  TFPI_POST_ROBERTA,
  TFPI_POST_BYTES
} tfpi_post;
typedef enum tfpi_decoder { TFPI_DECODE_JOIN, TFPI_DECODE_FUSE, TFPI_DECODE_BYTES } tfpi_decoder;
enum { TFPI_IN_MODEL = 1, TFPI_IS_ADDED = 2, TFPI_IS_SPECIAL = 4 };
enum { TFPI_TEXT_A = -1, TFPI_TEXT_B = -2 }; /* pieces of a template that are not tokens */

typedef struct tfpi_token {
  const char *text, *raw; /* as files spell it; the bytes it stands for. text NULL: no such id */
  int32_t text_n, raw_n, flags;
} tfpi_token;
typedef struct tfpi_added {
  const char *text;
  int32_t n, id, next; /* next: one that starts with the same byte, or -1 */
  int lstrip, rstrip, normalized;
} tfpi_added;
typedef struct tfpi_merge_entry { uint32_t left, right, rank, id; } tfpi_merge_entry;
typedef struct tfpi_cached {
  char key[24];
  int32_t ids[TFPI_CACHE_IDS];
} tfpi_cached; /* 64 bytes */
typedef struct tfpi_template_piece { int32_t id, type; } tfpi_template_piece;
typedef struct tfpi_template { int n; tfpi_template_piece piece[TFPI_TEMPLATE_MAX]; } tfpi_template;

struct tfp_tokenizer {
  tfp_ctx *ctx;
  tfpi_arena *arena, *scratch; /* it lies in the first; the second is for long words */
  tfp_encoder *encoders;
  tfp_tokenizer_kind kind;
  char *bump; /* where the next text goes */
  size_t bump_left;
  uint32_t *bounds; /* first code point of a run times 4, plus its class */
  int n_bounds;
  uint8_t ascii[128];
  uint16_t byte_char[256];
  int16_t char_byte[324]; /* -1: not in GPT-2's alphabet */
  tfpi_token *tokens;
  int64_t size, cap;
  int32_t *index; /* hash table of ids by text, -1 empty */
  uint64_t index_mask;
  tfpi_added *added; /* in order of ids */
  int32_t n_added, added_first[256];
  tfpi_pre pre;
  int byte_level, add_prefix_space, trim_offsets;
  int32_t byte_id[256], **char_pages; /* first symbols; pages of 256 code points, NULL if empty */
  tfpi_merge_entry *merges, *table; /* by rank; hash table, rank UINT32_MAX empty */
  int64_t n_merges;
  int table_shift;
  int32_t unk;
  int fuse_unk, ignore_merges;
  tfpi_cached *cache;
  uint64_t cache_mask;
  int32_t *symbols, *before, *after; /* scratch for long words */
  uint64_t *heap;
  char *prefixed;
  int64_t scratch_n;
  tfpi_post post;
  int post_trim, post_prefix;
  tfpi_template single, pair;
  tfpi_decoder decoder;
  tfp_special_ids specials;
  uint64_t hash;
};

/* ---- characters ---- */

/* Unicode 16.0.0, as the reference has it. Runs of letters, numbers and white space: code points
 * since the end of the run before, then length*4 + class. Made by tests/unicode/make.py. */
static const uint32_t tfpi_unicode_runs[1662] = {
  9,23, 18,7, 15,42, 7,105, 6,105, 10,7, 26,7, 9,5, 7,10, 1,5, 3,6, 0,5, 1,14, 1,93, 1,125,
  1,1833, 4,49, 14,21, 7,5, 1,5, 129,21, 1,9, 2,17, 1,5, 6,5, 1,13, 1,5, 1,81, 1,333, 1,557,
  8,665, 1,153, 2,5, 6,165, 71,109, 4,17, 45,173, 21,42, 4,9, 1,397, 1,5, 15,9, 7,9, 0,42, 0,13,
  2,5, 16,5, 1,121, 29,357, 11,5, 14,42, 0,133, 9,9, 4,5, 5,89, 4,5, 9,5, 3,5, 23,101, 7,45, 5,97,
  1,25, 17,169, 58,217, 3,5, 18,5, 7,41, 4,42, 1,65, 4,33, 2,9, 2,89, 1,29, 1,5, 3,17, 3,5, 16,5,
  13,9, 1,13, 4,42, 0,9, 2,26, 2,5, 8,25, 4,9, 2,89, 1,29, 1,9, 1,9, 1,9, 31,17, 1,5, 7,42, 2,13,
  16,37, 1,13, 1,89, 1,29, 1,9, 1,21, 3,5, 18,5, 15,9, 4,42, 9,5, 11,33, 2,9, 2,89, 1,29, 1,9,
  1,21, 3,5, 30,9, 1,13, 4,42, 1,5, 0,26, 11,5, 1,25, 3,13, 1,17, 3,9, 1,5, 1,9, 3,9, 3,13, 3,49,
  22,5, 21,54, 18,33, 1,13, 1,93, 1,65, 3,5, 26,13, 2,5, 2,9, 4,42, 8,30, 1,5, 4,33, 1,13, 1,93,
  1,41, 1,21, 3,5, 31,9, 1,9, 4,42, 1,9, 17,37, 1,13, 1,165, 2,5, 16,5, 5,13, 1,30, 0,13, 4,78,
  1,25, 5,73, 3,97, 1,37, 1,5, 2,29, 31,42, 17,193, 1,9, 12,29, 9,42, 39,9, 1,5, 1,21, 1,97, 1,5,
  1,41, 1,9, 9,5, 2,21, 1,5, 9,42, 2,17, 32,5, 31,82, 12,33, 1,145, 27,21, 115,173, 20,5, 0,42,
  6,25, 4,17, 3,5, 3,9, 7,13, 4,53, 12,5, 1,42, 6,153, 1,5, 5,5, 2,173, 1,1333, 1,17, 2,29, 1,5,
  1,17, 2,165, 1,17, 2,133, 1,17, 2,29, 1,5, 1,17, 2,61, 1,229, 1,17, 2,269, 14,82, 3,65, 16,345,
  2,25, 3,2481, 2,69, 0,7, 0,105, 5,301, 3,14, 0,33, 7,73, 13,77, 14,73, 14,53, 1,13, 15,209,
  35,5, 4,5, 3,42, 6,42, 22,42, 6,357, 7,21, 2,137, 1,5, 5,281, 10,125, 39,42, 0,121, 2,21,
  11,177, 4,105, 6,46, 37,93, 9,213, 43,42, 6,42, 13,5, 93,189, 17,33, 3,42, 41,121, 13,9, 0,42,
  0,177, 26,145, 28,42, 3,13, 0,42, 0,145, 2,45, 5,173, 2,13, 41,17, 1,25, 1,9, 3,5, 5,769,
  64,1113, 2,25, 2,153, 2,25, 2,33, 1,5, 1,5, 1,5, 1,125, 2,213, 1,29, 1,5, 3,13, 1,29, 3,17,
  2,25, 4,53, 5,13, 1,29, 3,47, 29,11, 5,7, 47,7, 16,6, 0,5, 2,26, 5,5, 0,42, 6,53, 101,5, 4,5,
  2,41, 1,5, 3,21, 6,5, 1,5, 1,5, 1,17, 1,45, 2,17, 5,21, 4,5, 1,206, 0,9, 0,22, 726,242, 78,90,
  630,122, 1132,917, 6,17, 3,9, 9,6, 2,153, 1,5, 5,5, 2,225, 7,5, 16,93, 9,29, 1,29, 1,29, 1,29,
  1,29, 1,29, 1,29, 1,29, 80,5, 464,7, 4,9, 0,6, 25,38, 7,21, 2,14, 0,9, 4,345, 6,13, 1,361, 1,17,
  5,173, 1,377, 3,18, 10,129, 48,65, 32,42, 30,34, 1,62, 32,42, 39,62, 320,26369, 64,88629,
  67,185, 2,1077, 3,65, 0,42, 0,9, 20,189, 16,125, 2,281, 0,42, 39,37, 2,413, 2,269, 2,9, 1,5,
  1,33, 21,65, 1,13, 1,17, 1,93, 13,26, 10,209, 14,201, 28,42, 24,25, 3,5, 1,9, 1,42, 0,113,
  10,93, 25,117, 7,189, 28,5, 0,42, 6,21, 1,41, 0,42, 0,21, 1,165, 23,13, 1,33, 4,42, 6,93, 3,5,
  3,201, 1,5, 3,9, 2,21, 2,5, 1,5, 24,13, 2,45, 7,13, 12,25, 2,25, 2,25, 9,29, 1,29, 1,173, 1,57,
  6,461, 13,42, 6,44689, 12,93, 4,197, 8452,1465, 2,425, 38,29, 12,21, 5,5, 1,41, 1,53, 1,21, 1,5,
  1,9, 1,9, 1,433, 33,1453, 18,257, 2,217, 40,49, 116,21, 1,541, 19,42, 7,105, 6,105, 11,357,
  3,25, 2,25, 2,25, 2,13, 35,49, 1,105, 1,77, 1,9, 1,61, 2,57, 34,493, 12,182, 12,230, 17,10,
  244,117, 3,197, 16,110, 4,129, 0,18, 9,81, 0,6, 0,33, 0,6, 5,153, 10,121, 2,145, 4,33, 1,22,
  42,633, 2,42, 6,145, 4,145, 4,161, 8,209, 12,45, 1,61, 1,29, 1,9, 1,45, 1,61, 1,29, 1,9, 3,209,
  12,1245, 9,89, 10,33, 24,25, 1,169, 1,37, 69,25, 2,5, 1,177, 1,9, 3,5, 2,93, 2,34, 0,93, 2,30,
  0,125, 8,38, 48,77, 1,9, 5,22, 0,89, 0,26, 4,105, 70,225, 4,10, 0,9, 0,66, 2,186, 0,5, 15,17,
  1,13, 1,117, 10,38, 23,117, 0,10, 1,117, 0,14, 32,33, 1,113, 6,22, 16,217, 10,89, 2,34, 0,77,
  5,34, 0,73, 23,30, 80,293, 55,205, 13,205, 7,26, 0,145, 12,42, 6,42, 0,113, 9,93, 218,126,
  1,169, 6,9, 16,13, 59,117, 0,42, 0,5, 8,89, 11,18, 27,73, 46,85, 0,30, 20,93, 12,213, 26,122,
  1,9, 2,5, 13,181, 32,101, 7,42, 9,145, 15,42, 4,5, 2,5, 8,141, 3,5, 12,193, 14,17, 11,42, 0,5,
  1,5, 4,82, 11,73, 1,101, 19,9, 63,29, 1,5, 1,17, 1,61, 1,41, 7,189, 17,42, 11,33, 2,9, 2,89,
  1,29, 1,9, 1,21, 3,5, 18,5, 12,21, 30,41, 1,5, 2,5, 1,153, 1,5, 25,5, 1,5, 44,213, 18,17, 5,42,
  5,13, 30,193, 20,9, 1,5, 8,42, 166,189, 41,17, 36,193, 20,5, 11,42, 38,173, 13,5, 7,42, 6,82,
  28,109, 21,50, 4,29, 185,177, 116,257, 0,78, 12,33, 2,5, 2,33, 1,9, 1,97, 15,5, 1,5, 14,42,
  70,33, 2,157, 16,5, 1,5, 28,5, 10,161, 7,5, 21,5, 11,185, 19,5, 18,293, 199,133, 15,42, 6,37,
  1,149, 17,5, 15,118, 5,121, 112,29, 1,9, 1,153, 21,5, 9,42, 6,25, 1,9, 1,129, 14,5, 7,42,
  310,77, 15,5, 1,53, 1,137, 28,42, 86,5, 15,86, 43,3689, 102,446, 17,785, 2636,389, 15,4289,
  17,25, 25,15981, 5,2333, 6841,121, 18,42, 1734,2277, 7,125, 1,42, 6,317, 1,42, 6,121, 18,193,
  16,17, 12,42, 1,30, 1,85, 5,77, 432,181, 3,42, 198,257, 0,94, 105,301, 5,5, 66,53, 64,9, 1,5,
  28,24545, 8,4953, 41,41, 8935,17, 1,29, 1,9, 1,1165, 15,5, 29,13, 2,5, 14,17, 8,1585, 2308,429,
  5,53, 3,37, 7,41, 4182,42, 1478,82, 12,82, 108,102, 135,341, 1,285, 1,9, 2,5, 2,9, 2,17, 1,49,
  1,5, 1,29, 1,261, 1,17, 2,33, 1,29, 1,113, 1,17, 1,21, 1,5, 3,29, 1,1361, 2,101, 1,101, 1,125,
  1,101, 1,125, 1,101, 1,125, 1,101, 1,125, 1,101, 1,33, 2,202, 1792,125, 6,25, 261,249, 146,181,
  10,29, 2,42, 4,5, 321,121, 18,177, 4,42, 470,113, 4,42, 214,121, 2,5, 0,42, 485,29, 1,17, 1,9,
  1,61, 1,789, 2,38, 48,273, 7,5, 4,42, 791,238, 1,14, 1,18, 76,182, 1,62, 194,17, 1,109, 1,9,
  1,5, 2,5, 1,41, 1,17, 1,5, 1,5, 6,5, 4,5, 1,5, 1,5, 1,13, 1,9, 1,5, 2,5, 1,5, 1,5, 1,5, 1,5,
  1,9, 1,5, 2,17, 1,29, 1,17, 1,17, 1,5, 1,41, 1,69, 5,13, 1,21, 1,69, 580,54, 2787,42,
  1030,170881, 32,16617, 6,889, 2,23049, 14,29893, 15,2489, 2466,2169, 1506,19757, 5,16769
};

static int tfpi_class_of(const tfp_tokenizer *tok, uint32_t c) {
  int low = 0, high = tok->n_bounds - 1;
  if (c < 128) return tok->ascii[c];
  while (low < high) {
    const int mid = (low + high + 1) / 2;
    if (tok->bounds[mid] >> 2 <= c) low = mid;
    else high = mid - 1;
  }
  return (int)(tok->bounds[low] & 3);
}

/* Class and length of the character at s; a byte that is not UTF-8 is a sign of its own. */
TFPI_INLINE int tfpi_class_at(const tfp_tokenizer *tok, const char *s, int64_t n, int *length) {
  uint32_t c;
  *length = 1;
  if (!((unsigned char)*s & 0x80)) return tok->ascii[(unsigned char)*s];
  *length = tfp_utf8_decode(s, n, &c);
  if (*length) return tfpi_class_of(tok, c);
  *length = 1;
  return TFPI_OTHER;
}

/* Decodes the run table, and lists the 256 characters that stand for bytes. */
static tfp_status tfpi_open_characters(tfp_tokenizer *tok) {
  const int runs = TFPI_COUNT(tfpi_unicode_runs) / 2;
  uint32_t at = 0;
  int i, n = 0, extra = 256;
  tok->bounds = (uint32_t *)tfpi_new(tok->arena, 2 * runs + 1, sizeof *tok->bounds);
  if (!tok->bounds) return tok->ctx->status;
  for (i = 0; i < runs; i++) {
    const uint32_t gap = tfpi_unicode_runs[2 * i], run = tfpi_unicode_runs[2 * i + 1];
    if (gap) tok->bounds[n++] = at << 2 | TFPI_OTHER;
    at += gap;
    tok->bounds[n++] = at << 2 | (run & 3);
    at += run >> 2;
  }
  tok->bounds[n++] = at << 2 | TFPI_OTHER;
  tok->n_bounds = n;
  for (i = 0; i < 128; i++) {
    int k = 0;
    while (k + 1 < n && (int)(tok->bounds[k + 1] >> 2) <= i) k++;
    tok->ascii[i] = (uint8_t)(tok->bounds[k] & 3);
  }
  for (i = 0; i < TFPI_COUNT(tok->char_byte); i++) tok->char_byte[i] = -1;
  for (i = 0; i < 256; i++) {
    const int shown = (i >= 0x21 && i <= 0x7E) || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE;
    tok->byte_char[i] = (uint16_t)(shown ? i : extra++);
    tok->char_byte[tok->byte_char[i]] = (int16_t)i;
  }
  return TFP_OK;
}

/* ---- making one ---- */

static tfp_tokenizer *tfpi_tokenizer_new(tfp_ctx *ctx, int64_t cap) {
  tfp_tokenizer *tok;
  tfpi_arena *arena;
  int64_t slots = 16, i;
  if (!ctx || ctx->status) return NULL;
  arena = tfpi_arena_borrow(ctx);
  tok = arena ? (tfp_tokenizer *)tfpi_new(arena, 1, sizeof *tok) : NULL;
  if (!tok) return NULL;
  tok->ctx = ctx;
  tok->arena = arena;
  tok->scratch = tfpi_arena_borrow(ctx);
  tok->cap = cap;
  tok->unk = -1;
  while (slots < 2 * cap) slots *= 2;
  tok->index_mask = (uint64_t)slots - 1;
  tok->tokens = (tfpi_token *)tfpi_new(tok->arena, cap, sizeof *tok->tokens);
  tok->index = (int32_t *)tfpi_new(tok->arena, slots, sizeof *tok->index);
  if (ctx->status || tfpi_open_characters(tok)) {
    tfp_tokenizer_free(tok);
    return NULL;
  }
  for (i = 0; i < slots; i++) tok->index[i] = -1;
  for (i = 0; i < 256; i++) tok->byte_id[i] = tok->added_first[i] = -1;
  return tok;
}

TFP_API void tfp_tokenizer_free(tfp_tokenizer *tok) {
  if (!tok) return;
  while (tok->encoders) tfp_encoder_free(tok->encoders);
  if (tok->scratch) tfpi_arena_return(tok->scratch);
  tfpi_arena_return(tok->arena);
}

/* Room for n bytes that stay as long as the tokenizer. */
static char *tfpi_tokenizer_bytes_new(tfp_tokenizer *tok, size_t n) {
  char *p;
  if (n > tok->bump_left) {
    const size_t block = n > 4096 ? n : 65536;
    void *fresh;
    if (tfpi_take(tok->arena, block, TFPI_META, &fresh)) return NULL;
    if (n > 4096) return (char *)fresh;
    tok->bump = (char *)fresh, tok->bump_left = block;
  }
  p = tok->bump;
  tok->bump += n, tok->bump_left -= n;
  return p;
}

/* Slot of the text a+b in the index: where it is, or the empty one where it would go. */
static uint64_t tfpi_token_slot(const tfp_tokenizer *tok, const char *a, size_t an, const char *b,
                                size_t bn) {
  uint64_t h = 0xCBF29CE484222325u;
  size_t i;
  for (i = 0; i < an; i++) h = (h ^ (unsigned char)a[i]) * 0x100000001B3u;
  for (i = 0; i < bn; i++) h = (h ^ (unsigned char)b[i]) * 0x100000001B3u;
  for (h ^= h >> 29, h &= tok->index_mask;; h = (h + 1) & tok->index_mask) {
    const tfpi_token *t;
    if (tok->index[h] < 0) return h;
    t = &tok->tokens[tok->index[h]];
    if ((size_t)t->text_n == an + bn && !memcmp(t->text, a, an) && !memcmp(t->text + an, b, bn))
      return h;
  }
}
static int32_t tfpi_token_find(const tfp_tokenizer *tok, const char *a, size_t an, const char *b,
                               size_t bn) {
  return tok->index[tfpi_token_slot(tok, a, an, b, bn)];
}

/* Enters the token a+b as id; the caller knows that id < cap. */
static tfp_status tfpi_token_add(tfp_tokenizer *tok, int64_t id, const char *a, size_t an,
                                 const char *b, size_t bn, int flags) {
  const uint64_t slot = tfpi_token_slot(tok, a, an, b, bn);
  tfpi_token *t = &tok->tokens[id];
  char *text;
  if (tok->index[slot] >= 0 || t->text)
    return tfpi_fail(tok->ctx, TFP_ERR_FORMAT,
                     "tokenizer: token '%s' and id %i come twice in the vocabulary",
                     tok->index[slot] >= 0 ? tok->tokens[tok->index[slot]].text : t->text, id);
  if (an + bn > INT32_MAX / 4)
    return tfpi_fail(tok->ctx, TFP_ERR_FORMAT, "tokenizer: token %i is too long", id);
  text = tfpi_tokenizer_bytes_new(tok, an + bn + 1);
  if (!text) return tok->ctx->status;
  memcpy(text, a, an);
  if (bn) memcpy(text + an, b, bn);
  text[an + bn] = 0;
  t->text = text, t->text_n = (int32_t)(an + bn), t->flags = flags;
  tok->index[slot] = (int32_t)id;
  if (id >= tok->size) tok->size = id + 1;
  return TFP_OK;
}

/* What a token stands for in a text: with a ByteLevel decoder its characters are bytes, unless one
 * of them is outside that alphabet. */
static tfp_status tfpi_token_raw(tfp_tokenizer *tok, tfpi_token *t) {
  const char *s = t->text, *end = s + t->text_n;
  char *out;
  int32_t n = 0;
  t->raw = t->text, t->raw_n = t->text_n;
  if (tok->decoder != TFPI_DECODE_BYTES) return TFP_OK;
  while (s < end) {
    const uint32_t c = tfp_utf8_next(&s, end);
    if (c >= (uint32_t)TFPI_COUNT(tok->char_byte) || tok->char_byte[c] < 0) return TFP_OK;
    n++;
  }
  out = tfpi_tokenizer_bytes_new(tok, (size_t)n + 1);
  if (!out) return tok->ctx->status;
  t->raw = out, t->raw_n = n;
  for (s = t->text; s < end; out++) *out = (char)tok->char_byte[tfp_utf8_next(&s, end)];
  *out = 0;
  return TFP_OK;
}

/* ---- special tokens ---- */

/* Name number i of a style, or NULL behind the last; buffer has room for 24 bytes. */
static const char *tfpi_style_name(tfp_special_style style, int i, char *buffer) {
  static const char *const bert[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  static const char *const roberta[] = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"};
  static const char *const bloom[] = {"<unk>", "<s>", "</s>", "<pad>"};
  static const char *const t5[] = {"<pad>", "</s>", "<unk>"};
  switch (style) {
    case TFP_SPECIALS_BERT: return i < 5 ? bert[i] : NULL;
    case TFP_SPECIALS_ROBERTA: return i < 5 ? roberta[i] : NULL;
    case TFP_SPECIALS_GPT2: return i < 1 ? "<|endoftext|>" : NULL;
    case TFP_SPECIALS_BLOOM: return i < 4 ? bloom[i] : NULL;
    case TFP_SPECIALS_T5:
      if (i < 3) return t5[i];
      if (i >= 103) return NULL;
      tfpi_format(buffer, 24, "<extra_id_%d>", 102 - i);
      return buffer;
    default: return NULL;
  }
}
static int tfpi_style_count(tfp_special_style style) {
  char buffer[24];
  int n = 0;
  while (tfpi_style_name(style, n, buffer)) n++;
  return n;
}

/* Enters names [from,to) of a style behind the tokens there are. */
static tfp_status tfpi_style_add(tfp_tokenizer *tok, tfp_special_style style, int from, int to) {
  char buffer[24];
  const char *name;
  int i;
  for (i = from; i < to && (name = tfpi_style_name(style, i, buffer)) != NULL; i++)
    if (tfpi_token_add(tok, tok->size, name, strlen(name), "", 0,
                       TFPI_IN_MODEL | TFPI_IS_ADDED | TFPI_IS_SPECIAL))
      return tok->ctx->status;
  return TFP_OK;
}

static tfp_status tfpi_added_new(tfp_tokenizer *tok, int64_t room) {
  tok->added = (tfpi_added *)tfpi_new(tok->arena, room, sizeof *tok->added);
  return tok->ctx->status;
}
static tfpi_added *tfpi_added_put(tfp_tokenizer *tok, int64_t id) {
  tfpi_added *a = &tok->added[tok->n_added++];
  a->text = tok->tokens[id].text, a->n = tok->tokens[id].text_n, a->id = (int32_t)id;
  return a;
}

/* The list of added tokens of a new tokenizer: its special ones. */
static tfp_status tfpi_added_from_flags(tfp_tokenizer *tok) {
  int64_t i, n = 0;
  for (i = 0; i < tok->size; i++) n += (tok->tokens[i].flags & TFPI_IS_ADDED) != 0;
  if (tfpi_added_new(tok, n)) return tok->ctx->status;
  for (i = 0; i < tok->size; i++)
    if (tok->tokens[i].flags & TFPI_IS_ADDED) {
      tfpi_added *a = tfpi_added_put(tok, i);
      a->lstrip = !strcmp(a->text, "<mask>"); /* as published: the blank before it belongs to it */
    }
  return TFP_OK;
}

static void tfpi_template_put(tfpi_template *t, int32_t id, int32_t type) {
  t->piece[t->n].id = id;
  t->piece[t->n++].type = type;
}
/* [first] A sep [sep] B sep; second: the type of B and of the sep behind it. first may be -1. */
static void tfpi_template_make(tfp_tokenizer *tok, int32_t first, int32_t sep, int twice,
                               int32_t second) {
  tok->single.n = tok->pair.n = 0;
  if (first >= 0) {
    tfpi_template_put(&tok->single, first, 0);
    tfpi_template_put(&tok->pair, first, 0);
  }
  tfpi_template_put(&tok->single, TFPI_TEXT_A, 0);
  tfpi_template_put(&tok->single, sep, 0);
  tfpi_template_put(&tok->pair, TFPI_TEXT_A, 0);
  tfpi_template_put(&tok->pair, sep, 0);
  if (twice) tfpi_template_put(&tok->pair, sep, 0);
  tfpi_template_put(&tok->pair, TFPI_TEXT_B, second);
  tfpi_template_put(&tok->pair, sep, second);
}
static void tfpi_template_style(tfp_tokenizer *tok, tfp_special_style style) {
  tok->post = TFPI_POST_TEMPLATE;
  if (style == TFP_SPECIALS_BERT)
    tfpi_template_make(tok, tfp_token_id(tok, "[CLS]"), tfp_token_id(tok, "[SEP]"), 0, 1);
  else if (style == TFP_SPECIALS_ROBERTA)
    tfpi_template_make(tok, tfp_token_id(tok, "<s>"), tfp_token_id(tok, "</s>"), 1, 0);
  else if (style == TFP_SPECIALS_T5) tfpi_template_make(tok, -1, tfp_token_id(tok, "</s>"), 0, 0);
  else tok->post = TFPI_POST_NONE;
}

/* The id of an added token; -1 if this text is none. */
static int32_t tfpi_special_id(const tfp_tokenizer *tok, const char *text) {
  const int32_t id = tfp_token_id(tok, text);
  return id >= 0 && tok->tokens[id].flags & TFPI_IS_ADDED ? id : -1;
}
static void tfpi_specials_none(tfp_special_ids *s) {
  memset(s, 0, sizeof *s);
  s->bos = s->eos = s->pad = s->unk = s->cls = s->sep = s->mask = s->sentinel0 = -1;
  s->sentinel_step = -1;
}
/* Parts by the names that the six families use. */
static void tfpi_specials_by_name(tfp_tokenizer *tok) {
  tfp_special_ids *s = &tok->specials;
  const int32_t end = tfpi_special_id(tok, "<|endoftext|>"), mask = tfpi_special_id(tok, "<mask>");
  const int32_t square = tfpi_special_id(tok, "[UNK]"), bos = tfpi_special_id(tok, "<s>");
  const int32_t eos = tfpi_special_id(tok, "</s>");
  s->bos = bos >= 0 ? bos : end;
  s->eos = eos >= 0 ? eos : end;
  s->pad = tfpi_special_id(tok, square >= 0 ? "[PAD]" : "<pad>");
  s->unk = square >= 0 ? square : tfpi_special_id(tok, "<unk>");
  s->mask = square >= 0 ? tfpi_special_id(tok, "[MASK]") : mask;
  s->cls = square >= 0 ? tfpi_special_id(tok, "[CLS]") : mask >= 0 ? bos : -1;
  s->sep = square >= 0 ? tfpi_special_id(tok, "[SEP]") : mask >= 0 ? eos : -1;
}
static void tfpi_find_sentinels(tfp_tokenizer *tok) {
  tfp_special_ids *s = &tok->specials;
  char name[32];
  s->sentinel0 = tfpi_special_id(tok, "<extra_id_0>");
  s->sentinels = s->sentinel0 >= 0;
  if (s->sentinel0 < 0) return;
  s->sentinel_step = tfpi_special_id(tok, "<extra_id_1>") == s->sentinel0 + 1 ? 1 : -1;
  for (;; s->sentinels++) {
    tfpi_format(name, sizeof name, "<extra_id_%d>", s->sentinels);
    if (tfpi_special_id(tok, name) != s->sentinel0 + s->sentinels * s->sentinel_step) return;
  }
}

/* ---- the last steps of making one, whatever it came from ---- */

TFPI_INLINE uint64_t tfpi_pair_hash(uint32_t left, uint32_t right) {
  return ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
}

/* Rank and new id of a pair; NULL if it is never merged. */
TFPI_INLINE const tfpi_merge_entry *tfpi_merge_find(const tfp_tokenizer *tok, int32_t left,
                                                    int32_t right) {
  const uint64_t mask = ((uint64_t)1 << (64 - tok->table_shift)) - 1;
  uint64_t at = tfpi_pair_hash((uint32_t)left, (uint32_t)right) >> tok->table_shift;
  for (;; at = (at + 1) & mask) {
    const tfpi_merge_entry *e = &tok->table[at];
    if (e->rank == UINT32_MAX) return NULL;
    if (e->left == (uint32_t)left && e->right == (uint32_t)right) return e;
  }
}

static tfp_status tfpi_index_merges(tfp_tokenizer *tok) {
  int64_t slots = 16, i;
  tok->table_shift = 60;
  while (slots < 2 * tok->n_merges) slots *= 2, tok->table_shift--;
  tok->table = (tfpi_merge_entry *)tfpi_new(tok->arena, slots, sizeof *tok->table);
  if (!tok->table) return tok->ctx->status;
  for (i = 0; i < slots; i++) tok->table[i].rank = UINT32_MAX;
  for (i = 0; i < tok->n_merges; i++) {
    const tfpi_merge_entry *m = &tok->merges[i];
    uint64_t at = tfpi_pair_hash(m->left, m->right) >> tok->table_shift;
    while (tok->table[at].rank != UINT32_MAX &&
           (tok->table[at].left != m->left || tok->table[at].right != m->right))
      at = (at + 1) & ((uint64_t)slots - 1);
    tok->table[at] = *m; /* of a pair that comes twice the last counts, as in the reference */
  }
  return TFP_OK;
}

/* First symbols: ids of the 256 bytes, or of all tokens of one character. */
static tfp_status tfpi_index_symbols(tfp_tokenizer *tok) {
  int64_t i;
  if (!tok->byte_level)
    tok->char_pages = (int32_t **)tfpi_new(tok->arena, 0x1100, sizeof *tok->char_pages);
  if (tok->ctx->status) return tok->ctx->status;
  for (i = 0; i < tok->size; i++) {
    const tfpi_token *t = &tok->tokens[i];
    int32_t **page;
    uint32_t c;
    if (!t->text || !(t->flags & TFPI_IN_MODEL)) continue;
    if (tfp_utf8_decode(t->text, t->text_n, &c) != t->text_n || !t->text_n) continue;
    if (tok->byte_level) {
      if (c < (uint32_t)TFPI_COUNT(tok->char_byte) && tok->char_byte[c] >= 0)
        tok->byte_id[tok->char_byte[c]] = (int32_t)i;
      continue;
    }
    page = &tok->char_pages[c >> 8];
    if (!*page) {
      int k;
      *page = (int32_t *)tfpi_new(tok->arena, 256, sizeof **page);
      if (!*page) return tok->ctx->status;
      for (k = 0; k < 256; k++) (*page)[k] = -1;
    }
    (*page)[c & 255] = (int32_t)i;
  }
  return TFP_OK;
}

static uint64_t tfpi_tokenizer_mix(const tfp_tokenizer *tok) {
  const int32_t how[9] = {
      (int32_t)tok->pre,  tok->byte_level,       tok->add_prefix_space, tok->unk,   tok->fuse_unk,
      tok->ignore_merges, (int32_t)tok->decoder, tok->single.n,         tok->pair.n};
  uint64_t h = tfp_hash(TFPRE_VERSION / 10000, how, (int64_t)sizeof how);
  int64_t i;
  h = tfp_hash(h, tok->single.piece, tok->single.n * (int64_t)sizeof *tok->single.piece);
  h = tfp_hash(h, tok->pair.piece, tok->pair.n * (int64_t)sizeof *tok->pair.piece);
  h = tfp_hash(h, &tok->specials, (int64_t)sizeof tok->specials);
  for (i = 0; i < tok->size; i++) {
    h = tfp_hash(h, tok->tokens[i].text, tok->tokens[i].text_n);
    h = tfp_hash(h, &tok->tokens[i].flags, (int64_t)sizeof tok->tokens[i].flags);
  }
  for (i = 0; i < tok->n_merges; i++) h = tfp_hash(h, &tok->merges[i], 8);
  for (i = 0; i < tok->n_added; i++) {
    const int32_t a[4] = {tok->added[i].id, tok->added[i].lstrip, tok->added[i].rstrip,
                          tok->added[i].normalized};
    h = tfp_hash(h, a, (int64_t)sizeof a);
  }
  return h;
}

/* Indices, buffers and what follows from the rest. NULL on error, and then tok is freed. */
static tfp_tokenizer *tfpi_tokenizer_ready(tfp_tokenizer *tok) {
  tfp_ctx *ctx = tok->ctx;
  int64_t i, slots = 1024;
  int ordered = 1;
  for (i = 0; i < tok->size && !ctx->status; i++)
    if (tok->tokens[i].text) tfpi_token_raw(tok, &tok->tokens[i]);
  for (i = tok->n_added - 1; i >= 0; i--) {
    int32_t *first = &tok->added_first[(unsigned char)tok->added[i].text[0]];
    tok->added[i].next = *first;
    *first = (int32_t)i;
  }
  if (ctx->status || tfpi_index_symbols(tok) || tfpi_index_merges(tok)) {
    tfp_tokenizer_free(tok);
    return NULL;
  }
  for (i = 0; i < 256; i++) ordered &= tok->byte_id[i] == i;
  tok->kind = tok->n_merges ? TFP_TOKENIZER_BPE : !tok->byte_level ? TFP_TOKENIZER_CHARS
              : ordered && tok->pre == TFPI_PRE_WHOLE ? TFP_TOKENIZER_BYTES : TFP_TOKENIZER_BPE;
  if (tok->n_merges) { /* a cache as large as the vocabulary makes worthwhile */
    while (slots < tok->size / 2 && slots < 32768) slots *= 2;
    tok->cache_mask = (uint64_t)slots - 1;
    tok->cache = (tfpi_cached *)tfpi_new(tok->arena, slots, sizeof *tok->cache);
    if (!tok->cache) {
      tfp_tokenizer_free(tok);
      return NULL;
    }
  }
  tfpi_find_sentinels(tok);
  tok->hash = tfpi_tokenizer_mix(tok);
  return tok;
}

/* What all tokenizers that are made here, not loaded, have in common. */
static tfp_tokenizer *tfpi_tokenizer_finish(tfp_tokenizer *tok, tfp_special_style style) {
  tok->trim_offsets = 1;
  tok->decoder = tok->byte_level ? TFPI_DECODE_BYTES : TFPI_DECODE_FUSE;
  if (tfpi_added_from_flags(tok)) {
    tfp_tokenizer_free(tok);
    return NULL;
  }
  tfpi_template_style(tok, style);
  tfpi_specials_none(&tok->specials);
  tfpi_specials_by_name(tok);
  if (!tok->byte_level) tok->unk = tok->specials.unk;
  return tfpi_tokenizer_ready(tok);
}

/* The tokens of the 256 bytes: in byte order, or in that of their characters as GPT-2 has them. */
static tfp_status tfpi_add_bytes(tfp_tokenizer *tok, int by_character) {
  int i, c;
  for (i = c = 0; i < 256; i++, c++) {
    char text[4];
    if (by_character)
      while (tok->char_byte[c] < 0) c++;
    if (tfpi_token_add(
            tok, tok->size, text,
            (size_t)tfp_utf8_encode(by_character ? (uint32_t)c : tok->byte_char[i], text), "", 0,
            TFPI_IN_MODEL))
      return tok->ctx->status;
  }
  return TFP_OK;
}

static tfp_status tfpi_check_style(tfp_ctx *ctx, tfp_special_style style, const char *who) {
  if (!ctx) return TFP_ERR_NOMEM;
  if (ctx->status) return ctx->status;
  if ((int)style < 0 || style >= TFP_SPECIALS_COUNT)
    return tfpi_fail(ctx, TFP_ERR_ARG, "%s: style %d is unknown", who, (int)style);
  return TFP_OK;
}
static tfp_status tfpi_check_paths(tfp_ctx *ctx, const char *const *paths, int n, const char *who) {
  int i;
  if (!paths || n < 1) return tfpi_fail(ctx, TFP_ERR_ARG, "%s: needs at least one file", who);
  for (i = 0; i < n; i++)
    if (!paths[i]) return tfpi_fail(ctx, TFP_ERR_ARG, "%s: path %d is NULL", who, i);
  return TFP_OK;
}

TFP_API tfp_tokenizer *tfp_tokenizer_bytes(tfp_ctx *ctx, tfp_special_style style) {
  tfp_tokenizer *tok;
  if (tfpi_check_style(ctx, style, "tfp_tokenizer_bytes")) return NULL;
  tok = tfpi_tokenizer_new(ctx, 256 + tfpi_style_count(style));
  if (!tok) return NULL;
  tok->byte_level = 1;
  if (tfpi_add_bytes(tok, 0) || tfpi_style_add(tok, style, 0, 256)) {
    tfp_tokenizer_free(tok);
    return NULL;
  }
  return tfpi_tokenizer_finish(tok, style);
}

/* Marks the code points of a file in a bit per code point. */
static tfp_status tfpi_mark_chars(tfp_ctx *ctx, const char *path, uint32_t *seen, char *buffer,
                                  int64_t room) {
  tfp_file *file = tfp_file_open(ctx, path);
  int64_t offset = 0, have = 0, got = 1;
  while (file && !ctx->status && got > 0) {
    int64_t i = 0;
    got = tfp_file_read(file, buffer + have, room - have);
    if (got > 0) have += got;
    while (i < have) {
      uint32_t c = (unsigned char)buffer[i];
      const int length = c < 128 ? 1 : tfp_utf8_decode(buffer + i, have - i, &c);
      if (!length && have - i < 4 && got > 0) break; /* the rest of it comes with the next bytes */
      if (!length) {
        tfpi_fail(ctx, TFP_ERR_DATA, "tfp_tokenizer_chars: %s is not UTF-8 at byte %i", path,
                  offset + i);
        break;
      }
      seen[c >> 5] |= (uint32_t)1 << (c & 31);
      i += length;
    }
    offset += i;
    have -= i;
    memmove(buffer, buffer + i, (size_t)have);
  }
  tfp_file_close(file);
  return ctx->status;
}

static tfp_tokenizer *tfpi_chars_from(tfp_ctx *ctx, const uint32_t *seen, tfp_special_style style) {
  tfp_tokenizer *tok;
  int64_t n = 0;
  uint32_t c;
  for (c = 0; c < 0x110000 / 32; c++) n += __builtin_popcount(seen[c]);
  tok = tfpi_tokenizer_new(ctx, n + tfpi_style_count(style));
  if (!tok) return NULL;
  for (c = 0; c < 0x110000; c++)
    if (seen[c >> 5] >> (c & 31) & 1) {
      char text[4];
      if (tfpi_token_add(tok, tok->size, text, (size_t)tfp_utf8_encode(c, text), "", 0,
                         TFPI_IN_MODEL))
        break;
    }
  if (ctx->status || tfpi_style_add(tok, style, 0, 256)) {
    tfp_tokenizer_free(tok);
    return NULL;
  }
  return tfpi_tokenizer_finish(tok, style);
}

TFP_API tfp_tokenizer *tfp_tokenizer_chars(tfp_ctx *ctx, const char *const *paths, int n,
                                           tfp_special_style style) {
  tfp_tokenizer *tok = NULL;
  tfpi_arena work;
  uint32_t *seen;
  char *buffer;
  int i;
  if (tfpi_check_style(ctx, style, "tfp_tokenizer_chars")) return NULL;
  if (tfpi_check_paths(ctx, paths, n, "tfp_tokenizer_chars")) return NULL;
  tfpi_arena_open(ctx, &work);
  seen = (uint32_t *)tfpi_new(&work, 0x110000 / 32, sizeof *seen);
  buffer = (char *)tfpi_new(&work, 65536, 1);
  for (i = 0; i < n && !ctx->status; i++) tfpi_mark_chars(ctx, paths[i], seen, buffer, 65536);
  if (!ctx->status) tok = tfpi_chars_from(ctx, seen, style);
  tfpi_arena_close(&work);
  return tok;
}

/* ---- accessors ---- */

TFP_API int64_t tfp_vocab_size(const tfp_tokenizer *tok) { return tok ? tok->size : 0; }
TFP_API int32_t tfp_token_id(const tfp_tokenizer *tok, const char *text) {
  return tok && text ? tfpi_token_find(tok, text, strlen(text), "", 0) : -1;
}
TFP_API const char *tfp_token_text(const tfp_tokenizer *tok, int32_t id) {
  return tok && id >= 0 && id < tok->size ? tok->tokens[id].text : NULL;
}
TFP_API const char *tfp_token_bytes(const tfp_tokenizer *tok, int32_t id, int64_t *bytes) {
  if (bytes) *bytes = 0;
  if (!tok || id < 0 || id >= tok->size || !tok->tokens[id].text) return NULL;
  if (bytes) *bytes = tok->tokens[id].raw_n;
  return tok->tokens[id].raw;
}
TFP_API int tfp_token_is_special(const tfp_tokenizer *tok, int32_t id) {
  return tok && id >= 0 && id < tok->size && (tok->tokens[id].flags & TFPI_IS_SPECIAL) != 0;
}
TFP_API tfp_special_ids tfp_tokenizer_specials(const tfp_tokenizer *tok) {
  tfp_special_ids none;
  tfpi_specials_none(&none);
  return tok ? tok->specials : none;
}
TFP_API tfp_tokenizer_kind tfp_tokenizer_type(const tfp_tokenizer *tok) {
  return tok ? tok->kind : TFP_TOKENIZER_BYTES;
}
TFP_API const char *tfp_tokenizer_name(const tfp_tokenizer *tok) {
  static const char *const names[] = {"bytes", "chars", "bpe"};
  return tok ? names[tok->kind] : "none";
}
TFP_API uint64_t tfp_tokenizer_hash(const tfp_tokenizer *tok) { return tok ? tok->hash : 0; }

/* ---- pre-tokenizers: where the word that starts at s[i] ends ---- */

/* End of the run of characters of class k that goes on at i. */
TFPI_INLINE int64_t tfpi_run_end(const tfp_tokenizer *tok, const char *s, int64_t i, int64_t n,
                                 int k) {
  while (i < n) {
    int length;
    if (tfpi_class_at(tok, s + i, n - i, &length) != k) break;
    i += length;
  }
  return i;
}

/* White space from i on: all of it at the end of the text, else without its last character, which
 * belongs to the next word; a single character stays. */
static int64_t tfpi_space_end(const tfp_tokenizer *tok, const char *s, int64_t i, int64_t n) {
  int64_t last = i, at = i;
  while (at < n) {
    int length;
    if (tfpi_class_at(tok, s + at, n - at, &length) != TFPI_SPACE) return last > i ? last : at;
    last = at;
    at += length;
  }
  return n;
}

/* GPT-2's rule: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static int64_t tfpi_gpt2_word(const tfp_tokenizer *tok, const char *s, int64_t i, int64_t n) {
  int k, length;
  if (s[i] == '\'' && i + 1 < n) {
    const char a = s[i + 1], b = i + 2 < n ? s[i + 2] : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
  }
  if (s[i] == ' ' && i + 1 < n) {
    k = tfpi_class_at(tok, s + i + 1, n - i - 1, &length);
    if (k != TFPI_SPACE) return tfpi_run_end(tok, s, i + 1 + length, n, k);
  }
  k = tfpi_class_at(tok, s + i, n - i, &length);
  return k == TFPI_SPACE ? tfpi_space_end(tok, s, i, n) : tfpi_run_end(tok, s, i + length, n, k);
}

/* What BLOOM's rule excludes from words besides white space. */
static int tfpi_bloom_sign(const char *s, int64_t n, int *length) {
  static const uint16_t signs[] = {'(',    ')',    '|',    '.',    ',',   '!',   '?',
                                   0x2026, 0x3002, 0xFF0C, 0x3001, 0x964, 0x6D4, 0x60C};
  uint32_t c;
  int i;
  *length = tfp_utf8_decode(s, n, &c);
  if (!*length) c = 0xFFFD, *length = 1;
  for (i = 0; i < TFPI_COUNT(signs); i++)
    if (c == signs[i]) return 1;
  return 0;
}
static int tfpi_bloom_member(const tfp_tokenizer *tok, const char *s, int64_t n, int *length) {
  if (n < 1) return 0;
  return tfpi_class_at(tok, s, n, length) != TFPI_SPACE && !tfpi_bloom_sign(s, n, length);
}

/* BLOOM's rule: a blank or none, then characters that are neither white space nor signs; what lies
 * between such words is one word too. */
static int64_t tfpi_bloom_word(const tfp_tokenizer *tok, const char *s, int64_t i, int64_t n) {
  const int64_t start = i;
  int length = 1;
  for (; i < n; i += length) {
    int64_t at = i + (s[i] == ' ');
    if (tfpi_bloom_member(tok, s + at, n - at, &length)) {
      if (i > start) return i;
      while (tfpi_bloom_member(tok, s + at, n - at, &length)) at += length;
      return at;
    }
    tfpi_class_at(tok, s + i, n - i, &length);
  }
  return n;
}

/* A place in s[0,n), near the end, where the words before and after do not depend on each other; 0
 * if there is none. With parse, an added token is not cut and keeps the blanks that belong to it.
 * */
static int64_t tfpi_safe_cut(const tfp_tokenizer *tok, const char *s, int64_t n, int parse) {
  int64_t p;
  int length, back, i;
  if (tok->pre == TFPI_PRE_WHOLE && (tok->n_merges || tok->fuse_unk || tok->ignore_merges))
    return 0;
  if (tok->pre == TFPI_PRE_WHOLE && !parse) {
    for (p = n; p > 0 && n - p < 3 && ((unsigned char)s[p - 1] & 0xC0) == 0x80; p--) continue;
    return p > 0 ? p - 1 : 0; /* before the last character, which may not be complete */
  }
  for (p = n - 1; p > 0; p--) {
    if (s[p] != ' ' && (s[p] != '\n' || tok->add_prefix_space || tok->pre == TFPI_PRE_BLOOM))
      continue;
    for (back = 1; back < 4 && back < p && ((unsigned char)s[p - back] & 0xC0) == 0x80; back++)
      continue;
    if (tfpi_class_at(tok, s + p - back, back, &length) == TFPI_SPACE) continue;
    if (tok->pre == TFPI_PRE_BLOOM && !tfpi_bloom_member(tok, s + p - back, back, &length))
      continue;
    for (i = 0; parse && i < tok->n_added; i++)
      if (tok->added[i].rstrip && p >= tok->added[i].n &&
          !memcmp(s + p - tok->added[i].n, tok->added[i].text, (size_t)tok->added[i].n))
        break;
    if (!parse || i == tok->n_added) return p;
  }
  return 0;
}

/* ---- the model: a word to ids ---- */

/* Where ids go. types may be NULL; n counts on beyond max. */
typedef struct tfpi_ids { int32_t *at, *types; int64_t max, n; int32_t type; } tfpi_ids;
TFPI_INLINE void tfpi_put_id(tfpi_ids *out, int32_t id) {
  if (out->n < out->max) {
    out->at[out->n] = id;
    if (out->types) out->types[out->n] = out->type;
  }
  out->n++;
}

/* Scratch for words of up to n symbols. */
static tfp_status tfpi_tokenizer_scratch(tfp_tokenizer *tok, int64_t n) {
  int64_t room = 1024;
  if (n <= tok->scratch_n) return TFP_OK;
  while (room < n) room *= 2;
  tok->scratch_n = 0;
  tfpi_arena_close(tok->scratch);
  tfpi_arena_open(tok->ctx, tok->scratch);
  tok->symbols = (int32_t *)tfpi_new(tok->scratch, room + 1, sizeof *tok->symbols);
  tok->before = (int32_t *)tfpi_new(tok->scratch, room + 1, sizeof *tok->before);
  tok->after = (int32_t *)tfpi_new(tok->scratch, room + 1, sizeof *tok->after);
  tok->heap = (uint64_t *)tfpi_new(tok->scratch, 2 * room + 2, sizeof *tok->heap);
  tok->prefixed = (char *)tfpi_new(tok->scratch, room + 1, 1);
  if (!tok->ctx->status) tok->scratch_n = room;
  return tok->ctx->status;
}

static tfp_status tfpi_no_symbol(tfp_tokenizer *tok, const char *s, int64_t n, int64_t offset) {
  char c[8];
  uint32_t code = 0;
  int length = tfp_utf8_decode(s, n, &code);
  if (tok->byte_level)
    return tfpi_fail(tok->ctx, TFP_ERR_DATA,
                     "tfp_encode: the vocabulary lacks byte %d, which is at byte %i of the text",
                     (int)(unsigned char)*s, offset);
  if (!length)
    return tfpi_fail(tok->ctx, TFP_ERR_DATA, "tfp_encode: the text is not UTF-8 at byte %i",
                     offset);
  memcpy(c, s, (size_t)length);
  c[length] = 0;
  return tfpi_fail(tok->ctx, TFP_ERR_DATA,
                   "tfp_encode: the vocabulary lacks '%s' (code point %u) at byte %i of the text",
                   c, (uint64_t)code, offset);
}

/* First symbol at *s, which moves on; -1 (and an error) if there is none and no unk token. */
TFPI_INLINE int32_t tfpi_symbol(tfp_tokenizer *tok, const char **s, const char *end,
                                int64_t offset) {
  int32_t id = -1;
  int length = 1;
  if (tok->byte_level) id = tok->byte_id[(unsigned char)**s];
  else {
    uint32_t c = (unsigned char)**s;
    if (c >= 128) length = tfp_utf8_decode(*s, end - *s, &c);
    if (length && tok->char_pages[c >> 8]) id = tok->char_pages[c >> 8][c & 255];
  }
  if (id < 0) id = length ? tok->unk : -1;
  if (id < 0) tfpi_no_symbol(tok, *s, end - *s, offset);
  *s += length;
  return id;
}

/* Symbols of a word; how many, or -1. */
static int64_t tfpi_symbols(tfp_tokenizer *tok, const char *s, int64_t n, int64_t offset,
                            int32_t *out) {
  const char *at = s, *end = s + n;
  int64_t count = 0;
  while (at < end) {
    const int32_t id = tfpi_symbol(tok, &at, end, offset + (at - s));
    if (id < 0) return -1;
    if (tok->fuse_unk && id == tok->unk && count && out[count - 1] == id) continue;
    out[count++] = id;
  }
  return count;
}

/* Merges the best-ranked pair, the leftmost of equals, while there is one. Returns what is left. */
static int64_t tfpi_merge_few(const tfp_tokenizer *tok, int32_t *id, int64_t n) {
  const tfpi_merge_entry *pair[TFPI_FEW]; /* of symbols i and i+1 */
  int64_t i;
  for (i = 0; i + 1 < n; i++) pair[i] = tfpi_merge_find(tok, id[i], id[i + 1]);
  for (;;) {
    uint32_t best = UINT32_MAX;
    int64_t at = -1;
    for (i = 0; i + 1 < n; i++)
      if (pair[i] && pair[i]->rank < best) best = pair[i]->rank, at = i;
    if (at < 0) return n;
    id[at] = (int32_t)pair[at]->id;
    n--;
    for (i = at + 1; i < n; i++) id[i] = id[i + 1];
    for (i = at + 1; i + 1 < n; i++) pair[i] = pair[i + 1];
    if (at + 1 < n) pair[at] = tfpi_merge_find(tok, id[at], id[at + 1]);
    if (at > 0) pair[at - 1] = tfpi_merge_find(tok, id[at - 1], id[at]);
  }
}

static void tfpi_heap_sink(uint64_t *heap, int64_t n, int64_t i) {
  const uint64_t x = heap[i];
  for (;;) {
    int64_t child = 2 * i + 1;
    if (child >= n) break;
    if (child + 1 < n && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= x) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = x;
}
static void tfpi_heap_rise(uint64_t *heap, int64_t i) {
  const uint64_t x = heap[i];
  for (; i > 0 && heap[(i - 1) / 2] > x; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
  heap[i] = x;
}

/* The same for tok->symbols[0,n), with a heap of (rank, position): an entry whose pair has changed
 * since has another rank than the pair that is there now. */
static int64_t tfpi_merge_many(tfp_tokenizer *tok, int64_t n) {
  int32_t *id = tok->symbols, *before = tok->before, *after = tok->after;
  uint64_t *heap = tok->heap;
  int64_t i, size = 0, left = 0;
  for (i = 0; i < n; i++) {
    const tfpi_merge_entry *e = i + 1 < n ? tfpi_merge_find(tok, id[i], id[i + 1]) : NULL;
    before[i] = (int32_t)i - 1, after[i] = (int32_t)i + 1;
    if (e) heap[size++] = (uint64_t)e->rank << 32 | (uint64_t)i;
  }
  for (i = size / 2 - 1; i >= 0; i--) tfpi_heap_sink(heap, size, i);
  while (size) {
    const int64_t at = (int64_t)(heap[0] & UINT32_MAX), rank = (int64_t)(heap[0] >> 32);
    const tfpi_merge_entry *e = NULL;
    int64_t next;
    heap[0] = heap[--size];
    if (size) tfpi_heap_sink(heap, size, 0);
    if (id[at] < 0 || after[at] >= n) continue;
    next = after[at];
    e = tfpi_merge_find(tok, id[at], id[next]);
    if (!e || (int64_t)e->rank != rank) continue;
    id[at] = (int32_t)e->id;
    id[next] = -1;
    after[at] = after[next];
    if (after[at] < n) {
      before[after[at]] = (int32_t)at;
      e = tfpi_merge_find(tok, id[at], id[after[at]]);
      if (e) heap[size] = (uint64_t)e->rank << 32 | (uint64_t)at, tfpi_heap_rise(heap, size++);
    }
    if (before[at] >= 0) {
      e = tfpi_merge_find(tok, id[before[at]], id[at]);
      if (e)
        heap[size] = (uint64_t)e->rank << 32 | (uint64_t)before[at], tfpi_heap_rise(heap, size++);
    }
  }
  for (i = 0; i < n; i = after[i]) id[left++] = id[i];
  return left;
}

/* With ignore_merges: the id of a word that is a token as a whole; -1 if it is none. */
static int32_t tfpi_whole_word(const tfp_tokenizer *tok, const char *s, int64_t n) {
  char text[512];
  size_t bytes = 0;
  int64_t i;
  int32_t id;
  if (!tok->byte_level) id = tfpi_token_find(tok, s, (size_t)n, "", 0);
  else {
    if (n > 256) return -1;
    for (i = 0; i < n; i++)
      bytes += (size_t)tfp_utf8_encode(tok->byte_char[(unsigned char)s[i]], text + bytes);
    id = tfpi_token_find(tok, text, bytes, "", 0);
  }
  return id >= 0 && tok->tokens[id].flags & TFPI_IN_MODEL ? id : -1;
}

static tfp_status tfpi_word_uncached(tfp_tokenizer *tok, tfpi_ids *out, const char *s, int64_t n,
                                     int64_t offset, tfpi_cached *keep) {
  int32_t few[TFPI_FEW], *id = few;
  int64_t count, i;
  if (tok->ignore_merges && (few[0] = tfpi_whole_word(tok, s, n)) >= 0) count = 1;
  else {
    if (n > TFPI_FEW) {
      if (tfpi_tokenizer_scratch(tok, n)) return tok->ctx->status;
      id = tok->symbols;
    }
    count = tfpi_symbols(tok, s, n, offset, id);
    if (count < 0) return tok->ctx->status;
    if (n > TFPI_FEW) count = tfpi_merge_many(tok, count);
    else count = tfpi_merge_few(tok, id, count);
  }
  for (i = 0; i < count; i++) tfpi_put_id(out, id[i]);
  if (!keep || count > TFPI_CACHE_IDS) return TFP_OK;
  memset(keep->key, 0, sizeof keep->key);
  memcpy(keep->key, s, (size_t)n);
  keep->key[22] = (char)count;
  keep->key[23] = (char)n;
  memcpy(keep->ids, id, (size_t)count * sizeof *id);
  return TFP_OK;
}

/* A word of any length. Slots 2i and 2i+1 of the cache are for the same words: a new one comes
 * first and pushes the older one to the second place. */
static tfp_status tfpi_word(tfp_tokenizer *tok, tfpi_ids *out, const char *s, int64_t n,
                            int64_t offset) {
  char key[24];
  uint64_t w[3], h;
  tfpi_cached *slot;
  int i, k;
  if (n > TFPI_CACHE_TEXT || !tok->cache) {
    while (n > TFPI_PIECE_MAX) {
      int64_t part = TFPI_PIECE_MAX;
      while (part > TFPI_PIECE_MAX - 4 && ((unsigned char)s[part] & 0xC0) == 0x80) part--;
      if (tfpi_word_uncached(tok, out, s, part, offset, NULL)) return tok->ctx->status;
      s += part, n -= part, offset += part;
    }
    return tfpi_word_uncached(tok, out, s, n, offset, NULL);
  }
  memset(key, 0, sizeof key);
  memcpy(key, s, (size_t)n);
  memcpy(w, key, sizeof w);
  h = (w[0] ^ w[1] * 0x9E3779B97F4A7C15u ^ w[2] * 0xC2B2AE3D27D4EB4Fu ^ (uint64_t)n) *
      0xBF58476D1CE4E5B9u;
  slot = &tok->cache[(h >> 32) & tok->cache_mask & ~(uint64_t)1];
  for (k = 0; k < 2; k++)
    if (slot[k].key[23] == (char)n && !memcmp(slot[k].key, key, 22)) {
      for (i = 0; i < slot[k].key[22]; i++) tfpi_put_id(out, slot[k].ids[i]);
      return TFP_OK;
    }
  slot[1] = slot[0];
  slot[0].key[23] = 0;
  return tfpi_word_uncached(tok, out, s, n, offset, &slot[0]);
}

/* ---- the pipeline ---- */

/* The first word of a piece that gets a blank in front: where it ends. */
static int64_t tfpi_first_word(const tfp_tokenizer *tok, const char *s, int64_t n) {
  int length, k = tfpi_class_at(tok, s, n, &length);
  int64_t at = 0, last = 0;
  if (tok->pre == TFPI_PRE_WHOLE) return n;
  if (k != TFPI_SPACE) return tfpi_run_end(tok, s, length, n, k);
  for (; at < n && tfpi_class_at(tok, s + at, n - at, &length) == TFPI_SPACE; at += length)
    last = at;
  return at == n ? n : last; /* all blanks but the last, which belongs to the next word */
}

/* Text without added tokens. */
static tfp_status tfpi_encode_gap(tfp_tokenizer *tok, tfpi_ids *out, const char *s, int64_t n,
                                  int64_t offset, int may_prefix) {
  const int prefix = may_prefix && tok->add_prefix_space && n && s[0] != ' ';
  int64_t i = 0, end;
  if (!tok->n_merges && !tok->ignore_merges &&
      !tok->fuse_unk) { /* bytes, characters: words do not matter */
    const char *at = s, *blank = " ";
    const int32_t id = prefix ? tfpi_symbol(tok, &blank, blank + 1, offset) : 0;
    if (prefix) tfpi_put_id(out, id);
    while (at < s + n && !tok->ctx->status)
      tfpi_put_id(out, tfpi_symbol(tok, &at, s + n, offset + (at - s)));
    return tok->ctx->status;
  }
  if (prefix) {
    i = tfpi_min64(tfpi_first_word(tok, s, n), TFPI_PIECE_MAX - 1);
    if (tfpi_tokenizer_scratch(tok, i + 1)) return tok->ctx->status;
    tok->prefixed[0] = ' ';
    memcpy(tok->prefixed + 1, s, (size_t)i);
    if (tfpi_word(tok, out, tok->prefixed, i + 1, offset - 1)) return tok->ctx->status;
  }
  for (; i < n; i = end) {
    end = tok->pre == TFPI_PRE_GPT2 ? tfpi_gpt2_word(tok, s, i, n)
          : tok->pre == TFPI_PRE_BLOOM ? tfpi_bloom_word(tok, s, i, n) : n;
    if (tfpi_word(tok, out, s + i, end - i, offset + i)) return tok->ctx->status;
  }
  return TFP_OK;
}

/* The longest added token (of those with this `normalized`) at s, or NULL. */
static const tfpi_added *tfpi_added_at(const tfp_tokenizer *tok, const char *s, int64_t n,
                                       int normalized) {
  const tfpi_added *best = NULL;
  int32_t i;
  for (i = tok->added_first[(unsigned char)*s]; i >= 0; i = tok->added[i].next) {
    const tfpi_added *a = &tok->added[i];
    if (a->normalized == normalized && a->n <= n && (!best || a->n > best->n) &&
        !memcmp(a->text, s, (size_t)a->n))
      best = a;
  }
  return best;
}

/* Cuts added tokens out: those of the raw text (pass 0), then, between these, those of normalised
 * text (pass 1); pass 2 is what lies between them all. A normaliser would work between 0 and 1. */
static tfp_status tfpi_encode_text(tfp_tokenizer *tok, tfpi_ids *out, const char *s, int64_t n,
                                   int64_t offset, int pass, int may_prefix) {
  int64_t start = 0, i = 0;
  if (pass == 2) return tfpi_encode_gap(tok, out, s, n, offset, may_prefix);
  while (i < n) {
    const tfpi_added *a =
        tok->added_first[(unsigned char)s[i]] < 0 ? NULL : tfpi_added_at(tok, s + i, n - i, pass);
    int64_t from = i, to;
    int length, back;
    if (!a) {
      i++;
      continue;
    }
    to = i + a->n;
    while (a->lstrip && from > start) { /* blanks before it, back to the token before */
      for (back = 1;
           back < 4 && back < from - start && ((unsigned char)s[from - back] & 0xC0) == 0x80;
           back++)
        continue;
      if (tfpi_class_at(tok, s + from - back, back, &length) != TFPI_SPACE || length != back) break;
      from -= back;
    }
    while (a->rstrip && to < n && tfpi_class_at(tok, s + to, n - to, &length) == TFPI_SPACE)
      to += length;
    if (from > start && tfpi_encode_text(tok, out, s + start, from - start, offset + start,
                                         pass + 1, may_prefix || start > 0))
      return tok->ctx->status;
    tfpi_put_id(out, a->id);
    start = i = to;
  }
  if (start == n) return TFP_OK;
  return tfpi_encode_text(tok, out, s + start, n - start, offset + start, pass + 1,
                          may_prefix || start > 0);
}

static tfp_status tfpi_encode_part(tfp_tokenizer *tok, tfpi_ids *out, const char *s, int64_t n,
                                   int flags) {
  return tfpi_encode_text(tok, out, s, n, 0, flags & TFP_PARSE_SPECIAL ? 0 : 2, 1);
}

static int64_t tfpi_encode(tfp_tokenizer *tok, const char *a, int64_t an, const char *b, int64_t bn,
                           int with_b, int flags, tfpi_ids *out) {
  const tfpi_template *t = with_b ? &tok->pair : &tok->single;
  int i;
  if (an < 0 || bn < 0 || (!a && an) || (!b && bn) || out->max < 0 || (!out->at && out->max) ||
      flags & ~(TFP_ADD_SPECIAL | TFP_PARSE_SPECIAL)) {
    tfpi_fail(tok->ctx, TFP_ERR_ARG,
              "tfp_encode: a text or a place for ids is missing, or flags %d are unknown", flags);
    return -1;
  }
  if (!(flags & TFP_ADD_SPECIAL) || !t->n) {
    tfpi_encode_part(tok, out, a, an, flags);
    out->type = 1;
    if (with_b && !tok->ctx->status) tfpi_encode_part(tok, out, b, bn, flags);
  } else {
    for (i = 0; i < t->n && !tok->ctx->status; i++) {
      out->type = t->piece[i].type;
      if (t->piece[i].id == TFPI_TEXT_A) tfpi_encode_part(tok, out, a, an, flags);
      else if (t->piece[i].id == TFPI_TEXT_B) tfpi_encode_part(tok, out, b, bn, flags);
      else tfpi_put_id(out, t->piece[i].id);
    }
  }
  return tok->ctx->status ? -1 : out->n;
}

TFP_API int64_t tfp_encode(tfp_tokenizer *tok, const char *text, int64_t bytes, int flags,
                           int32_t *ids, int64_t max) {
  tfpi_ids out;
  if (!tok || tok->ctx->status) return -1;
  memset(&out, 0, sizeof out);
  out.at = ids, out.max = max;
  return tfpi_encode(tok, text, bytes, NULL, 0, 0, flags, &out);
}
TFP_API int64_t tfp_encode_pair(tfp_tokenizer *tok, const char *a, int64_t a_bytes, const char *b,
                                int64_t b_bytes, int flags, int32_t *ids, int32_t *types,
                                int64_t max) {
  tfpi_ids out;
  if (!tok || tok->ctx->status) return -1;
  memset(&out, 0, sizeof out);
  out.at = ids, out.types = types, out.max = max;
  return tfpi_encode(tok, a, a_bytes, b, b_bytes, 1, flags, &out);
}

/* ---- decoding ---- */

/* Bytes to a place of limited size; with replace, through a check of UTF-8. */
typedef struct tfpi_out { char *at; int64_t max, n; int replace, held; char hold[4]; } tfpi_out;
static void tfpi_out_add(tfpi_out *o, const char *s, int64_t n) {
  if (o->n < o->max && n) memcpy(o->at + o->n, s, (size_t)tfpi_min64(n, o->max - o->n));
  o->n += n;
}

/* How many of the bytes of s are the beginning of some code point; at least 1. */
static int tfpi_utf8_prefix(const char *s, int n) {
  const int a = (unsigned char)s[0], b = n > 1 ? (unsigned char)s[1] : 0;
  const int low = a == 0xE0   ? 0xA0
                  : a == 0xF0 ? 0x90
                              : 0x80,
            high = a == 0xED   ? 0x9F
                   : a == 0xF4 ? 0x8F
                               : 0xBF;
  if (a < 0xC2 || a > 0xF4 || n < 2 || b < low || b > high) return 1;
  if (a < 0xE0 || n < 3 || ((unsigned char)s[2] & 0xC0) != 0x80) return 2;
  return a < 0xF0 || n < 4 || ((unsigned char)s[3] & 0xC0) != 0x80 ? 3 : 4;
}

/* Lets out what of the held bytes is decided: code points, and U+FFFD for each broken beginning. */
static void tfpi_out_decide(tfpi_out *o, int at_end) {
  while (o->held) {
    uint32_t c;
    int k = tfp_utf8_decode(o->hold, o->held, &c);
    if (k) tfpi_out_add(o, o->hold, k);
    else {
      const int a = (unsigned char)o->hold[0];
      k = tfpi_utf8_prefix(o->hold, o->held);
      if (k == o->held && !at_end && a >= 0xC2 && a <= 0xF4) return;
      tfpi_out_add(o, "\xEF\xBF\xBD", 3);
    }
    o->held -= k;
    memmove(o->hold, o->hold + k, (size_t)o->held);
  }
}
static void tfpi_out_text(tfpi_out *o, const char *s, int64_t n) {
  int64_t i;
  if (!o->replace) tfpi_out_add(o, s, n);
  else
    for (i = 0; i < n; i++) {
      o->hold[o->held++] = s[i];
      tfpi_out_decide(o, 0);
    }
}

TFP_API int64_t tfp_decode(tfp_tokenizer *tok, const int32_t *ids, int64_t n, int flags, char *out,
                           int64_t max) {
  tfpi_out o;
  int64_t i;
  int any = 0;
  if (!tok || tok->ctx->status) return -1;
  if (n < 0 || (!ids && n) || max < 0 || (!out && max) ||
      flags & ~(TFP_SKIP_SPECIAL | TFP_REPLACE_INVALID)) {
    tfpi_fail(tok->ctx, TFP_ERR_ARG,
              "tfp_decode: ids or a place for the text are missing, or flags %d are unknown",
              flags);
    return -1;
  }
  memset(&o, 0, sizeof o);
  o.at = out, o.max = max, o.replace = flags & TFP_REPLACE_INVALID;
  for (i = 0; i < n; i++) {
    const tfpi_token *t = ids[i] >= 0 && ids[i] < tok->size ? &tok->tokens[ids[i]] : NULL;
    if (!t || !t->text) {
      tfpi_fail(tok->ctx, TFP_ERR_DATA,
                "tfp_decode: id %d at place %i is not in the vocabulary of %i", (int)ids[i], i,
                tok->size);
      return -1;
    }
    if (flags & TFP_SKIP_SPECIAL && t->flags & TFPI_IS_SPECIAL) continue;
    if (any && tok->decoder == TFPI_DECODE_JOIN) tfpi_out_text(&o, " ", 1);
    tfpi_out_text(&o, t->raw, t->raw_n);
    any = 1;
  }
  tfpi_out_decide(&o, 1);
  if (o.n < max) out[o.n] = 0;
  return o.n;
}

/* ---- texts in pieces ---- */

struct tfp_encoder {
  tfp_tokenizer *tok;
  tfp_encoder *next;
  tfpi_arena *arena; /* it lies in this */
  int flags, started;
  tfp_status (*emit)(void *user, const int32_t *ids, int64_t n);
  void *user;
  char *text;
  int32_t *ids;
  int64_t n, done, room; /* bytes in text; bytes of the whole text before them; of ids */
};

TFP_API tfp_encoder *tfp_encoder_new(tfp_tokenizer *tok, int flags,
                                     tfp_status (*emit)(void *user, const int32_t *ids, int64_t n),
                                     void *user) {
  tfp_encoder *enc;
  tfpi_arena *arena;
  int32_t i, k;
  if (!tok || tok->ctx->status) return NULL;
  if (!emit || flags & ~(TFP_ADD_SPECIAL | TFP_PARSE_SPECIAL)) {
    tfpi_fail(tok->ctx, TFP_ERR_ARG, "tfp_encoder_new: emit is NULL or flags %d are unknown",
              flags);
    return NULL;
  }
  for (i = 0; flags & TFP_PARSE_SPECIAL && i < tok->n_added; i++)
    for (k = 0; k < tok->added[i].n; k++)
      if (tok->added[i].text[k] == ' ' || tok->added[i].text[k] == '\n') {
        tfpi_fail(tok->ctx, TFP_ERR_UNSUPPORTED,
                  "tfp_encoder_new: the token '%s' has white space in it, so that texts "
                  "in pieces cannot be searched for it",
                  tok->added[i].text);
        return NULL;
      }
  arena = tfpi_arena_borrow(tok->ctx);
  enc = arena ? (tfp_encoder *)tfpi_new(arena, 1, sizeof *enc) : NULL;
  if (!enc) return NULL;
  enc->tok = tok, enc->flags = flags, enc->emit = emit, enc->user = user;
  enc->arena = arena;
  enc->next = tok->encoders;
  tok->encoders = enc;
  enc->text = (char *)tfpi_new(enc->arena, TFPI_PIECE_MAX, 1);
  enc->room = TFPI_PIECE_MAX * (tok->add_prefix_space ? 2 : 1) +
              TFPI_TEMPLATE_MAX; /* at most an id a byte */
  enc->ids = (int32_t *)tfpi_new(enc->arena, enc->room, sizeof *enc->ids);
  if (!tok->ctx->status) return enc;
  tfp_encoder_free(enc);
  return NULL;
}

TFP_API void tfp_encoder_free(tfp_encoder *enc) {
  tfp_encoder **at;
  if (!enc) return;
  for (at = &enc->tok->encoders; *at; at = &(*at)->next)
    if (*at == enc) { *at = enc->next; break; }
  tfpi_arena_return(enc->arena);
}

static void tfpi_encoder_restart(tfp_encoder *enc) {
  enc->n = enc->done = 0;
  enc->started = 0;
}

/* Emits the template's ids before (side 0) or behind (side 1) the text. */
static void tfpi_encoder_template(tfp_encoder *enc, tfpi_ids *out, int side) {
  const tfpi_template *t = &enc->tok->single;
  int i, after = 0;
  for (i = 0; enc->flags & TFP_ADD_SPECIAL && i < t->n; i++) {
    if (t->piece[i].id == TFPI_TEXT_A) after = 1;
    else if (after == side) tfpi_put_id(out, t->piece[i].id);
  }
}

/* Encodes and emits the first n bytes that are held. */
static tfp_status tfpi_encoder_flush(tfp_encoder *enc, int64_t n, int last) {
  tfp_ctx *ctx = enc->tok->ctx;
  tfpi_ids out;
  tfp_status said;
  memset(&out, 0, sizeof out);
  out.at = enc->ids, out.max = enc->room;
  if (!enc->started) tfpi_encoder_template(enc, &out, 0);
  tfpi_encode_text(enc->tok, &out, enc->text, n, enc->done, enc->flags & TFP_PARSE_SPECIAL ? 0 : 2,
                   !enc->started);
  if (last) tfpi_encoder_template(enc, &out, 1);
  enc->started = 1;
  enc->done += n;
  enc->n -= n;
  memmove(enc->text, enc->text + n, (size_t)enc->n);
  if (ctx->status || !out.n) return ctx->status;
  said = enc->emit(enc->user, enc->ids, out.n);
  if (said && !ctx->status) tfpi_fail(ctx, said, "tfp_encoder: stopped by its callback");
  return ctx->status;
}

TFP_API tfp_status tfp_encoder_feed(tfp_encoder *enc, const char *text, int64_t bytes) {
  tfp_ctx *ctx;
  if (!enc) return TFP_ERR_ARG;
  ctx = enc->tok->ctx;
  if (bytes < 0 || (!text && bytes))
    tfpi_fail(ctx, TFP_ERR_ARG, "tfp_encoder_feed: the text is missing");
  while (bytes > 0 && !ctx->status) {
    const int64_t take = tfpi_min64(bytes, TFPI_PIECE_MAX - enc->n);
    memcpy(enc->text + enc->n, text, (size_t)take);
    enc->n += take, text += take, bytes -= take;
    if (enc->n == TFPI_PIECE_MAX) {
      int64_t cut = tfpi_safe_cut(enc->tok, enc->text, enc->n, enc->flags & TFP_PARSE_SPECIAL);
      if (!cut) /* at least not inside a character */
        for (cut = enc->n - 1; cut > enc->n - 4 && ((unsigned char)enc->text[cut] & 0xC0) == 0x80;
             cut--)
          continue;
      tfpi_encoder_flush(enc, cut, 0);
    }
  }
  if (ctx->status) tfpi_encoder_restart(enc);
  return ctx->status;
}

TFP_API tfp_status tfp_encoder_end(tfp_encoder *enc) {
  if (!enc) return TFP_ERR_ARG;
  if (!enc->tok->ctx->status) tfpi_encoder_flush(enc, enc->n, 1);
  tfpi_encoder_restart(enc);
  return enc->tok->ctx->status;
}

/* ---- loading ---- */

static int tfpi_text_is(const tfp_json *v, const char *text) {
  return v && v->type == TFP_JSON_STRING && !strcmp(v->text, text);
}
/* A member that is there and not null. */
static const tfp_json *tfpi_member(const tfp_json *object, const char *key) {
  const tfp_json *v = tfp_json_get(object, key);
  return v && v->type != TFP_JSON_NULL ? v : NULL;
}
static const char *tfpi_type_of(const tfp_json *v) {
  return tfp_json_get_text(v, "type", "(no type)");
}
static tfp_status tfpi_refuse(tfp_tokenizer *tok, const char *stage, const char *what) {
  return tfpi_fail(tok->ctx, TFP_ERR_UNSUPPORTED, "tfp_tokenizer_load: the %s %s is not supported",
                   stage, what);
}

/* Enters two tokens and their sum, as they stand in a line of merges. */
static tfp_status tfpi_merge_put(tfp_tokenizer *tok, const char *a, size_t an, const char *b,
                                 size_t bn) {
  const int32_t left = tfpi_token_find(tok, a, an, "", 0),
                right = tfpi_token_find(tok, b, bn, "", 0);
  const int32_t sum = tfpi_token_find(tok, a, an, b, bn);
  tfpi_merge_entry *m = &tok->merges[tok->n_merges];
  if (left < 0 || right < 0 || sum < 0)
    return tfpi_fail(tok->ctx, TFP_ERR_FORMAT,
                     "tfp_tokenizer_load: merge %i needs a token that the vocabulary lacks",
                     tok->n_merges);
  m->left = (uint32_t)left, m->right = (uint32_t)right, m->id = (uint32_t)sum,
  m->rank = (uint32_t)tok->n_merges++;
  return TFP_OK;
}
/* The same from "a b". */
static tfp_status tfpi_merge_line(tfp_tokenizer *tok, const char *s, int64_t n) {
  const char *blank = (const char *)memchr(s, ' ', (size_t)n);
  const size_t an = blank ? (size_t)(blank - s) : 0;
  if (!blank || !an || an + 1 == (size_t)n || memchr(blank + 1, ' ', (size_t)n - an - 1))
    return tfpi_fail(tok->ctx, TFP_ERR_FORMAT,
                     "tfp_tokenizer_load: merge %i is not two tokens with a blank between",
                     tok->n_merges);
  return tfpi_merge_put(tok, s, an, blank + 1, (size_t)n - an - 1);
}
static tfp_status tfpi_merges_json(tfp_tokenizer *tok, const tfp_json *merges) {
  const tfp_json *m;
  if (!merges || merges->type != TFP_JSON_ARRAY)
    return tfpi_fail(tok->ctx, TFP_ERR_FORMAT, "tfp_tokenizer_load: model.merges is not a list");
  tok->merges = (tfpi_merge_entry *)tfpi_new(tok->arena, merges->count, sizeof *tok->merges);
  for (m = merges->child; m && !tok->ctx->status; m = m->next) {
    const tfp_json *a = tfp_json_at(m, 0), *b = tfp_json_at(m, 1);
    if (m->type == TFP_JSON_STRING) tfpi_merge_line(tok, m->text, m->text_bytes);
    else if (m->type == TFP_JSON_ARRAY && m->count == 2 && a->type == TFP_JSON_STRING &&
             b->type == TFP_JSON_STRING)
      tfpi_merge_put(tok, a->text, (size_t)a->text_bytes, b->text, (size_t)b->text_bytes);
    else
      tfpi_fail(tok->ctx, TFP_ERR_FORMAT, "tfp_tokenizer_load: merge %i is not a pair of tokens",
                tok->n_merges);
  }
  return tok->ctx->status;
}

/* A new tokenizer with the tokens of an object {"token": id}. added may be NULL. */
static tfp_tokenizer *tfpi_vocab_json(tfp_ctx *ctx, const tfp_json *vocab, const tfp_json *added) {
  const tfp_json *v;
  tfp_tokenizer *tok;
  int64_t top = -1, count = vocab ? vocab->count : 0;
  if (!vocab || vocab->type != TFP_JSON_OBJECT) {
    tfpi_fail(ctx, TFP_ERR_FORMAT, "tfp_tokenizer_load: the vocabulary is not an object of ids");
    return NULL;
  }
  if (added) count += added->count;
  for (v = vocab->child; v; v = v->next)
    top = tfpi_max64(top, v->type == TFP_JSON_INT && v->integer >= 0 ? v->integer : INT64_MAX);
  for (v = added ? added->child : NULL; v; v = v->next)
    top = tfpi_max64(top, tfp_json_get_int(v, "id", INT64_MAX));
  if (top >= TFPI_MAX_TOKENS ||
      top > 64 * count + 4096) { /* the list of ids must not be mostly holes */
    tfpi_fail(ctx, TFP_ERR_FORMAT,
              "tfp_tokenizer_load: a vocabulary of %i tokens has an id that is no number from 0 to "
              "a little above that",
              count);
    return NULL;
  }
  tok = tfpi_tokenizer_new(ctx, top + 1);
  if (!tok) return NULL;
  for (v = vocab->child; v && !ctx->status; v = v->next)
    tfpi_token_add(tok, v->integer, v->key, (size_t)v->key_bytes, "", 0, TFPI_IN_MODEL);
  if (!ctx->status) return tok;
  tfp_tokenizer_free(tok);
  return NULL;
}

static tfp_status tfpi_load_added(tfp_tokenizer *tok, const tfp_json *list) {
  const tfp_json *v;
  if (!list) return TFP_OK;
  if (list->type != TFP_JSON_ARRAY)
    return tfpi_fail(tok->ctx, TFP_ERR_FORMAT, "tfp_tokenizer_load: added_tokens is not a list");
  if (tfpi_added_new(tok, list->count)) return tok->ctx->status;
  for (v = list->child; v; v = v->next) {
    const tfp_json *text = tfp_json_get(v, "content");
    const int64_t id = tfp_json_get_int(v, "id", -1);
    tfpi_added *a;
    int32_t known;
    if (!text || text->type != TFP_JSON_STRING || !text->text_bytes || id < 0)
      return tfpi_fail(tok->ctx, TFP_ERR_FORMAT,
                       "tfp_tokenizer_load: added token %i has no content or no id",
                       (int64_t)tok->n_added);
    if (tfp_json_get_bool(v, "single_word", 0))
      return tfpi_refuse(tok, "flag single_word of the added token", text->text);
    known = tfpi_token_find(tok, text->text, (size_t)text->text_bytes, "", 0);
    if (known >= 0 && (known != id || tok->tokens[known].flags & TFPI_IS_ADDED))
      return tfpi_fail(tok->ctx, TFP_ERR_FORMAT,
                       "tfp_tokenizer_load: token '%s' has two ids, %i and %d, or is added twice",
                       text->text, id, (int)known);
    if (known < 0 && tfpi_token_add(tok, id, text->text, (size_t)text->text_bytes, "", 0, 0))
      return tok->ctx->status;
    tok->tokens[id].flags |=
        TFPI_IS_ADDED | (tfp_json_get_bool(v, "special", 0) ? TFPI_IS_SPECIAL : 0);
    a = tfpi_added_put(tok, id);
    a->lstrip = tfp_json_get_bool(v, "lstrip", 0);
    a->rstrip = tfp_json_get_bool(v, "rstrip", 0);
    a->normalized = tfp_json_get_bool(v, "normalized", 0);
  }
  return TFP_OK;
}

static tfp_status tfpi_load_normalizer(tfp_tokenizer *tok, const tfp_json *v) {
  if (!v || (!strcmp(tfpi_type_of(v), "Sequence") && tfp_json_get(v, "normalizers") &&
             !tfp_json_get(v, "normalizers")->count))
    return TFP_OK;
  return tfpi_refuse(tok, "normalizer", tfpi_type_of(v));
}

static tfp_status tfpi_load_pre(tfp_tokenizer *tok, const tfp_json *v) {
  const char *type = tfpi_type_of(v);
  const tfp_json *list = tfp_json_get(v, "pretokenizers"), *last = v;
  int regex;
  if (!v) return TFP_OK;
  if (!strcmp(type, "Sequence")) {
    const tfp_json *split = tfp_json_at(list, 0);
    if (!list || list->count < 1 || list->count > 2) return tfpi_refuse(tok, "pre_tokenizer", type);
    last = tfp_json_at(list, list->count - 1);
    if (list->count == 2) {
      if (strcmp(tfpi_type_of(split), "Split"))
        return tfpi_refuse(tok, "pre_tokenizer", tfpi_type_of(split));
      if (!tfpi_text_is(tfp_json_get(tfp_json_get(split, "pattern"), "Regex"), TFPI_BLOOM_REGEX) ||
          !tfpi_text_is(tfp_json_get(split, "behavior"), "Isolated") ||
          tfp_json_get_bool(split, "invert", 0))
        return tfpi_refuse(tok, "pre_tokenizer", "Split with another pattern than BLOOM's");
      tok->pre = TFPI_PRE_BLOOM;
    }
  }
  if (strcmp(tfpi_type_of(last), "ByteLevel"))
    return tfpi_refuse(tok, "pre_tokenizer", tfpi_type_of(last));
  tok->byte_level = 1;
  tok->add_prefix_space = tfp_json_get_bool(last, "add_prefix_space", 1);
  tok->trim_offsets = tfp_json_get_bool(last, "trim_offsets", 1);
  regex = tfp_json_get_bool(last, "use_regex", 1);
  if (tok->pre == TFPI_PRE_BLOOM && (regex || tok->add_prefix_space))
    return tfpi_refuse(tok, "pre_tokenizer",
                       "Split followed by a ByteLevel with use_regex or add_prefix_space");
  if (regex) tok->pre = TFPI_PRE_GPT2;
  return TFP_OK;
}

/* One list of a TemplateProcessing. */
static tfp_status tfpi_load_template(tfp_tokenizer *tok, const tfp_json *list,
                                     const tfp_json *names, tfpi_template *t) {
  const tfp_json *v, *id;
  if (!list || list->type != TFP_JSON_ARRAY)
    return tfpi_fail(tok->ctx, TFP_ERR_FORMAT, "tfp_tokenizer_load: a template is not a list");
  for (v = list->child; v; v = v->next) {
    const tfp_json *text = tfp_json_get(v, "Sequence"), *special = tfp_json_get(v, "SpecialToken");
    const tfp_json *piece = text ? text : special;
    const char *name = tfp_json_get_text(piece, "id", "");
    const int64_t type = tfp_json_get_int(piece, "type_id", 0);
    if (type < 0 || type > INT32_MAX || (!text && !special) ||
        (text && strcmp(name, "A") && strcmp(name, "B")))
      return tfpi_fail(tok->ctx, TFP_ERR_FORMAT,
                       "tfp_tokenizer_load: a piece of the template is neither text nor token");
    id = text ? NULL : tfp_json_get(tfp_json_get(names, name), "ids");
    if (special && (!id || id->type != TFP_JSON_ARRAY))
      return tfpi_fail(tok->ctx, TFP_ERR_FORMAT,
                       "tfp_tokenizer_load: the template names an unknown token '%s'", name);
    if (t->n + (id ? id->count : 1) > TFPI_TEMPLATE_MAX)
      return tfpi_refuse(tok, "post_processor", "with so long a template");
    if (text) tfpi_template_put(t, name[0] == 'A' ? TFPI_TEXT_A : TFPI_TEXT_B, (int32_t)type);
    for (id = id ? id->child : NULL; id; id = id->next) {
      if (id->type != TFP_JSON_INT || id->integer < 0 || id->integer >= tok->size ||
          !tok->tokens[id->integer].text)
        return tfpi_fail(tok->ctx, TFP_ERR_FORMAT,
                         "tfp_tokenizer_load: the template's token '%s' has an id that is not in "
                         "the vocabulary",
                         name);
      tfpi_template_put(t, (int32_t)id->integer, (int32_t)type);
    }
  }
  return TFP_OK;
}

/* ["text", id] of a RobertaProcessing or BertProcessing; -1 if it is not that. */
static int32_t tfpi_load_end(tfp_tokenizer *tok, const tfp_json *v) {
  const tfp_json *id = tfp_json_at(v, 1);
  if (id && id->type == TFP_JSON_INT && id->integer >= 0 && id->integer < tok->size &&
      tok->tokens[id->integer].text)
    return (int32_t)id->integer;
  tfpi_fail(tok->ctx, TFP_ERR_FORMAT,
            "tfp_tokenizer_load: cls or sep of the post_processor is not in the vocabulary");
  return -1;
}

static tfp_status tfpi_load_post(tfp_tokenizer *tok, const tfp_json *v) {
  const char *type = tfpi_type_of(v);
  const tfp_json *list = tfp_json_get(v, "processors");
  if (!v) return TFP_OK;
  if (!strcmp(type, "Sequence") && list) {
    for (v = list->child; v && !tok->ctx->status; v = v->next) {
      if (!strcmp(tfpi_type_of(v), "Sequence") || tok->single.n)
        return tfpi_refuse(tok, "post_processor", "Sequence of these");
      tfpi_load_post(tok, v);
    }
    return tok->ctx->status;
  }
  tok->post_trim = tfp_json_get_bool(v, "trim_offsets", 1);
  tok->post_prefix = tfp_json_get_bool(v, "add_prefix_space", 1);
  if (!strcmp(type, "ByteLevel")) {
    tok->post = TFPI_POST_BYTES;
  } else if (!strcmp(type, "RobertaProcessing") || !strcmp(type, "BertProcessing")) {
    const int roberta = type[0] == 'R';
    const int32_t cls = tfpi_load_end(tok, tfp_json_get(v, "cls"));
    const int32_t sep = cls < 0 ? -1 : tfpi_load_end(tok, tfp_json_get(v, "sep"));
    if (sep < 0) return tok->ctx->status;
    tfpi_template_make(tok, cls, sep, roberta, !roberta);
    tok->post = roberta ? TFPI_POST_ROBERTA : TFPI_POST_TEMPLATE;
  } else if (!strcmp(type, "TemplateProcessing")) {
    tok->post = TFPI_POST_TEMPLATE;
    if (!tfpi_load_template(tok, tfp_json_get(v, "single"), tfp_json_get(v, "special_tokens"),
                            &tok->single))
      tfpi_load_template(tok, tfp_json_get(v, "pair"), tfp_json_get(v, "special_tokens"),
                         &tok->pair);
  } else return tfpi_refuse(tok, "post_processor", type);
  return tok->ctx->status;
}

static tfp_status tfpi_load_decoder(tfp_tokenizer *tok, const tfp_json *v) {
  if (!v) return TFP_OK;
  if (!strcmp(tfpi_type_of(v), "ByteLevel")) tok->decoder = TFPI_DECODE_BYTES;
  else if (!strcmp(tfpi_type_of(v), "Fuse")) tok->decoder = TFPI_DECODE_FUSE;
  else return tfpi_refuse(tok, "decoder", tfpi_type_of(v));
  return TFP_OK;
}

/* The model's options; its vocabulary is there already. */
static tfp_status tfpi_load_bpe(tfp_tokenizer *tok, const tfp_json *model) {
  const char *unk = tfp_json_get_text(model, "unk_token", "");
  if (tfp_json_get_number(model, "dropout", 0) > 0)
    return tfpi_refuse(tok, "BPE option", "dropout");
  if (*tfp_json_get_text(model, "continuing_subword_prefix", ""))
    return tfpi_refuse(tok, "BPE option", "continuing_subword_prefix");
  if (*tfp_json_get_text(model, "end_of_word_suffix", ""))
    return tfpi_refuse(tok, "BPE option", "end_of_word_suffix");
  if (tfp_json_get_bool(model, "byte_fallback", 0))
    return tfpi_refuse(tok, "BPE option", "byte_fallback");
  tok->fuse_unk = tfp_json_get_bool(model, "fuse_unk", 0);
  tok->ignore_merges = tfp_json_get_bool(model, "ignore_merges", 0);
  if (*unk) {
    tok->unk = tfp_token_id(tok, unk);
    if (tok->unk < 0 || !(tok->tokens[tok->unk].flags & TFPI_IN_MODEL))
      return tfpi_fail(tok->ctx, TFP_ERR_FORMAT,
                       "tfp_tokenizer_load: unk_token '%s' is not in the vocabulary", unk);
  }
  tok->fuse_unk &= tok->unk >= 0;
  return tfpi_merges_json(tok, tfp_json_get(model, "merges"));
}

static tfp_tokenizer *tfpi_load_json(tfp_ctx *ctx, const tfp_json *root) {
  const tfp_json *model = tfpi_member(root, "model"), *added = tfpi_member(root, "added_tokens");
  const tfp_json *vocab = tfp_json_get(model, "vocab"); /* older files name no type */
  const char *guess = tfp_json_get(model, "merges")            ? "BPE"
                      : vocab && vocab->type == TFP_JSON_ARRAY ? "Unigram"
                                                               : "(no type)";
  const char *type = tfp_json_get_text(model, "type", guess);
  tfp_tokenizer *tok;
  if (strcmp(type, "BPE")) {
    tfpi_fail(ctx, TFP_ERR_UNSUPPORTED,
              "tfp_tokenizer_load: the model %s is not supported, only BPE is", type);
    return NULL;
  }
  tok = tfpi_vocab_json(ctx, vocab, added);
  if (!tok) return NULL;
  if (!tfpi_load_normalizer(tok, tfpi_member(root, "normalizer")) &&
      !tfpi_load_pre(tok, tfpi_member(root, "pre_tokenizer")) &&
      !tfpi_load_decoder(tok, tfpi_member(root, "decoder")) && !tfpi_load_added(tok, added) &&
      !tfpi_load_bpe(tok, model) && !tfpi_load_post(tok, tfpi_member(root, "post_processor")))
    return tok;
  tfp_tokenizer_free(tok);
  return NULL;
}

/* GPT-2's and RoBERTa's older files: a vocabulary, and a list of merges. */
static tfp_tokenizer *tfpi_load_pair(tfp_ctx *ctx, const char *vocab_path,
                                     const char *merges_path) {
  static const char *const specials[] = {"<s>",   "<pad>",  "</s>",
                                         "<unk>", "<mask>", "<|endoftext|>"};
  tfp_json *vocab = tfp_json_parse_file(ctx, vocab_path);
  tfp_tokenizer *tok = vocab ? tfpi_vocab_json(ctx, vocab, NULL) : NULL;
  tfp_file *file = tok ? tfp_file_open(ctx, merges_path) : NULL;
  const char *line;
  int64_t n;
  int i;
  tfp_json_free(vocab);
  if (file)
    tok->merges =
        (tfpi_merge_entry *)tfpi_new(tok->arena, tfp_file_size(file) / 4 + 1, sizeof *tok->merges);
  while (file && !ctx->status && (n = tfp_file_line(file, &line)) >= 0)
    if (n && strncmp(line, "#version", 8))
      tfpi_merge_line(tok, line, n); /* at least 4 bytes: a, blank, b, newline */
  tfp_file_close(file);
  if (!tok || ctx->status) {
    tfp_tokenizer_free(tok);
    return NULL;
  }
  tok->byte_level = tok->trim_offsets = tok->post_trim = 1;
  tok->pre = TFPI_PRE_GPT2, tok->decoder = TFPI_DECODE_BYTES;
  for (i = 0; i < TFPI_COUNT(specials); i++) {
    const int32_t id = tfp_token_id(tok, specials[i]);
    if (id >= 0) tok->tokens[id].flags |= TFPI_IS_ADDED | TFPI_IS_SPECIAL;
  }
  if (!tfpi_added_from_flags(tok) && tfp_token_id(tok, "<mask>") >= 0 &&
      tfp_token_id(tok, "<s>") >= 0 && tfp_token_id(tok, "</s>") >= 0) {
    tfpi_template_style(tok, TFP_SPECIALS_ROBERTA);
    tok->post = TFPI_POST_ROBERTA;
  }
  return tok;
}

/* Parts from a file that names them: "pad_token": "<pad>" or {"content": "<pad>"}. Returns how many
 * it had. */
static int tfpi_load_parts(tfp_tokenizer *tok, const char *dir, const char *name) {
  static const char *const keys[] = {"bos_token", "eos_token", "pad_token", "unk_token",
                                     "cls_token", "sep_token", "mask_token"};
  int32_t *const parts[] = {&tok->specials.bos, &tok->specials.eos, &tok->specials.pad,
                            &tok->specials.unk, &tok->specials.cls, &tok->specials.sep,
                            &tok->specials.mask};
  char path[1024];
  tfp_json *root;
  int i, found = 0;
  if (!tfpi_path_join(path, sizeof path, dir, name) || !tfp_file_exists(tok->ctx, path)) return 0;
  root = tfp_json_parse_file(tok->ctx, path);
  for (i = 0; root && i < TFPI_COUNT(keys); i++) {
    const tfp_json *v = tfp_json_get(root, keys[i]);
    const char *text =
        v && v->type == TFP_JSON_STRING ? v->text : tfp_json_get_text(v, "content", NULL);
    if (!text) continue;
    *parts[i] = tfp_token_id(tok, text);
    found++;
  }
  tfp_json_free(root);
  return found;
}

TFP_API tfp_tokenizer *tfp_tokenizer_load(tfp_ctx *ctx, const char *dir) {
  static const char *const pairs[2][2] = {{"vocab.json", "merges.txt"},
                                          {"encoder.json", "vocab.bpe"}};
  tfp_tokenizer *tok = NULL;
  char path[1024], merges[1024];
  int i, found = 0;
  if (!ctx || ctx->status) return NULL;
  if (!dir || !tfpi_path_join(path, sizeof path, dir, "special_tokens_map.json")) {
    tfpi_fail(ctx, TFP_ERR_ARG,
              "tfp_tokenizer_load: the directory is NULL or its name longer than 1000 bytes");
    return NULL;
  }
  tfpi_path_join(path, sizeof path, dir, "tokenizer.json");
  if (tfp_file_exists(ctx, path)) {
    tfp_json *root = tfp_json_parse_file(ctx, path);
    if (root) tok = tfpi_load_json(ctx, root);
    tfp_json_free(root);
    found = 1;
  }
  for (i = 0; i < 2 && !found; i++) {
    tfpi_path_join(path, sizeof path, dir, pairs[i][0]);
    tfpi_path_join(merges, sizeof merges, dir, pairs[i][1]);
    found = tfp_file_exists(ctx, path) && tfp_file_exists(ctx, merges);
    if (found) tok = tfpi_load_pair(ctx, path, merges);
  }
  if (!found)
    tfpi_fail(ctx, TFP_ERR_IO,
              "tfp_tokenizer_load: %s has neither tokenizer.json nor vocab.json with merges.txt",
              dir);
  if (!tok) return NULL;
  tfpi_specials_none(&tok->specials);
  if (!tfpi_load_parts(tok, dir, "tokenizer_config.json") &&
      !tfpi_load_parts(tok, dir, "special_tokens_map.json"))
    tfpi_specials_by_name(tok);
  return tfpi_tokenizer_ready(tok);
}

/* ---- saving ---- */

static void tfpi_put_member_text(tfp_json_writer *w, const char *key, const char *text) {
  tfp_json_key(w, key, -1);
  if (text) tfp_json_put_text(w, text, -1);
  else tfp_json_put_null(w);
}
static void tfpi_put_member_bool(tfp_json_writer *w, const char *key, int x) {
  tfp_json_key(w, key, -1);
  tfp_json_put_bool(w, x);
}
static void tfpi_put_member_int(tfp_json_writer *w, const char *key, int64_t x) {
  tfp_json_key(w, key, -1);
  tfp_json_put_int(w, x);
}

static void tfpi_save_added(const tfp_tokenizer *tok, tfp_json_writer *w) {
  int i;
  tfp_json_key(w, "added_tokens", -1);
  tfp_json_begin_array(w);
  for (i = 0; i < tok->n_added; i++) {
    const tfpi_added *a = &tok->added[i];
    tfp_json_begin_object(w);
    tfpi_put_member_int(w, "id", a->id);
    tfp_json_key(w, "content", -1);
    tfp_json_put_text(w, a->text, a->n);
    tfpi_put_member_bool(w, "single_word", 0);
    tfpi_put_member_bool(w, "lstrip", a->lstrip);
    tfpi_put_member_bool(w, "rstrip", a->rstrip);
    tfpi_put_member_bool(w, "normalized", a->normalized);
    tfpi_put_member_bool(w, "special", (tok->tokens[a->id].flags & TFPI_IS_SPECIAL) != 0);
    tfp_json_end_object(w);
  }
  tfp_json_end_array(w);
}

static void tfpi_save_byte_level(tfp_json_writer *w, int prefix, int trim, int regex) {
  tfp_json_begin_object(w);
  tfpi_put_member_text(w, "type", "ByteLevel");
  tfpi_put_member_bool(w, "add_prefix_space", prefix);
  tfpi_put_member_bool(w, "trim_offsets", trim);
  tfpi_put_member_bool(w, "use_regex", regex);
  tfp_json_end_object(w);
}

static void tfpi_save_pre(const tfp_tokenizer *tok, tfp_json_writer *w) {
  tfp_json_key(w, "pre_tokenizer", -1);
  if (!tok->byte_level) {
    tfp_json_put_null(w);
    return;
  }
  if (tok->pre == TFPI_PRE_BLOOM) {
    tfp_json_begin_object(w);
    tfpi_put_member_text(w, "type", "Sequence");
    tfp_json_key(w, "pretokenizers", -1);
    tfp_json_begin_array(w);
    tfp_json_begin_object(w);
    tfpi_put_member_text(w, "type", "Split");
    tfp_json_key(w, "pattern", -1);
    tfp_json_begin_object(w);
    tfpi_put_member_text(w, "Regex", TFPI_BLOOM_REGEX);
    tfp_json_end_object(w);
    tfpi_put_member_text(w, "behavior", "Isolated");
    tfpi_put_member_bool(w, "invert", 0);
    tfp_json_end_object(w);
  }
  tfpi_save_byte_level(w, tok->add_prefix_space, tok->trim_offsets, tok->pre == TFPI_PRE_GPT2);
  if (tok->pre == TFPI_PRE_BLOOM) {
    tfp_json_end_array(w);
    tfp_json_end_object(w);
  }
}

static void tfpi_save_template(const tfp_tokenizer *tok, tfp_json_writer *w, const char *key,
                               const tfpi_template *t) {
  int i;
  tfp_json_key(w, key, -1);
  tfp_json_begin_array(w);
  for (i = 0; i < t->n; i++) {
    const int32_t id = t->piece[i].id;
    tfp_json_begin_object(w);
    tfp_json_key(w, id < 0 ? "Sequence" : "SpecialToken", -1);
    tfp_json_begin_object(w);
    tfpi_put_member_text(w, "id",
                         id == TFPI_TEXT_A   ? "A"
                         : id == TFPI_TEXT_B ? "B"
                                             : tok->tokens[id].text);
    tfpi_put_member_int(w, "type_id", t->piece[i].type);
    tfp_json_end_object(w);
    tfp_json_end_object(w);
  }
  tfp_json_end_array(w);
}

/* Each special token that the templates name, once. */
static void tfpi_save_template_tokens(const tfp_tokenizer *tok, tfp_json_writer *w) {
  int32_t id[2 * TFPI_TEMPLATE_MAX];
  int i, k, n = 0;
  for (i = 0; i < tok->single.n + tok->pair.n; i++) {
    const int32_t x =
        i < tok->single.n ? tok->single.piece[i].id : tok->pair.piece[i - tok->single.n].id;
    for (k = 0; k < n && id[k] != x; k++) continue;
    if (x >= 0 && k == n) id[n++] = x;
  }
  tfp_json_key(w, "special_tokens", -1);
  tfp_json_begin_object(w);
  for (i = 0; i < n; i++) {
    tfp_json_key(w, tok->tokens[id[i]].text, -1);
    tfp_json_begin_object(w);
    tfpi_put_member_text(w, "id", tok->tokens[id[i]].text);
    tfp_json_key(w, "ids", -1);
    tfp_json_begin_array(w);
    tfp_json_put_int(w, id[i]);
    tfp_json_end_array(w);
    tfp_json_key(w, "tokens", -1);
    tfp_json_begin_array(w);
    tfp_json_put_text(w, tok->tokens[id[i]].text, -1);
    tfp_json_end_array(w);
    tfp_json_end_object(w);
  }
  tfp_json_end_object(w);
}

static void tfpi_save_end(const tfp_tokenizer *tok, tfp_json_writer *w, const char *key,
                          int32_t id) {
  tfp_json_key(w, key, -1);
  tfp_json_begin_array(w);
  tfp_json_put_text(w, tok->tokens[id].text, -1);
  tfp_json_put_int(w, id);
  tfp_json_end_array(w);
}
static void tfpi_save_post(const tfp_tokenizer *tok, tfp_json_writer *w) {
  tfp_json_key(w, "post_processor", -1);
  if (tok->post == TFPI_POST_NONE) tfp_json_put_null(w);
  else if (tok->post == TFPI_POST_BYTES)
    tfpi_save_byte_level(w, tok->post_prefix, tok->post_trim, 1);
  else if (tok->post == TFPI_POST_ROBERTA) {
    tfp_json_begin_object(w);
    tfpi_put_member_text(w, "type", "RobertaProcessing");
    tfpi_save_end(tok, w, "sep", tok->single.piece[2].id);
    tfpi_save_end(tok, w, "cls", tok->single.piece[0].id);
    tfpi_put_member_bool(w, "trim_offsets", tok->post_trim);
    tfpi_put_member_bool(w, "add_prefix_space", tok->post_prefix);
    tfp_json_end_object(w);
  } else {
    tfp_json_begin_object(w);
    tfpi_put_member_text(w, "type", "TemplateProcessing");
    tfpi_save_template(tok, w, "single", &tok->single);
    tfpi_save_template(tok, w, "pair", &tok->pair);
    tfpi_save_template_tokens(tok, w);
    tfp_json_end_object(w);
  }
}

static void tfpi_save_model(const tfp_tokenizer *tok, tfp_json_writer *w) {
  int64_t i;
  tfp_json_key(w, "model", -1);
  tfp_json_begin_object(w);
  tfpi_put_member_text(w, "type", "BPE");
  tfpi_put_member_text(w, "dropout", NULL);
  tfpi_put_member_text(w, "unk_token", tok->unk < 0 ? NULL : tok->tokens[tok->unk].text);
  tfpi_put_member_text(w, "continuing_subword_prefix", NULL);
  tfpi_put_member_text(w, "end_of_word_suffix", NULL);
  tfpi_put_member_bool(w, "fuse_unk", tok->fuse_unk);
  tfpi_put_member_bool(w, "byte_fallback", 0);
  tfpi_put_member_bool(w, "ignore_merges", tok->ignore_merges);
  tfp_json_key(w, "vocab", -1);
  tfp_json_begin_object(w);
  for (i = 0; i < tok->size; i++) {
    if (!tok->tokens[i].text || !(tok->tokens[i].flags & TFPI_IN_MODEL)) continue;
    tfp_json_key(w, tok->tokens[i].text, tok->tokens[i].text_n);
    tfp_json_put_int(w, i);
  }
  tfp_json_end_object(w);
  tfp_json_key(w, "merges", -1);
  tfp_json_begin_array(w);
  for (i = 0; i < tok->n_merges; i++) {
    const tfpi_token *a = &tok->tokens[tok->merges[i].left],
                     *b = &tok->tokens[tok->merges[i].right];
    tfp_json_begin_array(w);
    tfp_json_put_text(w, a->text, a->text_n);
    tfp_json_put_text(w, b->text, b->text_n);
    tfp_json_end_array(w);
  }
  tfp_json_end_array(w);
  tfp_json_end_object(w);
}

static tfp_status tfpi_save_pipeline(tfp_tokenizer *tok, const char *path) {
  tfp_json_writer *w = tfp_json_writer_open(tok->ctx, TFP_JSON_PRETTY);
  tfp_json_begin_object(w);
  tfpi_put_member_text(w, "version", "1.0");
  tfpi_put_member_text(w, "truncation", NULL);
  tfpi_put_member_text(w, "padding", NULL);
  tfpi_save_added(tok, w);
  tfpi_put_member_text(w, "normalizer", NULL);
  tfpi_save_pre(tok, w);
  tfpi_save_post(tok, w);
  tfp_json_key(w, "decoder", -1);
  if (tok->decoder == TFPI_DECODE_JOIN) tfp_json_put_null(w);
  else if (tok->decoder == TFPI_DECODE_BYTES) tfpi_save_byte_level(w, 1, 1, 1);
  else {
    tfp_json_begin_object(w);
    tfpi_put_member_text(w, "type", "Fuse");
    tfp_json_end_object(w);
  }
  tfpi_save_model(tok, w);
  tfp_json_end_object(w);
  if (!tok->ctx->status) tfp_json_writer_save(w, path);
  tfp_json_writer_close(w);
  return tok->ctx->status;
}

TFP_API tfp_status tfp_tokenizer_save(tfp_tokenizer *tok, const char *dir,
                                      int64_t model_max_length) {
  const char *const keys[] = {"bos_token", "eos_token", "pad_token", "unk_token",
                              "cls_token", "sep_token", "mask_token"};
  int32_t parts[7];
  tfp_json_writer *w;
  char path[1024];
  int i;
  if (!tok) return TFP_ERR_ARG;
  if (tok->ctx->status) return tok->ctx->status;
  if (!dir || !tfpi_path_join(path, sizeof path, dir, "tokenizer_config.json"))
    return tfpi_fail(
        tok->ctx, TFP_ERR_ARG,
        "tfp_tokenizer_save: the directory is NULL or its name longer than 1000 bytes");
  parts[0] = tok->specials.bos, parts[1] = tok->specials.eos, parts[2] = tok->specials.pad,
  parts[3] = tok->specials.unk;
  parts[4] = tok->specials.cls, parts[5] = tok->specials.sep, parts[6] = tok->specials.mask;
  w = tfp_json_writer_open(tok->ctx, TFP_JSON_PRETTY);
  tfp_json_begin_object(w);
  tfpi_put_member_text(w, "tokenizer_class",
                       "PreTrainedTokenizerFast"); /* takes tokenizer.json as it is */
  tfpi_put_member_bool(w, "clean_up_tokenization_spaces", 0);
  if (model_max_length > 0) tfpi_put_member_int(w, "model_max_length", model_max_length);
  for (i = 0; i < 7; i++)
    if (parts[i] >= 0) tfpi_put_member_text(w, keys[i], tok->tokens[parts[i]].text);
  tfp_json_end_object(w);
  if (!tok->ctx->status) tfp_json_writer_save(w, path);
  tfp_json_writer_close(w);
  if (tok->ctx->status) return tok->ctx->status;
  tfpi_path_join(path, sizeof path, dir, "tokenizer.json");
  return tfpi_save_pipeline(tok, path);
}

/* ---- training ---- */

/* A list that grows by moving between two arenas, so that what it left is given back. */
typedef struct tfpi_list {
  tfpi_arena side[2];
  int now;
  char *at;
  int64_t n, room;
  size_t size;
} tfpi_list;
static void tfpi_list_open(tfp_ctx *ctx, tfpi_list *l, size_t size) {
  memset(l, 0, sizeof *l);
  l->size = size;
  tfpi_arena_open(ctx, &l->side[0]);
  tfpi_arena_open(ctx, &l->side[1]);
}
static void tfpi_list_close(tfpi_list *l) {
  tfpi_arena_close(&l->side[0]);
  tfpi_arena_close(&l->side[1]);
}
/* Makes room for n items more and says where they go; n itself stays. NULL without memory. */
static void *tfpi_list_room(tfpi_list *l, int64_t n) {
  if (l->n + n > l->room) {
    tfp_ctx *ctx = l->side[0].ctx;
    const int64_t room =
        tfpi_max64(l->n + n, tfpi_max64(1024, l->room + l->room / 2 + l->room / 4));
    void *fresh;
    if (room > INT64_MAX / 64 ||
        tfpi_take(&l->side[!l->now], (size_t)room * l->size, TFPI_META, &fresh))
      return NULL;
    if (l->n) memcpy(fresh, l->at, (size_t)l->n * l->size);
    tfpi_arena_close(&l->side[l->now]);
    tfpi_arena_open(ctx, &l->side[l->now]);
    l->now = !l->now, l->at = (char *)fresh, l->room = room;
  }
  return l->at + (size_t)l->n * l->size;
}

typedef struct tfpi_word_count { int64_t text, count; int32_t n, hash; } tfpi_word_count;
typedef struct tfpi_pair_count {
  uint32_t left, right;
  int64_t count;
  int32_t head, touched;
} tfpi_pair_count;
typedef struct tfpi_queued { int64_t count; uint32_t left, right; int32_t pair, head; } tfpi_queued;
typedef struct tfpi_place {
  int32_t word, next;
} tfpi_place; /* a word that has the pair; the next one */

typedef struct tfpi_trainer {
  tfp_ctx *ctx;
  tfp_tokenizer *tok;
  int64_t min_frequency, max_words;
  tfpi_list text, words, slots; /* bytes; tfpi_word_count; hash table of int32_t, -1 empty */
  tfpi_list symbols; /* int32_t: of word w from words[w].text on, as many as it has bytes */
  tfpi_list pairs, pair_slots;  /* tfpi_pair_count; hash table of int32_t */
  tfpi_list queue, places;      /* heap of tfpi_queued; tfpi_place */
  tfpi_list touched;            /* int32_t: pairs that grew in this round */
  tfpi_list merges;             /* tfpi_merge_entry */
} tfpi_trainer;

/* An empty hash table of at least n slots. */
static tfp_status tfpi_slots_make(tfpi_list *l, int64_t n) {
  int64_t slots = 4096;
  while (slots < n) slots *= 2;
  l->n = 0;
  if (tfpi_list_room(l, slots)) memset(l->at, 0xFF, (size_t)slots * sizeof(int32_t));
  l->n = slots;
  return l->side[0].ctx->status;
}

static tfp_status tfpi_words_rehash(tfpi_trainer *t) {
  const tfpi_word_count *w = (const tfpi_word_count *)t->words.at;
  const uint64_t mask = (uint64_t)(t->slots.n * 2) - 1;
  int64_t i;
  if (tfpi_slots_make(&t->slots, t->slots.n * 2)) return t->ctx->status;
  for (i = 0; i < t->words.n; i++) {
    uint64_t h = (uint32_t)w[i].hash & mask;
    while (((int32_t *)t->slots.at)[h] >= 0) h = (h + 1) & mask;
    ((int32_t *)t->slots.at)[h] = (int32_t)i;
  }
  return TFP_OK;
}

/* Counts one word. */
static tfp_status tfpi_count_word(tfpi_trainer *t, const char *s, int64_t n) {
  const uint64_t mask = (uint64_t)t->slots.n - 1;
  uint64_t h = (uint64_t)n;
  int64_t i;
  int32_t *slots = (int32_t *)t->slots.at;
  tfpi_word_count *w;
  void *text;
  for (i = 0; i + 8 <= n; i += 8) {
    uint64_t eight;
    memcpy(&eight, s + i, 8);
    h = (h ^ eight) * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
  }
  for (; i < n; i++) h = (h ^ (unsigned char)s[i]) * 0x9E3779B97F4A7C15u, h ^= h >> 29;
  h &= UINT32_MAX;
  for (i = (int64_t)(h & mask); slots[i] >= 0; i = (int64_t)((uint64_t)(i + 1) & mask)) {
    w = &((tfpi_word_count *)t->words.at)[slots[i]];
    if ((uint32_t)w->hash == h && w->n == n && !memcmp(t->text.at + w->text, s, (size_t)n)) {
      w->count++;
      return TFP_OK;
    }
  }
  if (t->max_words && t->words.n >= t->max_words) return TFP_OK;
  if (t->words.n >= INT32_MAX - 1)
    return tfpi_fail(t->ctx, TFP_ERR_UNSUPPORTED,
                     "tfp_tokenizer_train_bpe: more than 2^31 distinct words; set max_words");
  w = (tfpi_word_count *)tfpi_list_room(&t->words, 1);
  text = w ? tfpi_list_room(&t->text, n) : NULL;
  if (!text) return t->ctx->status;
  memcpy(text, s, (size_t)n);
  w->text = t->text.n, w->count = 1, w->n = (int32_t)n, w->hash = (int32_t)(uint32_t)h;
  slots[i] = (int32_t)t->words.n++;
  t->text.n += n;
  return 2 * t->words.n > t->slots.n ? tfpi_words_rehash(t) : TFP_OK;
}

/* Counts the words of whole lines. */
static tfp_status tfpi_count_lines(tfpi_trainer *t, const char *s, int64_t n) {
  while (n > 0) {
    const char *newline = (const char *)memchr(s, '\n', (size_t)n);
    const int64_t line = newline ? newline - s + 1 : n;
    int64_t i = 0, end;
    for (; i < line; i = end) {
      end = tfpi_gpt2_word(t->tok, s, i, line);
      if (tfpi_count_word(t, s + i, end - i)) return t->ctx->status;
    }
    s += line, n -= line;
  }
  return TFP_OK;
}

static tfp_status tfpi_count_file(tfpi_trainer *t, const char *path, char *buffer) {
  tfp_file *file = tfp_file_open(t->ctx, path);
  int64_t have = 0, got = 1;
  while (file && !t->ctx->status && got > 0) {
    int64_t use;
    got = tfp_file_read(file, buffer + have, TFPI_PIECE_MAX - have);
    if (got > 0) have += got;
    for (use = have; got > 0 && use > 0 && buffer[use - 1] != '\n';) use--;
    if (!use && have == TFPI_PIECE_MAX) { /* a very long line */
      use = tfpi_safe_cut(t->tok, buffer, have, 0);
      if (!use) use = have;
    }
    if (tfpi_count_lines(t, buffer, use)) break;
    have -= use;
    memmove(buffer, buffer + use, (size_t)have);
  }
  tfp_file_close(file);
  return t->ctx->status;
}

/* Number of a pair in t->pairs; it is entered if it is new. -1 without memory. */
static int32_t tfpi_pair_at(tfpi_trainer *t, uint32_t left, uint32_t right) {
  uint64_t mask = (uint64_t)t->pair_slots.n - 1, h = tfpi_pair_hash(left, right) >> 32 & mask;
  int32_t *slots = (int32_t *)t->pair_slots.at;
  tfpi_pair_count *p = (tfpi_pair_count *)t->pairs.at;
  int64_t i;
  for (; slots[h] >= 0; h = (h + 1) & mask)
    if (p[slots[h]].left == left && p[slots[h]].right == right) return slots[h];
  if (2 * t->pairs.n >= t->pair_slots.n) {
    if (tfpi_slots_make(&t->pair_slots, 2 * t->pair_slots.n)) return -1;
    slots = (int32_t *)t->pair_slots.at;
    mask = (uint64_t)t->pair_slots.n - 1;
    for (i = 0; i < t->pairs.n; i++) {
      for (h = tfpi_pair_hash(p[i].left, p[i].right) >> 32 & mask; slots[h] >= 0;)
        h = (h + 1) & mask;
      slots[h] = (int32_t)i;
    }
    for (h = tfpi_pair_hash(left, right) >> 32 & mask; slots[h] >= 0;) h = (h + 1) & mask;
  }
  p = (tfpi_pair_count *)tfpi_list_room(&t->pairs, 1);
  if (!p) return -1;
  if (t->pairs.n >= INT32_MAX - 1) {
    tfpi_fail(t->ctx, TFP_ERR_UNSUPPORTED,
              "tfp_tokenizer_train_bpe: more than 2^31 pairs; set max_words");
    return -1;
  }
  p->left = left, p->right = right, p->count = 0, p->head = -1, p->touched = 0;
  slots[h] = (int32_t)t->pairs.n;
  return (int32_t)t->pairs.n++;
}

/* Adds to a pair's count; where it grows, the word is noted. */
static tfp_status tfpi_pair_change(tfpi_trainer *t, int32_t left, int32_t right, int64_t change,
                                   int32_t word) {
  const int32_t number = tfpi_pair_at(t, (uint32_t)left, (uint32_t)right);
  tfpi_pair_count *p;
  tfpi_place *place;
  if (number < 0) return t->ctx->status;
  p = &((tfpi_pair_count *)t->pairs.at)[number];
  p->count += change;
  if (change < 0) return TFP_OK;
  if (!p->touched) {
    int32_t *touched = (int32_t *)tfpi_list_room(&t->touched, 1);
    if (!touched) return t->ctx->status;
    *touched = number;
    t->touched.n++;
    p->touched = 1;
  }
  if (p->head >= 0 && ((tfpi_place *)t->places.at)[p->head].word == word) return TFP_OK;
  place = (tfpi_place *)tfpi_list_room(&t->places, 1);
  if (!place) return t->ctx->status;
  if (t->places.n >= INT32_MAX - 1)
    return tfpi_fail(t->ctx, TFP_ERR_UNSUPPORTED,
                     "tfp_tokenizer_train_bpe: more than 2^31 places of pairs; set max_words");
  place->word = word, place->next = p->head;
  p->head = (int32_t)t->places.n++;
  return TFP_OK;
}

/* Does a come before b? The larger count, then the smaller pair. */
TFPI_INLINE int tfpi_queued_before(const tfpi_queued *a, const tfpi_queued *b) {
  if (a->count != b->count) return a->count > b->count;
  return a->left != b->left ? a->left < b->left : a->right < b->right;
}
static tfp_status tfpi_queue_push(tfpi_trainer *t, tfpi_queued x) {
  tfpi_queued *q;
  int64_t i = t->queue.n;
  if (!tfpi_list_room(&t->queue, 1)) return t->ctx->status;
  q = (tfpi_queued *)t->queue.at;
  for (t->queue.n++; i > 0 && tfpi_queued_before(&x, &q[(i - 1) / 2]); i = (i - 1) / 2)
    q[i] = q[(i - 1) / 2];
  q[i] = x;
  return TFP_OK;
}
static tfpi_queued tfpi_queue_pop(tfpi_trainer *t) {
  tfpi_queued *q = (tfpi_queued *)t->queue.at, top = q[0];
  const int64_t n = --t->queue.n;
  int64_t i = 0, child;
  for (; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && tfpi_queued_before(&q[child + 1], &q[child])) child++;
    if (!tfpi_queued_before(&q[child], &q[n])) break;
    q[i] = q[child];
  }
  q[i] = q[n];
  return top;
}

/* Queues the pairs that grew, each with the words where it did. */
static tfp_status tfpi_queue_touched(tfpi_trainer *t) {
  int64_t i;
  for (i = 0; i < t->touched.n; i++) {
    const int32_t number = ((int32_t *)t->touched.at)[i];
    tfpi_pair_count *p = &((tfpi_pair_count *)t->pairs.at)[number];
    tfpi_queued x;
    x.count = p->count, x.left = p->left, x.right = p->right, x.pair = number, x.head = p->head;
    p->head = -1, p->touched = 0;
    if (x.count > 0 && tfpi_queue_push(t, x)) break;
  }
  t->touched.n = 0;
  return t->ctx->status;
}

/* Words to symbols, and the first counts of pairs. From here on words[].n counts symbols. */
static tfp_status tfpi_trainer_start(tfpi_trainer *t) {
  tfpi_word_count *w = (tfpi_word_count *)t->words.at;
  int32_t first[256], *s;
  int64_t i, k;
  for (i = 0; i < 256; i++) {
    char text[4];
    first[i] =
        tfpi_token_find(t->tok, text, (size_t)tfp_utf8_encode(t->tok->byte_char[i], text), "", 0);
  }
  s = (int32_t *)tfpi_list_room(&t->symbols, t->text.n);
  if (t->ctx->status || tfpi_slots_make(&t->pair_slots, 65536)) return t->ctx->status;
  for (i = 0; i < t->text.n; i++) s[i] = first[(unsigned char)t->text.at[i]];
  for (i = 0; i < t->words.n; i++)
    for (k = 0; k + 1 < w[i].n; k++)
      if (tfpi_pair_change(t, s[w[i].text + k], s[w[i].text + k + 1], w[i].count, (int32_t)i))
        return t->ctx->status;
  return tfpi_queue_touched(t);
}

/* Replaces left right by sum in one word, from the left, and keeps the counts of the neighbours. */
static tfp_status tfpi_merge_in_word(tfpi_trainer *t, int32_t word, int32_t left, int32_t right,
                                     int32_t sum) {
  tfpi_word_count *w = &((tfpi_word_count *)t->words.at)[word];
  int32_t *s = (int32_t *)t->symbols.at + w->text;
  int32_t i = 0, out = 0;
  while (i < w->n) {
    if (s[i] != left || i + 1 >= w->n || s[i + 1] != right) {
      s[out++] = s[i++];
      continue;
    }
    if (out && (tfpi_pair_change(t, s[out - 1], left, -w->count, word) ||
                tfpi_pair_change(t, s[out - 1], sum, w->count, word))) return t->ctx->status;
    i += 2;
    if (i < w->n && (tfpi_pair_change(t, right, s[i], -w->count, word) ||
                     tfpi_pair_change(t, sum, s[i], w->count, word))) return t->ctx->status;
    s[out++] = sum;
  }
  w->n = out;
  return TFP_OK;
}

/* Merges the commonest pair until the vocabulary has `size` tokens or nothing is common enough. */
static tfp_status tfpi_trainer_merge(tfpi_trainer *t, int64_t size) {
  tfp_tokenizer *tok = t->tok;
  while (tok->size < size && t->queue.n && !t->ctx->status) {
    tfpi_queued top = tfpi_queue_pop(t);
    const int64_t count = ((tfpi_pair_count *)t->pairs.at)[top.pair].count;
    const tfpi_token *a = &tok->tokens[top.left], *b = &tok->tokens[top.right];
    tfpi_merge_entry *m;
    int32_t id, i;
    if (top.count !=
        count) { /* it has changed since it was queued: once more, with what is true now */
      top.count = count;
      if (tfpi_queue_push(t, top)) break;
      continue;
    }
    if (count < 1 || count < t->min_frequency) break;
    id = tfpi_token_find(tok, a->text, (size_t)a->text_n, b->text, (size_t)b->text_n);
    if (id < 0) {
      id = (int32_t)tok->size;
      if (tfpi_token_add(tok, id, a->text, (size_t)a->text_n, b->text, (size_t)b->text_n,
                         TFPI_IN_MODEL))
        break;
    }
    m = (tfpi_merge_entry *)tfpi_list_room(&t->merges, 1);
    if (!m) break;
    m->left = top.left, m->right = top.right, m->id = (uint32_t)id,
    m->rank = (uint32_t)t->merges.n++;
    for (i = top.head; i >= 0 && !t->ctx->status;) {
      const tfpi_place place = ((tfpi_place *)t->places.at)[i];
      tfpi_merge_in_word(t, place.word, (int32_t)top.left, (int32_t)top.right, id);
      i = place.next;
    }
    tfpi_queue_touched(t);
  }
  return t->ctx->status;
}

static void tfpi_trainer_open(tfp_ctx *ctx, tfpi_trainer *t, const tfp_bpe_options *options) {
  memset(t, 0, sizeof *t);
  t->ctx = ctx;
  t->min_frequency = options && options->min_frequency ? options->min_frequency : 2;
  t->max_words = options ? options->max_words : 0;
  tfpi_list_open(ctx, &t->text, 1);
  tfpi_list_open(ctx, &t->words, sizeof(tfpi_word_count));
  tfpi_list_open(ctx, &t->slots, sizeof(int32_t));
  tfpi_list_open(ctx, &t->symbols, sizeof(int32_t));
  tfpi_list_open(ctx, &t->pairs, sizeof(tfpi_pair_count));
  tfpi_list_open(ctx, &t->pair_slots, sizeof(int32_t));
  tfpi_list_open(ctx, &t->queue, sizeof(tfpi_queued));
  tfpi_list_open(ctx, &t->places, sizeof(tfpi_place));
  tfpi_list_open(ctx, &t->touched, sizeof(int32_t));
  tfpi_list_open(ctx, &t->merges, sizeof(tfpi_merge_entry));
}
static void tfpi_trainer_close(tfpi_trainer *t) {
  tfpi_list_close(&t->merges);
  tfpi_list_close(&t->touched);
  tfpi_list_close(&t->places);
  tfpi_list_close(&t->queue);
  tfpi_list_close(&t->pair_slots);
  tfpi_list_close(&t->pairs);
  tfpi_list_close(&t->symbols);
  tfpi_list_close(&t->slots);
  tfpi_list_close(&t->words);
  tfpi_list_close(&t->text);
}

TFP_API tfp_tokenizer *tfp_tokenizer_train_bpe(tfp_ctx *ctx, const char *const *paths, int n,
                                               int64_t vocab_size, tfp_special_style style,
                                               const tfp_bpe_options *options) {
  const char *who = "tfp_tokenizer_train_bpe";
  tfp_tokenizer *tok;
  tfpi_trainer t;
  char *buffer;
  int i, specials, first;
  if (tfpi_check_style(ctx, style, who) || tfpi_check_paths(ctx, paths, n, who)) return NULL;
  specials = tfpi_style_count(style);
  first = style == TFP_SPECIALS_GPT2 ? 0 : style == TFP_SPECIALS_T5 ? 3 : specials;
  if (vocab_size < 256 + specials || vocab_size > TFPI_MAX_TOKENS ||
      (options && (options->min_frequency < 0 || options->max_words < 0))) {
    tfpi_fail(ctx, TFP_ERR_ARG, "%s: vocab_size %i is not in %d to %d, or an option is negative",
              who, vocab_size, 256 + specials, (int)TFPI_MAX_TOKENS);
    return NULL;
  }
  tok = tfpi_tokenizer_new(ctx, vocab_size);
  if (!tok) return NULL;
  tok->byte_level = 1, tok->pre = TFPI_PRE_GPT2;
  tfpi_trainer_open(ctx, &t, options);
  t.tok = tok;
  buffer = (char *)tfpi_new(tok->scratch, TFPI_PIECE_MAX, 1);
  if (!ctx->status && !tfpi_style_add(tok, style, 0, first) && !tfpi_add_bytes(tok, 1))
    tfpi_slots_make(&t.slots, 1 << 16);
  for (i = 0; i < n && !ctx->status; i++) tfpi_count_file(&t, paths[i], buffer);
  if (!ctx->status && !tfpi_trainer_start(&t) &&
      !tfpi_trainer_merge(&t, vocab_size - specials + first))
    tfpi_style_add(tok, style, first, 256);
  tok->n_merges = t.merges.n;
  tok->merges = (tfpi_merge_entry *)tfpi_new(tok->arena, t.merges.n, sizeof *tok->merges);
  if (!ctx->status && t.merges.n)
    memcpy(tok->merges, t.merges.at, (size_t)t.merges.n * sizeof *tok->merges);
  tfpi_trainer_close(&t);
  if (!ctx->status) return tfpi_tokenizer_finish(tok, style);
  tfp_tokenizer_free(tok);
  return NULL;
}
/* ================================================================================================
 * >>data.c   corpora, splits, batches
 * ================================================================================================
 */
enum { TFPI_BLOCK_TOKENS = 1 << 16 };
typedef struct tfpi_segment {
  int64_t start, end, before;
} tfpi_segment; /* before: tokens in front of it */

struct tfp_dataset {
  tfp_ctx *ctx;
  tfpi_arena *arena;
  void **blocks;          /* of TFPI_BLOCK_TOKENS tokens, 2 or 4 bytes each */
  int64_t n_blocks, max_blocks;
  int wide;
  int64_t tokens;
  int64_t *doc_end;       /* position behind each document */
  int64_t documents, max_documents;
  tfpi_segment *segments[2]; /* of a split: stretches of tokens in their order */
  int64_t n_segments[2], size[2];
  int64_t vocab;
  uint64_t hash;
};

/* Doubles a table in the data set's arena. The old one stays until the arena ends. */
static void *tfpi_double_table(tfp_dataset *d, const void *old, int64_t used, int64_t *max,
                               size_t size) {
  const int64_t more = *max ? *max * 2 : 64;
  void *table = tfpi_new(d->arena, more, size);
  if (!table) return NULL;
  if (used) memcpy(table, old, (size_t)used * size);
  *max = more;
  return table;
}
static tfp_status tfpi_dataset_add(void *user, const int32_t *ids, int64_t n) {
  tfp_dataset *d = (tfp_dataset *)user;
  int64_t i;
  for (i = 0; i < n; i++) {
    const int64_t at = d->tokens % TFPI_BLOCK_TOKENS, block = d->tokens / TFPI_BLOCK_TOKENS;
    if (block == d->n_blocks) {
      if (d->n_blocks == d->max_blocks) {
        d->blocks = (void **)tfpi_double_table(d, d->blocks, d->n_blocks, &d->max_blocks,
                                               sizeof *d->blocks);
        if (!d->blocks) return d->ctx->status;
      }
      if (tfpi_take(d->arena, (size_t)TFPI_BLOCK_TOKENS * (d->wide ? 4 : 2), TFPI_META,
                    &d->blocks[block]))
        return d->ctx->status;
      d->n_blocks++;
    }
    if (d->wide) ((int32_t *)d->blocks[block])[at] = ids[i];
    else ((uint16_t *)d->blocks[block])[at] = (uint16_t)ids[i];
    d->hash = (d->hash ^ (uint64_t)(uint32_t)ids[i]) * 0x100000001b3u;
    d->tokens++;
  }
  return TFP_OK;
}
static int32_t tfpi_dataset_token(const tfp_dataset *d, int64_t i) {
  const void *block = d->blocks[i / TFPI_BLOCK_TOKENS];
  const int64_t at = i % TFPI_BLOCK_TOKENS;
  return d->wide ? ((const int32_t *)block)[at] : ((const uint16_t *)block)[at];
}
static tfp_status tfpi_dataset_end_document(tfp_dataset *d, int32_t end_id) {
  const int64_t before = d->documents ? d->doc_end[d->documents - 1] : 0;
  if (d->tokens == before) return TFP_OK; /* an empty document is none */
  if (end_id >= 0 && tfpi_dataset_add(d, &end_id, 1)) return d->ctx->status;
  if (d->documents == d->max_documents) {
    d->doc_end = (int64_t *)tfpi_double_table(d, d->doc_end, d->documents, &d->max_documents,
                                              sizeof *d->doc_end);
    if (!d->doc_end) return d->ctx->status;
  }
  d->doc_end[d->documents++] = d->tokens;
  return TFP_OK;
}

static void tfpi_segment_add(tfp_dataset *d, int split, int64_t start, int64_t end) {
  tfpi_segment *s = d->segments[split];
  int64_t n = d->n_segments[split];
  if (end <= start) return;
  if (n && s[n - 1].end == start) {
    s[n - 1].end = end;
  } else {
    s[n].start = start, s[n].end = end, s[n].before = d->size[split];
    d->n_segments[split]++;
  }
  d->size[split] += end - start;
}
/* Few documents: the last tokens validate. Many: each goes by a hash of its number. */
static tfp_status tfpi_dataset_split(tfp_dataset *d, double fraction) {
  int64_t i, start = 0;
  int split;
  for (split = 0; split < 2; split++) {
    d->segments[split] = (tfpi_segment *)tfpi_new(d->arena, d->documents + 1, sizeof **d->segments);
    if (!d->segments[split]) return d->ctx->status;
  }
  if (d->documents < 100) {
    const int64_t cut = d->tokens - (int64_t)floor((double)d->tokens * fraction);
    tfpi_segment_add(d, TFP_TRAIN, 0, cut);
    tfpi_segment_add(d, TFP_VALIDATION, cut, d->tokens);
    return TFP_OK;
  }
  for (i = 0; i < d->documents; i++) {
    const int to = (double)tfp_random_uniform(0x73706c6974u, 0, (uint64_t)i) < fraction
                       ? TFP_VALIDATION
                       : TFP_TRAIN;
    tfpi_segment_add(d, to, start, d->doc_end[i]);
    start = d->doc_end[i];
  }
  return TFP_OK;
}

static tfp_dataset *tfpi_dataset_open(tfp_ctx *ctx, int64_t vocab, double val_fraction) {
  tfp_dataset *d;
  tfpi_arena *arena;
  if (ctx->status) return NULL;
  if (!(val_fraction >= 0 && val_fraction < 1)) {
    tfpi_fail(ctx, TFP_ERR_ARG, "dataset: a validation part of %g is not in [0,1)", val_fraction);
    return NULL;
  }
  arena = tfpi_arena_borrow(ctx);
  if (!arena) return NULL;
  d = (tfp_dataset *)tfpi_new(arena, 1, sizeof *d);
  if (!d) return NULL;
  d->ctx = ctx, d->arena = arena, d->vocab = vocab, d->wide = vocab > 65536,
  d->hash = 0xcbf29ce484222325u;
  return d;
}

/* ---- reading files ---- */

static int tfpi_ends_with(const char *s, const char *end) {
  const size_t n = strlen(s), m = strlen(end);
  return n >= m && strcmp(s + n - m, end) == 0;
}
/* One file as a stream of pieces of any cut. */
static tfp_status tfpi_dataset_stream(tfp_dataset *d, tfp_encoder *enc, const char *path,
                                      int32_t end_id) {
  char piece[1 << 14];
  int64_t n;
  tfp_file *file = tfp_file_open(d->ctx, path);
  if (!file) return d->ctx->status;
  while ((n = tfp_file_read(file, piece, sizeof piece)) > 0)
    if (tfp_encoder_feed(enc, piece, n)) break;
  tfp_file_close(file);
  if (!d->ctx->status) tfp_encoder_end(enc);
  return d->ctx->status ? d->ctx->status : tfpi_dataset_end_document(d, end_id);
}
static int tfpi_is_blank(const char *s, int64_t n) {
  while (n > 0 && (s[n - 1] == '\n' || s[n - 1] == '\r' || s[n - 1] == ' ' || s[n - 1] == '\t'))
    n--;
  return n == 0;
}
/* A document a line, or a paragraph, or the "text" of a JSON line. */
static tfp_status tfpi_dataset_lines(tfp_dataset *d, tfp_encoder *enc, const char *path,
                                     tfp_doc_per per, int32_t end_id) {
  const int json = tfpi_ends_with(path, ".jsonl");
  const char *line;
  int64_t n, number = 0;
  tfp_file *file = tfp_file_open(d->ctx, path);
  if (!file) return d->ctx->status;
  while (!d->ctx->status && (n = tfp_file_line(file, &line)) >= 0) {
    number++;
    if (json) {
      tfp_json *root;
      const tfp_json *text;
      if (tfpi_is_blank(line, n)) continue;
      root = tfp_json_parse(d->ctx, line, n, path);
      text = root ? tfp_json_get(root, "text") : NULL;
      if (text && text->type == TFP_JSON_STRING)
        tfp_encoder_feed(enc, text->text, text->text_bytes);
      else if (root)
        tfpi_fail(d->ctx, TFP_ERR_DATA, "dataset: line %i of '%s' has no \"text\"", number, path);
      tfp_json_free(root);
    } else if (!tfpi_is_blank(line, n)) {
      tfp_encoder_feed(enc, line, n);
      if (per == TFP_DOC_PER_BLANK) {
        if (!d->ctx->status) tfp_encoder_feed(enc, "\n", 1);
        continue;
      }
    }
    if (!d->ctx->status && !tfp_encoder_end(enc)) tfpi_dataset_end_document(d, end_id);
  }
  tfp_file_close(file);
  if (!d->ctx->status && !tfp_encoder_end(enc)) tfpi_dataset_end_document(d, end_id);
  return d->ctx->status;
}

TFP_API tfp_dataset *tfp_dataset_load(tfp_ctx *ctx, const tfp_data_desc *desc) {
  tfp_dataset *d;
  tfp_encoder *enc;
  int32_t end_id = -1;
  int i;
  if (ctx->status) return NULL;
  if (!desc->tokenizer || desc->count < 1) {
    tfpi_fail(ctx, TFP_ERR_ARG, "dataset: needs a tokenizer and files, got %d", desc->count);
    return NULL;
  }
  d = tfpi_dataset_open(ctx, tfp_vocab_size(desc->tokenizer), desc->val_fraction);
  if (!d) return NULL;
  if (desc->append_end) {
    const tfp_special_ids special = tfp_tokenizer_specials(desc->tokenizer);
    end_id = special.eos >= 0 ? special.eos : special.sep;
  }
  enc = tfp_encoder_new(desc->tokenizer, 0, tfpi_dataset_add, d);
  for (i = 0; i < desc->count && enc && !ctx->status; i++) {
    if (tfpi_ends_with(desc->paths[i], ".jsonl") || desc->doc_per != TFP_DOC_PER_FILE)
      tfpi_dataset_lines(d, enc, desc->paths[i], desc->doc_per, end_id);
    else
      tfpi_dataset_stream(d, enc, desc->paths[i], end_id);
  }
  tfp_encoder_free(enc);
  if (!ctx->status && !d->tokens)
    tfpi_fail(ctx, TFP_ERR_DATA, "dataset: '%s'%s without any text", desc->paths[0],
              desc->count > 1 ? " and the others are" : " is");
  if (!ctx->status) tfpi_dataset_split(d, desc->val_fraction);
  if (!ctx->status) return d;
  tfp_dataset_free(d);
  return NULL;
}

TFP_API tfp_dataset *tfp_dataset_from_tokens(tfp_ctx *ctx, const int32_t *tokens, int64_t n,
                                             int64_t vocab, int32_t end_id, double val_fraction) {
  tfp_dataset *d = tfpi_dataset_open(ctx, vocab, val_fraction);
  int64_t i;
  for (i = 0; d && i < n && !ctx->status; i++) {
    if (tokens[i] < 0 || tokens[i] >= vocab)
      tfpi_fail(ctx, TFP_ERR_DATA, "dataset: token %i is %d, outside [0,%i)", i, (int)tokens[i],
                vocab);
    else if (!tfpi_dataset_add(d, tokens + i, 1) && tokens[i] == end_id)
      tfpi_dataset_end_document(d, -1);
  }
  if (d && !ctx->status && !tfpi_dataset_end_document(d, -1) && !d->tokens)
    tfpi_fail(ctx, TFP_ERR_DATA, "dataset: no tokens");
  if (d && !ctx->status) tfpi_dataset_split(d, val_fraction);
  if (d && !ctx->status) return d;
  tfp_dataset_free(d);
  return NULL;
}
TFP_API void tfp_dataset_free(tfp_dataset *data) {
  if (data) tfpi_arena_return(data->arena);
}

/* ---- access ---- */

TFP_API int64_t tfp_dataset_tokens(const tfp_dataset *data, tfp_partition split) {
  return data ? data->size[split] : 0;
}
TFP_API int64_t tfp_dataset_documents(const tfp_dataset *data) {
  return data ? data->documents : 0;
}
TFP_API uint64_t tfp_dataset_hash(const tfp_dataset *data) { return data ? data->hash : 0; }
TFP_API int64_t tfp_dataset_read(const tfp_dataset *data, tfp_partition split, int64_t first,
                                 int64_t n, int32_t *out) {
  const tfpi_segment *s = data->segments[split];
  int64_t low = 0, high = data->n_segments[split], got = 0;
  if (first < 0 || first >= data->size[split]) return 0;
  while (high - low > 1) { /* the last segment that begins at or before `first` */
    const int64_t middle = (low + high) / 2;
    if (s[middle].before <= first) low = middle;
    else high = middle;
  }
  for (; got < n && low < data->n_segments[split]; low++) {
    int64_t at = s[low].start + (first + got - s[low].before);
    for (; at < s[low].end && got < n; at++) out[got++] = tfpi_dataset_token(data, at);
  }
  return got;
}
TFP_API int64_t tfp_dataset_windows(const tfp_dataset *data, int64_t length) {
  const int64_t n = data->size[TFP_TRAIN] - 1; /* one token is left over for a last label */
  if (n < length) return 0;
  return tfpi_max64(1, n / length - 1); /* the cut moves by up to a window */
}
TFP_API int64_t tfp_dataset_window(const tfp_dataset *data, uint64_t seed, uint64_t example,
                                   int64_t length) {
  const int64_t windows = tfp_dataset_windows(data, length),
                spare = data->size[TFP_TRAIN] - 1 - windows * length;
  const uint64_t epoch = example / (uint64_t)windows, stream = tfp_stream(epoch, 0, 0x77);
  const int64_t k =
      tfp_random_permuted(seed, stream, (int64_t)(example % (uint64_t)windows), windows);
  return k * length + tfp_random_below(seed, stream ^ (uint64_t)1 << 62, 0, spare + 1);
}

TFP_API int64_t tfp_batch_scored(const tfp_batch *batch) {
  int64_t i, n = 0;
  for (i = 0; batch->labels && i < batch->n_labels; i++) n += batch->labels[i] != TFP_IGNORE_INDEX;
  return n;
}
/* ================================================================================================
 * >>objectives.c   what a model is asked to predict
 * ================================================================================================
 */
/* Draws of one example, in order: the coordinates are (seed, objective and example, number of
 * draw). */
typedef struct tfpi_draws { uint64_t seed, stream, next; } tfpi_draws;
enum { TFPI_DRAWS_MLM = 1, TFPI_DRAWS_SPAN, TFPI_DRAWS_DENOISE, TFPI_DRAWS_WINDOW };
static tfpi_draws tfpi_draws_of(uint64_t seed, uint64_t index, unsigned objective) {
  tfpi_draws d;
  d.seed = seed, d.stream = index << 8 | objective, d.next = 0;
  return d;
}
static double tfpi_draw(tfpi_draws *d) {
  return (double)tfp_random_uniform(d->seed, d->stream, d->next++);
}
static int64_t tfpi_draw_below(tfpi_draws *d, int64_t n) {
  return tfp_random_below(d->seed, d->stream ^ (uint64_t)1 << 63, d->next++, n);
}
/* A random order of the first `take` of n numbers: Fisher and Yates from the front. */
static void tfpi_shuffle(tfpi_draws *d, int32_t *x, int64_t n, int64_t take) {
  int64_t i;
  for (i = 0; i < take && i < n - 1; i++) {
    const int64_t j = i + tfpi_draw_below(d, n - i);
    const int32_t t = x[i];
    x[i] = x[j], x[j] = t;
  }
}
/* Rounds halves to even, as Python's round does: the published counts depend on it. */
static int64_t tfpi_round_even(double x) {
  const double f = floor(x), r = x - f;
  const int64_t n = (int64_t)f;
  return r > 0.5 || (r == 0.5 && n % 2) ? n + 1 : n;
}

/* ---- masked language modelling ---- */

/* A token of the vocabulary that is no special one; gives up after 100 draws and takes what it has.
 * */
static int32_t tfpi_draw_token(tfpi_draws *d, const tfp_mlm_options *o) {
  int32_t id = 0;
  int tries;
  for (tries = 0; tries < 100; tries++) {
    id = (int32_t)tfpi_draw_below(d, o->vocab);
    if (!o->special || !o->special[id]) break;
  }
  return id;
}
static void tfpi_mlm_hide(tfpi_draws *d, const tfp_mlm_options *o, int64_t i, int32_t *ids,
                          int32_t *labels) {
  const int usual = o->keep == 0 && o->random == 0;
  const double keep = usual ? 0.1 : o->keep > 0 ? o->keep : 0, random = usual ? 0.1 : o->random;
  const double u = tfpi_draw(d);
  labels[i] = ids[i];
  if (u < keep) return;
  ids[i] = u < keep + random ? tfpi_draw_token(d, o) : o->mask_id;
}
TFP_API int64_t tfp_mlm(const int32_t *tokens, int64_t n, const tfp_mlm_options *o, uint64_t seed,
                        uint64_t index, int32_t *ids, int32_t *labels, int32_t *work) {
  tfpi_draws d = tfpi_draws_of(seed, index, TFPI_DRAWS_MLM);
  const double share = o->share > 0 ? o->share : 0.15;
  int64_t i, candidates = 0, wanted, asked = 0;
  for (i = 0; i < n; i++) {
    const int special =
        o->special && tokens[i] >= 0 && tokens[i] < o->vocab && o->special[tokens[i]];
    ids[i] = tokens[i];
    labels[i] = TFP_IGNORE_INDEX;
    if (!special || o->count == TFP_MLM_DITHERED) work[candidates++] = (int32_t)i;
  }
  if (o->count == TFP_MLM_EACH) {
    for (i = 0; i < candidates; i++)
      if (tfpi_draw(&d) < share) {
        tfpi_mlm_hide(&d, o, work[i], ids, labels);
        asked++;
      }
    return asked;
  }
  wanted = o->count == TFP_MLM_EXACT ? tfpi_max64(1, tfpi_round_even(share * (double)n))
                                     : (int64_t)floor(share * (double)n + tfpi_draw(&d));
  wanted = tfpi_min64(wanted, candidates);
  tfpi_shuffle(&d, work, candidates, wanted);
  for (i = 0; i < wanted; i++) tfpi_mlm_hide(&d, o, work[i], ids, labels);
  return wanted;
}

/* ---- causal language modelling ---- */

TFP_API int64_t tfp_clm(const int32_t *tokens, int64_t n, int32_t end_id, int separate,
                        int32_t *ids, int32_t *labels, int32_t *positions, int32_t *docs) {
  int64_t i, scored = 0;
  int32_t position = 0, doc = 0;
  for (i = 0; i < n; i++) {
    const int ends = separate && end_id >= 0 && tokens[i] == end_id;
    ids[i] = tokens[i];
    labels[i] = ends ? TFP_IGNORE_INDEX : tokens[i + 1];
    scored += !ends;
    if (positions) positions[i] = position;
    if (docs) docs[i] = doc;
    position++;
    if (ends) position = 0, doc++;
  }
  return scored;
}

/* ---- span corruption ---- */

/* Hidden tokens and hidden spans in a text of n tokens. */
static void tfpi_span_counts(int64_t n, const tfp_span_options *o, int64_t *hidden,
                             int64_t *spans) {
  const double density = o->density > 0 ? o->density : 0.15,
               mean = o->mean_length > 0 ? o->mean_length : 3;
  *hidden = tfpi_max64(1, tfpi_min64(tfpi_round_even((double)n * density), n - 1));
  *spans = tfpi_max64(1, tfpi_round_even((double)*hidden / mean));
  *spans = tfpi_min64(*spans, tfpi_min64(*hidden, n - *hidden)); /* no part may be empty */
}
TFP_API int64_t tfp_span_lengths(int64_t inputs, const tfp_span_options *o, int64_t *targets) {
  const int64_t end = o->end_id >= 0;
  int64_t n = tfpi_max64(2, inputs - end), hidden, spans;
  for (;;) {
    tfpi_span_counts(n + 1, o, &hidden, &spans);
    if (n + 1 - hidden + spans + end > inputs) break;
    n++;
  }
  tfpi_span_counts(n, o, &hidden, &spans);
  *targets = hidden + spans + end;
  if (o->density == 0.5 && *targets > inputs) n--, --*targets;
  return n;
}
/* Cuts n items into k parts that are not empty, all ways equally likely: lengths (k), flags (n). */
static void tfpi_random_parts(tfpi_draws *d, int64_t n, int64_t k, int32_t *lengths,
                              int32_t *flags) {
  int64_t i, part = 0;
  for (i = 0; i < n - 1; i++) flags[i] = i < k - 1;
  tfpi_shuffle(d, flags, n - 1, n - 1);
  for (i = 0; i < k; i++) lengths[i] = 0;
  for (i = 0; i < n; i++) {
    if (i && flags[i - 1]) part++;
    lengths[part]++;
  }
}
TFP_API int64_t tfp_span_corrupt(const int32_t *tokens, int64_t n, const tfp_span_options *o,
                                 uint64_t seed, uint64_t index, int32_t *inputs, int64_t *n_inputs,
                                 int32_t *targets, int64_t *n_targets, int32_t *work) {
  tfpi_draws d = tfpi_draws_of(seed, index, TFPI_DRAWS_SPAN);
  int32_t *hide = work, *keep = work + n, *flags = work + 2 * n;
  int64_t hidden, spans, s, i, at = 0, a = 0, b = 0;
  tfpi_span_counts(n, o, &hidden, &spans);
  tfpi_random_parts(&d, hidden, spans, hide, flags);
  tfpi_random_parts(&d, n - hidden, spans, keep, flags);
  for (s = 0; s < spans; s++) {
    const int32_t sentinel = o->sentinel0 + (int32_t)s * (o->sentinel_step ? o->sentinel_step : -1);
    for (i = 0; i < keep[s]; i++) inputs[a++] = tokens[at++];
    inputs[a++] = sentinel;
    targets[b++] = sentinel;
    for (i = 0; i < hide[s]; i++) targets[b++] = tokens[at++];
  }
  if (o->end_id >= 0) inputs[a++] = o->end_id, targets[b++] = o->end_id;
  *n_inputs = a, *n_targets = b;
  return spans;
}

/* ---- denoising ---- */

/* Copies the text with sentences in another order. A sentence ends with a full stop that follows
 * something else, and with the text. work: 4 n. */
static void tfpi_permute_sentences(tfpi_draws *d, const int32_t *tokens, int64_t n,
                                   const tfp_denoise_options *o, int32_t *out, int32_t *work) {
  int32_t *end = work, *chosen = work + n, *order = work + 2 * n, *places = work + 3 * n;
  const double share = o->permute == 0 ? 1 : o->permute < 0 ? 0 : o->permute;
  int64_t count = 0, i, k, at = 1, take;
  for (i = 1; i < n - 1; i++) {
    const int stop = o->stop_id >= 0 && tokens[i] == o->stop_id && tokens[i - 1] != o->stop_id;
    if (stop || i == n - 2) end[count++] = (int32_t)i + 1;
  }
  take = (int64_t)ceil(share * (double)count);
  for (i = 0; i < count; i++) chosen[i] = order[i] = (int32_t)i;
  tfpi_shuffle(d, chosen, count,
               take); /* the first `take` move; in rising order they are the places */
  for (i = 0; i < take; i++) {
    for (k = i; k > 0 && places[k - 1] > chosen[i]; k--) places[k] = places[k - 1];
    places[k] = chosen[i];
  }
  for (i = 0; i < take; i++) order[places[i]] = chosen[i];
  out[0] = tokens[0];
  for (i = 0; i < count; i++) {
    const int64_t s = order[i];
    for (k = s ? end[s - 1] : 1; k < end[s]; k++) out[at++] = tokens[k];
  }
  out[n - 1] = tokens[n - 1];
}
/* Poisson(lambda), from a table cut where the probability falls under 1e-7. */
static int64_t tfpi_draw_poisson(tfpi_draws *d, double lambda) {
  double p = exp(-lambda), u = tfpi_draw(d), sum = 0, total = 0, q = p;
  int64_t k, top;
  for (top = 0; top < 128 && (q >= 1e-7 || (double)top < lambda); top++)
    total += q, q *= lambda / (double)(top + 1);
  for (k = 0; k < top - 1; k++) {
    sum += p;
    if (u * total < sum) break;
    p *= lambda / (double)(k + 1);
  }
  return k;
}
static int32_t tfpi_denoise_mask(tfpi_draws *d, const tfp_denoise_options *o) {
  if (o->random > 0 && tfpi_draw(d) < o->random)
    return 1 + (int32_t)tfpi_draw_below(d, o->vocab - 1);
  return o->mask_id;
}
TFP_API int64_t tfp_denoise(const int32_t *tokens, int64_t n, const tfp_denoise_options *o,
                            uint64_t seed, uint64_t index, int32_t *noised, int32_t *work) {
  tfpi_draws d = tfpi_draws_of(seed, index, TFPI_DRAWS_DENOISE);
  const double share = o->share > 0 ? o->share : 0.3, lambda = o->lambda > 0 ? o->lambda : 3;
  int32_t *text = work, *lengths = work + n, *start = work + 2 * n, *place = work + 3 * n;
  int64_t i, budget, spans = 0, inserts = 0, covered = 0, out = 0, room;
  if (n < 3) {
    for (i = 0; i < n; i++) noised[i] = tokens[i];
    return n;
  }
  tfpi_permute_sentences(&d, tokens, n, o, text, work + 3 * n);
  budget = (int64_t)ceil((double)(n - 2) * share);
  while (covered < budget) { /* the last span is cut so that the budget is met exactly */
    const int64_t l = tfpi_min64(tfpi_draw_poisson(&d, lambda), budget - covered);
    if (l) lengths[spans++] = (int32_t)l;
    else inserts++;
    covered += l;
  }
  for (i = 0; i < n - 2; i++) place[i] = (int32_t)i + 1, start[i + 1] = 0;
  start[0] = 0;
  tfpi_shuffle(&d, place, n - 2, spans);
  for (i = 0; i < spans; i++) start[place[i]] = lengths[i];
  noised[out++] = text[0];
  for (i = 1; i < n - 1;) { /* a span that runs into the next one's start goes on inside it */
    int64_t left = start[i];
    if (!left) {
      noised[out++] = text[i++];
      continue;
    }
    noised[out++] = tfpi_denoise_mask(&d, o);
    for (i++, left--; left > 0 && i < n - 1 && !start[i]; left--) i++;
  }
  noised[out++] = text[n - 1];
  room = tfpi_min64(inserts, n - out);
  for (; room > 0; room--) {
    const int64_t at = 1 + tfpi_draw_below(&d, out - 1);
    memmove(noised + at + 1, noised + at, (size_t)(out - at) * sizeof *noised);
    noised[at] = tfpi_denoise_mask(&d, o);
    out++;
  }
  return out;
}

TFP_API void tfp_shift_right(const int32_t *labels, int64_t n, int32_t start_id, int32_t pad_id,
                             int32_t *out) {
  int64_t i;
  for (i = n - 1; i > 0; i--) out[i] = labels[i - 1] == TFP_IGNORE_INDEX ? pad_id : labels[i - 1];
  if (n > 0) out[0] = start_id;
}

/* ---- batches of an objective ---- */

struct tfp_loader {
  tfp_ctx *ctx;
  tfpi_arena *arena;
  tfp_loader_desc desc;
  int64_t raw, S; /* tokens of text in an example; length of the decoder's side, 0 without */
  int32_t *text, *ids, *mask, *labels, *dec_ids, *dec_mask, *positions, *docs, *work;
};

/* The tokens that frame a text: its start (or -1) and its end. */
static int32_t tfpi_frame_start(const tfp_special_ids *s) { return s->cls >= 0 ? s->cls : s->bos; }
static int32_t tfpi_frame_end(const tfp_special_ids *s) { return s->sep >= 0 ? s->sep : s->eos; }

static tfp_status tfpi_loader_check(tfp_loader *l) {
  tfp_ctx *ctx = l->ctx;
  tfp_loader_desc *d = &l->desc;
  const int64_t framed = (tfpi_frame_start(&d->special) >= 0) + (tfpi_frame_end(&d->special) >= 0);
  if (!d->data || d->rows < 1 || d->T < 4 || d->T > 1 << 20)
    return tfpi_fail(
        ctx, TFP_ERR_ARG,
        "loader: %i rows of length %i; 1 row and lengths from 4 to 1048576 are possible", d->rows,
        d->T);
  switch (d->objective) {
    case TFP_CLM:
      l->raw = d->T;
      return TFP_OK;
    case TFP_MLM:
      l->raw = d->T - framed;
      if (d->mlm.mask_id < 0 || d->mlm.vocab <= d->mlm.mask_id)
        return tfpi_fail(
            ctx, TFP_ERR_ARG,
            "loader: masked language modelling wants a mask token; this one is %d of %i",
            (int)d->mlm.mask_id, d->mlm.vocab);
      return TFP_OK;
    case TFP_SPAN:
      l->raw = tfp_span_lengths(d->T, &d->span, &l->S);
      if (d->span.sentinel0 < 0 || d->special.sentinels < l->S / 2)
        return tfpi_fail(
            ctx, TFP_ERR_ARG,
            "loader: span corruption of length %i wants up to %i sentinels; the tokenizer "
            "has %d",
            d->T, l->S / 2, (int)d->special.sentinels);
      return TFP_OK;
    case TFP_DENOISE:
      l->raw = d->T - framed;
      l->S = d->T;
      if (framed < 2 || d->denoise.mask_id < 0)
        return tfpi_fail(
            ctx, TFP_ERR_ARG,
            "loader: denoising wants start, end and mask tokens; the tokenizer has %d, "
            "%d, %d",
            (int)tfpi_frame_start(&d->special), (int)tfpi_frame_end(&d->special),
            (int)d->denoise.mask_id);
      return TFP_OK;
  }
  return tfpi_fail(ctx, TFP_ERR_ARG, "loader: objective %d is unknown", (int)d->objective);
}

TFP_API tfp_loader *tfp_loader_create(tfp_ctx *ctx, const tfp_loader_desc *desc) {
  tfp_loader *l;
  tfpi_arena *arena;
  int64_t enc, dec, longest;
  if (ctx->status) return NULL;
  arena = tfpi_arena_borrow(ctx);
  if (!arena) return NULL;
  l = (tfp_loader *)tfpi_new(arena, 1, sizeof *l);
  if (!l) return NULL;
  l->ctx = ctx;
  l->arena = arena;
  memcpy(&l->desc, desc, sizeof *desc);
  if (tfpi_loader_check(l)) {
    tfpi_arena_return(arena);
    return NULL;
  }
  if (!tfp_dataset_windows(desc->data, l->raw)) {
    tfpi_fail(ctx, TFP_ERR_DATA,
              "loader: the training part has %i tokens; one example of length %i wants %i",
              tfp_dataset_tokens(desc->data, TFP_TRAIN), desc->T, l->raw + 1);
    tfpi_arena_return(arena);
    return NULL;
  }
  enc = desc->rows * desc->T, dec = desc->rows * l->S;
  longest = tfpi_max64(l->raw + 4, desc->T + l->S);
  l->text = (int32_t *)tfpi_new(arena, longest, sizeof(int32_t));
  l->work = (int32_t *)tfpi_new(arena, 8 * longest + 64, sizeof(int32_t));
  l->ids = (int32_t *)tfpi_new(arena, enc, sizeof(int32_t));
  l->mask = (int32_t *)tfpi_new(arena, enc, sizeof(int32_t));
  l->labels = (int32_t *)tfpi_new(arena, tfpi_max64(enc, dec), sizeof(int32_t));
  if (l->S) {
    l->dec_ids = (int32_t *)tfpi_new(arena, dec, sizeof(int32_t));
    l->dec_mask = (int32_t *)tfpi_new(arena, dec, sizeof(int32_t));
  }
  if (desc->objective == TFP_CLM && desc->separate) {
    l->positions = (int32_t *)tfpi_new(arena, enc, sizeof(int32_t));
    l->docs = (int32_t *)tfpi_new(arena, enc, sizeof(int32_t));
  }
  if (!ctx->status) return l;
  tfpi_arena_return(arena);
  return NULL;
}
TFP_API void tfp_loader_free(tfp_loader *loader) {
  if (loader) tfpi_arena_return(loader->arena);
}
TFP_API int64_t tfp_loader_lengths(const tfp_loader *loader, int64_t *T, int64_t *S) {
  *T = loader->desc.T;
  *S = loader->S;
  return loader->raw;
}

static void tfpi_pad(int32_t *row, int32_t *mask, int64_t n, int64_t length, int32_t pad) {
  int64_t i;
  for (i = 0; i < length; i++) {
    if (mask) mask[i] = i < n;
    if (i >= n) row[i] = pad;
  }
}
/* Row r of the batch out of n tokens at l->text (n+1 for CLM, the last one a label only). */
static void tfpi_loader_row(tfp_loader *l, int64_t r, int64_t n, uint64_t seed, uint64_t number) {
  const tfp_loader_desc *d = &l->desc;
  const int64_t T = d->T, S = l->S;
  const int32_t pad = d->special.pad >= 0 ? d->special.pad : 0;
  const int32_t start = tfpi_frame_start(&d->special), end = tfpi_frame_end(&d->special);
  int32_t *ids = l->ids + r * T, *mask = l->mask + r * T, *labels = l->labels + r * (S ? S : T);
  int64_t n_in = n, n_out = 0, at = 0;
  if (d->objective == TFP_CLM) {
    tfp_clm(l->text, n, d->special.eos, d->separate, ids, labels,
            l->positions ? l->positions + r * T : NULL, l->docs ? l->docs + r * T : NULL);
    n_out = n;
    if (l->docs)
      tfpi_pad(l->docs + r * T, NULL, n, T, -1), tfpi_pad(l->positions + r * T, NULL, n, T, 0);
  } else if (d->objective == TFP_SPAN) {
    tfp_span_corrupt(l->text, n, &d->span, seed, number, ids, &n_in, labels, &n_out, l->work);
  } else {
    int32_t *framed = l->work + 7 * (n + 2);
    if (start >= 0) framed[at++] = start;
    memcpy(framed + at, l->text, (size_t)n * sizeof *framed);
    at += n;
    if (end >= 0) framed[at++] = end;
    n_out = at;
    if (d->objective == TFP_MLM) {
      tfp_mlm(framed, at, &d->mlm, seed, number, ids, labels, l->work);
      n_in = at;
    } else {
      memcpy(labels, framed, (size_t)at * sizeof *labels);
      n_in = tfp_denoise(framed, at, &d->denoise, seed, number, ids, l->work);
    }
  }
  tfpi_pad(ids, mask, n_in, T, pad);
  tfpi_pad(labels, l->dec_mask ? l->dec_mask + r * S : NULL, n_out, S ? S : T, TFP_IGNORE_INDEX);
  if (S) tfp_shift_right(labels, S, d->decoder_start, pad, l->dec_ids + r * S);
}
static void tfpi_loader_batch(const tfp_loader *l, int64_t rows, int padded, tfp_batch *b) {
  memset(b, 0, sizeof *b);
  b->B = rows, b->T = l->desc.T, b->S = l->S;
  b->ids = l->ids, b->labels = l->labels;
  b->n_labels = rows * (l->S ? l->S : l->desc.T);
  b->mask =
      l->desc.objective == TFP_DENOISE || (padded && l->desc.objective != TFP_CLM) ? l->mask : NULL;
  b->dec_ids = l->dec_ids;
  b->positions = l->positions;
  b->docs = l->docs;
}

TFP_API tfp_status tfp_loader_train(tfp_loader *l, uint64_t first, int64_t rows, tfp_batch *batch) {
  int64_t r;
  if (!l) return TFP_ERR_ARG;
  if (l->ctx->status) return l->ctx->status;
  if (rows < 1 || rows > l->desc.rows)
    return tfpi_fail(l->ctx, TFP_ERR_ARG, "loader: %i rows; it was made for up to %i", rows,
                     l->desc.rows);
  for (r = 0; r < rows; r++) {
    const uint64_t number = first + (uint64_t)r;
    const int64_t at = tfp_dataset_window(l->desc.data, l->desc.seed, number, l->raw);
    tfp_dataset_read(l->desc.data, TFP_TRAIN, at, l->raw + (l->desc.objective == TFP_CLM), l->text);
    tfpi_loader_row(l, r, l->raw, l->desc.seed, number);
  }
  tfpi_loader_batch(l, rows, 0, batch);
  return TFP_OK;
}

TFP_API tfp_status tfp_loader_source(void *loader, uint64_t first, int64_t rows, tfp_batch *batch) {
  return tfp_loader_train((tfp_loader *)loader, first, rows, batch);
}

TFP_API int64_t tfp_loader_eval(tfp_loader *l, tfp_partition split, int64_t window, int64_t rows,
                                tfp_batch *batch) {
  int64_t r, padded = 0;
  const int clm = l && l->desc.objective == TFP_CLM;
  if (!l || l->ctx->status) return -1;
  if (rows < 1 || rows > l->desc.rows || window < 0) {
    tfpi_fail(l->ctx, TFP_ERR_ARG, "loader: window %i, %i rows; it was made for up to %i", window,
              rows, l->desc.rows);
    return -1;
  }
  for (r = 0; r < rows; r++) {
    const int64_t n =
        tfp_dataset_read(l->desc.data, split, (window + r) * l->raw, l->raw + clm, l->text) - clm;
    if (n < (clm ? 1 : 2)) break; /* a single token cannot be hidden with something left */
    padded |= n < l->raw;
    tfpi_loader_row(l, r, n, 0x76616c, (uint64_t)(window + r));
  }
  if (r) tfpi_loader_batch(l, r, padded != 0, batch);
  return r;
}
/* ================================================================================================
 * >>model.c   one configuration, one block, six families
 * ================================================================================================
 */
/* ---- presets ---- */

static const char *const tfpi_families[TFP_FAMILY_COUNT] = {"bert",  "roberta", "gpt2",
                                                            "bloom", "t5",      "bart"};
TFP_API const char *tfp_family_name(tfp_family family) {
  return (int)family >= 0 && family < TFP_FAMILY_COUNT ? tfpi_families[family] : "unknown";
}
TFP_API int tfp_family_from_name(const char *name) {
  int i;
  for (i = 0; i < TFP_FAMILY_COUNT; i++)
    if (strcmp(name, tfpi_families[i]) == 0) return i;
  return -1;
}

/* What all sizes of a family share. */
static void tfpi_config_family(tfp_config *c, tfp_family family) {
  memset(c, 0, sizeof *c);
  c->family = family;
  c->head = TFP_HEAD_LM;
  c->tied = c->biases = c->class_bias = 1;
  c->norm_eps = 1e-5;
  c->init_std = 0.02;
  c->activation = TFP_ACT_GELU;
  c->position = TFP_POS_LEARNED;
  c->bos = c->eos = c->pad = c->decoder_start = -1;
  c->rotary_base = 10000;
  switch (family) {
    case TFP_BERT:
      c->arch = TFP_ENCODER;
      c->embedding_norm = c->transform = c->output_bias = c->pool_dense = 1;
      c->norm_eps = 1e-12, c->type_vocab = 2, c->max_positions = 512, c->pad = 0;
      break;
    case TFP_ROBERTA:
      c->arch = TFP_ENCODER;
      c->embedding_norm = c->transform = c->output_bias = c->pool_dense = 1;
      c->type_vocab = 1, c->max_positions = 512, c->position_offset = 2, c->positions_skip_pad = 1;
      c->bos = 0, c->pad = 1, c->eos = 2;
      break;
    case TFP_GPT2:
      c->arch = TFP_DECODER;
      c->norm_first = c->final_norm = c->scaled_residual_init = 1;
      c->activation = TFP_ACT_GELU_NEW, c->max_positions = 1024, c->bos = c->eos = 50256;
      c->pool = TFP_POOL_LAST, c->class_bias = 0;
      break;
    case TFP_BLOOM:
      c->arch = TFP_DECODER;
      c->norm_first = c->final_norm = c->embedding_norm = 1;
      c->activation = TFP_ACT_GELU_NEW, c->position = TFP_POS_ALIBI;
      c->bos = 1, c->eos = 2, c->pad = 3, c->pool = TFP_POOL_LAST, c->class_bias = 0;
      break;
    case TFP_T5:
      c->arch = TFP_SEQ2SEQ;
      c->rms_norm = c->norm_first = c->final_norm = c->unscaled_attention = c->scale_logits = 1;
      c->norm_eps = 1e-6, c->biases = 0, c->activation = TFP_ACT_RELU, c->init_std = 1;
      c->position = TFP_POS_BUCKETS, c->buckets = 32, c->max_distance = 128;
      c->pad = 0, c->eos = 1, c->decoder_start = 0, c->pool = TFP_POOL_LAST_END, c->pool_dense = 1;
      break;
    default: /* TFP_BART */
      c->arch = TFP_SEQ2SEQ;
      c->embedding_norm = 1, c->output_bias = 2, c->position_offset = 2, c->max_positions = 1024;
      c->bos = 0, c->pad = 1, c->eos = 2, c->decoder_start = 2, c->pool = TFP_POOL_LAST_END,
      c->pool_dense = 1;
  }
}

typedef struct tfpi_preset {
  const char *name;
  tfp_family family;
  int vocab, hidden, heads, head_dim, ffn, layers; /* layers of each stack */
} tfpi_preset;
static const tfpi_preset tfpi_presets[] = {
  {"bert-base-uncased", TFP_BERT, 30522, 768, 12, 64, 3072, 12},
  {"bert-base-cased", TFP_BERT, 28996, 768, 12, 64, 3072, 12},
  {"bert-large-uncased", TFP_BERT, 30522, 1024, 16, 64, 4096, 24},
  {"bert-mini", TFP_BERT, 30522, 256, 4, 64, 1024, 4},
  {"bert-tiny", TFP_BERT, 30522, 128, 2, 64, 512, 2},
  {"roberta-base", TFP_ROBERTA, 50265, 768, 12, 64, 3072, 12},
  {"roberta-tiny", TFP_ROBERTA, 50265, 128, 2, 64, 512, 2},
  {"gpt2", TFP_GPT2, 50257, 768, 12, 64, 3072, 12},
  {"gpt2-medium", TFP_GPT2, 50257, 1024, 16, 64, 4096, 24},
  {"gpt2-large", TFP_GPT2, 50257, 1280, 20, 64, 5120, 36},
  {"gpt2-xl", TFP_GPT2, 50257, 1600, 25, 64, 6400, 48},
  {"gpt2-tiny", TFP_GPT2, 50257, 128, 2, 64, 512, 2},
  {"bloom-560m", TFP_BLOOM, 250880, 1024, 16, 64, 4096, 24},
  {"bloom-1b1", TFP_BLOOM, 250880, 1536, 16, 96, 6144, 24},
  {"bloom-1b7", TFP_BLOOM, 250880, 2048, 16, 128, 8192, 24},
  {"bloom-3b", TFP_BLOOM, 250880, 2560, 32, 80, 10240, 30},
  {"bloom-tiny", TFP_BLOOM, 250880, 128, 2, 64, 512, 2},
  {"t5-small", TFP_T5, 32128, 512, 8, 64, 2048, 6},
  {"t5-base", TFP_T5, 32128, 768, 12, 64, 3072, 12},
  {"t5-large", TFP_T5, 32128, 1024, 16, 64, 4096, 24},
  {"t5-v1_1-small", TFP_T5, 32128, 512, 6, 64, 1024, 8},
  {"t5-v1_1-base", TFP_T5, 32128, 768, 12, 64, 2048, 12},
  {"t5-tiny", TFP_T5, 32128, 128, 2, 64, 512, 2},
  {"bart-base", TFP_BART, 50265, 768, 12, 64, 3072, 6},
  {"bart-large", TFP_BART, 50265, 1024, 16, 64, 4096, 12},
  {"bart-tiny", TFP_BART, 50265, 128, 2, 64, 512, 2},
};
TFP_API const char *tfp_preset_name(int i) {
  return i >= 0 && i < TFPI_COUNT(tfpi_presets) ? tfpi_presets[i].name : NULL;
}
TFP_API int tfp_config_preset(const char *name, tfp_config *c) {
  int i;
  for (i = 0; i < TFPI_COUNT(tfpi_presets); i++) {
    const tfpi_preset *p = &tfpi_presets[i];
    if (strcmp(name, p->name)) continue;
    tfpi_config_family(c, p->family);
    c->vocab_size = p->vocab, c->hidden = p->hidden, c->heads = p->heads, c->head_dim = p->head_dim,
    c->ffn = p->ffn;
    if (c->arch != TFP_DECODER) c->encoder_layers = p->layers;
    if (c->arch != TFP_ENCODER) c->decoder_layers = p->layers;
    if (strncmp(name, "t5-v1_1", 7) == 0) { /* v1.1: gated, a head of its own, no scale */
      c->gated = 1, c->activation = TFP_ACT_GELU_NEW, c->tied = 0, c->scale_logits = 0;
    }
    return 1;
  }
  return 0;
}

TFP_API tfp_status tfp_config_check(tfp_ctx *ctx, tfp_config *c) {
  if (ctx->status) return ctx->status;
  if ((int)c->family < 0 || c->family >= TFP_FAMILY_COUNT || (int)c->head < 0 ||
      c->head >= TFP_HEAD_COUNT)
    return tfpi_fail(ctx, TFP_ERR_ARG, "config: family %d with head %d is unknown", (int)c->family,
                     (int)c->head);
  if (c->vocab_size < 1 || c->vocab_size > INT32_MAX)
    return tfpi_fail(ctx, TFP_ERR_ARG, "config: vocab_size is %i", c->vocab_size);
  if (c->hidden < 1 || c->heads < 1)
    return tfpi_fail(ctx, TFP_ERR_ARG, "config: width %i with %i heads", c->hidden, c->heads);
  if (!c->head_dim) {
    if (c->hidden % c->heads)
      return tfpi_fail(ctx, TFP_ERR_ARG, "config: %i heads do not divide the width %i", c->heads,
                       c->hidden);
    c->head_dim = c->hidden / c->heads;
  }
  if (!c->ffn) c->ffn = 4 * c->hidden;
  if (!c->num_labels) c->num_labels = 2;
  if ((c->arch != TFP_DECODER && c->encoder_layers < 1) ||
      (c->arch != TFP_ENCODER && c->decoder_layers < 1) || c->encoder_layers < 0 ||
      c->decoder_layers < 0)
    return tfpi_fail(ctx, TFP_ERR_ARG, "config: %i encoder and %i decoder layers",
                     c->encoder_layers, c->decoder_layers);
  if (c->position == TFP_POS_LEARNED && c->max_positions < 1)
    return tfpi_fail(ctx, TFP_ERR_ARG, "config: learned positions want max_positions above 0");
  if (c->position == TFP_POS_ROTARY && c->head_dim % 2)
    return tfpi_fail(ctx, TFP_ERR_ARG, "config: rotary positions want an even head width, not %i",
                     c->head_dim);
  if (!(c->norm_eps > 0)) return tfpi_fail(ctx, TFP_ERR_ARG, "config: norm_eps is %g", c->norm_eps);
  if (!(c->dropout >= 0 && c->dropout < 1 && c->attention_dropout >= 0 &&
        c->attention_dropout < 1 && c->activation_dropout >= 0 && c->activation_dropout < 1 &&
        c->classifier_dropout >= 0 && c->classifier_dropout < 1))
    return tfpi_fail(ctx, TFP_ERR_ARG, "config: dropout is not in [0,1)");
  return TFP_OK;
}

/* ---- parameters ----
 * Names: "word", "types", then per stack ("encoder", "decoder"): positions, norm_embedding,
 * relative, and per layer attention_norm, qkv, out, cross_norm, cross_q, cross_kv, cross_out,
 * ffn_norm, gate, up, down; final_norm. Heads: lm, lm_dense, lm_norm, class_dense, class, tag, qa.
 * ".w" and ".b" each. */

typedef struct tfpi_builder { tfp_model *model; char prefix[40]; } tfpi_builder;

static tfp_param *tfpi_build(tfpi_builder *b, const char *name, const char *suffix, int ndim,
                             int64_t s0, int64_t s1, tfp_init init, double std) {
  char full[96];
  int64_t shape[2];
  shape[0] = s0, shape[1] = s1;
  tfpi_format(full, sizeof full, "%s%s%s", b->prefix, name, suffix);
  return tfp_param_add(b->model->params, full, ndim, shape, init, std);
}
static void tfpi_build_linear(tfpi_builder *b, const char *name, int64_t out, int64_t in, int bias,
                              double std) {
  tfpi_build(b, name, ".w", 2, out, in, TFP_INIT_NORMAL, std);
  if (bias) tfpi_build(b, name, ".b", 1, out, 0, TFP_INIT_ZERO, 0);
}
static void tfpi_build_norm(tfpi_builder *b, const char *name) {
  const tfp_config *c = &b->model->config;
  tfpi_build(b, name, ".w", 1, c->hidden, 0, TFP_INIT_ONE, c->family == TFP_T5 ? c->init_std : 1);
  if (!c->rms_norm) tfpi_build(b, name, ".b", 1, c->hidden, 0, TFP_INIT_ZERO, 0);
}
/* std of a projection: one number for most families; T5 has one by the sizes of each. */
static double tfpi_std(const tfp_config *c, double t5) {
  return c->family == TFP_T5 ? c->init_std * t5 : c->init_std;
}

static void tfpi_build_layer(tfpi_builder *b, int cross, int64_t layers) {
  const tfp_config *c = &b->model->config;
  const int64_t C = c->hidden, inner = c->heads * c->head_dim;
  const double wide = 1 / sqrt((double)C), narrow = 1 / sqrt((double)inner);
  const double shrink = c->scaled_residual_init ? 1 / sqrt(2.0 * (double)layers) : 1;
  const double q_std = tfpi_std(c, 1 / sqrt((double)(C * c->head_dim))), kv_std = tfpi_std(c, wide);
  tfp_param *qkv;
  tfpi_build_norm(b, "attention_norm");
  qkv = tfpi_build(b, "qkv", ".w", 2, 3 * inner, C, TFP_INIT_NORMAL, kv_std);
  if (qkv && q_std != kv_std)
    qkv->zero_row = -2; /* its first third is drawn with q_std: see tfpi_fix_queries */
  if (c->biases) tfpi_build(b, "qkv", ".b", 1, 3 * inner, 0, TFP_INIT_ZERO, 0);
  tfpi_build_linear(b, "out", C, inner, c->biases, tfpi_std(c, narrow) * shrink);
  if (cross) {
    tfpi_build_norm(b, "cross_norm");
    tfpi_build_linear(b, "cross_q", inner, C, c->biases, q_std);
    tfpi_build_linear(b, "cross_kv", 2 * inner, C, c->biases, kv_std);
    tfpi_build_linear(b, "cross_out", C, inner, c->biases, tfpi_std(c, narrow));
  }
  tfpi_build_norm(b, "ffn_norm");
  if (c->gated) tfpi_build_linear(b, "gate", c->ffn, C, c->biases, tfpi_std(c, wide));
  tfpi_build_linear(b, "up", c->ffn, C, c->biases, tfpi_std(c, wide));
  tfpi_build_linear(b, "down", C, c->ffn, c->biases,
                    tfpi_std(c, 1 / sqrt((double)c->ffn)) * shrink);
}
static void tfpi_build_stack(tfpi_builder *b, const char *stack, int64_t layers, int cross) {
  const tfp_config *c = &b->model->config;
  int64_t l;
  tfpi_format(b->prefix, sizeof b->prefix, "%s.", stack);
  if (c->position == TFP_POS_LEARNED) {
    tfp_param *p = tfpi_build(b, "positions", ".w", 2, c->max_positions + c->position_offset,
                              c->hidden, TFP_INIT_NORMAL, c->init_std);
    if (p && c->positions_skip_pad) p->zero_row = c->pad;
  }
  if (c->position == TFP_POS_BUCKETS) {
    tfp_param *p = tfpi_build(b, "relative", ".w", 2, c->buckets, c->heads, TFP_INIT_NORMAL,
                              tfpi_std(c, 1 / sqrt((double)c->hidden)));
    if (p) p->decay = 0; /* a bias, though it is a table */
  }
  if (c->embedding_norm) tfpi_build_norm(b, "embedding_norm");
  for (l = 0; l < layers; l++) {
    tfpi_format(b->prefix, sizeof b->prefix, "%s.%i.", stack, l);
    tfpi_build_layer(b, cross, layers);
  }
  tfpi_format(b->prefix, sizeof b->prefix, "%s.", stack);
  if (c->final_norm) tfpi_build_norm(b, "final_norm");
  b->prefix[0] = 0;
}
static void tfpi_build_head(tfpi_builder *b) {
  const tfp_config *c = &b->model->config;
  const int64_t C = c->hidden, V = c->vocab_size;
  const double std = tfpi_std(c, 1 / sqrt((double)C));
  tfp_param *p;
  switch (c->head) {
    case TFP_HEAD_LM:
      if (c->transform) {
        tfpi_build_linear(b, "lm_dense", C, C, 1, c->init_std);
        tfpi_build_norm(b, "lm_norm");
      }
      if (!c->tied) tfpi_build(b, "lm", ".w", 2, V, C, TFP_INIT_NORMAL, c->init_std);
      if (c->output_bias) {
        p = tfpi_build(b, "lm", ".b", 1, V, 0, TFP_INIT_ZERO, 0);
        if (p) p->frozen = c->output_bias == 2;
      }
      break;
    case TFP_HEAD_CLASS:
      if (c->pool_dense) tfpi_build_linear(b, "class_dense", C, C, 1, std);
      tfpi_build_linear(b, "class", c->num_labels, C, c->class_bias, std);
      break;
    case TFP_HEAD_TAG: tfpi_build_linear(b, "tag", c->num_labels, C, 1, c->init_std); break;
    case TFP_HEAD_QA: tfpi_build_linear(b, "qa", 2, C, 1, std); break;
    default: break;
  }
}
/* T5 draws its queries with a smaller deviation than keys and values, which lie in the same matrix.
 * */
static void tfpi_fix_queries(tfp_model *m) {
  const tfp_config *c = &m->config;
  const tfp_real ratio = (tfp_real)(1 / sqrt((double)c->head_dim));
  tfp_param *p;
  int64_t i;
  for (p = m->params->first; p; p = p->next)
    if (p->zero_row == -2) {
      p->zero_row = -1;
      if (p->tensor->data)
        for (i = 0; i < c->heads * c->head_dim * c->hidden; i++) tfpi_data(p->tensor)[i] *= ratio;
    }
}

TFP_API tfp_model *tfp_model_create(tfp_ctx *ctx, const tfp_config *config, int trainable) {
  tfpi_builder b;
  tfp_param *word;
  tfp_config checked;
  if (ctx->status) return NULL;
  memcpy(&checked, config, sizeof checked);
  if (tfp_config_check(ctx, &checked)) return NULL;
  memset(&b, 0, sizeof b);
  {
    tfp_params *params = tfp_params_create(ctx);
    if (!params) return NULL;
    b.model = (tfp_model *)tfpi_new(params->arena, 1, sizeof *b.model);
    if (!b.model) return NULL;
    b.model->params = params;
  }
  b.model->ctx = ctx;
  memcpy(&b.model->config, &checked, sizeof checked);
  word = tfpi_build(&b, "word", ".w", 2, checked.vocab_size, checked.hidden, TFP_INIT_NORMAL,
                    checked.init_std);
  if (word &&
      (checked.family == TFP_BERT || checked.family == TFP_ROBERTA || checked.family == TFP_BART))
    word->zero_row = checked.pad;
  if (checked.type_vocab)
    tfpi_build(&b, "types", ".w", 2, checked.type_vocab, checked.hidden, TFP_INIT_NORMAL,
               checked.init_std);
  if (checked.encoder_layers) tfpi_build_stack(&b, "encoder", checked.encoder_layers, 0);
  if (checked.decoder_layers)
    tfpi_build_stack(&b, "decoder", checked.decoder_layers, checked.arch == TFP_SEQ2SEQ);
  tfpi_build_head(&b);
  if (tfp_params_finish(b.model->params, trainable)) {
    tfp_params_free(b.model->params);
    return NULL;
  }
  tfpi_fix_queries(b.model);
  return b.model;
}
TFP_API void tfp_model_free(tfp_model *model) {
  if (model) tfp_params_free(model->params);
}
TFP_API int64_t tfp_model_parameters(const tfp_model *model) {
  return model ? model->params->numel : 0;
}
TFP_API void tfp_set_loss_scale(tfp_ctx *ctx, double scale) { ctx->now.loss_scale = (float)scale; }

/* ---- cache ---- */

struct tfp_cache {
  tfp_model *model;
  tfpi_arena *arena;
  int64_t rows, length, encoder_length, used;
  int64_t most, times;             /* room for rows; how many neighbours read the same input */
  int encoded;                     /* cross keys and values are there */
  int masked, encoder_masked;      /* some key is hidden */
  tfp_tensor **k, **v;             /* (B,length,inner) a layer */
  tfp_tensor **cross;              /* (B,encoder_length,2*inner) a layer */
  int32_t *mask, *encoder_mask;    /* (B,length), (B,encoder_length) */
  int64_t *moves, *waiting;        /* see tfpi_cache_plan: (B,2) and (B) */
};
TFP_API tfp_cache *tfp_cache_create(tfp_model *model, int64_t rows, int64_t length,
                                    int64_t encoder_length) {
  tfp_ctx *ctx = model ? model->ctx : NULL;
  tfp_cache *c;
  tfpi_arena *arena;
  int64_t l, layers, shape[3];
  if (!ctx || ctx->status) return NULL;
  layers = model->config.decoder_layers;
  if (layers < 1 || rows < 1 || length < 1 || encoder_length < 0) {
    tfpi_fail(ctx, TFP_ERR_ARG, "cache: %i rows of %i positions for %i decoder layers", rows,
              length, layers);
    return NULL;
  }
  arena = tfpi_arena_borrow(ctx);
  if (!arena) return NULL;
  c = (tfp_cache *)tfpi_new(arena, 1, sizeof *c);
  if (!c) return NULL;
  c->model = model, c->arena = arena, c->rows = c->most = rows, c->times = 1, c->length = length,
  c->encoder_length = encoder_length;
  c->k = (tfp_tensor **)tfpi_new(arena, layers, sizeof *c->k);
  c->v = (tfp_tensor **)tfpi_new(arena, layers, sizeof *c->v);
  c->cross = (tfp_tensor **)tfpi_new(arena, layers, sizeof *c->cross);
  c->mask = (int32_t *)tfpi_new(arena, rows * length, sizeof *c->mask);
  c->encoder_mask = (int32_t *)tfpi_new(arena, rows * encoder_length, sizeof *c->encoder_mask);
  c->moves = (int64_t *)tfpi_new(arena, rows, 2 * sizeof *c->moves);
  c->waiting = (int64_t *)tfpi_new(arena, rows, sizeof *c->waiting);
  for (l = 0; l < layers && !ctx->status; l++) {
    shape[0] = rows, shape[1] = length, shape[2] = model->config.heads * model->config.head_dim;
    c->k[l] = tfpi_tensor(arena, TFP_REAL, 3, shape, "cache");
    c->v[l] = tfpi_tensor(arena, TFP_REAL, 3, shape, "cache");
    shape[1] = encoder_length, shape[2] *= 2;
    if (encoder_length) c->cross[l] = tfpi_tensor(arena, TFP_REAL, 3, shape, "cache");
  }
  if (ctx->status) tfpi_arena_return(arena);
  return ctx->status ? NULL : c;
}
TFP_API void tfp_cache_free(tfp_cache *cache) {
  if (cache) tfpi_arena_return(cache->arena);
}
TFP_API void tfp_cache_reset(tfp_cache *cache) {
  if (cache) cache->used = 0, cache->encoded = cache->masked = 0;
}
TFP_API int64_t tfp_cache_length(const tfp_cache *cache) { return cache ? cache->used : 0; }

/* ---- cache: rows that become other rows ---- */

static void tfpi_cache_set_rows(tfp_cache *c, int64_t rows) {
  int64_t l;
  for (l = 0; l < c->model->config.decoder_layers; l++) {
    c->k[l]->shape[0] = c->v[l]->shape[0] = rows;
    if (c->cross[l]) c->cross[l]->shape[0] = rows;
  }
  c->rows = rows;
}
TFP_API tfp_status tfp_cache_narrow(tfp_cache *cache, int64_t rows) {
  if (!cache) return TFP_ERR_ARG;
  if (rows < 1 || rows > cache->most)
    return tfpi_fail(cache->model->ctx, TFP_ERR_ARG, "cache: %i rows of %i", rows, cache->most);
  if (cache->used || cache->encoded)
    return tfpi_fail(cache->model->ctx, TFP_ERR_STATE, "cache: narrowed with %i positions in it",
                     cache->used);
  cache->times = 1;
  tfpi_cache_set_rows(cache, rows);
  return TFP_OK;
}

/* Row t of each tensor of a cache: keys and values (even t, odd t of a layer), then cross ones.
 * count: numbers of a row that are in use. */
static tfp_real *tfpi_cache_part(const tfp_cache *c, int64_t t, int64_t *stride, int64_t *count) {
  const int64_t layers = c->model->config.decoder_layers;
  const tfp_tensor *x = t >= 2 * layers ? c->cross[t - 2 * layers] : t % 2 ? c->v[t / 2]
                                                                           : c->k[t / 2];
  *stride = x->stride[0];
  *count = x->stride[1] * (t >= 2 * layers ? c->encoder_length : c->used);
  return tfpi_data(x);
}
static void tfpi_cache_repeat_task(void *arg, int64_t t, int thread) {
  const tfp_cache *c = (const tfp_cache *)arg;
  const int64_t times = c->times;
  int64_t i, stride, count;
  tfp_real *x = tfpi_cache_part(c, t, &stride, &count);
  (void)thread;
  for (i = c->rows * times - 1; i > 0; i--) /* row 0 is there; the last ones do not cover sources */
    if (i / times != i)
      memcpy(x + i * stride, x + i / times * stride, (size_t)count * sizeof *x);
}
TFP_API tfp_status tfp_cache_repeat(tfp_cache *cache, int64_t times) {
  tfp_ctx *ctx = cache ? cache->model->ctx : NULL;
  int64_t i, layers;
  if (!ctx) return TFP_ERR_ARG;
  if (ctx->status) return ctx->status;
  if (times < 1 || times > cache->most / cache->rows)
    return tfpi_fail(ctx, TFP_ERR_ARG, "cache: %i rows %i times, with room for %i", cache->rows,
                     times, cache->most);
  cache->times = times;
  layers = cache->model->config.decoder_layers;
  if (!ctx->desc.dry_run)
    tfpi_parallel(ctx, layers * (cache->encoder_length ? 3 : 2), tfpi_cache_repeat_task, cache);
  for (i = cache->rows * times - 1; i > 0; i--) {
    memcpy(cache->mask + i * cache->length, cache->mask + i / times * cache->length,
           (size_t)cache->used * sizeof *cache->mask);
    memcpy(cache->encoder_mask + i * cache->encoder_length,
           cache->encoder_mask + i / times * cache->encoder_length,
           (size_t)cache->encoder_length * sizeof *cache->encoder_mask);
  }
  tfpi_cache_set_rows(cache, cache->rows * times);
  return TFP_OK;
}

/* What a reordering moves: pairs (to, from) in an order in which no row is overwritten that is
 * still needed, then closed circles: runs of pairs whose last one has -1 for the row that the run's
 * first pair overwrote. */
typedef struct tfpi_cache_moves { tfp_cache *cache; int64_t plain, all; } tfpi_cache_moves;
static tfpi_cache_moves tfpi_cache_plan(tfp_cache *c, const int64_t *parents) {
  int64_t n = 0, i, at, next, *pair = c->moves, *waiting = c->waiting;
  tfpi_cache_moves m;
  memset(waiting, 0, (size_t)c->rows * sizeof *waiting); /* how many rows want the content of i */
  for (i = 0; i < c->rows; i++)
    if (parents[i] != i) waiting[parents[i]]++;
  for (i = 0; i < c->rows; i++) /* a row that nobody wants, then its source if that is free now */
    for (at = i; parents[at] != at && !waiting[at]; at = next) {
      next = parents[at];
      pair[2 * n] = at, pair[2 * n + 1] = next, n++;
      waiting[at] = -1; /* done */
      if (--waiting[next]) break;
    }
  m.cache = c, m.plain = n;
  for (i = 0; i < c->rows; i++)
    for (at = i; parents[at] != at && waiting[at] > 0; at = next) {
      next = parents[at];
      waiting[at] = -1;
      pair[2 * n] = at, pair[2 * n + 1] = next == i ? -1 : next, n++;
    }
  m.all = n;
  return m;
}
static void tfpi_cache_move_task(void *arg, int64_t t, int thread) {
  enum { PIECE = 512 };
  const tfpi_cache_moves *m = (const tfpi_cache_moves *)arg;
  const int64_t *pair = m->cache->moves;
  tfp_real aside[PIECE]; /* of the row that a circle overwrites first */
  int64_t stride, count, i, k, at;
  tfp_real *x = tfpi_cache_part(m->cache, t, &stride, &count);
  (void)thread;
  for (i = 0; i < m->plain; i++)
    memcpy(x + pair[2 * i] * stride, x + pair[2 * i + 1] * stride, (size_t)count * sizeof *x);
  for (k = i; i < m->all; i = k + 1)
    for (at = 0; at < count; at += PIECE) {
      const size_t bytes = (size_t)tfpi_min64(PIECE, count - at) * sizeof *x;
      memcpy(aside, x + pair[2 * i] * stride + at, bytes);
      for (k = i; pair[2 * k + 1] >= 0; k++)
        memcpy(x + pair[2 * k] * stride + at, x + pair[2 * k + 1] * stride + at, bytes);
      memcpy(x + pair[2 * k] * stride + at, aside, bytes);
    }
}
TFP_API tfp_status tfp_cache_reorder(tfp_cache *cache, const int64_t *parents) {
  tfp_ctx *ctx = cache ? cache->model->ctx : NULL;
  tfpi_cache_moves m;
  int64_t i, t;
  if (!ctx) return TFP_ERR_ARG;
  if (ctx->status) return ctx->status;
  for (i = 0; i < cache->rows; i++)
    if (parents[i] < 0 || parents[i] >= cache->rows ||
        (cache->encoder_length && parents[i] / cache->times != i / cache->times))
      return tfpi_fail(ctx, TFP_ERR_ARG,
                       "cache: row %i of %i goes on as row %i; rows of one input: %i", i,
                       cache->rows, parents[i], cache->encoder_length ? cache->times : cache->rows);
  m = tfpi_cache_plan(cache, parents);
  if (!m.all || !cache->used || ctx->desc.dry_run) return TFP_OK;
  tfpi_parallel(ctx, 2 * cache->model->config.decoder_layers, tfpi_cache_move_task, &m);
  if (!cache->masked) return TFP_OK;
  for (t = 0; t < cache->used; t++) { /* waiting holds a column of the mask */
    for (i = 0; i < cache->rows; i++) cache->waiting[i] = cache->mask[i * cache->length + t];
    for (i = 0; i < cache->rows; i++)
      cache->mask[i * cache->length + t] = (int32_t)cache->waiting[parents[i]];
  }
  return TFP_OK;
}

/* Header for positions first ... first+count-1 of a cached tensor. */
static tfp_tensor *tfpi_cache_rows(tfp_ctx *ctx, const tfp_tensor *t, int64_t first,
                                   int64_t count) {
  tfp_tensor *h = (tfp_tensor *)tfpi_new(&ctx->step, 1, sizeof *h);
  if (!h) return NULL;
  memcpy(h, t, sizeof *h);
  h->shape[1] = count;
  if (h->data) h->data = tfpi_data(t) + first * t->stride[1];
  return h;
}

/* ---- forward ----
 * A run holds what blocks need. The residual stream of a pre-norm stack is carried as two tensors,
 * x and what is still to be added to it, so that the addition is part of the next norm. */

typedef struct tfpi_run_state {
  tfp_model *model;
  tfp_ctx *ctx;
  const tfp_config *c;
  tfp_cache *cache;
  const char *stack;          /* "encoder" or "decoder" */
  unsigned stack_site;        /* random streams of the two stacks differ */
  int64_t layer, B, T;
  tfp_tensor *mask, *docs;    /* of the keys of self-attention; documents */
  tfp_tensor *cross, *cross_mask, *cross_docs; /* the encoder's output and its mask */
  tfp_tensor *bias, *slopes, *positions;
  int64_t past;
} tfpi_run_state;

enum {
  TFPI_SITE_EMBED = 1,
  TFPI_SITE_ATTENTION,
  TFPI_SITE_CROSS,
  TFPI_SITE_FFN,
  TFPI_SITE_INNER,
  TFPI_SITE_HEAD,
  TFPI_SITE_HEAD_INNER,
  TFPI_SITE_STACK = 16,
  TFPI_SITE_WEIGHTS = 1024,
  TFPI_SITE_CROSS_WEIGHTS = 4096
};

static tfp_tensor *tfpi_param(const tfp_model *m, const char *stack, int64_t layer,
                              const char *name) {
  char full[96];
  tfp_param *p;
  if (layer >= 0) tfpi_format(full, sizeof full, "%s.%i.%s", stack, layer, name);
  else if (stack) tfpi_format(full, sizeof full, "%s.%s", stack, name);
  else tfpi_format(full, sizeof full, "%s", name);
  p = tfp_params_find(m->params, full);
  return p ? p->tensor : NULL;
}
static tfp_tensor *tfpi_linear_of(const tfpi_run_state *r, tfp_tensor *x, const char *name,
                                  tfp_activation act) {
  char w[32], b[32];
  tfpi_format(w, sizeof w, "%s.w", name);
  tfpi_format(b, sizeof b, "%s.b", name);
  return tfp_linear(r->ctx, x, tfpi_param(r->model, r->stack, r->layer, w),
                    tfpi_param(r->model, r->stack, r->layer, b), act);
}
/* y = norm(x + pending), or norm(x) where nothing is pending; *x becomes the sum. */
static tfp_tensor *tfpi_norm_of(const tfpi_run_state *r, const char *name, tfp_tensor **x,
                                tfp_tensor *pending) {
  const tfp_config *c = r->c;
  char w[32], b[32];
  tfp_tensor *g, *shift;
  tfpi_format(w, sizeof w, "%s.w", name);
  tfpi_format(b, sizeof b, "%s.b", name);
  g = tfpi_param(r->model, r->stack, r->layer, w);
  shift = tfpi_param(r->model, r->stack, r->layer, b);
  if (pending) return tfp_norm_residual(r->ctx, pending, *x, g, shift, c->norm_eps, c->rms_norm, x);
  return c->rms_norm ? tfp_rmsnorm(r->ctx, *x, g, c->norm_eps)
                     : tfp_layernorm(r->ctx, *x, g, shift, c->norm_eps);
}
static tfp_tensor *tfpi_drop(const tfpi_run_state *r, tfp_tensor *x, double p, unsigned site) {
  return tfp_dropout(r->ctx, x, p, (unsigned)r->layer + 1, r->stack_site + site);
}

static void tfpi_attention_common(const tfpi_run_state *r, tfp_attention_desc *d) {
  memset(d, 0, sizeof *d);
  d->scale = r->c->unscaled_attention ? 1 : 1 / sqrt((double)r->c->head_dim);
  if (r->c->scale_by_layer) d->scale /= (double)(r->layer + 1);
  d->dropout = r->c->attention_dropout;
  d->layer = (unsigned)r->layer + 1;
}
static tfp_tensor *tfpi_self_attention(const tfpi_run_state *r, tfp_tensor *y, int causal) {
  tfp_ctx *ctx = r->ctx;
  tfp_attention_desc d;
  tfp_tensor *part[3], *qkv = tfpi_linear_of(r, y, "qkv", TFP_ACT_NONE);
  if (tfp_split(ctx, qkv, 2, 3, part) || !qkv) return NULL;
  if (r->c->position == TFP_POS_ROTARY) {
    part[0] = tfp_rotary(ctx, part[0], r->positions, r->past, r->c->heads, r->c->rotary_base);
    part[1] = tfp_rotary(ctx, part[1], r->positions, r->past, r->c->heads, r->c->rotary_base);
    if (!part[0] || !part[1]) return NULL;
  }
  if (r->cache && causal) { /* append, then attend over all that is there */
    tfp_tensor *k = r->cache->k[r->layer], *v = r->cache->v[r->layer];
    tfp_tensor *new_k = tfpi_cache_rows(ctx, k, r->past, r->T),
               *new_v = tfpi_cache_rows(ctx, v, r->past, r->T);
    if (!new_k || !new_v) return NULL;
    ctx->be->copy(ctx, new_k, part[1], 0);
    ctx->be->copy(ctx, new_v, part[2], 0);
    part[1] = tfpi_cache_rows(ctx, k, 0, r->past + r->T);
    part[2] = tfpi_cache_rows(ctx, v, 0, r->past + r->T);
  }
  tfpi_attention_common(r, &d);
  d.causal = causal;
  d.bias = r->bias, d.slopes = r->slopes, d.mask = r->mask, d.q_doc = r->docs, d.k_doc = r->docs;
  d.site = r->stack_site * 512 + TFPI_SITE_WEIGHTS;
  return tfpi_drop(r,
                   tfpi_linear_of(r, tfp_attention(ctx, part[0], part[1], part[2], r->c->heads, &d),
                                  "out", TFP_ACT_NONE),
                   r->c->dropout, TFPI_SITE_ATTENTION);
}
static tfp_tensor *tfpi_cross_attention(const tfpi_run_state *r, tfp_tensor *y) {
  tfp_ctx *ctx = r->ctx;
  tfp_attention_desc d;
  tfp_tensor *part[2], *kv, *q = tfpi_linear_of(r, y, "cross_q", TFP_ACT_NONE);
  if (r->cache && r->cache->encoded) {
    kv = r->cache->cross[r->layer];
  } else {
    kv = tfpi_linear_of(r, r->cross, "cross_kv", TFP_ACT_NONE);
    if (kv && r->cache) ctx->be->copy(ctx, r->cache->cross[r->layer], kv, 0);
  }
  if (tfp_split(ctx, kv, 2, 2, part) || !kv) return NULL;
  tfpi_attention_common(r, &d);
  d.mask = r->cross_mask;
  d.q_doc = r->cross_docs ? r->docs : NULL, d.k_doc = r->cross_docs;
  d.site = r->stack_site * 512 + TFPI_SITE_CROSS_WEIGHTS;
  return tfpi_drop(r,
                   tfpi_linear_of(r, tfp_attention(ctx, q, part[0], part[1], r->c->heads, &d),
                                  "cross_out", TFP_ACT_NONE),
                   r->c->dropout, TFPI_SITE_CROSS);
}
static tfp_tensor *tfpi_feed_forward(const tfpi_run_state *r, tfp_tensor *y) {
  const tfp_config *c = r->c;
  tfp_tensor *h = tfpi_linear_of(r, y, c->gated ? "gate" : "up", c->activation);
  if (c->gated) h = tfp_mul(r->ctx, h, tfpi_linear_of(r, y, "up", TFP_ACT_NONE));
  h = tfpi_drop(r, h, c->family == TFP_T5 ? c->dropout : c->activation_dropout, TFPI_SITE_INNER);
  return tfpi_drop(r, tfpi_linear_of(r, h, "down", TFP_ACT_NONE), c->dropout, TFPI_SITE_FFN);
}

/* One block: x and what is pending on it go in and come out. Post-norm leaves nothing pending. */
static void tfpi_run_block(const tfpi_run_state *r, tfp_tensor **x, tfp_tensor **pending) {
  static const char *const norms[3] = {"attention_norm", "cross_norm", "ffn_norm"};
  const int decoder = r->stack[0] == 'd', cross = decoder && r->c->arch == TFP_SEQ2SEQ;
  int part;
  for (part = 0; part < 3; part++) {
    tfp_tensor *y = *x, *made;
    if (part == 1 && !cross) continue;
    if (r->c->norm_first) y = tfpi_norm_of(r, norms[part], x, *pending);
    if (r->c->norm_first && r->c->residual_after_norm) *x = y;
    made = part == 0   ? tfpi_self_attention(r, y, decoder)
           : part == 1 ? tfpi_cross_attention(r, y)
                       : tfpi_feed_forward(r, y);
    if (!made) {
      *x = *pending = NULL;
      return;
    }
    *pending = made;
    if (r->c->norm_first) continue;
    *x = tfpi_norm_of(r, norms[part], x, *pending);
    *pending = NULL;
  }
}
/* The closed form of a block for tfp_recompute: nothing pending goes in or comes out. */
static tfp_tensor *tfpi_run_block_closed(tfp_ctx *ctx, void *user, tfp_tensor *x) {
  tfp_tensor *pending = NULL;
  tfpi_run_block((const tfpi_run_state *)user, &x, &pending);
  return pending ? tfp_add(ctx, x, pending) : x;
}
static tfp_tensor *tfpi_stack(tfpi_run_state *r, tfp_tensor *x, int64_t layers) {
  tfp_tensor *pending = NULL;
  for (r->layer = 0; r->layer < layers && x; r->layer++) {
    if (r->model->recompute &&
        !r->ctx->no_grad) { /* the backward comes when *r has moved on: keep a copy */
      tfpi_run_state *kept = (tfpi_run_state *)tfpi_new(&r->ctx->step, 1, sizeof *kept);
      if (!kept) return NULL;
      memcpy(kept, r, sizeof *kept);
      x = tfpi_recompute_with(r->ctx, tfpi_run_block_closed, kept, x, r->cross, r->bias);
    } else {
      tfpi_run_block(r, &x, &pending);
    }
  }
  r->layer = -1;
  if (!x) return NULL;
  if (r->c->final_norm) x = tfpi_norm_of(r, "final_norm", &x, pending);
  else if (pending) x = tfp_add(r->ctx, x, pending);
  if (r->c->family == TFP_T5) x = tfpi_drop(r, x, r->c->dropout, TFPI_SITE_HEAD);
  return x;
}

static tfp_tensor *tfpi_int_matrix(tfp_ctx *ctx, const int32_t *values, int64_t rows,
                                   int64_t columns) {
  int64_t shape[2];
  shape[0] = rows, shape[1] = columns;
  return values ? tfp_from_ints(ctx, 2, shape, values) : NULL;
}
/* Rows of the position table: counted from `past`, or as RoBERTa counts, or as given. */
static tfp_tensor *tfpi_positions(const tfpi_run_state *r, const int32_t *given,
                                  const int32_t *ids) {
  const tfp_config *c = r->c;
  int64_t shape[2], b, t;
  tfp_tensor *p;
  shape[0] = r->B, shape[1] = r->T;
  p = tfpi_tensor(&r->ctx->step, TFP_I32, 2, shape, "positions");
  if (!p || !p->data) return p;
  for (b = 0; b < r->B; b++) {
    int32_t seen = 0, *out = tfpi_ints(p) + b * r->T;
    for (t = 0; t < r->T; t++) {
      if (given) out[t] = given[b * r->T + t] + c->position_offset;
      else if (!c->positions_skip_pad) out[t] = (int32_t)(r->past + t) + c->position_offset;
      else out[t] = ids[b * r->T + t] == c->pad ? c->pad : seen++ + c->position_offset;
    }
  }
  return p;
}
static tfp_tensor *tfpi_embed(tfpi_run_state *r, const int32_t *ids, const int32_t *types,
                              const int32_t *given) {
  tfp_ctx *ctx = r->ctx;
  const tfp_config *c = r->c;
  tfp_tensor *tables[3], *lookups[3], *x;
  int64_t shape[2], padding[3];
  int n = 0;
  shape[0] = r->B, shape[1] = r->T;
  tables[n] = tfpi_param(r->model, NULL, -1, "word.w"),
  lookups[n] = tfpi_int_matrix(ctx, ids, r->B, r->T);
  padding[n++] =
      c->family == TFP_BERT || c->family == TFP_ROBERTA || c->family == TFP_BART ? c->pad : -1;
  if (c->position == TFP_POS_LEARNED) {
    if (r->past + r->T > c->max_positions) {
      tfpi_fail(ctx, TFP_ERR_SHAPE, "forward: %i positions; the model has %i", r->past + r->T,
                c->max_positions);
      return NULL;
    }
    tables[n] = tfpi_param(r->model, r->stack, -1, "positions.w"),
    lookups[n] = tfpi_positions(r, given, ids);
    padding[n++] = c->positions_skip_pad ? c->pad : -1;
  }
  if (c->type_vocab) {
    tfp_tensor *t = tfpi_tensor(&ctx->step, TFP_I32, 2, shape, "types");
    if (!t) return NULL;
    if (t->data && types) memcpy(t->data, types, (size_t)(r->B * r->T) * sizeof *types);
    else if (t->data) memset(t->data, 0, (size_t)(r->B * r->T) * sizeof *types);
    tables[n] = tfpi_param(r->model, NULL, -1, "types.w"), lookups[n] = t;
    padding[n++] = -1;
  }
  if (c->scale_embedding) { /* words are scaled, positions are not */
    x = tfp_scale(ctx, tfp_embedding(ctx, tables[0], lookups[0], padding[0]),
                  sqrt((double)c->hidden));
    if (n > 1)
      x = tfp_add(ctx, x, tfp_embedding_sum(ctx, n - 1, tables + 1, lookups + 1, padding + 1));
  } else {
    x = tfp_embedding_sum(ctx, n, tables, lookups, padding);
  }
  r->layer = -1;
  if (x && c->embedding_norm) x = tfpi_norm_of(r, "embedding_norm", &x, NULL);
  return tfpi_drop(r, x, c->dropout, TFPI_SITE_EMBED);
}
/* Biases by distance, once a stack: queries stand at positions past ... past+T-1 of past+T keys. */
static void tfpi_position_biases(tfpi_run_state *r, const int32_t *given) {
  const tfp_config *c = r->c;
  if (c->position == TFP_POS_BUCKETS)
    r->bias = tfp_relative_bias(r->ctx, tfpi_param(r->model, r->stack, -1, "relative.w"), r->T,
                                r->past + r->T, r->stack[0] == 'e', c->max_distance);
  if (c->position == TFP_POS_ALIBI) r->slopes = tfp_alibi_slopes(r->ctx, c->heads);
  if (c->position == TFP_POS_ROTARY) r->positions = tfpi_int_matrix(r->ctx, given, r->B, r->T);
}

/* Runs the stack that r names over ids; the mask and documents are set. */
static tfp_tensor *tfpi_run_stack(tfpi_run_state *r, const int32_t *ids, const int32_t *types,
                                  const int32_t *given, int64_t layers) {
  tfp_tensor *x = tfpi_embed(r, ids, types, given);
  tfpi_position_biases(r, given);
  return tfpi_stack(r, x, layers);
}

static tfp_status tfpi_forward_check(tfp_model *m, const tfp_batch *b, tfp_cache *cache) {
  const tfp_config *c = &m->config;
  const int seq2seq = c->arch == TFP_SEQ2SEQ;
  if (b->B < 1 || (b->T < 1 && !(cache && cache->encoded)) || (seq2seq && b->S < 1))
    return tfpi_fail(m->ctx, TFP_ERR_ARG, "forward: a batch of %i rows, lengths %i and %i", b->B,
                     b->T, b->S);
  if ((!b->ids && !(cache && cache->encoded)) || (seq2seq && !b->dec_ids))
    return tfpi_fail(m->ctx, TFP_ERR_ARG, "forward: the batch has no %s",
                     b->ids ? "dec_ids" : "ids");
  if (!cache) return TFP_OK;
  if (c->arch == TFP_ENCODER)
    return tfpi_fail(m->ctx, TFP_ERR_ARG, "forward: an encoder takes no cache");
  if (b->B != cache->rows || cache->used + (seq2seq ? b->S : b->T) > cache->length ||
      (seq2seq && !cache->encoded && b->T != cache->encoder_length))
    return tfpi_fail(
        m->ctx, TFP_ERR_SHAPE,
        "forward: %i rows and %i more positions do not fit a cache of %i rows with %i of "
        "%i positions",
        b->B, seq2seq ? b->S : b->T, cache->rows, cache->used, cache->length);
  return TFP_OK;
}
/* The mask of all keys: what the cache remembers and what is new; NULL where everything is visible.
 * */
static tfp_tensor *tfpi_cached_mask(tfp_ctx *ctx, tfp_cache *cache, const int32_t *mask, int64_t B,
                                    int64_t T) {
  int64_t b, t, shape[2];
  tfp_tensor *whole;
  for (b = 0; b < B; b++)
    for (t = 0; t < T; t++)
      cache->mask[b * cache->length + cache->used + t] = mask ? mask[b * T + t] : 1;
  if (mask) cache->masked = 1;
  if (!cache->masked) return NULL;
  shape[0] = B, shape[1] = cache->used + T;
  whole = tfpi_tensor(&ctx->step, TFP_I32, 2, shape, "mask");
  if (!whole || !whole->data) return whole;
  for (b = 0; b < B; b++)
    memcpy(tfpi_ints(whole) + b * shape[1], cache->mask + b * cache->length,
           (size_t)shape[1] * sizeof(int32_t));
  return whole;
}

/* The mask of the encoder's positions, which the cache keeps for the steps after the first. */
static tfp_tensor *tfpi_cached_cross_mask(const tfpi_run_state *r, const int32_t *mask) {
  tfp_cache *cache = r->cache;
  const int64_t n = cache->rows * cache->encoder_length;
  if (!cache->encoded) {
    cache->encoder_masked = mask != NULL;
    if (mask) memcpy(cache->encoder_mask, mask, (size_t)n * sizeof *mask);
    return r->cross_mask;
  }
  if (!cache->encoder_masked) return NULL;
  return tfpi_int_matrix(r->ctx, cache->encoder_mask, cache->rows, cache->encoder_length);
}

static tfp_status tfpi_heads(tfpi_run_state *r, const tfp_batch *batch, int want, tfp_output *out);

TFP_API tfp_status tfp_forward(tfp_model *m, const tfp_batch *b, int want, tfp_cache *cache,
                               tfp_output *out) {
  tfpi_run_state r;
  tfp_ctx *ctx;
  const tfp_config *c;
  memset(out, 0, sizeof *out);
  if (!m) return TFP_ERR_ARG;
  ctx = m->ctx, c = &m->config;
  if (ctx->status || tfpi_forward_check(m, b, cache)) return ctx->status;
  memset(&r, 0, sizeof r);
  r.model = m, r.ctx = ctx, r.c = c, r.B = b->B;
  if (c->arch != TFP_DECODER && !(cache && cache->encoded)) {
    r.stack = "encoder", r.T = b->T;
    r.mask = tfpi_int_matrix(ctx, b->mask, b->B, b->T);
    r.docs = tfpi_int_matrix(ctx, b->docs, b->B, b->T);
    out->hidden = tfpi_run_stack(&r, b->ids, b->types, b->positions, c->encoder_layers);
    if (ctx->status) return ctx->status;
  }
  if (c->arch != TFP_ENCODER) {
    const int after = c->arch == TFP_SEQ2SEQ;
    r.cross = out->encoder = out->hidden;
    r.cross_mask = r.mask, r.cross_docs = r.docs;
    r.bias = r.slopes = r.positions = NULL;
    r.stack = "decoder", r.stack_site = TFPI_SITE_STACK, r.T = after ? b->S : b->T, r.cache = cache;
    if (cache && after) r.cross_mask = tfpi_cached_cross_mask(&r, b->mask);
    r.past = cache ? cache->used : 0;
    r.mask = cache ? tfpi_cached_mask(ctx, cache, after ? b->dec_mask : b->mask, b->B, r.T)
                   : tfpi_int_matrix(ctx, after ? b->dec_mask : b->mask, b->B, r.T);
    r.docs = tfpi_int_matrix(ctx, after ? b->dec_docs : b->docs, b->B, r.T);
    out->hidden = tfpi_run_stack(&r, after ? b->dec_ids : b->ids, NULL,
                                 after ? b->dec_positions : b->positions, c->decoder_layers);
    if (ctx->status) return ctx->status;
    if (cache) cache->used += r.T, cache->encoded = after;
  }
  return tfpi_heads(&r, b, want, out);
}

/* ---- heads ---- */

/* Rows of hidden (B,T,C) at one position of each sequence -> (B,C). */
static tfp_tensor *tfpi_pick_rows(tfpi_run_state *r, tfp_tensor *hidden, const tfp_batch *b) {
  tfp_ctx *ctx = r->ctx;
  const tfp_config *c = r->c;
  const int64_t T = hidden->shape[1];
  int64_t flat[2], row, t;
  tfp_tensor *at = tfpi_tensor(&ctx->step, TFP_I32, 1, &r->B, "pool");
  if (!at) return NULL;
  for (row = 0; at->data && row < r->B; row++) {
    int64_t found = c->pool == TFP_POOL_LAST ? T - 1 : -1;
    if (c->pool == TFP_POOL_FIRST) found = 0;
    for (t = b->T - 1; c->pool == TFP_POOL_LAST && c->pad >= 0 && t >= 0;
         t--, found = tfpi_max64(t, 0))
      if (b->ids[row * b->T + t] != c->pad)
        break; /* the rightmost that is no padding; 0 if all are */
    for (t = b->T - 1; c->pool == TFP_POOL_LAST_END && t >= 0 && found < 0; t--)
      if (b->ids[row * b->T + t] == c->eos)
        found = t; /* the decoder's state under the encoder's last end */
    if (found < 0 || found >= T) {
      tfpi_fail(ctx, TFP_ERR_DATA, "classification: row %i has no end token %d within %i positions",
                row, (int)c->eos, T);
      return NULL;
    }
    tfpi_ints(at)[row] = (int32_t)(row * T + found);
  }
  flat[0] = r->B * T, flat[1] = c->hidden;
  return tfp_embedding(ctx, tfp_reshape(ctx, hidden, 2, flat), at, -1);
}
static tfp_tensor *tfpi_labels(tfpi_run_state *r, const tfp_batch *b, int64_t count) {
  if (b->labels && b->n_labels == count) return tfp_from_ints(r->ctx, 1, &count, b->labels);
  tfpi_fail(r->ctx, TFP_ERR_ARG, "loss: the batch has %i labels; this head wants %i",
            b->labels ? b->n_labels : 0, count);
  return NULL;
}
static tfp_status tfpi_lm_head(tfpi_run_state *r, const tfp_batch *b, int want, tfp_output *out) {
  tfp_ctx *ctx = r->ctx;
  const tfp_config *c = r->c;
  tfp_tensor *x = out->hidden;
  tfp_tensor *w = tfpi_param(r->model, NULL, -1, c->tied ? "word.w" : "lm.w"),
             *bias = tfpi_param(r->model, NULL, -1, "lm.b");
  r->stack = NULL;
  if (want & TFP_LAST_LOGITS) x = tfp_slice(ctx, x, 1, x->shape[1] - 1, 1);
  if (c->transform) {
    char norm[] = "lm_norm";
    x = tfpi_linear_of(r, x, "lm_dense", c->family == TFP_ROBERTA ? TFP_ACT_GELU : c->activation);
    if (!x) return ctx->status;
    x = tfpi_norm_of(r, norm, &x, NULL);
  }
  if (c->scale_logits) x = tfp_scale(ctx, x, 1 / sqrt((double)c->hidden));
  if (want & (TFP_WANT_LOGITS | TFP_LAST_LOGITS))
    out->logits = tfp_linear(ctx, x, w, bias, TFP_ACT_NONE);
  if (want & TFP_WANT_LOSS)
    out->loss = tfp_linear_xent(ctx, x, w, bias, tfpi_labels(r, b, r->B * r->T), 0);
  return ctx->status;
}
static tfp_tensor *tfpi_class_logits(tfpi_run_state *r, const tfp_batch *b, tfp_tensor *hidden) {
  const tfp_config *c = r->c;
  tfp_tensor *x = tfpi_pick_rows(r, hidden, b);
  r->stack = NULL;
  if (c->pool_dense) { /* BERT's pooler has no dropout in front of it, the others' heads have */
    if (c->family != TFP_BERT) x = tfpi_drop(r, x, c->classifier_dropout, TFPI_SITE_HEAD_INNER);
    x = tfpi_linear_of(r, x, "class_dense", TFP_ACT_TANH);
  }
  return tfpi_linear_of(r, tfpi_drop(r, x, c->classifier_dropout, TFPI_SITE_HEAD), "class",
                        TFP_ACT_NONE);
}
/* The mean of two cross-entropies: over the starts and over the ends of answers. */
static tfp_tensor *tfpi_qa_loss(tfpi_run_state *r, const tfp_batch *b, tfp_tensor *logits) {
  tfp_ctx *ctx = r->ctx;
  tfp_tensor *labels = tfpi_labels(r, b, 2 * r->B), *loss[2];
  int64_t shape[2], i;
  int end;
  shape[0] = r->B, shape[1] = r->T;
  for (end = 0; end < 2; end++) {
    tfp_tensor *one = tfpi_tensor(&ctx->step, TFP_I32, 1, &r->B, "labels");
    if (!one || !labels) return NULL;
    for (i = 0; one->data && i < r->B; i++) tfpi_ints(one)[i] = tfpi_ints(labels)[2 * i + end];
    loss[end] = tfp_cross_entropy(
        ctx, tfp_reshape(ctx, tfp_slice(ctx, logits, 2, end, 1), 2, shape), one, 0);
  }
  return tfp_add(ctx, loss[0], loss[1]);
}
static tfp_status tfpi_heads(tfpi_run_state *r, const tfp_batch *b, int want, tfp_output *out) {
  tfp_ctx *ctx = r->ctx;
  const tfp_config *c = r->c;
  int64_t flat[2];
  tfp_tensor *x = out->hidden;
  r->layer = -1;
  if (!want || c->head == TFP_HEAD_NONE || !x) return ctx->status;
  if (c->head == TFP_HEAD_LM) return tfpi_lm_head(r, b, want, out);
  if (c->head == TFP_HEAD_CLASS) {
    out->logits = tfpi_class_logits(r, b, x);
    if (want & TFP_WANT_LOSS)
      out->loss = tfp_cross_entropy(ctx, out->logits, tfpi_labels(r, b, r->B), 0);
    return ctx->status;
  }
  r->stack = NULL;
  if (c->head == TFP_HEAD_TAG) {
    out->logits = tfpi_linear_of(r, tfpi_drop(r, x, c->classifier_dropout, TFPI_SITE_HEAD), "tag",
                                 TFP_ACT_NONE);
    flat[0] = r->B * r->T, flat[1] = c->num_labels;
    if (want & TFP_WANT_LOSS)
      out->loss = tfp_cross_entropy(ctx, tfp_reshape(ctx, out->logits, 2, flat),
                                    tfpi_labels(r, b, flat[0]), 0);
    return ctx->status;
  }
  out->logits = tfpi_linear_of(r, x, "qa", TFP_ACT_NONE);
  if (out->logits && (want & TFP_WANT_LOSS)) out->loss = tfpi_qa_loss(r, b, out->logits);
  return ctx->status;
}

TFP_API tfp_tensor *tfp_pool_mean(tfp_ctx *ctx, tfp_tensor *hidden, tfp_tensor *mask) {
  int64_t shape[3], row[2], b, t;
  tfp_tensor *weights;
  if (!hidden || ctx->status) return NULL;
  if (hidden->ndim != 3 ||
      (mask && (mask->ndim != 2 || mask->dtype != TFP_I32 || mask->shape[0] != hidden->shape[0] ||
                mask->shape[1] != hidden->shape[1]))) {
    tfpi_fail(ctx, TFP_ERR_SHAPE, "pool_mean: hidden %t with mask %t", hidden, mask);
    return NULL;
  }
  shape[0] = hidden->shape[0], shape[1] = 1, shape[2] = hidden->shape[1];
  weights = tfpi_tensor(&ctx->step, TFP_REAL, 3, shape, "pool_mean");
  if (!weights) return NULL;
  for (b = 0; weights->data && b < shape[0]; b++) {
    int64_t n = 0;
    const int32_t *m = mask ? tfpi_ints(mask) + b * shape[2] : NULL;
    tfp_real *w = tfpi_data(weights) + b * shape[2];
    for (t = 0; t < shape[2]; t++) n += !m || m[t];
    for (t = 0; t < shape[2]; t++)
      w[t] = (!m || m[t]) && n ? (tfp_real)(1.0 / (double)n) : (tfp_real)0;
  }
  row[0] = shape[0], row[1] = hidden->shape[2];
  return tfp_reshape(ctx, tfp_matmul(ctx, weights, hidden), 2, row);
}
/* ================================================================================================
 * >>eval.c   how good a model is
 * ================================================================================================
 */
TFP_API double tfp_eval_loss(tfp_model *model, tfp_loader *loader, tfp_partition split,
                             int64_t max_rows, int64_t *scored) {
  tfp_ctx *ctx = model ? model->ctx : NULL;
  double sum = 0;
  int64_t window = 0, rows, count = 0;
  float scale;
  tfpi_step_params kept;
  if (!ctx || !loader || ctx->status) return NAN;
  memcpy(&kept, &ctx->now, sizeof kept);
  scale = ctx->now.loss_scale;
  tfp_training(ctx, 0, 0, 0);
  tfp_set_loss_scale(ctx, 1);
  tfp_no_grad_begin(ctx);
  for (;;) {
    tfp_batch batch;
    tfp_output out;
    int64_t want = loader->desc.rows;
    if (max_rows) want = tfpi_min64(want, max_rows - window);
    if (want < 1) break;
    tfp_step_reset(ctx);
    rows = tfp_loader_eval(loader, split, window, want, &batch);
    if (rows < 1 || tfp_forward(model, &batch, TFP_WANT_LOSS, NULL, &out)) break;
    sum += tfp_item(out.loss);
    count += tfp_batch_scored(&batch);
    window += rows;
  }
  tfp_no_grad_end(ctx);
  tfp_step_reset(ctx);
  memcpy(&ctx->now, &kept, sizeof kept);
  ctx->now.loss_scale = scale;
  if (scored) *scored = count;
  return count && !ctx->status ? sum / (double)count : (double)NAN;
}

TFP_API tfp_status tfp_argmax(tfp_ctx *ctx, const tfp_tensor *x, int32_t *out) {
  tfpi_walk w;
  int64_t rows, n, r, j;
  if (ctx->status) return ctx->status;
  if (!x || x->ndim < 1 || x->dtype != TFP_REAL || !x->data || !x->shape[x->ndim - 1])
    return tfpi_fail(ctx, TFP_ERR_ARG, "argmax: %t has no rows of numbers", x);
  n = x->shape[x->ndim - 1], rows = tfp_numel(x) / n;
  tfpi_walk_start(&w, x);
  for (r = 0; r < rows; r++) {
    tfp_real best = (tfp_real)-INFINITY;
    out[r] = 0;
    for (j = 0; j < n; j++, tfpi_walk_next(&w))
      if (tfpi_data(x)[w.at] > best) best = tfpi_data(x)[w.at], out[r] = (int32_t)j;
  }
  return TFP_OK;
}
TFP_API double tfp_accuracy(const int32_t *predicted, const int32_t *labels, int64_t n) {
  int64_t i, count = 0, right = 0;
  for (i = 0; i < n; i++) {
    if (labels[i] == TFP_IGNORE_INDEX) continue;
    count++;
    right += predicted[i] == labels[i];
  }
  return count ? (double)right / (double)count : 0;
}
TFP_API double tfp_macro_f1(const int32_t *predicted, const int32_t *labels, int64_t n,
                            int64_t classes) {
  double sum = 0;
  int64_t k, i, counted = 0;
  for (k = 0; k < classes; k++) {
    int64_t hits = 0, found = 0, there = 0;
    for (i = 0; i < n; i++) {
      if (labels[i] == TFP_IGNORE_INDEX) continue;
      hits += predicted[i] == k && labels[i] == k;
      found += predicted[i] == k;
      there += labels[i] == k;
    }
    if (found + there == 0) continue;
    counted++;
    sum += 2.0 * (double)hits / (double)(found + there);
  }
  return counted ? sum / (double)counted : 0;
}

/* The entity that begins at i: its end and kind; 0 if none does. A kind that is continued without a
 * beginning counts as begun, as the CoNLL script does. */
static int64_t tfpi_entity(const int32_t *tags, const int32_t *labels, int64_t n, int64_t i,
                           int64_t before, int32_t *kind) {
  const int32_t tag = tags[i], last = before >= 0 ? tags[before] : 0;
  int64_t end = i + 1, at;
  *kind = (tag + 1) / 2;
  if (tag <= 0 || (tag % 2 == 0 && (last + 1) / 2 == *kind)) return 0;
  for (at = i + 1; at < n; at++) {
    if (labels[at] == TFP_IGNORE_INDEX) continue;
    if (tags[at] != 2 * *kind) break;
    end = at + 1;
  }
  return end;
}
TFP_API void tfp_entity_counts(const int32_t *predicted, const int32_t *labels, int64_t n,
                               int64_t *counts) {
  int64_t i, before = -1;
  for (i = 0; i < n; i++) {
    int32_t kind_found = 0, kind_there = 0;
    int64_t found, there;
    if (labels[i] == TFP_IGNORE_INDEX) continue;
    found = tfpi_entity(predicted, labels, n, i, before, &kind_found);
    there = tfpi_entity(labels, labels, n, i, before, &kind_there);
    counts[0] += found && found == there && kind_found == kind_there;
    counts[1] += found != 0;
    counts[2] += there != 0;
    before = i;
  }
}
TFP_API double tfp_best_span(const float *logits, const int32_t *allowed, int64_t n,
                             int64_t max_length, int64_t *start, int64_t *end) {
  double best = -INFINITY;
  int64_t i, j;
  *start = *end = 0;
  for (i = 0; i < n; i++)
    for (j = i; j < n && j < i + max_length; j++) {
      const double sum = (double)logits[2 * i] + (double)logits[2 * j + 1];
      if (allowed && (!allowed[i] || !allowed[j])) continue;
      if (sum > best) best = sum, *start = i, *end = j;
    }
  return best;
}
/* ================================================================================================
 * >>optim.c   AdamW, schedules, the trainer and its checkpoints
 * ================================================================================================
 */
struct tfp_adamw {
  tfp_ctx *ctx;
  tfpi_arena *arena;
  tfp_params *params;
  tfp_adamw_desc desc;
  int64_t steps;
  tfp_real *m, *v; /* as long as the parameters' flat array */
};

TFP_API tfp_adamw *tfp_adamw_create(tfp_params *params, const tfp_adamw_desc *desc) {
  tfp_ctx *ctx = params ? params->ctx : NULL;
  tfp_adamw *opt;
  tfpi_arena *arena;
  void *m, *v;
  if (!ctx || ctx->status) return NULL;
  arena = tfpi_arena_borrow(ctx);
  if (!arena) return NULL;
  opt = (tfp_adamw *)tfpi_new(arena, 1, sizeof *opt);
  if (!opt) return NULL;
  opt->ctx = ctx, opt->arena = arena, opt->params = params;
  if (desc) memcpy(&opt->desc, desc, sizeof *desc);
  if (opt->desc.beta1 == 0) opt->desc.beta1 = 0.9;
  if (opt->desc.beta2 == 0) opt->desc.beta2 = 0.999;
  if (opt->desc.eps == 0) opt->desc.eps = 1e-8;
  if (!(opt->desc.beta1 > 0 && opt->desc.beta1 < 1 && opt->desc.beta2 > 0 && opt->desc.beta2 < 1 &&
        opt->desc.eps > 0 && opt->desc.weight_decay >= 0 && opt->desc.clip >= 0)) {
    tfpi_fail(ctx, TFP_ERR_ARG, "adamw: beta1 %g, beta2 %g, eps %g, weight_decay %g, clip %g",
              opt->desc.beta1, opt->desc.beta2, opt->desc.eps, opt->desc.weight_decay,
              opt->desc.clip);
    return NULL;
  }
  if (!params->grad && !ctx->desc.dry_run) {
    tfpi_fail(ctx, TFP_ERR_ARG, "adamw: the parameters were made without gradients");
    return NULL;
  }
  if (tfpi_take(arena, (size_t)params->flat * sizeof(tfp_real), TFPI_DATA, &m) ||
      tfpi_take(arena, (size_t)params->flat * sizeof(tfp_real), TFPI_DATA, &v)) return NULL;
  opt->m = (tfp_real *)m, opt->v = (tfp_real *)v;
  if (m) memset(m, 0, (size_t)params->flat * sizeof(tfp_real));
  if (v) memset(v, 0, (size_t)params->flat * sizeof(tfp_real));
  return opt;
}
TFP_API void tfp_adamw_free(tfp_adamw *opt) {
  if (opt) tfpi_arena_return(opt->arena);
}

/* Gradients that nothing reached count as zero. */
static void tfpi_settle_gradients(tfp_params *set) {
  tfp_param *p;
  for (p = set->first; p; p = p->next)
    if (p->tensor->fresh == 1 && p->tensor->grad && p->tensor->grad->data && !p->frozen)
      memset(p->tensor->grad->data, 0, (size_t)tfp_numel(p->tensor) * sizeof(tfp_real));
}
TFP_API tfp_status tfp_adamw_step(tfp_adamw *opt, double lr, double *norm) {
  tfp_ctx *ctx;
  tfp_params *set;
  tfpi_adamw_args a;
  double size;
  int part;
  if (!opt) return TFP_ERR_ARG;
  ctx = opt->ctx, set = opt->params;
  if (ctx->status) return ctx->status;
  if (!(lr >= 0)) return tfpi_fail(ctx, TFP_ERR_ARG, "adamw: the learning rate is %g", lr);
  tfpi_settle_gradients(set);
  size = set->grad ? sqrt(ctx->be->sum_squares(ctx, set->grad, set->flat)) : 0;
  if (norm) *norm = size;
  if (!(size < INFINITY))
    return tfpi_fail(ctx, TFP_ERR_NAN, "step %i: the gradient's norm is %g; no weight was changed",
                     opt->steps + 1, size);
  opt->steps++;
  ctx->now.lr = (float)lr;
  ctx->now.grad_scale =
      opt->desc.clip > 0 && size > opt->desc.clip ? (float)(opt->desc.clip / (size + 1e-6)) : 1;
  ctx->now.fix1 = (float)(1 / (1 - pow(opt->desc.beta1, (double)opt->steps)));
  ctx->now.fix2 = (float)(1 / (1 - pow(opt->desc.beta2, (double)opt->steps)));
  a.beta1 = opt->desc.beta1, a.beta2 = opt->desc.beta2, a.eps = opt->desc.eps;
  for (part = 0; part < 2; part++) { /* the decayed in front, then the others */
    const int64_t start = part ? set->decayed : 0;
    a.n = (part ? set->flat : set->decayed) - start;
    a.decay = part && !opt->desc.decay_all ? 0 : opt->desc.weight_decay;
    if (!set->data || a.n < 1) continue;
    a.p = set->data + start, a.g = set->grad + start, a.m = opt->m + start, a.v = opt->v + start;
    ctx->be->adamw(ctx, &a);
  }
  tfp_params_zero_grad(set);
  return TFP_OK;
}

TFP_API double tfp_learning_rate(tfp_schedule schedule, double lr, double min_lr, int64_t warmup,
                                 int64_t steps, int64_t step) {
  double r;
  if (step < warmup) return lr * (double)(step + 1) / (double)(warmup + 1);
  if (schedule == TFP_CONSTANT) return lr;
  if (step >= steps) return min_lr;
  r = (double)(step - warmup) / (double)(steps - warmup);
  if (schedule == TFP_LINEAR) return lr + (min_lr - lr) * r;
  return min_lr + (lr - min_lr) * 0.5 * (1 + cos(3.14159265358979323846 * r));
}

/* ---- the trainer ---- */

struct tfp_trainer {
  tfp_ctx *ctx;
  tfp_model *model;
  tfp_train_desc desc;
  tfp_adamw *opt;
};

TFP_API tfp_trainer *tfp_trainer_create(tfp_model *model, const tfp_train_desc *desc) {
  tfp_ctx *ctx = model ? model->ctx : NULL;
  tfp_trainer *t;
  tfp_adamw *opt;
  if (!ctx || ctx->status) return NULL;
  if (!(desc->lr >= 0) || !(desc->min_lr >= 0) || desc->warmup < 0 || desc->steps < 1 ||
      desc->rows < 1 || desc->accumulate < 0 || !desc->source) {
    tfpi_fail(ctx, TFP_ERR_ARG,
              "trainer: lr %g to %g, warm-up %i of %i steps, %i rows, %i micro-batches%s", desc->lr,
              desc->min_lr, desc->warmup, desc->steps, desc->rows, desc->accumulate,
              desc->source ? "" : ", no source");
    return NULL;
  }
  if (desc->ranks < 0 || (desc->ranks > 1 && !desc->comm) || desc->rank < 0 ||
      (desc->rank && desc->rank >= desc->ranks)) {
    tfpi_fail(ctx, TFP_ERR_ARG, "trainer: rank %d of %d%s", desc->rank, desc->ranks,
              desc->comm ? "" : " without comm");
    return NULL;
  }
  opt = tfp_adamw_create(model->params, &desc->adamw);
  if (!opt) return NULL;
  t = (tfp_trainer *)tfpi_new(opt->arena, 1, sizeof *t);
  if (!t) return NULL;
  t->ctx = ctx, t->model = model, t->opt = opt;
  memcpy(&t->desc, desc, sizeof *desc);
  if (!t->desc.accumulate) t->desc.accumulate = 1;
  if (!t->desc.ranks) t->desc.ranks = 1;
  return t;
}
TFP_API void tfp_trainer_free(tfp_trainer *trainer) {
  if (trainer) tfp_adamw_free(trainer->opt);
}
TFP_API int64_t tfp_trainer_step(const tfp_trainer *trainer) {
  return trainer ? trainer->opt->steps : 0;
}

/* The first example of a micro-batch: its number in the run, and (for dropout) in the step. */
static uint64_t tfpi_first_example(const tfp_trainer *t, int64_t micro, uint64_t *in_step) {
  const tfp_train_desc *d = &t->desc;
  *in_step = (uint64_t)((micro * d->ranks + d->rank) * d->rows);
  return (uint64_t)(t->opt->steps * d->rows * d->accumulate * d->ranks) + *in_step;
}
static tfp_status tfpi_comm(tfp_trainer *t, tfp_comm_kind kind, void *data, int64_t count,
                            int is_double, int bucket) {
  tfp_comm c;
  tfp_status s;
  if (!t->desc.comm) return TFP_OK;
  c.kind = kind, c.data = data, c.count = count, c.is_double = is_double, c.bucket = bucket,
  c.device = 0;
  s = t->desc.comm(t->desc.comm_user, &c);
  if (s) tfpi_fail(t->ctx, s, "trainer: the communication hook failed");
  return t->ctx->status;
}
/* Sums the gradients of all ranks in stretches, from the end, where the backward is done first. */
static tfp_status tfpi_reduce_gradients(tfp_trainer *t) {
  enum { BUCKET = 1 << 22 };
  tfp_params *set = t->model->params;
  int64_t end = set->flat;
  int bucket;
  if (!t->desc.comm || !set->grad) return TFP_OK;
  tfpi_settle_gradients(set);
  for (bucket = 0; end > 0; bucket++) {
    const int64_t start = tfpi_max64(0, end - BUCKET);
    if (tfpi_comm(t, TFP_COMM_SUM, set->grad + start, end - start,
                  sizeof(tfp_real) == sizeof(double), bucket))
      return t->ctx->status;
    end = start;
  }
  return tfpi_comm(t, TFP_COMM_WAIT, NULL, 0, 0, -1);
}

TFP_API tfp_status tfp_train_step(tfp_trainer *t, tfp_step_info *info) {
  const double began = tfp_seconds();
  tfp_ctx *ctx;
  tfp_batch batch;
  tfp_output out;
  double loss = 0, norm = 0, scored = 0, lr;
  int64_t micro, tokens = 0;
  uint64_t first, in_step;
  if (!t) return TFP_ERR_ARG;
  ctx = t->ctx;
  if (ctx->status) return ctx->status;
  tfp_params_zero_grad(t->model->params);
  for (micro = 0; micro < t->desc.accumulate;
       micro++) { /* the scale of the whole step comes first */
    first = tfpi_first_example(t, micro, &in_step);
    if (t->desc.source(t->desc.source_user, first, t->desc.rows, &batch)) {
      if (!ctx->status) tfpi_fail(ctx, TFP_ERR_STOPPED, "trainer: the source of batches gave none");
      return ctx->status;
    }
    scored += (double)tfp_batch_scored(&batch);
    tokens += batch.B * (batch.T + batch.S);
  }
  if (tfpi_comm(t, TFP_COMM_SUM, &scored, 1, 1, -1)) return ctx->status;
  if (scored < 1)
    return tfpi_fail(ctx, TFP_ERR_DATA, "step %i: no label is scored", t->opt->steps + 1);
  tfp_set_loss_scale(ctx, 1 / scored);
  for (micro = 0; micro < t->desc.accumulate; micro++) {
    first = tfpi_first_example(t, micro, &in_step);
    if (t->desc.accumulate > 1 && t->desc.source(t->desc.source_user, first, t->desc.rows, &batch))
      return ctx->status
                 ? ctx->status
                 : tfpi_fail(ctx, TFP_ERR_STOPPED, "trainer: the source of batches gave none");
    tfp_step_reset(ctx);
    tfp_training(ctx, 1, (uint64_t)t->opt->steps, in_step);
    if (tfp_forward(t->model, &batch, TFP_WANT_LOSS, NULL, &out)) break;
    loss += out.loss && out.loss->data ? tfp_item(out.loss) : 0;
    if (tfp_backward(ctx, out.loss)) break;
  }
  tfp_training(ctx, 0, 0, 0);
  if (ctx->status) return ctx->status;
  if (tfpi_comm(t, TFP_COMM_SUM, &loss, 1, 1, -1)) return ctx->status;
  if (!(fabs(loss) < INFINITY)) {
    tfp_params_zero_grad(t->model->params);
    return tfpi_fail(ctx, TFP_ERR_NAN, "step %i: the loss is %g; no weight was changed",
                     t->opt->steps + 1, loss);
  }
  if (tfpi_reduce_gradients(t)) return ctx->status;
  lr = tfp_learning_rate(t->desc.schedule, t->desc.lr, t->desc.min_lr, t->desc.warmup,
                         t->desc.steps, t->opt->steps);
  if (tfp_adamw_step(t->opt, lr, &norm)) return ctx->status;
  if (info) {
    info->step = t->opt->steps, info->loss = loss, info->lr = lr, info->grad_norm = norm;
    info->scored = (int64_t)scored, info->tokens = tokens * t->desc.ranks,
    info->seconds = tfp_seconds() - began;
  }
  return TFP_OK;
}

/* ---- checkpoints ----
 * trainer.safetensors: three flat arrays as float32, and as metadata the step, the layout's hash
 * and the arguments ("arg.NAME"). */

/* Changes with any parameter's name, shape or place. */
static uint64_t tfpi_layout_hash(const tfp_params *set) {
  uint64_t h = tfp_hash(0, &set->flat, (int64_t)sizeof set->flat);
  tfp_param *p;
  for (p = set->first; p; p = p->next) {
    h = tfp_hash(h, p->name, (int64_t)strlen(p->name));
    h = tfp_hash(h, p->tensor->shape, (int64_t)sizeof p->tensor->shape);
    h = tfp_hash(h, &p->offset, (int64_t)sizeof p->offset);
  }
  return h;
}
enum { TFPI_PIECE = 4096 };
/* Numbers to and from a file through a buffer of floats, whatever tfp_real is. */
static tfp_status tfpi_write_reals(tfp_safetensors_writer *w, int64_t entry, const tfp_real *x,
                                   int64_t n) {
  float piece[TFPI_PIECE];
  int64_t at, i;
  tfp_status s = TFP_OK;
  for (at = 0; at < n && !s; at += TFPI_PIECE) {
    const int64_t m = tfpi_min64(TFPI_PIECE, n - at);
    for (i = 0; i < m; i++) piece[i] = (float)x[at + i];
    s = tfp_safetensors_write(w, entry, piece, m);
  }
  return s;
}
static tfp_status tfpi_read_reals(tfp_safetensors *st, const tfp_safetensors_entry *e, tfp_real *x,
                                  int64_t n) {
  float piece[TFPI_PIECE];
  int64_t at, i;
  tfp_status s = TFP_OK;
  for (at = 0; at < n && !s; at += TFPI_PIECE) {
    const int64_t m = tfpi_min64(TFPI_PIECE, n - at);
    s = tfp_safetensors_read(st, e, at, m, piece);
    for (i = 0; i < m && !s; i++) x[at + i] = (tfp_real)piece[i];
  }
  return s;
}

static const char *const tfpi_trainer_parts[3] = {"moment1", "moment2", "weights"};

TFP_API tfp_status tfp_trainer_save(tfp_trainer *t, const char *path, const char *const *arguments,
                                    int64_t pairs) {
  tfp_ctx *ctx;
  tfp_safetensors_entry entries[3];
  tfp_safetensors_writer *w;
  const char **meta;
  const tfp_real *parts[3];
  char step[24], layout[20];
  int64_t i, e;
  tfpi_scope scope;
  if (!t) return TFP_ERR_ARG;
  ctx = t->ctx;
  if (ctx->status) return ctx->status;
  scope = tfpi_scope_begin(ctx);
  meta = (const char **)tfpi_new(&ctx->step, 2 * (pairs + 3), sizeof *meta);
  if (!meta) return ctx->status;
  tfpi_format(step, sizeof step, "%i", t->opt->steps);
  tfpi_format(layout, sizeof layout, "%x", tfpi_layout_hash(t->model->params));
  meta[0] = "format", meta[1] = "tfpre-trainer", meta[2] = "step", meta[3] = step,
  meta[4] = "layout", meta[5] = layout;
  for (i = 0; i < pairs; i++) {
    char *key = (char *)tfpi_new(&ctx->step, (int64_t)strlen(arguments[2 * i]) + 5, 1);
    if (!key) return ctx->status;
    tfpi_format(key, strlen(arguments[2 * i]) + 5, "arg.%s", arguments[2 * i]);
    meta[6 + 2 * i] = key, meta[7 + 2 * i] = arguments[2 * i + 1];
  }
  memset(entries, 0, sizeof entries);
  for (i = 0; i < 3; i++) {
    entries[i].name = tfpi_trainer_parts[i], entries[i].dtype = TFP_ST_F32, entries[i].ndim = 1;
    entries[i].shape[0] = t->model->params->flat;
  }
  parts[0] = t->opt->m, parts[1] = t->opt->v, parts[2] = t->model->params->data;
  w = tfp_safetensors_create(ctx, path, meta, pairs + 3, entries, 3);
  tfpi_scope_end(ctx, &scope);
  while (w && (e = tfp_safetensors_next(w)) >= 0)
    if (tfpi_write_reals(w, e, parts[e], t->model->params->flat)) break;
  if (!w) return ctx->status;
  return tfp_safetensors_finish(w);
}

/* Refuses a file that belongs to another model or other arguments. */
static tfp_status tfpi_trainer_check(tfp_trainer *t, const tfp_safetensors *st, const char *path,
                                     const char *const *arguments, int64_t pairs, int64_t *steps) {
  tfp_ctx *ctx = t->ctx;
  const char *format = tfp_safetensors_metadata(st, "format"),
             *step = tfp_safetensors_metadata(st, "step");
  const char *layout = tfp_safetensors_metadata(st, "layout");
  char mine[20], key[128];
  int64_t i;
  if (!format || strcmp(format, "tfpre-trainer") || !step || !layout)
    return tfpi_fail(ctx, TFP_ERR_FORMAT, "resume: '%s' is no file of a trainer", path);
  for (i = 0; i < pairs; i++) {
    const char *then;
    tfpi_format(key, sizeof key, "arg.%s", arguments[2 * i]);
    then = tfp_safetensors_metadata(st, key);
    if (!then || strcmp(then, arguments[2 * i + 1]))
      return tfpi_fail(ctx, TFP_ERR_ARG, "resume: %s is %s and was %s in '%s'", arguments[2 * i],
                       arguments[2 * i + 1], then ? then : "not given", path);
  }
  tfpi_format(mine, sizeof mine, "%x", tfpi_layout_hash(t->model->params));
  if (strcmp(mine, layout))
    return tfpi_fail(ctx, TFP_ERR_ARG, "resume: '%s' was written for another model", path);
  for (*steps = 0; *step >= '0' && *step <= '9' && *steps < INT64_MAX / 16; step++)
    *steps = *steps * 10 + (*step - '0');
  if (*step)
    return tfpi_fail(ctx, TFP_ERR_FORMAT, "resume: '%s' has a step that is no number", path);
  return TFP_OK;
}
TFP_API tfp_status tfp_trainer_load(tfp_trainer *t, const char *path, const char *const *arguments,
                                    int64_t pairs) {
  tfp_ctx *ctx;
  tfp_safetensors *st;
  tfp_real *parts[3];
  int64_t i, steps = 0;
  if (!t) return TFP_ERR_ARG;
  ctx = t->ctx;
  if (ctx->status) return ctx->status;
  st = tfp_safetensors_open(ctx, path);
  if (!st) return ctx->status;
  parts[0] = t->opt->m, parts[1] = t->opt->v, parts[2] = t->model->params->data;
  tfpi_trainer_check(t, st, path, arguments, pairs, &steps);
  for (i = 0; i < 3 && !ctx->status; i++) {
    const tfp_safetensors_entry *e = tfp_safetensors_find(st, tfpi_trainer_parts[i]);
    if (!e || e->count != t->model->params->flat || e->dtype != TFP_ST_F32)
      tfpi_fail(ctx, TFP_ERR_FORMAT, "resume: '%s' has no %s of %i numbers", path,
                tfpi_trainer_parts[i], t->model->params->flat);
    else
      tfpi_read_reals(st, e, parts[i], e->count);
  }
  tfp_safetensors_close(st);
  if (!ctx->status) t->opt->steps = steps;
  return ctx->status;
}
/* ================================================================================================
 * >>generate.c   writing text, and filling masks
 * ================================================================================================
 * One loop writes all texts: tfpi_feed gives scores of the next token from one batched forward,
 * tfpi_choose changes them and chooses, tfpi_greedy_step or tfpi_beam_step appends. Scores are
 * float and are rounded where the reference rounds them. All memory is taken before the first
 * token.
 */
/* ---- options: a row each, by their names in generation_config.json, in alphabetical order ---- */

typedef enum tfpi_gen_kind {
  TFPI_GEN_COUNT,    /* int64_t in [low,high] */
  TFPI_GEN_REAL,     /* double in [low,high] */
  TFPI_GEN_FLAG,     /* int */
  TFPI_GEN_ID,       /* tfp_ids: one id or a list of them */
  TFPI_GEN_LIST,     /* tfp_ids: a list */
  TFPI_GEN_WORDS,    /* bad_words: a list of lists */
  TFPI_GEN_STOPPING, /* early_stopping: true, false, "never" */
  TFPI_GEN_SAMPLE,   /* do_sample: the opposite of greedy */
  TFPI_GEN_BOS       /* of the configuration; a start token where there is none */
} tfpi_gen_kind;
typedef struct tfpi_gen_key {
  const char *key;
  tfpi_gen_kind kind;
  size_t offset;
  double low, high;
} tfpi_gen_key;

#define TFPI_GEN(f) offsetof(tfp_gen_desc, f)
#define TFPI_MANY 2147483647.0
static const tfpi_gen_key tfpi_gen_keys[] = {
    {"bad_words_ids", TFPI_GEN_WORDS, TFPI_GEN(bad_words), 0, 0},
    {"begin_suppress_tokens", TFPI_GEN_LIST, TFPI_GEN(begin_suppress), 0, 0},
    {"bos_token_id", TFPI_GEN_BOS, 0, 0, 0},
    {"decoder_start_token_id", TFPI_GEN_ID, TFPI_GEN(decoder_start), 0, 0},
    {"do_sample", TFPI_GEN_SAMPLE, TFPI_GEN(greedy), 0, 0},
    {"early_stopping", TFPI_GEN_STOPPING, TFPI_GEN(early_stopping), 0, 0},
    {"encoder_no_repeat_ngram_size", TFPI_GEN_COUNT, TFPI_GEN(encoder_no_repeat_ngram), 0,
     TFPI_MANY},
    {"encoder_repetition_penalty", TFPI_GEN_REAL, TFPI_GEN(encoder_repetition_penalty), 0, 1e30},
    {"eos_token_id", TFPI_GEN_ID, TFPI_GEN(ends), 0, 0},
    {"forced_bos_token_id", TFPI_GEN_ID, TFPI_GEN(forced_bos), 0, 0},
    {"forced_eos_token_id", TFPI_GEN_ID, TFPI_GEN(forced_eos), 0, 0},
    {"length_penalty", TFPI_GEN_REAL, TFPI_GEN(length_penalty), -1e30, 1e30},
    {"max_length", TFPI_GEN_COUNT, TFPI_GEN(max_length), 0, TFPI_MANY},
    {"max_new_tokens", TFPI_GEN_COUNT, TFPI_GEN(max_new), 0, TFPI_MANY},
    {"min_length", TFPI_GEN_COUNT, TFPI_GEN(min_length), 0, TFPI_MANY},
    {"min_new_tokens", TFPI_GEN_COUNT, TFPI_GEN(min_new), 0, TFPI_MANY},
    {"min_p", TFPI_GEN_REAL, TFPI_GEN(min_p), 0, 1},
    {"no_repeat_ngram_size", TFPI_GEN_COUNT, TFPI_GEN(no_repeat_ngram), 0, TFPI_MANY},
    {"num_beams", TFPI_GEN_COUNT, TFPI_GEN(beams), 0, 1024},
    {"pad_token_id", TFPI_GEN_ID, TFPI_GEN(pad), 0, 0},
    {"renormalize_logits", TFPI_GEN_FLAG, TFPI_GEN(renormalize), 0, 0},
    {"repetition_penalty", TFPI_GEN_REAL, TFPI_GEN(repetition_penalty), 0, 1e30},
    {"suppress_tokens", TFPI_GEN_LIST, TFPI_GEN(suppress), 0, 0},
    {"temperature", TFPI_GEN_REAL, TFPI_GEN(temperature), 0, 1e30},
    {"top_k", TFPI_GEN_COUNT, TFPI_GEN(top_k), 0, 9e15},
    {"top_p", TFPI_GEN_REAL, TFPI_GEN(top_p), 0, 1},
};
static double tfpi_gen_number(const tfp_gen_desc *d, const tfpi_gen_key *k) {
  const char *at = (const char *)d + k->offset;
  return k->kind == TFPI_GEN_COUNT ? (double)*(const int64_t *)(const void *)at
                                   : *(const double *)(const void *)at;
}
static tfp_status tfpi_gen_check(tfp_ctx *ctx, const tfp_gen_desc *d) {
  int i;
  for (i = 0; i < TFPI_COUNT(tfpi_gen_keys); i++) {
    const tfpi_gen_key *k = &tfpi_gen_keys[i];
    const int is_list = k->kind == TFPI_GEN_ID || k->kind == TFPI_GEN_LIST;
    const tfp_ids *list = (const tfp_ids *)(const void *)((const char *)d + k->offset);
    if (is_list && (list->n < 0 || (list->n && !list->at)))
      return tfpi_fail(ctx, TFP_ERR_ARG, "generate: %s has %i ids%s", k->key, list->n,
                       list->at ? "" : ", and they are NULL");
    if ((k->kind == TFPI_GEN_COUNT || k->kind == TFPI_GEN_REAL) &&
        !(tfpi_gen_number(d, k) >= k->low && tfpi_gen_number(d, k) <= k->high))
      return tfpi_fail(ctx, TFP_ERR_ARG, "generate: %s is %g, and not in [%g, %g]", k->key,
                       tfpi_gen_number(d, k), k->low, k->high);
  }
  if ((int)d->early_stopping < 0 || d->early_stopping > TFP_STOP_NEVER || d->vocab < 0 ||
      d->n_bad_words < 0 || (d->n_bad_words && !d->bad_words))
    return tfpi_fail(ctx, TFP_ERR_ARG, "generate: early_stopping %d, vocab %i, %i bad words",
                     (int)d->early_stopping, d->vocab, d->n_bad_words);
  return TFP_OK;
}
static int tfpi_has_id(tfp_ids list, int32_t id) {
  int64_t i;
  for (i = 0; i < list.n; i++)
    if (list.at[i] == id) return 1;
  return 0;
}

/* ---- what may be drawn ---- */

static int64_t tfpi_usable_vocab(int64_t V, int64_t limit) {
  return limit > 0 ? tfpi_min64(V, limit) : V;
}

/* Sorts ids by falling logit, equal ones by falling id: heapsort, in place. The root of the heap is
 * the id that comes last. */
static int tfpi_comes_after(const float *x, int32_t a, int32_t b) {
  return x[a] < x[b] || (x[a] == x[b] && a < b);
}
static void tfpi_sift(const float *x, int32_t *ids, int64_t root, int64_t n) {
  for (;;) {
    int64_t child = 2 * root + 1;
    int32_t t;
    if (child >= n) return;
    if (child + 1 < n && tfpi_comes_after(x, ids[child + 1], ids[child])) child++;
    if (!tfpi_comes_after(x, ids[child], ids[root])) return;
    t = ids[root], ids[root] = ids[child], ids[child] = t;
    root = child;
  }
}
static void tfpi_sort_ids(const float *x, int32_t *ids, int64_t n) {
  int64_t i;
  for (i = n / 2 - 1; i >= 0; i--) tfpi_sift(x, ids, i, n);
  for (i = n - 1; i > 0; i--) {
    const int32_t t = ids[0];
    ids[0] = ids[i], ids[i] = t;
    tfpi_sift(x, ids, 0, i);
  }
}
/* The k-th largest of V logits, 1 <= k <= V: a heap of the best so far in heap (k). */
static float tfpi_kth_largest(const float *x, int64_t V, int64_t k, int32_t *heap) {
  int64_t i;
  for (i = 0; i < k; i++) heap[i] = (int32_t)i;
  for (i = k / 2 - 1; i >= 0; i--) tfpi_sift(x, heap, i, k);
  for (i = k; i < V; i++)
    if (x[i] > x[heap[0]]) {
      heap[0] = (int32_t)i;
      tfpi_sift(x, heap, 0, k);
    }
  return x[heap[0]];
}
/* Keeps of the sorted ids those that top_p and min_p leave, but at least `keep`; returns how many.
 * Probabilities are rounded where the reference rounds them: to float after each step. */
static int64_t tfpi_filter_sorted(float *x, const tfp_gen_desc *d, int64_t keep,
                                  const int32_t *ids, int64_t kept) {
  const double best = (double)x[ids[0]];
  double sum = 0, below = 0;
  float mass, floor_p;
  int64_t i, n;
  for (i = 0; i < kept; i++) sum += (double)(float)exp((double)x[ids[i]] - best);
  mass = (float)sum;
  n = kept;
  if (d->top_p > 0 && d->top_p < 1) {
    const float most = (float)(1 - d->top_p);
    for (sum = 0; n > keep; n--, sum += below) {
      below = (double)((float)exp((double)x[ids[n - 1]] - best) / mass);
      if ((float)(sum + below) > most) break;
    }
    for (i = n; i < kept; i++) x[ids[i]] = -INFINITY;
    for (i = 0, sum = 0; i < n; i++) sum += (double)(float)exp((double)x[ids[i]] - best);
    mass = (float)sum, kept = n;
  }
  if (d->min_p > 0) {
    floor_p = (float)d->min_p * (1 / mass);
    while (n > keep && (float)exp((double)x[ids[n - 1]] - best) / mass < floor_p) n--;
    for (i = n; i < kept; i++) x[ids[i]] = -INFINITY;
  }
  return n;
}
/* tfp_filter_logits with the number of ids that must stay. ids: those that stay, the likeliest
 * first if anything but the temperature was asked for. */
static int64_t tfpi_filter(float *x, int64_t V, const tfp_gen_desc *d, int64_t keep,
                           int32_t *ids) {
  const int64_t n = tfpi_usable_vocab(V, d->vocab);
  const float t = (float)d->temperature;
  const int sorted = d->top_k > 0 || (d->top_p > 0 && d->top_p < 1) || d->min_p > 0;
  int64_t i, kept = 0;
  float edge = -INFINITY;
  for (i = 0; i < V; i++) {
    if (i >= n || x[i] != x[i]) x[i] = -INFINITY;
    else if (t > 0) x[i] /= t;
  }
  if (d->top_k > 0 && tfpi_max64(d->top_k, keep) < n)
    edge = tfpi_kth_largest(x, n, tfpi_max64(d->top_k, keep), ids);
  for (i = 0; i < n; i++) { /* ties with the k-th stay */
    if (x[i] >= edge && x[i] > -INFINITY) ids[kept++] = (int32_t)i;
    else x[i] = -INFINITY;
  }
  if (!sorted || !kept) return kept;
  tfpi_sort_ids(x, ids, kept);
  return tfpi_filter_sorted(x, d, keep, ids, kept);
}
TFP_API int64_t tfp_filter_logits(float *logits, int64_t V, const tfp_gen_desc *d, int32_t *work) {
  return tfpi_filter(logits, V, d, d->beams > 1 ? tfpi_max64(d->ends.n, 1) + 1 : 1, work);
}

/* The first of the largest. */
static int32_t tfpi_likeliest(const float *x, int64_t n) {
  int64_t i, at = 0;
  for (i = 1; i < n; i++)
    if (x[i] > x[at]) at = i;
  return (int32_t)at;
}
TFP_API int32_t tfp_sample(float *logits, int64_t V, const tfp_gen_desc *d, double u,
                           int32_t *work) {
  int64_t i, kept;
  double sum = 0, running = 0, best;
  if (!(d->temperature > 0) || d->greedy) {
    for (i = 0; i < V; i++)
      if (logits[i] != logits[i]) logits[i] = -INFINITY;
    return tfpi_likeliest(logits, tfpi_usable_vocab(V, d->vocab));
  }
  kept = tfpi_filter(logits, V, d, 1, work);
  if (!kept) return 0;
  best = (double)logits[work[0]];
  for (i = 1; i < kept; i++) best = fmax(best, (double)logits[work[i]]);
  for (i = 0; i < kept; i++) sum += exp((double)logits[work[i]] - best);
  for (i = 0; i < kept - 1; i++) {
    running += exp((double)logits[work[i]] - best);
    if (u * sum < running) break;
  }
  return work[i];
}

/* ---- the texts that are being written ----
 * Each of `rows` prompts has `beams` texts, one without beam search; text number b belongs to
 * prompt b / beams. All have the same length. What the decoder reads is not quite the text: hidden
 * tokens of a prompt are left out and the rest moved to the right, which gives the same numbers
 * (positions and ALiBi count visible tokens alone) and needs no mask for a single prompt. */

/* A token that may come next in a text of a beam search, and a text that ended. key: what decides,
 * the score or a draw from it. */
typedef struct tfpi_go_on { float score, key; int64_t beam; int32_t id; } tfpi_go_on;
typedef struct tfpi_ended { float score; int done; int64_t length; int32_t *ids; } tfpi_ended;

typedef struct tfpi_writer {
  tfp_model *model;
  tfp_ctx *ctx;
  tfp_gen_desc d;
  int sampled, seq2seq;
  tfp_cache *cache;
  tfpi_arena *arena;
  const int32_t *ids, *mask; /* (rows,n) the prompts; mask NULL: nothing hidden */
  int64_t rows, n, beams, B; /* B = rows beams */
  int64_t live;              /* rows of the cache: `rows` while prompts are read, then B */
  int64_t V, start, length;  /* length of each text: at first and now */
  int64_t max_length, min_length, begin;
  int64_t limit;             /* max_length, or less where positions end */
  int64_t window, first, fed; /* positions at most; the first one in the cache; behind the last */
  int32_t *context;          /* (rows,n_context) what stands in front of the new tokens */
  int64_t n_context, *padding, *behind; /* (rows) hidden slots in front of a context, at its end */
  int padded;                /* there are hidden slots */
  int32_t one_end, start_id, fill, pad;
  int64_t *lead;             /* (rows) hidden tokens in front of a prompt */
  int32_t *text, *spare;     /* (B,limit) */
  int32_t *feed;             /* ids, mask, positions of a forward */
  int64_t feed_size;
  float *scores, *pieces;    /* (B,V); (B,limit or n) */
  int32_t *work, *next;      /* (B,V); (rows) */
  int *finished;             /* (rows) */
  /* beam search */
  int64_t K, *listed, *parents;  /* candidates of a prompt; (B) of a text, (B) */
  tfpi_go_on *lists, *best;  /* (B,K), (K) */
  float *running;                /* (B) summed log-probabilities */
  tfpi_ended *ended;             /* (rows,beams+1): the best first; the last one is spare */
  int *closed;                   /* (rows) nothing running can become better */
} tfpi_writer;

/* ---- what scores go through, in the reference's order ---- */

static void tfpi_ban(float *x, int64_t V, tfp_ids list) {
  int64_t i;
  for (i = 0; i < list.n; i++)
    if (list.at[i] >= 0 && list.at[i] < V) x[list.at[i]] = -INFINITY;
}
/* Multiplies negative scores of some tokens by r and divides the others, each token once; work
 * (n). */
static void tfpi_punish(float *x, int64_t V, const int32_t *ids, int64_t n, float r, float *work) {
  int64_t i;
  for (i = 0; i < n; i++) {
    const float s = ids[i] >= 0 && ids[i] < V ? x[ids[i]] : 0;
    work[i] = s < 0 ? s * r : s / r;
  }
  for (i = 0; i < n; i++)
    if (ids[i] >= 0 && ids[i] < V) x[ids[i]] = work[i];
}
/* Bans what would complete, behind text, a sequence of `size` tokens that stands in `seen`. */
static void tfpi_ban_ngrams(float *x, int64_t V, const int32_t *text, int64_t length,
                            const int32_t *seen, int64_t n, int64_t size) {
  int64_t i;
  if (size < 1 || length < size - 1) return;
  for (i = 0; i + size <= n; i++) {
    const int32_t id = seen[i + size - 1];
    if (id >= 0 && id < V && !memcmp(seen + i, text + length - (size - 1),
                                     (size_t)(size - 1) * sizeof *text)) x[id] = -INFINITY;
  }
}
static void tfpi_ban_words(float *x, int64_t V, const tfp_gen_desc *d, const int32_t *text,
                           int64_t length) {
  int64_t i;
  for (i = 0; i < d->n_bad_words; i++) {
    const tfp_ids word = d->bad_words[i];
    const int64_t before = word.n - 1;
    tfp_ids last;
    if (before < 0 || before > length || (!before && tfpi_has_id(d->ends, word.at[0]))) continue;
    if (before && memcmp(text + length - before, word.at, (size_t)before * sizeof *text)) continue;
    last.at = word.at + before, last.n = 1;
    tfpi_ban(x, V, last);
  }
}
static void tfpi_force(float *x, int64_t V, tfp_ids list) {
  int64_t i;
  for (i = 0; i < V; i++) x[i] = -INFINITY;
  for (i = 0; i < list.n; i++)
    if (list.at[i] >= 0 && list.at[i] < V) x[list.at[i]] = 0;
}
static void tfpi_normalise(float *x, int64_t V) {
  double best = -INFINITY, sum = 0;
  int64_t i;
  for (i = 0; i < V; i++) best = fmax(best, (double)x[i]);
  for (i = 0; i < V && best > -INFINITY; i++) sum += exp((double)x[i] - best);
  for (i = 0; i < V && best > -INFINITY; i++) x[i] = (float)((double)x[i] - best - log(sum));
}
/* Scores of row b of the cache: logits, or log-probabilities in beam search. */
static void tfpi_process(const tfpi_writer *w, int64_t b, float *x, float *pieces) {
  const tfp_gen_desc *d = &w->d;
  const int64_t V = w->V, at = b * (w->B / w->live), row = at / w->beams;
  const int32_t *text = w->text + at * w->limit, *prompt = w->ids + row * w->n;
  int64_t i;
  for (i = 0; i < V; i++)
    if (x[i] != x[i]) x[i] = -INFINITY;
  if (d->encoder_repetition_penalty > 0)
    tfpi_punish(x, V, prompt, w->n, (float)(1 / d->encoder_repetition_penalty), pieces);
  if (d->repetition_penalty > 0)
    tfpi_punish(x, V, text + w->lead[row], w->length - w->lead[row], (float)d->repetition_penalty,
                pieces);
  tfpi_ban_ngrams(x, V, text, w->length, text, w->length, d->no_repeat_ngram);
  tfpi_ban_ngrams(x, V, text, w->length, prompt, w->n, d->encoder_no_repeat_ngram);
  tfpi_ban_words(x, V, d, text, w->length);
  if (w->length < w->min_length) tfpi_ban(x, V, d->ends);
  if (d->forced_bos.n && w->length == 1) tfpi_force(x, V, d->forced_bos);
  if (d->forced_eos.n && w->length == w->max_length - 1) tfpi_force(x, V, d->forced_eos);
  tfpi_ban(x, V, d->suppress);
  if (w->length == w->begin) tfpi_ban(x, V, d->begin_suppress);
  for (i = tfpi_usable_vocab(V, d->vocab); i < V; i++) x[i] = -INFINITY;
}

/* Adds the K best continuations of a text to its list, the best first, of equals the lowest id.
 * Drawing K without replacement is the same as taking the K largest of score + Gumbel noise. */
static void tfpi_list_candidates(tfpi_writer *w, int64_t b, const float *x) {
  const int64_t at = b * (w->B / w->live);
  const float before = w->running[at];
  tfpi_go_on *list = w->lists + b * w->K;
  int64_t n = 0, i, k;
  for (i = 0; i < w->V; i++) {
    const float score = x[i] + before;
    float key = score;
    if (w->sampled && score > -INFINITY) {
      const double u = (double)tfp_random_uniform(w->d.seed, 0x6265616du,
                                                  (uint64_t)((w->length * w->B + at) * w->V + i));
      key = (float)((double)key - log(-log(u + 1.0 / (1 << 25))));
    }
    if (n == w->K && !(key > list[n - 1].key)) continue;
    if (n < w->K) n++;
    for (k = n - 1; k > 0 && key > list[k - 1].key; k--) list[k] = list[k - 1];
    list[k].score = score, list[k].key = key, list[k].id = (int32_t)i;
  }
  w->listed[b] = n;
}
static void tfpi_choose(void *arg, int64_t b, int thread) {
  tfpi_writer *w = (tfpi_writer *)arg;
  const int64_t row = b * (w->B / w->live) / w->beams;
  float *x = w->scores + b * w->V, *pieces = w->pieces + b * tfpi_max64(w->limit, w->n);
  (void)thread;
  if (w->finished[row]) return;
  tfpi_process(w, b, x, pieces);
  if (w->beams == 1) {
    const uint64_t stream = 0x67656eu + ((uint64_t)row << 32);
    const double u =
        (double)tfp_random_uniform(w->d.seed, stream, (uint64_t)(w->length - w->start));
    w->next[row] = tfp_sample(x, w->V, &w->d, u, w->work + b * w->V);
    return;
  }
  if (w->sampled)
    tfpi_filter(x, w->V, &w->d, w->d.ends.n ? w->d.ends.n + 1 : 2, w->work + b * w->V);
  if (w->d.renormalize) tfpi_normalise(x, w->V);
  tfpi_list_candidates(w, b, x);
}

/* ---- beam search ---- */

/* Merges the lists of a prompt's texts into w->best; returns how many there are. In the first step
 * all texts are the same and share the list of the first. */
static int64_t tfpi_merge_candidates(tfpi_writer *w, int64_t row) {
  const int64_t share = w->live < w->B, first = row * w->beams;
  int64_t n, j, *taken = w->parents + first; /* of each list so far; parents come after */
  for (j = 0; j < w->beams; j++) taken[j] = 0;
  for (n = 0; n < w->K; n++) {
    int64_t from = -1;
    tfpi_go_on c;
    for (j = 0; j < w->beams; j++) {
      const int64_t b = share ? row : first + j;
      if (taken[j] >= w->listed[b]) continue;
      c = w->lists[b * w->K + taken[j]];
      if (share && j) c.score += w->running[first + j], c.key += w->running[first + j];
      if (from >= 0 && !(c.key > w->best[n].key)) continue;
      c.beam = from = j;
      w->best[n] = c;
    }
    if (from < 0) break;
    taken[from]++;
  }
  return n;
}
/* Puts a text that ended among the best of its prompt, behind equals; the worst falls out. */
static void tfpi_end_text(const tfpi_writer *w, int64_t row, const tfpi_go_on *c, float score) {
  tfpi_ended *slot = w->ended + row * (w->beams + 1), spare = slot[w->beams];
  const int32_t *text = w->text + (row * w->beams + c->beam) * w->limit + w->start;
  int64_t k;
  if (!(score > slot[w->beams - 1].score)) return;
  memcpy(spare.ids, text, (size_t)(w->length - w->start) * sizeof *text);
  spare.ids[w->length - w->start] = c->id;
  spare.score = score, spare.done = 1, spare.length = w->length - w->start + 1;
  for (k = w->beams; k > 0 && score > slot[k - 1].score; k--) slot[k] = slot[k - 1];
  slot[k] = spare;
}
/* One step of a prompt: of its K best continuations, those within the first `beams` that end are
 * kept with their score, and the `beams` best of those that do not end run on.
 *
 *   score = sum of log p / (new tokens, the end token among them) ^ length_penalty
 *
 * Sums and quotients are rounded to float as in the reference. */
static void tfpi_beam_row(tfpi_writer *w, int64_t row) {
  const int64_t first = row * w->beams, K = tfpi_merge_candidates(w, row);
  const double power = w->d.length_penalty, made = (double)(w->length + 1 - w->start);
  const double reach = w->d.early_stopping == TFP_STOP_NEVER && power > 0
                           ? (double)(w->max_length - w->start) : made;
  tfpi_ended *ended = w->ended + row * (w->beams + 1);
  float worst;
  int64_t c, j, done = 0;
  for (c = 0; c < K; c++) {
    tfpi_go_on *k = &w->best[c];
    k->key = k->score;
    if (!tfpi_has_id(w->d.ends, k->id) && w->length + 1 < w->limit) continue;
    if (c < w->beams) tfpi_end_text(w, row, k, k->score / (float)pow(made, power));
    k->key -= 1e9f;
  }
  for (j = 0; j < w->beams; j++) { /* without draws they stand in this order already */
    int64_t at = -1;
    for (c = 0; c < K; c++)
      if (w->best[c].beam >= 0 && (at < 0 || w->best[c].key > w->best[at].key)) at = c;
    w->parents[first + j] = first + w->best[at].beam;
    w->running[first + j] = w->best[at].key;
    memcpy(w->spare + (first + j) * w->limit, w->text + w->parents[first + j] * w->limit,
           (size_t)w->length * sizeof *w->text);
    w->spare[(first + j) * w->limit + w->length] = w->best[at].id;
    w->best[at].beam = -1; /* taken */
  }
  for (j = 0; j < w->beams; j++) done += ended[j].done;
  worst = done < w->beams ? -1e9f : ended[w->beams - 1].score;
  if (!(w->running[first] / (float)pow(reach, power) > worst)) w->finished[row] = 1;
  if (w->d.early_stopping == TFP_STOP_WHEN_FULL && done == w->beams) w->finished[row] = 1;
}
/* All prompts; a finished one goes on with what it had, and nobody looks. */
static tfp_status tfpi_beam_step(tfpi_writer *w) {
  int32_t *swap = w->text;
  int64_t row, j;
  for (row = 0; row < w->rows; row++) {
    if (!w->finished[row] && !w->ctx->desc.dry_run) {
      tfpi_beam_row(w, row);
      continue;
    }
    for (j = row * w->beams; j < (row + 1) * w->beams; j++) {
      memcpy(w->spare + j * w->limit, w->text + j * w->limit,
             (size_t)w->length * sizeof *w->text);
      w->spare[j * w->limit + w->length] = w->text[j * w->limit];
      w->parents[j] = j;
    }
  }
  w->text = w->spare, w->spare = swap;
  if (w->live == w->B) return tfp_cache_reorder(w->cache, w->parents);
  w->live = w->B;
  return tfp_cache_repeat(w->cache, w->beams); /* the texts were all the same */
}
static void tfpi_greedy_step(tfpi_writer *w) {
  const tfp_gen_desc *d = &w->d;
  int64_t row;
  for (row = 0; row < w->rows; row++) {
    const int32_t id = w->ctx->desc.dry_run ? 0 : w->finished[row] ? w->fill : w->next[row];
    w->text[row * w->limit + w->length] = id;
    if (w->finished[row] || w->ctx->desc.dry_run) continue;
    w->ended[row].length = w->length + 1 - w->start;
    w->finished[row] = tfpi_has_id(d->ends, id);
    if (w->rows == 1 && d->on_token && d->on_token(d->user, id)) w->finished[row] = 1;
  }
}

/* ---- feeding ---- */

/* What the decoder reads at a slot of row b, whether keys there are seen, and its position: the
 * prompt's tokens, then those that were written. Positions count visible tokens; behind a hidden
 * last token they begin at 1, as in the reference. */
static int32_t tfpi_slot(const tfpi_writer *w, int64_t b, int64_t slot, int32_t *visible,
                         int32_t *position) {
  const int64_t at = b * (w->B / w->live), row = at / w->beams, behind = w->behind[row];
  const int64_t since = slot - tfpi_max64(w->first, w->padding[row]);
  const int written = slot >= w->n_context;
  *visible = since >= 0 && (written || slot < w->n_context - behind);
  *position = (int32_t)(!*visible ? 0 : written && behind ? slot - w->n_context + 1 : since);
  return written ? w->text[at * w->limit + w->start + slot - w->n_context]
                 : w->context[row * w->n_context + slot];
}
/* Feeds what the cache lacks, and puts scores of the next token into w->scores. */
static tfp_status tfpi_feed(tfpi_writer *w) {
  tfp_ctx *ctx = w->ctx;
  const int64_t end = w->n_context + w->length - w->start;
  int64_t T, b, i;
  int32_t *ids = w->feed, *mask = w->feed + w->feed_size, *positions = mask + w->feed_size;
  tfp_batch batch;
  tfp_output out;
  tfp_tensor *scores;
  if (end - w->first > w->window) { /* go on with the second half */
    tfp_cache_reset(w->cache);
    w->first = w->fed = end - tfpi_max64(1, w->window / 2);
  }
  T = end - w->fed;
  for (b = 0; b < w->live; b++)
    for (i = b * T; i < (b + 1) * T; i++)
      ids[i] = tfpi_slot(w, b, w->fed + i - b * T, &mask[i], &positions[i]);
  memset(&batch, 0, sizeof batch);
  batch.B = w->live;
  if (w->seq2seq) {
    batch.ids = w->ids, batch.mask = w->mask, batch.T = w->n, batch.dec_ids = ids, batch.S = T;
  } else {
    batch.ids = ids, batch.T = T;
    if (w->padded) batch.mask = mask, batch.positions = positions;
  }
  w->fed = end;
  tfp_step_reset(ctx);
  if (tfp_forward(w->model, &batch, TFP_LAST_LOGITS, w->cache, &out)) return ctx->status;
  scores = w->beams > 1 ? tfp_log_softmax(ctx, out.logits) : out.logits;
  if (!scores || ctx->desc.dry_run) return ctx->status;
  return tfp_read(ctx, scores, w->scores, w->live * w->V);
}
static tfp_status tfpi_write_texts(tfpi_writer *w) {
  tfp_ctx *ctx = w->ctx;
  int64_t row, going = w->rows;
  for (; going && w->length < w->limit; w->length++) {
    if (tfpi_feed(w)) break;
    if (!ctx->desc.dry_run) tfpi_parallel(ctx, w->live, tfpi_choose, w);
    if (w->beams == 1) tfpi_greedy_step(w);
    else if (tfpi_beam_step(w)) break;
    for (row = going = 0; row < w->rows; row++) going += !w->finished[row];
  }
  return ctx->status;
}

/* ---- from a description to texts ---- */

/* Fills in what a description leaves open, with lengths and special tokens. */
static tfp_status tfpi_settle(tfpi_writer *w, const tfp_gen_desc *desc, int64_t max) {
  const tfp_config *c = &w->model->config;
  tfp_gen_desc *d = &w->d;
  const int learned = c->position == TFP_POS_LEARNED;
  int32_t pad;
  if (desc) memcpy(d, desc, sizeof *d);
  if (tfpi_gen_check(w->ctx, d)) return w->ctx->status;
  w->sampled = d->temperature > 0 && !d->greedy;
  w->beams = tfpi_max64(d->beams, 1);
  if (d->length_penalty == 0) d->length_penalty = 1;
  if (d->repetition_penalty == 1) d->repetition_penalty = 0;
  w->one_end = d->end_id ? d->end_id : c->eos;
  if (!d->ends.n) d->ends.at = &w->one_end, d->ends.n = 1;
  if (d->ends.n == 1 && d->ends.at[0] < 0) d->ends.n = 0;
  w->start_id = d->decoder_start.n ? d->decoder_start.at[0] : c->decoder_start;
  if (w->start_id < 0) w->start_id = c->bos >= 0 ? c->bos : 0;
  pad = d->pad.n ? d->pad.at[0] : c->pad;
  w->fill = pad >= 0 && (pad > 0 || w->beams == 1) ? pad : d->ends.n ? d->ends.at[0] : -1;
  if (pad < 0 || tfpi_has_id(d->ends, pad)) pad = -1;
  w->pad = pad; /* what hides a token of a prompt without a mask */
  w->seq2seq = c->arch == TFP_SEQ2SEQ;
  w->start = w->length = w->seq2seq ? 1 : w->n;
  w->max_length = d->max_new ? w->start + d->max_new : d->max_length;
  if (!w->max_length) {
    w->max_length = w->start + 20;
    if (learned && c->max_positions > w->start)
      w->max_length = tfpi_min64(w->max_length, c->max_positions);
  }
  if (w->max_length <= w->start)
    return tfpi_fail(w->ctx, TFP_ERR_ARG, "generate: max_length is %i, and the text has %i tokens",
                     w->max_length, w->start);
  w->max_length = tfpi_min64(w->max_length, w->start + max);
  if (w->max_length - w->start > 1 << 24) /* a hostile number in a file must not take all memory */
    return tfpi_fail(w->ctx, TFP_ERR_ARG, "generate: %i new tokens; at most 2^24 can be asked for",
                     w->max_length - w->start);
  w->min_length = d->min_new ? w->start + d->min_new : d->min_length;
  w->begin = w->start + (w->start == 1 && d->forced_bos.n);
  w->window = learned ? c->max_positions : INT64_MAX / 4;
  w->limit = w->max_length; /* the last token is never read, so it needs no position */
  if (w->seq2seq) w->limit = tfpi_min64(w->limit, w->window + 1);
  w->K = tfpi_min64(tfpi_max64(2, 1 + d->ends.n) * w->beams, w->beams * w->V);
  return TFP_OK;
}

/* Masks of decoder prompts, seen from their padding where the caller gives none; NULL: nothing is
 * hidden. A prompt of nothing but pad tokens is read as it is. */
static const int32_t *tfpi_prompt_mask(tfpi_writer *w, const int32_t *mask) {
  int64_t row, i, hidden = 0, all;
  int32_t *seen;
  if (mask || w->seq2seq || w->pad < 0) return mask;
  for (i = 0; i < w->rows * w->n; i++) hidden += w->ids[i] == w->pad;
  seen = hidden ? (int32_t *)tfpi_new(w->arena, w->rows * w->n, sizeof *seen) : NULL;
  for (row = 0; seen && row < w->rows; row++) {
    for (i = row * w->n, all = 1; i < (row + 1) * w->n; i++) all &= w->ids[i] == w->pad;
    for (i = row * w->n; i < (row + 1) * w->n; i++) seen[i] = all || w->ids[i] != w->pad;
  }
  return seen;
}
/* What the decoder reads first: the start token, or prompts without their hidden tokens. Those
 * behind the last visible one stay, hidden: the first new token comes from the last slot. */
static tfp_status tfpi_make_context(tfpi_writer *w) {
  int64_t row, i;
  w->n_context = w->seq2seq ? 1 : 0;
  for (row = 0; row < w->rows; row++) {
    const int32_t *mask = w->mask ? w->mask + row * w->n : NULL;
    int64_t visible = 0;
    for (i = 0; i < w->n && !w->seq2seq; i++) {
      visible += !mask || mask[i];
      w->behind[row] = !mask || mask[i] ? 0 : w->behind[row] + 1;
    }
    if (!visible && !w->seq2seq)
      return tfpi_fail(w->ctx, TFP_ERR_ARG, "generate: all %i tokens of prompt %i are hidden", w->n,
                       row);
    for (i = 0; !w->seq2seq && mask && !mask[i]; i++) w->lead[row]++;
    w->padding[row] = w->seq2seq ? 1 : visible + w->behind[row]; /* slots that it has, so far */
    w->n_context = tfpi_max64(w->n_context, w->padding[row]);
  }
  w->context = (int32_t *)tfpi_new(w->arena, w->rows * w->n_context, sizeof *w->context);
  for (row = 0; w->context && row < w->rows; row++) {
    const int32_t *mask = w->mask ? w->mask + row * w->n : NULL;
    int32_t *out = w->context + row * w->n_context;
    w->padding[row] = w->n_context - w->padding[row];
    w->padded |= w->padding[row] > 0 || w->behind[row] > 0;
    if (w->seq2seq) *out = w->start_id;
    out += w->padding[row];
    for (i = 0; i < w->n && !w->seq2seq; i++)
      if (!mask || mask[i] || i >= w->n - w->behind[row]) *out++ = w->ids[row * w->n + i];
  }
  return w->ctx->status;
}
static tfp_status tfpi_make_beams(tfpi_writer *w) {
  tfpi_arena *a = w->arena;
  const int64_t most = w->limit - w->start, slots = w->rows * (w->beams + 1);
  int32_t *ids;
  int64_t i;
  w->lists = (tfpi_go_on *)tfpi_new(a, w->B * w->K, sizeof *w->lists);
  w->best = (tfpi_go_on *)tfpi_new(a, w->K, sizeof *w->best);
  w->listed = (int64_t *)tfpi_new(a, w->B, sizeof *w->listed);
  w->parents = (int64_t *)tfpi_new(a, w->B, sizeof *w->parents);
  w->running = (float *)tfpi_new(a, w->B, sizeof *w->running);
  w->spare = (int32_t *)tfpi_new(a, w->B * w->limit, sizeof *w->spare);
  ids = (int32_t *)tfpi_new(a, slots * most, sizeof *ids);
  for (i = 0; !w->ctx->status && i < w->B; i++) /* one text to begin with, not the same often */
    w->running[i] = i % w->beams ? -1e9f : 0;
  for (i = 0; !w->ctx->status && i < slots; i++)
    w->ended[i].score = -1e9f, w->ended[i].ids = ids + i * most;
  return w->ctx->status;
}
/* All memory, before the first token. */
static tfp_status tfpi_writer_open(tfpi_writer *w, const int32_t *mask) {
  tfpi_arena *a = w->arena;
  int64_t slots, row, b;
  w->mask = tfpi_prompt_mask(w, mask);
  w->lead = (int64_t *)tfpi_new(a, w->rows, sizeof *w->lead);
  w->padding = (int64_t *)tfpi_new(a, w->rows, sizeof *w->padding);
  w->behind = (int64_t *)tfpi_new(a, w->rows, sizeof *w->behind);
  if (w->ctx->status || tfpi_make_context(w)) return w->ctx->status;
  slots = w->n_context + w->limit - w->start - 1;
  w->feed_size = tfpi_max64(w->rows * w->n_context, w->B);
  if (slots > w->window) w->feed_size = tfpi_max64(w->feed_size, w->B * (w->window / 2));
  w->feed = (int32_t *)tfpi_new(a, w->feed_size, 3 * sizeof *w->feed);
  w->text = (int32_t *)tfpi_new(a, w->B * w->limit, sizeof *w->text);
  w->scores = (float *)tfpi_new(a, w->B * w->V, sizeof *w->scores);
  w->pieces = (float *)tfpi_new(a, w->B * tfpi_max64(w->limit, w->n), sizeof *w->pieces);
  if (w->sampled) w->work = (int32_t *)tfpi_new(a, w->B * w->V, sizeof *w->work);
  w->next = (int32_t *)tfpi_new(a, w->rows, sizeof *w->next);
  w->finished = (int *)tfpi_new(a, w->rows, sizeof *w->finished);
  w->ended = (tfpi_ended *)tfpi_new(a, w->rows * (w->beams + 1), sizeof *w->ended);
  if (w->beams > 1) tfpi_make_beams(w);
  w->cache = tfp_cache_create(w->model, w->B, tfpi_min64(w->window, slots), w->seq2seq ? w->n : 0);
  if (w->ctx->status) return w->ctx->status;
  for (row = 0; row < w->rows; row++)
    for (b = row * w->beams; b < (row + 1) * w->beams; b++) {
      if (w->seq2seq) w->text[b * w->limit] = w->start_id;
      else memcpy(w->text + b * w->limit, w->ids + row * w->n, (size_t)w->n * sizeof *w->ids);
    }
  return tfp_cache_narrow(w->cache, w->rows);
}
/* The best text of each prompt into out (rows,max); returns the longest. */
static int64_t tfpi_hand_over(tfpi_writer *w, int32_t *out, int64_t max, int64_t *counts) {
  const tfp_gen_desc *d = &w->d;
  int64_t row, i, made, most = 0;
  for (row = 0; row < w->rows; row++) {
    const tfpi_ended *best = w->ended + row * (w->beams + 1);
    const int32_t *text = w->text + row * w->beams * w->limit + w->start;
    made = w->length - w->start;
    if (w->beams == 1 && !w->ctx->desc.dry_run) made = w->ended[row].length;
    if (w->beams > 1 && !w->ctx->desc.dry_run) /* no length where nothing could be written */
      text = best->ids, made = best->done ? best->length : 0;
    memcpy(out + row * max, text, (size_t)made * sizeof *out);
    for (i = 0; w->beams > 1 && w->rows == 1 && d->on_token && i < made; i++)
      if (d->on_token(d->user, out[i])) made = i + 1;
    for (i = made; w->rows > 1 && i < max; i++) out[row * max + i] = w->fill;
    if (counts) counts[row] = made;
    most = tfpi_max64(most, made);
  }
  return most;
}

TFP_API int64_t tfp_generate_batch(tfp_model *model, const int32_t *ids, const int32_t *mask,
                                   int64_t rows, int64_t n, const tfp_gen_desc *desc, int32_t *out,
                                   int64_t max, int64_t *counts) {
  tfp_ctx *ctx = model ? model->ctx : NULL;
  tfpi_writer w;
  int64_t made = -1;
  if (!ctx || ctx->status) return -1;
  memset(&w, 0, sizeof w);
  w.model = model, w.ctx = ctx, w.ids = ids, w.rows = w.live = rows, w.n = n;
  w.V = model->config.vocab_size;
  if (model->config.arch == TFP_ENCODER || model->config.head != TFP_HEAD_LM || rows < 1 || n < 1 ||
      rows > INT32_MAX || n > INT32_MAX || max < 0 || !ids) {
    tfpi_fail(ctx, TFP_ERR_ARG, "generate: %i prompts of %i tokens, room for %i new ones%s", rows,
              n, max, model->config.arch == TFP_ENCODER ? "; and the model is an encoder" : "");
    return -1;
  }
  if (tfpi_settle(&w, desc, tfpi_min64(max, INT32_MAX))) return -1;
  w.B = rows * w.beams;
  if (w.B > INT32_MAX / 4 || w.K > INT32_MAX / 4) {
    tfpi_fail(ctx, TFP_ERR_ARG, "generate: %i prompts with %i beams each", rows, w.beams);
    return -1;
  }
  w.arena = tfpi_arena_borrow(ctx);
  if (!w.arena) return -1;
  if (w.limit > w.start && !tfpi_writer_open(&w, mask)) {
    tfp_no_grad_begin(ctx);
    if (!tfpi_write_texts(&w)) made = tfpi_hand_over(&w, out, max, counts);
    tfp_no_grad_end(ctx);
  } else if (!ctx->status) {
    made = 0; /* no room for any */
    while (counts && rows-- > 0) counts[rows] = 0;
  }
  tfp_step_reset(ctx);
  tfp_cache_free(w.cache);
  tfpi_arena_return(w.arena);
  return made;
}
TFP_API int64_t tfp_generate(tfp_model *model, const int32_t *prompt, int64_t n,
                             const tfp_gen_desc *desc, int32_t *out, int64_t max) {
  return tfp_generate_batch(model, prompt, NULL, 1, n, desc, out, max, NULL);
}

/* ---- masks ---- */

TFP_API int64_t tfp_fill(tfp_model *model, const int32_t *ids, int64_t n, int32_t mask_id,
                         int64_t top, int64_t vocab, tfp_filled *out, int64_t max) {
  tfp_ctx *ctx = model ? model->ctx : NULL;
  tfp_batch b;
  tfp_output o;
  int64_t V, t, i, k, made = 0;
  if (!ctx || ctx->status) return -1;
  if (model->config.arch != TFP_ENCODER || model->config.head != TFP_HEAD_LM || top < 1) {
    tfpi_fail(ctx, TFP_ERR_ARG,
              "fill: the %i likeliest tokens want an encoder with a language-modelling head", top);
    return -1;
  }
  memset(&b, 0, sizeof b);
  b.B = 1, b.T = n, b.ids = ids;
  tfp_step_reset(ctx);
  tfp_no_grad_begin(ctx);
  tfp_forward(model, &b, TFP_WANT_LOGITS, NULL, &o);
  tfp_no_grad_end(ctx);
  if (ctx->status || !o.logits || !o.logits->data) {
    tfp_step_reset(ctx);
    return ctx->status ? -1 : 0;
  }
  V = tfpi_usable_vocab(model->config.vocab_size, vocab);
  for (t = 0; t < n; t++) {
    const tfp_real *x = tfpi_data(o.logits) + t * model->config.vocab_size;
    double sum = 0, peak = -INFINITY;
    if (ids[t] != mask_id) continue;
    for (i = 0; i < V; i++) peak = fmax(peak, (double)x[i]);
    for (i = 0; i < V; i++) sum += exp((double)x[i] - peak);
    for (k = 0; k < tfpi_min64(top, V) && made < max;
         k++) { /* the next one below the last, ties by id */
      int64_t best = -1;
      for (i = 0; i < V; i++) {
        const int64_t last = k ? out[made - 1].id : -1;
        if (k && (x[i] > x[last] || (!(x[i] < x[last]) && i <= last))) continue;
        if (best < 0 || x[i] > x[best]) best = i;
      }
      if (best < 0) break;
      out[made].position = t, out[made].id = (int32_t)best,
      out[made].probability = exp((double)x[best] - peak) / sum;
      made++;
    }
  }
  tfp_step_reset(ctx);
  if (!made) {
    tfpi_fail(ctx, TFP_ERR_ARG, "fill: none of %i tokens is the mask, id %d", n, (int)mask_id);
    return -1;
  }
  return made;
}

/* ---- generation_config.json ---- */

/* Keys that ask for another search than the ones above, with the values that do not. What has no
 * number there is refused if it is anything but null or false. */
typedef struct tfpi_gen_other { const char *key; double plain; int drawing; } tfpi_gen_other;
static const tfpi_gen_other tfpi_gen_others[] = {
  {"constraints", 0, 0},       {"diversity_penalty", 0, 0},
  {"dola_layers", 0, 0},       {"exponential_decay_length_penalty", 0, 0},
  {"force_words_ids", 0, 0},   {"guidance_scale", 1, 0},
  {"max_time", 0, 0},          {"num_beam_groups", 1, 0},
  {"penalty_alpha", 0, 0},     {"sequence_bias", 0, 0},
  {"stop_strings", 0, 0},      {"token_healing", 0, 0},
  {"watermarking_config", 0, 0}, {"epsilon_cutoff", 0, 1},
  {"eta_cutoff", 0, 1},        {"top_h", 0, 1},
  {"typical_p", 1, 1}};

static tfp_status tfpi_gen_wrong(tfp_ctx *ctx, const char *path, const char *key,
                                 const tfp_json *v, const char *want) {
  return tfpi_fail(ctx, TFP_ERR_FORMAT, "'%s': \"%s\" at byte %i is not %s", path, key, v->offset,
                   want);
}
/* An id, or a list of ids. */
static tfp_status tfpi_gen_read_ids(tfpi_arena *a, const char *path, const char *key,
                                    const tfp_json *v, tfp_ids *out) {
  const tfp_json *e = v->type == TFP_JSON_ARRAY ? v->child : v;
  const int64_t n = v->type == TFP_JSON_ARRAY ? v->count : 1;
  int32_t *ids = (int32_t *)tfpi_new(a, n, sizeof *ids);
  int64_t i;
  if (!ids) return a->ctx->status;
  for (i = 0; i < n; i++, e = e->next) {
    if (e->type != TFP_JSON_INT || e->integer < -1 || e->integer > INT32_MAX)
      return tfpi_gen_wrong(a->ctx, path, key, e, "a token id");
    ids[i] = (int32_t)e->integer;
  }
  out->at = ids, out->n = n;
  return TFP_OK;
}
static tfp_status tfpi_gen_read_words(tfpi_arena *a, const char *path, const char *key,
                                      const tfp_json *v, tfp_gen_desc *d) {
  const tfp_json *e = v->child;
  tfp_ids *words;
  int64_t i;
  if (v->type != TFP_JSON_ARRAY) return tfpi_gen_wrong(a->ctx, path, key, v, "a list of lists");
  words = (tfp_ids *)tfpi_new(a, v->count, sizeof *words);
  for (i = 0; words && i < v->count; i++, e = e->next) {
    if (e->type != TFP_JSON_ARRAY) return tfpi_gen_wrong(a->ctx, path, key, e, "a list of ids");
    if (tfpi_gen_read_ids(a, path, key, e, &words[i])) return a->ctx->status;
  }
  d->bad_words = words, d->n_bad_words = v->count;
  return a->ctx->status;
}
/* A number that is 0 in the file, where 0 in a description means something else. */
static double tfpi_gen_zero(const tfpi_gen_key *k, double x) {
  const int means_one = k->offset == TFPI_GEN(length_penalty) || k->offset == TFPI_GEN(top_p);
  return x == 0 && means_one ? TFP_LENGTH_PENALTY_OFF : x;
}
static tfp_status tfpi_gen_read(tfpi_arena *a, const char *path, const tfp_json *v,
                                const tfpi_gen_key *k, tfp_gen_desc *d) {
  char *at = (char *)d + k->offset;
  const int number = v->type == TFP_JSON_INT || v->type == TFP_JSON_FLOAT;
  switch (k->kind) {
    case TFPI_GEN_COUNT:
      if (v->type != TFP_JSON_INT || v->number < k->low || v->number > k->high)
        return tfpi_gen_wrong(a->ctx, path, k->key, v, "a count in its range");
      *(int64_t *)(void *)at = v->integer;
      break;
    case TFPI_GEN_REAL:
      if (!number || !(v->number >= k->low && v->number <= k->high))
        return tfpi_gen_wrong(a->ctx, path, k->key, v, "a number in its range");
      *(double *)(void *)at = tfpi_gen_zero(k, v->number);
      break;
    case TFPI_GEN_FLAG:
    case TFPI_GEN_SAMPLE:
      if (v->type != TFP_JSON_BOOL)
        return tfpi_gen_wrong(a->ctx, path, k->key, v, "true or false");
      *(int *)(void *)at = (int)v->integer ^ (k->kind == TFPI_GEN_SAMPLE);
      break;
    case TFPI_GEN_STOPPING:
      if (v->type == TFP_JSON_BOOL)
        d->early_stopping = v->integer ? TFP_STOP_WHEN_FULL : TFP_STOP_BY_SCORE;
      else if (v->type == TFP_JSON_STRING && !strcmp(v->text, "never"))
        d->early_stopping = TFP_STOP_NEVER;
      else return tfpi_gen_wrong(a->ctx, path, k->key, v, "true, false or \"never\"");
      break;
    case TFPI_GEN_ID:
    case TFPI_GEN_LIST: return tfpi_gen_read_ids(a, path, k->key, v, (tfp_ids *)(void *)at);
    case TFPI_GEN_WORDS: return tfpi_gen_read_words(a, path, k->key, v, d);
    case TFPI_GEN_BOS: break;
  }
  return TFP_OK;
}
static tfp_status tfpi_gen_refuse(tfp_ctx *ctx, const char *path, const tfp_json *root,
                                  int drawing) {
  int i;
  for (i = 0; i < TFPI_COUNT(tfpi_gen_others); i++) {
    const tfpi_gen_other *o = &tfpi_gen_others[i];
    const tfp_json *v = tfp_json_get(root, o->key);
    const int number = v && (v->type == TFP_JSON_INT || v->type == TFP_JSON_FLOAT);
    if (!v || v->type == TFP_JSON_NULL || (v->type == TFP_JSON_BOOL && !v->integer) ||
        (number && v->number == o->plain) || (o->drawing && !drawing))
      continue;
    return tfpi_fail(ctx, TFP_ERR_UNSUPPORTED,
                     "'%s': \"%s\" at byte %i asks for a search that is not here", path, o->key,
                     v->offset);
  }
  return TFP_OK;
}
/* The keys of an object, over what the reference takes where a file says nothing. */
static tfp_status tfpi_gen_read_all(tfpi_arena *a, const char *path, const tfp_json *root,
                                    const tfp_config *c, tfp_gen_desc *d) {
  static const int32_t none = -1;
  int32_t *start = (int32_t *)tfpi_new(a, 1, sizeof *start);
  const tfp_json *v;
  int i;
  if (!start) return a->ctx->status;
  d->temperature = 1, d->top_k = 50, d->greedy = 1;
  d->ends.at = d->pad.at = &none, d->ends.n = d->pad.n = 1; /* the file alone says them */
  *start = (int32_t)tfp_json_get_int(root, "bos_token_id", -1);
  if (*start < 0) *start = c->decoder_start;
  d->decoder_start.at = start, d->decoder_start.n = 1;
  for (i = 0; i < TFPI_COUNT(tfpi_gen_keys); i++) {
    v = tfp_json_get(root, tfpi_gen_keys[i].key);
    if (v && v->type != TFP_JSON_NULL && tfpi_gen_read(a, path, v, &tfpi_gen_keys[i], d))
      return a->ctx->status;
  }
  v = tfp_json_get(root, "bos_token_id");
  if (v && tfp_json_get_bool(root, "force_bos_token_to_be_generated", 0) && !d->forced_bos.n &&
      tfpi_gen_read_ids(a, path, "bos_token_id", v, &d->forced_bos)) return a->ctx->status;
  return tfpi_gen_refuse(a->ctx, path, root, !d->greedy);
}
TFP_API void tfp_gen_free(tfp_ctx *ctx, tfp_gen_desc *d) {
  if (ctx && d && d->lists) tfpi_arena_return((tfpi_arena *)d->lists);
  if (d) memset(d, 0, sizeof *d);
}
TFP_API tfp_status tfp_gen_load(tfp_ctx *ctx, const char *dir, const tfp_config *config,
                                tfp_gen_desc *d) {
  char path[1024];
  tfp_json *root;
  memset(d, 0, sizeof *d);
  if (ctx->status) return ctx->status;
  if (!tfpi_path_join(path, sizeof path, dir, "generation_config.json"))
    return tfpi_fail(ctx, TFP_ERR_ARG, "the path of generation_config.json in '%s' is too long",
                     dir);
  if (!tfp_file_exists(ctx, path)) tfpi_path_join(path, sizeof path, dir, "config.json");
  root = tfp_json_parse_file(ctx, path);
  if (!root) return ctx->status;
  if (root->type != TFP_JSON_OBJECT) tfpi_fail(ctx, TFP_ERR_FORMAT, "'%s': not an object", path);
  d->lists = tfpi_arena_borrow(ctx);
  if (d->lists) tfpi_gen_read_all((tfpi_arena *)d->lists, path, root, config, d);
  tfp_json_free(root);
  if (ctx->status) tfp_gen_free(ctx, d);
  return ctx->status;
}

static void tfpi_gen_write_ids(tfp_json_writer *w, tfp_ids list, int as_list) {
  int64_t i;
  if (list.n == 1 && !as_list) {
    tfp_json_put_int(w, list.at[0]);
    return;
  }
  tfp_json_begin_array(w);
  for (i = 0; i < list.n; i++) tfp_json_put_int(w, list.at[i]);
  tfp_json_end_array(w);
}
/* The ids of a key, from the description or else from the configuration. one: room for one id. */
static tfp_ids tfpi_gen_ids_of(const tfpi_gen_key *k, const tfp_gen_desc *d, const tfp_config *c,
                               int32_t *one) {
  tfp_ids list;
  list.at = one, list.n = 1, *one = -1;
  if (k->kind == TFPI_GEN_BOS) {
    *one = c->bos;
  } else {
    const tfp_ids *own = (const tfp_ids *)(const void *)((const char *)d + k->offset);
    if (own->n) return *own;
    if (k->offset == TFPI_GEN(ends)) *one = d->end_id ? d->end_id : c->eos;
    if (k->offset == TFPI_GEN(pad)) *one = c->pad;
    if (k->offset == TFPI_GEN(decoder_start)) *one = c->decoder_start;
  }
  return list;
}
/* A key with its value, unless that is what the reference takes without the key. */
static void tfpi_gen_write(tfp_json_writer *w, const tfpi_gen_key *k, const tfp_gen_desc *d,
                           const tfp_config *c) {
  const char *at = (const char *)d + k->offset;
  const int drawn = d->temperature > 0 && !d->greedy;
  double x = 0;
  int64_t i;
  int32_t one;
  tfp_ids list;
  list.n = 0, list.at = NULL;
  if (k->kind == TFPI_GEN_COUNT || k->kind == TFPI_GEN_REAL) {
    x = tfpi_gen_number(d, k);
    if (x == 0 && !(drawn && k->offset == TFPI_GEN(top_k))) return;
    if (x == TFP_LENGTH_PENALTY_OFF) x = 0;
  } else if (k->kind == TFPI_GEN_ID || k->kind == TFPI_GEN_LIST || k->kind == TFPI_GEN_BOS) {
    list = tfpi_gen_ids_of(k, d, c, &one);
    if (list.n == 1 && list.at[0] < 0) return;
  } else if ((k->kind == TFPI_GEN_FLAG && !*(const int *)(const void *)at) ||
             (k->kind == TFPI_GEN_SAMPLE && !drawn) ||
             (k->kind == TFPI_GEN_STOPPING && !d->early_stopping) ||
             (k->kind == TFPI_GEN_WORDS && !d->n_bad_words)) {
    return;
  }
  tfp_json_key(w, k->key, -1);
  switch (k->kind) {
    case TFPI_GEN_COUNT: tfp_json_put_int(w, *(const int64_t *)(const void *)at); break;
    case TFPI_GEN_REAL: tfp_json_put_double(w, x); break;
    case TFPI_GEN_FLAG:
    case TFPI_GEN_SAMPLE: tfp_json_put_bool(w, 1); break;
    case TFPI_GEN_STOPPING:
      if (d->early_stopping == TFP_STOP_NEVER) tfp_json_put_text(w, "never", -1);
      else tfp_json_put_bool(w, 1);
      break;
    case TFPI_GEN_WORDS:
      tfp_json_begin_array(w);
      for (i = 0; i < d->n_bad_words; i++) tfpi_gen_write_ids(w, d->bad_words[i], 1);
      tfp_json_end_array(w);
      break;
    default: tfpi_gen_write_ids(w, list, k->kind == TFPI_GEN_LIST);
  }
}
TFP_API tfp_status tfp_gen_save(tfp_ctx *ctx, const char *dir, const tfp_config *config,
                                const tfp_gen_desc *desc) {
  char path[1024];
  tfp_gen_desc d;
  tfp_json_writer *w;
  int i;
  memset(&d, 0, sizeof d);
  if (desc) memcpy(&d, desc, sizeof d);
  if (ctx->status || tfpi_gen_check(ctx, &d)) return ctx->status;
  if (!tfpi_path_join(path, sizeof path, dir, "generation_config.json"))
    return tfpi_fail(ctx, TFP_ERR_ARG, "the path of generation_config.json in '%s' is too long",
                     dir);
  w = tfp_json_writer_open(ctx, TFP_JSON_PRETTY);
  tfp_json_begin_object(w);
  for (i = 0; i < TFPI_COUNT(tfpi_gen_keys); i++) tfpi_gen_write(w, &tfpi_gen_keys[i], &d, config);
  tfp_json_end_object(w);
  tfp_json_writer_save(w, path);
  tfp_json_writer_close(w);
  return ctx->status;
}
/* ================================================================================================
 * >>hub.c   model directories as Hugging Face has them
 * ================================================================================================
 */
enum {
  TFPI_IN_BERT = 1 << TFP_BERT,
  TFPI_IN_ROBERTA = 1 << TFP_ROBERTA,
  TFPI_IN_GPT2 = 1 << TFP_GPT2,
  TFPI_IN_BLOOM = 1 << TFP_BLOOM,
  TFPI_IN_T5 = 1 << TFP_T5,
  TFPI_IN_BART = 1 << TFP_BART,
  TFPI_IN_BERTS = TFPI_IN_BERT | TFPI_IN_ROBERTA,
  TFPI_IN_GPTS = TFPI_IN_GPT2 | TFPI_IN_BLOOM,
  TFPI_IN_ALL = 63
};

/* ---- config.json: one row a key ---- */

typedef enum tfpi_key_type {
  TFPI_KEY_SIZE,    /* int64_t */
  TFPI_KEY_FLAG,    /* int as true or false */
  TFPI_KEY_REAL,    /* double, written with a point or exponent */
  TFPI_KEY_ID,      /* int32_t, null for -1 */
  TFPI_KEY_ROWS,    /* int64_t: max_positions and the offset rows in front (BERT, RoBERTa) */
  TFPI_KEY_ACT      /* tfp_activation */
} tfpi_key_type;
typedef struct tfpi_key {
  int families;
  const char *key;
  tfpi_key_type type;
  size_t offset;
} tfpi_key;

#define TFPI_FIELD(f) offsetof(tfp_config, f)
static const tfpi_key tfpi_keys[] = {
    {TFPI_IN_ALL, "vocab_size", TFPI_KEY_SIZE, TFPI_FIELD(vocab_size)},
    {TFPI_IN_ALL, "bos_token_id", TFPI_KEY_ID, TFPI_FIELD(bos)},
    {TFPI_IN_ALL, "eos_token_id", TFPI_KEY_ID, TFPI_FIELD(eos)},
    {TFPI_IN_ALL, "pad_token_id", TFPI_KEY_ID, TFPI_FIELD(pad)},
    {TFPI_IN_T5 | TFPI_IN_BART, "decoder_start_token_id", TFPI_KEY_ID, TFPI_FIELD(decoder_start)},
    {TFPI_IN_BERTS | TFPI_IN_BLOOM, "hidden_size", TFPI_KEY_SIZE, TFPI_FIELD(hidden)},
    {TFPI_IN_BERTS, "num_hidden_layers", TFPI_KEY_SIZE, TFPI_FIELD(encoder_layers)},
    {TFPI_IN_BERTS, "num_attention_heads", TFPI_KEY_SIZE, TFPI_FIELD(heads)},
    {TFPI_IN_BERTS, "intermediate_size", TFPI_KEY_SIZE, TFPI_FIELD(ffn)},
    {TFPI_IN_BERTS, "hidden_act", TFPI_KEY_ACT, TFPI_FIELD(activation)},
    {TFPI_IN_BERTS, "hidden_dropout_prob", TFPI_KEY_REAL, TFPI_FIELD(dropout)},
    {TFPI_IN_BERTS, "attention_probs_dropout_prob", TFPI_KEY_REAL, TFPI_FIELD(attention_dropout)},
    {TFPI_IN_BERTS, "max_position_embeddings", TFPI_KEY_ROWS, TFPI_FIELD(max_positions)},
    {TFPI_IN_BERTS, "type_vocab_size", TFPI_KEY_SIZE, TFPI_FIELD(type_vocab)},
    {TFPI_IN_BERTS, "layer_norm_eps", TFPI_KEY_REAL, TFPI_FIELD(norm_eps)},
    {TFPI_IN_BERTS | TFPI_IN_GPTS, "initializer_range", TFPI_KEY_REAL, TFPI_FIELD(init_std)},
    {TFPI_IN_GPT2, "n_embd", TFPI_KEY_SIZE, TFPI_FIELD(hidden)},
    {TFPI_IN_GPTS, "n_layer", TFPI_KEY_SIZE, TFPI_FIELD(decoder_layers)},
    {TFPI_IN_GPTS, "n_head", TFPI_KEY_SIZE, TFPI_FIELD(heads)},
    {TFPI_IN_GPT2, "n_inner", TFPI_KEY_SIZE, TFPI_FIELD(ffn)},
    {TFPI_IN_GPT2, "n_positions", TFPI_KEY_SIZE, TFPI_FIELD(max_positions)},
    {TFPI_IN_GPT2, "activation_function", TFPI_KEY_ACT, TFPI_FIELD(activation)},
    {TFPI_IN_GPT2, "resid_pdrop", TFPI_KEY_REAL, TFPI_FIELD(dropout)},
    {TFPI_IN_GPT2, "attn_pdrop", TFPI_KEY_REAL, TFPI_FIELD(attention_dropout)},
    {TFPI_IN_GPTS, "layer_norm_epsilon", TFPI_KEY_REAL, TFPI_FIELD(norm_eps)},
    {TFPI_IN_GPT2, "scale_attn_by_inverse_layer_idx", TFPI_KEY_FLAG, TFPI_FIELD(scale_by_layer)},
    {TFPI_IN_BLOOM, "apply_residual_connection_post_layernorm", TFPI_KEY_FLAG,
     TFPI_FIELD(residual_after_norm)},
    {TFPI_IN_BLOOM, "hidden_dropout", TFPI_KEY_REAL, TFPI_FIELD(dropout)},
    {TFPI_IN_BLOOM | TFPI_IN_BART, "attention_dropout", TFPI_KEY_REAL,
     TFPI_FIELD(attention_dropout)},
    {TFPI_IN_T5 | TFPI_IN_BART, "d_model", TFPI_KEY_SIZE, TFPI_FIELD(hidden)},
    {TFPI_IN_T5, "d_kv", TFPI_KEY_SIZE, TFPI_FIELD(head_dim)},
    {TFPI_IN_T5, "d_ff", TFPI_KEY_SIZE, TFPI_FIELD(ffn)},
    {TFPI_IN_T5, "num_layers", TFPI_KEY_SIZE, TFPI_FIELD(encoder_layers)},
    {TFPI_IN_T5, "num_decoder_layers", TFPI_KEY_SIZE, TFPI_FIELD(decoder_layers)},
    {TFPI_IN_T5, "num_heads", TFPI_KEY_SIZE, TFPI_FIELD(heads)},
    {TFPI_IN_T5, "relative_attention_num_buckets", TFPI_KEY_SIZE, TFPI_FIELD(buckets)},
    {TFPI_IN_T5, "relative_attention_max_distance", TFPI_KEY_SIZE, TFPI_FIELD(max_distance)},
    {TFPI_IN_T5, "dropout_rate", TFPI_KEY_REAL, TFPI_FIELD(dropout)},
    {TFPI_IN_T5, "layer_norm_epsilon", TFPI_KEY_REAL, TFPI_FIELD(norm_eps)},
    {TFPI_IN_T5, "initializer_factor", TFPI_KEY_REAL, TFPI_FIELD(init_std)},
    {TFPI_IN_T5, "scale_decoder_outputs", TFPI_KEY_FLAG, TFPI_FIELD(scale_logits)},
    {TFPI_IN_ALL, "classifier_dropout", TFPI_KEY_REAL, TFPI_FIELD(classifier_dropout)},
    {TFPI_IN_BART, "encoder_layers", TFPI_KEY_SIZE, TFPI_FIELD(encoder_layers)},
    {TFPI_IN_BART, "decoder_layers", TFPI_KEY_SIZE, TFPI_FIELD(decoder_layers)},
    {TFPI_IN_BART, "encoder_attention_heads", TFPI_KEY_SIZE, TFPI_FIELD(heads)},
    {TFPI_IN_BART, "decoder_attention_heads", TFPI_KEY_SIZE, TFPI_FIELD(heads)},
    {TFPI_IN_BART, "encoder_ffn_dim", TFPI_KEY_SIZE, TFPI_FIELD(ffn)},
    {TFPI_IN_BART, "decoder_ffn_dim", TFPI_KEY_SIZE, TFPI_FIELD(ffn)},
    {TFPI_IN_BART, "activation_function", TFPI_KEY_ACT, TFPI_FIELD(activation)},
    {TFPI_IN_BART, "max_position_embeddings", TFPI_KEY_SIZE, TFPI_FIELD(max_positions)},
    {TFPI_IN_BART, "dropout", TFPI_KEY_REAL, TFPI_FIELD(dropout)},
    {TFPI_IN_BART, "activation_dropout", TFPI_KEY_REAL, TFPI_FIELD(activation_dropout)},
    {TFPI_IN_BART, "init_std", TFPI_KEY_REAL, TFPI_FIELD(init_std)},
    {TFPI_IN_BART, "scale_embedding", TFPI_KEY_FLAG, TFPI_FIELD(scale_embedding)},
};
/* Other names that files have for a key; where both are there, the alias wins, as in the reference.
 * */
typedef struct tfpi_alias {
  int families;
  const char *alias, *key;
} tfpi_alias;
static const tfpi_alias tfpi_aliases[] = {
  {TFPI_IN_GPT2, "hidden_size", "n_embd"},
  {TFPI_IN_GPT2, "max_position_embeddings", "n_positions"},
  {TFPI_IN_GPTS, "num_attention_heads", "n_head"},
  {TFPI_IN_GPTS, "num_hidden_layers", "n_layer"},
  {TFPI_IN_BLOOM, "n_embed", "hidden_size"},
  {TFPI_IN_T5, "hidden_size", "d_model"},
  {TFPI_IN_T5, "num_attention_heads", "num_heads"},
  {TFPI_IN_T5, "num_hidden_layers", "num_layers"},
  {TFPI_IN_T5, "head_dim", "d_kv"},
  {TFPI_IN_BART, "num_attention_heads", "encoder_attention_heads"},
  {TFPI_IN_BART, "num_hidden_layers", "encoder_layers"},
  {TFPI_IN_BART, "hidden_size", "d_model"},
};
static const char *const tfpi_act_names[] = {NULL, "relu", "gelu", "gelu_new", "silu", "tanh"};

/* Class names of the reference; NULL where it has none. */
static const char *tfpi_architecture(const tfp_config *c) {
  static const char *const names[TFP_FAMILY_COUNT][TFP_HEAD_COUNT] = {
      {"BertModel", "BertForMaskedLM", "BertForSequenceClassification",
       "BertForTokenClassification", "BertForQuestionAnswering"},
      {"RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification",
       "RobertaForTokenClassification", "RobertaForQuestionAnswering"},
      {"GPT2Model", "GPT2LMHeadModel", "GPT2ForSequenceClassification",
       "GPT2ForTokenClassification", "GPT2ForQuestionAnswering"},
      {"BloomModel", "BloomForCausalLM", "BloomForSequenceClassification",
       "BloomForTokenClassification", "BloomForQuestionAnswering"},
      {"T5Model", "T5ForConditionalGeneration", "T5ForSequenceClassification",
       "T5ForTokenClassification", "T5ForQuestionAnswering"},
      {"BartModel", "BartForConditionalGeneration", "BartForSequenceClassification", NULL,
       "BartForQuestionAnswering"},
  };
  return names[c->family][c->head];
}

static void tfpi_put_config_value(tfp_json_writer *w, const tfpi_key *k, const tfp_config *c) {
  const char *at = (const char *)c + k->offset;
  tfp_json_key(w, k->key, -1);
  switch (k->type) {
    case TFPI_KEY_SIZE: tfp_json_put_int(w, *(const int64_t *)(const void *)at); break;
    case TFPI_KEY_ROWS:
      tfp_json_put_int(w, *(const int64_t *)(const void *)at + c->position_offset);
      break;
    case TFPI_KEY_FLAG: tfp_json_put_bool(w, *(const int *)(const void *)at); break;
    case TFPI_KEY_REAL: tfp_json_put_double(w, *(const double *)(const void *)at); break;
    case TFPI_KEY_ACT:
      tfp_json_put_text(w, tfpi_act_names[*(const tfp_activation *)(const void *)at], -1);
      break;
    case TFPI_KEY_ID:
      if (*(const int32_t *)(const void *)at < 0) tfp_json_put_null(w);
      else tfp_json_put_int(w, *(const int32_t *)(const void *)at);
  }
}
/* Keys that are no plain field; each comes where it stands in alphabetical order. */
static void tfpi_put_labels(tfp_json_writer *w, const tfp_config *c, int by_id) {
  int64_t i;
  char name[32], number[24];
  tfp_json_key(w, by_id ? "id2label" : "label2id", -1);
  tfp_json_begin_object(w);
  for (i = 0; i < c->num_labels; i++) {
    tfpi_format(name, sizeof name, "LABEL_%i", i);
    tfpi_format(number, sizeof number, "%i", i);
    tfp_json_key(w, by_id ? number : name, -1);
    if (by_id) tfp_json_put_text(w, name, -1);
    else tfp_json_put_int(w, i);
  }
  tfp_json_end_object(w);
}
typedef struct tfpi_extra { int families; const char *key; } tfpi_extra;
static const tfpi_extra tfpi_extras[] = {
    {TFPI_IN_ALL, "architectures"},
    {TFPI_IN_ALL, "dtype"},
    {TFPI_IN_T5, "feed_forward_proj"},
    {TFPI_IN_ALL, "id2label"},
    {TFPI_IN_T5 | TFPI_IN_BART, "is_encoder_decoder"},
    {TFPI_IN_ALL, "label2id"},
    {TFPI_IN_ALL, "model_type"},
    {TFPI_IN_ALL, "tie_word_embeddings"},
};
static void tfpi_put_extra(tfp_json_writer *w, const char *key, const tfp_config *c) {
  if (key[0] == 'i' && key[1] == 'd') {
    tfpi_put_labels(w, c, 1);
    return;
  }
  if (key[0] == 'l') {
    tfpi_put_labels(w, c, 0);
    return;
  }
  tfp_json_key(w, key, -1);
  if (key[0] == 'a') {
    const char *name = tfpi_architecture(c);
    tfp_json_begin_array(w);
    tfp_json_put_text(w, name ? name : "unknown", -1);
    tfp_json_end_array(w);
  } else if (key[0] == 'd') {
    tfp_json_put_text(w, "float32", -1);
  } else if (key[0] == 'f') {
    char text[32]; /* gated-gelu is the reference's name for a gate with gelu_new */
    const char *act =
        c->gated && c->activation == TFP_ACT_GELU_NEW ? "gelu" : tfpi_act_names[c->activation];
    tfpi_format(text, sizeof text, "%s%s", c->gated ? "gated-" : "", act);
    tfp_json_put_text(w, text, -1);
  } else if (key[0] == 'm') {
    tfp_json_put_text(w, tfp_family_name(c->family), -1);
  } else {
    tfp_json_put_bool(w, key[0] == 'i' || c->tied);
  }
}

static tfp_status tfpi_model_path(tfp_ctx *ctx, char *path, size_t bytes, const char *dir,
                                  const char *name) {
  if (tfpi_path_join(path, bytes, dir, name)) return TFP_OK;
  return tfpi_fail(ctx, TFP_ERR_ARG, "the path of %s in '%s' is longer than %u bytes", name, dir,
                   (uint64_t)bytes);
}
TFP_API tfp_status tfp_config_save(tfp_ctx *ctx, const tfp_config *c, const char *dir) {
  tfp_json_writer *w;
  char path[1024];
  const char *last = "", *next;
  int i, is_extra, at;
  if (ctx->status || tfpi_model_path(ctx, path, sizeof path, dir, "config.json"))
    return ctx->status;
  w = tfp_json_writer_open(ctx, TFP_JSON_PRETTY);
  tfp_json_begin_object(w);
  for (;;) { /* keys in alphabetical order, as the reference sorts them: each time the next one */
    next = NULL, is_extra = at = 0;
    for (i = 0; i < TFPI_COUNT(tfpi_keys); i++)
      if (tfpi_keys[i].families & 1 << c->family && strcmp(tfpi_keys[i].key, last) > 0 &&
          (!next || strcmp(tfpi_keys[i].key, next) < 0))
        next = tfpi_keys[i].key, at = i, is_extra = 0;
    for (i = 0; i < TFPI_COUNT(tfpi_extras); i++)
      if (tfpi_extras[i].families & 1 << c->family && strcmp(tfpi_extras[i].key, last) > 0 &&
          (!next || strcmp(tfpi_extras[i].key, next) < 0))
        next = tfpi_extras[i].key, at = i, is_extra = 1;
    if (!next) break;
    if (is_extra) tfpi_put_extra(w, next, c);
    else tfpi_put_config_value(w, &tfpi_keys[at], c);
    last = next;
  }
  tfp_json_end_object(w);
  tfp_json_writer_save(w, path);
  tfp_json_writer_close(w);
  if (c->head != TFP_HEAD_LM || c->arch == TFP_ENCODER || ctx->status) return ctx->status;
  if (tfpi_model_path(ctx, path, sizeof path, dir, "generation_config.json")) return ctx->status;
  w = tfp_json_writer_open(ctx, TFP_JSON_PRETTY);
  tfp_json_begin_object(w);
  for (i = 0; i < 4; i++) {
    static const char *const names[] = {"bos_token_id", "decoder_start_token_id", "eos_token_id",
                                        "pad_token_id"};
    const int32_t ids[] = {c->bos, c->decoder_start, c->eos, c->pad};
    if (ids[i] < 0) continue;
    tfp_json_key(w, names[i], -1);
    tfp_json_put_int(w, ids[i]);
  }
  tfp_json_end_object(w);
  tfp_json_writer_save(w, path);
  tfp_json_writer_close(w);
  return ctx->status;
}

static tfp_status tfpi_get_activation(tfp_ctx *ctx, const char *path, const char *key,
                                      const char *text, tfp_activation *out) {
  int i;
  if (!strcmp(text, "swish")) text = "silu";
  if (!strcmp(text, "gelu_pytorch_tanh") || !strcmp(text, "gelu_fast") ||
      !strcmp(text, "gelu_accurate"))
    text = "gelu_new";
  for (i = 1; i < TFPI_COUNT(tfpi_act_names); i++)
    if (!strcmp(text, tfpi_act_names[i])) {
      *out = (tfp_activation)i;
      return TFP_OK;
    }
  return tfpi_fail(ctx, TFP_ERR_UNSUPPORTED,
                   "'%s': \"%s\" is \"%s\"; known are relu, gelu, gelu_new, silu, tanh", path, key,
                   text);
}
static tfp_status tfpi_get_config_value(tfp_ctx *ctx, const char *path, const tfp_json *v,
                                        const tfpi_key *k, tfp_config *c) {
  char *at = (char *)c + k->offset;
  int fits = 1;
  if (v->type == TFP_JSON_NULL) {
    if (k->type == TFPI_KEY_ID) *(int32_t *)(void *)at = -1;
    return TFP_OK; /* null: the default */
  }
  switch (k->type) {
    case TFPI_KEY_SIZE:
    case TFPI_KEY_ROWS:
      fits = v->type == TFP_JSON_INT && v->integer >= 0;
      if (fits)
        *(int64_t *)(void *)at = v->integer - (k->type == TFPI_KEY_ROWS ? c->position_offset : 0);
      break;
    case TFPI_KEY_FLAG:
      fits = v->type == TFP_JSON_BOOL;
      if (fits) *(int *)(void *)at = (int)v->integer;
      break;
    case TFPI_KEY_REAL:
      fits = v->type == TFP_JSON_FLOAT || v->type == TFP_JSON_INT;
      if (fits) *(double *)(void *)at = v->number;
      break;
    case TFPI_KEY_ID:
      fits = v->type == TFP_JSON_INT && v->integer >= -1 && v->integer <= INT32_MAX;
      if (fits) *(int32_t *)(void *)at = (int32_t)v->integer;
      break;
    case TFPI_KEY_ACT:
      if (v->type == TFP_JSON_STRING)
        return tfpi_get_activation(ctx, path, k->key, v->text, (tfp_activation *)(void *)at);
      fits = 0;
  }
  return fits ? TFP_OK
              : tfpi_fail(ctx, TFP_ERR_FORMAT, "'%s': \"%s\" at byte %i is not of its type", path,
                          k->key, v->offset);
}
/* What "architectures" says of the head; language modelling if it says nothing. */
static tfp_status tfpi_get_head(tfp_ctx *ctx, const char *path, const tfp_json *root,
                                tfp_config *c) {
  const tfp_json *list = tfp_json_get(root, "architectures"),
                 *name = list ? tfp_json_at(list, 0) : NULL;
  int h;
  if (!name || name->type != TFP_JSON_STRING) return TFP_OK;
  for (h = 0; h < TFP_HEAD_COUNT; h++) {
    const char *known;
    c->head = (tfp_head)h;
    known = tfpi_architecture(c);
    if (known && !strcmp(known, name->text)) return TFP_OK;
  }
  return tfpi_fail(ctx, TFP_ERR_UNSUPPORTED, "'%s': architecture %s is not known for %s", path,
                   name->text, tfp_family_name(c->family));
}
static tfp_status tfpi_get_config(tfp_ctx *ctx, const char *path, const tfp_json *root,
                                  tfp_config *c) {
  const char *type = tfp_json_get_text(root, "model_type", ""), *ff;
  const tfp_json *labels;
  const int family = tfp_family_from_name(type);
  int i;
  if (family < 0)
    return tfpi_fail(ctx, TFP_ERR_UNSUPPORTED,
                     "'%s': model_type \"%s\"; known are bert, roberta, gpt2, bloom, t5, bart",
                     path, type);
  tfpi_config_family(c, (tfp_family)family);
  c->classifier_dropout = -1;
  if (c->family == TFP_ROBERTA)
    c->position_offset = (int)tfp_json_get_int(root, "pad_token_id", 1) + 1;
  for (i = 0; i < TFPI_COUNT(tfpi_keys); i++) {
    const tfp_json *v =
        tfpi_keys[i].families & 1 << family ? tfp_json_get(root, tfpi_keys[i].key) : NULL;
    if (v && tfpi_get_config_value(ctx, path, v, &tfpi_keys[i], c)) return ctx->status;
  }
  for (i = 0; i < TFPI_COUNT(tfpi_aliases); i++) {
    const tfp_json *v = tfpi_aliases[i].families & 1 << family
                            ? tfp_json_get(root, tfpi_aliases[i].alias) : NULL;
    int k;
    for (k = 0; v && k < TFPI_COUNT(tfpi_keys); k++)
      if (tfpi_keys[k].families & 1 << family && !strcmp(tfpi_keys[k].key, tfpi_aliases[i].key) &&
          tfpi_get_config_value(ctx, path, v, &tfpi_keys[k], c)) return ctx->status;
  }
  if (family == TFP_T5) {
    c->attention_dropout = c->dropout; /* one rate for all */
    if (!c->decoder_layers) c->decoder_layers = c->encoder_layers;
    ff = tfp_json_get_text(root, "feed_forward_proj", "relu");
    c->gated = !strncmp(ff, "gated-", 6);
    if (tfpi_get_activation(ctx, path, "feed_forward_proj", c->gated ? ff + 6 : ff, &c->activation))
      return ctx->status;
    if (c->gated && c->activation == TFP_ACT_GELU) c->activation = TFP_ACT_GELU_NEW;
    c->scale_logits = tfp_json_get_bool(root, "scale_decoder_outputs",
                                        tfp_json_get_bool(root, "tie_word_embeddings", 1));
  }
  if (c->classifier_dropout < 0) /* not given: the encoders' own rate, a tenth for decoders */
    c->classifier_dropout = c->arch == TFP_ENCODER ? c->dropout : c->arch == TFP_DECODER ? 0.1 : 0;
  c->tied = tfp_json_get_bool(root, "tie_word_embeddings", 1);
  if (family == TFP_BART) {
    c->num_labels = 3;
    if (c->heads != tfp_json_get_int(root, "encoder_attention_heads", c->heads) ||
        c->ffn != tfp_json_get_int(root, "encoder_ffn_dim", c->ffn))
      return tfpi_fail(ctx, TFP_ERR_UNSUPPORTED,
                       "'%s': encoder and decoder differ in heads or feed-forward width", path);
  }
  c->num_labels = tfp_json_get_int(root, "num_labels", c->num_labels);
  labels = tfp_json_get(root, "id2label");
  if (labels && labels->type == TFP_JSON_OBJECT) c->num_labels = labels->count;
  if (tfp_json_get_bool(root, "is_decoder", 0) && (family == TFP_BERT || family == TFP_ROBERTA))
    return tfpi_fail(ctx, TFP_ERR_UNSUPPORTED, "'%s': is_decoder with %s", path, type);
  return tfpi_get_head(ctx, path, root, c);
}
TFP_API tfp_status tfp_config_load(tfp_ctx *ctx, const char *dir, tfp_config *config) {
  char path[1024];
  tfp_json *root;
  if (ctx->status || tfpi_model_path(ctx, path, sizeof path, dir, "config.json"))
    return ctx->status;
  root = tfp_json_parse_file(ctx, path);
  if (!root) return ctx->status;
  if (root->type != TFP_JSON_OBJECT) tfpi_fail(ctx, TFP_ERR_FORMAT, "'%s': not an object", path);
  else if (!tfpi_get_config(ctx, path, root, config)) tfp_config_check(ctx, config);
  tfp_json_free(root);
  return ctx->status;
}

/* ---- weights: one row ties a tensor of a file to a part of a parameter ---- */

typedef enum tfpi_part {
  TFPI_WHOLE,
  TFPI_TURNED,      /* GPT-2 stores (in,out) */
  TFPI_ROWS,        /* the k-th of n stretches of rows: queries, keys, values */
  TFPI_INTERLEAVED, /* BLOOM: rows are (head, q k v, D), ours (q k v, head, D) */
  TFPI_ONE_ROW      /* BART's final_logits_bias: (1,V) */
} tfpi_part;
typedef struct tfpi_name {
  int families;
  int base;          /* 1: belongs to the base model and gets its prefix */
  const char *ours;  /* '%' is the layer's number; .w and .b become .weight and .bias */
  const char *theirs;
  tfpi_part part;
  int k, n;
} tfpi_name;
static const tfpi_name tfpi_names[] = {
    {TFPI_IN_BERTS, 1, "word", "embeddings.word_embeddings", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERTS, 1, "types", "embeddings.token_type_embeddings", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERTS, 1, "encoder.positions", "embeddings.position_embeddings", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERTS, 1, "encoder.embedding_norm", "embeddings.LayerNorm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERTS, 1, "encoder.%.qkv", "encoder.layer.%.attention.self.query", TFPI_ROWS, 0, 3},
    {TFPI_IN_BERTS, 1, "encoder.%.qkv", "encoder.layer.%.attention.self.key", TFPI_ROWS, 1, 3},
    {TFPI_IN_BERTS, 1, "encoder.%.qkv", "encoder.layer.%.attention.self.value", TFPI_ROWS, 2, 3},
    {TFPI_IN_BERTS, 1, "encoder.%.out", "encoder.layer.%.attention.output.dense", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERTS, 1, "encoder.%.attention_norm", "encoder.layer.%.attention.output.LayerNorm",
     TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERTS, 1, "encoder.%.up", "encoder.layer.%.intermediate.dense", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERTS, 1, "encoder.%.down", "encoder.layer.%.output.dense", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERTS, 1, "encoder.%.ffn_norm", "encoder.layer.%.output.LayerNorm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERT, 0, "lm_dense", "cls.predictions.transform.dense", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERT, 0, "lm_norm", "cls.predictions.transform.LayerNorm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERT, 0, "lm", "cls.predictions", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERT, 1, "class_dense", "pooler.dense", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BERT, 0, "class", "classifier", TFPI_WHOLE, 0, 1},
    {TFPI_IN_ROBERTA, 0, "lm_dense", "lm_head.dense", TFPI_WHOLE, 0, 1},
    {TFPI_IN_ROBERTA, 0, "lm_norm", "lm_head.layer_norm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_ROBERTA, 0, "lm", "lm_head", TFPI_WHOLE, 0, 1},
    {TFPI_IN_ROBERTA, 0, "class_dense", "classifier.dense", TFPI_WHOLE, 0, 1},
    {TFPI_IN_ROBERTA, 0, "class", "classifier.out_proj", TFPI_WHOLE, 0, 1},
    {TFPI_IN_GPT2, 1, "word", "wte", TFPI_WHOLE, 0, 1},
    {TFPI_IN_GPT2, 1, "decoder.positions", "wpe", TFPI_WHOLE, 0, 1},
    {TFPI_IN_GPT2, 1, "decoder.%.attention_norm", "h.%.ln_1", TFPI_WHOLE, 0, 1},
    {TFPI_IN_GPT2, 1, "decoder.%.qkv", "h.%.attn.c_attn", TFPI_TURNED, 0, 1},
    {TFPI_IN_GPT2, 1, "decoder.%.out", "h.%.attn.c_proj", TFPI_TURNED, 0, 1},
    {TFPI_IN_GPT2, 1, "decoder.%.ffn_norm", "h.%.ln_2", TFPI_WHOLE, 0, 1},
    {TFPI_IN_GPT2, 1, "decoder.%.up", "h.%.mlp.c_fc", TFPI_TURNED, 0, 1},
    {TFPI_IN_GPT2, 1, "decoder.%.down", "h.%.mlp.c_proj", TFPI_TURNED, 0, 1},
    {TFPI_IN_BLOOM, 1, "word", "word_embeddings", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BLOOM, 1, "decoder.embedding_norm", "word_embeddings_layernorm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BLOOM, 1, "decoder.%.attention_norm", "h.%.input_layernorm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BLOOM, 1, "decoder.%.qkv", "h.%.self_attention.query_key_value", TFPI_INTERLEAVED, 0,
     1},
    {TFPI_IN_BLOOM, 1, "decoder.%.out", "h.%.self_attention.dense", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BLOOM, 1, "decoder.%.ffn_norm", "h.%.post_attention_layernorm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BLOOM, 1, "decoder.%.up", "h.%.mlp.dense_h_to_4h", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BLOOM, 1, "decoder.%.down", "h.%.mlp.dense_4h_to_h", TFPI_WHOLE, 0, 1},
    {TFPI_IN_GPTS, 1, "decoder.final_norm", "ln_f", TFPI_WHOLE, 0, 1},
    {TFPI_IN_GPTS | TFPI_IN_T5 | TFPI_IN_BART, 0, "lm", "lm_head", TFPI_WHOLE, 0, 1},
    {TFPI_IN_GPTS, 0, "class", "score", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5 | TFPI_IN_BART, 1, "word", "shared", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "encoder.relative",
     "encoder.block.0.layer.0.SelfAttention.relative_attention_bias", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "decoder.relative",
     "decoder.block.0.layer.0.SelfAttention.relative_attention_bias", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "encoder.%.attention_norm", "encoder.block.%.layer.0.layer_norm", TFPI_WHOLE, 0,
     1},
    {TFPI_IN_T5, 1, "encoder.%.qkv", "encoder.block.%.layer.0.SelfAttention.q", TFPI_ROWS, 0, 3},
    {TFPI_IN_T5, 1, "encoder.%.qkv", "encoder.block.%.layer.0.SelfAttention.k", TFPI_ROWS, 1, 3},
    {TFPI_IN_T5, 1, "encoder.%.qkv", "encoder.block.%.layer.0.SelfAttention.v", TFPI_ROWS, 2, 3},
    {TFPI_IN_T5, 1, "encoder.%.out", "encoder.block.%.layer.0.SelfAttention.o", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "encoder.%.ffn_norm", "encoder.block.%.layer.1.layer_norm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "encoder.%.gate", "encoder.block.%.layer.1.DenseReluDense.wi_0", TFPI_WHOLE, 0,
     1},
    {TFPI_IN_T5, 1, "encoder.%.up", "encoder.block.%.layer.1.DenseReluDense.wi", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "encoder.%.down", "encoder.block.%.layer.1.DenseReluDense.wo", TFPI_WHOLE, 0,
     1},
    {TFPI_IN_T5, 1, "decoder.%.attention_norm", "decoder.block.%.layer.0.layer_norm", TFPI_WHOLE, 0,
     1},
    {TFPI_IN_T5, 1, "decoder.%.qkv", "decoder.block.%.layer.0.SelfAttention.q", TFPI_ROWS, 0, 3},
    {TFPI_IN_T5, 1, "decoder.%.qkv", "decoder.block.%.layer.0.SelfAttention.k", TFPI_ROWS, 1, 3},
    {TFPI_IN_T5, 1, "decoder.%.qkv", "decoder.block.%.layer.0.SelfAttention.v", TFPI_ROWS, 2, 3},
    {TFPI_IN_T5, 1, "decoder.%.out", "decoder.block.%.layer.0.SelfAttention.o", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "decoder.%.cross_norm", "decoder.block.%.layer.1.layer_norm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "decoder.%.cross_q", "decoder.block.%.layer.1.EncDecAttention.q", TFPI_WHOLE, 0,
     1},
    {TFPI_IN_T5, 1, "decoder.%.cross_kv", "decoder.block.%.layer.1.EncDecAttention.k", TFPI_ROWS, 0,
     2},
    {TFPI_IN_T5, 1, "decoder.%.cross_kv", "decoder.block.%.layer.1.EncDecAttention.v", TFPI_ROWS, 1,
     2},
    {TFPI_IN_T5, 1, "decoder.%.cross_out", "decoder.block.%.layer.1.EncDecAttention.o", TFPI_WHOLE,
     0, 1},
    {TFPI_IN_T5, 1, "decoder.%.ffn_norm", "decoder.block.%.layer.2.layer_norm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "decoder.%.gate", "decoder.block.%.layer.2.DenseReluDense.wi_0", TFPI_WHOLE, 0,
     1},
    {TFPI_IN_T5, 1, "decoder.%.up", "decoder.block.%.layer.2.DenseReluDense.wi", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "decoder.%.down", "decoder.block.%.layer.2.DenseReluDense.wo", TFPI_WHOLE, 0,
     1},
    {TFPI_IN_T5, 1, "encoder.final_norm", "encoder.final_layer_norm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5, 1, "decoder.final_norm", "decoder.final_layer_norm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "encoder.positions", "encoder.embed_positions", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "decoder.positions", "decoder.embed_positions", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "encoder.embedding_norm", "encoder.layernorm_embedding", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "decoder.embedding_norm", "decoder.layernorm_embedding", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "encoder.%.qkv", "encoder.layers.%.self_attn.q_proj", TFPI_ROWS, 0, 3},
    {TFPI_IN_BART, 1, "encoder.%.qkv", "encoder.layers.%.self_attn.k_proj", TFPI_ROWS, 1, 3},
    {TFPI_IN_BART, 1, "encoder.%.qkv", "encoder.layers.%.self_attn.v_proj", TFPI_ROWS, 2, 3},
    {TFPI_IN_BART, 1, "encoder.%.out", "encoder.layers.%.self_attn.out_proj", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "encoder.%.attention_norm", "encoder.layers.%.self_attn_layer_norm",
     TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "encoder.%.up", "encoder.layers.%.fc1", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "encoder.%.down", "encoder.layers.%.fc2", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "encoder.%.ffn_norm", "encoder.layers.%.final_layer_norm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "decoder.%.qkv", "decoder.layers.%.self_attn.q_proj", TFPI_ROWS, 0, 3},
    {TFPI_IN_BART, 1, "decoder.%.qkv", "decoder.layers.%.self_attn.k_proj", TFPI_ROWS, 1, 3},
    {TFPI_IN_BART, 1, "decoder.%.qkv", "decoder.layers.%.self_attn.v_proj", TFPI_ROWS, 2, 3},
    {TFPI_IN_BART, 1, "decoder.%.out", "decoder.layers.%.self_attn.out_proj", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "decoder.%.attention_norm", "decoder.layers.%.self_attn_layer_norm",
     TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "decoder.%.cross_q", "decoder.layers.%.encoder_attn.q_proj", TFPI_WHOLE, 0,
     1},
    {TFPI_IN_BART, 1, "decoder.%.cross_kv", "decoder.layers.%.encoder_attn.k_proj", TFPI_ROWS, 0,
     2},
    {TFPI_IN_BART, 1, "decoder.%.cross_kv", "decoder.layers.%.encoder_attn.v_proj", TFPI_ROWS, 1,
     2},
    {TFPI_IN_BART, 1, "decoder.%.cross_out", "decoder.layers.%.encoder_attn.out_proj", TFPI_WHOLE,
     0, 1},
    {TFPI_IN_BART, 1, "decoder.%.cross_norm", "decoder.layers.%.encoder_attn_layer_norm",
     TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "decoder.%.up", "decoder.layers.%.fc1", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "decoder.%.down", "decoder.layers.%.fc2", TFPI_WHOLE, 0, 1},
    {TFPI_IN_BART, 1, "decoder.%.ffn_norm", "decoder.layers.%.final_layer_norm", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5 | TFPI_IN_BART, 0, "class_dense", "classification_head.dense", TFPI_WHOLE, 0, 1},
    {TFPI_IN_T5 | TFPI_IN_BART, 0, "class", "classification_head.out_proj", TFPI_WHOLE, 0, 1},
    {TFPI_IN_ALL, 0, "tag", "classifier", TFPI_WHOLE, 0, 1},
    {TFPI_IN_ALL, 0, "qa", "qa_outputs", TFPI_WHOLE, 0, 1},
};

/* The base model's prefix in files of a given head. */
static const char *tfpi_prefix(const tfp_config *c) {
  static const char *const prefixes[TFP_FAMILY_COUNT] = {
      "bert.", "roberta.", "transformer.", "transformer.", "transformer.", "model."};
  if (c->head == TFP_HEAD_NONE) return "";
  if (c->family == TFP_T5 && (c->head == TFP_HEAD_LM || c->head == TFP_HEAD_QA)) return "";
  return prefixes[c->family];
}
/* Whether a parameter's name without .w or .b is the pattern; the layer's number goes to *layer. */
static int tfpi_matches(const char *name, const char *pattern, int64_t *layer) {
  const size_t n = strlen(name) - 2;
  const char *end = name + n;
  *layer = -1;
  for (; *pattern; pattern++) {
    if (*pattern != '%') {
      if (name == end || *name++ != *pattern) return 0;
      continue;
    }
    if (name == end || *name < '0' || *name > '9') return 0;
    for (*layer = 0; name != end && *name >= '0' && *name <= '9'; name++)
      *layer = *layer * 10 + (*name - '0');
  }
  return name == end;
}

/* A tensor of a file: its name, and the part of the parameter that it is. */
typedef struct tfpi_hub_tensor { char name[160], bare[160]; tfp_tensor view; } tfpi_hub_tensor;

static void tfpi_hub_view(tfp_tensor *v, const tfp_config *c, const tfpi_name *row) {
  const int64_t H = c->heads, D = c->head_dim;
  int64_t rows, stride;
  if (row->part == TFPI_TURNED && v->ndim == 2) {
    rows = v->shape[0], stride = v->stride[0];
    v->shape[0] = v->shape[1], v->stride[0] = v->stride[1];
    v->shape[1] = rows, v->stride[1] = stride;
  } else if (row->part == TFPI_ROWS) {
    v->shape[0] /= row->n;
    if (v->data) v->data = tfpi_data(v) + row->k * v->shape[0] * v->stride[0];
  } else if (row->part == TFPI_ONE_ROW) {
    v->shape[1] = v->shape[0], v->stride[1] = v->stride[0];
    v->shape[0] = 1, v->ndim = 2;
  } else if (row->part == TFPI_INTERLEAVED) { /* (3,H,D[,C]) seen as (H,3,D[,C]) */
    const int two = v->ndim == 2;
    rows = v->stride[0];
    if (two) v->shape[3] = v->shape[1], v->stride[3] = v->stride[1];
    v->shape[0] = H, v->stride[0] = D * rows;
    v->shape[1] = 3, v->stride[1] = H * D * rows;
    v->shape[2] = D, v->stride[2] = rows;
    v->ndim = two ? 4 : 3;
  }
}
/* The i-th tensor (over parameters, then rows of the table) that a file of this model has; 0 behind
 * the last. of_grad: the gradient's part instead of the parameter's. */
static int tfpi_hub_next(const tfp_model *m, const tfp_param **p, int *row, int of_grad,
                         tfpi_hub_tensor *out) {
  const tfp_config *c = &m->config;
  for (; *p; *p = (*p)->next, *row = 0)
    for (; *row < TFPI_COUNT(tfpi_names); (*row)++) {
      const tfpi_name *r = &tfpi_names[*row];
      tfpi_name used = *r;
      const char *suffix = (*p)->name[strlen((*p)->name) - 1] == 'w' ? ".weight" : ".bias",
                 *theirs = r->theirs, *percent;
      char number[24], base[140];
      int64_t layer;
      if (!(r->families & 1 << c->family) || !tfpi_matches((*p)->name, r->ours, &layer)) continue;
      if (c->family == TFP_BART && !strcmp((*p)->name, "lm.b"))
        theirs = "final_logits_bias", suffix = "", used.part = TFPI_ONE_ROW;
      if (c->family == TFP_BERT && !strcmp((*p)->name, "lm.w")) theirs = "cls.predictions.decoder";
      percent = strchr(theirs, '%');
      tfpi_format(number, sizeof number, "%i", layer);
      memcpy(base, theirs, strlen(theirs) + 1);
      if (percent) {
        base[percent - theirs] = 0;
        tfpi_format(out->bare, sizeof out->bare, "%s%s%s", base, number, percent + 1);
      } else {
        tfpi_format(out->bare, sizeof out->bare, "%s", base);
      }
      if (c->gated && tfpi_ends_with(out->bare, ".wi"))
        tfpi_format(out->bare + strlen(out->bare), 8, "_1");
      tfpi_format(out->bare + strlen(out->bare), sizeof out->bare - strlen(out->bare), "%s",
                  suffix);
      tfpi_format(out->name, sizeof out->name, "%s%s", r->base ? tfpi_prefix(c) : "", out->bare);
      memcpy(&out->view, of_grad ? (*p)->tensor->grad : (*p)->tensor, sizeof out->view);
      tfpi_hub_view(&out->view, c, &used);
      (*row)++;
      return 1;
    }
  return 0;
}

static tfp_status tfpi_write_view(tfp_safetensors_writer *w, int64_t entry, const tfp_tensor *v) {
  float piece[TFPI_PIECE];
  tfpi_walk walk;
  const int64_t n = tfp_numel(v);
  int64_t at, i;
  tfp_status s = TFP_OK;
  if (tfp_is_contiguous(v)) return tfpi_write_reals(w, entry, tfpi_data(v), n);
  tfpi_walk_start(&walk, v);
  for (at = 0; at < n && !s; at += TFPI_PIECE) {
    const int64_t m = tfpi_min64(TFPI_PIECE, n - at);
    for (i = 0; i < m; i++, tfpi_walk_next(&walk)) piece[i] = (float)tfpi_data(v)[walk.at];
    s = tfp_safetensors_write(w, entry, piece, m);
  }
  return s;
}
/* The shape in the file: BLOOM's view (H,3,D,C) lies there as (3HD,C). */
static void tfpi_file_shape(const tfp_tensor *v, tfp_safetensors_entry *e) {
  int i;
  e->ndim = v->ndim;
  for (i = 0; i < v->ndim; i++) e->shape[i] = v->shape[i];
  if (v->ndim >= 3) {
    e->shape[0] = v->shape[0] * v->shape[1] * v->shape[2];
    e->shape[1] = v->ndim == 4 ? v->shape[3] : 0;
    e->ndim = v->ndim - 2;
  }
}

/* All tensors of a model, or of its gradients, under the reference's names. */
static tfp_status tfpi_save_tensors(tfp_model *m, const char *path, int of_grad) {
  tfp_ctx *ctx = m->ctx;
  static const char *const meta[] = {"format", "pt"};
  const int64_t most = 3 * m->params->count;
  tfp_safetensors_entry *entries;
  tfpi_hub_tensor *tensors;
  tfp_safetensors_writer *w;
  const tfp_param *p = m->params->first;
  int64_t n = 0, e;
  int row = 0;
  tfpi_scope scope = tfpi_scope_begin(ctx);
  entries = (tfp_safetensors_entry *)tfpi_new(&ctx->step, most, sizeof *entries);
  tensors = (tfpi_hub_tensor *)tfpi_new(&ctx->step, most, sizeof *tensors);
  if (ctx->status) return ctx->status;
  while (tfpi_hub_next(m, &p, &row, of_grad, &tensors[n])) {
    entries[n].name = tensors[n].name;
    entries[n].dtype = TFP_ST_F32;
    tfpi_file_shape(&tensors[n].view, &entries[n]);
    n++;
  }
  w = tfp_safetensors_create(ctx, path, meta, 1, entries, n);
  while (w && (e = tfp_safetensors_next(w)) >= 0)
    if (tfpi_write_view(w, e, &tensors[e].view)) break;
  if (w) tfp_safetensors_finish(w);
  tfpi_scope_end(ctx, &scope);
  return ctx->status;
}

TFP_API tfp_status tfp_model_save(tfp_model *model, const char *dir) {
  char path[1024];
  tfp_ctx *ctx;
  if (!model) return TFP_ERR_ARG;
  ctx = model->ctx;
  if (ctx->status || tfp_config_save(ctx, &model->config, dir)) return ctx->status;
  if (tfpi_model_path(ctx, path, sizeof path, dir, "model.safetensors")) return ctx->status;
  return tfpi_save_tensors(model, path, 0);
}

static tfp_status tfpi_read_view(tfp_safetensors *st, const tfp_safetensors_entry *e,
                                 tfp_tensor *v) {
  float piece[TFPI_PIECE];
  tfpi_walk walk;
  const int64_t n = tfp_numel(v);
  int64_t at, i;
  tfp_status s = TFP_OK;
  tfpi_walk_start(&walk, v);
  for (at = 0; at < n && !s; at += TFPI_PIECE) {
    const int64_t m = tfpi_min64(TFPI_PIECE, n - at);
    s = tfp_safetensors_read(st, e, at, m, piece);
    for (i = 0; i < m && !s; i++, tfpi_walk_next(&walk)) tfpi_data(v)[walk.at] = (tfp_real)piece[i];
  }
  return s;
}
/* A tensor under its name, with the old words for scale and shift of a norm. */
static const tfp_safetensors_entry *tfpi_find_named(const tfp_safetensors *st, const char *prefix,
                                                    const char *bare) {
  static const char *const words[2][2] = {{"weight", "gamma"}, {"bias", "beta"}};
  char name[192], ending[32];
  int i;
  const tfp_safetensors_entry *e;
  tfpi_format(name, sizeof name, "%s%s", prefix, bare);
  e = tfp_safetensors_find(st, name);
  for (i = 0; i < 2 && !e; i++) {
    tfpi_format(ending, sizeof ending, "LayerNorm.%s", words[i][0]);
    if (!tfpi_ends_with(name, ending)) continue;
    tfpi_format(name + strlen(name) - strlen(words[i][0]), 8, "%s", words[i][1]);
    e = tfp_safetensors_find(st, name);
  }
  return e;
}
/* Files have the base model's prefix or not, whatever the model that reads them has. */
static const tfp_safetensors_entry *tfpi_find_tensor(const tfp_safetensors *st,
                                                     const tfpi_hub_tensor *t) {
  static const char *const prefixes[] = {"", "bert.", "roberta.", "transformer.", "model."};
  const tfp_safetensors_entry *e = tfpi_find_named(st, "", t->name);
  int i;
  for (i = 0; i < TFPI_COUNT(prefixes) && !e; i++) e = tfpi_find_named(st, prefixes[i], t->bare);
  return e;
}
TFP_API int64_t tfp_load_weights(tfp_model *model, const char *dir, int strict) {
  char path[1024];
  tfp_ctx *ctx = model ? model->ctx : NULL;
  tfp_safetensors *st;
  const tfp_param *p;
  tfpi_hub_tensor t;
  int64_t read = 0;
  int row = 0;
  if (!ctx || ctx->status || tfpi_model_path(ctx, path, sizeof path, dir, "model.safetensors"))
    return -1;
  st = tfp_safetensors_open(ctx, path);
  if (!st) return -1;
  for (p = model->params->first; !ctx->status && tfpi_hub_next(model, &p, &row, 0, &t);) {
    const tfp_safetensors_entry *e = tfpi_find_tensor(st, &t);
    tfp_safetensors_entry want;
    int i, same;
    if (!e && !strict) continue;
    if (!e) {
      if (p && p->frozen) continue; /* a buffer that old files lack */
      tfpi_fail(ctx, TFP_ERR_FORMAT, "'%s': tensor '%s' is missing", path, t.name);
      break;
    }
    tfpi_file_shape(&t.view, &want);
    for (i = 0, same = e->ndim == want.ndim; same && i < e->ndim; i++)
      same = e->shape[i] == want.shape[i];
    if (!same)
      tfpi_fail(ctx, TFP_ERR_FORMAT,
                "'%s': tensor '%s' has %i numbers in %d axes; the model's %t has %i", path, e->name,
                e->count, e->ndim, &t.view, tfp_numel(&t.view));
    else if (t.view.data && !tfpi_read_view(st, e, &t.view))
      read++;
  }
  tfp_safetensors_close(st);
  return ctx->status ? -1 : read;
}
/* A T5 has a head of its own if its file has one that differs from the embedding: the configuration
 * of release 5 does not say. */
static tfp_status tfpi_detect_tying(tfp_ctx *ctx, const char *dir, tfp_config *c) {
  char path[1024], a[TFPI_PIECE], b[TFPI_PIECE];
  tfp_safetensors *st;
  const tfp_safetensors_entry *head, *word;
  int64_t at, n;
  int same = 1;
  if (c->family != TFP_T5 || c->head != TFP_HEAD_LM) return TFP_OK;
  if (tfpi_model_path(ctx, path, sizeof path, dir, "model.safetensors")) return ctx->status;
  st = tfp_safetensors_open(ctx, path);
  if (!st) return ctx->status;
  head = tfp_safetensors_find(st, "lm_head.weight");
  word = tfp_safetensors_find(st, "shared.weight");
  n = head && word ? tfpi_min64(head->end - head->begin, word->end - word->begin) : 0;
  for (at = 0; at < n && same && !ctx->status; at += TFPI_PIECE) {
    const int64_t m = tfpi_min64(TFPI_PIECE, n - at);
    if (tfp_safetensors_read_bytes(st, head, at, m, a) ||
        tfp_safetensors_read_bytes(st, word, at, m, b)) break;
    same = memcmp(a, b, (size_t)m) == 0;
  }
  c->tied = !head || (n > 0 && same);
  tfp_safetensors_close(st);
  return ctx->status;
}
TFP_API tfp_model *tfp_model_load(tfp_ctx *ctx, const char *dir, int trainable) {
  tfp_config c;
  tfp_model *m;
  if (tfp_config_load(ctx, dir, &c) || tfpi_detect_tying(ctx, dir, &c)) return NULL;
  m = tfp_model_create(ctx, &c, trainable);
  if (!m || tfp_load_weights(m, dir, 1) < 0) {
    tfp_model_free(m);
    return NULL;
  }
  return m;
}

/* ---- model card ---- */

/* Adds a formatted line to a text in the step arena that has room for it. */
static void tfpi_card_line(tfpi_text *t, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  tfpi_format_list(t, format, ap);
  va_end(ap);
  tfpi_text_add(t, "\n", 1);
}
TFP_API tfp_status tfp_card_save(tfp_ctx *ctx, const tfp_config *c, const tfp_card *card,
                                 const char *dir) {
  static const char *const kinds[] = {"fill-mask", "text-generation", "text2text-generation"};
  static const char *const uses[] = {
    "fills masks, and is a start for classifying texts, tagging words and finding answers",
    "continues texts", "rewrites texts, and is a start for translating, summarising and answering"};
  char path[1024];
  tfpi_text t;
  tfpi_scope scope;
  int64_t i;
  if (ctx->status || tfpi_model_path(ctx, path, sizeof path, dir, "README.md")) return ctx->status;
  scope = tfpi_scope_begin(ctx);
  t.n = 0, t.cap = 1 << 15;
  t.at = (char *)tfpi_new(&ctx->step, (int64_t)t.cap, 1);
  if (!t.at) return ctx->status;
  tfpi_card_line(&t,
                 "---\nlibrary_name: transformers\npipeline_tag: %s\ntags:\n- %s\n- tfpre\n---\n",
                 kinds[c->arch], tfp_family_name(c->family));
  tfpi_card_line(&t, "# %s\n", card->title ? card->title : "A model made with tfpre");
  tfpi_card_line(&t, "A model of %i parameters, built as %s, that %s.\n", card->parameters,
                 tfp_family_name(c->family), uses[c->arch]);
  tfpi_card_line(&t, "## Uses and limits\n\nIt knows what its training text says and nothing else. "
                     "It repeats the text's "
                     "errors and prejudices. Do not use it where a wrong answer does harm.\n");
  tfpi_card_line(&t, "## Training\n\n| | |\n|---|---|");
  if (card->objective) tfpi_card_line(&t, "| objective | %s |", card->objective);
  if (card->data) tfpi_card_line(&t, "| data | %s |", card->data);
  tfpi_card_line(&t, "| tokens for training, for validation | %i, %i |", card->train_tokens,
                 card->val_tokens);
  tfpi_card_line(&t, "| layers | %i encoder, %i decoder |", c->encoder_layers, c->decoder_layers);
  tfpi_card_line(&t, "| width, heads, feed-forward | %i, %i, %i |", c->hidden, c->heads, c->ffn);
  tfpi_card_line(&t, "| vocabulary | %i |", c->vocab_size);
  tfpi_card_line(&t, "| steps, tokens a step | %i, %i |", card->steps, card->tokens_per_step);
  tfpi_card_line(&t, "| learning rate, weight decay | %g, %g |", card->lr, card->weight_decay);
  tfpi_card_line(&t, "| seconds | %g |", card->seconds);
  if (card->machine) tfpi_card_line(&t, "| machine | %s |", card->machine);
  if (card->command) tfpi_card_line(&t, "\n```\n%s\n```", card->command);
  tfpi_card_line(&t, "\n## Evaluation\n\nThe training loss fell from %g to %g nats a scored token.",
                 card->first_loss, card->last_loss);
  if (card->val_loss == card->val_loss)
    tfpi_card_line(&t, "On the validation part it is %g (perplexity %g).", card->val_loss,
                   exp(card->val_loss));
  if (card->curve_points) {
    tfpi_card_line(&t, "\n| step | loss | learning rate | gradient norm |\n|---|---|---|---|");
    for (i = 0; i < card->curve_points; i++)
      tfpi_card_line(&t, "| %i | %g | %g | %g |", card->curve[i].step, card->curve[i].loss,
                     card->curve[i].lr, card->curve[i].grad_norm);
  }
  tfp_write_file(ctx, path, t.at, (int64_t)t.n);
  tfpi_scope_end(ctx, &scope);
  return ctx->status;
}

/* ================================================================================================
 * >>history   licence and revisions
 * ================================================================================================
 * This software is yours under either of two licences; choose the one you like better.
 *
 * 1. Public domain. Everybody may copy, change, publish, use, compile, sell or distribute it, as
 * source
 *    or compiled, for any purpose and by any means. Where copyright law allows it, the authors give
 *    up all rights in it, for the benefit of all and to the detriment of their heirs. It comes as
 *    it is, without warranty of any kind; the authors are not liable for any claim or damage.
 *
 * 2. MIT No Attribution (MIT-0). Permission is granted, free of charge, to any person who has a
 * copy of
 *    this software and its documentation, to deal in it without restriction, including the rights
 *    to use, copy, modify, merge, publish, distribute, sublicense and sell copies. It is provided
 *    "as is", without warranty of any kind, express or implied, including but not limited to
 *    merchantability, fitness for a particular purpose and non-infringement. In no event shall the
 *    authors be liable for any claim, damages or other liability arising from it or its use.
 *
 * 0.1.0  the first: three kinds of transformer, six families, from text to a trained model
 */
#endif /* TFPRE_IMPLEMENTATION */
