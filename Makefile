# Two commands matter: `make demo` and `make test`. Both make the same .venv, once.

PYTHON ?= python3
ENV    := .venv
PY     := $(ENV)/bin/python
READY  := $(ENV)/.ready
# Of pytest, of one thread each: two that share their cores by two threads each mostly wait in turns.
PROCESSES ?= 2
CHECKED := rapid_diffusion server knowledge tests benchmarks recipes examples

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test soak audit bench-gpu clean distclean

help:
	@echo "make demo       install into $(ENV), draw pictures from Chinese prompts into out/"
	@echo "make test       install into $(ENV), run ruff, mypy and pytest"
	@echo "make soak       the long forms of the service's tests: an hour of everything at once, and more"
	@echo "make audit      look for known vulnerabilities (asks an advisory service) and risky code"
	@echo "make bench-gpu  measure on a CUDA device (10 minutes), write docs/results/gpu-*.json"
	@echo "make install    install into $(ENV) only"
	@echo "make clean      remove out/, build products and caches; keep $(ENV)"
	@echo "make distclean  the same, and $(ENV)"
	@echo
	@echo "PYTHON=python3.12 make …   chooses the interpreter (3.11 or newer; Linux)"

install: $(READY)

# The stamp is written last: an interrupted installation is taken up again, a finished one is re-used
# until one of these files changes. Without --no-compile every file of torch would be compiled here; Python
# compiles those that it comes to use.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: set PYTHON to a newer interpreter" >&2; exit 1; }
	$(PYTHON) -m venv $(ENV)
	$(PY) -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[server,train,dev]'
	@touch $(READY)

demo: $(READY)
	$(PY) examples/demo.py --out out

test: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses=$(PROCESSES) --dist=loadfile

# Each writes its figures into docs/results/service.json; all of them are tried before one fails.
soak: $(READY)
	@mkdir -p out; status=0; for form in "soak --minutes 60" "contract --cases 2000" "interleavings" "load" \
	  "overload" "overhead" "deaths" "shutdowns" "kills --kills 200 --jobs 100"; do \
	  $(PY) benchmarks/service.py $$form --keep 2>>out/soak.log || status=1; done; exit $$status

# In an environment of their own, so that they bring nothing into ours. docs/results/faults.md explains what is
# passed over: findings of low severity, and `nosec` where it stands.
AUDIT := .audit
audit:
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && \
	  $(AUDIT)/bin/pip install --quiet 'bandit>=1.9' 'pip-audit>=2.9'; }
	$(AUDIT)/bin/bandit --quiet --severity-level medium --recursive server rapid_diffusion knowledge
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

# Ten minutes in all, compiling included; each file is written as soon as its figures are there, and all are
# tried before one fails. First attention's parity and the same bits; the last takes code that speed.py compiled.
SPEED_GPU := benchmarks/speed.py --device cuda --out docs/results/gpu-speed.json
PEERS_GPU := diffusers_bfloat16 diffusers_compiled ours_plain_attention ours ours_artifacts
bench-gpu: $(READY)
	@$(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
	  { echo "this PyTorch sees no CUDA device" >&2; exit 1; }
	status=0; try() { timeout "$$@" || status=1; }; \
	try 70 $(PY) -m pytest -q -m gpu tests; \
	try 220 $(PY) $(SPEED_GPU) --parts sd15 --setups $(PEERS_GPU) --batches 2 16; \
	try 50 $(PY) benchmarks/sd15.py --device cuda --out docs/results/gpu-sd15.json; \
	try 110 $(PY) $(SPEED_GPU) --parts compact --setups $(PEERS_GPU) --batches 2; \
	try 80 $(PY) benchmarks/load.py --device cuda --out docs/results/gpu-load.json; \
	try 60 $(PY) benchmarks/sharing.py --device cuda --rows 8 16 --out docs/results/gpu-sharing.json; \
	exit $$status

clean:
	rm -rf out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(wildcard $(CHECKED)) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(ENV) $(AUDIT)
