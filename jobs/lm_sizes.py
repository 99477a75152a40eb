"""The paper's claim on size as a job: does a larger LM gain more from the same retrofit?

radit world-lm --size m --output runs/lm-m
python jobs/lm_sizes.py --output DIR --lms m=runs/lm-m [l=runs/lm-l]
"""

from radit_ray.cli import question_command

if __name__ == "__main__":
    question_command("sizes")
