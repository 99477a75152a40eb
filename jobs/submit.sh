# shellcheck shell=bash
# Sourced by paper_7b.sh and paper_65b.sh: one `ray job submit` a stage of the recipe `paper`, by `submit_all`.
#
# PAPER decides the result and is the same for every stage; the fields given to a single stage change only the clock (resources.*).
# Every stage is resumable: a job that was killed is submitted again by the same script, which finds what is finished and goes on.
# That it is the same corpus is known by hashing it, so each job reads it once before it starts: minutes for 240 GB.
#
#   BATCH_SIZE                of LM-ft, by the size of the LM (Table 8)
#   MICRO_BATCH, JUDGE_TOKENS, ANSWER_TOKENS, R_FT_GPUS   what fits: sequences a step, tokens of a forward pass, GPUs of R-ft
#   LM, SCORE_LM, RETRIEVER   Hugging Face ids or folders that all nodes see
#   CORPUS                    the documents; the paper's are 399M chunks of Wikipedia (Dec. 2021) and CommonCrawl
#   EXAMPLES                  questions by split; below the paper's training sets, its dev tasks, and three tasks to look at
#   STORAGE                   the run's folder, shared by all nodes (DeepSpeed's checkpoints need a file system, not a URI)
#   ADDRESS                   of the cluster's dashboard: `ray dashboard cluster.yaml` brings it to 127.0.0.1:8265
#
#   bash jobs/paper_7b.sh                    every stage, one after the other
#   bash jobs/paper_7b.sh score r-ft         these alone (a stage makes what it needs and does not find)
#   bash jobs/paper_7b.sh --dry-run          prints what would be submitted
set -euo pipefail

# The sets of Table 1; which of them serve LM-ft, R-ft or both is known by their names (`radit tasks`).
TRAINING=(oasst1 commonsense_qa math_qa web_questions wiki_qa yahoo_answers_qa freebase_qa ms_marco coqa drop narrativeqa newsqa
  pubmed_qa quail quarel squad_v2 cnn_dailymail aqua_rat ecqa gsm8k competition_math strategyqa)
SELECTION=(hotpotqa fever aida zsre t-rex wow) # the six KILT dev tasks that choose the checkpoint (section 5)
MEASURED=(mmlu nq triviaqa) # evaluated by the run itself; all tables: radit evaluate --suite paper-table-2 --variants "$STORAGE"

RETRIEVER="${RETRIEVER:-dragon-plus}"
EXAMPLES="${EXAMPLES:-$(printf 'task:%s,' "${TRAINING[@]}")$(printf 'task:%s:dev@500,' "${SELECTION[@]}")$(
  printf 'task:%s,' "${MEASURED[@]}" | sed 's/,$//'
)}"
ADDRESS="${ADDRESS:-http://127.0.0.1:8265}"
# A cluster without the token runs whatever anybody sends (docs/security.md).
export RAY_AUTH_MODE=token

DRY_RUN=""
STAGES=()
for argument in "$@"; do
  case "$argument" in
    --dry-run) DRY_RUN=yes ;;
    chunk | embed | index | retrieve | lm-ft | it | score | r-ft | retrieve-tuned | evaluate) STAGES+=("$argument") ;;
    *)
      echo "$0: $argument is neither --dry-run nor a stage (chunk embed index retrieve lm-ft it score r-ft retrieve-tuned evaluate)" >&2
      exit 2
      ;;
  esac
done
for name in LM CORPUS STORAGE; do
  if [[ -z "${!name:-}" ]]; then
    echo "$0: $name is not set; expected $name=... in front of the command (see jobs/submit.sh)" >&2
    exit 2
  fi
done

submit() {
  local stage="$1"
  shift
  if ((${#STAGES[@]})) && [[ " ${STAGES[*]} " != *" $stage "* ]]; then
    return
  fi
  local entry=(python jobs/pipeline.py paper --lm "$LM" --retriever "$RETRIEVER" --corpus "$CORPUS" --examples "$EXAMPLES"
    --output "$STORAGE")
  if [[ "$stage" != evaluate ]]; then # the last stage is the whole run: tables, run.json, report.html
    entry+=(--until "$stage")
  fi
  local command=(ray job submit --address "$ADDRESS" --working-dir . -- "${entry[@]}" --set "${PAPER[@]}" "$@")
  if [[ -n "$DRY_RUN" ]]; then
    printf '%q ' "${command[@]}"
    echo
    return
  fi
  echo "$0: $stage" >&2
  "${command[@]}"
}

# The result: the same for every stage. Where the paper names no value: docs/method.md.
PAPER=(
  retrieve.k=10 k_infer=10                                                       # chunks retrieved and used
  retrieve.corpus_examples=900000 retrieve.corpus_tokens=50                      # self-supervised: 50 tokens ask for the next 50
  index.kind=flat index.num_shards=64                                            # exact, 9.6 GB a shard at 399M chunks
  lm_ft.k_train=3 lm_ft.steps=500 "lm_ft.batch_size=$BATCH_SIZE" lm_ft.seq_len=2048 # Table 8
  lm_ft.lr=1e-5 lm_ft.end_lr=1e-7 lm_ft.warmup=200 lm_ft.schedule=cosine
  lm_ft.eval_every=100                                                           # the best of dev is kept: early stopping
  "score.lm=$SCORE_LM" score.corpus_share=0.95 score.num_examples=947000
  r_ft.epochs=1 r_ft.batch_size=512 r_ft.lr=1e-5 r_ft.warmup=1237 r_ft.eval_every=500
)

submit_all() {
  local each=(resources.gpus_per_worker=1 resources.cpus_per_worker=4)
  local gpu=("resources.num_workers=$GPUS" "${each[@]}")
  local tuned=(resources.zero_stage=3 "resources.micro_batch=$MICRO_BATCH" resources.gradient_checkpointing=true)
  submit chunk resources.cpus_per_worker=1
  submit embed "${gpu[@]}" resources.batch_tokens=131072
  submit index resources.cpus_per_worker=4
  submit retrieve "${gpu[@]}" resources.batch_tokens=131072
  submit lm-ft "${gpu[@]}" "${tuned[@]}"
  submit it "${gpu[@]}" "${tuned[@]}"
  submit score "${gpu[@]}" "resources.batch_tokens=$JUDGE_TOKENS"
  submit r-ft "resources.num_workers=$R_FT_GPUS" "${each[@]}" resources.micro_batch=32
  submit retrieve-tuned "${gpu[@]}" resources.batch_tokens=131072
  submit evaluate "${gpu[@]}" "resources.batch_tokens=$ANSWER_TOKENS"
}
