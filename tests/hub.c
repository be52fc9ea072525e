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
static const char *const head_names[] = {"hidden", "lm", "class", "tag", "qa"};

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
  FAILS(ctx, TFP_ERR_FORMAT, "'transformer.h.1.mlp.c_fc.weight' is missing");
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
  c.head = TFP_HEAD_NONE; /* names without the prefix */
  n = tfp_model_create(ctx, &c, 0);
  CHECK(tfp_load_weights(n, dir, 1) > 20);
  OK(ctx);
  CHECK(
      !memcmp(tfp_params_find(n->params, "word.w")->tensor->data,
              tfp_params_find(m->params, "word.w")->tensor->data,
              (size_t)tfp_numel(tfp_params_find(m->params, "word.w")->tensor) * sizeof(tfp_real)));
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
  RUN(hub_other_names_of_fields);
  RUN(hub_card);
}
