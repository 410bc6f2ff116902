"""The one exception whose text is meant for the person at the keyboard."""


class UserError(Exception):
    """Bad input, in one sentence: what was found, where, what was expected and what to do.

    The command line prints the sentence alone and exits with status 2; everything else keeps its traceback.
    """
