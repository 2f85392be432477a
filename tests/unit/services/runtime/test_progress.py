"""Progress in a log."""

from services.runtime.progress import ProgressLog


def test_a_log_gets_stage_ends_and_occasional_progress(caplog):
    moments = iter([0.0, 1.0, 6.0, 7.0, 8.0])
    lines = ProgressLog("fit", lambda: next(moments))
    with caplog.at_level("INFO"):
        for done in (1, 2, 3, 4):
            lines(done, 4, "als")
    assert [record.getMessage() for record in caplog.records] == ["fit: als 2/4", "fit: als 4/4"]
