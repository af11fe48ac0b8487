#!/bin/bash
# Train on all workers of a Cloud TPU slice, from your own machine, by gcloud.
#
#     export TPU=my-slice ZONE=us-central2-b RUN=/mnt/runs/text/bmojo
#     scripts/tpu_pod/train.sh setup
#     scripts/tpu_pod/train.sh doctor experiments/text.gin sizes/130m.gin Mesh.fsdp=8
#     scripts/tpu_pod/train.sh train experiments/text.gin sizes/130m.gin Mesh.fsdp=8
#     scripts/tpu_pod/train.sh log
#     scripts/tpu_pod/train.sh stop            # saves; the same train goes on
#
# Words after doctor and train are those of bmojo train. All devices form one mesh. train looks
# first whether all fits, then goes on in the background of each worker, so that you can close
# your terminal. JAX finds the workers by the metadata of the slice (--distributed). When a slice
# is taken away and made anew: setup, then the same train.
#
# To change, by variables:
#   TPU, ZONE   name and zone of the slice; PROJECT, if it is not gcloud's own
#   RUN         run directory, on storage that every worker has mounted at the same place, such
#               as Filestore; a bucket mounted as files knows no locks and will not do
#   SOURCE      what setup installs (default: this repository's folder beside RUN)
#   CACHE       compiled programs (default: beside RUN)
#   RESTARTS    how often a process that dies is started again (default: 20)

set -euo pipefail
: "${TPU:?give TPU, the name of the slice}" "${ZONE:?give ZONE}" "${RUN:?give RUN}"
SOURCE="${SOURCE:-$(dirname "${RUN}")/bmojo-source}"
CACHE="${CACHE:-${RUN}.cache}"
RESTARTS="${RESTARTS:-20}"

everywhere() {
    gcloud compute tpus tpu-vm ssh "${TPU}" --zone="${ZONE}" ${PROJECT:+--project="${PROJECT}"} \
        --worker="${WORKER:-all}" --command="$1"
}

quoted() { printf '%q ' "$@"; }

action="${1:?give setup, doctor, train, log or stop}"
shift
case "${action}" in
doctor | train)
    : "${1:?give a config, such as experiments/text.gin}"
    words="$(quoted "$1" "Experiment.mesh=@Mesh()" "${@:2}") --distributed"
    begin="set -e; export BMOJO_CACHE_DIR=$(quoted "${CACHE}") PYTHONUNBUFFERED=1
mkdir -p $(quoted "$(dirname "${RUN}")" "${CACHE}"); cd $(quoted "${SOURCE}")
source ~/bmojo-venv/bin/activate"
    everywhere "${begin}
bmojo doctor ${words} --json $(quoted "${RUN}.preflight.json")"
    if [[ "${action}" == train ]]; then
        everywhere "${begin}
nohup bmojo train ${words} --run-dir $(quoted "${RUN}") --max-restarts $(quoted "${RESTARTS}") \
> ~/bmojo.log 2>&1 < /dev/null &
echo \$! > ~/bmojo.pid"
    fi
    ;;
setup)
    everywhere "python3 -m venv ~/bmojo-venv
~/bmojo-venv/bin/pip install $(quoted "${SOURCE}") 'jax[tpu]' -c $(quoted "${SOURCE}/constraints.txt")"
    ;;
log)
    WORKER=0 everywhere "tail -n 50 -f ~/bmojo.log"
    ;;
stop)
    everywhere "kill -TERM \$(cat ~/bmojo.pid)"
    ;;
*)
    echo "error: ${action} is no action; give setup, doctor, train, log or stop" >&2
    exit 2
    ;;
esac
