"""Open question 3 as a job: do more cycles of the two fine-tunings help, or only more steps?

python jobs/open_question_3.py --output DIR [--recipe demo|squad_open] [--seeds 0,1,2,3,4]
RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/open_question_3.py --output DIR

Give all questions one --output, or --artifacts RUN/artifacts: what is trained there is reused.
"""

from radit_ray.cli import question_command

if __name__ == "__main__":
    question_command("oq3")
