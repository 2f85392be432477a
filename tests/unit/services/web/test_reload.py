"""`ringside recommend --reload` tells the supervisor, and nobody else."""

import json
import os
import signal
from pathlib import Path

import pytest

from services.errors import ConfigurationError
from services.settings import Settings
from services.web import reload


def test_a_reused_pid_gets_no_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *told: sent.append(told))
    settings = Settings(home=tmp_path)
    reload.StatusFile(settings)
    with pytest.raises(reload.UnavailableError):  # it is us: we don't reload
        reload.reload(settings, 0.0)
    assert sent == [(os.getpid(), signal.SIGHUP)]
    [file] = tmp_path.glob("recommend/supervisor-*.json")
    for changed in ({"since_s": 1.0}, {"pid": 2**22 + 1}):  # of before; of nobody
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))
        with pytest.raises(ConfigurationError, match="no supervisor"):
            reload.reload(settings, 0.0)
    assert len(sent) == 1
