"""What the page's wiring answers, without a browser."""

from __future__ import annotations

from dreambooth.ui.page import Page


def test_a_look_that_was_asked_for_before_create_does_not_forget_what_is_awaited(desk, mini):
    """It arrives after Create has noted the new model's name, and must not put the empty one back."""
    page = Page(desk)
    page.blocks()

    def awaited_after(awaited: str):
        return page._look("mini", None, awaited)[3]

    assert awaited_after("mini") == ""
    for awaited in ("", "not there yet"):
        answer = awaited_after(awaited)
        assert answer.get("__type__") == "update" and "value" not in answer


def test_what_needs_a_model_waits_for_one(desk, models_dir):
    page = Page(desk)
    page.blocks()
    tools = page.input.tools.buttons()
    answers = page._buttons(desk.look(None), None)[-len(tools) :]
    assert [answer["interactive"] for answer in answers] == [
        button is not page.input.tools.merge_ckpt for button in tools
    ]
