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
# shellcheck source=jobs/submit.sh
source jobs/submit.sh

# The result: the same for every stage. Where the paper names no value: docs/method.md.
PAPER=(
  retrieve.k=10 k_infer=10                                               # chunks retrieved and used
  retrieve.corpus_examples=900000 retrieve.corpus_tokens=50              # self-supervised: 50 tokens ask for the next 50
  index.kind=flat index.num_shards=64                                    # exact, 9.6 GB a shard at 399M chunks
  lm_ft.k_train=3 lm_ft.steps=500 lm_ft.batch_size=128 lm_ft.seq_len=2048 # Table 8, 65B
  lm_ft.lr=1e-5 lm_ft.end_lr=1e-7 lm_ft.warmup=200 lm_ft.schedule=cosine
  lm_ft.eval_every=100                                                   # the best of dev is kept: early stopping (step 300)
  "score.lm=$SCORE_LM" score.corpus_share=0.95 score.num_examples=947000
  r_ft.epochs=1 r_ft.batch_size=512 r_ft.lr=1e-5 r_ft.warmup=1237 r_ft.eval_every=500
)

gpu=("resources.num_workers=$GPUS" resources.gpus_per_worker=1 resources.cpus_per_worker=4)
submit chunk resources.cpus_per_worker=1
submit embed "${gpu[@]}" resources.batch_tokens=131072
submit index resources.cpus_per_worker=4
submit retrieve "${gpu[@]}" resources.batch_tokens=131072
submit lm-ft "${gpu[@]}" resources.zero_stage=3 resources.micro_batch=1 resources.gradient_checkpointing=true
submit it "${gpu[@]}" resources.zero_stage=3 resources.micro_batch=1 resources.gradient_checkpointing=true
submit score "${gpu[@]}" resources.batch_tokens=8192
submit r-ft resources.num_workers=16 resources.gpus_per_worker=1 resources.cpus_per_worker=4 resources.micro_batch=32
submit retrieve-tuned "${gpu[@]}" resources.batch_tokens=131072
submit evaluate "${gpu[@]}" resources.batch_tokens=8192
