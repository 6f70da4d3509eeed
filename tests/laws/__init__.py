"""Laws that hold for every covariance structure, algorithm and mixture.

A new structure joins by one line in ``cases.CASES``.
"""
