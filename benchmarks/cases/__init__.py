"""One file per question, each with a text ``ABOUT`` for the page and a function ``rows`` that yields its results."""
