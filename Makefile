EXTENSION = poser
DATA = $(patsubst $(srcdir)/%,%,$(wildcard $(srcdir)/sql/poser--*.sql))

MODULE_big = poser
OBJS = $(patsubst $(srcdir)/%.c,%.o,$(wildcard $(srcdir)/src/*.c $(srcdir)/src/*/*.c))
PG_CPPFLAGS = -I$(srcdir)/src -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

REGRESS = $(patsubst $(srcdir)/test/sql/%.sql,%,$(wildcard $(srcdir)/test/sql/*.sql))
REGRESS_OPTS = --inputdir=$(srcdir)/test
ISOLATION = $(patsubst $(srcdir)/test/specs/%.spec,%,$(wildcard $(srcdir)/test/specs/*.spec))
ISOLATION_OPTS = --inputdir=$(srcdir)/test
PROVE_TESTS = $(patsubst $(srcdir)/%,%,$(wildcard $(srcdir)/test/t/*.pl))
EXTRA_CLEAN = tmp_check

# These work on a machine that has nothing but make: test/run installs what is
# missing, then builds, installs and uses a private cluster.
RUN = demo demo-stop web web-stop check check-web bench check-static check-valgrind check-asan check-assert

ifneq ($(filter $(RUN),$(MAKECMDGOALS)),)
.PHONY: $(RUN)
$(RUN):
	@test/run $@
else
PG_CONFIG ?= pg_config
ifeq ($(shell grep -c tcs_delete_private '$(shell $(PG_CONFIG) --includedir-server)/commands/trigger.h'),0)
PG_CPPFLAGS += -DPOSER_ONE_TCS_PRIVATE
endif
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# Every object depends on every header.  A build outside the tree needs the folders
# of its objects; their names are absolute, or VPATH would find those of the tree.
FOLDERS = $(addprefix $(CURDIR)/,$(sort $(dir $(OBJS))))
$(OBJS) $(OBJS:.o=.bc): $(wildcard $(srcdir)/src/*/*.h) | $(FOLDERS)
$(FOLDERS):
	mkdir -p $@

.PHONY: prove_installcheck
prove_installcheck:
	$(prove_installcheck)
endif
