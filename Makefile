# Set-up, tests and demo in a local environment; needs python3 (3.11 or later) and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export ORT_DISABLE_TELEMETRY ?= 1
SOURCES := $(addprefix src/hybrid_edge/,train export runtime calib) src/hybrid_edge/__init__.py setup.py

.PHONY: demo test attack fuzz test-arm64 container-cpu test-oldest test-gpu test-triton bench soak lint format clean

CHECK_PYTHON = $(PYTHON) -c "import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f'hybrid-edge trains on Python 3.11 to 3.13, found {v.major}.{v.minor}: make PYTHON=python3.12 ...')"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,cpu,dev]'
	touch $@

demo: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/demo.py demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m "not gpu"

# the gallery of hostile files alone, with how many there are
attack: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 tests/attacks

# what reads foreign bytes, fuzzed by coverage: make fuzz SECONDS=3600, for each of the four
SECONDS ?= 60
fuzz: $(VENV)/.installed
	PYTHONPATH=tests $(BIN)/python tests/soak/soak_fuzz.py --seconds $(SECONDS)

# what the next three run: a bundle exported here, or one that is there already
HYBRID_EDGE_TEST_BUNDLE ?= build/bundle.tar
ELSEWHERE = HYBRID_EDGE_TEST_BUNDLE='$(abspath $(HYBRID_EDGE_TEST_BUNDLE))'

build/bundle.tar: $(VENV)/.installed tests/support/models/exported.py $(shell find train calib export runtime -name '*.py')
	PYTHONPATH=tests $(BIN)/python tests/support/models/exported.py $@

# the runtime on 64-bit ARM, emulated on x86; a part of its tests: make test-arm64 TESTS=tests/runtime/test_golden.py
test-arm64: $(VENV)/.installed $(HYBRID_EDGE_TEST_BUNDLE)
	$(ELSEWHERE) $(BIN)/python tests/support/machines/arm64.py $(TESTS)

# the CPU container's steps without docker, and the container at work: as root, on Debian with mmdebstrap
container-cpu: $(VENV)/.installed $(HYBRID_EDGE_TEST_BUNDLE)
	$(ELSEWHERE) PYTHONPATH=tests $(BIN)/python tests/support/machines/container.py

# the runtime, and the attacks on it, with the oldest libraries that pyproject.toml allows, JetPack 6's among them; a part of
# these tests: make test-oldest TESTS=tests/runtime/backends
OLDEST := $(VENV)-oldest
PYTHON310 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python3.10) $(shell command -v python3.10))

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	'$(PYTHON310)' -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[cpu,plot,jetson,web,mqtt,metrics]' \
	  onnx scikit-learn pytest pytest-xdist
	touch $@

test-oldest: $(if $(PYTHON310),$(OLDEST)/.installed $(HYBRID_EDGE_TEST_BUNDLE))
	$(if $(PYTHON310),$(ELSEWHERE) $(OLDEST)/bin/python -m pytest -n 2 -m "not gpu" $(or $(TESTS),tests/runtime tests/attacks), \
	  @echo "make test-oldest: skipped, as no Python 3.10 was found; PYTHON310=/path/to/python3.10 names one")

# a real Triton server, in an environment of its own: nvidia-pytriton needs NumPy 1
TRITON := $(VENV)-triton

$(TRITON)/.installed: pyproject.toml constraints-triton.txt
	$(PYTHON) -m venv --clear $(TRITON)
	$(TRITON)/bin/python -m pip install --quiet --upgrade pip
	$(TRITON)/bin/python -m pip install --quiet -c constraints-triton.txt -e '.[cpu,triton]' nvidia-pytriton onnx \
	  pytest pytest-xdist
	touch $@

test-triton:
	reason="$$($(PYTHON) tests/support/triton/tritonserver.py)"; \
	  if [ -n "$$reason" ]; then echo "make test-triton: skipped, as $$reason"; \
	  else $(MAKE) $(TRITON)/.installed && $(TRITON)/bin/python -m pytest tests/export/triton; fi

# on a machine with a GPU, and fails on any other; with another engine than TensorRT-RTX for CUDA 13, an extra of
# pyproject.toml: make test-gpu GPU=tensorrt, or GPU=tensorrt-cu12 for a driver below 580; with ONNX Runtime's CUDA too:
# GPU=gpu,rtx. That has an environment of its own: it would replace packages in the one of `make test`
ON_GPU := $(VENV)$(if $(GPU),-$(GPU))

ifdef GPU
$(ON_GPU)/.installed: pyproject.toml constraints.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear $(ON_GPU)
	$(ON_GPU)/bin/python -m pip install --quiet --upgrade pip
	grep -v -e cuda -e tensorrt constraints.txt > $(ON_GPU)/constraints.txt
	$(ON_GPU)/bin/python -m pip install --quiet -c $(ON_GPU)/constraints.txt -e '.[train,$(GPU)]' \
	  pytest scikit-image $(if $(findstring gpu,$(GPU)),,onnxruntime)  # not both kinds: they install the same files
	touch $@
endif

test-gpu: $(ON_GPU)/.installed
	HYBRID_EDGE_REQUIRE_GPU=1 $(ON_GPU)/bin/python -m pytest -m gpu

# our CPU variants beside other engines, into docs/benchmarks.md; engines are installed on demand, in bench/. Without a
# model it makes one of full size first. make bench MODEL=model.keras BUNDLE=bundle IMAGES=val [CALIBRATION=train]
bench: $(VENV)/.installed
	PYTHONPATH=tests $(BIN)/python benchmarks/cpu_peers.py $(if $(MODEL),--model '$(MODEL)') \
	  $(if $(BUNDLE),--bundle '$(BUNDLE)') $(if $(IMAGES),--images '$(IMAGES)') \
	  $(if $(CALIBRATION),--calibration '$(CALIBRATION)') $(BENCH)

# the long runs, each to its end whatever the others say: half an hour and more, on a machine that does nothing else
soak: $(VENV)/.installed
	failed=; for soak in tests/soak/soak_*.py; do \
	  echo "== $$soak"; PATH="$(abspath $(BIN)):$$PATH" PYTHONPATH=tests $(BIN)/python $$soak || failed="$$failed $$soak"; \
	done; if [ -n "$$failed" ]; then echo "over their limits:$$failed"; exit 1; fi

lint: $(VENV)/.installed
	$(BIN)/ruff check $(SOURCES) tests benchmarks docs
	$(BIN)/ruff format --check $(SOURCES) tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix $(SOURCES) tests benchmarks docs
	$(BIN)/ruff format $(SOURCES) tests benchmarks docs

clean:
	rm -rf $(VENV) $(OLDEST) $(dir $(wildcard $(VENV)-*/.installed)) .arm64 build dist demo bench .mypy_cache .ruff_cache .pytest_cache
