# shellcheck shell=bash
# Sourced by paper_7b.sh and paper_65b.sh: one `ray job submit` a stage of the recipe `paper`.
#
# In: the variables below and PAPER, an array of field=value that decides the result and is the same for every stage. `submit
# STAGE [FIELD=VALUE ...]` submits one stage and waits for it; the fields given there change only the clock (resources.*). Every
# stage is resumable: a job that was killed is submitted again by the same script, which finds what is finished and goes on. That
# it is the same corpus is known by hashing it, so each job reads it once before it starts: minutes for 240 GB.
#
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
