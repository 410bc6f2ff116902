"""x"""

CASES = {}


def run(bench, names):
    return []
