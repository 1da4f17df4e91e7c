#!/usr/bin/env bash
# Good retrains for tests.campaign.candidates: the shipped weights, trained on for one epoch on other simulated plates and
# on the real photos, each with seeds of its own. Needs the extra `train`; about 8 minutes each on two cores.
#
#     tests/campaign/retrains.sh OUT COUNT WEIGHTS.pt PHOTOS/data.yaml
#
# Writes OUT/g1 .. OUT/gCOUNT, each with model.onnx (fp32, 384x640) and model-int8.onnx; what is there is left as it is.
set -euo pipefail

[ $# -eq 4 ] || { sed -n '2,8p' "$0" >&2; exit 64; }
out=$1 count=$2 weights=$3 photos=$4
shares=(0.3 0.5 0.7)

for n in $(seq 1 "$count"); do
    here=$out/g$n
    [ -f "$here/model-int8.onnx" ] && continue
    rm -rf "$here"
    mkdir -p "$here"
    edge-inspect sim export --out "$here/sim" --plates 60 --seed $((300 + n)) --ng-share "${shares[n % 3]}"
    cloud-inspect train "$photos" "$here/sim/data.yaml" --name retrain --runs "$here/runs" --weights "$weights" \
        --epochs 1 --lr0 0.0003 --seed "$n" --belt-views 0 --threads 1
    cloud-inspect export "$here/runs/retrain/run/weights/best.pt" --out "$here/model.onnx" --imgsz 384x640
    cloud-inspect quantise "$here/model.onnx" --data "$photos" --data "$here/sim/data.yaml" \
        --out "$here/model-int8.onnx" --pictures 60
    rm -rf "$here/runs/retrain/data"
done
