"""radit-ray: RA-DIT (arXiv 2310.01352) on Ray. `radit --help` tells the story; docs/method.md the
equations.
"""

__version__ = "0.1.0"
