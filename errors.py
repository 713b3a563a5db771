"""The one exception that stands for a user's mistake."""

import errno

_REMEDIES = {
    "Free some space.": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "Name a place that you may write to.": (errno.EACCES, errno.EPERM, errno.EROFS),
    "Something else has this name: name another place.": (
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ELOOP,
    ),
    "Name a shorter one.": (errno.ENAMETOOLONG,),
    "Close other programs, or raise their limits (ulimit).": (
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.EAGAIN,
    ),
    "It was removed or never there.": (errno.ENOENT, errno.ENODEV, errno.ESTALE),
}


class UserError(Exception):
    """A mistake the user can mend: it says what was given, what was expected and what to do.

    `run.py` prints it as one line on standard error and exits with status 2, without a traceback.
    """


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_positive(config: object, *names: str, prefix: str = "") -> None:
    """Raises `UserError` naming the first field of `names` that holds anything not above zero."""
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            least = "at least 1" if isinstance(number, int) else "above 0"
            require(
                number > 0, f"--{prefix}{name.replace('_', '-')} is {number}; it must be {least}."
            )


def require_between(config: object, low: float, high: float, *names: str, prefix: str = "") -> None:
    """Raises `UserError` naming the first field of `names` that lies outside [low, high]."""
    for name in names:
        value = getattr(config, name)
        option = "--" + prefix + name.replace("_", "-")
        fits = f"lie between {low} and {high}" if high < float("inf") else f"be at least {low}"
        require(low <= value <= high, f"{option} is {value}; it must {fits}.")


def remedy(error: OSError) -> str:
    """What a person can do where the system refused; a sentence that fits most refusals."""
    for sentence, numbers in _REMEDIES.items():
        if error.errno in numbers:
            return sentence
    return "Look at the disk or name another place."
