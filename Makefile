EXTENSION = poser
DATA = $(wildcard sql/poser--*.sql)

MODULE_big = poser
OBJS = $(patsubst %.c,%.o,$(wildcard src/*.c))
PG_CPPFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

REGRESS = $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql))
REGRESS_OPTS = --inputdir=test
ISOLATION = $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec))
ISOLATION_OPTS = --inputdir=test
PROVE_TESTS = $(wildcard test/t/*.pl)
EXTRA_CLEAN = tmp_check

# These work on a machine that has nothing but make: test/run installs what is
# missing, then builds, installs and uses a private cluster.
RUN = demo demo-stop check bench check-static check-valgrind check-asan check-assert

ifneq ($(filter $(RUN),$(MAKECMDGOALS)),)
.PHONY: $(RUN)
$(RUN):
	@test/run $@
else
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

.PHONY: prove_installcheck
prove_installcheck:
	$(prove_installcheck)
endif
