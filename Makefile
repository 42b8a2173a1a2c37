# Every target is one line of shell. `make` alone prints this list.
PYTHON ?= python3
MODEL ?= vit-t
DATASET ?= miniature
STRATEGIES ?= default
SEEDS ?= 0
DEVICE ?= auto
RESULTS ?= results/local
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
# A path in quotes, so that it may have spaces; ~/ is the home folder although it is in quotes.
quoted = "$(if $(filter ~/%,$(firstword $(1))),$(patsubst ~/%,$(HOME)/%,$(1)),$(1))"
OPTIONS = --model $(MODEL) --dataset $(call quoted,$(DATASET)) --strategies $(STRATEGIES) --seeds $(SEEDS) --device $(DEVICE) --results $(call quoted,$(RESULTS))
OPTIONS += $(if $(RECIPE),--recipe $(RECIPE)) $(if $(DATA),--data $(call quoted,$(DATA))) $(if $(ANNOTATIONS),--annotations $(call quoted,$(ANNOTATIONS))) $(if $(WEIGHTS),--weights $(call quoted,$(WEIGHTS))) $(if $(CACHE),--cache $(call quoted,$(CACHE))) $(foreach p,$(PROTOCOL),--protocol $(p)) $(if $(FORCE),--force) $(if $(FIT),--fit $(FIT)) $(if $(KEEP),--keep-weights) $(if $(CLASSIFIER),--classifier $(call quoted,$(CLASSIFIER))) $(if $(READER),--reader $(READER)) $(if $(LAUNCHER),--launcher $(LAUNCHER)) $(foreach s,$(SLURM),--slurm $(s)) $(SEVERAL)
SEVERAL = $(if $(PROCESSES),--processes $(PROCESSES)) $(if $(SHARDED),--sharded)

# A process that has none left takes tests from the other, so that both end together.
TEST = $(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help bench bench-papers features predict plan doctor report verify status test test-all test-oldest check gpu-check gpu-suite pretrain tune speed fuzz endurance clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,check]' && touch $@

$(OLDEST)/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST) && $(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[test]' && touch $@

bench: $(VENV)/installed ## compare the strategies; MODEL= DATASET= RECIPE= DATA= ANNOTATIONS= WEIGHTS= STRATEGIES= SEEDS= DEVICE= RESULTS= CACHE= PROTOCOL= FORCE= FIT= KEEP= CLASSIFIER= READER= LAUNCHER= SLURM= PROCESSES= SHARDED=
	$(BIN)/python -m bench.run $(OPTIONS)

bench-papers: $(VENV)/installed ## the papers' ablations and configurations on the embedded data set, three seeds; CACHE=
	$(BIN)/python -m bench.papers $(if $(CACHE),--cache $(call quoted,$(CACHE)))

doctor: $(VENV)/installed ## check annotations and videos before a run, or print a RECIPE=; DATASET= (a known name or a path) DATA= ANNOTATIONS= PROTOCOL= FEATURES=1 (DATA= holds features)
	$(BIN)/python -m bench.doctor $(if $(findstring /,$(DATASET))$(filter %.json %.json.gz %.csv %.tsv %.txt %.eaf %.xml,$(DATASET)),$(call quoted,$(DATASET)),$(if $(ANNOTATIONS),$(call quoted,$(ANNOTATIONS))) --card $(DATASET)) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(DATA),--data $(call quoted,$(DATA))) $(if $(FEATURES),--features) $(foreach p,$(PROTOCOL),--protocol $(p))

features: $(VENV)/installed ## write a frozen backbone's features of a data set to the folder OUT=, for MODEL=features; MODEL= WEIGHTS= DATASET= DATA= ANNOTATIONS= RECIPE= PROTOCOL= DEVICE= CACHE=
	$(BIN)/python -m bench.features --model $(MODEL) $(if $(RECIPE),--recipe $(RECIPE)) --dataset $(call quoted,$(DATASET)) --out $(call quoted,$(OUT)) --device $(DEVICE) $(if $(DATA),--data $(call quoted,$(DATA))) $(if $(ANNOTATIONS),--annotations $(call quoted,$(ANNOTATIONS))) $(if $(WEIGHTS),--weights $(call quoted,$(WEIGHTS))) $(if $(CACHE),--cache $(call quoted,$(CACHE))) $(foreach p,$(PROTOCOL),--protocol $(p))

predict: $(VENV)/installed ## the actions of your own VIDEO= (file or folder) by a RUN= (record or checkpoint) made with KEEP=1; WEIGHTS= DEVICE= OUT= FORMAT= FPS= READER= MP4=
	$(BIN)/python -m bench.predict $(call quoted,$(VIDEO)) --run $(call quoted,$(RUN)) --device $(DEVICE) $(if $(WEIGHTS),--weights $(call quoted,$(WEIGHTS))) $(if $(OUT),--out $(call quoted,$(OUT))) $(if $(FORMAT),--format $(FORMAT)) $(if $(FPS),--fps $(FPS)) $(if $(READER),--reader $(READER)) $(if $(MP4),--mp4)

plan: $(VENV)/installed ## predict the peak memory of every strategy, without a GPU; MODEL= RECIPE= FRAMES= SIZE= GPU= PROTOCOL= PROCESSES= SHARDED=
	$(BIN)/python -m bench.plan --model $(MODEL) --strategy $(STRATEGIES) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(FRAMES),--frames $(FRAMES)) $(if $(SIZE),--size $(SIZE)) $(if $(GPU),--gpu $(GPU)) $(foreach p,$(PROTOCOL),--protocol $(p)) $(SEVERAL)

report: $(VENV)/installed ## rebuild tables and figures from the records in RESULTS
	$(BIN)/python -m bench.report --results $(call quoted,$(RESULTS))

verify: $(VENV)/installed ## are the tables of RESULTS closed, and its records intact
	$(BIN)/python -m bench.verify --results $(call quoted,$(RESULTS))

status: $(VENV)/installed ## the state and progress of all runs in RESULTS
	$(BIN)/python -m bench.status --results $(call quoted,$(RESULTS))

test: $(VENV)/installed ## the quick tests, a few minutes: all that need no GPU and few processes of their own
	$(TEST) -m "not gpu and not slow"

test-all: $(VENV)/installed ## every test that needs no GPU, slow ones too: a quarter of an hour
	$(TEST) -m "not gpu"

# The oldest timm uses torch.jit, which PyTorch announces to remove; it cannot be changed here.
test-oldest: $(OLDEST)/installed ## quick tests of models, training and memory with the oldest supported versions (Python 3.11 or 3.12); downloads 3 GB
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal -m "not gpu and not slow" -W 'ignore:`torch.jit:DeprecationWarning' tests/test_oldest_versions.py $(addprefix tests/bench/,memory features models plan training)

check: $(VENV)/installed ## lint, format, types, every test that needs no GPU
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy --strict && $(TEST) -m "not gpu"

gpu-check: $(VENV)/installed ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

gpu-suite: $(VENV)/installed ## all that there is to measure on this GPU, in order of value; a second call goes on; SECONDS= PARTS= RESULTS= DATA= WEIGHTS= FORCE=
	$(BIN)/python -m bench.measure --suite --results $(call quoted,$(RESULTS)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(PARTS),--parts $(PARTS)) $(if $(DATA),--data $(call quoted,$(DATA))) $(if $(WEIGHTS),--weights $(call quoted,$(WEIGHTS))) $(if $(FORCE),--force)

pretrain: $(VENV)/installed ## train vit-t on the miniature's source clips, in place of the shipped weights
	$(BIN)/python -m bench.pretrain

tune: $(VENV)/installed ## choose hyper-parameters on the tuning videos, in results/local/tuning, equal trials for every strategy; STRATEGIES=
	$(BIN)/python -m bench.tune --strategies $(STRATEGIES)

speed: $(VENV)/installed ## time the parts of the bench against their bars; CACHE= DATA=
	$(BIN)/python -m bench.speed --references tests/reference $(if $(DATA),--data $(call quoted,$(DATA))) $(if $(CACHE),--cache $(call quoted,$(CACHE)))

fuzz: $(VENV)/installed ## ten thousand hostile files through all that reads them; REPORT=
	$(BIN)/python -m tests.fuzz $(if $(REPORT),--report $(call quoted,$(REPORT)))

endurance: $(VENV)/installed ## kill a small bench 200 times, anywhere, and compare its end with an unbroken one's; KILLS=
	$(BIN)/python -m tests.endurance $(if $(KILLS),--kills $(KILLS))

clean: ## remove the virtual environments and local results
	rm -rf $(VENV) $(OLDEST) results/local
