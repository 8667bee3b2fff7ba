# What a person types. Everything is installed into .venv, and nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where `make install` puts the program, and the root of the host that it is for.
PREFIX ?= /opt/bootserve
DESTDIR ?=
# Versions are pinned for our own packages and for what builds them.
# A relative path: pip splits this variable at blanks, which a checkout's path may have.
export PIP_CONSTRAINT := .constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

NO_INDEX = echo 'pip could not install, see above. It needs the network once, to reach PyPI or the \
index of your pip configuration; a "conflict" with a pinned version mostly means that it could not.' >&2

.PHONY: help run test test-system bench bench-http bench-tftp proof fuzz lint demo install uninstall clean

help:
	@echo 'make run    serve boot-assets/ now (ARGS="--config FILE ..." for options of bootserve serve)'
	@echo 'make demo   netboot a virtual machine on this terminal, without root'
	@echo 'make test   run the tests (ARGS="-k NAME ..." for options of pytest)'
	@echo 'make test-system  the installed service under a systemd of its own: 2 minutes, as root'
	@echo 'make bench  measure beside nginx, tftpd-hpa and others, as root, on an idle machine: half an hour'
	@echo '            (ARGS="--quick"; make bench-http or bench-tftp for one of both, with more options)'
	@echo 'make proof  slow clients live, dead ones are found: 12 minutes, as root (ARGS="--scale 0.05 ...")'
	@echo 'make fuzz   throw mutated packets at the TFTP door: 10 minutes (ARGS="--seconds 60 ...")'
	@echo 'make lint   ruff and mypy'
	@echo 'make install    as root: the program into /opt/bootserve, and systemd units; a server that runs'
	@echo '                is upgraded (PREFIX=/srv/bootserve; DESTDIR=... for a package or an image)'
	@echo 'make uninstall  stop the server and remove it; your configuration and assets stay'
	@echo 'make clean  remove what the above have made'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo '$(PYTHON) is not Python 3.11 or newer; name one with make PYTHON=...' >&2; exit 1; }
	@echo 'Making .venv and installing bootserve into it; this happens once and takes a moment.'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo 'Could not make .venv, see above; where ensurepip is missing: apt install python3-venv' >&2; \
	  exit 1; }

$(VENV)/.run: pyproject.toml .constraints.txt | $(VENV)/bin/python
	@$(BIN)/pip install --quiet --editable . || { $(NO_INDEX); exit 1; }
	@touch $@

$(VENV)/.test: pyproject.toml .constraints.txt | $(VENV)/bin/python
	@$(BIN)/pip install --quiet --editable '.[test]' || { $(NO_INDEX); exit 1; }
	@touch $@ $(VENV)/.run

$(VENV)/.bench: pyproject.toml .constraints.txt | $(VENV)/bin/python
	@$(BIN)/pip install --quiet --editable '.[bench]' || { $(NO_INDEX); exit 1; }
	@touch $@ $(VENV)/.run

run: $(VENV)/.run
	@exec $(BIN)/bootserve serve $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest --ignore=tests/system -n2 --dist=loadfile --no-loadscope-reorder $(ARGS)

test-system: $(VENV)/.test
	$(BIN)/python -m tests.system.image
	$(BIN)/python -m pytest tests/system $(ARGS)

bench: bench-http bench-tftp

bench-http: $(VENV)/.bench
	@$(BIN)/python -m bench.http $(ARGS)

# After the other, also with `make -j`: each wants the machine for itself.
bench-tftp: $(VENV)/.bench $(if $(filter bench,$(MAKECMDGOALS)),bench-http)
	@$(BIN)/python -m bench.tftp $(ARGS)

proof: $(VENV)/.run
	@$(BIN)/python -m bench.liveness $(ARGS)

fuzz: $(VENV)/.test
	@$(BIN)/python -m tests.fuzz $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(VENV)/.run
	@$(BIN)/python -m tests.real.demo $(ARGS)

install uninstall:
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' PYTHON='$(PYTHON)' systemd/install.sh $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
