"""The embedded policies: tiny models that come with the package, and the command that made them."""
