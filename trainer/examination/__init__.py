"""Estimation of the examination curve: how likely a shopper looks at each position of a list."""
