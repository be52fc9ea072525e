/* hub.c -- model directories: configurations, and weights under the reference's names. The
 * reference's own directories with its numbers are in golden.c. */
#include "test.h"

static void put_text(const char *path, const char *text) {
  FILE *f = fopen(path, "wb");
  CHECK(f != NULL);
  if (!f) return;
  CHECK(fwrite(text, 1, strlen(text), f) == strlen(text));
  fclose(f);
}
static const char *dir_now(void) { /* of the running test, in memory that lasts */
  static char dir[256];
  snprintf(dir, sizeof dir, "%s", test_dir());
  return dir;
}

/* ---- configurations ---- */

#define FIELDS(X)                                                                                  \
  X(family)                                                                                        \
  X(arch) X(head) X(vocab_size) X(hidden) X(heads) X(head_dim) X(ffn) X(encoder_layers)            \
      X(decoder_layers) X(max_positions) X(type_vocab) X(num_labels) X(rms_norm) X(norm_first)     \
          X(embedding_norm) X(final_norm) X(residual_after_norm) X(norm_eps) X(activation)         \
              X(gated) X(biases) X(unscaled_attention) X(scale_by_layer) X(position)               \
                  X(position_offset) X(positions_skip_pad) X(buckets) X(max_distance)              \
                      X(rotary_base) X(tied) X(transform) X(output_bias) X(scale_logits)           \
                          X(scale_embedding) X(pool) X(pool_dense) X(class_bias) X(dropout)        \
                              X(attention_dropout) X(activation_dropout) X(classifier_dropout)     \
                                  X(init_std) X(scaled_residual_init) X(bos) X(eos) X(pad)         \
                                      X(decoder_start)

static void same_config(const tfp_config *a, const tfp_config *b, const char *name) {
  char text[256];
#define X(f)                                                                                       \
  snprintf(text, sizeof text, "%s: %s is %g and %g", name, #f, (double)a->f, (double)b->f);        \
  test_check(a->f == b->f, text, __FILE__, __LINE__);
  FIELDS(X)
#undef X
}
static void hub_config_round_trip(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  int i, presets = 0;
  for (i = 0; tfp_preset_name(i); i++) {
    tfp_config c, d;
    char text[64];
    CHECK(tfp_config_preset(tfp_preset_name(i), &c) == 1);
    CHECK(tfp_config_check(ctx, &c) == TFP_OK);
    c.dropout = 0.25; /* T5's files have one rate for all of them */
    c.attention_dropout = c.family == TFP_T5 ? 0.25 : 0.125;
    memset(&d, 0xFF, sizeof d);
    snprintf(text, sizeof text, "%s", tfp_preset_name(i));
    test_check(!tfp_config_save(ctx, &c, dir) && !tfp_config_load(ctx, dir, &d),
               tfp_error_message(ctx), __FILE__, __LINE__);
    tfp_clear_error(ctx);
    same_config(&c, &d, text);
    presets++;
  }
  CHECK(presets >= 26); /* twenty published and six tiny ones */
  tfp_destroy(ctx);
}
static void hub_config_keeps_what_differs(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  tfp_config c, d;
  tfp_config_preset("t5-tiny", &c);
  c.gated = 1, c.activation = TFP_ACT_GELU_NEW, c.tied = 0, c.head_dim = 24, c.buckets = 8,
  c.max_distance = 20;
  CHECK(!tfp_config_check(ctx, &c) && !tfp_config_save(ctx, &c, dir) &&
        !tfp_config_load(ctx, dir, &d));
  OK(ctx);
  same_config(&c, &d, "t5");
  tfp_config_preset("gpt2-tiny", &c);
  c.scale_by_layer = 1, c.activation = TFP_ACT_RELU, c.head = TFP_HEAD_CLASS, c.num_labels = 7,
  c.pad = 3, c.norm_eps = 1e-6;
  CHECK(!tfp_config_check(ctx, &c) && !tfp_config_save(ctx, &c, dir) &&
        !tfp_config_load(ctx, dir, &d));
  OK(ctx);
  same_config(&c, &d, "gpt2");
  tfp_config_preset("bloom-tiny", &c);
  c.residual_after_norm = 1, c.init_std = 0.0125;
  CHECK(!tfp_config_check(ctx, &c) && !tfp_config_save(ctx, &c, dir) &&
        !tfp_config_load(ctx, dir, &d));
  same_config(&c, &d, "bloom");
  tfp_config_preset("roberta-tiny", &c);
  c.pad = 4, c.position_offset = 5, c.head = TFP_HEAD_TAG, c.num_labels = 9;
  CHECK(!tfp_config_check(ctx, &c) && !tfp_config_save(ctx, &c, dir) &&
        !tfp_config_load(ctx, dir, &d));
  same_config(&c, &d, "roberta");
  tfp_config_preset("bart-tiny", &c);
  c.scale_embedding = 1, c.decoder_layers = 3, c.eos = 5;
  CHECK(!tfp_config_check(ctx, &c) && !tfp_config_save(ctx, &c, dir) &&
        !tfp_config_load(ctx, dir, &d));
  same_config(&c, &d, "bart");
  OK(ctx);
  CHECK(tfp_config_preset("gpt5", &c) == 0);
  tfp_destroy(ctx);
}
static void hub_config_errors(void) {
  static const struct {
    const char *json;
    tfp_status status;
    const char *words;
  } cases[] = {
      {"[]", TFP_ERR_FORMAT, "not an object"},
      {"{", TFP_ERR_FORMAT, "config.json"},
      {"{\"model_type\":\"llama\"}", TFP_ERR_UNSUPPORTED, "llama"},
      {"{}", TFP_ERR_UNSUPPORTED, "model_type"},
      {"{\"model_type\":\"bert\",\"hidden_size\":\"32\"}", TFP_ERR_FORMAT, "hidden_size"},
      {"{\"model_type\":\"bert\",\"hidden_size\":-32}", TFP_ERR_FORMAT, "hidden_size"},
      {"{\"model_type\":\"bert\",\"hidden_size\":32.5}", TFP_ERR_FORMAT, "hidden_size"},
      {"{\"model_type\":\"bert\",\"vocab_size\":99,\"hidden_size\":33,\"num_attention_heads\":4}",
       TFP_ERR_ARG, "4 heads do not divide the width 33"},
      {"{\"model_type\":\"bert\",\"vocab_size\":0}", TFP_ERR_ARG, "vocab_size is 0"},
      {"{\"model_type\":\"bert\",\"vocab_size\":99,\"hidden_size\":32,\"num_attention_heads\":4,"
       "\"num_hidden_layers\":0}",
       TFP_ERR_ARG, "0 encoder"},
      {"{\"model_type\":\"bert\",\"hidden_act\":\"mish\"}", TFP_ERR_UNSUPPORTED, "mish"},
      {"{\"model_type\":\"bert\",\"vocab_size\":99,\"hidden_size\":32,\"num_attention_heads\":4,"
       "\"num_hidden_layers\":2,\"max_position_embeddings\":40,\"hidden_dropout_prob\":1.5}",
       TFP_ERR_ARG, "dropout"},
      {"{\"model_type\":\"bert\",\"vocab_size\":99,\"hidden_size\":32,\"num_attention_heads\":4,"
       "\"num_hidden_layers\":2,\"max_position_embeddings\":40,\"layer_norm_eps\":0}",
       TFP_ERR_ARG, "norm_eps"},
      {"{\"model_type\":\"bert\",\"is_decoder\":true}", TFP_ERR_UNSUPPORTED, "is_decoder"},
      {"{\"model_type\":\"bert\",\"pad_token_id\":4000000000}", TFP_ERR_FORMAT, "pad_token_id"},
      {"{\"model_type\":\"bert\",\"architectures\":[\"BertForDancing\"]}", TFP_ERR_UNSUPPORTED,
       "BertForDancing"},
      {"{\"model_type\":\"gpt2\",\"architectures\":[\"BertForMaskedLM\"]}", TFP_ERR_UNSUPPORTED,
       "BertForMaskedLM"},
      {"{\"model_type\":\"gpt2\",\"scale_attn_by_inverse_layer_idx\":3}", TFP_ERR_FORMAT,
       "scale_attn_by_inverse_layer_idx"},
      {"{\"model_type\":\"t5\",\"feed_forward_proj\":\"gated-mish\"}", TFP_ERR_UNSUPPORTED,
       "mish"}};
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  tfp_config c;
  size_t i;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    put_text(test_path("config.json"), cases[i].json);
    test_check(tfp_config_load(ctx, dir, &c) != TFP_OK, cases[i].json, __FILE__, __LINE__);
    FAILS(ctx, cases[i].status, cases[i].words);
  }
  CHECK(tfp_config_load(ctx, "build/tests/none", &c) == TFP_ERR_IO);
  FAILS(ctx, TFP_ERR_IO, "build/tests/none");
  tfp_destroy(ctx);
}

/* ---- weights ---- */

static const char *const families[] = {"bert-tiny",  "roberta-tiny", "gpt2-tiny",
                                       "bloom-tiny", "t5-tiny",      "bart-tiny"};
static const char *const head_names[] = {"hidden", "lm",           "class", "tag",
                                         "qa",     "pretraining", "nsp",   "choice"};

static void same_weights(const tfp_model *a, const tfp_model *b, const char *name) {
  const tfp_param *p, *q;
  int64_t params = 0;
  for (p = a->params->first; p; p = p->next, params++) {
    q = tfp_params_find(b->params, p->name);
    if (!q || tfp_numel(p->tensor) != tfp_numel(q->tensor) ||
        memcmp(p->tensor->data, q->tensor->data, (size_t)tfp_numel(p->tensor) * sizeof(tfp_real))) {
      char text[256];
      snprintf(text, sizeof text, "%s: %s is not what was saved", name, p->name);
      test_check(0, text, __FILE__, __LINE__);
    }
  }
  CHECK(params == b->params->count);
}
static void hub_models_round_trip(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  int family, head;
  for (family = 0; family < 6; family++)
    for (head = 0; head < TFP_HEAD_COUNT; head++) {
      tfp_config c;
      tfp_model *m, *n;
      const tfp_param *p;
      char name[64];
      int64_t i;
      CHECK(tfp_config_preset(families[family], &c) == 1);
      c.head = (tfp_head)head, c.vocab_size = 131;                  /* small: 29 models */
      if (c.family == TFP_BART && c.head == TFP_HEAD_TAG) continue; /* the reference has none */
      if (head > TFP_HEAD_QA && c.family != TFP_BERT &&
          (head != TFP_HEAD_CHOICE || c.family != TFP_ROBERTA))
        continue;
      if (c.family == TFP_T5 && c.head == TFP_HEAD_CLASS) c.num_labels = 4;
      snprintf(name, sizeof name, "%s %s", families[family], head_names[head]);
      m = tfp_model_create(ctx, &c, 0);
      for (p = m ? m->params->first : NULL; p;
           p = p->next) /* each number another one, biases too */
        for (i = 0; i < tfp_numel(p->tensor); i++)
          ((tfp_real *)p->tensor->data)[i] = (tfp_real)tfp_random_normal(
              1, tfp_hash(0, p->name, (int64_t)strlen(p->name)), (uint64_t)i);
      test_check(m && !tfp_model_save(m, dir), tfp_error_message(ctx), __FILE__, __LINE__);
      n = tfp_model_load(ctx, dir, 0);
      test_check(n != NULL, tfp_error_message(ctx), __FILE__, __LINE__);
      tfp_clear_error(ctx);
      if (m && n) {
        same_weights(m, n, name);
        CHECK(tfp_model_parameters(m) == tfp_model_parameters(n));
      }
      CHECK(tfp_file_exists(ctx, test_path("generation_config.json")) ==
            (c.head == TFP_HEAD_LM && c.arch != TFP_ENCODER));
      remove(test_path("generation_config.json"));
      tfp_model_free(m);
      tfp_model_free(n);
    }
  OK(ctx);
  tfp_destroy(ctx);
}

/* A file of tensors of a model as it was saved, without one of them or with one of another shape.
 */
static void spoil(tfp_ctx *ctx, const char *from, const char *to, const char *name, int leave_out) {
  tfp_safetensors *st = tfp_safetensors_open(ctx, from);
  tfp_safetensors_entry e[128];
  float *data = (float *)calloc(1 << 20, sizeof(float));
  tfp_safetensors_writer *w;
  int64_t i, n = 0;
  for (i = 0; i < tfp_safetensors_count(st) && n < 128; i++) {
    e[n] = *tfp_safetensors_at(st, i);
    if (!strcmp(e[n].name, name)) {
      if (leave_out) continue;
      e[n].shape[0]++;
    }
    n++;
  }
  w = tfp_safetensors_create(ctx, to, NULL, 0, e, n);
  while ((i = tfp_safetensors_next(w)) >= 0) {
    int64_t count = 1;
    int d;
    for (d = 0; d < e[i].ndim; d++) count *= e[i].shape[d];
    if (tfp_safetensors_write(w, i, data, count)) break;
  }
  CHECK(tfp_safetensors_finish(w) == TFP_OK);
  tfp_safetensors_close(st);
  free(data);
}
static void hub_missing_and_misshapen_tensors(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  tfp_config c;
  tfp_model *m;
  int64_t all;
  tfp_config_preset("gpt2-tiny", &c);
  c.vocab_size = 131;
  m = tfp_model_create(ctx, &c, 0);
  CHECK(tfp_model_save(m, dir) == TFP_OK);
  CHECK(rename(test_path("model.safetensors"), test_path("good")) == 0);
  CHECK(!tfp_model_load(ctx, dir, 0));
  FAILS(ctx, TFP_ERR_IO, "model.safetensors");
  spoil(ctx, test_path("good"), test_path("model.safetensors"), "transformer.h.1.mlp.c_fc.weight",
        1);
  OK(ctx);
  CHECK(!tfp_model_load(ctx, dir, 0));
  FAILS(ctx, TFP_ERR_FORMAT, "missing: transformer.h.1.mlp.c_fc.weight");
  all = tfp_load_weights(m, dir, 0); /* not strict: a new layer would do */
  OK(ctx);
  CHECK(all > 0);
  spoil(ctx, test_path("good"), test_path("model.safetensors"), "transformer.wpe.weight", 0);
  CHECK(!tfp_model_load(ctx, dir, 0));
  FAILS(ctx, TFP_ERR_FORMAT, "'transformer.wpe.weight'");
  CHECK(tfp_load_weights(m, dir, 0) == -1); /* a wrong shape is an error all the same */
  FAILS(ctx, TFP_ERR_FORMAT, "'transformer.wpe.weight'");
  put_text(test_path("model.safetensors"), "rubbish, and no tensors");
  CHECK(!tfp_model_load(ctx, dir, 0));
  FAILS(ctx, TFP_ERR_FORMAT, "model.safetensors");
  CHECK(tfp_model_save(m, "build/tests/none") != TFP_OK);
  FAILS(ctx, TFP_ERR_IO, "build/tests/none");
  tfp_destroy(ctx);
}
static void hub_base_weights_for_a_new_head(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  tfp_config c;
  tfp_model *m, *n;
  int64_t read;
  tfp_config_preset("bert-tiny", &c);
  c.vocab_size = 131;
  m = tfp_model_create(ctx, &c, 0);
  CHECK(tfp_model_save(m, dir) == TFP_OK);
  c.head = TFP_HEAD_CLASS, c.num_labels = 3;
  n = tfp_model_create(ctx, &c, 0);
  CHECK(tfp_load_weights(n, dir, 1) == -1);
  FAILS(ctx, TFP_ERR_FORMAT, "missing");
  read = tfp_load_weights(n, dir, 0);
  OK(ctx);
  CHECK(read > 20);
  CHECK(tfp_model_load_report(n) && strstr(tfp_model_load_report(n), "classifier.weight"));
  c.head = TFP_HEAD_NONE, c.pooler = 0; /* names without the prefix */
  n = tfp_model_create(ctx, &c, 0);
  CHECK(tfp_load_weights(n, dir, 1) > 20);
  OK(ctx);
  CHECK(
      !memcmp(tfp_params_find(n->params, "word.w")->tensor->data,
              tfp_params_find(m->params, "word.w")->tensor->data,
              (size_t)tfp_numel(tfp_params_find(m->params, "word.w")->tensor) * sizeof(tfp_real)));
  tfp_destroy(ctx);
}

/* The greatest difference of two models' parameters; 1e9 if they have not the same. */
static double weights_apart(const tfp_model *a, const tfp_model *b) {
  const tfp_param *p, *q;
  double worst = 0;
  int64_t i;
  for (p = a->params->first; p; p = p->next) {
    q = tfp_params_find(b->params, p->name);
    if (!q || tfp_numel(p->tensor) != tfp_numel(q->tensor)) return 1e9;
    for (i = 0; i < tfp_numel(p->tensor); i++) {
      const double x = (double)((tfp_real *)p->tensor->data)[i],
                   y = (double)((tfp_real *)q->tensor->data)[i];
      if (fabs(x - y) > worst) worst = fabs(x - y);
    }
  }
  return worst;
}
static int count_shards(tfp_ctx *ctx, const char *dir, int of) {
  char path[300];
  int i, n = 0;
  for (i = 1; i <= of; i++) {
    snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", dir, i, of);
    n += tfp_file_exists(ctx, path);
  }
  return n;
}
static void hub_shards_and_half_precision(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  tfp_config c;
  tfp_model *m, *n;
  tfp_json *index;
  int shards;
  tfp_config_preset("bart-tiny", &c);
  c.vocab_size = 131, c.encoder_layers = c.decoder_layers = 1, c.max_positions = 16;
  m = tfp_model_create(ctx, &c, 0);
  CHECK(tfp_model_save(m, dir) == TFP_OK);
  CHECK(tfp_model_save_as(m, dir, TFP_ST_F32, 200000) == TFP_OK);
  CHECK(!tfp_file_exists(ctx, test_path("model.safetensors")));
  index = tfp_json_parse_file(ctx, test_path("model.safetensors.index.json"));
  CHECK(tfp_json_get_int(tfp_json_get(index, "metadata"), "total_size", 0) ==
        4 * m->params->numel);
  for (shards = 2; shards < 40 && count_shards(ctx, dir, shards) != shards; shards++) {}
  CHECK(shards > 4 && shards < 40); /* about 2.6 MB in pieces of 0.2 */
  n = tfp_model_load(ctx, dir, 0);
  OK(ctx);
  CHECK(n && weights_apart(m, n) == 0);
  tfp_json_free(index);
  /* one file again: the index goes, or the reference would have two truths */
  CHECK(tfp_model_save_as(m, dir, TFP_ST_BF16, 0) == TFP_OK);
  CHECK(!tfp_file_exists(ctx, test_path("model.safetensors.index.json")));
  n = tfp_model_load(ctx, dir, 0);
  OK(ctx);
  CHECK(n && weights_apart(m, n) > 0 && weights_apart(m, n) < 0.005); /* 8 bits of about 1 */
  CHECK(tfp_model_save_as(m, dir, TFP_ST_F16, 0) == TFP_OK);
  n = tfp_model_load(ctx, dir, 0);
  CHECK(n && weights_apart(m, n) > 0 && weights_apart(m, n) < 0.0005);
  ((tfp_real *)m->params->first->tensor->data)[5] = 70000;
  CHECK(tfp_model_save_as(m, dir, TFP_ST_F16, 0) == TFP_ERR_DATA);
  FAILS(ctx, TFP_ERR_DATA, "70000");
  CHECK(tfp_model_save_as(m, dir, TFP_ST_I32, 0) == TFP_ERR_ARG);
  FAILS(ctx, TFP_ERR_ARG, "I32");
  tfp_destroy(ctx);
}
/* An index may lead nowhere, elsewhere, or lie. */
static void hub_hostile_indices(void) {
  static const char *const texts[][2] = {
    {"[]", "weight_map"},
    {"{\"weight_map\": 3}", "weight_map"},
    {"{\"weight_map\": {\"a\": \"../model.safetensors\"}}", "no file beside it"},
    {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "no file beside it"},
    {"{\"weight_map\": {\"a\": \"c:model\"}}", "no file beside it"},
    {"{\"weight_map\": {\"a\": 1}}", "no file beside it"},
    {"{\"weight_map\": {\"a\": \"model.safetensors.index.json\"}}", "index.json"},
    {"{\"weight_map\": {\"a\": \"missing.safetensors\"}}", "missing.safetensors"},
    {"{\"weight_map\": {\"a\": \"one.safetensors\"}}", "'a' is not in"},
    {"{\"weight_map\": {}}", "missing:"}};
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  tfp_config c;
  tfp_model *m;
  size_t i;
  tfp_config_preset("gpt2-tiny", &c);
  c.vocab_size = 131;
  m = tfp_model_create(ctx, &c, 0);
  CHECK(tfp_model_save(m, dir) == TFP_OK);
  CHECK(rename(test_path("model.safetensors"), test_path("one.safetensors")) == 0);
  for (i = 0; i < sizeof texts / sizeof *texts; i++) {
    put_text(test_path("model.safetensors.index.json"), texts[i][0]);
    CHECK(!tfp_model_load(ctx, dir, 0));
    test_check(strstr(tfp_error_message(ctx), texts[i][1]) != NULL, tfp_error_message(ctx),
               __FILE__, __LINE__);
    tfp_clear_error(ctx);
  }
  tfp_destroy(ctx);
}
/* Untied models keep what is never read, so that what was read is written again. */
static void hub_untied(void) {
  static const char *const names[] = {"bert-tiny", "roberta-tiny", "gpt2-tiny", "bloom-tiny",
                                      "bart-tiny", "t5-tiny"};
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  int i;
  for (i = 0; i < 6; i++) {
    tfp_config c;
    tfp_model *m, *n;
    tfp_config_preset(names[i], &c);
    c.vocab_size = 131, c.tied = 0, c.own_words = c.family == TFP_BART;
    m = tfp_model_create(ctx, &c, 0);
    CHECK(tfp_model_save(m, dir) == TFP_OK);
    n = tfp_model_load(ctx, dir, 0);
    OK(ctx);
    CHECK(n && !n->config.tied && n->config.own_words == c.own_words && weights_apart(m, n) == 0);
    CHECK(n && n->params->count == m->params->count && !tfp_model_load_report(n));
    tfp_clear_error(ctx);
    tfp_model_free(m);
    tfp_model_free(n);
  }
  tfp_destroy(ctx);
}
static void hub_names_of_classes(void) {
  static const char *const labels[] = {"O", "B-PER", "I-PER"};
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  tfp_config c;
  tfp_model *m, *n;
  tfp_config_preset("bert-tiny", &c);
  c.vocab_size = 131, c.head = TFP_HEAD_TAG, c.num_labels = 3;
  m = tfp_model_create(ctx, &c, 0);
  m->labels = labels;
  CHECK(tfp_model_save(m, dir) == TFP_OK);
  n = tfp_model_load(ctx, dir, 0);
  OK(ctx);
  CHECK(n && n->labels && !strcmp(n->labels[1], "B-PER") && !strcmp(n->labels[2], "I-PER"));
  tfp_destroy(ctx);
}
/* The loss of a head that learns numbers, by hand: (0.5^2 + 1^2) / 2, and -log sigmoid. */
static void hub_targets(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  static const int32_t ids[] = {5, 6, 7, 5, 6, 7};
  static const float up[] = {1.5f, 0.0f, 1.0f, 0.25f};
  tfp_config c;
  tfp_batch b;
  tfp_output out;
  tfp_model *m;
  int i, kind;
  for (kind = 0; kind < 2; kind++) {
    double want = 0;
    tfp_config_preset("bert-tiny", &c);
    c.vocab_size = 131, c.head = TFP_HEAD_CLASS, c.num_labels = kind ? 2 : 1;
    c.problem = kind ? TFP_PROBLEM_MULTI_LABEL : TFP_PROBLEM_CLASSES;
    m = tfp_model_create(ctx, &c, 1);
    CHECK(m && m->config.problem == (kind ? TFP_PROBLEM_MULTI_LABEL : TFP_PROBLEM_REGRESSION));
    memset(&b, 0, sizeof b);
    b.B = 2, b.T = 3, b.ids = ids, b.targets = up, b.n_targets = kind ? 4 : 2;
    tfp_set_loss_scale(ctx, 1.0 / (double)tfp_batch_scored(&b));
    CHECK(tfp_forward(m, &b, TFP_WANT_LOGITS | TFP_WANT_LOSS, NULL, &out) == TFP_OK);
    for (i = 0; i < b.n_targets; i++) {
      const double x = ((tfp_real *)out.logits->data)[i], y = up[i];
      want += kind ? log(1 + exp(x)) - x * y : (x - y) * (x - y);
    }
    NEAR(tfp_item(out.loss), want / (double)b.n_targets, 1e-5);
    CHECK(tfp_backward(ctx, out.loss) == TFP_OK);
    b.n_targets = 1;
    CHECK(tfp_forward(m, &b, TFP_WANT_LOSS, NULL, &out) == TFP_ERR_ARG);
    FAILS(ctx, TFP_ERR_ARG, "1 targets");
    tfp_step_reset(ctx);
    tfp_model_free(m);
  }
  tfp_destroy(ctx);
}
/* A mapped model gives the numbers of one that was read, and holds less memory. */
static void hub_mapped(void) {
  static const char *const names[] = {"bert-tiny", "gpt2-tiny", "bloom-tiny", "bart-tiny"};
  const char *dir = dir_now();
  int i, k;
  for (i = 0; i < 4; i++) {
    static const int32_t ids[] = {5, 6, 7, 9, 11, 2}, dec[] = {2, 5, 6};
    tfp_ctx *ctx = tfp_create(NULL);
    tfp_config c;
    tfp_batch b;
    tfp_output out[2];
    tfp_model *m[2];
    float first[3] = {0, 0, 0};
    int64_t used[3];
    tfp_config_preset(names[i], &c);
    c.vocab_size = 1031;
    CHECK(tfp_model_save_as(tfp_model_create(ctx, &c, 0), dir, TFP_ST_F32, 100000) == TFP_OK);
    memset(&b, 0, sizeof b);
    b.B = 1, b.T = 6, b.S = 3, b.ids = ids, b.dec_ids = dec;
    used[0] = tfp_memory(ctx).used;
    for (k = 0; k < 2; k++) {
      m[k] = k ? tfp_model_map(ctx, dir) : tfp_model_load(ctx, dir, 0);
      used[k + 1] = tfp_memory(ctx).used;
      CHECK(tfp_forward(m[k], &b, TFP_WANT_LOGITS, NULL, &out[k]) == TFP_OK);
      OK(ctx);
      if (!out[k].logits) continue;
      if (k) CHECK(!memcmp(first, out[k].logits->data, sizeof first));
      else memcpy(first, out[k].logits->data, sizeof first);
      tfp_step_reset(ctx);
      used[k + 1] = tfp_memory(ctx).used;
    }
    CHECK(used[2] - used[1] < (used[1] - used[0]) * 3 / 4);
    tfp_model_free(m[1]);
    tfp_destroy(ctx);
  }
}
/* What is frozen stays to the bit, also where all parameters are decayed. */
static void hub_frozen_stays(void) {
  static const int32_t ids[] = {5, 6, 7, 2}, dec[] = {2, 5, 6}, labels[] = {5, 6, 7};
  tfp_ctx *ctx = tfp_create(NULL);
  tfp_adamw_desc d;
  tfp_config c;
  tfp_model *m;
  tfp_adamw *opt;
  tfp_batch b;
  tfp_output out;
  tfp_param *bias, *words;
  tfp_real kept;
  tfp_config_preset("bart-tiny", &c);
  c.vocab_size = 131, c.tied = 0, c.own_words = 1;
  m = tfp_model_create(ctx, &c, 1);
  bias = tfp_params_find(m->params, "lm.b"), words = tfp_params_find(m->params, "word.w");
  ((tfp_real *)bias->tensor->data)[7] = 3;
  kept = ((tfp_real *)words->tensor->data)[500];
  memset(&d, 0, sizeof d), memset(&b, 0, sizeof b);
  d.weight_decay = 0.5, d.decay_all = 1;
  opt = tfp_adamw_create(m->params, &d);
  b.B = 1, b.T = 4, b.S = 3, b.ids = ids, b.dec_ids = dec, b.labels = labels, b.n_labels = 3;
  CHECK(tfp_forward(m, &b, TFP_WANT_LOSS, NULL, &out) == TFP_OK);
  CHECK(tfp_backward(ctx, out.loss) == TFP_OK);
  CHECK(tfp_adamw_step(opt, 0.1, NULL) == TFP_OK);
  OK(ctx);
  CHECK(((tfp_real *)bias->tensor->data)[7] == 3);
  CHECK(((tfp_real *)words->tensor->data)[500] == kept && kept != 0);
  tfp_destroy(ctx);
}
/* Sizes that the weights belie are refused before memory is taken for them. */
static void hub_hostile_sizes(void) {
  static const char *const changes[][2] = {
    {"\"n_layer\": 2", "\"n_layer\": 1000000000000"},
    {"\"n_embd\": 128", "\"n_embd\": 4000000000"},
    {"\"n_inner\": 512", "\"n_inner\": 900000000000"},
    {"\"vocab_size\": 131", "\"vocab_size\": 2147483647"},
    {"\"n_positions\": 1024", "\"n_positions\": 99999999999"}};
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  char *text, *at;
  tfp_config c;
  size_t i;
  tfp_config_preset("gpt2-tiny", &c);
  c.vocab_size = 131;
  CHECK(tfp_model_save(tfp_model_create(ctx, &c, 0), dir) == TFP_OK);
  CHECK(tfp_read_file(ctx, test_path("config.json"), &text, NULL) == TFP_OK);
  for (i = 0; i < sizeof changes / sizeof *changes; i++) {
    char changed[4096];
    at = strstr(text, changes[i][0]);
    test_check(at != NULL, changes[i][0], __FILE__, __LINE__);
    if (!at) continue;
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, changes[i][1],
             at + strlen(changes[i][0]));
    put_text(test_path("config.json"), changed);
    CHECK(!tfp_model_load(ctx, dir, 0));
    CHECK(tfp_error(ctx) == TFP_ERR_FORMAT || tfp_error(ctx) == TFP_ERR_ARG);
    tfp_clear_error(ctx);
  }
  tfp_destroy(ctx);
}
static void hub_refused_fields(void) {
  static const char *const fields[][2] = {
    {"\"position_embedding_type\": \"relative_key\"", "relative_key"},
    {"\"is_decoder\": true", "is_decoder"},
    {"\"add_cross_attention\": true", "add_cross_attention"},
    {"\"pruned_heads\": {\"0\": [1]}", "pruned_heads"},
    {"\"problem_type\": \"ranking\"", "ranking"}};
  tfp_ctx *ctx = tfp_create(NULL);
  char text[256];
  tfp_config c;
  const char *dir = dir_now();
  size_t i;
  for (i = 0; i < sizeof fields / sizeof *fields; i++) {
    snprintf(text, sizeof text, "{\"model_type\": \"bert\", %s}", fields[i][0]);
    put_text(test_path("config.json"), text);
    CHECK(tfp_config_load(ctx, dir, &c) == TFP_ERR_UNSUPPORTED);
    FAILS(ctx, TFP_ERR_UNSUPPORTED, fields[i][1]);
  }
  tfp_destroy(ctx);
}

/* Published files have older names: norms with gamma and beta, no prefix of the base model. */
static void hub_older_names_of_tensors(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  tfp_config c;
  tfp_model *m, *n;
  int family, k;
  for (family = 0; family < 6; family++) {
    tfp_safetensors *st;
    tfp_safetensors_entry e[128];
    static char names[128][160];
    static float data[1 << 18];
    tfp_safetensors_writer *w;
    int64_t i;
    tfp_config_preset(families[family], &c);
    c.vocab_size = 131;
    m = tfp_model_create(ctx, &c, 0);
    CHECK(tfp_model_save(m, dir) == TFP_OK &&
          rename(test_path("model.safetensors"), test_path("good")) == 0);
    st = tfp_safetensors_open(ctx, test_path("good"));
    for (k = 0; k < tfp_safetensors_count(st) && k < 128; k++) {
      static const char *const prefixes[] = {"bert.", "roberta.", "transformer.", "model."};
      const char *name = tfp_safetensors_at(st, k)->name, *norm = strstr(name, "LayerNorm.");
      int p;
      for (p = 0; p < 4; p++)
        if (!strncmp(name, prefixes[p], strlen(prefixes[p]))) {
          name += strlen(prefixes[p]);
          break;
        }
      if (norm && c.family == TFP_BERT)
        snprintf(names[k], sizeof names[k], "%.*sLayerNorm.%s", (int)(norm - name), name,
                 norm[10] == 'w' ? "gamma" : "beta");
      else
        snprintf(names[k], sizeof names[k], "%s", name);
      e[k] = *tfp_safetensors_at(st, k);
      e[k].name = names[k];
    }
    w = tfp_safetensors_create(ctx, test_path("model.safetensors"), NULL, 0, e, k);
    while ((i = tfp_safetensors_next(w)) >= 0) {
      tfp_safetensors_read(st, tfp_safetensors_at(st, i), 0, e[i].count, data);
      if (tfp_safetensors_write(w, i, data, e[i].count)) break;
    }
    CHECK(tfp_safetensors_finish(w) == TFP_OK);
    tfp_safetensors_close(st);
    n = tfp_model_load(ctx, dir, 0);
    test_check(n != NULL, tfp_error_message(ctx), __FILE__, __LINE__);
    tfp_clear_error(ctx);
    if (n) same_weights(m, n, families[family]);
  }
  tfp_destroy(ctx);
}
/* And other names of the same fields, which the reference reads. */
static void hub_other_names_of_fields(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  tfp_config c;
  put_text(test_path("config.json"), "{\"model_type\":\"bloom\",\"vocab_size\":99,\"n_embed\":48,"
                                     "\"num_attention_heads\":6,\"num_hidden_layers\":3}");
  CHECK(tfp_config_load(ctx, dir, &c) == TFP_OK && c.hidden == 48 && c.heads == 6 &&
        c.decoder_layers == 3);
  OK(ctx), tfp_clear_error(ctx);
  put_text(test_path("config.json"), "{\"model_type\":\"gpt2\",\"vocab_size\":99,\"hidden_size\":"
                                     "48,\"num_attention_heads\":6,\"num_hidden_layers\":3,"
                                     "\"max_position_embeddings\":77}");
  CHECK(tfp_config_load(ctx, dir, &c) == TFP_OK && c.hidden == 48 && c.heads == 6 &&
        c.decoder_layers == 3 && c.max_positions == 77);
  OK(ctx), tfp_clear_error(ctx);
  put_text(test_path("config.json"), "{\"model_type\":\"t5\",\"vocab_size\":99,\"hidden_size\":48,"
                                     "\"num_attention_heads\":6,\"num_hidden_layers\":3,"
                                     "\"head_dim\":10,\"d_ff\":64}");
  CHECK(tfp_config_load(ctx, dir, &c) == TFP_OK && c.hidden == 48 && c.heads == 6 &&
        c.encoder_layers == 3 && c.decoder_layers == 3 && c.head_dim == 10);
  OK(ctx), tfp_clear_error(ctx);
  /* dropout of the classifier: null is that of the hidden states */
  put_text(test_path("config.json"),
           "{\"model_type\":\"bert\",\"architectures\":[\"BertForSequenceClassification\"],\"vocab_"
           "size\":99,\"hidden_size\":48,"
           "\"num_attention_heads\":6,\"num_hidden_layers\":3,\"max_position_embeddings\":77,"
           "\"hidden_dropout_prob\":0.25,"
           "\"classifier_dropout\":null}");
  CHECK(tfp_config_load(ctx, dir, &c) == TFP_OK && c.classifier_dropout == 0.25);
  OK(ctx);
  tfp_destroy(ctx);
}

static void hub_card(void) {
  tfp_ctx *ctx = tfp_create(NULL);
  const char *dir = dir_now();
  static const char *const words[] = {"library_name: transformers",
                                      "pipeline_tag: text-generation",
                                      "# A title",
                                      "language:\n- \"de\"\n- \"en\"\n",
                                      "license: \"mit\"",
                                      "model-index:\n- name: \"A title\"\n  results:",
                                      "      value: 2.0625",
                                      "GPT2LMHeadModel.from_pretrained",
                                      "| a\\|b c |",
                                      "1234567 parameters",
                                      "| objective | clm |",
                                      "| data | plays.txt |",
                                      "987654, 54321",
                                      "4.2109",
                                      "1.8765",
                                      "2.0625",
                                      "7.8656",
                                      "make it",
                                      "0.000625",
                                      "| 10 | 3.5 | 0.001 | 0.75 |",
                                      "| 4000, 768 |"};
  tfp_config c;
  tfp_card card;
  tfp_step_info point;
  char *text;
  size_t i;
  memset(&card, 0, sizeof card);
  memset(&point, 0, sizeof point);
  tfp_config_preset("gpt2-tiny", &c);
  tfp_config_check(ctx, &c);
  point.step = 10, point.loss = 3.5, point.lr = 0.001, point.grad_norm = 0.75;
  card.title = "A title", card.objective = "clm", card.data = "plays.txt", card.command = "make it";
  card.parameters = 1234567, card.steps = 4000, card.tokens_per_step = 768,
  card.train_tokens = 987654, card.val_tokens = 54321;
  card.language = "de,en", card.license = "mit", card.machine = "a|b\nc";
  card.lr = 0.000625, card.first_loss = 4.2109, card.last_loss = 1.8765, card.val_loss = 2.0625;
  card.curve = &point, card.curve_points = 1;
  CHECK(tfp_card_save(ctx, &c, &card, dir) == TFP_OK);
  CHECK(tfp_read_file(ctx, test_path("README.md"), &text, NULL) == TFP_OK);
  OK(ctx);
  for (i = 0; i < sizeof words / sizeof *words; i++)
    test_check(strstr(text, words[i]) != NULL, words[i], __FILE__, __LINE__);
  CHECK(!strncmp(text, "---\n", 4));
  memset(&card, 0, sizeof card); /* texts may be missing */
  card.val_loss = (double)NAN;
  CHECK(tfp_card_save(ctx, &c, &card, dir) == TFP_OK);
  CHECK(tfp_read_file(ctx, test_path("README.md"), &text, NULL) == TFP_OK);
  CHECK(text && !strstr(text, "nan"));
  tfp_destroy(ctx);
}

void test_hub(void) {
  RUN(hub_config_round_trip);
  RUN(hub_config_keeps_what_differs);
  RUN(hub_config_errors);
  RUN(hub_models_round_trip);
  RUN(hub_missing_and_misshapen_tensors);
  RUN(hub_base_weights_for_a_new_head);
  RUN(hub_older_names_of_tensors);
  RUN(hub_shards_and_half_precision);
  RUN(hub_hostile_indices);
  RUN(hub_untied);
  RUN(hub_names_of_classes);
  RUN(hub_targets);
  RUN(hub_refused_fields);
  RUN(hub_hostile_sizes);
  RUN(hub_mapped);
  RUN(hub_frozen_stays);
  RUN(hub_other_names_of_fields);
  RUN(hub_card);
}
