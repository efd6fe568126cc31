"""What the page's buttons do, without the page."""

from __future__ import annotations

from dreambooth.jobs import jobs


def test_what_cannot_be_created_is_said_and_stays(desk, mini, done, tmp_path):
    """Also after the work has ended, with the model that is shown, and with none."""
    for shown in ("", "mini"):
        done(desk.create("new", str(tmp_path / "nowhere.safetensors"), {}, shown))
        assert "nowhere.safetensors does not exist" in desk.look(shown).status
    assert jobs.current.error
