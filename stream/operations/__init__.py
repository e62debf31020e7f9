"""Operations on topics: produce, ingest, export, recount, verify and redrive."""
