"""One file per step of RA-DIT: one frozen Config and one function each; they meet only through
artifacts.
"""
