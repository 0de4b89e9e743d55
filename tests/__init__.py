"""Laws over a registry of solvers, and tests that mirror the package."""
