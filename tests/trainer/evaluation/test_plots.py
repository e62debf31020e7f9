from trainer.evaluation.plots import plot


def test_points_lie_inside_the_margins_and_a_mark_is_the_nearest_point() -> None:
    found = plot("t", "x", "y", {"a": [(0.0, 0.0), (1.0, 2.0), (2.0, 1.0)]}, marks={"a": 1.2})
    (line,) = found.lines
    assert line.points[0] == (found.margin, found.height - found.margin)
    assert line.points[1] == (found.width / 2, found.margin)
    assert line.mark == line.points[1]
    assert line.bars == ()
    assert [text for _, text in found.x_ticks] == ["0", "0.5", "1", "1.5", "2"]


def test_the_axis_covers_the_intervals() -> None:
    found = plot("t", "x", "y", {"a": [(0.0, 1.0), (1.0, 1.0)]}, marks={}, intervals={"a": [(0.0, 0.5, 3.0)]})
    (line,) = found.lines
    assert line.bars == ((found.margin, found.margin, found.height - found.margin),)
    assert [text for _, text in found.y_ticks][0::4] == ["0.5", "3"]


def test_a_flat_line_has_a_place() -> None:
    found = plot("t", "x", "y", {"a": [(1.0, 1.0)]}, marks={})
    assert found.lines[0].points == ((found.margin, found.height - found.margin),)
