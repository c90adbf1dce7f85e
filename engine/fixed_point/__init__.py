"""Anderson-accelerated iteration to a fixed point, safeguarded, with an account of how it ended."""
