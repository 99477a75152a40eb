#!/usr/bin/env bash
# RA-DIT 65B with the paper's settings (Table 8, Appendix B), one job a stage; variables and options: jobs/submit.sh.
#
#   CORPUS=/shared/corpus STORAGE=/shared/radit-65b bash jobs/paper_65b.sh
#
# Hardware: 64 GPUs (the paper: 64 A100, tensor parallel 8 x data parallel 8; here ZeRO-3 over all 64, 16 GB of states a GPU).
# `score` and `evaluate` hold the whole LM on one device, 130 GB in bf16: H200s. Nothing of this size was run from this repository.
# `radit plan paper --chunks 399M --lm 65B --gpus 64 --device h200` predicts hours, memory and storage of each stage.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
LM="${LM:-huggyllama/llama-65b}"
SCORE_LM="${SCORE_LM:-$LM}" # the paper's judge is the base 65B for every size
GPUS="${GPUS:-64}"
BATCH_SIZE=128 # Table 8, 65B
MICRO_BATCH=1 JUDGE_TOKENS=8192 ANSWER_TOKENS=8192 R_FT_GPUS=16
# shellcheck source=jobs/submit.sh
source jobs/submit.sh
submit_all
