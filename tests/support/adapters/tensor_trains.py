"""How many parameters a matrix has as a tensor train, by hand."""

DIGITS = {3: [3], 16: [16], 32: [8, 4], 48: [8, 6], 96: [12, 8]}  # the fewest of at most 16 each, the most even ones


def train(rows: int, columns: int, t: int) -> int:
    """t n_1 + t n_2 t + ... + n_d t, or n_1 alone."""
    digits = DIGITS[rows] + DIGITS[columns]
    return t * (digits[0] + digits[-1]) + t * t * sum(digits[1:-1])
