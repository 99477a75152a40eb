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
# shellcheck source=jobs/submit.sh
source jobs/submit.sh

# The result: the same for every stage. Where the paper names no value: docs/method.md.
PAPER=(
  retrieve.k=10 k_infer=10                                              # chunks retrieved and used
  retrieve.corpus_examples=900000 retrieve.corpus_tokens=50             # self-supervised: 50 tokens ask for the next 50
  index.kind=flat index.num_shards=64                                   # exact, 9.6 GB a shard at 399M chunks
  lm_ft.k_train=3 lm_ft.steps=500 lm_ft.batch_size=64 lm_ft.seq_len=2048 # Table 8, 7B
  lm_ft.lr=1e-5 lm_ft.end_lr=1e-7 lm_ft.warmup=200 lm_ft.schedule=cosine
  lm_ft.eval_every=100                                                  # the best of dev is kept: early stopping
  "score.lm=$SCORE_LM" score.corpus_share=0.95 score.num_examples=947000
  r_ft.epochs=1 r_ft.batch_size=512 r_ft.lr=1e-5 r_ft.warmup=1237 r_ft.eval_every=500
)

gpu=("resources.num_workers=$GPUS" resources.gpus_per_worker=1 resources.cpus_per_worker=4)
submit chunk resources.cpus_per_worker=1
submit embed "${gpu[@]}" resources.batch_tokens=131072
submit index resources.cpus_per_worker=4
submit retrieve "${gpu[@]}" resources.batch_tokens=131072
submit lm-ft "${gpu[@]}" resources.zero_stage=3 resources.micro_batch=2 resources.gradient_checkpointing=true
submit it "${gpu[@]}" resources.zero_stage=3 resources.micro_batch=2 resources.gradient_checkpointing=true
submit score "${gpu[@]}" resources.batch_tokens=16384
submit r-ft "${gpu[@]}" resources.micro_batch=32
submit retrieve-tuned "${gpu[@]}" resources.batch_tokens=131072
submit evaluate "${gpu[@]}" resources.batch_tokens=32768
