# make run      all lessons on the embedded data; make run DATA=/path/to/chest_xray ONLY=04,05 for yours
# make status   how far the last run has got
# make test     CI's main job                    make test-fast   the quick part, for daily work
# make lab      the lessons in JupyterLab, in my-lessons/, a copy of your own; make lab FRESH=1 makes a new one
# make refresh  run the lessons of notebooks/ again and store them in place
# make docs     the site, without a network      make test-browser the site and all lessons in Chromium
# make author   write openings, exercises and quizzes into the lessons, from docs/ and notebooks/solutions
#               make author REPOSITORY=name/repo adds links to Colab and Binder, and a cell that installs
# make test-oldest, make test-colab   the oldest versions allowed, and those of Colab, in environments of their own
# make test-processors   the lessons as other processors compute them, on three phantoms (two to four hours)
# make wheelhouse   everything for a computer without network, in one folder
# Without make (Windows): see README, the same through `python tools/run.py`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
DATA ?= phantom
ONLY ?=
ARGS ?=
REPOSITORY ?=
FRESH ?=
WORKERS ?= 2

# nbval compares the stored outputs of the lessons with a fresh run; tests/conftest.py keeps them in order.
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg
LESSONS := $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb notebooks/solutions/*.ipynb))
TEST_FILES := tests $(LESSONS)

.PHONY: run status test test-fast test-browser test-oldest test-colab test-processors chromium docs lint lab author refresh bench wheelhouse doctor clean

run: $(VENV)/.ready
	$(BIN)/python tools/run.py --data "$(DATA)" $(if $(ONLY),--only "$(ONLY)") $(ARGS)

status: $(VENV)/.ready
	@$(BIN)/python tools/run.py --status

test: lint chromium
	$(BIN)/python -m pytest -q -rfEs -n $(WORKERS) --dist loadfile $(if $(LESSONS),$(NBVAL)) $(TEST_FILES)

test-fast: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not slow and not browser" tests

# The site, and all lessons in JupyterLab, in Chromium (`make test` runs two there). Pictures of what failed: build/screenshots.
test-browser: $(VENV)/.ready-dev chromium
	XRAYS_TEST_LESSONS=all $(BIN)/python -m pytest -q -rfEs -m browser tests

chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	$(if $(filter 0,$(shell id -u)),,sudo -n) apt-get install --yes -qq chromium >/dev/null 2>&1 || \
	echo "!!! There is no Chromium and apt-get may not install it: NOTHING WILL BE TESTED IN A BROWSER !!!"

# Other versions, in environments that are made once and kept in the user's cache folder: see tools/environments.py.
test-oldest test-colab: test-%: $(VENV)/.ready-dev
	$(BIN)/python tools/environments.py $*

# Options: make test-processors ONLY=04,05 ARGS="--settings one-thread --seeds 0,1"
test-processors: $(VENV)/.ready-dev
	$(BIN)/python tools/processors.py $(if $(ONLY),--only "$(ONLY)") $(ARGS)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell $(wildcard *.md docs notebooks xrayhelpers tests tools benchmarks)

lab: $(VENV)/.ready
	@$(BIN)/python tools/lab.py $(if $(FRESH),--fresh) $(ARGS)

author: $(VENV)/.ready-dev
	$(BIN)/python tools/author.py $(if $(REPOSITORY),--repository "$(REPOSITORY)")
	$(BIN)/ruff format notebooks

refresh: $(VENV)/.ready-dev
	$(BIN)/python tools/refresh.py $(if $(ONLY),--only "$(ONLY)")
	$(BIN)/ruff format notebooks

# Without a network, from the stored outputs: no lesson is run. Any warning is an error. Start page: build/site/index.html
docs: $(VENV)/.ready-dev
	rm -rf build/site docs/api
	$(BIN)/python -m sphinx -q -W --keep-going -b html -E -c docs -d build/doctrees . build/site

bench: $(VENV)/.ready-dev
	$(BIN)/python -m benchmarks --data "$(DATA)" $(ARGS)

# All that a computer without network needs, for a USB stick (about 920 MB): docs/teacher.md.
wheelhouse: $(VENV)/.ready
	$(BIN)/python tools/wheelhouse.py wheelhouse

doctor: $(VENV)/.ready
	$(BIN)/python tools/doctor.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis runs

# The stamps are younger than the files they were made from; an interrupted installation leaves no stamp.
$(VENV)/.ready: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) tools/lab.py --check
	@echo "Making $(VENV), a Python for these lessons alone. Nothing else on this computer is changed."
	$(PYTHON) -m venv $(VENV)
	@echo "Installing TensorFlow, JupyterLab and what they need: less than 1 GB to download, two to five minutes the first time."
	$(PIP) -r requirements.txt -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	@echo "Installing what the tests need: about one minute the first time."
	$(PIP) --quiet -r requirements-dev.txt -c constraints.txt
	@touch $@
