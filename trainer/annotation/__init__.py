"""Annotation: candidate pages for people to judge, their judgements, and what these cost."""
