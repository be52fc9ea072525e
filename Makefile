# make             the command line, build/tfpre
# make run         the main job: three kinds of transformer on a small world, build/report.html
# make test        all tests that need a C compiler alone
# make test-hub    tests against Hugging Face's own code, where Python and PyPI are there
# make check       tests, and the compile modes, sanitizers, lint and examples
# make run-examples, make bench

CC ?= cc
CFLAGS ?= -O2
LDLIBS = -lm -lpthread
WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
B = build

all: $(B)/tfpre

$(B) $(B)/tests $(B)/examples:
	@mkdir -p $@

$(B)/tfpre: examples/tfpre.c tfpre.h | $(B)
	$(CC) -std=c99 $(CFLAGS) $(WARN) -o $@ examples/tfpre.c $(LDLIBS)

$(B)/run: examples/run.c examples/world.h tfpre.h | $(B)
	$(CC) -std=c99 $(CFLAGS) $(WARN) -o $@ examples/run.c $(LDLIBS)

run: $(B)/run
	$(B)/run

# ---- examples: the ladder ----

LADDER = $(sort $(patsubst examples/%.c,%,$(wildcard examples/[0-9]*.c)))

$(B)/examples/%: examples/%.c tfpre.h | $(B)/examples
	$(CC) -std=c99 $(CFLAGS) $(WARN) -o $@ $< $(LDLIBS)

run-examples: $(addprefix $(B)/examples/,$(LADDER))
	@sh tests/examples.sh $(LADDER)

# ---- tests: the library once in float and once in double, the test files linked to it ----

FLOAT = base memory files tensor ops attention nn tokenizer tokenizer_training data objectives model optim generate hub golden faults
DOUBLE = gradcheck
X = $(foreach t,$(1),X($(t)))

$(B)/tests/impl.c: | $(B)/tests
	@printf '#define TFPRE_IMPLEMENTATION\n#include "../../tfpre.h"\n' > $@

$(B)/tests/float.o: $(B)/tests/impl.c tfpre.h
	$(CC) -std=c99 $(CFLAGS) $(WARN) -c -o $@ $<

$(B)/tests/double.o: $(B)/tests/impl.c tfpre.h
	$(CC) -std=c99 $(CFLAGS) $(WARN) -DTFPRE_REAL=double -c -o $@ $<

$(B)/tests/float-%.o: tests/%.c tests/test.h tfpre.h | $(B)/tests
	$(CC) $(CFLAGS) $(WARN) '-DTESTS=$(call X,$(FLOAT))' -c -o $@ $<

$(B)/tests/double-%.o: tests/%.c tests/test.h tfpre.h | $(B)/tests
	$(CC) $(CFLAGS) $(WARN) -DTFPRE_REAL=double '-DTESTS=$(call X,$(DOUBLE))' -c -o $@ $<

$(B)/tests/float: $(patsubst %,$(B)/tests/float-%.o,main $(FLOAT)) $(B)/tests/float.o
	$(CC) -o $@ $^ $(LDLIBS)

$(B)/tests/double: $(patsubst %,$(B)/tests/double-%.o,main $(DOUBLE)) $(B)/tests/double.o
	$(CC) -o $@ $^ $(LDLIBS)

# the kernels of every level against the plain ones: sees the inside of the header
$(B)/tests/kernels: tests/kernels.c tests/main.c tests/test.h tfpre.h | $(B)/tests
	$(CC) $(CFLAGS) '-DTESTS=X(kernels)' -o $@ tests/kernels.c tests/main.c $(LDLIBS)

test: $(B)/tests/float $(B)/tests/double $(B)/tests/kernels $(B)/tfpre $(B)/run
	@sh tests/test.sh

test-hub: $(B)/tfpre $(B)/tests/float
	@sh tests/hub/run.sh

check: $(if $(CHECK_ONLY),,test) $(B)/tests/impl.c $(B)/run
	@sh tests/check.sh

bench: $(B)/tfpre
	@sh tests/bench.sh

clean:
	rm -rf $(B)

.PHONY: all print-float run run-examples test test-hub check bench clean
.SECONDARY:

print-float:
	@echo $(FLOAT)
