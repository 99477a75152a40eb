#!/usr/bin/env bash
# RA-DIT 7B with the paper's settings (Table 8, Appendix B), one job a stage; variables and options: jobs/submit.sh.
#
#   CORPUS=/shared/corpus STORAGE=/shared/radit-7b bash jobs/paper_7b.sh
#
# Hardware: 8 GPUs of 80 GB train the 7B (the paper: 8 A100). The paper's judge of chunks is the base 65B: 130 GB in bf16, which one
# device has to hold (an H200; the LM is not split in `score`). SCORE_LM=$LM is the departure that fits everywhere.
# `radit plan paper --chunks 399M --lm 7B --gpus 8 --device a100` predicts hours, memory and storage of each stage.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
LM="${LM:-huggyllama/llama-7b}"
SCORE_LM="${SCORE_LM:-huggyllama/llama-65b}"
GPUS="${GPUS:-8}"
BATCH_SIZE=64 # Table 8, 7B
MICRO_BATCH=2 JUDGE_TOKENS=16384 ANSWER_TOKENS=32768 R_FT_GPUS="$GPUS"
# shellcheck source=jobs/submit.sh
source jobs/submit.sh
submit_all
