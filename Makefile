# SPDX-License-Identifier: GPL-2.0-or-later
# Two commands do everything: make run-guest, make test. `make help` lists the rest.

# SHELL=1 asks for an interactive guest, but SHELL is also make's own variable: take the wish, put the shell back.
WISH := $(SHELL)
override SHELL := /bin/bash
WANT_SHELL := $(if $(filter 1,$(WISH) $(shell printenv SHELL)),1)
.DEFAULT_GOAL := help

# What one make tells another (variables, job server) is not for the builds that vcapdev starts.
PY := env -u MAKEFLAGS -u MFLAGS -u MAKEOVERRIDES -u MAKELEVEL tools/python

# Not every shell puts your home in the place of the ~ in KDIR=~/src.
tilde = $(if $(filter ~/%,$(firstword $(1))),$(patsubst ~/%,$(HOME)/%,$(1)),$(1))
option = $(if $($(1)),--$(2) '$(call tilde,$($(1)))')
RUN_OPTIONS = \
  $(call option,KERNEL,kernel) $(call option,NORM,norm) $(call option,SIZE,size) \
  $(call option,FORMAT,format) $(call option,FIELD,field) $(call option,IO,io) $(call option,FRAMES,frames) \
  $(call option,SWAP,swap) $(call option,PRESSURE,pressure) $(call option,CLOCK,clock) \
  $(call option,BOARD,board) $(call option,MUTANT,mutant) \
  $(foreach module,$(call tilde,$(MODULE)),--module '$(module)') $(call option,MODULES,modules) \
  $(call option,KIMG,kimg) $(call option,KDIR,kdir) $(call option,VMLINUX,vmlinux) \
  $(call option,APPEND,append) $(call option,REPORT,report) \
  $(call option,ON_VIOLATION,on-violation) $(call option,BUNDLE,bundle) $(call option,AUDIT,audit) \
  $(if $(filter 1,$(IOMMU)),--iommu) \
  $(if $(GDB),--gdb $(filter boot driver,$(GDB))) \
  $(if $(WANT_SHELL),--shell) $(if $(filter 1,$(SHOW)),--show)

# All kernels together make docs/answer.md; one alone is only shown, unless REPORT names a directory.
ANSWER_OPTIONS = $(call option,KERNEL,kernel) $(if $(REPORT)$(KERNEL),$(call option,REPORT,report),--report docs)
SCENARIO_OPTIONS = $(foreach kernel,$(or $(KERNEL),bookworm-6.1 trixie-6.12),--kernel '$(kernel)') \
  $(if $(SCENE),-k '$(SCENE)') $(if $(JOBS),-j '$(JOBS)') $(if $(REPORT),--html '$(REPORT)')
MUTANT_OPTIONS = $(call option,KERNEL,kernel) $(call option,KIND,kind) $(call option,REPORT,report) \
  $(call option,PAGE,page) $(call option,AUDIT,audit)

# What each target takes. Anything else on the command line is a slip that would change nothing, silently; but for
# what becomes the environment of programs, and what an outer make was given.
TAKES_run-guest = KERNEL BOARD MUTANT MODULE MODULES KDIR KIMG VMLINUX APPEND NORM SIZE FORMAT FIELD IO FRAMES \
  SWAP PRESSURE CLOCK IOMMU REPORT ON_VIOLATION BUNDLE AUDIT GDB SHOW
TAKES_test = PYTEST
TAKES_check = PYTEST
TAKES_mutants = KERNEL KIND REPORT PAGE AUDIT
TAKES_lookalikes = KERNEL SCENE REPORT
TAKES_answer = KERNEL REPORT
TAKES_scenarios = KERNEL SCENE JOBS REPORT DAY
TAKES_findings = KERNEL SCENE JOBS REPORT
TAKES_watch = MODULE KERNEL SCENE INIT ONCE
TAKES_flakes = N KERNEL
TAKEN := PY SHELL TMPDIR VCAPDEV_% XDG_% PIP_% PYTHON% CI %_proxy %_PROXY $(foreach goal,$(MAKECMDGOALS),$(TAKES_$(goal)))
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
SLIPS := $(filter-out $(TAKEN),$(filter-out -%,$(GIVEN)))
$(if $(and $(SLIPS),$(filter 0,$(MAKELEVEL))),$(error make $(MAKECMDGOALS) takes no $(SLIPS); see make help))

.PHONY: run-guest flakes watch scenarios findings test mutants rules lookalikes answer bench lint check doctor clean help

run-guest: ## boot a stock guest, capture under swap pressure, judge every DMA write
	@$(PY) tools/status.py $(PY) -m vcapdev run $(RUN_OPTIONS)

test: ## all tests, those that boot guests included
	@$(PY) -m pytest $(PYTEST)

mutants: ## play altered drivers on all kernels: which rule catches each, and what it blames [KERNEL= KIND= REPORT=DIR PAGE=FILE]
	@$(PY) tools/status.py $(PY) -m vcapdev mutants $(MUTANT_OPTIONS)

rules: ## docs/rules.md and the tables of docs/report.md anew, from the rules' own texts and the altered drivers
	@$(PY) -m vcapdev.dmacheck.rulebook > docs/rules.md
	@$(PY) -m vcapdev.dmacheck.rulebook --tables docs/report.md

lookalikes: ## play legitimate scenes: the checker must be silent about them [KERNEL= SCENE= REPORT=]
	@$(PY) tools/status.py $(PY) -m vcapdev lookalikes \
	  $(call option,KERNEL,kernel) $(if $(SCENE),-k '$(SCENE)') $(call option,REPORT,report)

answer: ## is get_user_pages() enough? play the whole matrix, write docs/answer.md [KERNEL= REPORT=]
	@$(PY) tools/status.py $(PY) -m vcapdev answer $(ANSWER_OPTIONS)

scenarios: ## play all shipped scenarios on two kernels; DAY=1: those that take hours [KERNEL= SCENE= JOBS= REPORT=FILE.html]
	@$(PY) tools/status.py $(PY) -m vcapdev scenario $(if $(filter 1,$(DAY)),slow) $(SCENARIO_OPTIONS)

findings: ## play the suspicions about stock drivers; red ones are what docs/findings.md tells [KERNEL=]
	@$(PY) tools/status.py $(PY) -m vcapdev scenario findings $(SCENARIO_OPTIONS)

watch: ## build a module whenever its sources change, play scenarios with it [MODULE=DIR INIT=1 ONCE=1 KERNEL= SCENE=]
	@$(PY) tools/status.py $(PY) -m vcapdev watch $(call option,MODULE,module) $(call option,KERNEL,kernel) \
	  $(if $(SCENE),-k '$(SCENE)') $(if $(INIT),--init) $(if $(ONCE),--once)

flakes: ## how often tests fail for no reason: N of them, shuffled, and the rate [N=1000 KERNEL=]
	@$(PY) tools/flakes.py $(or $(N),1000) $(call option,KERNEL,kernel)

bench: ## speed, as ratios against floors that are taken in the same run
	@$(PY) tests/bench/run.py

lint: ## ruff, mypy and the import rules of pyproject.toml
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -c 'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())'

check: lint ## lint, and the tests that boot nothing
	@$(PY) -m pytest -m 'not guest and not network' $(PYTEST)

doctor: ## what was found on this machine, what was chosen, what is missing
	@$(PY) -m vcapdev doctor

clean: ## remove what tools left in this checkout (the cache is kept: vcapdev cache prune)
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
	@echo
	@echo 'Variables of run-guest, by example; each is the option of vcapdev run that is called so:'
	@echo '  what to test     KERNEL=trixie-6.12 BOARD=pv150 MUTANT=early-unpin IOMMU=1 APPEND="bttv.card=105"'
	@echo '                   MODULE=my.ko MODULES=DIR KDIR=TREE KIMG=bzImage VMLINUX=vmlinux'
	@echo '  what to capture  NORM=NTSC SIZE=320x240 FORMAT=YU12 FIELD=top IO=mmap FRAMES=5000'
	@echo '                   SWAP=zram PRESSURE=pageout CLOCK=fast'
	@echo '  what comes out   REPORT=DIR ON_VIOLATION=stop (or bundle, and BUNDLE=DIR) AUDIT=1%'
	@echo '                   SHELL=1 (a guest for you) GDB=1 (it waits for gdb) SHOW=1 (prints the commands)'
