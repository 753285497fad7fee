"""The two ways in which gankd says no. Neither shows a traceback; anything else is a bug of ours."""


class UserError(Exception):
    """Something the user can mend. The message is one sentence: what is wrong, the value, what is allowed, how to mend it.

    The command line prints it and exits with code 2.
    """


class StageFailed(Exception):
    """A stage that cannot go on (loss became NaN, a sampler accepts nothing). Ends its trial; the sweep goes on."""
