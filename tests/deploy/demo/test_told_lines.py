from pathlib import Path

from deploy.demo.told_lines import ToldLines


def test_marked_lines_are_told_once_when_they_are_complete(tmp_path: Path) -> None:
    log = tmp_path / "shoppers.log"
    told = ToldLines(log, "truth: ")
    assert list(told.read()) == []
    log.write_text("shopping 5%\ntruth: v1\nnot truth: v0\ntru")
    assert list(told.read()) == ["v1"]
    assert list(told.read()) == []
    with log.open("a") as more:
        more.write("th: v2\ntruth: v3\n")
    assert list(told.read()) == ["v2", "v3"]
