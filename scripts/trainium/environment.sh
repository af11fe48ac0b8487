# shellcheck shell=bash
# What jobs on Trainium share. To be sourced by bash in the repository's root.
#
#   NEURON_VENV   virtual environment with neuron/requirements.txt (default: .venv; empty: none)
#   TARGET        trn1, trn2 or trn3 (default: trn2)
#   NEURON_CACHE  where compiled graphs are kept (default: ~/.cache/neuron-compile)

NEURON_VENV="${NEURON_VENV-.venv}"
if [[ -n "${NEURON_VENV}" ]]; then
    # shellcheck disable=SC1091
    source "${NEURON_VENV}/bin/activate"
fi

export TARGET="${TARGET:-trn2}"
export NEURON_PLATFORM_TARGET_OVERRIDE="${TARGET}"
export NEURON_COMPILE_CACHE_URL="${NEURON_CACHE:-${HOME}/.cache/neuron-compile}"
# Kernels are launched on one physical core; on trn2 the default joins two.
export NEURON_LOGICAL_NC_CONFIG="${NEURON_LOGICAL_NC_CONFIG:-1}"
export PYTHONUNBUFFERED=1

if [[ ! -f neuron/compile.py ]]; then
    echo "error: $(pwd) is not the repository's root" >&2
    exit 2
fi
python -m neuron.info
