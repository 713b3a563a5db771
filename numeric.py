"""Small arithmetic that deserves a name."""


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up, for integers."""
    return -(-a // b)
