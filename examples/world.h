/* world.h -- a small generated world, told in plain English: endless text whose truth is known.
 *
 * People have jobs, homes, things, animals, food they like, friends, good and bad days. A grammar
 * tells about them, and because the grammar draws every fact itself, each text comes with its mood,
 * its names, its questions and answers, its summary, its translation, and the entropy of its draws:
 * a floor under the loss of any language model trained on the stories.
 *
 *   char text[WORLD_MAX];
 *   double nats;
 *   int64_t n = world_story(1, 0, text, sizeof text, &nats);
 *
 * C99 and C++11, libc and libm, no state: example `index` of `seed` is a function of the two.
 *
 * Training and testing. In the tasks (all but world_story) index >= 0 gives training examples and
 * index < 0 test examples (-1, -2, ...). A hash of the example says which side it belongs to (one
 * in four is for testing), so a test example is never a training example, whatever the seeds.
 * Stories are plain draws, so that their floor is exact: hold some out by seed or by index.
 *
 * Buffers. Every function returns the bytes written to its first buffer, without the closing NUL;
 * or -1, with the text buffers empty, if any of them is too small. WORLD_MAX bytes are always
 * enough. Text is ASCII, one space between words; sentences and names begin with a capital.
 */
#ifndef WORLD_H
#define WORLD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define WORLD_FN static __attribute__((unused))
#else
#define WORLD_FN static
#endif

#define WORLD_MAX 640       /* bytes that hold any one text of this world, NUL included */
#define WORLD_MAX_WORDS 32  /* words and punctuation marks in any sentence of world_entities */

/* ---- the things of the world --------------------------------------------------------------------
 * An entry is its forms, separated by '|'. Form 0 is the plain one; people have she, her, her;
 * events the infinitive; what can be translated has its plural (nouns only) and foreign root last.
 */
static const char *const world_people[] = {  /* the first three are towns too: context must tell */
  "Florence|she|her|her", "Sydney|she|her|her", "Austin|he|him|his", "Mia|she|her|her",
  "Tom|he|him|his", "Anna|she|her|her", "Ben|he|him|his", "Lily|she|her|her", "Max|he|him|his",
  "Nora|she|her|her", "Omar|he|him|his", "Rosa|she|her|her", "Leo|he|him|his", "Ida|she|her|her",
  "Sam|he|him|his", "Eva|she|her|her", "Jack|he|him|his", "Zoe|she|her|her", "Paul|he|him|his",
  "Hugo|he|him|his"};
static const char *const world_families[] = {"Stone", "Hill", "Lake", "Reed", "Marsh", "Woods"};
static const char *const world_places[] = {
  "Florence", "Sydney", "Austin", "Oslo", "Lima", "Rome", "Cairo", "Paris", "Tokyo", "Delhi",
  "Bern", "Quito", "Green Hill", "North Lake", "Old Port", "Stone Bridge"};
static const char *const world_jobs[] = {
  "baker", "teacher", "doctor", "farmer", "nurse", "painter", "pilot", "sailor", "singer",
  "driver", "writer", "builder"};
static const char *const world_things[] = {
  "ball|balls|bela", "boat|boats|suno", "book|books|lira", "bell|bells|tiku", "clock|clocks|romo",
  "drum|drums|dabo", "kite|kites|velo", "lamp|lamps|zina", "map|maps|peka", "ring|rings|oruna",
  "coat|coats|hamo", "bike|bikes|riko", "music box|music boxes|milado",
  "toy train|toy trains|gureto", "tea pot|tea pots|fosa", "pocket knife|pocket knives|kasiva"};
static const char *const world_pets[] = {
  "dog|dogs|mura", "cat|cats|nilo", "horse|horses|kavo", "rabbit|rabbits|pilu",
  "parrot|parrots|karo", "goat|goats|beko", "duck|ducks|wadu", "mouse|mice|tisi"};
static const char *const world_colors[] = {
  "red|ruva", "blue|luno", "green|vede", "black|noko", "white|bisa", "brown|dumo", "yellow|gila",
  "silver|sefa"};
static const char *const world_sizes[] = {
  "small|sipi", "big|goda", "young|yuna", "fat|bopo", "quick|viti", "lazy|lelo", "quiet|husa",
  "clever|tama"};
static const char *const world_foods[] = {
  "bread", "soup", "rice", "cheese", "cake", "fish", "honey", "salad", "corn", "fruit"};
static const char *const world_days[] = {
  "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"};
static const char *const world_skies[] = {"sunny", "rainy", "windy", "cold", "warm", "foggy"};
static const char *const world_ups[] = {"happy", "glad", "cheerful", "joyful", "merry", "pleased"};
static const char *const world_downs[] = {"sad", "angry", "upset", "worried", "gloomy", "grumpy"};
static const char *const world_goods[] = {  /* the first four undo the first four bad ones */
  "won the race|win the race", "passed the test|pass the test", "found the key|find the key",
  "caught the train|catch the train", "got a present|get a present",
  "met an old friend|meet an old friend", "caught a big fish|catch a big fish",
  "learned a new song|learn a new song"};
static const char *const world_bads[] = {
  "lost the race|lose the race", "failed the test|fail the test", "lost the key|lose the key",
  "missed the train|miss the train", "broke a leg|break a leg", "caught a cold|catch a cold",
  "fell into the river|fall into the river", "got lost|get lost"};
static const char *const world_verbs[] = {  /* he, they, past, foreign root */
  "sees|see|saw|tolo", "likes|like|liked|ama", "finds|find|found|rina", "wants|want|wanted|siko",
  "brings|bring|brought|pora", "hides|hide|hid|kuvi", "needs|need|needed|deva",
  "follows|follow|followed|lasu"};
static const char *const world_sites[] = {
  "house|dalo", "garden|fuli", "river|rasi", "forest|mobu", "school|eska", "market|tarna"};
static const char *const world_preps[] = {"in|pe", "near|ko", "behind|tu"};
static const char *const world_articles[] = {  /* the last four take a plural noun */
  "the|", "a|o", "the|", "two|ke", "three|sa", "many|vo"};

/* Groups of entries: two facts of one group never get the same entry, nor do twin groups share
 * one of their first `shared` entries (no Sydney in Sydney, no race both won and lost). */
enum { WORLD_PEOPLE, WORLD_FAMILIES, WORLD_PLACES, WORLD_JOBS, WORLD_THINGS, WORLD_PETS,
       WORLD_COLORS, WORLD_SIZES, WORLD_FOODS, WORLD_DAYS, WORLD_SKIES, WORLD_UPS, WORLD_DOWNS,
       WORLD_GOODS, WORLD_BADS, WORLD_VERBS, WORLD_SITES, WORLD_PREPS, WORLD_ARTICLES,
       WORLD_GROUPS };

enum { WORLD_O, WORLD_B_PER, WORLD_I_PER, WORLD_B_LOC, WORLD_I_LOC, WORLD_B_OBJ, WORLD_I_OBJ,
       WORLD_TAGS };

#define WORLD_LIST(a) a, (int)(sizeof(a) / sizeof((a)[0]))
static const struct {
  const char *const *entry;
  int n, tag, twin, shared;
} world_groups[WORLD_GROUPS] = {
  {WORLD_LIST(world_people), WORLD_B_PER, WORLD_PLACES, 3},
  {WORLD_LIST(world_families), WORLD_I_PER, 0, 0},
  {WORLD_LIST(world_places), WORLD_B_LOC, WORLD_PEOPLE, 3}, {WORLD_LIST(world_jobs), 0, 0, 0},
  {WORLD_LIST(world_things), WORLD_B_OBJ, 0, 0}, {WORLD_LIST(world_pets), 0, 0, 0},
  {WORLD_LIST(world_colors), 0, 0, 0}, {WORLD_LIST(world_sizes), 0, 0, 0},
  {WORLD_LIST(world_foods), 0, 0, 0}, {WORLD_LIST(world_days), 0, 0, 0},
  {WORLD_LIST(world_skies), 0, 0, 0}, {WORLD_LIST(world_ups), 0, 0, 0},
  {WORLD_LIST(world_downs), 0, 0, 0}, {WORLD_LIST(world_goods), 0, WORLD_BADS, 4},
  {WORLD_LIST(world_bads), 0, WORLD_GOODS, 4}, {WORLD_LIST(world_verbs), 0, 0, 0},
  {WORLD_LIST(world_sites), 0, 0, 0}, {WORLD_LIST(world_preps), 0, 0, 0},
  {WORLD_LIST(world_articles), 0, 0, 0}};

/* Facts, by the names that the grammar uses. */
static const struct {
  const char *name;
  int group;
} world_facts[] = {
  {"a", WORLD_PEOPLE}, {"family", WORLD_FAMILIES}, {"place", WORLD_PLACES}, {"job", WORLD_JOBS},
  {"thing", WORLD_THINGS}, {"color", WORLD_COLORS}, {"pet", WORLD_PETS}, {"size", WORLD_SIZES},
  {"food", WORLD_FOODS}, {"b", WORLD_PEOPLE}, {"bfamily", WORLD_FAMILIES},
  {"bplace", WORLD_PLACES}, {"bjob", WORLD_JOBS}, {"bthing", WORLD_THINGS},
  {"bcolor", WORLD_COLORS}, {"bpet", WORLD_PETS}, {"bsize", WORLD_SIZES}, {"bfood", WORLD_FOODS},
  {"c", WORLD_PEOPLE}, {"day", WORLD_DAYS}, {"day2", WORLD_DAYS}, {"sky", WORLD_SKIES},
  {"up", WORLD_UPS}, {"down", WORLD_DOWNS}, {"good", WORLD_GOODS}, {"bad", WORLD_BADS}};
enum { WORLD_FACTS = (int)(sizeof world_facts / sizeof world_facts[0]) };

/* ---- the grammar --------------------------------------------------------------------------------
 * Rows of one name are the alternatives of a rule, all equally likely. [rule] stands for one of
 * them, {fact} for a fact: drawn where it is first told, repeated ever after. {fact:form} picks
 * another form. A rule whose name begins with '?' uses only rows whose facts have all been told, so
 * what it tells can be known from the text before it. '\n' divides the fields of an example.
 */
static const struct {
  const char *rule, *text;
} world_grammar[] = {
  {"intro", "{a} is a {job} and lives in {place}."},
  {"intro", "{a} lives in {place} and works as a {job}."},
  {"intro", "{a} {family} is a {job} from {place}."},
  {"intro", "in {place} lives a {job} called {a}."},
  {"own", "{a:she} has a {color} {thing}."}, {"own", "{a:she} owns a {color} {thing}."},
  {"own", "last year {a:she} bought a {color} {thing}."},
  {"animal", "{a:she} has a {size} {pet}."}, {"animal", "a {size} {pet} lives with {a:him}."},
  {"eats", "{a:she} likes {food}."}, {"eats", "{a:she} often eats {food}."},
  {"eats", "{a:his} favorite food is {food}."},
  {"more", "[own]"}, {"more", "[animal]"}, {"more", "[eats]"},
  {"friend", "{a:his} friend {b} is a {bjob} from {bplace}."},
  {"friend", "{a:she} has a friend called {b}, who is a {bjob} in {bplace}."},
  {"other", "{b} is a {bjob} and lives in {bplace}."},
  {"other", "{b} lives in {bplace} and works as a {bjob}."},
  {"other", "{b} {bfamily} is a {bjob} from {bplace}."},
  {"other", "in {bplace} lives a {bjob} called {b}."},
  {"otherown", "{b:she} has a {bcolor} {bthing}."},
  {"otherown", "{b:she} owns a {bcolor} {bthing}."},
  {"otheranimal", "{b:she} has a {bsize} {bpet}."},
  {"otheranimal", "a {bsize} {bpet} lives with {b:him}."},
  {"othereats", "{b:she} likes {bfood}."}, {"othereats", "{b:his} favorite food is {bfood}."},
  {"glad", "{a} was {up}."}, {"glad", "this made {a} {up}."},
  {"glad", "{a} was not {down} at all."},
  {"sad", "{a} was {down}."}, {"sad", "this made {a} {down}."}, {"sad", "{a} was not {up} at all."},
  {"better", "so {a} was {up} again."}, {"better", "now {a} was not {down} any more."},

  /* Stories, each with its summary. They end with something that was told before. */
  {"story", "[intro] [own] [friend] on {day} {a} lost the {thing}. [sad] but {b} found it. "
            "[better] [?end]\n{b} found the {thing} that {a} had lost."},
  {"story", "[intro] [own] on {day} {a:she} lost the {thing} and did not find it again. [sad] "
            "[?end]\n{a} the {job} lost a {color} {thing}."},
  {"story", "[intro] [animal] on {day} the {pet} ran away. [sad] but it came back. [better] "
            "[?end]\nthe {pet} of {a} ran away but came back."},
  {"story", "[intro] [animal] on {day} the {pet} fell into the river. but {b} the {bjob} saved it. "
            "[glad] [?end]\n{b} saved the {pet} of {a}."},
  {"story", "[intro] [eats] on {day} {a:she} cooked {food} for {b} the {bjob}. {b} liked it very "
            "much. [glad] [?end]\n{a} cooked {food} and {b} liked it."},
  {"story", "[intro] [eats] on {day} {a:she} cooked {food} for {b} the {bjob}. {b} did not like "
            "it. [sad] [?end]\n{a} cooked {food} but {b} did not like it."},
  {"story", "[intro] [more] on {day} {a:she} {good}. [glad] [?end]\n{a} the {job} {good}."},
  {"story", "[intro] [more] on {day} {a:she} {bad}. [sad] [?end]\n{a} the {job} {bad}."},
  {"story", "[intro] [more] on {day} {a:she} {bad}. [sad] but on {day2} {a:she} {good}. [better] "
            "[?end]\n{a} {bad} but later {good}."},
  {"story", "[intro] on {day} it was {sky} there. {a} thought that {a:she} would {bad:do}, but "
            "{a:she} did not. [glad] [?end]\n{a} from {place} did not {bad:do}."},
  {"story", "[intro] on {day} it was {sky} there. {a} thought that {a:she} would {good:do}, but "
            "{a:she} did not. [sad] [?end]\n{a} from {place} did not {good:do}."},
  {"story", "[intro] [friend] on {day} {a} went to {bplace} to visit {b}. it was {sky} there, and "
            "they ate {food}. [glad] [?end]\n{a} from {place} visited {b} in {bplace}."},
  {"story", "[intro] [own] [other] [otherown] on {day} {a} gave {b} the {thing} and got the "
            "{bthing}. [glad] [?end]\n{a} gave {b} a {thing} for a {bthing}."},
  {"story", "[intro] [eats] [other] [othereats] on {day} they met in {place} and ate {bfood}. "
            "[?end]\n{a} and {b} met in {place} and ate {bfood}."},
  {"?end", "in the evening {a} went home to {place}."},
  {"?end", "the next day {a} went back to work as a {job}."},
  {"?end", "that night {a} dreamed of {food}."}, {"?end", "that night {a} fed the {pet}."},
  {"?end", "that night {a} dreamed of the {color} {thing}."},
  {"?end", "in the evening {b} went home to {bplace}."},
  {"?end", "the next day {b} went back to work as a {bjob}."},
  {"?end", "that night {b} dreamed of {bfood}."},
  {"?end", "that night {b} dreamed of the {bcolor} {bthing}."},

  /* Contexts, questions, answers. */
  {"scene", "[intro] [more]"}, {"scene", "[intro] [own] [friend]"},
  {"scene", "[intro] [animal] [friend]"}, {"scene", "[intro] [own] [other] [otherown]"},
  {"scene", "[other] [otherown] [intro] [own]"}, {"scene", "[intro] [eats] [other] [othereats]"},
  {"scene", "[other] [othereats] [intro] [eats]"},
  {"scene", "[intro] [animal] [other] [otheranimal]"},
  {"?ask", "where does {a} live?\n{place}"}, {"?ask", "where does {b} live?\n{bplace}"},
  {"?ask", "who lives in {place}?\n{a}"}, {"?ask", "who lives in {bplace}?\n{b}"},
  {"?ask", "what is the job of {a}?\n{job}"}, {"?ask", "what is the job of {b}?\n{bjob}"},
  {"?ask", "who is a {job}?\n{a}"}, {"?ask", "who is a {bjob}?\n{b}"},
  {"?ask", "what color is the {thing}?\n{color}"},
  {"?ask", "what color is the {bthing}?\n{bcolor}"}, {"?ask", "who has the {thing}?\n{a}"},
  {"?ask", "who has the {bthing}?\n{b}"}, {"?ask", "who has the {pet}?\n{a}"},
  {"?ask", "which animal does {b} have?\n{bpet}"}, {"?ask", "what does {a} like to eat?\n{food}"},
  {"?ask", "what does {b} like to eat?\n{bfood}"},

  /* Good days and bad days: the same words on both sides, the last event counts. */
  {"who", "{a}"}, {"who", "{a} {family}"}, {"who", "{a} the {job}"}, {"who", "{a} from {place}"},
  {"badday", "on {day} [who] {bad}."}, {"badday", "on {day} [who] {good}, but then {a:she} {bad}."},
  {"badday", "[who] was {up} at first, but then {a:she} {bad}."},
  {"badday", "on {day} [who] did not {good:do}."}, {"badday", "on {day} [who] was not {up}."},
  {"badday", "[who] thought that {a:she} would {good:do}, but {a:she} did not."},
  {"badday", "it was {sky} on {day} when [who] {bad}."},
  {"badday", "[who] found a {color} {thing}, but {a:she} lost it again."},
  {"badday", "[who] was {up} on {day}, but {down} on {day2}."},
  {"goodday", "on {day} [who] {good}."},
  {"goodday", "on {day} [who] {bad}, but then {a:she} {good}."},
  {"goodday", "[who] was {down} at first, but then {a:she} {good}."},
  {"goodday", "on {day} [who] did not {bad:do}."}, {"goodday", "on {day} [who] was not {down}."},
  {"goodday", "[who] thought that {a:she} would {bad:do}, but {a:she} did not."},
  {"goodday", "it was {sky} on {day} when [who] {good}."},
  {"goodday", "[who] lost a {color} {thing}, but {a:she} found it again."},
  {"goodday", "[who] was {down} on {day}, but {up} on {day2}."},

  /* Sentences full of names. What stands beside a name must tell a person from a town. */
  {"names", "{a} {family} lives in {place} and owns a {thing}."},
  {"names", "in {place} {a} sold a {color} {thing} to {b} {bfamily}."},
  {"names", "{a} and {b} {bfamily} met in {place} on {day}."},
  {"names", "{b} the {bjob} got a {thing} from {a} {family}."},
  {"names", "{a} lives in {place}, but {b} lives in {bplace}."},
  {"names", "the {color} {thing} of {a} {family} is in {place}."},
  {"names", "a {job} who lives in {place} gave {a} a {thing} and a {bthing}."},
  {"names", "{a}, {b} and {c} ate {food} in {place}."},
  {"names", "on {day} it was {sky} in {place}, and {a} lost the {thing}."},
  {"names", "did {a} {family} find the {thing} of {b} in {place}?"}};
enum { WORLD_ROWS = (int)(sizeof world_grammar / sizeof world_grammar[0]) };

/* ---- the teller ------------------------------------------------------------------------------ */
typedef struct world_span {
  int start, bytes, fact;  /* where the plain form of a fact stands in the text */
} world_span;

typedef struct world_teller {
  uint64_t key, draws;           /* draw number `draws` is a hash of both */
  double nats;                   /* minus the log probability of all draws so far */
  int value[WORLD_FACTS];        /* the entry of each fact, -1 before it is told */
  uint64_t used[WORLD_GROUPS];   /* bit i: entry i is taken */
  world_span span[64];
  int spans, bytes;
  char text[2 * WORLD_MAX];
} world_teller;

WORLD_FN uint64_t world_mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

WORLD_FN void world_begin(world_teller *w, uint64_t seed, int64_t index, uint64_t task) {
  memset(w, 0, sizeof *w);
  for (int f = 0; f < WORLD_FACTS; f++) w->value[f] = -1;
  w->key = world_mix(world_mix(world_mix(seed + 1) + (uint64_t)index) + task);
}

/* One of n equally likely numbers; its cost goes into nats. */
WORLD_FN int world_draw(world_teller *w, int n) {
  uint64_t bits = world_mix(w->key + ++w->draws * 0x9e3779b97f4a7c15u);
  w->nats += log((double)n);
  return (int)(((bits >> 32) * (uint64_t)n) >> 32);
}

/* Adds bytes; the first letter of a sentence becomes a capital. The text is longer than all that
 * the grammar can tell, the test of the bound is for those who extend the grammar. */
WORLD_FN void world_put(world_teller *w, const char *s, size_t bytes) {
  for (size_t i = 0; i < bytes && w->bytes + 1 < (int)sizeof w->text; i++) {
    int n = w->bytes;
    char c = s[i];
    int first = n == 0 || w->text[n - 1] == '\n' ||
                (n > 1 && w->text[n - 1] == ' ' && w->text[n - 2] == '.');
    if (first && c >= 'a' && c <= 'z') c = (char)(c - 'a' + 'A');
    w->text[w->bytes++] = c;
  }
}

/* Form number `form` of an entry: its start, and its length in bytes. */
WORLD_FN const char *world_form(int group, int value, int form, size_t *bytes) {
  const char *s = world_groups[group].entry[value];
  for (; form > 0; form--) s = strchr(s, '|') + 1;
  *bytes = strcspn(s, "|");
  return s;
}

WORLD_FN void world_put_form(world_teller *w, int group, int value, int form) {
  size_t bytes = 0;
  const char *s = world_form(group, value, form, &bytes);
  world_put(w, s, bytes);
}

/* The number of the fact that is named at s, up to ':' or '}'. */
WORLD_FN int world_fact(const char *s) {
  size_t n = strcspn(s, ":}");
  int f = 0;
  while (strlen(world_facts[f].name) != n || strncmp(world_facts[f].name, s, n) != 0) f++;
  return f;
}

/* Tells the fact named at s; draws it among the entries that are left if it is new. */
WORLD_FN void world_tell_fact(world_teller *w, const char *s) {
  int f = world_fact(s), group = world_facts[f].group, form = 0;
  const char *name = s + strcspn(s, ":}");
  if (*name == ':') form = !strncmp(name, ":him", 4) ? 2 : !strncmp(name, ":his", 4) ? 3 : 1;
  if (w->value[f] < 0) {
    uint64_t twins = ((uint64_t)1 << world_groups[group].shared) - 1;
    uint64_t taken = w->used[group] | (w->used[world_groups[group].twin] & twins);
    int left = world_groups[group].n, entry = 0;
    for (uint64_t t = taken; t; t &= t - 1) left--;
    for (int k = world_draw(w, left); k > 0 || (taken >> entry & 1); entry++)
      if (!(taken >> entry & 1)) k--;
    w->value[f] = entry;
    w->used[group] |= (uint64_t)1 << entry;
  }
  int start = w->bytes;
  world_put_form(w, group, w->value[f], form);
  if (form == 0 && w->spans < (int)(sizeof w->span / sizeof w->span[0])) {
    w->span[w->spans].start = start;
    w->span[w->spans].bytes = w->bytes - start;
    w->span[w->spans++].fact = f;
  }
}

/* Whether all facts of a row have been told. */
WORLD_FN int world_told(const world_teller *w, const char *text) {
  for (const char *s = strchr(text, '{'); s; s = strchr(s + 1, '{'))
    if (w->value[world_fact(s + 1)] < 0) return 0;
  return 1;
}

/* Tells one of the rows of a rule. */
WORLD_FN void world_tell(world_teller *w, const char *rule) {
  size_t n = strcspn(rule, "]");
  int row[32], rows = 0;
  for (int r = 0; r < WORLD_ROWS && rows < 32; r++)
    if (strlen(world_grammar[r].rule) == n && strncmp(world_grammar[r].rule, rule, n) == 0 &&
        (*rule != '?' || world_told(w, world_grammar[r].text)))
      row[rows++] = r;
  if (rows == 0) return;
  for (const char *s = world_grammar[row[world_draw(w, rows)]].text; *s; s++) {
    if (*s == '{') world_tell_fact(w, s + 1);
    else if (*s == '[') world_tell(w, s + 1);
    else world_put(w, s, 1);
    if (*s == '{' || *s == '[') s += strcspn(s, "]}");
  }
}

/* Whether the text in w may be example `index`: one text in four is for testing, by its hash. */
WORLD_FN int world_belongs(const world_teller *w, int64_t index) {
  uint64_t h = 0;
  for (int i = 0; i < w->bytes; i++) h = world_mix(h + (unsigned char)w->text[i] + 1);
  return (h % 4 == 0) == (index < 0);
}

/* Example `index` of a task: draws until the text is on the right side, four times on average. */
WORLD_FN void world_example(world_teller *w, uint64_t seed, int64_t index, const char *rule,
                            const char *then) {
  uint64_t task = (uint64_t)(unsigned char)rule[0] << 32 | (uint64_t)(unsigned char)then[0] << 40;
  do {
    world_begin(w, seed, index, ++task);
    world_tell(w, rule);
    if (*then) {
      world_put(w, "\n", 1);
      world_tell(w, then);
    }
  } while (!world_belongs(w, index));
}

/* Copies text and a NUL into out; -1 if it does not fit. */
WORLD_FN int64_t world_copy(char *out, size_t bytes, const char *text, size_t n) {
  if (bytes > 0) out[0] = 0;
  if (n + 1 > bytes) return -1;
  memcpy(out, text, n);
  out[n] = 0;
  return (int64_t)n;
}

/* Copies the first two fields of w to x and y. */
WORLD_FN int64_t world_copy_two(const world_teller *w, char *x, size_t x_bytes, char *y,
                                size_t y_bytes) {
  size_t n = strcspn(w->text, "\n");
  int64_t got = world_copy(x, x_bytes, w->text, n);
  if (world_copy(y, y_bytes, w->text + n + 1, strcspn(w->text + n + 1, "\n")) < 0) got = -1;
  if (got < 0 && x_bytes > 0) x[0] = 0;
  if (got < 0 && y_bytes > 0) y[0] = 0;
  return got;
}

/* ---- what there is to ask for -------------------------------------------------------------------
 * The word lists above are the whole vocabulary, but for the invented roots, which only
 * world_translation uses: train a tokenizer on stories and on a sample of every task.
 */

/* world_story -- a story of 5 to 8 short sentences about one or two people.
 *
 * Args     out: takes the story; nats: NULL, or gets minus the log probability of this very story
 * Returns  bytes written, or -1
 * Floor    Each text has one derivation, what does not show is not drawn, what repeats an earlier
 *          fact is free. So the mean of nats over many stories, divided by their mean number of
 *          tokens, is the entropy in nats per token, and no model can have a lower expected loss.
 */
WORLD_FN int64_t world_story(uint64_t seed, int64_t index, char *out, size_t bytes, double *nats) {
  world_teller w;
  world_begin(&w, seed, index, 0);
  world_tell(&w, "story");
  if (nats) *nats = w.nats;
  return world_copy(out, bytes, w.text, strcspn(w.text, "\n"));
}

/* world_sentiment -- a sentence about somebody's day. The last thing told counts, and "not" turns
 * it round, so no single word gives the label away.
 *
 * Args     label: gets 1 for a good day, 0 for a bad one; both equally likely
 * Returns  bytes written, or -1
 */
WORLD_FN int64_t world_sentiment(uint64_t seed, int64_t index, char *out, size_t bytes,
                                 int *label) {
  world_teller w;
  world_begin(&w, seed, index, 1);
  *label = world_draw(&w, 2);
  world_example(&w, seed, index, *label ? "goodday" : "badday", "");
  return world_copy(out, bytes, w.text, (size_t)w.bytes);
}

typedef struct world_word {
  int start, bytes, tag;  /* out[start .. start+bytes), and WORLD_O ... WORLD_I_OBJ */
} world_word;

/* The usual name of a tag. */
WORLD_FN const char *world_tag_name(int tag) {
  static const char *const name[WORLD_TAGS] = {"O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-OBJ",
                                               "I-OBJ"};
  return tag >= 0 && tag < WORLD_TAGS ? name[tag] : "?";
}

/* world_entities -- a sentence with a BIO tag for each word: people (first and family name), towns,
 * things. Florence, Sydney and Austin are people or towns, Stone, Hill and Lake belong to either.
 *
 * Args     word: takes up to `words` words; a punctuation mark is a word of its own.
 *          WORLD_MAX_WORDS are always enough. n_words: gets their number
 * Returns  bytes written, or -1, also if there are more words than `words`
 */
WORLD_FN int64_t world_entities(uint64_t seed, int64_t index, char *out, size_t bytes,
                                world_word *word, int words, int *n_words) {
  world_teller w;
  world_example(&w, seed, index, "names", "");
  int n = 0, span = 0;
  for (int at = 0; at < w.bytes; n++) {
    size_t length = strcspn(w.text + at, " .,?");
    if (length == 0) length = 1;
    while (span < w.spans && w.span[span].start + w.span[span].bytes <= at) span++;
    int tag = WORLD_O;
    if (span < w.spans && w.span[span].start <= at) {
      tag = world_groups[world_facts[w.span[span].fact].group].tag;
      if (tag != WORLD_O && tag % 2 == 1 && w.span[span].start < at) tag++;  /* B- becomes I- */
    }
    if (n < words) {
      word[n].start = at;
      word[n].bytes = (int)length;
      word[n].tag = tag;
    }
    at += (int)length;
    while (w.text[at] == ' ') at++;
  }
  int64_t got = world_copy(out, n <= words ? bytes : 0, w.text, (size_t)w.bytes);
  if (got < 0 && bytes > 0) out[0] = 0;
  *n_words = got < 0 ? 0 : n;
  return got;
}

/* world_question -- a context of 2 to 4 sentences, and a question that it answers.
 *
 * Args     context, question: take the texts
 *          start, length: get the answer, context[start .. start+length), at its first mention
 * Returns  bytes of the context, or -1
 */
WORLD_FN int64_t world_question(uint64_t seed, int64_t index, char *context, size_t context_bytes,
                                char *question, size_t question_bytes, int64_t *start,
                                int64_t *length) {
  world_teller w;
  world_example(&w, seed, index, "scene", "?ask");
  int s = 0;
  while (w.span[s].fact != w.span[w.spans - 1].fact) s++;  /* what is told last is the answer */
  *start = w.span[s].start;
  *length = w.span[s].bytes;
  return world_copy_two(&w, context, context_bytes, question, question_bytes);
}

/* world_summary -- a story and the sentence that sums it up.
 *
 * Returns  bytes of the story, or -1
 */
WORLD_FN int64_t world_summary(uint64_t seed, int64_t index, char *story, size_t story_bytes,
                               char *summary, size_t summary_bytes) {
  world_teller w;
  world_example(&w, seed, index, "story", "");
  return world_copy_two(&w, story, story_bytes, summary, summary_bytes);
}

/* world_completion -- a story without its last words, which repeat a fact told before.
 *
 * Args     prompt: takes the story so far, no space at its end
 *          answer: takes what follows after one space ("Oslo", "music box"); then comes a full stop
 * Returns  bytes of the prompt, or -1
 */
WORLD_FN int64_t world_completion(uint64_t seed, int64_t index, char *prompt, size_t prompt_bytes,
                                  char *answer, size_t answer_bytes) {
  world_teller w;
  world_example(&w, seed, index, "story", "");
  int s = w.spans - 1;
  while (w.text[w.span[s].start + w.span[s].bytes + 1] != '\n') s--;
  w.text[w.span[s].start - 1] = '\n';
  w.text[w.span[s].start + w.span[s].bytes] = '\n';
  return world_copy_two(&w, prompt, prompt_bytes, answer, answer_bytes);
}

/* A noun with its article and perhaps an adjective. */
typedef struct world_phrase {
  int group, noun, article, adjectives, adjective;  /* adjectives: their group, or -1 for none */
} world_phrase;

WORLD_FN void world_draw_phrase(world_teller *w, world_phrase *p, int group, int noun) {
  p->group = group;
  p->noun = noun;
  p->article = world_draw(w, world_groups[WORLD_ARTICLES].n);
  p->adjectives = -1;
  p->adjective = 0;
  int kind = world_draw(w, 3);
  if (kind == 0) return;
  p->adjectives = kind == 1 ? WORLD_COLORS : WORLD_SIZES;
  int small_or_big = kind == 2 && group == WORLD_THINGS;  /* a clock is never lazy */
  p->adjective = world_draw(w, small_or_big ? 2 : world_groups[p->adjectives].n);
}

WORLD_FN void world_put_english(world_teller *w, const world_phrase *p) {
  world_put_form(w, WORLD_ARTICLES, p->article, 0);
  world_put(w, " ", 1);
  if (p->adjectives >= 0) {
    world_put_form(w, p->adjectives, p->adjective, 0);
    world_put(w, " ", 1);
  }
  world_put_form(w, p->group, p->noun, p->article >= 2);
}

/* Noun, adjective, article; both words take -ri in the plural, then the noun -n as an object. */
WORLD_FN void world_put_foreign(world_teller *w, const world_phrase *p, int is_object) {
  size_t plural = p->article >= 2 ? 2 : 0;
  world_put_form(w, p->group, p->noun, 2);
  world_put(w, "ri", plural);
  world_put(w, "n", is_object ? 1 : 0);
  if (p->adjectives >= 0) {
    world_put(w, " ", 1);
    world_put_form(w, p->adjectives, p->adjective, 1);
    world_put(w, "ri", plural);
  }
  size_t bytes = 0;
  const char *article = world_form(WORLD_ARTICLES, p->article, 1, &bytes);
  world_put(w, " ", bytes > 0);
  world_put(w, article, bytes);
}

/* world_translation -- an English sentence and its translation into an invented language.
 *
 *   The small dogs did not see a red kite in the garden.
 *   Murari sipiri fulipe velon ruva o ne tolot.
 *
 * Subject, place, object, verb. Adjectives and articles follow the noun, "the" is silent. Endings:
 * -ri plural, -n object, -pe in, -ko near, -tu behind, -s present, -t past; "ne" is not.
 *
 * Returns  bytes of the English sentence, or -1
 */
WORLD_FN int64_t world_translation(uint64_t seed, int64_t index, char *english,
                                   size_t english_bytes, char *foreign, size_t foreign_bytes) {
  world_teller w;
  world_phrase who, what;
  uint64_t task = (uint64_t)1 << 48;
  do {
    world_begin(&w, seed, index, ++task);
    int pets = world_groups[WORLD_PETS].n;
    world_draw_phrase(&w, &who, WORLD_PETS, world_draw(&w, pets));
    int noun = world_draw(&w, pets - 1 + world_groups[WORLD_THINGS].n);
    if (noun >= who.noun) noun++;  /* not the same noun twice */
    world_draw_phrase(&w, &what, noun < pets ? WORLD_PETS : WORLD_THINGS,
                      noun < pets ? noun : noun - pets);
    int verb = world_draw(&w, world_groups[WORLD_VERBS].n);
    int past = world_draw(&w, 2), negated = world_draw(&w, 2), placed = world_draw(&w, 2);
    int site = world_draw(&w, world_groups[WORLD_SITES].n);
    int prep = world_draw(&w, world_groups[WORLD_PREPS].n), many = who.article >= 2;

    world_put_english(&w, &who);
    const char *not_form = past ? " did not " : many ? " do not " : " does not ";
    if (!negated) not_form = " ";
    world_put(&w, not_form, strlen(not_form));
    world_put_form(&w, WORLD_VERBS, verb, negated ? 1 : past ? 2 : many);
    world_put(&w, " ", 1);
    world_put_english(&w, &what);
    if (placed) {
      world_put(&w, " ", 1);
      world_put_form(&w, WORLD_PREPS, prep, 0);
      world_put(&w, " the ", 5);
      world_put_form(&w, WORLD_SITES, site, 0);
    }
    world_put(&w, ".\n", 2);

    world_put_foreign(&w, &who, 0);
    world_put(&w, " ", 1);
    if (placed) {
      world_put_form(&w, WORLD_SITES, site, 1);
      world_put_form(&w, WORLD_PREPS, prep, 1);
      world_put(&w, " ", 1);
    }
    world_put_foreign(&w, &what, 1);
    world_put(&w, negated ? " ne " : " ", negated ? 4 : 1);
    world_put_form(&w, WORLD_VERBS, verb, 3);
    world_put(&w, past ? "t." : "s.", 2);
  } while (!world_belongs(&w, index));
  return world_copy_two(&w, english, english_bytes, foreign, foreign_bytes);
}

#endif /* WORLD_H */
