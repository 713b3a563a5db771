"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake the user can mend: its message says what was given, what was expected and what to do.

    `run.py` prints it as one line on standard error and exits with status 2; it never shows a traceback.
    """


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_positive(config: object, *names: str) -> None:
    """Raises `UserError` naming the first of the config's fields `names` that is not above zero."""
    for name in names:
        value = getattr(config, name)
        option = "--" + name.replace("_", "-")
        require(
            value > 0,
            f"{option} is {value}; it must be at least 1."
            if isinstance(value, int)
            else f"{option} is {value}; it must be above 0.",
        )
