"""Open question 2 as a job: with a corpus of today, does the LM follow the corpus or its memory?

python jobs/open_question_2.py --output DIR [--recipe demo|squad_open] [--seeds 0,1,2,3,4]
RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/open_question_2.py --output DIR

Give all questions one --output, or --artifacts RUN/artifacts: what is trained there is reused.
"""

from radit_ray.cli import question_command

if __name__ == "__main__":
    question_command("oq2")
