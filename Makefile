# The course's commands. Each is a line or two of shell; the README lists them for Windows, which has no make.

PYTHON  ?= python3
PROFILE ?= quick
DATA    ?= auto
ONLY    ?=
ARGS    ?=

PY    = .venv/bin/python
only  = $(if $(ONLY),--only "$(ONLY)")
books = $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb)
strip = --keep-output --keep-count --keep-id --extra-keys "metadata.papermill cell.metadata.papermill"
# `make test` writes its numbers and notebooks here, not among the reader's own.
apart = COURSE_LEDGER="$(CURDIR)/build/test/ledger.csv"
root  = $(if $(filter 0,$(shell id -u)),--allow-root)
one   = OMP_NUM_THREADS=1

# Nothing of the user's own Python or Jupyter.
unexport PYTHONPATH MPLBACKEND
export JUPYTER_PREFER_ENV_PATH := 1
# A relative COURSE_DATA is relative to this folder, also for a kernel that starts in notebooks/.
ifneq ($(COURSE_DATA),)
export COURSE_DATA := $(shell cd "$(COURSE_DATA)" 2>/dev/null && pwd || echo "$(COURSE_DATA)")
endif

.PHONY: help install lab test lint unit stored smoke browser series study table bench notebooks book slides student classpack try-classpack lock clean
.NOTPARALLEL:

help:
	@echo 'make lab                          install the course and open it     ARGS="--no-browser --port 8899"'
	@echo 'make test                         everything that must hold before a commit'
	@echo 'make lint                         the part of it that takes seconds'
	@echo 'make series PROFILE=smoke|quick|full DATA=auto|embedded|real [ONLY=04]    run the lessons'
	@echo 'make study [ONLY=04]              the comparisons that a lesson has no time for'
	@echo 'make bench                        speed against other libraries        ARGS="--quick", ARGS="--explain"'
	@echo 'make notebooks [ONLY=04]          write the stored outputs of lessons and solutions'
	@echo 'make book                         the lessons as a static site: build/book/site    ARGS="--keep"'
	@echo 'make slides                       the lessons as slides, boards live: build/slides    ARGS="--keep"'
	@echo 'make student                      the course without solutions and answers: build/student'
	@echo 'make classpack                    one archive that installs without a network    ARGS="--student"'
	@echo 'make try-classpack                installs it with the network off and runs lesson 04'
	@echo 'make table                        renew the README'"'"'s table of results'
	@echo 'make lock                         renew requirements.lock from pyproject.toml'
	@echo 'make clean                        remove build/ and caches; data, checkpoints and .venv stay'

install:
	@command -v $(PYTHON) >/dev/null || { echo 'No $(PYTHON) here. Install Python 3.11, 3.12 or 3.13.'; exit 1; }
	@$(PYTHON) tools/install.py

lab: install
	$(PY) -m jupyterlab notebooks/00_start_here.ipynb $(root) $(ARGS)

# All parts run, also after one has failed; one failure is enough to fail.
test: install
	@$(MAKE) --no-print-directory --keep-going lint unit stored smoke browser

lint: install
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(if $(books),$(PY) -m nbstripout --verify $(strip) $(books))

unit: install
	$(one) $(PY) -m pytest -m "not browser" -n auto

stored: install
	$(apart) $(PY) tools/notebooks.py compare

smoke: install
	$(apart) $(PY) tools/series.py --profile smoke --data auto --solutions --out build/test/series

browser: install
	$(one) $(PY) -m pytest -m browser -n auto --maxprocesses 3 --dist loadfile --no-loadscope-reorder

series: install
	$(PY) tools/series.py --profile "$(PROFILE)" --data "$(DATA)" $(only)

study: install
	$(PY) tools/study.py $(only)

bench: install
	$(PY) tools/bench.py $(foreach name,$(ONLY),--only "$(name)") $(ARGS)

notebooks: install
	$(PY) tools/notebooks.py run $(only)

book: install
	$(PY) tools/book.py --profile "$(PROFILE)" --data "$(DATA)" $(ARGS)

slides: install
	$(PY) tools/slides.py --profile "$(PROFILE)" --data "$(DATA)" $(ARGS)

student: install
	$(PY) tools/student.py

classpack: install
	$(PY) tools/classpack.py $(ARGS)

try-classpack: install
	COURSE_TRY_CLASSPACK=1 $(one) $(PY) -m pytest -s tests/test_classpack.py -k without_a_network

table: install
	$(PY) tools/readme_table.py

lock: install
	.venv/bin/uv pip compile -q --universal --generate-hashes --python-version 3.11 --extra test --extra course --extra book pyproject.toml -o requirements.lock

clean:
	rm -rf build .pytest_cache .ruff_cache
	find course_utils notebooks tests tools \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
