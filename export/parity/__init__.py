"""Whether what was exported computes what was trained."""
