"""One file per question, each with a function ``rows`` that yields its results."""
