"""One module per command group; a command parses, builds settings and calls one function of a lower package."""
