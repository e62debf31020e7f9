"""Vectors of a shop's own items: titles and pictures through encoders into one vector space per modality."""
