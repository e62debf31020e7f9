import psycopg
import pytest


@pytest.mark.postgres
def test_server(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        row = connection.execute("select 41 + 1").fetchone()
    assert row == (42,)
