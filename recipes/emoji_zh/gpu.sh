#!/usr/bin/env bash
# One slice of training on a machine with a GPU, ten minutes and no registries:
#
#   recipes/emoji_zh/gpu.sh CARRIED OUT [SECONDS] [CONFIG]
#
# CARRIED has data.zip (`python -m recipes.emoji_zh.pack make`) and wheels/ of what Python lacks there
# (diffusers, isal, marisa-trie, opencc). OUT gets the model folder and the curves in pieces of at most
# 15 MiB: `cat model.tar.* | tar -x` puts them together. When SECONDS are over, the stages that have a
# checkpoint make the model; the next slice begins with it (`text_from`, `denoiser_from` in CONFIG).
set -euo pipefail
: "${2:?is missing; usage: recipes/emoji_zh/gpu.sh CARRIED OUT [SECONDS] [CONFIG]}"
[ -f "$1/data.zip" ] || { echo "$1/data.zip: no such file; python -m recipes.emoji_zh.pack make writes it" >&2; exit 2; }
carried=$1 out=$2 seconds=${3:-480} config=${4:-recipes/emoji_zh/gpu.toml}
cd "$(dirname "$0")/../.."
if compgen -G "$carried/wheels/*.whl" >/dev/null; then
  python3 -m pip install -q --no-index --no-deps --upgrade --target .work/site "$carried"/wheels/*.whl
fi
export PYTHONPATH="$PWD/.work/site:$PWD"
python3 -m recipes.emoji_zh.pack unpack --data .work/emoji_zh --file "$carried/data.zip"
timeout --signal INT "$seconds" python3 -m rapid_diffusion train "$config" ||
  python3 -m rapid_diffusion train "$config" --stage model
run=$(python3 -c 'import sys, tomllib; print(tomllib.load(open(sys.argv[1], "rb"))["output"])' "$config")
mkdir -p "$out"
(cd "$run" && find . -path './model/*' -type f -o -name '*.html' -o -name log.jsonl | tar -cf - -T -) |
  split -b 15m -d - "$out/model.tar."
ls -l "$out"
